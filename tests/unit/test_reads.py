"""The watch over what the tests have SQLite read."""

import pytest
from sqlalchemy import text

from portal.db import Database
from tests import reads

ALL = [
    ("SELECT * FROM payment WHERE payment.title = ?", ("x",), "payment"),
    ("SELECT * FROM payment AS one WHERE one.title = ?", ("x",), "payment"),
    ("SELECT count(*) FROM event WHERE event.portal_id = ?", (1,), "event"),
    (
        "SELECT * FROM event WHERE event.account_id = ? ORDER BY event.type LIMIT ? OFFSET ?",
        (1, 26, 0),
        "event",
    ),
    (
        "SELECT * FROM payment WHERE payment.portal_id = ? AND +payment.customer_id = ? ORDER BY payment.id "
        "LIMIT ? OFFSET ?",
        (1, 2, 26, 0),
        "payment",
    ),
    ("UPDATE subscription SET title = ? WHERE subscription.title = ?", ("x", "y"), "subscription"),
]
LITTLE = [
    ("SELECT * FROM payment WHERE payment.id = ?", (1,)),
    ("SELECT * FROM payment WHERE payment.account_id = ? AND payment.order_remote = ?", (1, "x")),
    (
        "SELECT * FROM event WHERE event.portal_id = ? AND event.id < ? ORDER BY event.id LIMIT ? OFFSET ?",
        (1, 2, 26, 0),
    ),
    ("SELECT count(*) FROM event WHERE event.portal_id = ? AND event.parked_at IS NOT NULL", (1,)),
    ("SELECT * FROM portal", ()),
]


@pytest.mark.parametrize(("sql", "values", "table"), ALL)
def test_what_reads_all_is_found(sql: str, values: tuple[object, ...], table: str) -> None:
    assert [found for found, _line in reads.much(sql, values)] == [table]


@pytest.mark.parametrize(("sql", "values"), LITTLE)
def test_what_reads_little_is_let_through(sql: str, values: tuple[object, ...]) -> None:
    assert reads.much(sql, values) == []


def test_what_a_test_asks_itself_is_its_own(sqlite: Database, every_read: reads.Reads) -> None:
    sqlite.read_now(lambda db: db.execute(text("SELECT * FROM payment WHERE title = 'x'")).all())
    assert every_read.wrong() == []


def test_what_the_portal_asks_is_noted_once(
    sqlite: Database, every_read: reads.Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "_sender", lambda: f"{reads.OURS}sync.py")
    found = reads.Reads()
    try:
        for _ in range(2):
            sqlite.read_now(lambda db: db.execute(text("SELECT * FROM payment WHERE title = 'x'")).all())
        (wrong,) = found.wrong()
    finally:
        found.close()
    assert wrong.startswith("portal/sync.py: SCAN payment")
    assert found.wrong() == []
    every_read.wrong()  # it was watching too


def test_what_is_let_through_on_purpose_is_there() -> None:
    for module, table in reads.ON_PURPOSE:
        assert (reads.ROOT / "portal" / module).exists()
        assert table in reads._whole()
