"""What is promised when something around us fails: a processor hangs, a clock is wrong, the database is gone."""

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from portal import actions, clock, login, middleware, models, work
from portal.app import create_app
from portal.db import Database, moment
from portal.gateways.base import Snapshot, SubscriptionRecord
from portal.jobs import enqueue
from portal.migrate import upgrade
from portal.settings import Settings
from tests.postgres import Server, programs
from tests.unit.builders import (
    MASTER_KEY,
    make_account,
    make_action,
    make_customer,
    make_portal,
    make_subscription,
)

SETTINGS = Settings(master_keys=MASTER_KEY, scheme="http", base_domain="localhost")


@pytest.fixture(autouse=True)
def _own_clock() -> Iterator[None]:
    yield
    clock.follow(timedelta(0))


def one_job(database: Database, account_id: int | None = None, kind: str = "refresh") -> models.Job:
    def add(db: Session) -> models.Job:
        name = f"job-{clock.now().timestamp()}-{account_id}"
        enqueue(db, kind, {"subscription": 1, "name": name}, clock.now(), name, account_id)
        return db.query(models.Job).filter_by(dedupe=name).one()

    return database.write_now(add)


def take(database: Database, **left: Any) -> list[work.Claimed]:
    return database.write_now(lambda db: work.claim(db, clock.now(), 20, **left))


def row_of(database: Database, job: models.Job) -> models.Job:
    return database.read_now(lambda db: db.get_one(models.Job, job.id))


# Leases


def test_who_died_holds_a_job_for_a_quarter_of_a_minute_and_who_lives_as_long_as_it_takes(
    database: Database,
) -> None:
    job = one_job(database)
    (held,) = take(database)
    assert take(database) == []
    for _ in range(5):  # it lives
        clock.set_offset(clock.offset() + timedelta(seconds=10))
        database.write_now(work.renew, [held])
        assert take(database) == []
    clock.set_offset(clock.offset() + work.LOCK + timedelta(seconds=1))  # it has died
    (again,) = take(database)
    assert (again.id, again.attempts, again.deaths) == (job.id, 1, 1)


def test_who_comes_late_changes_nothing(database: Database) -> None:
    job = one_job(database)
    (slow,) = take(database)
    clock.set_offset(work.LOCK + timedelta(seconds=1))
    (other,) = take(database)
    database.write_now(work.finish, slow, clock.now())
    database.write_now(work.retry, slow, "late", clock.now(), True)
    database.write_now(work.renew, [slow])
    kept = row_of(database, job)
    assert (kept.done_at, kept.parked_at, kept.locked_by) == (None, None, other.claim)
    database.write_now(work.finish, other, clock.now())
    assert row_of(database, job).done_at is not None


@pytest.mark.parametrize("what", ["refresh", "mail"])
def test_a_job_over_which_every_worker_dies_is_set_aside(sqlite: Database, what: str) -> None:
    database = sqlite
    job = one_job(database, kind=what)
    for _ in range(work.DEATHS + 1):
        assert len(take(database)) == 1
        clock.set_offset(clock.offset() + work.LOCK + timedelta(seconds=1))
    asyncio.run(work.Worker(SETTINGS, database).once())
    assert row_of(database, job).parked_at is not None


# What is to be told


@pytest.mark.parametrize("faster", [False, True])
def test_what_an_answer_tells_the_merchant_is_told_also_where_a_webhook_was_faster(
    sqlite: Database, faster: bool
) -> None:
    portal = make_portal(sqlite)
    row = make_subscription(sqlite, make_account(sqlite, portal), make_customer(sqlite, portal))
    closed = {"phase": "confirmed", "closed_at": clock.now()} if faster else {"phase": "sent"}
    action = make_action(sqlite, row, **closed)
    told = Snapshot(as_of=clock.now(), tell="A retry may still run.")
    sqlite.write_now(actions._answered, action.id, told, clock.now())
    sqlite.write_now(actions._answered, action.id, told, clock.now())
    assert notices(sqlite) == ["A retry may still run."]


def test_what_is_known_before_a_call_is_told_also_where_its_answer_is_lost(sqlite: Database) -> None:
    portal = make_portal(sqlite)
    row = make_subscription(sqlite, make_account(sqlite, portal, "klarna"), make_customer(sqlite, portal))
    action = make_action(sqlite, row, capability="cancel_now", phase="claimed")
    sqlite.write_now(actions._take_lease, action.id, again=False, now=clock.now(), word="End it too.")
    assert notices(sqlite) == []  # nobody knows yet whether it is done
    said = Snapshot(
        as_of=clock.now(), subscriptions=(SubscriptionRecord(remote_id=row.remote_id, status="cancelled"),)
    )
    sqlite.write_now(actions._looked, action.id, said, clock.now())
    assert notices(sqlite) == ["End it too."]


