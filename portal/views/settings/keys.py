"""Passkeys: made on the security page, used at the door, as the second step, and to prove oneself again.

These speak JSON with our own script, since a browser hands out passkeys to scripts only; every page that offers one
has another way beside it.
"""

import json
from typing import Any

from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from portal import clock, login, merchants, passkeys, render
from portal.merchants import Person
from portal.texts import gettext as _


@merchants.may("viewer", fresh=True)
async def begin(request: Request) -> Response:
    state = request.app.state
    return JSONResponse(
        await state.database.read(
            passkeys.registration, state.settings, state.seal, request.state.person, clock.now()
        )
    )


@merchants.may("viewer", fresh=True)
async def finish(request: Request) -> Response:
    said = await _json(request)
    state = request.app.state
    name = login.browser_words(request.headers.get("user-agent", "")) or _("Passkey")
    try:
        await state.database.write(
            passkeys.register,
            state.settings,
            state.seal,
            request.state.person,
            str(said.get("note", "")),
            said["credential"],
            str(said.get("name") or name),
            clock.now(),
        )
    except passkeys.Refused:
        return _no()
    return JSONResponse({"next": "/settings/security?done=key"})


@merchants.may("viewer", fresh=True)
async def remove(request: Request) -> Response:
    person: Person = request.state.person
    if not await request.app.state.database.write(passkeys.remove, person, request.path_params["key_id"]):
        raise HTTPException(404)
    return render.see_other(request, "/settings/security?done=key_removed")


async def ask(request: Request) -> Response:
    """For anybody at the door, or for who is signed in and is to prove it."""
    state = request.app.state
    found = await merchants.recognise(request)
    user_id = found.person.user_id if found else None
    return JSONResponse(
        await state.database.read(passkeys.authentication, state.settings, state.seal, user_id, clock.now())
    )


async def show(request: Request) -> Response:
    """A passkey was shown: it opens a session, or proves the one that is there."""
    said = await _json(request)
    found = await merchants.recognise(request)
    try:
        token = await request.app.state.database.write(_enter, request, found.person if found else None, said)
    except passkeys.Refused:
        return _no()
    answer = JSONResponse({"next": merchants.safe_next(str(said.get("next", "")))})
    if token is not None:
        settings = request.app.state.settings
        answer.set_cookie(
            merchants.cookie_name(settings),
            token,
            path="/",
            secure=settings.secure,
            httponly=True,
            samesite="lax",
        )
    return answer


def _enter(db: Session, request: Request, person: Person | None, said: dict[str, Any]) -> str | None:
    state, now = request.app.state, clock.now()
    user_id = passkeys.authenticate(
        db,
        state.settings,
        state.seal,
        person.user_id if person else None,
        str(said.get("note", "")),
        said["credential"],
        now,
    )
    if person is not None:
        merchants.prove(db, person.session_id, now, second=True)
        return None
    merchant_id = merchants.newest_merchant(db, user_id)
    if merchant_id is None:
        raise passkeys.Refused("belongs to nobody any more")
    agent = request.headers.get("user-agent", "")
    return merchants.open_session(db, user_id, merchant_id, agent, request.state.network, now, strong=True)


async def _json(request: Request) -> dict[str, Any]:
    try:
        said = json.loads(await request.body())
    except ValueError:
        raise HTTPException(400) from None
    if not isinstance(said, dict) or not isinstance(said.get("credential"), dict):
        raise HTTPException(400)
    return said


def _no() -> Response:
    return JSONResponse(
        {"error": _("That did not work. Try again, or use another way to sign in.")}, status_code=422
    )
