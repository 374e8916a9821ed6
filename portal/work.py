"""The worker: everything that is to happen later. Jobs are claimed in batches under a short lease that is renewed while
they are in hand, so that any number of workers may run, and what one that dies had in hand is soon another's."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
from sqlalchemy import and_, case, delete, func, or_, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import (
    accounts,
    actions,
    alarms,
    checks,
    clock,
    desk,
    domains,
    finding,
    guard,
    imports,
    inbox,
    keeping,
    letters,
    login,
    merchants,
    models,
    names,
    objects,
    outage,
    outgoing,
    passkeys,
    people,
    requests,
    rescue,
    retention,
    sheets,
    store,
    sync,
    walls,
    webhooks,
)
from portal.connect import Disconnected, open_gateway
from portal.db import Database, moment
from portal.faults import places
from portal.gateways import facts
from portal.gateways.base import BadSignature, Event, Gone, Ref, Unavailable
from portal.ids import new_id
from portal.jobs import enqueue
from portal.settings import Settings
from portal.vault import Vault

log = structlog.get_logger()

HANDS = 40  # jobs in hand at a time, those in ASIDE apart
BATCH = 16
# With so many in hand that ask one account or processor, no more of them are taken; nor while so many of an account
# have been in hand for so many seconds. One that hangs holds up only its own.
MOST_OF_ACCOUNT, MOST_OF_PROCESSOR = 8, 16
MOST_SLOW, SLOW_S = 3, 3.0
AWAY = 24  # of each kind below at a time
# These wait for servers of merchants', or take long; nothing else waits for them.
ASIDE = ("deliver", "domain_look", "find_person", "backfill", "sync", "night", "unstore", "sweep_store")
LOCK = timedelta(seconds=15)  # so long after a worker died, what it had in hand is free
RENEW_S = 4.0
LONGEST_S = 3600.0  # for one job
TRIES = 12
ALONG = 200  # jobs taken at a time because the look of another one will answer them
SHARED_DEATHS = 1  # whoever dies over a look that was for many has died over each of them
DEATHS = 8  # so many workers may die over a job before it is set aside too
BEAT = timedelta(seconds=10)
OUTAGE = timedelta(seconds=30)  # after which a job is tried again that the database had no room or ear for
SWEEP = timedelta(hours=1)
ASKED_AT_SIGN_IN = 20  # subscriptions
KEEP_JOBS = timedelta(days=14)
STILL_NEWS = timedelta(days=2)  # that a payment failed which was not known before
SHEET_S = 1.0  # of a file's rows in one go
STORE_S = 30.0  # after which rows are asked for again that the store did not give
MOST_CHANGES = 50  # that are noted on an event

_wake: asyncio.Event | None = None
_loop: asyncio.AbstractEventLoop | None = None


def nudge() -> None:
    """There may be something to do now; without it the worker looks twice a second. From any thread."""
    if _loop is not None and _wake is not None and not _loop.is_closed():
        _loop.call_soon_threadsafe(_wake.set)


@dataclass(frozen=True, slots=True)
class Claimed:
    id: int
    kind: str
    payload: dict[str, Any]
    attempts: int
    claim: int
    deaths: int
    account_id: int | None
    processor: str | None
    since: float  # by this process's own clock
    within: int | None = None  # the portal in whose walls it is carried out
    about: str | None = None  # of what one look answers all that wait
    along: bool = False  # taken for the sake of another one, whose look will answer it


class Again(Exception):
    """Not finished, and not a failure: look again in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Deadly(Exception):
    """A job over which one worker after the other has died."""

    def __init__(self) -> None:
        super().__init__("the worker ended each time in the middle of it")


