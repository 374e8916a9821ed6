"""The processor accounts of a portal: the form made from the facts, connecting, checking, changing keys, switching
off, disconnecting. Processors are asked here and in the worker, never inside a transaction."""

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import actions, clock, imports, merchants, models, webhooks
from portal.connect import new_gateway, open_gateway
from portal.gateways import facts
from portal.gateways.base import Gateway, GatewayError, Health, Registration, Unavailable
from portal.gateways.capabilities import Credential, Key, WebhookFact
from portal.ids import new_id
from portal.jobs import enqueue
from portal.merchants import Person
from portal.offers import SENSE
from portal.settings import Settings
from portal.texts import gettext as _
from portal.vault import Seal, Vault, VaultError

PATIENCE_S = 25.0  # for a check that somebody waits for
KEPT = timedelta(minutes=15)  # typed secrets, sealed, in a form that came back
CHECK_EVERY = timedelta(hours=24)
OVERLAPS = (0, 1, 24, 72)  # hours for which the keys of before still prove deliveries
SWITCHES: tuple[Key, ...] = ("invoice", *SENSE)  # what the merchant may take away per account
EVENTS_SHOWN = 5


class Late(Exception):
    """Somebody else has changed the account since this form was drawn."""


# The form


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the form, as the facts describe it."""

    name: str
    label: str
    help: str
    secret: bool
    required: bool
    pattern: str
    choices: tuple[str, ...]  # all values there are, where they can be counted
    begins: tuple[str, ...]  # how a value begins, where that is known
    lines: bool  # a value has line ends
    from_webhook: bool  # comes out of registering the webhook


def fields(processor: str, variant: str | None) -> tuple[Field, ...]:
    """The fields for one kind of account, in the order of the facts."""
    wanted = [one for one in facts(processor).credentials if one.variant in (None, variant)]
    return tuple(_field(one) for one in wanted)


def _field(one: Credential) -> Field:
    begins, whole = beginnings(one.pattern)
    return Field(
        one.name,
        _(one.label),
        _(one.help),
        one.secret,
        one.required,
        one.pattern,
        begins if whole else (),
        () if whole else begins,
        "-----BEGIN" in one.pattern,
        one.from_webhook,
    )


def beginnings(pattern: str) -> tuple[tuple[str, ...], bool]:
    """What the texts of a pattern begin with, and whether that is all of them: for people, who never see a pattern.

    Reads plain letters, alternatives of these, and what may be left out; stops at anything else.
    """
    found, rest = [""], pattern.removeprefix("^")
    while rest and rest != "$":
        part = _PART.match(rest)
        if part is None or (part["mark"] or "") not in ("", "?"):
            break
        options = _options(part)
        if options is None:
            break
        if part["mark"] == "?":
            options = ["", *options]
        found = [begun + one for begun in found for one in options]
        if len(found) > 8:
            return (), False
        rest = rest[part.end() :]
    whole = rest == "$" and len(found) > 1
    shown = [one for one in found if len(one) > 1]
    return tuple(found if whole else shown if len(shown) == len(found) else ()), whole


_PART = re.compile(
    r"(?:(?P<plain>[A-Za-z0-9_:@/ -])|\\(?P<escaped>[^A-Za-z0-9])"
    r"|\((?:\?:)?(?P<group>[A-Za-z0-9_ |-]+)\)|\[(?P<set>[A-Za-z0-9_]{1,3})\])(?P<mark>[?*+{])?"
)


def _options(part: re.Match[str]) -> list[str] | None:
    if part["group"] is not None:
        return part["group"].split("|")
    if part["set"] is not None:
        return list(part["set"])
    return [part["plain"] or part["escaped"]]


@dataclass(frozen=True, slots=True)
class Typed:
    """What somebody typed into the form; empty fields are left out. `live` None: they have not said."""

    label: str
    live: bool | None
    values: Mapping[str, str] = field(repr=False)


def tidy(value: str) -> str:
    """A value as it was meant: without the space that comes along when something is copied."""
    return value.replace("\r\n", "\n").strip()[:10_000]


def problems(
    processor: str, variant: str | None, typed: Typed, registers: bool, partly: bool = False
) -> dict[str, str]:
    """What is wrong with the shape of what was typed, by field. `registers`: what comes out of the webhook may be
    missing; `partly`: only what is there is looked at."""
    found = {}
    if not typed.label and not partly:
        found["label"] = _("Give it a name, so that you can tell your accounts apart.")
    if typed.live is None and not partly:
        found["live"] = _("Say whether these keys move real money or are for tests.")
    for one in fields(processor, variant):
        value = typed.values.get(one.name, "")
        if not value:
            if one.required and not partly and not (registers and one.from_webhook):
                found[f"key_{one.name}"] = _("“{label}” is missing.").format(label=one.label)
        elif not re.fullmatch(one.pattern, value):
            found[f"key_{one.name}"] = _unlike(one)
    return found


def _unlike(one: Field) -> str:
    if one.choices:
        sentence = _("“{label}” is one of: {choices}.")
        return sentence.format(label=one.label, choices=", ".join(one.choices))
    if one.begins:
        sentence = _(
            "This does not look like “{label}”, which begins with {begins}. Copy it once more, whole."
        )
        return sentence.format(label=one.label, begins=_either(one.begins))
    sentence = _("This does not look like “{label}”. Where to find it: {help}")
    return sentence.format(label=one.label, help=one.help)


def _either(words: tuple[str, ...]) -> str:
    if len(words) == 1:
        return words[0]
    return _("{some} or {last}").format(some=", ".join(words[:-1]), last=words[-1])


def masked(value: str) -> str:
    """All that is shown of a secret."""
    return f"••••{value[-4:]}" if len(value) >= 16 else "••••"


# A form that comes back holds no secret: they travel sealed, for a while and for this session alone.


def keep(seal: Seal, person: Person, portal_id: int, what: str, secrets: Mapping[str, str]) -> str:
    """Typed secrets as a text that only we can open, within 15 minutes and in this session."""
    if not secrets:
        return ""
    until = (clock.now() + KEPT).isoformat()
    return seal.seal({"until": until, "secrets": dict(secrets)}, _bound(person, portal_id, what))


def kept(seal: Seal, person: Person, portal_id: int, what: str, text: str) -> dict[str, str]:
    """What was kept; nothing where it is too old, another session's, or for something else."""
    opened = seal.open(text, _bound(person, portal_id, what)) if text else None
    if opened is None or datetime.fromisoformat(opened["until"]) <= clock.now():
        return {}
    return dict(opened["secrets"])


