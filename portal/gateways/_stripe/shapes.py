"""Stripe's objects in our words. Each field is read where it stands today, then where it stood before 2025-03-31."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from portal import clock
from portal.gateways.base import (
    CustomerRecord,
    Failure,
    Gone,
    Interval,
    InvoiceRecord,
    InvoiceStatus,
    Line,
    Method,
    NextPayment,
    OrderRecord,
    OrderStatus,
    PaymentRecord,
    PaymentStatus,
    Record,
    RefundRecord,
    RefundStatus,
    Snapshot,
    SubscriptionRecord,
    SubscriptionStatus,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import facts
from portal.money import Money, from_units

Json = dict[str, Any]
R = TypeVar("R", bound=Record)

SUBSCRIPTION_ENDS: dict[str, SubscriptionStatus] = {
    "canceled": "cancelled",
    "incomplete_expired": "expired",
    "incomplete": "incomplete",
    "paused": "paused",
}
REFUND_STATUSES: dict[str, RefundStatus] = {
    "pending": "pending",
    "requires_action": "pending",
    "succeeded": "sent",
    "failed": "failed",
    "canceled": "cancelled",
}
INVOICE_STATUSES: dict[str, InvoiceStatus] = {
    "draft": "draft",
    "open": "open",
    "paid": "paid",
    "void": "void",
    "uncollectible": "overdue",  # given up by the shop, still owed
}
ORDER_OF_PAYMENT: dict[PaymentStatus, OrderStatus] = {
    "pending": "open",
    "authorized": "open",
    "paid": "paid",
    "disputed": "paid",
    "partially_refunded": "partially_refunded",
    "refunded": "refunded",
    "failed": "failed",
    "cancelled": "cancelled",
    "expired": "expired",
}
BANK_DEBITS = {
    "sepa_debit",
    "us_bank_account",
    "bacs_debit",
    "au_becs_debit",
    "acss_debit",
    "nz_bank_account",
}
WALLETS = {"link", "paypal", "cashapp", "amazon_pay", "revolut_pay", "alipay", "wechat_pay", "mobilepay"}
WALLETS |= {
    "kakao_pay",
    "naver_pay",
    "samsung_pay",
    "payco",
    "grabpay",
    "paypay",
    "satispay",
    "swish",
    "twint",
}
BRANDS = {
    "amex": "American Express",
    "diners": "Diners Club",
    "jcb": "JCB",
    "unionpay": "UnionPay",
    "paypal": "PayPal",
    "cashapp": "Cash App",
    "sepa_debit": "SEPA",
}
TEXTS = ("email", "name", "raw_status", "title", "number", "reason", "due_link", "document_url", "page_url")


def customer_record(one: Json) -> CustomerRecord:
    if one.get("deleted"):
        return CustomerRecord(remote_id=one["id"], deleted=True, knows=frozenset({"deleted"}))
    return CustomerRecord(
        remote_id=one["id"],
        email=one.get("email"),
        name=one.get("name") or one.get("individual_name") or one.get("business_name"),
        created_at=moment(one.get("created")),
    )


def subscription_record(one: Json, invoice: Json, title: str | None, now: datetime) -> SubscriptionRecord:
    items = items_of(one)
    status = subscription_status(one, now)
    start, end = period(one)
    past_due = status == "past_due"
    again = moment(invoice.get("next_payment_attempt")) if past_due else None
    charged = one.get("collection_method", "charge_automatically") == "charge_automatically"
    over = ended(one)
    return SubscriptionRecord(
        remote_id=one["id"],
        raw_status=one.get("status"),
        created_at=moment(one.get("created")),
        status=status,
        customer=id_of(one.get("customer")) or id_of(one.get("customer_account")),
        title=title,
        amount=amount_of(items),
        interval=interval_of(items),
        quantity=quantity_of(items),
        started_at=moment(one.get("start_date") or one.get("start") or one.get("created")),
        trial_ends_at=moment(one.get("trial_end")),
        current_period_start=start,
        current_period_end=end,
        cancels_at=moment(one.get("cancel_at")) or end if status == "cancels_at_period_end" else None,
        ended_at=moment(one.get("ended_at")) or moment(one.get("canceled_at")) if over else None,
        resumes_at=moment((one.get("pause_collection") or {}).get("resumes_at")),
        due=money_of(remaining(invoice), invoice.get("currency")) if invoice else None,
        due_link=invoice.get("hosted_invoice_url"),
        object="managed_payments" if managed(one) else "schedule" if one.get("schedule") else None,
        stopped=past_due and (one.get("status") == "unpaid" or (charged and bool(invoice) and again is None)),
        retries_on=again.date() if again else None,
    )


def subscription_status(one: Json, now: datetime) -> SubscriptionStatus | None:
    """The first line that fits; a word that is not known here leaves what was known."""
    status = one.get("status") or ""
    if status in SUBSCRIPTION_ENDS:
        return SUBSCRIPTION_ENDS[status]
    if status not in ("active", "trialing", "past_due", "unpaid"):
        return None
    if ends(one, now):
        return "cancels_at_period_end"
    if status in ("past_due", "unpaid"):
        return "past_due"  # also while paused: invoices from before the pause are still retried
    if one.get("pause_collection"):
        return "paused"
    return "trialing" if status == "trialing" else "active"


def ended(one: Json) -> bool:
    return one.get("status") in ("canceled", "incomplete_expired")


def ends(one: Json, now: datetime) -> bool:
    at = moment(one.get("cancel_at"))
    return bool(one.get("cancel_at_period_end")) or (at is not None and at > now)


def managed(one: Json) -> bool:
    return bool(as_dict(one.get("managed_payments")).get("enabled"))


def refuse_under_schedule(one: Json) -> None:
    if one.get("schedule"):
        raise Unsupported(
            "The shop has planned changes for this, so it can't be paused or resumed here.",
            "A subscription schedule governs it. Release the schedule in Stripe first.",
        )


def will_be_billed(one: Json, record: SubscriptionRecord, now: datetime) -> bool:
    if one.get("pause_collection") or record.current_period_end is None or record.current_period_end <= now:
        return False
    return record.status in ("active", "trialing", "past_due", "cancels_at_period_end") and not record.stopped


def estimated(one: Json, record: SubscriptionRecord) -> NextPayment | None:
    if record.status == "cancels_at_period_end" or record.current_period_end is None:
        return None
    discounted = one.get("discounts") or one.get("discount")
    return NextPayment(record.current_period_end.date(), None if discounted else record.amount, "estimated")


def period(one: Json) -> tuple[datetime | None, datetime | None]:
    """On the items since 2025-03-31, on the subscription before."""
    found = []
    for name in ("current_period_start", "current_period_end"):
        times = [item[name] for item in items_of(one) if item.get(name)]
        found.append(moment(min(times) if times else one.get(name)))
    return found[0], found[1]


def items_of(one: Json) -> list[Json]:
    items = rows_of(one.get("items"))
    if not items and one.get("plan"):
        return [{"plan": one["plan"], "quantity": one.get("quantity")}]
    return items


def price_of(item: Json) -> Json:
    """What a price is, where the item has one; else the plan of before 2020."""
    return as_dict(item.get("price")) or as_dict(item.get("plan"))


def amount_of(items: Sequence[Json]) -> Money | None:
    """For one interval, quantities included; None where it depends on use, or is no whole amount."""
    total: Money | None = None
    for item in items:
        price, quantity = price_of(item), item.get("quantity")
        minor = price.get("unit_amount", price.get("amount"))
        one = (
            money_of(minor * (1 if quantity is None else quantity), price.get("currency"))
            if minor is not None
            else None
        )
        if one is None or (total is not None and total.currency != one.currency):
            return None
        total = one if total is None else total + one
    return total


def interval_of(items: Sequence[Json]) -> Interval | None:
    for item in items:
        price = price_of(item)
        rhythm = price.get("recurring") or price
        if rhythm.get("interval") in ("day", "week", "month", "year"):
            return Interval(rhythm["interval"], rhythm.get("interval_count") or 1)
    return None


def quantity_of(items: Sequence[Json]) -> int | None:
    return items[0].get("quantity") if len(items) == 1 else None


def payment_record(
    charge: Json,
    refunds: Sequence[Json],
    order: str | None,
    invoice: Json,
    session: Json,
    lines: Sequence[Line],
) -> PaymentRecord:
    status = payment_status(charge, refunds)
    currency = charge.get("currency")
    captured = captured_of(charge)
    failure = None
    if status == "failed":
        failure = Failure(str(charge.get("failure_code") or "failed"), charge.get("failure_message"))
    details = charge.get("payment_method_details") or charge.get("source")
    billing = charge.get("billing_details") or {}
    return PaymentRecord(
        remote_id=charge["id"],
        email=billing.get("email")
        or charge.get("receipt_email")
        or invoice.get("customer_email")
        or buyer(session),
        raw_status=charge.get("status"),
        created_at=moment(charge.get("created")),
        status=status,
        customer=id_of(charge.get("customer")),
        title=joined(lines) or charge.get("description"),
        amount=money_of(captured or charge.get("amount"), currency),
        refunded=money_of(sum(live(refunds)), currency),
        paid_at=moment(charge.get("created")) if captured else None,
        method=method_of(details, charge.get("payment_method")) if details else None,
        order=order,
        subscription=subscription_of(invoice),
        invoice=invoice.get("id"),
        failure=failure,
    )


def payment_status(charge: Json, refunds: Sequence[Json]) -> PaymentStatus | None:
    status = charge.get("status")
    if status == "failed":
        return "failed"
    if status == "pending":
        return "pending"
    if status not in ("succeeded", "paid"):
        return None
    if charge.get("captured") is False:
        return "cancelled" if charge.get("refunded") else "authorized"
    if charge.get("disputed") or charge.get("dispute"):
        return "disputed"
    given, captured = sum(live(refunds)), captured_of(charge)
    if given and given >= captured:
        return "refunded"
    return "partially_refunded" if given else "paid"


def captured_of(charge: Json) -> int:
    """What was taken: a partial capture takes less than was authorised."""
    if charge.get("status") not in ("succeeded", "paid") or charge.get("captured") is False:
        return 0
    taken = charge.get("amount_captured")
    return int(charge.get("amount") or 0) if taken is None else int(taken)


def live(refunds: Sequence[Json]) -> list[int]:
    return [one["amount"] for one in refunds if one.get("status", "succeeded") not in ("failed", "canceled")]


def refund_record(one: Json) -> RefundRecord:
    return RefundRecord(
        remote_id=one["id"],
        raw_status=one.get("status"),
        created_at=moment(one.get("created")),
        status=REFUND_STATUSES.get(one.get("status") or "succeeded"),
        payment=id_of(one.get("charge")),
        amount=money_of(one.get("amount"), one.get("currency")),
        reason=one.get("reason"),
    )


def invoice_record(one: Json, lines: tuple[Line, ...]) -> InvoiceRecord:
    currency = one.get("currency")
    status = INVOICE_STATUSES.get(one.get("status") or "")
    due_at = moment(one.get("due_date"))
    if status == "open" and due_at and due_at < clock.now():
        status = "overdue"
    return InvoiceRecord(
        remote_id=one["id"],
        email=one.get("customer_email"),
        raw_status=one.get("status"),
        created_at=moment(one.get("created")),
        status=status,
        customer=id_of(one.get("customer")),
        number=one.get("number"),
        amount=money_of(one.get("total"), currency),
        due=money_of(remaining(one), currency) if status in ("open", "overdue") else None,
        subscription=subscription_of(one),
        document=bool(one.get("invoice_pdf")),
        document_url=one.get("invoice_pdf"),
        page_url=one.get("hosted_invoice_url"),
        lines=lines,
    )


def remaining(invoice: Json) -> int:
    left = invoice.get("amount_remaining")
    if left is None:
        left = (invoice.get("amount_due") or 0) - (invoice.get("amount_paid") or 0)
    return int(left)


def subscription_of(invoice: Json) -> str | None:
    parent = as_dict(as_dict(invoice.get("parent")).get("subscription_details"))
    return id_of(parent.get("subscription")) or id_of(invoice.get("subscription"))


def order_record(
    session: Json, lines: tuple[Line, ...], charges: Sequence[Json], refunds: Sequence[Json] | None = None
) -> OrderRecord:
    currency = session.get("currency")
    totals = session.get("total_details") or {}
    return OrderRecord(
        remote_id=session["id"],
        email=buyer(session),
        raw_status=f"{session.get('status')}/{session.get('payment_status')}",
        created_at=moment(session.get("created")),
        status=order_status(session, charges, refunds),
        customer=id_of(session.get("customer")),
        number=session.get("client_reference_id"),
        title=joined(lines),
        amount=money_of(session.get("amount_total"), currency),
        tax=money_of(totals.get("amount_tax"), currency),
        discount=money_of(totals.get("amount_discount"), currency),
        lines=lines,
    )


def order_status(
    session: Json, charges: Sequence[Json], refunds: Sequence[Json] | None
) -> OrderStatus | None:
    """The session says whether it was paid; what became of the money since, its charge says."""
    status = session.get("status")
    if status == "open":
        return "open"
    if status == "expired":
        return "expired"
    if status != "complete":
        return None
    for charge in charges:
        known = refunds
        if known is None:  # a list gives sums only
            known = [{"amount": charge["amount_refunded"]}] if charge.get("amount_refunded") else []
        payment = payment_status(charge, known)
        if payment:
            return ORDER_OF_PAYMENT[payment]
    settled: dict[str, OrderStatus] = {"unpaid": "open", "paid": "paid", "no_payment_required": "paid"}
    return settled.get(session.get("payment_status") or "")


def bare_order(order: str, payment: PaymentRecord, invoice: Json, lines: tuple[Line, ...]) -> OrderRecord:
    """Something bought once without Checkout: by an invoice of its own, or a charge that nothing else explains."""
    return OrderRecord(
        remote_id=order,
        email=payment.email,
        raw_status=payment.raw_status,
        created_at=payment.created_at,
        status=ORDER_OF_PAYMENT[payment.status] if payment.status else None,
        customer=payment.customer,
        number=invoice.get("number"),
        title=payment.title,
        amount=money_of(invoice.get("total"), invoice.get("currency")) or payment.amount,
        lines=lines,
    )


def subscription_of_session(session: Json) -> str | None:
    """The subscription that a session made, or that it saves a method for."""
    noted = (
        as_dict(session.get("metadata")).get("subscription_id") if session.get("mode") == "setup" else None
    )
    return id_of(session.get("subscription")) or id_of(noted)


def buyer(session: Json) -> str | None:
    return (session.get("customer_details") or {}).get("email") or session.get("customer_email")


def lines_of(rows: Iterable[Json], amount: str) -> tuple[Line, ...]:
    found = []
    for row in rows:
        money = money_of(row.get(amount), row.get("currency"))
        if money is not None:
            name = row.get("description") or price_of(row).get("nickname") or ""
            found.append(Line(name, row.get("quantity") or 1, money))
    return tuple(found)


def joined(lines: Sequence[Line]) -> str | None:
    return ", ".join(line.name for line in lines if line.name)[:200] or None


def method_of(one: Json, remote_id: Any) -> Method:
    """A payment method, the details of a charge, or a card of the old kind."""
    kind = one.get("type") or one.get("object") or "other"
    inner = one if one.get("object") == "card" else one.get(kind) or {}
    brand = inner.get("display_brand") or inner.get("brand") or inner.get("bank_name")
    if brand is None and kind != "card":
        brand = kind
    expires = None
    if inner.get("exp_year") and inner.get("exp_month"):
        expires = f"{inner['exp_year']:04d}-{inner['exp_month']:02d}"
    word = "bank_debit" if kind in BANK_DEBITS else "wallet" if kind in WALLETS else kind
    return Method(word, brand_of(brand), inner.get("last4") or None, expires, id_of(remote_id))


def brand_of(word: str | None) -> str | None:
    if not word or word.lower() == "unknown":
        return None
    known = BRANDS.get(word.lower())
    return known or (word.replace("_", " ").title() if word.islower() else word)


# Small things


def snapshot(as_of: datetime, records: Iterable[Record]) -> Snapshot:
    """Records of one object are told once, the last word of each."""
    found: dict[tuple[type[Record], str], Any] = {}
    for record in records:
        found[type(record), record.remote_id] = sound(record)

    def of(kind: type[Record]) -> tuple[Any, ...]:
        return tuple(record for (sort, _), record in found.items() if sort is kind)

    return Snapshot(
        as_of=as_of,
        customers=of(CustomerRecord),
        orders=of(OrderRecord),
        subscriptions=of(SubscriptionRecord),
        payments=of(PaymentRecord),
        refunds=of(RefundRecord),
        invoices=of(InvoiceRecord),
    )


def sound(record: R) -> R:
    """The record, where all its texts are texts; ValueError else: then nothing of it can be believed."""
    for name in _texts(type(record)):
        value = getattr(record, name)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name} is no text")
    return record


_texts_of: dict[type[Record], tuple[str, ...]] = {}
_fields_of: dict[type[Record], frozenset[str]] = {}


def _texts(sort: type[Record]) -> tuple[str, ...]:
    if sort not in _texts_of:
        _texts_of[sort] = tuple(one.name for one in fields(sort) if one.name in TEXTS)
    return _texts_of[sort]


def without(record: R, *names: str) -> R:
    """The record, silent on some of its fields."""
    return replace(record, knows=all_fields(type(record)) - set(names))


def all_fields(sort: type[Record]) -> frozenset[str]:
    if sort not in _fields_of:
        _fields_of[sort] = frozenset(one.name for one in fields(sort)) - {"remote_id", "knows"}
    return _fields_of[sort]


def money_of(minor: Any, currency: Any) -> Money | None:
    """An amount; None for none, and for one that does not come out whole: a wrong amount is worse than none."""
    if not isinstance(minor, int) or isinstance(minor, bool) or not isinstance(currency, str):
        return None
    code = currency.upper()
    try:
        return from_units(minor, code, facts("stripe").exponents.get(code))
    except ValueError:
        return None


def moment(value: Any) -> datetime | None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 253_402_300_800:
        return None
    return datetime.fromtimestamp(value, UTC)


def rows_of(value: Any) -> list[Json]:
    rows = value.get("data") if isinstance(value, dict) else value
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def as_dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def id_of(value: Any) -> str | None:
    """The id of what may be an id or the object itself."""
    found = value.get("id") if isinstance(value, dict) else value
    return found if isinstance(found, str) and found else None


def safe(remote_id: str) -> str:
    """An id that can stand in a path; nothing else is ever asked for."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", remote_id):
        raise Gone("Stripe does not know this.", "That is no id of Stripe's.")
    return remote_id


def owner_of(one: Json) -> Json:
    customer = id_of(one.get("customer"))
    return {"customer": customer} if customer else {"customer_account": id_of(one.get("customer_account"))}


def with_query(url: str, pair: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{pair}"


def address_of(session: Json) -> str:
    url = session.get("url")
    if not isinstance(url, str):
        raise Unavailable(
            "Stripe's page can't be opened at the moment. Nothing was changed.", "No address given."
        )
    return url
