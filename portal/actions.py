"""What a customer may do, and doing it: `available` draws the buttons and guards the POSTs, `perform` does the rest.

The row of an action is committed before any call and its id is the idempotency key of every try. What has happened is
what the processor says when it is asked again; a time-out is unknown until then.
"""

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import structlog
from itsdangerous import BadSignature, Signer
from sqlalchemy import select, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, models, outgoing, requests, sync
from portal.connect import open_gateway, simulator
from portal.db import Database, beside, moment
from portal.gateways import adapter, facts
from portal.gateways.base import (
    Gateway,
    GatewayError,
    Gone,
    Interval,
    Leave,
    Snapshot,
    SubscriptionStatus,
    Unavailable,
)
from portal.gateways.capabilities import Key
from portal.ids import new_id, new_reference
from portal.jobs import enqueue
from portal.money import Money
from portal.offers import SENSE, Offer, available, end_of_paid
from portal.policy import Notice
from portal.settings import Settings
from portal.tenancy import PortalView
from portal.texts import gettext as _
from portal.vault import Vault

log = structlog.get_logger()

LEAD = timedelta(hours=72)  # a scheduled cancel runs this long before the next charge
TOO_LATE = timedelta(hours=24)  # with less than this left, a cancel is not scheduled but done
PROVEN_WITHIN = timedelta(minutes=15)
GIVE_UP = timedelta(hours=24)  # after this long, a wish that could not be carried out is given back
TWICE = timedelta(minutes=1)  # within which the same button is the same wish
LEASE = timedelta(seconds=20)  # of who makes a call; renewed while it lasts, so it ends soon after who died
# What can be sent later as well, when the customer has gone.
ALONE = frozenset(
    {"cancel_now", "cancel_at_period_end", "undo_cancel", "pause", "resume", "skip_next_payment"}
)
LATE = timedelta(hours=1)  # after a promised end we look whether it came
ENDED = ("cancelled", "expired")


class Refused(Exception):
    """The wish cannot be taken; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Done:
    """How far a wish has come: its row (of the action, or of the request where `phase` is asked), and where the
    customer goes on, if anywhere."""

    action_id: int
    phase: str
    leave: Leave | None = None


# Doing it


async def perform(
    database: Database,
    settings: Settings,
    vault: Vault,
    portal: PortalView,
    customer_id: int,
    subscription_id: int,
    key: Key,
    params: Mapping[str, Any] | None = None,
) -> Done:
    """Carry out a wish as far as it goes now.

    Refused says why it cannot be taken; LookupError, that there is no such subscription of theirs.
    """
    claimed = await database.write(
        claim, portal, customer_id, subscription_id, key, dict(params or {}), clock.now()
    )
    if claimed.phase != "claimed":
        return Done(claimed.action_id, claimed.phase)
    back = _return_url(settings, portal, claimed.state)
    try:
        return await carry_out(database, settings, vault, claimed.action_id, return_url=back)
    except DBAPIError as error:
        # The wish is written down and perhaps sent, only not how it went: the worker reads it back.
        log.warning("an action is left to the worker", action=claimed.action_id, error=type(error).__name__)
        return Done(claimed.action_id, "checking")


@dataclass(frozen=True, slots=True)
class Claimed:
    action_id: int
    phase: str
    state: str | None = None


def claim(
    db: Session,
    portal: PortalView,
    customer_id: int,
    subscription_id: int,
    key: Key,
    params: dict[str, Any],
    now: datetime,
) -> Claimed:
    """Take a wish, under the row's lock and before any call: `available` is asked again, one may be open at a time.
    A button that is pressed twice is one wish."""
    row = _locked(db, portal.id, customer_id, subscription_id)
    account = db.get_one(models.Account, row.account_id)
    _let_go_of_visits(db, row, now)
    asked = frozenset(
        one.kind
        for one in requests.about(db, portal.id, customer_id, [row.id], now).get(row.id, [])
        if one.closed_at is None
    )
    busy = _open_action(db, row.id) is not None
    offer = available(row, account, portal, now, busy, asked).get(key)
    is_open = offer is not None and offer.ok and (key != "change_plan" or _plan(offer, params) is not None)
    if not is_open and (same := _just_pressed(db, row.id, customer_id, key, params, now)):
        return Claimed(same.id, "checking" if same.phase == "claimed" else same.phase)
    if offer is None:
        raise Refused(_("This subscription has changed meanwhile. Nothing was done."))
    if not offer.ok:
        raise Refused(offer.why or _("This isn't possible for this subscription."))
    if offer.mode == "request":
        return _ask_merchant(db, row, customer_id, key, {**params, **_noticed(row, offer)}, now)
    action = models.Action(
        portal_id=portal.id,
        account_id=account.id,
        customer_id=customer_id,
        subscription_id=row.id,
        capability=key,
        how=offer.how,
        reference=new_reference(),
        params={**params, **_before(row), **_chosen(offer, params), **_noticed(row, offer)},
        phase="claimed",
        created_at=now,
    )
    if key in ("cancel_now", "cancel_at_period_end"):
        outgoing.of_action(db, "subscription.cancel_requested", action, now)
    state = None
    if offer.how in ("keep", "schedule") or (key == "cancel_at_period_end" and offer.how == "calls"):
        _plan_ahead(db, row, action, adapter(account.processor).pauses_until_cancel, now, offer.notice)
    if offer.mode == "hosted" or (key == "update_payment_method" and offer.mode == "emulated"):
        state = secrets.token_urlsafe(32)
        action.state_hash = _hash(state)
    if offer.mode == "guided":
        _guided(row, action, offer, now)
    if action.phase == "claimed":
        action.lease_until = now + LEASE
    db.add(action)
    try:
        db.flush()
    except IntegrityError as error:
        raise Refused(_("Another change is still being checked.")) from error
    if action.closed_at is None and action.phase != "scheduled":
        wait = LEASE if action.phase == "claimed" else timedelta(seconds=1)
        enqueue(db, "read_back", {"action": action.id}, now + wait, f"read_back:{action.id}")
    return Claimed(action.id, action.phase, state)


def _just_pressed(
    db: Session, subscription_id: int, customer_id: int, key: Key, params: Mapping[str, Any], now: datetime
) -> models.Action | None:
    """The same wish of the same person, a moment ago, with nothing after it: its second click is no wish of its own,
    and is told how the first one stands."""
    row = models.Action
    last = db.execute(
        select(row)
        .where(col(row.subscription_id) == subscription_id)
        .order_by(col(row.created_at).desc())
        .limit(1)
    ).scalar_one_or_none()
    if last is None or (last.capability, last.customer_id) != (key, customer_id):
        return None
    is_same = last.params.get("plan") == params.get("plan") and now - last.created_at < TWICE
    return (
        last if is_same and last.phase in ("claimed", "sent", "checking", "scheduled", "confirmed") else None
    )


def _before(row: models.Subscription) -> dict[str, Any]:
    """How things stand before a wish, by which is seen later that it came true."""
    return {
        "method_before": (row.method or {}).get("remote_id"),
        "next_before": row.next_on.isoformat() if row.next_on else None,
        "title": row.title,
        "was": row.status,
    }


def _noticed(row: models.Subscription, offer: Offer) -> dict[str, Any]:
    """What the customer was told of a notice that is to be kept: when it ends, and what is taken until then."""
    if offer.notice is None:
        return {}
    return {
        "notice": {
            "days": offer.notice.days,
            "ends_on": offer.notice.ends_on.isoformat() if offer.notice.ends_on else None,
            "charges": [day.isoformat() for day in offer.notice.charges],
            "minor": row.amount_minor if row.next_minor is None else row.next_minor,
            "currency": row.currency,
        }
    }


def _chosen(offer: Offer, params: Mapping[str, Any]) -> dict[str, Any]:
    """The plan of the merchant's list that was chosen, whole; Refused where it is not on the list any more."""
    if offer.key != "change_plan":
        return {}
    plan = _plan(offer, params)
    if plan is None:
        raise Refused(_("Choose one of the plans."))
    return {"change": plan}


