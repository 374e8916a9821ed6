"""What every test would make anew though nobody could tell the difference: how SQLAlchemy speaks to a database, with
all that it has compiled, and the patterns of routes. One of each per process."""

import shutil
import tempfile
from collections.abc import Hashable
from functools import cache
from pathlib import Path
from typing import Any

import starlette.routing
from hypothesis import HealthCheck, settings
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

import portal.db
from portal.migrate import upgrade

DURABLE = portal.db.PRAGMAS  # as the product has them

_dialects: dict[Hashable, Any] = {}
_compiled: dict[Any, Any] = {}


class _Shared:
    """A dialect that is made once for the same arguments; compiled statements are kept by it."""

    supports_statement_cache = True
    _made = False
    _met = False

    def __new__(cls, **arguments: Any) -> Any:
        key = (cls, *sorted((name, id(value)) for name, value in arguments.items()))
        found = _dialects.get(key)
        if found is None:
            found = _dialects[key] = super().__new__(cls)
        return found

    def __init__(self, **arguments: Any) -> None:
        if not self._made:
            super().__init__(**arguments)
            self._made = True

    def initialize(self, connection: Connection) -> None:
        """What it asks of the first server holds for all: they are of one version."""
        if not self._met:
            super().initialize(connection)  # type: ignore[misc]
            self._met = True

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        engine.update_execution_options(compiled_cache=_compiled)


class SharedSQLite(_Shared, SQLiteDialect_pysqlite):
    supports_statement_cache = True


class SharedPostgreSQL(_Shared, PGDialect_psycopg):
    supports_statement_cache = True


def share() -> None:
    registry.register("sqlite", __name__, SharedSQLite.__name__)
    registry.register("postgresql", __name__, SharedPostgreSQL.__name__)
    starlette.routing.compile_path = cache(starlette.routing.compile_path)
    # How quickly examples are made up says something about the machine only.
    settings.register_profile("portal", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("portal")
    # Nothing here outlives a loss of power; what promises it does are tests of their own processes.
    portal.db.PRAGMAS = ("synchronous = OFF", *DURABLE[1:])


def migrated_sqlite(path: Path) -> str:
    """A new SQLite file at `path` with the schema of this version and nothing in it; its address."""
    shutil.copy(empty_sqlite(), path)
    return f"sqlite:///{path}"


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="portal-tests-")  # gone with this process


@cache
def empty_sqlite() -> Path:
    """The one that is copied; nobody writes to it."""
    path = Path(_folder().name) / "empty.db"
    upgrade(f"sqlite:///{path}")
    return path
