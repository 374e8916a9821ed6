"""The adapter against the simulated Adyen: every capability, the hosted pages, faults, and webhooks true and forged."""

import asyncio
import json
import pickle
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import httpx2 as httpx
import jsonschema_rs
import pytest

from portal import clock
from portal.gateways import _adyen, _adyen_webhooks
from portal.gateways import gateway as make_gateway
from portal.gateways.adyen import Adapter
from portal.gateways.base import (
    BadSignature,
    Declined,
    Gateway,
    Gone,
    Leave,
    Method,
    Ref,
    Registration,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import facts
from portal.money import Money
from seeds.simulators.adyen import Simulator
from seeds.simulators.harness import Delivery, Exchange, Sample, Servers, Situation
from tests.conftest import SHARED
from tests.contracts import openapi

SPECS = SHARED / "specs" / "adyen"
SITUATIONS = [
    Situation("active"),
    Situation("active", method="bank_debit"),
    Situation("active", method="wallet"),
    Situation("past_due", due=True),
    Situation("cancelled"),
]
BACK = "https://pay.books.example/customers/return/abc"
Result = TypeVar("Result")


@pytest.fixture(scope="module")
def served() -> Iterator[Simulator]:
    simulator = Simulator(clock.now)
    if (SPECS / "CheckoutService-v72.json").exists():
        known = openapi(SPECS / "CheckoutService-v72.json")
        managed = openapi(SPECS / "ManagementService-v3.json.gz")

        def contract(exchange: Exchange) -> list[str]:
            if exchange.path.startswith("/v3/"):
                return managed(exchange)
            return known(replace(exchange, path=exchange.path.removeprefix("/checkout")))

        simulator.contract = contract
    with Servers([simulator]):
        yield simulator


@pytest.fixture(scope="module")
def client() -> Callable[..., httpx.AsyncClient]:
    """Certificates are read once for all the gateways of this file, which is most of what one of them costs."""
    return partial(httpx.AsyncClient, verify=httpx.create_ssl_context())


@pytest.fixture
def adyen(
    served: Simulator, client: Callable[..., httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Simulator]:
    """All accounts opened, nothing in them; what was asked and answered must be as the contract has it."""
    monkeypatch.setattr("portal.gateways.http.httpx.AsyncClient", client)
    served.state = Simulator().state
    served.save()
    served.reset()
    for sample in served.samples():
        served.open(sample, "")
    yield served
    assert served.problems == []


def ask(
    adyen: Simulator, do: Callable[[Gateway], Awaitable[Result]], sample: Sample | None = None, **other: str
) -> Result:
    """One use of an adapter; `other` credentials in place of the sample's."""
    credentials = {**(sample or adyen.samples()[0]).credentials, **other}

    async def use() -> Result:
        gateway = make_gateway("adyen", credentials, simulator=adyen.address)
        try:
            return await do(gateway)
        finally:
            await gateway.aclose()

    return asyncio.run(use())


def learn(adyen: Simulator, deliveries: list[tuple[list[tuple[str, str]], bytes]]) -> list[Snapshot]:
    """What the deliveries tell, verified and looked after as the worker does it, without rows."""

    async def look(gateway: Gateway) -> list[Snapshot]:
        events = [
            event for headers, body in deliveries for event in gateway.verify(headers, body, clock.now())
        ]
        return [found for event in events if (found := await gateway.refetch(event)) is not None]

    return ask(adyen, look)


def sent(adyen: Simulator) -> list[tuple[list[tuple[str, str]], bytes]]:
    return [(list(delivery.headers.items()), delivery.body) for delivery in adyen.sent]


def known(adyen: Simulator, remote_id: str) -> Ref:
    """The reference of a subscription as rows that have learned from all webhooks know it."""
    merged: dict[str, Any] = {}
    for snapshot in sorted(learn(adyen, sent(adyen)), key=lambda one: one.as_of):
        for record in snapshot.subscriptions:
            if record.remote_id == remote_id:
                merged |= {name: getattr(record, name) for name in record.knows or ()}
    return Ref("subscription", remote_id, SubscriptionRecord(remote_id=remote_id, **merged))


def stage(adyen: Simulator, situation: Situation = SITUATIONS[0]) -> Ref:
    remote_id = adyen.stage(adyen.samples()[0], "ana@example.com", situation)
    assert remote_id is not None
    return known(adyen, remote_id)


def press(adyen: Simulator, leave: Leave, do: str, **more: str) -> httpx.Response:
    """Open a hosted page and press a button of it."""
    assert facts("adyen").allows_link(leave.url, {"simulator": adyen.address})
    with httpx.Client(trust_env=False, verify=False) as browser:
        shown = browser.get(leave.url)
        assert shown.status_code == 200
        assert f'data-test="{do}"' in shown.text
        chosen = shown.text.partition('" checked')[0].rpartition('value="')[2]
        form = {"do": do} | ({"card": chosen} if chosen.isdigit() else {}) | more
        return browser.post(leave.url, data=form)


def pay(adyen: Simulator, ref: Ref) -> Leave:
    leave = ask(adyen, lambda gateway: gateway.pay_now(ref, BACK, "key-1"))
    assert isinstance(leave, Leave)
    return leave


def query_of(answer: httpx.Response) -> dict[str, str]:
    return dict(httpx.URL(answer.headers["location"]).params)


def changes(adyen: Simulator) -> list[str]:
    return [call.method for call in adyen.calls if call.method == "DELETE"]


def only(snapshot: Snapshot) -> SubscriptionRecord:
    (record,) = snapshot.subscriptions
    return record


# Accounts


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_keys_of_every_sample_are_good_and_fit_their_patterns(adyen: Simulator, number: int) -> None:
    sample = adyen.samples()[number]
    patterns = {one.name: one.pattern for one in facts("adyen").credentials}
    assert all(re.fullmatch(patterns[name], value) for name, value in sample.credentials.items())
    health = ask(adyen, lambda gateway: gateway.check(), sample)
    assert (health.ok, health.live, health.missing, health.hint) == (True, number == 2, (), None)
    assert health.account == sample.credentials["merchant_account"]


@pytest.mark.parametrize(("role", "missing"), [("checkout", "Checkout"), ("recurring", "Recurring")])
def test_a_key_without_a_role_is_told_with_the_roles_name(adyen: Simulator, role: str, missing: str) -> None:
    adyen.account(adyen.samples()[0]).roles.remove(role)
    health = ask(adyen, lambda gateway: gateway.check())
    assert not health.ok
    assert [missing in name for name in health.missing] == [True]


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"api_key": "AQE-not-a-key-of-anybody"}, "401"),
        ({"merchant_account": "HarbourPrintsECOM"}, "901"),
        ({"live_prefix": "7f3c2a91d0b84e65-CedarBooks"}, "401"),
        ({"live_prefix": "evil.example/x?"}, "prefix"),
    ],
)
def test_wrong_keys_are_no_outage(adyen: Simulator, wrong: dict[str, str], hint: str) -> None:
    health = ask(adyen, lambda gateway: gateway.check(), None, **wrong)
    assert not health.ok
    assert hint in str(health.hint)