class Worker:
    """Claims due jobs and carries them out, until told to stop; then it finishes what it has in hand."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings = settings
        self.database = database
        self.vault = Vault(settings.master_keys.get_secret_value())
        self.store = store.open_store(settings)
        self._stop = False
        self.at_work = asyncio.Lock()  # held while a batch is taken
        self._handlers: dict[str, Callable[[dict[str, Any]], Awaitable[None]]] = {
            "read_back": self._read_back,
            "finish_method": self._finish_method,
            "scheduled_cancel": self._scheduled_cancel,
            "refresh": self._refresh,
            "look_at_customer": self._look_at_customer,
            "request_late": self._request_late,
            "look_at_order": self._look_at_order,
            "backfill": self._backfill,
            "check_account": partial(accounts.check_account, self),
            "deliver": self._deliver,
            "domain_look": self._domain_look,
            "settle_join": self._settle_join,
            "find_person": self._find_person,
            "find_order": self._find_order,
            "sync": partial(self._keep, keeping.look),
            "night": partial(self._keep, keeping.night),
            "check": self._check,
            "sheet": self._sheet,
            "unstore": self._unstore,
            "sweep_store": self._sweep_store,
        }
        self.importer = imports.Importer(settings, database, self.vault, after_page)
        self._hands: set[asyncio.Task[None]] = set()
        self._away: set[asyncio.Task[None]] = set()  # jobs of the kinds in ASIDE
        self._held: dict[int, Claimed] = {}  # all of them, by their ids
        self._mailing = False
        self._left_out = False  # whether there may be due work that was not taken

    def stop(self) -> None:
        self._stop = self.importer.leaving = True
        nudge()

    async def run(self) -> None:
        """Work until stopped."""
        with walls.wide("worker"):
            await self._run()

    async def _run(self) -> None:
        global _wake, _loop
        _wake, _loop = asyncio.Event(), asyncio.get_running_loop()
        last_beat = last_sweep = None
        renewing = asyncio.create_task(self._renew())
        while not self._stop:
            try:
                now = clock.now()
                if last_beat is None or abs(now - last_beat) >= BEAT:
                    clock.follow(await self.database.clock_ahead())
                    now = clock.now()
                    await self.database.write(_beat, now)
                    await self.database.write(keeping.want, now)
                    if not self.settings.demo:  # whose clock is moved by days: all is late and silent then
                        await self.database.write(alarms.watch, now)
                    last_beat = now
                if last_sweep is None or abs(now - last_sweep) >= SWEEP:
                    last_sweep = now  # also where it fails: the work is not to wait for it
                    await self.database.write(_sweep, now)
                    await retention.sweep(self.database, now)
                    await names.sweep(self.database)
                    await objects.keep_house(self.database, self.store, now)
                async with self.at_work:
                    done = len(await self._take())
            except DBAPIError as error:
                if outage.trouble(error) is None:  # else it is said once, by what watches the database
                    log.error("a statement failed", error=type(error.orig).__name__, at=places(error))
                done = 0
                await asyncio.sleep(2)
            except Exception as error:
                # Whatever it is, the other work goes on: a worker that ended would be missed only by its silence.
                log.error("the worker stumbled", error=type(error).__name__, at=places(error))
                done = 0
                await asyncio.sleep(2)
            if not done and not self._stop:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(_wake.wait(), 0.5)
                _wake.clear()
        await asyncio.gather(*self._hands, *self._away)
        renewing.cancel()
        await self.importer.aclose()

    async def once(self) -> int:
        """Carry out one batch of what is due; how many jobs it was."""
        before = set(self._hands)
        with walls.wide("worker"):
            batch = await self._take()
        await asyncio.gather(*(self._hands - before))
        return len(batch)

    async def drain(self) -> None:
        """Work until nothing is due; for tests and the demo."""
        while await self.once() or self._away:
            await asyncio.gather(*self._away)

    async def settled(self) -> None:
        """Wait for what is in hand; whoever holds `at_work` sees to it that nothing is added."""
        await asyncio.gather(*self._hands)

    async def _take(self) -> list[Claimed]:
        """Claim what there are free hands for, and begin it."""
        free = HANDS - len(self._hands)
        self._left_out = free < BATCH // 2
        if self._left_out:
            return []
        away = Counter(job.kind for job in self._held.values())
        left = [kind for kind in ASIDE if away[kind] >= AWAY]
        left += letters.KINDS if self._mailing else ()
        accounts, processors = self._busy()
        self._left_out = bool(left or accounts or processors)
        size = min(BATCH, free)
        batch = await self.database.write(claim, clock.now(), size, left, accounts, processors)
        self._held |= {job.id: job for job in batch}
        for jobs in together([job for job in batch if job.kind not in letters.KINDS]):
            aside = jobs[0].kind in ASIDE
            self._begin(self._away if aside else self._hands, partial(self._each, jobs), jobs)
        if mails := [job for job in batch if job.kind in letters.KINDS]:
            self._mailing = True
            self._begin(self._hands, partial(self._mails, mails), mails)
        return batch

    def _busy(self) -> tuple[list[int], list[str]]:
        """The accounts and the processors of which no more is taken now."""
        held = [
            job
            for job in self._held.values()
            if job.account_id is not None and job.kind not in ASIDE and not job.along
        ]
        accounts = Counter(job.account_id for job in held)
        slow = Counter(job.account_id for job in held if time.monotonic() - job.since > SLOW_S)
        processors = Counter(job.processor for job in held if job.processor)
        full = {one for one, count in accounts.items() if count >= MOST_OF_ACCOUNT}
        full |= {one for one, count in slow.items() if count >= MOST_SLOW}
        crowded = [one for one, count in processors.items() if count >= MOST_OF_PROCESSOR]
        return [one for one in full if one is not None], crowded

    def _begin(
        self, among: set[asyncio.Task[None]], work: Callable[[], Awaitable[None]], jobs: list[Claimed]
    ) -> None:
        async def carry() -> None:
            try:
                await work()
            except Exception as error:
                # It could not even be written down: its lease runs out, and then it is due again.
                log.error("a job was left as it was", kind=jobs[0].kind, error=type(error).__name__)
            finally:
                for job in jobs:
                    self._held.pop(job.id, None)
                if jobs[0].kind in letters.KINDS:
                    self._mailing = False
                if self._left_out:
                    nudge()

        task = asyncio.create_task(carry())
        among.add(task)
        task.add_done_callback(among.discard)

    async def _renew(self) -> None:
        """Keep what is in hand ours. A job may take its time; it is another's soon after this process has died."""
        while True:
            await asyncio.sleep(RENEW_S)
            if self._held:
                try:
                    await self.database.write(renew, list(self._held.values()))
                except DBAPIError as error:
                    log.warning("leases not renewed", error=type(error.orig).__name__)

    async def _each(self, jobs: Sequence[Claimed]) -> None:
        """One job, or several that one look answers. Where the look fails, each of the others is carried out by
        itself: what an error means may depend on the event. What only came along waits its turn again."""
        job, others = jobs[0], list(jobs[1:])
        await self._one(job, others)
        if along := [one for one in others if one.along]:
            await self.database.write(_put_back, along, clock.now())
        for one in others:
            if not one.along:
                await self._one(one, [])

    async def _one(self, job: Claimed, others: list[Claimed]) -> None:
        """`others` are emptied where they are done with it."""
        try:
            if job.deaths > DEATHS:
                raise Deadly
            async with asyncio.timeout(LONGEST_S):
                with walls.within(job.within) if job.within else walls.wide("worker"):
                    is_over = await self._carry_out(job, others)
        except Again as again:
            await self.database.write(postpone, job, clock.now() + timedelta(seconds=again.seconds))
        except Deadly as error:
            await self.database.write(retry, job, str(error), clock.now(), True)
        except Disconnected:
            await self.database.write(_let_go, job, clock.now())
        except Unavailable as error:
            wait = max(error.retry_after or 0, _backoff(job.attempts))
            await self._retry(job, error.hint, wait)
        except Exception as error:
            if outage.trouble(error) is not None:  # no fault of the job's, and nothing that counts against it
                await self.database.write(postpone, job, clock.now() + OUTAGE)
                return
            log.warning("job failed", kind=job.kind, job=job.id, error=type(error).__name__)
            await self._retry(job, f"{type(error).__name__}: {_plain(error)}", _backoff(job.attempts))
        else:
            if not is_over:
                await self.database.write(finish, job, clock.now())

    async def _carry_out(self, job: Claimed, others: list[Claimed]) -> bool:
        """Whether that has let go of it too: of events there are the most, so all that one leads to is one commit."""
        if job.kind == "event":
            await self._event(job, others)
            return True
        handler = self._handlers.get(job.kind)
        if handler is None:
            raise LookupError(f"no handler for {job.kind}")
        await handler(job.payload)
        return False

    async def _retry(self, job: Claimed, error: str, wait: float) -> None:
        await self.database.write(
            retry, job, error[:500], clock.now() + timedelta(seconds=wait), job.attempts >= TRIES
        )

    async def _mails(self, jobs: list[Claimed]) -> None:
        """All mails of a batch, over one connection; each is written down as sent as soon as it is taken."""
        for job in jobs:
            if job.deaths > DEATHS:
                await self.database.write(retry, job, str(Deadly()), clock.now(), True)
        jobs = [job for job in jobs if job.deaths <= DEATHS]
        noted: set[int] = set()

        async def taken(number: int) -> None:
            while number not in noted:
                try:
                    await self.database.write(finish, jobs[number], clock.now())
                    noted.add(number)
                except DBAPIError:
                    if self._stop:
                        raise
                    await asyncio.sleep(1)  # it is with the mail server: it is not to go out again

        last = {number for number, job in enumerate(jobs) if job.attempts >= TRIES}
        wanted = [(job.kind, job.payload) for job in jobs]
        ids, homes = [job.id for job in jobs], [job.within for job in jobs]
        results = await letters.send(self.database, self.settings, wanted, last, ids, taken, homes)
        for number, (job, result) in enumerate(zip(jobs, results, strict=True)):
            if number in noted:
                continue
            if result is None:
                await self.database.write(finish, job, clock.now())
            elif result.permanent:
                await self.database.write(retry, job, result.error, clock.now(), True)
            else:
                await self._retry(job, result.error, _backoff(job.attempts))

    # The kinds of jobs

    async def _domain_look(self, payload: dict[str, Any]) -> None:
        again = await domains.look_again(self.database, self.settings, payload["claim"])
        if again is not None:
            raise Again(again)

    async def _settle_join(self, payload: dict[str, Any]) -> None:
        await self.database.write(people.settle_join, payload["join"])

    async def _find_person(self, payload: dict[str, Any]) -> None:
        """Somebody typed an address that no row knows: ask the processors, then do what waits for it."""
        known, again = await finding.look(
            self.database, self.settings, self.vault, payload["ask"], _found_person
        )
        if again is not None:
            raise Again(again)
        if known:
            kind, then = payload["then"]
            await self.database.write(enqueue, kind, then, clock.now(), None)
            nudge()

    async def _find_order(self, payload: dict[str, Any]) -> None:
        await self.database.write(rescue.decide, payload["ask"], clock.now())
        nudge()

    async def _event(self, job: Claimed, others: list[Claimed]) -> None:
        account, event = await self.database.read(_event_to_ask_about, job.payload)
        gateway, asked = open_gateway(self.settings, self.vault, account, patient=True), clock.now()
        try:
            snapshot = await gateway.refetch(event)
        except (Gone, BadSignature) as error:
            # The processor knows nothing of it: noted on the event, and never believed.
            await self.database.write(_event_is_over, job, error.hint)
            return
        finally:
            await gateway.aclose()
        # What the notice itself tells is of when it was written.
        fetched = snapshot is not None and snapshot.as_of >= asked
        await self.database.write(self._carried_out, account, job, others, snapshot, fetched)
        others.clear()

    def _carried_out(
        self,
        db: Session,
        account: models.Account,
        job: Claimed,
        others: Sequence[Claimed],
        snapshot: Any,
        fetched: bool,
    ) -> None:
        """The rows and all that follows from them at once: who looks again after a crash would see no change."""
        changes: list[sync.Change] = []
        if snapshot is not None:
            changes = self._write(db, account, snapshot, fetched)
            _follow(db, account, changes, clock.now())
            if told := " ".join(text for text in (snapshot.tell, snapshot.ask) if text):
                _tell_merchant(db, account, job.payload["event"], told, clock.now())
        _event_is_over(db, job, None, changes, others)

    def _write(
        self, db: Session, account: models.Account, snapshot: Any, fetched: bool = True
    ) -> list[sync.Change]:
        changes = sync.apply(db, account, snapshot, fetched)
        db.flush()
        for change in changes:
            if change.table == "subscription":
                actions.settle(db, change.id, clock.now())
        return changes

    async def _keep(self, look: Callable[..., Awaitable[float | None]], payload: dict[str, Any]) -> None:
        wait = await look(self.database, self.settings, self.vault, payload["account"], self.take)
        if wait is not None:
            raise Again(wait)

    async def _check(self, payload: dict[str, Any]) -> None:
        await checks.look(self.database, self.settings, self.vault, payload, self.take)

    async def take(self, account: models.Account, snapshot: Any, fetched: bool) -> None:
        await self.database.write(taken, account, snapshot, fetched, clock.now())
        nudge()

    async def _read_back(self, payload: dict[str, Any]) -> None:
        again = await actions.read_back(self.database, self.settings, self.vault, payload["action"])
        if again is not None:
            raise Again(again)

    async def _finish_method(self, payload: dict[str, Any]) -> None:
        again = await actions.finish_method(self.database, self.settings, self.vault, payload["action"])
        if again is not None:
            raise Again(again)

    async def _scheduled_cancel(self, payload: dict[str, Any]) -> None:
        await actions.run_scheduled_cancel(
            self.database,
            self.settings,
            self.vault,
            payload["subscription"],
            payload["action"],
            promised=payload.get("promised", False),
        )

    async def _refresh(self, payload: dict[str, Any]) -> None:
        """Ask the processor about one subscription that it does not tell us about by itself."""
        row, account = await self.database.read(_subscription, payload["subscription"])
        gateway = open_gateway(self.settings, self.vault, account, patient=True)
        try:
            snapshot = await gateway.fetch(sync.ref_of(row))
        except Gone:
            return
        finally:
            await gateway.aclose()
        await self.database.write(self._looked, account, snapshot)

    def _looked(self, db: Session, account: models.Account, snapshot: Any) -> None:
        _follow(db, account, self._write(db, account, snapshot), clock.now())

    async def _look_at_customer(self, payload: dict[str, Any]) -> None:
        """Somebody has signed in: ask about what of theirs still goes on."""
        await self.database.write(_want_refreshes, payload["customer"], clock.now())
        nudge()

    async def _request_late(self, payload: dict[str, Any]) -> None:
        await self.database.write(requests.late, payload["request"], clock.now())

    async def _look_at_order(self, payload: dict[str, Any]) -> None:
        """Somebody went to pay an open order: ask whether they did."""
        order, account = await self.database.read(_order, payload["order"])
        if order.status != "open":
            return
        gateway = open_gateway(self.settings, self.vault, account, patient=True)
        try:
            snapshot = await gateway.fetch(Ref("order", order.remote_id))
        except Gone:
            return
        finally:
            await gateway.aclose()
        await self.database.write(self._write, account, snapshot)

    async def _sheet(self, payload: dict[str, Any]) -> None:
        """Rows of a merchant's file, for a second at a time: others' work is not to wait behind a long one."""
        began = time.monotonic()
        which = payload["sheet"], payload["run"]
        parts = sheets.NOTHING
        more = True
        while more:
            try:
                more = await self.database.write(sheets.step, *which, clock.now(), parts)
            except sheets.NotFetched:
                places = await self.database.read(sheets.next_parts, *which)
                try:
                    parts = await store.ask(sheets.read_parts, self.store, *places)
                except store.StoreDown:
                    raise Again(STORE_S) from None
                except store.Lost:
                    await self.database.write(sheets.give_up, *which, clock.now())
                    return
            if more and (self._stop or time.monotonic() - began >= SHEET_S):
                raise Again(0)

    async def _unstore(self, payload: dict[str, Any]) -> None:
        """An object whose row has gone."""
        if self.store is not None:
            await store.ask(self.store.delete, payload["key"])

    async def _sweep_store(self, _payload: dict[str, Any]) -> None:
        if self.store is not None:
            await objects.sweep(self.database, self.store, clock.machine())

    async def _deliver(self, payload: dict[str, Any]) -> None:
        again = payload.get("again", False)
        wait = await outgoing.deliver(self.database, self.settings, self.vault, payload["delivery"], again)
        if wait is not None:
            raise Again(wait)

    async def _backfill(self, payload: dict[str, Any]) -> None:
        """Everything a processor lists, for a while; where it broke off is where the next turn goes on."""
        run = await self.database.write(imports.of_job, payload, clock.now())
        turn = await self.importer.turn(run)
        if turn.came in ("more", "busy", "wait"):
            raise Again(turn.seconds)


