"""What backups need of a PostgreSQL server: its own programs, a snapshot that two connections share, a database for
once."""

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo, sql
from sqlalchemy.engine import make_url

from portal import walls
from portal.db import POOLED, goes_through_pooler, split_address

Missing = psycopg.errors.UndefinedTable
MissingColumn = psycopg.errors.UndefinedColumn
Ask = Callable[[str], list[tuple[Any, ...]]]

TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') ORDER BY 1"
# A sum does not ask in which order the rows stand.
COUNT = (
    'SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM public."{table}" t'
)
_OPEN = f"-c {walls.SETTING}={walls.EVERYTHING.text}"  # a backup is of all portals
# Whatever the server or role has set: the same rows are the same text, and the one who waits is not thrown out.
_OPTIONS = (
    "-c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres -c bytea_output=hex -c extra_float_digits=1 -c jit=off "
    "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 "
    f"{_OPEN}"
)
_DEBIAN = "/usr/lib/postgresql"
CHUNK = 1024 * 1024


class PostgresError(RuntimeError):
    """It can't be done; the words say why and what to do."""


def address(database_url: str) -> str:
    """As libpq takes it, from what SQLAlchemy makes of it."""
    url = split_address(database_url)[0].set(drivername="postgresql+psycopg")
    parts = url.get_dialect()().create_connect_args(url)[1]
    return conninfo.make_conninfo(**parts)


def version_text(server: int) -> str:
    return f"{server // 10_000}.{server % 10_000}"


# Its programs


def program(name: str, server: int, folder: str = "") -> Path:
    """`pg_dump` or `pg_restore` that fits the server: of its own version where there is one, else of a newer one."""
    wanted = server // 10_000
    found = {path: _version_of(path) for path in _candidates(name, wanted, folder)}
    fitting = sorted((major, str(path)) for path, major in found.items() if major >= wanted)
    if fitting:
        return Path(fitting[0][1])
    todo = f"Install the package postgresql-client-{wanted}, or set PORTAL_PG_BIN to the folder with its programs."
    if not found:
        where = folder or "on the PATH"
        raise PostgresError(f"There is no {name} {where}. {todo}")
    newest = max(found.values())
    raise PostgresError(f"{name} is of PostgreSQL {newest}, the server of {wanted}: it is too old. {todo}")


def _candidates(name: str, wanted: int, folder: str) -> list[Path]:
    if folder:
        paths = [Path(folder) / name]
    else:
        on_path = shutil.which(name)
        paths = [Path(f"{_DEBIAN}/{wanted}/bin/{name}"), *([Path(on_path)] if on_path else [])]
    return [path for path in paths if path.is_file() and os.access(path, os.X_OK)]


def _version_of(path: Path) -> int:
    said = subprocess.run([str(path), "--version"], capture_output=True, text=True, timeout=20).stdout  # noqa: S603
    found = re.search(r"\(PostgreSQL\) (\d+)", said)
    return int(found[1]) if found else 0


def dump(path: Path, database_url: str, snapshot: str) -> Iterator[bytes]:
    """What `pg_dump` makes of a snapshot, in its own format, which is packed."""
    command = [str(path), "--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}"]
    # It refuses else, as a role that row-level security holds for. The address opens the walls; and what is counted
    # beside it would tell of a row that it did not see.
    command.append("--enable-row-security")
    with tempfile.TemporaryFile() as said, _where(database_url) as where:
        with subprocess.Popen(  # noqa: S603
            [*command, where], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said
        ) as process:
            assert process.stdout is not None
            try:
                while chunk := process.stdout.read(CHUNK):
                    yield chunk
            except BaseException:
                process.kill()
                raise
        _check(process.returncode, "pg_dump", said)


def load(path: Path, chunks: Iterator[bytes], into: str) -> None:
    """Into a database, all of it or nothing."""
    with _where(into) as where:
        how = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"]
        _feed([str(path), *how, where], chunks)


