"""Instamojo: two generations of one API, rupees as text, links that several people pay, and notices whose code covers
values alone."""

import asyncio
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode

import httpx2 as httpx
import pytest

from portal import clock
from portal.gateways import _instamojo as shapes
from portal.gateways import base, gateway
from portal.gateways.base import (
    BadSignature,
    Declined,
    Event,
    Failure,
    Gone,
    Leave,
    Line,
    Method,
    OrderRecord,
    PaymentRecord,
    Ref,
    RefundRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import KEYS, Circumstances, disagreements, facts
from portal.gateways.http import Http
from portal.gateways.instamojo import Adapter
from portal.money import Money
from tests.conftest import SHARED

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
REQUEST, PAID, CASE = "0cb066f9d3764c2fab6da469d8f613a1", "MOJO0816705N15845280", "C5c0751269"
ORDER = "3b56d216-74c2-4189-83f3-9c2e93bad1be"
SALT = "5a17" * 8
V1 = {"test": "no", "api_key": "k" * 32, "auth_token": "t" * 32, "salt": SALT}
V2 = {"test": "no", "client_id": "i" * 40, "client_secret": "s" * 128, "salt": SALT}
LINK = f"https://www.instamojo.com/@teashop/{REQUEST}"
OLD, NEW = "www.instamojo.com GET /api/1.1", "api.instamojo.com GET /v2"
TOKEN = "POST /oauth2/token/"


@pytest.fixture(autouse=True)
def _that_morning_without_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    clock.set_offset(NOW - datetime.now(UTC))
    monkeypatch.setattr(httpx, "AsyncClient", lambda **more: None)


class Wire(Http):
    """The client of a gateway with answers by host, method and path; what is not there is 404. Keeps what was asked."""

    def __init__(self, one: Adapter, answers: dict[str, Any]) -> None:
        super().__init__(one, "instamojo")
        self.answers = answers
        self.asked: list[str] = []
        self.sent: list[dict[str, Any]] = []

    async def call(self, method: str, host: str, path: str, **more: Any) -> httpx.Response:
        name = f"{host} {method} {path}"
        self.asked.append(name)
        self.sent.append(more)
        found = self.answers.get(name, (404, {"success": False, "message": "Not found."}))
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        status, said = found if isinstance(found, tuple) else (200, found)
        return httpx.Response(status, json=said)


def made(answers: dict[str, Any], credentials: dict[str, str] = V1, **more: Any) -> tuple[Adapter, Wire]:
    adapter = Adapter(credentials, **more)
    adapter._http = wire = Wire(adapter, answers)
    return adapter, wire


def request(**changes: Any) -> dict[str, Any]:
    return {
        "id": REQUEST,
        "phone": "+919900000000",
        "email": "asha@example.com",
        "buyer_name": "Asha",
        "amount": "649.00",
        "purpose": "Assam tea, 500 g",
        "expires_at": None,
        "status": "Pending",
        "shorturl": None,
        "longurl": LINK,
        "allow_repeated_payments": False,
        "created_at": "2026-11-20T08:26:26.382335Z",
        "modified_at": "2026-11-20T08:26:26.382353Z",
    } | changes


def payment(**changes: Any) -> dict[str, Any]:
    """As v1.1 has it."""
    return {
        "payment_id": PAID,
        "status": "Credit",
        "currency": "INR",
        "amount": "649.00",
        "buyer_name": "Asha",
        "buyer_phone": "+919900000000",
        "buyer_email": "asha@example.com",
        "quantity": 2,
        "unit_price": "324.50",
        "fees": "12.98",
        "variants": [],
        "custom_fields": {},
        "payment_request": f"https://www.instamojo.com/api/1.1/payment-requests/{REQUEST}/",
        "instrument_type": "UPI",
        "billing_instrument": "UPI",
        "failure": None,
        "created_at": "2026-11-20T08:34:29.939734Z",
    } | changes


def payment_v2(**changes: Any) -> dict[str, Any]:
    return {
        "id": PAID,
        "title": "Assam tea, 500 g",
        "payment_request": f"https://api.instamojo.com/v2/payment_requests/{REQUEST}/",
        "status": True,
        "currency": "INR",
        "amount": "649.00",
        "name": "Asha",
        "email": "asha@example.com",
        "phone": "+919900000000",
        "cases": [],
        "order_info": {"quantity": 2, "unit_price": "324.50", "variants": [], "custom_fields": {}},
        "instrument_type": "CARD",
        "failure": None,
        "created_at": "2026-11-20T08:34:29.939734Z",
        "updated_at": "2026-11-20T08:34:30.300356Z",
    } | changes


def case(**changes: Any) -> dict[str, Any]:
    """A refund as v1.1 has it."""
    return {
        "id": CASE,
        "payment_id": PAID,
        "status": "Refunded",
        "type": "QFL",
        "body": "She rang us up and shouted",
        "refund_amount": "100.00",
        "total_amount": "649.00",
        "created_at": "2026-11-21T11:01:37.640Z",
    } | changes


def case_v2(**changes: Any) -> dict[str, Any]:
    return {
        "id": CASE,
        "payment": f"https://api.instamojo.com/v2/payments/{PAID}/",
        "status": "FINI",
        "resolution_status": "FINI_CONC",
        "type": "TNR",
        "refund_amount": "100.00",
        "created_at": "2026-11-21T11:01:37.640Z",
        "updated_at": "2026-11-22T11:01:37.640Z",
    } | changes


def listed(name: str, *rows: dict[str, Any]) -> dict[str, Any]:
    return {name: list(rows), "success": True}


def order_from(said: dict[str, Any], *payments: dict[str, Any]) -> OrderRecord:
    found = Adapter.read("order", {"payment_request": said | {"payments": list(payments)}, "success": True})
    assert isinstance(found, OrderRecord)
    return found


def payment_from(said: dict[str, Any]) -> PaymentRecord:
    found = Adapter.read("payment", said)
    assert isinstance(found, PaymentRecord)
    return found


def refund_from(said: dict[str, Any]) -> RefundRecord:
    found = Adapter.read("refund", said)
    assert isinstance(found, RefundRecord)
    return found


# Facts


def test_facts_and_adapter_agree() -> None:
    assert disagreements("instamojo", Adapter) == []


def test_nothing_of_subscriptions_is_offered_but_a_request_to_a_shop_that_sells_memberships() -> None:
    table = facts("instamojo").capabilities
    offered = {key for key in KEYS if table[key].mode != "none"}
    assert offered == {"invoice", "pay_now", "refunds"}
    members = Circumstances(state="active", option=frozenset({"memberships"}))
    assert {key for key in KEYS if table[key].under(members).mode == "request"} == {
        "cancel_now",
        "cancel_at_period_end",
    }


def test_page_of_a_request_may_be_linked_and_nothing_that_looks_like_it() -> None:
    table = facts("instamojo")
    assert table.allows_link(LINK)
    assert table.allows_link("https://test.instamojo.com/@teashop/1")
    for bad in (
        "http://www.instamojo.com/@a/1",
        "https://www.instamojo.com.evil.example/",
        "https://imjo.in/a",
    ):
        assert not table.allows_link(bad)


@pytest.mark.parametrize("credentials", [{}, {"salt": SALT}, {"api_key": "k" * 32}, {"client_id": "i" * 40}])
def test_adapter_is_made_of_any_credentials(credentials: dict[str, str]) -> None:
    assert Adapter(credentials).credentials == credentials


# Orders


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("Pending", "open"),
        ("Sent", "open"),
        ("Completed", "paid"),
        ("Failed", "failed"),
        ("A word of tomorrow", None),
        (None, None),
        (7, None),
    ],
)
def test_every_word_of_a_request(word: Any, status: str | None) -> None:
    record = order_from(request(status=word))
    assert record.status == status
    assert record.due_link == (LINK if status == "open" else None)
    assert record.knows is not None
    assert ("status" in record.knows) == ("due_link" in record.knows) == (status is not None)


