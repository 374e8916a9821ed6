"""Keeping accounts true: whatever webhooks get lost, what stands here becomes what the processors say.

Every few minutes an account is looked at: what is open or contradicted is asked about one by one, then the events that
the processor kept are compared with those that came, or its lists are read as far back as they are new. Every night all
that may still change is asked about, spread over the hours and slowly.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import Select, delete, func, literal_column, select, text, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, imports, models, sync, webhooks
from portal.connect import Disconnected, open_gateway
from portal.db import Database
from portal.faults import places
from portal.gateways import facts
from portal.gateways.base import Declined, Gateway, GatewayError, Gone, Pace, Ref, Snapshot, Unsupported
from portal.jobs import enqueue, once_more
from portal.settings import Settings
from portal.vault import Vault, VaultError

log = structlog.get_logger()

# Writes what a processor says (account, snapshot, whether it was asked about just that) and does what follows from it.
Take = Callable[[models.Account, Snapshot, bool], Awaitable[None]]

PAGES = 20  # of a list, in one turn of the job
ROWS = 100  # that are asked about in one look
AT_ONCE = 25  # rows that are read for it at a time
FRESH = timedelta(days=7)  # what has been open for longer, is left to the night
FIRST_LOOK = timedelta(days=3)  # so far back goes the first look
LATE = timedelta(minutes=10)  # an event that has not come for so long was lost
LONGEST_WAIT = timedelta(hours=1)  # after failures
NIGHT, NIGHT_LASTS = time(1, 0), timedelta(hours=4)  # of the portal's own time
NIGHTS_BEGIN = 3600  # seconds within which the accounts begin
QUICKEST_S, SLOWEST_S = 5.0, 300.0  # from one group of rows to the next at night
SUSPICIOUS = 5  # rows that are gone, all of a group: then the keys are rather those of another account

DOUBTFUL: dict[str, tuple[type[models._Mirrored], str]] = {
    "order_": (models.Order, "order"),
    "payment": (models.Payment, "payment"),
    "refund": (models.Refund, "refund"),
    "subscription": (models.Subscription, "subscription"),
}


# When


def want(db: Session, now: datetime) -> None:
    """Have looked at what is due; accounts that are new begin, those that were disconnected end."""
    state, account, site = models.SyncState, models.Account, models.Portal
    new = db.execute(
        select(account, col(site.time_zone))
        .join(site, col(site.id) == col(account.portal_id))
        .outerjoin(state, col(state.account_id) == col(account.id))
        .where(col(state.account_id).is_(None), col(account.disconnected_at).is_(None))
        .limit(100)
    ).all()
    for one, zone in new:
        _begin(db, one, zone, now)
    gone = select(col(account.id)).where(col(account.disconnected_at).is_not(None))
    db.execute(delete(state).where(col(state.next_at) <= now, col(state.account_id).in_(gone)))
    due = (
        select(state, account, col(site.time_zone))
        .join(account, col(account.id) == col(state.account_id))
        .join(site, col(site.id) == col(account.portal_id))
        .limit(200)
    )
    for row, one, _zone in db.execute(due.where(col(state.next_at) <= now)).all():
        once_more(db, "sync", {"account": one.id}, now, f"sync:{one.id}")
        row.next_at = now + _every(one)
    for row, one, zone in db.execute(due.where(col(state.night_at) <= now)).all():
        once_more(db, "night", {"account": one.id}, now, f"night:{one.id}")
        row.night_at = next_night(zone, one.id, now)


def _begin(db: Session, account: models.Account, zone: str, now: datetime) -> None:
    values = {
        "account_id": account.id,
        "portal_id": account.portal_id,
        "since": max(account.created_at, now - FIRST_LOOK),
        "next_at": now + _every(account),
        "night_at": next_night(zone, account.id, now),
        **dict.fromkeys(("failures", "missed", "night_left", "missing"), 0),
    }
    sync.insert_once(db, models.SyncState.__table__, values)  # type: ignore[attr-defined]


def _every(account: models.Account) -> timedelta:
    return timedelta(minutes=facts(account.processor).sync.minutes)


def next_night(zone: str, account_id: int, now: datetime) -> datetime:
    """When the next night begins for an account: at one, by the clock of its portal, and not for all at once."""
    here = ZoneInfo(zone)
    spread = timedelta(seconds=account_id % NIGHTS_BEGIN)
    day = now.astimezone(here).date()
    while True:
        begins = datetime.combine(day, NIGHT, here).astimezone(now.tzinfo) + spread
        if begins > now:
            return begins
        day += timedelta(days=1)


# A look


async def look(
    database: Database, settings: Settings, vault: Vault, account_id: int, take: Take
) -> float | None:
    """What has changed at a processor since the last look; in how many seconds it goes on, None when it is through."""
    account, state = await database.read(_state, account_id)
    if state is None:
        return None
    walk = state.walk or {
        "at": clock.now().isoformat(),
        "stage": "known",
        "cursor": None,
    }
    try:
        gateway = _gateway(settings, vault, account)
        try:
            again = await _Look(database, gateway, account, state, take, walk).go()
        finally:
            await gateway.aclose()
    except Disconnected:
        raise
    except Exception as error:
        await _failed(database, account_id, error)
        return None
    return again


def _gateway(settings: Settings, vault: Vault, account: models.Account) -> Gateway:
    gateway = open_gateway(settings, vault, account, patient=True)
    gateway.pace = Pace(imports.pace_of(account))
    return gateway


@dataclass(slots=True)
class _Look:
    """One look, in stages; `walk` says where it is, and is kept from turn to turn."""

    database: Database
    gateway: Gateway
    account: models.Account
    state: models.SyncState
    take: Take
    walk: dict[str, Any]

    async def go(self) -> float | None:
        if self.walk["stage"] == "known":
            await self._known()
            await self._on("events" if self._by == "events" else "lists")
        if self.walk["stage"] == "events":
            await self._on(await self._events())
        if self.walk["stage"] == "lists" and not await self._lists():
            return 1.0
        began = datetime.fromisoformat(self.walk["at"])
        done: dict[str, Any] = {"since": began, "looked_at": clock.now(), "walk": None}
        await self.database.write(save, self.account.id, failures=0, error=None, **done)
        return None

    @property
    def _by(self) -> str:
        return facts(self.account.processor).sync.by

    async def _on(self, stage: str, cursor: str | None = None) -> None:
        self.walk = {**self.walk, "stage": stage, "cursor": cursor}
        await self.database.write(save, self.account.id, walk=self.walk)

    async def _known(self) -> None:
        """What is open, or was contradicted; and where nothing else tells of it, all that goes on. In turns: a look
        begins where the last one ended."""
        after, left, wrapped = self.state.known, ROWS, False
        while left > 0:
            rows = await self.database.read(
                in_doubt, self.account.id, after, min(left, AT_ONCE), self._by == "poll", clock.now()
            )
            if not rows:
                if wrapped or after is None:
                    break
                after, wrapped = None, True
                continue
            left -= len(rows)
            after = [rows[-1][0], rows[-1][1].id]
            # Before they are asked about: one that always fails is not to hold up the others.
            await self.database.write(save, self.account.id, known=after)
            await ask_each(self.database, self.gateway, self.account, rows, self.take)

    async def _events(self) -> str:
        """Compare what the processor kept with what came; the stage that follows."""
        kept_for = timedelta(days=facts(self.account.processor).sync.keeps_days or 0)
        begins = max(self.state.since - self.gateway.overlap, clock.now() - kept_for + timedelta(hours=1))
        try:
            async for events in self.gateway.kept_events(begins):
                if events:
                    await self.database.write(keep, self.account, events, clock.now())
        except Unsupported as error:
            log.info("events can't be asked for", account=self.account.id, hint=error.hint)
            return "lists"
        return "lists" if self.state.since < clock.now() - kept_for else "done"

    async def _lists(self) -> bool:
        """Read lists as far back as they are new; whether that is all."""
        pages = 0
        async for page in self.gateway.recent(self.state.since, self.walk["cursor"]):
            await self.take(self.account, page.snapshot, False)
            pages += 1
            if page.cursor is None:
                break
            await self._on("lists", page.cursor)
            if pages >= PAGES:
                return False
        return True


def keep(db: Session, account: models.Account, events: Sequence[Any], now: datetime) -> int:
    """Store the events that never came, with their jobs; how many of them were lost, rather than on their way."""
    fresh = webhooks.keep(db, account, events, now)
    lost = [one for one in fresh if one.occurred_at is None or one.occurred_at < now - LATE]
    if lost:
        row = models.SyncState
        db.execute(
            update(row)
            .where(col(row.account_id) == account.id)
            .values(missed=row.missed + len(lost), missed_at=now)
        )
    return len(lost)


async def _failed(database: Database, account_id: int, error: Exception) -> None:
    """Note it, and look again after a while, each time a longer one. What is under way goes on there, unless it is that
    which does not work."""
    told = isinstance(error, GatewayError | VaultError)
    words = str(error) if told else type(error).__name__
    if not told:
        log.error("a look failed", account=account_id, error=words, at=places(error))
    await database.write(_note_failure, account_id, words[:500], clock.now())


def _note_failure(db: Session, account_id: int, words: str, now: datetime) -> None:
    row = db.get(models.SyncState, account_id)
    if row is None:
        return
    row.failures += 1
    row.error = words
    row.next_at = now + min(LONGEST_WAIT, timedelta(minutes=2**row.failures))
    if row.failures % 3 == 0:
        row.walk = None  # perhaps it is where it went on that leads nowhere


# What may still change


def in_doubt(
    db: Session, account_id: int, after: list[Any] | None, limit: int, everything: bool, now: datetime
) -> list[tuple[str, Any]]:
    """The next rows to be asked about, with their tables. Without `everything`: no subscriptions but those that were
    contradicted, and nothing old or missing."""
    found: list[tuple[str, Any]] = []
    names = list(DOUBTFUL)
    for name in names[names.index(after[0]) if after else 0 :]:
        begin = after[1] if after and after[0] == name else 0
        wanted = _doubtful(name, account_id, begin, limit - len(found), everything, now)
        found += [(name, row) for row in db.execute(wanted).scalars()]
        if len(found) >= limit:
            break
    return found


def _doubtful(
    name: str, account_id: int, after: int, limit: int, everything: bool, now: datetime
) -> Select[Any]:
    model = DOUBTFUL[name][0]
    wanted = (
        select(model)
        .where(col(model.account_id) == account_id, col(model.id) > after)
        .order_by(col(model.id))
        .limit(limit)
    )
    if everything:
        return wanted.where(text(f"({models.IN_DOUBT[name]})"))
    wanted = wanted.where(col(model.missing_at).is_(None))
    if name == "subscription":
        return wanted.where(text("doubted_at IS NOT NULL"))
    fresh = (col(model.placed_at) >= now - FRESH) | col(model.doubted_at).is_not(None)
    return wanted.where(text(f"({models.IN_DOUBT[name]})"), fresh)


def count_in_doubt(db: Session, account_id: int) -> int:
    counts = [
        select(func.count())
        .select_from(model)
        .where(literal_column("account_id") == account_id, text(f"({models.IN_DOUBT[name]})"))
        for name, (model, _kind) in DOUBTFUL.items()
    ]
    return sum(db.execute(count).scalar_one() for count in counts)


async def ask_each(
    database: Database,
    gateway: Gateway,
    account: models.Account,
    rows: Sequence[tuple[str, Any]],
    take: Take,
) -> int:
    """Ask about rows, one by one; how many the processor does not know any more. Those are marked, and stay."""
    gone, known = [], 0
    for name, row in rows:
        try:
            snapshot = await gateway.fetch(ref_of(name, row))
        except Gone:
            gone.append((name, row.id))
        except (Unsupported, Declined):
            continue  # nothing that can be asked about
        else:
            known += 1
            await take(account, snapshot, True)
    if len(gone) >= SUSPICIOUS and not known:
        raise Declined(
            "", "The processor knows nothing of what is here: are the keys those of another account?"
        )
    if gone:
        await database.write(mark_missing, gone, clock.now())
    return len(gone)


def ref_of(name: str, row: Any) -> Ref:
    """By what a processor finds a row of a table."""
    if isinstance(row, models.Subscription | models.Payment):
        return sync.ref_of(row)
    kind: Any = DOUBTFUL[name][1]
    return Ref(kind, row.remote_id)


def mark_missing(db: Session, gone: Sequence[tuple[str, int]], now: datetime) -> None:
    for name, row_id in gone:
        model = DOUBTFUL[name][0]
        db.execute(
            update(model)
            .where(col(model.id) == row_id)
            .values(missing_at=func.coalesce(col(model.missing_at), now), doubted_at=None)
        )


# The night


async def night(
    database: Database, settings: Settings, vault: Vault, account_id: int, take: Take
) -> float | None:
    """Ask about the next few of all that may still change; in how many seconds it goes on, None in the morning."""
    account, state = await database.read(_state, account_id)
    if state is None:
        return None
    now = clock.now()
    if state.night_until is None:
        state = await database.write(_night_falls, account_id, now)
    rows = await database.read(in_doubt, account_id, state.night, AT_ONCE, True, now)
    if not rows:
        await database.write(_morning, account_id, clock.now())
        return None
    try:
        gateway = _gateway(settings, vault, account)
        try:
            gone = await ask_each(database, gateway, account, rows, take)
        finally:
            await gateway.aclose()
    except Disconnected:
        raise
    except Exception as error:
        await _failed(database, account_id, error)
        return SLOWEST_S
    place = [rows[-1][0], rows[-1][1].id]
    left = max(0, state.night_left - len(rows))
    await database.write(save, account_id, night=place, night_left=left, missing=state.missing + gone)
    if len(rows) < AT_ONCE:
        await database.write(_morning, account_id, clock.now())
        return None
    return pause(state.night_until or now, left, clock.now())


def pause(until: datetime, left: int, now: datetime) -> float:
    """How long to rest before the next group of rows, so that the last one is asked about when the night ends."""
    groups = max(1, -(-left // AT_ONCE))
    return min(SLOWEST_S, max(QUICKEST_S, (until - now).total_seconds() / groups))


def _night_falls(db: Session, account_id: int, now: datetime) -> models.SyncState:
    row = db.get_one(models.SyncState, account_id)
    row.night, row.night_until, row.missing = None, now + NIGHT_LASTS, 0
    row.night_left = count_in_doubt(db, account_id)
    return row


def _morning(db: Session, account_id: int, now: datetime) -> None:
    """Everything was asked about; of what was begun and is not known to have worked, the actions are read back too."""
    save(db, account_id, night=None, night_until=None, night_left=0, night_done_at=now)
    row = models.Action
    open_ = db.execute(
        select(col(row.id)).where(
            col(row.closed_at).is_(None),
            col(row.account_id) == account_id,
            col(row.phase).in_(("claimed", "sent", "checking")),
        )
    ).scalars()
    for action_id in open_:
        enqueue(db, "read_back", {"action": action_id}, now, f"night:{now.date()}:{action_id}")


# Rows


def _state(db: Session, account_id: int) -> tuple[models.Account, models.SyncState | None]:
    return db.get_one(models.Account, account_id), db.get(models.SyncState, account_id)


def save(db: Session, /, account_id: int, **values: Any) -> None:
    row = models.SyncState
    db.execute(update(row).where(col(row.account_id) == account_id).values(**values))
