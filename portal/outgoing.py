"""What the portal tells the merchant's own app: events, written in the transaction of what they tell, and delivered by
the worker to the merchant's endpoints in the format of Standard Webhooks, again and again until one is taken."""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, models, reach, shapes
from portal.db import Database
from portal.gateways.base import Unavailable
from portal.gateways.http import breaker
from portal.ids import id_text
from portal.jobs import enqueue
from portal.settings import Settings
from portal.texts import gettext as _
from portal.vault import Vault


def _N(text: str) -> str:
    return text


# Every type, and when it is told.
TYPES: dict[str, str] = {
    "customer.signed_in": _N("A customer has signed in."),
    "subscription.cancel_requested": _N("A customer wants to cancel. Nothing has happened yet."),
    "subscription.cancelled": _N("A cancellation is confirmed, at once or for a later day."),
    "subscription.cancel_undone": _N("A cancellation is taken back."),
    "subscription.paused": _N("A subscription is paused."),
    "subscription.resumed": _N("A paused subscription goes on."),
    "subscription.plan_changed": _N("A customer has changed to another plan."),
    "subscription.payment_skipped": _N("The next payment is left out."),
    "payment_method.updated": _N("The processor shows a new payment method."),
    "payment.failed": _N("A payment has failed."),
    "payment.charged_after_end": _N("A payment was taken after its subscription had ended."),
    "request.created": _N("A customer asks you to do something."),
    "request.answered": _N("A request is done or declined."),
    "request.withdrawn": _N("A customer has taken a request back."),
    "request.late": _N("The day by which you answer has come."),
    "action.failed": _N("What a customer wanted did not go through, and was given back."),
    "action.not_confirmed": _N(
        "The processor has not confirmed something in time. It is still being checked."
    ),
}
TEST = "portal.test"
# Seconds until the next try, as Standard Webhooks suggests: ten tries in a little over three days.
WAITS = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
GIVE_UP = timedelta(days=5)  # an endpoint where nothing has arrived for so long is switched off
OVERLAP = timedelta(hours=24)  # for so long after a change the old secret signs too
KEEP = timedelta(days=30)
MOST_ENDPOINTS = 10
PAGE = 25


class Refused(Exception):
    """It cannot be done; the sentence says why."""


# Telling


def emit(
    db: Session, portal_id: int, kind: str, about: shapes.About, now: datetime, customer_id: int | None = None
) -> int:
    """Tell something: a row for who fetches events, and a delivery to each endpoint that wants this kind."""
    assert kind in TYPES, kind
    event = _write(db, portal_id, kind, about, now, customer_id)
    row = models.Endpoint
    for endpoint in db.execute(
        select(row).where(col(row.portal_id) == portal_id, col(row.disabled_at).is_(None))
    ).scalars():
        if not endpoint.events or kind in endpoint.events:
            _deliver_to(db, endpoint, event, now)
    return event.id


def _write(
    db: Session, portal_id: int, kind: str, about: shapes.About, now: datetime, customer_id: int | None
) -> models.OwnEvent:
    event = models.OwnEvent(
        portal_id=portal_id,
        customer_id=customer_id,
        type=kind,
        data=about.model_dump(mode="json", exclude_unset=True),
        at=now,
    )
    db.add(event)
    db.flush()
    return event


def _deliver_to(db: Session, endpoint: models.Endpoint, event: models.OwnEvent, now: datetime) -> int:
    row = models.Delivery(
        portal_id=endpoint.portal_id, endpoint_id=endpoint.id, event_id=event.id, created_at=now
    )
    db.add(row)
    db.flush()
    enqueue(db, "deliver", {"delivery": row.id}, now, f"deliver:{row.id}")
    return row.id


def of_customer(db: Session, kind: str, customer: models.Customer, now: datetime) -> None:
    about = shapes.About(customer=shapes.customer(customer))
    emit(db, customer.portal_id, kind, about, now, customer.id)


