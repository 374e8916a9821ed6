"""Brings a database to the schema of this version: `upgrade`, and what a server asks before it starts: `is_current`."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from portal import walls
from portal.db import Database

_FOLDER = Path(__file__).parent / "migrations"
_LOCK = 7_236_411  # any number, the same for all of ours: PostgreSQL's advisory lock for migrations


def upgrade(database_url: str, revision: str = "head", app_url: str = "") -> None:
    """Bring the database to `revision`, by default to this version's schema, in one transaction.

    Several processes may ask at once: one does it, the others wait and find it done. Where the portal itself connects
    as another role than the one that owns the tables, by `app_url`, that role is given what it needs of them, and is
    made where there is none.
    """
    with _alembic(database_url) as config:
        command.upgrade(config, revision)
        if app_url:
            _grant(config.attributes["connection"], app_url)


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
        f"REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM {named}",
    ):
        connection.exec_driver_sql(words)


def downgrade(database_url: str, revision: str) -> None:
    """Take the database back to an older `revision`; "base" leaves nothing."""
    with _alembic(database_url) as config:
        command.downgrade(config, revision)


def is_current(database: Database) -> bool:
    """Whether the database has exactly the schema of this version."""
    return database.read_now(_revision) == head()


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


@cache
def head() -> str:
    """The revision of this version's schema."""
    found = ScriptDirectory.from_config(_config()).get_current_head()
    assert found is not None
    return found


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


@contextmanager
def _alembic(database_url: str) -> Iterator[Config]:
    database = Database(database_url, threads=1, outside=walls.EVERYTHING)
    try:
        with database.engine.connect() as connection, _exclusive(connection, database.is_sqlite):
            config = _config()
            config.attributes["connection"] = connection
            yield config
    finally:
        database.dispose()


@contextmanager
def _exclusive(connection: Connection, is_sqlite: bool) -> Iterator[None]:
    if not is_sqlite:
        with connection.begin():
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            yield
        return
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


def _config() -> Config:
    config = Config(stdout=StringIO())
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return config


def _revision(db: Session) -> str | None:
    return MigrationContext.configure(db.connection()).get_current_revision()
