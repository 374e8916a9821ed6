"""The portal's own events: told once, signed as Standard Webhooks has it, delivered until they are taken, and never to
an address inside our own network."""

import asyncio
import base64
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from sqlmodel import col
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from portal import actions, clock, guard, models, outgoing, reach, requests, shapes, sync, upkeep, work
from portal.db import Database
from portal.gateways.base import Declined, PaymentRecord, Snapshot, Unavailable
from portal.ids import id_text
from portal.settings import Settings
from portal.vault import Vault, VaultError, new_key
from tests.unit.builders import (
    MASTER_KEY,
    make_account,
    make_customer,
    make_payment,
    make_portal,
    make_subscription,
)
from tests.unit.test_actions import FakeGateway, Scene, gateway, scene

__all__ = ["gateway", "scene"]
SETTINGS = Settings(master_keys=SecretStr(MASTER_KEY), scheme="http", outgoing_private=True)
VAULT = Vault(MASTER_KEY)


@dataclass
class Receiver:
    """A merchant's server: keeps what comes, and answers as it is told."""

    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[Response] = field(default_factory=list)
    usual: int = 204
    slow: float = 0.0
    port: int = 0
    scheme: str = "http"
    came: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hooks?shop=1"

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        body = await request.body()
        self.got.append((dict(request.headers), body))
        self.came.set()
        if self.slow:
            await asyncio.sleep(self.slow)
        answer = self.answers.pop(0) if self.answers else Response(status_code=self.usual)
        await answer(scope, receive, send)


@contextlib.contextmanager
def serving(receiver: Receiver, **options: Any) -> Iterator[Receiver]:
    config = uvicorn.Config(
        receiver.app,
        "127.0.0.1",
        0,
        log_level="critical",
        lifespan="off",
        interface="asgi3",
        timeout_graceful_shutdown=0,
        **options,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < until
        time.sleep(0.01)
    receiver.port = server.servers[0].sockets[0].getsockname()[1]
    yield receiver
    server.should_exit = server.force_exit = True
    thread.join(10)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with serving(Receiver()) as found:
        yield found


@dataclass
class Shop:
    database: Database
    portal: models.Portal
    ana: models.Customer

    def endpoint(self, url: str, *events: str) -> tuple[models.Endpoint, str]:
        return self.database.write_now(
            outgoing.add_endpoint, VAULT, self.portal.id, url, events, True, clock.now()
        )

    def tell(self, kind: str = "customer.signed_in") -> int:
        about = shapes.About(customer=shapes.customer(self.ana))
        return self.database.write_now(outgoing.emit, self.portal.id, kind, about, clock.now(), self.ana.id)

    def rows(self, model: Any) -> list[Any]:
        return self.database.read_now(lambda db: list(db.execute(select(model).order_by(model.id)).scalars()))

    def jobs(self, kind: str) -> list[models.Job]:
        return [job for job in self.rows(models.Job) if job.kind == kind]

    def mails(self) -> list[str]:
        return [job.payload["template"] for job in self.jobs("mail")]

    def work(self) -> None:
        """What is due for delivery is delivered; mails stay."""

        async def run() -> None:
            worker = work.Worker(SETTINGS, self.database)
            for job in await self.database.write(work.claim, clock.now(), 100, ("mail", "login_mail")):
                await worker._each([job])

        asyncio.run(run())


@pytest.fixture
def shop(database: Database) -> Shop:
    portal = make_portal(database)
    return Shop(database, portal, make_customer(database, portal))


def later(span: timedelta) -> None:
    clock.set_offset(clock.offset() + span)


# Signing


def test_a_secret_is_as_standard_webhooks_has_it() -> None:
    secret = outgoing.new_secret()
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret[6:], validate=True)) == 32
    assert outgoing.new_secret() != secret


@given(
    body=st.binary(max_size=200).map(lambda raw: json.dumps({"raw": raw.hex()}).encode()),
    more=st.text(max_size=50),
)
def test_what_we_sign_the_reference_library_proves(body: bytes, more: str) -> None:
    body = (
        body[:-1] + json.dumps({"more": more}, ensure_ascii=False)[1:].encode().join([b", ", b""])
        if more
        else body
    )
    secret, now = outgoing.new_secret(), datetime.now(UTC)
    headers = {
        "webhook-id": "06gv4c0r3m9k2",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": outgoing.sign(secret, "06gv4c0r3m9k2", now, body),
    }
    assert Webhook(secret).verify(body, headers) == json.loads(body)
    for bad in (
        {**headers, "webhook-id": "06gv4c0r3m9k3"},
        {**headers, "webhook-timestamp": str(int(now.timestamp()) + 1)},
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, bad)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body + b" ", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(outgoing.new_secret()).verify(body, headers)


def test_a_known_signature() -> None:
    at = datetime.fromtimestamp(1614265330, UTC)
    signature = outgoing.sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", at, b'{"test": 2432232314}'
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_?", "whsec_" + base64.b64encode(b"x" * 23).decode()])
def test_a_secret_that_is_none_signs_nothing(secret: str) -> None:
    with pytest.raises(ValueError, match="a secret"):
        outgoing.sign(secret, "x", datetime.now(UTC), b"")


