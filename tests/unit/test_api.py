"""The API as the merchant's own app calls it: keys, limits, problems, reading, pushing, and the way in."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from portal import api, clock, login, models, outgoing, requests, shapes, work
from portal.app import create_app
from portal.db import Database
from portal.ids import id_text, new_id
from portal.settings import Settings
from portal.views.api import OPERATIONS
from tests.unit.builders import (
    MASTER_KEY,
    NOW,
    make_account,
    make_customer,
    make_order,
    make_payment,
    make_portal,
    make_subscription,
    save,
)
from tests.unit.plans import plan_of, reads_little, sorts, uses, wholes

SETTINGS = Settings(
    scheme="http",
    base_domain="localhost",
    master_keys=SecretStr(MASTER_KEY),
    secret_key=SecretStr("of tests"),
)
OWN = {"Sec-Fetch-Site": "same-origin"}


@dataclass
class Shop:
    """A portal with somebody in it, and a key."""

    database: Database
    portal: models.Portal
    account: models.Account
    ana: models.Customer
    order: models.Order
    subscription: models.Subscription
    payment: models.Payment
    key: str

    def ask(self, **fields: Any) -> models.Request:
        """Something that Ana asks the merchant to do."""

        def write(db: Session) -> models.Request:
            values = {
                "subject_id": self.subscription.id,
                "kind": "pause",
                "what": "Monthly coffee box",
                **fields,
            }
            return requests.ask(db, self.portal.id, self.account.id, self.ana.id, now=clock.now(), **values)

        return self.database.write_now(write)


def make_key(database: Database, portal: models.Portal, *scopes: str) -> str:
    wanted = scopes or tuple(api.SCOPES)
    return database.write_now(api.new_key, portal.id, "The shop", wanted, None, clock.now())[1]


def make_shop(database: Database, slug: str) -> Shop:
    portal = make_portal(database, slug)
    account = make_account(database, portal)
    ana = make_customer(database, portal, "ana@example.com", name="Ana")
    return Shop(
        database,
        portal,
        account,
        ana,
        make_order(database, account, ana),
        make_subscription(database, account, ana),
        make_payment(database, account, ana),
        make_key(database, portal),
    )


@pytest.fixture
def acme(database: Database) -> Shop:
    return make_shop(database, "acme")


@pytest.fixture
def nova(database: Database) -> Shop:
    return make_shop(database, "nova")


class App(TestClient):
    """The merchant's app: it comes under any host, and sends its key."""

    def __init__(self, database: Database, key: str | None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        super().__init__(create_app(SETTINGS, database), "http://anything.example", headers=headers)

    def put_orders(self, *orders: dict[str, Any]) -> Any:
        return self.put("/api/v1/orders", json={"orders": list(orders)})


@pytest.fixture
def app(database: Database, acme: Shop) -> Iterator[App]:
    with App(database, acme.key) as found:
        yield found


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The problem that an answer is, in the shape that every one has."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    said: dict[str, Any] = answer.json()
    assert (said["type"], said["code"], said["status"]) == (f"urn:portal:problem:{code}", code, status)
    assert set(said) == {"type", "title", "status", "code", "detail", "request_id", "errors"}
    assert said["request_id"] == answer.headers["x-request-id"]
    return said


def pointers(said: dict[str, Any]) -> list[str]:
    return [one["pointer"] for one in said["errors"]]


def example(path: str, shop: Shop, request: models.Request | None = None) -> str:
    """An operation's address, about something of this shop."""
    values = {
        "customer_id": id_text(shop.ana.id),
        "order_id": id_text(shop.order.id),
        "reference": request.reference if request else "K7M-2QX",
    }
    return "/api/v1" + path.format(**values)


# Keys


def test_a_key_is_shown_once_and_kept_as_a_hash(database: Database, acme: Shop) -> None:
    assert api.KEY.fullmatch(acme.key)
    assert len(acme.key) == 55
    (row,) = database.read_now(lambda db: db.execute(select(models.ApiKey)).scalars().all())
    assert row.prefix == acme.key[:11]
    assert acme.key.rpartition(row.prefix)[2][1:] not in repr(row)
    assert row.key_hash != acme.key
    assert len(row.key_hash) == 64


def test_whatever_is_no_good_key_gets_the_same_answer(database: Database, acme: Shop) -> None:
    (row,) = database.read_now(api.keys, acme.portal.id)
    revoked = acme.key
    good = make_key(database, acme.portal)
    database.write_now(api.revoke, acme.portal.id, row.id, clock.now())
    wrong = [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {revoked}",
        f"Bearer {good[:-1]}",
        f"Bearer {good}x",
        f"Bearer {good[:11]}_{'A' * 43}",
        f"Bearer {good.upper()}",
        f"Basic {good}",
        good,
        f"Bearer {'x' * 5000}",
        "Bearer pk_' OR 1=1 --",
    ]
    bodies = set()
    with App(database, None) as app:
        for header in wrong:
            answer = app.get("/api/v1/customers", headers={} if header is None else {"Authorization": header})
            said = problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == 'Bearer realm="Portal"'
            assert "ratelimit-limit" not in answer.headers
            del said["request_id"]
            bodies.add(json.dumps(said, sort_keys=True))
        assert app.get("/api/v1/customers", headers={"Authorization": f"bearer {good}"}).status_code == 200
    assert len(bodies) == 1


def test_a_session_of_a_browser_opens_nothing_here(database: Database, acme: Shop) -> None:
    with App(database, None) as app:
        for name in ("portal", "__Host-portal", "portal-merchant"):
            app.cookies.set(name, acme.key)
        problem(app.get("/api/v1/customers"), 401, "unauthorized")


@pytest.mark.parametrize("one", [one for one in OPERATIONS if one.scope], ids=lambda one: one.name)
def test_a_key_without_the_scope_is_refused(database: Database, acme: Shop, one: Any) -> None:
    others = [scope for scope in api.SCOPES if scope != one.scope]
    with App(database, make_key(database, acme.portal, *others)) as app:
        said = problem(app.request(one.method, example(one.path, acme), json={}), 403, "scope_missing")
    assert one.scope in said["detail"]


def test_every_operation_that_tells_something_takes_a_scope() -> None:
    assert {one.name for one in OPERATIONS if one.scope is None} == {"list_accounts"}
    assert {one.scope for one in OPERATIONS if one.scope} == set(api.SCOPES)


def test_neither_host_nor_cookie_is_looked_at(database: Database, acme: Shop, nova: Shop) -> None:
    with App(database, acme.key) as app:
        answer = app.get("/api/v1/customers", headers={"Host": "nova.localhost"})
        assert [one["id"] for one in answer.json()["data"]] == [id_text(acme.ana.id)]
        assert "set-cookie" not in answer.headers
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers


def test_fifty_keys_are_enough(database: Database) -> None:
    portal = make_portal(database)
    for _ in range(50):
        make_key(database, portal, "orders:read")
    with pytest.raises(api.Refused, match="fifty keys"):
        make_key(database, portal, "orders:read")


# How often


def test_a_minute_has_300_calls_over_all_processes(
    database: Database, acme: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "PER_MINUTE", 5)
    begin = clock.now().replace(second=10, microsecond=0)
    clock.set_offset(begin - clock.now() + timedelta(minutes=1))
    with App(database, acme.key) as one, App(database, acme.key) as other:
        left = []
        for number in range(5):
            answer = (one, other)[number % 2].get("/api/v1/accounts")
            assert answer.status_code == 200
            assert answer.headers["ratelimit-limit"] == "5"
            left.append(answer.headers["ratelimit-remaining"])
        assert left == ["4", "3", "2", "1", "0"]
        answer = other.get("/api/v1/accounts")
        problem(answer, 429, "rate_limited")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.headers["retry-after"] == answer.headers["ratelimit-reset"]
        assert answer.headers["ratelimit-remaining"] == "0"
        clock.set_offset(clock.offset() + timedelta(minutes=1))
        assert one.get("/api/v1/accounts").status_code == 200


def test_another_key_has_a_minute_of_its_own(
    database: Database, acme: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "PER_MINUTE", 1)
    other = make_key(database, acme.portal)
    with App(database, acme.key) as app:
        app.get("/api/v1/accounts")
        assert app.get("/api/v1/accounts").status_code == 429
        assert app.get("/api/v1/accounts", headers={"Authorization": f"Bearer {other}"}).status_code == 200


def test_calls_side_by_side_are_all_counted(database: Database, acme: Shop) -> None:
    (key,) = database.read_now(api.keys, acme.portal.id)
    now = clock.now()
    with ThreadPoolExecutor(8) as pool:
        left = list(pool.map(lambda _: database.write_now(api.count, key.id, now).left, range(40)))
    assert sorted(left) == list(range(api.PER_MINUTE - 40, api.PER_MINUTE))


def test_last_used_is_written_once_a_minute(database: Database, acme: Shop, app: App) -> None:
    def used() -> Any:
        return database.read_now(api.keys, acme.portal.id)[0].last_used_at

    begin = clock.now().replace(second=1, microsecond=0) + timedelta(minutes=1)
    clock.set_offset(begin - clock.now())
    app.get("/api/v1/accounts")
    first = used()
    assert first is not None
    clock.set_offset(clock.offset() + timedelta(seconds=20))
    app.get("/api/v1/accounts")
    assert used() == first
    clock.set_offset(clock.offset() + timedelta(seconds=60))
    app.get("/api/v1/accounts")
    assert used() > first


# Problems


def test_an_address_that_is_none(app: App) -> None:
    problem(app.get("/api/v1/nothing"), 404, "not_found")
    problem(app.get("/api/v1/orders/none-of-ours"), 404, "not_found")
    problem(app.get("/api/v1/"), 404, "not_found")
    problem(app.post("/api/v1/requests/%00/done", json={}), 404, "not_found")


def test_a_method_that_is_not_taken(app: App) -> None:
    answer = app.delete("/api/v1/orders")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST, PUT"
    assert app.options("/api/v1/orders", headers={"Origin": "https://evil.example"}).status_code == 405


def test_too_much_at_once(app: App) -> None:
    answer = app.put(
        "/api/v1/orders", content=b" " * 1024 * 1024 + b"{}", headers={"Content-Type": "application/json"}
    )
    problem(answer, 413, "too_large")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"]
)
def test_only_json_is_taken(app: App, kind: str) -> None:
    answer = app.put("/api/v1/orders", content=b"{}", headers={"Content-Type": kind})
    problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting"),
        (b'{"orders": NaN}', "NaN is no number"),
        (b'{"orders": [Infinity]}', "Infinity is no number"),
        (b'{"orders": [], "orders": []}', "twice"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b'{"orders": ' + b"[" * 11 + b"]" * 11 + b"}", "too deeply"),
        (b"[" * 200_000, "too deeply"),
        (b'{"orders": ' + b"9" * 5000 + b"}", "can't be read"),
        (b'{"orders": [{"title": "\\ud800"}]}', "can't be read"),
    ],
)
def test_what_is_no_plain_json_is_refused(app: App, content: bytes, words: str) -> None:
    answer = app.put("/api/v1/orders", content=content, headers={"Content-Type": "application/json"})
    assert words in problem(answer, 400, "malformed")["detail"]


