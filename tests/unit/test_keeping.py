"""Accounts are kept true: what a lost webhook would have told is seen all the same, by look and by night."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, imports, keeping, models, sync, webhooks, work
from portal.connect import open_gateway
from portal.db import Database
from portal.gateways import facts, processors
from portal.gateways.base import (
    Event,
    Gateway,
    Gone,
    InvoiceRecord,
    OrderRecord,
    Page,
    PaymentRecord,
    Record,
    Ref,
    RefundRecord,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.money import Money
from portal.settings import Settings
from seeds.simulators.harness import Harness, Servers, Situation, simulator
from tests.unit.builders import (
    MASTER_KEY,
    NOW,
    make_account,
    make_action,
    make_customer,
    make_order,
    make_payment,
    make_portal,
    make_refund,
    make_subscription,
    save,
)
from tests.unit.plans import plan, sorts, uses, wholes

ENDS_THERE = ("adyen", "klarna", "midtrans", "payfast")  # no list shows a payment of theirs at once


@pytest.fixture(scope="module")
def simulators() -> Iterator[dict[str, Harness]]:
    made = {name: simulator(name, clock.now) for name in processors()}
    with Servers(list(made.values())):
        yield made


AT_ONE = keeping.NIGHT


@pytest.fixture(autouse=True)
def _by_day_and_at_any_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "pace_of", lambda account: 10_000.0)
    monkeypatch.setattr(keeping, "NIGHT", (clock.now() + timedelta(hours=12)).time())


def make_worker(database: Database, simulators: dict[str, Harness] | None = None) -> work.Worker:
    addresses = {name: one.address for name, one in (simulators or {}).items()}
    settings = Settings(master_keys=SecretStr(MASTER_KEY), demo=bool(simulators), simulators=addresses)
    return work.Worker(settings, database)


async def look(worker: work.Worker, account: models.Account) -> models.SyncState:
    """One look, with all that follows from it."""
    worker.database.write_now(keeping.want, clock.now())
    again: float | None = 0.0
    while again is not None:
        again = await keeping.look(worker.database, worker.settings, worker.vault, account.id, worker.take)
    await worker.drain()
    return worker.database.read_now(lambda db: db.get_one(models.SyncState, account.id))


def paid(db: Session, account: models.Account) -> int:
    row = models.Payment
    return db.execute(
        select(func.count()).where(col(row.account_id) == account.id, col(row.status) == "paid")
    ).scalar_one()


@pytest.mark.parametrize("processor", processors())
def test_what_a_lost_webhook_would_have_told_is_seen_by_the_next_look(
    sqlite: Database, simulators: dict[str, Harness], processor: str
) -> None:
    there = simulators[processor]
    sample = there.samples()[0]
    there.open(sample, "http://127.0.0.1:9/lost")
    there.switch("lose_webhooks")
    account = make_account(
        sqlite,
        make_portal(sqlite),
        processor,
        dict(sample.credentials),
        variant=sample.variant,
        options=list(sample.options),
    )
    worker = make_worker(sqlite, simulators)

    def subscription(remote: str) -> models.Subscription:
        row = models.Subscription
        return sqlite.read_now(
            lambda db: db.execute(select(row).where(col(row.remote_id) == remote)).scalar_one()
        )

    async def story() -> None:
        remote = there.stage(sample, "noor@example.com", Situation())
        if remote is not None:
            gateway = open_gateway(worker.settings, worker.vault, account)
            known = SubscriptionRecord(remote_id=remote, email="noor@example.com", status="active")
            await worker.take(account, Snapshot(as_of=clock.now(), subscriptions=(known,)), True)
            await worker.take(account, await gateway.fetch(Ref("subscription", remote, known)), True)
            await gateway.aclose()
        await look(worker, account)
        clock.set_offset(timedelta(hours=1))
        if processor in ENDS_THERE:
            assert remote is not None
            gateway = open_gateway(worker.settings, worker.vault, account)
            await gateway.cancel_now(sync.ref_of(subscription(remote)), "elsewhere")
            await gateway.aclose()
            assert subscription(remote).status == "active"
        else:
            before = sqlite.read_now(paid, account)
            if remote is None:
                there.stage(sample, "noor@example.com", Situation())
            else:
                there.charge(remote)
        assert there.sent or processor in ENDS_THERE
        clock.set_offset(timedelta(hours=1, minutes=30))
        state = await look(worker, account)
        assert state.error is None
        assert state.failures == 0
        if facts(processor).sync.by == "events":
            assert state.missed > 0
        if processor in ENDS_THERE:
            assert subscription(str(remote)).status in ("cancelled", "paused")
        else:
            assert sqlite.read_now(paid, account) > before

    try:
        asyncio.run(story())
    finally:
        there.reset()


# By night, and what a look does with what it finds


class Shop(Gateway):
    """A processor that knows these objects, and nothing else."""

    def __init__(self, *records: Record) -> None:
        super().__init__({})
        self.records = {one.remote_id: one for one in records}
        self.asked: list[str] = []
        self.down = False
        self.listed: list[Page] = []
        self.kept: list[Event] | None = None

    async def fetch(self, ref: Ref) -> Snapshot:
        if self.down:
            raise Unavailable("", "It is down.")
        self.asked.append(ref.id)
        if ref.id not in self.records:
            raise Gone("")
        return snapshot(self.records[ref.id])

    async def recent(self, since: datetime, cursor: str | None = None) -> AsyncIterator[Page]:
        for page in self.listed[int(cursor or 0) :]:
            yield page

    async def kept_events(self, since: datetime) -> AsyncIterator[list[Event]]:
        if self.kept is None:
            raise Unsupported("", "Not with these keys.")
        yield self.kept


def snapshot(*records: Record, as_of: datetime | None = None) -> Snapshot:
    def of(kind: type[Record]) -> Any:
        return tuple(one for one in records if isinstance(one, kind))

    return Snapshot(
        as_of=as_of or clock.now(),
        orders=of(OrderRecord),
        subscriptions=of(SubscriptionRecord),
        payments=of(PaymentRecord),
        refunds=of(RefundRecord),
        invoices=of(InvoiceRecord),
    )


@dataclass
class Open:
    """An account with a worker, a processor behind it, and how it is kept."""

    database: Database
    account: models.Account
    worker: work.Worker
    shop: Shop

    def state(self) -> models.SyncState:
        return self.database.read_now(lambda db: db.get_one(models.SyncState, self.account.id))

    def want(self) -> None:
        self.database.write_now(keeping.want, clock.now())

    def run(self, job: Any) -> float | None:
        worker = self.worker

        async def once() -> float | None:
            found: float | None = await job(
                self.database, worker.settings, worker.vault, self.account.id, worker.take
            )
            return found

        return asyncio.run(once())

    def row(self, model: Any, remote: str) -> Any:
        wanted = select(model).where(col(model.remote_id) == remote)
        return self.database.read_now(lambda db: db.execute(wanted).scalar_one())


def opened(database: Database, monkeypatch: pytest.MonkeyPatch, *records: Record, **portal: Any) -> Open:
    shop = Shop(*records)
    monkeypatch.setattr(keeping, "open_gateway", lambda *_, **__: shop)
    account = make_account(database, make_portal(database, **portal), "stripe")
    found = Open(database, account, make_worker(database), shop)
    found.want()
    return found


def pay(remote: str, status: Any = "paid", **fields: Any) -> PaymentRecord:
    return PaymentRecord(remote_id=remote, status=status, amount=Money(500, "EUR"), **fields)


def test_a_night_asks_about_all_that_may_still_change_and_marks_what_is_gone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = opened(
        database,
        monkeypatch,
        OrderRecord(remote_id="o1", status="paid"),
        pay("p1"),
        SubscriptionRecord(remote_id="s1", status="cancelled"),
        RefundRecord(remote_id="r1", status="sent"),
    )
    ana = make_customer(
        database, database.read_now(lambda db: db.get_one(models.Portal, here.account.portal_id))
    )
    make_order(database, here.account, ana, remote_id="o1", status="open")
    make_order(database, here.account, ana, remote_id="o2", status="open")
    make_order(database, here.account, ana, remote_id="o3", status="paid")
    payment = make_payment(database, here.account, ana, remote_id="p1", status="pending")
    make_refund(database, here.account, payment, remote_id="r1", status="pending")
    going = make_subscription(database, here.account, ana, remote_id="s1")
    make_subscription(database, here.account, ana, remote_id="s2", status="expired")
    action = make_action(database, going, phase="checking")
    assert here.run(keeping.night) is None
    assert here.shop.asked == ["o1", "o2", "p1", "r1", "s1"]
    assert here.row(models.Order, "o1").status == "paid"
    assert here.row(models.Payment, "p1").status == "paid"
    assert here.row(models.Refund, "r1").status == "sent"
    assert here.row(models.Subscription, "s1").status == "cancelled"
    gone = here.row(models.Order, "o2")
    assert gone.missing_at is not None
    assert gone.status == "open"
    state = here.state()
    assert (state.missing, state.night, state.night_left) == (1, None, 0)
    assert state.night_done_at is not None
    jobs = database.read_now(lambda db: [(one.kind, one.payload) for one in db.query(models.Job)])
    assert ("read_back", {"action": action.id}) in jobs

    here.shop.records["o2"] = OrderRecord(remote_id="o2", status="paid")
    clock.set_offset(timedelta(days=1))
    here.run(keeping.night)
    again = here.row(models.Order, "o2")
    assert (again.missing_at, again.status) == (None, "paid")


def test_a_night_goes_in_groups_that_are_spread_over_it(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "AT_ONCE", 2)
    here = opened(sqlite, monkeypatch, *(pay(f"p{number}") for number in range(5)))
    for number in range(5):
        make_payment(sqlite, here.account, None, remote_id=f"p{number}", status="pending")
    waits = [here.run(keeping.night) for _ in range(3)]
    assert waits[0] == keeping.SLOWEST_S
    assert waits[2] is None
    assert sorted(here.shop.asked) == [f"p{number}" for number in range(5)]


def test_the_rest_between_groups_is_what_the_night_leaves() -> None:
    at = datetime(2026, 11, 28, 1, 0, tzinfo=UTC)
    assert keeping.pause(at + timedelta(hours=4), 72_000, at) == keeping.QUICKEST_S
    assert keeping.pause(at + timedelta(hours=4), 25 * 96, at) == 150.0
    assert keeping.pause(at + timedelta(hours=4), 0, at) == keeping.SLOWEST_S
    assert keeping.pause(at - timedelta(hours=1), 100, at) == keeping.QUICKEST_S


def test_a_night_begins_at_one_by_the_clock_of_the_portal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "NIGHT", AT_ONE)
    noon = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
    assert keeping.next_night("UTC", 0, noon) == datetime(2026, 11, 29, 1, 0, tzinfo=UTC)
    assert keeping.next_night("Asia/Kolkata", 0, noon) == datetime(2026, 11, 28, 19, 30, tzinfo=UTC)
    assert keeping.next_night("America/New_York", 90, noon) == datetime(2026, 11, 29, 6, 1, 30, tzinfo=UTC)
    summer = datetime(2026, 7, 1, 0, 30, tzinfo=UTC)
    assert keeping.next_night("Europe/Berlin", 0, summer) == datetime(2026, 7, 1, 23, 0, tzinfo=UTC)


def test_where_the_processor_is_down_the_night_goes_on_later(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = opened(sqlite, monkeypatch, pay("p1"))
    make_payment(sqlite, here.account, None, remote_id="p1", status="pending")
    here.shop.down = True
    assert here.run(keeping.night) == keeping.SLOWEST_S
    assert (here.state().failures, here.state().error) == (1, "It is down.")
    here.shop.down = False
    assert here.run(keeping.night) is None
    assert here.row(models.Payment, "p1").status == "paid"


def test_keys_of_another_account_mark_nothing(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    here = opened(sqlite, monkeypatch)
    for number in range(keeping.SUSPICIOUS):
        make_payment(sqlite, here.account, None, remote_id=f"p{number}", status="pending")
    assert here.run(keeping.night) == keeping.SLOWEST_S
    assert "another account" in str(here.state().error)
    assert here.row(models.Payment, "p0").missing_at is None


def test_jobs_come_when_they_are_due_and_one_at_a_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = opened(database, monkeypatch)

    def jobs(db: Session) -> list[tuple[str, bool]]:
        return sorted((one.kind, one.done_at is not None) for one in db.query(models.Job))

    assert database.read_now(jobs) == []
    clock.set_offset(timedelta(minutes=16))
    here.want()
    here.want()
    assert database.read_now(jobs) == [("sync", False)]
    clock.set_offset(timedelta(minutes=32))
    here.want()
    assert database.read_now(jobs) == [("sync", False)]
    asyncio.run(here.worker.drain())
    assert database.read_now(jobs) == [("sync", True)]
    clock.set_offset(timedelta(days=2))
    here.want()
    assert database.read_now(jobs) == [("night", False), ("sync", False)]


def test_an_account_that_was_disconnected_is_kept_no_more(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = opened(sqlite, monkeypatch)
    here.account.disconnected_at = clock.now()
    save(sqlite, here.account)
    clock.set_offset(timedelta(hours=1))
    here.want()
    assert sqlite.read_now(lambda db: db.query(models.SyncState).count()) == 0
    assert here.run(keeping.look) is None


def test_kept_events_are_stored_once_and_handled_like_deliveries(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = opened(sqlite, monkeypatch, pay("p1"))
    make_payment(
        sqlite, here.account, None, remote_id="p1", status="pending", placed_at=NOW - timedelta(days=30)
    )
    came = Event("e1", "charge.succeeded", Ref("payment", "p1"), clock.now() - timedelta(hours=1))
    lost = Event("e2", "charge.succeeded", Ref("payment", "p1"), clock.now() - timedelta(hours=1))
    under_way = Event("e3", "charge.succeeded", Ref("payment", "p1"), clock.now())
    sqlite.write_now(webhooks.store, here.account, [came], [], b"{}", clock.now())
    here.shop.kept = [came, lost, under_way]
    for _ in range(2):
        assert here.run(keeping.look) is None
    rows = sqlite.read_now(
        lambda db: {one.event_id: one.asked_at is not None for one in db.query(models.Event)}
    )
    assert rows == {"e1": False, "e2": True, "e3": True}
    assert here.state().missed == 1
    sqlite.write_now(webhooks.store, here.account, [under_way], [], b"{}", clock.now())
    jobs = sqlite.read_now(
        lambda db: [one.payload["id"] for one in db.query(models.Job) if one.kind == "event"]
    )
    assert sorted(jobs) == ["e1", "e2", "e3"]


def test_without_the_right_to_read_events_the_lists_are_read_in_turns(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "PAGES", 2)
    here = opened(sqlite, monkeypatch)
    here.shop.listed = [
        Page(snapshot(pay(f"p{number}")), str(number + 1) if number < 4 else None) for number in range(5)
    ]
    assert [here.run(keeping.look) for _ in range(3)] == [1.0, 1.0, None]
    assert sqlite.read_now(lambda db: db.query(models.Payment).count()) == 5
    assert here.state().walk is None


def test_a_look_asks_about_what_is_open_in_turns_and_leaves_the_old_to_the_night(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "ROWS", 2)
    here = opened(sqlite, monkeypatch, *(pay(f"p{number}", "pending") for number in range(3)))
    here.shop.kept = []
    for number in range(3):
        make_payment(
            sqlite, here.account, None, remote_id=f"p{number}", status="pending", placed_at=clock.now()
        )
    make_payment(sqlite, here.account, None, remote_id="old", status="pending")
    for _ in range(2):
        here.run(keeping.look)
    assert here.shop.asked == ["p0", "p1", "p2", "p0"]


def test_a_look_that_fails_is_tried_again_later_each_time(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = opened(sqlite, monkeypatch, pay("p1"))
    make_payment(sqlite, here.account, None, remote_id="p1", status="pending", placed_at=clock.now())
    here.shop.down = True
    waits = []
    for _ in range(8):
        assert here.run(keeping.look) is None
        waits.append(round((here.state().next_at - clock.now()).total_seconds() / 60))
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]
    here.shop.down = False
    here.shop.kept = []
    here.run(keeping.look)
    assert (here.state().failures, here.state().error) == (0, None)


def test_an_old_failure_that_is_only_learned_now_is_mailed_to_nobody(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = opened(sqlite, monkeypatch)
    old, new = clock.now() - timedelta(days=30), clock.now() - timedelta(hours=1)
    here.shop.listed = [
        Page(snapshot(pay("p1", "failed", created_at=old), pay("p2", "failed", created_at=new)), None)
    ]
    here.run(keeping.look)
    mails = sqlite.read_now(lambda db: [one.payload for one in db.query(models.Job) if one.kind == "mail"])
    assert [mail["payment"] for mail in mails] == [here.row(models.Payment, "p2").id]


# What has ended

WORDS = [
    (model, record, word)
    for model, record in (
        (models.Order, OrderRecord),
        (models.Subscription, SubscriptionRecord),
        (models.Payment, PaymentRecord),
        (models.Refund, RefundRecord),
        (models.Invoice, InvoiceRecord),
    )
    for word in sorted(sync.ENDED[model])
]
ALIVE = {
    "order_": "open",
    "subscription": "active",
    "payment": "paid",
    "refund": "pending",
    "invoice": "open",
}


@pytest.fixture(scope="module")
def shared(
    empty_sqlite: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Database, models.Account]]:
    path = tmp_path_factory.mktemp("ended") / "portal.db"
    shutil.copy(empty_sqlite, path)
    database = Database(f"sqlite:///{path}", threads=2)
    yield database, make_account(database, make_portal(database))
    database.dispose()


@pytest.mark.parametrize(("model", "record", "word"), WORDS, ids=[f"{m.__name__}-{w}" for m, _, w in WORDS])
def test_what_has_ended_comes_back_only_by_a_fetch(
    shared: tuple[Database, models.Account], model: Any, record: Any, word: str
) -> None:
    database, account = shared
    alive, remote = ALIVE[model.__tablename__], f"{model.__name__}-{word}"
    extra = {"refunded": Money(0, "EUR")} if record is PaymentRecord else {}

    def said(status: str, minutes: int, fetched: bool) -> Any:
        at = NOW + timedelta(minutes=minutes)
        told = snapshot(record(remote_id=remote, status=status, raw_status=status, **extra), as_of=at)
        database.write_now(sync.apply, account, told, fetched)
        row = database.read_now(
            lambda db: db.execute(select(model).where(col(model.remote_id) == remote)).scalar_one()
        )
        return row.status, row.raw_status, row.doubted_at

    assert said(alive, 0, False) == (alive, alive, None)
    assert said(word, 10, False) == (word, word, None)
    assert said(alive, 5, True) == (word, word, None)  # older
    assert said(alive, 20, False) == (word, word, NOW + timedelta(minutes=20))
    assert said(alive, 30, False) == (word, word, NOW + timedelta(minutes=20))
    assert said(alive, 15, True)[2] == NOW + timedelta(minutes=20)  # asked before it was contradicted
    assert said(word, 40, True) == (word, word, None)
    assert said(alive, 50, False)[0] == word
    assert said(alive, 60, True) == (alive, alive, None)


def test_a_list_that_contradicts_an_end_has_the_next_look_ask(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = opened(sqlite, monkeypatch, SubscriptionRecord(remote_id="s1", status="active"))
    here.shop.kept = []
    make_subscription(sqlite, here.account, None, remote_id="s1", status="cancelled")
    sqlite.write_now(
        sync.apply, here.account, snapshot(SubscriptionRecord(remote_id="s1", status="active")), False
    )
    assert here.row(models.Subscription, "s1").status == "cancelled"
    here.run(keeping.look)
    again = here.row(models.Subscription, "s1")
    assert (again.status, again.doubted_at) == ("active", None)


def test_a_list_that_is_read_in_part_makes_nothing_younger(shared: tuple[Database, models.Account]) -> None:
    database, account = shared
    row = models.Order

    def said(days: int, fetched: bool) -> datetime | None:
        record = OrderRecord(remote_id="part", status="paid", created_at=NOW + timedelta(days=days))
        database.write_now(sync.apply, account, snapshot(record), fetched)
        wanted = select(col(row.created_at)).where(col(row.remote_id) == "part")
        return database.read_now(lambda db: db.execute(wanted).scalar_one())

    assert said(0, False) == NOW
    assert said(9, False) == NOW
    assert said(-9, False) == NOW - timedelta(days=9)
    assert said(5, True) == NOW + timedelta(days=5)


def test_a_refund_that_only_we_summed_up_is_no_contradiction(shared: tuple[Database, models.Account]) -> None:
    database, account = shared
    silent = frozenset({"status", "amount"})
    paid_ = PaymentRecord(remote_id="summed", status="paid", amount=Money(500, "EUR"), knows=silent)
    back = RefundRecord(remote_id="summed-r", status="sent", payment="summed", amount=Money(500, "EUR"))
    database.write_now(sync.apply, account, snapshot(paid_, back), False)
    database.write_now(sync.apply, account, snapshot(paid_), False)
    row = models.Payment
    found = database.read_now(
        lambda db: db.execute(select(row).where(col(row.remote_id) == "summed")).scalar_one()
    )
    assert (found.status, found.doubted_at) == ("refunded", None)


# Reads


def test_what_may_still_change_is_read_by_its_index(database: Database) -> None:
    account = make_account(database, make_portal(database))
    paid = make_payment(database, account, None)
    ended = [
        paid,
        make_order(database, account, None, status="paid"),
        make_refund(database, account, paid),
        make_subscription(database, account, None, status="cancelled"),
    ]

    def have_many(db: Session) -> None:
        """Most rows have come to their end, as in life; on a handful any index is as good."""
        for row in ended:
            table = type(row).__table__  # type: ignore[attr-defined]
            values = {c.name: getattr(row, c.key) for c in table.columns if c.name not in ("id", "remote_id")}
            db.execute(insert(table), [{**values, "remote_id": f"r{number}"} for number in range(300)])

    database.write_now(have_many)

    for name in keeping.DOUBTFUL:
        for everything in (True, False):
            found = plan(database, keeping._doubtful(name, account.id, 0, 25, everything, NOW))
            doubted = name == "subscription" and not everything
            assert uses(found, f"ix_{name.rstrip('_')}_{'doubted' if doubted else 'in_doubt'}"), found
            assert not wholes(found), found
            assert not sorts(found), found


def test_the_default_look_at_lists_leaves_each_where_it_is_old() -> None:
    old, new = NOW - timedelta(days=9), NOW

    class Listed(Gateway):
        pages = [("a", new), ("a", old), ("a", old), ("b", old), ("b", old), ("c", new), ("c", new)]

        def __init__(self) -> None:
            super().__init__({})
            self.pages_read: list[int] = []

        def lists(self) -> list[str]:
            return [json.dumps(["a", 0]), json.dumps(["b", 3]), json.dumps(["c", 5])]

        async def backfill(self, cursor: str | None = None) -> AsyncIterator[Page]:
            at = json.loads(cursor)[1] if cursor else 0
            for number in range(at, len(self.pages)):
                self.pages_read.append(number)
                following = number + 1
                end = following == len(self.pages)
                going = None if end else json.dumps([self.pages[following][0], following])
                yield Page(snapshot(pay(f"p{number}", created_at=self.pages[number][1])), going)

    async def walk(shop: Listed, cursor: str | None = None, most: int = 99) -> str | None:
        async for page in shop.recent(NOW - timedelta(hours=2), cursor):
            cursor, most = page.cursor, most - 1
            if not most:
                break
        return cursor

    whole = Listed()
    assert asyncio.run(walk(whole)) is None
    assert whole.pages_read == [0, 1, 3, 5, 6]
    parts = Listed()
    place: str | None = None
    for most in (2, 2, 99):
        place = asyncio.run(walk(parts, place, most))
    assert place is None
    assert parts.pages_read == [0, 1, 3, 5, 6]