def notices(database: Database) -> list[str]:
    """What the merchant is told, by the mails that are to be sent."""
    jobs = database.read_now(lambda db: db.query(models.Job).filter_by(kind="mail").all())
    return [job.payload["text"] for job in jobs if job.payload["template"] == "merchant_notice"]


# A processor that hangs


def test_one_that_hangs_holds_up_only_its_own(database: Database) -> None:
    """Everything of one account hangs; the other's is done at once, and so is what comes later."""
    portal = make_portal(database)
    hanging, other = make_account(database, portal), make_account(database, portal, "mollie")
    stuck = [one_job(database, hanging.id) for _ in range(60)]
    done: list[int] = []

    async def story() -> None:
        worker, never, seen = work.Worker(SETTINGS, database), asyncio.Event(), asyncio.Semaphore(0)

        async def handler(payload: dict[str, Any]) -> None:
            if payload["name"].endswith(f"-{hanging.id}"):
                await never.wait()
            done.append(1)
            seen.release()

        worker._handlers["refresh"] = handler
        one_job(database, other.id)
        running = asyncio.create_task(worker.run())
        await asyncio.wait_for(seen.acquire(), 60)
        await database.write(
            lambda db: enqueue(db, "refresh", {"name": f"-{other.id}"}, clock.now(), None, other.id)
        )
        await asyncio.wait_for(seen.acquire(), 60)
        assert len(done) == 2  # of the sixty, none
        never.set()
        worker.stop()
        await asyncio.wait_for(running, 60)

    asyncio.run(story())
    assert len(done) < 2 + len(stuck)


# Clocks


def test_a_clock_that_is_ten_minutes_wrong_is_not_believed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL processes may run on several machines: they all go by its clock."""
    if database.is_sqlite:
        pytest.skip("one machine, one clock")
    right = clock.machine
    job = one_job(database)
    (held,) = take(database)

    def ahead() -> datetime:
        return right() + timedelta(minutes=10)

    monkeypatch.setattr(clock, "machine", ahead)
    assert take(database) == []  # though by this machine's clock the lease ran out long ago
    clock.follow(asyncio.run(database.clock_ahead()))
    assert abs(clock.now() - right()) < timedelta(seconds=2)
    later = one_job(database)
    monkeypatch.setattr(clock, "machine", right)
    clock.follow(asyncio.run(database.clock_ahead()))
    assert [one.id for one in take(database)] == [later.id]  # not in ten minutes
    database.write_now(work.finish, held, clock.now())
    assert row_of(database, job).done_at is not None


def test_the_moment_is_the_databases_and_moves_with_the_demo(database: Database) -> None:
    clock.set_offset(timedelta(days=3))
    assert abs(database.read_now(moment) - clock.now()) < timedelta(seconds=2)


# The database is gone


@pytest.mark.skipif(programs() is None, reason="no PostgreSQL here")
def test_postgresql_goes_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "KNOWN_FOR_S", 0)
    with Server() as server:
        url = server.create("portal")
        upgrade(url)
        database = Database(url, threads=4)
        account = make_account(database, make_portal(database))
        job = one_job(database)
        app = create_app(SETTINGS, database)
        with TestClient(app, "http://acme.localhost", raise_server_exceptions=False) as client:
            client.cookies.set(login.cookie_name(SETTINGS), "s" * 43)
            client.follow_redirects = False
            assert client.get("/customers/orders").status_code == 303
            port = server.port
            server._stop()
            page = client.get("/customers/orders")
            assert page.status_code == 503
            assert "Try again in a minute. Nothing was changed." in page.text
            assert "Acme Coffee" in page.text
            assert client.post(f"/webhooks/{account.token}", content=b"{}").status_code == 503
            monkeypatch.setattr("tests.postgres._free_port", lambda: port)
            asyncio.run(_worker_over_the_outage(database, server, job))
            assert client.get("/customers/orders").status_code == 303
            # Restarted while nobody asked: the kept connections are dead, and nobody sees an error.
            server._stop()
            server._start()
            for _ in range(6):
                assert client.get("/customers/orders").status_code == 303
        database.dispose()


async def _worker_over_the_outage(database: Database, server: Server, job: models.Job) -> None:
    """A worker that is at work while the database is gone does what waits as soon as it is back."""
    worker, done = work.Worker(SETTINGS, database), asyncio.Event()

    async def handler(payload: dict[str, Any]) -> None:
        done.set()

    worker._handlers["refresh"] = handler
    running = asyncio.create_task(worker.run())
    with pytest.raises(DBAPIError):
        await database.read(lambda db: db.get(models.Job, job.id))
    await asyncio.to_thread(server._start)
    await asyncio.wait_for(done.wait(), 60)
    worker.stop()
    await asyncio.wait_for(running, 60)
