"""Razorpay's objects as our records: pure, the same for answers, lists and the payloads of webhooks.

Amounts are whole smallest units as ISO 4217 counts them, times are seconds since 1970, and what an object leaves out is
not spoken of. Source: https://razorpay.com/docs/api/
"""

from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

from portal.gateways import base, wire
from portal.gateways.base import Method
from portal.gateways.wire import Json, minor, moment, part, spoken, text, whole
from portal.money import Money

INDIA = ZoneInfo("Asia/Kolkata")
SUBSCRIPTIONS: dict[str, base.SubscriptionStatus] = {
    "created": "incomplete",
    "authenticated": "trialing",
    "active": "active",
    "pending": "past_due",
    "halted": "past_due",
    "paused": "paused",
    "cancelled": "cancelled",
    "completed": "expired",
    "expired": "expired",
}
PAYMENTS: dict[str, base.PaymentStatus] = {
    "created": "pending",
    "authorized": "authorized",
    "captured": "paid",
    "refunded": "refunded",
    "failed": "failed",
}
ORDERS: dict[str, base.OrderStatus] = {"created": "open", "attempted": "open", "paid": "paid"}
REFUNDS: dict[str, base.RefundStatus] = {"pending": "pending", "processed": "sent", "failed": "failed"}
INVOICES: dict[str, base.InvoiceStatus] = {
    "draft": "draft",
    "issued": "open",
    "partially_paid": "open",
    "paid": "paid",
    "cancelled": "void",
    "expired": "void",
    "deleted": "void",
}
PERIODS = {
    "daily": base.Interval("day"),
    "weekly": base.Interval("week"),
    "monthly": base.Interval("month"),
    "quarterly": base.Interval("month", 3),
    "yearly": base.Interval("year"),
}
GOOD = ("paid", "partially_refunded", "refunded")
NO_EMAIL = "void@razorpay.com"
NOTHING: Json = {}


def subscription(
    said: Json, plan: Json = NOTHING, then: Json = NOTHING, next_plan: Json = NOTHING
) -> base.SubscriptionRecord:
    """Silent on the method, and without its plan on title, amount and interval. `then` is the subscription as a
    scheduled change will make it."""
    word, starts = text(said.get("status")), moment(said.get("start_at"))
    status, every = SUBSCRIPTIONS.get(word or ""), PERIODS.get(str(plan.get("period")))
    day, last = wire.day(said.get("charge_at"), INDIA), _cycles_left(said) == 0
    price, new_price = _price(plan, said), _price(next_plan, then)
    follows = status in ("active", "trialing") and day is not None and not last
    certainty: base.Certainty = "estimated" if then else "fixed"
    return spoken(
        base.SubscriptionRecord,
        also=("next_payment", "due", "cancels_at", "object", "retries_on", "pending_change")
        if status
        else (),
        **_common(said, status),
        email=email(said.get("customer_email")),
        customer=text(said.get("customer_id")),
        title=text(part(plan, "item").get("name")),
        amount=price,
        interval=replace(every, count=every.count * (whole(plan.get("interval")) or 1)) if every else None,
        quantity=whole(said.get("quantity")),
        started_at=starts,
        trial_ends_at=starts if status == "trialing" else None,
        current_period_start=moment(said.get("current_start")),
        current_period_end=moment(said.get("current_end")),
        next_payment=base.NextPayment(day, new_price or price, certainty) if day and follows else None,
        ended_at=moment(said.get("ended_at")),
        due=price if status == "past_due" else None,
        pending_change=_change(then, next_plan, new_price) if then else None,
        object=_sort(said, word),
        stopped=(word == "halted") if status else None,
        retries_on=day if word == "pending" else None,
    )


def _change(then: Json, plan: Json, price: Money | None) -> base.PendingChange:
    on = wire.day(then.get("change_scheduled_at"), INDIA) or wire.day(then.get("current_end"), INDIA)
    return base.PendingChange(on, price, text(part(plan, "item").get("name")), whole(then.get("quantity")))


def _sort(said: Json, word: str | None) -> str | None:
    """The two sorts that the facts name. Who paused it is not always told: only UPI apps let customers do so."""
    if word == "active" and _cycles_left(said) == 0:
        return "last_cycle"
    by, used = said.get("pause_initiated_by"), sort_of(said)
    elsewhere = by != "self" if by else used is None or used.kind == "upi"
    return "paused_elsewhere" if word == "paused" and elsewhere else None


def _cycles_left(said: Json) -> int | None:
    return whole(said.get("remaining_count"))  # digits in some answers, a number in others


def sort_of(said: Json) -> Method | None:
    """A subscription names the sort of its method at most, and not in every answer."""
    sort = text(said.get("payment_method"))
    return Method(sort) if sort else None


def _price(plan: Json, said: Json) -> Money | None:
    one, times = _money(part(plan, "item")), whole(said.get("quantity"))
    return one * times if one and times is not None else one


def payment(said: Json, subscription_id: str | None = None) -> base.PaymentRecord:
    """`captured` (true in answers, "1" in webhooks) is left alone: the status says as much."""
    status, back = PAYMENTS.get(str(said.get("status"))), _money(said, "amount_refunded")
    if status == "paid" and back:
        status = "partially_refunded"
    code = text(said.get("error_reason")) or text(said.get("error_code")) or "failed"
    return spoken(
        base.PaymentRecord,
        **_common(said, status),
        email=email(said.get("email")),
        customer=text(said.get("customer_id")),
        title=text(said.get("description")),
        amount=_money(said),
        refunded=back,
        paid_at=moment(said.get("created_at")) if status in GOOD else None,
        method=method(said),
        order=text(said.get("order_id")),
        subscription=subscription_id,
        invoice=text(said.get("invoice_id")),
        failure=base.Failure(code, text(said.get("error_description"))) if status == "failed" else None,
    )


