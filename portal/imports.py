"""Reading in everything that a processor lists: one run for an account at a time, page by page. With each page goes
down where the next one begins, so that a run may be stopped, killed and begun again at any moment."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import or_, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, models, sync
from portal.connect import Disconnected, open_gateway
from portal.connect import simulator as stand_in
from portal.db import Database
from portal.gateways import facts, wire
from portal.gateways.base import Gateway, GatewayError, Pace, Page, Record, Snapshot, Unavailable, Unreadable
from portal.gateways.capabilities import BackfillFact
from portal.ids import new_id
from portal.jobs import enqueue
from portal.settings import Settings
from portal.texts import gettext as _
from portal.vault import Vault, VaultError

SLICE_S = 20.0  # of one turn of the job
LEASE = timedelta(seconds=30)
BEAT_S = 8.0
BUSY_S = 3.0  # until somebody who found the run taken looks again
MOST_FAILURES = 12  # in a row without an answer: more than an hour
MOST_REFUSALS = 4  # in a row: no, or nothing that makes sense
REASONS = 20  # that are kept
SAME_PAGES = 8  # with the very same objects, one after the other
REMEMBERED = 16  # of the last cursors

Follow = Callable[[Session, models.Account, list[sync.Change], datetime], None]
Told = Callable[[models.ImportRun], None]


class Taken(Exception):
    """Somebody else reads this account in by now."""


# The run


def newest(db: Session, account_id: int) -> models.ImportRun | None:
    """The last run of an account, whatever became of it."""
    row = models.ImportRun
    return db.execute(
        select(row).where(col(row.account_id) == account_id).order_by(col(row.id).desc()).limit(1)
    ).scalar_one_or_none()


def get(db: Session, run_id: int) -> models.ImportRun:
    return db.get_one(models.ImportRun, run_id, populate_existing=True)


def start(
    db: Session, account: models.Account, now: datetime, asked_by: str | None, anew: bool = False
) -> models.ImportRun:
    """Want everything of an account: a run that was stopped or has failed goes on where it was, unless `anew`; one that
    is under way is the one that is wanted."""
    run = newest(db, account.id)
    if run is not None:
        db.refresh(run, with_for_update=True)
    if run is not None and run.state in ("waiting", "running"):
        run.stop_wanted = False
        _want(db, run, now)
        return run
    if run is not None and _goes_on(run) and not anew:
        _wake(run, now)
    elif run is not None and run.state == "stopped":  # from the beginning
        _wake(run, now)
        run.cursor, run.trail, run.reasons = None, {}, []
        run.pages = run.objects = run.skipped = 0
        run.seconds, run.started_at = 0.0, None
    else:
        run = _made(db, account, now, asked_by)
    _want(db, run, now)
    return run


def _goes_on(run: models.ImportRun) -> bool:
    """Whether it can be taken up where it was; a list without an end cannot."""
    return run.state == "stopped" or (run.state == "failed" and (run.cursor is not None or not run.pages))


def _wake(run: models.ImportRun, now: datetime) -> None:
    run.state, run.stop_wanted, run.error, run.failures = "waiting", False, None, 0
    run.finished_at = run.retry_at = run.holder = run.lease_until = None
    run.updated_at = now


def _made(db: Session, account: models.Account, now: datetime, asked_by: str | None) -> models.ImportRun:
    """A new run, or the one that somebody else has just made."""
    row = models.ImportRun
    last = db.execute(
        select(col(row.objects))
        .where(col(row.account_id) == account.id, col(row.state) == "done")
        .order_by(col(row.id).desc())
        .limit(1)
    ).scalar_one_or_none()
    values = {
        "id": new_id(),
        "portal_id": account.portal_id,
        "account_id": account.id,
        "state": "waiting",
        "pages": 0,
        "objects": 0,
        "skipped": 0,
        "reasons": [],
        "total": last or None,
        "seconds": 0.0,
        "failures": 0,
        "trail": {},
        "stop_wanted": False,
        "asked_by": asked_by,
        "created_at": now,
        "updated_at": now,
    }
    sync.insert_once(db, row.__table__, values)  # type: ignore[attr-defined]
    return db.execute(
        select(row).where(col(row.account_id) == account.id, col(row.finished_at).is_(None))
    ).scalar_one()


def _want(db: Session, run: models.ImportRun, now: datetime) -> None:
    enqueue(db, "backfill", {"account": run.account_id, "run": run.id}, now, None)


def of_job(db: Session, payload: Mapping[str, Any], now: datetime) -> int:
    """The run that a job is for. A job of before there were runs goes on where it was."""
    if "run" in payload:
        return int(payload["run"])
    account = db.get_one(models.Account, payload["account"])
    run = newest(db, account.id)
    if run is None or run.finished_at is not None:
        run = _made(db, account, now, None)
    if (kept := db.get(models.Setting, f"backfill:{account.id}")) is not None:
        run.cursor = run.cursor or kept.value
        db.delete(kept)
    return run.id


def stop(db: Session, account_id: int, now: datetime) -> models.ImportRun | None:
    """End a run after the page in hand; at once where nobody reads. None where there is nothing to stop."""
    run = newest(db, account_id)
    if run is None:
        return None
    db.refresh(run, with_for_update=True)
    if run.state not in ("waiting", "running"):
        return None
    run.updated_at = now
    if run.lease_until is not None and run.lease_until > now:
        run.stop_wanted = True
    else:
        _stopped(run)
    return run


def _stopped(run: models.ImportRun) -> None:
    run.state, run.stop_wanted = "stopped", False
    run.holder = run.lease_until = run.retry_at = None


def let_go(db: Session, account_id: int, now: datetime) -> None:
    """The account was disconnected: nothing is read any more."""
    run = newest(db, account_id)
    if run is not None and run.finished_at is None:
        _failed(run, _("The account is disconnected."), now)


def _failed(run: models.ImportRun, sentence: str, now: datetime) -> None:
    run.state, run.error, run.finished_at, run.updated_at = "failed", sentence[:500], now, now
    run.stop_wanted, run.holder, run.lease_until, run.retry_at = False, None, None, None


# Who reads


def take(db: Session, run_id: int, holder: str, now: datetime) -> models.ImportRun | None:
    """The run, for `holder` alone until its lease is over; None while it is somebody else's."""
    row = models.ImportRun
    free = or_(
        col(row.holder).is_(None),
        col(row.holder) == holder,
        col(row.lease_until).is_(None),
        col(row.lease_until) <= now,
    )
    taken = db.execute(
        update(row)
        .where(col(row.id) == run_id, col(row.state).in_(("waiting", "running")), free)
        .values(holder=holder, lease_until=now + LEASE)
        .returning(col(row.id))
    ).first()
    run = get(db, run_id)
    if taken is None:
        return None if run.state in ("waiting", "running") else run
    if run.stop_wanted:
        _stopped(run)
        return run
    run.state, run.started_at, run.retry_at = "running", run.started_at or now, None
    return run


