"""Every page of the merchant's side opens for who may see it, and is not there for anybody else."""

from collections.abc import Callable

from portal import models
from portal.db import Database
from tests.unit.settings.conftest import HTMX, Desk, address, sign_in


def test_pages_open(client: Desk, database: Database, site: models.Portal) -> None:
    sign_in(client, database, site)
    for path in (
        "/settings",
        "/settings/people",
        "/settings/security",
        "/settings/audit",
        "/settings/confirm",
        "/settings/portals/new",
        address(site),
    ):
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text[:2000])
        assert answer.text.count("<h1") == 1
        piece = client.get(path, headers=HTMX)
        assert piece.status_code == 200
        if not path.endswith("confirm"):
            assert "<html" not in piece.text
            assert piece.text.count('id="body"') == 1


def test_nobody_is_sent_to_the_door(client: Desk, site: models.Portal) -> None:
    answer = client.get(address(site))
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/sign-in?next={address(site)}"


def test_a_strangers_portal_is_not_found(
    client: Desk, database: Database, site: models.Portal, stranger: models.Portal
) -> None:
    sign_in(client, database, site)
    assert client.get(address(stranger)).status_code == 404
    assert client.post(address(stranger), data={"name": "Mine"}).status_code == 404


def test_each_side_keeps_to_its_host(
    client: Desk, database: Database, site: models.Portal, other: Callable[..., Desk]
) -> None:
    sign_in(client, database, site)
    assert client.get("/customers").status_code == 404
    shop = other("acme.localhost")
    assert shop.get("/customers").status_code == 200
    for path in ("/settings", "/sign-in", "/static/admin.css", "/setup/abc"):
        assert shop.get(path).status_code == 404
    assert other("nowhere.localhost").get("/settings").status_code == 421
