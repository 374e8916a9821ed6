"""Mollie: the tables, amounts and days, both sorts of webhooks, and the traps that would cost somebody money."""

import asyncio
import json
import uuid
from collections.abc import Awaitable
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar
from unittest.mock import patch

import httpx2 as httpx
import pytest

from portal import clock
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
    Record,
    Ref,
    RefundRecord,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import Circumstances, disagreements, facts
from portal.gateways.http import Http
from portal.gateways.mollie import Adapter
from portal.money import Money
from seeds.simulators.mollie import signed

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
KEYS = {"api_key": "test_Acme7XY7LxsDOtmnkVtjNVWXLSlXsM", "webhook_secret": "whs_SignedEvents000001"}
BACK = "https://pay.acme.example/customers/return/abc"
PATH = "/v2/customers/cst_A1/subscriptions/sub_A1"
UNTIL = datetime(2026, 11, 30, 23, 0, tzinfo=UTC)  # midnight of 1 December in Amsterdam
CLUB = Ref(
    "subscription",
    "sub_A1",
    SubscriptionRecord(remote_id="sub_A1", customer="cst_A1", current_period_end=UNTIL),
)
Result = TypeVar("Result")


@pytest.fixture(autouse=True)
def _a_morning_in_november() -> None:
    clock.set_offset(NOW - datetime.now(UTC))


# Mollie as far as a test needs it


class Wire(Http):
    """Stands in for the client of a gateway: answers by method and path, and keeps what was asked."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[dict[str, Any]] = []

    async def aclose(self) -> None:
        pass

    async def call(self, method: str, host: str, path: str, **more: Any) -> httpx.Response:
        self.asked.append({"method": method, "host": host, "path": path, **more})
        answer = self.answers.get(f"{method} {path}", refused(404, "No such thing exists."))
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    @property
    def writes(self) -> list[str]:
        return [f"{one['method']} {one['path']}" for one in self.asked if one["method"] != "GET"]

    def sent(self, at: int = 0) -> Any:
        return [one["json"] for one in self.asked if one["method"] != "GET"][at]


def make_gateway(answers: Any = None, **credentials: str) -> tuple[Adapter, Wire]:
    wire = Wire(answers or {})
    with patch("portal.gateways.mollie.Http", lambda gateway, name: wire):
        return Adapter({**KEYS, **credentials}), wire


def run(what: Awaitable[Result]) -> Result:
    async def main() -> Result:
        return await what

    return asyncio.run(main())


def refused(status: int, detail: str, **fields: Any) -> httpx.Response:
    return httpx.Response(status, json={"status": status, "title": "Refused", "detail": detail, **fields})


def amount(value: str, currency: str = "EUR") -> dict[str, str]:
    return {"currency": currency, "value": value}


def make_subscription(**changes: Any) -> dict[str, Any]:
    return {
        "resource": "subscription",
        "id": "sub_A1",
        "mode": "test",
        "amount": amount("24.00"),
        "interval": "1 month",
        "description": "Coffee club",
        "method": None,
        "status": "active",
        "times": None,
        "timesRemaining": None,
        "startDate": "2026-08-01",
        "nextPaymentDate": "2026-12-01",
        "customerId": "cst_A1",
        "mandateId": "mdt_A1",
        "webhookUrl": "https://shop.example/mollie",
        "metadata": {"plan": "gold"},
        "createdAt": "2026-07-30T10:00:00+02:00",
        "_links": {},
    } | changes


def cancelled(**changes: Any) -> dict[str, Any]:
    said = make_subscription(status="canceled", canceledAt="2026-11-20T09:00:00+00:00", **changes)
    del said["nextPaymentDate"]
    return said


def make_payment(**changes: Any) -> dict[str, Any]:
    return {
        "resource": "payment",
        "id": "tr_P1",
        "amount": amount("24.00"),
        "description": "Coffee club",
        "method": "creditcard",
        "status": "paid",
        "sequenceType": "recurring",
        "customerId": "cst_A1",
        "mandateId": "mdt_A1",
        "subscriptionId": "sub_A1",
        "createdAt": "2026-11-01T08:00:00+00:00",
        "paidAt": "2026-11-01T08:00:05+00:00",
        "details": {"cardLabel": "Visa", "cardNumber": "4242", "cardExpiryDate": "09/29"},
    } | changes


def make_mandate(**changes: Any) -> dict[str, Any]:
    return {
        "resource": "mandate",
        "id": "mdt_A1",
        "status": "valid",
        "method": "creditcard",
        "customerId": "cst_A1",
        "details": {"cardLabel": "Visa", "cardNumber": "4242", "cardExpiryDate": "2029-09-30"},
        "scopes": ["customer-present", "customer-not-present"],
    } | changes


def listed(name: str, *items: dict[str, Any], following: str | None = None) -> dict[str, Any]:
    link = {"href": following, "type": "application/hal+json"} if following else None
    return {"count": len(items), "_embedded": {name: list(items)}, "_links": {"previous": None, "next": link}}


def books(said: Any, *payments: Any, mandates: Any = None, **more: Any) -> dict[str, Any]:
    """What Mollie answers about a subscription, its payments and its customer's mandates."""
    return {
        f"GET {PATH}": said,
        f"GET {PATH}/payments": listed("payments", *payments),
        "GET /v2/customers/cst_A1/mandates": listed("mandates", *(mandates or (make_mandate(),))),
        **more,
    }


def look(said: Any, *payments: Any, mandates: tuple[Any, ...] | None = None) -> SubscriptionRecord:
    gateway, _ = make_gateway(books(said, *payments, mandates=mandates))
    return run(gateway.fetch(CLUB)).subscriptions[0]


def read(kind: Any, said: Any) -> Any:
    return Adapter.read(kind, said)


def knows(record: Record) -> set[str]:
    return set(record.knows or ())


