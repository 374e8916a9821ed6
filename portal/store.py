"""Where bytes lie that are written once: our documents, and the rows of files that are taken in.

They stand in the rows that name them, or, under a key, in a folder of this machine or an S3-compatible store. A key
says whose an object is and what its bytes are, so what is read is held against it: what is missing, cut off or another
is `Lost`, and is never served. An object is written before the row that names it, and goes after it; nothing here is
called inside a transaction.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal, NoReturn, ParamSpec, Protocol, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import anyio
import anyio.to_thread
import structlog
from sqlalchemy.engine import make_url

from portal.settings import Settings
from portal.turns import Turns

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")
Kind = Literal["document", "sheet"]

AT_ONCE = 8  # objects that a process waits for
PATIENCE_S = 10.0  # of a page
STAYS = timedelta(hours=1)  # an object after its row: a backup that is being made still finds it
MOST_BYTES = 256 * 1024 * 1024  # of an object; a larger one is not ours
LEFT_FOR_S = 86_400.0  # of a file that was not written to its end
MARK = ".portal-store"  # names a folder, so that two machines with a folder each are noticed
_KEY = re.compile(r"([0-9]{1,19})/(document|sheet)/([0-9]{1,19})-([0-9a-f]{64})")
_LEFT = re.compile(r"\.[0-9a-f]{16}\.partial")


class StoreDown(Exception):
    """The store does not answer, or refuses; later it may be different. `refused` where it is our keys it refuses."""

    def __init__(self, why: str, refused: bool = False) -> None:
        super().__init__(why)
        self.refused = refused


class Lost(Exception):
    """What was put is not there any more, or is not what was put."""


class Store(Protocol):
    """Objects by their keys. Everything here blocks: call it by `ask`."""

    place: str  # for people, and to tell stores apart; holds nothing secret

    def put(self, key: str, content: IO[bytes]) -> None:
        """Write an object; once this returns it is there to stay. Putting the same again changes nothing."""

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """The bytes as they lie there, unproved."""

    def size(self, key: str) -> int | None:
        """How many bytes lie there; None where there are none."""

    def delete(self, key: str) -> None:
        """Take an object away; it is no fault where there is none."""

    def listed(self) -> Iterator[tuple[str, datetime]]:
        """All objects of ours, and since when they are there."""


def key_of(kind: Kind, portal_id: int, row_id: int, sha256: str) -> str:
    """Where the bytes of a row lie. No two rows share an object."""
    key = f"{portal_id}/{kind}/{row_id}-{sha256}"
    assert _KEY.fullmatch(key), "no key"
    return key


def named(key: str) -> tuple[int, Kind, int, str]:
    """Portal, kind, row and SHA-256 of a key."""
    found = _KEY.fullmatch(key)
    assert found is not None, "no key"
    kind: Any = found[2]
    return int(found[1]), kind, int(found[3]), found[4]


def whole(store: Store, key: str) -> bytes:
    """The bytes of an object, proved."""
    return proved(store.get(key), named(key)[3], key)


def proved(content: bytes, sha256: str, key: str) -> bytes:
    """These bytes, if they are those that were put."""
    if hashlib.sha256(content).hexdigest() != sha256:
        log.error("an object is damaged", key=key)
        raise Lost("damaged")
    return content


def put_bytes(store: Store, key: str, content: bytes) -> None:
    store.put(key, BytesIO(content))


def probe(store: Store) -> None:
    """Write an object of nobody's, read it back and take it away; Lost where it is not what was written."""
    content = secrets.token_bytes(32)
    key = key_of("document", 0, secrets.randbits(62), hashlib.sha256(content).hexdigest())
    put_bytes(store, key, content)
    try:
        whole(store, key)
    finally:
        store.delete(key)


_turns = Turns("store", AT_ONCE)


