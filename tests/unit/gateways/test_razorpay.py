"""Razorpay: what its oddities must never cause, its words in ours, and what proves a delivery or a return."""

import asyncio
import hashlib
import hmac
import inspect
import json
import re
from collections.abc import Awaitable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar
from unittest.mock import patch

import httpx2 as httpx
import pytest

from portal import clock
from portal.gateways import _razorpay as words
from portal.gateways import gateway
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
    PendingChange,
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
from portal.gateways.razorpay import START, Adapter
from portal.money import Money

NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
STARTS, ENDS = 1_793_989_800, 1_796_581_800  # midnights in India: 7 November, 7 December 2026
SUB, PLAN, PAY, INV, CUST = (
    "sub_Test0000000001",
    "plan_Test000000001",
    "pay_Test0000000001",
    "inv_1",
    "cust_1",
)
KEYS = {"key_id": "rzp_test_Abc123Def456Gh", "key_secret": "QwErTyUiOpAsDfGhJkLz1234"}
KEYS |= {"webhook_secret": "masala & chai 7"}
BACK = "https://portal.example/customers/return/one-time"
REF = Ref("subscription", SUB)
Result = TypeVar("Result")
Json = dict[str, Any]


@pytest.fixture(autouse=True)
def _at_half_past_three_in_india() -> None:
    clock.set_offset(NOW - datetime.now(UTC))


# A wire that answers from a table


class Wire(Http):
    """Answers by "METHOD /path": an object, a response, or a list of these, in turn. Keeps what was asked."""

    def __init__(self, table: Json) -> None:
        self.table = {name: list(one) if isinstance(one, list) else [one] for name, one in table.items()}
        self.asked: list[tuple[str, Any]] = []

    async def call(self, method: str, host: str, path: str, **more: Any) -> httpx.Response:
        assert host == "api.razorpay.com"
        name = f"{method} {path.removeprefix('/v1')}"
        self.asked.append((name, more.get("json") or dict(more.get("params") or {})))
        answers = self.table.get(
            name, [collection() if method == "GET" and path.count("/") == 2 else unknown()]
        )
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    @property
    def writes(self) -> list[tuple[str, Any]]:
        return [(name, sent) for name, sent in self.asked if not name.startswith("GET")]


def collection(*items: Json) -> Json:
    return {"entity": "collection", "count": len(items), "items": list(items)}


def error(description: str, status: int = 400, code: str = "BAD_REQUEST_ERROR") -> httpx.Response:
    said = {"code": code, "description": description, "source": "NA", "step": "NA", "reason": "NA"}
    return httpx.Response(status, json={"error": {**said, "metadata": {}}})


def unknown() -> httpx.Response:
    return error("The id provided does not exist")


def make(table: Json | None = None, **credentials: str) -> tuple[Adapter, Wire]:
    wire = Wire(table or {})
    with patch("portal.gateways.razorpay.Http", lambda gateway, name: wire):
        return Adapter({**KEYS, **credentials}), wire


def run(what: Awaitable[Result]) -> Result:
    async def wait() -> Result:
        return await what

    return asyncio.run(wait())


# What Razorpay shows


def subscription(**changes: Any) -> Json:
    return {
        "id": SUB,
        "entity": "subscription",
        "plan_id": PLAN,
        "customer_id": CUST,
        "status": "active",
        "current_start": STARTS,
        "current_end": ENDS,
        "ended_at": None,
        "quantity": 2,
        "notes": [],
        "charge_at": ENDS,
        "start_at": STARTS,
        "end_at": None,
        "auth_attempts": 0,
        "total_count": 12,
        "paid_count": 1,
        "customer_notify": True,
        "created_at": STARTS - 600,
        "expire_by": None,
        "short_url": "https://rzp.io/i/abc123",
        "has_scheduled_changes": False,
        "change_scheduled_at": None,
        "source": "api",
        "remaining_count": 11,
        "payment_method": "card",
        "customer_email": "asha@example.com",
    } | changes


def plan(amount: int = 49_900, currency: str = "INR", **changes: Any) -> Json:
    item = {"id": "item_1", "name": "Chai club", "amount": amount, "currency": currency}
    return {"id": PLAN, "entity": "plan", "interval": 1, "period": "monthly", "item": item} | changes


def payment(**changes: Any) -> Json:
    card = {"id": "card_1", "last4": "4366", "network": "Visa", "type": "credit", "international": False}
    return {
        "id": PAY,
        "entity": "payment",
        "amount": 99_800,
        "currency": "INR",
        "status": "captured",
        "order_id": "order_1",
        "invoice_id": INV,
        "customer_id": CUST,
        "token_id": "token_1",
        "card_id": "card_1",
        "card": {**card, "expiry_month": 9, "expiry_year": 2028},
        "method": "card",
        "amount_refunded": 0,
        "refund_status": None,
        "captured": True,
        "email": "asha@example.com",
        "contact": "+919876543210",
        "description": "Recurring Payment via Subscription",
        "error_code": None,
        "error_description": None,
        "error_reason": None,
        "created_at": STARTS,
        "notes": [],
    } | changes


def invoice(**changes: Any) -> Json:
    line = {"name": "Chai club", "amount": 99_800, "net_amount": 99_800, "currency": "INR", "quantity": 2}
    return {
        "id": INV,
        "entity": "invoice",
        "invoice_number": None,
        "receipt": None,
        "status": "paid",
        "customer_id": CUST,
        "customer_details": {"email": "asha@example.com"},
        "order_id": "order_1",
        "subscription_id": SUB,
        "payment_id": PAY,
        "line_items": [line],
        "amount": 99_800,
        "amount_due": 0,
        "currency": "INR",
        "paid_at": STARTS,
        "short_url": "https://rzp.io/i/inv1",
        "created_at": STARTS,
    } | changes


def order(*tries: Json, **changes: Any) -> Json:
    told = {"id": "order_1", "entity": "order", "amount": 74_900, "amount_paid": 74_900, "currency": "INR"}
    told |= {"receipt": "SO-1", "status": "paid", "attempts": len(tries), "notes": [], "created_at": STARTS}
    return told | ({"payments": collection(*tries)} if tries else {}) | changes


def table(**changes: Any) -> Json:
    """A subscription with its plan, one paid invoice and its payment."""
    return {
        f"GET /subscriptions/{SUB}": subscription(**changes),
        f"GET /plans/{PLAN}": plan(),
        "GET /invoices": collection(invoice()),
        f"GET /payments/{PAY}": payment(),
    }


