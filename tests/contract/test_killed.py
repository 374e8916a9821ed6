"""A process dies around a call to a processor: before and after the wish is taken, the call is made and its answer is
kept, and before the mail. Whatever the moment: one call arrives there, the wish is fulfilled, and nothing is stuck a
minute later. What dies is played by an error that nothing catches, and then by a fresh worker on the same database."""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from bench.processes import next_due
from portal import actions, clock, letters, models, offers, tenancy
from portal.db import Database
from portal.gateways import adapter, facts, http, processors
from portal.gateways.base import Gateway
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
# Midtrans has one word for what was cancelled and for what is only disabled: looking proves nothing, so a cancel of
# which nobody heard the answer (two of the seven) is sent again. It changes nothing then. Razorpay shows nowhere that a
# subscription will end with its cycle.
SENT_AGAIN: dict[tuple[str, Key], int] = {
    ("midtrans", "cancel_now"): 2,
    ("razorpay", "cancel_at_period_end"): 2,
}


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
def mails(monkeypatch: pytest.MonkeyPatch) -> dict[str, Counter[str]]:
    """The Message-IDs of what the mail server took, by recipient."""
    found: dict[str, Counter[str]] = defaultdict(Counter)

    async def take(_settings: Any, messages: Any, taken: Any = None) -> list[Outcome | None]:
        for number, (to, message) in enumerate(messages):
            found[to][str(message["message-id"])] += 1
            if taken is not None:
                await taken(number)
        return [None] * len(messages)

    monkeypatch.setattr(letters, "send_batch", take)
    return found


@dataclass
class Came:
    """What a wish came to, at the processor and here."""

    steps: list[Any]  # how the subscription stood at the processor, one after the other
    shown: str
    phase: str
    mails: int
    most_of_one_mail: int
    access: bool


@dataclass
class Story:
    """Some people cancel, each with a death around it or with none; then a minute passes."""

    house: House
    key: Key
    mails: dict[str, Counter[str]]

    def run(self, kills: Mapping[str, Callable[[], pytest.MonkeyPatch] | None]) -> dict[str, Came]:
        """What each came to, by the name of its kill. `calls`, `notices` and `open_jobs` are of all together."""
        house = self.house
        self.mails.clear()
        people = {}
        for name in kills:
            email = house.newcomer()
            row = house.stage(Situation(), email)
            assert row is not None
            people[name] = (email, row, Steps(house, row.remote_id))
        before = len(house.simulator.calls)
        for name, kill in kills.items():
            with contextlib.ExitStack() as done:
                if kill is not None:
                    done.callback(kill().undo)
                self._cancel(people[name][1])
                people[name][2].look()
                if name.endswith("the mail"):  # which a worker sends
                    with contextlib.suppress(Killed):
                        asyncio.run(Worker(house.settings, house.database).drain())
        self._pass_a_minute([steps for _email, _row, steps in people.values()])
        changes = [
            one for one in house.simulator.calls[before:] if house.simulator.changes(one.method, one.path)
        ]
        self.calls = [f"{one.method} {one.path}" for one in changes]
        self.notices = sum(len(found) for to, found in self.mails.items() if not to.startswith("person"))
        self.open_jobs = _open_jobs(house)
        return {name: self._came(*one) for name, one in people.items()}

    def _cancel(self, row: models.Subscription) -> None:
        house = self.house
        view = house.database.read_now(tenancy.portal_by_host, HOST, "localhost")
        assert view is not None
        assert row.customer_id is not None
        for _ in range(2):  # where no page came at all, they press again
            with contextlib.suppress(Killed):
                asyncio.run(
                    actions.perform(
                        house.database,
                        house.settings,
                        Vault(MASTER_KEY),
                        view,
                        row.customer_id,
                        row.id,
                        self.key,
                    )
                )
            if house.action(row) is not None:
                return

    def _pass_a_minute(self, watched: list["Steps"]) -> None:
        house = self.house
        until = clock.now() + timedelta(seconds=60)
        while (moment := next_due(house.database)) is not None and moment < until:
            clock.set_offset(clock.offset() + max(moment - clock.now(), timedelta(0)))
            http._breakers.clear()
            house.worker = Worker(house.settings, house.database)  # another process each time
            house.tell()
            for steps in watched:
                steps.look()
        clock.set_offset(clock.offset() + max(until - clock.now(), timedelta(0)))

    def _came(self, email: str, row: models.Subscription, steps: "Steps") -> Came:
        action = self.house.action(row)
        assert action is not None
        after = self.house.row(row.id)
        got = self.mails[email]
        return Came(
            steps.seen,
            offers.state_of(after),
            action.phase,
            len(got),
            max(got.values(), default=0),
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


def _open_jobs(house: House) -> int:
    """Jobs that are due and not done, and those that somebody seems to hold."""
    row = models.Job
    due = select(row).where(col(row.done_at).is_(None), col(row.run_at) <= clock.now())
    return len(house.database.read_now(lambda db: db.execute(due).scalars().all()))


@pytest.mark.parametrize("processor", sorted({name for name, _key in cancels()}))
def test_killed_around_a_cancel(
    house: House, processor: str, mails: dict[str, Counter[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All who die are in one house, and so is the minute in which others find what they left."""
    for name in ("READ_S", "TOTAL_S", "PATIENT_S"):  # nothing hangs here
        monkeypatch.setattr(http, name, 30.0)
    for key in KEYS:
        if (processor, key) not in cancels():
            continue
        story = Story(house, key, mails)
        (calm,) = story.run({"nobody": None}).values()
        calls, notices = story.calls, story.notices
        assert calm.phase in ("confirmed", "scheduled"), calm
        assert story.open_jobs == 0
        assert calls
        assert len(calm.steps) <= 2, calm.steps

        def dying(point: str) -> Callable[[], pytest.MonkeyPatch]:
            def arm() -> pytest.MonkeyPatch:
                patch = pytest.MonkeyPatch()
                Kill(patch, house).at(point)
                return patch

            return arm

        came = story.run({point: dying(point) for point in POINTS})
        assert came == dict.fromkeys(POINTS, calm), key
        again = SENT_AGAIN.get((processor, key), 0)
        assert len(story.calls) == len(calls) * len(POINTS) + again, (key, calls, story.calls)
        assert story.open_jobs == 0
        if adapter(processor).foretold is not Gateway.foretold:  # else only the answer tells
            assert story.notices == notices * len(POINTS) > 0
