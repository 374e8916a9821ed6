"""Objects in the shape of 2026-10-28.endive, fresh, with every field that Stripe always sends.

Names that begin with an underscore are the simulator's own notes and never leave it.
"""

from typing import Any

from seeds.simulators._stripe.wire import Json

_NO_ADDRESS = dict.fromkeys(["city", "country", "line1", "line2", "postal_code", "state"])


def _base(kind: str, object_id: str, created: int) -> Json:
    return {"id": object_id, "object": kind, "created": created, "livemode": False, "metadata": {}}


def customer(object_id: str, created: int, email: str | None, name: str | None, prefix: str) -> Json:
    return _base("customer", object_id, created) | {
        "address": None,
        "balance": 0,
        "business_name": None,
        "currency": None,
        "customer_account": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "discount": None,
        "email": email,
        "individual_name": None,
        "invoice_prefix": prefix,
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "name": name,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }


def product(object_id: str, created: int, name: str) -> Json:
    return _base("product", object_id, created) | {
        "active": True,
        "default_price": None,
        "description": None,
        "images": [],
        "marketing_features": [],
        "name": name,
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": None,
        "tax_code": None,
        "type": "service",
        "unit_label": None,
        "updated": created,
        "url": None,
    }


def price(
    object_id: str,
    created: int,
    product_id: str,
    minor: int,
    currency: str,
    recurring: tuple[str, int] | None,
) -> Json:
    return _base("price", object_id, created) | {
        "active": True,
        "billing_scheme": "per_unit",
        "currency": currency,
        "custom_unit_amount": None,
        "lookup_key": None,
        "nickname": None,
        "product": product_id,
        "recurring": recurring
        and {
            "interval": recurring[0],
            "interval_count": recurring[1],
            "meter": None,
            "trial_period_days": None,
            "usage_type": "licensed",
        },
        "tax_behavior": "unspecified",
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "recurring" if recurring else "one_time",
        "unit_amount": minor,
        "unit_amount_decimal": str(minor),
    }


def _plan(of: Json) -> Json:
    """The old name of a recurring price, which every subscription item still carries."""
    return {
        "id": of["id"],
        "object": "plan",
        "active": of["active"],
        "amount": of["unit_amount"],
        "amount_decimal": of["unit_amount_decimal"],
        "billing_scheme": of["billing_scheme"],
        "created": of["created"],
        "currency": of["currency"],
        "interval": of["recurring"]["interval"],
        "interval_count": of["recurring"]["interval_count"],
        "livemode": False,
        "metadata": {},
        "meter": None,
        "nickname": None,
        "product": of["product"],
        "tiers_mode": None,
        "transform_usage": None,
        "trial_period_days": None,
        "usage_type": "licensed",
    }


def card_method(
    object_id: str, created: int, customer_id: str | None, card: Json, billing: Json, declines: str | None
) -> Json:
    return _base("payment_method", object_id, created) | {
        "allow_redisplay": "always",
        "billing_details": billing,
        "card": card
        | {
            "checks": {
                "address_line1_check": None,
                "address_postal_code_check": None,
                "cvc_check": "pass",
            },
            "country": "US",
            "display_brand": card["brand"],
            "fingerprint": f"Sim{card['brand']}{card['last4']}",
            "funding": "credit",
            "generated_from": None,
            "networks": {"available": [card["brand"]], "preferred": None},
            "regulated_status": "unregulated",
            "three_d_secure_usage": {"supported": True},
            "wallet": None,
        },
        "customer": customer_id,
        "customer_account": None,
        "type": "card",
        "_declines": declines,
    }


def billing_details(email: str | None = None, name: str | None = None) -> Json:
    return {"address": dict(_NO_ADDRESS), "email": email, "name": name, "phone": None, "tax_id": None}


def payment_intent(
    object_id: str, created: int, amount: int, currency: str, customer_id: str | None, description: str | None
) -> Json:
    return _base("payment_intent", object_id, created) | {
        "amount": amount,
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": None,
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": "automatic",
        "client_secret": f"{object_id}_secret_simulated",
        "confirmation_method": "automatic",
        "currency": currency,
        "customer": customer_id,
        "customer_account": None,
        "description": description,
        "excluded_payment_method_types": None,
        "last_payment_error": None,
        "latest_charge": None,
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_configuration_details": None,
        "payment_method_options": {},
        "payment_method_types": ["card"],
        "processing": None,
        "receipt_email": None,
        "review": None,
        "setup_future_usage": None,
        "shipping": None,
        "source": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "requires_payment_method",
        "transfer_data": None,
        "transfer_group": None,
    }


