"""Find an order without the address it was bought with: one form, and one answer for everybody."""

import secrets

from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from portal import clock, rescue, work
from portal.rescue import Typed
from portal.views.login import browser_of, complete_page, with_browser

HERE = "/customers/find-order"
FIELDS = ("reference", "last4", "amount", "currency", "date", "way", "contact")


async def form(request: Request) -> Response:
    return _form(request, {}, {})


def _form(request: Request, typed: dict[str, str], problems: dict[str, str]) -> Response:
    values = {name: typed.get(name, "") for name in FIELDS}
    status = 422 if problems else 200
    return complete_page(request, "find_order.html", status, typed=values, problems=problems)


async def ask(request: Request) -> Response:
    """Written down, whatever it is; only what the form itself shows to be wrong is said."""
    fields = await request.form(max_files=0, max_fields=12)
    typed = {name: str(fields.get(name, ""))[:254] for name in FIELDS}
    problems, wanted = rescue.read(typed)
    if wanted is None:
        return _form(request, typed, problems)
    browser = browser_of(request) or secrets.token_urlsafe(24)
    await request.app.state.database.write(_ask, request, wanted, browser)
    work.nudge()
    return with_browser(request, RedirectResponse(f"{HERE}/sent", 303), browser)


def _ask(db: Session, request: Request, wanted: Typed, browser: str) -> int:
    agent, network = request.headers.get("user-agent", ""), request.state.network
    return rescue.ask(db, request.state.portal.id, wanted, browser, agent, network, clock.now())


async def sent(request: Request) -> Response:
    """The same page for everybody, whoever opens it: it knows of no ask."""
    sender = request.app.state.settings.mail_from
    return complete_page(request, "find_order_sent.html", sender=sender)
