"""The worker: everything that is to happen later. Jobs are claimed in batches under a lease, so that any number of
workers may run and one that dies loses nothing."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import (
    accounts,
    actions,
    clock,
    desk,
    domains,
    guard,
    inbox,
    letters,
    login,
    merchants,
    models,
    names,
    outgoing,
    passkeys,
    people,
    requests,
    retention,
    sync,
    webhooks,
)
from portal.connect import Disconnected, open_gateway
from portal.db import Database
from portal.faults import places
from portal.gateways import facts
from portal.gateways.base import BadSignature, Event, Gone, Ref, Unavailable
from portal.jobs import enqueue
from portal.settings import Settings
from portal.vault import Vault

log = structlog.get_logger()

BATCH = 20
AWAY = 40  # of those below at a time
ASIDE = ("deliver", "domain_look")  # wait for servers of merchants'; nothing else waits for them
LOCK = timedelta(seconds=120)
TRIES = 12
BEAT = timedelta(seconds=10)
SWEEP = timedelta(hours=1)
ASKED_AT_SIGN_IN = 20  # subscriptions
KEEP_JOBS = timedelta(days=14)
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


class Again(Exception):
    """Not finished, and not a failure: look again in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Worker:
    """Claims due jobs and carries them out, until told to stop; then it finishes what it has in hand."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings = settings
        self.database = database
        self.vault = Vault(settings.master_keys.get_secret_value())
        self._stop = False
        self.at_work = asyncio.Lock()  # held while a batch is in hand
        self._handlers: dict[str, Callable[[dict[str, Any]], Awaitable[None]]] = {
            "event": self._event,
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
        }
        self._away: set[asyncio.Task[None]] = set()  # jobs of the kinds in ASIDE

    def stop(self) -> None:
        self._stop = True
        nudge()

    async def run(self) -> None:
        """Work until stopped."""
        global _wake, _loop
        _wake, _loop = asyncio.Event(), asyncio.get_running_loop()
        last_beat = last_sweep = None
        while not self._stop:
            try:
                now = clock.now()
                if last_beat is None or abs(now - last_beat) >= BEAT:
                    await self.database.write(_beat, now)
                    last_beat = now
                if last_sweep is None or abs(now - last_sweep) >= SWEEP:
                    last_sweep = now  # also where it fails: the work is not to wait for it
                    await self.database.write(_sweep, now)
                    await retention.sweep(self.database, now)
                    await names.sweep(self.database)
                async with self.at_work:
                    done = await self.once()
            except DBAPIError as error:
                log.error("the database is not to be had", error=type(error.orig).__name__)
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
        await asyncio.gather(*self._away)

    async def once(self) -> int:
        """Carry out one batch of what is due; how many jobs it was."""
        left = ASIDE if len(self._away) >= AWAY else ()
        batch = await self.database.write(claim, clock.now(), BATCH, left)
        mails = [job for job in batch if job.kind in letters.KINDS]
        others = [job for job in batch if job.kind not in (*letters.KINDS, *ASIDE)]
        for job in batch:
            if job.kind in ASIDE:
                task = asyncio.create_task(self._one(job))
                self._away.add(task)
                task.add_done_callback(self._away.discard)
        await asyncio.gather(self._mails(mails), *(self._one(job) for job in others))
        return len(batch)

    async def drain(self) -> None:
        """Work until nothing is due; for tests and the demo."""
        while await self.once() or self._away:
            await asyncio.gather(*self._away)

    async def _one(self, job: Claimed) -> None:
        handler = self._handlers.get(job.kind)
        try:
            if handler is None:
                raise LookupError(f"no handler for {job.kind}")
            await handler(job.payload)
        except Again as again:
            await self.database.write(postpone, job.id, clock.now() + timedelta(seconds=again.seconds))
        except Disconnected:
            await self.database.write(_let_go, job, clock.now())
        except Unavailable as error:
            wait = max(error.retry_after or 0, _backoff(job.attempts))
            await self._retry(job, error.hint, wait)
        except Exception as error:
            log.warning("job failed", kind=job.kind, job=job.id, error=type(error).__name__)
            await self._retry(job, f"{type(error).__name__}: {_plain(error)}", _backoff(job.attempts))
        else:
            await self.database.write(finish, job.id, clock.now())

    async def _retry(self, job: Claimed, error: str, wait: float) -> None:
        await self.database.write(
            retry, job.id, error[:500], clock.now() + timedelta(seconds=wait), job.attempts >= TRIES
        )

    async def _mails(self, jobs: list[Claimed]) -> None:
        """All mails of a batch, over one connection."""
        if not jobs:
            return
        last = {number for number, job in enumerate(jobs) if job.attempts >= TRIES}
        results = await letters.send(self.database, self.settings, [(j.kind, j.payload) for j in jobs], last)
        for job, result in zip(jobs, results, strict=True):
            if result is None:
                await self.database.write(finish, job.id, clock.now())
            elif result.permanent:
                await self.database.write(retry, job.id, result.error, clock.now(), True)
            else:
                await self._retry(job, result.error, _backoff(job.attempts))

    # The kinds of jobs

    async def _domain_look(self, payload: dict[str, Any]) -> None:
        again = await domains.look_again(self.database, self.settings, payload["claim"])
        if again is not None:
            raise Again(again)

    async def _settle_join(self, payload: dict[str, Any]) -> None:
        await self.database.write(people.settle_join, payload["join"])

    async def _event(self, payload: dict[str, Any]) -> None:
        account = await self.database.read(_account_of_event, payload["event"])
        event = await self.database.read(_with_what_we_know, account.id, webhooks.unpacked(payload))
        gateway = open_gateway(self.settings, self.vault, account, patient=True)
        try:
            snapshot = await gateway.refetch(event)
        except (Gone, BadSignature) as error:
            # The processor knows nothing of it: noted on the event, and never believed.
            await self.database.write(_handled, payload["event"], clock.now(), error.hint)
            return
        finally:
            await gateway.aclose()
        changes: list[sync.Change] = []
        if snapshot is not None:
            changes = await self.database.write(self._write, account, snapshot)
            await self.database.write(_follow, account, changes, clock.now())
            if told := " ".join(text for text in (snapshot.tell, snapshot.ask) if text):
                await self.database.write(_tell_merchant, account, payload["event"], told, clock.now())
        await self.database.write(_handled, payload["event"], clock.now(), None, changes)

    def _write(self, db: Session, account: models.Account, snapshot: Any) -> list[sync.Change]:
        changes = sync.apply(db, account, snapshot)
        db.flush()
        for change in changes:
            if change.table == "subscription":
                actions.settle(db, change.id, clock.now())
        return changes

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
        changes = await self.database.write(self._write, account, snapshot)
        await self.database.write(_follow, account, changes, clock.now())

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

    async def _deliver(self, payload: dict[str, Any]) -> None:
        again = payload.get("again", False)
        wait = await outgoing.deliver(self.database, self.settings, self.vault, payload["delivery"], again)
        if wait is not None:
            raise Again(wait)

    async def _backfill(self, payload: dict[str, Any]) -> None:
        """Everything a processor lists; where it broke off is where the next try goes on."""
        account = await self.database.read(_account, payload["account"])
        cursor = await self.database.read(_cursor, account.id)
        gateway = open_gateway(self.settings, self.vault, account, patient=True)
        try:
            async for page in gateway.backfill(cursor):
                await self.database.write(_write_page, account, page.snapshot, page.cursor, clock.now())
        finally:
            await gateway.aclose()


def claim(db: Session, now: datetime, limit: int, left: Sequence[str] = ()) -> list[Claimed]:
    """Take up to `limit` due jobs under a lease, but those of the kinds `left`; each goes to one worker only."""
    due = (
        select(col(models.Job.id))
        .where(
            col(models.Job.done_at).is_(None),
            col(models.Job.parked_at).is_(None),
            col(models.Job.run_at) <= now,
            or_(col(models.Job.locked_until).is_(None), col(models.Job.locked_until) < now),
            *([col(models.Job.kind).not_in(left)] if left else []),
        )
        .order_by(col(models.Job.run_at))
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    taken = db.execute(
        update(models.Job)
        .where(col(models.Job.id).in_(due))
        .values(locked_until=now + LOCK, attempts=models.Job.attempts + 1)
        .returning(
            col(models.Job.id),
            col(models.Job.kind),
            col(models.Job.payload),
            col(models.Job.attempts),
        )
        .execution_options(synchronize_session=False)
    )
    return [Claimed(*row) for row in taken]


def finish(db: Session, job_id: int, now: datetime) -> None:
    _set(db, job_id, done_at=now, locked_until=None, error=None)


def postpone(db: Session, job_id: int, run_at: datetime) -> None:
    _set(db, job_id, run_at=run_at, locked_until=None, attempts=0)


def retry(db: Session, job_id: int, error: str, run_at: datetime, park: bool) -> None:
    """Try again later; or set a job that never works aside, visibly, so that it blocks nobody."""
    job = db.get_one(models.Job, job_id)
    whose = inbox.portal_of_job(db, job.kind, job.payload)
    _set(db, job_id, run_at=run_at, locked_until=None, error=error, portal_id=whose)
    if park:
        now = clock.now()
        _set(db, job_id, parked_at=now)
        if job.kind == "event":
            db.execute(
                update(models.Event)
                .where(col(models.Event.id) == job.payload["event"])
                .values(parked_at=now, error=error)
            )
        log.error("job parked", kind=job.kind, job=job_id)


def _set(db: Session, job_id: int, **values: Any) -> None:
    db.execute(update(models.Job).where(col(models.Job.id) == job_id).values(**values))


def _backoff(attempts: int) -> float:
    """Seconds until the next try: 2, 4, 8 … up to an hour."""
    return float(min(3600, 2 ** min(attempts, 12)))


def _plain(error: Exception) -> str:
    """An error's words where they can hold nothing secret; a database error's parameters may."""
    return str(error.orig).splitlines()[0] if isinstance(error, DBAPIError) else str(error)


def _beat(db: Session, now: datetime) -> None:
    """The worker draws breath: a sign for /health/ready."""
    found = db.get(models.Setting, "worker")
    if found is None:
        db.add(models.Setting(name="worker", value="beat", at=now))
    else:
        found.at = now


def _sweep(db: Session, now: datetime) -> None:
    """Old things go: jobs that are done, asks, sessions. What each portal says of its own goes by `retention`."""
    db.execute(delete(models.Job).where(col(models.Job.done_at) < now - KEEP_JOBS))
    login.forget_old(db, now)
    desk.want_digests(db, now)
    merchants.forget_old(db, now)
    passkeys.forget_old(db, now)
    accounts.keep_house(db, now)
    outgoing.forget_old(db, now)
    domains.revive(db, now)
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


def _write_page(
    db: Session, account: models.Account, snapshot: Any, cursor: str | None, now: datetime
) -> None:
    changes = sync.apply(db, account, snapshot)
    db.flush()
    for change in changes:
        if change.table == "payment":
            guard.look(db, change.id, now)  # also where only its subscription became known
            if change.after != change.before:
                _hint_to_visits(db, change.id, now)
        if change.table == "subscription":
            _look_after(db, account, change.id, now)
    name = f"backfill:{account.id}"
    if cursor is None:
        db.execute(delete(models.Setting).where(col(models.Setting.name) == name))
        return
    found = db.get(models.Setting, name)
    if found is None:
        db.add(models.Setting(name=name, value=cursor, at=now))
    else:
        found.value, found.at = cursor, now


def _cursor(db: Session, account_id: int) -> str | None:
    found = db.get(models.Setting, f"backfill:{account_id}")
    return found.value if found else None


def _let_go(db: Session, job: Claimed, now: datetime) -> None:
    """The account was disconnected meanwhile: there is nothing left to do, and that is no failure."""
    if job.kind == "event":
        _handled(db, job.payload["event"], now, "The account is disconnected.")
    if "action" in job.payload:
        actions.account_gone(db, job.payload["action"], now)
    finish(db, job.id, now)


def _account(db: Session, account_id: int) -> models.Account:
    return db.get_one(models.Account, account_id)


def _account_of_event(db: Session, event_id: int) -> models.Account:
    return db.get_one(models.Account, db.get_one(models.Event, event_id).account_id)


def _with_what_we_know(db: Session, account_id: int, event: Event) -> Event:
    """An event about a subscription or a payment, with what our rows know of it."""
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