# Telling


def test_an_event_is_told_to_the_endpoints_that_want_it(shop: Shop) -> None:
    everything, _ = shop.endpoint("http://one.example/")
    wanted, _ = shop.endpoint("http://two.example/", "customer.signed_in", "payment.failed")
    shop.endpoint("http://three.example/", "payment.failed")
    off, _ = shop.endpoint("http://four.example/")
    shop.database.write_now(outgoing.switch, shop.portal.id, off.id, False, clock.now())
    event_id = shop.tell()
    (event,) = shop.rows(models.OwnEvent)
    assert (event.id, event.type, event.customer_id) == (event_id, "customer.signed_in", shop.ana.id)
    assert event.data == {
        "customer": {
            "kind": "customer",
            "id": id_text(shop.ana.id),
            "email": "ana@example.com",
            "name": None,
            "created_at": "2026-11-22T10:00:00Z",
        }
    }
    deliveries = shop.rows(models.Delivery)
    assert [row.endpoint_id for row in deliveries] == [everything.id, wanted.id]
    assert [job.payload["delivery"] for job in shop.jobs("deliver")] == [row.id for row in deliveries]


def test_without_endpoints_it_is_kept_all_the_same(shop: Shop) -> None:
    shop.tell()
    assert len(shop.rows(models.OwnEvent)) == 1
    assert shop.rows(models.Delivery) == shop.jobs("deliver") == []


def test_another_portals_endpoints_hear_nothing(shop: Shop) -> None:
    other = make_portal(shop.database, "nova")
    endpoint, _ = shop.database.write_now(
        outgoing.add_endpoint, VAULT, other.id, "http://nova.example/", (), True, clock.now()
    )
    shop.tell()
    assert shop.rows(models.Delivery) == []
    for call in (
        lambda db: outgoing.rotate(db, VAULT, shop.portal.id, endpoint.id, clock.now()),
        lambda db: outgoing.switch(db, shop.portal.id, endpoint.id, False, clock.now()),
        lambda db: outgoing.remove(db, shop.portal.id, endpoint.id),
        lambda db: outgoing.send_test(db, shop.portal.id, endpoint.id, clock.now()),
        lambda db: outgoing.change_endpoint(db, shop.portal.id, endpoint.id, "http://x.example/", (), True),
    ):
        with pytest.raises(LookupError):
            shop.database.write_now(call)
    assert shop.database.read_now(outgoing.endpoints, shop.portal.id) == []
    assert shop.database.read_now(outgoing.endpoint, shop.portal.id, endpoint.id) is None


def test_what_is_rolled_back_is_not_told(shop: Shop) -> None:
    shop.endpoint("http://one.example/")

    def write(db: Session) -> None:
        outgoing.of_customer(db, "customer.signed_in", db.get_one(models.Customer, shop.ana.id), clock.now())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        shop.database.write_now(write)
    assert shop.rows(models.OwnEvent) == shop.rows(models.Delivery) == shop.jobs("deliver") == []


def test_only_kinds_on_the_list_are_told(shop: Shop) -> None:
    with pytest.raises(AssertionError, match="sneezed"):
        shop.tell("customer.sneezed")


# What is told


def told(database: Database) -> list[str]:
    row = models.OwnEvent
    return database.read_now(
        lambda db: list(db.execute(select(col(row.type)).order_by(col(row.id))).scalars())
    )


def data(database: Database) -> dict[str, Any]:
    """What the newest event is about."""
    row = models.OwnEvent
    found: dict[str, Any] = database.read_now(
        lambda db: db.execute(select(col(row.data)).order_by(col(row.id).desc()).limit(1)).scalar_one()
    )
    return found


def test_a_cancel_is_told_as_a_wish_and_as_done(scene: Callable[..., Scene]) -> None:
    on = scene()
    on.do("cancel_at_period_end", params={"reason": "too_much", "comment": "Too much coffee."})
    assert told(on.database) == ["subscription.cancel_requested", "subscription.cancelled"]
    about = data(on.database)
    assert about["subscription"]["status"] == "cancels_at_period_end"
    assert about["customer"]["email"] == "ana@example.com"
    action = about["action"]
    assert (action["capability"], action["phase"], action["comment"]) == (
        "cancel_at_period_end",
        "confirmed",
        "Too much coffee.",
    )
    assert action["confirmed_at"].endswith("Z")
    on.do("undo_cancel")
    assert told(on.database)[2:] == ["subscription.cancel_undone"]


@pytest.mark.parametrize(
    ("key", "status", "kind"),
    [
        ("cancel_now", "active", "subscription.cancelled"),
        ("pause", "active", "subscription.paused"),
        ("resume", "paused", "subscription.resumed"),
    ],
)
def test_what_is_done_is_told(scene: Callable[..., Scene], key: str, status: str, kind: str) -> None:
    on = scene(status=status)
    on.do(key)
    assert told(on.database)[-1] == kind


