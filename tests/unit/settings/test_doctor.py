"""The doctor's page: who sees which lines, what comes at once and what in pieces, keys asked, a mail to oneself."""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from portal import clock, doctor, domains, models
from portal.app import create_app
from portal.db import Database
from portal.settings import Settings
from seeds.simulators.harness import Harness, Servers, simulator
from tests.dns_server import DnsServer
from tests.unit.builders import make_account, save
from tests.unit.settings.conftest import HTMX, Desk, make_settings, sign_in
from tests.unit.test_mail import Sink, sink

HERE = "/settings/doctor"


@pytest.fixture(scope="module")
def stripe() -> Iterator[Harness]:
    found = simulator("stripe", clock.now)
    with Servers([found]):
        for sample in found.samples():
            found.open(sample, "http://127.0.0.1:9/webhooks/nowhere")
        found.save()
        yield found


@pytest.fixture
def smtp() -> Iterator[Sink]:
    with sink() as server:
        yield server


@pytest.fixture
def resolver() -> Iterator[DnsServer]:
    with DnsServer(recursive=True) as server:
        server.zone("mail.example", {"@ TXT": ["v=spf1 mx -all"]})
        server.zone("brand.example", {"account CNAME": ["acme.localhost."]})
        yield server


@pytest.fixture
def settings(smtp: Sink, resolver: DnsServer, stripe: Harness) -> Settings:
    return make_settings(
        smtp_host="127.0.0.1",
        smtp_port=smtp.port,
        smtp_tls="none",
        dns_servers=resolver.where,
        demo=True,
        simulators={"stripe": stripe.address},
    )


def states(body: str) -> dict[str, list[str]]:
    """The lines of each area."""
    parts = re.split(r'data-testid="area" data-ref="(\w+)"', body)[1:]
    return {
        area: re.findall(r'data-testid="finding" data-state="(\w+)"', text)
        for area, text in zip(parts[::2], parts[1::2], strict=True)
    }


def connected(database: Database, site: models.Portal, stripe: Harness, **more: Any) -> models.Account:
    sample = stripe.samples()[0]
    return make_account(
        database,
        site,
        "stripe",
        dict(sample.credentials),
        variant=sample.variant,
        **{"label": "Cards", **more},
    )


def test_an_owner_sees_the_installation_and_others_do_not(
    client: Desk, database: Database, site: models.Portal, other: Callable[..., Desk]
) -> None:
    mine = states(sign_in(client, database, site).get(HERE).text)
    assert set(mine) == {*doctor.MERCHANTS, *doctor.INSTALLATION}
    for role in ("viewer", "editor"):
        body = sign_in(other(), database, site, role).get(HERE).text
        assert set(states(body)) == set(doctor.MERCHANTS)
        assert "shown to owners" in body
        assert "PORTAL_MASTER_KEYS" not in body


def test_what_rows_say_is_there_at_once_and_the_rest_comes_in_pieces(
    client: Desk, database: Database, site: models.Portal, smtp: Sink, resolver: DnsServer
) -> None:
    body = sign_in(client, database, site).get(HERE).text
    assert smtp.connections == 0
    assert not resolver.asked
    found = states(body)
    assert found["worker"] == ["bad"]
    assert found["keys"] == ["unknown"]
    assert found["mail"] == []
    loading = re.findall(
        r'id="(\w+)"[^>]* aria-busy="true" hx-get="/settings/doctor/(\w+)" hx-trigger="load"', body
    )
    assert loading == [(area, area) for area in doctor.SLOW]
    assert 'href="/settings/doctor?all=1"' in body


def test_a_piece_is_its_area_and_nothing_else(
    client: Desk, database: Database, site: models.Portal, smtp: Sink
) -> None:
    sign_in(client, database, site)
    piece = client.get(f"{HERE}/mail", headers=HTMX)
    assert piece.status_code == 200
    assert states(piece.text) == {"mail": ["ok"]}
    assert "<h1" not in piece.text
    assert "hx-get" not in piece.text
    assert smtp.connections == 1
    sender = states(client.get(f"{HERE}/sender", headers=HTMX).text)
    assert sender == {"sender": ["warn", "unknown", "ok"]}
    whole = client.get(f"{HERE}/mail")
    assert (whole.status_code, whole.headers["Location"]) == (303, "/settings/doctor?all=1#mail")
    assert client.get(f"{HERE}/nothing", headers=HTMX).status_code == 404
    assert client.get(f"{HERE}/worker", headers=HTMX).status_code == 404  # asks nobody outside


def test_all_checks_at_once_for_who_has_no_script(
    client: Desk, database: Database, site: models.Portal, smtp: Sink, resolver: DnsServer
) -> None:
    database.write_now(domains.claim, site.id, "account.brand.example", clock.now())
    body = sign_in(client, database, site).get(HERE, params={"all": "1"}).text
    found = states(body)
    assert found["mail"] == ["ok"]
    assert found["domains"] == ["warn"]
    assert found["tls"] == ["unknown"]  # by http
    assert "v=spf1 mx -all" in body
    assert "hx-get" not in body
    assert smtp.connections == 1
    assert resolver.asked["_portal-proof.account.brand.example TXT"] >= 1


