"""GoCardless's gateway against its simulator: every read, every wish, time, and the unhappy day."""

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
from portal.gateways import http
from portal.gateways.base import (
    BadSignature,
    Declined,
    Failure,
    Gone,
    Leave,
    Page,
    Ref,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import facts
from portal.gateways.gocardless import Adapter
from portal.money import Money
from seeds.simulators.gocardless import SAMPLES, Simulator, step, working_day
from seeds.simulators.harness import Exchange, Sample, Servers, Situation

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)  # a Tuesday
SHOP, STRANGER, SILENT = SAMPLES
TOKEN = SHOP.credentials["access_token"]
Result = TypeVar("Result")

# What the official client libraries know of each object: every field that an answer may hold.
FIELDS = {
    "creditors": {"id", "created_at", "name", "verification_status", "links", "metadata"},
    "customers": {
        *("id", "created_at", "email", "given_name", "family_name", "company_name", "language", "metadata"),
        *("links",),
    },
    "customer_bank_accounts": {
        *("id", "created_at", "account_number_ending", "account_holder_name", "bank_name", "currency"),
        *("enabled", "links", "metadata"),
    },
    "mandates": {
        *("id", "created_at", "status", "scheme", "reference", "next_possible_charge_date", "links"),
        *("payments_require_approval", "metadata"),
    },
    "subscriptions": {
        *("id", "created_at", "amount", "currency", "status", "name", "start_date", "end_date", "interval"),
        *("interval_unit", "day_of_month", "month", "count", "metadata", "payment_reference", "app_fee"),
        *("upcoming_payments", "links", "retry_if_possible", "earliest_charge_date_after_resume"),
    },
    "payments": {
        *(
            "id",
            "created_at",
            "charge_date",
            "amount",
            "amount_refunded",
            "currency",
            "description",
            "status",
        ),
        *("reference", "scheme", "retry_if_possible", "metadata", "links"),
    },
    "refunds": {"id", "created_at", "amount", "currency", "status", "reference", "metadata", "links"},
    "events": {"id", "created_at", "resource_type", "action", "details", "links", "metadata"},
}
ACTIONS = {
    "subscriptions": {"cancel", "pause", "resume"},
    "payments": {"cancel", "retry"},
    "mandates": {"cancel"},
}


def held_against_the_documents(exchange: Exchange) -> list[str]:
    """What is not as the documents have it: paths, headers, envelopes, fields, errors."""
    found = []
    name, _, action = exchange.path.strip("/").partition("/")
    action = action.partition("/actions/")[2]
    known = name in FIELDS and (not action or action in ACTIONS.get(name, ()))
    if exchange.headers.get("gocardless-version") != "2015-07-06":
        found.append("no version")
    if exchange.method != "GET" and exchange.headers.get("content-type") != "application/json":
        found.append("no JSON asked")
    said, asked = json.loads(exchange.content), json.loads(exchange.body or b"{}")
    if action and set(asked) != {"data"}:
        found.append("an action without data")
    if exchange.method == "PUT" and set(asked) != {name}:
        found.append("a change without its envelope")
    if exchange.status >= 400:
        wanted = {"message", "documentation_url", "type", "code", "request_id", "errors"}
        return found + ([] if set(said["error"]) == wanted else ["another error"])
    rows = said.get(name, {})
    if not known or set(said) - {"meta"} != {name} or ("meta" in said) is not isinstance(rows, list):
        return [*found, f"{exchange.method} {exchange.path} is not known"]
    for row in rows if isinstance(rows, list) else [rows]:
        found += [f"{name} has no field {field}" for field in row.keys() - FIELDS[name]]
    return found


class Desk:
    """One event loop and one gateway for each token: to open a client takes longer than to ask."""

    def __init__(self, gocardless: Simulator) -> None:
        self.gocardless = gocardless
        self.runner = asyncio.Runner()
        self.gateways: dict[tuple[str, float], Adapter] = {}
        self.client = httpx.Client(trust_env=False)

    def gateway(self, credentials: dict[str, str]) -> Adapter:
        addresses = dict.fromkeys(facts("gocardless").hosts.calls, self.gocardless.address)
        key = (credentials["access_token"], http.READ_S)
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
def gocardless(served: Simulator) -> Iterator[Simulator]:
    clock.set_offset(NOW - datetime.now(UTC))
    served.reset()
    served.contract, served.shows_made = held_against_the_documents, False
    for sample in SAMPLES:
        served.open(sample, "http://portal.test/webhooks/1")
    yield served
    served.switch("ok")
    http.breaker("gocardless", served.address).close()
    assert served.problems == []


def ask(
    gocardless: Simulator, what: Callable[[Adapter], Awaitable[Result]], sample: Sample = SHOP, **keys: str
) -> Result:
    async def main(gateway: Adapter) -> Result:
        return await what(gateway)

    desk = desks[gocardless.address]
    return desk.runner.run(main(desk.gateway({**sample.credentials, **keys})))


