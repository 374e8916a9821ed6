"""Deliveries of Stripe: what proves them, and what to look at again after each. Pure.

Source: https://docs.stripe.com/webhooks
"""

import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from portal.gateways._stripe import shapes
from portal.gateways._stripe.shapes import Json, as_dict, id_of
from portal.gateways.base import (
    BadSignature,
    CustomerRecord,
    Event,
    InvoiceRecord,
    Record,
    Ref,
    SubscriptionRecord,
)

TOLERANCE_S = 300


def prove(secrets: Sequence[str], headers: Sequence[tuple[str, str]], body: bytes, now: datetime) -> None:
    """Raise BadSignature unless one of the secrets signed these bytes, less than five minutes from now."""
    if not any(secrets):
        raise BadSignature("Without a signing secret nothing can be proved.")
    sent = [value for name, value in headers if name.lower() == "stripe-signature"]
    if len(sent) != 1:
        raise BadSignature("One Stripe-Signature header is needed.")
    parts = [part.strip().partition("=") for part in sent[0].split(",")]
    if not all(name and value for name, _, value in parts):
        raise BadSignature("The signature is not written as Stripe writes it.")
    times = [value for name, _, value in parts if name == "t"]
    if len(times) != 1 or not re.fullmatch(r"[0-9]{1,12}", times[0]):
        raise BadSignature("The signature has no time, or several.")
    signatures = [value.encode("utf-8", "replace") for name, _, value in parts if name == "v1"]
    if not all(len(signature) == 64 for signature in signatures):
        raise BadSignature("A signature has another length than Stripe's.")
    signed = times[0].encode() + b"." + body
    good = False
    for secret in filter(None, secrets):
        expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest().encode()
        for signature in signatures:
            good |= hmac.compare_digest(signature, expected)
    if not good:
        raise BadSignature("The signature is wrong: is the secret that of this endpoint?")
    if abs(now.timestamp() - int(times[0])) > TOLERANCE_S:
        raise BadSignature("The signature is too old, or its time lies in the future: is our clock right?")


def read(body: bytes, live: bool | None) -> list[Event]:
    """The event of a proved body, in the mode of our key where we have one."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        raise BadSignature("The body is not JSON.") from None
    try:
        found = told(said)
    except ValueError as error:
        raise BadSignature(str(error)) from error
    if found and live is not None and said.get("livemode") is not live:
        raise BadSignature("The event is of the other mode: live and test have secrets of their own.")
    return found


def told(said: Any) -> list[Event]:
    """The event that an object is; none for the thin events of API v2 and for those of connected accounts."""
    if not isinstance(said, dict):
        raise ValueError("The body is not an event.")
    if said.get("object") == "v2.core.event" or said.get("account"):
        return []
    data = as_dict(said.get("data"))
    event_id, kind, one = id_of(said), said.get("type"), data.get("object")
    if not event_id or not isinstance(kind, str) or not isinstance(one, dict):
        raise ValueError("The body is not an event.")
    subject = subject_of(kind, one, as_dict(data.get("previous_attributes")))
    kept = {"id": id_of(one), "object": one.get("object"), "customer": id_of(one.get("customer"))}
    return [Event(event_id, kind, subject, shapes.moment(said.get("created")), kept)]


def subject_of(kind: str, one: Json, previous: Json) -> Ref | None:
    """What to look at again after an event; None where nothing of ours can have changed."""
    if kind.startswith("customer.subscription."):
        return _ref("subscription", one.get("id"))
    if kind in ("customer.created", "customer.updated", "customer.deleted"):
        return _ref("customer", one.get("id"))
    if kind.startswith(("customer.", "payment_method.")):
        return _ref("customer", one.get("customer") or previous.get("customer"))
    if kind.startswith(("invoice_payment.", "credit_note.")):
        return _ref("invoice", one.get("invoice"))
    if kind.startswith("invoice."):
        upcoming = kind in ("invoice.upcoming", "invoice.will_be_due") or not one.get("id")
        return _ref("subscription", shapes.subscription_of(one)) if upcoming else _ref("invoice", one["id"])
    if kind.startswith(("charge.dispute.", "charge.refund.", "refund.")):
        return _ref("payment", one.get("charge")) or (
            _ref("refund", one.get("id")) if one.get("object") == "refund" else None
        )
    if kind.startswith("charge."):
        return _ref("payment", one.get("id"))
    if kind.startswith("checkout.session."):
        session = _ref("order", one.get("id")) if one.get("mode") == "payment" else None
        return session or _ref("subscription", shapes.subscription_of_session(one))
    if kind.startswith("setup_intent."):
        noted = _ref("subscription", as_dict(one.get("metadata")).get("subscription_id"))
        return noted or _ref("customer", one.get("customer"))
    if kind.startswith("subscription_schedule."):
        return _ref("subscription", one.get("subscription") or one.get("released_subscription"))
    return None


def _ref(kind: Any, value: Any) -> Ref | None:
    found = id_of(value)
    return Ref(kind, found) if found and re.fullmatch(r"[A-Za-z0-9_-]{1,255}", found) else None


def last_word(event: Event) -> Record | None:
    """What a proved event says of an object that Stripe does not have any more."""
    if event.subject is None:
        return None
    which = event.subject.id
    if event.type == "customer.subscription.deleted":
        spoken = frozenset({"status", "raw_status", "ended_at", "next_payment"})
        return SubscriptionRecord(
            remote_id=which,
            status="cancelled",
            raw_status="canceled",
            ended_at=event.occurred_at,
            knows=spoken,
        )
    if event.type == "customer.deleted":
        return CustomerRecord(remote_id=which, deleted=True, knows=frozenset({"deleted"}))
    if event.type == "invoice.deleted":
        return InvoiceRecord(remote_id=which, status="void", knows=frozenset({"status"}))
    return None
