"""Brings a database to the schema of this version while others use it: `upgrade`, and what a server asks before it
starts: `serves`."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from alembic import command, op
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.orm import Session

from portal import models, walls
from portal.db import POOLED, Database, goes_through_pooler

_FOLDER = Path(__file__).parent / "migrations"
_LOCK = 7_236_411  # any number, the same for all of ours: PostgreSQL's advisory lock for migrations
_HELD = ("55P03", "40P01")  # a lock was not to be had in time; one of two that waited for each other
_TOO_LONG = "57014"
FLOOR = "schema_floor"  # the setting that says which revision's version is the oldest that runs on the schema


class MigrationError(RuntimeError):
    """It can't be done now; the words say why and what to do."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a migration may hold others up on PostgreSQL. Whoever wants a table that a migration waits for stands
    in line behind it, so it waits shortly, lets them through, and tries again. 0 seconds are without end."""

    lock_s: float = 3.0
    statement_s: float = 60.0
    tries: int = 20
    pause_s: float = 3.0
    turn_s: float = 1800.0  # until another runner is done


ENDLESS = Patience(lock_s=0, statement_s=0, tries=1)


def upgrade(
    database_url: str, revision: str = "head", patience: Patience | None = None, app_url: str = ""
) -> None:
    """Bring the database to `revision`, by default to this version's schema; a migration is done wholly or not at all.

    Several processes may ask at once: one does it, the others wait and find it done. Where the portal itself connects
    as another role than the one that owns the tables, by `app_url`, that role is given what it needs of them, and is
    made where there is none.
    """

    def steps(config: Config) -> None:
        command.upgrade(config, revision)
        if app_url:
            _grant(config.attributes["connection"], app_url)

    _run(database_url, steps, patience or Patience())


def _grant(connection: Connection, app_url: str) -> None:
    url = make_url(app_url)
    role = url.username
    if connection.dialect.name != "postgresql" or not role:
        return
    if connection.exec_driver_sql("SELECT current_user").scalar_one() == role:
        return
    named = connection.dialect.identifier_preparer.quote_identifier(role)
    if connection.exec_driver_sql("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).first() is None:
        _make_role(connection, role, named, url.password or "")
    for words in (
        f"GRANT USAGE ON SCHEMA public TO {named}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {named}",
        f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {named}",  # which a backup asks for
        f"REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM {named}",
    ):
        connection.exec_driver_sql(words)
    connection.commit()


def _make_role(connection: Connection, role: str, named: str, password: str) -> None:
    raw = connection.connection.driver_connection
    assert raw is not None
    # Scrambled here, so that the server's log never sees it.
    word = raw.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    try:
        connection.exec_driver_sql(
            f"CREATE ROLE {named} LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD {sql.Literal(word).as_string(raw)}"
        )
    except ProgrammingError as error:
        raise RuntimeError(
            f"There is no role {role}, and this one may not make it: see docs/tenancy.md for how to."
        ) from error


def downgrade(database_url: str, revision: str, patience: Patience | None = None) -> None:
    """Take the database back to an older `revision`; "base" leaves nothing."""
    _run(database_url, lambda config: command.downgrade(config, revision), patience or Patience())


def is_current(database: Database) -> bool:
    """Whether the database has exactly the schema of this version."""
    return database.read_now(_revision) == head()


@cache
def head() -> str:
    """The revision of this version's schema."""
    found = ScriptDirectory.from_config(_config()).get_current_head()
    assert found is not None
    return found


def serves(database: Database) -> bool:
    """Whether this version can run on the database: on its own schema, or on that of a newer version which has not yet
    taken away what this one uses. So the processes of a version go on, and may start, once the next has migrated."""
    return database.read_now(_serves)


def _serves(db: Session) -> bool:
    revision = _revision(db)
    if revision == head():
        return True
    if revision is None or is_known(revision):
        return False
    floor = db.get(models.Setting, FLOOR)
    return floor is None or floor.value <= head()


