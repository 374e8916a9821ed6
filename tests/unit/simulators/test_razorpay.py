"""The Razorpay simulator, met by the adapter over HTTP and by a buyer's browser: what one says is true of the other."""

import asyncio
import hashlib
import hmac
import json
import pickle
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any, TypeVar
from urllib.parse import parse_qs, parse_qsl, urlencode

import httpx2 as httpx
import pytest

from portal import clock
from portal.gateways import gateway, http
from portal.gateways.base import (
    BadSignature,
    Declined,
    Gone,
    Interval,
    Leave,
    Page,
    Record,
    Ref,
    Script,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import Circumstances, disagreements, facts
from portal.gateways.razorpay import Adapter
from portal.money import Money
from seeds.simulators.harness import Forgery, Servers, Situation, simulator
from seeds.simulators.razorpay import CHECKOUT_JS, Simulator

NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
BACK = "https://portal.example/customers/return/one-time"
Result = TypeVar("Result")


# A client takes its time to be made, so all tests share one loop and, for each account, one adapter.
_runner: asyncio.Runner | None = None
_adapters: dict[tuple[Any, ...], Adapter] = {}


@pytest.fixture(scope="module")
def served() -> Iterator[Simulator]:
    global _runner
    one = Simulator(clock.now)
    with Servers([one]), asyncio.Runner() as _runner:
        yield one
        for adapter in _adapters.values():
            _runner.run(adapter.aclose())
        _adapters.clear()


@pytest.fixture
def sim(served: Simulator) -> Simulator:
    """The server with empty accounts, at a fixed hour."""
    at(NOW)
    served._saved = None
    served.reset()
    served.state = Simulator().state
    for one in _adapters.values():
        one._plans.clear()
    for sample in served.samples():
        served.open(sample, "")
    return served


def at(moment: datetime) -> None:
    clock.set_offset(moment - datetime.now(UTC))


def adapter(sim: Simulator, sample: int = 0, **credentials: str) -> Adapter:
    keys = {**sim.samples()[sample].credentials, **credentials}
    name = tuple(keys.items())
    if name not in _adapters:
        made = gateway("razorpay", keys, simulator=sim.address)
        assert isinstance(made, Adapter)
        _adapters[name] = made
    return _adapters[name]


def ask(sim: Simulator, what: Callable[[Adapter], Awaitable[Result]], sample: int = 0, **keys: str) -> Result:
    async def run() -> Result:
        return await what(adapter(sim, sample, **keys))

    assert _runner is not None
    return _runner.run(run())


def stage(sim: Simulator, state: str = "active", sample: int = 0, **more: Any) -> str:
    made = sim.stage(sim.samples()[sample], "asha@example.com", Situation(state, **more))
    assert made is not None
    return made


def fetch(sim: Simulator, remote_id: str, known: Record | None = None, sample: int = 0) -> Snapshot:
    return ask(sim, lambda one: one.fetch(Ref("subscription", remote_id, known)), sample)


def the(snapshot: Snapshot) -> SubscriptionRecord:
    assert len(snapshot.subscriptions) == 1
    return snapshot.subscriptions[0]


def act(sim: Simulator, name: str, remote_id: str, *more: Any, known: Record | None = None) -> Snapshot:
    async def call(one: Adapter) -> Snapshot:
        found = await getattr(one, name)(Ref("subscription", remote_id, known), *more, "portal-1")
        assert isinstance(found, Snapshot)
        return found

    return ask(sim, call)


def pages(sim: Simulator, cursor: str | None = None, stop: int = 10_000, sample: int = 0) -> list[Page]:
    async def walk(one: Adapter) -> list[Page]:
        found: list[Page] = []
        async for page in one.backfill(cursor):
            found.append(page)
            if len(found) == stop:
                break
        return found

    return ask(sim, walk, sample)


def writes(sim: Simulator) -> list[str]:
    return [f"{call.method} {call.path.split('/')[-1]}" for call in sim.calls if call.method != "GET"]


def told(sim: Simulator) -> list[str]:
    return [json.loads(delivery.body)["event"] for delivery in sim.sent]


# The harness


def test_it_is_found_by_name_and_its_state_can_be_kept() -> None:
    one = simulator("razorpay", lambda: NOW)
    one.open(one.samples()[0], "")
    one.fill(one.samples()[0])
    assert pickle.loads(pickle.dumps(one.state)) == one.state
    one.save()
    before = json.dumps(one.state, default=str, sort_keys=True)
    made = one.stage(one.samples()[0], "asha@example.com", Situation())
    assert made is not None
    one.charge(made)
    one.reset()
    assert json.dumps(one.state, default=str, sort_keys=True) == before


def test_samples_match_the_patterns_of_the_facts_and_differ() -> None:
    samples, table = Simulator().samples(), facts("razorpay")
    for sample in samples:
        for field in table.credentials:
            value = sample.credentials.get(field.name, "")
            assert (re.fullmatch(field.pattern, value) is not None) == bool(value), field.name
            assert value or not field.required
        assert set(sample.options) <= set(table.options)
    assert not set(samples[0].credentials.values()) & set(samples[1].credentials.values())


def test_facts_and_adapter_agree() -> None:
    assert disagreements("razorpay", Adapter) == []


def test_fill_knows_every_state_of_razorpay(sim: Simulator) -> None:
    sample = sim.samples()[0]
    sim.fill(sample)
    mine = [one for one in sim.state["objects"].values() if one["entity"] == "subscription"]
    words = {one["status"] for one in mine if one["_email"] == "razorpay@example.com"}
    expected = {"created", "authenticated", "active", "pending", "halted", "paused", "cancelled"}
    assert words == expected | {"completed", "expired"}
    noor = [one for one in mine if one["_email"] == "noor@example.com"]
    assert [one["status"] for one in noor] == ["active"]
    assert sim.sent == []


@pytest.mark.parametrize(
    "state", ["incomplete", "trialing", "active", "past_due", "paused", "cancelled", "expired"]
)
def test_every_state_that_is_staged_is_read_as_our_word(sim: Simulator, state: str) -> None:
    one = stage(sim, state)
    assert the(fetch(sim, one)).status == state
    assert the(fetch(sim, one)).email == ("asha@example.com" if state != "incomplete" else None)


def test_a_promised_end_cannot_be_staged_since_nobody_can_see_it(sim: Simulator) -> None:
    sample = sim.samples()[0]
    assert sim.stage(sample, "asha@example.com", Situation("cancels_at_period_end")) is None
    assert sim.stage(sample, "asha@example.com", Situation("active", due=True)) is None
    assert sim.stage(sample, "asha@example.com", Situation("active", object="agreement")) is None
    assert sim.stage(sample, "asha@example.com", Situation("active", token=False)) is None
    assert sim.stage(sample, "asha@example.com", Situation("active", method="gopay")) is None


@pytest.mark.parametrize("method", ["card", "foreign_card", "upi", "emandate", "wallet"])
def test_every_method_that_is_staged_is_read_with_a_token(sim: Simulator, method: str) -> None:
    found = the(fetch(sim, stage(sim, method=method))).method
    assert found is not None
    assert found.kind == method
    assert found.remote_id
    assert (found.last4 is not None) == method.endswith("card")


@pytest.mark.parametrize(("state", "sort"), [("active", "last_cycle"), ("paused", "paused_elsewhere")])
def test_the_sorts_of_the_facts_are_staged(sim: Simulator, state: str, sort: str) -> None:
    assert the(fetch(sim, stage(sim, state, object=sort))).object == sort
    assert the(fetch(sim, stage(sim, state))).object is None


def test_standing_tells_what_the_api_hides(sim: Simulator) -> None:
    one = stage(sim)
    before = sim.standing(one)
    assert (before.raw, before.charges, before.payments, before.amount) == ("active", True, 2, 49_900)
    assert before.next_on is not None
    act(sim, "cancel_at_period_end", one)
    after = sim.standing(one)
    assert (after.raw, after.charges, after.next_on) == ("active", False, None)
    with pytest.raises(KeyError):
        sim.standing("sub_Nobody00000000")


# Who may call


def api(sim: Simulator, method: str, path: str, auth: str | None = None, **more: Any) -> httpx.Response:
    keys = sim.samples()[0].credentials
    pair = httpx.BasicAuth(keys["key_id"], keys["key_secret"])
    headers = {"Authorization": auth} if auth is not None else None
    with httpx.Client(trust_env=False, auth=None if auth is not None else pair, headers=headers) as client:
        return client.request(method, f"{sim.address}/v1{path}", **more)


@pytest.mark.parametrize("auth", ["", "Bearer x", "basic cnpwOng=", "Basic !!!", "Basic cnpwOng="])
def test_wrong_authentication_is_refused_in_razorpays_shape(sim: Simulator, auth: str) -> None:
    answer = api(sim, "GET", "/payments", auth=auth)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "BAD_REQUEST_ERROR"


def test_a_strangers_objects_are_unknown(sim: Simulator) -> None:
    one = stage(sim, sample=1)
    with pytest.raises(Gone):
        fetch(sim, one)
    assert the(fetch(sim, one, sample=1)).status == "active"


def test_unknown_id_is_400_and_a_malformed_one_is_404_before_any_key(sim: Simulator) -> None:
    unknown = api(sim, "GET", "/subscriptions/sub_Nobody00000000")
    assert (unknown.status_code, unknown.json()["error"]["description"]) == (
        400,
        "The id provided does not exist",
    )
    malformed = api(sim, "GET", "/subscriptions/sub_1", auth="Basic x")
    assert (malformed.status_code, malformed.json()) == (
        404,
        {"message": "no Route matched with those values"},
    )
    for remote_id in ("sub_Nobody00000000", "sub_1", "../payments", "sub_x/y"):
        with pytest.raises(Gone):
            fetch(sim, remote_id)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("count=101", "count"),
        ("count=x", "count"),
        ("colour=red", "colour is/are not required"),
        ("from=x", "from"),
    ],
)
def test_wrong_queries_are_refused(sim: Simulator, query: str, words: str) -> None:
    answer = api(sim, "GET", f"/payments?{query}")
    assert answer.status_code == 400
    assert words in answer.json()["error"]["description"]