def fetch(gocardless: Simulator, ref: Ref, sample: Sample = SHOP) -> Snapshot:
    return ask(gocardless, lambda gateway: gateway.fetch(ref), sample)


def make_club(gocardless: Simulator, title: str = "Coffee club", **more: Any) -> Ref:
    customer = gocardless.customer(gocardless.account(SHOP), "noor@example.com", "Noor Haddad")
    return Ref("subscription", gocardless.subscribe(customer, title, **more)["id"])


def make_payment_ahead(gocardless: Simulator, club: Ref) -> dict[str, Any]:
    """The next payment of a subscription is made, and no bank has it yet."""
    one = gocardless.objects[club.id]
    return gocardless._make(one, gocardless._day(one, one[".at"]))


def only(answer: Snapshot | Leave | None) -> SubscriptionRecord:
    assert isinstance(answer, Snapshot)
    (found,) = answer.subscriptions
    return found


def writes(gocardless: Simulator) -> list[str]:
    return [f"{call.method} {call.path}" for call in gocardless.calls if call.method != "GET"]


def later(gocardless: Simulator, **delta: float) -> None:
    clock.set_offset(clock.offset() + timedelta(**delta))
    gocardless.tick()


async def collect(gateway: Adapter, cursor: str | None = None) -> list[Page]:
    return [page async for page in gateway.backfill(cursor)]


# Keys


def test_good_token_says_whose_it_is(gocardless: Simulator) -> None:
    health = ask(gocardless, lambda gateway: gateway.check())
    assert (health.ok, health.live, health.account) == (True, False, "GoCardless")
    assert ask(gocardless, lambda gateway: gateway.check(), SILENT).live is True
    assert {call.method for call in gocardless.calls} == {"GET"}


def test_token_that_gocardless_does_not_know_is_told_and_not_raised(gocardless: Simulator) -> None:
    token = "live_nobodyKnowsThisTokenAtAll0000000000000"
    health = ask(gocardless, lambda gateway: gateway.check(), access_token=token)
    assert (health.ok, health.live) == (False, True)
    assert health.hint is not None
    assert "unauthorized" in health.hint
    assert token not in health.hint


def test_gocardless_that_is_down_is_no_bad_token(gocardless: Simulator) -> None:
    gocardless.switch("down")
    with pytest.raises(Unavailable):
        ask(gocardless, lambda gateway: gateway.check())


def test_token_that_may_only_read_is_told_when_something_is_to_be_changed(gocardless: Simulator) -> None:
    club = make_club(gocardless)
    gocardless.account(SHOP)["read_only"] = True
    assert ask(gocardless, lambda gateway: gateway.check()).ok
    with pytest.raises(Unsupported, match="insufficient_permissions"):
        ask(gocardless, lambda gateway: gateway.cancel_now(club, "key"))
    assert gocardless.standing(club.id).charges


# Reading everything


def test_backfill_tells_all_there_is(gocardless: Simulator) -> None:
    gocardless.fill(SHOP)
    pages = ask(gocardless, collect)
    assert pages[-1].cursor is None
    assert all(page.cursor for page in pages[:-1])
    for name in ("customers", "subscriptions", "payments", "refunds"):
        found = {one.remote_id for page in pages for one in getattr(page.snapshot, name)}
        assert found == {one["id"] for one in gocardless._all(name)}, name
    statuses = {one.title: one.status for page in pages for one in page.snapshot.subscriptions}
    assert statuses == {
        "Coffee club": "active",
        "Tea box": "active",
        "Bread every week": "active",
        "Yearly magazine": "active",
        "Flowers": "active",
        "Cheese of the month": "incomplete",
        "Wine club": "past_due",
        "Vegetable box": "past_due",
        "Fish on Fridays": "paused",
        "Herbs": "paused",
        "Puzzle club": "cancelled",
        "Three lessons": "expired",
    }
    orders = {
        one.title: (one.status, one.amount, one.number) for page in pages for one in page.snapshot.orders
    }
    assert orders == {
        "Order 1042: moka pot": ("paid", Money(3450, "GBP"), None),
        "Order 1001": ("paid", Money(2950, "GBP"), "A-1001"),
        "Order 1002": ("partially_refunded", Money(4000, "GBP"), None),
        "Order 1003": ("refunded", Money(1999, "GBP"), None),
        "Order 1004": ("failed", Money(2100, "GBP"), None),
        "Order 1005": ("cancelled", Money(800, "GBP"), None),
        "Order 1006": ("paid", Money(5200, "GBP"), None),
        "Order 1007": ("open", Money(1250, "GBP"), None),
    }
    owners = {one.customer for page in pages for one in page.snapshot.subscriptions}
    owners |= {one.customer for page in pages for one in page.snapshot.payments}
    assert owners == {one["id"] for one in gocardless._all("customers")}, "told by their mandates"
    assert {call.method for call in gocardless.calls} == {"GET"}


