"""What came in from the processors, and what of it could not be carried out: events with their bodies, the syncs that
failed, and carrying them out once more."""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import BigInteger, Select, bindparam, func, select, tuple_, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import merchants, models
from portal.db import beside
from portal.gateways import facts
from portal.merchants import Person, Refused
from portal.people import account_labels
from portal.queries import Cursor
from portal.texts import gettext as _

PAGE = 25
SHOWN = 64 * 1024  # of a body, on its page
BATCH = 500
State = Literal["all", "parked", "waiting", "refused", "handled"]
STATES: tuple[State, ...] = ("all", "parked", "waiting", "refused", "handled")
# Jobs that write what a processor says, beside those of events; by what their payload names we know whose they are.
SYNCS = frozenset(
    {
        "refresh",
        "backfill",
        "read_back",
        "finish_method",
        "scheduled_cancel",
        "look_at_order",
        "check_account",
    }
)
_SUBJECTS: dict[str, Any] = {
    "account": models.Account,
    "subscription": models.Subscription,
    "action": models.Action,
    "order": models.Order,
}


def portal_of_job(db: Session, kind: str, payload: dict[str, Any]) -> int | None:
    """Whose trouble it is when a job fails; None where it is not shown to any merchant as a sync."""
    if kind not in SYNCS:
        return None
    for name, model in _SUBJECTS.items():
        if name in payload and (row := db.get(model, payload[name])) is not None:
            found: int = row.portal_id
            return found
    return None


# The list


@dataclass(frozen=True, slots=True)
class EventRow:
    id: int
    account_id: int
    account: str
    label: str  # of the processor
    type: str
    state: str
    received_at: datetime
    error: str | None


@dataclass(frozen=True, slots=True)
class EventsPage:
    """`parked` stand above the rest, on the first page of all."""

    rows: tuple[EventRow, ...]
    older: str | None
    parked: tuple[EventRow, ...]
    how_many_parked: int


_event: Any = models.Event.__table__  # type: ignore[attr-defined]
_job: Any = models.Job.__table__  # type: ignore[attr-defined]
_LISTED = select(
    _event.c.id,
    _event.c.account_id,
    _event.c.type,
    _event.c.received_at,
    _event.c.handled_at,
    _event.c.parked_at,
    _event.c.error,
).limit(PAGE + 1)
_OF_STATE: dict[State, Any] = {
    "all": _event.c.parked_at.is_(None),
    "parked": _event.c.parked_at.is_not(None),
    "waiting": (_event.c.handled_at.is_(None)) & (_event.c.parked_at.is_(None)),
    "refused": (_event.c.handled_at.is_not(None)) & (_event.c.error.is_not(None)),
    "handled": (_event.c.handled_at.is_not(None)) & (_event.c.error.is_(None)),
}


def _by_id(state: State) -> Select[Any]:
    before = _event.c.id < bindparam("id", type_=BigInteger())
    mine = _event.c.portal_id == bindparam("portal")
    return _LISTED.where(mine, _OF_STATE[state], before).order_by(_event.c.id.desc())


def _of_account(state: State) -> Select[Any]:
    last = tuple_(bindparam("at", type_=models.Moment()), bindparam("id", type_=BigInteger()))
    return _LISTED.where(
        beside(_event.c.portal_id) == bindparam("portal"),
        _OF_STATE[state],
        _event.c.account_id == bindparam("account"),
        tuple_(_event.c.received_at, _event.c.id) < last,
    ).order_by(_event.c.received_at.desc(), _event.c.id.desc())


LISTS = {state: _by_id(state) for state in STATES}
# Of one account: the few parked, waiting and refused ones are picked out of their own index.
OF_ACCOUNT = {
    state: _of_account(state)
    if state in ("all", "handled")
    else LISTS[state].where(_event.c.account_id == bindparam("account"))
    for state in STATES
}
_NOW = Cursor(datetime.fromisoformat("9000-01-01T00:00:00+00:00"), 2**63 - 1)


