"""GoCardless: the tables, days and amounts, signatures, and the traps that would cost somebody money."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Awaitable
from datetime import UTC, date, datetime
from typing import Any, TypeVar
from unittest.mock import patch

import httpx2 as httpx
import pytest

from portal import clock
from portal.gateways.base import (
    BadSignature,
    Declined,
    Failure,
    GatewayError,
    Gone,
    Interval,
    Line,
    Method,
    NextPayment,
    Ref,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import disagreements, facts
from portal.gateways.gocardless import Adapter
from portal.gateways.http import Http
from portal.money import Money

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
KEYS = {"access_token": "sandbox_-acmeJ5p9x2Qe7Lr4Tn8Vw1Zb6Yc", "webhook_secret": "endpoint-secret-0001"}
CLUB = Ref("subscription", "SB1")
PATH = "/subscriptions/SB1"
Result = TypeVar("Result")


@pytest.fixture(autouse=True)
def _a_morning_in_november() -> None:
    clock.set_offset(NOW - datetime.now(UTC))


# GoCardless as far as a test needs it


class Wire(Http):
    """Stands in for the client of a gateway: answers by method and path, and keeps what was asked."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[dict[str, Any]] = []

    async def aclose(self) -> None:
        pass

    async def call(self, method: str, host: str, path: str, **more: Any) -> httpx.Response:
        self.asked.append({"method": method, "host": host, "path": path, **more})
        answer = self.answers.get(f"{method} {path}", refused(404, "resource_not_found"))
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    @property
    def writes(self) -> list[str]:
        return [f"{one['method']} {one['path']}" for one in self.asked if one["method"] != "GET"]


def make_gateway(answers: Any = None, **credentials: str) -> tuple[Adapter, Wire]:
    wire = Wire(answers or {})
    with patch("portal.gateways.gocardless.Http", lambda gateway, name: wire):
        return Adapter({**KEYS, **credentials}), wire


def run(what: Awaitable[Result]) -> Result:
    async def main() -> Result:
        return await what

    return asyncio.run(main())


def refused(status: int, reason: str, **more: Any) -> httpx.Response:
    first = {"reason": reason, "message": "It can't be done", **more}
    said = {"type": "invalid_state", "code": status, "message": "It can't be done", "errors": [first]}
    return httpx.Response(status, json={"error": said})


def make_subscription(**changes: Any) -> dict[str, Any]:
    return {
        "id": "SB1",
        "created_at": "2026-08-20T09:30:00.000Z",
        "amount": 2400,
        "currency": "GBP",
        "status": "active",
        "name": "Coffee club",
        "start_date": "2026-09-01",
        "end_date": None,
        "interval": 1,
        "interval_unit": "monthly",
        "count": None,
        "upcoming_payments": [upcoming("2026-12-01"), upcoming("2027-01-04")],
        "links": {"mandate": "MD1"},
    } | changes


def upcoming(on: str, amount: Any = 2400) -> dict[str, Any]:
    return {"charge_date": on, "amount": amount}


def make_payment(**changes: Any) -> dict[str, Any]:
    return {
        "id": "PM1",
        "created_at": "2026-10-28T03:00:00.000Z",
        "charge_date": "2026-11-02",
        "amount": 2400,
        "amount_refunded": 0,
        "currency": "GBP",
        "description": "Coffee club",
        "status": "paid_out",
        "metadata": {},
        "links": {"mandate": "MD1", "creditor": "CR1", "subscription": "SB1"},
    } | changes


def make_order(**changes: Any) -> dict[str, Any]:
    return make_payment(description="Moka pot", links={"mandate": "MD1", "creditor": "CR1"}, **changes)


MANDATE = {"id": "MD1", "status": "active", "links": {"customer": "CU1", "customer_bank_account": "BA1"}}
BANK = {
    "id": "BA1",
    "bank_name": "BARCLAYS BANK PLC",
    "account_number_ending": "11",
    "links": {"customer": "CU1"},
}
CUSTOMER = {"id": "CU1", "email": "noor@example.com", "given_name": "Noor", "family_name": "Haddad"}


def listed(name: str, *rows: Any, after: str | None = None) -> dict[str, Any]:
    return {name: list(rows), "meta": {"cursors": {"before": None, "after": after}, "limit": 50}}


def failed_because(cause: str, at: str = "2026-11-03T00:00:00.000Z") -> dict[str, Any]:
    details = {"cause": cause, "description": f"It is {cause}.", "will_attempt_retry": False}
    return {"id": f"EV{cause}", "created_at": at, "action": "failed", "details": details, "links": {}}


def books(said: Any, *payments: Any, events: Any = (), **more: Any) -> dict[str, Any]:
    """What GoCardless answers about a subscription and what it hangs on."""
    said = [{"subscriptions": one} for one in said] if isinstance(said, list) else {"subscriptions": said}
    return {
        f"GET {PATH}": said,
        "GET /mandates/MD1": {"mandates": MANDATE},
        "GET /customer_bank_accounts/BA1": {"customer_bank_accounts": BANK},
        "GET /customers/CU1": {"customers": CUSTOMER},
        "GET /payments": listed("payments", *payments),
        "GET /events": listed("events", *events),
        "GET /refunds": listed("refunds"),
        **more,
    }


def look(said: Any, *payments: Any, **more: Any) -> SubscriptionRecord:
    gateway, _ = make_gateway(books(said, *payments, **more))
    return run(gateway.fetch(CLUB)).subscriptions[0]


def read(kind: Any, said: Any) -> Any:
    return Adapter.read(kind, said)


def knows(record: Any) -> set[str]:
    return set(record.knows or ())


