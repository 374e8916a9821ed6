"""What Mollie says, in our words: records of its objects, events of its webhooks; and our amounts and intervals in its.

Pure, but for the day of today; an object without an id raises Unavailable.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time
from typing import Any
from zoneinfo import ZoneInfo

from portal import clock
from portal.gateways import base, wire
from portal.gateways.base import Record, Ref, Snapshot, Unreadable, Unsupported
from portal.gateways.wire import Json, day, moment, part, text
from portal.money import Money

AMSTERDAM = ZoneInfo("Europe/Amsterdam")  # Mollie names no zone for its days; this is where it is at home
ENDED = {"canceled": "cancelled", "completed": "expired"}
LIVE = {"pending": "incomplete", "active": "active", "suspended": "past_due"}  # suspended: mandate invalid
PAYMENTS = {word: word for word in ("pending", "authorized", "paid", "failed", "expired")}
PAYMENTS |= {"open": "pending", "canceled": "cancelled"}
ORDERS = {"pending": "open", "authorized": "open", "disputed": "paid"}  # where it differs from the payment's
REFUNDS = {"failed": "failed", "canceled": "cancelled", "refunded": "sent"}
REFUNDS |= dict.fromkeys(("queued", "pending", "processing"), "pending")
INVOICES = {"draft": "draft", "issued": "open", "paid": "paid", "canceled": "void"}
KINDS = {"creditcard": "card", "directdebit": "bank_debit", "paypal": "wallet", "applepay": "wallet"}
BRANDS = {"paypal": "PayPal", "applepay": "Apple Pay", "ideal": "iDEAL", "eps": "EPS", "kbc": "KBC/CBC"}
CONTINUES = "portal_continues"  # in the metadata of a subscription that goes on for a cancelled one: whose id
ID, HINT = re.compile(r"[a-z]+_[A-Za-z0-9]{1,64}"), re.compile(rb"id=(tr_[A-Za-z0-9]{1,64})")
NO_ANSWER = "Mollie does not answer at the moment."


def snapshot(as_of: datetime, records: Iterable[Record]) -> Snapshot:
    """Records of all sorts in their places, each object once."""
    found: dict[str, Any] = {}
    for record in {(type(record), record.remote_id): record for record in records}.values():
        name = f"{type(record).__name__.removesuffix('Record').lower()}s"
        found[name] = (*found.get(name, ()), record)
    return Snapshot(as_of=as_of, **found)


def hint(payment: str, told: str) -> base.Event:
    """A classic webhook: the id of a payment to look at, and nothing else."""
    return base.Event(f"{payment}@{told}", "classic", Ref("payment", payment), None, {"id": payment})


SUBJECTS: dict[str, base.Kind] = {"payment": "payment", "refund": "refund", "sales-invoice": "invoice"}


def events(said: Json) -> list[base.Event]:
    """A refund and a chargeback are about the payment that they name; what is of no interest has no subject."""
    event, kind, entity = (text(said.get(name)) for name in ("id", "type", "entityId"))
    if set(said) == {"id"} and HINT.fullmatch(f"id={event}".encode()):
        return [hint(str(event), "")]
    if said.get("resource") != "event" or event is None or kind is None:
        raise ValueError("This is no event of Mollie's.")
    of, link = SUBJECTS.get(kind.partition(".")[0]), text(part(said, "_links", "entity").get("href")) or ""
    below = re.search(r"/payments/(tr_[A-Za-z0-9]+)", link)  # all that a simple payload tells of it
    payment = text(part(said, "_embedded", "entity").get("paymentId")) or (below[1] if below else None)
    if payment:
        of, entity = "payment", payment
    subject = Ref(of, entity) if of and entity and ID.fullmatch(entity) else None
    return [base.Event(event, kind, subject, moment(said.get("createdAt")), {"entity": entity})]


def id_of(said: Json, prefix: str) -> str:
    found = text(said.get("id")) or ""
    if not ID.fullmatch(found) or not found.startswith(f"{prefix}_"):
        raise Unreadable(NO_ANSWER, f"An object has no id that begins with {prefix}_.")
    return found


def _basics(said: Json) -> dict[str, Any]:
    """What most objects tell under one name."""
    told = {"raw_status": text(said.get("status")), "created_at": moment(said.get("createdAt"))}
    told |= {"customer": text(said.get("customerId")), "title": text(said.get("description"))}
    return {**told, "amount": _money(said.get("amount"))}


def customer(said: Json) -> base.CustomerRecord:
    told = {"email": text(said.get("email")), "name": text(said.get("name"))}
    created = moment(said.get("createdAt"))
    return wire.spoken(base.CustomerRecord, id_of(said, "cst"), ("email", "name"), created_at=created, **told)


def subscription(
    said: Json, payments: Sequence[Json] = (), mandates: Sequence[Json] | None = None
) -> base.SubscriptionRecord:
    """`payments` newest first. Paid until: the next day of payment, or the day on which the last one failed."""
    told, raw = _basics(said), text(said.get("status")) or ""
    start, due = day(said.get("startDate")), day(said.get("nextPaymentDate"))
    unpaid = raw in ("active", "suspended") and bool(payments) and _unpaid(payments[0])
    waits = raw == "active" and start and start > clock.now().astimezone(AMSTERDAM).date()
    trial = waits and not unpaid and CONTINUES not in part(said, "metadata")
    told["status"] = "past_due" if unpaid else "trialing" if trial else (LIVE | ENDED).get(raw)
    told |= {"interval": _interval(said), "started_at": _midnight(start), "stopped": raw == "suspended"}
    told["trial_ends_at"] = _midnight(start) if trial else None
    if raw in ("active", "suspended"):
        told["current_period_end"] = moment(payments[0].get("createdAt")) if unpaid else _midnight(due)
    if raw == "active" and due:
        told["next_payment"] = base.NextPayment(due, told["amount"], "fixed")
    told["ended_at"] = moment(said.get("canceledAt")) if raw in ENDED else None
    also = ["next_payment", "ended_at"] if raw in LIVE or raw in ENDED else []
    if mandates is not None:
        told["method"], also = _mandate(said, payments, mandates), [*also, "method"]
    return wire.spoken(base.SubscriptionRecord, id_of(said, "sub"), also, **told)


def _unpaid(payment: Json) -> bool:
    return payment.get("status") == "failed" or bool(_money(payment.get("amountChargedBack")))


def _mandate(said: Json, payments: Sequence[Json], mandates: Sequence[Json]) -> base.Method | None:
    """How the next payment is taken. Without a mandate of its own a subscription uses any valid one: the one that
    paid last, or the only one there is."""
    wanted = [one["mandateId"] for one in (said, *payments) if text(one.get("mandateId"))][:1]
    wanted = wanted or [one.get("id") for one in mandates if one.get("status") == "valid"]
    for one in mandates:
        if [one.get("id")] == wanted:
            usable = one.get("status") not in ("invalid", "pending")
            return replace(_method(one), remote_id=text(one.get("id")) if usable else None)
    return _method({"method": said.get("method")}) if said.get("method") else None


def _method(said: Json) -> base.Method:
    """Of a payment or a mandate; a card expires on MM/YY on the first and on a date on the second."""
    word, details = text(said.get("method")) or "", part(said, "details")
    account, expires = text(details.get("consumerAccount")) or "", text(details.get("cardExpiryDate")) or ""
    month, _, year = expires.partition("/")
    ends = wire.expiry(month, year) or (expires[:7] if day(expires) else None)
    digits = wire.last4(details.get("cardNumber")) or (wire.last4(account) if "@" not in account else None)
    brand = text(details.get("cardLabel")) or BRANDS.get(word) or (None if word in KINDS else word.title())
    return base.Method(KINDS.get(word, word), brand, digits, ends)


def carries(mandate: Json, subscription: Json) -> bool:
    """Whether a mandate can pay for a subscription: of its fixed type, and good without the customer being there."""
    scopes, fixed = mandate.get("scopes"), subscription.get("method")
    alone = not isinstance(scopes, list) or "customer-not-present" in scopes
    return mandate.get("status") == "valid" and alone and fixed in (None, mandate.get("method"))


def sale(said: Json) -> list[Record]:
    """A payment, and the order that it is too unless a subscription made it or it only set up a method."""
    told, refunded, payment = _basics(said), _money(said.get("amountRefunded")), id_of(said, "tr")
    status, amount, details = PAYMENTS.get(told["raw_status"]), told["amount"], part(said, "details")
    if status == "paid" and _unpaid(said):
        status = "disputed"
    elif status == "paid" and refunded:
        status = "refunded" if amount and refunded.minor >= amount.minor else "partially_refunded"
    told["subscription"], metadata = text(said.get("subscriptionId")), part(said, "metadata")
    is_order = bool(amount) and not told["subscription"] and "portal_action" not in metadata
    mail = text(part(said, "billingAddress").get("email")) or text(details.get("consumerAccount")) or ""
    told["email"] = mail if "@" in mail else None
    more: dict[str, Any] = {"refunded": refunded, "paid_at": moment(said.get("paidAt")), "status": status}
    more |= {"method": _method(said) if said.get("method") else None, "order": payment if is_order else None}
    if status == "failed":
        reason = text(details.get("failureMessage")) or text(details.get("bankReason"))
        more["failure"] = base.Failure(text(details.get("failureReason")) or "failed", reason)
    record = wire.spoken(base.PaymentRecord, payment, **told, **more)
    if not is_order:
        return [record]
    number = text(metadata.get("order_number")) or text(metadata.get("order_id"))
    more = {"number": number, "status": ORDERS.get(str(status), status), "lines": _lines(said) or None}
    return [record, wire.spoken(base.OrderRecord, payment, **told, **more)]


def _lines(said: Json) -> tuple[base.Line, ...]:
    """The lines that a payment has; most have none and are one line of their description."""
    rows = said.get("lines")
    if not isinstance(rows, list) or not rows:
        rows = [{"totalAmount": said.get("amount"), "description": said.get("description")}]
    found = [(part(one), _money(part(one).get("totalAmount"))) for one in rows]
    return tuple(
        base.Line(text(one.get("description")) or "–", wire.whole(one.get("quantity")) or 1, total)
        for one, total in found
        if total is not None
    )


def _refund(said: Json) -> base.RefundRecord:
    told = {name: value for name, value in _basics(said).items() if name not in ("customer", "title")}
    told |= {"status": REFUNDS.get(told["raw_status"]), "reason": text(said.get("description"))}
    return wire.spoken(base.RefundRecord, id_of(said, "re"), payment=text(said.get("paymentId")), **told)


def invoice(said: Json) -> base.InvoiceRecord:
    """A sales invoice. Mollie's own invoices to the merchant are another list, which is never read."""
    told, links, paid_by = _basics(said), part(said, "_links"), said.get("paymentDetails")
    status, due = INVOICES.get(told["raw_status"]), moment(said.get("dueAt"))
    rows = [part(one) for one in (paid_by if isinstance(paid_by, list) else [paid_by])]
    payments = [text(one.get("sourceReference")) for one in rows if one.get("source") == "payment"]
    file = text(part(links, "pdfLink").get("href")) if status != "draft" else None
    told["status"] = "overdue" if status == "open" and due and due < clock.now() else status
    told |= {"number": text(said.get("invoiceNumber")), "email": text(part(said, "recipient").get("email"))}
    told |= {"amount": _money(said.get("totalAmount")), "due": _money(said.get("amountDue"))}
    told |= {"payment": next(iter(payments), None), "document_url": file, "document": file is not None}
    told |= {"page_url": text(part(links, "invoicePayment").get("href"))}
    del told["title"]
    return wire.spoken(base.InvoiceRecord, id_of(said, "invoice"), **told)