def beat(db: Session, run_id: int, holder: str, now: datetime) -> None:
    """It is still being read: a page may take long."""
    row = models.ImportRun
    db.execute(
        update(row)
        .where(col(row.id) == run_id, col(row.holder) == holder, col(row.state) == "running")
        .values(lease_until=now + LEASE)
    )


def release(db: Session, run_id: int, holder: str) -> None:
    row = models.ImportRun
    db.execute(
        update(row)
        .where(col(row.id) == run_id, col(row.holder) == holder)
        .values(holder=None, lease_until=None)
    )


def _held(db: Session, run_id: int, holder: str, now: datetime) -> models.ImportRun:
    """The run under its lock; Taken where it is not ours any more."""
    row = models.ImportRun
    ours = db.execute(
        update(row)
        .where(col(row.id) == run_id, col(row.holder) == holder, col(row.state) == "running")
        .values(lease_until=now + LEASE, updated_at=now)
        .returning(col(row.id))
    ).first()
    if ours is None:
        raise Taken
    return get(db, run_id)


# One page


def write_page(
    db: Session,
    run_id: int,
    holder: str,
    page: Page,
    refused: Sequence[wire.Refused],
    seconds: float,
    follow: Follow,
    now: datetime,
) -> models.ImportRun:
    """A page and where the next one begins, in one transaction."""
    run = _held(db, run_id, holder, now)
    account = db.get_one(models.Account, run.account_id)
    if account.disconnected_at is not None:
        raise Disconnected
    snapshot, bad = _with_ids(page.snapshot)
    changes, unfit = _applied(db, account, snapshot)
    db.flush()
    follow(db, account, changes, now)
    run.pages += 1
    run.objects += len({(change.table, change.id) for change in changes})
    run.seconds += seconds
    run.failures, run.error = 0, None
    if run.total is not None and run.objects > run.total:
        run.total = None  # there is more than the last time
    _note(run, [*refused, *bad, *unfit])
    if page.cursor is None:
        run.cursor, run.state, run.finished_at, run.stop_wanted = None, "done", now, False
        run.total, run.holder, run.lease_until = None, None, None
    elif circle := _circle(run, page):
        run.cursor, run.trail = None, {}
        _failed(run, circle, now)
    else:
        run.cursor = page.cursor
        if run.stop_wanted:
            _stopped(run)
    return run