def _plan(offer: Offer, params: Mapping[str, Any]) -> dict[str, Any] | None:
    return next((plan for plan in offer.plans if plan["title"] == params.get("plan")), None)


def _ask_merchant(
    db: Session,
    row: models.Subscription,
    customer_id: int,
    key: str,
    params: Mapping[str, Any],
    now: datetime,
) -> Claimed:
    said = "\n".join(text for text in (params.get("reason"), params.get("comment")) if text)
    try:
        found = requests.ask(
            db,
            row.portal_id,
            row.account_id,
            customer_id,
            row.id,
            key,
            row.title or "",
            now,
            words=said,
            params={
                **_before(row),
                **{name: params[name] for name in ("reason", "notice") if params.get(name)},
            },
        )
    except requests.AlreadyAsked as error:
        raise Refused(_("This is asked already.")) from error
    return Claimed(found.id, "asked")


def ask_for_offer(
    db: Session, portal: PortalView, customer_id: int, subscription_id: int, reason: str, now: datetime
) -> None:
    """The customer wants what the merchant offers to who names this reason, and nothing here can give it: ask.

    LookupError where there is no such subscription of theirs or no such offer, Refused where it is asked already.
    """
    row = _locked(db, portal.id, customer_id, subscription_id)
    offer = next((one for one in portal.save_offers if one.reason == reason and one.kind == "ask"), None)
    if offer is None or row.status in ENDED:
        raise LookupError(reason)
    kept = {**_before(row), "reason": reason, "offer": offer.text}
    about = (row.portal_id, row.account_id, customer_id, row.id)
    try:
        requests.ask(db, *about, "offer", row.title or "", now, words=offer.text, params=kept)
    except requests.AlreadyAsked as error:
        raise Refused(_("You have asked {shop} for this.").format(shop=portal.name)) from error


def _guided(row: models.Subscription, action: models.Action, offer: Offer, now: datetime) -> None:
    """The customer says that they did it at the processor: look, where looking tells anything."""
    action.params = {**action.params, "guided": True}
    action.phase, action.sent_at = "checking", now
    if offer.proof == "next_charge":
        row.method_visited_at = now
        action.phase, action.closed_at = "visited", now


