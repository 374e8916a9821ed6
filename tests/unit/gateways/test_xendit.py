"""Xendit: both generations of plans, what cycles tell, amounts in major units, notices that prove only their origin."""

import asyncio
import json
from base64 import b64encode
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx2 as httpx
import pytest

from portal import clock
from portal.gateways import base
from portal.gateways._xendit import shapes
from portal.gateways.base import (
    BadSignature,
    CustomerRecord,
    Declined,
    Event,
    Failure,
    Gone,
    Interval,
    InvoiceRecord,
    Line,
    Method,
    NextPayment,
    OrderRecord,
    PaymentRecord,
    Ref,
    RefundRecord,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import Circumstances, facts
from portal.gateways.http import Http
from portal.gateways.xendit import Adapter
from portal.money import Money

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
PLAN = "repl_4e66b458-00b7-4ddd-9859-cce153dda097"
TOKEN = "V3rify" * 6
KEYS = {"secret_key": "xnd_production_" + "k" * 40, "webhook_token": TOKEN}
SUBSCRIPTION = Ref("subscription", PLAN)
BACK = "https://portal.example/customers/return/s1"


@pytest.fixture(autouse=True)
def _that_morning_without_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    clock.set_offset(NOW - datetime.now(UTC))
    monkeypatch.setattr(httpx, "AsyncClient", lambda **more: None)


class Wire(Http):
    """The client of a gateway with answers by method and path; what is not there is 404. Keeps what was asked."""

    def __init__(self, gateway: Adapter, answers: dict[str, Any]) -> None:
        super().__init__(gateway, "xendit")
        self.answers = answers
        self.asked: list[tuple[str, dict[str, str], Any]] = []

    async def call(self, method: str, host: str, path: str, **more: Any) -> httpx.Response:
        assert host == "api.xendit.co"
        self.asked.append((f"{method} {path}", dict(more["headers"]), more.get("json")))
        found = self.answers.get(f"{method} {path}", (404, {"error_code": "DATA_NOT_FOUND", "message": "no"}))
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        status, said = found if isinstance(found, tuple) else (200, found)
        return httpx.Response(status, json=said)


def made(answers: dict[str, Any], **credentials: str) -> tuple[Adapter, Wire]:
    adapter = Adapter({**KEYS, **credentials})
    wire = Wire(adapter, answers)
    adapter._http = adapter._reader._http = wire
    return adapter, wire


def plan(**changes: Any) -> dict[str, Any]:
    return {
        "id": PLAN,
        "reference_id": "my-plan-01",
        "customer_id": "cust-e2878b4c-d57e-4a2c-922d-c0313c2800a3",
        "currency": "PHP",
        "country": "PH",
        "amount": 120.5,
        "status": "ACTIVE",
        "recurring_cycle_count": 2,
        "schedule": {"interval": "MONTH", "interval_count": 1, "total_recurrence": None},
        "payment_tokens": [
            {"payment_token_id": "pt-second", "rank": 2},
            {"payment_token_id": "ptkn-first", "rank": 1},
        ],
        "payment_link_for_failed_attempt": True,
        "description": "Newspaper",
        "created": "2026-09-01T03:00:00Z",
        "updated": "2026-11-01T03:00:05Z",
    } | changes


def cycle(number: int, status: str, when: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"recy_{number}",
        "plan_id": PLAN,
        "cycle_number": number,
        "status": status,
        "scheduled_timestamp": when,
        "currency": "PHP",
        "amount": 120.5,
        "attempt_details": [],
    } | changes


PAID = cycle(1, "SUCCEEDED", "2026-11-01T03:00:00Z")
PAID_TOO = cycle(2, "SUCCEEDED", "2026-11-20T03:00:00Z")
FAILED = cycle(2, "FAILED", "2026-11-20T03:00:00Z")
COMING = cycle(2, "SCHEDULED", "2026-12-01T03:00:00Z")
LEFT_OUT = cycle(2, "CANCELLED", "2026-12-01T03:00:00Z")


def attempt(status: str, **changes: Any) -> dict[str, Any]:
    return {
        "type": "INITIAL",
        "status": status,
        "payment_id": "py-1",
        "created": "2026-11-20T03:00:00Z",
    } | changes


def answers(said: dict[str, Any], *cycles: dict[str, Any]) -> dict[str, Any]:
    listed = {"data": list(cycles), "has_more": False}
    return {f"GET /recurring/plans/{PLAN}": said, f"GET /recurring/plans/{PLAN}/cycles": listed}


def read(said: dict[str, Any], *cycles: dict[str, Any]) -> SubscriptionRecord:
    adapter, _ = made(answers(said, *cycles))
    return asyncio.run(adapter.fetch(SUBSCRIPTION)).subscriptions[0]


# What a plan and its cycles mean


@pytest.mark.parametrize(
    ("changes", "cycles", "status"),
    [
        ({}, [PAID, COMING], "active"),
        ({}, [PAID, cycle(2, "PENDING", "2026-11-24T03:00:00Z")], "active"),
        ({}, [PAID, cycle(2, "RETRYING", "2026-11-20T03:00:00Z")], "past_due"),
        ({}, [PAID, cycle(2, "FAILED", "2026-11-20T03:00:00Z"), COMING], "past_due"),
        ({}, [PAID, cycle(2, "CANCELLED", "2026-11-20T03:00:00Z"), COMING], "active"),
        ({}, [COMING], "trialing"),
        ({}, [cycle(1, "A_WORD_OF_TOMORROW", "2026-11-20T03:00:00Z")], None),
        ({"status": "PENDING"}, [], "incomplete"),
        ({"status": "REQUIRES_ACTION"}, [], "incomplete"),
        ({"status": "A_WORD_OF_TOMORROW"}, [PAID], None),
        ({"status": "INACTIVE"}, [PAID, LEFT_OUT], "cancelled"),
        ({"status": "INACTIVE", "failed_cycle_action": "STOP"}, [PAID, FAILED], "cancelled"),
        ({"status": "INACTIVE", "schedule": {"total_recurrence": 2}}, [PAID, PAID_TOO], "expired"),
        ({"status": "INACTIVE", "schedule": {"total_recurrence": 2}}, [PAID, LEFT_OUT], "cancelled"),
    ],
)
def test_state_comes_of_the_plan_and_its_cycles(
    changes: dict[str, Any], cycles: list[dict[str, Any]], status: str | None
) -> None:
    record = read(plan(**changes), *cycles)
    assert record.status == status
    assert record.raw_status == changes.get("status", "ACTIVE")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "active"),
        ({"recurring_cycle_count": 0, "schedule": {"anchor_date": "2026-12-24T10:00:00+07:00"}}, "trialing"),
        ({"recurring_cycle_count": 0, "schedule": {"anchor_date": "2026-10-24T10:00:00+07:00"}}, "active"),
        (
            {
                "recurring_cycle_count": 0,
                "immediate_payment": True,
                "schedule": {"anchor_date": "2026-12-24T10:00:00Z"},
            },
            "active",
        ),
        ({"status": "INACTIVE", "schedule": {"total_recurrence": 2}}, "expired"),
    ],
)
def test_plan_alone_tells_its_state_as_far_as_it_goes(changes: dict[str, Any], status: str) -> None:
    record = Adapter.read("subscription", plan(**changes))
    assert isinstance(record, SubscriptionRecord)
    assert record.status == status
    assert record.knows is not None
    assert not {"next_payment", "due", "current_period_end"} & record.knows