# Facts


def test_facts_and_adapter_agree() -> None:
    assert disagreements("gocardless", Adapter) == []


def test_nobody_is_ever_sent_anywhere() -> None:
    assert facts("gocardless").hosts.links == []


# Which door, and with what in hand


@pytest.mark.parametrize(
    ("token", "host"),
    [
        ("sandbox_x", "api-sandbox.gocardless.com"),
        ("live_x", "api.gocardless.com"),
        ("live_sandbox_x", "api.gocardless.com"),
        ("", "api.gocardless.com"),
    ],
)
def test_prefix_of_the_token_chooses_the_environment(token: str, host: str) -> None:
    gateway, wire = make_gateway({"GET /creditors": listed("creditors")}, access_token=token)
    assert run(gateway.check()).live is (host == "api.gocardless.com")
    assert wire.asked[0]["host"] == host
    assert host in facts("gocardless").hosts.calls


def test_every_call_names_the_version_and_only_writes_have_a_key() -> None:
    paused = make_subscription(status="paused", upcoming_payments=[])
    gateway, wire = make_gateway(books(paused, **{f"POST {PATH}/actions/pause": {"subscriptions": paused}}))
    run(gateway.pause(CLUB, "portal-7"))
    for one in wire.asked:
        assert one["headers"]["GoCardless-Version"] == "2015-07-06"
        assert one["headers"]["Authorization"] == f"Bearer {KEYS['access_token']}"
        assert ("Idempotency-Key" in one["headers"]) is (one["method"] != "GET")
    (write,) = [one for one in wire.asked if one["method"] == "POST"]
    assert write["json"] == {"data": {}}, "actions take their fields under data, not under the object's name"
    assert write["headers"]["Idempotency-Key"] == "portal-7-SB1"


@pytest.mark.parametrize("remote_id", ["", "..", "SB1/actions/cancel", "SB1?x=1", "SB 1", "ü"])
def test_id_that_could_leave_its_place_in_the_path_is_never_asked_for(remote_id: str) -> None:
    gateway, wire = make_gateway()
    for kind in ("subscription", "payment", "refund", "customer", "order"):
        with pytest.raises(Gone):
            run(gateway.fetch(Ref(kind, remote_id)))
    assert wire.asked == []


def test_there_are_no_invoices() -> None:
    gateway, wire = make_gateway()
    with pytest.raises(Gone):
        run(gateway.fetch(Ref("invoice", "IN1")))
    with pytest.raises(Unsupported):
        read("invoice", {"id": "IN1"})
    assert wire.asked == []


# Amounts and days


@pytest.mark.parametrize(
    ("amount", "currency", "money"),
    [
        (2400, "GBP", Money(2400, "GBP")),
        ("2400", "EUR", Money(2400, "EUR")),  # billing requests write amounts as text
        (0, "SEK", Money(0, "SEK")),
        (24.5, "GBP", None),
        ("24.00", "GBP", None),
        (2400, None, None),
        (None, "GBP", None),
    ],
)
def test_amounts_are_whole_minor_units(amount: Any, currency: Any, money: Money | None) -> None:
    assert read("subscription", make_subscription(amount=amount, currency=currency)).amount == money
    assert read("payment", make_payment(amount=amount, currency=currency)).amount == money


@pytest.mark.parametrize(
    ("unit", "count", "interval"),
    [
        ("weekly", 2, Interval("week", 2)),
        ("monthly", 1, Interval("month")),
        ("yearly", "1", Interval("year")),
        ("monthly", 0, None),
        ("monthly", None, None),
        ("hourly", 1, None),
    ],
)
def test_intervals(unit: str, count: Any, interval: Interval | None) -> None:
    assert read("subscription", make_subscription(interval_unit=unit, interval=count)).interval == interval


def test_day_without_a_zone_is_noon_of_it() -> None:
    assert read("subscription", make_subscription()).started_at == datetime(2026, 9, 1, 12, tzinfo=UTC)
    assert read("payment", make_payment()).paid_at == datetime(2026, 11, 2, 12, tzinfo=UTC)
    assert read("payment", make_payment(charge_date="soon")).paid_at is None
    assert read("payment", make_payment(charge_date=None)).paid_at is None


# What the words for states mean


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        ("pending_customer_approval", "incomplete"),
        ("customer_approval_denied", "cancelled"),
        ("active", "active"),
        ("paused", "paused"),
        ("finished", "expired"),
        ("cancelled", "cancelled"),
        ("dormant", None),
    ],
)
def test_status_of_a_subscription(raw: str, status: str | None) -> None:
    record = look(make_subscription(status=raw))
    assert (record.status, record.raw_status) == (status, raw)
    lives = raw in ("pending_customer_approval", "active", "paused")
    assert (record.next_payment is not None) is lives
    assert ("next_payment" in knows(record)) is (status is not None)
    assert ("current_period_end" in knows(record)) is (raw == "active"), "until when was paid stays known"


@pytest.mark.parametrize(
    ("raw", "status", "order"),
    [
        ("pending_customer_approval", "pending", "open"),
        ("pending_submission", "pending", "open"),
        ("submitted", "pending", "open"),
        ("confirmed", "paid", "paid"),
        ("paid_out", "paid", "paid"),
        ("failed", "failed", "failed"),
        ("charged_back", "disputed", "paid"),
        ("cancelled", "cancelled", "cancelled"),
        ("customer_approval_denied", "cancelled", "cancelled"),
        ("vanished", None, None),
    ],
)
def test_status_of_a_payment_and_of_the_order_that_it_is(
    raw: str, status: str | None, order: str | None
) -> None:
    said = make_order(status=raw)
    assert (read("payment", said).status, read("order", said).status) == (status, order)
    assert read("payment", said).raw_status == read("order", said).raw_status == raw
    taken = raw in ("confirmed", "paid_out", "charged_back")
    assert (read("payment", said).paid_at is not None) is taken, "what is on its way is not paid"


