"""What the command line does with the database: the first link, answering requests, sealing keys anew."""

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import delete, select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, merchants, models, requests
from portal.db import Database
from portal.settings import Settings
from portal.vault import Vault

BATCH = 100
_Result = TypeVar("_Result")


def rotate_keys(database: Database, ring: str) -> int:
    """Seal all credentials with the first key of the ring, in batches; how many accounts. Safe to run again.

    Raises VaultError where no key of the ring opens one; what is done up to then stays done.
    """
    vault = Vault(ring)
    count, last = 0, 0
    while ids := database.write_now(_rotate, vault, last):
        count, last = count + len(ids), ids[-1]
    last = 0
    while ids := database.write_now(_rotate_users, vault, last):
        last = ids[-1]
    last = 0
    while ids := database.write_now(_rotate_endpoints, vault, last):
        last = ids[-1]
    return count


def _rotate_users(db: Session, vault: Vault, after: int) -> list[int]:
    """The secrets of authenticator apps."""
    row = models.User
    found = list(
        db.execute(
            select(row).where(col(row.id) > after).order_by(col(row.id)).limit(BATCH).with_for_update()
        ).scalars()
    )
    for user in found:
        if user.totp is not None:
            user.totp = vault.seal(0, user.id, vault.open(0, user.id, user.totp))
    return [user.id for user in found]


def _rotate_endpoints(db: Session, vault: Vault, after: int) -> list[int]:
    """The secrets by which deliveries to merchants' apps are signed."""
    row = models.Endpoint
    found = list(
        db.execute(
            select(row).where(col(row.id) > after).order_by(col(row.id)).limit(BATCH).with_for_update()
        ).scalars()
    )
    for endpoint in found:
        where = endpoint.portal_id, endpoint.id
        endpoint.secret = vault.seal(*where, vault.open(*where, endpoint.secret))
        if endpoint.previous_secret is not None:
            endpoint.previous_secret = vault.seal(*where, vault.open(*where, endpoint.previous_secret))
    return [endpoint.id for endpoint in found]


def _rotate(db: Session, vault: Vault, after: int) -> list[int]:
    row = models.Account
    found = list(
        db.execute(
            select(row).where(col(row.id) > after).order_by(col(row.id)).limit(BATCH).with_for_update()
        ).scalars()
    )
    for account in found:
        where = account.portal_id, account.id
        account.credentials = vault.seal(*where, vault.open(*where, account.credentials))
        if account.previous_credentials is not None:
            account.previous_credentials = vault.seal(
                *where, vault.open(*where, account.previous_credentials)
            )
    return [account.id for account in found]


# Who may sign in


def setup_link(settings: Settings, email: str | None = None) -> str:
    """A one-time link by which somebody begins a merchant of their own."""
    if email is not None and not re.fullmatch(r"[^\s@]{1,64}@[^\s@]+", email):
        raise RuntimeError("That is no e-mail address.")
    address = email.strip().lower() if email else None
    token = _with_database(
        settings, lambda database: database.write_now(merchants.new_setup, clock.now(), address)
    )
    return f"{settings.origin(settings.admin_host)}/setup/{token}"


def unlock(settings: Settings, email: str) -> str:
    """Take away somebody's second step; they sign in by mail alone until they set one up again."""

    def write(db: Session) -> str:
        found = db.execute(
            select(models.User).where(col(models.User.email) == email.strip().lower())
        ).scalar_one_or_none()
        if found is None:
            raise RuntimeError(f"Nobody signs in to the settings as {email}.")
        db.execute(delete(models.Passkey).where(col(models.Passkey.user_id) == found.id))
        found.totp = found.totp_confirmed_at = found.totp_step = found.recovery_hashes = None
        merchants.end_all(db, found.id)
        for merchant_id in db.execute(
            select(col(models.Member.merchant_id)).where(col(models.Member.user_id) == found.id)
        ).scalars():
            merchants.audit_by(db, merchant_id, None, "factor.taken_away", subject=found.email)
        return f"{found.email} signs in by mail alone now, and is signed out everywhere."

    return _with_database(settings, lambda database: database.write_now(write))