def test_open_request_in_full() -> None:
    record = order_from(request())
    assert (record.remote_id, record.email, record.raw_status) == (REQUEST, "asha@example.com", "Pending")
    assert (record.title, record.amount) == ("Assam tea, 500 g", Money(64_900, "INR"))
    assert record.lines == (Line("Assam tea, 500 g", 1, Money(64_900, "INR")),)
    assert record.created_at == datetime(2026, 11, 20, 8, 26, 26, 382335, UTC)
    assert record.updated_at == datetime(2026, 11, 20, 8, 26, 26, 382353, UTC)


def test_longurl_is_the_page_since_shorturl_is_null_at_first() -> None:
    assert order_from(request(shorturl="https://imjo.in/AnhTM2")).due_link == LINK
    assert order_from(request(longurl=7)).due_link is None


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        ("2026-11-24T07:59:59Z", "expired"),
        ("2026-11-24T08:00:01.5Z", "open"),
        ("2026-11-24T07:59:59", "expired"),  # without a zone it is UTC
        ("2026-11-24 08:00:01", "open"),
        ("2026-11-24T13:29:59+05:30", "expired"),
        ("soon", "open"),
    ],
)
def test_request_is_expired_once_its_moment_is_past(ends: str, status: str) -> None:
    record = order_from(request(expires_at=ends))
    assert record.status == status
    assert (record.due_link is None) == (status == "expired")


def test_completed_request_does_not_expire() -> None:
    assert order_from(request(status="Completed", expires_at="2026-11-01T00:00:00Z")).status == "paid"


def test_nobody_is_asked_to_pay_twice_while_a_request_lags_behind_its_payment() -> None:
    record = order_from(request(), payment())
    assert (record.status, record.raw_status, record.due_link) == ("paid", "Pending", None)
    assert order_from(request(), payment(status="Failed")).status == "open"


def test_lines_come_of_the_payment_with_the_purpose_as_name() -> None:
    assert order_from(request(status="Completed"), payment()).lines == (
        Line("Assam tea, 500 g", 2, Money(64_900, "INR")),
    )
    odd = payment(quantity="zero", unit_price=None)
    assert order_from(request(status="Completed"), odd).lines == (
        Line("Assam tea, 500 g", 1, Money(64_900, "INR")),
    )


def test_blank_email_of_a_request_is_that_of_its_payer_and_never_that_of_a_failed_try() -> None:
    anonymous = request(email="", status="Completed")
    assert order_from(anonymous, payment()).email == "asha@example.com"
    tried = order_from(request(email=""), payment(status="Failed"))
    assert tried.email is None
    assert "email" not in (tried.knows or ())


@pytest.mark.parametrize(
    ("amount", "minor"),
    [
        ("20.00", 2_000),
        ("2500", 250_000),
        (9, 900),
        (1199.5, 119_950),
        ("20.005", None),
        ("", None),
        ([], None),
    ],
)
def test_amounts_are_rupees_as_text(amount: Any, minor: int | None) -> None:
    record = order_from(request(amount=amount))
    assert record.amount == (Money(minor, "INR") if minor is not None else None)


