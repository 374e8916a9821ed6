"""The worker's own life: what goes wrong around the jobs does not end it."""

import asyncio
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.orm import Session

from portal import clock, models, work
from portal.db import Database
from portal.jobs import enqueue
from portal.settings import Settings
from tests.unit.builders import MASTER_KEY


def make_worker(database: Database) -> work.Worker:
    return work.Worker(Settings(master_keys=SecretStr(MASTER_KEY)), database)


async def until(database: Database, job_id: int) -> models.Job:
    """The job, once it was carried out."""
    for _ in range(200):
        row = await database.read(lambda db: db.get_one(models.Job, job_id))
        if row.done_at is not None:
            return row
        await asyncio.sleep(0.05)
    raise AssertionError("the job was not done")


@pytest.mark.usefixtures("sqlite_only")
@pytest.mark.parametrize("fault", [ValueError("a secret of a row"), KeyError("x"), RuntimeError()])
def test_a_fault_in_the_sweep_stops_no_work(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: Exception
) -> None:
    def broken(*_: Any) -> None:
        raise fault

    monkeypatch.setattr(work, "_sweep", broken)
    worker = make_worker(database)
    done: list[dict[str, Any]] = []

    async def handler(payload: dict[str, Any]) -> None:
        done.append(payload)

    worker._handlers["look_at_customer"] = handler

    def add(db: Session) -> int:
        enqueue(db, "look_at_customer", {"customer": 1}, clock.now(), "one")
        return db.query(models.Job).one().id

    job = database.write_now(add)

    async def live() -> None:
        running = asyncio.create_task(worker.run())
        await until(database, job)
        assert not running.done()
        worker.stop()
        await asyncio.wait_for(running, 10)

    asyncio.run(live())
    assert done == [{"customer": 1}]
    said = capsys.readouterr()
    assert "the worker stumbled" in said.out + said.err
    assert "a secret of a row" not in said.out + said.err


def test_a_batch_is_no_larger_than_asked_whatever_the_plan(database: Database) -> None:
    def claimed(db: Session) -> int:
        for number in range(30):
            enqueue(db, "refresh", {"name": str(number)}, clock.now(), None)
        if db.get_bind().dialect.name == "postgresql":
            for way in ("hashjoin", "mergejoin", "hashagg", "sort", "material"):  # a nested loop is left
                db.execute(text(f"SET LOCAL enable_{way} = off"))
        return len(work.claim(db, clock.now(), 16))

    assert database.write_now(claimed) == 16
