"""Midtrans: what its words, amounts and times mean, what proves a notification, and the traps by name."""

import asyncio
import base64
import copy
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar
from unittest.mock import patch

import httpx2 as httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from portal import clock
from portal.gateways._midtrans.subscriptions import Schedule, later
from portal.gateways.base import (
    BadSignature,
    Declined,
    Event,
    Failure,
    Gone,
    Interval,
    InvoiceRecord,
    Line,
    Method,
    OrderRecord,
    PaymentRecord,
    Record,
    Ref,
    RefundRecord,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import Circumstances, disagreements, facts
from portal.gateways.http import Http
from portal.gateways.midtrans import Adapter
from portal.money import Money

NOW = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)  # ten in Jakarta
KEY = "SB-Mid-server-9x8y7z6w5v4u"
KEYS = {"server_key": KEY, "merchant_id": "G100200300"}
SUB, PAID = "d98a63b8-97e4-4059-825f-0f6234040001", "9beb839d-8fe2-41ec-bc5e-045e50010002"
Result = TypeVar("Result")


@pytest.fixture(autouse=True)
def _at_ten_in_jakarta() -> None:
    clock.set_offset(NOW - datetime.now(UTC))


class Wire(Http):
    """Answers in order what the network would, and keeps what was asked."""

    answers: list[httpx.Response]
    asked: list[tuple[str, str, str, dict[str, Any]]]

    async def call(self, method: str, host: str, path: str, **more: Any) -> httpx.Response:
        self.asked.append((method, host, path, more))
        return self.answers.pop(0)


def run(
    call: Callable[[Adapter], Awaitable[Result]], *answers: httpx.Response, **credentials: str
) -> tuple[Result, list[tuple[str, str, str, dict[str, Any]]]]:
    async def whole() -> tuple[Result, Any]:
        gateway = Adapter({**KEYS, **credentials})
        wire = gateway._api.http
        assert isinstance(wire, Wire)
        wire.answers, wire.asked = list(answers), []
        try:
            return await call(gateway), wire.asked
        finally:
            await gateway.aclose()

    with patch("portal.gateways._midtrans.api.Http", Wire):
        return asyncio.run(whole())


def said(body: Any, status: int = 200, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=body, headers=headers)


