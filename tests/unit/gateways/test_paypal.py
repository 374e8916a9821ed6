"""PayPal: amounts, states and prices as it tells them, the proof of its deliveries, its refusals, and its oddities."""

import asyncio
import base64
import json
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any

import httpx2 as httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from portal import clock
from portal.gateways import base, paypal
from portal.gateways.base import (
    BadSignature,
    Declined,
    Failure,
    GatewayError,
    Gone,
    Interval,
    Leave,
    Method,
    NextPayment,
    OrderRecord,
    PaymentRecord,
    Ref,
    RefundRecord,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import Circumstances, disagreements, facts
from portal.gateways.paypal import Adapter
from portal.money import Money
from tests.conftest import SHARED

PAYLOADS = SHARED / "payloads" / "paypal"
NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
WEBHOOK = "1JE4291016473214C"
KEYS = {
    "client_id": "A" + "c" * 79,
    "client_secret": "E" + "s" * 79,
    "environment": "live",
    "webhook_id": WEBHOOK,
}
ID = "I-BW452GLLEP1G"
SUBSCRIPTION = Ref("subscription", ID)
Json = dict[str, Any]


@pytest.fixture(autouse=True)
def _at_half_past_nine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    clock.set_offset(NOW - datetime.now(UTC))
    yield
    paypal._certificates.clear()


class Wire:
    """Answers in place of PayPal, in order and by path, and keeps what was asked."""

    def __init__(self, *answers: tuple[str, httpx.Response]) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if request.url.path == "/v1/oauth2/token" and not (
            self.answers and self.answers[0][0] == "POST /v1/oauth2/token"
        ):
            return httpx.Response(200, json={"access_token": "A21AA-secret", "expires_in": 32_400})
        line, answer = self.answers.pop(0)
        assert line == f"{request.method} {request.url.path}"
        return answer

    def lines(self) -> list[str]:
        return [f"{one.method} {one.url.path}" for one in self.asked]


def make_gateway(*answers: tuple[str, httpx.Response], **credentials: str) -> tuple[Adapter, Wire]:
    wire = Wire(*answers)
    one = Adapter({**KEYS, **credentials})
    one._http._client = httpx.AsyncClient(transport=httpx.MockTransport(wire), follow_redirects=False)
    return one, wire


def ok(said: Any, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=said)


def refusal(
    status: int, issue: str, description: str = "No.", name: str = "UNPROCESSABLE_ENTITY"
) -> httpx.Response:
    detail = {"issue": issue, "description": description}
    said = {"name": name, "message": "The request failed.", "debug_id": "b1d1f06c7246c", "details": [detail]}
    return httpx.Response(status, json=said)


LOOK = f"GET /v1/billing/subscriptions/{ID}"


def money(value: str, currency: str = "EUR") -> Json:
    return {"value": value, "currency_code": currency}


def cycle(tenure: str, completed: int, remaining: int, total: int, sequence: int = 1) -> Json:
    counts = {"cycles_completed": completed, "cycles_remaining": remaining, "total_cycles": total}
    return {"tenure_type": tenure, "sequence": sequence, **counts}


def planned(
    tenure: str, price: str | None, sequence: int = 1, unit: str = "MONTH", count: int = 1, **more: Any
) -> Json:
    scheme = {"pricing_scheme": {"fixed_price": money(price)}} if price else {}
    frequency = {"interval_unit": unit, "interval_count": count}
    return {"tenure_type": tenure, "sequence": sequence, "frequency": frequency, **scheme, **more}


def make_subscription(status: str = "ACTIVE", **changes: Any) -> Json:
    billing = {
        "outstanding_balance": money("0.0"),
        "cycle_executions": [cycle("REGULAR", 3, 0, 0)],
        "last_payment": {"amount": money("12.00"), "time": "2026-11-10T10:00:00Z"},
        "next_billing_time": "2026-12-10T10:00:00Z",
        "failed_payments_count": 0,
    }
    plan = {"name": "Tea", "billing_cycles": [planned("REGULAR", "12.0")], "quantity_supported": True}
    said = {
        "id": ID,
        "status": status,
        "status_update_time": "2026-11-20T08:00:00Z",
        "plan_id": "P-1",
        "start_time": "2026-08-10T10:00:00Z",
        "create_time": "2026-08-10T09:59:00Z",
        "update_time": "2026-11-20T08:00:00Z",
        "quantity": "1",
        "subscriber": {
            "email_address": "ana@example.org",
            "payer_id": "2J6QB8YJQSJRJ",
            "name": {"given_name": "Ana", "surname": "Ruiz"},
        },
        "plan": {**plan, **changes.pop("plan", {})},
        "billing_info": {**billing, **changes.pop("billing", {})},
        "links": [],
    }
    return {**said, **changes}


def read(said: Json) -> SubscriptionRecord:
    found = Adapter.read("subscription", said)
    assert isinstance(found, SubscriptionRecord)
    return found


def read_payment(said: Json) -> PaymentRecord:
    found = Adapter.read("payment", said)
    assert isinstance(found, PaymentRecord)
    return found


def read_event(kind: str, resource: Json, **more: Any) -> base.Event:
    found = Adapter.read("event", {"id": "WH-1", "event_type": kind, "resource": resource, **more})
    assert isinstance(found, list)
    return found[0]


def knows(record: base.Record) -> set[str]:
    assert record.knows is not None
    return set(record.knows)


def payload(name: str) -> Any:
    path = PAYLOADS / name
    if not path.exists():
        pytest.skip("PayPal's published samples are not here")
    return json.loads(path.read_text())


def test_facts_and_code_agree_both_ways() -> None:
    assert disagreements("paypal", Adapter) == []


def test_a_gateway_can_be_made_of_any_part_of_the_credentials() -> None:
    for name in KEYS:
        asyncio.run(Adapter({name: KEYS[name]}).aclose())
    asyncio.run(Adapter({}).aclose())


def test_environment_chooses_the_host() -> None:
    for environment, host in (("live", "api-m.paypal.com"), ("sandbox", "api-m.sandbox.paypal.com")):
        one, wire = make_gateway((LOOK, refusal(404, "INVALID_RESOURCE_ID")), environment=environment)
        with pytest.raises(Gone):
            asyncio.run(one.fetch(SUBSCRIPTION))
        assert {request.url.host for request in wire.asked} == {host}


# Amounts


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (money("60.0"), Money(6000, "EUR")),
        (money("0.0"), Money(0, "EUR")),
        (money("12"), Money(1200, "EUR")),
        (money("500", "JPY"), Money(500, "JPY")),
        (money("500.0", "JPY"), Money(500, "JPY")),
        (money("1200", "HUF"), Money(120_000, "HUF")),
        (money("300", "TWD"), Money(30_000, "TWD")),
        ({"total": "9.99", "currency": "EUR"}, Money(999, "EUR")),
        (money("12.345"), None),
        (money("500.5", "JPY"), None),
        (money("a lot"), None),
        ({"value": "1.00"}, None),
        ("1.00 EUR", None),
        (7, None),
    ],
)
def test_amounts_are_decimal_texts_of_both_versions(said: Any, expected: Money | None) -> None:
    assert read_payment({"id": "8RS", "status": "COMPLETED", "amount": said}).amount == expected


def test_currencies_without_decimals_at_paypal_are_in_the_facts() -> None:
    assert facts("paypal").exponents == {"HUF": 0, "TWD": 0}


