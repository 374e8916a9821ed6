"""Documents and files in a folder and in an S3 server: whole or not at all, and what is said when the store is down."""

import asyncio
import hashlib
import io
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from sqlalchemy import func, select, update
from sqlmodel import col
from typer.testing import CliRunner

from portal import backups, clock, doctor, invoices, models, objects, sheets, store, upkeep
from portal.__main__ import app
from portal.db import Database
from portal.settings import Settings
from portal.sheets import Choice
from portal.store import Bucket, Folder, Lost, Store, StoreDown, key_of, put_bytes, whole
from portal.work import Worker
from tests.unit.builders import MASTER_KEY, make_account, make_customer, make_payment, make_portal, save
from tests.unit.test_invoices import LEGAL, FakePress, World

HEAD = "email,order,product,amount,currency,paid_at\n"


class S3:
    """A server that speaks S3, in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        found = None
        while not found:
            line = self._process.stderr.readline()
            assert line, "the server has ended"
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
        self.url = found[0]

    def bucket(self, name: str, prefix: str = "kept") -> Bucket:
        httpx2.put(f"{self.url}/{name}").raise_for_status()
        return Bucket(name, prefix, self.url, "us-east-1", "KEY", "SECRET")

    def demand_keys(self, wanted: bool) -> None:
        httpx2.post(f"{self.url}/moto-api/reset-auth", content="0" if wanted else "inf").raise_for_status()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    server = S3()
    yield server
    server.close()


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return Folder(tmp_path / "kept")
    server: S3 = request.getfixturevalue("s3")
    return server.bucket(f"b-{os.urandom(8).hex()}")


@pytest.fixture
def gone() -> Bucket:
    """A store where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    return Bucket("kept", "", f"http://127.0.0.1:{port}", "us-east-1", "KEY", "SECRET")


def key_for(content: bytes, row_id: int = 5) -> str:
    return key_of("document", 7, row_id, hashlib.sha256(content).hexdigest())


def plant(place: Store, key: str, content: bytes) -> None:
    """Other bytes where an object lies."""
    place.put(key, io.BytesIO(content))


# Objects


def test_an_object_is_put_read_listed_and_deleted(place: Store) -> None:
    small, large = b"a document", os.urandom(6_000_000)
    for content in (small, large, b""):
        put_bytes(place, key_for(content), content)
        put_bytes(place, key_for(content), content)  # the same again
        assert whole(place, key_for(content)) == content
        assert place.size(key_for(content)) == len(content)
    assert place.get(key_for(large), 5_999_990, 10) == large[-10:]
    listed = dict(place.listed())
    assert set(listed) == {key_for(one) for one in (small, large, b"")}
    assert all(abs(since - clock.machine()) < timedelta(hours=1) for since in listed.values())
    place.delete(key_for(large))
    place.delete(key_for(large))
    assert place.size(key_for(large)) is None
    assert set(dict(place.listed())) == {key_for(small), key_for(b"")}
    store.probe(place)
    assert set(dict(place.listed())) == {key_for(small), key_for(b"")}


def test_what_is_missing_cut_off_or_another_is_never_served(place: Store) -> None:
    content = b"as it was issued"
    key = key_for(content)
    with pytest.raises(Lost, match="missing"):
        whole(place, key)
    for other in (content[:-1], b"as it was swapped", b""):
        plant(place, key, other)
        with pytest.raises(Lost, match="damaged"):
            whole(place, key)
    with pytest.raises(Lost):
        store.proved(place.get(key, 4, 8), "0" * 64, key)


def test_a_key_says_whose_it_is() -> None:
    sha256 = hashlib.sha256(b"x").hexdigest()
    key = key_of("sheet", 7, 5, sha256)
    assert store.named(key) == (7, "sheet", 5, sha256)
    for bad in ("../document/5-" + sha256, f"7/other/5-{sha256}", f"7/document/5-{sha256}/..", ""):
        with pytest.raises(AssertionError):
            store.named(bad)


# A folder


