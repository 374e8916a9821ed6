"""Stripe's wire: forms with brackets, error answers, numbers in text, and what its currencies demand."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

API_VERSION = "2026-10-28.endive"

Json = dict[str, Any]

# https://docs.stripe.com/currencies: whole units, and three decimals of which the last must be 0.
ZERO_DECIMAL = frozenset(
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"]
)
THREE_DECIMAL = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])
WHOLE_BUT_SENT_WITH_TWO = frozenset(["isk", "ugx"])


class Refusal(Exception):
    """An error answer: its HTTP status and the fields of Stripe's `error` object."""

    def __init__(
        self, status: int, message: str, *, type: str = "invalid_request_error", **fields: Any
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error: Json = {"message": message, "type": type}
        self.error |= {name: value for name, value in fields.items() if value is not None}
        if code := self.error.get("code"):
            self.error["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"

    def body(self) -> Json:
        return {"error": self.error}


def missing(kind: str, object_id: str, param: str = "id", status: int = 404) -> Refusal:
    """What is said of an object this account does not have: 404 in a path, 400 in a parameter."""
    return Refusal(status, f"No such {kind}: '{object_id}'", code="resource_missing", param=param)


def declined(decline_code: str, **fields: Any) -> Refusal:
    """The 402 of a refused card."""
    code = "authentication_required" if decline_code == "authentication_required" else "card_declined"
    return Refusal(
        402, decline_sentence(decline_code), type="card_error", code=code, decline_code=decline_code, **fields
    )


def decline_sentence(decline_code: str) -> str:
    """What Stripe tells a payer about a decline code."""
    return {
        "insufficient_funds": "Your card has insufficient funds.",
        "expired_card": "Your card has expired.",
        "authentication_required": "Your card was declined. This transaction requires authentication.",
    }.get(decline_code, "Your card was declined.")


def decode(pairs: Iterable[tuple[str, str]]) -> Json:
    """Parameters out of `a[b][0][c]=value` pairs; numbered brackets become lists, except below metadata."""
    tree: Json = {}
    for name, value in pairs:
        head, bracket, rest = name.partition("[")
        path = [head, *re.findall(r"\[([^\]]*)\]", bracket + rest)]
        _put(tree, path, value)
    return {name: value if name == "metadata" else _lists(value) for name, value in tree.items()}


def _put(tree: Json, path: list[str], value: str) -> None:
    for step in path[:-1]:
        step = step or str(len(tree))
        branch = tree.setdefault(step, {})
        if not isinstance(branch, dict):
            raise Refusal(400, f"Invalid parameter: {path[0]} is given twice in different shapes.")
        tree = branch
    tree[path[-1] or str(len(tree))] = value


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {name: item if name == "metadata" else _lists(item) for name, item in value.items()}
    if inner and all(name.isdecimal() for name in inner):
        return [inner[name] for name in sorted(inner, key=int)]
    return inner


def whole(params: Mapping[str, Any], name: str, default: int | None = None) -> int | None:
    """An integer parameter; Stripe's 400 where the text is none."""
    value = params.get(name)
    if value is None:
        return default
    if not isinstance(value, str) or not re.fullmatch(r"-?\d{1,15}", value):
        raise Refusal(400, f"Invalid integer: {value}", code="parameter_invalid_integer", param=name)
    return int(value)


def flag(params: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """A boolean parameter."""
    value = params.get(name)
    if value is None:
        return default
    if value not in ("true", "false"):
        raise Refusal(400, f"Invalid boolean: {value}", param=name)
    return bool(value == "true")


def one_of(params: Mapping[str, Any], name: str, choices: tuple[str, ...], default: str) -> str:
    """A parameter with a closed list of values."""
    value = params.get(name, default)
    if value not in choices:
        raise Refusal(400, f"Invalid {name}: must be one of {', '.join(choices)}", param=name)
    return str(value)


def text(params: Mapping[str, Any], name: str) -> str | None:
    """A parameter that must be plain text; an empty one means that the field is to be emptied."""
    value = params.get(name)
    if value is not None and not isinstance(value, str):
        raise Refusal(400, f"Invalid string: {name}", param=name)
    return value or None


def needed(params: Mapping[str, Any], name: str) -> Any:
    """A parameter that must be there."""
    if params.get(name) in (None, ""):
        raise Refusal(400, f"Missing required param: {name}.", code="parameter_missing", param=name)
    return params[name]


def acceptable(minor: int, currency: str) -> bool:
    """Whether Stripe takes this amount: tens in three-decimal currencies, hundreds in ISK and UGX."""
    return minor % granularity(currency) == 0


def granularity(currency: str) -> int:
    if currency in THREE_DECIMAL:
        return 10
    return 100 if currency in WHOLE_BUT_SENT_WITH_TWO else 1


def share(minor: int, part: int, whole_: int, currency: str) -> int:
    """`part` of `whole_` of an amount, rounded half up to what the currency allows."""
    step = granularity(currency)
    return (2 * minor * part + whole_ * step) // (2 * whole_ * step) * step if whole_ else 0


def amount_text(minor: int, currency: str) -> str:
    """The amount for a page: "USD 24.00", "JPY 1,200", "KWD 12.500"."""
    digits = 0 if currency in ZERO_DECIMAL else 3 if currency in THREE_DECIMAL else 2
    sign = "-" if minor < 0 else ""
    units, rest = divmod(abs(minor), 10**digits)
    return f"{currency.upper()} {sign}{units:,}" + (f".{rest:0{digits}d}" if digits else "")