def test_refund_of_a_sale_is_told_below_zero_and_read_without_its_sign() -> None:
    """plutov/paypal#238."""
    said = {
        "id": "6YX",
        "sale_id": "9T0",
        "state": "completed",
        "amount": {"total": "-0.01", "currency": "USD"},
    }
    found = Adapter.read("refund", said)
    assert isinstance(found, RefundRecord)
    assert (found.amount, found.payment, found.status) == (Money(1, "USD"), "9T0", "sent")


# Subscriptions


@pytest.mark.parametrize(
    ("status", "billing", "expected"),
    [
        ("CANCELLED", {}, "cancelled"),
        ("EXPIRED", {}, "expired"),
        ("APPROVAL_PENDING", {}, "incomplete"),
        ("APPROVED", {}, "incomplete"),
        ("SUSPENDED", {}, "paused"),
        ("SUSPENDED", {"failed_payments_count": 3}, "past_due"),
        ("SUSPENDED", {"outstanding_balance": money("5.00")}, "past_due"),
        ("ACTIVE", {}, "active"),
        ("ACTIVE", {"failed_payments_count": 1}, "past_due"),
        ("ACTIVE", {"outstanding_balance": money("5.00")}, "past_due"),
        ("ACTIVE", {"cycle_executions": [cycle("TRIAL", 0, 1, 1), cycle("REGULAR", 0, 0, 0, 2)]}, "trialing"),
        ("ACTIVE", {"cycle_executions": [cycle("TRIAL", 1, 0, 1), cycle("REGULAR", 0, 0, 0, 2)]}, "trialing"),
        ("ACTIVE", {"cycle_executions": [cycle("TRIAL", 1, 0, 1), cycle("REGULAR", 1, 0, 0, 2)]}, "active"),
        ("ACTIVE", {"cycle_executions": [cycle("TRIAL", 1, 1, 2), cycle("REGULAR", 0, 0, 0, 2)]}, "trialing"),
        ("REACTIVATED", {}, None),
    ],
)
def test_status_table(status: str, billing: Json, expected: str | None) -> None:
    found = read(make_subscription(status, billing=billing))
    assert (found.status, found.raw_status) == (expected, status)
    assert ("status" in knows(found)) == (expected is not None)


def test_active_one_may_owe_for_years() -> None:
    """cboard-org/cboard-api#485: it stays ACTIVE while the debt grows."""
    found = read(
        make_subscription(billing={"outstanding_balance": money("432.00"), "failed_payments_count": 36})
    )
    assert (found.status, found.stopped, found.due) == ("past_due", False, None)


def test_everything_that_a_subscription_tells() -> None:
    found = read(make_subscription())
    assert found.email == "ana@example.org"
    assert found.customer == "2J6QB8YJQSJRJ"
    assert (found.title, found.amount, found.interval, found.quantity) == (
        "Tea",
        Money(1200, "EUR"),
        Interval("month"),
        1,
    )
    assert found.started_at == datetime(2026, 8, 10, 10, tzinfo=UTC)
    assert found.current_period_start == datetime(2026, 11, 10, 10, tzinfo=UTC)
    assert found.current_period_end == datetime(2026, 12, 10, 10, tzinfo=UTC)
    assert found.next_payment == NextPayment(date(2026, 12, 10), Money(1200, "EUR"), "fixed")
    assert found.method == Method("wallet", "PayPal")
    assert (found.created_at, found.updated_at) == (
        datetime(2026, 8, 10, 9, 59, tzinfo=UTC),
        datetime(2026, 11, 20, 8, tzinfo=UTC),
    )


@pytest.mark.parametrize("status", ["SUSPENDED", "CANCELLED", "EXPIRED"])
def test_end_of_the_paid_time_is_left_as_it_was_when_paypal_drops_the_next_date(status: str) -> None:
    said = make_subscription(status)
    del said["billing_info"]["next_billing_time"]
    found = read(said)
    assert "current_period_end" not in knows(found)
    assert "next_payment" in knows(found)
    assert found.next_payment is None
    assert (found.ended_at is not None) == (status != "SUSPENDED")


def test_next_date_right_after_a_free_trial_began_is_left_out() -> None:
    """paypal/paypal-checkout-components#1336: the day of the start is told at first, and no event follows."""
    cycles = {"cycle_executions": [cycle("TRIAL", 0, 1, 1), cycle("REGULAR", 0, 0, 0, 2)]}
    times = {"start_time": "2026-11-24T09:00:00Z"}
    found = read(make_subscription(billing={**cycles, "next_billing_time": "2026-11-24T10:00:00Z"}, **times))
    assert found.status == "trialing"
    assert not {"next_payment", "current_period_end", "trial_ends_at"} & knows(found)
    settled = {"cycle_executions": [cycle("TRIAL", 1, 0, 1), cycle("REGULAR", 0, 0, 0, 2)]}
    plan = {"billing_cycles": [planned("TRIAL", None, 1), planned("REGULAR", "12.00", 2)]}
    found = read(
        make_subscription(
            billing={**settled, "next_billing_time": "2026-12-24T10:00:00Z"}, plan=plan, **times
        )
    )
    assert found.trial_ends_at == datetime(2026, 12, 24, 10, tzinfo=UTC)
    assert found.next_payment == NextPayment(date(2026, 12, 24), Money(1200, "EUR"), "fixed")


def test_link_to_fix_a_payment_counts_only_when_past_due() -> None:
    links = [{"rel": "approve", "href": "https://www.paypal.com/webapps/billing/subscriptions?ba_token=BA-1"}]
    stuck = {"failed_payments_count": 3, "last_failed_payment": {"amount": money("12.00")}}
    found = read(
        make_subscription("SUSPENDED", billing={**stuck, "outstanding_balance": money("12.0")}, links=links)
    )
    assert (found.due, found.due_link, found.stopped) == (Money(1200, "EUR"), links[0]["href"], True)
    no_balance = read(make_subscription("SUSPENDED", billing=stuck, links=links))
    assert no_balance.due == Money(1200, "EUR")
    for status in ("APPROVAL_PENDING", "ACTIVE"):
        healthy = read(make_subscription(status, links=links))
        assert (healthy.due, healthy.due_link) == (None, None)
        assert {"due", "due_link"} <= knows(healthy)  # what was due is no longer


def test_retry_day_of_a_failed_payment() -> None:
    failed = {"amount": money("12.00"), "next_payment_retry_time": "2026-11-29T10:00:00Z"}
    found = read(make_subscription(billing={"failed_payments_count": 1, "last_failed_payment": failed}))
    assert found.retries_on == date(2026, 11, 29)


def test_card_behind_a_subscription() -> None:
    card = {"brand": "CHINA_UNION_PAY", "last_digits": "1881", "expiry": "2029-08"}
    subscriber = {"email_address": "ana@example.org", "payment_source": {"card": card}}
    assert read(make_subscription(subscriber=subscriber)).method == Method(
        "card", "China Union Pay", "1881", "2029-08"
    )


# Prices


@pytest.mark.parametrize(
    ("quantity", "plan", "more", "expected"),
    [
        ("3", {}, {}, Money(3600, "EUR")),
        ("1", {}, {"shipping_amount": money("4.5")}, Money(1650, "EUR")),
        ("1", {"taxes": {"percentage": "19", "inclusive": False}}, {}, Money(1428, "EUR")),
        ("1", {"taxes": {"percentage": "19", "inclusive": True}}, {}, Money(1200, "EUR")),
        ("1", {"taxes": {"percentage": "19"}}, {}, Money(1200, "EUR")),
        (
            "2",
            {"taxes": {"percentage": "7.5", "inclusive": False}},
            {"shipping_amount": money("1")},
            Money(2680, "EUR"),
        ),
        ("1", {"taxes": {"percentage": "much", "inclusive": False}}, {}, None),
        ("1", {"billing_cycles": []}, {}, None),
    ],
)
def test_price_is_quantity_tax_and_shipping(
    quantity: str, plan: Json, more: Json, expected: Money | None
) -> None:
    found = read(make_subscription(quantity=quantity, plan=plan, **more))
    assert found.amount == expected
    assert found.next_payment is not None
    assert found.next_payment.amount == expected


