"""Paystack: loose types, words for states, joins without a link, signatures, and what never leaves the gateway."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Coroutine
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

import pytest

from portal import clock
from portal.gateways import _paystack as words
from portal.gateways.base import (
    BadSignature,
    CustomerRecord,
    Declined,
    Event,
    Failure,
    Interval,
    InvoiceRecord,
    Method,
    NextPayment,
    OrderRecord,
    PaymentRecord,
    Ref,
    RefundRecord,
    SubscriptionRecord,
    Unavailable,
)
from portal.gateways.capabilities import Circumstances, disagreements, facts
from portal.gateways.paystack import Adapter
from portal.money import Money
from tests.conftest import SHARED

T = TypeVar("T")
KEY, OLD_KEY = "sk_test_0123456789abcdef", "sk_test_fedcba9876543210"
NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
PAYLOADS = SHARED / "payloads" / "paystack"
CARD = {
    "authorization_code": "AUTH_spendme123",
    "last4": "4081",
    "exp_month": "9",
    "exp_year": "2030",
    "channel": "card",
    "card_type": "visa ",
    "brand": "visa",
    "bank": "TEST BANK",
    "reusable": True,
    "signature": "SIG_one",
}
PERSON = {"id": 7, "customer_code": "CUS_ada", "email": "ada@example.com", "metadata": None}
PLAN = {"plan_code": "PLN_tea", "name": "Tea", "interval": "monthly", "currency": "NGN", "amount": 50000}


@pytest.fixture(autouse=True)
def _on_that_morning() -> None:
    clock.set_offset(NOW - datetime.now(UTC))


def sub(**more: Any) -> dict[str, Any]:
    return {
        "id": 9,
        "domain": "test",
        "status": "active",
        "subscription_code": "SUB_tea",
        "email_token": "cancelsall",
        "amount": 50000,
        "quantity": 1,
        "next_payment_date": "2026-12-10T07:00:00.000Z",
        "createdAt": "2026-09-10T07:00:00.000Z",
        "start": 1_789_000_000,
        "payments_count": 3,
        "invoice_limit": 0,
        "plan": PLAN,
        "authorization": CARD,
        "customer": PERSON,
        **more,
    }


def charge(**more: Any) -> dict[str, Any]:
    return {
        "id": 4099260516,
        "status": "success",
        "reference": "re4lyvq3s3",
        "amount": 40333,
        "currency": "NGN",
        "paid_at": "2026-10-10T07:00:05.000Z",
        "created_at": "2026-10-10T07:00:00.000Z",
        "channel": "card",
        "gateway_response": "Successful",
        "customer": PERSON,
        "authorization": CARD,
        "plan": {},
        **more,
    }


def subscription(said: dict[str, Any], known: SubscriptionRecord | None = None) -> SubscriptionRecord:
    return words.read_subscription(said, known)


def payment(said: dict[str, Any]) -> PaymentRecord:
    record = Adapter.read("payment", said)
    assert isinstance(record, PaymentRecord)
    return record


# Amounts


@pytest.mark.parametrize(
    ("minor", "currency", "money"),
    [
        (50000, "NGN", Money(50000, "NGN")),
        ("5000", "GHS", Money(5000, "GHS")),
        (199, "ZAR", Money(199, "ZAR")),
        (50000, "XOF", Money(500, "XOF")),
        (120000, "RWF", Money(1200, "RWF")),
        (50050, "XOF", None),  # half a franc is no amount
        ("many", "NGN", None),
        (5000, None, None),
    ],
)
def test_amounts_are_hundredths_even_where_iso_has_no_decimals(
    minor: Any, currency: str | None, money: Money | None
) -> None:
    assert payment(charge(amount=minor, currency=currency)).amount == money


# Subscriptions


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({}, "active"),
        ({"start": int(NOW.timestamp()) + 9999, "payments_count": 0}, "trialing"),
        ({"start": int(NOW.timestamp()) + 9999, "payments_count": 1}, "active"),
        ({"status": "attention"}, "past_due"),
        ({"status": "non-renewing", "next_payment_date": None}, "cancels_at_period_end"),
        ({"status": "cancelled", "next_payment_date": None}, "cancelled"),
        ({"status": "completed", "next_payment_date": None}, "expired"),
        ({"status": "complete", "next_payment_date": None}, "expired"),
        ({"status": "a_word_of_tomorrow"}, None),
        ({"status": None}, None),
        ({"status": ["active"]}, None),
    ],
)
def test_words_for_states(said: dict[str, Any], status: str | None) -> None:
    assert subscription(sub(**said)).status == status


def test_an_unknown_word_is_kept_raw_and_says_nothing_of_what_comes_next() -> None:
    record = subscription(sub(status="a_word_of_tomorrow", next_payment_date=None))
    assert record.raw_status == "a_word_of_tomorrow"
    assert not {"status", "next_payment", "due"} & (record.knows or frozenset())


def test_everything_that_a_subscription_tells() -> None:
    record = subscription(sub())
    assert (record.remote_id, record.email, record.customer) == ("SUB_tea", "ada@example.com", "CUS_ada")
    assert (record.title, record.amount, record.interval) == ("Tea", Money(50000, "NGN"), Interval("month"))
    assert record.next_payment == NextPayment(date(2026, 12, 10), Money(50000, "NGN"), "fixed")
    assert record.current_period_end == datetime(2026, 12, 10, 7, tzinfo=UTC)
    assert record.created_at == datetime(2026, 9, 10, 7, tzinfo=UTC)
    assert record.method is not None
    assert (record.method.kind, record.method.brand) == ("card", "Visa")
    assert (record.method.last4, record.method.expires) == ("4081", "2030-09")


@pytest.mark.parametrize(
    ("word", "interval"),
    [
        ("daily", Interval("day")),
        ("weekly", Interval("week")),
        ("monthly", Interval("month")),
        ("quarterly", Interval("month", 3)),
        ("biannually", Interval("month", 6)),
        ("annually", Interval("year")),
        ("hourly", None),
    ],
)
def test_biannually_is_every_half_year(word: str, interval: Interval | None) -> None:
    assert subscription(sub(plan={**PLAN, "interval": word})).interval == interval


@pytest.mark.parametrize("word", ["non-renewing", "cancelled", "complete", "completed"])
def test_while_the_kept_date_is_ahead_every_word_after_disable_means_it_ends_then(word: str) -> None:
    until = NOW + timedelta(days=9)
    known = SubscriptionRecord(remote_id="SUB_tea", status="active", current_period_end=until)
    record = subscription(sub(status=word, next_payment_date=None), known)
    assert (record.status, record.cancels_at) == ("cancels_at_period_end", until)
    assert record.object == (None if word == "non-renewing" else "closed")
    assert record.next_payment is None
    assert "next_payment" in (record.knows or ())


def test_once_the_kept_date_is_past_the_word_counts() -> None:
    known = SubscriptionRecord(remote_id="SUB_tea", current_period_end=NOW - timedelta(hours=1))
    assert subscription(sub(status="cancelled", next_payment_date=None), known).status == "cancelled"
    assert subscription(sub(status="complete", next_payment_date=None), known).status == "expired"


def test_the_paid_date_of_an_ending_one_comes_from_its_invoice_where_nothing_is_known() -> None:
    invoice = {"paid": 1, "period_start": "2026-11-10T07:00:00Z", "period_end": "2026-12-10T06:59:59Z"}
    said = sub(status="non-renewing", next_payment_date=None, most_recent_invoice=invoice)
    assert subscription(said).cancels_at == datetime(2026, 12, 10, 6, 59, 59, tzinfo=UTC)


def test_an_invoice_that_ends_before_it_starts_is_not_trusted() -> None:
    invoice = {"paid": True, "period_start": "2026-12-10T07:00:00Z", "period_end": "2026-12-09T23:59:59Z"}
    record = subscription(sub(status="non-renewing", next_payment_date=None, most_recent_invoice=invoice))
    assert record.status == "cancels_at_period_end"
    assert not {"cancels_at", "current_period_end"} & (record.knows or frozenset())


def test_the_last_cycle_of_a_limited_plan_is_no_cancellation() -> None:
    record = subscription(sub(status="non-renewing", payments_count=12, invoice_limit=12))
    assert (record.status, record.object) == ("cancels_at_period_end", "last_cycle")


def test_active_without_a_date_does_not_prove_that_a_cancel_was_taken_back() -> None:
    known = SubscriptionRecord(remote_id="SUB_tea", status="cancels_at_period_end")
    assert subscription(sub(next_payment_date=None), known).status is None
    assert subscription(sub(), known).status == "active"


def test_a_missed_charge_is_due_and_tried_again_only_on_the_next_date() -> None:
    invoice = {"status": "failed", "paid": 0, "amount": 48000, "description": "Insufficient Funds"}
    record = subscription(sub(status="attention", most_recent_invoice=invoice))
    assert (record.due, record.retries_on) == (Money(48000, "NGN"), date(2026, 12, 10))
    assert record.stopped is False
    assert "current_period_end" not in (record.knows or ())


def test_the_answer_to_create_has_numbers_for_objects() -> None:
    record = subscription(sub(customer=1173, plan=28, authorization=4))
    assert (record.remote_id, record.customer, record.amount, record.method) == ("SUB_tea", None, None, None)


@pytest.mark.parametrize(
    ("metadata", "read"),
    [(None, {}), ("", {}), ({}, {}), ([], {}), ({"a": 1}, {"a": 1}), ('{"a": 1}', {"a": 1}), ("vip", None)],
)
def test_metadata_comes_in_every_shape(metadata: Any, read: Any) -> None:
    assert words.metadata_of({"metadata": metadata}) == read


# Methods


def test_a_spending_token_and_an_email_token_never_leave_the_gateway() -> None:
    told = [subscription(sub()), payment(charge()), Adapter.read("order", charge())]
    for secret in ("AUTH_", "cancelsall", "SIG_one"):
        assert all(secret not in repr(row) for row in told)


def test_another_card_is_told_apart_and_one_that_cannot_be_charged_again_has_no_id() -> None:
    def remote_id(**more: Any) -> str | None:
        method = subscription(sub(authorization={**CARD, **more})).method
        assert method is not None
        return method.remote_id

    assert remote_id() == remote_id()
    assert remote_id() != remote_id(authorization_code="AUTH_other")
    assert remote_id(reusable=1) == remote_id()
    assert remote_id(reusable=False) is None
    assert remote_id(reusable=None) is None


@pytest.mark.parametrize(
    ("channel", "kind", "brand"),
    [
        ("card", "card", "Visa"),
        ("apple_pay", "wallet", "Visa"),
        ("mobile_money", "wallet", "Visa"),
        ("direct_debit", "bank_debit", "Test Bank"),
        ("bank_transfer", "bank_transfer", "Test Bank"),
        ("ussd", "bank_transfer", "Test Bank"),
    ],
)
def test_methods(channel: str, kind: str, brand: str) -> None:
    method = payment(charge(channel=channel)).method
    assert method is not None
    assert (method.kind, method.brand) == (kind, brand)


# Charges


@pytest.mark.parametrize(
    ("word", "status", "order"),
    [
        ("success", "paid", "paid"),
        ("failed", "failed", "failed"),
        ("abandoned", "cancelled", "cancelled"),
        ("ongoing", "pending", "open"),
        ("pending", "pending", "open"),
        ("processing", "pending", "open"),
        ("queued", "pending", "open"),
        ("reversed", "refunded", "refunded"),
        ("a_word_of_tomorrow", None, None),
    ],
)
def test_words_for_charges(word: str, status: str | None, order: str | None) -> None:
    record = Adapter.read("order", charge(status=word))
    assert isinstance(record, OrderRecord)
    assert (payment(charge(status=word)).status, record.status) == (status, order)


def test_a_failed_charge_says_why_in_the_banks_words() -> None:
    record = payment(charge(status="failed", gateway_response="Insufficient Funds"))
    assert record.failure == Failure("failed", "Insufficient Funds")
    assert record.paid_at is None


def test_refunds_do_not_change_the_word_so_they_are_joined() -> None:
    joins = words.Joins()
    rows = [{"id": 1, "transaction": 4099260516, "amount": 333, "currency": "NGN", "status": "processed"}]
    joins.learn("refund", rows)
    record = words.read_charge(charge(), joins)
    assert (record.status, record.refunded) == ("partially_refunded", Money(333, "NGN"))
    rows.append({**rows[0], "id": 2, "amount": 40000, "status": "pending"})
    joins.learn("refund", rows)
    assert words.read_charge(charge(), joins).status == "partially_refunded"
    joins.learn("refund", [{**rows[1], "status": "processed"}])
    assert words.read_charge(charge(), joins).status == "refunded"


@pytest.mark.parametrize(("word", "status"), [("pending", "disputed"), ("resolved", "paid")])
def test_an_open_dispute_shows(word: str, status: str) -> None:
    joins = words.Joins()
    joins.learn("dispute", [{"transaction": {"id": 4099260516}, "status": word}])
    assert words.read_charge(charge(), joins).status == status


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("pending", "pending"),
        ("processing", "pending"),
        ("needs-attention", "pending"),
        ("processed", "sent"),
        ("failed", "failed"),
        ("?", None),
    ],
)
def test_words_for_refunds(word: str, status: str | None) -> None:
    record = Adapter.read(
        "refund", {"id": 3, "transaction": {"id": 5}, "status": word, "amount": 1, "currency": "NGN"}
    )
    assert isinstance(record, RefundRecord)
    assert (record.status, record.payment, record.amount) == (status, "5", Money(1, "NGN"))


def joined(*subscriptions: dict[str, Any], **more: Any) -> str | None:
    joins = words.Joins()
    joins.learn("subscription", subscriptions)
    return joins.subscription(charge(**{"plan": PLAN, **more}))


def test_a_charge_belongs_to_the_one_subscription_of_its_customer_and_plan() -> None:
    assert joined(sub()) == "SUB_tea"
    assert joined(sub(), plan="PLN_tea") == "SUB_tea"
    assert joined(sub(), plan="PLN_tea", plan_object=PLAN) == "SUB_tea"
    assert joined(sub(), plan={}) is None
    assert joined(sub(), plan=None) is None
    assert joined(sub(plan={**PLAN, "plan_code": "PLN_other"})) is None
    assert joined(sub(customer={**PERSON, "customer_code": "CUS_other"})) is None
    assert joined(sub(createdAt="2026-10-20T00:00:00Z")) is None
    assert joined(sub(cancelledAt="2026-10-01T00:00:00Z")) is None


def test_where_two_subscriptions_fit_a_charge_is_attached_to_none() -> None:
    assert joined(sub(), sub(subscription_code="SUB_two")) is None
    other = {**CARD, "authorization_code": "AUTH_other"}
    assert joined(sub(authorization=other), sub(subscription_code="SUB_two")) == "SUB_two"


def test_an_invoice_settles_to_which_subscription_a_charge_belongs() -> None:
    second = sub(subscription_code="SUB_two", most_recent_invoice={"transaction": 4099260516})
    assert joined(sub(), second) == "SUB_two"


def test_a_sale_is_called_by_what_the_shop_wrote() -> None:
    fields = [
        {"display_name": "Customer email", "variable_name": "customer_email", "value": "new@example.com"},
        {"display_name": "Item", "variable_name": "item_name", "value": "Tote bag"},
    ]
    assert payment(charge(metadata={"custom_fields": fields})).title == "Tote bag"
    assert payment(charge(metadata=0)).title is None
    assert payment(charge(metadata="")).title is None


# Invoices


def test_a_payment_request_is_an_invoice() -> None:
    said = {
        "request_code": "PRQ_a",
        "invoice_number": 12,
        "amount": 42000,
        "currency": "NGN",
        "due_date": "2026-11-01T00:00:00.000Z",
        "status": "pending",
        "paid": False,
        "pdf_url": "https://elsewhere.example/a.pdf",
        "line_items": [{"name": "Cup", "amount": 21000, "quantity": 2}, "odd", {"name": "Free"}],
        "customer": PERSON,
    }
    record = Adapter.read("invoice", {"data": said})
    assert isinstance(record, InvoiceRecord)
    assert (record.status, record.number, record.due) == ("overdue", "12", Money(42000, "NGN"))
    assert [(line.name, line.quantity, line.amount.minor) for line in record.lines] == [("Cup", 2, 42000)]
    assert not record.document
    paid = Adapter.read("invoice", {**said, "paid": 1})
    assert isinstance(paid, InvoiceRecord)
    assert (paid.status, paid.due) == ("paid", Money(0, "NGN"))


# What is no such object


@pytest.mark.parametrize(
    "kind", ["customer", "order", "subscription", "payment", "refund", "invoice", "event"]
)
@pytest.mark.parametrize("said", [None, [], "x", 7, {}, {"data": {}}, {"data": []}, {"status": True}])
def test_what_is_no_such_object_is_said_to_be_none(kind: Any, said: Any) -> None:
    with pytest.raises(ValueError, match="Paystack"):
        Adapter.read(kind, said)


def test_every_field_may_be_of_any_type() -> None:
    odd: list[Any] = [None, True, 7, 7.5, "seven", [], [1], {}, {"a": []}]
    whole = {
        "subscription": (sub(most_recent_invoice={"paid": 1}), "subscription_code"),
        "payment": (charge(), "id"),
        "order": (charge(), "id"),
        "customer": (dict(PERSON), "customer_code"),
        "refund": ({"id": 1, "transaction": 1, "amount": 1, "currency": "NGN", "status": "processed"}, "id"),
        "invoice": (
            {"request_code": "PRQ_a", "amount": 1, "currency": "NGN", "status": "draft"},
            "request_code",
        ),
    }
    read = 0
    for kind, (said, name) in whole.items():
        for field in said:
            for value in odd if field != name else []:
                Adapter.read(kind, {**said, field: value})  # type: ignore[arg-type]
                read += 1
    assert read > 300


# Webhooks


def signed(body: bytes, key: str = KEY) -> list[tuple[str, str]]:
    return [("X-Paystack-Signature", hmac.new(key.encode(), body, hashlib.sha512).hexdigest())]


def notice(event: str, data: Any) -> list[Event]:
    body = json.dumps({"event": event, "data": data}).encode()
    return Adapter({"secret_key": KEY}).verify(signed(body), body, NOW)


def test_the_signature_is_over_the_raw_bytes() -> None:
    body = b'{"event":"subscription.create","data":{"subscription_code":"SUB_tea" , "note":"\\u00e9\\/"}}'
    adapter = Adapter({"secret_key": KEY})
    assert adapter.verify(signed(body), body, NOW)[0].subject == Ref("subscription", "SUB_tea")
    again = json.dumps(json.loads(body)).encode()
    for headers, sent in ((signed(again), body), (signed(body), again), ([], body), (signed(body) * 2, body)):
        with pytest.raises(BadSignature):
            adapter.verify(headers, sent, NOW)


def test_the_old_key_proves_while_keys_are_changed() -> None:
    body = b'{"event":"charge.success","data":{"id":5}}'
    both = Adapter({"secret_key": KEY, "secret_key_old": OLD_KEY})
    assert both.verify(signed(body, OLD_KEY), body, NOW)
    assert both.verify(signed(body), body, NOW)
    with pytest.raises(BadSignature):
        Adapter({"secret_key": KEY, "secret_key_old": ""}).verify(signed(body, ""), body, NOW)


@pytest.mark.parametrize("credentials", [{}, {"secret_key": ""}, {"secret_key": " "}])
def test_without_a_key_nothing_is_proved(credentials: dict[str, str]) -> None:
    body = b'{"event":"charge.success","data":{"id":5}}'
    with pytest.raises(BadSignature):
        Adapter(credentials).verify(signed(body, ""), body, NOW)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff"])
def test_a_signed_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadSignature):
        Adapter({"secret_key": KEY}).verify(signed(body), body, NOW)


@pytest.mark.parametrize(
    ("event", "data", "subject", "kept"),
    [
        ("charge.success", {"id": 302961}, Ref("payment", "302961"), {}),
        ("charge.dispute.create", {"id": 1, "transaction": {"id": 5}}, Ref("payment", "5"), {}),
        ("subscription.disable", {"subscription_code": "SUB_a"}, Ref("subscription", "SUB_a"), {}),
        (
            "invoice.update",
            {"subscription": {"subscription_code": "SUB_a"}, "transaction": {"reference": "re"}},
            Ref("subscription", "SUB_a"),
            {"reference": "re"},
        ),
        (
            "invoice.payment_failed",
            {"subscription": {"subscription_code": "SUB_a"}, "transaction": {}},
            Ref("subscription", "SUB_a"),
            {},
        ),
        ("refund.processed", {"transaction_reference": "123"}, Ref("payment", "123"), {"reference": "123"}),
        ("paymentrequest.success", {"request_code": "PRQ_a"}, Ref("invoice", "PRQ_a"), {}),
        ("transfer.success", {"id": 5}, None, {}),
        ("charge.success", {}, None, {}),
        ("subscription.create", "text", None, {}),
        ("something.new", None, None, {}),
    ],
)
def test_what_a_notice_makes_us_look_at(
    event: str, data: Any, subject: Ref | None, kept: dict[str, str]
) -> None:
    (found,) = notice(event, data)
    assert (found.type, found.subject, found.body) == (event, subject, kept)


def test_expiring_cards_come_as_a_list() -> None:
    rows = [
        {"expiry_date": "12/2026", "subscription": {"subscription_code": code}} for code in ("SUB_a", "SUB_b")
    ]
    found = notice("subscription.expiring_cards", rows)
    assert [one.subject for one in found] == [Ref("subscription", "SUB_a"), Ref("subscription", "SUB_b")]
    assert len({one.id for one in found}) == 2


def test_a_notice_sent_again_has_the_same_id_and_another_has_another() -> None:
    first, again, other = (
        notice("charge.success", {"id": 1}),
        notice("charge.success", {"id": 1}),
        notice("charge.success", {"id": 2}),
    )
    assert first[0].id == again[0].id != other[0].id


# Calls, past the wire


class Wire:
    """Stands in for the client: answers in order, keeps what was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str]] = []

    async def ask(self, method: str, host: str, path: str, **more: Any) -> Any:
        self.asked.append((method, path))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def told(*answers: Any) -> tuple[Adapter, Wire]:
    adapter, wire = Adapter({"secret_key": KEY}), Wire(*answers)
    adapter._http = wire  # type: ignore[assignment]
    return adapter, wire


