"""What went wrong, in calm words, with what to do: a piece where htmx asked for one, a page otherwise."""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from portal import render
from portal.texts import gettext as _


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
    assert isinstance(error, HTTPException)
    detail = error.detail if error.status_code not in (404, 405) and error.detail != _plain(error) else None
    return _answer(request, error.status_code, detail, error.headers)


def _plain(error: HTTPException) -> str:
    """The detail that Starlette gives where nobody said anything."""
    return HTTPException(error.status_code).detail


async def fault(request: Request, error: Exception) -> Response:
    return _answer(request, 500, None)


def cross_site(request: Request) -> Response:
    return _answer(request, 403, None)


def _answer(request: Request, status: int, detail: str | None, headers: Any = None) -> Response:
    portal = getattr(request.state, "portal", None)
    heading, sentence = _words(status)
    if portal is None:
        return JSONResponse({"error": detail or heading}, status, headers=headers)
    answer = render.page(
        request,
        "partials/error.html" if render.is_partial(request) else "error.html",
        status=status,
        heading=heading,
        sentence=detail or sentence,
        request_id=getattr(request.state, "request_id", "") if status >= 500 else "",
    )
    answer.headers.update(headers or {})
    return answer


handlers: dict[Any, Any] = {HTTPException: http_error, Exception: fault}
