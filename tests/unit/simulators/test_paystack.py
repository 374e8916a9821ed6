"""The adapter against the simulator on a real port, and the simulator's own rules."""

import asyncio
import copy
import json
import pickle
import re
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

import httpx2 as httpx
import pytest

from portal import clock
from portal.gateways import gateway, http
from portal.gateways.base import (
    BadSignature,
    Declined,
    GatewayError,
    Gone,
    Interval,
    Page,
    PaymentRecord,
    Ref,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import facts
from portal.gateways.paystack import Adapter
from portal.money import Money
from seeds.simulators.harness import Exchange, Servers, Situation
from seeds.simulators.paystack import Simulator
from tests.conftest import SHARED
from tests.contracts import Check, openapi

T = TypeVar("T")
SPEC = SHARED / "specs" / "paystack" / "paystack.yaml"
HOOK = "http://127.0.0.1:9/webhooks/token"
# What the specification has otherwise than Paystack's own samples, documents and test accounts.
KNOWN_OTHERWISE = (
    "unknown field perPage",  # GET /transaction: the specification says per_page, documents and samples perPage
    "unknown field customer",  # GET /transaction: documented filter by the customer's number
    "unknown field transaction",  # GET /refund: documented filter by the transaction's number
    "answer meta",  # cursors (next, previous) are missing from every schema; refunds want a count and a text
    'is not of type "string"',  # null dates and texts in Paystack's own samples; metadata as an object
    "answer data: ",  # GET /paymentrequest/{id} is given the schema of the list; create names fields of its own
    'answer : "meta" is a required property',
    "answer code",  # the list of codes lacks those that its own documents name
    'metadata: "" is not valid',  # empty text for none, as in life
    '"custom_fields" is a required property',  # metadata is whatever the shop wrote
    'metadata: "vip" is not of type "object"',  # text too
)


class Clock:
    def __call__(self) -> datetime:
        return clock.now()


@pytest.fixture(scope="module")
def served() -> Iterator[Simulator]:
    one = Simulator(Clock())
    for sample in one.samples():
        one.open(sample, HOOK)
    one.fill(one.samples()[0])
    one.save()
    with Servers([one]):
        yield one
        for adapter in _adapters.values():
            LOOP.run_until_complete(adapter.aclose())
        LOOP.close()


@pytest.fixture(scope="module")
def contract() -> Check | None:
    return openapi(SPEC, KNOWN_OTHERWISE) if SPEC.exists() else None


@pytest.fixture
def simulator(
    served: Simulator, contract: Check | None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Simulator]:
    """Both sides of every exchange are held against the specification, where somebody has it."""
    monkeypatch.setattr(http, "READ_S", 1.0)
    monkeypatch.setattr(http, "TOTAL_S", 2.0)
    served.reset()
    served.contract = contract
    yield served
    assert served.problems == []


@pytest.mark.skipif(not SPEC.exists(), reason="Paystack's OpenAPI file is not here")
def test_the_specification_refuses_what_is_wrong(simulator: Simulator, contract: Check) -> None:
    sent = Exchange(
        "POST", "/subscription/disable", "", {"content-type": "application/json"}, b"{}", 200, "", b""
    )
    assert len(contract(sent)) == 2
    assert contract(replace(sent, path="/subscription/pause"))


LOOP = asyncio.new_event_loop()
_adapters: dict[tuple[str, int], Adapter] = {}


def run(simulator: Simulator, wish: Callable[[Adapter], Coroutine[Any, Any, T]], number: int = 0) -> T:
    """With one adapter for each account and one loop for all: to build a client takes longer than most tests."""
    if (simulator.address, number) not in _adapters:
        credentials = simulator.samples()[number].credentials
        made = gateway("paystack", credentials, simulator=simulator.address)
        assert isinstance(made, Adapter)
        _adapters[simulator.address, number] = made
    return LOOP.run_until_complete(wish(_adapters[simulator.address, number]))


def put(simulator: Simulator, state: str = "active", **more: Any) -> Ref:
    code = simulator.stage(simulator.samples()[0], "ada@example.com", Situation(state, **more))
    assert code is not None
    return Ref("subscription", code)


def fetch(simulator: Simulator, ref: Ref) -> Snapshot:
    return run(simulator, lambda adapter: adapter.fetch(ref))


def fetched(simulator: Simulator, ref: Ref) -> SubscriptionRecord:
    return only(fetch(simulator, ref), ref)


def only(snapshot: Any, ref: Ref) -> SubscriptionRecord:
    assert isinstance(snapshot, Snapshot)
    found = snapshot.subscription(ref.id)
    assert found is not None
    return found


def pages(simulator: Simulator, cursor: str | None = None, number: int = 0) -> list[Page]:
    async def all_pages(adapter: Adapter) -> list[Page]:
        return [page async for page in adapter.backfill(cursor)]

    return run(simulator, all_pages, number)


def rows(found: list[Page], kind: str) -> dict[str, Any]:
    return {row.remote_id: row for page in found for row in getattr(page.snapshot, kind)}


def writes(simulator: Simulator) -> list[str]:
    return [f"{call.method} {call.path}" for call in simulator.calls if call.method != "GET"]


def test_the_check_proves_the_key(simulator: Simulator) -> None:
    health = run(simulator, lambda adapter: adapter.check())
    assert (health.ok, health.live) == (True, False)
    assert health.account
    simulator.switch("refused_keys")
    health = run(simulator, lambda adapter: adapter.check())
    assert not health.ok
    assert "allow-list" in (health.hint or "")
    assert simulator.samples()[0].credentials["secret_key"] not in (health.hint or "")


def test_the_check_says_when_paystack_is_down(simulator: Simulator) -> None:
    simulator.switch("down")
    with pytest.raises(Unavailable):
        run(simulator, lambda adapter: adapter.check())


def test_backfill_brings_everything_once(simulator: Simulator) -> None:
    found = pages(simulator)
    assert [page.cursor is None for page in found] == [False] * (len(found) - 1) + [True]
    assert len(rows(found, "customers")) == 2
    states = sorted(str(row.status) for row in rows(found, "subscriptions").values())
    assert states == [
        *("active", "active", "active", "cancelled", "cancels_at_period_end", "cancels_at_period_end"),
        *("expired", "past_due", "trialing"),
    ]
    payments = sorted(str(row.status) for row in rows(found, "payments").values() if not row.subscription)
    assert payments == ["disputed", "failed", "paid", "partially_refunded", "refunded"]
    assert len(rows(found, "orders")) == 4
    assert sorted(str(row.status) for row in rows(found, "invoices").values()) == ["overdue", "paid"]
    assert {row.status for row in rows(found, "refunds").values()} == {"sent"}


def test_charges_of_subscriptions_are_joined_and_are_no_orders(simulator: Simulator) -> None:
    found = pages(simulator)
    charges = [row for row in rows(found, "payments").values() if row.subscription]
    counts = {code: simulator.standing(code).payments for code in rows(found, "subscriptions")}
    for code, paid in counts.items():
        mine = [row for row in charges if row.subscription == code and row.status == "paid"]
        assert len(mine) == paid, code
    assert not {row.remote_id for row in charges} & set(rows(found, "orders"))


def test_backfill_resumed_from_any_cursor_brings_the_rest(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seeds.simulators.paystack.MOST", 3)
    whole = pages(simulator)
    assert len(whole) > 10
    for at in (1, len(whole) - 4):
        rest = pages(simulator, whole[at].cursor)
        for kind in ("subscriptions", "payments", "orders", "refunds", "invoices", "customers"):
            mine = rows(whole[at + 1 :], kind)
            again = rows(rest, kind)
            assert {key: replace(one) for key, one in again.items()} == mine, (at, kind)


def test_a_stranger_sees_nothing(simulator: Simulator) -> None:
    assert all(not rows(pages(simulator, number=1), kind) for kind in ("customers", "payments"))
    ref = put(simulator)
    with pytest.raises(Gone):
        run(simulator, lambda adapter: adapter.fetch(ref), 1)


def test_find_by_email(simulator: Simulator) -> None:
    refs = run(simulator, lambda adapter: adapter.find("noor@example.com"))
    kinds = [ref.kind for ref in refs]
    assert kinds == ["customer", "subscription", "payment", "payment", "payment"]

    async def fetch_all(adapter: Adapter) -> set[str | None]:
        found = [await adapter.fetch(ref) for ref in refs]
        told = [row for one in found for row in (*one.customers, *one.subscriptions, *one.payments)]
        return {row.email for row in told}

    assert run(simulator, fetch_all) == {"noor@example.com"}
    assert run(simulator, lambda adapter: adapter.find("nobody@example.com")) == []
    assert run(simulator, lambda adapter: adapter.find("../transaction")) == []


@pytest.mark.parametrize(
    ("situation", "status", "object"),
    [
        (Situation("trialing"), "trialing", None),
        (Situation("active"), "active", None),
        (Situation("active", method="bank_debit"), "active", None),
        (Situation("active", token=False), "active", None),
        (Situation("past_due", due=True), "past_due", None),
        (Situation("cancels_at_period_end"), "cancels_at_period_end", None),
        (Situation("cancels_at_period_end", object="last_cycle"), "cancels_at_period_end", "last_cycle"),
        (
            Situation("cancels_at_period_end", object="never_charged"),
            "cancels_at_period_end",
            "never_charged",
        ),
        (Situation("cancels_at_period_end", object="closed"), "cancels_at_period_end", "closed"),
        (Situation("cancels_at_period_end", object="replaced"), "cancels_at_period_end", "replaced"),
        (Situation("cancelled"), "cancelled", "closed"),
        (Situation("expired"), "expired", "closed"),
    ],
)
def test_every_situation_is_read_as_it_is(
    simulator: Simulator, situation: Situation, status: str, object: str | None
) -> None:
    code = simulator.stage(simulator.samples()[0], "ada@example.com", situation)
    assert code is not None
    record = fetched(simulator, Ref("subscription", code))
    assert (record.status, record.object) == (status, object)
    assert record.method is not None
    assert record.method.kind == (situation.method or "card")
    assert (record.method.remote_id is None) == (situation.token is False)
    assert bool(record.due) == (status == "past_due")
    standing = simulator.standing(code)
    assert standing.charges == (status in ("active", "trialing", "past_due"))
    assert (record.next_payment.on if record.next_payment else None) == standing.next_on


def test_situations_that_paystack_does_not_have(simulator: Simulator) -> None:
    sample = simulator.samples()[0]
    for situation in (Situation("paused"), Situation("incomplete"), Situation("active", method="wallet")):
        assert simulator.stage(sample, "ada@example.com", situation) is None
    assert simulator.stage(sample, "ada@example.com", Situation("active", object="agreement")) is None


# Cancel


@pytest.mark.parametrize("state", ["active", "trialing", "past_due"])
def test_cancel_at_period_end_keeps_the_date_that_paystack_forgets(simulator: Simulator, state: str) -> None:
    ref = put(simulator, state)
    on = simulator.standing(ref.id).next_on
    record = only(run(simulator, lambda adapter: adapter.cancel_at_period_end(ref, "k")), ref)
    assert record.status == "cancels_at_period_end"
    assert record.cancels_at is not None
    assert record.cancels_at.date() == on
    assert record.next_payment is None
    assert "next_payment" in (record.knows or ())
    assert not simulator.standing(ref.id).charges
    assert writes(simulator) == ["POST /subscription/disable"]


def test_a_second_cancel_is_success_and_asks_for_nothing(simulator: Simulator) -> None:
    ref = put(simulator)
    first = only(run(simulator, lambda adapter: adapter.cancel_at_period_end(ref, "k")), ref)
    again = replace(ref, known=first)
    assert (
        only(run(simulator, lambda adapter: adapter.cancel_at_period_end(again, "k")), ref).status
        == first.status
    )
    assert writes(simulator) == ["POST /subscription/disable"]


@pytest.mark.parametrize("state", ["active", "trialing", "past_due", "cancels_at_period_end"])
def test_cancel_now_stops_charges_for_good_and_says_what_paystack_says(
    simulator: Simulator, state: str
) -> None:
    ref = put(simulator, state)
    paid = simulator.standing(ref.id).payments
    record = only(run(simulator, lambda adapter: adapter.cancel_now(ref, "k")), ref)
    assert (record.status, record.raw_status) == ("cancels_at_period_end", "non-renewing")
    assert not simulator.standing(ref.id).charges
    clock.set_offset(timedelta(days=400))
    simulator.tick()
    assert (simulator.standing(ref.id).raw, simulator.standing(ref.id).payments) == ("cancelled", paid)
    later = fetched(simulator, ref)
    assert later.status == "cancelled"
    assert later.ended_at is not None


@pytest.mark.parametrize("name", ["cancel_now", "cancel_at_period_end"])
def test_a_cancel_whose_answer_never_came_is_finished_by_the_retry(simulator: Simulator, name: str) -> None:
    ref = put(simulator)
    simulator.fail_next = ["", "timeout_after"]
    with pytest.raises(Unavailable) as error:
        run(simulator, lambda adapter: getattr(adapter, name)(ref, "k"))
    assert error.value.sent
    assert not simulator.standing(ref.id).charges
    record = only(run(simulator, lambda adapter: getattr(adapter, name)(ref, "k")), ref)
    assert record.status == "cancels_at_period_end"
    assert writes(simulator).count("POST /subscription/disable") == 1


# Undo


def test_undo_brings_the_old_date_back(simulator: Simulator) -> None:
    ref = put(simulator)
    was = fetched(simulator, ref)
    cancelled = only(run(simulator, lambda adapter: adapter.cancel_at_period_end(ref, "a")), ref)
    snapshot = run(simulator, lambda adapter: adapter.undo_cancel(replace(ref, known=cancelled), "b"))
    record = only(snapshot, ref)
    assert (record.status, record.next_payment, snapshot.tell) == ("active", was.next_payment, "")
    assert {"cancels_at", "ended_at", "object"} <= (record.knows or frozenset())
    assert simulator.standing(ref.id).charges


@pytest.mark.parametrize("sort", ["last_cycle", "never_charged", "closed", "replaced"])
def test_undo_is_refused_for_what_cannot_come_back(simulator: Simulator, sort: str) -> None:
    ref = put(simulator, "cancels_at_period_end", object=sort)
    with pytest.raises(Unsupported):
        run(simulator, lambda adapter: adapter.undo_cancel(ref, "k"))
    assert writes(simulator) == []


def test_undo_tells_the_merchant_of_another_date(simulator: Simulator) -> None:
    ref = put(simulator)
    cancelled = only(run(simulator, lambda adapter: adapter.cancel_at_period_end(ref, "a")), ref)
    _, one = simulator._whose(ref.id)
    one["ends"] += timedelta(days=9)
    snapshot = run(simulator, lambda adapter: adapter.undo_cancel(replace(ref, known=cancelled), "b"))
    assert f"{one['next']:%Y-%m-%d}" in snapshot.tell


def test_an_enable_without_effect_is_not_claimed(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = put(simulator, "cancels_at_period_end")
    monkeypatch.setattr(Simulator, "_enable", lambda *_: {"message": "Subscription enabled successfully"})
    other = Simulator(Clock())  # a server takes its routes when it starts
    other.state = simulator.state
    with Servers([other]), pytest.raises(Unavailable) as error:
        run(other, lambda adapter: adapter.undo_cancel(ref, "k"))
    assert error.value.sent


# Another plan


def test_change_plan_begins_on_the_paid_date_and_then_stops_the_old_one(simulator: Simulator) -> None:
    ref = put(simulator)
    was = fetched(simulator, ref)
    snapshot = run(
        simulator, lambda adapter: adapter.change_plan(ref, {"plan": "PLN_gymquarterly001"}, "", "k")
    )
    assert isinstance(snapshot, Snapshot)
    old = only(snapshot, ref)
    assert (old.status, old.object) == ("cancels_at_period_end", "replaced")
    new = next(one for one in snapshot.subscriptions if one.remote_id != ref.id)
    assert new.status == "trialing"
    assert was.next_payment is not None
    assert new.next_payment is not None
    assert new.next_payment.on == was.next_payment.on
    assert old.pending_change is not None
    assert (old.pending_change.title, old.pending_change.on) == ("Gym, quarterly", was.next_payment.on)
    assert writes(simulator) == ["POST /subscription", "POST /subscription/disable"]
    assert fetched(simulator, ref).object == "replaced"
    with pytest.raises(Unsupported):
        run(simulator, lambda adapter: adapter.undo_cancel(replace(ref, known=old), "b"))
    clock.set_offset(timedelta(days=13))
    simulator.tick()
    assert simulator.standing(new.remote_id).payments == 1
    assert simulator.standing(ref.id).raw == "cancelled"


@pytest.mark.parametrize("spot", [3, 5])
def test_change_plan_whose_answer_never_came_is_finished_by_the_retry(
    simulator: Simulator, spot: int
) -> None:
    ref, change = put(simulator), {"plan": "PLN_gymquarterly001"}
    known = replace(ref, known=fetched(simulator, ref))
    simulator.fail_next = [""] * spot + ["timeout_after"] + ["500"] * (spot == 5)
    with pytest.raises(Unavailable) as error:
        run(simulator, lambda adapter: adapter.change_plan(known, change, "", "k"))
    assert error.value.sent
    snapshot = run(simulator, lambda adapter: adapter.change_plan(known, change, "", "k"))
    assert isinstance(snapshot, Snapshot)
    assert len(snapshot.subscriptions) == 2
    assert writes(simulator).count("POST /subscription") == 1
    assert writes(simulator).count("POST /subscription/disable") == 1
    assert not simulator.standing(ref.id).charges


@pytest.mark.parametrize(
    "change",
    [
        {"plan": None},
        {},
        {"quantity": 2},
        {"amount": Money(6_000_000, "NGN")},
        {"plan": "PLN_gymquarterly001", "quantity": 2},
        {"plan": "PLN_coffeemonthly01"},
    ],
)
def test_only_the_plan_can_be_changed(simulator: Simulator, change: dict[str, Any]) -> None:
    ref = put(simulator)
    with pytest.raises(Unsupported):
        run(simulator, lambda adapter: adapter.change_plan(ref, change, "", "k"))


def test_where_only_the_answer_to_the_disable_is_lost_the_change_goes_on(simulator: Simulator) -> None:
    ref = put(simulator)
    simulator.fail_next = [""] * 5 + ["timeout_after"]
    snapshot = run(
        simulator, lambda adapter: adapter.change_plan(ref, {"plan": "PLN_gymquarterly001"}, "", "k")
    )
    assert only(snapshot, ref).object == "replaced"
    assert not simulator.standing(ref.id).charges


@pytest.mark.parametrize(("minor", "taken"), [(6_000_000, True), (5_000_000, False)])
def test_a_price_that_the_merchants_list_has_otherwise_is_not_charged(
    simulator: Simulator, minor: int, taken: bool
) -> None:
    ref = put(simulator)
    change = {"plan": "PLN_gymquarterly001", "amount": Money(minor, "NGN"), "interval": Interval("month", 3)}
    if taken:
        run(simulator, lambda adapter: adapter.change_plan(ref, change, "", "k"))
    else:
        with pytest.raises(Unsupported):
            run(simulator, lambda adapter: adapter.change_plan(ref, change, "", "k"))
    assert len(writes(simulator)) == (2 if taken else 0)


def test_the_plans_are_as_a_merchant_would_list_them(simulator: Simulator) -> None:
    plans = simulator.plans(simulator.samples()[0])
    assert {(one["plan"], one["minor"], one["unit"], one["count"]) for one in plans} >= {
        ("PLN_coffeemonthly01", 850_000, "month", 1),
        ("PLN_gymquarterly001", 6_000_000, "month", 3),
        ("PLN_readersannual01", 4_800_000, "year", 1),
    }


def test_change_plan_needs_a_card_that_can_be_charged_again(simulator: Simulator) -> None:
    ref = put(simulator, token=False)
    with pytest.raises(Unsupported):
        run(simulator, lambda adapter: adapter.change_plan(ref, {"plan": "PLN_gymquarterly001"}, "", "k"))
    assert writes(simulator) == []


def test_a_plan_that_is_refused_changes_nothing(simulator: Simulator) -> None:
    ref = put(simulator)
    with pytest.raises(Gone):
        run(simulator, lambda adapter: adapter.change_plan(ref, {"plan": "PLN_unknown"}, "", "k"))
    other = put(simulator)
    taken = simulator._whose(other.id)[1][
        "plan"
    ]  # by a subscription of theirs that is under way, on the same days
    with pytest.raises(Declined) as error:
        run(simulator, lambda adapter: adapter.change_plan(ref, {"plan": taken}, "", "k"))
    assert "already in place" in error.value.hint
    assert simulator.standing(ref.id).charges
    assert simulator.standing(other.id).charges


# Another card


def page_of(link: str) -> str:
    answer = httpx.get(link)
    assert answer.status_code == 200
    return answer.text


def test_another_card_is_seen_by_reading_back(simulator: Simulator) -> None:
    ref = put(simulator)
    before = fetched(simulator, ref).method
    leave = run(
        simulator, lambda adapter: adapter.start_method_update(ref, "https://shop.example/return", "k")
    )
    assert not leave.returns
    assert dict(leave.state) == {}
    assert facts("paystack").allows_link(leave.url, {"": simulator.address})
    assert 'data-test="accept"' in page_of(leave.url)
    untouched = run(simulator, lambda adapter: adapter.finish_method_update(ref, {}, {"status": "success"}))
    assert only(untouched, ref).method == before
    httpx.post(leave.url, data={"action": "save", "card": "mastercard"})
    after = only(run(simulator, lambda adapter: adapter.finish_method_update(ref, {}, {})), ref).method
    assert before is not None
    assert after is not None
    assert (after.brand, after.last4, after.expires) == ("Mastercard", "0043", "2030-12")
    assert after.remote_id != before.remote_id


def test_the_manage_page_cancels_too(simulator: Simulator) -> None:
    ref = put(simulator)
    leave = run(simulator, lambda adapter: adapter.start_method_update(ref, "", "k"))
    httpx.post(leave.url, data={"action": "cancel"})
    assert only(told(simulator, "subscription.not_renew"), ref).status == "cancels_at_period_end"


def test_a_refused_card_changes_nothing(simulator: Simulator) -> None:
    ref = put(simulator)
    leave = run(simulator, lambda adapter: adapter.start_method_update(ref, "", "k"))
    was = simulator.standing(ref.id)
    assert httpx.post(leave.url, data={"action": "decline"}).status_code == 402
    simulator.switch("decline")
    assert httpx.post(leave.url, data={"action": "save", "card": "visa"}).status_code == 402
    assert simulator.standing(ref.id) == was


def test_a_link_is_fresh_at_every_click_and_dies_after_a_day(simulator: Simulator) -> None:
    ref = put(simulator)
    links = {run(simulator, lambda adapter: adapter.start_method_update(ref, "", "k")).url for _ in range(2)}
    assert len(links) == 2
    clock.set_offset(timedelta(hours=25))
    assert {httpx.get(link).status_code for link in links} == {410}


def test_no_link_for_one_that_has_ended(simulator: Simulator) -> None:
    ref = put(simulator, "cancelled")
    with pytest.raises(Unsupported):
        run(simulator, lambda adapter: adapter.start_method_update(ref, "", "k"))


# Declines, limits, silence, garbage

CHANGES: dict[str, Callable[[Adapter, Ref], Coroutine[Any, Any, Any]]] = {
    "cancel_now": lambda adapter, ref: adapter.cancel_now(ref, "k"),
    "cancel_at_period_end": lambda adapter, ref: adapter.cancel_at_period_end(ref, "k"),
    "undo_cancel": lambda adapter, ref: adapter.undo_cancel(ref, "k"),
    "change_plan": lambda adapter, ref: adapter.change_plan(ref, {"plan": "PLN_gymquarterly001"}, "", "k"),
    "start_method_update": lambda adapter, ref: adapter.start_method_update(ref, "", "k"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_decline_is_said_and_changes_nothing(simulator: Simulator, name: str) -> None:
    ref = put(simulator, "cancels_at_period_end" if name == "undo_cancel" else "active")
    was = simulator.standing(ref.id)
    simulator.switch("decline")
    with pytest.raises(Declined) as error:
        run(simulator, lambda adapter: CHANGES[name](adapter, ref))
    assert error.value.customer
    assert ref.id not in error.value.customer
    assert simulator.standing(ref.id) == was


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_comes_back_is_one_of_the_five(simulator: Simulator, name: str) -> None:
    """Every fault in place of the first and of the second answer."""
    simulator.contract = None
    state = "cancels_at_period_end" if name == "undo_cancel" else "active"

    async def all_faults(adapter: Adapter) -> None:
        for spot in (0, 1):
            for fault in ("429:7", "500", "401", "html", "empty", "truncated", "wrong_types"):
                http._breakers.clear()
                ref = put(simulator, state)
                simulator.fail_next = [""] * spot + [fault] * 2
                with pytest.raises(GatewayError) as error:
                    await CHANGES[name](adapter, ref)
                simulator.fail_next.clear()
                assert error.value.customer, fault
                assert ref.id not in error.value.customer
                if fault == "429:7":
                    assert isinstance(error.value, Unavailable)
                    assert error.value.retry_after == 7

    run(simulator, all_faults)


@pytest.mark.parametrize("fault", ["missing_fields", "unknown_status"])
@pytest.mark.parametrize("kind", ["subscription", "payment", "customer"])
def test_odd_answers_make_less_known_and_never_another_error(
    simulator: Simulator, kind: str, fault: str
) -> None:
    put(simulator)
    simulator.contract = None
    ref = next(
        one for one in run(simulator, lambda adapter: adapter.find("ada@example.com")) if one.kind == kind
    )
    simulator.fail_next = [fault]
    try:
        snapshot = run(simulator, lambda adapter: adapter.fetch(ref))
    except Unavailable:
        assert fault == "missing_fields"
        return
    told: list[SubscriptionRecord | PaymentRecord] = [*snapshot.subscriptions, *snapshot.payments]
    assert told or kind == "customer"
    for row in told:
        assert row.status is None
        assert row.raw_status == "a_word_of_tomorrow"


def test_an_unknown_subscription_is_gone(simulator: Simulator) -> None:
    for ref in (Ref("subscription", "SUB_none"), Ref("payment", "123"), Ref("invoice", "PRQ_none")):
        with pytest.raises(Gone):
            fetch(simulator, ref)
    with pytest.raises(Gone):
        fetch(simulator, Ref("subscription", "../customer"))


# Documents


def test_a_payment_request_has_its_pdf_and_it_is_asked_for_without_the_key(simulator: Simulator) -> None:
    found = rows(pages(simulator), "invoices")
    paid = next(row for row in found.values() if row.status == "paid")
    assert (paid.document, len(paid.lines), paid.lines[0].quantity) == (True, 1, 4)
    assert paid.amount == paid.lines[0].amount
    document = run(simulator, lambda adapter: adapter.invoice_document(Ref("invoice", paid.remote_id)))
    assert document is not None
    assert document.content.startswith(b"%PDF-")
    other = next(row for row in found.values() if row.status != "paid")
    assert not other.document
    assert run(simulator, lambda adapter: adapter.invoice_document(Ref("invoice", other.remote_id))) is None


# Webhooks


def told(simulator: Simulator, event: str) -> Snapshot:
    """What the adapter makes of the newest delivery of an event."""
    delivery = next(one for one in reversed(simulator.sent) if json.loads(one.body)["event"] == event)

    async def take(adapter: Adapter) -> Snapshot | None:
        (found,) = adapter.verify(list(delivery.headers.items()), delivery.body, clock.now())
        return await adapter.refetch(found)

    snapshot = run(simulator, take)
    assert snapshot is not None
    return snapshot


def test_a_charge_is_known_by_its_webhooks(simulator: Simulator) -> None:
    ref = put(simulator)
    simulator.charge(ref.id)
    (payment,) = told(simulator, "charge.success").payments
    assert (payment.status, payment.subscription, payment.order) == ("paid", ref.id, None)
    snapshot = told(simulator, "invoice.update")
    assert only(snapshot, ref).status == "active"
    assert [(one.remote_id, one.subscription) for one in snapshot.payments] == [(payment.remote_id, ref.id)]
    assert snapshot.orders == ()


def test_a_failed_charge_makes_it_past_due_until_the_next_date(simulator: Simulator) -> None:
    ref = put(simulator)
    simulator.charge(ref.id, succeeds=False)
    record = only(told(simulator, "invoice.payment_failed"), ref)
    assert record.status == "past_due"
    assert record.due == record.amount
    assert record.retries_on == simulator.standing(ref.id).next_on
    assert not record.stopped


def test_every_forgery_is_refused(simulator: Simulator) -> None:
    put(simulator)
    sample, delivery = simulator.samples()[0], simulator.sent[-1]
    forgeries = simulator.forgeries(sample, delivery)
    assert len(forgeries) >= 25
    adapter = Adapter({"secret_key": sample.credentials["secret_key"]})
    assert adapter.verify(list(delivery.headers.items()), delivery.body, clock.now())
    for forgery in forgeries:
        try:
            adapter.verify(forgery.headers, forgery.body, clock.now())
        except BadSignature:
            continue
        pytest.fail(forgery.what)
    stranger = Adapter(simulator.samples()[1].credentials)
    with pytest.raises(BadSignature):
        stranger.verify(list(delivery.headers.items()), delivery.body, clock.now())


# The simulator itself


def test_credentials_match_the_patterns_of_the_facts(simulator: Simulator) -> None:
    patterns = {one.name: one.pattern for one in facts("paystack").credentials}
    for sample in simulator.samples():
        assert all(re.fullmatch(patterns[name], value) for name, value in sample.credentials.items())


def test_the_state_can_be_kept_and_copied(simulator: Simulator) -> None:
    put(simulator)
    assert pickle.loads(pickle.dumps(simulator.state)) == simulator.state
    simulator.save()
    was = copy.deepcopy(simulator.state)
    put(simulator)
    simulator.reset()
    assert simulator.state == was


def test_time_charges_what_goes_on_and_ends_what_is_cancelled(simulator: Simulator) -> None:
    goes_on, ends = put(simulator), put(simulator, "cancels_at_period_end")
    fails = put(simulator, "past_due")
    on = simulator.standing(goes_on.id).next_on
    assert isinstance(on, date)
    clock.set_offset(datetime(on.year, on.month, on.day, tzinfo=UTC) + timedelta(days=2) - datetime.now(UTC))
    simulator.tick()
    assert simulator.standing(goes_on.id).payments == 3
    assert simulator.standing(ends.id).raw == "cancelled"
    clock.set_offset(timedelta(days=200))
    simulator.tick()
    assert simulator.standing(fails.id).raw == "attention"
    events = [json.loads(one.body)["event"] for one in simulator.sent]
    assert {"charge.success", "invoice.update", "subscription.disable", "invoice.payment_failed"} <= set(
        events
    )
