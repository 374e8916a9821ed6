"""Transactions, refunds, invoices and notifications in our words.

Transactions come in one form, whether told by GET, by a notification or by the report (`as_transaction`).
Sources: https://docs.midtrans.com/reference/get-transaction-status, /http-notification, /get-invoice and
/transaction-history-list-api
"""

import json
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from portal.gateways import base
from portal.gateways._midtrans.common import BRANDS, KINDS, also, email_of, network, objects, rupiah, time_of
from portal.gateways.base import (
    Event,
    InvoiceRecord,
    Method,
    OrderRecord,
    PaymentRecord,
    Record,
    Ref,
    RefundRecord,
    Snapshot,
)
from portal.gateways.wire import Json, digest, last4, part, spoken, text, whole

PAYMENTS = (
    {"capture": "paid", "settlement": "paid", "pending": "pending", "authorize": "authorized"}
    | {"deny": "failed", "failure": "failed", "cancel": "cancelled", "expire": "expired"}
    | {"refund": "refunded", "partial_refund": "partially_refunded"}
    | {"chargeback": "disputed", "partial_chargeback": "disputed"}
)
TAKEN = ("paid", "partially_refunded", "refunded", "disputed")
REPORTED = (  # words of the report that are not those of a transaction in capitals
    {"SUCCESS": "settlement", "CHALLENGE": "pending", "EXPIRED": "expire", "CANCELLED": "cancel"}
    | {"FAILED": "failure", "DENIED": "deny", "REVERSAL": "deny"}
)
ORDERS = {"pending": "open", "authorized": "open", "disputed": "paid"}  # where it differs from the payment's
INVOICES = {"pending": "open", "published": "open", "expired": "void", "voided": "void"} | {
    word: word for word in ("draft", "overdue", "paid")
}
OURS = "portal-card-"  # begins the order ids of our own card pages
CHARGES = re.compile(r"SUBS-.*[0-9a-f-]{32,36}")  # those of a subscription's charges


def reported(rows: Iterable[Json]) -> tuple[tuple[OrderRecord, ...], tuple[PaymentRecord, ...]]:
    """Orders and payments of a page of the report; what is no payment in (top-ups, payouts) is left out."""
    told = [as_transaction(row) for row in rows if part(row, "additionalInfo").get("type") == "PAYMENT"]
    sold = tuple(one for one in map(order, told) if one)
    return sold, tuple(payment(one) for one in told if one["transaction_id"])


def as_transaction(row: Json) -> Json:
    """A row of the report in the form of a transaction. Only a reference that is one of Midtrans's own transaction ids
    can be asked for again and is told elsewhere too, so another makes no payment."""
    more = part(row, "additionalInfo")
    reference, word = text(more.get("referenceNo")) or "", str(more.get("status"))
    own = re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", reference)
    return {
        "transaction_id": reference if own else None,
        "order_id": more.get("partnerReferenceNo"),
        "transaction_status": REPORTED.get(word, word.lower()),
        "gross_amount": part(row, "amount").get("value"),
        "currency": part(row, "amount").get("currency"),
        "transaction_time": row.get("dateTime"),
        "payment_type": more.get("channel"),
        "customer_details": {"email": more.get("customerEmail")},
    }


def read_sale(kind: str, said: Json) -> Record:
    """The order or payment in a transaction, a row of the report or an invoice; ValueError where there is none."""
    one = as_transaction(said) if part(said, "additionalInfo") else said
    if kind == "order" and "invoice_number" in said:
        return billed(said)[1]
    found = order(one) if kind == "order" else payment(one)
    if found is None:
        raise ValueError("This is no order, or the number of its order is not told.")
    return found


def sale(as_of: datetime, said: Json, number: str | None = None) -> Snapshot:
    """A transaction as order, payment and refunds; `number` is the order's where the transaction does not say."""
    sold = order(said, number)
    paid = also(payment(said), order=sold.remote_id) if sold else payment(said)
    return Snapshot(
        as_of=as_of, orders=(sold,) if sold else (), payments=(paid,), refunds=tuple(refunds(said))
    )


def payment(said: Json) -> PaymentRecord:
    if not isinstance(said.get("transaction_id"), str):
        raise ValueError("A transaction has a transaction_id.")
    status, at = _paid(said), time_of(said.get("transaction_time"))
    code = text(said.get("channel_response_code")) or text(said.get("status_code")) or ""
    reason = text(said.get("channel_response_message")) or text(said.get("status_message"))
    return spoken(
        PaymentRecord,
        said["transaction_id"],
        status=status,
        raw_status=text(said.get("transaction_status")),
        email=email_of(said),
        created_at=at,
        amount=rupiah(said, "gross_amount"),
        refunded=rupiah(said, "refund_amount"),
        paid_at=(time_of(said.get("settlement_time")) or at) if status in TAKEN else None,
        method=_method(said),
        order=number_of(said),
        subscription=text(said.get("custom_field1")) if of_ours(said) else None,
        failure=base.Failure(code, reason) if status == "failed" else None,
    )


def _paid(said: Json) -> Any:
    """Several methods send no fraud_status; DANA writes its words in capitals."""
    word = str(said.get("transaction_status")).lower()
    if word == "capture" and said.get("fraud_status") in ("challenge", "deny"):
        return "pending" if said["fraud_status"] == "challenge" else "failed"
    return PAYMENTS.get(word)


def order(said: Json, number: str | None = None) -> OrderRecord | None:
    """None for charges of a subscription and our own card pages, and where no number is known."""
    found, status = number_of(said, number), _paid(said)
    if found is None:
        return None
    return spoken(
        OrderRecord,
        found,
        status=ORDERS.get(status, status),
        raw_status=text(said.get("transaction_status")),
        number=found,
        email=email_of(said),
        created_at=time_of(said.get("transaction_time")),
        amount=rupiah(said, "gross_amount"),
    )


