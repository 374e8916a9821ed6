"""Events on screen: parked first, one with its body, carried out again, by whom it may be."""

from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from portal import clock, inbox, models
from portal.db import Database
from portal.ids import id_text
from portal.jobs import enqueue
from tests.unit.builders import make_account, make_customer, make_subscription
from tests.unit.settings.conftest import HTMX, Desk, address, sign_in
from tests.unit.test_inbox import Shop


@pytest.fixture
def shop(database: Database) -> Shop:
    return Shop(database)


def page_of(shop: Shop, row: models.Event | None = None, path: str = "") -> str:
    return address(shop.portal, f"/events{f'/{id_text(row.id)}' if row else ''}{path}")


def audits(shop: Shop) -> list[str]:
    return [one.what for one in shop.audits()]


def test_parked_ones_stand_first(client: Desk, shop: Shop) -> None:
    parked, handled = shop.event("parked"), shop.event("handled", type="<b>invoice</b>.paid")
    shop.event("parked", shop.others_account)
    sign_in(client, shop.database, shop.portal, "viewer")
    page = client.get(page_of(shop))
    assert page.status_code == 200
    refs = [part.split('"')[0] for part in page.text.split('data-ref="')[1:]]
    assert refs == [id_text(parked.id), id_text(handled.id)]
    assert "Set aside (1)" in page.text
    assert "&lt;b&gt;invoice" in page.text
    assert "The portal could not make sense of it." in page.text
    assert "Replay all" not in page.text  # that is an editor's
    assert "<html" not in client.get(page_of(shop), headers=HTMX).text


@pytest.mark.parametrize("state", inbox.STATES)
def test_filters(client: Desk, shop: Shop, state: str) -> None:
    second = make_account(shop.database, shop.portal, label="Second")
    for kind in ("parked", "handled", "refused", "waiting"):
        shop.event(kind)
        shop.event(kind, second)
    sign_in(client, shop.database, shop.portal, "viewer")
    page = client.get(page_of(shop, path=f"?state={state}"))
    assert page.text.count('data-testid="event"') == (8 if state == "all" else 2)
    page = client.get(page_of(shop, path=f"?state={state}&account={id_text(second.id)}"))
    assert page.text.count('data-testid="event"') == (4 if state == "all" else 1)
    for query in (
        "?state=nothing",
        "?account=x",
        "?after=zzz",
        f"?account={id_text(shop.others_account.id)}",
    ):
        assert client.get(page_of(shop, path=query)).status_code == 200


def test_lists_go_on(client: Desk, shop: Shop) -> None:
    for _ in range(30):
        shop.event("handled")
    sign_in(client, shop.database, shop.portal, "viewer")
    page = client.get(page_of(shop)).text
    link = page.split('rel="next" href="')[1].split('"')[0].replace("&amp;", "&")
    assert client.get(link).text.count('data-testid="event"') == 5


def test_an_event_shows_its_body_harmlessly(client: Desk, shop: Shop) -> None:
    row = shop.event("parked", body=b'{"a":"<script>alert(1)</script>"}')
    sign_in(client, shop.database, shop.portal, "viewer")
    page = client.get(page_of(shop, row))
    assert page.status_code == 200
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
    for words in (
        row.event_id,
        "Main till",
        "content-type",
        "It could not be carried out",
        "It is kept for 30 days.",
    ):
        assert words in page.text, words
    assert ">Replay<" not in page.text
    body = client.get(page_of(shop, row, "/body"))
    assert body.content == b'{"a":"<script>alert(1)</script>"}'
    assert body.headers["content-type"] == "application/octet-stream"
    assert body.headers["content-disposition"].startswith("attachment; filename=")
    assert body.headers["x-content-type-options"] == "nosniff"


def test_an_event_that_was_fetched_says_so(client: Desk, shop: Shop) -> None:
    sign_in(client, shop.database, shop.portal, "viewer")
    words = "Asked for: it was not delivered, Stripe had kept it."
    assert words in client.get(page_of(shop, shop.event("handled", asked_at=clock.now()))).text
    assert words not in client.get(page_of(shop, shop.event("handled"))).text