def test_check_asks_for_the_password_without_which_nobody_is_believed(adyen: Simulator) -> None:
    health = ask(adyen, lambda gateway: gateway.check(), webhook_username="", webhook_password="")
    assert health.ok
    assert "user name and password" in str(health.hint)


def test_check_changes_nothing_and_an_outage_is_one(adyen: Simulator) -> None:
    ask(adyen, lambda gateway: gateway.check())
    assert [(call.method, call.path) for call in adyen.calls] == [
        ("POST", "/v72/paymentMethods"),
        ("GET", "/v72/storedPaymentMethods"),
    ]
    adyen.switch("down")
    with pytest.raises(Unavailable):
        ask(adyen, lambda gateway: gateway.check())
    adyen.problems.clear()


def test_there_is_nothing_to_fill_up_from_and_nobody_to_find(adyen: Simulator) -> None:
    adyen.fill(adyen.samples()[0])

    async def look(gateway: Gateway) -> tuple[list[Any], list[Ref]]:
        return [page async for page in gateway.backfill()], await gateway.find("noor@example.com")

    assert ask(adyen, look) == ([], [])
    assert adyen.calls == []


# What the webhooks of the past tell


def test_the_past_of_an_account_is_learned_from_its_webhooks(adyen: Simulator) -> None:
    adyen.fill(adyen.samples()[0])
    assert adyen.sent == []
    snapshots = learn(adyen, adyen.past_deliveries(adyen.samples()[0]))
    emails = {one.remote_id: one.email for snapshot in snapshots for one in snapshot.customers if one.email}
    latest = {one.remote_id: one for snapshot in snapshots for one in snapshot.subscriptions if one.status}
    assert sorted(str(one.status) for one in latest.values()) == [
        *("active", "active", "active", "active", "cancelled", "past_due"),
    ]
    noors = [one for one in latest.values() if emails.get(one.customer or "") == "noor@example.com"]
    assert [(one.status, one.amount) for one in noors] == [("active", Money(1290, "EUR"))]
    orders = {one.remote_id: one for snapshot in snapshots for one in snapshot.orders}
    assert (orders["CB-1001"].email, orders["CB-1001"].status) == ("noor@example.com", "paid")
    assert len(orders) == 13


