"""The adapter for PayPal against its simulator, with both sides held against PayPal's own specification."""

import asyncio
import json
import pickle
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from itertools import pairwise
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import httpx2 as httpx
import pytest

from portal import clock
from portal.gateways import base, facts, gateway, http
from portal.gateways._paypal import records as paypals
from portal.gateways._paypal import webhooks
from portal.gateways.base import BadSignature, Declined, Gone, Leave, Ref, Snapshot, Unavailable, Unsupported
from portal.gateways.capabilities import Circumstances
from portal.gateways.paypal import Adapter
from portal.money import Money
from seeds.simulators.harness import Exchange, Sample, Servers, Situation
from seeds.simulators.paypal import Simulator
from tests.conftest import SHARED
from tests.contracts import Check, both, openapi

NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
SPECS = SHARED / "specs" / "paypal"
HOOK = "http://127.0.0.1:9/webhooks/none"  # nobody listens
Result = TypeVar("Result")


@pytest.fixture(autouse=True)
def _at_half_past_nine(monkeypatch: pytest.MonkeyPatch) -> None:
    clock.set_offset(NOW - datetime.now(UTC))
    # Nothing here is encrypted, and reading all authorities for each client would take most of the time.
    plain = partial(httpx.AsyncClient, verify=False)
    monkeypatch.setattr("portal.gateways.http.httpx.AsyncClient", plain)


@pytest.fixture(scope="module")
def server() -> Iterator[Simulator]:
    """One server for all tests here; each finds it as new."""
    one = Simulator(clock.now)
    for sample in one.samples():
        one.open(sample, "")
    one.save()
    with Servers([one]):
        yield one


@pytest.fixture
def served(server: Simulator) -> Simulator:
    server.reset()
    server.contract = None
    return server


@pytest.fixture
def held(served: Simulator) -> Iterator[Simulator]:
    """With every exchange held against the specification, where somebody has it."""
    served.contract = specification() if SPECS.exists() else None
    yield served
    assert served.problems == []


@cache
def specification() -> Check:
    # Their pattern for a reference has no dash, which every id of a subscription has.
    report = openapi(SPECS / "reporting_transactions_v1.json", ignore=("paypal_reference_id:",))
    listed = json.loads((SPECS / "addendum-subscriptions-list.json").read_text())

    def reporting(exchange: Exchange) -> list[str]:  # the file has the server's path twice
        found = report(replace(exchange, path=f"/v1/reporting{exchange.path}"))
        return [one.replace("/v1/reporting/v1/", "/v1/", 1) for one in found]

    def newer(exchange: Exchange) -> list[str]:
        if (exchange.method, exchange.path) == ("GET", listed["path"]):
            asked = {name for name, _ in parse_qsl(exchange.query)}
            problems = [f"the query has an unknown field {name}" for name in asked - set(listed["query"])]
            said = json.loads(exchange.content)
            needed = set(listed["response_200"]) if exchange.status == 200 else set()
            return problems + [f"the answer lacks {name}" for name in needed - set(said)]
        if (exchange.method, exchange.path) == ("POST", "/v1/oauth2/token"):
            good = exchange.body == b"grant_type=client_credentials"
            return [] if good else ["the token is asked for in another way"]
        return [f"{exchange.method} {exchange.path} is no operation of the contract."]

    names = ("billing_subscriptions_v1", "checkout_orders_v2", "payments_payment_v2", "invoicing_v2")
    # They name this issue for a new subscription, and none for a revised one.
    ignore = ("SUBSCRIPTION_CANNOT_HAVE_QUANTITY",)
    files = [openapi(SPECS / f"{name}.json", ignore) for name in (*names, "notifications_webhooks_v1")]
    return both(*files, reporting, newer)


def run(
    sim: Simulator, work: Callable[[base.Gateway], Awaitable[Result]], sample: Sample | None = None
) -> Result:
    """One piece of work with a fresh gateway."""

    async def go() -> Result:
        one = gateway("paypal", (sample or sim.samples()[0]).credentials, simulator=sim.address)
        try:
            return await work(one)
        finally:
            await one.aclose()

    return asyncio.run(go())


def staged(sim: Simulator, state: str = "active", sample: int = 0, **more: Any) -> Ref:
    found = sim.stage(sim.samples()[sample], "ana@example.com", Situation(state, **more))
    assert found is not None
    return Ref("subscription", found)


def fetch(sim: Simulator, ref: Ref) -> base.SubscriptionRecord:
    return run(sim, lambda one: one.fetch(ref)).subscriptions[0]


async def everything(one: base.Gateway, cursor: str | None = None) -> list[base.Page]:
    return [page async for page in one.backfill(cursor)]


def records(pages: list[base.Page], sort: str) -> dict[str, Any]:
    return {record.remote_id: record for page in pages for record in getattr(page.snapshot, sort)}


def wrote(sim: Simulator) -> list[str]:
    """What was asked to be changed."""
    return [
        call.path.rpartition("/")[2]
        for call in sim.calls
        if "/subscriptions/" in call.path and call.method == "POST"
    ]


def press(url: str, **fields: str) -> httpx.Response:
    with httpx.Client(trust_env=False, verify=False, follow_redirects=False) as client:
        shown = client.get(url)
        assert shown.status_code == 200, shown.text
        return client.post(url, data=fields)


@pytest.mark.skipif(not SPECS.exists(), reason="PayPal's OpenAPI files are not here")
def test_the_specification_finds_what_is_wrong() -> None:
    head = {"content-type": "application/json"}

    def held_against(method: str, path: str, status: int, body: Any, said: Any, query: str = "") -> list[str]:
        sent, answer = (json.dumps(one).encode() if one is not None else b"" for one in (body, said))
        return specification()(Exchange(method, path, query, head, sent, status, "application/json", answer))

    one = "/v1/billing/subscriptions/I-1"
    assert held_against("POST", f"{one}/cancel", 204, {"reason": "x"}, None) == []
    assert held_against("POST", f"{one}/cancel", 204, {}, None)
    assert held_against("GET", f"{one}/transactions", 200, None, {})
    assert held_against("GET", one, 200, None, {"billing_info": {}})
    assert held_against("GET", "/v1/billing/subscriptions", 200, None, {"subscriptions": []}, "email=a")
    assert held_against("GET", "/v1/billing/everything", 200, None, {})


