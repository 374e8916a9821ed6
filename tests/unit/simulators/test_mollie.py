"""Mollie's gateway against its simulator: every read, every capability, and the unhappy day."""

import asyncio
import json
import pickle
import re
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

import httpx2 as httpx
import pytest

from portal import clock
from portal.gateways import _mollie, http
from portal.gateways import _mollie_webhooks as webhooks
from portal.gateways.base import (
    BadSignature,
    Declined,
    Gone,
    Interval,
    Leave,
    Line,
    Page,
    Ref,
    Registration,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import facts
from portal.gateways.mollie import Adapter
from portal.money import Money
from seeds.simulators.harness import Sample, Servers, Situation
from seeds.simulators.mollie import SAMPLES, Simulator, signed

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
BACK = "https://pay.acme.example/customers/return/abc?x=1&y=2"
SHOP, STRANGER, CLASSIC = SAMPLES
Result = TypeVar("Result")


class Desk:
    """One event loop and one gateway for each set of keys: to open a client takes longer than to ask."""

    def __init__(self, mollie: Simulator) -> None:
        self.mollie = mollie
        self.runner = asyncio.Runner()
        self.gateways: dict[tuple[str, float], Adapter] = {}
        self.client = httpx.Client(trust_env=False)

    def gateway(self, credentials: dict[str, str]) -> Adapter:
        addresses = dict.fromkeys(("api.mollie.com", "www.mollie.com"), self.mollie.address)
        key = (credentials["api_key"], http.READ_S)
        if key not in self.gateways:
            self.gateways[key] = Adapter(credentials, addresses=addresses)
        return self.gateways[key]

    def close(self) -> None:
        for gateway in self.gateways.values():
            self.runner.run(gateway.aclose())
        self.runner.close()
        self.client.close()


desks: dict[str, Desk] = {}


@pytest.fixture(scope="module")
def served() -> Iterator[Simulator]:
    with Servers([found := Simulator(clock.now)]):
        desks[found.address] = Desk(found)
        yield found
        desks.pop(found.address).close()


@pytest.fixture
def mollie(served: Simulator) -> Iterator[Simulator]:
    clock.set_offset(NOW - datetime.now(UTC))
    served.reset()
    for sample in SAMPLES:
        served.open(sample, "")
    yield served
    served.switch("ok")
    http.breaker("mollie", served.address).close()


def ask(
    mollie: Simulator, what: Callable[[Adapter], Awaitable[Result]], sample: Sample = SHOP, **keys: str
) -> Result:
    async def main(gateway: Adapter) -> Result:
        return await what(gateway)

    desk = desks[mollie.address]
    return desk.runner.run(main(desk.gateway({**sample.credentials, **keys})))


def fetch(mollie: Simulator, ref: Ref, sample: Sample = SHOP) -> Snapshot:
    return ask(mollie, lambda gateway: gateway.fetch(ref), sample)


def make_club(mollie: Simulator, title: str = "Coffee club", **more: Any) -> Ref:
    account = mollie.account(SHOP)
    customer = mollie.customer(account, "noor@example.com", "Noor Haddad")
    one = mollie.subscribe(account, customer, title, **more)
    return Ref("subscription", one["id"], known_of(one))


def known_of(one: dict[str, Any]) -> SubscriptionRecord:
    following = one.get("nextPaymentDate")
    until = datetime.fromisoformat(f"{following}T00:00:00+01:00") if following else None
    return SubscriptionRecord(remote_id=one["id"], customer=one["customerId"], current_period_end=until)


def only(snapshot: Snapshot | Leave | None, at: int = 0) -> SubscriptionRecord:
    assert isinstance(snapshot, Snapshot)
    return snapshot.subscriptions[at]


def writes(mollie: Simulator) -> list[str]:
    return [f"{call.method} {call.path}" for call in mollie.calls if call.method != "GET"]


async def collect(gateway: Adapter, cursor: str | None = None) -> list[Page]:
    return [page async for page in gateway.backfill(cursor)]


async def press(url: str, do: str, method: str = "") -> httpx.Response:
    """What a browser does on the hosted page, the button named by its data-test."""
    browser = next(iter(desks.values())).client
    assert f'data-test="{do}"' in (await asyncio.to_thread(browser.get, url)).text
    form = {"do": do, **({"with": method} if method else {})}
    return await asyncio.to_thread(browser.post, url, data=form)


# Keys


def test_good_key_says_whose_it_is(mollie: Simulator) -> None:
    health = ask(mollie, lambda gateway: gateway.check())
    assert (health.ok, health.live, health.account) == (True, False, "Mollie, next-gen webhooks")
    assert ask(mollie, lambda gateway: gateway.check(), CLASSIC).live is True
    assert {call.method for call in mollie.calls} == {"GET"}


def test_key_that_mollie_does_not_know_is_told_and_not_raised(mollie: Simulator) -> None:
    key = "live_NobodyKnowsThisKeyAtAll00000000"
    health = ask(mollie, lambda gateway: gateway.check(), api_key=key)
    assert (health.ok, health.live) == (False, True)
    assert health.hint is not None
    assert "401" in health.hint
    assert key not in health.hint


def test_no_key_at_all_is_a_bad_one(mollie: Simulator) -> None:
    health = ask(mollie, lambda gateway: gateway.check(), api_key="")
    assert (health.ok, health.live) == (False, False)


def test_blocked_profile_is_told(mollie: Simulator) -> None:
    mollie.account(SHOP)["status"] = "blocked"
    health = ask(mollie, lambda gateway: gateway.check())
    assert (health.ok, health.hint) == (False, "Mollie has blocked this profile.")


def test_mollie_that_is_down_is_no_bad_key(mollie: Simulator) -> None:
    mollie.switch("down")
    with pytest.raises(Unavailable):
        ask(mollie, lambda gateway: gateway.check())


def test_keys_that_were_taken_away_stop_everything_else(mollie: Simulator) -> None:
    club = make_club(mollie)
    mollie.switch("refused_keys")
    with pytest.raises(Unavailable, match="401") as caught:
        ask(mollie, lambda gateway: gateway.cancel_now(club, "key"))
    assert not caught.value.sent
    assert writes(mollie) == []


# Reading everything


def test_backfill_tells_all_there_is(mollie: Simulator) -> None:
    mollie.fill(SHOP)
    pages = ask(mollie, collect)
    assert pages[-1].cursor is None
    assert all(page.cursor for page in pages[:-1])
    found = {
        name: {one.remote_id for page in pages for one in getattr(page.snapshot, name)}
        for name in ("customers", "subscriptions", "payments", "refunds", "invoices")
    }
    kinds = {"customers": "customer", "subscriptions": "subscription", "payments": "payment"}
    kinds |= {"refunds": "refund", "invoices": "sales-invoice"}
    for name, kind in kinds.items():
        assert found[name] == {one["id"] for one in mollie._all(kind)}, name
    statuses = {one.title: one.status for page in pages for one in page.snapshot.subscriptions}
    assert statuses == {
        "Coffee club": "active",
        "Tea box": "active",
        "Bread every week": "active",
        "Yearly magazine": "active",
        "Flowers, first month free": "trialing",
        "Cheese of the month": "incomplete",
        "Wine club": "past_due",
        "Vegetable box": "past_due",
        "Puzzle club": "cancelled",
        "Three lessons": "expired",
    }
    orders = {one.title: (one.status, one.amount) for page in pages for one in page.snapshot.orders}
    assert orders == {
        "Order 1042: moka pot": ("paid", Money(3450, "EUR")),
        "Order 1001": ("paid", Money(2950, "EUR")),
        "Order 1002": ("partially_refunded", Money(4000, "EUR")),
        "Order 1003": ("refunded", Money(1999, "EUR")),
        "Order 1004": ("failed", Money(2100, "EUR")),
        "Order 1005": ("expired", Money(800, "EUR")),
        "Order 1006": ("paid", Money(5200, "EUR")),
        "Kyoto tea bowl": ("paid", Money(4200, "JPY")),
        "Till sale": ("paid", Money(350, "EUR")),
    }
    assert {call.method for call in mollie.calls} == {"GET"}


def test_backfill_goes_on_where_it_stopped(mollie: Simulator) -> None:
    mollie.fill(SHOP)
    account = mollie.account(SHOP)
    customer = mollie.customer(account, "ana@example.com", "Ana")
    for number in range(40):
        mollie._end(mollie.subscribe(account, customer, f"Old {number}", months=0), "canceled")
    pages = ask(mollie, collect)
    assert [json.loads(page.cursor)[0] for page in pages if page.cursor] == [
        *("subscriptions", "subscriptions", "payments", "refunds", "sales-invoices"),
    ]
    for number, page in enumerate(pages[:-1]):
        rest = ask(mollie, lambda gateway, after=page.cursor: collect(gateway, after))  # type: ignore[misc]
        assert [one.cursor for one in rest] == [one.cursor for one in pages[number + 1 :]]
        assert [told(one) for one in rest] == [told(one) for one in pages[number + 1 :]]


def told(page: Page) -> list[str]:
    snapshot = page.snapshot
    rows = (*snapshot.customers, *snapshot.subscriptions, *snapshot.payments, *snapshot.refunds)
    return [one.remote_id for one in (*rows, *snapshot.invoices)]


def test_account_without_sales_invoices_is_read_all_the_same(
    mollie: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    mollie.fill(SHOP)
    cursor = json.dumps(["sales-invoices", None])
    mollie.fail_next = ["429"]
    with pytest.raises(Unavailable):
        ask(mollie, lambda gateway: collect(gateway, cursor))
    gone = json.dumps(["sales-invoices", "invoice_none"])  # answered 400, as a list that is not theirs
    (page,) = ask(mollie, lambda gateway: collect(gateway, gone))
    assert (page.snapshot.invoices, page.cursor) == ((), None)


def test_list_that_does_not_say_how_it_goes_on_is_no_end(mollie: Simulator) -> None:
    mollie.fill(SHOP)
    mollie.fail_next = ["missing_fields"]
    with pytest.raises(Unavailable):
        ask(mollie, collect)


def test_nobody_is_found_by_address(mollie: Simulator) -> None:
    mollie.fill(SHOP)
    assert ask(mollie, lambda gateway: gateway.find("noor@example.com")) == []
    assert mollie.calls == []


def test_subscription_is_fetched_below_the_known_customer(mollie: Simulator) -> None:
    club = make_club(mollie)
    record = only(fetch(mollie, club))
    assert (record.status, record.title, record.customer) == ("active", "Coffee club", known(club).customer)
    assert record.next_payment is not None
    assert (record.next_payment.on, record.next_payment.amount) == (date(2026, 12, 1), Money(2400, "EUR"))
    assert record.method is not None
    assert (record.method.kind, record.method.brand, record.method.last4) == ("card", "Visa", "4242")
    assert (record.method.expires, record.method.remote_id) == (
        "2029-09",
        mollie.standing(club.id).method,
    )
    assert "/v2/subscriptions" not in [call.path for call in mollie.calls]


def known(ref: Ref) -> SubscriptionRecord:
    assert isinstance(ref.known, SubscriptionRecord)
    return ref.known


def test_subscription_of_an_unknown_customer_is_searched_for_in_the_whole_list(mollie: Simulator) -> None:
    club = make_club(mollie)
    snapshot = fetch(mollie, Ref("subscription", club.id))
    assert only(snapshot).remote_id == club.id
    assert [one.email for one in snapshot.customers] == ["noor@example.com"]
    assert mollie.calls[0].path == "/v2/subscriptions"


def test_every_kind_is_fetched_by_its_id(mollie: Simulator) -> None:
    mollie.fill(SHOP)
    kinds = {"customer": "customer", "payment": "payment", "refund": "refund"}
    for kind, resource in {**kinds, "invoice": "sales-invoice", "subscription": "subscription"}.items():
        one = mollie._all(resource)[-1]
        snapshot = fetch(mollie, Ref(kind, one["id"]))  # type: ignore[arg-type]
        assert one["id"] in [record.remote_id for record in getattr(snapshot, f"{kind}s")], kind


def test_order_is_the_payment_that_it_is(mollie: Simulator) -> None:
    lines = [{"description": "Beans", "quantity": 2, "totalAmount": {"currency": "JPY", "value": "1000"}}]
    more: dict[str, Any] = {"currency": "JPY", "lines": lines, "metadata": {"order_number": "A-17"}}
    said = mollie.order(mollie.account(SHOP), "Order 17", 1000, NOW, "ana@example.com", **more)
    (order,) = fetch(mollie, Ref("order", said["id"])).orders
    assert (order.number, order.status, order.email) == ("A-17", "paid", "ana@example.com")
    assert order.lines == (Line("Beans", 2, Money(1000, "JPY")),)


def test_payment_comes_with_its_refunds_its_customer_and_its_subscription(mollie: Simulator) -> None:
    club = make_club(mollie)
    payment = mollie._payments_of(mollie.objects[club.id])[0]
    mollie.refund(payment, 400)
    snapshot = fetch(mollie, Ref("payment", payment["id"]))
    found = {one.remote_id: one for one in snapshot.payments}[payment["id"]]
    assert (found.status, found.refunded) == ("partially_refunded", Money(400, "EUR"))
    assert (found.subscription, found.order) == (club.id, None)
    assert [(one.status, one.amount, one.payment) for one in snapshot.refunds] == [
        ("sent", Money(400, "EUR"), payment["id"])
    ]
    assert [one.email for one in snapshot.customers] == ["noor@example.com"]
    assert only(snapshot).remote_id == club.id


def test_strangers_objects_are_not_there(mollie: Simulator) -> None:
    club = make_club(mollie)
    payment = mollie._payments_of(mollie.objects[club.id])[0]["id"]
    for ref in (club, Ref("subscription", club.id), Ref("payment", payment), Ref("invoice", "invoice_x")):
        with pytest.raises(Gone):
            fetch(mollie, ref, STRANGER)
    with pytest.raises(Gone):
        ask(mollie, lambda gateway: gateway.cancel_now(club, "key"), STRANGER)
    assert mollie.standing(club.id).raw == "active"


@pytest.mark.parametrize("remote_id", ["", "..", "tr_x/../../v2/customers", "tr_x?embed=a", "tr x", "ü"])
def test_id_that_could_leave_its_place_in_the_path_is_never_asked_for(
    mollie: Simulator, remote_id: str
) -> None:
    for kind in ("payment", "customer", "invoice"):
        with pytest.raises(Gone):
            fetch(mollie, Ref(kind, remote_id))
    assert mollie.calls == []


def test_sales_invoice_has_a_file(mollie: Simulator) -> None:
    mollie.fill(SHOP)
    (said,) = mollie._all("sales-invoice")
    ref = Ref("invoice", said["id"])
    (record,) = fetch(mollie, ref).invoices
    assert (record.number, record.status, record.document) == ("INV-2026-0007", "paid", True)
    document = ask(mollie, lambda gateway: gateway.invoice_document(ref))
    assert document is not None
    assert (document.content_type, document.content[:5]) == ("application/pdf", b"%PDF-")
    assert "authorization" not in mollie.calls[-1].headers
    said["status"] = "draft"
    assert ask(mollie, lambda gateway: gateway.invoice_document(ref)) is None


# Wishes


def test_cancel_now_ends_it_and_leaves_the_mandate(mollie: Simulator) -> None:
    club = make_club(mollie)
    record = only(ask(mollie, lambda gateway: gateway.cancel_now(club, "key")))
    assert (record.status, record.raw_status) == ("cancelled", "canceled")
    assert record.ended_at == NOW.replace(second=record.ended_at.second) if record.ended_at else False
    assert record.knows is not None
    assert "current_period_end" not in record.knows, "until when it is paid is known from before"
    assert {"next_payment", "status"} <= record.knows
    assert not mollie.standing(club.id).charges
    assert {one["status"] for one in mollie._all("mandate")} == {"valid"}


def test_second_cancel_is_success(mollie: Simulator) -> None:
    club = make_club(mollie)
    for key in ("one", "two"):
        assert only(ask(mollie, lambda gateway, key=key: gateway.cancel_now(club, key))).status == "cancelled"  # type: ignore[misc]
    assert len(writes(mollie)) == 1


def test_amount_and_interval_are_changed_from_the_next_payment_on(mollie: Simulator) -> None:
    club = make_club(mollie)
    wish = {"amount": Money(1950, "EUR"), "interval": Interval("month", 2), "quantity": None}
    record = only(ask(mollie, lambda gateway: gateway.change_plan(club, wish, BACK, "key")))
    assert (record.amount, record.interval) == (Money(1950, "EUR"), Interval("month", 2))
    assert mollie.standing(club.id).next_on == date(2026, 12, 1)
    sent = json.loads(next(call.body for call in mollie.calls if call.method == "PATCH"))
    assert sent == {"amount": {"currency": "EUR", "value": "19.50"}, "interval": "2 months"}
    ask(mollie, lambda gateway: gateway.change_plan(club, wish, BACK, "key"))
    assert len(writes(mollie)) == 1


def test_year_is_twelve_months_at_mollie(mollie: Simulator) -> None:
    club = make_club(mollie)
    wish = {"amount": Money(20000, "EUR"), "interval": Interval("year")}
    record = only(ask(mollie, lambda gateway: gateway.change_plan(club, wish, BACK, "key")))
    assert record.interval == Interval("year")
    assert mollie.objects[club.id]["interval"] == "12 months"


@pytest.mark.parametrize(
    "wish",
    [
        {"amount": Money(1000, "USD")},
        {"interval": Interval("year", 2)},
        {"interval": Interval("month", 13)},
        {"plan": "gold", "amount": Money(1000, "EUR")},
        {"quantity": 3},
        {},
    ],
)
def test_plan_that_mollie_cannot_have_is_refused_here(mollie: Simulator, wish: dict[str, Any]) -> None:
    club = make_club(mollie)
    with pytest.raises(Unsupported):
        ask(mollie, lambda gateway: gateway.change_plan(club, wish, BACK, "key"))
    assert writes(mollie) == []


def test_new_card_is_set_up_for_nothing_and_put_under_the_subscription(mollie: Simulator) -> None:
    club = make_club(mollie)
    before = mollie.standing(club.id).method

    async def trip(gateway: Adapter) -> tuple[Leave, httpx.Response, SubscriptionRecord, SubscriptionRecord]:
        leave = await gateway.start_method_update(club, BACK, "key")
        early = only(await gateway.finish_method_update(club, leave.state, {"status": "paid"}))
        back = await press(leave.url, "accept", "mastercard")
        after = only(await gateway.finish_method_update(club, leave.state, {}))
        return leave, back, early, after

    leave, back, early, after = ask(mollie, trip)
    assert facts("mollie").allows_link(leave.url, {"": mollie.address})
    assert back.headers["location"] == BACK
    assert early.method is not None
    assert early.method.remote_id == before, "the return is not believed"
    assert after.method is not None
    assert (after.method.brand, after.method.last4) == ("Mastercard", "5454")
    assert after.method.remote_id not in (None, before)
    assert mollie.standing(club.id).method == after.method.remote_id
    asked = json.loads(next(call.body for call in mollie.calls if call.path == "/v2/payments"))
    assert (asked["amount"], asked["method"]) == ({"currency": "EUR", "value": "0.00"}, "creditcard")
    assert (asked["sequenceType"], asked["redirectUrl"]) == ("first", BACK)
    assert "webhookUrl" not in asked


@pytest.mark.parametrize(
    ("kind", "fixed", "choice", "value", "methods"),
    [
        ("paypal", "paypal", "paypal", "0.00", "paypal"),
        ("directdebit", "directdebit", "ideal", "0.01", ["ideal", "bancontact", "belfius", "kbc", "eps"]),
        ("directdebit", None, "visa", "0.01", None),
        ("paypal", None, "ideal", "0.01", None),
    ],
)
def test_other_methods_take_a_cent_and_a_fixed_type_is_kept(
    mollie: Simulator, kind: str, fixed: str | None, choice: str, value: str, methods: Any
) -> None:
    club = make_club(mollie, kind=kind, fixed=fixed)

    async def trip(gateway: Adapter) -> SubscriptionRecord:
        leave = await gateway.start_method_update(club, BACK, "key")
        await press(leave.url, "accept", choice)
        return only(await gateway.finish_method_update(club, leave.state, {}))

    record = ask(mollie, trip)
    asked = json.loads(next(call.body for call in mollie.calls if call.path == "/v2/payments"))
    assert (asked["amount"]["value"], asked.get("method")) == (value, methods)
    assert record.method is not None
    assert record.method.remote_id == mollie.standing(club.id).method == mollie._all("mandate")[0]["id"]


def test_suspended_subscription_goes_on_after_a_new_card(mollie: Simulator) -> None:
    club = make_club(mollie, mandate="invalid")
    mollie.objects[club.id]["status"] = "suspended"
    assert only(fetch(mollie, club)).status == "past_due"

    async def trip(gateway: Adapter) -> SubscriptionRecord:
        leave = await gateway.start_method_update(club, BACK, "key")
        await press(leave.url, "accept")
        return only(await gateway.finish_method_update(club, leave.state, {}))

    assert ask(mollie, trip).status == "active"
    assert mollie.standing(club.id).charges


@pytest.mark.parametrize(("do", "reason"), [("decline", "card_declined"), ("back", "canceled")])
def test_card_that_is_refused_or_left_changes_nothing(mollie: Simulator, do: str, reason: str) -> None:
    club = make_club(mollie)
    before = mollie.standing(club.id)

    async def trip(gateway: Adapter) -> None:
        leave = await gateway.start_method_update(club, BACK, "key")
        assert (await press(leave.url, do)).headers["location"] == BACK
        await gateway.finish_method_update(club, leave.state, {})

    with pytest.raises(Declined, match=reason) as caught:
        ask(mollie, trip)
    assert caught.value.reason == reason
    assert mollie.standing(club.id) == before


def test_checkout_that_expired_is_told(mollie: Simulator) -> None:
    club = make_club(mollie)
    leave = ask(mollie, lambda gateway: gateway.start_method_update(club, BACK, "key"))
    clock.set_offset(clock.offset() + timedelta(minutes=20))
    mollie.tick()
    with pytest.raises(Declined, match="expired"):
        ask(mollie, lambda gateway: gateway.finish_method_update(club, leave.state, {}))


WISHES: dict[str, Callable[[Adapter, Ref], Awaitable[Any]]] = {
    "cancel": lambda gateway, club: gateway.cancel_now(club, "key"),
    "change": lambda gateway, club: gateway.change_plan(club, {"amount": Money(100, "EUR")}, BACK, "key"),
    "method": lambda gateway, club: gateway.start_method_update(club, BACK, "key"),
    "undo": lambda gateway, club: gateway.undo_cancel(club, "key"),
}


def make_wishing(mollie: Simulator, wish: str) -> Ref:
    club = make_club(mollie)
    if wish == "undo":
        mollie._end(mollie.objects[club.id], "canceled")
    mollie.calls.clear()
    return club


@pytest.mark.parametrize("wish", WISHES)
def test_refused_wish_is_declined_and_changes_nothing(mollie: Simulator, wish: str) -> None:
    club = make_wishing(mollie, wish)
    mollie.switch("decline")
    before = mollie.standing(club.id)
    with pytest.raises(Declined, match="higher than the maximum") as caught:
        ask(mollie, lambda gateway: WISHES[wish](gateway, club))
    assert caught.value.reason == "amount"
    assert mollie.standing(club.id) == before


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize(("fault", "wait"), [("429", 60), ("429:7", 7)])
def test_limit_stops_a_wish_once_and_says_for_how_long(
    mollie: Simulator, wish: str, fault: str, wait: float
) -> None:
    club = make_wishing(mollie, wish)
    mollie.fail_writes = [fault]
    with pytest.raises(Unavailable) as caught:
        ask(mollie, lambda gateway: WISHES[wish](gateway, club))
    assert (caught.value.retry_after, caught.value.sent) == (wait, False)
    assert len(writes(mollie)) == 1


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("fault", ["timeout_after", "500", "html", "empty", "truncated"])
def test_call_whose_answer_is_lost_is_unknown_and_the_next_try_does_it_once(
    mollie: Simulator, monkeypatch: pytest.MonkeyPatch, wish: str, fault: str
) -> None:
    monkeypatch.setattr("portal.gateways.http.READ_S", 0.3)
    club = make_wishing(mollie, wish)
    mollie.fail_writes = [fault]
    with pytest.raises(Unavailable) as caught:
        ask(mollie, lambda gateway: WISHES[wish](gateway, club))
    assert caught.value.sent
    answer = ask(mollie, lambda gateway: WISHES[wish](gateway, club))
    live = [one for one in mollie._all("subscription") if one["status"] == "active"]
    first = [one for one in mollie._all("payment") if one["sequenceType"] == "first"]
    assert len(live) == (0 if wish == "cancel" else 1)
    assert len(first) == (1 if wish == "method" else 0)
    if wish == "undo":
        assert [one.status for one in answer.subscriptions] == ["cancelled", "active"]


@pytest.mark.parametrize(("wish", "reads"), [("cancel", 1), ("change", 2), ("undo", 3)])
def test_outage_while_looking_afterwards_is_unknown_too(mollie: Simulator, wish: str, reads: int) -> None:
    club = make_wishing(mollie, wish)
    mollie.fail_next = [*[""] * reads, "500"]  # a write takes none of these while `fail_writes` has its own
    mollie.fail_writes = [""]
    with pytest.raises(Unavailable) as caught:
        ask(mollie, lambda gateway: WISHES[wish](gateway, club))
    assert caught.value.sent


@pytest.mark.parametrize("fault", ["html", "empty", "truncated", "wrong_types", "missing_fields", "500"])
@pytest.mark.parametrize("at", range(4))
def test_garbage_is_an_outage_or_says_less_and_nothing_else(mollie: Simulator, fault: str, at: int) -> None:
    club = make_club(mollie)
    payment = Ref("payment", mollie._payments_of(mollie.objects[club.id])[0]["id"])
    for ref in (club, payment, Ref("customer", known(club).customer or "")):
        http.breaker("mollie", mollie.address).close()
        mollie.fail_next = [*[""] * at, fault]
        try:
            snapshot = fetch(mollie, ref)
        except (Unavailable, Gone):
            continue
        finally:
            mollie.fail_next = []
        for one in snapshot.subscriptions:
            assert one.status in (None, "active")


def test_unknown_words_keep_the_last_known_state(mollie: Simulator) -> None:
    club = make_club(mollie)
    mollie.fail_next = ["unknown_status", "unknown_status", "unknown_status"]
    record = only(fetch(mollie, club))
    assert (record.status, record.raw_status) == (None, "a_word_of_tomorrow")
    assert record.knows is not None
    assert not {"next_payment", "ended_at", "current_period_end"} & record.knows
    assert record.method is not None
    assert record.method.remote_id == mollie.standing(club.id).method


# Webhooks and time


def test_true_event_is_proved_and_leads_to_the_payment_and_its_subscription(mollie: Simulator) -> None:
    club = make_club(mollie)
    mollie.charge(club.id, succeeds=False)
    delivery = mollie.sent[-1]

    async def work(gateway: Adapter) -> Snapshot | None:
        (event,) = gateway.verify(list(delivery.headers.items()), delivery.body, clock.now())
        assert (event.type, event.subject) == (
            "payment.failed",
            Ref("payment", mollie._payments_of(mollie.objects[club.id])[0]["id"]),
        )
        return await gateway.refetch(event)

    snapshot = ask(mollie, work)
    assert only(snapshot).status == "past_due"
    assert snapshot is not None
    assert snapshot.payments[0].failure is not None
    assert snapshot.payments[0].failure.code == "insufficient_funds"


def test_no_forgery_is_accepted(mollie: Simulator) -> None:
    club = make_club(mollie)
    mollie.charge(club.id)
    delivery = mollie.sent[-1]
    forgeries = mollie.forgeries(SHOP, delivery)
    assert len(forgeries) >= 25
    assert len({one.what for one in forgeries}) == len(forgeries)
    gateway = Adapter(SHOP.credentials)
    for one in forgeries:
        with pytest.raises(BadSignature):
            gateway.verify(one.headers, one.body, clock.now())
    assert gateway.verify(list(delivery.headers.items()), delivery.body, clock.now())
    with pytest.raises(BadSignature):
        Adapter(STRANGER.credentials).verify(list(delivery.headers.items()), delivery.body, clock.now())


def test_classic_hint_makes_us_look_and_a_made_up_one_changes_nothing(mollie: Simulator) -> None:
    account = mollie.account(CLASSIC)
    customer = mollie.customer(account, "noor@example.com", "Noor")
    one = mollie.subscribe(account, customer, "Coffee club")
    mollie.charge(one["id"])
    assert mollie.forgeries(CLASSIC, mollie.sent[-1]) == []
    true, forged = mollie.sent[-1].body, b"id=tr_madeUp1234"

    async def work(gateway: Adapter, body: bytes) -> Snapshot | None:
        (event,) = gateway.verify([], body, clock.now())
        return await gateway.refetch(event)

    snapshot = ask(mollie, lambda gateway: work(gateway, true), CLASSIC)
    assert only(snapshot).remote_id == one["id"]
    before = pickle.dumps(mollie.state)
    with pytest.raises(Gone):
        ask(mollie, lambda gateway: work(gateway, forged), CLASSIC)
    assert pickle.dumps(mollie.state) == before
    assert {call.method for call in mollie.calls} == {"GET"}


@pytest.mark.parametrize(
    ("situation", "status"),
    [
        (Situation("incomplete"), "incomplete"),
        (Situation("trialing"), "trialing"),
        (Situation("active"), "active"),
        (Situation("active", method="wallet"), "active"),
        (Situation("active", method="bank_debit", token=True), "active"),
        (Situation("past_due"), "past_due"),
        (Situation("past_due", token=False), "past_due"),
        (Situation("cancelled"), "cancelled"),
        (Situation("cancelled", token=False), "cancelled"),
        (Situation("expired"), "expired"),
    ],
)
def test_staged_subscription_is_told_by_webhook_as_it_is(
    mollie: Simulator, situation: Situation, status: str
) -> None:
    remote_id = mollie.stage(SHOP, "ana@example.com", situation)
    assert remote_id is not None
    (delivery,) = mollie.sent

    async def work(gateway: Adapter) -> Snapshot | None:
        (event,) = gateway.verify(list(delivery.headers.items()), delivery.body, clock.now())
        return await gateway.refetch(event)

    snapshot = ask(mollie, work)
    assert snapshot is not None
    assert [one.email for one in snapshot.customers] == ["ana@example.com"]
    assert (only(snapshot).remote_id, only(snapshot).status) == (remote_id, status)
    record = only(fetch(mollie, Ref("subscription", remote_id)))
    assert record.status == status
    assert record.method is not None
    assert record.method.kind == (situation.method or "card")
    if situation.token is not None:
        assert bool(record.method.remote_id) is situation.token


@pytest.mark.parametrize(
    "situation",
    [
        Situation("paused"),
        Situation("cancels_at_period_end"),
        Situation(method="upi"),
        Situation(object="schedule"),
        Situation("past_due", due=True),
        Situation("active", token=False),
    ],
)
def test_what_mollie_cannot_have_is_not_staged(mollie: Simulator, situation: Situation) -> None:
    assert mollie.stage(SHOP, "ana@example.com", situation) is None
    assert mollie.sent == []


def test_time_renews_completes_and_suspends(mollie: Simulator) -> None:
    renewing, last = make_club(mollie), make_club(mollie, "Four lessons", times=4)
    broken = make_club(mollie, "Broken", mandate="invalid")
    clock.set_offset(clock.offset() + timedelta(days=40))
    mollie.tick()
    one = mollie.standing(renewing.id)
    assert (one.raw, one.payments, one.next_on) == ("active", 5, date(2027, 2, 1))
    assert (mollie.standing(last.id).raw, mollie.standing(last.id).payments) == ("completed", 4)
    assert (mollie.standing(broken.id).raw, mollie.standing(broken.id).charges) == ("suspended", False)
    statuses = [only(fetch(mollie, ref)).status for ref in (renewing, last, broken)]
    assert statuses == ["active", "expired", "past_due"]


def test_declined_renewal_is_past_due_until_the_next_one_goes_through(mollie: Simulator) -> None:
    club = make_club(mollie)
    mollie.mode = "decline"
    clock.set_offset(clock.offset() + timedelta(days=10))
    mollie.tick()
    assert only(fetch(mollie, club)).status == "past_due"
    mollie.mode = "ok"
    clock.set_offset(clock.offset() + timedelta(days=31))
    mollie.tick()
    assert only(fetch(mollie, club)).status == "active"


@pytest.mark.parametrize("number", [0, 1])
def test_what_a_shop_offers_can_be_changed_to(mollie: Simulator, number: int) -> None:
    plan, club = mollie.plans(SHOP)[number], make_club(mollie)
    wish = {
        "amount": Money(plan["minor"], plan["currency"]),
        "interval": Interval(plan["unit"], plan["count"]),
    }
    record = only(ask(mollie, lambda gateway: gateway.change_plan(club, wish, BACK, "key")))
    assert (record.amount, record.interval) == (wish["amount"], wish["interval"])


def test_state_is_kept_put_back_and_pickled(mollie: Simulator) -> None:
    mollie.fill(SHOP)
    mollie.save()
    before = pickle.dumps(mollie.state)
    ask(mollie, lambda gateway: gateway.cancel_now(make_club(mollie), "key"))
    assert pickle.dumps(mollie.state) != before
    mollie.reset()
    assert mollie.state == pickle.loads(before)
    mollie._saved = None


def test_samples_fit_the_settings_form() -> None:
    fields = {one.name: one for one in facts("mollie").credentials}
    for sample in SAMPLES:
        assert all(re.fullmatch(fields[name].pattern, value) for name, value in sample.credentials.items())
        assert {one.name for one in fields.values() if one.required} <= set(sample.credentials)


def test_two_signatures_during_a_change_of_the_secret(mollie: Simulator) -> None:
    body = b'{"resource": "event", "id": "event_1", "type": "hook.ping"}'
    new = signed("", SHOP.credentials["webhook_secret"], body).headers["X-Mollie-Signature"]
    old = signed("", "whs_theSecretOfYesterday", body).headers["X-Mollie-Signature"]
    name = "X-Mollie-Signature"
    for headers in ([(name, old), (name, new)], [(name, new), (name, old)], [(name, f"{old}, {new}")]):
        (event,) = Adapter(SHOP.credentials).verify(headers, body, NOW)
        assert (event.id, event.subject) == ("event_1", None)


# The simulator by itself: what Mollie refuses


def call(
    mollie: Simulator, method: str, path: str, body: Any = None, key: str = "", **headers: str
) -> httpx.Response:
    sent = {"Authorization": f"Bearer {SHOP.credentials['api_key']}", **headers}
    sent |= {"Idempotency-Key": key} if key else {}
    return desks[mollie.address].client.request(method, mollie.address + path, json=body, headers=sent)


def path_of(club: Ref) -> str:
    return f"/v2/customers/{known(club).customer}/subscriptions/{club.id}"


def test_revoking_a_mandate_kills_every_subscription_on_it(mollie: Simulator) -> None:
    club, other = make_club(mollie), make_club(mollie, "Tea box")
    mollie.objects[other.id]["customerId"] = known(club).customer
    mollie.objects[other.id]["mandateId"] = mandate = mollie.standing(club.id).method
    answer = call(mollie, "DELETE", f"/v2/customers/{known(club).customer}/mandates/{mandate}")
    assert answer.status_code == 204
    assert [mollie.standing(one.id).raw for one in (club, other)] == ["canceled", "canceled"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"startDate": "2026-08-04"}, "startDate"),
        ({"nextPaymentDate": "2027-01-01"}, "nextPaymentDate"),
        ({"method": "paypal"}, "method"),
        ({"mandateId": "mdt_Unknown"}, "mandateId"),
        ({"amount": {"currency": "EUR", "value": "10"}}, "amount"),
        ({"amount": {"currency": "JPY", "value": "1000.00"}}, "amount"),
        ({"amount": {"currency": "EUR", "value": 10.0}}, "amount"),
        ({"amount": {"currency": "EUR", "value": "0.00"}}, "amount"),
        ({"interval": "1 year"}, "interval"),
        ({"interval": "13 months"}, "interval"),
        ({"testmode": True}, "testmode"),
    ],
)
def test_change_that_mollie_refuses(mollie: Simulator, body: dict[str, Any], field: str) -> None:
    club = make_club(mollie)
    before = dict(mollie.objects[club.id])
    answer = call(mollie, "PATCH", path_of(club), body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert answer.headers["content-type"].startswith("application/hal+json")
    assert mollie.objects[club.id] == before


def test_cancelled_one_is_neither_changed_nor_cancelled_again(mollie: Simulator) -> None:
    club = make_club(mollie)
    first = call(mollie, "DELETE", path_of(club))
    assert (first.status_code, first.json()["status"]) == (200, "canceled")
    assert "nextPaymentDate" not in first.json()
    for method, body in (("DELETE", None), ("PATCH", {"description": "Again"})):
        answer = call(mollie, method, path_of(club), body)
        assert (answer.status_code, answer.json()["detail"]) == (422, "The subscription has been cancelled")


def test_live_subscription_of_the_same_description_is_refused(mollie: Simulator) -> None:
    club = make_club(mollie)
    said = {
        "amount": {"currency": "EUR", "value": "9.00"},
        "interval": "1 week",
        "description": "Coffee club",
    }
    answer = call(mollie, "POST", path_of(club).rpartition("/")[0], said)
    assert (answer.status_code, answer.json()["field"]) == (422, "description")


def test_key_of_idempotency_gives_the_answer_again_and_no_other_request(mollie: Simulator) -> None:
    club = make_club(mollie)
    said = {"amount": {"currency": "EUR", "value": "9.00"}, "interval": "1 week", "description": "Milk"}
    path = path_of(club).rpartition("/")[0]
    first, again = (call(mollie, "POST", path, said, "one") for _ in range(2))
    assert (first.status_code, first.json()["id"]) == (again.status_code, again.json()["id"])
    assert again.headers["Idempotent-Replayed"] == "true"
    assert call(mollie, "POST", path, {**said, "interval": "2 weeks"}, "one").status_code == 400
    assert len(mollie._all("subscription")) == 2


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"method": "creditcard"}, 201),
        ({"method": ["creditcard", "paypal"]}, 201),
        ({"method": "ideal"}, 422),
        ({}, 422),
        ({"method": "creditcard", "sequenceType": "oneoff"}, 422),
        ({"method": "creditcard", "customerId": "cst_Unknown"}, 422),
        ({"method": "klarna"}, 422),
    ],
)
def test_nothing_is_an_amount_for_first_payments_by_card_and_paypal_alone(
    mollie: Simulator, more: dict[str, Any], status: int
) -> None:
    club = make_club(mollie)
    nothing = {"amount": {"currency": "EUR", "value": "0.00"}, "description": "Card", "redirectUrl": BACK}
    said = {**nothing, "customerId": known(club).customer, "sequenceType": "first", **more}
    assert call(mollie, "POST", "/v2/payments", said).status_code == status


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/customers?limit=0", 400),
        ("/v2/customers?limit=251", 400),
        ("/v2/customers?from=cst_none", 400),
        ("/v2/customers?testmode=true", 400),
        ("/v2/orders", 404),
        ("/v2/payments/tr_none", 404),
    ],
)
def test_question_that_mollie_refuses(mollie: Simulator, path: str, status: int) -> None:
    answer = call(mollie, "GET", path)
    assert (answer.status_code, answer.json()["status"]) == (status, status)


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer test_Nobody", "Basic abc", SHOP.credentials["api_key"]]
)
def test_call_without_a_key_is_refused(mollie: Simulator, given: str) -> None:
    answer = call(mollie, "GET", "/v2/profiles/me", Authorization=given)
    assert (answer.status_code, answer.json()["title"]) == (401, "Unauthorized Request")


