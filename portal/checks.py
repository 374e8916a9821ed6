"""*I have paid, check again*: a customer has the processor asked about what is open, as often as makes sense."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, imports, keeping, models
from portal.connect import open_gateway
from portal.db import Database
from portal.gateways.base import Pace
from portal.jobs import enqueue
from portal.settings import Settings
from portal.vault import Vault

SHORTEST = timedelta(minutes=1)  # from one check of the same thing to the next
A_DAY = 10  # checks of one customer
OPEN: dict[str, tuple[str, ...]] = {"order_": ("open",), "payment": ("pending", "authorized")}

State = Literal["checking", "asked", "unanswered"]


@dataclass(frozen=True, slots=True)
class Check:
    """How the last check of today stands, and whether there may be another one now; `spent`: not today."""

    state: State | None
    at: datetime | None
    again: bool
    spent: bool


def of_rows(db: Session, customer_id: int, row_ids: Iterable[int], now: datetime) -> dict[int, Check]:
    """The checks of some of a customer's orders or payments."""
    jobs = _today(db, customer_id, now)
    return {row_id: _check(row_id, jobs, now) for row_id in row_ids}


def _today(db: Session, customer_id: int, now: datetime) -> Sequence[models.Job]:
    row = models.Job
    return db.execute(select(row).where(col(row.dedupe).in_(_places(customer_id, now)))).scalars().all()


def _places(customer_id: int, now: datetime) -> list[str]:
    """A customer has so many places in the queue each day; who takes one has it by a unique key."""
    return [f"check:{customer_id}:{now.date()}:{number}" for number in range(A_DAY)]


def _check(row_id: int, jobs: Sequence[models.Job], now: datetime) -> Check:
    spent = len(jobs) >= A_DAY
    mine = [job for job in jobs if job.payload["row"] == row_id]
    if not mine:
        return Check(None, None, not spent, spent)
    last = max(mine, key=lambda job: job.created_at)
    state: State = "asked"
    if last.done_at is None:
        state = "unanswered" if last.error else "checking"
    again = state == "asked" and not spent and now - last.created_at >= SHORTEST
    return Check(state, last.done_at or last.created_at, again, spent)


def want(db: Session, portal_id: int, customer_id: int, name: str, row_id: int, now: datetime) -> bool | None:
    """Have something that is open asked about; False where it is not, or not so soon again, None where the customer has
    no such thing."""
    model: Any = keeping.DOUBTFUL[name][0]
    found = db.execute(
        select(model).where(
            col(model.portal_id) == portal_id, col(model.customer_id) == customer_id, col(model.id) == row_id
        )
    ).scalar_one_or_none()
    if found is None:
        return None
    jobs = _today(db, customer_id, now)
    if found.status not in OPEN[name] or not _check(row_id, jobs, now).again:
        return False
    taken = {job.dedupe for job in jobs}
    free = next(place for place in _places(customer_id, now) if place not in taken)
    enqueue(db, "check", {"table": name, "row": row_id, "account": found.account_id}, now, free)
    return True


async def look(
    database: Database, settings: Settings, vault: Vault, payload: dict[str, Any], take: keeping.Take
) -> None:
    """The job: ask about one thing; of an order, also about its payments that are open."""
    account, rows = await database.read(_rows, payload["table"], payload["row"])
    if not rows:
        return
    gateway = open_gateway(settings, vault, account, patient=True)
    gateway.pace = Pace(imports.pace_of(account))
    try:
        await keeping.ask_each(database, gateway, account, rows, take)
    finally:
        await gateway.aclose()


def _rows(db: Session, name: str, row_id: int) -> tuple[models.Account, list[tuple[str, Any]]]:
    row: Any = db.get_one(keeping.DOUBTFUL[name][0], row_id)
    rows = [(name, row)] if row.status in OPEN[name] else []
    if rows and isinstance(row, models.Order):
        payment = models.Payment
        theirs = select(payment).where(
            col(payment.account_id) == row.account_id,
            col(payment.order_remote) == row.remote_id,
            col(payment.status).in_(OPEN["payment"]),
        )
        rows += [("payment", one) for one in db.execute(theirs.limit(5)).scalars()]
    return db.get_one(models.Account, row.account_id), rows


def now_of(db: Session, customer_id: int, row_id: int) -> Check:
    """The check of one thing as it stands now."""
    return of_rows(db, customer_id, [row_id], clock.now())[row_id]