def test_a_cancel_of_our_own_is_told_once(scene: Callable[..., Scene]) -> None:
    """Where our job cancels at the end, what the job does then is no news."""
    on = scene("payfast", options=["schedule_cancel"])
    assert on.do("cancel_at_period_end").phase == "scheduled"
    on.work_at(timedelta(days=18))
    assert told(on.database) == ["subscription.cancel_requested", "subscription.cancelled"]


def test_a_new_payment_method_is_told(scene: Callable[..., Scene], gateway: FakeGateway) -> None:
    on = scene()
    on.do("update_payment_method")
    gateway.method = replace(gateway.method, remote_id="pm_new", last4="1881")
    state = on.state_of(gateway.calls[-1][1])
    on.database.write_now(actions.spend_state, state, {}, clock.now())
    on.work_at(timedelta(seconds=1))
    assert told(on.database) == ["payment_method.updated"]
    assert data(on.database)["subscription"]["method"]["last4"] == "1881"


def test_what_did_not_go_through_is_told(scene: Callable[..., Scene], gateway: FakeGateway) -> None:
    on = scene()
    gateway.errors.append(Declined("The processor said no."))
    on.do("pause")
    assert told(on.database) == ["action.failed"]
    assert data(on.database)["action"]["phase"] == "failed"


def test_what_is_not_confirmed_in_time_is_told_once(
    scene: Callable[..., Scene], gateway: FakeGateway
) -> None:
    on = scene()
    gateway.errors += [Unavailable("It does not answer.", sent=True)] * 9
    on.do("cancel_now")
    for _ in range(4):
        on.work_at(timedelta(minutes=16))
    assert told(on.database) == ["subscription.cancel_requested", "action.not_confirmed"]


def test_requests_are_told(shop: Shop) -> None:
    account = make_account(shop.database, shop.portal)
    subscription = make_subscription(shop.database, account, shop.ana)

    def ask(db: Session, kind: str) -> models.Request:
        where = shop.portal.id, account.id, shop.ana.id, subscription.id
        return requests.ask(db, *where, kind, "Monthly coffee box", clock.now(), words="Please.")

    write = shop.database.write_now
    answered, withdrawn = write(ask, "pause"), write(ask, "resume")
    write(requests.late, answered.id, clock.now())
    write(requests.late, answered.id, clock.now())
    write(requests.answer, shop.portal.id, answered.reference, "done", "Done.", "merchant", clock.now())
    about = data(shop.database)["request"]
    assert (about["reference"], about["status"], about["answer"], about["late"]) == (
        answered.reference,
        "done",
        "Done.",
        True,
    )
    write(requests.withdraw, shop.portal.id, shop.ana.id, withdrawn.id, clock.now())
    assert told(shop.database) == [
        "request.created",
        "request.created",
        "request.late",
        "request.answered",
        "request.withdrawn",
    ]


def test_a_failed_payment_is_told_once(shop: Shop) -> None:
    account = make_account(shop.database, shop.portal)
    record = PaymentRecord(remote_id="ch_1", email="ana@example.com", status="failed")

    def apply(db: Session) -> None:
        changes = sync.apply(db, account, Snapshot(as_of=clock.now(), payments=(record,)))
        db.flush()
        work._follow(db, account, changes, clock.now())

    shop.database.write_now(apply)
    shop.database.write_now(apply)
    assert told(shop.database) == ["payment.failed"]
    assert data(shop.database)["payment"]["remote_id"] == "ch_1"


def test_a_charge_after_the_end_is_told_once(shop: Shop) -> None:
    account = make_account(shop.database, shop.portal)
    now = clock.now()
    ended = make_subscription(
        shop.database, account, shop.ana, status="cancelled", ended_at=now - timedelta(days=9)
    )
    paid = make_payment(shop.database, account, shop.ana, subscription_remote=ended.remote_id, paid_at=now)
    for _ in range(2):
        shop.database.write_now(guard.look, paid.id, now)
    assert told(shop.database) == ["payment.charged_after_end"]
    assert data(shop.database)["payment"]["after_end"] is True


# Endpoints


def test_ten_endpoints_of_different_addresses(shop: Shop) -> None:
    for number in range(10):
        shop.endpoint(f"https://app{number}.example.com/")
    with pytest.raises(outgoing.Refused, match="ten endpoints"):
        shop.endpoint("https://more.example.com/")
    first, *_ = shop.database.read_now(outgoing.endpoints, shop.portal.id)
    assert shop.database.write_now(outgoing.remove, shop.portal.id, first.id) == "https://app0.example.com/"
    with pytest.raises(outgoing.Refused, match="on the list already"):
        shop.endpoint("https://app1.example.com/")


def test_all_kinds_are_as_none_and_what_is_no_kind_is_left_out(shop: Shop) -> None:
    assert shop.endpoint("https://a.example.com/", *outgoing.TYPES)[0].events == []
    assert shop.endpoint("https://b.example.com/", "payment.failed", "nonsense")[0].events == [
        "payment.failed"
    ]


