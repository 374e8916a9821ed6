"""The calls of Stripe's API that the simulator answers: path, permission, parameters, and what happens."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from seeds.simulators._stripe import billing, shapes
from seeds.simulators._stripe.books import EVENTS_KEPT_S, Books, moments
from seeds.simulators._stripe.wire import (
    Json,
    Refusal,
    declined,
    flag,
    missing,
    needed,
    one_of,
    text,
    whole,
)

Handler = Callable[[Books, Json, str], Json]

PAGING = "limit starting_after ending_before created"
FEEDBACK = (
    "customer_service",
    "low_quality",
    "missing_features",
    "other",
    "switched_service",
    "too_complex",
    "too_expensive",
    "unused",
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One call. `permission` is the word in a restricted key's `rak_<word>_read` or `_write`."""

    method: str
    path: str
    handle: Handler
    permission: str
    params: frozenset[str]
    refuses_cards: bool = False  # answers 402 while the simulator declines

    @property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\{id\}", r"([^/]+)", self.path) + r"\Z")


# Account


def _account(books: Books, params: Json, _: str) -> Json:
    return books.shown(books.account)


def _balance(books: Books, params: Json, _: str) -> Json:
    totals: dict[str, int] = {}
    for charge in books.all("charge"):
        kept = charge["amount_captured"] - charge["amount_refunded"]
        totals[charge["currency"]] = totals.get(charge["currency"], 0) + kept
    totals = totals or {books.account["default_currency"]: 0}
    rows = [
        {"amount": each, "currency": code, "source_types": {"card": each}} for code, each in totals.items()
    ]
    pending = [{"amount": 0, "currency": code, "source_types": {"card": 0}} for code in totals]
    return {"object": "balance", "available": rows, "livemode": False, "pending": pending}


# Customers


def _customers(books: Books, params: Json, _: str) -> Json:
    email = params.get("email")  # exact, and upper and lower case differ
    return books.listing(
        "customer", params, "/v1/customers", lambda one: email is None or one["email"] == email
    )


def _search_customers(books: Books, params: Json, _: str) -> Json:
    asked = re.fullmatch(r"""\s*email\s*:\s*(['"])(.+)\1\s*""", needed(params, "query"))
    if not asked:
        raise Refusal(400, "We were unable to parse your search query.", param="query")
    email = asked[2].lower()
    found = books.listing(
        "customer",
        {"limit": params.get("limit", "10")},
        "/v1/customers/search",
        lambda one: (one["email"] or "").lower() == email,
    )
    return found | {"object": "search_result", "has_more": False, "next_page": None}


def _customer(books: Books, params: Json, object_id: str) -> Json:
    return books.shown(books.find("customer", object_id))


def _update_customer(books: Books, params: Json, object_id: str) -> Json:
    one = books.find("customer", object_id)
    fields: Json = {
        name: text(params, name)
        for name in ("name", "email", "phone", "description", "business_name", "individual_name")
        if name in params
    }
    if "address" in params:
        given = params["address"] or None
        fields["address"] = given and dict.fromkeys(
            ("city", "country", "line1", "line2", "postal_code", "state")
        ) | {name: value or None for name, value in given.items()}
    if "metadata" in params:
        fields["metadata"] = _metadata(one["metadata"], params["metadata"])
    if "tax_exempt" in params:
        fields["tax_exempt"] = params["tax_exempt"] or "none"
    if (settings := params.get("invoice_settings")) and "default_payment_method" in settings:
        chosen = text(settings, "default_payment_method")
        if chosen:
            _method_of(books, chosen, object_id, "invoice_settings[default_payment_method]")
        fields["invoice_settings"] = one["invoice_settings"] | {"default_payment_method": chosen}
    books.change(one, "customer.updated", **fields)
    return books.shown(one)


def _metadata(old: Json, given: Any) -> Json:
    if given == "":
        return {}
    if not isinstance(given, dict):
        raise Refusal(400, "Invalid object: metadata", param="metadata")
    return {name: value for name, value in (old | given).items() if value != ""}


def _method_of(books: Books, method_id: str, customer_id: str, param: str) -> Json:
    method = books.find("payment_method", method_id, param, 400)
    if method["customer"] != customer_id:
        raise Refusal(
            400,
            f"The payment method {method_id} does not belong to the customer {customer_id}: attach it first.",
            param=param,
        )
    return method


def _methods_of_customer(books: Books, params: Json, object_id: str) -> Json:
    books.find("customer", object_id)
    return _methods(books, params | {"customer": object_id}, object_id)


# Payment methods


def _methods(books: Books, params: Json, object_id: str) -> Json:
    customer, kind = params.get("customer"), params.get("type")
    url = f"/v1/customers/{object_id}/payment_methods" if object_id else "/v1/payment_methods"
    return books.listing(
        "payment_method",
        params,
        url,
        lambda one: (
            one["customer"] is not None
            and customer in (None, one["customer"])
            and kind in (None, one["type"])
        ),
    )