# A link that several people pay


def club(**changes: Any) -> dict[str, Any]:
    return request(email="", allow_repeated_payments=True, status="Completed", **changes)


def told(about: dict[str, Any], *payments: dict[str, Any]) -> base.Snapshot:
    return shapes.snapshot(NOW, [(about, payments)])


def test_payments_of_a_link_for_everybody_are_orders_of_their_own() -> None:
    other = payment(payment_id="MOJO0816705N15845281", buyer_email="bela@example.com")
    snapshot = told(club(), payment(), other)
    assert [(one.remote_id, one.email, one.status) for one in snapshot.orders] == [
        (PAID, "asha@example.com", "paid"),
        ("MOJO0816705N15845281", "bela@example.com", "paid"),
    ]
    assert [one.order for one in snapshot.payments] == [PAID, "MOJO0816705N15845281"]
    assert snapshot.orders[0].title == "Assam tea, 500 g"
    assert snapshot.orders[0].due_link is None


def test_failed_payment_of_a_link_for_everybody_is_no_order() -> None:
    snapshot = told(club(), payment(status="Failed"))
    assert snapshot.orders == ()
    assert snapshot.payments[0].order is None


def test_link_for_everybody_is_no_order_itself() -> None:
    with pytest.raises(ValueError, match="each of its payments"):
        order_from(club())


def test_repeated_link_that_is_sent_to_one_person_is_that_persons_order() -> None:
    about = request(allow_repeated_payments=True, email="Asha@example.com", status="Completed")
    other = payment(payment_id="MOJO0816705N15845281", buyer_email="bela@example.com")
    snapshot = told(about, payment(), other)
    assert [(one.remote_id, one.email) for one in snapshot.orders] == [
        (REQUEST, "Asha@example.com"),
        ("MOJO0816705N15845281", "bela@example.com"),
    ]
    assert [one.order for one in snapshot.payments] == [REQUEST, "MOJO0816705N15845281"]


def test_buyer_without_an_email_is_not_taken_for_the_addressee_of_nobody() -> None:
    snapshot = told(club(), payment(buyer_email=""))
    assert (snapshot.orders[0].remote_id, snapshot.orders[0].email) == (PAID, None)


def test_whoever_pays_a_single_request_pays_that_order() -> None:
    snapshot = told(request(status="Completed"), payment(buyer_email="husband@example.com"))
    assert [(one.remote_id, one.email) for one in snapshot.orders] == [(REQUEST, "asha@example.com")]
    assert (snapshot.payments[0].order, snapshot.payments[0].email) == (REQUEST, "husband@example.com")


def test_payment_without_any_request_is_an_order_in_v1_and_not_known_to_be_one_in_v2() -> None:
    alone = payment(payment_request=None)
    assert [one.remote_id for one in told({}, alone).orders] == [PAID]
    assert told({}, alone).payments[0].order == PAID
    assert told({}, alone).orders[0].number == PAID  # it has no title
    assert told({}, payment_v2(payment_request=None)).orders == ()


def test_list_of_payments_does_not_say_whose_order_a_requests_payment_is() -> None:
    """Only the request tells whether it is a link for everybody, and has told before."""
    snapshot = told({}, payment())
    assert snapshot.orders == ()
    assert "order" not in (snapshot.payments[0].knows or {"order"})
    assert told({}, payment(status="Failed")).payments[0].order == REQUEST


def test_order_of_v2_has_the_shops_number() -> None:
    said = {
        "id": ORDER,
        "transaction_id": "SHOP-7",
        "status": "completed",
        "description": "Iced tea",
        "amount": 720,
    }
    found = Adapter.read("order", {"order": said | {"email": "asha@example.com", "currency": "INR"}})
    assert isinstance(found, OrderRecord)
    assert (found.number, found.title, found.status) == ("SHOP-7", "Iced tea", "paid")
    assert (found.amount, found.email) == (Money(72_000, "INR"), "asha@example.com")


# Payments


@pytest.mark.parametrize(
    ("said", "status", "raw"),
    [
        (payment(), "paid", "Credit"),
        (payment(status="Failed"), "failed", "Failed"),
        (payment(status="Initiated"), None, "Initiated"),
        (payment(status=True), None, "true"),
        (payment(status=None), None, "null"),
        (payment(status=7), None, "7"),
        (payment_v2(), "paid", "true"),
        (payment_v2(status=False), "failed", "false"),
        (payment_v2(status=None), "pending", "null"),
        (payment_v2(status="true"), None, "true"),
        (payment_v2(status="Credit"), None, "Credit"),
        (payment_v2(status=1), None, "1"),
        (payment_v2(status=[]), None, None),
    ],
)
def test_words_of_v1_and_truths_of_v2_are_not_mixed_up(
    said: dict[str, Any], status: str | None, raw: str | None
) -> None:
    record = payment_from(said)
    assert (record.status, record.raw_status) == (status, raw)
    assert ("status" in (record.knows or ())) == (status is not None)


def test_payment_without_a_state_is_not_taken_for_one_that_was_begun() -> None:
    said = payment_v2()
    del said["status"]
    assert payment_from(said).status is None