# Amounts and days


@pytest.mark.parametrize(
    ("said", "money"),
    [
        (amount("10.00"), Money(1000, "EUR")),
        (amount("1000", "JPY"), Money(1000, "JPY")),
        (amount("0.01"), Money(1, "EUR")),
        (amount("10.001"), None),
        (amount("ten"), None),
        ("10.00", None),
        (None, None),
    ],
)
def test_amounts_are_text_with_the_decimals_of_their_currency(said: Any, money: Money | None) -> None:
    assert read("subscription", make_subscription(amount=said)).amount == money


def test_yen_are_written_without_decimals_and_euros_with_two() -> None:
    for money, value in (
        (Money(1000, "JPY"), "1000"),
        (Money(1050, "EUR"), "10.50"),
        (Money(5, "EUR"), "0.05"),
    ):
        was = make_subscription(amount=amount("900" if money.currency == "JPY" else "9.00", money.currency))
        now = {**was, "amount": amount(value, money.currency)}
        gateway, wire = make_gateway(books([was, now], **{f"PATCH {PATH}": now}))
        run(gateway.change_plan(CLUB, {"amount": money}, BACK, "key"))
        assert wire.sent() == {"amount": {"currency": money.currency, "value": value}}


def test_yen_method_is_set_up_with_one_yen() -> None:
    made = make_payment(id="tr_F1", _links={"checkout": {"href": "https://www.mollie.com/checkout/x"}})
    said = make_subscription(amount=amount("1000", "JPY"), method="directdebit")
    gateway, wire = make_gateway(books(said, **{"POST /v2/payments": made}))
    leave = run(gateway.start_method_update(CLUB, BACK, "key"))
    assert wire.sent()["amount"] == {"currency": "JPY", "value": "1"}
    assert facts("mollie").allows_link(leave.url)


@pytest.mark.parametrize(
    ("day", "midnight"),
    [
        ("2026-12-01", datetime(2026, 11, 30, 23, tzinfo=UTC)),
        ("2026-07-01", datetime(2026, 6, 30, 22, tzinfo=UTC)),
    ],
)
def test_next_day_is_one_of_amsterdam_in_winter_and_in_summer(day: str, midnight: datetime) -> None:
    record = read("subscription", make_subscription(nextPaymentDate=day))
    assert record.current_period_end == midnight
    assert record.next_payment == NextPayment(date.fromisoformat(day), Money(2400, "EUR"), "fixed")


@pytest.mark.parametrize(
    ("until", "start"),
    [
        (
            datetime(2026, 11, 30, 23, 0, tzinfo=UTC),
            "2026-12-01",
        ),  # midnight in Amsterdam, the day before in UTC
        (datetime(2027, 6, 30, 22, 0, tzinfo=UTC), "2027-07-01"),
        (datetime(2026, 12, 1, 0, 0, tzinfo=UTC), "2026-12-02"),  # that day has begun, and is paid
    ],
)
def test_going_on_never_charges_within_the_paid_time(until: datetime, start: str) -> None:
    _, wire = go_on(cancelled(), until)
    assert wire.sent()["startDate"] == start


@pytest.mark.parametrize(
    ("word", "interval"),
    [
        ("1 month", Interval("month")),
        ("3 months", Interval("month", 3)),
        ("2 weeks", Interval("week", 2)),
        ("14 days", Interval("day", 14)),
        ("12 months", Interval("year")),
        ("1 decade", None),
        ("0 days", None),
        (7, None),
    ],
)
def test_intervals(word: Any, interval: Interval | None) -> None:
    assert read("subscription", make_subscription(interval=word)).interval == interval


# What the words for states mean


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        ("pending", "incomplete"),
        ("active", "active"),
        ("suspended", "past_due"),
        ("canceled", "cancelled"),
        ("completed", "expired"),
        ("frozen", None),
    ],
)
def test_status_of_a_subscription(raw: str, status: str | None) -> None:
    record = read("subscription", make_subscription(status=raw))
    assert (record.status, record.raw_status) == (status, raw)
    assert (record.next_payment is not None) is (raw == "active")
    assert ("next_payment" in knows(record)) is (status is not None)


@pytest.mark.parametrize(
    ("payment", "status"),
    [
        (make_payment(), "active"),
        (make_payment(status="failed"), "past_due"),
        (make_payment(amountChargedBack=amount("24.00")), "past_due"),
        (make_payment(amountChargedBack=amount("0.00")), "active"),
        (make_payment(status="pending"), "active"),
        (make_payment(status="canceled"), "active"),
    ],
)
def test_active_one_is_past_due_only_when_its_newest_payment_failed(payment: Any, status: str) -> None:
    older = make_payment(id="tr_P0", status="failed", createdAt="2026-10-01T08:00:00+00:00")
    record = look(make_subscription(), payment, older)
    assert record.status == status
    paid_until = datetime(2026, 11, 1, 8, tzinfo=UTC) if status == "past_due" else UNTIL
    assert record.current_period_end == paid_until


def test_trial_is_what_begins_later_unless_it_goes_on_for_another() -> None:
    record = read("subscription", make_subscription(startDate="2026-12-01"))
    assert (record.status, record.trial_ends_at) == ("trialing", UNTIL)
    again = make_subscription(startDate="2026-12-01", metadata={"portal_continues": "sub_A0"})
    assert read("subscription", again).status == "active"
    assert read("subscription", make_subscription(startDate="2026-11-24")).status == "active"