# Keys and permissions


def test_check_is_good_for_every_sample_and_asks_nothing_to_change(held: Simulator) -> None:
    for sample in held.samples():
        health = run(held, lambda one: one.check(), sample)
        assert (health.ok, health.live) == (True, sample.credentials["environment"] == "live")
    assert {call.method for call in held.calls if call.path != "/v1/oauth2/token"} == {"GET"}


def test_credentials_of_the_samples_match_the_patterns_of_the_facts(served: Simulator) -> None:
    for sample in served.samples():
        for field in facts("paypal").credentials:
            assert re.fullmatch(field.pattern, sample.credentials[field.name]), field.name
    first, stranger, *_ = served.samples()
    assert not set(first.credentials.values()) & set(stranger.credentials.values()) - {"live"}


def test_wrong_secret_is_told_and_not_raised(served: Simulator) -> None:
    first = served.samples()[0]
    wrong = replace(first, credentials={**first.credentials, "client_secret": "E" + "0" * 79})
    health = run(served, lambda one: one.check(), wrong)
    assert not health.ok
    assert "client ID" in (health.hint or "")
    assert "0000" not in (health.hint or "")


def test_check_names_the_features_that_the_app_lacks(served: Simulator) -> None:
    app = served.samples()[0].credentials["client_id"]
    served.state["apps"][app]["may"] = ["list"]
    health = run(served, lambda one: one.check())
    assert (health.ok, health.missing) == (False, ("Subscriptions", "Transaction Search"))


def test_check_finds_a_webhook_id_of_another_app(served: Simulator) -> None:
    first, stranger, _ = served.samples()
    mixed = {**first.credentials, "webhook_id": stranger.credentials["webhook_id"]}
    health = run(served, lambda one: one.check(), replace(first, credentials=mixed))
    assert not health.ok
    assert "webhook ID" in (health.hint or "")


def test_check_raises_only_for_an_outage(served: Simulator) -> None:
    served.switch("down")
    with pytest.raises(Unavailable):
        run(served, lambda one: one.check())


def test_stranger_finds_nothing_of_another_app(served: Simulator) -> None:
    ref = staged(served)
    with pytest.raises(Gone):
        run(served, lambda one: one.fetch(ref), served.samples()[1])
    with pytest.raises(Gone):
        run(served, lambda one: one.cancel_now(ref, "k"), served.samples()[1])
    assert served.standing(ref.id).charges


def test_one_token_serves_many_calls_and_is_renewed_once_when_refused(served: Simulator) -> None:
    ref = staged(served)

    async def work(one: base.Gateway) -> None:
        await one.fetch(ref)
        await one.fetch(ref)
        served.state["tokens"].clear()  # as if PayPal had taken it back
        await one.fetch(ref)

    run(served, work)
    assert [call.path for call in served.calls].count("/v1/oauth2/token") == 2


def test_token_is_asked_for_again_when_its_time_is_over(served: Simulator) -> None:
    ref = staged(served)

    async def work(one: base.Gateway) -> None:
        await one.fetch(ref)
        clock.set_offset(clock.offset() + timedelta(hours=9))
        await one.fetch(ref)

    run(served, work)
    assert [call.path for call in served.calls].count("/v1/oauth2/token") == 2
    assert [call.path for call in served.calls].count(f"/v1/billing/subscriptions/{ref.id}") == 2


# Everything there is


def test_backfill_brings_people_states_orders_refunds_and_invoices(held: Simulator) -> None:
    held.fill(held.samples()[0])
    pages = run(held, everything)
    subscriptions = records(pages, "subscriptions").values()
    assert {one.email for one in subscriptions} == {"noor@example.com", "paypal@example.com"}
    assert sorted(one.status for one in subscriptions if one.email == "paypal@example.com") == [
        *("active", "cancelled", "expired", "incomplete"),
        *("past_due", "past_due", "paused", "trialing"),
    ]
    orders = {one.lines[0].name: one for one in records(pages, "orders").values() if one.lines}
    assert orders["Cast-iron teapot"].status == "paid"
    assert (orders["Whisk"].status, orders["Bowls"].status) == ("refunded", "partially_refunded")
    assert orders["Tokyo tasting"].amount == Money(5000, "JPY")
    assert [(line.name, line.quantity, line.amount.minor) for line in orders["Gyokuro 100 g"].lines] == [
        ("Gyokuro 100 g", 2, 5700),
        ("Tin", 1, 450),
    ]
    payments = records(pages, "payments")
    assert {one.status for one in payments.values()} == {"paid", "failed", "refunded", "partially_refunded"}
    assert all(one.subscription or one.order or one.invoice for one in payments.values())
    assert sorted(one.amount.minor for one in records(pages, "refunds").values()) == [1900, 2400]
    invoices = records(pages, "invoices").values()
    assert sorted((one.status, one.due.minor) for one in invoices) == [("open", 7500), ("paid", 0)]
    paid = next(one for one in invoices if one.status == "paid")
    assert payments[paid.payment].invoice == paid.remote_id
    assert payments[paid.payment].object == "invoice"
    assert pages[-1].cursor is None


def test_backfill_asks_for_no_more_than_31_days_and_three_years(held: Simulator) -> None:
    held.fill(held.samples()[0])
    asked: list[dict[str, str]] = []
    check = held.contract

    def watch(exchange: Exchange) -> list[str]:
        if exchange.path == "/v1/reporting/transactions":
            asked.append(dict(parse_qsl(exchange.query)))
        return check(exchange) if check else []

    held.contract = watch
    run(held, everything)
    spans = [
        (datetime.fromisoformat(one["start_date"]), datetime.fromisoformat(one["end_date"])) for one in asked
    ]
    assert all(until - since <= timedelta(days=31) for since, until in spans)
    assert all(earlier[0] == later[1] for earlier, later in pairwise(spans))
    assert timedelta(days=1090) < NOW - spans[-1][0] <= timedelta(days=1095)