def _method(books: Books, params: Json, object_id: str) -> Json:
    return books.shown(books.find("payment_method", object_id))


def _detach(books: Books, params: Json, object_id: str) -> Json:
    method = books.find("payment_method", object_id)
    if method["customer"] is None:
        raise Refusal(400, "The payment method is not attached to a customer, so it can't be detached.")
    customer = books.objects[method["customer"]]
    settings = customer["invoice_settings"]
    if settings["default_payment_method"] == object_id:
        settings = settings | {"default_payment_method": None}
        books.change(customer, "customer.updated", invoice_settings=settings)
    for one in books.all("subscription"):
        if one["default_payment_method"] == object_id:
            books.change(one, "customer.subscription.updated", default_payment_method=None)
    books.change(method, "payment_method.detached", customer=None)
    return books.shown(method)


# Subscriptions


def _subscriptions(books: Books, params: Json, _: str) -> Json:
    status, customer, price = params.get("status"), params.get("customer"), params.get("price")
    started = moments(params, "current_period_start")
    ends = moments(params, "current_period_end")

    def keep(one: Json) -> bool:
        if status is None or status == "":
            fits = one["status"] != "canceled"
        elif status == "ended":
            fits = one["status"] in ("canceled", "incomplete_expired")
        else:
            fits = status in ("all", one["status"])
        start, end = billing.period_of(one)
        return (
            fits
            and customer in (None, one["customer"])
            and (price is None or any(item["price"]["id"] == price for item in one["items"]))
            and started(start)
            and ends(end)
        )

    return books.listing("subscription", params, "/v1/subscriptions", keep)


def _subscription(books: Books, params: Json, object_id: str) -> Json:
    return books.shown(books.find("subscription", object_id))


def _update_subscription(books: Books, params: Json, object_id: str) -> Json:
    one = books.find("subscription", object_id)
    _check_update(books, one, params)
    before, kept = books.shown(one), copy.deepcopy(one)
    try:
        _do_update(books, one, params)
    except Refusal:
        one.clear()
        one.update(kept)
        raise
    after = books.shown(one)
    if changed := {name: before[name] for name in before if before[name] != after[name]}:
        books.emit("customer.subscription.updated", one, changed)
    return after


def _do_update(books: Books, one: Json, params: Json) -> None:
    if "items" in params:
        _change_items(books, one, params)
    if "cancel_at_period_end" in params:
        _cancel_at_period_end(books, one, flag(params, "cancel_at_period_end"))
    if "cancel_at" in params:
        _cancel_at(books, one, text(params, "cancel_at"))
    if "cancellation_details" in params:
        _note_reasons(one, params["cancellation_details"])
    if "pause_collection" in params:
        one["pause_collection"] = _pause_collection(books, params["pause_collection"])
    if "default_payment_method" in params:
        one["default_payment_method"] = text(params, "default_payment_method")
    if "description" in params:
        one["description"] = text(params, "description")
    if "metadata" in params:
        one["metadata"] = _metadata(one["metadata"], params["metadata"])


def _check_update(books: Books, one: Json, params: Json) -> None:
    asked = set(params) - {"expand"}
    if one["status"] in ("canceled", "incomplete_expired") and asked - {"cancellation_details", "metadata"}:
        raise Refusal(400, "A canceled subscription can only update its cancellation_details and metadata.")
    if {"cancel_at", "cancel_at_period_end"} <= asked:
        raise Refusal(
            400,
            "Received both cancel_at_period_end and cancel_at parameters. Please pass in only one.",
            param="cancel_at_period_end",
        )
    if one["schedule"] and asked & {"cancel_at", "cancel_at_period_end", "items", "pause_collection"}:
        raise Refusal(400, f"The subscription is managed by the subscription schedule `{one['schedule']}`.")
    if "default_payment_method" in asked and one["managed_payments"]["enabled"]:
        raise Refusal(
            400,
            "The payment method of a subscription with Managed Payments can't be set by the API.",
            param="default_payment_method",
        )
    if chosen := text(params, "default_payment_method"):
        _method_of(books, chosen, one["customer"], "default_payment_method")


def _change_items(books: Books, one: Json, params: Json) -> None:
    behaviours = ("create_prorations", "always_invoice", "none")
    proration = one_of(params, "proration_behavior", behaviours, "create_prorations")
    payment = one_of(
        params,
        "payment_behavior",
        ("allow_incomplete", "pending_if_incomplete", "error_if_incomplete"),
        "allow_incomplete",
    )
    at = whole(params, "proration_date", books.now) or books.now
    change = billing.plan_change(books, one, params["items"], at, proration != "none")
    billing.apply_change(books, one, change, books.now, proration, payment)


def _cancel_at_period_end(books: Books, one: Json, wanted: bool) -> None:
    if wanted:
        _schedule_end(books, one, billing.period_of(one)[1], at_period_end=True)
    elif one["cancel_at_period_end"]:
        _forget_end(one)


