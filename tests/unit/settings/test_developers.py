"""Settings > Developers: keys and secrets that are shown once, return addresses, endpoints and their logs."""

import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.applications import Starlette

from portal import api, clock, models, outgoing
from portal.db import Database
from portal.ids import id_text, new_id
from portal.vault import Vault
from tests.unit.builders import MASTER_KEY, make_customer
from tests.unit.settings.conftest import HTMX, Desk, address, make_settings, sign_in

VAULT = Vault(MASTER_KEY)


def here(site: models.Portal, path: str = "") -> str:
    return address(site, f"/developers{path}")


def words(answer: Any) -> str:
    """What a person reads."""
    return unescape(" ".join(re.sub(r"<[^>]+>", " ", answer.text).split()))


def secret(answer: Any) -> str:
    """The one secret that a page shows."""
    (found,) = re.findall(r'data-testid="secret">([^<]+)<', answer.text)
    return unescape(found)


def rows(database: Database, model: Any) -> list[Any]:
    return database.read_now(lambda db: list(db.execute(select(model).order_by(model.id)).scalars()))


def audits(database: Database) -> list[models.Audit]:
    """What was written down, the sign-in apart."""
    return [one for one in rows(database, models.Audit) if one.what != "signed_in"]


def fields(**changes: Any) -> dict[str, Any]:
    return {"name": "Our shop", "scope": ["orders:read", "orders:write"], **changes}


@pytest.fixture
def owner(client: Desk, database: Database, site: models.Portal) -> Desk:
    sign_in(client, database, site)
    return client


@pytest.fixture
def settings() -> Any:
    """Endpoints on this machine are taken, as for development."""
    return make_settings(outgoing_private=True)


def make_endpoint(
    database: Database, site: models.Portal, url: str = "http://127.0.0.1:9/hooks"
) -> models.Endpoint:
    return database.write_now(outgoing.add_endpoint, VAULT, site.id, url, (), True, clock.now())[0]


def tell(database: Database, site: models.Portal, times: int = 1) -> None:
    ana = make_customer(database, site, f"ana{new_id()}@example.com")
    for _ in range(times):
        database.write_now(outgoing.of_customer, "customer.signed_in", ana, clock.now())


# The page


def test_an_empty_page_says_what_it_is_for(owner: Desk, site: models.Portal) -> None:
    answer = owner.get(here(site))
    assert answer.status_code == 200
    said = words(answer)
    assert "No key yet." in said
    assert "No endpoint yet." in said
    assert 'href="http://admin.localhost/api/v1/openapi.json"' in answer.text
    assert owner.get("/api/v1/openapi.json").status_code == 200


@pytest.mark.parametrize(
    "path",
    ["", "/keys/new", "/endpoints/new", "/endpoints/{endpoint}", "/endpoints/{endpoint}/remove",
     "/endpoints/{endpoint}/deliveries/{delivery}", "/keys/{key}/revoke"],
)  # fmt: skip
def test_every_page_is_a_document_and_a_piece(
    owner: Desk, database: Database, site: models.Portal, path: str
) -> None:
    url = here(site, path.format(**furnished(database, site)))
    document = owner.get(url)
    assert document.status_code == 200
    assert document.text.startswith("<!doctype html>")
    assert document.text.count("<h1") == 1
    assert 'style="' not in document.text
    piece = owner.get(url, headers=HTMX)
    assert piece.text.lstrip().startswith('<div id="body"')


def furnished(database: Database, site: models.Portal) -> dict[str, str]:
    """A key, an endpoint and a delivery, by their ids."""
    key, _ = database.write_now(api.new_key, site.id, "The till", ["orders:read"], None, clock.now())
    endpoint = make_endpoint(database, site)
    tell(database, site)
    delivery = rows(database, models.Delivery)[-1]
    return {"key": id_text(key.id), "endpoint": id_text(endpoint.id), "delivery": id_text(delivery.id)}


EVERYTHING = [
    ("GET", "", "viewer"),
    ("POST", "/return-urls", "owner"),
    ("GET", "/keys/new", "owner"),
    ("POST", "/keys/new", "owner"),
    ("GET", "/keys/{key}/revoke", "owner"),
    ("POST", "/keys/{key}/revoke", "owner"),
    ("GET", "/endpoints/new", "owner"),
    ("POST", "/endpoints/new", "owner"),
    ("GET", "/endpoints/{endpoint}", "viewer"),
    ("POST", "/endpoints/{endpoint}", "owner"),
    ("GET", "/endpoints/{endpoint}/deliveries", "viewer"),
    ("POST", "/endpoints/{endpoint}/rotate", "owner"),
    ("POST", "/endpoints/{endpoint}/switch", "owner"),
    ("POST", "/endpoints/{endpoint}/test", "editor"),
    ("GET", "/endpoints/{endpoint}/remove", "owner"),
    ("POST", "/endpoints/{endpoint}/remove", "owner"),
    ("GET", "/endpoints/{endpoint}/deliveries/{delivery}", "viewer"),
    ("POST", "/endpoints/{endpoint}/deliveries/{delivery}/resend", "editor"),
]


