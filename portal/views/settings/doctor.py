"""The doctor's page: what is known at once, what is asked outside piece by piece, and a mail to oneself."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session
from sqlmodel import col
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from portal import clock, doctor, merchants, models, render
from portal.doctor import Area, Finding
from portal.merchants import Person
from portal.settings import Settings
from portal.texts import gettext as _

HERE = "/settings/doctor"
MAILS, MAILS_IN = 5, timedelta(minutes=10)  # to oneself
_TESTED = "mail.tested"


@dataclass(frozen=True, slots=True)
class Section:
    """An area and its lines. `waits`: what is asked outside is still to come."""

    area: Area
    label: str
    lines: tuple[Finding, ...]
    waits: bool = False


@merchants.may("viewer")
async def show(request: Request) -> Response:
    """What rows say, at once; what is asked outside comes in pieces, or all together with `?all=1`."""
    said = _("The keys were checked just now.") if request.query_params.get("done") == "checked" else None
    return await _show(request, everything=request.query_params.get("all") == "1", said=said)


async def _show(
    request: Request,
    everything: bool = False,
    said: str | None = None,
    answer: Finding | None = None,
    status: int = 200,
) -> Response:
    person, state = request.state.person, request.app.state
    areas = _areas(person)
    lines = await state.database.read(_known, state.settings, person, clock.now())
    if everything:
        slow = [area for area in doctor.SLOW if area in areas]
        asked = await doctor.ask(state.database, state.settings, person.merchant_id, slow)
        lines = [*(line for line in lines if line.area not in slow), *asked]
    sections = [_section(area, lines, waits=not everything and area in doctor.SLOW) for area in areas]
    return render.settings(
        request,
        "settings/doctor.html",
        _("Doctor"),
        "doctor",
        status,
        said=said,
        answer=answer,
        everything=everything,
        own=[section for section in sections if section.area in doctor.MERCHANTS],
        installation=[section for section in sections if section.area in doctor.INSTALLATION],
    )


def _areas(person: Person) -> tuple[Area, ...]:
    """What somebody may see: the installation's own lines are for owners."""
    return (*doctor.MERCHANTS, *(doctor.INSTALLATION if person.may("owner") else ()))


def _known(db: Session, settings: Settings, person: Person, now: datetime) -> list[Finding]:
    lines = doctor.of_merchant(db, settings, person.merchant_id, now)
    if person.may("owner"):
        lines += doctor.of_installation(db, settings, person.merchant_id, now)
    return lines


def _section(area: Area, lines: list[Finding], waits: bool) -> Section:
    return Section(area, doctor.label(area), tuple(line for line in lines if line.area == area), waits)


@merchants.may("viewer")
async def area(request: Request) -> Response:
    """One area, asked outside now; without JavaScript all of them."""
    wanted = next((one for one in doctor.SLOW if one == request.path_params["area"]), None)
    if wanted is None or wanted not in _areas(request.state.person):
        raise HTTPException(404)
    if not render.is_partial(request):
        return RedirectResponse(f"{HERE}?all=1#{wanted}", 303)
    state = request.app.state
    lines = await doctor.ask(state.database, state.settings, request.state.person.merchant_id, [wanted])
    section = _section(wanted, lines, waits=False)
    return render.settings(request, "settings/doctor_area.html", section.label, "doctor", one=section)


@merchants.may("editor")
async def check_keys(request: Request) -> Response:
    """Ask all processors now, and keep what they say."""
    state = request.app.state
    await doctor.check_keys(state.database, state.settings, request.state.person.merchant_id)
    return render.see_other(request, f"{HERE}?done=checked#keys")


@merchants.may("owner")
async def send_mail(request: Request) -> Response:
    """Really send a mail to who asks, and show what the server said."""
    person, state = request.state.person, request.app.state
    if not await state.database.write(_may_send, person, clock.now()):
        todo = _("Try again in a few minutes.")
        answer = Finding("mail", "warn", _("You have sent yourself several mails just now."), todo)
        return await _show(request, answer=answer, status=429)
    return await _show(request, answer=await doctor.send_test(state.settings, person.email))


def _may_send(db: Session, person: Person, now: datetime) -> bool:
    """Note it among the changes, by which it is also seen how many there were."""
    row = models.Audit
    newest = (
        select(col(row.what), col(row.user_id), col(row.at))
        .where(col(row.merchant_id) == person.merchant_id)
        .order_by(col(row.id).desc())
        .limit(200)
        .subquery()
    )
    sent = db.execute(
        select(func.count()).where(
            newest.c.what == _TESTED, newest.c.user_id == person.user_id, newest.c.at > now - MAILS_IN
        )
    ).scalar_one()
    if sent >= MAILS:
        return False
    merchants.audit(db, person, _TESTED, subject=person.email)
    return True