def test_tax_is_rounded_to_paypals_own_decimals() -> None:
    cycles = [{**planned("REGULAR", None), "pricing_scheme": {"fixed_price": money("1333", "HUF")}}]
    taxes = {"percentage": "27", "inclusive": False}
    found = read(make_subscription(plan={"billing_cycles": cycles, "taxes": taxes}))
    assert found.amount == Money(169_300, "HUF")  # 1333 + 359.91


TIERS = [
    {"starting_quantity": "1", "ending_quantity": "10", "amount": money("5.00")},
    {"starting_quantity": "11", "ending_quantity": "20", "amount": money("4.00")},
    {"starting_quantity": "21", "amount": money("3.00")},
]


@pytest.mark.parametrize(
    ("model", "quantity", "minor"),
    [
        *(("VOLUME", number, price) for number, price in ((1, 500), (10, 5000), (11, 4400), (25, 7500))),
        *(("TIERED", number, price) for number, price in ((1, 500), (10, 5000), (11, 5400), (25, 10_500))),
    ],
)
def test_tiers_of_both_models(model: str, quantity: int, minor: int) -> None:
    cycles = [{**planned("REGULAR", None), "pricing_scheme": {"pricing_model": model, "tiers": TIERS}}]
    found = read(make_subscription(quantity=str(quantity), plan={"billing_cycles": cycles}))
    assert found.amount == Money(minor, "EUR")


def test_what_is_open_is_billed_with_the_next_cycle_only_where_the_plan_says_so() -> None:
    billing = {"outstanding_balance": money("12.00"), "failed_payments_count": 1}
    for bills, minor in ((True, 2400), (False, 1200)):
        plan = {"payment_preferences": {"auto_bill_outstanding": bills}}
        found = read(make_subscription(billing=billing, plan=plan))
        assert found.next_payment == NextPayment(date(2026, 12, 10), Money(minor, "EUR"), "fixed")


def test_paid_trial_charges_its_own_price_next() -> None:
    plan = {"billing_cycles": [planned("TRIAL", "3.00", 1), planned("REGULAR", "12.00", 2)]}
    cycles = {"cycle_executions": [cycle("TRIAL", 1, 1, 2), cycle("REGULAR", 0, 0, 0, 2)]}
    found = read(make_subscription(plan=plan, billing=cycles))
    assert found.amount == Money(1200, "EUR")
    assert found.next_payment == NextPayment(date(2026, 12, 10), Money(300, "EUR"), "fixed")
    assert found.trial_ends_at is None  # a second trial cycle follows


def test_nothing_is_next_after_the_last_cycle() -> None:
    found = read(make_subscription(billing={"cycle_executions": [cycle("REGULAR", 12, 0, 12)]}))
    assert found.next_payment is None
    assert found.current_period_end == datetime(2026, 12, 10, 10, tzinfo=UTC)


# Orders and payments


def make_order(status: str = "COMPLETED", captures: list[str] | None = None, **more: Any) -> Json:
    states = captures if captures is not None else ["COMPLETED"]
    unit = {
        "amount": money("28.50"),
        "items": [{"name": "Tin", "quantity": "3", "unit_amount": money("9.5")}],
        "payments": {
            "captures": [
                {"id": f"CAP{number}", "status": state, "amount": money("28.5")}
                for number, state in enumerate(states)
            ]
        },
    }
    payer = {"email_address": "ana@example.org", "account_id": "2J6QB8YJQSJRJ"}
    said = {"id": "5O190127TN364715T", "status": status, "intent": "CAPTURE", "purchase_units": [unit]}
    return {**said, "payment_source": {"paypal": payer}, **more}


@pytest.mark.parametrize(
    ("status", "captures", "expected"),
    [
        ("COMPLETED", [], "open"),  # authorized only
        ("COMPLETED", ["DECLINED"], "failed"),
        ("COMPLETED", ["COMPLETED"], "paid"),
        ("COMPLETED", ["PENDING"], "open"),
        ("COMPLETED", ["REFUNDED"], "refunded"),
        ("COMPLETED", ["PARTIALLY_REFUNDED"], "partially_refunded"),
        ("COMPLETED", ["REFUNDED", "COMPLETED"], "partially_refunded"),
        ("COMPLETED", ["DECLINED", "COMPLETED"], "paid"),
        ("CREATED", [], "open"),
        ("SAVED", [], "open"),
        ("APPROVED", [], "open"),
        ("PAYER_ACTION_REQUIRED", [], "open"),
        ("VOIDED", [], "cancelled"),
        ("ENCHANTED", [], None),
    ],
)
def test_completed_order_is_not_paid_before_its_captures_say_so(
    status: str, captures: list[str], expected: str | None
) -> None:
    found = Adapter.read("order", make_order(status, captures))
    assert isinstance(found, OrderRecord)
    assert (found.status, found.raw_status) == (expected, status)


def test_order_with_payer_lines_and_captures() -> None:
    one, _ = make_gateway(("GET /v2/checkout/orders/5O190127TN364715T", ok(make_order())))
    found = asyncio.run(one.fetch(Ref("order", "5O190127TN364715T")))
    (order,), (paid,) = found.orders, found.payments
    assert (order.email, order.amount, order.title) == ("ana@example.org", Money(2850, "EUR"), "Tin")
    assert order.lines == (base.Line("Tin", 3, Money(2850, "EUR")),)
    assert (paid.order, paid.email, paid.method) == (order.remote_id, order.email, Method("wallet", "PayPal"))
    assert found.customers[0].remote_id == "2J6QB8YJQSJRJ"
    assert found.as_of == pytest.approx(NOW, abs=timedelta(minutes=1))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"card": {"brand": "VISA", "last_digits": "4242"}}, Method("card", "Visa", "4242")),
        ({"venmo": {"email_address": "ana@example.org"}}, Method("wallet", "Venmo")),
        ({"ideal": {"name": "Ana"}}, Method("ideal")),
        ({}, None),
    ],
)
def test_how_an_order_was_paid(source: Json, expected: Method | None) -> None:
    one, _ = make_gateway(
        ("GET /v2/checkout/orders/5O190127TN364715T", ok(make_order(payment_source=source)))
    )
    assert asyncio.run(one.fetch(Ref("order", "5O190127TN364715T"))).payments[0].method == expected


def test_older_orders_name_their_payer_elsewhere() -> None:
    payer = {"email_address": "ana@example.org", "payer_id": "2J6QB8YJQSJRJ"}
    found = Adapter.read("order", make_order(payment_source={}, payer=payer))
    assert isinstance(found, OrderRecord)
    assert (found.email, found.customer) == ("ana@example.org", "2J6QB8YJQSJRJ")