def method(said: Json) -> Method | None:
    """How a payment was made. Lists show a card only where they are asked to; a network token has digits of its own."""
    sort, card = text(said.get("method")), part(said, "card")
    kind = "foreign_card" if card.get("international") is True else sort
    brands = (card.get("network"), said.get("wallet"), said.get("bank"))
    ids = (said.get("token_id"), said.get("card_id"), said.get("vpa"))
    if not kind:
        return None
    return Method(
        kind,
        brand=next(filter(None, map(text, brands)), None),
        last4=wire.last4(card.get("last4")),
        expires=wire.expiry(card.get("expiry_month"), card.get("expiry_year")),
        remote_id=next(filter(None, map(text, ids)), None),
    )


def linked(said: Json) -> base.PaymentRecord:
    """What an invoice says of its payment: in lists, it alone joins the payment to a subscription."""
    subscription_id, payment_id = text(said.get("subscription_id")), str(payment_of(said))
    return spoken(base.PaymentRecord, payment_id, subscription=subscription_id, invoice=said["id"])


def payment_of(invoice: Json) -> str | None:
    return text(invoice.get("payment_id"))


def paid_at(invoice: Json) -> int:
    return whole(invoice.get("paid_at")) or 0


def order(said: Json) -> base.OrderRecord:
    """Whose it is, and what was paid back of it, stands in its payments alone."""
    tries, status = tries_of(said), ORDERS.get(str(said.get("status")))
    back = sum(whole(one.get("amount_refunded")) or 0 for one in tries)
    if status == "paid" and back:
        status = "refunded" if back >= (whole(said.get("amount_paid")) or 0) else "partially_refunded"
    number, amount = text(said.get("receipt")), _money(said)
    title = next(filter(None, (text(one.get("description")) for one in tries)), None) or number
    return spoken(
        base.OrderRecord,
        **_common(said, status),
        email=next(filter(None, (email(one.get("email")) for one in tries)), None),
        customer=next(filter(None, (text(one.get("customer_id")) for one in tries)), None),
        number=number,
        title=title,
        amount=amount,
        lines=(base.Line(title, 1, amount),) if title and amount else None,
    )


def tries_of(said: Json) -> list[Json]:
    """The payments that an order was asked for with; a failed one and a later good one share an order."""
    items = part(said, "payments").get("items")
    return [one for one in items if isinstance(one, dict) and "id" in one] if isinstance(items, list) else []


def refund(said: Json) -> base.RefundRecord:
    told = _common(said, REFUNDS.get(str(said.get("status"))))
    return spoken(base.RefundRecord, **told, payment=text(said.get("payment_id")), amount=_money(said))


def invoice(said: Json) -> base.InvoiceRecord:
    """Those of subscriptions have no number. There is no file: the page is all there is."""
    items = said.get("line_items")
    lines = [_line(one) for one in items if isinstance(one, dict)] if isinstance(items, list) else []
    return spoken(
        base.InvoiceRecord,
        **_common(said, INVOICES.get(str(said.get("status")))),
        email=email(part(said, "customer_details").get("email")),
        customer=text(said.get("customer_id")),
        number=text(said.get("invoice_number")) or text(said.get("receipt")),
        amount=_money(said),
        due=_money(said, "amount_due"),
        payment=payment_of(said),
        subscription=text(said.get("subscription_id")),
        order=text(said.get("order_id")),
        page_url=text(said.get("short_url")),
        lines=tuple(filter(None, lines)) or None,
    )


def _line(said: Json) -> base.Line | None:
    name = text(said.get("name")) or text(said.get("description"))
    amount = _money(said, "net_amount") or _money(said, "gross_amount") or _money(said)
    return base.Line(name, whole(said.get("quantity")) or 1, amount) if name and amount else None


def customer(said: Json) -> base.CustomerRecord:
    told = {**_common(said, None), "name": text(said.get("name")), "email": email(said.get("email"))}
    return spoken(base.CustomerRecord, **told)


def event(said: Json, event_id: str) -> base.Event:
    """A refund is told by its payment, whose look finds both."""
    word = text(said.get("event")) or "unknown"
    sort: Any = word.split(".")[0]
    entity = part(said, "payload", sort, "entity")
    sort, subject = ("payment", entity.get("payment_id")) if sort == "refund" else (sort, entity.get("id"))
    ref = base.Ref(sort, subject) if sort in READERS and isinstance(subject, str) and subject else None
    return base.Event(event_id, word, ref, moment(said.get("created_at")))


def email(value: Any) -> str | None:
    """Shops that ask for none send a placeholder, which is nobody's address."""
    found = text(value)
    return None if found is None or found.lower() == NO_EMAIL else found


def _money(said: Json, name: str = "amount") -> Money | None:
    return minor(said.get(name), said.get("currency"))


def _common(said: Json, status: str | None) -> dict[str, Any]:
    told = {"remote_id": said["id"], "raw_status": text(said.get("status")), "status": status}
    return {**told, "created_at": moment(said.get("created_at"))}


# What an id begins with, and who reads the object.
READERS: dict[str, tuple[str, Any]] = {
    "customer": ("cust_", customer),
    "order": ("order_", order),
    "subscription": ("sub_", subscription),
    "payment": ("pay_", payment),
    "refund": ("rfnd_", refund),
    "invoice": ("inv_", invoice),
}
