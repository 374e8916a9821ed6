"""Xendit's objects in our words: pure functions over the JSON of its API, for asking, for notices and for `read`.

Amounts are JSON numbers in major units (some samples of the documents write them as text), times ISO 8601 in UTC.
Fields and words: https://docs.xendit.co/apidocs (create-recurring-plan, get-list-of-subscription-cycles-2, get-session,
get-payment, get-payment-token, list-transactions, refund-webhook-notification); invoices and v2:
https://github.com/xendit/xendit-php/tree/master/docs
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypeVar

from portal import clock
from portal.gateways import base, wire
from portal.gateways.base import Ref, Snapshot, Unsupported
from portal.gateways.wire import Json, major, moment, part, spoken, text, whole
from portal.money import Money

NEW, OLD = "2026-01-01", "2022-04-10"  # the two generations of subscriptions
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INVOICE_ID = re.compile(r"[0-9a-f]{24}")
CONTINUES = "portal_continues"  # in the metadata of a plan that goes on for an ended one: whose id
COUNTRIES = {"IDR": "ID", "PHP": "PH", "VND": "VN"} | {"THB": "TH", "MYR": "MY", "SGD": "SG"}  # with sessions
DAYS = {"DAY": 1, "WEEK": 7, "MONTH": 30, "YEAR": 365}
CARD_KEPT = timedelta(days=5 * 365)
CYCLES = ("SCHEDULED", "PENDING", "RETRYING", "FAILED", "SUCCEEDED", "CANCELLED")
PAYMENTS = (
    {"SUCCEEDED": "paid", "AUTHORIZED": "authorized", "PENDING": "pending", "FAILED": "failed"}
    | {"EXPIRED": "expired", "CANCELED": "cancelled"}
    | {"REQUIRES_ACTION": "pending", "AWAITING_CAPTURE": "authorized"}  # of v2
    | {"SUCCESS": "paid", "VOIDED": "cancelled", "REVERSED": "cancelled"}  # of transactions
)
ORDERS = (
    {"PENDING": "open", "PAID": "paid", "SETTLED": "paid", "EXPIRED": "expired"}
    | {"ACTIVE": "open", "COMPLETED": "paid", "CANCELED": "cancelled"}  # of sessions
)
INVOICES = {"PENDING": "open", "PAID": "paid", "SETTLED": "paid", "EXPIRED": "void"}
REFUNDS = {"PENDING": "pending", "SUCCEEDED": "sent", "FAILED": "failed", "CANCELLED": "cancelled"}
KINDS = (  # by a word in a channel's code or category; what is none of these is a wallet
    {"CARDLESS": "paylater", "PAYLATER": "paylater", "CARD": "card", "DIRECT_DEBIT": "bank_debit"}
    | {"VIRTUAL_ACCOUNT": "bank_transfer", "QR": "qr_code", "RETAIL": "cash"}
)
BRANDS = {"VISA": "Visa", "MASTERCARD": "Mastercard", "GCASH": "GCash", "SHOPEEPAY": "ShopeePay"} | {
    "PAYMAYA": "Maya",
    "GRABPAY": "GrabPay",
    "LINKAJA": "LinkAja",
    "MOMO": "MoMo",
    "TRUEMONEY": "TrueMoney",
}
# What a plan that continues another takes over from it, and from its schedule.
COPIED = (
    *("customer_id", "currency", "amount", "payment_tokens", "failed_cycle_action", "notification_channels"),
    *("locale", "payment_link_for_failed_attempt", "description", "items"),
)
SCHEDULE = (
    *("interval", "interval_count", "retry_interval", "retry_interval_count", "total_retry"),
    "failed_attempt_notifications",
)
_Sort = TypeVar("_Sort", bound=base.Record)


def snapshot(as_of: datetime, records: Iterable[base.Record]) -> Snapshot:
    """Of one object told twice the later word holds."""
    told = list({(type(one), one.remote_id): one for one in records}.values())

    def of(sort: type[_Sort]) -> tuple[_Sort, ...]:
        return tuple(one for one in told if isinstance(one, sort))

    return Snapshot(
        as_of=as_of,
        customers=of(base.CustomerRecord),
        orders=of(base.OrderRecord),
        subscriptions=of(base.SubscriptionRecord),
        payments=of(base.PaymentRecord),
        refunds=of(base.RefundRecord),
        invoices=of(base.InvoiceRecord),
    )


def speaking(record: _Sort, **fields: Any) -> _Sort:
    """The record with these fields too; it speaks of them."""
    return replace(record, **fields, knows=(record.knows or frozenset()) | set(fields))


def linked(
    to: base.OrderRecord | base.SubscriptionRecord, records: Iterable[base.Record], **fields: Any
) -> list[base.Record]:
    """Records among which the payments are said to be of an order or a subscription."""
    name = "order" if isinstance(to, base.OrderRecord) else "subscription"
    told = {name: to.remote_id, "email": to.email, "title": to.title, "customer": to.customer}
    told = {name: value for name, value in told.items() if value is not None} | fields
    return [speaking(one, **told) if isinstance(one, base.PaymentRecord) else one for one in records]


def sent(refunds: Iterable[base.RefundRecord]) -> int:
    """What has been given back, in minor units."""
    return sum(one.amount.minor for one in refunds if one.status == "sent" and one.amount)


def objects(value: Any) -> list[Json]:
    """The objects of a list; empty for what is none."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def id_of(said: Json, *names: str) -> str:
    """The first of these fields that has a value; ValueError where none has."""
    for name in names:
        if found := text(said.get(name)):
            return found
    raise ValueError(f"There is no {' or '.join(names)} in this.")


