"""What a merchant's developer can ask of an adapter without network and database: is this delivery genuine, and what
does the portal make of this object? The shapes are one for all processors; unknown is null and never left out."""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, get_args

from portal import clock
from portal.gateways import adapter, processors
from portal.gateways.base import (
    BadSignature,
    Event,
    Gateway,
    GatewayError,
    InvoiceRecord,
    Kind,
    Method,
    NextPayment,
    OrderRecord,
    PaymentRecord,
    Record,
    RefundRecord,
    SubscriptionRecord,
)
from portal.money import Money

KINDS = (*get_args(Kind), "event")


class BadInput(Exception):
    """What was handed in cannot be worked with; the sentence says what to do."""


def verify(
    processor: str,
    credentials: Path,
    headers: Path,
    body: Path,
    now: str | None = None,
    variant: str | None = None,
) -> dict[str, Any]:
    """The events of a delivery, proved with these credentials. Raises BadSignature, or BadInput for unusable files.

    `credentials` holds the fields of the settings form, and `certificate` (PEM) where the processor signs with one;
    `headers` names to a value, or to a list where a header came more than once; `body` is the raw bytes.
    """
    given = _object(credentials, "credentials")
    certificate = given.pop("certificate", None)
    fields = {name: str(value) for name, value in given.items() if value is not None}
    gateway = _adapter(processor)(fields, variant=variant)
    pairs = [
        (name, str(one))
        for name, value in _object(headers, "headers").items()
        for one in (value if isinstance(value, list) else [value])
    ]
    pem = str(certificate).encode() if certificate is not None else None
    events = gateway.verify(pairs, _bytes(body), _moment(now), pem)
    return {"events": [_event(event) for event in events]}


def read(processor: str, kind: str, path: Path) -> dict[str, Any]:
    """The portal's snapshot of one object of a processor. Raises BadInput for what it cannot be."""
    if kind not in KINDS:
        raise BadInput(f"{kind} is no kind; one of {', '.join(KINDS)}.")
    found = _adapter(processor)
    try:
        said = json.loads(_bytes(path))
    except ValueError as error:
        raise BadInput(f"{path}: not JSON ({error}).") from error
    try:
        record = found.read(kind, said)  # type: ignore[arg-type]
    except GatewayError as error:
        raise BadInput(error.hint or error.customer or f"This is no {kind} of {processor}.") from error
    except ValueError as error:
        raise BadInput(str(error)) from error
    return _events(record) if isinstance(record, list) else as_json(kind, record)


def _adapter(processor: str) -> type[Gateway]:
    if processor not in processors():
        raise BadInput(f"{processor} is no processor; one of {', '.join(processors())}.")
    return adapter(processor)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} can't be read: {error.strerror}.") from error


def _object(path: Path, what: str) -> dict[str, Any]:
    try:
        said = json.loads(_bytes(path))
    except ValueError as error:
        raise BadInput(f"{path}: not JSON ({error}).") from error
    if not isinstance(said, dict):
        raise BadInput(f"{path}: {what} are a JSON object.")
    return said


def _moment(text: str | None) -> datetime:
    if text is None:
        return clock.now()
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"{text!r} is no ISO 8601 moment, such as 2026-11-24T10:00:00Z.") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


# The shapes


def as_json(kind: str, record: Record) -> dict[str, Any]:
    """A record in the shape that `portal gateway read` prints."""
    amount = getattr(record, "amount", None)
    return {
        "kind": kind,
        "remote_id": record.remote_id,
        "email": record.email,
        "status": getattr(record, "status", None),
        "raw_status": record.raw_status,
        "amount": _money(amount),
        "created_at": _utc(record.created_at),
        "updated_at": _utc(record.updated_at),
        **_more(record),
    }


def _more(record: Record) -> dict[str, Any]:
    match record:
        case SubscriptionRecord():
            return {
                "interval": {"unit": record.interval.unit, "count": record.interval.count}
                if record.interval
                else None,
                "current_period_end": _utc(record.current_period_end),
                "next_payment": _next(record.next_payment),
                "cancels_at": _utc(record.cancels_at),
                "ended_at": _utc(record.ended_at),
                "quantity": record.quantity,
                "method": _method(record.method),
            }
        case PaymentRecord():
            return {
                "paid_at": _utc(record.paid_at),
                "method": _method(record.method),
                "refunded": _money(record.refunded),
                "order": record.order,
                "subscription": record.subscription,
                "failure": {"code": record.failure.code, "reason": record.failure.reason}
                if record.failure
                else None,
            }
        case OrderRecord():
            return {
                "lines": [
                    {"name": line.name, "quantity": line.quantity, "amount": _money(line.amount)}
                    for line in record.lines
                ]
            }
        case RefundRecord():
            return {"payment": record.payment}
        case InvoiceRecord():
            return {
                "number": record.number,
                "document_url": record.document_url,
                "page_url": record.page_url,
                "payment": record.payment,
            }
    return {}


def _events(events: list[Event]) -> dict[str, Any]:
    """One shape for notices too: the first event in the common fields, all of them in `events`."""
    told = [_event(event) for event in events]
    first: Mapping[str, Any] = told[0] if told else {"id": None, "type": None, "occurred_at": None}
    return {
        "kind": "event",
        "remote_id": first["id"],
        "email": None,
        "status": None,
        "raw_status": first["type"],
        "amount": None,
        "created_at": first["occurred_at"],
        "updated_at": None,
        "events": told,
    }


def _event(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "type": event.type,
        "subject": {"kind": event.subject.kind, "id": event.subject.id} if event.subject else None,
        "occurred_at": _utc(event.occurred_at),
    }


def _money(amount: Money | None) -> dict[str, Any] | None:
    return {"minor": amount.minor, "currency": amount.currency} if amount is not None else None


def _method(method: Method | None) -> dict[str, Any] | None:
    if method is None:
        return None
    return {name: getattr(method, name) for name in ("kind", "brand", "last4", "expires")}


def _next(payment: NextPayment | None) -> dict[str, Any] | None:
    if payment is None:
        return None
    return {"on": _day(payment.on), "amount": _money(payment.amount), "certainty": payment.certainty}


def _utc(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment else None


def _day(value: date) -> str:
    return value.isoformat()


__all__ = ["KINDS", "BadInput", "BadSignature", "as_json", "read", "verify"]
