"""The database: plain functions in a thread, one session and one transaction each."""

import select
import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar

import anyio
import anyio.to_thread
import psycopg
import pysqlite3.dbapi2
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.orm import ORMExecuteState, Session

from portal import clock, outage, walls

P = ParamSpec("P")
T = TypeVar("T")

# What SQLite forgets with each connection; the journal, WAL, it keeps in the file.
PRAGMAS = ("synchronous = FULL", "busy_timeout = 10000", "foreign_keys = ON", "mmap_size = 268435456")
POOLED = (
    "The address of the database leads to PgBouncer or another pooler, and this needs a connection of its own: set "
    "PORTAL_DATABASE_DIRECT_URL to the address of PostgreSQL itself."
)
DEADLOCKS = 4  # in a row, before one is told
PREPARE = "prepare_threshold"  # in the address
OLDEST_SQLITE = (3, 51, 3)  # older ones can lose commits: the WAL-reset bug


class Database:
    """Runs functions `fn(db, …)` against one database. A write holds the lock from its first statement on, so no
    function may wait for anything but the database."""

    def __init__(self, url: str, threads: int = 16, outside: walls.Scope = walls.NOTHING) -> None:
        """`outside` is what is seen where nobody has said whose rows are meant; see `walls`."""
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.engine = _sqlite(url, threads) if self.is_sqlite else _postgres(url, threads, outside)
        # On PostgreSQL a read of one statement needs no BEGIN and ROLLBACK around it: two round trips fewer.
        self._reader = (
            self.engine if self.is_sqlite else self.engine.execution_options(isolation_level="AUTOCOMMIT")
        )
        self._threads = threads
        self._limiter: anyio.CapacityLimiter | None = None
        self._writers: anyio.CapacityLimiter | None = None

    async def read(self, fn: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that only reads, in a thread."""
        return await anyio.to_thread.run_sync(
            lambda: self.read_now(fn, *args, **kwargs), limiter=self._limit()
        )

    async def write(self, fn: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in a write transaction, in a thread; it is committed when the function returns."""
        if not self.is_sqlite:
            return await anyio.to_thread.run_sync(
                lambda: self.write_now(fn, *args, **kwargs), limiter=self._limit()
            )
        # One writes at a time there; the others wait in line, and in no thread that a reader could use.
        if self._writers is None:
            self._writers = anyio.CapacityLimiter(1)
        async with self._writers:
            return await anyio.to_thread.run_sync(
                lambda: self.write_now(fn, *args, **kwargs), limiter=self._limit()
            )

    async def clock_ahead(self) -> timedelta:
        """By how much the database's clock is ahead of this machine's; SQLite has no other."""
        if self.is_sqlite:
            return timedelta(0)
        before = clock.machine()
        theirs = await self.read(_their_clock)
        return theirs - (before + (clock.machine() - before) / 2)

    def read_now(self, fn: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`read`, in this thread."""
        with (
            outage.lasting.watched(writing=False),
            _ReadSession(self._reader, expire_on_commit=False, autoflush=False) as db,
        ):
            return fn(db, *args, **kwargs)

    def write_now(self, fn: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`write`, in this thread. Where PostgreSQL ends one of two that wait for each other, it is done once more:
        nothing of it has been kept."""
        for _ in range(DEADLOCKS):
            try:
                return self._write_once(fn, *args, **kwargs)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in ("40P01", "40001"):
                    raise
        return self._write_once(fn, *args, **kwargs)

    def _write_once(self, fn: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        with (
            outage.lasting.watched(writing=True),
            Session(self.engine, expire_on_commit=False) as db,
            db.begin(),
        ):
            if self.is_sqlite:
                # Taken at once: a lock asked for in mid-transaction cannot be waited for.
                db.connection().exec_driver_sql("BEGIN IMMEDIATE")
            return fn(db, *args, **kwargs)

    def dispose(self) -> None:
        self.engine.dispose()

    def _limit(self) -> anyio.CapacityLimiter:
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._threads)
        return self._limiter


def dialect_of(db: Session) -> Any:
    """SQLAlchemy's module of the database, whose `insert` knows what to do on a conflict."""
    return postgresql if db.get_bind().dialect.name == "postgresql" else sqlite


def beside(column: Any) -> Any:
    """A column for a condition, or an order, that is not to choose the index. SQLite does not know how many rows an
    index leads to: of two it may take the one of the portal, or the one that has the order, and go through all that the
    portal has."""
    return column + 0


def split_address(url: str) -> tuple[URL, int | None]:
    """The address as drivers know it, and our own word in it: after how many times a statement is prepared."""
    parsed = make_url(url.replace("postgres://", "postgresql://", 1))
    said = parsed.query.get(PREPARE)
    if said is None:
        return parsed, None
    if not isinstance(said, str) or not (said.isascii() and said.isdigit()):
        raise RuntimeError(f"{PREPARE} in the address of the database is a number.")
    return parsed.difference_update_query([PREPARE]), int(said)


def goes_through_pooler(connection: Any) -> bool:
    """Whether a driver's connection ends at PgBouncer or its like, where each transaction may run on another
    connection to the server: the process that greeted us is not the one that answers."""
    greeted: int = connection.info.backend_pid
    return int(_say(connection, b"SELECT pg_backend_pid()").get_value(0, 0)) != greeted


def _say(connection: psycopg.Connection[Any], what: bytes) -> Any:
    """Past the driver, which would begin a transaction."""
    told = connection.pgconn.exec_(what)
    if told.status not in (psycopg.pq.ExecStatus.TUPLES_OK, psycopg.pq.ExecStatus.COMMAND_OK):
        raise psycopg.OperationalError(told.error_message.decode(errors="replace"))
    return told


def moment(db: Session) -> datetime:
    """Now, by the clock of the database: the one for what processes on several machines must agree on."""
    if db.get_bind().dialect.name == "sqlite":
        return clock.now()
    return _their_clock(db) + clock.offset()


def _their_clock(db: Session) -> datetime:
    found: datetime = db.execute(text("SELECT clock_timestamp()")).scalar_one()
    return found


class _ReadSession(Session):
    """Reads run outside a transaction, so what one of them wrote would stay, without ever having held the lock."""

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        raise RuntimeError("A read writes nothing: call it with Database.write.")


@event.listens_for(_ReadSession, "do_orm_execute")
def _only_reads(state: ORMExecuteState) -> None:
    if state.is_insert or state.is_update or state.is_delete:
        raise RuntimeError("A read writes nothing: call it with Database.write.")


def _sqlite(url: str, threads: int) -> Engine:
    refuse_old_sqlite(pysqlite3.dbapi2.sqlite_version_info)
    engine = create_engine(
        url,
        module=pysqlite3.dbapi2,
        connect_args={"check_same_thread": False, "timeout": 10, "isolation_level": None},
        pool_size=threads,
        max_overflow=0,
    )

    @event.listens_for(engine, "connect")
    def _pragmas(connection: sqlite3.Connection, _: Any) -> None:
        _into_wal(connection)
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _into_wal(connection: sqlite3.Connection) -> None:
    """The journal of a new file changes under a lock that SQLite itself does not wait for: several processes may
    start at once."""
    for _ in range(200):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except pysqlite3.dbapi2.OperationalError as error:
            if "locked" not in str(error):
                raise
            time.sleep(0.05)
        else:
            return
    connection.execute("PRAGMA journal_mode = WAL")


def refuse_old_sqlite(version: tuple[int, int, int]) -> None:
    """Raise RuntimeError that says what to do where SQLite is too old to be trusted with several processes."""
    if version < OLDEST_SQLITE:
        raise RuntimeError(
            f"SQLite {'.'.join(map(str, version))} can lose commits (WAL-reset bug). "
            f"Portal needs {'.'.join(map(str, OLDEST_SQLITE))} or newer: install the package pysqlite3 0.6.1."
        )


# What makes PostgreSQL slower at what we ask. JIT compiles for longer than a page takes. Each list has an index in its
# own order; a bitmap loses that order, and is taken where a list is thought to be short: such a plan knows the average
# customer alone, and for the largest one reads and sorts all there is for each page.
SLOWING = ("jit", "enable_bitmapscan")


def _postgres(url: str, threads: int, outside: walls.Scope) -> Engine:
    address, prepare = split_address(url)
    engine = create_engine(
        address,
        pool_size=threads,
        max_overflow=0,
        pool_pre_ping=False,
        connect_args={
            "connect_timeout": 5,
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
            "cursor_factory": walls.cursors(outside),
        },
    )

    @event.listens_for(engine, "connect")
    def _settle(connection: Any, _record: Any) -> None:
        """Nothing is asked for in the greeting: poolers turn away what they do not know. Of what is set here, the time
        zone is what they carry from one server connection to the next; anything else would be somebody else's too."""
        pooled = goes_through_pooler(connection)
        ours = "".join(f"; SET {name} = off" for name in SLOWING) if not pooled else ""
        _say(connection, f"SET timezone = 'UTC'{ours}".encode())
        if prepare is not None or pooled:
            connection.prepare_threshold = prepare

    @event.listens_for(engine, "checkout")
    def _still_there(connection: Any, _record: Any, _proxy: Any) -> None:
        """A server that has gone has closed its end, which is seen without a round trip: another one is opened."""
        watch = select.poll()
        watch.register(connection.fileno(), select.POLLIN)
        if watch.poll(0):
            raise DisconnectionError("the server has closed the connection")

    return engine