def events(
    db: Session,
    portal_id: int,
    state: State = "all",
    account_id: int | None = None,
    after: Cursor | None = None,
) -> EventsPage:
    """One page of what came in, newest first."""
    labels = account_labels(db, portal_id)

    def read(which: State, place: Cursor) -> list[Any]:
        statement = (LISTS if account_id is None else OF_ACCOUNT)[which]
        values = {"portal": portal_id, "id": place.id, "at": place.placed_at, "account": account_id}
        wanted = statement.compile().params
        return list(db.execute(statement, {name: values[name] for name in values if name in wanted}))

    found = read(state, after or _NOW)
    parked = read("parked", _NOW) if state == "all" and after is None else []
    older = str(Cursor(found[PAGE - 1].received_at, found[PAGE - 1].id)) if len(found) > PAGE else None

    def shown(rows: list[Any]) -> tuple[EventRow, ...]:
        return tuple(
            EventRow(
                row.id,
                row.account_id,
                *labels[row.account_id],
                row.type,
                state_of(row),
                row.received_at,
                row.error,
            )
            for row in rows[:PAGE]
        )

    return EventsPage(shown(found), older, shown(parked), how_many_parked(db, portal_id, account_id))


def state_of(row: Any) -> str:
    """parked (set aside), waiting, refused (not believed), or handled."""
    if row.parked_at is not None:
        return "parked"
    if row.handled_at is None:
        return "waiting"
    return "refused" if row.error else "handled"


def how_many_parked(db: Session, portal_id: int, account_id: int | None = None) -> int:
    wanted = [_event.c.portal_id == portal_id, _event.c.parked_at.is_not(None)]
    if account_id is not None:
        wanted.append(_event.c.account_id == account_id)
    return db.execute(select(func.count()).select_from(_event).where(*wanted)).scalar_one()


@dataclass(frozen=True, slots=True)
class AccountRow:
    id: int
    label: str
    processor: str
    connected: bool


def accounts(db: Session, portal_id: int) -> list[AccountRow]:
    """The accounts of a portal, for choosing one."""
    row = models.Account
    found = db.execute(
        select(col(row.id), col(row.label), col(row.processor), col(row.disconnected_at))
        .where(col(row.portal_id) == portal_id)
        .order_by(col(row.label), col(row.id))
    )
    return [
        AccountRow(one.id, one.label, facts(one.processor).label, one.disconnected_at is None)
        for one in found
    ]


# One event


@dataclass(frozen=True, slots=True)
class Touched:
    """A row that an event led to: what it is, whose, and its status before and after."""

    kind: str
    id: int
    customer_id: int | None
    name: str
    before: str | None
    after: str


@dataclass(frozen=True, slots=True)
class EventPage:
    """An event with how it stands. `body` is text to be shown; `tries` and `next_at` of its job, where there is one."""

    row: models.Event
    account: str
    label: str
    state: str
    body: str | None
    is_cut: bool
    is_json: bool
    size: int
    touched: tuple[Touched, ...] | None
    tries: int
    next_at: datetime | None
    last_error: str | None
    can_replay: bool


def event_page(db: Session, portal_id: int, event_id: int) -> EventPage | None:
    row = one_event(db, portal_id, event_id)
    if row is None:
        return None
    job = _job_of(db, event_id)
    label, processor = account_labels(db, portal_id)[row.account_id]
    body, is_json = readable(row.body) if row.body is not None else (None, False)
    waits = job is not None and job.done_at is None and job.parked_at is None
    return EventPage(
        row=row,
        account=label,
        label=processor,
        state=state_of(row),
        body=body,
        is_cut=row.body is not None and len(row.body) > SHOWN,
        is_json=is_json,
        size=len(row.body or b""),
        touched=_touched(db, portal_id, row.changed) if row.changed is not None else None,
        tries=job.attempts if job else 0,
        next_at=job.run_at if job and waits else None,
        last_error=row.error or (job.error if job else None),
        can_replay=row.body is not None and job is not None,
    )


def one_event(db: Session, portal_id: int, event_id: int) -> models.Event | None:
    row = models.Event
    return db.execute(
        select(row).where(col(row.id) == event_id, col(row.portal_id) == portal_id)
    ).scalar_one_or_none()