def together(jobs: Sequence[Claimed]) -> list[list[Claimed]]:
    """The jobs of a batch, those together that one look at the processor answers: events of one object, where its
    adapter looks at nothing but the object. All of them had arrived before the look. What has failed before, or
    two workers have died over, stays by itself."""
    found: dict[Any, list[Claimed]] = {}
    for job in jobs:
        found.setdefault(job.about if _may_share(job) else job.id, []).append(job)
    return list(found.values())


def _may_share(job: Claimed) -> bool:
    return job.about is not None and job.attempts == 1 and job.deaths <= SHARED_DEATHS


def claim(
    db: Session,
    now: datetime,
    limit: int,
    left: Collection[str] = (),
    accounts: Collection[int] = (),
    processors: Collection[str] = (),
) -> list[Claimed]:
    """Take up to `limit` due jobs under a lease; each goes to one worker only. Left are those of the kinds `left`, and
    those that ask one of these accounts or processors. Whether a lease has run out is told by the database's clock.
    What waits for the look of one that is taken comes along, beyond the limit."""
    at, row = moment(db), models.Job
    hard_pressed = select(col(models.Account.id)).where(col(models.Account.processor).in_(processors))
    asks = col(row.account_id)
    due = (
        select(col(row.id))
        .where(
            *_is_free(now, at),
            *([col(row.kind).not_in(left)] if left else []),
            *([or_(asks.is_(None), asks.not_in(accounts))] if accounts else []),
            *([or_(asks.is_(None), asks.not_in(hard_pressed))] if processors else []),
        )
        .order_by(col(row.run_at))
        .limit(limit)
    )
    token = new_id()
    taken = _lease(db, due, token, at)
    asked = {one.account_id for one in taken if one.account_id is not None}
    of = models.Account
    known = select(col(of.id), col(of.processor), col(of.portal_id)).where(col(of.id).in_(asked))
    accounts_asked = {found.id: found for found in db.execute(known)} if asked else {}
    since = time.monotonic()

    def claimed(one: Any, along: bool) -> Claimed:
        account = accounts_asked.get(one.account_id)
        return Claimed(
            one.id,
            one.kind,
            one.payload,
            one.attempts,
            token,
            one.deaths,
            one.account_id,
            account.processor if account else None,
            since,
            one.within or (account.portal_id if account else None),
            one.about,
            along,
        )

    jobs = [claimed(one, False) for one in taken]
    if shared := sorted({job.about for job in jobs if job.about is not None and _may_share(job)}):
        jobs += [claimed(one, True) for one in _lease(db, _also_about(shared, now, at), token, at)]
    return jobs


