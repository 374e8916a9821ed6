"""Everything that may go wrong, in an order nobody thought of: is anything done twice, lost, or shown as it is not?

    python -m bench.machine [--examples 2000] [--steps 60] [--seed 1]

Hypothesis presses buttons, delivers webhooks late, twice and out of order, lets time pass, has a processor answer with
errors and time-outs, and kills processes between one step of theirs and the next. Each process of the portal stops
before and after every write and every call to a processor; whatever it has in hand there may be left lying for a while
beside what others do, or may be where it dies. After each step, and once all faults have stopped, it is looked whether
what is promised still holds. Time is played, so nothing is slow and every run of one seed is the same.
"""

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import patch

import structlog.testing
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select, text
from sqlmodel import col

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.processes import next_due
from portal import actions, clock, db, letters, models, sync, tenancy, webhooks, work
from portal.db import Database
from portal.gateways.base import (
    Declined,
    Event,
    Gateway,
    Interval,
    Leave,
    Method,
    NextPayment,
    Ref,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
)
from portal.migrate import upgrade
from portal.money import Money
from portal.settings import Settings
from portal.vault import Vault
from tests.unit.builders import MASTER_KEY, make_account, make_customer, make_portal

BEGIN = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
MONTH = timedelta(days=30)
FIRST = date(2026, 12, 12)  # the next payment
# One account each whose cancel at the end of a period is the processor's own, ours at once, and our job's; the second
# and third tell what has happened in the notice itself, the others are asked.
SHOPS = (
    ("stripe", ()),
    ("xendit", ()),
    ("payfast", ("schedule_cancel",)),
    ("paypal", ("suspend_to_cancel",)),
)
WISHES = (
    *("cancel_now", "cancel_at_period_end", "undo_cancel", "pause", "resume", "skip_next_payment"),
    "update_payment_method",
)
CANCELS = ("cancel_now", "cancel_at_period_end")
TELLING = ("xendit", "payfast")
FATES = (
    "declined",
    "down",
    "lost",
    "after",
)  # no; no effect; no effect and no answer; its effect and no answer
PATIENCE = timedelta(days=45)  # until everything has come to its end
MOST_FROZEN_S = 60  # a wish that was sent and shows nothing is given back after two minutes
MOST_TURNS = 2_000  # of the worker, until then


class Killed(BaseException):
    """As if by `kill -9`: nobody catches it."""


# Time


class _Loop(asyncio.SelectorEventLoop):
    """Its time is the played one; it is never waited for, only run until nothing moves."""

    world: "World"

    def time(self) -> float:
        return self.world.seconds


# The processor


@dataclass
class Contract:
    """A subscription as it stands at a processor, and every word it has been told in."""

    remote_id: str
    processor: str
    status: str = "active"
    method: str = "card_1"
    ends: datetime = BEGIN + timedelta(days=20)
    next_on: date = FIRST
    said: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))  # by the moment it is told of
    asked: set[int] = field(default_factory=set)  # those of them that somebody had asked for

    def record(self) -> SubscriptionRecord:
        goes_on = self.status == "active"
        status: Any = self.status
        return SubscriptionRecord(
            remote_id=self.remote_id,
            email="ana@example.com",
            status=status,
            raw_status=self.status,
            title="Monthly coffee box",
            amount=Money(2400, "USD"),
            interval=Interval("month", 1),
            current_period_end=self.ends,
            next_payment=NextPayment(self.next_on, Money(2400, "USD"), "fixed") if goes_on else None,
            cancels_at=self.ends if self.status == "cancels_at_period_end" else None,
            method=Method("card", "Visa", "4242", "2028-09", self.method),
            created_at=BEGIN - MONTH,
        )

    def do(self, name: str) -> bool:
        """Carry out a call; whether it changed anything."""
        live = self.status in ("active", "paused", "cancels_at_period_end")
        before = (self.status, self.method, self.next_on)
        match name:
            case "cancel_now" if live:
                self.status = "cancelled"
            case "cancel_at_period_end" if self.status == "active":
                self.status = "cancels_at_period_end"
            case "undo_cancel" if self.status == "cancels_at_period_end":
                self.status = "active"
            case "pause" if self.status == "active":
                self.status = "paused"
            case "resume" if self.status == "paused":
                self.status = "active"
            case "skip_next_payment" if self.status == "active":  # each call skips one more
                self.next_on += MONTH
            case "brought_back" if not live:
                self.status = "active"
        return before != (self.status, self.method, self.next_on)

    def come_of_age(self, now: datetime) -> bool:
        """What the end of a period brings."""
        if now < self.ends or self.status == "cancelled":
            return False
        if self.status == "cancels_at_period_end":
            self.status = "cancelled"
            return True
        while self.ends <= now:
            self.ends += MONTH
        self.next_on = max(self.next_on, self.ends.date())
        return True


