"""The way in and out: form, check your mail, the link's page, the code, sessions."""

import secrets
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from portal import assets, clock, login, render, work
from portal.login import signed_in
from portal.middleware import CSP
from portal.texts import gettext as _


async def root(request: Request) -> Response:
    return RedirectResponse("/customers", 302)


async def form(request: Request) -> Response:
    """The sign-in form; who is signed in already goes on."""
    aim = login.safe_next(request.query_params.get("next", ""))
    if request.cookies.get(login.cookie_name(request.app.state.settings)) and await login.recognise(request):
        return RedirectResponse(aim, 303)
    return _page(request, "login.html", next=aim, error=None, typed="")


async def ask(request: Request) -> Response:
    """An address was typed: written down, answered alike for everybody."""
    fields = await request.form(max_files=0, max_fields=10)
    aim = login.safe_next(str(fields.get("next", "")))
    browser = _browser(request) or secrets.token_urlsafe(24)
    portal, database = request.state.portal, request.app.state.database
    who = (browser, _agent(request), _network(request))
    if old := str(fields.get("again", "")):
        await database.write(login.ask_again, portal.id, old[:200], *who, clock.now())
    else:
        email = str(fields.get("email", "")).strip()
        if not _looks_like_address(email):
            sentence = _("Enter an address such as name@example.com.")
            return _page(request, "login.html", 422, next=aim, error=sentence, typed=email[:254])
        await database.write(login.ask, portal.id, email, *who, aim, clock.now())
    work.nudge()
    answer = RedirectResponse("/customers/login/check", 303)
    _set_cookie(request, answer, login.browser_cookie_name(request.app.state.settings), browser, 365 * 86_400)
    return answer


def _looks_like_address(text: str) -> bool:
    name, at, host = text.rpartition("@")
    return bool(
        at
        and name
        and "." in host.strip(".")
        and len(text) <= 254
        and text.isascii()
        and text.isprintable()
        and not any(c in text for c in ' ,;<>"()[]\\')
        and "@" not in name
    )


async def check_mail(request: Request) -> Response:
    return await _check_mail(request)


async def _check_mail(request: Request, error: str | None = None, status: int = 200) -> Response:
    browser = _browser(request)
    asked = (
        await request.app.state.database.read(login.newest_ask, request.state.portal.id, browser, clock.now())
        if browser
        else None
    )
    if asked is None:
        return RedirectResponse("/customers", 303)
    sender = request.app.state.settings.mail_from
    return _page(request, "check_mail.html", status, asked=asked, sender=sender, error=error)


async def redeem_code(request: Request) -> Response:
    fields = await request.form(max_files=0, max_fields=5)
    state = request.app.state
    found = await state.database.write(
        login.redeem_code,
        request.state.portal.id,
        str(fields.get("code", ""))[:40],
        _browser(request),
        state.settings.secret_key.get_secret_value(),
        _agent(request),
        request.cookies.get(login.cookie_name(state.settings)),
        clock.now(),
    )
    if isinstance(found, login.Redeemed):
        work.nudge()
        return _welcome(request, found)
    if found.left:
        sentence = _("That code is not right. Check the newest mail and try again.")
    else:
        sentence = _("That code can't be used any more. Ask for a new mail below.")
    return await _check_mail(request, sentence, 422)


async def link(request: Request) -> Response:
    """What the mail's link opens. Machines open it too, so it changes nothing and shows one button."""
    token = _token(request)
    found = await request.app.state.database.read(
        login.look_at_link, request.state.portal.id, token, _browser(request), clock.now()
    )
    if isinstance(found, str):
        return _bad_link(request, found, token)
    other = None
    if request.cookies.get(login.cookie_name(request.app.state.settings)) and await login.recognise(request):
        other = request.state.customer.email
        request.state.customer = None
    return _page(
        request,
        "link.html",
        link=found,
        token=token,
        browser=login.browser_words(found.user_agent),
        other=other,
    )