def run(wish: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(wish)


def test_an_object_of_the_other_mode_is_not_taken() -> None:
    adapter, _ = told({"status": True, "data": sub(domain="live")})
    with pytest.raises(Unavailable):
        run(adapter.fetch(Ref("subscription", "SUB_tea")))


@pytest.mark.parametrize(
    "url", ["https://elsewhere.example/a.pdf", "http://files.paystack.co/a.pdf", "", None, 7]
)
def test_a_file_on_a_foreign_host_is_not_followed(url: Any) -> None:
    adapter, wire = told({"status": True, "data": {"request_code": "PRQ_a", "pdf_url": url}})
    assert run(adapter.invoice_document(Ref("invoice", "PRQ_a"))) is None
    assert wire.asked == [("GET", "/paymentrequest/PRQ_a")]


def test_success_of_the_envelope_is_not_success_of_the_wish() -> None:
    adapter, _ = told(
        {"status": True, "data": sub()}, {"status": False, "message": "No"}, {"status": True, "data": sub()}
    )
    with pytest.raises(Declined) as error:
        run(adapter.cancel_at_period_end(Ref("subscription", "SUB_tea"), "k"))
    assert error.value.hint == "No"


def test_a_disable_that_is_taken_without_effect_is_not_claimed() -> None:
    fresh = {"status": True, "data": sub()}
    adapter, _ = told(fresh, {"status": True, "message": "Subscription disabled successfully"}, fresh)
    with pytest.raises(Unavailable) as error:
        run(adapter.cancel_at_period_end(Ref("subscription", "SUB_tea"), "k"))
    assert error.value.sent
    assert "cancelsall" not in error.value.hint


def test_a_change_whose_old_subscription_cannot_be_stopped_stops_the_new_one_again() -> None:
    def answer(data: Any, **more: Any) -> dict[str, Any]:
        return {"status": True, "data": data, **more}

    plan = {**PLAN, "plan_code": "PLN_new"}
    new = sub(id=10, subscription_code="SUB_new", plan=plan, payments_count=0)
    adapter, wire = told(
        answer(sub()),
        answer([sub()], meta={"pageCount": 1}),
        answer(plan),
        answer({"subscription_code": "SUB_new"}),
        answer([new, sub()], meta={"pageCount": 1}),
        Declined("No.", "Not now"),
        answer(sub()),
        answer(None),
        answer({**new, "status": "non-renewing"}),
    )
    with pytest.raises(Declined) as error:
        run(adapter.change_plan(Ref("subscription", "SUB_tea"), {"plan": "PLN_new"}, "", "k"))
    assert error.value.hint == "Not now"
    assert [one for one in wire.asked if one[0] == "POST"] == [
        ("POST", "/subscription"),
        ("POST", "/subscription/disable"),
        ("POST", "/subscription/disable"),
    ]
    assert wire.asked[-1] == ("GET", "/subscription/SUB_new")


def test_a_refused_address_is_named_in_the_hint() -> None:
    from portal.gateways.paystack import _refusal

    error = _refusal(403, "", "Your IP address is not allowed to make this call")
    assert isinstance(error, Unavailable)
    assert "IP address is not allowed" in error.hint
    assert "allow-list" in error.hint


# Samples of Paystack's own


def sample(name: str) -> Any:
    path = PAYLOADS / name
    if not path.exists():
        pytest.skip("Paystack's samples are not here")
    return json.loads(path.read_text())


def test_reads_paystacks_sample_of_a_subscription() -> None:
    record = Adapter.read("subscription", sample("api_subscriptions_fetch_200.json"))
    assert isinstance(record, SubscriptionRecord)
    assert (record.remote_id, record.status, record.amount) == (
        "SUB_vsyqdmlzble3uii",
        "active",
        Money(50000, "NGN"),
    )
    assert record.next_payment == NextPayment(date(2016, 4, 28), Money(50000, "NGN"), "fixed")
    made = Adapter.read("subscription", sample("api_subscriptions_create_200.json"))
    assert isinstance(made, SubscriptionRecord)
    assert (made.remote_id, made.amount, made.customer) == ("SUB_vsyqdmlzble3uii", None, None)
    for said in sample("api_subscriptions_list_200.json")["data"]:
        one = Adapter.read("subscription", said)
        assert isinstance(one, SubscriptionRecord)
        assert (one.interval, one.email) == (Interval("week"), "bojack@horseman.com")


def test_reads_paystacks_samples_of_a_customer_a_charge_and_refunds() -> None:
    customer = Adapter.read("customer", sample("api_customers_fetch_200.json"))
    assert isinstance(customer, CustomerRecord)
    assert (customer.remote_id, customer.email, customer.name) == (
        "CUS_c6wqvwmvwopw4ms",
        "dom@gmail.com",
        None,
    )
    (said,) = sample("api_transactions_list_200.json")["data"]
    one = payment(said)
    assert (one.remote_id, one.status, one.amount) == ("4099260516", "paid", Money(40333, "NGN"))
    assert one.method is not None
    assert one.method == Method("card", "Visa", "4081", "2030-12", one.method.remote_id)
    refunds = [Adapter.read("refund", row) for row in sample("api_refunds_list_200.json")["data"]]
    assert [(row.remote_id, row.status, row.payment) for row in refunds if isinstance(row, RefundRecord)] == [
        ("1", "sent", "1641"),
        ("2", "pending", "323896"),
    ]


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("webhook_transaction_successful.json", Ref("payment", "302961")),
        ("webhook_subscription_created.json", Ref("subscription", "SUB_vsyqdmlzble3uii")),
        ("webhook_subscription_not_renew.json", Ref("subscription", "SUB_d638sdiWAio7jnl")),
        ("webhook_invoice_failed.json", Ref("subscription", "SUB_f7ct8g01mtcjf78")),
        ("webhook_refund_processed.json", Ref("payment", "T2154954_412829_3be32076_6lcg3")),
    ],
)
def test_reads_paystacks_sample_notices(name: str, subject: Ref) -> None:
    said = sample(name)
    found = Adapter.read("event", said)
    assert isinstance(found, list)
    assert [one.subject for one in found] == [subject]
    body = (PAYLOADS / name).read_bytes()
    (proved,) = Adapter({"secret_key": KEY}).verify(signed(body), body, NOW)
    assert (proved.type, proved.subject) == (said["event"], subject)