def test_what_is_wrong_is_named_with_its_place(app: App, acme: Shop) -> None:
    order = order_in(acme, colour="red", amount={"minor": "2400", "currency": "usd"})
    del order["email"]
    answer = app.put_orders(order_in(acme), order)
    said = problem(answer, 422, "invalid")
    assert sorted(pointers(said)) == [
        "/orders/1/amount/currency",
        "/orders/1/amount/minor",
        "/orders/1/colour",
        "/orders/1/email",
    ]
    assert {one["detail"] for one in said["errors"]} >= {"There is no such field.", "It is missing."}


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "?limit"),
        ("limit=101", "?limit"),
        ("limit=ten", "?limit"),
        ("after=5", "?after"),
        ("color=red", "?color"),
        ("limit=5&limit=6", "?limit"),
        ("customer=%00", "?customer"),
    ],
)
def test_a_parameter_that_is_not_as_it_should_be(app: App, query: str, pointer: str) -> None:
    said = problem(app.get(f"/api/v1/orders?{query}"), 422, "invalid")
    assert pointers(said) == [pointer]


def test_an_address_without_parameters_takes_none(app: App) -> None:
    assert pointers(problem(app.get("/api/v1/accounts?x=1"), 422, "invalid")) == ["?x"]


@pytest.mark.parametrize("bad", ["\\u0000", "a\\nb", "\\u007f"])
def test_signs_that_no_database_takes_are_refused(app: App, acme: Shop, bad: str) -> None:
    content = json.dumps({"orders": [order_in(acme, title="HERE")]}).replace("HERE", bad)
    answer = app.put("/api/v1/orders", content=content, headers={"Content-Type": "application/json"})
    assert pointers(problem(answer, 422, "invalid")) == ["/orders/0/title"]


