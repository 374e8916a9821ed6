"""The demo: sample portals, simulated processors, worker and mailbox in one process. No keys, no network."""

import asyncio
import json
import pickle
import secrets
import shutil
import socket
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pysqlite3.dbapi2
from sqlalchemy import insert, select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, models, server, walls, webhooks
from portal.app import create_app
from portal.connect import open_gateway
from portal.db import Database
from portal.middleware import configure_logging
from portal.migrate import upgrade
from portal.settings import Settings
from portal.vault import new_key
from portal.work import Worker
from seeds import world
from seeds.simulators.harness import Harness, Servers, names, simulator

FOLDER = Path("var/demo")


async def run(port: int, database_url: str, reset: bool, as_json: bool) -> None:
    """Serve the demo until a signal."""
    listening = server.listen("127.0.0.1", port)
    port = listening.getsockname()[1]
    FOLDER.mkdir(parents=True, exist_ok=True)
    simulators = {name: simulator(name, clock.now) for name in names()}
    going_on = not reset and _remembered(simulators, port, database_url)
    mailbox = Mailbox()
    with Servers(list(simulators.values()), first_port=port + 1), mailbox:
        settings = _settings(port, database_url, simulators, mailbox.port, keep_key=going_on)
        configure_logging(settings)
        if not going_on and not database_url:
            for path in FOLDER.glob("portal.db*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        upgrade(settings.direct_url, app_url=settings.database_url)
        database = Database(settings.database_url, settings.threads, outside=walls.EVERYTHING)
        worker = Worker(settings, database)
        demo = Demo(settings, database, worker, simulators, mailbox)
        if going_on:
            for one in simulators.values():
                one.tick()
        else:
            database.write_now(_clear)
            await demo.fill(port)
        demo.remember()
        app = create_app(settings, database)
        app.state.demo = demo
        _announce(port, simulators, as_json)
        try:
            await server.run(app, worker, [listening])
        finally:
            database.dispose()
            (FOLDER / "simulators.pickle").write_bytes(
                pickle.dumps(((port, database_url), {name: one.state for name, one in simulators.items()}))
            )


@dataclass(slots=True)
class Mail:
    to: str
    subject: str
    at: str
    text: str
    html: str
    links: list[str]
    code: str | None


class Mailbox:
    """An SMTP server that keeps what it gets."""

    def __init__(self) -> None:
        from aiosmtpd.controller import Controller

        self.mails: list[Mail] = []
        with socket.socket() as probe:  # the controller can't choose a free port itself
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)

    def __enter__(self) -> "Mailbox":
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        message = message_from_bytes(envelope.content, policy=default)
        text = _part(message, "plain")
        self.mails.append(
            Mail(
                to=envelope.rcpt_tos[0],
                subject=str(message["subject"]),
                at=clock.now().isoformat(),
                text=text,
                html=_part(message, "html"),
                links=[word for word in text.split() if word.startswith(("http://", "https://"))],
                code=_code(text),
            )
        )
        return "250 OK"


def _part(message: EmailMessage, subtype: str) -> str:
    part = message.get_body((subtype,))
    return str(part.get_content()) if part else ""


def _code(text: str) -> str | None:
    """The sign-in code of a mail: it stands alone on a line."""
    for line in text.splitlines():
        word = line.strip().replace(" ", "").replace("-", "")
        if len(word) == 6 and word.isalnum() and word.upper() == word and " " not in line.strip():
            return word
    return None


@dataclass(slots=True)
class Demo:
    """What the demo's own addresses act on."""

    settings: Settings
    database: Database
    worker: Worker
    simulators: dict[str, Harness]
    mailbox: Mailbox
    _rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _pages: Any = None  # a SQLite database in memory

    async def fill(self, port: int) -> None:
        """Fill the simulators, connect their accounts, and let the portal learn everything from them as in life."""
        accounts = world.fill(self.database, self.worker.vault, self.simulators, port)
        for account in accounts:
            self.database.write_now(_want_backfill, account.id)
            await (
                self.worker.drain()
            )  # one after the other: a dozen at once would wait for each other's writes
        for account, deliveries in world.deliveries(self.simulators, accounts):
            gateway = open_gateway(self.settings, self.worker.vault, account)
            for headers, body in deliveries:
                events = gateway.verify(headers, body, clock.now())
                self.database.write_now(webhooks.store, account, events, headers, body, clock.now())
            await gateway.aclose()
        await self.worker.drain()
        self.database.write_now(world.ask, self.settings.base_domain, clock.now())
        await self.worker.drain()
        self.mailbox.mails.clear()
        for one in self.simulators.values():
            one.calls.clear()

    def remember(self) -> None:
        """Keep everything as it stands now, for reset()."""
        if self.database.is_sqlite:
            self._pages = pysqlite3.dbapi2.connect(":memory:", check_same_thread=False)
            with self.database.engine.connect() as now:
                _copy(now.connection.driver_connection, self._pages)
        else:
            self._rows = self.database.read_now(_dump)
        for one in self.simulators.values():
            one.save()

    async def reset(self) -> None:
        """Back to what was remembered."""
        async with self.worker.at_work:
            await self.worker.settled()
            clock.set_offset(timedelta(0))
            for one in self.simulators.values():
                one.reset()
            if self.database.is_sqlite:
                await asyncio.to_thread(self._turn_back)
            else:
                with walls.wide("demo"):
                    await self.database.write(_restore, self._rows)
            self.mailbox.mails.clear()

    def _turn_back(self) -> None:
        """Whole pages: row by row it would take a hundred times as long."""
        with self.database.engine.connect() as now:
            _copy(self._pages, now.connection.driver_connection)

    def move_clock(self, offset: timedelta) -> None:
        """Move the time that everything here reads; what has fallen due at a processor happens."""
        clock.set_offset(offset)
        for one in self.simulators.values():
            one.tick()


