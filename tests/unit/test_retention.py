"""What the sweep forgets, portal by portal, and what it never touches."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from portal import clock, login, models, retention, work
from portal.db import Database
from portal.ids import new_id
from portal.jobs import enqueue
from portal.policy import Privacy
from portal.retention import Swept
from portal.settings import Settings
from tests.unit.builders import (
    MASTER_KEY,
    make_account,
    make_customer,
    make_invoice,
    make_order,
    make_payment,
    make_portal,
    make_refund,
    make_subscription,
    save,
)
from tests.unit.plans import plan, reads_little, wholes

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


def sweep(database: Database, now: datetime = NOW) -> Swept:
    return asyncio.run(retention.sweep(database, now))


def make_event(database: Database, account: models.Account, age: timedelta, **fields: Any) -> models.Event:
    row = models.Event(
        portal_id=account.portal_id,
        account_id=account.id,
        event_id=f"evt_{new_id()}",
        type="invoice.paid",
        headers=[],
        body=b'{"email": "ana@example.com"}',
        received_at=NOW - age,
        **fields,
    )
    save(database, row)

    def job(db: Any) -> None:
        payload = {"event": row.id, "id": row.event_id, "body": {"email": "ana@example.com"}}
        enqueue(db, "event", payload, NOW, f"event:{row.id}")

    database.write_now(job)
    return row


def body_of(database: Database, row: models.Event) -> tuple[bytes | None, Any]:
    def read(db: Any) -> tuple[bytes | None, Any]:
        job = db.execute(select(models.Job).where(col(models.Job.dedupe) == f"event:{row.id}")).scalar_one()
        return db.get_one(models.Event, row.id).body, job.payload["body"]

    return database.read_now(read)


# Webhooks


def test_bodies_go_after_thirty_days_where_nothing_else_is_said(database: Database) -> None:
    account = make_account(database, make_portal(database))
    young = make_event(database, account, timedelta(days=29))
    old = make_event(database, account, timedelta(days=31), handled_at=NOW)
    assert sweep(database).bodies == 1
    assert body_of(database, old) == (None, {})
    assert body_of(database, young)[0] is not None

    def read(db: Any) -> tuple[str, Any]:
        row = db.get_one(models.Event, old.id)
        return row.event_id, row.handled_at

    assert database.read_now(read) == (old.event_id, NOW)  # that it came, and what became of it, stays


def test_bodies_go_as_early_as_the_merchant_says_and_in_their_portal_alone(database: Database) -> None:
    quick = make_portal(database, "quick", privacy={"bodies_days": 2})
    usual = make_portal(database, "usual")
    gone = make_event(database, make_account(database, quick), timedelta(days=3))
    kept = make_event(database, make_account(database, usual), timedelta(days=3))
    assert sweep(database) == Swept(bodies=1)
    assert body_of(database, gone) == (None, {})
    assert body_of(database, kept)[0] is not None
    assert sweep(database) == Swept()  # nothing twice


def test_many_go_in_small_batches(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)
    account = make_account(database, make_portal(database))
    for _number in range(8):
        make_event(database, account, timedelta(days=31))
    batches: list[int] = []
    inner = retention.forget_bodies

    def counting(db: Any, portal_id: int, before: datetime) -> int:
        batches.append(inner(db, portal_id, before))
        return batches[-1]

    monkeypatch.setattr(retention, "forget_bodies", counting)
    assert sweep(database).bodies == 8
    assert batches == [3, 3, 2]
    monkeypatch.setattr(retention, "BATCHES", 2)  # what is too much for one sweep waits for the next
    for _number in range(8):
        make_event(database, account, timedelta(days=31))
    assert [sweep(database).bodies, sweep(database).bodies] == [6, 2]


# Browsers


def make_device(database: Database, customer: models.Customer, **fields: Any) -> models.Device:
    return save(  # type: ignore[no-any-return]
        database,
        models.Device(
            portal_id=customer.portal_id,
            customer_id=customer.id,
            browser_hash=str(new_id()),
            **{"created_at": NOW - timedelta(days=2000), **fields},
        ),
    )


def devices(database: Database) -> set[int]:
    return set(database.read_now(lambda db: list(db.execute(select(col(models.Device.id))).scalars())))


def test_browsers_go_when_nobody_has_signed_in_there_for_long(database: Database) -> None:
    portal = make_portal(database, privacy={"browsers_months": 6})
    customer = make_customer(database, portal)
    for seen in ("2026-05-27", "2026-05-28", "2026-11-01"):
        make_device(database, customer, seen_at=datetime.fromisoformat(f"{seen}T12:00:00+00:00"))
    make_device(database, customer, seen_at=None)  # noted by an older version
    new = make_device(database, customer, seen_at=None, created_at=NOW - timedelta(days=3))
    assert sweep(database).browsers == 2
    assert len(devices(database)) == 3
    assert new.id in devices(database)


def test_browsers_are_kept_for_ever_where_the_merchant_says_so(database: Database) -> None:
    kept = make_device(
        database, make_customer(database, make_portal(database, privacy={"browsers_months": None}))
    )
    gone = make_device(
        database, make_customer(database, make_portal(database, "kora"))
    )  # 13 months by default
    assert sweep(database).browsers == 1
    assert devices(database) == {kept.id} != {gone.id}


def test_a_sign_in_makes_a_browser_and_a_customer_young_again(database: Database) -> None:
    portal = make_portal(database, privacy={"browsers_months": 6, "customers_months": 6})
    make_customer(database, portal)

    def sign_in(now: datetime) -> None:
        who = ("the-browser-of-ana", "Firefox", "127.0.0.1", "/customers/orders")
        asked = database.write_now(login.ask, portal.id, "ana@example.com", *who, now)
        prepared = database.write_now(login.prepare_mail, asked, "secret", now)
        assert prepared is not None
        found = database.write_now(
            login.redeem_link, portal.id, prepared.token, "the-browser-of-ana", "Firefox", None, now
        )
        assert isinstance(found, login.Redeemed)

    sign_in(NOW - timedelta(days=400))
    sign_in(NOW - timedelta(days=20))
    assert sweep(database) == Swept()
    assert sweep(database, NOW + timedelta(days=400)).browsers == 1


# Customers


def people(database: Database) -> set[str]:
    return set(database.read_now(lambda db: list(db.execute(select(col(models.Customer.email))).scalars())))


def make_old(database: Database, portal: models.Portal, email: str, **fields: Any) -> models.Customer:
    row = models.Customer(
        portal_id=portal.id, email=email, **{"created_at": NOW - timedelta(days=800), **fields}
    )
    return save(database, row)  # type: ignore[no-any-return]


def test_customers_without_anything_go_with_all_that_hangs_on_them(database: Database) -> None:
    portal = make_portal(database, privacy={"customers_months": 24})
    account = make_account(database, portal)
    bare = make_old(database, portal, "bare@example.com")
    make_device(database, bare, seen_at=NOW - timedelta(days=790))
    save(
        database,
        models.RemoteCustomer(
            portal_id=portal.id,
            account_id=account.id,
            customer_id=bare.id,
            remote_id="cus_1",
            email=bare.email,
            name="Bare",
            placed_at=NOW,
            as_of=NOW,
            stamps={},
        ),
    )
    make_old(database, portal, "young@example.com", created_at=NOW - timedelta(days=700))
    make_old(database, portal, "seen@example.com", seen_at=NOW - timedelta(days=100))
    assert sweep(database).customers == 1
    assert people(database) == {"young@example.com", "seen@example.com"}
    left = database.read_now(lambda db: list(db.execute(select(models.RemoteCustomer)).scalars()))
    assert left == []


@pytest.mark.parametrize("has", ["order", "subscription", "payment", "refund", "invoice", "request", "join"])
def test_who_has_anything_stays(database: Database, has: str) -> None:
    portal = make_portal(database, privacy={"customers_months": 1})
    account = make_account(database, portal)
    one = make_old(database, portal, "ana@example.com")
    old = NOW - timedelta(days=790)
    makers: dict[str, Any] = {"order": make_order, "subscription": make_subscription, "invoice": make_invoice}
    if has in makers:
        makers[has](database, account, one, placed_at=old)
    elif has == "payment":
        make_payment(database, account, one, placed_at=old)
    elif has == "refund":
        make_refund(database, account, make_payment(database, account, None), customer_id=one.id)
    elif has == "request":
        row = models.Request(
            portal_id=portal.id,
            account_id=account.id,
            customer_id=one.id,
            subject_id=1,
            kind="refund",
            reference="K7M-2QX",
            what="",
            params={},
            history=[],
            due_at=old,
            created_at=old,
            closed_at=old,
        )
        save(database, row)
    else:
        other = make_old(database, portal, "ana@work.example")
        make_order(database, account, other)
        join = models.Join(
            portal_id=portal.id,
            from_id=one.id,
            into_id=other.id,
            created_at=old,
            expires_at=old,
            proved_at=old,
        )
        save(database, join)
    assert sweep(database).customers == 0
    assert "ana@example.com" in people(database)


def test_nobody_goes_where_the_merchant_has_not_said_so(database: Database) -> None:
    make_old(database, make_portal(database), "ana@example.com", created_at=NOW - timedelta(days=5000))
    assert sweep(database).customers == 0


def test_another_portals_customers_stay(database: Database) -> None:
    make_old(database, make_portal(database, privacy={"customers_months": 1}), "ana@example.com")
    make_old(database, make_portal(database, "kora"), "ben@example.com")
    assert sweep(database).customers == 1
    assert people(database) == {"ben@example.com"}


def test_the_round_goes_on_where_it_stopped(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    monkeypatch.setattr(retention, "BATCHES", 1)
    portal = make_portal(database, privacy={"customers_months": 1})
    account = make_account(database, portal)
    for number in range(5):
        one = make_old(database, portal, f"{number}@example.com")
        if number in (0, 3):
            make_order(database, account, one)
    assert [sweep(database).customers for _round in range(4)] == [1, 1, 1, 0]
    assert people(database) == {"0@example.com", "3@example.com"}


def test_every_table_that_names_a_customer_is_looked_at_or_goes_along() -> None:
    goes = {model.__tablename__ for model in (*retention._GOES, models.IssuedDocument)}
    looked_at = {table.name for table in retention.keepers()}
    naming = {table.name for table in models.metadata.sorted_tables if "customer_id" in table.c}
    assert naming == goes | looked_at
    assert {"order_", "subscription", "payment", "refund", "invoice", "request", "action"} <= looked_at


def test_looking_for_bare_customers_reads_no_table_whole(database: Database) -> None:
    portal = make_portal(database)
    one = make_customer(database, portal)
    statement = retention.bare_customers(portal.id, [one.id], NOW)

    lines = plan(database, statement)
    assert not wholes(lines), lines
    for table in ("order_", "subscription", "payment", "refund", "invoice", "request", "action"):
        assert any(re.search(rf"\b{table}\b", line) for line in lines), (table, lines)


@pytest.mark.usefixtures("sqlite_only")
def test_what_goes_with_customers_is_found_by_them(database: Database) -> None:
    portal = make_portal(database)
    bare = make_old(database, portal, "bare@example.com")
    make_device(database, bare, seen_at=NOW - timedelta(days=790))
    # The next customers are a page of all of them.
    with reads_little(database, "address_join", "customer") as plans:
        database.write_now(retention.forget_customers, portal.id, NOW, NOW)
    assert people(database) == set()
    for index in ("customer_key_of", "device_customer", "entry_customer"):
        assert any(f"ix_{index} " in line for line in plans), index


# The worker


def test_the_worker_sweeps_when_it_starts(database: Database) -> None:
    account = make_account(database, make_portal(database))
    old = make_event(database, account, clock.now() - NOW + timedelta(days=31))
    worker = work.Worker(Settings(master_keys=MASTER_KEY, scheme="http"), database)

    async def run() -> None:
        task = asyncio.create_task(worker.run())
        for _turn in range(200):
            await asyncio.sleep(0.05)
            if body_of(database, old)[0] is None:
                break
        worker.stop()
        await task

    asyncio.run(run())
    assert body_of(database, old)[0] is None


# The form


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ({"bodies_days": "7", "browsers_months": "", "customers_months": ""}, Privacy(7, None, None)),
        ({"bodies_days": "30", "browsers_months": "60", "customers_months": "120"}, Privacy(30, 60, 120)),
    ],
)
def test_what_is_typed_is_kept(typed: dict[str, str], expected: Privacy) -> None:
    problems, found = retention.read(typed)
    assert (problems, found) == ({}, expected)
    assert Privacy.of(found.kept()) == expected
    assert retention.typed(found) == typed


@pytest.mark.parametrize(
    "typed",
    [
        {"bodies_days": "31"},
        {"bodies_days": "0"},
        {"bodies_days": ""},
        {"bodies_days": "30", "browsers_months": "61"},
        {"bodies_days": "30", "customers_months": "0"},
        {"bodies_days": "30", "customers_months": "-1"},
        {"bodies_days": "30", "customers_months": "1.5"},
        {"bodies_days": "٣"},
    ],
)
def test_what_can_not_be_kept_is_named(typed: dict[str, str]) -> None:
    problems, _privacy = retention.read(typed)
    assert len(problems) == 1
    assert "Enter a whole number from" in next(iter(problems.values()))