def make_subscription(schedule: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    plan = {
        "interval": 1,
        "interval_unit": "month",
        "current_interval": 3,
        "start_time": "2026-09-10 09:30:00",
        "previous_execution_at": "2026-11-10 09:30:00",
        "next_execution_at": "2026-12-10 09:30:00",
    }
    whole: dict[str, Any] = {
        "id": SUB,
        "name": "Kopi-Bulanan",
        "amount": "149000",
        "currency": "IDR",
        "created_at": "2026-09-10T09:29:58.810452",
        "schedule": plan | (schedule or {}),
        "status": "active",
        "token": "48111111sHfSakAvHvFQFEjTivUV1114",
        "payment_type": "credit_card",
        "transaction_ids": [PAID],
        "metadata": {"description": "Kopi"},
        "customer_details": {"first_name": "Ada", "email": "ada@example.org", "phone": "+62812345678"},
    }
    return whole | changes


def make_transaction(**changes: Any) -> dict[str, Any]:
    return {
        "status_code": "200",
        "status_message": "Success, Credit Card transaction is successful",
        "transaction_id": PAID,
        "masked_card": "48111111-1114",
        "order_id": "SO-7",
        "merchant_id": "G100200300",
        "payment_type": "credit_card",
        "transaction_time": "2026-11-20 06:30:00",
        "transaction_status": "settlement",
        "settlement_time": "2026-11-21 16:00:00",
        "fraud_status": "accept",
        "gross_amount": "150000.00",
        "currency": "IDR",
    } | changes


def signed(key: str = KEY, **changes: Any) -> bytes:
    body = make_transaction(**changes)
    covered = f"{body['order_id']}{body['status_code']}{body['gross_amount']}{key}"
    return json.dumps(body | {"signature_key": hashlib.sha512(covered.encode()).hexdigest()}).encode()


def verify(body: bytes, **credentials: str) -> list[Event]:
    return Adapter({**KEYS, **credentials}).verify([], body, NOW)


def subscription(schedule: dict[str, Any] | None = None, **changes: Any) -> SubscriptionRecord:
    record = Adapter.read("subscription", make_subscription(schedule, **changes))
    assert isinstance(record, SubscriptionRecord)
    return record


def payment(**changes: Any) -> PaymentRecord:
    record = Adapter.read("payment", make_transaction(**changes))
    assert isinstance(record, PaymentRecord)
    return record


def knows(record: Record) -> frozenset[str]:
    assert record.knows is not None
    return record.knows


# Subscriptions


def test_subscription_tells_all_that_it_says() -> None:
    assert subscription() == SubscriptionRecord(
        remote_id=SUB,
        status="active",
        raw_status="active",
        email="ada@example.org",
        created_at=datetime(2026, 9, 10, 2, 29, 58, 810452, tzinfo=UTC),
        title="Kopi-Bulanan",
        amount=Money(14_900_000, "IDR"),
        interval=Interval("month"),
        started_at=datetime(2026, 9, 10, 2, 30, tzinfo=UTC),
        current_period_start=datetime(2026, 11, 10, 2, 30, tzinfo=UTC),
        current_period_end=datetime(2026, 12, 10, 2, 30, tzinfo=UTC),
        next_payment=subscription().next_payment,
        method=Method("card", "Visa", "1114", remote_id=subscription().method.remote_id),  # type: ignore[union-attr]
        knows=subscription().knows,
    )
    following = subscription().next_payment
    assert following is not None
    assert (following.on, following.amount, following.certainty) == (
        date(2026, 12, 10),
        Money(14_900_000, "IDR"),
        "fixed",
    )
    assert {"next_payment", "due", "retries_on", "cancels_at", "ended_at", "stopped"} <= knows(subscription())
    assert "quantity" not in knows(subscription())


def test_time_without_a_zone_is_jakartas_and_one_with_a_zone_is_not_moved() -> None:
    for text in ("2026-12-01 01:00:00", "2026-12-01 01:00:00 +0700", "2026-11-30T18:00:00.000000Z"):
        record = subscription({"next_execution_at": text, "previous_execution_at": "2026-11-01 01:00:00"})
        assert record.current_period_end == datetime(2026, 11, 30, 18, 0, tzinfo=UTC)
        assert record.next_payment is not None
        assert record.next_payment.on == date(2026, 12, 1)  # the day in Jakarta


def test_amounts_are_rupiah_in_text_or_whole_numbers() -> None:
    for amount in ("10000.00", "10000", 10000):
        assert subscription(amount=amount).amount == Money(1_000_000, "IDR")
    assert payment(gross_amount="10000.50").amount == Money(1_000_050, "IDR")
    nonsense: Any
    for nonsense in ("a lot", None, [], "1e400", "-5"):
        assert "amount" not in knows(subscription(amount=nonsense))


def test_token_that_can_be_charged_is_not_kept() -> None:
    record = subscription()
    assert "sHfSakAvHvFQFEjTivUV" not in repr(record)
    other = subscription(token="52111111sHfSakAvHvFQFEjTivUV0007")
    assert record.method is not None
    assert other.method is not None
    assert (other.method.brand, other.method.last4) == ("Mastercard", "0007")
    assert other.method.remote_id != record.method.remote_id


def test_token_that_tells_no_digits_is_a_card_all_the_same() -> None:
    record = subscription(token="8447a56f-0e5e-498a-a948-eefa88265544")
    assert record.method is not None
    assert (record.method.kind, record.method.brand, record.method.last4) == ("card", None, None)


def test_gopay_is_told_by_its_account() -> None:
    one = subscription(payment_type="gopay", token="eyJ0", gopay={"account_id": "a-1"}).method
    two = subscription(payment_type="gopay", token="eyJ0", gopay={"account_id": "a-2"}).method
    assert one is not None
    assert two is not None
    assert (one.kind, one.brand, one.last4) == ("gopay", "GoPay", None)
    assert one.remote_id != two.remote_id


RETRY = {"previous_execution_at": "2026-10-24 09:30:00", "start_time": "2026-08-24 09:30:00"}
FUTURE = {
    "current_interval": 0,
    "start_time": "2026-12-01 09:30:00",
    "next_execution_at": "2026-12-01 09:30:00",
}
LAST = {"max_interval": 3}
# What a subscription is, by its word and its schedule; now is 24 November, ten o'clock in Jakarta.
STATES: dict[str, tuple[str, dict[str, Any], str | None, bool]] = {
    "paid up": ("active", {}, "active", False),
    "not begun": ("active", FUTURE | {"previous_execution_at": None}, "trialing", False),
    "charged this minute": ("active", RETRY | {"next_execution_at": "2026-11-24 09:30:00"}, "active", False),
    "tried again in an hour": (
        "active",
        RETRY | {"next_execution_at": "2026-11-24 10:30:00"},
        "past_due",
        False,
    ),
    "tried again tomorrow": (
        "active",
        RETRY | {"next_execution_at": "2026-11-25 09:30:00"},
        "past_due",
        False,
    ),
    "moved on by the shop": ("active", RETRY | {"next_execution_at": "2026-12-15 09:30:00"}, "active", False),
    "moved by a whole month": (
        "active",
        RETRY | {"next_execution_at": "2026-12-24 09:30:00"},
        "active",
        False,
    ),
    "given up": ("inactive", RETRY | {"next_execution_at": "2026-11-24 12:30:00"}, "past_due", True),
    "first charge given up": (
        "inactive",
        {
            "current_interval": 0,
            "start_time": "2026-11-20 04:50:00",
            "next_execution_at": "2026-11-20 07:50:00",
        }
        | {"previous_execution_at": None},
        "past_due",
        True,
    ),
    "disabled and paid": ("inactive", {}, "paused", False),
    "disabled, its day gone by": (
        "inactive",
        {"next_execution_at": "2026-11-10 09:30:00"},
        "cancelled",
        False,
    ),
    "all charges done": ("inactive", LAST, "expired", False),
    "last charge to come": ("active", {"max_interval": 4}, "active", False),
    "a word of tomorrow": ("frozen", {}, None, False),
}


@pytest.mark.parametrize(("word", "schedule", "status", "stopped"), STATES.values(), ids=STATES)
def test_state_is_worked_out(word: str, schedule: dict[str, Any], status: str | None, stopped: bool) -> None:
    record = subscription(schedule, status=word)
    assert (record.status, record.stopped, record.raw_status) == (status, stopped, word)
    assert record.due == (Money(14_900_000, "IDR") if status == "past_due" else None)
    assert (record.retries_on is not None) == (status == "past_due" and word == "active")


def test_word_that_is_unknown_is_kept_raw_and_speaks_of_no_state() -> None:
    record = subscription(status="frozen")
    assert not {"status", "due", "next_payment", "stopped", "retries_on"} & knows(record)
    assert record.raw_status == "frozen"


def test_month_ends_are_no_failed_charges() -> None:
    """Begun on the 31st: 28 February is regular, and so is 31 March after it."""
    clock.set_offset(datetime(2027, 3, 29, tzinfo=UTC) - datetime.now(UTC))
    plan = {"start_time": "2026-12-31 09:00:00", "current_interval": 3}
    record = subscription(
        plan | {"previous_execution_at": "2027-02-28 09:00:00", "next_execution_at": "2027-03-31 09:00:00"}
    )
    assert record.status == "active"


@pytest.mark.parametrize(
    ("unit", "count", "times", "day"),
    [
        ("day", 3, 1, date(2026, 2, 3)),
        ("week", 2, 1, date(2026, 2, 14)),
        ("month", 1, 1, date(2026, 2, 28)),
        ("month", 1, 2, date(2026, 3, 31)),
        ("month", 12, 1, date(2027, 1, 31)),
        ("month", 1, -1, date(2025, 12, 31)),
    ],
)
def test_intervals_are_counted_by_the_calendar(unit: Any, count: int, times: int, day: date) -> None:
    found = later(datetime(2026, 1, 31, 2, 0, tzinfo=UTC), Interval(unit, count), times)
    assert found is not None
    assert found == datetime(day.year, day.month, day.day, 2, 0, tzinfo=UTC)


def test_schedule_without_what_it_needs_says_less() -> None:
    for broken in (
        {},
        {"interval": 0},
        {"interval_unit": "fortnight"},
        {"start_time": "soon"},
        {"interval": "x"},
    ):
        made = make_subscription()
        made["schedule"] = broken
        assert Schedule.of(made).owed(NOW) is None
    assert later(None, Interval("day")) is None


# Payments, orders, refunds


@pytest.mark.parametrize(
    ("word", "status", "order"),
    [
        ("capture", "paid", "paid"),
        ("settlement", "paid", "paid"),
        ("pending", "pending", "open"),
        ("PENDING", "pending", "open"),  # DANA
        ("authorize", "authorized", "open"),
        ("deny", "failed", "failed"),
        ("failure", "failed", "failed"),
        ("cancel", "cancelled", "cancelled"),
        ("expire", "expired", "expired"),
        ("refund", "refunded", "refunded"),
        ("partial_refund", "partially_refunded", "partially_refunded"),
        ("chargeback", "disputed", "paid"),
        ("partial_chargeback", "disputed", "paid"),
        ("teleported", None, None),
    ],
)
def test_words_for_payments(word: str, status: str | None, order: str | None) -> None:
    one = payment(transaction_status=word)
    sold = Adapter.read("order", make_transaction(transaction_status=word))
    assert isinstance(sold, OrderRecord)
    assert (one.status, sold.status, one.raw_status) == (status, order, word)
    assert (one.paid_at is not None) == (status in ("paid", "refunded", "partially_refunded", "disputed"))


@pytest.mark.parametrize(
    ("fraud", "status"), [("accept", "paid"), (None, "paid"), ("challenge", "pending"), ("deny", "failed")]
)
def test_captured_and_challenged_is_not_paid_yet(fraud: str | None, status: str) -> None:
    assert payment(transaction_status="capture", fraud_status=fraud).status == status


def test_payment_tells_all_that_it_says() -> None:
    assert payment(refund_amount="12000.00") == PaymentRecord(
        remote_id=PAID,
        status="paid",
        raw_status="settlement",
        created_at=datetime(2026, 11, 19, 23, 30, tzinfo=UTC),
        amount=Money(15_000_000, "IDR"),
        refunded=Money(1_200_000, "IDR"),
        paid_at=datetime(2026, 11, 21, 9, 0, tzinfo=UTC),
        method=Method("card", "Visa", "1114"),
        order="SO-7",
        knows=payment(refund_amount="12000.00").knows,
    )
    assert "email" not in knows(payment())


def test_why_a_payment_failed_is_the_banks_word() -> None:
    refused = payment(
        transaction_status="deny", channel_response_code="05", channel_response_message="Do not honour"
    )
    assert refused.failure == Failure("05", "Do not honour")
    plain = payment(transaction_status="deny", status_code="202", status_message="Denied")
    assert plain.failure == Failure("202", "Denied")


@pytest.mark.parametrize(
    ("fields", "method"),
    [
        ({"masked_card": "481111-1114"}, Method("card", "Visa", "1114")),  # the older form
        ({"masked_card": "52111111-0007"}, Method("card", "Mastercard", "0007")),
        ({"masked_card": "35281111-0007"}, Method("card", "JCB", "0007")),
        ({"masked_card": None}, Method("card")),
        ({"payment_type": "gopay"}, Method("gopay", "GoPay")),
        ({"payment_type": "dana"}, Method("wallet", "DANA")),
        ({"payment_type": "qris"}, Method("wallet", "QRIS")),
        (
            {"payment_type": "bank_transfer", "va_numbers": [{"bank": "bca", "va_number": "123"}]},
            Method("bank_transfer", "BCA"),
        ),
        ({"payment_type": "bank_transfer", "permata_va_number": "8"}, Method("bank_transfer", "Permata")),
        ({"payment_type": "echannel"}, Method("bank_transfer", "Mandiri")),
        ({"payment_type": "cstore", "store": "indomaret"}, Method("cash", "Indomaret")),
        ({"payment_type": "akulaku"}, Method("pay_later", "Akulaku")),
        ({"payment_type": "barter"}, None),
    ],
)
def test_ways_to_pay(fields: dict[str, Any], method: Method | None) -> None:
    assert payment(**fields).method == method


def test_email_in_a_custom_field_is_taken_by_agreement() -> None:
    assert payment(custom_field2="ada@example.org").email == "ada@example.org"
    assert payment(custom_field1="blue", custom_field3="size 7").email is None
    assert payment(customer_details={"email": "ada@example.org"}).email == "ada@example.org"


def test_order_id_that_is_a_transaction_id_is_no_order() -> None:
    trap = make_transaction(order_id=PAID, payment_type="dana")
    assert "order" not in knows(payment(order_id=PAID))
    with pytest.raises(ValueError, match="no order"):
        Adapter.read("order", trap)
    event = Event("e", "settlement", Ref("payment", PAID), None, {"order": "SO-9", "amount": "150000.00"})
    told, _ = run(lambda one: one.refetch(event), said(trap))
    assert told is not None
    assert [order.remote_id for order in told.orders] == ["SO-9"]
    assert told.payments[0].order == "SO-9"


def test_order_of_a_notification_is_not_taken_over_for_another_amount() -> None:
    trap = make_transaction(order_id=PAID, payment_type="dana", gross_amount="1000.00")
    event = Event("e", "settlement", Ref("payment", PAID), None, {"order": "SO-9", "amount": "150000.00"})
    told, _ = run(lambda one: one.refetch(event), said(trap))
    assert told is not None
    assert told.orders == ()


def test_order_of_a_notification_does_not_beat_what_get_says() -> None:
    event = Event("e", "settlement", Ref("payment", PAID), None, {"order": "SO-9", "amount": "150000.00"})
    told, asked = run(lambda one: one.refetch(event), said(make_transaction()))
    assert told is not None
    assert [order.remote_id for order in told.orders] == ["SO-7"]
    assert asked[0][:3] == ("GET", "api.sandbox.midtrans.com", f"/v2/{PAID}/status")


def test_charge_of_a_subscription_is_no_order() -> None:
    number = f"SUBS-Kopi-{'0123456789abcdef' * 2}"
    with pytest.raises(ValueError, match="no order"):
        Adapter.read("order", make_transaction(order_id=number))
    mine = Adapter.read("order", make_transaction(order_id="SUBS-2026-7"))  # a shop's own number
    assert mine.remote_id == "SUBS-2026-7"  # type: ignore[union-attr]


def test_automatic_fee_is_part_of_what_was_paid() -> None:
    """What is notified and signed includes the fee: https://github.com/Midtrans/midtrans-php/issues/118"""
    info = {"extra_info": {"gross_amount_info": {"original_amount": "146000.00"}}}
    assert payment(metadata=info).amount == Money(15_000_000, "IDR")


REFUNDS = [
    {"refund_chargeback_id": 1, "refund_amount": "5000.00", "created_at": "2026-11-21 00:14:20"}
    | {"reason": "some reason", "refund_key": "r1", "bank_confirmed_at": "2026-11-22 02:30:20"},
    {
        "refund_chargeback_id": 2,
        "refund_amount": "7000.00",
        "created_at": "2026-11-22 01:23:15",
        "reason": "",
    },
]


def test_refund_is_sent_once_the_bank_has_confirmed_it() -> None:
    told, _ = run(
        lambda one: one.fetch(Ref("payment", PAID)),
        said(
            make_transaction(transaction_status="partial_refund", refund_amount="12000.00", refunds=REFUNDS)
        ),
    )
    first, second = told.refunds
    assert first == RefundRecord(
        remote_id=f"{PAID}:1",
        status="sent",
        created_at=datetime(2026, 11, 20, 17, 14, 20, tzinfo=UTC),
        payment=PAID,
        amount=Money(500_000, "IDR"),
        reason="some reason",
        knows=first.knows,
    )
    assert (second.remote_id, second.status, second.amount) == (f"{PAID}:2", "pending", Money(700_000, "IDR"))
    assert "reason" not in knows(second)


@pytest.mark.parametrize(
    ("kind", "status"), [("gopay", "sent"), ("shopeepay", "sent"), ("credit_card", "pending")]
)
def test_refund_to_a_wallet_is_there_at_once(kind: str, status: str) -> None:
    record = Adapter.read("refund", make_transaction(payment_type=kind, refunds=REFUNDS))
    assert isinstance(record, RefundRecord)
    assert (record.remote_id, record.status) == (f"{PAID}:2", status)


def test_refund_by_itself_can_be_read() -> None:
    record = Adapter.read("refund", REFUNDS[0])
    assert (record.remote_id, record.amount) == ("1", Money(500_000, "IDR"))  # type: ignore[union-attr]


# Invoices


def make_invoice(**changes: Any) -> dict[str, Any]:
    return {
        "id": "65e7e8e657389830d04836fc",
        "order_id": "7950c36a",
        "invoice_number": "INV/2026/7",
        "status": "pending",
        "gross_amount": 13324,
        "published_date": "2026-11-06 10:54:14 +0700",
        "invoice_date": "2026-11-06 10:00:00 +0700",
        "customer_details": {"name": "Ada", "email": "ada@example.org"},
        "item_details": [
            {"item_id": "A", "description": "Pillow", "quantity": 2, "price": 6000},
            {"item_id": "B", "description": None, "quantity": "x", "price": 1},
        ],
        "pdf_url": "https://assets.midtrans.com/invoices/pdf/1",
        "paid_pdf_url": None,
        "payment_link_url": "https://app.midtrans.com/payment-links/1",
        "document_type": "invoice",
    } | changes


@pytest.mark.parametrize(
    ("word", "status", "order"),
    [
        ("draft", "draft", None),
        ("pending", "open", "open"),
        ("published", "open", "open"),
        ("overdue", "overdue", "open"),
        ("paid", "paid", "paid"),
        ("expired", "void", "expired"),
        ("voided", "void", "cancelled"),
        ("shredded", None, None),
    ],
)
def test_words_for_invoices(word: str, status: str | None, order: str | None) -> None:
    bill = Adapter.read("invoice", make_invoice(status=word))
    sold = Adapter.read("order", make_invoice(status=word))
    assert isinstance(bill, InvoiceRecord)
    assert isinstance(sold, OrderRecord)
    is_open = status in ("open", "overdue")
    assert (bill.status, sold.status, bill.document) == (status, order, word != "draft")
    assert (bill.due is not None, bill.page_url is not None, sold.due_link is not None) == (is_open,) * 3
    assert "due_link" in knows(sold)


def test_invoice_tells_all_that_it_says() -> None:
    bill, sold = Adapter.read("invoice", make_invoice()), Adapter.read("order", make_invoice())
    assert isinstance(bill, InvoiceRecord)
    assert isinstance(sold, OrderRecord)
    assert (bill.number, bill.email, bill.order) == ("INV/2026/7", "ada@example.org", "7950c36a")
    assert bill.amount == bill.due == sold.amount == Money(1_332_400, "IDR")
    assert bill.lines == sold.lines == (Line("Pillow", 2, Money(1_200_000, "IDR")),)
    assert bill.created_at == datetime(2026, 11, 6, 3, 54, 14, tzinfo=UTC)
    assert bill.document_url == "https://assets.midtrans.com/invoices/pdf/1"
    assert (sold.remote_id, sold.title) == ("7950c36a", "Pillow")
    paid = Adapter.read("invoice", make_invoice(status="paid", paid_pdf_url="https://assets.midtrans.com/p"))
    assert paid.document_url == "https://assets.midtrans.com/p"  # type: ignore[union-attr]


def test_quotation_is_no_invoice() -> None:
    with pytest.raises(ValueError, match="quotation"):
        Adapter.read("invoice", make_invoice(document_type="quotation"))


def test_file_of_an_invoice_is_asked_for_without_the_key() -> None:
    document, asked = run(
        lambda one: one.invoice_document(Ref("invoice", "65e7e8e657389830d04836fc")),
        said(make_invoice()),
        httpx.Response(200, content=b"%PDF-1.7 ..."),
    )
    assert document is not None
    assert document.filename == "INV-2026-7.pdf"
    assert asked[1] == ("GET", "assets.midtrans.com", "/invoices/pdf/1", {})


@pytest.mark.parametrize("answer", [httpx.Response(404), httpx.Response(200, content=b"<html>")])
def test_file_that_is_none_is_unavailable(answer: httpx.Response) -> None:
    with pytest.raises(Unavailable):
        run(
            lambda one: one.invoice_document(Ref("invoice", "65e7e8e657389830d04836fc")),
            said(make_invoice()),
            answer,
        )


# The report


ROW = {
    "dateTime": "2026-11-03T12:08:56+07:00",
    "amount": {"value": "12345.00", "currency": "IDR"},
    "status": "SUCCESS",
    "type": "PAYMENT",
    "additionalInfo": {
        "referenceNo": PAID,
        "partnerReferenceNo": "SO-7",
        "status": "SETTLEMENT",
        "type": "PAYMENT",
        "channel": "qris",
        "customerEmail": "ada@example.org",
    },
}


def test_row_of_the_report_is_an_order_and_a_payment() -> None:
    sold, paid = Adapter.read("order", ROW), Adapter.read("payment", ROW)
    assert isinstance(sold, OrderRecord)
    assert isinstance(paid, PaymentRecord)
    assert (sold.remote_id, sold.email, sold.status) == ("SO-7", "ada@example.org", "paid")
    assert sold.amount == paid.amount == Money(1_234_500, "IDR")
    assert (paid.remote_id, paid.order, paid.method) == (PAID, "SO-7", Method("wallet", "QRIS"))
    assert sold.created_at == datetime(2026, 11, 3, 5, 8, 56, tzinfo=UTC)


def test_reference_that_is_not_midtranss_own_makes_no_payment() -> None:
    row = copy.deepcopy(ROW)
    row["additionalInfo"]["referenceNo"] = "2020102977770000000009"  # type: ignore[index]
    with pytest.raises(ValueError, match="transaction_id"):
        Adapter.read("payment", row)
    assert Adapter.read("order", row).remote_id == "SO-7"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("word", "status"),
    [
        *(("AUTHORIZE", "authorized"), ("SUCCESS", "paid"), ("CHALLENGE", "pending"), ("SETTLEMENT", "paid")),
        *(("REFUND", "refunded"), ("CHARGEBACK", "disputed"), ("EXPIRED", "expired"), ("PENDING", "pending")),
        *(("CANCELLED", "cancelled"), ("FAILED", "failed"), ("DENIED", "failed"), ("REVERSAL", "failed")),
        ("EVAPORATED", None),
    ],
)
def test_words_of_the_report(word: str, status: str | None) -> None:
    row = copy.deepcopy(ROW)
    row["additionalInfo"]["status"] = word  # type: ignore[index]
    assert Adapter.read("payment", row).status == status  # type: ignore[union-attr]


