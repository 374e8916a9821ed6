"""What went wrong, in calm words, with what to do: a piece where htmx asked for one, a page otherwise."""

from typing import Any

import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from portal import outage, render
from portal.texts import gettext as _
from portal.views import api

log = structlog.get_logger()


def _words(status: int) -> tuple[str, str]:
    """Heading and sentence for a status."""
    known = {
        403: (
            _("This came from another site"),
            _(
                "For your safety we only take what is pressed on our own pages. Open the page again and try once more."
            ),
        ),
        404: (
            _("This page is not here"),
            _("It may have moved, or it belongs to somebody else. Nothing was changed."),
        ),
        405: (_("This can't be done at this address"), _("Go back and use the buttons of the page.")),
        408: (
            _("That took too long"),
            _("The connection was too slow for what was sent. Nothing was changed; try again."),
        ),
        413: (_("That was too much at once"), _("Send less. Nothing was changed.")),
        422: (_("Something is missing"), _("Check what you entered and send it again.")),
        503: (
            _("This can't be had right now"),
            _("Try again in a minute. Nothing was changed."),
        ),
    }
    return known.get(
        status,
        (
            _("Something went wrong on our side"),
            _("Nothing more was done than what your pages show. Try again; if it stays, write to us."),
        ),
    )


async def http_error(request: Request, error: Exception) -> Response:
    """What a view refused. Its own words are for people, save those that Starlette gives where nobody said any."""
    assert isinstance(error, HTTPException)
    said = error.detail if error.detail != HTTPException(error.status_code).detail else None
    found = answer(request, error.status_code, None if error.status_code in (404, 405) else said)
    for name, value in (error.headers or {}).items():
        found.headers.setdefault(name, value)
    return found


async def fault(request: Request, error: Exception) -> Response:
    return answer(request, 500)


async def unavailable(request: Request, error: Exception) -> Response:
    """The database does not answer."""
    if outage.trouble(error) is None:  # else it is said once, by what watches the database
        log.error("a statement failed", request_id=_request_id(request), error=type(error).__name__)
    found = answer(request, 503)
    found.headers["Retry-After"] = "10"
    return found


def answer(request: Request, status: int, said: str | None = None) -> Response:
    """The answer to what went wrong: a page, a piece where htmx asked for one, JSON where no portal is."""
    if api.is_api(request.scope["path"]):
        return api.answer_error(request, status)
    heading, sentence = _words(status)
    if getattr(request.state, "merchants", False):
        return render.settings_error(
            request, status, heading, said or sentence, _request_id(request) if status >= 500 else ""
        )
    if getattr(request.state, "portal", None) is None:
        if request.scope["path"].startswith("/customers"):  # people, whose shop can't be looked up
            return PlainTextResponse(f"{heading}\n\n{said or sentence}\n", status)
        return JSONResponse({"error": said or heading}, status)
    return render.page(
        request,
        "partials/error.html" if render.is_partial(request) else "error.html",
        status=status,
        heading=heading,
        sentence=said or sentence,
        request_id=_request_id(request) if status >= 500 else "",
    )


def closed(request: Request) -> Response:
    """The merchant has switched the portal off: whom to write to instead."""
    portal = request.state.portal
    sentence = _(
        "{shop} has closed these pages for now. Questions about an order or a payment? Write to {support}."
    )
    found = render.page(
        request,
        "partials/error.html" if render.is_partial(request) else "closed.html",
        status=503,
        heading=_("Closed for now"),
        sentence=sentence.format(shop=portal.name, support=portal.support_email),
        request_id="",
    )
    found.headers["Retry-After"] = "3600"
    return found


def _request_id(request: Request) -> str:
    return getattr(request.state, "request_id", "")


handlers: dict[Any, Any] = {
    HTTPException: http_error,
    OperationalError: unavailable,
    PoolTimeout: unavailable,
    Exception: fault,
}
