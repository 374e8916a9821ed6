"""The public page *What can I do here?*: made from the facts of the processors that this portal has connected."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from portal import queries, render
from portal.gateways import facts
from portal.gateways.capabilities import KEYS, Capability, Key, When
from portal.texts import gettext as _
from portal.words import by_method, circumstance_words


@dataclass(frozen=True, slots=True)
class Row:
    """One wish at one processor: how it is fulfilled, what else holds when, and where that is written."""

    key: Key
    mode: str
    how: str
    others: tuple[str, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    label: str
    rows: tuple[Row, ...]


async def what_can_i_do(request: Request) -> Response:
    """Per connected account and wish: how it is done here, and when it is done otherwise."""
    accounts = await request.app.state.database.read(queries.accounts, request.state.portal.id)
    shop = request.state.portal.name
    tables = [_table(name, variant, options, shop) for name, variant, options in dict.fromkeys(accounts)]
    return render.page(request, "help.html", tables=tables)


def _table(name: str, variant: str | None, options: tuple[str, ...], shop: str) -> Table:
    found = facts(name)
    rows = tuple(_row(key, found.capabilities[key], found.label, shop, variant, options) for key in KEYS)
    return Table(name, found.label, rows)


def _row(
    key: Key, capability: Capability, label: str, shop: str, variant: str | None, options: tuple[str, ...]
) -> Row:
    """Entries for another kind of account, or for what this one has not switched on, are nobody's here."""
    base, others = capability, []
    for entry, shape in zip(capability.when, capability.shapes()[1:], strict=True):
        if not _concerns(entry.variant, variant) or not _concerns(entry.option, *options):
            continue
        condition = _condition(entry)
        if condition is None:
            base = shape
            break
        others.append(f"{condition}: {_how(shape, label, shop)}")
    return Row(key, base.mode, _how(base, label, shop), tuple(dict.fromkeys(others)), base.source)


def _concerns(wanted: str | list[str] | None, *having: str | None) -> bool:
    choices = wanted if isinstance(wanted, list) else [wanted]
    return wanted is None or any(choice in having for choice in choices)


def _how(shape: Capability, label: str, shop: str) -> str:
    if shape.documents:
        return _("Here, in your payment history")
    words = {
        "direct": _("Here"),
        "hosted": _("On {label}'s own page, from here"),
        "emulated": _("Here"),
        "guided": _("At {label}, in a few steps that stand here"),
        "request": _("We ask {shop} for you, with a reference and a date"),
        "none": _("Not possible"),
    }
    return words[shape.mode].format(label=label, shop=shop)


def _condition(entry: When) -> str | None:
    """The conditions that a customer can see, in words; None where there are none of these."""
    states = {
        "incomplete": _("not started"),
        "trialing": _("in a trial"),
        "active": _("active"),
        "past_due": _("after a failed payment"),
        "paused": _("paused"),
        "cancels_at_period_end": _("ending"),
        "cancelled": _("cancelled"),
        "expired": _("expired"),
    }
    parts = [
        " / ".join(words.get(one, one) for one in _listed(value))
        for words, value in ((states, entry.state), (by_method(), entry.method))
        if value
    ]
    if entry.due is not None:
        parts.append(circumstance_words("due", entry.due))
    if entry.token is not None:
        parts.append(circumstance_words("token", entry.token))
    if entry.country is not None:
        parts.append(", ".join(_listed(entry.country)))
    if entry.object is not None:
        parts.append(", ".join(one.replace("_", " ") for one in _listed(entry.object)))
    return ", ".join(parts) or None


def _listed(value: str | list[str] | None) -> list[str]:
    return value if isinstance(value, list) else [value] if value else []