@pytest.mark.parametrize(
    ("said", "status"),
    [
        *(({"status": word, "amount": money("1")}, ours) for word, ours in {
            "COMPLETED": "paid", "PENDING": "pending", "DECLINED": "failed", "FAILED": "failed",
            "PARTIALLY_REFUNDED": "partially_refunded", "REFUNDED": "refunded", "CREATED": "authorized",
            "VOIDED": "cancelled", "SOMETHING": None,
        }.items()),
        *(({"state": word, "amount": {"total": "1", "currency": "EUR"}}, ours) for word, ours in {
            "completed": "paid", "pending": "pending", "refunded": "refunded", "denied": "failed",
            "partially_refunded": "partially_refunded",
        }.items()),
    ],
)  # fmt: skip
def test_payment_states_of_captures_and_sales(said: Json, status: str | None) -> None:
    assert read_payment({"id": "8RS", **said}).status == status


def test_sale_names_its_subscription() -> None:
    said = {"id": "8RS", "state": "completed", "amount": {"total": "9.99", "currency": "EUR"}}
    found = read_payment({**said, "billing_agreement_id": ID, "create_time": "2026-11-01T09:59:58Z"})
    assert (found.subscription, found.paid_at) == (ID, datetime(2026, 11, 1, 9, 59, 58, tzinfo=UTC))


def test_capture_names_its_order_and_why_it_failed() -> None:
    related = {"related_ids": {"order_id": "5O190127TN364715T"}}
    processor = {"response_code": "5100"}
    said = {"id": "CAP", "status": "DECLINED", "amount": money("1"), "supplementary_data": related}
    found = read_payment({**said, "processor_response": processor})
    assert (found.order, found.failure) == ("5O190127TN364715T", Failure("5100"))


def reported(code: str = "T0006", amount: str = "12.00", status: str = "S", **more: Any) -> Json:
    info = {
        "transaction_id": "5TY05013RG002845M",
        "transaction_event_code": code,
        "transaction_initiation_date": "2026-11-11T04:03:52+0000",
        "transaction_amount": money(amount),
        "transaction_status": status,
    }
    payer = {"account_id": "2J6QB8YJQSJRJ", "email_address": "ana@example.org"}
    return {"transaction_info": {**info, **more.pop("info", {})}, "payer_info": payer, **more}


@pytest.mark.parametrize(
    ("letter", "status"), [("S", "paid"), ("P", "pending"), ("D", "failed"), ("V", "refunded"), ("X", None)]
)
def test_line_of_the_report(letter: str, status: str | None) -> None:
    found = read_payment(reported(status=letter))
    assert (found.status, found.email, found.customer) == (status, "ana@example.org", "2J6QB8YJQSJRJ")
    assert found.created_at == datetime(2026, 11, 11, 4, 3, 52, tzinfo=UTC)  # an offset without a colon


@pytest.mark.parametrize(
    ("sort", "field"), [("SUB", "subscription"), ("ODR", "order"), ("TXN", None), ("PAP", None)]
)
def test_reference_of_the_report_by_its_sort(sort: str, field: str | None) -> None:
    found = read_payment(reported(info={"paypal_reference_id": "REF", "paypal_reference_id_type": sort}))
    for name in ("subscription", "order"):
        assert getattr(found, name) == ("REF" if name == field else None)


def test_payment_of_a_paypal_invoice_is_of_that_sort() -> None:
    found = read_payment(reported("T0007", cart_info={"paypal_invoice_id": "INV2-1"}))
    assert (found.invoice, found.object) == ("INV2-1", "invoice")
    shape = facts("paypal").capabilities["invoice"]
    assert shape.documents == ["ours"]
    assert shape.under(Circumstances(object=found.object)).documents == ["page", "ours"]


@pytest.mark.parametrize(
    ("status", "due", "expected"),
    [
        ("DRAFT", None, "draft"),
        ("SCHEDULED", None, "draft"),
        ("SENT", None, "open"),
        ("SENT", "2026-11-20", "overdue"),
        ("SENT", "2026-12-20", "open"),
        ("UNPAID", None, "open"),
        ("PARTIALLY_PAID", None, "open"),
        ("PAYMENT_PENDING", None, "open"),
        ("PAID", "2026-11-20", "paid"),
        ("MARKED_AS_PAID", None, "paid"),
        ("REFUNDED", None, "paid"),
        ("PARTIALLY_REFUNDED", None, "paid"),
        ("MARKED_AS_REFUNDED", None, "paid"),
        ("CANCELLED", None, "void"),
        ("FRAMED", None, None),
    ],
)
def test_invoice_states(status: str, due: str | None, expected: str | None) -> None:
    detail: Json = {"invoice_number": "0001", "payment_term": {"due_date": due}}
    found = Adapter.read(
        "invoice", {"id": "INV2-1", "status": status, "detail": detail, "amount": money("75")}
    )
    assert isinstance(found, base.InvoiceRecord)
    assert (found.status, found.number, found.amount) == (expected, "0001", Money(7500, "EUR"))


def test_invoice_tells_its_page_its_payment_and_its_reader() -> None:
    url = "https://www.paypal.com/invoice/p/#INV2-1"
    said = {
        "id": "INV2-1",
        "status": "PAID",
        "detail": {"metadata": {"recipient_view_url": url, "create_time": "2026-11-01T00:00:00Z"}},
        "primary_recipients": [{"billing_info": {"email_address": "ana@example.org"}}],
        "due_amount": money("0.00"),
        "payments": {
            "transactions": [
                {"type": "EXTERNAL", "method": "CASH"},
                {"type": "PAYPAL", "payment_id": "PAY1", "amount": money("75"), "payment_date": "2026-11-03"},
            ]
        },
    }
    one, _ = make_gateway(("GET /v2/invoicing/invoices/INV2-1", ok(said)))
    found = asyncio.run(one.fetch(Ref("invoice", "INV2-1")))
    (bill,), (paid,) = found.invoices, found.payments
    assert (bill.page_url, bill.payment, bill.email, bill.due) == (
        url,
        "PAY1",
        "ana@example.org",
        Money(0, "EUR"),
    )
    assert facts("paypal").allows_link(url)
    assert (paid.remote_id, paid.invoice, paid.status, paid.object) == ("PAY1", "INV2-1", "paid", "invoice")


# Reading what others kept


def test_published_subscription() -> None:
    found = read(payload("response_subscription_create_201.json"))
    assert (found.status, found.quantity, found.email) == ("incomplete", 20, "customer@example.com")
    assert found.customer == "2J6QB8YJQSJRJ"
    assert found.due_link is None
    assert not {"amount", "current_period_end", "title"} & knows(found)


def test_published_plan_prices_the_published_subscription() -> None:
    said = {**payload("response_subscription_create_201.json"), "plan": payload("response_plan_200.json")}
    said |= {"status": "ACTIVE", "start_time": "2026-10-01T00:00:00Z"}
    said["billing_info"] = {
        "cycle_executions": [
            cycle("TRIAL", 2, 0, 2, 1),
            cycle("TRIAL", 1, 2, 3, 2),
            cycle("REGULAR", 0, 12, 12, 3),
        ],
        "next_billing_time": "2026-12-01T00:00:00Z",
        "failed_payments_count": 0,
    }
    found = read(said)
    assert found.status == "trialing"
    assert found.amount == Money(23_000, "USD")  # 20 times 10, 10 % tax, 10 shipping
    assert found.next_payment == NextPayment(date(2026, 12, 1), Money(14_200, "USD"), "fixed")  # 20 times 6


def test_published_revision_is_no_subscription() -> None:
    with pytest.raises(ValueError, match="no id"):
        Adapter.read("subscription", payload("response_subscription_revise_200.json"))