def test_a_fault_of_ours_is_a_problem_too(
    database: Database, acme: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("with something secret in it")

    monkeypatch.setattr(api, "accounts", broken)
    with App(database, acme.key) as app:
        answer = app.get("/api/v1/accounts")
    assert "secret" not in answer.text
    problem(answer, 500, "fault")


def test_a_database_that_does_not_answer(
    app: App, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    async def gone(*_: Any) -> None:
        raise OperationalError("select", {}, Exception("gone"))

    monkeypatch.setattr(database, "read", gone)
    answer = app.get("/api/v1/accounts")
    problem(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "10"


# Reading


def test_customers_and_one_of_them(app: App, acme: Shop) -> None:
    acme.ask()
    (one,) = app.get("/api/v1/customers").json()["data"]
    assert one == {
        "kind": "customer",
        "id": id_text(acme.ana.id),
        "email": "ana@example.com",
        "name": "Ana",
        "created_at": "2026-11-22T10:00:00Z",
    }
    assert app.get("/api/v1/customers?email=ANA@example.com").json()["data"] == [one]
    assert app.get("/api/v1/customers?email=bo@example.com").json() == {"data": [], "next": None}
    found = app.get(f"/api/v1/customers/{one['id']}").json()
    assert found == {**one, "counts": {"orders": 1, "subscriptions": 1, "payments": 1, "open_requests": 1}}


def test_an_order_in_full(app: App, acme: Shop) -> None:
    found = app.get(f"/api/v1/orders/{id_text(acme.order.id)}").json()
    assert found == app.get("/api/v1/orders").json()["data"][0]
    assert found == {
        "kind": "order",
        "id": id_text(acme.order.id),
        "account": id_text(acme.account.id),
        "customer": id_text(acme.ana.id),
        "remote_id": acme.order.remote_id,
        "email": "ana@example.com",
        "status": "paid",
        "raw_status": None,
        "amount": {"minor": 2400, "currency": "USD"},
        "created_at": "2026-11-12T10:00:00Z",
        "as_of": "2026-11-22T10:00:00Z",
        "title": "Ethiopia Guji, 2 bags",
        "number": "1001",
        "tax": None,
        "discount": None,
        "lines": [{"name": "Ethiopia Guji", "quantity": 2, "amount": {"minor": 2400, "currency": "USD"}}],
        "subscription": None,
    }


def test_a_subscription_says_what_its_customer_sees(app: App, acme: Shop, database: Database) -> None:
    (found,) = app.get("/api/v1/subscriptions").json()["data"]
    assert found["status"] == "active"
    assert found["interval"] == {"unit": "month", "count": 1}
    assert found["next_payment"] == {
        "on": "2026-12-12",
        "amount": {"minor": 2400, "currency": "USD"},
        "certainty": "fixed",
    }
    assert found["method"] == {"kind": "card", "brand": "Visa", "last4": "4242", "expires": "2028-09"}

    def schedule(db: Session) -> None:
        row = db.get_one(models.Subscription, acme.subscription.id)
        row.cancel_scheduled_at = row.access_until = NOW + timedelta(days=20)

    database.write_now(schedule)
    (found,) = app.get("/api/v1/subscriptions").json()["data"]
    assert (found["status"], found["cancels_at"], found["access_until"]) == (
        "cancels_at_period_end",
        "2026-12-12T10:00:00Z",
        "2026-12-12T10:00:00Z",
    )


def test_payments_say_what_failed(app: App, acme: Shop, database: Database) -> None:
    make_payment(
        database,
        acme.account,
        acme.ana,
        status="failed",
        failure_code="card_declined",
        failure_reason="The card was declined.",
    )
    failed, paid = app.get("/api/v1/payments").json()["data"]
    assert failed["failure"] == {"code": "card_declined", "reason": "The card was declined."}
    assert (paid["status"], paid["failure"], paid["after_end"]) == ("paid", None, False)
    assert paid["refunded"] == {"minor": 0, "currency": "USD"}


def test_accounts_tell_nothing_secret(app: App, acme: Shop) -> None:
    answer = app.get("/api/v1/accounts")
    (found,) = answer.json()["data"]
    assert set(found) == {"kind", "id", "processor", "label", "live", "created_at", "disconnected_at"}
    assert acme.account.token not in answer.text


@pytest.mark.parametrize("of_one", [False, True])
def test_pages_hold_every_row_once_newest_first(
    app: App, acme: Shop, database: Database, of_one: bool
) -> None:
    rows = [acme.order] + [
        make_order(database, acme.account, acme.ana, placed_at=NOW - timedelta(days=number % 7))
        for number in range(32)
    ]
    customer = f"&customer={id_text(acme.ana.id)}" if of_one else ""
    seen: list[str] = []
    after = ""
    for _ in range(4):
        page = app.get(f"/api/v1/orders?limit=10{customer}{after}").json()
        seen += [one["id"] for one in page["data"]]
        after = f"&after={page['next']}"
    assert page["next"] is None
    by = (lambda row: (row.placed_at, row.id)) if of_one else (lambda row: row.id)
    assert seen == [id_text(row.id) for row in sorted(rows, key=by, reverse=True)]


def test_a_page_after_nothing_we_know(app: App, acme: Shop) -> None:
    query = f"customer={id_text(acme.ana.id)}&after={id_text(new_id())}"
    assert pointers(problem(app.get(f"/api/v1/orders?{query}"), 422, "invalid")) == ["?after"]


def test_what_customers_ask_for(app: App, acme: Shop, database: Database) -> None:
    first = acme.ask()
    second = acme.ask(kind="resume", words="Please go on.")
    found = app.get("/api/v1/requests").json()["data"]
    assert [one["reference"] for one in found] == [second.reference, first.reference]
    assert (found[0]["wish"], found[0]["words"], found[0]["email"]) == (
        "resume",
        "Please go on.",
        "ana@example.com",
    )
    assert found[0]["history"][0]["what"] == "asked"
    assert found[0]["due_at"].endswith("Z")
    database.write_now(
        requests.answer, acme.portal.id, first.reference, "done", None, "merchant", clock.now()
    )
    due = app.get("/api/v1/requests?status=open").json()["data"]
    assert [one["reference"] for one in due] == [second.reference]
    customer = id_text(acme.ana.id)
    done = app.get(f"/api/v1/requests?status=done&customer={customer}").json()["data"]
    assert [one["reference"] for one in done] == [first.reference]


def test_of_one_status_what_is_due_first_comes_first(app: App, acme: Shop, database: Database) -> None:
    asked = []
    for number in range(7):
        subject = make_subscription(database, acme.account, acme.ana)
        asked.append(acme.ask(subject_id=subject.id))

        def due(db: Session, number: int = number) -> None:
            row = db.get_one(models.Request, asked[number].id)
            asked[number].due_at = row.due_at = NOW + timedelta(days=(number * 5) % 3)

        database.write_now(due)
    seen: list[str] = []
    after = ""
    for _ in range(3):
        page = app.get(f"/api/v1/requests?status=open&limit=3{after}").json()
        seen += [one["reference"] for one in page["data"]]
        after = f"&after={page['next']}"
    assert page["next"] is None
    assert seen == [row.reference for row in sorted(asked, key=lambda row: (row.due_at, row.id))]


def test_events_come_oldest_first_once_they_have_settled(app: App, acme: Shop, database: Database) -> None:
    for _ in range(3):
        database.write_now(outgoing.of_customer, "customer.signed_in", acme.ana, clock.now())
    assert app.get("/api/v1/events").json() == {"data": [], "next": None}
    clock.set_offset(timedelta(seconds=6))
    page = app.get("/api/v1/events?limit=2").json()
    assert [one["type"] for one in page["data"]] == ["customer.signed_in"] * 2
    assert page["data"][0]["data"]["customer"]["email"] == "ana@example.com"
    assert page["next"] == page["data"][1]["id"]
    rest = app.get(f"/api/v1/events?after={page['next']}").json()
    assert len(rest["data"]) == 1
    assert rest["data"][0]["id"] > page["next"]
    assert rest["next"] is None


# The plans


LISTS: list[tuple[Any, str, dict[str, Any]]] = [
    (api.customers, "uq_customer_portal_id_id", {}),
    (api.orders, "ix_order_portal", {}),
    (api.orders, "ix_order_portal", {"after": "7zzzzzzzzzzzz"}),
    (api.orders, "ix_order_list", {"customer": "ANA"}),
    (api.orders, "ix_order_list", {"customer": "ANA", "after": "ORDER"}),
    (api.subscriptions, "uq_subscription_portal_id_id", {}),
    (api.subscriptions, "ix_subscription_list", {"customer": "ANA"}),
    (api.payments, "uq_payment_portal_id_id", {"after": "7zzzzzzzzzzzz"}),
    (api.payments, "ix_payment_list", {"customer": "ANA"}),
    (api.asked, "ix_request_portal", {}),
    (api.asked, "ix_request_list", {"customer": "ANA"}),
    (api.asked, "ix_request_due", {"status": "open"}),
    (api.events, "uq_own_event_portal_id_id", {}),
]


def test_every_list_is_read_by_its_index(database: Database, acme: Shop) -> None:
    crowd(database, acme)
    for number in range(7):
        crowd(database, make_shop(database, f"shop-{number}"))
    ids = {"ANA": id_text(acme.ana.id), "ORDER": id_text(acme.order.id)}
    for read, index, given in LISTS:
        query = QUERIES.get(read, api.OfCustomer)(
            **{name: ids.get(value, value) for name, value in given.items()}
        )

        def ask(db: Session, read: Any = read, query: Any = query) -> None:
            read(db, acme.portal.id, query, *([clock.now()] if read is api.events else []))

        plans = plan_of(database, ask, "LIMIT")
        assert uses(plans, index), (index, plans)
        assert any("portal_id=?" in line or "portal_id = " in line for line in plans), (index, plans)
        assert not wholes(plans), (index, plans)
        assert not sorts(plans), (index, plans)


@pytest.mark.usefixtures("sqlite_only")
def test_addresses_of_a_page_are_found_by_their_ids(database: Database, acme: Shop) -> None:
    with reads_little(database):
        found = database.read_now(shapes.emails, acme.portal.id, [acme.ana.id, 7])
    assert set(found) == {acme.ana.id}


def crowd(database: Database, shop: Shop) -> None:
    """Forty more customers, each with one of everything, so that a planner takes the index it would take in life."""

    def write(db: Session) -> None:
        for number in range(40):
            who = models.Customer(portal_id=shop.portal.id, email=f"c{number}@example.com", created_at=NOW)
            db.add(who)
            db.flush()
            base: dict[str, Any] = {
                "portal_id": shop.portal.id,
                "account_id": shop.account.id,
                "customer_id": who.id,
            }
            mirrored: dict[str, Any] = {
                **base,
                "remote_id": f"r{number}",
                "placed_at": NOW,
                "as_of": NOW,
                "stamps": {},
            }
            db.add(models.Order(**mirrored, lines=[]))
            db.add(models.Subscription(**mirrored))
            db.add(models.Payment(**mirrored))
            asked: dict[str, Any] = {
                "kind": "pause",
                "reference": f"R{number}",
                "what": "Box",
                "subject_id": new_id(),
            }
            db.add(models.Request(**base, **asked, params={}, history=[], due_at=NOW, created_at=NOW))
            told: dict[str, Any] = {"type": "customer.signed_in", "data": {}, "at": NOW}
            db.add(models.OwnEvent(portal_id=shop.portal.id, customer_id=who.id, **told))

    database.write_now(write)


QUERIES: dict[Any, Any] = {
    api.customers: api.CustomersQuery,
    api.asked: api.RequestsQuery,
    api.events: api.Paged,
}


# Portals apart


def test_a_key_reads_nothing_of_another_portal(database: Database, acme: Shop, nova: Shop) -> None:
    nova.ask()
    database.write_now(
        outgoing.of_customer, "customer.signed_in", nova.ana, clock.now() - timedelta(minutes=1)
    )
    (empty,) = [make_portal(database, "empty")]
    with App(database, make_key(database, empty)) as app:
        for one in OPERATIONS:
            if one.method == "GET" and "{" not in one.path:
                page = app.get(f"/api/v1{one.path}").json()
                assert page["data"] == [], one.name
        for name in ("orders", "payments", "subscriptions", "requests"):
            query = f"customer={id_text(nova.ana.id)}"
            assert app.get(f"/api/v1/{name}?{query}").json() == {"data": [], "next": None}
        problem(app.get(f"/api/v1/customers/{id_text(nova.ana.id)}"), 404, "not_found")
        problem(app.get(f"/api/v1/orders/{id_text(nova.order.id)}"), 404, "not_found")
        assert app.get("/api/v1/customers?email=ana@example.com").json()["data"] == []


def test_a_key_changes_nothing_of_another_portal(
    database: Database, app: App, acme: Shop, nova: Shop
) -> None:
    asked = nova.ask()
    before = database.read_now(everything_of, nova.portal.id)
    answer = app.post("/api/v1/portal-sessions", json={"customer_id": id_text(nova.ana.id)})
    problem(answer, 404, "not_found")
    answer = app.post(
        "/api/v1/portal-sessions",
        json={
            "email": "ana@example.com",
            "flow": "cancel",
            "subscription": id_text(nova.subscription.id),
        },
    )
    problem(answer, 404, "not_found")
    said = problem(app.put_orders(order_in(nova, remote_id=nova.order.remote_id)), 422, "invalid")
    assert pointers(said) == ["/orders/0/account"]
    for what in ("done", "decline"):
        answer = app.post(f"/api/v1/requests/{asked.reference}/{what}", json={"say": "No."})
        problem(answer, 404, "not_found")
    assert database.read_now(everything_of, nova.portal.id) == before


def everything_of(db: Session, portal_id: int) -> dict[str, list[Any]]:
    """All rows of a portal, in every table that has such."""
    found = {}
    for table in models.metadata.sorted_tables:
        if "portal_id" in table.c and table.name != "api_key":  # which notes when it was used
            rows = db.execute(table.select().where(table.c.portal_id == portal_id)).all()
            found[table.name] = sorted(map(str, rows))
    return found


# Pushing orders


def order_in(shop: Shop, **fields: Any) -> dict[str, Any]:
    return {
        "account": id_text(shop.account.id),
        "remote_id": "till-1",
        "email": "Bo@Example.com",
        "status": "paid",
        "amount": {"minor": 1900, "currency": "EUR"},
        "created_at": "2026-11-20T09:00:00+01:00",
        **fields,
    }


def test_a_pushed_order_is_there(app: App, acme: Shop, database: Database) -> None:
    answer = app.put_orders(
        order_in(
            acme,
            number="T-1",
            title="At the till",
            tax={"minor": 300, "currency": "EUR"},
            lines=[{"name": "Beans", "quantity": 1, "amount": {"minor": 1900, "currency": "EUR"}}],
        )
    )
    assert answer.status_code == 200, answer.text
    (told,) = answer.json()["data"]
    assert (told["remote_id"], told["result"]) == ("till-1", "created")
    found = app.get(f"/api/v1/orders/{told['id']}").json()
    assert (found["email"], found["number"], found["tax"]) == (
        "bo@example.com",
        "T-1",
        {"minor": 300, "currency": "EUR"},
    )
    assert found["created_at"] == "2026-11-20T08:00:00Z"
    (bo,) = app.get("/api/v1/customers?email=bo@example.com").json()["data"]
    assert found["customer"] == bo["id"]


def test_sent_again_nothing_is_made_twice(app: App, acme: Shop, database: Database) -> None:
    app.put_orders(order_in(acme))
    answer = app.put_orders(order_in(acme))
    assert [one["result"] for one in answer.json()["data"]] == ["unchanged"]
    answer = app.put_orders(order_in(acme, status="refunded"))
    assert [one["result"] for one in answer.json()["data"]] == ["updated"]
    rows = database.read_now(
        lambda db: db.execute(select(models.Order).where(models.Order.remote_id == "till-1")).scalars().all()  # type: ignore[arg-type]
    )
    assert [row.status for row in rows] == ["refunded"]


def test_the_newest_wins_whatever_comes_last(app: App, acme: Shop) -> None:
    app.put_orders(order_in(acme, status="refunded", updated_at="2026-11-21T10:00:00Z"))
    answer = app.put_orders(order_in(acme, status="paid", updated_at="2026-11-21T09:00:00Z"))
    (told,) = answer.json()["data"]
    assert told["result"] == "unchanged"
    assert app.get(f"/api/v1/orders/{told['id']}").json()["status"] == "refunded"


def test_what_is_left_out_stays(app: App, acme: Shop) -> None:
    app.put_orders(order_in(acme, title="At the till", number="T-1"))
    (told,) = app.put_orders(order_in(acme, number=None)).json()["data"]
    found = app.get(f"/api/v1/orders/{told['id']}").json()
    assert (found["title"], found["number"]) == ("At the till", None)


def test_one_that_is_wrong_keeps_all_out(app: App, acme: Shop, database: Database) -> None:
    before = database.read_now(everything_of, acme.portal.id)
    answer = app.put_orders(
        order_in(acme, remote_id="good"),
        order_in(acme, remote_id="a", account=id_text(new_id())),
        order_in(acme, remote_id="b", email="bo@"),
        order_in(acme, remote_id="c", updated_at="2026-12-30T00:00:00Z"),
        order_in(acme, remote_id="d", tax={"minor": 1, "currency": "USD"}),
        order_in(
            acme,
            remote_id="e",
            lines=[{"name": "Beans", "quantity": 1, "amount": {"minor": 1, "currency": "USD"}}],
        ),
    )
    said = problem(answer, 422, "invalid")
    assert "/orders/2/email" in pointers(said)  # its shape is looked at before the rest
    answer = app.put_orders(
        order_in(acme, remote_id="good"),
        order_in(acme, remote_id="a", account=id_text(new_id())),
        order_in(acme, remote_id="c", updated_at=(clock.now() + timedelta(hours=1)).isoformat()),
        order_in(acme, remote_id="d", tax={"minor": 1, "currency": "USD"}),
        order_in(
            acme,
            remote_id="e",
            lines=[{"name": "Beans", "quantity": 1, "amount": {"minor": 1, "currency": "USD"}}],
        ),
    )
    assert pointers(problem(answer, 422, "invalid")) == [
        "/orders/1/account",
        "/orders/2/updated_at",
        "/orders/3/tax",
        "/orders/4/lines/0/amount",
    ]
    assert database.read_now(everything_of, acme.portal.id) == before


def test_a_hundred_at_a_time(app: App, acme: Shop) -> None:
    many = [order_in(acme, remote_id=f"till-{number}") for number in range(101)]
    assert pointers(problem(app.put_orders(*many), 422, "invalid")) == ["/orders"]
    answer = app.put_orders(*many[:100])
    assert [one["result"] for one in answer.json()["data"]] == ["created"] * 100


def test_a_push_meets_what_the_processor_says(app: App, acme: Shop) -> None:
    """The same account and remote id is the same order, whoever tells of it."""
    answer = app.put_orders(
        order_in(acme, remote_id=acme.order.remote_id, email="ana@example.com", status="refunded")
    )
    (told,) = answer.json()["data"]
    assert told == {"id": id_text(acme.order.id), "remote_id": acme.order.remote_id, "result": "updated"}


@pytest.mark.parametrize(
    "moment", ["2026-11-20", "2026-11-20T09:00:00", "0001-01-01T00:00:00Z", 1795514400, "now"]
)
def test_a_moment_needs_its_zone_and_a_time_within_reach(app: App, acme: Shop, moment: Any) -> None:
    said = problem(app.put_orders(order_in(acme, created_at=moment)), 422, "invalid")
    assert pointers(said) == ["/orders/0/created_at"]


# Answering requests


def test_a_request_is_answered_once(app: App, acme: Shop, database: Database) -> None:
    asked = acme.ask()
    answer = app.post(f"/api/v1/requests/{asked.reference.lower()}/done", json={"say": "Paused until May."})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["status"], answer.json()["answer"]) == ("done", "Paused until May.")
    again = app.post(f"/api/v1/requests/{asked.reference}/done", json={})
    assert again.json() == answer.json()
    problem(app.post(f"/api/v1/requests/{asked.reference}/decline", json={"say": "No."}), 409, "conflict")
    mails = [job.payload["template"] for job in jobs(database, "mail")]
    assert mails.count("request_answered") == 1
    audits = database.read_now(lambda db: db.execute(select(models.Audit)).scalars().all())
    assert [(one.what, one.subject, one.merchant_id) for one in audits] == [
        ("request.done", asked.reference, acme.portal.merchant_id)
    ]
    assert audits[0].who == f"The shop ({acme.key[:11]}…)"


def test_to_decline_takes_a_sentence(app: App, acme: Shop) -> None:
    asked = acme.ask()
    for body in ({}, {"say": None}, {"say": "   "}):
        said = problem(app.post(f"/api/v1/requests/{asked.reference}/decline", json=body), 422, "invalid")
        assert pointers(said) == ["/say"]
    answer = app.post(f"/api/v1/requests/{asked.reference}/decline", json={"say": "We can't pause gifts."})
    assert (answer.json()["status"], answer.json()["answer"]) == ("declined", "We can't pause gifts.")


def test_a_request_that_is_withdrawn_can_not_be_answered(app: App, acme: Shop, database: Database) -> None:
    asked = acme.ask()
    database.write_now(requests.withdraw, acme.portal.id, acme.ana.id, asked.id, clock.now())
    said = problem(app.post(f"/api/v1/requests/{asked.reference}/done", json={}), 409, "conflict")
    assert "withdrawn" in said["detail"]


def jobs(database: Database, kind: str) -> list[models.Job]:
    return [
        job
        for job in database.read_now(lambda db: db.execute(select(models.Job)).scalars().all())
        if job.kind == kind
    ]


# The way in


class Browser(TestClient):
    def __init__(self, database: Database, slug: str = "acme") -> None:
        super().__init__(
            create_app(SETTINGS, database),
            f"http://{slug}.localhost",
            headers={**OWN, "User-Agent": "Firefox/140.0 (Windows NT 10.0)"},
            follow_redirects=False,
        )


@pytest.fixture
def browser(database: Database, acme: Shop) -> Iterator[Browser]:
    with Browser(database) as found:
        yield found


def way_in(app: App, **fields: Any) -> str:
    """The path of a fresh link."""
    answer = app.post("/api/v1/portal-sessions", json={"email": "ana@example.com", **fields})
    assert answer.status_code == 200, answer.text
    url: str = answer.json()["url"]
    assert url.startswith("http://acme.localhost/customers/")
    return url.removeprefix("http://acme.localhost")


def test_a_link_opens_a_session_once(app: App, browser: Browser, database: Database, acme: Shop) -> None:
    answer = app.post("/api/v1/portal-sessions", json={"customer_id": id_text(acme.ana.id)})
    said = answer.json()
    assert set(said) == {"url", "expires_at"}
    path = said["url"].removeprefix("http://acme.localhost")
    assert re.fullmatch(r"/customers/enter/[A-Za-z0-9_-]{43}", path)
    page = browser.get(path)
    assert page.status_code == 200
    assert "a•••@example.com" in page.text
    assert "ana@example.com" not in page.text
    assert "set-cookie" not in page.headers
    answer = browser.post(path)
    assert (answer.status_code, answer.headers["location"]) == (303, "/customers/orders")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert browser.get("/customers/orders").status_code == 200
    over = browser.post(path)
    assert over.status_code == 410
    assert "This way in is over" in over.text
    with Browser(database) as other:
        assert other.post(path).status_code == 410
        assert other.get("/customers/orders").status_code == 303


def test_what_opens_links_spends_none(app: App, browser: Browser, database: Database) -> None:
    path = way_in(app)
    with Browser(database) as machine:
        for number in range(40):
            assert machine.request("HEAD" if number % 2 else "GET", path).status_code == 200
        refused = machine.post(path, headers={"Sec-Fetch-Site": "cross-site"})
        assert refused.status_code == 403
    assert browser.post(path).status_code == 303


def test_of_many_who_press_at_once_one_comes_in(app: App, database: Database, acme: Shop) -> None:
    token = way_in(app).rpartition("/")[2]

    def press(number: int) -> bool:
        found = database.write_now(
            login.redeem_entry, acme.portal.id, token, f"browser-{number}-xxxxxxxx", "", None, clock.now()
        )
        return found is not None

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(press, range(20))) == 1
    assert len(database.read_now(lambda db: db.execute(select(models.SignIn)).scalars().all())) == 1


def test_a_link_is_good_for_five_minutes(app: App, browser: Browser) -> None:
    path = way_in(app)
    clock.set_offset(timedelta(minutes=5, seconds=1))
    assert browser.get(path).status_code == 410
    assert browser.post(path).status_code == 410
    assert "set-cookie" not in browser.post(path).headers


def test_a_link_opens_nothing_on_another_portal(
    app: App, database: Database, nova: Shop, browser: Browser
) -> None:
    path = way_in(app)
    with Browser(database, "nova") as elsewhere:
        assert elsewhere.get(path).status_code == 410
        assert elsewhere.post(path).status_code == 410
    assert browser.post(path).status_code == 303


def test_what_is_kept_of_a_link_is_its_hash(app: App, database: Database) -> None:
    token = way_in(app).rpartition("/")[2]
    (entry,) = database.read_now(lambda db: db.execute(select(models.Entry)).scalars().all())
    assert token not in repr(entry)
    assert entry.token_hash == login.digest(token)


@pytest.mark.parametrize(
    ("flow", "page"),
    [
        ("update_payment_method", "/customers/subscriptions/{id}/update_payment_method"),
        ("cancel", "/customers/subscriptions/{id}/cancel"),
    ],
)
def test_a_flow_leads_to_its_page(app: App, browser: Browser, acme: Shop, flow: str, page: str) -> None:
    ref = id_text(acme.subscription.id)
    answer = browser.post(way_in(app, flow=flow, subscription=ref))
    assert answer.headers["location"] == page.format(id=ref)
    assert browser.get(answer.headers["location"]).status_code == 200


def test_the_flow_of_invoices_leads_to_the_payments(app: App, browser: Browser) -> None:
    answer = browser.post(way_in(app, flow="invoices"))
    assert answer.headers["location"] == "/customers/payments"
    assert browser.get("/customers/payments").status_code == 200


def test_a_further_address_leads_to_the_person_it_was_joined_with(
    app: App, browser: Browser, acme: Shop, database: Database
) -> None:
    further = make_customer(database, acme.portal, "ana@work.example")
    save(
        database,
        models.Join(
            portal_id=acme.portal.id,
            from_id=further.id,
            into_id=acme.ana.id,
            created_at=clock.now(),
            expires_at=clock.now(),
            proved_at=clock.now(),
        ),
    )
    (found,) = app.get("/api/v1/customers?email=ana@work.example").json()["data"]
    assert found["id"] == id_text(acme.ana.id)
    ref = id_text(acme.subscription.id)
    path = way_in(app, email="ana@work.example", flow="cancel", subscription=ref)
    assert browser.post(path).headers["location"] == f"/customers/subscriptions/{ref}/cancel"
    assert browser.get(f"/customers/subscriptions/{ref}/cancel").status_code == 200
    assert str(acme.order.title) in browser.get("/customers/orders").text


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({}, 422, "/email"),
        ({"email": "ana@example.com", "customer_id": "0000000000000"}, 422, "/email"),
        ({"email": "ana@example.com", "flow": "cancel"}, 422, "/subscription"),
        ({"email": "ana@example.com", "subscription": "0000000000000"}, 422, "/subscription"),
        ({"email": "ana@example.com", "flow": "buy"}, 422, "/flow"),
        ({"email": "ana@example.com", "return_url": "https://app.example.com/"}, 422, "/return_url"),
        ({"email": "bo@example.com"}, 404, None),
        ({"customer_id": "0000000000000"}, 404, None),
    ],
)
def test_what_can_not_be_a_way_in(
    app: App, database: Database, body: dict[str, Any], status: int, pointer: str | None
) -> None:
    answer = app.post("/api/v1/portal-sessions", json=body)
    said = problem(answer, status, "invalid" if status == 422 else "not_found")
    assert pointers(said) == ([pointer] if pointer else [])
    assert database.read_now(lambda db: db.execute(select(models.Entry)).scalars().all()) == []


