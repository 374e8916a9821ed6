"""Does a page cost the same with a thousand times as many orders? And by which plans is it read?

    python -m bench.scale [--orders 10000,1000000] [--database sqlite|postgresql|both] [--keep DIR] [--intake] [--json]

For each number of orders a database is filled: 10 portals, 1,000 customers and 20,000 payments to 10,000 orders, with
subscriptions, invoices, refunds, events and requests in smaller numbers; beside them one portal that has a tenth of
everything, and in it one customer with far more orders than anybody. Then every screen of customers and merchants is
asked for, in this process, through the whole application, of people who are signed in; all sizes in turn, so that what
else the machine does falls on all of them alike.

Of every screen all statements are caught and explained with their own values. A plan is bad where it reads a big table
from end to end, sorts more than a few pages' rows, or reads far more than it shows.

Exits 1 where a plan is bad, or where a screen takes more than 1.2 times as long at the largest size as at the smallest.
"""

import argparse
import asyncio
import hashlib
import io
import json
import os
import random
import re
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2 as httpx
import psycopg
import pysqlite3.dbapi2
import structlog
from psycopg.sql import Literal
from sqlalchemy import event, func, select, text
from sqlalchemy.orm import Session
from starlette.applications import Starlette

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # so that `python bench/scale.py` finds the tests' PostgreSQL too

from bench.processes import Installation, _furnish, installation  # noqa: E402
from portal import clock, login, merchants, models, names, walls  # noqa: E402
from portal.app import create_app  # noqa: E402
from portal.db import Database  # noqa: E402
from portal.ids import _EPOCH_MS, id_text  # noqa: E402
from portal.migrate import upgrade  # noqa: E402
from portal.queries import PAGE, Cursor  # noqa: E402
from portal.settings import Settings  # noqa: E402
from portal.vault import new_key  # noqa: E402
from seeds.simulators import stripe  # noqa: E402
from seeds.simulators.harness import Delivery, Situation  # noqa: E402
from tests.postgres import Server as Postgres  # noqa: E402

FORMAT = 6  # of the data; what was filled otherwise is filled anew
YEARS = 3  # over which the orders lie
EACH = 100  # customers of a usual portal
TYPICAL, SHOPS = (
    9,
    40,
)  # orders of one customer in each of so many usual portals: they are whose pages are asked for
LOYAL = 1_300  # orders that one customer has at least: more than fifty pages
WAITING = (
    40  # open requests, answered ones, and events set aside of the big portal at least: more than a page
)
SAMPLE = 5_000  # orders from which the bytes of many more are worked out
ROOM = 1.4  # of the disk, for journals and sorting
LIMIT = 1.2  # how many times as long a screen may take at the largest size
PAGES = 50
BATCH = 5_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--orders", default="10000,1000000", help="sizes, with commas between them")
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--rounds", type=int, default=5, help="over all screens")
    parser.add_argument("--requests", type=int, default=40, help="to each screen in each round")
    parser.add_argument("--keep", type=Path, help="folder in which the databases stay, for the next time")
    parser.add_argument("--intake", action="store_true", help="how many events are taken in, too")
    parser.add_argument("--events", type=int, default=2_000, help="of --intake")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    sizes = sorted({int(part) for part in options.orders.replace("_", "").split(",")})
    if sizes[0] < 2_000:
        parser.error("with fewer than 2000 orders there is nobody with fifty pages of them")
    kinds = ["sqlite", "postgresql"] if options.database == "both" else [options.database]
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(io.StringIO())
    )  # written, and read by nobody
    found: dict[str, Any] = {}
    for kind in kinds:
        with Home(options.keep) as home:
            built = home.build_all(kind, sizes)
            note(f"{kind}: asking for every screen")
            found[kind] = asyncio.run(measure(built, options.rounds, options.requests))
    problems = [words for kind in kinds for words in wrong(kind, found[kind])]
    if options.intake:
        for kind in kinds:
            note(f"{kind}: taking events in")
            found[kind]["intake"] = intake(kind, options.events)
    if options.json:
        print(json.dumps({**found, "wrong": problems}))
    else:
        for kind in kinds:
            print_table(kind, found[kind])
        print("\n".join(problems) or "Every plan is good, and every screen costs the same at each size.")
    sys.exit(1 if problems else 0)


