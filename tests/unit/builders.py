"""Plain builders: a test says only what matters to it."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from portal import models
from portal.db import Database
from portal.ids import new_reference
from portal.vault import Vault

MASTER_KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


def save(database: Database, row: Any) -> Any:
    def add(db: Session) -> None:
        db.add(row)

    database.write_now(add)
    return row


def copy(database: Database, row: Any, changes: Sequence[Mapping[str, Any]]) -> None:
    """As many more rows like this one as there are changes, quickly."""
    values = row.model_dump(exclude={"id"})
    copies = [{**values, **change} for change in changes]
    database.write_now(lambda db: db.execute(insert(type(row)), copies))


def make_portal(database: Database, slug: str = "acme", **fields: Any) -> models.Portal:
    merchant = save(database, models.Merchant(name="Acme", email="owner@acme.example"))
    values: dict[str, Any] = {
        "merchant_id": merchant.id,
        "slug": slug,
        "name": "Acme Coffee",
        "support_email": "help@acme.example",
        "brand": {},
        "cancel_reasons": [],
        **fields,
    }
    return save(database, models.Portal(**values))  # type: ignore[no-any-return]


def make_account(
    database: Database,
    portal: models.Portal,
    processor: str = "stripe",
    credentials: dict[str, str] | None = None,
    **fields: Any,
) -> models.Account:
    row = models.Account(
        portal_id=portal.id,
        processor=processor,
        label=fields.pop("label", processor.title()),
        token=secrets.token_urlsafe(16),
        credentials=b"",
        options=fields.pop("options", []),
        switched_off=fields.pop("switched_off", []),
        created_at=NOW,
        **fields,
    )
    row.credentials = Vault(MASTER_KEY).seal(portal.id, row.id, credentials or {})
    return save(database, row)  # type: ignore[no-any-return]


def make_customer(
    database: Database, portal: models.Portal, email: str = "ana@example.com", **fields: Any
) -> models.Customer:
    return save(  # type: ignore[no-any-return]
        database, models.Customer(portal_id=portal.id, email=email, created_at=NOW, **fields)
    )


def _mirrored(
    account: models.Account, customer: models.Customer | None, prefix: str, fields: dict[str, Any]
) -> dict[str, Any]:
    placed = fields.get("placed_at") or fields.get("created_at") or NOW - timedelta(days=10)
    return {
        "portal_id": account.portal_id,
        "account_id": account.id,
        "customer_id": customer.id if customer else None,
        "email": customer.email if customer else None,
        "remote_id": f"{prefix}_{secrets.token_hex(6)}",
        "placed_at": placed,
        "created_at": placed,
        "as_of": NOW,
        "stamps": {},
        **fields,
    }


def make_order(
    database: Database, account: models.Account, customer: models.Customer | None, **fields: Any
) -> models.Order:
    values = {
        "status": "paid",
        "number": "1001",
        "title": "Ethiopia Guji, 2 bags",
        "amount_minor": 2400,
        "currency": "USD",
        "lines": [{"name": "Ethiopia Guji", "quantity": 2, "minor": 2400, "currency": "USD"}],
        **_mirrored(account, customer, "order", fields),
    }
    return save(database, models.Order(**values))  # type: ignore[no-any-return]


def make_subscription(
    database: Database, account: models.Account, customer: models.Customer | None, **fields: Any
) -> models.Subscription:
    values = {
        "status": "active",
        "title": "Monthly coffee box",
        "amount_minor": 2400,
        "currency": "USD",
        "interval_unit": "month",
        "interval_count": 1,
        "quantity": 1,
        "started_at": NOW - timedelta(days=100),
        "current_period_start": NOW - timedelta(days=10),
        "current_period_end": NOW + timedelta(days=20),
        "next_on": (NOW + timedelta(days=20)).date(),
        "next_minor": 2400,
        "next_certainty": "fixed",
        "method": {"kind": "card", "brand": "Visa", "last4": "4242", "expires": "2028-09"},
        **_mirrored(account, customer, "sub", fields),
    }
    return save(database, models.Subscription(**values))  # type: ignore[no-any-return]


def make_payment(
    database: Database, account: models.Account, customer: models.Customer | None, **fields: Any
) -> models.Payment:
    values = {
        "status": "paid",
        "title": "Monthly coffee box",
        "amount_minor": 2400,
        "currency": "USD",
        "refunded_minor": 0,
        "paid_at": NOW - timedelta(days=10),
        "method": {"kind": "card", "brand": "Visa", "last4": "4242", "expires": "2028-09"},
        **_mirrored(account, customer, "ch", fields),
    }
    return save(database, models.Payment(**values))  # type: ignore[no-any-return]


def make_refund(
    database: Database, account: models.Account, payment: models.Payment, **fields: Any
) -> models.Refund:
    values = {
        "status": "sent",
        "payment_remote": payment.remote_id,
        "amount_minor": payment.amount_minor,
        "currency": payment.currency,
        **_mirrored(account, None, "re", fields),
    }
    return save(database, models.Refund(**values))  # type: ignore[no-any-return]


def make_invoice(
    database: Database, account: models.Account, customer: models.Customer | None, **fields: Any
) -> models.Invoice:
    values = {
        "status": "paid",
        "number": "A-0001",
        "amount_minor": 2400,
        "currency": "USD",
        "lines": [],
        "document": True,
        **_mirrored(account, customer, "in", fields),
    }
    return save(database, models.Invoice(**values))  # type: ignore[no-any-return]


def make_action(database: Database, row: models.Subscription, **fields: Any) -> models.Action:
    values = {
        "portal_id": row.portal_id,
        "account_id": row.account_id,
        "customer_id": row.customer_id,
        "subscription_id": row.id,
        "capability": "pause",
        "reference": new_reference(),
        "params": {},
        "created_at": NOW,
        **fields,
    }
    return save(database, models.Action(**values))  # type: ignore[no-any-return]


def make_request(
    database: Database, row: models.Subscription | models.Payment, **fields: Any
) -> models.Request:
    values = {
        "portal_id": row.portal_id,
        "account_id": row.account_id,
        "customer_id": row.customer_id,
        "subject_id": row.id,
        "kind": "refund" if isinstance(row, models.Payment) else "undo_cancel",
        "reference": new_reference(),
        "what": row.title or "",
        "params": {},
        "history": [{"at": NOW.isoformat(), "who": "customer", "what": "asked", "text": None}],
        "due_at": NOW + timedelta(days=3),
        "created_at": NOW,
        **fields,
    }
    return save(database, models.Request(**values))  # type: ignore[no-any-return]