def _bound(person: Person, portal_id: int, what: str) -> str:
    return f"typed keys {person.session_id}/{portal_id}/{what}"


def coming_token(db: Session, seal: Seal, portal_id: int, processor: str) -> str:
    """The end of the webhook address that the next account of this processor gets: known before it is connected,
    because the secret that the form asks for comes from giving the processor that very address."""
    row = models.Account
    count = db.execute(
        select(func.count()).where(col(row.portal_id) == portal_id, col(row.processor) == processor)
    ).scalar_one()
    return seal.word(f"webhook {portal_id}/{processor}/{count}")


def webhook_address(settings: Settings, token: str) -> str:
    """Where a processor tells us of an account. On the installation's own name: no portal's domain has to stand."""
    return f"{settings.origin(settings.admin_host)}/webhooks/{token}"


def webhook_facts(processor: str, variant: str | None) -> list[WebhookFact]:
    return [one for one in facts(processor).webhooks if one.variant in (None, variant)]


def registers(processor: str, variant: str | None) -> bool:
    """Whether a call at the processor can give it our address."""
    return any(one.registration == "api" for one in webhook_facts(processor, variant))


# Asking the processor


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of a check. `health` is None where nobody answered; `sentence` then says why."""

    health: Health | None
    sentence: str = ""

    @property
    def good(self) -> bool:
        return self.health is not None and self.health.ok

    @property
    def in_part(self) -> bool:
        """The keys are right, and something that they should be allowed to do is missing."""
        return self.health is not None and not self.health.ok and bool(self.health.missing)


async def check(
    settings: Settings, processor: str, variant: str | None, credentials: Mapping[str, str]
) -> Checked:
    """Whether these credentials are good and for what, asked of the processor now."""
    try:
        gateway = new_gateway(settings, processor, variant, credentials)
    except ValueError:
        return Checked(_unusable())
    try:
        return await checked(processor, gateway)
    finally:
        await gateway.aclose()


async def checked(processor: str, gateway: Gateway) -> Checked:
    """The processor's word, without anything that we gave it: a refusal may repeat a key."""
    clean = _Cleaner(processor, gateway.credentials)
    try:
        async with asyncio.timeout(PATIENCE_S):
            health = await gateway.check()
    except TimeoutError:
        return Checked(None, _("It took too long to answer."))
    except GatewayError as error:
        hint = clean(error.hint or error.customer)
        nobody = isinstance(error, Unavailable) and not hint.startswith(("HTTP 401", "HTTP 403"))
        return Checked(None if nobody else Health(False, None, hint=hint), hint)
    except ValueError:
        return Checked(_unusable())
    hint = clean(health.hint or "")
    missing = tuple(clean(one) for one in health.missing)
    account = clean(health.account) if health.account else None
    return Checked(Health(health.ok, health.live, account, missing, hint or None), hint)


