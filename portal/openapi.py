"""The API's own description, made from the operations as they are served and from the models they read and write."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from portal.api import PER_MINUTE, PROBLEMS, SCOPES, ProblemShape
from portal.outgoing import TYPES

BASE = "/api/v1"
VERSION = "1.0"
_REF = "#/components/schemas/{model}"
_PATHS = {"reference": "[2-9A-Za-z]{3}-[2-9A-Za-z]{3}"}  # any other parameter of a path is an id
_ID = "[0-7][0-9a-hjkmnp-tv-z]{12}"


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that can be asked of the API. `scope` None: any key will do."""

    method: str
    path: str  # below BASE, with parameters as {name}
    name: str
    summary: str
    scope: str | None
    answer: type[BaseModel]
    query: type[BaseModel] | None
    body: type[BaseModel] | None
    problems: tuple[str, ...]  # beyond those that every operation has
    view: Callable[..., Awaitable[Any]]


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The whole description, OpenAPI 3.1."""
    schemas = _schemas(operations)
    paths: dict[str, dict[str, Any]] = {
        f"{BASE}/openapi.json": {"get": _own_operation()},
    }
    for one in operations:
        paths.setdefault(BASE + one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Portal",
            "version": VERSION,
            "summary": "What a merchant's own app can ask of the customer portal.",
            "description": "A key decides whose portal is meant. Amounts are whole minor units with their currency, "
            "moments are UTC, what is not known is null. Lists are paged: give `next` as `after`. "
            f"A key may call {PER_MINUTE} times a minute. Fields may be added; ignore those you do not know.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key of Settings > Developers. Scopes: "
                    + "; ".join(f"`{scope}` – {words.lower()}" for scope, words in SCOPES.items()),
                }
            },
        },
    }


def _schemas(operations: Sequence[Operation]) -> dict[str, Any]:
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = [(ProblemShape, "serialization")]
    for one in operations:
        wanted.append((one.answer, "serialization"))
        if one.body is not None:
            wanted.append((one.body, "validation"))
    _map, found = models_json_schema(list(dict.fromkeys(wanted)), ref_template=_REF)
    schemas: dict[str, Any] = found["$defs"]
    return dict(sorted(schemas.items()))


def _operation(one: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": one.name,
        "summary": one.summary,
        "security": [{"key": [one.scope] if one.scope else []}],
        "parameters": [*_path_parameters(one.path), *_query_parameters(one.query)],
        "responses": _responses(one),
    }
    if one.body is not None:
        schema = {"$ref": _REF.format(model=one.body.__name__)}
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {name: value for name, value in found.items() if value != []}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": f"^{_PATHS.get(name, _ID)}$"},
        }
        for name in names
    ]


def _query_parameters(query: type[BaseModel] | None) -> list[dict[str, Any]]:
    if query is None:
        return []
    found = query.model_json_schema()
    return [
        {"name": name, "in": "query", "required": False, "schema": _given(schema)}
        for name, schema in found["properties"].items()
    ]


def _given(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that is there has a value: null is what it is when it is left out."""
    kinds = [one for one in schema.get("anyOf", []) if one.get("type") != "null"]
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default", "title")}
    if schema.get("default") is not None:
        rest["default"] = schema["default"]
    return {**kinds[0], **rest} if kinds else rest


def _responses(one: Operation) -> dict[str, Any]:
    answer = {"schema": {"$ref": _REF.format(model=one.answer.__name__)}}
    usual = ["unauthorized", "not_found", "too_slow", "invalid", "rate_limited", "fault", "unavailable"]
    if one.scope is not None:
        usual.append("scope_missing")
    if one.body is not None:
        usual += ["malformed", "too_large", "unsupported_media_type"]
    codes: dict[int, list[str]] = {}
    for code in (*usual, *one.problems):
        codes.setdefault(PROBLEMS[code][0], []).append(code)
    limits = {
        f"RateLimit-{name}": {"schema": {"type": "integer"}} for name in ("Limit", "Remaining", "Reset")
    }
    found: dict[str, Any] = {
        "200": {"description": "As asked.", "headers": limits, "content": {"application/json": answer}}
    }
    for status, names in sorted(codes.items()):
        found[str(status)] = _problem(", ".join(names))
    return found


def _problem(words: str) -> dict[str, Any]:
    shape = {"schema": {"$ref": _REF.format(model="ProblemShape")}}
    return {"description": f"Problem: {words}.", "content": {"application/problem+json": shape}}


def _own_operation() -> dict[str, Any]:
    return {
        "operationId": "openapi",
        "summary": "This description.",
        "security": [],
        "responses": {
            "200": {
                "description": "OpenAPI 3.1.",
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
            "500": _problem("fault"),
        },
    }


# The tables of docs/api.md


def tables(operations: Sequence[Operation]) -> dict[str, str]:
    """What docs/api.md lists, by the name of its place there."""
    found = {
        "scopes": _table("scope", "what it may do", ((f"`{one}`", words) for one, words in SCOPES.items())),
        "operations": _table(
            "call",
            "scope",
            (
                (
                    f"`{one.method} {BASE}{one.path}`",
                    f"`{one.scope}`" if one.scope else "any key",
                    one.summary,
                )
                for one in operations
            ),
            "",
        ),
        "problems": _table(
            "code",
            "status",
            ((f"`{code}`", str(status), title) for code, (status, title) in PROBLEMS.items()),
            "",
        ),
        "events": _table("type", "when it is told", ((f"`{kind}`", words) for kind, words in TYPES.items())),
    }
    return found


def _table(first: str, second: str, rows: Iterable[tuple[str, ...]], *more: str) -> str:
    heads = (first, second, *more)
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