async def ask(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do this with a store, in a thread, and wait no longer than a page may: StoreDown. A store that hangs holds up who
    needs it, for so long, and nobody else."""
    try:
        with anyio.fail_after(PATIENCE_S):
            return await anyio.to_thread.run_sync(
                partial(fn, *args, **kwargs), limiter=_turns.places(), abandon_on_cancel=True
            )
    except TimeoutError:
        log.warning("the store does not answer in time")
        raise StoreDown("it does not answer in time") from None


# Which one


def open_store(settings: Settings) -> Store | None:
    """The store of this installation; None where the bytes stand in the rows."""
    return store_at(settings.store, settings)


def store_at(url: str, settings: Settings) -> Store | None:
    """The store at an address. Without one, a SQLite database has a folder beside it, and in PostgreSQL the bytes stand
    in the rows, which is where every machine finds them."""
    if not url:
        database = make_url(settings.database_url)
        if database.get_backend_name() != "sqlite" or database.database in (None, "", ":memory:"):
            return None
        return Folder(beside(Path(database.database or "")))
    if url == "database":
        return None
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Folder(Path(unquote(parts.path)))
    if not (settings.store_key.get_secret_value() and settings.store_secret.get_secret_value()):
        raise RuntimeError("PORTAL_STORE is a bucket: set PORTAL_STORE_KEY and PORTAL_STORE_SECRET too.")
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    return Bucket(
        parts.netloc,
        parts.path.strip("/"),
        query.get("endpoint"),
        query.get("region", "us-east-1"),
        settings.store_key.get_secret_value(),
        settings.store_secret.get_secret_value(),
    )


def beside(database: Path) -> Path:
    """The folder that belongs to a SQLite file."""
    return database.with_name(f"{database.name}.files")


# A folder of this machine


class Folder:
    """Files of ours alone. Nothing is followed that leads out of it, and a file bears its name only once it is whole
    and on the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.place = self.root.as_uri()

    def put(self, key: str, content: IO[bytes]) -> None:
        with _putting(), _no_room(key), self._folder(key, make=True) as (folder, name):
            _write(folder, name, content)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        with _no_room(key), self._file(key) as (file, size):
            if size > MOST_BYTES:
                _lost(key, "damaged")
            file.seek(start)
            return file.read(-1 if length is None else length)

    def size(self, key: str) -> int | None:
        try:
            with _no_room(key, quiet=True), self._file(key) as (_file, size):
                return size
        except Lost:
            return None

    def delete(self, key: str) -> None:
        with contextlib.suppress(Lost), _no_room(key, quiet=True), self._folder(key) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def listed(self) -> Iterator[tuple[str, datetime]]:
        for portal in _within(self.root):
            for kind in _within(self.root / portal):
                folder = self.root / portal / kind
                for name in _within(folder, files=True):
                    yield from self._one_listed(f"{portal}/{kind}/{name}", folder / name)

    def _one_listed(self, key: str, path: Path) -> Iterator[tuple[str, datetime]]:
        with contextlib.suppress(FileNotFoundError):
            since = path.lstat().st_mtime
            if _KEY.fullmatch(key):
                yield key, datetime.fromtimestamp(since, UTC)
            elif _LEFT.fullmatch(path.name) and time.time() - since > LEFT_FOR_S:
                path.unlink()  # it was not written to its end

    def mark(self) -> str:
        """Which folder it is: two machines that each have one under the same path have two."""
        with _no_room(MARK), self._root(make=True) as root:
            try:
                handle = os.open(MARK, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=root)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):
                    _write(root, MARK, BytesIO(secrets.token_hex(8).encode()), once=True)
                handle = os.open(MARK, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=root)
            with open(handle, "rb") as file:
                return file.read(16).decode("ascii", "replace")

    @contextlib.contextmanager
    def _root(self, make: bool = False) -> Iterator[int]:
        if make and not self.root.exists():
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        root = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield root
        finally:
            os.close(root)

    @contextlib.contextmanager
    def _folder(self, key: str, make: bool = False) -> Iterator[tuple[int, str]]:
        portal_id, kind, _row, _sha256 = named(key)
        with (
            self._root(make) as root,
            _step_into(root, str(portal_id), make) as portal,
            _step_into(portal, kind, make) as folder,
        ):
            yield folder, key.rpartition("/")[2]

    @contextlib.contextmanager
    def _file(self, key: str) -> Iterator[tuple[IO[bytes], int]]:
        with self._folder(key) as (folder, name):
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            with open(handle, "rb") as file:
                found = os.fstat(handle)
                if not stat.S_ISREG(found.st_mode):
                    _lost(key, "damaged")
                yield file, found.st_size


@contextlib.contextmanager
def _step_into(folder: int, name: str, make: bool) -> Iterator[int]:
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=folder)
            os.fsync(folder)
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        yield inner
    finally:
        os.close(inner)