def _unusable() -> Health:
    """A value of the right shape that is none, such as a private key that cannot be read."""
    return Health(False, None, hint=_("These values can't be used. Compare them once more."))


class _Cleaner:
    """Takes secrets out of what a processor says."""

    def __init__(self, processor: str, credentials: Mapping[str, str]) -> None:
        secret = {one.name for one in facts(processor).credentials if one.secret}
        self._secrets = sorted(
            (value for name, value in credentials.items() if name in secret and len(value) >= 4),
            key=len,
            reverse=True,
        )

    def __call__(self, text: str) -> str:
        for one in self._secrets:
            text = text.replace(one, "••••")
        return text


# What is known of an account


def called(account: models.Account) -> str:
    """An account as the record of changes names it."""
    return f"{account.label} · {facts(account.processor).label}"


def opened(vault: Vault, account: models.Account) -> dict[str, str]:
    """The credentials of an account; none where no key of the ring opens them any more."""
    try:
        return dict(vault.open(account.portal_id, account.id, account.credentials))
    except VaultError:
        return {}


@dataclass(frozen=True, slots=True)
class Standing:
    """How an account is, as its pill and sentences say it."""

    tone: str
    word: str
    sentence: str
    missing: tuple[str, ...] = ()
    account: str | None = None  # the processor's name for it
    at: datetime | None = None


def standing(account: models.Account) -> Standing:
    """The health of an account in words."""
    if account.disconnected_at is not None:
        sentence = _("Disconnected: nothing is asked of {label} any more. What is known stays.")
        return Standing("off", _("Disconnected"), _labelled(sentence, account), at=account.disconnected_at)
    health = account.health
    if health is None:
        return Standing("info", _("Not checked yet"), _("The portal asks as soon as it can."))
    missing, name, at = tuple(health.get("missing") or ()), health.get("account"), account.checked_at
    hint = health.get("hint") or ""
    if health.get("ok") is None:
        sentence = _labelled(_("{label} did not answer the last time."), account)
        return Standing("warn", _("No answer"), f"{sentence} {hint}".strip(), missing, name, at)
    if health["ok"] and not missing:
        return Standing("ok", _("Works"), hint, (), name, at)
    if health["ok"] or missing:
        return Standing("warn", _("Works in part"), hint, missing, name, at)
    sentence = hint or _labelled(_("{label} refuses these keys."), account)
    return Standing("bad", _("Refused"), sentence, missing, name, at)