def test_published_event() -> None:
    found = Adapter.read("event", payload("request_verify_webhook_signature.json")["webhook_event"])
    assert isinstance(found, list)
    assert (found[0].id, found[0].type) == ("8PT597110X687430LKGECATA", "PAYMENT.AUTHORIZATION.CREATED")
    assert found[0].subject is None
    assert found[0].occurred_at == datetime(2013, 6, 25, 21, 41, 28, tzinfo=UTC)


@pytest.mark.parametrize(
    "kind", ["customer", "order", "subscription", "payment", "refund", "invoice", "event"]
)
@pytest.mark.parametrize("said", [None, 7, "text", [], {}, {"id": 7}, {"data": []}, {"hello": "world"}])
def test_reading_what_is_none_of_it(kind: Any, said: Any) -> None:
    with pytest.raises(ValueError, match="PayPal"):
        Adapter.read(kind, said)


def test_reading_an_envelope_and_a_customer() -> None:
    assert read({"data": make_subscription()}) == read(make_subscription())
    assert read({"event_type": "X", "resource": make_subscription()}) == read(make_subscription())
    found = Adapter.read("customer", make_subscription()["subscriber"])
    assert isinstance(found, base.CustomerRecord)
    assert (found.remote_id, found.email, found.name) == ("2J6QB8YJQSJRJ", "ana@example.org", "Ana Ruiz")


# Events


@pytest.mark.parametrize(
    ("kind", "resource", "subject"),
    [
        ("BILLING.SUBSCRIPTION.ACTIVATED", {"id": ID}, SUBSCRIPTION),
        ("BILLING.SUBSCRIPTION.PAYMENT.FAILED", {"id": ID}, SUBSCRIPTION),
        ("BILLING.SUBSCRIPTION.RENEWED", {"id": ID}, SUBSCRIPTION),
        ("BILLING.SUBSCRIPTION.RE-ACTIVATED", {"id": ID}, SUBSCRIPTION),
        ("BILLING.PLAN.UPDATED", {"id": "P-1"}, None),
        ("PAYMENT.SALE.COMPLETED", {"id": "8RS", "billing_agreement_id": ID}, SUBSCRIPTION),
        ("PAYMENT.SALE.COMPLETED", {"id": "8RS", "parent_payment": None}, Ref("payment", "8RS")),
        ("PAYMENT.SALE.REFUNDED", {"id": "6YX", "sale_id": "8RS"}, Ref("payment", "8RS")),
        ("PAYMENT.SALE.REVERSED", {"id": "8RS", "billing_agreement_id": ID}, SUBSCRIPTION),
        ("PAYMENT.CAPTURE.COMPLETED", {"id": "CAP"}, Ref("payment", "CAP")),
        ("PAYMENT.CAPTURE.DENIED", {"id": "CAP"}, Ref("payment", "CAP")),
        (
            "PAYMENT.CAPTURE.REFUNDED",
            {
                "id": "REF",
                "links": [{"rel": "up", "href": "https://api.paypal.com/v2/payments/captures/CAP"}],
            },
            Ref("refund", "REF"),
        ),
        (
            "PAYMENT.AUTHORIZATION.CREATED",
            {"id": "AUT", "supplementary_data": {"related_ids": {"order_id": "5O1"}}},
            Ref("order", "5O1"),
        ),
        ("CHECKOUT.ORDER.APPROVED", {"id": "5O1"}, Ref("order", "5O1")),
        (
            "CUSTOMER.DISPUTE.CREATED",
            {"dispute_id": "PP-D-1", "disputed_transactions": [{"seller_transaction_id": "CAP"}]},
            Ref("payment", "CAP"),
        ),
        ("INVOICING.INVOICE.PAID", {"invoice": {"id": "INV2-1"}}, Ref("invoice", "INV2-1")),
        ("INVOICING.INVOICE.CANCELLED", {"id": "INV2-1"}, Ref("invoice", "INV2-1")),
        ("VAULT.PAYMENT-TOKEN.CREATED", {"id": "tok"}, None),
        ("IDENTITY", {}, None),
        ("BILLING.SUBSCRIPTION.CANCELLED", {}, None),
    ],
)
def test_what_an_event_is_about(kind: str, resource: Json, subject: Ref | None) -> None:
    assert read_event(kind, resource).subject == subject


def test_event_of_the_simulator_has_dates_that_are_none() -> None:
    assert (
        read_event(
            "PAYMENT.SALE.COMPLETED", {"id": "8RS"}, create_time="2018-19-12T22:20:32.000Z"
        ).occurred_at
        is None
    )


def test_event_keeps_only_what_no_call_tells() -> None:
    sale = {
        "id": "8RS",
        "billing_agreement_id": ID,
        "amount": {"total": "1", "currency": "EUR"},
        "custom": "secret",
    }
    assert dict(read_event("PAYMENT.SALE.COMPLETED", sale).body) == {
        "sale": {name: value for name, value in sale.items() if name != "custom"}
    }
    assert dict(read_event("BILLING.SUBSCRIPTION.UPDATED", make_subscription()).body) == {}


def test_event_without_an_id_has_one_of_its_content() -> None:
    one = read_event("BILLING.SUBSCRIPTION.UPDATED", {"id": ID}, id=None, create_time="2026-11-01T00:00:00Z")
    same = read_event("BILLING.SUBSCRIPTION.UPDATED", {"id": ID}, id=None, create_time="2026-11-01T00:00:00Z")
    other = read_event(
        "BILLING.SUBSCRIPTION.UPDATED", {"id": ID}, id=None, create_time="2026-11-02T00:00:00Z"
    )
    assert one.id == same.id != other.id


def test_sale_that_can_be_asked_for_nowhere_is_believed_as_signed() -> None:
    """Its subscription may be missing in the notice (paypal/PayPal-PHP-SDK#1201)."""
    sale = {"id": "8RS", "state": "completed", "amount": {"total": "9.99", "currency": "EUR"}}
    event = read_event("PAYMENT.SALE.COMPLETED", sale, create_time="2026-11-01T10:00:00Z")
    one, _ = make_gateway(
        ("GET /v2/payments/captures/8RS", refusal(404, "INVALID_RESOURCE_ID", name="RESOURCE_NOT_FOUND"))
    )
    found = asyncio.run(one.refetch(event))
    assert found is not None
    assert found.as_of == datetime(2026, 11, 1, 10, tzinfo=UTC)  # so that nothing newer is written over
    assert [(paid.remote_id, paid.status, paid.amount) for paid in found.payments] == [
        ("8RS", "paid", Money(999, "EUR"))
    ]


def test_what_paypal_says_now_beats_the_notice() -> None:
    sale = {
        "id": "8RS",
        "state": "completed",
        "billing_agreement_id": ID,
        "amount": {"total": "12", "currency": "EUR"},
    }
    transaction = {
        "id": "8RS",
        "status": "REFUNDED",
        "amount_with_breakdown": {"gross_amount": money("12.00")},
    }
    one, _ = make_gateway(
        (LOOK, ok(make_subscription("CANCELLED"))),
        (f"{LOOK}/transactions", ok({"transactions": [transaction]})),
    )
    found = asyncio.run(one.refetch(read_event("PAYMENT.SALE.COMPLETED", sale)))
    assert found is not None
    assert found.subscriptions[0].status == "cancelled"
    assert [(paid.remote_id, paid.status) for paid in found.payments] == [("8RS", "refunded")]


def test_event_of_no_interest_asks_nothing() -> None:
    one, wire = make_gateway()
    assert asyncio.run(one.refetch(read_event("BILLING.PLAN.UPDATED", {"id": "P-1"}))) is None
    assert wire.asked == []


