"""Instamojo's objects as our records, in both generations of its API, and the proof of its notices: pure.

Amounts are text in rupees, times ISO 8601 (UTC where no zone is named). v1.1 has "Credit" and "Failed" where v2 has
true, false and null, and v2 names other objects by their address, of which only the id is taken.
Source: https://docs.instamojo.com/docs/payments-api
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

from portal.gateways import base, wire
from portal.gateways.base import BadSignature, Event, Line, OrderRecord, PaymentRecord, Ref, RefundRecord
from portal.gateways.wire import Json, major, moment, part, spoken, text, whole
from portal.money import Money

ORDERS: dict[str, base.OrderStatus] = {
    "pending": "open",
    "sent": "open",
    "completed": "paid",
    "failed": "failed",
}
PAYMENTS: dict[Any, base.PaymentStatus] = {
    "Credit": "paid",
    "Failed": "failed",
    True: "paid",
    False: "failed",
    None: "pending",
}
REFUNDS: dict[Any, base.RefundStatus] = {
    "Refunded": "sent",
    None: "pending",
    "FINI_CONC": "sent",
    "FINI_DENY": "failed",
    "FINI_WITH": "cancelled",
    "FINI_INIT": "cancelled",
}
REASONS = {  # `type` of a refund; its `body` is the shop's own note and is not shown
    "RFD": "Duplicate or delayed payment",
    "TNR": "Not available any more",
    "QFL": "Not satisfied with it",
    "QNR": "Lost or damaged",
    "EWN": "Trouble with the download",
    "TAN": "The event was cancelled or changed",
}
ID, MOJO = r"[A-Za-z0-9][A-Za-z0-9-]{5,63}", r"MOJO[A-Za-z0-9]{4,60}"
ENVELOPES = ("payment_request", "order", "payment", "refund")
NOTHING: Json = {}
Group = tuple[Json, Sequence[Json]]  # a request, or nothing, and payments of it


def snapshot(as_of: datetime, groups: Iterable[Group] = (), refunds: Iterable[Json] = ()) -> base.Snapshot:
    """Requests with their payments, and refunds; ValueError where one of them is none."""
    orders: list[OrderRecord] = []
    payments: list[PaymentRecord] = []
    for about, paid in groups:
        own = order(about, paid, as_of) if about else None
        alone = [sale(one, about) for one in paid if order_of(one, about) == id_of(one)]
        orders += [*([own] if own else []), *alone]
        payments += [payment(one, about) if about else _without_request(one) for one in paid]
    return base.Snapshot(
        as_of=as_of,
        orders=tuple(orders),
        payments=tuple(payments),
        refunds=tuple(refund(one) for one in refunds),
    )


def order(said: Json, payments: Sequence[Json], now: datetime) -> OrderRecord | None:
    """A payment request, or an order of v2. None for a link that anybody may pay again and again: there each payment
    is an order of its own."""
    if not {"purpose", "longurl", "transaction_id"} & set(said):
        raise ValueError("This is neither a payment request nor an order.")
    number, email = _id(said, ID), text(said.get("email"))
    if said.get("allow_repeated_payments") is True and not email:
        return None
    mine = [one for one in payments if order_of(one, said) == number and status_of(one) == "paid"]
    word, ends = text(said.get("status")), moment(said.get("expires_at"))
    status = ORDERS.get((word or "").lower())
    if status == "open" and mine:
        status = "paid"  # nobody is asked to pay twice while the request lags behind its payment
    elif status == "open" and ends and ends <= now:
        status = "expired"
    amount, title = _rupees(said, "amount"), text(said.get("purpose")) or text(said.get("description"))
    link = text(said.get("longurl")) or ""
    return spoken(
        OrderRecord,
        number,
        also=("due_link",) if status else (),
        email=email or (_email(mine[0]) if mine else None),
        raw_status=word,
        status=status,
        number=text(said.get("transaction_id")),
        title=title,
        amount=amount,
        lines=_lines(mine[0] if mine else NOTHING, title, amount),
        due_link=link if status == "open" and link.startswith("http") else None,
        created_at=moment(said.get("created_at")),
        updated_at=moment(said.get("modified_at")),
    )


def sale(said: Json, about: Json = NOTHING) -> OrderRecord:
    """A payment that is an order of its own: of a link for everybody, or without any request."""
    number, title, amount = _id(said, MOJO), _title(said, about), _rupees(said, "amount")
    status = status_of(said)
    return spoken(
        OrderRecord,
        number,
        also=("due_link",),
        email=_email(said),
        raw_status=_raw(said),
        status="paid" if status == "paid" else "failed" if status == "failed" else None,
        number=None if title else number,
        title=title,
        amount=amount,
        lines=_lines(said, title, amount),
        created_at=moment(said.get("created_at")),
        updated_at=moment(said.get("updated_at")),
    )


def payment(said: Json, about: Json = NOTHING) -> PaymentRecord:
    """A payment; `about` is its request, where that is at hand."""
    status, failure = status_of(said), part(said, "failure")
    kind, created = text(said.get("instrument_type")), moment(said.get("created_at"))
    code, why = text(failure.get("reason")), text(failure.get("message"))
    return spoken(
        PaymentRecord,
        _id(said, MOJO),
        email=_email(said),
        raw_status=_raw(said),
        status=status,
        title=_title(said, about),
        amount=_rupees(said, "amount"),
        paid_at=created if status == "paid" else None,
        method=base.Method({"QR": "qr_code"}.get(kind, kind.lower())) if kind else None,
        order=order_of(said, about),
        failure=base.Failure(code or "failed", why) if code or why else None,
        created_at=created,
        updated_at=moment(said.get("updated_at")),
    )


def refund(said: Json) -> RefundRecord:
    """A case. v1.1 has one word for its state; v2 keeps the outcome beside it, null while there is none."""
    new = "resolution_status" in said
    word = said.get("resolution_status") if new else text(said.get("status"))
    known = (word is None and new) or isinstance(word, str)
    if "refund_amount" not in said:
        raise ValueError("This is no refund of Instamojo's: it has no refund_amount.")
    return spoken(
        RefundRecord,
        _id(said, ID),
        raw_status=text(word) or text(said.get("status")),
        status=REFUNDS.get(word) if known else None,
        payment=named(said.get("payment_id")) or named(said.get("payment")),
        amount=_rupees(said, "refund_amount"),
        reason=REASONS.get(text(said.get("type")) or ""),
        created_at=moment(said.get("created_at")),
        updated_at=moment(said.get("updated_at")),
    )


def _without_request(said: Json) -> PaymentRecord:
    """A payment whose request is not at hand. Where it went through, that request tells whether it is the order."""
    record = payment(said)
    if record.status != "paid" or not named(said.get("payment_request")):
        return record
    return replace(record, order=None, knows=(record.knows or frozenset()) - {"order"})


def order_of(said: Json, about: Json = NOTHING) -> str | None:
    """The order that a payment belongs to: its request, unless that is a link that others pay too. One of v2 that
    names no request may belong to an order that it does not name either."""
    own = id_of(said) if status_of(said) == "paid" else None
    if not about:
        return named(said.get("payment_request")) or (own if "payment_id" in said else None)
    mine = (_email(said) or "").lower() == (text(about.get("email")) or "").lower() != ""
    return id_of(about) if mine or about.get("allow_repeated_payments") is not True else own


def status_of(said: Json) -> base.PaymentStatus | None:
    """v1.1 has words; v2 has true, false, and null for one that was begun. Neither is taken for the other."""
    word, new = said.get("status", ""), "payment_id" not in said
    fits = isinstance(word, bool) or word is None if new else isinstance(word, str)
    return PAYMENTS.get(word) if fits else None


def ids(said: Json, name: str) -> list[str]:
    """The ids in a list of addresses, of ids or of objects; empty where there is no list."""
    listed = said.get(name)
    found = [named(one) or id_of(one) for one in listed] if isinstance(listed, list) else []
    return [one for one in found if one]


def bare(said: Any) -> Json:
    """An object without the envelope of v1.1."""
    whole_answer = wire.obj(said)
    inner = (whole_answer.get(name) for name in ENVELOPES)
    return next((one for one in inner if isinstance(one, dict)), whole_answer)


def named(value: Any) -> str | None:
    """The id at the end of an object's address, or the id itself."""
    last = value.rstrip("/").rpartition("/")[2] if isinstance(value, str) else ""
    return last if re.fullmatch(ID, last) else None