@pytest.mark.parametrize("said", [payment(), payment_v2(instrument_type="UPI")])
def test_payment_in_full_in_both_generations(said: dict[str, Any]) -> None:
    record = payment_from(said)
    assert (record.remote_id, record.email) == (PAID, "asha@example.com")
    assert (record.amount, record.order) == (Money(64_900, "INR"), REQUEST)
    assert record.paid_at == record.created_at == datetime(2026, 11, 20, 8, 34, 29, 939734, UTC)
    assert (record.method, record.failure) == (Method("upi"), None)


def test_failed_payment_has_a_reason_and_no_day_of_payment() -> None:
    failure = {"reason": "AUTHORIZATION_FAILED", "message": "Transaction was declined by the bank"}
    record = payment_from(payment_v2(status=False, failure=failure))
    assert record.failure == Failure("AUTHORIZATION_FAILED", "Transaction was declined by the bank")
    assert record.paid_at is None
    assert payment_from(payment(failure={"message": "No"})).failure == Failure("failed", "No")


@pytest.mark.parametrize(
    ("word", "kind"),
    [("CARD", "card"), ("EMI", "emi"), ("NETBANKING", "netbanking"), ("WALLET", "wallet"), ("QR", "qr_code")],
)
def test_method_is_a_sort_and_no_more(word: str, kind: str) -> None:
    assert payment_from(payment(instrument_type=word)).method == Method(kind)


def test_tax_invoice_of_a_payment_is_for_the_shops_fees_and_told_to_nobody() -> None:
    snapshot = told({}, payment(tax_invoice_id="TX1"))
    assert snapshot.invoices == ()
    with pytest.raises(Unsupported):
        Adapter.read("invoice", {"id": "TX1"})


# Refunds


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (case(), "sent"),
        (case(status="A word of tomorrow"), None),
        (case(status=None), None),
        (case_v2(), "sent"),
        (case_v2(resolution_status=None), "pending"),
        (case_v2(resolution_status="FINI_DENY"), "failed"),
        (case_v2(resolution_status="FINI_WITH"), "cancelled"),
        (case_v2(resolution_status="FINI_INIT"), "cancelled"),
        (case_v2(resolution_status=7), None),
    ],
)
def test_every_outcome_of_a_refund(said: dict[str, Any], status: str | None) -> None:
    record = refund_from(said)
    assert record.status == status
    assert (record.remote_id, record.payment, record.amount) == (CASE, PAID, Money(10_000, "INR"))


def test_shops_own_note_on_a_refund_is_not_shown() -> None:
    record = refund_from({"refund": case(), "success": True})
    assert record.reason == "Not satisfied with it"
    assert "shouted" not in repr(record)
    assert refund_from(case(type="PTH")).reason is None


# What is not what it should be


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("order", case()),
        ("order", case_v2()),
        ("order", {}),
        ("order", request(id="7")),
        ("payment", request()),
        ("payment", case()),
        ("payment", {}),
        ("refund", payment_v2()),
        ("refund", request()),
        ("refund", {}),
        ("event", {"status": "Credit"}),
        ("order", []),
        ("payment", "MOJO"),
    ],
)
def test_other_things_are_refused_with_a_sentence(kind: Any, said: Any) -> None:
    with pytest.raises(ValueError, match=r"[.]$"):
        Adapter.read(kind, said)


@pytest.mark.parametrize("kind", ["customer", "subscription", "invoice"])
def test_there_is_no_such_kind_here(kind: Any) -> None:
    with pytest.raises(Unsupported) as caught:
        Adapter.read(kind, request())
    assert kind in caught.value.hint


MADE, BOUGHT = "2020-08-16T08:26:26.382335+00:00", "2020-08-16T08:34:29.939734+00:00"
PAYLOADS: list[tuple[str, str, tuple[Any, ...]]] = [
    ("order", "v11_payment_request_create_201", ("open", MADE, 2_000, None)),
    ("order", "v11_payment_request_get_200", ("paid", MADE, 2_000, "john@doe.com")),
    ("order", "v11_payment_request_payment_get_200", ("paid", MADE, 2_000, "john@doe.com")),
    ("payment", "v11_payment_request_payment_get_200", ("paid", BOUGHT, 2_000, "john@doe.com")),
    ("refund", "v11_refund_create_201", ("sent", "2015-12-07T11:01:37.640000+00:00", 250_000, None)),
    ("refund", "v11_refund_get_200", ("sent", "2015-12-07T11:04:09.500000+00:00", 250_000, None)),
]


@pytest.mark.parametrize(("kind", "name", "expected"), PAYLOADS)
def test_recorded_answers_are_read(kind: Any, name: str, expected: tuple[Any, ...]) -> None:
    path = SHARED / "payloads" / "instamojo" / f"{name}.json"
    if not path.exists():
        pytest.skip("the recorded answers are not here")
    record: Any = Adapter.read(kind, json.loads(path.read_text()))
    created = record.created_at.isoformat()
    assert (record.status, created, record.amount.minor, record.email) == expected
    if kind == "payment":
        assert (record.order, record.method) == ("0cb066f9d3764c2fab6da469d8f613ss", Method("netbanking"))


# Asking


def fetch(adapter: Adapter, kind: Any, number: str) -> base.Snapshot:
    return asyncio.run(adapter.fetch(Ref(kind, number)))


