"""The life of a subscription: periods, invoices, charges, retries, pauses, changes and ends.

Two things are shorter than in life: an invoice is final at once (Stripe waits about an hour), and a card that fails
is tried again after 3, 5 and 7 days, then never (merchants can set that).
"""

import calendar
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from seeds.simulators._stripe import shapes
from seeds.simulators._stripe.books import DAY, Books
from seeds.simulators._stripe.wire import (
    Json,
    Refusal,
    decline_sentence,
    declined,
    flag,
    needed,
    one_of,
    share,
    text,
    whole,
)

RETRY_AFTER_DAYS = (3, 5, 7)
FIRST_PAYMENT_WAITS_S = 23 * 3600
NO_METHOD = "no_payment_method"  # our word: nothing to charge


# Periods


def step(anchor: int, unit: str, count: int, times: int) -> int:
    """The moment `times` intervals after the anchor; months keep the anchor's day where they have it."""
    start = datetime.fromtimestamp(anchor, UTC)
    if unit in ("day", "week"):
        return int((start + timedelta(days=count * times * (7 if unit == "week" else 1))).timestamp())
    months = start.month - 1 + count * times * (12 if unit == "year" else 1)
    year, month = start.year + months // 12, months % 12 + 1
    day = min(start.day, calendar.monthrange(year, month)[1])
    return int(start.replace(year=year, month=month, day=day).timestamp())


