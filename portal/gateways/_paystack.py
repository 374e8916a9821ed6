"""What Paystack says, in our words: pure functions from its JSON, and the joining of what it keeps apart.

Types are loose everywhere: `metadata` may be text, null or an object, `plan` an object, a code or nothing, booleans
numbers. A subscription's paid date goes away when it is disabled, so it comes from what was known, or from its invoice.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from portal import clock
from portal.gateways import base, wire
from portal.gateways.base import Event, Ref, Snapshot, Unreadable
from portal.gateways.base import SubscriptionRecord as Subscription
from portal.gateways.capabilities import facts
from portal.gateways.wire import Json, moment, part, spoken, text, whole
from portal.money import Money

FILES = "files.paystack.co"
EXPONENTS = facts("paystack").exponents
NEAR = timedelta(days=1)
ENDING, ENDED = ("non-renewing", "cancelled", "completed", "complete"), ("cancelled", "expired")
BUSY = "Paystack does not answer at the moment."
MONTHS = {"monthly": 1, "quarterly": 3, "biannually": 6}  # biannually is every half year
INTERVALS = {name: base.Interval("month", count) for name, count in MONTHS.items()} | {
    "daily": base.Interval("day"),
    "weekly": base.Interval("week"),
    "annually": base.Interval("year"),
}
UNDERWAY = "ongoing pending processing queued open_url pay_offline send_otp send_pin send_phone send_birthday"
PAYMENTS: dict[str | None, base.PaymentStatus] = {
    "success": "paid",
    "reversed": "refunded",
    "failed": "failed",
    "abandoned": "cancelled",
    **dict.fromkeys(UNDERWAY.split(), "pending"),
}
ORDERS: dict[str | None, Any] = {"pending": "open", "disputed": "paid"}  # others as their payment
REFUNDS: dict[str | None, base.RefundStatus] = {
    "pending": "pending",
    "processing": "pending",
    "needs-attention": "pending",
    "processed": "sent",
    "failed": "failed",
}
INVOICES: dict[str | None, base.InvoiceStatus] = {
    "draft": "draft",
    "success": "paid",
    "pending": "open",
    "failed": "open",
    "attention": "open",
}
TRANSFERS = dict.fromkeys(("bank", "bank_transfer", "ussd", "eft"), "bank_transfer")
METHODS = TRANSFERS | {"direct_debit": "bank_debit", "apple_pay": "wallet", "mobile_money": "wallet"}
GOODS = re.compile(r"item|product|description|title|cart|ticket|course|package", re.IGNORECASE)


@dataclass
class Joins:
    """What lists tell of a charge: its subscription, what was paid back of it, whether it is disputed."""

    exact: dict[str | None, str] = field(default_factory=dict)
    plans: dict[tuple[Any, Any], dict[str, Json]] = field(default_factory=dict)
    refunds: dict[str | None, dict[str, base.RefundRecord]] = field(default_factory=dict)
    disputed: set[str | None] = field(default_factory=set)

    def learn(self, name: str, items: Iterable[Json]) -> None:
        for one in items:
            charge = transaction_of(one)
            if name == "refund":
                self.refunds.setdefault(charge, {})[id_of(one, "id")] = read_refund(one)
            elif name == "dispute" and one.get("status") != "resolved":
                self.disputed.add(charge)
            elif name == "subscription":
                code = id_of(one, "subscription_code")
                self.plans.setdefault(_bought(one), {})[code] = one
                self.exact[transaction_of(part(one, "most_recent_invoice"))] = code

    def subscription(self, said: Json) -> str | None:
        """By the invoice; else the one of this customer, plan and time; of several the one with this card. No guess."""
        if known := self.exact.get(text(said.get("id")) or ""):
            return known
        at = moment(said.get("paid_at")) or _created(said)
        same = self.plans.get(_bought(said), {}).items() if plan_of(said) else ()
        fits = [(code, _card(one)) for code, one in same if _lived(one, at)]
        if len(fits) > 1:
            fits = [(code, card) for code, card in fits if card == _card(said)]
        return fits[0][0] if len(fits) == 1 else None


def listed(
    name: str, items: list[Json], joins: Joins, as_of: datetime, subscription: str | None = None
) -> Snapshot:
    read: dict[str, tuple[str, Callable[[Json], base.Record]]] = {
        "customer": ("customers", read_customer),
        "subscription": ("subscriptions", read_subscription),
        "refund": ("refunds", read_refund),
        "paymentrequest": ("invoices", read_invoice),
    }
    if name in read:
        kind, reader = read[name]
        told: dict[str, Any] = {kind: tuple(map(reader, items))}
        return Snapshot(as_of=as_of, **told)
    charges = tuple(read_charge(one, joins, subscription) for one in items if name == "transaction")
    refunds = tuple(row for one in charges for row in joins.refunds.get(one.remote_id, {}).values())
    sold = {one.order for one in charges}
    orders = tuple(read_order(one, joins) for one in items if text(one.get("id")) in sold)
    return Snapshot(as_of=as_of, orders=orders, payments=charges, refunds=refunds)


def read_events(said: Json, name: str) -> list[Event]:
    """One event, named by its body; of expiring cards one for each subscription."""
    kind, data = text(said.get("event")) or "unknown", part(said, "data")
    if isinstance(said.get("data"), list):
        codes = [text(part(one, "subscription").get("subscription_code")) for one in said["data"]]
        refs = [Ref("subscription", code) if code else None for code in codes]
        return [Event(f"{name}.{at}", kind, ref, None) for at, ref in enumerate(refs)]
    reference, at = None, moment(data.get("paid_at")) if kind == "charge.success" else None
    subject: tuple[base.Kind, Any] = ("payment", None)
    match kind.partition(".")[0]:
        case "subscription":
            subject = ("subscription", data.get("subscription_code"))
        case "invoice":
            subject = ("subscription", part(data, "subscription").get("subscription_code"))
            reference = text(part(data, "transaction").get("reference"))
        case "refund":
            reference = text(data.get("transaction_reference"))
            subject = ("payment", reference or transaction_of(data))
        case "charge" if kind.startswith("charge.dispute"):
            subject = ("payment", transaction_of(data))
        case "charge":
            subject = ("payment", data.get("id"))
        case "paymentrequest":
            subject = ("invoice", data.get("request_code"))
    ref = Ref(subject[0], text(subject[1]) or "") if text(subject[1]) else None
    return [Event(name, kind, ref, at, {"reference": reference} if reference else {})]


def read_customer(said: Json) -> base.CustomerRecord:
    name = " ".join(filter(None, (text(said.get("first_name")), text(said.get("last_name")))))
    code, email = id_of(said, "customer_code"), text(said.get("email"))
    return spoken(base.CustomerRecord, code, email=email, name=name or None, created_at=_created(said))


def read_subscription(said: Json, known: Subscription | None = None) -> Subscription:
    """`known` tells until when it is paid: once it is cancelled, Paystack does not."""
    plan, invoice = part(said, "plan"), part(said, "most_recent_invoice")
    live = said.get("status") == "active"
    amount, on = _money(said, plan.get("currency")), moment(said.get("next_payment_date"))
    until = (known.current_period_end if known else None) or _invoice_end(invoice)
    status = _state(said, known, until)
    ends, owes = status == "cancels_at_period_end", status == "past_due"
    also: tuple[str, ...] = ("next_payment", "due", "retries_on")
    also += ("cancels_at", "ended_at", "object", "pending_change") if live else ()
    charged = on if status in ("active", "trialing", "past_due") else None
    return spoken(
        Subscription,
        id_of(said, "subscription_code"),
        also=also if status else (),
        **_shared(said),
        status=status,
        stopped=False if status else None,
        object=sort_of(said),
        amount=amount,
        title=text(plan.get("name")),
        interval=INTERVALS.get(text(plan.get("interval")) or ""),
        quantity=whole(said.get("quantity")),
        method=_method(said),
        started_at=_created(said),
        updated_at=moment(said.get("updatedAt")),
        trial_ends_at=on if status == "trialing" else None,
        current_period_start=moment(invoice.get("paid_at")) if _true(invoice.get("paid")) else None,
        current_period_end=until if ends else on if live else None,
        next_payment=base.NextPayment(charged.date(), amount, "fixed") if charged else None,
        cancels_at=until if ends else None,
        ended_at=moment(said.get("cancelledAt")) if status in ENDED else None,
        due=(_money(invoice, plan.get("currency")) or amount) if owes else None,
        retries_on=on.date() if owes and on else None,
    )


def replaced_by(old: Subscription, new: Json) -> Subscription:
    """An ending one whose place another takes, which is not to be brought back beside it."""
    made = read_subscription(new)
    on = made.next_payment.on if made.next_payment else None
    pending = base.PendingChange(on, made.amount, made.title)
    knows = (old.knows or frozenset()) | {"object", "pending_change"}
    return replace(old, object="replaced", pending_change=pending, knows=knows)


def _state(said: Json, known: Subscription | None, until: datetime | None) -> base.SubscriptionStatus | None:
    """None for a word we do not know, and for "active" without a date after a cancel: that proves no return."""
    word = said.get("status")
    if word == "active":
        waits = known is not None and known.status == "cancels_at_period_end" and not goes_on(said)
        return None if waits else "trialing" if not_begun(said) else "active"
    if word not in ENDING:
        return "past_due" if word == "attention" else None
    if word == "non-renewing" or (until and until > clock.now()):  # the word right after `disable` has varied
        return "cancels_at_period_end"
    return "cancelled" if word == "cancelled" else "expired"


def sort_of(said: Json) -> str | None:
    """The sorts of ending ones that can't be taken back."""
    word, paid, limit = (
        said.get("status"),
        whole(said.get("payments_count")),
        whole(said.get("invoice_limit")),
    )
    if word != "non-renewing":
        return "closed" if word in ENDING else None
    return "never_charged" if paid == 0 else "last_cycle" if paid and limit and paid >= limit else None