def test_backfill_resumes_at_every_cursor_and_loses_nothing(served: Simulator) -> None:
    served.fill(served.samples()[0])
    pages = run(served, everything)
    whole = {
        sort: records(pages, sort) for sort in ("subscriptions", "orders", "payments", "refunds", "invoices")
    }
    for stop in (0, 1, 2, len(pages) - 2):
        rest = run(served, lambda one, stop=stop: everything(one, pages[stop].cursor))  # type: ignore[misc]
        assert len(rest) == len(pages) - stop - 1
        for sort, known in whole.items():
            assert set(records(pages[: stop + 1] + rest, sort)) == set(known)


def test_older_app_may_not_list_and_finds_subscriptions_by_their_payments(served: Simulator) -> None:
    sample = served.samples()[2]
    served.fill(sample)
    found = records(run(served, everything, sample), "subscriptions")
    assert {one.email for one in found.values()} == {"noor@example.com", "paypal@example.com"}
    assert {"active", "past_due", "paused", "cancelled"} <= {one.status for one in found.values()}


def test_backfill_without_transaction_search_still_has_subscriptions_and_invoices(served: Simulator) -> None:
    sample = served.samples()[0]
    served.fill(sample)
    served.state["apps"][sample.credentials["client_id"]]["may"].remove("reporting")
    pages = run(served, everything)
    assert len(records(pages, "subscriptions")) == 9
    assert len(records(pages, "invoices")) == 2


def test_too_large_a_report_is_asked_for_in_smaller_windows(served: Simulator) -> None:
    sample = served.samples()[0]
    served.fill(sample)
    whole = records(run(served, everything), "payments")
    served.state["apps"][sample.credentials["client_id"]]["report_limit"] = 3
    assert set(records(run(served, everything), "payments")) == set(whole)


