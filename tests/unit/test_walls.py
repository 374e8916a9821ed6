"""The second wall: with every filter taken away, and as the role that the portal runs as, nobody sees or writes
another portal's rows."""

import ast
import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from portal import clock, doctor, models, queries, walls, work
from portal.app import create_app
from portal.db import Database
from portal.jobs import enqueue
from portal.settings import Settings
from portal.work import Worker
from tests.pgbouncer import Pooler, program
from tests.postgres import APP, Server, programs
from tests.unit.builders import (
    MASTER_KEY,
    NOW,
    copy,
    make_account,
    make_action,
    make_customer,
    make_invoice,
    make_order,
    make_payment,
    make_portal,
    make_refund,
    make_request,
    make_subscription,
    save,
)
from tests.unit.plans import plan_of

PORTAL = Path(__file__).parents[2] / "portal"
SETTINGS = Settings(master_keys=MASTER_KEY, base_domain="portals.test", admin_host="admin.portals.test")
# Of no portal, or only counted: nothing in them tells one portal of another's customers.
OPEN = {
    "api_use": "how often a key was used in a minute",
    "merchant": "who has portals is what the scope is found by",
    "merchant_invitation": "a way in, by the hash of its token",
    "merchant_member": "who has portals is what the scope is found by",
    "merchant_session": "who asks is found by it",
    "merchant_user": "people may belong to several merchants",
    "passkey": "of people",
    "setting": "of the installation",
}
# Where all portals are looked over, and why. A line here is a line that reviewers have looked at.
WIDE = {
    ("demo.py", "demo"): 1,
    ("doctor.py", "health"): 2,
    ("domains.py", "domain"): 1,
    ("letters.py", "worker"): 1,
    ("login.py", "link"): 1,
    ("merchants.py", "membership"): 2,
    ("middleware.py", "host"): 1,
    ("views/api.py", "api key"): 1,
    ("views/health.py", "health"): 1,
    ("views/internal.py", "host"): 1,
    ("views/metrics.py", "metrics"): 1,
    ("views/settings/portals.py", "new portal"): 1,
    ("views/webhooks.py", "webhook"): 1,
    ("work.py", "worker"): 4,
}
# Databases that are opened without walls: tools of who runs the installation, and migrations.
OUTSIDE = {
    "__main__.py": 1,
    "backups.py": 1,
    "demo.py": 1,
    "doctor.py": 1,
    "migrate.py": 2,
    "terminal.py": 1,
    "upkeep.py": 2,
}

needs_postgres = pytest.mark.skipif(
    programs() is None, reason="for PostgreSQL, install the package postgresql"
)


def is_of_walls(node: ast.AST, name: str) -> bool:
    if not isinstance(node, ast.Attribute) or node.attr != name:
        return False
    return isinstance(node.value, ast.Name) and node.value.id == "walls"


def test_the_list_of_what_looks_over_all_portals() -> None:
    wide: Counter[tuple[str, str]] = Counter()
    outside: Counter[str] = Counter()
    for path in PORTAL.rglob("*.py"):
        if "walls" not in (source := path.read_text()):
            continue
        name = path.relative_to(PORTAL).as_posix()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and is_of_walls(node.func, "wide"):
                wide[name, ast.literal_eval(node.args[0])] += 1
            if is_of_walls(node, "EVERYTHING"):
                outside[name] += name != "postgres.py"  # whose is a backup's
    assert wide == WIDE
    assert +outside == OUTSIDE


