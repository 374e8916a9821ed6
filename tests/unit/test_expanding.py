"""The schema changes while the version before still runs: nobody waits for long, nothing is done by half, and what the
older version reads and writes stays where it was."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Boolean, Date, DateTime, Integer, LargeBinary, MetaData, Numeric, event
from sqlalchemy.engine import Engine
from sqlalchemy.types import JSON, Float, TypeEngine
from typer.testing import CliRunner

from portal import migrate, models
from portal.__main__ import app
from portal.db import Database
from portal.migrate import ENDLESS, MigrationError, Patience, downgrade, head, is_current, serves, upgrade
from tests.postgres import Server, programs
from tests.unit.schema_rules import troubles

RELEASED = "0003"  # up to here the rules were others
WALLS = "0004"  # puts up row-level security, behind which the version before it sees nothing: that one is to be stopped
QUICK = Patience(lock_s=0.1, statement_s=20, tries=2, pause_s=0.01, turn_s=0.3)

on_postgres = pytest.mark.skipif(programs() is None, reason="for PostgreSQL, install the package postgresql")

STEP = """
import sqlalchemy as sa
from alembic import op
from portal.migrate import build_index

revision = "{revision}"
down_revision = "{before}"
{marks}


def upgrade() -> None:
    {steps}


def downgrade() -> None:
    {back}
"""
MOTTO = 'op.add_column("portal", sa.Column("motto", sa.String(), nullable=True))'
NO_MOTTO = 'op.drop_column("portal", "motto")'

Steps = Callable[..., None]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Steps]:
    """Migrations after the newest one, in a copy of the folder: `steps(("9001", "op.…", "op.…"), …)`."""
    newest, folder = head(), tmp_path / "migrations"
    shutil.copytree(migrate._FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))

    def write(*told: tuple[str, str, str], marks: str = "") -> None:
        before = newest
        for revision, up, down in told:
            words = STEP.format(revision=revision, before=before, marks=marks, steps=up, back=down)
            (folder / f"versions/{revision}_later.py").write_text(words)
            before = revision
        monkeypatch.setattr(migrate, "_FOLDER", folder)
        forget()

    yield write
    monkeypatch.undo()
    forget()


def forget() -> None:
    head.cache_clear()
    migrate.is_known.cache_clear()


@pytest.fixture(scope="module")
def template(postgres: Server) -> str:
    upgrade(postgres.create("expanded"))
    return "expanded"


@pytest.fixture
def served(postgres: Server, template: str) -> Iterator[str]:
    """A database of its own at this version's schema."""
    yield postgres.create("expanding", template)
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("DROP DATABASE expanding WITH (FORCE)")


def asked(url: str, what: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True, options="-c lock_timeout=5000") as connection:
        found = connection.execute(what.encode())
        return found.fetchall() if found.description else []


def revision(url: str) -> str:
    return str(asked(url, "SELECT version_num FROM alembic_version")[0][0])


def columns(url: str, table: str) -> set[str]:
    names = asked(
        url, f"SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0"
    )
    return {name for (name,) in names}


# Locks


@on_postgres
def test_a_migration_that_gets_no_lock_gives_up_in_time_and_readers_go_on(served: str, steps: Steps) -> None:
    # The first step takes what is free, the second is refused its lock: nothing of the two in the second stays.
    second = 'op.add_column("merchant", sa.Column("motto", sa.String()))\n    ' + MOTTO
    steps(("9001", "op.execute('SELECT 1')", "pass"), ("9002", second, "pass"))
    with psycopg.connect(served) as holder:
        holder.execute("SELECT count(*) FROM portal")  # a report that takes its time
        begun = time.monotonic()
        with pytest.raises(MigrationError, match="in 2 tries no lock was to be had") as refused:
            upgrade(served, patience=QUICK)
        assert time.monotonic() - begun < 60
        # Nobody stands in line behind a migration that waits no more.
        assert asked(served, "SELECT count(*) FROM portal") == [(0,)]
        assert asked(served, "SELECT count(*) FROM merchant") == [(0,)]
        assert f"process {holder.info.backend_pid}" in str(refused.value)
        assert "The schema is whole, at 9001" in str(refused.value)
    assert revision(served) == "9001"
    assert "motto" not in columns(served, "portal") | columns(served, "merchant")
    upgrade(served, patience=QUICK)
    assert revision(served) == "9002"
    assert "motto" in columns(served, "portal") & columns(served, "merchant")


