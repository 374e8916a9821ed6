"""Stripe without its simulator: signatures, what each event points to, the status tables, amounts, and the wire."""

import asyncio
import hashlib
import hmac
import json
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest

from portal import clock
from portal.gateways import http
from portal.gateways._stripe import shapes
from portal.gateways._stripe.wire import VERSION
from portal.gateways.base import (
    BadSignature,
    Declined,
    Event,
    Failure,
    GatewayError,
    Gone,
    Interval,
    Leave,
    Line,
    Method,
    NextPayment,
    PaymentRecord,
    PendingChange,
    Ref,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import facts
from portal.gateways.stripe import Adapter
from portal.money import Money
from tests.conftest import SHARED

PAYLOADS = Path(__file__).parent / "payloads" / "stripe"
NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
SECRET = "whsec_CoffeeBoxSigningSecret01"
OLD_SECRET = "whsec_CoffeeBoxSigningSecret00"
KEYS = {"secret_key": "sk_test_CoffeeBox01", "webhook_secret": SECRET}
BOX = Ref("subscription", "sub_box")


@pytest.fixture(autouse=True)
def _at_ten() -> None:
    clock.set_offset(NOW - datetime.now(UTC))


def payload(name: str) -> bytes:
    return (PAYLOADS / f"{name}.json").read_bytes()


def signature(body: bytes, secret: str = SECRET, at: datetime = NOW) -> str:
    signed = f"{int(at.timestamp())}.".encode() + body
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def header(body: bytes, secret: str = SECRET, at: datetime = NOW) -> list[tuple[str, str]]:
    return [("Stripe-Signature", f"t={int(at.timestamp())},v1={signature(body, secret, at)}")]


def verify(body: bytes, headers: list[tuple[str, str]] | None = None, **keys: str) -> list[Event]:
    return Adapter(KEYS | keys).verify(header(body) if headers is None else headers, body, NOW)


# Deliveries: what is believed


def test_a_signed_delivery_is_believed() -> None:
    body = payload("customer.subscription.updated")
    assert verify(body) == [
        Event(
            id="evt_1Rq01CoffeeBox00",
            type="customer.subscription.updated",
            subject=BOX,
            occurred_at=NOW,
            body={"id": "sub_box", "object": "subscription", "customer": "cus_ana"},
        )
    ]


def test_what_we_believe_the_official_library_believes_too() -> None:
    import stripe

    body = payload("invoice.paid")
    sent = f"t={int(time.time())},v1={signature(body, at=datetime.fromtimestamp(int(time.time()), UTC))}"
    assert stripe.WebhookSignature.verify_header(body.decode(), sent, SECRET, 300)
    assert Adapter(KEYS).verify([("stripe-signature", sent)], body, datetime.now(UTC))


def test_any_v1_counts_and_v0_never() -> None:
    body = payload("invoice.paid")
    good, t = signature(body), int(NOW.timestamp())
    assert verify(body, [("stripe-signature", f"t={t},v1={'0' * 64},v1={good},v0={'1' * 64}")])
    with pytest.raises(BadSignature):
        verify(body, [("stripe-signature", f"t={t},v0={good}")])


def test_both_secrets_count_while_the_secret_is_rolled() -> None:
    body = payload("invoice.paid")
    assert verify(body, header(body, OLD_SECRET), webhook_secret_old=OLD_SECRET)
    assert verify(body, header(body, SECRET), webhook_secret_old=OLD_SECRET)
    with pytest.raises(BadSignature):
        verify(body, header(body, OLD_SECRET))


@pytest.mark.parametrize("seconds", [-300, -299, 0, 299, 300])
def test_five_minutes_either_way_are_tolerated(seconds: int) -> None:
    body = payload("invoice.paid")
    assert verify(body, header(body, at=NOW + timedelta(seconds=seconds)))


T = int(NOW.timestamp())
GOOD = signature(payload("invoice.paid"))
FORGED: dict[str, list[tuple[str, str]]] = {
    "no header": [],
    "empty header": [("Stripe-Signature", "")],
    "another header": [("Signature", f"t={T},v1={GOOD}")],
    "header twice": [("Stripe-Signature", f"t={T},v1={GOOD}"), ("stripe-signature", f"t={T},v1={GOOD}")],
    "no signature": [("Stripe-Signature", f"t={T}")],
    "no time": [("Stripe-Signature", f"v1={GOOD}")],
    "time twice": [("Stripe-Signature", f"t={T},t={T},v1={GOOD}")],
    "another time": [("Stripe-Signature", f"t={T + 1},v1={GOOD}")],
    "time is no number": [("Stripe-Signature", f"t=soon,v1={GOOD}")],
    "time is empty": [("Stripe-Signature", f"t=,v1={GOOD}")],
    "time with a sign": [("Stripe-Signature", f"t=+{T},v1={GOOD}")],
    "time in other digits": [("Stripe-Signature", f"t=١٧٩٥٣٤١٦٠٠,v1={GOOD}")],
    "time without end": [("Stripe-Signature", f"t={'9' * 400},v1={GOOD}")],
    "empty signature": [("Stripe-Signature", f"t={T},v1=")],
    "short signature": [("Stripe-Signature", f"t={T},v1={GOOD[:-1]}")],
    "long signature": [("Stripe-Signature", f"t={T},v1={GOOD}0")],
    "signature in capitals": [("Stripe-Signature", f"t={T},v1={GOOD.upper()}")],
    "one bit off": [("Stripe-Signature", f"t={T},v1={'0' if GOOD[0] != '0' else '1'}{GOOD[1:]}")],
    "v0 only": [("Stripe-Signature", f"t={T},v0={GOOD}")],
    "v2 only": [("Stripe-Signature", f"t={T},v2={GOOD}")],
    "not ASCII": [("Stripe-Signature", f"t={T},v1=é{GOOD[1:]}")],
    "lone surrogate": [("Stripe-Signature", f"t={T},v1=\udcff{GOOD[1:]}")],
    "plain hash": [("Stripe-Signature", f"t={T},v1={hashlib.sha256(payload('invoice.paid')).hexdigest()}")],
    "of the body alone": [
        (
            "Stripe-Signature",
            f"t={T},v1={hmac.new(SECRET.encode(), payload('invoice.paid'), hashlib.sha256).hexdigest()}",
        )
    ],
    "secret without its prefix": header(payload("invoice.paid"), SECRET.removeprefix("whsec_")),
    "another secret": header(payload("invoice.paid"), "whsec_SomebodyElse"),
    "empty secret": header(payload("invoice.paid"), ""),
    "too old": header(payload("invoice.paid"), at=NOW - timedelta(seconds=301)),
    "from the future": header(payload("invoice.paid"), at=NOW + timedelta(seconds=301)),
    "from tomorrow": header(payload("invoice.paid"), at=NOW + timedelta(days=1)),
}


@pytest.mark.parametrize("headers", FORGED.values(), ids=FORGED)
def test_a_forged_delivery_is_refused(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(BadSignature):
        verify(payload("invoice.paid"), headers)


def test_a_changed_body_is_refused() -> None:
    body = payload("invoice.paid")
    with pytest.raises(BadSignature):
        verify(body.replace(b"2400", b"0024"), header(body))


@pytest.mark.parametrize("secret", ["", "   "])
def test_without_a_secret_nothing_is_believed(secret: str) -> None:
    body = payload("invoice.paid")
    with pytest.raises(BadSignature):
        verify(body, header(body, secret.strip()), webhook_secret=secret, webhook_secret_old="")


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\xfe", b"null", b"[]", b'"evt"', b"{}", b'{"id":"evt_1","object":"event"', b"[" * 100_000],
    ids=["empty", "bytes", "null", "list", "text", "nothing in it", "cut", "deep"],
)
def test_a_signed_body_that_is_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(BadSignature):
        verify(body)


def altered(name: str, **fields: Any) -> bytes:
    return json.dumps(json.loads(payload(name)) | fields).encode()


@pytest.mark.parametrize(
    "fields",
    [{"id": 7}, {"id": ""}, {"type": None}, {"data": []}, {"data": {"object": "sub_box"}}, {"data": None}],
    ids=str,
)
def test_an_event_without_its_parts_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadSignature):
        verify(altered("invoice.paid", **fields))


@pytest.mark.parametrize("livemode", [True, None, "false", 0])
def test_an_event_of_the_other_mode_is_refused(livemode: Any) -> None:
    with pytest.raises(BadSignature, match="mode"):
        verify(altered("invoice.paid", livemode=livemode))


def test_a_live_key_takes_live_events() -> None:
    body = altered("invoice.paid", livemode=True)
    assert verify(body, secret_key="rk_live_CoffeeBox01")


def test_thin_events_and_those_of_connected_accounts_are_acknowledged_and_skipped() -> None:
    assert verify(payload("v2-thin")) == []
    assert verify(altered("invoice.paid", account="acct_1Other")) == []


SUBJECTS = {
    "customer.subscription.updated": BOX,
    "customer.subscription.updated-2019": BOX,
    "customer.subscription.deleted": BOX,
    "customer.subscription.paused": BOX,
    "customer.updated": Ref("customer", "cus_ana"),
    "customer.deleted": Ref("customer", "cus_ana"),
    "customer.discount.created": Ref("customer", "cus_ana"),
    "invoice.paid": Ref("invoice", "in_box3"),
    "invoice.paid-2019": Ref("invoice", "in_box3"),
    "invoice.payment_failed": Ref("invoice", "in_box3"),
    "invoice.deleted": Ref("invoice", "in_draft"),
    "invoice.upcoming": BOX,
    "invoice_payment.paid": Ref("invoice", "in_box3"),
    "charge.succeeded": Ref("payment", "ch_box3"),
    "charge.failed": Ref("payment", "ch_box3a"),
    "charge.refunded": Ref("payment", "ch_box3"),
    "charge.refund.updated": Ref("payment", "ch_box3"),
    "charge.dispute.created": Ref("payment", "ch_box3"),
    "refund.updated": Ref("payment", "ch_box3"),
    "refund.created-off-stripe": Ref("refund", "re_loose"),
    "checkout.session.completed": Ref("order", "cs_test_a1Guji"),
    "checkout.session.completed-setup": BOX,
    "checkout.session.completed-subscription": BOX,
    "payment_method.attached": Ref("customer", "cus_ana"),
    "payment_method.detached": Ref("customer", "cus_ana"),
    "setup_intent.succeeded": BOX,
    "credit_note.created": Ref("invoice", "in_box3"),
    "subscription_schedule.released": BOX,
    "product.updated": None,
}


def test_every_sample_event_is_in_the_table() -> None:
    assert {path.stem for path in PAYLOADS.glob("*.json")} == {*SUBJECTS, "v2-thin"}


@pytest.mark.parametrize("name", SUBJECTS)
def test_an_event_points_to_what_is_looked_at_again(name: str) -> None:
    (event,) = verify(payload(name))
    assert event.subject == SUBJECTS[name]
    assert event.type == json.loads(payload(name))["type"]


@pytest.mark.parametrize("odd", ["../customers", "a/b", "ch_1?x=1", "", 7, {"id": "x y"}])
def test_an_id_that_is_none_is_never_asked_for(odd: Any) -> None:
    (event,) = verify(
        altered("charge.refunded", type="charge.dispute.created", data={"object": {"charge": odd}})
    )
    assert event.subject is None


# The status tables


def subscription(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(payload("customer.subscription.deleted"))["data"]["object"]
    return found | {"status": "active", "canceled_at": None, "ended_at": None} | fields


def recorded(one: dict[str, Any], invoice: dict[str, Any] | None = None) -> SubscriptionRecord:
    return shapes.subscription_record(one, invoice or {}, "Coffee box", NOW)


SOON, BEFORE = int(NOW.timestamp()) + 86_400, int(NOW.timestamp()) - 86_400
PAUSED = {"behavior": "void", "resumes_at": SOON}


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"status": "canceled"}, "cancelled"),
        ({"status": "canceled", "cancel_at": SOON, "pause_collection": PAUSED}, "cancelled"),
        ({"status": "incomplete_expired"}, "expired"),
        ({"status": "incomplete"}, "incomplete"),
        ({"status": "incomplete", "cancel_at_period_end": True}, "incomplete"),
        ({"status": "paused"}, "paused"),
        ({"status": "paused", "cancel_at_period_end": True}, "paused"),
        ({"cancel_at_period_end": True}, "cancels_at_period_end"),
        ({"status": "trialing", "cancel_at_period_end": True}, "cancels_at_period_end"),
        ({"status": "past_due", "cancel_at_period_end": True}, "cancels_at_period_end"),
        ({"cancel_at_period_end": True, "pause_collection": PAUSED}, "cancels_at_period_end"),
        ({"cancel_at": SOON}, "cancels_at_period_end"),
        ({"cancel_at": BEFORE}, "active"),
        ({"status": "past_due"}, "past_due"),
        ({"status": "past_due", "pause_collection": PAUSED}, "past_due"),
        ({"status": "unpaid"}, "past_due"),
        ({"status": "unpaid", "pause_collection": PAUSED}, "past_due"),
        ({"pause_collection": PAUSED}, "paused"),
        ({"status": "trialing", "pause_collection": PAUSED}, "paused"),
        ({"status": "trialing"}, "trialing"),
        ({}, "active"),
        ({"status": "hibernating"}, None),
    ],
    ids=str,
)
def test_the_first_line_that_fits_is_the_status(fields: dict[str, Any], status: str | None) -> None:
    assert shapes.subscription_status(subscription(**fields), NOW) == status


