"""What is forgotten, and when: the merchant says how long, the worker's sweep does it in small batches, each portal by
its own days. Invoices, payments and the proofs of what customers did are never touched."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any

from sqlalchemy import and_, delete, exists, or_, select, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import models, walls
from portal.db import Database
from portal.intervals import add_months
from portal.policy import Privacy
from portal.policy_form import whole
from portal.texts import gettext as _

BATCH = 500
BATCHES = 20  # of one kind, of one portal, in one sweep; the rest waits for the next
BOUNDS = {"bodies_days": (1, 30), "browsers_months": (1, 60), "customers_months": (1, 120)}
_FOR_EVER = frozenset({"browsers_months", "customers_months"})  # may be left empty


# The form


def typed(privacy: Privacy) -> dict[str, str]:
    """What is kept, as the form shows it."""
    return {name: "" if (value := getattr(privacy, name)) is None else str(value) for name in BOUNDS}


def read(fields: Mapping[str, str]) -> tuple[dict[str, str], Privacy]:
    """What is wrong with what was typed, field by field, and what it comes to."""
    problems, values = {}, {}
    for name, (least, most) in BOUNDS.items():
        text = fields.get(name, "")
        values[name] = whole(text, least, most)
        if values[name] is None and (text or name not in _FOR_EVER):
            sentence = _("Enter a whole number from {least} to {most}.")
            if name in _FOR_EVER:
                sentence = _("Enter a whole number from {least} to {most}, or leave it empty.")
            problems[name] = sentence.format(least=least, most=most)
    if problems:
        return problems, Privacy()
    return {}, Privacy(values["bodies_days"] or 30, values["browsers_months"], values["customers_months"])


# The sweep


@dataclass(frozen=True, slots=True)
class Swept:
    """How many rows a sweep has emptied or taken away."""

    bodies: int = 0
    browsers: int = 0
    customers: int = 0


async def sweep(database: Database, now: datetime) -> Swept:
    """Forget what every portal wants forgotten."""
    bodies = browsers = customers = 0
    for portal_id, kept in await database.read(_sites):
        with walls.within(portal_id):
            found = await _sweep(database, portal_id, Privacy.of(kept), now)
        bodies, browsers = bodies + found.bodies, browsers + found.browsers
        customers += found.customers
    return Swept(bodies, browsers, customers)


async def _sweep(database: Database, portal_id: int, privacy: Privacy, now: datetime) -> Swept:
    bodies = browsers = customers = 0
    before = now - timedelta(days=privacy.bodies_days)
    for _batch in range(BATCHES):
        bodies += (count := await database.write(forget_bodies, portal_id, before))
        if count < BATCH:
            break
    if privacy.browsers_months is not None:
        before = months_ago(now, privacy.browsers_months)
        for _batch in range(BATCHES):
            browsers += (count := await database.write(forget_browsers, portal_id, before))
            if count < BATCH:
                break
    if privacy.customers_months is not None:
        before = months_ago(now, privacy.customers_months)
        for _batch in range(BATCHES):
            whole_round, count = await database.write(forget_customers, portal_id, before, now)
            customers += count
            if whole_round:
                break
    return Swept(bodies, browsers, customers)


def _sites(db: Session) -> list[tuple[int, dict[str, Any] | None]]:
    row = models.Portal
    found = db.execute(select(col(row.id), col(row.privacy)).order_by(col(row.id)))
    return [(one.id, one.privacy) for one in found]


def months_ago(now: datetime, months: int) -> datetime:
    return datetime.combine(add_months(now.astimezone(UTC).date(), -months), time.min, UTC)


def forget_bodies(db: Session, portal_id: int, before: datetime) -> int:
    """The bodies of old webhooks go, in the event and in its job; that they came stays. How many."""
    event, job = models.Event, models.Job
    ids = list(
        db.execute(
            select(col(event.id))
            .where(
                col(event.portal_id) == portal_id,
                col(event.received_at) < before,
                col(event.body).is_not(None),
            )
            .order_by(col(event.received_at))
            .limit(BATCH)
        ).scalars()
    )
    if ids:
        db.execute(update(event).where(col(event.id).in_(ids)).values(body=None))
        names = [f"event:{one}" for one in ids]
        for row in db.execute(select(job).where(col(job.dedupe).in_(names))).scalars():
            if row.payload.get("body"):
                row.payload = {**row.payload, "body": {}}
    return len(ids)


def forget_browsers(db: Session, portal_id: int, before: datetime) -> int:
    """Browsers in which nobody has signed in for long: the next time there counts as the first. How many."""
    row = models.Device
    never = and_(col(row.seen_at).is_(None), col(row.created_at) < before)  # noted before we noted this
    ids = list(
        db.execute(
            select(col(row.id))
            .where(col(row.portal_id) == portal_id, or_(col(row.seen_at) < before, never))
            .limit(BATCH)
        ).scalars()
    )
    if ids:
        db.execute(delete(row).where(col(row.id).in_(ids)))
    return len(ids)


# What goes with a customer; whatever else names them keeps them.
_GOES: tuple[Any, ...] = (
    models.Device,
    models.SignIn,
    models.Entry,
    models.CustomerKey,
    models.RemoteCustomer,
)


def keepers() -> list[Any]:
    """The tables of which one row is enough to keep a customer: every table that names one, but those that go along
    and the documents, which hang on payments. A table that is added later keeps them until it is said otherwise."""
    goes = {model.__table__.name for model in (*_GOES, models.Join, models.IssuedDocument)}
    return [
        table
        for table in models.metadata.sorted_tables
        if "customer_id" in table.c and "portal_id" in table.c and table.name not in goes
    ]


def bare_customers(portal_id: int, ids: list[int], before: datetime) -> Any:
    """Of these customers those who have nothing here, are older than that and have not signed in since."""
    row: Any = models.Customer.__table__  # type: ignore[attr-defined]
    join = models.Join
    has = [
        exists().where(table.c.portal_id == row.c.portal_id, table.c.customer_id == row.c.id)
        for table in keepers()
    ]
    joined = [
        exists().where(
            col(join.portal_id) == row.c.portal_id, end == row.c.id, col(join.proved_at).is_not(None)
        )
        for end in (col(join.from_id), col(join.into_id))
    ]
    return (
        select(row.c.id)
        .where(
            row.c.portal_id == portal_id,
            row.c.id.in_(ids),
            row.c.created_at < before,
            or_(row.c.seen_at.is_(None), row.c.seen_at < before),
            *(~one for one in (*has, *joined)),
        )
        .with_for_update(skip_locked=True, of=row)
    )


def forget_customers(db: Session, portal_id: int, before: datetime, now: datetime) -> tuple[bool, int]:
    """Look at the next customers in their order; those without anything go. Whether that was the last of them, and how
    many went."""
    row = models.Customer
    name = f"retention:{portal_id}"
    mark = db.get(models.Setting, name)
    after = int(mark.value) if mark is not None else 0
    ids = list(
        db.execute(
            select(col(row.id))
            .where(col(row.portal_id) == portal_id, col(row.id) > after)
            .order_by(col(row.id))
            .limit(BATCH)
        ).scalars()
    )
    bare = list(db.execute(bare_customers(portal_id, ids, before)).scalars()) if ids else []
    if bare:
        join = models.Join
        db.execute(
            delete(join).where(
                col(join.portal_id) == portal_id,
                or_(col(join.from_id).in_(bare), col(join.into_id).in_(bare)),
            )
        )
        for model in _GOES:
            db.execute(
                delete(model).where(col(model.portal_id) == portal_id, col(model.customer_id).in_(bare))
            )
        db.execute(delete(row).where(col(row.portal_id) == portal_id, col(row.id).in_(bare)))
    last = len(ids) < BATCH
    value = "0" if last else str(ids[-1])
    if mark is None:
        db.add(models.Setting(name=name, value=value, at=now))
    else:
        mark.value, mark.at = value, now
    return last, len(bare)
