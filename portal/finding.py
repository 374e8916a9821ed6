"""An address that no row knows: the processors that can be asked by e-mail are asked before anybody decides.

Everything here is the worker's. Whoever typed the address got their answer long before, the same as everybody."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, models, sync
from portal.connect import open_gateway
from portal.db import Database
from portal.faults import places
from portal.gateways import facts
from portal.gateways.base import Gateway, Gone, Ref, Snapshot, Unsupported
from portal.ids import new_id
from portal.settings import Settings
from portal.vault import Vault

PER_ADDRESS = (timedelta(days=1), 2)  # look-ups of one address in one portal
PER_NETWORK = ((timedelta(hours=1), 10), (timedelta(days=1), 40))
PER_PORTAL = (timedelta(hours=1), 120)
LOOK_S = 12.0  # for each account, all of them side by side; what was found by then counts
MOST = 40  # things of one person at one account; the rest comes by sync
AGAIN_S, AGAIN_FOR = (
    45.0,
    timedelta(minutes=2),
)  # where a processor did not answer and nothing was found elsewhere

log = structlog.get_logger()
Write = Callable[[Session, models.Account, Snapshot], Any]


def want(db: Session, asked: models.LoginRequest, kind: str, payload: dict[str, Any], now: datetime) -> bool:
    """Have the processors asked about the address of an ask, and the job `kind` carried out after that where somebody
    was found. False where none can be asked, or where it was asked too often.

    The look-ups are counted and not the asks, so nothing that somebody types can make a processor be hammered.
    """
    if asked.portal_id is None or asked.looked_at is not None or not _accounts(db, asked.portal_id):
        return False
    # One worker at a time counts a portal's look-ups; nobody who only points at the portal waits for it.
    whose = select(col(models.Portal.id)).where(col(models.Portal.id) == asked.portal_id)
    db.execute(whose.with_for_update(key_share=True))
    if _too_often(db, asked):
        return False
    asked.looked_at = now
    job = {
        "kind": "find_person",
        "payload": {"ask": asked.id, "then": [kind, payload]},
        "run_at": now,
        "within": asked.portal_id,
    }
    more = {"id": new_id(), "created_at": now, "attempts": 0, "dedupe": f"find_person:{asked.id}"}
    table = models.Job.__table__  # type: ignore[attr-defined]
    return sync.insert_once(db, table, {**job, **more})


def _too_often(db: Session, asked: models.LoginRequest) -> bool:
    row = models.LoginRequest
    looked = (col(row.portal_id) == asked.portal_id, col(row.looked_at).is_not(None))

    def many(span: timedelta, most: int, *more: Any, since: Any) -> bool:
        found = select(col(row.id)).where(*looked, *more, since > asked.created_at - span).limit(most)
        counted = select(func.count()).select_from(found.subquery())
        return db.execute(counted).scalar_one() >= most

    made, looked_at = col(row.created_at), col(row.looked_at)
    return (
        many(*PER_ADDRESS, col(row.email) == asked.email, since=made)
        or any(many(*one, col(row.network) == asked.network, since=made) for one in PER_NETWORK)
        or many(*PER_PORTAL, since=looked_at)
    )


def _accounts(db: Session, portal_id: int) -> list[models.Account]:
    """Those whose processor can be asked by e-mail."""
    row = models.Account
    found = db.execute(
        select(row)
        .where(col(row.portal_id) == portal_id, col(row.disconnected_at).is_(None))
        .order_by(col(row.id))
    ).scalars()
    return [one for one in found if by_email(one)]


def by_email(account: models.Account) -> bool:
    """Whether the facts say that this account finds anything by an address."""
    return any(
        entry.by_email and entry.variant in (None, account.variant)
        for entry in facts(account.processor).backfill
    )


@dataclass(frozen=True, slots=True)
class _Wanted:
    email: str
    looked_at: datetime
    accounts: tuple[models.Account, ...]


def _wanted(db: Session, ask_id: int, now: datetime) -> _Wanted | None:
    """What is still to be found out; None where the ask is over."""
    asked = db.get(models.LoginRequest, ask_id)
    if asked is None or asked.portal_id is None or asked.expires_at <= now or asked.looked_at is None:
        return None
    return _Wanted(asked.email, asked.looked_at, tuple(_accounts(db, asked.portal_id)))


async def look(
    database: Database, settings: Settings, vault: Vault, ask_id: int, write: Write
) -> tuple[bool, float | None]:
    """Ask all of a portal's processors at once, each for its own time, and write what they say. Whether anybody of that
    address is known now; else after how many seconds to ask once more, None for never."""
    wanted = await database.read(_wanted, ask_id, clock.now())
    if wanted is None:
        return False, None
    answers = await asyncio.gather(
        *(_at(database, settings, vault, one, wanted.email, write) for one in wanted.accounts)
    )
    if await database.read(_is_known, ask_id):
        return True, None
    waits = not all(answers) and clock.now() - wanted.looked_at < AGAIN_FOR
    return False, AGAIN_S if waits else None


async def _at(
    database: Database, settings: Settings, vault: Vault, account: models.Account, email: str, write: Write
) -> bool:
    """One account: each thing is written as it is fetched, so that what came in time is not lost with the rest. False
    where it did not answer all."""
    try:
        async with asyncio.timeout(LOOK_S):
            gateway = open_gateway(settings, vault, account)
            try:
                refs = await gateway.find(email)
                # Customers first: the rest is told by them whose it is.
                for ref in sorted(refs, key=lambda ref: ref.kind != "customer")[:MOST]:
                    snapshot = await _fetched(gateway, ref)
                    if snapshot is not None:
                        await database.write(write, account, snapshot)
            finally:
                await gateway.aclose()
    except Exception as error:  # whatever it is, the other accounts are not to suffer
        log.warning("not found out", account=account.id, error=type(error).__name__, at=places(error))
        return False
    return True


async def _fetched(gateway: Gateway, ref: Ref) -> Snapshot | None:
    try:
        return await gateway.fetch(ref)
    except (Gone, Unsupported):
        return None


def _is_known(db: Session, ask_id: int) -> bool:
    asked, row = db.get_one(models.LoginRequest, ask_id), models.Customer
    known = select(col(row.id)).where(col(row.portal_id) == asked.portal_id, col(row.email) == asked.email)
    return db.execute(known).first() is not None
