"""A fresh, empty database for each test that asks for one: on SQLite, and on PostgreSQL where it is there (`--db`)."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from portal import models, walls
from portal.db import Database
from portal.migrate import upgrade
from tests.postgres import Server, programs


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name in ("database", "new_database"):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, _engines(metafunc.config), indirect=True)
            return


def _engines(config: pytest.Config) -> list[str]:
    wanted = config.getoption("--db")
    if wanted == "both" or (wanted == "auto" and programs()):
        return ["sqlite", "postgresql"]
    return ["sqlite"] if wanted == "auto" else [wanted]


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Migrated and empty."""
    if request.param == "sqlite":
        path = tmp_path / "portal.db"
        shutil.copy(request.getfixturevalue("empty_sqlite"), path)
        url = f"sqlite:///{path}"
    else:
        url = request.getfixturevalue("migrated_postgres")
        _empty(request.getfixturevalue("postgres").url("portal"))
    # Tests look over the walls; what they ask of the app or the worker has its own, and is held by them.
    database = Database(url, threads=8, outside=walls.EVERYTHING)
    yield database
    database.dispose()


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
    upgrade(f"sqlite:///{path}")
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
        pytest.skip("PostgreSQL is not there, or not wanted")
    url: str = request.getfixturevalue("migrated_postgres")
    _empty(request.getfixturevalue("postgres").url("portal"))
    return url


def _empty(url: str) -> None:
    """Ten times as quick as a database of its own for each test, or as TRUNCATE."""
    tables = reversed(models.metadata.sorted_tables)
    with psycopg.connect(url, autocommit=True, options="-c lock_timeout=5000") as connection:
        connection.execute(";".join(f"DELETE FROM {table.name}" for table in tables))


def _drop(server: Server, names: list[str]) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for name in names:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