def test_check_tells_good_keys_from_bad_and_changes_nothing(sim: Simulator) -> None:
    good = ask(sim, lambda one: one.check())
    assert (good.ok, good.live, good.missing) == (True, False, ())
    assert ask(sim, lambda one: one.check(), sample=2).live is True
    bad = ask(sim, lambda one: one.check(), key_secret="Wrong0Wrong0Wrong0")
    assert not bad.ok
    assert bad.hint is not None
    assert "Authentication failed" in bad.hint
    assert writes(sim) == []
    sim.switch("down")
    with pytest.raises(Unavailable):
        ask(sim, lambda one: one.check())


# Backfill


def records(found: list[Page], kind: str) -> dict[str, list[Any]]:
    """What all pages tell of one kind, by id."""
    out: dict[str, list[Any]] = {}
    for page in found:
        for record in getattr(page.snapshot, kind):
            out.setdefault(record.remote_id, []).append(record)
    return out


def test_backfill_tells_everything_once_and_ends(sim: Simulator) -> None:
    sample = sim.samples()[0]
    sim.fill(sample)
    found = pages(sim)
    assert found[-1].cursor is None
    assert all(page.cursor for page in found[:-1])
    kept = [one for one in sim.state["objects"].values() if one["entity"] != "plan"]
    for kind in ("customers", "subscriptions", "payments", "invoices", "refunds"):
        ids = {one["id"] for one in kept if f"{one['entity']}s" == kind}
        assert set(records(found, kind)) == ids, kind
    numbers = {
        record.number for rows in records(found, "orders").values() for record in rows if record.number
    }
    assert numbers == {"SO-1001", "SO-1002", "SO-1003", "SO-1004"}


