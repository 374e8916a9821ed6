"""Klarna's words turned into ours: orders, customer tokens, webhooks, refusals, and the merchant's own list of tokens.

Pure functions without network; `portal.gateways.klarna` asks and these read. Field names are those of Klarna's Order
Management and Customer Token APIs (https://docs.klarna.com/api), amounts whole minor units with tax.
"""

import csv
import io
import json
import re
from calendar import monthrange
from collections.abc import Iterable
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

from portal import clock
from portal.gateways import base, wire
from portal.gateways.base import Declined, Gone, Ref, Snapshot, SubscriptionRecord, Unavailable
from portal.gateways.wire import Json, minor, moment, part, spoken, text, whole

TOKENS: dict[Any, base.SubscriptionStatus] = {
    "ACTIVE": "active",
    "SUSPENDED": "past_due",  # every charge is refused until the customer repairs it
    "CANCELLED": "cancelled",
}
ORDERS: dict[Any, base.OrderStatus] = {
    "AUTHORIZED": "open",
    "PART_CAPTURED": "open",
    "CAPTURED": "paid",
    "CANCELLED": "cancelled",
    "EXPIRED": "expired",
}
UNCAPTURED: dict[Any, base.PaymentStatus] = {
    "AUTHORIZED": "authorized",
    "CANCELLED": "cancelled",
    "EXPIRED": "expired",
    "CLOSED": "cancelled",
}
REVIEWED: dict[Any, base.PaymentStatus] = {
    "PENDING": "pending",
    "REJECTED": "failed",
}  # only while authorized
UNITS: dict[Any, base.Unit] = {"DAY": "day", "WEEK": "week", "MONTH": "month", "YEAR": "year"}
THE_SHOPS_WORDS = ("trialing", "paused", "cancelled", "expired")  # an active token says nothing against these
ACCEPTED = "ACTIVE, cancel accepted"  # Klarna cancels in its own time
SHARED = "shared_token"
UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class KeysRefused(Unavailable):
    """A 401, or a 403 that is not about the order or token: these keys may not do this."""


def words(said: Any) -> tuple[str, str]:
    """Code and message; classic errors have `error_messages`, those of v2 `error_message`. Ids are left out."""
    messages = [said["error_message"]] if "error_message" in said else said.get("error_messages") or []
    return str(said.get("error_code") or ""), UUID.sub("…", "; ".join(map(str, messages)))


def refused(status: int, code: str, message: str) -> base.GatewayError | None:
    """What a refusal means beyond the usual: a 403 is about the keys unless its code names the order or token."""
    said = f"Klarna says: HTTP {status} {code} {message}".strip()
    if status == 403 and (code.endswith("NOT_ALLOWED") or code.startswith("TOKEN_")):
        return Declined("Klarna did not accept this.", said, reason=code)
    if status in (401, 403):
        hint = f"{said}. Keys belong to one region and one environment, test or live: compare all three."
        return KeysRefused(
            "Klarna does not accept this shop's keys at the moment. Nothing was changed.", hint
        )
    if status == 404 or code == "INVALID_ORDER_ID":
        hint = f"{said}. A mistyped id and another region are answered alike, so this proves no cancellation."
        return Gone("Klarna does not know this.", hint)
    return Unavailable("Klarna is busy with this. Nothing was changed.", said, 5.0) if status == 409 else None


def known(ref: Ref) -> SubscriptionRecord:
    """What our rows know of a subscription; nothing but its id where they were not asked."""
    return ref.known if isinstance(ref.known, SubscriptionRecord) else SubscriptionRecord(remote_id=ref.id)


def called(ref: Ref) -> str:
    """A subscription for the merchant's eyes."""
    was = known(ref)
    return " of ".join(filter(None, (was.title or f"Subscription {ref.id}", was.email)))


def tokens(ref: Ref) -> list[str]:
    """The token that has replaced the first one, if any, and the first one."""
    paid_by = known(ref).method
    newer = paid_by.remote_id if paid_by else None
    return [one for one in dict.fromkeys((newer, ref.id.partition("/")[0])) if one]


def subscription(ref: Ref, said: Json, token: str | None) -> SubscriptionRecord:
    """What a customer token tells of the subscription that is charged by it."""
    was, word = known(ref), text(said.get("status"))
    status = TOKENS.get(word)
    keeps = status == "active" and was.status in THE_SHOPS_WORDS
    return spoken(
        SubscriptionRecord,
        ref.id,
        status=None if keeps else status,
        raw_status=ACCEPTED if word == "ACTIVE" and was.raw_status == ACCEPTED else word,
        stopped=status == "past_due" if status else None,
        method=method(said, None if was.object == SHARED else token),
    )


