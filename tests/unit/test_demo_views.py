"""The demo's own addresses are nowhere but in the demo; and health tells the truth."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from portal import clock, work
from portal.app import create_app
from portal.db import Database
from portal.settings import Settings
from tests.unit.builders import MASTER_KEY


@pytest.fixture
def client(database: Database) -> Iterator[TestClient]:
    settings = Settings(master_keys=MASTER_KEY, scheme="http")
    with TestClient(create_app(settings, database), base_url="http://anything.example") as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/__demo/mailbox"),
        ("GET", "/__demo/mailbox.json?to=ana@example.com"),
        ("GET", "/__demo/mailbox/0.html"),
        ("POST", "/__demo/reset"),
        ("POST", "/__demo/clock"),
        ("POST", "/__demo/simulators/stripe/switch"),
    ],
)
def test_outside_the_demo_there_is_nothing(client: TestClient, method: str, path: str) -> None:
    assert client.request(method, path, json={"advance": 60}).status_code == 404
    assert clock.offset().total_seconds() == 0


def test_live_answers_on_any_host(client: TestClient) -> None:
    assert client.get("/health/live").json() == {"status": "ok"}


def test_ready_needs_a_worker_that_breathes(client: TestClient, database: Database) -> None:
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert "portal worker" in answer.text
    database.write_now(work._beat, clock.now())
    assert client.get("/health/ready").status_code == 200
