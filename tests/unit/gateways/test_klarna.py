"""The Klarna adapter against answers written by hand from Klarna's documents: one test for each of its oddities."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
from collections.abc import Coroutine
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any, TypeVar
from unittest.mock import patch

import httpx2 as httpx
import pytest

from portal import clock
from portal.gateways import _klarna, facts
from portal.gateways._klarna import KeysRefused
from portal.gateways.base import (
    BadSignature,
    Declined,
    Event,
    Failure,
    Gateway,
    Gone,
    Health,
    Interval,
    Leave,
    Line,
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
from portal.gateways.capabilities import Circumstances, disagreements
from portal.gateways.http import Http
from portal.gateways.klarna import Adapter
from portal.money import Money

TOKEN = "0b1d9815-165e-42e2-8867-35bc03789e00"
NEWER = "7c2e1f60-3b0a-4e5c-9d55-0a4f6a1b9c11"
ORDER = "3eaeb557-5e30-47f8-b840-b8d987f5945d"
KEYS = {
    "region": "eu",
    "environment": "playground",
    "username": "4a1f8f5e-6b0f-4f3c-9c1e-2f6f5b6f0a11",
    "api_key": "klarna_test_api_c2VjcmV0",
    "country": "SE",
    "signing_key_id": "krn:partner:global:notification:signing-key:one",
    "signing_key": "the first key",
}
NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
CLUB = Ref("subscription", f"{TOKEN}/coffee-club")
Result = TypeVar("Result")


@pytest.fixture(autouse=True)
def _on_a_november_morning() -> None:
    clock.set_offset(NOW - datetime.now(UTC))


def run(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(work)


class Wire(Http):
    """Stands in for the client of a gateway: answers in order, and keeps what was asked."""

    answers: list[httpx.Response | Exception]
    asked: list[dict[str, Any]]

    def __init__(self, gateway: Gateway, processor: str) -> None:
        self.answers, self.asked = [], []

    async def call(self, method: str, host: str, path: str, **more: Any) -> httpx.Response:
        self.asked.append({"method": method, "host": host, "path": path, **more})
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def lines(self) -> list[str]:
        return [f"{one['method']} {one['path']}" for one in self.asked]


def make_gateway(
    *answers: httpx.Response | Exception, variant: str = "v2", **credentials: str
) -> tuple[Adapter, Wire]:
    with patch("portal.gateways.klarna.Http", Wire):
        gateway = Adapter({**KEYS, **credentials}, variant=variant)
    wire = gateway._http
    assert isinstance(wire, Wire)
    wire.answers += answers
    return gateway, wire


def said(body: Any, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=body)


def error(status: int, code: str, message: str = "", **headers: str) -> httpx.Response:
    body = {"error_code": code, "error_messages": [message], "correlation_id": "6a9b1cb1"}
    return httpx.Response(status, json=body, headers=headers)


UNKNOWN_TOKEN = error(404, "NOT_FOUND", "Invalid customer-token ID")
TAKEN = httpx.Response(202, text="Token patch request has been accepted and is being processed.")


def make_token(status: str = "ACTIVE", **more: Any) -> dict[str, Any]:
    card = {"brand": "VISA", "masked_number": "**1234", "expiry_date": "12/2028"}
    return {"payment_method_type": "CARD", "status": status, "card": card} | more


def make_line(**more: Any) -> dict[str, Any]:
    plan = {"name": "Coffee club", "interval": "MONTH", "interval_count": 1}
    return {
        "reference": "coffee-club",
        "name": "Coffee club, November",
        "quantity": 1,
        "unit_price": 24900,
        "total_amount": 24900,
        "total_tax_amount": 4980,
        "subscription": plan,
    } | more


def make_capture(minor: int = 24900, back: int = 0, at: str = "2026-11-10T09:00:00Z") -> dict[str, Any]:
    name = f"cap-{at[8:10]}"
    return {"capture_id": name, "captured_amount": minor, "refunded_amount": back, "captured_at": at}


def make_order(**changes: Any) -> dict[str, Any]:
    return {
        "order_id": ORDER,
        "klarna_reference": "K1A2B3",
        "merchant_reference1": "SO-7",
        "status": "CAPTURED",
        "fraud_status": "ACCEPTED",
        "order_amount": 24900,
        "captured_amount": 24900,
        "refunded_amount": 0,
        "remaining_authorized_amount": 0,
        "purchase_currency": "SEK",
        "purchase_country": "SE",
        "created_at": "2026-11-10T08:30:00.000Z",
        "expires_at": "2026-12-08T08:30:00.000Z",
        "order_lines": [make_line()],
        "billing_address": {"given_name": "Noor", "email": "noor@example.com"},
        "initial_payment_method": {"type": "INVOICE", "description": "Pay in 30 days"},
        "captures": [make_capture()],
        "refunds": [],
    } | changes


def knows(**fields: Any) -> Ref:
    """A reference with what our rows know."""
    return Ref("subscription", CLUB.id, SubscriptionRecord(remote_id=CLUB.id, **fields))


def order_of(**changes: Any) -> OrderRecord:
    record = Adapter.read("order", make_order(**changes))
    assert isinstance(record, OrderRecord)
    return record


def payments_of(**changes: Any) -> tuple[PaymentRecord, ...]:
    return _klarna.snapshot(NOW, [make_order(**changes)]).payments


def the_subscription(snapshot: Snapshot | None) -> SubscriptionRecord:
    assert snapshot is not None
    (record,) = snapshot.subscriptions
    return record


# Where and by what keys it asks


@pytest.mark.parametrize(
    ("region", "environment", "host"),
    [
        ("eu", "live", "api.klarna.com"),
        ("na", "live", "api-na.klarna.com"),
        ("oc", "live", "api-oc.klarna.com"),
        ("eu", "playground", "api.playground.klarna.com"),
        ("na", "playground", "api-na.playground.klarna.com"),
        ("oc", "playground", "api-oc.playground.klarna.com"),
    ],
)
def test_every_region_and_environment_has_its_host_and_the_facts_know_it(
    region: str, environment: str, host: str
) -> None:
    gateway, wire = make_gateway(said(make_token()), region=region, environment=environment)
    run(gateway.fetch(CLUB))
    assert wire.asked[0]["host"] == host
    assert host in facts("klarna").hosts.calls


@pytest.mark.parametrize("environment", ["live", "playground"])
def test_the_hosts_of_v2_are_in_the_facts_and_test_is_not_called_playground_there(environment: str) -> None:
    gateway, wire = make_gateway(said({"signing_keys": []}), environment=environment)
    run(gateway._unknown_key())
    assert (
        wire.asked[0]["host"]
        == {
            "live": "api-global.klarna.com",
            "playground": "api-global.test.klarna.com",
        }[environment]
    )
    assert wire.asked[0]["host"] in facts("klarna").hosts.calls


def test_a_username_makes_a_pair_and_a_key_alone_goes_as_it_is() -> None:
    pair = base64.b64encode(f"{KEYS['username']}:{KEYS['api_key']}".encode()).decode()
    for username, sent in ((KEYS["username"], pair), ("", KEYS["api_key"])):
        gateway, wire = make_gateway(said(make_token()), username=username)
        run(gateway.fetch(CLUB))
        assert wire.asked[0]["headers"] == {"Authorization": f"Basic {sent}"}


def test_it_can_be_made_of_no_credentials_at_all() -> None:
    gateway = Adapter({})
    with pytest.raises(BadSignature):
        gateway.verify([], b"[]", NOW)


def test_facts_and_code_agree_both_ways() -> None:
    assert disagreements("klarna", Adapter) == []


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("region", ["eu", "na", "oc"], ["EU", "us", "eu.evil.example/", ""]),
        ("environment", ["live", "playground"], ["test", "live "]),
        ("username", ["K123456_abcdef123456", "PK10001_0123456789ab", KEYS["username"]], ["a b", "K1:2"]),
        ("api_key", ["klarna_live_api_QUJD", "old.Pass+word/9="], ["short", "with blank 1", "line\nbreak1"]),
        ("country", ["SE", "US"], ["se", "SWE"]),
        ("signing_key_id", ["krn:partner:global:notification:signing-key:x-1"], ["a b c d", "ab"]),
    ],
)
def test_patterns_take_what_klarna_gives_and_nothing_that_could_lead_elsewhere(
    name: str, good: list[str], bad: list[str]
) -> None:
    (field,) = [one for one in facts("klarna").credentials if one.name == name]
    assert all(re.fullmatch(field.pattern, value) for value in good)
    assert not any(re.fullmatch(field.pattern, value) for value in bad)


# Capabilities as the facts have them


@pytest.mark.parametrize(
    ("key", "circumstances", "mode", "how"),
    [
        ("cancel_now", {}, "direct", None),
        ("cancel_now", {"token": False}, "request", None),
        ("cancel_now", {"object": "shared_token"}, "request", None),
        ("cancel_at_period_end", {"state": "active"}, "emulated", "keep"),
        ("cancel_at_period_end", {"option": frozenset({"schedule_cancel"})}, "emulated", "schedule"),
        (
            "cancel_at_period_end",
            {"option": frozenset({"schedule_cancel"}), "state": "past_due"},
            "emulated",
            "keep",
        ),
        ("cancel_at_period_end", {"token": False, "option": frozenset({"schedule_cancel"})}, "request", None),
        ("undo_cancel", {"state": "cancels_at_period_end"}, "request", None),
        (
            "undo_cancel",
            {"state": "cancels_at_period_end", "option": frozenset({"schedule_cancel"})},
            "emulated",
            "schedule",
        ),
        ("undo_cancel", {"state": "cancelled", "option": frozenset({"schedule_cancel"})}, "request", None),
        ("update_payment_method", {}, "guided", None),
        ("update_payment_method", {"option": frozenset({"new_token"})}, "hosted", None),
        ("update_payment_method", {"option": frozenset({"new_token"}), "token": False}, "guided", None),
        ("pause", {}, "request", None),
        ("resume", {"state": "paused"}, "request", None),
        ("change_plan", {}, "request", None),
        ("pay_now", {"due": True}, "none", None),
        ("skip_next_payment", {}, "none", None),
        ("next_payment", {}, "emulated", None),
        ("refunds", {}, "direct", None),
        ("invoice", {}, "direct", None),
    ],
)
def test_what_a_customer_is_offered(key: Any, circumstances: dict[str, Any], mode: str, how: str) -> None:
    offered = facts("klarna").capabilities[key].under(Circumstances(**circumstances))
    assert (offered.mode, offered.how) == (mode, how)


def test_the_guided_link_is_one_that_customers_may_be_sent_to() -> None:
    table = facts("klarna")
    link = table.capabilities["update_payment_method"].link
    assert link is not None
    assert table.allows_link(link)
    assert table.allows_link("https://pay.playground.klarna.com/eu/hpp/payments/2OCk")
    assert not table.allows_link("https://pay.klarna.com.evil.example/eu/hpp/payments/2OCk")


# Orders


def test_an_order_is_read_whole() -> None:
    order = order_of()
    assert order.remote_id == ORDER
    assert order.status == "paid"
    assert order.email == "noor@example.com"
    assert order.number == "SO-7"
    assert order.title == "Coffee club"
    assert order.amount == Money(24900, "SEK")
    assert order.tax == Money(4980, "SEK")
    assert order.lines == (Line("Coffee club, November", 1, Money(24900, "SEK")),)
    assert order.created_at == datetime(2026, 11, 10, 8, 30, tzinfo=UTC)


def test_amounts_are_minor_units_of_the_currency_and_yen_has_none() -> None:
    assert order_of(order_amount=1999, purchase_currency="eur").amount == Money(1999, "EUR")
    assert order_of(order_amount=1999, purchase_currency="JPY").amount == Money(1999, "JPY")


def test_without_a_shop_number_klarnas_own_reference_names_the_order() -> None:
    assert order_of(merchant_reference1="").number == "K1A2B3"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"status": "AUTHORIZED"}, "open"),
        ({"status": "AUTHORIZED", "fraud_status": "PENDING"}, "open"),
        ({"status": "AUTHORIZED", "fraud_status": "REJECTED"}, "failed"),
        ({"status": "PART_CAPTURED"}, "open"),
        ({"status": "PART_CAPTURED", "refunded_amount": 100}, "open"),
        ({"status": "CAPTURED"}, "paid"),
        ({"status": "CAPTURED", "refunded_amount": 100}, "partially_refunded"),
        ({"status": "CAPTURED", "refunded_amount": 24900}, "refunded"),
        ({"status": "CANCELLED"}, "cancelled"),
        ({"status": "CANCELLED", "fraud_status": "ACCEPTED"}, "cancelled"),
        ({"status": "EXPIRED"}, "expired"),
        ({"status": "CLOSED"}, "paid"),
        ({"status": "CLOSED", "refunded_amount": 24900}, "refunded"),
        ({"status": "CLOSED", "captured_amount": 0}, "cancelled"),
    ],
)
def test_states_of_an_order(changes: dict[str, Any], status: str) -> None:
    assert order_of(**changes).status == status


def test_an_unknown_word_keeps_the_last_known_state_and_is_kept_raw() -> None:
    order = order_of(status="FROZEN")
    assert (order.status, order.raw_status) == (None, "FROZEN")
    assert order.knows is not None
    assert "status" not in order.knows


def test_accepted_after_the_shop_cancelled_does_not_revive() -> None:
    changes = {"status": "CANCELLED", "fraud_status": "ACCEPTED", "captures": [], "captured_amount": 0}
    assert order_of(**changes).status == "cancelled"
    assert payments_of(**changes)[0].status == "cancelled"


# Payments and refunds


@pytest.mark.parametrize(
    ("status", "review", "expected"),
    [
        ("AUTHORIZED", "ACCEPTED", "authorized"),
        ("AUTHORIZED", "PENDING", "pending"),
        ("AUTHORIZED", "REJECTED", "failed"),
        ("CANCELLED", "ACCEPTED", "cancelled"),
        ("CANCELLED", "REJECTED", "cancelled"),
        ("EXPIRED", "ACCEPTED", "expired"),
        ("CLOSED", "ACCEPTED", "cancelled"),
    ],
)
def test_before_a_capture_the_authorisation_is_the_payment(status: str, review: str, expected: str) -> None:
    (payment,) = payments_of(status=status, fraud_status=review, captured_amount=0, captures=[])
    assert payment.remote_id == ORDER
    assert payment.status == expected
    assert payment.paid_at is None
    assert payment.amount == Money(24900, "SEK")
    assert payment.failure == (Failure("FRAUD_REJECTED") if expected == "failed" else None)


def test_the_first_capture_takes_the_place_of_the_authorisation_and_others_stand_beside_it() -> None:
    later, first = make_capture(9900, at="2026-11-12T09:00:00Z"), make_capture(15000)
    payments = payments_of(captures=[later, first])
    assert [one.remote_id for one in payments] == [ORDER, f"{ORDER}:cap-12"]
    assert [one.amount for one in payments] == [Money(15000, "SEK"), Money(9900, "SEK")]
    assert payments[0].paid_at == datetime(2026, 11, 10, 9, 0, tzinfo=UTC)
    assert {one.order for one in payments} == {ORDER}


@pytest.mark.parametrize(("back", "status"), [(0, "paid"), (100, "partially_refunded"), (24900, "refunded")])
def test_refunds_count_for_the_capture_that_they_came_from(back: int, status: str) -> None:
    (payment,) = payments_of(captures=[make_capture(back=back)])
    assert (payment.status, payment.refunded) == (status, Money(back, "SEK"))


def test_sums_stand_in_where_no_capture_is_listed() -> None:
    (payment,) = payments_of(captures=[], captured_amount=24900, refunded_amount=900)
    assert (payment.remote_id, payment.status) == (ORDER, "partially_refunded")
    assert payment.amount == Money(24900, "SEK")


def test_a_refund_is_named_after_its_order_and_hangs_on_the_one_capture_that_was_paid_back() -> None:
    back = {"refund_id": "ref-1", "refunded_amount": 900, "refunded_at": "2026-11-15T10:00:00Z"}
    second = make_capture(9900, 900, "2026-11-12T09:00:00Z")
    order = make_order(captures=[make_capture(15000), second], refunds=[{**back, "description": "Broken"}])
    (refund,) = _klarna.snapshot(NOW, [order]).refunds
    assert refund.remote_id == f"{ORDER}:ref-1"
    assert refund.payment == f"{ORDER}:cap-12"
    assert (refund.status, refund.amount, refund.reason) == ("sent", Money(900, "SEK"), "Broken")
    assert refund.created_at == datetime(2026, 11, 15, 10, 0, tzinfo=UTC)


def test_payments_and_refunds_are_fetched_through_their_order() -> None:
    for kind, name in (("payment", f"{ORDER}:cap-12"), ("refund", f"{ORDER}:ref-1"), ("order", ORDER)):
        gateway, wire = make_gateway(said(make_order()))
        snapshot = run(gateway.fetch(Ref(kind, name)))  # type: ignore[arg-type]
        assert wire.lines == [f"GET /ordermanagement/v1/orders/{ORDER}"]
        assert snapshot.orders[0].remote_id == ORDER


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({"type": "INVOICE", "description": "Pay in 30 days"}, Method("pay_later", "Pay in 30 days")),
        ({"type": "PAY_LATER_IN_PARTS"}, Method("pay_later", "Klarna")),
        ({"type": "DIRECT_DEBIT"}, Method("bank_debit", "Klarna")),
        ({"type": "CARD"}, Method("card", "Klarna")),
        ({"type": "SLICE_IT_BY_CARD", "description": "3 parts"}, Method("card", "3 parts")),
        ({}, None),
    ],
)
def test_first_methods_of_an_order(method: dict[str, Any], expected: Method | None) -> None:
    assert payments_of(initial_payment_method=method)[0].method == expected


# Customer tokens


@pytest.mark.parametrize(
    ("word", "status", "stopped"),
    [("ACTIVE", "active", False), ("SUSPENDED", "past_due", True), ("CANCELLED", "cancelled", False)],
)
def test_states_of_a_token(word: str, status: str, stopped: bool) -> None:
    gateway, wire = make_gateway(said(make_token(word)))
    record = the_subscription(run(gateway.fetch(CLUB)))
    assert wire.lines == [f"GET /customer-token/v1/tokens/{TOKEN}"]
    assert (record.remote_id, record.status, record.stopped) == (CLUB.id, status, stopped)
    assert record.method == Method("card", "VISA", "1234", "2028-12", TOKEN)


def test_a_bank_account_has_digits_and_an_invoice_has_none() -> None:
    bank = make_token(card=None, payment_method_type="DIRECT_DEBIT", direct_debit={"masked_number": "**3000"})
    for token, expected in (
        (bank, Method("bank_debit", None, "3000", None, TOKEN)),
        (
            make_token(card=None, payment_method_type="INVOICE"),
            Method("pay_later", "Klarna", remote_id=TOKEN),
        ),
    ):
        assert the_subscription(run(make_gateway(said(token))[0].fetch(CLUB))).method == expected


def test_an_unknown_token_is_not_a_cancelled_one() -> None:
    gateway, _ = make_gateway(UNKNOWN_TOKEN)
    with pytest.raises(Gone) as caught:
        run(gateway.fetch(CLUB))
    assert "proves no cancellation" in caught.value.hint
    assert TOKEN not in caught.value.customer + caught.value.hint


def test_an_unknown_token_is_cancelled_where_we_cancelled_it_ourselves() -> None:
    gateway, _ = make_gateway(UNKNOWN_TOKEN)
    record = the_subscription(run(gateway.fetch(knows(raw_status=_klarna.ACCEPTED))))
    assert (record.status, record.raw_status) == ("cancelled", "CANCELLED")


@pytest.mark.parametrize("status", ["trialing", "paused", "cancelled", "expired"])
def test_an_active_token_says_nothing_against_what_the_shop_says(status: Any) -> None:
    record = the_subscription(run(make_gateway(said(make_token()))[0].fetch(knows(status=status))))
    assert record.status is None
    assert record.raw_status == "ACTIVE"


def test_an_active_token_ends_past_due() -> None:
    record = the_subscription(run(make_gateway(said(make_token()))[0].fetch(knows(status="past_due"))))
    assert (record.status, record.stopped) == ("active", False)


def test_the_token_that_replaced_the_first_is_the_one_that_counts() -> None:
    gateway, wire = make_gateway(said(make_token("SUSPENDED")), said(make_token()))
    record = the_subscription(run(gateway.fetch(knows(method=Method("card", remote_id=NEWER)))))
    assert wire.lines == [f"GET /customer-token/v1/tokens/{token}" for token in (NEWER, TOKEN)]
    assert record.status == "past_due"
    assert record.method is not None
    assert record.method.remote_id == NEWER


def test_a_cancelled_newer_token_is_not_the_end_while_the_former_one_is_active() -> None:
    gateway, _ = make_gateway(said(make_token("CANCELLED")), said(make_token()))
    record = the_subscription(run(gateway.fetch(knows(method=Method("card", remote_id=NEWER)))))
    assert record.status == "active"
    assert record.method is not None
    assert record.method.remote_id == NEWER  # a cancel has to end both


def test_a_former_token_that_is_unknown_changes_nothing() -> None:
    gateway, _ = make_gateway(said(make_token()), UNKNOWN_TOKEN)
    assert (
        the_subscription(run(gateway.fetch(knows(method=Method("card", remote_id=NEWER))))).status == "active"
    )


def test_when_the_shop_has_ended_the_former_token_the_contract_goes_on_under_the_new_one() -> None:
    gateway, _ = make_gateway(said(make_token()), said(make_token("CANCELLED")))
    was = knows(
        method=Method("card", remote_id=NEWER),
        email="noor@example.com",
        title="Coffee club",
        amount=Money(24900, "SEK"),
        next_payment=NextPayment(date(2026, 12, 10), Money(24900, "SEK"), "merchant"),
    )
    former, newer = run(gateway.fetch(was)).subscriptions
    assert (former.remote_id, former.status) == (CLUB.id, "cancelled")
    assert (newer.remote_id, newer.status) == (f"{NEWER}/coffee-club", "active")
    assert (newer.email, newer.title, newer.amount) == (
        "noor@example.com",
        "Coffee club",
        Money(24900, "SEK"),
    )
    assert newer.next_payment is not None
    assert newer.method is not None
    assert newer.method.remote_id == NEWER


def test_it_does_not_move_while_our_own_cancel_is_under_way() -> None:
    gateway, _ = make_gateway(said(make_token()), said(make_token("CANCELLED")))
    was = knows(method=Method("card", remote_id=NEWER), raw_status=_klarna.ACCEPTED)
    assert the_subscription(run(gateway.fetch(was))).status == "active"


def test_a_contract_without_a_token_is_asked_about_nowhere_and_says_nothing() -> None:
    gateway, wire = make_gateway()
    record = the_subscription(run(gateway.fetch(Ref("subscription", "/contract-9"))))
    assert wire.asked == []
    assert record.knows == frozenset()


@pytest.mark.parametrize("remote_id", ["..", "a b", "x" * 300, "é"])
def test_ids_that_no_token_has_never_reach_a_path(remote_id: str) -> None:
    gateway, wire = make_gateway()
    with pytest.raises(Gone):
        run(gateway.fetch(Ref("subscription", remote_id)))
    assert wire.asked == []


def test_other_kinds_cannot_be_asked_for() -> None:
    with pytest.raises(Unsupported):
        run(make_gateway()[0].fetch(Ref("invoice", "1")))


# Signed events and what is read on them


def make_event(**payload: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "event_id": "b7c3f3b2-1111-4e6a-9d0f-7f6a5c4e3d2b",
            "event_type": "payment.request.state-change.completed",
            "event_version": "v2",
            "occurred_at": "2026-11-10T08:30:02Z",
            "webhook_id": "krn:partner:global:notification:webhook:1",
            "live": False,
        },
        "payload": {
            "payment_request_id": "krn:payment:eu1:request:552603c0-fe8b-4ab1-aacb-41d55fafbdb4",
            "payment_request_reference": "SO-7",
            "state": "COMPLETED",
            "previous_state": "IN_PROGRESS",
            "payment_transaction_id": f"krn:payment:eu1:transaction:{ORDER}",
            "klarna_customer": {"customer_token": TOKEN},
        }
        | payload,
    }


def signature(body: bytes, key: str = KEYS["signing_key"]) -> str:
    return hmac.new(key.encode(), body, hashlib.sha256).hexdigest()


def signed(
    body: bytes, key: str = KEYS["signing_key"], name: str = KEYS["signing_key_id"]
) -> list[tuple[str, str]]:
    return [("Klarna-Signature", signature(body, key)), ("Klarna-Signing-Key-Id", name)]


def verify(body: bytes, headers: list[tuple[str, str]], variant: str = "v2", **credentials: str) -> Event:
    (event,) = make_gateway(variant=variant, **credentials)[0].verify(headers, body, NOW)
    return event


def test_a_signed_event_names_the_order_at_the_end_of_the_transaction() -> None:
    body = json.dumps(make_event()).encode()
    event = verify(body, signed(body))
    assert event.id == "b7c3f3b2-1111-4e6a-9d0f-7f6a5c4e3d2b"
    assert event.type == "payment.request.state-change.completed"
    assert event.subject == Ref("order", ORDER)
    assert event.occurred_at == datetime(2026, 11, 10, 8, 30, 2, tzinfo=UTC)
    assert event.body == {"order": ORDER, "token": TOKEN, "state": "COMPLETED"}


def test_the_signature_is_verified_with_the_signing_fields_alone() -> None:
    body = json.dumps(make_event()).encode()
    gateway = Adapter({name: KEYS[name] for name in ("signing_key_id", "signing_key")}, variant="v2")
    assert gateway.verify(signed(body), body, NOW)[0].subject == Ref("order", ORDER)


def test_header_names_may_come_in_any_case_and_the_raw_body_counts() -> None:
    body = json.dumps(make_event(), indent=1).encode()
    headers = [(name.lower(), value) for name, value in signed(body)]
    assert verify(body, headers).subject == Ref("order", ORDER)
    with pytest.raises(BadSignature):
        verify(json.dumps(make_event()).encode(), headers)


def test_two_keys_are_good_during_a_change_each_under_its_own_id() -> None:
    body, former = json.dumps(make_event()).encode(), "krn:partner:global:notification:signing-key:zero"
    both = {"signing_key_id_old": former, "signing_key_old": "the key before"}
    assert verify(body, signed(body, "the key before", former), **both).id
    assert verify(body, signed(body), **both).id
    with pytest.raises(BadSignature):
        verify(body, signed(body, "the key before"), **both)
    with pytest.raises(BadSignature):
        verify(body, signed(body, KEYS["signing_key"], former), **both)


def test_what_is_not_signed_as_klarna_signs_is_refused() -> None:
    body = json.dumps(make_event()).encode()
    good, name = signature(body), ("Klarna-Signing-Key-Id", KEYS["signing_key_id"])
    raw = hmac.digest(KEYS["signing_key"].encode(), body, "sha256")
    wrong: list[list[tuple[str, str]]] = [
        [],
        [name],
        [("Klarna-Signature", good)],
        [("Klarna-Signature", good), ("Klarna-Signing-Key-Id", "krn:other")],
        [("Klarna-Signature", good), name, name],
        [("Klarna-Signature", good), ("Klarna-Signature", good), name],
        [("Klarna-Signature", good.upper()), name],
        [("Klarna-Signature", base64.b64encode(raw).decode()), name],
        [("Klarna-Signature", f"sha256={good}"), name],
        [("Klarna-Signature", signature(body, "another key")), name],
        [("Klarna-Signature", ""), name],
    ]
    for headers in wrong:
        with pytest.raises(BadSignature):
            verify(body, headers)


def test_without_a_signing_key_a_v2_account_takes_nothing() -> None:
    body = json.dumps(make_event()).encode()
    for missing in ({"signing_key": ""}, {"signing_key_id": ""}, {"signing_key": "", "signing_key_id": ""}):
        with pytest.raises(BadSignature):
            verify(body, signed(body, ""), **missing)


def test_an_unsigned_push_is_refused_where_webhooks_are_signed() -> None:
    push = json.dumps({"order_id": ORDER}).encode()
    for gateway in (
        make_gateway()[0],
        Adapter({"signing_key": "a key without its id"}),
        Adapter({}, variant="v2"),
    ):
        with pytest.raises(BadSignature):
            gateway.verify([], push, NOW)


def test_an_event_of_the_other_environment_is_refused() -> None:
    body = json.dumps(make_event()).encode()
    with pytest.raises(BadSignature):
        verify(body, signed(body), environment="live")


def test_a_signed_body_that_is_no_object_is_refused() -> None:
    for body in (b"[]", b"7", b"", b"{"):
        with pytest.raises(BadSignature):
            verify(body, signed(body))


def test_a_signed_event_with_nothing_in_it_is_of_no_interest() -> None:
    event = verify(b"{}", signed(b"{}"))
    assert (event.subject, event.type) == (None, "unknown")
    assert run(make_gateway()[0].refetch(event)) is None


def test_an_event_joins_order_and_token_and_tells_plan_and_period() -> None:
    body = json.dumps(make_event()).encode()
    gateway, wire = make_gateway(said(make_order()), said(make_token()))
    snapshot = run(gateway.refetch(verify(body, signed(body))))
    assert snapshot is not None
    assert wire.lines == [f"GET /ordermanagement/v1/orders/{ORDER}", f"GET /customer-token/v1/tokens/{TOKEN}"]
    record = the_subscription(snapshot)
    assert record.remote_id == CLUB.id
    assert (record.status, record.email, record.title) == ("active", "noor@example.com", "Coffee club")
    assert (record.amount, record.interval, record.quantity) == (Money(24900, "SEK"), Interval("month"), 1)
    assert record.current_period_end == datetime(2026, 12, 10, 8, 30, tzinfo=UTC)
    assert record.next_payment == NextPayment(date(2026, 12, 10), Money(24900, "SEK"), "merchant")
    assert record.method == Method("card", "VISA", "1234", "2028-12", TOKEN)
    assert snapshot.orders[0].subscription == CLUB.id
    assert snapshot.payments[0].subscription == CLUB.id


def test_an_event_of_an_old_order_tells_no_period() -> None:
    gateway, _ = make_gateway(said(make_order(created_at="2026-09-10T08:30:00Z")), said(make_token()))
    record = the_subscription(run(gateway.refetch(_klarna.event(make_event()))))
    assert record.knows is not None
    assert record.knows.isdisjoint({"current_period_end", "current_period_start", "next_payment"})


def test_an_order_that_was_cancelled_pays_for_no_period() -> None:
    gateway, _ = make_gateway(said(make_order(status="CANCELLED")), said(make_token()))
    assert the_subscription(run(gateway.refetch(_klarna.event(make_event())))).current_period_end is None


@pytest.mark.parametrize(
    ("interval", "count", "end"),
    [
        ("DAY", 10, datetime(2026, 12, 1, 9, 0, tzinfo=UTC)),
        ("WEEK", 2, datetime(2026, 12, 5, 9, 0, tzinfo=UTC)),
        ("MONTH", 3, datetime(2027, 2, 21, 9, 0, tzinfo=UTC)),
        ("YEAR", 1, datetime(2027, 11, 21, 9, 0, tzinfo=UTC)),
    ],
)
def test_the_period_is_the_interval_of_the_line(interval: str, count: int, end: datetime) -> None:
    plan = {"name": "Club", "interval": interval, "interval_count": count}
    order = make_order(created_at="2026-11-21T09:00:00Z", order_lines=[make_line(subscription=plan)])
    gateway, _ = make_gateway(said(order), said(make_token()))
    assert the_subscription(run(gateway.refetch(_klarna.event(make_event())))).current_period_end == end


def test_a_month_that_is_too_short_ends_on_its_last_day() -> None:
    start = datetime(2027, 1, 31, 9, 0, tzinfo=UTC)
    assert _klarna._later(start, "month", 1) == datetime(2027, 2, 28, 9, 0, tzinfo=UTC)
    assert _klarna._later(datetime(9999, 12, 1, tzinfo=UTC), "year", 1) is None


def test_a_token_with_two_plans_is_none_of_theirs_alone() -> None:
    lines = [make_line(), make_line(reference="tea box", name="Tea")]
    gateway, _ = make_gateway(said(make_order(order_lines=lines)), said(make_token()))
    snapshot = run(gateway.refetch(_klarna.event(make_event())))
    assert snapshot is not None
    assert [one.remote_id for one in snapshot.subscriptions] == [CLUB.id, f"{TOKEN}/tea-box"]
    for record in snapshot.subscriptions:
        assert record.object == "shared_token"
        assert record.method == Method("card", "VISA", "1234", "2028-12", None)
    assert snapshot.orders[0].subscription is None


def test_what_shares_a_token_stays_so_at_every_later_look() -> None:
    gateway, _ = make_gateway(said(make_token()))
    record = the_subscription(run(gateway.fetch(knows(object="shared_token"))))
    assert record.method is not None
    assert record.method.remote_id is None


def test_a_token_that_the_token_api_does_not_know_leaves_the_order_alone() -> None:
    event = _klarna.event(make_event(klarna_customer={"customer_token": "krn:customer-token:eu1:a1b2c3d4"}))
    gateway, _ = make_gateway(said(make_order()), UNKNOWN_TOKEN)
    snapshot = run(gateway.refetch(event))
    assert snapshot is not None
    assert snapshot.subscriptions == ()
    assert snapshot.orders[0].status == "paid"


def test_an_event_without_a_token_is_about_the_order_alone() -> None:
    gateway, wire = make_gateway(said(make_order()))
    snapshot = run(gateway.refetch(_klarna.event(make_event(klarna_customer=None))))
    assert snapshot is not None
    assert (len(wire.asked), len(snapshot.orders), snapshot.subscriptions) == (1, 1, ())


def test_a_declined_charge_without_an_order_leads_nowhere() -> None:
    event = _klarna.event(make_event(state="DECLINED", payment_transaction_id=None))
    assert event.subject is None
    assert run(make_gateway()[0].refetch(event)) is None


# Classic pushes


def test_a_classic_push_is_a_hint_of_which_only_the_order_id_is_taken() -> None:
    body = json.dumps({"order_id": ORDER, "event_type": "FRAUD_RISK_ACCEPTED", "status": "CAPTURED"}).encode()
    event = verify(body, [], variant="classic")
    assert event.subject == Ref("order", ORDER)
    assert event.type == "FRAUD_RISK_ACCEPTED"
    assert event.body == {}


def test_the_same_push_counts_once_a_minute_and_again_later() -> None:
    gateway, body = make_gateway(variant="classic")[0], json.dumps({"order_id": ORDER}).encode()
    ids = [gateway.verify([], body, NOW + timedelta(seconds=late))[0].id for late in (0, 20, 70)]
    assert ids[0] == ids[1]
    assert ids[0] != ids[2]


def test_a_forged_push_has_no_effect_but_a_look_at_an_order_that_is_not_there() -> None:
    body = json.dumps({"order_id": ORDER, "event_type": "FRAUD_RISK_ACCEPTED"}).encode()
    gateway, wire = make_gateway(error(404, "NO_SUCH_ORDER"), variant="classic")
    (event,) = gateway.verify([], body, NOW)
    with pytest.raises(Gone):
        run(gateway.refetch(event))
    assert wire.lines == [f"GET /ordermanagement/v1/orders/{ORDER}"]


@pytest.mark.parametrize("order_id", ["../../settlements", "7", None, ["x"], {"a": 1}])
def test_a_push_about_what_is_no_order_leads_nowhere(order_id: Any) -> None:
    event = verify(json.dumps({"order_id": order_id}).encode(), [], variant="classic")
    assert event.subject is None


def test_a_push_cannot_tie_a_token_to_an_order() -> None:
    body = {**make_event(), "order_id": ORDER, "token": TOKEN, "customer_token": TOKEN}
    event = verify(json.dumps(body).encode(), [], variant="classic")
    gateway, wire = make_gateway(said(make_order()), variant="classic")
    snapshot = run(gateway.refetch(event))
    assert snapshot is not None
    assert (snapshot.subscriptions, snapshot.orders[0].subscription) == ((), None)
    assert len(wire.asked) == 1


def test_a_push_that_is_not_json_is_refused() -> None:
    for body in (b"", b"order_id=7", b"[]"):
        with pytest.raises(BadSignature):
            verify(body, [], variant="classic")


# Cancelling


def test_cancel_reads_patches_and_reads_again() -> None:
    gateway, wire = make_gateway(said(make_token()), TAKEN, said(make_token("CANCELLED")))
    snapshot = run(gateway.cancel_now(CLUB, "portal-1"))
    path = f"/customer-token/v1/tokens/{TOKEN}"
    assert wire.lines == [f"GET {path}", f"PATCH {path}/status", f"GET {path}"]
    assert wire.asked[1]["json"] == {"status": "CANCELLED"}
    assert the_subscription(snapshot).status == "cancelled"


def test_the_merchant_is_told_that_their_schedule_goes_on() -> None:
    gateway, _ = make_gateway(said(make_token()), TAKEN, said(make_token("CANCELLED")))
    snapshot = run(gateway.cancel_now(knows(title="Coffee club", email="noor@example.com"), "portal-1"))
    assert "Coffee club of noor@example.com" in snapshot.tell
    assert "your own billing" in snapshot.tell


def test_a_cancel_that_klarna_has_only_accepted_is_not_shown_as_done() -> None:
    gateway, _ = make_gateway(said(make_token()), TAKEN, said(make_token()))
    record = the_subscription(run(gateway.cancel_now(CLUB, "portal-1")))
    assert record.status == "active"
    assert record.raw_status == _klarna.ACCEPTED


def test_that_it_was_accepted_is_remembered_while_klarna_takes_its_time() -> None:
    gateway, _ = make_gateway(said(make_token()))
    assert (
        the_subscription(run(gateway.fetch(knows(raw_status=_klarna.ACCEPTED)))).raw_status
        == _klarna.ACCEPTED
    )


def test_a_token_that_vanishes_after_its_accepted_cancel_is_cancelled() -> None:
    gateway, _ = make_gateway(said(make_token()), TAKEN, UNKNOWN_TOKEN)
    assert the_subscription(run(gateway.cancel_now(CLUB, "portal-1"))).status == "cancelled"


def test_a_second_cancel_is_success_without_a_call_or_a_notice() -> None:
    gateway, wire = make_gateway(said(make_token("CANCELLED")), said(make_token("CANCELLED")))
    snapshot = run(gateway.cancel_now(CLUB, "portal-1"))
    assert the_subscription(snapshot).status == "cancelled"
    assert (snapshot.tell, [one["method"] for one in wire.asked]) == ("", ["GET", "GET"])


def test_both_tokens_are_ended() -> None:
    ended = said(make_token("CANCELLED"))
    gateway, wire = make_gateway(said(make_token()), TAKEN, said(make_token()), TAKEN, ended, ended)
    snapshot = run(gateway.cancel_now(knows(method=Method("card", remote_id=NEWER)), "portal-1"))
    patched = [one["path"].split("/")[4] for one in wire.asked if one["method"] == "PATCH"]
    assert patched == [NEWER, TOKEN]
    assert the_subscription(snapshot).status == "cancelled"


def test_while_the_former_token_could_not_be_ended_nothing_is_cancelled() -> None:
    down = error(503, "TEMPORARILY_UNAVAILABLE")
    gateway, _ = make_gateway(said(make_token()), TAKEN, said(make_token()), down)
    was = knows(method=Method("card", remote_id=NEWER))
    with pytest.raises(Unavailable):
        run(gateway.cancel_now(was, "portal-1"))
    gateway, _ = make_gateway(said(make_token("CANCELLED")), said(make_token()))
    assert the_subscription(run(gateway.fetch(was))).status == "active"


def test_a_former_token_that_is_gone_does_not_stand_in_the_way() -> None:
    answers = [said(make_token()), TAKEN, UNKNOWN_TOKEN, said(make_token("CANCELLED")), UNKNOWN_TOKEN]
    gateway, wire = make_gateway(*answers)
    snapshot = run(gateway.cancel_now(knows(method=Method("card", remote_id=NEWER)), "portal-1"))
    assert [one["path"].split("/")[4] for one in wire.asked if one["method"] == "PATCH"] == [NEWER]
    assert the_subscription(snapshot).status == "cancelled"


def test_an_unknown_token_is_never_cancelled() -> None:
    gateway, wire = make_gateway(UNKNOWN_TOKEN)
    with pytest.raises(Gone):
        run(gateway.cancel_now(CLUB, "portal-1"))
    assert len(wire.asked) == 1


@pytest.mark.parametrize("ref", [knows(object="shared_token"), Ref("subscription", "/contract-9")])
def test_a_token_that_is_shared_or_unknown_is_left_to_the_shop(ref: Ref) -> None:
    gateway, wire = make_gateway()
    with pytest.raises(Unsupported):
        run(gateway.cancel_now(ref, "portal-1"))
    assert wire.asked == []


@pytest.mark.parametrize(
    ("answer", "kind", "sent"),
    [
        (error(403, "TOKEN_UPDATE_NOT_ALLOWED", "No"), Declined, None),
        (error(403, "NOT_ALLOWED"), Declined, None),
        (error(403, "ACCESS_DENIED"), KeysRefused, False),
        (httpx.Response(401, text=""), KeysRefused, False),
        (error(400, "BAD_VALUE", "status"), Declined, None),
        (error(409, "CONFLICT"), Unavailable, False),
        (error(429, "TOO_MANY_REQUESTS"), Unavailable, False),
        (error(503, "TEMPORARILY_UNAVAILABLE"), Unavailable, True),
        (httpx.Response(500, text="<html>"), Unavailable, True),
        (httpx.Response(502, json=["?"]), Unavailable, True),
        (Unavailable("", "ReadTimeout", sent=True), Unavailable, True),
        (UNKNOWN_TOKEN, Gone, None),
    ],
)
def test_refusals_of_a_cancel(answer: Any, kind: type[Exception], sent: bool | None) -> None:
    gateway, _ = make_gateway(said(make_token()), answer)
    with pytest.raises(kind) as caught:
        run(gateway.cancel_now(CLUB, "portal-1"))
    assert type(caught.value) is kind
    assert getattr(caught.value, "sent", None) == sent


def test_when_the_reading_back_fails_the_cancel_may_have_had_its_effect() -> None:
    gateway, _ = make_gateway(said(make_token()), TAKEN, error(503, "TEMPORARILY_UNAVAILABLE"))
    with pytest.raises(Unavailable) as caught:
        run(gateway.cancel_now(CLUB, "portal-1"))
    assert caught.value.sent


# Errors


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error(401, "UNAUTHORIZED"), KeysRefused),
        (error(400, "INVALID_ORDER_ID"), Gone),
        (error(404, "NO_SUCH_ORDER"), Gone),
        (error(422, "UNPROCESSABLE_ENTITY"), Declined),
        (error(500, "INTERNAL_ERROR"), Unavailable),
        (httpx.Response(200, text="<html>"), Unavailable),
        (httpx.Response(200, text=""), Unavailable),
        (httpx.Response(200, text='{"order_id": "3eae'), Unavailable),
        (said([]), Unavailable),
        (said({}), Unavailable),
        (said(make_order(order_id=NEWER)), Unavailable),
        (said(dict.fromkeys(make_order(), 7)), Unavailable),
    ],
)
def test_answers_that_are_none_become_one_of_the_five_errors(
    answer: httpx.Response, kind: type[Exception]
) -> None:
    gateway, _ = make_gateway(answer)
    with pytest.raises(kind) as caught:
        run(gateway.fetch(Ref("order", ORDER)))
    assert KEYS["api_key"] not in str(caught.value.__dict__)


@pytest.mark.parametrize("wrong", [7, "seven", None, [], {}, [7], [[]], {"a": []}, True])
def test_fields_of_wrong_types_say_less_and_break_nothing(wrong: Any) -> None:
    for name in set(make_order()) - {"order_id"}:
        _klarna.snapshot(NOW, [make_order(**{name: wrong})])
        _klarna.signed_up(TOKEN, make_token(), make_order(**{name: wrong}))
    for name in make_line():
        order = make_order(order_lines=[make_line(**{name: wrong})])
        _klarna.snapshot(NOW, [order])
        _klarna.signed_up(TOKEN, make_token(), order)
    for name in make_capture():
        _klarna.snapshot(NOW, [make_order(captures=[{**make_capture(), name: wrong}])])
    for name in make_token():
        assert _klarna.subscription(CLUB, make_token(**{name: wrong}), TOKEN).remote_id == CLUB.id
    for name in make_event()["payload"]:
        _klarna.event(make_event(**{name: wrong}))


def test_a_limit_says_how_long_to_wait() -> None:
    gateway, _ = make_gateway(error(429, "TOO_MANY_REQUESTS", "", **{"Retry-After": "7"}))
    with pytest.raises(Unavailable) as caught:
        run(gateway.fetch(CLUB))
    assert caught.value.retry_after == 7


def test_errors_of_v2_have_one_message_and_ids_are_left_out_of_hints() -> None:
    v2 = {
        "error_code": "PERMISSION_DENIED",
        "error_message": f"not for {TOKEN}",
        "error_type": "ACCESS_ERROR",
    }
    assert _klarna.words(v2) == ("PERMISSION_DENIED", "not for …")
    assert _klarna.words({"error_code": "X", "error_messages": ["a", "b"]}) == ("X", "a; b")


# The check


def test_check_asks_for_an_order_that_is_nobodys() -> None:
    answers = [error(404, "NO_SUCH_ORDER"), said({"payouts": [], "pagination": {"count": 0}})]
    gateway, wire = make_gateway(
        *answers, said({"signing_keys": [{"signing_key_id": KEYS["signing_key_id"]}]})
    )
    assert run(gateway.check()) == Health(ok=True, live=False)
    assert {one["method"] for one in wire.asked} == {"GET"}


def test_check_names_refused_keys_and_what_belongs_together() -> None:
    health = run(make_gateway(error(401, "UNAUTHORIZED"), merchant_id="PK10001")[0].check())
    assert (health.ok, health.account) == (False, "PK10001")
    assert health.hint is not None
    assert "region" in health.hint


def test_check_names_the_api_that_is_missing() -> None:
    refused = error(403, "ACCESS_DENIED")
    gateway, _ = make_gateway(error(404, "NO_SUCH_ORDER"), refused, refused)
    health = run(gateway.check())
    assert (health.ok, health.missing) == (True, ("Settlements API", "Notification API v2"))


def test_check_finds_a_signing_key_that_klarna_does_not_list() -> None:
    answers = [error(404, "NO_SUCH_ORDER"), said({"payouts": []}), said({"signing_keys": []})]
    health = run(make_gateway(*answers)[0].check())
    assert health.hint is not None
    assert "signing key" in health.hint


def test_a_classic_account_is_not_asked_about_signing_keys() -> None:
    gateway, wire = make_gateway(error(404, "NO_SUCH_ORDER"), said({"payouts": []}), variant="classic")
    assert run(gateway.check()).ok
    assert len(wire.asked) == 2


def test_an_outage_is_no_answer_to_the_check() -> None:
    with pytest.raises(Unavailable):
        run(make_gateway(error(503, "TEMPORARILY_UNAVAILABLE"))[0].check())


# A new token


RETURN = "https://shop.example/customers/return/abc"


def test_a_new_token_takes_a_session_worth_nothing_and_a_page_without_a_right_to_charge() -> None:
    page = {"session_id": "visit-1", "redirect_url": "https://pay.playground.klarna.com/eu/hpp/payments/x"}
    gateway, wire = make_gateway(said({"session_id": "kp-1", "client_token": "eyJ"}), said(page, 201))
    ref = knows(title="Coffee club", amount=Money(24900, "NOK"), interval=Interval("week", 2))
    leave = run(gateway.start_method_update(ref, RETURN, "portal-1"))
    session, visit = (one["json"] for one in wire.asked)
    plan = {"name": "Coffee club", "interval": "WEEK", "interval_count": 2}
    assert session["intent"] == "tokenize"
    assert (session["order_amount"], session["purchase_country"], session["purchase_currency"]) == (
        0,
        "SE",
        "NOK",
    )
    assert session["order_lines"][0]["subscription"] == plan
    assert visit["payment_session_url"] == "https://api.playground.klarna.com/payments/v1/sessions/kp-1"
    assert visit["options"] == {"purchase_type": "SUBSCRIBE", "place_order_mode": "NONE"}
    assert set(visit["merchant_urls"].values()) == {RETURN}
    assert "authorization_token" not in json.dumps(visit)
    where = {"purchase_country": "SE", "purchase_currency": "NOK", "locale": "en-SE"}
    assert leave == Leave(page["redirect_url"], {**where, "description": "Coffee club", "session": "visit-1"})


def test_without_an_amount_the_country_says_the_currency() -> None:
    for country, currency in (("SE", "SEK"), ("DE", "EUR"), ("US", "USD")):
        page = {"session_id": "v", "redirect_url": "https://pay.klarna.com/x"}
        gateway, wire = make_gateway(said({"session_id": "kp-1"}), said(page, 201), country=country)
        run(gateway.start_method_update(CLUB, RETURN, "portal-1"))
        assert wire.asked[0]["json"]["purchase_currency"] == currency


def test_without_a_country_no_new_token_can_be_made() -> None:
    with pytest.raises(Unsupported) as caught:
        run(make_gateway(country="")[0].start_method_update(CLUB, RETURN, "portal-1"))
    assert "country" in caught.value.hint


STATE = {
    "purchase_country": "SE",
    "purchase_currency": "SEK",
    "locale": "en-SE",
    "description": "Coffee club",
    "session": "visit-1",
}
AGREED = {
    "session_id": "visit-1",
    "status": "COMPLETED",
    "authorization_token": "b4bd3423-24e3-4fd6-8b1c-6f0f5a3c",
}


def finish(*answers: httpx.Response | Exception) -> tuple[Snapshot, Wire]:
    gateway, wire = make_gateway(*answers)
    ref = knows(title="Coffee club", method=Method("card", "VISA", remote_id=TOKEN))
    return run(gateway.finish_method_update(ref, STATE, {"authorization_token": "from-the-address"})), wire


def test_the_new_token_is_bought_with_what_the_session_says_and_not_with_the_address() -> None:
    snapshot, wire = finish(
        said(AGREED), said({"token_id": NEWER, "redirect_url": "https://x"}), said(make_token())
    )
    assert wire.lines == [
        "GET /hpp/v1/sessions/visit-1",
        f"POST /payments/v1/authorizations/{AGREED['authorization_token']}/customer-token",
        f"GET /customer-token/v1/tokens/{NEWER}",
    ]
    assert wire.asked[1]["json"] == {
        "purchase_country": "SE",
        "purchase_currency": "SEK",
        "locale": "en-SE",
        "description": "Coffee club",
        "intended_use": "SUBSCRIPTION",
    }
    record = the_subscription(snapshot)
    assert record.remote_id == CLUB.id
    assert record.method == Method("card", "VISA", "1234", "2028-12", NEWER)
    assert record.knows == frozenset({"method"})


def test_the_merchant_is_asked_to_charge_the_new_token() -> None:
    snapshot, _ = finish(said(AGREED), said({"token_id": NEWER}), said(make_token()))
    assert NEWER in snapshot.ask
    assert "Coffee club" in snapshot.ask


def test_a_new_token_that_cannot_be_read_yet_is_kept_all_the_same() -> None:
    snapshot, _ = finish(said(AGREED), said({"token_id": NEWER}), error(503, "TEMPORARILY_UNAVAILABLE"))
    assert the_subscription(snapshot).method == Method("pay_later", "Klarna", remote_id=NEWER)


@pytest.mark.parametrize("status", ["BACK", "CANCELLED", "FAILED", "DISABLED", "ERROR"])
def test_who_did_not_agree_keeps_the_old_token(status: str) -> None:
    with pytest.raises(Declined) as caught:
        finish(said({"status": status}))
    assert caught.value.reason == status


@pytest.mark.parametrize("status", ["WAITING", "IN_PROGRESS", "MANUAL_ID_CHECK", "a new word", None])
def test_who_is_still_at_it_is_looked_at_again(status: str | None) -> None:
    snapshot, wire = finish(said({"status": status}), said(make_token()))
    assert the_subscription(snapshot).method == Method("card", "VISA", "1234", "2028-12", TOKEN)
    assert [one["method"] for one in wire.asked] == ["GET", "GET"]


def test_after_the_hour_is_over_nothing_was_changed() -> None:
    with pytest.raises(Declined) as caught:
        finish(said(AGREED), error(404, "NOT_FOUND"))
    assert "Start again" in caught.value.customer


def test_an_answer_without_a_token_may_have_made_one() -> None:
    with pytest.raises(Unavailable) as caught:
        finish(said(AGREED), said({}))
    assert caught.value.sent


# What is read from JSON, and from the merchant's list


def test_read_takes_orders_tokens_and_events() -> None:
    assert isinstance(Adapter.read("order", make_order()), OrderRecord)
    payment = Adapter.read("payment", make_order())
    assert isinstance(payment, PaymentRecord)
    assert (payment.status, payment.amount, payment.email) == (
        "paid",
        Money(24900, "SEK"),
        "noor@example.com",
    )
    refunds = [{"refund_id": "ref-1", "refunded_amount": 900, "refunded_at": "2026-11-15T10:00:00Z"}]
    refund = Adapter.read("refund", make_order(refunds=refunds))
    assert isinstance(refund, RefundRecord)
    assert refund.amount == Money(900, "SEK")
    token = Adapter.read("subscription", make_token(token_id=TOKEN))
    assert isinstance(token, SubscriptionRecord)
    assert (token.remote_id, token.status) == (TOKEN, "active")
    events = Adapter.read("event", make_event())
    assert isinstance(events, list)
    assert events[0].subject == Ref("order", ORDER)
    pushes = Adapter.read("event", {"order_id": ORDER, "event_type": "FRAUD_RISK_REJECTED"})
    assert isinstance(pushes, list)
    assert pushes[0].type == "FRAUD_RISK_REJECTED"


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("order", {}),
        ("order", []),
        ("payment", {"capture_id": "c"}),
        ("payment", make_order(status="FROZEN", captures=[], captured_amount=0)),
        ("refund", make_order()),
        ("subscription", {"brand": "VISA"}),
        ("event", "text"),
    ],
)
def test_read_refuses_what_is_no_such_object(kind: Any, what: Any) -> None:
    with pytest.raises(ValueError, match="Klarna"):
        Adapter.read(kind, what)


def test_klarna_has_neither_customers_nor_invoices() -> None:
    for kind in ("customer", "invoice"):
        with pytest.raises(Unsupported):
            Adapter.read(kind, {})


LIST = f"""email,token,plan,title,amount,currency,interval,next_payment
noor@example.com,{TOKEN},coffee-club,Coffee club,249.00,SEK,1 month,2026-12-10
dee@example.com,{NEWER},coffee-club,Coffee club,249.00,SEK,1 month,
dee@example.com,{NEWER},tea-box,Tea box,447.00,SEK,3 months,

