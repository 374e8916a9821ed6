"""Somebody signs in whom no row knows: the processors that can be asked by e-mail say what they bought."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlmodel import col

from portal import finding, login, models
from portal.gateways import facts, processors
from tests.contract.house import House

ASKABLE = [name for name in processors() if any(entry.by_email for entry in facts(name).backfill)]


def the_ask(house: House) -> models.LoginRequest:
    return house.database.read_now(lambda db: db.execute(select(models.LoginRequest)).scalar_one())


@pytest.mark.parametrize("processor", ASKABLE)
def test_who_bought_there_is_found_by_their_address_alone(house: House, processor: str) -> None:
    house.simulator.fill(house.sample)
    house.posted.clear()  # no webhook tells of it, and nothing was imported
    assert not any(house.everything().values())
    buyer = f"{processor}@example.com"
    assert house.post("/customers/login", {"email": f" {buyer.upper()} "}).status_code == 303
    asyncio.run(house.worker.drain())
    rows = house.everything()
    assert [row for table in rows.values() for row in table if row["email"] == buyer]
    customer = house.database.read_now(
        lambda db: db.execute(select(models.Customer).where(col(models.Customer.email) == buyer)).scalar_one()
    )
    assert {row["customer_id"] for table in rows.values() for row in table} <= {customer.id, None}
    assert the_ask(house).mailed_at is not None


@pytest.mark.parametrize("processor", ASKABLE)
def test_who_bought_nothing_there_gets_no_mail(house: House, processor: str) -> None:
    house.simulator.fill(house.sample)
    house.posted.clear()
    house.post("/customers/login", {"email": "nobody-at-all@example.com"})
    asyncio.run(house.worker.drain())
    assert the_ask(house).looked_at is not None
    assert the_ask(house).mailed_at is None
    assert not any(house.everything().values())


def test_all_looks_come_to_an_end_before_the_ask_does() -> None:
    assert {"flutterwave", "paypal", "paystack", "stripe"} <= set(ASKABLE)
    longest = timedelta(seconds=2 * finding.LOOK_S + finding.AGAIN_S) + finding.AGAIN_FOR
    assert longest < login.LINK_LIFE
