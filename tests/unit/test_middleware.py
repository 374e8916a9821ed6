"""What happens around every request: whose portal it is, proof of origin, limits, headers, compression, the log."""

import asyncio
import gzip
import json
import re
from collections.abc import Iterator
from typing import Any

import brotli
import pytest
import structlog
from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from portal import models, tenancy
from portal.app import create_app
from portal.db import Database
from portal.middleware import CSP, client_address, configure_logging, is_machine, middleware, parse_host
from portal.settings import Settings
from portal.views import errors
from tests.unit.builders import MASTER_KEY, make_portal

OWN = {"Sec-Fetch-Site": "same-origin"}


def make_settings(**fields: Any) -> Settings:
    return Settings(**{"scheme": "http", "base_domain": "localhost", "master_keys": MASTER_KEY, **fields})


@pytest.fixture
def portal(database: Database) -> models.Portal:
    return make_portal(database)


@pytest.fixture
def client(database: Database, portal: models.Portal) -> Iterator[TestClient]:
    app = create_app(make_settings(), database)
    with TestClient(app, "http://acme.localhost", follow_redirects=False) as found:
        yield found


def probe(database: Database, **fields: Any) -> TestClient:
    """A client of an application of our own inside the real layers."""
    settings = make_settings(**fields)

    async def show(request: Request) -> Response:
        state = request.state
        portal = getattr(state, "portal", None)
        await request.body()
        return JSONResponse(
            {"portal": portal.slug if portal else None, "network": state.network, "url": str(request.url)}
        )

    async def page(request: Request) -> Response:
        return HTMLResponse("x" * int(request.path_params["size"]))

    async def squeezed(request: Request) -> Response:
        body = gzip.compress(b"y" * 2000)
        return Response(body, media_type="text/css", headers={"Content-Encoding": "gzip"})

    async def picture(request: Request) -> Response:
        return Response(b"z" * 2000, media_type="image/png")

    async def stream(request: Request) -> Response:
        async def parts() -> Any:
            for _ in range(3):
                yield b"s" * 400

        return StreamingResponse(parts(), media_type="text/csv")

    async def broken(request: Request) -> Response:
        raise RuntimeError("ana@example.com has the token abc")

    async def no_database(request: Request) -> Response:
        raise OperationalError("SELECT email", {"email": "ana@example.com"}, Exception("gone"))

    async def own_policy(request: Request) -> Response:
        return HTMLResponse(
            "", headers={"Content-Security-Policy": "default-src 'self'", "Cache-Control": "public"}
        )

    app = Starlette(
        routes=[
            Route("/customers/page/{size:int}", page),
            Route("/customers/squeezed", squeezed),
            Route("/customers/picture", picture),
            Route("/customers/stream", stream),
            Route("/customers/broken", broken),
            Route("/customers/no-database", no_database),
            Route("/customers/own-policy", own_policy),
            Route("/customers/logo/{sha}.png", picture),
            Route("/customers/secret/{token}", show),
            Route("/{rest:path}", show, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ],
        middleware=middleware(settings, database),
        exception_handlers=errors.handlers,
    )
    app.state.settings, app.state.database = settings, database
    return TestClient(app, f"{settings.scheme}://acme.localhost", follow_redirects=False)


# Whose portal


GOOD_HOSTS = {
    "acme.localhost": "acme",
    "ACME.localhost": "acme",
    "Acme.LocalHost:8000": "acme",
    "acme.localhost:80": "acme",
    "acme.localhost:65535": "acme",
    "kora.localhost": "kora",
    "account.kora.example": "kora",
    "ACCOUNT.KORA.EXAMPLE:443": "kora",
}
BAD_HOSTS = [
    "", " ", "localhost", "localhost:80", ".localhost", "acme", "acme.", "acme.localhost.",
    "acme.localhost.:80", "acme..localhost", ".acme.localhost", "-acme.localhost", "acme-.localhost",
    "acme.localhost:", "acme.localhost:0", "acme.localhost:65536", "acme.localhost:99999",
    "acme.localhost:8x", "acme.localhost:-1", "acme.localhost:80:80", "acme.localhost:+80",
    "acme.localhost: 80", " acme.localhost", "acme.localhost ", "acme.localhost\t",
    "acme.localhost,kora.localhost", "acme.localhost kora.localhost", "user@acme.localhost",
    "evil.example@acme.localhost", "acme.localhost/", "acme.localhost/customers", "acme.localhost?x",
    "acme.localhost#x", "acme.localhost\\", "acme%2elocalhost", "acme.localhost%00",
    "http://acme.localhost", "[::1]", "127.0.0.1", "127.0.0.1:8000", "evil.example",
    "evil.example.acme.localhost", "acme.localhost.evil.example", "xacme.localhost", "acmex.localhost",
    "acme_.localhost", "*.localhost", "%", "admin.localhost", "kora.example", "x.account.kora.example",
    "acme.account.kora.example", "a" * 64 + ".localhost", "acme." * 60 + "localhost",
]  # fmt: skip


@pytest.fixture
def kora(database: Database, portal: models.Portal) -> models.Portal:
    return make_portal(database, "kora", domain="account.kora.example")


@pytest.mark.parametrize(("host", "slug"), GOOD_HOSTS.items())
def test_a_portal_answers_on_its_names(database: Database, kora: models.Portal, host: str, slug: str) -> None:
    assert probe(database).get("/customers/x", headers={"Host": host}).json()["portal"] == slug


def test_any_other_host_is_misdirected(database: Database, kora: models.Portal) -> None:
    make_portal(database, "admin")  # the merchant side's own name is nobody else's
    client = probe(database)
    assert len(BAD_HOSTS) >= 40
    for host in BAD_HOSTS:
        answer = client.get("/customers/x", headers={"Host": host})
        # The merchant side's host is ours, and has no customers' page.
        assert answer.status_code == (404 if host == "admin.localhost" else 421), host
        assert "acme" not in answer.text.lower()


@pytest.mark.parametrize(
    "raw", [b"acme.localhost\x00", b"\xc3\xa4.localhost", b"acme.localhost\xff", b"\xef\xbc\x8e"]
)
def test_bytes_that_are_no_host(raw: bytes) -> None:
    assert parse_host(raw) is None


@pytest.mark.parametrize(
    "hosts", [[], [b"acme.localhost", b"acme.localhost"], [b"acme.localhost", b"kora.localhost"]]
)
def test_exactly_one_host_header(database: Database, portal: models.Portal, hosts: list[bytes]) -> None:
    assert _status(probe(database).app, [(b"host", host) for host in hosts]) == 421


def _status(app: Any, headers: list[tuple[bytes, bytes]], path: str = "/customers/x") -> int:
    seen: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        seen.append(message)

    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": headers, "scheme": "http", "server": ("acme.localhost", 80), "client": ("192.0.2.1", 1),
        "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return int(seen[0]["status"])


@pytest.mark.parametrize(
    "header",
    [
        "X-Forwarded-Host",
        "Forwarded",
        "X-Host",
        "X-Original-Host",
        "X-Forwarded-Server",
        "X-HTTP-Host-Override",
    ],
)
def test_no_other_header_names_the_portal(database: Database, kora: models.Portal, header: str) -> None:
    client = probe(database, trusted_proxies="0.0.0.0/0")
    answer = client.get("/customers/x", headers={header: "kora.localhost"})
    assert answer.json()["portal"] == "acme"


@pytest.mark.parametrize(
    "path", ["/webhooks/abc", "/health/live", "/__demo/x", "/internal/tls-ask", "/api/v1/x", "/metrics"]
)
def test_machines_are_answered_on_any_host(database: Database, portal: models.Portal, path: str) -> None:
    for host in ("127.0.0.1:8000", "acme.localhost", "evil.example", "%"):
        answer = probe(database).post(path, headers={"Host": host, "Cookie": "portal=x"})
        assert answer.json()["portal"] is None


@pytest.mark.parametrize(
    "path", ["/metricsx", "/customers/webhooks/x", "/webhook/x", "/apiv1/", "/health", "/"]
)
def test_what_only_looks_like_a_machines_address(path: str) -> None:
    assert not is_machine(path)


def test_static_files_need_a_portal_too(client: TestClient) -> None:
    assert client.get("/customers/static/portal.css", headers={"Host": "evil.example"}).status_code == 421


def test_a_host_is_remembered_for_a_few_seconds_only(
    database: Database, portal: models.Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = tenancy.portal_by_host

    def counting(db: Any, host: str, base: str) -> Any:
        asked.append(host)
        return real(db, host, base)

    monkeypatch.setattr(tenancy, "portal_by_host", counting)
    monkeypatch.setattr("portal.middleware.MOST_KNOWN", 3)
    now = 1000.0
    monkeypatch.setattr("portal.middleware.time.monotonic", lambda: now)
    client = probe(database)
    for _ in range(3):
        client.get("/customers/x")
    assert asked == ["acme.localhost"]
    now += 6
    client.get("/customers/x")
    assert len(asked) == 2
    for number in range(5):
        client.get("/customers/x", headers={"Host": f"s{number}.localhost"})
    client.get("/customers/x")
    assert len(asked) == 8  # more names than there is room for: forgotten, and asked again


def test_links_of_ours_use_the_scheme_of_the_settings(database: Database, portal: models.Portal) -> None:
    client = probe(database, scheme="https")
    client.base_url = "http://acme.localhost"  # as behind a proxy that ends TLS
    assert client.get("/customers/x").json()["url"].startswith("https://acme.localhost/")


# Whose network


@pytest.mark.parametrize(
    ("trusted", "forwarded", "network"),
    [
        ("", "203.0.113.5", "192.0.2.1"),
        ("192.0.2.0/24", "203.0.113.5", "203.0.113.5"),
        ("192.0.2.0/24", "203.0.113.5, 192.0.2.9", "203.0.113.5"),
        ("192.0.2.0/24", "10.0.0.1, 203.0.113.5", "203.0.113.5"),  # what a client claims before the last hop
        ("192.0.2.0/24", "", "192.0.2.1"),
        ("192.0.2.0/24", "nonsense", "unknown"),
        ("192.0.2.0/24", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    ],
)
def test_the_network_is_that_of_the_last_hop_which_is_not_ours(
    database: Database, portal: models.Portal, trusted: str, forwarded: str, network: str
) -> None:
    settings = make_settings(trusted_proxies=trusted)
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    assert client_address({"client": ("192.0.2.1", 1), "headers": headers}, settings) == network


# Proof of origin


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, 200),
        ({"Origin": "http://acme.localhost"}, 200),
        ({}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "https://acme.localhost"}, 403),
        ({"Origin": "http://acme.localhost:8000"}, 403),
        ({"Origin": "http://acme.localhost.evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://kora.localhost"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": "SAME-ORIGIN"}, 403),
        ({"Sec-Fetch-Site": "same-origin, cross-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://acme.localhost"}, 403),
        ({"Referer": "http://acme.localhost/customers"}, 403),
        ({"X-Requested-With": "XMLHttpRequest", "HX-Request": "true"}, 403),
    ],
)
def test_what_changes_something_comes_from_our_own_pages(
    database: Database, portal: models.Portal, headers: dict[str, str], status: int
) -> None:
    client = probe(database)
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        assert client.request(method, "/customers/x", headers=headers).status_code == status
    assert client.get("/customers/x", headers=headers).status_code == 200


def test_origin_is_compared_with_its_port(database: Database, portal: models.Portal) -> None:
    client = probe(database)
    headers = {"Host": "acme.localhost:8000", "Origin": "http://acme.localhost:8000"}
    assert client.post("/customers/x", headers=headers).status_code == 200


def test_a_processor_may_send_people_back_by_post_and_by_nothing_else(
    database: Database, portal: models.Portal
) -> None:
    client, foreign = probe(database), {"Sec-Fetch-Site": "cross-site", "Origin": "https://pay.example"}
    assert client.post("/customers/return/abc", headers=foreign).status_code == 200
    assert client.put("/customers/return/abc", headers=foreign).status_code == 403
    assert client.post("/customers/returns/abc", headers=foreign).status_code == 403


def test_no_public_form_takes_a_cross_site_post(client: TestClient) -> None:
    for path in (
        "/customers/login",
        "/customers/login/code",
        "/customers/login/" + "A" * 43,
        "/customers/logout",
    ):
        answer = client.post(
            path, data={"email": "ana@example.com"}, headers={"Sec-Fetch-Site": "cross-site"}
        )
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


# Limits of size


@pytest.mark.parametrize(("size", "status"), [(64 * 1024, 200), (64 * 1024 + 1, 413)])
def test_a_page_takes_64_kb(database: Database, portal: models.Portal, size: int, status: int) -> None:
    answer = probe(database).post("/customers/x", content=b"x" * size, headers=OWN)
    assert answer.status_code == status


@pytest.mark.parametrize(("size", "status"), [(1024 * 1024, 200), (1024 * 1024 + 1, 413)])
def test_a_webhook_takes_1_mb(database: Database, portal: models.Portal, size: int, status: int) -> None:
    assert probe(database).post("/webhooks/x", content=b"x" * size).status_code == status


def test_a_body_is_cut_off_while_it_arrives(database: Database, portal: models.Portal) -> None:
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b"x" * 10_000

    assert _pieces(probe(database).app) == (413, 7)
    answer = probe(database).post("/customers/x", content=chunks(), headers=OWN)
    assert answer.status_code == 413
    assert "at once" in answer.text


def _pieces(app: Any) -> tuple[int, int]:
    """The status for a body without an end, and how many pieces of 10,000 bytes of it were taken."""
    taken, status = 0, 0

    async def receive() -> Any:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": b"x" * 10_000, "more_body": True}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    scope = {
        "type": "http", "method": "POST", "path": "/customers/x", "raw_path": b"/customers/x", "query_string": b"",
        "headers": [(b"host", b"acme.localhost"), (b"sec-fetch-site", b"same-origin")], "scheme": "http",
        "server": ("acme.localhost", 80), "client": ("192.0.2.1", 1), "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return status, taken


# Headers


def test_every_answer_bears_the_headers(client: TestClient) -> None:
    answers = [
        client.get("/"),
        client.get("/customers"),
        client.get("/customers/orders"),
        client.get("/customers/nothing-here"),
        client.get("/customers", headers={"Host": "evil.example"}),
        client.post("/customers/login"),
        client.post("/customers/login", content=b"x" * 70_000, headers=OWN),
        client.put("/customers/login", headers=OWN),
        client.get("/customers/login/" + "A" * 43),
        client.get("/health/live"),
        client.post("/webhooks/nobody"),
    ]
    assert {answer.status_code for answer in answers} >= {200, 302, 303, 403, 404, 405, 413, 421}
    for answer in answers:
        _has_the_headers(answer.headers)


def test_our_own_faults_bear_the_headers_too(database: Database, portal: models.Portal) -> None:
    for path, status in (("/customers/broken", 500), ("/customers/no-database", 503)):
        answer = probe(database).get(path)
        assert answer.status_code == status
        _has_the_headers(answer.headers)
        assert "ana@example.com" not in answer.text


def _has_the_headers(headers: Any) -> None:
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "camera=()" in headers["Permissions-Policy"]
    assert headers["Cache-Control"] == "private, no-store"
    assert re.fullmatch(r"[0-9a-f]{16}", headers["X-Request-Id"])


def test_the_policy_is_the_strict_one(database: Database, portal: models.Portal) -> None:
    assert (
        probe(database).get("/customers/page/1").headers["Content-Security-Policy"]
        == CSP
        == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
    )


def test_a_view_may_have_its_own_policy(database: Database, portal: models.Portal) -> None:
    headers = probe(database).get("/customers/own-policy").headers
    assert (headers["Content-Security-Policy"], headers["Cache-Control"]) == ("default-src 'self'", "public")


def test_https_is_kept_to_once_it_is_used(database: Database, portal: models.Portal) -> None:
    assert "strict-transport-security" not in probe(database).get("/customers/page/1").headers
    secure = probe(database, scheme="https").get("/customers/page/1").headers
    assert int(secure["Strict-Transport-Security"].removeprefix("max-age=")) >= 31_536_000


def test_the_logo_may_be_shown_by_web_mail(database: Database, portal: models.Portal) -> None:
    client = probe(database)
    assert client.get("/customers/logo/a.png").headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert client.get("/customers/picture").headers["Cross-Origin-Resource-Policy"] == "same-origin"


# Compression


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("br", "br"),
        ("gzip, deflate, br", "br"),
        ("GZIP", "gzip"),
        ("gzip;q=0.5", "gzip"),
        ("br;q=0, gzip", "gzip"),
        ("br;q=0.000, gzip;q=1", "gzip"),
        ("br; q=0.0, gzip; q=0", None),
        ("identity", None),
        ("", None),
    ],
)
def test_the_coding_is_one_that_the_browser_takes(
    database: Database, portal: models.Portal, accepted: str, coding: str | None
) -> None:
    status, headers, body = _raw(database, "/customers/page/600", accepted)
    assert status == 200
    assert headers.get("content-encoding") == coding
    assert "Accept-Encoding" in headers["vary"]
    assert int(headers["content-length"]) == len(body)
    plain = brotli.decompress(body) if coding == "br" else gzip.decompress(body) if coding else body
    assert plain == b"x" * 600