def test_subscription_in_full() -> None:
    record = read(plan(items=[{"name": "Daily", "quantity": 3, "net_unit_amount": 40.1}]), PAID, COMING)
    assert (record.amount, record.interval, record.quantity) == (Money(12_050, "PHP"), Interval("month"), 3)
    assert (record.title, record.object) == ("Newspaper", "plan")
    assert record.next_payment == NextPayment(date(2026, 12, 1), Money(12_050, "PHP"), "fixed")
    assert record.current_period_start == datetime(2026, 11, 1, 3, 0, tzinfo=UTC)
    assert record.current_period_end == datetime(2026, 12, 1, 3, 0, tzinfo=UTC)
    assert record.method == Method(
        "payment_method", remote_id="ptkn-first"
    )  # the lowest rank; its token is gone
    assert (record.cancels_at, record.ended_at, record.trial_ends_at) == (None, None, None)


def test_skipped_payment_ends_what_is_paid_on_its_own_day() -> None:
    later = cycle(3, "SCHEDULED", "2027-01-01T03:00:00Z")
    record = read(plan(), PAID, cycle(2, "CANCELLED", "2026-12-01T03:00:00Z"), later)
    assert record.current_period_end == datetime(2026, 12, 1, 3, 0, tzinfo=UTC)
    assert record.next_payment is not None
    assert record.next_payment.on == date(2027, 1, 1)


def test_paid_time_is_still_known_after_the_end() -> None:
    record = read(plan(status="INACTIVE"), PAID, cycle(2, "CANCELLED", "2026-12-01T03:00:00Z"))
    assert record.current_period_end == datetime(2026, 12, 1, 3, 0, tzinfo=UTC)
    assert record.ended_at == datetime(2026, 11, 1, 3, 0, 5, tzinfo=UTC)
    assert record.next_payment is None


def test_moved_payment_is_due_on_its_new_day_for_its_own_amount() -> None:
    record = read(plan(), PAID, cycle(2, "SCHEDULED", "2026-12-15T03:00:00Z", amount=99))
    assert record.next_payment == NextPayment(date(2026, 12, 15), Money(9_900, "PHP"), "fixed")


def test_retry_comes_before_the_next_cycle() -> None:
    failed = attempt(
        "FAILED", failure_code="INSUFFICIENT_BALANCE", next_retry_timestamp="2026-11-25T03:00:00Z"
    )
    retrying = cycle(2, "RETRYING", "2026-11-23T03:00:00Z", attempt_details=[failed])
    record = read(plan(payment_link_for_failed_attempt=False), PAID, retrying, COMING)
    assert (record.status, record.object) == ("past_due", "plan_without_link")
    assert record.next_payment is not None
    assert record.next_payment.on == record.retries_on == date(2026, 11, 25)
    assert (record.due, record.due_link, record.stopped) == (Money(12_050, "PHP"), None, False)