@pytest.mark.parametrize(("method", "path", "role"), EVERYTHING)
def test_who_may_not_is_refused(
    client: Desk, database: Database, site: models.Portal, method: str, path: str, role: str
) -> None:
    url = here(site, path.format(**furnished(database, site)))
    assert client.request(method, url).headers["location"].startswith("/sign-in")
    order = ["viewer", "editor", "owner"]
    for lesser in order[: order.index(role)]:
        sign_in(client, database, site, lesser)
        assert client.request(method, url).status_code == 403, lesser


@pytest.mark.parametrize(("method", "path", "role"), EVERYTHING)
def test_a_stranger_finds_nothing(
    client: Desk,
    database: Database,
    site: models.Portal,
    stranger: models.Portal,
    method: str,
    path: str,
    role: str,
) -> None:
    """Neither under the other portal's address nor under one's own."""
    found = path.format(**furnished(database, site))
    sign_in(client, database, stranger)
    assert client.request(method, here(site, found)).status_code == 404
    if found != path:
        assert client.request(method, here(stranger, found)).status_code == 404
    assert audits(database) == []


@pytest.mark.parametrize(
    "path",
    [
        path
        for method, path, role in EVERYTHING
        if method == "POST" and role == "owner" and "switch" not in path
    ],
)
def test_keys_and_secrets_take_a_fresh_proof(
    owner: Desk, database: Database, site: models.Portal, path: str
) -> None:
    url = here(site, path.format(**furnished(database, site)))
    clock.set_offset(timedelta(minutes=11))
    answer = owner.post(url, data=fields())
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/settings/confirm?next=")
    assert audits(database) == []


# Keys


def test_a_key_is_shown_once(owner: Desk, database: Database, site: models.Portal) -> None:
    answer = owner.post(here(site, "/keys/new"), data=fields())
    assert answer.status_code == 200
    key = secret(answer)
    assert api.KEY.fullmatch(key)
    assert "shown only now" in words(answer)
    page = owner.get(here(site))
    assert key not in page.text
    assert "Our shop" in page.text
    assert f"{key[:11]}…" in page.text
    assert "orders:read, orders:write" in words(page)
    assert "Never used" in words(page)
    called = owner.get("/api/v1/orders", headers={"Authorization": f"Bearer {key}"})
    assert called.status_code == 200
    assert "Last used" in words(owner.get(here(site)))
    (audit,) = audits(database)
    assert (audit.what, audit.subject, audit.portal_id) == ("key.made", "Our shop", site.id)
    assert audit.after == {"key": f"{key[:11]}…", "scopes": ["orders:read", "orders:write"]}


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"name": "  "}, "name", "Say what the key is for"),
        ({"name": "a\x00b"}, "name", "Say what the key is for"),
        ({"scope": []}, "scope", "Choose at least one thing"),
        ({"scope": ["everything"]}, "scope", "Choose at least one thing"),
    ],
)
def test_a_key_needs_a_name_and_something_to_do(
    owner: Desk, database: Database, site: models.Portal, changes: dict[str, Any], field: str, sentence: str
) -> None:
    answer = owner.post(here(site, "/keys/new"), data=fields(**changes))
    assert answer.status_code == 422
    assert words(answer).count(sentence) == 2  # in the summary and beside the field
    assert f'href="#{field}"' in answer.text
    assert rows(database, models.ApiKey) == []
    if field == "name":
        assert 'value="orders:write" checked' in answer.text  # nothing chosen is lost


def test_a_revoked_key_opens_nothing(owner: Desk, database: Database, site: models.Portal) -> None:
    key = secret(owner.post(here(site, "/keys/new"), data=fields()))
    (row,) = rows(database, models.ApiKey)
    url = here(site, f"/keys/{id_text(row.id)}/revoke")
    asked = words(owner.get(url))
    assert "Revoke Our shop" in asked
    assert "It was never used." in asked
    assert rows(database, models.ApiKey)[0].revoked_at is None
    answer = owner.post(url)
    assert answer.headers["location"] == here(site, "?done=revoked")
    assert owner.get("/api/v1/orders", headers={"Authorization": f"Bearer {key}"}).status_code == 401
    page = words(owner.get(answer.headers["location"]))
    assert "The key opens nothing any more." in page
    assert "Revoked keys" in page
    assert owner.post(url).status_code == 404
    assert [one.what for one in audits(database)] == ["key.made", "key.revoked"]


