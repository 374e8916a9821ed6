"""The Stripe simulator, met as a merchant's server meets Stripe: through the official SDK, forms, and webhooks."""

import io
import json
import queue
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2 as httpx
import pikepdf
import pytest
import stripe

from seeds.simulators.harness import Servers, names, simulator
from seeds.simulators.stripe import API_VERSION, Account, Simulator, event, sign, validator
from tests.conftest import SHARED

KEY = "sk_test_shop0000000000000001"
SECRET = "whsec_simulated0000000000001"
SPECS = SHARED / "specs" / "stripe"


class Clock:
    """The real time, moved by what a test asks for."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def ago(self, **span: float) -> datetime:
        return self() - timedelta(**span)


class Receiver:
    """A shop's webhook address: keeps what arrives."""

    def __init__(self) -> None:
        self.arrived: queue.Queue[tuple[bytes, str]] = queue.Queue()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.arrived.put((body, self.headers["Stripe-Signature"]))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/webhooks"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def events(self, number: int) -> list[Any]:
        """The next events, each with its signature verified by the SDK."""
        found = []
        for _ in range(number):
            body, header = self.arrived.get(timeout=10)
            found.append(stripe.Webhook.construct_event(body, header, SECRET))
        return found

    def until(self, kind: str) -> Any:
        """Wait for an event of a kind, passing over others."""
        for _ in range(40):
            found = self.events(1)[0]
            if found.type == kind:
                return found
        raise AssertionError(f"no {kind} came")


@pytest.fixture(scope="module")
def served() -> Iterator[Simulator]:
    one = Simulator(Clock())
    one.save()
    with Servers([one]):
        yield one


@pytest.fixture
def clock(served: Simulator) -> Clock:
    assert isinstance(served.now, Clock)
    served.now.offset = timedelta()
    return served.now


@pytest.fixture
def sim(served: Simulator, clock: Clock) -> Iterator[Simulator]:
    """An empty simulator that holds every request and answer against the contract, where that is there."""
    served.reset()
    served.validator = validator(SPECS) if SPECS.exists() else None
    yield served
    assert served.problems == []


@pytest.fixture
def shop(sim: Simulator) -> Account:
    return sim.add_account(KEY)


@pytest.fixture
def client(sim: Simulator, shop: Account) -> stripe.StripeClient:
    return client_of(sim, KEY)


def client_of(sim: Simulator, key: str, retries: int = 0) -> stripe.StripeClient:
    return stripe.StripeClient(key, base_addresses={"api": sim.address}, max_network_retries=retries)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


@pytest.fixture
def visitor() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, follow_redirects=False) as one:
        yield one


def anna(shop: Account, email: str = "anna@example.com") -> str:
    assert isinstance(shop.simulator.now, Clock)
    return shop.customer(email, "Anna Berg", shop.simulator.now.ago(days=200))


def tea(
    shop: Account, minor: int = 1200, currency: str = "EUR", interval: Any = "month", count: int = 1
) -> str:
    return shop.price(shop.product("Tea box"), minor, currency, interval, count)


def member(shop: Account, clock: Clock, days: float = 75, **more: Any) -> tuple[str, str]:
    """A customer with a card and a monthly subscription that began some days ago."""
    customer = anna(shop)
    card = shop.card(customer)
    return customer, shop.subscription(customer, tea(shop), clock.ago(days=days), card, **more)


# Keys, versions, errors


def test_registry_knows_the_simulator() -> None:
    assert "stripe" in names()
    assert isinstance(simulator("stripe"), Simulator)


def test_unknown_key_is_401(sim: Simulator) -> None:
    with pytest.raises(stripe.AuthenticationError) as caught:
        client_of(sim, "sk_test_nobody000000000000").v1.customers.list()
    assert caught.value.http_status == 401
    assert "sk_test_*" in str(caught.value.user_message)
    assert "nobody" not in str(caught.value.user_message)


def test_accounts_see_only_their_own(sim: Simulator, shop: Account, client: stripe.StripeClient) -> None:
    other = sim.add_account("sk_test_other00000000000001")
    theirs = anna(other)
    assert client.v1.customers.list().data == []
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.customers.retrieve(theirs)
    assert (caught.value.http_status, caught.value.code) == (404, "resource_missing")


def test_restricted_key_lacks_a_permission(sim: Simulator, shop: Account) -> None:
    sim.add_key(shop, "rk_test_reader00000000000001", {"customer_read", "rak_subscription_write"})
    client = client_of(sim, "rk_test_reader00000000000001")
    assert client.v1.customers.list().data == []
    assert client.v1.subscriptions.list().data == []
    with pytest.raises(stripe.PermissionError) as caught:
        client.v1.customers.update("cus_1", {"name": "Anna"})
    assert "rak_customer_write" in str(caught.value.user_message)
    with pytest.raises(stripe.PermissionError):
        client.v1.invoices.list()


def test_sdk_sends_the_version_and_another_is_refused(
    sim: Simulator, client: stripe.StripeClient, visitor: httpx.Client
) -> None:
    client.v1.balance.retrieve()
    assert sim.calls[-1].headers["stripe-version"] == API_VERSION
    headers = {"Authorization": f"Bearer {KEY}", "Stripe-Version": "2024-06-20"}
    assert visitor.get(f"{sim.address}/v1/customers", headers=headers).status_code == 400
    del headers["Stripe-Version"]
    assert visitor.get(f"{sim.address}/v1/customers", headers=headers).status_code == 200
    assert sim.problems == ["GET /v1/customers: sent without Stripe-Version"]
    sim.problems.clear()


def test_basic_auth_works_too(sim: Simulator, shop: Account, visitor: httpx.Client) -> None:
    found = visitor.get(f"{sim.address}/v1/balance", auth=(KEY, ""), headers={"Stripe-Version": API_VERSION})
    assert found.json()["object"] == "balance"
    assert visitor.get(f"{sim.address}/v1/balance").json()["error"]["type"] == "invalid_request_error"


def test_unknown_address_parameter_and_json_body_are_refused(
    sim: Simulator, client: stripe.StripeClient, shop: Account, visitor: httpx.Client
) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="Unrecognized request URL"):
        client.raw_request("get", "/v1/nothing")
    sim.validator = None
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.raw_request("get", "/v1/customers", colour="red")
    assert (caught.value.code, caught.value.param) == ("parameter_unknown", "colour")
    headers = {"Authorization": f"Bearer {KEY}", "Stripe-Version": API_VERSION}
    refused = visitor.post(f"{sim.address}/v1/customers/{anna(shop)}", json={"name": "A"}, headers=headers)
    assert refused.status_code == 400


def test_too_many_requests(sim: Simulator, client: stripe.StripeClient) -> None:
    sim.limit(1)
    with pytest.raises(stripe.RateLimitError):
        client.v1.customers.list()
    assert client.v1.customers.list().data == []


def test_outage_has_stripes_shape(sim: Simulator, client: stripe.StripeClient) -> None:
    sim.switch("down")
    with pytest.raises(stripe.APIError) as caught:
        client.v1.customers.list()
    assert caught.value.http_status == 503
    sim.switch("ok")
    sim.fail_next.append("500")
    before = len(sim.calls)
    with pytest.raises(stripe.APIError) as caught:
        client_of(sim, KEY, retries=2).v1.customers.list()
    assert caught.value.http_status == 500
    assert len(sim.calls) == before + 1  # told not to try again


# Lists


