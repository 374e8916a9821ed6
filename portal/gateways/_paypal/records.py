"""What PayPal says, in our words: records of its objects, events of its webhooks. Pure: nothing here asks anybody.

Amounts are decimal texts in major units, `{value, currency_code}` or, in the older sale, `{total, currency}`. One
payment is told in four shapes: capture, sale, transaction of a subscription, line of the report. Times are UTC.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import reduce
from typing import Any

from portal import clock
from portal.gateways import base
from portal.gateways._paypal.shapes import id_of, items, link, money, total, words
from portal.gateways._paypal.subscriptions import WALLETS, method, subscription
from portal.gateways.base import Ref, Snapshot
from portal.gateways.wire import Json, day, digest, moment, part, spoken, text, whole
from portal.money import Money

# All that a notice of a sale is needed for, since no call here tells of one.
SALE_FIELDS = ("id", "state", "amount", "create_time", "update_time", "billing_agreement_id", "sale_id")


# Of captures, sales (in capitals) and authorizations; the single letters are the report's.
PAYMENTS = words(
    paid="COMPLETED CAPTURED S",
    pending="PENDING P",
    failed="DECLINED FAILED DENIED D",
    partially_refunded="PARTIALLY_REFUNDED",
    refunded="REFUNDED REVERSED V",
    authorized="CREATED PARTIALLY_CAPTURED",
    cancelled="VOIDED",
    expired="EXPIRED",
)
# COMPLETED is not "paid": what the captures say is asked first, and without any nothing was taken yet.
ORDERS = words(open="CREATED SAVED APPROVED PAYER_ACTION_REQUIRED COMPLETED", cancelled="VOIDED")
REFUNDS = words(sent="COMPLETED S", pending="PENDING P", failed="FAILED D", cancelled="CANCELLED V")
INVOICES = words(
    draft="DRAFT SCHEDULED",
    open="SENT UNPAID PARTIALLY_PAID PAYMENT_PENDING",
    paid="PAID MARKED_AS_PAID REFUNDED PARTIALLY_REFUNDED MARKED_AS_REFUNDED",
    void="CANCELLED",
)
# What shows that an object is of a kind.
MARKS: dict[str, tuple[str, ...]] = {
    "customer": ("email_address", "payer_id", "account_id", "payer_info"),
    "order": ("purchase_units", "intent"),
    "subscription": ("plan_id", "subscriber", "billing_info"),
    "payment": ("amount", "amount_with_breakdown", "transaction_info"),
    "refund": ("amount", "transaction_info"),
    "invoice": ("detail", "primary_recipients"),
    "event": ("event_type",),
}


def read(kind: str, said: Any) -> Any:
    """The record of an object, bare or as `data` or `resource` of an envelope; ValueError where it is no such one."""
    if kind != "event" and isinstance(said, dict) and not any(mark in said for mark in MARKS[kind]):
        said = said.get("data") or said.get("resource")
    if not isinstance(said, dict) or not any(mark in said for mark in MARKS[kind]):
        raise ValueError(f"This is no {kind} of PayPal: none of {', '.join(MARKS[kind])} is in it.")
    if kind == "event":
        return [event(said)]
    if kind == "customer":
        if not (found := customers(said)):
            raise ValueError("This names no PayPal account.")
        return found[0]
    if not id_of(said):
        raise ValueError(f"This {kind} has no id.")
    readers = {"order": order, "subscription": subscription, "payment": payment, "refund": refund}
    return readers.get(kind, invoice)(said)


def told(*parts: Snapshot, **records: Any) -> Snapshot:
    """A snapshot of these records and of all that the parts hold; who keeps it sets its moment."""
    sorts = ("customers", "orders", "subscriptions", "payments", "refunds", "invoices")
    found = {sort: {one.remote_id: one for one in records.get(sort, ())} for sort in sorts}
    for sort in sorts:
        for snapshot in parts:
            for one in getattr(snapshot, sort):
                found[sort].setdefault(one.remote_id, one)
    kept: dict[str, Any] = {sort: tuple(ones.values()) for sort, ones in found.items()}
    return Snapshot(as_of=clock.now(), **kept)


def payment(said: Json) -> base.PaymentRecord:
    """A capture, an authorization, a sale, a transaction of a subscription, or a line of the report."""
    info = {**said, **part(said, "transaction_info")}
    raw = text(info.get("status") or info.get("state") or info.get("transaction_status"))
    status = PAYMENTS.get((raw or "").upper())
    when = moment(info.get("create_time") or info.get("time") or info.get("transaction_initiation_date"))
    gross = part(said, "amount_with_breakdown").get("gross_amount")
    amount = money(info.get("amount") or info.get("transaction_amount") or gross)
    bill = text(part(said, "cart_info").get("paypal_invoice_id"))
    reason = text(part(info, "status_details").get("reason"))
    code = text(part(info, "processor_response").get("response_code")) or reason
    return spoken(
        base.PaymentRecord,
        id_of(said),
        email=text(info.get("payer_email")) or text(part(said, "payer_info").get("email_address")),
        raw_status=raw,
        created_at=when,
        updated_at=moment(info.get("update_time") or info.get("transaction_updated_date")),
        status=status,
        customer=text(part(said, "payer_info").get("account_id")),
        amount=amount,
        refunded=amount if status == "refunded" else None,
        paid_at=when if status in ("paid", "partially_refunded", "refunded") else None,
        order=text(part(said, "supplementary_data", "related_ids").get("order_id"))
        or _reference(info, "ODR"),
        subscription=text(info.get("billing_agreement_id")) or _reference(info, "SUB"),
        invoice=bill,
        failure=base.Failure(code or "declined", reason) if status == "failed" else None,
        object="invoice" if bill else None,
    )


def refund(said: Json) -> base.RefundRecord:
    """A refund of a capture or of a sale, or a line of the report; amounts below zero are told without their sign."""
    info = {**said, **part(said, "transaction_info")}
    raw = text(info.get("status") or info.get("state") or info.get("transaction_status"))
    amount = money(info.get("amount") or info.get("transaction_amount"))
    up = re.search(r"/captures/([A-Za-z0-9]+)$", link(said, "up") or "")
    return spoken(
        base.RefundRecord,
        id_of(said),
        raw_status=raw,
        created_at=moment(info.get("create_time") or info.get("transaction_initiation_date")),
        updated_at=moment(info.get("update_time") or info.get("transaction_updated_date")),
        status=REFUNDS.get((raw or "").upper()),
        payment=text(info.get("sale_id")) or (up[1] if up else None) or _reference(info, "TXN"),
        amount=Money(abs(amount.minor), amount.currency) if amount else None,
        reason=text(info.get("note_to_payer")),
    )


def less(one: base.PaymentRecord, back: int) -> base.PaymentRecord:
    """A payment after refunds of `back` minor units; the report goes on calling it a success."""
    if not back or one.amount is None:
        return one
    status = one.status
    if status == "paid":
        status = "refunded" if back >= one.amount.minor else "partially_refunded"
    return also(one, status=status, refunded=Money(back, one.amount.currency))


def also(one: base.PaymentRecord, **fields: Any) -> base.PaymentRecord:
    """The payment with what is known of it from elsewhere."""
    more = {name: value for name, value in fields.items() if value is not None}
    return replace(one, **more, knows=(one.knows or frozenset()) | set(more))


def sums(refunds: Iterable[base.RefundRecord]) -> dict[str, int]:
    """How much was given back of each payment, in minor units."""
    found: dict[str, int] = {}
    for one in refunds:
        if one.payment and one.amount and one.status == "sent":
            found[one.payment] = found.get(one.payment, 0) + one.amount.minor
    return found


def of_subscription(said: Any, record: base.SubscriptionRecord) -> tuple[base.PaymentRecord, ...]:
    """The transactions of a subscription."""
    more = {"subscription": record.remote_id, "customer": record.customer, "method": record.method}
    return tuple(also(payment(one), **more) for one in items(said) if id_of(one))


def of_order(said: Json) -> Snapshot:
    """An order with its payer, captures and refunds."""
    record = order(said)
    more: dict[str, Any] = {"order": record.remote_id, "email": record.email, "customer": record.customer}
    more["method"] = method(part(said, "payment_source"))
    units = [part(unit, "payments") for unit in items(said.get("purchase_units"))]
    refunds = tuple(refund(one) for unit in units for one in items(unit.get("refunds")) if id_of(one))
    back = sums(refunds)
    payments = tuple(
        less(also(payment(one), **more), back.get(id_of(one), 0))
        for unit in units
        for one in items(unit.get("captures"))
        if id_of(one)
    )
    return told(orders=(record,), payments=payments, refunds=refunds, customers=customers(_payer(said)))


def order(said: Json) -> base.OrderRecord:
    units, payer = items(said.get("purchase_units")), _payer(said)
    lines = [line for unit in units for line in _lines(unit)]
    amounts = [found for unit in units if (found := money(unit.get("amount"))) is not None]
    return spoken(
        base.OrderRecord,
        id_of(said),
        email=text(payer.get("email_address")),
        raw_status=text(said.get("status")),
        created_at=moment(said.get("create_time")),
        updated_at=moment(said.get("update_time")),
        status=_order_state(said.get("status"), units),
        customer=_account(payer),
        number=_first(units, "invoice_id"),
        title=_first(units, "description") or (lines[0].name if lines else None),
        amount=reduce(total, amounts) if amounts else None,
        tax=money(part(units[0], "amount", "breakdown").get("tax_total")) if units else None,
        lines=tuple(lines) or None,
    )


def _lines(said: Json) -> list[base.Line]:
    return [
        base.Line(text(one.get("name")) or "", count, each * count)
        for one in items(said.get("items"))
        if (each := money(one.get("unit_amount"))) is not None and (count := whole(one.get("quantity")))
    ]


def _first(units: list[Json], name: str) -> str | None:
    return next((found for unit in units if (found := text(unit.get(name)))), None)


def _order_state(raw: Any, units: list[Json]) -> Any:
    """Paid is what the captures say: COMPLETED may be authorized only, or declined."""
    captures = [one for unit in units for one in items(part(unit, "payments").get("captures"))]
    states = {PAYMENTS.get(text(one.get("status"))) for one in captures}
    if states & {"refunded", "partially_refunded"}:
        return "refunded" if states == {"refunded"} else "partially_refunded"
    if "paid" in states:
        return "paid"
    return "failed" if states == {"failed"} else ORDERS.get(text(raw))


def of_report(row: Json, one: base.PaymentRecord) -> Snapshot:
    """A line of the report that no subscription explains: the payment, and the order that it stands for."""
    number = one.order or one.remote_id
    cart = [
        base.Line(text(line.get("item_name")) or "", count, amount)
        for line in items(part(row, "cart_info").get("item_details"))
        if (amount := money(line.get("item_amount") or line.get("total_item_amount"))) is not None
        and (count := whole(line.get("item_quantity")))
    ]
    bought = spoken(
        base.OrderRecord,
        number,
        email=one.email,
        created_at=one.created_at,
        # An order that is awaited is open; of these words the report uses only some.
        status={"pending": "open", "cancelled": "cancelled", "authorized": "open"}.get(
            one.status or "", one.status
        ),
        customer=one.customer,
        number=text(part(row, "transaction_info").get("invoice_id")),
        title=cart[0].name if cart else None,
        amount=one.amount,
        tax=money(part(row, "transaction_info").get("sales_tax_amount")),
        lines=tuple(cart) or None,
    )
    return told(orders=(bought,), payments=(also(one, order=number),), customers=customers(row))


def of_invoice(said: Json) -> Snapshot:
    """An invoice that was sent through PayPal, and the payments that it knows of."""
    record, raw = invoice(said), text(said.get("status"))
    paid = [
        spoken(
            base.PaymentRecord,
            number,
            email=record.email,
            status={"REFUNDED": "refunded", "PARTIALLY_REFUNDED": "partially_refunded"}.get(
                raw or "", "paid"
            ),
            amount=money(one.get("amount")),
            created_at=moment(one.get("payment_date")),
            paid_at=moment(one.get("payment_date")),
            invoice=record.remote_id,
            object="invoice",
        )
        for one in items(part(said, "payments").get("transactions"))
        if one.get("type") == "PAYPAL" and (number := text(one.get("payment_id")))
    ]
    return told(invoices=(record,), payments=paid)


def invoice(said: Json) -> base.InvoiceRecord:
    detail, status = part(said, "detail"), INVOICES.get(text(said.get("status")))
    due_on = day(part(detail, "payment_term").get("due_date"))
    late = status == "open" and due_on and due_on < clock.now().date()
    to = next((part(one, "billing_info") for one in items(said.get("primary_recipients"))), {})
    paid = (text(one.get("payment_id")) for one in items(part(said, "payments").get("transactions")))
    return spoken(
        base.InvoiceRecord,
        id_of(said),
        email=text(to.get("email_address")),
        raw_status=text(said.get("status")),
        created_at=moment(part(detail, "metadata").get("create_time")) or moment(detail.get("invoice_date")),
        updated_at=moment(part(detail, "metadata").get("last_update_time")),
        status="overdue" if late else status,
        number=text(detail.get("invoice_number")),
        amount=money(said.get("amount")),
        due=money(said.get("due_amount")),
        payment=next(filter(None, paid), None),
        page_url=text(part(detail, "metadata").get("recipient_view_url")),
        lines=tuple(_lines(said)) or None,
    )


def event(said: Json) -> base.Event:
    """The one event of a delivery. Of a sale the little is kept that no call tells."""
    kind, thing = text(said.get("event_type")) or "unknown", part(said, "resource")
    kept = (
        {name: thing[name] for name in SALE_FIELDS if name in thing}
        if kind.startswith("PAYMENT.SALE.")
        else None
    )
    number = id_of(said) or digest(f"{kind}{id_of(thing)}{said.get('create_time')}")
    body = {"sale": kept} if kept else {}
    return base.Event(number, kind, _subject(kind, said, thing), moment(said.get("create_time")), body)


def _subject(kind: str, said: Json, thing: Json) -> Ref | None:
    number, dispute = id_of(thing), next(iter(items(thing.get("disputed_transactions"))), {})
    found: tuple[base.Kind, str | None]
    match kind.split(".")[:2]:
        case ["BILLING", "SUBSCRIPTION"]:
            found = ("subscription", number)
        case ["PAYMENT", "SALE"]:
            agreement = text(thing.get("billing_agreement_id"))
            sale = text(thing.get("sale_id")) or number
            found = ("subscription", agreement) if agreement else ("payment", sale)
        case ["PAYMENT", "CAPTURE" | "REFUND"]:
            is_refund = said.get("resource_type") == "refund" or "/captures/" in (link(thing, "up") or "")
            found = ("refund" if is_refund else "payment", number)
        case ["PAYMENT", "AUTHORIZATION"]:
            found = ("order", order_of(thing))
        case ["CHECKOUT", "ORDER"]:
            found = ("order", number)
        case ["CUSTOMER", "DISPUTE"]:
            found = ("payment", text(dispute.get("seller_transaction_id")))
        case ["INVOICING", "INVOICE"]:
            found = ("invoice", id_of(part(thing, "invoice")) or number)
        case _:
            return None
    return Ref(found[0], found[1]) if found[1] else None


def of_sale(said: Json) -> Snapshot:
    """The sale, or the refund of a sale, of a signed notice."""
    return told(refunds=(refund(said),)) if said.get("sale_id") else told(payments=(payment(said),))


def customers(said: Json) -> tuple[base.CustomerRecord, ...]:
    """The PayPal account in a subscriber, payer or line of the report; none without its id."""
    one = part(said, "payer_info") or said
    name = part(one, "payer_name") or part(one, "name")
    whole_name = " ".join(filter(None, (text(name.get("given_name")), text(name.get("surname")))))
    called = whole_name or text(name.get("alternate_full_name")) or text(name.get("full_name"))
    email, number = text(one.get("email_address")), _account(one)
    return (spoken(base.CustomerRecord, number, email=email, name=called),) if number else ()


def _payer(said: Json) -> Json:
    """Who paid an order: in the wallet that was used, or where older orders have it."""
    used = next(
        (part(said, "payment_source", name) for name in WALLETS if part(said, "payment_source", name)), {}
    )
    return {**part(said, "payer"), **used}


def _account(one: Json) -> str | None:
    return text(one.get("payer_id")) or text(one.get("account_id"))


def order_of(said: Json) -> str | None:
    """The order that a capture or authorization belongs to."""
    return text(part(said, "supplementary_data", "related_ids").get("order_id"))


def _reference(info: Json, sort: str) -> str | None:
    return text(info.get("paypal_reference_id")) if info.get("paypal_reference_id_type") == sort else None


def code_of(row: Json) -> str:
    """What a line of the report is about: T0002 payment of a subscription, T0006 checkout, T1107 refund …"""
    return text(part(row, "transaction_info").get("transaction_event_code")) or ""