def test_report_is_signed_by_rsa_and_hmac_over_the_very_bytes() -> None:
    pair = rsa.generate_private_key(65537, 2048)
    pem = pair.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    keys = {
        "bisnap_client_id": "G1-SNAP",
        "bisnap_client_secret": "s3cr3t-of-the-report",
        "bisnap_partner_id": "P1",
        "bisnap_channel_id": "12345",
        "bisnap_private_key": pem.replace("\n", " "),  # a form may lose its lines
    }

    async def everything(one: Adapter) -> list[Any]:
        return [page async for page in one.backfill()]

    (page,), asked = run(
        everything,
        said({"responseCode": "2007300", "accessToken": "t0k3n", "expiresIn": "900"}),
        said({"responseCode": "2001200", "detailData": [ROW]}),
        **keys,
    )
    assert [payment.remote_id for payment in page.snapshot.payments] == [PAID]
    (_, host, path, token), (_, _, listing, history) = asked
    assert (host, path) == ("merchants.sbx.midtrans.com", "/v1.0/access-token/b2b")
    assert token["headers"]["X-TIMESTAMP"] == "2026-11-24T10:00:00+07:00"
    pair.public_key().verify(
        base64.b64decode(token["headers"]["X-SIGNATURE"]),
        b"G1-SNAP|2026-11-24T10:00:00+07:00",
        padding.PKCS1v15(),
        SHA256(),
    )
    assert token["content"] == b'{"grantType":"client_credentials"}'
    digest = hashlib.sha256(history["content"]).hexdigest()
    covered = f"POST:{listing}:t0k3n:{digest}:{history['headers']['X-TIMESTAMP']}"
    expected = hmac.digest(b"s3cr3t-of-the-report", covered.encode(), "sha512")
    assert history["headers"]["X-SIGNATURE"] == base64.b64encode(expected).decode()
    assert b" " not in history["content"]
    wanted = json.loads(history["content"])
    assert (wanted["fromDateTime"], wanted["toDateTime"]) == (
        "2026-05-01T00:00:00+07:00",
        "2026-11-24T10:00:00+07:00",
    )
    for sent in (token, history):
        assert "Basic" not in json.dumps(sent["headers"])  # the server key has no business there


