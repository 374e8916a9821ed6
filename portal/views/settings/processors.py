"""Settings > Processors: the list, connecting one by a form made from the facts, and the matrix of all accounts."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import accounts, clock, matrix, merchants, models, render, work
from portal.accounts import Checked, Field, Late, New, Twin, Typed
from portal.gateways import facts, processors
from portal.gateways.capabilities import Facts, WebhookFact
from portal.ids import id_text
from portal.texts import gettext as _


def here(request: Request, path: str = "") -> str:
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
        here=here(request),
        connectable=[_connectable(name, labels) for name in processors()],
    )


def _connectable(name: str, labels: list[str]) -> Connectable:
    table = facts(name)
    currencies = _("Any currency") if table.currencies == "any" else ", ".join(table.currencies)
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
    draft = _filled(request, form, _draft(request, text(form, "variant")))
    if draft.table.variants and draft.variant is None:
        return await _draw_new(request, draft, {"variant": _("Choose the kind of account.")})
    if not is_fresh(request):
        return await _draw_new(request, draft, {"form": confirm_sentence()}, "confirm")
    registers = draft.registers and draft.register
    wrong = accounts.problems(draft.processor, draft.variant, draft.typed, registers)
    if wrong:
        return await _draw_new(request, draft, wrong)
    settings = request.app.state.settings
    result = await accounts.check(settings, draft.processor, draft.variant, draft.typed.values)
    wrong, offer = refusal(draft.table.label, result, draft.typed.live, text(form, "do"))
    if wrong:
        return await _draw_new(request, draft, wrong, offer)
    twin = await _twin(request, draft, result)
    if twin is not None and (twin.certain or text(form, "another") != "1"):
        return await _draw_new(request, draft, {"form": _twin_sentence(twin)}, "another", twin)
    return await _save_new(request, draft, result)


def text(form: FormData, name: str, most: int = 200) -> str:
    value = form.get(name, "")
    return value.strip()[:most] if isinstance(value, str) else ""


def _filled(request: Request, form: FormData, draft: Draft) -> Draft:
    """The form as it came back, with the secrets that travelled along in it."""
    values, hidden = typed_values(request, form, accounts.fields(draft.processor, draft.variant), draft.what)
    live = {"live": True, "test": False}.get(text(form, "live"))
    typed = Typed(text(form, "label", 80), live, values)
    return Draft(draft.processor, draft.table, draft.variant, typed, hidden, text(form, "register") == "1")


def typed_values(
    request: Request, form: FormData, fields: tuple[Field, ...], what: str
) -> tuple[dict[str, str], dict[str, str]]:
    """What was typed, or was typed before and is kept; and the secrets among it."""
    state = request.state
    kept = accounts.kept(
        request.app.state.seal, state.person, state.site.id, what, text(form, "kept", 40_000)
    )
    values = {}
    for one in fields:
        raw = form.get(f"key_{one.name}", "")
        value = accounts.tidy(raw) if isinstance(raw, str) else ""
        if value := value or (kept.get(one.name, "") if one.secret else ""):
            values[one.name] = value
    return values, {one.name: values[one.name] for one in fields if one.secret and one.name in values}


def is_fresh(request: Request) -> bool:
    person: merchants.Person = request.state.person
    return clock.now() - person.proved_at <= merchants.FRESH


def confirm_sentence() -> str:
    return _("Confirm first that it is you. What you typed is kept in this form for 15 minutes.")


def refusal(label: str, result: Checked, live: bool | None, wish: str) -> tuple[dict[str, str], Offer]:
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
    lists = accounts.lists(draft.processor, draft.variant)
    done = "connected_later" if result.health is None else "connected" if lists else "connected_quiet"
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
        registered, _why = await register_webhook(request, account)
        done = "registered" if registered else "unregistered"
    return render.see_other(request, here(request, f"/{id_text(made)}?done={done}"))


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
        boxes = [_box(one, draft, problems) for one in accounts.fields(draft.processor, draft.variant)]
    token = await state.database.read(accounts.coming_token, state.seal, site.id, draft.processor)
    kept = worth_keeping(draft.secrets, problems)
    return render.settings(
        request,
        "settings/processor_new.html",
        _("Connect {label}").format(label=draft.table.label),
        "processors",
        422 if problems else 200,
        problems=problems,
        draft=draft,
        boxes=boxes,
        kept=accounts.keep(state.seal, request.state.person, site.id, draft.what, kept),
        offer=offer,
        twin=twin,
        here=here(request),
        address=accounts.webhook_address(state.settings, token),
        ways=ways(draft.processor, draft.variant),
        kinds=[(kind, kind) for kind in draft.table.variants or ()],
        live={True: "live", False: "test", None: ""}[draft.typed.live],
        confirm=confirm_url(request),
    )


def worth_keeping(secrets: Mapping[str, str], problems: Mapping[str, str]) -> dict[str, str]:
    """The secrets that travel along; one of the wrong shape has to be copied once more anyway."""
    return {name: value for name, value in secrets.items() if f"key_{name}" not in problems}


def _box(one: Field, draft: Draft, problems: Mapping[str, str]) -> Box:
    needed = one.required and not (one.from_webhook and draft.registers)
    if not one.secret:
        return Box(one, draft.typed.values.get(one.name, ""), required=needed)
    value = worth_keeping(draft.secrets, problems).get(one.name, "")
    return Box(one, kept=accounts.masked(value) if value else "", required=needed and not value)


def confirm_url(request: Request) -> str:
    return f"{merchants.CONFIRM}?next={here(request)}"


@dataclass(frozen=True, slots=True)
class Way:
    """One sort of webhook of a processor: how it gets our address, and what its deliveries are worth."""

    fact: WebhookFact
    how: str
    proves: str


def ways(processor: str, variant: str | None) -> list[Way]:
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


async def register_webhook(request: Request, account: models.Account) -> tuple[bool, str]:
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
        shown=request.query_params.get("show") or account_id,
        here=here(request),
    )