def test_backfill_joins_payments_to_subscriptions_by_their_invoices(sim: Simulator) -> None:
    one = stage(sim)
    found = records(pages(sim), "payments")
    joined = [rows for rows in found.values() if any(record.subscription == one for record in rows)]
    assert len(joined) == 2
    for first, *rest in joined:  # the payment itself comes before the invoice that joins it
        assert first.status == "paid"
        assert [record.subscription for record in rest] == [one]


def test_backfill_says_nothing_of_the_card_of_a_subscription(sim: Simulator) -> None:
    stage(sim)
    for rows in records(pages(sim), "subscriptions").values():
        for record in rows:
            assert "method" not in record.knows


@pytest.mark.parametrize("stop", [1, 2, 7, 20])
def test_backfill_goes_on_where_it_stopped(sim: Simulator, stop: int) -> None:
    sim.fill(sim.samples()[0])
    whole = pages(sim)
    first = pages(sim, stop=stop)
    rest = pages(sim, cursor=first[-1].cursor)
    assert len(first) + len(rest) == len(whole)
    for kind in ("customers", "subscriptions", "payments", "orders", "invoices", "refunds"):
        assert set(records(first + rest, kind)) == set(records(whole, kind))


def test_backfill_walks_long_lists_and_new_rows_shift_nothing(sim: Simulator) -> None:
    sample = sim.samples()[0]
    for number in range(230):
        sim.sale(sample, f"buyer{number}@example.com", 10_000 + number, f"SO-{number}", "Tea", days=2)
    sample_pages = pages(sim, stop=4)  # customers, subscriptions, and into payments
    while "payments" not in {
        kind for page in sample_pages for kind in ("payments",) if page.snapshot.payments
    }:
        sample_pages += pages(sim, cursor=sample_pages[-1].cursor, stop=1)
    at(NOW + timedelta(minutes=5))
    for number in range(50):
        sim.sale(sample, "late@example.com", 1_000, f"LATE-{number}", "Tea")
    rest = pages(sim, cursor=sample_pages[-1].cursor)
    found = records(sample_pages + rest, "payments")
    assert len(found) == 230
    assert all(len(rows) == 1 for rows in found.values())


def test_an_empty_account_is_walked_in_few_calls(sim: Simulator) -> None:
    pages(sim)
    assert len(sim.calls) < 60


def test_an_order_that_nobody_tried_to_pay_is_left_out(sim: Simulator) -> None:
    sim._order(sim.samples()[0].credentials["key_id"], int(NOW.timestamp()) - 50, 5_000, "SO-9")
    assert records(pages(sim), "orders") == {}


# What happens


