"""The demo takes an empty database, or its own of last time; never somebody's."""

import pytest
from sqlalchemy import select

from portal import demo, models
from portal.db import Database
from tests.unit.builders import make_account, make_customer, make_order, make_portal


def test_its_own_portals_are_cleared_away(database: Database) -> None:
    account = make_account(database, make_portal(database, "acme"))
    make_order(database, account, make_customer(database, database.read_now(_portal)))
    database.write_now(demo._clear)
    assert database.read_now(lambda db: db.execute(select(models.Order)).first()) is None


def test_somebodys_portals_are_left_alone(database: Database) -> None:
    make_portal(database, "real-shop")
    with pytest.raises(RuntimeError, match="one of its own"):
        database.write_now(demo._clear)
    assert database.read_now(_portal).slug == "real-shop"


def _portal(db: object) -> models.Portal:
    return db.execute(select(models.Portal)).scalar_one()  # type: ignore[attr-defined, no-any-return]


def test_a_code_stands_alone_on_its_line() -> None:
    assert demo._code("Hello Ana,\n\nH27SW9\n\nCALLED OFF") == "H27SW9"
    assert demo._code("No code here, BUT words\nof MANY kinds") is None
