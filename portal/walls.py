"""Whose rows may be seen and written just now: what PostgreSQL's row-level security is told with every transaction.

It stands behind the filters of each statement: where one is forgotten, a stranger's rows are still not found, and
cannot be written. Nothing said is nothing seen. What looks over all portals says so by `wide`, and why: `Why` is the
whole list.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.pq import ExecStatus, TransactionStatus

SETTING = "portal.scope"  # what the policies read: ids with commas between, "*" for all
INSTALLATION = 0  # in the place of a portal: rows that are no portal's, such as the asks of merchants' people

Why = Literal[
    "host",  # which portal answers under a name
    "membership",  # which portals are somebody's on the merchant's side
    "webhook",  # whose account an unguessable address is
    "api key",  # whose key it is
    "link",  # whether a sign-in link that does not work here is another shop's
    "new portal",  # its name is to be one that no other has
    "domain",  # whether somebody else has proved a name
    "worker",  # claiming, its rounds over all portals, jobs that are no portal's
    "health",  # how much waits, over all
    "metrics",
    "demo",
]


@dataclass(frozen=True, slots=True)
class Scope:
    """`home` is the portal in which the work goes on that is put off now; None where there is not just one."""

    text: str
    home: int | None = None


NOTHING = Scope("")
EVERYTHING = Scope("*")
_now: ContextVar[Scope | None] = ContextVar("walls", default=None)


def of(*portals: int, also: tuple[int, ...] = ()) -> Scope:
    """These portals alone. `also`: the installation's own rows, or what a merchant has outside of any portal."""
    home = portals[0] if len(portals) == 1 else None
    return Scope(",".join(str(int(one)) for one in dict.fromkeys((*portals, *also))), home)


@contextmanager
def within(*portals: int, also: tuple[int, ...] = ()) -> Iterator[None]:
    """Only rows of these portals, in this block."""
    with _set(of(*portals, also=also)):
        yield


@contextmanager
def wide(why: Why) -> Iterator[None]:  # it is for who reads, and for the test that holds the list
    """Rows of all portals, in this block; only where no portal is known yet, or all are meant."""
    with _set(EVERYTHING):
        yield


@contextmanager
def closed() -> Iterator[None]:
    """Nothing at all, until somebody is known; whatever was said outside of this block."""
    with _set(NOTHING):
        yield


@contextmanager
def more(*ids: int) -> Iterator[None]:
    """These besides what may be seen now: a portal that is just being made, a merchant who comes in by the door."""
    scope = _now.get()
    if scope is None or scope is EVERYTHING:
        yield
        return
    had = tuple(int(one) for one in scope.text.split(",") if one)
    with _set(Scope(of(*had, also=ids).text, scope.home)):
        yield


def narrow(*portals: int, also: tuple[int, ...] = ()) -> None:
    """Only rows of these from here on, up to the end of the block that is open: who asks has become known."""
    _now.set(of(*portals, also=also))


def home() -> int | None:
    """The portal in which we are, where it is just one."""
    scope = _now.get()
    return scope.home if scope else None


def now() -> Scope | None:
    """What has been said; None where nothing was."""
    return _now.get()


@contextmanager
def _set(scope: Scope) -> Iterator[None]:
    token = _now.set(scope)
    try:
        yield
    finally:
        _now.reset(token)


_TELL = f"SELECT set_config('{SETTING}', %s, true)".encode()
_ROLLBACK_TO = ("ROLLBACK TO", b"ROLLBACK TO")


def cursors(outside: Scope) -> type[psycopg.Cursor[Any]]:
    """Cursors that tell the server the scope of the moment, for the transaction alone: a pooled connection keeps
    nothing of it. `outside` holds where nothing was said."""

    class Walled(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **how: Any) -> Any:
            connection, scope = self.connection, _now.get() or outside
            if connection.autocommit and connection.pgconn.transaction_status == TransactionStatus.IDLE:
                # A statement by itself: its scope goes out together with it, in one transaction and one round trip.
                teller = _teller(connection)
                with connection.pipeline():
                    teller.execute(_TELL, (scope.text,))
                    super().execute(query, params, **how)
                return self
            _tell(connection, scope)
            if isinstance(query, str | bytes) and query[:11] in _ROLLBACK_TO:
                connection._walls_told = None  # type: ignore[attr-defined]  # what was told since is forgotten
            return super().execute(query, params, **how)

        def executemany(self, query: Any, params_seq: Any, **how: Any) -> None:
            _tell(self.connection, _now.get() or outside)
            super().executemany(query, params_seq, **how)

    return Walled


def _teller(connection: psycopg.Connection[Any]) -> psycopg.Cursor[Any]:
    found: psycopg.Cursor[Any] | None = getattr(connection, "_walls_teller", None)
    if found is None:
        found = connection._walls_teller = psycopg.Cursor(connection)  # type: ignore[attr-defined]
    return found


def _tell(connection: psycopg.Connection[Any], scope: Scope) -> None:
    """In the round trip that begins the transaction; once more only where the scope has changed within it."""
    status = connection.pgconn.transaction_status
    if status == TransactionStatus.IDLE:
        _send(connection, f"BEGIN; SET LOCAL {SETTING} = '{scope.text}'", scope)
    elif status == TransactionStatus.INTRANS and getattr(connection, "_walls_told", None) != scope.text:
        _send(connection, f"SET LOCAL {SETTING} = '{scope.text}'", scope)


def _send(connection: psycopg.Connection[Any], words: str, scope: Scope) -> None:
    result = connection.pgconn.exec_(words.encode())  # ids and "*" alone stand in a scope
    if result.status != ExecStatus.COMMAND_OK:
        if connection.closed:
            raise psycopg.OperationalError(connection.pgconn.get_error_message())
        raise psycopg.errors.error_from_result(result)
    connection._walls_told = scope.text  # type: ignore[attr-defined]