def moved(ref: Ref, said: Json, token: str) -> tuple[SubscriptionRecord, ...]:
    """A contract that the shop charges by a new token goes on under its id, with all that was known of it."""
    was, plan = known(ref), ref.id.partition("/")[2]
    remote_id = f"{token}/{plan}" if plan else token
    names = ("email", "title", "amount", "interval", "quantity", "current_period_end", "next_payment")
    carried = spoken(SubscriptionRecord, remote_id, **{name: getattr(was, name) for name in names})
    ended = spoken(SubscriptionRecord, ref.id, status="cancelled", raw_status="CANCELLED")
    return ended, _joined(carried, subscription(replace(ref, id=remote_id), said, token))


def _joined(one: SubscriptionRecord, other: SubscriptionRecord) -> SubscriptionRecord:
    """What both speak of; the other has the last word."""
    fields = {name: getattr(other, name) for name in other.knows or ()}
    return replace(one, **fields, knows=(one.knows or frozenset()) | (other.knows or frozenset()))


def method(said: Json, token: str | None = None) -> base.Method | None:
    """Of a token (`payment_method_type`, `card`, `direct_debit`) or an order's first method (`type`, `description`)."""
    kind = (text(said.get("payment_method_type")) or text(said.get("type")) or "").upper()
    card, bank = part(said, "card"), part(said, "direct_debit")
    if not (kind or card or bank):
        return None
    sort = "card" if card or "CARD" in kind else "bank_debit" if bank or "DEBIT" in kind else "pay_later"
    masked = text(card.get("masked_number")) or text(bank.get("masked_number"))
    month, _, year = (text(card.get("expiry_date")) or "").partition("/")
    brand = text(card.get("brand")) or text(said.get("description")) or (None if masked else "Klarna")
    return base.Method(sort, brand, wire.last4(masked), wire.expiry(month, year), token)


def signed_up(token: str, said: Json, order: Json) -> tuple[SubscriptionRecord, ...]:
    """A subscription for each plan in an order that a token paid; with several, the token is none of theirs alone."""
    lines = {_slug(line): line for line in _list(order, "order_lines") if part(line, "subscription")}
    sort, records = SHARED if len(lines) > 1 else None, []
    for name, line in lines.items() or [("", {})]:
        remote_id = f"{token}/{name}" if name else token
        ref = Ref("subscription", remote_id, SubscriptionRecord(remote_id=remote_id, object=sort))
        records.append(_with_plan(subscription(ref, said, token), line, order, sort))
    return tuple(records)


def _slug(line: Json) -> str:
    named = text(line.get("reference")) or text(line.get("name")) or "plan"
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", named)[:80]


def _with_plan(record: SubscriptionRecord, line: Json, order: Json, sort: str | None) -> SubscriptionRecord:
    """What the line tells. The period is told only while it runs, so that events may come late and in any order."""
    plan, start = part(line, "subscription"), moment(order.get("created_at"))
    unit, count = UNITS.get(text(plan.get("interval"))), whole(plan.get("interval_count")) or 1
    end = _later(start, unit, count) if start and unit else None
    runs = end is not None and end > clock.now() and _status(order) in ("open", "paid")
    amount = minor(line.get("total_amount"), order.get("purchase_currency"))
    told = spoken(
        SubscriptionRecord,
        record.remote_id,
        email=_email(order),
        title=text(plan.get("name")) or text(line.get("name")),
        amount=amount,
        interval=base.Interval(unit, count) if unit else None,
        quantity=whole(line.get("quantity")),
        object=sort,
        current_period_start=start if runs else None,
        current_period_end=end if runs else None,
        next_payment=base.NextPayment(end.date(), amount, "merchant") if end and runs else None,
    )
    return _joined(told, record)


def _later(start: datetime, unit: base.Unit, count: int) -> datetime | None:
    try:
        if unit in ("day", "week"):
            return start + timedelta(days=count * (7 if unit == "week" else 1))
        year, month = divmod(start.year * 12 + start.month - 1 + count * (12 if unit == "year" else 1), 12)
        return start.replace(year=year, month=month + 1, day=min(start.day, monthrange(year, month + 1)[1]))
    except (ValueError, OverflowError):
        return None


def snapshot(as_of: datetime, orders: Iterable[Json], subscription: str | None = None) -> Snapshot:
    """Orders with their payments and refunds; `subscription` is the one that they belong to, where it is known."""
    found = list(orders)
    return Snapshot(
        as_of=as_of,
        orders=tuple(_order(said, subscription) for said in found),
        payments=tuple(one for said in found for one in _payments(said, subscription)),
        refunds=tuple(one for said in found for one in _refunds(said)),
    )