# The facts


def test_facts_and_code_agree() -> None:
    assert disagreements("paystack", Adapter) == []


@pytest.mark.parametrize(
    ("key", "circumstances", "mode", "how"),
    [
        ("invoice", Circumstances(), "direct", None),
        ("update_payment_method", Circumstances(state="active"), "hosted", None),
        ("cancel_now", Circumstances(state="active"), "emulated", "calls"),
        ("cancel_at_period_end", Circumstances(state="past_due"), "direct", None),
        ("undo_cancel", Circumstances(state="cancels_at_period_end"), "direct", None),
        ("undo_cancel", Circumstances(state="cancelled"), "none", None),
        ("undo_cancel", Circumstances(state="cancels_at_period_end", object="last_cycle"), "none", None),
        ("undo_cancel", Circumstances(state="cancels_at_period_end", object="replaced"), "request", None),
        ("pause", Circumstances(state="active"), "request", None),
        ("change_plan", Circumstances(state="active"), "emulated", "calls"),
        ("change_plan", Circumstances(state="active", token=False), "request", None),
        ("pay_now", Circumstances(state="past_due", due=True), "none", None),
        ("next_payment", Circumstances(), "direct", None),
        ("refunds", Circumstances(), "direct", None),
    ],
)
def test_what_is_offered(key: Any, circumstances: Circumstances, mode: str, how: str | None) -> None:
    shape = facts("paystack").capabilities[key].under(circumstances)
    assert (shape.mode, shape.how) == (mode, how)


def test_the_facts_name_the_exponents_and_the_signature() -> None:
    table = facts("paystack")
    assert table.exponents == {"XOF": 2, "RWF": 2}
    assert [one.scheme for one in table.webhooks] == ["hmac-sha512"]
    assert table.allows_link("https://paystack.com/manage/subscriptions/x?subscription_token=y")
    assert not table.allows_link("https://paystack.com.evil.example/manage")
    assert any(one.by_email for one in table.backfill)