def number_of(said: Json, number: str | None = None) -> str | None:
    """The order's number. DANA and virtual accounts of BI-SNAP answer with the transaction's id in its place."""
    told = text(said.get("order_id"))
    found = number if told is None or told == said.get("transaction_id") else told
    return None if found is None or of_ours(said) or CHARGES.fullmatch(found) else found


def of_ours(said: Json) -> bool:
    """Whether it was paid on a card page that we opened for the subscription in `custom_field1`."""
    return str(said.get("order_id")).startswith(OURS) and bool(text(said.get("custom_field1")))


def _method(said: Json) -> Method | None:
    kind, masked = str(said.get("payment_type")), text(said.get("masked_card")) or ""
    bank = next((one.get("bank") for one in objects(said.get("va_numbers"))), None)
    if kind not in KINDS:
        return None
    if kind == "credit_card":
        return Method("card", network(masked), last4(masked.partition("-")[2]))
    brand = "Permata" if said.get("permata_va_number") else (text(bank) or "").upper()
    return Method(
        KINDS[kind], BRANDS.get(kind) or brand or (text(said.get("store")) or "").capitalize() or None
    )


def refunds(said: Json) -> list[RefundRecord]:
    return [refund(one, said) for one in objects(said.get("refunds"))]


def newest_refund(said: Json) -> RefundRecord:
    """Of a transaction the last refund; a refund by itself."""
    return refunds(said)[-1] if objects(said.get("refunds")) else refund(said, {})


def refund(said: Json, of: Json) -> RefundRecord:
    """A bank confirms what went back to a card; a wallet's refund is there at once."""
    number, paid = text(said.get("refund_chargeback_id")), text(of.get("transaction_id"))
    if number is None:
        raise ValueError("A refund has a refund_chargeback_id.")
    confirmed = bool(said.get("bank_confirmed_at")) or KINDS.get(str(of.get("payment_type"))) == "wallet"
    return spoken(
        RefundRecord,
        f"{paid}:{number}" if paid else number,
        status="sent" if confirmed or of.get("payment_type") == "gopay" else "pending",
        created_at=time_of(said.get("created_at")),
        payment=paid,
        amount=rupiah({**said, "currency": of.get("currency")}, "refund_amount"),
        reason=text(said.get("reason")),
    )


def billed(said: Json) -> tuple[InvoiceRecord, OrderRecord]:
    """An invoice of the Invoicing API and its order; its amounts are whole rupiah as numbers."""
    number, bill = text(said.get("order_id")), said.get("id")
    if not isinstance(bill, str) or number is None or said.get("document_type") == "quotation":
        raise ValueError("An invoice has an id and an order_id, and is no quotation.")
    word = str(said.get("status"))
    status, amount = INVOICES.get(word), rupiah(said, "gross_amount")
    is_open = status in ("open", "overdue")
    lines = [_line(one) for one in objects(said.get("item_details"))]
    page = text(said.get("payment_link_url")) if is_open else None
    file = text(said.get("paid_pdf_url")) or text(said.get("pdf_url"))
    shared: dict[str, Any] = {"raw_status": word, "email": email_of(said), "amount": amount} | {
        "lines": tuple(one for one in lines if one),
        "created_at": time_of(said.get("published_date")) or time_of(said.get("invoice_date")),
    }
    of_order = {"paid": "paid", "expired": "expired", "voided": "cancelled"}.get(word)
    return (
        spoken(
            InvoiceRecord,
            bill,
            ("due", "page_url"),
            status=status,
            number=text(said.get("invoice_number")),
            due=amount if is_open else None,
            order=number,
            document=file is not None and status != "draft",
            document_url=file,
            page_url=page,
            **shared,
        ),
        spoken(
            OrderRecord,
            number,
            ("due_link",),
            status="open" if is_open else of_order,
            number=number,
            title=shared["lines"][0].name if shared["lines"] else None,
            due_link=page,
            **shared,
        ),
    )


def _line(said: Json) -> base.Line | None:
    price, quantity = rupiah(said, "price"), whole(said.get("quantity"))
    name = text(said.get("description")) or text(said.get("item_id"))
    return base.Line(name, quantity, price * quantity) if name and quantity and price else None


def events(said: Json) -> list[Event]:
    """The one event of a notification; ValueError for what is none. It keeps no token and no person."""
    if "account_status" in said:
        return [Event(f"{said.get('account_id')}:{said['account_status']}", "pay_account", None, None)]
    if isinstance(said.get("transaction_id"), str):
        paid = said["transaction_id"]
        word, code = text(said.get("transaction_status")) or "payment", text(said.get("status_code"))
        returned = digest(json.dumps(said["refunds"], sort_keys=True)) if said.get("refunds") else ""
        kept = {"order": text(said.get("order_id")), "amount": text(said.get("gross_amount"))}
        at = time_of(said.get("settlement_time")) or time_of(said.get("transaction_time"))
        told = ":".join([paid, word, code or "", text(said.get("fraud_status")) or "", returned])
        return [Event(told, word, Ref("payment", paid), at, kept)]
    one = part(said, "subscription") or said
    if not isinstance(one.get("id"), str) or not part(one, "schedule"):
        raise ValueError("This is neither a payment, an account nor a subscription.")
    charge = text(part(said, "transaction").get("transaction_id"))
    name = f"{one['id']}:{charge or digest(json.dumps(said, sort_keys=True))}"
    kind = text(said.get("event_name")) or "subscription.create"
    return [Event(name, kind, Ref("subscription", one["id"]), None, {"transaction": charge})]