def test_every_payment_is_as_its_last_event_says(adyen: Simulator) -> None:
    adyen.fill(adyen.samples()[0])
    snapshots = learn(adyen, adyen.past_deliveries(adyen.samples()[0]))
    ids = {one.order: one.remote_id for snapshot in snapshots for one in snapshot.payments if one.order}
    status = {one.remote_id: one.status for snapshot in snapshots for one in snapshot.payments if one.status}
    by_order = {order: status[ids[order]] for order in ids}
    assert {order: by_order[order] for order in sorted(by_order) if order.startswith("CB-100")} == {
        "CB-1001": "paid",
        "CB-1002": "paid",
        "CB-1003": "paid",
        "CB-1004": "paid",
        "CB-1005": "authorized",
        "CB-1006": "failed",
        "CB-1007": "disputed",
    } | {order: "paid" for order in by_order if order.startswith("CB-100") and len(order) > 7}


def test_refunds_are_told_and_one_that_failed_is_taken_back(adyen: Simulator) -> None:
    adyen.fill(adyen.samples()[0])
    snapshots = learn(adyen, adyen.past_deliveries(adyen.samples()[0]))
    refunds = {one.remote_id: one for snapshot in snapshots for one in snapshot.refunds}
    assert sorted((one.status, one.amount.minor) for one in refunds.values() if one.amount) == [
        *(("failed", 1250), ("sent", 2900), ("sent", 3000)),
    ]


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda one: f"{one.state}-{one.method or 'card'}")
def test_a_staged_subscription_is_learned_as_it_is(adyen: Simulator, situation: Situation) -> None:
    ref = stage(adyen, situation)
    record, true = ref.known, adyen.standing(ref.id)
    assert isinstance(record, SubscriptionRecord)
    assert record.status == situation.state
    assert true.charges == (situation.state != "cancelled")
    if situation.state == "cancelled":
        return
    assert record.method is not None
    assert (record.method.kind, record.method.remote_id) == (situation.method or "card", true.method)
    assert record.amount == Money(1290, "EUR")
    assert record.due == (Money(1290, "EUR") if situation.due else None)
    assert record.next_payment is None


@pytest.mark.parametrize(
    "situation",
    [
        Situation("trialing"),
        Situation("paused"),
        Situation("cancels_at_period_end"),
        Situation("active", method="upi"),
        Situation("active", object="agreement"),
        Situation("active", due=True),
        Situation("active", token=False),
    ],
)
def test_what_adyen_cannot_have_is_not_staged(adyen: Simulator, situation: Situation) -> None:
    assert adyen.stage(adyen.samples()[0], "ana@example.com", situation) is None


def test_renewals_come_with_the_days_and_stop_after_three_refusals(adyen: Simulator) -> None:
    ref = stage(adyen)
    clock.set_offset(timedelta(days=65))
    adyen.tick()
    assert adyen.standing(ref.id).payments == 3
    adyen.charge(ref.id, succeeds=False)
    clock.set_offset(timedelta(days=200))
    adyen.tick()
    true = adyen.standing(ref.id)
    assert (true.charges, true.payments) == (False, 3)
    assert getattr(known(adyen, ref.id).known, "status", None) == "past_due"


def test_a_charge_after_the_end_brings_nothing_back_and_is_told(adyen: Simulator) -> None:
    ref = stage(adyen, Situation("cancelled"))
    clock.set_offset(timedelta(days=2))
    adyen.charge(ref.id)
    headers, body = sent(adyen)[-1]

    async def look(gateway: Gateway) -> Snapshot | None:
        (event,) = gateway.verify(headers, body, clock.now())
        assert event.subject == ref
        return await gateway.refetch(replace(event, subject=ref))

    snapshot = ask(adyen, look)
    assert snapshot is not None
    assert only(snapshot).status == "cancelled"
    assert [(one.status, one.subscription) for one in snapshot.payments] == [("paid", ref.id)]


# Fetching


def test_fetch_says_nothing_of_the_last_charge(adyen: Simulator) -> None:
    ref = stage(adyen, Situation("past_due"))
    snapshot = ask(adyen, lambda gateway: gateway.fetch(ref))
    assert set(only(snapshot).knows or ()) == {"customer", "raw_status", "method"}
    assert only(snapshot).method == Method("card", "Visa", "1111", "2030-03", adyen.standing(ref.id).method)
    assert [one.email for one in snapshot.customers] == ["ana@example.com"]


def test_a_shopper_of_another_account_has_nothing_here(adyen: Simulator) -> None:
    ref = stage(adyen)
    stranger = adyen.samples()[1]
    with pytest.raises(Gone):
        ask(adyen, lambda gateway: gateway.fetch(Ref("customer", ref.id)), stranger)