@on_postgres
def test_between_two_tries_those_who_waited_get_through(served: str, steps: Steps) -> None:
    steps(("9001", MOTTO, NO_MOTTO))
    refused = threading.Event()

    def told(context: Any) -> None:
        refused.set()

    event.listen(Engine, "handle_error", told)
    try:
        with psycopg.connect(served) as holder:
            holder.execute("SELECT count(*) FROM portal")
            patience = Patience(lock_s=0.1, tries=600, pause_s=0.05)
            runner = threading.Thread(target=upgrade, args=(served, "head", patience))
            runner.start()
            assert refused.wait(60)
            assert asked(served, "SELECT count(*) FROM portal") == [(0,)]  # while the migration tries on
        runner.join(60)
    finally:
        event.remove(Engine, "handle_error", told)
    assert revision(served) == "9001"


@on_postgres
def test_given_up_at_the_first_step_nothing_was_changed(served: str, steps: Steps) -> None:
    before = revision(served)
    steps(("9001", MOTTO, NO_MOTTO))
    with psycopg.connect(served) as holder:
        holder.execute("SELECT count(*) FROM portal")
        with pytest.raises(MigrationError, match="Nothing was changed: run it again"):
            upgrade(served, patience=QUICK)
    assert revision(served) == before


@on_postgres
def test_a_statement_that_takes_too_long_is_ended_unless_all_the_time_is_given(
    served: str, steps: Steps
) -> None:
    before = revision(served)
    steps(("9001", MOTTO + "\n    op.execute('SELECT pg_sleep(0.5)')", NO_MOTTO))
    with pytest.raises(
        MigrationError, match=r"Stop web and worker and run `portal migrate --wait`.*Nothing was changed"
    ):
        upgrade(served, patience=Patience(statement_s=0.1))
    assert revision(served) == before
    assert "motto" not in columns(served, "portal")
    upgrade(served, patience=ENDLESS)
    assert revision(served) == "9001"


