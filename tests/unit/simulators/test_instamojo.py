"""The Instamojo adapter against the simulator: both generations, the hosted page, notices, and the unhappy day."""

import asyncio
import copy
import json
import pickle
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import httpx2 as httpx
import pytest

from portal import clock
from portal.gateways import gateway, http
from portal.gateways.base import (
    BadSignature,
    Gateway,
    GatewayError,
    Gone,
    Leave,
    OrderRecord,
    PaymentRecord,
    Ref,
    Snapshot,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import disagreements, facts
from portal.gateways.instamojo import Adapter
from portal.money import Money
from seeds.simulators.harness import MODES, Harness, Sample, Servers, Situation, simulator
from seeds.simulators.instamojo import Simulator, sign
from tests.conftest import SHARED
from tests.contracts import contract

NOW = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
SPEC = SHARED / "specs" / "instamojo" / "contract.json"
BACK = "https://portal.example/customers/return/s1"
HOOK = "http://127.0.0.1:9/webhooks/t1"
RESULT = TypeVar("RESULT")
GARBAGE = ("html", "empty", "truncated", "wrong_types", "missing_fields", "unknown_status")
# Operations of the documents that the compiled list leaves out.
MORE = [
    {
        "op": "token",
        "method": "POST",
        "path": "/oauth2/token/",
        "body": ["grant_type*", "client_id*", "client_secret*"],
    },
    {"op": "v11.refunds.get", "method": "GET", "path": "refunds/{id}/"},
    {"op": "v2.cases.get", "method": "GET", "path": "resolutioncenter/cases/{id}/"},
]


@pytest.fixture(scope="module")
def served() -> Iterator[Simulator]:
    found = simulator("instamojo", clock.now)
    assert isinstance(found, Simulator)
    with pytest.MonkeyPatch.context() as patch, Servers([found]):
        patch.setattr(http, "READ_S", 0.4)
        patch.setattr(http, "PAUSE_S", 0.01)
        yield found


@pytest.fixture
def sim(served: Simulator, tmp_path: Path) -> Iterator[Simulator]:
    """A simulator with all sample accounts, empty; what leaves the contract fails the test."""
    clock.set_offset(NOW - datetime.now(UTC))
    served.state = {"accounts": {}}
    served._saved = None
    served.reset()
    for sample in served.samples():
        served.open(sample, HOOK)
    served.contract = None
    if SPEC.exists():
        said = json.loads(SPEC.read_text())
        said["operations"] = [*MORE, *said["operations"]]
        (tmp_path / "contract.json").write_text(json.dumps(said))
        served.contract = contract(tmp_path / "contract.json")
    yield served
    time.sleep(0.005)
    assert served.problems == []


@pytest.fixture
def shop(sim: Simulator) -> Sample:
    return sim.samples()[0]


@pytest.fixture
def modern(sim: Simulator) -> Sample:
    return sim.samples()[2]


@pytest.fixture(params=[0, 2], ids=["v1.1", "v2"])
def either(sim: Simulator, request: pytest.FixtureRequest) -> Sample:
    """An account of each generation."""
    sample: Sample = sim.samples()[request.param]
    return sample


def ask(
    sim: Simulator, sample: Sample, work: Callable[[Gateway], Awaitable[RESULT]], **changed: str
) -> RESULT:
    async def asked() -> RESULT:
        credentials = {**sample.credentials, **changed}
        one = gateway("instamojo", credentials, variant=sample.variant, simulator=sim.address)
        try:
            return await work(one)
        finally:
            await one.aclose()

    return asyncio.run(asked())


def fetched(sim: Simulator, sample: Sample, kind: Any, number: str) -> Snapshot:
    return ask(sim, sample, lambda one: one.fetch(Ref(kind, number)))


def pages(sim: Simulator, sample: Sample, cursor: str | None = None) -> list[tuple[Snapshot, str | None]]:
    async def walk(one: Gateway) -> list[tuple[Snapshot, str | None]]:
        return [(page.snapshot, page.cursor) async for page in one.backfill(cursor)]

    return ask(sim, sample, walk)


def told_by(sim: Simulator, sample: Sample, at: int = -1) -> Snapshot:
    """What a delivery makes the portal know: proved, then read from the API."""
    delivery = sim.sent[at]

    async def handle(one: Gateway) -> Snapshot | None:
        [event] = one.verify(list(delivery.headers.items()), delivery.body, clock.now())
        json.dumps(dict(event.body))
        return await one.refetch(event)

    snapshot = ask(sim, sample, handle)
    assert snapshot is not None
    return snapshot


def pay_now(sim: Simulator, sample: Sample, number: str) -> Snapshot | Leave:
    return ask(sim, sample, lambda one: one.pay_now(Ref("order", number), BACK, "k1"))


def got(url: str, **more: Any) -> httpx.Response:
    return called("GET", url, **more)


def posted(url: str, **more: Any) -> httpx.Response:
    return called("POST", url, **more)


def called(method: str, url: str, **more: Any) -> httpx.Response:
    """Nothing here speaks TLS, and reading all certificates for each client takes long."""
    with httpx.Client(trust_env=False, verify=False, follow_redirects=False) as browser:
        return browser.request(method, url, **more)


def press(url: str, answer: str = "accept", **fields: str) -> httpx.Response:
    """Open a hosted page and press its button, with the fields as they are filled in."""
    drawn = got(url)
    assert drawn.status_code == 200, drawn.text
    assert '<form method="post">' in drawn.text
    form = dict(re.findall(r'<input name="(\w+)" value="([^"]*)"', drawn.text))
    instrument = re.search(r'<option value="(\w+)"', drawn.text)
    button = re.search(rf'data-test="{answer}" name="(\w+)" value="(\w+)"', drawn.text)
    assert instrument
    assert button
    form |= {"instrument": instrument[1], button[1]: button[2], **fields}
    return posted(url, data=form)


def everything(
    found: list[tuple[Snapshot, str | None]],
) -> tuple[dict[str, OrderRecord], dict[str, PaymentRecord]]:
    """The last word on each order and payment."""
    return (
        {one.remote_id: one for page, _ in found for one in page.orders},
        {one.remote_id: one for page, _ in found for one in page.payments},
    )


# Accounts


def test_facts_and_adapter_agree() -> None:
    assert disagreements("instamojo", Adapter) == []


def test_samples_match_the_patterns_of_the_facts(sim: Simulator) -> None:
    table = facts("instamojo")
    for sample in sim.samples():
        names = {one.name: one for one in table.credentials if one.variant in (None, sample.variant)}
        assert set(sample.credentials) <= set(names)
        for name, credential in names.items():
            value = sample.credentials.get(name)
            assert value is not None or not credential.required, name
            assert value is None or re.fullmatch(credential.pattern, value), name
        assert sample.variant in (table.variants or ())
        assert set(sample.options) <= set(table.options)
    secrets = [sample.credentials["salt"] for sample in sim.samples()]
    assert len(set(secrets)) == len(secrets)


def test_state_can_be_copied_and_pickled(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    assert pickle.loads(pickle.dumps(sim.state)) == copy.deepcopy(sim.state) == sim.state
    sim.save()
    sim.state["accounts"].clear()
    sim.reset()
    assert sim.state["accounts"]


def test_history_sends_no_notices(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    assert sim.sent == []
    assert sim.past_deliveries(shop) == []


def test_good_keys_are_healthy_and_nothing_is_changed(sim: Simulator, either: Sample) -> None:
    before = copy.deepcopy({name: one["requests"] for name, one in sim.state["accounts"].items()})
    health = ask(sim, either, lambda one: one.check())
    assert (health.ok, health.live, health.missing, health.hint) == (True, False, (), None)
    assert not any(sim.changes(call.method, call.path) for call in sim.calls)
    assert {name: one["requests"] for name, one in sim.state["accounts"].items()} == before


@pytest.mark.parametrize(
    ("number", "field"), [(0, "api_key"), (0, "auth_token"), (2, "client_id"), (2, "client_secret")]
)
def test_wrong_keys_are_no_outage_and_stand_in_no_hint(sim: Simulator, number: int, field: str) -> None:
    health = ask(sim, sim.samples()[number], lambda one: one.check(), **{field: "x" * 40})
    assert not health.ok
    assert "API & Plugins" in (health.hint or "")
    assert "x" * 40 not in (health.hint or "")


def test_keys_of_two_accounts_do_not_mix(sim: Simulator, shop: Sample) -> None:
    other = sim.samples()[1].credentials["auth_token"]
    assert not ask(sim, shop, lambda one: one.check(), auth_token=other).ok


def test_missing_scopes_are_named(sim: Simulator, modern: Sample) -> None:
    sim._account(modern)["scopes"] = ["payment-requests:read"]
    health = ask(sim, modern, lambda one: one.check())
    assert (health.ok, health.missing) == (False, ("payments:read", "cases:read"))


def test_check_says_so_when_instamojo_is_down(sim: Simulator, either: Sample) -> None:
    sim.switch("down")
    with pytest.raises(Unavailable):
        ask(sim, either, lambda one: one.check())


def test_stranger_knows_nothing_of_another_account(sim: Simulator, shop: Sample) -> None:
    number = sim.ask_for(shop, "asha@example.com", "Tea", "99")["id"]
    with pytest.raises(Gone):
        fetched(sim, sim.samples()[1], "order", number)
    with pytest.raises(Gone):
        pay_now(sim, sim.samples()[1], number)


# Reading


def test_backfill_of_v1_brings_everything_with_its_people(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    found = pages(sim, shop)
    orders, payments = everything(found)
    mine = {one.title: one for one in orders.values() if one.email == "instamojo@example.com"}
    assert {title: one.status for title, one in mine.items()} == {
        "Darjeeling first flush": "paid",
        "Teapot": "paid",
        "Gift box": "paid",
        "Nilgiri tea, 1 kg": "open",
        "Tea chest": "expired",
        "Tea club, one month": "paid",
        None: "paid",  # an order of v2's checkout is a payment without a request here
    }
    club = [one for one in orders.values() if one.title == "Tea club, one month"]
    assert sorted(one.email or "" for one in club) == [*["instamojo@example.com"] * 3, "noor@example.com"]
    assert all(one.remote_id in payments for one in club)
    seat = next(one for one in orders.values() if one.title == "Tea tasting, one seat")
    assert (seat.email, seat.status, seat.amount) == ("noor@example.com", "open", Money(125_000, "INR"))
    assert seat.due_link
    assert seat.due_link.startswith(sim.address)
    assert {one.email for one in orders.values() if one.title == "Sample box"} == {None}
    assert "priya@example.com" in {one.email for one in orders.values()}
    assert {one.status for one in payments.values()} == {"paid", "failed"}
    failed = next(one for one in payments.values() if one.status == "failed")
    assert failed.failure is not None
    assert (failed.failure.code, orders[failed.order or ""].title) == (
        "AUTHORIZATION_FAILED",
        "Nilgiri tea, 1 kg",
    )
    refunds = [one for page, _ in found for one in page.refunds]
    assert {(one.amount, one.status, one.reason) for one in refunds} == {
        (Money(250_000, "INR"), "sent", "Not satisfied with it"),
        (Money(30_000, "INR"), "sent", "Lost or damaged"),
    }
    assert {one.payment for one in refunds} <= set(payments)


def test_every_paid_payment_belongs_to_an_order_that_is_told(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    found = pages(sim, shop)
    orders, _ = everything(found)
    known: dict[str, str | None] = {}
    for page, _ in found:
        for one in page.payments:
            if one.knows and "order" in one.knows:
                known[one.remote_id] = one.order
    assert len(known) == 13  # twelve that went through, and one that failed
    assert set(known.values()) <= set(orders)


def test_backfill_of_v2_tells_the_same_but_for_what_it_cannot_list(
    sim: Simulator, shop: Sample, modern: Sample
) -> None:
    for sample in (shop, modern):
        sim.fill(sample)

    def plain(sample: Sample) -> set[Any]:
        orders, _ = everything(pages(sim, sample))
        return {(one.email, one.title, one.status, one.amount, one.lines) for one in orders.values()}

    old, new = plain(shop), plain(modern)
    assert {(one[0], one[1]) for one in old - new} == {
        ("instamojo@example.com", None),
        ("priya@example.com", None),
    }
    assert {(one[0], one[1]) for one in new - old} == {("instamojo@example.com", "Iced tea kit")}
    found = pages(sim, modern)
    orders, payments = everything(found)
    kit = next(one for one in orders.values() if one.title == "Iced tea kit")
    assert (kit.number, kit.status, kit.due_link) == ("SHOP-1042", "paid", None)
    assert kit.remote_id in {one.order for one in payments.values()}
    assert len([one for page, _ in found for one in page.refunds]) == 2
    assert fetched(sim, modern, "order", kit.remote_id).payments[0].order == kit.remote_id


def test_backfill_resumes_at_every_cursor(
    sim: Simulator, either: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portal.gateways.instamojo.PAGE", 4)
    monkeypatch.setattr("portal.gateways.instamojo.MOST", 5)
    sim.fill(either)
    whole = pages(sim, either)
    assert len(whole) >= 4
    assert whole[-1][1] is None
    for done, (_, cursor) in enumerate(whole[:-1], start=1):
        rest = pages(sim, either, cursor)
        assert [snapshot.orders for snapshot, _ in rest] == [one.orders for one, _ in whole[done:]]
        assert [snapshot.payments for snapshot, _ in rest] == [one.payments for one, _ in whole[done:]]


def test_page_that_is_just_full_is_followed_by_none(
    sim: Simulator, shop: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portal.gateways.instamojo.PAGE", 2)
    for number in range(4):
        sim.ask_for(shop, "asha@example.com", f"Tea {number}", "99")
    found = pages(sim, shop)
    assert len([one for page, _ in found for one in page.orders]) == 4
    assert any(call.path.endswith("/payment-requests/") for call in sim.calls)


def test_what_comes_in_while_pages_are_read_is_missed_by_none(
    sim: Simulator, shop: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portal.gateways.instamojo.PAGE", 2)
    for number in range(5):
        clock.set_offset(clock.offset() + timedelta(seconds=1))
        sim.ask_for(shop, "asha@example.com", f"Tea {number}", "99")

    async def walk(one: Gateway) -> set[str | None]:
        seen: set[str | None] = set()
        async for page in one.backfill():
            if page.snapshot.orders:
                clock.set_offset(clock.offset() + timedelta(seconds=1))
                if len(seen) < 3:
                    sim.ask_for(shop, "bela@example.com", "Meanwhile", "99")
            seen |= {order.title for order in page.snapshot.orders}
        return seen

    assert {f"Tea {number}" for number in range(5)} <= ask(sim, shop, walk)


def test_request_whose_payment_has_gone_stops_no_backfill(sim: Simulator, modern: Sample) -> None:
    request = sim.ask_for(modern, "asha@example.com", "Tea", "99")
    request |= {"status": "Completed", "_payments": ["MOJO0000000000000001"]}
    orders, payments = everything(pages(sim, modern))
    assert (orders[request["id"]].status, payments) == ("paid", {})


def test_order_payment_and_refund_are_fetched(sim: Simulator, either: Sample) -> None:
    request = sim.ask_for(either, "asha@example.com", "Tea", "649.00")
    paid = sim.pay(either, request, "asha@example.com", instrument="CARD")
    refund = sim.refund(either, paid["payment_id"], "49.5", "TAN")
    for kind, number in (("order", request["id"]), ("payment", paid["payment_id"])):
        snapshot = fetched(sim, either, kind, number)
        assert [(one.remote_id, one.status) for one in snapshot.orders] == [(request["id"], "paid")]
        [payment] = snapshot.payments
        assert (payment.order, payment.status, payment.amount) == (
            request["id"],
            "paid",
            Money(64_900, "INR"),
        )
        assert payment.method is not None
        assert payment.method.kind == "card"
        assert [one.remote_id for one in snapshot.refunds] == [refund["id"]]
    [found] = fetched(sim, either, "refund", refund["id"]).refunds
    assert (found.payment, found.amount, found.status) == (paid["payment_id"], Money(4_950, "INR"), "sent")
    assert found.reason == "The event was cancelled or changed"


def test_order_that_is_a_payment_is_fetched_by_its_id(sim: Simulator, shop: Sample) -> None:
    club = sim.ask_for(shop, "", "Tea club", "399", repeated=True)
    one = sim.pay(shop, club, "asha@example.com")["payment_id"]
    sim.pay(shop, club, "bela@example.com")
    snapshot = fetched(sim, shop, "order", one)
    assert [(order.remote_id, order.email) for order in snapshot.orders] == [(one, "asha@example.com")]
    assert [(payment.remote_id, payment.order) for payment in snapshot.payments] == [(one, one)]


def test_refund_that_is_not_decided_is_pending_in_v2(sim: Simulator, modern: Sample) -> None:
    paid = sim.pay(modern, sim.ask_for(modern, "asha@example.com", "Tea", "99"), "asha@example.com")
    refund = sim.refund(modern, paid["payment_id"], "99")
    refund["_outcome"] = None
    assert fetched(sim, modern, "refund", refund["id"]).refunds[0].status == "pending"
    refund["_outcome"] = "FINI_DENY"
    assert fetched(sim, modern, "payment", paid["payment_id"]).refunds[0].status == "failed"


def test_payment_that_was_begun_is_pending_in_v2(sim: Simulator, modern: Sample) -> None:
    request = sim.ask_for(modern, "asha@example.com", "Tea", "99")
    paid = sim.pay(modern, request, "asha@example.com")
    paid["status"], request["status"] = "Initiated", "Pending"
    snapshot = fetched(sim, modern, "order", request["id"])
    assert (snapshot.payments[0].status, snapshot.orders[0].status) == ("pending", "open")


def test_refund_is_found_among_the_newest_in_v1(sim: Simulator, shop: Sample) -> None:
    sim.fill(shop)
    orders, _ = everything(pages(sim, shop))
    pot = next(one.remote_id for one in orders.values() if one.title == "Teapot")
    snapshot = fetched(sim, shop, "order", pot)
    assert [one.amount for one in snapshot.refunds] == [Money(250_000, "INR")]
    assert snapshot.refunds[0].payment == snapshot.payments[0].remote_id


def test_refund_that_has_gone_hides_no_payment(sim: Simulator, modern: Sample) -> None:
    paid = sim.pay(modern, sim.ask_for(modern, "asha@example.com", "Tea", "99"), "asha@example.com")
    kept = sim.refund(modern, paid["payment_id"], "9")
    paid["_cases"].insert(0, "C0000000000")
    snapshot = fetched(sim, modern, "payment", paid["payment_id"])
    assert snapshot.payments[0].status == "paid"
    assert [one.remote_id for one in snapshot.refunds] == [kept["id"]]


def test_unknown_things_are_gone(sim: Simulator, either: Sample) -> None:
    for kind, number in (("order", "0" * 32), ("payment", "MOJO0000000000000000"), ("refund", "C0000000000")):
        with pytest.raises(Gone):
            fetched(sim, either, kind, number)


def test_token_that_has_run_out_is_renewed(sim: Simulator, modern: Sample) -> None:
    number = sim.ask_for(modern, "asha@example.com", "Tea", "99")["id"]

    async def twice(one: Gateway) -> Snapshot:
        await one.fetch(Ref("order", number))
        sim._account(modern)["tokens"].clear()
        return await one.fetch(Ref("order", number))

    assert ask(sim, modern, twice).orders[0].status == "open"
    assert sum(call.path == "/oauth2/token/" for call in sim.calls) == 2


# Paying


def test_open_request_is_paid_on_the_page_and_read_afterwards(sim: Simulator, either: Sample) -> None:
    number = sim.ask_for(either, "asha@example.com", "Tea <b>", "649.00")["id"]
    leave = pay_now(sim, either, number)
    assert isinstance(leave, Leave)
    assert not leave.returns
    assert facts("instamojo").allows_link(leave.url, {"simulator": sim.address})
    assert "Tea &lt;b&gt;" in got(leave.url).text
    assert "Payment successful" in press(leave.url).text
    order = fetched(sim, either, "order", number).orders[0]
    assert (order.status, order.due_link) == ("paid", None)
    assert told_by(sim, either).payments[0].status == "paid"
    again = pay_now(sim, either, number)
    assert isinstance(again, Snapshot)
    assert again.orders[0].status == "paid"
    assert got(leave.url).status_code == 410
    assert posted(leave.url, data={"answer": "pay"}).status_code == 410
    assert len(fetched(sim, either, "order", number).payments) == 1


def test_page_returns_to_the_shop_and_what_it_says_there_is_not_asked(sim: Simulator, shop: Sample) -> None:
    request = sim.ask_for(
        shop, "asha@example.com", "Tea", "99", redirect_url="https://shop.example/thanks?a=1"
    )
    answer = press(request["longurl"])
    assert answer.status_code == 302
    to = urlsplit(answer.headers["location"])
    assert (to.netloc, to.path) == ("shop.example", "/thanks")
    assert {name: value[0] for name, value in parse_qs(to.query).items()} == {
        "a": "1",
        "payment_id": request["_payments"][0],
        "payment_status": "Credit",
        "payment_request_id": request["id"],
    }


def test_payment_that_fails_leaves_the_request_open(sim: Simulator, either: Sample) -> None:
    request = sim.ask_for(either, "asha@example.com", "Tea", "99")
    assert press(request["longurl"], "decline").status_code == 402
    sim.switch("decline")
    assert press(request["longurl"]).status_code == 402
    sim.switch("ok")
    assert sim.sent == []  # failures are told after a word to support alone
    snapshot = fetched(sim, either, "order", request["id"])
    assert snapshot.orders[0].status == "open"
    if either.variant == "v2":
        assert [one.status for one in snapshot.payments] == ["failed", "failed"]
    assert isinstance(pay_now(sim, either, request["id"]), Leave)


def test_failed_payment_is_told_where_support_has_switched_that_on(sim: Simulator, shop: Sample) -> None:
    sim._account(shop)["tells_failures"] = True
    request = sim.ask_for(shop, "asha@example.com", "Tea", "99")
    press(request["longurl"], "decline")
    snapshot = told_by(sim, shop)
    assert [(one.status, one.order) for one in snapshot.payments] == [("failed", request["id"])]
    assert snapshot.orders[0].status == "open"


def test_expired_request_is_not_paid(sim: Simulator, either: Sample) -> None:
    request = sim.ask_for(either, "asha@example.com", "Tea", "99", ends=clock.now() + timedelta(minutes=10))
    assert isinstance(pay_now(sim, either, request["id"]), Leave)
    clock.set_offset(clock.offset() + timedelta(minutes=11))
    sim.tick()
    assert fetched(sim, either, "order", request["id"]).orders[0].status == "expired"
    with pytest.raises(Unsupported):
        pay_now(sim, either, request["id"])
    assert got(request["longurl"]).status_code == 410


def test_request_of_nobody_becomes_its_payers(sim: Simulator, either: Sample) -> None:
    request = sim.ask_for(either, "", "Tea", "99")
    assert fetched(sim, either, "order", request["id"]).orders[0].email is None
    press(request["longurl"], email="asha@example.com")
    assert fetched(sim, either, "order", request["id"]).orders[0].email == "asha@example.com"


def test_link_for_everybody_gives_each_payer_an_order(sim: Simulator, either: Sample) -> None:
    club = sim.ask_for(either, "", "Tea club", "399", repeated=True)
    for email in ("asha@example.com", "bela@example.com"):
        press(club["longurl"], email=email)
        [order] = told_by(sim, either).orders
        assert (order.email, order.status, order.title) == (email, "paid", "Tea club")
        assert order.remote_id == club["_payments"][-1]


def test_pages_are_no_calls(sim: Simulator, shop: Sample) -> None:
    request = sim.ask_for(shop, "asha@example.com", "Tea", "99")
    path = urlsplit(request["longurl"]).path
    assert sim.is_page("GET", path)
    assert Harness.is_page(sim, "GET", path) is False
    press(request["longurl"])
    assert sim.calls == []
    assert got(f"{sim.address}/@shop0/{'0' * 32}").status_code == 404


def test_there_are_no_subscriptions_in_any_situation(sim: Simulator, shop: Sample) -> None:
    assert sim.stage(shop, "asha@example.com", Situation()) is None
    [order] = told_by(sim, shop).orders
    assert (order.email, order.status) == ("asha@example.com", "paid")
    with pytest.raises(KeyError):
        sim.standing("anything")
    assert sim.plans(shop) == []


# Notices


def test_no_forgery_is_taken(sim: Simulator, shop: Sample) -> None:
    sim.pay(shop, sim.ask_for(shop, "asha@example.com", "Tea & cakes, süß", "99"), "asha@example.com")
    delivery = sim.sent[-1]
    adapter = Adapter({"salt": shop.credentials["salt"]})
    [event] = adapter.verify(list(delivery.headers.items()), delivery.body, NOW)
    assert event.subject is not None
    assert event.subject.kind == "payment"
    forged = sim.forgeries(shop, delivery)
    assert len(forged) >= 40
    for one in forged:
        with pytest.raises(BadSignature):
            print(one.what, adapter.verify(one.headers, one.body, NOW))
    for credentials in (sim.samples()[1].credentials, {}):
        with pytest.raises(BadSignature):
            Adapter(credentials).verify(list(delivery.headers.items()), delivery.body, NOW)


def test_same_notice_twice_is_one_event(sim: Simulator, shop: Sample) -> None:
    sim.switch("duplicate")
    sim.pay(shop, sim.ask_for(shop, "asha@example.com", "Tea", "99"), "asha@example.com")
    sim.resend(sim.sent[-1])
    adapter = Adapter(shop.credentials)
    ids = {adapter.verify([], sim.sent[-1].body, NOW)[0].id for _ in range(2)}
    assert len(ids) == 1


def test_notice_goes_to_the_address_of_its_request(sim: Simulator, shop: Sample) -> None:
    sim.pay(shop, sim.ask_for(shop, "a@example.com", "Tea", "99"), "a@example.com")
    sim.pay(
        shop,
        sim.ask_for(shop, "a@example.com", "Tea", "99", webhook="https://shop.example/h"),
        "a@example.com",
    )
    assert [one.url for one in sim.sent] == [HOOK, "https://shop.example/h"]


def test_notice_of_a_payment_without_a_request_is_read(sim: Simulator, shop: Sample) -> None:
    sim.pay(shop, None, "asha@example.com", title="Smart link", amount="250.00")
    snapshot = told_by(sim, shop)
    assert [(one.email, one.status) for one in snapshot.orders] == [("asha@example.com", "paid")]
    assert snapshot.payments[0].order == snapshot.orders[0].remote_id


def test_code_is_the_one_of_the_published_vector() -> None:
    assert sign({"foo": "1", "bar": "2", "baz": "3", "mac": "x"}, "salt") == sign({"a": "2|3|1"}, "salt")


# What the shop itself does


def created(sim: Simulator, sample: Sample, path: str = "payment-requests/", **form: str) -> httpx.Response:
    keys = {"X-Api-Key": sample.credentials["api_key"], "X-Auth-Token": sample.credentials["auth_token"]}
    return posted(f"{sim.address}/api/1.1/{path}", data=form, headers=keys)


def test_request_that_the_shop_makes_is_known_at_the_next_look(sim: Simulator, shop: Sample) -> None:
    answer = created(
        sim,
        shop,
        purpose="Tea",
        amount="2500",
        email="asha@example.com",
        allow_repeated_payments="false",
        webhook=HOOK,
    )
    assert answer.status_code == 201
    said = answer.json()["payment_request"]
    assert (said["amount"], said["status"], said["shorturl"]) == ("2500.00", "Pending", None)
    found = Adapter.read("order", answer.json())
    assert isinstance(found, OrderRecord)
    orders, _ = everything(pages(sim, shop))
    assert found == orders[said["id"]]


@pytest.mark.parametrize(
    "form", [{}, {"purpose": "Tea", "amount": "8.99"}, {"purpose": "Tea", "amount": "x"}]
)
def test_wrong_request_is_refused_by_field(sim: Simulator, shop: Sample, form: dict[str, str]) -> None:
    answer = created(sim, shop, **form)
    assert (answer.status_code, answer.json()["success"]) == (400, False)
    assert isinstance(answer.json()["message"], dict)


def test_shop_refunds_once_without_and_then_with_an_id_of_its_own(sim: Simulator, shop: Sample) -> None:
    paid = sim.pay(shop, sim.ask_for(shop, "a@example.com", "Tea", "99"), "a@example.com")["payment_id"]
    form = {"payment_id": paid, "type": "RFD", "body": "Twice", "refund_amount": "9.00"}
    assert created(sim, shop, "refunds/", **form).status_code == 201
    assert created(sim, shop, "refunds/", **form).status_code == 400
    assert created(sim, shop, "refunds/", **form, transaction_id="r2").status_code == 201
    assert len(fetched(sim, shop, "payment", paid).refunds) == 2


def test_declining_takes_neither_request_nor_refund(sim: Simulator, shop: Sample) -> None:
    paid = sim.pay(shop, sim.ask_for(shop, "a@example.com", "Tea", "99"), "a@example.com")["payment_id"]
    sim.switch("decline")
    assert created(sim, shop, purpose="Tea", amount="99").status_code == 400
    assert created(sim, shop, "refunds/", payment_id=paid, type="RFD").status_code == 400


def test_list_of_requests_has_its_filters_and_its_pages(sim: Simulator, shop: Sample) -> None:
    for number in range(3):
        clock.set_offset(clock.offset() + timedelta(days=1))
        sim.ask_for(shop, "a@example.com", f"Tea {number}", "99")
    keys = {"X-Api-Key": shop.credentials["api_key"], "X-Auth-Token": shop.credentials["auth_token"]}

    def listed(**query: str) -> Any:
        url = f"{sim.address}/api/1.1/payment-requests/"
        return got(url, params=query, headers=keys)

    newest = [one["purpose"] for one in listed().json()["payment_requests"]]
    assert newest == ["Tea 2", "Tea 1", "Tea 0"]
    since = (clock.now() - timedelta(hours=30)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert len(listed(min_modified_at=since).json()["payment_requests"]) == 2
    assert len(listed(max_created_at=since).json()["payment_requests"]) == 1
    assert [one["purpose"] for one in listed(page="2", limit="2").json()["payment_requests"]] == ["Tea 0"]
    assert listed(page="3", limit="2").status_code == 404
    assert listed(limit="501").status_code == listed(page="x").status_code == 400


def test_payment_stands_below_its_request_in_v1(sim: Simulator, shop: Sample) -> None:
    request = sim.ask_for(shop, "a@example.com", "Tea", "99")
    paid = sim.pay(shop, request, "a@example.com")["payment_id"]
    keys = {"X-Api-Key": shop.credentials["api_key"], "X-Auth-Token": shop.credentials["auth_token"]}
    url = f"{sim.address}/api/1.1/payment-requests/{request['id']}"
    said = got(f"{url}/{paid}/", headers=keys).json()
    record = Adapter.read("payment", said)
    assert record == fetched(sim, shop, "payment", paid).payments[0]
    assert got(f"{url}/MOJO0/", headers=keys).status_code == 404


def test_what_leaves_the_contract_is_found(sim: Simulator, shop: Sample) -> None:
    if sim.contract is None:
        pytest.skip("the compiled list of Instamojo's operations is not here")
    keys = {"X-Api-Key": shop.credentials["api_key"], "X-Auth-Token": shop.credentials["auth_token"]}
    got(f"{sim.address}/api/1.1/payments/?by=email", headers=keys)
    created(sim, shop, purpose="Tea", amount="99", colour="red")
    time.sleep(0.1)  # the answer is out before it is held to the contract
    found, sim.problems = sim.problems, []
    assert found == [
        "v11.payments.list: the query has an unknown field by",
        "v11.payment_requests.create: the body has an unknown field colour",
    ]


# The unhappy day


def open_request(sim: Simulator, sample: Sample) -> str:
    number: str = sim.ask_for(sample, "asha@example.com", "Tea", "99")["id"]
    return number


@pytest.mark.parametrize(("fault", "seconds"), [("429", 60.0), ("429:7", 7.0)])
def test_limit_says_when_to_come_back(sim: Simulator, either: Sample, fault: str, seconds: float) -> None:
    number = open_request(sim, either)
    sim.fail_next = [fault]
    with pytest.raises(Unavailable) as caught:
        fetched(sim, either, "order", number)
    assert (caught.value.retry_after, caught.value.sent) == (seconds, False)
    sim.fail_next = [fault]
    with pytest.raises(Unavailable):
        pages(sim, either)


@pytest.mark.parametrize("fault", ["500", "401", "drop", "timeout_after"])
def test_failing_calls_are_no_answer(sim: Simulator, shop: Sample, fault: str) -> None:
    number = open_request(sim, shop)
    sim.fail_next = [fault] * 3
    with pytest.raises(Unavailable) as caught:
        pay_now(sim, shop, number)
    assert not caught.value.sent
    sim.fail_next = []
    assert isinstance(pay_now(sim, shop, number), Leave)


def test_one_lost_answer_is_asked_for_again(sim: Simulator, shop: Sample) -> None:
    number = open_request(sim, shop)
    sim.fail_next = ["drop"]
    assert fetched(sim, shop, "order", number).orders[0].status == "open"


@pytest.mark.parametrize("fault", GARBAGE)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_garbage_is_an_error_of_ours_or_says_less(
    sim: Simulator, either: Sample, fault: str, at: int
) -> None:
    request = sim.ask_for(either, "asha@example.com", "Tea", "99")
    paid = sim.pay(either, request, "asha@example.com")["payment_id"]
    sim.refund(either, paid, "9")
    for kind, number in (("order", request["id"]), ("payment", paid)):
        sim.fail_next = [*[""] * at, fault]
        try:
            snapshot = fetched(sim, either, kind, number)
        except GatewayError:
            continue
        finally:
            sim.fail_next = []
        records: list[OrderRecord | PaymentRecord] = [*snapshot.orders, *snapshot.payments]
        for one in records:
            assert one.remote_id in (request["id"], paid)
            assert one.status in ("paid", None)


@pytest.mark.parametrize("fault", GARBAGE)
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_garbage_in_lists_stops_at_the_page_or_says_less(
    sim: Simulator, either: Sample, fault: str, at: int
) -> None:
    sim.fill(either)
    ids = {number for kind in ("requests", "orders", "payments") for number in sim._account(either)[kind]}
    sim.fail_next = [*[""] * at, fault]
    try:
        found = pages(sim, either)
    except GatewayError:
        return
    orders, payments = everything(found)
    assert {*orders, *payments} <= ids


def test_unknown_word_keeps_the_last_known_state(sim: Simulator, shop: Sample) -> None:
    number = open_request(sim, shop)
    sim.fail_next = ["unknown_status"]
    order = fetched(sim, shop, "order", number).orders[0]
    assert (order.status, order.raw_status) == (None, "a_word_of_tomorrow")
    assert "status" not in (order.knows or {"status"})


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in ("slow", "hang")])
def test_modes_leave_the_hosted_page_alone(sim: Simulator, shop: Sample, mode: str) -> None:
    request = sim.ask_for(shop, "asha@example.com", "Tea", "99")
    sim.switch(mode)
    assert got(request["longurl"]).status_code == 200
    press(request["longurl"])
    assert request["status"] == ("Pending" if mode == "decline" else "Completed")