def _is_free(now: datetime, at: Any) -> tuple[Any, ...]:
    """Due, and nobody's; or of somebody whose lease has run out."""
    row = models.Job
    return (
        col(row.done_at).is_(None),
        col(row.parked_at).is_(None),
        col(row.run_at) <= now,
        or_(col(row.locked_until).is_(None), col(row.locked_until) < at),
    )


def _also_about(shared: Sequence[str], now: datetime, at: Any) -> Any:
    """What waits for the same as what was just taken, and may share its look."""
    row = models.Job
    died_over = func.coalesce(col(row.deaths), 0) < SHARED_DEATHS
    return (
        select(col(row.id))
        .where(
            *_is_free(now, at),
            col(row.about).in_(shared),
            or_(
                and_(col(row.locked_by).is_(None), col(row.attempts) == 0),
                and_(col(row.locked_by).is_not(None), col(row.attempts) == 1, died_over),
            ),
        )
        .limit(ALONG)
    )


def _lease(db: Session, wanted: Any, token: int, at: Any) -> Sequence[Any]:
    row = models.Job
    # Once: PostgreSQL may run a subquery again for each row, and then more than the limit are taken.
    due = wanted.with_for_update(skip_locked=True).cte("due")
    return db.execute(
        update(row)
        .where(col(row.id).in_(select(due.c.id)))
        .values(
            locked_until=at + LOCK,
            locked_by=token,
            # Whoever held it before has died over it: that is no failure of its own, after which to wait for long.
            attempts=row.attempts + case((col(row.locked_by).is_(None), 1), else_=0),
            deaths=case((col(row.locked_by).is_(None), 0), else_=func.coalesce(col(row.deaths), 0) + 1),
        )
        .returning(
            col(row.id),
            col(row.kind),
            col(row.payload),
            col(row.attempts),
            col(row.account_id),
            col(row.deaths),
            col(row.within),
            col(row.about),
        )
        .execution_options(synchronize_session=False)
    ).all()