def _cancel_at(books: Books, one: Json, wanted: str | None) -> None:
    if wanted is None:
        # Whether this also takes back cancel_at_period_end is not documented: here it does not, so a client must look.
        if not one["cancel_at_period_end"]:
            _forget_end(one)
        return
    ends = [item["current_period_end"] for item in one["items"]]
    by_word = {"min_period_end": min(ends), "max_period_end": max(ends)}
    if wanted in by_word:
        if one["billing_mode"]["type"] != "flexible":
            raise Refusal(400, f"`{wanted}` needs the flexible billing mode.", param="cancel_at")
        moment = by_word[wanted]
    else:
        moment = whole({"cancel_at": wanted}, "cancel_at") or 0
        if moment <= books.now:
            raise Refusal(400, "`cancel_at` must be in the future.", param="cancel_at")
    _schedule_end(books, one, moment, at_period_end=False)


def _schedule_end(books: Books, one: Json, moment: int, *, at_period_end: bool) -> None:
    one["cancel_at"] = moment
    one["cancel_at_period_end"] = at_period_end
    one["canceled_at"] = books.now
    one["cancellation_details"] = one["cancellation_details"] | {"reason": "cancellation_requested"}


def _forget_end(one: Json) -> None:
    one["cancel_at"] = one["canceled_at"] = None
    one["cancel_at_period_end"] = False
    one["cancellation_details"] = {"comment": None, "feedback": None, "reason": None}


def _note_reasons(one: Json, given: Any) -> None:
    if not isinstance(given, dict) or set(given) - {"comment", "feedback"}:
        raise Refusal(400, "Invalid object: cancellation_details", param="cancellation_details")
    if given.get("feedback"):
        one_of(given, "feedback", FEEDBACK, "other")
    one["cancellation_details"] = one["cancellation_details"] | {
        name: value or None for name, value in given.items()
    }


def _pause_collection(books: Books, given: Any) -> Json | None:
    if given == "":
        return None
    if not isinstance(given, dict):
        raise Refusal(400, "Invalid object: pause_collection", param="pause_collection")
    needed(given, "behavior")
    behaviour = one_of(given, "behavior", ("keep_as_draft", "mark_uncollectible", "void"), "")
    resumes_at = whole(given, "resumes_at")
    if resumes_at is not None and resumes_at <= books.now:
        raise Refusal(400, "`resumes_at` must be in the future.", param="pause_collection[resumes_at]")
    return {"behavior": behaviour, "resumes_at": resumes_at}


def _delete_subscription(books: Books, params: Json, object_id: str) -> Json:
    one = books.find("subscription", object_id)
    if one["status"] in ("canceled", "incomplete_expired"):
        raise missing("subscription", object_id)
    if "cancellation_details" in params:
        _note_reasons(one, params["cancellation_details"])
    prorate, invoice_now = flag(params, "prorate"), flag(params, "invoice_now")
    if prorate:
        one["_pending"] += billing.credit_unused(books, one, books.now)
    if not invoice_now and not prorate:
        one["_pending"] = []
    kept: list[Json] = []
    if not invoice_now:
        kept, one["_pending"] = one["_pending"], []
    billing.end_now(books, one, books.now)
    one["_pending"] = kept
    return books.shown(one)


def _pause(books: Books, params: Json, object_id: str) -> Json:
    one = books.find("subscription", object_id)
    if one["schedule"]:
        raise Refusal(400, "A subscription with a schedule can't be paused.")
    if one["status"] not in ("active", "past_due", "trialing"):
        raise Refusal(400, f"A subscription with the status {one['status']} can't be paused.")
    bill_for = params.get("bill_for") or {}
    unused = one_of(
        bill_for.get("unused_time_from") or {}, "type", ("item_current_period_start", "none", "now"), "now"
    )
    at_once = one_of(
        params, "invoicing_behavior", ("invoice", "pending_invoice_item"), "pending_invoice_item"
    )
    if unused != "none" and one["status"] != "trialing":
        since = books.now if unused == "now" else billing.period_of(one)[0]
        one["_pending"] += billing.credit_unused(books, one, since)
        one["_credited"] = True
    if at_once == "invoice" and one["_pending"]:
        lines, one["_pending"] = one["_pending"], []
        invoice = billing.draft(books, one, lines, books.now, "subscription_update")
        billing.finalize(books, invoice, books.now)
        billing.collect(books, invoice, billing.method_for(books, one), books.now)
    billing.pause(books, one, books.now, "pause_requested")
    return books.shown(one)


def _resume(books: Books, params: Json, object_id: str) -> Json:
    one = books.find("subscription", object_id)
    if one["status"] != "paused":
        raise Refusal(400, "Only a paused subscription can be resumed.")
    if one["collection_method"] != "charge_automatically":
        raise Refusal(400, "Only a subscription that is charged automatically can be resumed.")
    anchor = one_of(params.get("billing_cycle_anchor") or {}, "type", ("now", "unchanged"), "now")
    behaviours = ("resume_on_payment_attempt", "resume_on_payment_success")
    behaviour = one_of(params, "payment_behavior", behaviours, behaviours[0])
    billing.resume(
        books, one, books.now, keep_anchor=anchor == "unchanged", only_if_paid=behaviour == behaviours[1]
    )
    return books.shown(one)


