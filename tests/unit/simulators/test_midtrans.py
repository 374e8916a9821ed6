"""The Midtrans adapter against the Midtrans simulator: every wish, every refusal, every spoiled answer."""

import asyncio
import copy
import json
import pickle
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import httpx2 as httpx
import pytest

from portal import clock
from portal.gateways import gateway, http
from portal.gateways.base import (
    BadSignature,
    Declined,
    Event,
    Gateway,
    Gone,
    Interval,
    Leave,
    Ref,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import Circumstances, facts
from portal.money import Money
from seeds.simulators.harness import Exchange, Sample, Servers, Situation, names
from seeds.simulators.midtrans import WIB, Simulator
from tests.conftest import SHARED
from tests.contracts import contract

NOW = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)  # ten in Jakarta
SHOP = "https://shop.example/hook"
BACK = "https://portal.example/customers/return/abc"
CONTRACT = SHARED / "specs" / "midtrans" / "contract.json"
Result = TypeVar("Result")


def at(moment: datetime) -> None:
    clock.set_offset(moment - datetime.now(UTC))


def later(**more: float) -> None:
    at(clock.now() + timedelta(**more))


MADE: dict[Any, Gateway] = {}
LOOPS: list[asyncio.Runner] = []


@pytest.fixture(scope="module")
def served() -> Iterator[Simulator]:
    one = Simulator(clock.now)
    with Servers([one]), asyncio.Runner() as loop:
        LOOPS.append(loop)
        for sample in one.samples():
            one.open(sample, SHOP)
        one.save()
        yield one
        for gate in MADE.values():
            loop.run(gate.aclose())
        MADE.clear()


def held(exchange: Exchange) -> list[str]:
    """The compiled contract names Snap's and BI-SNAP's paths by their product; of nested fields it lists the inner."""
    path = exchange.path
    if path.startswith("/invoices/pdf/"):
        return []
    for prefix, product in (("/snap/v1/", "snap:/"), ("/v1.0/", "bisnap:/v1.0/")):
        path = product + path.removeprefix(prefix) if path.startswith(prefix) else path
    return rules()(replace(exchange, path=path))


@cache
def rules() -> Callable[[Exchange], list[str]]:
    return contract(CONTRACT, ("unknown field schedule", "unknown field additionalInfo"))


@pytest.fixture
def sim(served: Simulator) -> Iterator[Simulator]:
    at(NOW)
    served.reset()
    for one in MADE.values():
        one._report._bearer = None  # type: ignore[attr-defined]
    served.contract = held if CONTRACT.exists() else None
    yield served
    assert served.problems == []


@pytest.fixture
def loose(sim: Simulator) -> Simulator:
    """For tests that break the rules on purpose."""
    sim.contract = None
    return sim


@pytest.fixture
def shop(sim: Simulator) -> Sample:
    return sim.samples()[0]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("CONNECT_S", 0.5), ("READ_S", 0.3), ("TOTAL_S", 0.4)):
        monkeypatch.setattr(http, name, seconds)


def made(sim: Simulator, sample: Sample) -> Gateway:
    """One gateway per account and patience: a client of its own for every call would take most of the time."""
    key = (*sample.credentials.values(), http.READ_S)
    if key not in MADE:
        MADE[key] = gateway("midtrans", sample.credentials, simulator=sim.address)
    return MADE[key]