def of_action(db: Session, kind: str, action: models.Action, now: datetime) -> None:
    """Something that became of what a customer did."""
    subscription = db.get_one(models.Subscription, action.subscription_id)
    about = shapes.About(
        customer=shapes.customer(db.get_one(models.Customer, action.customer_id)),
        subscription=shapes.subscription(subscription),
        action=shapes.action(action),
    )
    emit(db, action.portal_id, kind, about, now, action.customer_id)


def of_request(db: Session, kind: str, request: models.Request, now: datetime) -> None:
    customer = db.get_one(models.Customer, request.customer_id) if request.customer_id else None
    email = customer.email if customer else request.contact or ""
    about = shapes.About(
        customer=shapes.customer(customer) if customer else None, request=shapes.request(request, email)
    )
    emit(db, request.portal_id, kind, about, now, request.customer_id)


def of_payment(db: Session, kind: str, payment: models.Payment, now: datetime) -> None:
    customer = db.get_one(models.Customer, payment.customer_id) if payment.customer_id else None
    about = shapes.About(
        customer=shapes.customer(customer) if customer else None, payment=shapes.payment(payment)
    )
    emit(db, payment.portal_id, kind, about, now, payment.customer_id)


# Endpoints


@dataclass(frozen=True, slots=True)
class EndpointView:
    """An endpoint as its page tells of it; its secrets stand in none."""

    id: int
    url: str
    events: tuple[str, ...]  # empty: all
    created_at: datetime
    failing_since: datetime | None
    disabled_at: datetime | None
    problem: str | None
    previous_until: datetime | None


def endpoints(db: Session, portal_id: int) -> list[EndpointView]:
    row = models.Endpoint
    found = db.execute(
        select(row).where(col(row.portal_id) == portal_id).order_by(col(row.id)).limit(MOST_ENDPOINTS)
    ).scalars()
    return [_view(one) for one in found]


def endpoint(db: Session, portal_id: int, endpoint_id: int) -> EndpointView | None:
    found = _endpoint(db, portal_id, endpoint_id)
    return _view(found) if found else None


def _view(row: models.Endpoint) -> EndpointView:
    return EndpointView(
        row.id,
        row.url,
        tuple(row.events or ()),
        row.created_at,
        row.failing_since,
        row.disabled_at,
        row.problem,
        row.previous_until,
    )


def add_endpoint(
    db: Session, vault: Vault, portal_id: int, url: str, events: Sequence[str], private: bool, now: datetime
) -> tuple[models.Endpoint, str]:
    """A new endpoint and its secret, which is shown once. Refused, where the address is none we would call."""
    _fit(url, private)
    held = db.get_one(
        models.Portal, portal_id, with_for_update=True
    )  # so that nobody adds an eleventh beside us
    others = endpoints(db, held.id)
    if len(others) >= MOST_ENDPOINTS:
        raise Refused(_("There are ten endpoints. Remove one first."))
    if any(one.url == url for one in others):
        raise Refused(_("This address is on the list already."))
    secret = new_secret()
    row = models.Endpoint(portal_id=portal_id, url=url, secret=b"", events=_known(events), created_at=now)
    row.secret = _sealed(vault, row, secret)
    db.add(row)
    db.flush()
    return row, secret


def change_endpoint(
    db: Session, portal_id: int, endpoint_id: int, url: str, events: Sequence[str], private: bool
) -> models.Endpoint:
    """LookupError, or Refused."""
    _fit(url, private)
    row = _held(db, portal_id, endpoint_id)
    if any(one.url == url and one.id != row.id for one in endpoints(db, portal_id)):
        raise Refused(_("This address is on the list already."))
    row.url, row.events = url, _known(events)
    return row


def _fit(url: str, private: bool) -> None:
    try:
        reach.target(url, private)
    except reach.Refused as error:
        raise Refused(str(error)) from error