def _order(said: Json, subscription: str | None) -> base.OrderRecord:
    currency, lines = said.get("purchase_currency"), _list(said, "order_lines")
    taxes = [whole(line.get("total_tax_amount")) for line in lines]
    return spoken(
        base.OrderRecord,
        text(said.get("order_id")) or "",
        status=_status(said),
        raw_status=_raw_status(said),
        email=_email(said),
        created_at=moment(said.get("created_at")),
        number=text(said.get("merchant_reference1")) or text(said.get("klarna_reference")),
        title=_title(said),
        amount=minor(said.get("order_amount"), currency),
        tax=minor(sum(filter(None, taxes)), currency) if any(tax is not None for tax in taxes) else None,
        lines=tuple(filter(None, (_line(line, currency) for line in lines))) or None,
        subscription=subscription,
    )


def _line(line: Json, currency: Any) -> base.Line | None:
    name, amount = text(line.get("name")), minor(line.get("total_amount"), currency)
    return base.Line(name, whole(line.get("quantity")) or 1, amount) if name and amount is not None else None


def _title(said: Json) -> str | None:
    lines = _list(said, "order_lines")
    return text(part(lines[0], "subscription").get("name")) or text(lines[0].get("name")) if lines else None


def _email(said: Json) -> str | None:
    return text(part(said, "billing_address").get("email"))


def _raw_status(said: Json) -> str | None:
    """The status, and beside it what the review of an authorized order says."""
    word, review = text(said.get("status")), text(said.get("fraud_status"))
    return f"{word} {review}" if word == "AUTHORIZED" and review in REVIEWED else word


def _status(said: Json) -> base.OrderStatus | None:
    """A late word of the review never revives what has been cancelled: it counts only while authorized."""
    word = text(said.get("status"))
    captured, back = (whole(said.get(name)) or 0 for name in ("captured_amount", "refunded_amount"))
    if word == "AUTHORIZED" and text(said.get("fraud_status")) == "REJECTED":
        return "failed"
    if word in ("CAPTURED", "CLOSED") and back > 0:
        return "refunded" if back >= captured else "partially_refunded"
    if word == "CLOSED":
        return "paid" if captured > 0 else "cancelled"
    return ORDERS.get(word)


def _captures(said: Json) -> list[tuple[str, Json]]:
    """Captures with our ids, oldest first; the order's own sums where it does not list them."""
    order_id = text(said.get("order_id")) or ""
    found = sorted(_list(said, "captures"), key=lambda one: text(one.get("captured_at")) or "")
    if not found and (whole(said.get("captured_amount")) or 0) > 0:
        return [(order_id, {name: value for name, value in said.items() if name != "description"})]
    return [
        (f"{order_id}:{text(one.get('capture_id')) or at}" if at else order_id, one)
        for at, one in enumerate(found)
    ]


def _payments(said: Json, subscription: str | None) -> tuple[base.PaymentRecord, ...]:
    order_id, currency, word = (
        text(said.get("order_id")) or "",
        said.get("purchase_currency"),
        _raw_status(said),
    )
    shared: dict[str, Any] = {
        "email": _email(said),
        "title": _title(said),
        "raw_status": word,
        "order": order_id,
        "subscription": subscription,
        "method": method(part(said, "initial_payment_method")),
    }
    if captures := _captures(said):
        return tuple(_captured(name, one, currency, shared) for name, one in captures)
    review = (
        REVIEWED.get(text(said.get("fraud_status"))) if text(said.get("status")) == "AUTHORIZED" else None
    )
    status = review or UNCAPTURED.get(text(said.get("status")))
    if status is None:
        return ()
    failure = base.Failure("FRAUD_REJECTED") if status == "failed" else None
    amount, made = minor(said.get("order_amount"), currency), moment(said.get("created_at"))
    return (
        spoken(
            base.PaymentRecord,
            order_id,
            status=status,
            amount=amount,
            created_at=made,
            failure=failure,
            **shared,
        ),
    )


def _captured(remote_id: str, said: Json, currency: Any, shared: dict[str, Any]) -> base.PaymentRecord:
    amount, back = minor(said.get("captured_amount"), currency), minor(said.get("refunded_amount"), currency)
    status: base.PaymentStatus = "paid"
    if amount and back:
        status = "refunded" if back.minor >= amount.minor else "partially_refunded"
    at = moment(said.get("captured_at"))
    return spoken(
        base.PaymentRecord,
        remote_id,
        status=status,
        amount=amount,
        refunded=back,
        paid_at=at,
        created_at=at or moment(said.get("created_at")),
        **shared,
    )