@pytest.mark.parametrize(
    ("back", "raw", "status"),
    [
        (0, "paid_out", "paid"),
        (1000, "paid_out", "partially_refunded"),
        (2400, "confirmed", "refunded"),
        (1000, "failed", "failed"),  # it failed late, after a refund
    ],
)
def test_refunds_show_in_the_status_of_a_payment(back: int, raw: str, status: str) -> None:
    record = read("payment", make_payment(status=raw, amount_refunded=back))
    assert (record.status, record.refunded) == (status, Money(back, "GBP"))


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        *((word, "pending") for word in ("created", "pending_submission", "submitted")),
        ("paid", "sent"),
        ("cancelled", "cancelled"),
        ("bounced", "failed"),
        ("funds_returned", "failed"),
        ("lost", None),
        (None, None),  # older answers have none
    ],
)
def test_status_of_a_refund(raw: str | None, status: str | None) -> None:
    said = {"id": "RF1", "amount": 1000, "currency": "GBP", "status": raw, "links": {"payment": "PM1"}}
    record = read("refund", {"refunds": {**said, "reference": "Broken"}})
    assert (record.status, record.payment, record.amount) == (status, "PM1", Money(1000, "GBP"))
    assert (record.reason, "status" in knows(record)) == ("Broken", status is not None)


# Past due is not a word of theirs


OWED = Money(2400, "GBP")


@pytest.mark.parametrize(
    ("newest", "status", "due"),
    [
        ("paid_out", "active", None),
        ("confirmed", "active", None),
        ("failed", "past_due", OWED),
        ("charged_back", "past_due", None),
        ("cancelled", "past_due", OWED),  # tells nothing of how things stand: the one before does
        ("pending_submission", "past_due", OWED),
        ("tomorrow's word", "past_due", OWED),
    ],
)
def test_active_one_is_past_due_when_the_newest_payment_of_known_fate_failed(
    newest: str, status: str, due: Money | None
) -> None:
    older = make_payment(id="PM0", status="failed", charge_date="2026-10-01")
    record = look(make_subscription(), older, make_payment(status=newest))
    assert (record.status, record.due) == (status, due)


def test_without_payments_nothing_is_due() -> None:
    record = look(make_subscription())
    assert (record.status, record.due) == ("active", None)
    assert "due" in knows(record)


def test_a_retry_under_way_is_no_debt_any_more() -> None:
    retried = make_payment(status="pending_submission", charge_date="2026-11-30")
    record = look(make_subscription(), retried, make_payment(id="PM0", charge_date="2026-10-01"))
    assert (record.status, record.due) == ("active", None)


def test_a_debt_stays_while_the_next_payment_is_on_its_way() -> None:
    following = make_payment(id="PM2", status="submitted", charge_date="2026-12-01")
    record = look(make_subscription(), following, make_payment(status="failed"))
    assert (record.status, record.due) == ("past_due", Money(2400, "GBP"))


def test_it_is_paid_only_until_the_day_of_the_payment_that_failed() -> None:
    record = look(make_subscription(), make_payment(status="failed"))
    assert record.current_period_end == datetime(2026, 11, 2, 12, tzinfo=UTC)
    assert record.next_payment == NextPayment(date(2026, 12, 1), Money(2400, "GBP"), "fixed")


@pytest.mark.parametrize("raw", ["paused", "cancelled", "finished"])
def test_what_is_not_active_is_not_past_due(raw: str) -> None:
    record = look(make_subscription(status=raw), make_payment(status="failed"))
    assert record.status != "past_due"
    assert record.due is None


# Payments are made ahead


def test_payment_that_is_made_is_the_next_one_with_its_own_amount() -> None:
    made = make_payment(id="PM2", status="pending_submission", charge_date="2026-11-27", amount=1800)
    record = look(make_subscription(amount=2600), made, make_payment())
    assert record.next_payment == NextPayment(date(2026, 11, 27), Money(1800, "GBP"), "fixed")
    assert record.current_period_end == datetime(2026, 11, 27, 12, tzinfo=UTC)


def test_payment_that_a_bank_has_already_counts_as_paid() -> None:
    sent = make_payment(id="PM2", status="submitted", charge_date="2026-11-26")
    record = look(make_subscription(), sent, make_payment())
    assert record.next_payment == NextPayment(date(2026, 11, 26), Money(2400, "GBP"), "fixed")
    assert record.current_period_end == datetime(2026, 12, 1, 12, tzinfo=UTC)


def test_payment_whose_day_has_been_is_not_the_next_one() -> None:
    sent = make_payment(id="PM2", status="submitted", charge_date="2026-11-23")
    assert look(make_subscription(), sent).next_payment == NextPayment(
        date(2026, 12, 1), Money(2400, "GBP"), "fixed"
    )


def test_upcoming_payments_may_come_in_any_order_and_without_a_day() -> None:
    said = make_subscription(
        upcoming_payments=[upcoming("2027-01-04"), {"amount": 1}, upcoming("2026-12-01")]
    )
    record = read("subscription", said)
    assert record.next_payment.on == date(2026, 12, 1)


