"""The orders tab with nothing in between: a plain Starlette handler, the raw driver, the same statements and template.

`bench.tabs` starts it with the database in BARE_DATABASE_URL. A plain `def`, so that Starlette runs it in a thread.
"""

import os
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg
import pysqlite3.dbapi2
from sqlalchemy import Select
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from portal import login, queries, render, tenancy, walls
from portal.db import Database
from portal.views.paging import Where

URL = os.environ["BARE_DATABASE_URL"]
IS_SQLITE = URL.startswith("sqlite")


def orders(request: Request) -> Response:
    connection = connected()
    session = connection.execute(*SESSION(login.digest(request.cookies["portal"]))).fetchone()
    now = datetime.now(UTC)
    if session is None or moment(session[5]) <= now or moment(session[4]) <= now - login.IDLE:
        return Response(status_code=403)
    customer = login.SignedIn(session[0], session[1], session[2], session[3])
    found = connection.execute(*ORDERS(customer.id)).fetchall()
    rows = tuple(
        queries.OrderRow(one[0], one[1], one[2], one[3], moment(one[4]), one[5], one[6])
        for one in found[: queries.PAGE]
    )
    older = str(queries.Cursor(rows[-1].placed_at, rows[-1].id)) if len(found) > queries.PAGE else None
    mixed = len({row.currency for row in rows if row.currency}) > 1
    page = queries.OrdersPage(rows, older, mixed)
    html = TEMPLATE.render(
        request=request,
        portal=PORTAL,
        customer=customer,
        format=FORMAT,
        tab="orders",
        body="partials/orders.html",
        page=page,
        where=Where(None),
        title=None,
        partial=False,
        with_heading=False,
    )
    return HTMLResponse(html)


def connected() -> Any:
    """This thread's connection."""
    if not hasattr(_local, "connection"):
        _local.connection = _connect()
    return _local.connection


def _connect() -> Any:
    if not IS_SQLITE:
        return psycopg.connect(URL, autocommit=True, options="-c timezone=UTC -c jit=off")
    connection = pysqlite3.dbapi2.connect(URL.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("PRAGMA mmap_size = 268435456")
    return connection


def moment(value: Any) -> datetime:
    return datetime.fromisoformat(value).replace(tzinfo=UTC) if IS_SQLITE else value


def by_hand(statement: Select[Any], free: str, **fixed: Any) -> Callable[[Any], tuple[str, Any]]:
    """A statement as the portal sends it: text and parameters for a value of `free`, put together beforehand."""
    compiled = statement.compile(DATABASE.engine, compile_kwargs={"render_postcompile": True})
    values = {**compiled.construct_params({free: None, **fixed}), **fixed}
    text = str(compiled)
    if not IS_SQLITE:
        return lambda value: (text, {**values, free: value})
    order: Sequence[str] = compiled.positiontup or ()
    place = order.index(free)
    before = tuple(values[name] for name in order[:place])
    after = tuple(values[name] for name in order[place + 1 :])
    return lambda value: (text, (*before, value, *after))


_local = threading.local()
DATABASE = Database(URL, 2, outside=walls.EVERYTHING)
_portal = DATABASE.read_now(tenancy.portal_by_host, "acme.localhost", "localhost")
assert _portal is not None
PORTAL = _portal
SESSION = by_hand(login.LOAD, "token_hash", portal=PORTAL.id, purpose="customer")
ORDERS = by_hand(queries.ORDERS[0], "customer", portal=PORTAL.id)
TEMPLATE = render.environment(PORTAL.locale).get_template("tab.html")
FORMAT = render.formats(PORTAL.locale, PORTAL.time_zone)
app = Starlette(routes=[Route("/customers/orders", orders)])