def look(answers: Json | None = None, known: Record | None = None, **changes: Any) -> Snapshot:
    adapter, _ = make({**table(**changes), **(answers or {})})
    return run(adapter.fetch(Ref("subscription", SUB, known)))


def fetched(known: Record | None = None, **changes: Any) -> SubscriptionRecord:
    return look(known=known, **changes).subscriptions[0]


def knows(record: Record) -> set[str]:
    assert record.knows is not None
    return set(record.knows)


# Words and amounts


@pytest.mark.parametrize(
    ("word", "ours", "stopped"),
    [
        ("created", "incomplete", False),
        ("authenticated", "trialing", False),
        ("active", "active", False),
        ("pending", "past_due", False),
        ("halted", "past_due", True),
        ("paused", "paused", False),
        ("cancelled", "cancelled", False),
        ("completed", "expired", False),
        ("expired", "expired", False),
    ],
)
def test_every_word_for_a_subscription_has_ours(word: str, ours: str, stopped: bool) -> None:
    found = fetched(status=word)
    assert (found.status, found.raw_status, found.stopped) == (ours, word, stopped)
    assert "status" in knows(found)


def test_an_unknown_word_keeps_the_last_known_state() -> None:
    found = fetched(status="a_word_of_tomorrow")
    assert (found.status, found.raw_status) == (None, "a_word_of_tomorrow")
    assert not {"status", "next_payment", "due", "cancels_at", "object", "stopped"} & knows(found)


@pytest.mark.parametrize(
    ("word", "back", "ours"),
    [
        ("created", 0, "pending"),
        ("authorized", 0, "authorized"),
        ("captured", 0, "paid"),
        ("captured", 100, "partially_refunded"),
        ("refunded", 99_800, "refunded"),
        ("failed", 0, "failed"),
        ("a_word_of_tomorrow", 0, None),
    ],
)
def test_every_word_for_a_payment_has_ours(word: str, back: int, ours: str | None) -> None:
    found = Adapter.read("payment", payment(status=word, amount_refunded=back))
    assert (found.status, found.raw_status) == (ours, word)
    assert found.refunded == Money(back, "INR")
    assert (found.paid_at is not None) == (ours in ("paid", "partially_refunded", "refunded"))


@pytest.mark.parametrize(
    ("kind", "word", "ours"),
    [
        *(("order", word, "open") for word in ("created", "attempted")),
        ("order", "paid", "paid"),
        *(("refund", word, ours) for word, ours in words.REFUNDS.items()),
        ("invoice", "draft", "draft"),
        *(("invoice", word, "open") for word in ("issued", "partially_paid")),
        ("invoice", "paid", "paid"),
        *(("invoice", word, "void") for word in ("cancelled", "expired", "deleted")),
    ],
)
def test_every_word_for_orders_refunds_and_invoices_has_ours(kind: str, word: str, ours: str) -> None:
    refund = {"id": "rfnd_1", "entity": "refund", "payment_id": PAY, "amount": 100, "currency": "INR"}
    said = {"order": order(), "refund": refund, "invoice": invoice()}[kind]
    assert Adapter.read(kind, {**said, "status": word}).status == ours


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [(49_900, "INR", "499.00"), (1200, "JPY", "1200"), (12_500, "KWD", "12.500"), (995, "BHD", "0.995")],
)
def test_amounts_are_smallest_units_of_iso_4217(amount: int, currency: str, text: str) -> None:
    found = Adapter.read("payment", payment(amount=amount, currency=currency)).amount
    assert found == Money(amount, currency)
    assert str(found.decimal) == text


@pytest.mark.parametrize(
    ("period", "interval", "ours"),
    [
        ("daily", 7, Interval("day", 7)),
        ("weekly", 2, Interval("week", 2)),
        ("monthly", 1, Interval("month")),
        ("quarterly", 1, Interval("month", 3)),
        ("quarterly", 2, Interval("month", 6)),
        ("yearly", 1, Interval("year")),
        ("lunar", 1, None),
    ],
)
def test_periods_of_plans(period: str, interval: int, ours: Interval | None) -> None:
    said = plan(period=period, interval=interval)
    assert look({f"GET /plans/{PLAN}": said}).subscriptions[0].interval == ours


# The traps


def test_next_payment_is_the_plan_times_the_quantity_on_the_indian_day_of_charge_at() -> None:
    found = fetched(quantity=3)
    assert datetime.fromtimestamp(ENDS, UTC).date() == date(2026, 12, 6)
    assert found.next_payment == NextPayment(date(2026, 12, 7), Money(149_700, "INR"), "fixed")
    assert found.amount == Money(149_700, "INR")
    assert found.quantity == 3


def test_without_its_plan_a_subscription_says_nothing_of_an_amount() -> None:
    found = look({f"GET /plans/{PLAN}": unknown()}).subscriptions[0]
    assert not {"amount", "title", "interval"} & knows(found)
    assert found.next_payment == NextPayment(date(2026, 12, 7), None, "fixed")


@pytest.mark.parametrize("left", [0, "0"])
def test_remaining_count_may_be_a_string_and_zero_means_the_last_cycle(left: object) -> None:
    found = fetched(remaining_count=left)
    assert (found.object, found.next_payment) == ("last_cycle", None)
    assert fetched(remaining_count="3").object is None
    assert fetched(remaining_count="3").next_payment is not None


def test_a_scheduled_change_makes_the_next_amount_an_estimate() -> None:
    bigger = {
        "id": "plan_Bigger00000001",
        "item": {"name": "Chai club, large", "amount": 79_900, "currency": "INR"},
    }
    later = subscription(plan_id=bigger["id"], quantity=1, change_scheduled_at=ENDS)
    answers = {f"GET /subscriptions/{SUB}/retrieve_scheduled_changes": later}
    answers |= {f"GET /plans/{bigger['id']}": plan() | bigger}
    found = look(answers, has_scheduled_changes=True).subscriptions[0]
    assert found.amount == Money(99_800, "INR")
    expected = PendingChange(date(2026, 12, 7), Money(79_900, "INR"), "Chai club, large", 1)
    assert found.pending_change == expected
    assert found.next_payment == NextPayment(date(2026, 12, 7), Money(79_900, "INR"), "estimated")
    gone = {
        f"GET /subscriptions/{SUB}/retrieve_scheduled_changes": error(
            "No Pending update for this subscription"
        )
    }
    assert look(gone, has_scheduled_changes=True).subscriptions[0].pending_change is None


