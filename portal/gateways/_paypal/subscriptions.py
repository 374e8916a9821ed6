"""A subscription: its state, the next charge worked out, and what is open."""

from dataclasses import replace
from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

from portal.gateways import base
from portal.gateways._paypal.shapes import id_of, items, link, money, total, words
from portal.gateways.capabilities import facts
from portal.gateways.wire import Json, day, last4, moment, part, spoken, text, whole
from portal.money import Money, exponent

WALLETS = {"paypal": "PayPal", "venmo": "Venmo"}
STATES = words(
    incomplete="APPROVAL_PENDING APPROVED",
    active="ACTIVE",
    paused="SUSPENDED",
    cancelled="CANCELLED",
    expired="EXPIRED",
)


def subscription(said: Json) -> base.SubscriptionRecord:
    """A subscription with its plan (`?fields=plan,last_failed_payment`).

    Suspended and cancelled ones are told without the next date, so that the end of the paid time stays as known. Right
    after the start of a free trial PayPal says that day for the next: such a date is left out.
    """
    billing, plan = part(said, "billing_info"), part(said, "plan")
    raw, status, failed = text(said.get("status")), _state(said), part(billing, "last_failed_payment")
    started, changed = moment(said.get("start_time")), moment(said.get("status_update_time"))
    until = moment(billing.get("next_billing_time"))
    unsettled = status == "trialing" and until and started and until <= started + timedelta(days=1)
    until = None if unsettled else until
    coming = _coming(said, plan, billing) if raw == "ACTIVE" else None
    regular = next((one for one in items(plan.get("billing_cycles")) if _is(one, "REGULAR")), {})
    frequency = part(regular, "frequency")
    unit: Any = (text(frequency.get("interval_unit")) or "").lower()
    page = link(said, "approve") if status == "past_due" else None
    return spoken(
        base.SubscriptionRecord,
        id_of(said),
        also=("due", "due_link", "retries_on", *(() if unsettled else ("next_payment",))),
        email=text(part(said, "subscriber").get("email_address")),
        raw_status=raw,
        created_at=moment(said.get("create_time")),
        updated_at=moment(said.get("update_time")),
        status=status,
        customer=text(part(said, "subscriber").get("payer_id")),
        title=text(plan.get("name")),
        amount=_charge(said, plan, regular),
        interval=base.Interval(unit, whole(frequency.get("interval_count")) or 1)
        if unit in ("day", "week", "month", "year")
        else None,
        quantity=whole(said.get("quantity")),
        started_at=started,
        trial_ends_at=until if status == "trialing" and coming and _is(coming, "REGULAR") else None,
        current_period_start=moment(part(billing, "last_payment").get("time")) or started,
        current_period_end=until,
        next_payment=base.NextPayment(until.date(), _next_amount(said, plan, coming), "fixed")
        if until and coming is not None
        else None,
        ended_at=changed if status in ("cancelled", "expired") else None,
        method=method(part(said, "subscriber", "payment_source")) or base.Method("wallet", "PayPal"),
        due=(money(billing.get("outstanding_balance")) or money(failed.get("amount"))) if page else None,
        due_link=page,
        object="fixed_quantity" if plan.get("quantity_supported") is False else None,
        stopped=status == "past_due" and raw == "SUSPENDED",
        retries_on=day(failed.get("next_payment_retry_time")) if status == "past_due" else None,
    )


def remembered(
    after: base.Snapshot, was: base.SubscriptionRecord, known: base.Record | None
) -> base.Snapshot:
    """The end of the paid time as it was before, where PayPal no longer tells it; and a word to the merchant where
    going on is charged before that end."""
    one, paid = after.subscriptions[0], was.current_period_end
    if isinstance(known, base.SubscriptionRecord):
        paid = paid or known.current_period_end
    if paid and one.current_period_end is None:
        knows = (one.knows or frozenset()) | {"current_period_end"}
        return replace(after, subscriptions=(replace(one, current_period_end=paid, knows=knows),))
    if paid and one.next_payment and one.next_payment.on < paid.date():
        says = f"PayPal set the next charge of {one.remote_id} to {one.next_payment.on}, but it is paid until"
        return replace(after, tell=f"{says} {paid.date()}.")
    return after