# Plans and cycles


class Look(NamedTuple):
    """A plan with its cycles, oldest first, as of a moment; `version` is the generation that knows it."""

    as_of: datetime
    plan: Json
    version: str
    cycles: list[Json]

    @property
    def live(self) -> bool:
        return self.plan.get("status") == "ACTIVE"

    @property
    def ended(self) -> bool:
        return self.plan.get("status") == "INACTIVE"


def at(cycle: Json) -> datetime:
    """When a cycle is due."""
    return moment(cycle.get("scheduled_timestamp")) or moment(cycle.get("created")) or EPOCH


def among(cycles: Iterable[Json], *words: str) -> list[Json]:
    """The cycles with one of these words for their status."""
    return [one for one in cycles if one.get("status") in words]


def token(plan: Json) -> str | None:
    """The payment token (or, in an old plan, the payment method) that is tried first."""
    ranked = sorted(
        objects(plan.get("payment_tokens") or plan.get("payment_methods")),
        key=lambda one: whole(one.get("rank")) or 9,
    )
    return text(ranked[0].get("payment_token_id") or ranked[0].get("payment_method_id")) if ranked else None


def subscription(
    number: str, plan: Json, cycles: list[Json] | None = None, method: base.Method | None = None
) -> base.SubscriptionRecord:
    """A plan alone tells neither what is due nor the next payment; its cycles, oldest first, do."""
    raw, schedule, items = text(plan.get("status")), part(plan, "schedule"), objects(plan.get("items"))
    units: dict[Any, base.Unit] = {"DAY": "day", "WEEK": "week", "MONTH": "month", "YEAR": "year"}
    unit, count, saved = (
        units.get(schedule.get("interval")),
        whole(schedule.get("interval_count")),
        token(plan),
    )
    sort = "plan" if plan.get("payment_link_for_failed_attempt") is True else "plan_without_link"
    record = spoken(
        base.SubscriptionRecord,
        number,
        status=state(plan, cycles),
        raw_status=raw,
        customer=text(plan.get("customer_id")),
        amount=major(plan.get("amount"), plan.get("currency")),
        title=text(
            plan.get("description") or (items[0].get("name") if items else None) or plan.get("reference_id")
        ),
        interval=base.Interval(unit, count) if unit and count and count > 0 else None,
        quantity=whole(items[0].get("quantity")) if len(items) == 1 else None,
        created_at=moment(plan.get("created")),
        updated_at=moment(plan.get("updated")),
        started_at=moment(plan.get("created")),
        ended_at=moment(plan.get("updated")) if raw == "INACTIVE" else None,
        method=method or (base.Method("payment_method", remote_id=saved) if saved else None),
        object="legacy_plan" if "payment_methods" in plan else sort,
    )
    return record if cycles is None else speaking(record, **_dates(record, plan, cycles))


