"""Records of nobody, whom the merchant says they are, and further addresses of one person."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, login, merchants, models, people, sync, work
from portal.db import Database
from portal.gateways import facts
from portal.gateways.base import CustomerRecord, OrderRecord, PaymentRecord, Snapshot, SubscriptionRecord
from portal.merchants import Refused
from portal.money import Money
from portal.queries import Cursor
from portal.settings import Settings
from tests.unit.builders import (
    MASTER_KEY,
    NOW,
    make_account,
    make_action,
    make_customer,
    make_invoice,
    make_order,
    make_payment,
    make_portal,
    make_request,
    make_subscription,
    save,
)
from tests.unit.plans import plan, reads_little, sorts, uses

FIREFOX = "Mozilla/5.0 (Windows NT 10.0) Firefox/140.0"


class Shop:
    """A portal with an account, somebody of the merchant, and a stranger's portal."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.portal = make_portal(database)
        self.account = make_account(database, self.portal)
        self.other = make_portal(database, "kora", name="Kora")
        user = save(database, models.User(email="ed@acme.example", created_at=NOW))
        self.person = merchants.Person(
            user.id, user.email, None, self.portal.merchant_id, "Acme", "editor", 1, NOW
        )

    def hears(self, as_of: datetime, **records: Any) -> None:
        told: Any = {kind: tuple(found) for kind, found in records.items()}
        snapshot = Snapshot(as_of=as_of, **told)
        self.database.write_now(sync.apply, self.account, snapshot)

    def whose(self, model: Any, remote_id: str) -> str | None:
        def read(db: Session) -> str | None:
            row = db.execute(select(model).where(model.remote_id == remote_id)).scalar_one()
            return db.get_one(models.Customer, row.customer_id).email if row.customer_id else None

        return self.database.read_now(read)

    def one(self, model: Any, **values: Any) -> Any:
        wanted = [getattr(model, name) == value for name, value in values.items()]
        return self.database.read_now(lambda db: db.execute(select(model).where(*wanted)).scalar_one())

    def customer(self, email: str) -> models.Customer:
        return self.one(models.Customer, email=email, portal_id=self.portal.id)  # type: ignore[no-any-return]

    def nobodys(self, kind: str | None = None) -> list[tuple[str, str]]:
        page = self.database.read_now(people.of_nobody, self.portal.id, kind)
        return [(row.kind, row.remote_id) for row in page.rows]

    def assign(self, kind: str, remote_id: str, email: str) -> int:
        row = self.one(sync.KINDS[kind], remote_id=remote_id)
        return self.database.write_now(
            people.assign, self.person, self.portal.id, kind, row.id, email, clock.now()
        )

    def ignore(self, kind: str, remote_id: str) -> None:
        row = self.one(sync.KINDS[kind], remote_id=remote_id)
        self.database.write_now(people.ignore, self.person, self.portal.id, kind, row.id, clock.now())

    def take_back(self) -> None:
        said = self.one(models.Assignment)
        self.database.write_now(people.take_back, self.person, self.portal.id, said.id)

    def audits(self) -> list[tuple[str, str | None]]:
        return [(row.what, row.subject) for row in self.all(models.Audit)]

    def jobs(self, kind: str) -> list[models.Job]:
        return self.all(models.Job, kind=kind)

    def all(self, model: Any, **values: Any) -> list[Any]:
        wanted = [getattr(model, name) == value for name, value in values.items()]
        return self.database.read_now(
            lambda db: list(db.execute(select(model).where(*wanted).order_by(model.id)).scalars())
        )

    # Joins

    def ask(self, into: str, email: str) -> None:
        customer = self.customer(into)
        self.database.write_now(people.ask_join, self.person, self.portal.id, customer.id, email, clock.now())

    def link(self) -> str:
        """The secret of the last mail that asks."""
        found = self.database.write_now(people.new_link, self.jobs("mail")[-1].payload["join"], clock.now())
        assert found is not None
        return found[1]

    def prove(self, token: str) -> bool:
        return self.database.write_now(people.prove, self.portal.id, token, clock.now())

    def join(self, into: str, email: str) -> int:
        self.ask(into, email)
        join_id: int = self.jobs("mail")[-1].payload["join"]
        assert self.prove(self.link())
        return join_id

    def undo(self, join_id: int) -> None:
        row = self.one(models.Join, id=join_id)
        self.database.write_now(
            people.undo_join, self.person, self.portal.id, row.into_id, join_id, clock.now()
        )