def next_end(anchor: int, recurring: Json, after: int) -> int:
    """The first end of a period that lies after a moment, counted from the anchor."""
    unit, count = recurring["interval"], recurring["interval_count"]
    longest = {"day": 1, "week": 7, "month": 31, "year": 366}[unit] * count * DAY
    times = max((after - anchor) // longest, 1)
    while (end := step(anchor, unit, count, times)) <= after:
        times += 1
    return end


def period_of(subscription: Json) -> tuple[int, int]:
    items = subscription["items"]
    return (
        min(item["current_period_start"] for item in items),
        min(item["current_period_end"] for item in items),
    )


# Time passing


def advance(books: Books, subscription: Json, now: int) -> None:
    """Let everything fall due that is due by now, in its order."""
    while due := _next_due(books, subscription):
        moment, happen = due
        if moment > now:
            return
        happen(books, subscription, moment)


Happening = Callable[[Books, Json, int], None]


def _next_due(books: Books, one: Json) -> tuple[int, Happening] | None:
    due: list[tuple[int, int, Happening]] = []
    if one["status"] == "paused" and "_resumes_with" in one:
        asked = books.objects[one["_resumes_with"]["invoice"]]["created"]
        return asked + FIRST_PAYMENT_WAITS_S, _drop_resumption
    if one["status"] in ("canceled", "incomplete_expired", "paused"):
        return None
    if one["status"] == "incomplete":
        return one["created"] + FIRST_PAYMENT_WAITS_S, _expire
    if one["pause_collection"] and one["pause_collection"]["resumes_at"]:
        due.append((one["pause_collection"]["resumes_at"], 0, _resume_collection))
    if one["pending_update"]:
        due.append((one["pending_update"]["expires_at"], 1, _drop_pending_update))
    if one["cancel_at"]:
        due.append((one["cancel_at"], 2, end_now))
    if one["status"] == "trialing" and not one.get("_warned") and one["trial_end"] - 3 * DAY > one["created"]:
        due.append((one["trial_end"] - 3 * DAY, 3, _warn_of_trial_end))
    for invoice in _open_invoices(books, one):
        if invoice["next_payment_attempt"]:
            due.append((invoice["next_payment_attempt"], 4, _retry))
    due.append((period_of(one)[1], 5, _renew))
    moment, _, happen = min(due, key=lambda each: each[:2])
    return moment, happen


def fall_due(books: Books, one: Json) -> None:
    """Let the period that runs, or the trial, end now."""
    now = books.now
    for item in one["items"]:
        item["current_period_end"] = now
    for line in books.objects[one["latest_invoice"]]["lines"]:
        line["period"]["end"] = min(line["period"]["end"], now)
    if one["status"] == "trialing":
        one["trial_end"] = now
    one["billing_cycle_anchor"] = now
    advance(books, one, now)


def _resume_collection(books: Books, one: Json, at: int) -> None:
    books.change(one, "customer.subscription.updated", at, pause_collection=None)


def _drop_pending_update(books: Books, one: Json, at: int) -> None:
    invoice = books.objects[one.pop("_waiting_for")["invoice"]]
    books.change(one, "customer.subscription.pending_update_expired", at, pending_update=None)
    void(books, invoice, at)


def _warn_of_trial_end(books: Books, one: Json, at: int) -> None:
    one["_warned"] = True
    books.emit("customer.subscription.trial_will_end", one, at=at)


def _expire(books: Books, one: Json, at: int) -> None:
    for invoice in _open_invoices(books, one):
        void(books, invoice, at)
    one["ended_at"] = at
    books.change(one, "customer.subscription.updated", at, status="incomplete_expired")


def _retry(books: Books, one: Json, at: int) -> None:
    for invoice in _open_invoices(books, one):
        if invoice["next_payment_attempt"] and invoice["next_payment_attempt"] <= at:
            collect(books, invoice, method_for(books, one), at)


def _renew(books: Books, one: Json, at: int) -> None:
    if one["status"] == "trialing" and _trial_ends_in_pause(books, one):
        pause(books, one, at, "trial_end_without_payment_method")
        return
    before = {"items": books.shown(one)["items"], "status": one["status"]}
    first = one["items"][0]
    for item in one["items"]:
        recurring = item["price"]["recurring"]
        item["current_period_start"] = item["current_period_end"]
        item["current_period_end"] = next_end(
            one["billing_cycle_anchor"], recurring, item["current_period_end"]
        )
    if one["status"] == "trialing":
        one["status"] = "active"
    lines = one["_pending"] + [cycle_line(books, item) for item in one["items"]]
    one["_pending"] = []
    invoice = draft(books, one, lines, first["current_period_start"], "subscription_cycle")
    books.emit("customer.subscription.updated", one, before, at)
    _finish_cycle(books, one, invoice, at)


def _trial_ends_in_pause(books: Books, one: Json) -> bool:
    behaviour = one["trial_settings"]["end_behavior"]["missing_payment_method"]
    return behaviour == "pause" and method_for(books, one) is None


def _finish_cycle(books: Books, one: Json, invoice: Json, at: int) -> None:
    behaviour = one["pause_collection"] and one["pause_collection"]["behavior"]
    if behaviour == "keep_as_draft" or one["status"] == "unpaid":
        return
    finalize(books, invoice, at)
    if behaviour == "void":
        void(books, invoice, at)
    elif behaviour == "mark_uncollectible":
        invoice["status_transitions"]["marked_uncollectible_at"] = at
        books.change(invoice, "invoice.marked_uncollectible", at, status="uncollectible", auto_advance=False)
    else:
        collect(books, invoice, method_for(books, one), at)


def end_now(books: Books, one: Json, at: int, *, reason: str = "cancellation_requested") -> None:
    """End a subscription; open prorations are still billed, other collection for the customer stops."""
    lines, one["_pending"] = one["_pending"], []
    if lines:
        invoice = draft(books, one, lines, at, "subscription_cycle")
        finalize(books, invoice, at)
        collect(books, invoice, method_for(books, one), at)
    for invoice in books.all("invoice"):
        if invoice["customer"] == one["customer"] and invoice["status"] == "open":
            invoice["auto_advance"] = False
            invoice["next_payment_attempt"] = None
    one["status"] = "canceled"
    one["ended_at"] = at
    one["canceled_at"] = one["canceled_at"] or at
    one["pause_collection"] = one["pending_update"] = None
    one["cancellation_details"]["reason"] = one["cancellation_details"]["reason"] or reason
    books.emit("customer.subscription.deleted", one, at=at)


# Invoices


def cycle_line(books: Books, item: Json, period: tuple[int, int] | None = None) -> Json:
    """The line of an item for its current period, or for another."""
    price, quantity = item["price"], item["quantity"]
    name = books.objects[price["product"]]["name"]
    recurring = price["recurring"]
    every = recurring["interval"]
    if recurring["interval_count"] > 1:
        every = f"every {recurring['interval_count']} {every}s"
    return shapes.line(
        books.new_id("line_item"),
        price["unit_amount"] * quantity,
        f"{quantity} × {name} ({every})",
        period or (item["current_period_start"], item["current_period_end"]),
        price,
        quantity,
        item=item,
    )


def draft(
    books: Books, subscription: Json, lines: list[Json], at: int, reason: str, keep: bool = True
) -> Json:
    """A draft invoice of a subscription; with keep=False only a preview, which the books do not hold."""
    customer = books.objects[subscription["customer"]]
    invoice = compose(books, customer, lines, at, subscription["currency"], reason, subscription)
    if not keep:
        return invoice | {"id": f"upcoming_{invoice['id']}"}
    books.put(invoice)
    subscription["latest_invoice"] = invoice["id"]
    books.emit("invoice.created", invoice, at=at)
    return invoice


def compose(
    books: Books,
    customer: Json,
    lines: list[Json],
    at: int,
    currency: str,
    reason: str,
    subscription: Json | None = None,
    tax: int = 0,
) -> Json:
    """An invoice that nobody keeps yet. A credit of the customer's is used up; a total below zero becomes one."""
    object_id = books.new_id("invoice")
    for line in lines:
        line["invoice"] = object_id
    invoice = shapes.invoice(object_id, at, customer, lines, currency, reason, subscription, tax)
    balance, total = customer["balance"], invoice["total"]
    used = min(total, -balance) if total > 0 > balance else min(total, 0)
    invoice["_balance_after"] = balance + used
    invoice["amount_due"] = invoice["amount_remaining"] = max(total - used, 0)
    return invoice


def finalize(books: Books, invoice: Json, at: int) -> None:
    """Make a draft an open invoice with a number."""
    customer = books.objects[invoice["customer"]]
    invoice["number"] = f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04d}"
    customer["next_invoice_sequence"] += 1
    customer["balance"] = invoice["ending_balance"] = invoice.pop("_balance_after")
    customer["currency"] = customer["currency"] or invoice["currency"]
    invoice["status_transitions"]["finalized_at"] = invoice["effective_at"] = at
    invoice["status"], invoice["auto_advance"] = "open", True
    books.emit("invoice.finalized", invoice, at=at)