def test_lists_are_newest_first_or_the_other_way_round(mollie: Simulator) -> None:
    mollie.fill(SHOP)
    down = call(mollie, "GET", "/v2/payments?limit=250").json()
    up = call(mollie, "GET", "/v2/payments?limit=250&sort=asc").json()
    ids = [one["id"] for one in down["_embedded"]["payments"]]
    assert ids == [one["id"] for one in up["_embedded"]["payments"]][::-1]
    assert down["count"] == len(ids)
    times = [one["createdAt"] for one in down["_embedded"]["payments"]]
    assert times == sorted(times, reverse=True)


# The webhook that is registered

HERE = "https://pay.acme.example/webhooks/abc"


def with_keys(mollie: Simulator, what: Callable[[Adapter], Awaitable[Result]], **keys: str) -> Result:
    """With a gateway of its own: the desk keeps one for each profile's key."""

    async def main() -> Result:
        addresses = dict.fromkeys(("api.mollie.com", "www.mollie.com"), mollie.address)
        one = Adapter({**SHOP.credentials, **keys}, addresses=addresses)
        try:
            return await what(one)
        finally:
            await one.aclose()

    return asyncio.run(main())


def registered(mollie: Simulator, key: str = "wish-1", **keys: str) -> Registration:
    return with_keys(mollie, lambda one: one.register_webhook(HERE, key), **keys)


