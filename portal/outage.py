"""When the database can't be used: said once in the log, with what to do, and once more when it can be used again.

Whoever asks meanwhile gets a 503, which stands in the log line of the request; a line of its own for each of a thousand
of them would bury the one that matters.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

log = structlog.get_logger()

AGAIN_S = 60.0  # for as long as it lasts, it is said again
QUIET_S = (
    10.0  # without a failure, until it is over: on a full disk, small things still find a place now and then
)


@dataclass(frozen=True, slots=True)
class Trouble:
    why: str
    todo: str
    only_writing: bool = False  # reading may go on all the while


_FULL = Trouble(
    "the disk is full",
    "Make room on the database's disk; everything goes on by itself then.",
    only_writing=True,
)
_DISK = Trouble(
    "the disk can't be read or written",
    "Look at the disk, at limits of file sizes and at the system's log; keep the last backup safe.",
    only_writing=True,
)
_LOCKED = Trouble(
    "the database is locked",
    "Look which program keeps it open; no other one may write for long.",
    only_writing=True,
)
_READ_ONLY = Trouble(
    "the database can't be written", "Look at the rights of its file and folder, or which server it is.", True
)
_DAMAGED = Trouble("the database is damaged", "Stop the portal and restore the last backup.")
_CLOSED = Trouble(
    "the database can't be opened", "Look whether its file and folder are there, and whose they are."
)
_BUSY = Trouble(
    "all connections are taken", "Look what hangs; or raise PORTAL_THREADS, and the server's limit."
)
_SILENT = Trouble(
    "the database does not answer", "Look whether it runs, and whether PORTAL_DATABASE_URL leads to it."
)

# SQLite's primary result codes, and the classes and codes of PostgreSQL.
_SQLITE = {
    5: _LOCKED,
    6: _LOCKED,
    8: _READ_ONLY,
    10: _DISK,
    11: _DAMAGED,
    13: _FULL,
    14: _CLOSED,
    26: _DAMAGED,
}
_POSTGRES = {
    "53100": _FULL,
    "58030": _DISK,
    "25006": _READ_ONLY,
    "53300": _BUSY,
    "XX001": _DAMAGED,
    "XX002": _DAMAGED,
}
_POSTGRES_CLASSES = {"08": _SILENT, "57": _SILENT, "53": _BUSY, "58": _DISK}


def trouble(error: Exception) -> Trouble | None:
    """What an error says of the database itself; None for one that only says something of a statement."""
    if isinstance(error, PoolTimeout):
        return _BUSY
    if not isinstance(error, DBAPIError):
        return None
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return _SQLITE.get(code & 0xFF)
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        if state == "57014":  # a statement that was cancelled
            return None
        return _POSTGRES.get(state) or _POSTGRES_CLASSES.get(state[:2])
    return _SILENT if isinstance(error, OperationalError) else None


class Outage:
    """What is known of the trouble that lasts, for this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now: Trouble | None = None
        self._since = self._said = self._last = 0.0
        self._failed = 0

    def note(self, error: Exception) -> None:
        found = trouble(error)
        if found is None:
            return
        at = time.monotonic()
        with self._lock:
            new = found != self.now
            if self.now is None:
                self._since, self._failed = at, 0
            self.now = found
            self._failed += 1
            self._last = at
            if not new and at - self._said < AGAIN_S:
                return
            self._said = at
            failed = self._failed
        log.error("the database can't be used", why=found.why, todo=found.todo, failed=failed)

    def over(self, wrote: bool) -> None:
        """Something worked."""
        at = time.monotonic()
        with self._lock:
            if self.now is None or (self.now.only_writing and not wrote) or at - self._last < QUIET_S:
                return
            why, failed, seconds = self.now.why, self._failed, at - self._since
            self.now = None
        log.warning("the database can be used again", was=why, failed=failed, seconds=round(seconds, 1))

    @contextmanager
    def watched(self, writing: bool) -> Iterator[None]:
        """Around whatever is done with the database."""
        try:
            yield
        except (DBAPIError, PoolTimeout) as error:
            self.note(error)
            raise
        if self.now is not None:
            self.over(writing)


lasting = Outage()