def _write(folder: int, name: str, content: IO[bytes], once: bool = False) -> None:
    partial_name = f".{secrets.token_hex(8)}.partial"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with open(os.open(partial_name, flags, 0o600, dir_fd=folder), "wb") as file:
            shutil.copyfileobj(content, file, 1024 * 1024)
            file.flush()
            os.fsync(file.fileno())
        if once:
            os.link(partial_name, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        else:
            os.rename(partial_name, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial_name, dir_fd=folder)


def _within(folder: Path, files: bool = False) -> list[str]:
    try:
        with os.scandir(folder) as found:
            return sorted(
                one.name
                for one in found
                if (one.is_file(follow_symlinks=False) if files else one.is_dir(follow_symlinks=False))
            )
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def _no_room(key: str, quiet: bool = False) -> Iterator[None]:
    """What a file system says, as a store says it."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            _lost(key, "missing", quiet)
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
            _lost(key, "damaged", quiet)
        why = errno.errorcode.get(error.errno or 0, "OSError")
        log.error("the folder of the store can't be used", error=why)
        raise StoreDown(why, refused=isinstance(error, PermissionError)) from None


@contextlib.contextmanager
def _putting() -> Iterator[None]:
    """Where there is nothing yet that could be lost, it is the place itself that is not as it should be."""
    try:
        yield
    except Lost as error:
        raise StoreDown(f"the place is {error}") from None


def _lost(key: str, what: str, quiet: bool = False) -> NoReturn:
    if not quiet:
        log.error(f"an object is {what}", key=key)
    raise Lost(what)


# An S3-compatible store


class Bucket:
    """A bucket, or what is under a prefix of it. Keys are the two that are set, and nothing that the machine or the
    cloud it stands in would hand out besides."""

    def __init__(
        self, bucket: str, prefix: str, endpoint: str | None, region: str, key: str, secret: str
    ) -> None:
        from obstore.store import S3Store  # 15 MB that only who needs it loads

        keys: Any = {"access_key_id": key, "secret_access_key": secret, "expires_at": None}
        endpoint = endpoint or f"https://s3.{region}.amazonaws.com"
        self.place = f"s3://{bucket}/{prefix}".rstrip("/") + f" at {endpoint}"
        self._store = S3Store(
            bucket,
            prefix=prefix or None,
            endpoint=endpoint,
            region=region,
            credential_provider=lambda: keys,
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=3),
                "timeout": timedelta(seconds=15),
            },
            retry_config={
                "max_retries": 2,
                "retry_timeout": timedelta(seconds=20),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2
                },
            },
        )  # fmt: skip

    def put(self, key: str, content: IO[bytes]) -> None:
        with _putting(), _no_answer(key):
            self._store.put(key, content, max_concurrency=2)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if length is not None:
            try:
                with _no_answer(key):
                    return bytes(self._store.get_range(key, start=start, length=length))
            except StoreDown:
                if (self.size(key) or 0) < start + length:  # which is answered as a fault, not as what it is
                    _lost(key, "damaged")
                raise
        with _no_answer(key):
            found = self._store.get(key)
            if found.meta["size"] > MOST_BYTES:
                _lost(key, "damaged")
            return bytes(found.bytes())

    def size(self, key: str) -> int | None:
        try:
            with _no_answer(key, quiet=True):
                return int(self._store.head(key)["size"])
        except Lost:
            return None

    def delete(self, key: str) -> None:
        with contextlib.suppress(Lost), _no_answer(key, quiet=True):
            self._store.delete(key)

    def listed(self) -> Iterator[tuple[str, datetime]]:
        pages = iter(self._store.list(chunk_size=1000))
        while True:
            with _putting(), _no_answer("", quiet=True):
                page = next(pages, None)
            if page is None:
                return
            for one in page:
                if _KEY.fullmatch(one["path"]):
                    yield one["path"], one["last_modified"]


@contextlib.contextmanager
def _no_answer(key: str, quiet: bool = False) -> Iterator[None]:
    """What obstore says, without its words: they may name keys."""
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        if "NoSuchBucket" in str(error):
            log.error("the store has no such bucket")
            raise StoreDown("NoSuchBucket") from None
        if isinstance(error, FileNotFoundError):
            _lost(key, "missing", quiet)
        refused = isinstance(error, PermissionDeniedError | UnauthenticatedError)
        log.error("the store failed", error=type(error).__name__)
        raise StoreDown(type(error).__name__, refused) from None
