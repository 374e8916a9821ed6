"""Your addresses: what else a person bought with, added by a mail to it, and taken away again."""

import secrets
from typing import Any

from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from portal import addresses, clock, people, render, work
from portal.addresses import NotJoined
from portal.login import WrongCode, signed_in
from portal.texts import gettext as _
from portal.views.login import browser_of, looks_like_address, with_browser, wrong_code

HERE = "/customers/addresses"


@signed_in
async def index(request: Request) -> Response:
    done = {
        "added": _("The address is added. What belongs to it is shown with the rest."),
        "removed": _("The address is removed. What belongs to it is shown to who signs in with it."),
    }
    return await _draw(request, said=done.get(request.query_params.get("done", "")))


async def _draw(request: Request, status: int = 200, **context: Any) -> Response:
    customer = request.state.customer
    page = await request.app.state.database.read(
        addresses.page, request.state.portal.id, customer, browser_of(request), clock.now()
    )
    context = {"said": None, "error": None, "code_error": None, "typed": "", **context}
    sender = request.app.state.settings.mail_from
    return render.page(request, "addresses.html", status, page=page, sender=sender, **context)


@signed_in
async def add(request: Request) -> Response:
    """Ask for a mail to a further address. Who has not shown for a while that they read their mail does that first."""
    fields = await request.form(max_files=0, max_fields=5)
    email = str(fields.get("email", "")).strip()
    customer, database = request.state.customer, request.app.state.database
    if not await database.read(addresses.is_fresh, customer, clock.now()):
        return await _draw(request, 403, typed=email[:254])
    if not looks_like_address(email):
        why = _("Enter an address such as name@example.com.")
        return await _draw(request, 422, error=why, typed=email[:254])
    found = await database.read(people.addresses, request.state.portal.id, customer.id)
    if email.lower() in (customer.email, *(one.email for one in found.further if one.proved_at)):
        return await _draw(request, 422, error=_("This is one of your addresses already."), typed=email[:254])
    browser = browser_of(request) or secrets.token_urlsafe(24)
    await database.write(_ask, request, email, browser)
    work.nudge()
    return with_browser(request, RedirectResponse(f"{HERE}#asked", 303), browser)


def _ask(db: Session, request: Request, email: str, browser: str) -> None:
    agent, network = request.headers.get("user-agent", ""), request.state.network
    portal_id, customer = request.state.portal.id, request.state.customer
    addresses.ask(db, portal_id, customer, email, browser, agent, network, clock.now())


@signed_in
async def prove(request: Request) -> Response:
    """The code of the mail."""
    fields = await request.form(max_files=0, max_fields=5)
    found = await request.app.state.database.write(
        addresses.prove_by_code,
        request.state.portal.id,
        request.state.customer,
        str(fields.get("code", ""))[:40],
        browser_of(request),
        request.app.state.settings.secret_key.get_secret_value(),
        clock.now(),
    )
    if isinstance(found, WrongCode):
        return await _draw(request, 422, code_error=wrong_code(found.left))
    if isinstance(found, NotJoined):
        return await _draw(request, 422, error=found.why)
    work.nudge()
    return RedirectResponse(f"{HERE}?done=added", 303)


@signed_in
async def ask_remove(request: Request) -> Response:
    return render.page(request, "address_remove.html", address=await _one(request))


async def _one(request: Request) -> people.Address:
    found: people.Addresses = await request.app.state.database.read(
        people.addresses, request.state.portal.id, request.state.customer.id
    )
    for one in found.further:
        if one.join_id == request.path_params["join_id"] and one.proved_at is not None:
            return one
    raise HTTPException(404)


@signed_in
async def remove(request: Request) -> Response:
    """Two people again. Who came in by the removed address is signed out with it."""
    await _one(request)
    customer = request.state.customer
    try:
        await request.app.state.database.write(
            people.part,
            request.state.portal.id,
            customer.id,
            request.path_params["join_id"],
            customer.email,
            clock.now(),
        )
    except LookupError:
        raise HTTPException(404) from None
    work.nudge()
    return RedirectResponse(f"{HERE}?done=removed", 303)