def void(books: Books, invoice: Json, at: int) -> None:
    invoice["status_transitions"]["voided_at"] = at
    invoice["next_payment_attempt"] = None
    _cancel_payments(books, invoice, at)
    books.change(invoice, "invoice.voided", at, status="void", auto_advance=False)


def _cancel_payments(books: Books, invoice: Json, at: int) -> None:
    for payment in _payments_of(books, invoice):
        if payment["status"] == "open":
            payment["status"] = "canceled"
            payment["status_transitions"]["canceled_at"] = at
            intent = books.objects[payment["payment"]["payment_intent"]]
            intent |= {"status": "canceled", "canceled_at": at, "cancellation_reason": "void_invoice"}


def _open_invoices(books: Books, subscription: Json) -> list[Json]:
    return [one for one in invoices_of(books, subscription) if one["status"] == "open"]


def invoices_of(books: Books, subscription: Json) -> list[Json]:
    """The invoices of a subscription, oldest first."""
    index = books.state.setdefault("invoices", {})
    known: Json = index.setdefault(subscription["id"], {"seen": 0, "ids": []})
    ids = books.state["kinds"].get("invoice", [])
    for object_id in ids[known["seen"] :]:
        if subscription_of(books.objects[object_id]) == subscription["id"]:
            known["ids"].append(object_id)
    known["seen"] = len(ids)
    return [books.objects[object_id] for object_id in known["ids"]]


def subscription_of(invoice: Json) -> str | None:
    parent = invoice["parent"]
    details = parent and parent["subscription_details"]
    return str(details["subscription"]) if details else None


# Payments


def method_for(books: Books, subscription: Json) -> Json | None:
    """What a renewal is charged to: the subscription's own method, else the customer's default."""
    customer = books.objects[subscription["customer"]]
    chosen = subscription["default_payment_method"] or customer["invoice_settings"]["default_payment_method"]
    return books.objects.get(chosen) if chosen else None


def refusal(books: Books, method: Json | None) -> str | None:
    """The decline code a charge would meet; None where it would go through."""
    if method is None:
        return NO_METHOD
    if books.looking_back:  # a card that declines does so from now on; what lies behind was paid
        return None
    if books.simulator.mode == "decline":
        return "generic_decline"
    declines: str | None = method["_declines"]
    return declines