class Shops:
    """Two portals of two merchants, with something of everything that customers have."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.portals = [make_portal(database, slug) for slug in ("acme", "bean")]
        self.ids = [portal.id for portal in self.portals]
        self.customers, self.subscriptions, self.accounts = [], [], []
        for portal in self.portals:
            account = make_account(database, portal)
            customer = make_customer(database, portal)
            subscription = make_subscription(database, account, customer)
            payment = make_payment(database, account, customer)
            make_order(database, account, customer)
            make_invoice(database, account, customer)
            make_refund(database, account, payment)
            make_action(database, subscription)
            make_request(database, payment)
            whose: dict[str, Any] = {"merchant_id": portal.merchant_id, "portal_id": portal.id}
            save(database, models.Audit(**whose, who="x", what="y", at=clock.now()))
            self.customers.append(customer)
            self.subscriptions.append(subscription)
            self.accounts.append(account)


@pytest.fixture
def shops(postgresql: str) -> Iterator[Shops]:
    """On two pooled connections."""
    database = Database(postgresql, threads=2, outside=walls.EVERYTHING)
    yield Shops(database)
    database.dispose()


FILLED = (
    *("account", "action", "audit", "customer", "customer_key", "invoice", "order_", "payment", "refund"),
    *("request", "subscription"),
)
OWNER = {"audit": "portal_id"}  # of which portal a row is


def every_row(db: Session, table: str) -> set[int]:
    """Whose rows are seen where the filter was forgotten."""
    return set(db.execute(text(f"SELECT portal_id FROM {table}")).scalars())


def touch_all(db: Session, table: str) -> set[int]:
    return set(db.execute(text(f"UPDATE {table} SET portal_id = portal_id RETURNING portal_id")).scalars())


class Undone(Exception):
    pass


def delete_all(db: Session, table: str, found: set[int]) -> None:
    found.update(db.execute(text(f"DELETE FROM {table} RETURNING portal_id")).scalars())
    raise Undone


def smuggle_in(db: Session, portal_id: int) -> None:
    db.add(models.Customer(portal_id=portal_id, email=f"{random.random()}@x.example", created_at=clock.now()))
    db.flush()


def give_away(db: Session, portal_id: int) -> None:
    db.execute(text("UPDATE customer SET portal_id = :other"), {"other": portal_id})


def snapshot_of(db: Session, portal_id: int) -> list[Any]:
    """All that a portal has, to see that nothing of it was changed."""
    return [
        db.execute(text(f"SELECT t::text, xmin::text FROM {table} t WHERE portal_id = {portal_id}")).all()
        for table in FILLED
    ]


async def one_of_many(shops: Shops, number: int, whose: str, seen: Counter[str]) -> None:
    """A read or a write without any filter, as `acme` or as nobody; what is not to be is counted."""
    database, (mine, other) = shops.database, shops.ids
    scope = walls.within(mine) if whose == "acme" else walls.closed()
    may_see = {mine} if whose == "acme" else set()
    table = FILLED[number % 9]
    with scope:
        kind = ("read", "read", "touch", "delete", "smuggle", "give", "screen")[number % 7]
        if kind == "read":
            found = await database.read(every_row, table)
            seen["rows"] += len(found)
            seen["foreign"] += len(found - may_see)
        elif kind == "touch":
            seen["foreign writes"] += len(await database.write(touch_all, table) - may_see)
        elif kind == "delete":
            gone: set[int] = set()
            with pytest.raises((Undone, DBAPIError)):  # something else may hang on the row
                await database.write(delete_all, table, gone)
            seen["foreign writes"] += len(gone - may_see)
        elif kind == "smuggle":
            with pytest.raises(ProgrammingError, match="row-level security"):
                await database.write(smuggle_in, other)
            seen["refused"] += 1
        elif kind == "give" and whose == "acme":
            with pytest.raises(ProgrammingError, match="row-level security"):
                await database.write(give_away, other)
            seen["refused"] += 1
        else:
            page = await database.read(queries.orders, other, shops.customers[1].id)
            seen["foreign"] += len(page.rows)


def test_without_any_filter_nothing_foreign_is_read_or_written(shops: Shops) -> None:
    a_thousand_mixed(shops, 1000)


@pytest.mark.skipif(program() is None, reason="for PgBouncer, install the package pgbouncer")
def test_nor_where_a_pooler_hands_each_transaction_another_connection(
    shops: Shops, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six connections of ours share two of the server's."""
    with Pooler(postgres) as pooler:
        url = make_url(pooler.url("portal")).set(username=APP).render_as_string(hide_password=False)
        through = Database(url, threads=6, outside=walls.EVERYTHING)
        try:
            monkeypatch.setattr(shops, "database", through)
            a_thousand_mixed(shops, 300)
        finally:
            through.dispose()


def a_thousand_mixed(shops: Shops, many: int) -> None:
    before = shops.database.read_now(snapshot_of, shops.ids[1])
    assert all(before[number] for number in range(len(FILLED)) if FILLED[number] != "customer_key")
    seen: Counter[str] = Counter()
    order = [("acme" if number % 3 else "nobody") for number in range(many)]

    async def all_at_once() -> None:
        for start in range(0, many, 50):
            mine = [one_of_many(shops, at, order[at], seen) for at in range(start, start + 50)]
            await asyncio.gather(*mine)

    asyncio.run(all_at_once())
    assert (seen["foreign"], seen["foreign writes"]) == (0, 0)
    assert seen["rows"] > many / 10
    assert seen["refused"] > many / 7
    assert shops.database.read_now(snapshot_of, shops.ids[1]) == before


def test_without_the_wall_the_same_statements_find_strangers(shops: Shops) -> None:
    """What the test above proves is the wall's doing."""
    mine, other = shops.ids
    for table in FILLED:
        if table != "customer_key":
            assert shops.database.read_now(every_row, table) == {mine, other}
    assert shops.database.write_now(touch_all, "customer") == {mine, other}
    shops.database.write_now(smuggle_in, other)
    assert shops.database.read_now(queries.orders, other, shops.customers[1].id).rows