def hooks(mollie: Simulator) -> list[dict[str, Any]]:
    return [one for one in mollie.account(SHOP)["hooks"].values() if one["url"] == HERE]


def test_a_webhook_is_made_marked_tested_and_removed(mollie: Simulator) -> None:
    made = registered(mollie)
    (hook,) = hooks(mollie)
    secret = made.credentials["webhook_secret"]
    assert (hook["id"], hook["mode"], hook["eventTypes"]) == (made.remote_id, "test", list(webhooks.EVENTS))
    assert secret == hook[".secret"]
    assert hook["name"] == webhooks._named(secret)
    assert secret not in hook["name"]
    assert with_keys(mollie, lambda one: one.send_test_event(made.remote_id)) == "hook.ping"
    sent = mollie.sent[-1]
    ours = Adapter({"webhook_secret": secret})
    (event,) = ours.verify(list(sent.headers.items()), sent.body, clock.now())
    assert (event.type, event.subject) == ("hook.ping", None)
    with_keys(mollie, lambda one: one.unregister_webhook(made.remote_id))
    assert hooks(mollie) == []


@pytest.mark.parametrize("kind", webhooks.EVENTS)
def test_every_event_that_is_asked_for_leads_somewhere(kind: str) -> None:
    sort = kind.partition(".")[0]
    entity = {"payment": "tr_1", "sales-invoice": "invoice_1"}.get(sort, "x_1")
    said = {"resource": "event", "id": "event_1", "type": kind, "entityId": entity}
    (event,) = _mollie.events({**said, "_embedded": {"entity": {"paymentId": "tr_1"}}})
    assert event.subject is not None