def test_a_year_goes_by(sim: Simulator) -> None:
    one = stage(sim)
    for day in range(0, 100, 5):
        at(NOW + timedelta(days=day))
        sim.tick()
    found = fetch(sim, one)
    assert the(found).status == "active"
    assert the(found).current_period_end is not None
    assert the(found).current_period_end > clock.now()  # type: ignore[operator]
    assert sim.standing(one).payments == 5
    assert len(found.invoices) == 5


def test_a_failing_card_leads_to_pending_and_after_four_attempts_to_halted(sim: Simulator) -> None:
    one = stage(sim)
    sim.state["objects"][one]["_used"]["declines"] = True  # from now on the bank refuses
    end = the(fetch(sim, one)).current_period_end
    assert end is not None
    words = []
    for day in range(6):
        at(end + timedelta(days=day, minutes=5))
        sim.tick()
        record = the(fetch(sim, one))
        words.append((record.raw_status, record.status, record.stopped))
    assert words[:3] == [("pending", "past_due", False)] * 3
    assert words[3:] == [("halted", "past_due", True)] * 3
    failed = [
        row
        for row in sim.state["objects"].values()
        if row["entity"] == "payment" and row["status"] == "failed"
    ]
    assert len(failed) == 4
    assert the(fetch(sim, one)).due == Money(49_900, "INR")


def test_a_trial_begins_to_be_charged_and_a_last_cycle_completes(sim: Simulator) -> None:
    trial, last = stage(sim, "trialing"), stage(sim, object="last_cycle")
    at(NOW + timedelta(days=40))
    sim.tick()
    assert the(fetch(sim, trial)).status == "active"
    assert the(fetch(sim, last)).status == "expired"
    assert "subscription.completed" in told(sim)


def test_what_nobody_authorised_in_time_expires(sim: Simulator) -> None:
    one = stage(sim, "incomplete")
    at(NOW + timedelta(days=15))
    sim.tick()
    assert the(fetch(sim, one)).status == "expired"


def test_charge_goes_through_or_fails(sim: Simulator) -> None:
    one = stage(sim)
    sim.charge(one)
    assert sim.standing(one).payments == 3
    act(sim, "cancel_now", one)
    sim.charge(one)  # by mistake
    assert (the(fetch(sim, one)).status, sim.standing(one).payments) == ("cancelled", 4)
    one = stage(sim)
    sim.charge(one, succeeds=False)
    assert the(fetch(sim, one)).status == "past_due"
    sim.charge(one)
    assert the(fetch(sim, one)).status == "active"


# Capabilities


def test_cancel_now_from_every_state(sim: Simulator) -> None:
    for state in ("active", "trialing", "past_due", "paused"):
        one = stage(sim, state)
        found = the(act(sim, "cancel_now", one))
        assert found.status == "cancelled"
        assert found.ended_at is not None
        assert sim.standing(one).raw == "cancelled"
        sim.calls.clear()
        assert the(act(sim, "cancel_now", one)).status == "cancelled"
        assert writes(sim) == []


def test_cancel_at_cycle_end_is_taken_shown_nowhere_and_comes(sim: Simulator) -> None:
    one = stage(sim)
    sim.sent.clear()
    before = the(fetch(sim, one))
    found = the(act(sim, "cancel_at_period_end", one, known=before))
    assert found.status == "cancels_at_period_end"
    assert found.cancels_at == before.current_period_end
    assert found.next_payment is None
    assert told(sim) == []
    assert the(fetch(sim, one)).status == "active"  # this is all that Razorpay says
    remembered = the(fetch(sim, one, known=found))
    assert remembered.knows is not None
    assert not {"status", "cancels_at", "next_payment"} & remembered.knows
    assert found.cancels_at is not None
    at(found.cancels_at + timedelta(minutes=5))
    sim.tick()
    assert the(fetch(sim, one, known=found)).status == "cancelled"


def test_a_repeated_cancel_at_cycle_end_is_safe(sim: Simulator) -> None:
    one = stage(sim)
    first, second = (the(act(sim, "cancel_at_period_end", one)) for _ in range(2))
    assert first.status == second.status == "cancels_at_period_end"
    assert first.cancels_at == second.cancels_at


def test_a_promised_end_that_does_not_come_is_told_and_can_be_made_to(sim: Simulator) -> None:
    one = stage(sim)
    sim.account(sim.samples()[0])["forgets_cancels"] = True
    known = the(act(sim, "cancel_at_period_end", one))
    assert known.cancels_at is not None
    at(known.cancels_at + timedelta(minutes=5))
    sim.tick()
    found = fetch(sim, one, known=known)
    assert the(found).status == "active"
    assert "status" in (the(found).knows or ())
    assert "still runs" in found.tell
    assert sim.standing(one).payments == 3  # it was charged again
    assert the(act(sim, "cancel_now", one, known=known)).status == "cancelled"