@pytest.mark.parametrize(
    ("path", "coding"),
    [
        ("/customers/page/499", None),
        ("/customers/page/500", "br"),
        ("/customers/squeezed", "gzip"),  # compressed already
        ("/customers/picture", None),
        ("/customers/stream", None),
    ],
)
def test_what_is_compressed(database: Database, portal: models.Portal, path: str, coding: str | None) -> None:
    _, headers, _ = _raw(database, path, "br, gzip")
    assert headers.get("content-encoding") == coding


def _raw(database: Database, path: str, accepted: str) -> tuple[int, Headers, bytes]:
    client = probe(database)
    with client.stream("GET", path, headers={"Accept-Encoding": accepted}) as answer:
        body = b"".join(answer.iter_raw())
        return answer.status_code, Headers(raw=answer.headers.raw), body


# The log


def test_one_line_a_request_and_no_secret_in_it(database: Database, portal: models.Portal) -> None:
    client = probe(database)
    with capture_logs() as lines:
        answer = client.get(
            "/customers/secret/the-token-of-a-mail?code=K7M2QX&email=ana@example.com",
            headers={"Cookie": "portal=the-session", "X-Forwarded-For": "203.0.113.5"},
        )
    assert len(lines) == 1
    line = lines[0]
    assert line["request_id"] == answer.headers["X-Request-Id"]
    assert (line["portal"], line["route"], line["status"]) == ("acme", "/customers/secret/{token}", 200)
    assert line["ms"] >= 0
    for secret in ("the-token-of-a-mail", "K7M2QX", "ana@example.com", "the-session", "203.0.113.5"):
        assert secret not in repr(lines)


