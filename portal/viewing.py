"""View as customer: a person of the merchant sees what a customer sees. Read-only, marked on every page, written down,
in a session of its own that is no customer's."""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import merchants, models
from portal.login import digest
from portal.merchants import Person

LINK_LIFE = timedelta(minutes=2)
LIFE = timedelta(minutes=30)
PURPOSE = "view"


def open_view(db: Session, person: Person, portal_id: int, customer_id: int, now: datetime) -> str | None:
    """The secret of a single-use link on the portal's own host; None where there is no such customer of theirs."""
    customer = db.execute(
        select(models.Customer).where(
            col(models.Customer.portal_id) == portal_id, col(models.Customer.id) == customer_id
        )
    ).scalar_one_or_none()
    if customer is None:
        return None
    token = secrets.token_urlsafe(32)
    db.add(
        models.Entry(
            token_hash=digest(token),
            portal_id=portal_id,
            customer_id=customer_id,
            purpose=PURPOSE,
            created_by=person.user_id,
            created_at=now,
            expires_at=now + LINK_LIFE,
        )
    )
    merchants.audit(db, person, "viewed_as_customer", subject=customer.email, portal_id=portal_id)
    return token


@dataclass(frozen=True, slots=True)
class Looking:
    """Whose pages a link opens, and for whom."""

    email: str
    viewer: str


def look(db: Session, portal_id: int, token: str, now: datetime) -> Looking | None:
    """What a link opens; changes nothing. None where it is none of ours, used or over."""
    entry = models.Entry
    found: Any = db.execute(
        select(col(models.Customer.email), col(models.User.email).label("viewer"))
        .select_from(entry)
        .join(models.Customer, col(models.Customer.id) == col(entry.customer_id))
        .join(models.User, col(models.User.id) == col(entry.created_by))
        .where(
            col(entry.token_hash) == digest(token),
            col(entry.portal_id) == portal_id,
            col(entry.purpose) == PURPOSE,
            col(entry.used_at).is_(None),
            col(entry.expires_at) > now,
        )
    ).one_or_none()
    return Looking(found.email, found.viewer) if found else None


def redeem(db: Session, portal_id: int, token: str, agent: str, now: datetime) -> str | None:
    """Spend a link by one conditional UPDATE and open the session; returns the secret for its cookie."""
    entry = models.Entry
    spent = db.execute(
        update(entry)
        .where(
            col(entry.token_hash) == digest(token),
            col(entry.portal_id) == portal_id,
            col(entry.purpose) == PURPOSE,
            col(entry.used_at).is_(None),
            col(entry.expires_at) > now,
        )
        .values(used_at=now)
        .returning(col(entry.customer_id), col(entry.created_by))
    ).one_or_none()
    if spent is None:
        return None
    secret = secrets.token_urlsafe(32)
    db.add(
        models.SignIn(
            token_hash=digest(secret),
            portal_id=portal_id,
            customer_id=spent.customer_id,
            purpose=PURPOSE,
            viewer_id=spent.created_by,
            user_agent=agent[:200],
            created_at=now,
            last_seen_at=now,
            expires_at=now + LIFE,
        )
    )
    return secret


def end(db: Session, portal_id: int, token: str) -> None:
    row = models.SignIn
    db.execute(
        delete(row).where(
            col(row.token_hash) == digest(token),
            col(row.portal_id) == portal_id,
            col(row.purpose) == PURPOSE,
        )
    )
