"""Snapshots become rows: newest wins field by field, whatever the order of arrival."""

import secrets
from datetime import date, datetime, timedelta
from math import prod
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session

from portal import models, sync
from portal.db import Database
from portal.gateways.base import (
    CustomerRecord,
    Interval,
    InvoiceRecord,
    Line,
    Method,
    NextPayment,
    OrderRecord,
    PaymentRecord,
    RefundRecord,
    Snapshot,
    SubscriptionRecord,
)
from portal.money import Money
from tests.unit.builders import NOW, make_account, make_portal
from tests.unit.plans import reads_little


def at(minutes: int) -> datetime:
    return NOW + timedelta(minutes=minutes)


def six() -> list[Snapshot]:
    """Six words of a processor on one person, one subscription, its order and its payment; some speak of little."""
    some = frozenset({"status", "method"})
    return [
        Snapshot(
            as_of=at(1), customers=(CustomerRecord(remote_id="cus_1", email="Ana@Example.com", name="Ana"),)
        ),
        Snapshot(
            as_of=at(2),
            subscriptions=(
                SubscriptionRecord(
                    remote_id="sub_1",
                    status="active",
                    customer="cus_1",
                    title="Coffee box",
                    amount=Money(2400, "USD"),
                    interval=Interval("month"),
                    next_payment=NextPayment(date(2026, 12, 1), Money(2400, "USD"), "fixed"),
                    method=Method("card", "Visa", "4242", "2027-01", "pm_1"),
                    created_at=at(-500),
                ),
            ),
        ),
        Snapshot(
            as_of=at(3),
            subscriptions=(
                SubscriptionRecord(
                    remote_id="sub_1", knows=some, status="past_due", method=Method("card", last4="0002")
                ),
            ),
            payments=(
                PaymentRecord(
                    remote_id="ch_1",
                    status="failed",
                    amount=Money(2400, "USD"),
                    subscription="sub_1",
                    order="m_1",
                    created_at=at(3),
                ),
            ),
        ),
        Snapshot(
            as_of=at(4),
            payments=(
                PaymentRecord(
                    remote_id="ch_1", knows=frozenset({"status", "refunded"}), status="paid", refunded=None
                ),
            ),
            orders=(
                OrderRecord(
                    remote_id="m_1",
                    status="paid",
                    email="ana@example.com",
                    knows=frozenset({"status", "email", "lines"}),
                    lines=(Line("Beans", 2, Money(2400, "USD")),),
                ),
            ),
        ),
        Snapshot(
            as_of=at(5),
            subscriptions=(
                SubscriptionRecord(
                    remote_id="sub_1",
                    knows=frozenset({"status", "cancels_at"}),
                    status="active",
                    cancels_at=None,
                ),
            ),
            refunds=(
                RefundRecord(remote_id="re_1", status="sent", payment="ch_1", amount=Money(400, "USD")),
            ),
        ),
        Snapshot(
            as_of=at(6),
            subscriptions=(
                SubscriptionRecord(
                    remote_id="sub_1",
                    knows=frozenset({"status", "cancels_at"}),
                    status="cancels_at_period_end",
                    cancels_at=at(9000),
                ),
            ),
            invoices=(InvoiceRecord(remote_id="in_1", status="paid", payment="ch_1", document=True),),
        ),
    ]


def test_all_720_orders_of_six_events_end_equal(database: Database) -> None:
    account = make_account(database, make_portal(database))
    # The code is the same on both: every order on SQLite, every twelfth on PostgreSQL.
    most = (6, 5, 4, 3, 2, 1) if database.is_sqlite else (6, 5, 2, 1, 1, 1)
    ends: list[str] = []

    def walk(db: Session, told: tuple[Snapshot, ...], left: tuple[Snapshot, ...]) -> None:
        """Each of those that are left comes next, and is then as if it had never been told."""
        if not left:
            db.expire_all()
            ends.append(_picture(db, account))
            assert ends[-1] == ends[0], f"otherwise after {[snapshot.as_of for snapshot in told]}"
        for number in range(most[len(told)] if left else 0):
            kept = db.begin_nested()
            sync.apply(db, account, left[number])
            db.flush()
            walk(db, (*told, left[number]), (*left[:number], *left[number + 1 :]))
            kept.rollback()
            db.expire_all()

    database.write_now(walk, (), tuple(six()))
    assert len(ends) == prod(most)
    assert "cancels_at_period_end" in ends[0]
    assert "ana@example.com" in ends[0]


@pytest.mark.usefixtures("sqlite_only")
def test_what_a_page_is_written_by_never_reads_all_of_an_account(database: Database) -> None:
    account = make_account(database, make_portal(database))

    def tell(db: Session) -> None:
        row = db.get_one(models.Account, account.id)
        for snapshot in six():
            sync.apply(db, row, snapshot)

    def settle(db: Session, number: int) -> None:
        sync.settle(db, db.get_one(models.Account, account.id), db.get_one(models.RemoteCustomer, number))

    database.write_now(tell)
    ids = database.read_now(
        lambda db: [row.id for row in db.execute(select(models.RemoteCustomer)).scalars()]
    )
    with reads_little(database) as plans:
        database.write_now(tell)
        database.write_now(settle, ids[0])
    for index in ("payment_remote_customer", "payment_subscription", "payment_order"):
        assert any(f"ix_{index} " in line for line in plans)