def merchants_text(settings: Settings) -> str:
    """Merchants with their portals and owners, as text."""

    def read(db: Session) -> list[str]:
        lines = []
        for merchant in db.execute(select(models.Merchant).order_by(col(models.Merchant.id))).scalars():
            slugs = db.execute(
                select(col(models.Portal.slug)).where(col(models.Portal.merchant_id) == merchant.id)
            ).scalars()
            owners = db.execute(
                select(col(models.User.email))
                .join(models.Member, col(models.Member.user_id) == col(models.User.id))
                .where(col(models.Member.merchant_id) == merchant.id, col(models.Member.role) == "owner")
            ).scalars()
            lines.append(
                f"{merchant.name}  portals: {', '.join(slugs) or '-'}  owners: {', '.join(owners) or '-'}"
            )
        return lines

    return "\n".join(_with_database(settings, lambda database: database.read_now(read))) or "Nobody yet."


# Requests


def queue(settings: Settings, slug: str | None, everything: bool, as_json: bool) -> str:
    """The queue as text, or as JSON."""

    def read(db: Session) -> list[dict[str, Any]]:
        portal = _portal(db, slug).id if slug else None
        return [_shown(db, row) for row in requests.queue(db, portal, everything)]

    rows = _with_database(settings, lambda database: database.read_now(read))
    if as_json:
        return json.dumps(rows)
    lines = [
        f"{row['reference']}  {row['status']:9}  by {row['due_at'][:10]}{'  LATE' if row['late'] else ''}  "
        f"{row['portal']}  {row['customer']}  {row['kind']}  {row['what']}"
        for row in rows
    ]
    return "\n".join(lines) or "Nobody waits for an answer."


def show(settings: Settings, slug: str | None, reference: str) -> str:
    """One request with its history, as JSON."""

    def read(db: Session) -> dict[str, Any]:
        return _shown(db, _find(db, slug, reference))

    return json.dumps(_with_database(settings, lambda database: database.read_now(read)), indent=2)


def answer(settings: Settings, slug: str | None, reference: str, status: str, sentence: str) -> str:
    """Answer a request; what was done, in a line. RuntimeError says why it could not be."""

    def write(db: Session) -> str:
        row = _find(db, slug, reference)
        try:
            requests.answer(
                db, row.portal_id, row.reference, status, sentence or None, "merchant", clock.now()
            )
        except (requests.NotOpen, ValueError) as error:
            raise RuntimeError(f"{error}.") from error
        return f"{row.reference} is {status}; the customer gets a mail."

    return _with_database(settings, lambda database: database.write_now(write))


def _with_database(settings: Settings, do: Callable[[Database], _Result]) -> _Result:
    database = Database(settings.database_url, threads=1)
    try:
        return do(database)
    finally:
        database.dispose()


def _portal(db: Session, slug: str) -> models.Portal:
    found = db.execute(select(models.Portal).where(col(models.Portal.slug) == slug)).scalar_one_or_none()
    if found is None:
        raise RuntimeError(f"There is no portal called {slug}.")
    return found


def _find(db: Session, slug: str | None, reference: str) -> models.Request:
    statement = select(models.Request).where(col(models.Request.reference) == reference.upper())
    if slug:
        statement = statement.where(col(models.Request.portal_id) == _portal(db, slug).id)
    found = list(db.execute(statement.limit(2)).scalars())
    if not found:
        raise RuntimeError(f"There is no request {reference}. See `portal requests list --all`.")
    if len(found) > 1:
        raise RuntimeError(f"Several portals have a request {reference}. Say which with --portal.")
    return found[0]


def _shown(db: Session, row: models.Request) -> dict[str, Any]:
    return {
        "reference": row.reference,
        "portal": db.get_one(models.Portal, row.portal_id).slug,
        "processor": db.get_one(models.Account, row.account_id).processor,
        "customer": db.get_one(models.Customer, row.customer_id).email,
        "kind": row.kind,
        "what": row.what,
        "words": row.words,
        "to_do": row.params.get("to_do"),
        "status": row.status,
        "answer": row.answer,
        "due_at": row.due_at.isoformat(),
        "late": row.told_late_at is not None,
        "history": row.history,
    }