def test_pending_names_its_next_try_and_what_is_open_and_no_next_payment() -> None:
    unpaid = invoice(id="inv_2", status="issued", payment_id=None, paid_at=None, amount_due=99_800)
    answers = {"GET /invoices": collection(unpaid, invoice())}
    found = look(answers, status="pending", charge_at=ENDS).subscriptions[0]
    assert (found.due, found.retries_on, found.next_payment) == (
        Money(99_800, "INR"),
        date(2026, 12, 7),
        None,
    )
    halted = look(answers, status="halted").subscriptions[0]
    assert (halted.due, halted.retries_on, halted.stopped) == (Money(99_800, "INR"), None, True)
    assert fetched().due is None
    assert "due" in knows(fetched())


def test_a_pause_without_period_keeps_the_day_until_which_it_is_paid() -> None:
    found = fetched(status="paused", charge_at=None, current_start=None, current_end=None)
    assert not {"current_period_start", "current_period_end"} & knows(found)
    assert found.next_payment is None
    assert "next_payment" in knows(found)


def test_an_authenticated_one_is_on_trial_until_it_starts() -> None:
    found = fetched(status="authenticated", current_start=None, current_end=None, start_at=ENDS)
    assert found.trial_ends_at == datetime.fromtimestamp(ENDS, UTC)
    assert found.next_payment is not None


@pytest.mark.parametrize("placeholder", ["void@razorpay.com", "VOID@razorpay.com"])
def test_void_at_razorpay_is_nobodys_address(placeholder: str) -> None:
    assert "email" not in knows(Adapter.read("payment", payment(email=placeholder)))
    found = Adapter.read("order", order(payment(email=placeholder), payment(email="asha@example.com")))
    assert found.email == "asha@example.com"
    assert "email" not in knows(Adapter.read("order", order(payment(email=placeholder))))
    assert facts("razorpay").no_email == ["void@razorpay.com"]


@pytest.mark.parametrize("captured", ["1", True, None])
def test_captured_may_be_a_string_and_never_decides(captured: object) -> None:
    assert Adapter.read("payment", payment(captured=captured)).status == "paid"
    assert Adapter.read("payment", payment(captured="0", status="authorized")).status == "authorized"


def test_authorized_is_never_shown_as_paid() -> None:
    found = Adapter.read("payment", payment(status="authorized", captured="1"))
    assert (found.status, found.paid_at) == ("authorized", None)


def test_an_order_takes_refunds_and_owner_from_its_payments() -> None:
    failed = payment(id="pay_0", status="failed", amount_refunded=0)
    found = Adapter.read("order", order(payment(amount_refunded=30_000, description="Kettle"), failed))
    assert (found.status, found.number, found.title) == ("partially_refunded", "SO-1", "Kettle")
    assert found.lines == (Line("Kettle", 1, Money(74_900, "INR")),)
    assert (found.email, found.customer) == ("asha@example.com", CUST)
    assert Adapter.read("order", order(payment(amount_refunded=74_900))).status == "refunded"


def test_a_foreign_card_is_known_by_its_payment_alone() -> None:
    card = {"last4": "1111", "network": "Visa", "international": True}
    found = look({f"GET /payments/{PAY}": payment(card=card)}).subscriptions[0]
    assert found.method == Method("foreign_card", "Visa", "1111", None, "token_1")
    shape = facts("razorpay").capabilities["change_plan"]
    assert shape.under(Circumstances("active", method="foreign_card")).mode == "direct"
    assert shape.under(Circumstances("active", method="card")).mode == "request"


@pytest.mark.parametrize(
    ("said", "ours"),
    [
        ({"method": "upi", "card": None, "vpa": "a@okaxis"}, Method("upi", remote_id="token_1")),
        (
            {"method": "wallet", "card": None, "wallet": "touchngo"},
            Method("wallet", "touchngo", remote_id="token_1"),
        ),
        (
            {"method": "emandate", "card": None, "bank": "HDFC"},
            Method("emandate", "HDFC", remote_id="token_1"),
        ),
        ({"card": None}, Method("card", remote_id="token_1")),
        ({"card": None, "token_id": None}, Method("card", remote_id="card_1")),
        ({"method": None}, None),
    ],
)
def test_methods(said: Json, ours: Method | None) -> None:
    assert Adapter.read("payment", payment(**said)).method == ours


def test_of_several_invoices_the_newest_paid_one_shows_the_card() -> None:
    new = invoice(id="inv_2", payment_id="pay_Test0000000002", paid_at=ENDS)
    answers = {"GET /invoices": collection(invoice(), new)}
    answers["GET /payments/pay_Test0000000002"] = payment(id="pay_Test0000000002", token_id="token_2")
    found = look(answers)
    method = found.subscriptions[0].method
    assert method is not None
    assert method.remote_id == "token_2"
    assert found.payments[0].subscription == SUB


def test_a_changed_card_is_not_wiped_by_an_older_payment() -> None:
    period = datetime.fromtimestamp(STARTS, UTC)
    new = Method("card", "MasterCard", "5449", "2029-11", "token_2")
    known = SubscriptionRecord(remote_id=SUB, method=new, current_period_start=period)
    assert "method" not in knows(fetched(known))
    before = replace(known, current_period_start=period - timedelta(days=31))
    assert fetched(before).method == Method("card", "Visa", "4366", "2028-09", "token_1")
    assert "method" in knows(fetched(known, payment_method="upi"))  # another sort altogether
    assert "method" in knows(fetched(replace(known, method=Method("card"))))


def test_somebody_elses_invoices_never_lend_an_address() -> None:
    foreign = invoice(subscription_id="sub_Other000000001", customer_details={"email": "bela@example.com"})
    found = look({"GET /invoices": collection(foreign)}, customer_email=None)
    assert found.invoices == ()
    assert found.subscriptions[0].email is None


# Cancel


