"""A second opinion on Stripe's gateway: localstripe, somebody else's stand-in, in a process of its own.

It speaks the shapes of 2017 (plans, the period on the subscription, the charge on the invoice), so it also shows that
old accounts are read. It ignores idempotency keys and knows neither prices, Checkout, portal, paused collection nor
`invoice_payments`. It is licensed under the GPL, so it is installed here alone and never imported.
"""

import asyncio
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import httpx2 as httpx
import pytest

from portal import clock
from portal.gateways import gateway
from portal.gateways.base import (
    Declined,
    Event,
    Gateway,
    Gone,
    Interval,
    Leave,
    Ref,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
)
from portal.money import Money

PLACE = Path(__file__).parents[3] / ".venv-localstripe"
PACKAGES = ["localstripe==1.15.10", "python-dateutil<5"]
KEY, SECRET = "sk_test_LocalStripe01", "whsec_LocalStripe01"
HEADERS = {"Authorization": f"Bearer {KEY}"}
T_ = TypeVar("T_")
_exercised: set[str] = set()


@pytest.fixture(scope="module")
def program() -> Path:
    """localstripe in an environment of its own; made once and kept."""
    found = PLACE / "bin" / "localstripe"
    if not found.exists():
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        if uv is None:
            pytest.skip("uv is not here to install localstripe")
        making = [
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(PLACE)],
            [uv, "pip", "install", "--quiet", "--python", str(PLACE / "bin" / "python"), *PACKAGES],
        ]
        for command in making:
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            except subprocess.TimeoutExpired:
                pytest.skip("localstripe could not be installed in time")
            if done.returncode:
                pytest.skip(f"localstripe could not be installed: {done.stderr.strip()[-300:]}")
    return found


@pytest.fixture(scope="module")
def address(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = _free_port()
    log = tmp_path_factory.mktemp("localstripe") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(program), "--from-scratch", "--port", str(port)], stdout=output, stderr=output
        )
    here = f"http://127.0.0.1:{port}"
    try:
        for _ in range(150):
            if process.poll() is not None:
                pytest.skip(f"localstripe does not start: {log.read_text()[-300:]}")
            try:
                httpx.get(f"{here}/v1/customers", headers=HEADERS)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        else:
            pytest.skip("localstripe did not start in time")
        yield here
    finally:
        process.terminate()
        process.wait(10)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Shop:
    """What a merchant's own server does there, and our gateway beside it."""

    def __init__(self, address: str) -> None:
        self.address = address

    def make(self, path: str, **fields: Any) -> dict[str, Any]:
        answer = httpx.post(f"{self.address}{path}", headers=HEADERS, data=fields)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json() if answer.content else {}
        return found

    def look(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.address}{path}", headers=HEADERS).json()
        return found

    def customer(self, email: str = "ana@example.com", number: str = "4242424242424242") -> str:
        customer = self.make("/v1/customers", email=email, name="Ana Lima")["id"]
        card = {"type": "card", "card[number]": number, "card[exp_month]": "9"}
        card |= {"card[exp_year]": "2030", "card[cvc]": "123"}
        method = self.make("/v1/payment_methods", **card)["id"]
        self.make(f"/v1/payment_methods/{method}/attach", customer=customer)
        default = {"invoice_settings[default_payment_method]": method}
        self.make(f"/v1/customers/{customer}", **default)
        return str(customer)

    def plan(self, name: str = "Coffee box", amount: int = 2400) -> str:
        product = self.make("/v1/products", name=name, type="service")["id"]
        fields = {"product": product, "amount": str(amount), "currency": "usd", "interval": "month"}
        return str(self.make("/v1/plans", **fields)["id"])

    def subscription(self, customer: str | None = None, **fields: str) -> Ref:
        items = {"items[0][plan]": self.plan(), "items[0][quantity]": "2"}
        made = self.make("/v1/subscriptions", customer=customer or self.customer(), **items, **fields)
        return Ref("subscription", made["id"])

    def invoice(self, ref: Ref) -> dict[str, Any]:
        """The one invoice of a subscription."""
        customer = self.look(f"/v1/subscriptions/{ref.id}")["customer"]
        rows = self.look(f"/v1/invoices?customer={customer}")["data"]
        (found,) = [row for row in rows if row["subscription"] == ref.id]  # the old place of the subscription
        return dict(found)

    def run(self, call: str, what: Callable[[Gateway], Coroutine[Any, Any, T_]]) -> T_:
        async def main() -> T_:
            credentials = {"secret_key": KEY, "webhook_secret": SECRET}
            stripe = gateway("stripe", credentials, simulator=self.address)
            try:
                return await what(stripe)
            finally:
                await stripe.aclose()

        found = asyncio.run(main())
        _exercised.add(call)
        return found

    def fetch(self, ref: Ref) -> Snapshot:
        return self.run(f"fetch {ref.kind}", lambda stripe: stripe.fetch(ref))