def read_through(path: Path, chunks: Iterator[bytes]) -> None:
    """As if it were restored, down to the last row, but into nothing."""
    _feed([str(path), "--file=/dev/null"], chunks)


def _feed(command: Sequence[str], chunks: Iterator[bytes]) -> None:
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said
        ) as process:
            assert process.stdin is not None
            try:
                with contextlib.suppress(BrokenPipeError):  # it has ended, and says why
                    for chunk in chunks:
                        process.stdin.write(chunk)
                    process.stdin.close()
            except BaseException:
                process.kill()
                raise
        _check(process.returncode, Path(command[0]).name, said)


def _check(status: int, name: str, said: Any) -> None:
    if status == 0:
        return
    said.seek(0)
    lines = said.read(10_000).decode(errors="replace").strip().splitlines()
    # The first line says it; what follows may hold a value of a row.
    raise PostgresError(f"{name} ended with {status}: {lines[0] if lines else 'it does not say why'}")


@contextlib.contextmanager
def _where(database_url: str) -> Iterator[str]:
    """The address as an argument, and the password in a file of ours alone: what programs are called with is for all to
    see."""
    parts: dict[str, Any] = dict(conninfo.conninfo_to_dict(address(database_url)))
    parts["options"] = f"{parts.get('options', '')} {_OPEN}".strip()
    password = parts.pop("password", None)
    if password is None:
        yield f"--dbname={conninfo.make_conninfo(**parts)}"
        return
    with tempfile.NamedTemporaryFile("w", prefix="portal-") as file:
        escaped = str(password).replace("\\", "\\\\").replace(":", "\\:")
        file.write(f"*:*:*:*:{escaped}\n")
        file.flush()
        yield f"--dbname={conninfo.make_conninfo(**parts, passfile=file.name)}"


# The server


@contextlib.contextmanager
def _connected(database_url: str, autocommit: bool = False) -> Iterator[psycopg.Connection[Any]]:
    try:
        connection = psycopg.connect(address(database_url), autocommit=autocommit, options=_OPTIONS)
    except psycopg.OperationalError as error:
        if "startup parameter" in str(error):
            raise PostgresError(POOLED) from error
        raise PostgresError(f"The database does not answer: {str(error).splitlines()[0]}") from error
    with connection:
        if goes_through_pooler(connection):
            raise PostgresError(POOLED)
        yield connection


@contextlib.contextmanager
def snapshot(database_url: str) -> Iterator[tuple[Ask, str, int]]:
    """One moment of a database: how to ask it, by which name others see the same moment, the server's version."""
    with _connected(database_url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True

        def ask(statement: str) -> list[tuple[Any, ...]]:
            with connection.transaction():  # what fails spoils no more than itself
                return connection.execute(statement.encode()).fetchall()

        with connection.transaction():
            name = connection.execute("SELECT pg_export_snapshot()").fetchall()[0][0]
            yield ask, name, connection.info.server_version


def server_version(database_url: str) -> int:
    with _connected(database_url) as connection:
        return connection.info.server_version


def refuse_unless_empty(database_url: str) -> None:
    with _connected(database_url) as connection:
        taken = connection.execute(
            "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
            "WHERE relkind IN ('r', 'p', 'v', 'm', 'S') "
            "AND nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'"
        ).fetchall()
        name = connection.info.dbname
    if taken:
        raise PostgresError(
            f"The database {name} is not empty, and a restore overwrites nothing. Make a new one (`createdb`), restore "
            "into that, and when you are content with it, stop the portal and set PORTAL_DATABASE_URL to the new one."
        )


@contextlib.contextmanager
def temporary(database_url: str) -> Iterator[str | None]:
    """A database for once on the same server; None where none may be made."""
    name = f"portal_verify_{secrets.token_hex(6)}"
    with _connected(database_url, autocommit=True) as connection:
        try:
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        except psycopg.errors.InsufficientPrivilege:
            yield None
            return
        try:
            yield make_url(database_url).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