@pytest.mark.usefixtures("sqlite_only")
def test_the_page_is_there_within_ten_seconds_though_nobody_answers(
    client: Desk, database: Database, site: models.Portal, resolver: DnsServer
) -> None:
    resolver.silent = {"."}
    for number in range(3):
        portal = save(
            database,
            models.Portal(
                merchant_id=site.merchant_id,
                slug=f"more{number}",
                name="More",
                support_email="a@b.example",
                brand={},
                cancel_reasons=[],
            ),
        )
        database.write_now(domains.claim, portal.id, f"account{number}.brand.example", clock.now())
    sign_in(client, database, site)
    begun = time.monotonic()
    found = states(client.get(HERE, params={"all": "1"}).text)
    assert time.monotonic() - begun < 11
    assert found["domains"] == ["unknown"] * 3
    assert set(found["sender"]) == {"unknown"}


def test_nothing_of_another_merchant_is_shown(
    client: Desk, database: Database, site: models.Portal, stranger: models.Portal, stripe: Harness
) -> None:
    connected(database, stranger, stripe, label="Kora cards", health={"ok": False, "hint": "kora trouble"})
    database.write_now(domains.claim, stranger.id, "account.kora.example", clock.now())
    sign_in(client, database, site)
    for address in (HERE, f"{HERE}?all=1"):
        assert "kora" not in client.get(address).text.lower()


def test_nobody_comes_in_without_signing_in(
    client: Desk, other: Callable[..., Desk], site: models.Portal
) -> None:
    assert client.get(HERE).status_code == 303
    assert client.get(f"{HERE}/mail", headers=HTMX).status_code in (303, 204, 401)
    assert client.post(f"{HERE}/mail").status_code == 303
    assert other("acme.localhost").get(HERE).status_code == 404


def test_keys_are_asked_now_and_the_answer_is_kept(
    client: Desk, database: Database, site: models.Portal, stripe: Harness
) -> None:
    good = connected(database, site, stripe)
    bad = make_account(
        database,
        site,
        "stripe",
        {**stripe.samples()[0].credentials, "secret_key": "sk_test_wrong"},
        label="Wrong",
        variant=stripe.samples()[0].variant,
    )
    sign_in(client, database, site, "editor")
    assert states(client.get(HERE).text)["keys"] == ["unknown", "unknown"]
    answer = client.post(f"{HERE}/keys")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/settings/doctor?done=checked#keys")
    body = client.get(answer.headers["Location"]).text
    assert "The keys were checked just now." in body
    assert states(body)["keys"] == ["bad", "ok"]
    assert "sk_test_wrong" not in body

    def kept(account: models.Account) -> Any:
        row = database.read_now(lambda db: db.get_one(models.Account, account.id))
        return row.health["ok"], row.checked_at is not None  # type: ignore[index]

    assert kept(good) == (True, True)
    assert kept(bad) == (False, True)


def test_a_viewer_asks_for_nothing(client: Desk, database: Database, site: models.Portal, smtp: Sink) -> None:
    sign_in(client, database, site, "viewer")
    assert client.post(f"{HERE}/keys").status_code == 403
    assert client.post(f"{HERE}/mail").status_code == 403
    assert client.get(f"{HERE}/mail", headers=HTMX).status_code == 404
    assert "Check keys now" not in client.get(HERE).text
    assert smtp.messages == []


def test_an_owner_sends_a_mail_to_themselves_and_reads_the_answer(
    client: Desk, database: Database, site: models.Portal, smtp: Sink
) -> None:
    sign_in(client, database, site)
    body = client.post(f"{HERE}/mail").text
    owner = f"owner-{site.merchant_id}@merchant.example"
    assert smtp.recipients == [owner]
    assert "The server took it: “OK”." in body
    smtp.answers[owner] = "550 5.1.1 <b>no such user</b>"
    body = client.post(f"{HERE}/mail").text
    assert "550 5.1.1 &lt;b&gt;no such user&lt;/b&gt;" in body
    assert "The server refused it" in body

    def noted(db: Any) -> int:
        return int(db.query(models.Audit).filter_by(what="mail.tested", merchant_id=site.merchant_id).count())

    assert database.read_now(noted) == 2


def test_mails_to_oneself_have_an_end(
    client: Desk, database: Database, site: models.Portal, smtp: Sink
) -> None:
    sign_in(client, database, site)
    for _ in range(5):
        assert client.post(f"{HERE}/mail").status_code == 200
    late = client.post(f"{HERE}/mail")
    assert late.status_code == 429
    assert "several mails just now" in late.text
    assert len(smtp.messages) == 5


def test_a_mail_server_that_is_gone_makes_no_broken_page(
    database: Database, site: models.Portal, smtp: Sink
) -> None:
    with sink() as gone:
        port = gone.port
    app: Starlette = create_app(
        make_settings(smtp_host="127.0.0.1", smtp_port=port, smtp_tls="none"), database
    )
    with Desk(app) as desk:
        answer = sign_in(desk, database, site).post(f"{HERE}/mail")
    assert answer.status_code == 200
    assert f"Nothing answers at 127.0.0.1:{port}." in answer.text


def test_nothing_of_the_page_needs_inline_style_or_script(
    client: TestClient, database: Database, site: models.Portal
) -> None:
    body = sign_in(client, database, site).get(HERE).text
    assert "style=" not in body
    assert not re.search(r"<script(?![^>]* src=)", body)