def test_lists_are_paged_newest_first(client: stripe.StripeClient, shop: Account, clock: Clock) -> None:
    made = [shop.customer(f"{n}@example.com", None, clock.ago(days=30 - n)) for n in range(25)]
    newest_first = made[::-1]
    page = client.v1.customers.list({"limit": 10})
    assert ([one.id for one in page.data], page.has_more) == (newest_first[:10], True)
    after = client.v1.customers.list({"limit": 10, "starting_after": newest_first[19]})
    assert ([one.id for one in after.data], after.has_more) == (newest_first[20:], False)
    before = client.v1.customers.list({"limit": 10, "ending_before": newest_first[12]})
    assert ([one.id for one in before.data], before.has_more) == (newest_first[2:12], True)
    assert [one.id for one in page.auto_paging_iter()] == newest_first
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.customers.list({"limit": 101})
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.customers.list({"starting_after": "cus_gone"})
    assert caught.value.param == "starting_after"


def test_email_filter_is_exact_and_case_sensitive(client: stripe.StripeClient, shop: Account) -> None:
    customer = anna(shop, "Anna@Example.com")
    assert [one.id for one in client.v1.customers.list({"email": "Anna@Example.com"}).data] == [customer]
    assert client.v1.customers.list({"email": "anna@example.com"}).data == []
    found = client.v1.customers.search({"query": "email:'anna@example.com'"})
    assert [one.id for one in found.data] == [customer]


def test_created_filter(client: stripe.StripeClient, shop: Account, clock: Clock) -> None:
    shop.customer("old@example.com", None, clock.ago(days=10))
    new = shop.customer("new@example.com", None, clock.ago(days=1))
    since = int(clock.ago(days=5).timestamp())
    assert [one.id for one in client.v1.customers.list({"created": {"gte": since}}).data] == [new]
    assert len(client.v1.customers.list({"created": {"gte": since, "lt": since}}).data) == 0


def test_expansion(client: stripe.StripeClient, shop: Account, clock: Clock) -> None:
    customer, subscription = member(shop, clock)
    shop.refund(shop.charge_of(subscription), 200)
    rows = client.v1.subscriptions.list(
        {
            "expand": [
                "data.default_payment_method",
                "data.latest_invoice.payments",
            ]
        }
    )
    one: Any = rows.data[0]
    assert one.default_payment_method.card.last4 == "4242"
    assert one.latest_invoice.payments.data[0].payment.payment_intent.startswith("pi_")
    alone: Any = client.v1.subscriptions.retrieve(subscription, {"expand": ["items.data.price.product"]})
    assert alone["items"].data[0].price.product.name == "Tea box"
    with pytest.raises(stripe.InvalidRequestError, match="more than 4 levels"):
        client.v1.subscriptions.list({"expand": ["data.items.data.price.product"]})
    charges: Any = client.v1.charges.list({"expand": ["data.refunds", "data.customer"]})
    assert charges.data[0].refunds.data[0].amount == 200
    assert charges.data[0].customer.id == customer
    owner: Any = client.v1.customers.retrieve(customer, {"expand": ["subscriptions", "tax_ids"]})
    assert (owner.subscriptions.data[0].id, owner.tax_ids.data) == (subscription, [])
    intent: Any = client.v1.payment_intents.retrieve(
        charges.data[0].payment_intent, {"expand": ["latest_charge"]}
    )
    assert intent.latest_charge.payment_intent == intent.id
    with pytest.raises(stripe.InvalidRequestError, match="cannot be expanded"):
        client.v1.subscriptions.retrieve(subscription, {"expand": ["status"]})


# Reading what was built