def test_mandates_are_listed_and_not_asked_for_one_by_one(gocardless: Simulator) -> None:
    gocardless.fill(SHOP)
    ask(gocardless, collect)
    paths = [call.path for call in gocardless.calls]
    assert not [path for path in paths if path.startswith(("/mandates/", "/customer_bank_accounts/"))]
    assert paths.count("/mandates") == paths.count("/customer_bank_accounts") == 1


def test_backfill_reads_the_payments_of_live_subscriptions_alone_and_no_events(gocardless: Simulator) -> None:
    gocardless.fill(SHOP)
    ask(gocardless, collect)
    paths = [call.path for call in gocardless.calls]
    live = [one for one in gocardless._all("subscriptions") if one["status"] not in ("cancelled", "finished")]
    assert paths.count("/payments") == len(live) + 1
    assert "/events" not in paths


def test_backfill_goes_on_where_it_stopped(gocardless: Simulator) -> None:
    gocardless.fill(SHOP)
    customer = gocardless.customer(gocardless.account(SHOP), "ana@example.com", "Ana")
    for number in range(60):
        gocardless.subscribe(customer, f"Old {number}", months=0, status="cancelled")
    pages = ask(gocardless, collect)
    assert [json.loads(page.cursor)[0] for page in pages if page.cursor] == [
        *("customer_bank_accounts", "mandates", "subscriptions", "subscriptions", "payments", "refunds"),
    ]
    for number, page in enumerate(pages[:-1]):
        rest = ask(gocardless, lambda gateway, after=page.cursor: collect(gateway, after))  # type: ignore[misc]
        assert [one.cursor for one in rest] == [one.cursor for one in pages[number + 1 :]]
        assert [plain(one) for one in rest] == [plain(one) for one in pages[number + 1 :]]


def plain(page: Page) -> list[Any]:
    snapshot = page.snapshot
    return [
        *snapshot.customers,
        *snapshot.subscriptions,
        *snapshot.orders,
        *snapshot.payments,
        *snapshot.refunds,
    ]


def test_nothing_is_left_out_between_two_pages(gocardless: Simulator) -> None:
    customer = gocardless.customer(gocardless.account(SHOP), "ana@example.com", "Ana")
    for number in range(501):
        gocardless._order(customer, f"Order {number}", 100, 5)
    pages = ask(gocardless, collect)
    found = [one.title for page in pages for one in page.snapshot.orders]
    assert len(found) == 501
    assert set(found) == {f"Order {number}" for number in range(501)}


def test_list_that_does_not_say_how_it_goes_on_is_no_end(gocardless: Simulator) -> None:
    gocardless.fill(SHOP)
    gocardless.fail_next = ["missing_fields"]
    with pytest.raises(Unavailable):
        ask(gocardless, collect)


def test_limit_stops_a_backfill_and_says_for_how_long(gocardless: Simulator) -> None:
    gocardless.fill(SHOP)
    gocardless.fail_next = ["", "429:7"]
    with pytest.raises(Unavailable) as caught:
        ask(gocardless, collect)
    assert (caught.value.retry_after, caught.value.sent) == (7, False)


def test_every_kind_is_fetched_by_its_id_with_whose_it_is(gocardless: Simulator) -> None:
    gocardless.fill(SHOP)
    for name in ("customers", "subscriptions", "payments", "refunds"):
        one = gocardless._all(name)[0]
        snapshot = fetch(gocardless, Ref(name[:-1], one["id"]))  # type: ignore[arg-type]
        assert one["id"] in [record.remote_id for record in getattr(snapshot, name)], name
        assert len({record.email for record in snapshot.customers}) == 1, name


def test_failed_payment_says_why_and_takes_its_subscription_along(gocardless: Simulator) -> None:
    club = make_club(gocardless)
    event = gocardless._fail(gocardless.objects[club.id])
    snapshot = fetch(gocardless, Ref("payment", event["links"]["payments".removesuffix("s")]))
    payment = next(one for one in snapshot.payments if one.status == "failed")
    assert payment.failure == Failure(
        "refer_to_payer", "The customer's bank wasn't able to pay the Direct Debit."
    )
    assert only(snapshot).status == "past_due"
    assert only(snapshot).due == Money(2400, "GBP")


def test_strangers_objects_are_not_there(gocardless: Simulator) -> None:
    club = make_club(gocardless)
    payment = gocardless._payments_of(gocardless.objects[club.id])[0]["id"]
    for ref in (club, Ref("payment", payment), Ref("order", payment), Ref("subscription", payment)):
        with pytest.raises(Gone):
            fetch(gocardless, ref, STRANGER)
    with pytest.raises(Gone):
        ask(gocardless, lambda gateway: gateway.cancel_now(club, "key"), STRANGER)
    assert gocardless.standing(club.id).charges


