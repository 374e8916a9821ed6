"""The way in and out: form, check your mail, the link's page, the code, sessions."""

import secrets
from typing import Any

from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from portal import assets, clock, login, render, work
from portal.login import signed_in
from portal.middleware import CSP
from portal.texts import gettext as _

KNOW_BROWSER_S = 365 * 86_400


async def root(request: Request) -> Response:
    return RedirectResponse("/settings" if request.state.portal is None else "/customers", 302)


async def form(request: Request) -> Response:
    """The sign-in form; who is signed in already goes on."""
    aim = login.safe_next(request.query_params.get("next", ""))
    if await login.recognise(request):
        return RedirectResponse(aim, 303)
    return _form(request, aim)


def _form(request: Request, aim: str, error: str | None = None, typed: str = "") -> Response:
    return complete_page(request, "login.html", 422 if error else 200, next=aim, error=error, typed=typed)


async def ask(request: Request) -> Response:
    """An address was typed, or is to be asked for again: written down, answered alike for everybody."""
    fields = await request.form(max_files=0, max_fields=10)
    browser = browser_of(request) or secrets.token_urlsafe(24)
    if "resend" in fields or "link" in fields:
        again = str(fields["link"])[:200] if "link" in fields else None
        if await request.app.state.database.write(_ask_again, request, again, browser) is None:
            return RedirectResponse("/customers", 303)
    else:
        email, aim = str(fields.get("email", "")).strip(), login.safe_next(str(fields.get("next", "")))
        if not looks_like_address(email):
            return _form(request, aim, _("Enter an address such as name@example.com."), email[:254])
        await request.app.state.database.write(_ask, request, email, browser, aim)
    work.nudge()
    return with_browser(request, RedirectResponse("/customers/login/check", 303), browser)


def _ask(db: Session, request: Request, email: str, browser: str, aim: str) -> int:
    agent, network = _agent(request), request.state.network
    return login.ask(db, request.state.portal.id, email, browser, agent, network, aim, clock.now())


def _ask_again(db: Session, request: Request, link: str | None, browser: str) -> int | None:
    portal_id, who = request.state.portal.id, (browser, _agent(request), request.state.network)
    if link is None:
        return login.resend(db, portal_id, *who, clock.now())
    return login.ask_again(db, portal_id, link, *who, clock.now())


def looks_like_address(text: str) -> bool:
    """Whether a mail could go there at all; says nothing of whose it is."""
    name, at, host = text.rpartition("@")
    return bool(
        at
        and name
        and host
        and len(text) <= 254
        and text.isascii()
        and text.isprintable()
        and not any(c in text for c in ' ,;:<>"()[]\\')
        and "@" not in name
    )


async def check_mail(request: Request) -> Response:
    """What to do now; the same page whether a mail is on its way or not."""
    return await _check_mail(request) or RedirectResponse("/customers", 303)


async def _check_mail(request: Request, error: str | None = None) -> Response | None:
    browser = browser_of(request)
    if browser is None:
        return None
    asked = await request.app.state.database.read(
        login.newest_ask, request.state.portal.id, browser, clock.now()
    )
    if asked is None:
        return None
    sender = request.app.state.settings.mail_from
    return complete_page(
        request, "check_mail.html", 422 if error else 200, asked=asked, sender=sender, error=error
    )


async def redeem_code(request: Request) -> Response:
    fields = await request.form(max_files=0, max_fields=5)
    state = request.app.state
    found = await state.database.write(
        login.redeem_code,
        request.state.portal.id,
        str(fields.get("code", ""))[:40],
        browser_of(request),
        state.settings.secret_key.get_secret_value(),
        _agent(request),
        session_of(request),
        clock.now(),
    )
    if isinstance(found, login.Redeemed):
        work.nudge()
        return welcome(request, found)
    over = _("The code has run out, or this is not the browser that asked for it. Ask for a new mail.")
    return await _check_mail(request, wrong_code(found.left)) or _form(request, login.HOME, over)


def wrong_code(left: int) -> str:
    if left == 0:
        return _("This code can't be used any more. Send the mail again and use the new code.")
    if left == 1:
        return _("That is not the code of your newest mail. You can try once more.")
    return _("That is not the code of your newest mail. You can try {left} more times.").format(left=left)


