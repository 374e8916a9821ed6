"""The ask endpoint: which names may have a certificate, who may ask, and that strangers' questions cost little."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from portal import clock, domains, models, tenancy
from portal.app import create_app
from portal.db import Database
from portal.settings import Settings
from portal.views import internal
from tests.unit.builders import MASTER_KEY, make_portal

BASE = "portals.example.net"
NAME = "kunden.brand.example.com"


def make_client(database: Database, client: str = "127.0.0.1", **fields: Any) -> TestClient:
    values = {"base_domain": BASE, "admin_host": "desk.example.net", "master_keys": MASTER_KEY, **fields}
    app = create_app(Settings(**values), database)
    return TestClient(app, "http://anything.example", client=(client, 50_000), raise_server_exceptions=False)


def ask(client: TestClient, name: str, **headers: str) -> int:
    return client.get("/internal/tls-ask", params={"domain": name}, headers=headers).status_code


@pytest.fixture
def portal(database: Database) -> models.Portal:
    return make_portal(database)


def settle(database: Database, portal: models.Portal, look: domains.Look) -> None:
    claim = database.write_now(domains.claim, portal.id, NAME, clock.now())
    wanted = domains.Wanted(claim.id, portal.id, NAME, claim.token, f"acme.{BASE}")
    database.write_now(domains.settle, wanted, look, clock.now())


def test_names_we_serve(database: Database, portal: models.Portal) -> None:
    settle(database, portal, domains.Look())
    client = make_client(database)
    for name in (NAME, NAME.upper(), f"acme.{BASE}", "desk.example.net"):
        assert ask(client, name) == 200
    for name in (
        BASE,
        f"nobody.{BASE}",
        f"x.acme.{BASE}",
        f"acme.{BASE}.evil.example",
        f"evil{NAME}",
        f"x.{NAME}",
        "brand.example.com",
        "acme",
        "localhost",
        "example.org",
        "127.0.0.1",
    ):
        assert ask(client, name) == 403, name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "a..b",
        f"{NAME}.",
        f"{NAME}:443",
        "*.example.com",
        "münchen.de",
        "a b",
        "a/b",
        "x" * 300,
        "-a.com",
    ],
)
def test_what_is_no_name(database: Database, portal: models.Portal, name: str) -> None:
    assert ask(make_client(database), name) == 400


def test_one_name_at_a_time(database: Database, portal: models.Portal) -> None:
    client = make_client(database)
    assert client.get("/internal/tls-ask").status_code == 400
    both = client.get(f"/internal/tls-ask?domain=acme.{BASE}&domain=evil.example")
    assert both.status_code == 400


def test_an_unproved_claim_gets_no_certificate(database: Database, portal: models.Portal) -> None:
    settle(database, portal, domains.Look((domains.Problem("txt", "missing"),)))
    assert ask(make_client(database), NAME) == 403


def test_a_lost_name_gets_one_for_three_days_and_a_released_one_none(
    database: Database, portal: models.Portal
) -> None:
    settle(database, portal, domains.Look())
    settle(database, portal, domains.Look((domains.Problem("txt", "missing"),)))
    assert database.read_now(tenancy.portal_by_id, portal.id, BASE).host == f"acme.{BASE}"
    assert ask(make_client(database), NAME) == 200
    clock.set_offset(timedelta(hours=73))
    assert ask(make_client(database), NAME) == 403
    clock.set_offset(timedelta(0))
    assert ask(make_client(database), NAME) == 200
    database.write_now(domains.release, portal.id, clock.now())
    assert ask(make_client(database), NAME) == 403


# Who may ask


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_this_machine_may_ask(database: Database, portal: models.Portal, address: str) -> None:
    assert ask(make_client(database, address), f"acme.{BASE}") == 200


@pytest.mark.parametrize(
    "address",
    ["192.0.2.7", "10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "testclient", "127.0.0.1.evil.example"],
)
@pytest.mark.parametrize("headers", [{}, {"X-Forwarded-For": "127.0.0.1"}, {"X-Real-IP": "127.0.0.1"}])
def test_no_other_may(
    database: Database, portal: models.Portal, address: str, headers: dict[str, str]
) -> None:
    client = make_client(database, address, trusted_proxies="0.0.0.0/0, ::/0")
    assert ask(client, f"acme.{BASE}", **headers) == 403


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via"])
def test_a_proxy_on_this_machine_does_not_ask_for_others(
    database: Database, portal: models.Portal, header: str
) -> None:
    assert ask(make_client(database), f"acme.{BASE}", **{header: "127.0.0.1"}) == 403


def test_the_secret_opens_it_from_anywhere(database: Database, portal: models.Portal) -> None:
    client = make_client(database, "192.0.2.7", tls_ask_secret=SecretStr("a long secret"))
    name = f"acme.{BASE}"
    assert ask(client, name, Authorization="Bearer a long secret") == 200
    assert (
        client.get("/internal/tls-ask", params={"domain": name, "secret": "a long secret"}).status_code == 200
    )
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic a long secret"},
    ):
        assert ask(client, name, **headers) == 403
    assert client.get("/internal/tls-ask", params={"domain": name, "secret": "é"}).status_code == 403


@pytest.mark.parametrize("given", ["", "anything"])
def test_without_a_secret_none_opens_it(database: Database, portal: models.Portal, given: str) -> None:
    client = make_client(database, "192.0.2.7")
    answer = client.get("/internal/tls-ask", params={"domain": f"acme.{BASE}", "secret": given})
    assert answer.status_code == 403


def test_it_is_only_read(database: Database, portal: models.Portal) -> None:
    assert make_client(database).post("/internal/tls-ask", data={"domain": f"acme.{BASE}"}).status_code == 405


# What it costs


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []
    real: Callable[..., bool] = tenancy.is_served

    def counting(db: Any, host: str, base_domain: str) -> bool:
        made.append(host)
        return real(db, host, base_domain)

    monkeypatch.setattr(tenancy, "is_served", counting)
    return made


def test_answers_are_remembered_for_some_seconds(
    database: Database, portal: models.Portal, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = 1000.0
    monkeypatch.setattr(internal, "monotonic", lambda: moment)
    client = make_client(database)
    for _ in range(5):
        assert ask(client, f"acme.{BASE}") == 200
        assert ask(client, "evil.example") == 403
    assert reads == [f"acme.{BASE}", "evil.example"]
    moment += 6
    assert ask(client, f"acme.{BASE}") == 200
    assert ask(client, "evil.example") == 403
    assert reads[2:] == ["evil.example"]
    moment += 25
    ask(client, f"acme.{BASE}")
    assert reads[3:] == [f"acme.{BASE}"]


def test_a_name_that_is_proved_now_is_served_within_seconds(
    database: Database, portal: models.Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = 1000.0
    monkeypatch.setattr(internal, "monotonic", lambda: moment)
    client = make_client(database)
    assert ask(client, NAME) == 403
    settle(database, portal, domains.Look())
    moment += internal.UNKNOWN_FOR_S + 0.1
    assert ask(client, NAME) == 200


def test_strangers_do_not_fill_the_memory(
    database: Database, portal: models.Portal, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(internal, "MOST_KNOWN", 10)
    client = make_client(database)
    for number in range(25):
        assert ask(client, f"n{number}.example") == 403
    assert len(reads) == 25
    assert ask(client, "n24.example") == 403
    assert len(reads) == 25
    assert ask(client, "n0.example") == 403  # the first ones are forgotten first
    assert len(reads) == 26
    (known,) = [
        cell.cell_contents
        for route in client.app.routes  # type: ignore[attr-defined]
        if getattr(route, "name", "") == "tls_ask"
        for cell in route.endpoint.__closure__
    ]
    assert len(known) == 10