@pytest.mark.parametrize("shows_made", [False, True])
def test_next_payment_is_the_one_that_is_made_whatever_upcoming_payments_show(
    gocardless: Simulator, shows_made: bool
) -> None:
    gocardless.shows_made = shows_made
    club = make_club(gocardless, days=3)
    made = make_payment_ahead(gocardless, club)
    record = only(fetch(gocardless, club))
    assert record.next_payment is not None
    assert str(record.next_payment.on) == made["charge_date"]
    assert record.current_period_end is not None
    assert str(record.current_period_end.date()) == made["charge_date"]


# Wishes


def test_cancel_now_ends_it_and_leaves_the_mandate(gocardless: Simulator) -> None:
    club = make_club(gocardless)
    record = only(ask(gocardless, lambda gateway: gateway.cancel_now(club, "key")))
    assert (record.status, record.raw_status, record.next_payment) == ("cancelled", "cancelled", None)
    assert "current_period_end" not in (record.knows or ()), "until when it is paid is known from before"
    assert not gocardless.standing(club.id).charges
    assert {one["status"] for one in gocardless._all("mandates")} == {"active"}


def test_second_cancel_is_success(gocardless: Simulator) -> None:
    club = make_club(gocardless)
    for key in ("one", "two"):
        answer = ask(gocardless, lambda gateway, key=key: gateway.cancel_now(club, key))  # type: ignore[misc]
        assert only(answer).status == "cancelled"
    assert len(writes(gocardless)) == 1


def test_payment_that_was_made_ahead_is_not_collected_after_a_cancel(gocardless: Simulator) -> None:
    club = make_club(gocardless, days=3)
    made = make_payment_ahead(gocardless, club)
    answer = ask(gocardless, lambda gateway: gateway.cancel_now(club, "key"))
    assert made["status"] == "cancelled"
    assert not gocardless.standing(club.id).charges
    assert answer.tell == ""
    before = gocardless.standing(club.id).payments
    later(gocardless, days=60)
    assert gocardless.standing(club.id).payments == before


def test_payment_that_the_bank_has_is_collected_and_told(gocardless: Simulator) -> None:
    club = make_club(gocardless, days=3)
    made = make_payment_ahead(gocardless, club)
    made["status"] = "submitted"
    answer = ask(gocardless, lambda gateway: gateway.cancel_now(club, "key"))
    assert only(answer).status == "cancelled"
    assert made["id"] in answer.tell
    assert made["status"] == "submitted"


def test_debt_that_is_tried_again_survives_a_cancel(gocardless: Simulator) -> None:
    club = make_club(gocardless)
    gocardless._fail(gocardless.objects[club.id])
    ask(gocardless, lambda gateway: gateway.pay_now(club, "", "one"))
    answer = ask(gocardless, lambda gateway: gateway.cancel_now(club, "two"))
    assert only(answer).status == "cancelled"
    debt = gocardless._payments_of(gocardless.objects[club.id])[0]
    assert debt["status"] == "pending_submission"
    assert debt["id"] in answer.tell


def test_pause_and_resume(gocardless: Simulator) -> None:
    club = make_club(gocardless)
    record = only(ask(gocardless, lambda gateway: gateway.pause(club, "one")))
    assert (record.status, record.next_payment, record.resumes_at) == ("paused", None, None)
    assert not gocardless.standing(club.id).charges
    assert only(ask(gocardless, lambda gateway: gateway.pause(club, "one"))).status == "paused"
    later(gocardless, days=90)
    assert not gocardless.standing(club.id).charges
    record = only(ask(gocardless, lambda gateway: gateway.resume(club, "two")))
    assert record.status == "active"
    assert record.next_payment is not None
    assert record.next_payment.on >= clock.now().date() + timedelta(days=5)
    assert only(ask(gocardless, lambda gateway: gateway.resume(club, "two"))).status == "active"


def test_pause_does_not_stop_what_is_made_and_says_so(gocardless: Simulator) -> None:
    club = make_club(gocardless, days=3)
    made = make_payment_ahead(gocardless, club)
    record = only(ask(gocardless, lambda gateway: gateway.pause(club, "key")))
    assert record.status == "paused"
    assert record.next_payment is not None
    assert str(record.next_payment.on) == made["charge_date"]


def test_skipped_payment_is_left_out_once_and_the_one_after_is_taken(gocardless: Simulator) -> None:
    club = make_club(gocardless)
    before = gocardless.standing(club.id)
    assert before.next_on is not None
    for _ in range(2):
        record = only(ask(gocardless, lambda gateway: gateway.skip_next_payment(club, "key")))
        assert record.next_payment is not None
        following = step(before.next_on, {"interval_unit": "monthly", "interval": 1}, 1)
        assert abs(record.next_payment.on - following) <= timedelta(days=2)
        assert record.resumes_at is not None
        assert record.resumes_at.date() == record.next_payment.on
    later(gocardless, days=15)
    assert gocardless.standing(club.id).payments == before.payments
    later(gocardless, days=40)
    assert gocardless.standing(club.id).payments == before.payments + 1
    assert only(fetch(gocardless, club)).status == "active"