def id_of(said: Any) -> str | None:
    """Its own id: a payment of v1.1 has only a payment_id, a refund has that of its payment beside its own."""
    return text(said.get("id") or said.get("payment_id")) if isinstance(said, dict) else None


def _id(said: Json, pattern: str) -> str:
    number = id_of(said)
    if not number or not re.fullmatch(pattern, number):
        raise ValueError("This is no such object: it has no id of that form.")
    return number


def _email(said: Json) -> str | None:
    return next(
        (found for name in ("buyer_email", "email", "buyer") if (found := text(said.get(name)))), None
    )


def _raw(said: Json) -> str | None:
    word = said.get("status", "")
    return json.dumps(word) if isinstance(word, bool) or word is None else text(word)


def _title(said: Json, about: Json) -> str | None:
    return text(about.get("purpose")) or text(about.get("description")) or text(said.get("title"))


def _rupees(said: Json, name: str) -> Money | None:
    return major(said.get(name), said.get("currency") or "INR")


def _lines(said: Json, name: str | None, amount: Money | None) -> tuple[Line, ...] | None:
    of = said if "unit_price" in said else {**part(said, "order_info"), "currency": said.get("currency")}
    count, price = whole(of.get("quantity")) or 0, _rupees(of, "unit_price")
    if name and price and count > 0:
        return (Line(name, count, price * count),)
    return (Line(name, 1, amount),) if name and amount else None


# Notices


def fields(body: bytes) -> dict[str, str]:
    """The decoded fields of a notice, blank ones too; BadSignature for what is no form or has a field twice."""
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=100
        )
    except ValueError:
        raise BadSignature("The body is not a form.") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadSignature("A field comes twice.")
    return found


def mac(said: dict[str, str], salt: bytes) -> str:
    """The authentication code over the values, in the order of their names without regard to case."""
    values = [said[name] for name in sorted(said, key=str.lower) if name != "mac"]
    return wire.hmac_hex(salt, "|".join(values).encode(), "sha1")


def event(said: Json) -> Event:
    """Where to look, and no more: the names of the fields are not signed, so values could have been moved."""
    paid, about = named(said.get("payment_id")), named(said.get("payment_request_id"))
    word = text(said.get("status")) or "unknown"
    subject = Ref("order", about) if about else None
    if paid and re.fullmatch(MOJO, paid):
        subject = Ref("payment", paid)
    name = paid or about or wire.digest(json.dumps(said, sort_keys=True, default=str))
    return Event(f"{name}:{word}", word, subject, None, {"payment_request": about})