# Deliveries


def test_signature_is_over_the_texts_exactly_as_they_came() -> None:
    """The vector is that of sha512sum."""
    body = {"order_id": "SO-7", "status_code": "200", "gross_amount": "150000.00", "transaction_id": PAID}
    key = (
        "f8cb8471baae3804c2fd1153449ad91d7bda9cbe338ac334fa2cca7191d0f14d"
        "4757719e6a961c6a65f032c3b0b2044e025ff4d9104aadf217a508915203dceb"
    )
    (event,) = verify(json.dumps(body | {"signature_key": key}).encode())
    assert event.subject == Ref("payment", PAID)
    for printed_again in ("150000", "150000.0", "150000.000"):
        with pytest.raises(BadSignature):
            verify(json.dumps(body | {"signature_key": key, "gross_amount": printed_again}).encode())


def test_event_names_what_happened_and_keeps_only_what_is_needed() -> None:
    (event,) = verify(signed(saved_token_id="48111111-secret-1114", custom_field1="ada@example.org"))
    assert event.type == "settlement"
    assert event.occurred_at == datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
    assert event.body == {"order": "SO-7", "amount": "150000.00"}
    assert json.loads(json.dumps(dict(event.body))) == dict(event.body)


def test_every_step_of_a_payment_is_an_event_of_its_own_and_a_repetition_is_none() -> None:
    steps = [
        signed(transaction_status="pending", status_code="201"),
        signed(transaction_status="settlement"),
        signed(transaction_status="capture", fraud_status="challenge"),
        signed(transaction_status="capture"),
        signed(transaction_status="partial_refund", refunds=[REFUNDS[1]]),
        signed(
            transaction_status="partial_refund",
            refunds=[REFUNDS[1] | {"bank_confirmed_at": "2026-11-23 00:00:00"}],
        ),
        signed(transaction_status="expire", status_code="407"),
    ]
    ids = [verify(body)[0].id for body in steps]
    assert len(set(ids)) == len(ids)
    assert [verify(body)[0].id for body in steps] == ids