def build_index(
    name: str, table: str, columns: list[str], *, unique: bool = False, where: str | None = None
) -> None:
    """In a migration: an index on a table that may be big, built while rows are written to it.

    Each is committed by itself, so a migration that does this does nothing else; what was broken off is begun anew.
    """
    condition = text(where) if where else None
    if op.get_context().dialect.name == "sqlite":
        op.create_index(name, table, columns, unique=unique, sqlite_where=condition)
        return
    with _beside_the_traffic() as connection:
        found = connection.execute(
            text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"), {"name": name}
        ).scalar()
        if found:
            return
        if found is not None:
            op.drop_index(name, table, postgresql_concurrently=True)
        op.create_index(
            name, table, columns, unique=unique, postgresql_where=condition, postgresql_concurrently=True
        )


def put_up_wall(table: str, seen_by: str) -> None:
    """In a migration: the rows of a table are seen by whom `portal.walls` lets, by the portal that the expression
    `seen_by` says. On a table that older versions use, they see nothing from then on."""
    if op.get_context().dialect.name != "postgresql":
        return
    # Each in a subquery of its own, which is asked once for a whole statement and not for each row. Nothing said
    # is nothing seen.
    every = "(SELECT current_setting('portal.scope', true) = '*')"
    these = "((SELECT string_to_array(nullif(current_setting('portal.scope', true), '*'), ',')::bigint[])::bigint[])"
    mine = f"{every} OR {seen_by} = ANY ({these})"
    op.execute(f"CREATE POLICY wall ON {table} USING ({mine}) WITH CHECK ({mine})")
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def take_index_away(name: str, table: str) -> None:
    """In a migration that builds indexes: one that another has taken the place of, while the table is used."""
    if op.get_context().dialect.name == "sqlite":
        op.drop_index(name, table)
        return
    with _beside_the_traffic():
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)


@contextmanager
def _beside_the_traffic() -> Iterator[Connection]:
    """Each statement by itself, without limits: what is done concurrently waits for others, and nobody for it."""
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        limits = [
            (limit, connection.exec_driver_sql(f"SHOW {limit}").scalar_one())
            for limit in ("lock_timeout", "statement_timeout")
        ]
        for limit, _ in limits:
            connection.exec_driver_sql(f"SET {limit} = 0")
        try:
            yield connection
        finally:
            for limit, value in limits:
                connection.exec_driver_sql(f"SET {limit} = '{value}'")


@cache
def is_known(revision: str) -> bool:
    """Whether this version can bring a database of that revision to its own schema."""
    return any(
        script.revision == revision for script in ScriptDirectory.from_config(_config()).walk_revisions()
    )


def draft(message: str) -> Path:
    """Write the migration from the newest one to the tables of `models`, for a person to read and correct."""
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/draft.db"
        upgrade(url)
        with _alembic(url) as config:
            number = len(list((_FOLDER / "versions").glob("*.py"))) + 1
            script = command.revision(config, message, autogenerate=True, rev_id=f"{number:04}")
    if script is None or isinstance(script, list):
        raise RuntimeError("alembic wrote no migration")
    return Path(script.path)


def _run(database_url: str, steps: Callable[[Config], None], patience: Patience) -> None:
    try:
        with _alembic(database_url, patience) as config:
            connection: Connection = config.attributes["connection"]
            if connection.dialect.name == "sqlite":
                steps(config)
            else:
                _in_several_tries(connection, lambda: steps(config), patience)
    except DBAPIError as error:
        words = str(error.orig).splitlines()[0] if str(error.orig) else type(error.orig).__name__
        if words == "database is locked":
            raise MigrationError(f"Somebody has written for long. {_UNCHANGED}") from error
        if error.connection_invalidated or error.statement is None:  # it did not even begin
            raise MigrationError(f"The database does not answer: {words}") from error
        raise


_UNCHANGED = "Nothing was changed: run it again."