# Schedules


def _schedule(books: Books, params: Json, object_id: str) -> Json:
    return books.shown(books.find("subscription_schedule", object_id))


def _release(books: Books, params: Json, object_id: str) -> Json:
    schedule = books.find("subscription_schedule", object_id)
    if schedule["status"] not in ("active", "not_started"):
        raise Refusal(
            400, f"You cannot release a subscription schedule with the status `{schedule['status']}`."
        )
    subscription = books.objects[schedule["subscription"]]
    schedule |= {"released_subscription": subscription["id"], "subscription": None, "released_at": books.now}
    schedule["current_phase"] = None
    books.change(schedule, "subscription_schedule.released", status="released")
    books.change(subscription, "customer.subscription.updated", schedule=None)
    return books.shown(schedule)


# Invoices


def _invoices(books: Books, params: Json, _: str) -> Json:
    status, customer, subscription = (params.get(name) for name in ("status", "customer", "subscription"))
    return books.listing(
        "invoice",
        params,
        "/v1/invoices",
        lambda one: (
            status in (None, one["status"])
            and customer in (None, one["customer"])
            and subscription in (None, billing.subscription_of(one))
        ),
    )


def _invoice(books: Books, params: Json, object_id: str) -> Json:
    return books.shown(books.find("invoice", object_id))


def _invoice_lines(books: Books, params: Json, object_id: str) -> Json:
    lines = books.find("invoice", object_id)["lines"]
    return _page_of(books, lines, params, f"/v1/invoices/{object_id}/lines")


def _page_of(books: Books, rows: list[Json], params: Json, url: str) -> Json:
    """A page of rows that live inside their owner, in its order."""
    limit = whole(params, "limit", 10) or 0
    if not 1 <= limit <= 100:
        raise Refusal(400, "This value must be between 1 and 100.", param="limit")
    if after := params.get("starting_after"):
        places = [n for n, row in enumerate(rows) if row["id"] == after]
        if not places:
            raise missing("line item", after, "starting_after", 400)
        rows = rows[places[0] + 1 :]
    page = [books.shown(row) for row in rows[:limit]]
    return {"object": "list", "data": page, "has_more": len(rows) > limit, "url": url}


def _pay(books: Books, params: Json, object_id: str) -> Json:
    invoice = books.find("invoice", object_id)
    if invoice["status"] == "paid":
        raise Refusal(400, "Invoice is already paid")
    if invoice["status"] in ("void", "uncollectible") or invoice["status"] not in ("open", "draft"):
        raise Refusal(400, f"An invoice with the status {invoice['status']} can't be paid.")
    if invoice["status"] == "draft":
        billing.finalize(books, invoice, books.now)
    owner = books.objects.get(billing.subscription_of(invoice) or "")
    if chosen := text(params, "payment_method"):
        method: Json | None = _method_of(books, chosen, invoice["customer"], "payment_method")
    elif owner:
        method = billing.method_for(books, owner)
    else:
        settings = books.objects[invoice["customer"]]["invoice_settings"]
        method = books.objects.get(settings["default_payment_method"] or "")
    if method is None:
        raise Refusal(
            400, "There is no default_payment_method set on this Customer or Invoice.", param="payment_method"
        )
    if code := billing.collect(books, invoice, method, books.now):
        raise declined(code, charge=_last_charge(books, invoice))
    return books.shown(invoice)


def _last_charge(books: Books, invoice: Json) -> str | None:
    payments = [one for one in books.all("invoice_payment") if one["invoice"] == invoice["id"]]
    intent = books.objects[payments[-1]["payment"]["payment_intent"]] if payments else {}
    charge: str | None = intent.get("latest_charge")
    return charge


def _create_preview(books: Books, params: Json, _: str) -> Json:
    if not params.get("subscription"):
        raise Refusal(
            400,
            "You must provide at least one of: `subscription`, `schedule`, `subscription_details.items`, "
            "`schedule_details.phases`, `invoice_items`. This simulator previews subscriptions only.",
        )
    one = books.find("subscription", params["subscription"], "subscription", 400)
    if params.get("customer") not in (None, one["customer"]):
        raise Refusal(400, "The subscription does not belong to the customer.", param="subscription")
    details = params.get("subscription_details") or {}
    known = {
        "items",
        "cancel_now",
        "cancel_at",
        "cancel_at_period_end",
        "proration_behavior",
        "proration_date",
    }
    if unknown := set(details) - known:
        raise _unknown(f"subscription_details[{sorted(unknown)[0]}]")
    mode = one_of(params, "preview_mode", ("next", "recurring"), "next")
    return books.shown(billing.preview(books, one, details, mode))