class Pretended(Gateway):
    """The gateway of any of the processors: the call waits where it may be cut off, and has the fate that was drawn."""

    def __init__(self, world: "World", processor: str) -> None:
        self.world, self.processor = world, processor

    async def aclose(self) -> None:
        pass

    async def fetch(self, ref: Ref) -> Snapshot:
        asked = clock.now()
        await self.world.stop("before asking")
        fate = self.world.fate(self.world.fates_of_reads)
        if fate in ("down", "lost", "after", "declined"):
            raise Unavailable("It does not answer.", "down")
        told = self.world.tell(self.world.contracts[ref.id], asked, asked=True)
        await self.world.stop("after asking")
        return told

    async def refetch(self, event: Event) -> Snapshot | None:
        assert event.subject is not None
        if self.processor not in TELLING:
            return await self.fetch(event.subject)
        assert event.occurred_at is not None
        return self.world.notices[event.id]

    async def start_method_update(self, ref: Ref, return_url: str, key: str) -> Leave:
        await self._call("start_method_update", ref, key)
        return Leave(f"https://{_HOSTS[self.processor]}/pay")

    async def finish_method_update(
        self, ref: Ref, state: Mapping[str, str], query: Mapping[str, str]
    ) -> Snapshot:
        return await self.fetch(ref)

    async def _call(self, name: str, ref: Ref, key: str) -> Snapshot:
        world, contract = self.world, self.world.contracts[ref.id]
        await world.stop(f"before {name}")
        fate = world.fate(world.fates_of_calls)
        if world.effects[key]:
            world.repeated[key] += 1
        world.arrived[key].append(name)
        if fate == "declined":
            raise Declined("It was refused.", "refused", "no")
        if fate in ("down", "lost"):
            raise Unavailable("It does not answer.", "down", sent=fate == "lost")
        if not world.effects[key] and contract.do(name):  # one that knows keys does it once
            world.effects[key].append(name)
            world.happened(contract)
        if fate == "after":
            raise Unavailable("It does not answer.", "timeout", sent=True)
        told = world.tell(contract, clock.now(), asked=True)
        await world.stop(f"after {name}")
        return told


def _named(name: str) -> Callable[..., Coroutine[Any, Any, Snapshot]]:
    async def call(self: Pretended, ref: Ref, key: str) -> Snapshot:
        return await self._call(name, ref, key)

    return call


for _name in ("cancel_now", "cancel_at_period_end", "undo_cancel", "pause", "resume", "skip_next_payment"):
    setattr(Pretended, _name, _named(_name))
_HOSTS = {"stripe": "billing.stripe.com", "payfast": "www.payfast.co.za", "xendit": "", "paypal": ""}


# The processes of the portal

_process: ContextVar["Process | None"] = ContextVar("process", default=None)
_LETTING_GO: dict[str, Callable[..., list[work.Claimed]]] = {
    **dict.fromkeys(("finish", "retry", "postpone", "_let_go", "_event_is_over"), lambda job, *_: [job]),
    "_carried_out": lambda _account, job, others, *_: [job, *others],
    "_put_back": lambda jobs, *_: list(jobs),
}
_ALWAYS = ("renew", "_renew_lease")  # who lives renews in time: these stop nowhere


@dataclass
class Stop:
    """Where a task of a process waits to be let on, or never."""

    where: str
    free: "asyncio.Future[None]"


