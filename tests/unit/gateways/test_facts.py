"""The fact tables: every one loads, agrees with its adapter, and a broken one is refused with words that help."""

from collections.abc import Callable
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from portal.gateways import adapter, processors
from portal.gateways.capabilities import (
    KEYS,
    METHODS,
    Circumstances,
    disagreements,
    facts,
    raw_facts,
    read_facts,
)

each = pytest.mark.parametrize("processor", processors())


@each
def test_a_table_loads_and_speaks_of_every_key(processor: str) -> None:
    assert set(facts(processor).capabilities) == set(KEYS)
    assert set(raw_facts(processor)["capabilities"]) == set(KEYS)


@each
def test_table_and_adapter_agree_both_ways(processor: str) -> None:
    assert disagreements(processor, adapter(processor)) == []


@each
def test_every_fact_has_a_source_and_a_day_that_has_been(processor: str) -> None:
    table = facts(processor)
    found: list[Any] = [*table.capabilities.values(), *table.webhooks, *table.backfill, table.sync]
    for fact in found:
        assert fact.source.startswith("https://"), fact
        assert date(2026, 1, 1) <= fact.checked <= date(2030, 1, 1), fact


@each
def test_what_is_emulated_by_keeping_access_needs_a_cancel(processor: str) -> None:
    table = facts(processor)
    emulated = [shape.how for shape in table.capabilities["cancel_at_period_end"].shapes()]
    if "keep" in emulated or "schedule" in emulated:
        assert any(shape.mode == "direct" or shape.how for shape in table.capabilities["cancel_now"].shapes())


@each
def test_the_credentials_of_a_table_make_a_gateway(processor: str) -> None:
    names = [credential.name for credential in facts(processor).credentials]
    assert len(set(names)) == len(names)
    assert any(credential.required and credential.secret for credential in facts(processor).credentials)


def capability(key: str) -> str:
    extra = {"invoice": 'documents = ["ours"]\n', "change_plan": ""}.get(key, "")
    mode = "direct" if key == "invoice" else "none"
    return (
        f"[capabilities.{key}]\n"
        f'mode = "{mode}"\n{extra}'
        'source = "https://acme.example/docs"\n'
        "checked = 2026-11-22\n"
        'confidence = "high"\n'
    )


def table(change: Callable[[str], str] = lambda text: text) -> str:
    head = """label = "Acme Pay"
website = "https://acme.example"
currencies = "any"
amount_unit = "minor"

[hosts]
calls = ["api.acme.example"]
links = ["pay.acme.example"]

[[credentials]]
name = "secret_key"
label = "Secret key"
help = "Dashboard"
secret = true
required = true
pattern = "^sk_[a-z]+$"

[options.suspend]
label = "Suspend"
help = "Off until switched on."

[[webhooks]]
scheme = "hmac-sha256"
proves = "body"
registration = "api"
source = "https://acme.example/docs"
checked = 2026-11-22

[sync]
by = "changes"
minutes = 30
source = "https://acme.example/docs"
checked = 2026-11-22

"""
    return change(head + "\n".join(map(capability, KEYS)))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "acme.toml"
    path.write_text(text)
    return path


def test_the_invented_table_is_whole(tmp_path: Path) -> None:
    found = read_facts(written(tmp_path, table()))
    assert found.label == "Acme Pay"
    assert found.capabilities["invoice"].documents == ["ours"]


def put(key: str, lines: str) -> Callable[[str], str]:
    """More lines in the table of one key."""
    head = f"[capabilities.{key}]\n"
    return lambda text: text.replace(head, head + lines)


def swap(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


def in_key(key: str, old: str, new: str) -> Callable[[str], str]:
    whole = capability(key)
    return swap(whole, whole.replace(old, new, 1))


async def _does(*_: Any) -> None:
    """Stands for a method of an adapter."""


def words_on_webhooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[str], str], *methods: str
) -> list[str]:
    from portal.gateways import capabilities
    from portal.gateways.base import Gateway

    found = read_facts(written(tmp_path, table(change)))
    monkeypatch.setattr(capabilities, "facts", lambda _: found)
    adapter = type("Adapter", (Gateway,), dict.fromkeys((*methods, "invoice_document"), _does))
    return [one for one in disagreements("acme", adapter) if "invoice_document" not in one]


