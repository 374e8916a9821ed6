"""Documents made from the fact tables: the README's table of features and docs/processors.md."""

from collections.abc import Iterable

from portal.gateways.capabilities import (
    KEYS,
    Capability,
    Facts,
    Key,
    LimitFact,
    SyncFact,
    When,
    facts,
    processors,
)

FEATURES: dict[str, Key] = {
    "Invoice": "invoice",
    "Update payment method": "update_payment_method",
    "Cancel now": "cancel_now",
    "Cancel at period end": "cancel_at_period_end",
    "Undo cancel": "undo_cancel",
    "Pause": "pause",
    "Resume": "resume",
    "Skip a payment": "skip_next_payment",
    "Change plan": "change_plan",
    "Pay now": "pay_now",
}
CONDITIONS = ("state", "method", "variant", "option", "country", "object", "due", "token")


def features_table() -> str:
    """What each processor lets a customer do; each cell leads to its evidence in docs/processors.md."""
    lines = [f"| processor | {' | '.join(FEATURES)} |", f"|---|{'---|' * len(FEATURES)}"]
    for name in processors():
        table = facts(name)
        cells = [_cell(name, key, table.capabilities[key]) for key in FEATURES.values()]
        lines.append(f"| [{table.label}](docs/processors.md#{name}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(processor: str, key: Key, capability: Capability) -> str:
    words = _mode(capability)
    if capability.when:
        words += " *"
    return f"[{words}](docs/processors.md#{anchor(processor, key)})"


def _mode(capability: Capability) -> str:
    if capability.documents:
        return ", ".join(capability.documents)
    if capability.mode == "none":
        return "–"
    return f"{capability.mode}: {capability.how}" if capability.how else capability.mode


def anchor(processor: str, key: str) -> str:
    """The place of a fact in docs/processors.md."""
    return f"{processor}-{key.replace('_', '-')}"


_HEAD = """# What each processor lets a customer do

Made from the fact tables in `portal/gateways/facts/` by `portal gateway document`; a test fails when it is stale.

- *direct*: done in the portal by one call, and read back until the processor says so.
- *hosted*: done on the processor's own page; the return is never believed, it is read back.
- *emulated*: done in the portal with help of ours. *keep*: cancelled at the processor now, access kept until the paid
  date. *schedule*: a job of ours does it later, free to undo until then. *calls*: several calls.
- *guided*: steps and a link to the processor, then a look whether it happened.
- *request*: asked of the merchant, with a reference and a date.
- *none*: there is no such thing, and the page says why.

An entry under *when* replaces what it names; the first whose conditions all hold counts.
"""


def processors_document() -> str:
    """All facts of all processors, in Markdown."""
    return "\n".join([_HEAD, *(part for name in processors() for part in _processor(name, facts(name)))])


def _processor(name: str, table: Facts) -> Iterable[str]:
    yield f'<a id="{name}"></a>\n\n## {table.label}\n'
    currencies = table.currencies if isinstance(table.currencies, str) else ", ".join(table.currencies)
    yield f"- Website: <{table.website}>"
    yield f"- Currencies: {currencies}; amounts in {table.amount_unit} units"
    if table.variants:
        yield f"- Kinds of account: {', '.join(table.variants)}"
    if table.no_email:
        yield f"- Addresses that count as none: {', '.join(f'`{address}`' for address in table.no_email)}"
    yield f"- Called: {_hosts(table.hosts.calls)}; customers are sent to: {_hosts(table.hosts.links)}"
    for one in table.webhooks:
        told = f"; {one.note}" if one.note else ""
        kind = f" ({one.variant})" if one.variant else ""
        test = ", sends a test event when asked" if one.test_event else ""
        yield (
            f"- Webhooks{kind}: {one.scheme}, proves {one.proves}, registered by {one.registration}{test}{told} "
            f"([source]({one.source}), {one.checked})"
        )
    for entry in table.backfill:
        told = f"; {entry.note}" if entry.note else ""
        reach = f", reaches {entry.reaches_days} days" if entry.reaches_days else ""
        mail = ", by e-mail" if entry.by_email else ""
        yield f"- Lists {entry.kind}s: `{entry.route}`{reach}{mail}{told} ([source]({entry.source}), {entry.checked})"
    yield _kept_true(table.sync)
    if table.limit is not None:
        yield _limited(table.limit)
    for file in table.files:
        columns = ", ".join(f"`{name}`" for name in file.columns)
        yield f"- Reads a list of yours ({file.label}): columns {columns}; {file.help}"
    for option, words in table.options.items():
        yield f"- Option `{option}`: {words.label}. {words.help}"
    yield ""
    for key in KEYS:
        yield from _capability(name, key, table.capabilities[key])


_KEPT_TRUE = {
    "events": "by its own events, which it keeps for {days} days",
    "changes": "by what its lists show as new",
    "poll": "by what its lists show as new, and by asking about everything that goes on",
}


def _kept_true(one: SyncFact) -> str:
    how, told = _KEPT_TRUE[one.by].format(days=one.keeps_days), f"; {one.note}" if one.note else ""
    source = f" ([source]({one.source}), {one.checked})" if one.source else ""
    return f"- Kept true every {one.minutes} minutes {how}{told}{source}"


def _limited(one: LimitFact) -> str:
    test = f" ({one.test_calls} with test keys)" if one.test_calls is not None else ""
    told = f"; {one.note}" if one.note else ""
    return (
        f"- Answers {one.calls} calls{test} in {one.seconds} s{told} ([source]({one.source}), {one.checked})"
    )


def _hosts(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _capability(processor: str, key: Key, capability: Capability) -> Iterable[str]:
    yield f'<a id="{anchor(processor, key)}"></a>\n\n### {key.replace("_", " ").capitalize()}: {_mode(capability)}\n'
    if capability.note:
        yield f"{capability.note}\n"
    yield from (f"{number}. {step}" for number, step in enumerate(capability.steps or (), 1))
    if capability.steps:
        yield f"\nAt <{capability.link}>.\n"
    for entry, shape in zip(capability.when, capability.shapes()[1:], strict=True):
        note = f": {entry.note}" if entry.note else ""
        yield f"- when {_conditions(entry)}: **{_mode(shape)}**{note}"
    if capability.when:
        yield ""
    proof = f", proof: {capability.proof}" if capability.proof else ""
    yield f"[Source]({capability.source}), {capability.checked}, confidence {capability.confidence}{proof}.\n"


def _conditions(entry: When) -> str:
    parts = []
    for name in CONDITIONS:
        value = getattr(entry, name)
        if value is not None:
            choices = " or ".join(value) if isinstance(value, list) else value
            parts.append(f"{name} is {str(choices).lower() if isinstance(choices, bool) else choices}")
    return " and ".join(parts)