class Process:
    """A web process or a worker: what it has in hand, and where each of its tasks stands."""

    def __init__(self, world: "World", name: str) -> None:
        self.world, self.name = world, name
        self.dead = self.frozen = self.has_frozen = False
        self.frozen_s = 0.0
        self.let_go: set[tuple[int, int]] = set()  # jobs and claims
        self.stops: list[Stop] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.worker: work.Worker | None = None
        if name.startswith("worker"):
            self.worker = work.Worker(world.settings, world.database)
            self.begin(self.worker._renew())

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        context = copy_context()
        context.run(_process.set, self)
        task = self.world.loop.create_task(coroutine, context=context)
        self.tasks.append(task)
        self.world.settle()
        return task

    async def stop(self, where: str) -> None:
        if self.dead:
            raise Killed
        free = self.world.loop.create_future()
        self.stops.append(Stop(where, free))
        await free

    def go(self, steps: int | None = None, pick: int = 0) -> None:
        """Let its tasks on, so many steps or until there is nothing left to do."""
        self.frozen = False
        self.world.settle()
        while self.stops and steps != 0:
            self.stops.pop(pick % len(self.stops)).free.set_result(None)
            self.world.tick()
            self.world.settle()
            steps = None if steps is None else steps - 1

    def freeze(self) -> None:
        """It stands still, and knows nothing of it: its leases run out."""
        self.frozen = self.has_frozen = self.world.froze = True

    def kill(self) -> None:
        self.dead = True
        for one in self.stops:
            one.free.set_exception(Killed())
        for task in self.tasks:
            task.cancel()
        self.world.settle()


# The world


