"""Settings > Processors: the accounts of a portal, connecting one by a form made from the facts, its health, keys,
webhook and switches, disconnecting it, and the matrix of what customers see."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy.orm import Session
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import accounts, clock, matrix, merchants, models, render, work
from portal.accounts import Change, Checked, Field, Late, New, Twin, Typed
from portal.gateways import facts, processors
from portal.gateways.capabilities import Facts, WebhookFact
from portal.ids import id_text
from portal.offers import SENSE
from portal.texts import gettext as _
from portal.vault import Vault

LOOKS_FOR = timedelta(minutes=2)  # after a test event was asked for
_DONE = {
    "connected": lambda: _("Connected. Everything that the processor lists is being read in now."),
    "connected_later": lambda: _(
        "Saved. The processor did not answer, so the keys are checked as soon as it does."
    ),
    "moved": lambda: _(
        "Connected. The webhook address is another one than the form showed: take it from here."
    ),
    "unregistered": lambda: _("Connected. The webhook is not registered yet: see below."),
    "registered": lambda: _("Connected, and the webhook is registered. Everything is being read in now."),
    "webhook": lambda: _("The webhook is registered."),
    "keys": lambda: _("The new keys are in use."),
    "keys_later": lambda: _(
        "The new keys are saved. The processor did not answer; they are checked as soon as it does."
    ),
    "back": lambda: _("Connected again. Everything that the processor lists is being read in now."),
    "saved": lambda: _("Saved."),
    "checked": lambda: _("Checked just now."),
    "gone": lambda: _("Disconnected. The keys are forgotten; what is known stays."),
    "gone_webhook": lambda: _(
        "Disconnected. The keys are forgotten. The webhook could not be taken away: remove it in the processor's "
        "dashboard."
    ),
}


def _said(request: Request) -> str | None:
    """The sentence for a known word in the address; nothing of the address itself is ever shown."""
    said = _DONE.get(request.query_params.get("done", ""))
    return said() if said else None


def _here(request: Request, path: str = "") -> str:
    return f"/settings/portals/{id_text(request.state.site.id)}/processors{path}"


# The list


@dataclass(frozen=True, slots=True)
class Connectable:
    """A processor of the registry."""

    name: str
    label: str
    website: str
    currencies: str
    connected: int


@merchants.in_portal("viewer")
async def index(request: Request) -> Response:
    """The accounts of the portal, and every processor that can be connected."""
    rows = await request.app.state.database.read(accounts.listed, request.state.site.id)
    labels = [row.processor for row in rows if not row.disconnected]
    return render.settings(
        request,
        "settings/processors.html",
        _("Processors"),
        "processors",
        rows=rows,
        here=_here(request),
        connectable=[_connectable(name, labels) for name in processors()],
    )


def _connectable(name: str, labels: list[str]) -> Connectable:
    table = facts(name)
    currencies = _("any currency") if table.currencies == "any" else ", ".join(table.currencies)
    return Connectable(name, table.label, table.website, currencies, labels.count(table.label))


# Connecting


@dataclass(frozen=True, slots=True)
class Box:
    """A field as it is drawn: a secret is never drawn, only that it is kept."""

    field: Field
    value: str = ""
    kept: str = ""  # what may be seen of a secret that travels along, sealed
    now: str = ""  # what may be seen of what is in use
    required: bool = False

    @property
    def name(self) -> str:
        return f"key_{self.field.name}"


@dataclass(frozen=True, slots=True)
class Draft:
    """The form of an account as somebody has it in front of them."""

    processor: str
    table: Facts
    variant: str | None
    typed: Typed
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    register: bool = True

    @property
    def registers(self) -> bool:
        return accounts.registers(self.processor, self.variant)

    @property
    def what(self) -> str:
        """What the sealed secrets are bound to."""
        return f"new/{self.processor}/{self.variant}"


Offer = Literal["", "later", "despite", "another", "confirm"]


@merchants.in_portal("owner", fresh=True)
async def new(request: Request) -> Response:
    """The form; where there are several kinds of account, first which one."""
    draft = _draft(request, request.query_params.get("variant"))
    return await _draw_new(request, draft, {})


def _draft(request: Request, variant: str | None) -> Draft:
    name = request.path_params["processor"]
    if name not in processors():
        raise HTTPException(404)
    table = facts(name)
    known = variant if variant in (table.variants or ()) else None
    return Draft(name, table, known, Typed("", None, {}))


@merchants.in_portal("owner")
async def connect(request: Request) -> Response:
    """Ask the processor with these keys before anything is kept; who has to confirm first keeps what they typed."""
    form = await request.form(max_files=0, max_fields=40)
    draft = _filled(request, form, _draft(request, _text(form, "variant")))
    if draft.table.variants and draft.variant is None:
        return await _draw_new(request, draft, {"variant": _("Choose the kind of account.")})
    if not _is_fresh(request):
        return await _draw_new(request, draft, {"form": _confirm_sentence()}, "confirm")
    registers = draft.registers and draft.register
    wrong = accounts.problems(draft.processor, draft.variant, draft.typed, registers)
    if wrong:
        return await _draw_new(request, draft, wrong)
    settings = request.app.state.settings
    result = await accounts.check(settings, draft.processor, draft.variant, draft.typed.values)
    wrong, offer = _refusal(draft.table.label, result, draft.typed.live, _text(form, "do"))
    if wrong:
        return await _draw_new(request, draft, wrong, offer)
    twin = await _twin(request, draft, result)
    if twin is not None and (twin.certain or _text(form, "another") != "1"):
        return await _draw_new(request, draft, {"form": _twin_sentence(twin)}, "another", twin)
    return await _save_new(request, draft, result)


def _text(form: FormData, name: str, most: int = 200) -> str:
    value = form.get(name, "")
    return value.strip()[:most] if isinstance(value, str) else ""


def _filled(request: Request, form: FormData, draft: Draft) -> Draft:
    """The form as it came back, with the secrets that travelled along in it."""
    values, hidden = _values(request, form, accounts.fields(draft.processor, draft.variant), draft.what)
    live = {"live": True, "test": False}.get(_text(form, "live"))
    typed = Typed(_text(form, "label", 80), live, values)
    return Draft(draft.processor, draft.table, draft.variant, typed, hidden, _text(form, "register") == "1")


def _values(
    request: Request, form: FormData, fields: tuple[Field, ...], what: str
) -> tuple[dict[str, str], dict[str, str]]:
    """What was typed, or was typed before and is kept; and the secrets among it."""
    state = request.state
    kept = accounts.kept(
        request.app.state.seal, state.person, state.site.id, what, _text(form, "kept", 40_000)
    )
    values = {}
    for one in fields:
        raw = form.get(f"key_{one.name}", "")
        value = accounts.tidy(raw) if isinstance(raw, str) else ""
        if value := value or (kept.get(one.name, "") if one.secret else ""):
            values[one.name] = value
    return values, {one.name: values[one.name] for one in fields if one.secret and one.name in values}


def _is_fresh(request: Request) -> bool:
    person: merchants.Person = request.state.person
    return clock.now() - person.proved_at <= merchants.FRESH


def _confirm_sentence() -> str:
    return _("Confirm first that it is you. What you typed is kept in this form for 15 minutes.")


def _refusal(label: str, result: Checked, live: bool | None, wish: str) -> tuple[dict[str, str], Offer]:
    """What keeps these keys from being saved, and what may be done all the same."""
    health = result.health
    if health is None:
        if wish == "later":
            return {}, ""
        sentence = _("{label} does not answer: {why} Nothing is saved yet.")
        return {"form": sentence.format(label=label, why=result.sentence)}, "later"
    if health.live is not None and live is not None and health.live != live:
        if live:
            return {"live": _("This is a test key, you chose live.")}, ""
        return {"live": _("This is a live key, you chose test.")}, ""
    if health.ok:
        return {}, ""
    if health.missing:
        if wish == "despite":
            return {}, ""
        sentence = _("The keys work, but may not do everything. Missing: {missing}. {hint}")
        return {
            "form": sentence.format(missing=", ".join(health.missing), hint=health.hint or "").strip()
        }, "despite"
    sentence = _("{label} does not accept this: {why}")
    return {"form": sentence.format(label=label, why=health.hint or _("the keys are refused."))}, ""


async def _twin(request: Request, draft: Draft, result: Checked) -> Twin | None:
    found: Twin | None = await request.app.state.database.read(
        accounts.twin,
        request.app.state.vault,
        request.state.site.id,
        draft.processor,
        draft.variant,
        draft.typed.values,
        result.health,
    )
    return found


def _twin_sentence(twin: Twin) -> str:
    if twin.disconnected:
        sentence = _(
            "This seems to be “{name}”, which was disconnected. Connect it again there: its history stays one."
        )
    elif twin.certain:
        sentence = _("These keys are connected already, as “{name}”.")
    else:
        sentence = _(
            "This seems to be the account that is connected as “{name}”. Customers would see everything twice."
        )
    return sentence.format(name=twin.label)


async def _save_new(request: Request, draft: Draft, result: Checked) -> Response:
    state = request.app.state
    token = await state.database.read(
        accounts.coming_token, state.seal, request.state.site.id, draft.processor
    )
    live = draft.typed.live
    assert live is not None
    wanted = New(
        draft.processor, draft.variant, draft.typed.label, live, token, draft.typed.values, result.health
    )
    done = "connected" if result.health is not None else "connected_later"
    try:
        made = await _write_new(request, wanted)
    except Late:  # the form was sent twice, or somebody else has just connected one
        twin = await _twin(request, draft, result)
        if twin is not None:
            return await _draw_new(request, draft, {"form": _twin_sentence(twin)}, "another", twin)
        token, done = secrets.token_urlsafe(24), "moved"
        made = await _write_new(
            request,
            New(wanted.processor, wanted.variant, wanted.label, live, token, wanted.values, wanted.health),
        )
    work.nudge()
    if draft.registers and draft.register and result.health is not None:
        account = await state.database.read(accounts.get, request.state.site.id, made)
        registered, _why = await _register(request, account)
        done = "registered" if registered else "unregistered"
    return render.see_other(request, _here(request, f"/{id_text(made)}?done={done}"))


async def _write_new(request: Request, wanted: New) -> int:
    state = request.app.state
    made: int = await state.database.write(
        accounts.connect, state.vault, request.state.person, request.state.site.id, wanted, clock.now()
    )
    return made


async def _draw_new(
    request: Request,
    draft: Draft,
    problems: dict[str, str],
    offer: Offer = "",
    twin: Twin | None = None,
) -> Response:
    state, site = request.app.state, request.state.site
    if draft.table.variants and draft.variant is None:
        boxes: list[Box] = []
    else:
        boxes = [_box(one, draft) for one in accounts.fields(draft.processor, draft.variant)]
    token = await state.database.read(accounts.coming_token, state.seal, site.id, draft.processor)
    return render.settings(
        request,
        "settings/processor_new.html",
        _("Connect {label}").format(label=draft.table.label),
        "processors",
        422 if problems else 200,
        problems=problems,
        draft=draft,
        boxes=boxes,
        kept=accounts.keep(state.seal, request.state.person, site.id, draft.what, draft.secrets),
        offer=offer,
        twin=twin,
        here=_here(request),
        address=accounts.webhook_address(state.settings, token),
        ways=_ways(draft.processor, draft.variant),
        kinds=[(kind, kind) for kind in draft.table.variants or ()],
        live={True: "live", False: "test", None: ""}[draft.typed.live],
        confirm=_confirm_url(request),
    )


def _box(one: Field, draft: Draft) -> Box:
    value = draft.typed.values.get(one.name, "")
    needed = one.required and not (one.from_webhook and draft.registers)
    if one.secret:
        return Box(one, kept=accounts.masked(value) if value else "", required=needed and not value)
    return Box(one, value, required=needed)


def _confirm_url(request: Request) -> str:
    return f"{merchants.CONFIRM}?next={_here(request)}"


@dataclass(frozen=True, slots=True)
class Way:
    """One sort of webhook of a processor: how it gets our address, and what its deliveries are worth."""

    fact: WebhookFact
    how: str
    proves: str


def _ways(processor: str, variant: str | None) -> list[Way]:
    label = facts(processor).label
    how = {
        "api": _("The portal can give {label} this address by itself."),
        "dashboard": _("Give {label} this address in its dashboard."),
        "per_object": _("There is nothing to register: {label} takes an address with each order or payment."),
    }
    proves = {
        "body": _("Every delivery is signed as a whole."),
        "fields": _("A part of each delivery is signed; the rest is asked for again."),
        "origin": _("Deliveries show a secret, and say nothing sure: everything is asked for again."),
        "nothing": _("Deliveries are not signed: they only make the portal look."),
    }
    return [
        Way(one, how[one.registration].format(label=label), proves[one.proves])
        for one in accounts.webhook_facts(processor, variant)
    ]


# Managing one


@dataclass(frozen=True, slots=True)
class Managed:
    """An account with what its page shows."""

    account: models.Account
    keys: tuple[tuple[Field, str], ...]
    events: tuple[accounts.EventRow, ...]
    note: str  # what is left to do by hand after a registration
    importing: bool


def _managed(db: Session, vault: Vault, portal_id: int, account_id: int) -> Managed | None:
    account = accounts.get(db, portal_id, account_id)
    if account is None:
        return None
    return Managed(
        account,
        tuple(accounts.shown_keys(account, vault)),
        tuple(accounts.last_events(db, account_id)),
        accounts.webhook_note(db, account_id),
        db.get(models.Setting, f"backfill:{account_id}") is not None,
    )


async def _account(request: Request) -> models.Account:
    """The account of the address, found through the portal; 404 where it is none of its."""
    found: models.Account | None = await request.app.state.database.read(
        accounts.get, request.state.site.id, request.path_params["account_id"]
    )
    if found is None:
        raise HTTPException(404)
    return found


@merchants.in_portal("viewer")
async def show(request: Request) -> Response:
    return await _show(request, said=_said(request))


@dataclass(frozen=True, slots=True)
class Switches:
    """What the form of an account holds: its name, options and what is taken away."""

    label: str
    options: frozenset[str]
    switched_off: frozenset[str]
    version: int


async def _show(
    request: Request,
    problems: dict[str, str] | None = None,
    said: str | None = None,
    switches: Switches | None = None,
    notes: tuple[str, ...] = (),
) -> Response:
    state, site = request.app.state, request.state.site
    found: Managed | None = await state.database.read(
        _managed, state.vault, site.id, request.path_params["account_id"]
    )
    if found is None:
        raise HTTPException(404)
    account = found.account
    table = facts(account.processor)
    shown = switches or Switches(
        account.label, frozenset(account.options), frozenset(account.switched_off), account.version
    )
    names = matrix.names()
    return render.settings(
        request,
        "settings/processor.html",
        account.label,
        "processors",
        422 if problems else 200,
        problems=problems or {},
        said=said,
        notes=notes,
        found=found,
        account=account,
        table=table,
        standing=accounts.standing(account),
        here=_here(request, f"/{id_text(account.id)}"),
        list_url=_here(request),
        address=accounts.webhook_address(state.settings, account.token),
        ways=_ways(account.processor, account.variant),
        webhook=accounts.webhook_words(account, found.events[0].received_at if found.events else None),
        registers=accounts.registers(account.processor, account.variant),
        tests=any(one.test_event for one in accounts.webhook_facts(account.processor, account.variant)),
        switches=shown,
        wishes=[(key, names[key]) for key in _switchable(table, account.variant)],
        looks=_looks(request, found.events),
    )


def _switchable(table: Facts, variant: str | None) -> list[Any]:
    """The wishes that this processor can fulfil in some way: others need no switch."""
    found = []
    for key in accounts.SWITCHES:
        shapes = table.capabilities[key].shapes()
        whens = [None, *table.capabilities[key].when]
        for shape, when in zip(shapes, whens, strict=True):
            of_kind = when is None or when.variant is None or variant in _listed(when.variant)
            if of_kind and shape.mode != "none":
                found.append(key)
                break
    return found


def _listed(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]


@merchants.in_portal("editor")
async def change(request: Request) -> Response:
    """Name, options and switches. Who comes second is told what the first one changed, and keeps their own choice."""
    account = await _account(request)
    form = await request.form(max_files=0, max_fields=80)
    version = _text(form, "version")
    typed = Switches(
        _text(form, "label", 80),
        frozenset(str(one) for one in form.getlist("option")),
        frozenset(accounts.SWITCHES) - {str(one) for one in form.getlist("allow")} - _unasked(account),
        int(version) if version.isdigit() else 0,
    )
    if not typed.label:
        sentence = _("Give it a name, so that you can tell your accounts apart.")
        return await _show(request, {"label": sentence}, switches=typed)
    try:
        await request.app.state.database.write(
            accounts.change,
            request.state.person,
            request.state.site.id,
            account.id,
            typed.version,
            typed.label,
            typed.options,
            typed.switched_off,
        )
    except Late:
        return await _late(request, typed)
    return render.see_other(request, _here(request, f"/{id_text(account.id)}?done=saved"))


def _unasked(account: models.Account) -> frozenset[str]:
    """The wishes for which the form shows no switch."""
    return frozenset(accounts.SWITCHES) - set(_switchable(facts(account.processor), account.variant))


async def _late(request: Request, typed: Switches) -> Response:
    account = await _account(request)
    sentence = await _late_sentence(request, account)
    fresh = Switches(typed.label, typed.options, typed.switched_off, account.version)
    return await _show(request, {"form": sentence}, switches=fresh)


async def _late_sentence(request: Request, account: models.Account) -> str:
    """Who was first, when, and what they changed."""
    site = request.state.site
    last: models.Audit | None = await request.app.state.database.read(
        accounts.last_change, request.state.person, site.id, account.label
    )
    if last is None:
        return _("This has changed meanwhile. Look at it once more, and save again to keep yours.")
    sentence = _("{who} changed this at {time}: {what}. Look at it, and save again to keep yours.")
    time = render.formats(site.locale, site.time_zone).time(last.at).striptags()
    return sentence.format(who=last.who, time=time, what=_what_changed(last, facts(account.processor)))


def _what_changed(last: models.Audit, table: Facts) -> str:
    """The changed fields of a record, before and after, in the words of the page."""
    before, after = last.before or {}, last.after or {}
    names: dict[str, str] = {
        "label": _("Name"),
        "options": _("Options"),
        "switched_off": _("Switched off"),
    }
    parts = [
        f"{names.get(name, name)}: {_in_words(before.get(name), table)} → {_in_words(after.get(name), table)}"
        for name in dict.fromkeys((*before, *after))
    ]
    return "; ".join(parts) or last.what


def _in_words(value: Any, table: Facts) -> str:
    if isinstance(value, list):
        wishes: Mapping[str, str] = {str(key): name for key, name in matrix.names().items()}
        words = [table.options[one].label if one in table.options else wishes.get(one, one) for one in value]
        return ", ".join(words) or "–"
    return f"“{value}”" if value else "–"


@merchants.in_portal("editor")
async def check(request: Request) -> Response:
    """Ask the processor now."""
    account = await _connected(request)
    state = request.app.state
    credentials = state.vault.open(account.portal_id, account.id, account.credentials)
    result = await accounts.check(state.settings, account.processor, account.variant, credentials)
    await state.database.write(accounts.noted, account.id, result, clock.now())
    work.nudge()
    return render.see_other(request, _here(request, f"/{id_text(account.id)}?done=checked"))


async def _connected(request: Request) -> models.Account:
    """An account that is not disconnected; one that is has no such page."""
    account = await _account(request)
    if account.disconnected_at is not None:
        raise HTTPException(404)
    return account


# The webhook


@merchants.in_portal("owner", fresh=True)
async def register(request: Request) -> Response:
    """Have the processor tell our address everything."""
    account = await _connected(request)
    if not accounts.registers(account.processor, account.variant):
        raise HTTPException(404)
    done, why = await _register(request, account)
    if not done:
        sentence = _("{label} did not register it: {why}")
        label = facts(account.processor).label
        return await _show(request, {"form": sentence.format(label=label, why=why)})
    return render.see_other(request, _here(request, f"/{id_text(account.id)}?done=webhook"))


async def _register(request: Request, account: models.Account) -> tuple[bool, str]:
    state = request.app.state
    done, why = await accounts.register(state.settings, state.vault, account)
    if done is None:
        return False, why
    await state.database.write(
        accounts.registered,
        state.vault,
        request.state.person,
        request.state.site.id,
        account.id,
        done,
        clock.now(),
    )
    return True, ""


@merchants.in_portal("editor")
async def test_event(request: Request) -> Response:
    """Ask for a delivery that changes nothing; the page then waits for it."""
    account = await _connected(request)
    state = request.app.state
    asked_at = int(clock.now().timestamp())
    outcome, words = await accounts.ask_for_test(state.settings, state.vault, account)
    if outcome == "refused":
        sentence = _("{label} sent no test event: {why}")
        label = facts(account.processor).label
        return await _show(request, {"form": sentence.format(label=label, why=words)})
    return render.see_other(request, _here(request, f"/{id_text(account.id)}?asked={asked_at}#events"))


@dataclass(frozen=True, slots=True)
class Looks:
    """A test event was asked for: whether it has come, and whether to look again."""

    asked: int
    arrived: datetime | None
    again: bool


def _looks(request: Request, events: tuple[accounts.EventRow, ...]) -> Looks | None:
    raw = request.query_params.get("asked", "")
    if not raw.isdigit() or len(raw) > 12:
        return None
    since = datetime.fromtimestamp(int(raw), UTC)
    now = clock.now()
    if not now - timedelta(hours=1) < since <= now:
        return None
    arrived = min((one.received_at for one in events if one.received_at >= since), default=None)
    return Looks(int(raw), arrived, arrived is None and now - since < LOOKS_FOR)


@merchants.in_portal("viewer")
async def events(request: Request) -> Response:
    """The last events alone, for the page that waits for one."""
    account = await _account(request)
    rows = tuple(await request.app.state.database.read(accounts.last_events, account.id))
    return render.page(
        request,
        "partials/settings/processor_events.html",
        events=rows,
        looks=_looks(request, rows),
        here=_here(request, f"/{id_text(account.id)}"),
        site=request.state.site,
    )


# Changing keys


@merchants.in_portal("owner", fresh=True)
async def keys(request: Request) -> Response:
    account = await _account(request)
    return await _draw_keys(request, account, {}, {}, {})


@dataclass(frozen=True, slots=True)
class _NewKeys:
    """What came of the form of new keys."""

    change: Change
    secrets: Mapping[str, str]
    overlap: int
    version: int


@merchants.in_portal("owner")
async def rotate(request: Request) -> Response:
    """New values for one or several fields, asked of the processor before the old ones go."""
    account = await _account(request)
    form = await request.form(max_files=0, max_fields=60)
    typed = _new_keys(request, form, account)
    if not _is_fresh(request):
        wrong = {"form": _confirm_sentence()}
        return await _draw_keys(request, account, typed.change.values, typed.secrets, wrong, "confirm")
    state = request.app.state
    before = state.vault.open(account.portal_id, account.id, account.credentials)
    after = typed.change.onto(before)
    wrong = _wrong_keys(account, typed.change, before, after)
    if wrong:
        return await _draw_keys(request, account, typed.change.values, typed.secrets, wrong)
    result = await accounts.check(state.settings, account.processor, account.variant, after)
    wrong, offer = _refusal(facts(account.processor).label, result, account.live, _text(form, "do"))
    if "live" in wrong:
        wrong = {"form": _other_mode(account)}
    if not wrong and (name := _other_account(account, result)) and _text(form, "another") != "1":
        wrong, offer = {"form": name}, "another"
    if wrong:
        return await _draw_keys(request, account, typed.change.values, typed.secrets, wrong, offer)
    return await _save_keys(request, account, typed, result)


def _new_keys(request: Request, form: FormData, account: models.Account) -> _NewKeys:
    fields = accounts.fields(account.processor, account.variant)
    values, hidden = _values(request, form, fields, _keys_of(account))
    emptied = {str(one) for one in form.getlist("remove")}
    removed = {one.name for one in fields if one.name in emptied and not one.required}
    hours, version = _text(form, "overlap"), _text(form, "version")
    return _NewKeys(
        Change(values, frozenset(removed - set(values))),
        hidden,
        int(hours) if hours.isdigit() and int(hours) in accounts.OVERLAPS else 24,
        int(version) if version.isdigit() else 0,
    )


def _keys_of(account: models.Account) -> str:
    return f"keys/{account.id}"


def _wrong_keys(
    account: models.Account, change: Change, before: Mapping[str, str], after: Mapping[str, str]
) -> dict[str, str]:
    wrong = accounts.problems(
        account.processor, account.variant, Typed("", None, change.values), registers=True, partly=True
    )
    if account.disconnected_at is not None:
        whole = Typed(account.label, account.live, after)
        registers = accounts.registers(account.processor, account.variant)
        wrong = accounts.problems(account.processor, account.variant, whole, registers)
    elif not wrong and after == dict(before):
        wrong = {"form": _("Nothing is changed: type at least one new value.")}
    return wrong


def _other_mode(account: models.Account) -> str:
    if account.live:
        return _(
            "These are test keys, and “{name}” is live. Connect them as an account of their own."
        ).format(name=account.label)
    return _(
        "These are live keys, and “{name}” is for tests. Connect them as an account of their own."
    ).format(name=account.label)


def _other_account(account: models.Account, result: Checked) -> str:
    """A sentence where the processor names another account for the new keys than for the old ones."""
    was = (account.health or {}).get("account")
    named = result.health.account if result.health else None
    if not was or not named or was == named:
        return ""
    sentence = _("{label} says that these keys are of “{new}”, and the ones before were of “{old}”.")
    return sentence.format(label=facts(account.processor).label, new=named, old=was)


async def _save_keys(request: Request, account: models.Account, typed: _NewKeys, result: Checked) -> Response:
    state = request.app.state
    back = account.disconnected_at is not None
    try:
        await state.database.write(
            accounts.rotate,
            state.vault,
            request.state.person,
            request.state.site.id,
            account.id,
            typed.version,
            typed.change,
            timedelta(hours=typed.overlap),
            result,
            clock.now(),
        )
    except Late:
        account = await _account(request)
        wrong = {"form": await _late_sentence(request, account)}
        return await _draw_keys(request, account, typed.change.values, typed.secrets, wrong)
    work.nudge()
    done = "back" if back else "keys" if result.health is not None else "keys_later"
    return render.see_other(request, _here(request, f"/{id_text(account.id)}?done={done}"))


async def _draw_keys(
    request: Request,
    account: models.Account,
    values: Mapping[str, str],
    hidden: Mapping[str, str],
    problems: dict[str, str],
    offer: Offer = "",
) -> Response:
    state = request.app.state
    back = account.disconnected_at is not None
    shown = accounts.shown_keys(account, state.vault)
    kept = accounts.keep(state.seal, request.state.person, request.state.site.id, _keys_of(account), hidden)
    until = account.previous_until
    return render.settings(
        request,
        "settings/processor_keys.html",
        (_("Connect {name} again") if back else _("Change the keys of {name}")).format(name=account.label),
        "processors",
        422 if problems else 200,
        problems=problems,
        account=account,
        table=facts(account.processor),
        back=back,
        boxes=[
            Box(
                one,
                "" if one.secret else values.get(one.name, ""),
                accounts.masked(hidden[one.name]) if one.name in hidden else "",
                now,
                back and one.required and one.name not in hidden,
            )
            for one, now in shown
        ],
        kept=kept,
        offer=offer,
        overlaps=[(str(hours), _overlap_words(hours)) for hours in accounts.OVERLAPS],
        still_old=until if until and until > clock.now() else None,
        here=_here(request, f"/{id_text(account.id)}"),
        confirm=_confirm_url(request),
    )


def _overlap_words(hours: int) -> str:
    return {
        0: _("Not at all: they are known to others"),
        1: _("1 hour"),
        24: _("24 hours"),
        72: _("72 hours"),
    }[hours]


# Disconnecting


@merchants.in_portal("owner", fresh=True)
async def ask_disconnect(request: Request) -> Response:
    """What customers lose."""
    account = await _connected(request)
    state = request.app.state
    sheets = await state.database.read(
        matrix.sheets, request.state.site.id, state.settings.base_domain, clock.now(), account.id
    )
    waiting = await state.database.read(accounts.waiting, account.id)
    return render.settings(
        request,
        "settings/processor_disconnect.html",
        _("Disconnect {name}").format(name=account.label),
        "processors",
        account=account,
        table=facts(account.processor),
        sheet=sheets[0],
        lost=[cell for cell in sheets[0].cells if cell.key in SENSE and cell.seen],
        waiting=waiting,
        here=_here(request, f"/{id_text(account.id)}"),
    )


@merchants.in_portal("owner", fresh=True)
async def disconnect(request: Request) -> Response:
    account = await _connected(request)
    state = request.app.state
    removed = await accounts.unregister(state.settings, state.vault, account)
    await state.database.write(
        accounts.disconnect,
        state.vault,
        request.state.person,
        request.state.site.id,
        account.id,
        clock.now(),
    )
    work.nudge()
    done = "gone" if removed else "gone_webhook"
    return render.see_other(request, _here(request, f"/{id_text(account.id)}?done={done}"))


# The matrix


@merchants.in_portal("viewer")
async def show_matrix(request: Request) -> Response:
    """Which buttons customers see, and why not; and what would change with an option."""
    state, site = request.app.state, request.state.site
    base = state.settings.base_domain
    sheets = await state.database.read(matrix.sheets, site.id, base, clock.now())
    account_id, option = request.query_params.get("account", ""), request.query_params.get("option", "")
    compared = None
    for sheet in sheets:
        choice = next((one for one in sheet.choices if one.name == option), None)
        if id_text(sheet.account_id) == account_id and choice is not None:
            found = await state.database.read(
                matrix.preview, site.id, base, sheet.account_id, option, clock.now()
            )
            compared = (sheet, choice, found)
    return render.settings(
        request,
        "settings/processors_matrix.html",
        _("What customers can do"),
        "processors",
        sheets=sheets,
        names=matrix.names(),
        compared=compared,
        here=_here(request),
    )
