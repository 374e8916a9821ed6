"""Finding an order without its address: one answer for everybody, a mail to the address on the order alone, the shop
where that mailbox is out of reach."""

import asyncio
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, desk, letters, merchants, models, people, rescue, search, sync, work
from portal.db import Database
from portal.gateways.base import OrderRecord, Snapshot
from portal.ids import id_text
from portal.requests import NotOpen
from tests.unit.builders import (
    NOW,
    make_account,
    make_customer,
    make_invoice,
    make_order,
    make_payment,
    make_portal,
    make_subscription,
    save,
)
from tests.unit.plans import plan, uses, wholes
from tests.unit.test_login_views import Browser, _fixed, words

HERE = "/customers/find-order"
RIGHT = {"reference": "#A-1001", "last4": "4242", "amount": "24.00", "currency": "usd", "way": "mail"}
SHOP = {**RIGHT, "way": "shop", "contact": "ana@example.com"}


class Shop:
    """A portal with one order that was bought with a mistyped address, and a worker whose mails are kept."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = database
        self.portal = make_portal(database)
        self.account = make_account(database, self.portal)
        self.typo = make_customer(database, self.portal, "ana@exmaple.com")
        self.order = make_order(
            database, self.account, self.typo, number="A-1001", remote_id="cs_9", title=None
        )
        self.payment = self.pays(order_remote="cs_9", remote_id="ch_9")
        self.mails: list[tuple[str, str, str]] = []
        monkeypatch.setattr(letters, "send_batch", self._send)
        self.browser = Browser(database)
        self.worker = work.Worker(self.browser.app.state.settings, database)  # type: ignore[attr-defined]

    async def _send(self, _settings: Any, messages: Any, taken: Any = None) -> list[None]:
        for number, (to, message) in enumerate(messages):
            self.mails.append((to, message["Subject"], message.get_body(("plain",)).get_content()))
            await taken(number)
        return [None] * len(messages)

    def pays(self, **fields: Any) -> models.Payment:
        return make_payment(self.database, self.account, self.typo, **fields)

    def asks(self, browser: Any = None, **fields: str) -> Any:
        return (browser or self.browser).post(HERE, data={**RIGHT, **fields})

    def work(self) -> list[tuple[str, str, str]]:
        asyncio.run(self.worker.drain())
        return self.mails

    def to(self) -> list[str]:
        return [to for to, _, _ in self.work()]

    def person(self) -> merchants.Person:
        user = save(self.database, models.User(email="ed@acme.example", created_at=NOW))
        merchant_id = self.portal.merchant_id
        return merchants.Person(user.id, user.email, None, merchant_id, "Acme", "editor", 1, NOW)

    def request(self) -> models.Request:
        return self.database.read_now(lambda db: db.execute(select(models.Request)).scalar_one())

    def count(self, model: Any) -> int:
        wanted = select(func.count()).select_from(model)
        return self.database.read_now(lambda db: db.execute(wanted).scalar_one())

    def asked(self, **fields: Any) -> models.OrderAsk:
        values = {
            "portal_id": self.portal.id, "reference": "A-1001", "last4": "4242", "amount": "24", "currency": "USD",
            "browser_hash": "", "user_agent": "", "network": "", "created_at": NOW,
        }  # fmt: skip
        return models.OrderAsk(**{**values, **fields})

    def matches(self, **fields: Any) -> str | None:
        found = self.database.read_now(lambda db: rescue.match(db, self.asked(**fields)))
        return found.remote_id if found else None


@pytest.fixture
def shop(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    found = Shop(database, monkeypatch)
    with found.browser:
        yield found


# The form and its answer


@pytest.mark.usefixtures("sqlite_only")
def test_the_form_says_what_is_wrong_with_itself_alone_and_keeps_what_was_typed(shop: Shop) -> None:
    answer = shop.asks(
        reference=" ", last4="42", amount="much", currency="$", date="soon", way="shop", contact="x"
    )
    assert answer.status_code == 422
    for name in ("reference", "last4", "amount", "currency", "date", "contact"):
        assert f'id="{name}-error"' in answer.text
        assert f'href="#{name}"' in answer.text
    assert 'value="much"' in answer.text
    assert "<title>Error:" in answer.text
    assert shop.count(models.OrderAsk) == 0
    assert "script" not in shop.browser.get(HERE).text


WRONG = [
    {"reference": "A-1002"}, {"last4": "4243"}, {"amount": "24.01"}, {"currency": "EUR"}, {"date": "2020-01-01"},
    {"way": "shop", "contact": "ana@example.com"}, {},
]  # fmt: skip


def test_everybody_gets_the_same_answer_by_the_same_statements(shop: Shop, database: Database) -> None:
    seen: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    answers, pages, statements = [], [], []
    for wrong in WRONG:
        with Browser(database) as browser:
            browser.get(HERE)
            event.listen(database.engine, "before_cursor_execute", note)
            seen.clear()
            answer = shop.asks(browser, **wrong)
            event.remove(database.engine, "before_cursor_execute", note)
            statements.append(list(seen))
            shop.work()
            page = browser.get(answer.headers["location"])
            answers.append((answer.status_code, answer.content, _fixed(answer.headers)))
            pages.append((page.status_code, page.content, sorted(page.headers)))
            # Nor does any other page of this browser know more than before.
            assert browser.get("/customers/login/check").headers["location"] == "/customers"
    assert all(one == answers[0] for one in answers)
    assert all(one == pages[0] for one in pages)
    assert all(one == statements[0] for one in statements)
    assert not any("FROM payment" in one or "FROM order_" in one for one in statements[0])
    assert "exmaple.com" not in pages[0][1].decode()


@pytest.mark.usefixtures("sqlite_only")
def test_the_answer_stands_there_for_who_never_asked(shop: Shop, database: Database) -> None:
    with Browser(database) as other:
        assert other.get(f"{HERE}/sent").status_code == 200


# The mail


def test_a_match_mails_the_address_on_the_order_and_its_link_signs_in(shop: Shop, database: Database) -> None:
    shop.asks(contact="eve@example.com")  # typed, and not chosen: nothing goes there
    ((to, subject, text),) = shop.work()
    assert (to, subject) == ("ana@exmaple.com", "The order you looked for: A-1001")
    assert "a•••@exmaple.com" in text
    link = re.search(r"(/customers/login/\S+)", text)
    assert link
    page = shop.browser.get(link[1])
    assert "That was this browser" in words(page)
    with Browser(database) as phone:
        answer = phone.post(link[1])
        assert answer.headers["location"] == f"/customers/orders/{id_text(shop.order.id)}"
        assert "A-1001" in phone.get(answer.headers["location"]).text
        assert phone.post(link[1]).status_code == 410
    assert shop.count(models.Request) == 0


@pytest.mark.usefixtures("sqlite_only")
def test_nothing_that_is_not_whole_mails_anybody(shop: Shop) -> None:
    for wrong in WRONG[:5]:
        with Browser(shop.database) as browser:
            shop.asks(browser, **wrong)
    assert shop.to() == []


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, "ch_9"),
        ({"reference": "CH_9"}, "ch_9"),  # what the bank statement shows
        ({"reference": "CS_9"}, "ch_9"),
        ({"reference": "IN-77"}, "ch_9"),
        ({"reference": "I-SUB", "amount": "9,00"}, "ch_sub"),
        ({"amount": "24,00"}, "ch_9"),
        ({"amount": "2400"}, None),
        ({"reference": "A-2002"}, None),  # it failed
        ({"last4": "0000"}, None),
        ({"placed_on": (NOW - timedelta(days=13)).date()}, "ch_9"),
        ({"placed_on": (NOW - timedelta(days=20)).date()}, None),
        ({"currency": "CAD"}, None),
    ],
)
def test_what_is_looked_up_by_what(shop: Shop, fields: dict[str, Any], found: str | None) -> None:
    make_invoice(shop.database, shop.account, shop.typo, number="IN-77", payment_remote="ch_9")
    make_subscription(shop.database, shop.account, shop.typo, remote_id="I-SUB")
    shop.pays(remote_id="ch_sub", subscription_remote="I-SUB", amount_minor=900)
    make_order(shop.database, shop.account, shop.typo, number="A-2002", remote_id="cs_2")
    shop.pays(remote_id="ch_2", order_remote="cs_2", status="failed")
    wallet = shop.pays(remote_id="ch_w", order_remote="cs_9", method={"kind": "wallet", "brand": "PayPal"})
    assert wallet.method is not None
    assert shop.matches(**fields) == found


def test_another_portals_order_is_not_found(shop: Shop) -> None:
    kora = make_portal(shop.database, "kora")
    assert shop.matches(portal_id=kora.id) is None


@pytest.mark.usefixtures("sqlite_only")
def test_an_order_of_nobody_mails_nobody(shop: Shop) -> None:
    make_order(shop.database, shop.account, None, number="N-1", remote_id="n1")
    make_payment(shop.database, shop.account, None, order_remote="n1")
    shop.asks(reference="N-1")
    assert shop.to() == []


# Limits


def test_limits_are_silent_and_count_networks_numbers_orders_and_mailboxes(
    shop: Shop, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(7):
        assert shop.asks().headers["location"] == f"{HERE}/sent"
    assert shop.to() == ["ana@exmaple.com"] * rescue.PER_SUBJECT[1]
    database.write_now(lambda db: db.execute(models.OrderAsk.__table__.delete()))  # type: ignore[attr-defined]
    monkeypatch.setattr(rescue, "PER_NETWORK", ())
    monkeypatch.setattr(rescue, "PER_BROWSER", ())
    # Four digits are not to be tried out, from wherever: after five tries the right ones find nothing either.
    for digits in ("1111", "2222", "3333", "4444", "5555", "4242"):
        shop.asks(last4=digits)
    assert len(shop.to()) == rescue.PER_SUBJECT[1]
    for number in range(6):
        make_order(database, shop.account, shop.typo, number=f"M-{number}", remote_id=f"m{number}")
        shop.pays(order_remote=f"m{number}")
        shop.asks(reference=f"M-{number}")
    assert len(shop.to()) == rescue.PER_MAILBOX[1]


@pytest.mark.usefixtures("sqlite_only")
def test_one_network_is_stopped_after_five_in_a_quarter_of_an_hour(shop: Shop) -> None:
    for number in range(6):
        with Browser(shop.database) as browser:
            shop.asks(browser, reference="A-1001" if number == 5 else f"X-{number}")
    assert shop.to() == []
    clock.set_offset(timedelta(minutes=16))
    shop.asks()
    assert shop.to() == ["ana@exmaple.com"]


def test_old_asks_are_forgotten(shop: Shop) -> None:
    shop.asks()
    shop.database.write_now(rescue.forget_old, clock.now() + rescue.KEEP)
    assert shop.count(models.OrderAsk) == 0


# The shop


def test_the_shop_is_asked_and_nothing_goes_to_the_address_that_was_typed(shop: Shop) -> None:
    shop.asks(**SHOP)
    found = shop.work()
    assert sorted(to for to, _, _ in found) == ["ana@exmaple.com", "help@acme.example"]
    told = next(text for to, _, text in found if to == "help@acme.example")
    assert "left the address ana@example.com. It is not verified" in " ".join(told.split())
    warned = next(text for to, _, text in found if to == "ana@exmaple.com")
    assert "Not you? Answer this mail" in " ".join(warned.split())
    row = shop.request()
    assert (row.kind, row.customer_id, row.contact) == ("find_order", None, "ana@example.com")
    assert (row.account_id, row.subject_id) == (shop.account.id, shop.payment.id)
    queue = shop.database.read_now(desk.queue, shop.portal.id, "open", clock.now())
    assert [(one.email, one.kind) for one in queue.rows] == [("ana@example.com", "find_order")]
    shop.asks(**SHOP)
    assert shop.to().count("help@acme.example") == 1  # it is asked already


def test_what_matches_nothing_is_asked_too(shop: Shop) -> None:
    shop.asks(**{**SHOP, "reference": "Z-9"})
    assert shop.to() == ["help@acme.example"]
    row = shop.request()
    assert (row.account_id, row.what, row.params["payment"]) == (None, "Z-9", None)
    page = shop.database.read_now(desk.request_page, shop.portal.id, row.id)
    assert page is not None
    assert (page.found, page.owner, page.email) == (False, None, "ana@example.com")
    found = shop.database.read_now(search.search, shop.portal.id, search.read(row.reference))
    assert [one.email for group in found for one in group.things] == ["ana@example.com"]


def test_the_merchant_gives_it_to_the_address_and_can_take_it_back(shop: Shop) -> None:
    database, portal = shop.database, shop.portal
    other = make_order(database, shop.account, shop.typo, number="A-1003", remote_id="cs_8")
    shop.asks(**SHOP)
    shop.work()
    person = shop.person()
    answered = (person, portal.id, shop.request().id, "done", "Here it is.", clock.now())
    database.write_now(desk.answer, *answered, give=True)

    def whose(db: Any, model: Any, row_id: int) -> str:
        return db.get_one(models.Customer, db.get_one(model, row_id).customer_id).email  # type: ignore[no-any-return]

    assert database.read_now(whose, models.Order, shop.order.id) == "ana@example.com"
    assert database.read_now(whose, models.Payment, shop.payment.id) == "ana@example.com"
    assert database.read_now(whose, models.Order, other.id) == "ana@exmaple.com"  # that alone was asked for
    told = {(to, subject) for to, subject, _ in shop.work()}
    assert ("ana@exmaple.com", "Now shown to another address: Monthly coffee box") in told
    assert any(to == "ana@example.com" and "did it" in subject for to, subject in told)
    # No later word of the processor changes it, and the merchant can.
    said = OrderRecord(remote_id="cs_9", status="paid", email="ana@exmaple.com")
    database.write_now(sync.apply, shop.account, Snapshot(as_of=clock.now(), orders=(said,)))
    assert database.read_now(whose, models.Order, shop.order.id) == "ana@example.com"
    page = database.read_now(people.said, portal.id)
    for one in page.rows:
        database.write_now(people.take_back, person, portal.id, one.id)
    assert database.read_now(whose, models.Order, shop.order.id) == "ana@exmaple.com"
    audits = database.read_now(lambda db: [one.what for one in db.execute(select(models.Audit)).scalars()])
    assert audits.count("record.given") == 1
    with pytest.raises(NotOpen):
        database.write_now(desk.answer, *answered, give=True)


@pytest.mark.usefixtures("sqlite_only")
def test_without_the_merchants_word_nothing_moves(shop: Shop) -> None:
    shop.asks(**SHOP)
    shop.work()
    person = shop.person()
    given = (person, shop.portal.id, shop.request().id, "done", "Look under your other address.", clock.now())
    shop.database.write_now(desk.answer, *given)
    row = shop.database.read_now(lambda db: db.get_one(models.Order, shop.order.id))
    assert row.customer_id == shop.typo.id


@pytest.mark.usefixtures("sqlite_only")
def test_requests_of_one_network_are_three_a_day(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescue, "PER_NETWORK", ())
    monkeypatch.setattr(rescue, "PER_BROWSER", ())
    for number in range(6):
        shop.asks(**{**SHOP, "reference": f"Z-{number}"})
    shop.work()
    assert shop.count(models.Request) == rescue.TO_SHOP[0][1]


# Plans


INDEXES = {
    "number": (rescue.ORDERS_BY_NUMBER, "ix_order_number"),
    "remote": (rescue.ORDERS_BY_REMOTE, "account_id"),
    "invoiced": (rescue.INVOICED, "ix_invoice_number"),
    "issued": (rescue.ISSUED, "ix_issued_document_number"),
    **{f"payment by {name}": (one, "") for name, one in rescue.PAYMENTS.items()},
}


def have_many(shop: Shop) -> None:
    """So many that it matters by which index of the portal's rows one is looked for."""

    def fill(db: Session) -> None:
        common = {"portal_id": shop.portal.id, "account_id": shop.account.id, "placed_at": NOW, "as_of": NOW}
        for n in range(400):
            mirrored: dict[str, Any] = {**common, "remote_id": f"r{n}", "stamps": {}}
            minor: dict[str, Any] = {"amount_minor": 100 + n, "currency": "USD", "status": "paid"}
            db.add(models.Order(**mirrored, **minor, number=f"N{n}", lines=[]))
            db.add(models.Invoice(**mirrored, **minor, number=f"N{n}", payment_remote=f"r{n}", lines=[]))
            paid = models.Payment(
                **mirrored, **minor, order_remote=f"r{n}", subscription_remote=f"s{n}", paid_at=NOW
            )
            db.add(paid)
            db.flush()
            db.add(
                models.IssuedDocument(
                    portal_id=shop.portal.id,
                    customer_id=shop.typo.id,
                    payment_id=paid.id,
                    kind="receipt",
                    sequence=n,
                    number=f"N{n}",
                    facts={},
                    issued_at=NOW,
                )
            )

    shop.database.write_now(fill)


