"""The merchant's search: what a text may be, what is found, whose, page by page, and by which index."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Select
from sqlalchemy.orm import Session

from portal import models, names, search, sync
from portal.db import Database
from portal.gateways.base import CustomerRecord, OrderRecord, Snapshot
from tests.unit.builders import (
    NOW,
    make_account,
    make_customer,
    make_invoice,
    make_order,
    make_payment,
    make_portal,
    make_request,
    make_subscription,
    save,
)
from tests.unit.plans import plan, sorts, uses, wholes


class Shop:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.portal = make_portal(database)
        self.account = make_account(database, self.portal)
        self.other = make_portal(database, "kora", name="Kora")

    def customer(self, email: str, name: str | None = None) -> models.Customer:
        found = make_customer(self.database, self.portal, email, name=name)
        self.database.write_now(names.write_missing)
        return found

    def find(self, typed: str, only: str | None = None, after: str | None = None) -> list[search.Group]:
        return self.database.read_now(search.search, self.portal.id, search.read(typed), only, after)

    def people(self, typed: str) -> list[str]:
        return [one.email for group in self.find(typed) for one in group.people]

    def things(self, typed: str) -> dict[str, list[str]]:
        return {
            group.name: [one.remote_id for one in group.things] for group in self.find(typed) if group.things
        }


@pytest.fixture
def shop(database: Database) -> Shop:
    return Shop(database)


# What a text may be


@pytest.mark.parametrize(
    ("typed", "amounts", "currency"),
    [
        ("24.00", {"24"}, None),
        ("24,00", {"24"}, None),
        ("24,00 USD", {"24"}, "USD"),
        ("usd 24", {"24"}, "USD"),
        ("$24.50", {"24.5"}, None),
        ("€ 1.234,50", {"1234.5"}, None),
        ("1,234.50", {"1234.5"}, None),
        ("1 234,50\u00a0€", {"1234.5"}, None),
        ("1,234", {"1234", "1.234"}, None),
        ("12.500 KWD", {"12.5", "12500"}, "KWD"),
        ("1.234.567", {"1234567"}, None),
        ("24", {"24"}, None),
        ("1001", {"1001"}, None),
        ("A-1001", set(), None),
        ("ana@example.com", set(), None),
        ("USD 24 EUR", set(), None),
        ("24.", set(), None),
        ("9" * 16, set(), None),
        ("", set(), None),
    ],
)
def test_amounts_are_read_as_people_write_them(typed: str, amounts: set[str], currency: str | None) -> None:
    found = search.read(typed)
    assert {Decimal(one) for one in amounts} == found.amounts
    assert found.currency == currency


def test_a_text_says_where_to_look() -> None:
    assert search.read(" Ana@Example.com ").is_address
    assert search.read("ana@example.com").exact is None
    assert search.read("#1001").exact == "1001"
    assert search.read("k7m-2qx").reference == "K7M-2QX"
    assert search.read("K7M-2QO").reference is None
    assert search.read("Ana Almeida").exact is None
    assert search.read("cus_123").exact == "cus_123"
    assert search.read("a\x00b\n").text == "a b"


@given(st.text(max_size=300))
def test_no_text_is_an_error(typed: str) -> None:
    found = search.read(typed)
    assert len(found.text) <= 200
    assert all(amount >= 0 for amount in found.amounts)


@given(st.text(max_size=60), st.text(max_size=10))
def test_keys_come_between_a_beginning_and_what_comes_after_it(first: str, more: str) -> None:
    low = names.folded(first)
    if low:
        assert low <= low + more.encode("utf-8", "ignore") < names.after(low)


# People


def test_people_are_found_by_the_beginnings_of_address_and_name(shop: Shop) -> None:
    shop.customer("ana@example.com", "Ana Lucía López García")
    shop.customer("anna.b@example.com", "Björn Åkesson")
    shop.customer("carl@example.com")
    assert shop.people("an") == ["ana@example.com", "anna.b@example.com"]
    assert shop.people("ana@example.com") == ["ana@example.com"]
    assert shop.people("ANA@") == ["ana@example.com"]
    assert shop.people("lopez") == ["ana@example.com"]
    assert shop.people("López  garcia") == ["ana@example.com"]
    assert shop.people("garcía") == ["ana@example.com"]
    assert shop.people("akess") == ["anna.b@example.com"]
    assert shop.people("opez") == []
    assert shop.people("example.com") == []


@pytest.mark.parametrize("typed", ["a%", "a_a", "ana'", "an\\", "ana\u0000", "%", "_"])
def test_nothing_in_a_text_means_anything_but_itself(shop: Shop, typed: str) -> None:
    shop.customer("ana@example.com", "Ana")
    assert shop.people(typed) in ([], ["ana@example.com"])
    assert shop.people("a%") == []


def test_punctuation_is_compared_too(shop: Shop) -> None:
    for email in ("ana.b@example.com", "ana-b@example.com", "anab@example.com"):
        shop.customer(email)
    assert shop.people("ana.") == ["ana.b@example.com"]
    assert shop.people("ana-") == ["ana-b@example.com"]
    assert len(shop.people("ana")) == 3


def test_nobody_is_found_in_another_portal(shop: Shop) -> None:
    make_customer(shop.database, shop.other, "ana@example.com", name="Ana")
    account = make_account(shop.database, shop.other)
    who = make_customer(shop.database, shop.other, "ben@example.com")
    row = make_order(shop.database, account, who, number="1001", remote_id="o_1")
    payment = make_payment(shop.database, account, who)
    request = make_request(shop.database, payment)
    shop.database.write_now(names.write_missing)
    for typed in ("ana@example.com", "ana", "1001", "24.00", row.remote_id, request.reference, ""):
        assert shop.find(typed) == [] or typed == ""
    assert shop.find("") == [search.Group("people")]


def test_a_name_from_the_processor_is_found_at_once(shop: Shop) -> None:
    def told(db: Session, name: str, minute: int) -> None:
        record = CustomerRecord(remote_id="cus_1", email="zoe@example.com", name=name)
        snapshot = Snapshot(as_of=NOW + timedelta(minutes=minute), customers=(record,))
        sync.apply(db, shop.account, snapshot)

    shop.database.write_now(told, "Zoe Nguyen", 1)
    assert shop.people("nguyen") == ["zoe@example.com"]
    assert shop.people("cus_1") == ["zoe@example.com"]
    order = OrderRecord(remote_id="o_1", status="paid", email="yan@example.com")
    shop.database.write_now(sync.apply, shop.account, Snapshot(as_of=NOW, orders=(order,)))
    assert shop.people("yan") == ["yan@example.com"]


def test_who_has_no_keys_yet_is_found_by_the_whole_address_and_gets_them(shop: Shop) -> None:
    make_customer(shop.database, shop.portal, "old@example.com", name="Olga Danes")
    assert shop.people("old@example.com") == ["old@example.com"]
    assert shop.people("danes") == []
    assert shop.database.write_now(names.write_missing) == 1
    assert shop.database.write_now(names.write_missing) == 0
    assert shop.people("danes") == ["old@example.com"]


def test_the_sweep_writes_all_that_are_missing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "BATCH", 3)
    for number in range(8):
        make_customer(shop.database, shop.portal, f"bea{number}@example.com")
    asyncio.run(names.sweep(shop.database))
    assert len(shop.people("bea")) == 8


def test_people_come_in_order_page_by_page_and_none_twice(shop: Shop) -> None:
    for number in range(60):
        make_customer(
            shop.database, shop.portal, f"ana{number:02}@example.com", name=f"Ana No{59 - number:02} Anaxa"
        )
    shop.database.write_now(names.write_missing)
    seen: list[str] = []
    after, sizes = None, []
    while True:
        (group,) = shop.find("ana", "people", after)
        seen += [one.email for one in group.people]
        sizes.append(len(group.people))
        if group.older is None:
            break
        after = group.older
    assert sizes == [25, 25, 10]
    assert len(set(seen)) == 60


def test_without_a_text_the_newest_customers_page_by_page(shop: Shop) -> None:
    made = [make_customer(shop.database, shop.portal, f"c{n}@example.com") for n in range(30)]
    (first,) = shop.find("")
    assert [one.id for one in first.people] == [one.id for one in reversed(made)][:25]
    (rest,) = shop.find("", None, first.older)
    assert [one.id for one in rest.people] == [one.id for one in reversed(made)][25:]
    assert rest.older is None


@given(st.text(max_size=40))
def test_a_strange_place_to_go_on_from_is_none(after: str) -> None:
    found = search._Place.parse(after)
    assert found is None or isinstance(found.id, int)


def test_a_joined_address_says_whose_it_is(shop: Shop) -> None:
    ana, second = shop.customer("ana@example.com"), shop.customer("ana.old@example.com")
    save(
        shop.database,
        models.Join(
            portal_id=shop.portal.id,
            from_id=second.id,
            into_id=ana.id,
            created_at=NOW,
            expires_at=NOW,
            proved_at=NOW,
        ),
    )
    (group,) = shop.find("ana")
    assert {one.email: one.joined for one in group.people} == {
        "ana@example.com": None,
        "ana.old@example.com": "ana@example.com",
    }


# Things


def test_orders_by_number_and_id_and_amount(shop: Shop) -> None:
    ana = shop.customer("ana@example.com")
    make_order(shop.database, shop.account, ana, number="1001", remote_id="o_1", amount_minor=2400)
    make_order(shop.database, shop.account, None, number="1001", remote_id="o_2", amount_minor=100)
    make_order(shop.database, shop.account, ana, number="24", remote_id="o_3", amount_minor=999)
    assert set(shop.things("1001")["orders"]) == {"o_1", "o_2"}
    assert set(shop.things("#1001")["orders"]) == {"o_1", "o_2"}
    assert shop.things("o_3") == {"orders": ["o_3"]}
    assert set(shop.things("24")["orders"]) == {"o_1", "o_3"}  # an amount, and a number
    assert shop.things("24.00") == {"orders": ["o_1"]}
    (group,) = shop.find("o_1")
    (thing,) = group.things
    assert (thing.email, thing.customer_id, thing.name, thing.account) == (
        "ana@example.com",
        ana.id,
        "1001",
        "Stripe",
    )


def test_amounts_by_the_decimals_of_each_currency(shop: Shop) -> None:
    ana = shop.customer("ana@example.com")
    for remote, minor, currency in (
        ("usd", 2400, "USD"),
        ("eur", 2400, "EUR"),
        ("jpy", 24, "JPY"),
        ("jpy2400", 2400, "JPY"),
        ("cents", 24, "USD"),
        ("kwd", 24_000, "KWD"),
    ):
        make_payment(
            shop.database, shop.account, ana, remote_id=remote, amount_minor=minor, currency=currency
        )
    assert set(shop.things("24.00")["payments"]) == {"usd", "eur", "jpy", "kwd"}
    assert shop.things("24,00 EUR") == {"payments": ["eur"]}
    assert shop.things("2400 JPY") == {"payments": ["jpy2400"]}
    assert shop.things("0.24") == {"payments": ["cents"]}
    assert shop.things("24.005 USD") == {}


def test_payments_by_the_number_of_their_document(shop: Shop) -> None:
    ana = shop.customer("ana@example.com")
    paid = make_payment(shop.database, shop.account, ana, remote_id="ch_1")
    make_payment(shop.database, shop.account, ana, remote_id="ch_2")
    make_invoice(shop.database, shop.account, ana, number="A-7", payment_remote="ch_2")
    issued = models.IssuedDocument(
        portal_id=shop.portal.id,
        customer_id=ana.id,
        payment_id=paid.id,
        kind="invoice",
        sequence=1,
        number="INV-00001",
        facts={},
        issued_at=NOW,
    )
    save(shop.database, issued)
    assert shop.things("INV-00001") == {"payments": ["ch_1"]}
    assert shop.things("A-7") == {"payments": ["ch_2"]}


def test_requests_by_their_reference(shop: Shop) -> None:
    ana = shop.customer("ana@example.com")
    row = make_subscription(shop.database, shop.account, ana)
    asked = make_request(shop.database, row)
    found = {group.name: group for group in shop.find(asked.reference.lower())}
    assert [one.id for one in found["requests"].things] == [asked.id]


def test_things_go_on_by_their_cursor(shop: Shop) -> None:
    ana = shop.customer("ana@example.com")
    for number in range(60):
        make_payment(
            shop.database,
            shop.account,
            ana,
            currency="USD" if number % 2 else "EUR",
            placed_at=NOW - timedelta(hours=number // 3),
        )
    few = next(group for group in shop.find("24.00") if group.name == "payments")
    assert len(few.things) == 10
    assert few.older is not None
    seen: list[search.Thing] = []
    after = None
    while True:
        (group,) = shop.find("24.00", "payments", after)
        seen += group.things
        if group.older is None:
            break
        after = group.older
    assert len({one.id for one in seen}) == 60
    assert seen == sorted(seen, key=lambda one: (one.placed_at, one.id), reverse=True)


# Plans

AT = {"placed_at": NOW, "id": 2**62, "limit": 11}
READS: list[tuple[str, Select[Any], str, dict[str, Any], bool]] = [
    ("newest people", search.NEWEST, "customer", {"before": 2**62, "limit": 26}, True),
    ("people", search.PEOPLE, "customer_key", {"low": b"ana", "high": b"anb", "limit": 11}, True),
    (
        "more people",
        search.MORE_PEOPLE,
        "customer_key",
        {"low": b"ana", "high": b"anb", "limit": 11, "key": b"anab", "id": 5},
        True,
    ),
    ("orders by number", search.BY_NUMBER, "ix_order_number", {"number": "1001", **AT}, True),
    *[
        (
            f"{name} by amount",
            search.BY_AMOUNT[name],
            f"ix_{name[:-1]}_amount",
            {"currency": "USD", "minor": 2400, **AT},
            True,
        )
        for name in ("orders", "payments", "subscriptions")
    ],
    *[
        (
            f"{name} by id",
            search.BY_REMOTE[name],
            "remote_id",
            {"accounts": [1, 2], "remotes": ["x"], **AT},
            False,
        )
        for name in ("orders", "payments", "subscriptions")
    ],
]


@pytest.mark.parametrize(
    ("statement", "index", "values", "ordered"),
    [read[1:] for read in READS],
    ids=[read[0] for read in READS],
)
def test_every_search_is_one_step_in_its_index(
    shop: Shop, statement: Select[Any], index: str, values: dict[str, Any], ordered: bool
) -> None:
    for number in range(40):
        who = make_customer(shop.database, shop.portal, f"ana{number}@example.com", name=f"Bo Fox{number}")
        make_order(shop.database, shop.account, who, amount_minor=number)
        make_payment(shop.database, shop.account, who, amount_minor=number)
        make_subscription(shop.database, shop.account, who, amount_minor=number)
    shop.database.write_now(names.write_missing)

    lines = plan(shop.database, statement, {"portal": shop.portal.id, **values})
    assert uses(lines, index), lines
    assert not wholes(lines), lines
    if ordered:
        assert not sorts(lines), lines


def test_currencies_are_found_by_steps_of_the_index(shop: Shop) -> None:
    ana = shop.customer("ana@example.com")
    for currency in ("USD", "EUR", "USD", "JPY"):
        make_payment(shop.database, shop.account, ana, currency=currency)
    make_payment(shop.database, shop.account, ana, currency=None, amount_minor=None)
    found = shop.database.read_now(
        search._currencies,
        shop.portal.id,
        models.Payment.__table__,  # type: ignore[attr-defined]
    )
    assert found == ["EUR", "JPY", "USD"]