def _note(run: models.ImportRun, refused: Sequence[wire.Refused]) -> None:
    run.skipped += len(refused)
    if refused and len(run.reasons) < REASONS:
        told = [{"what": one.what, "id": one.id, "why": one.why[:200]} for one in refused]
        run.reasons = [*run.reasons, *told][:REASONS]


def _with_ids(snapshot: Snapshot) -> tuple[Snapshot, list[wire.Refused]]:
    """Without records that cannot be told from others."""
    kinds = _records(snapshot)
    nameless = [kind for kind, records in kinds.items() for one in records if not one.remote_id]
    if not nameless:
        return snapshot, []
    kept: dict[str, Any] = {
        kind: tuple(one for one in records if one.remote_id) for kind, records in kinds.items()
    }
    return Snapshot(as_of=snapshot.as_of, **kept), [
        wire.Refused(kind, "", _("It has no id.")) for kind in nameless
    ]


def _applied(
    db: Session, account: models.Account, snapshot: Snapshot
) -> tuple[list[sync.Change], list[wire.Refused]]:
    """The page at once; where the database refuses something in it, object by object, without that one."""
    try:
        with db.begin_nested():
            changes = sync.apply(db, account, snapshot, fetched=False)
            db.flush()
        return changes, []
    except _UNFIT as error:
        if not _is_about_a_value(error):
            raise
    found: list[sync.Change] = []
    refused: list[wire.Refused] = []
    for what, records in _records(snapshot).items():
        for record in records:
            alone: dict[str, Any] = {what: (record,)}
            try:
                with db.begin_nested():
                    told = Snapshot(as_of=snapshot.as_of, **alone)
                    changes = sync.apply(db, account, told, fetched=False)
                    db.flush()
            except _UNFIT as error:
                if not _is_about_a_value(error):
                    raise
                why = _("The database refuses one of its values.")
                refused.append(wire.Refused(what, str(record.remote_id)[:100], why))
            else:
                found += changes
    return found, refused


_UNFIT = (AttributeError, OverflowError, TypeError, ValueError, DBAPIError)


def _is_about_a_value(error: Exception) -> bool:
    """Whether something that we wrote does not fit, and not the connection or a lock."""
    if not isinstance(error, DBAPIError):
        return True
    words = {kind.__name__ for kind in type(error.orig).__mro__}
    fit = {"DataError", "IntegrityError", "InterfaceError", "ProgrammingError"}
    return bool(words & fit) and not error.connection_invalidated


def _records(snapshot: Snapshot) -> dict[str, tuple[Record, ...]]:
    kinds = ("customers", "subscriptions", "orders", "payments", "refunds", "invoices")
    return {kind: getattr(snapshot, kind) for kind in kinds}


def _circle(run: models.ImportRun, page: Page) -> str:
    """A sentence where a list leads back to where it was, or goes on and on with the same objects.

    The last cursors are remembered, and one of long ago that moves up at doubling distances: so every circle is found
    in the end, with little to remember.
    """
    assert page.cursor is not None
    here = wire.digest(page.cursor)
    content = wire.digest(json.dumps(sorted(_named(page.snapshot)))) if any(_named(page.snapshot)) else ""
    trail = dict(run.trail)
    last: list[str] = trail.get("last", [])
    if here in last or here == trail.get("mark") or page.cursor == run.cursor:
        return _(
            "The processor's list leads back to a page that was read before, so it has no end. Nothing that was read "
            "is lost."
        )
    same = trail.get("same", 0) + 1 if content and content == trail.get("content") else 0
    if same >= SAME_PAGES:
        return _(
            "The processor's list repeats the same objects page after page. Nothing that was read is lost."
        )
    trail |= {"last": [*last, here][-REMEMBERED:], "content": content, "same": same}
    if run.pages & (run.pages - 1) == 0:
        trail["mark"] = here
    run.trail = trail
    return ""