def test_paused_for_some_cycles_says_when_it_goes_on_and_paused_for_good_does_not() -> None:
    some = look(make_subscription(status="paused", upcoming_payments=[upcoming("2027-01-04")]))
    assert some.resumes_at == datetime(2027, 1, 4, 12, tzinfo=UTC)
    assert some.next_payment is not None
    said = make_subscription(status="paused", upcoming_payments=[])
    good = look({**said, "earliest_charge_date_after_resume": "2026-12-01"})
    assert (good.resumes_at, good.next_payment) == (None, None)
    assert {"resumes_at", "next_payment"} <= knows(good)


# How they pay


@pytest.mark.parametrize("ending", ["11", "1142", None])
def test_bank_account_shows_two_digits_or_four(ending: str | None) -> None:
    bank = {
        "GET /customer_bank_accounts/BA1": {
            "customer_bank_accounts": {**BANK, "account_number_ending": ending}
        }
    }
    method = Method("bank_debit", "BARCLAYS BANK PLC", ending, None, "MD1")
    assert look(make_subscription(), **bank).method == method


@pytest.mark.parametrize(
    ("status", "token"),
    [
        *(
            (word, "MD1")
            for word in ("pending_customer_approval", "pending_submission", "submitted", "active")
        ),
        *(
            (word, None)
            for word in ("suspended_by_payer", "failed", "cancelled", "expired", "consumed", "blocked")
        ),
        ("renamed", "MD1"),
    ],
)
def test_mandate_is_a_token_while_it_can_be_charged(status: str, token: str | None) -> None:
    record = look(make_subscription(), **{"GET /mandates/MD1": {"mandates": {**MANDATE, "status": status}}})
    assert record.method is not None
    assert record.method.remote_id == token


def test_mandate_or_bank_account_that_is_gone_leaves_the_rest() -> None:
    for gone in ("GET /mandates/MD1", "GET /customer_bank_accounts/BA1"):
        record = look(make_subscription(), **{gone: refused(410, "customer_data_removed")})
        assert record.title == "Coffee club"
        assert record.method is not None
        assert record.method.brand is None


def test_payment_read_alone_was_taken_from_a_bank_account() -> None:
    assert read("payment", make_payment()).method == Method("bank_debit")


def test_object_read_alone_says_nothing_of_what_only_others_tell() -> None:
    record = read("subscription", {"subscriptions": make_subscription()})
    assert not {"customer", "method", "due"} & knows(record)
    assert (record.remote_id, record.title) == ("SB1", "Coffee club")
    assert record.created_at == datetime(2026, 8, 20, 9, 30, tzinfo=UTC)


# Orders, customers, and whose things are


def test_payment_of_a_subscription_is_no_order() -> None:
    assert (read("payment", make_payment()).order, read("payment", make_payment()).subscription) == (
        None,
        "SB1",
    )
    with pytest.raises(ValueError, match="no order of its own"):
        read("order", make_payment())


@pytest.mark.parametrize(
    ("metadata", "number"),
    [({"order_number": "A-17"}, "A-17"), ({"order_id": "17"}, "17"), ({"colour": "red"}, None), ([], None)],
)
def test_order_is_one_line_of_its_description(metadata: Any, number: str | None) -> None:
    order = read("order", {"payments": make_order(metadata=metadata)})
    assert order.lines == (Line("Moka pot", 1, Money(2400, "GBP")),)
    assert (order.number, order.title, order.amount) == (number, "Moka pot", Money(2400, "GBP"))
    assert read("payment", make_order()).order == "PM1"


def test_order_without_a_description_or_an_amount() -> None:
    order = read("order", make_order() | {"description": None})
    assert order.lines == (Line("–", 1, Money(2400, "GBP")),)
    assert read("order", make_order(amount=None)).lines == ()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "Noor Haddad"),
        ({"given_name": None}, "Haddad"),
        ({"given_name": None, "family_name": None, "company_name": "Acme Ltd"}, "Acme Ltd"),
        ({"given_name": None, "family_name": None}, None),
    ],
)
def test_customer_is_a_person_or_a_company(changes: dict[str, Any], name: str | None) -> None:
    record = read("customer", {"customers": {**CUSTOMER, **changes}})
    assert (record.name, record.email, record.remote_id) == (name, "noor@example.com", "CU1")
    assert knows(record) >= {"name", "email"}


def test_subscription_comes_with_its_customer_and_payments() -> None:
    gateway, wire = make_gateway(books(make_subscription(), make_payment()))
    snapshot = run(gateway.fetch(CLUB))
    assert [one.email for one in snapshot.customers] == ["noor@example.com"]
    assert [(one.remote_id, one.customer, one.subscription) for one in snapshot.payments] == [
        ("PM1", "CU1", "SB1")
    ]
    assert snapshot.subscriptions[0].customer == "CU1"
    params = next(one["params"] for one in wire.asked if one["path"] == "/payments")
    assert params == {"subscription": "SB1", "limit": "500"}


def test_payment_comes_with_its_refunds_its_subscription_and_why_it_failed() -> None:
    refund = {"id": "RF1", "amount": 1000, "currency": "GBP", "status": "paid", "links": {"payment": "PM1"}}
    events = (
        failed_because("insufficient_funds", "2026-11-05T00:00:00.000Z"),
        failed_because("refer_to_payer", "2026-11-03T00:00:00.000Z"),
    )
    failed = make_payment(status="failed")
    answers = books(make_subscription(), failed, events=events, **{"GET /refunds": listed("refunds", refund)})
    gateway, wire = make_gateway(answers | {"GET /payments/PM1": {"payments": failed}})
    snapshot = run(gateway.fetch(Ref("payment", "PM1")))
    (payment,) = snapshot.payments
    assert payment.failure == Failure("insufficient_funds", "It is insufficient_funds.")
    assert [one.remote_id for one in snapshot.refunds] == ["RF1"]
    assert snapshot.subscriptions[0].status == "past_due"
    assert [one.remote_id for one in snapshot.customers] == ["CU1"]
    asked = next(one["params"] for one in wire.asked if one["path"] == "/events")
    assert asked == {"payment": "PM1", "action": "failed"}