def test_every_table_is_behind_the_wall_or_said_not_to_be(shops: Shops) -> None:
    rows = shops.database.read_now(
        lambda db: db.execute(
            text(
                "SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity, "
                "array_agg(p.polname || ':' || p.polcmd::text"
                " || ':' || (p.polqual IS NOT NULL) || ':' || (p.polwithcheck IS NOT NULL)"
                " || ':' || p.polpermissive || ':' || p.polroles::text) "
                "FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid "
                "WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace GROUP BY 1, 2"
            )
        ).all()
    )
    found = {row[0]: (row[1], row[2]) for row in rows}
    walled = {name for name, (forced, _) in found.items() if forced}
    assert walled == set(models.metadata.tables) - set(OPEN)
    assert {name for name, table in models.metadata.tables.items() if "portal_id" in table.columns} <= walled
    # For all commands and roles, with both clauses.
    assert {tuple(found[name][1]) for name in walled} == {("wall:*:true:true:true:{0}",)}


def test_the_portals_role_can_not_take_the_wall_down(shops: Shops) -> None:
    for words in (
        "ALTER TABLE order_ DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE order_ NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY wall ON order_",
        "TRUNCATE setting",
        "UPDATE alembic_version SET version_num = '0001'",
    ):
        with pytest.raises(ProgrammingError, match=r"must be owner|permission denied"):
            shops.database.write_now(Session.execute, text(words))


def said(db: Session) -> doctor.Finding:
    return next(iter(doctor._database(db, Settings())))


def scope_of(db: Session) -> str | None:
    found: str | None = db.execute(text("SELECT current_setting('portal.scope', true)")).scalar_one()
    return found


def test_nothing_of_a_scope_stays_on_a_pooled_connection(shops: Shops) -> None:
    async def many() -> None:
        with walls.within(shops.ids[0]):
            assert await shops.database.read(scope_of) == str(shops.ids[0])
            assert await shops.database.write(scope_of) == str(shops.ids[0])
            with pytest.raises(DBAPIError):
                await shops.database.write(lambda db: db.execute(text("SELECT 1 / 0")))
            with pytest.raises(DBAPIError):
                await shops.database.read(lambda db: db.execute(text("SELECT 1 / 0")))

    asyncio.run(many())
    raw = shops.database.engine.raw_connection()
    try:
        driver: Any = raw.driver_connection
        told = psycopg.Cursor(driver)
        assert told.execute("SELECT current_setting('portal.scope', true)").fetchone() in [("",), (None,)]
        assert told.execute("SELECT count(*) FROM customer").fetchone() == (0,)
    finally:
        raw.close()


def test_the_scope_can_change_within_a_transaction(shops: Shops) -> None:
    mine, other = shops.ids

    def write(db: Session) -> None:
        assert every_row(db, "customer") == {mine}
        with walls.wide("worker"):
            assert every_row(db, "customer") == {mine, other}
        assert every_row(db, "customer") == {mine}
        with walls.more(other):
            assert every_row(db, "customer") == {mine, other}
        with walls.wide("worker"):
            every_row(db, "customer")
            inner = db.begin_nested()
        assert every_row(db, "customer") == {mine}
        inner.rollback()  # which brings back what was told before
        assert every_row(db, "customer") == {mine}

    with walls.within(mine):
        shops.database.write_now(write)


def test_several_portals_and_the_installation(shops: Shops) -> None:
    mine, other = shops.ids
    with walls.within(mine, other):
        assert shops.database.read_now(every_row, "order_") == {mine, other}
        assert walls.home() is None
    with walls.within(also=(walls.INSTALLATION,)):
        assert shops.database.read_now(every_row, "order_") == set()
        assert walls.home() is None
    with walls.within(also=(walls.INSTALLATION, mine)):
        assert shops.database.read_now(every_row, "order_") == {mine}
        assert walls.home() is None
    with walls.within(mine, also=(walls.INSTALLATION,)):
        assert walls.home() == mine


@pytest.mark.parametrize("inside", [True, False])
def test_a_forgotten_filter_in_a_view_shows_nothing_foreign(shops: Shops, inside: bool) -> None:
    """The scope is the request's, whoever wrote the view."""

    async def leaky(request: Request) -> JSONResponse:
        return JSONResponse(sorted(await request.app.state.database.read(every_row, "order_")))

    app = create_app(SETTINGS, shops.database)
    app.router.routes.insert(0, Route("/customers/leaky" if inside else "/api/v1/leaky", leaky))
    with TestClient(app, base_url="http://acme.portals.test") as client:
        answer = client.get("/customers/leaky" if inside else "/api/v1/leaky")
    assert answer.json() == ([shops.ids[0]] if inside else [])