def collect(books: Books, invoice: Json, method: Json | None, at: int) -> str | None:
    """Take what an open invoice asks for; the decline code where that fails. Its subscription follows."""
    if invoice["amount_remaining"] == 0:
        settle(books, invoice, None, at)
        return None
    code = refusal(books, method)
    payment = _payment_for(books, invoice, at)
    intent = books.objects[payment["payment"]["payment_intent"]]
    invoice["attempted"] = True
    invoice["attempt_count"] += 1
    if method is not None:
        charge_intent(books, intent, method, at, code, invoice["customer_email"])
    if code is None:
        settle(books, invoice, payment, at)
    else:
        _fail(books, invoice, at)
    return code


def charge_intent(
    books: Books, intent: Json, method: Json, at: int, code: str | None, receipt_email: str | None
) -> Json:
    """One try to charge a card for a payment intent; the charge, paid or failed."""
    charge = shapes.charge(books.new_id("charge"), at, intent, method, receipt_email)
    if code:
        refused = declined(code).error
        charge = shapes.failed(charge, refused["code"], code, decline_sentence(code))
        intent["status"] = "requires_payment_method"
        intent["last_payment_error"] = refused | {
            "charge": charge["id"],
            "payment_method": books.shown(method),
        }
    else:
        intent |= {"status": "succeeded", "amount_received": intent["amount"], "last_payment_error": None}
        intent["payment_method"] = method["id"]
    intent["latest_charge"] = charge["id"]
    books.put(charge)
    books.emit("charge.failed" if code else "charge.succeeded", charge, at=at)
    books.emit("payment_intent.payment_failed" if code else "payment_intent.succeeded", intent, at=at)
    return charge


def _payment_for(books: Books, invoice: Json, at: int) -> Json:
    for payment in _payments_of(books, invoice):
        if payment["status"] == "open":
            return payment
    name = f"Payment for invoice {invoice['number']}"
    intent = books.put(
        shapes.payment_intent(
            books.new_id("payment_intent"),
            at,
            invoice["amount_remaining"],
            invoice["currency"],
            invoice["customer"],
            name,
        )
    )
    payment = books.put(shapes.invoice_payment(books.new_id("invoice_payment"), at, invoice, intent["id"]))
    invoice.setdefault("_payments", []).append(payment["id"])
    return payment


def _payments_of(books: Books, invoice: Json) -> list[Json]:
    return [books.objects[one] for one in invoice.get("_payments", ())]


def settle(books: Books, invoice: Json, payment: Json | None, at: int) -> None:
    """An open invoice is paid: with the payment that did it, or without where nothing was due."""
    invoice["attempted"] = True
    invoice |= {"amount_paid": invoice["amount_due"], "amount_remaining": 0, "next_payment_attempt": None}
    invoice["status_transitions"]["paid_at"] = at
    if payment:
        payment |= {"status": "paid", "amount_paid": payment["amount_requested"]}
        payment["status_transitions"]["paid_at"] = at
        books.emit("invoice_payment.paid", payment, at=at)
    books.change(invoice, "invoice.paid", at, status="paid", auto_advance=False)
    books.emit("invoice.payment_succeeded", invoice, at=at)
    if (owner := subscription_of(invoice)) in books.objects:
        _paid_up(books, books.objects[str(owner)], invoice, at)


def _paid_up(books: Books, subscription: Json, invoice: Json, at: int) -> None:
    waiting = subscription.get("_waiting_for")
    if waiting and waiting["invoice"] == invoice["id"]:
        del subscription["_waiting_for"]
        _set_items(subscription, waiting["items"], waiting["anchor"])
        books.change(subscription, "customer.subscription.pending_update_applied", at, pending_update=None)
    if subscription["status"] == "incomplete" or (
        subscription["status"] in ("past_due", "unpaid") and not _open_invoices(books, subscription)
    ):
        books.change(subscription, "customer.subscription.updated", at, status="active")
    if subscription.get("_resumes_with", {}).get("invoice") == invoice["id"]:
        _come_back(books, subscription, at)


