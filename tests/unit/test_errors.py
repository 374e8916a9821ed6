"""What people read when something went wrong."""

from collections.abc import Iterator

import pytest
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from portal import models
from portal.app import create_app
from portal.db import Database
from portal.settings import Settings
from tests.unit.builders import MASTER_KEY, make_portal

OWN = {"Sec-Fetch-Site": "same-origin"}


async def raising(request: Request) -> Response:
    status = int(request.path_params["status"])
    if status == 500:
        raise RuntimeError("a fault of ours with ana@example.com in it")
    if status == 503:
        raise OperationalError("SELECT", {}, Exception("gone"))
    words = request.query_params.get("words")
    raise HTTPException(status, words) if words else HTTPException(status)


@pytest.fixture
def portal(database: Database) -> models.Portal:
    return make_portal(database)


@pytest.fixture
def client(database: Database, portal: models.Portal) -> Iterator[TestClient]:
    settings = Settings(scheme="http", base_domain="localhost", master_keys=MASTER_KEY)
    app = create_app(settings, database)
    for path in ("/customers/raise/{status}", "/internal/raise/{status}"):
        app.router.routes.append(Route(path, raising))
    with TestClient(app, "http://acme.localhost", follow_redirects=False) as found:
        yield found


@pytest.mark.parametrize("status", [403, 404, 405, 409, 413, 422, 500, 503])
def test_a_page_in_calm_words_with_a_way_on(client: TestClient, status: int) -> None:
    answer = client.get(f"/customers/raise/{status}")
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert "<h1" in answer.text
    assert 'href="/customers"' in answer.text
    assert "Traceback" not in answer.text
    for word in ("oops", "!</", "error occurred", "HTTPException", "ana@example.com"):
        assert word.lower() not in answer.text.lower().split("<main")[1]


@pytest.mark.parametrize("status", [403, 404, 422, 500, 503])
def test_a_piece_where_a_piece_was_asked_for(client: TestClient, status: int) -> None:
    answer = client.get(
        f"/customers/raise/{status}", headers={"HX-Request": "true", "HX-Request-Type": "partial"}
    )
    assert answer.status_code == status
    assert "<html" not in answer.text
    assert 'role="alert"' in answer.text
    assert "HX-Request-Type" in answer.headers["vary"]


@pytest.mark.parametrize("status", [403, 404, 405, 413, 422, 500, 503])
def test_machines_get_json_without_details(client: TestClient, status: int) -> None:
    answer = client.get(f"/internal/raise/{status}", headers={"Host": "127.0.0.1"})
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert "ana@example.com" not in answer.text


@pytest.mark.parametrize("status", [500, 503])
def test_a_fault_of_ours_can_be_quoted(client: TestClient, status: int) -> None:
    answer = client.get(f"/customers/raise/{status}")
    assert f"<bdi>{answer.headers['X-Request-Id']}</bdi>" in answer.text


def test_other_answers_bear_no_number(client: TestClient) -> None:
    answer = client.get("/customers/raise/404")
    assert answer.headers["X-Request-Id"] not in answer.text


def test_a_database_that_is_gone_asks_to_come_again(client: TestClient) -> None:
    assert client.get("/customers/raise/503").headers["Retry-After"] == "10"


def test_the_words_of_a_view_are_shown_and_escaped(client: TestClient) -> None:
    answer = client.get("/customers/raise/422", params={"words": "Choose <b>when</b> it should end."})
    assert "Choose &lt;b&gt;when&lt;/b&gt; it should end." in answer.text


def test_what_is_not_here_says_nothing_of_why(client: TestClient) -> None:
    """A stranger's order and one that never was are the same page."""
    answer = client.get("/customers/raise/404", params={"words": "order 17 belongs to ben"})
    assert "ben" not in answer.text.split("<main")[1].split("</main>")[0]


def test_unknown_addresses(client: TestClient) -> None:
    assert client.get("/customers/nothing").status_code == 404
    assert client.get("/nothing").status_code == 404
    assert client.get("/customers/login/a/b").status_code == 404


def test_a_wrong_method_says_which_are_right(client: TestClient) -> None:
    answer = client.put("/customers/login", headers=OWN)
    assert answer.status_code == 405
    assert "POST" in answer.headers["Allow"]


def test_refused_from_elsewhere_and_too_large(client: TestClient) -> None:
    refused = client.post("/customers/login")
    assert refused.status_code == 403
    assert "another site" in refused.text
    large = client.post("/customers/login", content=b"x" * 70_000, headers=OWN)
    assert large.status_code == 413
    assert "too much" in large.text