@pytest.mark.parametrize("kind", ["payment", "order", "refund", "invoice"])
def test_nothing_else_can_be_fetched(adyen: Simulator, kind: Any) -> None:
    with pytest.raises(Unsupported):
        ask(adyen, lambda gateway: gateway.fetch(Ref(kind, "QFQTPCQ8HXSKGK82")))


# Cancelling


def test_cancel_deletes_what_could_be_charged_and_tells_the_merchant(adyen: Simulator) -> None:
    ref = stage(adyen)
    snapshot = ask(adyen, lambda gateway: gateway.cancel_now(ref, "key-1"))
    assert only(snapshot).status == "cancelled"
    assert not adyen.standing(ref.id).charges
    assert ref.id in snapshot.tell
    assert only(ask(adyen, lambda gateway: gateway.fetch(ref))).status == "cancelled"


def test_a_second_cancel_is_success_and_deletes_nothing(adyen: Simulator) -> None:
    ref = stage(adyen)
    ask(adyen, lambda gateway: gateway.cancel_now(ref, "key-1"))
    again = ask(adyen, lambda gateway: gateway.cancel_now(ref, "key-1"))
    assert (only(again).status, again.tell, changes(adyen)) == ("cancelled", "", ["DELETE"])


def test_a_live_account_is_asked_at_its_own_path(adyen: Simulator) -> None:
    live = adyen.samples()[2]
    remote_id = adyen.stage(live, "ana@example.com", Situation("active"))
    assert remote_id is not None
    snapshot = ask(adyen, lambda gateway: gateway.cancel_now(Ref("subscription", remote_id), "key-1"), live)
    assert only(snapshot).status == "cancelled"
    assert {call.path.split("/")[1] for call in adyen.calls} == {"checkout"}


def test_the_notice_of_a_deleted_method_ends_only_a_subscription_that_is_known(adyen: Simulator) -> None:
    ref = stage(adyen, Situation("cancelled"))
    headers, body = sent(adyen)[-1]

    async def look(gateway: Gateway) -> tuple[Snapshot | None, Snapshot | None]:
        (event,) = gateway.verify(headers, body, clock.now())
        assert event.subject == Ref("subscription", ref.id)
        return await gateway.refetch(event), await gateway.refetch(replace(event, subject=ref))

    unknown, ours = ask(adyen, look)
    assert unknown is None
    assert ours is not None
    assert only(ours).status == "cancelled"


def test_where_no_method_was_ever_seen_nothing_is_concluded(adyen: Simulator) -> None:
    imported = Ref("subscription", "shop-77", SubscriptionRecord(remote_id="shop-77", status="active"))
    record = only(ask(adyen, lambda gateway: gateway.fetch(imported)))
    assert set(record.knows or ()) == {"customer"}
    with pytest.raises(Unsupported):
        ask(adyen, lambda gateway: gateway.cancel_now(imported, "key-1"))


# A new payment method


def test_a_new_card_becomes_a_request_to_the_merchant(adyen: Simulator) -> None:
    ref = stage(adyen)
    old = adyen.standing(ref.id).method

    async def trip(gateway: Gateway) -> Snapshot:
        leave = await gateway.start_method_update(ref, BACK, "key-1")
        answer = await asyncio.to_thread(press, adyen, leave, "accept")
        assert answer.headers["location"].startswith(f"{BACK}?sessionId=")
        return await gateway.finish_method_update(ref, leave.state, query_of(answer))

    snapshot = ask(adyen, trip)
    new = adyen.contract_of(ref.id).shopper.tokens[-1].id
    assert new != old
    assert f"Charge the stored payment method {new} of the shopperReference {ref.id}" in snapshot.ask
    assert f"instead of {old}" in snapshot.ask
    record = only(snapshot)
    assert record.method is not None
    assert record.method.remote_id == old == adyen.standing(ref.id).method
    (body,) = [json.loads(call.body) for call in adyen.calls if call.path == "/v72/sessions"]
    assert (body["amount"], body["mode"]) == ({"value": 0, "currency": "EUR"}, "hosted")
    assert (body["storePaymentMethodMode"], body["shopperReference"]) == ("enabled", ref.id)


def test_the_new_card_is_shown_from_the_first_charge_with_it(adyen: Simulator) -> None:
    ref = stage(adyen)
    leave = ask(adyen, lambda gateway: gateway.start_method_update(ref, BACK, "key-1"))
    press(adyen, leave, "accept")
    shown = known(adyen, ref.id).known
    assert isinstance(shown, SubscriptionRecord)
    assert shown.method == getattr(ref.known, "method", None)
    adyen.adopt(ref.id)
    clock.set_offset(timedelta(minutes=1))
    adyen.charge(ref.id)
    shown = known(adyen, ref.id).known
    assert isinstance(shown, SubscriptionRecord)
    assert shown.method == Method("card", "Mastercard", "4444", "2030-03", adyen.standing(ref.id).method)