def ask(sim: Simulator, sample: Sample, call: Callable[[Gateway], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        return await call(made(sim, sample))

    return LOOPS[-1].run(run())


def stage(sim: Simulator, state: str, sample: Sample | None = None, **more: Any) -> Ref:
    remote = sim.stage(sample or sim.samples()[0], "ada@example.com", Situation(state, **more))
    assert remote is not None
    return Ref("subscription", remote)


def as_known(ref: Ref, **fields: Any) -> Ref:
    return Ref(ref.kind, ref.id, SubscriptionRecord(remote_id=ref.id, **fields))


def the(snapshot: Snapshot | Leave) -> SubscriptionRecord:
    assert isinstance(snapshot, Snapshot)
    (record,) = snapshot.subscriptions
    return record


def gone_to(leave: Snapshot | Leave) -> Leave:
    assert isinstance(leave, Leave)
    return leave


def press(url: str, button: str = "pay") -> httpx.Response:
    with httpx.Client(trust_env=False) as browser:
        assert f'value="{button}" data-test="' in browser.get(url).text
        return browser.post(url, data={"action": button})


def last_events(sim: Simulator, sample: Sample, count: int = 1) -> list[Event]:
    found = []
    for delivery in sim.sent[-count:]:
        found += made(sim, sample).verify(list(delivery.headers.items()), delivery.body, clock.now())
    return found


def writes(sim: Simulator) -> list[str]:
    return [f"{call.method} {call.path}" for call in sim.calls if sim.changes(call.method, call.path)]


# Keys


def test_simulator_is_found_and_its_state_can_be_kept(sim: Simulator, shop: Sample) -> None:
    assert "midtrans" in names()
    sim.fill(shop)
    assert pickle.loads(pickle.dumps(sim.state)) == copy.deepcopy(sim.state)


def test_credentials_of_the_samples_fit_the_facts(sim: Simulator) -> None:
    fields = {one.name: one for one in facts("midtrans").credentials}
    for sample in sim.samples():
        assert {name for name, one in fields.items() if one.required} <= set(sample.credentials)
        for name, value in sample.credentials.items():
            assert re.search(fields[name].pattern, value), name
    stranger, first = sim.samples()[1], sim.samples()[0]
    assert not set(first.credentials.values()) & set(stranger.credentials.values())


def test_check_proves_both_sets_of_keys(sim: Simulator, shop: Sample) -> None:
    health = ask(sim, shop, lambda one: one.check())
    assert (health.ok, health.live, health.account, health.missing) == (True, True, "G100200300", ())
    assert [call.path for call in sim.calls] == ["/v2/portal-key-check/status", "/v1.0/access-token/b2b"]


def test_check_names_the_keys_of_the_report_that_are_missing(sim: Simulator) -> None:
    health = ask(sim, sim.samples()[1], lambda one: one.check())
    assert (health.ok, health.live) == (True, False)
    assert "bisnap_client_id" in health.missing
    assert health.hint is not None
    assert "BI-SNAP" in health.hint


@pytest.mark.parametrize("fault", ["switch", "401"])
def test_refused_keys_are_no_outage(sim: Simulator, shop: Sample, fault: str) -> None:
    if fault == "switch":
        sim.switch("refused_keys")
    else:
        sim.fail_next = ["401"]
    health = ask(sim, shop, lambda one: one.check())
    assert not health.ok
    assert health.hint is not None
    assert "Access Keys" in health.hint
    assert shop.credentials["server_key"] not in health.hint


def test_wrong_key_of_the_report_is_named(sim: Simulator, shop: Sample) -> None:
    for wrong in ({"bisnap_client_id": "G0-SNAP"}, {"bisnap_private_key": "-----BEGIN PRIVATE KEY-----AAAA"}):
        broken = replace(shop, credentials={**shop.credentials, **wrong})
        health = ask(sim, broken, lambda one: one.check())
        assert (health.ok, health.missing) == (False, ("BI-SNAP",))


def test_check_during_an_outage_is_unavailable(sim: Simulator, shop: Sample) -> None:
    sim.switch("down")
    with pytest.raises(Unavailable):
        ask(sim, shop, lambda one: one.check())


def test_stranger_sees_nothing_of_another_merchant(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "active", shop)
    paid = ask(sim, shop, lambda one: one.fetch(ref)).payments[0].remote_id
    for foreign in (ref, Ref("payment", paid)):
        with pytest.raises(Gone):
            ask(sim, sim.samples()[1], lambda one, foreign=foreign: one.fetch(foreign))  # type: ignore[misc]
    with pytest.raises(Gone):
        ask(sim, sim.samples()[1], lambda one: one.cancel_now(ref, "k"))
    assert sim.standing(ref.id).charges


# The report


def pages(sim: Simulator, sample: Sample, cursor: str | None = None) -> list[Any]:
    async def run(one: Gateway) -> list[Any]:
        return [page async for page in one.backfill(cursor)]

    return ask(sim, sample, run)


def many(sim: Simulator, sample: Sample, count: int) -> None:
    for number in range(count):
        email, when = f"c{number}@example.com", clock.now() - timedelta(hours=number, minutes=1)
        sim._sell(sample.credentials["merchant_id"], f"SO-{number}", 1_000 + number, when, email=email)


def test_backfill_tells_orders_with_emails_newest_first(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    (page,) = pages(sim, shop)
    orders = {order.remote_id: order for order in page.snapshot.orders}
    assert page.cursor is None
    assert orders["KN-1001"].email == "noor@example.com"
    assert orders["KN-1001"].amount == Money(32_500_000, "IDR")
    told = {number: orders[number].status for number in ("KN-2002", "KN-2003", "KN-2004", "KN-2005")}
    assert told == {"KN-2002": "failed", "KN-2003": "expired", "KN-2004": "open", "KN-2005": "paid"}
    times = [order.created_at for order in page.snapshot.orders]
    assert times == sorted(times, reverse=True)
    assert not any(number.startswith("SUBS-") for number in orders)
    assert "payout-1" not in orders
    payments = {payment.order: payment for payment in page.snapshot.payments if payment.order}
    assert payments["KN-2007"].status == "refunded"  # the report does not tell parts


def test_backfill_resumes_where_it_broke_off(sim: Simulator, shop: Sample) -> None:
    many(sim, shop, 120)
    whole = pages(sim, shop)
    assert [len(page.snapshot.orders) for page in whole] == [49, 50, 21]  # and one payout
    assert whole[-1].cursor is None
    resumed = pages(sim, shop, whole[0].cursor)
    assert [one.snapshot.orders for one in resumed] == [one.snapshot.orders for one in whole[1:]]


def test_backfill_of_what_comes_meanwhile_stays_in_step(sim: Simulator, shop: Sample) -> None:
    many(sim, shop, 60)
    first = pages(sim, shop)[0]
    later(minutes=5)
    sim._sell("G100200300", "SO-new", 5_000, clock.now())
    rest = pages(sim, shop, first.cursor)
    found = [order.remote_id for page in (first, *rest) for order in page.snapshot.orders]
    assert sorted(found) == sorted(f"SO-{number}" for number in range(60))


def test_backfill_without_the_reports_keys_lists_nothing(sim: Simulator) -> None:
    sim.fill(sim.samples()[1])
    assert pages(sim, sim.samples()[1]) == []
    assert sim.calls == []


def test_backfill_reaches_six_months_back(sim: Simulator, shop: Sample) -> None:
    sim._sell("G100200300", "SO-old", 5_000, datetime(2026, 5, 1, 0, 0, tzinfo=WIB))
    sim._sell("G100200300", "SO-older", 5_000, datetime(2026, 4, 30, 23, 59, tzinfo=WIB))
    (page,) = pages(sim, shop)
    assert [order.remote_id for order in page.snapshot.orders] == ["SO-old"]


@pytest.mark.parametrize(
    "fault", ["429:7", "500", "html", "empty", "truncated", "wrong_types", "missing_fields"]
)
def test_spoiled_report_is_no_end_of_the_list(loose: Simulator, fault: str) -> None:
    loose.fill(loose.samples()[0])
    loose.fail_next = ["", fault]  # the token comes first
    with pytest.raises(Unavailable) as caught:
        pages(loose, loose.samples()[0])
    assert caught.value.retry_after == (7.0 if fault == "429:7" else None)


def test_tokens_of_the_report_are_kept_for_their_time(sim: Simulator, shop: Sample) -> None:
    many(sim, shop, 60)
    pages(sim, shop)
    assert [call.path for call in sim.calls].count("/v1.0/access-token/b2b") == 1
    numbers = [call.headers["x-external-id"] for call in sim.calls if "x-external-id" in call.headers]
    assert len(set(numbers)) == len(numbers) == 2


# Reading


@pytest.mark.parametrize(
    ("state", "stopped"), [("trialing", False), ("active", False), ("past_due", False), ("expired", False)]
)
@pytest.mark.parametrize("method", ["card", "gopay"])
def test_states_that_midtrans_shows(
    sim: Simulator, shop: Sample, state: str, stopped: bool, method: str
) -> None:
    ref = stage(sim, state, method=method)
    record = the(ask(sim, shop, lambda one: one.fetch(ref)))
    assert (record.status, record.stopped) == (state, stopped)
    assert record.email == "ada@example.com"
    assert record.amount == Money(14_900_000, "IDR")
    assert record.interval == Interval("month")
    assert record.method is not None
    assert (record.method.kind, bool(record.method.last4)) == (method, method == "card")
    assert (record.next_payment is None) == (state == "expired")
    assert record.due == (record.amount if state == "past_due" else None)


def test_charges_come_with_their_subscription(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    (noor,) = [one for one in sim.state["subs"].values() if one["customer"]["email"].startswith("noor")]
    ref = Ref("subscription", noor["id"])
    snapshot = ask(sim, shop, lambda one: one.fetch(ref))
    assert len(snapshot.payments) == 3
    assert {payment.subscription for payment in snapshot.payments} == {noor["id"]}
    assert {payment.order for payment in snapshot.payments} == {None}
    assert snapshot.orders == ()
    newest = ask(sim, shop, lambda one: one.fetch(as_known(ref, status="active")))
    assert newest.payments == snapshot.payments[-2:]


def test_given_up_is_past_due_and_stopped(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "past_due")
    later(hours=5)
    sim.tick()
    assert sim.standing(ref.id).raw == "inactive"
    record = the(ask(sim, shop, lambda one: one.fetch(as_known(ref, status="past_due"))))
    assert (record.status, record.stopped, record.retries_on) == ("past_due", True, None)
    assert record.due == Money(14_900_000, "IDR")


@pytest.mark.parametrize("state", ["paused", "cancelled", "cancels_at_period_end", "expired"])
def test_what_our_rows_know_of_an_inactive_one_is_kept(sim: Simulator, shop: Sample, state: Any) -> None:
    ref = as_known(stage(sim, "paused"), status=state)
    record = the(ask(sim, shop, lambda one: one.fetch(ref)))
    assert record.status is None
    assert "status" not in (record.knows or ())
    assert record.raw_status == "inactive"


def test_inactive_is_a_guess_that_beats_no_word_of_later(sim: Simulator, shop: Sample) -> None:
    for state in ("paused", "cancelled"):
        ref = stage(sim, state)
        snapshot = ask(sim, shop, lambda one, ref=ref: one.fetch(ref))  # type: ignore[misc]
        assert the(snapshot).status == state
        assert snapshot.as_of == the(snapshot).created_at
        fresh = ask(sim, shop, lambda one, ref=ref: one.fetch(as_known(ref, status="active")))  # type: ignore[misc]
        assert the(fresh).status == state
        assert abs(fresh.as_of - clock.now()) < timedelta(seconds=5)


def test_order_payment_and_refunds(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    snapshot = ask(sim, shop, lambda one: one.fetch(Ref("order", "KN-2007")))
    (payment,), (refund,), (order,) = snapshot.payments, snapshot.refunds, snapshot.orders
    assert (payment.status, order.status) == ("partially_refunded", "partially_refunded")
    assert payment.refunded == refund.amount == Money(5_000_000, "IDR")
    assert (refund.status, refund.payment) == ("sent", payment.remote_id)
    again = ask(sim, shop, lambda one: one.fetch(Ref("refund", refund.remote_id)))
    assert again.refunds == snapshot.refunds


def test_order_id_that_is_a_transaction_id_is_found_by_the_notification(sim: Simulator, shop: Sample) -> None:
    sale = sim._sell("G100200300", "KN-9", 88_000, clock.now(), kind="dana", word="settlement")
    sim._tell("G100200300", sim._signed(sale))
    (event,) = last_events(sim, shop)
    assert event.subject == Ref("payment", sale["id"])
    snapshot = ask(sim, shop, lambda one: one.refetch(event))
    assert snapshot is not None
    assert [order.remote_id for order in snapshot.orders] == ["KN-9"]
    assert (snapshot.payments[0].order, snapshot.payments[0].status) == ("KN-9", "paid")
    alone = ask(sim, shop, lambda one: one.fetch(Ref("payment", sale["id"])))
    assert alone.orders == ()
    assert alone.payments[0].order is None
    with pytest.raises(Gone):
        ask(sim, shop, lambda one: one.fetch(Ref("order", "KN-9")))


def test_find_knows_nobody(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    assert ask(sim, shop, lambda one: one.find("noor@example.com")) == []
    assert sim.calls == []


def test_unknown_and_impossible_ids_are_gone(sim: Simulator, shop: Sample) -> None:
    for ref in (
        Ref("subscription", "nobody"),
        Ref("payment", "a/../b"),
        Ref("invoice", "no-such"),
        Ref("order", "x"),
    ):
        with pytest.raises(Gone):
            ask(sim, shop, lambda one, ref=ref: one.fetch(ref))  # type: ignore[misc]
    with pytest.raises(Unsupported):
        ask(sim, shop, lambda one: one.fetch(Ref("customer", "c")))


# Cancelling, pausing, going on


@pytest.mark.parametrize("state", ["active", "trialing", "past_due", "paused"])
def test_cancel_now_ends_it_once_and_for_all(sim: Simulator, shop: Sample, state: str) -> None:
    ref = stage(sim, state)
    after = ask(sim, shop, lambda one: one.cancel_now(as_known(ref, status=state), "k1"))
    record = the(after)
    assert (record.status, record.due, record.next_payment, record.stopped) == (
        "cancelled",
        None,
        None,
        False,
    )
    assert record.ended_at is not None
    assert not sim.standing(ref.id).charges
    before = len(sim.state["sales"])
    later(days=70)
    sim.tick()
    assert len(sim.state["sales"]) == before
    again = ask(sim, shop, lambda one: one.cancel_now(as_known(ref, status="cancelled"), "k2"))
    assert the(again).status is None
    assert writes(sim) == [f"POST /v1/subscriptions/{ref.id}/cancel"]


def test_cancel_that_timed_out_is_sent_again_because_inactive_proves_nothing(
    loose: Simulator, impatient: None
) -> None:
    shop, ref = loose.samples()[0], as_known(stage(loose, "active"), status="active")
    loose.fail_next = ["", "timeout_after"]
    with pytest.raises(Unavailable) as caught:
        ask(loose, shop, lambda one: one.cancel_now(ref, "k"))
    assert caught.value.sent
    assert the(ask(loose, shop, lambda one: one.fetch(ref))).status == "paused"  # all that can be seen
    assert the(ask(loose, shop, lambda one: one.cancel_now(ref, "k"))).status == "cancelled"


def test_cancel_at_period_end_disables_now_and_our_job_cancels_then(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "active")
    paid_until = sim.state["subs"][ref.id]["next"]
    known = as_known(ref, status="active", current_period_end=paid_until)
    record = the(ask(sim, shop, lambda one: one.cancel_at_period_end(known, "k")))
    assert record.status == "cancels_at_period_end"
    assert record.cancels_at == paid_until
    assert record.next_payment is None
    assert not sim.standing(ref.id).charges
    waiting = as_known(ref, status="cancels_at_period_end", current_period_end=paid_until)
    assert the(ask(sim, shop, lambda one: one.fetch(waiting))).status is None
    at(paid_until + timedelta(minutes=1))
    sim.tick()
    assert the(ask(sim, shop, lambda one: one.cancel_now(waiting, "k2"))).status == "cancelled"
    assert sim.standing(ref.id).payments == 1


def test_cancel_at_period_end_is_not_for_what_is_still_retried(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "past_due")
    for wish in ("cancel_at_period_end", "pause"):
        with pytest.raises(Unsupported, match="cancel it now"):
            ask(sim, shop, lambda one, wish=wish: getattr(one, wish)(ref, "k"))  # type: ignore[misc]
    assert writes(sim) == []
    shape = facts("midtrans").capabilities["cancel_at_period_end"].under(Circumstances(state="past_due"))
    assert (shape.mode, shape.how) == ("emulated", "keep")


def test_disabled_one_is_still_retried_in_life(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "past_due")
    sim.state["subs"][ref.id] |= {"status": "inactive", "fails": False}
    later(hours=2)
    sim.tick()
    assert sim.standing(ref.id).payments == 2


def test_pause_and_resume(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "active")
    until = sim.state["subs"][ref.id]["next"]
    paused = the(ask(sim, shop, lambda one: one.pause(as_known(ref, status="active"), "k1")))
    assert (paused.status, paused.next_payment) == ("paused", None)
    again = the(ask(sim, shop, lambda one: one.pause(as_known(ref, status="paused"), "k2")))
    assert again.status == "paused"
    known = as_known(ref, status="paused", current_period_end=until)
    snapshot = ask(sim, shop, lambda one: one.resume(known, "k3"))
    assert (the(snapshot).status, snapshot.tell) == ("active", "")
    assert sim.state["subs"][ref.id]["next"] == until
    path = f"POST /v1/subscriptions/{ref.id}"
    assert writes(sim) == [f"{path}/disable", f"{path}/enable"]
    the(ask(sim, shop, lambda one: one.resume(known, "k4")))
    assert len(writes(sim)) == 2


def test_pause_that_timed_out_shows_as_paused(loose: Simulator, impatient: None) -> None:
    shop, ref = loose.samples()[0], as_known(stage(loose, "active"), status="active")
    loose.fail_next = ["", "timeout_after"]
    with pytest.raises(Unavailable) as caught:
        ask(loose, shop, lambda one: one.pause(ref, "k"))
    assert caught.value.sent
    assert the(ask(loose, shop, lambda one: one.fetch(ref))).status == "paused"


@pytest.mark.parametrize("wish", ["resume", "undo_cancel"])
def test_enable_that_moves_the_charge_nearer_is_put_back_to_the_paid_day(
    sim: Simulator, shop: Sample, wish: str
) -> None:
    sim.state["habits"]["enable"] = "sooner"
    ref = stage(sim, "paused")
    until = sim.state["subs"][ref.id]["next"].replace(microsecond=0)
    known = as_known(ref, status="cancels_at_period_end", current_period_end=until)
    snapshot = ask(sim, shop, lambda one: getattr(one, wish)(known, "k"))
    assert (the(snapshot).status, snapshot.tell) == ("active", "")
    assert sim.state["subs"][ref.id]["next"] == until
    assert {"cancels_at", "ended_at"} <= (the(snapshot).knows or frozenset())
    sent = json.loads([call for call in sim.calls if call.method == "PATCH"][-1].body)
    assert set(sent) == {"name", "amount", "currency", "token", "schedule"}
    assert sent["schedule"]["next_execution_at"].endswith(" +0700")


def test_enable_that_charges_at_once_is_told_to_the_shop(sim: Simulator, shop: Sample) -> None:
    sim.state["habits"]["enable"] = "charge"
    known = as_known(stage(sim, "paused"), status="cancels_at_period_end")
    snapshot = ask(sim, shop, lambda one: one.undo_cancel(known, "k"))
    assert the(snapshot).status == "active"
    assert "charged the customer at once" in snapshot.tell


@pytest.mark.parametrize(("state", "known"), [("expired", "expired"), ("paused", "cancelled")])
def test_what_has_ended_is_never_enabled(sim: Simulator, shop: Sample, state: str, known: Any) -> None:
    ref = as_known(stage(sim, state), status=known)
    for wish in ("resume", "undo_cancel"):
        with pytest.raises(Unsupported):
            ask(sim, shop, lambda one, wish=wish: getattr(one, wish)(ref, "k"))  # type: ignore[misc]
    assert writes(sim) == []
    assert the(ask(sim, shop, lambda one: one.cancel_at_period_end(ref, "k"))).status in (None, "expired")
    assert writes(sim) == []


# Plans


def test_change_of_amount_and_interval_sends_every_field_along(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "active", method="gopay")
    one = sim.state["subs"][ref.id]
    change = {"amount": Money(19_900_000, "IDR"), "interval": Interval("month", 3)}
    record = the(ask(sim, shop, lambda gate: gate.change_plan(ref, change, BACK, "k")))
    assert record.amount == Money(19_900_000, "IDR")
    assert record.interval == Interval("month", 3)
    assert json.loads(sim.calls[1].body) == {
        "name": one["name"],
        "amount": "199000",
        "currency": "IDR",
        "token": one["token"],
        "schedule": {"interval": 3},
        "gopay": {"account_id": one["account_id"]},
    }
    ask(sim, shop, lambda gate: gate.change_plan(ref, change, BACK, "k"))
    assert len(writes(sim)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"plan": "gold"},
        {"quantity": 2},
        {"interval": Interval("week")},
        {"amount": Money(100_050, "IDR")},
        {"amount": Money(100, "USD")},
        {"amount": Money(0, "IDR")},
    ],
)
def test_changes_that_midtrans_cannot_make(sim: Simulator, shop: Sample, change: dict[str, Any]) -> None:
    ref = stage(sim, "active")
    with pytest.raises(Unsupported):
        ask(sim, shop, lambda one: one.change_plan(ref, change, BACK, "k"))
    assert writes(sim) == []


@pytest.mark.parametrize("state", ["paused", "past_due", "expired"])
def test_only_what_is_paid_up_is_changed(sim: Simulator, shop: Sample, state: str) -> None:
    ref = stage(sim, state)
    with pytest.raises(Unsupported):
        ask(sim, shop, lambda one: one.change_plan(ref, {"amount": Money(100_000, "IDR")}, BACK, "k"))
    assert writes(sim) == []


def test_long_name_that_is_refused_is_said_in_midtranss_words(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "active")
    sim.state["subs"][ref.id]["name"] = "A-name-of-more-than-fifteen"
    sim.state["habits"]["short_names"] = True
    with pytest.raises(Declined, match="more than 15 characters"):
        ask(sim, shop, lambda one: one.change_plan(ref, {"amount": Money(100_000, "IDR")}, BACK, "k"))


# Another card


def open_card_page(sim: Simulator, shop: Sample) -> tuple[Ref, Leave]:
    ref = stage(sim, "past_due")
    leave = ask(sim, shop, lambda one: one.start_method_update(ref, BACK, "portal-7"))
    assert facts("midtrans").allows_link(leave.url, {"any": sim.address})
    return ref, leave


def test_new_card_pays_what_is_open_and_moves_the_schedule(sim: Simulator, shop: Sample) -> None:
    ref, leave = open_card_page(sim, shop)
    before = the(ask(sim, shop, lambda one: one.fetch(ref)))
    back = press(leave.url)
    assert back.headers["location"].startswith(f"{BACK}?order_id=portal-card-")
    query = dict(parse_qsl(urlsplit(back.headers["location"]).query))
    snapshot = ask(sim, shop, lambda one: one.finish_method_update(ref, leave.state, query))
    after = the(snapshot)
    assert (after.status, after.due, snapshot.tell) == ("active", None, "")
    assert after.method is not None
    assert before.method is not None
    assert (after.method.brand, before.method.brand) == ("Mastercard", "Visa")
    assert after.method.remote_id != before.method.remote_id
    assert after.next_payment is not None
    assert after.next_payment.on > clock.now().date() + timedelta(days=25)
    assert snapshot.payments[0].subscription == ref.id
    count = len(writes(sim))
    ask(sim, shop, lambda one: one.finish_method_update(ref, leave.state, query))
    assert len(writes(sim)) == count
    later(hours=6)
    sim.tick()
    assert sim.standing(ref.id).payments == 1  # nothing was taken twice


def test_new_card_revives_what_midtrans_gave_up(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "past_due")
    later(hours=5)
    sim.tick()
    leave = ask(sim, shop, lambda one: one.start_method_update(ref, BACK, "k"))
    press(leave.url)
    record = the(ask(sim, shop, lambda one: one.finish_method_update(ref, leave.state, {})))
    assert (record.status, record.stopped) == ("active", False)
    later(days=35)
    sim.tick()
    assert sim.standing(ref.id).payments == 2


def test_card_of_somebody_who_never_comes_back_is_adopted_by_the_notification(
    sim: Simulator, shop: Sample
) -> None:
    ref, leave = open_card_page(sim, shop)
    press(leave.url)
    (event,) = last_events(sim, shop)
    snapshot = ask(sim, shop, lambda one: one.refetch(event))
    assert snapshot is not None
    assert the(snapshot).status == "active"
    assert snapshot.orders == ()
    for _ in range(3):
        ask(sim, shop, lambda one: one.refetch(event))
    assert writes(sim).count(f"PATCH /v1/subscriptions/{ref.id}") == 1


def test_notification_of_a_payment_whose_subscription_cannot_be_moved_on_is_told(
    sim: Simulator, shop: Sample
) -> None:
    _, leave = open_card_page(sim, shop)
    press(leave.url)
    (event,) = last_events(sim, shop)
    sim.switch("decline")
    snapshot = ask(sim, shop, lambda one: one.refetch(event))
    assert snapshot is not None
    assert snapshot.payments[0].status == "paid"
    assert "can't be moved on" in snapshot.tell


def test_card_page_paid_after_a_cancel_brings_nothing_back(sim: Simulator, shop: Sample) -> None:
    ref, leave = open_card_page(sim, shop)
    ask(sim, shop, lambda one: one.cancel_now(as_known(ref, status="past_due"), "k"))
    press(leave.url)
    (event,) = last_events(sim, shop)
    by_notice = ask(sim, shop, lambda one: one.refetch(event))
    assert by_notice is not None
    assert (by_notice.subscriptions, by_notice.payments[0].subscription) == ((), ref.id)
    assert "pay it back" in by_notice.tell
    known = as_known(ref, status="cancelled")
    by_return = ask(sim, shop, lambda one: one.finish_method_update(known, leave.state, {}))
    assert "pay it back" in by_return.tell
    assert the(by_return).status is None
    assert not sim.standing(ref.id).charges
    assert f"PATCH /v1/subscriptions/{ref.id}" not in writes(sim)


def test_return_without_a_payment_changes_nothing(sim: Simulator, shop: Sample) -> None:
    ref, leave = open_card_page(sim, shop)
    lies = {"order_id": leave.state["order"], "status_code": "200", "transaction_status": "capture"}
    record = the(ask(sim, shop, lambda one: one.finish_method_update(ref, leave.state, lies)))
    assert record.status == "past_due"
    assert writes(sim) == ["POST /snap/v1/transactions"]


def test_card_that_the_bank_declines_changes_nothing(sim: Simulator, shop: Sample) -> None:
    ref, leave = open_card_page(sim, shop)
    sim.switch("decline")
    assert press(leave.url).status_code == 402
    sim.switch("ok")
    assert (
        the(ask(sim, shop, lambda one: one.finish_method_update(ref, leave.state, {}))).status == "past_due"
    )
    assert writes(sim) == ["POST /snap/v1/transactions"]


def test_page_that_saves_no_card_still_moves_the_schedule_and_says_so(sim: Simulator, shop: Sample) -> None:
    sim.state["habits"]["saves_card"] = False
    ref, leave = open_card_page(sim, shop)
    press(leave.url)
    waiting = ask(sim, shop, lambda one: one.finish_method_update(ref, leave.state, {}))
    assert (the(waiting).status, waiting.tell) == ("past_due", "")  # the card may still be told
    later(seconds=90)
    snapshot = ask(sim, shop, lambda one: one.finish_method_update(ref, leave.state, {}))
    assert the(snapshot).status == "active"
    assert "saved no card" in snapshot.tell


def test_retry_that_goes_through_meanwhile_is_told_as_paid_twice(sim: Simulator, shop: Sample) -> None:
    ref, leave = open_card_page(sim, shop)
    press(leave.url)
    sim.charge(ref.id)
    snapshot = ask(sim, shop, lambda one: one.finish_method_update(ref, leave.state, {}))
    assert "refund one of the two" in snapshot.tell
    assert sim.state["subs"][ref.id]["token"].startswith("5211")


def test_card_is_asked_for_only_when_something_is_due(sim: Simulator, shop: Sample) -> None:
    for state in ("active", "trialing", "paused"):
        ref = stage(sim, state)
        with pytest.raises(Unsupported, match="nothing to pay"):
            ask(sim, shop, lambda one, ref=ref: one.start_method_update(ref, BACK, "k"))  # type: ignore[misc]
    assert writes(sim) == []


def test_same_key_opens_the_same_page(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "past_due")
    links = [ask(sim, shop, lambda one: one.start_method_update(ref, BACK, "k")) for _ in range(2)]
    other = ask(sim, shop, lambda one: one.start_method_update(ref, BACK, "k2"))
    assert links[0] == links[1] != other
    asked = json.loads(sim.calls[1].body)
    assert asked["credit_card"] == {"secure": True, "save_card": True}
    assert asked["transaction_details"]["gross_amount"] == 149_000
    assert "phone" not in asked["customer_details"]
    assert len(sim.calls[1].headers["idempotency-key"]) <= 46


def test_gopay_is_linked_again(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "active", method="gopay")
    before = the(ask(sim, shop, lambda one: one.fetch(ref)))
    leave = ask(sim, shop, lambda one: one.start_method_update(ref, BACK, "k"))
    pending = the(ask(sim, shop, lambda one: one.finish_method_update(ref, leave.state, {})))
    assert pending.method == before.method
    assert press(leave.url).headers["location"] == BACK
    assert [event.subject for event in last_events(sim, shop)] == [None]
    after = the(ask(sim, shop, lambda one: one.finish_method_update(ref, leave.state, {})))
    assert after.method is not None
    assert before.method is not None
    assert (after.method.brand, after.method.remote_id == before.method.remote_id) == ("GoPay", False)
    assert after.next_payment == before.next_payment
    ask(sim, shop, lambda one: one.finish_method_update(ref, leave.state, {}))
    assert writes(sim).count(f"PATCH /v1/subscriptions/{ref.id}") == 1


def test_gopay_that_midtrans_gave_up_is_charged_soon_after(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "past_due", method="gopay")
    later(hours=5)
    sim.tick()
    leave = ask(sim, shop, lambda one: one.start_method_update(ref, BACK, "k"))
    press(leave.url)
    record = the(ask(sim, shop, lambda one: one.finish_method_update(ref, leave.state, {})))
    assert (record.status, record.stopped) == ("past_due", False)
    later(minutes=11)
    sim.tick()
    assert the(ask(sim, shop, lambda one: one.fetch(ref))).status == "active"


def test_gopay_refused_or_without_a_number(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "active", method="gopay")
    leave = ask(sim, shop, lambda one: one.start_method_update(ref, BACK, "k"))
    press(leave.url, "decline")
    ask(sim, shop, lambda one: one.finish_method_update(ref, leave.state, {}))
    assert f"PATCH /v1/subscriptions/{ref.id}" not in writes(sim)
    sim.state["subs"][ref.id]["customer"]["phone"] = "+44 20 7946 0000"
    with pytest.raises(Unsupported, match="no Indonesian"):
        ask(sim, shop, lambda one: one.start_method_update(ref, BACK, "k"))


# Invoices


def bill(sim: Simulator, word: str) -> Ref:
    return Ref("invoice", sim._bill("G100200300", "ada@example.com", "INV-7", word, clock.now())["id"])


def test_open_invoice_is_paid_on_its_own_page(sim: Simulator, shop: Sample) -> None:
    ref = bill(sim, "published")
    snapshot = ask(sim, shop, lambda one: one.fetch(ref))
    (invoice,), (order,) = snapshot.invoices, snapshot.orders
    assert (invoice.status, order.status, snapshot.payments) == ("open", "open", ())
    assert invoice.due == order.amount == Money(27_500_000, "IDR")
    assert [line.amount for line in order.lines] == [Money(25_000_000, "IDR")]
    leave = gone_to(ask(sim, shop, lambda one: one.pay_now(ref, BACK, "k")))
    held_link = Ref("order", order.remote_id, order)
    assert gone_to(ask(sim, shop, lambda one: one.pay_now(held_link, BACK, "k"))) == leave
    assert (leave.url, leave.returns) == (order.due_link, False)
    press(leave.url)
    after = ask(sim, shop, lambda one: one.pay_now(ref, BACK, "k"))
    assert isinstance(after, Snapshot)
    assert (after.invoices[0].status, after.orders[0].status) == ("paid", "paid")
    assert after.orders[0].due_link is None
    assert "due_link" in (after.orders[0].knows or ())
    (payment,) = after.payments
    assert (payment.object, payment.invoice, payment.order) == ("invoice", ref.id, order.remote_id)


def test_pay_now_of_anything_else_is_unsupported(sim: Simulator, shop: Sample) -> None:
    for ref in (stage(sim, "past_due"), Ref("order", "KN-1")):
        with pytest.raises(Unsupported):
            ask(sim, shop, lambda one, ref=ref: one.pay_now(ref, BACK, "k"))  # type: ignore[misc]


def test_document_of_an_invoice_is_the_paid_one_where_it_is_paid(sim: Simulator, shop: Sample) -> None:
    for word, kind in (("paid", b"PAID"), ("published", b"OPEN")):
        ref = bill(sim, word)
        document = ask(sim, shop, lambda one, ref=ref: one.invoice_document(ref))  # type: ignore[misc]
        assert document is not None
        assert (document.content_type, document.filename) == ("application/pdf", "INV-7.pdf")
        assert kind in document.content
    assert ask(sim, shop, lambda one: one.invoice_document(bill(sim, "draft"))) is None


def test_file_at_another_host_is_never_fetched(
    sim: Simulator, shop: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = bill(sim, "paid")
    shown = sim._bill_shown

    for url in (
        "https://evil.example/invoices/pdf/1",
        f"{sim.address}.evil.example/x",
        "http://169.254.169.254/",
    ):
        monkeypatch.setattr(sim, "_bill_shown", lambda one, url=url: {**shown(one), "paid_pdf_url": url})
        assert ask(sim, shop, lambda one: one.invoice_document(ref)) is None
    assert not any("pdf" in call.path for call in sim.calls)


# The unhappy day

WISHES: dict[str, tuple[str, Callable[[Gateway, Ref], Awaitable[Any]]]] = {
    "cancel_now": ("active", lambda one, ref: one.cancel_now(ref, "k")),
    "cancel_at_period_end": ("active", lambda one, ref: one.cancel_at_period_end(ref, "k")),
    "undo_cancel": ("paused", lambda one, ref: one.undo_cancel(ref, "k")),
    "pause": ("active", lambda one, ref: one.pause(ref, "k")),
    "resume": ("paused", lambda one, ref: one.resume(ref, "k")),
    "change_plan": (
        "active",
        lambda one, ref: one.change_plan(ref, {"amount": Money(500_000, "IDR")}, BACK, "k"),
    ),
    "start_method_update": ("past_due", lambda one, ref: one.start_method_update(ref, BACK, "k")),
}


@pytest.mark.parametrize("wish", WISHES)
def test_declined_wish_changes_nothing(sim: Simulator, shop: Sample, wish: str) -> None:
    state, call = WISHES[wish]
    ref = stage(sim, state)
    before = copy.deepcopy(sim.state["subs"])
    sim.switch("decline")
    with pytest.raises(Declined) as caught:
        ask(sim, shop, lambda one: call(one, ref))
    assert caught.value.hint
    assert sim.state["subs"] == before


def test_gopay_declined_under_http_200(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "active", method="gopay")
    sim.switch("decline")
    with pytest.raises(Declined) as caught:
        ask(sim, shop, lambda one: one.start_method_update(ref, BACK, "k"))
    assert (caught.value.reason, caught.value.hint) == ("2903", "2903 invalid scheme")


def test_refused_cancel_of_what_is_inactive_is_no_failure_but_told(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "paused")
    sim.switch("decline")
    snapshot = ask(sim, shop, lambda one: one.cancel_now(as_known(ref, status="paused"), "k"))
    assert the(snapshot).status == "cancelled"
    assert "retry may still run" in snapshot.tell


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize(
    "fault", ["429:7", "500", "401", "html", "empty", "truncated", "wrong_types", "missing_fields"]
)
def test_spoiled_first_answer_is_unavailable_and_nothing_was_sent(
    loose: Simulator, wish: str, fault: str
) -> None:
    state, call = WISHES[wish]
    ref, shop = stage(loose, state), loose.samples()[0]
    loose.fail_next = [fault]
    with pytest.raises(Unavailable) as caught:
        ask(loose, shop, lambda one: call(one, ref))
    assert not caught.value.sent
    assert caught.value.retry_after == (7.0 if fault == "429:7" else None)
    assert writes(loose) == []


@pytest.mark.parametrize("wish", ["cancel_now", "pause", "resume", "change_plan"])
@pytest.mark.parametrize("fault", ["timeout_after", "html", "empty", "truncated", "500"])
def test_spoiled_answer_to_a_change_is_unknown(
    loose: Simulator, impatient: None, wish: str, fault: str
) -> None:
    state, call = WISHES[wish]
    ref, shop = stage(loose, state), loose.samples()[0]
    loose.fail_next = ["", fault]
    with pytest.raises(Unavailable) as caught:
        ask(loose, shop, lambda one: call(one, ref))
    assert caught.value.sent


@pytest.mark.parametrize("fault", ["500", "html", "wrong_types", "missing_fields", "unknown_status"])
def test_change_that_cannot_be_read_back_is_unknown(loose: Simulator, fault: str) -> None:
    ref, shop = stage(loose, "active"), loose.samples()[0]
    loose.fail_next = ["", "", fault]
    with pytest.raises(Unavailable) as caught:
        ask(loose, shop, lambda one: one.cancel_now(ref, "k"))
    assert caught.value.sent


@pytest.mark.parametrize("kind", ["subscription", "payment", "order", "invoice"])
@pytest.mark.parametrize(
    "fault", ["html", "empty", "truncated", "wrong_types", "missing_fields", "429", "500"]
)
def test_spoiled_reads_are_unavailable(loose: Simulator, impatient: None, kind: Any, fault: str) -> None:
    shop = loose.samples()[0]
    sale = loose._sell("G100200300", "KN-1", 10_000, clock.now())
    refs = {"payment": sale["id"], "order": "KN-1", "invoice": bill(loose, "paid").id}
    ref = Ref(kind, stage(loose, "active").id if kind == "subscription" else refs[kind])
    loose.fail_next = [fault] * 3  # a read is tried three times where the transport fails
    with pytest.raises(Unavailable) as caught:
        ask(loose, shop, lambda one: one.fetch(ref))
    assert not caught.value.sent


def test_answer_that_never_comes_is_asked_for_again(loose: Simulator, impatient: None) -> None:
    ref, shop = stage(loose, "active"), loose.samples()[0]
    loose.fail_next = ["drop"]
    assert the(ask(loose, shop, lambda one: one.fetch(ref))).status == "active"


def test_words_of_tomorrow_keep_the_last_known_state(loose: Simulator) -> None:
    shop = loose.samples()[0]
    sale = loose._sell("G100200300", "KN-1", 10_000, clock.now())
    for ref in (stage(loose, "active"), Ref("payment", sale["id"]), bill(loose, "paid")):
        loose.fail_next = ["unknown_status", "unknown_status"]
        snapshot = ask(loose, shop, lambda one, ref=ref: one.fetch(ref))  # type: ignore[misc]
        records = (*snapshot.subscriptions, *snapshot.payments, *snapshot.invoices)
        assert {record.raw_status for record in records} == {"a_word_of_tomorrow"}
        assert not any("status" in (record.knows or ()) for record in records)
        assert not any("due" in (record.knows or ()) for record in snapshot.subscriptions)


# Deliveries


def test_charge_is_told_by_a_signed_payment_and_an_unsigned_hint(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "active")
    sim.charge(ref.id)
    paid, hint = last_events(sim, shop, 2)
    charged = sim.state["subs"][ref.id]["charges"][-1]
    assert paid.subject == Ref("payment", charged)
    assert (hint.type, hint.subject, hint.body) == ("subscription.charge", ref, {"transaction": charged})
    assert sim.proof_of(sim.sent[-1]) is None
    told = ask(sim, shop, lambda one: one.refetch(hint))
    assert told is not None
    assert the(told).status == "active"
    assert [payment.subscription for payment in told.payments] == [ref.id]
    assert json.loads(json.dumps(dict(hint.body))) == dict(hint.body)


def test_failed_charge_is_seen_by_asking(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "active")
    sim.state["subs"][ref.id]["fails"] = True
    at(sim.state["subs"][ref.id]["next"] + timedelta(minutes=1))
    sim.tick()
    (event,) = last_events(sim, shop)
    snapshot = ask(sim, shop, lambda one: one.refetch(event))
    assert snapshot is not None
    assert (the(snapshot).status, the(snapshot).stopped) == ("past_due", False)
    assert the(snapshot).retries_on == clock.now().astimezone(WIB).date()


def test_hint_of_somebody_else_has_no_effect(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "active")
    body = {"id": ref.id, "status": "inactive", "amount": "1", "schedule": {"interval": 1}, "token": "stolen"}
    lie = {
        "event_name": "subscription.charge",
        "subscription": body,
        "transaction": {"transaction_id": "made-up"},
    }
    (event,) = made(sim, shop).verify([], json.dumps(lie).encode(), clock.now())
    assert "stolen" not in json.dumps([event.id, event.type, dict(event.body)])
    snapshot = ask(sim, shop, lambda one: one.refetch(event))
    assert snapshot is not None
    assert (the(snapshot).status, snapshot.payments) == ("active", ())
    assert writes(sim) == []
    unknown = replace(event, subject=Ref("subscription", "nobody"))
    with pytest.raises(Gone):
        ask(sim, shop, lambda one: one.refetch(unknown))


def test_late_hint_does_not_bring_a_cancelled_one_back(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "past_due")
    (event,) = last_events(sim, shop)
    cancelled = ask(sim, shop, lambda one: one.cancel_now(as_known(ref, status="past_due"), "k"))
    late = ask(sim, shop, lambda one: one.refetch(event))
    sim.charge(ref.id)  # by mistake: even then Midtrans says no more than inactive
    (later_still,) = last_events(sim, shop)
    mistaken = ask(sim, shop, lambda one: one.refetch(later_still))
    assert late is not None
    assert mistaken is not None
    assert max(late.as_of, mistaken.as_of) < cancelled.as_of


def refused(sim: Simulator, sample: Sample, headers: list[tuple[str, str]], body: bytes) -> bool:
    try:
        made(sim, sample).verify(headers, body, clock.now())
    except BadSignature:
        return True
    return False


@pytest.mark.parametrize("number", [0, 1, 2])
def test_forged_payments_are_refused(sim: Simulator, number: int) -> None:
    sample = sim.samples()[number]
    whose = sample.credentials["merchant_id"]
    sim._tell(whose, sim._signed(sim._sell(whose, "SO-7", 150_000, clock.now())))
    true = sim.sent[-1]
    (event,) = made(sim, sample).verify(list(true.headers.items()), true.body, clock.now())
    assert event.type == "settlement"
    forgeries = sim.forgeries(sample, true)
    assert len(forgeries) >= 25
    for forgery in forgeries:
        assert refused(sim, sample, forgery.headers, forgery.body), forgery.what
    for other in (one for one in sim.samples() if one != sample):
        assert refused(sim, other, list(true.headers.items()), true.body)


def test_forged_links_are_refused(sim: Simulator, shop: Sample) -> None:
    sim._tell_link(sim._new_link("G100200300", "ENABLED"))
    true = sim.sent[-1]
    assert [event.type for event in made(sim, shop).verify([], true.body, clock.now())] == ["pay_account"]
    said = json.loads(true.body)
    for change in (
        {"account_status": "DISABLED"},
        {"account_id": "x"},
        {"status_code": "201"},
        {"signature_key": "0"},
    ):
        with pytest.raises(BadSignature):
            made(sim, shop).verify([], json.dumps({**said, **change}).encode(), clock.now())


def test_history_can_be_told_by_its_deliveries(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    seen: dict[str, Any] = {}
    for headers, body in sim.past_deliveries(shop):
        for event in made(sim, shop).verify(headers, body, clock.now()):
            snapshot = ask(sim, shop, lambda one, event=event: one.refetch(event))  # type: ignore[misc]
            assert snapshot is not None
            seen |= {record.title: record.status for record in snapshot.subscriptions}
    assert sim.sent == []
    assert seen == {
        "Kopi-Bulanan": "active",
        "Langganan-Teh": "active",
        "Majalah-Digital": "active",
        "Kelas-Memasak": "trialing",
        "Kotak-Sayur": "expired",
        "Kotak-Buah": "past_due",
        "Kotak-Ikan": "past_due",
        "Jeda-Yoga": "paused",
        "Akhir-Gym": "cancelled",
    }


def test_stage_gives_nothing_that_midtrans_cannot_have(sim: Simulator, shop: Sample) -> None:
    impossible = (
        *(Situation("cancels_at_period_end"), Situation("incomplete"), Situation(method="wallet")),
        *(
            Situation(object="invoice"),
            Situation(due=True),
            Situation("past_due", due=False),
            Situation(token=False),
        ),
    )
    assert [sim.stage(shop, "ada@example.com", one) for one in impossible] == [None] * len(impossible)
    with pytest.raises(KeyError):
        sim.standing("nobody")


def test_charge_after_the_end_goes_through_by_mistake(sim: Simulator, shop: Sample) -> None:
    ref = stage(sim, "active")
    ask(sim, shop, lambda one: one.cancel_now(ref, "k"))
    sim.charge(ref.id)
    (event,) = last_events(sim, shop)
    snapshot = ask(sim, shop, lambda one: one.refetch(event))
    assert snapshot is not None
    assert [payment.status for payment in snapshot.payments] == ["paid"]
    assert sim.standing(ref.id).payments == 2