def test_the_secret_lies_sealed(shop: Shop) -> None:
    endpoint, secret = shop.endpoint("https://a.example.com/")
    (row,) = shop.rows(models.Endpoint)
    assert secret.encode() not in row.secret
    assert VAULT.open(shop.portal.id, endpoint.id, row.secret)["endpoint_secret"] == secret


def test_secrets_are_sealed_anew_with_the_keys_of_the_installation(shop: Shop) -> None:
    endpoint, old = shop.endpoint("https://a.example.com/")
    new = shop.database.write_now(outgoing.rotate, VAULT, shop.portal.id, endpoint.id, clock.now())
    fresh = new_key()
    upkeep.rotate_keys(shop.database, f"{fresh},{MASTER_KEY}")
    (row,) = shop.rows(models.Endpoint)
    where = shop.portal.id, endpoint.id
    assert Vault(fresh).open(*where, row.secret)["endpoint_secret"] == new
    assert Vault(fresh).open(*where, row.previous_secret)["endpoint_secret"] == old
    with pytest.raises(VaultError):
        VAULT.open(*where, row.secret)


def test_an_endpoint_is_taken_away_with_its_log(shop: Shop) -> None:
    endpoint, _ = shop.endpoint("http://127.0.0.1:9/")
    shop.tell()
    shop.database.write_now(outgoing.remove, shop.portal.id, endpoint.id)
    assert shop.rows(models.Delivery) == []
    shop.work()
    (job,) = shop.jobs("deliver")
    assert (job.done_at is not None, job.error) == (True, None)


# Delivering


def test_a_delivery_is_what_was_told_and_can_be_proved(shop: Shop, receiver: Receiver) -> None:
    endpoint, secret = shop.endpoint(receiver.url)
    event_id = shop.tell()
    shop.work()
    ((headers, body),) = receiver.got
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"] == "Portal-Webhooks/1"
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    assert headers["webhook-id"] == id_text(event_id)
    assert Webhook(secret).verify(body, headers) == json.loads(body)
    said = json.loads(body)
    assert set(said) == {"type", "timestamp", "data"}
    assert (said["type"], said["timestamp"][-1]) == ("customer.signed_in", "Z")
    assert said["data"]["customer"]["id"] == id_text(shop.ana.id)
    (row,) = shop.database.read_now(outgoing.log, shop.portal.id, endpoint.id).rows
    assert (row.state, row.attempts, row.status, row.error) == ("delivered", 1, 204, None)
    shop.work()
    assert len(receiver.got) == 1


def test_it_is_tried_ten_times_over_three_days(shop: Shop, receiver: Receiver) -> None:
    endpoint, secret = shop.endpoint(receiver.url)
    receiver.usual = 500
    shop.tell()
    waits = []
    for _ in range(12):
        before = clock.now()
        shop.work()
        (job,) = shop.jobs("deliver")
        if job.done_at:
            break
        waits.append((job.run_at - before).total_seconds())
        clock.set_offset(clock.offset() + (job.run_at - clock.now()) + timedelta(seconds=0.1))
    usual = [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400]
    assert len(waits) == len(usual)
    for waited, expected in zip(waits, usual, strict=True):
        assert expected <= waited <= expected * 1.1 + 3
    assert len(receiver.got) == 10
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert len({body for _, body in receiver.got}) == 1
    assert len({headers["webhook-timestamp"] for headers, _ in receiver.got}) == 10
    (row,) = shop.database.read_now(outgoing.log, shop.portal.id, endpoint.id).rows
    assert (row.state, row.attempts, row.status, row.error) == ("failed", 10, 500, "It answered 500.")
    assert secret


def test_what_is_taken_late_is_delivered(shop: Shop, receiver: Receiver) -> None:
    endpoint, _ = shop.endpoint(receiver.url)
    receiver.answers = [Response(status_code=503), Response(status_code=200)]
    shop.tell()
    shop.work()
    (view,) = shop.database.read_now(outgoing.endpoints, shop.portal.id)
    assert view.failing_since is not None
    later(timedelta(seconds=8))
    shop.work()
    (row,) = shop.database.read_now(outgoing.log, shop.portal.id, endpoint.id).rows
    assert (row.state, row.attempts) == ("delivered", 2)
    (view,) = shop.database.read_now(outgoing.endpoints, shop.portal.id)
    assert view.failing_since is None


def test_who_asks_for_more_time_gets_it(shop: Shop, receiver: Receiver) -> None:
    shop.endpoint(receiver.url)
    receiver.answers = [Response(status_code=429, headers={"Retry-After": "600"})]
    shop.tell()
    shop.work()
    (job,) = shop.jobs("deliver")
    assert 590 <= (job.run_at - clock.now()).total_seconds() <= 601