def test_a_job_is_carried_out_within_its_portal(shops: Shops) -> None:
    """Also where its payload points at a stranger's row."""
    mine, other = shops.ids
    shops.database.write_now(lambda db: db.execute(text("DELETE FROM job")))
    stranger = {"request": shops.subscriptions[1].id, "subscription": shops.subscriptions[1].id}
    with walls.within(mine):
        shops.database.write_now(enqueue, "refresh", stranger, clock.now(), None)
    with walls.wide("worker"):  # a round over all: whose it is follows from the account
        shops.database.write_now(enqueue, "sync", {"account": shops.accounts[1].id}, clock.now(), None)
        jobs = shops.database.write_now(work.claim, clock.now(), 10)
    assert {(job.kind, job.within) for job in jobs} == {("refresh", mine), ("sync", other)}
    job = next(job for job in jobs if job.kind == "refresh")
    asyncio.run(Worker(SETTINGS, shops.database)._each([job]))
    row = shops.database.read_now(lambda db: db.get_one(models.Job, job.id))
    assert row.done_at is None
    assert "NoResultFound" in (row.error or "")


def test_lists_go_by_their_indexes_behind_the_wall_too(shops: Shops) -> None:
    """The policy is asked once for a statement, beside the index and not in its place."""
    customer = shops.customers[0]
    order = make_order(shops.database, shops.accounts[0], customer)
    others = [
        make_customer(shops.database, shops.portals[0], f"c{number}@example.com").id for number in range(9)
    ]
    copies = [
        {"remote_id": f"copy_{number}", "placed_at": NOW - timedelta(hours=number), "customer_id": who}
        for number in range(1_000)
        for who in [others[number % 9] if number % 2 else customer.id]
    ]
    copy(shops.database, order, copies)
    where = {"portal": shops.ids[0], "customer": customer.id}
    words = (
        "SELECT id, title FROM order_ WHERE portal_id = :portal AND customer_id = :customer "
        "ORDER BY placed_at DESC, id DESC LIMIT 21"
    )
    with walls.within(shops.ids[0]):
        found = "\n".join(plan_of(shops.database, lambda db: db.execute(text(words), where).all(), "order_"))
    assert "Index Scan Backward using ix_order_list" in found
    assert "InitPlan" in found
    assert "Sort" not in found


@needs_postgres
def test_the_doctor_says_where_the_wall_does_not_hold(shops: Shops, postgres: Server) -> None:
    assert shops.database.read_now(said).state == "ok"
    owner = Database(postgres.url("portal"), threads=1)
    try:
        found = owner.read_now(said)
        assert (found.state, "passes by row-level security" in found.sentence) == ("warn", True)
        owner.write_now(lambda db: db.execute(text("ALTER TABLE refund DISABLE ROW LEVEL SECURITY")))
        try:
            found = shops.database.read_now(said)
            assert (found.state, "on 1 tables" in found.sentence) == ("warn", True)
        finally:
            owner.write_now(lambda db: db.execute(text("ALTER TABLE refund ENABLE ROW LEVEL SECURITY")))
    finally:
        owner.dispose()


def test_it_holds_for_one_role_that_owns_the_tables_too(shops: Shops, postgres: Server) -> None:
    """FORCE: an installation with one role has the wall as well, unless that is a superuser."""
    from portal.migrate import upgrade

    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE alone OWNER portal_app")
    try:
        url = postgres.app_url("alone")
        upgrade(url, app_url=url)
        database = Database(url, threads=1)
        try:
            with walls.within(0):
                found = database.read_now(every_row, "customer")
            assert found == set()
            with pytest.raises(ProgrammingError, match="row-level security"):
                database.write_now(lambda db: db.add(models.Asset(**_asset())))
        finally:
            database.dispose()
    finally:
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute("DROP DATABASE alone WITH (FORCE)")


def _asset() -> dict[str, Any]:
    return {
        "portal_id": 1,
        "sha256": "0",
        "content_type": "image/png",
        "width": 1,
        "height": 1,
        "content": b"",
    }


# On both databases: what follows the work


def test_work_that_is_put_off_belongs_to_the_portal_it_was_put_off_in(database: Database) -> None:
    portal = make_portal(database)
    with walls.within(portal.id, also=(walls.INSTALLATION,)):
        database.write_now(enqueue, "request_late", {"request": 1}, clock.now(), None)
    database.write_now(
        enqueue, "mail", {"template": "request_digest", "portal": portal.id}, clock.now(), None
    )
    database.write_now(enqueue, "settle_join", {"join": 1}, clock.now(), None)
    rows = database.read_now(lambda db: db.execute(text("SELECT kind, within FROM job")).all())
    assert {tuple(row) for row in rows} == {
        ("request_late", portal.id),
        ("mail", portal.id),
        ("settle_join", None),
    }