@pytest.mark.parametrize(
    ("credentials", "variant", "host"),
    [
        (V1, None, "www.instamojo.com GET /api/1.1/payment-requests/"),
        (V1 | {"test": "yes"}, "v1.1", "test.instamojo.com GET /api/1.1/payment-requests/"),
        (V1 | V2, None, "www.instamojo.com GET /api/1.1/payment-requests/"),
        (V2, None, "api.instamojo.com GET /v2/payment_requests/"),
        (V1 | V2, "v2", "api.instamojo.com GET /v2/payment_requests/"),
        (V2 | {"test": "yes"}, "v2", "test.instamojo.com GET /v2/payment_requests/"),
    ],
)
def test_generation_and_host_come_of_the_keys(
    credentials: dict[str, str], variant: str | None, host: str
) -> None:
    token = {f"{one}.instamojo.com {TOKEN}": GRANT for one in ("api", "test")}
    adapter, wire = made(
        {host: {"payment_requests": [], "results": []}, **token}, credentials, variant=variant
    )
    health = asyncio.run(adapter.check())
    assert (health.ok, health.live) == (True, credentials["test"] == "no")
    assert host in wire.asked
    assert {one.split()[0] for one in wire.asked} == {host.split()[0]}


def test_query_comes_behind_the_slash() -> None:
    lists = {
        f"{OLD}/{one}/": listed(one.replace("-", "_")) for one in ("refunds", "payment-requests", "payments")
    }
    adapter, wire = made(lists)

    async def walk() -> list[base.Page]:
        return [page async for page in adapter.backfill()]

    assert [json.loads(page.cursor or "null") for page in asyncio.run(walk())] == [
        ["payment-requests/", 1],
        ["payments/", 1],
        None,
    ]
    assert wire.asked == list(lists)
    assert [one["params"] for one in wire.sent] == [
        {"page": "1", "limit": "500"},
        {"page": "1", "limit": "25"},
        {"page": "1", "limit": "500"},
    ]
    assert wire.sent[0]["headers"] == {"X-Api-Key": "k" * 32, "X-Auth-Token": "t" * 32}


def test_payment_is_read_with_its_request_and_its_refunds() -> None:
    adapter, wire = made(
        {
            f"{OLD}/payments/{PAID}/": {"payment": payment(), "success": True},
            f"{OLD}/payment-requests/{REQUEST}/": {
                "payment_request": request(status="Completed", payments=[payment()]),
                "success": True,
            },
            f"{OLD}/refunds/": listed(
                "refunds", case(), case(id="C5c0751270", payment_id="MOJO0000000000000001")
            ),
        }
    )
    snapshot = fetch(adapter, "payment", PAID)
    assert [one.remote_id for one in snapshot.orders] == [REQUEST]
    assert snapshot.payments[0].order == REQUEST
    assert [one.remote_id for one in snapshot.refunds] == [CASE]
    assert len(wire.asked) == 3


def test_address_that_instamojo_names_is_never_called() -> None:
    evil = payment(payment_request=f"https://evil.example/api/1.1/payment-requests/{REQUEST}/?x=1")
    adapter, wire = made({f"{OLD}/payments/{PAID}/": {"payment": evil}, f"{OLD}/refunds/": listed("refunds")})
    fetch(adapter, "payment", PAID)
    assert {one.split()[0] for one in wire.asked} == {"www.instamojo.com"}
    assert not any("evil" in one or "x=1" in one for one in wire.asked)


@pytest.mark.parametrize("number", ["../../x?y=#z", "a/b", "", "..", "MOJO/../refunds"])
@pytest.mark.parametrize("kind", ["order", "payment", "refund"])
def test_id_that_makes_no_sense_is_never_asked_for(kind: str, number: str) -> None:
    adapter, wire = made({})
    with pytest.raises(Gone):
        fetch(adapter, kind, number)
    assert wire.asked == []


@pytest.mark.parametrize("kind", ["subscription", "customer", "invoice"])
def test_nothing_else_can_be_asked_for(kind: str) -> None:
    adapter, wire = made({})
    with pytest.raises(Unsupported):
        fetch(adapter, kind, REQUEST)
    assert wire.asked == []


def test_answer_about_something_else_is_none() -> None:
    other = {"payment_request": request(id="f" * 32)}
    adapter, _ = made({f"{OLD}/payment-requests/{REQUEST}/": other})
    with pytest.raises(Unavailable):
        fetch(adapter, "order", REQUEST)


def test_there_is_no_look_up_by_email() -> None:
    adapter, wire = made({})
    assert asyncio.run(adapter.find("asha@example.com")) == []
    assert wire.asked == []


@pytest.mark.parametrize(
    ("status", "said", "error"),
    [
        (400, {"success": False, "message": {"amount": ["This field is required."]}}, Declined),
        (401, {"success": False, "message": "Authentication credentials were not provided."}, Unavailable),
        (403, {"error": "insufficient_scope"}, Unavailable),
        (404, {"success": False, "message": "Not found."}, Gone),
        (429, {"message": "Slow down"}, Unavailable),
        (500, {}, Unavailable),
        (503, [], Unavailable),
        (302, {}, Unavailable),
        (200, [], Unavailable),
        (200, {"success": False, "message": "Odd"}, Unavailable),
    ],
)
def test_refusals_become_the_five_errors(status: int, said: Any, error: type[base.GatewayError]) -> None:
    adapter, _ = made({f"{OLD}/payment-requests/{REQUEST}/": (status, said)})
    with pytest.raises(error) as caught:
        fetch(adapter, "order", REQUEST)
    assert caught.value.customer
    assert "k" * 32 not in str(caught.value)


def test_refused_keys_say_that_test_and_live_are_separate() -> None:
    adapter, _ = made({f"{OLD}/payment-requests/": (401, {"message": "Invalid"})})
    health = asyncio.run(adapter.check())
    assert (health.ok, health.live) == (False, True)
    assert "test account" in (health.hint or "")
    assert "k" * 32 not in (health.hint or "")