def test_a_fault_is_logged_by_its_place_without_its_words(database: Database, portal: models.Portal) -> None:
    with capture_logs() as lines:
        answer = probe(database).get("/customers/broken")
    fault = next(line for line in lines if line["event"] == "fault")
    assert fault["error"] == "RuntimeError"
    assert fault["request_id"] == answer.headers["X-Request-Id"]
    assert "broken" in fault["at"][-1]
    assert "ana@example.com" not in repr(lines)
    assert [line["status"] for line in lines if line["event"] == "request"] == [500]


def test_a_database_that_is_gone_while_the_portal_is_looked_up(
    database: Database, portal: models.Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> Any:
        raise OperationalError("SELECT", {}, Exception("gone"))

    monkeypatch.setattr(tenancy, "portal_by_host", gone)
    assert probe(database).get("/customers/x").status_code == 503


def test_the_log_is_json_or_text(capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    try:
        configure_logging(make_settings(log_format="json"))
        structlog.get_logger().info("request", status=200)
        line = json.loads(capsys.readouterr().err)
        assert (line["event"], line["status"], line["level"]) == ("request", 200, "info")
        configure_logging(make_settings(log_format="text"))
        structlog.get_logger().info("request", status=200)
        assert "status=200" in capsys.readouterr().err
    finally:
        structlog.configure(**before)