def test_checking_a_card_over_nothing_is_no_payment_and_no_order(adyen: Simulator) -> None:
    ref = stage(adyen)
    leave = ask(adyen, lambda gateway: gateway.start_method_update(ref, BACK, "key-1"))
    adyen.sent.clear()
    press(adyen, leave, "accept")
    snapshots = learn(adyen, sent(adyen))
    assert len(adyen.sent) == len(snapshots) == 2
    assert [(one.payments, one.orders) for one in snapshots] == [((), ())] * 2
    # The subscription is touched, so that a visit whose return was lost is looked after.
    touched = [one for snapshot in snapshots for one in snapshot.subscriptions]
    assert [set(one.knows or ()) for one in touched] == [{"customer"}]


def test_the_same_card_again_is_nothing_new(adyen: Simulator) -> None:
    ref = stage(adyen)

    async def trip(gateway: Gateway) -> Snapshot:
        leave = await gateway.start_method_update(ref, BACK, "key-1")
        answer = await asyncio.to_thread(press, adyen, leave, "accept", card="0")
        return await gateway.finish_method_update(ref, leave.state, query_of(answer))

    snapshot = ask(adyen, trip)
    assert snapshot.ask == ""
    assert only(snapshot).method == getattr(ref.known, "method", None)


@pytest.mark.parametrize(("button", "reason"), [("decline", "refused"), ("back", "canceled")])
def test_a_visit_without_a_new_method_is_told_by_adyen_not_by_the_return(
    adyen: Simulator, button: str, reason: str
) -> None:
    ref = stage(adyen)

    async def trip(gateway: Gateway) -> None:
        leave = await gateway.start_method_update(ref, BACK, "key-1")
        query = query_of(await asyncio.to_thread(press, adyen, leave, button))
        for spoiled in ({}, {**query, "sessionResult": "made-up"}, {**query, "sessionId": "CS0"}):
            assert (await gateway.finish_method_update(ref, leave.state, spoiled)).ask == ""
        await gateway.finish_method_update(ref, leave.state, query)

    with pytest.raises(Declined) as caught:
        ask(adyen, trip)
    assert caught.value.reason == reason
    assert "old one stays" in caught.value.customer
    assert len(adyen.contract_of(ref.id).shopper.tokens) == 1


def test_a_card_is_saved_in_the_accounts_currency_where_no_other_is_known(adyen: Simulator) -> None:
    ref = Ref("subscription", stage(adyen).id)
    ask(adyen, lambda gateway: gateway.start_method_update(ref, BACK, "key-1"), currency="SEK")
    assert json.loads(adyen.calls[-1].body)["amount"] == {"value": 0, "currency": "SEK"}
    with pytest.raises(Unsupported):
        ask(adyen, lambda gateway: gateway.start_method_update(ref, BACK, "key-1"), currency="")


def test_the_same_key_opens_the_same_page_and_is_not_to_be_guessed(adyen: Simulator) -> None:
    ref = stage(adyen)
    leaves = [
        ask(adyen, lambda gateway, key=key: gateway.start_method_update(ref, BACK, key))  # type: ignore[misc]
        for key in ("portal-1", "portal-1", "portal-2")
    ]
    assert leaves[0] == leaves[1] != leaves[2]
    numbers = [call.headers["idempotency-key"] for call in adyen.calls if call.method == "POST"]
    assert numbers[0] == numbers[1] != numbers[2]
    assert all("portal" not in number and len(number) == 36 and number[14] == "4" for number in numbers)


# Paying what is open


def test_a_payment_link_settles_what_is_open_and_the_merchant_is_told(adyen: Simulator) -> None:
    ref = stage(adyen, Situation("past_due"))
    leave = pay(adyen, ref)
    assert json.loads(adyen.calls[-1].body)["amount"] == {"value": 1290, "currency": "EUR"}
    answer = press(adyen, leave, "accept")
    assert f'data-test="back" href="{BACK}"' in answer.text
    (snapshot,) = learn(adyen, sent(adyen)[-1:])
    record, payment = only(snapshot), snapshot.payments[0]
    assert (record.status, record.due) == ("active", None)
    assert "due" in (record.knows or ())
    assert not {"method", "amount"} & (record.knows or set())
    assert (payment.status, payment.subscription, payment.amount) == ("paid", ref.id, Money(1290, "EUR"))
    assert snapshot.orders == ()
    assert ref.id in snapshot.tell
    assert "portal-pay-key-1" in snapshot.tell


def test_a_refused_payment_link_leaves_everything_open(adyen: Simulator) -> None:
    ref = stage(adyen, Situation("past_due"))
    leave = pay(adyen, ref)
    assert "refused" in press(adyen, leave, "decline").text
    (snapshot,) = learn(adyen, sent(adyen)[-1:])
    assert snapshot.subscriptions == ()
    assert [one.status for one in snapshot.payments] == ["failed"]


