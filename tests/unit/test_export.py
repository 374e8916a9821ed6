"""Lists as CSV, in batches and harmless for spreadsheets; and one person's data."""

import asyncio
import csv
import io
import json
import zipfile
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.orm import Session

from portal import export, models
from portal.db import Database
from portal.ids import id_text
from tests.unit.builders import (
    NOW,
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
from tests.unit.plans import plan, reads_little, sorts, wholes


class Shop:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.portal = make_portal(database)
        self.account = make_account(database, self.portal)
        self.ana = make_customer(database, self.portal, name="Ana")
        self.other = make_portal(database, "kora", name="Kora")
        self.stranger = make_customer(database, self.other, "stranger@example.com")
        make_order(database, make_account(database, self.other), self.stranger, number="foreign")

    def pieces(self, name: str) -> list[bytes]:
        async def collect() -> list[bytes]:
            found = export.csv_of(self.database, self.portal.id, export.SHEETS[name])
            return [piece async for piece in found]

        return asyncio.run(collect())

    def rows(self, name: str) -> list[dict[str, str]]:
        return parsed(b"".join(self.pieces(name)))

    def person(self, customer_id: int) -> dict[str, bytes] | None:
        file = asyncio.run(export.person_file(self.database, self.portal.id, customer_id, NOW))
        if file is None:
            return None
        whole = b"".join(export.chunks(file))
        assert file.closed
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


def parsed(content: bytes) -> list[dict[str, str]]:
    assert content.startswith(b"\xef\xbb\xbf")
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


@pytest.fixture
def shop(database: Database) -> Shop:
    return Shop(database)


def test_a_list_has_its_columns_and_only_the_portals_rows(shop: Shop) -> None:
    row = make_order(shop.database, shop.account, shop.ana, number="1001", remote_id="o_1", tax_minor=400)
    make_order(shop.database, shop.account, None, number="1002", currency="JPY", amount_minor=1200)
    first, second = shop.rows("orders")
    assert first == {
        "id": id_text(row.id),
        "customer": "ana@example.com",
        "number": "1001",
        "title": "Ethiopia Guji, 2 bags",
        "status": "paid",
        "placed_at": row.placed_at.isoformat(),
        "amount_minor": "2400",
        "currency": "USD",
        "amount": "24.00 USD",
        "tax_minor": "400",
        "discount_minor": "",
        "account": "Stripe",
        "processor": "Stripe",
        "remote_id": "o_1",
        "subscription_remote_id": "",
    }
    assert (second["customer"], second["amount"]) == ("", "1200 JPY")


def test_every_list_can_be_taken_out(shop: Shop) -> None:
    subscription = make_subscription(shop.database, shop.account, shop.ana, remote_id="sub_1")
    payment = make_payment(shop.database, shop.account, shop.ana, refunded_minor=400)
    make_request(shop.database, payment, words='He said "no", twice\r\nand left')
    make_order(shop.database, shop.account, shop.ana)
    second = make_customer(shop.database, shop.portal, "old@example.com")
    save(
        shop.database,
        models.Join(
            portal_id=shop.portal.id,
            from_id=second.id,
            into_id=shop.ana.id,
            created_at=NOW,
            expires_at=NOW,
            proved_at=NOW,
        ),
    )
    assert [(row["email"], row["joined_with"]) for row in shop.rows("customers")] == [
        ("ana@example.com", ""),
        ("old@example.com", "ana@example.com"),
    ]
    (row,) = shop.rows("subscriptions")
    assert (row["remote_id"], row["next_on"]) == ("sub_1", str(subscription.next_on))
    (row,) = shop.rows("payments")
    assert (row["refunded"], row["remote_id"]) == ("4.00 USD", payment.remote_id)
    (row,) = shop.rows("requests")
    assert row["words"] == 'He said "no", twice\r\nand left'
    for name, sheet in export.SHEETS.items():
        (row, *_) = shop.rows(name)
        assert tuple(row) == sheet.columns
        assert None not in row.values()


def test_a_list_comes_batch_by_batch_each_row_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def add(db: Session) -> None:
        db.add_all(
            models.Customer(portal_id=shop.portal.id, email=f"c{n}@example.com", created_at=NOW)
            for n in range(1200)
        )

    shop.database.write_now(add)
    statements: list[str] = []

    def listen(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(shop.database.engine, "before_cursor_execute", listen)
    pieces = shop.pieces("customers")
    event.remove(shop.database.engine, "before_cursor_execute", listen)
    assert [piece.count(b"\r\n") for piece in pieces] == [1, 500, 500, 201]
    assert len([one for one in statements if "customer" in one.lower()]) >= 3
    emails = [row["email"] for row in parsed(b"".join(pieces))]
    assert len(emails) == len(set(emails)) == 1201


def test_exactly_one_batch_ends(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def add(db: Session) -> None:
        db.add_all(
            models.Customer(portal_id=shop.portal.id, email=f"c{n}@example.com", created_at=NOW)
            for n in range(export.BATCH - 1)
        )

    shop.database.write_now(add)
    assert len(shop.rows("customers")) == export.BATCH


@pytest.mark.parametrize("name", list(export.SHEETS))
def test_a_batch_is_read_in_the_order_of_its_index(shop: Shop, name: str) -> None:
    for number in range(40):
        who = make_customer(shop.database, shop.portal, f"c{number}@example.com")
        make_order(shop.database, shop.account, who)
        make_request(shop.database, make_payment(shop.database, shop.account, who))
        make_subscription(shop.database, shop.account, who)

    values = {"portal": shop.portal.id, "after": 0, "until": 2**62}
    # Of forty rows in all PostgreSQL would rather take every one, and sort them.
    lines = plan(shop.database, export.SHEETS[name].batch, values, off=("hashjoin", "mergejoin"))
    assert not wholes(lines), lines
    assert not sorts(lines), lines


# Harmless cells


@pytest.mark.parametrize(
    "cell",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "=cmd|' /C calc'!A0",
        "＝1",
        "＋1",
        "－1",
        "＠1",
    ],
)
def test_a_formula_gets_an_apostrophe(cell: str) -> None:
    assert export.harmless(cell) == f"'{cell}"


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [
        ("Ana", "Ana"),
        ("a=b", "a=b"),
        (-2400, -2400),
        (None, None),
        (datetime(2026, 11, 22, 10, tzinfo=UTC), "2026-11-22T10:00:00+00:00"),
        (date(2026, 11, 22), "2026-11-22"),
    ],
)
def test_what_is_no_formula_stays(cell: Any, wanted: Any) -> None:
    assert export.harmless(cell) == wanted


@given(
    st.lists(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=2, max_size=4
        )
    )
)
def test_whatever_is_written_is_read_back_with_at_most_an_apostrophe(rows: list[list[str]]) -> None:
    found = list(csv.reader(io.StringIO(export.lines(rows).decode(), newline="")))
    assert len(found) == len(rows)
    for row, back in zip(rows, found, strict=True):
        assert [cell.removeprefix("'") if cell not in row else cell for cell in back] == row
        assert not any(cell.startswith(export._FORMULA) for cell in back)


