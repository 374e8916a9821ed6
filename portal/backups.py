"""Backups: one file that holds a database as it was at one moment, made while everything runs on; and back from it.

The file is a tar, so that `tar xf` opens it where there is no portal: the data (a SQLite file, packed by gzip; or what
`pg_dump` makes), the objects where they lie in a folder (a tar again), a manifest, and the SHA-256 of all. Its frame is
checked byte by byte against the one we would write, so there is no place in it that can change unseen. It holds
personal data and sealed keys, never the master keys.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import sqlite3
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Literal

import pysqlite3.dbapi2
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from portal import clock, models, postgres, store, walls
from portal.db import Database
from portal.migrate import head, is_known
from portal.settings import Settings
from portal.vault import Vault, VaultError

CHUNK = 1024 * 1024
BLOCK = 512
MANIFEST, SUMS, OBJECTS = "manifest.json", "SHA256SUMS", "objects.tar"
DATA = {"sqlite": "database.sqlite.gz", "postgresql": "database.pgdump"}
LEVEL = 4  # of gzip: twice as quick as the usual one, and hardly larger
_NAME = re.compile(r"portal-\d{4}-\d\d-\d\dT\d{6}Z\.tar")
_LEFT = re.compile(r"\.portal-.*\.partial-[0-9a-f]{8}")
LEFT_FOR_S = 86_400.0  # of a backup that was cut off

Ask = Callable[[str], list[tuple[Any, ...]]]


class BackupError(RuntimeError):
    """It can't be done; the words say why and what to do."""


class Damaged(BackupError):
    """The file is not what was written."""