@pytest.mark.parametrize(
    ("changes", "status", "order"),
    [
        ({"status": "open"}, "pending", "open"),
        ({"status": "pending"}, "pending", "open"),
        ({"status": "authorized"}, "authorized", "open"),
        ({"status": "paid"}, "paid", "paid"),
        ({"status": "failed"}, "failed", "failed"),
        ({"status": "canceled"}, "cancelled", "cancelled"),
        ({"status": "expired"}, "expired", "expired"),
        ({"amountRefunded": amount("0.00")}, "paid", "paid"),
        ({"amountRefunded": amount("5.00")}, "partially_refunded", "partially_refunded"),
        ({"amountRefunded": amount("24.00")}, "refunded", "refunded"),
        ({"amountChargedBack": amount("24.00")}, "disputed", "paid"),
        ({"status": "teleported"}, None, None),
    ],
)
def test_status_of_a_payment_and_of_the_order_that_it_is(
    changes: dict[str, Any], status: str | None, order: str | None
) -> None:
    said = make_payment(subscriptionId=None, sequenceType="oneoff", **changes)
    assert (read("payment", said).status, read("order", said).status) == (status, order)
    assert read("payment", said).order == "tr_P1"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        *((word, "pending") for word in ("queued", "pending", "processing")),
        ("refunded", "sent"),
        ("failed", "failed"),
        ("canceled", "cancelled"),
        ("lost", None),
    ],
)
def test_status_of_a_refund(raw: str, status: str | None) -> None:
    said = {"resource": "refund", "id": "re_1", "amount": amount("5.95"), "status": raw, "paymentId": "tr_P1"}
    record = read("refund", {**said, "description": "Broken", "createdAt": "2026-11-02T08:00:00.0Z"})
    assert isinstance(record, RefundRecord)
    assert (record.status, record.payment, record.amount) == (status, "tr_P1", Money(595, "EUR"))
    assert (record.reason, record.created_at) == ("Broken", datetime(2026, 11, 2, 8, tzinfo=UTC))


def make_invoice(**changes: Any) -> dict[str, Any]:
    return {
        "resource": "sales-invoice",
        "id": "invoice_I1",
        "invoiceNumber": "INV-7",
        "status": "paid",
        "recipient": {"email": "noor@example.com"},
        "totalAmount": amount("107.69"),
        "amountDue": amount("0.00"),
        "paymentDetails": [{"source": "payment", "sourceReference": "tr_P1"}],
        "_links": {"pdfLink": {"href": "https://www.mollie.com/file.pdf"}},
    } | changes


@pytest.mark.parametrize(
    ("changes", "status", "document"),
    [
        ({"status": "draft"}, "draft", False),
        ({"status": "issued", "dueAt": "2026-12-01T00:00:00+00:00"}, "open", True),
        ({"status": "issued", "dueAt": "2026-11-01T00:00:00+00:00"}, "overdue", True),
        ({"status": "paid"}, "paid", True),
        ({"status": "canceled"}, "void", True),
        ({"status": "shredded"}, None, True),
        ({"_links": {}}, "paid", False),
    ],
)
def test_status_of_an_invoice(changes: dict[str, Any], status: str | None, document: bool) -> None:
    record = read("invoice", make_invoice(**changes))
    assert isinstance(record, InvoiceRecord)
    assert (record.status, record.document) == (status, document)
    assert (record.number, record.payment, record.email) == ("INV-7", "tr_P1", "noor@example.com")
    assert (record.amount, record.due) == (Money(10769, "EUR"), Money(0, "EUR"))


# Reading what the API shows


def test_subscription_tells_everything_that_it_knows() -> None:
    record = look(make_subscription(), make_payment())
    assert (record.title, record.customer, record.amount) == ("Coffee club", "cst_A1", Money(2400, "EUR"))
    assert (record.created_at, record.started_at) == (
        datetime(2026, 7, 30, 8, tzinfo=UTC),
        datetime(2026, 7, 31, 22, tzinfo=UTC),
    )
    assert record.method == Method("card", "Visa", "4242", "2029-09", "mdt_A1")
    assert not record.stopped
    assert "email" not in knows(record)


def test_cancelled_subscription_does_not_speak_of_the_time_that_is_paid() -> None:
    record = read("subscription", cancelled())
    assert record.ended_at == datetime(2026, 11, 20, 9, tzinfo=UTC)
    assert "current_period_end" not in knows(record)
    assert (record.next_payment, "next_payment" in knows(record)) == (None, True)


@pytest.mark.parametrize(
    ("said", "method"),
    [
        ({}, Method("card", "Visa", "4242", "2029-09")),
        (
            {"details": {"cardNumber": "************6787", "cardExpiryDate": "1/30"}},
            Method("card", None, "6787", "2030-01"),
        ),
        (
            {"method": "directdebit", "details": {"consumerAccount": "NL55INGB0000004217"}},
            Method("bank_debit", None, "4217"),
        ),
        (
            {"method": "paypal", "details": {"consumerAccount": "b12345@paypal.example"}},
            Method("wallet", "PayPal"),
        ),
        ({"method": "ideal", "details": None}, Method("ideal", "iDEAL")),
        ({"method": "bancontact", "details": []}, Method("bancontact", "Bancontact")),
        ({"method": None}, None),
    ],
)
def test_method_of_a_payment(said: dict[str, Any], method: Method | None) -> None:
    assert read("payment", make_payment(**said)).method == method


def test_failure_is_told_in_words_for_people_where_there_are_any() -> None:
    why = {"failureReason": "insufficient_funds", "failureMessage": "Not enough money."}
    assert read("payment", make_payment(status="failed", details=why)).failure == Failure(
        "insufficient_funds", "Not enough money."
    )
    sepa = make_payment(status="failed", method="directdebit", details={"bankReason": "Account closed"})
    assert read("payment", sepa).failure == Failure("failed", "Account closed")
    assert read("payment", make_payment(details=why)).failure is None