def _named(snapshot: Snapshot) -> list[str]:
    return [f"{kind} {one.remote_id}" for kind, records in _records(snapshot).items() for one in records]


def failed(
    db: Session, run_id: int, holder: str, sentence: str, wait: float | None, most: int, now: datetime
) -> models.ImportRun:
    """No page came. After so many times in a row the run ends and the merchant is told; else `wait` (None: longer each
    time) seconds go by first."""
    run = _held(db, run_id, holder, now)
    run.failures += 1
    run.error = sentence[:500]
    if run.failures >= most:
        _failed(run, sentence, now)
        _tell(db, run, now)
        return run
    pause = max(wait or 0.0, float(min(3600, 2**run.failures)))
    run.retry_at, run.holder, run.lease_until = now + timedelta(seconds=pause), None, None
    if run.stop_wanted:
        _stopped(run)
    return run


def _tell(db: Session, run: models.ImportRun, now: datetime) -> None:
    account = db.get_one(models.Account, run.account_id)
    text = _("Reading in “{name}” has stopped: {why} It goes on from there once you press Go on in Settings.")
    payload = {
        "template": "merchant_notice",
        "account": account.id,
        "text": text.format(name=account.label, why=run.error or ""),
    }
    enqueue(db, "mail", payload, now, f"merchant_notice:import:{run.id}:{run.pages}")


# Reading


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of a turn: `more` at once, `busy` (somebody else reads), `wait` so many seconds, or the end."""

    came: Literal["more", "busy", "wait", "done", "stopped", "failed"]
    seconds: float = 0.0


@dataclass(slots=True)
class _Open:
    """A walk through a processor's lists that is in the middle. What it has learnt on its way is not learnt again."""

    gateway: Gateway
    pages: AsyncIterator[Page]
    cursor: str | None
    used: float

    async def aclose(self) -> None:
        with contextlib.suppress(Exception):
            await self.pages.aclose()  # type: ignore[attr-defined]
        await self.gateway.aclose()