def test_nothing_open_is_not_paid(adyen: Simulator) -> None:
    ref = stage(adyen)
    with pytest.raises(Unsupported):
        ask(adyen, lambda gateway: gateway.pay_now(ref, BACK, "key-1"))


def test_a_link_is_good_for_a_day(adyen: Simulator) -> None:
    ref = stage(adyen, Situation("past_due"))
    leave = pay(adyen, ref)
    clock.set_offset(timedelta(hours=25))
    with httpx.Client(trust_env=False, verify=False) as browser:
        assert "expired" in browser.get(leave.url).text


# Unhappy days

WRITES: dict[str, Callable[[Gateway, Ref], Awaitable[Any]]] = {
    "cancel_now": lambda gateway, ref: gateway.cancel_now(ref, "key-1"),
    "start_method_update": lambda gateway, ref: gateway.start_method_update(ref, BACK, "key-1"),
    "pay_now": lambda gateway, ref: gateway.pay_now(ref, BACK, "key-1"),
}
each_write = pytest.mark.parametrize("name", WRITES)


def writes(adyen: Simulator, name: str, fault: str) -> Callable[[Gateway, Ref], Awaitable[Any]]:
    """The write, with a fault on its first changing call."""
    adyen.fail_next = [fault] if name == "pay_now" else ["", fault]
    return WRITES[name]


@each_write
def test_what_adyen_declines_is_declined(adyen: Simulator, name: str) -> None:
    ref = stage(adyen, Situation("past_due"))
    adyen.switch("decline")
    with pytest.raises(Declined) as caught:
        ask(adyen, lambda gateway: WRITES[name](gateway, ref))
    assert caught.value.reason == "905_1"
    assert adyen.standing(ref.id).charges


@each_write
def test_taken_away_keys_change_nothing(adyen: Simulator, name: str) -> None:
    ref = stage(adyen, Situation("past_due"))
    adyen.switch("refused_keys")
    with pytest.raises(Unavailable, match="401") as caught:
        ask(adyen, lambda gateway: WRITES[name](gateway, ref))
    assert not caught.value.sent


@each_write
def test_a_limit_is_waited_for(adyen: Simulator, name: str) -> None:
    ref = stage(adyen, Situation("past_due"))
    act = writes(adyen, name, "429:7")
    with pytest.raises(Unavailable) as caught:
        ask(adyen, lambda gateway: act(gateway, ref))
    assert (caught.value.retry_after, caught.value.sent) == (7.0, False)


