"""What came in: its states, lists and indexes, bodies shown harmlessly, carrying out again, and failed syncs."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import accounts, clock, inbox, merchants, models, work
from portal.db import Database
from portal.gateways.base import Event, OrderRecord, Ref, Snapshot, Unavailable
from portal.ids import new_id
from portal.jobs import enqueue
from portal.merchants import Refused
from portal.money import Money
from portal.queries import Cursor
from portal.settings import Settings
from tests.unit.builders import (
    MASTER_KEY,
    NOW,
    make_account,
    make_action,
    make_customer,
    make_portal,
    make_subscription,
    save,
)
from tests.unit.plans import plan, sorts, uses, wholes


class Shop:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.portal = make_portal(database)
        self.account = make_account(database, self.portal, label="Main till")
        self.other = make_portal(database, "kora", name="Kora")
        self.others_account = make_account(database, self.other)
        self.person = merchants.Person(
            5, "ed@acme.example", None, self.portal.merchant_id, "Acme", "editor", 1, NOW
        )

    def event(
        self, state: str = "waiting", account: models.Account | None = None, **fields: Any
    ) -> models.Event:
        account = account or self.account
        now = clock.now()
        by_state: dict[str, dict[str, Any]] = {
            "waiting": {},
            "handled": {"handled_at": now},
            "parked": {"parked_at": now, "error": "KeyError: 'status'"},
            "refused": {"handled_at": now, "error": "The processor does not know it."},
        }
        values = {
            "portal_id": account.portal_id,
            "account_id": account.id,
            "event_id": f"evt_{new_id()}",
            "type": "order.paid",
            "headers": [["content-type", "application/json"]],
            "body": b'{"id": "evt_1"}',
            "received_at": now,
            **by_state[state],
            **fields,
        }
        row: models.Event = save(self.database, models.Event(**values))
        done: dict[str, Any] = {"done_at": now} if state in ("handled", "refused") else {}
        parked: dict[str, Any] = {"parked_at": now, "attempts": 12} if state == "parked" else {}
        save(
            self.database,
            models.Job(
                kind="event",
                payload={
                    "event": row.id,
                    "id": row.event_id,
                    "type": row.type,
                    "subject": {"kind": "order", "id": "o_1"},
                    "occurred_at": None,
                    "body": {},
                },
                run_at=now,
                created_at=now,
                dedupe=f"event:{row.id}",
                **done,
                **parked,
            ),
        )
        return row

    def page(self, *args: Any) -> inbox.EventsPage:
        return self.database.read_now(inbox.events, self.portal.id, *args)

    def now(self, model: Any, row_id: int) -> Any:
        return self.database.read_now(lambda db: db.get_one(model, row_id))

    def job(self, event: models.Event) -> models.Job:
        return self.database.read_now(job_of, event)

    def audits(self) -> list[models.Audit]:
        return self.database.read_now(lambda db: list(db.execute(select(models.Audit)).scalars()))


def job_of(db: Session, event: models.Event) -> models.Job:
    dedupe = col(models.Job.dedupe) == f"event:{event.id}"
    return db.execute(select(models.Job).where(dedupe)).scalar_one()


@pytest.fixture
def shop(database: Database) -> Shop:
    return Shop(database)


class Gateway:
    """Says what it is told to say, or raises it."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def refetch(self, event: Event) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def fetch(self, ref: Ref) -> Any:
        return await self.refetch(None)  # type: ignore[arg-type]

    async def aclose(self) -> None:
        pass


def worker(shop: Shop, monkeypatch: pytest.MonkeyPatch, answer: Any) -> work.Worker:
    monkeypatch.setattr(work, "open_gateway", lambda *a, **k: Gateway(answer))
    return work.Worker(Settings(master_keys=MASTER_KEY, scheme="http"), shop.database)


# Lists


def test_states_and_parked_first(shop: Shop) -> None:
    made = {state: shop.event(state) for state in ("handled", "parked", "refused", "waiting")}
    shop.event("parked", shop.others_account)
    page = shop.page()
    assert [(row.id, row.state) for row in page.parked] == [(made["parked"].id, "parked")]
    assert [row.state for row in page.rows] == ["waiting", "refused", "handled"]
    assert page.how_many_parked == 1
    for state, row in made.items():
        found = shop.page(state)
        assert [one.id for one in found.rows] == [row.id]
        assert found.parked == ()
    assert page.rows[0].account == "Main till"