def test_report_of_several_pages_is_read_from_its_end(
    served: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = served.samples()[0].credentials["client_id"]
    at = NOW - timedelta(days=20)
    for number in range(501):
        served.buy(app, "noor@example.com", [("Tin", 1, 450)], at + timedelta(minutes=number), classic=True)
    first = next(iter(served.state["payments"]))
    served.give_back(first, 450, NOW - timedelta(days=2))
    pages = run(served, everything)
    found = records(pages, "payments")
    assert len(found) == 501
    assert found[first].status == "refunded"


def test_refund_after_the_window_of_its_payment_is_not_called_paid_again(served: Simulator) -> None:
    app = served.samples()[0].credentials["client_id"]
    payment = served.buy(app, "noor@example.com", [("Tin", 1, 450)], NOW - timedelta(days=100), classic=True)
    served.give_back(payment, 150, NOW - timedelta(days=3))
    found = records(run(served, everything), "payments")[payment]
    assert (found.status, found.refunded) == ("partially_refunded", Money(150, "EUR"))


def test_backfill_says_when_to_come_back(served: Simulator) -> None:
    served.fail_next.append("429:7")
    with pytest.raises(Unavailable) as caught:
        run(served, everything)
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("fault", ["html", "empty", "truncated", "wrong_types", "missing_fields"])
def test_garbage_never_makes_a_list_look_empty(served: Simulator, fault: str) -> None:
    served.fill(served.samples()[0])
    cursors = [None, '{"stage": "report", "page": 0}', '{"stage": "invoices", "page": 1}']
    if fault == "missing_fields":  # subscriptions are listed without a number of them
        cursors.remove(None)

    async def work(one: base.Gateway) -> None:
        await one.check()  # has the token
        for cursor in cursors:
            served.fail_next.append(fault)
            with pytest.raises(Unavailable):
                await everything(one, cursor)

    run(served, work)


def test_unknown_status_keeps_the_last_known_state(served: Simulator) -> None:
    ref = staged(served)

    async def work(one: base.Gateway) -> Snapshot:
        await one.check()
        served.fail_next.append("unknown_status")
        return await one.fetch(ref)

    found = run(served, work).subscriptions[0]
    assert (found.status, found.raw_status) == (None, "a_word_of_tomorrow")
    assert found.knows is not None
    assert "status" not in found.knows


def test_no_call_looks_for_an_email(served: Simulator) -> None:
    assert run(served, lambda one: one.find("noor@example.com")) == []


@pytest.mark.parametrize("kind", ["order", "payment", "refund"])
def test_fetch_of_a_purchase_brings_its_email_whichever_end_is_asked(held: Simulator, kind: Any) -> None:
    app = held.samples()[0].credentials["client_id"]
    payment = held.buy(app, "noor@example.com", [("Bowls", 2, 1900)], NOW - timedelta(days=3))
    refund = held.give_back(payment, 1900, NOW - timedelta(days=2))
    order = held.state["payments"][payment]["order"]
    asked = Ref(kind, {"order": order, "payment": payment, "refund": refund}[kind])
    found = run(held, lambda one: one.fetch(asked))
    assert [one.email for one in found.orders] == ["noor@example.com"]
    assert [(one.remote_id, one.status, one.refunded, one.order) for one in found.payments] == [
        (payment, "partially_refunded", Money(1900, "EUR"), order)
    ]
    assert [(one.remote_id, one.payment, one.status) for one in found.refunds] == [(refund, payment, "sent")]
    assert [one.name for one in found.customers] == ["Noor Example"]


def test_fetch_of_an_invoice_has_its_page(held: Simulator) -> None:
    app = held.samples()[0].credentials["client_id"]
    number = held.bill(app, "ines@example.com", "Workshop", 7500, NOW - timedelta(days=2), paid=False)
    one = run(held, lambda one: one.fetch(Ref("invoice", number))).invoices[0]
    assert (one.status, one.amount, one.email) == ("open", Money(7500, "EUR"), "ines@example.com")
    assert facts("paypal").allows_link(one.page_url or "", {"": held.address})


def test_payment_of_a_subscription_is_found_through_it(held: Simulator) -> None:
    ref = staged(held)
    payment = held._of(held.state["subscriptions"][ref.id])[0]["id"]
    known = base.PaymentRecord(remote_id=payment, subscription=ref.id)
    found = run(held, lambda one: one.fetch(Ref("payment", payment, known)))
    assert [one.remote_id for one in found.payments] == [payment]
    with pytest.raises(Gone):  # and by no other way
        run(held, lambda one: one.fetch(Ref("payment", payment)))


def test_nobody_can_ask_for_a_customer(served: Simulator) -> None:
    with pytest.raises(Unsupported):
        run(served, lambda one: one.fetch(Ref("customer", "2J6QB8YJQSJRJ")))


# Situations


STATES = ["incomplete", "trialing", "active", "past_due", "paused", "cancelled", "expired"]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("method", ["wallet", "card"])
@pytest.mark.parametrize("sort", [None, "fixed_quantity"])
def test_every_stage_reads_as_what_it_is(held: Simulator, state: str, method: str, sort: str | None) -> None:
    ref = staged(held, state, method=method, object=sort, token=False)
    one = fetch(held, ref)
    assert (one.status, one.method and one.method.kind, one.object) == (state, method, sort)
    assert bool(one.due) == (state == "past_due")
    standing = held.standing(ref.id)
    assert standing.charges == (one.next_payment is not None)
    if one.next_payment:
        assert one.next_payment.on == standing.next_on
        assert one.next_payment.amount == Money(standing.amount or 0, "EUR")
    if method == "card":
        assert one.method == base.Method("card", "Visa", "4242", "2029-08")


def test_what_paypal_cannot_have_is_not_staged(served: Simulator) -> None:
    sample = served.samples()[0]
    for situation in (
        Situation("cancels_at_period_end"),
        Situation("active", method="upi"),
        Situation("active", object="agreement"),
        Situation("active", token=True),
        Situation("active", due=True),
    ):
        assert served.stage(sample, "ana@example.com", situation) is None


def test_past_due_without_the_link_has_nothing_due_here(held: Simulator) -> None:
    ref = staged(held, "past_due", due=False)
    one = fetch(held, ref)
    assert (one.status, one.raw_status, one.due, one.due_link, one.stopped) == (
        "past_due",
        "ACTIVE",
        None,
        None,
        False,
    )
    assert one.retries_on == (NOW + timedelta(days=5)).date()
    assert one.next_payment is not None
    assert one.next_payment.amount == Money(2400, "EUR")  # with what is open
    with pytest.raises(Unsupported):
        run(held, lambda gate: gate.pay_now(ref, "https://shop.example/return", "k"))


def test_charges_of_the_simulator_are_seen(held: Simulator) -> None:
    ref = staged(held)
    before = fetch(held, ref)
    clock.set_offset(clock.offset() + timedelta(days=25))
    held.tick()
    after = run(held, lambda one: one.fetch(ref))
    assert held.standing(ref.id).payments == 2
    assert len([one for one in after.payments if one.status == "paid"]) == 2
    assert before.current_period_end is not None
    assert after.subscriptions[0].current_period_start == before.current_period_end
    held.charge(ref.id, succeeds=False)
    failed = run(held, lambda one: one.fetch(ref))
    assert failed.subscriptions[0].status == "past_due"
    assert [one.failure and one.failure.code for one in failed.payments if one.status == "failed"] == [
        "declined"
    ]


def test_retry_that_goes_through_ends_past_due(served: Simulator) -> None:
    ref = staged(served, "past_due", due=False)
    clock.set_offset(clock.offset() + timedelta(days=6))
    served.tick()
    assert fetch(served, ref).status == "active"
    assert served.standing(ref.id).payments == 2


# Wishes


def test_cancel_now_is_final_and_a_second_one_is_success(held: Simulator) -> None:
    ref = staged(held)
    until = fetch(held, ref).current_period_end
    after = run(held, lambda one: one.cancel_now(ref, "k1")).subscriptions[0]
    assert (after.status, after.next_payment, after.current_period_end) == ("cancelled", None, until)
    assert not held.standing(ref.id).charges
    again = run(held, lambda one: one.cancel_now(ref, "k1")).subscriptions[0]
    assert again.status == "cancelled"
    assert wrote(held) == ["cancel"]
    assert [call.headers["paypal-request-id"] for call in held.calls if call.path.endswith("/cancel")] == [
        "k1-cancel"
    ]


def test_cancelled_at_paypals_site_meanwhile_is_success(served: Simulator) -> None:
    """HabitRPG/habitica#8757: the refusal is read back before it is believed."""
    ref = staged(served)

    async def work(one: base.Gateway) -> Snapshot:
        before = await one.fetch(ref)
        assert before.subscriptions[0].status == "active"
        ask = one._api._send  # type: ignore[attr-defined]

        async def late(method: str, *more: Any) -> Any:
            if method == "POST":
                served._become(served.state["subscriptions"][ref.id], "CANCELLED", NOW)
            return await ask(method, *more)

        one._api._send = late  # type: ignore[attr-defined]
        return await one.cancel_now(ref, "k")

    assert run(served, work).subscriptions[0].status == "cancelled"


def test_approval_pending_cannot_be_cancelled(held: Simulator) -> None:
    ref = staged(held, "incomplete")
    with pytest.raises(Unsupported):
        run(held, lambda one: one.cancel_now(ref, "k"))
    assert wrote(held) == []


@pytest.mark.parametrize("state", ["active", "trialing", "past_due", "paused"])
def test_everything_that_runs_can_be_cancelled_now(held: Simulator, state: str) -> None:
    ref = staged(held, state)
    assert run(held, lambda one: one.cancel_now(ref, "k")).subscriptions[0].status == "cancelled"


def test_pause_keeps_the_end_of_the_paid_time_that_paypal_no_longer_shows(held: Simulator) -> None:
    """shopware/SwagPayPal#11: a suspended one has no next_billing_time."""
    ref = staged(held)
    until = fetch(held, ref).current_period_end
    after = run(held, lambda one: one.pause(ref, "k")).subscriptions[0]
    assert (after.status, after.next_payment, after.current_period_end) == ("paused", None, until)
    later = fetch(held, ref)
    assert later.knows is not None
    assert "current_period_end" not in later.knows  # the row keeps what it has
    assert {"status", "next_payment"} <= later.knows


def test_resume_goes_on_at_the_old_date(held: Simulator) -> None:
    ref = staged(held)
    before = fetch(held, ref)
    run(held, lambda one: one.pause(ref, "k1"))
    after = run(held, lambda one: one.resume(ref, "k2"))
    assert after.subscriptions[0].next_payment == before.next_payment
    assert after.tell == ""
    run(held, lambda one: one.resume(ref, "k2"))
    assert wrote(held) == ["suspend", "activate"]


def test_merchant_is_told_when_going_on_is_charged_before_the_paid_end(served: Simulator) -> None:
    """PayPal was seen to charge on the day of activate."""
    ref = staged(served)
    known = fetch(served, ref)
    run(served, lambda one: one.pause(ref, "k1"))
    served.state["subscriptions"][ref.id]["paid_until"] = None
    after = run(served, lambda one: one.undo_cancel(Ref("subscription", ref.id, known), "k2"))
    assert after.subscriptions[0].status == "active"
    assert "2026-11-24" in after.tell
    assert "2026-12-14" in after.tell


def test_scheduled_cancel_suspends_can_be_undone_and_is_cancelled_at_the_end(held: Simulator) -> None:
    sample = held.samples()[2]
    assert Adapter.pauses_until_cancel
    ref = staged(held, sample=2)
    known = Ref("subscription", ref.id, run(held, lambda one: one.fetch(ref), sample).subscriptions[0])
    run(held, lambda one: one.pause(known, "k1"), sample)
    assert not held.standing(ref.id).charges
    assert run(held, lambda one: one.undo_cancel(known, "k2"), sample).subscriptions[0].status == "active"
    run(held, lambda one: one.pause(known, "k3"), sample)
    clock.set_offset(clock.offset() + timedelta(days=40))
    held.tick()
    assert held.standing(ref.id).payments == 1
    assert run(held, lambda one: one.cancel_now(known, "k4"), sample).subscriptions[0].status == "cancelled"


def test_undo_is_refused_once_the_paid_time_is_over_or_it_is_cancelled(held: Simulator) -> None:
    ref = staged(held)
    known = Ref("subscription", ref.id, fetch(held, ref))
    run(held, lambda one: one.pause(ref, "k1"))
    clock.set_offset(clock.offset() + timedelta(days=40))
    with pytest.raises(Unsupported):
        run(held, lambda one: one.undo_cancel(known, "k2"))
    clock.set_offset(clock.offset() - timedelta(days=40))
    run(held, lambda one: one.cancel_now(ref, "k3"))
    with pytest.raises(Unsupported):
        run(held, lambda one: one.undo_cancel(known, "k4"))
    assert wrote(held) == ["suspend", "cancel"]


def test_resume_after_unpaid_payments_is_declined_in_words(held: Simulator) -> None:
    ref = staged(held, "past_due")
    with pytest.raises(Declined) as caught:
        run(held, lambda one: one.resume(ref, "k"))
    assert caught.value.reason == "SUBSCRIPTION_CANNOT_BE_ACTIVATED"
    assert "payment was missed" in caught.value.customer


def test_fix_payment_page_collects_and_goes_on(held: Simulator) -> None:
    """cboard-org/cboard#2286: the way out of SUSPENDED is the subscription's own approve link."""
    ref = staged(held, "past_due", due=True)
    before = held.standing(ref.id)
    leave = run(held, lambda one: one.start_method_update(ref, "https://shop.example/return", "k"))
    assert not leave.returns
    assert facts("paypal").allows_link(leave.url, {"": held.address})
    assert press(leave.url, do="decline").status_code == 402
    assert fetch(held, ref).status == "past_due"
    done = press(leave.url, do="accept", funding="card-1881")
    assert 'data-test="done"' in done.text
    assert 'data-test="back"' not in done.text
    after = run(held, lambda one: one.finish_method_update(ref, {}, {"anything": "believed"}))
    assert (after.subscriptions[0].status, after.subscriptions[0].due) == ("active", None)
    assert held.standing(ref.id).method != before.method
    assert held.standing(ref.id).payments == before.payments + 1


def test_pay_now_goes_to_the_same_page(held: Simulator) -> None:
    ref = staged(held, "past_due", due=True)
    leave = run(held, lambda one: one.pay_now(ref, "https://shop.example/return", "k"))
    assert isinstance(leave, Leave)
    assert "ba_token=" in leave.url


def test_return_of_the_page_is_never_believed(held: Simulator) -> None:
    ref = staged(held, "past_due", due=True)
    after = run(held, lambda one: one.finish_method_update(ref, {}, {"status": "ACTIVE", "success": "true"}))
    assert after.subscriptions[0].status == "past_due"


def test_update_of_a_method_is_refused_where_paypal_shows_no_page(held: Simulator) -> None:
    ref = staged(held)
    with pytest.raises(Unsupported) as caught:
        run(held, lambda one: one.start_method_update(ref, "https://shop.example/return", "k"))
    assert "automatic payments" in caught.value.customer


def test_change_of_plan_needs_the_customers_yes_at_paypal(held: Simulator) -> None:
    ref = staged(held)
    app = held.samples()[0].credentials["client_id"]
    plan = held.plan(app, "Tea for two", 2200)
    wish = {"plan": plan, "quantity": 2, "amount": Money(4400, "EUR")}
    leave = run(held, lambda one: one.change_plan(ref, wish, "https://shop.example/return?s=1", "k"))
    assert isinstance(leave, Leave)
    assert leave.returns
    assert fetch(held, ref).amount == Money(1200, "EUR")  # nothing yet
    answer = press(leave.url, do="accept")
    assert urlsplit(answer.headers["location"]).netloc == "shop.example"
    one = fetch(held, ref)
    assert (one.title, one.amount, one.quantity) == ("Tea for two", Money(4400, "EUR"), 2)
    assert one.next_payment is not None
    assert one.next_payment.amount == Money(4400, "EUR")


@pytest.mark.parametrize("button", ["decline", "back"])
def test_change_of_plan_that_is_refused_changes_nothing(held: Simulator, button: str) -> None:
    ref = staged(held)
    leave = run(held, lambda one: one.change_plan(ref, {"quantity": 3}, "https://shop.example/return", "k"))
    assert isinstance(leave, Leave)
    assert press(leave.url, do=button).status_code == 303
    assert fetch(held, ref).quantity == 1


def test_plan_of_another_product_is_declined(held: Simulator) -> None:
    ref = staged(held)
    app = held.samples()[0].credentials["client_id"]
    plan = held.plan(app, "Yarn", 900, product="PROD-YARN000000000001")
    with pytest.raises(Declined) as caught:
        run(held, lambda one: one.change_plan(ref, {"plan": plan}, "https://shop.example/return", "k"))
    assert caught.value.reason == "PLAN_PRODUCT_NOT_COMPATIBLE"


def test_quantity_is_declined_where_the_plan_has_none(held: Simulator) -> None:
    ref = staged(held, object="fixed_quantity")
    with pytest.raises(Declined):
        run(held, lambda one: one.change_plan(ref, {"quantity": 2}, "https://shop.example/return", "k"))
    with pytest.raises(Unsupported):
        run(held, lambda one: one.change_plan(ref, {"amount": Money(1, "EUR")}, "https://shop.example", "k"))


WISHES: dict[str, tuple[str, Callable[[base.Gateway, Ref], Awaitable[Any]]]] = {
    "cancel_now": ("active", lambda one, ref: one.cancel_now(ref, "k")),
    "undo_cancel": ("paused", lambda one, ref: one.undo_cancel(ref, "k")),
    "pause": ("active", lambda one, ref: one.pause(ref, "k")),
    "resume": ("paused", lambda one, ref: one.resume(ref, "k")),
    "change_plan": (
        "active",
        lambda one, ref: one.change_plan(ref, {"quantity": 2}, "https://shop.example/r", "k"),
    ),
}
each_wish = pytest.mark.parametrize("wish", WISHES)


@each_wish
def test_business_refusal_is_declined_and_changes_nothing(held: Simulator, wish: str) -> None:
    state, work = WISHES[wish]
    ref = staged(held, state)
    before = held.standing(ref.id)
    held.switch("decline")
    with pytest.raises(Declined) as caught:
        run(held, lambda one: work(one, ref))
    assert caught.value.reason == "USER_ACCOUNT_CLOSED"
    assert "closed or locked" in caught.value.customer
    assert "PayPal-Debug-Id" in caught.value.hint
    assert held.standing(ref.id) == before


def test_hosted_pages_refuse_too_when_told_to(served: Simulator) -> None:
    ref = staged(served, "past_due", due=True)
    leave = run(served, lambda one: one.start_method_update(ref, "https://shop.example/return", "k"))
    served.switch("decline")
    assert press(leave.url, do="accept").status_code == 402
    served.switch("ok")
    assert fetch(served, ref).status == "past_due"


@each_wish
def test_limit_is_told_with_its_wait_and_nothing_was_sent(served: Simulator, wish: str) -> None:
    state, work = WISHES[wish]
    ref = staged(served, state)

    async def limited(one: base.Gateway) -> None:
        await one.check()
        served.fail_next.append("429:9")
        await work(one, ref)

    with pytest.raises(Unavailable) as caught:
        run(served, limited)
    assert (caught.value.retry_after, caught.value.sent) == (9, False)


@each_wish
def test_time_out_after_the_effect_is_unknown_and_the_retry_finds_it_done(
    served: Simulator, wish: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, work = WISHES[wish]
    ref = staged(served, state)
    monkeypatch.setattr(http, "READ_S", 0.3)

    async def late(one: base.Gateway) -> None:
        await one.check()
        ask = one._api._send  # type: ignore[attr-defined]

        async def slow(method: str, *more: Any) -> Any:
            if method == "POST":
                served.fail_next.append("timeout_after")
            return await ask(method, *more)

        one._api._send = slow  # type: ignore[attr-defined]
        await work(one, ref)

    with pytest.raises(Unavailable) as caught:
        run(served, late)
    assert caught.value.sent
    http._breakers.clear()
    if wish != "change_plan":  # that one is only a link, and asked for anew
        once = len(wrote(served))
        run(served, lambda one: work(one, ref))
        assert len(wrote(served)) == once


@pytest.mark.parametrize("fault", ["500", "html", "empty", "truncated", "wrong_types", "missing_fields"])
@each_wish
def test_garbage_is_unavailable_and_nothing_else(served: Simulator, wish: str, fault: str) -> None:
    state, work = WISHES[wish]
    ref = staged(served, state)

    async def spoiled(one: base.Gateway) -> None:
        await one.check()
        served.fail_next.append(fault)
        await work(one, ref)

    with pytest.raises(Unavailable):
        run(served, spoiled)
    assert wrote(served) == []


def test_garbage_after_a_write_is_unknown(served: Simulator) -> None:
    ref = staged(served)

    async def work(one: base.Gateway) -> None:
        await one.check()
        ask = one._api._send  # type: ignore[attr-defined]

        async def then_garbage(method: str, *more: Any) -> Any:
            said = await ask(method, *more)
            if method == "POST":
                served.fail_next.append("missing_fields")
            return said

        one._api._send = then_garbage  # type: ignore[attr-defined]
        await one.cancel_now(ref, "k")

    with pytest.raises(Unavailable) as caught:
        run(served, work)
    assert caught.value.sent
    assert not served.standing(ref.id).charges


def test_refused_keys_are_unavailable_and_nothing_was_sent(served: Simulator) -> None:
    ref = staged(served)
    served.switch("refused_keys")
    with pytest.raises(Unavailable) as caught:
        run(served, lambda one: one.cancel_now(ref, "k"))
    assert not caught.value.sent
    assert not run(served, lambda one: one.check()).ok


def test_token_that_times_out_has_changed_nothing(served: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = staged(served)
    monkeypatch.setattr(http, "READ_S", 0.3)
    served.fail_next.append("timeout_after")
    with pytest.raises(Unavailable) as caught:
        run(served, lambda one: one.cancel_now(ref, "k"))
    assert not caught.value.sent


@pytest.mark.parametrize("sample", [0, 2])
@pytest.mark.parametrize("state", [*STATES, "cancels_at_period_end"])
def test_facts_and_simulator_tell_the_same_story(served: Simulator, sample: int, state: str) -> None:
    """What the facts offer in each state, with and without the option."""
    options = frozenset(served.samples()[sample].options)
    table = facts("paypal").capabilities

    def shape(key: Any, **more: Any) -> tuple[str, str | None]:
        found = table[key].under(Circumstances(state=state, method="wallet", option=options, **more))
        return found.mode, found.how

    later = "schedule" if options and state not in ("past_due", "paused") else "keep"
    assert shape("cancel_at_period_end") == ("emulated", later)
    undo = "direct" if options and state == "cancels_at_period_end" else "request"
    assert shape("undo_cancel") == (undo, None)
    fixes = state == "past_due"
    assert shape("update_payment_method", due=True) == ("hosted" if fixes else "guided", None)
    assert shape("pay_now", due=True) == ("hosted" if fixes else "none", None)
    assert shape("pay_now") == ("none", None)


# Deliveries


def delivered(
    sim: Simulator, ref: Ref, work: Callable[[base.Gateway], Awaitable[Any]]
) -> list[tuple[str, Ref | None]]:
    """What a piece of work makes PayPal send, proved with the certificate that it serves."""
    sim.sent.clear()
    run(sim, work)
    return [(event.type, event.subject) for event in proved(sim)]


def proved(sim: Simulator, sample: int = 0) -> list[base.Event]:
    async def work(one: base.Gateway) -> list[base.Event]:
        found = []
        for delivery in sim.sent:
            certificate = await one.certificate(delivery.headers)
            found += one.verify(list(delivery.headers.items()), delivery.body, NOW, certificate)
        return found

    return run(sim, work, sim.samples()[sample])


def test_every_change_is_told_and_proved(served: Simulator) -> None:
    ref = staged(served)
    for verb, word in (("pause", "SUSPENDED"), ("resume", "ACTIVATED"), ("cancel_now", "CANCELLED")):
        told = delivered(served, ref, lambda one, verb=verb: getattr(one, verb)(ref, verb))  # type: ignore[misc]
        assert told == [(f"BILLING.SUBSCRIPTION.{word}", ref)]


def test_events_lead_to_the_processors_own_word(served: Simulator) -> None:
    ref = staged(served, "past_due", due=True)
    events = proved(served)
    assert [event.type for event in events][:2] == [
        "BILLING.SUBSCRIPTION.ACTIVATED",
        "PAYMENT.SALE.COMPLETED",
    ]
    assert {event.subject for event in events} == {ref}
    for event in events:
        found = run(served, lambda one, event=event: one.refetch(event))  # type: ignore[misc]
        assert found is not None
        assert found.subscriptions[0].status == "past_due"  # whatever each of them says
        json.dumps(dict(event.body))


def test_refund_of_a_sale_is_known_from_its_notice_alone(served: Simulator) -> None:
    """It carries the sale's id and nothing of the subscription, and no call here tells of a sale."""
    ref = staged(served)
    sale = served._of(served.state["subscriptions"][ref.id])[0]["id"]
    served.sent.clear()
    refund = served.give_back(sale, 500, NOW, tell=True)
    (event,) = proved(served)
    assert (event.type, event.subject) == ("PAYMENT.SALE.REFUNDED", Ref("payment", sale))
    found = run(served, lambda one: one.refetch(event))
    assert found is not None
    assert [(one.remote_id, one.payment, one.amount, one.status) for one in found.refunds] == [
        (refund, sale, Money(500, "EUR"), "sent")
    ]
    assert found.as_of == event.occurred_at


def test_refund_of_a_capture_is_fetched(served: Simulator) -> None:
    app = served.samples()[0].credentials["client_id"]
    payment = served.buy(app, "noor@example.com", [("Tin", 1, 450)], NOW - timedelta(days=1))
    refund = served.give_back(payment, 450, NOW, tell=True)
    (event,) = proved(served)
    assert event.subject == Ref("refund", refund)
    found = run(served, lambda one: one.refetch(event))
    assert found is not None
    assert (found.refunds[0].amount, found.payments[0].status) == (Money(450, "EUR"), "refunded")


def test_sandbox_signs_by_its_own_certificate(served: Simulator) -> None:
    staged(served, sample=2)
    assert "api.sandbox.paypal.com" in served.sent[0].headers["PAYPAL-CERT-URL"]
    assert proved(served, 2)[0].type == "BILLING.SUBSCRIPTION.ACTIVATED"


def test_every_forgery_is_refused(served: Simulator) -> None:
    staged(served)
    sample = served.samples()[0]
    forgeries = served.forgeries(sample, served.sent[0])
    assert len(forgeries) >= 40
    assert len({forgery.what for forgery in forgeries}) == len(forgeries)

    async def work(one: base.Gateway) -> list[str]:
        accepted = []
        true = await one.certificate(served.sent[0].headers)
        assert one.verify(list(served.sent[0].headers.items()), served.sent[0].body, NOW, true)
        for forgery in forgeries:
            for certificate in (true, None):
                try:
                    given = certificate or await one.certificate(dict(forgery.headers))
                    one.verify(forgery.headers, forgery.body, NOW, given)
                except base.BadSignature:
                    continue
                accepted.append(forgery.what)
        return accepted

    assert run(served, work, sample) == []


def test_true_delivery_to_another_app_is_refused(served: Simulator) -> None:
    staged(served)
    with pytest.raises(base.BadSignature):
        proved(served, 1)


def test_certificate_is_fetched_once(served: Simulator) -> None:
    staged(served)
    certificate, url = served.state["signing"], served.sent[0].headers["PAYPAL-CERT-URL"]
    assert len(served.sent) > 1
    proved(served)
    served.state["signing"] = {**certificate, url.rpartition("/")[2]: "gone"}
    proved(served)


def test_state_is_picklable_and_a_reset_brings_it_back(served: Simulator) -> None:
    served.fill(served.samples()[0])
    served.save()
    ref = next(iter(served.state["subscriptions"]))
    before = served.standing(ref)
    served._become(served.state["subscriptions"][ref], "CANCELLED", NOW)
    assert pickle.loads(pickle.dumps(served.state))["subscriptions"][ref]["status"] == "CANCELLED"
    served.reset()
    assert served.standing(ref) == before


def test_charge_after_the_end_by_mistake_is_seen(served: Simulator) -> None:
    ref = staged(served, "cancelled")
    served.sent.clear()
    served.charge(ref.id)
    (event,) = proved(served)
    found = run(served, lambda one: one.refetch(event))
    assert found is not None
    assert found.subscriptions[0].status == "cancelled"
    assert len([one for one in found.payments if one.status == "paid"]) == 2


def test_approving_a_new_one_starts_it(served: Simulator) -> None:
    ref = staged(served, "incomplete")
    said = served._shown(served.state["subscriptions"][ref.id])
    (page,) = (link["href"] for link in said["links"] if link["rel"] == "approve")
    assert 'data-test="done"' in press(page, do="accept").text
    assert fetch(served, ref).status == "active"
    assert httpx.get(page, trust_env=False, verify=False).status_code == 404  # used up


# The webhook that is registered, and old events sent again

HERE = "https://pay.example/webhooks/abc"


def registered(sim: Simulator, sample: Sample | None = None) -> base.Registration:
    return run(sim, lambda one: one.register_webhook(HERE, "wish-1"), sample)


def app_of(sim: Simulator) -> dict[str, Any]:
    app: dict[str, Any] = sim.state["apps"][sim.samples()[0].credentials["client_id"]]
    return app


def test_a_webhook_is_made_kept_changed_and_removed_as_the_specification_has_it(held: Simulator) -> None:
    made = registered(held)
    hook = app_of(held)["hooks"][made.remote_id]
    assert hook == {"url": HERE, "events": list(webhooks.EVENTS)}
    assert made.credentials == {"webhook_id": made.remote_id}
    hook["events"] = ["PAYMENT.SALE.COMPLETED"]
    assert registered(held) == made
    assert hook["events"] == list(webhooks.EVENTS)
    run(held, lambda one: one.unregister_webhook(made.remote_id))
    assert made.remote_id not in app_of(held)["hooks"]


def test_a_webhook_that_is_right_is_only_looked_at(served: Simulator) -> None:
    registered(served)
    served.calls.clear()
    registered(served)
    changed = [one for one in served.calls if served.changes(one.method, one.path)]
    assert changed == []


@pytest.mark.parametrize("kind", webhooks.EVENTS)
def test_every_event_that_is_asked_for_leads_somewhere(kind: str) -> None:
    resource: dict[str, Any] = {
        "id": "X1",
        "billing_agreement_id": "I-1",
        "disputed_transactions": [{"seller_transaction_id": "Y1"}],
    }
    resource |= {"invoice": {"id": "INV2-1"}, "supplementary_data": {"related_ids": {"order_id": "O1"}}}
    told = {"id": "WH-1", "event_type": kind, "resource_type": "x", "resource": resource}
    assert paypals.event(told).subject is not None


def test_an_app_without_the_scope_is_told_which(served: Simulator) -> None:
    app_of(served)["may"].remove("webhooks")
    for wish in (
        lambda one: one.register_webhook(HERE, "wish-1"),
        lambda one: one.unregister_webhook("WH123456789012345"),
        lambda one: one.send_test_event("WH123456789012345"),
    ):
        with pytest.raises(Unavailable) as caught:
            run(served, wish)
        assert webhooks.SCOPE in caught.value.hint


def test_an_eleventh_webhook_is_refused_with_words_that_help(served: Simulator) -> None:
    for number in range(9):
        app_of(served)["hooks"][f"WH{number}"] = {"url": f"https://other.example/{number}", "events": ["*"]}
    with pytest.raises(Declined) as caught:
        registered(served)
    assert "ten at most" in caught.value.hint


def test_a_webhook_that_another_try_has_made_meanwhile_is_found(
    served: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = registered(served)
    first = [True]

    async def blind_once(api: Any, url: str) -> Any:
        return None if first and first.pop() else await look(api, url)

    look = webhooks._of
    monkeypatch.setattr(webhooks, "_of", blind_once)
    assert registered(served).remote_id == made.remote_id


def test_before_a_webhook_is_registered_the_keys_are_good_all_the_same(served: Simulator) -> None:
    sample = served.samples()[0]
    bare = {name: value for name, value in sample.credentials.items() if name != "webhook_id"}
    assert run(served, lambda one: one.check(), Sample("bare", bare)).ok


def test_an_event_of_before_is_sent_again_and_proved_for_the_webhook(held: Simulator) -> None:
    sample = held.samples()[0]
    made = registered(held)
    assert run(held, lambda one: one.send_test_event(made.remote_id)) is None  # nothing has happened yet
    held.stage(sample, "ana@example.com", Situation())
    newest = app_of(held)["told"][-1]
    held.sent.clear()
    assert run(held, lambda one: one.send_test_event(made.remote_id)) == newest["event_type"]
    (sent,) = held.sent
    assert (sent.url, json.loads(sent.body)["id"]) == (HERE, newest["id"])

    async def prove(one: base.Gateway) -> list[base.Event]:
        certificate = await one.certificate(sent.headers)
        return one.verify(list(sent.headers.items()), sent.body, clock.now(), certificate)

    keys = Sample("ours", {**sample.credentials, **made.credentials})
    (event,) = run(held, prove, keys)
    assert event.id == newest["id"]


def test_what_paypal_simulates_proves_nothing_and_is_never_asked_for(served: Simulator) -> None:
    sample, made = served.samples()[0], registered(served)

    async def simulate(one: base.Gateway) -> None:
        assert isinstance(one, Adapter)
        wish = {"webhook_id": made.remote_id, "event_type": "PAYMENT.SALE.COMPLETED"}
        await one._api.ask("POST", "/v1/notifications/simulate-event", body=wish)
        sent = served.sent[-1]
        certificate = await one.certificate(sent.headers)
        with pytest.raises(BadSignature, match="simulator"):
            one.verify(list(sent.headers.items()), sent.body, clock.now(), certificate)

    run(served, simulate, Sample("ours", {**sample.credentials, **made.credentials}))
    served.calls.clear()
    run(served, lambda one: one.send_test_event(made.remote_id))
    assert not any("simulate" in one.path for one in served.calls)