def _invoice_payments(books: Books, params: Json, _: str) -> Json:
    invoice, status = params.get("invoice"), params.get("status")
    asked = params.get("payment") or {}
    intent = asked.get("payment_intent")
    if asked:
        one_of(asked, "type", ("payment_intent", "payment_record"), "")
    return books.listing(
        "invoice_payment",
        params,
        "/v1/invoice_payments",
        lambda one: (
            invoice in (None, one["invoice"])
            and status in (None, one["status"])
            and intent in (None, one["payment"]["payment_intent"])
            and asked.get("type") != "payment_record"
        ),
    )


# Charges, refunds, payment intents


def _charges(books: Books, params: Json, _: str) -> Json:
    customer, intent = params.get("customer"), params.get("payment_intent")
    return books.listing(
        "charge",
        params,
        "/v1/charges",
        lambda one: customer in (None, one["customer"]) and intent in (None, one["payment_intent"]),
    )


def _refunds(books: Books, params: Json, charge_id: str) -> Json:
    charge, intent = charge_id or params.get("charge"), params.get("payment_intent")
    if charge:
        books.find("charge", charge, "charge", 404 if charge_id else 400)
    return books.listing(
        "refund",
        params,
        f"/v1/charges/{charge_id}/refunds" if charge_id else "/v1/refunds",
        lambda one: charge in (None, one["charge"]) and intent in (None, one["payment_intent"]),
    )


# Checkout


def _sessions(books: Books, params: Json, _: str) -> Json:
    asked = params.get("customer_details") or {}
    email = asked.get("email")

    def keep(one: Json) -> bool:
        details = one["customer_details"] or {}
        return (email is None or details.get("email") == email) and all(
            params.get(name) in (None, one[name])
            for name in ("customer", "status", "payment_intent", "subscription", "payment_link")
        )

    return books.listing("checkout.session", params, "/v1/checkout/sessions", keep)


def _create_session(books: Books, params: Json, _: str) -> Json:
    if params.get("mode") != "setup":
        raise Refusal(400, "This simulator opens Checkout for mode=setup only.", param="mode")
    for name in ("success_url", *(() if params.get("payment_method_types") else ("currency",))):
        needed(params, name)
    customer = params.get("customer")
    owner = books.find("customer", customer, "customer", 400) if customer else None
    asked = params.get("setup_intent_data") or {}
    intent = books.put(
        shapes.setup_intent(
            books.new_id("setup_intent"), books.now, customer, _metadata({}, asked.get("metadata", {}))
        )
    )
    books.emit("setup_intent.created", intent)
    expires_at = whole(params, "expires_at", books.now + 86_400) or 0
    if not books.now + 1800 <= expires_at <= books.now + 86_400:
        raise Refusal(
            400, "`expires_at` must be between 30 minutes and 24 hours from now.", param="expires_at"
        )
    email = owner["email"] if owner else text(params, "customer_email")
    session = shapes.checkout_session(
        books.new_id("checkout.session"),
        books.now,
        "setup",
        success_url=params["success_url"],
        cancel_url=params.get("cancel_url"),
        client_reference_id=params.get("client_reference_id"),
        currency=params.get("currency"),
        customer=customer,
        customer_creation=None if customer else "if_required",
        customer_details=shapes.customer_details(email, owner["name"] if owner else None) if email else None,
        customer_email=text(params, "customer_email"),
        expires_at=expires_at,
        locale=params.get("locale"),
        metadata=_metadata({}, params.get("metadata", {})),
        setup_intent=intent["id"],
    )
    return books.shown(books.put(session))


def _session(books: Books, params: Json, object_id: str) -> Json:
    return books.shown(books.find("checkout.session", object_id))


def _session_lines(books: Books, params: Json, object_id: str) -> Json:
    rows = books.find("checkout.session", object_id)["_lines"]
    return _page_of(books, rows, params, f"/v1/checkout/sessions/{object_id}/line_items")


def _expire_session(books: Books, params: Json, object_id: str) -> Json:
    session = books.find("checkout.session", object_id)
    if session["status"] != "open":
        raise Refusal(
            400, f'Only Checkout Sessions with a status in ["open"] can be expired: {session["status"]}.'
        )
    books.change(session, "checkout.session.expired", status="expired")
    return books.shown(session)


# The billing portal


def _create_portal_session(books: Books, params: Json, _: str) -> Json:
    customer = books.find("customer", needed(params, "customer"), "customer", 400)
    configuration = _configuration(books, params.get("configuration"))
    flow = params.get("flow_data")
    if flow is not None:
        if flow.get("type") != "payment_method_update":
            raise Refusal(400, "This simulator plays payment_method_update only.", param="flow_data[type]")
        if not configuration["features"]["payment_method_update"]["enabled"]:
            raise Refusal(
                400,
                "The payment_method_update feature is off in the portal configuration.",
                param="flow_data[type]",
            )
        flow = _flow(flow)
    session = shapes.portal_session(
        books.new_id("billing_portal.session"),
        books.now,
        customer["id"],
        configuration["id"],
        flow,
        text(params, "return_url") or configuration["default_return_url"],
    )
    books.put(session)
    books.emit("billing_portal.session.created", session)
    return books.shown(session)