def _known(events: Sequence[str]) -> list[str]:
    """The kinds that are wanted, in our order; all of them is as none: what is new comes too."""
    wanted = [kind for kind in TYPES if kind in events]
    return [] if len(wanted) == len(TYPES) else wanted


def rotate(db: Session, vault: Vault, portal_id: int, endpoint_id: int, now: datetime) -> str:
    """A new secret, shown once; for a day the old one signs too. LookupError."""
    row = _held(db, portal_id, endpoint_id)
    secret = new_secret()
    row.previous_secret, row.previous_until = row.secret, now + OVERLAP
    row.secret = _sealed(vault, row, secret)
    return secret


def switch(db: Session, portal_id: int, endpoint_id: int, on: bool, now: datetime) -> models.Endpoint:
    """Switch an endpoint on or off. What is told while it is off is not delivered to it later. LookupError."""
    row = _held(db, portal_id, endpoint_id)
    if on:
        row.disabled_at = row.problem = row.failing_since = None
    elif row.disabled_at is None:
        row.disabled_at = now
    return row


def remove(db: Session, portal_id: int, endpoint_id: int) -> str:
    """Take an endpoint away with its log; its address. LookupError."""
    row = _held(db, portal_id, endpoint_id)
    db.execute(
        delete(models.Delivery).where(
            col(models.Delivery.portal_id) == portal_id, col(models.Delivery.endpoint_id) == row.id
        )
    )
    db.delete(row)
    return row.url


def send_test(db: Session, portal_id: int, endpoint_id: int, now: datetime) -> int:
    """An event that tells nothing, to one endpoint alone; the id of its delivery. LookupError, or Refused."""
    row = _held(db, portal_id, endpoint_id)
    if row.disabled_at is not None:
        raise Refused(_("Switch the endpoint on first."))
    return _deliver_to(db, row, _write(db, portal_id, TEST, shapes.About(), now, None), now)


def _endpoint(db: Session, portal_id: int, endpoint_id: int) -> models.Endpoint | None:
    row = models.Endpoint
    return db.execute(
        select(row).where(col(row.portal_id) == portal_id, col(row.id) == endpoint_id)
    ).scalar_one_or_none()


def _held(db: Session, portal_id: int, endpoint_id: int) -> models.Endpoint:
    row = models.Endpoint
    found = db.execute(
        select(row).where(col(row.portal_id) == portal_id, col(row.id) == endpoint_id).with_for_update()
    ).scalar_one_or_none()
    if found is None:
        raise LookupError(endpoint_id)
    return found


# Its log


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """A line of an endpoint's log. `state`: delivered, waiting (for its next try), failed."""

    id: int
    event_id: int
    type: str
    state: str
    created_at: datetime
    attempts: int
    last_at: datetime | None
    status: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class LogPage:
    rows: tuple[DeliveryView, ...]
    older: int | None


def log(db: Session, portal_id: int, endpoint_id: int, before: int | None = None) -> LogPage:
    """The deliveries to an endpoint, newest first."""
    row, event = models.Delivery, models.OwnEvent
    statement = (
        select(row, col(event.type))
        .join(event, (col(event.portal_id) == col(row.portal_id)) & (col(event.id) == col(row.event_id)))
        .where(col(row.portal_id) == portal_id, col(row.endpoint_id) == endpoint_id)
    )
    if before is not None:
        statement = statement.where(col(row.id) < before)
    found = db.execute(statement.order_by(col(row.id).desc()).limit(PAGE + 1)).all()
    rows = tuple(_line(one, kind) for one, kind in found[:PAGE])
    return LogPage(rows, rows[-1].id if len(found) > PAGE else None)


def _line(row: models.Delivery, kind: str) -> DeliveryView:
    state = "delivered" if row.delivered_at else "failed" if row.failed_at else "waiting"
    return DeliveryView(
        row.id,
        row.event_id,
        kind,
        state,
        row.created_at,
        row.attempts,
        row.last_at,
        row.last_status,
        row.last_error,
    )


@dataclass(frozen=True, slots=True)
class DeliveryInFull:
    line: DeliveryView
    body: str