def _refunds(said: Json) -> tuple[base.RefundRecord, ...]:
    """Refunds belong to the order; they are one capture's where only one has been paid back."""
    order_id, currency = text(said.get("order_id")) or "", said.get("purchase_currency")
    backed = [name for name, one in _captures(said) if whole(one.get("refunded_amount"))]
    return tuple(
        spoken(
            base.RefundRecord,
            f"{order_id}:{text(one.get('refund_id')) or at}",
            status="sent",
            payment=backed[0] if len(backed) == 1 else order_id,
            amount=minor(one.get("refunded_amount"), currency),
            reason=text(one.get("description")),
            created_at=moment(one.get("refunded_at")),
        )
        for at, one in enumerate(_list(said, "refunds"))
    )


def event(said: Json) -> base.Event:
    """A signed event of v2. A transaction's id ends in that of the order; reading the order shows whether it does."""
    meta, told = part(said, "metadata"), part(said, "payload")
    named = text(told.get("order_id")) or text(told.get("payment_transaction_id")) or ""
    order = found[-1] if (found := UUID.findall(named)) else None
    body = {
        "order": order,
        "token": text(part(told, "klarna_customer").get("customer_token")),
        "state": text(told.get("state")),
    }
    return base.Event(
        text(meta.get("event_id")) or wire.digest(json.dumps(said, sort_keys=True)),
        text(meta.get("event_type")) or "unknown",
        Ref("order", order) if order else None,
        moment(meta.get("occurred_at")),
        {name: value for name, value in body.items() if value},
    )


def hint(said: Json, now: datetime) -> base.Event:
    """An unsigned push. It has no id; the minute in ours lets the same word about an order be heard again later."""
    order, word = text(said.get("order_id")), text(said.get("event_type")) or "push"
    subject = Ref("order", order) if order and UUID.fullmatch(order) else None
    named = order if subject else wire.digest(json.dumps(said, sort_keys=True))
    return base.Event(f"{named}:{word[:100]}:{int(now.timestamp()) // 60}", word[:100], subject, None)


def read_tokens_csv(said: str) -> Snapshot:
    """The merchant's own list, since nothing lists tokens: columns `email` and `token`, and where there are any `plan`
    (the reference of the order line), `title`, `amount` (12.90), `currency`, `interval` (1 month), `next_payment`
    (2026-12-24), in any order. Rows without a token need a plan; a token that stands in several rows is none's alone.

    Raises ValueError that names every bad line, and no token.
    """
    lines = csv.reader(io.StringIO(said.lstrip("\ufeff")))
    header = [name.strip().lower() for name in next(lines, [])]
    if missing := {"email", "token"} - set(header):
        raise ValueError(f"line 1: no column {', '.join(sorted(missing))}")
    rows = [
        (lines.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=False))) for cells in lines
    ]
    rows = [(number, row) for number, row in rows if any(row.values())]
    used = [row.get("token", "") for _, row in rows]
    records, wrong = dict[str, SubscriptionRecord](), []
    for number, row in rows:
        try:
            record = _handed_over(row, shared=used.count(row.get("token", "")) > 1)
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
            continue
        if record.remote_id in records:
            wrong.append(f"line {number}: this token and plan stand in another line too")
        records[record.remote_id] = record
    if wrong:
        raise ValueError("; ".join(wrong))
    return Snapshot(as_of=clock.now(), subscriptions=tuple(records.values()))


def _handed_over(row: dict[str, str], shared: bool) -> SubscriptionRecord:
    email, token, plan = (row.get(name, "") for name in ("email", "token", "plan"))
    every = re.fullmatch(r"([1-9][0-9]{0,2}) (day|week|month|year)s?", row.get("interval") or "1 month")
    amount = wire.major(row.get("amount"), row.get("currency"))
    on = row.get("next_payment") or None
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", email):
        raise ValueError("this is no e-mail address")
    if (token and not re.fullmatch(r"[A-Za-z0-9_.:-]{8,200}", token)) or not (token or plan):
        raise ValueError("this is no token of Klarna's")
    if every is None or (row.get("amount") and amount is None) or (on and wire.day(on) is None):
        raise ValueError("interval, amount or next_payment can't be read")
    unit: Any = every[2]
    due: date | None = wire.day(on)
    return spoken(
        SubscriptionRecord,
        token_and_plan(token, plan) or "",
        status="active" if not token else None,  # what a token is worth Klarna tells
        email=email,
        title=row.get("title") or None,
        amount=amount,
        interval=base.Interval(unit, int(every[1])) if row.get("interval") else None,
        next_payment=base.NextPayment(due, amount, "merchant") if due else None,
        current_period_end=moment(on) if due else None,
        object=SHARED if token and shared else None,
    )


def token_and_plan(token: str | None, plan: str | None) -> str | None:
    """The id of a subscription by its token and the reference of its plan, either of which may be missing."""
    if plan:
        return f"{token or ''}/{_slug({'reference': plan})}"
    return token or None


def _list(said: Json, name: str) -> list[Json]:
    found = said.get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