RECORDS: dict[str, Callable[[Json], list[Record]]] = {
    "customers": lambda said: [customer(said)],
    "subscriptions": lambda said: [subscription(said)],
    "payments": sale,
    "refunds": lambda said: [_refund(said)],
    "sales-invoices": lambda said: [invoice(said)],
}


def _money(said: Any) -> Money | None:
    return wire.major(part(said).get("value"), part(said).get("currency"))


def written(money: Money) -> dict[str, str]:
    """An amount with exactly the decimals of its currency: "10.00" EUR, "1000" JPY."""
    return {"currency": money.currency, "value": f"{money.decimal:f}"}


def _interval(said: Json) -> base.Interval | None:
    found = re.fullmatch(r"([1-9][0-9]{0,2}) (day|week|month)s?", text(said.get("interval")) or "")
    units: dict[str, base.Unit] = {"day": "day", "week": "week", "month": "month"}
    if found is None or found[0] == "12 months":
        return base.Interval("year") if found else None
    return base.Interval(units[found[2]], int(found[1]))


def spelled(interval: base.Interval) -> str:
    """As Mollie writes it; it knows no years, and nothing longer than one."""
    unit, count = interval.unit, interval.count
    if unit == "year":
        unit, count = "month", 12 * count
    if count > {"day": 365, "week": 52, "month": 12}[unit]:
        raise Unsupported("Mollie can't charge less often than once a year.")
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def unlike(said: Json, wish: Json) -> list[str]:
    """The wishes that a subscription does not show."""
    same = {"amount": _money(said.get("amount")) == _money(wish.get("amount"))}
    same["interval"] = _interval(said) == _interval(wish)
    return [name for name in wish if not same[name]]


def _midnight(on: date | None) -> datetime | None:
    return datetime.combine(on, time(), AMSTERDAM).astimezone(UTC) if on else None
