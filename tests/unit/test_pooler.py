"""Behind PgBouncer in transaction mode, where two connections to the server are everybody's: nothing that we do may
stay on one of them. `python -m bench.crash --database pgbouncer` kills processes there too."""

import asyncio
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from portal import backups, clock, doctor, migrate, models, work
from portal import postgres as tools
from portal.app import create_app
from portal.db import SLOWING, Database, split_address
from portal.jobs import enqueue
from portal.migrate import MigrationError, upgrade
from portal.settings import Settings
from tests.pgbouncer import Pooler, program
from tests.postgres import Server, programs
from tests.unit.builders import MASTER_KEY
from tests.unit.test_expanding import MOTTO, NO_MOTTO, STEP, forget
from tests.unit.test_imports import SIZE, Till, page_of

missing = [name for name, found in (("postgresql", programs()), ("pgbouncer", program())) if found is None]
pytestmark = pytest.mark.skipif(
    bool(missing), reason=f"not here: {', '.join(missing)}; install Debian's packages of that name"
)

SERVERS = 2


@pytest.fixture(scope="module")
def pooler(postgres: Server) -> Iterator[Pooler]:
    with Pooler(postgres, default_pool_size=str(SERVERS)) as one:
        yield one


@pytest.fixture(scope="module")
def _template(postgres: Server) -> None:
    upgrade(postgres.create("pooled_base"))


@pytest.fixture
def direct(postgres: Server, _template: None) -> Iterator[str]:
    """A database of its own, migrated; under a name that the pooler has not heard before."""
    name = f"pooled_{secrets.token_hex(4)}"
    yield postgres.create(name, "pooled_base")
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def pooled(pooler: Pooler, direct: str) -> str:
    return pooler.url(name_of(direct))


def name_of(url: str) -> str:
    return str(make_url(url).database)


def told(pooler: Pooler, what: str, url: str) -> list[dict[str, object]]:
    return [one for one in pooler.ask(f"SHOW {what}") if one["database"] == name_of(url)]


def test_poolers_are_told_apart_from_the_server_itself(pooled: str, direct: str) -> None:
    kept = {}
    for url in (pooled, direct, f"{pooled}?prepare_threshold=7", f"{direct}?prepare_threshold=7"):
        database = Database(url, threads=1)
        with database.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            kept[url] = driver.prepare_threshold, connection.exec_driver_sql("SHOW timezone").scalar_one()
            if url.startswith(direct):
                for name in SLOWING:
                    assert connection.exec_driver_sql(f"SHOW {name}").scalar_one() == "off"
        database.dispose()
    assert list(kept.values()) == [(None, "UTC"), (5, "UTC"), (7, "UTC"), (7, "UTC")]


@pytest.mark.parametrize("word", ["often", "-1", "5&prepare_threshold=6"])
def test_a_threshold_that_is_no_number_is_refused(word: str) -> None:
    with pytest.raises(RuntimeError, match="prepare_threshold in the address of the database is a number"):
        split_address(f"postgresql://db.example/portal?prepare_threshold={word}")


def test_the_same_statements_again_and_again_over_two_connections(pooled: str, pooler: Pooler) -> None:
    """A statement that one had prepared would be unknown on the other, or known there by another's name."""
    database = Database(pooled, threads=8)
    others = Database(pooled, threads=8)

    def add(db: Session, number: int) -> None:
        db.add(models.Setting(name=f"n{number}", value="x", at=datetime(2026, 1, 1, tzinfo=UTC)))

    def look(db: Session, number: int) -> tuple[str, datetime]:
        row = db.get_one(models.Setting, f"n{number}")
        return row.value, row.at

    def one(number: int) -> None:
        which = (database, others)[number % 2]
        which.write_now(add, number)
        for _ in range(7):
            assert which.read_now(look, number) == ("x", datetime(2026, 1, 1, tzinfo=UTC))

    try:
        with ThreadPoolExecutor(16) as hands:
            list(hands.map(one, range(64)))
        kept = database.read_now(
            lambda db: db.execute(text("SELECT count(*) FROM pg_prepared_statements")).scalar()
        )
        assert kept == 0
        assert 1 <= len(told(pooler, "SERVERS", pooled)) <= SERVERS < len(told(pooler, "CLIENTS", pooled))
    finally:
        database.dispose()
        others.dispose()


def test_what_others_set_does_not_become_ours_nor_ours_theirs(pooled: str) -> None:
    database = Database(pooled, threads=4)
    with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as tokyo:
        tokyo.execute("SET timezone = 'Asia/Tokyo'")
        try:
            for _ in range(6):
                zone = database.read_now(lambda db: db.execute(text("SHOW timezone")).scalar_one())
                assert zone == "UTC"
                assert tokyo.execute("SHOW timezone").fetchall() == [("Asia/Tokyo",)]
        finally:
            database.dispose()


