"""A full disk, a disk that fails, a database that is gone: nothing is answered as done that is not committed, reading
goes on, the log says it once, and all goes on without a restart."""

import asyncio
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pysqlite3.dbapi2
import pytest
from sqlalchemy import delete, func, select
from sqlalchemy import event as on
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import col
from structlog.testing import capture_logs

from portal import actions, clock, login, models, outage, work
from portal.app import create_app
from portal.db import Database
from portal.ids import id_text
from tests.unit.builders import make_account, make_portal
from tests.unit.settings.conftest import Desk, address, make_settings, sign_in
from tests.unit.test_actions import FakeGateway, Scene
from tests.unit.test_api import make_key
from tests.unit.test_webhooks import KEYS, body, signed

ROOT = Path(__file__).parents[2]


class Site(Scene):
    """A portal with somebody signed in, their subscription, the merchant's app, and a desk."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, FakeGateway(), "stripe")
        vault = self.vault.seal(self.account.portal_id, self.account.id, KEYS)
        row = self.account
        database.write_now(lambda db: setattr(db.get_one(models.Account, row.id), "credentials", vault))
        self.app = create_app(make_settings(), database)
        self.ana = Desk(self.app, "acme.localhost")
        self.machine = Desk(self.app, "anything.example")
        self.merchant = Desk(self.app)
        found = database.read_now(lambda db: db.get_one(models.Portal, self.portal.id))
        self.key = make_key(database, found)
        sign_in(self.merchant, database, found)
        self.site = found
        self.link = self.ask_for_link()

    def ask_for_link(self) -> str:
        """A link that was mailed and not opened yet."""
        self.ana.post("/customers/login", data={"email": self.customer.email})
        newest = select(func.max(models.LoginRequest.id))
        asked = self.database.read_now(lambda db: db.execute(newest).scalar_one())
        secret = make_settings().secret_key.get_secret_value()
        found = self.database.write_now(login.prepare_mail, asked, secret, clock.now())
        assert found is not None
        return found.token

    def webhook(self) -> Any:
        content = body()
        return self.machine.post(f"/webhooks/{self.account.token}", content=content, headers=signed(content))

    def push(self) -> Any:
        order = {
            "account": id_text(self.account.id),
            "remote_id": "till-1",
            "email": "bo@example.com",
            "status": "paid",
            "amount": {"minor": 1900, "currency": "EUR"},
            "created_at": "2026-11-20T09:00:00+01:00",
        }
        headers = {"Authorization": f"Bearer {self.key}"}
        return self.machine.put("/api/v1/orders", json={"orders": [order]}, headers=headers)

    def act(self, **headers: str) -> Any:
        return self.ana.post(
            f"/customers/subscriptions/{id_text(self.subscription.id)}/pause", headers=headers
        )

    async def nothing(self, _: Any) -> None:
        """What a processor says of an event that it knows nothing about."""

    def count(self, model: Any) -> int:
        return self.database.read_now(
            lambda db: db.execute(select(func.count()).select_from(model)).scalar_one()
        )

    def counts(self) -> dict[str, int]:
        return {
            model.__name__: self.count(model)
            for model in (
                models.Event,
                models.Job,
                models.LoginRequest,
                models.Order,
                models.Action,
                models.SignIn,
            )
        }


@contextmanager
def a_site(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(outage, "lasting", outage.Outage())
    made = Site(database)
    for module in (actions, work):
        monkeypatch.setattr(module, "open_gateway", lambda *_a, **_k: made.gateway)
    yield made
    for client in (made.ana, made.machine, made.merchant):
        client.close()


@pytest.fixture
def site(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with a_site(database, monkeypatch) as made:
        yield made


@pytest.fixture
def site_in_a_file(empty_sqlite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    path = tmp_path / "portal.db"
    path.write_bytes(empty_sqlite.read_bytes())
    database = Database(f"sqlite:///{path}", threads=2)
    with a_site(database, monkeypatch) as made:
        yield made
    database.dispose()


class Commits:
    """COMMIT fails after so many that worked, until it is mended."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        dialect: Any = database.engine.dialect
        commit = dialect.do_commit

        def committing(connection: Any) -> None:
            if self.left is None:
                commit(connection)
            elif self.left > 0:
                self.left -= 1
                commit(connection)
            else:
                raise self._fault(database.is_sqlite)

        monkeypatch.setattr(dialect, "do_commit", committing)

    @staticmethod
    def _fault(is_sqlite: bool) -> Exception:
        if not is_sqlite:
            return psycopg.errors.DiskFull("could not extend file")
        error: Exception = pysqlite3.dbapi2.OperationalError("disk I/O error")
        error.sqlite_errorcode = 10 | 4 << 8  # type: ignore[attr-defined]
        return error

    @contextmanager
    def failing(self, after: int = 0) -> Iterator[None]:
        self.left = after
        try:
            yield
        finally:
            self.left = None