def linked(status: str) -> dict[str, Any]:
    links = [
        attempt("FAILED", payment_session={"payment_link_url": "https://xen.to/old"}),
        attempt("FAILED", payment_session={"payment_link_url": "https://xen.to/kGxPCi60"}),
        attempt("FAILED", payment_session=None),
    ]
    return cycle(2, status, "2026-11-20T03:00:00Z", attempt_details=links)


@pytest.mark.parametrize("status", ["RETRYING", "FAILED"])
def test_newest_link_is_where_it_is_paid(status: str) -> None:
    record = read(plan(), PAID, linked(status))
    assert (record.due, record.due_link) == (Money(12_050, "PHP"), "https://xen.to/kGxPCi60")
    adapter, _ = made(answers(plan(), PAID, linked(status)))
    leave = asyncio.run(adapter.pay_now(SUBSCRIPTION, BACK, "k"))
    assert leave == base.Leave("https://xen.to/kGxPCi60", returns=False)


def test_failed_payment_without_a_link_can_not_be_paid() -> None:
    said = answers(plan(), PAID, cycle(2, "FAILED", "2026-11-20T03:00:00Z"))
    adapter, wire = made(said)
    snapshot = asyncio.run(adapter.pay_now(SUBSCRIPTION, BACK, "k"))
    assert isinstance(snapshot, base.Snapshot)
    assert (snapshot.subscriptions[0].due, snapshot.subscriptions[0].stopped) == (None, True)
    assert not [line for line, _, _ in wire.asked if line.startswith("POST")]


def test_payments_of_cycles_are_linked_and_only_failures_have_a_status() -> None:
    failed = attempt("FAILED", payment_id="py-2", failure_code="CARD_DECLINED")
    good = attempt("SUCCEEDED", payment_id="py-1")
    adapter, _ = made(
        answers(
            plan(),
            cycle(1, "SUCCEEDED", "2026-10-01T03:00:00Z", attempt_details=[failed, good]),
            PAID,
            COMING,
        )
    )
    told = {one.remote_id: one for one in asyncio.run(adapter.fetch(SUBSCRIPTION)).payments}
    assert (told["py-2"].status, told["py-2"].failure) == ("failed", Failure("CARD_DECLINED"))
    assert told["py-1"].subscription == PLAN
    assert told["py-1"].knows is not None
    assert not {"status", "raw_status", "refunded"} & told["py-1"].knows


def test_generations_are_told_apart_by_shape() -> None:
    old = plan(payment_methods=[{"payment_method_id": "pm-1", "rank": 1}])
    del old["payment_tokens"]
    said = answers(old, PAID, COMING)
    said[f"GET /recurring/plans/{PLAN}"] = [(404, {}), old]
    said["GET /v2/payment_methods/pm-1"] = {
        "id": "pm-1",
        "type": "CARD",
        "card": {
            "card_information": {
                "masked_card_number": "4000XXXXXXXX1091",
                "network": "VISA",
                "expiry_month": "9",
                "expiry_year": "2028",
            }
        },
    }
    adapter, wire = made(said)
    record = asyncio.run(adapter.fetch(SUBSCRIPTION)).subscriptions[0]
    assert record.object == "legacy_plan"
    assert record.method == Method("card", "Visa", "1091", "2028-09", "pm-1")
    versions = [headers.get("api-version") for line, headers, _ in wire.asked if "/recurring/" in line]
    assert versions == ["2026-01-01", "2022-04-10", "2022-04-10"]


# Amounts


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        (10000, "IDR", 1_000_000),
        (1999.01, "IDR", 199_901),
        (120.5, "PHP", 12_050),
        (0.1, "PHP", 10),
        (1234567.89, "PHP", 123_456_789),
        ("10000", "PHP", 1_000_000),
        (99000, "VND", 99_000),
        (10.555, "PHP", None),
        (True, "PHP", None),
        (None, "PHP", None),
        ("seven", "PHP", None),
        (5, "pesos", None),
    ],
)
def test_amounts_are_major_units_and_never_rounded(amount: Any, currency: str, minor: int | None) -> None:
    record = Adapter.read("subscription", plan(amount=amount, currency=currency))
    assert isinstance(record, SubscriptionRecord)
    assert record.amount == (Money(minor, currency) if minor is not None else None)


@pytest.mark.parametrize(
    ("money", "written"),
    [
        (Money(1_000_000, "IDR"), "10000"),
        (Money(12_050, "PHP"), "120.5"),
        (Money(12_055, "PHP"), "120.55"),
        (Money(99_000, "VND"), "99000"),
    ],
)
def test_amounts_are_written_as_xendit_writes_them(money: Money, written: str) -> None:
    assert json.dumps(shapes.number_of(money)) == written


def test_rupiah_with_decimals_are_never_sent() -> None:
    with pytest.raises(Unsupported):
        shapes.number_of(Money(199_901, "IDR"))


