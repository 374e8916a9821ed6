"""The link by which a merchant's person looks at the portal as a customer does, and the end of it."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from portal import clock, login, render, viewing
from portal.texts import gettext as _


async def link(request: Request) -> Response:
    """Changes nothing: one button, as behind every link."""
    token = request.path_params["token"][:200]
    found = await request.app.state.database.read(viewing.look, request.state.portal.id, token, clock.now())
    if found is None:
        heading, sentence = (
            _("This link opens nothing"),
            _("It works once and for two minutes. Open it again."),
        )
        return render.page(request, "error.html", 410, heading=heading, sentence=sentence, request_id="")
    return render.page(request, "viewing.html", looking=found, token=token)


async def begin(request: Request) -> Response:
    secret = await request.app.state.database.write(
        viewing.redeem,
        request.state.portal.id,
        request.path_params["token"][:200],
        request.headers.get("user-agent", ""),
        clock.now(),
    )
    if secret is None:
        return await link(request)
    settings = request.app.state.settings
    answer = RedirectResponse(login.HOME, 303)
    answer.set_cookie(
        login.view_cookie_name(settings),
        secret,
        path="/",
        secure=settings.secure,
        httponly=True,
        samesite="lax",
    )
    return answer


async def end(request: Request) -> Response:
    """Stop looking. What the browser kept of the customer's pages goes too."""
    settings = request.app.state.settings
    token = request.cookies.get(login.view_cookie_name(settings))
    if token and len(token) <= 200:
        await request.app.state.database.write(viewing.end, request.state.portal.id, token)
    answer = render.see_other(request, "/customers")
    name = login.view_cookie_name(settings)
    answer.delete_cookie(name, path="/", secure=settings.secure, httponly=True, samesite="lax")
    answer.headers["Clear-Site-Data"] = '"cache", "storage"'
    return answer