def test_registering_by_api_and_the_adapter_agree_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_api, both = swap("", ""), ("register_webhook", "unregister_webhook")
    by_hand = swap('registration = "api"', 'registration = "dashboard"')
    assert words_on_webhooks(tmp_path, monkeypatch, by_api, *both) == []
    assert words_on_webhooks(tmp_path, monkeypatch, by_hand) == []
    assert words_on_webhooks(tmp_path, monkeypatch, by_api) == [
        f'acme: the facts say registration = "api", the adapter has no {name}' for name in both
    ]
    assert words_on_webhooks(tmp_path, monkeypatch, by_hand, *both) == [
        f'acme: the adapter has {name}, no webhook of the facts says registration = "api"' for name in both
    ]


def test_kept_events_and_the_adapter_agree_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, by_hand = 'by = "events"\nkeeps_days = 30', 'registration = "dashboard"'
    for by, method, agree in (
        (kept, ("kept_events",), True),
        (kept, (), False),
        ('by = "changes"', ("kept_events",), False),
        ('by = "changes"', (), True),
    ):
        change = swap('by = "changes"', by)
        said = words_on_webhooks(
            tmp_path,
            monkeypatch,
            lambda text, change=change: change(text).replace('registration = "api"', by_hand),  # type: ignore[misc]
            *method,
        )
        assert said == ([] if agree else ["acme: `sync.by` and kept_events do not agree"])


def test_test_events_and_the_adapter_agree_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = swap('registration = "api"', 'registration = "dashboard"\ntest_event = true')
    none = swap('registration = "api"', 'registration = "dashboard"')
    assert words_on_webhooks(tmp_path, monkeypatch, tests, "send_test_event") == []
    (missing,) = words_on_webhooks(tmp_path, monkeypatch, tests)
    assert missing == "acme: the facts say test_event = true, the adapter has no send_test_event"
    (too_much,) = words_on_webhooks(tmp_path, monkeypatch, none, "send_test_event")
    assert too_much == "acme: the adapter has send_test_event, no webhook of the facts says test_event = true"


def test_a_field_comes_out_of_no_registration_that_there_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(text: str) -> str:
        text = text.replace('registration = "api"', 'registration = "dashboard"')
        return text.replace("required = true\n", "required = true\nfrom_webhook = true\n")

    (word,) = words_on_webhooks(tmp_path, monkeypatch, change)
    assert word == "acme: a field comes out of a registration that no webhook has"


@each
def test_what_a_registration_fills_in_is_there_to_be_filled_in(processor: str) -> None:
    """Where a webhook is registered by API and proves anything, the form has the fields for what proves it."""
    by_api = [fact for fact in facts(processor).webhooks if fact.registration == "api"]
    filled = [field.name for field in facts(processor).credentials if field.from_webhook]
    assert bool(filled) == any(fact.proves != "nothing" for fact in by_api)