class World:
    """One story: a portal on its database, four processors, two web processes and two workers."""

    def __init__(self, house: "House") -> None:
        self.database, self.settings = house.database, house.settings
        self.at = BEGIN
        self.loop = _Loop()
        self.loop.world = self
        self.loop.set_exception_handler(lambda _loop, _context: None)
        self.contracts: dict[str, Contract] = {}
        self.rows: dict[str, int] = {}
        self.fates_of_calls: list[str] = []
        self.fates_of_reads: list[str] = []
        self.arrived: dict[str, list[str]] = defaultdict(list)  # by the key of a wish
        self.effects: dict[str, list[str]] = defaultdict(list)
        self.repeated: Counter[str] = Counter()  # calls that came after their effect
        self.events: list[Event] = []
        self.notices: dict[str, Snapshot] = {}
        self.delivered: Counter[str] = Counter()
        self.acknowledged: set[str] = set()
        self.mails: Counter[int] = Counter()  # by their jobs
        self.subjects: dict[int, tuple[str, int]] = {}
        self.taken: set[int] = set()  # actions of which a customer was told
        self.deaths = 0
        self.froze = False
        self.states: list[str] = []
        self._accounts: dict[str, models.Account] = {}
        self.processes: dict[str, Process] = {}
        house.empty()
        clock.machine = lambda: self.at
        self._furnish()
        for name in ("web-1", "web-2", "worker-1", "worker-2"):
            self.processes[name] = Process(self, name)

    def _furnish(self) -> None:
        portal = make_portal(self.database)
        self.customer = make_customer(self.database, portal)
        for processor, options in SHOPS:
            account = make_account(self.database, portal, processor, {}, options=list(options))
            self._accounts[processor] = account
            contract = Contract(f"sub_{processor}", processor)
            self.contracts[contract.remote_id] = contract
            told = self.tell(contract, self.at, asked=True)
            self.database.write_now(sync.apply, account, told)
            self.tick()
        found = self.database.read_now(lambda db: db.execute(select(models.Subscription)).scalars().all())
        self.rows = {row.remote_id: row.id for row in found}
        view = self.database.read_now(tenancy.portal_by_host, "acme.localhost", "localhost")
        assert view is not None
        self.portal = view
        self.vault = Vault(MASTER_KEY)

    # Time

    @property
    def seconds(self) -> float:
        return (self.at - BEGIN).total_seconds()

    def tick(self) -> None:
        self.at += timedelta(milliseconds=1)

    def settle(self) -> None:
        """Run until everybody waits: for a stop, for time, or for nothing."""
        self.loop.run_until_complete(self._quiet())

    async def _quiet(self) -> None:
        ready: Any = self.loop._ready  # type: ignore[attr-defined]
        still = 0
        while still < 3:
            await asyncio.sleep(0)
            still = 0 if ready else still + 1

    def pass_time(self, span: timedelta) -> None:
        """Who has something in hand lives through it, and renews; where nobody has, it is only a moment."""
        until = self.at + span
        if self.busy():
            until = min(until, self.at + timedelta(seconds=60))
        for process in self.processes.values():
            if process.frozen:
                until = min(until, self.at + timedelta(seconds=25))
                process.frozen_s += (until - self.at).total_seconds()
                process.frozen = process.frozen_s < MOST_FROZEN_S
        while self.at < until:
            self.at = min(until, self.at + timedelta(seconds=3)) if self.busy() else until
            self.settle()
        for contract in self.contracts.values():
            if contract.come_of_age(self.at):
                self.happened(contract)

    def busy(self) -> bool:
        return any(process.stops for process in self.processes.values())

    # What the portal's code is led to

    async def stop(self, where: str) -> None:
        process = _process.get()
        if process is not None:
            await process.stop(where)

    def fate(self, fates: list[str]) -> str:
        return fates.pop(0) if fates else "ok"

    def tell(self, contract: Contract, as_of: datetime, asked: bool = False) -> Snapshot:
        moment = sync._microseconds(as_of)
        contract.said[moment].add(contract.status)
        if asked:
            contract.asked.add(moment)
        return Snapshot(as_of=as_of, subscriptions=(contract.record(),))

    def happened(self, contract: Contract) -> None:
        """The processor has something to tell."""
        self.tick()
        name = f"evt_{len(self.events)}"
        self.events.append(Event(name, "changed", Ref("subscription", contract.remote_id), self.at))
        if contract.processor in TELLING:
            self.notices[name] = self.tell(contract, self.at)

    async def send(
        self,
        _database: Database,
        _settings: Settings,
        jobs: Any,
        _last: Any = (),
        ids: Any = (),
        taken: Any = None,
        _homes: Any = (),
    ) -> list[None]:
        """The mail server takes everything."""
        for number, (_kind, payload) in enumerate(jobs):
            await self.stop("before the mail")
            self.mails[ids[number]] += 1
            self.subjects[ids[number]] = (
                payload["template"],
                payload.get("action") or payload["request"],
            )
            await taken(number)
        return [None] * len(jobs)

    # What people and processors do

    def click(self, remote: str, wish: str, web: str, steps: int | None) -> None:
        process = self.processes[web]
        process.begin(self._perform(self.rows[remote], wish))
        process.go(steps)

    async def _perform(self, subscription: int, wish: Any) -> None:
        with contextlib.suppress(actions.Refused):
            done = await actions.perform(
                self.database,
                self.settings,
                self.vault,
                self.portal,
                self.customer.id,
                subscription,
                wish,
            )
            if done.phase != "asked":  # of the merchant: a row of another table
                self.taken.add(done.action_id)
            if done.leave is not None:
                action = self.action(done.action_id)
                self.states.append(str(action.id))

    def come_back(self, action_id: int, changed: bool, web: str) -> None:
        """Somebody is back from the processor's page, having changed how they pay or not."""
        action = self.action(action_id)
        contract = self.contract_of(action.subscription_id)
        if changed and contract.status != "cancelled":
            contract.method = f"card_{len(self.events) + 2}"
            self.happened(contract)
        process = self.processes[web]
        process.begin(self.database.write(_spend, action_id, clock.now()))
        process.go()

    def look_again(self, remote: str, web: str) -> None:
        process = self.processes[web]
        about = (self.portal.id, self.customer.id, self.rows[remote], "update_payment_method")
        process.begin(self.database.write(actions.look_again, *about, clock.now()))
        process.go()

    def deliver(self, number: int, web: str, steps: int | None = None) -> None:
        event = self.events[number]
        self.delivered[event.id] += 1
        process = self.processes[web]
        process.begin(self._receive(event))
        process.go(steps)

    async def _receive(self, event: Event) -> None:
        assert event.subject is not None
        account = self._accounts[self.contracts[event.subject.id].processor]
        await self.database.write(webhooks.store, account, [event], [], b"{}", clock.now())
        self.acknowledged.add(event.id)

    def work(self, name: str, steps: int | None, pick: int = 0) -> None:
        process = self.processes[name]
        assert process.worker is not None
        process.begin(process.worker.once())
        process.go(steps, pick)

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.deaths += 1
        self.processes[name] = Process(self, name)

    def elsewhere(self, remote: str, change: str) -> None:
        """The merchant does something at the processor."""
        contract = self.contracts[remote]
        if contract.do(change):
            self.happened(contract)

    # Looking

    def action(self, action_id: int) -> models.Action:
        return self.database.read_now(lambda db: db.get_one(models.Action, action_id))

    def contract_of(self, subscription: int) -> Contract:
        return next(self.contracts[one] for one, row in self.rows.items() if row == subscription)

    def all(self, model: type[Any]) -> list[Any]:
        return list(self.database.read_now(lambda db: db.execute(select(model)).scalars().all()))

    def open_at(self, remote: str) -> bool:
        return any(
            one.closed_at is None and one.subscription_id == self.rows[remote]
            for one in self.all(models.Action)
        )

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
        self.settle()
        self.loop.close()

    # The end of all faults

    def calm(self) -> None:
        """Faults stop: whoever is in the middle of something finishes it, what was not delivered comes, and everything
        that is due is done when it is due."""
        self.fates_of_calls.clear()
        self.fates_of_reads.clear()
        for process in self.processes.values():
            process.go()
        until = self.at + PATIENCE
        for _ in range(MOST_TURNS):
            for number, event in enumerate(self.events):
                if event.id not in self.acknowledged:
                    self.deliver(number, "web-1")
            before = self._open_jobs()
            self.work("worker-1", None)
            if self._open_jobs() != before:
                continue
            due = next_due(self.database)
            if due is None or due > until:
                return
            self.pass_time(max(due - self.at, timedelta(milliseconds=1)))
        left = [
            (job.kind, job.payload, job.run_at, job.locked_until, job.error)
            for job in self.all(models.Job)
            if job.done_at is None
        ]
        raise AssertionError(f"it never comes to rest: {left}")

    def _open_jobs(self) -> list[Any]:
        row = models.Job
        found = select(col(row.id), col(row.run_at), col(row.done_at)).order_by(col(row.id))
        return list(self.database.read_now(lambda db: db.execute(found).all()))


