"""A backup counts once it was restored: made under load, brought back elsewhere, damaged, tried with other keys."""

import contextlib
import hashlib
import json
import os
import re
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import psycopg.sql
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session
from sqlmodel import col
from typer.testing import CliRunner

from portal import backups, clock, doctor, models, postgres, walls, webhooks
from portal.__main__ import app
from portal.db import Database
from portal.gateways.base import Event
from portal.ids import new_id
from portal.migrate import head, is_current, upgrade
from portal.settings import Settings
from portal.vault import new_key
from tests.postgres import Server, programs
from tests.unit.builders import MASTER_KEY, make_account, make_customer, make_order, make_portal

WRITERS = 3


def address(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False)


def settings_of(database: Database, keys: str = MASTER_KEY) -> Settings:
    return Settings(database_url=address(database), master_keys=keys)


@pytest.fixture
def account(database: Database) -> models.Account:
    portal = make_portal(database)
    account = make_account(database, portal, credentials={"secret_key": "sk_live_0001"})
    ana = make_customer(database, portal)
    for number in range(20):
        make_order(database, account, ana, number=str(number), title="Kaffee „Größe L“ ☕")
    return account


@pytest.fixture
def elsewhere(database: Database, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty database of the same kind."""
    if database.is_sqlite:
        yield f"sqlite:///{tmp_path}/elsewhere.db"
        return
    server: Server = request.getfixturevalue("postgres")
    name = f"elsewhere_{new_id()}"
    yield server.create(name)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.contextmanager
def restored(url: str) -> Iterator[Database]:
    database = Database(url, threads=2, outside=walls.EVERYTHING)
    try:
        yield database
    finally:
        database.dispose()


def tables(db: Session) -> dict[str, list[tuple[Any, ...]]]:
    """All that stands in all tables, in an order of its own."""
    return {
        table.name: sorted((tuple(row) for row in db.execute(select(table))), key=repr)
        for table in models.metadata.sorted_tables
    }


def content(found: dict[str, list[tuple[Any, ...]]]) -> str:
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


class Load:
    """Threads that take webhooks one after the other, each an event with its job, until told to stop."""

    def __init__(self, database: Database, account: models.Account) -> None:
        self.database, self.account = database, account
        self._stop, self.faults = threading.Event(), list[BaseException]()
        self.taken = [0] * WRITERS
        self._threads = [
            threading.Thread(target=self._write, args=(number,), daemon=True) for number in range(WRITERS)
        ]

    def _write(self, writer: int) -> None:
        try:
            while not self._stop.is_set():
                event = Event(f"evt_{writer}_{self.taken[writer]}", "x", None, None, {})
                content = b"{}" * 400
                self.database.write_now(webhooks.store, self.account, [event], [], content, clock.now())
                self.taken[writer] += 1
        except BaseException as fault:
            self.faults.append(fault)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        self.go_on()
        return self

    def go_on(self) -> None:
        """Wait until each has taken three more."""
        wanted = [count + 3 for count in self.taken]
        until = time.monotonic() + 60
        while any(count < least for count, least in zip(self.taken, wanted, strict=True)):
            if self.faults or time.monotonic() > until:
                raise AssertionError(f"the writers do not go on: {self.faults}")
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def events(db: Session) -> list[tuple[str, bytes | None]]:
    row = models.Event
    found = db.execute(select(col(row.event_id), col(row.body)).order_by(col(row.event_id)))
    return [(one, body) for one, body in found]


def test_made_under_load_and_restored_elsewhere(
    database: Database,
    account: models.Account,
    elsewhere: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Load(database, account) as load:
        where: Any = backups if database.is_sqlite else postgres
        name = "_packed" if database.is_sqlite else "dump"
        made = getattr(where, name)

        def meanwhile(*args: Any) -> Iterator[bytes]:
            for chunk in made(*args):
                load.go_on()  # nobody has to wait for the backup to end
                yield chunk

        monkeypatch.setattr(where, name, meanwhile)
        before = list(load.taken)
        path, manifest = backups.make(settings_of(database), tmp_path / "backups")
        after = list(load.taken)
    assert load.faults == []
    assert database.read_now(lambda db: db.get_one(models.Setting, "backup")).value == path.name

    found = backups.restore(settings_of(database), path, elsewhere)
    assert found.problems == []
    assert found.tables == manifest.tables
    with restored(elsewhere) as other:
        copy, source = other.read_now(tables), database.read_now(tables)
        assert {name: len(rows) for name, rows in copy.items()} == {
            name: manifest.tables[name].rows for name in copy
        }
        # One moment: of each writer all up to some event, each with its job, none without.
        ids = {event_id for event_id, _ in other.read_now(events)}
        counts = [sum(one.startswith(f"evt_{writer}_") for one in ids) for writer in range(WRITERS)]
        assert ids == {f"evt_{writer}_{n}" for writer, count in enumerate(counts) for n in range(count)}
        assert all(a <= count <= b + 1 for a, count, b in zip(before, counts, after, strict=True))
        assert len(copy["job"]) == len(copy["event"]) == len(ids)
        # And what there was of it then is what there is of it now: rows were only added.
        then = {name: [row for row in rows if row in set_of(copy[name])] for name, rows in source.items()}
        assert content(then) == content(copy)
        assert copy["order_"] == source["order_"]
        assert len(copy["order_"]) == 20
        other.write_now(
            webhooks.store, account, [Event("evt_new", "x", None, None, {})], [], b"", clock.now()
        )


def set_of(rows: list[tuple[Any, ...]]) -> Any:
    """To look rows up in; they hold lists and mappings."""

    class Rows:
        seen = {repr(row) for row in rows}

        def __contains__(self, row: Any) -> bool:
            return repr(row) in self.seen

    return Rows()


def test_a_backup_is_tried_and_nothing_of_it_stays(
    database: Database, account: models.Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    path, manifest = backups.make(settings_of(database), tmp_path / "one.tar")
    found = backups.verify(settings_of(database), path)
    assert (found.problems, found.tables) == ([], manifest.tables)
    assert "restored into a temporary" in found.how
    assert "All 1 sealed keys can be opened" in " ".join(found.notes)
    assert list(scratch.iterdir()) == []
    assert [one.name for one in tmp_path.iterdir() if "partial" in one.name] == []
    if not database.is_sqlite:
        names = database.read_now(
            lambda db: db.execute(text("SELECT datname FROM pg_database")).scalars().all()
        )
        assert [name for name in names if "verify" in name] == []


def test_only_its_owner_may_read_it(database: Database, account: models.Account, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path, _ = backups.make(settings_of(database), tmp_path / "backups")
        into = tmp_path / "back.db"
        if database.is_sqlite:
            backups.restore(settings_of(database), path, f"sqlite:///{into}")
            assert stat.S_IMODE(into.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_what_is_not_empty_is_left_alone(
    database: Database, account: models.Account, elsewhere: str, tmp_path: Path
) -> None:
    path, _ = backups.make(settings_of(database), tmp_path)
    backups.restore(settings_of(database), path, elsewhere)
    before = database.read_now(tables)
    for taken in (address(database), elsewhere):
        with pytest.raises(RuntimeError, match="overwrites nothing"):
            backups.restore(settings_of(database), path, taken)
    assert content(database.read_now(tables)) == content(before)
    with pytest.raises(backups.BackupError, match="overwrites nothing"):
        backups.make(settings_of(database), path)


def test_other_master_keys_are_noticed(
    database: Database, account: models.Account, elsewhere: str, tmp_path: Path
) -> None:
    path, _ = backups.make(settings_of(database), tmp_path)
    wrong = settings_of(database, new_key())
    (said,) = backups.verify(wrong, path).problems
    assert "1 of 1 sealed keys can't be opened" in said
    assert backups.restore(wrong, path, elsewhere).problems == [said]  # it is restored all the same
    with restored(elsewhere) as other:
        assert content(other.read_now(tables)) != content({})
        assert (
            other.read_now(lambda db: db.execute(select(func.count(col(models.Order.id)))).scalar_one()) == 20
        )
    if database.is_sqlite:  # it does not depend on the database
        assert "it is not known" in " ".join(backups.verify(settings_of(database, ""), path).notes)
    assert MASTER_KEY.encode() not in path.read_bytes()


def test_an_older_schema_is_restored_as_it_is(new_database: Callable[[], str], tmp_path: Path) -> None:
    url, into = new_database(), new_database()
    upgrade(url, "0002")
    settings = Settings(database_url=url, master_keys=MASTER_KEY)
    path, manifest = backups.make(settings, tmp_path)
    assert manifest.schema == "0002"
    if url.startswith("sqlite"):
        Path(make_url(into).database or "").unlink(missing_ok=True)
    found = backups.restore(settings, path, into)
    assert found.problems == []
    assert "older (0002" in " ".join(found.notes)
    assert "portal migrate" in backups.restored_text(found)
    with restored(into) as other:
        assert not is_current(other)
        upgrade(into)
        assert is_current(other)
    assert [note for note in backups._about_schema("9999") if "newer" in note] != []
    assert list(backups._about_schema(head())) == []


def test_the_doctor_knows_of_it(database: Database, account: models.Account, tmp_path: Path) -> None:
    def state(db: Session) -> str:
        return doctor._backup(db, clock.now()).state

    assert database.read_now(state) == "unknown"
    backups.make(settings_of(database), tmp_path)
    assert database.read_now(state) == "ok"


# The file; it is the same whatever is in it


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, empty_sqlite: Path) -> tuple[Settings, Path]:
    folder = tmp_path_factory.mktemp("backup")
    source = folder / "portal.db"
    source.write_bytes(empty_sqlite.read_bytes())
    settings = Settings(database_url=f"sqlite:///{source}", master_keys=MASTER_KEY)
    return settings, backups.make(settings, folder / "plain.tar")[0]


def test_each_flipped_byte_is_found(plain: tuple[Settings, Path], tmp_path: Path) -> None:
    settings, path = plain
    whole = path.read_bytes()
    broken = tmp_path / "broken.tar"
    places = {*range(0, 1024, 23), *range(0, len(whole), 251), *range(len(whole) - 2600, len(whole), 17)}
    for place in sorted(places):
        broken.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(backups.BackupError):
            backups.look(broken)
    assert len(places) > 200
    with pytest.raises(backups.Damaged):
        backups.verify(settings, broken)
    with pytest.raises(backups.Damaged):
        backups.restore(settings, broken, f"sqlite:///{tmp_path}/target.db")
    assert not (tmp_path / "target.db").exists()


def test_what_was_cut_off_or_grew_is_found(plain: tuple[Settings, Path], tmp_path: Path) -> None:
    _, path = plain
    whole = path.read_bytes()
    broken = tmp_path / "broken.tar"
    for size in (0, 1, 511, 512, 5000, len(whole) // 2, len(whole) - 2000, len(whole) - 512, len(whole) - 1):
        broken.write_bytes(whole[:size])
        with pytest.raises(backups.Damaged):
            backups.look(broken)
    broken.write_bytes(whole + b"\0")
    with pytest.raises(backups.Damaged):
        backups.look(broken)
    with pytest.raises(backups.BackupError, match="can't be read"):
        backups.look(tmp_path / "nothing.tar")


def test_it_opens_without_a_portal(plain: tuple[Settings, Path], tmp_path: Path) -> None:
    _, path = plain
    subprocess.run(["tar", "xf", str(path), "-C", str(tmp_path)], check=True)
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], check=True, cwd=tmp_path)
    subprocess.run(["gunzip", "database.sqlite.gz"], check=True, cwd=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (
        manifest["content_sha256"] == hashlib.sha256((tmp_path / "database.sqlite").read_bytes()).hexdigest()
    )
    with contextlib.closing(sqlite3.connect(tmp_path / "database.sqlite")) as found:
        assert found.execute("SELECT version_num FROM alembic_version").fetchall() == [(manifest["schema"],)]


def test_the_newest_stay(plain: tuple[Settings, Path], tmp_path: Path) -> None:
    settings, _ = plain
    other = tmp_path / "portal-notes.tar"
    other.write_text("not a backup of ours")
    left = tmp_path / ".portal-2026-01-01T000000Z.tar.partial-0123abcd"
    left.write_text("half")
    os.utime(left, (1, 1))
    for _ in range(4):
        backups.make(settings, tmp_path, keep=2)
        clock.set_offset(clock.offset() + timedelta(hours=1))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 3
    assert "portal-notes.tar" in names
    assert left.name not in names
    with pytest.raises(backups.BackupError, match="at least 1"):
        backups.make(settings, tmp_path, keep=0)


def test_what_was_deleted_is_not_copied_along(plain: tuple[Settings, Path], tmp_path: Path) -> None:
    settings, _ = plain
    with restored(settings.database_url) as database:
        database.write_now(
            lambda db: db.add(models.Setting(name="x", value="forget-me " * 500, at=clock.now()))
        )
        database.write_now(lambda db: db.delete(db.get_one(models.Setting, "x")))
    path, _ = backups.make(settings, tmp_path)
    backups.restore(settings, path, f"sqlite:///{tmp_path}/back.db")
    assert b"forget-me" not in (tmp_path / "back.db").read_bytes()


def test_a_damaged_database_is_said_when_it_is_backed_up(
    plain: tuple[Settings, Path], tmp_path: Path
) -> None:
    settings, _ = plain
    source = Path(make_url(settings.database_url).database or "")
    bad = tmp_path / "bad.db"
    raw = bytearray(source.read_bytes())
    raw[4096 * 3 : 4096 * 30] = os.urandom(4096 * 27)
    bad.write_bytes(raw)
    folder = tmp_path / "out"
    with pytest.raises(backups.BackupError):
        backups.make(Settings(database_url=f"sqlite:///{bad}", master_keys=MASTER_KEY), folder)
    assert list(folder.iterdir()) == []


def test_without_a_database_or_a_place_it_says_why(plain: tuple[Settings, Path], tmp_path: Path) -> None:
    settings, path = plain
    missing = Settings(database_url=f"sqlite:///{tmp_path}/none.db", master_keys=MASTER_KEY)
    with pytest.raises(backups.BackupError, match="no database at"):
        backups.make(missing, tmp_path)
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "bare.db").touch()
    with pytest.raises(backups.BackupError, match="no portal in this database"):
        backups.make(Settings(database_url=f"sqlite:///{tmp_path}/bare.db", master_keys=MASTER_KEY), tmp_path)
    with pytest.raises(backups.BackupError, match="could not be written"):
        backups.make(settings, Path("/proc/nowhere"))
    with pytest.raises(backups.BackupError, match="can't go into postgresql"):
        backups.restore(settings, path, "postgresql://nobody@127.0.0.1:1/x")
    with pytest.raises(backups.BackupError, match="in memory"):
        backups.restore(settings, path, "sqlite://")


def test_the_command_line(
    plain: tuple[Settings, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = plain
    monkeypatch.setenv("PORTAL_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("PORTAL_MASTER_KEYS", MASTER_KEY)

    def run(*words: str) -> tuple[int, str, str]:
        found = CliRunner().invoke(app, list(words))
        return found.exit_code, found.stdout, found.stderr

    code, out, said = run("backup", str(tmp_path / "all"), "--keep", "3")
    assert (code, said) == (0, "")
    (path,) = (tmp_path / "all").iterdir()
    assert str(path) in out
    code, out, said = run("restore", str(path), "--into", f"sqlite:///{tmp_path}/back.db")
    assert (code, said) == (0, "")
    assert "alembic_version" in out
    code, _, said = run("restore", str(path), "--into", f"sqlite:///{tmp_path}/back.db")
    assert code == 1
    assert "overwrites nothing" in said
    assert run("backup", "--verify", str(path))[0] == 0
    path.write_bytes(path.read_bytes()[:-600])
    code, _, said = run("backup", "--verify", str(path))
    assert code == 1
    assert "damaged" in said


# PostgreSQL's own


@pytest.fixture
def server(postgres: Server, migrated_postgres: str) -> tuple[Server, Settings]:
    return postgres, Settings(database_url=migrated_postgres, master_keys=MASTER_KEY)


needs_postgres = pytest.mark.skipif(programs() is None, reason="no PostgreSQL here")


@needs_postgres
def test_where_no_database_may_be_made_it_is_read_through(
    server: tuple[Server, Settings], tmp_path: Path
) -> None:
    running, settings = server
    path, _ = backups.make(settings, tmp_path)
    with psycopg.connect(running.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE modest LOGIN PASSWORD 'modest'")
    modest = make_url(settings.database_url).set(username="modest", password="modest")
    url = modest.render_as_string(hide_password=False)
    try:
        found = backups.verify(Settings(database_url=url, master_keys=MASTER_KEY), path)
        assert (found.how, found.tables, found.problems) == ("read through", None, [])
        assert "not restored" in found.notes[0]
        assert "in the backup" in backups.restored_text(found)
    finally:
        with psycopg.connect(running.url(), autocommit=True) as connection:
            connection.execute("DROP ROLE modest")


@needs_postgres
def test_programs_that_are_missing_or_too_old_are_said(
    server: tuple[Server, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, settings = server
    found = postgres.program("pg_dump", postgres.server_version(settings.database_url))
    folder = tmp_path / "bin"
    folder.mkdir()
    own = settings.model_copy(update={"pg_bin": str(folder)})
    with pytest.raises(postgres.PostgresError, match=r"There is no pg_dump .*PORTAL_PG_BIN"):
        backups.make(own, tmp_path / "out")
    fake = folder / "pg_dump"
    fake.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n")
    fake.chmod(0o700)
    with pytest.raises(postgres.PostgresError, match="too old"):
        backups.make(own, tmp_path / "out")
    fake.unlink()
    fake.symlink_to(found)
    backups.make(own, tmp_path / "out")
    monkeypatch.setattr(postgres, "_DEBIAN", str(tmp_path))
    monkeypatch.setenv("PATH", str(folder))
    assert postgres.program("pg_dump", postgres.server_version(settings.database_url)) == fake


@needs_postgres
def test_a_dump_that_breaks_off_is_no_backup(server: tuple[Server, Settings], tmp_path: Path) -> None:
    _, settings = server
    folder = tmp_path / "bin"
    folder.mkdir()
    fake = folder / "pg_dump"
    fake.write_text(
        "#!/bin/sh\n[ \"$1\" = --version ] && { echo 'pg_dump (PostgreSQL) 99.1'; exit; }\n"
        "printf half; echo 'pg_dump: error: the disk is gone' >&2; exit 1\n"
    )
    fake.chmod(0o700)
    with pytest.raises(postgres.PostgresError, match="the disk is gone"):
        backups.make(settings.model_copy(update={"pg_bin": str(folder)}), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@needs_postgres
def test_the_password_is_not_on_the_command_line(server: tuple[Server, Settings], tmp_path: Path) -> None:
    running, settings = server
    odd = r"a:b\c d'e*"
    with psycopg.connect(running.url(), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE odd SUPERUSER LOGIN PASSWORD {psycopg.sql.Literal(odd).as_string()}")
    try:
        url = make_url(settings.database_url).set(username="odd", password=odd)
        own = Settings(database_url=url.render_as_string(hide_password=False), master_keys=MASTER_KEY)
        with postgres._where(own.database_url) as where:
            assert odd not in where
            (word,) = re.findall(r"passfile=(\S+)", where)
            assert stat.S_IMODE(Path(word).stat().st_mode) == 0o600
        assert not Path(word).exists()
        path, _ = backups.make(own, tmp_path)
        assert backups.verify(own, path).problems == []
    finally:
        with psycopg.connect(running.url(), autocommit=True) as connection:
            connection.execute("DROP ROLE odd")