def state(plan: Json, cycles: list[Json] | None) -> str | None:
    """Our word for a plan; None where a word of Xendit's is not known."""
    raw, schedule, count = (
        text(plan.get("status")),
        part(plan, "schedule"),
        whole(plan.get("recurring_cycle_count")),
    )
    tried = [one.get("status") for one in cycles or () if one.get("status") not in ("SCHEDULED", "CANCELLED")]
    if raw in ("PENDING", "REQUIRES_ACTION"):
        return "incomplete"
    if raw == "INACTIVE":
        total, last = (
            whole(schedule.get("total_recurrence")),
            cycles[-1].get("status") if cycles else "SUCCEEDED",
        )
        return "expired" if total and (count or 0) >= total and last == "SUCCEEDED" else "cancelled"
    if raw != "ACTIVE" or (tried and tried[-1] not in CYCLES):
        return None
    if tried:
        return "past_due" if tried[-1] in ("RETRYING", "FAILED") else "active"
    coming = among(cycles or (), "SCHEDULED")
    anchor = (
        moment(schedule.get("anchor_date"))
        if not count and plan.get("immediate_payment") is not True
        else None
    )
    first = at(coming[0]) if coming else anchor
    return "trialing" if first and first > clock.now() else "active"


def _dates(record: base.SubscriptionRecord, plan: Json, cycles: list[Json]) -> dict[str, Any]:
    """What only cycles tell. Paid is up to the first cycle after the newest paid one, a skipped one included."""
    paid, live = among(cycles, "SUCCEEDED"), plan.get("status") == "ACTIVE"
    after = [one for one in cycles if paid and at(one) > at(paid[-1]) and one.get("status") != "SUCCEEDED"]
    coming = among(cycles, "SCHEDULED") if live else []
    retries = [found for one in among(cycles, "RETRYING") if (found := retry(one))]
    charges = sorted([(at(one), one) for one in coming] + retries, key=lambda one: one[0]) if live else []
    amount, link = due(plan, cycles)
    return {
        "current_period_start": at(paid[-1]) if paid else None,
        "current_period_end": at(after[0]) if after else None,
        "trial_ends_at": at(coming[0]) if coming and record.status == "trialing" else None,
        "next_payment": _next(*charges[0]) if charges else None,
        "due": amount,
        "due_link": link,
        "stopped": record.status == "past_due" and not retries,
        "retries_on": retries[-1][0].date() if retries and record.status == "past_due" else None,
    }


def _next(when: datetime, cycle: Json) -> base.NextPayment:
    """Charged within a day of its moment, so only the day is said."""
    return base.NextPayment(when.date(), major(cycle.get("amount"), cycle.get("currency")), "fixed")


def retry(cycle: Json) -> tuple[datetime, Json] | None:
    attempts = objects(cycle.get("attempt_details"))
    when = moment(attempts[-1].get("next_retry_timestamp")) if attempts else None
    return (when, cycle) if when else None


def due(plan: Json, cycles: list[Json]) -> tuple[Money | None, str | None]:
    """What can be paid now, and on which page: nothing where a payment has failed for good without a page."""
    tried = [one for one in cycles if one.get("status") not in ("SCHEDULED", "CANCELLED")]
    if plan.get("status") != "ACTIVE" or not tried or tried[-1].get("status") not in ("RETRYING", "FAILED"):
        return None, None
    last, link = tried[-1], None
    if plan.get("payment_link_for_failed_attempt") is True and "payment_methods" not in plan:
        links = [
            part(one, "payment_session").get("payment_link_url")
            for one in objects(last.get("attempt_details"))
        ]
        link = next((text(one) for one in reversed(links) if text(one)), None)
    payable = link or last.get("status") == "RETRYING"
    return (major(last.get("amount"), last.get("currency")) if payable else None), link


def attempts(of: base.SubscriptionRecord, cycles: Iterable[Json]) -> Iterator[base.PaymentRecord]:
    """The payments of cycles. Of one that went through the status is left open: refunds are not told here."""
    for cycle in cycles:
        for one in objects(cycle.get("attempt_details")):
            if number := text(one.get("payment_id")):
                status = {"FAILED": "failed", "PENDING": "pending"}.get(text(one.get("status")) or "")
                yield spoken(
                    base.PaymentRecord,
                    number,
                    email=of.email,
                    customer=of.customer,
                    subscription=of.remote_id,
                    title=of.title,
                    amount=major(cycle.get("amount"), cycle.get("currency")),
                    created_at=moment(one.get("created")),
                    status=status,
                    raw_status=text(one.get("status")) if status else None,
                    failure=_failure(one),
                )


