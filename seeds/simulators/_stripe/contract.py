"""Holds requests and answers against a field contract of Stripe's API, where somebody has one."""

import json
import re
from pathlib import Path
from typing import Any

from seeds.simulators._stripe.wire import API_VERSION, Json

_INTEGER, _NUMBER = re.compile(r"-?\d+\Z"), re.compile(r"-?\d+(\.\d+)?\Z")


class Validator:
    """Sentences on what does not fit the contract: parameters of calls, fields of answers."""

    def __init__(self, contract: Json) -> None:
        if contract["api_version"] != API_VERSION:
            raise ValueError(
                f"the contract is for {contract['api_version']}, the simulator speaks {API_VERSION}"
            )
        self._resources: dict[str, Json] = contract["resources"]
        self._events = set(contract["event_types"])
        self._endpoints = [
            (
                one["method"],
                re.compile(re.sub(r"\{[^}]+\}", "[^/]+", one["path"]) + r"\Z"),
                one.get("params") or {},
            )
            for one in sorted(contract["endpoints"], key=lambda one: "{" in one["path"])
        ]

    def request(self, method: str, path: str, params: Json) -> list[str]:
        """What is wrong with the decoded parameters of a call; nothing where the contract does not know the call."""
        for known, pattern, fields in self._endpoints:
            if known == method and pattern.match(path):
                found: list[str] = []
                _params(f"{method} {path}", params, fields | {"expand": {"type": "array"}}, found)
                return found
        return []

    def answer(self, where: str, body: Any) -> list[str]:
        """What is wrong with a decoded answer: an object, a list of them, or an error."""
        found: list[str] = []
        if isinstance(body, dict) and "error" in body:
            if not {"message", "type"} <= set(body["error"]):
                found.append(f"{where}: an error without message or type")
            return found
        self._object(where, body, found)
        return found

    def _object(self, where: str, one: Any, found: list[str]) -> None:
        if not isinstance(one, dict) or "object" not in one:
            found.append(f"{where}: not an object of Stripe's")
            return
        kind = one["object"]
        if kind in ("list", "search_result"):
            self._list(where, one, found)
        elif one.get("deleted"):
            return
        elif kind in self._resources:
            self._fields(f"{where} {kind}", one, self._resources[kind], found)
        if kind == "event":
            if one["type"] not in self._events:
                found.append(f"{where}: no event is called {one['type']}")
            self._object(f"{where} {one['type']}", one["data"]["object"], found)

    def _list(self, where: str, one: Json, found: list[str]) -> None:
        if (
            not isinstance(one.get("data"), list)
            or not isinstance(one.get("has_more"), bool)
            or "url" not in one
        ):
            found.append(f"{where}: a list without data, has_more or url")
            return
        for row in one["data"]:
            self._object(where, row, found)

    def _fields(self, where: str, one: Json, fields: Json, found: list[str]) -> None:
        for name, value in one.items():
            if name not in fields:
                found.append(f"{where}: has no field {name}")
            else:
                self._field(f"{where}.{name}", value, fields[name], found)
        for name, field in fields.items():
            if name not in one and not field.get("nullable"):
                found.append(f"{where}: lacks the field {name}")

    def _field(self, where: str, value: Any, field: Json, found: list[str]) -> None:
        kind, _, what = str(field["type"]).partition(":")
        if value is None:
            if not field.get("nullable"):
                found.append(f"{where}: must not be null")
            return
        if kind == "list":
            self._object(where, value, found)
        elif kind == "id|expanded":
            for one in value if isinstance(value, list) else [value]:
                if not isinstance(one, str):
                    self._object(where, one, found)
        elif kind == "object" and what:
            self._named(where, value, found)
        elif not _fits(kind, value):
            found.append(f"{where}: {value!r} is not of type {kind}")
        elif kind == "object" and "fields" in field:
            self._fields(where, value, field["fields"], found)
        elif kind == "array" and "fields" in field:
            for one in value:
                self._fields(where, one, field["fields"], found)
        elif (
            kind == "string"
            and field.get("enum")
            and value not in field["enum"]
            and not field.get("enum_count")
        ):
            found.append(f"{where}: {value!r} is not one of {', '.join(map(str, field['enum']))}")

    def _named(self, where: str, value: Any, found: list[str]) -> None:
        if not isinstance(value, dict):
            found.append(f"{where}: {value!r} is not of type object")
        elif value.get("object") in self._resources:
            self._object(where, value, found)


def validator(spec_folder: Path) -> Validator:
    """The validator of the contract file in a folder; FileNotFoundError where there is none."""
    path = spec_folder / f"contract-{API_VERSION}.json"
    return Validator(json.loads(path.read_text()))


def _fits(kind: str, value: Any) -> bool:
    match kind:
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return _fits("integer", value) or isinstance(value, float) or bool(_NUMBER.match(str(value)))
        case "boolean":
            return isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "array":
            return isinstance(value, list)
        case _:
            return isinstance(value, dict)


def _params(where: str, given: Json, fields: Json, found: list[str]) -> None:
    for name, value in given.items():
        if name not in fields:
            found.append(f"{where}: has no parameter {name}")
        else:
            _param(f"{where} {name}", value, fields[name], found)
    found += [
        f"{where}: lacks the parameter {name}"
        for name, field in fields.items()
        if field.get("required") and name not in given
    ]


def _param(where: str, value: Any, field: Json, found: list[str]) -> None:
    kind = str(field["type"]).partition(":")[0]
    choices = field.get("enum") or []
    if isinstance(value, str) and value in choices:
        return
    if not _fits_text(kind, value):
        found.append(f"{where}: {value!r} is not of type {kind}")
    elif kind == "object" and "fields" in field:
        _params(where, value, field["fields"], found)
    elif kind == "array" and "fields" in field:
        for one in value:
            if isinstance(one, dict):
                _params(where, one, field["fields"], found)
            else:
                found.append(f"{where}: {one!r} is not of type object")
    elif kind == "string" and [one for one in choices if one != ""] and not field.get("enum_count"):
        found.append(f"{where}: {value!r} is not one of {', '.join(map(str, choices))}")


def _fits_text(kind: str, value: Any) -> bool:
    match kind:
        case "integer":
            return isinstance(value, str) and bool(_INTEGER.match(value))
        case "number":
            return isinstance(value, str) and bool(_NUMBER.match(value))
        case "boolean":
            return value in ("true", "false")
        case "string":
            return isinstance(value, str)
        case "array":
            return isinstance(value, list)
        case _:
            return isinstance(value, dict)