# Reading


def test_payment_of_v3_with_a_card() -> None:
    said = {
        "payment_id": "py-1402feb0",
        "payment_request_id": "pr-1102feb0",
        "customer_id": "cust-1",
        "currency": "IDR",
        "request_amount": 1999.01,
        "channel_code": "CARDS",
        "channel_properties": {
            "card_details": {
                "network": "MASTERCARD",
                "masked_card_number": "5200****1005",
                "expiry_year": "2028",
                "expiry_month": "09",
            }
        },
        "captures": [{"capture_timestamp": "2026-11-02T03:00:00Z", "capture_amount": 1999.01}],
        "status": "SUCCEEDED",
        "created": "2026-11-01T03:00:00Z",
        "updated": "2026-11-02T03:00:01Z",
    }
    record = Adapter.read("payment", {"data": said})
    assert isinstance(record, PaymentRecord)
    assert (record.remote_id, record.status, record.customer) == ("py-1402feb0", "paid", "cust-1")
    assert record.amount == Money(199_901, "IDR")
    assert record.paid_at == datetime(2026, 11, 2, 3, 0, tzinfo=UTC)
    assert record.method == Method("card", "Mastercard", "1005", "2028-09")
    assert record.knows is not None
    assert "refunded" not in record.knows


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("SUCCEEDED", "paid"),
        ("AUTHORIZED", "authorized"),
        ("PENDING", "pending"),
        ("FAILED", "failed"),
        ("EXPIRED", "expired"),
        ("CANCELED", "cancelled"),
        ("REQUIRES_ACTION", "pending"),
        ("SUCCESS", "paid"),
        ("VOIDED", "cancelled"),
        ("REVERSED", "cancelled"),
        ("UNKNOWN", None),
    ],
)
def test_words_for_payments(word: str, status: str | None) -> None:
    record = Adapter.read(
        "payment", {"payment_id": "py-1", "request_amount": 5, "currency": "PHP", "status": word}
    )
    assert isinstance(record, PaymentRecord)
    assert (record.status, record.raw_status) == (status, word)


def transaction(**changes: Any) -> dict[str, Any]:
    return {
        "id": "txn_1",
        "product_id": "py-123e4567",
        "type": "PAYMENT",
        "status": "SUCCESS",
        "channel_category": "EWALLET",
        "channel_code": "ID_SHOPEEPAY",
        "reference_id": "payref-1",
        "account_identifier": None,
        "currency": "IDR",
        "amount": 100000,
        "created": "2026-06-01T09:59:00Z",
        "updated": "2026-06-01T10:01:00Z",
        "product_data": {"payment_request_id": "pr-1"},
    } | changes


def test_transaction_is_a_payment_by_its_product() -> None:
    record = Adapter.read("payment", transaction())
    assert isinstance(record, PaymentRecord)
    assert (record.remote_id, record.status, record.amount) == (
        "py-123e4567",
        "paid",
        Money(10_000_000, "IDR"),
    )
    assert record.method == Method("wallet", "ShopeePay")
    assert (record.order, record.object) == (None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"product_id": "65fc7522ff846905c2fc1c8d", "product_data": None},
        {"product_data": {"payment_link_id": "65fc7522ff846905c2fc1c8d"}},
    ],
)
def test_transaction_of_an_invoice_knows_its_order(changes: dict[str, Any]) -> None:
    record = Adapter.read("payment", transaction(**changes))
    assert isinstance(record, PaymentRecord)
    assert record.order == record.invoice == "65fc7522ff846905c2fc1c8d"
    assert record.object == "invoice_order"


@pytest.mark.parametrize(
    ("said", "method"),
    [
        ({"channel_code": "BRI_DIRECT_DEBIT"}, Method("bank_debit", "BRI")),
        ({"channel_code": "BCA_VIRTUAL_ACCOUNT"}, Method("bank_transfer", "BCA")),
        ({"channel_code": "OVO"}, Method("wallet", "OVO")),
        ({"channel_code": "QRIS"}, Method("qr_code", "QRIS")),
        ({"channel_category": "CARDLESS_CREDIT", "channel_code": "KREDIVO"}, Method("paylater", "KREDIVO")),
        (
            {
                "channel_category": "CARDS",
                "channel_code": "CREDIT_CARD",
                "account_identifier": "4000XXXXXXXX0002",
            },
            Method("card", last4="0002"),
        ),
        (
            {"payment_method": {"type": "EWALLET", "ewallet": {"channel_code": "GCASH"}}},
            Method("wallet", "GCash"),
        ),
        ({}, None),
    ],
)
def test_ways_to_pay(said: dict[str, Any], method: Method | None) -> None:
    assert shapes.method(said) == method


def test_refund_words_have_two_ls_where_payments_have_one() -> None:
    said = {"id": "rfd-1", "payment_id": "py-1", "amount": 50, "currency": "PHP", "reason": "CANCELLATION"}
    words = {
        "PENDING": "pending",
        "SUCCEEDED": "sent",
        "FAILED": "failed",
        "CANCELLED": "cancelled",
        "CANCELED": None,
    }
    for word, status in words.items():
        record = Adapter.read("refund", {**said, "status": word})
        assert isinstance(record, RefundRecord)
        assert (record.status, record.payment, record.amount) == (status, "py-1", Money(5_000, "PHP"))