def _picture(db: Session, account: models.Account) -> str:
    lines = []
    for model in models.MIRRORED:
        for row in db.execute(select(model).where(model.account_id == account.id)).scalars():  # type: ignore[arg-type]
            values = row.model_dump(exclude={"id", "account_id"})
            person = db.get(models.Customer, row.customer_id) if row.customer_id else None
            values["customer_id"] = person.email if person else None
            lines.append(f"{model.__name__} {sorted(values.items(), key=lambda pair: pair[0])}")
    return "\n".join(sorted(lines))


def test_the_same_snapshot_twice_changes_nothing(database: Database) -> None:
    account = make_account(database, make_portal(database))
    for snapshot in six():
        database.write_now(sync.apply, account, snapshot)
    once = database.read_now(_picture, account)
    for snapshot in six():
        database.write_now(sync.apply, account, snapshot)
    assert database.read_now(_picture, account) == once


@given(
    words=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(["active", "past_due", "paused", "cancelled"]),
            st.sets(st.sampled_from(["status", "title", "cancels_at"]), min_size=1),
            st.sampled_from(["Box", "Crate", None]),
        ),
        min_size=2,
        max_size=5,
    ),
    data=st.data(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_words_in_any_order_end_equal_even_at_the_same_moment(
    database: Database, words: list[Any], data: st.DataObject
) -> None:
    portal = make_portal(database, slug=secrets.token_hex(8))
    snapshots = [
        Snapshot(
            as_of=at(minute),
            subscriptions=(
                SubscriptionRecord(
                    remote_id="s", status=status, title=title, knows=frozenset(knows), cancels_at=at(minute)
                ),
            ),
        )
        for minute, status, knows, title in words
    ]
    pictures = set()
    for order in (snapshots, snapshots[::-1], data.draw(st.permutations(snapshots))):
        account = make_account(database, portal)
        for snapshot in order:
            database.write_now(sync.apply, account, snapshot)
        pictures.add(database.read_now(_picture, account))
    assert len(pictures) == 1


def one(database: Database, model: Any, *where: Any) -> Any:
    return database.read_now(lambda db: db.execute(select(model).where(*where)).scalar_one())


def test_older_snapshot_never_overwrites_a_newer_one(database: Database) -> None:
    account = make_account(database, make_portal(database))
    new = Snapshot(as_of=at(9), subscriptions=(SubscriptionRecord(remote_id="s", status="cancelled"),))
    old = Snapshot(as_of=at(1), subscriptions=(SubscriptionRecord(remote_id="s", status="active"),))
    database.write_now(sync.apply, account, new)
    database.write_now(sync.apply, account, old)
    assert one(database, models.Subscription).status == "cancelled"


def test_unknown_status_keeps_the_last_known_one(database: Database) -> None:
    account = make_account(database, make_portal(database))
    known = Snapshot(as_of=at(1), payments=(PaymentRecord(remote_id="p", status="paid"),))
    odd = Snapshot(as_of=at(2), payments=(PaymentRecord(remote_id="p", raw_status="MARS"),))
    database.write_now(sync.apply, account, known)
    database.write_now(sync.apply, account, odd)
    row = one(database, models.Payment)
    assert (row.status, row.raw_status) == ("paid", "MARS")


def test_a_payment_without_address_follows_its_order(database: Database) -> None:
    account = make_account(database, make_portal(database), "payfast")
    payment = PaymentRecord(remote_id="77", status="paid", order="SO-7", amount=Money(100, "ZAR"))
    database.write_now(sync.apply, account, Snapshot(as_of=at(1), payments=(payment,)))
    assert one(database, models.Payment).customer_id is None
    order = OrderRecord(remote_id="SO-7", status="paid", email="ana@example.com")
    database.write_now(sync.apply, account, Snapshot(as_of=at(2), orders=(order,)))
    assert one(database, models.Payment).customer_id == one(database, models.Customer).id


def test_rows_follow_the_processors_record_when_it_comes_late_or_changes_its_address(
    database: Database,
) -> None:
    account = make_account(database, make_portal(database))
    order = OrderRecord(remote_id="o", status="paid", customer="cus_1", email="typed@example.com")
    database.write_now(sync.apply, account, Snapshot(as_of=at(1), orders=(order,)))
    for minute, email in ((2, "ana@example.com"), (3, "new@example.com")):
        record = CustomerRecord(remote_id="cus_1", email=email)
        database.write_now(sync.apply, account, Snapshot(as_of=at(minute), customers=(record,)))
        row = one(database, models.Order)
        person = one(database, models.Customer, models.Customer.id == row.customer_id)
        assert person.email == email


@pytest.mark.parametrize("email", ["", "   ", "nobody", "two words@example.com", "a@b" + "c" * 260, None])
def test_what_is_no_address_makes_no_person(database: Database, email: str | None) -> None:
    account = make_account(database, make_portal(database))
    order = OrderRecord(remote_id="o", status="paid", email=email)
    database.write_now(sync.apply, account, Snapshot(as_of=at(1), orders=(order,)))
    assert one(database, models.Order).customer_id is None
    assert database.read_now(lambda db: db.execute(select(models.Customer)).first()) is None


def test_two_portals_with_one_address_are_two_people(database: Database) -> None:
    for slug in ("acme", "kora"):
        account = make_account(database, make_portal(database, slug))
        order = OrderRecord(remote_id="o", status="paid", email="ana@example.com")
        database.write_now(sync.apply, account, Snapshot(as_of=at(1), orders=(order,)))
    people = database.read_now(lambda db: db.execute(select(models.Customer)).scalars().all())
    assert len(people) == 2
    assert len({person.portal_id for person in people}) == 2
