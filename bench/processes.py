"""A whole installation for benchmarks: a database of its own, real web and worker processes, a simulated processor and
a mail server in this process. What is started here is ended here, each process by its own id."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email import message_from_bytes
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import select, text
from sqlmodel import col

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # so that `python bench/x.py` finds the tests' PostgreSQL too

from portal import clock, login, models, walls  # noqa: E402
from portal.db import Database  # noqa: E402
from portal.migrate import upgrade  # noqa: E402
from portal.settings import Settings  # noqa: E402
from portal.vault import Vault, new_key  # noqa: E402
from seeds.simulators.harness import Delivery, Harness, Sample, Servers, simulator  # noqa: E402
from tests.pgbouncer import Pooler  # noqa: E402
from tests.postgres import Server as Postgres  # noqa: E402

BASE = "localhost"
_one_migrates = threading.Lock()  # of the installations that are made side by side in this process


@dataclass
class Installation:
    """Its settings and database, and the processes that run on them."""

    settings: Settings
    database: Database
    folder: Path
    simulator: Harness
    sample: Sample
    sink: "Sink"
    posted: list[Delivery]  # what the processor has to tell, for whoever carries it
    portal: models.Portal
    account: models.Account
    server: Postgres | None = None
    nursery: "Nursery | None" = None
    processes: dict[str, "Cold | Warm"] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return f"{self.portal.slug}.{BASE}"

    def start(self, name: str, skew_s: float = 0.0) -> None:
        """Start `web…` (the pages alone) or anything else (a worker) under a name; from a nursery, with a clock that
        is so many seconds ahead."""
        words = ["worker"]
        if name.startswith("web"):
            port = self.ports.setdefault(name, free_port())
            words = ["serve", "--no-worker", "--port", str(port)]
        log = self.folder / f"{name}.log"
        if self.nursery is not None:
            self.processes[name] = self.nursery.start(words, self._environment(), log, skew_s)
            return
        if skew_s:
            raise ValueError("only what a nursery starts has another clock")
        with log.open("ab") as file:
            self.processes[name] = Cold(
                subprocess.Popen(
                    [sys.executable, "-m", "portal", *words],
                    cwd=self.folder,
                    env={**_clean(), **self._environment()},
                    stdout=file,
                    stderr=file,
                )
            )

    def kill(self, name: str) -> None:
        """As by `kill -9`: at once, in the middle of whatever it does."""
        self.processes[name].kill()

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def wait_for(self, name: str, seconds: float = 90) -> None:
        """Until a web process answers."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.ports[name]), 5).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"{name} did not answer: {(self.folder / f'{name}.log').read_text()[-2000:]}")

    def log(self) -> str:
        """What all of them have written."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def sign_in(self, email: str) -> dict[str, str]:
        """The headers of a browser of this person, who is made known where they are not."""
        now, token = clock.now(), secrets.token_urlsafe(32)
        customer = models.Customer(portal_id=self.portal.id, email=email, created_at=now)

        def write(db: Any) -> None:
            known = db.execute(
                text("SELECT id FROM customer WHERE portal_id = :portal AND email = :email"),
                {"portal": self.portal.id, "email": email},
            ).scalar_one_or_none()
            if known is None:
                db.add(customer)
                db.flush()
            session = models.SignIn(
                token_hash=login.digest(token),
                portal_id=self.portal.id,
                customer_id=known or customer.id,
                user_agent="",
                created_at=now,
                last_seen_at=now,
                expires_at=now + timedelta(days=1),
            )
            db.add(session)

        self.database.write_now(write)
        cookie = f"{login.cookie_name(self.settings)}={token}"
        return {"Host": self.host, "Cookie": cookie, "Sec-Fetch-Site": "same-origin"}

    def count(self, statement: str, **values: Any) -> int:
        found = self.database.read_now(lambda db: db.execute(text(statement), values).scalar_one())
        return int(found or 0)

    def unsound(self) -> list[str]:
        """What the database itself finds wrong with itself; and rows of ours that lost what they belong to."""
        found = []
        if self.database.is_sqlite:
            said = self.database.read_now(
                lambda db: [
                    *db.execute(text("PRAGMA integrity_check")).scalars(),
                    *(f"{row}" for row in db.execute(text("PRAGMA foreign_key_check")).all()),
                ]
            )
            found += [one for one in said if one != "ok"]
        else:
            found += self.database.read_now(_untrue_keys)
        jobs_without_event = (
            "SELECT count(*) FROM event e WHERE NOT EXISTS (SELECT 1 FROM job j WHERE j.dedupe = "
            + ("'event:' || e.id" if self.database.is_sqlite else "'event:' || e.id::text")
            + ")"
        )
        if missing := self.count(jobs_without_event):
            found.append(f"{missing} events without their job")
        if held := self.count("SELECT count(*) FROM job WHERE done_at IS NOT NULL AND locked_by IS NOT NULL"):
            found.append(f"{held} jobs that are done and still held")
        return found

    def _environment(self) -> dict[str, str]:
        settings = self.settings
        return {
            "PYTHONPATH": str(ROOT),
            "PORTAL_DATABASE_URL": settings.database_url,
            "PORTAL_MASTER_KEYS": settings.master_keys.get_secret_value(),
            "PORTAL_SECRET_KEY": settings.secret_key.get_secret_value(),
            "PORTAL_SCHEME": "http",
            "PORTAL_SMTP_HOST": "127.0.0.1",
            "PORTAL_SMTP_PORT": str(settings.smtp_port),
            "PORTAL_SMTP_TLS": "none",
            "PORTAL_THREADS": str(settings.threads),
            "PORTAL_DEMO": "1",
            "PORTAL_SIMULATORS": json.dumps(settings.simulators),
        }


class Cold:
    """A process that was started as anybody starts it."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Warm:
    """A process that the nursery forked; it alone collects it."""

    def __init__(self, pid: int) -> None:
        self._pid: int | None = pid

    def kill(self) -> None:
        if self._pid is None:
            return
        pid, self._pid = self._pid, None
        try:
            os.kill(pid, signal.SIGKILL)
            for _ in range(1000):
                os.kill(pid, 0)
                time.sleep(0.002)
        except ProcessLookupError:
            return
        raise RuntimeError(f"{pid} does not end")