def _labelled(sentence: str, account: models.Account) -> str:
    return sentence.format(label=facts(account.processor).label)


@dataclass(frozen=True, slots=True)
class Listed:
    """A row of the list."""

    id: int
    processor: str  # its label
    label: str
    live: bool
    standing: Standing
    last_event_at: datetime | None
    webhook: str  # how events come, in words
    disconnected: bool


def listed(db: Session, portal_id: int) -> list[Listed]:
    """The accounts of a portal, the connected ones first."""
    row = models.Account
    found = db.execute(
        select(row, _last_event_at())
        .where(col(row.portal_id) == portal_id)
        .order_by(col(row.disconnected_at).is_not(None), col(row.processor), col(row.id))
    ).all()
    return [
        Listed(
            account.id,
            facts(account.processor).label,
            account.label,
            account.live,
            standing(account),
            last,
            webhook_words(account, last),
            account.disconnected_at is not None,
        )
        for account, last in found
    ]


def _last_event_at() -> Any:
    """The newest event of an account: one step into the index for each of them."""
    event = models.Event
    return (
        select(col(event.received_at))
        .where(col(event.account_id) == col(models.Account.id))
        .order_by(col(event.received_at).desc())
        .limit(1)
        .correlate(models.Account)
        .scalar_subquery()
    )


def webhook_words(account: models.Account, last: datetime | None) -> str:
    """How events come in, in a few words."""
    if account.disconnected_at is not None:
        return _("Closed")
    if account.webhook_remote:
        return _("Registered by the portal")
    if last is not None:
        return _("Events come in")
    sorts = {one.registration for one in webhook_facts(account.processor, account.variant)}
    if not sorts:
        return _("None here; the portal asks regularly")
    return _("Nothing to register") if sorts == {"per_object"} else _("Nothing has come yet")


def get(db: Session, portal_id: int, account_id: int) -> models.Account | None:
    """An account, found through its portal."""
    row = models.Account
    return db.execute(
        select(row).where(col(row.portal_id) == portal_id, col(row.id) == account_id)
    ).scalar_one_or_none()


@dataclass(frozen=True, slots=True)
class EventRow:
    id: int
    type: str
    received_at: datetime
    tone: str
    word: str
    error: str | None


def last_events(db: Session, account_id: int) -> list[EventRow]:
    """What came in last, newest first."""
    row = models.Event
    found = db.execute(
        select(
            col(row.id),
            col(row.type),
            col(row.received_at),
            col(row.handled_at),
            col(row.parked_at),
            col(row.error),
        )
        .where(col(row.account_id) == account_id)
        .order_by(col(row.received_at).desc(), col(row.id).desc())
        .limit(EVENTS_SHOWN)
    ).all()
    return [
        EventRow(one.id, one.type, one.received_at, *_event_state(one.handled_at, one.parked_at), one.error)
        for one in found
    ]


def repeated_at(db: Session, account_id: int) -> datetime | None:
    """When an event that was known already came once more: some processors send an old one as a test."""
    found = db.get(models.Setting, webhooks.repeat_name(account_id))
    return found.at if found else None


def _event_state(handled: datetime | None, parked: datetime | None) -> tuple[str, str]:
    if parked is not None:
        return "bad", _("Set aside")
    return ("ok", _("Handled")) if handled is not None else ("info", _("Waiting"))


def shown_keys(account: models.Account, vault: Vault) -> list[tuple[Field, str]]:
    """Each field with what may be seen of its value: of secrets the last four characters."""
    values = opened(vault, account)
    return [
        (one, _shown(one, values.get(one.name, ""))) for one in fields(account.processor, account.variant)
    ]


def _shown(one: Field, value: str) -> str:
    return masked(value) if value and one.secret else value


@dataclass(frozen=True, slots=True)
class Twin:
    """An account of this portal that seems to be the one that is being connected."""

    id: int
    label: str
    certain: bool  # the very same values
    disconnected: bool