class Importer:
    """Carries runs on, turn by turn; one per process. Walks stay open between the turns of one run."""

    def __init__(
        self, settings: Settings, database: Database, vault: Vault, follow: Follow, slice_s: float = SLICE_S
    ) -> None:
        self.settings = settings
        self.database = database
        self.vault = vault
        self.follow = follow
        self.slice_s = slice_s
        self.holder = secrets.token_hex(8)
        self.leaving = False  # the process is about to end: after the page in hand
        self._open: dict[int, _Open] = {}
        self._busy: set[int] = set()

    async def aclose(self) -> None:
        """Let go of all runs, so that another process need not wait for the end of their leases."""
        for run_id in list(self._open):
            await self._close(run_id)
            with contextlib.suppress(DBAPIError):
                await self.database.write(release, run_id, self.holder)

    async def turn(self, run_id: int, told: Told | None = None) -> Turn:
        """Read pages for a while. Raises Disconnected where the account is, which ends the run."""
        if run_id in self._busy:
            return Turn("busy", BUSY_S)
        self._busy.add(run_id)
        beats = None
        try:
            run = await self.database.write(take, run_id, self.holder, clock.now())
            if run is None:
                await self._close(run_id)
                return Turn("busy", BUSY_S)
            if run.state != "running":
                await self._close(run_id)
                return Turn(run.state)  # type: ignore[arg-type]
            beats = asyncio.create_task(self._beat(run_id))
            return await self._read(run, told)
        except Taken:
            await self._close(run_id)
            return Turn("busy", BUSY_S)
        except Disconnected:
            await self._close(run_id)
            await self.database.write(_let_go_of, run_id, clock.now())
            raise
        except BaseException:  # the walk may be a page ahead of what is written
            await self._close(run_id)
            raise
        finally:
            self._busy.discard(run_id)
            if beats is not None:
                beats.cancel()
                await asyncio.gather(beats, return_exceptions=True)
            await self._forget_old()

    async def _beat(self, run_id: int) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            with contextlib.suppress(DBAPIError):
                await self.database.write(beat, run_id, self.holder, clock.now())

    async def _read(self, run: models.ImportRun, told: Told | None) -> Turn:
        begun = mark = time.monotonic()
        try:
            walk = await self._walk(run)
        except VaultError:
            sentence = _("The keys can't be opened: put the key of before back into PORTAL_MASTER_KEYS.")
            return await self._failed(run, sentence, None, 1, told)
        while True:
            try:
                with wire.forgiving(again=run.failures > 0) as refused:
                    page = await anext(walk.pages, None)
            except Unavailable as error:
                reads = isinstance(error, Unreadable)
                sentence = self._clean(walk, error.hint or error.customer)
                most = MOST_REFUSALS if reads else MOST_FAILURES
                return await self._failed(run, sentence, error.retry_after, most, told)
            except GatewayError as error:
                sentence = self._clean(walk, error.hint or error.customer)
                return await self._failed(run, sentence, None, MOST_REFUSALS, told)
            except wire.SENSELESS as error:
                sentence = _("The processor's answer makes no sense to the portal ({fault}).")
                fault = type(error).__name__
                return await self._failed(run, sentence.format(fault=fault), None, MOST_REFUSALS, told)
            if page is None:  # it lists nothing
                page = Page(Snapshot(as_of=clock.now()), None)
            took, mark = time.monotonic() - mark, time.monotonic()
            run = await self.database.write(
                write_page, run.id, self.holder, page, refused, took, self.follow, clock.now()
            )
            walk.cursor, walk.used = page.cursor, time.monotonic()
            if told is not None:
                told(run)
            if run.state != "running":
                await self._close(run.id)
                return Turn(run.state)  # type: ignore[arg-type]
            if self.leaving or time.monotonic() - begun >= self.slice_s:
                return Turn("more")

    async def _failed(
        self, run: models.ImportRun, sentence: str, wait: float | None, most: int, told: Told | None
    ) -> Turn:
        await self._close(run.id)
        run = await self.database.write(failed, run.id, self.holder, sentence, wait, most, clock.now())
        if told is not None:
            told(run)
        if run.state != "running":
            return Turn(run.state)  # type: ignore[arg-type]
        assert run.retry_at is not None
        return Turn("wait", max(0.0, (run.retry_at - clock.now()).total_seconds()))

    async def _walk(self, run: models.ImportRun) -> _Open:
        known = self._open.get(run.id)
        if known is not None and known.cursor == run.cursor:
            return known
        await self._close(run.id)
        account = await self.database.read(_account, run.account_id)
        gateway = open_gateway(self.settings, self.vault, account, patient=True)
        if stand_in(self.settings, account.processor) is None:
            gateway.pace = Pace(pace_of(account))
        opened = _Open(gateway, gateway.backfill(run.cursor), run.cursor, time.monotonic())
        self._open[run.id] = opened
        return opened

    async def _close(self, run_id: int) -> None:
        known = self._open.pop(run_id, None)
        if known is not None:
            await known.aclose()

    async def _forget_old(self) -> None:
        """Walks that somebody else goes on with by now."""
        old = time.monotonic() - 2 * LEASE.total_seconds()
        for run_id, one in list(self._open.items()):
            if one.used < old and run_id not in self._busy:
                await self._close(run_id)

    @staticmethod
    def _clean(walk: _Open, sentence: str) -> str:
        """A processor's words without anything that we gave it."""
        for value in sorted(walk.gateway.credentials.values(), key=len, reverse=True):
            if len(value) >= 8:
                sentence = sentence.replace(value, "••••")
        return sentence


def _account(db: Session, account_id: int) -> models.Account:
    return db.get_one(models.Account, account_id)


def _let_go_of(db: Session, run_id: int, now: datetime) -> None:
    run = get(db, run_id)
    if run.finished_at is None:
        _failed(run, _("The account is disconnected."), now)


# How fast


OURS = 10.0  # calls a second where the processor names no limit
SHARE = 0.5  # of the limit: the rest is for what customers and webhooks ask meanwhile


def pace_of(account: models.Account) -> float:
    """Calls a second for reading everything in."""
    limit = facts(account.processor).limit
    if limit is None:
        return OURS
    calls = limit.calls if account.live or limit.test_calls is None else limit.test_calls
    return min(OURS * 5, SHARE * calls / limit.seconds)