def _job_of(db: Session, event_id: int, lock: bool = False) -> models.Job | None:
    statement = select(models.Job).where(col(models.Job.dedupe) == f"event:{event_id}")
    return db.execute(statement.with_for_update() if lock else statement).scalar_one_or_none()


def readable(body: bytes) -> tuple[str, bool]:
    """A body as text, at most SHOWN bytes of it; and whether it is JSON, which is set out then."""
    if len(body) <= SHOWN:
        try:
            return _harmless(json.dumps(json.loads(body), indent=2, ensure_ascii=False)), True
        except (ValueError, RecursionError):
            pass
    return _harmless(body[:SHOWN].decode("utf-8", "replace")), False


# What turns the direction of text around could make a body read as something it is not.
_TURNS = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f]")


def _harmless(text: str) -> str:
    kept = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
    return _TURNS.sub("\ufffd", kept)


_TABLES: dict[str, Any] = {
    "order_": models.Order,
    "subscription": models.Subscription,
    "payment": models.Payment,
    "refund": models.Refund,
    "invoice": models.Invoice,
    "remote_customer": models.RemoteCustomer,
}


def _touched(db: Session, portal_id: int, changed: list[dict[str, Any]]) -> tuple[Touched, ...]:
    rows: dict[tuple[str, int], Any] = {}
    for table, model in _TABLES.items():
        ids = [one["id"] for one in changed if one["table"] == table]
        if ids:
            found = db.execute(select(model).where(model.id.in_(ids), model.portal_id == portal_id)).scalars()
            rows |= {(table, row.id): row for row in found}
    out = []
    for one in changed:
        row = rows.get((one["table"], one["id"]))
        if row is None:
            continue
        named = (getattr(row, word, None) for word in ("number", "title", "name"))
        name = next((found for found in named if found), None) or row.remote_id
        kind = one["table"].rstrip("_")
        out.append(Touched(kind, row.id, row.customer_id, name, one["before"], one["after"]))
    return tuple(out)


_OURS = re.compile(r"[A-Za-z_]+(Error|Exception|NotFound|Failed|Found): ?")


def reason(error: str | None) -> str | None:
    """Why something was not carried out, as a sentence. What an adapter says of a processor is one already."""
    if not error:
        return None
    if _OURS.match(error):
        return _("The portal could not make sense of it. For who looks after it: {error}").format(error=error)
    return error


# Syncs that failed


@dataclass(frozen=True, slots=True)
class SyncRow:
    """A job that failed and is tried again, or is set aside. `about` names the account, and what it was about."""

    id: int
    kind: str
    account: str | None
    name: str | None
    customer_id: int | None
    tries: int
    parked: bool
    next_at: datetime
    error: str | None


@dataclass(frozen=True, slots=True)
class SyncsPage:
    rows: tuple[SyncRow, ...]
    older: int | None


TROUBLED = (
    select(_job)
    .where(
        _job.c.portal_id == bindparam("portal"),
        _job.c.done_at.is_(None),
        _job.c.id < bindparam("before", type_=BigInteger()),
    )
    .order_by(_job.c.id.desc())
    .limit(PAGE + 1)
)


def syncs(db: Session, portal_id: int, before: int | None = None) -> SyncsPage:
    """Syncs of a portal that failed and are not mended yet, newest first."""
    values = {"portal": portal_id, "before": 2**63 - 1 if before is None else before}
    found = db.execute(TROUBLED, values).all()
    labels = account_labels(db, portal_id)
    rows = tuple(_sync_row(db, row, labels) for row in found[:PAGE])
    return SyncsPage(rows, rows[-1].id if len(found) > PAGE else None)


def _sync_row(db: Session, row: Any, labels: dict[int, tuple[str, str]]) -> SyncRow:
    subject: Any = None
    for word, model in _SUBJECTS.items():
        if word in row.payload:
            subject = db.get(model, row.payload[word])
            break
    if isinstance(subject, models.Action):
        subject = db.get(models.Subscription, subject.subscription_id)
    account_id = subject.id if isinstance(subject, models.Account) else getattr(subject, "account_id", None)
    name = getattr(subject, "number", None) or getattr(subject, "title", None)
    return SyncRow(
        row.id,
        row.kind,
        labels[account_id][0] if account_id in labels else None,
        name,
        getattr(subject, "customer_id", None),
        row.attempts,
        row.parked_at is not None,
        row.run_at,
        row.error,
    )