def twin(
    db: Session,
    vault: Vault,
    portal_id: int,
    processor: str,
    variant: str | None,
    values: Mapping[str, str],
    health: Health | None,
    but: int | None = None,
) -> Twin | None:
    """Whether these credentials are connected in this portal already: the same values, the same key, or the same
    account by the processor's word."""
    row = models.Account
    found = db.execute(
        select(row)
        .where(col(row.portal_id) == portal_id, col(row.processor) == processor)
        .order_by(col(row.id))
    ).scalars()
    likely = None
    for one in found:
        if one.id == but or one.variant != variant:
            continue
        theirs = opened(vault, one)
        gone = one.disconnected_at is not None
        if theirs and theirs == dict(values):
            return Twin(one.id, one.label, True, gone)
        if likely is None and _alike(processor, one, theirs, values, health):
            likely = Twin(one.id, one.label, False, gone)
    return likely


def _alike(
    processor: str,
    account: models.Account,
    theirs: Mapping[str, str],
    values: Mapping[str, str],
    health: Health | None,
) -> bool:
    named = (account.health or {}).get("account"), health.account if health else None
    if named[0] and named[1]:
        same_mode = health is None or health.live is None or health.live == account.live
        return named[0] == named[1] and same_mode
    main = next((one.name for one in facts(processor).credentials if one.secret and one.name in values), None)
    return main is not None and theirs.get(main) == values[main]


# Connecting


@dataclass(frozen=True, slots=True)
class New:
    """What is to be connected."""

    processor: str
    variant: str | None
    label: str
    live: bool
    token: str
    values: Mapping[str, str] = field(repr=False)
    health: Health | None = None


def connect(db: Session, vault: Vault, person: Person, portal_id: int, new: New, now: datetime) -> int:
    """Keep a new account, sealed, and want everything that its processor lists."""
    row = models.Account
    taken = db.execute(select(col(row.id)).where(col(row.token) == new.token)).first()
    if taken is not None:
        raise Late
    account = models.Account(
        id=new_id(),
        portal_id=portal_id,
        processor=new.processor,
        label=new.label,
        variant=new.variant,
        live=new.live,
        token=new.token,
        credentials=b"",
        options=[],
        switched_off=[],
        created_at=now,
    )
    account.credentials = vault.seal(portal_id, account.id, new.values)
    _note(account, new.health, "", now)
    db.add(account)
    db.flush()
    _want_everything(db, account, now)
    _want_check(db, account, now)
    merchants.audit(
        db,
        person,
        "account.connected",
        subject=called(account),
        after={
            "processor": facts(account.processor).label,
            "live": account.live,
            **_masked_values(account, new.values),
        },
        portal_id=portal_id,
    )
    return account.id


def _masked_values(account: models.Account, values: Mapping[str, str]) -> dict[str, str]:
    """Credentials as they may stand in the record of changes."""
    return {
        one.label: _shown(one, values[one.name])
        for one in fields(account.processor, account.variant)
        if values.get(one.name)
    }


def lists(processor: str, variant: str | None) -> bool:
    """Whether the processor lists anything of the past."""
    return any(one.variant in (None, variant) for one in facts(processor).backfill)


def _want_everything(db: Session, account: models.Account, now: datetime) -> None:
    if lists(account.processor, account.variant):
        imports.start(db, account, now, None)


def _want_check(db: Session, account: models.Account, now: datetime) -> None:
    """Where nobody answered, ask again soon."""
    if account.health is None or account.health.get("ok") is None:
        enqueue(db, "check_account", {"account": account.id, "tries": 0}, now + timedelta(minutes=2), None)