def _configuration(books: Books, wanted: str | None) -> Json:
    if wanted:
        return books.find("billing_portal.configuration", wanted, "configuration", 400)
    saved = [one for one in books.all("billing_portal.configuration") if one["is_default"] and one["active"]]
    if not saved:
        raise Refusal(
            400,
            "No configuration provided and your test mode default configuration has not been created. "
            "Provide a configuration or create your default by saving your customer portal settings.",
        )
    return saved[0]


def _flow(asked: Json) -> Json:
    after = asked.get("after_completion") or {}
    if after and after.get("type") not in ("redirect", "portal_homepage"):
        raise Refusal(
            400, "This simulator ends a flow by redirect only.", param="flow_data[after_completion][type]"
        )
    target = (after.get("redirect") or {}).get("return_url")
    if after.get("type") == "redirect" and not target:
        raise Refusal(
            400,
            "Missing required param: flow_data[after_completion][redirect][return_url].",
            code="parameter_missing",
            param="flow_data[after_completion][redirect][return_url]",
        )
    return shapes.portal_flow(asked["type"], target)


def _create_configuration(books: Books, params: Json, _: str) -> Json:
    features = needed(params, "features")
    update = features.get("payment_method_update") or {} if isinstance(features, dict) else {}
    first = not books.all("billing_portal.configuration")
    one = shapes.portal_configuration(
        books.new_id("billing_portal.configuration"), books.now, flag(update, "enabled"), first
    )
    one["default_return_url"] = text(params, "default_return_url")
    books.put(one)
    books.emit("billing_portal.configuration.created", one)
    return books.shown(one)


def _configurations(books: Books, params: Json, _: str) -> Json:
    kind = "billing_portal.configuration"
    wanted = {name: flag(params, name) for name in ("active", "is_default") if name in params}
    return books.listing(
        kind,
        params,
        "/v1/billing_portal/configurations",
        lambda one: all(one[name] == value for name, value in wanted.items()),
    )


# Webhook endpoints and events


def _create_endpoint(books: Books, params: Json, _: str) -> Json:
    url, wanted = needed(params, "url"), needed(params, "enabled_events")
    if not isinstance(wanted, list):
        raise Refusal(400, "Invalid array: enabled_events", param="enabled_events")
    if not str(url).startswith(("http://", "https://")):
        raise Refusal(400, "Invalid URL: An explicit scheme (such as https) must be provided.", param="url")
    if len(books.all("webhook_endpoint")) >= 16:
        raise Refusal(400, "You have reached the maximum of 16 test webhook endpoints.")
    endpoint_id = books.new_id("webhook_endpoint")
    secret = f"whsec_{endpoint_id.removeprefix('we_')}{books.id.removeprefix('acct_')}"
    endpoint = shapes.webhook_endpoint(
        endpoint_id, books.now, str(url), [str(each) for each in wanted], params.get("api_version"), secret
    )
    endpoint["description"] = text(params, "description")
    endpoint["metadata"] = _metadata({}, params.get("metadata", {}))
    return books.shown(books.put(endpoint)) | {"secret": secret}  # told this once


def _update_endpoint(books: Books, params: Json, object_id: str) -> Json:
    """Neither the version nor the secret can be changed."""
    one = books.find("webhook_endpoint", object_id)
    if "enabled_events" in params:
        one["enabled_events"] = [str(each) for each in params["enabled_events"]]
    if "disabled" in params:
        one["status"] = "disabled" if flag(params, "disabled") else "enabled"
    if "url" in params:
        one["url"] = needed(params, "url")
    if "description" in params:
        one["description"] = text(params, "description")
    one["metadata"] = _metadata(one["metadata"], params.get("metadata", {}))
    return books.shown(one)


def _delete_endpoint(books: Books, params: Json, object_id: str) -> Json:
    books.find("webhook_endpoint", object_id)
    books.state["kinds"]["webhook_endpoint"].remove(object_id)
    del books.objects[object_id]
    return {"id": object_id, "object": "webhook_endpoint", "deleted": True}


def _events(books: Books, params: Json, _: str) -> Json:
    oldest = books.now - EVENTS_KEPT_S
    kinds = params.get("types") or ([params["type"]] if "type" in params else None)
    delivered = flag(params, "delivery_success") if "delivery_success" in params else None
    return books.listing(
        "event",
        params,
        "/v1/events",
        lambda one: (
            one["created"] >= oldest
            and (kinds is None or one["type"] in kinds)
            and delivered in (None, one["_delivered"])
        ),
    )


# The table


def _reader(kind: str) -> Handler:
    return lambda books, params, object_id: books.shown(books.find(kind, object_id))


