"""A fresh, empty database for each test that asks for one: on SQLite, and on PostgreSQL where it is there (`--db`)."""

import copy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from portal import models, walls
from portal.db import Database
from portal.migrate import upgrade
from tests.postgres import Server, programs
from tests.shared import migrated_sqlite


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name in ("database", "new_database"):
        if name in metafunc.fixturenames:
            engines = _engines(metafunc.config)
            if "sqlite_only" in metafunc.fixturenames:
                engines = [one for one in engines if one == "sqlite"]
            metafunc.parametrize(name, engines, indirect=True)
            return


def _engines(config: pytest.Config) -> list[str]:
    wanted = config.getoption("--db")
    if wanted == "both" or (wanted == "auto" and programs()):
        return ["sqlite", "postgresql"]
    return ["sqlite"] if wanted == "auto" else [wanted]


@pytest.fixture
def sqlite_only() -> None:
    """For what does not depend on the database, though its fixtures do."""


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Migrated and empty."""
    if request.param == "sqlite":
        path = tmp_path / "portal.db"
        shutil.copy(request.getfixturevalue("empty_sqlite"), path)
        database = Database(f"sqlite:///{path}", threads=8)
        yield database
        database.dispose()
    else:
        kept: Kept = request.getfixturevalue("kept_postgres")
        yield kept.emptied()
        kept.tidy()


@pytest.fixture
def sqlite(empty_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    """The same on SQLite alone, for what does not depend on the database."""
    path = tmp_path / "portal.db"
    shutil.copy(empty_sqlite, path)
    database = Database(f"sqlite:///{path}", threads=4)
    yield database
    database.dispose()


@pytest.fixture
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """`new_database()` gives the address of a database without any tables, each time another one."""
    made: list[str] = []

    def make() -> str:
        name = f"new_{len(made)}"
        made.append(name)
        if request.param == "sqlite":
            return f"sqlite:///{tmp_path}/{name}.db"
        server: Server = request.getfixturevalue("postgres")
        return server.create(name)

    yield make
    if request.param == "postgresql":
        _drop(request.getfixturevalue("postgres"), made)


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("db") / "empty.db"
    migrated_sqlite(path)
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Server) -> str:
    """As the role that owns nothing: whatever is tested on it works behind row-level security."""
    app = postgres.app_url("portal")
    upgrade(postgres.create("portal"), app_url=app)
    return app


@pytest.fixture
def postgresql(request: pytest.FixtureRequest) -> str:
    """Its address, migrated and empty, for what is PostgreSQL's own; as the role that owns nothing."""
    if "postgresql" not in _engines(request.config):
        pytest.skip("for PostgreSQL, install the package postgresql, and leave out --db sqlite")
    url: str = request.getfixturevalue("migrated_postgres")
    kept: Kept = request.getfixturevalue("kept_postgres")
    kept.empty()
    return url


@pytest.fixture(scope="session")
def kept_postgres(migrated_postgres: str, postgres: Server) -> "Iterator[Kept]":
    kept = Kept(migrated_postgres, postgres.url("portal"))
    yield kept
    kept.close()


class Kept:
    """The PostgreSQL database of all tests, with its connections: a new one costs as much as a small test."""

    def __init__(self, url: str, owners_url: str) -> None:
        self._owners_url = owners_url
        # Tests look over the walls; what they ask of the app or the worker has its own, and is held by them.
        self._database = Database(url, threads=8, outside=walls.EVERYTHING)
        # One after the other is the same connection's, as with a new pool: PostgreSQL then adds rows in their order.
        self._database.engine.pool._pool.use_lifo = True  # type: ignore[attr-defined]
        self._cleaner: psycopg.Connection[Any] | None = None

    def emptied(self) -> Database:
        """Without a row, and with listeners and limits of its own."""
        self.empty()
        database = copy.copy(self._database)
        database.engine = self._database.engine.execution_options()
        database._reader = database.engine.execution_options(isolation_level="AUTOCOMMIT")
        return database

    def empty(self) -> None:
        if self._cleaner is None or self._cleaner.broken:
            self._cleaner = self._new_cleaner()
        self._cleaner.execute("SELECT pg_temp.empty()")

    def tidy(self) -> None:
        """What a test has left in use is not there for the next one."""
        if self._database.engine.pool.checkedout():  # type: ignore[attr-defined]
            self._database.engine.dispose()

    def close(self) -> None:
        self._database.dispose()
        if self._cleaner:
            self._cleaner.close()

    def _new_cleaner(self) -> psycopg.Connection[Any]:
        """Fifteen times as quick as a DELETE of each table, and twenty times as TRUNCATE: most tables are empty."""
        tables = [table.name for table in reversed(models.metadata.sorted_tables)]
        lines = [f"IF EXISTS (SELECT FROM {name}) THEN DELETE FROM {name}; END IF;" for name in tables]
        connection = psycopg.connect(self._owners_url, autocommit=True, options="-c lock_timeout=5000")
        connection.execute(
            "CREATE FUNCTION pg_temp.empty() RETURNS void LANGUAGE plpgsql AS "
            f"$$ BEGIN {' '.join(lines)} END $$"
        )
        return connection


def _drop(server: Server, names: list[str]) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for name in names:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