def like(number: str, plan: Json, cycles: list[Json], until: datetime) -> dict[str, Any]:
    """The body of a plan that continues an ended one; no day after the 28th is taken, so it begins on the 1st then."""
    begins = until if until.day <= 28 else (until.replace(day=1) + timedelta(days=31)).replace(day=1)
    old = part(plan, "schedule")
    schedule = {name: old[name] for name in SCHEDULE if old.get(name) is not None}
    if total := whole(old.get("total_recurrence")):
        schedule["total_recurrence"] = max(1, total - len(among(cycles, "SUCCEEDED", "FAILED")))
    return {name: plan[name] for name in COPIED if plan.get(name) is not None} | {
        "reference_id": f"{number}-again",
        "immediate_payment": False,
        "schedule": schedule | {"anchor_date": begins.isoformat(timespec="seconds")},
        "metadata": {**part(plan, "metadata"), CONTINUES: number},
    }


def saving(number: str, look: Look, return_url: str, key: str) -> dict[str, Any]:
    """The body of a session that saves another payment method for a plan's customer."""
    plan, schedule = look.plan, part(look.plan, "schedule")
    currency = text(plan.get("currency")) or ""
    country = text(plan.get("country")) or COUNTRIES.get(currency)
    if look.version == OLD or country not in COUNTRIES.values() or not look.live:
        hint = "Xendit saves methods for active plans of the new generation, in ID, PH, VN, TH, MY and SG."
        raise Unsupported("The payment method can't be changed here.", hint)
    days = DAYS.get(text(schedule.get("interval")) or "", 30) * (whole(schedule.get("interval_count")) or 1)
    kept = {"recurring_frequency": days, "recurring_expiry": str((clock.now() + CARD_KEPT).date())}
    cards = {"card_on_file_type": "RECURRING", "recurring_configuration": kept}
    body = {"reference_id": key[:64], "session_type": "SAVE", "mode": "PAYMENT_LINK", "amount": 0}
    body |= {"currency": currency, "country": country, "customer_id": plan.get("customer_id")}
    body |= {"success_return_url": return_url, "cancel_return_url": return_url, "metadata": {"plan": number}}
    return body | {"channel_properties": {"cards": cards}}