def test_of_one_account(shop: Shop) -> None:
    second = make_account(shop.database, shop.portal, label="Second")
    here = {state: shop.event(state, second) for state in ("handled", "parked", "refused", "waiting")}
    for state in here:
        shop.event(state)
    page = shop.page("all", second.id)
    assert {row.id for row in page.rows} == {row.id for state, row in here.items() if state != "parked"}
    assert [row.id for row in page.parked] == [here["parked"].id]
    assert page.how_many_parked == 1
    for state, row in here.items():
        assert [one.id for one in shop.page(state, second.id).rows] == [row.id]
    assert shop.page("all", shop.others_account.id).rows == ()


@pytest.mark.parametrize("state", inbox.STATES)
@pytest.mark.parametrize("of_account", [False, True])
def test_lists_go_on_by_their_cursor(shop: Shop, state: Any, of_account: bool) -> None:
    for number in range(30):
        shop.event("handled" if state == "all" else state, received_at=NOW + timedelta(minutes=number // 3))
    account = shop.account.id if of_account else None
    first = shop.page(state, account)
    assert len(first.rows) == 25
    assert first.older is not None
    rest = shop.page(state, account, Cursor.parse(first.older))
    assert len(rest.rows) == 5
    assert rest.older is None
    assert rest.parked == ()
    ids = [row.id for row in (*first.rows, *rest.rows)]
    assert len(set(ids)) == 30
    assert ids == sorted(ids, reverse=True)


INDEXES = {
    "all": "ix_event_list",
    "parked": "ix_event_parked",
    "waiting": "ix_event_waiting",
    "refused": "ix_event_refused",
    "handled": "ix_event_list",
}


def test_lists_are_read_by_their_index(shop: Shop) -> None:
    # Many portals, each with two accounts: as in life, one of them is a small part.
    accounts = [shop.account, make_account(shop.database, shop.portal, label="Second")]
    for name in "abcdef":
        portal = make_portal(shop.database, name)
        accounts += [make_account(shop.database, portal), make_account(shop.database, portal)]

    def fill(db: Session) -> None:
        for number in range(2800):
            mine = number % 50 < 2
            state = "handled" if number % 8 > 1 else ("parked", "waiting", "refused")[number % 3]
            account = accounts[number % 2 if mine else 2 + number % (len(accounts) - 2)]
            row = models.Event(
                portal_id=account.portal_id,
                account_id=account.id,
                event_id=str(number),
                type="order.paid",
                headers=[],
                received_at=NOW + timedelta(minutes=number),
                handled_at=NOW if state in ("handled", "refused") else None,
                parked_at=NOW if state == "parked" else None,
                error="no" if state in ("refused", "parked") else None,
            )
            db.add(row)

    shop.database.write_now(fill)
    for state in inbox.STATES:
        for of_account in (False, True):
            _is_read_by_its_index(shop, state, of_account)


def _is_read_by_its_index(shop: Shop, state: Any, of_account: bool) -> None:
    statement = (inbox.OF_ACCOUNT if of_account else inbox.LISTS)[state]
    values = {"portal": shop.portal.id, "id": 2**62, "at": clock.now(), "account": shop.account.id}
    lines = plan(shop.database, statement, values)
    assert not wholes(lines), lines
    assert not sorts(lines), lines
    index = "ix_event_of_account" if of_account and state in ("all", "handled") else INDEXES[state]
    # On so few PostgreSQL would rather go back through all by their ids, which is in order too.
    ids = "pk_event" if state in ("all", "handled") and not of_account else index
    assert any(index in line or ids in line for line in lines), lines


def test_troubled_syncs_are_read_by_their_index(shop: Shop) -> None:
    lines = plan(shop.database, inbox.TROUBLED, {"portal": shop.portal.id, "before": 2**62})
    assert uses(lines, "ix_job_trouble"), lines
    assert not sorts(lines), lines


# Bodies


def test_json_is_set_out_and_other_texts_stay() -> None:
    assert inbox.readable(b'{"b":1,"a":"\xc3\xa9"}') == ('{\n  "b": 1,\n  "a": "é"\n}', True)
    assert inbox.readable(b"a=1&b=2") == ("a=1&b=2", False)
    assert inbox.readable(b"\xff\xfe") == ("\ufffd\ufffd", False)
    assert inbox.readable(b"") == ("", False)


def test_what_turns_text_around_or_cannot_be_seen_is_replaced() -> None:
    assert inbox.readable("a\u202eb\u2066c\x1b[31m\x00".encode())[0] == "a\ufffdb\ufffdc\ufffd[31m\ufffd"
    assert inbox.readable(b'{"a": "\\u202e"}')[0] == '{\n  "a": "\ufffd"\n}'


def test_a_deep_or_long_body_is_no_error() -> None:
    assert inbox.readable(b"[" * 50_000)[1] is False
    shown, is_json = inbox.readable(b'"' + b"x" * 100_000 + b'"')
    assert (len(shown), is_json) == (inbox.SHOWN, False)


@given(st.binary(max_size=2000))
def test_no_body_is_an_error(body: bytes) -> None:
    shown, _ = inbox.readable(body)
    assert all(c.isprintable() or c in "\n\t" for c in shown)


def test_reasons_are_sentences() -> None:
    assert inbox.reason(None) is None
    assert inbox.reason("PayPal does not know it.") == "PayPal does not know it."
    assert inbox.reason("KeyError: 'x'") == (
        "The portal could not make sense of it. For who looks after it: KeyError: 'x'"
    )


# One event


def test_an_event_with_its_job_and_what_it_changed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    event = shop.event()
    order = OrderRecord(
        remote_id="o_1", status="paid", number="1001", email="ana@example.com", amount=Money(5, "USD")
    )
    asyncio.run(worker(shop, monkeypatch, Snapshot(as_of=clock.now(), orders=(order,))).once())
    page = shop.database.read_now(inbox.event_page, shop.portal.id, event.id)
    assert page is not None
    assert (page.state, page.tries, page.last_error, page.can_replay) == ("handled", 1, None, True)
    assert page.touched is not None
    (one,) = page.touched
    assert (one.kind, one.name, one.before, one.after) == ("order", "1001", None, "paid")
    assert one.customer_id is not None
    assert shop.database.read_now(inbox.event_page, shop.other.id, event.id) is None


def test_a_body_that_is_gone_is_said(shop: Shop) -> None:
    page = shop.database.read_now(inbox.event_page, shop.portal.id, shop.event("handled", body=None).id)
    assert page is not None
    assert (page.body, page.can_replay, page.touched) == (None, False, None)


# Once more


def test_a_parked_event_is_carried_out_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    event = shop.event("parked")
    now = clock.now()
    shop.database.write_now(inbox.replay, shop.person, shop.portal.id, event.id, now)
    row, job = shop.now(models.Event, event.id), shop.job(event)
    assert inbox.state_of(row) == "waiting"
    assert (job.parked_at, job.done_at, job.attempts, job.error, job.run_at) == (None, None, 0, None, now)
    assert [(one.what, one.subject) for one in shop.audits()] == [
        ("event.replayed", f"order.paid {event.event_id}")
    ]
    asyncio.run(worker(shop, monkeypatch, None).once())
    assert inbox.state_of(shop.now(models.Event, event.id)) == "handled"
    # And again, as long as its job is there.
    shop.database.write_now(inbox.replay, shop.person, shop.portal.id, event.id, clock.now())
    assert inbox.state_of(shop.now(models.Event, event.id)) == "waiting"


def test_what_cannot_be_carried_out_again(shop: Shop) -> None:
    event = shop.event("parked")
    with pytest.raises(LookupError):
        shop.database.write_now(inbox.replay, shop.person, shop.other.id, event.id, NOW)
    gone = shop.event("parked", body=None)
    with pytest.raises(Refused, match="gone"):
        shop.database.write_now(inbox.replay, shop.person, shop.portal.id, gone.id, NOW)

    def change(db: Session, values: dict[str, Any]) -> None:
        job = job_of(db, event)
        for name, value in values.items():
            setattr(job, name, value)

    later = clock.now() + timedelta(minutes=1)
    shop.database.write_now(change, {"parked_at": None, "locked_until": later})
    with pytest.raises(Refused, match="right now"):
        shop.database.write_now(inbox.replay, shop.person, shop.portal.id, event.id, clock.now())
    shop.database.write_now(lambda db: db.delete(job_of(db, event)))
    with pytest.raises(Refused, match="gone"):
        shop.database.write_now(inbox.replay, shop.person, shop.portal.id, event.id, clock.now())
    shop.database.write_now(
        lambda db: setattr(db.get_one(models.Account, shop.account.id), "disconnected_at", NOW)
    )
    other = shop.event("parked")
    with pytest.raises(Refused, match="disconnected"):
        shop.database.write_now(inbox.replay, shop.person, shop.portal.id, other.id, clock.now())
    with pytest.raises(Refused, match="disconnected"):
        shop.database.write_now(
            inbox.replay_parked, shop.person, shop.portal.id, shop.account.id, clock.now()
        )
    assert shop.audits() == []


def test_all_parked_of_one_account(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    second = make_account(shop.database, shop.portal, label="Second")
    mine = [shop.event("parked") for _ in range(5)]
    gone = shop.event("parked", body=None)
    elsewhere = shop.event("parked", second)
    monkeypatch.setattr(inbox, "BATCH", 2)
    after, counts = 0, []
    more: int | None = 0
    while more is not None:
        count, more = shop.database.write_now(
            inbox.replay_parked, shop.person, shop.portal.id, shop.account.id, clock.now(), after
        )
        counts.append(count)
        after = more or 0
    assert counts == [2, 2, 1]
    assert {inbox.state_of(shop.now(models.Event, one.id)) for one in mine} == {"waiting"}
    assert inbox.state_of(shop.now(models.Event, gone.id)) == "parked"
    assert inbox.state_of(shop.now(models.Event, elsewhere.id)) == "parked"
    assert [(one.subject, one.after) for one in shop.audits()] == [
        ("Main till", {"count": 2}),
        ("Main till", {"count": 2}),
        ("Main till", {"count": 1}),
    ]
    with pytest.raises(LookupError):
        shop.database.write_now(inbox.replay_parked, shop.person, shop.other.id, shop.account.id, clock.now())


# Syncs


def test_a_failed_sync_is_its_portals_trouble_until_it_is_mended(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ana = make_customer(shop.database, shop.portal)
    row = make_subscription(shop.database, shop.account, ana, title="Coffee box")
    shop.database.write_now(enqueue, "refresh", {"subscription": row.id}, clock.now(), None)
    down = worker(shop, monkeypatch, Unavailable("Down.", "Stripe is down."))
    asyncio.run(down.once())
    (one,) = shop.database.read_now(inbox.syncs, shop.portal.id).rows
    assert (one.kind, one.account, one.name, one.parked, one.tries) == (
        "refresh",
        "Main till",
        "Coffee box",
        False,
        1,
    )
    assert one.error is not None
    assert shop.database.read_now(inbox.syncs, shop.other.id).rows == ()
    with pytest.raises(LookupError):
        shop.database.write_now(inbox.retry_sync, shop.person, shop.other.id, one.id, clock.now())
    shop.database.write_now(inbox.retry_sync, shop.person, shop.portal.id, one.id, clock.now())
    asyncio.run(worker(shop, monkeypatch, Snapshot(as_of=clock.now())).once())
    assert shop.database.read_now(inbox.syncs, shop.portal.id).rows == ()
    assert [audit.what for audit in shop.audits()] == ["sync.retried"]
    with pytest.raises(LookupError):
        shop.database.write_now(inbox.retry_sync, shop.person, shop.portal.id, one.id, clock.now())


def test_whose_a_job_is(shop: Shop) -> None:
    ana = make_customer(shop.database, shop.portal)
    row = make_subscription(shop.database, shop.account, ana)
    action = make_action(shop.database, row)
    event = shop.event()
    for kind, payload, whose in (
        ("refresh", {"subscription": row.id}, shop.portal.id),
        ("read_back", {"action": action.id}, shop.portal.id),
        ("backfill", {"account": shop.others_account.id}, shop.other.id),
        ("refresh", {"subscription": 5}, None),
        ("event", {"event": event.id}, None),  # that one stands among the events
        ("mail", {"template": "cancelled", "action": action.id}, None),
    ):
        assert shop.database.read_now(inbox.portal_of_job, kind, payload) == whose, kind


def test_a_sync_that_is_set_aside_stays_until_somebody_tries_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.database.write_now(enqueue, "check_account", {"account": shop.account.id}, clock.now(), None)
    monkeypatch.setattr(work, "TRIES", 1)
    monkeypatch.setattr(accounts, "open_gateway", lambda *a, **k: (_ for _ in ()).throw(KeyError("x")))
    asyncio.run(work.Worker(Settings(master_keys=MASTER_KEY, scheme="http"), shop.database).once())
    (one,) = shop.database.read_now(inbox.syncs, shop.portal.id).rows
    assert (one.parked, one.account, one.customer_id) == (True, "Main till", None)
    assert inbox.reason(one.error) == (
        "The portal could not make sense of it. For who looks after it: KeyError: 'x'"
    )
