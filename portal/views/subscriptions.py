"""The tab *Subscriptions*: a card for each, with what can be done and what is being done."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import Response

from portal import clock, models, offers, queries, render
from portal.gateways import facts
from portal.gateways.capabilities import Key
from portal.intervals import add_months
from portal.login import signed_in
from portal.policy import charged_until
from portal.queries import Cursor, Subject
from portal.render import id_text
from portal.tenancy import PortalView
from portal.views.paging import Where

# The buttons of a card in their order: the step behind each, and the wishes it can end in.
BUTTONS: dict[str, tuple[Key, ...]] = {
    "pay_now": ("pay_now",),
    "undo_cancel": ("undo_cancel",),
    "resume": ("resume",),
    "update_payment_method": ("update_payment_method",),
    "skip_next_payment": ("skip_next_payment",),
    "change_plan": ("change_plan",),
    "pause": ("pause",),
    "cancel": ("cancel_at_period_end", "cancel_now"),
}
# Where these are not to be had, the card says why at once; the rest is said below it, folded away.
_WANTED = frozenset({"pay_now", "undo_cancel", "update_payment_method", "cancel"})
_UNDER_WAY = frozenset({"claimed", "sent", "checking"})


@dataclass(frozen=True, slots=True)
class Doing:
    """How the newest action stands: pending, away, confirmed, accepted, scheduled, undone or failed."""

    stage: str
    step: str
    reference: str
    at: datetime
    error: str | None
    is_late: bool
    again_after_s: int | None  # when the piece looks again


@dataclass(frozen=True, slots=True)
class Change:
    """What is agreed and not yet so: from `on`, the new price, name or number of pieces."""

    on: date | None
    minor: int | None
    currency: str | None
    title: str | None
    quantity: int | None


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to the merchant as a card tells it."""

    ref: str
    reference: str
    kind: str  # as the steps are called
    status: str
    at: datetime
    due_at: datetime
    is_late: bool
    answer: str | None


@dataclass(frozen=True, slots=True)
class Card:
    """A subscription as it is drawn. `date_row` is the one date that matters in its state: (word, day)."""

    ref: str
    title: str | None
    label: str
    state: str
    minor: int | None
    currency: str | None
    unit: str | None
    count: int | None
    quantity: int | None
    started_at: datetime | None
    next_on: date | None
    next_minor: int | None
    next_certainty: str | None
    date_row: tuple[str, date | datetime] | None
    method: dict[str, Any] | None
    due_minor: int | None
    change: Change | None
    access_until: datetime | None
    method_visited_at: datetime | None
    offers: tuple[str, ...]  # steps that can be taken, in the order of their buttons
    by_asking: frozenset[str]  # those of them in which the shop is asked
    refusals: tuple[str, ...]  # sentences in place of buttons
    lesser: tuple[str, ...]  # the same for what fewer people want
    asks: tuple["Ask", ...]
    action: Doing | None
    retries_on: date | None
    stopped: bool
    card_expires: bool  # before the next payment


@dataclass(frozen=True, slots=True)
class CardsPage:
    live: tuple[Card, ...]
    ended: tuple[Card, ...]
    older: str | None
    older_ended: str | None
    urgent: Card | None  # the first that needs the customer
    mixed: bool


@signed_in
async def index(request: Request) -> Response:
    where, only_ended = _asked(request)
    portal = request.state.portal
    now = clock.now()
    found = await request.app.state.database.read(
        queries.subscriptions, portal.id, request.state.customer.id, now, where.cursor, only_ended
    )
    live = tuple(card(one, portal, now) for one in found.live)
    page = CardsPage(
        live=live,
        ended=tuple(card(one, portal, now) for one in found.ended),
        older=found.older,
        older_ended=found.older_ended,
        urgent=_urgent(live),
        mixed=len({one.row.currency for one in (*found.live, *found.ended) if one.row.currency}) > 1,
    )
    return render.tab(request, "subscriptions", page, where=where, only_ended=only_ended)


def _urgent(cards: tuple[Card, ...]) -> Card | None:
    failed = (one for one in cards if one.state == "past_due")
    return next(failed, None) or next((one for one in cards if one.card_expires), None)


async def one_card(request: Request, subscription_id: int) -> Card | None:
    """The card of one subscription as it is now; None where the customer has no such one."""
    now = clock.now()
    found = await request.app.state.database.read(
        queries.subject, request.state.portal.id, request.state.customer.id, subscription_id, now
    )
    return card(found, request.state.portal, now) if found else None


def _asked(request: Request) -> tuple[Where, bool]:
    """The place in the live ones (`after`) or in the ended ones (`ended`)."""
    for name in ("ended", "after"):
        text = request.query_params.get(name)
        if text is None:
            continue
        if name == "ended" and text == "first":
            return Where(None), True
        cursor = Cursor.parse(text)
        return Where(cursor, lost=cursor is None), name == "ended" and cursor is not None
    return Where(None), False


def card(found: Subject, portal: PortalView, now: datetime) -> Card:
    """What a subscription's card says and offers."""
    row = found.row
    state = offers.state_of(row)
    steps, by_asking, refusals, lesser = _offers(found, portal, now)
    next_on = _next_on(found, state, portal)
    change = row.pending_change
    return Card(
        ref=id_text(row.id),
        title=row.title,
        label=found.label,
        state=state,
        minor=row.amount_minor,
        currency=row.currency,
        unit=row.interval_unit,
        count=row.interval_count,
        quantity=row.quantity,
        started_at=row.started_at if row.started_at and row.started_at <= now else None,
        next_on=next_on,
        next_minor=row.amount_minor if row.next_minor is None else row.next_minor,
        next_certainty=row.next_certainty,
        date_row=_date_row(found, state, next_on, now),
        method=row.method,
        due_minor=row.due_minor,
        change=_change(change) if change and state not in queries.ENDED else None,
        access_until=row.access_until if row.access_until and row.access_until > now else None,
        method_visited_at=row.method_visited_at,
        offers=steps,
        by_asking=by_asking,
        refusals=refusals,
        lesser=lesser,
        asks=tuple(_ask(one) for one in found.requests),
        action=_doing(found, now),
        retries_on=row.retries_on,
        stopped=row.stopped,
        card_expires=_expires_first(row.method, next_on),
    )