def invoice(**changes: Any) -> dict[str, Any]:
    return {
        "id": "65fc7522ff846905c2fc1c8d",
        "external_id": "SO-7",
        "status": "SETTLED",
        "payer_email": "ada@example.org",
        "amount": 500.5,
        "currency": "PHP",
        "invoice_url": "https://checkout.xendit.co/v2/65fc7522ff846905c2fc1c8d",
        "items": [{"name": "Mug", "price": 250.25, "quantity": 2}],
        "created": "2026-11-01T03:00:00Z",
        "updated": "2026-11-01T03:10:00Z",
    } | changes


@pytest.mark.parametrize(
    ("word", "order", "document"),
    [
        ("PENDING", "open", "open"),
        ("PAID", "paid", "paid"),
        ("SETTLED", "paid", "paid"),
        ("EXPIRED", "expired", "void"),
        ("NEW", None, None),
    ],
)
def test_invoice_is_an_order_and_a_document(word: str, order: str | None, document: str | None) -> None:
    sold, bill = Adapter.read("order", invoice(status=word)), Adapter.read("invoice", invoice(status=word))
    assert isinstance(sold, OrderRecord)
    assert isinstance(bill, InvoiceRecord)
    assert (sold.status, bill.status) == (order, document)
    assert sold.lines == bill.lines == (Line("Mug", 2, Money(50_050, "PHP")),)
    assert sold.number == bill.number == "SO-7"
    assert (sold.email, bill.order, bill.page_url) == (
        "ada@example.org",
        sold.remote_id,
        invoice()["invoice_url"],
    )
    assert sold.due_link == (invoice()["invoice_url"] if order == "open" else None)
    assert (bill.document, bill.document_url) == (False, None)


def test_session_is_an_order() -> None:
    said = {
        "payment_session_id": "ps-661f87c614802d6c402cd82d",
        "reference_id": "order_12345_PAY",
        "customer_id": "cust-1",
        "session_type": "PAY",
        "currency": "PHP",
        "amount": "10000",
        "status": "ACTIVE",
        "payment_link_url": "https://xen.to/kGxPCi60",
        "items": [{"name": "Clothes", "net_unit_amount": "5000", "quantity": "2"}, {"name": "Broken"}],
    }
    record = Adapter.read("order", said)
    assert isinstance(record, OrderRecord)
    assert (record.remote_id, record.number, record.status) == (
        "ps-661f87c614802d6c402cd82d",
        "order_12345_PAY",
        "open",
    )
    assert record.lines == (Line("Clothes", 2, Money(1_000_000, "PHP")),)
    assert (record.title, record.due_link) == ("Clothes", "https://xen.to/kGxPCi60")


def test_customer_may_have_no_email() -> None:
    said = {"id": "cust-1", "email": None, "individual_detail": {"given_names": "Ada", "surname": "Byron"}}
    record = Adapter.read("customer", said)
    assert isinstance(record, CustomerRecord)
    assert (record.email, record.name) == (None, "Ada Byron")
    assert record.knows == frozenset({"name"})


@pytest.mark.parametrize(
    "kind", ["customer", "order", "subscription", "payment", "refund", "invoice", "event"]
)
@pytest.mark.parametrize(
    "said", [None, [], "text", {}, {"object": "else"}, {"schedule": {}, "external_id": ""}]
)
def test_what_is_no_such_object_is_a_value_error(kind: Any, said: Any) -> None:
    with pytest.raises(ValueError, match=r"Xendit|There is no"):
        Adapter.read(kind, said)


# Notices


def event(name: str | None, data: dict[str, Any], **changes: Any) -> Event:
    said = {"event": name, "business_id": "5f", "created": "2026-11-01T03:00:09Z", "data": data} | changes
    adapter = Adapter({"webhook_token": TOKEN})
    [one] = adapter.verify([("X-Callback-Token", TOKEN)], json.dumps(said).encode(), NOW)
    assert Adapter.read("event", said) == [one]
    return one