def test_a_cancellation_by_date_alone_is_seen() -> None:
    record = recorded(subscription(cancel_at=SOON, cancel_at_period_end=False))
    assert (record.status, record.cancels_at) == ("cancels_at_period_end", NOW + timedelta(days=1))


def test_a_cancellation_at_period_end_without_a_date_ends_with_the_period() -> None:
    record = recorded(subscription(cancel_at_period_end=True))
    assert record.cancels_at == record.current_period_end is not None


def test_an_end_before_its_planned_date_is_an_end() -> None:
    record = recorded(subscription(status="canceled", cancel_at=SOON, ended_at=BEFORE))
    assert (record.status, record.cancels_at, record.ended_at) == (
        "cancelled",
        None,
        NOW - timedelta(days=1),
    )


def test_paused_collection_says_when_it_goes_on() -> None:
    record = recorded(subscription(pause_collection=PAUSED))
    assert record.resumes_at == NOW + timedelta(days=1)


def test_the_period_stands_on_the_items_and_the_earliest_counts() -> None:
    one = subscription()
    second = one["items"]["data"][0] | {"current_period_end": 1796000000}
    one["items"]["data"].append(second)
    record = recorded(one | {"current_period_end": 1})
    assert record.current_period_end == datetime.fromtimestamp(1796000000, UTC)
    assert record.quantity is None


def test_an_old_subscription_has_its_period_on_itself_and_a_plan_for_a_price() -> None:
    old = json.loads(payload("customer.subscription.updated-2019"))["data"]["object"]
    record = recorded(old)
    assert record.current_period_end == datetime.fromtimestamp(1797862400, UTC)
    assert record.amount == Money(2400, "USD")
    assert record.interval == Interval("month")
    del old["items"]
    assert recorded(old).amount == Money(2400, "USD")


def test_unpaid_is_past_due_and_given_up() -> None:
    record = recorded(subscription(status="unpaid"))
    assert (record.status, record.stopped, record.raw_status) == ("past_due", True, "unpaid")