# Return addresses


def save_urls(
    desk: Desk, database: Database, site: models.Portal, text: str, version: int | None = None
) -> Any:
    row = database.read_now(lambda db: db.get_one(models.Portal, site.id))
    return desk.post(
        here(site, "/return-urls"), data={"return_urls": text, "version": str(version or row.version)}
    )


def kept(database: Database, site: models.Portal) -> Any:
    return database.read_now(lambda db: db.get_one(models.Portal, site.id)).return_urls


def test_return_addresses_are_kept_plain(owner: Desk, database: Database, site: models.Portal) -> None:
    text = "https://App.example.com/account\n\n https://app.example.com:443/account \nhttps://two.example.com"
    answer = save_urls(owner, database, site, text)
    assert answer.headers["location"] == here(site, "?done=saved")
    assert kept(database, site) == ["https://app.example.com/account", "https://two.example.com/"]
    assert "https://two.example.com/</textarea>" in owner.get(here(site)).text
    (audit,) = audits(database)
    assert (audit.what, audit.before) == ("portal.return_urls", {"return_urls": None})
    save_urls(owner, database, site, "")
    assert kept(database, site) is None


@pytest.mark.parametrize(
    "bad",
    [
        "http://app.example.com/",
        "app.example.com",
        "https://app.example.com/?x=1",
        "https://*.example.com/",
        "http://localhost:3000/",
    ],
)
def test_what_is_no_return_address_is_said_and_kept(
    owner: Desk, database: Database, site: models.Portal, bad: str
) -> None:
    answer = save_urls(owner, database, site, f"https://good.example.com/\n{bad}")
    assert answer.status_code == 422
    assert bad in words(answer)
    assert "https://good.example.com/" in answer.text
    assert kept(database, site) is None


def test_twenty_return_addresses_are_enough(owner: Desk, database: Database, site: models.Portal) -> None:
    many = "\n".join(f"https://app{number}.example.com/" for number in range(21))
    assert "At most twenty" in words(save_urls(owner, database, site, many))


def test_of_two_who_save_the_later_is_told(owner: Desk, database: Database, site: models.Portal) -> None:
    save_urls(owner, database, site, "https://one.example.com/", 1)
    answer = save_urls(owner, database, site, "https://two.example.com/", 1)
    assert answer.status_code == 422
    assert "has saved meanwhile" in words(answer)
    assert "https://one.example.com/" in words(answer)
    assert ">https://two.example.com/</textarea>" in answer.text
    assert kept(database, site) == ["https://one.example.com/"]
    (version,) = re.findall(r'name="version" value="(\d+)"', answer.text)
    assert save_urls(owner, database, site, "https://two.example.com/", int(version)).status_code == 303
    assert kept(database, site) == ["https://two.example.com/"]


def test_the_demo_lets_customers_go_back_to_this_machine(database: Database, site: models.Portal) -> None:
    from portal.app import create_app

    with Desk(create_app(make_settings(demo=True), database)) as desk:
        sign_in(desk, database, site)
        assert save_urls(desk, database, site, "http://localhost:3000/app").status_code == 303
    assert kept(database, site) == ["http://localhost:3000/app"]


# Endpoints


def test_an_endpoint_is_added_and_its_secret_shown_once(
    owner: Desk, database: Database, site: models.Portal
) -> None:
    answer = owner.post(
        here(site, "/endpoints/new"),
        data={
            "url": "http://127.0.0.1:9/hooks",
            "which": "some",
            "event": ["payment.failed", "request.created"],
        },
    )
    assert answer.status_code == 200
    shown = secret(answer)
    assert shown.startswith("whsec_")
    (row,) = rows(database, models.Endpoint)
    assert VAULT.open(site.id, row.id, row.secret)["endpoint_secret"] == shown
    assert sorted(row.events) == ["payment.failed", "request.created"]
    page = owner.get(here(site))
    assert shown not in page.text
    assert "2 of 17 kinds" in words(page)
    assert shown not in owner.get(here(site, f"/endpoints/{id_text(row.id)}")).text
    (audit,) = audits(database)
    assert (audit.what, audit.subject) == ("endpoint.added", "http://127.0.0.1:9/hooks")
    assert shown not in repr(audit)