def wish(plan: Json, change: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a plan that a change sets: a quantity is one item's, and the amount that comes of it."""
    amount, interval, quantity = change.get("amount"), change.get("interval"), change.get("quantity")
    body: dict[str, Any] = {}
    if quantity is not None:
        items = objects(plan.get("items"))
        price = major(items[0].get("net_unit_amount"), plan.get("currency")) if len(items) == 1 else None
        if price is None or quantity < 1:
            raise Unsupported(
                "The quantity can't be changed here.", "Only a plan with one priced item has one."
            )
        body["items"], amount = [{**items[0], "quantity": quantity}], amount or price * quantity
    if amount is not None:
        body["amount"] = number_of(amount)
    if interval is not None:
        body["schedule"] = {"interval": interval.unit.upper(), "interval_count": interval.count}
    foreign = amount is not None and amount.currency != text(plan.get("currency"))
    if foreign or change.get("plan") or not body:
        raise Unsupported(
            "This can't be changed that way.", "Amount, interval and quantity, in the plan's currency."
        )
    return body


def number_of(amount: Money) -> int | float:
    """An amount as Xendit writes it; rupiah and dong come whole."""
    value = amount.decimal
    if value == value.to_integral_value():
        return int(value)
    if amount.currency in ("IDR", "VND"):
        raise Unsupported(
            "This amount can't be charged.", f"Xendit takes {amount.currency} without decimals only."
        )
    return float(value)


def unlike(said: Json, wanted: Mapping[str, Any]) -> list[str]:
    """The fields of a wish that are not as wished."""
    return [name for name, value in wanted.items() if not _same(said.get(name), value)]


def _same(said: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(said, dict) and all(_same(said.get(name), value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(said, list) and len(said) == len(wanted) and all(map(_same, said, wanted))
    if isinstance(wanted, int | float):
        return (
            isinstance(said, int | float | str)
            and text(said) is not None
            and _number(said) == _number(wanted)
        )
    return bool(said == wanted)


def _number(value: Any) -> Decimal | None:
    try:
        return Decimal(str(value))
    except ArithmeticError:
        return None


# Payments, refunds, orders, people


def payment(said: Json, refunded: int | None = None) -> base.PaymentRecord:
    """A v3 payment, one of v2, or a transaction; `refunded` is what was given back, where that is known."""
    number = id_of(said, "payment_id", "product_id", "id")
    amount = major(said.get("request_amount", said.get("amount")), said.get("currency"))
    raw = text(said.get("status"))
    status = paid = PAYMENTS.get(raw or "")
    if refunded and amount and paid == "paid":
        status = "refunded" if refunded >= amount.minor else "partially_refunded"
    captures = objects(said.get("captures"))
    taken = captures[0].get("capture_timestamp") if captures else said.get("created")
    link = text(part(said, "product_data").get("payment_link_id"))
    invoice = link or (number if INVOICE_ID.fullmatch(number) else None)
    return spoken(
        base.PaymentRecord,
        number,
        status=status,
        raw_status=raw,
        customer=text(said.get("customer_id")),
        title=text(said.get("description")),
        amount=amount,
        refunded=Money(refunded, amount.currency) if amount and refunded is not None else None,
        created_at=moment(said.get("created")),
        updated_at=moment(said.get("updated")),
        paid_at=moment(taken) if paid == "paid" else None,
        method=method(said),
        order=invoice,
        invoice=invoice,
        object="invoice_order" if invoice else None,
        failure=_failure(said),
    )


def _failure(said: Json) -> base.Failure | None:
    code = text(said.get("failure_code"))
    return base.Failure(code) if code else None


def method(said: Json) -> base.Method | None:
    """How a payment was made, or what a token stands for. Where the card of a v3 token stands is from one sample."""
    old = part(said, "payment_method") or said
    card = part(said, "channel_properties", "card_details") or part(old, "card", "card_information")
    sort = (text(old.get("type")) or "").lower()
    channel = text(said.get("channel_code") or part(old, sort).get("channel_code")) or ""
    words = f"{said.get('channel_category') or ''} {sort.upper()} {channel}"
    kind = next((kind for word, kind in KINDS.items() if word in words), "wallet")
    if kind == "card" or card:
        network = text(card.get("network")) or ""
        digits = wire.last4(card.get("masked_card_number") or said.get("account_identifier"))
        expires = wire.expiry(card.get("expiry_month"), card.get("expiry_year"))
        return base.Method("card", BRANDS.get(network, network.title()) or None, digits, expires)
    name = re.sub(r"^[A-Z]{2}_|_(DIRECT_DEBIT|VIRTUAL_ACCOUNT)$", "", channel)
    return base.Method(kind, BRANDS.get(name, name.replace("_", " "))) if name else None


def refund(said: Json) -> base.RefundRecord:
    raw = text(said.get("status"))
    return spoken(
        base.RefundRecord,
        id_of(said, "id"),
        status=REFUNDS.get(raw or ""),
        raw_status=raw,
        payment=text(said.get("payment_id") or said.get("invoice_id")),
        amount=major(said.get("amount"), said.get("currency")),
        reason=text(said.get("reason")),
        created_at=moment(said.get("created")),
        updated_at=moment(said.get("updated")),
    )


def order(said: Json) -> base.OrderRecord:
    """A session or an invoice; while it is open, its page is where it can be paid."""
    session, raw = text(said.get("payment_session_id")), text(said.get("status"))
    found, status = lines(said), ORDERS.get(raw or "")
    page = text(said.get("payment_link_url") if session else said.get("invoice_url"))
    return spoken(
        base.OrderRecord,
        session or id_of(said, "id"),
        also=("due_link",),
        status=status,
        raw_status=raw,
        email=text(said.get("payer_email") or part(said, "customer").get("email")),
        customer=text(said.get("customer_id")),
        number=text(said.get("reference_id") if session else said.get("external_id")),
        title=text(said.get("description")) or (found[0].name if found else None),
        amount=major(said.get("amount"), said.get("currency")),
        lines=found or None,
        created_at=moment(said.get("created")),
        updated_at=moment(said.get("updated")),
        due_link=page if status == "open" else None,
    )


def lines(said: Json) -> tuple[base.Line, ...]:
    found = []
    for one in objects(said.get("items")):
        name, quantity = text(one.get("name")), whole(one.get("quantity"))
        price = major(one.get("net_unit_amount", one.get("price")), said.get("currency"))
        if name and quantity and price:
            found.append(base.Line(name, quantity, price * quantity))
    return tuple(found)


def invoice(said: Json) -> base.InvoiceRecord:
    """The document of an invoice order: a page of Xendit's, no file."""
    raw = text(said.get("status"))
    return spoken(
        base.InvoiceRecord,
        id_of(said, "id"),
        status=INVOICES.get(raw or ""),
        raw_status=raw,
        email=text(said.get("payer_email") or part(said, "customer").get("email")),
        number=text(said.get("external_id")),
        amount=major(said.get("amount"), said.get("currency")),
        order=id_of(said, "id"),
        page_url=text(said.get("invoice_url")),
        lines=lines(said) or None,
        created_at=moment(said.get("created")),
        updated_at=moment(said.get("updated")),
    )


def customer(said: Json) -> base.CustomerRecord:
    person = part(said, "individual_detail")
    names = [text(person.get("given_names")), text(person.get("surname"))]
    return spoken(
        base.CustomerRecord,
        id_of(said, "id"),
        email=text(said.get("email")),
        name=" ".join(filter(None, names)) or text(part(said, "business_detail").get("business_name")),
        created_at=moment(said.get("created")),
        updated_at=moment(said.get("updated")),
    )


# Reading what was saved


def read(kind: base.Kind | Literal["event"], said: Any) -> base.Record | list[base.Event]:
    """An object by its fields, bare or in `data`, or the events of a notice. Raises ValueError."""
    if not isinstance(said, dict):
        raise ValueError("This is no object of Xendit's.")
    if kind == "event":
        return events(said)
    one = said["data"] if isinstance(said.get("data"), dict) else said
    fields, reader = SHAPES[kind]
    if not any(one.get(name) is not None for name in fields):
        raise ValueError(f"This is no {kind} of Xendit's.")
    return reader(one)


def _plan(said: Json) -> base.SubscriptionRecord:
    return subscription(id_of(said, "id"), said)


SHAPES: dict[str, tuple[tuple[str, ...], Callable[[Json], base.Record]]] = {
    "customer": (("id",), customer),
    "order": (("payment_session_id", "external_id"), order),
    "subscription": (("schedule",), _plan),
    "payment": (("request_amount", "product_id", "payment_request_id"), payment),
    "refund": (("reason", "payment_id", "invoice_id", "payment_request_id"), refund),
    "invoice": (("external_id",), invoice),
}


# Notices


def events(said: Json) -> list[base.Event]:
    """The one event of a notice; an invoice's callback of old has no name for it. Raises ValueError.

    Xendit gives events no id and may send one twice, so it is made of what would be the same then; `created` is the
    moment of the delivery and would not be.
    """
    name, data = text(said.get("event")), part(said, "data")
    while isinstance(data.get("data"), dict):  # samples of refunds are wrapped twice
        data = data["data"]
    if name is None:
        id_of(said, "external_id")
        name, data = f"invoice.{id_of(said, 'status').lower()}", said
    subject, status = _subject(name, data), text(data.get("status")) or ""
    moved = text(data.get("updated")) or json.dumps(data, sort_keys=True, default=str)
    mark = wire.digest(
        "\n".join((name, subject.id if subject else "", text(data.get("id")) or "", status, moved))
    )
    body = {"status": status} | (
        {"cycle": text(data.get("id"))} if name.startswith("recurring.cycle.") else {}
    )
    happened = moment(data.get("updated")) or moment(said.get("created"))
    return [base.Event(f"{name[:80]}:{mark}", name[:80], subject, happened, body)]


def _subject(name: str, data: Json) -> Ref | None:
    kinds: dict[str, tuple[base.Kind, Any]] = {
        "recurring.plan.": ("subscription", data.get("id")),
        "recurring.cycle.": ("subscription", data.get("plan_id")),
        "payment_session.": ("order", data.get("payment_session_id")),
        "payment.": ("payment", data.get("payment_id") or data.get("id")),
        "refund.": ("refund", data.get("id")),
        "invoice.": ("order", data.get("id")),
    }
    for beginning, (kind, number) in kinds.items():
        if name.startswith(beginning) and (found := text(number)):
            return Ref(kind, found)
    return None