@pytest.mark.parametrize("state", ["trialing", "past_due", "paused", "incomplete"])
def test_cancel_at_cycle_end_is_not_even_asked_for_in_other_states(sim: Simulator, state: str) -> None:
    one = stage(sim, state)
    sim.calls.clear()
    with pytest.raises(Unsupported):
        act(sim, "cancel_at_period_end", one)
    assert writes(sim) == []
    shape = facts("razorpay").capabilities["cancel_at_period_end"].under(Circumstances(state=state))
    assert state == "incomplete" or shape.mode == "none"


@pytest.mark.parametrize("status", ["pending", "paused", "halted"])
def test_cycle_end_from_pending_paused_halted_is_200_without_effect(sim: Simulator, status: str) -> None:
    sample = sim.samples()[0]
    one = sim.subscribe(sample, "asha@example.com", sim.plan(sample, "Chai club", 49_900), status=status)
    answer = api(sim, "POST", f"/subscriptions/{one['id']}/cancel", json={"cancel_at_cycle_end": True})
    assert (answer.status_code, answer.json()["status"]) == (200, status)
    assert one["_ends"] is False


def test_pause_and_resume(sim: Simulator) -> None:
    one = stage(sim)
    period = the(fetch(sim, one)).current_period_end
    paused = the(act(sim, "pause", one))
    assert (paused.status, paused.next_payment) == ("paused", None)
    assert paused.current_period_end == period
    assert the(act(sim, "pause", one)).status == "paused"
    assert the(act(sim, "resume", one)).status == "active"
    assert the(act(sim, "resume", one)).next_payment is not None
    assert writes(sim) == ["POST pause", "POST resume"]
    assert told(sim)[-2:] == ["subscription.paused", "subscription.resumed"]


def test_pause_of_an_authenticated_one_would_cancel_and_is_never_sent(sim: Simulator) -> None:
    one = stage(sim, "trialing")
    sim.calls.clear()
    with pytest.raises(Unsupported):
        act(sim, "pause", one)
    assert writes(sim) == []
    assert api(sim, "POST", f"/subscriptions/{one}/pause", json={}).json()["status"] == "cancelled"


def test_resume_of_what_was_paused_in_the_app_is_never_sent(sim: Simulator) -> None:
    one = stage(sim, "paused", object="paused_elsewhere")
    sim.calls.clear()
    with pytest.raises(Unsupported, match="UPI app"):
        act(sim, "resume", one)
    assert writes(sim) == []


def test_change_of_plan_and_quantity_for_a_foreign_card_waits_for_the_cycle(sim: Simulator) -> None:
    one, bigger = stage(sim, method="foreign_card"), sim.plans(sim.samples()[0])[0]["plan"]
    wish = {"plan": bigger, "quantity": 2, "amount": Money(159_800, "INR"), "interval": Interval("month")}
    found = the(act(sim, "change_plan", one, wish, BACK))
    assert sim.standing(one).amount == 159_800
    assert found.amount == Money(49_900, "INR")
    assert found.pending_change is not None
    assert found.pending_change.amount == Money(159_800, "INR")
    assert (found.pending_change.title, found.pending_change.quantity) == ("Chai club, large", 2)
    assert found.next_payment is not None
    assert (found.next_payment.amount, found.next_payment.certainty) == (Money(159_800, "INR"), "estimated")
    sim.calls.clear()
    act(sim, "change_plan", one, {"plan": bigger, "quantity": 2}, BACK)
    assert writes(sim) == []  # asked for already
    sim.charge(one)
    after = the(fetch(sim, one))
    assert (after.amount, after.title, after.pending_change) == (
        Money(159_800, "INR"),
        "Chai club, large",
        None,
    )


@pytest.mark.parametrize("method", ["card", "upi", "emandate"])
def test_change_of_plan_is_refused_for_indian_ways_to_pay(sim: Simulator, method: str) -> None:
    one, bigger = stage(sim, method=method), sim.plan(sim.samples()[0], "Chai club, large", 79_900)
    with pytest.raises(Declined):
        act(sim, "change_plan", one, {"plan": bigger}, BACK)
    shape = facts("razorpay").capabilities["change_plan"].under(Circumstances("active", method=method))
    assert shape.mode == "request"


# Another card


