"""The way in from the merchant's own app: a single-use link to a customer's pages, behind one button."""

import secrets

from starlette.requests import Request
from starlette.responses import Response

from portal import clock, login, work
from portal.views.login import browser_of, complete_page, session_of, welcome, with_browser


async def link(request: Request) -> Response:
    """Machines open links too, so this changes nothing."""
    token = request.path_params["token"][:200]
    found = await request.app.state.database.read(
        login.look_at_entry, request.state.portal.id, token, clock.now()
    )
    here = request.state.customer.email if await login.recognise(request) else None
    request.state.customer = None  # the page is drawn as for anybody
    if found is None:
        return _over(request, here)
    other = here if here != found.email else None
    return complete_page(request, "entry.html", entry=found, token=token, other=other)


async def enter(request: Request) -> Response:
    browser = browser_of(request) or secrets.token_urlsafe(24)
    found = await request.app.state.database.write(
        login.redeem_entry,
        request.state.portal.id,
        request.path_params["token"][:200],
        browser,
        request.headers.get("user-agent", ""),
        session_of(request),
        clock.now(),
    )
    if found is None:
        return _over(request, None)
    work.nudge()
    return with_browser(request, welcome(request, found), browser)


def _over(request: Request, here: str | None) -> Response:
    """Whoever presses the button twice, or comes back by the browser's history, is in already."""
    return complete_page(request, "entry_over.html", 410, here=here)