def test_in_earnest_only_the_public_net_is_taken(database: Database, site: models.Portal) -> None:
    from portal.app import create_app

    with Desk(create_app(make_settings(), database)) as desk:
        sign_in(desk, database, site)
        for url in ("http://app.example.com/", "https://10.0.0.1/", "https://[::1]/"):
            answer = desk.post(here(site, "/endpoints/new"), data={"url": url, "which": "all"})
            assert answer.status_code == 422
            assert f'value="{url}"' in answer.text
    assert rows(database, models.Endpoint) == []


def test_some_events_are_at_least_one(owner: Desk, database: Database, site: models.Portal) -> None:
    answer = owner.post(here(site, "/endpoints/new"), data={"url": "http://127.0.0.1:9/", "which": "some"})
    assert answer.status_code == 422
    assert "Choose at least one event" in words(answer)
    assert 'value="some" checked' in answer.text


def test_an_endpoint_is_changed(owner: Desk, database: Database, site: models.Portal) -> None:
    row = make_endpoint(database, site)
    url = here(site, f"/endpoints/{id_text(row.id)}")
    answer = owner.post(
        url, data={"url": "http://127.0.0.1:9/other", "which": "some", "event": ["payment.failed"]}
    )
    assert answer.headers["location"] == f"{url}?done=saved"
    (row,) = rows(database, models.Endpoint)
    assert (row.url, row.events) == ("http://127.0.0.1:9/other", ["payment.failed"])
    (audit,) = audits(database)
    assert audit.before == {"url": "http://127.0.0.1:9/hooks", "events": "all"}
    refused = owner.post(url, data={"url": "nonsense", "which": "all"})
    assert refused.status_code == 422
    assert 'value="nonsense"' in refused.text
    owner.post(url, data={"url": "http://127.0.0.1:9/other", "which": "some", "event": ["payment.failed"]})
    assert len(audits(database)) == 1  # nothing changed, nothing is written down


def test_a_secret_is_changed_with_an_overlap(owner: Desk, database: Database, site: models.Portal) -> None:
    row = make_endpoint(database, site)
    before = VAULT.open(site.id, row.id, row.secret)["endpoint_secret"]
    shown = secret(owner.post(here(site, f"/endpoints/{id_text(row.id)}/rotate")))
    assert shown != before
    page = words(owner.get(here(site, f"/endpoints/{id_text(row.id)}")))
    assert "deliveries carry two signatures" in page
    (audit,) = audits(database)
    assert (audit.what, audit.before, audit.after) == ("endpoint.secret_changed", None, None)
    clock.set_offset(timedelta(hours=25))
    sign_in(owner, database, site, "viewer")
    assert "two signatures" not in words(owner.get(here(site, f"/endpoints/{id_text(row.id)}")))


def test_an_endpoint_is_switched_off_and_on(owner: Desk, database: Database, site: models.Portal) -> None:
    row = make_endpoint(database, site)
    url = here(site, f"/endpoints/{id_text(row.id)}")
    page = owner.get(owner.post(f"{url}/switch", data={"to": "off"}).headers["location"])
    assert "Nothing is delivered there." in words(page)
    assert "Send a test event" not in page.text
    assert owner.post(f"{url}/test").status_code == 422
    tell(database, site)
    assert rows(database, models.Delivery) == []
    owner.post(f"{url}/switch", data={"to": "on"})
    owner.post(f"{url}/switch", data={"to": "on"})
    assert [one.what for one in audits(database)] == ["endpoint.switched_off", "endpoint.switched_on"]


def test_what_the_worker_switched_off_says_why(owner: Desk, database: Database, site: models.Portal) -> None:
    row = make_endpoint(database, site)

    def off(db: Session) -> None:
        endpoint = db.get_one(models.Endpoint, row.id)
        outgoing._switch_off(db, endpoint, "It answered 410: it is gone for good.", clock.now())

    database.write_now(off)
    page = words(owner.get(here(site, f"/endpoints/{id_text(row.id)}")))
    assert "It answered 410: it is gone for good." in page
    (letter,) = [job for job in rows(database, models.Job) if job.kind == "mail"]
    from portal import letters

    written = database.write_now(letters._letter, letter.payload, make_settings())
    assert written is not None
    assert written.to == "help@acme.example"
    said = " ".join(written.context["paragraphs"])
    assert "http://127.0.0.1:9/hooks" in said
    assert f"http://admin.localhost{here(site)}" in said