class Forms(HTMLParser):
    """The forms of a page: by the mark of their button, where they go and what they send."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, tuple[str, dict[str, str]]] = {}
        self._target, self._fields = "", dict[str, str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._target, self._fields = given["action"], {}
        elif tag == "input":
            self._fields[given["name"]] = given["value"]
        elif tag == "button":
            self.found[given["data-test"]] = (self._target, self._fields)


def forms(content: str) -> dict[str, tuple[str, dict[str, str]]]:
    parser = Forms()
    parser.feed(content)
    return parser.found


def leave(sim: Simulator, one: str, sample: int = 0) -> Script:
    left = ask(sim, lambda g: g.start_method_update(Ref("subscription", one), BACK, "k"), sample)
    assert isinstance(left, Leave)
    assert left.script is not None
    return left.script


def press(sim: Simulator, script: Script, button: str) -> dict[str, str]:
    """Open Checkout as its script does, press a button, and give the fields of the POST that reaches the shop."""
    with httpx.Client(trust_env=False) as browser:
        page = browser.get(sim.opened_by_script(json.dumps(script.options)))
        target, fields = forms(page.text)[button]
        answer = browser.post(f"{sim.address}{target}", data=fields)
    assert "document.forms[0].submit()" in answer.text
    target, fields = forms(answer.text)[button]
    assert target == BACK
    return fields


def finish(
    sim: Simulator, one: str, query: dict[str, str], known: Record | None = None, sample: int = 0
) -> Snapshot:
    return ask(sim, lambda g: g.finish_method_update(Ref("subscription", one, known), {}, query), sample)


def test_the_script_is_served_and_takes_what_the_adapter_gives(sim: Simulator) -> None:
    script = leave(sim, stage(sim, "past_due"))
    assert script.src == f"{sim.address}/v1/checkout.js"
    answer = httpx.get(script.src, trust_env=False)
    assert answer.headers["content-type"].startswith("application/javascript")
    assert answer.text == CHECKOUT_JS
    used = set(re.findall(r"options\.([a-z_]+)", CHECKOUT_JS))
    assert used == {"key", "subscription_id", "subscription_card_change", "redirect", "callback_url"}
    assert used == set(script.options)
    assert script.connects[0] == sim.address


@pytest.mark.parametrize("status", ["pending", "halted"])
def test_another_card_after_a_failed_payment(sim: Simulator, status: str) -> None:
    sample = sim.samples()[0]
    made = sim.subscribe(sample, "asha@example.com", sim.plan(sample, "Chai club", 49_900), status=status)
    one = str(made["id"])
    before = the(fetch(sim, one))
    assert before.method is not None
    assert before.method.last4 == "4366"
    query = press(sim, leave(sim, one), "accept")
    after = finish(sim, one, query, before)
    found = the(after).method
    assert found is not None
    assert (found.last4, found.brand, found.expires) == ("5449", "MasterCard", "2029-11")
    assert found.remote_id not in (None, before.method.remote_id)
    assert found.remote_id == sim.standing(one).method
    assert the(after).status == "active"
    later = the(fetch(sim, one, known=the(after)))  # no payment of a period shows the new card after halted
    assert later.method == found or "method" not in (later.knows or ())


def test_another_card_while_active_is_taken_where_the_account_allows_it(sim: Simulator) -> None:
    one = stage(sim, sample=2)
    before = the(fetch(sim, one, sample=2))
    query = press(sim, leave(sim, one, sample=2), "accept")
    found = the(finish(sim, one, query, before, sample=2))
    assert found.method is not None
    assert found.method.last4 == "5449"
    later = the(fetch(sim, one, known=found, sample=2))
    assert "method" not in (
        later.knows or ()
    )  # what is known of the card stands until another period is paid
    sim.charge(one)
    renewed = the(fetch(sim, one, known=found, sample=2))
    assert renewed.method is not None
    assert renewed.method.remote_id == found.method.remote_id


def test_another_card_while_active_is_refused_elsewhere(sim: Simulator) -> None:
    one = stage(sim)
    sim.account(sim.samples()[0])["active_card_change"] = False
    opened = httpx.get(sim.opened_by_script(json.dumps(leave(sim, one).options)), trust_env=False)
    assert set(forms(opened.text)) == {"back"}
    with pytest.raises(Declined):
        finish(sim, one, press(sim, leave(sim, one), "back"))


@pytest.mark.parametrize(("button", "reason"), [("decline", "payment_failed"), ("back", "payment_cancelled")])
def test_a_refused_card_comes_back_as_an_error(sim: Simulator, button: str, reason: str) -> None:
    one = stage(sim, "past_due")
    query = press(sim, leave(sim, one), button)
    assert query["error[reason]"] == reason
    with pytest.raises(Declined, match=reason):
        finish(sim, one, query)
    assert the(fetch(sim, one)).status == "past_due"


def test_decline_mode_refuses_the_card_too(sim: Simulator) -> None:
    one = stage(sim, "past_due")
    script = leave(sim, one)
    sim.switch("decline")
    query = press(sim, script, "accept")
    assert "razorpay_payment_id" not in query
    with pytest.raises(Declined):
        finish(sim, one, query)


def test_the_hosted_page_changes_the_card_and_sends_nobody_back(sim: Simulator) -> None:
    one = stage(sim, "past_due")
    left = ask(sim, lambda g: g.start_method_update(Ref("subscription", one), BACK, "k"))
    assert facts("razorpay").allows_link(left.url, {"simulator": sim.address})
    with httpx.Client(trust_env=False) as browser:
        target, fields = forms(browser.get(left.url).text)["accept"]
        done = browser.post(f"{sim.address}{target}", data=fields)
    assert done.status_code == 200
    assert the(fetch(sim, one)).status == "active"


def test_an_invoice_has_a_page(sim: Simulator) -> None:
    invoice = fetch(sim, stage(sim)).invoices[0]
    assert invoice.page_url is not None
    assert "Chai club: INR 499.00, paid" in httpx.get(invoice.page_url, trust_env=False).text
    assert httpx.get(f"{sim.address}/i/nothing", trust_env=False).status_code == 404


def test_checkout_opens_for_its_own_account_only(sim: Simulator) -> None:
    one = stage(sim, "past_due")
    query = {"key_id": sim.samples()[1].credentials["key_id"], "subscription_id": one}
    query |= {"card_change": "1", "callback_url": BACK}
    assert httpx.get(f"{sim.address}/checkout/card?{urlencode(query)}", trust_env=False).status_code == 400
    assert httpx.post(f"{sim.address}/checkout/card/none", trust_env=False).status_code == 400


# Webhooks


def test_webhooks_are_proved_and_lead_to_the_truth(sim: Simulator) -> None:
    one = stage(sim)
    sim.charge(one)
    sim.charge(one, succeeds=False)
    seen = set()
    for delivery in sim.sent:
        (event,) = adapter(sim).verify(list(delivery.headers.items()), delivery.body, NOW)
        assert event.subject is not None
        assert event.id == delivery.headers["x-razorpay-event-id"]
        snapshot = ask(sim, lambda g, event=event: g.refetch(event))  # type: ignore[misc]
        assert snapshot is not None
        seen.add((event.type, event.subject.kind))
    expected = {("subscription.charged", "subscription"), ("subscription.pending", "subscription")}
    expected |= {("payment.captured", "payment"), ("payment.authorized", "payment")}
    expected |= {("payment.failed", "payment"), ("order.paid", "order"), ("invoice.paid", "invoice")}
    assert seen == expected


def test_a_refund_is_told_by_its_payment(sim: Simulator) -> None:
    sold = sim.sale(sim.samples()[0], "asha@example.com", 20_000, "SO-1", "Tea")
    sim.refund(sold["id"], 5_000)
    delivery = sim.sent[-1]
    (event,) = adapter(sim).verify(list(delivery.headers.items()), delivery.body, NOW)
    assert (event.type, event.subject) == ("refund.processed", Ref("payment", sold["id"]))
    snapshot = ask(sim, lambda g: g.refetch(event))
    assert snapshot is not None
    assert snapshot.payments[0].status == "partially_refunded"
    assert [(row.status, row.amount) for row in snapshot.refunds] == [("sent", Money(5_000, "INR"))]


def spoils(sim: Simulator) -> list[Forgery]:
    stage(sim)
    return sim.forgeries(sim.samples()[0], sim.sent[0])


def test_every_forgery_is_refused(sim: Simulator) -> None:
    found = spoils(sim)
    assert len(found) >= 25
    one = adapter(sim)
    for forgery in found:
        with pytest.raises(BadSignature):
            one.verify(forgery.headers, forgery.body, NOW)
    true = sim.sent[0]
    assert one.verify(list(true.headers.items()), true.body, NOW)
    for other in (
        adapter(sim, 1),
        adapter(sim, webhook_secret=""),
        adapter(sim, webhook_secret="another one"),
    ):
        with pytest.raises(BadSignature):
            other.verify(list(true.headers.items()), true.body, NOW)


def test_the_signature_is_an_hmac_of_the_raw_body(sim: Simulator) -> None:
    stage(sim)
    true, secret = sim.sent[0], sim.samples()[0].credentials["webhook_secret"]
    expected = hmac.new(secret.encode(), true.body, hashlib.sha256).hexdigest()
    assert true.headers["X-Razorpay-Signature"] == expected


# Faults


def test_decline_mode_refuses_every_change_and_reads_go_on(sim: Simulator) -> None:
    one = stage(sim, method="foreign_card")
    plan = sim.plan(sim.samples()[0], "Chai club, large", 79_900)
    sim.switch("decline")
    for name, more in (
        ("cancel_now", ()),
        ("cancel_at_period_end", ()),
        ("pause", ()),
        ("change_plan", ({"plan": plan}, BACK)),
    ):
        with pytest.raises(Declined):
            act(sim, name, one, *more)
    assert the(fetch(sim, one)).status == "active"


def test_too_many_questions_are_told_with_the_time_to_wait(sim: Simulator) -> None:
    one = stage(sim)
    sim.fail_next.append("429:7")
    with pytest.raises(Unavailable) as caught:
        fetch(sim, one)
    assert (caught.value.retry_after, caught.value.sent) == (7.0, False)
    sim.fail_next.append("429")
    with pytest.raises(Unavailable) as caught:
        pages(sim)
    assert caught.value.retry_after == 60.0


def test_refused_keys_are_an_outage_of_the_shop(sim: Simulator) -> None:
    one = stage(sim)
    sim.switch("refused_keys")
    with pytest.raises(Unavailable, match="Authentication failed"):
        fetch(sim, one)


@pytest.mark.parametrize("name", ["cancel_now", "cancel_at_period_end", "pause"])
def test_an_answer_that_never_comes_is_unknown_and_may_be_asked_again(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    one = stage(sim)
    monkeypatch.setattr(http, "READ_S", 0.3)

    async def twice() -> SubscriptionRecord:
        gate = gateway("razorpay", sim.samples()[0].credentials, simulator=sim.address)
        sim.fail_next[:] = ["", "timeout_after"]  # a look, then the call
        with pytest.raises(Unavailable) as caught:
            await getattr(gate, name)(Ref("subscription", one), "k")
        assert caught.value.sent
        found = await getattr(gate, name)(Ref("subscription", one), "k")
        await gate.aclose()
        return the(found)

    assert _runner is not None
    expected = {"cancel_now": "cancelled", "pause": "paused"}.get(name, "cancels_at_period_end")
    assert _runner.run(twice()).status == expected
    assert writes(sim).count(f"POST {'pause' if name == 'pause' else 'cancel'}") == (
        2 if "end" in name else 1
    )


@pytest.mark.parametrize(
    "fault", ["html", "empty", "truncated", "wrong_types", "missing_fields", "unknown_status"]
)
def test_garbage_never_becomes_anything_but_unavailable_or_less(sim: Simulator, fault: str) -> None:
    one = stage(sim, method="foreign_card")
    plan = sim.plan(sim.samples()[0], "Chai club, large", 79_900)
    calls: list[Callable[[Adapter], Awaitable[Any]]] = [
        lambda g: g.fetch(Ref("subscription", one)),
        lambda g: g.pause(Ref("subscription", one), "k"),
        lambda g: g.resume(Ref("subscription", one), "k"),
        lambda g: g.change_plan(Ref("subscription", one), {"plan": plan}, BACK, "k"),
        lambda g: g.cancel_at_period_end(Ref("subscription", one), "k"),
        lambda g: g.start_method_update(Ref("subscription", one), BACK, "k"),
        lambda g: g.check(),
        lambda g: g.cancel_now(Ref("subscription", one), "k"),
    ]
    for number, call in enumerate(calls):
        for place in (0, 1, 3):  # the first, second or fourth answer of the call is spoiled
            sim.fail_next[:] = [""] * place + [fault]
            try:
                found = ask(sim, call)
            except (Unavailable, Unsupported, Declined):
                continue
            finally:
                sim.fail_next.clear()
            if isinstance(found, Snapshot) and fault == "unknown_status" and number == 0:
                assert place > 0 or the(found).status is None


@pytest.mark.parametrize("fault", ["html", "empty", "truncated", "wrong_types", "missing_fields"])
def test_backfill_of_garbage_is_unavailable_and_never_an_end(sim: Simulator, fault: str) -> None:
    stage(sim, method="foreign_card")
    whole = len(pages(sim))
    for place in (0, 1, 2, 5, whole):  # customers, subscriptions, the plan, payments, refunds
        adapter(sim)._plans.clear()
        sim.fail_next[:] = [""] * place + [fault]
        with pytest.raises(Unavailable):
            pages(sim)
        assert sim.fail_next == []


def test_older_accounts_lack_the_newer_fields(sim: Simulator) -> None:
    """Neither the method nor the address stands in the subscription: its invoices and payments have them."""
    one = stage(sim, method="foreign_card")
    sim.account(sim.samples()[0])["lean"] = True
    found = the(fetch(sim, one))
    assert found.email == "asha@example.com"
    assert found.method is not None
    assert (found.method.kind, found.method.last4) == ("foreign_card", "1111")
    trial = stage(sim, "trialing")
    snapshot = fetch(sim, trial)
    assert the(snapshot).email == "asha@example.com"  # of its customer
    assert snapshot.customers[0].email == "asha@example.com"


def test_the_return_reaches_the_shop_as_a_form_of_another_site(sim: Simulator) -> None:
    query = press(sim, leave(sim, stage(sim, "past_due")), "accept")
    body = urlencode(query)
    assert set(parse_qs(body)) == {
        "razorpay_payment_id",
        "razorpay_subscription_id",
        "razorpay_signature",
    }
    assert dict(parse_qsl(body)) == query


def test_a_form_for_the_wrong_subscription_changes_nothing_here(sim: Simulator) -> None:
    """The signature is held against our own id, whatever id the form names."""
    mine, other = stage(sim, "past_due"), stage(sim, "past_due")
    query = press(sim, leave(sim, other), "accept")
    before = the(fetch(sim, mine))
    after = the(finish(sim, mine, {**query, "razorpay_subscription_id": mine}, before))
    assert after.status == "past_due"
    assert replace(after, knows=None).method in (None, before.method)
