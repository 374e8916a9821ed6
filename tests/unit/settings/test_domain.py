"""Settings > Domain: what is shown in each state, who may change it, and that nothing typed is lost."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from markupsafe import escape
from sqlalchemy import select
from sqlmodel import col
from starlette.applications import Starlette

from portal import clock, domains, models, tenancy, work
from portal.app import create_app
from portal.db import Database
from portal.settings import Settings
from tests.dns_server import DnsServer
from tests.unit.settings.conftest import HTMX, Desk, address, make_person, make_settings, sign_in, sign_in_as

NAME = "kunden.brand.test"


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    with DnsServer(recursive=True) as found:
        found.zone("brand.test", {})
        yield found


@pytest.fixture
def settings(dns: DnsServer) -> Settings:
    return make_settings(dns_servers=dns.where)


@pytest.fixture
def app(database: Database, settings: Settings) -> Starlette:
    return create_app(settings, database)


class Merchant:
    """An owner at their desk, and the worker that looks."""

    def __init__(
        self, desk: Desk, database: Database, settings: Settings, site: models.Portal, dns: DnsServer
    ):
        self.desk, self.database, self.site, self.dns = desk, database, site, dns
        self.worker = work.Worker(settings, database)
        self.owner = make_person(database, site.merchant_id)
        self.sign_in()

    def sign_in(self) -> None:
        """Time that is moved ends sessions."""
        sign_in_as(self.desk, self.database, self.owner, self.site.merchant_id)

    def get(self, path: str = "", **headers: str) -> Any:
        return self.desk.get(address(self.site, f"/domain{path}"), headers=headers)

    def post(self, path: str, data: Any = None, **headers: Any) -> Any:
        return self.desk.post(address(self.site, f"/domain{path}"), data=data or {}, headers=headers)

    def claim(self, name: str = NAME) -> models.DomainClaim:
        answer = self.post("/name", {"name": name})
        assert answer.status_code == 303, answer.text
        return self.row()

    def row(self) -> models.DomainClaim:
        row = models.DomainClaim
        return self.database.read_now(
            lambda db: db.execute(select(row).where(col(row.portal_id) == self.site.id)).scalar_one()
        )

    def work(self) -> None:
        async def once() -> None:
            batch = self.database.write_now(work.claim, clock.now(), 100, ("mail",))
            await asyncio.gather(*(self.worker._each([job]) for job in batch))

        asyncio.run(once())

    def set_records(self) -> None:
        self.dns.zone(
            "brand.test",
            {
                "_portal-proof.kunden TXT": [domains.proof_value(self.row().token)],
                "kunden CNAME": ["acme.localhost."],
            },
        )

    def prove(self) -> None:
        self.claim()
        self.set_records()
        self.work()
        assert self.row().state == "proved"


@pytest.fixture
def merchant(
    client: Desk, database: Database, settings: Settings, site: models.Portal, dns: DnsServer
) -> Merchant:
    return Merchant(client, database, settings, site, dns)


def later(**gap: float) -> None:
    clock.set_offset(clock.offset() + timedelta(**gap))


def state(answer: Any) -> str:
    found: str = answer.text.split('data-state="', 1)[1].split('"', 1)[0]
    return found


def test_without_a_domain_it_says_what_one_is_for(merchant: Merchant) -> None:
    answer = merchant.get()
    assert answer.status_code == 200
    assert state(answer) == "none"
    assert "http://acme.localhost/customers" in answer.text
    assert f'href="{address(merchant.site, "/domain/name")}"' in answer.text
    assert "hx-trigger" not in answer.text.split('id="domain"')[1]


def test_a_name_is_claimed_and_both_records_are_shown(merchant: Merchant) -> None:
    assert 'name="name"' in merchant.get("/name").text
    answer = merchant.post("/name", {"name": "Kunden.Brand.test"})
    assert answer.status_code == 303
    assert answer.headers["location"] == address(merchant.site, "/domain?done=claimed")
    page = merchant.desk.get(answer.headers["location"]).text
    claim = merchant.row()
    assert claim.name == NAME
    for text in (
        "Now set the two records below.",
        "_portal-proof.kunden.brand.test",
        f"portal-proof={claim.token}",
        "acme.localhost",
        "Looking now",
        'hx-trigger="every 3s"',
        ">TXT<",
        ">CNAME<",
    ):
        assert text in page
    assert page.count('data-testid="record"') == 2
    assert 'id="look-now"' in page


def test_with_htmx_the_browser_is_sent_on(merchant: Merchant) -> None:
    answer = merchant.post("/name", {"name": NAME}, **HTMX)
    assert answer.status_code == 204
    assert answer.headers["hx-redirect"] == address(merchant.site, "/domain?done=claimed")


def test_a_name_is_taken_out_of_an_address_and_that_is_said(merchant: Merchant) -> None:
    answer = merchant.post("/name", {"name": f"https://{NAME}/"})
    assert answer.headers["location"].endswith("?done=taken_out")
    assert "We took the name out of the address" in merchant.desk.get(answer.headers["location"]).text
    assert merchant.row().name == NAME


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("", "Enter a name"),
        ("192.0.2.7", "This is an IP address"),
        ("acme.localhost", "belongs to this installation"),
        ('"><script>alert(1)</script>.brand.test', "without the path"),
        ("a b", "no spaces"),
    ],
)
@pytest.mark.parametrize("headers", [{}, HTMX])
def test_what_cannot_be_claimed_is_said_beside_the_field_and_stays_typed(
    merchant: Merchant, typed: str, words: str, headers: dict[str, str]
) -> None:
    answer = merchant.post("/name", {"name": typed}, **headers)
    assert answer.status_code == 422
    assert answer.text.count(words) == 2  # in the summary and beside the field
    assert f'value="{escape(typed)}"' in answer.text
    assert "<script>alert" not in answer.text
    assert 'href="#name"' in answer.text
    assert "Error:" in answer.text


def test_an_unknown_word_in_the_address_says_nothing(merchant: Merchant) -> None:
    assert "hacked" not in merchant.get("?done=hacked").text


def test_what_the_last_look_found_and_when_the_next_is(merchant: Merchant) -> None:
    merchant.claim()
    merchant.dns.zone("brand.test", {"kunden CNAME": ["shops.example.net."]})
    merchant.work()
    page = merchant.get().text
    assert "The TXT record _portal-proof.kunden.brand.test is not there yet." in page
    assert "kunden.brand.test points to shops.example.net, it should point to acme.localhost." in page
    assert "Last look:" in page
    assert "Next look:" in page
    assert 'hx-trigger="every 10s"' in page
    later(hours=2)
    merchant.work()
    merchant.sign_in()
    assert "hx-trigger" not in merchant.get().text.split('id="domain"')[1].split("<table")[0]


def test_what_stands_in_the_dns_is_text(merchant: Merchant) -> None:
    merchant.claim()
    merchant.dns.zone("brand.test", {"_portal-proof.kunden TXT": ["<img src=x onerror=alert(1)>"]})
    merchant.work()
    page = merchant.get().text
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


def test_the_part_that_changes_comes_alone(merchant: Merchant) -> None:
    merchant.claim()
    piece = merchant.get("/state", **HTMX)
    assert piece.status_code == 200
    assert piece.text.strip().startswith('<div id="domain"')
    assert "<h1" not in piece.text
    assert "data-focus" not in piece.text
    assert merchant.get("/state").headers["location"] == address(merchant.site, "/domain")
    merchant.set_records()
    merchant.work()
    piece = merchant.get("/state", **HTMX)
    assert state(piece) == "proved"
    assert "hx-trigger" not in piece.text
    assert "Pages answer under this name" in piece.text


def test_look_now(merchant: Merchant) -> None:
    merchant.claim()
    merchant.work()
    assert merchant.post("/look").headers["location"].endswith("?done=just")
    assert "We looked just now" in merchant.post("/look", **HTMX).text
    later(seconds=11)
    merchant.set_records()
    piece = merchant.post("/look", **HTMX)
    assert "Looking now" in piece.text
    assert "data-focus" in piece.text
    assert merchant.post("/look").headers["location"].endswith("?done=looking")
    merchant.work()
    assert state(merchant.get()) == "proved"


def test_every_state_in_words(merchant: Merchant, database: Database) -> None:
    merchant.prove()
    page = merchant.get()
    assert state(page) == "proved"
    assert "http://kunden.brand.test/customers" in page.text
    assert "<details>" in page.text
    assert "acme.localhost</bdi> goes on answering too" in page.text
    merchant.dns.zone("brand.test", {})
    later(hours=24, seconds=5)
    merchant.work()
    merchant.sign_in()
    page = merchant.get()
    assert state(page) == "lost"
    assert "Pages go on answering under this name until" in page.text
    assert "http://acme.localhost/customers" in page.text
    later(hours=73)
    merchant.work()
    merchant.sign_in()
    page = merchant.get()
    assert state(page) == "ended"
    assert "prove it anew" in page.text
    assert 'data-testid="record"' not in page.text
    assert "Use a name of your own" in page.text
    assert database.read_now(tenancy.portal_by_host, NAME, "localhost") is None


def test_a_taken_name_is_said_without_saying_whose(
    merchant: Merchant, database: Database, stranger: models.Portal, settings: Settings
) -> None:
    claim = database.write_now(domains.claim, stranger.id, NAME, clock.now())
    wanted = domains.Wanted(claim.id, stranger.id, NAME, claim.token, "kora.localhost")
    database.write_now(domains.settle, wanted, domains.Look(), clock.now())
    merchant.claim()
    merchant.set_records()
    merchant.work()
    page = merchant.get()
    assert state(page) == "taken"
    assert "proved by another portal here" in page.text
    assert "kora" not in page.text.lower()


def test_a_name_in_other_letters_is_shown_both_ways(merchant: Merchant) -> None:
    merchant.claim("münchen.test")
    page = merchant.get().text
    assert "münchen.test" in page
    assert "xn--mnchen-3ya.test" in page
    assert "ALIAS or ANAME" in page
    assert "is the domain itself" in page


def test_the_name_is_let_go_after_a_step(merchant: Merchant, database: Database) -> None:
    merchant.prove()
    page = merchant.get("/release")
    assert page.status_code == 200
    assert "Keep the name" in page.text
    assert merchant.row().state == "proved"
    assert merchant.post("/release").headers["location"].endswith("?done=released")
    page = merchant.get("?done=released")
    assert state(page) == "released"
    assert database.read_now(tenancy.portal_by_host, NAME, "localhost") is None
    assert merchant.get("/release").status_code == 303


def test_another_name_says_what_it_costs(merchant: Merchant) -> None:
    merchant.prove()
    page = merchant.get("/name").text
    assert "stops answering as soon as you go on" in page
    first = merchant.row().token
    merchant.claim("shop.brand.test")
    assert merchant.row().token != first
    assert state(merchant.get()) == "pending"


def test_every_change_is_written_down(merchant: Merchant, database: Database) -> None:
    merchant.prove()
    merchant.post("/name", {"name": NAME})  # nothing new
    merchant.claim("shop.brand.test")
    merchant.post("/release")
    merchant.post("/release")
    row = models.Audit
    rows = database.read_now(
        lambda db: [
            (one.what, one.who.partition("@")[0].partition("-")[0], one.subject, one.before, one.after)
            for one in db.execute(
                select(row).where(col(row.portal_id) == merchant.site.id).order_by(col(row.id))
            ).scalars()
        ]
    )
    assert rows == [
        ("domain.claimed", "owner", NAME, None, {"domain": NAME}),
        ("domain.proved", "worker", NAME, None, None),
        ("domain.claimed", "owner", "shop.brand.test", {"domain": NAME}, {"domain": "shop.brand.test"}),
        ("domain.released", "owner", "shop.brand.test", {"domain": "shop.brand.test"}, {"domain": None}),
    ]


# Who may


WRITES = [("/name", {"name": NAME}), ("/release", {})]


@pytest.mark.parametrize("role", ["viewer", "editor"])
def test_only_owners_change_it(client: Desk, database: Database, site: models.Portal, role: str) -> None:
    database.write_now(domains.claim, site.id, NAME, clock.now())
    sign_in(client, database, site, role)
    page = client.get(address(site, "/domain"))
    assert page.status_code == 200
    assert "Owners can change the domain." in page.text
    assert "Let the name go" not in page.text
    assert ('id="look-now"' in page.text) == (role == "editor")
    for path, data in WRITES:
        assert client.post(address(site, f"/domain{path}"), data=data).status_code == 403
        assert client.get(address(site, f"/domain{path}")).status_code == 403
    assert client.post(address(site, "/domain/look")).status_code == (403 if role == "viewer" else 303)
    assert client.get(address(site, "/domain/state"), headers=HTMX).status_code == 200


def test_who_signed_in_long_ago_confirms_first(merchant: Merchant) -> None:
    later(minutes=11)
    for path, data in WRITES:
        wanted = merchant.get(path)
        assert wanted.status_code == 303
        assert (
            wanted.headers["location"] == f"/settings/confirm?next={address(merchant.site, f'/domain{path}')}"
        )
        answer = merchant.post(path, data)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/settings/confirm")
    assert merchant.get().status_code == 200
    with pytest.raises(Exception, match="No row"):
        merchant.row()


def test_strangers_and_nobody(
    client: Desk, other: Callable[..., Desk], database: Database, site: models.Portal, stranger: models.Portal
) -> None:
    database.write_now(domains.claim, stranger.id, NAME, clock.now())
    sign_in(client, database, site)
    nobody = other()
    for path in ("", "/state", "/name", "/release"):
        assert client.get(address(stranger, f"/domain{path}"), headers=HTMX).status_code == 404
        assert nobody.get(address(site, f"/domain{path}")).headers["location"].startswith("/sign-in")
    for path, data in (*WRITES, ("/look", {})):
        assert client.post(address(stranger, f"/domain{path}"), data=data).status_code == 404
        assert (
            nobody.post(address(site, f"/domain{path}"), data=data).headers["location"].startswith("/sign-in")
        )
    row = models.DomainClaim
    assert database.read_now(lambda db: db.execute(select(row)).scalar_one()).portal_id == stranger.id