def test_a_webhook_whose_secret_is_known_is_only_looked_at(mollie: Simulator) -> None:
    made = registered(mollie)
    mollie.calls.clear()
    again = registered(mollie, "wish-2", **made.credentials)
    assert again.remote_id == made.remote_id
    assert writes(mollie) == []


def test_a_webhook_with_too_few_events_is_changed(mollie: Simulator) -> None:
    made = registered(mollie)
    hooks(mollie)[0]["eventTypes"] = ["payment.paid"]
    assert registered(mollie, "wish-2", **made.credentials).remote_id == made.remote_id
    assert hooks(mollie)[0]["eventTypes"] == list(webhooks.EVENTS)


@pytest.mark.parametrize("status", ["blocked", "disabled"])
def test_a_webhook_that_is_switched_off_is_replaced(mollie: Simulator, status: str) -> None:
    made = registered(mollie)
    hooks(mollie)[0]["status"] = status
    again = registered(mollie, "wish-2", **made.credentials)
    assert [one["id"] for one in hooks(mollie)] == [again.remote_id]
    assert again.remote_id != made.remote_id


def test_a_live_key_registers_for_live_and_sends_no_testmode(mollie: Simulator) -> None:
    registered(mollie, api_key=CLASSIC.credentials["api_key"])
    assert hooks(mollie)[0]["mode"] == "live"
    assert not any(b"testmode" in one.body for one in mollie.calls)


