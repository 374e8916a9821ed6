"""The fact tables: read strictly, asked by condition. What a processor can do stands there and nowhere in code."""

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

Key = Literal[
    "invoice",
    "update_payment_method",
    "cancel_now",
    "cancel_at_period_end",
    "undo_cancel",
    "pause",
    "resume",
    "skip_next_payment",
    "change_plan",
    "pay_now",
    "next_payment",
    "refunds",
]
KEYS: tuple[Key, ...] = Key.__args__  # type: ignore[attr-defined]
Mode = Literal["direct", "hosted", "emulated", "guided", "request", "none"]
How = Literal["keep", "schedule", "calls"]

# The method of the gateway behind each key; keys without one are part of `fetch`.
METHODS: dict[Key, tuple[str, ...]] = {
    "update_payment_method": ("start_method_update", "finish_method_update"),
    **{
        key: (key,)
        for key in KEYS
        if key not in ("invoice", "update_payment_method", "next_payment", "refunds")
    },
}

_Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
_Host = Annotated[str, StringConstraints(pattern=r"^[a-z0-9{}_.-]+\.[a-z]+$")]
_Https = Annotated[str, StringConstraints(pattern=r"^https://[^\s\"'<>]+$")]
_CONDITIONS = ("state", "method", "variant", "option", "country", "object", "due", "token")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Credential(_Strict):
    name: _Word
    label: str
    help: str
    secret: bool
    required: bool
    pattern: str
    variant: str | None = None
    from_webhook: bool = False  # comes out of registering the webhook, so it may be left empty until then

    @model_validator(mode="after")
    def _pattern_compiles(self) -> "Credential":
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"{self.name}: the pattern is none: {error}") from error
        return self


class Option(_Strict):
    label: str
    help: str


class WebhookFact(_Strict):
    scheme: Annotated[str, StringConstraints(pattern=r"^(hmac-[a-z0-9]+|rsa|md5|sha512|token|none)$")]
    proves: Literal["body", "fields", "origin", "nothing"]
    tolerance_s: int | None = None
    registration: Literal["api", "dashboard", "per_object"]
    test_event: bool = False  # a call asks the processor for a test delivery
    variant: str | None = None
    source: str
    checked: date
    note: str | None = None


class BackfillFact(_Strict):
    kind: Literal["customer", "order", "subscription", "payment", "refund", "invoice"]
    route: str
    by_email: bool
    window_days: int | None = None
    reaches_days: int | None = None
    variant: str | None = None
    source: str
    checked: date
    note: str | None = None


class SyncFact(_Strict):
    """How an account is kept true where webhooks get lost: by the events that the processor keeps, by what its lists
    show as new, or (`poll`) by that and by asking about each thing that goes on; and every how many minutes."""

    by: Literal["events", "changes", "poll"]
    minutes: int
    keeps_days: int | None = None  # for how long it keeps its events
    source: str
    checked: date
    note: str | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> "SyncFact":
        if (self.by == "events") != (self.keeps_days is not None):
            raise ValueError("`keeps_days` goes with events, and only with them")
        if not 1 <= self.minutes <= 1440:
            raise ValueError("`minutes` is between a minute and a day")
        return self


# Where a table does not say it.
_BY_LISTS = SyncFact(by="changes", minutes=60, source="", checked=date.min)


class LimitFact(_Strict):
    """How many calls the processor answers in so many seconds, of an account; `test_calls` where test keys differ."""

    calls: int
    test_calls: int | None = None
    seconds: int
    source: str
    checked: date
    note: str | None = None


class FileFact(_Strict):
    """A list that merchants keep themselves, of what no call lists; `read_file` takes it."""

    label: str
    help: str
    columns: list[Annotated[str, StringConstraints(min_length=1, max_length=60)]]


class Hosts(_Strict):
    calls: list[_Host]
    links: list[_Host]
    certificates: list[_Host] = []
    scripts: list[_Host] = []


class _Offer(_Strict):
    how: How | None = None
    proof: Literal["read_back", "answer", "next_charge"] | None = None
    proven_within_min: int | None = None
    documents: list[Literal["processor", "page", "ours"]] | None = None
    changes: list[Literal["plan", "amount", "interval", "quantity"]] | None = None
    certainty: Literal["fixed", "estimated", "merchant"] | None = None
    steps: list[str] | None = None
    link: _Https | None = None
    note: str | None = None
    source: str | None = None
    checked: date | None = None
    confidence: Literal["high", "medium", "low", "unverified"] | None = None