@on_postgres
def test_one_runner_at_a_time(served: str, steps: Steps) -> None:
    steps(("9001", MOTTO, NO_MOTTO))
    with psycopg.connect(served, autocommit=True) as other:
        other.execute(b"SELECT pg_advisory_lock(%d)" % migrate._LOCK)
        with pytest.raises(MigrationError, match="Another `portal migrate` has been at work"):
            upgrade(served, patience=QUICK)
    runners = [threading.Thread(target=upgrade, args=(served,)) for _ in range(3)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join(60)
    assert revision(served) == "9001"


def test_on_the_command_line_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def refuse(url: str, patience: Patience | None = None, **_: Any) -> None:
        seen.append((url, patience))
        raise MigrationError("The tables are in use.")

    monkeypatch.setattr(migrate, "upgrade", refuse)
    monkeypatch.setenv("PORTAL_DATABASE_URL", "postgresql://pooler.example/portal")
    monkeypatch.setenv("PORTAL_DATABASE_DIRECT_URL", "postgresql://db.example/portal")
    for words in (["migrate"], ["migrate", "--wait"]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 1
        assert result.output.strip() == "portal: The tables are in use."
    assert seen == [("postgresql://db.example/portal", None), ("postgresql://db.example/portal", ENDLESS)]


@on_postgres
def test_a_database_that_does_not_answer_is_said_so(postgres: Server) -> None:
    with pytest.raises(MigrationError, match="does not answer"):
        upgrade(postgres.url("nowhere"))


# Indexes beside the traffic


@on_postgres
def test_an_index_is_built_while_rows_are_written(served: str, steps: Steps) -> None:
    """A transaction that has written would stop a plain CREATE INDEX, and all writers behind that."""
    steps(
        (
            "9001",
            'build_index("ix_later", "setting", ["at"], where="value IS NOT NULL")',
            'op.drop_index("ix_later", "setting")',
        )
    )
    write = "INSERT INTO setting VALUES (%s, 'x', now())"
    with psycopg.connect(served) as writer:
        writer.execute(write, ["before"])
        runner = threading.Thread(target=upgrade, args=(served,))
        runner.start()
        until = time.monotonic() + 60
        while (
            not asked(served, "SELECT 1 FROM pg_class WHERE relname = 'ix_later'")
            and time.monotonic() < until
        ):
            time.sleep(0.01)
        asked(served, "INSERT INTO setting VALUES ('meanwhile', 'x', now())")
        assert runner.is_alive()
    runner.join(60)
    assert revision(served) == "9001"
    assert asked(served, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_later'::regclass") == [
        (True,)
    ]
    downgrade(served, "-1")
    assert not asked(served, "SELECT 1 FROM pg_class WHERE relname = 'ix_later'")


@on_postgres
def test_what_is_left_of_an_index_that_was_broken_off_is_made_anew(served: str, steps: Steps) -> None:
    asked(served, "INSERT INTO setting VALUES ('a', 'same', now()), ('b', 'same', now())")
    with pytest.raises(psycopg.errors.UniqueViolation):
        asked(served, "CREATE UNIQUE INDEX CONCURRENTLY ux_later ON setting (value)")
    assert asked(served, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ux_later'::regclass") == [
        (False,)
    ]
    asked(served, "DELETE FROM setting WHERE name = 'b'")
    steps(("9001", 'build_index("ux_later", "setting", ["value"], unique=True)', "pass"))
    upgrade(served)
    assert asked(
        served, "SELECT indisvalid, indisunique FROM pg_index WHERE indexrelid = 'ux_later'::regclass"
    ) == [(True, True)]


# What migrations may do


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("ALTER TABLE portal DROP COLUMN name", "takes a column away"),
        ("ALTER TABLE portal RENAME COLUMN name TO title", "renames"),
        ("ALTER TABLE portal RENAME TO site", "renames"),
        ("DROP TABLE portal", "takes a table away"),
        ("ALTER TABLE portal ADD COLUMN motto VARCHAR NOT NULL", "older versions leave out"),
        ("ALTER TABLE portal ALTER COLUMN motto SET NOT NULL", "forbids what older versions write"),
        ("ALTER TABLE portal ALTER COLUMN name TYPE VARCHAR(20)", "writes a table anew"),
        ("CREATE INDEX ix ON payment (status)", "builds an index"),
        ("CREATE UNIQUE INDEX ix ON payment (status)", "builds an index"),
        ("ALTER TABLE payment ADD CONSTRAINT fk FOREIGN KEY(order_id) REFERENCES order_ (id)", "NOT VALID"),
        ("ALTER TABLE payment ADD CONSTRAINT c CHECK (total > 0)", "NOT VALID"),
        ("ALTER TABLE payment FORCE ROW LEVEL SECURITY", "hides rows"),
        ("LOCK TABLE payment", "locks a table"),
    ],
)
def test_what_breaks_a_version_that_runs_is_refused(statement: str, why: str) -> None:
    (found,) = troubles([statement])
    assert why in found


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE portal ADD COLUMN motto VARCHAR",
        "ALTER TABLE portal ADD COLUMN days INTEGER DEFAULT '3' NOT NULL",
        "ALTER TABLE request ALTER COLUMN customer_id DROP NOT NULL",
        "CREATE INDEX CONCURRENTLY ix ON payment (status) WHERE status = 'open'",
        "CREATE UNIQUE INDEX CONCURRENTLY ix ON payment (status)",
        "ALTER TABLE payment ADD CONSTRAINT c CHECK (total > 0) NOT VALID",
        "ALTER TABLE payment VALIDATE CONSTRAINT c",
        "UPDATE alembic_version SET version_num='0004' WHERE alembic_version.version_num = '0003'",
    ],
)
def test_what_an_older_version_does_not_notice_is_allowed(statement: str) -> None:
    assert troubles([statement]) == []