def test_key_of_the_newer_dashboard_is_taken_beside_the_server_key() -> None:
    for body in (signed(), signed("the-newer-key-of-the-dashboard")):
        assert verify(body, signature_key_secret="the-newer-key-of-the-dashboard")
    with pytest.raises(BadSignature):
        verify(signed("the-newer-key-of-the-dashboard"))


def test_without_a_key_nothing_is_proved() -> None:
    for key in ("", KEY):
        with pytest.raises(BadSignature):
            Adapter({"merchant_id": "G100200300"}).verify([], signed(key), NOW)


def test_verify_needs_no_more_than_the_key() -> None:
    assert Adapter({"server_key": KEY}).verify([], signed(), NOW)


def test_notification_for_another_merchant_is_refused() -> None:
    with pytest.raises(BadSignature, match="another merchant"):
        verify(signed(merchant_id="G999999999"))
    with pytest.raises(BadSignature, match="another merchant"):
        verify(json.dumps(make_subscription(merchant_id="G999999999")).encode())


def test_link_of_gopay_has_a_formula_of_its_own() -> None:
    told = {
        "account_id": "a-1",
        "account_status": "ENABLED",
        "status_code": "200",
        "merchant_id": "G100200300",
    }
    right = hashlib.sha512(f"a-1ENABLED200{KEY}".encode()).hexdigest()
    (event,) = verify(json.dumps(told | {"signature_key": right}).encode())
    assert (event.type, event.subject) == ("pay_account", None)
    as_payment = hashlib.sha512(f"a-1200ENABLED{KEY}".encode()).hexdigest()
    for wrong in (as_payment, right.upper(), ""):
        with pytest.raises(BadSignature):
            verify(json.dumps(told | {"signature_key": wrong}).encode())