def _want_backfill(db: Session, account_id: int) -> None:
    from portal.jobs import enqueue

    enqueue(db, "backfill", {"account": account_id}, clock.now(), None)
    enqueue(db, "check_account", {"account": account_id}, clock.now(), None)


def _copy(source: Any, target: Any) -> None:
    source.backup(target, sleep=0.01)  # so long between tries while somebody writes


def _dump(db: Session) -> dict[str, list[dict[str, Any]]]:
    return {
        table.name: [dict(row) for row in db.execute(table.select()).mappings()]
        for table in models.metadata.sorted_tables
    }


def _restore(db: Session, rows: dict[str, list[dict[str, Any]]]) -> None:
    for table in reversed(models.metadata.sorted_tables):
        db.execute(table.delete())
    for table in models.metadata.sorted_tables:
        if rows[table.name]:
            db.execute(insert(table), rows[table.name])


def _clear(db: Session) -> None:
    """Empty a database for the demo; RuntimeError where somebody's own portals are in it."""
    slugs = set(db.execute(select(col(models.Portal.slug))).scalars())
    if slugs - set(world.PORTALS):
        raise RuntimeError(
            "This database holds portals that are not the demo's. Give the demo one of its own."
        )
    _restore(db, {table.name: [] for table in models.metadata.sorted_tables})


def _settings(
    port: int, database_url: str, simulators: dict[str, Harness], smtp_port: int, keep_key: bool
) -> Settings:
    key = FOLDER / "master.key"
    if not keep_key or not key.exists():
        key.touch(mode=0o600)
        key.write_text(f"{new_key()}\n{secrets.token_urlsafe(32)}")
    master, secret = key.read_text().split()
    return Settings(
        database_url=database_url or f"sqlite:///{FOLDER}/portal.db",
        master_keys=master,
        secret_key=secret,
        scheme="http",
        public_port=port,
        base_domain="localhost",
        smtp_host="127.0.0.1",
        smtp_port=smtp_port,
        smtp_tls="none",
        mail_from="portal@portal.localhost",
        log_format="text",
        demo=True,
        simulators={name: one.address for name, one in simulators.items()},
    )


def _remembered(simulators: dict[str, Harness], port: int, database_url: str) -> bool:
    """Take up the simulators' state of last time; a demo that was killed has left none and begins anew."""
    path = FOLDER / "simulators.pickle"
    if not path.exists() or not (database_url or (FOLDER / "portal.db").exists()):
        return False
    try:
        then, kept = pickle.loads(path.read_bytes())  # noqa: S301 (written by ourselves, beside the database)
    except Exception:
        return False
    finally:
        path.unlink()
    if then != (port, database_url) or set(kept) != set(simulators):
        return False
    for name, state in kept.items():
        simulators[name].state = state
    return True


def _announce(port: int, simulators: dict[str, Harness], as_json: bool) -> None:
    addresses = {
        "portals": {slug: f"http://{slug}.localhost:{port}/customers" for slug in world.PORTALS},
        "settings": f"http://admin.localhost:{port}/settings",
        "mailbox": f"http://127.0.0.1:{port}/__demo/mailbox",
        "merchants": world.MERCHANTS,
        "people": world.PEOPLE,
        "simulators": {name: one.address for name, one in simulators.items()},
    }
    if as_json:
        print(json.dumps(addresses), flush=True)
        return
    lines = [
        "",
        "The demo is running. Open one of these, type a sample address, and read the mail in the mailbox:",
    ]
    lines += [f"  portal    {url}" for url in addresses["portals"].values()]  # type: ignore[attr-defined]
    lines += [f"  settings  {addresses['settings']}", f"  mailbox   {addresses['mailbox']}"]
    lines += ["", "Merchants, for the settings:"]
    lines += [f"  {person['email']:24}{person['about']}" for person in world.MERCHANTS]
    lines += ["", "Customers:"]
    lines += [f"  {person['email']:24}{person['about']}" for person in world.PEOPLE]
    print("\n".join([*lines, "", "Stop with Ctrl+C."]), file=sys.stdout, flush=True)