def test_outage_is_no_refusal() -> None:
    adapter, _ = made({f"{OLD}/payment-requests/": (503, {})})
    with pytest.raises(Unavailable):
        asyncio.run(adapter.check())


# v2


GRANT = {"access_token": "y70kak2K", "expires_in": 36_000, "token_type": "Bearer", "scope": "read write"}
API_TOKEN, WWW_TOKEN = f"api.instamojo.com {TOKEN}", f"www.instamojo.com {TOKEN}"
OPEN = {f"{NEW}/payment_requests/{REQUEST}/": request(payments=[])}


def test_token_is_asked_for_once_and_renewed_five_minutes_early() -> None:
    adapter, wire = made({API_TOKEN: GRANT, **OPEN}, V2)

    async def thrice() -> None:
        ref = Ref("order", REQUEST)
        await adapter.fetch(ref)
        clock.set_offset(clock.offset() + timedelta(seconds=35_600))
        await adapter.fetch(ref)
        clock.set_offset(clock.offset() + timedelta(seconds=101))
        await adapter.fetch(ref)

    asyncio.run(thrice())
    assert [one.split()[1] for one in wire.asked] == ["POST", "GET", "GET", "POST", "GET"]
    assert parse_qs(wire.sent[0]["content"].decode()) == {
        "grant_type": ["client_credentials"],
        "client_id": ["i" * 40],
        "client_secret": ["s" * 128],
    }
    assert wire.sent[1]["headers"] == {"Authorization": "Bearer y70kak2K"}


@pytest.mark.parametrize("status", [404, 500, 503])
def test_token_comes_from_the_other_host_where_the_first_has_none(status: int) -> None:
    adapter, wire = made({API_TOKEN: (status, {}), WWW_TOKEN: GRANT, **OPEN}, V2)
    fetch(adapter, "order", REQUEST)
    assert wire.asked[:2] == [API_TOKEN, WWW_TOKEN]


@pytest.mark.parametrize("status", [400, 401])
def test_refused_keys_are_not_tried_at_the_other_host(status: int) -> None:
    adapter, wire = made({API_TOKEN: (status, {"error": "invalid_client"}), WWW_TOKEN: GRANT}, V2)
    assert not asyncio.run(adapter.check()).ok
    assert wire.asked == [API_TOKEN]


def test_test_account_has_one_host_for_tokens() -> None:
    adapter, wire = made({}, V2 | {"test": "yes"})
    with pytest.raises(Gone):
        fetch(adapter, "order", REQUEST)
    assert wire.asked == [f"test.instamojo.com {TOKEN}"]


def test_token_that_is_refused_is_renewed_once_and_no_more() -> None:
    path = f"{NEW}/payment_requests/{REQUEST}/"
    refused = (401, {"success": False, "message": "Authentication credentials were not provided."})
    adapter, wire = made({API_TOKEN: GRANT, path: [refused, request(payments=[])]}, V2)
    assert fetch(adapter, "order", REQUEST).orders[0].status == "open"
    assert wire.asked == [API_TOKEN, path, API_TOKEN, path]
    adapter, wire = made({API_TOKEN: GRANT, path: refused}, V2)
    with pytest.raises(Unavailable):
        fetch(adapter, "order", REQUEST)
    assert len(wire.asked) == 4


@pytest.mark.parametrize("said", [{}, {"access_token": ""}, {"access_token": "tökén"}, (200, []), "token"])
def test_answer_without_a_token_is_no_answer_and_had_no_effect(said: Any) -> None:
    adapter, _ = made({API_TOKEN: said, **OPEN}, V2)
    with pytest.raises(Unavailable) as caught:
        fetch(adapter, "order", REQUEST)
    assert not caught.value.sent


@pytest.mark.parametrize("lasts", [10**18, -5, "soon", None, 60])
def test_odd_life_of_a_token_is_survived(lasts: Any) -> None:
    adapter, _ = made({API_TOKEN: {"access_token": "y70kak2K", "expires_in": lasts}, **OPEN}, V2)
    assert fetch(adapter, "order", REQUEST).orders[0].status == "open"


def test_request_of_v2_names_its_payments_by_address() -> None:
    uri = f"https://api.instamojo.com/v2/payments/{PAID}/"
    adapter, wire = made(
        {
            API_TOKEN: GRANT,
            f"{NEW}/payment_requests/{REQUEST}/": request(
                status="Completed", payments=[uri, 7, "https://x/y?z"]
            ),
            f"{NEW}/payments/{PAID}/": payment_v2(
                cases=[f"https://api.instamojo.com/v2/resolutioncenter/cases/{CASE}/"]
            ),
            f"{NEW}/resolutioncenter/cases/{CASE}/": case_v2(),
        },
        V2,
    )
    snapshot = fetch(adapter, "order", REQUEST)
    assert (snapshot.orders[0].status, snapshot.orders[0].lines[0].quantity) == ("paid", 2)
    assert [one.order for one in snapshot.payments] == [REQUEST]
    assert [(one.payment, one.status) for one in snapshot.refunds] == [(PAID, "sent")]
    assert len(wire.asked) == 4


@pytest.mark.parametrize("one", [f"https://x.example/cases/{CASE}/", CASE, {"id": CASE}])
def test_refunds_of_a_payment_are_known_in_each_form(one: Any) -> None:
    assert shapes.ids(payment_v2(cases=[one, None, 7]), "cases") == [CASE]