def test_subscription_has_the_shape_of_endive(
    client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    customer, subscription = member(shop, clock, days=75)
    one: Any = client.v1.subscriptions.retrieve(subscription)
    raw = one.to_dict()
    assert "current_period_end" not in raw
    item = raw["items"]["data"][0]
    assert item["current_period_start"] <= clock().timestamp() < item["current_period_end"]
    assert raw["status"] == "active"
    invoices = client.v1.invoices.list({"subscription": subscription})
    assert [one.billing_reason for one in invoices.data] == ["subscription_cycle"] * 2 + [
        "subscription_create"
    ]
    assert {one.status for one in invoices.data} == {"paid"}
    newest = invoices.data[0].to_dict()
    assert "subscription" not in newest
    assert newest["parent"]["subscription_details"]["subscription"] == subscription
    assert newest["lines"]["data"][0]["period"]["end"] == item["current_period_end"]
    assert re.fullmatch(r"SIM\d+-0003", newest["number"])
    charges = client.v1.charges.list({"customer": customer})
    assert [one.amount for one in charges.data] == [1200] * 3
    assert "invoice" not in charges.data[0].to_dict()
    joined = client.v1.invoice_payments.list({"invoice": newest["id"]})
    assert joined.data[0].payment.payment_intent == charges.data[0].payment_intent
    by_intent: Any = {"type": "payment_intent", "payment_intent": charges.data[0].payment_intent}
    assert client.v1.invoice_payments.list({"payment": by_intent}).data[0].invoice == newest["id"]
    assert client.v1.invoices.line_items.list(newest["id"]).data[0].amount == 1200


def test_status_filter_of_subscriptions(client: stripe.StripeClient, shop: Account, clock: Clock) -> None:
    customer, running = member(shop, clock)
    ended = shop.subscription(customer, tea(shop), clock.ago(days=10))
    shop.cancel(ended)

    def ids(**more: Any) -> set[str]:
        filters: Any = {"customer": customer, **more}
        return {one.id for one in client.v1.subscriptions.list(filters).data}

    assert ids() == {running}
    assert ids(status="all") == {running, ended}
    assert ids(status="canceled") == ids(status="ended") == {ended}
    assert ids(status="past_due") == set()


def test_months_keep_the_day_of_the_anchor(clock: Clock) -> None:
    clock_2026 = datetime(2026, 4, 10, tzinfo=UTC)
    sim = Simulator(lambda: clock_2026)
    shop = sim.add_account(KEY)
    customer = shop.customer("a@example.com", None, datetime(2025, 12, 1, tzinfo=UTC))
    price = tea(shop)
    one = shop.get(shop.subscription(customer, price, datetime(2026, 1, 31, tzinfo=UTC), shop.card(customer)))
    starts = [
        datetime.fromtimestamp(invoice["created"], UTC).strftime("%m-%d") for invoice in shop.all("invoice")
    ]
    assert starts == ["01-31", "02-28", "03-31"]
    end = datetime.fromtimestamp(one["items"]["data"][0]["current_period_end"], UTC)
    assert end == datetime(2026, 4, 30, tzinfo=UTC)


def test_order_of_a_customer(client: stripe.StripeClient, shop: Account, clock: Clock) -> None:
    customer = anna(shop)
    card = shop.card(customer, "mastercard", "4444")
    lines = [("Pot", 1, 3000), ("Cup", 4, 500)]
    session_id = shop.order(customer, lines, clock.ago(days=3), "USD", card, tax=950, invoice=True)
    listed = client.v1.checkout.sessions.list({"customer": customer, "status": "complete"})
    session = listed.data[0]
    assert (session.id, session.amount_total, session.payment_status) == (session_id, 5950, "paid")
    rows = client.v1.checkout.sessions.line_items.list(session_id)
    assert [(one.description, one.quantity, one.amount_total) for one in rows.data] == [
        ("Pot", 1, 3570),
        ("Cup", 4, 2380),
    ]
    expanded: Any = client.v1.checkout.sessions.retrieve(session_id, {"expand": ["line_items"]})
    assert [one.id for one in expanded.line_items.data] == [one.id for one in rows.data]
    charge = client.v1.charges.retrieve(shop.charge_of(session_id))
    assert charge.payment_method_details is not None
    assert charge.payment_method_details.card is not None
    assert charge.payment_method_details.card.last4 == "4444"
    invoice = client.v1.invoices.retrieve(str(session.invoice))
    assert (invoice.total, invoice.status, invoice.parent) == (5950, "paid", None)
    by_intent = client.v1.checkout.sessions.list({"payment_intent": str(session.payment_intent)})
    assert by_intent.data[0].id == session_id


def test_order_of_a_guest(client: stripe.StripeClient, shop: Account, clock: Clock) -> None:
    session_id = shop.guest_order("guest@example.com", [("Mug", 2, 900)], clock.ago(days=1), "EUR")
    found = client.v1.checkout.sessions.list({"customer_details": {"email": "guest@example.com"}})
    assert [(one.id, one.customer, one.amount_total) for one in found.data] == [(session_id, None, 1800)]
    assert client.v1.checkout.sessions.list({"customer_details": {"email": "Guest@example.com"}}).data == []
    charge = client.v1.charges.retrieve(shop.charge_of(session_id))
    assert charge.billing_details.email == charge.receipt_email == "guest@example.com"


def test_uncaptured_order(client: stripe.StripeClient, shop: Account, clock: Clock) -> None:
    session_id = shop.order(anna(shop), [("Mug", 1, 900)], clock.ago(days=1), "EUR", captured=False)
    charge = client.v1.charges.retrieve(shop.charge_of(session_id))
    assert (charge.status, charge.captured, charge.amount_captured) == ("succeeded", False, 0)


def test_refunds_and_disputes(client: stripe.StripeClient, shop: Account, clock: Clock) -> None:
    charge = shop.charge_of(shop.order(anna(shop), [("Mug", 1, 900)], clock.ago(days=9), "EUR"))
    first = shop.refund(charge, 300, clock.ago(days=2))
    assert client.v1.charges.retrieve(charge).amount_refunded == 300
    second = shop.refund(charge, 600, clock.ago(days=1), status="pending")
    assert client.v1.charges.retrieve(charge).refunded is True
    listed = client.v1.refunds.list({"charge": charge})
    assert [(one.id, one.status) for one in listed.data] == [(second, "pending"), (first, "succeeded")]
    shop.settle_refund(second, "failed")
    assert client.v1.refunds.retrieve(second).status == "failed"
    assert client.v1.charges.retrieve(charge).amount_refunded == 300
    with pytest.raises(ValueError, match="more than what is left"):
        shop.refund(charge, 601)
    dispute = shop.dispute(charge)
    assert client.v1.charges.retrieve(charge).disputed is True
    assert client.v1.disputes.list({"charge": charge}).data[0].id == dispute


def test_credit_notes_products_prices_events_account(
    client: stripe.StripeClient, shop: Account, clock: Clock, visitor: httpx.Client
) -> None:
    _, subscription = member(shop, clock)
    invoice = str(client.v1.subscriptions.retrieve(subscription).latest_invoice)
    note = shop.credit_note(invoice, 500)
    listed = client.v1.credit_notes.list({"invoice": invoice})
    assert [(one.id, one.total) for one in listed.data] == [(note, 500)]
    assert visitor.get(listed.data[0].pdf).content.startswith(b"%PDF-")
    price = client.v1.prices.list({"active": True}).data[0]
    assert price.unit_amount == 1200
    assert client.v1.products.retrieve(str(price.product)).name == "Tea box"
    newest = client.v1.events.list({"types": ["credit_note.created"]}).data[0]
    assert newest.api_version == API_VERSION
    assert newest.data.object["id"] == note
    account: Any = client.v1.accounts.retrieve_current()
    assert (account.id, account.business_profile.name) == (shop.id, "Simulated Shop")


@pytest.mark.parametrize(
    ("currency", "minor", "text"),
    [
        ("JPY", 1200, "JPY 1,200"),
        ("KWD", 12500, "KWD 12.500"),
        ("USD", 2400, "USD 24.00"),
        ("ISK", 50000, "ISK 500.00"),
    ],
)
def test_amounts_by_stripes_rules(
    client: stripe.StripeClient,
    shop: Account,
    clock: Clock,
    visitor: httpx.Client,
    currency: str,
    minor: int,
    text: str,
) -> None:
    customer = anna(shop)
    shop.order(customer, [("Mug", 1, minor)], clock.ago(days=1), currency, invoice=True)
    invoice = client.v1.invoices.list({"customer": customer}).data[0]
    assert (invoice.total, invoice.currency) == (minor, currency.lower())
    assert text in visitor.get(str(invoice.hosted_invoice_url)).text


def test_prorations_keep_to_what_a_currency_allows(
    client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    customer = anna(shop)
    for currency, minor, step in (("JPY", 1000, 1), ("KWD", 10010, 10), ("ISK", 100100, 100)):
        one = shop.subscription(customer, tea(shop, minor, currency), clock.ago(days=7), shop.card(customer))
        item = shop.get(one)["items"]["data"][0]["id"]
        details: Any = {"items": [{"id": item, "quantity": 3}], "proration_behavior": "always_invoice"}
        found = client.v1.invoices.create_preview({"subscription": one, "subscription_details": details})
        assert 0 < found.amount_due < 2 * minor
        assert found.amount_due % step == 0


@pytest.mark.parametrize(("currency", "minor"), [("KWD", 12505), ("ISK", 550)])
def test_amounts_that_stripe_refuses_are_not_built(shop: Account, currency: str, minor: int) -> None:
    product = shop.product("Tea")
    with pytest.raises(ValueError, match="does not take"):
        shop.price(product, minor, currency)


# Changing subscriptions


def test_cancel_at_period_end_and_undo(client: stripe.StripeClient, shop: Account, clock: Clock) -> None:
    _, subscription = member(shop, clock)
    details: Any = {"comment": "moving", "feedback": "too_expensive"}
    one = client.v1.subscriptions.update(
        subscription, {"cancel_at_period_end": True, "cancellation_details": details}
    )
    end = one.to_dict()["items"]["data"][0]["current_period_end"]
    assert (one.status, one.cancel_at_period_end, one.cancel_at) == ("active", True, end)
    assert one.cancellation_details is not None
    assert one.cancellation_details.feedback == "too_expensive"
    still = client.v1.subscriptions.update(subscription, {"cancel_at": ""})
    assert still.cancel_at_period_end is True
    back = client.v1.subscriptions.update(subscription, {"cancel_at_period_end": False})
    assert (back.cancel_at_period_end, back.cancel_at, back.canceled_at) == (False, None, None)


def test_cancel_at_alone_is_only_undone_by_its_own_field(
    client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    _, subscription = member(shop, clock, flexible=True)
    one = client.v1.subscriptions.update(subscription, {"cancel_at": "min_period_end"})
    assert (one.cancel_at_period_end, one.cancel_at is None) == (False, False)
    one = client.v1.subscriptions.update(subscription, {"cancel_at_period_end": False})
    assert one.cancel_at is not None
    assert client.v1.subscriptions.update(subscription, {"cancel_at": ""}).cancel_at is None
    shop.cancel_at(subscription, clock() + timedelta(days=4))
    assert client.v1.subscriptions.retrieve(subscription).cancel_at_period_end is False


def test_both_cancel_fields_are_refused(client: stripe.StripeClient, shop: Account, clock: Clock) -> None:
    _, subscription = member(shop, clock)
    with pytest.raises(stripe.InvalidRequestError, match="Received both") as caught:
        client.v1.subscriptions.update(subscription, {"cancel_at_period_end": False, "cancel_at": ""})
    assert caught.value.http_status == 400


def test_cancel_now(client: stripe.StripeClient, shop: Account, clock: Clock) -> None:
    _, subscription = member(shop, clock)
    one = client.v1.subscriptions.cancel(subscription, {"prorate": False, "invoice_now": False})
    assert (one.status, one.ended_at is None) == ("canceled", False)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.subscriptions.cancel(subscription)
    assert (caught.value.http_status, caught.value.code) == (404, "resource_missing")
    with pytest.raises(stripe.InvalidRequestError, match="A canceled subscription can only update") as caught:
        client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True})
    assert caught.value.http_status == 400
    assert client.v1.subscriptions.update(subscription, {"metadata": {"a": "b"}}).to_dict()["metadata"] == {
        "a": "b"
    }


def test_cancel_now_with_credit(client: stripe.StripeClient, shop: Account, clock: Clock) -> None:
    customer, subscription = member(shop, clock, days=7)
    client.v1.subscriptions.cancel(subscription, {"prorate": True, "invoice_now": True})
    balance = client.v1.customers.retrieve(customer).balance
    assert balance is not None
    assert -1200 < balance < 0


def test_schedule_must_be_released_first(client: stripe.StripeClient, shop: Account, clock: Clock) -> None:
    _, subscription = member(shop, clock)
    schedule = shop.schedule(subscription)
    with pytest.raises(stripe.InvalidRequestError, match="schedule"):
        client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True})
    with pytest.raises(stripe.InvalidRequestError, match="schedule"):
        client.v1.subscriptions.pause(subscription)
    released = client.v1.subscription_schedules.release(schedule)
    assert (released.status, released.released_subscription) == ("released", subscription)
    assert client.v1.subscriptions.retrieve(subscription).schedule is None
    assert client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True}).cancel_at_period_end