def _fail(books: Books, invoice: Json, at: int) -> None:
    tries = invoice["attempt_count"]
    stopped = tries > len(RETRY_AFTER_DAYS) or not invoice["auto_advance"]
    invoice["next_payment_attempt"] = None if stopped else at + RETRY_AFTER_DAYS[tries - 1] * DAY
    books.emit("invoice.payment_failed", invoice, at=at)
    owner = subscription_of(invoice)
    if owner not in books.objects:
        return
    subscription = books.objects[str(owner)]
    waiting = [subscription.get(name, {}).get("invoice") for name in ("_waiting_for", "_resumes_with")]
    if invoice["id"] in waiting:
        invoice["next_payment_attempt"] = None
        return
    if subscription["status"] in ("active", "trialing", "past_due"):
        status = "unpaid" if stopped and invoice["auto_advance"] else "past_due"
        books.change(subscription, "customer.subscription.updated", at, status=status)


# Pausing for real


def pause(books: Books, one: Json, at: int, reason: str) -> None:
    """Stop a subscription until it is resumed."""
    one["status_details"] = {
        "paused": {"subscription": {"type": reason}, "transitioned_at": at, "type": "subscription"}
    }
    before = {"status": one["status"], "status_details": None}
    one["status"] = "paused"
    books.emit("customer.subscription.updated", one, before, at)
    books.emit("customer.subscription.paused", one, at=at)


def resume(books: Books, one: Json, at: int, *, keep_anchor: bool, only_if_paid: bool) -> None:
    """Start a paused subscription again. A new period is billed at once, except where the paid one still runs."""
    start, end = period_of(one)
    credited = one.pop("_credited", False)
    if keep_anchor and not credited and start <= at < end:
        _come_back(books, one, at)
        return
    anchor = one["billing_cycle_anchor"] if keep_anchor else at
    items = [_restarted(item, anchor, at) for item in one["items"]]
    lines, one["_pending"] = one["_pending"] + [cycle_line(books, item) for item in items], []
    invoice = draft(books, one, lines, at, "subscription_update")
    finalize(books, invoice, at)
    one["_resumes_with"] = {"invoice": invoice["id"], "items": items, "anchor": anchor}
    if collect(books, invoice, method_for(books, one), at) and not only_if_paid:
        _come_back(books, one, at)
        books.change(one, "customer.subscription.updated", at, status="past_due")


def _restarted(item: Json, anchor: int, at: int) -> Json:
    end = next_end(anchor, item["price"]["recurring"], at)
    return item | {"current_period_start": at, "current_period_end": end}


def _come_back(books: Books, one: Json, at: int) -> None:
    before = {"status": one["status"], "status_details": one["status_details"]}
    if resumption := one.pop("_resumes_with", None):
        _set_items(one, resumption["items"], resumption["anchor"])
    one["status"], one["status_details"] = "active", None
    books.emit("customer.subscription.updated", one, before, at)
    books.emit("customer.subscription.resumed", one, at=at)


def _drop_resumption(books: Books, one: Json, at: int) -> None:
    void(books, books.objects[one.pop("_resumes_with")["invoice"]], at)


def credit_unused(books: Books, one: Json, at: int) -> list[Json]:
    """Lines that give back what is left of the current period."""
    return [_proration(books, item, at, -1, "Unused time on") for item in one["items"]]


# Changing what is paid for


@dataclass(slots=True)
class Change:
    """What a change of items would do: the items after it, what it prorates, and whether a period starts anew."""

    items: list[Json]
    prorations: list[Json] = field(default_factory=list)
    restarts: bool = False
    anchor: int = 0


def plan_change(books: Books, one: Json, wanted: Any, at: int, prorate: bool) -> Change:
    """Work out a change of items without doing it; refuses what Stripe refuses."""
    if not isinstance(wanted, list):
        raise Refusal(400, "Invalid array: items", param="items")
    change = Change([dict(item) for item in one["items"]], anchor=one["billing_cycle_anchor"])
    for number, ask in enumerate(wanted):
        _plan_one(books, one, change, ask, at, f"items[{number}]")
    if not change.items:
        raise Refusal(400, "A subscription must have at least one active item.", param="items")
    rhythms = {_rhythm(item) for item in change.items}
    if len(rhythms) > 1:
        raise Refusal(400, "All items must have the same billing interval.", param="items")
    change.restarts = one["status"] != "trialing" and rhythms != {_rhythm(item) for item in one["items"]}
    if change.restarts:
        change.anchor = at
        for item in change.items:
            item["current_period_start"] = at
            item["current_period_end"] = next_end(at, item["price"]["recurring"], at)
    if prorate and one["status"] != "trialing":
        change.prorations = _prorations(books, one["items"], change, at)
    return change