def test_a_portal_that_is_switched_off_lets_nobody_in(app: App, acme: Shop, database: Database) -> None:
    def off(db: Session) -> None:
        db.get_one(models.Portal, acme.portal.id).enabled = False

    database.write_now(off)
    problem(app.post("/api/v1/portal-sessions", json={"email": "ana@example.com"}), 409, "conflict")


def test_the_way_back_stands_on_every_page(
    app: App, browser: Browser, acme: Shop, database: Database
) -> None:
    def allow(db: Session) -> None:
        db.get_one(models.Portal, acme.portal.id).return_urls = ["https://app.example.com/account"]

    database.write_now(allow)
    back = "https://app.example.com/account/billing?from=portal&x=<script>"
    problem(
        app.post("/api/v1/portal-sessions", json={"email": "ana@example.com", "return_url": back + " "}),
        422,
        "invalid",
    )
    path = way_in(app, return_url=back)
    link = '<a href="https://app.example.com/account/billing?from=portal&amp;x=&lt;script&gt;">Back to Acme Coffee</a>'
    assert link in browser.get(path).text
    browser.post(path)
    for page in ("orders", "subscriptions", "payments", "upcoming", "requests", "sessions"):
        assert link in browser.get(f"/customers/{page}").text, page
    with Browser(database) as other:
        other.post(way_in(app))
        assert "Back to" not in other.get("/customers/orders").text


