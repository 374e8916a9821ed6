"""What Flutterwave says, in our words: records of the objects of v3 and v4 alike, and the events of its notices."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from portal import clock
from portal.gateways import base, wire
from portal.gateways._flutterwave.charges import whose
from portal.gateways._flutterwave.fields import (
    PAYMENTS,
    SUBSCRIPTIONS,
    amount_of,
    charge_of,
    created,
    email_of,
    first,
    goods_of,
    id_of,
    interval_of,
    is_paid,
    is_sale,
    later,
    plan_of,
    price_of,
    read_method,
    total_of,
)
from portal.gateways.base import Record, Ref, Snapshot
from portal.gateways.base import SubscriptionRecord as Subscription
from portal.gateways.wire import Json, moment, part, spoken, text, whole

ORDERS: dict[str | None, Any] = {"pending": "open", "disputed": "paid"}  # others as their payment
RETRIES = timedelta(hours=2)  # three more tries, half an hour apart; then Flutterwave cancels
WINDOW, FIRST = timedelta(days=31), date(2016, 5, 1)  # Flutterwave began in that month


def snapshot(as_of: datetime, records: Iterable[Record], ask: str = "") -> Snapshot:
    """Records of all sorts in their places, each object once: the last word on it."""
    found: dict[str, Any] = {}
    for record in {(type(record), record.remote_id): record for record in records}.values():
        name = f"{type(record).__name__.removesuffix('Record').lower()}s"
        found[name] = (*found.get(name, ()), record)
    return Snapshot(as_of=as_of, ask=ask, **found)


def read_subscription(
    said: Json, plan: Json | None = None, tries: Sequence[Json] | None = None, counted: bool = False
) -> Subscription:
    """`tries` are its charges, newest first (None: not asked for); `counted`: they are all there ever were.

    Of dates there is only the day it began, on which it was charged: the rest is worked out from the last charge.
    """
    word, plan = text(said.get("status")), plan or {}
    status, price, every = SUBSCRIPTIONS.get(word), price_of(said, plan), interval_of(plan)
    told: dict[str, Any] = {}
    paid = [one for one in tries or () if is_paid(one)]
    limit = whole(plan.get("duration")) or 0
    used_up = bool(limit and counted and len(paid) >= limit)
    if status == "cancelled" and used_up:
        status = "expired"
    also: tuple[str, ...] = ("next_payment", "due", "retries_on") if status and status != "active" else ()
    if status == "active" and tries is not None:
        also = ("next_payment", "due", "retries_on", "ended_at", "cancels_at", "current_period_end")
        begun, now = created(said), clock.now()
        last = created(paid[0]) if paid else begun
        until = later(last, every, begun) if last and every else None
        failed = created(tries[0]) if tries and tries[0].get("status") == "failed" else None
        told = {"current_period_start": last, "current_period_end": until}
        told["method"] = next(filter(None, map(read_method, paid)), None)
        if failed and now - failed <= RETRIES:
            status = "past_due"
            told |= {"due": price, "retries_on": now.date()}
        elif until and until > now and not used_up:
            told["next_payment"] = base.NextPayment(until.date(), price, "estimated")
    return spoken(
        Subscription,
        id_of(said, "id"),
        also=also,
        email=email_of(said),
        status=status,
        raw_status=word,
        stopped=False if status else None,
        amount=price,
        title=text(plan.get("name")),
        interval=every,
        created_at=created(said),
        started_at=created(said),
        **told,
    )


def read_sale(
    said: Json, theirs: Iterable[Json] = (), plans: Mapping[str, Json] | None = None
) -> list[Record]:
    """A payment, and its order where it is nobody's charge of a plan; where that is not sure, the payment alone."""
    one, is_free = whose(said, theirs, plans or {})
    charged = read_subscription(one, (plans or {}).get(plan_of(one) or "")) if one else None
    paid = read_payment(said, charged, is_free and is_sale(said))
    return [paid, read_order(said)] if paid.order else [paid]


def read_payment(
    said: Json, subscription: Subscription | None = None, is_order: bool = False
) -> base.PaymentRecord:
    """A transaction of v3, from a list or verified, or a charge of v4. The amount is what left the customer's account,
    fees that are passed on included. `refunded` is left to the refunds: no transaction tells it."""
    word, one = text(said.get("status")), id_of(said, "id")
    status = PAYMENTS.get(word)
    if status == "paid" and said.get("disputed") is True:
        status = "disputed"
    reason = text(said.get("processor_response")) or text(part(said, "processor_response").get("type"))
    return spoken(
        base.PaymentRecord,
        one,
        also=("failure",) if status and status != "failed" else (),
        **_shared(said),
        amount=total_of(said),
        status=status,
        method=read_method(said),
        title=subscription.title if subscription else goods_of(said),
        paid_at=created(said) if status in ("paid", "disputed") else None,
        order=one if is_order else None,
        subscription=subscription.remote_id if subscription else None,
        failure=base.Failure("failed", reason) if status == "failed" else None,
    )