def test_past_due_tells_when_it_is_tried_again() -> None:
    invoice = json.loads(payload("invoice.payment_failed"))["data"]["object"]
    record = recorded(subscription(status="past_due"), invoice)
    assert record.due == Money(2400, "USD")
    assert record.due_link == "https://invoice.stripe.com/i/acct_1Box/test_box3?s=ap"
    assert record.retries_on == date(2026, 11, 24)
    assert not record.stopped
    assert recorded(subscription(status="past_due"), invoice | {"next_payment_attempt": None}).stopped


def test_the_object_names_what_governs_a_subscription() -> None:
    assert recorded(subscription()).object is None
    assert recorded(subscription(schedule="sub_sched_1")).object == "schedule"
    managed = subscription(schedule="sub_sched_1", managed_payments={"enabled": True})
    assert recorded(managed).object == "managed_payments"


def charge(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(payload("charge.succeeded"))["data"]["object"]
    return found | fields


def paid_back(*amounts: int, status: str = "succeeded") -> list[dict[str, Any]]:
    return [{"id": f"re_{n}", "amount": amount, "status": status} for n, amount in enumerate(amounts)]


@pytest.mark.parametrize(
    ("fields", "refunds", "status"),
    [
        ({}, [], "paid"),
        ({"status": "pending"}, [], "pending"),
        ({"status": "failed", "captured": False}, [], "failed"),
        ({"captured": False, "amount_captured": 0}, [], "authorized"),
        (
            {"captured": False, "amount_captured": 0, "refunded": True, "amount_refunded": 2400},
            [],
            "cancelled",
        ),
        ({}, paid_back(900), "partially_refunded"),
        ({}, paid_back(900, 1500), "refunded"),
        ({"amount_captured": 900}, paid_back(900), "refunded"),
        ({"amount_captured": 900}, paid_back(800), "partially_refunded"),
        ({}, paid_back(900, status="pending"), "partially_refunded"),
        ({}, paid_back(2400, status="failed"), "paid"),
        ({}, paid_back(2400, status="canceled"), "paid"),
        ({"disputed": True}, [], "disputed"),
        ({"disputed": True}, paid_back(900), "disputed"),
        ({"status": "dreaming"}, [], None),
    ],
    ids=str,
)
def test_the_status_of_a_payment(
    fields: dict[str, Any], refunds: list[dict[str, Any]], status: str | None
) -> None:
    assert shapes.payment_status(charge(**fields), refunds) == status


def payment(**fields: Any) -> PaymentRecord:
    return shapes.payment_record(charge(**fields), [], None, {}, {}, ())


def test_a_partial_capture_is_the_amount_of_the_payment() -> None:
    assert payment(amount_captured=900).amount == Money(900, "USD")
    assert payment(captured=False, amount_captured=0).amount == Money(2400, "USD")
    assert payment(captured=False, amount_captured=0).paid_at is None


def test_a_failed_payment_says_why() -> None:
    failed = json.loads(payload("charge.failed"))["data"]["object"]
    record = shapes.payment_record(failed, [], None, {}, {}, ())
    assert record.failure == Failure("card_declined", "Your card has insufficient funds.")
    assert record.paid_at is None


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("pending", "pending"),
        ("requires_action", "pending"),
        ("succeeded", "sent"),
        ("failed", "failed"),
        ("canceled", "cancelled"),
        ("lost", None),
    ],
)
def test_the_status_of_a_refund(theirs: str, ours: str | None) -> None:
    one = json.loads(payload("refund.updated"))["data"]["object"] | {"status": theirs}
    assert shapes.refund_record(one).status == ours


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"status": "draft"}, "draft"),
        ({"status": "open"}, "open"),
        ({"status": "open", "due_date": SOON}, "open"),
        ({"status": "open", "due_date": BEFORE}, "overdue"),
        ({"status": "paid", "due_date": BEFORE}, "paid"),
        ({"status": "void"}, "void"),
        ({"status": "uncollectible"}, "overdue"),
        ({"status": "folded"}, None),
    ],
    ids=str,
)
def test_the_status_of_an_invoice(fields: dict[str, Any], status: str | None) -> None:
    one = json.loads(payload("invoice.paid"))["data"]["object"] | fields
    assert shapes.invoice_record(one, ()).status == status


def test_a_draft_has_no_number_no_page_and_no_file() -> None:
    draft = json.loads(payload("invoice.deleted"))["data"]["object"]
    record = shapes.invoice_record(draft, ())
    assert (record.number, record.page_url, record.document) == (None, None, False)


@pytest.mark.parametrize("name", ["invoice.paid", "invoice.paid-2019"])
def test_the_subscription_of_an_invoice_is_found_in_the_new_and_the_old_place(name: str) -> None:
    one = json.loads(payload(name))["data"]["object"]
    assert shapes.invoice_record(one, ()).subscription == "sub_box"


def session(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(payload("checkout.session.completed"))["data"]["object"]
    return found | fields


@pytest.mark.parametrize(
    ("fields", "charges", "status"),
    [
        ({"status": "open", "payment_status": "unpaid"}, [], "open"),
        ({"status": "expired", "payment_status": "unpaid"}, [], "expired"),
        ({}, [], "paid"),
        ({"payment_status": "no_payment_required"}, [], "paid"),
        ({"payment_status": "unpaid"}, [], "open"),
        ({"payment_status": "unpaid"}, [charge(status="failed")], "failed"),
        ({"payment_status": "unpaid"}, [charge(captured=False)], "open"),
        ({"payment_status": "unpaid"}, [charge(captured=False, refunded=True)], "cancelled"),
        ({}, [charge(amount_refunded=900)], "partially_refunded"),
        ({}, [charge(amount_refunded=2400)], "refunded"),
        ({}, [charge(disputed=True)], "paid"),
        ({"status": "melted"}, [], None),
    ],
    ids=str,
)
def test_the_status_of_an_order(
    fields: dict[str, Any], charges: list[dict[str, Any]], status: str | None
) -> None:
    assert shapes.order_record(session(**fields), (), charges).status == status


# Amounts


@pytest.mark.parametrize(
    ("minor", "currency", "money"),
    [
        (2400, "usd", Money(2400, "USD")),
        (2400, "jpy", Money(2400, "JPY")),
        (12340, "kwd", Money(12340, "KWD")),
        (500, "isk", Money(5, "ISK")),  # sent with two decimals, always 00
        (370000, "ugx", Money(3700, "UGX")),  # older public lists say a hundred times as much
        (5000, "mga", Money(500000, "MGA")),  # sent whole, two decimals by ISO 4217
        (2400, "huf", Money(2400, "HUF")),  # whole in payouts only
        (2400, "twd", Money(2400, "TWD")),
        (555, "isk", None),
        (None, "usd", None),
        (2400, None, None),
        (True, "usd", None),
        (2400, "dollar", None),
    ],
    ids=str,
)
def test_amounts_come_in_units_of_stripes_own(minor: Any, currency: Any, money: Money | None) -> None:
    assert shapes.money_of(minor, currency) == money


def test_the_amount_counts_quantities_and_is_unknown_where_it_depends_on_use() -> None:
    item = subscription()["items"]["data"][0]
    assert shapes.amount_of([item | {"quantity": 3}, item]) == Money(9600, "USD")
    tiered = item | {"price": item["price"] | {"unit_amount": None}}
    assert shapes.amount_of([item, tiered]) is None
    assert shapes.amount_of([item, item | {"price": item["price"] | {"currency": "eur"}}]) is None


def test_times_are_aware_and_odd_ones_are_none() -> None:
    assert shapes.moment(1795341600) == NOW
    for odd in (None, "1795341600", True, 0, -1, 10**15):
        assert shapes.moment(odd) is None


@pytest.mark.parametrize(
    ("details", "method"),
    [
        (
            {"type": "card", "card": {"brand": "amex", "last4": "0005", "exp_month": 3, "exp_year": 2031}},
            Method("card", "American Express", "0005", "2031-03", "pm_1"),
        ),
        (
            {"type": "card", "card": {"brand": "unknown", "last4": "1111"}},
            Method("card", None, "1111", None, "pm_1"),
        ),
        ({"type": "link", "link": {}}, Method("wallet", "Link", None, None, "pm_1")),
        ({"type": "paypal", "paypal": {}}, Method("wallet", "PayPal", None, None, "pm_1")),
        (
            {"type": "sepa_debit", "sepa_debit": {"last4": "3000"}},
            Method("bank_debit", "SEPA", "3000", None, "pm_1"),
        ),
        (
            {
                "type": "us_bank_account",
                "us_bank_account": {"bank_name": "STRIPE TEST BANK", "last4": "6789"},
            },
            Method("bank_debit", "STRIPE TEST BANK", "6789", None, "pm_1"),
        ),
        ({"type": "upi", "upi": {}}, Method("upi", "Upi", None, None, "pm_1")),
        (
            {"object": "card", "brand": "Visa", "last4": "4242", "exp_month": 12, "exp_year": 2030},
            Method("card", "Visa", "4242", "2030-12", "pm_1"),
        ),
    ],
    ids=str,
)
def test_how_somebody_pays(details: dict[str, Any], method: Method) -> None:
    assert shapes.method_of(details, "pm_1") == method


def test_published_samples_are_read() -> None:
    folder = SHARED / "payloads" / "stripe"
    if not folder.is_dir():
        pytest.skip("the published samples are not here")
    read: list[str] = []
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text())
        one = found.get("object", found) if isinstance(found.get("object"), dict) else found
        if not isinstance(one.get("id"), str):
            continue
        match one.get("object"):
            case "subscription":
                assert recorded(one).remote_id == one["id"]
            case "charge":
                assert shapes.payment_record(one, [], None, {}, {}, ()).remote_id == one["id"]
            case "invoice":
                assert shapes.invoice_record(one, ()).remote_id == one["id"]
            case "customer":
                assert shapes.customer_record(one).remote_id == one["id"]
            case "checkout.session":
                assert shapes.order_record(one, (), []).remote_id == one["id"]
            case "refund":
                assert shapes.refund_record(one).remote_id == one["id"]
            case _:
                continue
        read.append(path.name)
    assert len(read) >= 10, read


