"""An address that no row knows: who is asked, how often, and that one processor holds up no other."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from portal import addresses, clock, finding, letters, login, models, work
from portal.db import Database
from portal.gateways.base import CustomerRecord, Gateway, Gone, OrderRecord, Ref, Snapshot, Unavailable
from portal.money import Money
from portal.settings import Settings
from tests.unit.builders import MASTER_KEY, NOW, make_account, make_customer, make_portal
from tests.unit.plans import plan, uses, wholes

SETTINGS = Settings(master_keys=MASTER_KEY, scheme="http", mail_from="portal@mail.example")
SECRET = SETTINGS.secret_key.get_secret_value()


class Fake(Gateway):
    """A processor that knows an order of one person, and may be slow or dead."""

    def __init__(self, name: str, email: str = "ana@example.com", mood: str = "") -> None:
        super().__init__({})
        self.name, self.email, self.mood = name, email, mood
        self.asked: list[str] = []

    async def find(self, email: str) -> list[Ref]:
        self.asked.append(email)
        if self.mood == "dead":
            raise Unavailable("", "down")
        if self.mood == "broken":
            raise ValueError("not what was expected")
        if self.mood == "hangs":
            await asyncio.sleep(3600)
        return (
            [Ref("order", "o_1"), Ref("order", "gone"), Ref("customer", "c_1")] if email == self.email else []
        )

    async def fetch(self, ref: Ref) -> Snapshot:
        if ref.id == "gone":
            raise Gone("", "gone")
        now = clock.now()
        if ref.kind == "customer":
            return Snapshot(as_of=now, customers=(CustomerRecord(remote_id="c_1", email="Ana@Example.com"),))
        order = OrderRecord(remote_id="o_1", status="paid", customer="c_1", amount=Money(2400, "USD"))
        return Snapshot(as_of=now, orders=(order,))


class Desk:
    """A portal with accounts at fakes, and a worker that opens them."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = database
        self.portal = make_portal(database)
        self.fakes: dict[int, Fake] = {}
        monkeypatch.setattr(finding, "open_gateway", lambda _s, _v, account: self.fakes[account.id])
        self.sent: list[str] = []
        monkeypatch.setattr(letters, "send_batch", self._send)
        self.worker = work.Worker(SETTINGS, database)

    async def _send(self, _settings: Settings, messages: Any, taken: Any = None) -> list[None]:
        for number, (to, _message) in enumerate(messages):
            self.sent.append(to)
            await taken(number)
        return [None] * len(messages)

    def account(self, processor: str = "stripe", mood: str = "", **fields: Any) -> Fake:
        row = make_account(self.database, self.portal, processor, **fields)
        self.fakes[row.id] = Fake(processor, mood=mood)
        return self.fakes[row.id]

    def ask(self, email: str = "ana@example.com", network: str = "192.0.2.1") -> int:
        given = (self.portal.id, email, "browser", "", network, "", clock.now())
        return self.database.write_now(login.ask, *given)

    def drain(self) -> None:
        asyncio.run(self.worker.drain())

    def looks(self) -> int:
        row = models.LoginRequest
        wanted = select(row).where(col(row.looked_at).is_not(None))
        return len(self.database.read_now(lambda db: list(db.execute(wanted).scalars())))


