"""The merchant's side for tests: an application, browsers of it, and people who are signed in."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.testclient import TestClient

from portal import clock, merchants, models
from portal.app import create_app
from portal.db import Database
from portal.ids import id_text
from portal.settings import Settings
from tests.unit.builders import MASTER_KEY, make_portal, save

SECRET = "the secret of these tests"
OWN = {"Sec-Fetch-Site": "same-origin"}
HTMX = {"HX-Request": "true", "HX-Request-Type": "partial"}
FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0"


def make_settings(**values: Any) -> Settings:
    return Settings(
        **{
            "scheme": "http",
            "base_domain": "localhost",
            "admin_host": "admin.localhost",
            "master_keys": SecretStr(MASTER_KEY),
            "secret_key": SecretStr(SECRET),
            "mail_from": "portal@mail.example",
            **values,
        }
    )


class Desk(TestClient):
    """A browser on the merchant's side (or on a portal's host): keeps its cookies, posts from our own pages."""

    def __init__(self, app: Starlette, host: str = "admin.localhost") -> None:
        super().__init__(
            app,
            f"http://{host}",
            headers={**OWN, "User-Agent": FIREFOX},
            follow_redirects=False,
            raise_server_exceptions=False,
        )


@pytest.fixture
def settings() -> Settings:
    return make_settings()


@pytest.fixture
def app(database: Database, settings: Settings) -> Starlette:
    return create_app(settings, database)


@pytest.fixture
def client(app: Starlette) -> Iterator[Desk]:
    """Nobody yet: `sign_in_as` makes it somebody's."""
    with Desk(app) as found:
        yield found


@pytest.fixture
def other(app: Starlette) -> Iterator[Callable[..., Desk]]:
    """Further browsers; `other(host)`."""
    made: list[Desk] = []

    def make(host: str = "admin.localhost") -> Desk:
        made.append(Desk(app, host))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def site(database: Database) -> models.Portal:
    """Acme's portal, of a merchant of its own."""
    return make_portal(database)


@pytest.fixture
def stranger(database: Database) -> models.Portal:
    """A portal of another merchant."""
    return make_portal(database, "kora", name="Kora Yoga", support_email="help@kora.example")


def make_person(
    database: Database, merchant_id: int, role: str = "owner", email: str | None = None
) -> models.User:
    """A person of a merchant."""
    now = clock.now()
    user = save(
        database, models.User(email=email or f"{role}-{merchant_id}@merchant.example", created_at=now)
    )
    save(
        database,
        models.Member(merchant_id=merchant_id, user_id=user.id, role=role, created_at=now),
    )
    return user  # type: ignore[no-any-return]


def sign_in_as(client: TestClient, database: Database, user: models.User, merchant_id: int) -> Any:
    """Put a session of this person into the browser, fresh as after a sign-in."""
    token = database.write_now(
        merchants.open_session, user.id, merchant_id, FIREFOX, "192.0.2.7", clock.now(), strong=True
    )
    client.cookies.set("portal-merchant", token)
    return client


def sign_in(client: TestClient, database: Database, site: models.Portal, role: str = "owner") -> Any:
    """Somebody with this role at the portal's merchant, signed in."""
    return sign_in_as(client, database, make_person(database, site.merchant_id, role), site.merchant_id)


def address(site: models.Portal, path: str = "") -> str:
    return f"/settings/portals/{id_text(site.id)}{path}"
