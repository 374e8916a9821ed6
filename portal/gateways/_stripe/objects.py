"""One object of Stripe's by itself, as somebody holds it in their hands: what it says in our words, asking nobody.

A field that takes a look at another object stays empty, unless that object stands inside this one (`expand`).
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from portal import clock
from portal.gateways._stripe import shapes
from portal.gateways._stripe.shapes import Json, as_dict, id_of, rows_of
from portal.gateways.base import (
    Failure,
    Kind,
    Method,
    OrderRecord,
    OrderStatus,
    PaymentRecord,
    PaymentStatus,
    PendingChange,
    Record,
)

# What an object is where it does not say so itself, by the beginning of its id.
PREFIXES = {
    "cus_": "customer",
    "sub_": "subscription",
    "ch_": "charge",
    "py_": "charge",
    "pi_": "payment_intent",
    "re_": "refund",
    "pyr_": "refund",
    "in_": "invoice",
    "cs_": "checkout.session",
}
INTENTS: dict[str, PaymentStatus] = {
    "requires_payment_method": "pending",
    "requires_confirmation": "pending",
    "requires_action": "pending",
    "processing": "pending",
    "requires_capture": "authorized",
    "succeeded": "paid",
    "canceled": "cancelled",
}
ORDER_OF_INVOICE: dict[str, OrderStatus] = {
    "draft": "open",
    "open": "open",
    "overdue": "open",
    "paid": "paid",
    "void": "cancelled",
}
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class NoSuch(ValueError):
    """What was handed in is no such object; the sentence says what it is instead."""


def read(kind: Kind, said: Any) -> Record:
    """Our record of an object, bare or as the data of an event. ValueError where it is no such object."""
    one = _bare(said)
    found = id_of(one)
    sort = one.get("object") or next(
        (of for start, of in PREFIXES.items() if (found or "").startswith(start)), None
    )
    if not isinstance(sort, str) or (kind, sort) not in _READERS:
        what = f"an object of the kind {sort[:40]}" if isinstance(sort, str) else "no object of Stripe's API"
        raise NoSuch(f"This is {what}; no {kind} can be read from it.")
    if found is None:
        raise NoSuch(f"This {sort} has no id.")
    try:
        return shapes.sound(_READERS[kind, sort](one))
    except NoSuch:
        raise
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise NoSuch(f"This {sort} is not as Stripe writes one.") from error


def _bare(said: Any) -> Json:
    """The object out of an event, out of an event's data, or out of a list that holds nothing else."""
    for _ in range(3):
        if not isinstance(said, dict):
            break
        inner = said["data"] if isinstance(said.get("data"), dict) else said.get("object")
        rows = rows_of(said) if said.get("object") == "list" else []
        if isinstance(inner, dict):
            said = inner
        elif len(rows) == 1:
            said = rows[0]
        else:
            return said
    raise NoSuch("This is no object of Stripe's API.")


def _subscription(one: Json) -> Record:
    """The next amount is worked out; that of today's preview only Stripe knows."""
    owner, latest = as_dict(one.get("customer")), as_dict(one.get("latest_invoice"))
    is_due = latest.get("status") == "open" and shapes.remaining(latest) > 0
    waiting = as_dict(one.get("pending_update"))
    record = replace(
        shapes.subscription_record(one, latest if is_due else {}, _title(shapes.items_of(one)), clock.now()),
        email=owner.get("email"),
        method=_method(one, owner),
        pending_change=_pending(rows_of(waiting.get("subscription_items"))) if waiting else None,
    )
    if shapes.will_be_billed(one, record, LONG_AGO):  # the object may be an old one
        record = replace(record, next_payment=shapes.estimated(one, record))
    return record


def _pending(items: list[Json]) -> PendingChange:
    return PendingChange(None, shapes.amount_of(items), _title(items), shapes.quantity_of(items))


def _title(items: list[Json]) -> str | None:
    prices = [shapes.price_of(item) for item in items]
    names = [as_dict(price.get("product")).get("name") or price.get("nickname") for price in prices]
    return ", ".join(str(name) for name in names if name)[:200] or None


def _method(one: Json, owner: Json) -> Method | None:
    default = as_dict(owner.get("invoice_settings")).get("default_payment_method")
    for chosen in (
        one.get("default_payment_method"),
        one.get("default_source"),
        default,
    ):
        if chosen:
            return shapes.method_of(chosen, chosen["id"]) if isinstance(chosen, dict) else None
    return None


def _charge(one: Json) -> PaymentRecord:
    """Which order it is of a charge does not say; its invoice only where that is old, or inside."""
    refunds = rows_of(one.get("refunds"))
    if not refunds and one.get("amount_refunded"):
        refunds = [{"amount": one["amount_refunded"]}]
    invoice = as_dict(one.get("invoice")) or {"id": id_of(one.get("invoice"))}
    record = shapes.payment_record(one, refunds, None, invoice, {}, ())
    return replace(record, email=record.email or as_dict(one.get("customer")).get("email"))