def _note(account: models.Account, health: Health | None, sentence: str, now: datetime) -> None:
    """Write down what a check said; where nobody answered, what was known of the account stays."""
    before = account.health or {}
    account.checked_at = now
    if health is None:
        known: dict[str, Any] = {"live": before.get("live"), "account": before.get("account"), "missing": []}
        account.health = {"ok": None, **known, "hint": sentence or None}
        return
    account.health = {
        "ok": health.ok,
        "live": health.live,
        "account": health.account or before.get("account"),
        "missing": list(health.missing),
        "hint": health.hint,
    }
    if health.ok and health.live is not None:
        account.live = health.live  # its word, where it could not be asked at first


# Checking again


def noted(db: Session, account_id: int, result: Checked, now: datetime) -> None:
    """Keep what a check said. The merchant is told when keys stop working."""
    account = db.get_one(models.Account, account_id)
    if account.disconnected_at is not None:
        return
    worked = (account.health or {}).get("ok") is True
    _note(account, result.health, result.sentence, now)
    if worked and result.health is not None and not result.health.ok:
        text = _("The keys of “{name}” do not work any more.").format(name=account.label)
        enqueue(
            db,
            "mail",
            {
                "template": "merchant_notice",
                "account": account.id,
                "text": f"{text} {result.sentence}".strip(),
            },
            now,
            f"merchant_notice:health:{account.id}:{now.date().isoformat()}",
        )


async def check_account(worker: Any, payload: dict[str, Any]) -> None:
    """The job: ask how an account is; where nobody answers, again a few times, each time later."""
    account = await worker.database.read(_by_id, payload["account"])
    gateway = open_gateway(worker.settings, worker.vault, account, patient=True)
    try:
        result = await checked(account.processor, gateway)
    finally:
        await gateway.aclose()
    await worker.database.write(noted, account.id, result, clock.now())
    tries = payload.get("tries")
    if result.health is None and tries is not None and tries < 6:
        later = clock.now() + timedelta(minutes=2 * 2**tries)
        await worker.database.write(_ask_later, account.id, tries + 1, later)


def _by_id(db: Session, account_id: int) -> models.Account:
    return db.get_one(models.Account, account_id)


def _ask_later(db: Session, account_id: int, tries: int, at: datetime) -> None:
    enqueue(db, "check_account", {"account": account_id, "tries": tries}, at, None)


def keep_house(db: Session, now: datetime) -> None:
    """Regularly: keys of before whose time is over go, and who has not been asked for a day is asked."""
    row = models.Account
    db.execute(
        update(row)
        .where(col(row.previous_until) <= now, col(row.previous_credentials).is_not(None))
        .values(previous_credentials=None, previous_until=None)
    )
    due = db.execute(
        select(col(row.id)).where(
            col(row.disconnected_at).is_(None),
            col(row.checked_at).is_(None) | (col(row.checked_at) <= now - CHECK_EVERY),
        )
    ).scalars()
    for account_id in due:
        enqueue(
            db,
            "check_account",
            {"account": account_id},
            now,
            f"check_account:{account_id}:{now.date().isoformat()}",
        )


# Changing keys


@dataclass(frozen=True, slots=True)
class Change:
    """New values for some fields, and which are to be emptied."""

    values: Mapping[str, str] = field(repr=False)
    removed: frozenset[str] = frozenset()

    def onto(self, before: Mapping[str, str]) -> dict[str, str]:
        left = {name: value for name, value in before.items() if name not in self.removed}
        return {**left, **self.values}


def rotate(
    db: Session,
    vault: Vault,
    person: Person,
    portal_id: int,
    account_id: int,
    version: int,
    change: Change,
    overlap: timedelta,
    result: Checked,
    now: datetime,
) -> None:
    """Put new keys in the place of the old ones, which go on proving deliveries for the overlap. A disconnected account
    comes back by it."""
    account = _claimed(db, portal_id, account_id, version)
    before = opened(vault, account)
    after = change.onto(before)
    back = account.disconnected_at is not None
    keeps_old = overlap > timedelta(0) and bool(before) and not back
    account.previous_credentials = vault.seal(portal_id, account_id, before) if keeps_old else None
    account.previous_until = now + overlap if keeps_old else None
    account.credentials = vault.seal(portal_id, account_id, after)
    account.disconnected_at = None
    _note(account, result.health, result.sentence, now)
    if back:
        _want_everything(db, account, now)
    _want_check(db, account, now)
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    merchants.audit(
        db,
        person,
        "account.reconnected" if back else "account.keys_changed",
        subject=called(account),
        before=_masked_values(account, {name: before[name] for name in changed if name in before}),
        after={
            **_masked_values(account, {name: after[name] for name in changed if name in after}),
            **({"old ones until": account.previous_until.isoformat()} if account.previous_until else {}),
        },
        portal_id=portal_id,
    )


