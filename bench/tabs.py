"""What the signed-in orders tab costs, beside the least it could cost and what Django asks for it.

    .venv/bin/python -m bench.tabs [--rows 1000000] [--db sqlite|postgresql|both] [--json]

25 of a million orders, another customer at each request, on SQLite and on PostgreSQL. In each round three servers are
asked in turn: the portal as `portal serve` runs it; a bare Starlette handler with the raw driver, the same statements
(the session's included) and the same template (`bench/bare.py`); and the page as most would build it in Django 5.2,
under gunicorn (`bench/django_peer`, in an environment of its own). Before anything is measured, the bare handler's page
must equal the tab's byte for byte, and Django's must show the same words.

The cost is the CPU time of a server's processes, from /proc, by request: it hardly depends on what else the machine
does. Ratios are of medians over the rounds; times are those of the tab, with four connections at once.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import psycopg
import pysqlite3.dbapi2

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # so that `python bench/tabs.py` finds the tests' PostgreSQL too

from portal.ids import new_id  # noqa: E402
from portal.migrate import upgrade  # noqa: E402
from portal.vault import new_key  # noqa: E402
from tests.postgres import Server as Postgres  # noqa: E402

PEER = ROOT / "bench/django_peer"
PEER_VENV = ROOT / ".venv-django"
BIN = Path(sys.executable).parent
ORDERS_EACH = 50
SIGNED_IN = 2_000
CONNECTIONS = 4
TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")


def main() -> None:
    options = argparse.ArgumentParser(prog="bench.tabs", description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rows", type=int, default=1_000_000, help="orders in the table")
    options.add_argument("--db", choices=["sqlite", "postgresql", "both"], default="both")
    options.add_argument("--rounds", type=int, default=7, help="after one round to warm up")
    options.add_argument("--requests", type=int, default=800, help="to each server in each round")
    options.add_argument("--without-django", action="store_true", help="where its environment can't be made")
    options.add_argument("--json", action="store_true", help="last line: everything as one JSON object")
    chosen = options.parse_args()
    databases = ["sqlite", "postgresql"] if chosen.db == "both" else [chosen.db]
    if not chosen.without_django:
        make_peer_environment()
    found = {}
    for name in databases:
        with tempfile.TemporaryDirectory(prefix="portal-bench-") as folder, ExitStack() as stack:
            note(f"{name}: filling {chosen.rows:,} orders")
            url = new_database(name, Path(folder), stack)
            people = fill(url, chosen.rows)
            servers = start_servers(url, people, stack, with_django=not chosen.without_django)
            compare_pages(servers)
            note(f"{name}: measuring")
            found[name] = {**measure(servers, chosen.rounds, chosen.requests), "rows": chosen.rows}
    print_table(found)
    if chosen.json:
        print(json.dumps(found))


def note(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


# --- The data --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Person:
    """A customer who is signed in, and the secret of the session."""

    id: int
    token: str


def new_database(name: str, folder: Path, stack: ExitStack) -> str:
    if name == "sqlite":
        url = f"sqlite:///{folder}/portal.db"
    else:
        server = stack.enter_context(Postgres(shared_buffers="256MB", maintenance_work_mem="256MB"))
        url = server.create("portal")
    upgrade(url)
    return url


def fill(url: str, rows: int) -> list[Person]:
    """One portal with `rows` orders, each customer's lying far apart as in life; gives those who are signed in."""
    chance = random.Random(20261122)
    now = datetime.now(UTC)
    merchant, portal, account = new_id(), new_id(), new_id()
    customers = [new_id() for _ in range(max(rows // ORDERS_EACH, 10))]
    people = [
        Person(customer, secrets.token_urlsafe(32))
        for customer in chance.sample(customers, min(SIGNED_IN, len(customers)))
    ]
    put = _put_sqlite if url.startswith("sqlite") else _put_postgres
    put(
        url,
        {
            "merchant": [_merchant(merchant)],
            "portal": [_portal(portal, merchant)],
            "account": [_account(account, portal, now)],
            "customer": (_customer(one, number, portal, now) for number, one in enumerate(customers)),
            "order_": _orders(rows, portal, account, customers, now, chance),
            "session": (_session(person, portal, now) for person in people),
        },
    )
    return people


Row = dict[str, Any]


def _merchant(merchant: int) -> Row:
    return {"id": merchant, "name": "Acme", "email": "owner@acme.example"}


def _portal(portal: int, merchant: int) -> Row:
    return {
        "id": portal,
        "merchant_id": merchant,
        "slug": "acme",
        "name": "Acme Coffee",
        "support_email": "help@acme.example",
        "locale": "en",
        "time_zone": "UTC",
        "brand": "{}",
        "invoice_prefix": "INV-",
        "cancel_reasons": "[]",
    }


def _account(account: int, portal: int, now: datetime) -> Row:
    return {
        "id": account,
        "portal_id": portal,
        "processor": "stripe",
        "label": "Stripe",
        "live": False,
        "token": secrets.token_urlsafe(16),
        "credentials": b"",
        "options": "[]",
        "switched_off": "[]",
        "created_at": now,
    }


def _customer(customer: int, number: int, portal: int, now: datetime) -> Row:
    return {
        "id": customer,
        "portal_id": portal,
        "email": f"customer{number}@example.com",
        "name": f"Customer {number}",
        "created_at": now,
    }


def _orders(
    rows: int, portal: int, account: int, customers: Sequence[int], now: datetime, chance: random.Random
) -> Iterator[Row]:
    titles = (
        "Ethiopia Guji, 2 bags",
        "Monthly coffee box",
        "Filter papers & scoop",
        "Kenya AA",
        "Espresso blend, 1 kg",
    )
    states = ("paid",) * 16 + ("partially_refunded", "refunded", "failed", "open")
    for number in range(rows):
        placed = now - timedelta(seconds=40 * (rows - number))
        yield {
            "id": new_id(),
            "portal_id": portal,
            "account_id": account,
            "customer_id": customers[number % len(customers)],
            "remote_id": f"order_{number:09}",
            "placed_at": placed,
            "created_at": placed,
            "as_of": placed,
            "stamps": "{}",
            "status": chance.choice(states),
            "number": str(10_000 + number),
            "title": chance.choice(titles),
            "amount_minor": chance.randrange(500, 250_000),
            "currency": "USD",
            "lines": "[]",
        }


def _session(person: Person, portal: int, now: datetime) -> Row:
    return {
        "token_hash": hashlib.sha256(person.token.encode()).hexdigest(),
        "id": new_id(),
        "portal_id": portal,
        "customer_id": person.id,
        "purpose": "customer",
        "user_agent": "bench",
        "created_at": now,
        "last_seen_at": now,
        "expires_at": now + timedelta(hours=24),
    }


Tables = dict[str, Iterable[Row]]


def _put_sqlite(url: str, tables: Tables) -> None:
    connection = pysqlite3.dbapi2.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    for pragma in ("synchronous = OFF", "foreign_keys = OFF", "cache_size = -400000"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("BEGIN")
    for table, rows in tables.items():
        rows = iter(rows)
        first = next(rows)
        command = f"INSERT INTO {table} ({', '.join(first)}) VALUES ({', '.join('?' * len(first))})"
        connection.execute(command, _as_sqlite(first))
        connection.executemany(command, map(_as_sqlite, rows))
    connection.execute("COMMIT")
    connection.execute("ANALYZE")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _as_sqlite(row: Row) -> list[Any]:
    return [
        value.strftime("%Y-%m-%d %H:%M:%S.%f") if isinstance(value, datetime) else value
        for value in row.values()
    ]


def _put_postgres(url: str, tables: Tables) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SET session_replication_role = replica"
        )  # no look-up of foreign keys for each row
        for table, rows in tables.items():
            rows = iter(rows)
            first = next(rows)
            with connection.cursor().copy(f"COPY {table} ({', '.join(first)}) FROM STDIN") as copy:
                copy.write_row(list(first.values()))
                for row in rows:
                    copy.write_row(list(row.values()))
        connection.execute("VACUUM ANALYZE")


# --- The servers -----------------------------------------------------------------------------------------------------


@dataclass
class Served:
    """A running server, and what each customer's browser would send it."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    requests: list[bytes]

    def cpu_us(self) -> float:
        """CPU time so far of all its processes with all their threads."""
        return sum(_ticks(pid) for pid in _family(self.process.pid)) * TICK_US


def _ticks(pid: int) -> int:
    """User and system time of a process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _family(int(child))


def start_servers(url: str, people: list[Person], stack: ExitStack, with_django: bool) -> dict[str, Served]:
    servers = {"tab": _start_portal(url, people, stack), "bare": _start_bare(url, people, stack)}
    if with_django:
        servers["django"] = _start_django(url, people, stack)
    return servers


def _start_portal(url: str, people: list[Person], stack: ExitStack) -> Served:
    environment = {
        "PORTAL_DATABASE_URL": url,
        "PORTAL_SCHEME": "http",
        "PORTAL_BASE_DOMAIN": "localhost",
        "PORTAL_MASTER_KEYS": new_key(),
        "PORTAL_SECRET_KEY": secrets.token_urlsafe(32),
    }
    port = _free_port()
    command = [str(BIN / "python"), "-m", "portal", "serve", "--no-worker", "--port", str(port)]
    process = stack.enter_context(_running(command, ROOT, environment, port))
    return Served("tab", port, process, [_request(port, f"portal={person.token}") for person in people])


def _start_bare(url: str, people: list[Person], stack: ExitStack) -> Served:
    port = _free_port()
    command = [str(BIN / "uvicorn"), "bench.bare:app", "--port", str(port)]
    command += ["--no-access-log", "--log-level", "warning", "--no-server-header", "--ws", "none"]
    process = stack.enter_context(_running(command, ROOT, {"BARE_DATABASE_URL": url}, port))
    return Served("bare", port, process, [_request(port, f"portal={person.token}") for person in people])


def _start_django(url: str, people: list[Person], stack: ExitStack) -> Served:
    environment = {"PEER_DATABASE_URL": url, "PEER_SECRET_KEY": secrets.token_urlsafe(32)}
    made = subprocess.run(
        [PEER_VENV / "bin/python", "make_sessions.py"],
        cwd=PEER,
        env={**os.environ, **environment},
        input=json.dumps([person.id for person in people]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    port = _free_port()
    command = [str(PEER_VENV / "bin/gunicorn"), "--workers", "1", "--bind", f"127.0.0.1:{port}"]
    command += ["--log-level", "warning", "wsgi:application"]
    process = stack.enter_context(_running(command, PEER, environment, port))
    keys = json.loads(made.stdout)
    return Served("django", port, process, [_request(port, f"sessionid={key}") for key in keys])


def make_peer_environment() -> None:
    """Django in an environment of its own, made once."""
    wanted = PEER / "requirements.txt"
    made = PEER_VENV / "made-from"
    if made.exists() and made.read_text() == wanted.read_text():
        return
    note("making .venv-django")
    uv = str(BIN / "uv") if (BIN / "uv").exists() else shutil.which("uv") or "uv"
    subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, PEER_VENV], check=True)
    subprocess.run(
        [uv, "pip", "install", "-q", "--python", PEER_VENV / "bin/python", "-r", wanted], check=True
    )
    shutil.copy(wanted, made)


@contextmanager
def _running(
    command: list[str], folder: Path, environment: dict[str, str], port: int
) -> Iterator[subprocess.Popen[bytes]]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder), **environment},
            stdout=log,
            stderr=log,
        )
        try:
            _wait_for(port, process)
            yield process
        except BaseException:
            log.seek(0)
            note(log.read()[-3000:].decode(errors="replace"))
            raise
        finally:
            process.terminate()
            process.wait(60)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit("A server ended before it answered.")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("A server did not start.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _request(port: int, cookie: str) -> bytes:
    lines = ("GET /customers/orders HTTP/1.1", f"Host: acme.localhost:{port}", f"Cookie: {cookie}", "", "")
    return "\r\n".join(lines).encode()


# --- Asking ----------------------------------------------------------------------------------------------------------


class Connection:
    """HTTP/1.1 to the loopback, as little of it as these servers need; opened again where a server closes it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> bytes:
        """The body of the answer; RuntimeError for any but a 200."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(f"{head.splitlines()[0].decode()} for {request.splitlines()[0].decode()}")
        body = await reader.readexactly(int(head.partition(b"content-length:")[2].split(None, 1)[0]))
        if b"connection: close" in head:
            self.close()
        return body

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None


async def drive(served: Served, count: int, chance: random.Random) -> list[float]:
    """Ask `count` times, several at once, each time for another customer; the time of each answer in milliseconds."""
    wanted = iter(chance.choices(served.requests, k=count))
    times: list[float] = []

    async def one() -> None:
        connection = Connection(served.port)
        for request in wanted:
            begun = time.perf_counter()
            await connection.ask(request)
            times.append((time.perf_counter() - begun) * 1000)
        connection.close()

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return times


def compare_pages(servers: dict[str, Served]) -> None:
    """Refuse to measure unless all three give the same page."""
    for number in range(min(20, len(servers["tab"].requests))):
        pages = {name: asyncio.run(_once(served, number)) for name, served in servers.items()}
        if pages["bare"] != pages["tab"]:
            raise SystemExit(_difference("bare handler", pages["bare"].decode(), pages["tab"].decode()))
        words = {name: visible_text(page) for name, page in pages.items()}
        if words.get("django", words["tab"]) != words["tab"]:
            raise SystemExit(_difference("Django peer", words["django"], words["tab"]))


async def _once(served: Served, number: int) -> bytes:
    connection = Connection(served.port)
    try:
        return await connection.ask(served.requests[number])
    finally:
        connection.close()


def _difference(name: str, page: str, expected: str) -> str:
    place = next(
        (place for place, (one, other) in enumerate(zip(page, expected, strict=False)) if one != other),
        min(len(page), len(expected)),
    )
    around = slice(max(place - 60, 0), place + 60)
    return f"The {name}'s page is not the tab's:\n  {page[around]!r}\n  {expected[around]!r}"


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found += data.split()


def visible_text(page: bytes) -> str:
    """The words between the tags."""
    parser = _Words()
    parser.feed(page.decode())
    return " ".join(parser.found)


# --- Measuring -------------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    cpu_us: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


def measure(servers: dict[str, Served], rounds: int, requests: int) -> dict[str, Any]:
    chance = random.Random(7)
    found = {name: Measured() for name in servers}
    for number in range(rounds + 1):
        order = list(servers)
        chance.shuffle(order)
        for name in order:
            before = servers[name].cpu_us()
            times = asyncio.run(drive(servers[name], requests, chance))
            cost = (servers[name].cpu_us() - before) / requests
            if number:  # the first round warms up
                found[name].cpu_us.append(cost)
                found[name].times += times
    cpu = {name: statistics.median(one.cpu_us) for name, one in found.items()}
    cuts = statistics.quantiles(found["tab"].times, n=100)
    return {
        **{f"{name}_cpu_us": round(cost) for name, cost in cpu.items()},
        **({"vs_bare": round(cpu["tab"] / cpu["bare"], 2)} if "bare" in cpu else {}),
        **({"vs_django": round(cpu["django"] / cpu["tab"], 2)} if "django" in cpu else {}),
        "p50_ms": round(cuts[49], 2),
        "p99_ms": round(cuts[98], 2),
    }


def print_table(found: dict[str, dict[str, Any]]) -> None:
    columns = list(next(iter(found.values())))
    print(_line("database", columns))
    for name, values in found.items():
        print(_line(name, [values[column] for column in columns]))


def _line(name: str, cells: Sequence[object]) -> str:
    return f"{name:12}" + "".join(f"{cell!s:>15}" for cell in cells)


if __name__ == "__main__":
    main()