async def redeem_link(request: Request) -> Response:
    token = _token(request)
    state = request.app.state
    browser = _browser(request) or secrets.token_urlsafe(24)
    found = await state.database.write(
        login.redeem_link,
        request.state.portal.id,
        token,
        browser,
        _agent(request),
        request.cookies.get(login.cookie_name(state.settings)),
        clock.now(),
    )
    if isinstance(found, str):
        return _bad_link(request, found, token)
    work.nudge()
    answer = _welcome(request, found)
    _set_cookie(request, answer, login.browser_cookie_name(state.settings), browser, 365 * 86_400)
    return answer


def _token(request: Request) -> str:
    token: str = request.path_params["token"]
    return token[:200]


def _bad_link(request: Request, why: str, token: str) -> Response:
    words = {
        "expired": (
            _("This link has expired"),
            _("A sign-in link is good for 10 minutes. We can mail a new one to the same address."),
        ),
        "used": (
            _("This link has been used"),
            _(
                "A sign-in link works once. Where you asked for it, the code in the same mail still works; "
                "or we mail a new one to the same address."
            ),
        ),
        "foreign": (
            _("This link does not open anything here"),
            _(
                "It may be cut off, or it belongs to another shop. Open it from the mail again, or ask for a new one."
            ),
        ),
    }
    heading, sentence = words[why]
    again = token if why in ("expired", "used") else None
    status = 410 if again else 404
    return _page(request, "link_bad.html", status, heading=heading, sentence=sentence, again=again)


def _welcome(request: Request, found: login.Redeemed) -> Response:
    answer = RedirectResponse(found.next_path, 303)
    _set_cookie(request, answer, login.cookie_name(request.app.state.settings), found.token, None)
    return answer


@signed_in
async def sessions(request: Request) -> Response:
    rows = await request.app.state.database.read(
        login.own_sessions, request.state.portal.id, request.state.customer, clock.now()
    )
    return render.page(request, "sessions.html", rows=rows)


@signed_in
async def sign_out_everywhere(request: Request) -> Response:
    await request.app.state.database.write(login.end_all, request.state.portal.id, request.state.customer.id)
    return _goodbye(request)


async def sign_out(request: Request) -> Response:
    if await login.recognise(request):
        await request.app.state.database.write(
            login.end_session, request.state.portal.id, request.state.customer
        )
    return _goodbye(request)


def _goodbye(request: Request) -> Response:
    settings = request.app.state.settings
    answer = RedirectResponse("/customers", 303)
    answer.delete_cookie(
        login.cookie_name(settings), path="/", secure=settings.secure, httponly=True, samesite="lax"
    )
    answer.headers["Clear-Site-Data"] = '"cache", "storage"'
    return answer


def _page(request: Request, template: str, status: int = 200, **context: Any) -> Response:
    """A page of the way in: complete in one request, its one style block allowed by its hash."""
    if request.method not in ("GET", "HEAD", "POST"):
        raise HTTPException(405)
    answer = render.page(request, template, status, **context)
    style = assets.login_style(request.state.portal.brand)
    answer.headers["Content-Security-Policy"] = CSP.replace(
        "style-src 'self'", f"style-src '{style.csp_hash}'"
    )
    return answer


def _browser(request: Request) -> str | None:
    value = request.cookies.get(login.browser_cookie_name(request.app.state.settings))
    return value if value and 16 <= len(value) <= 100 else None


def _agent(request: Request) -> str:
    return request.headers.get("user-agent", "")


def _network(request: Request) -> str:
    network: str = request.state.network
    return network


def _set_cookie(request: Request, answer: Response, name: str, value: str, age: int | None) -> None:
    answer.set_cookie(
        name,
        value,
        max_age=age,
        path="/",
        secure=request.app.state.settings.secure,
        httponly=True,
        samesite="lax",
    )