def test_test_button_of_the_dashboard_is_of_no_interest() -> None:
    """It sent JSON within a text, for a transaction that does not exist."""
    assert verify(json.dumps(signed().decode()).encode()) == []


def test_subscription_notices_are_hints_without_their_token() -> None:
    bare = make_subscription(merchant_id="G100200300")
    charge = {
        "event_name": "subscription.charge",
        "subscription": bare,
        "transaction": {"transaction_id": PAID},
    }
    failed = charge | {"transaction": {"status_code": "411", "status_message": "Token id is missing"}}
    events = [verify(json.dumps(body).encode())[0] for body in (bare, charge, failed)]
    assert [event.type for event in events] == ["subscription.create", *["subscription.charge"] * 2]
    assert {event.subject for event in events} == {Ref("subscription", SUB)}
    assert [event.body["transaction"] for event in events] == [None, PAID, None]
    assert len({event.id for event in events}) == 3
    assert bare["token"] not in repr(events)
    assert [Adapter.read("event", body) for body in (bare, charge, failed)] == [[event] for event in events]


DIGITS = make_transaction()
FORGED: dict[str, bytes] = {
    "nothing": b"",
    "no json": b"order_id=SO-7",
    "a list": b"[]",
    "null": b"null",
    "a number": b"7",
    "an empty object": b"{}",
    "deep nesting": b"[" * 100_000,
    "no signature": json.dumps(DIGITS).encode(),
    "a signature of null": json.dumps(DIGITS | {"signature_key": None}).encode(),
    "without the key": signed(""),
    "by another key": signed("SB-Mid-server-somebody-else"),
    "in capitals": signed().replace(b'"signature_key": "', b'"signature_key": "A'),
    "a payment dressed as a subscription": json.dumps(
        DIGITS | {"id": SUB, "schedule": {"interval": 1}}
    ).encode(),
    "a payment hung on a subscription": json.dumps(
        {"subscription": make_subscription(), "event_name": "x", "order_id": "SO-7"}
    ).encode(),
    "the order twice": signed()[:-1] + b', "order_id": "SO-7"}',
    "the transaction twice": signed()[:-1] + b', "transaction_id": "other"}',
    "a subscription without an id": json.dumps({"schedule": {"interval": 1}}).encode(),
    "a subscription without a schedule": json.dumps({"id": SUB, "status": "active"}).encode(),
    "an id that is a number": json.dumps({"id": 7, "schedule": {"interval": 1}}).encode(),
    "signed, but no transaction": signed(transaction_id=7),
    "an amount with a sign": signed(gross_amount="-150000.00"),
    "an amount with zeros before it": signed(gross_amount="0150000.00"),
    "an amount in words": signed(gross_amount="NaN"),
    "a code that is none": signed(status_code="1200"),
    "a code of letters": signed(status_code="2oo"),
    "no order": signed(order_id=""),
    "not utf-8": b"\xff\xfe" + signed(),
}