def _offers(
    found: Subject, portal: PortalView, now: datetime
) -> tuple[tuple[str, ...], frozenset[str], tuple[str, ...], tuple[str, ...]]:
    """The steps to be had, and those in which the shop is asked; and why not, for those that most people could want
    and for the others."""
    if found.busy:
        return (), frozenset(), (), ()
    answers = offers.available(found.row, found.account, portal, now, asked=found.asked)
    steps: list[str] = []
    by_asking: set[str] = set()
    refusals: list[str] = []
    lesser: list[str] = []
    for step, keys in BUTTONS.items():
        asked = [answers[key] for key in keys if key in answers]
        if any(offer.ok for offer in asked):
            steps.append(step)
            if all(offer.mode == "request" for offer in asked if offer.ok):
                by_asking.add(step)
        elif found.asked.intersection(keys):
            continue  # the card tells of the request itself
        elif why := next((offer.why for offer in asked if offer.why), None):
            (refusals if step in _WANTED else lesser).append(why)
    once = dict.fromkeys(refusals)  # one reason may hold for several
    rest = (why for why in dict.fromkeys(lesser) if why not in once)
    return tuple(steps), frozenset(by_asking), tuple(once), tuple(rest)


def _ask(one: models.Request) -> Ask:
    return Ask(
        ref=id_text(one.id),
        reference=one.reference,
        kind=_step_of(one.kind),
        status=one.status,
        at=one.closed_at or one.created_at,
        due_at=one.due_at,
        is_late=one.told_late_at is not None,
        answer=one.answer,
    )


def _step_of(capability: str) -> str:
    return "cancel" if capability.startswith("cancel_") else capability


def _next_on(found: Subject, state: str, portal: PortalView) -> date | None:
    row = found.row
    owed = charged_until(row.cancel_scheduled_at, row.access_until, offers.end_of_paid(row))
    if owed is not None and row.next_on:  # cancelled with notice: payments go on until it ends
        return row.next_on if row.next_on < owed.astimezone(ZoneInfo(portal.time_zone)).date() else None
    goes_on = state in ("active", "trialing", "past_due") and row.access_until is None
    goes_on = goes_on and found.account.disconnected_at is None  # nobody tells us any more
    return row.next_on if goes_on else None


def _date_row(
    found: Subject, state: str, next_on: date | None, now: datetime
) -> tuple[str, date | datetime] | None:
    row = found.row
    if state in queries.ENDED:
        if row.access_until and row.access_until > now:
            return "access", row.access_until
        return ("ended", row.ended_at) if row.ended_at else None
    by_state: dict[str, tuple[str, date | datetime | None]] = {
        "trialing": ("trial_ends", row.trial_ends_at),
        "paused": ("resumes", row.resumes_at),
        "cancels_at_period_end": ("ends", row.cancels_at or row.access_until or row.current_period_end),
        "past_due": ("retries", row.retries_on),
    }
    word, day = by_state.get(state, ("renews", None))
    if day is not None:
        return word, day
    if row.cancels_at:
        return "ends", row.cancels_at
    if row.access_until:
        return "ends", row.access_until
    return ("renews", next_on) if next_on else None


def _change(change: dict[str, Any]) -> Change:
    return Change(
        on=date.fromisoformat(change["on"]) if change.get("on") else None,
        minor=change.get("minor"),
        currency=change.get("currency"),
        title=change.get("title"),
        quantity=change.get("quantity"),
    )


def _expires_first(method: dict[str, Any] | None, next_on: date | None) -> bool:
    """Whether the card is no longer good when the next payment is due."""
    expires = (method or {}).get("expires")
    if not expires or next_on is None:
        return False
    try:
        return next_on >= add_months(date.fromisoformat(f"{expires[:7]}-01"), 1)
    except ValueError:
        return False


def _doing(found: Subject, now: datetime) -> Doing | None:
    action = found.action
    if action is None:
        return None
    stage = _stage(found)
    if stage is None:
        return None
    age = now - action.created_at
    return Doing(
        stage=stage,
        step=_step_of(action.capability),
        reference=action.reference,
        at=action.confirmed_at or action.closed_at or action.sent_at or action.created_at,
        error=action.error,
        is_late=action.told_late_at is not None,
        again_after_s=_again_after(age) if stage in ("pending", "away") else None,
    )


def _stage(found: Subject) -> str | None:
    action = found.action
    assert action is not None
    if action.phase in _UNDER_WAY:
        return "pending"
    if action.phase == "confirmed":
        key: Key = action.capability  # type: ignore[assignment]
        proof = facts(found.account.processor).capabilities[key].proof
        return "accepted" if proof == "answer" else "confirmed"
    if action.phase == "scheduled" and found.row.cancel_scheduled_at is None:
        return None  # taken back, or carried out: that is told by an action of its own
    return action.phase if action.phase in ("away", "scheduled", "undone", "failed") else None


def _again_after(age: timedelta) -> int | None:
    """Often while it is fresh, seldom later, and not for ever: nobody is kept signed in by a page left open."""
    if age < timedelta(minutes=2):
        return 3
    return 20 if age < timedelta(minutes=30) else None