def test_pause_collection_by_call(client: stripe.StripeClient, shop: Account, clock: Clock) -> None:
    _, subscription = member(shop, clock)
    until = int((clock() + timedelta(days=40)).timestamp())
    one = client.v1.subscriptions.update(
        subscription, {"pause_collection": {"behavior": "void", "resumes_at": until}}
    )
    assert one.pause_collection is not None
    assert (one.status, one.pause_collection.resumes_at) == ("active", until)
    assert client.v1.subscriptions.update(subscription, {"pause_collection": ""}).pause_collection is None


def test_pause_and_resume(client: stripe.StripeClient, shop: Account, clock: Clock) -> None:
    _, subscription = member(shop, clock)
    free: Any = {"unused_time_from": {"type": "none"}}
    paused: Any = client.v1.subscriptions.pause(subscription, {"bill_for": free})
    assert paused.status == "paused"
    assert paused.status_details.paused.subscription.type == "pause_requested"
    clock.offset += timedelta(days=3)
    resumed = client.v1.subscriptions.resume(subscription, {"billing_cycle_anchor": {"type": "unchanged"}})
    assert (resumed.status, resumed.latest_invoice) == ("active", paused.latest_invoice)
    client.v1.subscriptions.pause(subscription)
    clock.offset += timedelta(days=90)
    again: Any = client.v1.subscriptions.resume(subscription, {"expand": ["latest_invoice"]})
    assert again.status == "active"
    assert again.latest_invoice.amount_paid < 1200  # the unused time before the pause is credited
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.subscriptions.resume(subscription)


