"""POST /api/v1/orders: rows as a file has them, each taken or refused by itself."""

from typing import Any

import pytest
from sqlalchemy import select

from portal import models
from portal.db import Database
from portal.ids import id_text
from tests.unit.builders import make_account
from tests.unit.test_api import App, Shop, make_key, make_shop

ROW = {
    "email": "Zoe@example.com",
    "order": "SO-1",
    "product": "Coffee",
    "amount": "24.00",
    "currency": "USD",
    "paid_at": "2026-03-04T10:00:00Z",
}


@pytest.fixture
def acme(database: Database) -> Shop:
    return make_shop(database, "acme")


def post(app: App, *rows: dict[str, Any], **more: Any) -> Any:
    return app.post("/api/v1/orders", json={"orders": list(rows), **more})


def rows(shop: Shop, model: Any, *where: Any) -> list[Any]:
    wanted = select(model).where(*where).order_by(model.id)
    return list(shop.database.read_now(lambda db: db.execute(wanted).scalars().all()))


def test_each_row_is_taken_or_refused_by_itself(acme: Shop) -> None:
    account = id_text(acme.account.id)
    wrong = {**ROW, "order": "SO-2", "amount": "1,2345"}
    club = {
        "email": "zoe@example.com",
        "subscription": "sub_9",
        "interval": "month",
        "next_payment": "2026-12-24",
    }
    with App(acme.database, acme.key) as app:
        answer = post(app, ROW, wrong, club, {**ROW, "amount": "25.00"}, account=account)
        again = post(app, ROW, account=account)
        changed = post(app, {**ROW, "product": "Aged coffee"}, account=account)
        old = post(app, {**ROW, "product": "Green coffee"}, account=account, as_of="2026-03-05T00:00:00Z")
    assert answer.status_code == 200
    first, refused, third, twice = answer.json()["data"]
    assert (first["result"], refused["result"], third["result"], twice["result"]) == (
        "created",
        "refused",
        "created",
        "refused",
    )
    assert refused["errors"] == [{"pointer": "/orders/1/amount", "detail": "“1,2345” is no amount."}]
    assert twice["errors"][0]["pointer"] == "/orders/3/order"
    (order,) = rows(acme, models.Order, models.Order.remote_id == "SO-1")
    (payment,) = rows(acme, models.Payment, models.Payment.order_remote == "SO-1")
    (subscription,) = rows(acme, models.Subscription, models.Subscription.remote_id == "sub_9")
    assert (first["order"], first["payment"]) == (id_text(order.id), id_text(payment.id))
    assert third["subscription"] == id_text(subscription.id)
    assert order.customer_id == subscription.customer_id is not None
    assert [one.json()["data"][0]["result"] for one in (again, changed, old)] == [
        "unchanged",
        "changed",
        "unchanged",
    ]
    assert order.title == "Aged coffee"


def test_a_row_may_name_its_account_and_never_another_portals(acme: Shop) -> None:
    make_account(acme.database, acme.portal, "mollie", label="Till")
    theirs = make_shop(acme.database, "nova")
    with App(acme.database, acme.key) as app:
        named = post(
            app, {**ROW, "processor": "till"}, {**ROW, "processor": "Kora"}, {**ROW, "order": "SO-3"}
        )
        foreign = post(app, ROW, account=id_text(theirs.account.id))
        ahead = post(app, ROW, as_of="2099-01-01T00:00:00Z", account=id_text(acme.account.id))
    results = [(one["result"], [error["pointer"] for error in one["errors"]]) for one in named.json()["data"]]
    assert results == [
        ("created", []),
        ("refused", ["/orders/1/processor"]),
        ("refused", ["/orders/2/processor"]),
    ]
    assert (foreign.status_code, foreign.json()["errors"][0]["pointer"]) == (422, "/account")
    assert (ahead.status_code, ahead.json()["errors"][0]["pointer"]) == (422, "/as_of")
    assert not rows(
        theirs, models.Order, models.Order.remote_id == "SO-1", models.Order.portal_id == theirs.portal.id
    )


def test_five_hundred_and_no_more(acme: Shop) -> None:
    many = [{**ROW, "order": f"M-{number}", "email": f"m{number // 9}@example.com"} for number in range(120)]
    with App(acme.database, acme.key) as app:
        answer = post(app, *many, account=id_text(acme.account.id))
        too_many = post(app, *many * 5, account=id_text(acme.account.id))
        none = post(app, account=id_text(acme.account.id))
    assert [one["result"] for one in answer.json()["data"]] == ["created"] * 120
    assert (too_many.status_code, none.status_code) == (422, 422)


def test_it_takes_the_scope_and_strings_that_are_none_are_refused(acme: Shop) -> None:
    with App(acme.database, make_key(acme.database, acme.portal, "orders:read")) as app:
        assert post(app, ROW).json()["code"] == "scope_missing"
    account = id_text(acme.account.id)
    with App(acme.database, acme.key) as app:
        (told,) = post(app, {**ROW, "order": "a\0b", "email": "a\tb@example.com"}, account=account).json()[
            "data"
        ]
        lone = app.post(
            "/api/v1/orders",
            content=b'{"orders": [{"email": "a\\ud800@example.com"}]}',
            headers={"Content-Type": "application/json"},
        )
    assert [one["pointer"] for one in told["errors"]] == ["/orders/0/email", "/orders/0/order"]
    assert (lone.status_code, lone.json()["code"]) == (400, "malformed")
