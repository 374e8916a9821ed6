"""The queue and its order, the daily mail, and what a ready answer is filled with."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from portal import clock, customers, desk, letters, merchants, models, people, requests, work
from portal.db import Database
from portal.ids import id_text
from portal.mail import Outcome
from portal.queries import Cursor
from portal.settings import Settings
from tests.unit.builders import (
    MASTER_KEY,
    NOW,
    make_account,
    make_action,
    make_customer,
    make_order,
    make_payment,
    make_portal,
    make_refund,
    make_request,
    make_subscription,
    save,
)
from tests.unit.plans import plan, sorts, uses, wholes


class Shop:
    def __init__(self, database: Database, **fields: Any) -> None:
        self.database = database
        self.portal = make_portal(database, **fields)
        self.account = make_account(database, self.portal)
        self.ana = make_customer(database, self.portal)
        self.other = make_portal(database, "kora", name="Kora")
        self.person = merchants.Person(
            5, "ed@acme.example", "Ed", self.portal.merchant_id, "Acme", "editor", 1, NOW
        )

    def ask(self, **fields: Any) -> models.Request:
        row = make_subscription(self.database, self.account, self.ana)
        return make_request(self.database, row, **fields)

    def queue(self, which: Any = "open", after: Cursor | None = None, portal: Any = None) -> desk.Queue:
        return self.database.read_now(desk.queue, (portal or self.portal).id, which, NOW, after)

    def jobs(self) -> list[models.Job]:
        return self.database.read_now(
            lambda db: list(db.execute(select(models.Job).order_by(models.Job.id)).scalars())  # type: ignore[arg-type]
        )


@pytest.fixture
def shop(database: Database) -> Shop:
    return Shop(database)


# The queue


def test_what_is_due_first_stands_on_top(shop: Shop) -> None:
    due = [shop.ask(due_at=NOW + timedelta(days=days)) for days in (3, -1, 1, -5)]
    answered = [
        shop.ask(status="done", closed_at=NOW - timedelta(days=days), due_at=NOW) for days in (2, 1, 3)
    ]
    found = shop.queue()
    assert [row.id for row in found.rows] == [due[3].id, due[1].id, due[2].id, due[0].id]
    assert [row.is_late for row in found.rows] == [True, True, False, False]
    assert (found.open, found.overdue) == (4, 2)
    assert [row.id for row in shop.queue("overdue").rows] == [due[3].id, due[1].id]
    assert [row.id for row in shop.queue("answered").rows] == [answered[1].id, answered[0].id, answered[2].id]
    assert shop.queue(portal=shop.other) == desk.Queue((), None, 0, 0)


@pytest.mark.parametrize("which", ["open", "overdue", "answered"])
def test_the_queue_goes_on_by_its_cursor(shop: Shop, which: Any) -> None:
    for number in range(60):
        moment = NOW - timedelta(hours=1 + number // 3)  # several at the same moment
        closed = {"status": "declined", "closed_at": moment} if which == "answered" else {}
        shop.ask(due_at=moment, **closed)
    seen: list[desk.QueueRow] = []
    cursor, sizes = None, []
    while True:
        page = shop.queue(which, cursor)
        seen += page.rows
        sizes.append(len(page.rows))
        if page.older is None:
            break
        cursor = Cursor.parse(page.older)
    assert sizes == [25, 25, 10]
    assert len({row.id for row in seen}) == 60
    wanted = sorted(seen, key=lambda row: (row.closed_at or row.due_at, row.id), reverse=which == "answered")
    assert seen == wanted


LISTS: list[tuple[Select[Any], str, dict[str, Any]]] = [
    (desk.OPEN, "ix_request_due", {"at": NOW - timedelta(days=99)}),
    (desk.OVERDUE, "ix_request_due", {"at": NOW - timedelta(days=99), "now": NOW}),
    (desk.ANSWERED, "ix_request_answered", {"at": NOW + timedelta(days=99)}),
]


@pytest.mark.parametrize(("statement", "index", "more"), LISTS, ids=["open", "overdue", "answered"])
def test_the_queue_is_read_by_its_index(
    shop: Shop, statement: Select[Any], index: str, more: dict[str, Any]
) -> None:
    def fill(db: Session) -> None:
        for number in range(900):
            closed: Any = {"status": "done", "closed_at": NOW - timedelta(hours=number)} if number % 2 else {}
            request = models.Request(
                portal_id=shop.portal.id,
                account_id=shop.account.id,
                customer_id=shop.ana.id,
                subject_id=number,
                kind="pause",
                reference=str(number),
                what="",
                params={},
                history=[],
                due_at=NOW - timedelta(hours=number),
                created_at=NOW,
                **closed,
            )
            db.add(request)

    shop.database.write_now(fill)

    values = {"portal": shop.portal.id, "id": 5, **more}
    lines = plan(shop.database, statement, values, off=("hashjoin", "mergejoin"))
    assert uses(lines, index), lines
    assert not wholes(lines), lines
    assert not sorts(lines), lines


def test_who_answered_is_kept_for_the_merchant(shop: Shop) -> None:
    asked = shop.ask()
    shop.database.write_now(desk.answer, shop.person, shop.portal.id, asked.id, "done", "", NOW)
    page = shop.database.read_now(desk.request_page, shop.portal.id, asked.id)
    assert page is not None
    assert (page.answered_by, page.row.status) == ("Ed", "done")
    assert shop.database.read_now(desk.request_page, shop.other.id, asked.id) is None
    with pytest.raises(LookupError):
        shop.database.write_now(desk.answer, shop.person, shop.other.id, asked.id, "done", "", NOW)
    with pytest.raises(requests.NotOpen):
        shop.database.write_now(desk.answer, shop.person, shop.portal.id, asked.id, "done", "", NOW)


@given(st.text(max_size=200))
def test_only_the_known_holes_are_filled(template: str) -> None:
    site = models.Portal(
        merchant_id=1, slug="acme", name="A{what}", support_email="h@a.example", brand={}, cancel_reasons=[]
    )
    row = models.Request(
        portal_id=1,
        account_id=1,
        customer_id=1,
        subject_id=1,
        kind="pause",
        reference="K7M-2QX",
        what="{shop}",
        params={},
        history=[],
        due_at=NOW,
        created_at=NOW,
    )
    who = models.Customer(portal_id=1, email="ana@example.com", name=None, created_at=NOW)
    page = desk.RequestPage(row, who, "Stripe", "Stripe", None, None)
    assert desk.filled(template.replace("{", "("), page, site) == template.replace("{", "(")
    # What is filled in is not filled again.
    assert desk.filled("{what}|{shop}|{customer}|{reference}", page, site) == (
        "{shop}|A{what}|ana@example.com|K7M-2QX"
    )


# The daily mail


def at(hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 11, 24, hour, minute, tzinfo=UTC)


def want(shop: Shop, moment: datetime) -> int:
    return shop.database.write_now(desk.want_digests, moment)


@pytest.mark.parametrize(
    ("zone", "moment", "sent_at"),
    [
        ("UTC", at(5, 59), None),
        ("UTC", at(6), at(8)),
        ("UTC", at(8, 30), at(8, 30)),
        ("UTC", at(11), None),
        ("Asia/Tokyo", at(0), at(0)),  # nine there
        ("Asia/Tokyo", at(8), None),
        ("America/New_York", at(12), at(13)),  # seven there
    ],
)
def test_it_goes_out_in_the_morning_of_the_portals_zone(
    database: Database, zone: str, moment: datetime, sent_at: datetime | None
) -> None:
    shop = Shop(database, time_zone=zone)
    shop.ask()
    assert want(shop, moment) == (sent_at is not None)
    assert [job.run_at for job in shop.jobs()] == ([sent_at] if sent_at else [])


def test_once_a_day_and_only_where_something_is_open(shop: Shop) -> None:
    shop.ask(status="done", closed_at=NOW)
    assert want(shop, at(7)) == 0
    asked = shop.ask(created_at=at(9))
    assert want(shop, at(10)) == 0  # of this one a mail of its own went out just now
    shop.database.write_now(lambda db: setattr(db.get_one(models.Request, asked.id), "created_at", at(7)))
    for moment in (at(9), at(10), at(10, 59)):
        want(shop, moment)
    want(shop, at(9) + timedelta(days=1))
    assert [job.dedupe for job in shop.jobs()] == [
        f"request_digest:{shop.portal.id}:2026-11-24",
        f"request_digest:{shop.portal.id}:2026-11-25",
    ]


def test_the_worker_asks_for_it_in_its_sweep(shop: Shop) -> None:
    shop.ask()
    shop.database.write_now(work._sweep, at(7))
    assert [job.payload for job in shop.jobs() if job.kind == "mail"] == [
        {"template": "request_digest", "portal": shop.portal.id, "day": "2026-11-24"}
    ]


def sent(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, payload: dict[str, Any]
) -> list[tuple[str, EmailMessage]]:
    found: list[tuple[str, EmailMessage]] = []

    async def keep(
        settings: Settings, messages: Sequence[tuple[str, EmailMessage]], taken: object = None
    ) -> list[Outcome | None]:
        found.extend(messages)
        return [None] * len(messages)

    monkeypatch.setattr(letters, "send_batch", keep)
    settings = Settings(master_keys=MASTER_KEY, scheme="http", admin_host="desk.example")
    assert asyncio.run(letters.send(shop.database, settings, [("mail", payload)])) == [None]
    return found


def words(message: EmailMessage) -> str:
    body = message.get_body(("plain",))
    assert body is not None
    return " ".join(body.get_content().split())


def test_it_counts_and_lists_what_is_overdue_first(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock.now()
    shop.ask(due_at=now + timedelta(days=3), what="Coffee box")
    shop.ask(due_at=now - timedelta(days=2), what="Tea box")
    for _ in range(10):
        shop.ask(due_at=now + timedelta(days=9))
    payload = {"template": "request_digest", "portal": shop.portal.id, "day": now.date().isoformat()}
    ((to, message),) = sent(shop, monkeypatch, payload)
    assert to == "help@acme.example"
    assert message["Subject"] == "12 requests wait for an answer"
    told = words(message)
    assert "1 is overdue." in told
    assert told.index("Overdue since") < told.index("By ")
    assert "ana@example.com asks to let Tea box go on after all." in told
    assert "And 2 more." in told
    assert f"http://desk.example/settings/portals/{id_text(shop.portal.id)}/requests" in told
    html = message.get_body(("html",))
    assert html is not None
    assert (
        f'href="http://desk.example/settings/portals/{id_text(shop.portal.id)}/requests"'
        in html.get_content()
    )


def test_it_goes_to_who_is_asked_and_not_where_all_is_answered_by_then(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(database, request_email="desk@acme.example")
    payload = {"template": "request_digest", "portal": shop.portal.id, "day": "2026-11-24"}
    assert sent(shop, monkeypatch, payload) == []
    shop.ask()
    ((to, message),) = sent(shop, monkeypatch, payload)
    assert (to, message["Subject"]) == ("desk@acme.example", "1 request waits for an answer")


def test_what_is_due_today_is_counted_by_the_portals_day(database: Database) -> None:
    shop = Shop(database, time_zone="Asia/Tokyo")
    day = date(2026, 11, 24)
    now = datetime(2026, 11, 24, 0, tzinfo=UTC)  # nine in Tokyo
    shop.ask(due_at=datetime(2026, 11, 24, 14, 59, tzinfo=UTC))
    shop.ask(due_at=datetime(2026, 11, 24, 15, 1, tzinfo=UTC))  # tomorrow there
    found = database.read_now(desk.digest, shop.portal.id, day, "Asia/Tokyo", now)
    assert found is not None
    assert (found.open, found.overdue, found.today) == (2, 0, 1)


def test_a_mail_to_the_merchant_leads_to_the_requests_page(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = shop.ask()
    for template in ("request_new", "request_late", "request_withdrawn"):
        ((to, message),) = sent(shop, monkeypatch, {"template": template, "request": asked.id})
        assert to == "help@acme.example"
        here = f"http://desk.example/settings/portals/{id_text(shop.portal.id)}/requests/{id_text(asked.id)}"
        assert here in words(message)
    ((to, message),) = sent(shop, monkeypatch, {"template": "request_received", "request": asked.id})
    assert to == "ana@example.com"
    assert "desk.example" not in words(message)


# Mails about further addresses


def test_both_are_told_of_a_join_and_no_address_is_given_away(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_customer(shop.database, shop.portal, "old@example.com")
    now = clock.now()
    shop.database.write_now(people.ask_join, shop.person, shop.portal.id, shop.ana.id, "old@example.com", now)
    (job,) = shop.jobs()
    ((to, message),) = sent(shop, monkeypatch, job.payload)
    assert to == "old@example.com"
    told = words(message)
    assert "a•••@example.com" in told
    assert "ana@example.com" not in message.as_string()
    token = told.partition("/customers/join/")[2].split()[0]
    assert not any(token in str(value) for value in message.values())
    assert shop.database.write_now(people.prove, shop.portal.id, token, now)
    ((to, message),) = sent(shop, monkeypatch, shop.jobs()[-1].payload)
    assert to == "ana@example.com"
    assert "From now on this address and old@example.com are one person" in words(message)
    ((to, message),) = sent(shop, monkeypatch, shop.jobs()[-2].payload)
    assert to == "old@example.com"
    assert "a•••@example.com" in words(message)
    assert "ana@example.com" not in message.as_string()
    # The ask is over: its mail is not written again.
    assert sent(shop, monkeypatch, job.payload) == []


# A customer's page


def test_the_timeline_has_everything_in_one_order(shop: Shop) -> None:
    day = timedelta(days=1)
    make_order(shop.database, shop.account, shop.ana, placed_at=NOW - 9 * day, number="1001")
    paid = make_payment(shop.database, shop.account, shop.ana, placed_at=NOW - 8 * day, paid_at=NOW - 8 * day)
    make_refund(shop.database, shop.account, paid, placed_at=NOW - 7 * day)
    row = make_subscription(shop.database, shop.account, shop.ana)
    make_action(
        shop.database,
        row,
        created_at=NOW - 6 * day,
        confirmed_at=NOW - 5 * day,
        closed_at=NOW - 5 * day,
        phase="confirmed",
    )
    history = [
        {"at": (NOW - 4 * day).isoformat(), "who": "customer", "what": "asked", "text": None},
        {"at": (NOW - 3 * day).isoformat(), "who": "merchant", "what": "done", "text": None},
    ]
    asked = make_request(
        shop.database, row, created_at=NOW - 4 * day, closed_at=NOW - 3 * day, status="done", history=history
    )
    told: list[tuple[str, str, Any]] = [
        (f"mail:request_answered:{asked.id}", "request_answered", {"done_at": NOW - 2 * day}),
        (f"payment_failed:{paid.id}", "payment_failed", {"parked_at": NOW - day}),
    ]
    for dedupe, template, done in told:
        job = models.Job(
            kind="mail", payload={"template": template}, run_at=NOW, created_at=NOW, dedupe=dedupe, **done
        )
        save(shop.database, job)
    page = shop.database.read_now(customers.customer_page, shop.portal.id, shop.ana.id, NOW)
    assert page is not None
    assert [line.what for line in page.lines] == [
        "known",  # in these tests everybody came to be just now
        "mail_failed",
        "mail_sent",
        "request_done",
        "request_asked",
        "proven",
        "did_pause",
        "refund_sent",
        "paid",
        "placed",
    ]
    assert not page.more_lines
    assert shop.database.read_now(customers.customer_page, shop.other.id, shop.ana.id, NOW) is None


def test_the_timeline_goes_no_further_back_than_every_list(shop: Shop) -> None:
    for number in range(30):
        make_payment(
            shop.database,
            shop.account,
            shop.ana,
            placed_at=NOW - timedelta(days=number),
            paid_at=NOW - timedelta(days=number),
        )
    make_order(shop.database, shop.account, shop.ana, placed_at=NOW - timedelta(days=27))
    page = shop.database.read_now(customers.customer_page, shop.portal.id, shop.ana.id, NOW)
    assert page is not None
    assert page.more_lines
    assert "placed" not in {line.what for line in page.lines}  # payments of those days are missing here
    assert len(page.lines) == customers.LINES


def test_deeds_go_on_by_their_cursor_and_their_index(shop: Shop) -> None:
    row = make_subscription(shop.database, shop.account, shop.ana)
    made = [
        make_action(shop.database, row, closed_at=NOW, phase="confirmed", confirmed_at=NOW) for _ in range(30)
    ]
    first = shop.database.read_now(customers.deeds, shop.portal.id, shop.ana.id)
    rest = shop.database.read_now(customers.deeds, shop.portal.id, shop.ana.id, first.older)
    assert [one.id for one in (*first.rows, *rest.rows)] == [one.id for one in reversed(made)]
    assert rest.older is None
    assert shop.database.read_now(customers.deeds, shop.other.id, shop.ana.id).rows == ()

    bo = make_customer(shop.database, shop.portal, "bo@example.com")
    theirs = make_subscription(shop.database, shop.account, bo)
    for _ in range(100):  # else going through all of them would be as good
        make_action(shop.database, theirs, closed_at=NOW, phase="confirmed", confirmed_at=NOW)

    values = {"portal": shop.portal.id, "customer": shop.ana.id, "before": 2**62}
    counted = not shop.database.is_sqlite
    lines = plan(shop.database, customers.DEEDS, values, off=("hashjoin", "mergejoin"), counted=counted)
    assert uses(lines, "ix_action_customer"), lines
    assert not sorts(lines), lines