@pytest.fixture
def shop(address: str) -> Shop:
    return Shop(address)


def one_of(snapshot: Snapshot | Leave, ref: Ref) -> SubscriptionRecord:
    assert isinstance(snapshot, Snapshot)
    record = snapshot.subscription(ref.id)
    assert record is not None
    return record


def test_a_subscription_with_a_plan_is_read(shop: Shop) -> None:
    ref = shop.subscription()
    snapshot = shop.fetch(ref)
    record = one_of(snapshot, ref)
    theirs = shop.look(f"/v1/subscriptions/{ref.id}")
    assert "current_period_end" not in theirs["items"]["data"][0], "the old place of the period"
    assert record.current_period_end
    assert record.current_period_end.timestamp() == theirs["current_period_end"]
    assert (record.status, record.title, record.amount, record.quantity, record.interval) == (
        "active",
        "Coffee box",
        Money(4800, "USD"),
        2,
        Interval("month"),
    )
    assert record.method
    assert (record.method.brand, record.method.last4, record.method.expires) == ("Visa", "4242", "2030-09")
    assert [one.email for one in snapshot.customers] == ["ana@example.com"]
    assert record.next_payment is None, "its preview wants the customer named too and refuses ours"


def test_a_trial_is_read(shop: Shop) -> None:
    ref = shop.subscription(trial_period_days="14")
    record = one_of(shop.fetch(ref), ref)
    assert record.amount == Money(4800, "USD")
    assert record.raw_status in ("trialing", "incomplete")


def test_a_customer_comes_with_subscriptions(shop: Shop) -> None:
    customer = shop.customer()
    first, second = shop.subscription(customer), shop.subscription(customer)
    snapshot = shop.fetch(Ref("customer", customer))
    assert {one.remote_id for one in snapshot.subscriptions} == {first.id, second.id}
    assert [(one.name, one.deleted) for one in snapshot.customers] == [("Ana Lima", False)]


def test_a_deleted_customer_is_gone_or_deleted(shop: Shop) -> None:
    customer = shop.make("/v1/customers", email="cy@example.com")["id"]
    httpx.delete(f"{shop.address}/v1/customers/{customer}", headers=HEADERS)
    try:
        (record,) = shop.fetch(Ref("customer", customer)).customers
    except Gone:
        _exercised.add("fetch customer")
    else:
        assert record.deleted


def test_an_old_invoice_brings_its_charge_and_subscription(shop: Shop) -> None:
    ref = shop.subscription()
    snapshot = shop.fetch(Ref("invoice", shop.invoice(ref)["id"]))
    (invoice,) = snapshot.invoices
    assert (invoice.status, invoice.amount, invoice.subscription) == ("paid", Money(4800, "USD"), ref.id)
    (payment,) = snapshot.payments
    assert (payment.status, payment.amount, payment.subscription) == ("paid", Money(4800, "USD"), ref.id)
    assert invoice.payment == payment.remote_id
    assert one_of(snapshot, ref).status == "active"


def test_a_payment_with_its_refunds(shop: Shop) -> None:
    customer = shop.customer()
    method = shop.look(f"/v1/customers/{customer}")["invoice_settings"]["default_payment_method"]
    fields = {"amount": "1500", "currency": "usd", "customer": customer, "payment_method": method}
    intent = shop.make("/v1/payment_intents", confirm="true", **fields)
    charge = intent["charges"]["data"][0]["id"]
    ref = Ref("payment", charge)
    (payment,) = shop.fetch(ref).payments
    assert (payment.status, payment.amount, payment.customer) == ("paid", Money(1500, "USD"), customer)
    refund = shop.make("/v1/refunds", charge=charge, amount="600")["id"]
    snapshot = shop.fetch(ref)
    assert [one.status for one in snapshot.payments] == ["partially_refunded"]
    assert [(one.remote_id, one.status, one.amount) for one in snapshot.refunds] == [
        (refund, "sent", Money(600, "USD"))
    ]
    shop.make("/v1/refunds", charge=charge, amount="900")
    assert [one.status for one in shop.fetch(Ref("refund", refund)).payments] == ["refunded"]