def _plan_ahead(
    db: Session,
    row: models.Subscription,
    action: models.Action,
    pauses: bool,
    now: datetime,
    notice: Notice | None = None,
) -> None:
    """Our part of an emulated cancel at period end: keep the access first, and put the job in its place.

    Where our job is all there is until then (it does not pause, and no call ends the charges), nothing is sent now.
    With a notice to be kept it is the end of a later period; what is due until then is charged.
    """
    if action.capability == "undo_cancel":
        _unschedule(db, row, action, now)
        return
    end = end_of_paid(row)
    assert end is not None
    if notice is not None and notice.ends_on and notice.paid_until:
        end += notice.ends_on - notice.paid_until
    too_late = end - now < TOO_LATE or row.status == "past_due"
    row.access_until = max(end, now)
    if action.how == "keep" or too_late:
        action.how = "keep"
        return
    waits = action.how == "schedule" and not pauses
    row.cancel_scheduled_at = max(now, end - LEAD) if waits else end
    enqueue(
        db,
        "scheduled_cancel",
        {"subscription": row.id, "action": action.id},
        row.cancel_scheduled_at,
        f"scheduled_cancel:{action.id}",
    )
    if waits:
        action.phase = "scheduled"
        action.closed_at = now  # nothing is open at the processor; the job opens its own action
        action.confirmed_at = now
        enqueue_mail(db, action, "cancelled", now)


def _unschedule(db: Session, row: models.Subscription, action: models.Action, now: datetime) -> None:
    row.cancel_scheduled_at = None
    row.access_until = None
    action.phase = "undone"
    action.confirmed_at = action.closed_at = now
    enqueue_mail(db, action, "cancel_undone", now)


async def carry_out(
    database: Database,
    settings: Settings,
    vault: Vault,
    action_id: int,
    return_url: str = "",
    patient: bool = False,
) -> Done:
    """The call of a claimed action and what came of it. Also what the worker does again, with the same key."""
    action, row, account = await database.read(_with_account, action_id)
    gateway = open_gateway(settings, vault, account, patient=patient)
    try:
        word = gateway.foretold(_method(action), sync.ref_of(row))
        if not await database.write(_take_lease, action_id, again=patient, now=clock.now(), word=word):
            return Done(action_id, action.phase)
        async with _holding(database, action_id):
            answer = await _call(gateway, action, row, return_url)
    except GatewayError as error:
        phase = await database.write(_failed, action_id, error, clock.now())
        return Done(action_id, phase)
    finally:
        await gateway.aclose()
    if isinstance(answer, Leave):
        return await _go_away(database, settings, account, action_id, answer)
    phase = await database.write(_answered, action_id, answer, clock.now())
    return Done(action_id, phase)


async def _call(
    gateway: Gateway, action: models.Action, row: models.Subscription, return_url: str
) -> Snapshot | Leave:
    ref = sync.ref_of(row)
    key = f"portal-{action.id}"
    if action.capability == "update_payment_method":
        return await gateway.start_method_update(ref, return_url, key)
    if action.capability == "pay_now":
        return await gateway.pay_now(ref, return_url, key)
    if action.capability == "change_plan":
        return await gateway.change_plan(ref, wish_of(action.params["change"]), return_url, key)
    answer: Snapshot | Leave = await getattr(gateway, _method(action))(ref, key)
    return answer


def _method(action: models.Action) -> str:
    """The call by which a wish is fulfilled."""
    return {"keep": "cancel_now", "schedule": "pause"}.get(action.how or "", action.capability)