def test_a_table_of_the_migrations_own_and_the_contracting_step_may_more() -> None:
    own = [
        "CREATE TABLE shelf (id BIGINT)",
        "CREATE INDEX ix ON shelf (id)",
        "ALTER TABLE shelf DROP COLUMN id",
    ]
    assert troubles(own) == []
    assert troubles(["ALTER TABLE portal DROP COLUMN name", "DROP TABLE sheet"], contracts=True) == []
    assert len(troubles(["CREATE INDEX ix ON payment (status)"], contracts=True)) == 1


@on_postgres
def test_our_migrations_leave_the_version_before_them_in_peace(postgres: Server) -> None:
    """By what is really sent to the database."""
    url = postgres.create("looked_over")
    upgrade(url, RELEASED)
    sent: list[str] = []

    def told(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    found, looked_at = {}, 0
    event.listen(Engine, "before_cursor_execute", told)
    try:
        for script in reversed(list(scripts())):
            if script.revision <= RELEASED:
                continue
            sent.clear()
            upgrade(url, script.revision)
            looked_at += len(sent)
            contracts = script.revision == WALLS or bool(getattr(script.module, "contracts", ""))
            found[script.revision] = troubles(sent, contracts)
    finally:
        event.remove(Engine, "before_cursor_execute", told)
    assert looked_at > 20
    assert not any(found.values()), found


def scripts() -> Iterator[Any]:
    yield from ScriptDirectory.from_config(migrate._config()).walk_revisions()


# An older version on a newer schema

SOME: dict[type[TypeEngine[Any]], Any] = {
    Boolean: True,
    DateTime: datetime(2026, 11, 1, tzinfo=UTC),
    Date: date(2026, 11, 1),
    JSON: {},
    LargeBinary: b"x",
    Float: 1.5,
    Numeric: 1,
    Integer: 1,
}


def some(kind: TypeEngine[Any]) -> Any:
    return next((value for base, value in SOME.items() if isinstance(kind, base)), "x")


def test_rows_go_in_and_come_out_by_the_columns_of_the_released_version(
    new_database: Callable[[], str],
) -> None:
    url = new_database()
    upgrade(url, RELEASED)
    older = MetaData()
    database = Database(url, threads=2)
    try:
        older.reflect(database.engine)
        upgrade(url)
        with database.engine.begin() as connection:
            if database.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            tables = [table for table in older.sorted_tables if table.name != "alembic_version"]
            for table in tables:
                values = {column.name: some(column.type) for column in table.columns}
                connection.execute(table.insert().values(values))
            for table in tables:
                row = connection.execute(table.select()).mappings().one()
                assert set(row) == {column.name for column in table.columns}
                assert all(value is not None for value in row.values())
        assert len(tables) > 30
    finally:
        database.dispose()


def test_a_version_starts_on_the_schema_of_the_next_but_not_on_an_older_one(
    new_database: Callable[[], str], steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, ours = new_database(), migrate._FOLDER
    upgrade(url, "0004")
    database = Database(url, threads=2)
    try:
        assert not serves(database)
        steps(("9001", MOTTO, NO_MOTTO))
        upgrade(url)
        monkeypatch.setattr(migrate, "_FOLDER", ours)
        forget()
        assert not is_current(database)
        assert serves(database)
    finally:
        database.dispose()


def test_a_version_does_not_start_where_what_it_uses_was_taken_away(
    new_database: Callable[[], str], steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, ours = new_database(), migrate._FOLDER
    database = Database(url, threads=2)
    try:
        steps(("9001", MOTTO, NO_MOTTO), ("9002", NO_MOTTO, MOTTO), marks='contracts = "9001"')
        newer = migrate._FOLDER
        upgrade(url)
        assert database.read_now(lambda db: db.get(models.Setting, migrate.FLOOR).value) == "9001"  # type: ignore[union-attr]
        monkeypatch.setattr(migrate, "_FOLDER", ours)
        forget()
        assert not serves(database)
        monkeypatch.setattr(migrate, "_FOLDER", newer)
        forget()
        assert serves(database)
        downgrade(url, "-2")
        monkeypatch.setattr(migrate, "_FOLDER", ours)
        forget()
        assert database.read_now(lambda db: db.get(models.Setting, migrate.FLOOR)) is None
        assert serves(database)
    finally:
        database.dispose()