class When(_Offer):
    """Conditions, and the fields they replace."""

    mode: Mode | None = None
    state: str | list[str] | None = None
    method: str | list[str] | None = None
    variant: str | list[str] | None = None
    option: str | list[str] | None = None
    country: str | list[str] | None = None
    object: str | list[str] | None = None
    due: bool | None = None
    token: bool | None = None

    @model_validator(mode="after")
    def _has_a_condition(self) -> "When":
        if all(getattr(self, name) is None for name in _CONDITIONS):
            raise ValueError("an entry of `when` needs a condition")
        return self

    def holds(self, circumstances: "Circumstances") -> bool:
        for name in _CONDITIONS:
            wanted = getattr(self, name)
            if wanted is None:
                continue
            actual = getattr(circumstances, name)
            choices = wanted if isinstance(wanted, list) else [wanted]
            if name == "option":
                if not any(choice in actual for choice in choices):
                    return False
            elif actual not in choices:
                return False
        return True


class Capability(_Offer):
    mode: Mode
    source: str
    checked: date
    confidence: Literal["high", "medium", "low", "unverified"]
    when: list[When] = []

    @model_validator(mode="after")
    def _is_whole(self) -> "Capability":
        for offer in [self, *(self._with(entry) for entry in self.when)]:
            emulated = offer.mode == "emulated"
            worked_out = emulated and offer.certainty  # next_payment has no `how`
            if (offer.how is not None) != emulated and not worked_out:
                raise ValueError("`how` goes with the mode emulated, and only with it")
            if offer.mode == "guided" and not (offer.steps and offer.link):
                raise ValueError("guided needs `steps` and `link`")
        return self

    def _with(self, entry: When) -> "Capability":
        replaced = {
            name: value
            for name in (*_Offer.model_fields, "mode")
            if (value := getattr(entry, name)) is not None
        }
        if replaced.get("mode", self.mode) != "emulated":
            replaced["how"] = None
        return self.model_copy(update={**replaced, "when": []})

    def under(self, circumstances: "Circumstances") -> "Capability":
        """The capability as it stands in these circumstances: the first entry of `when` that holds, else the base."""
        return next((self._with(entry) for entry in self.when if entry.holds(circumstances)), self)

    def shapes(self) -> "list[Capability]":
        """The base and every shape it takes under a condition."""
        return [self, *(self._with(entry) for entry in self.when)]


class Facts(_Strict):
    label: str
    website: _Https
    variants: list[str] | None = None
    currencies: Literal["any"] | list[str]
    amount_unit: Literal["minor", "major"]
    exponents: dict[str, int] = {}
    no_email: list[str] = []
    hosts: Hosts
    credentials: list[Credential]
    options: dict[str, Option] = {}
    webhooks: list[WebhookFact] = []
    backfill: list[BackfillFact] = []
    files: list[FileFact] = []
    sync: SyncFact = _BY_LISTS
    limit: LimitFact | None = None
    capabilities: dict[Key, Capability]

    @model_validator(mode="after")
    def _speaks_of_every_key(self) -> "Facts":
        if missing := set(KEYS) - set(self.capabilities):
            raise ValueError(f"no word on {', '.join(sorted(missing))}")
        for key, capability in self.capabilities.items():
            for shape in capability.shapes():
                if key == "invoice" and shape.mode != "none" and not shape.documents:
                    raise ValueError("invoice lists its `documents`")
                if (
                    key == "change_plan"
                    and shape.mode in ("direct", "hosted", "emulated")
                    and not shape.changes
                ):
                    raise ValueError("change_plan lists what it `changes`")
            for entry in capability.when:
                named = entry.option if isinstance(entry.option, list) else [entry.option]
                if unknown := {name for name in named if name} - set(self.options):
                    raise ValueError(f"{key} names options that are not there: {unknown}")
        return self

    def is_placeholder(self, address: str) -> bool:
        """Whether an address, trimmed and in lower case, is nobody's at this processor."""
        return is_mailbox_of_nobody(address) or address in self.no_email

    def allows_link(self, url: str, addresses: Mapping[str, str] | None = None) -> bool:
        """Whether a customer may be sent to this address: https and a host of `links`, or a simulator's own."""
        return _is_at(url, self.hosts.links, addresses)

    def allows_script(self, url: str, addresses: Mapping[str, str] | None = None) -> bool:
        """The same for a script on the bare page by which a customer leaves: a host of `scripts`."""
        return _is_at(url, self.hosts.scripts, addresses)