def _claimed(db: Session, portal_id: int, account_id: int, version: int) -> models.Account:
    """The account under its lock, if nobody has changed it since; LookupError where there is none, Late else."""
    row = models.Account
    taken = db.execute(
        update(row)
        .where(col(row.portal_id) == portal_id, col(row.id) == account_id, col(row.version) == version)
        .values(version=version + 1)
        .returning(col(row.id))
    ).first()
    account = get(db, portal_id, account_id)
    if account is None:
        raise LookupError(account_id)
    if taken is None:
        raise Late
    return account


# What the merchant takes away or adds


def change(
    db: Session,
    person: Person,
    portal_id: int,
    account_id: int,
    version: int,
    label: str,
    options: Iterable[str],
    switched_off: Iterable[str],
) -> None:
    """Name, options and what customers may not do."""
    account = _claimed(db, portal_id, account_id, version)
    table = facts(account.processor)
    wanted: dict[str, Any] = {
        "label": label,
        "options": [name for name in table.options if name in set(options)],
        "switched_off": [key for key in SWITCHES if key in set(switched_off)],
    }
    now_is = {"label": account.label, "options": account.options, "switched_off": account.switched_off}
    changed = {name for name, value in wanted.items() if value != now_is[name]}
    for name in changed:
        setattr(account, name, wanted[name])
    if changed:
        merchants.audit(
            db,
            person,
            "account.changed",
            subject=called(account),
            before={name: now_is[name] for name in changed},
            after={name: wanted[name] for name in changed},
            portal_id=portal_id,
        )


def last_change(db: Session, person: Person, account: models.Account) -> models.Audit | None:
    """Who changed an account last, among the newest changes of the merchant."""
    row = models.Audit
    newest = (
        select(col(row.id))
        .where(col(row.merchant_id) == person.merchant_id)
        .order_by(col(row.id).desc())
        .limit(200)
    )
    return db.execute(
        select(row)
        .where(
            col(row.id).in_(newest),
            col(row.portal_id) == account.portal_id,
            col(row.what).like("account.%"),
            col(row.subject) == called(account),
        )
        .order_by(col(row.id).desc())
        .limit(1)
    ).scalar_one_or_none()


# Webhooks by the processor's API


async def register(
    settings: Settings, vault: Vault, account: models.Account
) -> tuple[Registration | None, str]:
    """Have the processor tell our address everything; what it answered, or a sentence why it did not."""
    gateway = open_gateway(settings, vault, account)
    clean = _Cleaner(account.processor, gateway.credentials)
    try:
        async with asyncio.timeout(PATIENCE_S):
            address = webhook_address(settings, account.token)
            done = await gateway.register_webhook(address, f"portal-webhook-{account.id}-{account.version}")
    except TimeoutError:
        return None, _("It took too long to answer. Try again: there will be one webhook all the same.")
    except GatewayError as error:
        return None, clean(error.hint or error.customer)
    finally:
        await gateway.aclose()
    return done, done.note