@dataclass(frozen=True, slots=True)
class Table:
    """How many rows, and on PostgreSQL a sum over all that stands in them, whatever their order."""

    rows: int
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class Objects:
    """What lies in the store beside the rows: how many objects they name, and what of that is in the backup."""

    place: str
    named: int
    is_in: bool  # else they are to be kept safe where they are
    count: int = 0
    size: int = 0
    left_out: int = 0  # because they are damaged


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself. The tables are counted in the very snapshot that was taken."""

    made_at: datetime
    portal: str  # the version that made it
    kind: str  # sqlite, postgresql
    server: str  # the database's version
    schema: str  # revision
    tables: dict[str, Table]
    content_sha256: str | None = None  # of the SQLite file, unpacked
    objects: Objects | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """What was found when a backup was brought back: `problems` speak against it, `notes` are to be read."""

    manifest: Manifest
    how: str
    tables: dict[str, Table] | None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    named: set[str] | None = None  # the keys of objects that rows name


# Making one


def make(settings: Settings, target: Path, keep: int | None = None) -> tuple[Path, Manifest]:
    """A backup of the database into the folder `target`, or as the file `target`; the newest `keep` of a folder stay.

    It appears under its name only when it is whole and on the disk.
    """
    url = make_url(settings.database_url)
    kind = _kind(settings.database_url)
    now = clock.now()
    is_folder = target.is_dir() or target.suffix != ".tar"
    if keep is not None and (keep < 1 or not is_folder):
        raise BackupError("--keep is for a folder, and at least 1.")
    folder = target if is_folder else target.parent
    path = folder / f"portal-{now:%Y-%m-%dT%H%M%SZ}.tar" if is_folder else target
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(folder)
        if path.exists():
            raise BackupError(f"{path} is there already; a backup overwrites nothing.")
        with _new_file(path) as file:
            if kind == "sqlite":
                manifest = _from_sqlite(settings, Path(url.database or ""), folder, file, now)
            else:
                manifest = _from_postgres(settings, file, now)
    except OSError as error:
        raise BackupError(f"The backup could not be written to {path}: {error.strerror or error}.") from error
    except store.StoreDown as error:
        raise BackupError(f"The folder of the store can't be read ({error}).") from error
    except pysqlite3.dbapi2.Error as error:
        raise BackupError(f"The database could not be copied: {error}.") from error
    if keep is not None:
        _forget(folder, keep)
    _tell_doctor(settings, path, now)
    return path, manifest


def _kind(database_url: str) -> str:
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite":
        return "postgresql"
    if not url.database or url.database == ":memory:":
        raise BackupError("The database is in memory only; there is no file to speak of.")
    return "sqlite"


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file for us alone, under another name until it is whole and on the disk."""
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        with open(partial, "x+b", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            raise BackupError(f"{path} has appeared meanwhile; nothing was overwritten.")
        partial.rename(path)
        _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(folder: Path) -> None:
    """What was left by backups that were cut off."""
    for path in folder.iterdir():
        if _LEFT.fullmatch(path.name) and time.time() - path.stat().st_mtime > LEFT_FOR_S:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _forget(folder: Path, keep: int) -> None:
    """Of ours in this folder, which bear their time in their name, the oldest go."""
    ours = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    for path in ours[:-keep]:
        path.unlink()


def _tell_doctor(settings: Settings, path: Path, now: datetime) -> None:
    """That there is one. It is not in it, and the backup is good all the same where this can't be written."""
    with contextlib.suppress(SQLAlchemyError):
        database = Database(settings.database_url, threads=1, outside=walls.EVERYTHING)
        try:
            row = models.Setting(name="backup", value=path.name, at=now)
            database.write_now(lambda db: db.merge(row))
        finally:
            database.dispose()


# SQLite


def _from_sqlite(settings: Settings, source: Path, folder: Path, file: IO[bytes], now: datetime) -> Manifest:
    """VACUUM INTO copies one snapshot while others write; what was deleted is not copied along."""
    if not source.exists():
        raise BackupError(f"There is no database at {source}. Set PORTAL_DATABASE_URL.")
    scratch = folder / f".portal-copy.partial-{secrets.token_hex(4)}"
    scratch.mkdir(mode=0o700)
    try:
        copy = scratch / "copy.db"
        with contextlib.closing(_open_sqlite(source)) as connection:
            connection.execute("VACUUM INTO ?", (str(copy),))
        with contextlib.closing(_open_sqlite(copy)) as connection:
            ask = _asker(connection)
            trouble = _integrity(ask)
            if trouble:
                raise BackupError(f"The database itself is damaged: {trouble}. Keep the backups of before.")
            schema, tables, named = _schema(ask), _count_sqlite(ask), _named(ask)
        whole = hashlib.sha256()
        made = Manifest(now, version("portal"), "sqlite", pysqlite3.dbapi2.sqlite_version, schema, tables)
        manifest = _write(settings, file, made, _packed(copy, whole), named, whole)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return manifest


def _open_sqlite(path: Path) -> sqlite3.Connection:
    return pysqlite3.dbapi2.connect(str(path), isolation_level=None, timeout=10)  # type: ignore[no-any-return]


def _asker(connection: sqlite3.Connection) -> Ask:
    return lambda statement: connection.execute(statement).fetchall()


def _integrity(ask: Ask) -> str:
    """What is wrong with a SQLite file, in SQLite's words; nothing where all is well."""
    found = [row[0] for row in ask("PRAGMA integrity_check(3)") if row[0] != "ok"]
    found += [f"{table} {row} points nowhere" for table, row, *_ in ask("PRAGMA foreign_key_check")[:3]]
    return "; ".join(found)


def _count_sqlite(ask: Ask) -> dict[str, Table]:
    names = ask(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    return {name: Table(ask(f'SELECT count(*) FROM "{name}"')[0][0]) for (name,) in sorted(names)}  # noqa: S608


def _packed(path: Path, whole: Any) -> Iterator[bytes]:
    packer = zlib.compressobj(LEVEL, wbits=31)
    with path.open("rb") as source:
        while chunk := source.read(CHUNK):
            whole.update(chunk)
            yield packer.compress(chunk)
    yield packer.flush()


def _schema(ask: Ask) -> str:
    try:
        found = ask("SELECT version_num FROM alembic_version")
    except Exception as error:
        raise BackupError(
            "There is no portal in this database: no revision of a schema is noted in it."
        ) from error
    if not found:
        raise BackupError("There is no portal in this database: its schema was never made.")
    return str(found[0][0])


# PostgreSQL


def _from_postgres(settings: Settings, file: IO[bytes], now: datetime) -> Manifest:
    with postgres.snapshot(settings.direct_url) as (ask, name, server):
        program = postgres.program("pg_dump", server, settings.pg_bin)
        schema, tables, named = _schema(ask), _count_postgres(ask), _named(ask)
        dump = postgres.dump(program, settings.direct_url, name)
        text = postgres.version_text(server)
        made = Manifest(now, version("portal"), "postgresql", text, schema, tables)
        return _write(settings, file, made, dump, named, None)


def _count_postgres(ask: Ask) -> dict[str, Table]:
    return {
        name: Table(*ask(postgres.COUNT.format(table=name.replace('"', '""')))[0])
        for (name,) in ask(postgres.TABLES)
    }


# The file


def _write(
    settings: Settings, file: IO[bytes], made: Manifest, chunks: Iterator[bytes], named: set[str], whole: Any
) -> Manifest:
    """The data as it comes and the objects after it, then what is known of them."""
    at = int(made.made_at.timestamp())
    sums = [(DATA[made.kind], _member_of(file, DATA[made.kind], chunks, at))]
    objects, digest = _objects(settings, file, named, at)
    if digest is not None:
        sums.append((OBJECTS, digest))
    content = whole.hexdigest() if whole else None
    manifest = replace(made, content_sha256=content, objects=objects)
    text = json.dumps(asdict(manifest), default=datetime.isoformat, indent=1).encode()
    sums.append((MANIFEST, _member_of(file, MANIFEST, iter([text]), at)))
    _member_of(file, SUMS, iter([_sums(sums)]), at)
    file.write(bytes(2 * BLOCK))
    return manifest


def _member_of(file: IO[bytes], name: str, chunks: Iterator[bytes], at: int) -> str:
    """Write a member as it comes, its header once its size is known; its SHA-256."""
    begin = file.tell()
    file.write(bytes(BLOCK))
    size, digest = 0, hashlib.sha256()
    for chunk in chunks:
        file.write(chunk)
        digest.update(chunk)
        size += len(chunk)
    file.write(bytes(-size % BLOCK))
    file.seek(begin)
    file.write(_header(name, size, at))
    file.seek(0, os.SEEK_END)
    return digest.hexdigest()


def _sums(sums: Sequence[tuple[str, str]]) -> bytes:
    return "".join(f"{digest}  {name}\n" for name, digest in sums).encode()


# The objects


_NAMED = (
    "SELECT portal_id, id, sha256 FROM issued_document WHERE content IS NULL AND sha256 IS NOT NULL",
    "SELECT portal_id, id, sha256 FROM sheet WHERE sha256 IS NOT NULL",
)


def _named(ask: Ask) -> set[str]:
    """The keys of all objects that rows name; an older schema has none."""
    found: set[str] = set()
    kinds: tuple[store.Kind, ...] = ("document", "sheet")
    for kind, statement in zip(kinds, _NAMED, strict=True):
        try:
            found |= {store.key_of(kind, *row) for row in ask(statement)}
        except (pysqlite3.dbapi2.OperationalError, postgres.Missing, postgres.MissingColumn):
            continue
    return found


def _objects(
    settings: Settings, file: IO[bytes], named: set[str], at: int
) -> tuple[Objects | None, str | None]:
    """A folder's objects into the backup; those of a bucket stay where they are, which is said."""
    place = store.open_store(settings)
    if not named:
        return None, None
    if not isinstance(place, store.Folder):
        return Objects(place.place if place else "a store that is not set", len(named), False), None
    counted = {"count": 0, "size": 0, "left_out": 0}
    digest = _member_of(file, OBJECTS, _packed_objects(place, sorted(named), at, counted), at)
    return Objects(place.place, len(named), True, **counted), digest


def _packed_objects(
    place: store.Store, keys: Sequence[str], at: int, counted: dict[str, int]
) -> Iterator[bytes]:
    for key in keys:
        try:
            content = store.whole(place, key)
        except store.Lost:
            counted["left_out"] += 1
            continue
        counted["count"] += 1
        counted["size"] += len(content)
        yield _header(key, len(content), at, tarfile.USTAR_FORMAT)
        yield content + bytes(-len(content) % BLOCK)
    yield bytes(2 * BLOCK)


def _header(name: str, size: int, at: int, form: Literal[0, 1, 2] = tarfile.GNU_FORMAT) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, at, 0o600
    return info.tobuf(form)


@dataclass(frozen=True, slots=True)
class Opened:
    """A file that was read through and is as it was written."""

    path: Path
    manifest: Manifest
    size: int  # of the data
    objects: int = 0  # the size of their tar

    def data(self) -> Iterator[bytes]:
        return self._read(BLOCK, self.size)

    def each_object(self) -> Iterator[tuple[str, bytes]]:
        """The objects with their keys, each as its key says."""
        if not self.objects:
            return
        begin = BLOCK + self.size + -self.size % BLOCK + BLOCK
        with self.path.open("rb") as file:
            file.seek(begin)
            while file.tell() < begin + self.objects - 2 * BLOCK:
                try:
                    info = tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "strict")
                    content = file.read(info.size)
                    file.read(-info.size % BLOCK)
                    yield info.name, store.proved(content, store.named(info.name)[3], info.name)
                except (tarfile.HeaderError, store.Lost, AssertionError) as error:
                    raise Damaged(f"{self.path} holds an object that is not what it is called.") from error

    def _read(self, begin: int, left: int) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            file.seek(begin)
            while left:
                chunk = file.read(min(CHUNK, left))
                if not chunk:
                    raise Damaged(f"{self.path} has become shorter meanwhile.")
                left -= len(chunk)
                yield chunk


def look(path: Path) -> Opened:
    """Read a backup through; Damaged where any of its bytes is another one, or missing."""
    try:
        with path.open("rb") as file:
            name, size, digest, _ = _member(file, path)
            about, objects, manifest_digest, text = _member(file, path)
            expected = [(name, digest), (about, manifest_digest)]
            if about == OBJECTS:
                about, _, manifest_digest, text = _member(file, path)
                expected.append((about, manifest_digest))
            else:
                objects = 0
            sums_name, _, _, sums = _member(file, path)
            if file.read() != bytes(2 * BLOCK):
                raise Damaged(f"{path} is damaged at its end.")
    except OSError as error:
        raise BackupError(f"{path} can't be read: {error.strerror or error}.") from error
    if name not in DATA.values() or (about, sums_name) != (MANIFEST, SUMS) or sums != _sums(expected):
        raise Damaged(f"{path} is damaged: what stands in it is not what was written. Use another backup.")
    manifest = _manifest(text, path)
    if DATA.get(manifest.kind) != name:
        raise Damaged(f"{path} holds other data than it says.")
    return Opened(path, manifest, size, objects)


def _member(file: IO[bytes], path: Path) -> tuple[str, int, str, bytes]:
    header = file.read(BLOCK)
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise Damaged(f"{path} is no backup of a portal, or damaged, or not all of it is there.") from error
    keep = info.name in (MANIFEST, SUMS)
    if header != _header(info.name, info.size, int(info.mtime)) or (keep and info.size > 64 * CHUNK):
        raise Damaged(f"{path} is damaged in its frame. Use another backup.")
    digest, left, kept = hashlib.sha256(), info.size, b""
    while left:
        chunk = file.read(min(CHUNK, left))
        if not chunk:
            raise Damaged(f"{path} ends too early: not all of it is there. Use another backup.")
        digest.update(chunk)
        left -= len(chunk)
        kept += chunk if keep else b""
    padding = -info.size % BLOCK
    if file.read(padding) != bytes(padding):
        raise Damaged(f"{path} is damaged, or not all of it is there. Use another backup.")
    return info.name, info.size, digest.hexdigest(), kept


def _manifest(text: bytes, path: Path) -> Manifest:
    try:
        raw = json.loads(text)
        tables = {name: Table(**one) for name, one in raw.pop("tables").items()}
        objects = Objects(**found) if (found := raw.pop("objects", None)) else None
        made_at = datetime.fromisoformat(raw.pop("made_at"))
        return Manifest(made_at=made_at, tables=tables, objects=objects, **raw)
    except (ValueError, TypeError, KeyError) as error:
        raise BackupError(
            f"{path} was made by a newer version of Portal. Restore it with that one."
        ) from error


# Bringing it back


def restore(settings: Settings, path: Path, into: str) -> Restored:
    """Into a database that is empty; Damaged, before anything is touched, where the file is not whole."""
    opened = look(path)
    kind = _kind(into)
    if kind != opened.manifest.kind:
        raise BackupError(f"This is a backup of {opened.manifest.kind}; it can't go into {kind}.")
    place = store.store_at(settings.store, settings.model_copy(update={"database_url": into}))
    if opened.objects and place is None:
        raise BackupError("It holds the objects of a folder: set PORTAL_STORE to where they are to go.")
    if kind == "sqlite":
        target = Path(make_url(into).database or "")
        _refuse_taken(target)
        keys = _put_back(opened, place)
        return _with_objects(_into_sqlite(settings, opened, target), opened, keys)
    postgres.refuse_unless_empty(into)
    keys = _put_back(opened, place)
    return _with_objects(_into_postgres(settings, opened, into, "into the database"), opened, keys)


def _put_back(opened: Opened, place: store.Store | None) -> set[str]:
    """The objects into a store, before the rows that name them; only looked at where there is none."""
    keys = set()
    try:
        for key, content in opened.each_object():
            if place is not None:
                store.put_bytes(place, key, content)
            keys.add(key)
    except store.StoreDown as error:
        raise BackupError(f"The objects could not be written to {place and place.place}: {error}.") from error
    return keys


def _with_objects(found: Restored, opened: Opened, keys: set[str]) -> Restored:
    """Whether the objects that rows name have come back, or where they are to be looked for."""
    objects = opened.manifest.objects
    if objects is None:
        return found
    if not objects.is_in:
        found.notes.append(
            f"The rows name {objects.named} documents and files in {objects.place}; they are NOT in the backup."
        )
        return found
    found.notes.append(f"{len(keys)} documents and files of {objects.place} came with it.")
    if found.named is not None and (missing := found.named - keys):
        found.problems.append(
            f"{len(missing)} documents or files that rows name are not in it: they were missing or damaged."
        )
    return found


def _refuse_taken(target: Path) -> None:
    beside = [target.with_name(target.name + end) for end in ("", "-wal", "-shm", "-journal")]
    if taken := [path for path in beside if path.exists()]:
        raise BackupError(
            f"{taken[0]} is there already, and a restore overwrites nothing. Name a file that is not there; "
            "when you are content with it, stop the portal and set PORTAL_DATABASE_URL to the new one."
        )


def _into_sqlite(settings: Settings, opened: Opened, target: Path) -> Restored:
    try:
        with _new_file(target) as file:
            _unpack(opened, file)
            found = _examine_sqlite(settings, opened.manifest, Path(file.name), "into the file")
    except OSError as error:
        raise BackupError(f"{target} could not be written: {error.strerror or error}.") from error
    return found


def _unpack(opened: Opened, file: IO[bytes]) -> None:
    unpacker, whole = zlib.decompressobj(wbits=31), hashlib.sha256()
    try:
        for chunk in opened.data():
            plain = unpacker.decompress(chunk)
            whole.update(plain)
            file.write(plain)
    except zlib.error as error:
        raise Damaged(f"{opened.path} can't be unpacked.") from error
    if not unpacker.eof or whole.hexdigest() != opened.manifest.content_sha256:
        raise Damaged(f"{opened.path} unpacks to something else than was packed.")
    file.flush()


def _examine_sqlite(settings: Settings, manifest: Manifest, path: Path, how: str) -> Restored:
    uri = f"{path.absolute().as_uri()}?immutable=1"  # no journal is to appear beside it
    with contextlib.closing(pysqlite3.dbapi2.connect(uri, uri=True, isolation_level=None)) as connection:
        ask = _asker(connection)
        trouble = _integrity(ask)
        problems = [f"SQLite finds it damaged: {trouble}."] if trouble else []
        tables = _count_sqlite(ask)
        return _judged(settings, manifest, how, tables, ask, problems)


def _into_postgres(settings: Settings, opened: Opened, into: str, how: str) -> Restored:
    program = postgres.program("pg_restore", postgres.server_version(into), settings.pg_bin)
    postgres.load(program, opened.data(), into)
    with postgres.snapshot(into) as (ask, _name, _server):
        return _judged(settings, opened.manifest, how, _count_postgres(ask), ask, [])


def _judged(
    settings: Settings, manifest: Manifest, how: str, tables: dict[str, Table], ask: Ask, problems: list[str]
) -> Restored:
    """What was brought back, against what the manifest says was taken."""
    differing = sorted(
        name for name in {*manifest.tables, *tables} if manifest.tables.get(name) != tables.get(name)
    )
    if differing:
        problems.append(f"These tables are not as they were: {', '.join(differing)}.")
    if _schema(ask) != manifest.schema:
        problems.append("The schema is not the one that the manifest names.")
    notes = [*_about_schema(manifest.schema)]
    shut = _about_keys(settings, ask)
    (problems if shut.startswith("!") else notes).append(shut.lstrip("!"))
    return Restored(manifest, how, tables, problems, notes, _named(ask))


def _about_schema(schema: str) -> Iterator[str]:
    if schema == head():
        return
    if is_known(schema):
        yield f"Its schema is older ({schema}, here {head()}): run `portal migrate` on it before you serve it."
    else:
        yield f"Its schema ({schema}) is newer than this version of Portal: serve it with the version that made it."


# Whose sealed values stand where, bound to what; a table or column that an older schema does not have is passed over.
_SEALED = (
    "SELECT portal_id, id, credentials FROM account WHERE length(credentials) > 0",
    "SELECT portal_id, id, secret FROM endpoint",
    "SELECT 0, id, totp FROM merchant_user WHERE totp IS NOT NULL",
)


def _about_keys(settings: Settings, ask: Ask) -> str:
    """Whether the master keys that are set here open what is sealed; with a mark before it where they do not."""
    sealed: list[tuple[Any, ...]] = []
    for statement in _SEALED:
        table = statement.partition(" FROM ")[2].split()[0]
        if _has(ask, table):
            sealed += ask(statement)
    if not sealed:
        return "Nothing sealed is in it."
    ring = settings.master_keys.get_secret_value()
    if not ring:
        return "PORTAL_MASTER_KEYS is not set here, so it is not known whether its sealed keys can be opened."
    try:
        vault = Vault(ring)
    except (VaultError, ValueError):
        return "!PORTAL_MASTER_KEYS can't be read, so its sealed keys can't be opened."
    shut = sum(not _opens(vault, *one) for one in sealed)
    if shut:
        return (
            f"!{shut} of {len(sealed)} sealed keys can't be opened with the PORTAL_MASTER_KEYS that are set here. "
            "Set those of the time of the backup, or every processor has to be connected anew."
        )
    return f"All {len(sealed)} sealed keys can be opened with the PORTAL_MASTER_KEYS that are set here."


def _has(ask: Ask, table: str) -> bool:
    try:
        ask(f"SELECT 1 FROM {table} LIMIT 0")  # noqa: S608
    except pysqlite3.dbapi2.OperationalError:
        return False
    except postgres.Missing:
        return False
    return True


def _opens(vault: Vault, portal_id: int, row_id: int, blob: bytes) -> bool:
    try:
        vault.open(portal_id, row_id, bytes(blob))
    except (VaultError, ValueError):
        return False
    return True


# Trying it


def verify(settings: Settings, path: Path) -> Restored:
    """Bring a backup back to a place of its own and look at it; nothing of it stays."""
    opened = look(path)
    if opened.manifest.kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="portal-verify-") as folder:
            copy = Path(folder) / "copy.db"
            with _new_file(copy) as file:
                _unpack(opened, file)
            found = _examine_sqlite(settings, opened.manifest, copy, "restored into a temporary file")
            return _with_objects(found, opened, _put_back(opened, None))
    if _kind(settings.database_url) != "postgresql":
        raise BackupError("This is a backup of PostgreSQL: set PORTAL_DATABASE_URL to a server to try it on.")
    with postgres.temporary(settings.direct_url) as url:
        if url is not None:
            found = _into_postgres(settings, opened, url, "restored into a temporary database")
            return _with_objects(found, opened, _put_back(opened, None))
    program = postgres.program("pg_restore", postgres.server_version(settings.direct_url), settings.pg_bin)
    postgres.read_through(program, opened.data())
    note = (
        "No database may be created on the server: it was read through and its sums compared, not restored."
    )
    notes = [note, *_about_schema(opened.manifest.schema)]
    found = Restored(opened.manifest, "read through", None, [], notes)
    return _with_objects(found, opened, _put_back(opened, None))