def test_missing_scope_for_refunds_hides_no_payment_and_is_named_by_the_check() -> None:
    answers: dict[str, Any] = {
        API_TOKEN: GRANT,
        f"{NEW}/payments/{PAID}/": payment_v2(cases=[CASE], payment_request=None),
        f"{NEW}/payment_requests/": {"results": []},
    }
    refused = (403, {"error": "insufficient_scope"})
    for number in (CASE, "C0000000000"):
        answers[f"{NEW}/resolutioncenter/cases/{number}/"] = refused
    adapter, _ = made(answers, V2)
    snapshot = fetch(adapter, "payment", PAID)
    assert (snapshot.payments[0].status, snapshot.refunds) == ("paid", ())
    adapter, _ = made(answers, V2)
    health = asyncio.run(adapter.check())
    assert (health.ok, health.missing) == (False, ("cases:read",))
    assert "cases:read" in (health.hint or "")


def test_next_page_of_v2_is_counted_and_its_address_not_followed() -> None:
    pages = [
        {
            "count": 2,
            "next": "https://evil.example/v2/payment_requests/?page=2",
            "results": [request(payments=[])],
        },
        {"count": 2, "next": None, "payment_requests": [request(id="e" * 32, payments=[])]},
    ]
    orders: dict[str, Any] = {"count": 0, "next": None, "results": []}
    adapter, wire = made(
        {API_TOKEN: GRANT, f"{NEW}/payment_requests/": pages, f"{NEW}/gateway/orders/": orders}, V2
    )

    async def walk() -> list[base.Page]:
        return [page async for page in adapter.backfill()]

    found = asyncio.run(walk())
    assert [one.remote_id for page in found for one in page.snapshot.orders] == [REQUEST, "e" * 32]
    assert [more["params"]["page"] for more in wire.sent[1:]] == ["1", "2", "1"]
    assert not any("evil" in one for one in wire.asked)


def test_checkout_that_somebody_left_is_no_order() -> None:
    left = {"id": ORDER, "transaction_id": "T1", "status": "pending", "amount": "5.00", "payments": []}
    adapter, _ = made(
        {
            API_TOKEN: GRANT,
            f"{NEW}/payment_requests/": {"results": []},
            f"{NEW}/gateway/orders/": {"orders": [left]},
            f"{NEW}/gateway/orders/id:{ORDER}/": left,
        },
        V2,
    )

    async def walk() -> list[base.Page]:
        return [page async for page in adapter.backfill()]

    assert [page.snapshot.orders for page in asyncio.run(walk())] == [(), ()]


# Paying


def pay(adapter: Adapter, ref: Ref) -> base.Snapshot | Leave:
    return asyncio.run(adapter.pay_now(ref, "https://portal.example/customers/return/s1", "k1"))


def test_open_request_is_paid_on_instamojos_page_which_sends_nobody_here() -> None:
    adapter, _ = made({f"{OLD}/payment-requests/{REQUEST}/": {"payment_request": request(status="Sent")}})
    assert pay(adapter, Ref("order", REQUEST)) == Leave(LINK, returns=False)


def test_paid_request_is_told_instead() -> None:
    done = {"payment_request": request(status="Completed", payments=[payment()])}
    adapter, _ = made({f"{OLD}/payment-requests/{REQUEST}/": done, f"{OLD}/refunds/": listed("refunds")})
    snapshot = pay(adapter, Ref("order", REQUEST))
    assert isinstance(snapshot, base.Snapshot)
    assert snapshot.orders[0].status == "paid"


@pytest.mark.parametrize(
    "said",
    [
        request(expires_at="2026-11-24T07:00:00Z"),
        request(status="Failed"),
        request(status="A word of tomorrow"),
        request(longurl=None),
        request(email="", allow_repeated_payments=True),
    ],
)
def test_request_that_is_not_open_is_not_paid(said: dict[str, Any]) -> None:
    adapter, _ = made({f"{OLD}/payment-requests/{REQUEST}/": {"payment_request": said}})
    with pytest.raises(Unsupported) as caught:
        pay(adapter, Ref("order", REQUEST))
    assert caught.value.hint


def test_nothing_but_an_order_is_paid() -> None:
    adapter, wire = made({})
    with pytest.raises(Unsupported):
        pay(adapter, Ref("subscription", REQUEST))
    assert wire.asked == []


# Notices


def signed(said: dict[str, str], salt: str = SALT) -> bytes:
    values = "|".join(said[name] for name in sorted(said, key=str.lower))
    return urlencode(said | {"mac": hmac.new(salt.encode(), values.encode(), "sha1").hexdigest()}).encode()


def notice(**changes: str) -> dict[str, str]:
    return {
        "payment_id": PAID,
        "status": "Credit",
        "shorturl": "",
        "longurl": LINK,
        "purpose": " Tëa | two & a half ",
        "amount": "649.00",
        "fees": "12.98",
        "currency": "INR",
        "buyer": "asha+tea@example.com",
        "buyer_name": "Asha",
        "buyer_phone": "+919900000000",
        "payment_request_id": REQUEST,
    } | changes


def verify(body: bytes, credentials: dict[str, str] = V1) -> Event:
    [event] = Adapter(credentials).verify([], body, NOW)
    return event


def test_published_vector() -> None:
    """The values 2, 3, 1 in the order of their names make 2|3|1."""
    said = {"foo": "1", "bar": "2", "baz": "3"}
    assert shapes.mac(said, b"salt") == hmac.new(b"salt", b"2|3|1", hashlib.sha1).hexdigest()