BROKEN: dict[str, tuple[Callable[[str], str], str]] = {
    "no TOML": (lambda text: text + "\n[", "acme.toml"),
    "a key is missing": (swap(capability("pause"), ""), "no word on pause"),
    "an unknown key": (
        lambda text: text + capability("pause").replace("pause", "fly"),
        "capabilities.fly",
    ),
    "an unknown mode": (in_key("pause", '"none"', '"maybe"'), "capabilities.pause.mode"),
    "an unknown field": (put("pause", 'colour = "red"\n'), "colour"),
    "no source": (in_key("pause", 'source = "https://acme.example/docs"\n', ""), "source"),
    "no date": (in_key("pause", "checked = 2026-11-22\n", ""), "checked"),
    "a date as text": (in_key("pause", "2026-11-22", '"2026-11-22"'), "checked"),
    "an unknown confidence": (in_key("pause", '"high"', '"sure"'), "confidence"),
    "how without emulated": (put("pause", 'how = "keep"\n'), "`how` goes with the mode emulated"),
    "emulated without how": (in_key("pause", '"none"', '"emulated"'), "`how` goes with the mode emulated"),
    "guided without steps": (in_key("pause", '"none"', '"guided"'), "guided needs `steps` and `link`"),
    "a link that is not https": (put("pause", 'link = "http://acme.example"\n'), "link"),
    "invoice without documents": (
        in_key("invoice", 'documents = ["ours"]\n', ""),
        "invoice lists its `documents`",
    ),
    "a change of nothing": (
        in_key("change_plan", '"none"', '"direct"'),
        "change_plan lists what it `changes`",
    ),
    "events that nobody knows how long are kept": (
        swap('by = "changes"', 'by = "events"'),
        "`keeps_days` goes with events",
    ),
    "a look that never comes": (swap("minutes = 30", "minutes = 0"), "`minutes` is between"),
    "when without condition": (put("pause", 'when = [{ mode = "request" }]\n'), "needs a condition"),
    "when with an unknown option": (
        put("pause", 'when = [{ option = "resume", mode = "request" }]\n'),
        "pause names options that are not there",
    ),
    "when that breaks the rule": (
        put("pause", 'when = [{ state = "active", mode = "guided" }]\n'),
        "guided needs `steps` and `link`",
    ),
    "a host with a path": (swap('"api.acme.example"', '"api.acme.example/v1"'), "hosts.calls"),
    "a host as a pattern": (swap('"pay.acme.example"', '"*.acme.example"'), "hosts.links"),
    "a pattern that does not compile": (swap('"^sk_[a-z]+$"', '"^sk_["'), "the pattern is none"),
    "a number for a truth": (swap("secret = true", "secret = 1"), "secret"),
    "an unknown unit of amounts": (swap('"minor"', '"cents"'), "amount_unit"),
    "an unknown scheme": (swap('"hmac-sha256"', '"rot13"'), "scheme"),
}


@pytest.mark.parametrize(("change", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_table_is_refused_and_says_where(
    tmp_path: Path, change: Callable[[str], str], words: str
) -> None:
    with pytest.raises(ValueError, match=r"acme\.toml") as caught:
        read_facts(written(tmp_path, table(change)))
    assert words in str(caught.value)


def test_the_first_condition_that_holds_wins_and_replaces_only_what_it_names(tmp_path: Path) -> None:
    text = table(
        put(
            "pause",
            'note = "base"\n'
            "when = [\n"
            '  { state = ["paused", "past_due"], option = "suspend", mode = "emulated", how = "calls" },\n'
            '  { state = "paused", mode = "request", note = "asked" },\n'
            '  { due = true, mode = "hosted" },\n'
            "]\n",
        )
    )
    pause = read_facts(written(tmp_path, text)).capabilities["pause"]

    def mode(**circumstances: object) -> tuple[str, str | None, str | None]:
        found = pause.under(Circumstances(**circumstances))  # type: ignore[arg-type]
        return found.mode, found.how, found.note

    assert mode() == ("none", None, "base")
    assert mode(state="paused", option=frozenset({"suspend"})) == ("emulated", "calls", "base")
    assert mode(state="paused") == ("request", None, "asked")
    assert mode(state="active", due=True) == ("hosted", None, "base")


def test_every_method_that_a_key_needs_is_one_of_the_contract() -> None:
    from portal.gateways.base import Gateway

    assert all(hasattr(Gateway, name) for names in METHODS.values() for name in names)


def test_the_folder_of_the_tables_never_takes_the_place_of_the_function() -> None:
    """As where something looks through all modules of the project."""
    found = import_module("portal.gateways.facts")
    assert found.__path__
    assert callable(import_module("portal.gateways").facts)