def read_charge(
    said: Json, joins: Joins | None = None, subscription: str | None = None
) -> base.PaymentRecord:
    one, word = id_of(said, "id", "reference"), text(said.get("status"))
    amount, joined, status = _money(said, said.get("currency")), joins or Joins(), PAYMENTS.get(word)
    rows = [row for row in joined.refunds.get(one, {}).values() if row.status == "sent"]
    repaid = amount if word == "reversed" else None
    if joins and amount and word == "success":
        repaid = Money(sum(row.amount.minor for row in rows if row.amount), amount.currency)
    if status == "paid" and repaid and amount:
        status = "refunded" if repaid.minor >= amount.minor else "partially_refunded"
    elif status == "paid" and one in joined.disputed:
        status = "disputed"
    paid = word in ("success", "reversed")
    names = (part(said, "plan").get("name"), part(said, "plan_object").get("name"), _goods(said))
    return spoken(
        base.PaymentRecord,
        one,
        also=("failure",) if status and status != "failed" else (),
        **_shared(said),
        status=status,
        amount=amount,
        refunded=repaid,
        method=_method(said),
        title=next(filter(None, map(text, names)), None),
        paid_at=moment(said.get("paid_at")) if paid else None,
        order=one if paid and not plan_of(said) and not subscription else None,
        subscription=subscription or joined.subscription(said),
        failure=base.Failure("failed", text(said.get("gateway_response"))) if status == "failed" else None,
    )