def _plan_one(books: Books, one: Json, change: Change, ask: Any, at: int, param: str) -> None:
    if not isinstance(ask, dict):
        raise Refusal(400, f"Invalid object: {param}", param=param)
    price = _price_asked_for(books, one, ask, param)
    quantity = whole(ask, "quantity")
    if quantity is not None and quantity < 0:
        raise Refusal(400, "This value must be greater than or equal to 0.", param=f"{param}[quantity]")
    if "id" in ask:
        place = next((n for n, item in enumerate(change.items) if item["id"] == ask["id"]), None)
        if place is None:
            raise Refusal(
                400,
                f"No such subscription item: '{ask['id']}'",
                code="resource_missing",
                param=f"{param}[id]",
            )
        if flag(ask, "deleted"):
            del change.items[place]
            return
        item = change.items[place]
        period = item["current_period_start"], item["current_period_end"]
        count = item["quantity"] if quantity is None else quantity
        change.items[place] = shapes.repriced(item, price or item["price"], count, period)
    elif price is None:
        raise Refusal(400, "Missing required param: items[0][price].", code="parameter_missing", param=param)
    else:
        if any(item["price"]["id"] == price["id"] for item in change.items):
            raise Refusal(400, "There is already an item for this price.", param=f"{param}[price]")
        start, end = period_of(one)
        count = 1 if quantity is None else quantity
        item_id = books.new_id("subscription_item")
        change.items.append(shapes.subscription_item(item_id, at, one["id"], price, count, start, end))


def _price_asked_for(books: Books, one: Json, ask: Json, param: str) -> Json | None:
    if isinstance(data := ask.get("price_data"), dict):
        rhythm = needed(data, "recurring")
        recurring = needed(rhythm, "interval"), whole(rhythm, "interval_count", 1) or 1
        product = books.find("product", data.get("product"), f"{param}[price_data][product]", 400)
        price = shapes.price(
            books.new_id("price"),
            books.now,
            product["id"],
            whole(data, "unit_amount") or 0,
            str(needed(data, "currency")),
            recurring,
        )
        price = books.put(price | {"active": False})
    elif "price" in ask:
        price = books.find("price", ask["price"], f"{param}[price]", 400)
        if not price["active"]:
            raise Refusal(
                400, "The price specified is inactive.", code="resource_missing", param=f"{param}[price]"
            )
    else:
        return None
    if not price["recurring"]:
        raise Refusal(400, "The price specified is set to `type=one_time`.", param=f"{param}[price]")
    if price["currency"] != one["currency"]:
        raise Refusal(400, f"The price must be in {one['currency']}.", param=f"{param}[price]")
    return price


def _rhythm(item: Json) -> tuple[str, int]:
    recurring = item["price"]["recurring"]
    return recurring["interval"], recurring["interval_count"]


def _prorations(books: Books, old: list[Json], change: Change, at: int) -> list[Json]:
    after = {item["id"]: item for item in change.items}
    lines = []
    for item in old:
        new = after.get(item["id"])
        if change.restarts or new is None or _worth(new) != _worth(item):
            lines.append(_proration(books, item, at, -1, "Unused time on"))
    if not change.restarts:
        before = {item["id"]: item for item in old}
        for item in change.items:
            if item["id"] not in before or _worth(item) != _worth(before[item["id"]]):
                lines.append(_proration(books, item, at, 1, "Remaining time on"))
    return lines


def _worth(item: Json) -> tuple[str, int]:
    return item["price"]["id"], item["quantity"]


def _proration(books: Books, item: Json, at: int, sign: int, words: str) -> Json:
    start, end = item["current_period_start"], item["current_period_end"]
    price, quantity = item["price"], item["quantity"]
    left = share(
        price["unit_amount"] * quantity, max(end - max(at, start), 0), end - start, price["currency"]
    )
    name = books.objects[price["product"]]["name"]
    label = f"{words} {quantity} × {name} after {datetime.fromtimestamp(at, UTC):%d %b %Y}"
    line_id = books.new_id("line_item")
    return shapes.line(line_id, sign * left, label, (at, end), price, quantity, item=item, proration=True)