# Proof


Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PAYPAL = "messageverificationcerts.paypal.com"
CERT_URL = "https://api.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-1f47b7a9"
SENT = "2026-11-24T09:29:58Z"


@cache
def make_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def certify(
    name: str,
    key: Key,
    issuer: str | None = None,
    by: Key | None = None,
    since: str = "2026-01-01",
    until: str = "2027-01-01",
    ca: bool = False,
) -> bytes:
    def named(one: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, one)])

    made = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer or name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromisoformat(since))
        .not_valid_after(datetime.fromisoformat(until))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(by or key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def body_of(kind: str = "BILLING.SUBSCRIPTION.CANCELLED") -> bytes:
    said = {"id": "WH-1", "event_type": kind, "create_time": SENT, "resource": {"id": ID}}
    return json.dumps(said, indent=2).encode()


def sign(
    body: bytes, key: rsa.RSAPrivateKey, webhook: str = WEBHOOK, sent: str = SENT
) -> list[tuple[str, str]]:
    message = f"69cd13f0|{sent}|{webhook}|{zlib.crc32(body)}".encode()
    signature = base64.b64encode(key.sign(message, padding.PKCS1v15(), hashes.SHA256())).decode()
    return [
        ("Paypal-Transmission-Id", "69cd13f0"),
        ("Paypal-Transmission-Time", sent),
        ("Paypal-Transmission-Sig", signature),
        ("Paypal-Cert-Url", CERT_URL),
        ("Paypal-Auth-Algo", "SHA256withRSA"),
    ]


def verify(
    headers: list[tuple[str, str]], body: bytes, certificate: bytes | None, webhook: str = WEBHOOK
) -> list[base.Event]:
    return Adapter({"webhook_id": webhook}).verify(headers, body, NOW, certificate)


def leaf(**more: Any) -> bytes:
    return certify(PAYPAL, make_key("leaf"), **more)


def test_true_delivery_is_proved_with_the_webhook_id_alone() -> None:
    (event,) = verify(sign(body_of(), make_key("leaf")), body_of(), leaf())
    assert (event.id, event.subject) == ("WH-1", SUBSCRIPTION)


def test_raw_body_counts_and_not_its_json() -> None:
    """paypal/PayPal-Python-SDK#175: a body that was read and written anew never proves anything."""
    again = json.dumps(json.loads(body_of())).encode()
    with pytest.raises(BadSignature):
        verify(sign(body_of(), make_key("leaf")), again, leaf())


def test_checksum_is_unsigned_and_decimal() -> None:
    high = next(
        body
        for number in range(100)
        if zlib.crc32(body := body_of(f"BILLING.SUBSCRIPTION.X{number}")) > 0x7FFFFFFF
    )
    assert verify(sign(high, make_key("leaf")), high, leaf())


def test_delivery_that_is_days_old_is_still_true() -> None:
    """PayPal sends again for three days and names no tolerance."""
    sent = "2026-11-01T00:00:00Z"
    assert verify(sign(body_of(), make_key("leaf"), sent=sent), body_of(), leaf())
    assert facts("paypal").webhooks[0].tolerance_s is None


@pytest.mark.parametrize(
    "name", ["messageverificationcerts.paypal.com", "messageverificationcerts.sandbox.paypal.com"]
)
def test_certificates_of_both_environments(name: str) -> None:
    assert verify(sign(body_of(), make_key("leaf")), body_of(), certify(name, make_key("leaf")))


def test_chain_is_followed_as_far_as_it_is_given() -> None:
    root, middle, own = make_key("root"), make_key("middle"), make_key("leaf")
    chain = [
        certify(PAYPAL, own, "Middle", middle),
        certify("Middle", middle, "Root", root, ca=True),
        certify("Root", root, ca=True),
    ]
    headers = sign(body_of(), own)
    for length in (1, 2, 3):
        assert verify(headers, body_of(), b"".join(chain[:length]))
    with pytest.raises(BadSignature):  # a gap
        verify(headers, body_of(), chain[0] + chain[2])
    with pytest.raises(BadSignature):  # an issuer that is no authority
        verify(headers, body_of(), chain[0] + certify("Middle", middle, "Root", root))
    with pytest.raises(BadSignature):  # an issuer that had run out
        verify(
            headers,
            body_of(),
            chain[0] + certify("Middle", middle, "Root", root, until="2026-11-01", ca=True),
        )


BAD_CERTIFICATES: dict[str, Callable[[], bytes | None]] = {
    "none": lambda: None,
    "empty": lambda: b"",
    "no certificate": lambda: b"<html>Not here</html>",
    "another name": lambda: certify("www.paypal.com", make_key("leaf")),
    "a name that begins alike": lambda: certify(
        "messageverificationcerts.paypal.com.attacker.example", make_key("leaf")
    ),
    "another key": lambda: certify(PAYPAL, make_key("other")),
    "run out": lambda: leaf(since="2025-01-01", until="2026-11-24"),
    "not yet valid": lambda: leaf(since="2026-11-25"),
    "no RSA": lambda: certify(PAYPAL, ec.generate_private_key(ec.SECP256R1())),
    "a short key": lambda: certify(PAYPAL, make_key("short", 1024)),
}


@pytest.mark.parametrize("what", BAD_CERTIFICATES)
def test_certificate_that_is_not_paypals_proves_nothing(what: str) -> None:
    key = make_key("short", 1024) if what == "a short key" else make_key("leaf")
    with pytest.raises(BadSignature):
        verify(sign(body_of(), key), body_of(), BAD_CERTIFICATES[what]())


def test_certificate_must_have_been_valid_when_it_was_sent_and_not_now() -> None:
    old = leaf(since="2025-01-01", until="2026-11-20")
    assert verify(sign(body_of(), make_key("leaf"), sent="2026-11-19T00:00:00Z"), body_of(), old)


@pytest.mark.parametrize("at", range(5))
def test_header_that_is_missing_doubled_or_blank(at: int) -> None:
    headers = sign(body_of(), make_key("leaf"))
    name, value = headers[at]
    for wrong in (
        [one for one in headers if one[0] != name],
        [*headers, (name, value)],
        [(key, " " if key == name else kept) for key, kept in headers],
    ):
        with pytest.raises(BadSignature):
            verify(wrong, body_of(), leaf())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Paypal-Auth-Algo", "SHA1withRSA"),
        ("Paypal-Auth-Algo", "none"),
        ("Paypal-Transmission-Time", "yesterday"),
        ("Paypal-Transmission-Time", "2026-11-24T09:29:59Z"),
        ("Paypal-Transmission-Id", "69cd13f1"),
        ("Paypal-Transmission-Sig", "AAAA"),
        ("Paypal-Transmission-Sig", "ü" * 12),
        ("Paypal-Cert-Url", "https://attacker.example/v1/notifications/certs/CERT-1"),
    ],
)
def test_any_other_value_of_a_header_is_refused(name: str, value: str) -> None:
    headers = [(key, value if key == name else kept) for key, kept in sign(body_of(), make_key("leaf"))]
    with pytest.raises(BadSignature):
        verify(headers, body_of(), leaf())


def test_signature_for_another_webhook_is_refused() -> None:
    with pytest.raises(BadSignature):
        verify(sign(body_of(), make_key("leaf"), webhook="8PT597110X687430L"), body_of(), leaf())