@pytest.mark.parametrize(
    ("said", "email"),
    [
        ({"billingAddress": {"email": "noor@example.com"}}, "noor@example.com"),
        (
            {"method": "paypal", "details": {"consumerAccount": "buyer@paypal.example"}},
            "buyer@paypal.example",
        ),
        ({"method": "ideal", "details": {"consumerAccount": "NL55INGB0000004217"}}, None),
        ({}, None),
    ],
)
def test_address_of_a_payment_is_never_guessed(said: dict[str, Any], email: str | None) -> None:
    assert read("payment", make_payment(**said)).email == email


def test_order_has_the_lines_that_were_sent_else_one_of_its_description() -> None:
    once = {"subscriptionId": None, "metadata": {"order_id": 1042}}
    lines = [
        {"description": "Beans", "quantity": 2, "totalAmount": amount("20.00")},
        {"description": "Shipping", "type": "shipping_fee", "totalAmount": amount("4.00")},
    ]
    order = read("order", make_payment(lines=lines, **once))
    assert isinstance(order, OrderRecord)
    assert order.lines == (Line("Beans", 2, Money(2000, "EUR")), Line("Shipping", 1, Money(400, "EUR")))
    assert (order.number, order.customer) == ("1042", "cst_A1")
    nothings: list[Any] = [None, [], "seven", 7, {}]
    for nothing in nothings:
        assert read("order", make_payment(lines=nothing, **once)).lines == (
            Line("Coffee club", 1, Money(2400, "EUR")),
        )


def test_payment_of_a_subscription_or_for_a_method_is_no_order() -> None:
    setting_up = {"subscriptionId": None, "metadata": {"portal_action": "update_payment_method"}}
    free = {"subscriptionId": None, "amount": amount("0.00")}
    for changes in ({}, setting_up, free):
        assert isinstance(read("payment", make_payment(**changes)), PaymentRecord)
        assert read("payment", make_payment(**changes)).order is None
        with pytest.raises(ValueError, match="no order"):
            read("order", make_payment(**changes))


def test_customer() -> None:
    said = {"resource": "customer", "id": "cst_A1", "name": "Noor", "email": "noor@example.com"}
    record = read("customer", {**said, "createdAt": "2026-07-30T10:00:00+00:00"})
    assert isinstance(record, CustomerRecord)
    assert (record.email, record.name) == ("noor@example.com", "Noor")
    assert {"email", "name"} <= knows(read("customer", {"id": "cst_A1", "email": None}))


@pytest.mark.parametrize(
    "kind", ["customer", "order", "subscription", "payment", "refund", "invoice", "event"]
)
@pytest.mark.parametrize("said", [None, [], "tr_P1", 7, {}, {"id": 7}, {"id": "pl_1"}, {"id": "tr_../x"}])
def test_what_is_no_such_object_is_said_so(kind: Any, said: Any) -> None:
    with pytest.raises(ValueError, match=r"[Oo]bject|event"):
        read(kind, said)


def test_garbage_inside_an_object_says_less() -> None:
    said = make_payment(**{name: 7 for name in make_payment() if name not in ("id", "status")})
    record = read("payment", said)
    assert (record.status, record.amount, record.paid_at) == ("paid", None, None)
    said = make_subscription(**{name: [] for name in make_subscription() if name not in ("id", "status")})
    assert read("subscription", said).status == "active"


# Webhooks


def verify(body: bytes, *headers: tuple[str, str], **credentials: str) -> list[Event]:
    return make_gateway(**credentials)[0].verify(list(headers), body, clock.now())


def test_classic_webhook_is_a_hint_and_nothing_else() -> None:
    (event,) = verify(b"id=tr_5B8cwPMGnU6qLbRvo7qEZo", ("Content-Type", "application/x-www-form-urlencoded"))
    assert event.subject == Ref("payment", "tr_5B8cwPMGnU6qLbRvo7qEZo")
    assert (event.type, event.occurred_at, dict(event.body)) == (
        "classic",
        None,
        {"id": "tr_5B8cwPMGnU6qLbRvo7qEZo"},
    )


def test_every_classic_webhook_is_an_event_of_its_own_since_a_refund_tells_the_same_id() -> None:
    (paid,) = verify(b"id=tr_P1")
    clock.set_offset(clock.offset() + timedelta(hours=1))
    (sent_back,) = verify(b"id=tr_P1")
    assert paid.id != sent_back.id


@pytest.mark.parametrize(
    "body",
    [
        b"id=",
        b"id=pl_1",
        b"id=sub_A1",
        b"id=tr_../x",
        b"id=tr_1&id=tr_2",
        b"id=tr_1&status=paid",
        b"id=tr_" + b"x" * 99,
    ],
)
def test_unknown_or_malformed_id_is_taken_without_a_call(body: bytes) -> None:
    assert verify(body) == []


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"resource":"event","id":"event_1","type":"payment.paid"}', b"payment=tr_1"]
)
def test_unsigned_body_that_is_no_hint_is_refused(body: bytes) -> None:
    with pytest.raises(BadSignature):
        verify(body)


def make_event(kind: str = "payment.paid", entity: str | None = "tr_P1", **more: Any) -> bytes:
    said = {"resource": "event", "id": "event_1", "type": kind, "entityId": entity}
    return json.dumps({**said, "createdAt": "2026-11-24T07:00:00+00:00", **more}).encode()


def proved(body: bytes) -> Event:
    (event,) = verify(body, *signed("", KEYS["webhook_secret"], body).headers.items())
    return event