def test_an_endpoint_is_removed_after_a_step(owner: Desk, database: Database, site: models.Portal) -> None:
    row = make_endpoint(database, site)
    tell(database, site)
    url = here(site, f"/endpoints/{id_text(row.id)}/remove")
    asked = words(owner.get(url))
    assert "its log goes too" in asked
    assert "Keep the endpoint" in asked
    assert len(rows(database, models.Endpoint)) == 1
    assert owner.post(url).headers["location"] == here(site, "?done=removed")
    assert rows(database, models.Endpoint) == rows(database, models.Delivery) == []
    assert [one.what for one in audits(database)] == ["endpoint.removed"]


# Its log


def test_a_test_event_is_awaited_in_the_log(owner: Desk, database: Database, site: models.Portal) -> None:
    row = make_endpoint(database, site)
    url = here(site, f"/endpoints/{id_text(row.id)}")
    page = owner.get(owner.post(f"{url}/test").headers["location"])
    assert "A test event is on its way." in words(page)
    assert f'hx-get="{url}/deliveries"' in page.text
    piece = owner.get(f"{url}/deliveries", headers=HTMX)
    assert piece.text.lstrip().startswith('<section class="stack g2" id="log"')
    assert 'hx-trigger="every 2s"' in piece.text
    (delivery,) = rows(database, models.Delivery)

    def arrived(db: Session) -> None:
        outgoing._tried(db, delivery.id, 204, None, None, False, clock.now())

    database.write_now(arrived)
    piece = owner.get(f"{url}/deliveries", headers=HTMX)
    assert "Delivered" in words(piece)
    assert "hx-get" not in piece.text
    assert owner.get(f"{url}/deliveries").headers["location"] == url


def test_the_log_goes_on_below(owner: Desk, database: Database, site: models.Portal) -> None:
    row = make_endpoint(database, site)
    tell(database, site, 30)
    url = here(site, f"/endpoints/{id_text(row.id)}")
    first = owner.get(url)
    assert first.text.count('data-testid="delivery"') == 25
    (more,) = re.findall(r'href="([^"]+\?before=[^"#]+)', first.text)
    assert owner.get(unescape(more)).text.count('data-testid="delivery"') == 5


def test_a_delivery_shows_what_is_sent_and_goes_once_more(
    owner: Desk, database: Database, site: models.Portal
) -> None:
    ids = furnished(database, site)
    url = here(site, f"/endpoints/{ids['endpoint']}/deliveries/{ids['delivery']}")
    page = owner.get(url)
    assert '"type": "customer.signed_in"' in unescape(page.text)
    jobs = len([job for job in rows(database, models.Job) if job.kind == "deliver"])
    answer = owner.post(f"{url}/resend")
    assert answer.headers["location"] == f"{url}?done=resent"
    assert "It is being delivered once more." in words(owner.get(answer.headers["location"]))
    again = [job for job in rows(database, models.Job) if job.kind == "deliver"]
    assert len(again) == jobs + 1
    assert again[-1].payload["again"] is True
    missing = here(site, f"/endpoints/{ids['endpoint']}/deliveries/{id_text(new_id())}")
    assert owner.get(missing).status_code == 404
    assert owner.post(f"{missing}/resend").status_code == 404
    other = make_endpoint(database, site, "http://127.0.0.1:9/second")
    elsewhere = here(site, f"/endpoints/{id_text(other.id)}/deliveries/{ids['delivery']}")
    assert owner.get(elsewhere).status_code == 404


def test_a_viewer_sees_and_can_press_nothing(
    client: Desk, database: Database, site: models.Portal, app: Starlette
) -> None:
    ids = furnished(database, site)
    sign_in(client, database, site, "viewer")
    for path in (
        "",
        f"/endpoints/{ids['endpoint']}",
        f"/endpoints/{ids['endpoint']}/deliveries/{ids['delivery']}",
    ):
        page = client.get(here(site, path))
        assert page.status_code == 200
        inner = page.text.split("<main", 1)[1]
        assert "<form" not in inner
        assert "/revoke" not in inner


def test_what_is_typed_is_escaped(owner: Desk, database: Database, site: models.Portal) -> None:
    owner.post(here(site, "/keys/new"), data=fields(name="<script>alert(1)</script>"))
    page = owner.get(here(site))
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert(1)" in page.text


def test_a_word_in_the_address_is_not_echoed(owner: Desk, site: models.Portal) -> None:
    page = owner.get(here(site, "?done=You+have+won"))
    assert "You have won" not in page.text


def test_further_browsers_see_the_same(
    other: Callable[..., Desk], database: Database, site: models.Portal
) -> None:
    """Nothing of it answers on a portal's own host."""
    desk = other("acme.localhost")
    sign_in(desk, database, site)
    assert desk.get(here(site)).status_code == 404
