"""`kill -9` under load: is an acknowledged event ever lost, and does anything ever happen twice?

    python -m bench.crash --events 10000 --kills 100 --database sqlite|postgresql|pgbouncer
        [--skew 600] [--seed 1] [--form table]

A web process and two workers, all real, on a database of their own. Signed webhooks come over several connections, each
sent again until it is acknowledged, as a processor does, and some once more after that; meanwhile customers cancel, and
payments fail. At random moments one of the processes is killed and started again. Then it is counted: what was kept and
handled, what the processor was asked to do, which mails arrived, and whether the database is sound.

With a skew, which PostgreSQL alone allows, the clock of one worker is so many seconds ahead and the other's behind.

Exits 1 where anything is lost, done twice or unsound, or where what had been taken in by the last start is not done
30 s after it.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
from sqlalchemy import text

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.processes import Installation, Nursery, installation, show
from portal import clock
from portal.ids import id_text
from seeds.simulators.harness import Delivery, Situation
from seeds.simulators.stripe import Simulator, event, sign

PROCESSES = ("web", "worker-1", "worker-2")
CONNECTIONS = 8
AGAIN = 0.05  # of what was acknowledged comes once more
LIMIT_S = 30.0  # from the last start until all is done that had been taken in by then
PATIENCE_S = 600.0  # after which we stop looking


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "pgbouncer"], default="sqlite")
    parser.add_argument("--skew", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--form", choices=["lines", "table", "json"], default="lines")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        nursery = stack.enter_context(contextlib.closing(Nursery())) if options.skew else None
        found = run(options.database, options.events, options.kills, options.seed, nursery, options.skew)
    show(found, options.form)
    sys.exit(0 if is_sound(found) and found["backlog_s"] <= LIMIT_S else 1)


def is_sound(found: dict[str, Any]) -> bool:
    """Nothing lost, nothing twice, nothing stuck, nothing broken. Times apart."""
    wrong = ("lost", "kept_twice", "unhandled", "parked", "cancels_lost", "cancels_twice", "stale")
    mails = ("mails_lost", "mails_twice")
    return not any(found[name] for name in (*wrong, *mails)) and not found["unsound"]


def run(
    database: str,
    events: int,
    kills: int,
    seed: int = 1,
    nursery: Nursery | None = None,
    skew_s: float = 0.0,
) -> dict[str, Any]:
    """The whole story, once. With a nursery, starts take no seconds: for a small load with many kills."""
    with installation(database, "stripe", nursery=nursery) as house:
        return asyncio.run(Storm(house, events, kills, seed, skew_s).blow())


@dataclass
class Storm:
    """The load, the kills, and what was seen of them."""

    house: Installation
    events: int
    kills: int
    seed: int
    skew_s: float = 0.0
    acknowledged: set[str] = field(default_factory=set)
    killed: Counter[str] = field(default_factory=Counter)
    tries: int = 0
    answers: Counter[int] = field(default_factory=Counter)  # of the webhooks, by status

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        people = max(6, self.events // 100)
        self.cancelling = [f"cancels{number}@example.com" for number in range(people)]
        self.failing = [f"fails{number}@example.com" for number in range(people)]
        self.subscriptions: dict[str, str] = {}
        self.progress = asyncio.Condition()

    async def blow(self) -> dict[str, Any]:
        begun = time.monotonic()
        house = self.house
        for name in PROCESSES:
            self._start(name)
        self._buy()
        house.wait_for("web")
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            self.client = client
            await self._deliver_all(self._take_posted())  # so that everybody's subscription is known
            await self._until_handled()
            waiting = self._make_events()
            killing = asyncio.create_task(self._kill())
            pressing = asyncio.create_task(self._press())
            await self._deliver_all(waiting)
            backlog, _pressed = await asyncio.gather(killing, pressing)
            while posted := self._take_posted():
                await self._deliver_all(posted)
            await self._until_handled()
            while posted := self._take_posted():  # what cancels that were finished late have led to
                await self._deliver_all(posted)
                await self._until_handled()
        return self._count() | {
            "backlog_s": round(backlog, 1),
            "seconds": round(time.monotonic() - begun, 1),
        }

    # The load

    def _buy(self) -> None:
        simulator = self.house.simulator
        for email in (*self.cancelling, *self.failing):
            remote = simulator.stage(self.house.sample, email, Situation())
            assert remote is not None
            self.subscriptions[email] = remote

    def _make_events(self) -> list[Delivery]:
        """So many events about what people have; among them, one after the other, payments that fail."""
        assert isinstance(self.house.simulator, Simulator)
        shop = self.house.simulator.account(self.house.sample)
        out: list[Delivery] = []
        for email in self.failing:
            shop.fail_renewal(self.subscriptions[email])
        out += self._take_posted()
        remotes = list(self.subscriptions.values())
        for number in range(self.events - len(out)):
            obj = {"id": remotes[number % len(remotes)], "object": "subscription", "status": "active"}
            body = event("customer.subscription.updated", obj, event_id=f"evt_storm{number:07}")
            out.append(Delivery("", {}, body))
        self.random.shuffle(out)
        return out

    def _take_posted(self) -> list[Delivery]:
        posted, self.house.posted[:] = list(self.house.posted), []
        return posted

    async def _deliver_all(self, deliveries: list[Delivery]) -> None:
        queue = iter(deliveries)

        async def connection() -> None:
            for one in queue:
                await self._deliver(one)
                if self.random.random() < AGAIN:
                    await self._deliver(one)

        await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))

    async def _deliver(self, one: Delivery) -> None:
        """Until it is acknowledged."""
        secret = self.house.sample.credentials["webhook_secret"]
        while True:
            self.tries += 1
            signed = {"Stripe-Signature": sign(secret, one.body, clock.now())}  # anew each time, as they do
            headers = {"content-type": "application/json", **one.headers, **signed}
            try:
                url = f"{self.house.url('web')}/webhooks/{self.house.account.token}"
                answer = await self.client.post(url, content=one.body, headers=headers)
            except httpx.HTTPError:
                await asyncio.sleep(0.1)
                continue
            self.answers[answer.status_code] += 1
            if answer.status_code == 200:
                async with self.progress:
                    self.acknowledged.add(json.loads(one.body)["id"])
                    self.progress.notify_all()
                return
            if answer.status_code < 500:
                raise RuntimeError(f"a true delivery was refused: {answer.status_code} {answer.text}")
            await asyncio.sleep(0.1)

    async def _press(self) -> None:
        """Each customer cancels for today, and presses again where the page did not come."""
        at = {
            email: number * self.events // len(self.cancelling)
            for number, email in enumerate(self.cancelling)
        }
        ids: dict[str, int] = self.house.database.read_now(
            lambda db: dict(db.execute(text("SELECT remote_id, id FROM subscription")).all())
        )
        for email, moment in at.items():
            await self._reached(moment * 0.8)
            headers = self.house.sign_in(email)
            path = f"/customers/subscriptions/{id_text(ids[self.subscriptions[email]])}/cancel"
            while True:
                try:
                    url = self.house.url("web") + path
                    answer = await self.client.post(url, headers=headers, data={"wish": "cancel_now"})
                except httpx.HTTPError:
                    await asyncio.sleep(0.1)
                    continue
                if answer.status_code < 500:
                    break
                await asyncio.sleep(0.1)

    async def _reached(self, place: float) -> None:
        """Until so many events are acknowledged."""
        async with self.progress:
            await self.progress.wait_for(lambda: len(self.acknowledged) >= place)

    # The kills

    async def _kill(self) -> float:
        """At random places of the load; whoever is killed is started again at once. Seconds from the last start until
        all is done that had been taken in by then; more comes all the time."""
        places = sorted(self.random.random() * self.events * 0.95 for _ in range(self.kills))
        for place in places:
            await self._reached(place)
            await asyncio.sleep(self.random.random() * 0.3)
            name = self.random.choice(PROCESSES)
            self.house.kill(name)
            self.killed[name.partition("-")[0]] += 1
            self._start(name)
        begun, at = time.monotonic(), clock.now()
        await self._until_handled(at)
        return time.monotonic() - begun

    def _start(self, name: str) -> None:
        """With the clock of its machine."""
        self.house.start(name, {"worker-1": self.skew_s, "worker-2": -self.skew_s}.get(name, 0.0))

    async def _until_handled(self, until: datetime | None = None) -> None:
        """Wait until nothing is left to do of what was taken in until then, or of anything."""
        begun = time.monotonic()
        while left := self._left(until):
            if time.monotonic() - begun > PATIENCE_S:
                raise RuntimeError(f"still not done: {left}\n{self.house.log()[-3000:]}")
            await asyncio.sleep(0.1)

    def _left(self, until: datetime | None = None) -> dict[str, int]:
        now = clock.now()
        open_ = "done_at IS NULL AND parked_at IS NULL"
        asked = {
            "events": "event WHERE handled_at IS NULL AND parked_at IS NULL AND received_at <= :until",
            "mails": f"job WHERE kind = 'mail' AND {open_} AND created_at <= :until",
            "actions": "action WHERE closed_at IS NULL AND created_at <= :until",
            "due": f"job WHERE {open_} AND run_at <= :now AND created_at <= :until",
        }
        moments = {"now": now, "until": until or now + timedelta(days=1)}
        values = moments if self.house.server else {k: v.isoformat(sep=" ") for k, v in moments.items()}
        left = {
            name: self.house.count(f"SELECT count(*) FROM {what}", **values) for name, what in asked.items()
        }
        return {name: number for name, number in left.items() if number}

    # What came of it

    def _count(self) -> dict[str, Any]:
        house, count = self.house, self.house.count
        kept = Counter(
            house.database.read_now(lambda db: db.execute(text("SELECT event_id FROM event")).scalars().all())
        )
        cancelled = Counter(
            json.loads(one.body)["data"]["object"]["id"]
            for one in house.simulator.sent
            if json.loads(one.body)["type"] == "customer.subscription.deleted"
        )
        wished = [self.subscriptions[email] for email in self.cancelling]
        mails = self._mails()
        return {
            "database": "postgresql" if house.server else "sqlite",
            "skew_s": self.skew_s,
            "events": len(self.acknowledged),
            "deliveries": self.tries,
            "kills": sum(self.killed.values()),
            "kills_web": self.killed["web"],
            "kills_worker": self.killed["worker"],
            "lost": len(self.acknowledged - kept.keys()),
            "kept_twice": sum(number > 1 for number in kept.values()),
            "unhandled": count("SELECT count(*) FROM event WHERE handled_at IS NULL"),
            "parked": count("SELECT count(*) FROM job WHERE parked_at IS NOT NULL"),
            "cancels": len(wished),
            "cancels_lost": sum(cancelled[one] == 0 for one in wished),
            "cancels_twice": sum(cancelled[one] > 1 for one in wished),
            "stale": self._stale(),
            **mails,
            "unsound": house.unsound(),
        }

    def _stale(self) -> int:
        """Subscriptions that are shown otherwise than they stand at the processor."""
        words = {"canceled": "cancelled"}
        shown: dict[str, str] = self.house.database.read_now(
            lambda db: dict(db.execute(text("SELECT remote_id, status FROM subscription")).all())
        )
        raw = {one: self.house.simulator.standing(one).raw for one in self.subscriptions.values()}
        return sum(shown.get(one) != words.get(word, word) for one, word in raw.items())

    def _mails(self) -> dict[str, int]:
        """One to each customer: that it is cancelled, or that a payment failed. The same mail (by its Message-ID) may
        come once more where its sender was killed between the mail server's word and ours."""
        different = Counter(to for to, _name in self.house.sink.mails)
        people = [*self.cancelling, *self.failing]
        return {
            "mails": len(self.house.sink.mails),
            "mails_lost": sum(different[one] == 0 for one in people),
            "mails_twice": sum(different[one] > 1 for one in people),
            "mails_repeated": sum(number - 1 for number in self.house.sink.mails.values()),
        }


if __name__ == "__main__":
    main()