def _in_several_tries(connection: Connection, steps: Callable[[], None], patience: Patience) -> None:
    before = MigrationContext.configure(connection).get_current_revision()
    connection.rollback()
    for number in range(1, patience.tries + 1):
        try:
            steps()
        except DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None)
            if state not in (*_HELD, _TOO_LONG):
                raise
            connection.rollback()
            if state == _TOO_LONG or number == patience.tries:
                raise MigrationError(_why(connection, before, state == _TOO_LONG, patience)) from error
        else:
            return
        time.sleep(patience.pause_s)


def _why(connection: Connection, before: str | None, too_long: bool, patience: Patience) -> str:
    """That it was given up, who stands in the way, and what became of the schema."""
    if too_long:
        said = [
            f"A statement took longer than {patience.statement_s:g} seconds, and others were not to wait for it any "
            "longer. Stop web and worker and run `portal migrate --wait`, or ask whoever looks after PostgreSQL who "
            "ended it."
        ]
    else:
        said = [f"The tables are in use: in {patience.tries} tries no lock was to be had."]
        oldest = connection.exec_driver_sql(
            "SELECT pid, extract(epoch FROM clock_timestamp() - xact_start)::int FROM pg_stat_activity WHERE pid <> "
            "pg_backend_pid() AND datname = current_database() AND xact_start IS NOT NULL ORDER BY xact_start LIMIT 1"
        ).one_or_none()
        if oldest is not None and oldest[1] is not None:
            said.append(
                f"The longest transaction has been open for {oldest[1]} seconds (process {oldest[0]})."
            )
    now = MigrationContext.configure(connection).get_current_revision()
    connection.rollback()
    if now == before:
        said.append("Nothing was changed: run it again." if not too_long else "Nothing was changed.")
    else:
        said.append(f"The schema is whole, at {now}; run it again for the rest.")
    return " ".join(said)


@contextmanager
def _alembic(database_url: str, patience: Patience | None = None) -> Iterator[Config]:
    database = Database(database_url, threads=1, outside=walls.EVERYTHING)
    try:
        with (
            database.engine.connect() as connection,
            _exclusive(connection, database.is_sqlite, patience or Patience()),
        ):
            config = _config()
            config.attributes["connection"] = connection
            yield config
    finally:
        database.dispose()


@contextmanager
def _exclusive(connection: Connection, is_sqlite: bool, patience: Patience) -> Iterator[None]:
    if not is_sqlite:
        raw = connection.connection.driver_connection
        assert raw is not None
        if goes_through_pooler(raw):
            raise MigrationError(POOLED)
        # Said once for the whole session: an index that is built beside the traffic takes no other words with it.
        raw.cursor_factory = psycopg.Cursor
        connection.exec_driver_sql(f"SET {walls.SETTING} = '{walls.EVERYTHING.text}'")
        for limit, seconds in (
            ("lock_timeout", patience.lock_s),
            ("statement_timeout", patience.statement_s),
        ):
            connection.exec_driver_sql(f"SET {limit} = {round(seconds * 1000)}")
        connection.commit()
        _take_turn(connection, patience)
        yield
        return  # the connection is closed, and the lock with it
    # SQLite changes a table by writing it anew and dropping the old one; with foreign keys on, that would take the
    # rows that point to it along. So they are off meanwhile, and looked over before the commit.
    connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
    connection.commit()
    with connection.begin():
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        if broken:
            raise RuntimeError(f"The migration would leave rows that point nowhere: {broken[:5]}")


def _take_turn(connection: Connection, patience: Patience) -> None:
    """The lock of the one who migrates, for as long as the connection lives. It is asked for again and again: whoever
    waited within a statement would hold up an index that is built beside the traffic, and that the lock."""
    until = time.monotonic() + patience.turn_s
    while not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({_LOCK})").scalar_one():
        connection.rollback()
        if time.monotonic() > until:
            raise MigrationError("Another `portal migrate` has been at work for long. Look at it first.")
        time.sleep(0.2)
    connection.commit()


def _config() -> Config:
    config = Config(stdout=StringIO())
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return config


def _revision(db: Session) -> str | None:
    return MigrationContext.configure(db.connection()).get_current_revision()
