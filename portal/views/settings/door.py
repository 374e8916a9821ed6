"""The way in for merchants: form, link and code as for customers, the second factor, invitations, and proving oneself
again before keys or a domain are changed."""

import secrets
from typing import Any

from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from portal import assets, clock, login, merchants, render, totp, work
from portal.middleware import CSP
from portal.texts import gettext as _
from portal.views.login import KNOW_BROWSER_S, looks_like_address, wrong_code


async def form(request: Request) -> Response:
    """The sign-in form; who is signed in already goes on."""
    aim = merchants.safe_next(request.query_params.get("next", ""))
    found = await merchants.recognise(request)
    if found is not None:
        return RedirectResponse(aim if found.second_factor != "wanted" else merchants.SECOND, 303)
    return _form(request, aim)


def _form(request: Request, aim: str, error: str | None = None, typed: str = "") -> Response:
    status = 422 if error else 200
    return door(request, "door/form.html", status, script=True, next=aim, error=error, typed=typed)


async def ask(request: Request) -> Response:
    """An address was typed, or is to be asked for again: written down, answered alike for everybody."""
    fields = await request.form(max_files=0, max_fields=10)
    browser = _browser(request) or secrets.token_urlsafe(24)
    if "resend" in fields:
        if await request.app.state.database.write(_ask_again, request, browser) is None:
            return RedirectResponse("/sign-in", 303)
    else:
        email = str(fields.get("email", "")).strip()
        aim = merchants.safe_next(str(fields.get("next", "")))
        if not looks_like_address(email):
            return _form(request, aim, _("Enter an address such as name@example.com."), email[:254])
        await request.app.state.database.write(_ask, request, email, browser, aim)
    work.nudge()
    return _with_browser(request, RedirectResponse("/sign-in/check", 303), browser)


def _ask(db: Session, request: Request, email: str, browser: str, aim: str) -> int:
    return login.ask(db, None, email, browser, _agent(request), request.state.network, aim, clock.now())


def _ask_again(db: Session, request: Request, browser: str) -> int | None:
    return login.resend(db, None, browser, _agent(request), request.state.network, clock.now())


async def check_mail(request: Request) -> Response:
    """What to do now; the same page whether a mail is on its way or not."""
    return await _check_mail(request) or RedirectResponse("/sign-in", 303)


async def _check_mail(request: Request, error: str | None = None) -> Response | None:
    browser = _browser(request)
    if browser is None:
        return None
    asked = await request.app.state.database.read(login.newest_ask, None, browser, clock.now())
    if asked is None:
        return None
    sender = request.app.state.settings.mail_from
    return door(request, "door/check.html", 422 if error else 200, asked=asked, sender=sender, error=error)


async def redeem_code(request: Request) -> Response:
    fields = await request.form(max_files=0, max_fields=5)
    found = await request.app.state.database.write(_by_code, request, str(fields.get("code", ""))[:40])
    if isinstance(found, login.WrongCode):
        over = _("The code has run out, or this is not the browser that asked for it. Ask for a new mail.")
        again = await _check_mail(request, wrong_code(found.left))
        return again or _form(request, merchants.HOME, over)
    return _welcome(request, *found)


def _by_code(db: Session, request: Request, code: str) -> tuple[str, str] | login.WrongCode:
    secret = request.app.state.settings.secret_key.get_secret_value()
    spent = login.spend_code(db, None, code, _browser(request), secret, clock.now())
    return spent if isinstance(spent, login.WrongCode) else _enter(db, request, spent)


def _enter(db: Session, request: Request, spent: login.Spent) -> tuple[str, str] | login.WrongCode:
    token = merchants.sign_in(
        db,
        spent.email,
        _agent(request),
        request.state.network,
        _session(request),
        clock.now(),
        open_to_all=request.app.state.settings.signup == "open",
    )
    return (token, spent.next_path) if token else login.WrongCode(0)


async def link(request: Request) -> Response:
    """What the mail's link opens. Machines open it too, so it changes nothing and shows one button."""
    token = request.path_params["token"][:200]
    found = await request.app.state.database.read(
        login.look_at_link, None, token, _browser(request), clock.now()
    )
    if not isinstance(found, login.LinkView):
        return _bad_link(request, found)
    browser = login.browser_words(found.user_agent)
    return door(request, "door/link.html", link=found, token=token, browser=browser)


async def redeem_link(request: Request) -> Response:
    browser = _browser(request) or secrets.token_urlsafe(24)
    found = await request.app.state.database.write(_by_link, request, request.path_params["token"][:200])
    if isinstance(found, login.WrongCode):
        return _bad_link(request, "unknown")
    if not isinstance(found, tuple):
        return _bad_link(request, found)
    return _with_browser(request, _welcome(request, *found), browser)