def test_resumption_waits_for_payment_where_asked(
    client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    customer = anna(shop)
    bad = shop.card(customer, declines=True)
    subscription = shop.subscription(customer, tea(shop), clock.ago(days=10), bad)
    client.v1.subscriptions.pause(subscription, {"bill_for": {"unused_time_from": {"type": "none"}}})
    clock.offset += timedelta(days=60)
    waiting = client.v1.subscriptions.resume(subscription, {"payment_behavior": "resume_on_payment_success"})
    assert waiting.status == "paused"
    clock.offset += timedelta(days=1)
    shop.simulator.tick()
    assert client.v1.invoices.retrieve(str(waiting.latest_invoice)).status == "void"
    again = client.v1.subscriptions.resume(subscription, {"payment_behavior": "resume_on_payment_success"})
    client.v1.invoices.pay(str(again.latest_invoice), {"payment_method": shop.card(customer)})
    after = client.v1.subscriptions.retrieve(subscription)
    assert after.status == "active"
    assert after.to_dict()["items"]["data"][0]["current_period_end"] > clock().timestamp()


def test_change_of_quantity_is_prorated_and_previewed(
    client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    _, subscription = member(shop, clock, days=7)
    item = shop.get(subscription)["items"]["data"][0]["id"]
    at = int(clock().timestamp())
    change: Any = {"items": [{"id": item, "quantity": 3}], "proration_date": at}
    seen = client.v1.invoices.create_preview({"subscription": subscription, "subscription_details": change})
    assert seen.id.startswith("upcoming_in")
    assert seen.lines.data[-1].amount == 3600
    client.v1.subscriptions.update(subscription, change | {"proration_behavior": "create_prorations"})
    again = client.v1.invoices.create_preview({"subscription": subscription})
    assert again.amount_due == seen.amount_due
    assert shop.get(subscription)["items"]["data"][0]["quantity"] == 3
    clock.offset += timedelta(days=31)
    shop.simulator.tick()
    newest = client.v1.invoices.list({"subscription": subscription}).data[0]
    assert newest.amount_paid == seen.amount_due


def test_change_of_plan_with_another_interval_starts_a_period(
    client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    _, subscription = member(shop, clock, days=7)
    item = shop.get(subscription)["items"]["data"][0]["id"]
    yearly = tea(shop, 10000, interval="year")
    one = client.v1.subscriptions.update(subscription, {"items": [{"id": item, "price": yearly}]})
    end = one.to_dict()["items"]["data"][0]["current_period_end"]
    assert end - clock().timestamp() > 360 * 86_400
    newest = client.v1.invoices.retrieve(str(one.latest_invoice))
    assert newest.billing_reason == "subscription_update"
    assert 10000 - 1200 < newest.amount_paid < 10000


def test_item_without_id_is_added(client: stripe.StripeClient, shop: Account, clock: Clock) -> None:
    _, subscription = member(shop, clock, days=7)
    extra = tea(shop, 300)
    client.v1.subscriptions.update(subscription, {"items": [{"price": extra}], "proration_behavior": "none"})
    assert len(shop.get(subscription)["items"]["data"]) == 2
    with pytest.raises(stripe.InvalidRequestError, match="already an item"):
        client.v1.subscriptions.update(subscription, {"items": [{"price": extra}]})
    with pytest.raises(stripe.InvalidRequestError, match="must be in eur"):
        client.v1.subscriptions.update(subscription, {"items": [{"price": tea(shop, 300, "USD")}]})


def test_unpaid_change_waits_in_pending_update(
    client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    customer = anna(shop)
    subscription = shop.subscription(
        customer, tea(shop), clock.ago(days=7), shop.card(customer, declines="insufficient_funds")
    )
    item = shop.get(subscription)["items"]["data"][0]["id"]
    change: Any = {"items": [{"id": item, "quantity": 5}], "proration_behavior": "always_invoice"}
    with pytest.raises(stripe.CardError) as caught:
        client.v1.subscriptions.update(subscription, change | {"payment_behavior": "error_if_incomplete"})
    assert caught.value.code == "card_declined"
    one = client.v1.subscriptions.update(subscription, change | {"payment_behavior": "pending_if_incomplete"})
    assert one.pending_update is not None
    assert (one.status, shop.get(subscription)["items"]["data"][0]["quantity"]) == ("active", 1)
    client.v1.invoices.pay(str(one.latest_invoice), {"payment_method": shop.card(customer)})
    after = shop.get(subscription)
    assert (after["pending_update"], after["items"]["data"][0]["quantity"]) == (None, 5)


def test_pending_update_is_dropped_in_time(client: stripe.StripeClient, shop: Account, clock: Clock) -> None:
    customer = anna(shop)
    subscription = shop.subscription(
        customer, tea(shop), clock.ago(days=7), shop.card(customer, declines=True)
    )
    item = shop.get(subscription)["items"]["data"][0]["id"]
    change: Any = {"items": [{"id": item, "quantity": 5}], "proration_behavior": "always_invoice"}
    client.v1.subscriptions.update(subscription, change | {"payment_behavior": "pending_if_incomplete"})
    invoice = shop.get(subscription)["latest_invoice"]
    clock.offset += timedelta(days=1)
    shop.simulator.tick()
    assert shop.get(subscription)["pending_update"] is None
    assert shop.get(invoice)["status"] == "void"


def test_preview_says_when_nothing_comes(client: stripe.StripeClient, shop: Account, clock: Clock) -> None:
    _, subscription = member(shop, clock, cancel_at_period_end=True)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.invoices.create_preview({"subscription": subscription})
    assert caught.value.code == "invoice_upcoming_none"
    found = client.v1.invoices.create_preview(
        {"subscription": subscription, "subscription_details": {"cancel_at_period_end": False}}
    )
    assert (found.amount_due, found.status, found.number) == (1200, "draft", None)
    recurring = client.v1.invoices.create_preview({"subscription": subscription, "preview_mode": "recurring"})
    assert recurring.total == 1200


def test_a_refused_update_leaves_nothing_behind(
    client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    _, subscription = member(shop, clock)
    before = shop.get(subscription)
    past = int(clock.ago(days=1).timestamp())
    item = before["items"]["data"][0]["id"]
    for wrong in (
        {"metadata": {"a": "b"}, "items": [{"id": item, "quantity": 2}], "cancel_at": past},
        {"items": [{"id": "si_gone", "quantity": 2}]},
        {"items": [{"id": item, "price": "price_gone"}]},
        {"pause_collection": {"behavior": "void", "resumes_at": past}, "metadata": {"a": "b"}},
    ):
        asked: Any = wrong
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.subscriptions.update(subscription, asked)
    assert shop.get(subscription) == before


def test_method_must_belong_to_the_customer(client: stripe.StripeClient, shop: Account, clock: Clock) -> None:
    customer, subscription = member(shop, clock)
    foreign = shop.card(anna(shop, "b@example.com"))
    with pytest.raises(stripe.InvalidRequestError, match="does not belong"):
        client.v1.subscriptions.update(subscription, {"default_payment_method": foreign})
    new = shop.card(customer, "mastercard", "4444")
    one = client.v1.subscriptions.update(subscription, {"default_payment_method": new})
    assert one.default_payment_method == new
    owner = client.v1.customers.update(customer, {"invoice_settings": {"default_payment_method": new}})
    assert owner.invoice_settings is not None
    assert owner.invoice_settings.default_payment_method == new
    mine = client.v1.customers.payment_methods.list(customer)
    assert new in [one.id for one in mine.data]
    client.v1.payment_methods.detach(new)
    assert client.v1.subscriptions.retrieve(subscription).default_payment_method is None


def test_managed_subscription_refuses_another_method(
    client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    customer, subscription = member(shop, clock, managed=True)
    with pytest.raises(stripe.InvalidRequestError, match="Managed Payments"):
        client.v1.subscriptions.update(subscription, {"default_payment_method": shop.card(customer)})


def test_customer_details_are_updated(client: stripe.StripeClient, shop: Account) -> None:
    customer = anna(shop)
    one = client.v1.customers.update(
        customer,
        {
            "name": "Anna B.",
            "phone": "",
            "address": {"city": "Bergen", "country": "NO"},
            "metadata": {"k": "v"},
        },
    )
    assert (one.name, one.phone, one.to_dict()["metadata"]) == ("Anna B.", None, {"k": "v"})
    assert one.address is not None
    assert one.address.city == "Bergen"
    assert client.v1.customers.update(customer, {"metadata": {"k": ""}}).to_dict()["metadata"] == {}


# Idempotency


def test_same_key_same_parameters_is_replayed(
    sim: Simulator, client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    _, subscription = member(shop, clock, days=7)
    item = shop.get(subscription)["items"]["data"][0]["id"]
    change: Any = {"items": [{"id": item, "quantity": 2}], "proration_behavior": "always_invoice"}
    first = client.v1.subscriptions.update(subscription, change, {"idempotency_key": "wish-1"})
    client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True})
    again = client.v1.subscriptions.update(subscription, change, {"idempotency_key": "wish-1"})
    assert again.to_dict() == first.to_dict()
    assert again.last_response is not None
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert len(client.v1.invoices.list({"subscription": subscription}).data) == 2


def test_same_key_other_parameters_is_refused(
    client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    _, subscription = member(shop, clock)
    options: Any = {"idempotency_key": "wish-2"}
    client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True}, options)
    with pytest.raises(stripe.IdempotencyError):
        client.v1.subscriptions.update(subscription, {"cancel_at_period_end": False}, options)
    clock.offset += timedelta(days=2)
    one = client.v1.subscriptions.update(subscription, {"cancel_at_period_end": False}, options)
    assert one.cancel_at_period_end is False


def test_what_was_refused_at_once_is_not_kept(
    client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    _, subscription = member(shop, clock)
    shop.schedule(subscription)
    options: Any = {"idempotency_key": "wish-3"}
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True}, options)
    client.v1.subscription_schedules.release(str(client.v1.subscriptions.retrieve(subscription).schedule))
    assert client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True}, options).cancel_at


def test_a_declined_card_is_kept(
    sim: Simulator, client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    _, subscription = member(shop, clock)
    invoice = shop.fail_renewal(subscription)
    options: Any = {"idempotency_key": "wish-4"}
    for _ in range(2):
        with pytest.raises(stripe.CardError) as caught:
            client.v1.invoices.pay(invoice, {}, options)
        assert caught.value.error is not None
        assert caught.value.error.decline_code == "insufficient_funds"
    assert shop.get(invoice)["attempt_count"] == 2


# Paying, pages, files


def test_failed_renewal_is_past_due_with_an_open_invoice(
    client: stripe.StripeClient, shop: Account, clock: Clock, visitor: httpx.Client
) -> None:
    _, subscription = member(shop, clock)
    invoice_id = shop.fail_renewal(subscription)
    one: Any = client.v1.subscriptions.retrieve(subscription, {"expand": ["latest_invoice"]})
    assert (one.status, one.latest_invoice.status, one.latest_invoice.attempt_count) == (
        "past_due",
        "open",
        1,
    )
    assert one.latest_invoice.next_payment_attempt > clock().timestamp()
    assert client.v1.charges.list({"limit": 1}).data[0].failure_code == "card_declined"
    url = one.latest_invoice.hosted_invoice_url
    page = visitor.get(url)
    assert "Amount due EUR 12.00" in page.text
    refused = visitor.post(url, data={"action": "save", "card": "0002"})
    assert refused.status_code == 402
    assert 'role="alert"' in refused.text
    paid = visitor.post(url, data={"action": "save", "card": "4242"})
    assert (paid.status_code, "status: paid" in paid.text) == (200, True)
    assert client.v1.subscriptions.retrieve(subscription).status == "active"
    with pytest.raises(stripe.InvalidRequestError, match="already paid"):
        client.v1.invoices.pay(invoice_id)


def test_open_invoice_is_paid_with_a_new_method(
    client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    customer, subscription = member(shop, clock)
    invoice = shop.fail_renewal(subscription)
    client.v1.subscriptions.update(subscription, {"default_payment_method": shop.card(customer)})
    paid: Any = client.v1.invoices.pay(invoice, {"expand": ["payments"]})
    assert (paid.status, paid.amount_remaining, paid.payments.data[0].status) == ("paid", 0, "paid")
    assert client.v1.subscriptions.retrieve(subscription).status == "active"


def test_invoice_file_is_a_pdf_and_its_link_expires(
    client: stripe.StripeClient, shop: Account, clock: Clock, visitor: httpx.Client
) -> None:
    _, subscription = member(shop, clock)
    invoice = client.v1.invoices.list({"subscription": subscription}).data[0]
    url = str(invoice.invoice_pdf)
    found = visitor.get(url)
    assert found.headers["content-type"] == "application/pdf"
    assert found.content.startswith(b"%PDF-1.4")
    with pikepdf.open(io.BytesIO(found.content)) as file:
        assert (len(file.pages), file.check_pdf_syntax()) == (1, [])
    assert str(invoice.number).encode() in found.content
    assert visitor.get(url.replace("/test_in", "/test_in9")).status_code == 404
    clock.offset += timedelta(days=31)
    assert visitor.get(url).status_code == 404
    fresh = client.v1.invoices.retrieve(str(invoice.id))
    assert visitor.get(str(fresh.invoice_pdf)).status_code == 200
    charge = client.v1.charges.list().data[0]
    assert "was paid by visa ending in 4242" in visitor.get(str(charge.receipt_url)).text


def setup_session(client: stripe.StripeClient, customer: str) -> Any:
    return client.v1.checkout.sessions.create(
        {
            "mode": "setup",
            "customer": customer,
            "currency": "eur",
            "success_url": "https://portal.example/back?session={CHECKOUT_SESSION_ID}",
            "cancel_url": "https://portal.example/cancelled",
            "setup_intent_data": {"metadata": {"subscription_id": "sub_1"}},
        }
    )


def test_checkout_setup_by_form(
    client: stripe.StripeClient, shop: Account, clock: Clock, visitor: httpx.Client
) -> None:
    customer, subscription = member(shop, clock)
    session = setup_session(client, customer)
    assert (session.status, session.mode) == ("open", "setup")
    page = visitor.get(session.url).text
    for part in ('lang="en"', "<title>", "<h1>", "<legend>", "<label>", "simulator", "anna@example.com"):
        assert part in page
    assert page.count("<h1") == 1
    assert "<script" not in page
    back = visitor.post(session.url, data={"action": "back"})
    assert (back.status_code, back.headers["location"]) == (303, "https://portal.example/cancelled")
    done = visitor.post(session.url, data={"action": "save", "card": "4444"})
    target = f"https://portal.example/back?session={session.id}"
    assert (done.status_code, done.headers["location"]) == (303, target)
    after: Any = client.v1.checkout.sessions.retrieve(session.id, {"expand": ["setup_intent"]})
    assert (after.status, after.url, after.setup_intent.status) == ("complete", None, "succeeded")
    assert after.setup_intent.metadata.to_dict() == {"subscription_id": "sub_1"}
    method = client.v1.payment_methods.retrieve(after.setup_intent.payment_method)
    assert method.card is not None
    assert (method.card.last4, method.customer) == ("4444", customer)
    assert client.v1.subscriptions.retrieve(subscription).default_payment_method != method.id
    assert visitor.get(session.url).status_code == 410


def test_checkout_refuses_a_declining_card(
    sim: Simulator, client: stripe.StripeClient, shop: Account, visitor: httpx.Client
) -> None:
    session = setup_session(client, anna(shop))
    refused = visitor.post(session.url, data={"action": "save", "card": "0002"})
    assert refused.status_code == 402
    assert "Your card was declined." in refused.text
    sim.switch("decline")
    assert visitor.post(session.url, data={"action": "save", "card": "4242"}).status_code == 402
    sim.switch("ok")
    assert client.v1.checkout.sessions.retrieve(session.id).status == "open"
    assert visitor.post(session.url, data={"action": "save", "card": "4242"}).status_code == 303


def test_checkout_needs_its_parameters(client: stripe.StripeClient, shop: Account) -> None:
    customer = anna(shop)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.checkout.sessions.create(
            {"mode": "setup", "customer": customer, "success_url": "https://portal.example"}
        )
    assert (caught.value.code, caught.value.param) == ("parameter_missing", "currency")
    with pytest.raises(stripe.InvalidRequestError) as caught:
        setup_session(client, "cus_gone")
    assert (caught.value.http_status, caught.value.code) == (400, "resource_missing")


def test_checkout_expires(
    sim: Simulator, client: stripe.StripeClient, shop: Account, clock: Clock, visitor: httpx.Client
) -> None:
    session = setup_session(client, anna(shop))
    clock.offset += timedelta(hours=25)
    assert visitor.get(session.url).status_code == 410
    assert client.v1.checkout.sessions.retrieve(session.id).status == "expired"
    other = setup_session(client, anna(shop))
    assert client.v1.checkout.sessions.expire(other.id).status == "expired"


def portal_session(client: stripe.StripeClient, customer: str) -> Any:
    redirect = {"type": "redirect", "redirect": {"return_url": "https://portal.example/done"}}
    flow: Any = {"type": "payment_method_update", "after_completion": redirect}
    return client.v1.billing_portal.sessions.create(
        {"customer": customer, "return_url": "https://portal.example/left", "flow_data": flow}
    )


def test_portal_needs_a_configuration(client: stripe.StripeClient, shop: Account) -> None:
    customer = anna(shop)
    with pytest.raises(stripe.InvalidRequestError, match="No configuration provided") as caught:
        portal_session(client, customer)
    assert caught.value.http_status == 400
    features: Any = {"payment_method_update": {"enabled": True}}
    made = client.v1.billing_portal.configurations.create({"features": features})
    assert [one.id for one in client.v1.billing_portal.configurations.list({"active": True}).data] == [
        made.id
    ]
    assert portal_session(client, customer).configuration == made.id


def test_portal_moves_the_customer_and_managed_subscriptions(
    client: stripe.StripeClient, shop: Account, clock: Clock, visitor: httpx.Client
) -> None:
    customer, managed = member(shop, clock, managed=True)
    own = shop.subscription(customer, tea(shop), clock.ago(days=3), shop.card(customer))
    shop.portal_configuration()
    session = portal_session(client, customer)
    assert visitor.get(session.url).status_code == 200
    assert visitor.get(session.url).status_code == 410  # a link opens once
    done = visitor.post(session.url, data={"action": "save", "card": "4444"})
    assert (done.status_code, done.headers["location"]) == (303, "https://portal.example/done")
    settings = shop.get(customer)["invoice_settings"]
    assert shop.get(settings["default_payment_method"])["card"]["last4"] == "4444"
    assert shop.get(managed)["default_payment_method"] == settings["default_payment_method"]
    assert shop.get(own)["default_payment_method"] != settings["default_payment_method"]
    again = portal_session(client, customer)
    left = visitor.post(again.url, data={"action": "back"})
    assert left.headers["location"] == "https://portal.example/left"
    clock.offset += timedelta(minutes=6)
    assert visitor.get(again.url).status_code == 410


def test_strange_pages_are_not_found(sim: Simulator, shop: Account, visitor: httpx.Client) -> None:
    for path in ("/c/pay/cs_test_x", "/p/session/test_x", f"/i/{shop.id}/test_x", "/receipts/acct_x/y"):
        assert visitor.get(f"{sim.address}{path}").status_code == 404


def test_text_of_strangers_is_escaped(
    client: stripe.StripeClient, shop: Account, visitor: httpx.Client
) -> None:
    customer = anna(shop, "<b>@example.com")
    assert "&lt;b&gt;@example.com" in visitor.get(setup_session(client, customer).url).text


# Webhooks


def test_changes_are_told_by_signed_webhooks(
    sim: Simulator,
    client: stripe.StripeClient,
    shop: Account,
    clock: Clock,
    receiver: Receiver,
    visitor: httpx.Client,
) -> None:
    customer, subscription = member(shop, clock)
    sim.add_endpoint(shop, receiver.url, SECRET)
    client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True}, {"idempotency_key": "k1"})
    told = receiver.events(1)[0]
    assert (told.type, told.api_version) == ("customer.subscription.updated", API_VERSION)
    assert told.data.object["cancel_at_period_end"] is True
    assert told.data.previous_attributes["cancel_at_period_end"] is False
    assert told.request.idempotency_key == "k1"
    session = setup_session(client, customer)
    visitor.post(session.url, data={"action": "save", "card": "4242"})
    kinds = [one.type for one in receiver.events(4)]
    assert kinds == [
        "setup_intent.created",
        "payment_method.attached",
        "setup_intent.succeeded",
        "checkout.session.completed",
    ]
    shop.refund(shop.charge_of(subscription), 100)
    assert [one.type for one in receiver.events(2)] == ["refund.created", "charge.refunded"]
    client.v1.subscriptions.cancel(subscription)
    assert receiver.events(1)[0].type == "customer.subscription.deleted"
    assert receiver.arrived.empty()


def test_history_is_not_sent(sim: Simulator, shop: Account, clock: Clock, receiver: Receiver) -> None:
    sim.add_endpoint(shop, receiver.url, SECRET)
    _, subscription = member(shop, clock)
    shop.fail_renewal(subscription)
    first = receiver.events(1)[0]
    assert first.created >= int(clock.ago(minutes=1).timestamp())
    assert receiver.until("invoice.payment_failed").data.object["status"] == "open"
    assert receiver.until("customer.subscription.updated").data.object["status"] == "past_due"


def test_wrong_secret_and_changed_body_do_not_verify() -> None:
    body = event("invoice.paid", {"id": "in_1", "object": "invoice"})
    now = datetime.now(UTC)
    good = sign(SECRET, body, now)
    assert stripe.Webhook.construct_event(body, good, SECRET).type == "invoice.paid"
    for altered, header, secret in (
        (body, good, "whsec_other"),
        (body + b" ", good, SECRET),
        (body, sign(SECRET, body, now - timedelta(minutes=6)), SECRET),
    ):
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.Webhook.construct_event(altered, header, secret)


def test_endpoint_made_by_call_gets_what_it_wants(
    client: stripe.StripeClient, shop: Account, clock: Clock, receiver: Receiver
) -> None:
    _, subscription = member(shop, clock)
    made = client.v1.webhook_endpoints.create(
        {"url": receiver.url, "enabled_events": ["customer.subscription.deleted"], "api_version": API_VERSION}  # type: ignore[typeddict-item]
    )
    assert made.secret is not None
    assert "secret" not in client.v1.webhook_endpoints.list().data[0].to_dict()
    client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True})
    client.v1.subscriptions.cancel(subscription)
    body, header = receiver.arrived.get(timeout=10)
    told = stripe.Webhook.construct_event(body, header, made.secret)
    assert told.type == "customer.subscription.deleted"
    assert client.v1.webhook_endpoints.delete(made.id).deleted is True
    for _ in range(16):
        client.v1.webhook_endpoints.create({"url": receiver.url, "enabled_events": ["*"]})
    with pytest.raises(stripe.InvalidRequestError, match="maximum"):
        client.v1.webhook_endpoints.create({"url": receiver.url, "enabled_events": ["*"]})