eve@example.com,,contract-9,Paper,,,,
"""


def test_the_merchants_list_tells_tokens_and_plans() -> None:
    noor, *shared, eve = Adapter.read_file(LIST).subscriptions
    assert (noor.remote_id, noor.email, noor.title) == (CLUB.id, "noor@example.com", "Coffee club")
    assert (noor.amount, noor.interval) == (Money(24900, "SEK"), Interval("month"))
    assert noor.next_payment == NextPayment(date(2026, 12, 10), Money(24900, "SEK"), "merchant")
    assert noor.status is None
    assert [one.object for one in shared] == ["shared_token", "shared_token"]
    assert (eve.remote_id, eve.status, eve.object) == ("/contract-9", "active", None)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("email\n", "no column token"),
        ("email,token\nnobody,12345678\n", "line 2: this is no e-mail"),
        ("email,token\na@b.c,x y\n", "line 2: this is no token"),
        ("email,token\na@b.c,\n", "line 2: this is no token"),
        ("email,token,interval\na@b.c,12345678,monthly\n", "line 2: interval"),
        ("email,token,amount,currency\na@b.c,12345678,1.234,EUR\n", "line 2: interval, amount"),
        ("email,token\na@b.c,12345678\na@b.c,12345678\n", "line 3: this token and plan"),
    ],
)
def test_a_bad_list_is_refused_with_its_lines(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Adapter.read_file(text)


# The backfill


def payouts(*dates: str) -> httpx.Response:
    rows = [{"payment_reference": f"P-{day}", "payout_date": f"{day}T00:00:00Z"} for day in dates]
    return said({"payouts": rows, "pagination": {"count": len(rows)}})


def rows(*orders: str | None) -> httpx.Response:
    return said({"transactions": [{"type": "SALE", "order_id": order} for order in orders], "pagination": {}})


def other(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


async def pages(gateway: Adapter, cursor: str | None = None, limit: int = 99) -> list[Any]:
    found: list[Any] = []
    async for page in gateway.backfill(cursor):
        found.append(page)
        if len(found) == limit:
            break
    return found


def test_backfill_goes_from_the_newest_payout_to_orders_once_each() -> None:
    first = [payouts("2026-11-01", "2026-11-15"), rows(ORDER, ORDER, "no uuid", None), said(make_order())]
    gateway, wire = make_gateway(*first, payouts(), *[payouts()] * 12)
    (page,) = run(pages(gateway, limit=1))
    assert wire.asked[0]["params"]["start_date"] == "2026-08-26T08:00:00Z"
    assert wire.asked[0]["params"]["end_date"] == "2026-11-24T07:59:59Z"
    assert wire.asked[1]["params"]["payment_reference"] == "P-2026-11-15"
    assert [one.remote_id for one in page.snapshot.orders] == [ORDER]
    assert json.loads(page.cursor)["payout"] == 1


def test_backfill_walks_three_years_in_windows_that_touch_and_then_ends() -> None:
    gateway, wire = make_gateway(*[payouts() for _ in range(13)])
    found = run(pages(gateway))
    assert [page.cursor is None for page in found] == [False] * 12 + [True]
    spans = [(one["params"]["start_date"], one["params"]["end_date"]) for one in wire.asked]
    for newer, older in pairwise(spans):
        gap = datetime.fromisoformat(newer[0]) - datetime.fromisoformat(older[1])
        assert gap == timedelta(seconds=1)


def test_backfill_goes_on_in_the_middle_of_a_payout() -> None:
    full = rows(*[other(number) for number in range(25)])
    orders = [said(make_order(order_id=other(number))) for number in range(25)]
    gateway, _ = make_gateway(payouts("2026-11-15"), full, *orders)
    (page,) = run(pages(gateway, limit=1))
    assert json.loads(page.cursor)["offset"] == 25
    gateway, wire = make_gateway(payouts("2026-11-15"), rows(ORDER), said(make_order()))
    (page,) = run(pages(gateway, page.cursor, limit=1))
    assert wire.asked[1]["params"]["offset"] == 25
    assert json.loads(page.cursor) | {"until": ""} == {"until": "", "window": 1, "payout": 0, "offset": 0}


def test_backfill_reads_lists_of_payouts_that_have_more_than_one_page() -> None:
    many = payouts(*[f"2026-10-{day:02d}" for day in range(1, 26)] * 20)
    gateway, wire = make_gateway(many, payouts("2026-11-15"), rows())
    run(pages(gateway, limit=1))
    assert [one["params"]["offset"] for one in wire.asked[:2]] == [0, 500]
    assert wire.asked[2]["params"]["payment_reference"] == "P-2026-11-15"


def test_an_order_that_is_too_old_to_be_read_is_left_out() -> None:
    answers = [payouts("2026-11-15"), rows(ORDER, other(1)), error(404, "NO_SUCH_ORDER")]
    gateway, _ = make_gateway(*answers, said(make_order(order_id=other(1))))
    (page,) = run(pages(gateway, limit=1))
    assert [one.remote_id for one in page.snapshot.orders] == [other(1)]


def test_a_limit_in_the_middle_gives_back_how_long_to_wait() -> None:
    gateway, _ = make_gateway(
        payouts("2026-11-15"), error(429, "TOO_MANY_REQUESTS", "", **{"Retry-After": "3"})
    )
    with pytest.raises(Unavailable) as caught:
        run(pages(gateway))
    assert caught.value.retry_after == 3


def test_nothing_is_found_by_email() -> None:
    gateway, wire = make_gateway()
    assert run(gateway.find("noor@example.com")) == []
    assert wire.asked == []
