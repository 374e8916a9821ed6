"""Deliveries: proved, kept once, answered; handled by the worker, who asks the processor."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlmodel import col
from starlette.testclient import TestClient

from portal import clock, models, webhooks, work
from portal.app import create_app
from portal.db import Database
from portal.gateways import adapter, processors
from portal.gateways.base import (
    BadSignature,
    Event,
    Gateway,
    Gone,
    Ref,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
)
from portal.jobs import enqueue
from portal.settings import Settings
from tests.unit.builders import (
    MASTER_KEY,
    make_account,
    make_customer,
    make_portal,
    make_subscription,
)
from tests.unit.plans import plan, uses, wholes

SECRET = "whsec_test_0001"
KEYS = {"secret_key": "sk_test_Sample000000000001", "webhook_secret": SECRET}


@pytest.fixture
def settings() -> Settings:
    return Settings(master_keys=MASTER_KEY, scheme="http")


@pytest.fixture
def account(database: Database) -> models.Account:
    return make_account(database, make_portal(database), "stripe", KEYS)


@pytest.fixture
def client(database: Database, settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings, database), base_url="http://anything.example") as client:
        yield client


def body(event_id: str = "evt_1", kind: str = "customer.subscription.updated", about: str = "sub_1") -> bytes:
    event = {
        "id": event_id,
        "object": "event",
        "type": kind,
        "api_version": "2026-10-28.endive",
        "created": int(clock.now().timestamp()),
        "livemode": False,
        "data": {"object": {"id": about, "object": "subscription", "status": "active"}},
    }
    return json.dumps(event).encode()


def signed(content: bytes, secret: str = SECRET) -> dict[str, str]:
    at = str(int(clock.now().timestamp()))
    digest = hmac.new(secret.encode(), f"{at}.".encode() + content, hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={at},v1={digest}", "Content-Type": "application/json"}


def rows(database: Database, model: Any) -> list[Any]:
    return list(database.read_now(lambda db: db.execute(select(model)).scalars().all()))


def test_a_delivery_is_kept_as_raw_bytes_with_its_job(
    client: TestClient, database: Database, account: models.Account
) -> None:
    content = body()
    answer = client.post(f"/webhooks/{account.token}", content=content, headers=signed(content))
    assert (answer.status_code, answer.content) == (200, b"")
    (event,) = rows(database, models.Event)
    assert (event.event_id, event.body, event.handled_at) == ("evt_1", content, None)
    assert [job.kind for job in rows(database, models.Job)] == ["event"]
    assert "signature" not in json.dumps(event.headers).lower()


def test_a_duplicate_is_answered_and_kept_once(
    client: TestClient, database: Database, account: models.Account
) -> None:
    content = body()
    for _ in range(5):
        answer = client.post(f"/webhooks/{account.token}", content=content, headers=signed(content))
        assert answer.status_code == 200
    assert len(rows(database, models.Event)) == 1
    assert len(rows(database, models.Job)) == 1


@pytest.mark.parametrize(
    "headers",
    [{}, {"Stripe-Signature": ""}, {"Stripe-Signature": "t=1,v1=0"}, {"Stripe-Signature": "v1=" + "a" * 64}],
)
def test_what_is_not_proved_leaves_no_trace(
    client: TestClient, database: Database, account: models.Account, headers: dict[str, str]
) -> None:
    answer = client.post(f"/webhooks/{account.token}", content=body(), headers=headers)
    assert answer.status_code == 400
    assert rows(database, models.Event) == rows(database, models.Job) == []


def test_another_accounts_secret_proves_nothing(
    client: TestClient, database: Database, account: models.Account
) -> None:
    content = body()
    answer = client.post(
        f"/webhooks/{account.token}", content=content, headers=signed(content, "whsec_another")
    )
    assert answer.status_code == 400


def test_unknown_address_is_404_and_get_is_refused(client: TestClient, account: models.Account) -> None:
    assert client.post("/webhooks/nobody", content=b"{}").status_code == 404
    assert client.get(f"/webhooks/{account.token}").status_code == 405


def test_too_large_a_body_is_cut_off(client: TestClient, account: models.Account) -> None:
    answer = client.post(f"/webhooks/{account.token}", content=b"x" * (1024 * 1024 + 1))
    assert answer.status_code == 413


def test_without_a_database_the_sender_is_asked_to_come_again(
    client: TestClient, account: models.Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise OperationalError("INSERT", {}, Exception("gone"))

    monkeypatch.setattr(webhooks, "store", gone)
    content = body()
    answer = client.post(f"/webhooks/{account.token}", content=content, headers=signed(content))
    assert answer.status_code == 503
    assert answer.headers["retry-after"]


class Fake:
    """A gateway that answers refetches as told."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.seen: list[Event] = []

    async def refetch(self, event: Event) -> Snapshot | None:
        self.seen.append(event)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        pass


