"""Flutterwave: major units, dates that are worked out, joins without a link, a header that proves no body, and ids that
are answered 400."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Coroutine
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import httpx2 as httpx
import pytest

from portal import clock
from portal.gateways._flutterwave import charges, fields, records
from portal.gateways._flutterwave.api import KeysRefused
from portal.gateways.base import (
    BadSignature,
    CustomerRecord,
    Declined,
    Event,
    Failure,
    GatewayError,
    Gone,
    Interval,
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
from portal.gateways.capabilities import KEYS, Circumstances, disagreements, facts
from portal.gateways.flutterwave import Adapter
from portal.money import Money
from tests.conftest import SHARED

T = TypeVar("T")
NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
PAYLOADS = SHARED / "payloads" / "flutterwave"
KEY, HASH = "FLWSECK-0123456789abcdef0123456789abcdef-X", "a-long-hash-of-our-own"
V3 = {"secret_key": KEY, "secret_hash": HASH}
V4 = {"client_id": "client-0123", "client_secret": "secret-4567", "secret_hash": HASH}
CARD = {
    "first_6digits": "553188",
    "last_4digits": "2950",
    "issuer": "ACCESS BANK",
    "country": "NIGERIA NG",
    "type": "MASTERCARD",
    "token": "flw-t1nf-spendme-m03k",
    "expiry": "09/32",
}
PLAN = {"id": 3657, "name": "Coffee beans", "amount": 8500, "interval": "monthly", "duration": 0}
PLAN |= {"status": "active", "currency": "NGN"}
PLANS = {"3657": PLAN}


@pytest.fixture(autouse=True)
def _on_that_morning() -> None:
    clock.set_offset(NOW - datetime.now(UTC))


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def sub(**more: Any) -> dict[str, Any]:
    return {
        "id": 4147,
        "amount": 8500,
        "customer": {"id": 247546, "customer_email": "ada@example.com"},
        "plan": 3657,
        "status": "active",
        "created_at": "2026-09-10T07:00:00.000Z",
        **more,
    }


def tx(**more: Any) -> dict[str, Any]:
    return {
        "id": 288200108,
        "tx_ref": "order-1",
        "amount": 8500,
        "charged_amount": 8500,
        "currency": "NGN",
        "processor_response": "Approved by Financial Institution",
        "narration": "CARD Transaction ",
        "status": "successful",
        "payment_type": "card",
        "created_at": "2026-11-10T07:00:05.000Z",
        "card": CARD,
        "customer": {"id": 1, "name": "Ada Eze", "email": "Ada@example.com"},
        **more,
    }


def charge4(**more: Any) -> dict[str, Any]:
    return {
        "id": "chg_zH0BLoNltt",
        "amount": 175.5,
        "currency": "NGN",
        "customer_id": "cus_WWVaC0InrN",
        "meta": {},
        "payment_method_details": {
            "type": "card",
            "card": {"network": "VISA", "last4": "4242", "expiry_month": "8", "expiry_year": "32"},
        },
        "reference": "deac44b2",
        "status": "succeeded",
        "processor_response": {"type": "approved", "code": "00"},
        "created_datetime": "2026-06-02T07:47:02.537812148Z",
        **more,
    }


def payment(said: Any) -> PaymentRecord:
    record = Adapter.read("payment", said)
    assert isinstance(record, PaymentRecord)
    return record


def refund(**more: Any) -> RefundRecord:
    record = Adapter.read(
        "refund", {"id": 8612, "tx_id": 5708, "amount_refunded": 50, "currency": "NGN", **more}
    )
    assert isinstance(record, RefundRecord)
    return record


def looked(tries: list[dict[str, Any]], counted: bool = False, **plan: Any) -> SubscriptionRecord:
    return records.read_subscription(sub(), {**PLAN, **plan}, tries, counted)


def ago(**delta: float) -> str:
    return (NOW - timedelta(**delta)).isoformat()


# Facts


def test_facts_and_adapter_agree() -> None:
    assert disagreements("flutterwave", Adapter) == []


def test_v4_accounts_have_invoices_and_refunds_and_nothing_else() -> None:
    table = facts("flutterwave")
    under = {key: table.capabilities[key].under(Circumstances(state="active", variant="v4")) for key in KEYS}
    assert {key for key, shape in under.items() if shape.mode != "none"} == {"invoice", "refunds"}
    for key in set(KEYS) - {"invoice", "refunds", "skip_next_payment", "pay_now"}:
        assert "has no subscriptions" in (under[key].note or ""), key


@pytest.mark.parametrize(
    ("state", "options", "mode", "how"),
    [
        ("active", (), "request", None),
        ("past_due", (), "emulated", "calls"),
        ("cancels_at_period_end", (), "emulated", "calls"),
        ("active", ("new_checkout",), "emulated", "calls"),
        ("active", ("activate",), "request", None),
    ],
)
def test_a_new_checkout_is_offered_when_past_due_ending_or_opted_in(
    state: str, options: tuple[str, ...], mode: str, how: str | None
) -> None:
    fact = facts("flutterwave").capabilities["update_payment_method"]
    shape = fact.under(Circumstances(state=state, variant="v3", option=frozenset(options)))
    assert (shape.mode, shape.how) == (mode, how)


@pytest.mark.parametrize("state", ["cancels_at_period_end", "cancelled"])
def test_undo_is_direct_only_when_the_merchant_opts_in(state: str) -> None:
    fact = facts("flutterwave").capabilities["undo_cancel"]
    assert fact.under(Circumstances(state=state, variant="v3")).mode == "request"
    opted = fact.under(Circumstances(state=state, variant="v3", option=frozenset({"activate"})))
    assert (opted.mode, opted.confidence) == ("direct", "unverified")


# Amounts


@pytest.mark.parametrize(
    ("said", "currency", "money"),
    [
        (100, "NGN", Money(10000, "NGN")),
        ("100", "NGN", Money(10000, "NGN")),
        (98.6, "NGN", Money(9860, "NGN")),
        (60000.5, "KES", Money(6000050, "KES")),
        (1200, "UGX", Money(1200, "UGX")),
        (1200, "XOF", Money(1200, "XOF")),
        (12.5, "UGX", None),  # half a shilling is no amount
        (0.001, "NGN", None),
        ("many", "NGN", None),
        (100, None, None),
    ],
)
def test_amounts_are_major_units_numbers_or_text(
    said: Any, currency: str | None, money: Money | None
) -> None:
    assert payment(tx(amount=said, charged_amount=said, currency=currency)).amount == money


def test_charged_amount_differs_when_fees_are_passed_on_and_the_order_shows_both() -> None:
    record = Adapter.read("order", tx(charged_amount=8619.5, meta={"item": "Tote bag"}))
    assert isinstance(record, OrderRecord)
    assert record.amount == Money(861950, "NGN")
    assert record.lines == (
        Line("Tote bag", 1, Money(850000, "NGN")),
        Line("Transaction fee", 1, Money(11950, "NGN")),
    )


def test_an_amount_below_one_minor_unit_leaves_what_was_asked() -> None:
    assert payment(tx(charged_amount=8500.001)).amount == Money(850000, "NGN")


@pytest.mark.parametrize(("minor", "written"), [(850000, 8500), (850050, 8500.5), (1, 0.01)])
def test_amounts_are_written_in_major_units(minor: int, written: float) -> None:
    assert fields.written(Money(minor, "NGN")) == written


# Words


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("successful", "paid"),
        ("pending", "pending"),
        ("failed", "failed"),
        ("succeeded", "paid"),
        ("voided", "cancelled"),
        ("reversed", None),
        ("refunded", None),
        (7, None),
    ],
)
def test_status_of_a_payment(word: Any, status: str | None) -> None:
    record = payment(tx(status=word))
    assert (record.status, record.raw_status) == (status, str(word))
    assert ("status" in (record.knows or ())) == (status is not None)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("completed", "sent"),
        ("completed-bank-transfer", "sent"),
        ("completed-momo", "sent"),
        ("completed-mpgs", "sent"),
        ("succeeded", "sent"),
        ("disburse-failed", "failed"),
        ("failed", "failed"),
        ("cancelled", "cancelled"),
        ("initiated", "pending"),
        ("new", "pending"),
        ("requires_action", "pending"),
        (None, None),
    ],
)
def test_status_of_a_refund(word: str | None, status: str | None) -> None:
    assert refund(status=word).status == status


def test_a_refund_is_spelled_in_two_ways() -> None:
    other = Adapter.read(
        "refund",
        {"id": 8612, "TransactionId": 5708, "AmountRefunded": "50", "currency": "NGN", "status": "completed"}
        | {"meta": '{"source":"availablebalance"}'},
    )
    assert isinstance(other, RefundRecord)
    assert (other.payment, other.amount, other.status) == ("5708", Money(5000, "NGN"), "sent")
    assert (refund().payment, refund().amount) == ("5708", Money(5000, "NGN"))


@pytest.mark.parametrize(
    ("word", "status"),
    [("active", "active"), ("cancelled", "cancelled"), ("deactivated", "cancelled"), ("asleep", None)],
)
def test_status_of_a_subscription(word: str, status: str | None) -> None:
    record = Adapter.read("subscription", {"status": "success", "data": sub(status=word)})
    assert isinstance(record, SubscriptionRecord)
    assert (record.status, record.raw_status) == (status, word)
    assert ("status" in (record.knows or ())) == (status is not None)


@pytest.mark.parametrize(
    ("word", "interval"),
    [
        ("daily", Interval("day")),
        ("weekly", Interval("week")),
        ("monthly", Interval("month")),
        ("quarterly", Interval("month", 3)),
        ("bi-annually", Interval("month", 6)),
        ("yearly", Interval("year")),
        ("every 90 days", Interval("day", 90)),
        ("every 1 month", Interval("month")),
        ("Every 2 Weeks", Interval("week", 2)),
        ("hourly", None),
        ("every 0 days", None),
        ("sometimes", None),
        (None, None),
    ],
)
def test_intervals_of_plans(word: str | None, interval: Interval | None) -> None:
    assert fields.interval_of({"interval": word}) == interval


@pytest.mark.parametrize(
    ("said", "method"),
    [
        ({}, Method("card", "Mastercard", "2950", "2032-09")),
        ({"card": None}, None),
        ({"payment_type": "account", "card": None}, Method("bank_debit")),
        ({"payment_type": "bank_transfer"}, Method("bank_transfer")),
        ({"payment_type": "ussd"}, Method("bank_transfer")),
        ({"payment_type": "mobilemoneygh"}, Method("wallet")),
        ({"payment_type": "mpesa"}, Method("wallet")),
        ({"payment_type": "barter"}, Method("barter")),
    ],
)
def test_how_a_transaction_was_paid(said: dict[str, Any], method: Method | None) -> None:
    assert payment(tx(**said)).method == method


def test_tokens_and_first_digits_of_cards_are_nowhere() -> None:
    found = [*records.read_sale(tx()), looked([tx()])]
    assert "spendme" not in repr(found)
    assert "553188" not in repr(found)


# What is worked out


def test_next_payment_is_estimated_from_the_last_charge_and_the_interval() -> None:
    record = looked([tx(), tx(id=7, created_at="2026-10-10T07:00:05.000Z")])
    assert record.next_payment == NextPayment(date(2026, 12, 10), Money(850000, "NGN"), "estimated")
    assert record.current_period_end == datetime(2026, 12, 10, 7, 0, 5, tzinfo=UTC)
    assert (record.title, record.method) == ("Coffee beans", Method("card", "Mastercard", "2950", "2032-09"))


def test_with_no_charge_in_sight_the_first_one_is_the_day_it_began() -> None:
    record = records.read_subscription(sub(created_at=ago(days=5)), PLAN, [])
    assert record.next_payment is not None
    assert record.next_payment.on == date(2026, 12, 19)


def test_a_renewal_that_is_overdue_and_unseen_names_no_date() -> None:
    record = looked([tx(created_at="2026-10-10T07:00:00Z")])
    assert (record.status, record.next_payment) == ("active", None)
    assert "next_payment" in (record.knows or ())
    assert record.current_period_end == datetime(2026, 11, 10, 7, tzinfo=UTC)


def test_dates_are_left_alone_where_charges_were_not_asked_for() -> None:
    record = records.read_subscription(sub(), PLAN)
    assert not {"next_payment", "current_period_end", "method"} & (record.knows or frozenset())


@pytest.mark.parametrize(
    ("last", "begun", "next_"),
    [
        ("2026-02-28", "2026-01-31", "2026-03-31"),
        ("2026-02-28", "2026-01-28", "2026-03-28"),
        ("2026-01-31", "2026-01-31", "2026-02-28"),
    ],
)
def test_the_ends_of_months(last: str, begun: str, next_: str) -> None:
    at, first = (datetime.fromisoformat(f"{day}T06:00+00:00") for day in (last, begun))
    assert str(fields.later(at, Interval("month"), first).date()) == next_


@pytest.mark.parametrize(("hours", "status"), [(0.2, "past_due"), (1.9, "past_due"), (2.1, "active")])
def test_a_failed_charge_of_the_last_two_hours_is_past_due(hours: float, status: str) -> None:
    failed = tx(id=9, status="failed", created_at=ago(hours=hours))
    record = looked([failed, tx(created_at="2026-10-24T08:00:00Z")])
    assert record.status == status
    due = (Money(850000, "NGN"), NOW.date()) if status == "past_due" else (None, None)
    assert (record.due, record.retries_on) == due
    assert record.next_payment is None


def test_a_failure_before_a_success_is_no_debt() -> None:
    failed = tx(id=9, status="failed", created_at=ago(hours=1.5))
    record = looked([tx(created_at=ago(hours=1)), failed])
    assert (record.status, record.due) == ("active", None)


def test_a_plan_whose_charges_are_used_up_has_expired() -> None:
    three = [tx(id=number) for number in range(3)]
    ended = records.read_subscription(sub(status="cancelled"), {**PLAN, "duration": 3}, three, counted=True)
    early = records.read_subscription(
        sub(status="cancelled"), {**PLAN, "duration": 3}, three[:2], counted=True
    )
    unsure = records.read_subscription(sub(status="cancelled"), {**PLAN, "duration": 3}, three)
    assert [one.status for one in (ended, early, unsure)] == ["expired", "cancelled", "cancelled"]
    assert looked(three, counted=True, duration=3).next_payment is None


def test_a_plan_of_no_price_leaves_the_amount_of_the_checkout() -> None:
    assert records.read_subscription(sub(amount="1200.5"), {**PLAN, "amount": 0}).amount == Money(
        120050, "NGN"
    )


# Joins


def joined(said: dict[str, Any], *theirs: dict[str, Any], **plan: Any) -> tuple[str | None, bool]:
    found, of_none = charges.whose(
        said, theirs or (sub(),), {"3657": {**PLAN, **plan}, "9": {**PLAN, "id": 9}}
    )
    return (fields.id_of(found, "id") if found else None), of_none


def test_a_charge_joins_by_email_and_plan_where_the_plan_is_told() -> None:
    off_its_day = tx(plan=3657, created_at="2026-11-20T07:00:00Z", amount=1)
    assert joined(off_its_day) == ("4147", False)
    assert joined(tx(plan=9)) == (None, True)
    assert joined(tx(payment_plan={"id": 3657})) == ("4147", False)


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True),
        ({"amount": 8501}, False),
        ({"currency": "GHS"}, False),
        ({"customer": {"email": "bo@example.com"}}, False),
        ({"payment_type": "bank_transfer"}, False),  # only cards renew
        ({"created_at": "2026-11-12T06:00:00Z"}, True),
        ({"created_at": "2026-11-20T07:00:00Z"}, False),
        ({"created_at": "2026-09-10T06:30:00Z"}, True),  # the first charge, before its subscription
        ({"created_at": "2026-08-10T07:00:00Z"}, False),
        ({"created_at": None}, False),
    ],
)
def test_a_charge_without_a_plan_joins_by_email_amount_currency_and_day(
    changes: dict[str, Any], fits: bool
) -> None:
    assert joined(tx(**changes)) == (("4147", False) if fits else (None, True))


@pytest.mark.parametrize(
    ("interval", "at", "fits"),
    [
        ("weekly", "2026-11-12T07:00:00Z", True),
        ("weekly", "2026-11-15T19:00:00Z", False),
        ("every 90 days", "2026-12-09T07:00:00Z", True),
        ("every 90 days", "2026-11-10T07:00:00Z", False),
        ("quarterly", "2026-12-10T07:00:00Z", True),
        ("quarterly", "2026-11-10T07:00:00Z", False),
        ("yearly", "2027-09-11T07:00:00Z", True),
        ("hourly", "2026-11-10T07:00:00Z", False),
    ],
)
def test_the_days_of_an_interval(interval: str, at: str, fits: bool) -> None:
    assert (joined(tx(created_at=at), interval=interval)[0] is not None) == fits


def test_where_two_fit_the_payment_stands_alone() -> None:
    assert joined(tx(), sub(), sub(id=4148)) == (None, False)
    (alone,) = records.read_sale(tx(), [sub(), sub(id=4148)], PLANS)
    assert isinstance(alone, PaymentRecord)
    assert (alone.order, alone.subscription) == (None, None)


def test_of_one_that_was_replaced_and_its_successor_the_live_one_is_charged() -> None:
    old = sub(status="cancelled")
    new = sub(id=5000, created_at="2026-10-10T09:00:00Z")
    assert joined(tx(), old, new) == ("5000", False)
    assert joined(tx(plan=3657), old, sub(id=5001, created_at="2026-10-24T09:00:00Z")) == ("4147", False)


def test_a_charge_of_a_plan_is_no_order() -> None:
    (alone,) = records.read_sale(tx(plan=9), [sub()], PLANS)
    assert isinstance(alone, PaymentRecord)
    assert alone.order is None
    paid, order = records.read_sale(tx(created_at="2026-11-20T07:00:00Z"), [sub()], PLANS)
    assert isinstance(paid, PaymentRecord)
    assert isinstance(order, OrderRecord)
    assert (paid.order, order.remote_id, order.number, order.status) == (
        order.remote_id,
        "288200108",
        "order-1",
        "paid",
    )


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ({"meta": {"product_name": "Tote bag", "consumer_id": 7}}, "Tote bag"),
        ({"meta": [{"metaname": "Item", "metavalue": "Cup"}, "nonsense"]}, "Cup"),
        ({"meta": {"__CheckoutInitAddress": "https://x.example", "item": " "}}, None),
        ({"narration": "Earth Gang"}, "Earth Gang"),
        ({"narration": "CARD Transaction "}, None),
        ({"meta": "text", "narration": 7}, "7"),
    ],
)
def test_what_was_sold(said: dict[str, Any], title: str | None) -> None:
    assert payment(tx(**said)).title == title


# Objects of v4, samples, garbage


def test_a_charge_of_v4() -> None:
    record = payment({"status": "success", "message": "Charge fetched", "data": charge4()})
    assert (record.remote_id, record.status, record.amount) == ("chg_zH0BLoNltt", "paid", Money(17550, "NGN"))
    assert record.method == Method("card", "Visa", "4242", "2032-08")
    assert (record.customer, record.email) == ("cus_WWVaC0InrN", None)
    assert record.paid_at == datetime(2026, 6, 2, 7, 47, 2, 537812, tzinfo=UTC)
    assert payment(charge4(disputed=True)).status == "disputed"
    refused = payment(charge4(status="failed", processor_response={"type": "do_not_honor"}))
    assert refused.failure == Failure("failed", "do_not_honor")
    order = Adapter.read("order", charge4())
    assert isinstance(order, OrderRecord)
    assert order.number == "deac44b2"


def test_a_refund_and_a_customer_of_v4() -> None:
    back = refund(id="rfd_eHwAkSdZ48", tx_id=None, charge_id="chg_1", status="succeeded", reason="duplicate")
    assert (back.remote_id, back.payment, back.status, back.reason) == (
        "rfd_eHwAkSdZ48",
        "chg_1",
        "sent",
        "duplicate",
    )
    name = {"first": "Ada", "middle": None, "last": "Eze"}
    person = Adapter.read("customer", {"data": {"id": "cus_1", "email": "Ada@Example.com", "name": name}})
    assert isinstance(person, CustomerRecord)
    assert (person.remote_id, person.email, person.name) == ("cus_1", "ada@example.com", "Ada Eze")


SAMPLES = [
    ("api_v3_transaction__verify_transaction", "payment", "288200108"),
    ("api_v3_transaction__verify_transaction", "order", "288200108"),
    ("api_v3_transaction__verify_transaction_with_reference", "payment", "8415006"),
    ("api_v3_transaction__create_a_transaction_refund", "refund", "8612"),
    ("api_v3_subscription__activate_a_subscription", "subscription", "4147"),
    ("api_v3_subscription__cancel_a_subscription", "subscription", "4147"),
]


@pytest.mark.parametrize(("name", "kind", "number"), SAMPLES)
def test_own_samples_are_read(name: str, kind: Any, number: str) -> None:
    path = PAYLOADS / f"{name}.json"
    if not path.exists():
        pytest.skip("the samples of Flutterwave's documents are not here")
    record = Adapter.read(kind, json.loads(path.read_text()))
    assert not isinstance(record, list)
    assert record.remote_id == number
    assert record.email is not None or kind == "refund"
    assert record.created_at is not None
    assert record.raw_status


def test_own_lists_are_read() -> None:
    path = PAYLOADS / "api_v3_transaction__get_all_transactions.json"
    if not path.exists():
        pytest.skip("the samples of Flutterwave's documents are not here")
    rows = [payment(one) for one in json.loads(path.read_text())["data"]]
    assert {one.status for one in rows} == {"paid", "pending"}
    assert {one.email for one in rows} == {"user@gmail.com"}
    assert all(one.amount and one.amount.currency == "NGN" and one.method for one in rows)
    listed = json.loads((PAYLOADS / "api_v3_subscription__get_all_subscriptions.json").read_text())["data"]
    plans = json.loads((PAYLOADS / "api_v3_plan__get_payment_plans.json").read_text())["data"]
    assert [records.read_subscription(one).status for one in listed] == ["cancelled", "cancelled"]
    assert all(fields.interval_of(plan) for plan in plans)


@pytest.mark.parametrize("kind", ["payment", "order", "subscription", "refund", "customer", "event"])
@pytest.mark.parametrize("said", [None, [], "text", 7, {}, {"data": []}, {"data": {"status": 7}}])
def test_garbage_is_no_object(kind: Any, said: Any) -> None:
    with pytest.raises(ValueError, match="Flutterwave"):
        Adapter.read(kind, said)


def test_there_are_no_invoices() -> None:
    with pytest.raises(Unsupported):
        Adapter.read("invoice", {"id": 1})


@pytest.mark.parametrize("kind", ["payment", "order", "subscription", "refund"])
def test_fields_of_other_types_are_left_out(kind: Any) -> None:
    whole = {**tx(), **sub()}
    for name in set(whole) - {"id"}:
        others: list[Any] = [7, "seven", [], {}, None, [{}], True]
        for other in others:
            record = Adapter.read(kind, {**whole, name: other})
            assert not isinstance(record, list)
            assert record.remote_id == "4147"


# Notices


def event(**said: Any) -> Event:
    found = Adapter.read("event", said)
    assert isinstance(found, list)
    (one,) = found
    json.dumps(dict(one.body))
    return one


def test_a_charge_is_told_once_for_every_state() -> None:
    told = event(event="charge.completed", data=tx(), **{"event.type": "CARD_TRANSACTION"})
    assert (told.id, told.type) == ("charge.completed:288200108:successful", "charge.completed")
    assert told.subject == Ref("payment", "288200108")
    assert event(event="charge.completed", data=tx(status="failed")).id != told.id
    assert not told.body


def test_a_cancelled_subscription_is_found_by_its_id_or_by_its_email() -> None:
    who = {"email": "Ada@example.com", "full_name": "Ada Eze"}
    with_id = event(
        event="subscription.cancelled", data={"id": 4147, "status": "deactivated", "customer": who}
    )
    assert (with_id.subject, with_id.body) == (Ref("subscription", "4147"), {"email": "ada@example.com"})
    without = event(event="subscription.cancelled", data={"status": "deactivated", "customer": who})
    assert without.subject == Ref("customer", "ada@example.com")
    assert "ada" not in without.id
    assert event(event="subscription.cancelled", data={"status": "deactivated"}).subject is None


def test_a_subscription_that_is_cancelled_twice_is_told_twice() -> None:
    said = {"event": "subscription.cancelled", "data": {"id": 4147, "status": "deactivated"}}
    body, headers = json.dumps(said).encode(), [("verif-hash", HASH)]
    gateway = Adapter(V3)
    first, second = (gateway.verify(headers, body, NOW + timedelta(hours=by))[0] for by in (0, 1))
    assert first.id != second.id


def test_transfers_are_of_no_interest() -> None:
    assert event(event="transfer.completed", data={"id": 1, "status": "SUCCESSFUL"}).subject is None


def test_a_notice_of_v4_has_an_id_and_a_time() -> None:
    said = {"webhook_id": "wbk_1", "timestamp": 1_748_850_422_635, "type": "charge.completed"}
    told = event(**said, data=charge4())
    assert (told.id, told.subject) == ("wbk_1", Ref("payment", "chg_zH0BLoNltt"))
    assert told.occurred_at == datetime(2025, 6, 2, 7, 47, 2, 635000, tzinfo=UTC)
    back = event(
        id="wbk_2", timestamp=1, type="refund.completed", data={"id": "rfd_1", "status": "succeeded"}
    )
    assert (back.id, back.subject) == ("wbk_2", Ref("refund", "rfd_1"))


BODY = json.dumps({"event": "charge.completed", "data": tx()}).encode()


def signed(body: bytes, secret: str = HASH) -> str:
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()


@pytest.mark.parametrize(
    ("variant", "headers", "good"),
    [
        ("v3", [("verif-hash", HASH)], True),
        ("v3", [("Verif-Hash", HASH)], True),
        ("v3", [("flutterwave-signature", signed(BODY))], True),
        ("v3", [("flutterwave-signature", signed(BODY)), ("verif-hash", HASH)], True),
        ("v3", [("flutterwave-signature", signed(BODY, "other")), ("verif-hash", HASH)], False),
        ("v3", [("flutterwave-signature", HASH), ("verif-hash", HASH)], False),
        ("v3", [("verif-hash", HASH), ("verif-hash", HASH)], False),
        ("v3", [("verif-hash", HASH[:-1])], False),
        ("v3", [("verif-hash", HASH.upper())], False),
        ("v3", [("verif-hash", "")], False),
        ("v3", [], False),
        ("v4", [("flutterwave-signature", signed(BODY))], True),
        ("v4", [("verif-hash", HASH)], False),
        ("v4", [("flutterwave-signature", HASH)], False),
        ("v4", [("flutterwave-signature", signed(BODY[:-1]))], False),
        ("v4", [("flutterwave-signature", signed(BODY)), ("flutterwave-signature", signed(BODY))], False),
        ("v4", [("flutterwave-signature", hmac.new(HASH.encode(), BODY, "sha256").hexdigest())], False),
    ],
)
def test_what_proves_a_delivery(variant: str, headers: list[tuple[str, str]], good: bool) -> None:
    gateway = Adapter({"secret_hash": HASH}, variant=variant)
    if good:
        assert [one.subject for one in gateway.verify(headers, BODY, NOW)] == [Ref("payment", "288200108")]
    else:
        with pytest.raises(BadSignature):
            gateway.verify(headers, BODY, NOW)


@pytest.mark.parametrize("given", ["", " ", "None"])
def test_an_empty_secret_rejects_everything(given: str) -> None:
    for credentials in ({}, {"secret_hash": ""}, {"secret_hash": "  "}):
        for headers in ([("verif-hash", given)], [("flutterwave-signature", signed(BODY, ""))]):
            with pytest.raises(BadSignature):
                Adapter(credentials).verify(headers, BODY, NOW)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", BODY[:-1], b'{"event":"charge.completed"}'])
def test_the_right_hash_beside_no_notice_proves_nothing(body: bytes) -> None:
    with pytest.raises(BadSignature):
        Adapter(V3).verify([("verif-hash", HASH)], body, NOW)


# Calls


Answer = Callable[[httpx.Request], httpx.Response]


def wired(answer: Answer, variant: str = "v3", **credentials: str) -> Adapter:
    gateway = Adapter({**(V4 if variant == "v4" else V3), **credentials}, variant=variant)
    gateway._http._client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return gateway


def said(status: int, content: Any, **headers: str) -> Answer:
    return lambda request: httpx.Response(status, json=content, headers=headers)


def listing(*rows: dict[str, Any], pages: int = 1) -> dict[str, Any]:
    info = {"total": len(rows), "current_page": 1, "total_pages": pages}
    return {"status": "success", "message": "fetched", "meta": {"page_info": info}, "data": list(rows)}


def refused(message: str) -> dict[str, Any]:
    return {"status": "error", "message": message, "data": None}


def test_a_wrong_id_is_answered_400_and_that_is_gone() -> None:
    gateway = wired(said(400, refused("No transaction was found for this id")))
    with pytest.raises(Gone) as caught:
        run(gateway.fetch(Ref("payment", "7")))
    assert "No transaction was found" in caught.value.hint
    with pytest.raises(Gone):
        run(gateway.fetch(Ref("refund", "7")))


def test_an_unknown_subscription_is_gone_and_nothing_is_sent() -> None:
    """A plan's id too: it is in no list of subscriptions."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        return httpx.Response(200, json=listing(sub()))

    with pytest.raises(Gone):
        run(wired(answer).cancel_now(Ref("subscription", "3657"), "k"))
    assert set(asked) == {"GET"}