@pytest.fixture
def desk(database: Database, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(database, monkeypatch)


def test_what_a_processor_knows_is_written_and_then_the_mail_goes(desk: Desk) -> None:
    fake = desk.account()
    desk.ask(" ANA@example.com")
    desk.drain()
    assert fake.asked == ["ana@example.com"]
    assert desk.sent == ["ana@example.com"]

    def read(db: Any) -> tuple[str, int | None]:
        customer = db.execute(select(models.Customer)).scalar_one()
        order = db.execute(select(models.Order)).scalar_one()
        return customer.email, order.customer_id and order.customer_id - customer.id

    assert desk.database.read_now(read) == ("ana@example.com", 0)
    desk.ask()
    desk.drain()
    assert len(fake.asked) == 1  # known by now
    assert desk.sent == ["ana@example.com"] * 2


def test_dead_slow_and_broken_processors_hold_up_no_other(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        finding, "LOOK_S", 2.0
    )  # all of it is waited for, so one that is well has all of it too
    for mood in ("dead", "hangs", "broken"):
        desk.account("paystack", mood)
    desk.account()
    desk.ask()
    desk.drain()
    assert desk.sent == ["ana@example.com"]


@pytest.mark.usefixtures("sqlite_only")
def test_where_one_did_not_answer_it_is_asked_once_more_and_then_no_longer(desk: Desk) -> None:
    fake = desk.account(mood="dead")
    desk.ask()
    desk.drain()
    assert (len(fake.asked), desk.sent) == (1, [])
    fake.mood = ""
    clock.set_offset(timedelta(seconds=finding.AGAIN_S + 1))
    desk.drain()
    assert (len(fake.asked), desk.sent) == (2, ["ana@example.com"])
    other = desk.ask("ben@example.com")
    fake.mood = "dead"
    for minutes in range(2, 20):
        clock.set_offset(timedelta(minutes=minutes))
        desk.drain()
    asked = fake.asked.count("ben@example.com")
    assert 2 <= asked <= 4
    assert desk.database.read_now(lambda db: db.get_one(models.LoginRequest, other)).mailed_at is None


@pytest.mark.usefixtures("sqlite_only")
def test_only_accounts_that_can_be_asked_are(desk: Desk) -> None:
    silent = [
        desk.account("razorpay"),
        desk.account("stripe", disconnected_at=clock.now()),
        desk.account("flutterwave", variant="v5"),
    ]
    desk.ask("nobody@example.com")
    desk.drain()
    assert [fake.asked for fake in silent[:2]] == [[], []]


@pytest.mark.usefixtures("sqlite_only")
def test_nobody_is_asked_where_no_processor_can_be(desk: Desk) -> None:
    desk.account("razorpay")
    desk.ask()
    desk.drain()
    assert (desk.looks(), desk.sent) == (0, [])


@pytest.mark.parametrize(
    "email", ["void@razorpay.com", "guest@shop.example", "noreply@x.example", "a@b.invalid"]
)
@pytest.mark.usefixtures("sqlite_only")
def test_addresses_of_nobody_are_never_looked_up_nor_mailed(desk: Desk, email: str) -> None:
    fake = desk.account()
    make_customer(desk.database, desk.portal, email)
    desk.ask(email)
    desk.drain()
    assert (fake.asked, desk.sent) == ([], [])


@pytest.mark.usefixtures("sqlite_only")
def test_an_address_is_looked_up_twice_a_day_and_an_apple_relay_like_any_other(desk: Desk) -> None:
    fake = desk.account()
    for minutes in range(0, 240, 30):
        clock.set_offset(timedelta(minutes=minutes))
        desk.ask("x1@privaterelay.appleid.com")
        desk.drain()
    assert len(fake.asked) == 2


def test_a_network_and_a_portal_have_their_limits(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = desk.account()
    for number in range(15):
        desk.ask(f"a{number}@example.org")
    desk.drain()
    assert len(fake.asked) == finding.PER_NETWORK[0][1]
    monkeypatch.setattr(finding, "PER_PORTAL", (timedelta(hours=1), 14))
    for number in range(15):
        desk.ask(f"b{number}@example.org", f"198.51.100.{number}")
    desk.drain()
    assert len(fake.asked) == 14


@pytest.mark.usefixtures("sqlite_only")
def test_a_further_address_is_looked_up_too(desk: Desk) -> None:
    desk.account()
    customer = make_customer(desk.database, desk.portal, "main@example.com")
    who = login.SignedIn(customer.id, customer.email, None, 0)
    given = (desk.portal.id, who, "ana@example.com", "browser", "", "192.0.2.1", clock.now())
    desk.database.write_now(addresses.ask, *given)
    desk.drain()
    assert desk.sent == ["ana@example.com"]


INDEXES = {
    "address": "ix_login_request_",
    "network": "ix_login_request_",
    "portal": "ix_login_request_looked",
}


@pytest.mark.parametrize("name", INDEXES)
def test_the_looks_are_counted_by_an_index(desk: Desk, name: str) -> None:
    row = models.LoginRequest
    more = {
        "address": (col(row.email) == "x", col(row.created_at) > NOW),
        "network": (col(row.network) == "x", col(row.created_at) > NOW),
        "portal": (col(row.looked_at) > NOW,),
    }[name]
    wanted = (col(row.portal_id) == desk.portal.id, col(row.looked_at).is_not(None), *more)
    lines = plan(desk.database, select(col(row.id)).where(*wanted))
    assert uses(lines, INDEXES[name]), lines
    assert not wholes(lines), lines
