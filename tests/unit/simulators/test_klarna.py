"""The Klarna simulator, and the adapter against it: every capability, every fault, every forged delivery."""

import asyncio
import copy
import json
import pickle
import re
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from html.parser import HTMLParser
from typing import Any, TypeVar

import httpx2 as httpx
import pytest

from portal import clock
from portal.gateways import _klarna_webhooks, base, facts, gateway, http
from portal.gateways.base import (
    BadSignature,
    Declined,
    Gateway,
    Gone,
    Leave,
    Page,
    Ref,
    Registration,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import KEYS, METHODS, disagreements
from portal.gateways.klarna import Adapter
from seeds.simulators.harness import Delivery, Exchange, Sample, Servers, Situation, simulator
from seeds.simulators.klarna import COFFEE, Simulator, sign
from tests.conftest import SHARED
from tests.contracts import contract

SPEC = SHARED / "specs" / "klarna" / "contract.json"
NOW = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
RETURN = "https://shop.example/customers/return/abc"
Result = TypeVar("Result")


def held(path: Any) -> Callable[[Exchange], list[str]]:
    """The contract; it names the paths of v2 without /v2, and the sorts of a line as one word with bars in it.

    It knows no list of webhooks; Klarna's own pages do: docs.klarna.com/api/kn/klarna-notifications-api.
    """
    check = contract(path, ignore=("physical|discount",))

    def told(exchange: Exchange) -> list[str]:
        listed = ("GET", "/v2/notification/webhooks")
        known = (exchange.method, exchange.path) == listed
        return [] if known else check(replace(exchange, path=exchange.path.removeprefix("/v2")))

    return told


@pytest.fixture(autouse=True)
def _on_a_november_morning(monkeypatch: pytest.MonkeyPatch) -> None:
    clock.set_offset(NOW - datetime.now(UTC))
    monkeypatch.setattr(http, "READ_S", 0.5)
    plain = partial(
        httpx.AsyncClient, verify=False
    )  # nothing here speaks TLS; reading all certificates takes long
    monkeypatch.setattr("portal.gateways.http.httpx.AsyncClient", plain)


@pytest.fixture(scope="module")
def served() -> Iterator[Simulator]:
    one = simulator("klarna", clock.now)
    assert isinstance(one, Simulator)
    with Servers([one]):
        yield one


@pytest.fixture
def sim(served: Simulator) -> Iterator[Simulator]:
    """The simulator as if fresh."""
    served.state, served._saved, served.contract = Simulator().state, None, None
    served.reset()
    served.cancel_takes = 1  # as slow as it may be: the first look still finds the token active
    yield served
    assert served.problems == []


@pytest.fixture
def shop(sim: Simulator) -> Sample:
    """The first sample, open and with a history; its exchanges are held against the contract where that is."""
    return opened(sim, 0)


def opened(sim: Simulator, number: int, filled: bool = True) -> Sample:
    sample = sim.samples()[number]
    sim.open(sample, "")
    if filled:
        sim.fill(sample)
    if SPEC.exists():
        sim.contract = held(SPEC)
    return sample


def gateway_of(sim: Simulator, sample: Sample, **other: str) -> Gateway:
    credentials = {**sample.credentials, **other}
    return gateway("klarna", credentials, variant=sample.variant, simulator=sim.address)


def ask(
    sim: Simulator, sample: Sample, work: Callable[[Gateway], Coroutine[Any, Any, Result]], **other: str
) -> Result:
    """One question, with a gateway of its own."""

    async def asked() -> Result:
        one = gateway_of(sim, sample, **other)
        try:
            return await work(one)
        finally:
            await one.aclose()

    return asyncio.run(asked())


def fetch(sim: Simulator, sample: Sample, ref: Ref) -> SubscriptionRecord:
    (record,) = ask(sim, sample, lambda one: one.fetch(ref)).subscriptions
    return record


def learned(
    sim: Simulator, sample: Sample, headers: Mapping[str, str] | list[tuple[str, str]], body: bytes
) -> Snapshot:
    """What a delivery makes the portal know: proved, then read from the API."""
    pairs = list(headers.items()) if isinstance(headers, Mapping) else headers
    (event,) = gateway_of(sim, sample).verify(pairs, body, clock.now())
    snapshot = ask(sim, sample, lambda one: one.refetch(event))
    assert snapshot is not None
    return snapshot


def staged(sim: Simulator, sample: Sample, **situation: Any) -> Ref:
    """A subscription as the portal's rows know it after its webhook."""
    remote_id = sim.stage(sample, "maya@example.com", Situation(**situation))
    assert remote_id is not None
    told = learned(sim, sample, sim.sent[-1].headers, sim.sent[-1].body)
    return Ref("subscription", remote_id, told.subscription(remote_id))


async def walked(one: Gateway, cursor: str | None = None) -> list[Page]:
    return [page async for page in one.backfill(cursor)]


def backfilled(sim: Simulator, sample: Sample, cursor: str | None = None) -> list[Page]:
    return ask(sim, sample, lambda one: walked(one, cursor))


# The accounts


def test_every_sample_fits_the_facts(sim: Simulator) -> None:
    table = facts("klarna")
    for sample in sim.samples():
        fields = {one.name: one for one in table.credentials if one.variant in (None, sample.variant)}
        assert set(sample.credentials) <= set(fields)
        for name, field in fields.items():
            if name in sample.credentials:
                assert re.fullmatch(field.pattern, sample.credentials[name]), name
            else:
                assert not field.required, name
        assert sample.variant in (table.variants or [])
        assert set(sample.options) <= set(table.options)
    shown = {option for sample in sim.samples() for option in sample.options}
    assert shown == set(table.options)


def test_facts_and_code_agree() -> None:
    assert disagreements("klarna", Adapter) == []
    assert set(facts("klarna").capabilities) == set(KEYS)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_check_of_every_sample(sim: Simulator, number: int) -> None:
    sample = opened(sim, number)
    health = ask(sim, sample, lambda one: one.check())
    assert (health.ok, health.live, health.missing, health.hint) == (True, False, (), None)
    assert health.account == sample.credentials["merchant_id"]
    assert all(call.method == "GET" for call in sim.calls)


@pytest.mark.parametrize(
    "wrong", [{"api_key": "klarna_test_api_b3RoZXI"}, {"username": ""}, {"username": "K123456_abcdef123456"}]
)
def test_wrong_keys_are_refused(sim: Simulator, shop: Sample, wrong: dict[str, str]) -> None:
    health = ask(sim, shop, lambda one: one.check(), **wrong)
    assert not health.ok
    assert health.hint is not None


def test_keys_that_were_taken_away_are_refused(sim: Simulator, shop: Sample) -> None:
    sim.switch("refused_keys")
    assert not ask(sim, shop, lambda one: one.check()).ok


def test_a_classic_account_has_no_signing_keys_and_the_check_says_so_of_v2(sim: Simulator) -> None:
    classic = opened(sim, 2)
    health = ask(sim, replace(classic, variant="v2"), lambda one: one.check())
    assert health.missing == ("Notification API v2",)


def test_an_unknown_signing_key_id_is_found(sim: Simulator, shop: Sample) -> None:
    hint = ask(sim, shop, lambda one: one.check(), signing_key_id="krn:other").hint
    assert hint is not None
    assert "signing key" in hint


def test_a_stranger_sees_nothing_of_another_shop(sim: Simulator, shop: Sample) -> None:
    ref = staged(sim, shop)
    order = next(iter(sim.account(shop)["orders"]))
    stranger = opened(sim, 1, filled=False)
    with pytest.raises(Gone):
        fetch(sim, stranger, ref)
    with pytest.raises(Gone):
        ask(sim, stranger, lambda one: one.fetch(Ref("order", order)))
    with pytest.raises(Gone):
        ask(sim, stranger, lambda one: one.cancel_now(ref, "portal-1"))
    assert sim.standing(ref.id).charges
    assert all(page.snapshot.orders == () for page in backfilled(sim, stranger))


# The history


@pytest.mark.parametrize("number", [0, 2])
def test_backfill_finds_what_was_paid_out_with_the_e_mails(sim: Simulator, number: int) -> None:
    sample = opened(sim, number)
    pages = backfilled(sim, sample)
    assert pages[-1].cursor is None
    orders = {one.remote_id: one for page in pages for one in page.snapshot.orders}
    kept = sim.account(sample)["orders"]
    paid_out = {row["order_id"] for row in sim.account(sample)["transactions"] if row["payment_reference"]}
    assert set(orders) == paid_out
    for name, order in orders.items():
        assert order.email == kept[name]["billing_address"]["email"]
        assert order.amount is not None
        assert order.amount.minor == kept[name]["order_amount"]
    payments = [one for page in pages for one in page.snapshot.payments]
    assert {one.status for one in payments} == {"paid", "partially_refunded", "refunded"}
    refunds = [one for page in pages for one in page.snapshot.refunds]
    assert sorted({one.amount.minor for one in refunds if one.amount}) == [10000, 129900]


def test_backfill_goes_on_where_it_broke_off(sim: Simulator, shop: Sample) -> None:
    account = sim.account(shop)
    for _ in range(30):  # more than one page of transactions
        line = [{"reference": "mug", "name": "Mug", "amount": 9900}]
        sim.order(account, "lin@example.com", line, NOW - timedelta(days=45), told=False)
    sim.tick()
    whole = backfilled(sim, shop)
    names = {one.remote_id for page in whole for one in page.snapshot.orders}
    for number, page in enumerate(whole[:-1]):
        rest = backfilled(sim, shop, page.cursor) if number in (0, 2, 5) else whole[number + 1 :]
        found = {one.remote_id for after in [*whole[: number + 1], *rest] for one in after.snapshot.orders}
        assert found == names
    assert max(json.loads(page.cursor or "{}").get("offset", 0) for page in whole) >= 25


def test_a_limit_stops_the_backfill_until_it_is_over(sim: Simulator, shop: Sample) -> None:
    sim.fail_next = ["429:9"]
    with pytest.raises(Unavailable) as caught:
        backfilled(sim, shop)
    assert caught.value.retry_after == 9


def test_past_deliveries_tell_what_no_list_does(sim: Simulator, shop: Sample) -> None:
    told = [learned(sim, shop, headers, body) for headers, body in sim.past_deliveries(shop)]
    rows = {one.remote_id: one for snapshot in told for one in snapshot.subscriptions}
    assert {one.email for one in rows.values()} == {"noor@example.com", "klarna@example.com"}
    states = [one.status for one in rows.values() if one.email == "klarna@example.com"]
    assert sorted(map(str, states)) == ["active", "active", "active", "cancelled", "past_due"]
    assert len([one for one in rows.values() if one.object == "shared_token"]) == 2
    noor = next(one for one in rows.values() if one.email == "noor@example.com")
    standing = sim.standing(noor.remote_id)
    assert noor.next_payment is not None
    assert (noor.next_payment.on, noor.amount and noor.amount.minor) == (standing.next_on, standing.amount)
    orders = {one.remote_id: one for snapshot in told for one in snapshot.orders}
    assert {one.status for one in orders.values()} == {
        *("paid", "open", "failed", "refunded", "partially_refunded", "expired", "cancelled")
    }
    payments = {one.remote_id: one.status for snapshot in told for one in snapshot.payments}
    assert {"pending", "failed", "expired", "cancelled"} <= set(payments.values())


def test_classic_deliveries_tell_orders_and_no_subscription(sim: Simulator) -> None:
    classic = opened(sim, 2)
    told = [learned(sim, classic, headers, body) for headers, body in sim.past_deliveries(classic)]
    assert {one.remote_id for snapshot in told for one in snapshot.orders} == set(
        sim.account(classic)["orders"]
    )
    assert all(snapshot.subscriptions == () for snapshot in told)


def test_a_classic_shop_hands_its_tokens_over_in_a_list(sim: Simulator) -> None:
    classic = opened(sim, 2, filled=False)
    token = sim.sign_up(sim.account(classic), "noor@example.com", [COFFEE])
    (listed,) = Adapter.read_file(f"email,token,plan\nnoor@example.com,{token},coffee-club\n").subscriptions
    record = fetch(sim, classic, Ref("subscription", listed.remote_id, listed))
    assert (record.status, record.method and record.method.remote_id) == ("active", token)


def test_nothing_is_found_by_email(sim: Simulator, shop: Sample) -> None:
    assert ask(sim, shop, lambda one: one.find("noor@example.com")) == []


# Situations


@pytest.mark.parametrize(
    ("situation", "status"),
    [
        ({"state": "active"}, "active"),
        ({"state": "active", "token": True}, "active"),
        ({"state": "active", "due": False}, "active"),
        ({"state": "past_due", "method": "bank_debit"}, "past_due"),
        ({"state": "cancelled", "method": "pay_later"}, "cancelled"),
        ({"state": "active", "token": False}, "active"),
        ({"state": "past_due", "object": "shared_token"}, "past_due"),
    ],
)
def test_situations_are_staged_and_told(
    sim: Simulator, shop: Sample, situation: dict[str, Any], status: str
) -> None:
    ref = staged(sim, shop, **situation)
    assert isinstance(ref.known, SubscriptionRecord)
    assert (ref.known.status, ref.known.email) == (status, "maya@example.com")
    assert ref.known.method is not None
    assert ref.known.method.kind == situation.get("method", "card")
    shared = situation.get("token") is False or "object" in situation
    assert (ref.known.method.remote_id is None, ref.known.object == "shared_token") == (shared, shared)
    assert sim.standing(ref.id).charges == (status == "active")


@pytest.mark.parametrize(
    "situation",
    [
        *(
            {"state": state}
            for state in ("trialing", "paused", "cancels_at_period_end", "expired", "incomplete")
        ),
        *(
            {"due": True},
            {"method": "upi"},
            {"object": "agreement"},
            {"object": "shared_token", "token": True},
        ),
    ],
)
def test_what_klarna_cannot_have_is_not_staged(
    sim: Simulator, shop: Sample, situation: dict[str, Any]
) -> None:
    assert sim.stage(shop, "maya@example.com", Situation(**situation)) is None


def test_a_classic_shop_tells_no_token_so_nothing_is_staged(sim: Simulator) -> None:
    assert sim.stage(opened(sim, 2), "maya@example.com", Situation()) is None


def test_an_unknown_subscription_has_no_standing(sim: Simulator, shop: Sample) -> None:
    with pytest.raises(KeyError):
        sim.standing("nobody")


# Cancelling


@pytest.mark.parametrize("state", ["active", "past_due"])
def test_cancel_ends_the_token_in_klarnas_own_time(sim: Simulator, shop: Sample, state: str) -> None:
    ref = staged(sim, shop, state=state)
    after = ask(sim, shop, lambda one: one.cancel_now(ref, "portal-1"))
    record = after.subscription(ref.id)
    assert record is not None
    assert record.status != "cancelled"  # not shown as done before Klarna says so
    assert "billing" in after.tell
    assert not sim.standing(ref.id).charges
    assert fetch(sim, shop, ref).status == "cancelled"


def test_a_cancel_that_klarna_carries_out_at_once_is_proved_at_once(sim: Simulator, shop: Sample) -> None:
    ref, sim.cancel_takes = staged(sim, shop), 0
    record = ask(sim, shop, lambda one: one.cancel_now(ref, "portal-1")).subscription(ref.id)
    assert record is not None
    assert record.status == "cancelled"


def test_cancelling_twice_calls_once(sim: Simulator, shop: Sample) -> None:
    ref = staged(sim, shop)
    for _ in range(3):
        ask(sim, shop, lambda one: one.cancel_now(ref, "portal-1"))
    assert fetch(sim, shop, ref).status == "cancelled"
    assert len([call for call in sim.calls if call.method == "PATCH"]) <= 2


def test_a_declined_cancel_changes_nothing(sim: Simulator, shop: Sample) -> None:
    ref = staged(sim, shop)
    sim.switch("decline")
    with pytest.raises(Declined) as caught:
        ask(sim, shop, lambda one: one.cancel_now(ref, "portal-1"))
    assert caught.value.reason == "NOT_ALLOWED"
    assert sim.standing(ref.id).charges


def test_a_shared_token_is_never_ended(sim: Simulator, shop: Sample) -> None:
    ref = staged(sim, shop, token=False)
    with pytest.raises(base.Unsupported):
        ask(sim, shop, lambda one: one.cancel_now(ref, "portal-1"))
    assert sim.standing(ref.id).charges


def test_a_cancel_whose_answer_never_comes_has_had_its_effect(sim: Simulator, shop: Sample) -> None:
    ref = staged(sim, shop)
    sim.fail_next = ["", "timeout_after"]
    with pytest.raises(Unavailable) as caught:
        ask(sim, shop, lambda one: one.cancel_now(ref, "portal-1"))
    assert caught.value.sent
    fetch(sim, shop, ref)
    assert fetch(sim, shop, ref).status == "cancelled"


def test_the_shop_that_goes_on_charging_is_seen(sim: Simulator, shop: Sample) -> None:
    ref = staged(sim, shop)
    ask(sim, shop, lambda one: one.cancel_now(ref, "portal-1"))
    assert fetch(sim, shop, ref).status == "cancelled"
    sim.charge(ref.id)
    told = learned(sim, shop, sim.sent[-1].headers, sim.sent[-1].body)
    assert told.payments[0].status == "paid"
    assert told.payments[0].subscription == ref.id
    record = told.subscription(ref.id)
    assert record is not None
    assert record.status == "cancelled"


# A new token on the hosted page


class Form(HTMLParser):
    """The buttons and fields of a page as somebody sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.buttons: dict[str, tuple[str, str]] = {}
        self.fields: dict[str, str] = {}
        self._select = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if tag == "button":
            self.buttons[said["data-test"]] = (said["name"], said["value"])
        elif tag == "select":
            self._select = said["name"]
        elif tag == "option":
            self.fields.setdefault(self._select, said["value"])


def visit(url: str, button: str) -> str:
    """Where pressing a button on the hosted page leads."""
    with httpx.Client(trust_env=False) as browser:
        shown = browser.get(url)
        assert shown.status_code == 200
        assert "<script" not in shown.text
        form = Form(shown.text)
        name, value = form.buttons[button]
        answer = browser.post(url, data={**form.fields, name: value})
    assert answer.status_code == 303
    return answer.headers["location"]


def left(sim: Simulator, sample: Sample, ref: Ref) -> Leave:
    leave = ask(sim, sample, lambda one: one.start_method_update(ref, RETURN, "portal-1"))
    assert facts("klarna").allows_link(leave.url, {"pay.klarna.com": sim.address})
    return leave


def came_back(sim: Simulator, sample: Sample, ref: Ref, leave: Leave) -> Snapshot:
    return ask(sim, sample, lambda one: one.finish_method_update(ref, leave.state, {}))


def test_who_agrees_gets_a_new_token_and_the_merchant_a_request(sim: Simulator) -> None:
    sample = opened(sim, 3)
    ref = staged(sim, sample)
    leave = left(sim, sample, ref)
    assert visit(leave.url, "accept") == RETURN
    after = came_back(sim, sample, ref, leave)
    record = after.subscription(ref.id)
    assert record is not None
    assert record.method is not None
    assert isinstance(ref.known, SubscriptionRecord)
    assert ref.known.method is not None
    assert record.method.remote_id != ref.known.method.remote_id
    assert (record.method.brand, record.method.last4) == ("MASTERCARD", "5100")
    assert str(record.method.remote_id) in after.ask
    newer = replace(ref, known=replace(ref.known, method=record.method))
    assert fetch(sim, sample, newer).method == record.method
    ask(sim, sample, lambda one: one.cancel_now(newer, "portal-2"))
    assert fetch(sim, sample, newer).status == "cancelled"
    assert not sim.standing(ref.id).charges  # the former token is ended too: the shop may still charge it


def test_a_shop_that_adopts_the_new_token_goes_on_under_its_id(sim: Simulator) -> None:
    sample = opened(sim, 3)
    ref = staged(sim, sample)
    leave = left(sim, sample, ref)
    visit(leave.url, "accept")
    record = came_back(sim, sample, ref, leave).subscription(ref.id)
    assert record is not None
    assert record.method is not None
    assert isinstance(ref.known, SubscriptionRecord)
    newer = replace(ref, known=replace(ref.known, method=record.method))
    moved_to = sim.adopt(ref.id, str(record.method.remote_id))
    former, moved = ask(sim, sample, lambda one: one.fetch(newer)).subscriptions
    assert (former.remote_id, former.status) == (ref.id, "cancelled")
    assert (moved.remote_id, moved.status, moved.title) == (moved_to, "active", "Coffee club")
    sim.charge(moved_to)
    told = learned(sim, sample, sim.sent[-1].headers, sim.sent[-1].body)
    assert [one.remote_id for one in told.subscriptions] == [moved_to]


@pytest.mark.parametrize("button", ["decline", "back"])
def test_who_refuses_or_turns_back_keeps_the_old_token(sim: Simulator, button: str) -> None:
    sample = opened(sim, 3)
    ref = staged(sim, sample)
    leave = left(sim, sample, ref)
    assert visit(leave.url, button) == RETURN
    with pytest.raises(Declined):
        came_back(sim, sample, ref, leave)
    assert sim.standing(ref.id).charges


def test_a_page_that_declines_leads_back_without_a_token(sim: Simulator) -> None:
    sample = opened(sim, 3)
    ref = staged(sim, sample)
    leave = left(sim, sample, ref)
    sim.switch("decline")
    assert visit(leave.url, "accept") == RETURN
    sim.switch("ok")
    with pytest.raises(Declined):
        came_back(sim, sample, ref, leave)


def test_a_return_without_a_visit_changes_nothing(sim: Simulator) -> None:
    sample = opened(sim, 3)
    ref = staged(sim, sample)
    after = came_back(sim, sample, ref, left(sim, sample, ref)).subscription(ref.id)
    assert isinstance(ref.known, SubscriptionRecord)
    assert after is not None
    assert after.method == ref.known.method


def test_an_authorisation_is_good_for_an_hour_and_once(sim: Simulator) -> None:
    sample = opened(sim, 3)
    ref = staged(sim, sample)
    leave, late = left(sim, sample, ref), left(sim, sample, ref)
    visit(leave.url, "accept")
    visit(late.url, "accept")
    came_back(sim, sample, ref, leave)
    with pytest.raises(Declined):
        came_back(sim, sample, ref, leave)
    clock.set_offset(clock.offset() + timedelta(minutes=61))
    with pytest.raises(Declined):
        came_back(sim, sample, ref, late)


def test_a_declined_session_is_declined(sim: Simulator) -> None:
    sample = opened(sim, 3)
    ref = staged(sim, sample)
    sim.switch("decline")
    with pytest.raises(Declined):
        left(sim, sample, ref)


def test_pages_say_when_they_are_over(sim: Simulator) -> None:
    sample = opened(sim, 3)
    leave = left(sim, sample, staged(sim, sample))
    visit(leave.url, "accept")
    assert "This is done" in httpx.get(leave.url, trust_env=False).text
    assert httpx.get(f"{sim.address}/eu/hpp/payments/nothing", trust_env=False).status_code == 404
    assert httpx.post(f"{sim.address}/eu/hpp/payments/nothing", trust_env=False).status_code == 404


# Time


def test_the_shop_charges_when_the_day_has_come(sim: Simulator, shop: Sample) -> None:
    ref = staged(sim, shop)
    before = sim.standing(ref.id)
    assert before.next_on is not None
    clock.set_offset(clock.offset() + timedelta(days=32))
    sim.tick()
    after = sim.standing(ref.id)
    assert after.payments == before.payments + 1
    mine = [body for body in (json.loads(one.body) for one in sim.sent) if ref.id.startswith(_token(body))]
    assert len(mine) == 2
    told = learned(
        sim, shop, *next((one.headers, one.body) for one in sim.sent if json.loads(one.body) == mine[-1])
    )
    record = told.subscription(ref.id)
    assert record is not None
    assert record.next_payment is not None
    assert record.next_payment.on == after.next_on
    sim.tick()
    assert sim.standing(ref.id).payments == after.payments


def _token(body: Mapping[str, Any]) -> str:
    return str(body["payload"].get("klarna_customer", {}).get("customer_token", "none"))


def test_a_failed_charge_suspends_the_token_and_is_seen_at_the_next_look(
    sim: Simulator, shop: Sample
) -> None:
    ref = staged(sim, shop)
    sim.charge(ref.id, succeeds=False)
    (event,) = gateway_of(sim, shop).verify(
        list(sim.sent[-1].headers.items()), sim.sent[-1].body, clock.now()
    )
    assert event.type == "payment.request.state-change.declined"
    record = fetch(sim, shop, ref)
    assert (record.status, record.stopped) == ("past_due", True)
    assert not sim.standing(ref.id).charges


def test_what_was_captured_is_paid_out_a_day_later(sim: Simulator, shop: Sample) -> None:
    staged(sim, shop)
    order = list(sim.account(shop)["orders"])[-1]
    assert order not in {one.remote_id for page in backfilled(sim, shop) for one in page.snapshot.orders}
    clock.set_offset(clock.offset() + timedelta(days=3))
    sim.tick()
    assert order in {one.remote_id for page in backfilled(sim, shop) for one in page.snapshot.orders}


def test_authorisations_expire_and_reviews_end(sim: Simulator, shop: Sample) -> None:
    orders = sim.account(shop)["orders"]
    pending = next(name for name, one in orders.items() if one["fraud_status"] == "PENDING")
    clock.set_offset(clock.offset() + timedelta(days=1))
    sim.tick()
    snapshot = ask(sim, shop, lambda one: one.fetch(Ref("payment", pending)))
    assert snapshot.payments[0].status == "authorized"
    clock.set_offset(clock.offset() + timedelta(days=30))
    sim.tick()
    assert ask(sim, shop, lambda one: one.fetch(Ref("order", pending))).orders[0].status == "expired"


def test_a_review_is_told_to_a_classic_shop_in_klarnas_words(sim: Simulator) -> None:
    opened(sim, 2)
    clock.set_offset(clock.offset() + timedelta(days=1))
    sim.tick()
    said = [json.loads(one.body) for one in sim.sent]
    assert [one["event_type"] for one in said if "event_type" in one] == ["FRAUD_RISK_ACCEPTED"]


# Deliveries


def test_every_forgery_is_refused_and_there_are_enough(sim: Simulator, shop: Sample) -> None:
    staged(sim, shop)
    delivery = sim.sent[-1]
    one = gateway_of(sim, shop)
    assert one.verify(list(delivery.headers.items()), delivery.body, clock.now())
    forgeries = sim.forgeries(shop, delivery)
    assert len(forgeries) >= 35
    assert len({forgery.what for forgery in forgeries}) == len(forgeries)
    for forgery in forgeries:
        with pytest.raises(BadSignature):
            one.verify(forgery.headers, forgery.body, clock.now())


def test_another_shops_true_delivery_is_refused(sim: Simulator, shop: Sample) -> None:
    stranger = opened(sim, 1)
    staged(sim, stranger)
    with pytest.raises(BadSignature):
        gateway_of(sim, shop).verify(list(sim.sent[-1].headers.items()), sim.sent[-1].body, clock.now())


def test_the_signature_is_the_published_one() -> None:
    known = "b82fcb791acec57859b989b430a826488ce2e479fdf92326bd0a2e8375a42ba4"
    assert sign("secret", b"payload") == known  # worked out with openssl dgst -sha256 -hmac


def test_classic_deliveries_are_unsigned_and_forged_ones_are_without_effect(sim: Simulator) -> None:
    classic = opened(sim, 2)
    (headers, body), *_ = sim.past_deliveries(classic)
    delivery = Delivery("", dict(headers), body)
    assert sim.proof_of(delivery) is None
    assert sim.forgeries(classic, delivery) == []
    invented = json.dumps(
        {"order_id": "de305d54-75b4-431b-adb2-eb6b9e546014", "event_type": "FRAUD_RISK_ACCEPTED"}
    )
    before = copy.deepcopy(sim.state)
    with pytest.raises(Gone):
        learned(sim, classic, {}, invented.encode())
    assert sim.state == before


def test_webhooks_are_sent_to_the_address_of_the_account(sim: Simulator) -> None:
    class Ear(Simulator):
        """Another simulator whose log of calls shows what was delivered."""

    ear = Ear(clock.now)
    with Servers([ear]):
        sample = sim.samples()[0]
        sim.open(sample, f"{ear.address}/webhooks/token")
        sim.stage(sample, "maya@example.com", Situation())
        sim.switch("duplicate")
        sim.stage(sample, "maya@example.com", Situation())
        sim.switch("lose_webhooks")
        sim.stage(sample, "maya@example.com", Situation())
        for _ in range(100):
            if len(ear.calls) >= 3:
                break
            time.sleep(0.02)
    assert len(ear.calls) == 3
    assert ear.calls[1].body == ear.calls[2].body
    for call in ear.calls:
        pairs = list(call.headers.items())
        assert gateway_of(sim, sample).verify(pairs, call.body, clock.now())


# Faults


@pytest.mark.parametrize("fault", ["500", "429:7", "401", "html", "empty", "truncated"])
@pytest.mark.parametrize("kind", ["subscription", "order"])
def test_an_answer_that_is_none_is_an_outage(sim: Simulator, shop: Sample, kind: Any, fault: str) -> None:
    sim.contract = None
    ref = staged(sim, shop) if kind == "subscription" else Ref(kind, next(iter(sim.account(shop)["orders"])))
    sim.fail_next = [fault]
    with pytest.raises(Unavailable) as caught:
        ask(sim, shop, lambda one: one.fetch(ref))
    assert not caught.value.sent
    assert caught.value.retry_after == (7 if fault == "429:7" else None)


@pytest.mark.parametrize("fault", ["wrong_types", "missing_fields", "unknown_status"])
def test_a_spoiled_answer_about_a_token_says_less(sim: Simulator, shop: Sample, fault: str) -> None:
    sim.contract = None
    ref = staged(sim, shop)
    sim.fail_next = [fault]
    record = fetch(sim, shop, ref)
    raw = {"wrong_types": "7", "missing_fields": None, "unknown_status": "a_word_of_tomorrow"}
    assert (record.status, record.raw_status) == (None, raw[fault])


@pytest.mark.parametrize("fault", ["wrong_types", "missing_fields"])
def test_an_answer_without_its_order_id_is_about_no_order(sim: Simulator, shop: Sample, fault: str) -> None:
    sim.contract = None
    sim.fail_next = [fault]
    with pytest.raises(Unavailable):
        ask(sim, shop, lambda one: one.fetch(Ref("order", next(iter(sim.account(shop)["orders"])))))


def test_an_unknown_state_of_an_order_keeps_the_last_known_one(sim: Simulator, shop: Sample) -> None:
    sim.contract = None
    sim.fail_next = ["unknown_status"]
    order = Ref("order", next(iter(sim.account(shop)["orders"])))
    (record,) = ask(sim, shop, lambda one: one.fetch(order)).orders
    assert (record.status, record.raw_status) == (None, "a_word_of_tomorrow")


@pytest.mark.parametrize(
    "fault", ["html", "empty", "truncated", "wrong_types", "missing_fields", "unknown_status"]
)
def test_a_spoiled_answer_in_a_backfill_never_ends_it_early(sim: Simulator, shop: Sample, fault: str) -> None:
    sim.contract = None
    for calls in range(3):
        sim.fail_next = [*[""] * calls, fault]
        try:
            pages = backfilled(sim, shop)
        except Unavailable:
            continue
        assert fault in ("unknown_status", "missing_fields", "wrong_types")
        assert pages[-1].cursor is None


@pytest.mark.parametrize("fault", ["500", "429:7", "401", "html", "empty", "timeout_after"])
def test_a_fault_of_the_cancel_itself(sim: Simulator, shop: Sample, fault: str) -> None:
    sim.contract = None
    ref = staged(sim, shop)
    sim.fail_next = ["", fault]
    if fault in ("html", "empty"):  # a 202 is all that its answer says
        ask(sim, shop, lambda one: one.cancel_now(ref, "portal-1"))
        assert not sim.standing(ref.id).charges
        return
    with pytest.raises(Unavailable) as caught:
        ask(sim, shop, lambda one: one.cancel_now(ref, "portal-1"))
    assert caught.value.sent == (fault in ("500", "timeout_after"))
    assert sim.standing(ref.id).charges == (fault != "timeout_after")


@pytest.mark.parametrize(
    "fault", ["500", "429:7", "401", "html", "empty", "truncated", "wrong_types", "missing_fields"]
)
def test_a_fault_on_the_way_to_the_hosted_page(sim: Simulator, fault: str) -> None:
    sample = opened(sim, 3)
    ref = staged(sim, sample)
    sim.contract = None
    for calls in range(2):
        sim.fail_next = [*[""] * calls, fault]
        with pytest.raises((Unavailable, Declined, Gone)):
            ask(sim, sample, lambda one: one.start_method_update(ref, RETURN, "portal-1"))
        http._breakers.clear()


@pytest.mark.parametrize("fault", ["500", "429:7", "401", "html", "empty", "truncated", "missing_fields"])
def test_a_fault_when_the_new_token_is_made(sim: Simulator, fault: str) -> None:
    sample = opened(sim, 3)
    ref = staged(sim, sample)
    leave = left(sim, sample, ref)
    visit(leave.url, "accept")
    sim.contract = None
    sim.fail_next = ["", fault]
    with pytest.raises(Unavailable) as caught:
        came_back(sim, sample, ref, leave)
    assert caught.value.sent == (fault not in ("429:7", "401"))


def test_an_outage_leaves_pages_alone_and_stops_everything_else(sim: Simulator) -> None:
    sample = opened(sim, 3)
    ref = staged(sim, sample)
    leave = left(sim, sample, ref)
    sim.switch("down")
    assert visit(leave.url, "accept") == RETURN
    with pytest.raises(Unavailable):
        fetch(sim, sample, ref)


# The harness


def test_the_state_can_be_kept_and_brought_back(sim: Simulator, shop: Sample) -> None:
    pickle.loads(pickle.dumps(sim.state))
    before = copy.deepcopy(sim.state)
    sim.save()
    ref = staged(sim, shop)
    ask(sim, shop, lambda one: one.cancel_now(ref, "portal-1"))
    assert sim.state != before
    sim.reset()
    assert sim.state == before
    with pytest.raises(KeyError):
        sim.standing(ref.id)


def test_every_capability_with_a_method_was_shown() -> None:
    """What the adapter has of the contract's methods is what these tests have called."""
    has = {
        name
        for names in METHODS.values()
        for name in names
        if getattr(Adapter, name) is not getattr(Gateway, name)
    }
    assert has == {"cancel_now", "start_method_update", "finish_method_update"}


@pytest.mark.skipif(not SPEC.exists(), reason="the contract of Klarna's APIs is not here")
def test_requests_and_answers_are_held_against_the_contract(sim: Simulator) -> None:
    sample = opened(sim, 3)
    check = held(SPEC)
    seen: list[str] = []

    def watching(exchange: Exchange) -> list[str]:
        seen.append(f"{exchange.method} {re.sub(r'[0-9a-f]{8}-[0-9a-f-]{27}', '…', exchange.path)}")
        return check(exchange)

    sim.contract = watching
    ref = staged(sim, sample)
    ask(sim, sample, lambda one: one.check())
    backfilled(sim, sample)
    leave = left(sim, sample, ref)
    visit(leave.url, "accept")
    came_back(sim, sample, ref, leave)
    ask(sim, sample, lambda one: one.cancel_now(ref, "portal-1"))
    assert sim.problems == []
    assert set(seen) == {
        "GET /ordermanagement/v1/orders/…",
        "GET /customer-token/v1/tokens/…",
        "PATCH /customer-token/v1/tokens/…/status",
        "POST /payments/v1/sessions",
        "POST /payments/v1/authorizations/…/customer-token",
        "POST /hpp/v1/sessions",
        "GET /hpp/v1/sessions/…",
        "GET /settlements/v1/payouts",
        "GET /settlements/v1/transactions",
        "GET /v2/notification/signing-keys",
    }


@pytest.mark.skipif(not SPEC.exists(), reason="the contract of Klarna's APIs is not here")
def test_the_contract_would_notice_what_is_wrong() -> None:
    check = held(SPEC)
    wrong = Exchange("PATCH", "/customer-token/v1/tokens/x/status", "", {"content-type": "application/json"},
                     b'{"status": "PAUSED"}', 202, "", b"")  # fmt: skip
    assert check(wrong)
    unknown = replace(wrong, method="DELETE", body=b"")
    assert check(unknown)


# The webhook that is registered

HERE = "https://pay.example/webhooks/abc"


def registered(sim: Simulator, sample: Sample, **other: str) -> Registration:
    return ask(sim, sample, lambda one: one.register_webhook(HERE, "wish-1"), **other)


def test_a_webhook_is_made_tested_and_removed_with_the_key_that_is_known(sim: Simulator) -> None:
    shop = opened(sim, 0, filled=False)
    account = sim.account(shop)
    made = registered(sim, shop)
    hook = account["hooks"][made.remote_id]
    assert hook["event_types"] == list(_klarna_webhooks.EVENTS)
    names = ("signing_key_id", "signing_key")
    assert dict(made.credentials) == {name: shop.credentials[name] for name in names}
    kind = ask(sim, shop, lambda one: one.send_test_event(made.remote_id))
    assert kind == "payment.request.state-change.completed"
    sent = sim.sent[-1]
    (event,) = gateway_of(sim, shop).verify(list(sent.headers.items()), sent.body, clock.now())
    assert (sent.url, event.type) == (HERE, kind)
    with pytest.raises(Gone):  # it is about a payment that there is not
        ask(sim, shop, lambda one: one.refetch(event))
    ask(sim, shop, lambda one: one.unregister_webhook(made.remote_id))
    assert made.remote_id not in account["hooks"]


def test_a_webhook_that_is_right_is_only_looked_at(sim: Simulator) -> None:
    shop = opened(sim, 0, filled=False)
    made = registered(sim, shop)
    sim.calls.clear()
    assert registered(sim, shop) == made
    assert {one.method for one in sim.calls} == {"GET"}


@pytest.mark.parametrize("other", [{"signing_key_id": "", "signing_key": ""}, {"signing_key": ""}])
def test_without_a_whole_key_a_new_one_is_made(sim: Simulator, other: dict[str, str]) -> None:
    shop = opened(sim, 0, filled=False)
    made = registered(sim, shop, **other)
    keys, hook = sim.account(shop)["keys"], sim.account(shop)["hooks"][made.remote_id]
    assert made.credentials["signing_key_id"] == hook["signing_key_id"] != shop.credentials["signing_key_id"]
    assert made.credentials["signing_key"] == keys[hook["signing_key_id"]]["text"]
    assert set(made.credentials) == {"signing_key_id", "signing_key"}


def test_a_key_that_klarna_does_not_know_any_more_is_replaced_and_kept_beside(sim: Simulator) -> None:
    shop = opened(sim, 0, filled=False)
    sim.account(shop)["keys"].clear()
    sim.account(shop)["hooks"].clear()
    made = registered(sim, shop)
    assert made.credentials["signing_key_id_old"] == shop.credentials["signing_key_id"]
    assert made.credentials["signing_key_old"] == shop.credentials["signing_key"]
    assert made.credentials["signing_key_id"] != shop.credentials["signing_key_id"]


@pytest.mark.parametrize(
    "change",
    [
        {"status": "DISABLED"},
        {"event_types": ["payment.request.state-change.expired"]},
        {"event_version": "v1"},
        {"signing_key_id": "krn:partner:global:notification:signing-key:another"},
    ],
)
def test_a_webhook_that_is_not_right_is_replaced(sim: Simulator, change: dict[str, Any]) -> None:
    """The first is refused as one that is there already: then the former goes before the new one comes."""
    shop = opened(sim, 0, filled=False)
    account = sim.account(shop)
    former = registered(sim, shop)
    account["hooks"][former.remote_id] |= change
    made = registered(sim, shop)
    assert [name for name, one in account["hooks"].items() if one["url"] == HERE] == [made.remote_id]
    assert made.remote_id != former.remote_id
    assert account["hooks"][made.remote_id]["status"] == "ENABLED"
    assert made.note == ""


def test_a_classic_account_is_told_what_to_do_by_hand(sim: Simulator) -> None:
    shop = opened(sim, 2, filled=False)
    for wish in (
        lambda one: one.register_webhook(HERE, "wish-1"),
        lambda one: one.unregister_webhook("krn:x"),
        lambda one: one.send_test_event("krn:x"),
    ):
        with pytest.raises(Unsupported) as caught:
            ask(sim, shop, wish)
        assert "push address with every order" in caught.value.hint
    assert sim.calls == []


def test_a_merchant_who_is_no_partner_is_told_the_other_way(sim: Simulator) -> None:
    shop = opened(sim, 0, filled=False)
    sim.account(shop)["signing"] = None
    for wish in (
        lambda one: one.register_webhook(HERE, "wish-1"),
        lambda one: one.unregister_webhook("krn:x"),
        lambda one: one.send_test_event("krn:x"),
    ):
        with pytest.raises(Unavailable) as caught:
            ask(sim, shop, wish)
        assert "Notification API" in caught.value.hint
        assert "partner portal" in caught.value.hint


def test_a_former_webhook_that_stays_is_told_and_the_key_is_not_lost(sim: Simulator) -> None:
    shop = opened(sim, 0, filled=False)
    former = registered(sim, shop)
    sim.account(shop)["hooks"][former.remote_id]["event_types"] = ["payment.*"]
    sim.fail_writes = ["", "500"]
    made = registered(sim, shop)
    assert former.remote_id in made.note
    assert made.credentials["signing_key"] not in made.note
