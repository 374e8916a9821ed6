"""The Flutterwave adapter against the simulator on a real port, and the simulator's own rules."""

import asyncio
import copy
import json
import pickle
import re
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import httpx2 as httpx
import pytest

from portal import clock, sync
from portal.gateways import gateway, http
from portal.gateways.base import (
    BadSignature,
    Declined,
    Gateway,
    GatewayError,
    Gone,
    Leave,
    Method,
    Ref,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import disagreements, facts
from portal.gateways.flutterwave import Adapter
from portal.money import Money
from seeds.simulators.flutterwave import Simulator
from seeds.simulators.harness import Delivery, Sample, Servers, Situation
from tests.contract.house import open_house, press

T = TypeVar("T")
NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
BACK = "https://portal.example/customers/return/s1"


@pytest.fixture(scope="module")
def served() -> Iterator[Simulator]:
    one = Simulator(clock.now)
    with pytest.MonkeyPatch.context() as patch, Servers([one]):
        patch.setattr(http, "READ_S", 0.4)
        patch.setattr(http, "TOTAL_S", 0.8)
        patch.setattr(http, "PAUSE_S", 0.01)
        yield one


@pytest.fixture
def sim(served: Simulator) -> Simulator:
    """All sample accounts, open and empty."""
    at(NOW)
    served.state = {"counter": 0, "accounts": {}, "ignored": []}
    served._saved = None
    served.reset()
    for sample in served.samples():
        served.open(sample, "http://127.0.0.1:9/webhooks/token")
    return served


@pytest.fixture
def shop(sim: Simulator) -> Sample:
    return sim.samples()[0]


def at(moment: datetime) -> None:
    clock.set_offset(moment - datetime.now(UTC))


def later(sim: Simulator, **delta: float) -> None:
    clock.set_offset(clock.offset() + timedelta(**delta))
    http._breakers.clear()
    sim.tick()


def ask(sim: Simulator, sample: Sample, do: Callable[[Gateway], Coroutine[Any, Any, T]], **changed: str) -> T:
    async def asked() -> T:
        one = gateway(
            "flutterwave",
            {**sample.credentials, **changed},
            variant=sample.variant,
            simulator=sim.address,
        )
        try:
            return await do(one)
        finally:
            await one.aclose()

    return asyncio.run(asked())


def staged(sim: Simulator, sample: Sample, **situation: Any) -> Ref:
    number = sim.stage(sample, "mika@example.com", Situation(**situation))
    assert number is not None
    return Ref("subscription", number, SubscriptionRecord(remote_id=number, email="mika@example.com"))


def fetched(sim: Simulator, sample: Sample, ref: Ref) -> Snapshot:
    return ask(sim, sample, lambda one: one.fetch(ref))


def read(sim: Simulator, sample: Sample, ref: Ref) -> SubscriptionRecord:
    return fetched(sim, sample, ref).subscriptions[0]


def pages(sim: Simulator, sample: Sample, cursor: str | None = None) -> list[tuple[Snapshot, str | None]]:
    async def walk(one: Gateway) -> list[tuple[Snapshot, str | None]]:
        return [(page.snapshot, page.cursor) async for page in one.backfill(cursor)]

    return ask(sim, sample, walk)


def told_by(sim: Simulator, sample: Sample, delivery: Delivery) -> Snapshot | None:
    async def handle(one: Gateway) -> Snapshot | None:
        events = one.verify(list(delivery.headers.items()), delivery.body, clock.now())
        assert len(events) == 1
        json.dumps(dict(events[0].body))
        return await one.refetch(events[0])

    return ask(sim, sample, handle)


def writes(sim: Simulator) -> list[str]:
    return [f"{call.method} {call.path}" for call in sim.calls if sim.changes(call.method, call.path)]


def begun(sim: Simulator, sample: Sample, ref: Ref, key: str = "portal-7") -> Leave:
    return ask(sim, sample, lambda one: one.start_method_update(ref, BACK, key))


def visit(url: str, answer: str = "accept", card: str | None = None) -> dict[str, str]:
    """Go through the checkout; the query with which one comes back."""
    with httpx.Client(trust_env=False, follow_redirects=False) as browser:
        drawn = browser.get(url).text
        form = press(drawn, answer)
        if form is None:
            link = re.search(r'<a[^>]*href="([^"]*)"[^>]*data-test="back"', drawn)
            assert link, drawn
            back = link[1].replace("&amp;", "&")
        else:
            fields = {**form[2], **({"card": card} if card else {})}
            left = browser.post(url, data=fields)
            assert left.status_code == 303, left.text
            back = left.headers["location"]
    assert back.startswith(BACK)
    return {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}


def finished(sim: Simulator, sample: Sample, ref: Ref, leave: Leave, query: dict[str, str]) -> Snapshot:
    return ask(sim, sample, lambda one: one.finish_method_update(ref, leave.state, query))


# Accounts


def test_facts_and_adapter_agree() -> None:
    assert disagreements("flutterwave", Adapter) == []


def test_samples_match_the_patterns_of_the_facts(sim: Simulator) -> None:
    table = facts("flutterwave")
    for sample in sim.samples():
        for credential in table.credentials:
            if credential.variant not in (None, sample.variant):
                assert credential.name not in sample.credentials
                continue
            assert re.fullmatch(credential.pattern, sample.credentials[credential.name]), credential.name
        assert set(sample.options) <= set(table.options)
        assert sample.variant in (table.variants or [])
    assert set(table.options) == {name for sample in sim.samples() for name in sample.options}


def test_state_can_be_copied_and_pickled(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    assert pickle.loads(pickle.dumps(sim.state)) == copy.deepcopy(sim.state) == sim.state
    sim.save()
    sim.state["accounts"].clear()
    sim.reset()
    assert sim.state["accounts"]


@pytest.mark.parametrize("number", range(6))
def test_good_keys_are_healthy_and_nothing_is_changed(sim: Simulator, number: int) -> None:
    health = ask(sim, sim.samples()[number], lambda one: one.check())
    assert (health.ok, health.live) == (True, number not in (3, 5))
    assert (health.hint is None) == (number not in (3, 5))
    assert writes(sim) == []


@pytest.mark.parametrize(
    ("number", "changed"),
    [(0, {"secret_key": "FLWSECK-nobodys-key-X"}), (4, {"client_secret": "another-secret"})],
)
def test_refused_keys_are_no_outage(sim: Simulator, number: int, changed: dict[str, str]) -> None:
    health = ask(sim, sim.samples()[number], lambda one: one.check(), **changed)
    assert (health.ok, health.live) == (False, True)
    assert "Flutterwave says" in (health.hint or "")
    assert not any(value in (health.hint or "") for value in changed.values())


@pytest.mark.parametrize("number", [0, 4])
def test_check_says_so_when_flutterwave_is_down(sim: Simulator, number: int) -> None:
    sim.switch("down")
    with pytest.raises(Unavailable):
        ask(sim, sim.samples()[number], lambda one: one.check())


def test_a_stranger_knows_nothing_of_another_account(sim: Simulator, shop: Sample) -> None:
    ref, stranger = staged(sim, shop), sim.samples()[1]
    for do in (lambda one: one.fetch(ref), lambda one: one.cancel_now(ref, "k")):
        with pytest.raises(Gone):
            ask(sim, stranger, do)
    assert ask(sim, stranger, lambda one: one.find("mika@example.com")) == []
    assert sim.standing(ref.id).charges


# Reading


def test_backfill_brings_everything_with_its_people(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    found = [snapshot for snapshot, _ in pages(sim, shop)]
    rows = {one.remote_id: one for page in found for one in page.subscriptions}
    assert sorted(one.status or "" for one in rows.values()) == [
        *["active"] * 4,
        "cancelled",
        "expired",
        "past_due",
    ]
    for number, row in rows.items():
        standing = sim.standing(number)
        assert (row.raw_status, row.next_payment is not None) == (
            standing.raw,
            standing.charges and row.status == "active",
        )
        if row.next_payment:
            assert (row.next_payment.on, row.next_payment.certainty) == (standing.next_on, "estimated")
            assert row.next_payment.amount == Money(standing.amount or 0, "NGN")
    payments = {one.remote_id: one for page in found for one in page.payments}
    of_plans = [one for one in payments.values() if one.subscription]
    assert sum(one.status == "paid" for one in of_plans) == sum(sim.standing(one).payments for one in rows)
    orders = {one.title: one for page in found for one in page.orders}
    assert set(orders) == {"Leather tote bag", "Cup", "Kettle", "Mug"}
    assert not {one.remote_id for one in orders.values()} & {one.remote_id for one in of_plans}
    bag = orders["Leather tote bag"]
    assert (bag.email, bag.status, bag.amount) == ("noor@example.com", "paid", Money(2_484_300, "NGN"))
    assert [line.name for line in bag.lines] == ["Leather tote bag", "Transaction fee"]
    refunds = {
        one.status: one for page in found for one in page.refunds if one.amount != Money(1_500_000, "NGN")
    }
    assert {word: one.amount for word, one in refunds.items()} == {
        "sent": Money(300_000, "NGN"),
        "failed": Money(50_050, "NGN"),
    }
    assert refunds["sent"].payment == orders["Cup"].remote_id
    assert {one.status for one in payments.values() if one.email} >= {"paid", "failed", "pending"}
    assert all(one.email for page in found for one in (*page.payments, *page.subscriptions, *page.refunds))
    assert writes(sim) == []


@pytest.mark.parametrize("number", [0, 4])
def test_backfill_resumes_at_every_cursor(sim: Simulator, number: int) -> None:
    sample = sim.samples()[number]
    sim.fill(sample)

    def content(found: list[tuple[Snapshot, str | None]]) -> list[Any]:
        return [(one.subscriptions, one.payments, one.orders, one.refunds, one.customers) for one, _ in found]

    whole = pages(sim, sample)
    assert len(whole) >= 3
    assert whole[-1][1] is None
    for done, (_, cursor) in enumerate(whole[:-1], start=1):
        assert content(pages(sim, sample, cursor)) == content(whole[done:])


def test_more_than_one_page_of_a_month_is_read(sim: Simulator, shop: Sample) -> None:
    account = sim._opened(shop)
    for number in range(25):
        sim._sale(account, f"person{number}@example.com", 100 + number, NOW - timedelta(hours=number))
    found = [one.remote_id for snapshot, _ in pages(sim, shop) for one in snapshot.orders]
    assert len(found) == len(set(found)) == 25


@pytest.mark.parametrize("ignored", [[], ["customer_email"], ["customer_email", "from"]])
def test_find_brings_only_what_is_theirs(sim: Simulator, shop: Sample, ignored: list[str]) -> None:
    sim.fill(shop)
    sim.state["ignored"] = ignored
    found = ask(sim, shop, lambda one: one.find("Noor@example.com"))
    assert [ref.kind for ref in found].count("subscription") == 1
    account = sim._opened(shop)
    emails = [account["transactions"][ref.id]["email"] for ref in found if ref.kind == "payment"]
    assert set(emails) <= {"noor@example.com"}
    assert len(emails) == 4 or ignored


def test_an_active_subscription_in_full(sim: Simulator, shop: Sample) -> None:
    ref = staged(sim, shop)
    snapshot = fetched(sim, shop, ref)
    record = snapshot.subscriptions[0]
    assert (record.status, record.email, record.title) == (
        "active",
        "mika@example.com",
        "Coffee beans, monthly",
    )
    assert record.amount == Money(850_000, "NGN")
    assert record.method == Method("card", "Mastercard", "5043", "2032-09")
    assert record.next_payment is not None
    assert record.next_payment.on == sim.standing(ref.id).next_on == date(2026, 12, 6)
    assert snapshot.payments[0].subscription == ref.id
    assert read(sim, shop, Ref("subscription", ref.id)) == record  # also where no e-mail is known


def test_a_missed_payment_is_past_due_until_flutterwave_cancels(sim: Simulator, shop: Sample) -> None:
    ref = staged(sim, shop, state="past_due")
    record = read(sim, shop, ref)
    assert (record.status, record.due, record.retries_on) == (
        "past_due",
        Money(850_000, "NGN"),
        NOW.date(),
    )
    later(sim, minutes=55)
    assert read(sim, shop, ref).status == "past_due"
    later(sim, minutes=60)
    record = read(sim, shop, ref)
    assert (record.status, record.due, record.next_payment) == ("cancelled", None, None)
    assert {"due", "next_payment", "retries_on"} <= (record.knows or set())
    assert sim.standing(ref.id).raw == "cancelled"
    failures = [call for call in sim.sent if b'"status":"failed"' in call.body]
    assert len(failures) == 4  # and the first one in the staging
    last = json.loads(sim.sent[-1].body)
    assert (last["event"], last["data"]["status"], "id" in last["data"]) == (
        "subscription.cancelled",
        "deactivated",
        False,
    )


def test_a_subscription_renews_and_its_date_moves(sim: Simulator, shop: Sample) -> None:
    ref = staged(sim, shop)
    later(sim, days=13)
    record = read(sim, shop, ref)
    assert record.next_payment is not None
    assert record.next_payment.on == sim.standing(ref.id).next_on == date(2027, 1, 6)
    snapshot = told_by(sim, shop, sim.sent[-1])
    assert snapshot is not None
    assert (snapshot.payments[-1].subscription, snapshot.payments[-1].status) == (ref.id, "paid")
    assert snapshot.subscriptions[0].next_payment == record.next_payment


def test_all_payments_made_is_expired(sim: Simulator, shop: Sample) -> None:
    assert read(sim, shop, staged(sim, shop, state="expired")).status == "expired"
    assert read(sim, shop, staged(sim, shop, state="cancelled")).status == "cancelled"


def test_a_new_subscription_is_learned_with_its_first_charge(sim: Simulator, shop: Sample) -> None:
    """No notice tells of it by itself."""
    ref = staged(sim, shop)
    snapshot = told_by(sim, shop, sim.sent[-1])
    assert snapshot is not None
    assert [one.remote_id for one in snapshot.subscriptions] == [ref.id]
    assert snapshot.orders == ()


def test_a_cancel_by_the_mail_link_is_learned_by_the_email(sim: Simulator, shop: Sample) -> None:
    ref, other = staged(sim, shop), staged(sim, shop)
    account, one = sim._whose(ref.id)
    sim._end(account, one)
    snapshot = told_by(sim, shop, sim.sent[-1])
    assert snapshot is not None
    states = {row.remote_id: row.status for row in snapshot.subscriptions}
    assert states == {ref.id: "cancelled", other.id: "active"}


def test_a_cancel_whose_id_is_no_subscriptions_is_learned_by_the_email(sim: Simulator, shop: Sample) -> None:
    ref = staged(sim, shop, state="cancelled")
    said = {"id": 7, "status": "deactivated", "customer": {"email": "mika@example.com"}}
    body = json.dumps({"event": "subscription.cancelled", "data": said}).encode()
    delivery = Delivery("", {"verif-hash": shop.credentials["secret_hash"]}, body)
    snapshot = told_by(sim, shop, delivery)
    assert snapshot is not None
    assert snapshot.subscription(ref.id) is not None


def test_a_forged_body_under_the_right_hash_has_no_effect(sim: Simulator, shop: Sample) -> None:
    ref = staged(sim, shop)
    true = sim.sent[-1]
    said = json.loads(true.body)
    said["data"] |= {"amount": 1, "status": "failed", "customer": {"email": "bo@example.com"}}
    snapshot = told_by(sim, shop, Delivery("", true.headers, json.dumps(said).encode()))
    assert snapshot is not None
    assert (snapshot.payments[-1].status, snapshot.payments[-1].amount) == ("paid", Money(850_000, "NGN"))
    assert snapshot.subscriptions[0].remote_id == ref.id
    said["data"]["id"] = 5
    with pytest.raises(Gone):
        told_by(sim, shop, Delivery("", true.headers, json.dumps(said).encode()))


def test_a_refund_is_read_in_its_other_spelling_with_its_payment(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    account = sim._opened(shop)
    sale = next(one for one in account["transactions"].values() if one["narration"] == "Kettle")
    number = sim.refund(shop, str(sale["id"]), 2500.5)
    snapshot = fetched(sim, shop, Ref("refund", number))
    (back,) = snapshot.refunds
    assert (back.amount, back.payment, back.status) == (Money(250_050, "NGN"), str(sale["id"]), "sent")
    assert snapshot.payments[0].remote_id == str(sale["id"])


def test_an_order_is_fetched_as_its_transaction(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    account = sim._opened(shop)
    sale = next(one for one in account["transactions"].values() if one["narration"] == "Kettle")
    snapshot = fetched(sim, shop, Ref("order", str(sale["id"])))
    assert (snapshot.orders[0].title, snapshot.payments[0].method) == (
        "Kettle",
        Method("card", "Visa", "2950", "2032-09"),
    )


# Cancelling and taking it back


def test_cancel_ends_it_at_once_and_a_second_one_is_no_failure(sim: Simulator, shop: Sample) -> None:
    ref = staged(sim, shop)
    snapshot = ask(sim, shop, lambda one: one.cancel_now(ref, "portal-1"))
    assert snapshot.subscriptions[0].status == "cancelled"
    assert not sim.standing(ref.id).charges
    again = ask(sim, shop, lambda one: one.cancel_now(ref, "portal-1"))
    assert again.subscriptions[0].status == "cancelled"
    assert writes(sim) == [f"PUT /v3/subscriptions/{ref.id}/cancel"]


def test_cancelling_a_plans_id_is_gone_and_ends_nobodys_subscription(sim: Simulator, shop: Sample) -> None:
    ref = staged(sim, shop)
    plan = str(sim._whose(ref.id)[1]["plan"])
    with pytest.raises(Gone):
        ask(sim, shop, lambda one: one.cancel_now(Ref("subscription", plan), "k"))
    assert writes(sim) == []
    key = shop.credentials["secret_key"]
    answer = httpx.put(
        f"{sim.address}/v3/subscriptions/{plan}/cancel",
        headers={"Authorization": f"Bearer {key}"},
        trust_env=False,
    )
    assert (answer.status_code, answer.json()["status"]) == (400, "error")


def test_cancel_that_was_faster_elsewhere_is_no_failure(sim: Simulator, shop: Sample) -> None:
    """Between our look and our call the customer's mail link was faster: the call is refused, the list says so."""
    ref = staged(sim, shop)
    account, one = sim._whose(ref.id)

    async def do(gateway: Gateway) -> Snapshot:
        assert isinstance(gateway, Adapter)
        call = gateway._api.call

        async def between(method: str, path: str, **more: Any) -> Any:
            if method == "PUT":
                sim._end(account, one)
            return await call(method, path, **more)

        gateway._api.call = between  # type: ignore[method-assign, assignment]
        return await gateway.cancel_now(ref, "k")

    assert ask(sim, shop, do).subscriptions[0].status == "cancelled"


def test_a_decline_leaves_it_active(sim: Simulator, shop: Sample) -> None:
    ref = staged(sim, shop)
    sim.switch("decline")
    with pytest.raises(Declined) as caught:
        ask(sim, shop, lambda one: one.cancel_now(ref, "k"))
    assert "could not be completed" in caught.value.hint
    assert sim.standing(ref.id).charges


@pytest.mark.parametrize(
    "fault", ["timeout_after", "drop", "500", "html", "empty", "truncated", "wrong_types"]
)
def test_a_cancel_that_is_not_answered_is_unknown(sim: Simulator, shop: Sample, fault: str) -> None:
    ref = staged(sim, shop)
    sim.fail_writes = [fault]
    with pytest.raises(Unavailable) as caught:
        ask(sim, shop, lambda one: one.cancel_now(ref, "k"))
    assert caught.value.sent
    snapshot = ask(sim, shop, lambda one: one.cancel_now(ref, "k"))
    assert snapshot.subscriptions[0].status == "cancelled"
    assert not sim.standing(ref.id).charges


def test_a_cancel_whose_read_back_fails_is_unknown(sim: Simulator, shop: Sample) -> None:
    ref = staged(sim, shop)
    sim.fail_next = ["", "", "500"]  # the look, the call, the look
    with pytest.raises(Unavailable) as caught:
        ask(sim, shop, lambda one: one.cancel_now(ref, "k"))
    assert caught.value.sent
    assert not sim.standing(ref.id).charges


@pytest.mark.parametrize("fault", ["429", "429:7"])
def test_a_limit_is_told_with_its_wait(sim: Simulator, shop: Sample, fault: str) -> None:
    ref = staged(sim, shop)
    sim.fail_writes = [fault]
    with pytest.raises(Unavailable) as caught:
        ask(sim, shop, lambda one: one.cancel_now(ref, "k"))
    assert (caught.value.retry_after, caught.value.sent) == (7.0 if ":" in fault else 60.0, False)


@pytest.mark.parametrize(
    "fault", ["html", "empty", "truncated", "wrong_types", "missing_fields", "unknown_status"]
)
@pytest.mark.parametrize("place", range(5))
def test_garbage_is_one_of_the_five_errors_or_says_less(
    sim: Simulator, shop: Sample, fault: str, place: int
) -> None:
    ref = staged(sim, shop)
    sim.fail_next = [*[""] * place, fault]

    async def outcome(one: Gateway) -> Snapshot | GatewayError:
        try:
            return await one.fetch(ref)
        except GatewayError as error:
            return error

    found = ask(sim, shop, outcome)
    if isinstance(found, Snapshot):
        assert found.subscriptions[0].status in ("active", None)
    else:
        assert isinstance(found, Unavailable | Gone)


def test_undo_activates_and_the_date_is_worked_out_again(sim: Simulator) -> None:
    sample = sim.samples()[2]
    ref = staged(sim, sample)
    ask(sim, sample, lambda one: one.cancel_now(ref, "k"))
    snapshot = ask(sim, sample, lambda one: one.undo_cancel(ref, "k2"))
    record = snapshot.subscriptions[0]
    assert (record.status, snapshot.tell) == ("active", "")
    assert record.next_payment is not None
    assert record.next_payment.on == sim.standing(ref.id).next_on
    ask(sim, sample, lambda one: one.undo_cancel(ref, "k2"))
    assert writes(sim)[1:] == [f"PUT /v3/subscriptions/{ref.id}/activate"]


def test_a_charge_at_once_after_an_undo_is_told_to_the_merchant(sim: Simulator) -> None:
    sample = sim.samples()[2]
    ref = staged(sim, sample, state="cancelled")
    account, one = sim._whose(ref.id)

    async def do(gateway: Gateway) -> Snapshot:
        assert isinstance(gateway, Adapter)
        call = gateway._api.call

        async def between(method: str, path: str, **more: Any) -> Any:
            said = await call(method, path, **more)
            if method == "PUT":
                sim._take(account, one, sim.now(), succeeds=True)
            return said

        gateway._api.call = between  # type: ignore[method-assign, assignment]
        return await gateway.undo_cancel(ref, "k")

    snapshot = ask(sim, sample, do)
    assert snapshot.tell == f"{ref.id} was charged when its cancellation was taken back."


def test_an_undo_of_a_closed_plan_is_a_no(sim: Simulator) -> None:
    sample = sim.samples()[2]
    ref = staged(sim, sample, state="cancelled")
    account, one = sim._whose(ref.id)
    account["plans"][str(one["plan"])]["status"] = "cancelled"
    with pytest.raises(Declined, match="plan is not active"):
        ask(sim, sample, lambda gateway: gateway.undo_cancel(ref, "k"))


# Another card: a new checkout, then the end of the old one


@pytest.mark.parametrize("state", ["active", "past_due", "cancelled"])
def test_a_new_checkout_makes_a_successor_and_ends_the_old_one(sim: Simulator, state: str) -> None:
    sample = sim.samples()[2]
    ref = staged(sim, sample, state=state)
    leave = begun(sim, sample, ref)
    assert sim.is_page("GET", urlsplit(leave.url).path)
    query = visit(leave.url)
    assert set(query) == {"status", "tx_ref", "transaction_id"}
    snapshot = finished(sim, sample, ref, leave, query)
    old, new = snapshot.subscription(ref.id), snapshot.subscriptions[0]
    assert old is not None
    assert (old.status, new.status, snapshot.ask) == ("cancelled", "active", "")
    assert new.remote_id != ref.id
    assert new.method == Method("card", "Visa", "2950", "2032-09")
    assert new.next_payment is not None
    assert new.next_payment.on == sim.standing(new.remote_id).next_on == date(2026, 12, 24)
    (paid,) = [one for one in snapshot.payments if one.remote_id == query["transaction_id"]]
    assert (paid.subscription, paid.amount, paid.status) == (new.remote_id, Money(850_000, "NGN"), "paid")
    assert not sim.standing(ref.id).charges
    again = finished(sim, sample, ref, leave, query)
    assert [one.remote_id for one in again.subscriptions] == [new.remote_id, ref.id]
    cancels = [one for one in writes(sim) if one.endswith("/cancel")]
    assert cancels == ([] if state == "cancelled" else [f"PUT /v3/subscriptions/{ref.id}/cancel"])


@pytest.mark.parametrize("query", [{}, {"status": "successful"}, {"transaction_id": "nonsense"}])
def test_the_return_is_never_believed_and_never_needed(sim: Simulator, query: dict[str, str]) -> None:
    sample = sim.samples()[2]
    ref = staged(sim, sample)
    leave = begun(sim, sample, ref)
    assert finished(sim, sample, ref, leave, query).subscriptions[0].status == "active"
    assert [one for one in writes(sim) if one.startswith("PUT")] == []
    visit(leave.url)
    assert len(finished(sim, sample, ref, leave, query).subscriptions) == 2


def test_a_return_with_anothers_transaction_does_nothing(sim: Simulator) -> None:
    sample = sim.samples()[2]
    ref = staged(sim, sample)
    other = sim.stage(sample, "bo@example.com", Situation())
    assert other is not None
    foreign = list(sim._opened(sample)["transactions"])[-1]
    leave = begun(sim, sample, ref)
    query = {"status": "successful", "tx_ref": leave.state["tx_ref"], "transaction_id": foreign}
    snapshot = finished(sim, sample, ref, leave, query)
    assert [one.remote_id for one in snapshot.subscriptions] == [ref.id]
    assert sim.standing(ref.id).charges
    assert sim.standing(other).charges


def test_a_refused_card_keeps_the_old_one(sim: Simulator) -> None:
    sample = sim.samples()[2]
    ref = staged(sim, sample)
    leave = begun(sim, sample, ref)
    query = visit(leave.url, "decline")
    assert query == {"status": "cancelled", "tx_ref": leave.state["tx_ref"]}
    with pytest.raises(Declined, match="Insufficient Funds"):
        finished(sim, sample, ref, leave, query)
    assert sim.standing(ref.id).charges
    visit(leave.url, card="mastercard")  # the page is still open: another card
    assert len(finished(sim, sample, ref, leave, query).subscriptions) == 2


def test_a_visit_that_is_broken_off_keeps_the_old_one(sim: Simulator) -> None:
    sample = sim.samples()[2]
    ref = staged(sim, sample)
    leave = begun(sim, sample, ref)
    query = visit(leave.url, "back")
    assert query["status"] == "cancelled"
    assert finished(sim, sample, ref, leave, query).subscriptions[0].status == "active"
    later(sim, minutes=31)
    with httpx.Client(trust_env=False) as browser:
        assert browser.get(leave.url).status_code == 410


def test_an_end_that_fails_is_made_up_for_when_it_is_tried_again(sim: Simulator) -> None:
    sample = sim.samples()[2]
    ref = staged(sim, sample)
    leave = begun(sim, sample, ref)
    query = visit(leave.url)
    sim.fail_writes = ["drop"]
    with pytest.raises(Unavailable) as caught:
        finished(sim, sample, ref, leave, query)
    assert caught.value.sent
    assert sim.standing(ref.id).charges
    finished(sim, sample, ref, leave, query)
    assert not sim.standing(ref.id).charges
    live = [one for one in sim._opened(sample)["subscriptions"].values() if one["status"] == "active"]
    assert len(live) == 1


def test_an_end_that_is_refused_becomes_a_request_to_the_merchant(sim: Simulator) -> None:
    sample = sim.samples()[2]
    ref = staged(sim, sample)
    leave = begun(sim, sample, ref)
    query = visit(leave.url)
    sim.switch("decline")
    snapshot = finished(sim, sample, ref, leave, query)
    assert ref.id in snapshot.ask
    assert query["transaction_id"] in snapshot.ask
    assert sim.standing(ref.id).charges


def test_in_test_mode_the_rewritten_email_is_the_same_person(sim: Simulator) -> None:
    sample = sim.samples()[3]
    number = sim.stage(sample, "mika@example.com", Situation())
    assert number is not None
    record = read(sim, sample, Ref("subscription", number))
    assert record.email is not None
    assert record.email != "mika@example.com"
    assert record.email.endswith("_mika@example.com")
    assert ask(sim, sample, lambda one: one.find("mika@example.com")) == []
    ref = Ref("subscription", number, record)
    leave = begun(sim, sample, ref)
    snapshot = finished(sim, sample, ref, leave, visit(leave.url))
    assert {one.status for one in snapshot.subscriptions} == {"active", "cancelled"}


def test_an_inactive_link_is_a_no_before_anything_is_done(sim: Simulator) -> None:
    sample = sim.samples()[2]
    ref = staged(sim, sample)
    sim.switch("decline")
    with pytest.raises(Declined, match="currently inactive"):
        begun(sim, sample, ref)


def test_a_closed_plan_can_not_be_paid_anew(sim: Simulator) -> None:
    sample = sim.samples()[2]
    ref = staged(sim, sample)
    account, one = sim._whose(ref.id)
    account["plans"][str(one["plan"])]["status"] = "cancelled"
    with pytest.raises(Unsupported):
        begun(sim, sample, ref)


# Webhooks


def test_every_notice_is_proved_and_every_forgery_refused(sim: Simulator, shop: Sample) -> None:
    for sample in (shop, sim.samples()[4]):
        sim.sent.clear()
        if sample.variant == "v4":
            account = sim._opened(sample)
            sim.sell4(account, sim._person4(account, "mika@example.com"), 100, NOW)
        else:
            staged(sim, sample)
        delivery = sim.sent[-1]
        one = Adapter({"secret_hash": sample.credentials["secret_hash"]}, variant=sample.variant)
        assert one.verify(list(delivery.headers.items()), delivery.body, NOW)
        forgeries = sim.forgeries(sample, delivery)
        assert len(forgeries) >= 25
        for forgery in forgeries:
            with pytest.raises(BadSignature):
                one.verify(forgery.headers, forgery.body, NOW)
        stranger = Adapter(
            {"secret_hash": sim.samples()[1].credentials["secret_hash"]}, variant=sample.variant
        )
        with pytest.raises(BadSignature):
            stranger.verify(list(delivery.headers.items()), delivery.body, NOW)


# v4


@pytest.fixture
def modern(sim: Simulator) -> Sample:
    sample = sim.samples()[4]
    sim.fill(sample)
    return sample


def test_v4_backfill_brings_people_orders_and_refunds(sim: Simulator, modern: Sample) -> None:
    found = [snapshot for snapshot, _ in pages(sim, modern)]
    people = {one.remote_id: one.email for page in found for one in page.customers}
    assert set(people.values()) == {"noor@example.com", "flutterwave@example.com"}
    payments = {one.remote_id: one for page in found for one in page.payments}
    assert {one.status for one in payments.values()} == {"paid", "failed", "pending", "cancelled"}
    assert all(one.customer in people for one in payments.values())
    orders = [one for page in found for one in page.orders]
    assert {one.title for one in orders} == {"Tea set"}
    assert {one.remote_id for one in orders} == {
        one.remote_id for one in payments.values() if one.status == "paid"
    }
    refunds = {one.remote_id: one for page in found for one in page.refunds}
    assert {one.amount for one in refunds.values()} == {Money(300_000, "NGN"), Money(1_500_000, "NGN")}
    assert {one.status for one in refunds.values()} == {"sent"}
    assert not any(page.subscriptions for page in found)
    assert writes(sim) == []


def test_v4_find_and_fetch(sim: Simulator, modern: Sample) -> None:
    (ref,) = ask(sim, modern, lambda one: one.find("noor@example.com"))
    snapshot = fetched(sim, modern, ref)
    (paid,), (order,), (person,) = snapshot.payments, snapshot.orders, snapshot.customers
    assert (paid.amount, order.status, person.email) == (Money(2_450_000, "NGN"), "paid", "noor@example.com")
    assert paid.method == Method("card", "Mastercard", "2950", "2032-09")
    assert fetched(sim, modern, Ref("customer", person.remote_id)).customers == (person,)
    assert ask(sim, modern, lambda one: one.find("nobody@example.com")) == []
    for kind in ("payment", "refund"):
        with pytest.raises(Gone):
            fetched(sim, modern, Ref(kind, "chg_nobody"))


def test_v4_notices_are_asked_after(sim: Simulator, modern: Sample) -> None:
    account = sim._opened(modern)
    person = sim._person4(account, "mika@example.com")
    charge = sim.sell4(account, person, 50, NOW)
    snapshot = told_by(sim, modern, sim.sent[-1])
    assert snapshot is not None
    assert (snapshot.payments[0].remote_id, snapshot.customers[0].email) == (charge["id"], "mika@example.com")
    sim._back4(account, charge, 20.5, "succeeded", NOW)
    snapshot = told_by(sim, modern, sim.sent[-1])
    assert snapshot is not None
    assert (snapshot.refunds[0].payment, snapshot.refunds[0].amount) == (charge["id"], Money(2050, "NGN"))


def test_v4_token_that_has_run_out_is_renewed(sim: Simulator, modern: Sample) -> None:
    async def twice(one: Gateway) -> list[bool]:
        first = (await one.check()).ok
        clock.set_offset(clock.offset() + timedelta(minutes=11))
        return [first, (await one.check()).ok]

    assert ask(sim, modern, twice) == [True, True]
    assert sum(call.path.endswith("/token") for call in sim.calls) == 2


def test_v4_has_no_subscription_to_stage_or_to_touch(sim: Simulator, modern: Sample) -> None:
    assert sim.stage(modern, "mika@example.com", Situation()) is None
    with pytest.raises(GatewayError):
        ask(sim, modern, lambda one: one.cancel_now(Ref("subscription", "52001"), "k"))
    assert writes(sim) == []


# As a customer does it


def test_a_kept_cancel_is_taken_back_where_the_merchant_opted_in(tmp_path: Path) -> None:
    with open_house("flutterwave", str(tmp_path), "v3") as house:
        house.connect(("activate",))
        row = house.stage(Situation("active"))
        assert row is not None
        house.press(row, "cancel", "cancel_at_period_end")
        house.tell()
        row = house.row(row.id)
        _, one = house.simulator._whose(row.remote_id)  # type: ignore[attr-defined]
        assert (row.status, row.access_until) == ("cancelled", one["next"])
        assert not house.simulator.standing(row.remote_id).charges
        offer = house.offer(row, "undo_cancel")
        assert offer is not None
        assert (offer.mode, offer.ok) == ("direct", True)
        house.press(row, "undo_cancel", "undo_cancel")
        for _ in range(4):
            house.later(seconds=30)
        row, action = house.row(row.id), house.action(row)
        assert action is not None
        assert (action.capability, action.phase) == ("undo_cancel", "confirmed")
        assert (row.status, row.access_until, row.next_on) == ("active", None, one["next"].date())
        assert house.simulator.standing(row.remote_id).charges


def test_a_v4_account_shows_orders_and_payments_and_no_subscriptions(tmp_path: Path) -> None:
    with open_house("flutterwave", str(tmp_path), "v4") as house:
        house.simulator.fill(house.sample)

        async def walk() -> list[Snapshot]:
            one = house.gateway()
            try:
                return [page.snapshot async for page in one.backfill()]
            finally:
                await one.aclose()

        def write(db: Any) -> None:
            for snapshot in told:
                sync.apply(db, house.account, snapshot)

        told = asyncio.run(walk())
        house.database.write_now(write)
        house.sign_in("flutterwave@example.com")
        assert "Tea set" in house.get("/customers/orders").text
        payments = {one["status"] for one in house.everything()["payment"]}
        assert payments == {"paid", "partially_refunded", "refunded", "failed", "pending", "cancelled"}
        assert 'data-testid="payment"' in house.get("/customers/payments").text
        assert 'data-testid="subscription"' not in house.get("/customers/subscriptions").text
