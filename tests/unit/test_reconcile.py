"""Comparing an account with its processor: each kind of difference, and nothing changed unless it is asked for."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, models, reconcile, sync, work
from portal.db import Database
from portal.gateways.base import (
    CustomerRecord,
    Gateway,
    Gone,
    NextPayment,
    OrderRecord,
    Page,
    PaymentRecord,
    Record,
    Ref,
    RefundRecord,
    Snapshot,
    SubscriptionRecord,
    Unsupported,
)
from portal.money import Money
from portal.reconcile import Difference, compare
from tests.unit.builders import make_account, make_portal

AT = datetime(2026, 11, 1, 9, 0, tzinfo=UTC)
TEN = Money(1000, "EUR")


class Shop(Gateway):
    """A processor with these objects in its lists; `alone` are only found by asking."""

    def __init__(self, *listed: Record, alone: tuple[Record, ...] = (), askable: bool = True) -> None:
        super().__init__({})
        self.listed, self.alone, self.askable = list(listed), list(alone), askable
        self.asked: list[Ref] = []

    async def backfill(self, cursor: str | None = None) -> AsyncIterator[Page]:
        for number, one in enumerate(self.listed):
            last = number + 1 == len(self.listed)
            yield Page(snapshot(one), None if last else str(number + 1))

    async def fetch(self, ref: Ref) -> Snapshot:
        self.asked.append(ref)
        if not self.askable:
            raise Unsupported("", "")
        for one in (*self.alone, *self.listed):
            if one.remote_id == ref.id:
                return snapshot(one)
        raise Gone("")


def snapshot(*records: Record) -> Snapshot:
    def of(kind: type[Record]) -> Any:
        return tuple(one for one in records if isinstance(one, kind))

    return Snapshot(
        as_of=clock.now(),
        customers=of(CustomerRecord),
        orders=of(OrderRecord),
        subscriptions=of(SubscriptionRecord),
        payments=of(PaymentRecord),
        refunds=of(RefundRecord),
    )


def order(remote: str = "o1", **fields: Any) -> OrderRecord:
    return OrderRecord(
        **{
            "remote_id": remote,
            "email": "ana@example.com",
            "status": "paid",
            "amount": TEN,
            "created_at": AT,
            **fields,
        }
    )


def payment(remote: str = "p1", **fields: Any) -> PaymentRecord:
    return PaymentRecord(
        **{"remote_id": remote, "status": "paid", "amount": TEN, "order": "o1", "created_at": AT, **fields}
    )


def subscription(remote: str = "s1", **fields: Any) -> SubscriptionRecord:
    following = NextPayment(date(2026, 12, 1), TEN, "fixed")
    return SubscriptionRecord(
        **{
            "remote_id": remote,
            "email": "ana@example.com",
            "status": "active",
            "next_payment": following,
            "created_at": AT,
            **fields,
        }
    )


def learned(database: Database, *records: Record) -> models.Account:
    """An account of which these records are known."""
    account = make_account(database, make_portal(database), "stripe")
    database.write_now(sync.apply, account, snapshot(*records))
    return account


def run(database: Database, account: models.Account, shop: Shop, fix: bool = False) -> reconcile.Result:
    async def take(account: models.Account, snapshot: Snapshot, fetched: bool) -> None:
        await database.write(work.taken, account, snapshot, fetched, clock.now())

    return asyncio.run(reconcile.run(database, shop, account, take if fix else None))


def found(result: reconcile.Result) -> list[tuple[str, str, str, str | None, Any, Any]]:
    return [(one.what, one.kind, one.remote_id, one.field, one.here, one.there) for one in result.differences]


def test_compare_is_silent_where_both_agree() -> None:
    assert compare("order", "o1", {"id": 1, "status": "paid", "title": "Tea"}, {"status": "paid"}, True) == []
    assert compare("order", "o1", None, None, True) == []


def test_compare_tells_each_field_that_differs() -> None:
    here = {"id": 7, "status": "open", "amount_minor": 5, "next_on": date(2026, 12, 1)}
    there = {"status": "paid", "amount_minor": 6, "next_on": date(2026, 12, 1)}
    assert compare("order", "o1", here, there, True) == [
        Difference("differs", "order", "o1", 7, "amount_minor", 5, 6),
        Difference("differs", "order", "o1", 7, "status", "open", "paid"),
    ]


def test_compare_tells_what_stands_on_one_side_alone() -> None:
    assert compare("order", "o1", None, {"status": "paid"}, True) == [Difference("only_there", "order", "o1")]
    here = {"id": 7, "missing_at": None}
    assert compare("order", "o1", here, None, True) == [Difference("only_here", "order", "o1", 7)]
    assert compare("order", "o1", here, None, False) == [Difference("unknown", "order", "o1", 7)]
    assert compare("order", "o1", {"id": 7, "missing_at": AT}, None, True) == []


def test_nothing_differs_after_everything_was_learned(database: Database) -> None:
    everything = (
        order(),
        payment(),
        subscription(),
        RefundRecord(remote_id="r1", status="sent", payment="p1", amount=TEN),
    )
    account = learned(database, *everything)
    result = run(database, account, Shop(*everything))
    assert (found(result), result.compared) == ([], 4)


def test_a_status_that_was_missed_is_told_field_by_field_and_left_as_it_is(sqlite: Database) -> None:
    account = learned(sqlite, order(status="open"), payment(status="pending"))
    result = run(sqlite, account, Shop(order(), payment()))
    assert found(result) == [
        ("differs", "order", "o1", "status", "open", "paid"),
        ("differs", "payment", "p1", "status", "pending", "paid"),
    ]
    status = sqlite.read_now(lambda db: db.execute(select(col(models.Order.status))).scalar_one())
    assert status == "open"


def test_what_stands_on_one_side_alone_is_told(sqlite: Database) -> None:
    account = learned(sqlite, order(), order("o2"))
    result = run(sqlite, account, Shop(order(), order("o3")))
    assert found(result) == [
        ("only_here", "order", "o2", None, None, None),
        ("only_there", "order", "o3", None, None, None),
    ]


def test_a_row_that_no_list_shows_is_asked_for(sqlite: Database) -> None:
    account = learned(sqlite, order(), order("o2", status="open"))
    shop = Shop(order(), alone=(order("o2", status="expired"),))
    assert found(run(sqlite, account, shop)) == [("differs", "order", "o2", "status", "open", "expired")]
    assert [ref.id for ref in shop.asked] == ["o2"]


def test_what_can_be_neither_listed_nor_asked_for_is_no_fault(sqlite: Database) -> None:
    account = learned(sqlite, order())
    result = run(sqlite, account, Shop(askable=False))
    assert [one.what for one in result.differences] == ["unknown"]
    assert result.faults == []


def test_a_rough_list_is_no_difference_where_the_object_says_the_same(sqlite: Database) -> None:
    account = learned(sqlite, subscription())
    rough = subscription(next_payment=NextPayment(date(2026, 12, 1), Money(999, "EUR"), "estimated"))
    assert found(run(sqlite, account, Shop(rough, alone=(subscription(),)))) == []


def test_a_list_that_is_silent_on_a_field_is_no_difference(sqlite: Database) -> None:
    account = learned(sqlite, order(title="Tea"))
    assert found(run(sqlite, account, Shop(order(knows=frozenset({"status", "amount"}))))) == []


def test_what_is_promised_here_is_no_difference(sqlite: Database) -> None:
    account = learned(sqlite, subscription())

    def promise(db: Session) -> None:
        row = db.execute(select(models.Subscription)).scalar_one()
        row.status, row.promised_until = "cancels_at_period_end", clock.now() + timedelta(days=3)
        row.next_on = row.next_minor = row.next_certainty = None

    sqlite.write_now(promise)
    assert found(run(sqlite, account, Shop(subscription()))) == []


def test_fix_writes_what_the_processor_has_and_marks_what_it_does_not_know(database: Database) -> None:
    account = learned(database, order(status="open"), order("o2"), subscription(status="cancelled"))
    shop = Shop(order(), order("o3"), subscription())
    assert run(database, account, shop, fix=True).fixed == 4

    def rows(db: Session) -> dict[str, tuple[str, bool]]:
        orders = db.execute(select(models.Order)).scalars()
        return {one.remote_id: (one.status, one.missing_at is not None) for one in orders}

    assert database.read_now(rows) == {"o1": ("paid", False), "o2": ("paid", True), "o3": ("paid", False)}
    assert (
        database.read_now(lambda db: db.execute(select(col(models.Subscription.status))).scalar_one())
        == "active"
    )
    assert run(database, account, shop).faults == []


def test_fix_takes_from_the_list_what_cannot_be_asked_for(sqlite: Database) -> None:
    account = learned(sqlite, order())
    shop = Shop(order(), order("o3", status="open"), askable=False)
    assert run(sqlite, account, shop, fix=True).fixed == 1
    assert run(sqlite, account, shop).faults == []


def test_the_count_is_kept(sqlite: Database) -> None:
    account = learned(sqlite, order(status="open"))
    state = models.SyncState(
        account_id=account.id, portal_id=account.portal_id, since=AT, next_at=AT, night_at=AT
    )
    sqlite.write_now(lambda db: db.add(state))
    result = run(sqlite, account, Shop(order()))
    sqlite.write_now(reconcile.note, account, result, AT)
    kept = sqlite.read_now(lambda db: db.get_one(models.SyncState, account.id))
    assert (kept.differences, kept.compared_at) == (1, AT)


def test_the_words() -> None:
    differences = (
        Difference("differs", "order", "o1", 7, "status", "open", "paid"),
        Difference("only_there", "order", "o3"),
    )
    result = reconcile.Result(differences, 12)
    assert reconcile.as_text(result) == (
        "order o1 (row 7): status is 'open' here, 'paid' at the processor\n"
        "order o3: at the processor, and not here\n"
        "12 objects compared, 2 differences."
    )
    told = json.loads(reconcile.as_json(result))
    assert told["differences"][0] | {"field": "status"} == told["differences"][0]