def _lister(kind: str, url: str, *filters: str) -> Handler:
    return lambda books, params, _: books.listing(
        kind, params, url, lambda one: all(params.get(name) in (None, _plain(one[name])) for name in filters)
    )


def _plain(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _unknown(name: str) -> Refusal:
    return Refusal(400, f"Received unknown parameter: {name}", code="parameter_unknown", param=name)


def _row(
    call: str, handle: Handler, permission: str, params: str = "", *, refuses_cards: bool = False
) -> Endpoint:
    method, path = call.split(" ")
    return Endpoint(method, path, handle, permission, frozenset(["expand", *params.split()]), refuses_cards)


ENDPOINTS = [
    _row("GET /v1/account", _account, "accounts_kyc_basic"),
    _row("GET /v1/balance", _balance, "balance"),
    _row("GET /v1/customers", _customers, "customer", f"{PAGING} email test_clock"),
    _row("GET /v1/customers/search", _search_customers, "customer", "query limit page"),
    _row("GET /v1/customers/{id}", _customer, "customer"),
    _row(
        "POST /v1/customers/{id}",
        _update_customer,
        "customer",
        "name email phone description address business_name individual_name metadata tax_exempt invoice_settings",
        refuses_cards=True,
    ),
    _row(
        "GET /v1/customers/{id}/payment_methods",
        _methods_of_customer,
        "payment_method",
        "limit starting_after ending_before type allow_redisplay",
    ),
    _row(
        "GET /v1/payment_methods",
        _methods,
        "payment_method",
        "limit starting_after ending_before customer type",
    ),
    _row("GET /v1/payment_methods/{id}", _method, "payment_method"),
    _row("POST /v1/payment_methods/{id}/detach", _detach, "payment_method"),
    _row(
        "GET /v1/subscriptions",
        _subscriptions,
        "subscription",
        f"{PAGING} customer price status current_period_start current_period_end",
    ),
    _row("GET /v1/subscriptions/{id}", _subscription, "subscription"),
    _row(
        "POST /v1/subscriptions/{id}",
        _update_subscription,
        "subscription",
        "items cancel_at cancel_at_period_end cancellation_details default_payment_method description metadata "
        "pause_collection payment_behavior proration_behavior proration_date off_session",
        refuses_cards=True,
    ),
    _row(
        "DELETE /v1/subscriptions/{id}",
        _delete_subscription,
        "subscription",
        "invoice_now prorate cancellation_details",
        refuses_cards=True,
    ),
    _row(
        "POST /v1/subscriptions/{id}/pause",
        _pause,
        "subscription",
        "bill_for invoicing_behavior type",
        refuses_cards=True,
    ),
    _row(
        "POST /v1/subscriptions/{id}/resume",
        _resume,
        "subscription",
        "billing_cycle_anchor payment_behavior proration_behavior proration_date",
        refuses_cards=True,
    ),
    _row(
        "GET /v1/subscription_schedules",
        _lister("subscription_schedule", "/v1/subscription_schedules", "customer"),
        "subscription",
        f"{PAGING} customer",
    ),
    _row("GET /v1/subscription_schedules/{id}", _schedule, "subscription"),
    _row("POST /v1/subscription_schedules/{id}/release", _release, "subscription", "preserve_cancel_date"),
    _row("GET /v1/invoices", _invoices, "invoice", f"{PAGING} customer status subscription"),
    _row(
        "POST /v1/invoices/create_preview",
        _create_preview,
        "invoice",
        "customer subscription subscription_details preview_mode",
    ),
    _row("GET /v1/invoices/{id}", _invoice, "invoice"),
    _row("GET /v1/invoices/{id}/lines", _invoice_lines, "invoice", "limit starting_after"),
    _row("POST /v1/invoices/{id}/pay", _pay, "invoice", "payment_method off_session", refuses_cards=True),
    _row("GET /v1/invoice_payments", _invoice_payments, "invoice", f"{PAGING} invoice payment status"),
    _row("GET /v1/invoice_payments/{id}", _reader("invoice_payment"), "invoice"),
    _row("GET /v1/charges", _charges, "charge", f"{PAGING} customer payment_intent transfer_group"),
    _row("GET /v1/charges/{id}", _reader("charge"), "charge"),
    _row("GET /v1/charges/{id}/refunds", _refunds, "charge", PAGING),
    _row("GET /v1/refunds", _refunds, "charge", f"{PAGING} charge payment_intent"),
    _row("GET /v1/refunds/{id}", _reader("refund"), "charge"),
    _row(
        "GET /v1/disputes",
        _lister("dispute", "/v1/disputes", "charge", "payment_intent"),
        "dispute",
        f"{PAGING} charge payment_intent",
    ),
    _row("GET /v1/disputes/{id}", _reader("dispute"), "dispute"),
    _row(
        "GET /v1/payment_intents",
        _lister("payment_intent", "/v1/payment_intents", "customer"),
        "payment_intent",
        f"{PAGING} customer",
    ),
    _row("GET /v1/payment_intents/{id}", _reader("payment_intent"), "payment_intent"),
    _row("GET /v1/products", _lister("product", "/v1/products", "active"), "product", f"{PAGING} active"),
    _row("GET /v1/products/{id}", _reader("product"), "product"),
    _row(
        "GET /v1/prices",
        _lister("price", "/v1/prices", "active", "product", "currency", "type"),
        "plan",
        f"{PAGING} active product currency type",
    ),
    _row("GET /v1/prices/{id}", _reader("price"), "plan"),
    _row(
        "GET /v1/checkout/sessions",
        _sessions,
        "checkout_session",
        f"{PAGING} customer customer_details payment_intent payment_link status subscription",
    ),
    _row(
        "POST /v1/checkout/sessions",
        _create_session,
        "checkout_session",
        "mode customer customer_email currency success_url cancel_url setup_intent_data metadata locale expires_at "
        "client_reference_id payment_method_types payment_method_options payment_method_data ui_mode origin_context",
    ),
    _row("GET /v1/checkout/sessions/{id}", _session, "checkout_session"),
    _row(
        "GET /v1/checkout/sessions/{id}/line_items",
        _session_lines,
        "checkout_session",
        "limit starting_after",
    ),
    _row("POST /v1/checkout/sessions/{id}/expire", _expire_session, "checkout_session"),
    _row(
        "GET /v1/setup_intents",
        _lister("setup_intent", "/v1/setup_intents", "customer", "payment_method"),
        "setup_intent",
        f"{PAGING} customer payment_method",
    ),
    _row("GET /v1/setup_intents/{id}", _reader("setup_intent"), "setup_intent", "client_secret"),
    _row(
        "POST /v1/billing_portal/sessions",
        _create_portal_session,
        "customer_portal",
        "customer configuration flow_data return_url locale",
    ),
    _row(
        "GET /v1/billing_portal/configurations",
        _configurations,
        "customer_portal",
        "limit starting_after ending_before active is_default",
    ),
    _row(
        "POST /v1/billing_portal/configurations",
        _create_configuration,
        "customer_portal",
        "features business_profile default_return_url login_page metadata name",
    ),
    _row(
        "GET /v1/credit_notes",
        _lister("credit_note", "/v1/credit_notes", "invoice", "customer"),
        "credit_note",
        f"{PAGING} invoice customer",
    ),
    _row("GET /v1/credit_notes/{id}", _reader("credit_note"), "credit_note"),
    _row("GET /v1/events", _events, "event", f"{PAGING} type types delivery_success"),
    _row("GET /v1/events/{id}", _reader("event"), "event"),
    _row(
        "GET /v1/webhook_endpoints", _lister("webhook_endpoint", "/v1/webhook_endpoints"), "webhook", PAGING
    ),
    _row(
        "POST /v1/webhook_endpoints",
        _create_endpoint,
        "webhook",
        "url enabled_events api_version description metadata connect",
    ),
    _row("GET /v1/webhook_endpoints/{id}", _reader("webhook_endpoint"), "webhook"),
    _row(
        "POST /v1/webhook_endpoints/{id}",
        _update_endpoint,
        "webhook",
        "url enabled_events description disabled metadata",
    ),
    _row("DELETE /v1/webhook_endpoints/{id}", _delete_endpoint, "webhook"),
]
_NESTED: dict[str, type] = {
    **dict.fromkeys(
        [
            "bill_for",
            "billing_cycle_anchor",
            "flow_data",
            "subscription_details",
            "invoice_settings",
            "address",
        ],
        dict,
    ),
    **dict.fromkeys(["setup_intent_data", "customer_details", "payment"], dict),
    **dict.fromkeys(["expand", "items", "types", "enabled_events"], list),
}
_COMPILED = [(endpoint.pattern, endpoint) for endpoint in ENDPOINTS]


def endpoint_for(method: str, path: str) -> tuple[Endpoint, str]:
    """The endpoint of a call and the id in its path; Stripe's 404 where it has no such address."""
    for pattern, endpoint in _COMPILED:
        if endpoint.method == method and (found := pattern.match(path)):
            return endpoint, found[1] if found.groups() else ""
    raise Refusal(
        404, f"Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs.", code=None
    )


def answer(endpoint: Endpoint, books: Books, params: Json, object_id: str) -> Json:
    """Do a call: parameters known, object found, card refused where the switch says so, and what was asked expanded."""
    if unknown := sorted(set(params) - endpoint.params):
        raise _unknown(unknown[0])
    for name, kind in _NESTED.items():
        if params.get(name, "") != "" and not isinstance(params[name], kind):
            raise Refusal(400, f"Invalid {'array' if kind is list else 'object'}: {name}", param=name)
    if endpoint.refuses_cards and books.simulator.mode == "decline":
        if object_id not in books.objects:
            endpoint.handle(books, params, object_id)
        raise declined("generic_decline")
    sent = endpoint.handle(books, params, object_id)
    return books.expand(sent, params.get("expand") or [])
