"""Holds exchanges with a simulator against a processor's contract: OpenAPI files, or plain lists of paths and fields.

Both sides of an exchange are held: what the adapter asked and what the simulator answered, so that the two cannot share
one mistake. Set the outcome of `openapi` or `contract` as `simulator.contract`; what it says gathers in
`simulator.problems`.
"""

import gzip
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jsonschema_rs
import yaml

from seeds.simulators.harness import Exchange

Check = Callable[[Exchange], list[str]]


def both(*checks: Check) -> Check:
    """An exchange is good when one of the contracts knows it and finds nothing; unknown to all is a problem."""

    def check(exchange: Exchange) -> list[str]:
        found = [one(exchange) for one in checks]
        known = [problems for problems in found if problems != [_unknown(exchange)]]
        return min(known, key=len) if known else [_unknown(exchange)]

    return check


def _unknown(exchange: Exchange) -> str:
    return f"{exchange.method} {exchange.path} is no operation of the contract."


def openapi(path: Path, ignore: tuple[str, ...] = ()) -> Check:
    """A check from an OpenAPI 3 file (JSON, YAML, either gzipped). Problems that hold a text of `ignore` are left out:
    where a file is known to be wrong, say at the call why."""
    return _OpenApi(_load(path), ignore).check


def contract(path: Path, ignore: tuple[str, ...] = ()) -> Check:
    """A check from a list of operations with the names of their fields, or of endpoints with schemas."""
    said = json.loads(path.read_text())
    form = _OpenApi(_from_endpoints(said), ignore) if "apis" in said else _Operations(said, ignore)
    return form.check


def _load(path: Path) -> dict[str, Any]:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    is_yaml = path.name.removesuffix(".gz").endswith((".yaml", ".yml"))
    found: dict[str, Any] = yaml.safe_load(raw) if is_yaml else json.loads(raw)
    return found


class _OpenApi:
    def __init__(self, document: dict[str, Any], ignore: tuple[str, ...]) -> None:
        self._ignore = ignore
        old = str(document["openapi"]).startswith("3.0")
        self._validator = jsonschema_rs.Draft4Validator if old else jsonschema_rs.Draft202012Validator
        self._document = _nullable(document) if old else document
        bases = {urlsplit(server["url"]).path.rstrip("/") for server in document.get("servers", [])} or {""}
        self._paths = sorted(
            (
                (re.compile(re.escape(base) + _pattern(path)), operations)
                for base in bases
                for path, operations in self._document["paths"].items()
            ),
            key=lambda known: known[0].pattern.count("[^/]+"),
        )
        self._schemas: dict[int, Any] = {}

    def check(self, exchange: Exchange) -> list[str]:
        operation = self._operation(exchange)
        if operation is None:
            return [_unknown(exchange)]
        problems = self._query(exchange, operation) + self._request(exchange, operation)
        problems += self._response(exchange, operation)
        where = f"{exchange.method} {exchange.path}"
        return [
            f"{where}: {problem}" for problem in problems if not any(text in problem for text in self._ignore)
        ]

    def _operation(self, exchange: Exchange) -> dict[str, Any] | None:
        for pattern, operations in self._paths:
            if pattern.fullmatch(exchange.path) and exchange.method.lower() in operations:
                shared = operations.get("parameters", [])
                one: dict[str, Any] = operations[exchange.method.lower()]
                return {**one, "parameters": [*shared, *one.get("parameters", [])]}
        return None

    def _query(self, exchange: Exchange, operation: Mapping[str, Any]) -> list[str]:
        known = {
            one["name"]: one
            for one in map(self._resolved, operation["parameters"])
            if one.get("in") == "query"
        }
        given = {name for name, _ in parse_qsl(exchange.query, keep_blank_values=True)}
        problems = [f"the query has an unknown field {name}" for name in sorted(given - set(known))]
        return problems + [
            f"the query lacks {name}"
            for name, one in known.items()
            if one.get("required") and name not in given
        ]

    def _request(self, exchange: Exchange, operation: Mapping[str, Any]) -> list[str]:
        body = self._resolved(operation.get("requestBody") or {})
        schema = body.get("content", {}).get("application/json", {}).get("schema")
        if not exchange.body:
            return ["the body is missing"] if body.get("required") else []
        if schema is None or "json" not in exchange.headers.get("content-type", ""):
            return []
        return self._wrong("request", schema, json.loads(exchange.body))

    def _response(self, exchange: Exchange, operation: Mapping[str, Any]) -> list[str]:
        answers = {str(code): one for code, one in operation.get("responses", {}).items()}
        found = answers.get(str(exchange.status), answers.get("default"))
        if found is None:
            return [] if exchange.status >= 400 else [f"the status {exchange.status} is not in the contract"]
        content = self._resolved(found).get("content", {})
        schema = next((one.get("schema") for kind, one in content.items() if "json" in kind), None)
        if schema is None or not exchange.content:
            return []
        try:
            return self._wrong("answer", schema, json.loads(exchange.content))
        except ValueError:
            return ["the answer is not JSON"]

    def _wrong(self, part: str, schema: dict[str, Any], value: Any) -> list[str]:
        validator = self._schemas.get(id(schema))
        if validator is None:
            whole = {**schema, "components": self._document.get("components", {})}
            validator = self._schemas[id(schema)] = self._validator(whole, validate_formats=False)
        return [
            f"{part} {'/'.join(map(str, error.instance_path))}: {error.message[:200]}"
            for error in validator.iter_errors(value)
        ]

    def _resolved(self, one: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in one:
            found: Any = self._document
            for name in one["$ref"].removeprefix("#/").split("/"):
                found = found[name.replace("~1", "/").replace("~0", "~")]
            one = found
        return one


def _pattern(path: str) -> str:
    return "".join(
        "[^/]+" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{[^}]*\})", path)
    )