def apply_change(books: Books, one: Json, change: Change, at: int, proration: str, payment: str) -> None:
    """Do a planned change. What must be paid at once is charged; where the card refuses, `payment` decides."""
    if not change.restarts and proration != "always_invoice":
        one["_pending"] += change.prorations
        _set_items(one, change.items, change.anchor)
        return
    lines = change.prorations + [cycle_line(books, item) for item in change.items if change.restarts]
    method = method_for(books, one)
    owed = sum(line["amount"] for line in lines)
    code = refusal(books, method) if owed > 0 else None
    if code and payment == "error_if_incomplete":
        raise declined("generic_decline" if code == NO_METHOD else code)
    waits = bool(code) and payment == "pending_if_incomplete"
    if not waits:
        _set_items(one, change.items, change.anchor)
    if not lines:
        return
    invoice = draft(books, one, lines, at, "subscription_update")
    finalize(books, invoice, at)
    if waits:
        one["_waiting_for"] = {"invoice": invoice["id"], "items": change.items, "anchor": change.anchor}
        one["pending_update"] = _pending_update(change, at)
    collect(books, invoice, method, at)


def _set_items(one: Json, items: list[Json], anchor: int) -> None:
    one["items"] = items
    one["billing_cycle_anchor"] = anchor


def _pending_update(change: Change, at: int) -> Json:
    return {
        "billing_cycle_anchor": at if change.restarts else None,
        "discount": None,
        "discounts": None,
        "expires_at": at + FIRST_PAYMENT_WAITS_S,
        "metadata": None,
        "subscription_items": [dict(item) for item in change.items],
        "trial_end": None,
        "trial_from_plan": None,
    }


# Looking ahead


def preview(books: Books, one: Json, params: Json, mode: str) -> Json:
    """The next invoice of a subscription, as it stands or with what `subscription_details` would change."""
    proration = one_of(
        params, "proration_behavior", ("create_prorations", "always_invoice", "none"), "create_prorations"
    )
    at = whole(params, "proration_date", books.now) or books.now
    if flag(params, "cancel_now"):
        credits = [] if proration == "none" else credit_unused(books, one, at)
        return _preview(books, one, one["_pending"] + credits, at)
    change = Change(one["items"], anchor=one["billing_cycle_anchor"])
    if "items" in params:
        change = plan_change(books, one, params["items"], at, proration != "none")
    if mode == "recurring":
        return _preview(books, one, [cycle_line(books, item) for item in change.items], at)
    if change.restarts:
        return _preview(
            books, one, change.prorations + [cycle_line(books, item) for item in change.items], at
        )
    if "items" in params and proration == "always_invoice":
        return _preview(books, one, change.prorations, at)
    lines = [*one["_pending"], *change.prorations]
    end = period_of(one)[1]
    if not _ends_with_period(one, params, end):
        lines += [cycle_line(books, item, _following(item, change.anchor)) for item in change.items]
    return _preview(books, one, lines, end)


def _following(item: Json, anchor: int) -> tuple[int, int]:
    end = item["current_period_end"]
    return end, next_end(anchor, item["price"]["recurring"], end)


def _ends_with_period(one: Json, params: Json, end: int) -> bool:
    if one["status"] in ("canceled", "incomplete_expired", "incomplete", "paused"):
        return True
    if "cancel_at_period_end" in params:
        return flag(params, "cancel_at_period_end")
    if "cancel_at" in params:
        asked = text(params, "cancel_at")
        return bool(asked) and (not str(asked).isdecimal() or int(str(asked)) <= end)
    return bool(one["cancel_at_period_end"] or (one["cancel_at"] and one["cancel_at"] <= end))


def _preview(books: Books, one: Json, lines: list[Json], at: int) -> Json:
    if not lines:
        raise Refusal(
            404,
            f"No upcoming invoices for customer: {one['customer']}",
            code="invoice_upcoming_none",
        )
    copies = [dict(line) for line in lines]
    invoice = draft(books, one, copies, at, "upcoming", keep=False)
    return invoice | {"next_payment_attempt": at, "ending_balance": invoice["_balance_after"]}