def charge(object_id: str, created: int, intent: Json, method: Json, receipt_email: str | None) -> Json:
    """A charge that succeeded and was captured; `failed()` makes another of it."""
    card = method["card"]
    return _base("charge", object_id, created) | {
        "amount": intent["amount"],
        "amount_captured": intent["amount"],
        "amount_refunded": 0,
        "application": None,
        "application_fee": None,
        "application_fee_amount": None,
        "balance_transaction": object_id.replace("ch_", "txn_"),
        "billing_details": method["billing_details"],
        "calculated_statement_descriptor": "SIMULATED SHOP",
        "captured": True,
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "failure_balance_transaction": None,
        "failure_code": None,
        "failure_message": None,
        "fraud_details": {},
        "on_behalf_of": None,
        "outcome": {
            "advice_code": None,
            "network_advice_code": None,
            "network_decline_code": None,
            "network_status": "approved_by_network",
            "reason": None,
            "risk_level": "normal",
            "seller_message": "Payment complete.",
            "type": "authorized",
        },
        "paid": True,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": {
            "card": {
                "amount_authorized": intent["amount"],
                "authorization_code": None,
                "brand": card["brand"],
                "checks": card["checks"],
                "country": card["country"],
                "exp_month": card["exp_month"],
                "exp_year": card["exp_year"],
                "extended_authorization": {"status": "disabled"},
                "fingerprint": card["fingerprint"],
                "funding": card["funding"],
                "incremental_authorization": {"status": "unavailable"},
                "installments": None,
                "last4": card["last4"],
                "mandate": None,
                "multicapture": {"status": "unavailable"},
                "network": card["brand"],
                "network_token": {"used": False},
                "network_transaction_id": None,
                "overcapture": {"maximum_amount_capturable": intent["amount"], "status": "unavailable"},
                "regulated_status": "unregulated",
                "three_d_secure": None,
                "wallet": None,
            },
            "type": "card",
        },
        "receipt_email": receipt_email,
        "receipt_number": None,
        "refunded": False,
        "review": None,
        "shipping": None,
        "source": None,
        "source_transfer": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "succeeded",
        "transfer_data": None,
        "transfer_group": None,
    }


def failed(charge_: Json, code: str, decline_code: str, sentence: str) -> Json:
    return charge_ | {
        "amount_captured": 0,
        "balance_transaction": None,
        "captured": False,
        "failure_code": code,
        "failure_message": sentence,
        "outcome": charge_["outcome"]
        | {
            "network_status": "declined_by_network",
            "reason": decline_code,
            "seller_message": "The bank did not approve the payment.",
            "type": "issuer_declined",
        },
        "paid": False,
        "status": "failed",
    }


def refund(object_id: str, created: int, of: Json, amount: int, reason: str | None, status: str) -> Json:
    shape = _base("refund", object_id, created) | {
        "amount": amount,
        "balance_transaction": object_id.replace("re_", "txn_") if status == "succeeded" else None,
        "charge": of["id"],
        "currency": of["currency"],
        "customer": of["customer"],
        "customer_account": None,
        "destination_details": {
            "card": {
                "reference_status": "pending",
                "reference_type": "acquirer_reference_number",
                "type": "refund",
            },
            "type": "card",
        },
        "payment_intent": of["payment_intent"],
        "payment_method": of["payment_method"],
        "reason": reason,
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": status,
        "transfer_reversal": None,
    }
    del shape["livemode"]
    return shape