def note(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def wrong(kind: str, found: dict[str, Any]) -> list[str]:
    """What makes the program end with 1, a sentence each."""
    out = []
    for size, one in found["sizes"].items():
        for name, screen in one["screens"].items():
            out += [
                f"{kind}, {size} orders, {name}: {bad['why']}: {bad['statement']}" for bad in screen["bad"]
            ]
    for name, ratio in found["ratios"].items():
        if ratio > LIMIT and not SCREENS[name].grows:
            out.append(f"{kind}, {name}: takes {ratio} times as long at the largest size")
    return out


# --- Where the databases are -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Built:
    """A database that is filled. `marker` says with what: bytes, seconds, whose portal is the big one."""

    kind: str
    orders: int
    url: (
        str  # as the portal itself asks: on PostgreSQL as a role that owns nothing, behind row-level security
    )
    marker: dict[str, Any]


class Home:
    """The databases of one run; in a folder that stays, or in one that goes with it."""

    def __init__(self, keep: Path | None = None) -> None:
        self._stack = ExitStack()
        self._keep = keep.resolve() if keep else None
        self._server: Postgres | None = None

    def __enter__(self) -> "Home":
        if self._keep:
            self._keep.mkdir(parents=True, exist_ok=True)
            self.folder = self._keep
        else:
            self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="portal-scale-")))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def build_all(self, kind: str, sizes: Sequence[int]) -> list[Built]:
        """The smallest first: from each is worked out what the next one needs."""
        built: list[Built] = []
        for orders in sizes:
            if orders > 10 * SAMPLE and not self._is_there(kind, orders):
                known = built[-1] if built else self.build(kind, SAMPLE)
                self._need_room(known, orders)
            built.append(self.build(kind, orders))
        return built

    def build(self, kind: str, orders: int) -> Built:
        """A database with so many orders: that of an earlier run, or a new one."""
        url = self._url(kind, orders)
        marker = read_marker(url)
        if marker is None:
            note(f"{kind}: filling {orders:,} orders")
            self._clear(kind, orders)
            upgrade(url, app_url=self._app_url(kind, orders))
            marker = fill(url, orders)
        return Built(kind, orders, self._app_url(kind, orders), marker)

    def _is_there(self, kind: str, orders: int) -> bool:
        return read_marker(self._url(kind, orders)) is not None

    def _need_room(self, known: Built, orders: int) -> None:
        folder = self.folder if known.kind == "sqlite" or self._keep else Path(tempfile.gettempdir())
        refuse_without_room(known.marker["bytes_per_order"], orders, shutil.disk_usage(folder).free, folder)

    def _url(self, kind: str, orders: int) -> str:
        if kind == "sqlite":
            return f"sqlite:///{self._file(orders)}"
        if self._server is None:
            folder = self._keep / "postgresql" if self._keep else None
            self._server = self._stack.enter_context(Cluster(folder))
        return self._server.url(f"scale_{orders}")

    def _app_url(self, kind: str, orders: int) -> str:
        owner = self._url(kind, orders)
        return self._server.app_url(f"scale_{orders}") if self._server and kind == "postgresql" else owner

    def _file(self, orders: int) -> Path:
        return self.folder / f"scale-{orders}.db"

    def _clear(self, kind: str, orders: int) -> None:
        """What an earlier run has not finished, or filled otherwise."""
        if kind == "sqlite":
            for end in ("", "-wal", "-shm"):
                Path(f"{self._file(orders)}{end}").unlink(missing_ok=True)
            return
        assert self._server is not None
        with psycopg.connect(self._server.url(), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS scale_{orders} WITH (FORCE)")
        self._server.create(f"scale_{orders}")


class Cluster(Postgres):
    """The tests' PostgreSQL with more memory; its folder may stay."""

    def __init__(self, folder: Path | None) -> None:
        super().__init__(
            shared_buffers="512MB", maintenance_work_mem="512MB", max_wal_size="4GB", checkpoint_timeout="1h"
        )
        self._stays = folder is not None
        if folder is not None:
            self._folder.rmdir()
            folder.mkdir(exist_ok=True)
            self._folder = folder

    def _make(self) -> None:
        word = self._folder / "password"
        if self._stays and word.exists():
            self._password = word.read_text()
        else:
            super()._make()

    def _end(self) -> None:
        if not self._stays:
            super()._end()
            return
        with suppress(psycopg.Error), psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute("CHECKPOINT")  # so that it stops at once, with everything in its files
        self._stop()


def refuse_without_room(bytes_per_order: float, orders: int, free: int, folder: Path) -> None:
    needed = bytes_per_order * orders * ROOM
    if needed > free:
        raise SystemExit(
            f"{orders:,} orders take {_gb(needed)} with what sorting needs ({bytes_per_order:,.0f} bytes an order), "
            f"and {folder} has {_gb(free)} free: give --keep a folder on another disk, or --orders fewer."
        )


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"


# --- What they are filled with ---------------------------------------------------------------------------------------


def digest() -> str:
    """Of the data's form and of the schema: what was filled with another one is of no use."""
    found = hashlib.sha256(str(FORMAT).encode())
    for path in sorted((ROOT / "portal/migrations/versions").glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


MARKER = "bench.scale"


def read_marker(url: str) -> dict[str, Any] | None:
    """What a database was filled with; None where it is not there, not finished, or of another form."""
    if url.startswith("sqlite") and not Path(url.removeprefix("sqlite:///")).exists():
        return None
    try:
        with connected(url) as connection:
            row = connection.execute(f"SELECT value FROM setting WHERE name = '{MARKER}'").fetchone()
    except (psycopg.Error, pysqlite3.dbapi2.OperationalError):
        return None
    marker: dict[str, Any] = json.loads(row[0]) if row else {}
    return marker if marker.get("digest") == digest() else None


@contextmanager
def connected(url: str) -> Iterator[Any]:
    """A connection of the driver's own, each statement by itself."""
    if url.startswith("sqlite"):
        connection = pysqlite3.dbapi2.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        try:
            yield connection
        finally:
            connection.close()
    else:
        with psycopg.connect(url, autocommit=True, options="-c timezone=UTC") as other:
            yield other


def bytes_of(url: str) -> int:
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        return sum(os.path.getsize(f"{path}{end}") for end in ("", "-wal") if os.path.exists(f"{path}{end}"))
    with connected(url) as connection:
        return int(connection.execute("SELECT pg_database_size(current_database())").fetchone()[0])


def fill(url: str, orders: int) -> dict[str, Any]:
    """Fill an empty database, and write down with what."""
    begun, empty = time.monotonic(), bytes_of(url)
    sink: Sink = SqliteSink(url) if url.startswith("sqlite") else PostgresSink(url)
    crowd = Crowd(orders, sink)
    crowd.write()
    if orders > SMALL:
        note("  indexes")
    sink.finish()
    full = bytes_of(url)
    marker = {
        "digest": digest(),
        "portal": crowd.big.id,
        "customer": crowd.loyal,
        "rows": sink.rows,
        "bytes": full,
        "bytes_per_order": round((full - empty) / orders),
        "seconds": round(time.monotonic() - begun, 1),
        **sink.sizes(),
    }
    sink.mark(json.dumps(marker), datetime.now(UTC).replace(tzinfo=None).isoformat(" ", "microseconds"))
    return marker


TABLES = (
    *(
        "merchant",
        "portal",
        "account",
        "customer",
        "customer_key",
        "remote_customer",
        "subscription",
        "action",
    ),
    *("request", "order_", "payment", "refund", "invoice", "event"),
)


class Sink:
    """Takes rows of all tables, some thousands of each at a time. Indexes that are no constraint come afterwards:
    sorted at once they take a fraction of the time."""

    def __init__(self) -> None:
        self.rows = dict.fromkeys(TABLES, 0)
        self._columns: dict[str, tuple[str, ...]] = {}  # the same ones in the same order at each row
        self._waiting: dict[str, list[tuple[Any, ...]]] = {table: [] for table in TABLES}

    def put(self, table: str, **row: Any) -> None:
        waiting = self._waiting[table]
        if not waiting:
            self._columns[table] = tuple(row)
        waiting.append(tuple(row.values()))
        if len(waiting) >= BATCH:
            self._flush(table)

    def _flush(self, table: str) -> None:
        rows, self._waiting[table] = self._waiting[table], []
        if rows:
            self.rows[table] += len(rows)
            self._write(table, rows)

    def _flush_all(self) -> None:
        for table in TABLES:
            self._flush(table)

    def _write(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        raise NotImplementedError

    def mark(self, marker: str, at: str) -> None:
        raise NotImplementedError

    def sizes(self) -> dict[str, Any]:
        return {}


class SqliteSink(Sink):
    """One long transaction. No ANALYZE after it: in life nobody runs it either."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._connection = pysqlite3.dbapi2.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        for pragma in (
            "synchronous = OFF",
            "foreign_keys = OFF",
            "cache_size = -400000",
            "temp_store = FILE",
        ):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute("PRAGMA journal_mode = MEMORY")
        self._connection.execute("BEGIN")
        found = self._connection.execute("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'index'")
        self._indexes = [(name, sql) for name, table, sql in found.fetchall() if sql and table in TABLES]
        for name, _sql in self._indexes:
            self._connection.execute(f"DROP INDEX {name}")

    def _write(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        columns = self._columns[table]
        command = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        self._connection.executemany(command, rows)

    def finish(self) -> None:
        self._flush_all()
        for _name, sql in self._indexes:
            self._connection.execute(sql)
        self._connection.execute("COMMIT")
        self._connection.execute("PRAGMA journal_mode = WAL")

    def mark(self, marker: str, at: str) -> None:
        self._connection.execute(
            "INSERT INTO setting (name, value, at) VALUES (?, ?, ?)", (MARKER, marker, at)
        )
        self._connection.close()


class PostgresSink(Sink):
    """A COPY for each table, all open at once."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._stack = ExitStack()
        self._copies: dict[str, psycopg.Copy] = {}
        with connected(url) as connection:
            found = connection.execute(
                "SELECT c.relname, pg_get_indexdef(i.indexrelid) FROM pg_index i "
                "JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid::regclass::text = ANY(%s) "
                "AND NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = i.indexrelid)",
                [list(TABLES)],
            ).fetchall()
            for name, _sql in found:
                connection.execute(f"DROP INDEX {name}")
        self._indexes = [sql for _name, sql in found]

    def _write(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        copy = self._copies.get(table) or self._open(table)
        for row in rows:
            copy.write_row(row)

    def _open(self, table: str) -> psycopg.Copy:
        options = (
            "-c timezone=UTC -c session_replication_role=replica"  # no look-up of foreign keys for each row
        )
        connection = self._stack.enter_context(psycopg.connect(self._url, options=options))
        opened = connection.cursor().copy(f"COPY {table} ({', '.join(self._columns[table])}) FROM STDIN")
        copy = self._copies[table] = self._stack.enter_context(opened)
        return copy

    def finish(self) -> None:
        self._flush_all()
        self._stack.close()
        with connected(self._url) as connection:
            for sql in self._indexes:
                connection.execute(sql)
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")

    def mark(self, marker: str, at: str) -> None:
        with connected(self._url) as connection:
            connection.execute(
                "INSERT INTO setting (name, value, at) VALUES (%s, %s, %s)", [MARKER, marker, at]
            )

    def sizes(self) -> dict[str, Any]:
        """How much of it are indexes."""
        with connected(self._url) as connection:
            found = connection.execute(
                "SELECT relname, pg_table_size(oid), pg_indexes_size(oid) FROM pg_class WHERE relname = ANY(%s)",
                [list(TABLES)],
            ).fetchall()
        return {"tables": {name: {"rows": rows, "indexes": indexes} for name, rows, indexes in found}}


@dataclass(frozen=True)
class Site:
    """A portal that is filled: its account and its customers, by number."""

    id: int
    account: int
    customers: list[int]
    number: int


@dataclass(frozen=True)
class Who:
    """Whose something is; nobody's, as far as we know, without an id."""

    site: Site
    id: int | None
    email: str | None
    remote: str


STATES = ("paid",) * 16 + ("partially_refunded", "refunded", "failed", "open")
TITLES = ("Ethiopia Guji, 2 bags", "Monthly coffee box", "Filter papers & scoop", "Kenya AA")
FIRST = (
    "Ana",
    "Ben",
    "Chloé",
    "Dmitri",
    "Emil",
    "Fatima",
    "Gus",
    "Hana",
    "Igor",
    "Jun",
    "Kofi",
    "Lena",
    "Mara",
)
LAST = (
    "Adler",
    "Brandt",
    "Costa",
    "Dubois",
    "Eriksen",
    "Fischer",
    "García",
    "Haddad",
    "Ito",
    "Kim",
    "Müller",
)
METHOD = '{"kind": "card", "brand": "visa", "last4": "4242"}'
BODY = json.dumps({"id": "evt", "object": "event", "data": {"object": {"note": "x" * 1_100}}}).encode()
SUBSCRIPTION_STATES = ("active",) * 15 + ("cancelled",) * 3 + ("past_due", "trialing")


class Crowd:
    """Merchants, customers and what they have bought, in the order of time."""

    def __init__(self, orders: int, sink: Sink) -> None:
        self.orders = orders
        self.sink = sink
        self.chance = random.Random(20261128)
        self.now = datetime.now(UTC).replace(tzinfo=None)
        self.begin = self.now - timedelta(days=365 * YEARS)
        self.sites: list[Site] = []
        self.loyal = 0  # the customer of the big portal who has more than anybody
        self.subscribed: dict[int, str] = {}  # the processor's id of a customer's subscription
        self.loyal_orders = self.asked = self.set_aside = 0  # in the big portal
        usual, big = max(10, orders // 1_000), max(EACH, orders // 100)
        self.big = self._site(0, big)
        for number in range(1, usual + 1):
            self.sites.append(self._site(number, EACH))
        # The loyal customer's orders, a tenth for the others of the big portal, and the rest for all.
        self.to_loyal = max(LOYAL * 1.04 / orders, 0.001)
        self.to_big = self.to_loyal + 0.1 * (1 - self.to_loyal)
        # The typical customers' orders lie as far apart at each size; what they have bought is the same at each.
        self.shops = self.sites[:SHOPS]
        self.step = orders // (TYPICAL * len(self.shops))

    def _id(self, at: datetime) -> int:
        """An id as `portal.ids` would have made it then."""
        moment = int(at.replace(tzinfo=UTC).timestamp() * 1000)
        return (moment - _EPOCH_MS) << 20 | self.chance.getrandbits(20)

    def _site(self, number: int, customers: int) -> Site:
        at = self.begin - timedelta(days=400) + timedelta(seconds=number)
        merchant, portal, account = self._id(at), self._id(at), self._id(at)
        slug = f"shop{number}"
        self.sink.put("merchant", id=merchant, name=f"Shop {number}", email=f"owner@{slug}.example")
        self.sink.put(
            "portal",
            id=portal,
            merchant_id=merchant,
            slug=slug,
            name=f"Shop {number}",
            support_email=f"help@{slug}.example",
            locale="en",
            time_zone="UTC",
            brand="{}",
            invoice_prefix="INV-",
            cancel_reasons="[]",
        )
        self.sink.put(
            "account",
            id=account,
            portal_id=portal,
            processor="stripe",
            label="Stripe",
            live=True,
            token=f"token-{number}-{portal}",
            credentials=b"",
            options="[]",
            switched_off="[]",
            created_at=_text(at),
        )
        site = Site(portal, account, [], number)
        for n in range(customers):
            self._customer(site, n, at + timedelta(days=300) / customers * n)
        return site

    def _customer(self, site: Site, number: int, at: datetime) -> None:
        row, put = self._id(at), self.sink.put
        site.customers.append(row)
        if site.number == number == 0:
            self.loyal = row
        first, last = self.chance.choice(FIRST), self.chance.choice(LAST)
        name, (email, remote) = f"{first} {last}", _addresses(site, number)
        who = Who(site, row, email, remote)
        put(
            "customer",
            id=row,
            portal_id=site.id,
            email=email,
            name=name,
            created_at=_text(at),
            keyed=True,
        )
        for key in sorted(names.keys_of(email, name)):
            put("customer_key", portal_id=site.id, key=key, customer_id=row)
        mirrored = self._mirrored(who, who.remote, at, None)
        del mirrored["status"], mirrored["remote_customer"]
        put("remote_customer", **mirrored, name=name, deleted=False)
        # Every second customer has a subscription; the loyal one has had many.
        for n in range(90 if site.number == number == 0 else number % 2):
            self._subscription(
                who, f"sub_{site.number:05}{number:08}{n:02}", at + timedelta(hours=n), n > 30, number == 1
            )

    def _mirrored(self, who: Who, remote_id: str, at: datetime, status: str | None) -> dict[str, Any]:
        """What all rows share that mirror something at a processor."""
        moment = _text(at)
        return {
            "id": self._id(at),
            "portal_id": who.site.id,
            "account_id": who.site.account,
            "customer_id": who.id,
            "remote_id": remote_id,
            "remote_customer": who.remote,
            "email": who.email,
            "raw_status": status,
            "created_at": moment,
            "placed_at": moment,
            "as_of": moment,
            "stamps": '{"*": 1700000000000000}',
            "status": status,
        }

    def _subscription(self, who: Who, name: str, at: datetime, over: bool, typical: bool) -> None:
        state = "cancelled" if over else "active" if typical else self.chance.choice(SUBSCRIPTION_STATES)
        goes_on = state != "cancelled"
        coming = self.now + timedelta(days=self.chance.randrange(1, 30))
        row = self._mirrored(who, name, at, state)
        self.sink.put(
            "subscription",
            **row,
            title="Monthly coffee box",
            amount_minor=1_900,
            currency="USD",
            interval_unit="month",
            interval_count=1,
            quantity=1,
            started_at=_text(at),
            current_period_start=_text(coming - timedelta(days=30)),
            current_period_end=_text(coming),
            next_on=coming.date().isoformat() if goes_on else None,
            next_minor=1_900 if goes_on else None,
            next_certainty="fixed" if goes_on else None,
            method=METHOD,
            stopped=False,
        )
        assert who.id is not None
        self.subscribed[who.id] = name
        if typical or self.chance.random() < 0.25:
            self._action(row, at + timedelta(days=40))
        asked, answered = self.chance.random() < 0.1, self.chance.random() < 0.6
        if who.site.number == 0 and who.id != self.loyal and self.asked < WAITING:
            asked, answered = True, False
            self.asked += 1
            self._request(row, at + timedelta(days=20), closed=True)
        if typical or asked:
            self._request(row, at + timedelta(days=50), closed=typical or answered)

    def _action(self, subscription: dict[str, Any], at: datetime) -> None:
        moment = _text(at)
        self.sink.put(
            "action",
            id=self._id(at),
            portal_id=subscription["portal_id"],
            account_id=subscription["account_id"],
            customer_id=subscription["customer_id"],
            subscription_id=subscription["id"],
            capability="cancel_at_period_end",
            reference=self._reference(),
            params="{}",
            phase="confirmed",
            created_at=moment,
            confirmed_at=moment,
            closed_at=moment,
        )

    def _request(self, subscription: dict[str, Any], at: datetime, closed: bool) -> None:
        self.sink.put(
            "request",
            id=self._id(at),
            portal_id=subscription["portal_id"],
            account_id=subscription["account_id"],
            customer_id=subscription["customer_id"],
            subject_id=subscription["id"],
            kind="pause",
            reference=self._reference(),
            what="Monthly coffee box",
            params="{}",
            status="done" if closed else "open",
            history="[]",
            due_at=_text(at + timedelta(days=3)),
            created_at=_text(at),
            closed_at=_text(at + timedelta(days=1)) if closed else None,
        )

    def _reference(self) -> str:
        """Longer than a person's, so that a million differ."""
        return f"{self.chance.getrandbits(60):015X}"

    def write(self) -> None:
        span = (self.now - self.begin - timedelta(hours=2)) / self.orders
        tenth = max(self.orders // 10, 1)
        for number in range(self.orders):
            self._order(number, self.begin + span * number)
            if number and number % tenth == 0 and self.orders >= 100_000:
                note(f"  {number:,} of {self.orders:,}")

    def _whose(self, number: int) -> tuple[Site, int, int]:
        """The portal and the number of the customer who buys, and which of their orders it is."""
        turn, rest = divmod(number, self.step)
        if rest == 0 and turn < TYPICAL * len(self.shops):
            return self.shops[turn % len(self.shops)], 1, turn // len(self.shops)
        die = self.chance.random()
        if die < self.to_loyal:
            return self.big, 0, number
        site = self.big if die < self.to_big else self.sites[int(self.chance.random() * len(self.sites))]
        customer = int(self.chance.random() * (len(site.customers) - 1))
        return site, customer + (customer >= 1), number

    def _order(self, number: int, at: datetime) -> None:
        site, customer, turn = self._whose(number)
        who = Who(site, site.customers[customer], *_addresses(site, customer))
        subscription = self.subscribed.get(site.customers[customer]) if turn % 3 == 0 else None
        if turn % 200 == 7 and customer != 1:  # bought without an address
            who, subscription = Who(site, None, None, f"gcus_{number:011}"), None
        state = STATES[self._which_state(customer, turn, who.id)]
        minor, title = 500 + int(self.chance.random() * 250_000), TITLES[turn % len(TITLES)]
        remote = f"cs_live_{number:024}"
        lines = f'[{{"name": "{title}", "quantity": 1, "minor": {minor}, "currency": "USD"}}]'
        self.sink.put(
            "order_",
            **self._mirrored(who, remote, at, state),
            number=str(10_000 + number),
            title=title,
            amount_minor=minor,
            currency="USD",
            tax_minor=minor // 6,
            lines=lines,
            subscription_remote=subscription,
        )
        status = {"failed": "failed", "open": "pending"}.get(state, "paid")
        for part in (0, 1):  # two instalments
            paid, payment = at + timedelta(seconds=20 + 3_600 * part), f"pi_live_{number:023}{part}"
            invoice = f"in_live_{number:024}" if part == 0 and turn % 2 == 0 else None
            self.sink.put(
                "payment",
                **self._mirrored(who, payment, paid, status),
                title=title,
                amount_minor=minor // 2,
                currency="USD",
                paid_at=_text(paid),
                method=METHOD,
                order_remote=remote,
                subscription_remote=subscription,
                invoice_remote=invoice,
            )
            if invoice:
                self.sink.put(
                    "invoice",
                    **self._mirrored(who, invoice, paid, "paid"),
                    number=f"F{number:09}",
                    amount_minor=minor // 2,
                    currency="USD",
                    payment_remote=payment,
                    order_remote=remote,
                    document=True,
                    lines=lines,
                )
            if part == 1 and turn % 20 == 0:
                self.sink.put(
                    "refund",
                    **self._mirrored(who, f"re_live_{number:024}", paid, "sent"),
                    payment_remote=payment,
                    amount_minor=minor // 2,
                    currency="USD",
                )
        if number % 2:
            self._event(site, number, at)

    def _which_state(self, customer: int, turn: int, customer_id: int | None) -> int:
        """Those whose pages are asked for have one order of each kind on every page."""
        if customer == 1:
            return -1 - turn
        if customer_id != self.loyal:
            return int(self.chance.random() * len(STATES))
        self.loyal_orders += 1
        return -1 - self.loyal_orders % 10

    def _event(self, site: Site, number: int, at: datetime) -> None:
        recent = self.now - at < timedelta(days=90)  # bodies are kept for a while
        parked = recent and number % 500 == 1
        if recent and site is self.big and self.set_aside < WAITING:
            parked = True
            self.set_aside += 1
        self.sink.put(
            "event",
            id=self._id(at),
            portal_id=site.id,
            account_id=site.account,
            event_id=f"evt_{number:020}",
            type="charge.succeeded",
            headers='[["content-type", "application/json"]]',
            body=BODY if recent else None,
            received_at=_text(at),
            handled_at=None if parked else _text(at),
            parked_at=_text(at) if parked else None,
            error="It could not be read." if parked else None,
        )


def _addresses(site: Site, number: int) -> tuple[str, str]:
    """A customer's e-mail address, and the processor's id."""
    first = FIRST[number % len(FIRST)].lower()
    return f"{first}.{number}@mail{number % 7}.example", f"cus_{site.number:05}{number:08}"


def _text(at: datetime) -> str:
    """As both databases take it."""
    return at.isoformat(" ", "microseconds")


# --- The screens -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Visit:
    """Somebody with a session, their shop's merchant with another one, and what the pages of both are about."""

    host: str
    customer_token: str
    merchant_token: str
    ref: str  # of the portal
    customer: str
    email: str
    name: str
    account: str
    subscription: str
    order: str
    number: str
    amount: str
    event: str
    request: str
    deep: dict[str, str]


@dataclass(frozen=True)
class Screen:
    """`whose`: everybody's in turn, or the big portal's and its loyal customer's. What `grows` counts a portal's rows
    one by one, so it takes longer in a larger portal, and the limit does not hold for it."""

    path: Callable[[Visit], str]
    merchants: bool = False
    whose: str = "usual"
    grows: bool = False


def _of_customer(path: str, whose: str = "usual") -> Screen:
    return Screen(lambda visit: f"/customers/{path.format(v=visit)}", whose=whose)


def _of_merchant(path: str, whose: str = "usual", grows: bool = False) -> Screen:
    return Screen(
        lambda visit: f"/settings/portals/{visit.ref}/{path.format(v=visit)}",
        merchants=True,
        whose=whose,
        grows=grows,
    )


SCREENS: dict[str, Screen] = {
    # A customer's tabs, and what is behind them
    "orders": _of_customer("orders"),
    "orders of many": _of_customer("orders", "big"),
    "orders, page 50": _of_customer("orders?after={v.deep[order_]}", "big"),
    "order": _of_customer("orders/{v.order}"),
    "subscriptions": _of_customer("subscriptions"),
    "subscriptions of many": _of_customer("subscriptions", "big"),
    "subscriptions that ended": _of_customer("subscriptions?ended=first", "big"),
    "cancel": _of_customer("subscriptions/{v.subscription}/cancel"),
    "upcoming": _of_customer("upcoming"),
    "upcoming of many": _of_customer("upcoming", "big"),
    "calendar": _of_customer("upcoming.ics"),
    "payments": _of_customer("payments"),
    "payments of many": _of_customer("payments", "big"),
    "payments, page 50": _of_customer("payments?after={v.deep[payment]}", "big"),
    "asked": _of_customer("requests"),
    "addresses": _of_customer("addresses"),
    "sessions": _of_customer("sessions"),
    # The merchant's
    "portals": Screen(lambda _visit: "/settings", merchants=True),
    "overview": _of_merchant("overview"),
    "overview, 12 months": _of_merchant("overview?range=12m"),
    "overview, added up again": _of_merchant("overview?anew", "big", grows=True),
    "overview, big portal": _of_merchant("overview", "big"),
    "customers": _of_merchant("customers"),
    "customers, page 50": _of_merchant("customers?after={v.deep[customer]}", "big"),
    "search: name": _of_merchant("customers?q={v.name}"),
    "search: name of many": _of_merchant("customers?q=an", "big"),
    "search: address": _of_merchant("customers?q={v.email}", "big"),
    "search: order number": _of_merchant("customers?q={v.number}", "big"),
    "search: amount": _of_merchant("customers?q={v.amount}", "big"),
    "search: orders of an amount": _of_merchant(
        "customers?q={v.amount}&only=orders&after={v.deep[order_]}", "big"
    ),
    "customer": _of_merchant("customers/{v.customer}"),
    "customer with many": _of_merchant("customers/{v.customer}", "big"),
    "customer: orders": _of_merchant("customers/{v.customer}/orders?after={v.deep[order_]}", "big"),
    "customer: payments": _of_merchant("customers/{v.customer}/payments?after={v.deep[payment]}", "big"),
    "customer: subscriptions": _of_merchant("customers/{v.customer}/subscriptions", "big"),
    "customer: requests": _of_merchant("customers/{v.customer}/requests", "big"),
    "customer: actions": _of_merchant("customers/{v.customer}/actions", "big"),
    "customer: order": _of_merchant("customers/{v.customer}/orders/{v.order}"),
    "unassigned": _of_merchant("customers/unassigned", "big"),
    "assigned": _of_merchant("customers/assigned", "big"),
    "events": _of_merchant("events"),
    "events, page 50": _of_merchant("events?after={v.deep[event]}", "big"),
    "events of an account": _of_merchant("events?account={v.account}", "big"),
    "events handled": _of_merchant("events?state=handled&account={v.account}", "big"),
    "events set aside": _of_merchant("events?state=parked", "big"),
    "event": _of_merchant("events/{v.event}", "big"),
    "requests": _of_merchant("requests", "big"),
    "requests overdue": _of_merchant("requests?show=overdue", "big"),
    "requests answered": _of_merchant("requests?show=answered", "big"),
    "request": _of_merchant("requests/{v.request}", "big"),
}


class Shop:
    """One database with the application on it, and people who are signed in."""

    def __init__(self, built: Built, visits: int) -> None:
        self.built = built
        self.database = Database(built.url, 4, outside=walls.EVERYTHING)
        self.settings = Settings(
            database_url=built.url,
            master_keys=new_key(),
            secret_key=secrets.token_urlsafe(32),
            scheme="http",
            base_domain="localhost",
            admin_host="admin.localhost",
        )
        self.app: Starlette = create_app(self.settings, self.database)
        self.database.write_now(_end_sessions)
        shops = min(visits, SHOPS, built.marker["rows"]["portal"] - 1)
        self.visits = {
            "usual": [self.database.write_now(self._usual, number) for number in range(1, shops + 1)],
            "big": [self.database.write_now(self._big)],
        }

    def close(self) -> None:
        self.database.dispose()

    def asked(self, screen: Screen, count: int) -> list[tuple[str, str, str]]:
        """Host, cookie and path of so many requests for a screen."""
        visits = self.visits[screen.whose]
        out = []
        for number in range(count):
            visit = visits[number % len(visits)]
            if screen.merchants:
                who = self.settings.admin_host, f"portal-merchant={visit.merchant_token}"
            else:
                who = visit.host, f"{login.cookie_name(self.settings)}={visit.customer_token}"
            out.append((*who, screen.path(visit)))
        return out

    async def ask(self, host: str, cookie: str, path: str) -> bytes:
        """The page, as a server would ask the application for it; RuntimeError for any answer but a 200."""
        before, _, query = path.partition("?")
        body, status = bytearray(), 0

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                body.extend(message.get("body", b""))

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": before,
            "raw_path": before.encode(),
            "root_path": "",
            "query_string": quote(query, safe="=&").encode(),
            "headers": [(b"host", host.encode()), (b"cookie", cookie.encode())],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        await self.app(scope, receive, send)
        if status != 200:
            raise RuntimeError(f"{status} for {path}: {bytes(body[:300])!r}")
        return bytes(body)

    # Who is signed in

    def _usual(self, db: Session, number: int) -> Visit:
        """The typical customer of a usual portal."""
        sql = (
            "SELECT c.portal_id, c.id FROM customer c JOIN portal p ON p.id = c.portal_id "
            "WHERE p.slug = :slug AND c.email = :email"
        )
        email, _remote = _addresses(Site(0, 0, [], number), 1)
        found = db.execute(text(sql), {"slug": f"shop{number}", "email": email}).one()
        return self._visit(db, found.portal_id, found.id)

    def _big(self, db: Session) -> Visit:
        return self._visit(db, self.built.marker["portal"], self.built.marker["customer"])

    def _visit(self, db: Session, portal_id: int, customer_id: int) -> Visit:
        portal = db.get_one(models.Portal, portal_id)
        customer = db.get_one(models.Customer, customer_id)
        order = db.get_one(models.Order, self._first(db, "order_", portal_id, customer_id))
        now = clock.now()
        token = secrets.token_urlsafe(32)
        db.add(
            models.SignIn(
                token_hash=login.digest(token),
                portal_id=portal_id,
                customer_id=customer_id,
                user_agent="bench",
                created_at=now,
                last_seen_at=now,
                expires_at=now + timedelta(hours=12),
            )
        )
        assert order.amount_minor is not None
        return Visit(
            host=f"{portal.slug}.localhost",
            customer_token=token,
            merchant_token=self._merchant(db, portal.merchant_id),
            ref=id_text(portal_id),
            customer=id_text(customer_id),
            email=customer.email,
            name=customer.name or "",
            account=id_text(order.account_id),
            subscription=id_text(self._first(db, "subscription", portal_id, customer_id, _LIVE)),
            order=id_text(order.id),
            number=order.number or "",
            amount=f"{order.amount_minor / 100:.2f}",
            event=id_text(self._first(db, "event", portal_id)),
            request=id_text(self._first(db, "request", portal_id)),
            deep={table: self._deep(db, table, portal_id, customer_id) for table in _DEEP},
        )

    def _merchant(self, db: Session, merchant_id: int) -> str:
        """A session of somebody who works there."""
        email = f"bench{merchant_id}@merchant.example"
        values = {"email": email}
        user_id = db.execute(text("SELECT id FROM merchant_user WHERE email = :email"), values).scalar()
        now = clock.now()
        if user_id is None:
            user = models.User(email=email, created_at=now)
            db.add(user)
            db.flush()
            db.add(models.Member(merchant_id=merchant_id, user_id=user.id, role="owner", created_at=now))
            db.flush()
            user_id = user.id
        return merchants.open_session(db, user_id, merchant_id, "bench", "127.0.0.1", now, strong=True)

    def _first(
        self, db: Session, table: str, portal_id: int, customer_id: int | None = None, more: str = ""
    ) -> int:
        values = {"portal": portal_id, "customer": customer_id}
        theirs = "AND customer_id = :customer" if customer_id is not None else ""
        newest = "placed_at DESC, id DESC" if customer_id is not None else "id DESC"
        sql = f"SELECT id FROM {table} WHERE portal_id = :portal {theirs} {more} ORDER BY {newest} LIMIT 1"
        return int(db.execute(text(sql), values).scalar() or 0)

    def _deep(self, db: Session, table: str, portal_id: int, customer_id: int) -> str:
        """The cursor of page 50 of a list, or of its last page where it has fewer."""
        moment, theirs = _DEEP[table]
        where = f"FROM {table} WHERE portal_id = :portal {theirs}"
        values = {"portal": portal_id} | ({"customer": customer_id} if theirs else {})
        count = db.execute(text(f"SELECT count(*) {where}"), values).scalar_one()
        order = f"{moment} DESC, id DESC" if theirs else "id DESC"
        place = max(0, min(PAGE * (PAGES - 1) - 1, count - PAGE - 1))
        sql = f"SELECT id, {moment} AS at {where} ORDER BY {order} LIMIT 1 OFFSET {place}"
        found = db.execute(text(sql), values).one_or_none()
        if found is None:
            return ""
        if table == "customer":
            from portal.search import _Place

            return str(_Place(b"", found.id))
        at = datetime.fromisoformat(found.at) if isinstance(found.at, str) else found.at
        return str(Cursor(at if at.tzinfo else at.replace(tzinfo=UTC), found.id))


def _end_sessions(db: Session) -> None:
    """Those of an earlier run on a database that was kept."""
    for table in ("session", "merchant_session"):
        db.execute(text(f"DELETE FROM {table} WHERE user_agent = 'bench'"))


_LIVE = "AND status NOT IN ('cancelled', 'expired')"
_DEEP = {
    "order_": ("placed_at", "AND customer_id = :customer"),
    "payment": ("placed_at", "AND customer_id = :customer"),
    "customer": ("created_at", ""),
    "event": ("received_at", ""),
}


# --- Measuring -------------------------------------------------------------------------------------------------------


@dataclass
class Figures:
    """What was found of a screen at one size."""

    cpu_us: list[float] = field(default_factory=list)
    backend_us: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    middles: list[float] = field(default_factory=list)  # of each round
    size: int = 0

    def told(self, plans: "Plans") -> dict[str, Any]:
        cuts = statistics.quantiles(self.times, n=100, method="inclusive")
        return {
            "cpu_us": round(statistics.median(self.cpu_us)),
            **({"backend_us": round(statistics.median(self.backend_us))} if self.backend_us else {}),
            "p50_ms": round(cuts[49], 2),
            "p99_ms": round(cuts[98], 2),
            "bytes": self.size,
            "statements": plans.statements,
            "work": plans.work,
            "plan_ok": not plans.bad,
            "bad": plans.bad,
        }


async def measure(built: Sequence[Built], rounds: int, requests: int) -> dict[str, Any]:
    """Every screen at every size, in turn."""
    # As many at each size: of a few portals more is still known from the page before.
    fewest = min(one.marker["rows"]["portal"] for one in built) - 1
    shops = [Shop(one, visits=min(requests, fewest)) for one in built]
    try:
        plans = [await look_at_plans(shop) for shop in shops]  # asks for each page, so all is warm
        figures = [{name: Figures() for name in SCREENS} for _ in shops]
        for _round in range(rounds):
            for name, screen in SCREENS.items():
                await _ask_all(shops, screen, requests, [found[name] for found in figures])
    finally:
        for shop in shops:
            shop.close()
    sizes = {
        str(one.orders): {
            **{name: one.marker[name] for name in ("rows", "bytes", "bytes_per_order", "seconds")},
            **({"tables": one.marker["tables"]} if "tables" in one.marker else {}),
            "screens": {name: found[name].told(plan[name]) for name in SCREENS},
        }
        for one, found, plan in zip(built, figures, plans, strict=True)
    }
    ratios = {}
    if len(built) > 1:
        for name in SCREENS:
            pairs = zip(figures[0][name].middles, figures[-1][name].middles, strict=True)
            ratios[name] = round(statistics.median(large / small for small, large in pairs), 2)
    return {"sizes": sizes, "ratios": ratios}


async def _ask_all(shops: Sequence[Shop], screen: Screen, count: int, into: Sequence[Figures]) -> None:
    """So many requests for a screen to each shop, one after the other by turns."""
    backends = [_backends(shop) for shop in shops]
    times: list[list[float]] = [[] for _ in shops]
    spent, behind = [0.0 for _ in shops], [0.0 for _ in shops]
    wanted = [shop.asked(screen, count) for shop in shops]
    for turn in range(count):
        for number, shop in enumerate(shops):
            theirs = sum(map(_cpu_us, backends[number]))
            cpu, begun = time.process_time(), time.perf_counter()
            page = await shop.ask(*wanted[number][turn])
            times[number].append((time.perf_counter() - begun) * 1000)
            spent[number] += (time.process_time() - cpu) * 1e6
            behind[number] += sum(map(_cpu_us, backends[number])) - theirs
            into[number].size = len(page)
    for number, found in enumerate(into):
        found.cpu_us.append(spent[number] / count)
        if backends[number]:
            found.backend_us.append(behind[number] / count)
        found.times += times[number]
        found.middles.append(statistics.median(times[number]))


def _backends(shop: Shop) -> list[int]:
    """The server's processes that work for the application; the server is on this machine."""
    if shop.database.is_sqlite:
        return []
    sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    return shop.database.read_now(lambda db: list(db.execute(text(sql)).scalars()))


def _cpu_us(pid: int) -> float:
    """CPU time of a process of one thread, so far."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1000


# --- Plans -----------------------------------------------------------------------------------------------------------


MOST_SORTED = 100  # rows; a page has 25
MOST_WASTED = 1_000  # rows that are read and not used
MOST_STEPS = 20_000  # of SQLite's machine, for one statement
FEW_ROWS = 100  # a table with fewer is no big one
SMALL = 200_000  # orders: where there are fewer, reading a whole table would be cheaper than any index


@dataclass
class Plans:
    """Of all statements of a screen. `work`: pages of memory that PostgreSQL looked at, or steps of SQLite's machine;
    the same each time, whatever else the machine does."""

    statements: int = 0
    work: int = 0
    bad: list[dict[str, Any]] = field(default_factory=list)


Sent = dict[str, tuple[Any, walls.Scope]]  # by statement: with what values, and within whose rows


async def look_at_plans(shop: Shop, only: Sequence[str] = ()) -> dict[str, Plans]:
    """Ask for each screen, catch its statements, and have them explained."""
    rows = _rows(shop)
    found = {}
    for name in only or SCREENS:
        screen = SCREENS[name]
        sent: Sent = {}
        for one in shop.asked(screen, len(shop.visits[screen.whose])):
            await shop.ask(*one)  # now it is warm
        with _caught(shop.database, sent):
            await shop.ask(*shop.asked(screen, 1)[0])
        found[name] = shop.database.write_now(_explained, shop, screen, sent, rows)
    return found


def _rows(shop: Shop) -> dict[str, int]:
    """How many rows each table has."""

    def count(db: Session) -> dict[str, int]:
        return {table: db.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() for table in TABLES}

    return shop.database.read_now(count)


@contextmanager
def _caught(database: Database, sent: Sent) -> Iterator[None]:
    def note_it(_c: Any, _k: Any, sql: str, parameters: Any, _context: Any, many: bool) -> None:
        if sql.lstrip().upper().startswith(("SELECT", "WITH")) and not many:
            sent.setdefault(sql, (parameters, walls.now() or walls.EVERYTHING))

    event.listen(database.engine, "before_cursor_execute", note_it)
    try:
        yield
    finally:
        event.remove(database.engine, "before_cursor_execute", note_it)


def _explained(db: Session, shop: Shop, screen: Screen, sent: Sent, rows: dict[str, int]) -> Plans:
    plans = Plans(statements=len(sent))
    explain = _explained_by_sqlite if shop.database.is_sqlite else _explained_by_postgres
    if not shop.database.is_sqlite and shop.built.orders < SMALL:
        db.execute(text("SET LOCAL enable_seqscan = off"))
    for sql, (parameters, scope) in sent.items():
        with walls._set(scope):
            work, why, plan = explain(db, sql, parameters, rows, screen.grows)
        plans.work += work
        if why:
            plans.bad.append({"why": "; ".join(why), "statement": " ".join(sql.split()), "plan": plan})
    return plans


Explained = tuple[int, list[str], list[str]]


def _explained_by_sqlite(
    db: Session, sql: str, parameters: Any, rows: dict[str, int], grows: bool
) -> Explained:
    connection = db.connection()
    nodes = [
        (row[0], row[1], str(row[-1]))
        for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters)
    ]
    plan = [line for _node, _parent, line in nodes]
    # What is looked up for each row sorts no more than belongs to it; how long that takes is seen by the steps.
    for_each_row = {node for node, _parent, line in nodes if line.startswith("CORRELATED")}
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 10
        return 0

    raw: Any = connection.connection.driver_connection
    raw.set_progress_handler(step, 10)
    connection.exec_driver_sql(sql, parameters).all()
    raw.set_progress_handler(None, 0)
    why = []
    aliases = {alias: table for table, alias in re.findall(r"\b(\w+) AS (\w+)", sql)}
    for _node, parent, line in nodes:
        scanned = re.match(r"SCAN (\w+)", line)
        if scanned:
            table = aliases.get(scanned[1], scanned[1])
            if rows.get(str(table), 0) >= FEW_ROWS:
                why.append(f"reads all of {table}")
        if "TEMP B-TREE FOR" in line and "ORDER BY" in line and parent not in for_each_row:
            unlimited, count = re.subn(r"\s+LIMIT \? OFFSET \?\s*$", "", sql)
            values = tuple(parameters)[:-2] if count else tuple(parameters)
            counted = f"SELECT count(*) FROM ({unlimited} LIMIT {MOST_SORTED + 1})"
            if not _is_short(connection, counted, values):
                why.append(f"sorts more than {MOST_SORTED} rows")
    if steps > MOST_STEPS and not grows:
        why.append(f"takes {steps:,} steps")
    return steps, why, plan


def _is_short(connection: Any, counted: str, values: tuple[Any, ...]) -> bool:
    return int(connection.exec_driver_sql(counted, values).scalar_one()) <= MOST_SORTED


def _explained_by_postgres(
    db: Session, sql: str, parameters: Any, rows: dict[str, int], grows: bool
) -> Explained:
    """As for a statement that has been sent five times before: then PostgreSQL may plan it once for all values, of
    which it knows no more than how many rows there are on average."""
    raw: Any = db.connection().connection.driver_connection
    order: dict[str, str] = {}
    numbered = re.sub(r"%\((\w+)\)s", lambda found: order.setdefault(found[1], f"${len(order) + 1}"), sql)
    values = ", ".join(Literal(parameters[name]).as_string(raw) for name in order)
    execute = f"EXECUTE explained ({values})" if values else "EXECUTE explained"
    raw.execute("PREPARE explained AS " + numbered.replace("%%", "%"))
    for _time in range(5):
        raw.execute(execute)
    ((found,),) = raw.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {execute}").fetchall()
    raw.execute("DEALLOCATE explained")
    top = found[0]["Plan"]
    why, lines = [], []
    for depth, node in _nodes(top):
        table, kind, loops = node.get("Relation Name"), node["Node Type"], node["Actual Loops"]
        words = (kind, node.get("Index Name"), "on" if table else None, table)
        lines.append("  " * depth + " ".join(word for word in words if word))
        if kind == "Seq Scan" and rows.get(str(table), 0) >= FEW_ROWS:
            why.append(f"reads all of {table}")
        if kind in ("Sort", "Incremental Sort"):
            sorted_ = sum(one["Actual Rows"] * one["Actual Loops"] for one in node["Plans"])
            if sorted_ > MOST_SORTED and not grows:
                why.append(f"sorts {sorted_:,.0f} rows")
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Join Filter", 0)
        if removed * loops > MOST_WASTED and not grows:
            why.append(f"looks at {removed * loops:,.0f} rows of {table or 'a join'} that it does not use")
    return top["Shared Hit Blocks"] + top["Shared Read Blocks"], why, lines


def _nodes(node: dict[str, Any], depth: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    yield depth, node
    for one in node.get("Plans", ()):
        yield from _nodes(one, depth + 1)


# --- Telling ---------------------------------------------------------------------------------------------------------


def print_table(kind: str, found: dict[str, Any]) -> None:
    for size, one in found["sizes"].items():
        rows = ", ".join(f"{count:,} {table.rstrip('_')}" for table, count in one["rows"].items())
        print(
            f"\n{kind}, {int(size):,} orders: {_gb(one['bytes'])}, {one['bytes_per_order']:,} bytes an order"
        )
        print(f"  {rows}")
        columns = [name for name in next(iter(one["screens"].values())) if name != "bad"]
        print(_line("", [*columns, "ratio"]))
        for name, screen in one["screens"].items():
            cells = [screen[column] for column in columns]
            print(_line(name, [*cells, found["ratios"].get(name, "")]))
    for name, value in found.get("intake", {}).items():
        print(f"{name:30}{value}")


def _line(name: str, cells: Sequence[object]) -> str:
    return f"{name:30}" + "".join(f"{cell!s:>11}" for cell in cells)


# --- Taking events in ------------------------------------------------------------------------------------------------


WORKERS = (1, 2, 4)
CONNECTIONS = 8


def intake(kind: str, events: int) -> dict[str, Any]:
    """How many signed events a second one web process takes in and keeps (the disk has them before the answer), and how
    many some workers handle. Each is about another subscription, so each asks the processor, which is simulated in
    this process."""
    with _house(kind) as house:
        return asyncio.run(_take_in(house, events))


@contextmanager
def _house(kind: str) -> Iterator[Installation]:
    """An installation that syncs its disk, unlike the tests' PostgreSQL."""
    with installation("sqlite", "stripe") as house:
        if kind == "sqlite":
            yield house
            return
        with Postgres(fsync="on", synchronous_commit="on", full_page_writes="on", autovacuum="on") as server:
            url = server.create("portal")
            upgrade(url)
            settings = house.settings.model_copy(update={"database_url": url})
            database = Database(url, 4, outside=walls.EVERYTHING)
            portal, account = database.write_now(_furnish, settings, "stripe", house.sample)
            moved = replace(house, settings=settings, database=database, portal=portal, account=account)
            moved.server, moved.processes, moved.ports = server, {}, {}
            try:
                yield moved
            finally:
                moved.stop()
                database.dispose()


async def _take_in(house: Installation, events: int) -> dict[str, Any]:
    house.start("web")
    house.wait_for("web")
    remotes = [
        str(house.simulator.stage(house.sample, f"customer{number}@example.com", Situation()))
        for number in range(events)
    ]
    house.posted.clear()
    found: dict[str, Any] = {"events": events}
    accepted: list[float] = []
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        await _deliver(house, client, [_event(house, one, f"first{one}") for one in remotes])
        await _handle(house, 2)
        for workers in WORKERS:
            made = [_event(house, one, f"{workers}{one}") for one in remotes]
            begun = time.perf_counter()
            await _deliver(house, client, made)
            accepted.append(events / (time.perf_counter() - begun))
            found[f"handled_{workers}_per_s"] = await _handle(house, workers)
    found["accepted_per_s"] = round(statistics.median(accepted))
    return found


def _event(house: Installation, remote: str, name: str) -> Delivery:
    body = stripe.event(
        "customer.subscription.updated",
        {"id": remote, "object": "subscription", "status": "active"},
        event_id=f"evt_scale{name}",
    )
    signature = stripe.sign(house.sample.credentials["webhook_secret"], body, clock.now())
    return Delivery("", {"Stripe-Signature": signature}, body)


async def _deliver(house: Installation, client: httpx.AsyncClient, deliveries: Sequence[Delivery]) -> None:
    url, queue = f"{house.url('web')}/webhooks/{house.account.token}", iter(deliveries)

    async def connection() -> None:
        for one in queue:
            headers = {"content-type": "application/json", **one.headers}
            answer = await client.post(url, content=one.body, headers=headers)
            if answer.status_code != 200:
                raise RuntimeError(f"a true delivery was refused: {answer.status_code} {answer.text}")

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))


async def _handle(house: Installation, workers: int) -> int:
    """Start so many workers on what waits, and stop them again: how many a second, from the first one handled on."""
    waiting = "SELECT count(*) FROM event WHERE handled_at IS NULL AND parked_at IS NULL"
    all_of_them, started = house.count(waiting), clock.now()
    for number in range(workers):
        house.start(f"worker-{workers}-{number}")
    while left := house.count(waiting):
        if clock.now() - started > timedelta(seconds=60 + all_of_them):
            raise RuntimeError(f"{left} events are still not handled: {house.log()[-2000:]}")
        await asyncio.sleep(0.2)
    times = house.database.read_now(
        lambda db: db.execute(select(func.min(_handled), func.max(_handled)).where(_handled > started)).one()
    )
    for number in range(workers):
        house.kill(f"worker-{workers}-{number}")
    seconds = float((times[1] - times[0]).total_seconds())
    return round(all_of_them / max(seconds, 0.001))


_handled: Any = models.Event.__table__.c.handled_at  # type: ignore[attr-defined]

if __name__ == "__main__":
    main()