@pytest.mark.parametrize("body", FORGED.values(), ids=FORGED)
def test_forged_delivery_is_refused(body: bytes) -> None:
    with pytest.raises(BadSignature):
        verify(body)


def test_no_field_can_borrow_a_digit_of_the_next() -> None:
    """order_id, code and amount are joined without anything between them."""
    key = hashlib.sha512(f"SO-72001150000.00{KEY}".encode()).hexdigest()
    whole = "SO-72001150000.00"
    taken = []
    for first in range(1, len(whole) - 2):
        for second in range(first + 1, len(whole)):
            parts = {
                "order_id": whole[:first],
                "status_code": whole[first:second],
                "gross_amount": whole[second:],
            }
            body = make_transaction(**parts) | {"signature_key": key}
            try:
                verify(json.dumps(body).encode())
            except BadSignature:
                continue
            taken.append(tuple(parts.values()))
    assert taken == [("SO-7", "200", "1150000.00")]


# Answers and refusals


def code(number: int, **more: Any) -> httpx.Response:
    return said({"status_code": str(number), "status_message": "Said under HTTP 200", **more})


@pytest.mark.parametrize(
    ("number", "error"),
    [
        *(
            (400, Declined),
            (402, Declined),
            (406, Declined),
            (408, Declined),
            (410, Declined),
            (411, Declined),
        ),
        *((412, Declined), (413, Declined), (401, Unavailable), (404, Gone), (429, Unavailable)),
        *((500, Unavailable), (503, Unavailable), (505, Unavailable), (900, Unavailable)),
    ],
)
@pytest.mark.parametrize("http_status", [200, 201])
def test_code_in_the_body_counts_more_than_http(
    number: int, error: type[Exception], http_status: int
) -> None:
    answer = said({"status_code": str(number), "status_message": "No."}, http_status)
    with pytest.raises(error) as caught:
        run(lambda one: one.fetch(Ref("payment", PAID)), answer)
    assert str(number) in caught.value.hint  # type: ignore[attr-defined]


def test_expired_is_a_state_and_no_refusal() -> None:
    told, _ = run(
        lambda one: one.fetch(Ref("payment", PAID)),
        said(make_transaction(status_code="407", transaction_status="expire")),
    )
    assert told.payments[0].status == "expired"


def test_refusal_is_told_in_midtranss_words_and_without_the_key() -> None:
    refused = said({"status_message": "Invalid parameter.", "validation_messages": ["name is too long"]}, 400)
    with pytest.raises(Declined) as caught:
        run(lambda one: one.cancel_now(Ref("subscription", SUB), "k"), said(make_subscription()), refused)
    assert "Invalid parameter. name is too long" in caught.value.hint
    assert KEY not in caught.value.hint
    assert caught.value.customer


@pytest.mark.parametrize("status", [200, 500])
def test_failure_inside_of_a_change_may_have_had_its_effect(status: int) -> None:
    answer = said({"status_code": "500", "status_message": "Please retry."}, status)
    with pytest.raises(Unavailable) as caught:
        run(lambda one: one.cancel_now(Ref("subscription", SUB), "k"), said(make_subscription()), answer)
    assert caught.value.sent


@pytest.mark.parametrize(
    "body", ["[]", "7", '"text"', "null", "{}", '{"id": "another", "schedule": {}}', '{"id": 7}', "<html>"]
)
def test_garbage_is_no_subscription(body: str) -> None:
    with pytest.raises(Unavailable):
        run(lambda one: one.fetch(Ref("subscription", SUB)), httpx.Response(200, text=body))


def test_production_and_sandbox_are_told_by_the_key_or_by_choice() -> None:
    hosts = {}
    for name, key, chosen in (
        *(("sandbox", KEY, ""), ("live", KEY.removeprefix("SB-"), "")),
        *(("chosen", KEY.removeprefix("SB-"), "sandbox"), ("insisted", KEY, "production")),
    ):
        _, asked = run(lambda one: one.check(), code(404), server_key=key, environment=chosen)
        hosts[name] = asked[0][1]
        assert (
            asked[0][3]["headers"]["Authorization"]
            == f"Basic {base64.b64encode(f'{key}:'.encode()).decode()}"
        )
    assert hosts == {
        "sandbox": "api.sandbox.midtrans.com",
        "live": "api.midtrans.com",
        "chosen": "api.sandbox.midtrans.com",
        "insisted": "api.midtrans.com",
    }


