"""Settings > Processors > one account: its health, keys, webhook and switches, and disconnecting it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import accounts, clock, imports, matrix, merchants, models, render, work
from portal.accounts import Change, Checked, Field, Late, Typed
from portal.gateways import facts
from portal.gateways.capabilities import Facts
from portal.ids import id_text
from portal.offers import SENSE
from portal.texts import gettext as _
from portal.vault import Vault
from portal.views.settings.processors import (
    Box,
    Offer,
    confirm_sentence,
    confirm_url,
    here,
    is_fresh,
    refusal,
    register_webhook,
    text,
    typed_values,
    ways,
    worth_keeping,
)

LOOKS_FOR = timedelta(minutes=2)  # after a test event was asked for
_DONE = {
    "connected_quiet": lambda: _(
        "Connected. The processor lists nothing of the past: what is new comes by its webhook."
    ),
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
    "reading": lambda: _("Everything that the processor lists is being read in."),
    "stopping": lambda: _("It stops. What was read in stays."),
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


@dataclass(frozen=True, slots=True)
class Managed:
    """An account with what its page shows."""

    account: models.Account
    keys: tuple[tuple[Field, str], ...]
    locked: bool  # no key of the ring opens them any more
    events: tuple[accounts.EventRow, ...]
    repeated_at: datetime | None  # when a known event came once more
    note: str  # what is left to do by hand after a registration
    run: models.ImportRun | None  # the last reading-in


def _managed(db: Session, vault: Vault, portal_id: int, account_id: int) -> Managed | None:
    account = accounts.get(db, portal_id, account_id)
    if account is None:
        return None
    return Managed(
        account,
        tuple(accounts.shown_keys(account, vault)),
        account.disconnected_at is None and not accounts.opened(vault, account),
        tuple(accounts.last_events(db, account_id)),
        accounts.repeated_at(db, account_id),
        accounts.webhook_note(db, account_id),
        imports.newest(db, account_id),
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
        here=here(request, f"/{id_text(account.id)}"),
        list_url=here(request),
        address=accounts.webhook_address(state.settings, account.token),
        ways=ways(account.processor, account.variant),
        webhook=accounts.webhook_words(account, found.events[0].received_at if found.events else None),
        registers=accounts.registers(account.processor, account.variant),
        tests=any(one.test_event for one in accounts.webhook_facts(account.processor, account.variant)),
        switches=shown,
        wishes=[(key, names[key]) for key in _switchable(table, account.variant)],
        looks=_looks(request, found.events, found.repeated_at),
        **_reading(account, found.run),
    )


def _reading(account: models.Account, run: models.ImportRun | None) -> dict[str, Any]:
    """What the piece on reading everything in shows."""
    lists, missing = imports.given(account.processor, account.variant)
    progress = imports.progress(run, clock.now())
    left = imports.duration(progress.left_s) if progress and progress.left_s else None
    return {
        "progress": progress,
        "left": left,
        "lists": lists,
        "missing": missing,
        "kinds": imports.kinds(),
        "to_sheets": f"/settings/portals/{id_text(account.portal_id)}/sheets",
    }


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
    version = text(form, "version")
    typed = Switches(
        text(form, "label", 80),
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
    return render.see_other(request, here(request, f"/{id_text(account.id)}?done=saved"))


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
        accounts.last_change, request.state.person, account
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
    credentials = accounts.opened(state.vault, account)
    if not credentials:
        return await _show(request, {"form": _locked_sentence()})
    result = await accounts.check(state.settings, account.processor, account.variant, credentials)
    await state.database.write(accounts.noted, account.id, result, clock.now())
    work.nudge()
    return render.see_other(request, here(request, f"/{id_text(account.id)}?done=checked"))


def _locked_sentence() -> str:
    return _(
        "The keys can't be opened: put the key of before back into PORTAL_MASTER_KEYS, or enter them anew."
    )


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
    if not accounts.opened(request.app.state.vault, account):
        return await _show(request, {"form": _locked_sentence()})
    done, why = await register_webhook(request, account)
    if not done:
        sentence = _("{label} did not register it: {why}")
        label = facts(account.processor).label
        return await _show(request, {"form": sentence.format(label=label, why=why)})
    return render.see_other(request, here(request, f"/{id_text(account.id)}?done=webhook"))


@merchants.in_portal("editor")
async def test_event(request: Request) -> Response:
    """Ask for a delivery that changes nothing; the page then waits for it."""
    account = await _connected(request)
    state = request.app.state
    if not accounts.opened(state.vault, account):
        return await _show(request, {"form": _locked_sentence()})
    asked_at = int(clock.now().timestamp())
    outcome, words = await accounts.ask_for_test(state.settings, state.vault, account)
    if outcome == "refused":
        sentence = _("{label} sent no test event: {why}")
        label = facts(account.processor).label
        return await _show(request, {"form": sentence.format(label=label, why=words)})
    return render.see_other(request, here(request, f"/{id_text(account.id)}?asked={asked_at}#events"))


@dataclass(frozen=True, slots=True)
class Looks:
    """A test event was asked for: whether it has come, and whether to look again."""

    asked: int
    arrived: datetime | None
    again: bool


def _looks(
    request: Request, events: tuple[accounts.EventRow, ...], repeated_at: datetime | None
) -> Looks | None:
    raw = request.query_params.get("asked", "")
    if not raw.isdigit() or len(raw) > 12:
        return None
    since = datetime.fromtimestamp(int(raw), UTC)
    now = clock.now()
    if not now - timedelta(hours=1) < since <= now:
        return None
    came = [one.received_at for one in events] + ([repeated_at] if repeated_at else [])
    arrived = min((moment for moment in came if moment >= since), default=None)
    return Looks(int(raw), arrived, arrived is None and now - since < LOOKS_FOR)


@merchants.in_portal("viewer")
async def events(request: Request) -> Response:
    """The last events alone, for the page that waits for one."""
    account = await _account(request)
    database = request.app.state.database
    rows = tuple(await database.read(accounts.last_events, account.id))
    repeated_at = await database.read(accounts.repeated_at, account.id)
    return render.page(
        request,
        "partials/settings/processor_events.html",
        events=rows,
        looks=_looks(request, rows, repeated_at),
        here=here(request, f"/{id_text(account.id)}"),
        site=request.state.site,
    )


# Reading everything in


@merchants.in_portal("viewer")
async def reading(request: Request) -> Response:
    """How far it is, alone, for the page that looks again and again."""
    account = await _account(request)
    run = await request.app.state.database.read(imports.newest, account.id)
    return render.page(
        request,
        "partials/settings/processor_import.html",
        person=request.state.person,
        account=account,
        table=facts(account.processor),
        here=here(request, f"/{id_text(account.id)}"),
        site=request.state.site,
        **_reading(account, run),
    )


@merchants.in_portal("editor")
async def start_reading(request: Request) -> Response:
    """Begin, go on where it was stopped, or begin anew."""
    account = await _connected(request)
    if not accounts.lists(account.processor, account.variant):
        raise HTTPException(404)
    form = await request.form(max_files=0, max_fields=5)
    anew = text(form, "anew") == "yes"
    await request.app.state.database.write(_start, request.state.person, account, anew, clock.now())
    work.nudge()
    return render.see_other(request, here(request, f"/{id_text(account.id)}?done=reading#reading"))


def _start(db: Session, person: merchants.Person, account: models.Account, anew: bool, now: datetime) -> None:
    before = imports.newest(db, account.id)
    if before is not None and before.state in ("waiting", "running") and not before.stop_wanted:
        return  # pressed twice
    run = imports.start(db, account, now, person.email, anew)
    told = {"goes on after": run.objects} if run.objects else None
    subject = accounts.called(account)
    merchants.audit(db, person, "import.started", subject=subject, after=told, portal_id=account.portal_id)


@merchants.in_portal("editor")
async def stop_reading(request: Request) -> Response:
    """Stop after the page in hand."""
    account = await _account(request)
    await request.app.state.database.write(_stop, request.state.person, account, clock.now())
    return render.see_other(request, here(request, f"/{id_text(account.id)}?done=stopping#reading"))


def _stop(db: Session, person: merchants.Person, account: models.Account, now: datetime) -> None:
    run = imports.stop(db, account.id, now)
    if run is not None:
        subject, after = accounts.called(account), {"read in": run.objects}
        merchants.audit(
            db, person, "import.stopped", subject=subject, after=after, portal_id=account.portal_id
        )


# Changing keys


@merchants.in_portal("owner", fresh=True)
async def keys(request: Request) -> Response:
    account = await _account(request)
    return await _draw_keys(request, account, None, {})


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
    if not is_fresh(request):
        wrong = {"form": confirm_sentence()}
        return await _draw_keys(request, account, typed, wrong, "confirm")
    state = request.app.state
    before = accounts.opened(state.vault, account)
    after = typed.change.onto(before)
    wrong = _wrong_keys(account, typed.change, before, after)
    if wrong:
        return await _draw_keys(request, account, typed, wrong)
    result = await accounts.check(state.settings, account.processor, account.variant, after)
    wrong, offer = refusal(facts(account.processor).label, result, account.live, text(form, "do"))
    if "live" in wrong:
        wrong = {"form": _other_mode(account)}
    if not wrong and (name := _other_account(account, result)) and text(form, "another") != "1":
        wrong, offer = {"form": name}, "another"
    if wrong:
        return await _draw_keys(request, account, typed, wrong, offer)
    return await _save_keys(request, account, typed, result)


def _new_keys(request: Request, form: FormData, account: models.Account) -> _NewKeys:
    fields = accounts.fields(account.processor, account.variant)
    values, hidden = typed_values(request, form, fields, _keys_of(account))
    emptied = {str(one) for one in form.getlist("remove")}
    removed = {one.name for one in fields if one.name in emptied and not one.required}
    hours, version = text(form, "overlap"), text(form, "version")
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
    if not before:
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
        return await _draw_keys(request, account, typed, wrong)
    work.nudge()
    done = "back" if back else "keys" if result.health is not None else "keys_later"
    wants = any(
        one.from_webhook and one.required and one.name not in typed.change.values
        for one in accounts.fields(account.processor, account.variant)
    )
    if back and wants and result.health is not None:
        registered, _why = await register_webhook(request, await _account(request))
        done = "registered" if registered else "unregistered"
    return render.see_other(request, here(request, f"/{id_text(account.id)}?done={done}"))


async def _draw_keys(
    request: Request,
    account: models.Account,
    typed: _NewKeys | None,
    problems: dict[str, str],
    offer: Offer = "",
) -> Response:
    state = request.app.state
    back = account.disconnected_at is not None
    shown = accounts.shown_keys(account, state.vault)
    anew = not accounts.opened(state.vault, account)  # all of them are asked for
    values = typed.change.values if typed else {}
    hidden = worth_keeping(typed.secrets, problems) if typed else {}
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
        anew=anew,
        registers=anew and accounts.registers(account.processor, account.variant),
        boxes=[
            Box(
                one,
                "" if one.secret else values.get(one.name, ""),
                accounts.masked(hidden[one.name]) if one.name in hidden else "",
                now,
                anew and one.required and one.name not in hidden and not one.from_webhook,
            )
            for one, now in shown
        ],
        kept=kept,
        offer=offer,
        overlaps=[(str(hours), _overlap_words(hours)) for hours in accounts.OVERLAPS],
        overlap=str(typed.overlap if typed else 24),
        removed=typed.change.removed if typed else frozenset(),
        still_old=until if until and until > clock.now() else None,
        here=here(request, f"/{id_text(account.id)}"),
        confirm=confirm_url(request),
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
        here=here(request, f"/{id_text(account.id)}"),
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
    return render.see_other(request, here(request, f"/{id_text(account.id)}?done={done}"))
