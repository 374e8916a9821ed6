"""The reads behind the screens: whose rows, in which order, page by page, and by which index."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Select

from portal import models, queries
from portal.db import Database
from portal.queries import Cursor
from tests.unit.builders import (
    NOW,
    copy,
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
from tests.unit.plans import plan, sorts, uses, wholes


class People:
    """Ana of one portal, a second customer beside her, and a stranger of another portal."""

    def __init__(self, database: Database) -> None:
        self.portal = make_portal(database)
        self.account = make_account(database, self.portal)
        self.ana = make_customer(database, self.portal)
        self.ben = make_customer(database, self.portal, "ben@example.com")
        self.other = make_portal(database, "kora", name="Kora")
        self.others_account = make_account(database, self.other)
        self.stranger = make_customer(database, self.other, "ana@example.com")


@pytest.fixture
def people(database: Database) -> People:
    return People(database)


# The cursor


moments = st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))


@given(moments, st.integers(0, 2**63 - 1))
def test_cursor_makes_the_round_trip(moment: datetime, row_id: int) -> None:
    cursor = Cursor(moment, row_id)
    assert Cursor.parse(str(cursor)) == cursor
    assert len(str(cursor)) == 22


@given(st.one_of(st.text(), st.binary(min_size=16, max_size=16).map(lambda raw: raw.hex())))
def test_a_strange_cursor_is_none_and_never_an_error(text: str) -> None:
    found = Cursor.parse(text)
    assert found is None or str(found) == text


@pytest.mark.parametrize("text", ["", "x", "A" * 22, "_" * 22, "é" * 22, "f" * 22, "A" * 500, "AAAA\n"])
def test_damaged_cursors(text: str) -> None:
    found = Cursor.parse(text)
    assert found is None or str(found) == text


# Orders


def test_orders_come_newest_first_25_at_a_time_and_none_twice(database: Database, people: People) -> None:
    for number in range(60):
        # Three at the same moment: the id decides between them.
        make_order(
            database,
            people.account,
            people.ana,
            number=str(number),
            placed_at=NOW + timedelta(days=number // 3),
        )
    seen: list[Any] = []
    cursor = None
    sizes = []
    while True:
        page = database.read_now(queries.orders, people.portal.id, people.ana.id, cursor)
        seen += page.rows
        sizes.append(len(page.rows))
        if page.older is None:
            break
        cursor = Cursor.parse(page.older)
        assert cursor is not None
    assert sizes == [25, 25, 10]
    assert len({row.id for row in seen}) == 60
    assert seen == sorted(seen, key=lambda row: (row.placed_at, row.id), reverse=True)


def test_exactly_25_orders_are_one_page(database: Database, people: People) -> None:
    for _ in range(25):
        make_order(database, people.account, people.ana)
    page = database.read_now(queries.orders, people.portal.id, people.ana.id)
    assert (len(page.rows), page.older) == (25, None)


def test_nobody_sees_anothers_orders(database: Database, people: People) -> None:
    order = make_order(database, people.account, people.ana)
    make_order(database, people.account, None)  # not anybody's yet
    for portal, who in (
        (people.portal, people.ben),
        (people.other, people.stranger),
        (people.other, people.ana),
        (people.portal, people.stranger),
    ):
        assert database.read_now(queries.orders, portal.id, who.id).rows == ()
        assert database.read_now(queries.order, portal.id, who.id, order.id) is None
    assert len(database.read_now(queries.orders, people.portal.id, people.ana.id).rows) == 1


def test_two_currencies_on_a_page_are_noticed(database: Database, people: People) -> None:
    make_order(database, people.account, people.ana)
    assert not database.read_now(queries.orders, people.portal.id, people.ana.id).mixed
    make_order(database, people.account, people.ana, currency="JPY")
    assert database.read_now(queries.orders, people.portal.id, people.ana.id).mixed


# One order


def order_page(database: Database, people: People, order: models.Order) -> queries.OrderPage:
    page = database.read_now(queries.order, people.portal.id, people.ana.id, order.id)
    assert page is not None
    return page


def test_an_order_with_its_payments_refunds_and_timeline(database: Database, people: People) -> None:
    order = make_order(
        database, people.account, people.ana, placed_at=NOW - timedelta(days=9), subscription_remote="sub_1"
    )
    make_payment(
        database,
        people.account,
        people.ana,
        order_remote=order.remote_id,
        status="failed",
        failure_reason="Your bank declined the card.",
        placed_at=NOW - timedelta(days=8),
        paid_at=None,
    )
    paid = make_payment(
        database,
        people.account,
        people.ana,
        order_remote=order.remote_id,
        status="partially_refunded",
        refunded_minor=1000,
        placed_at=NOW - timedelta(days=7),
        paid_at=NOW - timedelta(days=7),
    )
    make_payment(database, people.account, people.ana)  # of something else
    make_refund(
        database, people.account, paid, amount_minor=1000, placed_at=NOW - timedelta(days=5), reason="Damaged"
    )
    make_invoice(
        database,
        people.account,
        people.ana,
        payment_remote=paid.remote_id,
        placed_at=NOW - timedelta(days=6),
        number="A-1",
    )
    subscription = make_subscription(database, people.account, people.ana, remote_id="sub_1")
    save(
        database,
        models.Action(
            portal_id=people.portal.id,
            account_id=people.account.id,
            customer_id=people.ana.id,
            subscription_id=subscription.id,
            capability="cancel_now",
            reference="K7M-2QX",
            params={},
            phase="confirmed",
            created_at=NOW,
            confirmed_at=NOW,
            closed_at=NOW,
        ),
    )
    page = order_page(database, people, order)
    assert [payment.status for payment in page.payments] == ["failed", "partially_refunded"]
    assert [refund.amount_minor for refund in page.payments[1].refunds] == [1000]
    assert page.payments[1].has_file
    assert page.totals == (("total", 2400), ("refunded", -1000))
    assert [(entry.what, entry.detail) for entry in page.timeline] == [
        ("placed", None),
        ("failed", "Your bank declined the card."),
        ("paid", None),
        ("invoice", "A-1"),
        ("refund_sent", "Damaged"),
        ("cancel_now", "K7M-2QX"),
    ]


@pytest.mark.parametrize(
    ("fields", "totals"),
    [
        ({}, [("total", 2400)]),
        ({"tax_minor": 400}, [("total", 2400), ("tax_included", 400)]),
        (
            {"amount_minor": 2800, "tax_minor": 400},
            [("subtotal", 2400), ("tax", 400), ("total", 2800)],
        ),
        (
            {"amount_minor": 1900, "discount_minor": 500, "tax_minor": 100},
            [("subtotal", 2400), ("discount", -500), ("total", 1900), ("tax_included", 100)],
        ),
        ({"amount_minor": 2900}, [("subtotal", 2400), ("other", 500), ("total", 2900)]),
        ({"amount_minor": None}, []),
    ],
)
def test_the_sums_under_the_lines_add_up(
    database: Database, people: People, fields: dict[str, Any], totals: list[tuple[str, int]]
) -> None:
    order = make_order(database, people.account, people.ana, **fields)
    found = order_page(database, people, order).totals
    assert list(found) == totals
    parts = dict(found)
    if "subtotal" in parts:
        assert parts["total"] == sum(parts.get(name, 0) for name in ("subtotal", "discount", "other", "tax"))


# Payments


def test_payments_with_their_order_refunds_and_documents(database: Database, people: People) -> None:
    order = make_order(database, people.account, people.ana, number="2001")
    paid = make_payment(database, people.account, people.ana, order_remote=order.remote_id)
    make_refund(database, people.account, paid, amount_minor=500)
    make_payment(database, people.account, people.ana, status="failed", placed_at=NOW - timedelta(days=30))
    first, second = database.read_now(queries.payments, people.portal.id, people.ana.id).rows
    assert (first.order_number, first.documented, first.has_file) == ("2001", True, False)
    assert [refund.amount_minor for refund in first.refunds] == [500]
    assert (second.order_id, second.documented, second.refunds) == (None, False, ())


def test_another_accounts_refund_of_the_same_name_is_not_taken(database: Database, people: People) -> None:
    paid = make_payment(database, people.account, people.ana, remote_id="pay_1")
    theirs = make_payment(database, people.others_account, people.stranger, remote_id="pay_1")
    make_refund(database, people.others_account, theirs)
    make_refund(database, make_account(database, people.portal), paid)
    (row,) = database.read_now(queries.payments, people.portal.id, people.ana.id).rows
    assert row.refunds == ()


def test_anothers_order_number_never_shows_at_a_payment(database: Database, people: People) -> None:
    order = make_order(database, people.account, people.ben, number="secret")
    make_payment(database, people.account, people.ana, order_remote=order.remote_id)
    (row,) = database.read_now(queries.payments, people.portal.id, people.ana.id).rows
    assert (row.order_id, row.order_number) == (None, None)


def test_where_invoices_are_switched_off_there_is_none_to_download(
    database: Database, people: People
) -> None:
    account = make_account(database, people.portal, switched_off=["invoice"])
    make_payment(database, account, people.ana)
    (row,) = database.read_now(queries.payments, people.portal.id, people.ana.id).rows
    assert not row.documented


# Subscriptions


def test_ended_subscriptions_come_last_unless_there_is_access_left(
    database: Database, people: People
) -> None:
    old = make_subscription(
        database, people.account, people.ana, status="active", placed_at=NOW - timedelta(99)
    )
    gone = make_subscription(database, people.account, people.ana, status="cancelled", placed_at=NOW)
    kept = make_subscription(
        database,
        people.account,
        people.ana,
        status="cancelled",
        access_until=NOW + timedelta(days=3),
        placed_at=NOW - timedelta(days=1),
    )
    page = database.read_now(queries.subscriptions, people.portal.id, people.ana.id, NOW)
    assert [one.row.id for one in page.live] == [kept.id, old.id]
    assert [one.row.id for one in page.ended] == [gone.id]
    later = database.read_now(queries.subscriptions, people.portal.id, people.ana.id, NOW + timedelta(days=4))
    assert [one.row.id for one in later.ended] == [gone.id, kept.id]


@pytest.mark.parametrize(("live", "ended"), [(30, 3), (25, 30), (24, 1), (0, 60), (3, 22), (3, 23)])
def test_every_subscription_is_reached_by_the_links(
    database: Database, people: People, live: int, ended: int
) -> None:
    for number in range(live + ended):
        status = "active" if number < live else "cancelled"
        placed = NOW - timedelta(hours=number)
        make_subscription(database, people.account, people.ana, status=status, placed_at=placed)
    seen: list[int] = []
    wanted: list[tuple[Cursor | None, bool]] = [(None, False)]
    while wanted:
        after, only_ended = wanted.pop()
        page = database.read_now(
            queries.subscriptions, people.portal.id, people.ana.id, NOW, after, only_ended
        )
        rows = [one.row.id for one in (*page.live, *page.ended)]
        assert len(rows) <= queries.PAGE
        seen += rows
        assert not (page.older and page.older_ended)
        if page.older:
            wanted.append((Cursor.parse(page.older), False))
        if page.older_ended:
            wanted.append((Cursor.parse(page.older_ended), True))
    assert len(seen) == len(set(seen)) == live + ended


def make_action(
    database: Database, people: People, subscription: models.Subscription, **fields: Any
) -> models.Action:
    values = {
        "portal_id": people.portal.id,
        "account_id": people.account.id,
        "customer_id": people.ana.id,
        "subscription_id": subscription.id,
        "capability": "cancel_now",
        "reference": "K7M-2QX",
        "params": {},
        "created_at": NOW,
        **fields,
    }
    return save(database, models.Action(**values))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("fields", "shown", "busy"),
    [
        ({"phase": "checking"}, True, True),
        ({"phase": "away"}, True, False),
        ({"phase": "confirmed", "closed_at": NOW - timedelta(hours=23)}, True, False),
        ({"phase": "confirmed", "closed_at": NOW - timedelta(hours=25)}, False, False),
    ],
)
def test_the_newest_action_is_told_for_a_day(
    database: Database, people: People, fields: dict[str, Any], shown: bool, busy: bool
) -> None:
    row = make_subscription(database, people.account, people.ana)
    make_action(database, people, row, **fields)
    found = database.read_now(queries.subject, people.portal.id, people.ana.id, row.id, NOW)
    assert found is not None
    assert (found.action is not None, found.busy) == (shown, busy)


def test_an_open_action_is_told_before_a_newer_closed_one(database: Database, people: People) -> None:
    row = make_subscription(database, people.account, people.ana)
    make_action(database, people, row, phase="checking", created_at=NOW - timedelta(minutes=5))
    make_action(database, people, row, phase="failed", closed_at=NOW)
    found = database.read_now(queries.subject, people.portal.id, people.ana.id, row.id, NOW)
    assert found is not None
    assert found.busy


def test_stranger_finds_no_subscription(database: Database, people: People) -> None:
    row = make_subscription(database, people.account, people.ana)
    for portal, who in (
        (people.portal, people.ben),
        (people.other, people.stranger),
        (people.other, people.ana),
    ):
        assert database.read_now(queries.subject, portal.id, who.id, row.id) is None
        assert database.read_now(queries.plans, portal.id, who.id) == []
    assert len(database.read_now(queries.plans, people.portal.id, people.ana.id)) == 1


def test_a_logo_is_found_in_its_own_portal_only(database: Database, people: People) -> None:
    save(
        database,
        models.Asset(
            portal_id=people.portal.id,
            sha256="a" * 64,
            content_type="image/png",
            width=10,
            height=10,
            content=b"PNG",
        ),
    )
    assert database.read_now(queries.logo, people.portal.id, "a" * 64) == b"PNG"
    assert database.read_now(queries.logo, people.other.id, "a" * 64) is None


# The plans: every list is one search in its index, in the index's own order


LISTS: list[tuple[str, Select[Any], str]] = [
    ("orders", queries.ORDERS[0], "ix_order_list"),
    ("older orders", queries.ORDERS[1], "ix_order_list"),
    ("payments", queries.PAYMENTS[0], "ix_payment_list"),
    ("older payments", queries.PAYMENTS[1], "ix_payment_list"),
    ("upcoming", queries.PLANS, "ix_subscription_list"),
    ("payments of an order", queries.ORDER_PAYMENTS, "ix_payment_order"),
    ("refunds", queries.REFUNDS, "ix_refund_payment"),
    ("invoices", queries.INVOICES, "ix_invoice_payment"),
]
ORDERED = {"orders", "older orders", "payments", "older payments", "upcoming"}


@pytest.mark.parametrize(("name", "statement", "index"), LISTS, ids=[name for name, _, _ in LISTS])
def test_every_list_is_read_by_its_index(
    database: Database, people: People, name: str, statement: Select[Any], index: str
) -> None:
    fill(database, people)
    values = {
        "portal": people.portal.id,
        "customer": people.ana.id,
        "placed_at": NOW,
        "id": 2**62,
        "account": people.account.id,
        "remote": "order_1",
        "remotes": ["ch_1", "ch_2"],
    }
    lines = plan(database, statement, values)
    assert uses(lines, index), lines
    assert not wholes(lines), lines
    if name in ORDERED:
        assert not sorts(lines), lines
    if name.startswith("older") and database.is_sqlite:
        assert any("placed_at<" in line for line in lines), lines


def fill(database: Database, people: People) -> None:
    """Enough rows, of many customers and of Ana, that a planner takes the index it would take in life."""
    paid = make_payment(database, people.account, people.ana)
    made = [
        make_order(database, people.account, people.ana),
        paid,
        make_refund(database, people.account, paid),
        make_invoice(database, people.account, people.ana, payment_remote=paid.remote_id),
        make_subscription(database, people.account, people.ana),
    ]
    others = [make_customer(database, people.portal, f"c{number}@example.com").id for number in range(20)]

    for row in made:
        of_payment = isinstance(row, models.Refund | models.Invoice)
        copies = [
            {
                "remote_id": f"copy_{number}",
                "customer_id": others[number // 2 % 20] if number % 2 else people.ana.id,
                "placed_at": NOW - timedelta(hours=number),
                **({"payment_remote": f"copy_{number}"} if of_payment else {}),
            }
            for number in range(1_000)
        ]
        copy(database, row, copies)