def test_link_of_gopay_told_without_tls_is_opened_with_it() -> None:
    answer = {"status_code": "201", "account_id": "a-1", "account_status": "PENDING"} | {
        "actions": [
            {"name": "activation-link-app", "url": "http://api.midtrans.com/v2/gopay/redirect/gpad/link"},
            {"name": "activation-link-url", "url": "http://api.midtrans.com/v2/gopay/redirect/gpar/link"},
        ]
    }
    leave, asked = run(
        lambda one: one.start_method_update(Ref("subscription", SUB), "https://portal.example/r/1", "k"),
        said(make_subscription(payment_type="gopay", gopay={"account_id": "a-0"})),
        said(answer, 201),
    )
    assert (leave.url, leave.state) == (
        "https://api.midtrans.com/v2/gopay/redirect/gpar/link",
        {"account": "a-1"},
    )
    assert facts("midtrans").allows_link(leave.url)
    partner = asked[1][3]["json"]["gopay_partner"]
    assert partner == {
        "phone_number": "812345678",
        "country_code": "62",
        "redirect_url": "https://portal.example/r/1",
    }


def test_answer_of_snap_without_an_address_is_unavailable() -> None:
    late = make_subscription({**RETRY, "next_execution_at": "2026-11-24 10:30:00"})
    with pytest.raises(Unavailable, match="no page"):
        run(
            lambda one: one.start_method_update(Ref("subscription", SUB), "https://portal.example/r/1", "k"),
            said(late),
            said({"token": "t", "redirect_url": None}, 201),
        )


def test_card_of_another_subscription_is_never_adopted() -> None:
    order = "portal-card-0123456789abcdef01234567"
    foreign = make_transaction(order_id=order, custom_field1="another", saved_token_id="52111111s0007")
    late = make_subscription({**RETRY, "next_execution_at": "2026-11-24 10:30:00"}, transaction_ids=[])
    told, asked = run(
        lambda one: one.finish_method_update(Ref("subscription", SUB), {"order": order}, {}),
        said(foreign),
        said(late),
    )
    assert told.subscriptions[0].status == "past_due"
    assert [method for method, *_ in asked] == ["GET", "GET"]


def test_payment_of_an_earlier_debt_moves_nothing() -> None:
    order = "portal-card-0123456789abcdef01234567"
    old = make_transaction(order_id=order, custom_field1=SUB, saved_token_id="52111111s0007")
    old |= {"transaction_time": "2026-10-24 11:00:00"}
    late = make_subscription({**RETRY, "next_execution_at": "2026-11-24 10:30:00"}, transaction_ids=[])
    told, asked = run(
        lambda one: one.finish_method_update(Ref("subscription", SUB), {"order": order}, {}),
        said(old),
        said(late),
    )
    assert told.subscriptions[0].status == "past_due"
    assert [method for method, *_ in asked] == ["GET", "GET"]


NONSENSE: tuple[Any, ...] = ({}, [], None, "text", {"hello": "world"})


def test_nothing_but_the_names_of_the_contract_is_read() -> None:
    for kind in ("customer", "plan"):
        with pytest.raises(Unsupported):
            Adapter.read(kind, {"id": "x"})
    for kind in ("subscription", "payment", "order", "refund", "invoice", "event"):
        for nonsense in NONSENSE:
            with pytest.raises(ValueError, match=r"\w"):
                Adapter.read(kind, nonsense)


# The facts


def test_facts_and_code_agree() -> None:
    assert disagreements("midtrans", Adapter) == []


@pytest.mark.parametrize(
    ("key", "circumstances", "mode", "how"),
    [
        ("invoice", Circumstances(), "direct", None),
        ("update_payment_method", Circumstances(state="past_due", method="card", due=True), "hosted", None),
        ("update_payment_method", Circumstances(state="active", method="card"), "request", None),
        ("update_payment_method", Circumstances(state="active", method="gopay"), "hosted", None),
        ("cancel_now", Circumstances(state="active"), "direct", None),
        ("cancel_at_period_end", Circumstances(state="active"), "emulated", "calls"),
        ("cancel_at_period_end", Circumstances(state="past_due"), "emulated", "keep"),
        ("undo_cancel", Circumstances(state="cancels_at_period_end"), "request", None),
        (
            "undo_cancel",
            Circumstances(state="cancels_at_period_end", option=frozenset({"undo_by_enable"})),
            "direct",
            None,
        ),
        (
            "undo_cancel",
            Circumstances(state="cancelled", option=frozenset({"undo_by_enable"})),
            "request",
            None,
        ),
        ("pause", Circumstances(state="active"), "direct", None),
        ("resume", Circumstances(state="paused"), "direct", None),
        ("change_plan", Circumstances(state="active"), "direct", None),
        ("next_payment", Circumstances(state="active"), "direct", None),
        ("pay_now", Circumstances(due=True), "hosted", None),
        ("pay_now", Circumstances(state="past_due", due=True), "none", None),
        ("skip_next_payment", Circumstances(state="active"), "none", None),
        ("refunds", Circumstances(), "direct", None),
    ],
)
def test_mode_of_each_wish(key: Any, circumstances: Circumstances, mode: str, how: str | None) -> None:
    shape = facts("midtrans").capabilities[key].under(circumstances)
    assert (shape.mode, shape.how) == (mode, how)


def test_document_of_the_processor_is_offered_for_invoices_alone() -> None:
    invoice = facts("midtrans").capabilities["invoice"]
    assert invoice.under(Circumstances()).documents == ["ours"]
    assert invoice.under(Circumstances(object="invoice")).documents == ["processor", "ours"]


def test_gap_of_a_guess_is_as_old_as_the_subscription() -> None:
    told, _ = run(
        lambda one: one.fetch(Ref("subscription", SUB)),
        said(make_subscription(status="inactive", transaction_ids=[])),
    )
    assert told.as_of == datetime(2026, 9, 10, 2, 29, 58, 810452, tzinfo=UTC)
    known = Ref("subscription", SUB, SubscriptionRecord(remote_id=SUB, status="active"))
    fresh, _ = run(
        lambda one: one.fetch(known), said(make_subscription(status="inactive", transaction_ids=[]))
    )
    assert abs(fresh.as_of - NOW) < timedelta(seconds=5)