def test_events_of_paypals_webhook_simulator_are_refused_even_when_its_word_was_entered() -> None:
    """It signs for everybody with the same word in place of an id."""
    headers = sign(body_of(), make_key("leaf"), webhook="WEBHOOK_ID")
    for webhook in (WEBHOOK, "WEBHOOK_ID"):
        with pytest.raises(BadSignature):
            verify(headers, body_of(), leaf(), webhook)


def test_without_a_webhook_id_nothing_is_proved() -> None:
    for webhook in ("", " "):
        with pytest.raises(BadSignature):
            verify(sign(body_of(), make_key("leaf"), webhook=webhook), body_of(), leaf(), webhook)


def test_signed_body_that_is_no_json_is_refused() -> None:
    for body in (b"", b"[]", b"\xff", b'{"id":'):
        with pytest.raises(BadSignature):
            verify(sign(body, make_key("leaf")), body, leaf())


ADDRESSES = [
    "",
    "http://api.paypal.com/v1/notifications/certs/CERT-1",
    "https://api.paypal.com.attacker.example/v1/notifications/certs/CERT-1",
    "https://attacker.example/v1/notifications/certs/CERT-1",
    "https://www.paypal.com/v1/notifications/certs/CERT-1",
    "https://API.PAYPAL.COM/v1/notifications/certs/CERT-1",
    "https://api.paypal.com:443/v1/notifications/certs/CERT-1",
    "https://api.paypal.com@attacker.example/v1/notifications/certs/CERT-1",
    "https://me:secret@api.paypal.com/v1/notifications/certs/CERT-1",
    "https://api.paypal.com/v1/notifications/certs/../../me",
    "https://api.paypal.com/v1/notifications/certs/",
    "https://api.paypal.com/v1/notifications/certs/CERT-1?next=https://attacker.example",
    "https://api.paypal.com/v1/notifications/certs/CERT-1#x",
    "https://api.paypal.com/v1/notifications/certs/CERT-1/more",
    "https://api.paypal.com\\@attacker.example/v1/notifications/certs/CERT-1",
    "https://169.254.169.254/v1/notifications/certs/CERT-1",
    "https://[::1]/v1/notifications/certs/CERT-1",
    "//api.paypal.com/v1/notifications/certs/CERT-1",
]


@pytest.mark.parametrize("url", ADDRESSES)
def test_certificate_is_asked_for_nowhere_else(url: str) -> None:
    one, wire = make_gateway()
    with pytest.raises(BadSignature):
        asyncio.run(one.certificate({"Paypal-Cert-Url": url}))
    assert wire.asked == []


@pytest.mark.parametrize("host", facts("paypal").hosts.certificates)
def test_certificate_is_fetched_once_from_each_of_four_hosts(host: str) -> None:
    path = "/v1/notifications/certs/CERT-360caa42"
    one, wire = make_gateway((f"GET {path}", httpx.Response(200, content=leaf())))
    headers = {"paypal-cert-url": f"https://{host}{path}"}
    first = asyncio.run(one.certificate(headers))
    assert first == asyncio.run(one.certificate(headers)) != b""
    assert [request.url.host for request in wire.asked] == [host]
    assert "authorization" not in wire.asked[0].headers


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(404), BadSignature),
        (httpx.Response(503), Unavailable),
        (httpx.Response(429), Unavailable),
        (httpx.Response(302, headers={"Location": "https://attacker.example"}), Unavailable),
        (httpx.Response(200, content=b"<html>maintenance</html>"), Unavailable),
    ],
)
def test_certificate_that_cannot_be_had_is_not_kept(
    answer: httpx.Response, error: type[GatewayError]
) -> None:
    path = "/v1/notifications/certs/CERT-1"
    one, wire = make_gateway((f"GET {path}", answer), (f"GET {path}", httpx.Response(200, content=leaf())))
    headers = {"Paypal-Cert-Url": f"https://api.paypal.com{path}"}
    with pytest.raises(error):
        asyncio.run(one.certificate(headers))
    assert asyncio.run(one.certificate(headers)) is not None
    assert {request.url.host for request in wire.asked} == {"api.paypal.com"}


# Refusals


def cancel(one: Adapter) -> Snapshot:
    return asyncio.run(one.cancel_now(SUBSCRIPTION, "portal-7"))


CANCEL = f"POST /v1/billing/subscriptions/{ID}/cancel"


@pytest.mark.parametrize(
    ("answer", "error", "sent"),
    [
        (refusal(422, "USER_ACCOUNT_CLOSED"), Declined, None),
        (refusal(422, "SOMETHING_NEW"), Declined, None),
        (refusal(400, "MISSING_REQUIRED_PARAMETER", name="INVALID_REQUEST"), Declined, None),
        (refusal(404, "INVALID_RESOURCE_ID", name="RESOURCE_NOT_FOUND"), Gone, None),
        (refusal(403, "PERMISSION_DENIED", name="NOT_AUTHORIZED"), Unavailable, False),
        (refusal(409, "RESOURCE_CONFLICT"), Unavailable, True),
        (refusal(422, "PREVIOUS_REQUEST_IN_PROGRESS"), Unavailable, True),
        (httpx.Response(429, json={"name": "RATE_LIMIT_REACHED"}), Unavailable, False),
        (httpx.Response(500, json={"name": "INTERNAL_SERVER_ERROR"}), Unavailable, True),
        (httpx.Response(503), Unavailable, True),
        (httpx.Response(200, text="<html>"), Unavailable, True),
        (httpx.Response(302, headers={"Location": "https://attacker.example"}), Unavailable, True),
    ],
)
def test_refusals_become_the_five_errors(
    answer: httpx.Response, error: type[GatewayError], sent: bool | None
) -> None:
    after = [(LOOK, ok(make_subscription()))] if error is Declined else []
    one, wire = make_gateway((LOOK, ok(make_subscription())), (CANCEL, answer), *after)
    with pytest.raises(error) as caught:
        cancel(one)
    assert getattr(caught.value, "sent", None) == sent
    assert caught.value.customer.endswith(".")
    assert not any(
        secret in f"{caught.value.customer}{caught.value.hint}" for secret in ("A21AA", "cccc", "ssss", "@")
    )
    assert wire.answers == []


def test_issue_of_the_first_detail_is_the_reason() -> None:
    """The name says little: UNPROCESSABLE_ENTITY for everything."""
    one, _ = make_gateway(
        (LOOK, ok(make_subscription())),
        (CANCEL, refusal(422, "USER_ACCOUNT_CLOSED", "User account locked or closed.")),
        (LOOK, ok(make_subscription())),
    )
    with pytest.raises(Declined) as caught:
        cancel(one)
    assert caught.value.reason == "USER_ACCOUNT_CLOSED"
    assert "User account locked or closed. (PayPal-Debug-Id b1d1f06c7246c)" in caught.value.hint


def test_state_invalid_is_believed_only_after_another_look() -> None:
    one, wire = make_gateway(
        (LOOK, ok(make_subscription())),
        (CANCEL, refusal(422, "SUBSCRIPTION_STATUS_INVALID")),
        (LOOK, ok(make_subscription("CANCELLED"))),
    )
    assert cancel(one).subscriptions[0].status == "cancelled"
    assert wire.lines() == ["POST /v1/oauth2/token", LOOK, CANCEL, LOOK]


def test_reason_and_request_id_of_a_cancel() -> None:
    one, wire = make_gateway(
        (LOOK, ok(make_subscription())),
        (CANCEL, httpx.Response(204)),
        (LOOK, ok(make_subscription("CANCELLED"))),
    )
    cancel(one)
    asked = wire.asked[2]
    assert 1 <= len(json.loads(asked.content)["reason"]) <= 128
    assert asked.headers["PayPal-Request-Id"] == "portal-7-cancel"
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.headers["Authorization"] == "Bearer A21AA-secret"