@pytest.mark.parametrize("number", ["../../x?y=#z", "4147/cancel", "sub_1", "", "9" * 19])
def test_an_id_that_is_no_number_is_never_asked_for(number: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError(request.url)

    for kind in ("subscription", "payment"):
        with pytest.raises(Gone):
            run(wired(answer).fetch(Ref(kind, number)))


@pytest.mark.parametrize(
    ("status", "content", "error"),
    [
        (401, refused("Invalid authorization key"), KeysRefused),
        (403, refused("Forbidden"), KeysRefused),
        (404, refused("not there"), Gone),
        (429, refused("Too many requests"), Unavailable),
        (500, refused("oops"), Unavailable),
        (302, {}, Unavailable),
        (200, {"status": "error", "message": "no"}, Declined),
        (200, {"data": tx()}, Unavailable),
        (200, [tx()], Unavailable),
        (200, {"status": "success", "data": [tx()]}, Unavailable),
        (200, {"status": "success", "data": {}}, Unavailable),
        (422, refused("wrong"), Gone),
    ],
)
def test_answers_become_the_five_errors(status: int, content: Any, error: type[GatewayError]) -> None:
    with pytest.raises(error) as caught:
        run(wired(said(status, content)).fetch(Ref("payment", "7")))
    assert KEY not in f"{caught.value.customer}{caught.value.hint}"
    assert getattr(caught.value, "sent", False) is False


def test_a_limit_says_how_long_to_wait() -> None:
    with pytest.raises(Unavailable) as caught:
        run(wired(said(429, refused("slow down"), **{"Retry-After": "7"})).fetch(Ref("payment", "7")))
    assert caught.value.retry_after == 7.0


def test_refused_keys_are_told_with_the_mode() -> None:
    health = run(wired(said(401, refused("Invalid authorization key"))).check())
    assert (health.ok, health.live) == (False, True)
    assert "Invalid authorization key" in (health.hint or "")
    test = wired(said(200, listing()), secret_key="FLWSECK_TEST-0123456789-X")
    health = run(test.check())
    assert (health.ok, health.live) == (True, False)
    assert "e-mails" in (health.hint or "")


def test_a_list_that_does_not_say_how_it_goes_on_is_no_answer() -> None:
    with pytest.raises(Unavailable):
        run(wired(said(200, {"status": "success", "data": []})).find("ada@example.com"))


def test_a_cancelled_one_is_looked_for_where_the_list_shows_only_live_ones() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        asked = parse_qs(urlsplit(str(request.url)).query)
        if request.url.path.startswith("/v3/payment-plans"):
            return httpx.Response(200, json={"status": "success", "data": PLAN})
        rows = [sub(status="cancelled")] if asked.get("status") == ["cancelled"] else []
        return httpx.Response(200, json=listing(*rows))

    known = SubscriptionRecord(remote_id="4147", email="ada@example.com")
    record = run(wired(answer).fetch(Ref("subscription", "4147", known))).subscriptions[0]
    assert record.status == "cancelled"


def world(*rows: dict[str, Any], one: dict[str, Any] | None = None) -> Answer:
    """One subscription, its plan, and these transactions; the verified one may tell more than its row."""

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path.startswith("/v3/payment-plans"):
            return httpx.Response(200, json={"status": "success", "data": PLAN})
        if path.endswith("/verify"):
            found = next(row for row in rows if str(row["id"]) == path.split("/")[3])
            return httpx.Response(
                200, json={"status": "success", "data": {**found, **found.get("_more", {})}}
            )
        if path == "/v3/transactions":
            flat = [{**row, "card": None} for row in rows]
            return httpx.Response(200, json=listing(*flat))
        return httpx.Response(200, json=listing(one or sub()))

    return answer


def test_a_sale_that_looks_like_a_charge_is_told_apart_when_it_is_verified() -> None:
    looks_like = tx(id=9, created_at="2026-11-11T08:00:00Z", _more={"plan": 77})
    snapshot = run(wired(world(looks_like, tx(_more={"plan": 3657}))).fetch(Ref("subscription", "4147")))
    assert [one.remote_id for one in snapshot.payments] == ["288200108"]
    assert snapshot.subscriptions[0].current_period_start == datetime(2026, 11, 10, 7, 0, 5, tzinfo=UTC)


def test_an_email_filter_that_is_not_heeded_shows_nobody_elses() -> None:
    foreign = tx(id=8, customer={"email": "bo@example.com"})
    gateway = wired(world(foreign, tx()))
    assert run(gateway.find("Ada@example.com")) == [Ref("subscription", "4147"), Ref("payment", "288200108")]
    snapshot = run(gateway.fetch(Ref("subscription", "4147")))
    assert {one.email for one in snapshot.payments} == {"ada@example.com"}


def test_of_everybodys_transactions_only_a_few_pages_are_read() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v3/transactions":
            seen.append(str(request.url))
            foreign = [tx(id=number, customer={"email": "bo@example.com"}) for number in range(10)]
            return httpx.Response(200, json=listing(*foreign, pages=900))
        return world()(request)

    record = run(wired(answer).fetch(Ref("subscription", "4147"))).subscriptions[0]
    assert len(seen) == 5
    assert record.status == "active"


def test_a_plan_that_is_gone_leaves_the_price_unknown() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/v3/payment-plans"):
            return httpx.Response(400, json=refused("Payment plan not found"))
        return world(tx())(request)

    record = run(wired(answer).fetch(Ref("subscription", "4147"))).subscriptions[0]
    assert (record.status, record.amount, record.interval, record.next_payment) == (
        "active",
        None,
        None,
        None,
    )


def test_a_charge_that_can_not_be_verified_stays_as_the_list_tells_it() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/verify"):
            return httpx.Response(400, json=refused("No transaction was found for this id"))
        return world(tx())(request)

    record = run(wired(answer).fetch(Ref("subscription", "4147"))).subscriptions[0]
    assert (record.status, record.method) == ("active", None)
    assert record.next_payment is not None
    assert record.next_payment.on == date(2026, 12, 10)


def test_nobody_is_sent_to_a_checkout_without_a_way_back() -> None:
    """Tried again by us, nobody is there to pay."""

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.method == "GET"
        return world()(request)

    with pytest.raises(Unsupported):
        run(wired(answer).start_method_update(Ref("subscription", "4147"), "", "portal-7"))


def test_a_checkout_whose_answer_is_lost_has_done_nothing() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            raise httpx.ReadTimeout("no answer")
        return world()(request)

    with pytest.raises(Unavailable) as caught:
        run(
            wired(answer).start_method_update(
                Ref("subscription", "4147"), "https://x.example/r/1", "portal-7"
            )
        )
    assert caught.value.sent is False


def test_a_checkout_is_of_the_same_plan_and_person_and_names_us() -> None:
    sent: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            sent.append(json.loads(request.content))
            link = {"link": "https://checkout.flutterwave.com/v3/hosted/pay/abc"}
            return httpx.Response(200, json={"status": "success", "message": "Hosted Link", "data": link})
        return world()(request)

    back = "https://shop.example/customers/return/s1"
    leaves = [
        run(wired(answer).start_method_update(Ref("subscription", "4147"), back, "portal-7"))
        for _ in range(2)
    ]
    (wish, again), leave = sent, leaves[0]
    assert wish == again
    assert wish["tx_ref"].startswith("portal-7-")
    assert wish["tx_ref"] == leave.state["tx_ref"]
    assert (wish["amount"], wish["currency"], wish["payment_plan"]) == (8500, "NGN", 3657)
    assert (wish["customer"], wish["redirect_url"]) == ({"email": "ada@example.com"}, back)
    assert (leave.url, leave.returns) == ("https://checkout.flutterwave.com/v3/hosted/pay/abc", True)
    assert facts("flutterwave").allows_link(leave.url)
    assert dict(leave.state) == {
        "tx_ref": wish["tx_ref"],
        "amount": "850000",
        "currency": "NGN",
        "email": "ada@example.com",
        "plan": "3657",
        "before": "4147",
    }


def test_an_inactive_payment_link_is_a_no() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(400, json=refused("This payment link is currently inactive"))
        return world()(request)

    with pytest.raises(Declined, match="currently inactive"):
        run(wired(answer).start_method_update(Ref("subscription", "4147"), "https://x.example", "k"))


STATE = {"tx_ref": "portal-7-abc", "amount": "850000", "currency": "NGN", "email": "ada@example.com"}
STATE |= {"plan": "3657", "before": "4147"}


@pytest.mark.parametrize(
    ("changes", "live", "wrong"),
    [
        ({}, True, None),
        ({"amount": 9000}, True, None),
        ({"amount": 8499.99}, True, "the amount"),
        ({"currency": "UGX"}, True, "the currency"),
        ({"amount": "seven"}, True, "the currency"),
        ({"tx_ref": "order-1"}, True, "the reference"),
        ({"customer": {"email": "bo@example.com"}}, True, "the e-mail"),
        ({"customer": {"email": "ravesb_1_ada@example.com"}}, True, "the e-mail"),
        ({"customer": {"email": "ravesb_1_ada@example.com"}}, False, None),
        ({"customer": None}, True, "the e-mail"),
    ],
)
def test_a_payment_is_held_against_what_was_asked(
    changes: dict[str, Any], live: bool, wrong: str | None
) -> None:
    assert records.differs(tx(**{"tx_ref": STATE["tx_ref"], **changes}), STATE, live) == wrong


def finish(paid: dict[str, Any], query: dict[str, str] | None = None) -> Snapshot:
    def answer(request: httpx.Request) -> httpx.Response:
        if "/transactions/" in request.url.path:
            return httpx.Response(200, json={"status": "success", "data": {"tx_ref": "portal-7-abc", **paid}})
        assert request.method == "GET", "nothing may be cancelled"
        return world()(request)

    ref, returned = Ref("subscription", "4147"), {"status": "successful"} if query is None else query
    return run(wired(answer).finish_method_update(ref, STATE, returned))


def test_a_paid_checkout_without_a_subscription_is_waited_for_then_given_to_the_merchant() -> None:
    ours = {"tx_ref": "portal-7-abc"}
    with pytest.raises(Unavailable) as caught:
        finish(tx(**ours, created_at=ago(minutes=2)))
    assert caught.value.retry_after == 20.0
    snapshot = finish(tx(**ours, created_at=ago(minutes=16)))
    assert "288200108" in snapshot.ask
    assert "4147" in snapshot.ask
    assert "ada@" not in snapshot.ask


def test_a_payment_of_less_is_given_to_the_merchant_and_cancels_nothing() -> None:
    assert "the amount" in finish(tx(tx_ref="portal-7-abc", amount=1)).ask


@pytest.mark.parametrize(("minutes", "wait"), [(1, 15.0), (60, 900.0)])
def test_a_pending_payment_is_waited_for(minutes: float, wait: float) -> None:
    with pytest.raises(Unavailable) as caught:
        finish(tx(tx_ref="portal-7-abc", status="pending", created_at=ago(minutes=minutes)))
    assert caught.value.retry_after == wait


def test_a_failed_payment_is_a_no_only_once_they_are_back() -> None:
    failed = tx(tx_ref="portal-7-abc", status="failed", processor_response="Insufficient Funds")
    with pytest.raises(Declined) as caught:
        finish(failed)
    assert caught.value.reason == "Insufficient Funds"
    assert finish(failed, {}).subscriptions[0].status == "active"


# Walks through lists


def walk(answer: Answer) -> list[str]:
    """The days that were asked for."""
    asked: list[str] = []

    def heard(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v3/transactions":
            query = parse_qs(urlsplit(str(request.url)).query)
            asked.append(f"{query['from'][0]} {query['to'][0]}")
        return answer(request)

    async def all_pages() -> None:
        async for _ in wired(heard).backfill():
            pass

    run(all_pages())
    return asked


def test_empty_months_are_jumped_over() -> None:
    old = tx(created_at="2019-03-05T10:00:00Z", narration="Earth Gang")

    def answer(request: httpx.Request) -> httpx.Response:
        query = parse_qs(urlsplit(str(request.url)).query)
        if request.url.path != "/v3/transactions":
            return httpx.Response(200, json=listing())
        is_in = query["from"][0] <= "2019-03-05" <= query["to"][0]
        return httpx.Response(200, json=listing(*([old] if is_in else [])))

    assert walk(answer) == [
        "2026-10-25 2026-11-25",
        "2016-05-01 2026-10-24",  # what is there at all before
        "2019-02-03 2019-03-06",
        "2019-01-02 2019-02-02",
        "2016-05-01 2019-01-01",
    ]


def test_filters_of_days_that_are_not_heeded_end_the_walk() -> None:
    days = [f"20{25 - number}-03-05T10:00:00Z" for number in range(6)]
    rows = [tx(id=number, created_at=day, narration="Earth Gang") for number, day in enumerate(days)]

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=listing(*(rows if request.url.path == "/v3/transactions" else [])))

    assert walk(answer) == ["2026-10-25 2026-11-25"]


# v4


def v4(calls: list[httpx.Request], lives: int = 600) -> Answer:
    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        if request.url.host == "idp.flutterwave.com":
            return httpx.Response(200, json={"access_token": f"token{len(calls)}", "expires_in": lives})
        if request.url.path.startswith("/customers/"):
            person = {
                "id": "cus_WWVaC0InrN",
                "email": "ada@example.com",
                "name": {"first": "Ada", "last": "Eze"},
            }
            return httpx.Response(200, json={"status": "success", "data": person})
        return httpx.Response(200, json={"status": "success", "data": charge4()})

    return answer


@pytest.fixture
def calls() -> list[httpx.Request]:
    return []


def test_a_token_is_kept_until_a_minute_before_its_end(calls: list[httpx.Request]) -> None:
    gateway = wired(v4(calls), "v4", api_host="f4bexperience.flutterwave.com")
    assert run(gateway.fetch(Ref("payment", "chg_zH0BLoNltt"))).payments[0].status == "paid"
    login, first = calls[:2]
    assert parse_qs(login.content.decode()) == {
        "client_id": ["client-0123"],
        "client_secret": ["secret-4567"],
        "grant_type": ["client_credentials"],
    }
    assert (first.url.host, first.headers["authorization"]) == (
        "f4bexperience.flutterwave.com",
        "Bearer token1",
    )
    for seconds, logins in ((530, 1), (541, 2)):
        clock.set_offset(NOW + timedelta(seconds=seconds) - datetime.now(UTC))
        gateway._http._client = httpx.AsyncClient(transport=httpx.MockTransport(v4(calls)))
        run(gateway.fetch(Ref("payment", "chg_zH0BLoNltt")))
        assert sum(one.url.host == "idp.flutterwave.com" for one in calls) == logins


@pytest.mark.parametrize(
    ("host", "called"),
    [
        ("", "developersandbox-api.flutterwave.com"),
        ("developersandbox-api.flutterwave.com", "developersandbox-api.flutterwave.com"),
        ("f4bexperience.flutterwave.com", "f4bexperience.flutterwave.com"),
        ("evil.example", "developersandbox-api.flutterwave.com"),
    ],
)
def test_only_the_two_hosts_of_v4_are_called(calls: list[httpx.Request], host: str, called: str) -> None:
    run(wired(v4(calls), "v4", api_host=host).fetch(Ref("payment", "chg_zH0BLoNltt")))
    assert {one.url.host for one in calls} == {"idp.flutterwave.com", called}


def test_v4_keys_that_are_refused() -> None:
    said_no = {"error": "invalid_client", "error_description": "Invalid client or client credentials"}
    for status in (400, 401):
        health = run(wired(said(status, said_no), "v4").check())
        assert (health.ok, health.live) == (False, False)
        assert "Invalid client" in (health.hint or "")
        assert V4["client_secret"] not in (health.hint or "")


def test_v4_errors_name_their_code() -> None:
    error = {"type": "RESOURCE_NOT_FOUND", "code": "10404", "message": "Charge not found"}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "idp.flutterwave.com":
            return httpx.Response(200, json={"access_token": "t", "expires_in": 600})
        return httpx.Response(404, json={"status": "failed", "error": error})

    with pytest.raises(Gone, match="10404 Charge not found"):
        run(wired(answer, "v4").fetch(Ref("payment", "chg_nobody")))
    with pytest.raises(Unsupported):
        run(wired(answer, "v4").fetch(Ref("subscription", "4147")))