def answering(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> Fake:
    """The processor from now on."""
    fake = Fake(*answers)
    monkeypatch.setattr(work, "open_gateway", lambda *_a, **_k: fake)
    return fake


@pytest.fixture
def worker(database: Database, settings: Settings) -> work.Worker:
    return work.Worker(settings, database)


def deliver(client: TestClient, account: models.Account, event_id: str = "evt_1", **more: str) -> None:
    content = body(event_id, **more)
    answer = client.post(f"/webhooks/{account.token}", content=content, headers=signed(content))
    assert answer.status_code == 200


def test_the_worker_believes_the_processor_and_not_the_event(
    client: TestClient,
    database: Database,
    account: models.Account,
    worker: work.Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = SubscriptionRecord(remote_id="sub_1", status="past_due", email="ana@example.com")
    fake = answering(monkeypatch, Snapshot(as_of=clock.now(), subscriptions=(said,)))
    deliver(client, account)
    asyncio.run(worker.drain())
    (row,) = rows(database, models.Subscription)
    assert row.status == "past_due"  # the event said active
    (event,) = rows(database, models.Event)
    assert event.handled_at is not None
    assert fake.seen[0].subject is not None


@pytest.mark.parametrize("answer", [None, Gone("", "no such object"), BadSignature("not confirmed")])
def test_what_the_processor_does_not_know_changes_nothing(
    client: TestClient,
    database: Database,
    account: models.Account,
    worker: work.Worker,
    monkeypatch: pytest.MonkeyPatch,
    answer: Any,
) -> None:
    answering(monkeypatch, answer)
    deliver(client, account, kind="something.unheard_of")
    asyncio.run(worker.drain())
    (event,) = rows(database, models.Event)
    assert event.handled_at is not None
    assert rows(database, models.Subscription) == []


@pytest.mark.parametrize("knows", [False, True])
def test_an_event_about_an_object_of_another_account_touches_nothing_there(
    client: TestClient,
    database: Database,
    account: models.Account,
    worker: work.Worker,
    monkeypatch: pytest.MonkeyPatch,
    knows: bool,
) -> None:
    """Whether the account that it came to does not know the object, or says that it is its own."""
    shop = make_portal(database, "other")
    theirs = make_account(database, shop, "stripe", {**KEYS, "webhook_secret": "whsec_theirs"})
    whose = make_customer(database, shop, "ana@example.com")
    make_subscription(database, theirs, whose, remote_id="sub_1")
    said = SubscriptionRecord(remote_id="sub_1", status="cancelled", email="ana@example.com")
    later = clock.now() + timedelta(days=1)
    answer = Snapshot(as_of=later, subscriptions=(said,)) if knows else Gone("", "no such object")
    answering(monkeypatch, answer)
    deliver(client, account)
    asyncio.run(worker.drain())
    found = {row.account_id: row for row in rows(database, models.Subscription)}
    assert found[theirs.id].status == "active"
    assert (found[theirs.id].customer_id, found[theirs.id].missing_at) == (whose.id, None)
    assert (account.id in found) == knows
    if knows:
        assert found[account.id].customer_id not in (None, whose.id)


def test_events_of_one_object_are_answered_by_one_look(
    client: TestClient,
    database: Database,
    account: models.Account,
    worker: work.Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = SubscriptionRecord(remote_id="sub_1", status="active", email="ana@example.com")
    fake = answering(monkeypatch, Snapshot(as_of=clock.now(), subscriptions=(said,)))
    for number, kind in enumerate(("created", "updated", "resumed")):
        deliver(client, account, f"evt_{number}", kind=f"customer.subscription.{kind}")
    deliver(client, account, "evt_other", about="sub_2")
    asyncio.run(worker.drain())
    assert sorted(one.subject.id for one in fake.seen if one.subject) == ["sub_1", "sub_2"]
    events = {row.event_id: row for row in rows(database, models.Event)}
    assert all(row.handled_at is not None and row.error is None for row in events.values())
    assert all(job.done_at is not None for job in rows(database, models.Job) if job.kind == "event")
    assert len(rows(database, models.Subscription)) == 1
    deliver(client, account, "evt_later")  # which came after the look
    asyncio.run(worker.drain())
    assert [one.id for one in fake.seen[2:]] == ["evt_later"]


@pytest.mark.parametrize("fault", [Gone("", "no such object"), Unavailable("", "limited", retry_after=300)])
def test_where_one_look_fails_each_event_is_asked_about_for_itself(
    client: TestClient,
    database: Database,
    account: models.Account,
    worker: work.Worker,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
) -> None:
    said = SubscriptionRecord(remote_id="sub_1", status="active", email="ana@example.com")
    fake = answering(monkeypatch, fault, Snapshot(as_of=clock.now(), subscriptions=(said,)))
    for number in range(3):
        deliver(client, account, f"evt_{number}")
    asyncio.run(worker.drain())
    assert len(fake.seen) == 3
    clock.set_offset(timedelta(seconds=310))
    asyncio.run(worker.drain())
    failed = fake.seen[0].id
    tried_again = isinstance(fault, Unavailable)
    assert [one.id for one in fake.seen[3:]] == [failed] * tried_again
    events = {row.event_id: row for row in rows(database, models.Event)}
    assert all(row.handled_at is not None for row in events.values())
    assert [row.event_id for row in events.values() if row.error] == ([] if tried_again else [failed])


def claimed(number: int, **values: Any) -> work.Claimed:
    fields: dict[str, Any] = {
        "kind": "event",
        "payload": {"event": number},
        "attempts": 1,
        "claim": 1,
        "deaths": 0,
        "account_id": 1,
        "processor": "stripe",
        "since": 0.0,
        "within": 1,
        "about": "1:subscription:sub_1",
        **values,
    }
    return work.Claimed(number, **fields)


def test_what_one_look_cannot_answer_stays_by_itself() -> None:
    jobs = [
        claimed(1),
        claimed(2, about="1:subscription:sub_2"),
        claimed(3, about="1:invoice:sub_1"),
        claimed(4, about=None),
        claimed(5, about=None),
        claimed(6, account_id=2, within=2, about="2:subscription:sub_1"),
        claimed(7, attempts=2),
        claimed(8, deaths=2),
        claimed(9, deaths=1),  # one of those whose look was for all of them
        claimed(10),
    ]
    found = [[job.id for job in jobs] for jobs in work.together(jobs)]
    assert found == [[1, 9, 10], *([number] for number in range(2, 9))]


def test_what_waits_for_a_look_comes_along_however_much_it_is(
    client: TestClient,
    database: Database,
    account: models.Account,
    worker: work.Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = SubscriptionRecord(remote_id="sub_1", status="active", email="ana@example.com")
    fake = answering(monkeypatch, Snapshot(as_of=clock.now(), subscriptions=(said,)))
    for number in range(2 * work.BATCH):
        deliver(client, account, f"evt_{number}")
        deliver(client, account, f"evt_2_{number}", about="sub_2")
    asyncio.run(worker.once())
    assert sorted(one.subject.id for one in fake.seen if one.subject) == ["sub_1", "sub_2"]
    assert all(row.handled_at is not None for row in rows(database, models.Event))
    jobs = [job for job in rows(database, models.Job) if job.kind == "event"]
    assert all(job.done_at is not None and job.locked_by is None for job in jobs)


def test_what_came_along_waits_again_where_the_look_fails(
    client: TestClient,
    database: Database,
    account: models.Account,
    worker: work.Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = SubscriptionRecord(remote_id="sub_1", status="active", email="ana@example.com")
    answer = Snapshot(as_of=clock.now(), subscriptions=(said,))
    fake = answering(monkeypatch, *[Unavailable("", "limited", retry_after=300)] * work.BATCH, answer)
    for number in range(2 * work.BATCH):
        deliver(client, account, f"evt_{number}")
    asyncio.run(worker.once())
    assert len(fake.seen) == work.BATCH
    jobs = sorted((job for job in rows(database, models.Job) if job.kind == "event"), key=lambda job: job.id)
    assert [(job.attempts, job.locked_by) for job in jobs[work.BATCH :]] == [(0, None)] * work.BATCH
    assert {job.attempts for job in jobs[: work.BATCH]} == {1}
    asyncio.run(worker.drain())
    assert len(fake.seen) == work.BATCH + 1
    clock.set_offset(timedelta(seconds=310))
    asyncio.run(worker.drain())
    assert all(row.handled_at is not None and row.error is None for row in rows(database, models.Event))


def test_what_has_failed_or_is_in_hand_does_not_come_along(
    client: TestClient, database: Database, account: models.Account
) -> None:
    for number in range(6):
        deliver(client, account, f"evt_{number}")
    first, mine, failed, died_over, deadly, waits = sorted(job.id for job in rows(database, models.Job))
    now = clock.now()

    def change(db: Session) -> None:
        told: dict[int, dict[str, Any]] = {
            mine: {"attempts": 1, "locked_by": 1, "locked_until": now + timedelta(minutes=1)},
            failed: {"attempts": 1},
            died_over: {"attempts": 1, "locked_by": 1, "locked_until": now - timedelta(minutes=1)},
            deadly: {"attempts": 1, "locked_by": 1, "locked_until": now - timedelta(minutes=1), "deaths": 1},
        }
        for job_id, values in told.items():
            db.execute(update(models.Job).where(col(models.Job.id) == job_id).values(**values))

    database.write_now(change)
    found = database.write_now(work.claim, clock.now(), 1)
    assert [(job.id, job.along, job.deaths) for job in sorted(found, key=lambda job: job.id)] == [
        (first, False, 0),
        (died_over, True, 1),
        (waits, True, 0),
    ]


def test_what_is_about_the_same_is_found_by_its_index(database: Database) -> None:
    def have_many(db: Session) -> None:
        for number in range(300):
            about = f"1:subscription:sub_{number}"
            enqueue(db, "event", {"event": number}, clock.now(), f"event:{number}", 1, about)

    database.write_now(have_many)
    lines = plan(database, work._also_about(["1:subscription:sub_1"], clock.now(), clock.now()))
    assert uses(lines, "ix_job_about"), lines
    assert not wholes(lines), lines


def test_one_look_answers_several_only_where_the_adapter_looks_at_the_subject_alone() -> None:
    alone = {name for name in processors() if adapter(name).looks_at_subject_alone}
    assert {name for name in alone if adapter(name).refetch is not Gateway.refetch} == {"stripe"}
    assert {"stripe", "mollie"} <= alone
    assert "payfast" not in alone


@pytest.mark.parametrize(
    ("processor", "subject", "about"),
    [
        ("stripe", Ref("subscription", "sub_1"), "subscription:sub_1"),
        ("stripe", None, None),
        ("payfast", Ref("subscription", "sub_1"), None),  # whose notices tell what nothing else does
    ],
)
def test_a_job_says_what_it_is_about_only_where_one_look_answers_all(
    database: Database, processor: str, subject: Ref | None, about: str | None
) -> None:
    account = make_account(database, make_portal(database), processor)
    told = Event(id="evt_1", type="x", subject=subject, occurred_at=None)
    database.write_now(webhooks.keep, account, [told], clock.now())
    (job,) = rows(database, models.Job)
    assert job.about == (about and f"{account.id}:{about}")


def test_a_poison_event_is_set_aside_after_twelve_tries_and_blocks_nobody(
    client: TestClient,
    database: Database,
    account: models.Account,
    worker: work.Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answering(monkeypatch, KeyError("boom"))
    deliver(client, account)
    for _ in range(14):
        asyncio.run(worker.drain())
        clock.set_offset(clock.offset() + timedelta(hours=2))
    (event,) = rows(database, models.Event)
    (job,) = rows(database, models.Job)
    assert event.parked_at is not None
    assert (job.attempts, job.parked_at is not None) == (12, True)
    good = Snapshot(as_of=clock.now(), subscriptions=(SubscriptionRecord(remote_id="s", status="active"),))
    answering(monkeypatch, good)
    deliver(client, account, "evt_2")
    asyncio.run(worker.drain())
    assert len(rows(database, models.Subscription)) == 1


def test_a_limited_processor_is_asked_again_when_it_said(
    client: TestClient,
    database: Database,
    account: models.Account,
    worker: work.Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = Snapshot(as_of=clock.now(), subscriptions=(SubscriptionRecord(remote_id="s", status="active"),))
    fake = answering(monkeypatch, Unavailable("", "limited", retry_after=300), good)
    deliver(client, account)
    asyncio.run(worker.drain())
    clock.set_offset(timedelta(seconds=200))
    asyncio.run(worker.drain())
    assert len(fake.seen) == 1
    clock.set_offset(timedelta(seconds=310))
    asyncio.run(worker.drain())
    assert len(rows(database, models.Subscription)) == 1


def test_a_worker_that_dies_loses_nothing(
    client: TestClient,
    database: Database,
    account: models.Account,
    worker: work.Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deliver(client, account)
    claimed = database.write_now(work.claim, clock.now(), 10)
    assert len(claimed) == 1  # and then it dies
    assert database.write_now(work.claim, clock.now(), 10) == []
    clock.set_offset(timedelta(minutes=5))
    again = database.write_now(work.claim, clock.now(), 10)
    assert [job.id for job in again] == [claimed[0].id]


def test_signing_in_asks_about_what_still_goes_on(
    database: Database, account: models.Account, worker: work.Worker
) -> None:
    portal = database.read_now(lambda db: db.get_one(models.Portal, account.portal_id))
    ana = make_customer(database, portal)
    live = make_subscription(database, account, ana, status="past_due")
    make_subscription(database, account, ana, status="cancelled")
    make_subscription(database, account, make_customer(database, portal, "ben@example.com"))
    asyncio.run(worker._look_at_customer({"customer": ana.id}))
    assert [job.payload for job in rows(database, models.Job)] == [{"subscription": live.id}]


def test_each_job_goes_to_one_worker_only(database: Database) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from portal.jobs import enqueue

    def fill(db: Any) -> None:
        for number in range(200):
            enqueue(db, "nothing", {"n": number}, clock.now(), None)

    database.write_now(fill)

    def take(_: int) -> list[int]:
        mine: list[int] = []
        while batch := database.write_now(work.claim, clock.now() + timedelta(seconds=1), 7):
            mine += [job.id for job in batch]
        return mine

    with ThreadPoolExecutor(4) as pool:
        taken = [job for mine in pool.map(take, range(4)) for job in mine]
    assert len(taken) == len(set(taken)) == 200