def _by_link(db: Session, request: Request, token: str) -> tuple[str, str] | login.WrongCode | login.Trouble:
    spent = login.spend_link(db, None, token, clock.now())
    return _enter(db, request, spent) if isinstance(spent, login.Spent) else spent


def _bad_link(request: Request, why: login.Trouble) -> Response:
    sentence = {
        "expired": _("A sign-in link is good for 10 minutes. Ask for a new one."),
        "used": _("A sign-in link works once. Ask for a new one."),
    }.get(why, _("It may be old, or not complete. Ask for a new one."))
    status = 410 if why in ("expired", "used") else 404
    return door(request, "door/over.html", status, heading=_("This link opens nothing"), sentence=sentence)


# The second factor, and proving oneself again


async def second(request: Request) -> Response:
    """After the mail's link or code: the authenticator app or a passkey, where one is set up."""
    found = await merchants.recognise(request)
    aim = merchants.safe_next(request.query_params.get("next", ""))
    if found is None:
        return RedirectResponse("/sign-in", 303)
    if found.second_factor != "wanted":
        return RedirectResponse(aim, 303)
    return await _ask_second(request, found.person, aim)


async def _ask_second(
    request: Request, person: merchants.Person, aim: str, error: str | None = None
) -> Response:
    has = await request.app.state.database.read(totp.factors, person.user_id)
    status = 422 if error else 200
    return door(request, "door/second.html", status, next=aim, error=error, has=has, script=True)


async def give_second(request: Request) -> Response:
    found = await merchants.recognise(request)
    if found is None:
        return RedirectResponse("/sign-in", 303)
    fields = await request.form(max_files=0, max_fields=5)
    aim = merchants.safe_next(str(fields.get("next", "")))
    right = await request.app.state.database.write(
        _second_by_code, request, found.person, str(fields.get("code", ""))[:40]
    )
    if not right:
        return await _ask_second(
            request, found.person, aim, _("That is not the code that your app shows now.")
        )
    return RedirectResponse(aim, 303)


def _second_by_code(db: Session, request: Request, person: merchants.Person, code: str) -> bool:
    now = clock.now()
    if not totp.spend(db, request.app.state.vault, person.user_id, code, now):
        return False
    merchants.prove(db, person.session_id, now, second=True)
    return True


@merchants.may("viewer")
async def confirm(request: Request) -> Response:
    """Show again who you are: by the app, a passkey, or a code by mail."""
    return await _confirm(request, merchants.safe_next(request.query_params.get("next", "")))


async def _confirm(request: Request, aim: str, error: str | None = None) -> Response:
    person: merchants.Person = request.state.person
    has = await request.app.state.database.read(totp.factors, person.user_id)
    browser = _browser(request)
    asked = (
        await request.app.state.database.read(login.newest_ask, None, browser, clock.now())
        if browser
        else None
    )
    mailed = asked is not None and asked.address == person.email
    return door(
        request,
        "door/confirm.html",
        422 if error else 200,
        next=aim,
        error=error,
        has=has,
        mailed=mailed,
        email=person.email,
        script=True,
    )


@merchants.may("viewer")
async def do_confirm(request: Request) -> Response:
    fields = await request.form(max_files=0, max_fields=5)
    aim = merchants.safe_next(str(fields.get("next", "")))
    person: merchants.Person = request.state.person
    if "mail" in fields:
        browser = _browser(request) or secrets.token_urlsafe(24)
        await request.app.state.database.write(_ask, request, person.email, browser, merchants.HOME)
        work.nudge()
        return _with_browser(request, await _again(request, aim), browser)
    code = str(fields.get("code", ""))[:40]
    if not await request.app.state.database.write(_confirm_by_code, request, person, code):
        return await _confirm(
            request, aim, _("That is not the right code. Look again, or have a new one mailed.")
        )
    return RedirectResponse(aim, 303)


async def _again(request: Request, aim: str) -> Response:
    return RedirectResponse(f"{merchants.CONFIRM}?next={aim}", 303)


def _confirm_by_code(db: Session, request: Request, person: merchants.Person, code: str) -> bool:
    """Where a second factor is set up only it will do: a mailbox alone is what it guards against."""
    now = clock.now()
    if totp.factors(db, person.user_id).any:
        right = totp.spend(db, request.app.state.vault, person.user_id, code, now)
    else:
        secret = request.app.state.settings.secret_key.get_secret_value()
        spent = login.spend_code(db, None, code, _browser(request), secret, now)
        right = isinstance(spent, login.Spent) and spent.email == person.email
    if right:
        merchants.prove(db, person.session_id, now)
    return right