def test_a_redirect_is_not_followed(shop: Shop, receiver: Receiver) -> None:
    endpoint, _ = shop.endpoint(receiver.url)
    receiver.answers = [Response(status_code=307, headers={"Location": receiver.url})]
    shop.tell()
    shop.work()
    assert len(receiver.got) == 1
    (row,) = shop.database.read_now(outgoing.log, shop.portal.id, endpoint.id).rows
    assert (row.state, row.error) == ("waiting", "It answered with a redirect, which is not followed.")


def test_gone_switches_off_and_tells_the_merchant(shop: Shop, receiver: Receiver) -> None:
    endpoint, _ = shop.endpoint(receiver.url)
    shop.tell()
    shop.tell()
    receiver.usual = 410
    shop.work()
    (view,) = shop.database.read_now(outgoing.endpoints, shop.portal.id)
    assert view.disabled_at is not None
    assert view.problem == "It answered 410: it is gone for good."
    assert len(receiver.got) == 1
    assert shop.mails() == ["endpoint_off"]
    states = [
        (row.state, row.error)
        for row in shop.database.read_now(outgoing.log, shop.portal.id, endpoint.id).rows
    ]
    assert sorted(states) == [("failed", "It answered 410."), ("failed", "The endpoint is switched off.")]
    (audit,) = shop.rows(models.Audit)
    assert (audit.who, audit.what, audit.subject) == ("worker", "endpoint.switched_off", receiver.url)
    shop.tell()
    assert len(shop.rows(models.Delivery)) == 2


def test_five_days_of_nothing_but_failures_switch_off(shop: Shop, receiver: Receiver) -> None:
    endpoint, _ = shop.endpoint(receiver.url)
    receiver.usual = 500
    for day in range(5):
        shop.tell()
        shop.work()
        assert shop.database.read_now(outgoing.endpoints, shop.portal.id)[0].disabled_at is None, day
        later(timedelta(days=1))
    shop.work()
    (view,) = shop.database.read_now(outgoing.endpoints, shop.portal.id)
    assert view.problem == "Nothing has arrived there for five days."
    assert shop.mails() == ["endpoint_off"]
    receiver.usual = 200
    shop.database.write_now(outgoing.switch, shop.portal.id, endpoint.id, True, clock.now())
    shop.tell()
    shop.work()
    (view,) = shop.database.read_now(outgoing.endpoints, shop.portal.id)
    assert (view.disabled_at, view.problem, view.failing_since) == (None, None, None)


def test_one_that_arrives_begins_the_five_days_anew(shop: Shop, receiver: Receiver) -> None:
    shop.endpoint(receiver.url)
    for status in (500, 500, 500, 200, 500, 500, 500):
        receiver.usual = status
        shop.tell()
        shop.work()
        later(timedelta(days=1))
    (view,) = shop.database.read_now(outgoing.endpoints, shop.portal.id)
    assert (view.disabled_at, shop.mails()) == (None, [])


def test_while_a_secret_changes_both_sign(shop: Shop, receiver: Receiver) -> None:
    endpoint, old = shop.endpoint(receiver.url)
    new = shop.database.write_now(outgoing.rotate, VAULT, shop.portal.id, endpoint.id, clock.now())
    assert new != old
    shop.tell()
    shop.work()
    headers, body = receiver.got[-1]
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (old, new):
        Webhook(secret).verify(body, headers)
    later(timedelta(hours=24, seconds=1))
    shop.tell()
    shop.work()
    headers, body = receiver.got[-1]
    assert len(headers["webhook-signature"].split(" ")) == 1
    signed = outgoing.sign(
        new, headers["webhook-id"], datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC), body
    )
    assert headers["webhook-signature"] == signed
    shop.database.write_now(outgoing.forget_old, clock.now())
    (row,) = shop.rows(models.Endpoint)
    assert row.previous_secret is None


def test_a_failed_one_is_sent_again_by_hand(shop: Shop, receiver: Receiver) -> None:
    endpoint, _ = shop.endpoint(receiver.url)
    receiver.usual = 500
    shop.tell()
    delivery = shop.rows(models.Delivery)[0]
    where = shop.portal.id, endpoint.id

    def failed(db: Session) -> None:
        row = db.get_one(models.Delivery, delivery.id)
        row.attempts, row.failed_at = 10, clock.now()

    shop.database.write_now(failed)
    shop.database.write_now(outgoing.resend, *where, delivery.id, clock.now())
    shop.work()
    assert [row.state for row in shop.database.read_now(outgoing.log, *where).rows] == ["failed"]
    receiver.usual = 200
    for _ in range(2):  # what has arrived may be sent once more too
        shop.database.write_now(outgoing.resend, *where, delivery.id, clock.now())
        shop.work()
    (row,) = shop.database.read_now(outgoing.log, *where).rows
    assert (row.state, row.attempts) == ("delivered", 13)
    receiver.usual = 500
    shop.database.write_now(outgoing.resend, *where, delivery.id, clock.now())
    shop.work()
    (row,) = shop.database.read_now(outgoing.log, *where).rows
    assert (row.state, row.status) == ("delivered", 500)
    assert [job for job in shop.jobs("deliver") if job.done_at is None] == []
    with pytest.raises(LookupError):
        shop.database.write_now(outgoing.resend, *where, delivery.id + 1, clock.now())