def test_lost_webhooks_are_found_among_the_events(
    sim: Simulator, client: stripe.StripeClient, shop: Account, clock: Clock, receiver: Receiver
) -> None:
    _, subscription = member(shop, clock)
    sim.add_endpoint(shop, receiver.url, SECRET)
    sim.switch("lose_webhooks")
    client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True})
    sim.switch("duplicate")
    client.v1.subscriptions.update(subscription, {"cancel_at_period_end": False})
    twice = receiver.events(2)
    assert twice[0].id == twice[1].id
    lost = client.v1.events.list({"delivery_success": False, "types": ["customer.subscription.updated"]})
    assert [one.data.object["cancel_at_period_end"] for one in lost.data] == [True]


# Time


def test_renewals_fall_due(
    sim: Simulator, client: stripe.StripeClient, shop: Account, clock: Clock, receiver: Receiver
) -> None:
    _, subscription = member(shop, clock, days=10)
    sim.add_endpoint(shop, receiver.url, SECRET)
    clock.offset += timedelta(days=62)
    sim.tick()
    invoices = client.v1.invoices.list({"subscription": subscription})
    assert [one.status for one in invoices.data] == ["paid"] * 3
    kinds = [one.type for one in receiver.events(8)]
    assert kinds == [
        "invoice.created",
        "customer.subscription.updated",
        "invoice.finalized",
        "charge.succeeded",
        "payment_intent.succeeded",
        "invoice_payment.paid",
        "invoice.paid",
        "invoice.payment_succeeded",
    ]
    sim.tick()
    assert len(client.v1.invoices.list({"subscription": subscription}).data) == 3