def test_state_that_nobody_knows_is_left_to_paypal() -> None:
    one, wire = make_gateway(
        (LOOK, ok(make_subscription("REACTIVATED"))),
        (CANCEL, httpx.Response(204)),
        (LOOK, ok(make_subscription("CANCELLED"))),
    )
    assert cancel(one).subscriptions[0].status == "cancelled"
    assert CANCEL in wire.lines()


def test_token_is_asked_for_by_form_and_kept() -> None:
    """nopSolutions/nopCommerce#7036: one for each call is answered 429."""
    one, wire = make_gateway(*[(LOOK, ok(make_subscription("APPROVAL_PENDING")))] * 3)
    for _ in range(3):
        asyncio.run(one.fetch(SUBSCRIPTION))
    assert wire.lines().count("POST /v1/oauth2/token") == 1
    assert wire.asked[0].content == b"grant_type=client_credentials"
    basic = base64.b64encode(f"{KEYS['client_id']}:{KEYS['client_secret']}".encode()).decode()
    assert wire.asked[0].headers["Authorization"] == f"Basic {basic}"


def test_refused_token_is_renewed_once_and_not_for_ever() -> None:
    expired = ok({"error": "invalid_token", "error_description": "Token expired"}, 401)
    one, wire = make_gateway((LOOK, expired), (LOOK, ok(make_subscription("APPROVAL_PENDING"))))
    assert asyncio.run(one.fetch(SUBSCRIPTION)).subscriptions
    assert wire.lines().count("POST /v1/oauth2/token") == 2
    one, wire = make_gateway((LOOK, expired), (LOOK, expired))
    with pytest.raises(Unavailable):
        asyncio.run(one.fetch(SUBSCRIPTION))
    assert wire.lines() == ["POST /v1/oauth2/token", LOOK] * 2


@pytest.mark.parametrize(
    "answer",
    [
        ok({}),
        ok([]),
        ok({"access_token": None}),
        ok({"access_token": ["x"]}),
        httpx.Response(200),
    ],
)
def test_token_answer_that_is_none(answer: httpx.Response) -> None:
    one, _ = make_gateway(("POST /v1/oauth2/token", answer))
    with pytest.raises(Unavailable) as caught:
        cancel(one)
    assert not caught.value.sent


def test_wrong_keys_are_no_outage() -> None:
    said = {"error": "invalid_client", "error_description": "Client Authentication failed"}
    one, _ = make_gateway(("POST /v1/oauth2/token", ok(said, 401)))
    health = asyncio.run(one.check())
    assert (health.ok, health.live) == (False, True)
    assert "Client Authentication failed" in (health.hint or "")


def test_answer_about_another_object_is_none() -> None:
    one, _ = make_gateway((LOOK, ok(make_subscription(id="I-ANOTHER"))))
    with pytest.raises(Unavailable):
        asyncio.run(one.fetch(SUBSCRIPTION))


@pytest.mark.parametrize("number", ["../x", "I-1/cancel", "", "I 1", "I-1?x=1", "ü"])
def test_ids_never_leave_their_place_in_a_path(number: str) -> None:
    one, wire = make_gateway()
    for kind in ("subscription", "order", "payment", "refund", "invoice"):
        with pytest.raises(Gone):
            asyncio.run(one.fetch(Ref(kind, number)))
    with pytest.raises(Gone):
        asyncio.run(one.cancel_now(Ref("subscription", number), "k"))
    assert wire.asked == []


# Wishes


def test_revision_without_a_page_is_read_back() -> None:
    revise = f"POST /v1/billing/subscriptions/{ID}/revise"
    one, wire = make_gateway(
        (LOOK, ok(make_subscription())),
        (revise, ok({"plan_id": "P-2"})),
        (LOOK, ok(make_subscription(quantity="4"))),
    )
    found = asyncio.run(
        one.change_plan(SUBSCRIPTION, {"plan": "P-2", "quantity": 4}, "https://shop.example/r", "k")
    )
    assert isinstance(found, Snapshot)
    assert found.subscriptions[0].quantity == 4
    assert json.loads(wire.asked[2].content) == {
        "plan_id": "P-2",
        "quantity": "4",
        "application_context": {
            "return_url": "https://shop.example/r",
            "cancel_url": "https://shop.example/r",
        },
    }


def test_published_revision_leads_to_paypal() -> None:
    said = payload("response_subscription_revise_200.json")
    revise = f"POST /v1/billing/subscriptions/{ID}/revise"
    one, _ = make_gateway((LOOK, ok(make_subscription())), (revise, ok(said)))
    found = asyncio.run(one.change_plan(SUBSCRIPTION, {"quantity": 2}, "https://shop.example/r", "k"))
    assert isinstance(found, Leave)
    assert facts("paypal").allows_link(found.url)
    assert found.returns


def test_usage_based_words_are_never_sent_to_the_older_product() -> None:
    """END_OF_PERIOD belongs to usage-based billing: here a cancel at the end is kept by us."""
    shape = facts("paypal").capabilities["cancel_at_period_end"]
    assert {one.how for one in shape.shapes()} == {"keep", "schedule"}
    assert Adapter.cancel_at_period_end is base.Gateway.cancel_at_period_end


def test_undo_is_offered_only_while_it_is_suspended_by_our_schedule() -> None:
    shape = facts("paypal").capabilities["undo_cancel"]
    on = frozenset({"suspend_to_cancel"})
    assert shape.under(Circumstances(state="cancels_at_period_end", option=on)).mode == "direct"
    assert shape.under(Circumstances(state="cancelled", option=on)).mode == "request"
    assert shape.under(Circumstances(state="cancels_at_period_end")).mode == "request"


def test_card_is_replaced_by_the_shop_alone() -> None:
    shape = facts("paypal").capabilities["update_payment_method"]
    assert shape.under(Circumstances(state="active", method="card")).mode == "request"
    assert shape.under(Circumstances(state="past_due", method="card", due=True)).mode == "request"
    guided = shape.under(Circumstances(state="active", method="wallet"))
    assert (guided.mode, guided.link) == ("guided", "https://www.paypal.com/myaccount/autopay/")
    assert facts("paypal").allows_link(guided.link or "")


def test_undo_after_the_paid_time_asks_nothing() -> None:
    known = SubscriptionRecord(remote_id=ID, current_period_end=NOW - timedelta(seconds=1))
    one, wire = make_gateway()
    with pytest.raises(Unsupported):
        asyncio.run(one.undo_cancel(Ref("subscription", ID, known), "k"))
    assert wire.asked == []


def test_end_of_the_paid_time_comes_from_what_was_known_where_paypal_never_told_it() -> None:
    until = datetime(2026, 12, 10, 10, tzinfo=UTC)
    before, after = make_subscription("SUSPENDED"), make_subscription("CANCELLED")
    for said in (before, after):
        del said["billing_info"]["next_billing_time"]
    one, _ = make_gateway((LOOK, ok(before)), (CANCEL, httpx.Response(204)), (LOOK, ok(after)))
    known = SubscriptionRecord(remote_id=ID, current_period_end=until)
    found = asyncio.run(one.cancel_now(Ref("subscription", ID, known), "k")).subscriptions[0]
    assert (found.status, found.current_period_end) == ("cancelled", until)
    assert "current_period_end" in knows(found)