def test_why_it_failed_is_left_as_it_is_known_where_nothing_tells() -> None:
    answers = books(make_subscription(), make_payment(status="failed"))
    gateway, _ = make_gateway(answers | {"GET /payments/PM1": {"payments": make_payment(status="failed")}})
    (payment,) = run(gateway.fetch(Ref("payment", "PM1"))).payments
    assert "failure" not in knows(payment)


def test_refund_comes_with_its_payment_and_one_without_stands_alone() -> None:
    refund = {"id": "RF1", "amount": 1000, "currency": "GBP", "status": "paid", "links": {"payment": "PM1"}}
    answers = books(make_subscription()) | {"GET /payments/PM1": {"payments": make_order()}}
    gateway, _ = make_gateway(answers | {"GET /refunds/RF1": {"refunds": refund}})
    snapshot = run(gateway.fetch(Ref("refund", "RF1")))
    assert [one.remote_id for one in (*snapshot.refunds, *snapshot.payments, *snapshot.orders)] == [
        *("RF1", "PM1", "PM1"),
    ]
    alone = {**refund, "links": {"mandate": "MD1"}}
    gateway, _ = make_gateway({"GET /refunds/RF1": {"refunds": alone}})
    snapshot = run(gateway.fetch(Ref("refund", "RF1")))
    assert (len(snapshot.refunds), snapshot.payments) == (1, ())


# Answers that can't be trusted


@pytest.mark.parametrize(
    "said",
    [
        {},
        [[]],
        {"subscriptions": []},
        {"subscriptions": {**make_subscription(), "id": "SB2"}},
        {"subscriptions": {"id": 7}},
        {"subscriptions": make_subscription(upcoming_payments="soon")},
    ],
)
def test_answer_that_is_not_what_was_asked_for_is_an_outage(said: Any) -> None:
    gateway, _ = make_gateway(books(make_subscription()) | {f"GET {PATH}": said})
    with pytest.raises(Unavailable):
        run(gateway.fetch(CLUB))


@pytest.mark.parametrize(
    "said",
    [
        {"payments": []},
        {"payments": [], "meta": {"cursors": {}}},
        {"payments": {}, "meta": {"cursors": {"after": None}}},
        {"payments": [{"id": 7}], "meta": {"cursors": {"after": None}}},
        {"payments": ["PM1"], "meta": {"cursors": {"after": None}}},
    ],
)
def test_list_that_is_not_whole_is_no_empty_one(said: Any) -> None:
    gateway, _ = make_gateway(books(make_subscription()) | {"GET /payments": said})
    with pytest.raises(Unavailable):
        run(gateway.fetch(CLUB))