def _spend(db: Any, action_id: int, now: datetime) -> None:
    """As `spend_state` does by the secret, which is in nobody's hands here."""
    state = f"state-{action_id}"
    action = db.get_one(models.Action, action_id)
    if action.state_hash is not None:
        action.state_hash = actions._hash(state)
        db.flush()
    actions.spend_state(db, state, {}, now)


# What is promised


@dataclass
class Promises:
    """What holds after each step, and at the end; remembers what must not go back."""

    world: World
    stamps: dict[int, int] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    closed: dict[int, str] = field(default_factory=dict)

    def hold(self) -> None:
        actions_now = self.world.all(models.Action)
        self._one_call_for_each_wish(actions_now)
        self._one_open_wish_at_a_time(actions_now)
        self._what_is_closed_stays_so(actions_now)
        self._shown_as_last_told()
        self._mails()
        self._what_is_held_is_held()

    def _one_call_for_each_wish(self, found: list[models.Action]) -> None:
        world = self.world
        for action in found:
            key = f"portal-{action.id}"
            effects, arrived = world.effects[key], world.arrived[key]
            if not world.froze:
                assert not world.repeated[key], f"{action.capability} was sent after it was done: {arrived}"
            if action.capability not in CANCELS:
                assert len(arrived) <= 1, f"{action.capability} was sent {len(arrived)} times"
            if effects and action.phase == "failed":
                raise AssertionError(f"{action.capability} was given back as not done, and was done")
        known = {f"portal-{action.id}" for action in found}
        assert not [key for key in world.arrived if key not in known], "a call without a wish that was kept"

    def _one_open_wish_at_a_time(self, found: list[models.Action]) -> None:
        open_ones = Counter(action.subscription_id for action in found if action.closed_at is None)
        assert all(many == 1 for many in open_ones.values()), "two wishes are open for one subscription"

    def _what_is_closed_stays_so(self, found: list[models.Action]) -> None:
        for action in found:
            before = self.closed.get(action.id)
            if before is not None:
                assert action.phase == before, f"{action.capability} went from {before} to {action.phase}"
            if action.phase in ("confirmed", "failed", "undone", "scheduled"):
                self.closed[action.id] = action.phase

    def _shown_as_last_told(self) -> None:
        world = self.world
        for row in world.all(models.Subscription):
            contract = world.contracts[row.remote_id]
            stamp = row.stamps.get("status", row.stamps.get("*", -1))
            before = self.stamps.get(row.id, -1)
            assert stamp >= before, f"{row.remote_id} went back to an older word"
            self.stamps[row.id] = stamp
            assert row.status in contract.said[stamp], (
                f"{row.remote_id} is shown {row.status}, but {contract.said[stamp]} was the newest word"
            )
            if row.status in actions.ENDED:
                self.ended.add(row.id)
            elif row.id in self.ended:
                assert stamp in contract.asked, f"{row.remote_id} came back without being asked about"
                self.ended.discard(row.id)

    def _what_is_held_is_held(self) -> None:
        """Nobody lets go of a job that another one has in hand."""
        held_by = {job.id: job.locked_by for job in self.world.all(models.Job)}
        for process in self.world.processes.values():
            if process.worker is None or process.has_frozen:
                continue
            for job in process.worker._held.values():
                if (job.id, job.claim) not in process.let_go:
                    assert held_by[job.id] == job.claim, f"{job.kind} was taken out of {process.name}'s hands"

    def _mails(self) -> None:
        for job, many in self.world.mails.items():
            assert self.world.froze or many <= 1 + self.world.deaths, (
                f"{self.world.subjects[job]} went out {many} times"
            )
        if not self.world.froze:
            assert sum(self.world.mails.values()) - len(self.world.mails) <= self.world.deaths
        about = Counter(self.world.subjects.values())
        assert all(many == 1 for many in about.values()), f"told twice: {about}"

    def hold_at_the_end(self) -> None:
        world = self.world
        self.hold()
        handled = {one.event_id for one in world.all(models.Event) if one.handled_at is not None}
        assert world.acknowledged <= handled, f"never handled: {world.acknowledged - handled}"
        parked = [f"{job.kind}: {job.error}" for job in world.all(models.Job) if job.parked_at is not None]
        assert not parked, f"set aside: {parked}"
        late = [job.kind for job in world.all(models.Job) if job.done_at is None and job.run_at <= world.at]
        assert not late, f"due and not done: {late}"
        held = [job.kind for job in world.all(models.Job) if job.done_at and job.locked_by]
        assert not held, f"done and still held: {held}"
        found = {one.id: one for one in world.all(models.Action)}
        stuck = [f"{one.capability} {one.phase}" for one in found.values() if one.closed_at is None]
        assert not [one for one in stuck if not one.endswith(" away")], f"never came to an end: {stuck}"
        assert world.taken <= found.keys(), "a wish that was taken is gone"
        self._came_true(found)
        for row in world.all(models.Subscription):
            status = world.contracts[row.remote_id].status
            assert row.status == status or row.doubted_at, f"{row.remote_id}: {row.status}, truly {status}"

    def _came_true(self, found: dict[int, models.Action]) -> None:
        """Each wish that is confirmed was done by somebody, and its customer has the mail."""
        told = Counter(self.world.subjects.values())
        for action in found.values():
            mail = actions._MAILS.get(action.capability)
            if action.phase in ("confirmed", "scheduled", "undone") and mail:
                wanted = 0 if action.params.get("scheduled") else 1
                assert told[(mail, action.id)] == wanted, f"{action.capability} {action.phase}: {told}"
            if action.phase == "failed":
                assert not told[(mail or "", action.id)], (
                    f"{action.capability} failed, and a mail says it did not"
                )