def _intent(one: Json) -> PaymentRecord:
    """A payment as its intent tells it, and its newest charge where that stands inside."""
    charge = as_dict(one.get("latest_charge")) or next(iter(rows_of(one.get("charges"))), {})
    of_charge = _charge(charge) if charge else None
    error, raw = as_dict(one.get("last_payment_error")), one.get("status") or ""
    status = INTENTS.get(raw)
    if status == "pending" and raw == "requires_payment_method" and error:
        status = "failed"
    if status in ("paid", "authorized") and of_charge is not None:
        status = of_charge.status or status
    code, invoice = str(error.get("code") or error.get("type") or "failed"), as_dict(one.get("invoice"))
    taken = one.get("amount_received") or one.get("amount")
    told = PaymentRecord(
        remote_id=one["id"],
        email=one.get("receipt_email") or as_dict(one.get("customer")).get("email"),
        raw_status=one.get("status"),
        created_at=shapes.moment(one.get("created")),
        status=status,
        customer=id_of(one.get("customer")),
        title=one.get("description"),
        amount=shapes.money_of(taken, one.get("currency")),
        method=_method_of_intent(one, error),
        subscription=shapes.subscription_of(invoice),
        invoice=id_of(one.get("invoice")),
        failure=Failure(code, error.get("message")) if status == "failed" else None,
    )
    if of_charge is None:
        return told
    return replace(
        told,
        email=told.email or of_charge.email,
        amount=of_charge.amount if of_charge.paid_at else told.amount,
        refunded=of_charge.refunded,
        paid_at=of_charge.paid_at,
        method=of_charge.method or told.method,
    )


def _method_of_intent(one: Json, error: Json) -> Method | None:
    chosen = as_dict(one.get("payment_method")) or as_dict(error.get("payment_method"))
    if chosen:
        return shapes.method_of(chosen, chosen["id"])
    kinds = one.get("payment_method_types") or []
    named = id_of(one.get("payment_method"))
    return shapes.method_of({"type": kinds[0]}, named) if named and len(kinds) == 1 else None


def _invoice(one: Json) -> Record:
    record = shapes.invoice_record(one, shapes.lines_of(rows_of(one.get("lines")), "amount"))
    return replace(record, payment=_paid_by(one))


def _paid_by(one: Json) -> str | None:
    """The charge that paid an invoice, else the intent of that charge."""
    for row in rows_of(one.get("payments")):
        payment = as_dict(row.get("payment"))
        intent = as_dict(payment.get("payment_intent"))
        if row.get("status") == "paid":
            names = (payment.get("charge"), intent.get("latest_charge"), payment.get("payment_intent"))
            return next((name for name in map(id_of, names) if name), None)
    return id_of(one.get("charge"))


def _session(one: Json) -> Record:
    """An order; one that began a subscription names it."""
    if one.get("mode") == "setup":
        raise NoSuch("This checkout.session saves a payment method and is no order.")
    intent = as_dict(one.get("payment_intent"))
    charge = as_dict(intent.get("latest_charge"))
    lines = shapes.lines_of(rows_of(one.get("line_items")), "amount_total")
    record = shapes.order_record(one, lines, [charge] if charge else [])
    return replace(record, subscription=id_of(one.get("subscription")))


def _bought_by_invoice(one: Json) -> Record:
    if shapes.subscription_of(one):
        raise NoSuch("This invoice is of a subscription and no order of its own.")
    record = shapes.invoice_record(one, shapes.lines_of(rows_of(one.get("lines")), "amount"))
    return OrderRecord(
        remote_id=record.remote_id,
        email=record.email,
        raw_status=record.raw_status,
        created_at=record.created_at,
        status=ORDER_OF_INVOICE[record.status] if record.status else None,
        customer=record.customer,
        number=record.number,
        title=shapes.joined(record.lines),
        amount=record.amount,
        lines=record.lines,
        due_link=record.page_url if record.status in ("open", "overdue") else None,
    )


_READERS: dict[tuple[str, str], Callable[[Json], Record]] = {
    ("customer", "customer"): shapes.customer_record,
    ("subscription", "subscription"): _subscription,
    ("payment", "charge"): _charge,
    ("payment", "payment_intent"): _intent,
    ("refund", "refund"): shapes.refund_record,
    ("invoice", "invoice"): _invoice,
    ("order", "checkout.session"): _session,
    ("order", "payment_intent"): lambda one: shapes.bare_order(one["id"], _intent(one), {}, ()),
    ("order", "charge"): lambda one: shapes.bare_order(one["id"], _charge(one), {}, ()),
    ("order", "invoice"): _bought_by_invoice,
}