def registered(
    db: Session,
    vault: Vault,
    person: Person,
    portal_id: int,
    account_id: int,
    done: Registration,
    now: datetime,
) -> None:
    """Keep what came out of a registration. A secret of before still proves what is on its way."""
    account = get(db, portal_id, account_id)
    if account is None or account.disconnected_at is not None:
        raise LookupError(account_id)
    before = vault.open(portal_id, account_id, account.credentials)
    after = {**before, **done.credentials}
    if after != before:
        if any(before.get(name) for name in done.credentials):
            account.previous_credentials = vault.seal(portal_id, account_id, before)
            account.previous_until = now + timedelta(hours=24)
        account.credentials = vault.seal(portal_id, account_id, after)
        account.version += 1
    account.webhook_remote = done.remote_id
    _keep_note(db, account_id, done.note, now)
    merchants.audit(db, person, "account.webhook_registered", subject=called(account), portal_id=portal_id)


def _keep_note(db: Session, account_id: int, note: str, now: datetime) -> None:
    name = f"webhook_note:{account_id}"
    found = db.get(models.Setting, name)
    if found is not None:
        db.delete(found)
        db.flush()
    if note:
        db.add(models.Setting(name=name, value=note, at=now))


def webhook_note(db: Session, account_id: int) -> str:
    """What is left to do by hand after a registration."""
    found = db.get(models.Setting, f"webhook_note:{account_id}")
    return found.value if found else ""


async def ask_for_test(
    settings: Settings, vault: Vault, account: models.Account
) -> tuple[Literal["asked", "refused"], str]:
    """Ask the processor for a delivery that changes nothing: which event will come, or why none does."""
    gateway = open_gateway(settings, vault, account)
    clean = _Cleaner(account.processor, gateway.credentials)
    try:
        async with asyncio.timeout(PATIENCE_S):
            kind = await gateway.send_test_event(account.webhook_remote)
    except TimeoutError:
        return "refused", _("It took too long to answer.")
    except GatewayError as error:
        return "refused", clean(error.hint or error.customer)
    finally:
        await gateway.aclose()
    if kind is None:
        return "refused", _("There is no test event to be had now. The next real event shows that it works.")
    return "asked", kind


# Disconnecting


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is under way at an account that is to be disconnected."""

    scheduled: int  # cancels that our own job was to carry out
    open: int  # wishes that are not proven yet


def waiting(db: Session, account_id: int) -> Waiting:
    row, action = models.Subscription, models.Action
    scheduled = db.execute(
        select(func.count()).select_from(row).where(*actions.scheduled(account_id))
    ).scalar_one()
    unproven = db.execute(
        select(func.count()).where(
            col(action.closed_at).is_(None), col(action.account_id) == account_id, col(action.phase) != "away"
        )
    ).scalar_one()
    return Waiting(scheduled, unproven)


async def unregister(settings: Settings, vault: Vault, account: models.Account) -> bool:
    """Take away the webhook that we registered; False where it is still there."""
    if account.webhook_remote is None:
        return True
    try:
        gateway = open_gateway(settings, vault, account)
    except VaultError:
        return False
    try:
        async with asyncio.timeout(PATIENCE_S):
            await gateway.unregister_webhook(account.webhook_remote)
    except (TimeoutError, GatewayError):
        return False
    finally:
        await gateway.aclose()
    return True


def disconnect(
    db: Session, vault: Vault, person: Person, portal_id: int, account_id: int, now: datetime
) -> int:
    """Forget the keys and stop asking; what is known stays. How many cancels the merchant now has to make."""
    account = get(db, portal_id, account_id)
    if account is None:
        raise LookupError(account_id)
    if account.disconnected_at is not None:
        return 0
    account.disconnected_at = now
    account.credentials = vault.seal(portal_id, account_id, {})
    account.previous_credentials = account.previous_until = account.webhook_remote = None
    account.version += 1
    _keep_note(db, account_id, "", now)
    imports.let_go(db, account_id, now)
    handed = actions.hand_over(db, account, now)
    merchants.audit(
        db,
        person,
        "account.disconnected",
        subject=called(account),
        before={"processor": facts(account.processor).label},
        after={"cancels handed to you": handed} if handed else None,
        portal_id=portal_id,
    )
    return handed
