"""The API's descriptions, for machines and for people, are those of the API; what is thrown at it is answered as they
say."""

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, seed
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks
from starlette.routing import Route
from starlette.testclient import TestClient

from portal import api, openapi, outgoing
from portal.app import create_app
from portal.db import Database
from portal.ids import id_text
from portal.routes import routes
from portal.views.api import OPERATIONS
from tests.unit.test_api import SETTINGS, make_shop

METHODS = {"get", "put", "post", "delete", "patch"}
EXAMPLES = {True: 10, False: 3}  # of each operation, on SQLite and on PostgreSQL
CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]


def described() -> dict[str, Any]:
    return openapi.document(OPERATIONS)


def test_every_route_stands_in_it_and_the_other_way_round() -> None:
    served = {
        (method, re.sub(r"\{(\w+)(:\w+)?\}", r"{\1}", route.path), route.endpoint)
        for route in routes()
        if isinstance(route, Route) and route.path.startswith("/api/v1/")
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert {(method, path) for method, path, _ in served} == {
        (method.upper(), path) for path, methods in described()["paths"].items() for method in methods
    }
    views = {(one.method, openapi.BASE + one.path): one.view for one in OPERATIONS}
    for method, path, endpoint in served:
        assert path == "/api/v1/openapi.json" or views[(method, path)] is endpoint


def test_every_operation_says_what_it_is_and_what_it_takes() -> None:
    found = described()
    names = []
    for path, methods in found["paths"].items():
        for method, one in methods.items():
            names.append(one["operationId"])
            assert method in METHODS
            assert one["summary"].endswith("."), path
            assert {part["name"] for part in one.get("parameters", []) if part["in"] == "path"} == set(
                re.findall(r"\{(\w+)\}", path)
            )
            for status, answer in one["responses"].items():
                (kind,) = answer["content"]
                assert kind == ("application/json" if status == "200" else "application/problem+json")
    assert len(names) == len(set(names))


def test_every_reference_leads_somewhere_and_every_shape_is_used() -> None:
    found = described()
    referred = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(found)))
    assert referred == set(found["components"]["schemas"])


def test_every_shape_is_closed_and_tells_all_of_its_fields() -> None:
    for name, shape in described()["components"]["schemas"].items():
        if shape.get("type") == "object":
            assert shape["additionalProperties"] is False, name
            if not name.endswith("In"):
                assert set(shape.get("required", [])) == set(shape["properties"]), name


def test_scopes_are_those_of_the_keys() -> None:
    found = described()
    used = {
        scope
        for methods in found["paths"].values()
        for one in methods.values()
        for need in one["security"]
        for scope in need["key"]
    }
    assert used == set(api.SCOPES)


def test_it_is_served_to_anybody(database: Database) -> None:
    with TestClient(create_app(SETTINGS, database), "http://anything.example") as client:
        answer = client.get("/api/v1/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == described()
    assert answer.json()["openapi"] == "3.1.0"


# docs/api.md


DOCUMENT = Path(__file__).parents[2] / "docs/api.md"


def test_the_document_lists_what_there_is() -> None:
    text = DOCUMENT.read_text()
    for name, table in openapi.tables(OPERATIONS).items():
        assert f"<!-- {name} -->\n{table}\n<!-- /{name} -->" in text, (
            f"docs/api.md: {name} should be\n{table}"
        )


def test_the_documents_calls_are_calls_of_the_api() -> None:
    bodies = {(one.method, openapi.BASE + one.path): one.body for one in OPERATIONS}
    patterns = {(method, path): re.compile(re.sub(r"\{\w+\}", r"[^/]+", path)) for method, path in bodies}
    calls = re.findall(r"\$ curl(.*?)(?=\n\$|\n\{|\n```)", DOCUMENT.read_text(), re.S)
    assert len(calls) >= 7
    for call in calls:
        (path,) = re.findall(r"https://account\.example\.com(/[^\s\"?]*)", call)
        (content,) = re.findall(r"-d '([^']*)'", call) or [None]
        method = (re.findall(r"-X (\w+)", call) or ["POST" if content else "GET"])[0]
        (found,) = [key for key, pattern in patterns.items() if key[0] == method and pattern.fullmatch(path)]
        body = bodies[found]
        assert (body is None) == (content is None), call
        if body is not None and content is not None:
            body.model_validate_json(content)


@pytest.mark.parametrize("language", ["python", "js"])
def test_the_documents_code_proves_a_delivery(language: str, tmp_path: Path) -> None:
    (code,) = re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.S)
    secret, body, now = (
        outgoing.new_secret(),
        '{"type":"portal.test","data":{"ü":1}}'.encode(),
        datetime.now(UTC),
    )
    headers = {
        "webhook-id": "06gv4c9r2s5t1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": "v1,AAAA " + outgoing.sign(secret, "06gv4c9r2s5t1", now, body),
    }
    old = {**headers, "webhook-timestamp": str(int(now.timestamp()) - 301)}
    cases = [(secret, headers, body), (secret, headers, body + b" "), (outgoing.new_secret(), headers, body)]
    cases.append((secret, old, body))
    if language == "python":
        scope: dict[str, Any] = {}
        exec(code, scope)
        said = [scope["is_genuine"](*case) for case in cases]
    else:
        node = shutil.which("node")
        if node is None:
            assert "isGenuine" in code
            return
        given = [[secret, headers, body.decode()] for secret, headers, body in cases]
        call = f"const all = {json.dumps(given)};\nconsole.log(JSON.stringify(all.map("
        call += "([secret, headers, body]) => isGenuine(secret, headers, Buffer.from(body)))));"
        (tmp_path / "prove.mjs").write_text(f"{code}\n{call}")
        done = subprocess.run([node, tmp_path / "prove.mjs"], capture_output=True, check=True, timeout=60)
        said = json.loads(done.stdout)
    assert said == [True, False, False, False]


# What is thrown at it


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
def test_what_is_thrown_at_it_is_answered_as_it_says(
    database: Database, mode: GenerationMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "PER_MINUTE", 1_000_000)
    shop = make_shop(database, "acme")
    request = shop.ask()
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", create_app(SETTINGS, database))
    headers = {"Authorization": f"Bearer {shop.key}"}
    known = {
        "customer_id": id_text(shop.ana.id),
        "order_id": id_text(shop.order.id),
        "reference": request.reference,
    }
    statuses: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]
        paths: list[Any] = [None]
        if "{" in operation.path and mode is GenerationMode.POSITIVE:
            (name,) = re.findall(r"\{(\w+)\}", operation.path)
            paths.append({name: known[name]})  # what is there, beside what is not
        for path in paths:
            statuses.setdefault(operation.label, set()).update(
                throw(operation, mode, path, headers, EXAMPLES[database.is_sqlite])
            )
    assert len(statuses) == len(OPERATIONS)
    for label, seen in statuses.items():
        if mode is GenerationMode.POSITIVE and label.startswith("GET"):
            assert 200 in seen, label
        if mode is GenerationMode.NEGATIVE:
            assert seen & {400, 401, 404, 415, 422}, label


def throw(
    operation: Any, mode: GenerationMode, path: dict[str, str] | None, headers: dict[str, str], examples: int
) -> set[int]:
    """What comes of many calls made up from the description; each answer is held against it."""
    seen = set()

    @seed(20261128)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode, path_parameters=path))
    def each(case: schemathesis.Case[Any]) -> None:
        seen.add(case.call_and_validate(headers=headers, checks=CHECKS).status_code)

    each()
    return seen