def test_declining_card_is_tried_again_and_then_given_up(
    sim: Simulator, client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    customer = anna(shop)
    bad = shop.card(customer, "visa", "0341", declines=True)
    subscription = shop.subscription(customer, tea(shop), clock.ago(days=28), bad)
    clock.offset += timedelta(days=4)
    sim.tick()
    one: Any = client.v1.subscriptions.retrieve(subscription, {"expand": ["latest_invoice"]})
    assert (one.status, one.latest_invoice.attempt_count) == ("past_due", 1)
    clock.offset += timedelta(days=20)
    sim.tick()
    one = client.v1.subscriptions.retrieve(subscription, {"expand": ["latest_invoice"]})
    assert (one.status, one.latest_invoice.attempt_count) == ("unpaid", 4)
    assert one.latest_invoice.next_payment_attempt is None
    client.v1.invoices.pay(one.latest_invoice.id, {"payment_method": shop.card(customer)})
    assert client.v1.subscriptions.retrieve(subscription).status == "active"


def test_retry_succeeds_with_a_new_card(
    sim: Simulator, client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    customer, subscription = member(shop, clock)
    shop.fail_renewal(subscription)
    client.v1.subscriptions.update(subscription, {"default_payment_method": shop.card(customer)})
    assert client.v1.subscriptions.retrieve(subscription).status == "past_due"
    clock.offset += timedelta(days=3, minutes=1)
    sim.tick()
    assert client.v1.subscriptions.retrieve(subscription).status == "active"


def test_cancelled_subscription_ends_at_the_period_end(
    sim: Simulator, client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    _, subscription = member(shop, clock, cancel_at_period_end=True)
    end = shop.get(subscription)["cancel_at"]
    clock.offset += timedelta(days=32)
    sim.tick()
    one = client.v1.subscriptions.retrieve(subscription)
    assert (one.status, one.ended_at) == ("canceled", end)
    assert len(client.v1.invoices.list({"subscription": subscription}).data) == 3


def test_pending_prorations_are_billed_at_the_end(
    sim: Simulator, client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    _, subscription = member(shop, clock, days=7)
    item = shop.get(subscription)["items"]["data"][0]["id"]
    client.v1.subscriptions.update(subscription, {"items": [{"id": item, "quantity": 2}]})
    client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True})
    expected = client.v1.invoices.create_preview({"subscription": subscription}).amount_due
    assert 0 < expected < 1200
    clock.offset += timedelta(days=32)
    sim.tick()
    last = client.v1.invoices.list({"subscription": subscription}).data[0]
    assert (last.amount_paid, shop.get(subscription)["status"]) == (expected, "canceled")


def test_trial_ends_in_a_first_charge(
    sim: Simulator, client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    _, subscription = member(shop, clock, days=2, trial_days=14)
    one = client.v1.subscriptions.retrieve(subscription)
    assert (one.status, one.to_dict()["items"]["data"][0]["current_period_end"]) == (
        "trialing",
        one.trial_end,
    )
    assert client.v1.charges.list().data == []
    clock.offset += timedelta(days=13)
    sim.tick()
    assert client.v1.subscriptions.retrieve(subscription).status == "active"
    assert [charge.amount for charge in client.v1.charges.list().data] == [1200]
    assert "customer.subscription.trial_will_end" in {one["type"] for one in shop.all("event")}


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [("void", "void"), ("keep_as_draft", "draft"), ("mark_uncollectible", "uncollectible")],
)
def test_paused_collection_takes_nothing_until_it_resumes(
    sim: Simulator, client: stripe.StripeClient, shop: Account, clock: Clock, behaviour: Any, status: str
) -> None:
    _, subscription = member(shop, clock, days=10)
    shop.pause_collection(subscription, behaviour, clock() + timedelta(days=30))
    clock.offset += timedelta(days=25)
    sim.tick()
    invoice = client.v1.invoices.list({"subscription": subscription}).data[0]
    assert (invoice.status, invoice.amount_paid) == (status, 0)
    assert (invoice.number is None) == (status == "draft")
    clock.offset += timedelta(days=30)
    sim.tick()
    one: Any = client.v1.subscriptions.retrieve(subscription, {"expand": ["latest_invoice"]})
    assert (one.pause_collection, one.status, one.latest_invoice.status) == (None, "active", "paid")


def test_first_payment_that_never_comes_expires(
    sim: Simulator, client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    subscription = shop.subscription(anna(shop), tea(shop), clock.ago(hours=2))
    assert client.v1.subscriptions.retrieve(subscription).status == "incomplete"
    clock.offset += timedelta(days=1)
    sim.tick()
    assert client.v1.subscriptions.retrieve(subscription).status == "incomplete_expired"


# Switches


def test_declining_answers_402_and_changes_nothing(
    sim: Simulator, client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    customer, subscription = member(shop, clock)
    invoice = shop.fail_renewal(subscription)
    before = shop.get(subscription)
    sim.switch("decline")
    for call in (
        lambda: client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True}),
        lambda: client.v1.subscriptions.cancel(subscription),
        lambda: client.v1.customers.update(customer, {"name": "B"}),
        lambda: client.v1.invoices.pay(invoice),
    ):
        with pytest.raises(stripe.CardError) as caught:
            call()
        assert (caught.value.http_status, caught.value.code) == (402, "card_declined")
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.subscriptions.update("sub_gone", {"cancel_at_period_end": True})
    assert shop.get(subscription) == before
    assert client.v1.subscriptions.retrieve(subscription).status == "past_due"


def test_lost_answer_is_found_again_by_its_key(
    sim: Simulator, client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    _, subscription = member(shop, clock)
    impatient = stripe.StripeClient(
        KEY,
        base_addresses={"api": sim.address},
        http_client=stripe.RequestsClient(timeout=0.5),
        max_network_retries=0,
    )
    sim.fail_next.append("timeout_after")
    options: Any = {"idempotency_key": "wish-5"}
    with pytest.raises(stripe.APIConnectionError):
        impatient.v1.subscriptions.update(subscription, {"cancel_at_period_end": True}, options)
    assert shop.get(subscription)["cancel_at_period_end"] is True
    again = client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True}, options)
    assert again.cancel_at_period_end is True
    assert again.last_response is not None
    assert again.last_response.headers["Idempotent-Replayed"] == "true"


def test_save_and_reset(clock: Clock) -> None:
    sim = Simulator(clock)
    shop = sim.add_account(KEY)
    _, subscription = member(shop, clock)
    invoice = shop.get(subscription)["latest_invoice"]
    sim.save()
    shop.cancel(subscription)
    shop.refund(shop.charge_of(invoice), 1200)
    sim.limit(3)
    sim.switch("down")
    sim.reset()
    assert (shop.get(subscription)["status"], sim.mode, sim.state["limited"]) == ("active", "ok", 0)
    assert shop.get(shop.charge_of(invoice))["amount_refunded"] == 0
    assert shop.all("refund") == []
    clock.offset += timedelta(days=32)
    sim.tick()
    assert len(shop.all("invoice")) == 4


def test_worlds_are_the_same_every_time() -> None:
    def world() -> str:
        moment = datetime(2026, 11, 1, tzinfo=UTC)
        sim = Simulator(lambda: moment)
        shop = sim.add_account(KEY)
        customer = shop.customer("a@example.com", "A", moment - timedelta(days=90))
        shop.subscription(customer, tea(shop), moment - timedelta(days=80), shop.card(customer))
        shop.guest_order("g@example.com", [("Mug", 1, 900)], moment - timedelta(days=2), "JPY")
        return json.dumps(sim.state, sort_keys=True)

    assert world() == world()


def test_years_of_history_are_built_fast(clock: Clock) -> None:
    sim = Simulator(clock)
    shop = sim.add_account(KEY)
    price = tea(shop)
    began = time.perf_counter()
    for number in range(60):
        customer = shop.customer(f"{number}@example.com", None, clock.ago(days=800))
        shop.subscription(customer, price, clock.ago(days=730), shop.card(customer))
    assert len(shop.all("invoice")) >= 60 * 24
    assert time.perf_counter() - began < 10


# The contract


@pytest.fixture
def checked(sim: Simulator, shop: Account) -> Simulator:
    if sim.validator is None:
        pytest.skip("the field contract of Stripe's API is not here")
    return sim


def test_contract_finds_a_wrong_field(
    checked: Simulator, client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    _, subscription = member(shop, clock)
    one = shop.books.objects[subscription]
    one |= {"current_period_end": 1, "cancel_at_period_end": "no"}
    del one["start_date"]
    client.v1.subscriptions.retrieve(subscription)
    where = f"GET /v1/subscriptions/{subscription} subscription"
    assert checked.problems == [
        f"{where}.cancel_at_period_end: 'no' is not of type boolean",
        f"{where}: has no field current_period_end",
        f"{where}: lacks the field start_date",
    ]
    checked.problems.clear()


def test_contract_finds_wrong_parameters(
    checked: Simulator, client: stripe.StripeClient, shop: Account, clock: Clock
) -> None:
    _, subscription = member(shop, clock)
    for path, params in (
        (f"/v1/subscriptions/{subscription}", {"cancel_at_the_end": "true"}),
        (f"/v1/subscriptions/{subscription}", {"cancel_at_period_end": "yes"}),
        ("/v1/billing_portal/sessions", {"customer": "cus_1", "flow_data": {"return_url": "x"}}),
    ):
        with pytest.raises(stripe.InvalidRequestError):
            client.raw_request("post", path, **params)
    assert checked.problems == [
        f"POST /v1/subscriptions/{subscription}: has no parameter cancel_at_the_end",
        f"POST /v1/subscriptions/{subscription} cancel_at_period_end: 'yes' is not of type boolean",
        "POST /v1/billing_portal/sessions flow_data: has no parameter return_url",
        "POST /v1/billing_portal/sessions flow_data: lacks the parameter type",
    ]
    checked.problems.clear()


def test_events_fit_the_contract(checked: Simulator, shop: Account, clock: Clock) -> None:
    customer, subscription = member(shop, clock, days=10)
    order = shop.order(customer, [("Mug", 2, 900)], clock.ago(days=1), "EUR", invoice=True)
    refund = shop.refund(shop.charge_of(order), 100, status="pending")
    shop.settle_refund(refund, "succeeded")
    shop.dispute(shop.charge_of(subscription))
    shop.schedule(subscription)
    shop.fail_renewal(subscription)
    shop.cancel(subscription)
    told = shop.all("event")
    assert len({one["type"] for one in told}) > 15
    assert checked.validator is not None
    assert [each for one in told for each in checked.validator.answer("event", one)] == []