def delivery(db: Session, portal_id: int, endpoint_id: int, delivery_id: int) -> DeliveryInFull | None:
    """One delivery with what was sent."""
    row = models.Delivery
    found = db.execute(
        select(row).where(
            col(row.portal_id) == portal_id, col(row.endpoint_id) == endpoint_id, col(row.id) == delivery_id
        )
    ).scalar_one_or_none()
    if found is None:
        return None
    event = db.get_one(models.OwnEvent, found.event_id)
    return DeliveryInFull(_line(found, event.type), json.dumps(payload(event), indent=2, ensure_ascii=False))


def resend(db: Session, portal_id: int, endpoint_id: int, delivery_id: int, now: datetime) -> None:
    """Deliver once more, now and only once, whatever came of it before. LookupError, or Refused."""
    endpoint = _held(db, portal_id, endpoint_id)
    if endpoint.disabled_at is not None:
        raise Refused(_("Switch the endpoint on first."))
    if delivery(db, portal_id, endpoint_id, delivery_id) is None:
        raise LookupError(delivery_id)
    enqueue(db, "deliver", {"delivery": delivery_id, "again": True}, now, None)


# Signing


def new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def sign(secret: str, message_id: str, at: datetime, body: bytes) -> str:
    """The signature of a delivery: HMAC-SHA-256 over id, moment and body, by the key within the secret."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error as error:
        raise ValueError("a secret is whsec_ and base64") from error
    if len(key) < 24:
        raise ValueError("a secret has at least 24 bytes")
    content = f"{message_id}.{int(at.timestamp())}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


def payload(event: models.OwnEvent) -> dict[str, Any]:
    return {
        "type": event.type,
        "timestamp": event.at.isoformat().replace("+00:00", "Z"),
        "data": event.data,
    }


def _sealed(vault: Vault, row: models.Endpoint, secret: str) -> bytes:
    return vault.seal(row.portal_id, row.id, {"endpoint_secret": secret})


def _secrets(vault: Vault, row: models.Endpoint, now: datetime) -> list[str]:
    """The secrets that sign now, the newest first."""
    sealed = [row.secret]
    if row.previous_secret is not None and row.previous_until is not None and row.previous_until > now:
        sealed.append(row.previous_secret)
    return [vault.open(row.portal_id, row.id, one)["endpoint_secret"] for one in sealed]


# Delivering


async def deliver(
    database: Database, settings: Settings, vault: Vault, delivery_id: int, again: bool = False
) -> float | None:
    """One try of a delivery; the seconds until the next, None when there is none. `again`: it was asked for by hand."""
    found = await database.read(_to_deliver, delivery_id, again)
    if found is None:
        return None
    endpoint, event = found
    if endpoint.disabled_at is not None:
        await database.write(_not_sent, delivery_id, clock.now())
        return None
    guard = breaker("endpoint", str(endpoint.id))
    if not again:
        try:
            guard.guard()  # where nothing answers, only one delivery after the other is tried
        except Unavailable as error:
            return max(error.retry_after or 0.0, 5.0)
    now = clock.now()
    body = json.dumps(payload(event), separators=(",", ":"), ensure_ascii=False).encode()
    message_id = id_text(event.id)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Portal-Webhooks/1",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(
            sign(secret, message_id, now, body) for secret in _secrets(vault, endpoint, now)
        ),
    }
    wait, status, trouble = None, None, None
    try:
        answer = await reach.post(endpoint.url, headers, body, may_be_private(settings))
        status, wait = answer.status, answer.retry_after
    except (reach.Refused, reach.NoAnswer) as problem:
        trouble = str(problem)
    guard.record(status is not None)
    return await database.write(_tried, delivery_id, status, trouble, wait, again, clock.now())


def may_be_private(settings: Settings) -> bool:
    """Whether endpoints may be on this machine or in its own network: for development only."""
    return settings.demo or settings.outgoing_private


def _to_deliver(db: Session, delivery_id: int, again: bool) -> tuple[models.Endpoint, models.OwnEvent] | None:
    row = db.get(models.Delivery, delivery_id)  # gone with its endpoint, or with its time
    if row is None or (not again and (row.delivered_at or row.failed_at)):
        return None
    return db.get_one(models.Endpoint, row.endpoint_id), db.get_one(models.OwnEvent, row.event_id)


def _not_sent(db: Session, delivery_id: int, now: datetime) -> None:
    row = db.get_one(models.Delivery, delivery_id)
    row.failed_at, row.last_error = now, "The endpoint is switched off."


def _tried(
    db: Session,
    delivery_id: int,
    status: int | None,
    error: str | None,
    wait: float | None,
    again: bool,
    now: datetime,
) -> float | None:
    """Write down what came of a try, on the delivery and on its endpoint."""
    row = db.get(models.Delivery, delivery_id, with_for_update=True)
    if row is None:
        return None
    endpoint = db.get_one(models.Endpoint, row.endpoint_id, with_for_update=True)
    row.attempts += 1
    row.last_at, row.last_status = now, status
    row.last_error = error or (None if status is None or status < 300 else _meaning(status))
    if status is not None and 200 <= status < 300:
        row.delivered_at, row.failed_at, endpoint.failing_since = now, None, None
        return None
    endpoint.failing_since = endpoint.failing_since or now
    if status == 410:
        _switch_off(db, endpoint, "It answered 410: it is gone for good.", now)
    elif endpoint.disabled_at is None and now - endpoint.failing_since >= GIVE_UP:
        _switch_off(db, endpoint, "Nothing has arrived there for five days.", now)
    if row.delivered_at is not None:
        return None  # sent once more by hand; that it had arrived before stays so
    if again or endpoint.disabled_at is not None or row.attempts > len(WAITS):
        # A delivery whose own tries go on is not ended by one that was made by hand.
        if not (again and _has_tries_left(row, endpoint)):
            row.failed_at = now
        return None
    usual = WAITS[row.attempts - 1] * (1 + secrets.randbelow(100) / 1000)  # not all at the same moment
    return max(usual, min(wait or 0.0, 86_400.0))


def _has_tries_left(row: models.Delivery, endpoint: models.Endpoint) -> bool:
    return row.failed_at is None and endpoint.disabled_at is None and row.attempts <= len(WAITS)


def _meaning(status: int) -> str:
    if 300 <= status < 400:
        return "It answered with a redirect, which is not followed."
    return f"It answered {status}."


def _switch_off(db: Session, endpoint: models.Endpoint, problem: str, now: datetime) -> None:
    """The endpoint is of no use: no more is delivered there, and the merchant is told."""
    if endpoint.disabled_at is not None:
        return
    endpoint.disabled_at, endpoint.problem = now, problem
    portal = db.get_one(models.Portal, endpoint.portal_id)
    db.add(
        models.Audit(
            merchant_id=portal.merchant_id,
            portal_id=portal.id,
            who="worker",
            what="endpoint.switched_off",
            subject=endpoint.url,
            after={"problem": problem},
            at=now,
        )
    )
    enqueue(
        db,
        "mail",
        {"template": "endpoint_off", "endpoint": endpoint.id},
        now,
        f"endpoint_off:{endpoint.id}:{now.isoformat()}",
    )


def forget_old(db: Session, now: datetime) -> None:
    """Events go after thirty days, and with them the log of their deliveries."""
    event, row = models.OwnEvent, models.Delivery
    old = select(col(event.id)).where(col(event.at) <= now - KEEP)
    db.execute(delete(row).where(col(row.event_id).in_(old)))
    db.execute(delete(event).where(col(event.at) <= now - KEEP))
    endpoint = models.Endpoint
    db.execute(
        update(endpoint)
        .where(col(endpoint.previous_until) <= now)
        .values(previous_secret=None, previous_until=None)
    )