@pytest.mark.parametrize("name", INDEXES)
def test_everything_is_looked_up_by_an_index(shop: Shop, name: str) -> None:
    statement, index = INDEXES[name]
    values = {"portal": shop.portal.id, "accounts": [shop.account.id], "texts": ["x", "y"], "ids": [1, 2]}
    have_many(shop)
    lines = plan(shop.database, statement, values)
    assert any(index in line for line in lines), lines
    assert not wholes(lines), lines


def test_the_asks_are_counted_by_an_index(shop: Shop) -> None:
    row = models.OrderAsk
    many = [
        shop.asked(network=f"n{n}", browser_hash=f"b{n}", reference=f"R{n}", subject_id=n) for n in range(300)
    ]
    shop.database.write_now(lambda db: db.add_all(many))
    for name, where in {
        "network": col(row.network) == "x",
        "browser": col(row.browser_hash) == "x",
        "reference": col(row.reference) == "x",
        "subject": col(row.subject_id) == 1,
    }.items():
        statement = select(col(row.id)).where(
            col(row.portal_id) == shop.portal.id, where, col(row.created_at) > NOW - timedelta(days=1)
        )
        lines = plan(shop.database, statement)
        assert uses(lines, f"ix_order_ask_{name}"), lines
        assert not wholes(lines), lines