def test_by_hand_does_not_end_what_goes_on_by_itself(shop: Shop, receiver: Receiver) -> None:
    endpoint, _ = shop.endpoint(receiver.url)
    receiver.usual = 500
    shop.tell()
    shop.work()
    (delivery,) = shop.rows(models.Delivery)
    shop.database.write_now(outgoing.resend, shop.portal.id, endpoint.id, delivery.id, clock.now())
    shop.work()
    (row,) = shop.database.read_now(outgoing.log, shop.portal.id, endpoint.id).rows
    assert (row.state, row.attempts) == ("waiting", 2)


def test_a_test_event_goes_to_one_endpoint_whatever_it_wants(shop: Shop, receiver: Receiver) -> None:
    endpoint, secret = shop.endpoint(receiver.url, "payment.failed")
    shop.endpoint("http://127.0.0.1:9/")
    shop.database.write_now(outgoing.send_test, shop.portal.id, endpoint.id, clock.now())
    shop.work()
    ((headers, body),) = receiver.got
    said = Webhook(secret).verify(body, headers)
    assert (said["type"], said["data"]) == ("portal.test", {})
    assert len(shop.rows(models.Delivery)) == 1
    shop.database.write_now(outgoing.switch, shop.portal.id, endpoint.id, False, clock.now())
    with pytest.raises(outgoing.Refused, match="Switch the endpoint on"):
        shop.database.write_now(outgoing.send_test, shop.portal.id, endpoint.id, clock.now())


def test_the_log_is_paged_and_shows_what_was_sent(shop: Shop) -> None:
    endpoint, _ = shop.endpoint("http://127.0.0.1:9/")
    for _ in range(30):
        shop.tell()
    first = shop.database.read_now(outgoing.log, shop.portal.id, endpoint.id)
    assert len(first.rows) == 25
    rest = shop.database.read_now(outgoing.log, shop.portal.id, endpoint.id, first.older)
    assert (len(rest.rows), rest.older) == (5, None)
    assert {row.id for row in first.rows} & {row.id for row in rest.rows} == set()
    found = shop.database.read_now(outgoing.delivery, shop.portal.id, endpoint.id, first.rows[0].id)
    assert found is not None
    assert json.loads(found.body)["type"] == "customer.signed_in"
    assert (
        shop.database.read_now(outgoing.delivery, shop.portal.id + 1, endpoint.id, first.rows[0].id) is None
    )


def test_events_go_after_thirty_days_with_their_log(shop: Shop) -> None:
    shop.endpoint("http://127.0.0.1:9/")
    shop.tell()
    shop.database.write_now(outgoing.forget_old, clock.now() + timedelta(days=29))
    assert len(shop.rows(models.OwnEvent)) == 1
    shop.database.write_now(work._sweep, clock.now() + timedelta(days=31))
    assert shop.rows(models.OwnEvent) == shop.rows(models.Delivery) == []
    shop.work()
    assert [job.error for job in shop.jobs("deliver")] == [None]


# The worker


def test_a_server_that_does_not_answer_keeps_nobody_waiting(shop: Shop, receiver: Receiver) -> None:
    shop.endpoint(receiver.url)
    receiver.slow = 3.0
    shop.tell()

    async def run() -> tuple[float, int]:
        worker = work.Worker(SETTINGS, shop.database)
        begin = time.monotonic()
        await worker.once()
        took = time.monotonic() - begin
        out = len(worker._away)
        for task in worker._away:
            task.cancel()
        return took, out

    took, out = asyncio.run(run())
    assert took < 1.5
    assert out == 1


def test_a_worker_that_is_told_to_stop_finishes_its_deliveries(shop: Shop, receiver: Receiver) -> None:
    endpoint, _ = shop.endpoint(receiver.url)
    receiver.slow = 0.5
    shop.tell()

    async def run() -> None:
        worker = work.Worker(SETTINGS, shop.database)
        running = asyncio.create_task(worker.run())
        await asyncio.to_thread(receiver.came.wait, 10)
        worker.stop()
        await running

    asyncio.run(run())
    (row,) = shop.database.read_now(outgoing.log, shop.portal.id, endpoint.id).rows
    assert row.state == "delivered"


def test_no_more_deliveries_are_claimed_than_can_be_out(shop: Shop) -> None:
    shop.endpoint("http://127.0.0.1:9/")
    for _ in range(3):
        shop.tell()
    claimed = shop.database.write_now(work.claim, clock.now(), 20, ("deliver",))
    assert claimed == []
    assert len(shop.database.write_now(work.claim, clock.now(), 20)) == 3