def test_cancel_at_period_end_and_undo(shop: Shop) -> None:
    ref = shop.subscription()
    record = one_of(shop.run("cancel_at_period_end", lambda s: s.cancel_at_period_end(ref, "k1")), ref)
    assert (record.status, record.cancels_at) == ("cancels_at_period_end", record.current_period_end)
    assert shop.look(f"/v1/subscriptions/{ref.id}")["cancel_at_period_end"] is True
    record = one_of(shop.run("undo_cancel", lambda s: s.undo_cancel(ref, "k2")), ref)
    assert record.status == "active"


def test_cancel_now(shop: Shop) -> None:
    ref = shop.subscription()
    for key in ("k1", "k2"):
        record = one_of(shop.run("cancel_now", lambda s, key=key: s.cancel_now(ref, key)), ref)  # type: ignore[misc]
        assert record.status == "cancelled"
    assert record.ended_at


def test_another_quantity(shop: Shop) -> None:
    ref = shop.subscription()
    item = shop.look(f"/v1/subscriptions/{ref.id}")["items"]["data"][0]
    shop.make(f"/v1/subscriptions/{ref.id}", **{"items[0][id]": item["id"], "items[0][quantity]": "3"})
    record = one_of(shop.fetch(ref), ref)
    assert (record.quantity, record.amount) == (3, Money(7200, "USD"))


def test_a_card_that_is_declined_leaves_an_open_invoice(shop: Shop) -> None:
    ref = shop.subscription(shop.customer(number="4000000000000341"))
    record = one_of(shop.fetch(ref), ref)
    assert (record.status, record.due) == ("incomplete", Money(4800, "USD"))
    (payment,) = shop.fetch(Ref("invoice", shop.invoice(ref)["id"])).payments
    assert payment.status == "failed"
    assert payment.failure


def test_what_it_does_not_know_is_refused_in_our_words(shop: Shop) -> None:
    ref = shop.subscription()

    def tried(what: Callable[[Gateway], Coroutine[Any, Any, Any]]) -> None:
        shop.run("refusals", what)

    with pytest.raises(Gone):
        tried(lambda stripe: stripe.fetch(Ref("subscription", "sub_nobody")))
    with pytest.raises((Declined, Unavailable)):
        tried(lambda stripe: stripe.pause(ref, "k"))
    with pytest.raises((Gone, Declined, Unavailable)):
        tried(lambda stripe: stripe.start_method_update(ref, "https://acme.example/r", "k"))
    assert one_of(shop.fetch(ref), ref).status == "active"


def test_customers_are_listed(shop: Shop) -> None:
    ref = shop.subscription()

    async def customers(stripe: Gateway) -> set[str]:
        found = set()
        async for page in stripe.backfill(json.dumps({"step": "customer", "after": None})):
            found |= {one.remote_id for one in page.snapshot.customers}
        return found

    customer = shop.look(f"/v1/subscriptions/{ref.id}")["customer"]
    assert customer in shop.run("backfill customers", customers)


class Receiver:
    """A webhook address that keeps what arrives."""

    def __init__(self) -> None:
        self.arrived: queue.Queue[tuple[list[tuple[str, str]], bytes]] = queue.Queue()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.arrived.put((list(self.headers.items()), body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()


def test_a_signed_webhook_is_believed_and_leads_to_the_subscription(shop: Shop) -> None:
    receiver = Receiver()
    try:
        shop.make("/_config/webhooks/ours", url=receiver.url, secret=SECRET)
        ref = shop.subscription()
        told: list[Event] = []
        for _ in range(200):  # those of earlier tests may still be on their way
            headers, body = receiver.arrived.get(timeout=10)

            async def proved(
                stripe: Gateway, headers: list[tuple[str, str]] = headers, body: bytes = body
            ) -> list[Event]:
                return stripe.verify(headers, body, clock.now())

            told += shop.run("verify", proved)
            if told[-1].type == "customer.subscription.created" and told[-1].subject == ref:
                break
    finally:
        receiver.close()
    created = told[-1]
    assert (created.type, created.subject) == ("customer.subscription.created", ref)
    snapshot = shop.run("refetch", lambda stripe: stripe.refetch(created))
    assert snapshot
    assert one_of(snapshot, ref).status == "active"


def test_which_calls_were_exercised() -> None:
    """The list of what this second opinion covers; it runs last and shrinks for nobody."""
    if not _exercised:
        pytest.skip("localstripe was not here")
    print("exercised against localstripe:", ", ".join(sorted(_exercised)))
    assert _exercised >= {
        "backfill customers",
        "cancel_at_period_end",
        "cancel_now",
        "fetch customer",
        "fetch invoice",
        "fetch payment",
        "fetch refund",
        "fetch subscription",
        "refetch",
        "undo_cancel",
        "verify",
    }