# The house, once, and the machine


class House:
    """A database file that is emptied for each story, and the portal's code led to what is played."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(
            database_url=f"sqlite:///{folder}/portal.db",
            master_keys=MASTER_KEY,
            secret_key="a secret of thirty-two characters",
            scheme="http",
            base_domain="localhost",
        )
        upgrade(self.settings.database_url)
        quick = tuple(one for one in db.PRAGMAS if not one.startswith("synchronous"))
        with patch.object(db, "PRAGMAS", (*quick, "synchronous = OFF")):
            self.database = Database(self.settings.database_url, 1)
            self.database.read_now(lambda db: db.execute(text("SELECT 1")).scalar())
        self._tables = [table.name for table in reversed(models.metadata.sorted_tables)]
        self.world: World | None = None

    def empty(self) -> None:
        def clear(db: Any) -> None:
            for name in self._tables:
                db.execute(text(f"DELETE FROM {name}"))

        self.database.write_now(clear)

    @contextlib.contextmanager
    def led(self) -> Iterator[None]:
        """The portal's own code, with its processors, its mail server, its time and its threads played."""
        machine = clock.machine

        async def read(database: Database, fn: Any, *args: Any, **kwargs: Any) -> Any:
            process = _process.get()
            if process is not None and process.dead:
                raise Killed
            return database.read_now(fn, *args, **kwargs)

        async def write(database: Database, fn: Any, *args: Any, **kwargs: Any) -> Any:
            process, name = _process.get(), getattr(fn, "__name__", "")
            if name in _ALWAYS and process is not None and process.frozen:
                return None
            if name in _LETTING_GO and process is not None:
                process.let_go |= {(job.id, job.claim) for job in _LETTING_GO[name](*args)}
            if process is None or name in _ALWAYS:
                return await read(database, lambda _db: database.write_now(fn, *args, **kwargs))
            await process.stop(f"before {name}")
            done = database.write_now(fn, *args, **kwargs)
            await process.stop(f"after {name}")
            return done

        def opened(_settings: Any, _vault: Any, account: models.Account, **_how: Any) -> Gateway:
            assert self.world is not None
            return Pretended(self.world, account.processor)

        async def send(*args: Any) -> Any:
            assert self.world is not None
            return await self.world.send(*args)

        def seconds() -> float:
            assert self.world is not None
            return self.world.seconds

        with (
            patch.object(Database, "read", read),
            patch.object(Database, "write", write),
            patch.object(actions, "open_gateway", opened),
            patch.object(work, "open_gateway", opened),
            patch.object(letters, "send", send),
            patch.object(work, "time", SimpleNamespace(monotonic=seconds)),
            structlog.testing.capture_logs(),
        ):
            try:
                yield
            finally:
                clock.machine = machine

    def close(self) -> None:
        self.database.dispose()