def test_cancel_at_cycle_end_leaves_no_trace_so_the_answer_is_the_proof() -> None:
    adapter, wire = make({**table(), f"POST /subscriptions/{SUB}/cancel": subscription()})
    found = run(adapter.cancel_at_period_end(REF, "k")).subscriptions[0]
    assert wire.writes == [(f"POST /subscriptions/{SUB}/cancel", {"cancel_at_cycle_end": True})]
    assert found.status == "cancels_at_period_end"
    assert found.raw_status == "active"
    assert found.cancels_at == datetime.fromtimestamp(ENDS, UTC)
    assert {"status", "cancels_at", "next_payment"} <= knows(found)
    assert found.next_payment is None
    assert facts("razorpay").capabilities["cancel_at_period_end"].proof == "answer"


def known_cancel(**changes: Any) -> SubscriptionRecord:
    end = datetime.fromtimestamp(ENDS, UTC)
    known = SubscriptionRecord(remote_id=SUB, status="cancels_at_period_end", cancels_at=end)
    return replace(known, current_period_end=end, **changes)


def test_a_later_fetch_that_says_plain_active_does_not_wipe_a_cancel_we_know_of() -> None:
    found = look(known=known_cancel())
    assert not {"status", "cancels_at", "next_payment"} & knows(found.subscriptions[0])
    assert found.subscriptions[0].raw_status == "active"
    assert found.tell == ""
    assert not {"status"} & knows(
        fetched(known_cancel(cancels_at=None))
    )  # then the paid-until date is the end


def test_without_a_known_cancel_active_is_active() -> None:
    assert {"status", "cancels_at", "next_payment"} <= knows(fetched())
    assert "status" in knows(fetched(SubscriptionRecord(remote_id=SUB, status="active")))


@pytest.mark.parametrize("word", ["cancelled", "pending", "paused", "completed"])
def test_any_other_word_counts_although_a_cancel_is_known(word: str) -> None:
    found = fetched(known_cancel(), status=word)
    assert found.status == words.SUBSCRIPTIONS[word]
    assert "status" in knows(found)


def test_an_end_that_is_some_minutes_late_is_still_believed() -> None:
    clock.set_offset(datetime.fromtimestamp(ENDS, UTC) + timedelta(minutes=10) - datetime.now(UTC))
    assert "status" not in knows(fetched(known_cancel()))


@pytest.mark.parametrize("moved", [False, True])
def test_an_end_that_did_not_come_is_told_to_the_merchant(moved: bool) -> None:
    """Either the hour after it is over, or a new period has begun."""
    clock.set_offset(
        datetime.fromtimestamp(ENDS, UTC) + timedelta(minutes=5 if moved else 90) - datetime.now(UTC)
    )
    found = look(known=known_cancel(), current_end=ENDS + 31 * 86_400 if moved else ENDS)
    assert (found.subscriptions[0].status, "status" in knows(found.subscriptions[0])) == ("active", True)
    assert SUB in found.tell
    assert "2026-12-07" in found.tell


def test_the_next_invoice_of_a_cancelled_one_is_hidden() -> None:
    following = invoice(id="inv_2", status="issued", payment_id=None, paid_at=None)
    answers = {"GET /invoices": collection(following, invoice())}
    assert [one.remote_id for one in look(answers, known=known_cancel()).invoices] == [INV]
    assert [one.remote_id for one in look(answers).invoices] == ["inv_2", INV]


@pytest.mark.parametrize(
    "said",
    [
        {"status": "authenticated"},
        {"status": "created"},
        {"status": "pending"},
        {"status": "halted"},
        {"status": "paused"},
        {"remaining_count": 0},
        {"remaining_count": "0"},
        {"current_end": None},
        {"status": "a_word_of_tomorrow"},
    ],
)
def test_last_cycle_trialing_past_due_and_paused_are_never_asked_to_end_with_the_cycle(said: Json) -> None:
    adapter, wire = make(table(**said))
    with pytest.raises(Unsupported) as caught:
        run(adapter.cancel_at_period_end(REF, "k"))
    assert caught.value.customer
    assert wire.writes == []


def test_200_without_effect_is_never_read_as_a_cancellation() -> None:
    """The payment failed between our look and our call: Razorpay says 200 and goes on retrying."""
    shown = [subscription(), subscription(status="pending")]
    answers = {f"GET /subscriptions/{SUB}": shown, f"POST /subscriptions/{SUB}/cancel": shown[1]}
    adapter, _ = make({**table(), **answers})
    with pytest.raises(Declined):
        run(adapter.cancel_at_period_end(REF, "k"))


def test_a_cancel_at_cycle_end_that_ends_at_once_is_said_so() -> None:
    shown = [subscription(), subscription(status="cancelled", ended_at=STARTS + 60, charge_at=None)]
    answers = {f"GET /subscriptions/{SUB}": shown, f"POST /subscriptions/{SUB}/cancel": shown[1]}
    adapter, _ = make({**table(), **answers})
    found = run(adapter.cancel_at_period_end(REF, "k"))
    assert found.subscriptions[0].status == "cancelled"
    assert "at once" in found.tell


def test_a_refused_cycle_end_changes_nothing() -> None:
    refusal = error("The subscription is in its final cycle and cannot be cancelled now.")
    adapter, _ = make({**table(), f"POST /subscriptions/{SUB}/cancel": refusal})
    with pytest.raises(Declined, match="final cycle"):
        run(adapter.cancel_at_period_end(REF, "k"))


def test_cancel_now_sends_the_documented_boolean_once() -> None:
    shown = [subscription(), subscription(status="cancelled", ended_at=STARTS + 60, charge_at=None)]
    answers = {f"GET /subscriptions/{SUB}": shown, f"POST /subscriptions/{SUB}/cancel": shown[1]}
    adapter, wire = make({**table(), **answers})
    assert run(adapter.cancel_now(REF, "k")).subscriptions[0].status == "cancelled"
    assert run(adapter.cancel_now(REF, "k")).subscriptions[0].status == "cancelled"
    assert wire.writes == [(f"POST /subscriptions/{SUB}/cancel", {"cancel_at_cycle_end": False})]


def test_a_refused_repeat_of_a_cancel_is_a_success() -> None:
    shown = [subscription(), subscription(status="cancelled")]
    refusal = error("Subscription is not cancellable in cancelled status.")
    answers = {f"GET /subscriptions/{SUB}": shown, f"POST /subscriptions/{SUB}/cancel": refusal}
    adapter, _ = make({**table(), **answers})
    assert run(adapter.cancel_now(REF, "k")).subscriptions[0].status == "cancelled"


