"""Single fields of what Flutterwave says, whichever version and call it comes from. Tokens and the first six digits of
cards are never read."""

import re
from datetime import datetime, timedelta
from typing import Any

from portal.gateways import base, wire
from portal.gateways.base import Unreadable
from portal.gateways.wire import Json, moment, part, text
from portal.intervals import add_months
from portal.money import Money

BUSY = "Flutterwave does not answer at the moment."
SUBSCRIPTIONS: dict[str | None, base.SubscriptionStatus] = {
    "active": "active",
    "cancelled": "cancelled",
    "deactivated": "cancelled",  # the word of the webhook
}
PAYMENTS: dict[str | None, base.PaymentStatus] = {
    "successful": "paid",
    "pending": "pending",
    "failed": "failed",
    "succeeded": "paid",  # this and what follows: v4
    "voided": "cancelled",
}
MONTHS = {"monthly": 1, "quarterly": 3, "bi-annually": 6}  # bi-annually is every half year
INTERVALS = {name: base.Interval("month", count) for name, count in MONTHS.items()} | {
    "daily": base.Interval("day"),
    "weekly": base.Interval("week"),
    "yearly": base.Interval("year"),
}
EVERY = re.compile(r"every ([1-9][0-9]{0,2}) (day|week|month|year)s?")
METHODS = {"account": "bank_debit", "bank_account": "bank_debit", "mpesa": "wallet", "opay": "wallet"}
METHODS |= dict.fromkeys(("banktransfer", "bank_transfer", "transfer", "ussd"), "bank_transfer")
METHODS |= dict.fromkeys(("applepay", "googlepay", "mobile_money"), "wallet")
GOODS = re.compile(r"item|product|description|title|cart|ticket|course|package", re.IGNORECASE)


def interval_of(plan: Json) -> base.Interval | None:
    """None for hourly ones, which no customer sees, and for what is no interval."""
    word = (text(plan.get("interval")) or "").lower()
    found = EVERY.fullmatch(word)
    unit: Any = found[2] if found else None
    return base.Interval(unit, int(found[1])) if found else INTERVALS.get(word)


def later(at: datetime, every: base.Interval, begun: datetime | None) -> datetime:
    """One interval on; begun on the 31st it is due on 28 Feb and on 31 Mar again."""
    if every.unit in ("day", "week"):
        return at + timedelta(days=every.count * (7 if every.unit == "week" else 1))
    at_the_end = add_months(at.date(), 0, 31) == at.date()
    meant = begun.day if begun and at_the_end and begun.day > at.day else at.day
    months = every.count * (12 if every.unit == "year" else 1)
    return datetime.combine(add_months(at.date(), months, meant), at.timetz())


def price_of(said: Json, plan: Json) -> Money | None:
    """What a subscription costs: its own amount (chosen at checkout where the plan's is 0), in the plan's currency."""
    return wire.major(said.get("amount"), said.get("currency") or plan.get("currency"))


def written(price: Money) -> int | float:
    """An amount as Flutterwave takes it: a number in major units."""
    value = price.decimal
    return int(value) if value == value.to_integral_value() else float(value)


def amount_of(said: Json) -> Money | None:
    return wire.major(said.get("amount"), said.get("currency"))


def total_of(said: Json) -> Money | None:
    """What was taken: `charged_amount` where fees were passed on."""
    asked, taken = amount_of(said), wire.major(said.get("charged_amount"), said.get("currency"))
    return taken if asked and taken and taken.minor > asked.minor else asked


def read_method(said: Json) -> base.Method | None:
    """Without digits a card says nothing: lists leave them out, and what a look has told is kept. Nothing tells two
    cards apart for good, so there is no id."""
    new = part(said, "payment_method_details") or part(said, "payment_method")
    card = part(said, "card") or part(new, "card")
    kind = text(said.get("payment_type")) or text(new.get("type")) or ("card" if card else None)
    if kind is None or (kind == "card" and not card):
        return None
    if kind != "card":
        wallet = kind.startswith("mobilemoney")
        return base.Method("wallet" if wallet else METHODS.get(kind, kind))
    month, _, year = (text(card.get("expiry")) or "").partition("/")
    brand = text(card.get("type")) or text(card.get("network"))
    return base.Method(
        "card",
        brand.title() if brand else None,
        wire.last4(card.get("last_4digits") or card.get("last4")),
        wire.expiry(month or card.get("expiry_month"), year or card.get("expiry_year")),
    )


def goods_of(said: Json) -> str | None:
    """What was sold, as far as the shop's own fields name it; else the narration, unless it only says "card"."""
    fields = said.get("meta") or said.get("meta_data")
    if isinstance(fields, list):
        fields = {str(one.get("metaname")): one.get("metavalue") for one in fields if isinstance(one, dict)}
    told = fields.items() if isinstance(fields, dict) else ()
    names = [
        text(value) for name, value in told if GOODS.search(str(name)) and not str(name).startswith("__")
    ]
    line = text(said.get("narration")) or text(said.get("description"))
    plain = line if line and not line.lower().startswith("card transaction") else None
    return ", ".join(filter(None, names))[:200] or plain


def email_of(said: Json) -> str | None:
    """In small letters, since it is what everything is found by."""
    who, bill = part(said, "customer"), part(said, "billing_details")
    named = (who.get("email"), who.get("customer_email"), said.get("customer_email"), bill.get("email"))
    found = next(filter(None, map(text, named)), None)
    return found.lower() if found else None


def plan_of(said: Json) -> str | None:
    """The plan of a subscription or of a transaction that tells it: a number, or an object."""
    value = first(said, "plan", "payment_plan", "paymentPlan")
    found = text(value.get("id")) if isinstance(value, dict) else text(value)
    return found if found and found.isdigit() and found != "0" else None


def charge_of(refund: Json) -> str | None:
    return text(first(refund, "tx_id", "TransactionId", "transaction_id", "charge_id"))


def created(said: Json) -> datetime | None:
    return moment(first(said, "created_at", "created_datetime", "CreatedAt", "createdAt"))


def is_on(said: Json) -> bool:
    return said.get("status") == "active"


def is_over(said: Json) -> bool:
    return SUBSCRIPTIONS.get(text(said.get("status"))) == "cancelled"


def is_paid(said: Json) -> bool:
    return PAYMENTS.get(text(said.get("status"))) == "paid"


def is_sale(said: Json) -> bool:
    """A shop's order: paid, and not of a plan."""
    return is_paid(said) and plan_of(said) is None


def id_of(said: Json, *names: str) -> str:
    """An id as text, since it is a number in one answer and text in another; Unavailable where none is told."""
    found = text(first(said, *names))
    if found is None:
        raise Unreadable(BUSY, f"It has no {' or '.join(names)}.")
    return found


def first(said: Json, *names: str) -> Any:
    return next((said[name] for name in names if said.get(name) not in (None, "")), None)