def test_names_of_customers_are_harmless_in_the_file(shop: Shop) -> None:
    make_customer(shop.database, shop.portal, "=cmd@example.com", name="=HYPERLINK(1)")
    row = shop.rows("customers")[-1]
    assert (row["email"], row["name"]) == ("'=cmd@example.com", "'=HYPERLINK(1)")


# One person


def test_a_persons_file_has_all_of_theirs_and_nothing_of_others(shop: Shop) -> None:
    ben = make_customer(shop.database, shop.portal, "ben@example.com")
    make_order(shop.database, shop.account, ben, number="of-ben")
    make_order(shop.database, shop.account, shop.ana, number="1001")
    subscription = make_subscription(shop.database, shop.account, shop.ana)
    payment = make_payment(shop.database, shop.account, shop.ana)
    refund = make_refund(shop.database, shop.account, payment, amount_minor=400)
    make_invoice(shop.database, shop.account, shop.ana, number="A-7")
    make_action(
        shop.database,
        subscription,
        state_hash="secret-state",
        leave_state={"token": "secret-leave"},
        params={"comment": "x"},
    )
    make_request(shop.database, subscription, words="Please")
    save(
        shop.database,
        models.SignIn(
            token_hash="secret-session",
            portal_id=shop.portal.id,
            customer_id=shop.ana.id,
            user_agent="Firefox",
            created_at=NOW,
            last_seen_at=NOW,
            expires_at=NOW,
        ),
    )
    # Of SQLite that can be seen by its plans: not one of a list of theirs goes through all of the portal's.
    with reads_little(shop.database, "account"):
        found = shop.person(shop.ana.id)
    assert found is not None
    assert set(found) == {"data.json", "orders.csv", "subscriptions.csv", "payments.csv", "requests.csv"}
    data = json.loads(found["data.json"])
    assert data["customer"]["email"] == "ana@example.com"
    assert [one["number"] for one in data["orders"]] == ["1001"]
    assert data["orders"][0]["processor"] == "Stripe"
    (paid,) = data["payments"]
    assert [one["remote_id"] for one in paid["refunds"]] == [refund.remote_id]
    assert [one["number"] for one in data["invoices"]] == ["A-7"]
    assert [one["words"] for one in data["requests"]] == ["Please"]
    assert [one["capability"] for one in data["actions"]] == ["pause"]
    assert [one["user_agent"] for one in data["sign_ins"]] == ["Firefox"]
    assert [row["number"] for row in parsed(found["orders.csv"])] == ["1001"]
    whole = b"".join(found.values()).decode()
    for foreign in ("of-ben", "foreign", "secret-", str(shop.portal.id)):
        assert foreign not in whole


def test_a_person_with_much_comes_in_batches(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def add(db: Session) -> None:
        for number in range(export.BATCH + 20):
            db.add(
                models.Payment(
                    portal_id=shop.portal.id,
                    account_id=shop.account.id,
                    customer_id=shop.ana.id,
                    remote_id=f"ch_{number}",
                    placed_at=NOW,
                    as_of=NOW,
                    stamps={},
                    amount_minor=number,
                    currency="USD",
                )
            )

    shop.database.write_now(add)
    found = shop.person(shop.ana.id)
    assert found is not None
    assert len(json.loads(found["data.json"])["payments"]) == export.BATCH + 20
    assert len(parsed(found["payments.csv"])) == export.BATCH + 20


def test_a_strangers_file_is_not_there(shop: Shop) -> None:
    assert shop.person(shop.stranger.id) is None
