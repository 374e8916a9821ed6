"""The Xendit adapter against the simulator: lists, every wish, hosted pages, notices, and the unhappy day."""

import asyncio
import copy
import json
import pickle
import re
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest

from portal import clock
from portal.gateways import gateway, http
from portal.gateways.base import (
    BadSignature,
    Declined,
    Gateway,
    GatewayError,
    Gone,
    Interval,
    Leave,
    Ref,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import disagreements, facts
from portal.gateways.xendit import Adapter
from portal.money import Money
from seeds.simulators.harness import Delivery, Harness, Sample, Servers, Situation, simulator
from seeds.simulators.xendit import Simulator
from tests.conftest import SHARED
from tests.contracts import contract

NOW = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
SPEC = SHARED / "specs" / "xendit" / "contract.json"
BACK = "https://portal.example/customers/return/s1"
RESULT = TypeVar("RESULT")
# Operations of the documents that the compiled list leaves out.
MORE = [
    {"op": "plan.create", "method": "POST", "path": "/recurring/plans"},
    {"op": "session.get", "method": "GET", "path": "/sessions/{id}"},
    {"op": "payment.get", "method": "GET", "path": "/v3/payments/{id}"},
    {"op": "token.get", "method": "GET", "path": "/v3/payment_tokens/{id}"},
    {"op": "method.get", "method": "GET", "path": "/v2/payment_methods/{id}"},
    {"op": "refund.get", "method": "GET", "path": "/refunds/{id}"},
]


class Desk:
    """Gateways of the sample accounts on one event loop, since a client is dear to make."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self._open: dict[tuple[tuple[str, str], ...], Gateway] = {}

    def gateway(self, sim: Simulator, credentials: dict[str, str]) -> Gateway:
        key = tuple(sorted(credentials.items()))
        if key not in self._open:
            self._open[key] = gateway("xendit", credentials, simulator=sim.address)
        return self._open[key]

    def close(self) -> None:
        for one in self._open.values():
            self.runner.run(one.aclose())
        self.runner.close()
        self._open.clear()


DESKS: list[Desk] = []


@pytest.fixture(scope="module")
def served() -> Iterator[Simulator]:
    found = simulator("xendit", clock.now)
    assert isinstance(found, Simulator)
    with pytest.MonkeyPatch.context() as patch, Servers([found]):
        patch.setattr(http, "READ_S", 0.5)
        DESKS.append(Desk())
        yield found
        DESKS.pop().close()


@pytest.fixture
def sim(served: Simulator, tmp_path: Path) -> Iterator[Simulator]:
    """A simulator with all sample accounts, empty; what leaves the contract fails the test."""
    clock.set_offset(NOW - datetime.now(UTC))
    served.state = {"accounts": {}}
    served._saved = None
    served.reset()
    for sample in served.samples():
        served.open(sample, "")
    served.contract = None
    if SPEC.exists():
        said = json.loads(SPEC.read_text())
        said["operations"] += MORE
        (tmp_path / "contract.json").write_text(json.dumps(said))
        served.contract = contract(tmp_path / "contract.json")
    yield served
    time.sleep(0.005)
    assert served.problems == []


@pytest.fixture
def shop(sim: Simulator) -> Sample:
    return sim.samples()[0]


def test_what_leaves_the_contract_is_found(sim: Simulator, shop: Sample) -> None:
    if sim.contract is None:
        pytest.skip("the compiled list of Xendit's operations is not here")
    number = staged(sim, shop)
    body = {"amount": 5, "colour": "red"}
    key = b64encode(f"{shop.credentials['secret_key']}:".encode()).decode()
    headers = {"authorization": f"Basic {key}", "api-version": "2026-01-01"}
    answer = httpx.patch(
        f"{sim.address}/recurring/plans/{number}", json=body, headers=headers, trust_env=False
    )
    assert answer.status_code == 400
    time.sleep(0.1)  # the answer is out before it is held to the contract
    found, sim.problems = sim.problems, []
    assert found == ["plan.update: the body has an unknown field colour"]


def with_gateway(
    sim: Simulator, sample: Sample, do: Callable[[Gateway], Awaitable[RESULT]], **changed: str
) -> RESULT:
    return DESKS[-1].runner.run(awaited(do(DESKS[-1].gateway(sim, {**sample.credentials, **changed}))))


async def awaited(one: Awaitable[RESULT]) -> RESULT:
    return await one


class Between:
    """Comes between a gateway and its calls: `before` hears how many were made, and method and path of the next."""

    def __init__(self, one: Gateway, before: Callable[[int, str, str], None]) -> None:
        assert isinstance(one, Adapter)
        self._reader, self._ask, self._before, self._count = one._reader, one._reader.ask, before, 0

    def __enter__(self) -> None:
        self._reader.ask = self._between  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        self._reader.ask = self._ask  # type: ignore[method-assign]

    async def _between(self, method: str, path: str, *args: Any, **more: Any) -> Any:
        self._before(self._count, method, path)
        self._count += 1
        return await self._ask(method, path, *args, **more)


def fetched(sim: Simulator, sample: Sample, number: str, kind: Any = "subscription") -> Snapshot:
    return with_gateway(sim, sample, lambda one: one.fetch(Ref(kind, number)))


def read(sim: Simulator, sample: Sample, number: str) -> SubscriptionRecord:
    return fetched(sim, sample, number).subscriptions[0]


def staged(sim: Simulator, sample: Sample, **situation: Any) -> str:
    number = sim.stage(sample, "mika@example.com", Situation(**situation))
    assert number is not None
    return number


def pages(sim: Simulator, sample: Sample, cursor: str | None = None) -> list[tuple[Snapshot, str | None]]:
    async def walk(one: Gateway) -> list[tuple[Snapshot, str | None]]:
        return [(page.snapshot, page.cursor) async for page in one.backfill(cursor)]

    return with_gateway(sim, sample, walk)


def told_by(sim: Simulator, sample: Sample, delivery: Delivery) -> Snapshot | None:
    async def handle(one: Gateway) -> Snapshot | None:
        events = one.verify(list(delivery.headers.items()), delivery.body, clock.now())
        assert len(events) == 1
        json.dumps(dict(events[0].body))
        return await one.refetch(events[0])

    return with_gateway(sim, sample, handle)


def names(sim: Simulator) -> list[str]:
    return [json.loads(one.body).get("event", "invoice") for one in sim.sent]


def asked(sim: Simulator, method: str, ending: str) -> int:
    return sum(one.method == method and one.path.endswith(ending) for one in sim.calls)


def one_of(sim: Simulator, sample: Sample, email: str) -> str:
    account = sim.state["accounts"][sample.credentials["secret_key"]]
    people = account["customers"]
    found = [one["id"] for one in account["plans"].values() if people[one["customer_id"]]["email"] == email]
    return str(found[0])


# Accounts


def test_facts_and_adapter_agree() -> None:
    assert disagreements("xendit", Adapter) == []


def test_samples_match_the_patterns_of_the_facts(sim: Simulator) -> None:
    table = facts("xendit")
    for sample in sim.samples():
        for credential in table.credentials:
            value = sample.credentials.get(credential.name)
            assert value is not None or not credential.required
            assert value is None or re.fullmatch(credential.pattern, value), credential.name
        assert set(sample.options) <= set(table.options)
    assert len({sample.credentials["secret_key"] for sample in sim.samples()}) == len(sim.samples())


def test_state_can_be_copied_and_pickled(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    assert pickle.loads(pickle.dumps(sim.state)) == copy.deepcopy(sim.state) == sim.state
    sim.save()
    sim.state["accounts"].clear()
    sim.reset()
    assert sim.state["accounts"]


def test_good_keys_are_healthy(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    health = with_gateway(sim, shop, lambda one: one.check())
    assert (health.ok, health.live, health.missing) == (True, False, ())
    assert health.account == sim.state["accounts"][shop.credentials["secret_key"]]["business"]
    assert all(call.method == "GET" for call in sim.calls)


def test_sub_account_is_asked_with_its_user_id(sim: Simulator) -> None:
    platform = sim.samples()[3]
    assert with_gateway(sim, platform, lambda one: one.check()).ok
    without = with_gateway(sim, platform, lambda one: one.check(), for_user_id="")
    assert (without.ok, len(without.missing)) == (False, 6)


def test_refused_key_is_no_outage_and_the_hint_has_no_key(sim: Simulator, shop: Sample) -> None:
    key = "xnd_production_" + "z" * 44
    health = with_gateway(sim, shop, lambda one: one.check(), secret_key=key)
    assert (health.ok, health.live) == (False, True)
    assert "INVALID_API_KEY" in (health.hint or "")
    assert key not in (health.hint or "")


def test_missing_permission_is_named(sim: Simulator, shop: Sample) -> None:
    sim.forbid(shop, "/transactions", "/recurring")
    health = with_gateway(sim, shop, lambda one: one.check())
    assert (health.ok, health.missing) == (False, ("Transaction", "Subscriptions"))
    assert "Transaction, Subscriptions" in (health.hint or "")


def test_check_says_so_when_xendit_is_down(sim: Simulator, shop: Sample) -> None:
    sim.switch("down")
    with pytest.raises(Unavailable):
        with_gateway(sim, shop, lambda one: one.check())


def test_stranger_knows_nothing_of_another_account(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop)
    with pytest.raises(Gone):
        fetched(sim, sim.samples()[1], number)
    with pytest.raises(Gone):
        with_gateway(sim, sim.samples()[1], lambda one: one.cancel_now(Ref("subscription", number), "k"))
    assert sim.standing(number).charges


# Reading


def test_backfill_brings_orders_refunds_and_payments_with_their_people(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    found = [snapshot for snapshot, _ in pages(sim, shop)]
    orders = {one.number: one for page in found for one in page.orders}
    assert (orders["SO-1001"].email, orders["SO-1001"].status) == ("noor@example.com", "paid")
    assert orders["SO-1001"].amount == Money(50_000, "PHP")
    assert [(line.name, line.quantity, line.amount) for line in orders["SO-1001"].lines] == [
        ("Mug", 2, Money(50_000, "PHP"))
    ]
    assert (orders["SO-1003"].status, orders["SO-1000"].status) == ("open", "expired")
    assert orders["SO-1003"].due_link is not None
    assert orders["SO-1001"].due_link is None
    payments = {one.remote_id: one for page in found for one in page.payments}
    bought = payments[orders["SO-1002"].remote_id]
    assert (bought.status, bought.refunded) == ("partially_refunded", Money(100_000, "PHP"))
    assert (bought.order, bought.object) == (orders["SO-1002"].remote_id, "invoice_order")
    given_back = [one for one in payments.values() if one.status == "refunded"]
    people = {one.remote_id: one.email for page in found for one in page.customers}
    assert [people[one.customer or ""] for one in given_back] == ["lina@example.com"]
    assert {one.status for one in payments.values()} == {"paid", "failed", "refunded", "partially_refunded"}
    assert {one.status for page in found for one in page.refunds} == {"sent"}
    assert len([one for page in found for one in page.invoices]) == 6


def test_backfill_resumes_at_every_cursor(
    sim: Simulator, shop: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portal.gateways._xendit.reader.PAGE", 4)
    sim.fill(shop)
    whole = pages(sim, shop)
    assert len(whole) > 5
    assert whole[-1][1] is None
    for done, (_, cursor) in enumerate(whole[:-1], start=1):
        rest = pages(sim, shop, cursor)
        assert [snapshot.payments for snapshot, _ in rest] == [one.payments for one, _ in whole[done:]]
        assert [snapshot.orders for snapshot, _ in rest] == [one.orders for one, _ in whole[done:]]


def test_no_payment_is_called_paid_that_was_given_back(
    sim: Simulator, shop: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portal.gateways._xendit.reader.PAGE", 2)
    sim.fill(shop)
    statuses: dict[str, set[str | None]] = {}
    for snapshot, _ in pages(sim, shop):
        for one in snapshot.payments:
            statuses.setdefault(one.remote_id, set()).add(one.status)
    assert all(len(words) == 1 for words in statuses.values())


@pytest.mark.parametrize(
    ("email", "status", "sort"),
    [
        ("noor@example.com", "active", "plan"),
        ("ayu@example.com", "active", "plan"),
        ("budi@example.com", "trialing", "plan"),
        ("citra@example.com", "past_due", "plan"),
        ("dewi@example.com", "past_due", "plan_without_link"),
        ("eko@example.com", "cancelled", "plan"),
        ("fitri@example.com", "expired", "plan"),
        ("gita@example.com", "incomplete", "plan"),
        ("hadi@example.com", "active", "legacy_plan"),
    ],
)
def test_every_state_is_read(sim: Simulator, shop: Sample, email: str, status: str, sort: str) -> None:
    sim.fill(shop)
    number = one_of(sim, shop, email)
    record, standing = read(sim, shop, number), sim.standing(number)
    assert (record.email, record.status, record.object) == (email, status, sort)
    assert record.raw_status == standing.raw
    assert (record.next_payment.on if record.next_payment else None) == standing.next_on
    assert (record.next_payment is not None) == standing.charges
    if record.next_payment and record.next_payment.amount:
        assert record.next_payment.amount.minor == standing.amount
    assert record.method is not None
    assert record.method.remote_id == standing.method


def test_active_subscription_in_full(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    number = one_of(sim, shop, "noor@example.com")
    snapshot = fetched(sim, shop, number)
    record = snapshot.subscriptions[0]
    assert (record.title, record.amount, record.interval) == (
        "Coffee box",
        Money(64_900, "PHP"),
        Interval("month"),
    )
    assert record.quantity == 1
    assert record.method is not None
    assert (record.method.kind, record.method.brand, record.method.last4) == ("card", "Visa", "1091")
    assert record.current_period_start is not None
    assert record.current_period_end is not None
    assert record.current_period_start < clock.now() < record.current_period_end
    assert (record.due, record.due_link, record.stopped) == (None, None, False)
    assert {one.subscription for one in snapshot.payments} == {number}
    assert snapshot.payments[-1].status == "paid"
    assert all("status" not in (one.knows or ()) for one in snapshot.payments[:-1])
    assert snapshot.customers[0].name == "Noor Santos"


def test_rupiah_are_whole_and_pesos_have_cents(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    assert read(sim, shop, one_of(sim, shop, "ayu@example.com")).amount == Money(15_000_000, "IDR")
    assert read(sim, shop, one_of(sim, shop, "budi@example.com")).amount == Money(120_050, "PHP")


def test_wallet_and_bank_account_are_named(sim: Simulator, shop: Sample) -> None:
    wallet = read(sim, shop, staged(sim, shop, method="wallet")).method
    bank = read(sim, shop, staged(sim, shop, method="bank_debit", object="legacy_plan")).method
    assert wallet is not None
    assert bank is not None
    assert (wallet.kind, wallet.brand) == ("wallet", "GCash")
    assert (bank.kind, bank.brand) == ("bank_debit", "BPI")


def test_past_due_says_what_is_open_and_when_it_is_tried_again(sim: Simulator, shop: Sample) -> None:
    record = read(sim, shop, staged(sim, shop, state="past_due", due=True))
    assert (record.status, record.due, record.stopped) == ("past_due", Money(64_900, "PHP"), False)
    assert (record.due_link or "").startswith(f"{sim.address}/link/ps-")
    assert record.retries_on == (NOW + timedelta(days=1)).date()


def test_failed_for_good_without_a_page_is_not_payable(sim: Simulator, shop: Sample) -> None:
    record = read(sim, shop, staged(sim, shop, state="past_due", due=False))
    assert (record.status, record.due, record.stopped, record.retries_on) == ("past_due", None, True, None)


def test_situations_that_xendit_does_not_know_are_none(sim: Simulator, shop: Sample) -> None:
    for situation in (
        Situation(state="paused"),
        Situation(state="cancels_at_period_end"),
        Situation(method="upi"),
        Situation(object="agreement"),
        Situation(state="active", due=True),
    ):
        assert sim.stage(shop, "mika@example.com", situation) is None


@pytest.mark.parametrize("state", ["incomplete", "trialing", "active", "past_due", "cancelled", "expired"])
@pytest.mark.parametrize("sort", ["plan", "plan_without_link", "legacy_plan"])
def test_stages_are_what_they_were_asked_for(sim: Simulator, shop: Sample, state: str, sort: str) -> None:
    record = read(sim, shop, staged(sim, shop, state=state, object=sort))
    assert (record.status, record.object) == (state, sort)


def test_plan_without_a_token_has_no_method(sim: Simulator, shop: Sample) -> None:
    assert read(sim, shop, staged(sim, shop, token=False)).method is None


def test_old_plan_is_found_at_once_where_its_generation_is_known(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop, object="legacy_plan")
    record = read(sim, shop, number)
    assert asked(sim, "GET", number) == 2
    sim.calls.clear()
    ref = Ref("subscription", number, record)
    with_gateway(sim, shop, lambda one: one.fetch(ref))
    assert asked(sim, "GET", number) == 1


def test_more_than_a_page_of_cycles_is_read_from_either_end(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop)
    account, plan = sim._found(number)
    plan["schedule"]["interval"] = "DAY"
    for _ in range(130):
        clock.set_offset(clock.offset() + timedelta(days=1))
        sim.tick()
    newest = read(sim, shop, number)
    account["cycles"] = dict(reversed(account["cycles"].items()))  # the other order
    oldest = read(sim, shop, number)
    assert newest.next_payment == oldest.next_payment is not None
    assert newest.current_period_end == oldest.current_period_end


def test_history_is_told_by_its_past_deliveries(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    assert sim.sent == []

    async def told(one: Gateway) -> list[Snapshot]:
        events = [event for sent in sim.past_deliveries(shop) for event in one.verify(*sent, clock.now())]
        return [snapshot for event in events if (snapshot := await one.refetch(event))]

    snapshots = with_gateway(sim, shop, told)
    found = {one.remote_id: one.status for page in snapshots for one in page.payments if one.status}
    assert set(found.values()) == {"paid", "failed", "refunded", "partially_refunded"}
    plans = sim.state["accounts"][shop.credentials["secret_key"]]["plans"].values()
    known = {one.remote_id for page in snapshots for one in page.subscriptions}
    assert known == {
        one["id"] for one in plans if one["status"] != "REQUIRES_ACTION"
    }  # of these nothing is sent


def test_order_paid_in_a_session_is_read_with_its_payment(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    account = sim.state["accounts"][shop.credentials["secret_key"]]
    number = next(one for one, said in account["sessions"].items() if said["description"] == "Gift card")
    snapshot = fetched(sim, shop, number, "order")
    assert (snapshot.orders[0].email, snapshot.orders[0].status) == ("lina@example.com", "paid")
    assert (snapshot.payments[0].order, snapshot.payments[0].status) == (number, "refunded")


def test_refund_brings_its_payment(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    refunds = sim.state["accounts"][shop.credentials["secret_key"]]["refunds"]
    for number, said in refunds.items():
        snapshot = fetched(sim, shop, number, "refund")
        assert {one.remote_id for one in snapshot.refunds} == {number}
        assert snapshot.refunds[0].payment == snapshot.payments[0].remote_id == said["payment_id"]
        assert snapshot.payments[0].refunded == Money(int(said["amount"] * 100), "PHP")


@pytest.mark.parametrize("kind", ["subscription", "payment", "order", "refund", "customer", "invoice"])
def test_unknown_and_impossible_ids_are_gone(sim: Simulator, shop: Sample, kind: str) -> None:
    for number in ("repl_nope", "py-nope", "../../etc", "ps-nope", ""):
        with pytest.raises(Gone):
            fetched(sim, shop, number, kind)


# Wishes


def do(
    name: str, number: str, known: SubscriptionRecord | None = None
) -> Callable[[Gateway], Awaitable[Any]]:
    ref = Ref("subscription", number, known)
    more: dict[str, tuple[Any, ...]] = {
        "change_plan": ({"amount": Money(99_950, "PHP")}, BACK),
        "pay_now": (BACK,),
        "start_method_update": (BACK,),
    }
    return lambda one: getattr(one, name)(ref, *more.get(name, ()), "portal-7")


@pytest.mark.parametrize("sort", ["plan", "legacy_plan"])
@pytest.mark.parametrize("state", ["trialing", "active", "past_due"])
def test_cancel_is_final_and_a_second_one_is_no_failure(
    sim: Simulator, shop: Sample, state: str, sort: str
) -> None:
    number = staged(sim, shop, state=state, object=sort)
    before = read(sim, shop, number)
    after = with_gateway(sim, shop, do("cancel_now", number)).subscriptions[0]
    assert after.status == "cancelled"
    assert after.ended_at is not None
    assert after.next_payment is None
    assert not sim.standing(number).charges
    if state == "active":  # what is paid stays known
        assert after.current_period_end == before.current_period_end
    again = with_gateway(sim, shop, do("cancel_now", number))
    assert again.subscriptions[0].status == "cancelled"
    assert asked(sim, "POST", "/deactivate") == 1
    assert names(sim)[-1] == "recurring.plan.inactivated"


def test_two_cancels_at_once_are_both_right(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop)

    async def both(one: Gateway) -> list[Snapshot]:
        ref = Ref("subscription", number)
        return list(await asyncio.gather(one.cancel_now(ref, "k1"), one.cancel_now(ref, "k2")))

    assert [one.subscriptions[0].status for one in with_gateway(sim, shop, both)] == ["cancelled"] * 2


def test_undo_makes_one_new_plan_that_begins_when_the_paid_time_ends(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop)
    paid_until = read(sim, shop, number).current_period_end
    cancelled = with_gateway(sim, shop, do("cancel_now", number)).subscriptions[0]
    known = replace(cancelled, current_period_end=paid_until)
    for _ in range(3):
        snapshot = with_gateway(sim, shop, do("undo_cancel", number, known))
    old, new = snapshot.subscriptions
    assert (old.remote_id, old.status) == (number, "cancelled")
    assert (new.status, new.amount, new.title) == ("trialing", Money(64_900, "PHP"), "Staged box")
    assert new.method == old.method
    assert new.next_payment is not None
    assert paid_until is not None
    assert new.next_payment.on == paid_until.date()
    assert new.email == "mika@example.com"
    assert asked(sim, "POST", "/recurring/plans") == 1
    assert sim.standing(new.remote_id).charges


def test_undo_asks_nothing_twice_even_when_the_mark_is_lost(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop)
    known = replace(read(sim, shop, number))
    with_gateway(sim, shop, do("cancel_now", number))
    with_gateway(sim, shop, do("undo_cancel", number, known))
    sim._found(number)[1]["metadata"] = None
    with pytest.raises(Unavailable) as unsure:
        with_gateway(sim, shop, do("undo_cancel", number, known))
    assert unsure.value.sent
    assert len(sim.state["accounts"][shop.credentials["secret_key"]]["plans"]) == 2


def test_undo_never_begins_after_the_28th(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop)
    until = datetime(2026, 12, 30, 3, 0, tzinfo=UTC)
    known = replace(read(sim, shop, number), current_period_end=until)
    with_gateway(sim, shop, do("cancel_now", number))
    new = with_gateway(sim, shop, do("undo_cancel", number, known)).subscriptions[1]
    assert new.next_payment is not None
    assert str(new.next_payment.on) == "2027-01-01"


@pytest.mark.parametrize("trouble", ["dead token", "over", "unknown", "legacy"])
def test_undo_that_cannot_be_is_said(sim: Simulator, shop: Sample, trouble: str) -> None:
    number = staged(sim, shop, object="legacy_plan" if trouble == "legacy" else "plan")
    known: SubscriptionRecord | None = read(sim, shop, number)
    assert known is not None
    with_gateway(sim, shop, do("cancel_now", number))
    account, plan = sim._found(number)
    if trouble == "dead token":
        sim._token(account, plan)["status"] = "EXPIRED"
    if trouble == "over":
        known = replace(known, current_period_end=NOW - timedelta(days=1))
    if trouble == "unknown":
        known = None
    with pytest.raises(Unsupported):
        with_gateway(sim, shop, do("undo_cancel", number, known))
    assert len(account["plans"]) == 1


def test_skip_leaves_out_one_payment_however_often_it_is_tried(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop)
    before = read(sim, shop, number)
    for _ in range(3):
        after = with_gateway(sim, shop, do("skip_next_payment", number)).subscriptions[0]
    assert before.next_payment is not None
    assert after.next_payment is not None
    assert 27 < (after.next_payment.on - before.next_payment.on).days < 32
    assert after.status == "active"
    assert after.current_period_end == before.current_period_end  # the skipped month is not paid
    assert asked(sim, "POST", "/cancel") == 1
    more = with_gateway(
        sim, shop, lambda one: one.skip_next_payment(Ref("subscription", number), "portal-8")
    ).subscriptions[0]
    assert more.next_payment is not None
    assert more.next_payment.on > after.next_payment.on


def test_skip_without_a_next_payment_is_unsupported(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop, state="cancelled")
    with pytest.raises(Unsupported):
        with_gateway(sim, shop, do("skip_next_payment", number))


def test_skip_that_comes_too_late_is_declined(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop)
    account, plan = sim._found(number)
    cycle = sim._open_cycle(account, plan)

    def charged_meanwhile(count: int, method: str, path: str) -> None:
        if path.endswith("/cancel"):
            cycle["status"] = "PENDING"

    async def late(one: Gateway) -> Snapshot:
        with Between(one, charged_meanwhile):
            return await one.skip_next_payment(Ref("subscription", number), "k")

    with pytest.raises(Declined) as refused:
        with_gateway(sim, shop, late)
    assert refused.value.reason == "INELIGIBLE_CYCLE_REQUEST"


@pytest.mark.parametrize(
    ("change", "amount", "interval", "quantity"),
    [
        ({"amount": Money(99_950, "PHP")}, Money(99_950, "PHP"), Interval("month"), 1),
        ({"interval": Interval("week", 2)}, Money(64_900, "PHP"), Interval("week", 2), 1),
        ({"quantity": 3}, Money(194_700, "PHP"), Interval("month"), 3),
        (
            {"amount": Money(100_000, "PHP"), "interval": Interval("year"), "quantity": 2},
            Money(100_000, "PHP"),
            Interval("year"),
            2,
        ),
    ],
)
def test_change_reprices_the_scheduled_payment_too(
    sim: Simulator, shop: Sample, change: dict[str, Any], amount: Money, interval: Interval, quantity: int
) -> None:
    number = staged(sim, shop)
    for _ in range(2):
        after = with_gateway(
            sim, shop, lambda one: one.change_plan(Ref("subscription", number), change, BACK, "k")
        )
    assert isinstance(after, Snapshot)
    record = after.subscriptions[0]
    assert (record.amount, record.interval, record.quantity) == (amount, interval, quantity)
    assert record.next_payment is not None
    assert record.next_payment.amount == amount
    assert sim.standing(number).amount == amount.minor
    assert asked(sim, "PATCH", number) == 1


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"plan": "gold"},
        {"amount": Money(500, "USD")},
        {"quantity": 0},
    ],
)
def test_change_that_xendit_has_no_call_for_is_unsupported(
    sim: Simulator, shop: Sample, change: dict[str, Any]
) -> None:
    number = staged(sim, shop)
    with pytest.raises(Unsupported):
        with_gateway(sim, shop, lambda one: one.change_plan(Ref("subscription", number), change, BACK, "k"))
    assert not [call for call in sim.calls if call.method != "GET"]


def test_pay_now_leads_to_the_page_of_the_failed_payment(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop, state="past_due", due=True)
    leave = with_gateway(sim, shop, do("pay_now", number))
    assert isinstance(leave, Leave)
    assert not leave.returns
    assert facts("xendit").allows_link(leave.url, {"": sim.address})
    assert press(leave.url, "accept").status_code == 200
    record = read(sim, shop, number)
    assert (record.status, record.due) == ("active", None)
    assert names(sim)[-1] == "payment_session.completed"
    after = with_gateway(sim, shop, do("pay_now", number))
    assert isinstance(after, Snapshot)  # nothing is open any more


def test_pay_now_forces_an_attempt_while_xendit_is_retrying(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop, state="past_due", object="plan_without_link")
    account, plan = sim._found(number)
    before = read(sim, shop, number)
    sim._token(account, plan)["_good"] = True
    after = with_gateway(sim, shop, do("pay_now", number))
    assert isinstance(after, Snapshot)
    assert (after.subscriptions[0].status, after.subscriptions[0].due) == ("active", None)
    assert sim.standing(number).payments == 2
    assert before.due == Money(64_900, "PHP")
    with_gateway(sim, shop, do("pay_now", number))
    assert asked(sim, "POST", "/force_attempt") == 1


def test_forced_attempt_that_fails_is_declined_and_told(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop, state="past_due", object="legacy_plan")
    with pytest.raises(Declined) as refused:
        with_gateway(sim, shop, do("pay_now", number))
    assert refused.value.reason == "INSUFFICIENT_BALANCE"
    assert names(sim)[-1] == "recurring.cycle.force_attempt_failed"
    assert read(sim, shop, number).status == "past_due"


async def pay(number: str, key: str, one: Gateway) -> Snapshot | Leave:
    return await one.pay_now(Ref("subscription", number), BACK, key)


def test_five_forced_attempts_are_the_most(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop, state="past_due", object="plan_without_link")
    for key in "abcde":
        with pytest.raises(Declined):
            with_gateway(sim, shop, partial(pay, number, key))
    with pytest.raises(Unsupported):
        with_gateway(sim, shop, do("pay_now", number))


class Page(HTMLParser):
    """The buttons and fields of a hosted page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self.buttons: dict[str, dict[str, str]] = {}
        self._select = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "input":
            self.fields[found["name"]] = found.get("value", "")
        if tag == "select":
            self._select = found["name"]
        if tag == "option" and self._select not in self.fields:
            self.fields[self._select] = found["value"]
        if "data-test" in found:
            self.buttons[found["data-test"]] = found


def press(url: str, button: str, **fields: str) -> httpx.Response:
    with httpx.Client(trust_env=False, follow_redirects=False) as browser:
        page = Page(browser.get(url).text)
        found = page.buttons[button]
        if "href" in found:
            return httpx.Response(303, headers={"location": found["href"]})
        return browser.post(url, data={**page.fields, **fields, found["name"]: found["value"]})


def test_new_payment_method_is_saved_on_the_page_and_given_to_the_plan(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop)
    before = sim.standing(number).method
    leave = with_gateway(sim, shop, do("start_method_update", number))
    body = json.loads(next(call.body for call in sim.calls if call.path == "/sessions"))
    assert (body["session_type"], body["amount"], body["reference_id"]) == ("SAVE", 0, "portal-7")
    assert body["channel_properties"]["cards"]["card_on_file_type"] == "RECURRING"
    gone = press(leave.url, "accept", digits="5678")
    assert (gone.status_code, gone.headers["location"]) == (303, BACK)
    assert sim.standing(number).method == before  # coming back alone proves nothing
    for _ in range(2):
        after = with_gateway(
            sim, shop, lambda one: one.finish_method_update(Ref("subscription", number), leave.state, {})
        ).subscriptions[0]
    assert after.method is not None
    assert after.method.last4 == "5678"
    assert after.method.remote_id == sim.standing(number).method != before
    assert asked(sim, "PATCH", number) == 1


def test_page_that_is_refused_or_left_changes_nothing(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop)
    before = sim.standing(number).method
    leave = with_gateway(sim, shop, do("start_method_update", number))
    assert press(leave.url, "decline").status_code == 402
    assert press(leave.url, "back").headers["location"] == BACK
    sim.switch("decline")
    assert press(leave.url, "accept").status_code == 402
    sim.switch("ok")
    with_gateway(
        sim, shop, lambda one: one.finish_method_update(Ref("subscription", number), leave.state, {})
    )
    assert sim.standing(number).method == before


def test_webhook_of_the_session_does_it_where_nobody_comes_back(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop)
    leave = with_gateway(sim, shop, do("start_method_update", number))
    press(leave.url, "accept", channel="wallet")
    done = next(one for one in sim.sent if b"payment_session.completed" in one.body)
    snapshot = told_by(sim, shop, done)
    assert snapshot is not None
    method = snapshot.subscriptions[0].method
    assert method is not None
    assert (method.kind, method.brand) == ("wallet", "GCash")


def test_late_webhook_of_an_older_session_does_not_bring_the_old_method_back(
    sim: Simulator, shop: Sample
) -> None:
    number = staged(sim, shop)
    first = with_gateway(sim, shop, do("start_method_update", number))
    press(first.url, "accept", digits="1111")
    stale = next(one for one in sim.sent if b"payment_session.completed" in one.body)
    clock.set_offset(clock.offset() + timedelta(minutes=5))
    second = with_gateway(
        sim, shop, lambda one: one.start_method_update(Ref("subscription", number), BACK, "portal-9")
    )
    press(second.url, "accept", digits="2222")
    ref = Ref("subscription", number)
    with_gateway(sim, shop, lambda one: one.finish_method_update(ref, second.state, {}))
    snapshot = told_by(sim, shop, stale)
    assert snapshot is not None
    method = snapshot.subscriptions[0].method
    assert method is not None
    assert method.last4 == "2222"


def test_session_of_somebody_else_is_never_adopted(sim: Simulator, shop: Sample) -> None:
    mine, other = staged(sim, shop), sim.stage(shop, "ola@example.com", Situation())
    assert other is not None
    leave = with_gateway(sim, shop, do("start_method_update", other))
    press(leave.url, "accept")
    with pytest.raises(Unsupported):
        with_gateway(
            sim, shop, lambda one: one.finish_method_update(Ref("subscription", mine), leave.state, {})
        )


def test_dead_token_is_declined_in_words_that_help(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop)
    leave = with_gateway(sim, shop, do("start_method_update", number))
    press(leave.url, "accept")
    account = sim.state["accounts"][shop.credentials["secret_key"]]
    token = account["sessions"][leave.state["session"]]["payment_token_id"]
    account["tokens"][token]["status"] = "EXPIRED"
    with pytest.raises(Declined) as refused:
        with_gateway(
            sim, shop, lambda one: one.finish_method_update(Ref("subscription", number), leave.state, {})
        )
    assert refused.value.reason == "INVALID_PAYMENT_TOKEN_ID"
    assert "choose another" in refused.value.customer


@pytest.mark.parametrize("situation", [{"object": "legacy_plan"}, {"state": "incomplete"}])
def test_method_update_is_refused_where_the_facts_have_none(
    sim: Simulator, shop: Sample, situation: dict[str, str]
) -> None:
    number = staged(sim, shop, **situation)
    with pytest.raises(Unsupported):
        with_gateway(sim, shop, do("start_method_update", number))


def test_method_update_has_no_page_in_hong_kong(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop)
    _, plan = sim._found(number)
    plan |= {"country": "HK", "currency": "HKD"}
    with pytest.raises(Unsupported) as refused:
        with_gateway(sim, shop, do("start_method_update", number))
    assert "SG" in refused.value.hint


# The unhappy day

WRITES = ["cancel_now", "skip_next_payment", "change_plan", "pay_now", "start_method_update", "undo_cancel"]


def ready(sim: Simulator, sample: Sample, name: str) -> tuple[str, SubscriptionRecord]:
    state = {"pay_now": "past_due"}.get(name, "active")
    number = staged(sim, sample, state=state, object="plan_without_link")
    known = read(sim, sample, number)
    if name == "undo_cancel":
        with_gateway(sim, sample, do("cancel_now", number))
    sim.calls.clear()
    return number, known


@pytest.mark.parametrize("name", WRITES)
def test_decline_is_declined(sim: Simulator, shop: Sample, name: str) -> None:
    number, known = ready(sim, shop, name)
    before = sim.standing(number)
    sim.switch("decline")
    with pytest.raises(Declined) as refused:
        with_gateway(sim, shop, do(name, number, known))
    assert refused.value.reason in ("UNPROCESSABLE_ENTITY_ERROR", "INSUFFICIENT_BALANCE")
    assert sim.standing(number) == before


@pytest.mark.parametrize("name", WRITES)
def test_limit_says_when_to_come_back(sim: Simulator, shop: Sample, name: str) -> None:
    number, known = ready(sim, shop, name)
    sim.fail_next = ["429:7"]
    with pytest.raises(Unavailable) as busy:
        with_gateway(sim, shop, do(name, number, known))
    assert (busy.value.retry_after, busy.value.sent) == (7, False)


@pytest.mark.parametrize("name", WRITES)
def test_lost_answer_is_unknown_and_the_next_try_has_no_second_effect(
    sim: Simulator, shop: Sample, name: str
) -> None:
    number, known = ready(sim, shop, name)
    account, plan = sim._found(number)
    if name == "pay_now":
        sim._token(account, plan)["_good"] = True
    count = len(account["plans"])

    def lose(_: int, method: str, path: str) -> None:
        if method != "GET":
            sim.fail_next = ["timeout_after"]

    async def once(one: Gateway) -> Any:
        with Between(one, lose):
            return await do(name, number, known)(one)

    with pytest.raises(Unavailable) as unsure:
        with_gateway(sim, shop, once)
    assert unsure.value.sent
    http._breakers.clear()
    effect = sim.standing(number)
    if name == "skip_next_payment":  # lost was the mark; the skip itself is still to come
        with_gateway(sim, shop, do(name, number, known))
        assert asked(sim, "POST", "/cancel") == 1
        return
    if name == "undo_cancel":  # whether the first one had its effect has to be read
        with pytest.raises(Unavailable) as still:
            with_gateway(sim, shop, do(name, number, known))
        assert still.value.sent
    else:
        with_gateway(sim, shop, do(name, number, known))
    assert sim.standing(number).payments == effect.payments
    assert len(account["plans"]) == count + (name == "undo_cancel")


@pytest.mark.parametrize("mode", ["down", "refused_keys"])
def test_outage_and_refused_keys_are_unavailable_for_everything(
    sim: Simulator, shop: Sample, mode: str
) -> None:
    number, known = ready(sim, shop, "cancel_now")
    sim.switch(mode)
    for name in [*WRITES, "fetch"]:
        with pytest.raises(Unavailable):
            with_gateway(
                sim,
                shop,
                do(name, number, known)
                if name != "fetch"
                else lambda one: one.fetch(Ref("subscription", number)),
            )
        http._breakers.clear()
    sim.switch("ok")
    assert sim.standing(number).charges


@pytest.mark.parametrize(
    "fault", ["500", "html", "empty", "truncated", "wrong_types", "missing_fields", "unknown_status", "401"]
)
def test_garbage_is_one_of_the_five_errors_or_says_less(sim: Simulator, shop: Sample, fault: str) -> None:
    sim.fill(shop)
    number = one_of(sim, shop, "citra@example.com")
    account = sim.state["accounts"][shop.credentials["secret_key"]]
    others = [("payment", next(iter(account["payments"]))), ("refund", next(iter(account["refunds"])))]
    others += [("order", next(iter(account["invoices"]))), ("order", next(iter(account["sessions"])))]
    for kind, one in [("subscription", number), *others]:
        for at in range(5 if kind == "subscription" else 2):
            http._breakers.clear()
            try:
                snapshot = spoiled(sim, shop, Ref(kind, one), fault, at)  # type: ignore[arg-type]
            except GatewayError:
                continue
            for record in snapshot.subscriptions:
                assert record.status in (
                    None,
                    "past_due",
                    "active",
                    "cancelled",
                    "incomplete",
                    "trialing",
                    "expired",
                )
                assert record.remote_id == number
    http._breakers.clear()
    sim.fail_next = [fault]
    try:
        for _ in pages(sim, shop):
            pass
    except GatewayError:
        pass


def spoiled(sim: Simulator, sample: Sample, ref: Ref, fault: str, at: int) -> Snapshot:
    """Fetch with the answer to one of its questions spoiled."""

    def spoil(count: int, method: str, path: str) -> None:
        sim.fail_next = [fault] if count == at else []

    async def run(one: Gateway) -> Snapshot:
        with Between(one, spoil):
            return await one.fetch(ref)

    try:
        return with_gateway(sim, sample, run)
    finally:
        sim.fail_next = []


def test_unknown_word_keeps_the_last_known_state(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop)
    record = spoiled(sim, shop, Ref("subscription", number), "unknown_status", 0).subscriptions[0]
    assert (record.status, record.raw_status) == (None, "a_word_of_tomorrow")
    record = spoiled(sim, shop, Ref("subscription", number), "unknown_status", 1).subscriptions[0]
    assert record.status is None


# Notices


def test_every_change_is_told_and_every_notice_is_understood(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop)
    sim.charge(number)
    sim.charge(number, succeeds=False)
    snapshot = fetched(sim, shop, number)
    paid = next(one.remote_id for one in snapshot.payments if one.status == "paid")
    sim.refund(shop, paid, 49)
    told = set(names(sim))
    assert told == {
        *("recurring.plan.activated", "recurring.cycle.created", "recurring.cycle.succeeded"),
        *("recurring.cycle.retrying", "payment.capture", "payment.failure", "refund.succeeded"),
    }
    for delivery in sim.sent:
        found = told_by(sim, shop, delivery)
        assert found is not None
        assert found.subscriptions or found.payments
    refund = told_by(sim, shop, sim.sent[-1])
    assert refund is not None
    assert (refund.payments[0].status, refund.refunds[0].amount) == (
        "partially_refunded",
        Money(4_900, "PHP"),
    )


def test_cycle_is_told_with_its_own_payment_and_its_refund(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop)
    first = next(one for one in sim.sent if b"recurring.cycle.succeeded" in one.body)
    payment = json.loads(first.body)["data"]["attempt_details"][0]["payment_id"]
    sim.refund(shop, payment, 649)
    sim.charge(number)
    snapshot = told_by(sim, shop, first)
    assert snapshot is not None
    told = {one.remote_id: one for one in snapshot.payments}
    assert (told[payment].status, told[payment].subscription) == ("refunded", number)
    assert told[payment].email == "mika@example.com"


def test_invoice_callback_of_old_has_no_name_and_is_recognised(sim: Simulator, shop: Sample) -> None:
    account = sim.state["accounts"][shop.credentials["secret_key"]]
    invoice = sim._invoice(account, "pia@example.com", "SO-9", [("Book", 1, 350)], "PENDING", NOW)
    assert press(invoice["invoice_url"], "accept").status_code == 200
    assert "event" not in json.loads(sim.sent[-1].body)
    snapshot = told_by(sim, shop, sim.sent[-1])
    assert snapshot is not None
    assert (snapshot.orders[0].status, snapshot.orders[0].email) == ("paid", "pia@example.com")
    payment = snapshot.payments[0]
    assert (payment.status, payment.email, payment.invoice) == ("paid", "pia@example.com", invoice["id"])
    assert payment.remote_id.startswith("py-")  # it was paid through v3; older channels bear the invoice's id
    assert payment.method is not None
    assert (payment.method.kind, payment.method.last4) == ("card", "1005")
    assert snapshot.invoices[0].page_url == invoice["invoice_url"]


def test_charge_after_the_end_is_told(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop, state="cancelled")
    sim.charge(number)
    snapshot = told_by(sim, shop, sim.sent[-1])
    assert snapshot is not None
    assert snapshot.subscriptions[0].status == "cancelled"
    assert [one.status for one in snapshot.payments if one.status] == ["paid"]


def test_same_notice_twice_is_one_event(sim: Simulator, shop: Sample) -> None:
    staged(sim, shop)
    delivery = sim.sent[0]
    said = json.loads(delivery.body)
    later = {**said, "created": "2030-01-01T00:00:00Z"}  # the moment of another delivery of the same
    headers = list(delivery.headers.items())
    adapter = Adapter(shop.credentials)
    [one] = adapter.verify(headers, delivery.body, NOW)
    [two] = adapter.verify(headers, json.dumps(later).encode(), NOW)
    assert one.id == two.id


def test_different_notices_are_different_events(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    adapter = Adapter(shop.credentials)
    ids = [adapter.verify(headers, body, NOW)[0].id for headers, body in sim.past_deliveries(shop)]
    assert len(set(ids)) == len(ids)


def test_no_forgery_is_taken(sim: Simulator, shop: Sample) -> None:
    staged(sim, shop)
    delivery = sim.sent[0]
    adapter = Adapter({"webhook_token": shop.credentials["webhook_token"]})
    assert adapter.verify(list(delivery.headers.items()), delivery.body, NOW)
    forged = sim.forgeries(shop, delivery)
    assert len(forged) >= 25
    for one in forged:
        with pytest.raises(BadSignature):
            print(one.what, adapter.verify(one.headers, one.body, NOW))
    with pytest.raises(BadSignature):
        Adapter(sim.samples()[1].credentials).verify(list(delivery.headers.items()), delivery.body, NOW)
    with pytest.raises(BadSignature):
        Adapter({}).verify(list(delivery.headers.items()), delivery.body, NOW)


# The clock


def test_months_pass_with_payments_failures_and_ends(sim: Simulator, shop: Sample) -> None:
    good, bad = staged(sim, shop), staged(sim, shop, state="past_due", object="plan_without_link")
    short = staged(sim, shop)
    sim._found(short)[1]["schedule"]["total_recurrence"] = 3
    for _ in range(70):
        clock.set_offset(clock.offset() + timedelta(days=1))
        sim.tick()
    assert sim.standing(good).payments >= 3
    assert sim.standing(bad).payments == 1
    assert read(sim, shop, short).status == "expired"
    record = read(sim, shop, bad)
    assert (record.status, record.due is None) == ("past_due", record.stopped)
    assert {"recurring.cycle.failed", "recurring.plan.inactivated"} <= set(names(sim))


def test_session_and_invoice_expire(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop)
    leave = with_gateway(sim, shop, do("start_method_update", number))
    account = sim.state["accounts"][shop.credentials["secret_key"]]
    invoice = sim._invoice(account, "pia@example.com", "SO-9", [("Book", 1, 350)], "PENDING", NOW)
    clock.set_offset(clock.offset() + timedelta(days=31))
    sim.tick()
    assert account["sessions"][leave.state["session"]]["status"] == "EXPIRED"
    assert fetched(sim, shop, invoice["id"], "order").orders[0].status == "expired"
    assert httpx.get(leave.url, trust_env=False).status_code == 410


def test_stop_ends_a_plan_after_a_failed_cycle(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop)
    plan = sim._found(number)[1]
    plan["failed_cycle_action"], plan["schedule"]["total_retry"] = "STOP", None
    sim.charge(number, succeeds=False)
    record = read(sim, shop, number)
    assert (record.status, record.next_payment) == ("cancelled", None)


def test_pages_are_no_calls(sim: Simulator, shop: Sample) -> None:
    number = staged(sim, shop)
    leave = with_gateway(sim, shop, do("start_method_update", number))
    path = urlsplit(leave.url).path
    assert Harness.is_page(sim, "GET", path) is False
    assert sim.is_page("GET", path)
    calls = len(sim.calls)
    httpx.get(leave.url, trust_env=False)
    assert len(sim.calls) == calls