# The first start, and invitations


async def setup(request: Request) -> Response:
    return await _invited(request, "setup")


async def invitation(request: Request) -> Response:
    return await _invited(request, "invitations")


async def _invited(
    request: Request, path: str, problems: dict[str, str] | None = None, typed: dict[str, str] | None = None
) -> Response:
    token = request.path_params["token"][:200]
    found = await request.app.state.database.read(merchants.look_at_invitation, token, clock.now())
    if found is None:
        sentence = _("It works once and for a while. Ask for a new one; or sign in, if you have used it.")
        return door(request, "door/over.html", 410, heading=_("This link opens nothing"), sentence=sentence)
    return door(
        request,
        "door/invitation.html",
        422 if problems else 200,
        path=path,
        token=token,
        invited=found,
        problems=problems or {},
        typed=typed or {},
    )


async def take(request: Request) -> Response:
    """Take an invitation, or set up the installation."""
    path = "setup" if request.url.path.startswith("/setup/") else "invitations"
    fields = await request.form(max_files=0, max_fields=10)
    typed = {name: str(fields.get(name, "")).strip()[:254] for name in ("email", "name", "merchant")}
    token = request.path_params["token"][:200]
    database = request.app.state.database
    found = await database.read(merchants.look_at_invitation, token, clock.now())
    if found is None:
        return await _invited(request, path)
    problems = {}
    if found.email is None and not looks_like_address(typed["email"]):
        problems["email"] = _("Enter an address such as name@example.com.")
    if found.merchant is None and not typed["merchant"]:
        problems["merchant"] = _("Enter the name of your business.")
    if problems:
        return await _invited(request, path, problems, typed)
    try:
        opened = await database.write(
            merchants.take_invitation,
            token,
            typed["email"],
            typed["name"],
            typed["merchant"],
            _agent(request),
            request.state.network,
            clock.now(),
        )
    except merchants.Refused as error:
        return await _invited(request, path, {"email": str(error)}, typed)
    return _welcome(request, opened, merchants.HOME) if opened else await _invited(request, path)


@merchants.may("viewer")
async def switch(request: Request) -> Response:
    """Go on in another of one's merchants."""
    fields = await request.form(max_files=0, max_fields=3)
    wanted = str(fields.get("merchant", ""))
    if not wanted.isdigit() or not await request.app.state.database.write(
        merchants.switch, request.state.person, int(wanted)
    ):
        raise HTTPException(404)
    return RedirectResponse(merchants.HOME, 303)


async def sign_out(request: Request) -> Response:
    """Sign out here; who is not signed in any more is told the same."""
    token, settings = _session(request), request.app.state.settings
    if token:
        await request.app.state.database.write(merchants.end_by_cookie, token)
    answer = render.see_other(request, "/sign-in")
    name = merchants.cookie_name(settings)
    answer.delete_cookie(name, path="/", secure=settings.secure, httponly=True, samesite="lax")
    answer.headers["Clear-Site-Data"] = '"cache", "storage"'
    return answer


# Small things


def door(
    request: Request, template: str, status: int = 200, script: bool = False, **context: Any
) -> Response:
    """A page of the way in: complete in one request, its one style block allowed by its hash."""
    answer = render.page(request, template, status, script_wanted=script, **context)
    policy = CSP.replace("style-src 'self'", f"style-src '{assets.login_style().csp_hash}'")
    answer.headers["Content-Security-Policy"] = (
        policy if script else policy.replace("script-src 'self'; ", "")
    )
    return answer


def _welcome(request: Request, token: str, aim: str) -> Response:
    answer = RedirectResponse(merchants.safe_next(aim), 303)
    _set_cookie(request, answer, merchants.cookie_name(request.app.state.settings), token, None)
    return answer


def _session(request: Request) -> str | None:
    value = request.cookies.get(merchants.cookie_name(request.app.state.settings))
    return value if value and len(value) <= 200 else None


def _browser(request: Request) -> str | None:
    value = request.cookies.get(merchants.browser_cookie_name(request.app.state.settings))
    return value if value and 16 <= len(value) <= 100 else None


def _agent(request: Request) -> str:
    return request.headers.get("user-agent", "")


def _with_browser(request: Request, answer: Response, browser: str) -> Response:
    name = merchants.browser_cookie_name(request.app.state.settings)
    _set_cookie(request, answer, name, browser, KNOW_BROWSER_S)
    return answer


def _set_cookie(request: Request, answer: Response, name: str, value: str, age: int | None) -> None:
    secure = request.app.state.settings.secure
    answer.set_cookie(name, value, max_age=age, path="/", secure=secure, httponly=True, samesite="lax")
