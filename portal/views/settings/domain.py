"""Settings > Domain: claim a name, see what the DNS says of it, let it go."""

from datetime import datetime

from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response

from portal import clock, domains, merchants, render, work
from portal.domains import DomainView
from portal.ids import id_text
from portal.merchants import Person
from portal.texts import gettext as _


def _said(word: str) -> str | None:
    """A word in the address as a sentence; the address says nothing else."""
    known = {
        "claimed": _("Now set the two records below. We look at them every minute."),
        "taken_out": _("We took the name out of the address you typed. Now set the two records below."),
        "released": _("The name is let go."),
        "looking": _("We look now."),
        "just": _("We looked just now; once in ten seconds is the most."),
    }
    return known.get(word)


@merchants.in_portal("viewer")
async def show(request: Request) -> Response:
    return _page(request, await _view(request), said=_said(request.query_params.get("done", "")))


@merchants.in_portal("viewer")
async def state(request: Request) -> Response:
    """The part that changes by itself, for a page that looks again."""
    if not render.is_partial(request):
        return render.see_other(request, _here(request))
    return _piece(request, await _view(request))


@merchants.in_portal("editor")
async def look(request: Request) -> Response:
    begun = await request.app.state.database.write(domains.look_soon, request.state.site.id, clock.now())
    work.nudge()
    view = await _view(request)
    word = "looking" if begun or view.is_looking else "just"
    if render.is_partial(request):
        return _piece(request, view, said=_said(word))
    return render.see_other(request, f"{_here(request)}?done={word}")


@merchants.in_portal("owner", fresh=True)
async def name(request: Request) -> Response:
    return _form(request, await _view(request), "")


@merchants.in_portal("owner", fresh=True)
async def claim(request: Request) -> Response:
    fields = await request.form(max_files=0, max_fields=5)
    typed = str(fields.get("name", ""))[:2000]
    settings = request.app.state.settings
    try:
        wanted = domains.normalized(typed, settings)
    except domains.BadName as error:
        return _form(request, await _view(request), typed, error.sentence)
    await request.app.state.database.write(
        _claim, request.state.person, request.state.site.id, wanted, clock.now()
    )
    work.nudge()
    word = "claimed" if domains.is_as_typed(typed, wanted) else "taken_out"
    return render.see_other(request, f"{_here(request)}?done={word}")


def _claim(db: Session, person: Person, portal_id: int, wanted: str, now: datetime) -> None:
    before = domains.current(db, portal_id)
    found = domains.claim(db, portal_id, wanted, now)
    if before is None or before[0] != found.token:
        was = {"domain": before[1]} if before else None
        after = {"domain": wanted}
        merchants.audit(db, person, "domain.claimed", wanted, was, after, portal_id=portal_id)


@merchants.in_portal("owner", fresh=True)
async def ask_release(request: Request) -> Response:
    view = await _view(request)
    if not view.is_claimed:
        return render.see_other(request, _here(request))
    return render.settings(
        request,
        "settings/domain_release.html",
        _("Let the name go?"),
        "domain",
        domain=view,
        here=_here(request),
    )


@merchants.in_portal("owner", fresh=True)
async def release(request: Request) -> Response:
    await request.app.state.database.write(_release, request.state.person, request.state.site.id, clock.now())
    return render.see_other(request, f"{_here(request)}?done=released")


def _release(db: Session, person: Person, portal_id: int, now: datetime) -> None:
    found = domains.release(db, portal_id, now)
    if found is not None:
        was = {"domain": found.name}
        merchants.audit(db, person, "domain.released", found.name, was, {"domain": None}, portal_id=portal_id)


# What is drawn


def _here(request: Request) -> str:
    return f"/settings/portals/{id_text(request.state.site.id)}/domain"


async def _view(request: Request) -> DomainView:
    found: DomainView = await request.app.state.database.read(
        domains.of_portal, request.state.site.id, request.app.state.settings, clock.now()
    )
    return found


def _page(request: Request, view: DomainView, said: str | None) -> Response:
    return render.settings(
        request,
        "settings/domain.html",
        _("Domain"),
        "domain",
        domain=view,
        here=_here(request),
        said=said,
        by_itself=True,
        origin=request.app.state.settings.origin(view.host),
    )


def _piece(request: Request, view: DomainView, said: str | None = None) -> Response:
    """The state alone; `said`: somebody pressed a button for it."""
    return render.settings(
        request,
        "settings/domain_state.html",
        _("Domain"),
        "domain",
        domain=view,
        here=_here(request),
        said=said,
        by_itself=said is None,
    )


def _form(request: Request, view: DomainView, typed: str, problem: str | None = None) -> Response:
    return render.settings(
        request,
        "settings/domain_name.html",
        _("A name of your own") if not view.is_claimed else _("Another name"),
        "domain",
        422 if problem else 200,
        domain=view,
        here=_here(request),
        typed=typed,
        problems={"name": problem} if problem else {},
    )