@pytest.fixture
def commits(database: Database, monkeypatch: pytest.MonkeyPatch) -> Commits:
    return Commits(database, monkeypatch)


def calm(answer: Any) -> None:
    """A page that says what is the matter, and claims nothing."""
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "10"
    assert "have it right now" in answer.text or "be had right now" in answer.text
    assert "set-cookie" not in answer.headers
    assert "location" not in answer.headers


def test_where_commit_fails_nothing_is_answered_as_done(
    site: Site, commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = site.counts()
    with commits.failing(), capture_logs() as logs:
        assert site.webhook().status_code == 503
        assert site.webhook().headers["retry-after"] == "10"
        calm(site.ana.post("/customers/login", data={"email": "ana@example.com"}))
        calm(site.ana.post(f"/customers/login/{site.link}"))
        calm(site.merchant.post("/sign-in", data={"email": "owner@acme.example"}))
        calm(site.merchant.post(address(site.site, "/switch"), data={"enabled": ""}))
        pushed = site.push()
        assert (pushed.status_code, pushed.json()["code"]) == (503, "unavailable")
    assert site.counts() == before
    assert site.database.read_now(lambda db: db.get_one(models.Portal, site.site.id)).enabled
    said = [one for one in logs if one["log_level"] == "error"]
    assert len(said) == 1
    assert said[0]["event"] == "the database can't be used"
    assert said[0]["why"] == (
        "the disk can't be read or written" if site.database.is_sqlite else "the disk is full"
    )
    assert said[0]["todo"]

    monkeypatch.setattr(outage, "QUIET_S", 0.0)
    with capture_logs() as logs:
        assert site.webhook().status_code == 200
    (again,) = [one for one in logs if one["event"] == "the database can be used again"]
    assert again["failed"] == 7
    assert site.ana.post(f"/customers/login/{site.link}").status_code == 303  # the link was not spent
    assert site.push().status_code == 200
    after = site.counts()
    assert (after["Event"], after["Order"], after["SignIn"]) == (1, before["Order"] + 1, before["SignIn"] + 1)


def test_what_can_be_read_is_shown(site: Site, commits: Commits) -> None:
    """That somebody was here can't be noted: no reason to send them away."""
    assert site.ana.post(f"/customers/login/{site.link}").status_code == 303
    clock.set_offset(clock.offset() + login.SEEN_EVERY * 2)
    with commits.failing():
        assert site.ana.get("/customers/orders").status_code == 200
        assert site.merchant.get(address(site.site, "/requests")).status_code == 200


def test_no_processor_is_called_for_a_wish_that_is_not_written_down(site: Site, commits: Commits) -> None:
    assert site.ana.post(f"/customers/login/{site.link}").status_code == 303
    with commits.failing():
        calm(site.act())
    assert site.gateway.calls == []
    assert site.count(models.Action) == 0
    assert site.act().status_code == 303
    assert [name for name, _ in site.gateway.calls] == ["pause"]


@pytest.mark.parametrize("after", [1, 2])
def test_a_wish_that_is_written_down_is_carried_out_once(site: Site, commits: Commits, after: int) -> None:
    """The disk fails before the call, or after it: the customer is not told that nothing was changed."""
    assert site.ana.post(f"/customers/login/{site.link}").status_code == 303
    with commits.failing(after=after):
        answer = site.act()
        assert (answer.status_code, "Nothing was changed" in answer.text) == (303, False)
        shown = site.ana.get("/customers/subscriptions")
        assert shown.status_code == 200
    assert len(site.gateway.calls) == after - 1
    assert site.act().status_code == 303  # the same wish, which is under way
    clock.set_offset(clock.offset() + actions.LEASE * 5)
    asyncio.run(site.worker.drain())
    assert [name for name, _ in site.gateway.calls] == ["pause"]
    assert site.row().status == "paused"


def test_a_long_outage_counts_against_no_job(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert site.webhook().status_code == 200

    async def full(*_: Any) -> None:
        raise OperationalError("INSERT", {}, psycopg.errors.DiskFull("could not extend file"))

    carried_out = site.worker._event
    monkeypatch.setattr(site.worker, "_event", full)
    for _ in range(work.TRIES + work.DEATHS + 2):
        asyncio.run(site.worker.drain())
        clock.set_offset(clock.offset() + timedelta(hours=2))
    monkeypatch.setattr(site.worker, "_event", carried_out)
    monkeypatch.setattr(site.gateway, "refetch", site.nothing, raising=False)
    asyncio.run(site.worker.drain())
    statement = select(models.Event)
    event = site.database.read_now(lambda db: db.execute(statement).scalar_one())
    assert (event.parked_at, event.handled_at is not None) == (None, True)


def test_what_an_event_leads_to_and_the_end_of_its_job_are_one_commit(
    site: Site, monkeypatch: pytest.MonkeyPatch, commits: Commits
) -> None:
    monkeypatch.setattr(site.gateway, "refetch", site.nothing, raising=False)
    job, event = models.Job, models.Event
    waiting = select(col(job.id)).where(col(job.kind) == "event", col(job.done_at).is_(None))
    unhandled = select(col(event.id)).where(col(event.handled_at).is_(None))

    def left() -> tuple[int, int]:
        return site.database.read_now(
            lambda db: (len(db.execute(waiting).all()), len(db.execute(unhandled).all()))
        )

    site.database.write_now(lambda db: db.execute(delete(job)))  # what else there is to do commits too
    assert site.webhook().status_code == 200
    assert left() == (1, 1)
    with commits.failing(after=1):  # claimed, and no more
        asyncio.run(site.worker.once())
    assert left() == (1, 1)
    clock.set_offset(clock.offset() + work.LOCK * 2)
    with commits.failing(after=2):
        asyncio.run(site.worker.once())
    assert left() == (0, 0)


# A file that may not grow any more


class Disk:
    """SQLite's own limit of pages, on every connection that is taken."""

    def __init__(self, database: Database) -> None:
        self.full = False

        def limit(connection: Any, *_: Any) -> None:
            connection.execute(f"PRAGMA max_page_count = {1 if self.full else 1 << 30}")

        on.listen(database.engine, "checkout", limit)


def test_a_full_disk(site_in_a_file: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_in_a_file
    assert site.ana.post(f"/customers/login/{site.link}").status_code == 303
    disk = Disk(site.database)
    taken, number = 0, 0

    def webhook(number: int) -> int:
        content = body(f"evt_{number}").replace(b"{", b"{" + b" " * 20_000, 1)
        found = site.machine.post(f"/webhooks/{site.account.token}", content=content, headers=signed(content))
        return int(found.status_code)

    with capture_logs() as logs:
        for number in range(30):
            disk.full = number >= 10
            taken += webhook(number) == 200
        assert 10 <= taken < 30
        assert site.count(models.Event) == taken
        for page in ("orders", "subscriptions", "payments"):
            assert site.ana.get(f"/customers/{page}").status_code == 200  # reading goes on
        # Until the last free page is used, small things may still be written: what is answered as done is there.
        for person in range(200):
            before = site.count(models.LoginRequest)
            answer = site.ana.post(
                "/customers/login", data={"email": f"p{person}@example.com", "next": "/" * 400}
            )
            assert answer.status_code in (303, 503)
            assert site.count(models.LoginRequest) == before + (answer.status_code == 303)
            if answer.status_code == 503:
                calm(answer)
                break
        else:
            raise AssertionError("it was never full")
        asyncio.run(_beat_until_full(site))
    (said,) = [one for one in logs if one["event"] == "the database can't be used"]
    assert (said["why"], said["log_level"]) == ("the disk is full", "error")
    assert [one for one in logs if one["event"] in ("fault", "the worker stumbled")] == []

    disk.full = False
    monkeypatch.setattr(outage, "QUIET_S", 0.0)
    with capture_logs() as logs:
        assert webhook(number) == 200
        assert site.act().status_code == 303
    assert "the database can be used again" in [one["event"] for one in logs]
    assert site.gateway.status == "paused"


async def _beat_until_full(site: Site) -> None:
    """The worker lives through it, and is at work again by itself."""
    running = asyncio.create_task(site.worker.run())
    await asyncio.sleep(0.1)
    assert not running.done()
    site.worker.stop()
    await asyncio.wait_for(running, 20)


# A file that the system lets grow no further


def limited(path: str) -> None:
    """In a process of its own: webhooks until the file may grow no more, and then again once it may."""
    database = Database(f"sqlite:///{path}", threads=2)
    account = make_account(database, make_portal(database), "stripe", KEYS)
    told = {"taken": 0, "refused": 0, "pages": 0}

    def webhook(number: int) -> int:
        content = body(f"evt_{number}").replace(b"{", b"{" + b" " * 20_000, 1)
        return client.post(f"/webhooks/{account.token}", content=content, headers=signed(content)).status_code

    with Desk(create_app(make_settings(), database), "acme.localhost") as client:
        assert webhook(0) == 200
        most = max(Path(path + end).stat().st_size for end in ("", "-wal")) + 100_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
        for number in range(1, 20):
            status = webhook(number)
            told["taken"] += status == 200
            told["refused"] += status == 503
        told["pages"] = client.get("/customers").status_code
        told["mail"] = client.post("/customers/login", data={"email": "ana@example.com"}).status_code
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        told["again"] = webhook(100)
    with database.engine.connect() as connection:
        told["kept"] = connection.exec_driver_sql("SELECT count(*) FROM event").scalar_one() - 2
        told["asked"] = connection.exec_driver_sql("SELECT count(*) FROM login_request").scalar_one()
        told["sound"] = connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
    database.dispose()
    print(json.dumps(told))


def test_a_file_that_may_not_grow(empty_sqlite: Path, tmp_path: Path) -> None:
    path = tmp_path / "portal.db"
    path.write_bytes(empty_sqlite.read_bytes())
    command = f"from tests.unit.test_outage import limited; limited({str(path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["taken"] + told["refused"] == 19
    assert told["refused"] > 5
    assert told["kept"] == told["taken"]
    assert (told["pages"], told["again"], told["sound"]) == (200, 200, True)
    # So small a thing may still find a place where none of the others did; then it is there.
    assert (told["mail"], told["asked"]) in ((503, 0), (303, 1))
    assert (
        done.stdout.count("the database can't be used") + done.stderr.count("the database can't be used") == 1
    )


# What an error says


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (13, "full"),
        (10 | 3 << 8, "read or written"),
        (8, "written"),
        (11, "damaged"),
        (14, "opened"),
        (5, "locked"),
    ],
)
def test_sqlite_says_what_it_is(code: int, why: str) -> None:
    error: Any = pysqlite3.dbapi2.OperationalError("x")
    error.sqlite_errorcode = code
    found = outage.trouble(OperationalError("x", {}, error))
    assert found is not None
    assert why in found.why


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (psycopg.errors.DiskFull(), "full"),
        (psycopg.errors.IoError(), "read or written"),
        (psycopg.errors.TooManyConnections(), "taken"),
        (psycopg.errors.AdminShutdown(), "does not answer"),
        (psycopg.errors.ReadOnlySqlTransaction(), "written"),
        (psycopg.OperationalError("connection refused"), "does not answer"),
    ],
)
def test_postgresql_says_what_it_is(error: Exception, why: str) -> None:
    found = outage.trouble(OperationalError("x", {}, error))
    assert found is not None
    assert why in found.why