@pytest.mark.parametrize(
    ("body", "subject"),
    [
        (make_event(), Ref("payment", "tr_P1")),
        (
            make_event("refund.failed", "re_1", _embedded={"entity": {"paymentId": "tr_P2"}}),
            Ref("payment", "tr_P2"),
        ),
        (make_event("refund.failed", "re_1"), Ref("refund", "re_1")),
        (
            make_event(
                "chargeback.received",
                "chb_1",
                _links={"entity": {"href": "/v2/payments/tr_P3/chargebacks/chb_1"}},
            ),
            Ref("payment", "tr_P3"),
        ),
        (make_event("sales-invoice.paid", "invoice_I1"), Ref("invoice", "invoice_I1")),
        (make_event("payment-link.paid", "pl_1"), None),
        (make_event("profile.verified", "pfl_1"), None),
        (make_event("payment.paid", "tr_../../x"), None),
        (make_event("payment.paid", None), None),
    ],
)
def test_next_gen_event_says_what_to_look_at(body: bytes, subject: Ref | None) -> None:
    event = proved(body)
    assert (event.id, event.subject) == ("event_1", subject)
    assert event.occurred_at == datetime(2026, 11, 24, 7, tzinfo=UTC)
    assert json.loads(json.dumps(dict(event.body))) == dict(event.body)


def test_signature_counts_without_its_prefix_too_and_over_the_raw_bytes() -> None:
    body = make_event()
    proof = signed("", KEYS["webhook_secret"], body).headers["X-Mollie-Signature"]
    assert verify(body, ("x-mollie-signature", proof.removeprefix("sha256=")))
    for other in (body + b"\n", json.dumps(json.loads(body), indent=1).encode(), body.replace(b"P1", b"P2")):
        with pytest.raises(BadSignature):
            verify(other, ("X-Mollie-Signature", proof))


def test_nothing_is_proved_without_a_secret_nor_of_what_is_no_event() -> None:
    body = make_event()
    with pytest.raises(BadSignature, match="No webhook secret"):
        verify(body, *signed("", "", body).headers.items(), webhook_secret="")
    for said in (b"[]", b"nonsense", b'{"resource":"payment","id":"tr_P1"}', b"id=tr_P1"):
        with pytest.raises(BadSignature):
            verify(said, *signed("", KEYS["webhook_secret"], said).headers.items())


def test_deliveries_are_proved_with_the_secret_alone_and_read_without_any() -> None:
    body = make_event()
    gateway = Adapter({"webhook_secret": KEYS["webhook_secret"]})
    (event,) = gateway.verify(list(signed("", KEYS["webhook_secret"], body).headers.items()), body, NOW)
    assert Adapter.read("event", json.loads(body)) == [event]
    (hint,) = read("event", {"id": "tr_P1"})
    assert hint.subject == Ref("payment", "tr_P1")


def test_payment_of_a_customer_who_was_deleted_is_still_told() -> None:
    answers: dict[str, Any] = {
        "GET /v2/payments/tr_P1": make_payment(),
        "GET /v2/customers/cst_A1": refused(410, "Gone"),
    }
    gateway, wire = make_gateway(answers)
    snapshot = run(gateway.fetch(Ref("payment", "tr_P1")))
    assert ([one.remote_id for one in snapshot.payments], snapshot.customers) == (["tr_P1"], ())
    assert wire.asked[0]["params"] == {"embed": "refunds"}


def test_first_payment_makes_us_look_at_all_subscriptions_of_its_customer() -> None:
    first = make_payment(id="tr_F1", sequenceType="first", subscriptionId=None)
    customer = {"id": "cst_A1", "email": "noor@example.com", "name": "Noor"}
    answers = books(
        make_subscription(),
        **{
            "GET /v2/payments/tr_F1": first,
            "GET /v2/customers/cst_A1": customer,
            "GET /v2/customers/cst_A1/subscriptions": listed("subscriptions", make_subscription()),
        },
    )
    snapshot = run(make_gateway(answers)[0].fetch(Ref("payment", "tr_F1")))
    assert [one.remote_id for one in snapshot.subscriptions] == ["sub_A1"]
    assert [one.email for one in snapshot.customers] == ["noor@example.com"]


# Traps: mandates


def changing(payment: dict[str, Any], said: Any, mandate: dict[str, Any]) -> tuple[Adapter, Wire]:
    return make_gateway(
        books(
            said,
            mandates=(make_mandate(), mandate),
            **{
                "GET /v2/payments/tr_F1": payment,
                "GET /v2/customers/cst_A1/mandates/mdt_B2": mandate,
                f"PATCH {PATH}": make_subscription(mandateId="mdt_B2"),
            },
        )
    )


FIRST = make_payment(id="tr_F1", sequenceType="first", subscriptionId=None, mandateId="mdt_B2")
STATE = {"payment": "tr_F1"}


def test_mandate_is_never_revoked_only_another_one_is_named() -> None:
    before, after = make_subscription(), make_subscription(mandateId="mdt_B2")
    gateway, wire = changing(FIRST, [before, after], make_mandate(id="mdt_B2"))
    snapshot = run(gateway.finish_method_update(CLUB, STATE, {}))
    assert wire.writes == [f"PATCH {PATH}"], "a DELETE of the mandate would cancel every subscription on it"
    assert wire.sent() == {"mandateId": "mdt_B2"}
    method = snapshot.subscriptions[0].method
    assert method is not None
    assert method.remote_id == "mdt_B2"


def test_first_payment_is_finished_once_however_often_it_is_asked() -> None:
    before, after = make_subscription(), make_subscription(mandateId="mdt_B2")
    gateway, wire = changing(FIRST, [before, after], make_mandate(id="mdt_B2"))
    for _ in range(3):
        run(gateway.finish_method_update(CLUB, STATE, {}))
    assert len(wire.writes) == 1


@pytest.mark.parametrize("status", ["open", "pending", "authorized", "a_word_of_tomorrow"])
def test_return_is_not_believed_before_the_payment_is_paid(status: str) -> None:
    gateway, wire = changing({**FIRST, "status": status}, make_subscription(), make_mandate(id="mdt_B2"))
    run(gateway.finish_method_update(CLUB, STATE, {"status": "paid", "id": "tr_Other"}))
    assert wire.writes == []