def _state(said: Json) -> Any:
    """An active one may owe for years, and a suspended one that owes is no pause of anybody."""
    raw, billing = text(said.get("status")), part(said, "billing_info")
    owes = bool(whole(billing.get("failed_payments_count")) or money(billing.get("outstanding_balance")))
    if raw in ("ACTIVE", "SUSPENDED") and owes:
        return "past_due"
    cycles = items(billing.get("cycle_executions"))
    # A trial is over once a regular payment was taken: its own last cycle counts as completed from the first day on
    # (https://github.com/paypal/paypal-checkout-components/issues/1336).
    begun = [
        one for one in cycles if whole(one.get("cycles_completed")) or whole(one.get("cycles_remaining"))
    ]
    paid = any(_is(one, "REGULAR") and whole(one.get("cycles_completed")) for one in cycles)
    trial = any(_is(one, "TRIAL") for one in begun) and not paid
    return "trialing" if raw == "ACTIVE" and trial else STATES.get(raw)


def _is(cycle: Json, tenure: str) -> bool:
    return cycle.get("tenure_type") == tenure


def _coming(said: Json, plan: Json, billing: Json) -> Json | None:
    """The cycle of the plan that the next date charges; None when all are over.

    A cycle counts as completed once its charge is taken, a free trial's a while after the start.
    """
    cycles = {whole(one.get("sequence")): one for one in items(plan.get("billing_cycles"))}
    runs = sorted(items(billing.get("cycle_executions")), key=lambda one: whole(one.get("sequence")) or 0)
    left = [one for one in runs if whole(one.get("cycles_remaining")) or not whole(one.get("total_cycles"))]
    if not left:
        return None if runs else next((one for one in cycles.values() if _is(one, "REGULAR")), {})
    begun = whole(left[0].get("cycles_completed")) or whole(left[0].get("cycles_remaining")) != 1
    coming = left[0] if begun or len(left) == 1 else left[1]
    return {**cycles.get(whole(coming.get("sequence")), {}), "tenure_type": coming.get("tenure_type")}


def _next_amount(said: Json, plan: Json, coming: Json | None) -> Money | None:
    amount = _charge(said, plan, coming or {})
    owed = money(part(said, "billing_info").get("outstanding_balance"))
    bills = part(plan, "payment_preferences").get("auto_bill_outstanding") is True
    return total(amount, owed) if amount and owed and bills else amount


def _charge(said: Json, plan: Json, cycle: Json) -> Money | None:
    """What a cycle costs: its price for the quantity, tax on top unless it is inside, shipping."""
    price = _price(part(cycle, "pricing_scheme"), whole(said.get("quantity")) or 1)
    if price is None:
        return None
    taxes = part(plan, "taxes")
    if taxes.get("inclusive") is False:
        # PayPal rounds to its own decimals, which for some currencies are fewer than those of ISO 4217.
        own = facts("paypal").exponents.get(price.currency, exponent(price.currency))
        step = 10 ** (exponent(price.currency) - own)
        try:
            tax = price.minor * Decimal(text(taxes.get("percentage")) or "0") / 100 / step
            price = total(price, Money(int(tax.quantize(Decimal(1), ROUND_HALF_UP)) * step, price.currency))
        except InvalidOperation:
            return None
    return total(price, money(said.get("shipping_amount")))


def _price(scheme: Json, quantity: int) -> Money | None:
    fixed = money(scheme.get("fixed_price"))
    if fixed is not None:
        return fixed * quantity
    costs = None
    for tier in items(scheme.get("tiers")):
        first, last, each = (
            whole(tier.get("starting_quantity")),
            whole(tier.get("ending_quantity")),
            money(tier.get("amount")),
        )
        if first is None or each is None:
            return None
        if scheme.get("pricing_model") == "TIERED":
            units = min(last or quantity, quantity) - first + 1
        else:
            units = quantity if first <= quantity <= (last or quantity) else 0
        if units > 0:
            costs = each * units if costs is None else total(costs, each * units)
    return costs


def method(source: Json) -> base.Method | None:
    """PayPal names no brand and no number behind a wallet, and nothing by which a card could be used again."""
    if card := part(source, "card"):
        brand = (text(card.get("brand")) or "").replace("_", " ").title() or None
        return base.Method("card", brand, last4(card.get("last_digits")), text(card.get("expiry")))
    named = next((name for name, how in source.items() if isinstance(how, dict)), None)
    return (
        base.Method("wallet", WALLETS[named]) if named in WALLETS else base.Method(named) if named else None
    )