@pytest.mark.parametrize(("currency", "skips"), [("GBP", True), ("AUD", False), ("NZD", False)])
def test_weekly_payments_down_under_take_a_longer_pause(
    gocardless: Simulator, currency: str, skips: bool
) -> None:
    club = make_club(gocardless, currency=currency, unit="weekly", days=6)
    if skips:
        assert (
            only(ask(gocardless, lambda gateway: gateway.skip_next_payment(club, "key"))).status == "paused"
        )
        return
    with pytest.raises(Declined, match="pause_cycles_must_be_greater"):
        ask(gocardless, lambda gateway: gateway.skip_next_payment(club, "key"))
    assert gocardless.standing(club.id).raw == "active"


def test_payment_on_its_way_is_not_skipped(gocardless: Simulator) -> None:
    club = make_club(gocardless, days=3)
    make_payment_ahead(gocardless, club)
    with pytest.raises(Unsupported):
        ask(gocardless, lambda gateway: gateway.skip_next_payment(club, "key"))
    assert writes(gocardless) == []


def test_amount_is_changed_for_what_is_not_made_yet(gocardless: Simulator) -> None:
    club = make_club(gocardless, days=3)
    make_payment_ahead(gocardless, club)
    wish = {"amount": Money(3600, "GBP")}
    record = only(ask(gocardless, lambda gateway: gateway.change_plan(club, wish, "", "key")))
    assert record.amount == Money(3600, "GBP")
    assert record.next_payment is not None
    assert record.next_payment.amount == Money(2400, "GBP")
    ask(gocardless, lambda gateway: gateway.change_plan(club, wish, "", "key"))
    assert len(writes(gocardless)) == 1


def test_eleventh_change_is_declined(gocardless: Simulator) -> None:
    club = make_club(gocardless)
    for number in range(10):
        wish = {"amount": Money(1000 + number, "GBP")}
        ask(gocardless, lambda gateway, wish=wish: gateway.change_plan(club, wish, "", "key"))  # type: ignore[misc]
    with pytest.raises(Declined, match="number_of_subscription_amendments_exceeded"):
        ask(gocardless, lambda gateway: gateway.change_plan(club, {"amount": Money(9, "GBP")}, "", "key"))
    assert gocardless.standing(club.id).amount == 1009


def test_what_a_partners_app_made_is_changed_by_that_app_alone(gocardless: Simulator) -> None:
    club = make_club(gocardless, app=True)
    for wish in WISHES.values():
        with pytest.raises(Unsupported, match="app"):
            ask(gocardless, lambda gateway, wish=wish: wish(gateway, club))  # type: ignore[misc]
    assert gocardless.standing(club.id).raw == "active"


def test_failed_payment_is_collected_on_a_second_try(gocardless: Simulator) -> None:
    club = make_club(gocardless)
    gocardless._fail(gocardless.objects[club.id])
    assert only(fetch(gocardless, club)).due == Money(2400, "GBP")
    for _ in range(2):  # the second finds nothing open
        record = only(ask(gocardless, lambda gateway: gateway.pay_now(club, "", "key")))
        assert (record.status, record.due) == ("active", None)
    assert len(writes(gocardless)) == 1
    later(gocardless, days=8)
    debt = gocardless._payments_of(gocardless.objects[club.id])
    assert "confirmed" in {one["status"] for one in debt if one[".retries"]}


def test_fourth_try_is_declined(gocardless: Simulator) -> None:
    club = make_club(gocardless)
    payment = gocardless._fail(gocardless.objects[club.id])["links"]["payment"]
    gocardless.objects[payment][".retries"] = 3
    with pytest.raises(Declined, match="retry_failed"):
        ask(gocardless, lambda gateway: gateway.pay_now(club, "", "key"))


WISHES: dict[str, Callable[[Adapter, Ref], Awaitable[Any]]] = {
    "cancel": lambda gateway, club: gateway.cancel_now(club, "key"),
    "pause": lambda gateway, club: gateway.pause(club, "key"),
    "skip": lambda gateway, club: gateway.skip_next_payment(club, "key"),
    "change": lambda gateway, club: gateway.change_plan(club, {"amount": Money(100, "GBP")}, "", "key"),
}
ALL_WISHES: dict[str, Callable[[Adapter, Ref], Awaitable[Any]]] = {
    **WISHES,
    "resume": lambda gateway, club: gateway.resume(club, "key"),
    "pay": lambda gateway, club: gateway.pay_now(club, "", "key"),
}


def make_wishing(gocardless: Simulator, wish: str) -> Ref:
    club = make_club(gocardless, status="paused" if wish == "resume" else None)
    if wish == "pay":
        gocardless._fail(gocardless.objects[club.id])
    gocardless.calls.clear()
    return club


@pytest.mark.parametrize("wish", ALL_WISHES)
def test_refused_wish_is_declined_and_changes_nothing(gocardless: Simulator, wish: str) -> None:
    club = make_wishing(gocardless, wish)
    gocardless.switch("decline")
    before = gocardless.standing(club.id)
    with pytest.raises(Declined) as caught:
        ask(gocardless, lambda gateway: ALL_WISHES[wish](gateway, club))
    assert re.fullmatch("[a-z_]+", caught.value.reason)
    assert gocardless.standing(club.id) == before