@pytest.mark.parametrize("status", ["pending", "invalid", "a_word_of_tomorrow"])
def test_pending_mandate_is_not_enough(status: str) -> None:
    gateway, wire = changing(FIRST, make_subscription(), make_mandate(id="mdt_B2", status=status))
    record = run(gateway.finish_method_update(CLUB, STATE, {})).subscriptions[0]
    assert (wire.writes, record.method and record.method.remote_id) == ([], "mdt_A1")


@pytest.mark.parametrize(
    "mandate",
    [{"method": "directdebit"}, {"scopes": ["customer-present"]}],
    ids=["another type", "only when present"],
)
def test_mandate_that_cannot_carry_the_subscription_is_not_put_under_it(mandate: dict[str, Any]) -> None:
    gateway, wire = changing(
        FIRST, make_subscription(method="creditcard"), make_mandate(id="mdt_B2", **mandate)
    )
    with pytest.raises(Declined):
        run(gateway.finish_method_update(CLUB, STATE, {}))
    assert wire.writes == []


@pytest.mark.parametrize("status", ["failed", "canceled", "expired"])
def test_payment_that_did_not_go_through_leaves_the_old_method(status: str) -> None:
    gateway, wire = changing(
        {**FIRST, "status": status, "details": None}, make_subscription(), make_mandate(id="mdt_B2")
    )
    with pytest.raises(Declined) as caught:
        run(gateway.finish_method_update(CLUB, STATE, {}))
    assert (caught.value.reason, wire.writes) == (status, [])


@pytest.mark.parametrize(
    ("said", "payments", "mandates", "remote_id"),
    [
        (make_subscription(), (), (make_mandate(),), "mdt_A1"),
        (make_subscription(), (), (make_mandate(status="invalid"),), None),
        (make_subscription(), (), (make_mandate(status="pending"),), None),
        (make_subscription(method="creditcard"), (), (make_mandate(id="mdt_B2"),), None),
        (make_subscription(mandateId=None), (), (make_mandate(id="mdt_B2"),), "mdt_B2"),
        (
            make_subscription(mandateId=None),
            (make_payment(mandateId="mdt_C3"),),
            (make_mandate(id="mdt_B2"), make_mandate(id="mdt_C3")),
            "mdt_C3",
        ),
    ],
)
def test_method_can_be_used_again_only_while_its_mandate_is_valid(
    said: Any, payments: Any, mandates: Any, remote_id: str | None
) -> None:
    method = look(said, *payments, mandates=mandates).method
    assert method is not None
    assert (method.kind, method.remote_id) == ("card", remote_id)


def test_which_of_several_mandates_is_next_is_not_guessed() -> None:
    two = (make_mandate(id="mdt_B2"), make_mandate(id="mdt_C3"))
    record = look(make_subscription(mandateId=None), mandates=two)
    assert (record.method, "method" in knows(record)) == (None, True)


# Traps: going on after a cancel


def go_on(
    old: dict[str, Any],
    until: datetime | None = UNTIL,
    mandates: tuple[Any, ...] | None = None,
    siblings: Any = None,
) -> tuple[Snapshot | None, Wire]:
    made = make_subscription(id="sub_B2", startDate="2026-12-01", metadata={"portal_continues": "sub_A1"})
    below = "/v2/customers/cst_A1/subscriptions"
    gateway, wire = make_gateway(
        books(
            old,
            mandates=mandates,
            **{
                f"GET {below}": siblings or listed("subscriptions", old),
                f"POST {below}": made,
                f"GET {below}/sub_B2": made,
                f"GET {below}/sub_B2/payments": listed("payments"),
            },
        )
    )
    known = SubscriptionRecord(remote_id="sub_A1", customer="cst_A1", current_period_end=until)
    return run(gateway.undo_cancel(Ref("subscription", "sub_A1", known), "portal-7")), wire


def test_going_on_makes_one_like_it_on_the_same_mandate_and_tells_both() -> None:
    snapshot, wire = go_on(cancelled(times=12, timesRemaining=8, method="creditcard"))
    assert wire.sent() == {
        "amount": amount("24.00"),
        "interval": "1 month",
        "description": "Coffee club",
        "method": "creditcard",
        "mandateId": "mdt_A1",
        "webhookUrl": "https://shop.example/mollie",
        "metadata": {"plan": "gold", "portal_continues": "sub_A1"},
        "startDate": "2026-12-01",
        "times": 8,
    }
    assert snapshot is not None
    assert [(one.remote_id, one.status) for one in snapshot.subscriptions] == [
        ("sub_A1", "cancelled"),
        ("sub_B2", "active"),
    ]
    assert snapshot.subscriptions[1].next_payment == NextPayment(
        date(2026, 12, 1), Money(2400, "EUR"), "fixed"
    )


@pytest.mark.parametrize(
    ("metadata", "sent"),
    [
        (None, {"portal_continues": "sub_A1"}),
        ("note", "note"),
        ([1], [1]),
        ({}, {"portal_continues": "sub_A1"}),
    ],
)
def test_metadata_of_the_shop_is_kept(metadata: Any, sent: Any) -> None:
    assert go_on(cancelled(metadata=metadata))[1].sent()["metadata"] == sent


def test_going_on_twice_makes_one() -> None:
    there = make_subscription(id="sub_B2", metadata={"portal_continues": "sub_A1"})
    snapshot, wire = go_on(cancelled(), siblings=listed("subscriptions", there, cancelled()))
    assert wire.writes == []
    assert snapshot is not None
    assert [one.remote_id for one in snapshot.subscriptions] == ["sub_A1", "sub_B2"]