def test_what_cannot_be_read_back_may_have_happened() -> None:
    shown = [subscription(), error("", 502, "GATEWAY_ERROR")]
    answers = {f"GET /subscriptions/{SUB}": shown, f"POST /subscriptions/{SUB}/cancel": subscription()}
    adapter, _ = make({**table(), **answers})
    with pytest.raises(Unavailable) as caught:
        run(adapter.cancel_now(REF, "k"))
    assert caught.value.sent


# Pause, resume, change


def test_pause_of_an_authenticated_one_would_cancel_it_and_is_never_sent() -> None:
    for word in ("authenticated", "created", "pending", "halted"):
        adapter, wire = make(table(status=word))
        with pytest.raises(Unsupported):
            run(adapter.pause(REF, "k"))
        assert wire.writes == []


@pytest.mark.parametrize(
    ("said", "elsewhere"),
    [
        ({"pause_initiated_by": "self"}, False),
        ({"pause_initiated_by": "customer"}, True),
        ({"pause_initiated_by": "self", "payment_method": "upi"}, False),
        ({"pause_initiated_by": None, "payment_method": "upi"}, True),
        ({"pause_initiated_by": None, "payment_method": None}, True),
        ({"pause_initiated_by": None, "payment_method": "card"}, False),
    ],
)
def test_whatever_is_not_said_to_be_paused_by_the_shop_counts_as_the_customers(
    said: Json, elsewhere: bool
) -> None:
    assert fetched(status="paused", **said).object == ("paused_elsewhere" if elsewhere else None)
    adapter, wire = make(
        {**table(status="paused", **said), f"POST /subscriptions/{SUB}/resume": subscription()}
    )
    if elsewhere:
        with pytest.raises(Unsupported):
            run(adapter.resume(REF, "k"))
    else:
        run(adapter.resume(REF, "k"))
    assert [sent for _, sent in wire.writes] == ([] if elsewhere else [{"resume_at": "now"}])
    shape = facts("razorpay").capabilities["resume"]
    assert shape.under(Circumstances("paused", object="paused_elsewhere")).mode == "request"


LARGE = plan(79_900, period="yearly") | {"id": "plan_2"}


def test_a_change_of_plan_moves_no_money_unasked() -> None:
    adapter, wire = make(
        {**table(), "GET /plans/plan_2": LARGE, f"PATCH /subscriptions/{SUB}": subscription()}
    )
    wish = {"plan": "plan_2", "quantity": 5, "amount": Money(399_500, "INR"), "interval": Interval("year")}
    run(adapter.change_plan(REF, wish, BACK, "k"))
    sent = {"plan_id": "plan_2", "quantity": 5, "schedule_change_at": "cycle_end"}
    assert wire.writes == [(f"PATCH /subscriptions/{SUB}", sent)]
    adapter, wire = make({**table(status="authenticated"), f"PATCH /subscriptions/{SUB}": subscription()})
    run(adapter.change_plan(REF, {"plan": "plan_2"}, BACK, "k"))
    assert wire.writes[0][1] == {"plan_id": "plan_2", "schedule_change_at": "now"}


@pytest.mark.parametrize(
    ("status", "change"),
    [
        ("pending", {"plan": "plan_2"}),
        ("active", {}),
        ("active", {"plan": "plan_2", "amount": Money(79_900, "INR")}),  # it is times two
        ("active", {"plan": "plan_2", "quantity": 1, "amount": Money(79_900, "USD")}),
        ("active", {"plan": "plan_2", "quantity": 1, "interval": Interval("month")}),
        ("active", {"plan": "plan_of_nobody", "amount": Money(79_900, "INR")}),
        ("active", {"amount": Money(100, "INR")}),
        ("active", {"interval": Interval("year")}),
    ],
)
def test_what_razorpay_would_not_charge_like_that_is_not_sent(status: str, change: Json) -> None:
    adapter, wire = make({**table(status=status), "GET /plans/plan_2": LARGE})
    with pytest.raises(Unsupported):
        run(adapter.change_plan(REF, change, BACK, "k"))
    assert wire.writes == []


def test_a_change_that_stands_already_is_not_sent_again() -> None:
    adapter, wire = make(table())
    run(adapter.change_plan(REF, {"plan": PLAN, "quantity": 2}, BACK, "k"))
    assert wire.writes == []


# Another card


def sign(text: str, secret: str = KEYS["key_secret"]) -> str:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def returned(signature: str | None = None, **more: str) -> dict[str, str]:
    told = {"razorpay_payment_id": "pay_Card0000000001", "razorpay_subscription_id": SUB}
    return {**told, "razorpay_signature": signature or sign(f"pay_Card0000000001|{SUB}"), **more}


def come_back(query: dict[str, str], **changes: Any) -> tuple[SubscriptionRecord, list[str]]:
    card = {"last4": "5449", "network": "MasterCard", "international": False}
    new = payment(id="pay_Card0000000001", token_id="token_2", card=card, status="refunded", amount=500)
    adapter, wire = make({**table(), "GET /payments/pay_Card0000000001": new | changes})
    found = run(adapter.finish_method_update(REF, {}, query)).subscriptions[0]
    return found, [name for name, _ in wire.asked]


def test_leaving_takes_razorpays_own_script_with_no_word_of_the_customers() -> None:
    adapter, wire = make(table(status="pending"))
    left = run(adapter.start_method_update(REF, BACK, "k"))
    assert (left.url, left.returns, dict(left.state)) == ("https://rzp.io/i/abc123", True, {})
    assert left.script is not None
    assert left.script.src == "https://checkout.razorpay.com/v1/checkout.js"
    assert json.loads(json.dumps(left.script.options)) == {
        "key": KEYS["key_id"],
        "subscription_id": SUB,
        "subscription_card_change": True,
        "callback_url": BACK,
        "redirect": True,
    }
    assert left.script.start == START
    assert "dataset.options" in START
    assert "https://api.razorpay.com" in left.script.connects
    assert left.script.src.split("/")[2] in facts("razorpay").hosts.scripts
    assert KEYS["key_secret"] not in json.dumps(left.script.options)
    assert wire.writes == []


def test_without_a_page_of_its_own_there_is_only_the_script() -> None:
    adapter, _ = make(table(status="halted", short_url=None))
    left = run(adapter.start_method_update(REF, BACK, "k"))
    assert left.url == ""
    assert left.script is not None


def test_a_simulator_serves_the_script_too() -> None:
    one = gateway("razorpay", KEYS, simulator="http://127.0.0.1:9")
    assert one.base("checkout.razorpay.com") == "http://127.0.0.1:9"
    run(one.aclose())