@pytest.mark.parametrize("kind", ["customer", "order", "subscription", "payment", "refund"])
@pytest.mark.parametrize("said", [{}, [], "x", None, {"id": 7}, {"id": "XX1"}, {"id": "SB/../1"}])
def test_what_is_no_such_object_is_said_to_be_none(kind: str, said: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read(kind, said)


# Refusals


@pytest.mark.parametrize(
    ("answer", "error", "hint"),
    [
        (refused(401, "access_token_revoked"), Unavailable, "access_token_revoked"),
        (refused(403, "insufficient_permissions"), Unsupported, "read-write"),
        (refused(403, "forbidden"), Unsupported, "app"),
        (refused(404, "resource_not_found"), Gone, "resource_not_found"),
        (refused(409, "bank_account_exists"), Unavailable, "409"),
        (refused(422, "subscription_cannot_be_paused"), Declined, "subscription_cannot_be_paused"),
        (refused(429, "rate_limit_exceeded"), Unavailable, "429"),
        (refused(500, "internal_server_error"), Unavailable, "500"),
        (httpx.Response(502, text="<html>Bad gateway</html>"), Unavailable, "502"),
        (httpx.Response(422, json={"error": "no"}), Declined, "422"),
    ],
)
def test_refusals_are_the_five_errors(answer: Any, error: type[GatewayError], hint: str) -> None:
    answers = books(make_subscription(), **{f"POST {PATH}/actions/pause": answer})
    gateway, _ = make_gateway(answers)
    with pytest.raises(error, match=hint) as caught:
        run(gateway.pause(CLUB, "key"))
    assert caught.value.customer
    assert KEYS["access_token"] not in caught.value.hint


def test_validation_names_the_field_and_a_refusal_its_reason() -> None:
    said = {"type": "validation_failed", "code": 422, "message": "Validation failed"}
    answer = httpx.Response(
        422, json={"error": {**said, "errors": [{"field": "amount", "message": "is too low"}]}}
    )
    gateway, _ = make_gateway(books(make_subscription(), **{f"PUT {PATH}": answer}))
    with pytest.raises(Declined, match="validation_failed amount is too low") as caught:
        run(gateway.change_plan(CLUB, {"amount": Money(1, "GBP")}, "", "key"))
    assert caught.value.reason == "validation_failed"


@pytest.mark.parametrize(("status", "sent"), [(500, True), (409, True), (429, False), (401, False)])
def test_effect_that_may_have_happened_is_said(status: int, sent: bool) -> None:
    answers = books(make_subscription(), **{f"POST {PATH}/actions/pause": refused(status, "x")})
    gateway, _ = make_gateway(answers)
    with pytest.raises(Unavailable) as caught:
        run(gateway.pause(CLUB, "key"))
    assert caught.value.sent is sent


def test_failure_to_look_after_a_call_is_not_a_failure_of_the_call() -> None:
    paused = {"subscriptions": make_subscription(status="paused")}
    answers = books(make_subscription(), **{f"POST {PATH}/actions/pause": paused})
    gateway, _ = make_gateway(answers | {f"GET {PATH}": refused(500, "x")})
    with pytest.raises(Unavailable) as caught:
        run(gateway.pause(CLUB, "key"))
    assert caught.value.sent


# Keys


@pytest.mark.parametrize("status", [401, 403])
def test_refused_token_is_told_and_not_raised(status: int) -> None:
    gateway, _ = make_gateway({"GET /creditors": refused(status, "unauthorized")})
    health = run(gateway.check())
    assert (health.ok, health.live) == (False, False)
    assert health.hint is not None
    assert str(status) in health.hint


@pytest.mark.parametrize("status", [429, 500, 408])
def test_outage_is_no_bad_token(status: int) -> None:
    gateway, _ = make_gateway({"GET /creditors": refused(status, "HTTP 401")})
    with pytest.raises(Unavailable):
        run(gateway.check())


def test_good_token_names_the_shop() -> None:
    gateway, _ = make_gateway({"GET /creditors": listed("creditors", {"id": "CR1", "name": "Acme Ltd"})})
    health = run(gateway.check())
    assert (health.ok, health.account, health.hint) == (True, "Acme Ltd", None)


# Wishes


def test_cancel_calls_off_what_no_bank_has_yet() -> None:
    made = make_payment(id="PM2", status="pending_submission", charge_date="2026-12-01")
    ended = make_subscription(status="cancelled", upcoming_payments=[])
    answers = books(
        [make_subscription(), ended],
        **{
            "POST /payments/PM2/actions/cancel": {"payments": {}},
            f"POST {PATH}/actions/cancel": {"subscriptions": ended},
        },
    )
    answers["GET /payments"] = [
        listed("payments", made, make_payment()),
        listed("payments", {**made, "status": "cancelled"}, make_payment()),
    ]
    gateway, wire = make_gateway(answers)
    snapshot = run(gateway.cancel_now(CLUB, "key"))
    assert wire.writes == ["POST /payments/PM2/actions/cancel", f"POST {PATH}/actions/cancel"]
    assert (snapshot.subscriptions[0].status, snapshot.tell) == ("cancelled", "")
    keys = [one["headers"]["Idempotency-Key"] for one in wire.asked if one["method"] == "POST"]
    assert keys == ["key-PM2", "key-SB1"]


def test_cancel_never_calls_off_a_debt() -> None:
    retried = make_payment(status="pending_submission", charge_date="2026-11-30")
    ended = make_subscription(status="cancelled", upcoming_payments=[])
    answers = books(
        [make_subscription(), ended],
        retried,
        events=(failed_because("refer_to_payer"),),
        **{f"POST {PATH}/actions/cancel": {"subscriptions": ended}},
    )
    gateway, wire = make_gateway(answers)
    snapshot = run(gateway.cancel_now(CLUB, "key"))
    assert wire.writes == [f"POST {PATH}/actions/cancel"]
    assert "PM1" in snapshot.tell


@pytest.mark.parametrize("status", ["submitted", "pending_submission"])
def test_what_a_cancel_comes_too_late_for_is_told_to_the_shop(status: str) -> None:
    late = make_payment(id="PM2", status=status, charge_date="2026-11-26")
    ended = make_subscription(status="cancelled", upcoming_payments=[])
    answers = books([make_subscription(), ended], late, make_payment())
    answers |= {"POST /payments/PM2/actions/cancel": refused(422, "cancellation_failed")}
    answers |= {f"POST {PATH}/actions/cancel": {"subscriptions": ended}}
    answers |= {"GET /payments/PM2": {"payments": {**late, "status": "submitted"}}}
    gateway, _ = make_gateway(answers)
    snapshot = run(gateway.cancel_now(CLUB, "key"))
    assert snapshot.subscriptions[0].status == "cancelled"
    assert "PM2" in snapshot.tell
    assert "PM1" not in snapshot.tell


def test_outage_while_payments_are_called_off_leaves_the_subscription_for_another_try() -> None:
    made = make_payment(id="PM2", status="pending_submission", charge_date="2026-12-01")
    answers = books(make_subscription(), made, **{"POST /payments/PM2/actions/cancel": refused(500, "x")})
    gateway, wire = make_gateway(answers)
    with pytest.raises(Unavailable) as caught:
        run(gateway.cancel_now(CLUB, "key"))
    assert caught.value.sent
    assert wire.writes == ["POST /payments/PM2/actions/cancel"]


def test_second_cancel_is_success_and_changes_nothing() -> None:
    gateway, wire = make_gateway(books(make_subscription(status="cancelled"), make_payment()))
    assert run(gateway.cancel_now(CLUB, "key")).subscriptions[0].status == "cancelled"
    assert wire.writes == []


def test_refusal_because_it_is_done_is_done_and_any_other_is_not() -> None:
    ended = make_subscription(status="cancelled")
    no = {f"POST {PATH}/actions/cancel": refused(422, "cancellation_failed")}
    gateway, _ = make_gateway(books([make_subscription(), ended], **no))
    assert run(gateway.cancel_now(CLUB, "key")).subscriptions[0].status == "cancelled"
    gateway, _ = make_gateway(books(make_subscription(), **no))
    with pytest.raises(Declined, match="cancellation_failed"):
        run(gateway.cancel_now(CLUB, "key"))


def test_skip_is_a_pause_of_one_cycle() -> None:
    skipped = make_subscription(status="paused", upcoming_payments=[upcoming("2027-01-04")])
    answers = books(skipped, make_payment(), **{f"POST {PATH}/actions/pause": {"subscriptions": skipped}})
    gateway, wire = make_gateway(answers)
    record = run(gateway.skip_next_payment(CLUB, "key")).subscriptions[0]
    assert [one["json"] for one in wire.asked if one["method"] == "POST"] == [{"data": {"pause_cycles": 1}}]
    assert record.next_payment is not None
    assert record.next_payment.on == date(2027, 1, 4)


@pytest.mark.parametrize("status", ["pending_customer_approval", "pending_submission", "submitted"])
def test_payment_that_is_made_already_is_not_skipped(status: str) -> None:
    made = make_payment(id="PM2", status=status, charge_date="2026-11-24")
    gateway, wire = make_gateway(books(make_subscription(), made))
    with pytest.raises(Unsupported, match="made already"):
        run(gateway.skip_next_payment(CLUB, "key"))
    assert wire.writes == []


def test_second_try_of_a_skip_leaves_out_one_payment() -> None:
    skipped = make_subscription(status="paused", upcoming_payments=[upcoming("2027-01-04")])
    no = refused(422, "subscription_paused_cannot_update_cycles")
    gateway, _ = make_gateway(books(skipped, make_payment(), **{f"POST {PATH}/actions/pause": no}))
    assert run(gateway.skip_next_payment(CLUB, "key")).subscriptions[0].status == "paused"


def test_amount_is_changed_in_minor_units_under_the_name_of_the_object() -> None:
    now = make_subscription(amount=3600)
    gateway, wire = make_gateway(books([make_subscription(), now], **{f"PUT {PATH}": {"subscriptions": now}}))
    wish = {"amount": Money(3600, "GBP"), "interval": Interval("month"), "quantity": None}
    answer = run(gateway.change_plan(CLUB, wish, "", "key"))
    assert isinstance(answer, Snapshot)
    assert answer.subscriptions[0].amount == Money(3600, "GBP")
    (write,) = [one for one in wire.asked if one["method"] == "PUT"]
    assert write["json"] == {"subscriptions": {"amount": 3600}}


def test_amount_that_is_so_already_costs_none_of_the_ten_changes() -> None:
    gateway, wire = make_gateway(books(make_subscription()))
    run(gateway.change_plan(CLUB, {"amount": Money(2400, "GBP")}, "", "key"))
    assert wire.writes == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"amount": Money(3600, "EUR")}, make_subscription()),
        ({"amount": Money(3600, "GBP"), "interval": Interval("year")}, make_subscription()),
        ({"amount": Money(3600, "GBP"), "plan": "gold"}, make_subscription()),
        ({"amount": Money(3600, "GBP"), "quantity": 2}, make_subscription()),
        ({"interval": Interval("month")}, make_subscription()),
        ({}, make_subscription()),
        ({"amount": Money(3600, "GBP")}, make_subscription(status="paused")),
        ({"amount": Money(3600, "GBP")}, make_subscription(amount=None)),
    ],
)
def test_change_that_gocardless_cannot_make_is_refused_here(change: dict[str, Any], said: Any) -> None:
    gateway, wire = make_gateway(books(said))
    with pytest.raises(Unsupported):
        run(gateway.change_plan(CLUB, change, "", "key"))
    assert wire.writes == []