def renew(db: Session, jobs: Sequence[Claimed]) -> None:
    """Hold on to what is in hand, where nobody else has it meanwhile."""
    row = models.Job
    db.execute(
        update(row)
        .where(
            *_ours(jobs),
            col(row.done_at).is_(None),
        )
        .values(locked_until=moment(db) + LOCK)
    )


def finish(db: Session, job: Claimed, now: datetime) -> None:
    _set(db, job, done_at=now, error=None)


def postpone(db: Session, job: Claimed, run_at: datetime) -> None:
    _set(db, job, run_at=run_at, attempts=0)


def retry(db: Session, job: Claimed, error: str, run_at: datetime, park: bool) -> None:
    """Try again later; or set a job that never works aside, visibly, so that it blocks nobody."""
    whose = inbox.portal_of_job(db, job.kind, job.payload)
    now = clock.now()
    parked = {"parked_at": now} if park else {}
    if not _set(db, job, run_at=run_at, error=error, portal_id=whose, **parked):
        return
    if park:
        if job.kind == "event":
            db.execute(
                update(models.Event)
                .where(col(models.Event.id) == job.payload["event"])
                .values(parked_at=now, error=error)
            )
        if job.kind == "sheet":
            sheets.break_off(db, job.payload["sheet"], job.payload["run"], now)
        log.error("job parked", kind=job.kind, job=job.id)