@pytest.mark.parametrize("word", ["created", "authenticated", "paused", "cancelled", "completed", "expired"])
def test_the_form_is_not_opened_in_other_states(word: str) -> None:
    adapter, _ = make(table(status=word))
    with pytest.raises(Unsupported):
        run(adapter.start_method_update(REF, BACK, "k"))


def test_the_card_is_offered_when_past_due_and_when_active_only_if_the_merchant_opts_in() -> None:
    update = facts("razorpay").capabilities["update_payment_method"]
    for method in ("card", "foreign_card", "upi", "emandate", "wallet", None):
        assert update.under(Circumstances("past_due", method=method)).mode == "hosted"
    assert update.under(Circumstances("active", method="card")).mode == "request"
    opted = Circumstances("active", method="card", option=frozenset({"card_change_when_active"}))
    assert (update.under(opted).mode, update.under(opted).confidence) == ("hosted", "unverified")


def test_a_cross_site_post_return_is_proved_and_then_the_payment_is_read() -> None:
    found, asked = come_back(returned())
    assert found.method == Method("card", "MasterCard", "5449", None, "token_2")
    assert "method" in knows(found)
    assert asked[-1] == "GET /payments/pay_Card0000000001"


@pytest.mark.parametrize(
    "signature",
    [
        sign(f"{SUB}|pay_Card0000000001"),  # the sequence of the order flow
        sign("pay_Card0000000001|sub_Other000000001"),
        sign(f"pay_Card0000000001|{SUB}", KEYS["webhook_secret"]),
        sign(f"pay_Card0000000001|{SUB}").upper(),
        "0" * 64,
        "ünicode",
    ],
)
def test_an_unproved_return_only_makes_us_look(signature: str) -> None:
    found, asked = come_back(returned(signature))
    assert found.method == Method("card", "Visa", "4366", "2028-09", "token_1")
    assert "GET /payments/pay_Card0000000001" not in asked


def test_the_two_sequences_of_signing_differ() -> None:
    """Published: secret key_secret, order fake_order_id, payment fake_payment_id; subscriptions have it reversed."""
    published = "b2335e3b0801106b84a7faff035df56ecffde06918c9ddd1f0fafbb37a51cc89"
    assert sign("fake_order_id|fake_payment_id", "key_secret") == published
    ref, shown = Ref("subscription", "fake_order_id"), subscription(id="fake_order_id")
    query = {"razorpay_payment_id": "fake_payment_id", "razorpay_signature": published}
    adapter, wire = make({"GET /subscriptions/fake_order_id": shown}, key_secret="key_secret")
    run(adapter.finish_method_update(ref, {}, query))
    assert "GET /payments/fake_payment_id" not in [name for name, _ in wire.asked]


def test_the_id_of_the_subscription_is_ours_and_never_the_forms() -> None:
    other = "sub_Other000000001"
    query = returned(sign(f"pay_Card0000000001|{other}"), razorpay_subscription_id=other)
    assert "GET /payments/pay_Card0000000001" not in come_back(query)[1]
    assert (
        "GET /payments/pay_Card0000000001" in come_back({**returned(), "razorpay_subscription_id": other})[1]
    )


@pytest.mark.parametrize("status", ["failed", "created", "a_word_of_tomorrow"])
def test_a_proved_return_of_a_payment_that_failed_shows_no_new_card(status: str) -> None:
    found, _ = come_back(returned(), status=status)
    assert found.method is not None
    assert found.method.remote_id == "token_1"


def test_an_error_in_the_return_is_told_without_a_word_of_the_form_to_the_customer() -> None:
    query = {
        "error[code]": "BAD_REQUEST_ERROR",
        "error[reason]": "payment_failed",
        "error[description]": "<b>x</b>",
    }
    adapter, _ = make(table(status="pending"))
    with pytest.raises(Declined) as caught:
        run(adapter.finish_method_update(REF, {}, query))
    assert caught.value.reason == "BAD_REQUEST_ERROR"
    assert "<b>" not in caught.value.customer + caught.value.hint


def test_coming_back_with_empty_hands_is_a_look() -> None:
    found, asked = come_back({})
    assert found.status == "active"
    assert len(asked) == 4


def test_without_a_key_secret_nothing_proves_a_return() -> None:
    adapter, wire = make(table(), key_secret="")
    run(adapter.finish_method_update(REF, {}, returned(sign(f"pay_Card0000000001|{SUB}", ""))))
    assert "GET /payments/pay_Card0000000001" not in [name for name, _ in wire.asked]


# Webhooks


def delivery(event: str = "subscription.charged", **payload: Json) -> bytes:
    said = {"entity": "event", "account_id": "acc_1", "event": event, "contains": list(payload)}
    inner = {name: {"entity": one} for name, one in payload.items()}
    return json.dumps({**said, "payload": inner, "created_at": STARTS}).encode()


def signed(
    body: bytes, secret: str = KEYS["webhook_secret"], event_id: str = "Evt1"
) -> list[tuple[str, str]]:
    proof = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return [("x-razorpay-signature", proof), ("X-Razorpay-Event-Id", event_id)]


def verify(headers: list[tuple[str, str]], body: bytes, **credentials: str) -> list[Event]:
    return Adapter({"webhook_secret": KEYS["webhook_secret"], **credentials}).verify(headers, body, NOW)


def test_a_delivery_is_proved_with_nothing_but_the_webhook_secret() -> None:
    body = delivery(subscription=subscription(), payment=payment(captured="1"))
    assert verify(signed(body), body) == [
        Event("Evt1", "subscription.charged", REF, datetime.fromtimestamp(STARTS, UTC))
    ]


def test_a_line_feed_at_the_end_belongs_to_the_message() -> None:
    body = delivery(subscription=subscription()) + b"\n"
    assert verify(signed(body), body)
    with pytest.raises(BadSignature):
        verify(signed(body), body.rstrip())


def test_raw_bytes_are_signed_not_json_that_was_written_again() -> None:
    body = b'{"event": "order.paid",   "payload": {"order": {"entity": {"id": "order_1"}}}}'
    assert verify(signed(body), body)[0].subject == Ref("order", "order_1")
    with pytest.raises(BadSignature):
        verify(signed(body), json.dumps(json.loads(body)).encode())