def test_what_is_open_is_the_same_payment_sent_once_more() -> None:
    answers = books(make_subscription(), **{"POST /payments/PM1/actions/retry": {"payments": {}}})
    answers["GET /payments"] = [
        listed("payments", make_payment(status="failed")),
        listed("payments", make_payment(status="pending_submission", charge_date="2026-11-30")),
    ]
    gateway, wire = make_gateway(answers)
    answer = run(gateway.pay_now(CLUB, "", "key"))
    assert wire.writes == ["POST /payments/PM1/actions/retry"]
    assert isinstance(answer, Snapshot)
    assert (answer.subscriptions[0].status, answer.subscriptions[0].due) == ("active", None)


@pytest.mark.parametrize("status", ["charged_back", "pending_submission", "paid_out"])
def test_nothing_is_retried_that_did_not_fail(status: str) -> None:
    gateway, wire = make_gateway(books(make_subscription(), make_payment(status=status)))
    run(gateway.pay_now(CLUB, "", "key"))
    assert wire.writes == []


def test_retry_that_was_faster_elsewhere_is_no_failure() -> None:
    answers = books(make_subscription(), make_payment(status="failed"))
    answers |= {"POST /payments/PM1/actions/retry": refused(422, "retry_failed")}
    answers |= {"GET /payments/PM1": {"payments": make_payment(status="submitted")}}
    gateway, _ = make_gateway(answers)
    run(gateway.pay_now(CLUB, "", "key"))
    gateway, _ = make_gateway(answers | {"GET /payments/PM1": {"payments": make_payment(status="failed")}})
    with pytest.raises(Declined, match="retry_failed"):
        run(gateway.pay_now(CLUB, "", "key"))


def test_resume_of_what_goes_on_already_is_done() -> None:
    no = {f"POST {PATH}/actions/resume": refused(422, "subscription_not_paused")}
    gateway, _ = make_gateway(books(make_subscription(), **no))
    assert run(gateway.resume(CLUB, "key")).subscriptions[0].status == "active"
    gateway, _ = make_gateway(books(make_subscription(status="cancelled"), **no))
    with pytest.raises(Declined):
        run(gateway.resume(CLUB, "key"))