def read_order(said: Json, joins: Joins | None = None) -> base.OrderRecord:
    """A shop's sale is a charge; of its cart Paystack knows what the shop wrote into the metadata."""
    paid = read_charge(said, joins)
    return spoken(
        base.OrderRecord,
        paid.remote_id,
        **_shared(said),
        status=ORDERS.get(paid.status, paid.status),
        title=paid.title,
        amount=paid.amount,
        number=text(said.get("reference")),
    )


def read_refund(said: Json) -> base.RefundRecord:
    word = text(said.get("status"))
    return spoken(
        base.RefundRecord,
        id_of(said, "id", "refund_reference"),
        email=text(part(said, "customer").get("email")),
        status=REFUNDS.get(word),
        raw_status=word,
        payment=transaction_of(said),
        amount=_money(said, said.get("currency")),
        reason=text(said.get("customer_note")),
        created_at=_created(said),
    )


def read_invoice(said: Json) -> base.InvoiceRecord:
    """A payment request, or an invoice of a subscription, which has neither number nor file."""
    currency = said.get("currency") or part(said, "transaction").get("currency")
    amount, url = _money(said, currency), text(said.get("pdf_url")) or ""
    status = "paid" if _true(said.get("paid")) else INVOICES.get(text(said.get("status")))
    late = moment(said.get("due_date"))
    return spoken(
        base.InvoiceRecord,
        id_of(said, "request_code", "invoice_code"),
        **_shared(said),
        amount=amount,
        number=text(said.get("invoice_number")),
        document_url=url or None,
        payment=transaction_of(said),
        subscription=text(part(said, "subscription").get("subscription_code")),
        status="overdue" if status == "open" and late and late < clock.now() else status,
        due=amount if status == "open" else amount * 0 if amount and status == "paid" else None,
        document=url.startswith(f"https://{FILES}/"),
        lines=_lines(said.get("line_items"), currency),
    )


def _lines(said: Any, currency: Any) -> tuple[base.Line, ...]:
    """Amounts are of one piece."""
    found = []
    for one in said if isinstance(said, list) else []:
        name, each = text(part({"": one}, "").get("name")), _money(part({"": one}, ""), currency)
        if name and each:
            count = whole(one.get("quantity")) or 1
            found.append(base.Line(name, count, each * count))
    return tuple(found)


