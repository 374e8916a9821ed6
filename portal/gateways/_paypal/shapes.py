"""What all objects of PayPal have in common: ids, lists, links, and amounts in either of two forms."""

from typing import Any

from portal.gateways.wire import Json, major, part, text
from portal.money import Money


def words(**ours: str) -> dict[str | None, Any]:
    """A status table: PayPal's words by ours, turned round."""
    return {theirs: word for word, all_theirs in ours.items() for theirs in all_theirs.split()}


def id_of(said: Json) -> str:
    """The id, empty where there is none that is one."""
    found = said.get("id") or part(said, "transaction_info").get("transaction_id")
    return found.strip() if isinstance(found, str) else ""


def items(said: Any) -> list[Json]:
    """The objects of a list, and nothing else that may stand there."""
    return [one for one in said if isinstance(one, dict)] if isinstance(said, list) else []


def link(said: Json, rel: str) -> str | None:
    """The address of a link by its relation."""
    return next((text(one.get("href")) for one in items(said.get("links")) if one.get("rel") == rel), None)


def money(said: Any) -> Money | None:
    """An amount in either of its two forms."""
    one = said if isinstance(said, dict) else {}
    return major(one.get("value", one.get("total")), one.get("currency_code", one.get("currency")))


def total(one: Money, other: Money | None) -> Money:
    """The sum; an amount of another currency is left out."""
    return one + other if other and other.currency == one.currency else one