def wish_of(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A plan of the merchant's list as a gateway takes it."""
    wish: dict[str, Any] = {
        "amount": Money(plan["minor"], plan["currency"]),
        "interval": Interval(plan["unit"], plan["count"]),
    }
    return wish | {name: plan[name] for name in ("plan", "quantity") if plan.get(name)}


async def _go_away(
    database: Database, settings: Settings, account: models.Account, action_id: int, leave: Leave
) -> Done:
    stand_in = simulator(settings, account.processor)
    addresses = {"simulator": stand_in} if stand_in else None
    table = facts(account.processor)
    by_script = leave.script is not None and table.allows_script(leave.script.src, addresses)
    by_link = bool(leave.url) and table.allows_link(leave.url, addresses)
    if not (by_link or (by_script and not leave.url)) or (leave.script and not by_script):
        error = GatewayError(
            _("The payment company's page can't be opened at the moment. Nothing was changed."),
            "The processor gave an address outside its own hosts.",
        )
        return Done(action_id, await database.write(_failed, action_id, error, clock.now()))
    await database.write(_away, action_id, dict(leave.state), clock.now())
    return Done(action_id, "away", leave)


def _take_lease(db: Session, action_id: int, again: bool, now: datetime, word: str = "") -> bool:
    """Only one process calls for an action at a time; a second try waits until the first one's lease has run out. The
    database's clock says when. `word`: what the merchant is to know of it, whoever lives to hear the answer."""
    at = moment(db)
    free = col(models.Action.lease_until) <= at if again else col(models.Action.phase) == "claimed"
    taken = db.execute(
        update(models.Action)
        .where(col(models.Action.id) == action_id, col(models.Action.closed_at).is_(None), free)
        .values(phase="sent", sent_at=now, lease_until=at + LEASE)
    )
    if taken.rowcount and word:  # type: ignore[attr-defined]
        action = db.get_one(models.Action, action_id)
        action.params = {**action.params, "tell": word}
    return bool(taken.rowcount)  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def _holding(database: Database, action_id: int) -> AsyncIterator[None]:
    """Keep the lease for as long as the call takes; whose process dies keeps it no longer."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(LEASE.total_seconds() / 3)
            with contextlib.suppress(DBAPIError):
                await database.write(_renew_lease, action_id)

    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewing.cancel()


def _renew_lease(db: Session, action_id: int) -> None:
    row = models.Action
    db.execute(
        update(row)
        .where(col(row.id) == action_id, col(row.phase) == "sent", col(row.closed_at).is_(None))
        .values(lease_until=moment(db) + LEASE)
    )


def _answered(db: Session, action_id: int, snapshot: Snapshot, now: datetime) -> str:
    """The processor took it: write what it says and see whether that proves it."""
    action = _held(db, action_id)
    account = db.get_one(models.Account, action.account_id)
    sync.apply(db, account, snapshot)
    db.flush()
    if action.closed_at is not None:  # a webhook was faster than the answer
        if snapshot.tell:
            _tell_merchant(db, action, snapshot.tell, now)
        return action.phase
    action.phase, action.error = "checking", None
    # What was foretold, the answer says itself.
    action.params = {name: value for name, value in action.params.items() if name != "tell"}
    _pass_on(db, action, snapshot, now)
    if action.closed_at is None:
        if (action.capability != "pay_now" and _proof(account, action) == "answer") or _successor(
            action, snapshot, db
        ):
            _confirm(db, action, now)
        else:
            settle(db, action.subscription_id, now)
    if action.closed_at is None:
        enqueue(db, "read_back", {"action": action.id}, now + timedelta(seconds=2), None)
    return action.phase


def _pass_on(db: Session, action: models.Action, snapshot: Snapshot, now: datetime) -> None:
    """What the adapter has for the merchant: something to know, or something to do before the wish is fulfilled."""
    if snapshot.tell:
        _tell_merchant(db, action, snapshot.tell, now)
    if not snapshot.ask:
        return
    row = db.get_one(models.Subscription, action.subscription_id)
    with contextlib.suppress(requests.AlreadyAsked), db.begin_nested():
        requests.ask(
            db,
            row.portal_id,
            row.account_id,
            action.customer_id,
            row.id,
            action.capability,
            row.title or "",
            now,
            params={**_before(row), "to_do": snapshot.ask},
        )
    action.phase, action.closed_at = "asked", now


def _tell_merchant(db: Session, action: models.Action, words: str, now: datetime) -> None:
    payload = {"template": "merchant_notice", "action": action.id, "text": words}
    enqueue(db, "mail", payload, now, f"merchant_notice:{action.id}")


def _successor(action: models.Action, snapshot: Snapshot, db: Session) -> bool:
    """Whether another subscription has taken the place of this one, where several calls were needed."""
    if action.how != "calls" or action.capability not in (
        "undo_cancel",
        "change_plan",
        "update_payment_method",
    ):
        return False
    row = db.get_one(models.Subscription, action.subscription_id)
    return any(
        record.remote_id != row.remote_id and record.status in ("trialing", "active", "past_due")
        for record in snapshot.subscriptions
    )


def _failed(db: Session, action_id: int, error: GatewayError, now: datetime) -> str:
    """It did not work, or nobody knows. Unknown stays open until it is read back; a cancel is tried again by us."""
    action = _held(db, action_id)
    if action.closed_at is not None:
        return action.phase
    sent = isinstance(error, Unavailable) and error.sent
    ours_to_finish = isinstance(error, Unavailable) and action.capability in (
        "cancel_now",
        "cancel_at_period_end",
    )
    if sent or ours_to_finish or isinstance(error, Gone):
        action.phase = "checking"
        action.error = error.customer
        action.params = {**action.params, "sent": bool(action.params.get("sent")) or sent}
        wait = 5.0
        if isinstance(error, Unavailable) and error.retry_after:
            wait = max(5.0, min(error.retry_after, 900.0))
        action.lease_until = now + timedelta(seconds=wait)
        if not isinstance(error, Gone) or now - action.created_at < GIVE_UP:
            enqueue(db, "read_back", {"action": action.id}, now + timedelta(seconds=wait), None)
        return action.phase
    _give_back(db, action, error.customer, now)
    return action.phase


def _give_back(db: Session, action: models.Action, sentence: str, now: datetime) -> None:
    """The wish ends undone: what we had set up for it goes, and the row says why."""
    row = db.get_one(models.Subscription, action.subscription_id)
    if action.capability == "cancel_at_period_end" and action.how and row.status not in ENDED:
        row.access_until = row.cancel_scheduled_at = None
    action.phase, action.error, action.closed_at = "failed", sentence, now
    outgoing.of_action(db, "action.failed", action, now)


def _away(db: Session, action_id: int, state: dict[str, str], now: datetime) -> None:
    action = _held(db, action_id)
    action.phase, action.leave_state, action.error = "away", state, None
    action.lease_until = now + timedelta(hours=1)


# Coming back


def spend_state(db: Session, state: str, query: dict[str, str], now: datetime) -> str | None:
    """A processor sent somebody back: spend the one-time state and queue the look. Returns the host's portal, or None.

    Takes no session and believes nothing of the query; who holds the state can only make us look.
    """
    spent = db.execute(
        update(models.Action)
        .where(col(models.Action.state_hash) == _hash(state))
        .values(state_hash=None)
        .returning(col(models.Action.id))
    ).scalar_one_or_none()
    if spent is None:
        return None
    action = db.get_one(models.Action, spent, populate_existing=True)
    account = db.get_one(models.Account, action.account_id)
    if now - action.created_at > timedelta(hours=24):
        return None
    action.params = {**action.params, "query": dict(list(query.items())[:20])}
    if _proof(account, action) == "next_charge":
        row = db.get_one(models.Subscription, action.subscription_id)
        row.method_visited_at = now
        action.phase, action.closed_at = "visited", now
    elif action.phase in ("away", "left", "sent"):
        action.phase, action.closed_at, action.sent_at = "checking", None, now
        if _other_open(db, action):
            action.phase, action.closed_at = "left", now
    enqueue(db, "finish_method", {"action": action.id}, now, f"finish_method:{action.id}")
    return action.capability


def look_again(
    db: Session, portal_id: int, customer_id: int, subscription_id: int, capability: str, now: datetime
) -> bool:
    """The customer says that they are done at a processor that sends nobody back: look, as after a return."""
    row = models.Action
    action = db.execute(
        select(row)
        .where(
            col(row.portal_id) == portal_id,
            col(row.customer_id) == customer_id,
            col(row.subscription_id) == subscription_id,
            col(row.capability) == capability,
            col(row.phase).in_(("away", "left")),
            col(row.created_at) > now - timedelta(hours=24),
        )
        .order_by(col(row.created_at).desc())
        .limit(1)
    ).scalar_one_or_none()
    if action is None:
        return False
    account = db.get_one(models.Account, action.account_id)
    if _proof(account, action) == "next_charge":
        db.get_one(models.Subscription, subscription_id).method_visited_at = now
        action.phase, action.closed_at = "visited", now
    elif not _other_open(db, action):
        action.phase, action.closed_at, action.sent_at = "checking", None, now
    enqueue(db, "finish_method", {"action": action.id}, now, None)
    return True


def settle(db: Session, subscription_id: int, now: datetime) -> None:
    """Rows of a subscription were written: confirm the actions that they prove."""
    row = db.get_one(models.Subscription, subscription_id)
    for action in db.execute(
        select(models.Action).where(
            col(models.Action.subscription_id) == subscription_id,
            col(models.Action.closed_at).is_(None),
            col(models.Action.phase).in_(("sent", "checking", "away")),
        )
    ).scalars():
        if proven(action.capability, action.how, action.params, row):
            _confirm(db, action, now)
    if row.status in ENDED:
        row.cancel_scheduled_at = None
    _settle_requests(db, row, now)


def _settle_requests(db: Session, row: models.Subscription, now: datetime) -> None:
    """A request is done when the processor shows what was asked for, whoever did it."""
    for one in db.execute(
        select(models.Request).where(
            col(models.Request.subject_id) == row.id,
            col(models.Request.portal_id) == row.portal_id,
            col(models.Request.closed_at).is_(None),
        )
    ).scalars():
        # Nobody starts a new subscription under an old id, so that is for the merchant to say.
        if one.kind in SENSE and one.kind != "undo_cancel" and proven(one.kind, None, one.params, row):
            processor = db.get_one(models.Account, row.account_id).processor
            requests.shown_by_processor(db, one, facts(processor).label, now)


def proven(key: str, how: str | None, params: Mapping[str, Any], row: models.Subscription) -> bool:
    """Whether the processor's own word shows what was wished for; `params` tell how things stood before."""
    ended, ends = row.status in ENDED, row.status == "cancels_at_period_end"
    goes_on = row.status in ("active", "trialing", "past_due")
    match key:
        case "cancel_now":
            return ended or (ends and how == "calls")
        case "cancel_at_period_end":
            held = row.status == "paused" and how in ("schedule", "calls")
            return ended or held or (ends and how != "keep")
        case "undo_cancel":
            return goes_on and row.cancels_at is None
        case "pause":
            return row.status == "paused"
        case "resume":
            return goes_on
        case "skip_next_payment":
            before = params.get("next_before")
            return bool(before and row.next_on and row.next_on.isoformat() > before)
        case "change_plan":
            return _is_changed(params.get("change"), row)
        case "update_payment_method":
            method = (row.method or {}).get("remote_id")
            return method is not None and method != params.get("method_before")
        case "pay_now":
            return not row.due_minor
    return False


def _is_changed(plan: Mapping[str, Any] | None, row: models.Subscription) -> bool:
    """Whether a subscription is as the chosen plan says, now or from its next period on."""
    if plan is None:
        return False
    pending = row.pending_change or {}
    now_so = (row.amount_minor, row.interval_unit, row.interval_count) == (
        plan["minor"],
        plan["unit"],
        plan["count"],
    )
    return now_so or pending.get("minor") == plan["minor"] or row.next_minor == plan["minor"]


_MAILS = {
    "cancel_now": "cancelled",
    "cancel_at_period_end": "cancelled",
    "undo_cancel": "cancel_undone",
    "pause": "paused",
    "resume": "resumed",
    "update_payment_method": "card_changed",
    "change_plan": "plan_changed",
    "skip_next_payment": "payment_skipped",
}
# What the merchant's app is told when the customer gets that mail.
_EVENTS = {
    "cancelled": "subscription.cancelled",
    "cancel_undone": "subscription.cancel_undone",
    "paused": "subscription.paused",
    "resumed": "subscription.resumed",
    "card_changed": "payment_method.updated",
    "plan_changed": "subscription.plan_changed",
    "payment_skipped": "subscription.payment_skipped",
}


def _confirm(db: Session, action: models.Action, now: datetime) -> None:
    action.phase, action.error = "confirmed", None
    action.confirmed_at = action.closed_at = now
    if action.params.get("tell"):  # the answer is lost, or will come too late
        _tell_merchant(db, action, action.params["tell"], now)
    row = db.get_one(models.Subscription, action.subscription_id)
    if action.capability == "undo_cancel":
        row.access_until = row.cancel_scheduled_at = row.ended_here_at = row.promised_until = None
    if action.capability == "cancel_now":
        row.access_until = row.cancel_scheduled_at = None
        if row.status == "cancels_at_period_end":  # it runs out there; for the customer it is over
            row.ended_here_at, row.status = now, "cancelled"
    if action.capability == "cancel_at_period_end" and row.status in ("active", "trialing"):
        end = row.cancels_at or end_of_paid(row)  # accepted, and not shown by the processor
        row.promised_until, row.status, row.cancels_at = end, "cancels_at_period_end", end
        row.next_on = row.next_minor = None
        if end is not None:
            payload = {"subscription": row.id, "action": action.id, "promised": True}
            enqueue(db, "scheduled_cancel", payload, end + LATE, f"promised_cancel:{action.id}")
    if action.capability == "update_payment_method":
        row.method_visited_at = None
    if mail := _MAILS.get(action.capability):
        enqueue_mail(db, action, mail, now)


# Reading back


async def read_back(database: Database, settings: Settings, vault: Vault, action_id: int) -> float | None:
    """Ask the processor how an open action stands; the seconds until the next look, None when it is closed.

    A cancel that has not happened is sent again under the same key, and so is what was never sent since its process
    died before. Anything else that a fresh look does not show after a time-out is given back as not done.
    """
    action, row, account = await database.read(_with_account, action_id)
    now = clock.now()
    if action.closed_at is not None or action.phase == "away":
        return None
    if action.phase in ("claimed", "sent") and action.lease_until and action.lease_until > now:
        return (action.lease_until - now).total_seconds() + 1
    gateway = open_gateway(settings, vault, account, patient=True)
    try:
        snapshot = await gateway.fetch(sync.ref_of(row))
    except Gone:
        snapshot = None
    except Unavailable as error:
        await database.write(_still_open, action_id, clock.now())
        return max(error.retry_after or 0, _next_look(now - action.created_at))
    finally:
        await gateway.aclose()
    if snapshot is not None:
        await database.write(_looked, action_id, snapshot, clock.now())
    action, row, account = await database.read(_with_account, action_id)
    if action.closed_at is not None:
        return None
    return await _not_yet(database, settings, vault, action, snapshot is None)


async def _not_yet(
    database: Database, settings: Settings, vault: Vault, action: models.Action, gone: bool
) -> float | None:
    now = clock.now()
    age = now - action.created_at
    if gone or age > GIVE_UP:
        await database.write(_close_undone, action.id, now)
        return None
    await database.write(_still_open, action.id, now)
    again = action.capability in ("cancel_now", "cancel_at_period_end") or action.how == "calls"
    died = action.phase in ("claimed", "sent")  # its lease has run out, and nobody has written how it went
    unsent = action.phase == "claimed" and action.capability in ALONE
    # The call failed, or nobody lived to make it, and the processor shows no trace of it: same key, once more.
    if unsent or (again and (action.error or (died and action.capability in ALONE))):
        await carry_out(database, settings, vault, action.id, patient=True)
        return None  # carry_out has queued the next look
    if action.params.get("guided") and age > timedelta(minutes=2):
        await database.write(_nothing_new, action.id, now)
        return None
    if action.error and age > timedelta(minutes=2):
        await database.write(_close_undone, action.id, now)
        return None
    return _next_look(age)


def _next_look(age: timedelta) -> float:
    return max(2.0, min(900.0, age.total_seconds() / 2))


def _looked(db: Session, action_id: int, snapshot: Snapshot, now: datetime) -> None:
    action = db.get_one(models.Action, action_id)
    sync.apply(db, db.get_one(models.Account, action.account_id), snapshot)
    db.flush()
    if action.closed_at is None:
        _pass_on(db, action, snapshot, now)
        if action.closed_at is None and _successor(action, snapshot, db):
            _confirm(db, action, now)
    settle(db, action.subscription_id, now)


def _still_open(db: Session, action_id: int, now: datetime) -> None:
    """Too long unproven: the customer's row says so and the merchant is alarmed, once."""
    action = db.get_one(models.Action, action_id)
    if action.phase in ("claimed", "sent"):
        action.phase = "checking"
        action.error = action.error or _("We could not see whether it arrived.")
    if action.told_late_at is None and now - action.created_at > PROVEN_WITHIN:
        action.told_late_at = now
        enqueue(db, "mail", {"template": "merchant_alarm", "action": action.id}, now, f"alarm:{action.id}")
        outgoing.of_action(db, "action.not_confirmed", action, now)


def _close_undone(db: Session, action_id: int, now: datetime) -> None:
    action = db.get_one(models.Action, action_id)
    if action.closed_at is None:
        _give_back(db, action, _("This did not go through. Nothing was changed; please try again."), now)


async def finish_method(database: Database, settings: Settings, vault: Vault, action_id: int) -> float | None:
    """After a return (or a hint that somebody was there): let the adapter finish, and read back. Safe to repeat."""
    action, row, account = await database.read(_with_account, action_id)
    if action.phase in ("confirmed", "failed"):
        return None
    now = clock.now()
    gateway = open_gateway(settings, vault, account, patient=True)
    ref = sync.ref_of(row)
    try:
        if action.capability == "update_payment_method":
            snapshot = await gateway.finish_method_update(
                ref, action.leave_state or {}, action.params.get("query", {})
            )
        else:
            snapshot = await gateway.fetch(ref)
    except Unavailable as error:
        await database.write(_still_open, action_id, now)
        return max(5.0, error.retry_after or 0)
    except GatewayError as error:
        await database.write(_finish_failed, action_id, error.customer, now)
        return None
    finally:
        await gateway.aclose()
    await database.write(_looked, action_id, snapshot, clock.now())
    action, row, account = await database.read(_with_account, action_id)
    if action.closed_at is not None or action.phase == "away":
        return None
    if clock.now() - (action.sent_at or action.created_at) > timedelta(minutes=2):
        await database.write(_nothing_new, action_id, clock.now())
        return None
    return 5.0


def _finish_failed(db: Session, action_id: int, sentence: str, now: datetime) -> None:
    action = db.get_one(models.Action, action_id)
    if action.closed_at is None:
        _give_back(db, action, sentence, now)


def _nothing_new(db: Session, action_id: int, now: datetime) -> None:
    action = db.get_one(models.Action, action_id)
    account = db.get_one(models.Account, action.account_id)
    label = facts(account.processor).label
    sentence = {
        "pay_now": _("{label} shows no payment yet. If you paid, it will appear here.").format(label=label),
    }.get(
        action.capability,
        _("{label} shows no new payment method. The old one stays.").format(label=label),
    )
    if action.closed_at is None:
        _give_back(db, action, sentence, now)


# The scheduled cancel


async def run_scheduled_cancel(
    database: Database,
    settings: Settings,
    vault: Vault,
    subscription_id: int,
    action_id: int,
    promised: bool = False,
) -> None:
    """The time has come: an action of its own, unless it was undone, and then as any other cancel.

    `promised`: the processor had accepted to end it by itself, so it is asked first, and cancelled where it goes on.
    """
    if promised:
        action, row, account = await database.read(_with_account, action_id)
        gateway = open_gateway(settings, vault, account, patient=True)
        try:
            snapshot = await gateway.fetch(sync.ref_of(row))
        except Gone:
            return
        finally:
            await gateway.aclose()
        await database.write(_looked, action.id, snapshot, clock.now())
    opened = await database.write(_open_scheduled, subscription_id, action_id, clock.now(), promised)
    if opened is not None:
        await carry_out(database, settings, vault, opened)


def _open_scheduled(
    db: Session, subscription_id: int, action_id: int, now: datetime, promised: bool
) -> int | None:
    row = db.get_one(models.Subscription, subscription_id, with_for_update=True)
    planned = db.get_one(models.Action, action_id)
    due = row.promised_until if promised else row.cancel_scheduled_at
    if due is None or row.status in ENDED:
        return None
    if planned.params.get("run_as"):
        return None  # already under way; its own read-back finishes it
    if (other := _open_action(db, row.id)) is not None:
        other.phase, other.closed_at = "left", now
        db.flush()
    run_as = models.Action(
        id=new_id(),
        portal_id=row.portal_id,
        account_id=row.account_id,
        customer_id=planned.customer_id,
        subscription_id=row.id,
        capability="cancel_now" if promised else "cancel_at_period_end",
        how=None if promised else "keep",
        reference=planned.reference,
        params={"scheduled": True, "title": row.title, "was": row.status},
        created_at=now,
        lease_until=now + LEASE,
    )
    db.add(run_as)
    planned.params = {**planned.params, "run_as": run_as.id}
    enqueue(db, "read_back", {"action": run_as.id}, now + LEASE, f"read_back:{run_as.id}")
    return run_as.id


# An account that the merchant takes away


_GOES_ON = tuple(one for one in get_args(SubscriptionStatus) if one not in ENDED)
_EVER = datetime(1970, 1, 1, tzinfo=UTC)


def scheduled(account_id: int) -> tuple[Any, ...]:
    """Subscriptions of an account that our own job is to cancel; of the portal's by their state, since an account's
    may be a million."""
    row, of = models.Subscription, models.Account
    return (
        col(row.portal_id) == select(col(of.portal_id)).where(col(of.id) == account_id).scalar_subquery(),
        col(row.status).in_(_GOES_ON),
        col(row.cancel_scheduled_at) > _EVER,
        beside(row.account_id) == account_id,
    )


def hand_over(db: Session, account: models.Account, now: datetime) -> int:
    """What our job was still to cancel there is asked of the merchant, who alone can do it now; how many."""
    waiting = list(db.execute(select(models.Subscription).where(*scheduled(account.id))).scalars())
    for one in waiting:
        due = one.cancel_scheduled_at
        one.access_until = one.cancel_scheduled_at = None
        if one.customer_id is not None:
            _ask_to_cancel(db, one, one.customer_id, due, now)
    return len(waiting)


def _ask_to_cancel(
    db: Session, row: models.Subscription, customer_id: int, due: datetime | None, now: datetime
) -> None:
    """A request in place of our own job, due before the next charge at the latest."""
    kind = "cancel_at_period_end"
    if any(
        one.closed_at is None and one.kind == kind
        for one in requests.about(db, row.portal_id, customer_id, [row.id], now).get(row.id, [])
    ):
        return
    found = requests.ask(
        db,
        row.portal_id,
        row.account_id,
        customer_id,
        row.id,
        kind,
        row.title or "",
        now,
        params=_before(row),
    )
    found.due_at = min(found.due_at, max(due or now, now))


def account_gone(db: Session, action_id: int, now: datetime) -> None:
    """The account was taken away before this was proven: the row ends, and says so."""
    action = db.get(models.Action, action_id)
    if action is not None and action.closed_at is None:
        sentence = _("This could not be checked any more. Write to the shop if it matters to you.")
        _give_back(db, action, sentence, now)


def enqueue_mail(db: Session, action: models.Action, template: str, now: datetime) -> None:
    if action.params.get("scheduled"):
        return  # the customer was told when it was scheduled
    enqueue(db, "mail", {"template": template, "action": action.id}, now, f"{template}:{action.id}")
    outgoing.of_action(db, _EVENTS[template], action, now)


# Rows


def _locked(db: Session, portal_id: int, customer_id: int, subscription_id: int) -> models.Subscription:
    row = db.execute(
        select(models.Subscription)
        .where(
            col(models.Subscription.id) == subscription_id,
            col(models.Subscription.portal_id) == portal_id,
            col(models.Subscription.customer_id) == customer_id,
        )
        .with_for_update()
    ).scalar_one_or_none()
    if row is None:
        raise LookupError(subscription_id)
    return row


def _held(db: Session, action_id: int) -> models.Action:
    """An action under its lock: web and worker may both have word of it."""
    return db.get_one(models.Action, action_id, with_for_update=True)


def _with_account(db: Session, action_id: int) -> tuple[models.Action, models.Subscription, models.Account]:
    action = db.get_one(models.Action, action_id)
    return (
        action,
        db.get_one(models.Subscription, action.subscription_id),
        db.get_one(models.Account, action.account_id),
    )


def _open_action(db: Session, subscription_id: int) -> models.Action | None:
    return db.execute(
        select(models.Action).where(
            col(models.Action.subscription_id) == subscription_id, col(models.Action.closed_at).is_(None)
        )
    ).scalar_one_or_none()


def _other_open(db: Session, action: models.Action) -> bool:
    with db.no_autoflush:
        other = db.execute(
            select(col(models.Action.id)).where(
                col(models.Action.subscription_id) == action.subscription_id,
                col(models.Action.closed_at).is_(None),
                col(models.Action.id) != action.id,
            )
        ).first()
    return other is not None


def _let_go_of_visits(db: Session, row: models.Subscription, now: datetime) -> None:
    """Who went to a processor's page and came here instead may do something else; a late return still counts."""
    visit = _open_action(db, row.id)
    if visit is not None and visit.phase == "away":
        visit.phase, visit.closed_at = "left", now
        db.flush()


def _proof(account: models.Account, action: models.Action) -> str:
    capability: Key = action.capability  # type: ignore[assignment]
    return facts(account.processor).capabilities[capability].proof or "read_back"


def _return_url(settings: Settings, portal: PortalView, state: str | None) -> str:
    if state is None:
        return ""
    signed = _signer(settings).sign(state).decode()
    return f"{settings.origin(portal.host)}/customers/return/{signed}"


def open_state(settings: Settings, text: str) -> str | None:
    """The one-time state of a return address; None where we have not signed it, before any look into the database."""
    try:
        return _signer(settings).unsign(text).decode()
    except BadSignature:
        return None


def _signer(settings: Settings) -> Signer:
    return Signer(settings.secret_key.get_secret_value(), salt="return", digest_method=hashlib.sha256)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