# In words


def made_text(path: Path, manifest: Manifest) -> str:
    rows = sum(table.rows for table in manifest.tables.values())
    size = path.stat().st_size
    text = f"{rows} rows of {len(manifest.tables)} tables, {size} bytes: {path}"
    objects = manifest.objects
    if objects is not None and not objects.is_in:
        text += f"\nNOT in it: {objects.named} documents and files in {objects.place}. Keep them safe there."
    elif objects is not None:
        text += f"\nwith {objects.count} documents and files, {objects.size} bytes, of {objects.place}"
    if objects is not None and objects.left_out:
        text += f"\nLEFT OUT: {objects.left_out} of them are missing or damaged; see `portal store check`."
    return text


def restored_text(found: Restored) -> str:
    """For a terminal: each table as it was and as it is, then what is to be said of it."""
    manifest = found.manifest
    lines = [
        f"Backup of {manifest.made_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC: {manifest.kind} {manifest.server}, "
        f"schema {manifest.schema}, Portal {manifest.portal}; {found.how}.",
    ]
    lines += _lines(manifest.tables, found.tables)
    lines += [f"note: {note}" for note in found.notes]
    lines += [f"WRONG: {problem}" for problem in found.problems]
    return "\n".join(lines)


def _lines(then: dict[str, Table], now: dict[str, Table] | None) -> Sequence[str]:
    names = sorted({*then, *(now or {})})
    width = max(map(len, names), default=5)
    head_line = f"{'table':{width}}  {'in the backup':>13}" + (
        f"  {'restored':>10}" if now is not None else ""
    )
    lines = [head_line]
    for name in names:
        before = then.get(name)
        line = f"{name:{width}}  {before.rows if before else '-':>13}"
        if now is not None:
            after = now.get(name)
            line += f"  {after.rows if after else '-':>10}  {'ok' if before == after else 'DIFFERS'}"
        lines.append(line)
    return lines
