"""A process dies around a call to a processor: before and after the wish is taken, the call is made and its answer is
kept, and before the mail. Whatever the moment: one effect there, the wish is fulfilled, and nothing is stuck a minute
later. What dies is played by an error that nothing catches, and then by a fresh worker on the same database."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from portal import actions, clock, letters, models, offers, tenancy
from portal.db import Database
from portal.gateways import facts, http, processors
from portal.gateways.capabilities import Key
from portal.mail import Outcome
from portal.vault import Vault
from portal.work import Worker
from seeds.simulators.harness import Situation
from tests.contract.house import HOST, House
from tests.unit.builders import MASTER_KEY

KEYS: tuple[Key, ...] = ("cancel_now", "cancel_at_period_end")
POINTS = (
    "before the wish is taken",
    "after the wish is taken",
    "before the call",
    "after the call",
    "before the answer is kept",
    "after the answer is kept",
    "before the mail",
)
# Where the access is kept and the call is that of a cancel for today, only what is kept is another matter.
KEPT = ("after the wish is taken", "after the call")


class Killed(BaseException):
    """As if by `kill -9`: nobody catches it."""


def cancels() -> list[tuple[str, Key]]:
    return [
        (name, key)
        for name in processors()
        for key in KEYS
        if facts(name).capabilities[key].mode in ("direct", "emulated")
    ]


@dataclass
class Kill:
    """Kills once, at the point it is given."""

    monkeypatch: pytest.MonkeyPatch
    house: House

    def at(self, point: str) -> None:
        when, _, what = point.partition(" ")
        match what:
            case "the wish is taken":
                self._around_write("claim", when)
            case "the answer is kept":
                self._around_write("_answered", when)
            case "the call":
                self._around_call(when)
            case "the mail":
                self._around_mails()

    def _around_write(self, name: str, when: str) -> None:
        """Around one transaction: before it is committed, which is as if it had not begun, or after."""
        write = Database.write
        pending = [name]

        async def dying(database: Database, fn: Any, *args: Any, **kwargs: Any) -> Any:
            if pending != [getattr(fn, "__name__", "")]:
                return await write(database, fn, *args, **kwargs)
            pending.clear()
            if when == "after":
                await write(database, fn, *args, **kwargs)
                raise Killed

            def cut(db: Any) -> None:
                fn(db, *args, **kwargs)
                raise Killed

            return await write(database, cut)

        self.monkeypatch.setattr(Database, "write", dying)

    def _around_call(self, when: str) -> None:
        call = actions._call
        pending = [True]

        async def dying(*args: Any) -> Any:
            if not pending:
                return await call(*args)
            pending.clear()
            if when == "after":
                await call(*args)
            raise Killed

        self.monkeypatch.setattr(actions, "_call", dying)

    def _around_mails(self) -> None:
        send = letters.send
        pending = [True]

        async def dying(*args: Any, **kwargs: Any) -> Any:
            if not pending:
                return await send(*args, **kwargs)
            pending.clear()
            raise Killed

        self.monkeypatch.setattr(letters, "send", dying)


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The Message-IDs of what the mail server took for the customer."""
    found: Counter[str] = Counter()

    async def take(_settings: Any, messages: Any, taken: Any = None) -> list[Outcome | None]:
        for number, (to, message) in enumerate(messages):
            if to.startswith("person"):  # what the merchant is told of an answer needs that answer
                found[str(message["message-id"])] += 1
            if taken is not None:
                await taken(number)
        return [None] * len(messages)

    monkeypatch.setattr(letters, "send_batch", take)
    return found


@dataclass
class Came:
    """What a story came to, at the processor and here."""

    steps: list[Any]  # how the subscription stood at the processor, one after the other
    shown: str
    phase: str
    open_jobs: int
    mails: int
    most_of_one_mail: int
    access: bool


def story(house: House, key: Key, mails: Counter[str], kill: Callable[[], None] | None) -> Came:
    """Somebody cancels; whoever carries it out may be killed; the minute after that."""
    house.reset()
    mails.clear()
    row = house.stage(Situation())
    assert row is not None
    assert row.customer_id is not None
    view = house.database.read_now(tenancy.portal_by_host, HOST, "localhost")
    assert view is not None
    steps = Steps(house, row.remote_id)
    if kill is not None:
        kill()
    for _ in range(2):  # where no page came at all, they press again
        with contextlib.suppress(Killed):
            asyncio.run(
                actions.perform(
                    house.database, house.settings, Vault(MASTER_KEY), view, row.customer_id, row.id, key
                )
            )
        if house.action(row) is not None:
            break
    steps.look()
    until = clock.now() + timedelta(seconds=60)
    while (moment := _next(house)) is not None and moment < until:
        clock.set_offset(clock.offset() + max(moment - clock.now(), timedelta(0)))
        http._breakers.clear()
        house.worker = Worker(house.settings, house.database)  # another process each time
        with contextlib.suppress(Killed):
            house.tell()
        steps.look()
    clock.set_offset(clock.offset() + max(until - clock.now(), timedelta(0)))
    action = house.action(row)
    assert action is not None
    after = house.row(row.id)
    return Came(
        steps.seen,
        offers.state_of(after),
        action.phase,
        _open_jobs(house),
        len(mails),
        max(mails.values(), default=0),
        after.access_until is not None,
    )


class Steps:
    """How a subscription stands at the processor, each time it is another way than before."""

    def __init__(self, house: House, remote: str) -> None:
        self._house, self._remote = house, remote
        self.seen: list[Any] = []
        self.look()

    def look(self) -> None:
        one = self._house.simulator.standing(self._remote)
        now = (one.raw, one.charges, one.payments, one.amount)
        if not self.seen or self.seen[-1] != now:
            self.seen.append(now)


def _next(house: House) -> datetime | None:
    """When the next thing can be done: as soon as it is due and nobody holds it any more."""
    row = models.Job
    waiting = select(col(row.run_at), col(row.locked_until)).where(
        col(row.done_at).is_(None), col(row.parked_at).is_(None)
    )
    found = house.database.read_now(lambda db: db.execute(waiting).all())
    moments = [max(at, held + timedelta(milliseconds=1)) if held else at for at, held in found]
    return min(moments, default=None)


def _open_jobs(house: House) -> int:
    """Jobs that are due and not done, and those that somebody seems to hold."""
    row = models.Job
    due = select(row).where(col(row.done_at).is_(None), col(row.run_at) <= clock.now())
    return len(house.database.read_now(lambda db: db.execute(due).scalars().all()))


@pytest.mark.parametrize("processor", sorted({name for name, _key in cancels()}))
def test_killed_around_a_cancel(
    house: House, processor: str, mails: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in KEYS:
        if (processor, key) not in cancels():
            continue
        calm = story(house, key, mails, None)
        assert calm.phase in ("confirmed", "scheduled"), calm
        assert calm.open_jobs == 0
        assert len(calm.steps) <= 2, calm.steps
        same = key == "cancel_at_period_end" and facts(processor).capabilities[key].how == "keep"
        for point in KEPT if same else POINTS:
            with monkeypatch.context() as patch:
                killed = story(house, key, mails, lambda p=point, m=patch: Kill(m, house).at(p))  # type: ignore[misc]
            assert killed == calm, f"{key}, {point}"