@pytest.mark.parametrize("wish", ALL_WISHES)
@pytest.mark.parametrize(("fault", "wait"), [("429", 60), ("429:7", 7)])
def test_limit_stops_a_wish_once_and_says_for_how_long(
    gocardless: Simulator, wish: str, fault: str, wait: float
) -> None:
    club = make_wishing(gocardless, wish)
    gocardless.fail_writes = [fault]
    with pytest.raises(Unavailable) as caught:
        ask(gocardless, lambda gateway: ALL_WISHES[wish](gateway, club))
    assert (caught.value.retry_after, caught.value.sent) == (wait, False)
    assert len(writes(gocardless)) == 1


@pytest.mark.parametrize("wish", ALL_WISHES)
@pytest.mark.parametrize("fault", ["timeout_after", "500", "html", "empty", "truncated"])
def test_effect_that_may_have_happened_is_unknown_and_done_once_in_the_end(
    gocardless: Simulator, monkeypatch: pytest.MonkeyPatch, wish: str, fault: str
) -> None:
    for name in ("READ_S", "TOTAL_S"):
        monkeypatch.setattr(http, name, 0.3)
    club = make_wishing(gocardless, wish)
    gocardless.fail_writes = [fault]
    with pytest.raises(Unavailable) as caught:
        ask(gocardless, lambda gateway: ALL_WISHES[wish](gateway, club))
    assert caught.value.sent
    once = gocardless.standing(club.id) if fault != "500" else None
    ask(gocardless, lambda gateway: ALL_WISHES[wish](gateway, club))
    assert once is None or gocardless.standing(club.id) == once


@pytest.mark.parametrize("wish", ALL_WISHES)
@pytest.mark.parametrize("fault", ["wrong_types", "missing_fields", "unknown_status"])
def test_answer_to_a_wish_is_not_believed_but_read_back(gocardless: Simulator, wish: str, fault: str) -> None:
    club = make_wishing(gocardless, wish)
    gocardless.fail_writes = [fault]
    record = only(ask(gocardless, lambda gateway: ALL_WISHES[wish](gateway, club)))
    assert record.raw_status == gocardless.standing(club.id).raw


@pytest.mark.parametrize(
    "fault", ["html", "empty", "truncated", "wrong_types", "missing_fields", "unknown_status"]
)
def test_garbage_in_any_answer_is_an_outage_or_says_less(gocardless: Simulator, fault: str) -> None:
    club = make_club(gocardless)
    for place in range(5):
        gocardless.fail_next = [*[""] * place, fault]
        try:
            snapshot = fetch(gocardless, club)
        except Unavailable:
            continue
        finally:
            gocardless.fail_next.clear()
        assert [one.status for one in snapshot.subscriptions] in (["active"], [None])


# Time and webhooks


def events_of(gocardless: Simulator) -> list[tuple[str, str]]:
    found = [json.loads(delivery.body)["events"] for delivery in gocardless.sent]
    return [(event["resource_type"], event["action"]) for events in found for event in events]


def test_month_in_the_life_of_a_subscription(gocardless: Simulator) -> None:
    club = make_club(gocardless, days=12)
    before = gocardless.standing(club.id)
    for _ in range(20):
        later(gocardless, days=1)
    assert events_of(gocardless) == [
        ("payments", "created"),
        ("subscriptions", "payment_created"),
        ("payments", "submitted"),
        ("payments", "confirmed"),
        ("payments", "paid_out"),
    ]
    assert gocardless.standing(club.id).payments == before.payments + 1
    (payment, *_) = fetch(gocardless, club).payments
    assert payment.status == "paid"
    assert payment.paid_at is not None
    assert payment.paid_at.date() == before.next_on


def test_payment_that_fails_by_the_clock_makes_it_past_due(gocardless: Simulator) -> None:
    club = make_club(gocardless, days=5)
    later(gocardless, days=2)
    gocardless.switch("decline")
    later(gocardless, days=7)
    later(gocardless, days=3)
    gocardless.switch("ok")
    assert ("payments", "failed") in events_of(gocardless)
    assert only(fetch(gocardless, club)).status == "past_due"


def test_fixed_number_of_payments_comes_to_its_end(gocardless: Simulator) -> None:
    club = make_club(gocardless, months=2, count=3)
    assert len(gocardless._shown(gocardless.objects[club.id])["upcoming_payments"]) == 1
    later(gocardless, days=20)
    record = only(fetch(gocardless, club))
    assert (record.status, record.next_payment) == ("expired", None)