def test_coming_in_is_a_sign_in_like_any_other(
    app: App, browser: Browser, database: Database, acme: Shop
) -> None:
    browser.post(way_in(app))
    first = browser.cookies["portal"]
    browser.post(way_in(app))
    assert browser.cookies["portal"] != first
    assert len(database.read_now(lambda db: db.execute(select(models.SignIn)).scalars().all())) == 1
    assert jobs(database, "mail") == []  # the first browser of all, and then the same one
    with Browser(database) as other:
        other.post(way_in(app))
    assert [job.payload["template"] for job in jobs(database, "mail")] == ["new_device"]
    told = database.read_now(lambda db: db.execute(select(models.OwnEvent)).scalars().all())
    assert [one.type for one in told] == ["customer.signed_in"] * 3


def test_old_links_and_counts_go(app: App, acme: Shop, database: Database) -> None:
    way_in(app)
    database.write_now(work._sweep, clock.now() + timedelta(minutes=30))
    rows = database.read_now(lambda db: db.execute(select(models.Entry)).scalars().all())
    assert len(rows) == 1
    database.write_now(work._sweep, clock.now() + timedelta(days=3))
    assert database.read_now(lambda db: db.execute(select(models.Entry)).all()) == []
    assert database.read_now(lambda db: db.execute(select(models.ApiUse)).all()) == []