def _set(db: Session, job: Claimed, **values: Any) -> bool:
    """Let go of a job. False where another claim has it by now, so that what we make of it no longer counts."""
    row = models.Job
    told = db.execute(
        update(row)
        .where(col(row.id) == job.id, col(row.locked_by) == job.claim)
        .values(locked_until=None, locked_by=None, **values)
        .returning(col(row.id))
    )
    return told.first() is not None


def _backoff(attempts: int) -> float:
    """Seconds until the next try: 2, 4, 8 … up to an hour."""
    return float(min(3600, 2 ** min(attempts, 12)))


def _plain(error: Exception) -> str:
    """An error's words where they can hold nothing secret; a database error's parameters may."""
    return str(error.orig).splitlines()[0] if isinstance(error, DBAPIError) else str(error)


def _beat(db: Session, now: datetime) -> None:
    """The worker draws breath: a sign for /health/ready. Several may, and at once."""
    row = models.Setting
    told = db.execute(update(row).where(col(row.name) == "worker").values(at=now).returning(col(row.name)))
    if told.first() is None:
        values = {"name": "worker", "value": "beat", "at": now}
        sync.insert_once(db, row.__table__, values)  # type: ignore[attr-defined]


def _sweep(db: Session, now: datetime) -> None:
    """Old things go: jobs that are done, asks, sessions. What each portal says of its own goes by `retention`."""
    db.execute(delete(models.Job).where(col(models.Job.done_at) < now - KEEP_JOBS))
    login.forget_old(db, now)
    desk.want_digests(db, now)
    merchants.forget_old(db, now)
    passkeys.forget_old(db, now)
    accounts.keep_house(db, now)
    outgoing.forget_old(db, now)
    rescue.forget_old(db, now)
    domains.revive(db, now)
    sheets.forget_old(db, now)
    db.execute(delete(models.ApiUse).where(col(models.ApiUse.minute) < int(now.timestamp()) // 60 - 60))


def _follow(db: Session, account: models.Account, changes: list[sync.Change], now: datetime) -> None:
    """What a change asks for: a mail when a payment failed, a hint to an action that is away, the next look."""
    for change in changes:
        if change.table == "payment" and change.after == "failed" and change.before != "failed":
            enqueue(
                db,
                "mail",
                {"template": "payment_failed", "payment": change.id},
                now,
                f"payment_failed:{change.id}",
            )
            payment = db.get_one(models.Payment, change.id)
            outgoing.of_payment(db, "payment.failed", payment, now)
        if change.table == "payment":
            guard.look(db, change.id, now)  # also where only its subscription became known
            if change.after != change.before:
                _hint_to_visits(db, change.id, now)
        if change.table == "subscription":
            _look_after(db, account, change.id, now)


def _found_person(db: Session, account: models.Account, snapshot: Any) -> None:
    """What a processor has of an address that was typed. It is old news: nobody is mailed about it."""
    for change in sync.apply(db, account, snapshot):
        db.flush()
        if change.table == "payment":
            guard.look(db, change.id, clock.now())
        if change.table == "subscription":
            actions.settle(db, change.id, clock.now())
            _look_after(db, account, change.id, clock.now())


def _tell_merchant(db: Session, account: models.Account, event_id: int, text: str, now: datetime) -> None:
    """What an adapter makes of an event that only the merchant can do something about."""
    payload = {"template": "merchant_notice", "account": account.id, "text": text}
    enqueue(db, "mail", payload, now, f"merchant_notice:event:{event_id}")


def _hint_to_visits(db: Session, payment_id: int, now: datetime) -> None:
    """A payment of somebody who went to the processor's page and has not come back: perhaps they are done there."""
    payment = db.get_one(models.Payment, payment_id)
    if payment.customer_id is None:
        return
    row = models.Action
    for action in db.execute(
        select(row).where(
            col(row.portal_id) == payment.portal_id,
            col(row.customer_id) == payment.customer_id,
            col(row.account_id) == payment.account_id,
            col(row.phase).in_(("away", "left")),
            col(row.capability) == "update_payment_method",
            col(row.created_at) > now - timedelta(hours=24),
        )
    ).scalars():
        enqueue(db, "finish_method", {"action": action.id}, now, f"finish_method:{action.id}:{payment_id}")


def _look_after(db: Session, account: models.Account, subscription_id: int, now: datetime) -> None:
    away = db.execute(
        select(models.Action).where(
            col(models.Action.subscription_id) == subscription_id,
            col(models.Action.phase).in_(("away", "left")),
            col(models.Action.capability) == "update_payment_method",
            col(models.Action.created_at) > now - timedelta(hours=24),
        )
    ).scalars()
    for action in away:
        enqueue(db, "finish_method", {"action": action.id}, now, None)
    row = db.get_one(models.Subscription, subscription_id)
    listed = any(entry.kind == "subscription" for entry in facts(account.processor).backfill)
    if not listed and row.next_on and row.status in ("active", "trialing", "past_due"):
        # Nothing tells of a failed charge there: look the day after, and each day while it is overdue.
        due = datetime.combine(row.next_on, datetime.min.time(), now.tzinfo) + timedelta(days=1, hours=12)
        day = max(due, now + timedelta(days=1))
        enqueue(db, "refresh", {"subscription": row.id}, day, f"refresh:{row.id}:{day.date().isoformat()}")


def _want_refreshes(db: Session, customer_id: int, now: datetime) -> None:
    row = models.Subscription
    customer = db.get_one(models.Customer, customer_id)
    live = db.execute(
        select(col(row.id))
        .where(
            col(row.portal_id) == customer.portal_id,
            col(row.customer_id) == customer_id,
            col(row.status).not_in(("cancelled", "expired")),
        )
        .order_by(col(row.placed_at).desc(), col(row.id).desc())
        .limit(ASKED_AT_SIGN_IN)
    ).scalars()
    for subscription_id in live:
        enqueue(db, "refresh", {"subscription": subscription_id}, now, None)


def _handled(
    db: Session, event_id: int, now: datetime, error: str | None, changes: Sequence[sync.Change] = ()
) -> None:
    changed = [asdict(change) for change in changes[:MOST_CHANGES]]
    db.execute(
        update(models.Event)
        .where(col(models.Event.id) == event_id)
        .values(handled_at=now, error=error[:500] if error else None, changed=changed)
    )


def taken(
    db: Session, account: models.Account, snapshot: Any, fetched: bool, now: datetime
) -> list[sync.Change]:
    """Write what was asked for unprompted, with what follows from it; without mails about what failed long ago."""
    changes = sync.apply(db, account, snapshot, fetched)
    db.flush()
    for change in changes:
        if change.table == "subscription":
            actions.settle(db, change.id, now)
    old = {
        change.id
        for change in changes
        if change.table == "payment" and change.before is None and change.after == "failed"
    }
    row = models.Payment
    long_ago = select(col(row.id)).where(col(row.id).in_(old), col(row.placed_at) < now - STILL_NEWS)
    stale = set(db.execute(long_ago).scalars()) if old else set()
    _follow(db, account, [change for change in changes if change.id not in stale], now)
    after_page(db, account, [change for change in changes if change.id in stale], now)
    return changes


def after_page(db: Session, account: models.Account, changes: list[sync.Change], now: datetime) -> None:
    """`_follow` for a page of everything: without the mails, since what failed there failed long ago."""
    payments = [change for change in changes if change.table == "payment"]
    guard.look_at_many(db, [change.id for change in payments], now)
    away = _anybody_away(db, account, now)
    if away:
        for change in payments:
            if change.after != change.before:
                _hint_to_visits(db, change.id, now)
    if away or not any(entry.kind == "subscription" for entry in facts(account.processor).backfill):
        for change in changes:
            if change.table == "subscription":
                _look_after(db, account, change.id, now)


def _anybody_away(db: Session, account: models.Account, now: datetime) -> bool:
    """Whether anybody is on a page of the processor's to change how they pay."""
    row = models.Action
    found = db.execute(
        select(col(row.id))
        .where(
            col(row.portal_id) == account.portal_id,
            col(row.capability) == "update_payment_method",
            col(row.created_at) > now - timedelta(hours=24),
            col(row.account_id) == account.id,
            col(row.phase).in_(("away", "left")),
        )
        .limit(1)
    ).first()
    return found is not None


def _event_is_over(
    db: Session,
    job: Claimed,
    error: str | None,
    changes: Sequence[sync.Change] = (),
    others: Sequence[Claimed] = (),
) -> None:
    """`others` are those that its look has answered too."""
    now, event = clock.now(), models.Event
    _handled(db, job.payload["event"], now, error, changes)
    if others:
        answered = col(event.id).in_([one.payload["event"] for one in others])
        db.execute(update(event).where(answered).values(handled_at=now, error=None, changed=[]))
    with walls.wide("worker"):  # the job may be no portal's
        finish(db, job, now)
        if others:
            _set_all(db, others, done_at=now, error=None)


def _put_back(db: Session, jobs: Sequence[Claimed], now: datetime) -> None:
    """Due again, as if they had not been taken."""
    _set_all(db, jobs, run_at=now, attempts=0)


def _set_all(db: Session, jobs: Sequence[Claimed], **values: Any) -> None:
    """Let go of several that nobody else has taken meanwhile."""
    db.execute(update(models.Job).where(*_ours(jobs)).values(locked_until=None, locked_by=None, **values))


def _ours(jobs: Sequence[Claimed]) -> tuple[Any, ...]:
    """Those of them that no later claim has."""
    row = models.Job
    return col(row.id).in_([job.id for job in jobs]), col(row.locked_by).in_({job.claim for job in jobs})


def _let_go(db: Session, job: Claimed, now: datetime) -> None:
    """The account was disconnected meanwhile: there is nothing left to do, and that is no failure."""
    if job.kind == "event":
        _handled(db, job.payload["event"], now, "The account is disconnected.")
    if "action" in job.payload:
        actions.account_gone(db, job.payload["action"], now)
    finish(db, job, now)


def _account(db: Session, account_id: int) -> models.Account:
    return db.get_one(models.Account, account_id)


def _event_to_ask_about(db: Session, payload: dict[str, Any]) -> tuple[models.Account, Event]:
    """An event's account; and what the event says, with what our rows know of its subscription or payment."""
    account = db.get_one(models.Account, db.get_one(models.Event, payload["event"]).account_id)
    return account, _with_what_we_know(db, account.id, webhooks.unpacked(payload))


def _with_what_we_know(db: Session, account_id: int, event: Event) -> Event:
    subject = event.subject
    if subject is None or subject.kind not in ("subscription", "payment"):
        return event
    model: Any = models.Subscription if subject.kind == "subscription" else models.Payment
    row = db.execute(
        select(model).where(col(model.account_id) == account_id, col(model.remote_id) == subject.id)
    ).scalar_one_or_none()
    return replace(event, subject=sync.ref_of(row)) if row else event


def _order(db: Session, order_id: int) -> tuple[models.Order, models.Account]:
    row = db.get_one(models.Order, order_id)
    return row, db.get_one(models.Account, row.account_id)


def _subscription(db: Session, subscription_id: int) -> tuple[models.Subscription, models.Account]:
    row = db.get_one(models.Subscription, subscription_id)
    return row, db.get_one(models.Account, row.account_id)


def lag(db: Session, now: datetime) -> tuple[int, float]:
    """How many jobs are due, and for how many seconds the oldest of them has been."""
    count, oldest = db.execute(
        select(func.count(), func.min(col(models.Job.run_at))).where(
            col(models.Job.done_at).is_(None),
            col(models.Job.parked_at).is_(None),
            col(models.Job.run_at) <= now,
        )
    ).one()
    return count, (now - oldest).total_seconds() if oldest else 0.0