def dispute(object_id: str, created: int, of: Json) -> Json:
    return _base("dispute", object_id, created) | {
        "amount": of["amount"],
        "balance_transactions": [],
        "charge": of["id"],
        "currency": of["currency"],
        "enhanced_eligibility_types": [],
        "evidence": {},
        "evidence_details": {
            "due_by": created + 7 * 86_400,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "is_charge_refundable": False,
        "payment_intent": of["payment_intent"],
        "reason": "product_not_received",
        "status": "needs_response",
    }


def subscription(
    object_id: str,
    created: int,
    customer_id: str,
    items: list[Json],
    method_id: str | None,
    trial_end: int | None,
    *,
    managed: bool,
    flexible: bool,
) -> Json:
    return _base("subscription", object_id, created) | {
        "application": None,
        "application_fee_percent": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": trial_end or created,
        "billing_cycle_anchor_config": None,
        "billing_mode": {
            "flexible": {"proration_discounts": "included"} if flexible else None,
            "type": "flexible" if flexible else "classic",
        },
        "billing_schedules": [],
        "billing_thresholds": None,
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": "charge_automatically",
        "currency": items[0]["price"]["currency"],
        "customer": customer_id,
        "customer_account": None,
        "days_until_due": None,
        "default_payment_method": method_id,
        "default_source": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "ended_at": None,
        "invoice_settings": {
            "account_tax_ids": None,
            "custom_fields": None,
            "description": None,
            "footer": None,
            "issuer": {"type": "self"},
        },
        "items": items,
        "latest_invoice": None,
        "managed_payments": {"enabled": managed},
        "next_pending_invoice_item_invoice": None,
        "on_behalf_of": None,
        "pause_collection": None,
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        "pending_invoice_item_interval": None,
        "pending_setup_intent": None,
        "pending_update": None,
        "schedule": None,
        "start_date": created,
        "status": "trialing" if trial_end else "active",
        "status_details": None,
        "test_clock": None,
        "transfer_data": None,
        "trial_end": trial_end,
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
        "trial_start": created if trial_end else None,
        "_pending": [],
    }


def subscription_item(
    object_id: str, created: int, subscription_id: str, price_: Json, quantity: int, start: int, end: int
) -> Json:
    return {
        "id": object_id,
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": created,
        "current_period_end": end,
        "current_period_start": start,
        "discounts": [],
        "metadata": {},
        "plan": _plan(price_),
        "price": price_,
        "quantity": quantity,
        "subscription": subscription_id,
        "tax_rates": [],
    }


def repriced(item: Json, price_: Json, quantity: int, period: tuple[int, int]) -> Json:
    return item | {
        "price": price_,
        "plan": _plan(price_),
        "quantity": quantity,
        "current_period_start": period[0],
        "current_period_end": period[1],
    }


def line(
    object_id: str,
    amount: int,
    description: str,
    period: tuple[int, int],
    price_: Json,
    quantity: int,
    *,
    item: Json | None = None,
    proration: bool = False,
) -> Json:
    """A line of an invoice: of a subscription item, or of an order where there is none."""
    details: Json = {
        "invoice_item": None,
        "proration": proration,
        "proration_details": {"credited_items": None},
        "subscription": item and item["subscription"],
    }
    parent: Json = {
        "invoice_item_details": details | {"invoice_item": object_id.replace("il_", "ii_")},
        "subscription_item_details": None,
        "type": "invoice_item_details",
    }
    if item:
        parent = {
            "invoice_item_details": None,
            "subscription_item_details": details | {"subscription_item": item["id"]},
            "type": "subscription_item_details",
        }
    return {
        "id": object_id,
        "object": "line_item",
        "amount": amount,
        "currency": price_["currency"],
        "description": description,
        "discount_amounts": [],
        "discountable": not proration,
        "discounts": [],
        "invoice": None,
        "livemode": False,
        "metadata": {},
        "parent": parent,
        "period": {"start": period[0], "end": period[1]},
        "pretax_credit_amounts": [],
        "pricing": {
            "price_details": {"price": price_["id"], "product": price_["product"]},
            "type": "price_details",
            "unit_amount_decimal": str(price_["unit_amount"]),
        },
        "quantity": quantity,
        "quantity_decimal": str(quantity),
        "subtotal": amount,
        "taxes": [],
    }


def invoice(
    object_id: str,
    created: int,
    of: Json,
    lines: list[Json],
    currency: str,
    reason: str,
    subscription_: Json | None,
    tax: int,
) -> Json:
    """A draft: amounts from its lines and tax, nothing asked for yet."""
    subtotal = sum(one["amount"] for one in lines)
    return _base("invoice", object_id, created) | {
        "account_country": "US",
        "account_name": None,
        "account_tax_ids": None,
        "amount_due": max(subtotal + tax, 0),
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_remaining": max(subtotal + tax, 0),
        "amount_shipping": 0,
        "application": None,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": False,
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": False,
            "liability": None,
            "provider": None,
            "status": None,
        },
        "automatically_finalizes_at": None,
        "billing_reason": reason,
        "collection_method": "charge_automatically",
        "currency": currency,
        "custom_fields": None,
        "customer": of["id"],
        "customer_account": None,
        "customer_address": of["address"],
        "customer_email": of["email"],
        "customer_name": of["name"],
        "customer_phone": of["phone"],
        "customer_shipping": None,
        "customer_tax_exempt": of["tax_exempt"],
        "customer_tax_ids": [],
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "due_date": None,
        "effective_at": None,
        "ending_balance": None,
        "footer": None,
        "from_invoice": None,
        "issuer": {"type": "self"},
        "last_finalization_error": None,
        "latest_revision": None,
        "lines": lines,
        "next_payment_attempt": None,
        "number": None,
        "on_behalf_of": None,
        "parent": subscription_
        and {
            "quote_details": None,
            "subscription_details": {
                "metadata": dict(subscription_["metadata"]),
                "subscription": subscription_["id"],
            },
            "type": "subscription_details",
        },
        "payment_settings": {
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        "period_end": max([one["period"]["end"] for one in lines], default=created),
        "period_start": min([one["period"]["start"] for one in lines], default=created),
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "receipt_number": None,
        "rendering": None,
        "shipping_cost": None,
        "shipping_details": None,
        "starting_balance": of["balance"],
        "statement_descriptor": None,
        "status": "draft",
        "status_transitions": {
            "finalized_at": None,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        "subtotal": subtotal,
        "subtotal_excluding_tax": subtotal,
        "test_clock": None,
        "total": subtotal + tax,
        "total_discount_amounts": [],
        "total_excluding_tax": subtotal,
        "total_pretax_credit_amounts": [],
        "total_taxes": [
            {
                "amount": tax,
                "tax_behavior": "exclusive",
                "tax_rate_details": None,
                "taxability_reason": "standard_rated",
                "taxable_amount": subtotal,
                "type": "tax_rate_details",
            }
        ]
        if tax
        else [],
        "webhooks_delivered_at": created,
    }


def invoice_payment(object_id: str, created: int, of: Json, intent_id: str) -> Json:
    return {
        "id": object_id,
        "object": "invoice_payment",
        "amount_paid": None,
        "amount_requested": of["amount_remaining"],
        "created": created,
        "currency": of["currency"],
        "invoice": of["id"],
        "is_default": True,
        "livemode": False,
        "payment": {"payment_intent": intent_id, "type": "payment_intent"},
        "status": "open",
        "status_transitions": {"canceled_at": None, "paid_at": None},
    }


def setup_intent(object_id: str, created: int, customer_id: str | None, metadata: Json) -> Json:
    return _base("setup_intent", object_id, created) | {
        "application": None,
        "automatic_payment_methods": None,
        "cancellation_reason": None,
        "client_secret": f"{object_id}_secret_simulated",
        "customer": customer_id,
        "customer_account": None,
        "description": None,
        "excluded_payment_method_types": None,
        "flow_directions": None,
        "last_setup_error": None,
        "latest_attempt": None,
        "mandate": None,
        "metadata": metadata,
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_configuration_details": None,
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "single_use_mandate": None,
        "status": "requires_payment_method",
        "usage": "off_session",
    }


def checkout_session(object_id: str, created: int, mode: str, **fields: Any) -> Json:
    return (
        _base("checkout.session", object_id, created)
        | {
            "adaptive_pricing": None,
            "after_expiration": None,
            "allow_promotion_codes": None,
            "amount_subtotal": None,
            "amount_total": None,
            "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
            "billing_address_collection": None,
            "cancel_url": None,
            "client_reference_id": None,
            "client_secret": None,
            "collected_information": None,
            "consent": None,
            "consent_collection": None,
            "currency": None,
            "currency_conversion": None,
            "custom_fields": [],
            "custom_text": {
                "after_submit": None,
                "shipping_address": None,
                "submit": None,
                "terms_of_service_acceptance": None,
            },
            "customer": None,
            "customer_account": None,
            "customer_creation": None,
            "customer_details": None,
            "customer_email": None,
            "discounts": None,
            "expires_at": created + 86_400,
            "integration_identifier": None,
            "invoice": None,
            "invoice_creation": None,
            "locale": None,
            "managed_payments": None,
            "mode": mode,
            "origin_context": None,
            "payment_intent": None,
            "payment_link": None,
            "payment_method_collection": None,
            "payment_method_configuration_details": None,
            "payment_method_options": {},
            "payment_method_types": ["card"],
            "payment_status": "no_payment_required" if mode == "setup" else "unpaid",
            "permissions": None,
            "phone_number_collection": {"enabled": False},
            "recovered_from": None,
            "saved_payment_method_options": None,
            "setup_intent": None,
            "shipping_address_collection": None,
            "shipping_cost": None,
            "shipping_options": [],
            "status": "open",
            "submit_type": None,
            "subscription": None,
            "success_url": None,
            "total_details": None,
            "ui_mode": "hosted_page",
            "wallet_options": None,
            "_lines": [],
        }
        | fields
    )


def customer_details(email: str | None, name: str | None) -> Json:
    return {
        "address": dict(_NO_ADDRESS),
        "business_name": None,
        "email": email,
        "individual_name": None,
        "name": name,
        "phone": None,
        "tax_exempt": "none",
        "tax_ids": [],
    }


def session_line(object_id: str, name: str, quantity: int, price_: Json, tax: int) -> Json:
    subtotal = price_["unit_amount"] * quantity
    return {
        "id": object_id,
        "object": "item",
        "adjustable_quantity": None,
        "amount_discount": 0,
        "amount_subtotal": subtotal,
        "amount_tax": tax,
        "amount_total": subtotal + tax,
        "currency": price_["currency"],
        "description": name,
        "metadata": {},
        "price": price_,
        "quantity": quantity,
    }


def portal_configuration(object_id: str, created: int, method_update: bool, is_default: bool) -> Json:
    return _base("billing_portal.configuration", object_id, created) | {
        "active": True,
        "application": None,
        "business_profile": {"headline": None, "privacy_policy_url": None, "terms_of_service_url": None},
        "default_return_url": None,
        "features": {
            "customer_update": {"allowed_updates": [], "enabled": False},
            "invoice_history": {"enabled": True},
            "payment_method_update": {"enabled": method_update, "payment_method_configuration": None},
            "subscription_cancel": {
                "cancellation_reason": {"enabled": False, "options": []},
                "enabled": False,
                "mode": "at_period_end",
                "proration_behavior": "none",
            },
            "subscription_pause": {
                "duration": {"interval_options": [], "type": "indefinite"},
                "enabled": False,
            },
            "subscription_update": {
                "billing_cycle_anchor": None,
                "default_allowed_updates": [],
                "enabled": False,
                "proration_behavior": "none",
                "schedule_at_period_end": {"conditions": []},
                "trial_update_behavior": "end_trial",
            },
        },
        "is_default": is_default,
        "login_page": {"enabled": False, "url": None},
        "name": None,
        "updated": created,
    }


def portal_session(
    object_id: str,
    created: int,
    customer_id: str,
    configuration_id: str,
    flow: Json | None,
    return_url: str | None,
) -> Json:
    shape = _base("billing_portal.session", object_id, created) | {
        "configuration": configuration_id,
        "customer": customer_id,
        "customer_account": None,
        "flow": flow,
        "locale": None,
        "on_behalf_of": None,
        "return_url": return_url,
        "_opened": False,
    }
    del shape["metadata"]
    return shape


def portal_flow(kind: str, redirect_to: str | None) -> Json:
    after = {"return_url": redirect_to} if redirect_to else None
    return {
        "after_completion": {
            "hosted_confirmation": None,
            "redirect": after,
            "type": "redirect" if redirect_to else "portal_homepage",
        },
        "subscription_cancel": None,
        "subscription_update": None,
        "subscription_update_confirm": None,
        "type": kind,
    }


def schedule(object_id: str, created: int, of: Json) -> Json:
    items = [
        {
            "billing_thresholds": None,
            "discounts": [],
            "metadata": {},
            "plan": item["price"]["id"],
            "price": item["price"]["id"],
            "quantity": item["quantity"],
            "tax_rates": [],
        }
        for item in of["items"]
    ]
    phase = {
        "start_date": of["items"][0]["current_period_start"],
        "end_date": of["items"][0]["current_period_end"],
    }
    return _base("subscription_schedule", object_id, created) | {
        "application": None,
        "billing_mode": of["billing_mode"],
        "canceled_at": None,
        "completed_at": None,
        "current_phase": phase,
        "customer": of["customer"],
        "customer_account": None,
        "default_settings": {
            "application_fee_percent": None,
            "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
            "billing_cycle_anchor": "automatic",
            "billing_thresholds": None,
            "collection_method": "charge_automatically",
            "default_payment_method": None,
            "description": None,
            "invoice_settings": {
                "account_tax_ids": None,
                "custom_fields": None,
                "days_until_due": None,
                "description": None,
                "footer": None,
                "issuer": {"type": "self"},
            },
            "on_behalf_of": None,
            "transfer_data": None,
        },
        "end_behavior": "release",
        "pause_schedules": [],
        "phases": [
            phase
            | {
                "add_invoice_items": [],
                "application_fee_percent": None,
                "billing_cycle_anchor": None,
                "billing_thresholds": None,
                "collection_method": None,
                "currency": of["currency"],
                "default_payment_method": None,
                "default_tax_rates": [],
                "description": None,
                "discounts": [],
                "invoice_settings": None,
                "items": items,
                "metadata": {},
                "on_behalf_of": None,
                "proration_behavior": "create_prorations",
                "transfer_data": None,
                "trial_end": None,
            }
        ],
        "released_at": None,
        "released_subscription": None,
        "status": "active",
        "subscription": of["id"],
        "test_clock": None,
    }


def credit_note(object_id: str, created: int, of: Json, amount: int, number: str, line_id: str) -> Json:
    line_ = {
        "id": line_id,
        "object": "credit_note_line_item",
        "amount": amount,
        "description": f"Credit for invoice {of['number']}",
        "discount_amount": 0,
        "discount_amounts": [],
        "livemode": False,
        "metadata": None,
        "pretax_credit_amounts": [],
        "quantity": 1,
        "tax_rates": [],
        "taxes": [],
        "type": "custom_line_item",
        "unit_amount": amount,
        "unit_amount_decimal": str(amount),
    }
    return _base("credit_note", object_id, created) | {
        "amount": amount,
        "amount_shipping": 0,
        "currency": of["currency"],
        "customer": of["customer"],
        "customer_account": None,
        "customer_balance_transaction": None,
        "discount_amount": 0,
        "discount_amounts": [],
        "effective_at": created,
        "invoice": of["id"],
        "lines": [line_],
        "memo": None,
        "number": number,
        "out_of_band_amount": None,
        "post_payment_amount": amount if of["status"] == "paid" else 0,
        "pre_payment_amount": 0 if of["status"] == "paid" else amount,
        "pretax_credit_amounts": [],
        "reason": "order_change",
        "refunds": [],
        "shipping_cost": None,
        "status": "issued",
        "subtotal": amount,
        "subtotal_excluding_tax": amount,
        "total": amount,
        "total_excluding_tax": amount,
        "total_taxes": [],
        "type": "post_payment" if of["status"] == "paid" else "pre_payment",
        "voided_at": None,
    }


def webhook_endpoint(
    object_id: str, created: int, url: str, events: list[str], version: str | None, secret: str
) -> Json:
    return _base("webhook_endpoint", object_id, created) | {
        "api_version": version,
        "application": None,
        "description": None,
        "enabled_events": events,
        "status": "enabled",
        "url": url,
        "_secret": secret,
    }


def account(object_id: str, name: str, country: str, currency: str, created: int) -> Json:
    return {
        "id": object_id,
        "object": "account",
        "business_profile": {"name": name, "support_email": None, "url": None},
        "business_type": "company",
        "capabilities": {"card_payments": "active", "transfers": "active"},
        "charges_enabled": True,
        "country": country,
        "created": created,
        "default_currency": currency,
        "details_submitted": True,
        "email": None,
        "metadata": {},
        "payouts_enabled": True,
        "settings": {"dashboard": {"display_name": name, "timezone": "Etc/UTC"}},
        "type": "standard",
    }