# Where customers may be sent back to


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://app.example.com/account", True),
        ("https://app.example.com/account/", True),
        ("https://app.example.com/account/billing?x=1", True),
        ("https://APP.example.com/account", True),
        ("https://app.example.com:443/account", True),
        ("https://app.example.com/accounting", False),
        ("https://app.example.com/", False),
        ("https://app.example.com/account/../admin", False),
        ("https://app.example.com/account/%2e%2E/admin", False),
        ("https://app.example.com/account/.%2e/admin", False),
        ("https://app.example.com/account%2f..%2fadmin", False),
        ("https://app.example.com/account/..%5cadmin", False),
        ("https://app.example.com\\@evil.example/account", False),
        ("https://app.example.com@evil.example/account", False),
        ("https://ana@app.example.com/account", False),
        ("https://app.example.com.evil.example/account", False),
        ("https://app.example.com:8443/account", False),
        ("http://app.example.com/account", False),
        ("HTTPS://app.example.com/account#x", False),
        ("https://app.example.com/account\n", False),
        ("https://app.example.com/account b", False),
        ("javascript:alert(1)//https://app.example.com/account", False),
        ("//app.example.com/account", False),
        ("https:app.example.com/account", False),
        ("https:///app.example.com/account", False),
        ("https://evil.example/https://app.example.com/account", False),
        ("http://localhost:3000/app", False),
        ("http://localhost:9/back", True),
        ("http://127.0.0.1:9/back", False),
    ],
)
def test_the_way_back_is_on_the_list_or_below_it(url: str, allowed: bool) -> None:
    known = ["https://app.example.com/account", "http://localhost:9"]
    assert api.may_return(known, url, local=True) is allowed
    if url.startswith("http://"):
        assert api.may_return(known, url, local=False) is False


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://app.example.com", "https://app.example.com/"),
        ("https://App.Example.com:443/Account", "https://app.example.com/Account"),
        ("https://app.example.com:8443/x/", "https://app.example.com:8443/x/"),
        ("http://localhost:3000", "http://localhost:3000/"),
        ("http://shop.localhost/x", "http://shop.localhost/x"),
    ],
)
def test_an_entry_of_the_list_is_kept_plain(text: str, kept: str) -> None:
    assert api.return_url(text, local=True) == kept


@pytest.mark.parametrize(
    "text",
    [
        "", "app.example.com", "ftp://app.example.com/", "https://", "https://app.example.com/?x=1",
        "https://app.example.com/#x", "https://app.example.com/../x", "https://a b.example/", "http://app.example.com/",
        "https://app.example.com:99999/", "https://*.example.com/", "https://" + "a" * 500,
    ],
)  # fmt: skip
def test_what_is_no_entry_of_the_list(text: str) -> None:
    with pytest.raises(api.Refused):
        api.return_url(text, local=True)


def test_plain_http_is_for_the_demo() -> None:
    with pytest.raises(api.Refused):
        api.return_url("http://localhost:3000/", local=False)