@pytest.mark.parametrize(
    ("name", "data", "subject"),
    [
        ("recurring.plan.activated", {"id": PLAN}, SUBSCRIPTION),
        ("recurring.plan.activation", {"id": PLAN}, SUBSCRIPTION),
        ("recurring.plan.inactivated", {"id": PLAN, "payment_methods": []}, SUBSCRIPTION),
        ("recurring.cycle.created", {"id": "recy_1", "plan_id": PLAN}, SUBSCRIPTION),
        ("recurring.cycle.succeeded", {"id": "recy_1"}, None),
        ("payment_session.completed", {"payment_session_id": "ps-1"}, Ref("order", "ps-1")),
        ("payment_session.expired", {"payment_session_id": "ps-1"}, Ref("order", "ps-1")),
        ("payment.capture", {"payment_id": "py-1"}, Ref("payment", "py-1")),
        ("payment.authorization", {"payment_id": "py-1"}, Ref("payment", "py-1")),
        ("payment.failure", {"payment_id": "py-1"}, Ref("payment", "py-1")),
        ("payment.succeeded", {"id": "ddpy-1", "payment_method": {}}, Ref("payment", "ddpy-1")),
        ("payment_method.activated", {"id": "pm-1"}, None),
        ("payment_token.expiry", {"payment_token_id": "pt-1"}, None),
        ("refund.succeeded", {"id": "rfd-1"}, Ref("refund", "rfd-1")),
        ("refund.failed", {"event": "refund.failed", "data": {"id": "rfd-1"}}, Ref("refund", "rfd-1")),
        ("a.word.of.tomorrow", {"id": "x"}, None),
    ],
)
def test_notices_say_where_to_look(name: str, data: dict[str, Any], subject: Ref | None) -> None:
    found = event(name, data)
    assert (found.subject, found.type) == (subject, name)
    assert found.id.startswith(name)


def test_invoice_callback_of_old_is_known_by_its_shape() -> None:
    adapter = Adapter({"webhook_token": TOKEN})
    [one] = adapter.verify([("x-callback-token", TOKEN)], json.dumps(invoice()).encode(), NOW)
    assert (one.type, one.subject) == ("invoice.settled", Ref("order", "65fc7522ff846905c2fc1c8d"))
    assert one.occurred_at == datetime(2026, 11, 1, 3, 10, tzinfo=UTC)


def test_cycle_event_keeps_which_cycle_and_nothing_else() -> None:
    found = event(
        "recurring.cycle.retrying", {"id": "recy_1", "plan_id": PLAN, "status": "RETRYING", "amount": 5}
    )
    assert found.body == {"status": "RETRYING", "cycle": "recy_1"}


def test_two_retries_of_one_cycle_are_two_events_and_a_second_delivery_is_none() -> None:
    first = {"id": "recy_1", "plan_id": PLAN, "status": "RETRYING", "updated": "2026-11-01T03:00:00Z"}
    again = {**first, "updated": "2026-11-02T03:00:00Z"}
    name = "recurring.cycle.retrying"
    assert event(name, first).id != event(name, again).id
    assert event(name, first).id == event(name, first, created="2026-11-01T09:00:00Z").id
    without = {"id": "recy_1", "plan_id": PLAN, "status": "RETRYING", "attempt_count": 1}
    assert event(name, without).id != event(name, {**without, "attempt_count": 2}).id


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-callback-token", "")],
        [("x-callback-token", TOKEN.lower())],
        [("x-callback-token", TOKEN[:-1])],
        [("x-callback-token", TOKEN), ("X-Callback-Token", TOKEN)],
        [("x-callback-token", "\u00fc" * 36)],
        [("x-callback-signature", TOKEN)],
    ],
)
def test_wrong_token_proves_nothing(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(BadSignature):
        Adapter(KEYS).verify(headers, b'{"event":"refund.failed","data":{"id":"rfd-1"}}', NOW)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"data":{}}', b"\xff", b'{"external_id":"x"}'])
def test_body_that_is_no_notice_is_refused_even_with_the_token(body: bytes) -> None:
    with pytest.raises(BadSignature):
        Adapter(KEYS).verify([("x-callback-token", TOKEN)], body, NOW)


def test_account_without_a_token_takes_no_notice() -> None:
    with pytest.raises(BadSignature):
        Adapter({}).verify([("x-callback-token", "")], b"{}", NOW)


def test_what_a_notice_claims_is_not_believed() -> None:
    adapter, _ = made(answers(plan(), PAID, COMING))
    forged = event("recurring.plan.inactivated", plan(status="INACTIVE", amount=1))
    snapshot = asyncio.run(adapter.refetch(forged))
    assert snapshot is not None
    assert (snapshot.subscriptions[0].status, snapshot.subscriptions[0].amount) == (
        "active",
        Money(12_050, "PHP"),
    )


def test_notice_of_a_session_of_no_interest_has_no_effect() -> None:
    said = {
        "payment_session_id": "ps-1",
        "session_type": "SAVE",
        "status": "COMPLETED",
        "metadata": {"plan": "x"},
    }
    adapter, wire = made({"GET /sessions/ps-1": said})
    assert (
        asyncio.run(adapter.refetch(event("payment_session.completed", {"payment_session_id": "ps-1"})))
        is None
    )
    assert [line for line, _, _ in wire.asked] == ["GET /sessions/ps-1"]


# Calls


def test_calls_bear_key_version_and_sub_account() -> None:
    adapter, wire = made(answers(plan(), PAID, COMING), for_user_id="5f27a14a9bf05c73dd040bc8")
    asyncio.run(adapter.fetch(SUBSCRIPTION))
    headers = [told for _, told, _ in wire.asked]
    expected = f"Basic {b64encode((KEYS['secret_key'] + ':').encode()).decode()}"
    assert {one["Authorization"] for one in headers} == {expected}
    assert {one["for-user-id"] for one in headers} == {"5f27a14a9bf05c73dd040bc8"}
    assert [one.get("api-version") for one in headers] == ["2026-01-01"] * 2 + ["2020-10-31", "2024-11-11"]


