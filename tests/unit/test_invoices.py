"""Documents of payments: whose they are, which one it is, numbers without gaps, the same bytes ever after."""

import base64
import hashlib
import inspect
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import BytesIO
from typing import Any
from urllib.parse import unquote

import pikepdf
import pytest
from PIL import Image
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

import portal.routes  # noqa: F401  (how ids stand in addresses)
from portal import clock, invoices, models, tenancy
from portal.db import Database
from portal.gateways.base import Document, GatewayError, Ref, Unavailable
from portal.gateways.capabilities import Capability
from portal.ids import id_text
from portal.login import SignedIn
from portal.pdf import NotMade, Press, Sheet
from portal.settings import Settings
from portal.store import Store
from portal.vault import Vault
from portal.views import errors
from portal.views import invoices as view
from tests.unit.builders import (
    MASTER_KEY,
    NOW,
    make_account,
    make_customer,
    make_invoice,
    make_order,
    make_payment,
    make_portal,
    save,
)
from tests.unit.plans import reads_little

LEGAL = {"legal_name": "Acme Coffee GmbH", "legal_address": "Torstraße 1\n10119 Berlin", "country": "DE"}
THEIRS = b"%PDF-1.4 theirs"


@pytest.fixture(scope="module")
def real_press() -> Iterator[Press]:
    press = Press(
        size=1, wall_s=60
    )  # so that a busy machine fails nothing; processor time is limited all the same
    yield press
    press.close()


class FakePress(Press):
    """Remembers what it was given; the bytes say which sheet they are of."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.sheets: list[Sheet] = []
        self.broken = broken

    async def make(self, sheet: Sheet) -> bytes:
        self.sheets.append(sheet)
        if self.broken:
            raise NotMade("it took too long")
        return f"%PDF- {len(self.sheets)} {sheet.identifier}".encode()


class FakeGateway:
    """A processor with a file, or without one, or down."""

    def __init__(self, answer: Document | GatewayError | None) -> None:
        self.answer = answer
        self.asked: list[Ref] = []
        self.closed = 0

    async def invoice_document(self, ref: Ref) -> Document | None:
        self.asked.append(ref)
        if isinstance(self.answer, GatewayError):
            raise self.answer
        return self.answer

    async def aclose(self) -> None:
        self.closed += 1


class Facts:
    """As much of a fact table as is asked for here."""

    def __init__(self, *documents: str, when: list[dict[str, Any]] | None = None) -> None:
        self.capabilities = {
            "invoice": Capability.model_validate(
                {
                    "mode": "direct",
                    "documents": list(documents),
                    "source": "https://acme.example/docs",
                    "checked": NOW.date(),
                    "confidence": "high",
                    "when": when or [],
                }
            )
        }

    def allows_link(self, url: str, addresses: Any = None) -> bool:
        return url.startswith("https://pages.example/")


class World:
    """A portal with one customer, one paid payment, and the view in front of it."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch, **portal: Any) -> None:
        self.database = database
        self.portal = make_portal(database, **portal)
        self.account = make_account(database, self.portal)
        self.customer = make_customer(database, self.portal, name="Ana Lima")
        self.payment = make_payment(database, self.account, self.customer)
        self.press = FakePress()
        self.store: Store | None = None
        self.gateway = FakeGateway(Document("application/pdf", "Invoice-A-1.pdf", THEIRS))
        self._patch = monkeypatch
        self.facts("processor", "ours")
        monkeypatch.setattr(invoices, "open_gateway", lambda *_: self.gateway)
        monkeypatch.setattr(view, "press", lambda: self.press)

    def facts(self, *documents: str, when: list[dict[str, Any]] | None = None) -> None:
        table = Facts(*documents, when=when)
        self._patch.setattr(invoices, "facts", lambda _: table)

    def client(
        self, customer: models.Customer | None = None, portal: models.Portal | None = None
    ) -> TestClient:
        """The view without its guard (which has its own tests), as seen by a customer of a portal."""
        who = customer or self.customer
        where = self.database.read_now(tenancy.portal_by_id, (portal or self.portal).id, "localhost")
        signed_in = SignedIn(id=who.id, email=who.email, name=who.name, session_id=1)
        route = Route("/customers/invoices/{payment_id:id}", inspect.unwrap(view.download))
        app = Starlette(routes=[route], exception_handlers=errors.handlers)
        app.state.database = self.database
        app.state.store = self.store
        app.state.vault = Vault(MASTER_KEY)
        app.state.settings = Settings()

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("state", {}).update(portal=where, customer=signed_in, request_id="r")
            await app(scope, receive, send)

        wrapped: ASGIApp = with_state
        return TestClient(wrapped, base_url="http://acme.localhost", follow_redirects=False)

    def get(self, payment: models.Payment | None = None, query: str = "", **client: Any) -> Any:
        wanted = payment or self.payment
        return self.client(**client).get(f"/customers/invoices/{id_text(wanted.id)}{query}")

    def issued(self) -> list[models.IssuedDocument]:
        def all_of_them(db: Any) -> list[models.IssuedDocument]:
            return list(db.execute(select(models.IssuedDocument).order_by("sequence")).scalars())

        return self.database.read_now(all_of_them)

    def issue(self, payment: models.Payment | None = None, kind: Any = "invoice") -> models.IssuedDocument:
        wanted = payment or self.payment
        who = (self.portal.id, self.customer.id, wanted.id)
        return self.database.write_now(invoices.issue, *who, kind, NOW)