# Webhooks


def make_event(**changes: Any) -> dict[str, Any]:
    return {
        "id": "EV1",
        "created_at": "2026-11-03T08:00:00.000Z",
        "resource_type": "payments",
        "action": "failed",
        "links": {"payment": "PM1"},
        "details": {"origin": "bank", "cause": "refer_to_payer", "scheme": "bacs"},
        "metadata": {},
    } | changes


def delivered(*events: Any, secret: str = KEYS["webhook_secret"]) -> tuple[list[tuple[str, str]], bytes]:
    body = json.dumps({"events": list(events), "meta": {"webhook_id": "WB1"}}).encode()
    return [("Webhook-Signature", sign(body, secret))], body


def sign(body: bytes, secret: str = KEYS["webhook_secret"]) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def verify(headers: list[tuple[str, str]], body: bytes, **credentials: str) -> Any:
    return Adapter({**KEYS, **credentials}).verify(headers, body, NOW)


@pytest.mark.parametrize(
    ("changes", "kind", "subject"),
    [
        ({}, "payments.failed", Ref("payment", "PM1")),
        (
            {"resource_type": "refunds", "action": "paid", "links": {"refund": "RF1"}},
            "refunds.paid",
            Ref("refund", "RF1"),
        ),
        (
            {
                "resource_type": "subscriptions",
                "action": "amended",
                "links": {"subscription": "SB1", "payment": "PM9"},
            },
            "subscriptions.amended",
            Ref("subscription", "SB1"),
        ),
        ({"resource_type": "mandates", "links": {"mandate": "MD1"}}, "mandates.failed", None),
        ({"resource_type": "payouts", "links": {"payout": "PO1"}}, "payouts.failed", None),
        ({"resource_type": "tomorrow"}, "tomorrow.failed", None),
        ({"links": {}}, "payments.failed", None),
    ],
)
def test_event_is_about_the_object_that_it_names(changes: Any, kind: str, subject: Ref | None) -> None:
    (event,) = verify(*delivered(make_event(**changes)))
    assert (event.id, event.type, event.subject) == ("EV1", kind, subject)
    assert event.occurred_at == datetime(2026, 11, 3, 8, tzinfo=UTC)
    assert event.body["cause"] == "refer_to_payer"
    json.dumps(dict(event.body))


def test_one_delivery_holds_many_events() -> None:
    found = verify(*delivered(*(make_event(id=f"EV{number}") for number in range(250))))
    assert [one.id for one in found] == [f"EV{number}" for number in range(250)]
    assert verify(*delivered()) == []


def test_known_signature_of_a_known_body() -> None:
    signature = "68b812f8b17b2607e4cf5e1d96828b45c99377dc2a2786aeec62f3969e41f50f"  # by openssl dgst -hmac
    assert verify([("webhook-signature", signature)], b'{"events":[]}') == [], "names of headers have no case"


def test_verify_needs_the_secret_alone() -> None:
    headers, body = delivered(make_event())
    assert len(Adapter({"webhook_secret": KEYS["webhook_secret"]}).verify(headers, body, NOW)) == 1


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([], b'{"events":[]}'),
        ([("Webhook-Signature", "")], b'{"events":[]}'),
        ([("Webhook-Signature", sign(b"{}").upper())], b"{}"),
        ([("Webhook-Signature", sign(b"{}"))], b'{"events":[]}'),
        ([("Webhook-Signature", sign(b"{}")), ("webhook-signature", sign(b"{}"))], b"{}"),
        ([("Webhook-Signature", sign(b"{}", "another"))], b"{}"),
        ([("Webhook-Signature", sign(b"not json"))], b"not json"),
        ([("Webhook-Signature", sign(b"[]"))], b"[]"),
        ([("Webhook-Signature", sign(b"{}"))], b"{}"),
        ([("Webhook-Signature", sign(b'{"events":7}'))], b'{"events":7}'),
        ([("Webhook-Signature", sign(b'{"events":[{"id":"EV1"}]}'))], b'{"events":[{"id":"EV1"}]}'),
    ],
)
def test_delivery_that_proves_nothing_is_refused(headers: list[tuple[str, str]], body: bytes) -> None:
    with pytest.raises(BadSignature):
        verify(headers, body)


def test_without_a_secret_nothing_is_proved() -> None:
    body = b'{"events":[]}'
    with pytest.raises(BadSignature):
        verify([("Webhook-Signature", sign(body, ""))], body, webhook_secret="")


def test_events_are_read_from_a_delivery_or_one_by_one() -> None:
    whole = read("event", {"events": [make_event(), make_event(id="EV2")]})
    assert [one.id for one in whole] == ["EV1", "EV2"]
    assert [one.id for one in read("event", make_event())] == ["EV1"]
    with pytest.raises(ValueError, match="event"):
        read("event", {"id": "PM1"})
    with pytest.raises(ValueError, match="object"):
        read("event", [])


def test_event_is_looked_after_at_gocardless_and_not_believed() -> None:
    (event,) = verify(*delivered(make_event()))
    answers = books(make_subscription(), make_payment()) | {"GET /payments/PM1": {"payments": make_payment()}}
    gateway, _ = make_gateway(answers)
    snapshot = run(gateway.refetch(event))
    assert snapshot is not None
    assert snapshot.payments[0].status == "paid"
    (other,) = verify(*delivered(make_event(resource_type="payouts", links={"payout": "PO1"})))
    assert run(gateway.refetch(other)) is None


def test_nobody_is_found_by_address() -> None:
    gateway, wire = make_gateway()
    assert run(gateway.find("noor@example.com")) == []
    assert wire.asked == []
