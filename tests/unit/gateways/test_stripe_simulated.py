"""Stripe's gateway against its simulator: every read, every capability, and the unhappy day.

Where the contract of Stripe's API is at hand, every request and every answer is held against it.
"""

import asyncio
import itertools
import json
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import httpx2 as httpx
import pytest

from portal import clock
from portal.gateways import gateway, http
from portal.gateways._stripe import events as stripe_events
from portal.gateways._stripe import webhooks
from portal.gateways._stripe.wire import VERSION
from portal.gateways.base import (
    Declined,
    Gateway,
    GatewayError,
    Gone,
    Leave,
    Line,
    Method,
    NextPayment,
    PendingChange,
    Ref,
    Registration,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import facts
from portal.money import Money
from seeds.simulators.harness import Servers
from seeds.simulators.stripe import Account, Simulator, event, sign, validator
from tests.conftest import SHARED

SPECS = SHARED / "specs" / "stripe"
BACK = "https://acme.example/customers/return/abc"
SECRET = "whsec_simulated01"
T_ = TypeVar("T_")
What = Callable[[Gateway], Coroutine[Any, Any, T_]]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    found = Simulator(clock.now)
    if SPECS.is_dir():
        found.validator = validator(SPECS)
    with Servers([found]):
        yield found


@pytest.fixture(autouse=True)
def _nothing_against_the_contract(simulator: Simulator) -> Iterator[None]:
    simulator.problems.clear()
    simulator.calls.clear()
    yield
    simulator.switch("ok")
    simulator.fail_next.clear()
    simulator.limit(0)
    http.breaker("stripe", simulator.address).close()
    assert simulator.problems == []


@pytest.fixture
def shop(simulator: Simulator) -> Account:
    return simulator.add_account(f"sk_test_Shop{next(_numbers):04d}", webhook_secret=SECRET)


def ago(**span: float) -> datetime:
    return clock.now() - timedelta(**span)


def run(shop: Account, what: What[T_], key: str = "", **keys: str) -> T_:
    async def main() -> T_:
        credentials = {"secret_key": key or shop.secret_key, "webhook_secret": SECRET, **keys}
        stripe = gateway("stripe", credentials, simulator=shop.simulator.address)
        try:
            return await what(stripe)
        finally:
            await stripe.aclose()

    return asyncio.run(main())


def failure(shop: Account, what: What[Any], **keys: str) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        run(shop, what, **keys)
    return caught.value


def ana(shop: Account, card: bool = True) -> str:
    customer = shop.customer("ana@example.com", "Ana Lima", ago(days=100))
    if card:
        shop.card(customer)
    return customer


def box(shop: Account, customer: str | None = None, **fields: Any) -> Ref:
    price = shop.price(shop.product("Coffee box"), 2400, "USD")
    return Ref("subscription", shop.subscription(customer or ana(shop), price, ago(days=70), **fields))


def read(shop: Account, ref: Ref) -> Snapshot:
    return run(shop, lambda stripe: stripe.fetch(ref))


def only(snapshot: Snapshot | Leave, ref: Ref) -> SubscriptionRecord:
    assert isinstance(snapshot, Snapshot)
    record = snapshot.subscription(ref.id)
    assert record is not None
    return record


def writes(shop: Account, method: str = "POST") -> list[str]:
    calls = shop.simulator.calls
    return [c.path for c in calls if c.method == method and not c.path.endswith("create_preview")]


def keys(shop: Account) -> list[str]:
    calls = [c for c in shop.simulator.calls if not c.path.endswith("create_preview")]
    return [c.headers["idempotency-key"] for c in calls if "idempotency-key" in c.headers]


# Are the keys good


def test_good_keys_say_whose_they_are(shop: Account) -> None:
    health = run(shop, lambda stripe: stripe.check())
    assert (health.ok, health.live, health.account, health.missing) == (True, False, "Simulated Shop", ())


def test_a_wrong_key_is_told_and_not_raised(shop: Account) -> None:
    health = run(shop, lambda stripe: stripe.check(), key="sk_live_NobodyKnowsMe01")
    assert (health.ok, health.live) == (False, True)
    assert health.hint
    assert "Stripe refuses the key" in health.hint
    assert "NobodyKnowsMe01" not in health.hint


ALL = {
    "customer_write",
    "subscription_write",
    "invoice_write",
    "checkout_session_write",
    "customer_portal_write",
    "charge_read",
    "payment_method_read",
    "setup_intent_read",
    "product_read",
}


def test_a_restricted_key_with_what_it_needs_is_good(shop: Account, simulator: Simulator) -> None:
    simulator.add_key(shop, "rk_test_Enough01", ALL)
    before = {kind: shop.all(kind) for kind in ("subscription", "invoice", "checkout.session")}
    health = run(shop, lambda stripe: stripe.check(), key="rk_test_Enough01")
    assert (health.ok, health.missing, health.account) == (True, (), None)
    assert {kind: shop.all(kind) for kind in before} == before, "a check changes nothing"


@pytest.mark.parametrize("permission", sorted(ALL))
def test_a_missing_permission_is_named_in_stripes_words(
    shop: Account, simulator: Simulator, permission: str
) -> None:
    key = f"rk_test_Short{next(_numbers):04d}"
    simulator.add_key(shop, key, ALL - {permission} | {permission.replace("_write", "_read")} - {permission})
    health = run(shop, lambda stripe: stripe.check(), key=key)
    assert not health.ok
    assert health.missing == (f"rak_{permission}",)
    assert health.hint
    assert f"rak_{permission}" in health.hint


def test_a_stripe_that_is_down_is_no_bad_key(shop: Account, simulator: Simulator) -> None:
    simulator.switch("down")
    assert isinstance(failure(shop, lambda stripe: stripe.check()), Unavailable)


# Fetching


def test_a_subscription_comes_with_everything_a_page_shows(shop: Account) -> None:
    customer = ana(shop)
    ref = box(shop, customer, quantity=2)
    snapshot = read(shop, ref)
    record = only(snapshot, ref)
    assert (record.status, record.title, record.amount, record.quantity) == (
        "active",
        "Coffee box",
        Money(4800, "USD"),
        2,
    )
    assert record.current_period_end
    assert record.next_payment == NextPayment(record.current_period_end.date(), Money(4800, "USD"), "fixed")
    assert record.method
    assert (record.method.brand, record.method.last4, record.method.expires) == ("Visa", "4242", "2034-12")
    assert [one.email for one in snapshot.customers] == ["ana@example.com"]
    assert record.customer == customer


def test_the_subscriptions_own_card_wins_over_the_customers(shop: Account) -> None:
    customer = ana(shop)
    own = shop.card(customer, "mastercard", "4444")
    record = only(read(shop, ref := box(shop, customer, card=own)), ref)
    assert record.method == Method("card", "Mastercard", "4444", "2034-12", own)


def test_a_renewal_that_failed_shows_what_is_due_and_where(shop: Account) -> None:
    ref = box(shop)
    invoice = shop.fail_renewal(ref.id)
    record = only(read(shop, ref), ref)
    assert (record.status, record.due) == ("past_due", Money(2400, "USD"))
    assert record.due_link
    assert invoice in record.due_link
    assert facts("stripe").allows_link(record.due_link, {"": shop.simulator.address})
    assert record.retries_on == ago(days=-3).date()
    failed = read(shop, Ref("payment", shop.charge_of(invoice)))
    (payment,) = failed.payments
    assert payment.failure
    assert (payment.status, payment.failure.code, payment.subscription) == ("failed", "card_declined", ref.id)
    assert failed.invoices[0].due == Money(2400, "USD")


def test_a_trial_shows_its_first_charge(shop: Account) -> None:
    price = shop.price(shop.product("Tea"), 1200, "EUR")
    ref = Ref("subscription", shop.subscription(ana(shop), price, ago(days=2), trial_days=14))
    record = only(read(shop, ref), ref)
    assert record.status == "trialing"
    assert record.trial_ends_at
    assert record.next_payment == NextPayment(record.trial_ends_at.date(), Money(1200, "EUR"), "fixed")


def test_an_order_comes_with_payment_refunds_and_invoice(shop: Account) -> None:
    order = shop.order(
        ana(shop), [("Guji", 2, 1800), ("Mug", 1, 900)], ago(days=5), "USD", tax=450, invoice=True
    )
    charge = shop.charge_of(order)
    refund = shop.refund(charge, 900)
    snapshot = read(shop, Ref("order", order))
    (found,) = snapshot.orders
    assert (found.status, found.amount, found.tax) == (
        "partially_refunded",
        Money(4950, "USD"),
        Money(450, "USD"),
    )
    assert [(line.name, line.quantity) for line in found.lines] == [("Guji", 2), ("Mug", 1)]
    (payment,) = snapshot.payments
    assert (payment.remote_id, payment.order, payment.refunded) == (charge, order, Money(900, "USD"))
    assert [one.remote_id for one in snapshot.refunds] == [refund]
    (invoice,) = snapshot.invoices
    assert (invoice.payment, invoice.order, invoice.document) == (charge, order, True)


def test_a_guests_order_has_its_address_and_no_customer(shop: Account) -> None:
    order = shop.guest_order("bo@example.com", [("Mug", 1, 900)], ago(days=3), "EUR")
    (found,) = read(shop, Ref("order", order)).orders
    assert (found.email, found.customer, found.status) == ("bo@example.com", None, "paid")
    assert found.lines == (Line("Mug", 1, Money(900, "EUR")),)


def test_an_authorized_order_is_open_and_its_payment_authorized(shop: Account) -> None:
    order = shop.order(ana(shop), [("Mug", 1, 900)], ago(days=1), "USD", captured=False)
    snapshot = read(shop, Ref("order", order))
    assert [one.status for one in snapshot.orders] == ["open"]
    assert [one.status for one in snapshot.payments] == ["authorized"]


def test_a_disputed_payment_says_so(shop: Account) -> None:
    charge = shop.charge_of(shop.order(ana(shop), [("Mug", 1, 900)], ago(days=1), "USD"))
    shop.dispute(charge)
    assert [one.status for one in read(shop, Ref("payment", charge)).payments] == ["disputed"]


def test_a_refund_that_failed_gives_the_payment_back_its_amount(shop: Account) -> None:
    charge = shop.charge_of(shop.order(ana(shop), [("Mug", 1, 900)], ago(days=1), "USD"))
    refund = shop.refund(charge, 900, status="pending")
    assert [one.status for one in read(shop, Ref("refund", refund)).payments] == ["refunded"]
    shop.settle_refund(refund, "failed")
    snapshot = read(shop, Ref("refund", refund))
    assert [(one.status, one.amount) for one in snapshot.refunds] == [("failed", Money(900, "USD"))]
    assert [one.status for one in snapshot.payments] == ["paid"]


def test_whole_krona_come_in_hundredths(shop: Account) -> None:
    order = shop.guest_order("jon@example.com", [("Mug", 1, 50000)], ago(days=1), "ISK")
    assert [one.amount for one in read(shop, Ref("order", order)).orders] == [Money(500, "ISK")]


def test_an_invoice_comes_with_payment_and_subscription(shop: Account) -> None:
    ref = box(shop)
    invoice = shop.get(ref.id)["latest_invoice"]
    snapshot = read(shop, Ref("invoice", invoice))
    assert [one.invoice for one in snapshot.payments] == [invoice]
    assert snapshot.invoices[0].payment == snapshot.payments[0].remote_id
    assert only(snapshot, ref).status == "active"


@pytest.mark.parametrize(
    "ref",
    [
        Ref("customer", "cus_nobody"),
        Ref("subscription", "sub_nobody"),
        Ref("payment", "ch_nobody"),
        Ref("refund", "re_nobody"),
        Ref("invoice", "in_nobody"),
        Ref("order", "cs_test_nobody"),
        Ref("order", "in_nobody"),
        Ref("order", "ch_nobody"),
    ],
    ids=str,
)
def test_what_is_unknown_is_gone(shop: Account, ref: Ref) -> None:
    assert isinstance(failure(shop, lambda stripe: stripe.fetch(ref)), Gone)


def test_an_id_never_becomes_a_path(shop: Account) -> None:
    assert isinstance(failure(shop, lambda stripe: stripe.fetch(Ref("customer", "../balance"))), Gone)
    assert shop.simulator.calls == []


def test_a_person_is_found_with_all_their_customers_and_orders(shop: Account) -> None:
    first = shop.customer("Ana@Example.com", "Ana", ago(days=100))
    second = shop.customer("ana@example.com", "Ana", ago(days=10))
    order = shop.guest_order("ana@example.com", [("Mug", 1, 900)], ago(days=3), "EUR")
    shop.customer("bo@example.com", "Bo", ago(days=10))
    found = run(shop, lambda stripe: stripe.find("Ana@Example.com"))
    assert set(found) == {Ref("customer", first), Ref("customer", second), Ref("order", order)}


# Everything, list by list


def everything(shop: Account) -> set[str]:
    customer = ana(shop)
    ended = box(shop, customer)
    shop.cancel(ended.id)
    open_one = box(shop, customer)
    shop.fail_renewal(open_one.id)
    order = shop.order(customer, [("Guji", 1, 1800)], ago(days=5), "USD", invoice=True)
    refund = shop.refund(shop.charge_of(order), 900)
    guest = shop.guest_order("bo@example.com", [("Mug", 1, 900)], ago(days=3), "EUR")
    return {customer, ended.id, open_one.id, order, refund, guest, shop.charge_of(guest)}


def pages(shop: Account, cursor: str | None = None, most: int = 99) -> list[Any]:
    async def collect(stripe: Gateway) -> list[Any]:
        found = []
        async for page in stripe.backfill(cursor):
            found.append(page)
            if len(found) == most:
                break
        return found

    return run(shop, collect)


KINDS = ("customers", "orders", "subscriptions", "payments", "refunds", "invoices")


def ids(found: list[Any]) -> set[str]:
    return {row.remote_id for page in found for kind in KINDS for row in getattr(page.snapshot, kind)}


def test_backfill_brings_everything(shop: Account) -> None:
    wanted = everything(shop)
    found = pages(shop)
    assert wanted <= ids(found)
    assert found[-1].cursor is None
    charges = {one["id"] for one in shop.all("charge")}
    invoices = {one["id"] for one in shop.all("invoice")}
    assert charges | invoices <= ids(found)


def test_backfill_tells_what_a_fetch_would_tell(shop: Account) -> None:
    everything(shop)
    listed = [row for page in pages(shop) for row in page.snapshot.payments]
    for row in listed:
        (fetched,) = read(shop, Ref("payment", row.remote_id)).payments
        assert (row.status, row.invoice, row.order, row.subscription, row.refunded) == (
            fetched.status,
            fetched.invoice,
            fetched.order,
            fetched.subscription,
            fetched.refunded,
        )


def test_backfill_goes_on_where_it_broke_off(shop: Account) -> None:
    wanted = everything(shop)
    for number in range(150):
        shop.customer(f"reader{number}@example.com", "Reader", ago(days=50))
    found: list[Any] = []
    cursor = None
    while True:
        (page,) = pages(shop, cursor, most=1)
        found.append(page)
        cursor = page.cursor
        if cursor is None:
            break
        assert set(json.loads(cursor)) == {"step", "after"}
    assert wanted <= ids(found)
    assert len([page for page in found if page.snapshot.customers]) == 2


def test_backfill_estimates_the_next_payment_and_does_not_ask_for_each(shop: Account) -> None:
    ref = box(shop)
    found = [row for page in pages(shop) for row in page.snapshot.subscriptions]
    assert [row.remote_id for row in found] == [ref.id]
    assert found[0].next_payment
    assert found[0].next_payment.certainty == "estimated"
    assert not [c for c in shop.simulator.calls if c.path.endswith("create_preview")]


def test_a_late_retry_finds_its_invoice_too(shop: Account) -> None:
    """The charge that paid was made days after its invoice, outside of the time that a page covers."""
    ref = box(shop)
    invoice = shop.fail_renewal(ref.id)
    card = shop.card(shop.get(ref.id)["customer"], "mastercard", "4444")
    clock.set_offset(clock.offset() + timedelta(days=20))
    httpx.post(shop.get(invoice)["hosted_invoice_url"], data={"card": "4242", "action": "save"})
    assert card
    paid = shop.charge_of(invoice)
    listed = {row.remote_id: row for page in pages(shop) for row in page.snapshot.payments}
    assert listed[paid].invoice == invoice
    assert listed[paid].subscription == ref.id


# Cancel, undo, pause, resume


def test_cancel_now(shop: Account) -> None:
    ref = box(shop)
    record = only(run(shop, lambda stripe: stripe.cancel_now(ref, "portal-1")), ref)
    assert (record.status, record.next_payment) == ("cancelled", None)
    assert record.ended_at
    assert shop.get(ref.id)["status"] == "canceled"
    assert writes(shop, "DELETE") == [f"/v1/subscriptions/{ref.id}"]


def test_cancel_now_twice_is_one_cancel(shop: Account) -> None:
    ref = box(shop)
    for _ in range(2):
        assert only(run(shop, lambda stripe: stripe.cancel_now(ref, "portal-1")), ref).status == "cancelled"
    assert len(writes(shop, "DELETE")) == 1


def test_cancel_at_period_end_and_back_again(shop: Account) -> None:
    ref = box(shop)
    record = only(run(shop, lambda stripe: stripe.cancel_at_period_end(ref, "portal-1")), ref)
    assert (record.status, record.cancels_at) == ("cancels_at_period_end", record.current_period_end)
    assert record.next_payment is None
    again = only(run(shop, lambda stripe: stripe.cancel_at_period_end(ref, "portal-1")), ref)
    assert again.status == "cancels_at_period_end"
    assert keys(shop) == ["portal-1"]
    record = only(run(shop, lambda stripe: stripe.undo_cancel(ref, "portal-2")), ref)
    assert (record.status, record.cancels_at) == ("active", None)
    assert keys(shop) == ["portal-1", "portal-2"]


def test_a_cancellation_by_date_alone_is_seen_and_undone(shop: Account) -> None:
    """What Stripe's own portal does in flexible mode."""
    ref = box(shop, flexible=True)
    shop.cancel_at(ref.id, ago(days=-10))
    record = only(read(shop, ref), ref)
    assert record.status == "cancels_at_period_end"
    assert record.cancels_at
    assert record.cancels_at.date() == ago(days=-10).date()
    assert only(run(shop, lambda stripe: stripe.undo_cancel(ref, "k")), ref).status == "active"


def test_an_ended_one_cannot_be_undone(shop: Account) -> None:
    ref = box(shop)
    shop.cancel(ref.id)
    assert isinstance(failure(shop, lambda stripe: stripe.undo_cancel(ref, "k")), Unsupported)


def test_a_schedule_is_let_go_before_a_cancel(shop: Account) -> None:
    ref = box(shop)
    schedule = shop.schedule(ref.id)
    assert only(read(shop, ref), ref).object == "schedule"
    record = only(run(shop, lambda stripe: stripe.cancel_at_period_end(ref, "k")), ref)
    assert (record.status, record.object) == ("cancels_at_period_end", None)
    assert keys(shop) == ["k-release", "k"]
    assert shop.get(schedule)["status"] == "released"


def test_a_schedule_keeps_a_subscription_from_being_paused(shop: Account) -> None:
    ref = box(shop)
    shop.schedule(ref.id)
    assert isinstance(failure(shop, lambda stripe: stripe.pause(ref, "k")), Unsupported)
    assert writes(shop) == []


def test_pause_and_resume(shop: Account) -> None:
    ref = box(shop)
    record = only(run(shop, lambda stripe: stripe.pause(ref, "k")), ref)
    assert (record.status, record.next_payment) == ("paused", None)
    assert shop.get(ref.id)["pause_collection"]["behavior"] == "void"
    assert only(run(shop, lambda stripe: stripe.pause(ref, "k2")), ref).status == "paused"
    record = only(run(shop, lambda stripe: stripe.resume(ref, "k3")), ref)
    assert record.status == "active"
    assert record.next_payment
    assert keys(shop) == ["k", "k3"]


def test_a_subscription_that_stripe_holds_as_paused_goes_on_too(shop: Account) -> None:
    ref = box(shop)
    answer = httpx.post(
        f"{shop.simulator.address}/v1/subscriptions/{ref.id}/pause",
        headers={"Authorization": f"Bearer {shop.secret_key}", "Stripe-Version": "2026-10-28.endive"},
        data={"bill_for[unused_time_from][type]": "none"},
    )
    assert answer.status_code == 200
    end = only(read(shop, ref), ref).current_period_end
    assert only(read(shop, ref), ref).status == "paused"
    record = only(run(shop, lambda stripe: stripe.resume(ref, "k")), ref)
    assert (record.status, record.current_period_end) == ("active", end)


# Plans


def test_change_plan_and_quantity(shop: Account) -> None:
    ref = box(shop)
    bigger = shop.price(shop.product("Big coffee box"), 3600, "USD")
    change = {"plan": bigger, "quantity": 2}
    record = only(run(shop, lambda stripe: stripe.change_plan(ref, change, BACK, "k")), ref)
    assert (record.title, record.amount, record.quantity) == ("Big coffee box", Money(7200, "USD"), 2)
    assert record.next_payment
    assert record.next_payment.amount
    assert record.next_payment.amount.minor > 7200, "with what is prorated"
    assert len(shop.get(ref.id)["items"]["data"]) == 1
    again = only(run(shop, lambda stripe: stripe.change_plan(ref, change, BACK, "k")), ref)
    assert again.amount == record.amount
    assert keys(shop) == ["k"]


def test_a_change_that_must_be_paid_first_waits(shop: Account) -> None:
    customer = ana(shop, card=False)
    shop.card(customer, "visa", "0341", declines="insufficient_funds")
    ref = box(shop, customer)
    yearly = shop.price(shop.product("A year of coffee"), 24000, "USD", "year")
    record = only(run(shop, lambda stripe: stripe.change_plan(ref, {"plan": yearly}, BACK, "k")), ref)
    assert record.amount == Money(2400, "USD")
    assert record.pending_change == PendingChange(None, Money(24000, "USD"), "A year of coffee", 1)


# Paying what is open


def test_pay_now_leads_to_the_hosted_invoice(shop: Account) -> None:
    ref = box(shop)
    invoice = shop.fail_renewal(ref.id)
    leave = run(shop, lambda stripe: stripe.pay_now(ref, BACK, "k"))
    assert isinstance(leave, Leave)
    assert leave.state == {"invoice": invoice}
    assert facts("stripe").allows_link(leave.url, {"": shop.simulator.address})
    httpx.post(leave.url, data={"card": "4242", "action": "save"})
    record = only(read(shop, ref), ref)
    assert (record.status, record.due, record.due_link) == ("active", None, None)


def test_where_nothing_is_open_nobody_is_sent_away(shop: Account) -> None:
    ref = box(shop)
    assert only(run(shop, lambda stripe: stripe.pay_now(ref, BACK, "k")), ref).due is None


# Another card


def leave_for_card(shop: Account, ref: Ref, key: str = "k", **keys: str) -> Leave:
    return run(shop, lambda stripe: stripe.start_method_update(ref, BACK, key), **keys)


def come_back(shop: Account, ref: Ref, leave: Leave, **query: str) -> SubscriptionRecord:
    return only(run(shop, lambda stripe: stripe.finish_method_update(ref, leave.state, query)), ref)


def save_card(leave: Leave, card: str) -> str:
    answer = httpx.post(leave.url, data={"card": card, "action": "save"})
    return answer.headers.get("location", "")


def last4(record: SubscriptionRecord) -> str | None:
    return record.method.last4 if record.method else None


def test_a_new_card_by_checkout(shop: Account) -> None:
    ref = box(shop)
    leave = leave_for_card(shop, ref)
    assert facts("stripe").allows_link(leave.url, {"": shop.simulator.address})
    assert save_card(leave, "4444") == f"{BACK}?session_id={leave.state['session']}"
    assert last4(only(read(shop, ref), ref)) == "4242", "nothing happens before we come back"
    assert last4(come_back(shop, ref, leave)) == "4444"
    assert last4(come_back(shop, ref, leave)) == "4444"
    own = [c for c in shop.simulator.calls if c.method == "POST" and c.path == f"/v1/subscriptions/{ref.id}"]
    assert len(own) == 1, "the second look changes nothing"


def test_a_customer_without_a_default_gets_one(shop: Account) -> None:
    customer = ana(shop, card=False)
    card = shop.card(customer)
    ref = box(shop, customer, card=card)
    headers = {"Authorization": f"Bearer {shop.secret_key}", "Stripe-Version": "2026-10-28.endive"}
    cleared = httpx.post(
        f"{shop.simulator.address}/v1/customers/{customer}",
        headers=headers,
        data={"invoice_settings[default_payment_method]": ""},
    )
    assert cleared.status_code == 200
    leave = leave_for_card(shop, ref)
    save_card(leave, "4444")
    record = come_back(shop, ref, leave)
    assert record.method
    assert shop.get(customer)["invoice_settings"]["default_payment_method"] == record.method.remote_id


def test_a_customer_with_a_default_keeps_it(shop: Account) -> None:
    customer = ana(shop)
    default = shop.get(customer)["invoice_settings"]["default_payment_method"]
    ref = box(shop, customer)
    leave = leave_for_card(shop, ref)
    save_card(leave, "4444")
    come_back(shop, ref, leave)
    assert shop.get(customer)["invoice_settings"]["default_payment_method"] == default


@pytest.mark.parametrize(
    "query", [{}, {"cancelled": "1"}, {"session_id": "cs_test_other"}, {"session_id": ""}]
)
def test_who_turns_back_keeps_the_old_card(shop: Account, query: dict[str, str]) -> None:
    ref = box(shop)
    leave = leave_for_card(shop, ref)
    answer = httpx.post(leave.url, data={"action": "back"})
    assert answer.headers["location"] == f"{BACK}?cancelled=1"
    assert last4(come_back(shop, ref, leave, **query)) == "4242"
    assert writes(shop) == ["/v1/checkout/sessions"]


def test_the_return_address_is_not_believed(shop: Account) -> None:
    """A finished session of somebody else, put into the query, moves nothing."""
    bo = shop.customer("bo@example.com", "Bo", ago(days=90))
    shop.card(bo)
    ref, other = box(shop), box(shop, bo)
    leave, theirs = leave_for_card(shop, ref), leave_for_card(shop, other, "k2")
    save_card(theirs, "4444")
    assert last4(come_back(shop, ref, leave, session_id=theirs.state["session"])) == "4242"


def test_a_session_of_another_subscription_moves_nothing(shop: Account) -> None:
    customer = ana(shop)
    ref, other = box(shop, customer), box(shop, customer)
    leave = leave_for_card(shop, other)
    save_card(leave, "4444")
    assert last4(come_back(shop, ref, leave)) == "4242"


def test_a_card_that_cannot_be_saved_changes_nothing(shop: Account) -> None:
    ref = box(shop)
    leave = leave_for_card(shop, ref)
    assert save_card(leave, "0002") == ""
    assert last4(come_back(shop, ref, leave)) == "4242"


def test_an_earlier_visit_does_not_undo_a_later_one(shop: Account) -> None:
    ref = box(shop)
    first = leave_for_card(shop, ref, "k1")
    save_card(first, "4444")
    clock.set_offset(clock.offset() + timedelta(minutes=5))
    second = leave_for_card(shop, ref, "k2")
    save_card(second, "0341")
    assert last4(come_back(shop, ref, second)) == "0341"
    assert last4(come_back(shop, ref, first)) == "0341"


def test_a_new_card_pays_what_is_past_due(shop: Account) -> None:
    ref = box(shop)
    invoice = shop.fail_renewal(ref.id)
    leave = leave_for_card(shop, ref)
    save_card(leave, "4444")
    record = come_back(shop, ref, leave)
    assert (record.status, record.due, last4(record)) == ("active", None, "4444")
    assert shop.get(invoice)["status"] == "paid"
    assert come_back(shop, ref, leave).status == "active"
    assert len([path for path in writes(shop) if path.endswith("/pay")]) == 1


def test_a_new_card_that_cannot_pay_stays_and_so_does_what_is_due(shop: Account) -> None:
    ref = box(shop)
    shop.fail_renewal(ref.id)
    leave = leave_for_card(shop, ref)
    save_card(leave, "0341")
    for _ in range(2):
        record = come_back(shop, ref, leave)
        assert (record.status, record.due, last4(record)) == ("past_due", Money(2400, "USD"), "0341")
    charged = [one for one in shop.all("charge") if one["status"] == "failed"]
    assert len(charged) == 2, "the renewal, and one try of ours: the second look repeats nothing"


def test_managed_payments_go_to_stripes_own_portal(shop: Account) -> None:
    configuration = shop.portal_configuration()
    ref = box(shop, managed=True)
    assert only(read(shop, ref), ref).object == "managed_payments"
    leave = leave_for_card(shop, ref, portal_configuration=configuration)
    assert set(leave.state) == {"portal"}
    assert facts("stripe").allows_link(leave.url, {"": shop.simulator.address})
    assert save_card(leave, "4444") == BACK
    assert last4(come_back(shop, ref, leave)) == "4444"
    assert writes(shop) == ["/v1/billing_portal/sessions"]


def test_a_portal_that_was_never_saved_is_a_hint(shop: Account) -> None:
    ref = box(shop, managed=True)
    caught = failure(shop, lambda stripe: stripe.start_method_update(ref, BACK, "k"))
    assert isinstance(caught, Unsupported)
    assert "saving your customer portal settings" in caught.hint


def test_an_ended_subscription_takes_no_card(shop: Account) -> None:
    ref = box(shop)
    leave = leave_for_card(shop, ref)
    save_card(leave, "4444")
    shop.cancel(ref.id)
    assert come_back(shop, ref, leave).status == "cancelled"
    assert isinstance(failure(shop, lambda stripe: stripe.start_method_update(ref, BACK, "k")), Unsupported)


# Documents


def test_the_file_of_an_invoice(shop: Account) -> None:
    invoice = shop.get(box(shop).id)["latest_invoice"]
    document = run(shop, lambda stripe: stripe.invoice_document(Ref("invoice", invoice)))
    assert document
    assert document.content.startswith(b"%PDF-")
    assert document.filename == f"{shop.get(invoice)['number']}.pdf"


# The unhappy day


WRITES: dict[str, tuple[Callable[[Gateway, Ref], Coroutine[Any, Any, Any]], str]] = {
    "cancel_now": (lambda stripe, ref: stripe.cancel_now(ref, "k"), "cancelled"),
    "cancel_at_period_end": (
        lambda stripe, ref: stripe.cancel_at_period_end(ref, "k"),
        "cancels_at_period_end",
    ),
    "pause": (lambda stripe, ref: stripe.pause(ref, "k"), "paused"),
}
each_write = pytest.mark.parametrize(("wish", "status"), WRITES.values(), ids=WRITES)
Wish = Callable[[Gateway, Ref], Coroutine[Any, Any, Any]]


@each_write
def test_an_answer_that_never_comes_is_unknown_and_the_retry_finds_it_done(
    shop: Account, monkeypatch: pytest.MonkeyPatch, wish: Wish, status: str
) -> None:
    monkeypatch.setattr("portal.gateways.http.READ_S", 0.5)
    ref = box(shop)
    shop.simulator.fail_next = ["", "timeout_after"]
    caught = failure(shop, lambda stripe: wish(stripe, ref))
    assert isinstance(caught, Unavailable)
    assert caught.sent
    assert "Nothing was changed" not in caught.customer
    before = len(shop.all("event"))
    assert only(run(shop, lambda stripe: wish(stripe, ref)), ref).status == status
    assert len(shop.all("event")) == before, "the retry has no effect of its own"


@each_write
def test_a_call_that_is_lost_on_the_way_is_unknown_and_the_retry_does_it(
    shop: Account, monkeypatch: pytest.MonkeyPatch, wish: Wish, status: str
) -> None:
    monkeypatch.setattr("portal.gateways.http.READ_S", 0.5)
    ref = box(shop)
    shop.simulator.fail_next = ["", "drop"]
    caught = failure(shop, lambda stripe: wish(stripe, ref))
    assert isinstance(caught, Unavailable)
    assert caught.sent
    assert only(run(shop, lambda stripe: wish(stripe, ref)), ref).status == status


@each_write
def test_a_500_is_unknown_and_is_not_sent_again_by_itself(shop: Account, wish: Wish, status: str) -> None:
    ref = box(shop)
    shop.simulator.fail_next = ["", "500"]
    caught = failure(shop, lambda stripe: wish(stripe, ref))
    assert isinstance(caught, Unavailable)
    assert caught.sent
    assert only(read(shop, ref), ref).status == "active"
    assert len(writes(shop)) + len(writes(shop, "DELETE")) == 1
    assert only(run(shop, lambda stripe: wish(stripe, ref)), ref).status == status


@each_write
def test_a_429_changed_nothing_and_says_when_to_come_again(shop: Account, wish: Wish, status: str) -> None:
    ref = box(shop)
    shop.simulator.limit(1)
    caught = failure(shop, lambda stripe: wish(stripe, ref))
    assert isinstance(caught, Unavailable)
    assert caught.retry_after
    assert not caught.sent
    assert only(run(shop, lambda stripe: wish(stripe, ref)), ref).status == status


@each_write
def test_while_stripe_is_down_nothing_is_changed(shop: Account, wish: Wish, status: str) -> None:
    ref = box(shop)
    shop.simulator.switch("down")
    caught = failure(shop, lambda stripe: wish(stripe, ref))
    assert isinstance(caught, Unavailable)
    assert not caught.sent, "the look before was refused, so nothing was sent"
    shop.simulator.switch("ok")
    assert only(read(shop, ref), ref).status == "active"


def test_a_decline_says_so(shop: Account) -> None:
    ref = box(shop)
    shop.simulator.switch("decline")
    bigger = shop.price(shop.product("Big coffee box"), 3600, "USD")
    caught = failure(shop, lambda stripe: stripe.change_plan(ref, {"plan": bigger}, BACK, "k"))
    assert isinstance(caught, Declined)
    assert (caught.reason, caught.customer) == ("generic_decline", "Your card was declined.")


def test_a_payment_whose_answer_never_comes_is_made_once(
    shop: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = box(shop)
    shop.fail_renewal(ref.id)
    leave = leave_for_card(shop, ref)
    save_card(leave, "4444")
    monkeypatch.setattr("portal.gateways.http.READ_S", 0.5)
    shop.simulator.fail_next = ["", "", "", "", "timeout_after"]
    caught = failure(shop, lambda stripe: stripe.finish_method_update(ref, leave.state, {}))
    assert isinstance(caught, Unavailable)
    assert [c.path for c in shop.simulator.calls][-1].endswith("/pay")
    assert come_back(shop, ref, leave).status == "active"
    paid = [one for one in shop.all("charge") if one["status"] == "succeeded"]
    assert len(paid) == len([one for one in shop.all("invoice") if one["amount_paid"]])


# Webhooks, end to end


def test_what_the_simulator_signs_is_believed_and_looked_at_again(shop: Account) -> None:
    ref = box(shop)
    run(shop, lambda stripe: stripe.cancel_at_period_end(ref, "k"))
    body = event("customer.subscription.updated", shop.get(ref.id), at=clock.now())
    headers = [("Stripe-Signature", sign(SECRET, body, clock.now()))]

    async def handle(stripe: Gateway) -> Snapshot | None:
        (told,) = stripe.verify(headers, body, clock.now())
        assert told.occurred_at
        assert told.occurred_at.tzinfo is UTC
        return await stripe.refetch(told)

    snapshot = run(shop, handle)
    assert snapshot
    assert only(snapshot, ref).status == "cancels_at_period_end"


def test_every_event_the_simulator_sends_is_understood(shop: Account) -> None:
    everything(shop)
    cy = shop.customer("cy@example.com", "Cy", ago(days=90))
    shop.card(cy)
    ref = box(shop, cy)
    leave = leave_for_card(shop, ref)
    save_card(leave, "4444")
    run(shop, lambda stripe: stripe.cancel_now(ref, "k"))
    seen = {}
    for one in shop.all("event"):
        body = json.dumps(one).encode()
        headers = [("Stripe-Signature", sign(SECRET, body, clock.now()))]

        async def handle(
            stripe: Gateway, headers: list[tuple[str, str]] = headers, body: bytes = body
        ) -> Snapshot | None:
            (told,) = stripe.verify(headers, body, clock.now())
            return await stripe.refetch(told)

        if one["type"] not in seen:
            seen[one["type"]] = run(shop, handle)
    assert len(seen) >= 15, sorted(seen)
    silent = {kind for kind, snapshot in seen.items() if snapshot is None}
    assert silent <= {"setup_intent.created", "payment_intent.succeeded", "payment_intent.payment_failed"}, (
        silent
    )


# The endpoint that is registered

HERE = "https://acme.example/webhooks/abc"


def endpoints(shop: Account) -> list[dict[str, Any]]:
    return shop.books.all("webhook_endpoint")


def registered(shop: Account, key: str = "wish-1", **keys: str) -> Registration:
    return run(shop, lambda stripe: stripe.register_webhook(HERE, key), **keys)


def test_the_endpoint_has_our_version_and_the_events_that_the_adapter_handles(shop: Account) -> None:
    made = registered(shop)
    (one,) = endpoints(shop)
    assert (one["id"], one["url"], one["api_version"]) == (made.remote_id, HERE, VERSION)
    assert one["enabled_events"] == list(webhooks.EVENTS)
    assert made.credentials == {"webhook_secret": one["_secret"]}
    assert one["_secret"] not in json.dumps({name: value for name, value in one.items() if name != "_secret"})
    assert made.note == ""


@pytest.mark.parametrize("kind", webhooks.EVENTS)
def test_every_event_that_is_asked_for_leads_somewhere(kind: str) -> None:
    thing = {"id": "x_1", "object": "refund" if kind.startswith("refund.") else "thing", "mode": "payment"}
    thing |= dict.fromkeys(("customer", "invoice", "charge", "subscription"), "y_1")
    assert stripe_events.subject_of(kind, thing, {}) is not None


@pytest.mark.skipif(not SPECS.is_dir(), reason="the contract of Stripe's API is not here")
def test_every_event_that_is_asked_for_is_one_of_stripes() -> None:
    known = json.loads((SPECS / f"contract-{VERSION}.json").read_text())["event_types"]
    assert set(webhooks.EVENTS) <= set(known)
    assert len(set(webhooks.EVENTS)) == len(webhooks.EVENTS)


def test_an_endpoint_whose_secret_is_known_is_left_as_it_is(shop: Account) -> None:
    made = registered(shop)
    shop.simulator.calls.clear()
    assert registered(shop, "wish-2", **made.credentials).remote_id == made.remote_id
    assert writes(shop) == writes(shop, "DELETE") == []


def test_an_endpoint_that_was_switched_off_or_has_too_few_events_is_put_right(shop: Account) -> None:
    made = registered(shop)
    endpoints(shop)[0].update(status="disabled", enabled_events=["charge.succeeded"])
    assert registered(shop, "wish-2", **made.credentials).remote_id == made.remote_id
    (one,) = endpoints(shop)
    assert (one["status"], one["enabled_events"]) == ("enabled", list(webhooks.EVENTS))


def test_an_endpoint_of_another_version_is_replaced(shop: Account) -> None:
    made = registered(shop)
    endpoints(shop)[0]["api_version"] = "2024-06-20"
    again = registered(shop, "wish-2", **made.credentials)
    (one,) = endpoints(shop)
    assert one["id"] == again.remote_id != made.remote_id


def test_the_new_endpoint_is_made_before_the_former_goes(shop: Account) -> None:
    registered(shop)
    shop.simulator.calls.clear()
    registered(shop, "wish-2")
    made = [(one.method, one.path.count("/")) for one in shop.simulator.calls if one.method != "GET"]
    assert made == [("POST", 2), ("POST", 3), ("DELETE", 3)]


def test_the_same_wish_again_gets_the_same_endpoint(shop: Account) -> None:
    assert registered(shop).remote_id == registered(shop).remote_id


def test_a_former_endpoint_that_stays_is_told_and_the_secret_is_not_lost(shop: Account) -> None:
    former = registered(shop)
    shop.simulator.fail_writes = ["", "", "500"]
    made = registered(shop, "wish-2")
    assert former.remote_id in made.note
    assert made.credentials["webhook_secret"] not in made.note
    assert {one["id"] for one in endpoints(shop)} == {former.remote_id, made.remote_id}
    registered(shop, "wish-3", **made.credentials)
    assert [one["id"] for one in endpoints(shop)] == [made.remote_id]


def test_a_mark_that_was_not_left_only_means_another_endpoint_later(shop: Account) -> None:
    shop.simulator.fail_writes = ["", "500"]
    made = registered(shop)
    again = registered(shop, "wish-2", **made.credentials)
    assert [one["id"] for one in endpoints(shop)] == [again.remote_id]


@pytest.mark.parametrize("may", [set(), {"webhook_read"}])
def test_a_restricted_key_is_told_the_permission_that_it_lacks(shop: Account, may: set[str]) -> None:
    key = f"rk_test_Shop{next(_numbers):04d}"
    shop.simulator.add_key(shop, key, may)
    with pytest.raises(Unavailable) as caught:
        run(shop, lambda stripe: stripe.register_webhook(HERE, "wish-1"), key)
    assert "rak_webhook_write" in caught.value.hint
    assert endpoints(shop) == []


def test_a_restricted_key_with_the_permission_may_register(shop: Account) -> None:
    key = f"rk_test_Shop{next(_numbers):04d}"
    shop.simulator.add_key(shop, key, {"webhook_write"})
    assert run(shop, lambda stripe: stripe.register_webhook(HERE, "wish-1"), key).remote_id


def test_a_seventeenth_endpoint_is_refused_with_words_that_help(shop: Account) -> None:
    for number in range(16):
        shop.simulator.add_endpoint(shop, f"https://other.example/{number}", "whsec_other")
    with pytest.raises(Declined) as caught:
        registered(shop)
    assert "16 endpoints" in caught.value.hint