def test_the_secret_before_is_accepted_while_it_is_set() -> None:
    body = delivery(subscription=subscription())
    assert verify(signed(body, "the one before"), body, webhook_secret_old="the one before")
    with pytest.raises(BadSignature):
        verify(signed(body, "the one before"), body)
    with pytest.raises(BadSignature):
        verify(signed(body, ""), body, webhook_secret_old="")


def test_without_a_webhook_secret_everything_is_refused() -> None:
    body = delivery(subscription=subscription())
    for headers in (signed(body, ""), signed(body), []):
        with pytest.raises(BadSignature):
            verify(headers, body, webhook_secret="")


def test_the_key_secret_is_not_the_webhook_secret() -> None:
    body = delivery(subscription=subscription())
    with pytest.raises(BadSignature):
        verify(signed(body, KEYS["key_secret"]), body, **KEYS)


def test_the_id_of_an_event_is_razorpays_own_or_made_of_the_body() -> None:
    body = delivery(subscription=subscription())
    proof = signed(body)[0]
    for ids in (
        [],
        [("x-razorpay-event-id", "a"), ("x-razorpay-event-id", "b")],
        [("x-razorpay-event-id", "<x>")],
    ):
        (event,) = verify([proof, *ids], body)
        assert event.id == verify([proof], body)[0].id
        assert re.fullmatch("[0-9a-f]{24}", event.id)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'"x"', b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused_even_when_signed(body: bytes) -> None:
    with pytest.raises(BadSignature):
        verify(signed(body), body)


@pytest.mark.parametrize(
    ("event", "payload", "subject"),
    [
        ("subscription.paused", {"subscription": subscription()}, REF),
        ("payment.failed", {"payment": payment()}, Ref("payment", PAY)),
        ("order.paid", {"order": order(), "payment": payment()}, Ref("order", "order_1")),
        ("invoice.paid", {"payment": payment(), "invoice": invoice()}, Ref("invoice", INV)),
        ("refund.processed", {"refund": {"id": "rfnd_1", "payment_id": PAY}}, Ref("payment", PAY)),
        ("refund.failed", {"refund": {"id": "rfnd_1"}}, None),
        ("payment.dispute.created", {"payment": payment(), "dispute": {"id": "disp_1"}}, Ref("payment", PAY)),
        ("settlement.processed", {"settlement": {"id": "setl_1"}}, None),
        ("subscription.paused", {}, None),
        ("subscription.paused", {"subscription": {"id": 7}}, None),
    ],
)
def test_what_an_event_makes_us_look_at(event: str, payload: dict[str, Json], subject: Ref | None) -> None:
    body = delivery(event, **payload)
    (found,) = verify(signed(body), body)
    assert (found.type, found.subject) == (event, subject)
    assert Adapter.read("event", json.loads(body))[0].subject == subject


def test_an_event_of_no_interest_is_looked_at_no_further() -> None:
    adapter, wire = make()
    assert run(adapter.refetch(Event("1", "settlement.processed", None, None))) is None
    assert wire.asked == []


# Errors


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (unknown(), Gone, "does not exist"),
        (error("The ID provided is invalid or could not be found."), Gone, "could not be found"),
        (httpx.Response(404, json={"message": "no Route matched with those values"}), Gone, "404"),
        (error("Authentication failed", 401), Unavailable, "Compare key id and secret"),
        (error("", 403), Unavailable, "Compare key id and secret"),
        (error("slow down", 429), Unavailable, "slow down"),
        (error("down", 500, "SERVER_ERROR"), Unavailable, "SERVER_ERROR"),
        (error("bank", 502, "GATEWAY_ERROR"), Unavailable, "GATEWAY_ERROR"),
        (error("The subscription has words of its own"), Declined, "words of its own"),
        (httpx.Response(200, text="<html>"), Unavailable, "without JSON"),
        (httpx.Response(200, json=[]), Unavailable, "no object"),
        (httpx.Response(200, json={}), Unavailable, "not the subscription"),
        (httpx.Response(400, json={"error": "odd"}), Declined, "400"),
    ],
)
def test_refusals_become_the_five_errors(answer: httpx.Response, kind: type[Exception], words: str) -> None:
    adapter, _ = make({**table(), f"GET /subscriptions/{SUB}": answer})
    with pytest.raises(kind, match=words) as caught:
        run(adapter.fetch(REF))
    assert getattr(caught.value, "sent", False) is False
    assert KEYS["key_secret"] not in str(caught.value)


def test_another_operation_in_progress_is_waited_for() -> None:
    busy = error("Request failed because another subscription operation is in progress")
    adapter, _ = make({**table(), f"POST /subscriptions/{SUB}/cancel": busy})
    with pytest.raises(Unavailable) as caught:
        run(adapter.cancel_now(REF, "k"))
    assert (caught.value.retry_after, caught.value.sent) == (10.0, False)


def test_an_outage_while_writing_may_have_had_its_effect() -> None:
    adapter, _ = make({**table(), f"POST /subscriptions/{SUB}/pause": error("", 502, "GATEWAY_ERROR")})
    with pytest.raises(Unavailable) as caught:
        run(adapter.pause(REF, "k"))
    assert caught.value.sent


@pytest.mark.parametrize("remote_id", ["", "..", "a/b", "sub_1?x=1", "é" * 14, "x" * 300])
def test_an_id_that_nobody_has_asks_nothing(remote_id: str) -> None:
    adapter, wire = make()
    with pytest.raises(Gone):
        run(adapter.fetch(Ref("subscription", remote_id)))
    assert wire.asked == []


def test_a_list_that_is_cut_short_is_no_end() -> None:
    said: Json
    for said in (
        {},
        {"items": []},
        {"count": 2, "items": []},
        {"count": 1, "items": [{}]},
        {"count": 1, "items": [7]},
    ):
        adapter, _ = make({**table(), "GET /invoices": said})
        with pytest.raises(Unavailable):
            run(adapter.fetch(REF))


def test_something_on_the_side_that_is_gone_does_not_make_the_whole_gone() -> None:
    found = look({f"GET /payments/{PAY}": unknown(), f"GET /plans/{PLAN}": unknown()})
    assert found.subscriptions[0].status == "active"
    assert found.subscriptions[0].method == Method("card")