@pytest.fixture
def shop(database: Database) -> Shop:
    return Shop(database)


def at(minutes: int) -> datetime:
    return NOW + timedelta(minutes=minutes)


def order(remote_id: str = "o_1", **fields: Any) -> OrderRecord:
    return OrderRecord(remote_id=remote_id, status="paid", number="1001", amount=Money(2400, "USD"), **fields)


def payment(remote_id: str = "ch_1", **fields: Any) -> PaymentRecord:
    return PaymentRecord(remote_id=remote_id, status="paid", amount=Money(2400, "USD"), **fields)


# Records of nobody


def test_what_has_no_address_is_nobodys_and_is_listed(shop: Shop) -> None:
    shop.hears(
        at(1),
        customers=[CustomerRecord(remote_id="cus_1", name="Ana Almeida")],
        orders=[order(), order("o_2", email="ben@example.com")],
        payments=[payment(order="o_1")],
        subscriptions=[SubscriptionRecord(remote_id="sub_1", status="active", customer="cus_1")],
    )
    assert set(shop.nobodys()) == {
        ("customer", "cus_1"),
        ("order", "o_1"),
        ("payment", "ch_1"),
        ("subscription", "sub_1"),
    }
    assert shop.nobodys("order") == [("order", "o_1")]
    (row,) = shop.database.read_now(people.of_nobody, shop.portal.id, "order").rows
    assert (row.number, row.minor, row.currency, row.label) == ("1001", 2400, "USD", "Stripe")
    assert shop.database.read_now(people.of_nobody, shop.other.id).rows == ()


def test_an_invoice_that_hangs_on_something_is_not_listed_by_itself(shop: Shop) -> None:
    make_invoice(shop.database, shop.account, None, remote_id="in_1", payment_remote="ch_1")
    make_invoice(shop.database, shop.account, None, remote_id="in_2", subscription_remote="sub_1")
    make_invoice(shop.database, shop.account, None, remote_id="in_3")
    assert shop.nobodys() == [("invoice", "in_3")]