def _shared(said: Json) -> dict[str, Any]:
    who, word = part(said, "customer"), text(said.get("status"))
    mine = {"email": text(who.get("email")), "customer": text(who.get("customer_code"))}
    return {**mine, "raw_status": word, "created_at": _created(said)}


def id_of(said: Json, *names: str) -> str:
    """The first of these that is told; Unavailable where none is, since then this is no such object."""
    found = next(filter(None, (text(said.get(name)) for name in names)), None)
    if found is None:
        raise Unreadable(BUSY, f"It has no {' or '.join(names)}.")
    return found


def _money(said: Json, currency: Any) -> Money | None:
    return wire.minor(said.get("amount"), currency, EXPONENTS)


def price_of(plan: Json) -> Money | None:
    return _money(plan, plan.get("currency"))


def _created(said: Json) -> datetime | None:
    return moment(said.get("createdAt")) or moment(said.get("created_at"))


def _true(said: Any) -> bool:
    return said in (True, 1, "1")


def plan_of(said: Json) -> str | None:
    """The plan of a subscription or charge: an object, a code, `plan_object`, or nothing in many forms."""
    found = part(said, "plan").get("plan_code") or part(said, "plan_object").get("plan_code")
    return text(found) or (text(said.get("plan")) if isinstance(said.get("plan"), str) else None)


def _bought(said: Json) -> tuple[str | None, str | None]:
    return text(part(said, "customer").get("customer_code")), plan_of(said)


def transaction_of(said: Json) -> str | None:
    """The charge that a refund, dispute or invoice names: its number, bare or in an object."""
    return text(part(said, "transaction").get("id")) or text(said.get("transaction"))


def _lived(said: Json, at: datetime | None) -> bool:
    began, ended = _created(said), moment(said.get("cancelledAt"))
    return at is not None and (not began or began - NEAR <= at) and (not ended or at <= ended + NEAR)


def _method(said: Json) -> base.Method | None:
    """Told apart by a digest, and only when it can be charged again; `signature` keeps it from being guessed."""
    card = part(said, "authorization")
    channel = text(said.get("channel")) or text(card.get("channel"))
    channel = channel or ("card" if card.get("last4") else None)
    if channel is None:
        return None
    kind, code = METHODS.get(channel, channel), text(card.get("authorization_code"))
    brand = text(card.get("bank" if kind in ("bank_debit", "bank_transfer") else "brand"))
    expires = wire.expiry(card.get("exp_month"), card.get("exp_year")) if kind == "card" else None
    token = wire.digest(f"{card.get('signature')}:{code}") if code and is_reusable(card) else None
    return base.Method(kind, brand and brand.title(), wire.last4(card.get("last4")), expires, token)


def _card(said: Json) -> Any:
    return part(said, "authorization").get("authorization_code")


def is_reusable(card: Json) -> bool:
    return _true(card.get("reusable"))


def _goods(said: Json) -> str | None:
    """What was sold, as far as the shop's own fields name it."""
    fields = (metadata_of(said) or {}).get("custom_fields")
    told = [one for one in fields if isinstance(one, dict)] if isinstance(fields, list) else []
    names = [text(one.get("value")) for one in told if GOODS.search(str(one.get("variable_name")))]
    return ", ".join(filter(None, names))[:200] or None


def metadata_of(said: Json) -> dict[str, Any] | None:
    """An object, also one in a string; {} where there is none, None for what nothing can be added to."""
    found = said.get("metadata")
    if isinstance(found, str) and found.strip():
        try:
            found = json.loads(found)
        except (ValueError, RecursionError):
            return None
    return found if isinstance(found, dict) else None if found else {}


def _invoice_end(invoice: Json) -> datetime | None:
    """The end of what was paid last; invoices with an end before their start have been seen."""
    start, end = moment(invoice.get("period_start")), moment(invoice.get("period_end"))
    return end if _true(invoice.get("paid")) and start and end and start < end else None


def is_ending(said: Json) -> bool:
    return said.get("status") in ENDING


def goes_on(said: Json) -> bool:
    return said.get("status") == "active" and moment(said.get("next_payment_date")) is not None


def not_begun(said: Json) -> bool:
    start = moment(said.get("start"))
    return start is not None and start > clock.now() and is_unpaid(said)


def is_unpaid(said: Json) -> bool:
    paid = _true(part(said, "most_recent_invoice").get("paid"))
    return not paid and not whole(said.get("payments_count"))