def test_an_account_that_is_told_less_still_gets_its_webhook(mollie: Simulator) -> None:
    mollie.account(SHOP)["untold"] = ["chargeback.received", "sales-invoice.paid"]
    made = registered(mollie)
    assert hooks(mollie)[0]["eventTypes"] == [*webhooks.PAYMENTS, *webhooks.REFUNDS]
    assert "chargebacks" in made.note
    again = registered(mollie, "wish-2", **made.credentials)
    assert again.remote_id == made.remote_id


def test_without_an_organisation_token_it_is_said_how_to_do_it_by_hand(mollie: Simulator) -> None:
    for wish in (
        lambda one: one.register_webhook(HERE, "wish-1"),
        lambda one: one.unregister_webhook("hook_1"),
        lambda one: one.send_test_event("hook_1"),
    ):
        with pytest.raises(Unsupported) as caught:
            with_keys(mollie, wish, organization_token="")
        assert "webhooks.write" in caught.value.hint
        assert "Developers > Webhooks" in caught.value.hint
    assert mollie.calls == []


@pytest.mark.parametrize("token", ["the profile's key", "a token without the permission"])
def test_a_token_that_may_not_is_told_the_permissions(mollie: Simulator, token: str) -> None:
    keys = {"organization_token": SHOP.credentials["api_key"]} if token == "the profile's key" else {}
    mollie.account(SHOP)["scopes"] = ["webhooks.read"]
    with pytest.raises(Unavailable) as caught:
        registered(mollie, **keys)
    assert webhooks.SCOPES in caught.value.hint
    assert hooks(mollie) == []


def test_a_webhook_is_found_on_any_page_of_the_list(mollie: Simulator) -> None:
    made = registered(mollie)
    account = mollie.account(SHOP)
    for number in range(600):
        mollie._new_hook(account, "other", f"https://other.example/{number}", ["*"], "")
    assert registered(mollie, "wish-2", **made.credentials).remote_id == made.remote_id


def test_a_former_webhook_that_stays_is_told_and_the_secret_is_not_lost(mollie: Simulator) -> None:
    former = registered(mollie)
    mollie.fail_writes = ["", "", "500"]
    made = registered(mollie, "wish-2")
    assert former.remote_id in made.note
    assert made.credentials["webhook_secret"] not in made.note
    registered(mollie, "wish-3", **made.credentials)
    assert [one["id"] for one in hooks(mollie)] == [made.remote_id]