def _nullable(schema: Any) -> Any:
    """OpenAPI 3.0's `nullable` in words of JSON Schema; its read-only and write-only marks say nothing here."""
    if isinstance(schema, list):
        return [_nullable(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    out = {name: _nullable(one) for name, one in schema.items() if name not in ("example", "examples")}
    if out.pop("nullable", False) is True:
        return {"anyOf": [out, {"type": "null"}]}
    return out


def _from_endpoints(said: Mapping[str, Any]) -> dict[str, Any]:
    """Endpoints with schemas of their own words, as an OpenAPI document."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for name, api in said["apis"].items():
        for title, schema in api.get("schemas", {}).items():
            schemas[f"{name}.{title}".replace(" ", "_")] = {
                "type": "object",
                "required": schema.get("required", []),
                "properties": {field: _schema(name, one) for field, one in schema.get("fields", {}).items()},
            }
        for one in api["endpoints"]:
            paths.setdefault(one["path"], {})[one["method"].lower()] = _endpoint(name, one)
    for schema in schemas.values():
        if not schema["required"]:
            del schema["required"]
    return {"openapi": "3.0.0", "paths": paths, "components": {"schemas": schemas}}


def _endpoint(api: str, one: Mapping[str, Any]) -> dict[str, Any]:
    body = one.get("body")
    return {
        "parameters": [part for part in one.get("params", []) if part["in"] in ("path", "query", "header")],
        **(
            {"requestBody": {"content": {"application/json": {"schema": _schema(api, body)}}}} if body else {}
        ),
        "responses": {
            code: {"content": {"application/json": {"schema": _schema(api, shape)}}} if shape else {}
            for code, shape in one.get("responses", {"default": None}).items()
        },
    }


def _schema(api: str, one: Any) -> dict[str, Any]:
    if not isinstance(one, dict):
        return {}
    if "ref" in one:
        return {"$ref": f"#/components/schemas/{api}.{one['ref']}".replace(" ", "_")}
    out = {
        name: value
        for name, value in one.items()
        if name in ("type", "enum", "maximum", "minimum", "pattern")
    }
    if "items" in one:
        out["items"] = _schema(api, one["items"])
    return out


class _Operations:
    """Names alone: the path, the fields of query and body, and those of the answer where they are listed."""

    def __init__(self, said: Mapping[str, Any], ignore: tuple[str, ...]) -> None:
        self._ignore = ignore
        bases = [said["base"]] if "base" in said else list(said.get("bases", {}).values())
        roots = {urlsplit(url).path.rstrip("/") for url in bases} | {""}
        self._operations = [
            (one.get("method"), re.compile(f"({'|'.join(map(re.escape, roots))})/?{_pattern(path)}"), one)
            for one in said["operations"]
            for path in re.split(r"\s*,\s*", one["path"])
        ]

    def check(self, exchange: Exchange) -> list[str]:
        known = [
            one
            for method, pattern, one in self._operations
            if method in (None, exchange.method) and pattern.fullmatch(exchange.path)
        ]
        if not known:
            return [_unknown(exchange)]
        where = known[0]["op"]
        query = [name for name, _ in parse_qsl(exchange.query, keep_blank_values=True)]
        problems = _names(known, "query", query)
        if exchange.body:
            problems += _names(known, "body", list(_sent(exchange)))
        if exchange.status < 300 and exchange.content:
            problems += self._answer(known, exchange)
        return [
            f"{where}: {problem}" for problem in problems if not any(text in problem for text in self._ignore)
        ]

    def _answer(self, known: list[dict[str, Any]], exchange: Exchange) -> list[str]:
        try:
            said = json.loads(exchange.content)
        except ValueError:
            return ["the answer is not JSON"]
        wanted = known[0].get("response")
        if not isinstance(wanted, list) or not isinstance(said, dict):
            return []
        needed = {_name(line) for line in wanted if "?" not in line and "..." not in line}
        return [f"the answer lacks {name}" for name in sorted(needed - set(said))]


def _sent(exchange: Exchange) -> Mapping[str, Any]:
    if "form" in exchange.headers.get("content-type", ""):
        return dict(parse_qsl(exchange.body.decode(), keep_blank_values=True))
    said = json.loads(exchange.body)
    return said if isinstance(said, dict) else {}


def _names(known: list[dict[str, Any]], part: str, given: list[str]) -> list[str]:
    """Unknown and missing names, by the operation that fits best; where none lists names, nothing is said."""
    shapes = [one[part] for one in known if isinstance(one.get(part), list)]
    if not shapes:
        return []
    return min((_unfit(shape, part, given) for shape in shapes), key=len)


def _unfit(lines: list[str], part: str, given: list[str]) -> list[str]:
    names = {_name(line) for line in lines}
    problems = [f"the {part} has an unknown field {name}" for name in given if name not in names]
    needed = {_name(line) for line in lines if "*" in line.split("{")[0]}
    return problems + [f"the {part} lacks {name}" for name in sorted(needed - set(given))]


def _name(line: str) -> str:
    """The name of a field in a line such as "amount:str no decimals" or "limit 1..100=10"."""
    found = re.match(r"[A-Za-z0-9_.-]+(\[[a-z]+\])?", line)
    return found[0] if found else line