def test_what_a_statement_did_wrong_is_no_trouble_of_the_database() -> None:
    unique: Any = pysqlite3.dbapi2.IntegrityError("x")
    unique.sqlite_errorcode = 19
    for error in (unique, psycopg.errors.UniqueViolation(), psycopg.errors.QueryCanceled()):
        assert outage.trouble(IntegrityError("x", {}, error)) is None
    assert outage.trouble(KeyError("x")) is None
    found = outage.trouble(PoolTimeout())
    assert found is not None
    assert "connections" in found.why


def test_it_is_said_again_while_it_lasts_and_reading_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    at = [0.0]
    monkeypatch.setattr("portal.outage.time.monotonic", lambda: at[0])
    lasting = outage.Outage()
    full = OperationalError("x", {}, psycopg.errors.DiskFull())
    with capture_logs() as logs:
        for at[0] in (0.0, 10.0, 59.0, 61.0, 62.0):
            lasting.note(full)
            lasting.over(wrote=False)
        for at[0] in (70.0, 80.0, 90.0):
            lasting.over(wrote=True)
    assert [one["event"] for one in logs] == ["the database can't be used"] * 2 + [
        "the database can be used again"
    ]
    assert [one["failed"] for one in logs] == [1, 4, 5]
    assert logs[-1]["seconds"] == 80.0