def test_code_is_over_decoded_values_blanks_kept() -> None:
    event = verify(signed(notice()), {"salt": SALT})
    assert (event.id, event.type) == (f"{PAID}:Credit", "Credit")
    assert event.subject == Ref("payment", PAID)
    assert event.occurred_at is None
    assert dict(event.body) == {"payment_request": REQUEST}


def test_names_are_ordered_without_regard_to_case_and_new_ones_count() -> None:
    said = notice(Zeal="1", aardvark="2", Buyer_GSTIN="3")
    assert verify(signed(said)).subject == Ref("payment", PAID)
    dropped = parse_qs(signed(said).decode(), keep_blank_values=True)
    del dropped["Zeal"]
    with pytest.raises(BadSignature):
        verify(urlencode(dropped, doseq=True).encode())


def test_order_of_the_form_does_not_matter() -> None:
    body = b"&".join(reversed(signed(notice()).split(b"&")))
    assert verify(body).id == f"{PAID}:Credit"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"mac=",
        signed(notice()) + b" ",
        signed(notice()) + b"&amount=1.00",
        signed(notice()) + b"&mac=0",
        signed(notice(), "other"),
        signed(notice()).replace(b"649.00", b"649.01"),
        signed(notice()).replace(b"shorturl=&", b""),
        signed(notice()).replace(b"mac=", b"Mac="),
        signed(notice()).replace(b"Asha", b"%ff"),
        signed(notice()).partition(b"&mac=")[0],
        signed(notice()).partition(b"&mac=")[0] + b"&mac=" + signed(notice()).rpartition(b"=")[2].upper(),
        json.dumps({"payment": {"payment_id": PAID}, "message_authentication_code": "0" * 40}).encode(),
        b"&".join(b"a%d=1" % number for number in range(200)),
    ],
)
def test_forged_notices_are_refused(body: bytes) -> None:
    with pytest.raises(BadSignature):
        verify(body)


def test_md5_that_some_tutorials_speak_of_is_refused() -> None:
    said = notice()
    values = "|".join(said[name] for name in sorted(said)).encode()
    code = hmac.new(SALT.encode(), values, hashlib.md5).hexdigest()
    with pytest.raises(BadSignature):
        verify(urlencode(said | {"mac": code}).encode())


@pytest.mark.parametrize("credentials", [{}, {"salt": ""}, {"salt": "  "}])
def test_blank_salt_fails_closed(credentials: dict[str, str]) -> None:
    with pytest.raises(BadSignature, match="private salt"):
        verify(signed(notice(), ""), credentials)


def test_moved_values_only_say_where_to_look() -> None:
    """Names are not covered: with others in the same order the code still fits, and still nothing is believed."""
    body = signed(notice()).replace(b"payment_id=", b"payment_i=")
    assert verify(body).subject == Ref("order", REQUEST)
    nothing = (
        signed(notice()).replace(b"payment_id=", b"payment_i=").replace(b"payment_request_id=", b"payment_r=")
    )
    assert verify(nothing).subject is None


def test_failed_and_good_notice_of_one_payment_are_two_events() -> None:
    assert verify(signed(notice(status="Failed"))).id == f"{PAID}:Failed"
    assert verify(signed(notice())).id == verify(signed(notice(fees="0.00"))).id


def test_notice_can_be_read_without_proof() -> None:
    found = Adapter.read("event", notice())
    assert isinstance(found, list)
    assert [(one.id, one.subject) for one in found] == [(f"{PAID}:Credit", Ref("payment", PAID))]


def refetched(answers: dict[str, Any], event: Event) -> base.Snapshot | None:
    adapter, _ = made(answers)
    return asyncio.run(adapter.refetch(event))


def test_request_that_only_the_notice_names_counts_when_it_has_the_payment() -> None:
    silent = payment(payment_request=None)
    answers = {
        f"{OLD}/payments/{PAID}/": {"payment": silent},
        f"{OLD}/payment-requests/{REQUEST}/": {
            "payment_request": request(status="Completed", payments=[silent])
        },
        f"{OLD}/refunds/": listed("refunds"),
    }
    snapshot = refetched(answers, verify(signed(notice())))
    assert snapshot is not None
    assert [one.remote_id for one in snapshot.orders] == [REQUEST]
    answers[f"{OLD}/payment-requests/{REQUEST}/"] = {"payment_request": request(payments=[])}
    snapshot = refetched(answers, verify(signed(notice())))
    assert snapshot is not None
    assert [one.remote_id for one in snapshot.orders] == [PAID]


def test_what_the_api_says_counts_and_not_what_the_notice_says() -> None:
    answers = {
        f"{OLD}/payments/{PAID}/": {"payment": payment(status="Failed", amount="9.00")},
        f"{OLD}/payment-requests/{REQUEST}/": {"payment_request": request()},
    }
    snapshot = refetched(answers, verify(signed(notice())))
    assert snapshot is not None
    assert (snapshot.payments[0].status, snapshot.payments[0].amount) == ("failed", Money(900, "INR"))
    assert snapshot.orders[0].status == "open"


def test_notice_of_an_unknown_payment_is_gone() -> None:
    with pytest.raises(Gone):
        refetched({}, verify(signed(notice())))
    assert refetched({}, Event("x", "Credit", None, None)) is None


def test_gateway_of_the_registry_is_this_one() -> None:
    assert isinstance(gateway("instamojo", V1), Adapter)
