"""Saving what a person of the merchant decides: of two who save at once the later one is told what the first did, and
every change is written down with what was there before."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import merchants, models
from portal.merchants import Person


@dataclass(frozen=True, slots=True)
class Late:
    """Somebody else has saved meanwhile: who, when, and what now stands where something else was typed."""

    who: str | None
    at: datetime | None
    now_there: Mapping[str, Any]
    version: int


def save(
    db: Session,
    person: Person,
    row: models.Portal | models.Account | models.MailText,
    version: int,
    columns: Mapping[str, Any],
    what: str,
    subject: str,
) -> Late | None:
    """Write these columns of a row unless it has changed since `version`; None where they are saved.

    `row` was read in this transaction, through the person's portal.
    """
    portal_id = row.id if isinstance(row, models.Portal) else row.portal_id
    before = {name: getattr(row, name) for name in columns}
    if row.version != version:
        return _late(db, row, portal_id, what, columns)
    changed = {name: value for name, value in columns.items() if before[name] != value}
    if not changed.keys() - {"changed_at"}:
        return None
    table: Any = type(row)
    saved = db.execute(
        update(table)
        .where(col(table.id) == row.id, col(table.version) == version)
        .values(**changed, version=version + 1)
    )
    if not saved.rowcount:  # type: ignore[attr-defined]
        db.refresh(row)
        return _late(db, row, portal_id, what, columns)
    said = {name: before[name] for name in changed if name != "changed_at"}
    after = {name: value for name, value in changed.items() if name != "changed_at"}
    merchants.audit(db, person, what, subject=subject, before=said, after=after, portal_id=portal_id)
    db.refresh(row)
    return None


def portal_of(db: Session, person: Person, portal_id: int) -> models.Portal:
    """The portal, found through the person's merchant; LookupError where it is not theirs."""
    row = merchants.portal_of(db, person.merchant_id, portal_id)
    if row is None:
        raise LookupError(portal_id)
    return row


def _late(
    db: Session,
    row: models.Portal | models.Account | models.MailText,
    portal_id: int,
    what: str,
    columns: Mapping[str, Any],
) -> Late:
    """Who was first. A portal's row is saved by several pages, so any change of the portal may be the one."""
    audit = models.Audit
    kinds = [] if isinstance(row, models.Portal) else [col(audit.what) == what]
    last = db.execute(
        select(audit)
        .where(
            col(audit.merchant_id)
            == select(col(models.Portal.merchant_id))
            .where(col(models.Portal.id) == portal_id)
            .scalar_subquery(),
            col(audit.portal_id) == portal_id,
            *kinds,
        )
        .order_by(col(audit.id).desc())
        .limit(1)
    ).scalar_one_or_none()
    there = {name: getattr(row, name) for name in columns if getattr(row, name) != columns[name]}
    there.pop("changed_at", None)
    return Late(last.who if last else None, last.at if last else None, there, row.version)