def test_a_body_that_is_gone_is_said(client: Desk, shop: Shop) -> None:
    row = shop.event("handled", body=None)
    sign_in(client, shop.database, shop.portal, "editor")
    page = client.get(page_of(shop, row)).text
    assert "What it said was kept for 30 days and is gone." in page
    assert "can't be replayed" in page.replace("&#39;", "'")
    assert client.get(page_of(shop, row, "/body")).status_code == 404
    assert client.post(page_of(shop, row, "/replay")).status_code == 422


def test_an_event_is_replayed(client: Desk, shop: Shop) -> None:
    row = shop.event("parked")
    sign_in(client, shop.database, shop.portal, "editor")
    assert ">Replay<" in client.get(page_of(shop, row)).text
    done = client.post(page_of(shop, row, "/replay"))
    assert done.headers["location"] == page_of(shop, row, "?done=again")
    assert "being carried out again" in client.get(done.headers["location"]).text
    assert inbox.state_of(shop.now(models.Event, row.id)) == "waiting"
    assert audits(shop) == ["event.replayed"]


def test_all_of_an_account_are_replayed(client: Desk, shop: Shop) -> None:
    for _ in range(3):
        shop.event("parked")
    sign_in(client, shop.database, shop.portal, "editor")
    assert "Replay all of Main till" in client.get(page_of(shop)).text
    path = page_of(shop, path="/replay")
    done = client.post(path, data={"account": id_text(shop.account.id)})
    assert done.headers["location"] == page_of(shop, path="?done=all")
    assert "Set aside (" not in client.get(done.headers["location"]).text
    again = client.post(path, data={"account": id_text(shop.account.id)})
    assert again.headers["location"] == page_of(shop, path="?done=none")
    for strange in (id_text(shop.others_account.id), "x", ""):
        assert client.post(path, data={"account": strange}).status_code == 404
    assert audits(shop) == ["events.replayed"]


def test_a_failed_sync_is_tried_again(client: Desk, shop: Shop) -> None:
    ana = make_customer(shop.database, shop.portal)
    row = make_subscription(shop.database, shop.account, ana, title="Coffee box")
    shop.database.write_now(enqueue, "refresh", {"subscription": row.id}, clock.now(), None)

    def fail(db: Any) -> int:
        job = db.execute(select(models.Job).where(col(models.Job.kind) == "refresh")).scalar_one()
        job.portal_id, job.error, job.parked_at, job.attempts = (
            shop.portal.id,
            "Stripe is down.",
            clock.now(),
            12,
        )
        return int(job.id)

    job_id = shop.database.write_now(fail)
    sign_in(client, shop.database, shop.portal, "editor")
    page = client.get(page_of(shop)).text
    assert "Asking about a subscription: <bdi>Coffee box</bdi>" in page
    assert "Stripe is down." in page
    done = client.post(page_of(shop, path=f"/syncs/{id_text(job_id)}/retry"))
    assert done.headers["location"] == page_of(shop, path="?done=retried")
    assert client.post(page_of(shop, path=f"/syncs/{id_text(5)}/retry")).status_code == 404
    assert audits(shop) == ["sync.retried"]


def test_a_viewer_replays_nothing(client: Desk, shop: Shop) -> None:
    row = shop.event("parked")
    sign_in(client, shop.database, shop.portal, "viewer")
    for path in (
        page_of(shop, row, "/replay"),
        page_of(shop, path="/replay"),
        page_of(shop, path=f"/syncs/{id_text(5)}/retry"),
    ):
        assert client.post(path, data={"account": id_text(shop.account.id)}).status_code == 403
    assert inbox.state_of(shop.now(models.Event, row.id)) == "parked"


def test_a_strangers_event_is_not_there(client: Desk, shop: Shop) -> None:
    row = shop.event("parked")
    sign_in(client, shop.database, shop.other, "owner")
    kora = address(shop.other, f"/events/{id_text(row.id)}")
    for path in (page_of(shop, row), kora, f"{kora}/body", page_of(shop)):
        assert client.get(path).status_code == 404
    assert client.post(f"{kora}/replay").status_code == 404
    mine = {"account": id_text(shop.account.id)}
    assert client.post(address(shop.other, "/events/replay"), data=mine).status_code == 404
    assert inbox.state_of(shop.now(models.Event, row.id)) == "parked"