def test_migrations_and_backups_ask_for_the_server_itself(pooled: str, direct: str, tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="set PORTAL_DATABASE_DIRECT_URL"):
        upgrade(pooled)
    with pytest.raises(tools.PostgresError, match="set PORTAL_DATABASE_DIRECT_URL"):
        backups.make(Settings(database_url=pooled, master_keys=MASTER_KEY), tmp_path)
    settings = Settings(database_url=pooled, database_direct_url=direct, master_keys=MASTER_KEY)
    upgrade(settings.direct_url)
    path, manifest = backups.make(settings, tmp_path)
    assert path.exists()
    assert manifest.kind == "postgresql"


def test_the_doctor_says_what_is_left_to_do(pooled: str, direct: str, pooler: Pooler) -> None:
    both = Settings(database_url=pooled, database_direct_url=direct)

    def said(settings: Settings) -> list[tuple[str, str]]:
        database = Database(settings.database_url, threads=1)
        try:
            found = database.read_now(lambda db: list(doctor._database(db, settings)))
        finally:
            database.dispose()
        return [(one.state, one.todo) for one in found if one.about == "Pooler"]

    assert said(Settings(database_url=direct)) == []
    ((state, todo),) = said(Settings(database_url=pooled))
    assert (state, "PORTAL_DATABASE_DIRECT_URL" in todo) == ("bad", True)
    ((state, todo),) = said(both)
    assert state == "warn"
    for name in SLOWING:
        assert f"SET {name} = off" in todo
        with psycopg.connect(direct, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name_of(direct)} SET {name} = off".encode())
    pooler.ask(f"RECONNECT {name_of(direct)}")
    ((state, todo),) = said(both)
    assert (state, todo) == ("ok", "")


def test_everything_at_once_over_two_connections(
    pooled: str, direct: str, pooler: Pooler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Pages, two workers with their leases, two that read one account in, and a migration, which goes directly."""
    # One for each event loop.
    databases = [Database(pooled, threads=4) for _ in range(7)]
    settings = Settings(database_url=pooled, master_keys=MASTER_KEY, scheme="http")
    till = Till(databases[0], monkeypatch, pages=12)
    run = till.start()
    done: list[int] = []

    async def note(_worker: work.Worker, payload: dict[str, Any]) -> None:
        done.append(payload["number"])

    def jobs(db: Session) -> None:
        for number in range(60):
            enqueue(db, "note", {"number": number}, clock.now(), f"note:{number}")

    databases[0].write_now(jobs)

    def browse(database: Database) -> list[int]:
        with TestClient(create_app(settings, database), base_url="http://acme.localhost") as browser:
            own = {"origin": "http://acme.localhost"}
            asked = [
                browser.post("/customers/login", data={"email": f"p{n}@example.com"}, headers=own)
                for n in range(3)
            ]
            return [answer.status_code for answer in (*asked, *(browser.get("/customers") for _ in range(5)))]

    def toil(database: Database) -> None:
        worker = work.Worker(settings, database)
        worker._handlers = {"note": lambda payload: note(worker, payload)}

        async def until_done() -> None:
            while await worker.once():
                pass
            await worker.importer.aclose()

        asyncio.run(until_done())

    def walk(database: Database) -> list[str]:
        async def turns() -> list[str]:
            importer = work.Worker(settings, database).importer
            came: list[str] = []
            for _ in range(200):
                turn = await importer.turn(run.id)
                came.append(turn.came)
                if turn.came not in ("more", "busy"):
                    break
                await asyncio.sleep(0.02)
            await importer.aclose()
            return came

        return asyncio.run(turns())

    def change() -> None:
        upgrade(direct)

    _later(monkeypatch, tmp_path)
    try:
        with ThreadPoolExecutor(8) as hands:
            pages = [hands.submit(browse, database) for database in databases[1:3]]
            work_ = [hands.submit(toil, database) for database in databases[3:5]]
            walks = [hands.submit(walk, database) for database in databases[5:7]]
            changed = hands.submit(change)
            statuses = [status for one in pages for status in one.result(120)]
            for one in (*work_, changed):
                one.result(120)
            came = [one.result(120) for one in walks]
        assert set(statuses) == {200}
        assert sorted(done) == list(range(60))  # each once
        assert any("done" in one for one in came), came
        assert till.run().state == "done"
        assert len(till.names(models.Order)) == 12 * SIZE == len(till.names(models.Payment))
        assert till.run().objects == sum(len(page_of(0).customers) * 3 for _ in range(12))
        assert len(told(pooler, "SERVERS", pooled)) <= SERVERS
        with psycopg.connect(direct) as connection:
            assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9001",)]
    finally:
        for database in databases:
            database.dispose()
        monkeypatch.undo()
        forget()


def _later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder, newest = tmp_path / "migrations", migrate.head()
    shutil.copytree(migrate._FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    words = STEP.format(revision="9001", before=newest, marks="", steps=MOTTO, back=NO_MOTTO)
    (folder / "versions/9001_later.py").write_text(words)
    monkeypatch.setattr(migrate, "_FOLDER", folder)
    forget()