@pytest.fixture
def world(database: Database, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(database, monkeypatch, **LEGAL)


# Which document


def test_processors_own_file_is_passed_on_as_a_download(world: World) -> None:
    theirs = make_invoice(
        world.database, world.account, world.customer, payment_remote=world.payment.remote_id
    )
    answer = world.get()
    assert answer.status_code == 200
    assert answer.content == THEIRS
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.headers["content-length"] == str(len(THEIRS))
    assert answer.headers["content-disposition"].startswith('attachment; filename="Invoice-A-1.pdf"')
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "private, no-store"
    assert world.gateway.asked == [Ref("invoice", theirs.remote_id)]
    assert world.gateway.closed == 1
    assert world.issued() == []


def test_processors_invoice_is_found_by_the_payments_link_too(world: World) -> None:
    payment = make_payment(world.database, world.account, world.customer, invoice_remote="in_77")
    make_invoice(world.database, world.account, world.customer, remote_id="in_77")
    assert world.get(payment).content == THEIRS


@pytest.mark.usefixtures("sqlite_only")
def test_a_payments_invoice_is_found_by_its_links(world: World) -> None:
    invoice = make_invoice(world.database, world.account, None, remote_id="in_9")
    payment = make_payment(world.database, world.account, world.customer, invoice_remote="in_9")
    with reads_little(world.database) as plans:
        found = world.database.read_now(invoices._their_invoice, payment)
    assert found is not None
    assert found.id == invoice.id
    assert any("ix_invoice_payment " in line for line in plans)


def test_ours_on_request_even_where_the_processor_has_one(world: World) -> None:
    make_invoice(world.database, world.account, world.customer, payment_remote=world.payment.remote_id)
    answer = world.get(query="?ours=1")
    assert answer.content.startswith(b"%PDF- 1 portal-")
    assert world.gateway.asked == []


@pytest.mark.parametrize(
    "what",
    [
        Unavailable("down"),
        GatewayError("refused"),
        None,
        Document("application/pdf", "x.pdf", b"<html>Sorry</html>"),
    ],
    ids=["down", "refused", "nothing", "no PDF at all"],
)
def test_ours_where_the_processor_gives_nothing(world: World, what: Any) -> None:
    make_invoice(world.database, world.account, world.customer, payment_remote=world.payment.remote_id)
    world.gateway.answer = what
    assert world.get().content.startswith(b"%PDF- 1 portal-")
    assert world.gateway.closed == 1


def test_ours_where_the_keys_cannot_be_opened(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from portal import connect

    make_invoice(world.database, world.account, world.customer, payment_remote=world.payment.remote_id)
    monkeypatch.setattr(invoices, "open_gateway", connect.open_gateway)

    def spoil(db: Any) -> None:
        db.get_one(models.Account, world.account.id).credentials = json.dumps(
            {"secret_key": base64.b64encode(bytes(64)).decode()}
        ).encode()

    world.database.write_now(spoil)
    assert world.get().content.startswith(b"%PDF- 1 portal-")


@pytest.mark.parametrize("status", ["draft", "void"])
def test_an_invoice_that_is_none_is_not_passed_on(world: World, status: str) -> None:
    make_invoice(
        world.database, world.account, world.customer, payment_remote=world.payment.remote_id, status=status
    )
    assert world.get().content.startswith(b"%PDF- 1 portal-")


def test_whatever_a_processor_calls_its_file_it_is_not_shown_on_our_pages(world: World) -> None:
    make_invoice(world.database, world.account, world.customer, payment_remote=world.payment.remote_id)
    world.gateway.answer = Document(
        "text/html", 'a"\r\nSet-Cookie: x=1;/../é.html', b"<script>alert(1)</script>"
    )
    answer = world.get()
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment;")
    assert "set-cookie" not in answer.headers


def test_facts_that_know_only_ours_are_obeyed(world: World) -> None:
    make_invoice(world.database, world.account, world.customer, payment_remote=world.payment.remote_id)
    world.facts("ours")
    assert world.get().content.startswith(b"%PDF- 1")
    assert world.gateway.asked == []


def test_facts_under_a_condition(world: World) -> None:
    make_invoice(world.database, world.account, world.customer, payment_remote=world.payment.remote_id)
    world.facts("ours", when=[{"method": "card", "documents": ["processor", "ours"]}])
    assert world.get().content == THEIRS


def test_processors_page_where_that_is_what_it_has(world: World) -> None:
    world.facts("page", "ours")
    make_invoice(
        world.database,
        world.account,
        world.customer,
        payment_remote=world.payment.remote_id,
        document=False,
        page_url="https://pages.example/i/1",
    )
    answer = world.get()
    assert (answer.status_code, answer.headers["location"]) == (303, "https://pages.example/i/1")


def test_page_on_a_foreign_host_is_never_opened(world: World) -> None:
    world.facts("page", "ours")
    make_invoice(
        world.database,
        world.account,
        world.customer,
        payment_remote=world.payment.remote_id,
        page_url="https://evil.example/i/1",
    )
    assert world.get().content.startswith(b"%PDF- 1")


# Whose it is


def test_stranger_of_the_same_portal_gets_404(world: World) -> None:
    stranger = make_customer(world.database, world.portal, email="eve@example.com")
    assert world.get(customer=stranger).status_code == 404
    assert world.get(customer=stranger, query="?ours=1").status_code == 404
    assert world.issued() == []


def test_customer_of_another_portal_gets_404(world: World) -> None:
    other = make_portal(world.database, slug="bolt")
    namesake = make_customer(world.database, other, email=world.customer.email)
    assert world.get(customer=namesake, portal=other).status_code == 404
    assert world.get(customer=world.customer, portal=other).status_code == 404
    assert world.get(customer=namesake, portal=world.portal).status_code == 404
    assert world.issued() == []


def test_document_that_was_issued_to_somebody_else_stays_theirs(world: World) -> None:
    """A payment may turn out to be another person's; the frozen document still names the first one."""
    world.get()
    heir = make_customer(world.database, world.portal, email="heir@example.com")

    def move(db: Any) -> None:
        db.get_one(models.Payment, world.payment.id).customer_id = heir.id

    world.database.write_now(move)
    assert world.get(customer=heir).status_code == 404
    assert len(world.press.sheets) == 1


def test_anothers_invoice_is_not_taken_for_this_payments(world: World) -> None:
    stranger = make_customer(world.database, world.portal, email="eve@example.com")
    make_invoice(world.database, world.account, stranger, payment_remote=world.payment.remote_id)
    second = make_account(world.database, world.portal)
    make_invoice(world.database, second, world.customer, payment_remote=world.payment.remote_id)
    assert world.get().content.startswith(b"%PDF- 1")
    assert world.gateway.asked == []


def test_view_is_for_those_who_are_signed_in() -> None:
    assert inspect.unwrap(view.download) is not view.download


# When there is none


@pytest.mark.parametrize("status", ["pending", "authorized", "failed", "cancelled", "expired"])
def test_no_document_before_the_payment_has_gone_through(world: World, status: str) -> None:
    payment = make_payment(world.database, world.account, world.customer, status=status)
    answer = world.get(payment)
    assert answer.status_code == 404
    assert "There is an invoice once this payment has gone through" in answer.text
    assert world.issued() == []


def test_no_document_while_the_amount_is_not_known(world: World) -> None:
    payment = make_payment(world.database, world.account, world.customer, amount_minor=None, currency=None)
    assert world.get(payment).status_code == 404
    assert world.issued() == []


@pytest.mark.parametrize("status", ["paid", "partially_refunded", "refunded", "disputed"])
def test_a_document_for_whatever_went_through(world: World, status: str) -> None:
    payment = make_payment(world.database, world.account, world.customer, status=status)
    assert world.get(payment).status_code == 200


def test_no_document_where_the_merchant_has_switched_it_off(world: World) -> None:
    off = make_account(world.database, world.portal, switched_off=["invoice"])
    payment = make_payment(world.database, off, world.customer)
    answer = world.get(payment)
    assert answer.status_code == 404
    assert "Acme Coffee has switched this off. Write to help@acme.example." in answer.text


def test_a_look_issues_nothing(world: World) -> None:
    answer = world.client().head(f"/customers/invoices/{id_text(world.payment.id)}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/pdf"
    assert world.issued() == []


def test_not_made_is_said_and_made_later_under_the_same_number(world: World) -> None:
    world.press.broken = True
    answer = world.get()
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "60"
    assert "The invoice can&#39;t be made right now. Try again in a minute." in answer.text
    world.press.broken = False
    clock.set_offset(timedelta(days=3))
    assert world.get().status_code == 200
    assert [row.number for row in world.issued()] == ["INV-00001"]
    assert world.press.sheets[0] == world.press.sheets[1]


# Numbers and bytes


def test_receipt_until_the_merchant_can_invoice_then_an_invoice_of_its_own(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(database, monkeypatch)
    receipt = world.get()
    assert "REC-00001" in unquote(receipt.headers["content-disposition"])
    assert "Receipt REC-00001" in world.press.sheets[0].html
    assert "invoice" not in world.press.sheets[0].html.lower()
    payment = make_payment(world.database, world.account, world.customer, status="pending")
    assert "There is a receipt once" in world.get(payment).text
    assert invoices.document_kind(world.portal) == "receipt"

    def complete(db: Any) -> None:
        portal = db.get_one(models.Portal, world.portal.id)
        for name, value in LEGAL.items():
            setattr(portal, name, value)
        portal.invoice_prefix = "2026-"

    world.database.write_now(complete)
    invoice = world.get()
    assert "2026-00001" in unquote(invoice.headers["content-disposition"])
    assert "Torstraße 1\n10119 Berlin" in world.press.sheets[1].html
    assert [(row.kind, row.sequence) for row in world.issued()] == [("receipt", 1), ("invoice", 1)]


def test_bytes_stay_what_they_were_whatever_changes_later(world: World) -> None:
    first = world.get().content

    def change(db: Any) -> None:
        db.get_one(models.Payment, world.payment.id).amount_minor = 9_999
        db.get_one(models.Customer, world.customer.id).name = "Somebody Else"
        db.get_one(models.Portal, world.portal.id).legal_name = "Other GmbH"

    world.database.write_now(change)
    assert world.get().content == first
    assert len(world.press.sheets) == 1
    row = world.issued()[0]
    assert row.content == first
    assert row.sha256 == hashlib.sha256(first).hexdigest()


def test_first_bytes_win(world: World) -> None:
    row = world.issue()
    first, second = (hashlib.sha256(one).hexdigest() for one in (b"first", b"second"))
    assert world.database.write_now(invoices.keep, row, first, b"first") == (b"first", first)
    assert world.database.write_now(invoices.keep, row, second, b"second") == (b"first", first)
    assert world.database.write_now(invoices.keep, row, second, None) == (b"first", first)


def test_words_are_frozen_with_the_number_and_survive_a_crash(world: World) -> None:
    row = world.issue()
    before = invoices.drawn(row, None)

    def change(db: Any) -> None:
        db.get_one(models.Payment, world.payment.id).amount_minor = 1

    world.database.write_now(change)
    again = world.issue()
    assert again.id == row.id
    assert invoices.drawn(again, None) == before


def test_twenty_threads_leave_no_gap_and_no_number_twice(world: World) -> None:
    payments = [make_payment(world.database, world.account, world.customer) for _ in range(20)]
    clicks = [payment for payment in payments for _ in range(3)]
    with ThreadPoolExecutor(20) as pool:
        numbers = list(pool.map(lambda payment: world.issue(payment).number, clicks))
    assert sorted(row.sequence for row in world.issued()) == list(range(1, 21))
    assert all(len(set(numbers[at : at + 3])) == 1 for at in range(0, 60, 3))


def test_a_transaction_that_fails_gives_its_number_back(world: World) -> None:
    class Crash(Exception):
        pass

    def issue_and_crash(db: Any) -> None:
        invoices.issue(db, world.portal.id, world.customer.id, world.payment.id, "invoice", NOW)
        raise Crash

    with pytest.raises(Crash):
        world.database.write_now(issue_and_crash)
    assert world.issue().sequence == 1


def test_each_portal_and_each_kind_counts_for_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    other = World(world.database, monkeypatch, slug="bolt", **LEGAL)
    assert world.issue().sequence == 1
    assert world.issue(kind="receipt").sequence == 1
    assert other.issue().sequence == 1
    assert other.issue(make_payment(other.database, other.account, other.customer)).sequence == 2


# What stands in it


def drawn(world: World, **payment: Any) -> str:
    row = make_payment(world.database, world.account, world.customer, **payment)
    return invoices.drawn(world.issue(row), None).html


def sums(world: World, **order: Any) -> dict[str, int]:
    made = make_order(world.database, world.account, world.customer, **order)
    payment = make_payment(
        world.database,
        world.account,
        world.customer,
        order_remote=made.remote_id,
        amount_minor=made.amount_minor,
    )
    facts = world.issue(payment).facts
    assert facts["total"] == made.amount_minor
    return dict(facts["sums"]) | {"tax_included": facts["tax_included"]}


def test_lines_of_the_order_with_references_and_the_way_to_pay(world: World) -> None:
    order = make_order(world.database, world.account, world.customer, number="1001")
    html = drawn(world, order_remote=order.remote_id, remote_id="ch_life")
    for said in (
        "Invoice INV-00001",
        "Acme Coffee GmbH",
        "Torstraße 1",
        "Germany",
        "Ana Lima",
        "ana@example.com",
        "1001",
        "ch_life",
        "Ethiopia Guji",
        "$24.00",
        "$24.00\u00a0USD",
        "Paid with Visa ending 4242 on",
        "12 Nov 2026",
    ):
        assert said in html


def test_order_of_another_customer_lends_no_lines(world: World) -> None:
    stranger = make_customer(world.database, world.portal, email="eve@example.com")
    order = make_order(world.database, world.account, stranger, number="SECRET-1")
    html = drawn(world, order_remote=order.remote_id)
    assert "SECRET-1" not in html
    assert "Ethiopia Guji" not in html
    assert "Monthly coffee box" in html


def test_lines_of_the_processors_invoice_where_there_is_no_order(world: World) -> None:
    lines = [{"name": "Box", "quantity": 1, "minor": 2400, "currency": "USD"}]
    make_invoice(world.database, world.account, world.customer, payment_remote="ch_9", lines=lines)
    assert "<td>Box</td>" in drawn(world, remote_id="ch_9")


def test_one_line_with_the_title_where_nothing_else_is_known(world: World) -> None:
    assert "<td>Monthly coffee box</td>" in drawn(world)
    assert "<td>Payment</td>" in drawn(world, title=None)


def line(minor: int, name: str = "Coffee", currency: str = "USD") -> dict[str, Any]:
    return {"name": name, "quantity": 1, "minor": minor, "currency": currency}


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ({"lines": [line(2400)], "amount_minor": 2400}, {"tax_included": 0}),
        (
            {"lines": [line(2000)], "amount_minor": 2400, "tax_minor": 400},
            {"subtotal": 2000, "tax": 400, "tax_included": 0},
        ),
        ({"lines": [line(2400)], "amount_minor": 2400, "tax_minor": 383}, {"tax_included": 383}),
        (
            {"lines": [line(2400)], "amount_minor": 2000, "discount_minor": 400},
            {"subtotal": 2400, "discount": -400, "tax_included": 0},
        ),
        (
            {"lines": [line(2400)], "amount_minor": 2400, "discount_minor": 400},
            {"tax_included": 0},
        ),
        (
            {"lines": [line(2000)], "amount_minor": 2590, "discount_minor": 200, "tax_minor": 300},
            {"subtotal": 2000, "discount": -200, "other": 790, "tax_included": 300},
        ),
        (
            {"lines": [line(1000), line(1000)], "amount_minor": 2490},
            {"subtotal": 2000, "other": 490, "tax_included": 0},
        ),
    ],
    ids=["plain", "tax on top", "tax inside", "discount", "discount inside", "all of it", "delivery"],
)
def test_sums_are_named_and_add_up(world: World, order: dict[str, Any], expected: dict[str, int]) -> None:
    found = sums(world, **order)
    assert found == expected
    if "subtotal" in found:
        named = found["subtotal"] + sum(found.get(name, 0) for name in ("discount", "other", "tax"))
        assert named == order["amount_minor"]


def test_part_of_an_order_says_so(world: World) -> None:
    order = make_order(world.database, world.account, world.customer, amount_minor=2400)
    html = drawn(world, order_remote=order.remote_id, amount_minor=1000)
    assert "Order total" in html
    assert "Paid with this payment" in html
    assert "$10.00" in html


def test_lines_in_a_foreign_currency_are_not_added_to_this_payment(world: World) -> None:
    order = make_order(
        world.database, world.account, world.customer, currency="EUR", lines=[line(2400, currency="EUR")]
    )
    html = drawn(world, order_remote=order.remote_id)
    assert "Ethiopia" not in html
    assert "€" not in html


def test_refunds_so_far_are_noted(world: World) -> None:
    html = drawn(world, status="partially_refunded", refunded_minor=500)
    assert "Refunded until" in html
    assert "\u2212$5.00" in html
    assert "Refunded" not in drawn(world)


@pytest.mark.parametrize(
    ("minor", "currency", "said"),
    [
        (1200, "JPY", "¥1,200"),
        (12_500, "KWD", "KWD\u00a012.500"),
        (-5, "USD", "\u2212$0.05"),
        (0, "EUR", "€0.00"),
    ],
)
def test_amounts_have_the_decimals_of_their_currency(
    world: World, minor: int, currency: str, said: str
) -> None:
    assert f"<bdi>{said}</bdi>" in drawn(world, amount_minor=minor, currency=currency, title="x")


def test_days_are_those_of_the_portals_zone_and_language(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(database, monkeypatch, locale="de", time_zone="Asia/Tokyo", **LEGAL)
    html = drawn(world, paid_at=NOW.replace(hour=20))
    assert '<html lang="de"' in html
    assert '<time datetime="2026-11-23">' in html
    assert "Deutschland" in html


@pytest.mark.parametrize(
    ("country", "paper"), [("US", "letter"), ("ca", "letter"), ("MX", "letter"), ("DE", "A4"), (None, "A4")]
)
def test_paper_by_country(
    database: Database, monkeypatch: pytest.MonkeyPatch, country: str | None, paper: str
) -> None:
    world = World(database, monkeypatch, **LEGAL | {"country": country})
    assert world.issue().facts["paper"] == paper


def test_a_very_long_order_is_summed_up(world: World) -> None:
    count = invoices.LINES + 200
    order = make_order(
        world.database,
        world.account,
        world.customer,
        lines=[line(100, f"Item {n}") for n in range(count)],
        amount_minor=100 * count,
    )
    html = drawn(world, order_remote=order.remote_id, amount_minor=100 * count)
    assert html.count("<tr>") == invoices.LINES + 1
    assert "201 more items" in html
    assert "$201.00" in html


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=http://127.0.0.1:{port}/a>",
    "<img src='file:///etc/passwd'>",
    "<link rel=attachment href='file:///etc/passwd'>",
    "<link rel=stylesheet href=http://127.0.0.1:{port}/a.css>",
    "<style>@import 'http://127.0.0.1:{port}/a';</style>",
    "</title><link rel=attachment href=file:///etc/passwd>",
    "</td></tr></table><h1>Paid: $0.00</h1>",
    "<iframe src=http://127.0.0.1:{port}/></iframe>",
    "<object data=file:///etc/passwd></object>",
    "<embed src=file:///etc/passwd>",
    "<svg><image href='http://127.0.0.1:{port}/a'/></svg>",
    "<svg onload=alert(1)>",
    "<a href='http://127.0.0.1:{port}/'>click</a>",
    "<a href=javascript:alert(1)>x</a>",
    "<base href=http://127.0.0.1:{port}/>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:{port}/'>",
    "<p style='background:url(http://127.0.0.1:{port}/a)'>",
    "url(http://127.0.0.1:{port}/a)",
    '"><img src=x>',
    "'><img src=x>",
    "--><img src=x>",
    "]]><img src=x>",
    "&lt;script&gt;",
    "&#60;img src=x&#62;",
    "{{ 7 * 7 }}{% for x in y %}",
    "{{ config.__class__.__mro__ }}",
    "%(page)s %s %n {0} {number}",
    "\x00\x01\x08\x1b[2J\x7f",
    "\u202eevil\u2066\u2028",
    "portal:logo",
    "<img src=portal:logo alt=x>",
    "\\3c img src=x\\3e",
    "/*</style>*/ } body { display: none }",
    "ﬁ" * 500 + "𝔘" * 100,
    "ﷺ" * 60 + "\u0301" * 60,
]


def hostile_document(world: World, words: str) -> models.IssuedDocument:
    """A document that has these words in each of its fields that holds any."""

    def spoil(db: Any) -> None:
        portal = db.get_one(models.Portal, world.portal.id)
        portal.name = portal.legal_name = portal.legal_address = portal.tax_id = words
        portal.support_email = portal.invoice_prefix = words
        customer = db.get_one(models.Customer, world.customer.id)
        customer.name = customer.email = words

    order = make_order(world.database, world.account, world.customer, number=words, lines=[line(2400, words)])
    payment = make_payment(
        world.database,
        world.account,
        world.customer,
        order_remote=order.remote_id,
        method={"kind": words, "brand": words, "last4": words},
    )
    world.database.write_now(spoil)
    return world.issue(payment)


@pytest.mark.usefixtures("sqlite_only")
def test_hostile_words_are_words(
    database: Database, monkeypatch: pytest.MonkeyPatch, real_press: Press
) -> None:
    import socket

    world = World(database, monkeypatch, **LEGAL)
    plain = tags(invoices.drawn(world.issue(make_order_payment(world)), None).html)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        port = listening.getsockname()[1]
        for words in HOSTILE:
            issued = hostile_document(world, words.replace("\x00", "").replace("{port}", str(port)) or "x")
            sheet = invoices.drawn(issued, None)
            assert tags(sheet.html) == plain, words
            content = real_press.make_now(sheet)
            document = pikepdf.open(BytesIO(content))
            assert "/URI" not in names(document), words
            assert "/EmbeddedFiles" not in names(document), words
            assert b"root:x:0:0" not in streams(document), words
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert len(HOSTILE) >= 30


def make_order_payment(world: World) -> models.Payment:
    order = make_order(world.database, world.account, world.customer, lines=[line(2400)])
    return make_payment(world.database, world.account, world.customer, order_remote=order.remote_id)


def tags(html: str) -> list[str]:
    """The elements of a document in their order, without those that depend on whether two names are the same."""
    from html.parser import HTMLParser

    class Elements(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[str] = []

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            self.found.append(" ".join([tag, *sorted(name for name, _ in attrs)]))

    parser = Elements()
    parser.feed(html)
    return sorted(set(parser.found))


def names(document: pikepdf.Pdf) -> set[str]:
    found: set[str] = set()
    for thing in document.objects:
        if isinstance(thing, pikepdf.Dictionary | pikepdf.Stream):
            found |= set(thing.keys())
    return found


def streams(document: pikepdf.Pdf) -> bytes:
    return b"".join(
        thing.read_bytes()
        for thing in document.objects
        if isinstance(thing, pikepdf.Stream) and thing.get("/Subtype") != "/Image"
    )


# The whole way, with the real press


def green_png() -> bytes:
    out = BytesIO()
    Image.new("RGB", (320, 80), "green").save(out, "PNG")
    return out.getvalue()


def test_the_whole_way_gives_a_tagged_document_with_logo_and_title(world: World, real_press: Press) -> None:
    logo = save(
        world.database,
        models.Asset(
            portal_id=world.portal.id,
            sha256="a" * 64,
            content_type="image/png",
            width=320,
            height=80,
            content=green_png(),
        ),
    )

    def put_on(db: Any) -> None:
        db.get_one(models.Portal, world.portal.id).logo_id = logo.id

    world.database.write_now(put_on)
    world.press = real_press  # type: ignore[assignment]
    order = make_order(
        world.database,
        world.account,
        world.customer,
        lines=[line(100, f"Coffee {n}") for n in range(60)],
        amount_minor=6000,
    )
    payment = make_payment(
        world.database, world.account, world.customer, order_remote=order.remote_id, amount_minor=6000
    )
    first, second = world.get(payment), world.get(payment)
    assert first.content == second.content
    issued = world.issued()[0]
    assert real_press.make_now(invoices.drawn(issued, green_png())) == first.content

    document = pikepdf.open(BytesIO(first.content))
    assert len(document.pages) > 1
    assert str(document.docinfo.Title) == "Invoice INV-00001"
    assert str(document.docinfo.Author) == "Acme Coffee GmbH"
    assert str(document.docinfo.CreationDate).startswith(issued.issued_at.strftime("D:%Y%m%d%H%M%S"))
    assert str(document.Root.Lang) == "en"
    assert document.Root.MarkInfo.Marked
    kinds = {
        str(thing.S)
        for thing in document.objects
        if isinstance(thing, pikepdf.Dictionary) and "/S" in thing and isinstance(thing.S, pikepdf.Name)
    }
    assert {"/H1", "/H2", "/Table", "/TR", "/TH", "/TD", "/Figure", "/L"} <= kinds
    alt = [
        str(thing.Alt)
        for thing in document.objects
        if isinstance(thing, pikepdf.Dictionary) and "/Alt" in thing
    ]
    assert alt == ["Acme Coffee"]
    with document.open_metadata() as metadata:
        assert (metadata["pdfaid:part"], metadata["pdfaid:conformance"]) == ("3", "A")
    assert "/URI" not in names(document)
    box = [float(value) for value in document.pages[0].MediaBox]
    assert (round(box[2] - box[0]), round(box[3] - box[1])) == (595, 842)


def test_letter_paper_is_letter(
    database: Database, monkeypatch: pytest.MonkeyPatch, real_press: Press
) -> None:
    world = World(database, monkeypatch, **LEGAL | {"country": "US"})
    document = pikepdf.open(BytesIO(real_press.make_now(invoices.drawn(world.issue(), None))))
    box = [float(value) for value in document.pages[0].MediaBox]
    assert (round(box[2]), round(box[3])) == (612, 792)


@pytest.mark.usefixtures("sqlite_only")
def test_largest_document_is_made_within_its_processor_time(world: World, real_press: Press) -> None:
    name = "Wholebeancoffee" * 70
    order = make_order(
        world.database,
        world.account,
        world.customer,
        lines=[line(1, name) for _ in range(5000)],
        amount_minor=5000,
    )
    payment = make_payment(world.database, world.account, world.customer, order_remote=order.remote_id)
    assert real_press.make_now(invoices.drawn(world.issue(payment), None)).startswith(b"%PDF-")


def test_names_of_files_suit_old_and_new_readers() -> None:
    header = view.disposition('Rechnung "№ 7"/é.pdf')
    assert header.isascii()
    assert 'filename="Rechnung _No 7__e.pdf"' in header
    assert unquote(header.split("filename*=UTF-8''")[1]) == "Rechnung _№ 7__é.pdf"
    assert view.disposition("").startswith('attachment; filename="document"')
    assert "\n" not in view.disposition("a\r\nb.pdf")