# Once more


def replay(db: Session, person: Person, portal_id: int, event_id: int, now: datetime) -> None:
    """Carry an event out once more, now. LookupError, or Refused."""
    row = models.Event
    found = db.execute(
        select(row).where(col(row.id) == event_id, col(row.portal_id) == portal_id).with_for_update()
    ).scalar_one_or_none()
    if found is None:
        raise LookupError(event_id)
    job = _job_of(db, event_id, lock=True)
    if found.body is None or job is None:
        raise Refused(_("What it said is gone by now, so it can't be carried out again."))
    if db.get_one(models.Account, found.account_id).disconnected_at is not None:
        raise Refused(_("The account is disconnected, so nothing is asked there any more."))
    if job.done_at is None and job.locked_until is not None and job.locked_until > now:
        raise Refused(_("It is being carried out right now."))
    _wind_back(db, [job.id], now)
    found.handled_at = found.parked_at = found.error = found.changed = None
    merchants.audit(
        db, person, "event.replayed", subject=f"{found.type} {found.event_id}", portal_id=portal_id
    )


def replay_parked(
    db: Session, person: Person, portal_id: int, account_id: int, now: datetime, after: int = 0
) -> tuple[int, int | None]:
    """The same for what is set aside of an account, a batch at a time: how many, and after which id it goes on."""
    row = models.Event
    account = db.execute(
        select(models.Account).where(
            col(models.Account.id) == account_id, col(models.Account.portal_id) == portal_id
        )
    ).scalar_one_or_none()
    if account is None:
        raise LookupError(account_id)
    if account.disconnected_at is not None:
        raise Refused(_("The account is disconnected, so nothing is asked there any more."))
    ids = list(
        db.execute(
            select(col(row.id))
            .where(
                col(row.portal_id) == portal_id,
                col(row.account_id) == account_id,
                col(row.parked_at).is_not(None),
                col(row.body).is_not(None),
                col(row.id) > after,
            )
            .order_by(col(row.id))
            .limit(BATCH)
            .with_for_update()
        ).scalars()
    )
    jobs = {
        one.dedupe: one.id
        for one in db.execute(
            select(col(models.Job.id), col(models.Job.dedupe)).where(
                col(models.Job.dedupe).in_([f"event:{one}" for one in ids])
            )
        )
    }
    again = [one for one in ids if f"event:{one}" in jobs]
    _wind_back(db, list(jobs.values()), now)
    db.execute(update(row).where(col(row.id).in_(again)).values(handled_at=None, parked_at=None, error=None))
    if again:
        merchants.audit(
            db,
            person,
            "events.replayed",
            subject=account.label,
            after={"count": len(again)},
            portal_id=portal_id,
        )
    return len(again), ids[-1] if len(ids) == BATCH else None


def retry_sync(db: Session, person: Person, portal_id: int, job_id: int, now: datetime) -> None:
    """Try a failed sync again, now. LookupError, or Refused."""
    row = models.Job
    found = db.execute(
        select(row)
        .where(col(row.id) == job_id, col(row.portal_id) == portal_id, col(row.done_at).is_(None))
        .with_for_update()
    ).scalar_one_or_none()
    if found is None:
        raise LookupError(job_id)
    if found.locked_until is not None and found.locked_until > now:
        raise Refused(_("It is being carried out right now."))
    _wind_back(db, [job_id], now)
    merchants.audit(db, person, "sync.retried", subject=found.kind, portal_id=portal_id)


def _wind_back(db: Session, job_ids: list[int], now: datetime) -> None:
    row = models.Job
    db.execute(
        update(row)
        .where(col(row.id).in_(job_ids))
        .values(
            run_at=now,
            attempts=0,
            locked_until=None,
            locked_by=None,
            deaths=None,
            done_at=None,
            parked_at=None,
            error=None,
        )
    )