def test_the_list_of_all_kinds_goes_on_by_its_cursor_and_none_twice(shop: Shop) -> None:
    for number in range(20):
        moment = NOW - timedelta(hours=number // 4)  # several at the same moment
        make_order(shop.database, shop.account, None, placed_at=moment)
        make_payment(shop.database, shop.account, None, placed_at=moment)
        make_subscription(shop.database, shop.account, None, placed_at=moment)
    seen: list[people.Record] = []
    cursor, sizes = None, []
    while True:
        page = shop.database.read_now(people.of_nobody, shop.portal.id, None, cursor)
        seen += page.rows
        sizes.append(len(page.rows))
        if page.older is None:
            break
        cursor = Cursor.parse(page.older)
    assert sizes == [25, 25, 10]
    assert len({row.id for row in seen}) == 60
    assert seen == sorted(seen, key=lambda row: (row.placed_at, row.id), reverse=True)


def test_an_order_is_assigned_with_its_payments(shop: Shop) -> None:
    shop.hears(
        at(1),
        orders=[order()],
        payments=[
            payment(order="o_1"),
            payment("ch_2", order="o_1", customer="cus_9"),  # of a customer that nobody knows
            payment("ch_3", order="o_1", email="ben@example.com"),
        ],
    )
    customer_id = shop.assign("order", "o_1", " Ana@Example.com ")
    assert shop.customer("ana@example.com").id == customer_id
    assert shop.whose(models.Order, "o_1") == "ana@example.com"
    assert shop.whose(models.Payment, "ch_1") == "ana@example.com"
    assert shop.whose(models.Payment, "ch_2") == "ana@example.com"
    assert shop.whose(models.Payment, "ch_3") == "ben@example.com"
    assert shop.nobodys() == []
    assert shop.audits() == [("record.assigned", "order 1001")]


def test_a_remote_customer_is_assigned_with_all_that_is_theirs(shop: Shop) -> None:
    shop.hears(
        at(1),
        customers=[CustomerRecord(remote_id="cus_1", name="Ana")],
        orders=[order(customer="cus_1")],
        payments=[payment(order="o_1"), payment("ch_2", customer="cus_1")],
    )
    shop.assign("customer", "cus_1", "ana@example.com")
    assert shop.whose(models.Order, "o_1") == "ana@example.com"
    assert shop.whose(models.Payment, "ch_1") == "ana@example.com"
    assert shop.whose(models.Payment, "ch_2") == "ana@example.com"
    shop.hears(at(2), orders=[order("o_2", customer="cus_1")])
    assert shop.whose(models.Order, "o_2") == "ana@example.com"


def test_no_later_word_of_the_processor_changes_what_the_merchant_said(shop: Shop) -> None:
    shop.hears(at(1), orders=[order(), order("o_2")], payments=[payment(order="o_1")])
    shop.assign("order", "o_1", "ana@example.com")
    shop.ignore("order", "o_2")
    shop.hears(at(2), orders=[order(title="Beans"), order("o_2")])
    assert shop.whose(models.Order, "o_1") == "ana@example.com"
    assert shop.nobodys() == []
    # Not even one that names an address.
    shop.hears(at(3), orders=[order(email="ben@example.com"), order("o_2", email="ben@example.com")])
    assert shop.whose(models.Order, "o_1") == "ana@example.com"
    assert shop.whose(models.Order, "o_2") is None
    shop.hears(at(4), payments=[payment(order="o_1", title="again"), payment("ch_2", order="o_1")])
    assert shop.whose(models.Payment, "ch_1") == "ana@example.com"
    assert shop.whose(models.Payment, "ch_2") == "ana@example.com"


def test_what_is_taken_back_is_whose_the_processor_says(shop: Shop) -> None:
    shop.hears(at(1), orders=[order()], payments=[payment(order="o_1")])
    shop.assign("order", "o_1", "ana@example.com")
    shop.take_back()
    assert shop.whose(models.Order, "o_1") is None
    assert shop.whose(models.Payment, "ch_1") is None
    assert set(shop.nobodys()) == {("order", "o_1"), ("payment", "ch_1")}
    shop.assign("order", "o_1", "ana@example.com")
    shop.hears(at(2), orders=[order(email="ben@example.com")])
    shop.take_back()
    assert shop.whose(models.Order, "o_1") == "ben@example.com"
    assert shop.whose(models.Payment, "ch_1") == "ben@example.com"
    assert [what for what, _ in shop.audits()] == ["record.assigned", "record.taken_back"] * 2


def test_ignored_is_listed_with_what_was_said_and_can_be_taken_back(shop: Shop) -> None:
    shop.hears(at(1), orders=[order()], payments=[payment("ch_9")])
    shop.ignore("order", "o_1")
    shop.assign("payment", "ch_9", "ana@example.com")
    said = shop.database.read_now(people.said, shop.portal.id)
    assert [(row.kind, row.name, row.email, row.by) for row in said.rows] == [
        ("payment", None, "ana@example.com", "ed@acme.example"),
        ("order", "1001", None, "ed@acme.example"),
    ]
    assert shop.database.read_now(people.said, shop.other.id).rows == ()
    with pytest.raises(LookupError):
        shop.database.write_now(people.take_back, shop.person, shop.other.id, said.rows[1].id)
    shop.database.write_now(people.take_back, shop.person, shop.portal.id, said.rows[1].id)
    assert shop.nobodys() == [("order", "o_1")]


@pytest.mark.parametrize(
    "email",
    [
        "",
        "ana",
        "ana@",
        "@example.com",
        "ana@example..com",
        "a b@example.com",
        "ana@example.com, ben@example.com",
        f"{'a' * 250}@example.com",
    ],
)
def test_what_is_no_address_is_refused(shop: Shop, email: str) -> None:
    shop.hears(at(1), orders=[order()])
    with pytest.raises(Refused, match="Enter an address"):
        shop.assign("order", "o_1", email)
    assert shop.nobodys() == [("order", "o_1")]


def test_a_placeholder_of_the_processor_is_nobody(shop: Shop) -> None:
    shop.account = make_account(shop.database, shop.portal, "razorpay")
    placeholder = facts("razorpay").no_email[0]
    shop.hears(at(1), orders=[order(email=placeholder)], payments=[payment(order="o_1", email=placeholder)])
    with pytest.raises(Refused, match="nobody's"):
        shop.assign("order", "o_1", placeholder)
    shop.assign("order", "o_1", "ana@example.com")
    assert shop.whose(models.Payment, "ch_1") == "ana@example.com"


def test_what_is_somebodys_by_now_is_not_assigned(shop: Shop) -> None:
    shop.hears(at(1), orders=[order()])
    shop.hears(at(2), orders=[order(email="ben@example.com")])
    with pytest.raises(Refused, match=r"ben@example\.com by now"):
        shop.assign("order", "o_1", "ana@example.com")
    shop.hears(at(3), orders=[order("o_2")])
    shop.ignore("order", "o_2")
    with pytest.raises(Refused, match="leave this alone"):
        shop.assign("order", "o_2", "ana@example.com")


def test_a_strangers_record_is_not_there(shop: Shop) -> None:
    row = make_order(shop.database, make_account(shop.database, shop.other), None)
    assert shop.database.read_now(people.record, shop.portal.id, "order", row.id) is None
    assert shop.database.read_now(people.record, shop.other.id, "order", row.id) is not None
    for call in (
        lambda db: people.assign(db, shop.person, shop.portal.id, "order", row.id, "a@example.com", NOW),
        lambda db: people.ignore(db, shop.person, shop.portal.id, "order", row.id, NOW),
    ):
        with pytest.raises(LookupError):
            shop.database.write_now(call)


# Further addresses


def both(shop: Shop) -> None:
    """Ana has an order; the same person has a subscription, a payment and an order under another address."""
    shop.hears(
        at(1),
        customers=[CustomerRecord(remote_id="cus_2", email="old@example.com", name="Ana Almeida")],
        orders=[order(email="ana@example.com"), order("o_2", email="old@example.com")],
        subscriptions=[SubscriptionRecord(remote_id="sub_2", status="active", customer="cus_2")],
        payments=[
            payment("ch_2", subscription="sub_2"),
            payment("ch_3", order="o_2"),
            payment("ch_4", email="old@example.com"),
        ],
    )
    make_invoice(
        shop.database, shop.account, shop.customer("old@example.com"), remote_id="in_2", customer_id=None
    )


ROWS: Sequence[tuple[Any, str]] = (
    (models.RemoteCustomer, "cus_2"),
    (models.Order, "o_2"),
    (models.Subscription, "sub_2"),
    (models.Payment, "ch_2"),
    (models.Payment, "ch_3"),
    (models.Payment, "ch_4"),
)


def owners(shop: Shop) -> set[str | None]:
    return {shop.whose(model, remote_id) for model, remote_id in ROWS}


def test_an_address_is_joined_by_its_mail_alone(shop: Shop) -> None:
    both(shop)
    shop.ask("ana@example.com", "OLD@example.com")
    assert owners(shop) == {"old@example.com"}
    assert shop.jobs("mail")[-1].payload["template"] == "join_asked"
    token = shop.link()
    asked = shop.database.read_now(people.question, shop.portal.id, token, clock.now())
    assert isinstance(asked, people.Question)
    assert (asked.address, asked.other) == ("old@example.com", "ana@example.com")
    assert owners(shop) == {"old@example.com"}  # looking changes nothing
    assert shop.prove(token)
    assert owners(shop) == {"ana@example.com"}
    assert shop.jobs("mail")[-1].payload["template"] == "joined"
    # What comes later under that address is hers, too.
    shop.hears(at(5), orders=[order("o_5", email="old@example.com"), order("o_6", customer="cus_2")])
    assert shop.whose(models.Order, "o_5") == "ana@example.com"
    assert shop.whose(models.Order, "o_6") == "ana@example.com"
    shop.hears(at(6), orders=[order("o_7")])
    shop.assign("order", "o_7", "old@example.com")
    assert shop.whose(models.Order, "o_7") == "ana@example.com"
    assert shop.audits()[:3] == [
        ("address.asked", "ana@example.com"),
        ("address.joined", "ana@example.com"),
        ("address.joined", "old@example.com"),
    ]


def test_a_link_works_once_for_a_day_and_in_its_portal(shop: Shop) -> None:
    both(shop)
    shop.ask("ana@example.com", "old@example.com")
    token = shop.link()
    assert not shop.database.write_now(people.prove, shop.other.id, token, clock.now())
    assert shop.database.read_now(people.question, shop.other.id, token, clock.now()) is None
    late = clock.now() + timedelta(hours=24)
    assert not shop.database.write_now(people.prove, shop.portal.id, token, late)
    assert shop.database.read_now(people.question, shop.portal.id, token, late) == "expired"
    assert not shop.prove("x" * 43)
    assert shop.prove(token)
    assert not shop.prove(token)
    assert shop.database.read_now(people.question, shop.portal.id, token, clock.now()) == "used"
    stored = shop.one(models.Join)
    assert token not in repr(stored.model_dump())


def test_of_two_mails_the_last_one_counts(shop: Shop) -> None:
    both(shop)
    shop.ask("ana@example.com", "old@example.com")
    first = shop.link()
    shop.ask("ana@example.com", "old@example.com")
    assert not shop.prove(first)
    assert shop.prove(shop.link())


def test_an_address_of_nobody_is_answered_alike_and_gets_no_mail(shop: Shop) -> None:
    both(shop)
    shop.ask("ana@example.com", "nobody@example.com")
    assert shop.jobs("mail") == []
    assert shop.audits() == [("address.asked", "ana@example.com")]


def test_three_mails_a_day_and_address(shop: Shop) -> None:
    both(shop)
    for _ in range(3):
        shop.ask("ana@example.com", "old@example.com")
    with pytest.raises(Refused, match="Three mails"):
        shop.ask("ana@example.com", "old@example.com")
    assert len(shop.jobs("mail")) == 3


def test_chains_and_circles_are_refused(shop: Shop) -> None:
    both(shop)
    for email in ("third@example.com", "fourth@example.com"):
        make_customer(shop.database, shop.portal, email)
    shop.join("ana@example.com", "old@example.com")
    for into, further, why in (
        ("ana@example.com", "ana@example.com", "have already"),
        ("third@example.com", "old@example.com", "joined with somebody"),
        ("third@example.com", "ana@example.com", "further addresses"),
        ("old@example.com", "third@example.com", "joined with another"),
        ("old@example.com", "ana@example.com", "joined with another"),
        ("old@example.com", "nobody@example.com", "joined with another"),
    ):
        with pytest.raises(Refused, match=why):
            shop.ask(into, further)
    shop.join("ana@example.com", "third@example.com")  # two addresses of one person are no chain
    assert (
        len(
            shop.database.read_now(
                people.addresses, shop.portal.id, shop.customer("ana@example.com").id
            ).further
        )
        == 2
    )


def test_a_link_that_would_make_a_chain_by_now_does_nothing(shop: Shop) -> None:
    both(shop)
    make_customer(shop.database, shop.portal, "third@example.com")
    shop.ask("ana@example.com", "old@example.com")
    to_old = shop.link()
    shop.join("third@example.com", "ana@example.com")  # meanwhile she was joined herself
    assert not shop.prove(to_old)
    assert owners(shop) == {"old@example.com"}


def test_what_was_done_and_issued_goes_along_and_comes_back(shop: Shop) -> None:
    both(shop)
    second = shop.customer("old@example.com")
    row = shop.one(models.Subscription, remote_id="sub_2")
    paid = shop.one(models.Payment, remote_id="ch_2")
    make_action(shop.database, row)
    make_request(shop.database, row)
    make_request(shop.database, paid)
    issued = models.IssuedDocument(
        portal_id=shop.portal.id,
        customer_id=second.id,
        payment_id=paid.id,
        kind="receipt",
        sequence=1,
        number="R-1",
        facts={},
        issued_at=NOW,
    )
    save(shop.database, issued)

    def belong() -> set[int]:
        def read(db: Session) -> set[int]:
            found: tuple[Any, ...] = (models.Action, models.Request, models.IssuedDocument)
            return {who for model in found for who in db.execute(select(model.customer_id)).scalars()}

        return shop.database.read_now(read)

    assert belong() == {second.id}
    with reads_little(shop.database, "account", "job"):
        join_id = shop.join("ana@example.com", "old@example.com")
    assert belong() == {shop.customer("ana@example.com").id}
    shop.undo(join_id)
    assert belong() == {second.id}
    assert owners(shop) == {"old@example.com"}


def test_one_click_parts_them_again(shop: Shop) -> None:
    both(shop)
    join_id = shop.join("ana@example.com", "old@example.com")
    shop.hears(at(5), orders=[order("o_5", email="old@example.com")])
    ana, third = shop.customer("ana@example.com"), make_customer(shop.database, shop.portal, "c@example.com")
    for portal, who in ((shop.other, ana), (shop.portal, third)):
        with pytest.raises(LookupError):
            shop.database.write_now(people.undo_join, shop.person, portal.id, who.id, join_id, clock.now())
    shop.undo(join_id)
    assert owners(shop) == {"old@example.com"}
    assert shop.whose(models.Order, "o_5") == "old@example.com"
    assert shop.whose(models.Order, "o_1") == "ana@example.com"
    assert shop.audits()[-2:] == [
        ("address.parted", "ana@example.com"),
        ("address.parted", "old@example.com"),
    ]
    told = [(job.payload["template"], job.payload.get("whose")) for job in shop.jobs("mail")]
    assert told[1:] == [(what, whose) for what in ("joined", "parted") for whose in ("further", "main")]
    with pytest.raises(LookupError):
        shop.undo(join_id)
    shop.join("ana@example.com", "old@example.com")  # and may be joined anew
    assert owners(shop) == {"ana@example.com"}


def test_a_row_written_meanwhile_by_what_stood_before_is_settled(shop: Shop) -> None:
    both(shop)
    join_id = shop.join("ana@example.com", "old@example.com")
    second, ana = shop.customer("old@example.com"), shop.customer("ana@example.com")

    def write_late(customer_id: int) -> None:
        shop.database.write_now(
            lambda db: db.execute(
                update(models.Order)
                .where(col(models.Order.remote_id) == "o_2")
                .values(customer_id=customer_id)
            )
        )

    write_late(second.id)
    (job,) = shop.jobs("settle_join")
    assert job.run_at > clock.now() + timedelta(minutes=1)
    shop.database.write_now(people.settle_join, join_id)
    assert shop.whose(models.Order, "o_2") == "ana@example.com"
    shop.undo(join_id)
    write_late(ana.id)
    shop.database.write_now(people.settle_join, join_id)
    assert shop.whose(models.Order, "o_2") == "old@example.com"


def test_the_worker_settles_it_when_its_time_has_come(shop: Shop) -> None:
    both(shop)
    shop.join("ana@example.com", "old@example.com")
    second = shop.customer("old@example.com")
    make_order(shop.database, shop.account, second, remote_id="o_late")
    worker = work.Worker(Settings(master_keys=MASTER_KEY, scheme="http"), shop.database)
    (job,) = shop.jobs("settle_join")

    async def handle() -> None:
        await worker._handlers[job.kind](job.payload)

    asyncio.run(handle())
    assert shop.whose(models.Order, "o_late") == "ana@example.com"


def session(shop: Shop, email: str) -> str:
    token = shop.database.write_now(
        login._open_session, shop.portal.id, email, "browser", FIREFOX, None, clock.now()
    )
    assert token is not None
    return token


def who(shop: Shop, token: str) -> str | None:
    found = shop.database.read_now(login.load_session, shop.portal.id, token, clock.now())
    return found.customer.email if found else None


def test_whoever_signs_in_with_the_further_address_is_the_person(shop: Shop) -> None:
    both(shop)
    before = session(shop, "old@example.com")
    own = session(shop, "ana@example.com")
    assert who(shop, before) == "old@example.com"
    join_id = shop.join("ana@example.com", "old@example.com")
    after = session(shop, "old@example.com")
    assert who(shop, before) == who(shop, after) == "ana@example.com"
    shop.undo(join_id)
    # Nobody goes on seeing what is another's again; who came by their own address stays.
    assert who(shop, before) is None
    assert who(shop, after) is None
    assert who(shop, own) == "ana@example.com"
    assert who(shop, session(shop, "old@example.com")) == "old@example.com"


def test_the_page_knows_both_ways(shop: Shop) -> None:
    both(shop)
    ana, second = shop.customer("ana@example.com"), shop.customer("old@example.com")
    shop.ask("ana@example.com", "old@example.com")
    waiting = shop.database.read_now(people.addresses, shop.portal.id, ana.id)
    assert [(one.email, one.proved_at) for one in waiting.further] == [("old@example.com", None)]
    assert shop.database.read_now(people.addresses, shop.portal.id, second.id).of is None
    assert shop.prove(shop.link())
    of = shop.database.read_now(people.addresses, shop.portal.id, second.id).of
    assert of is not None
    assert of.email == "ana@example.com"
    assert shop.database.read_now(people.addresses, shop.other.id, second.id) == people.Addresses(None, ())


def test_two_proofs_at_once_make_no_circle(shop: Shop) -> None:
    both(shop)
    shop.ask("ana@example.com", "old@example.com")
    to_old = shop.link()
    shop.ask("old@example.com", "ana@example.com")
    to_ana = shop.link()
    assert [shop.prove(to_old), shop.prove(to_ana)] == [True, False]


# Plans


@pytest.mark.parametrize("kind", list(sync.KINDS))
@pytest.mark.parametrize("later", [False, True])
def test_the_lists_of_nobodys_records_are_read_by_their_index(shop: Shop, kind: str, later: bool) -> None:
    make = {"order": make_order, "subscription": make_subscription, "payment": make_payment}.get(kind)
    ana = make_customer(shop.database, shop.portal)
    for number in range(40):
        if make:
            make(shop.database, shop.account, None if number % 8 == 0 else ana)
    values: dict[str, Any] = {"portal": shop.portal.id}
    if later:
        values |= {"placed_at": NOW, "id": 2**62}

    lines = plan(shop.database, people.OF_NOBODY[kind][later], values)
    name = "remote_customer" if kind == "customer" else kind
    assert uses(lines, f"ix_{name}_nobodys"), lines
    assert not sorts(lines), lines


def test_what_was_said_is_read_by_its_index(shop: Shop) -> None:
    lines = plan(shop.database, people.SAID, {"portal": shop.portal.id, "before": 2**62})
    assert uses(lines, "ix_assignment_list"), lines
    assert not sorts(lines), lines