async def link(request: Request) -> Response:
    """What the mail's link opens. Machines open it too, so it changes nothing and shows one button."""
    token = _token(request)
    found = await request.app.state.database.read(
        login.look_at_link, request.state.portal.id, token, browser_of(request), clock.now()
    )
    here = request.state.customer.email if await login.recognise(request) else None
    request.state.customer = None  # the page is drawn as for anybody
    if not isinstance(found, login.LinkView):
        return _bad_link(request, found, token, here)
    browser = login.browser_words(found.user_agent)
    other = here if here != found.email else None
    return complete_page(request, "link.html", link=found, token=token, browser=browser, other=other)


async def redeem_link(request: Request) -> Response:
    token = _token(request)
    browser = browser_of(request) or secrets.token_urlsafe(24)
    found = await request.app.state.database.write(
        login.redeem_link,
        request.state.portal.id,
        token,
        browser,
        _agent(request),
        session_of(request),
        clock.now(),
    )
    if not isinstance(found, login.Redeemed):
        return _bad_link(request, found, token)
    work.nudge()
    return with_browser(request, welcome(request, found), browser)


def _token(request: Request) -> str:
    token: str = request.path_params["token"]
    return token[:200]


def _bad_link(request: Request, why: login.Trouble, token: str, here: str | None = None) -> Response:
    """Which way a link is bad. The address of an old one is known to us: a new mail is one press away."""
    heading, sentence = _about(why)
    again = token if why in ("expired", "used") else None
    status = 410 if again else 404
    return complete_page(
        request, "link_bad.html", status, heading=heading, sentence=sentence, again=again, here=here
    )


def _about(why: login.Trouble) -> tuple[str, str]:
    if why == "expired":
        return _("This link has expired"), _(
            "A sign-in link is good for 10 minutes. We can mail a new one to the same address."
        )
    if why == "used":
        return _("This link has been used"), _(
            "A sign-in link works once. In the browser that asked for it, the code of the same mail still works; "
            "or we mail a new link to the same address."
        )
    if why == "foreign":
        return _("This link belongs to another shop"), _(
            "It opens nothing here. Open it on the site that it was mailed from, or ask for a new one."
        )
    if why == "malformed":
        return _("This link is not complete"), _(
            "A part of it got lost on the way. Open it from the mail again, or ask for a new one."
        )
    return _("We don't know this link"), _("It may be old, or mistyped. Ask for a new one.")


def welcome(request: Request, found: login.Redeemed) -> Response:
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
async def end_session(request: Request) -> Response:
    """Sign out one other browser."""
    customer, wanted = request.state.customer, request.path_params["session_id"]
    if wanted == customer.session_id:
        return await sign_out(request)
    write = request.app.state.database.write
    if not await write(login.end_session, request.state.portal.id, customer, wanted):
        raise HTTPException(404)
    return render.see_other(request, "/customers/sessions")


@signed_in
async def sign_out_everywhere(request: Request) -> Response:
    await request.app.state.database.write(login.end_all, request.state.portal.id, request.state.customer.id)
    return _goodbye(request)


async def sign_out(request: Request) -> Response:
    """Sign out here; who is not signed in any more is told the same."""
    if await login.recognise(request):
        await request.app.state.database.write(
            login.end_session, request.state.portal.id, request.state.customer
        )
    return _goodbye(request)


def _goodbye(request: Request) -> Response:
    """What the browser kept of the pages goes too; the cookie that knows the browser stays."""
    settings = request.app.state.settings
    answer = render.see_other(request, "/customers")
    answer.delete_cookie(
        login.cookie_name(settings), path="/", secure=settings.secure, httponly=True, samesite="lax"
    )
    answer.headers["Clear-Site-Data"] = '"cache", "storage"'
    return answer


def complete_page(request: Request, template: str, status: int = 200, **context: Any) -> Response:
    """A page of the way in: complete in one request, its one style block allowed by its hash."""
    answer = render.page(request, template, status, **context)
    style = assets.login_style(request.state.portal.brand)
    answer.headers["Content-Security-Policy"] = CSP.replace(
        "style-src 'self'", f"style-src '{style.csp_hash}'"
    ).replace("script-src 'self'; ", "")
    return answer


def session_of(request: Request) -> str | None:
    return request.cookies.get(login.cookie_name(request.app.state.settings))


def browser_of(request: Request) -> str | None:
    value = request.cookies.get(login.browser_cookie_name(request.app.state.settings))
    return value if value and 16 <= len(value) <= 100 else None


def _agent(request: Request) -> str:
    return request.headers.get("user-agent", "")


def with_browser(request: Request, answer: Response, browser: str) -> Response:
    """Know this browser again: the code of a mail works only where it was asked for."""
    name = login.browser_cookie_name(request.app.state.settings)
    _set_cookie(request, answer, name, browser, KNOW_BROWSER_S)
    return answer


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