def test_cancelled_mandate_takes_its_subscriptions_along(gocardless: Simulator) -> None:
    club = make_club(gocardless)
    mandate = gocardless.standing(club.id).method
    assert call(gocardless, "POST", f"/mandates/{mandate}/actions/cancel", {"data": {}}).status_code == 200
    record = only(fetch(gocardless, club))
    assert record.status == "cancelled"
    assert record.method is not None
    assert record.method.remote_id is None
    assert ("subscriptions", "cancelled") in events_of(gocardless)


def test_every_change_is_told_and_proved(gocardless: Simulator) -> None:
    club = make_club(gocardless)
    gocardless.charge(club.id)
    for name in ("change", "pause", "resume", "cancel"):
        ask(gocardless, lambda gateway, name=name: ALL_WISHES[name](gateway, club))  # type: ignore[misc]
    gateway = desks[gocardless.address].gateway(dict(SHOP.credentials))
    found = [
        event
        for delivery in gocardless.sent
        for event in gateway.verify(list(delivery.headers.items()), delivery.body, NOW)
    ]
    assert [event.type for event in found] == [
        *("payments.created", "payments.confirmed", "subscriptions.amended", "subscriptions.paused"),
        *("subscriptions.resumed", "subscriptions.cancelled"),
    ]
    assert {event.subject for event in found[2:]} == {club}
    assert len({event.id for event in found}) == len(found)


def test_shop_without_a_secret_is_told_nothing(gocardless: Simulator) -> None:
    assert gocardless.stage(SILENT, "ana@example.com", Situation()) is not None
    assert gocardless.sent == []


def test_every_forgery_is_refused(gocardless: Simulator) -> None:
    gocardless.stage(SHOP, "ana@example.com", Situation())
    (delivery,) = gocardless.sent
    forgeries = gocardless.forgeries(SHOP, delivery)
    assert len(forgeries) >= 30
    gateway = desks[gocardless.address].gateway(dict(SHOP.credentials))
    for forgery in forgeries:
        with pytest.raises(BadSignature):
            gateway.verify(forgery.headers, forgery.body, NOW)
    with pytest.raises(BadSignature):
        Adapter(STRANGER.credentials).verify(list(delivery.headers.items()), delivery.body, NOW)
    assert gateway.verify(list(delivery.headers.items()), delivery.body, NOW)


# What every simulator promises


@pytest.mark.parametrize(
    ("situation", "status", "due", "token"),
    [
        (Situation("incomplete"), "incomplete", False, True),
        (Situation("active", "bank_debit", token=True), "active", False, True),
        (Situation("past_due", due=True), "past_due", True, True),
        (Situation("past_due", due=False), "past_due", False, True),
        (Situation("paused"), "paused", False, True),
        (Situation("cancelled"), "cancelled", False, True),
        (Situation("cancelled", token=False), "cancelled", False, False),
        (Situation("expired"), "expired", False, True),
    ],
)
def test_staged_subscription_is_as_it_was_wished_for(
    gocardless: Simulator, situation: Situation, status: str, due: bool, token: bool
) -> None:
    made = gocardless.stage(SHOP, "ana@example.com", situation)
    assert made is not None
    snapshot = fetch(gocardless, Ref("subscription", made))
    record = only(snapshot)
    assert (record.status, bool(record.due)) == (status, due)
    assert record.method is not None
    assert (record.method.kind, bool(record.method.remote_id)) == ("bank_debit", token)
    assert [one.email for one in snapshot.customers] == ["ana@example.com"]
    assert gocardless.standing(made).raw == record.raw_status


@pytest.mark.parametrize(
    "situation",
    [
        Situation("trialing"),
        Situation("cancels_at_period_end"),
        Situation("active", "card"),
        Situation("active", object="agreement"),
        Situation("active", due=True),
        Situation("active", token=False),
    ],
)
def test_situations_that_gocardless_does_not_know(gocardless: Simulator, situation: Situation) -> None:
    assert gocardless.stage(SHOP, "ana@example.com", situation) is None


def test_state_can_be_copied_and_brought_back(gocardless: Simulator) -> None:
    gocardless.fill(SHOP)
    gocardless.save()
    before = pickle.dumps(gocardless.state)
    club = make_club(gocardless)
    ask(gocardless, lambda gateway: gateway.cancel_now(club, "key"))
    assert pickle.dumps(gocardless.state) != before
    gocardless.reset()
    assert gocardless.state == pickle.loads(before)
    gocardless._saved = None


def test_samples_fit_the_settings_form() -> None:
    fields = {one.name: one for one in facts("gocardless").credentials}
    for sample in SAMPLES:
        assert all(re.fullmatch(fields[name].pattern, value) for name, value in sample.credentials.items())
        assert {one.name for one in fields.values() if one.required} <= set(sample.credentials)


# The simulator by itself: what GoCardless refuses