# The wire: a server that answers as it is told


class Scripted:
    """Answers in order, or by path; keeps what was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], Any]] = []
        self.by_path: dict[str, Any] = {}
        self.asked: list[tuple[str, str, dict[str, str], dict[str, list[str]]]] = []
        self.delay = 0.0
        script = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                form = parse_qs(self.rfile.read(length).decode(), keep_blank_values=True)
                headers = {name.lower(): value for name, value in self.headers.items()}
                url = urlsplit(self.path)
                script.asked.append((self.command, url.path, headers, form or parse_qs(url.query)))
                time.sleep(script.delay)
                status, extra, body = script.next(url.path)
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **extra}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def next(self, path: str) -> tuple[int, dict[str, str], Any]:
        if self.answers:
            return self.answers.pop(0)
        if path in self.by_path:
            return 200, {}, self.by_path[path]
        return 404, {}, error("No such object", code="resource_missing")

    def says(self, status: int, body: Any, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append((status, named, body))

    def calls(self) -> list[str]:
        return [f"{method} {path}" for method, path, _, _ in self.asked]

    def keys(self) -> list[str]:
        return [headers["idempotency-key"] for _, _, headers, _ in self.asked if "idempotency-key" in headers]


def error(message: str, type: str = "invalid_request_error", **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, **fields}}


@pytest.fixture
def script() -> Iterator[Scripted]:
    found = Scripted()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join(5)


T_ = TypeVar("T_")


def run(address: str, what: Callable[[Adapter], Coroutine[Any, Any, T_]], **keys: str) -> T_:
    async def main() -> T_:
        adapter = Adapter(KEYS | keys, addresses={"api.stripe.com": address})
        try:
            return await what(adapter)
        finally:
            await adapter.aclose()

    return asyncio.run(main())


SUB = "/v1/subscriptions/sub_box"


def known(script: Scripted, **fields: Any) -> None:
    """The subscription can be read, and there is nothing else."""
    script.by_path["/v1/invoices"] = {"data": [], "has_more": False}
    script.by_path[SUB] = (
        subscription(customer="cus_ana", latest_invoice=None, default_payment_method=None) | fields
    )


def test_every_call_carries_the_key_and_the_pinned_version(script: Scripted) -> None:
    known(script)
    run(script.address, lambda stripe: stripe.fetch(BOX))
    assert VERSION == "2026-10-28.endive"
    for _, _, headers, _ in script.asked:
        assert headers["authorization"] == "Bearer sk_test_CoffeeBox01"
        assert headers["stripe-version"] == VERSION


def test_no_proxy_of_the_environment_is_used(script: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    known(script)
    assert run(script.address, lambda stripe: stripe.fetch(BOX)).subscription("sub_box")


def test_the_sdk_is_loaded_at_the_first_call_and_not_before() -> None:
    code = "import sys, portal.gateways.stripe; sys.exit('stripe' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


BROKEN = error("An error occurred.", type="api_error")


@pytest.mark.parametrize("status", [409, 500, 502, 503])
def test_a_read_is_tried_twice_more(script: Scripted, status: int) -> None:
    known(script)
    script.says(status, BROKEN)
    script.says(status, BROKEN)
    assert run(script.address, lambda stripe: stripe.fetch(BOX)).subscription("sub_box")
    assert script.calls()[:3] == [f"GET {SUB}"] * 3


def test_a_read_is_given_up_after_three_tries(script: Scripted) -> None:
    for _ in range(9):
        script.says(500, BROKEN)
    caught = failure(script, lambda stripe: stripe.fetch(BOX))
    assert isinstance(caught, Unavailable)
    assert not caught.sent
    assert script.calls() == [f"GET {SUB}"] * 3


def test_a_read_is_not_tried_again_where_stripe_advises_against_it(script: Scripted) -> None:
    script.says(500, BROKEN, Stripe_Should_Retry="false")
    assert isinstance(failure(script, lambda stripe: stripe.fetch(BOX)), Unavailable)
    assert len(script.asked) == 1


def test_a_limited_read_is_tried_again_only_where_stripe_says_so(script: Scripted) -> None:
    known(script)
    script.says(429, error("Too many requests"), Stripe_Should_Retry="true")
    assert run(script.address, lambda stripe: stripe.fetch(BOX)).subscription("sub_box")
    script.asked.clear()
    script.says(429, error("Too many requests"), Retry_After="7")
    caught = failure(script, lambda stripe: stripe.fetch(BOX))
    assert isinstance(caught, Unavailable)
    assert caught.retry_after == 7
    assert len(script.asked) == 1


def failure(
    script: Scripted, what: Callable[[Adapter], Coroutine[Any, Any, Any]], **keys: str
) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        run(script.address, what, **keys)
    return caught.value


def cancel(stripe: Adapter) -> Coroutine[Any, Any, Snapshot]:
    return stripe.cancel_at_period_end(BOX, "portal-7")


UNTOUCHED = "Nothing was changed."


@pytest.mark.parametrize(
    ("status", "body", "expected", "sent", "untouched"),
    [
        (429, error("Too many requests", code="rate_limit"), Unavailable, False, True),
        (400, error("Too many requests", code="rate_limit"), Unavailable, False, True),
        (409, error("Another request is in progress"), Unavailable, True, False),
        (400, error("This object is locked", code="lock_timeout"), Unavailable, False, True),
        (429, error("This object is locked", code="lock_timeout"), Unavailable, False, True),
        (401, error("Invalid API Key provided: sk_test_CoffeeBox01"), Unavailable, False, True),
        (403, error("Having the 'rak_subscription_write' permission would do."), Unavailable, False, True),
        (400, error("Keys for idempotent requests", type="idempotency_error"), Unavailable, True, False),
        (500, BROKEN, Unavailable, True, False),
        (503, b"<html>upstream</html>", Unavailable, True, False),
        (200, b"<html>hello</html>", Unavailable, True, False),
        (200, b"[1]", Unavailable, True, False),
        (302, b"", Unavailable, True, False),
    ],
    ids=str,
)
def test_what_goes_wrong_with_a_write(
    script: Scripted, status: int, body: Any, expected: type[GatewayError], sent: bool, untouched: bool
) -> None:
    script.says(200, subscription())
    script.says(status, body, **({"Location": "/elsewhere"} if status == 302 else {}))
    caught = failure(script, cancel)
    assert type(caught) is expected
    assert isinstance(caught, Unavailable)
    assert caught.sent is sent
    assert (UNTOUCHED in caught.customer) is untouched
    assert script.calls() == [f"GET {SUB}", f"POST {SUB}"], "a write is sent once"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, error("Received unknown parameter", code="parameter_unknown"), Declined),
        (404, error("No such subscription", code="resource_missing"), Gone),
        (400, error("No such customer", code="resource_missing", param="customer"), Gone),
    ],
    ids=str,
)
def test_what_stripe_refuses_is_looked_at_again(
    script: Scripted, status: int, body: Any, expected: type[GatewayError]
) -> None:
    known(script)
    script.says(200, subscription())
    script.says(status, body)
    assert type(failure(script, cancel)) is expected
    assert script.calls()[:3] == [f"GET {SUB}", f"POST {SUB}", f"GET {SUB}"]


def test_a_refusal_counts_as_done_where_the_fresh_look_shows_it(script: Scripted) -> None:
    """On one that was cancelled meanwhile Stripe says that only its details can be updated."""
    known(script, status="canceled", ended_at=BEFORE)
    script.says(200, subscription())
    script.says(400, error("A canceled subscription can only update its cancellation_details and metadata."))
    after = run(script.address, cancel).subscription("sub_box")
    assert after
    assert after.status == "cancelled"


def test_deleting_what_is_gone_is_done_only_if_the_fresh_look_says_cancelled(script: Scripted) -> None:
    missing = error("No such subscription: 'sub_box'", code="resource_missing")
    known(script)
    script.says(200, subscription())
    script.says(404, missing)
    assert isinstance(failure(script, lambda stripe: stripe.cancel_now(BOX, "k")), Gone)
    known(script, status="canceled", ended_at=BEFORE)
    script.says(200, subscription())
    script.says(404, missing)
    after = run(script.address, lambda stripe: stripe.cancel_now(BOX, "k")).subscription("sub_box")
    assert after
    assert after.status == "cancelled"


def test_the_key_is_the_same_on_every_try(script: Scripted) -> None:
    for _ in range(2):
        script.says(200, subscription())
        script.says(500, BROKEN)
        failure(script, cancel)
    assert script.keys() == ["portal-7", "portal-7"]


def test_a_failure_from_stripes_memory_makes_way_for_the_next_key(script: Scripted) -> None:
    """A saved 500 would come back for a day; the look just before shows that it had no effect."""
    known(script, cancel_at_period_end=True)
    script.says(200, subscription())
    script.says(500, BROKEN, Idempotent_Replayed="true")
    script.says(200, subscription(cancel_at_period_end=True))
    after = run(script.address, cancel).subscription("sub_box")
    assert after
    assert after.status == "cancels_at_period_end"
    assert script.keys()[:2] == ["portal-7", "portal-7-b"]


def test_a_fresh_failure_uses_up_no_further_key(script: Scripted) -> None:
    script.says(200, subscription())
    script.says(500, BROKEN, Idempotent_Replayed="true")
    script.says(500, BROKEN)
    caught = failure(script, cancel)
    assert isinstance(caught, Unavailable)
    assert caught.sent
    assert script.keys() == ["portal-7", "portal-7-b"]


def test_a_replayed_failure_ends_after_the_last_key(script: Scripted) -> None:
    script.says(200, subscription())
    for _ in range(9):
        script.says(500, BROKEN, Idempotent_Replayed="true")
    assert isinstance(failure(script, cancel), Unavailable)
    assert len(script.keys()) == 4


def test_a_card_that_is_declined_says_why_in_stripes_words(script: Scripted) -> None:
    script.says(200, subscription())
    said = error(
        "Your card has insufficient funds.",
        type="card_error",
        code="card_declined",
        decline_code="insufficient_funds",
    )
    script.says(402, said)
    caught = failure(script, lambda stripe: stripe.change_plan(BOX, {"plan": "price_2"}, "", "k"))
    assert isinstance(caught, Declined)
    assert (caught.reason, caught.customer) == ("insufficient_funds", "Your card has insufficient funds.")


def test_a_missing_permission_is_named_for_the_merchant(script: Scripted) -> None:
    script.says(
        403,
        error(
            "The provided key 'rk_test_*********Box1' does not have the required permissions for this endpoint on "
            "account 'acct_1Box'. Having the 'rak_subscription_read' permission would allow this request to continue."
        ),
    )
    caught = failure(script, lambda stripe: stripe.fetch(BOX))
    assert isinstance(caught, Unavailable)
    assert "rak_subscription_read" in caught.hint
    assert "rak_" not in caught.customer


def test_no_hint_holds_a_key(script: Scripted) -> None:
    script.says(401, error("Invalid API Key provided: sk_test_CoffeeBox01"))
    caught = failure(script, lambda stripe: stripe.fetch(BOX))
    told = "".join(traceback.format_exception(caught)) + caught.hint + caught.customer
    assert "CoffeeBox01" not in told


def test_a_write_that_never_reached_stripe_changed_nothing(script: Scripted) -> None:
    script.says(200, subscription())
    down = Scripted()
    down.server.server_close()

    async def cut_off(stripe: Adapter) -> Snapshot:
        await stripe._bare(BOX)
        stripe._wire._base = down.address
        stripe._wire._sdk = None
        return await stripe._update(BOX, "k", cancel_at_period_end="true")  # type: ignore[return-value]

    caught = failure(script, cut_off)
    assert isinstance(caught, Unavailable)
    assert not caught.sent
    assert UNTOUCHED in caught.customer
    assert caught.hint == "Stripe could not be reached."


@pytest.mark.parametrize("limit", ["READ_S", "TOTAL_S"])
def test_a_write_that_is_not_answered_in_time_is_unknown(
    script: Scripted, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(f"portal.gateways.http.{limit}", 0.4)
    script.says(200, subscription())
    script.says(200, subscription(cancel_at_period_end=True))

    async def slow(stripe: Adapter) -> Any:
        await stripe._bare(BOX)
        script.delay = 1.2
        return await stripe._update(BOX, "k", cancel_at_period_end="true")

    began = time.monotonic()
    caught = failure(script, slow)
    assert isinstance(caught, Unavailable)
    assert caught.sent
    assert UNTOUCHED not in caught.customer
    assert time.monotonic() - began < 3


def test_what_was_taken_but_cannot_be_read_back_is_unknown(script: Scripted) -> None:
    script.says(200, subscription())
    script.says(200, subscription(cancel_at_period_end=True))
    for _ in range(3):
        script.says(500, BROKEN)
    caught = failure(script, cancel)
    assert isinstance(caught, Unavailable)
    assert caught.sent


def test_half_of_a_change_is_never_called_nothing(script: Scripted) -> None:
    script.says(200, subscription(cancel_at_period_end=True, cancel_at=SOON))
    script.says(200, subscription(cancel_at=SOON))
    script.says(429, error("Too many requests"))
    caught = failure(script, lambda stripe: stripe.undo_cancel(BOX, "k"))
    assert isinstance(caught, Unavailable)
    assert caught.sent
    assert UNTOUCHED not in caught.customer


def test_a_host_that_keeps_failing_is_left_alone_for_a_while(script: Scripted) -> None:
    for _ in range(5):
        script.says(500, BROKEN, Stripe_Should_Retry="false")
    for _ in range(5):
        failure(script, lambda stripe: stripe.fetch(BOX))
    caught = failure(script, lambda stripe: stripe.fetch(BOX))
    assert isinstance(caught, Unavailable)
    assert caught.retry_after
    assert len(script.asked) == 5
    http.breaker("stripe", script.address).close()


# What is sent, field by field


def sent(script: Scripted, method: str = "POST") -> list[tuple[str, dict[str, list[str]]]]:
    return [
        (path, form)
        for verb, path, _, form in script.asked
        if verb == method and not path.endswith("create_preview")
    ]


def test_cancel_now_deletes_and_asks_for_no_last_invoice(script: Scripted) -> None:
    known(script, status="canceled", ended_at=BEFORE)
    script.says(200, subscription())
    script.says(200, subscription(status="canceled"))
    run(script.address, lambda stripe: stripe.cancel_now(BOX, "k"))
    assert sent(script, "DELETE") == [(SUB, {})]
    assert script.keys()[0] == "k"


def test_undo_sends_one_field_per_call(script: Scripted) -> None:
    known(script)
    script.says(200, subscription(cancel_at_period_end=True, cancel_at=SOON))
    script.says(200, subscription(cancel_at=SOON))
    script.says(200, subscription())
    run(script.address, lambda stripe: stripe.undo_cancel(BOX, "k"))
    assert sent(script) == [(SUB, {"cancel_at_period_end": ["false"]}), (SUB, {"cancel_at": [""]})]
    assert script.keys()[:2] == ["k", "k-2"]


def test_undo_of_a_date_looks_whether_the_flag_still_stands(script: Scripted) -> None:
    known(script)
    script.says(200, subscription(cancel_at=SOON))
    script.says(200, subscription(cancel_at_period_end=True))
    script.says(200, subscription())
    run(script.address, lambda stripe: stripe.undo_cancel(BOX, "k"))
    assert [form for _, form in sent(script)] == [{"cancel_at": [""]}, {"cancel_at_period_end": ["false"]}]
    assert script.keys()[:2] == ["k-2", "k-3"]


def test_undo_after_the_end_is_refused(script: Scripted) -> None:
    script.says(200, subscription(status="canceled"))
    assert isinstance(failure(script, lambda stripe: stripe.undo_cancel(BOX, "k")), Unsupported)


@pytest.mark.parametrize("wish", ["pause", "resume"])
def test_under_a_schedule_nothing_is_paused_or_resumed(script: Scripted, wish: str) -> None:
    script.says(200, subscription(schedule="sub_sched_1", pause_collection=PAUSED))
    caught = failure(script, lambda stripe: getattr(stripe, wish)(BOX, "k"))
    assert isinstance(caught, Unsupported)
    assert script.calls() == [f"GET {SUB}"]


def test_a_schedule_is_released_before_a_cancel(script: Scripted) -> None:
    known(script, cancel_at_period_end=True)
    script.says(200, subscription(schedule="sub_sched_1"))
    script.says(200, {"id": "sub_sched_1", "object": "subscription_schedule"})
    script.says(200, subscription(cancel_at_period_end=True))
    run(script.address, cancel)
    assert [path for path, _ in sent(script)] == ["/v1/subscription_schedules/sub_sched_1/release", SUB]
    assert script.keys()[:2] == ["portal-7-release", "portal-7"]


def test_only_what_is_paid_up_is_paused(script: Scripted) -> None:
    script.says(200, subscription(status="past_due"))
    assert isinstance(failure(script, lambda stripe: stripe.pause(BOX, "k")), Unsupported)


def test_what_is_paid_by_invoice_is_not_resumed_by_us(script: Scripted) -> None:
    script.says(200, subscription(status="paused", collection_method="send_invoice"))
    assert isinstance(failure(script, lambda stripe: stripe.resume(BOX, "k")), Unsupported)


def test_a_change_of_plan_names_the_item(script: Scripted) -> None:
    known(script)
    script.says(200, subscription())
    script.says(200, subscription())
    change = {"plan": "price_box36", "quantity": 2}
    run(script.address, lambda stripe: stripe.change_plan(BOX, change, "https://x.example/r", "k"))
    ((_, form),) = sent(script)
    assert form == {
        "items[0][id]": ["si_box"],
        "items[0][price]": ["price_box36"],
        "items[0][quantity]": ["2"],
        "proration_behavior": ["create_prorations"],
        "payment_behavior": ["pending_if_incomplete"],
    }


@pytest.mark.parametrize(
    "change", [{}, {"amount": Money(1, "USD")}, {"interval": Interval("year")}, {"plan": ""}]
)
def test_only_plan_and_quantity_can_be_changed(script: Scripted, change: dict[str, Any]) -> None:
    caught = failure(script, lambda stripe: stripe.change_plan(BOX, change, "", "k"))
    assert isinstance(caught, Unsupported)
    assert script.asked == []


def test_checkout_gets_what_it_needs_to_come_back(script: Scripted) -> None:
    script.says(200, subscription())
    script.says(200, {"id": "cs_test_1", "url": "https://checkout.stripe.com/c/pay/cs_test_1"})
    back = "https://acme.example/customers/return/abc"
    leave = run(script.address, lambda stripe: stripe.start_method_update(BOX, back, "k"))
    assert leave == Leave("https://checkout.stripe.com/c/pay/cs_test_1", {"session": "cs_test_1"})
    assert facts("stripe").allows_link(leave.url)
    assert sent(script) == [
        (
            "/v1/checkout/sessions",
            {
                "mode": ["setup"],
                "customer": ["cus_ana"],
                "currency": ["usd"],
                "success_url": [f"{back}?session_id={{CHECKOUT_SESSION_ID}}"],
                "cancel_url": [f"{back}?cancelled=1"],
                "metadata[subscription_id]": ["sub_box"],
                "setup_intent_data[metadata][subscription_id]": ["sub_box"],
            },
        )
    ]


def test_a_customer_of_the_second_accounts_api_is_named_as_one(script: Scripted) -> None:
    script.says(200, subscription(customer=None, customer_account="acct_1Ana"))
    script.says(200, {"id": "cs_test_1", "url": "https://checkout.stripe.com/c/pay/cs_test_1"})
    run(script.address, lambda stripe: stripe.start_method_update(BOX, "https://a.example/r?x=1", "k"))
    ((_, form),) = sent(script)
    assert (form["customer_account"], "customer" in form) == (["acct_1Ana"], False)
    assert form["cancel_url"] == ["https://a.example/r?x=1&cancelled=1"]


def test_under_managed_payments_stripes_own_portal_is_opened(script: Scripted) -> None:
    script.says(200, subscription(managed_payments={"enabled": True}))
    script.says(200, {"id": "bps_1", "url": "https://billing.stripe.com/p/session/test_1"})
    back = "https://acme.example/customers/return/abc"
    leave = run(
        script.address,
        lambda stripe: stripe.start_method_update(BOX, back, "k"),
        portal_configuration="bpc_Box01",
    )
    assert leave.url == "https://billing.stripe.com/p/session/test_1"
    ((path, form),) = sent(script)
    assert path == "/v1/billing_portal/sessions"
    assert form["configuration"] == ["bpc_Box01"]
    assert form["flow_data[type]"] == ["payment_method_update"]
    assert form["flow_data[after_completion][redirect][return_url]"] == [back]
    assert not [name for name in form if name.startswith("after_expiration")]


def test_a_portal_that_was_never_set_up_is_a_hint_for_the_merchant(script: Scripted) -> None:
    script.says(200, subscription(managed_payments={"enabled": True}))
    script.says(400, error("No configuration provided and your default configuration has not been created."))
    caught = failure(script, lambda stripe: stripe.start_method_update(BOX, "https://a.example/r", "k"))
    assert isinstance(caught, Unsupported)
    assert "Customer portal" in caught.hint


# Fetching: the odd cases


def one_of(snapshot: Snapshot) -> SubscriptionRecord:
    (record,) = snapshot.subscriptions
    return record


def test_without_a_preview_there_is_no_next_payment(script: Scripted) -> None:
    known(script)
    record = one_of(run(script.address, lambda stripe: stripe.fetch(BOX)))
    assert "POST /v1/invoices/create_preview" in script.calls()
    assert record.next_payment is None
    assert record.knows is None


def test_a_preview_that_cannot_be_had_keeps_what_was_known(script: Scripted) -> None:
    script.says(200, subscription(latest_invoice=None, customer="cus_ana", default_payment_method=None))
    script.says(200, {"id": "prod_box", "name": "Coffee box"})
    script.says(403, error("Having the 'rak_invoice_write' permission would do."))
    record = one_of(run(script.address, lambda stripe: stripe.fetch(BOX)))
    assert record.knows is not None
    assert "next_payment" not in record.knows
    assert {"status", "amount", "method"} <= record.knows


def test_the_preview_names_the_amount_and_the_item_the_date(script: Scripted) -> None:
    known(script)
    script.by_path["/v1/invoices/create_preview"] = {
        "object": "invoice",
        "amount_due": 2952,
        "currency": "usd",
    }
    record = one_of(run(script.address, lambda stripe: stripe.fetch(BOX)))
    assert record.next_payment == NextPayment(date(2026, 12, 21), Money(2952, "USD"), "fixed")


def test_what_is_still_collected_at_the_end_is_shown(script: Scripted) -> None:
    known(script, cancel_at=1797862400)
    script.by_path["/v1/invoices/create_preview"] = {
        "object": "invoice",
        "amount_due": 700,
        "currency": "usd",
    }
    record = one_of(run(script.address, lambda stripe: stripe.fetch(BOX)))
    assert record.next_payment == NextPayment(date(2026, 12, 21), Money(700, "USD"), "fixed")
    script.by_path["/v1/invoices/create_preview"]["amount_due"] = 0
    assert one_of(run(script.address, lambda stripe: stripe.fetch(BOX))).next_payment is None


@pytest.mark.parametrize(
    "fields",
    [{"pause_collection": PAUSED}, {"status": "paused"}, {"status": "unpaid"}, {"status": "canceled"}],
    ids=str,
)
def test_what_is_not_billed_is_not_asked_for(script: Scripted, fields: dict[str, Any]) -> None:
    known(script, **fields)
    assert one_of(run(script.address, lambda stripe: stripe.fetch(BOX))).next_payment is None
    assert "POST /v1/invoices/create_preview" not in script.calls()


def test_prices_by_use_make_the_next_amount_an_estimate(script: Scripted) -> None:
    one = subscription()
    one["items"]["data"][0]["price"]["recurring"]["usage_type"] = "metered"
    known(script, items=one["items"])
    script.by_path["/v1/invoices/create_preview"] = {"object": "invoice", "amount_due": 31, "currency": "usd"}
    record = one_of(run(script.address, lambda stripe: stripe.fetch(BOX)))
    assert record.next_payment
    assert record.next_payment.certainty == "estimated"


def test_the_customers_default_is_used_where_the_subscription_has_no_method(script: Scripted) -> None:
    card = json.loads(payload("payment_method.attached"))["data"]["object"]
    settings = {"default_payment_method": "pm_mc"}
    known(script, customer={"id": "cus_ana", "email": "ana@example.com", "invoice_settings": settings})
    script.by_path["/v1/payment_methods/pm_mc"] = card
    record = one_of(run(script.address, lambda stripe: stripe.fetch(BOX)))
    assert record.method == Method("card", "Mastercard", "4444", "2030-01", "pm_mc")
    assert record.email == "ana@example.com"


def test_a_card_of_the_old_kind_is_found(script: Scripted) -> None:
    known(script, customer={"id": "cus_ana", "default_source": "card_1"})
    script.by_path["/v1/payment_methods/card_1"] = {
        "id": "card_1",
        "type": "card",
        "card": {"brand": "visa", "last4": "4242", "exp_month": 9, "exp_year": 2028},
    }
    record = one_of(run(script.address, lambda stripe: stripe.fetch(BOX)))
    assert record.method == Method("card", "Visa", "4242", "2028-09", "card_1")


def test_a_change_that_waits_for_payment_is_shown_as_pending(script: Scripted) -> None:
    item = subscription()["items"]["data"][0]
    waiting = {"expires_at": SOON, "subscription_items": [item | {"quantity": 2}]}
    known(script, pending_update=waiting)
    script.by_path["/v1/products/prod_box"] = {"id": "prod_box", "name": "Coffee box"}
    record = one_of(run(script.address, lambda stripe: stripe.fetch(BOX)))
    assert record.pending_change == PendingChange(None, Money(4800, "USD"), "Coffee box", 2)
    assert script.calls().count("GET /v1/products/prod_box") == 1


def test_where_the_latest_invoice_is_a_draft_the_older_open_one_is_due(script: Scripted) -> None:
    open_one = json.loads(payload("invoice.payment_failed"))["data"]["object"]
    known(script, status="unpaid", latest_invoice=open_one | {"id": "in_next", "status": "draft"})
    script.by_path["/v1/invoices"] = {"data": [open_one], "has_more": False}
    record = one_of(run(script.address, lambda stripe: stripe.fetch(BOX)))
    assert record.due == Money(2400, "USD")
    leave = run(script.address, lambda stripe: stripe.pay_now(BOX, "https://a.example/r", "k"))
    assert isinstance(leave, Leave)
    assert leave.url == open_one["hosted_invoice_url"]
    assert facts("stripe").allows_link(leave.url)


def test_an_old_charge_names_its_invoice(script: Scripted) -> None:
    script.by_path["/v1/charges/ch_box3"] = charge(payment_intent=None, invoice="in_box3")
    script.by_path["/v1/invoices/in_box3"] = json.loads(payload("invoice.paid-2019"))["data"]["object"]
    script.by_path["/v1/refunds"] = {"data": [], "has_more": False}
    snapshot = run(script.address, lambda stripe: stripe.fetch(Ref("payment", "ch_box3")))
    (record,) = snapshot.payments
    assert (record.invoice, record.subscription, record.order) == ("in_box3", "sub_box", None)


def test_an_old_invoice_names_its_charge(script: Scripted) -> None:
    known(script)
    script.by_path["/v1/invoices/in_box3"] = json.loads(payload("invoice.paid-2019"))["data"]["object"]
    script.by_path["/v1/charges/ch_box3"] = charge()
    script.by_path["/v1/refunds"] = {"data": [], "has_more": False}
    snapshot = run(script.address, lambda stripe: stripe.fetch(Ref("invoice", "in_box3")))
    assert [record.remote_id for record in snapshot.payments] == ["ch_box3"]
    assert [record.payment for record in snapshot.invoices] == ["ch_box3"]
    assert [record.remote_id for record in snapshot.subscriptions] == ["sub_box"]


def test_an_invoice_of_a_one_off_sale_is_an_order(script: Scripted) -> None:
    one_off = json.loads(payload("invoice.paid"))["data"]["object"] | {"parent": None}
    script.by_path["/v1/charges/ch_box3"] = charge()
    script.by_path["/v1/invoice_payments"] = {
        "data": [{"id": "inpay_1", "invoice": one_off}],
        "has_more": False,
    }
    script.by_path["/v1/refunds"] = {"data": [], "has_more": False}
    snapshot = run(script.address, lambda stripe: stripe.fetch(Ref("payment", "ch_box3")))
    (order,) = snapshot.orders
    assert (order.remote_id, order.number, order.status) == ("in_box3", "ANA00001-0003", "paid")
    assert order.lines == (Line("1 × Coffee box (at $24.00 / month)", 1, Money(2400, "USD")),)
    assert snapshot.payments[0].order == "in_box3"


def test_a_charge_that_nothing_explains_is_an_order(script: Scripted) -> None:
    script.by_path["/v1/charges/ch_box3"] = charge(description="Guji, 2 bags", receipt_email="bo@example.com")
    script.by_path["/v1/refunds"] = {"data": [], "has_more": False}
    snapshot = run(script.address, lambda stripe: stripe.fetch(Ref("payment", "ch_box3")))
    (order,) = snapshot.orders
    assert (order.remote_id, order.title, order.email) == ("ch_box3", "Guji, 2 bags", "bo@example.com")


def test_a_failed_try_does_not_unpay_the_order(script: Scripted) -> None:
    """Events come in any order: the first card was declined, the second one paid."""
    failed = json.loads(payload("charge.failed"))["data"]["object"]
    script.by_path["/v1/charges/ch_box3a"] = failed
    script.by_path["/v1/checkout/sessions"] = {"data": [session(line_items={"data": []})], "has_more": False}
    script.by_path["/v1/invoice_payments"] = {"data": [], "has_more": False}
    snapshot = run(script.address, lambda stripe: stripe.fetch(Ref("payment", "ch_box3a")))
    assert [record.status for record in snapshot.payments] == ["failed"]
    assert snapshot.orders == ()


def test_a_released_authorization_has_no_refund(script: Scripted) -> None:
    let_go = charge(
        captured=False, amount_captured=0, refunded=True, amount_refunded=2400, payment_intent=None
    )
    script.by_path["/v1/charges/ch_box3"] = let_go
    snapshot = run(script.address, lambda stripe: stripe.fetch(Ref("payment", "ch_box3")))
    assert [record.status for record in snapshot.payments] == ["cancelled"]
    assert snapshot.refunds == ()
    assert "GET /v1/refunds" not in script.calls()


def test_more_than_ten_lines_are_all_read(script: Scripted) -> None:
    lines = [
        {"id": f"il_{n}", "amount": 100, "currency": "usd", "description": f"Tea {n}"} for n in range(12)
    ]
    one = json.loads(payload("invoice.paid"))["data"]["object"] | {"parent": None}
    script.by_path["/v1/invoices/in_box3"] = one | {"lines": {"data": lines[:10], "has_more": True}}
    script.by_path["/v1/invoices/in_box3/lines"] = {"data": lines, "has_more": False}
    snapshot = run(script.address, lambda stripe: stripe.fetch(Ref("invoice", "in_box3")))
    assert len(snapshot.invoices[0].lines) == 12


def test_a_deleted_customer_is_known_as_deleted(script: Scripted) -> None:
    script.by_path["/v1/customers/cus_ana"] = {"id": "cus_ana", "object": "customer", "deleted": True}
    snapshot = run(script.address, lambda stripe: stripe.fetch(Ref("customer", "cus_ana")))
    (record,) = snapshot.customers
    assert record.deleted
    assert record.knows == frozenset({"deleted"})


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("customer.subscription.deleted", ("subscriptions", "status", "cancelled")),
        ("customer.deleted", ("customers", "deleted", True)),
        ("invoice.deleted", ("invoices", "status", "void")),
    ],
)
def test_of_what_stripe_has_deleted_the_proved_event_is_the_last_word(
    script: Scripted, name: str, found: tuple[str, str, Any]
) -> None:
    (event,) = verify(payload(name))
    snapshot = run(script.address, lambda stripe: stripe.refetch(event))
    assert snapshot
    kind, field, value = found
    (record,) = getattr(snapshot, kind)
    assert getattr(record, field) == value
    assert field in record.knows


def test_of_anything_else_that_is_gone_nothing_is_said(script: Scripted) -> None:
    (event,) = verify(payload("charge.refunded"))
    assert isinstance(failure(script, lambda stripe: stripe.refetch(event)), Gone)


def test_an_event_without_a_subject_asks_for_nothing(script: Scripted) -> None:
    (event,) = verify(payload("product.updated"))
    assert run(script.address, lambda stripe: stripe.refetch(event)) is None
    assert script.asked == []


def test_an_address_is_looked_up_as_typed_and_in_lower_case(script: Scripted) -> None:
    script.by_path["/v1/customers"] = {"data": [{"id": "cus_ana"}, {"id": "cus_ana2"}], "has_more": False}
    script.by_path["/v1/checkout/sessions"] = {"data": [session(), session(id="cs_2", status="expired")]}
    found = run(script.address, lambda stripe: stripe.find("Ana@Example.com"))
    assert found == [Ref("customer", "cus_ana"), Ref("customer", "cus_ana2"), Ref("order", "cs_test_a1Guji")]
    assert [form["email"] for _, path, _, form in script.asked if path == "/v1/customers"] == [
        ["Ana@Example.com"],
        ["ana@example.com"],
    ]
    assert script.asked[1][3]["customer_details[email]"] == ["Ana@Example.com"]


# The file of an invoice

PDF = b"%PDF-1.4 an invoice"


def document(script: Scripted, url: str) -> Any:
    script.by_path["/v1/invoices/in_box3"] = {"id": "in_box3", "number": "A/1 2", "invoice_pdf": url}
    return run(script.address, lambda stripe: stripe.invoice_document(Ref("invoice", "in_box3")))


def test_the_file_is_streamed_under_a_plain_name(script: Scripted) -> None:
    script.by_path["/pdf"] = PDF
    found = document(script, f"{script.address}/pdf")
    assert (found.content_type, found.filename, found.content) == ("application/pdf", "A-1-2.pdf", PDF)
    assert "authorization" not in script.asked[-1][2]


def test_a_draft_has_no_file(script: Scripted) -> None:
    script.by_path["/v1/invoices/in_box3"] = {"id": "in_box3", "invoice_pdf": None}
    assert run(script.address, lambda stripe: stripe.invoice_document(Ref("invoice", "in_box3"))) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://pay.stripe.com/invoice/1/pdf",
        "https://pay.stripe.com.evil.example/pdf",
        "https://pay.stripe.com@evil.example/pdf",
        "https://evil.example/pay.stripe.com/pdf",
        "https://127.0.0.1:1/pdf",
        "file:///etc/passwd",
        "ftp://pay.stripe.com/pdf",
        "https://pay.stripe.com\\@evil.example/pdf",
        "not an address",
    ],
)
def test_a_file_elsewhere_is_not_read(script: Scripted, url: str) -> None:
    with pytest.raises(Unavailable, match="own hosts"):
        document(script, url)
    assert script.calls() == ["GET /v1/invoices/in_box3"]


def test_a_redirect_within_stripes_hosts_is_followed_and_any_other_is_not(script: Scripted) -> None:
    def moved(to: str) -> Any:
        script.says(200, {"id": "in_box3", "number": None, "invoice_pdf": f"{script.address}/old"})
        script.says(302, b"", Location=to)
        return run(script.address, lambda stripe: stripe.invoice_document(Ref("invoice", "in_box3")))

    script.by_path["/new"] = PDF
    assert moved("/new").content == PDF
    with pytest.raises(Unavailable, match="own hosts"):
        moved("https://storage.example/box3.pdf")


def test_a_redirect_without_end_is_given_up(script: Scripted) -> None:
    for _ in range(4):
        script.says(302, b"", Location="/again")
    script.answers.insert(0, (200, {}, {"id": "in_box3", "invoice_pdf": f"{script.address}/again"}))
    with pytest.raises(Unavailable, match="again and again"):
        run(script.address, lambda stripe: stripe.invoice_document(Ref("invoice", "in_box3")))


def test_a_page_is_no_file(script: Scripted) -> None:
    script.by_path["/pdf"] = b"<html>This link has expired"
    with pytest.raises(Unavailable, match="no PDF"):
        document(script, f"{script.address}/pdf")


def test_a_file_too_large_is_not_read(script: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portal.gateways._stripe.wire.MAX_FILE", 1000)
    script.by_path["/pdf"] = PDF + b" " * 2000
    with pytest.raises(Unavailable, match="larger"):
        document(script, f"{script.address}/pdf")


def test_an_expired_file_is_not_to_be_had(script: Scripted) -> None:
    with pytest.raises(Unavailable, match="404"):
        document(script, f"{script.address}/missing")