# In words


@dataclass(frozen=True, slots=True)
class Progress:
    """A run as page and terminal tell it."""

    state: str
    tone: str
    word: str
    sentence: str
    pages: int
    objects: int
    skipped: int
    reasons: tuple[Mapping[str, str], ...]
    total: int | None
    percent: int | None
    rate: float | None  # objects a second
    left_s: float | None
    at: datetime | None  # it ended or was stopped, or this was the last page
    goes_on: bool  # whether pressing a button takes it up where it was
    under_way: bool


def progress(run: models.ImportRun | None, now: datetime) -> Progress | None:
    """How far a run is; None where there was none."""
    if run is None:
        return None
    rate = run.objects / run.seconds if run.seconds > 0 and run.objects else None
    total = run.total if run.total and run.total >= run.objects else None
    left = (total - run.objects) / rate if total and rate else None
    stale = run.lease_until is not None and run.lease_until <= now
    tone, word, sentence = _words(run, now, stale)
    return Progress(
        run.state,
        tone,
        word,
        sentence,
        run.pages,
        run.objects,
        run.skipped,
        tuple(run.reasons),
        total,
        min(99, run.objects * 100 // total) if total else None,
        rate,
        left,
        run.finished_at or (run.updated_at if run.pages else None),
        _goes_on(run) and bool(run.pages),
        run.state in ("waiting", "running"),
    )


def _words(run: models.ImportRun, now: datetime, stale: bool) -> tuple[str, str, str]:
    if run.state == "done":
        return "ok", _("Done"), _("Everything that the processor lists has been read in.")
    if run.state == "stopped":
        sentence = _("Stopped. What was read in stays; it goes on from there.")
        return "off", _("Stopped"), sentence if run.cursor else _("Stopped before the first page.")
    if run.state == "failed":
        return "bad", _("Broken off"), run.error or ""
    if run.stop_wanted:
        return "info", _("Stopping"), _("It stops after the page in hand.")
    if run.retry_at is not None and run.retry_at > now:
        sentence = _("Waiting until the processor may be asked again. {why}")
        return "warn", _("Waiting"), sentence.format(why=run.error or "").strip()
    if run.state == "waiting":
        return "info", _("Waiting"), _("It begins as soon as the worker is free.")
    if stale:
        sentence = _("It goes on from the last page as soon as the worker is back.")
        return "warn", _("Interrupted"), sentence
    return "info", _("Under way"), _("What is found shows up at once.")


def duration(seconds: float) -> str:
    """A time to wait, roughly."""
    if seconds < 90:
        return _("about {n} seconds").format(n=max(5, round(seconds / 5) * 5))
    if seconds < 5400:
        return _("about {n} minutes").format(n=round(seconds / 60))
    return _("about {n} hours").format(n=round(seconds / 3600))


@dataclass(frozen=True, slots=True)
class Given:
    """One kind of thing that a processor lists: how far back, and what else is to be known."""

    kind: str
    reach: str
    notes: tuple[str, ...]


KINDS = ("order", "subscription", "payment", "refund", "invoice", "customer")


def kinds() -> dict[str, str]:
    return {
        "order": _("Orders"),
        "subscription": _("Subscriptions"),
        "payment": _("Payments"),
        "refund": _("Refunds"),
        "invoice": _("Invoices"),
        "customer": _("Customers"),
    }


def given(processor: str, variant: str | None) -> tuple[list[Given], list[str]]:
    """What the lists of a processor give, and the kinds that no list gives."""
    lists = [one for one in facts(processor).backfill if one.variant in (None, variant)]
    words = kinds()
    found = []
    for kind in KINDS:
        mine = [one for one in lists if one.kind == kind]
        if mine:
            notes = tuple(dict.fromkeys(_(one.note) for one in mine if one.note))
            found.append(Given(words[kind], _reach(mine), notes))
    listed = {one.kind for one in lists}
    return found, [words[kind] for kind in KINDS if kind not in listed and kind != "customer"]


def _reach(lists: Sequence[BackfillFact]) -> str:
    days = max((one.reaches_days or 0 for one in lists), default=0)
    if not days:
        return _("everything it keeps")
    if days >= 730:
        return _("the last {n} years").format(n=days // 365)
    return _("the last {n} months").format(n=days // 30)