def call(gocardless: Simulator, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
    sent = {"Authorization": f"Bearer {TOKEN}", "GoCardless-Version": "2015-07-06", **headers}
    return desks[gocardless.address].client.request(
        method, gocardless.address + path, json=body, headers=sent
    )


def reason(answer: httpx.Response) -> str:
    first = answer.json()["error"]["errors"][0]
    return str(first.get("reason") or first["field"])


@pytest.mark.parametrize(
    ("status", "action", "body", "refusal"),
    [
        ("cancelled", "cancel", {}, "cancellation_failed"),
        ("finished", "cancel", {}, "cancellation_failed"),
        ("finished", "pause", {}, "subscription_already_ended"),
        ("cancelled", "pause", {}, "subscription_cannot_be_paused"),
        ("paused", "pause", {"pause_cycles": 1}, "subscription_paused_cannot_update_cycles"),
        ("active", "pause", {"pause_cycles": 0}, "pause_cycles"),
        ("active", "pause", {"cycles": 1}, "data"),
        ("active", "resume", {}, "subscription_not_paused"),
    ],
)
def test_action_that_gocardless_refuses(
    gocardless: Simulator, status: str, action: str, body: Any, refusal: str
) -> None:
    club = make_club(gocardless, status=status)
    before = dict(gocardless.objects[club.id])
    answer = call(gocardless, "POST", f"/subscriptions/{club.id}/actions/{action}", {"data": body})
    assert (answer.status_code, reason(answer)) == (422, refusal)
    assert gocardless.objects[club.id] == before


def test_subscription_that_ends_on_a_day_is_not_paused(gocardless: Simulator) -> None:
    club = make_club(gocardless)
    gocardless.objects[club.id]["end_date"] = "2027-11-01"
    with pytest.raises(Declined, match="subscription_cannot_be_paused"):
        ask(gocardless, lambda gateway: gateway.pause(club, "key"))


@pytest.mark.parametrize(
    ("body", "status", "refusal"),
    [
        ({"subscriptions": {"amount": "100"}}, "active", "amount"),
        ({"subscriptions": {"amount": -1}}, "active", "amount"),
        ({"subscriptions": {"interval": 2}}, "active", "subscriptions"),
        ({"subscriptions": {"links": {"mandate": "MD2"}}}, "active", "subscriptions"),
        ({"amount": 100}, "active", "subscriptions"),
        ({"subscriptions": {"amount": 100}}, "cancelled", "subscription_not_active"),
        ({"subscriptions": {"amount": 100}}, "finished", "subscription_already_ended"),
    ],
)
def test_change_that_gocardless_refuses(gocardless: Simulator, body: Any, status: str, refusal: str) -> None:
    gocardless.contract = None  # these requests are wrong on purpose
    club = make_club(gocardless, status=status)
    answer = call(gocardless, "PUT", f"/subscriptions/{club.id}", body)
    assert (answer.status_code, reason(answer)) == (422, refusal)
    assert gocardless.standing(club.id).amount == 2400


@pytest.mark.parametrize(
    ("status", "action"), [("submitted", "cancel"), ("paid_out", "cancel"), ("paid_out", "retry")]
)
def test_payment_is_called_off_while_it_waits_and_retried_when_it_failed(
    gocardless: Simulator, status: str, action: str
) -> None:
    club = make_club(gocardless)
    payment = gocardless._payments_of(gocardless.objects[club.id])[0]
    payment["status"] = status
    answer = call(gocardless, "POST", f"/payments/{payment['id']}/actions/{action}", {"data": {}})
    assert (answer.status_code, payment["status"]) == (422, status)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": ""}, 401),
        ({"Authorization": TOKEN}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"GoCardless-Version": "2014-11-03"}, 400),
        ({"GoCardless-Version": ""}, 400),
    ],
)
def test_call_without_its_headers_is_refused(
    gocardless: Simulator, headers: dict[str, str], status: int
) -> None:
    gocardless.contract = None
    assert call(gocardless, "GET", "/creditors", **headers).status_code == status


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/payments?limit=0", 422),
        ("/payments?limit=501", 422),
        ("/payments?after=PM_NONE", 422),
        ("/payments?email=a@example.com", 422),
        ("/invoices", 404),
        ("/payments/PM_NONE", 404),
    ],
)
def test_question_that_gocardless_refuses(gocardless: Simulator, path: str, status: int) -> None:
    assert call(gocardless, "GET", path).status_code == status


def test_days_are_working_days_and_months_keep_to_theirs() -> None:
    assert working_day(date(2026, 11, 27)) == date(2026, 11, 27)
    assert {working_day(date(2026, 11, day)) for day in (28, 29, 30)} == {date(2026, 11, 30)}
    monthly = {"interval_unit": "monthly", "interval": 1}
    assert [step(date(2026, 10, 31), monthly, times) for times in (-1, 0, 1, 4)] == [
        *(date(2026, 9, 30), date(2026, 10, 31), date(2026, 11, 30), date(2027, 2, 28)),
    ]
    assert step(date(2028, 2, 29), {"interval_unit": "yearly", "interval": 1}, 1) == date(2029, 2, 28)
    assert step(date(2026, 11, 24), {"interval_unit": "weekly", "interval": 2}, 1) == date(2026, 12, 8)