def test_where_nothing_answers_the_others_wait_their_turn(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    async def dead(*_: Any) -> reach.Answer:
        calls.append(clock.now())
        raise reach.NoAnswer("It can't be reached.")

    monkeypatch.setattr(reach, "post", dead)
    endpoint, _ = shop.endpoint("http://127.0.0.1:9/")
    for _ in range(12):
        shop.tell()
    shop.work()
    assert len(calls) == 5
    rows = shop.database.read_now(outgoing.log, shop.portal.id, endpoint.id).rows
    assert sorted(row.attempts for row in rows) == [0] * 7 + [1] * 5
    assert {row.error for row in rows} == {None, "It can't be reached."}


# Where we do not go


FORMS = [
    "http://app.example.com/",
    "ftp://app.example.com/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:11211/_stats",
    "//app.example.com/",
    "app.example.com/hooks",
    "javascript:alert(1)",
    "data:text/plain,x",
    "",
    "https://",
    "https:///hooks",
    "https://ana@app.example.com/",
    "https://ana:secret@app.example.com/",
    "https://app.example.com@127.0.0.1/",
    "https://app.example.com/#x",
    "https://app.example.com\\@127.0.0.1/",
    "https://app.example.com:0x50/",
    "https://app.example.com:99999/",
    "https://app.example.com:22/",
    "https://app.example.com:25/",
    "https://app.example.com:80/",
    "https://exa mple.com/",
    "https://example.com/\r\nX-Evil: 1",
    "https://ex\u00e4mple.com/",
    "https://ⓔxample.com/",
    "https://127。0。0。1/",
    "https://" + "a" * 600 + ".com/",
    "https://[::1",
    "https://[v1.x]/",
    "https://[fe80::1%25lo]/",
    "https://[fe80::1%lo]/",
    *(
        f"https://{host}/latest/meta-data"
        for host in (
            "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255",
            "192.168.0.1", "169.254.169.254", "169.254.0.1", "100.64.0.1", "100.100.100.200", "168.63.129.16",
            "192.0.0.192", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
            "192.88.99.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
            "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:169.254.169.254]", "[::ffff:10.0.0.1]", "[::127.0.0.1]",
            "[64:ff9b::127.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::1]", "[2002:7f00:1::]", "[2002:a9fe:a9fe::]",
            "[2001::1]", "[2001:db8::1]", "[fc00::1]", "[fd00:ec2::254]", "[fe80::1]", "[fec0::1]", "[ff02::1]",
            "[100::1]", "[3fff::1]",
        )
    ),
]  # fmt: skip
# Names and numbers that a resolver takes for addresses of our own.
NUMBERS = [
    "localhost", "localhost.", "LOCALHOST", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1",
    "017700000001", "0", "0x0", "127.0.0.1.", "ip6-localhost",
]  # fmt: skip


@pytest.fixture
def no_way_out(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every connection that is begun; none is to be."""
    begun: list[Any] = []

    async def connect(self: Any, protocol: Any, host: Any = None, port: Any = None, **more: Any) -> Any:
        begun.append((host, port, more))
        raise OSError("not in a test")

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", connect)
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: begun.append(a))
    return begun


@pytest.mark.parametrize("url", FORMS)
def test_an_address_that_we_do_not_call(
    url: str, no_way_out: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []

    async def addresses(host: str, port: int) -> list[Any]:
        looked_up.append(host)
        return [ip_address("8.8.8.8")]

    monkeypatch.setattr(reach, "_addresses", addresses)
    with pytest.raises(reach.Refused):
        asyncio.run(reach.post(url, {}, b""))
    assert no_way_out == looked_up == []


@pytest.mark.parametrize("host", NUMBERS)
def test_a_name_that_leads_to_ourselves_is_not_called(host: str, no_way_out: list[Any]) -> None:
    with pytest.raises((reach.Refused, reach.NoAnswer)):
        asyncio.run(reach.post(f"https://{host}/", {}, b""))
    assert no_way_out == []


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.1.2.3"],
        ["169.254.169.254"],
        ["::1"],
        ["fd00::1"],
        ["::ffff:192.168.1.1"],
        ["8.8.8.8", "192.168.1.1"],
        ["192.168.1.1", "8.8.8.8"],
        ["2606:4700::1111", "fe80::1"],
    ],
)
def test_where_one_address_of_a_name_is_inside_none_is_called(
    addresses: list[str], no_way_out: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def found(host: str, port: int) -> list[Any]:
        return [ip_address(one) for one in addresses]

    monkeypatch.setattr(reach, "_addresses", found)
    with pytest.raises(reach.Refused, match="not in the public net"):
        asyncio.run(reach.post("https://hooks.example.com/", {}, b""))
    assert no_way_out == []


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::200e", "64:ff9b::808:808"],
)
def test_the_public_net_is_called(address: str) -> None:
    assert reach.is_public(ip_address(address))


def test_the_very_address_that_was_looked_at_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads elsewhere when it is asked for again gains nothing: it is asked for once."""
    asked: list[str] = []
    answers = [["93.184.216.34"], ["127.0.0.1"], ["169.254.169.254"]]

    async def found(host: str, port: int) -> list[Any]:
        asked.append(host)
        return [ip_address(one) for one in answers[len(asked) - 1]]

    sent: list[httpx.Request] = []

    async def send(self: Any, request: httpx.Request, **_: Any) -> httpx.Response:
        sent.append(request)
        return httpx.Response(204, request=request, stream=httpx.ByteStream(b""))

    monkeypatch.setattr(reach, "_addresses", found)
    monkeypatch.setattr(httpx.AsyncClient, "send", send)
    answer = asyncio.run(reach.post("https://hooks.example.com:8443/a?b=1", {"X": "1"}, b"{}"))
    assert (answer.status, asked) == (204, ["hooks.example.com"])
    (request,) = sent
    assert str(request.url) == "https://93.184.216.34:8443/a?b=1"
    assert request.headers["host"] == "hooks.example.com:8443"
    assert request.extensions["sni_hostname"] == "hooks.example.com"


def test_who_may_call_ones_own_network() -> None:
    assert not outgoing.may_be_private(Settings(master_keys=SecretStr(MASTER_KEY)))
    assert outgoing.may_be_private(Settings(master_keys=SecretStr(MASTER_KEY), demo=True))
    assert outgoing.may_be_private(SETTINGS)


def test_in_earnest_an_endpoint_of_our_own_network_is_refused(shop: Shop, no_way_out: list[Any]) -> None:
    for url in ("http://app.example.com/", "https://192.168.0.1/"):
        with pytest.raises(outgoing.Refused):
            shop.database.write_now(outgoing.add_endpoint, VAULT, shop.portal.id, url, (), False, clock.now())
    # One that got in by another way is refused at the door, and its log says why.
    endpoint, _ = shop.endpoint("https://localhost/")
    event_id = shop.tell()
    (delivery,) = shop.rows(models.Delivery)
    earnest = Settings(master_keys=SecretStr(MASTER_KEY))
    asyncio.run(outgoing.deliver(shop.database, earnest, VAULT, delivery.id))
    (row,) = shop.database.read_now(outgoing.log, shop.portal.id, endpoint.id).rows
    assert (row.event_id, row.status) == (event_id, None)
    assert row.error == "Its name leads to an address that is not in the public net."
    assert no_way_out == []


def test_it_is_not_waited_for_longer_than_ten_seconds(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reach.TOTAL_S == 10.0
    monkeypatch.setattr(reach, "TOTAL_S", 0.3)
    receiver.slow = 2.0
    begin = time.monotonic()
    with pytest.raises(reach.NoAnswer, match="did not answer"):
        asyncio.run(reach.post(receiver.url, {}, b"", private=True))
    assert time.monotonic() - begin < 1.5


def test_an_endless_answer_is_not_read_to_its_end(receiver: Receiver) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 4096
            yield b"x" * 4096
            await asyncio.sleep(0)

    receiver.answers = [StreamingResponse(endless())]
    answer = asyncio.run(reach.post(receiver.url, {}, b"", private=True))
    assert answer.status == 200
    time.sleep(0.2)
    assert sent < 16 * 1024 * 1024


def test_what_can_not_be_reached() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        with pytest.raises(reach.NoAnswer, match="can't be reached"):
            asyncio.run(reach.post(url, {}, b"", private=True))


@pytest.mark.parametrize(("name", "good"), [("hooks.example.com", True), ("other.example.com", False)])
def test_the_certificate_is_that_of_the_name(
    name: str, good: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = self_signed("hooks.example.com", tmp_path)
    context = ssl.create_default_context(cafile=certificate)

    async def found(host: str, port: int) -> list[Any]:
        return [ip_address("127.0.0.1")]

    monkeypatch.setattr(reach, "_addresses", found)
    monkeypatch.setattr(reach, "_trusted", lambda: context)
    receiver = Receiver(scheme="https")
    with serving(receiver, ssl_keyfile=str(key), ssl_certfile=str(certificate)):
        url = f"https://{name}:{receiver.port}/"
        if good:
            assert asyncio.run(reach.post(url, {}, b"{}", private=True)).status == 204
            assert receiver.got[0][0]["host"] == f"{name}:{receiver.port}"
        else:
            with pytest.raises(reach.NoAnswer, match="certificate is not good"):
                asyncio.run(reach.post(url, {}, b"{}", private=True))
            assert receiver.got == []


def self_signed(name: str, folder: Path) -> tuple[Path, Path]:
    secret = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(secret, hashes.SHA256())
    )
    key_file, certificate_file = folder / "key.pem", folder / "certificate.pem"
    key_file.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return key_file, certificate_file


def test_a_secret_that_no_key_opens_is_tried_again_and_never_sent_unsigned(
    shop: Shop, receiver: Receiver
) -> None:
    endpoint, _ = shop.endpoint(receiver.url)
    shop.tell()

    def spoil(db: Session) -> None:
        row = models.Endpoint
        db.execute(
            update(row).where(col(row.id) == endpoint.id).values(secret=b'{"endpoint_secret": "AAAA"}')
        )

    shop.database.write_now(spoil)
    shop.work()
    assert receiver.got == []
    (job,) = shop.jobs("deliver")
    assert job.done_at is None
    assert job.error is not None