class Nursery:
    """The program, loaded once and forked for each start."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.nursery"],
            cwd=ROOT,
            env=_clean(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._said()

    def start(self, words: list[str], environment: dict[str, str], log: Path, skew_s: float = 0.0) -> Warm:
        assert self._process.stdin is not None
        order = {"words": words, "environment": environment, "log": str(log), "skew_s": skew_s}
        with self._one_at_a_time:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return Warm(int(self._said()))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


class Sink:
    """A mail server that counts: by recipient and subject, and by Message-ID."""

    def __init__(self) -> None:
        from aiosmtpd.controller import Controller

        self.mails: Counter[tuple[str, str]] = Counter()  # to and Message-ID
        self.subjects: dict[str, str] = {}  # by Message-ID
        self._lock = threading.Lock()
        self.port = free_port()
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)

    def __enter__(self) -> "Sink":
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._controller.stop()

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        message = message_from_bytes(envelope.content)
        with self._lock:
            name = str(message["message-id"])
            self.mails[(envelope.rcpt_tos[0], name)] += 1
            self.subjects[name] = str(message["subject"])
        return "250 OK"


@contextmanager
def installation(
    kind: str, processor: str, threads: int = 6, nursery: Nursery | None = None
) -> Iterator[Installation]:
    """An empty one on "sqlite", "postgresql" or "pgbouncer" (two connections in front of PostgreSQL), with one account
    at a simulated processor. With a nursery, processes are forked there instead of started anew."""
    with ExitStack() as stack:
        # A death of a process is no power cut: for that, what is small need not wait for a disk.
        memory = "/dev/shm" if nursery is not None and os.access("/dev/shm", os.W_OK) else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="portal-bench-", dir=memory)))
        server = stack.enter_context(Postgres()) if kind != "sqlite" else None
        pooler = stack.enter_context(Pooler(server)) if server and kind == "pgbouncer" else None
        direct = server.create("portal") if server else f"sqlite:///{folder}/portal.db"
        one = simulator(processor, clock.now)
        posted: list[Delivery] = []
        one._send = posted.append  # type: ignore[method-assign,assignment]
        stack.enter_context(Servers([one]))
        sink = stack.enter_context(Sink())
        settings = Settings(
            database_url=pooler.url("portal") if pooler else direct,
            database_direct_url=direct,
            master_keys=new_key(),
            secret_key=secrets.token_urlsafe(32),
            scheme="http",
            base_domain=BASE,
            smtp_port=sink.port,
            smtp_tls="none",
            threads=threads,
            demo=True,
            simulators={processor: one.address},
        )
        with _one_migrates:
            upgrade(settings.direct_url)
        database = Database(settings.database_url, 4, outside=walls.EVERYTHING)
        stack.callback(database.dispose)
        sample = one.samples()[0]
        portal, account = database.write_now(_furnish, settings, processor, sample)
        one.open(sample, f"http://acme.{BASE}/webhooks/{account.token}")
        found = Installation(
            settings, database, folder, one, sample, sink, posted, portal, account, server, nursery
        )
        stack.callback(found.stop)
        yield found


def _furnish(
    db: Any, settings: Settings, processor: str, sample: Sample
) -> tuple[models.Portal, models.Account]:
    merchant = models.Merchant(name="Acme", email="owner@acme.example")
    db.add(merchant)
    db.flush()
    portal = models.Portal(
        merchant_id=merchant.id,
        slug="acme",
        name="Acme Coffee",
        support_email="help@acme.example",
        brand={},
        cancel_reasons=[],
    )
    db.add(portal)
    db.flush()
    account = add_account(db, settings, portal, processor, sample)
    return portal, account


def add_account(
    db: Any, settings: Settings, portal: models.Portal, processor: str, sample: Sample
) -> models.Account:
    account = models.Account(
        portal_id=portal.id,
        processor=processor,
        variant=sample.variant,
        label=sample.label,
        token=secrets.token_urlsafe(16),
        credentials=b"",
        options=list(sample.options),
        switched_off=[],
        created_at=clock.now(),
    )
    vault = Vault(settings.master_keys.get_secret_value())
    account.credentials = vault.seal(portal.id, account.id, dict(sample.credentials))
    db.add(account)
    db.flush()
    return account


def _untrue_keys(db: Any) -> list[str]:
    """Foreign keys of PostgreSQL that do not hold, looked over row by row."""
    found = []
    for table in models.metadata.sorted_tables:
        for key in table.foreign_key_constraints:
            own = [element.parent.name for element in key.elements]
            theirs = [element.column.name for element in key.elements]
            other = key.elements[0].column.table.name
            joined = " AND ".join(f"o.{b} = t.{a}" for a, b in zip(own, theirs, strict=True))
            given = " AND ".join(f"t.{a} IS NOT NULL" for a in own)
            there = f"SELECT 1 FROM {other} o WHERE {joined}"
            sql = f"SELECT count(*) FROM {table.name} t WHERE {given} AND NOT EXISTS ({there})"
            if count := db.execute(text(sql)).scalar_one():
                found.append(f"{count} rows of {table.name} point nowhere in {other}")
    return found


def show(found: dict[str, Any], form: str) -> None:
    """Print figures as "lines", as "json", or as a "table" for the documents."""
    if form == "json":
        print(json.dumps(found))
    elif form == "table":
        print("| " + " | ".join(found) + " |", "|---" * len(found) + "|", sep="\n")
        print("| " + " | ".join(str(value) for value in found.values()) + " |")
    else:
        for name, value in found.items():
            print(f"{name:22}{value}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}


def next_due(database: Database) -> datetime | None:
    """When the next thing can be done: as soon as it is due and nobody holds it any more."""
    row = models.Job
    waiting = select(col(row.run_at), col(row.locked_until)).where(
        col(row.done_at).is_(None), col(row.parked_at).is_(None)
    )
    found = database.read_now(lambda db: db.execute(waiting).all())
    moments = [max(at, held + timedelta(milliseconds=1)) if held else at for at, held in found]
    return min(moments, default=None)