def test_check_names_what_the_account_lacks() -> None:
    adapter, _ = make({"GET /subscriptions": error("The requested URL was not found on the server.")})
    found = run(adapter.check())
    assert (found.ok, found.missing) == (True, ("Subscriptions",))
    adapter, _ = make(
        {"GET /payments": error("Authentication failed", 401)}, key_id="rzp_live_Abc123Def456Gh"
    )
    found = run(adapter.check())
    assert (found.ok, found.live) == (False, True)


def test_an_adapter_is_made_of_any_part_of_the_credentials() -> None:
    for credentials in ({}, {"key_id": "rzp_test_x"}, {"webhook_secret": "s"}):
        run(Adapter(credentials).aclose())


# Looks at other things


def test_a_payment_comes_with_its_subscription_and_refunds() -> None:
    refund = {"id": "rfnd_1", "payment_id": PAY, "amount": 100, "currency": "INR", "status": "processed"}
    answers = {f"GET /payments/{PAY}/refunds": collection(refund), f"GET /invoices/{INV}": invoice()}
    adapter, _ = make({**table(), **answers})
    found = run(adapter.fetch(Ref("payment", PAY)))
    assert found.payments[0].subscription == SUB
    assert found.refunds[0].status == "sent"
    assert found.invoices[0].remote_id == INV


def test_an_order_comes_with_its_payments_which_show_no_card() -> None:
    adapter, _ = make(
        {"GET /orders/order_1": order(payment(card=None), payment(id="pay_0", status="failed"))}
    )
    found = run(adapter.fetch(Ref("order", "order_1")))
    assert found.orders[0].status == "paid"
    assert [(one.status, "method" in knows(one)) for one in found.payments] == [
        ("paid", False),
        ("failed", False),
    ]


@pytest.mark.parametrize(("kind", "remote_id"), [("customer", CUST), ("refund", "rfnd_1"), ("invoice", INV)])
def test_single_objects_are_fetched(kind: Any, remote_id: str) -> None:
    said: Json = {"customer": {"id": CUST, "email": "asha@example.com"}, "invoice": invoice()}
    said |= {"refund": {"id": "rfnd_1", "payment_id": PAY, "amount": 1, "currency": "INR"}}
    adapter, _ = make({**table(), f"GET /{kind}s/{remote_id}": said[kind]})
    found = run(adapter.fetch(Ref(kind, remote_id)))
    assert [one.remote_id for one in getattr(found, f"{kind}s")] == [remote_id]


# read()


def test_read_tells_all_that_a_payment_tells() -> None:
    found = Adapter.read("payment", {"entity": payment(status="failed", error_reason="payment_failed")})
    assert isinstance(found, PaymentRecord)
    assert found.method == Method("card", "Visa", "4366", "2028-09", "token_1")
    assert found.failure == Failure("payment_failed", None)
    assert (found.order, found.invoice, found.customer, found.email) == (
        "order_1",
        INV,
        CUST,
        "asha@example.com",
    )
    assert found.created_at == datetime.fromtimestamp(STARTS, UTC)


def test_read_tells_all_that_a_subscription_tells() -> None:
    found = Adapter.read("subscription", subscription())
    assert isinstance(found, SubscriptionRecord)
    assert (found.status, found.email, found.customer, found.quantity) == (
        "active",
        "asha@example.com",
        CUST,
        2,
    )
    assert found.method == Method("card")
    assert found.current_period_end == datetime.fromtimestamp(ENDS, UTC)
    assert "amount" not in knows(found)
    assert "method" not in knows(Adapter.read("subscription", subscription(payment_method=None)))


def test_read_tells_all_that_the_others_tell() -> None:
    bill = Adapter.read("invoice", invoice(invoice_number="2026-7"))
    assert isinstance(bill, InvoiceRecord)
    assert (bill.number, bill.page_url, bill.payment, bill.subscription) == (
        "2026-7",
        "https://rzp.io/i/inv1",
        PAY,
        SUB,
    )
    assert bill.lines == (Line("Chai club", 2, Money(99_800, "INR")),)
    assert facts("razorpay").allows_link(str(bill.page_url))
    back = Adapter.read("refund", {"id": "rfnd_1", "payment_id": PAY, "amount": 5, "currency": "INR"})
    assert isinstance(back, RefundRecord)
    assert (back.payment, back.amount, back.status) == (PAY, Money(5, "INR"), None)
    who = Adapter.read("customer", {"id": CUST, "name": "Asha", "email": "asha@example.com", "notes": []})
    assert isinstance(who, CustomerRecord)
    assert (who.name, who.email) == ("Asha", "asha@example.com")
    assert isinstance(Adapter.read("order", order()), OrderRecord)


@pytest.mark.parametrize(
    "kind", ["customer", "order", "subscription", "payment", "refund", "invoice", "event"]
)
@pytest.mark.parametrize("said", [None, 7, "x", [], {}, {"id": "other_1"}, {"id": 7}, {"payload": []}])
def test_read_says_what_is_no_such_object(kind: str, said: object) -> None:
    with pytest.raises(ValueError, match="This is no"):
        Adapter.read(kind, said)


def test_read_of_a_kind_that_razorpay_has_not() -> None:
    with pytest.raises(Unsupported):
        Adapter.read("dispute", {})


@pytest.mark.parametrize("kind", ["customer", "order", "subscription", "payment", "refund", "invoice"])
def test_read_bears_every_wrong_type(kind: str) -> None:
    whole = {
        "order": order(payment()),
        "subscription": subscription(),
        "payment": payment(),
        "invoice": invoice(),
    }
    said = whole.get(kind, {**payment(), "name": "x"})
    prefix = words.READERS[kind][0]
    odds: list[Any] = [None, 7, "seven", [], {}, [7], {"items": 7}, {"email": []}, True, -1, 10**30, 1.5]
    for name in set(said) - {"entity"}:  # an object there is the envelope
        for odd in odds:
            found = Adapter.read(kind, {**said, name: odd, "id": f"{prefix}1"})
            assert found.remote_id == f"{prefix}1"


def test_facts_and_adapter_agree() -> None:
    assert disagreements("razorpay", Adapter) == []


def test_what_is_not_verified_is_marked_so() -> None:
    table = facts("razorpay")
    notes = " ".join(str(one.note) for one in table.capabilities.values())
    assert notes.count("UNVERIFIED") >= 4
    assert table.capabilities["cancel_at_period_end"].confidence == "low"


def test_the_adapter_is_short_enough_to_be_read() -> None:
    assert len(inspect.getsource(inspect.getmodule(Adapter)).splitlines()) <= 400  # type: ignore[arg-type]