def read_order(said: Json) -> base.OrderRecord:
    """One transaction is one order; its lines are what was asked, and the fee that came on top."""
    paid, asked = read_payment(said), amount_of(said)
    lines = [base.Line(paid.title or "Order", 1, asked)] if asked else []
    if asked and paid.amount and paid.amount != asked:
        lines.append(base.Line("Transaction fee", 1, paid.amount - asked))
    return spoken(
        base.OrderRecord,
        paid.remote_id,
        **_shared(said),
        amount=paid.amount,
        status=ORDERS.get(paid.status, paid.status),
        title=paid.title,
        number=text(said.get("tx_ref")) or text(said.get("reference")),
        lines=tuple(lines) or None,
    )


def read_refund(said: Json, charge: Json | None = None) -> base.RefundRecord:
    """Its currency stands in the charge alone. v3 spells the fields in two ways, v4 in a third."""
    word = text(said.get("status"))
    amount = first(said, "amount_refunded", "AmountRefunded")
    return spoken(
        base.RefundRecord,
        id_of(said, "id", "Id"),
        email=email_of(charge or {}),
        status=_refund_status(word),
        raw_status=word,
        payment=charge_of(said),
        amount=wire.major(amount, said.get("currency") or (charge or {}).get("currency")),
        reason=text(said.get("comments")) or text(said.get("reason")),
        created_at=created(said),
    )


def _refund_status(word: str | None) -> base.RefundStatus | None:
    if word is None:
        return None
    if word == "succeeded" or word.startswith("completed"):  # completed-bank-transfer, completed-momo …
        return "sent"
    if "failed" in word:
        return "failed"
    return "cancelled" if word == "cancelled" else "pending"


def read_customer(said: Json) -> base.CustomerRecord:
    """Of v4; what v3 embeds is read as well, although its ids are not stable enough to keep anything by."""
    parts = [text(part(said, "name").get(which)) for which in ("first", "middle", "last")]
    name = text(said.get("name")) or " ".join(filter(None, parts))
    one, email = id_of(said, "id"), email_of({"customer": dict(said)})
    return spoken(base.CustomerRecord, one, email=email, name=name or None, created_at=created(said))


def read_events(said: Json, told: str = "") -> list[base.Event]:
    """One notice. Those of v3 have no id: a charge's is named by its state, any other by the moment it is told, since
    the same subscription can be cancelled twice. What a cancelled one is found by is the customer's e-mail."""
    kind, data = text(said.get("event")) or text(said.get("type")), part(said, "data")
    if kind is None or not data:
        raise ValueError("This is no notice of Flutterwave's: it names no event, or tells nothing of it.")
    number, word = text(data.get("id")), text(data.get("status"))
    name = text(said.get("webhook_id")) or (text(said.get("id")) if "type" in said else None)
    if name is None:
        said_of = number or wire.digest(f"{email_of(data)}:{plan_of(data)}")
        name = f"{kind}:{said_of}:{word}" + ("" if kind == "charge.completed" else f"@{told}")
    subject, body = None, {}
    if kind == "charge.completed" and number:
        subject = Ref("payment", number)
    elif kind == "refund.completed" and number:
        subject = Ref("refund", number)
    elif kind.startswith("subscription."):
        email = email_of(data)
        body = {"email": email} if email else {}
        subject = Ref("subscription", number) if number else Ref("customer", email) if email else None
    return [base.Event(name, kind, subject, moment(said.get("timestamp")), body)]


def differs(said: Json, state: Mapping[str, str], live: bool) -> str | None:
    """In what a verified transaction is not the checkout that we began; None where it is the same. In test mode
    Flutterwave puts something in front of e-mails."""
    asked, given = state.get("email", "").lower(), email_of(said) or ""
    amount = amount_of(said)
    if text(said.get("tx_ref")) != state.get("tx_ref"):
        return "the reference"
    if amount is None or amount.currency != state.get("currency"):
        return "the currency"
    if amount.minor < (whole(state.get("amount")) or 0):
        return "the amount"
    return None if given == asked or (not live and given.endswith(asked)) else "the e-mail"


def window(at: Mapping[str, Any]) -> dict[str, str]:
    """The days of a list that one step of a walk asks for; lists of other sorts have none."""
    until = wire.day(at.get("to"))
    return {"from": str(max(FIRST, until - WINDOW)), "to": str(until)} if until else {}


def _shared(said: Json) -> dict[str, Any]:
    buyer = text(said.get("customer_id"))
    mine = {"customer": buyer if buyer and buyer.startswith("cus_") else None}
    return {
        **mine,
        "email": email_of(said),
        "raw_status": text(said.get("status")),
        "created_at": created(said),
    }


READERS: dict[str, Callable[[Json], Record | list[base.Event]]] = {
    "customer": read_customer,
    "order": read_order,
    "subscription": read_subscription,
    "payment": read_payment,
    "refund": read_refund,
    "event": read_events,
}