REMOTES = st.sampled_from([f"sub_{processor}" for processor, _options in SHOPS])
WEBS = st.sampled_from(["web-1", "web-2"])
WORKERS = st.sampled_from(["worker-1", "worker-2"])
EVERYBODY = st.sampled_from(["web-1", "web-2", "worker-1", "worker-2"])
STEPS = st.one_of(st.none(), st.integers(0, 9))  # None: as far as it goes
SPANS = st.sampled_from([1, 4, 16, 21, 65, 180, 1000, 4000, 90_000, 86_400 * 16, 86_400 * 5])


class Machine(RuleBasedStateMachine):
    """What may happen, in any order."""

    house: ClassVar[House]

    def __init__(self) -> None:
        super().__init__()
        self.world = self.house.world = World(self.house)
        self.promises = Promises(self.world)

    @rule(remote=REMOTES, wish=st.sampled_from(WISHES), web=WEBS, steps=STEPS)
    def click(self, remote: str, wish: str, web: str, steps: int | None) -> None:
        self.world.click(remote, wish, web, steps)

    @rule(remote=REMOTES, wish=st.sampled_from(WISHES), steps=st.integers(1, 4))
    def click_at_both(self, remote: str, wish: str, steps: int) -> None:
        self.world.click(remote, wish, "web-1", steps)
        self.world.click(remote, wish, "web-2", None)

    @rule(remote=REMOTES, wish=st.sampled_from(WISHES), steps=st.integers(1, 8))
    def click_and_die(self, remote: str, wish: str, steps: int) -> None:
        self.world.click(remote, wish, "web-1", steps)
        self.world.kill("web-1")

    @rule(name=WORKERS, steps=STEPS, pick=st.integers(0, 3))
    def work(self, name: str, steps: int | None, pick: int) -> None:
        self.world.work(name, steps, pick)

    @rule(name=EVERYBODY, steps=STEPS, pick=st.integers(0, 3))
    def go_on(self, name: str, steps: int | None, pick: int) -> None:
        self.world.processes[name].go(steps, pick)

    @rule(name=EVERYBODY)
    def die(self, name: str) -> None:
        self.world.kill(name)

    @rule(name=EVERYBODY, seconds=st.sampled_from([16, 25]))
    def freeze(self, name: str, seconds: int) -> None:
        if self.world.processes[name].stops:
            self.world.processes[name].freeze()
            self.world.pass_time(timedelta(seconds=seconds))

    @rule(seconds=SPANS)
    def time_passes(self, seconds: int) -> None:
        self.world.pass_time(timedelta(seconds=seconds))

    @rule(fate=st.sampled_from(FATES))
    def next_call_fails(self, fate: str) -> None:
        self.world.fates_of_calls.append(fate)

    @rule()
    def next_look_fails(self) -> None:
        self.world.fates_of_reads.append("down")

    @precondition(lambda self: self.world.events)
    @rule(data=st.data(), web=WEBS, steps=STEPS, times=st.integers(1, 2))
    def webhook(self, data: st.DataObject, web: str, steps: int | None, times: int) -> None:
        number = data.draw(st.integers(0, len(self.world.events) - 1))
        for _ in range(times):
            self.world.deliver(number, web, steps)

    @rule(
        remote=REMOTES,
        change=st.sampled_from(["cancel_now", "brought_back", "cancel_at_period_end", "undo_cancel"]),
    )
    def elsewhere(self, remote: str, change: str) -> None:
        if not self.world.open_at(remote):
            self.world.elsewhere(remote, change)

    @precondition(lambda self: self.world.states)
    @rule(changed=st.booleans(), web=WEBS, data=st.data())
    def come_back(self, changed: bool, web: str, data: st.DataObject) -> None:
        self.world.come_back(int(data.draw(st.sampled_from(self.world.states))), changed, web)

    @rule(remote=REMOTES, web=WEBS)
    def look_again(self, remote: str, web: str) -> None:
        self.world.look_again(remote, web)

    @invariant()
    def promises_hold(self) -> None:
        self.promises.hold()

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.world.calm()
                self.promises.hold_at_the_end()
        finally:
            self.world.close()


def run(examples: int, steps: int, seeded: int | None = None, shrink: bool = True) -> None:
    """So many stories of so many steps; without a seed the same ones each time. AssertionError tells the shortest."""
    wanted = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=seeded is None,
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    folder = Path(tempfile.mkdtemp(prefix="portal-machine-"))
    house = House(folder)
    Machine.house = house
    machine: Any = Machine if seeded is None else seed(seeded)(Machine)
    try:
        with house.led():
            run_state_machine_as_test(machine, settings=wanted)
    finally:
        house.close()
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--quick", action="store_true", help="of what is found, tell the first and not the shortest"
    )
    options = parser.parse_args()
    begun = time.monotonic()
    run(options.examples, options.steps, options.seed, shrink=not options.quick)
    took = time.monotonic() - begun
    print(f"{options.examples} stories of up to {options.steps} steps: everything held ({took:.0f} s)")


if __name__ == "__main__":
    main()