def test_another_try_that_was_faster_is_no_failure() -> None:
    there = make_subscription(id="sub_B2")
    below = "/v2/customers/cst_A1/subscriptions"
    answers = books(
        cancelled(),
        **{
            f"GET {below}": [
                listed("subscriptions", cancelled()),
                listed("subscriptions", there, cancelled()),
            ],
            f"POST {below}": refused(422, "A subscription with the same description already exists"),
            f"GET {below}/sub_B2": there,
            f"GET {below}/sub_B2/payments": listed("payments"),
        },
    )
    snapshot = run(make_gateway(answers)[0].undo_cancel(CLUB, "key"))
    assert [one.remote_id for one in snapshot.subscriptions] == ["sub_A1", "sub_B2"]


@pytest.mark.parametrize("until", [None, NOW - timedelta(days=1)])
def test_going_on_needs_paid_time_that_is_known_and_not_over(until: datetime | None) -> None:
    with pytest.raises(Unsupported):
        go_on(cancelled(), until)


@pytest.mark.parametrize(
    "mandate", [make_mandate(status="invalid"), make_mandate(id="mdt_B2"), make_mandate(method="paypal")]
)
def test_going_on_needs_the_same_mandate_and_that_it_is_valid(mandate: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="mandate"):
        go_on(cancelled(method="creditcard"), mandates=(mandate,))


def test_subscription_without_a_mandate_of_its_own_goes_on_without_one() -> None:
    _, wire = go_on(cancelled(mandateId=None), mandates=(make_mandate(id="mdt_B2"),))
    assert "mandateId" not in wire.sent()


def test_live_one_needs_no_going_on() -> None:
    snapshot, wire = go_on(make_subscription())
    assert wire.writes == []
    assert snapshot is not None
    assert snapshot.subscriptions[0].status == "active"


# Traps: the rest


def test_cancel_that_somebody_else_was_faster_with_is_success() -> None:
    answers = books(
        [make_subscription(), cancelled()],
        **{f"DELETE {PATH}": refused(422, "The subscription has been cancelled")},
    )
    gateway, wire = make_gateway(answers)
    assert run(gateway.cancel_now(CLUB, "key")).subscriptions[0].status == "cancelled"
    assert len(wire.writes) == 1


def test_cancel_that_is_refused_for_another_reason_is_declined() -> None:
    gateway, _ = make_gateway(
        books(make_subscription(), **{f"DELETE {PATH}": refused(422, "Not today", field="id")})
    )
    with pytest.raises(Declined, match="Not today") as caught:
        run(gateway.cancel_now(CLUB, "key"))
    assert caught.value.reason == "id"


def test_start_date_is_never_sent_along() -> None:
    now = make_subscription(amount=amount("30.00"), interval="3 months")
    gateway, wire = make_gateway(books([make_subscription(), now], **{f"PATCH {PATH}": now}))
    run(
        gateway.change_plan(
            CLUB, {"amount": Money(3000, "EUR"), "interval": Interval("month", 3)}, BACK, "key"
        )
    )
    assert wire.sent() == {"amount": amount("30.00"), "interval": "3 months"}


def test_change_that_was_taken_and_does_not_show_is_unknown() -> None:
    gateway, _ = make_gateway(books(make_subscription(), **{f"PATCH {PATH}": make_subscription()}))
    with pytest.raises(Unavailable, match="interval") as caught:
        run(gateway.change_plan(CLUB, {"interval": Interval("week")}, BACK, "key"))
    assert caught.value.sent


@pytest.mark.parametrize("status", ["pending", "suspended", "canceled", "completed"])
def test_only_an_active_one_is_changed(status: str) -> None:
    gateway, wire = make_gateway(books(make_subscription(status=status)))
    with pytest.raises(Unsupported):
        run(gateway.change_plan(CLUB, {"amount": Money(100, "EUR")}, BACK, "key"))
    assert wire.writes == []


def test_ended_one_gets_no_new_method_and_checkout_without_a_link_is_unknown() -> None:
    gateway, wire = make_gateway(books(cancelled()))
    with pytest.raises(Unsupported):
        run(gateway.start_method_update(CLUB, BACK, "key"))
    assert wire.writes == []
    gateway, _ = make_gateway(
        books(make_subscription(), **{"POST /v2/payments": make_payment(id="tr_F1", _links={})})
    )
    with pytest.raises(Unavailable) as caught:
        run(gateway.start_method_update(CLUB, BACK, "key"))
    assert caught.value.sent


def test_idempotency_key_is_a_uuid_of_version_4_and_the_same_on_every_try() -> None:
    def key(portal_key: str) -> str:
        gateway, wire = make_gateway(
            books([make_subscription(), cancelled()], **{f"DELETE {PATH}": cancelled()})
        )
        run(gateway.cancel_now(CLUB, portal_key))
        (found,) = [one["headers"]["Idempotency-Key"] for one in wire.asked if one["method"] == "DELETE"]
        assert all("Idempotency-Key" not in one["headers"] for one in wire.asked if one["method"] == "GET")
        return str(found)

    assert key("portal-1") == key("portal-1") != key("portal-2")
    assert uuid.UUID(key("portal-1")).version == 4


def test_next_link_is_read_and_never_followed() -> None:
    evil = "https://evil.example/v2/customers?from=cst_B2&limit=250"
    pages = [listed("customers", {"id": "cst_A1"}, following=evil), listed("customers", {"id": "cst_B2"})]
    gateway, wire = make_gateway({"GET /v2/customers": pages})

    async def two() -> list[str]:
        found = []
        async for page in gateway.backfill():
            found += [one.remote_id for one in page.snapshot.customers]
            if len(found) == 2:
                break
        return found

    assert run(two()) == ["cst_A1", "cst_B2"]
    assert {one["host"] for one in wire.asked} == {"api.mollie.com"}
    assert wire.asked[1]["params"] == {"limit": "250", "from": "cst_B2"}