def _is_at(url: str, hosts: list[str], addresses: Mapping[str, str] | None) -> bool:
    parts = urlsplit(url)
    if addresses and any(
        (parts.scheme, parts.netloc) == (base.scheme, base.netloc)
        for base in map(urlsplit, addresses.values())
    ):
        return True
    return (
        parts.scheme == "https"
        and "@" not in parts.netloc
        and "\\" not in url
        and parts.netloc.lower() in hosts
    )


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the conditions of a fact are held against."""

    state: str | None = None
    method: str | None = None
    variant: str | None = None
    option: frozenset[str] = frozenset()
    country: str | None = None
    object: str | None = None
    due: bool = False
    token: bool = True


_FOLDER = Path(__file__).parent / "facts"


@cache
def processors() -> tuple[str, ...]:
    """The names of all processors that have a fact table, in order."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


@cache
def facts(processor: str) -> Facts:
    """The facts of one processor; raises ValueError that says what is wrong with the table."""
    return read_facts(_FOLDER / f"{processor}.toml")


# Shops put these where a checkout wants an address and the buyer has none: no person reads them, strangers share them.
_NOBODY = frozenset({"noreply", "no-reply", "no_reply", "donotreply", "do-not-reply", "guest"})


def is_mailbox_of_nobody(address: str) -> bool:
    """Whether an address is nobody's at any processor: `guest@…`, `noreply@…`, or below .invalid, which never is."""
    name, _, host = address.partition("@")
    return name in _NOBODY or host.rpartition(".")[2] == "invalid"


def is_placeholder(address: str) -> bool:
    """The same over all processors, where an address is typed and not told by one of them."""
    return any(facts(name).is_placeholder(address) for name in processors())


def read_facts(path: Path) -> Facts:
    try:
        return Facts.model_validate(tomllib.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def raw_facts(processor: str) -> dict[str, Any]:
    """The table as it stands, for printing."""
    return tomllib.loads((_FOLDER / f"{processor}.toml").read_text())


def disagreements(processor: str, adapter: type) -> list[str]:
    """Where facts and code do not agree, both ways, as sentences; empty when they do."""
    from portal.gateways.base import Gateway

    def has(name: str) -> bool:
        return getattr(adapter, name) is not getattr(Gateway, name)

    table = facts(processor)
    found = []
    for key, names in METHODS.items():
        shapes = table.capabilities[key].shapes()
        ours_alone = any(shape.how in ("keep", "schedule") for shape in shapes)
        by_processor = any(shape.mode in ("direct", "hosted") or shape.how == "calls" for shape in shapes)
        needed = by_processor or (
            key == "cancel_now"
            and any(
                shape.how in ("keep", "schedule")
                for shape in table.capabilities["cancel_at_period_end"].shapes()
            )
        )
        for name in names:
            if needed and not has(name):
                found.append(f"{processor}: the facts offer {key}, the adapter has no {name}")
            if not needed and has(name):
                why = " (shared code does it)" if ours_alone else ""
                found.append(f"{processor}: the adapter has {name}, the facts do not offer {key}{why}")
    documents = {
        document for shape in table.capabilities["invoice"].shapes() for document in shape.documents or []
    }
    if ("processor" in documents) != has("invoice_document"):
        found.append(f"{processor}: `documents` and invoice_document do not agree")
    if (table.sync.by == "events") != has("kept_events"):
        found.append(f"{processor}: `sync.by` and kept_events do not agree")
    reads: Any = getattr(adapter, "read_file", None)
    none: Any = Gateway.read_file
    if bool(table.files) != (reads is not None and reads.__func__ is not none.__func__):
        found.append(f"{processor}: `files` and read_file do not agree")
    return found + _webhook_disagreements(processor, table, has)


def _webhook_disagreements(processor: str, table: Facts, has: Callable[[str], bool]) -> list[str]:
    registers = any(fact.registration == "api" for fact in table.webhooks)
    offered = {"register_webhook": registers, "unregister_webhook": registers}
    offered["send_test_event"] = any(fact.test_event for fact in table.webhooks)
    found = []
    for name, offers in offered.items():
        told = "test_event = true" if name == "send_test_event" else 'registration = "api"'
        if offers and not has(name):
            found.append(f"{processor}: the facts say {told}, the adapter has no {name}")
        if not offers and has(name):
            found.append(f"{processor}: the adapter has {name}, no webhook of the facts says {told}")
    if not registers and any(field.from_webhook for field in table.credentials):
        found.append(f"{processor}: a field comes out of a registration that no webhook has")
    return found
