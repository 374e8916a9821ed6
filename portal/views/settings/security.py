"""One's own way in: the second factor, recovery codes, and where one is signed in."""

from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import clock, merchants, passkeys, render, totp
from portal.merchants import Person
from portal.texts import gettext as _


@merchants.may("viewer")
async def index(request: Request) -> Response:
    done = {
        "removed": _("The second step is off."),
        "ended": _("That browser is signed out."),
        "ended_all": _("All other browsers are signed out."),
        "key": _("The passkey is added."),
        "key_removed": _("The passkey is gone."),
    }
    return await show(request, said=done.get(request.query_params.get("done", "")))


async def show(
    request: Request,
    problems: dict[str, str] | None = None,
    said: str | None = None,
    codes: list[str] | None = None,
) -> Response:
    person: Person = request.state.person
    state = request.app.state
    secret = await state.database.read(totp.pending, state.vault, person.user_id)
    return render.settings(
        request,
        "settings/security.html",
        _("Your sign-in"),
        "security",
        422 if problems else 200,
        has=await state.database.read(totp.factors, person.user_id),
        keys=await state.database.read(passkeys.own, person.user_id),
        sessions=await state.database.read(merchants.own_sessions, person, clock.now()),
        pending=totp.address(secret, person.email, _("Customer Portal")) if secret else None,
        secret=totp.grouped(secret) if secret else None,
        codes=codes,
        problems=problems or {},
        said=said,
    )


@merchants.may("viewer", fresh=True)
async def begin_app(request: Request) -> Response:
    """A new secret for the app; it counts once a code of it was typed."""
    state, person = request.app.state, request.state.person
    has = await state.database.read(totp.factors, person.user_id)
    if not has.app:
        await state.database.write(totp.begin, state.vault, person.user_id)
    return render.see_other(request, "/settings/security#app")


@merchants.may("viewer", fresh=True)
async def confirm_app(request: Request) -> Response:
    fields = await request.form(max_files=0, max_fields=3)
    state, person = request.app.state, request.state.person
    code = str(fields.get("code", ""))[:40]
    codes = await state.database.write(totp.confirm, state.vault, person.user_id, code, clock.now())
    if codes is None:
        sentence = _("That is not the code that your app shows now. Is the clock of your phone right?")
        return await show(request, {"code": sentence})
    await state.database.write(_second_given, person, "factor.app_added")
    said = _("The second step is on. Keep the recovery codes: they are shown only now.")
    return await show(request, said=said, codes=codes)


@merchants.may("viewer", fresh=True)
async def remove_app(request: Request) -> Response:
    state, person = request.app.state, request.state.person
    await state.database.write(totp.remove, person.user_id)
    await state.database.write(_noted, person, "factor.app_removed")
    return render.see_other(request, "/settings/security?done=removed")


@merchants.may("viewer", fresh=True)
async def new_codes(request: Request) -> Response:
    """Fresh recovery codes; the old ones are worth nothing any more."""
    state, person = request.app.state, request.state.person
    has = await state.database.read(totp.factors, person.user_id)
    if not has.any:
        raise HTTPException(404)
    codes = await state.database.write(totp.new_recovery, person.user_id)
    await state.database.write(_noted, person, "factor.recovery_codes")
    return await show(
        request, codes=codes, said=_("These are new. The old codes are worth nothing any more.")
    )


def _second_given(db: Session, person: Person, what: str) -> None:
    merchants.prove(db, person.session_id, clock.now(), second=True)
    merchants.audit(db, person, what)


def _noted(db: Session, person: Person, what: str) -> None:
    merchants.audit(db, person, what)


@merchants.may("viewer")
async def end_session(request: Request) -> Response:
    person, wanted = request.state.person, request.path_params["session_id"]
    if not await request.app.state.database.write(merchants.end_session, person, wanted):
        raise HTTPException(404)
    return render.see_other(request, "/settings/security?done=ended")


@merchants.may("viewer")
async def end_others(request: Request) -> Response:
    person = request.state.person
    await request.app.state.database.write(merchants.end_all, person.user_id, person.session_id)
    return render.see_other(request, "/settings/security?done=ended_all")