def test_cancel_needs_no_key_since_a_used_one_would_block_the_next_try() -> None:
    said = answers(plan(), PAID, COMING)
    ended = plan(status="INACTIVE")
    said[f"GET /recurring/plans/{PLAN}"] = [plan(), ended]
    said[f"POST /recurring/plans/{PLAN}/deactivate"] = ended
    adapter, wire = made(said)
    snapshot = asyncio.run(adapter.cancel_now(SUBSCRIPTION, "k"))
    assert (snapshot.subscriptions[0].status, snapshot.tell) == ("cancelled", "")
    [post] = [told for line, told, _ in wire.asked if line.startswith("POST")]
    assert "idempotency-key" not in post


def test_payment_still_being_retried_after_a_cancel_is_told_to_the_merchant() -> None:
    said = answers(plan(), PAID, cycle(2, "RETRYING", "2026-11-20T03:00:00Z"))
    said[f"GET /recurring/plans/{PLAN}"] = [plan(), plan(status="INACTIVE")]
    said[f"POST /recurring/plans/{PLAN}/deactivate"] = plan(status="INACTIVE")
    adapter, _ = made(said)
    snapshot = asyncio.run(adapter.cancel_now(SUBSCRIPTION, "k"))
    assert "refund" in snapshot.tell
    assert snapshot.subscriptions[0].status == "cancelled"
    assert (snapshot.subscriptions[0].due, snapshot.subscriptions[0].next_payment) == (None, None)


def test_refused_second_cancel_is_what_the_plan_says_afterwards() -> None:
    said = answers(plan(), PAID, COMING)
    said[f"GET /recurring/plans/{PLAN}"] = [plan(), plan(status="INACTIVE")]
    said[f"POST /recurring/plans/{PLAN}/deactivate"] = (400, {"error_code": "ANY", "message": "inactive"})
    assert asyncio.run(made(said)[0].cancel_now(SUBSCRIPTION, "k")).subscriptions[0].status == "cancelled"
    said[f"GET /recurring/plans/{PLAN}"] = plan()
    with pytest.raises(Declined):
        asyncio.run(made(said)[0].cancel_now(SUBSCRIPTION, "k"))


def test_failure_to_look_after_a_call_is_unknown() -> None:
    said = answers(plan(), PAID, COMING)
    said[f"GET /recurring/plans/{PLAN}"] = [plan(), (500, {"error_code": "SERVER_ERROR", "message": "no"})]
    said[f"POST /recurring/plans/{PLAN}/deactivate"] = plan(status="INACTIVE")
    with pytest.raises(Unavailable) as unsure:
        asyncio.run(made(said)[0].cancel_now(SUBSCRIPTION, "k"))
    assert unsure.value.sent


def test_change_that_is_accepted_and_not_applied_is_unknown() -> None:
    said = answers(plan(), PAID, COMING)
    said[f"PATCH /recurring/plans/{PLAN}"] = plan()
    with pytest.raises(Unavailable) as unsure:
        asyncio.run(made(said)[0].change_plan(SUBSCRIPTION, {"interval": Interval("week")}, BACK, "k"))
    assert unsure.value.sent
    assert "schedule" in unsure.value.hint


def test_quantity_needs_one_priced_item() -> None:
    for items in (None, [], [{"name": "a"}], [{"net_unit_amount": 1}, {"net_unit_amount": 2}]):
        with pytest.raises(Unsupported):
            asyncio.run(
                made(answers(plan(items=items)))[0].change_plan(SUBSCRIPTION, {"quantity": 2}, BACK, "k")
            )


@pytest.mark.parametrize(
    ("status", "code", "error", "sent"),
    [
        (401, "INVALID_API_KEY", Unavailable, False),
        (403, "REQUEST_FORBIDDEN_ERROR", Unavailable, False),
        (403, "INELIGIBLE_CYCLE_REQUEST", Declined, False),
        (404, "DATA_NOT_FOUND", Gone, False),
        (409, "IDEMPOTENCY_ERROR", Unavailable, True),
        (422, "UNPROCESSABLE_ENTITY_ERROR", Declined, False),
        (429, "RATE_LIMIT_EXCEEDED", Unavailable, False),
        (500, "SERVER_ERROR", Unavailable, True),
        (503, "CHANNEL_UNAVAILABLE", Unavailable, True),
    ],
)
def test_refusals_become_one_of_the_five(status: int, code: str, error: type[Exception], sent: bool) -> None:
    retrying = cycle(2, "RETRYING", "2026-11-20T03:00:00Z")
    said = answers(plan(payment_link_for_failed_attempt=False), PAID, retrying)
    path = f"POST /recurring/plans/{PLAN}/cycles/recy_2/force_attempt"
    said[path] = (status, {"error_code": code, "message": "sorry"})
    adapter, wire = made(said)
    with pytest.raises(error) as refused:
        asyncio.run(adapter.pay_now(SUBSCRIPTION, BACK, "portal-7"))
    assert getattr(refused.value, "sent", False) == sent
    assert code in refused.value.hint  # type: ignore[attr-defined]
    assert KEYS["secret_key"] not in str(refused.value)
    assert wire.asked[-1][1]["idempotency-key"] == "portal-7"