def test_a_folder_is_ours_alone_and_nothing_half_written_stays(tmp_path: Path) -> None:
    place = Folder(tmp_path / "deep" / "kept")
    before = os.umask(0)
    try:
        put_bytes(place, key_for(b"x"), b"x")
    finally:
        os.umask(before)
    for path in (place.root, *place.root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)

    class Full(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise OSError(28, "No space left on device")

    with pytest.raises(StoreDown, match="ENOSPC"):
        place.put(key_for(b"y"), Full())
    left = place.root / "7" / "document" / f".{'0' * 16}.partial"
    left.write_bytes(b"half")
    names = {path.name for path in place.root.rglob("*") if path.is_file()}
    assert names == {key_for(b"x").rpartition("/")[2], left.name}
    os.utime(left, (0, 0))
    assert len(list(place.listed())) == 1
    assert not left.exists()


@pytest.mark.parametrize("where", ["portal", "kind", "file"])
def test_nothing_is_followed_that_leads_out_of_a_folder(tmp_path: Path, where: str) -> None:
    secret = tmp_path / "secret"
    place = Folder(tmp_path / "kept")
    content = b"of somebody else"
    key = key_for(content)
    inner = secret / "document" if where == "portal" else secret
    inner.mkdir(parents=True)
    (inner / key.rpartition("/")[2]).write_bytes(content)
    link = place.root / {"portal": "7", "kind": "7/document", "file": key}[where]
    link.parent.mkdir(parents=True)
    link.symlink_to(inner / key.rpartition("/")[2] if where == "file" else secret)
    with pytest.raises(Lost, match="damaged"):
        whole(place, key)
    assert list(place.listed()) == []
    if where != "file":
        with pytest.raises(StoreDown, match="damaged"):
            put_bytes(place, key, b"written outside")
    place.delete(key)
    assert (inner / key.rpartition("/")[2]).read_bytes() == content


def test_two_folders_are_told_apart(tmp_path: Path) -> None:
    one, two = Folder(tmp_path / "one"), Folder(tmp_path / "two")
    assert objects.place_of(one) is None
    assert one.mark() == one.mark() != two.mark()
    assert objects.place_of(one) == f"{one.place}#{one.mark()}"


# A store that is not well


def test_wrong_keys_are_said_to_be_refused(s3: S3) -> None:
    place = s3.bucket("refusing")
    s3.demand_keys(True)
    try:
        for do in (lambda: put_bytes(place, key_for(b"x"), b"x"), lambda: whole(place, key_for(b"x"))):
            with pytest.raises(StoreDown, match="PermissionDenied") as caught:
                do()
            assert caught.value.refused
        with pytest.raises(StoreDown):
            list(place.listed())
    finally:
        s3.demand_keys(False)


def test_a_bucket_that_is_not_there_loses_nothing(s3: S3) -> None:
    place = Bucket("never-made", "", s3.url, "us-east-1", "KEY", "SECRET")
    for do in (
        lambda: put_bytes(place, key_for(b"x"), b"x"),
        lambda: whole(place, key_for(b"x")),
        lambda: list(place.listed()),
    ):
        with pytest.raises(StoreDown, match="NoSuchBucket"):
            do()


def test_what_a_cloud_hands_out_is_not_used(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys in the environment that are not ours would sign for somebody else."""
    for name in ("AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "another's")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    put_bytes(s3.bucket("ours-alone"), key_for(b"x"), b"x")


def test_a_store_that_is_gone_says_so_at_once(gone: Bucket) -> None:
    for do in (lambda: whole(gone, key_for(b"x")), lambda: put_bytes(gone, key_for(b"x"), b"x")):
        with pytest.raises(StoreDown):
            do()
    with pytest.raises(StoreDown):
        gone.size(key_for(b"x"))


def test_a_store_that_hangs_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(store, "PATIENCE_S", 0.3)
    well = Folder(tmp_path / "kept")
    put_bytes(well, key_for(b"x"), b"x")
    with socket.create_server(("127.0.0.1", 0)) as listening:  # takes connections, and never answers
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        place = Bucket("kept", "", url, "us-east-1", "KEY", "SECRET")

        async def run() -> list[Any]:
            asked = [store.ask(whole, place, key_for(b"x")) for _ in range(2 * store.AT_ONCE)]
            hanging = asyncio.gather(*asked, return_exceptions=True)
            await asyncio.sleep(0)
            assert await asyncio.to_thread(whole, well, key_for(b"x")) == b"x"
            assert not hanging.done()
            return await hanging

        found = asyncio.run(run())
    assert [type(one) for one in found] == [StoreDown] * len(found)


# Which one


def test_which_store_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PORTAL_STORE")

    def opened(**values: Any) -> Store | None:
        return store.open_store(Settings(**values))

    default = opened(database_url=f"sqlite:///{tmp_path}/portal.db")
    assert isinstance(default, Folder)
    assert default.root == tmp_path / "portal.db.files"
    assert opened(database_url="sqlite://") is None
    assert opened(database_url="postgresql://portal@db/portal") is None
    assert opened(store="database") is None
    folder = opened(store=f"file://{tmp_path}/a%20b")
    assert isinstance(folder, Folder)
    assert folder.root == tmp_path / "a b"
    url = "s3://kept/a/b?endpoint=https://s3.example.net&region=eu-1"
    bucket = opened(store=url, store_key="KEY", store_secret="SECRET")
    assert isinstance(bucket, Bucket)
    assert bucket.place == "s3://kept/a/b at https://s3.example.net"
    with pytest.raises(RuntimeError, match="PORTAL_STORE_KEY"):
        opened(store="s3://kept", store_key="KEY")


@pytest.mark.parametrize(
    "url",
    [
        *("/var/lib/files", "file://files", "file:///", "file://host/files", "http://kept", "gs://kept"),
        *("s3://", "s3://KEY:SECRET@kept", "s3://kept?endpoint=s3.example.net", "s3://kept?acl=public"),
        *("s3://kept?endpoint=https://KEY:SECRET@s3.example.net", "s3://kept/a%2Fb"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="store"):
        Settings(store=url)


# Documents


class SamePress(FakePress):
    """Makes the same bytes of the same words, as the real one does; `other` are another version's."""

    other = ""

    async def make(self, sheet: Any) -> bytes:
        await super().make(sheet)
        return f"%PDF- {sheet.identifier}{self.other}".encode()


@pytest.fixture
def world(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(sqlite, monkeypatch, **LEGAL)
    made.press = SamePress()
    return made


def issued_key(world: World) -> str:
    (row,) = world.issued()
    assert row.sha256 is not None
    return key_of("document", row.portal_id, row.id, row.sha256)


def test_a_document_lies_in_the_store_and_its_hash_in_the_row(world: World, place: Store) -> None:
    world.store = place
    first = world.get()
    assert first.status_code == 200
    (row,) = world.issued()
    assert (row.content, row.sha256) == (None, hashlib.sha256(first.content).hexdigest())
    assert [key for key, _since in place.listed()] == [issued_key(world)]
    assert world.get().content == first.content
    assert len(world.press.sheets) == 1


def test_a_document_that_is_lost_is_made_again_if_it_becomes_the_same(world: World, place: Store) -> None:
    world.store = place
    first = world.get().content
    for spoil in (place.delete, lambda key: plant(place, key, first[:-1])):
        spoil(issued_key(world))
        assert world.get().content == first
        assert whole(place, issued_key(world)) == first  # and it is mended
    plant(place, issued_key(world), b"%PDF- another's")
    world.press.other = " drawn otherwise"  # type: ignore[attr-defined]
    answer = world.get()
    assert answer.status_code == 500
    assert "can&#39;t be read back as it was issued" in answer.text
    assert b"another" not in answer.content


def test_a_document_waits_for_a_store_that_is_down(world: World, gone: Bucket, tmp_path: Path) -> None:
    world.store = gone
    answer = world.get()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    assert "Nothing is lost" in answer.text
    (row,) = world.issued()
    assert (row.number, row.content, row.sha256) == ("INV-00001", None, None)
    world.store = Folder(tmp_path / "kept")
    first = world.get().content
    world.store = gone
    assert world.get().status_code == 503
    world.store = Folder(tmp_path / "kept")
    assert world.get().content == first
    assert len(world.issued()) == 1


def test_a_crash_between_object_and_row_costs_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.store = place = Folder(tmp_path / "kept")

    def crash(*_: Any) -> Any:
        raise RuntimeError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(invoices, "keep", crash)
        with pytest.raises(RuntimeError, match="cut off"):
            world.get()
    (row,) = world.issued()
    assert (row.sha256, len(list(place.listed()))) == (None, 1)
    assert world.get().status_code == 200
    assert [key for key, _since in place.listed()] == [issued_key(world)]
    assert world.issued()[0].number == row.number


def test_bytes_in_a_row_are_read_as_before_and_held_against_their_hash(world: World, tmp_path: Path) -> None:
    first = world.get().content
    world.store = Folder(tmp_path / "kept")
    assert world.get().content == first
    assert list(world.store.listed()) == []
    row = models.IssuedDocument
    world.database.write_now(lambda db: db.execute(update(row).values(content=b"%PDF- swapped")))
    assert world.get().content == first
    assert world.issued()[0].content is None  # mended, where they lie now


# Files


class Files:
    """A portal whose files lie in a store."""

    def __init__(self, database: Database, url: str) -> None:
        self.database = database
        self.settings = Settings(
            database_url=database.engine.url.render_as_string(hide_password=False),
            master_keys=MASTER_KEY,
            store=url,
        )
        self.store = store.open_store(self.settings)
        self.portal = make_portal(database)
        self.account = make_account(database, self.portal, label="Shop")

    def give(self, rows: int) -> int:
        lines = "".join(f"p{one}@example.com,SO-{one},Tea,9.00,USD,2026-03-04\n" for one in range(rows))
        file = io.BytesIO((HEAD + lines).encode())
        return sheets.take(self.database, self.portal.id, file, "orders.csv", "x", None, self.store)

    def begin(self, sheet_id: int) -> None:
        def write(db: Any) -> None:
            sheet = sheets.sheet_of(db, self.portal.id, sheet_id, lock=True)
            assert sheet is not None
            choice = Choice(tuple(sheet.mapping), self.account.id)
            sheets.want(db, sheet, sheets.begin(db, sheet, choice, "importing", clock.now()), clock.now())

        self.database.write_now(write)

    def work(self) -> None:
        asyncio.run(Worker(self.settings, self.database).drain())

    def sheet(self, sheet_id: int) -> models.Sheet:
        return self.database.read_now(lambda db: db.get_one(models.Sheet, sheet_id))

    def orders(self) -> int:
        count = select(func.count()).select_from(models.Order)
        return self.database.read_now(lambda db: db.execute(count).scalar_one())

    def key(self, sheet_id: int) -> str:
        sheet = self.sheet(sheet_id)
        assert sheet.sha256 is not None
        return key_of("sheet", sheet.portal_id, sheet.id, sheet.sha256)


@pytest.fixture
def files(database: Database, tmp_path: Path) -> Files:
    return Files(database, f"file://{tmp_path}/kept")


def test_rows_of_a_file_are_one_object_that_goes_with_them(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "SLICE", 2)
    monkeypatch.setattr(sheets, "AHEAD", 3)
    sheet_id = files.give(15)
    assert files.store is not None
    assert [key for key, _since in files.store.listed()] == [files.key(sheet_id)]
    files.begin(sheet_id)
    files.work()
    sheet = files.sheet(sheet_id)
    assert (sheet.state, sheet.created, sheet.parts) == ("done", 15, 8)
    key = files.key(sheet_id)
    files.database.write_now(lambda db: sheets.empty(db, db.get_one(models.Sheet, sheet_id), clock.now()))
    files.work()
    assert files.store.size(key) is not None  # not before an hour has gone
    clock.set_offset(store.STAYS)
    files.work()
    assert files.store.size(key) is None


def test_a_run_waits_for_the_store_and_ends_where_its_rows_are_damaged(
    files: Files, gone: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "SLICE", 2)
    sheet_id = files.give(4)
    files.begin(sheet_id)
    place = files.store
    assert place is not None

    async def while_down() -> None:
        worker = Worker(files.settings, files.database)
        worker.store = gone
        await worker.once()

    asyncio.run(while_down())
    sheet = files.sheet(sheet_id)
    assert (sheet.state, sheet.position, sheet.error) == ("importing", 0, None)
    clock.set_offset(timedelta(minutes=1))
    content = place.get(files.key(sheet_id))
    plant(place, files.key(sheet_id), content[:-1] + b"?")
    files.work()
    sheet = files.sheet(sheet_id)
    assert (sheet.state, sheet.created) == ("failed", 0)
    assert "Give it once more" in (sheet.error or "")


def test_a_file_is_refused_while_the_store_is_down(files: Files, gone: Bucket) -> None:
    files.store = gone
    with pytest.raises(StoreDown):
        files.give(3)
    row = models.Sheet
    assert files.database.read_now(lambda db: db.execute(select(row)).scalars().all()) == []


def test_a_list_in_a_processors_form_lies_in_the_store_too(files: Files) -> None:
    text = "x" * (sheets.PART_BYTES + 10)
    file = io.BytesIO(text.encode())
    sheet_id = sheets.take(
        files.database, files.portal.id, file, "list.csv", "x", files.account.id, files.store
    )
    files.database.write_now(
        lambda db: db.execute(
            update(models.Sheet).values(state="importing", run=1, sha256=models.Sheet.sha256)
        )
    )
    found = sheets.fetched(files.database, files.store, sheet_id, 1)
    assert len(found) == 2


def test_the_command_line_imports_by_way_of_the_store(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "SLICE", 2)
    path = tmp_path / "orders.csv"
    lines = "".join(f"p{one}@example.com,SO-{one},Tea,9.00,USD,2026-03-04\n" for one in range(5))
    path.write_text(HEAD + lines)

    def load() -> int:
        return upkeep.import_file(files.settings, path, "acme", upkeep.FileChoice("Shop"), False, None)

    assert load() == 0
    assert files.orders() == 5
    read = Folder.get

    def down(place: Folder, *where: Any) -> bytes:
        monkeypatch.setattr(Folder, "get", read)
        raise StoreDown("EIO")

    monkeypatch.setattr(Folder, "get", down)
    with pytest.raises(RuntimeError, match="Run it again later"):
        load()
    row = models.Sheet
    kept = files.database.read_now(lambda db: db.execute(select(row)).scalars().all())
    assert sorted((one.state, one.emptied_at is None) for one in kept) == [("done", False), ("failed", False)]
    assert load() == 0
    assert files.orders() == 5


# Going, moving, reading through


def test_objects_without_a_row_go_when_they_are_old(files: Files) -> None:
    place = files.store
    assert place is not None
    sheet_id = files.give(3)
    put_bytes(place, key_for(b"of nobody"), b"of nobody")

    def sweep(after: timedelta) -> int:
        return asyncio.run(objects.sweep(files.database, place, clock.machine() + after))

    assert sweep(objects.GRACE - timedelta(hours=1)) == 0
    assert sweep(objects.GRACE + timedelta(hours=1)) == 1
    assert [key for key, _since in place.listed()] == [files.key(sheet_id)]


def bytes_of(files: Files, sheet_id: int) -> bytes:
    row = models.SheetPart
    parts = files.database.read_now(
        lambda db: (
            db.execute(select(row).where(col(row.sheet_id) == sheet_id).order_by("number")).scalars().all()
        )
    )
    return b"".join(part.content or b"" for part in parts)


def test_everything_moves_and_comes_back_the_same(
    files: Files, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "SLICE", 2)
    folder, files.store = files.store, None
    sheet_id = files.give(5)
    rows = bytes_of(files, sheet_id)
    assert rows
    document = issue(files, b"%PDF- one")
    bucket = s3.bucket(f"moved-{os.urandom(4).hex()}")
    database = files.database
    assert objects.move(database, folder, None) == {"moved": 2}
    assert objects.move(database, folder, None) == {"there": 2}
    assert database.read_now(objects.noted) == objects.place_of(folder)
    assert bytes_of(files, sheet_id) == b""
    assert folder is not None
    assert folder.get(files.key(sheet_id)) == rows
    assert objects.move(database, bucket, None) == {"missing": 2}  # nothing is given up, and nothing noted
    assert database.read_now(objects.noted) == objects.place_of(folder)
    assert objects.move(database, bucket, folder) == {"moved": 2}
    assert objects.check(database, bucket) == {"there": 2}
    plant(bucket, document, b"%PDF- another")
    assert objects.check(database, bucket) == {"there": 1, "damaged": 1}
    assert objects.move(database, None, bucket) == {"moved": 1, "damaged": 1}
    assert objects.move(database, None, folder) == {"there": 1, "moved": 1}
    assert bytes_of(files, sheet_id) == rows
    row = models.IssuedDocument
    assert database.read_now(lambda db: db.execute(select(col(row.content))).scalar_one()) == b"%PDF- one"
    assert database.read_now(objects.noted) == "database"


def issue(files: Files, content: bytes, place: Store | None = None) -> str:
    """A document that was issued and made; its key."""
    customer = make_customer(files.database, files.portal)
    payment = make_payment(files.database, files.account, customer)
    sha256 = hashlib.sha256(content).hexdigest()
    row = save(
        files.database,
        models.IssuedDocument(
            portal_id=files.portal.id,
            customer_id=customer.id,
            payment_id=payment.id,
            kind="invoice",
            sequence=1,
            number="INV-00001",
            facts={},
            issued_at=clock.now(),
            content=content if place is None else None,
            sha256=sha256,
        ),
    )
    key = key_of("document", row.portal_id, row.id, sha256)
    if place is not None:
        put_bytes(place, key, content)
    return key


def test_the_command_line_moves_and_reads_through(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    issue(files, b"%PDF- one")
    monkeypatch.setenv("PORTAL_DATABASE_URL", files.settings.database_url)
    monkeypatch.setenv("PORTAL_STORE", files.settings.store)

    def said(*words: str) -> tuple[int, str]:
        found = CliRunner().invoke(app, ["store", *words])
        return found.exit_code, found.output.splitlines()[-1]

    assert said("move") == (0, f"{files.settings.store}: moved 1, there 0")
    assert said("check") == (0, f"{files.settings.store}: there 1")
    assert files.store is not None
    for key, _since in list(files.store.listed()):
        files.store.delete(key)
    assert said("check") == (1, f"{files.settings.store}: there 0, missing 1")
    assert said("move", "--from", "elsewhere")[0] == 1


# Backups


def test_a_folder_is_in_the_backup_and_comes_back(files: Files, tmp_path: Path) -> None:
    place = files.store
    assert isinstance(place, Folder)
    key = issue(files, b"%PDF- one", place)
    sheet_id = files.give(3)
    put_bytes(place, key_for(b"of nobody"), b"of nobody")
    path, manifest = backups.make(files.settings, tmp_path / "backups")
    assert manifest.objects is not None
    assert (manifest.objects.named, manifest.objects.count) == (2, 2)
    assert "with 2 documents and files" in backups.made_text(path, manifest)
    found = backups.verify(files.settings, path)
    assert found.problems == []
    assert "2 documents and files" in " ".join(found.notes)
    if not files.database.is_sqlite:
        return
    into = tmp_path / "back.db"
    settings = files.settings.model_copy(update={"store": ""})
    assert backups.restore(settings, path, f"sqlite:///{into}").problems == []
    back = Folder(store.beside(into))
    assert {one for one, _since in back.listed()} == {key, files.key(sheet_id)}
    assert whole(back, key) == b"%PDF- one"
    other = files.settings.model_copy(update={"store": "database"})
    with pytest.raises(backups.BackupError, match="PORTAL_STORE"):
        backups.restore(other, path, f"sqlite:///{tmp_path}/other.db")
    assert not (tmp_path / "other.db").exists()
    subprocess.run(["tar", "xf", str(path)], cwd=tmp_path, check=True)
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    (tmp_path / "plain").mkdir()
    subprocess.run(["tar", "xf", "../objects.tar"], cwd=tmp_path / "plain", check=True)
    assert (tmp_path / "plain" / key).read_bytes() == b"%PDF- one"


def test_a_backup_says_what_is_missing_or_not_in_it(sqlite: Database, s3: S3, tmp_path: Path) -> None:
    files = Files(sqlite, f"file://{tmp_path}/kept")
    assert files.store is not None
    key = issue(files, b"%PDF- one", files.store)
    files.store.delete(key)
    path, manifest = backups.make(files.settings, tmp_path / "one.tar")
    assert "LEFT OUT: 1" in backups.made_text(path, manifest)
    assert "1 documents or files that rows name are not in it" in " ".join(
        backups.verify(files.settings, path).problems
    )
    kept = {"store": f"s3://kept?endpoint={s3.url}", "store_key": Settings(store_key="K").store_key}
    settings = files.settings.model_copy(update={**kept, "store_secret": Settings(store_key="S").store_key})
    path, manifest = backups.make(settings, tmp_path / "two.tar")
    assert f"NOT in it: 1 documents and files in s3://kept at {s3.url}" in backups.made_text(path, manifest)
    found = backups.verify(settings, path)
    assert found.problems == []
    assert "NOT in the backup" in backups.restored_text(found)


# The doctor


def test_the_doctor_writes_and_reads_an_object(tmp_path: Path, s3: S3, gone: Bucket) -> None:
    def look(noted: str | None = None, **values: Any) -> doctor.Finding:
        (found,) = asyncio.run(doctor.storage(Settings(**values), noted))
        return found

    assert look(store="database").state == "ok"
    folder = look(store=f"file://{tmp_path}/kept")
    assert (folder.state, "one machine only" in folder.sentence) == ("ok", True)
    assert list(Folder(tmp_path / "kept").listed()) == []
    assert look(f"file://{tmp_path}/kept#0123456789abcdef", store=f"file://{tmp_path}/kept").state == "warn"
    moved = look(f"file://{tmp_path}/kept#0123456789abcdef", store="database")
    assert (moved.state, "portal store move" in moved.todo) == ("warn", True)
    s3.bucket("looked-at")
    bucket = {"store": f"s3://looked-at?endpoint={s3.url}", "store_key": "KEY", "store_secret": "SECRET"}
    assert look(**bucket).state == "ok"
    s3.demand_keys(True)
    try:
        refused = look(**bucket)
    finally:
        s3.demand_keys(False)
    assert (refused.state, "refuses us" in refused.sentence) == ("bad", True)
    down = {**bucket, "store": f"s3://kept?endpoint=http://{urlsplit(gone.place.split()[-1]).netloc}"}
    assert "does not answer" in look(**down).sentence
    assert look(store="s3://kept").state == "bad"


def test_where_objects_lie_is_noted_once(sqlite: Database, tmp_path: Path) -> None:
    place = Folder(tmp_path / "kept")
    asyncio.run(objects.keep_house(sqlite, place, clock.now()))
    assert sqlite.read_now(objects.noted) is None  # nothing lies there yet
    put_bytes(place, key_for(b"x"), b"x")
    for _ in range(2):
        asyncio.run(objects.keep_house(sqlite, place, clock.now()))
    assert sqlite.read_now(objects.noted) == objects.place_of(place)
    asyncio.run(objects.keep_house(sqlite, None, clock.now()))
    assert sqlite.read_now(objects.noted) == objects.place_of(place)
    jobs = sqlite.read_now(lambda db: db.execute(select(col(models.Job.kind))).scalars().all())
    assert jobs == ["sweep_store"]