@pytest.mark.parametrize(
    "link", ["https://api.mollie.com/v2/customers", "?from=../x", "?from=cst_A1", "seven"]
)
def test_list_that_would_go_round_for_ever_is_an_outage(link: str) -> None:
    gateway, _ = make_gateway({"GET /v2/customers": listed("customers", {"id": "cst_A1"}, following=link)})
    with pytest.raises(Unavailable):
        run(anext(aiter(gateway.backfill('["customers", "cst_A1"]'))))


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/file.pdf",
        "http://www.mollie.com/file.pdf",
        "https://www.mollie.com@evil.example/file.pdf",
        "https://www.mollie.com.evil.example/file.pdf",
        "//www.mollie.com/file.pdf",
        "",
    ],
)
def test_pdf_on_a_foreign_host_is_not_fetched(link: str) -> None:
    invoice = make_invoice(_links={"pdfLink": {"href": link}})
    gateway, wire = make_gateway({"GET /v2/sales-invoices/invoice_I1": invoice})
    assert run(gateway.invoice_document(Ref("invoice", "invoice_I1"))) is None
    assert len(wire.asked) == 1


@pytest.mark.parametrize(
    ("link", "host", "secret"),
    [
        ("https://www.mollie.com/f.pdf?t=1", "www.mollie.com", False),
        ("https://api.mollie.com/f.pdf?t=1", "api.mollie.com", True),
    ],
)
def test_pdf_on_mollies_own_hosts_is_and_the_key_goes_to_the_api_alone(
    link: str, host: str, secret: bool
) -> None:
    invoice = make_invoice(_links={"pdfLink": {"href": link}})
    for content, is_file in ((b"%PDF-1.4", True), (b"<html>", False)):
        answers = {
            "GET /v2/sales-invoices/invoice_I1": invoice,
            "GET /f.pdf?t=1": httpx.Response(200, content=content),
        }
        gateway, wire = make_gateway(answers)
        document = run(gateway.invoice_document(Ref("invoice", "invoice_I1")))
        assert (document is not None) is is_file
        assert (wire.asked[1]["host"], "Authorization" in wire.asked[1]["headers"]) == (host, secret)


def test_mollies_bill_to_the_merchant_is_never_read() -> None:
    answers: dict[str, Any] = {
        f"GET /v2/{name}": listed(name) for name in ("customers", "subscriptions", "payments")
    }
    answers |= {"GET /v2/refunds": listed("refunds"), "GET /v2/sales-invoices": refused(403, "Not for you")}
    gateway, wire = make_gateway(answers)

    async def all_pages() -> int:
        return len([page async for page in gateway.backfill()])

    assert run(all_pages()) == 5
    assert "/v2/invoices" not in [one["path"] for one in wire.asked]


# Errors


@pytest.mark.parametrize(
    ("answer", "error", "sent"),
    [
        (refused(400, "Idempotency misuse"), Declined, False),
        (refused(401, "Missing authentication"), Unavailable, False),
        (refused(403, "Not for this key"), Unsupported, False),
        (refused(404, "No such"), Gone, False),
        (refused(409, "Being processed"), Unavailable, True),
        (refused(410, "No longer"), Gone, False),
        (refused(422, "No"), Declined, False),
        (refused(429, "Slow down"), Unavailable, False),
        (refused(503, "Down"), Unavailable, True),
        (httpx.Response(502, text="<html>"), Unavailable, True),
        (httpx.Response(200, text="<html>"), Unavailable, True),
        (httpx.Response(302, headers={"Location": "https://evil.example"}), Unavailable, True),
    ],
)
def test_refusal_becomes_one_of_the_five(answer: httpx.Response, error: type[Exception], sent: bool) -> None:
    gateway, _ = make_gateway(books(make_subscription(), **{f"DELETE {PATH}": answer}))
    with pytest.raises(error) as caught:
        run(gateway.cancel_now(CLUB, "key"))
    assert getattr(caught.value, "sent", False) is sent
    assert KEYS["api_key"] not in f"{caught.value!r} {getattr(caught.value, 'hint', '')}"


def test_gateway_of_any_subset_of_the_credentials_can_be_made() -> None:
    for credentials in ({}, {"api_key": "live_x"}, {"webhook_secret": "whs_x"}):
        run(Adapter(credentials).aclose())


# Facts


def test_facts_and_code_agree() -> None:
    assert disagreements("mollie", Adapter) == []


@pytest.mark.parametrize(
    ("key", "circumstances", "mode", "how"),
    [
        ("invoice", Circumstances(), "direct", None),
        ("update_payment_method", Circumstances(state="active"), "hosted", None),
        ("update_payment_method", Circumstances(state="past_due", token=False), "hosted", None),
        ("cancel_now", Circumstances(state="active"), "direct", None),
        ("cancel_at_period_end", Circumstances(state="active"), "emulated", "keep"),
        ("cancel_at_period_end", Circumstances(state="trialing"), "emulated", "keep"),
        ("undo_cancel", Circumstances(state="cancelled"), "emulated", "calls"),
        ("undo_cancel", Circumstances(state="cancelled", token=False), "request", None),
        ("pause", Circumstances(state="active"), "request", None),
        ("resume", Circumstances(state="paused"), "request", None),
        ("skip_next_payment", Circumstances(state="active"), "none", None),
        ("change_plan", Circumstances(state="active"), "direct", None),
        ("pay_now", Circumstances(state="past_due", due=True), "none", None),
        ("next_payment", Circumstances(state="active"), "direct", None),
        ("refunds", Circumstances(), "direct", None),
    ],
)
def test_mode_of_each_wish(key: Any, circumstances: Circumstances, mode: str, how: str | None) -> None:
    shape = facts("mollie").capabilities[key].under(circumstances)
    assert (shape.mode, shape.how) == (mode, how)


def test_both_sorts_of_webhooks_and_what_they_prove() -> None:
    assert [(one.scheme, one.proves, one.registration) for one in facts("mollie").webhooks] == [
        ("none", "nothing", "per_object"),
        ("hmac-sha256", "body", "api"),
    ]