@each_write
@pytest.mark.parametrize("fault", ["500", "timeout_after", "drop"])
def test_a_write_that_breaks_off_may_have_had_its_effect(
    adyen: Simulator, name: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portal.gateways.http.READ_S", 0.2)
    ref = stage(adyen, Situation("past_due"))
    act = writes(adyen, name, fault)
    with pytest.raises(Unavailable) as caught:
        ask(adyen, lambda gateway: act(gateway, ref))
    assert caught.value.sent
    if name == "cancel_now" and fault == "timeout_after":
        assert only(ask(adyen, lambda gateway: gateway.fetch(ref))).status == "cancelled"


def test_a_cancel_whose_reading_back_fails_may_have_had_its_effect(adyen: Simulator) -> None:
    ref = stage(adyen)
    adyen.fail_next = ["", "", "429:7"]
    with pytest.raises(Unavailable) as caught:
        ask(adyen, lambda gateway: gateway.cancel_now(ref, "key-1"))
    assert (caught.value.sent, caught.value.retry_after) == (True, 7.0)


@each_write
@pytest.mark.parametrize("fault", ["html", "empty", "truncated", "wrong_types", "missing_fields"])
def test_a_garbled_answer_to_a_write_is_unknown(adyen: Simulator, name: str, fault: str) -> None:
    ref = stage(adyen, Situation("past_due"))
    if name == "cancel_now":  # a deletion has an empty answer, so its reading back is garbled
        adyen.fail_next = ["", "", fault]
    act = WRITES[name] if name == "cancel_now" else writes(adyen, name, fault)
    with pytest.raises(Unavailable) as caught:
        ask(adyen, lambda gateway: act(gateway, ref))
    assert caught.value.sent


@pytest.mark.parametrize("fault", ["html", "empty", "truncated", "wrong_types", "missing_fields"])
def test_garbage_never_ends_a_subscription(adyen: Simulator, fault: str) -> None:
    ref = stage(adyen)
    adyen.fail_next = [fault]
    with pytest.raises(Unavailable):
        ask(adyen, lambda gateway: gateway.fetch(ref))


def test_an_unknown_state_of_a_session_is_none(adyen: Simulator) -> None:
    ref = stage(adyen)

    async def trip(gateway: Gateway) -> Snapshot:
        leave = await gateway.start_method_update(ref, BACK, "key-1")
        query = query_of(await asyncio.to_thread(press, adyen, leave, "decline"))
        adyen.fail_next = ["", "unknown_status"]
        return await gateway.finish_method_update(ref, leave.state, query)

    assert ask(adyen, trip).ask == ""


# Forged webhooks


def forgeable(adyen: Simulator, kind: str) -> Delivery:
    stage(adyen)
    return adyen.sent[0 if kind == "token" else 1]


@pytest.mark.parametrize("kind", ["standard", "token"])
def test_no_forgery_is_believed(adyen: Simulator, kind: str) -> None:
    delivery = forgeable(adyen, kind)
    gateway = Adapter(adyen.samples()[0].credentials)
    assert gateway.verify(list(delivery.headers.items()), delivery.body, clock.now())
    forgeries = adyen.forgeries(adyen.samples()[0], delivery)
    assert len(forgeries) >= 30
    believed = []
    for forgery in forgeries:
        try:
            gateway.verify(forgery.headers, forgery.body, clock.now())
        except BadSignature:
            continue
        believed.append(forgery.what)
    assert believed == []


@pytest.mark.parametrize("kind", ["standard", "token"])
def test_a_strangers_account_believes_nothing_of_ours(adyen: Simulator, kind: str) -> None:
    delivery = forgeable(adyen, kind)
    with pytest.raises(BadSignature):
        Adapter(adyen.samples()[1].credentials).verify(
            list(delivery.headers.items()), delivery.body, clock.now()
        )


# The simulator itself


@pytest.mark.skipif(not SPECS.exists(), reason="the processor's own specification is not here")
def test_the_simulated_webhooks_are_as_adyen_describes_them(adyen: Simulator) -> None:
    adyen.fill(adyen.samples()[0])
    bodies = [json.loads(body) for _, body in adyen.past_deliveries(adyen.samples()[0])]
    assert {one.get("type", "standard") for one in bodies} == {
        *("standard", "recurring.token.created", "recurring.token.disabled"),
    }
    wrong = [error for body in bodies for error in described(body)]
    assert wrong == []


def described(body: dict[str, Any]) -> list[str]:
    name = "TokenizationNotification-v1.json" if "type" in body else "Webhooks-v1.json"
    shapes = {
        "recurring.token.created": "TokenizationCreatedDetailsNotificationRequest",
        "recurring.token.disabled": "TokenizationDisabledDetailsNotificationRequest",
    }
    specification = json.loads((SPECS / name).read_text())
    if "type" in body:
        reference = f"#/components/schemas/{shapes[body['type']]}"
    else:
        code = body["notificationItems"][0]["NotificationRequestItem"]["eventCode"]
        content = specification["webhooks"][f"/{code}"]["post"]["requestBody"]["content"]
        reference = content["application/json"]["schema"]["$ref"]
    schema = {"$ref": reference, "components": specification["components"]}
    validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=False)
    return [f"{error.instance_path}: {error.message[:200]}" for error in validator.iter_errors(body)]


def test_its_state_can_be_kept_and_taken_back(adyen: Simulator) -> None:
    ref = stage(adyen)
    adyen.save()
    assert set(pickle.loads(pickle.dumps(adyen.state))) == set(adyen.state)
    ask(adyen, lambda gateway: gateway.cancel_now(ref, "key-1"))
    adyen.reset()
    assert adyen.standing(ref.id).charges
    assert datetime.now(UTC) - adyen.now() < timedelta(seconds=5)


# The webhook that is registered

HERE = "https://pay.books.example/webhooks/abc"


def registered(adyen: Simulator, sample: Sample | None = None, **other: str) -> Registration:
    return ask(adyen, lambda gateway: gateway.register_webhook(HERE, "wish-1"), sample, **other)


@pytest.mark.parametrize("number", [0, 2])
def test_a_webhook_is_made_changed_tested_and_removed_as_the_contract_has_it(
    adyen: Simulator, number: int
) -> None:
    sample = adyen.samples()[number]
    account = adyen.account(sample)
    made = registered(adyen, sample)
    hook = account.hooks[made.remote_id]
    assert (hook.url, hook.active, hook.events) == (HERE, True, _adyen_webhooks.EVENTS)
    assert hook.details == dict.fromkeys(_adyen_webhooks.DETAILS, True)
    assert made.credentials["hmac_key"] == hook.hmac_key
    hook.active, hook.events = False, ["AUTHORISATION"]
    again = registered(adyen, sample, **made.credentials)
    assert again.remote_id == made.remote_id
    assert (hook.active, hook.events) == (True, _adyen_webhooks.EVENTS)
    assert ask(adyen, lambda gateway: gateway.send_test_event(made.remote_id), sample) == "REPORT_AVAILABLE"
    ask(adyen, lambda gateway: gateway.unregister_webhook(made.remote_id), sample)
    assert made.remote_id not in account.hooks


