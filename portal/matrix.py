"""Which buttons customers see, and why not: per account and wish, asked of `available()` itself, for the states that
our words know and for the subscriptions that there are. The same answers draw what changes with an option."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import func, select, union_all
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import models, tenancy
from portal.gateways import facts
from portal.gateways.capabilities import KEYS, Capability, Circumstances, Key
from portal.offers import available, circumstances_of, state_of
from portal.tenancy import PortalView
from portal.texts import gettext as _
from portal.words import circumstance_words, words

MOST = 50_000  # subscriptions of an account that are counted; beyond that the newest ones speak for all
GROUPS = 500
KEPT = "kept"  # cancelled at the processor, with access until the paid date
STATES = ("trialing", "active", "past_due", "paused", "cancels_at_period_end", KEPT, "incomplete")
_OF_PAYMENTS = ("invoice", "refunds")
LIVE = ("trialing", "active", "past_due", "paused", "cancels_at_period_end", "incomplete")


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where a fact stands, and how sure it is."""

    source: str
    checked: date
    confidence: str
    note: str | None
    document: str  # its place in docs/processors.md


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of a wish, as `available()` says it."""

    ok: bool
    mode: str
    how: str | None
    sentence: str  # how it is done, or why it is not

    @property
    def tone(self) -> str:
        if not self.ok:
            return "off"
        return {"request": "warn", "guided": "info"}.get(self.mode, "ok")


@dataclass(frozen=True, slots=True)
class Line:
    """One answer: when it is given, and to how many subscriptions now."""

    answer: Answer
    word: str
    when: tuple[str, ...]
    count: int
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Cell:
    """One account and one wish. The first line is the usual one."""

    key: Key
    name: str
    lines: tuple[Line, ...]
    of: int  # subscriptions in a state in which somebody could wish for it
    switched_off: bool

    @property
    def seen(self) -> int:
        """By how many the button is seen."""
        return sum(line.count for line in self.lines if line.answer.ok)


@dataclass(frozen=True, slots=True)
class Choice:
    """An option of the facts, and whether it is on."""

    name: str
    label: str
    help: str
    on: bool


@dataclass(frozen=True, slots=True)
class Sheet:
    """All wishes at one account."""

    account_id: int
    processor: str  # its label
    label: str
    live: bool
    disconnected: bool
    cells: tuple[Cell, ...]
    states: tuple[tuple[str, str, int], ...]  # tone, word, how many
    total: int
    about: bool  # there are more than were counted
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """What another setting of an option changes for a wish."""

    name: str
    when: tuple[str, ...]
    before: Answer | None
    after: Answer | None
    count: int


@dataclass(frozen=True, slots=True)
class _Case:
    """A subscription that is asked about: an invented one (`count` None), or one that stands for so many."""

    row: models.Subscription = field(repr=False)
    state: str
    condition: str  # in words; empty for the usual one
    count: int | None = None


def sheets(
    db: Session, portal_id: int, base_domain: str, now: datetime, only: int | None = None
) -> list[Sheet]:
    """The matrix of a portal: its connected accounts, in order; or one account of it, whatever its state."""
    portal = tenancy.portal_by_id(db, portal_id, base_domain)
    return [_sheet(db, account, portal, now) for account in _accounts(db, portal_id, only)]


def preview(
    db: Session, portal_id: int, base_domain: str, account_id: int, option: str, now: datetime
) -> list[Difference]:
    """What changes for customers when an option is turned over. LookupError for what is not there."""
    found = _accounts(db, portal_id, account_id)
    if not found or option not in facts(found[0].processor).options:
        raise LookupError(option)
    account = found[0]
    other = models.Account(**account.model_dump())
    other.options = sorted(set(account.options) ^ {option})
    portal = tenancy.portal_by_id(db, portal_id, base_domain)
    groups, _about = _groups(db, account, portal, now)
    cases = [*_invented(account, portal, now), *_invented(other, portal, now), *groups]
    return list(_differences(cases, account, other, portal, now))


def _accounts(db: Session, portal_id: int, only: int | None) -> list[models.Account]:
    row = models.Account
    which = col(row.disconnected_at).is_(None) if only is None else col(row.id) == only
    return list(
        db.execute(
            select(row)
            .where(col(row.portal_id) == portal_id, which)
            .order_by(col(row.processor), col(row.id))
        ).scalars()
    )


def _sheet(db: Session, account: models.Account, portal: PortalView, now: datetime) -> Sheet:
    groups, about = _groups(db, account, portal, now)
    cases = [*_invented(account, portal, now), *groups]
    answers = [_answers(case, account, portal, now) for case in cases]
    counts: dict[str, int] = {}
    for group in groups:
        counts[group.state] = counts.get(group.state, 0) + (group.count or 0)
    table = facts(account.processor)
    return Sheet(
        account_id=account.id,
        processor=table.label,
        label=account.label,
        live=account.live,
        disconnected=account.disconnected_at is not None,
        cells=tuple(_cell(key, cases, answers, account, portal) for key in KEYS),
        states=tuple(
            (_state_tone(state), _state_word(state), counts[state]) for state in STATES if state in counts
        ),
        total=sum(counts.values()),
        about=about,
        choices=tuple(
            Choice(name, one.label, one.help, name in account.options) for name, one in table.options.items()
        ),
    )


def _cell(
    key: Key,
    cases: list[_Case],
    answers: list[dict[Key, Answer]],
    account: models.Account,
    portal: PortalView,
) -> Cell:
    """The answers to one wish, each once: the usual one first, then those of more and more special cases."""
    when: dict[Answer, dict[str, list[str]]] = {}
    first: dict[Answer, _Case] = {}
    count: dict[Answer, int] = {}
    usual: dict[str, Answer] = {}
    for case, told in zip(cases, answers, strict=True):
        answer = told.get(key)
        if answer is None:
            continue
        first.setdefault(answer, case)
        by_condition = when.setdefault(answer, {})
        if case.count is not None:
            count[answer] = count.get(answer, 0) + case.count
        elif not case.condition:
            usual[case.state] = answer
            by_condition.setdefault("", []).append(case.state)
        elif usual.get(case.state) != answer:
            by_condition.setdefault(case.condition, []).append(case.state)
    found = tuple(
        Line(
            answer,
            _short(answer, key in account.switched_off),
            _phrases(key, by_condition, set(usual)),
            count.get(answer, 0),
            _evidence(key, first[answer].row, account, portal),
        )
        for answer, by_condition in when.items()
    )
    return Cell(key, names()[key], found, sum(count.values()), key in account.switched_off)


def _phrases(key: Key, by_condition: dict[str, list[str]], all_states: set[str] | None) -> tuple[str, ...]:
    """When an answer is given: the states, and what else has to be so."""
    found = []
    for condition, states in by_condition.items():
        named = ", ".join(_state_word(state) for state in states)
        if not condition:
            found.append(_("Any payment that went through") if key in _OF_PAYMENTS else named)
        elif set(states) == all_states:
            found.append(condition[:1].upper() + condition[1:])
        else:
            found.append(f"{named}: {condition}")
    return tuple(found) or (_("Some of those you have"),)


def _answers(case: _Case, account: models.Account, portal: PortalView, now: datetime) -> dict[Key, Answer]:
    """Every wish that makes sense for this one, with its answer."""
    label = facts(account.processor).label
    told: dict[Key, Answer] = {
        key: Answer(
            offer.ok,
            offer.mode,
            offer.how,
            _how(offer.mode, offer.how, label) if offer.ok else (offer.why or ""),
        )
        for key, offer in available(case.row, account, portal, now).items()
    }
    if case.state == "active" and case.count is None:
        told["invoice"] = _invoice(_shape("invoice", case.row, account, portal), account, portal)
        told["refunds"] = _shown(_shape("refunds", case.row, account, portal), label)
    if case.state in ("active", "trialing", "past_due"):
        told["next_payment"] = _shown(_shape("next_payment", case.row, account, portal), label)
    return told


def _shape(key: Key, row: models.Subscription, account: models.Account, portal: PortalView) -> Capability:
    return facts(account.processor).capabilities[key].under(_circumstances(key, row, account, portal))


def _circumstances(
    key: Key, row: models.Subscription, account: models.Account, portal: PortalView
) -> Circumstances:
    found = circumstances_of(row, account, portal)
    if key not in _OF_PAYMENTS:
        return found
    # These are about a payment, which is paid.
    return Circumstances("paid", found.method, found.variant, found.option, found.country, found.object)


def _evidence(key: Key, row: models.Subscription, account: models.Account, portal: PortalView) -> Evidence:
    shape = _shape(key, row, account, portal)
    place = f"docs/processors.md#{account.processor}-{key.replace('_', '-')}"
    return Evidence(shape.source, shape.checked, shape.confidence, shape.note, place)


# The words


def names() -> dict[Key, str]:
    """The wishes, as a heading names them."""
    return {
        "invoice": _("Download an invoice"),
        "update_payment_method": _("Update the payment method"),
        "cancel_now": _("Cancel at once"),
        "cancel_at_period_end": _("Cancel at the end of what is paid"),
        "undo_cancel": _("Take back a cancellation"),
        "pause": _("Pause"),
        "resume": _("Resume"),
        "skip_next_payment": _("Skip a payment"),
        "change_plan": _("Change the plan"),
        "pay_now": _("Pay what is open"),
        "next_payment": _("See the next payment"),
        "refunds": _("See refunds"),
    }


def _how(mode: str, how: str | None, label: str) -> str:
    by_help = {
        "keep": _("Here: ended at {label} at once, and access is kept until the paid date."),
        "schedule": _("Here: our job does it when the time has come; free to take back until then."),
        "calls": _("Here, by several calls to {label}."),
    }
    plain = {
        "direct": _("Here, by a call to {label}."),
        "hosted": _("On {label}'s own page; the customer comes back."),
        "emulated": _("Here, with our help."),
        "guided": _("At {label}, by steps that stand here; then it is checked."),
        "request": _("You are asked, with a reference and a date that the customer sees."),
    }
    return by_help.get(how or "", plain.get(mode, "")).format(label=label)


def _short(answer: Answer, off: bool) -> str:
    if not answer.ok:
        return _("Switched off") if off else _("Not here")
    return {
        "direct": _("Here"),
        "hosted": _("At the processor"),
        "emulated": _("Here"),
        "guided": _("By steps"),
        "request": _("You are asked"),
    }[answer.mode]


def _invoice(shape: Capability, account: models.Account, portal: PortalView) -> Answer:
    if "invoice" in account.switched_off:
        sentence = _("{shop} has switched this off. Write to {support}.")
        return Answer(
            False, shape.mode, None, sentence.format(shop=portal.name, support=portal.support_email)
        )
    label = facts(account.processor).label
    sorts = {
        "processor": _("{label}'s own document"),
        "page": _("{label}'s page of the invoice"),
        "ours": _("a document of this portal"),
    }
    offered = [sorts[one].format(label=label) for one in shape.documents or []]
    sentence = _("The first of these that there is: {documents}.") if len(offered) > 1 else "{documents}."
    text = sentence.format(documents=", ".join(offered))
    return Answer(shape.mode != "none", shape.mode, None, text[:1].upper() + text[1:])


def _shown(shape: Capability, label: str) -> Answer:
    if shape.mode == "none":
        return Answer(False, "none", None, _("{label} does not tell.").format(label=label))
    worked_out = {
        "fixed": _("Worked out here from what {label} says of the subscription."),
        "estimated": _("Estimated here; the page says so."),
        "merchant": _("From your own data: {label} knows of none."),
    }
    sentence = worked_out.get(shape.certainty or "", _("As {label} says it."))
    if shape.mode == "direct":
        sentence = _("As {label} says it.")
    return Answer(True, shape.mode, None, sentence.format(label=label))


def _state_word(state: str) -> str:
    return _("Cancelled, paid until later") if state == KEPT else words("en").subscriptions[state].word


def _state_tone(state: str) -> str:
    return "off" if state == KEPT else words("en").subscriptions[state].tone


# The cases


def _invented(account: models.Account, portal: PortalView, now: datetime) -> Iterator[_Case]:
    """One subscription for each state, and one for each circumstance of which the facts of this account speak."""
    others = _others(account)
    for state in STATES:
        yield _Case(_typical(account, state, now), state, "")
    for state in STATES:
        for name, value in others:
            row = _typical(account, state, now)
            _make(row, name, value)
            yield _Case(row, state, circumstance_words(name, value))


def _others(account: models.Account) -> list[tuple[str, Any]]:
    """The circumstances of the facts that are not the usual ones, for this kind of account and its options."""
    found: dict[tuple[str, Any], None] = {}
    for capability in facts(account.processor).capabilities.values():
        for entry in capability.when:
            if not _concerns(entry.variant, [account.variant]) or not _concerns(
                entry.option, account.options
            ):
                continue
            for name in ("method", "object"):
                for value in _listed(getattr(entry, name)):
                    found[name, value] = None
            for name, usual in (("due", False), ("token", True)):
                value = getattr(entry, name)
                if value is not None:
                    found[name, not usual] = None
    return list(found)


def _concerns(wanted: str | list[str] | None, having: Iterable[str | None]) -> bool:
    return wanted is None or any(one in having for one in _listed(wanted))


def _listed(value: str | list[str] | None) -> list[str]:
    return value if isinstance(value, list) else [value] if value else []


def _typical(account: models.Account, state: str, now: datetime) -> models.Subscription:
    """A subscription as most are: monthly, paid until in twenty days, by a way to pay of which no fact speaks."""
    until = now + timedelta(days=20)
    plan = (account.plans or [{}])[0]
    row = models.Subscription(
        portal_id=account.portal_id,
        account_id=account.id,
        remote_id="",
        placed_at=now,
        as_of=now,
        status="cancelled" if state == KEPT else state,
        amount_minor=-1,  # no plan's, so that every plan is another one
        currency=plan.get("currency"),
        interval_unit=plan.get("unit", "month"),
        interval_count=plan.get("count", 1),
        quantity=1,
        started_at=now - timedelta(days=100),
        trial_ends_at=until if state == "trialing" else None,
        current_period_end=until,
        method={"kind": None, "remote_id": "invented"},
        due_minor=1 if state in ("past_due", "incomplete") else None,
        access_until=until if state == KEPT else None,
    )
    if state == "cancels_at_period_end" and _ends_by_our_job(account):
        row.status, row.cancel_scheduled_at = "active", until
    return row


def _ends_by_our_job(account: models.Account) -> bool:
    usual = Circumstances("active", None, account.variant, frozenset(account.options))
    return facts(account.processor).capabilities["cancel_at_period_end"].under(usual).how == "schedule"


def _make(row: models.Subscription, name: str, value: Any) -> None:
    match name:
        case "method":
            row.method = {"kind": value, "remote_id": "invented"}
        case "object":
            row.object = value
        case "token":
            row.method = {"kind": None, "remote_id": "invented" if value else None}
        case "due":
            row.due_minor = 1 if value else None


def _groups(
    db: Session, account: models.Account, portal: PortalView, now: datetime
) -> tuple[list[_Case], bool]:
    """The subscriptions that go on, or that are paid until later: what `available()` looks at, and how many are so."""
    row = models.Subscription
    of_account = col(row.portal_id) == account.portal_id, col(row.account_id) == account.id
    going_on = select(row).where(*of_account, col(row.status).in_(LIVE)).limit(MOST).subquery()
    paid = select(row).where(*of_account, col(row.access_until) > now, col(row.status) == "cancelled")
    c = union_all(select(going_on), paid).subquery().c
    columns: dict[str, Any] = {
        "status": c.status,
        "scheduled": c.cancel_scheduled_at.is_not(None),
        "method_kind": c.method["kind"].as_string(),
        "has_token": c.method["remote_id"].as_string().is_not(None),
        "object": c.object,
        "is_due": func.coalesce(c.due_minor, 0) > 0,
        "has_end": func.coalesce(c.current_period_end, c.trial_ends_at).is_not(None),
    }
    if account.plans:
        names = ("amount_minor", "currency", "interval_unit", "interval_count", "quantity")
        columns |= {name: c[name] for name in names}
    if portal.cancel_policy.notice_days:
        columns |= {
            "ends_on": func.date(c.current_period_end),
            "unit": c.interval_unit,
            "number": c.interval_count,
        }
    labelled = [column.label(name) for name, column in columns.items()]
    found = db.execute(
        select(func.count().label("how_many"), *labelled)
        .group_by(*columns.values())
        .order_by(func.count().desc())
        .limit(GROUPS + 1)
    ).mappings()
    rows = list(found)
    counted = sum(one["how_many"] for one in rows)
    return [_group(account, dict(one), now) for one in rows[:GROUPS]], counted >= MOST or len(rows) > GROUPS


def _group(account: models.Account, one: dict[str, Any], now: datetime) -> _Case:
    until = now + timedelta(days=20)
    if ends_on := one.get("ends_on"):
        day = date.fromisoformat(str(ends_on))
        until = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    kept = one["status"] == "cancelled"
    row = models.Subscription(
        portal_id=account.portal_id,
        account_id=account.id,
        remote_id="",
        placed_at=now,
        as_of=now,
        status=one["status"],
        amount_minor=one.get("amount_minor"),
        currency=one.get("currency"),
        interval_unit=one.get("interval_unit") or one.get("unit"),
        interval_count=one.get("interval_count") or one.get("number"),
        quantity=one.get("quantity"),
        started_at=now - timedelta(days=100),
        current_period_end=until if one["has_end"] else None,
        cancel_scheduled_at=until if one["scheduled"] else None,
        access_until=now + timedelta(days=20) if kept else None,
        method={"kind": one["method_kind"], "remote_id": "kept" if one["has_token"] else None},
        object=one["object"],
        due_minor=1 if one["is_due"] else None,
    )
    return _Case(row, KEPT if kept else state_of(row), "", one["how_many"])


# What an option changes


def _differences(
    cases: list[_Case],
    account: models.Account,
    other: models.Account,
    portal: PortalView,
    now: datetime,
) -> Iterator[Difference]:
    found: dict[tuple[Key, Answer | None, Answer | None], list[_Case]] = {}
    for case in cases:
        before = _answers(case, account, portal, now)
        after = _answers(case, other, portal, now)
        for key in KEYS:
            if before.get(key) != after.get(key):
                found.setdefault((key, before.get(key), after.get(key)), []).append(case)
    for (key, was, becomes), ones in found.items():
        by_condition: dict[str, list[str]] = {}
        usual = {case.state for case in ones if not case.condition}
        for case in ones:
            if case.condition and case.state in usual:
                continue  # it is so in every case
            states = by_condition.setdefault(case.condition, [])
            if case.state not in states:
                states.append(case.state)
        count = sum(case.count or 0 for case in ones)
        yield Difference(names()[key], _phrases(key, by_condition, None), was, becomes, count)
