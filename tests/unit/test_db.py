"""One function, one session, one transaction: what the rest of the house relies on."""

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pysqlite3.dbapi2
import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from portal import models
from portal.db import OLDEST_SQLITE, Database, refuse_old_sqlite
from tests.shared import DURABLE
from tests.unit.builders import NOW, make_portal


def put(db: Session, name: str, value: str) -> None:
    db.merge(models.Setting(name=name, value=value, at=NOW))


def value(db: Session, name: str) -> str | None:
    return db.scalar(select(models.Setting.value).where(models.Setting.name == name))  # type: ignore[call-overload]


def count_up(db: Session, pause: float = 0) -> None:
    number = int(value(db, "count") or 0)
    time.sleep(pause)
    put(db, "count", str(number + 1))


@pytest.fixture
def sqlite(empty_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    shutil.copy(empty_sqlite, tmp_path / "portal.db")
    database = Database(f"sqlite:///{tmp_path}/portal.db", threads=8)
    yield database
    database.dispose()


@pytest.mark.parametrize(
    ("pragma", "expected"),
    [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("busy_timeout", 10_000)],
)
def test_every_connection_is_durable_and_strict(
    sqlite: Database, pragma: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portal.db.PRAGMAS", DURABLE)
    connections = [sqlite.engine.connect() for _ in range(8)]
    try:
        for connection in connections:
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one() == expected
    finally:
        for connection in connections:
            connection.close()


def test_the_sqlite_in_use_is_a_safe_one() -> None:
    assert pysqlite3.dbapi2.sqlite_version_info >= OLDEST_SQLITE
    refuse_old_sqlite(pysqlite3.dbapi2.sqlite_version_info)


@pytest.mark.parametrize("version", [(3, 40, 1), (3, 51, 2), (3, 51, 0), (2, 99, 99)])
def test_an_older_sqlite_is_refused(version: tuple[int, int, int]) -> None:
    with pytest.raises(RuntimeError, match=r"needs 3\.51\.3 or newer"):
        refuse_old_sqlite(version)


def test_a_database_does_not_open_on_an_older_sqlite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pysqlite3.dbapi2, "sqlite_version_info", (3, 40, 1))
    with pytest.raises(RuntimeError, match="can lose commits"):
        Database(f"sqlite:///{tmp_path}/portal.db")
    assert not (tmp_path / "portal.db").exists()


def test_what_was_written_is_read(database: Database) -> None:
    database.write_now(put, "greeting", "hello")
    assert database.read_now(value, "greeting") == "hello"


def test_read_and_write_run_in_a_thread_of_their_own(database: Database) -> None:
    def thread(db: Session) -> int:
        return threading.get_ident()

    async def both() -> set[int]:
        return {await database.read(thread), await database.write(thread)}

    assert threading.get_ident() not in asyncio.run(both())


def test_arguments_reach_the_function(database: Database) -> None:
    async def story() -> str | None:
        await database.write(put, "name", value="by keyword")
        return await database.read(value, name="name")

    assert asyncio.run(story()) == "by keyword"


def test_a_write_that_fails_leaves_nothing(database: Database) -> None:
    def half(db: Session) -> None:
        put(db, "half", "done")
        db.flush()
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        database.write_now(half)
    assert database.read_now(value, "half") is None
    database.write_now(put, "half", "whole")  # and the lock is free again
    assert database.read_now(value, "half") == "whole"


def test_a_read_that_writes_is_refused(database: Database) -> None:
    def by_object(db: Session) -> None:
        put(db, "sneaky", "yes")
        db.flush()

    def by_statement(db: Session) -> None:
        db.execute(insert(models.Setting).values(name="sneaky", value="yes", at=NOW))

    for sneaky in (by_object, by_statement):
        with pytest.raises(RuntimeError, match=r"Database\.write"):
            database.read_now(sneaky)
    assert database.read_now(value, "sneaky") is None


def test_foreign_keys_are_held(database: Database) -> None:
    def stray(db: Session) -> None:
        db.add(models.Customer(portal_id=1, email="ana@example.com", created_at=NOW))

    with pytest.raises(IntegrityError):
        database.write_now(stray)


def test_a_row_cannot_point_across_portals(database: Database) -> None:
    acme, kora = make_portal(database, "acme"), make_portal(database, "kora")

    def cross(db: Session) -> None:
        customer = models.Customer(portal_id=acme.id, email="ana@example.com", created_at=NOW)
        db.add(customer)
        db.flush()
        db.add(
            models.SignIn(
                token_hash="x",
                portal_id=kora.id,
                customer_id=customer.id,
                user_agent="",
                created_at=NOW,
                last_seen_at=NOW,
                expires_at=NOW,
            )
        )

    with pytest.raises(IntegrityError):
        database.write_now(cross)


def test_writers_wait_for_each_other_and_lose_nothing(sqlite: Database) -> None:
    """Each reads, dawdles and writes: without the lock from the start, some would say "database is locked"."""

    async def crowd() -> None:
        await asyncio.gather(*(sqlite.write(count_up, pause=0.01) for _ in range(24)))

    asyncio.run(crowd())
    assert sqlite.read_now(value, "count") == "24"


def test_writers_of_two_processes_wait_for_each_other(sqlite: Database) -> None:
    other = Database(sqlite.engine.url.render_as_string(), threads=4)
    try:

        async def crowd() -> None:
            await asyncio.gather(
                *(database.write(count_up, pause=0.005) for database in (sqlite, other) for _ in range(10))
            )

        asyncio.run(crowd())
        assert sqlite.read_now(value, "count") == "20"
    finally:
        other.dispose()


def test_a_reader_neither_waits_for_a_writer_nor_sees_half_of_it(database: Database) -> None:
    database.write_now(put, "state", "before")
    written, seen = threading.Event(), threading.Event()

    def slow(db: Session) -> None:
        put(db, "state", "after")
        db.flush()
        written.set()
        assert seen.wait(10)

    writer = threading.Thread(target=database.write_now, args=(slow,))
    writer.start()
    try:
        assert written.wait(10)
        assert database.read_now(value, "state") == "before"
    finally:
        seen.set()
        writer.join()
    assert database.read_now(value, "state") == "after"


def test_a_coroutine_is_not_run_inside_a_write(database: Database) -> None:
    """A write takes a plain function: an async one would only give back its coroutine, with nothing done."""
    ran = []

    async def waits(db: Session) -> None:
        ran.append(db)

    async def story() -> None:
        left_over: Any = await database.write(waits)
        left_over.close()

    asyncio.run(story())
    assert ran == []


def test_more_callers_than_threads_take_turns(database: Database) -> None:
    at_once, most, lock = 0, 0, threading.Lock()

    def busy(db: Session) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        db.execute(text("SELECT 1"))
        time.sleep(0.01)
        with lock:
            at_once -= 1

    async def crowd() -> None:
        await asyncio.gather(*(database.read(busy) for _ in range(40)))

    asyncio.run(crowd())
    assert 1 < most <= 8


def test_connections_are_given_back_after_failures(database: Database) -> None:
    def bad(db: Session) -> None:
        db.execute(text("SELECT * FROM nowhere"))

    for _ in range(20):  # more often than there are connections
        with pytest.raises(DBAPIError):
            database.read_now(bad)
        with pytest.raises(DBAPIError):
            database.write_now(bad)
    database.write_now(put, "still", "there")
    assert database.read_now(value, "still") == "there"


def test_moments_keep_their_instant_and_come_back_in_utc(database: Database) -> None:
    there = datetime(2026, 11, 22, 23, 30, 15, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    database.write_now(lambda db: db.add(models.Setting(name="then", value="", at=there)))

    def at(db: Session) -> Any:
        return db.scalar(select(models.Setting.at).where(models.Setting.name == "then"))  # type: ignore[call-overload]

    found = database.read_now(at)
    assert found == there
    assert found.utcoffset() == timedelta(0)


def test_a_naive_moment_is_refused(database: Database) -> None:
    with pytest.raises(Exception, match="time zone"):
        database.write_now(lambda db: db.add(models.Setting(name="x", value="", at=datetime(2026, 1, 1))))


def test_amounts_of_any_size_and_any_letters_survive(database: Database) -> None:
    portal = make_portal(database, name="Café “Ŧ” 茶 🫖")

    def name(db: Session) -> str:
        return db.get_one(models.Portal, portal.id).name

    assert database.read_now(name) == "Café “Ŧ” 茶 🫖"
    assert portal.id > 2**40


def test_heroku_style_addresses_are_understood() -> None:
    database = Database("postgres://somebody:secret@127.0.0.1:1/nowhere")
    assert not database.is_sqlite
    assert database.engine.dialect.driver == "psycopg"
    database.dispose()