def test_the_live_account_is_managed_at_the_live_host(adyen: Simulator) -> None:
    hosts: list[str] = []

    class Watching(Adapter):
        def base(self, host: str) -> str:
            hosts.append(host)
            return super().base(host)

    for number, host in ((0, "management-test.adyen.com"), (2, "management-live.adyen.com")):
        addresses = dict.fromkeys(facts("adyen").hosts.calls, adyen.address)

        async def register(one: Adapter) -> None:
            try:
                await one.register_webhook(HERE, "wish-1")
            finally:
                await one.aclose()

        hosts.clear()
        asyncio.run(register(Watching(adyen.samples()[number].credentials, addresses=addresses)))
        assert set(hosts) == {host}


def test_the_former_key_is_kept_beside_and_user_and_password_stay(adyen: Simulator) -> None:
    sample = adyen.samples()[0]
    made = registered(adyen, sample)
    hook = adyen.account(sample).hooks[made.remote_id]
    kept = ("webhook_username", "webhook_password")
    assert {name: made.credentials[name] for name in kept} == {
        name: sample.credentials[name] for name in kept
    }
    assert (hook.user, hook.password) == tuple(sample.credentials[name] for name in kept)
    assert made.credentials["hmac_key_old"] == sample.credentials["hmac_key"] != made.credentials["hmac_key"]


def test_without_a_password_one_is_made_that_nobody_can_guess(adyen: Simulator) -> None:
    none = dict.fromkeys(("webhook_username", "webhook_password", "hmac_key"), "")
    first, second = registered(adyen, None, **none), registered(adyen, None, **none)
    assert "hmac_key_old" not in first.credentials
    assert len(first.credentials["webhook_password"]) >= 32
    assert first.credentials["webhook_password"] != second.credentials["webhook_password"]
    hook = adyen.account(adyen.samples()[0]).hooks[second.remote_id]
    assert hook.password == second.credentials["webhook_password"]


def test_what_stays_to_be_done_by_hand_is_said_where_it_is_not_done(adyen: Simulator) -> None:
    assert registered(adyen).note == ""
    assert "Recurring tokens life cycle events" in registered(adyen, token_hmac_key="").note


def test_two_webhooks_of_one_address_become_one(adyen: Simulator) -> None:
    account = adyen.account(adyen.samples()[0])
    made = registered(adyen)
    account.hooks["S2-000000000002"] = replace(account.hooks[made.remote_id])
    registered(adyen)
    assert [name for name, one in account.hooks.items() if one.url == HERE] == [made.remote_id]


def test_webhooks_are_found_on_every_page_of_the_list(adyen: Simulator) -> None:
    account = adyen.account(adyen.samples()[0])
    some = next(iter(account.hooks.values()))
    account.hooks |= {
        f"S2-{number:012d}": replace(some, url=f"https://o.example/{number}") for number in range(150)
    }
    made = registered(adyen)
    assert registered(adyen).remote_id == made.remote_id


def test_a_key_without_the_role_is_told_the_role(adyen: Simulator) -> None:
    adyen.account(adyen.samples()[0]).roles.remove("webhooks")
    for wish in (
        lambda gateway: gateway.register_webhook(HERE, "wish-1"),
        lambda gateway: gateway.unregister_webhook("S2-1"),
        lambda gateway: gateway.send_test_event("S2-1"),
    ):
        with pytest.raises(Unavailable) as caught:
            ask(adyen, wish)
        assert _adyen_webhooks.ROLE in caught.value.hint


def test_a_test_that_adyen_could_not_deliver_says_what_adyen_saw(adyen: Simulator) -> None:
    made = registered(adyen)
    adyen.switch("lose_webhooks")
    with pytest.raises(Declined) as caught:
        ask(adyen, lambda gateway: gateway.send_test_event(made.remote_id))
    assert "504 No answer" in caught.value.hint


def test_only_events_that_lead_somewhere_are_asked_for_and_the_test_leads_nowhere() -> None:
    about: dict[str, Any] = {"pspReference": "P", "originalReference": "O", "success": "true"}
    about["amount"] = {"value": 1, "currency": "EUR"}
    about["additionalData"] = {"shopperReference": "s-1", "modification.action": "refund"}
    for code in _adyen_webhooks.EVENTS:
        assert _adyen.event(_adyen.kept({**about, "eventCode": code}, origin=True)).subject is not None, code
    assert _adyen.event(_adyen.kept({**about, "eventCode": "REPORT_AVAILABLE"}, origin=True)).subject is None