def test_saved_card_is_kept_as_recurring_for_the_plans_own_rhythm() -> None:
    said = answers(plan(schedule={"interval": "WEEK", "interval_count": 2}), PAID, COMING)
    said["POST /sessions"] = {"payment_session_id": "ps-1", "payment_link_url": "https://xen.to/kGxPCi60"}
    adapter, wire = made(said)
    leave = asyncio.run(adapter.start_method_update(SUBSCRIPTION, BACK, "k" * 100))
    assert (leave.url, leave.state, leave.returns) == ("https://xen.to/kGxPCi60", {"session": "ps-1"}, True)
    body = wire.asked[-1][2]
    assert body["channel_properties"]["cards"]["recurring_configuration"]["recurring_frequency"] == 14
    assert (body["customer_id"], body["country"], len(body["reference_id"])) == (
        plan()["customer_id"],
        "PH",
        64,
    )
    assert body["success_return_url"] == body["cancel_return_url"] == BACK


def test_session_without_a_page_is_an_outage() -> None:
    adapter, _ = made({**answers(plan(), PAID), "POST /sessions": {"payment_session_id": "ps-1"}})
    with pytest.raises(Unavailable):
        asyncio.run(adapter.start_method_update(SUBSCRIPTION, BACK, "k"))


def test_return_without_a_state_only_looks() -> None:
    adapter, wire = made(answers(plan(), PAID, COMING))
    asyncio.run(adapter.finish_method_update(SUBSCRIPTION, {}, {"payment_token_id": "pt-forged"}))
    assert all(line.startswith("GET") for line, _, _ in wire.asked)


# Facts


def shape(key: Any, **circumstances: Any) -> tuple[str, str | None]:
    given = {"state": "active", "method": "card", "object": "plan", "country": "PH"} | circumstances
    found = facts("xendit").capabilities[key].under(Circumstances(**given))
    return found.mode, found.how


def test_facts_follow_country_object_option_and_state() -> None:
    assert shape("update_payment_method") == ("hosted", None)
    assert shape("update_payment_method", country="MX")[0] == "request"
    assert shape("update_payment_method", object="legacy_plan")[0] == "request"
    assert shape("update_payment_method", state="incomplete")[0] == "none"
    assert shape("cancel_at_period_end") == ("emulated", "keep")
    assert shape("undo_cancel")[0] == "request"
    on = frozenset({"new_plan_after_cancel"})
    for state in ("cancelled", "cancels_at_period_end"):
        assert shape("undo_cancel", state=state, option=on) == ("emulated", "calls")
    assert shape("undo_cancel", option=on, token=False)[0] == "request"
    assert shape("undo_cancel", option=on, object="legacy_plan")[0] == "request"
    assert shape("pay_now")[0] == "hosted"
    assert shape("pay_now", object="plan_without_link")[0] == "direct"
    assert (shape("pause")[0], shape("resume")[0], shape("skip_next_payment")[0]) == (
        "request",
        "request",
        "direct",
    )
    documents = facts("xendit").capabilities["invoice"].under(Circumstances(object="invoice_order")).documents
    assert documents == ["page", "ours"]


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://checkout.xendit.co/sessions/ps-1", True),
        ("https://xen.to/kGxPCi60", True),
        ("https://checkout-staging.xendit.co/sessions/ps-1", True),
        ("https://dev.xen.to/kGxPCi76", True),
        ("http://xen.to/kGxPCi60", False),
        ("https://xen.to.example/x", False),
        ("https://api.xendit.co/x", False),
    ],
)
def test_only_xendits_own_pages_are_left_for(url: str, allowed: bool) -> None:
    assert facts("xendit").allows_link(url) is allowed


def test_new_plan_takes_over_what_matters_and_begins_when_the_paid_time_ends() -> None:
    until = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)
    old = plan(status="INACTIVE", schedule={"interval": "MONTH", "interval_count": 1, "total_recurrence": 12})
    body = shapes.like(PLAN, old, [PAID, cycle(2, "CANCELLED", "2026-12-01T03:00:00Z")], until)
    assert body["schedule"]["anchor_date"] == "2027-01-01T23:30:00+00:00"
    assert body["schedule"]["total_recurrence"] == 11
    assert (body["immediate_payment"], body["reference_id"]) == (False, f"{PLAN}-again")
    assert body["payment_tokens"] == old["payment_tokens"]
    assert body["metadata"] == {"portal_continues": PLAN}
    january = shapes.like(PLAN, old, [PAID], datetime(2027, 1, 30, tzinfo=UTC))
    assert january["schedule"]["anchor_date"] == "2027-02-01T00:00:00+00:00"
    early = shapes.like(PLAN, old, [PAID], NOW + timedelta(days=2))
    assert early["schedule"]["anchor_date"] == "2026-11-26T08:00:00+00:00"
