"""The link in the mail to a further address: one question, one button, and what came of it."""

from starlette.requests import Request
from starlette.responses import Response

from portal import clock, login, people, work
from portal.people import Question
from portal.views.login import complete_page


async def link(request: Request) -> Response:
    """Machines open links too, so this changes nothing."""
    token = _token(request)
    found = await request.app.state.database.read(
        people.question, request.state.portal.id, token, clock.now()
    )
    if not isinstance(found, Question):
        return _over(request, "used" if found == "used" else "over")
    return complete_page(
        request,
        "join.html",
        state="asks",
        token=token,
        address=login.masked(found.address),
        other=login.masked(found.other),
        asked_at=found.asked_at,
    )


async def prove(request: Request) -> Response:
    """Whoever reads mail there says that both addresses are theirs."""
    portal, token, database = request.state.portal, _token(request), request.app.state.database
    if await database.write(people.prove, portal.id, token, clock.now()):
        work.nudge()
        return complete_page(request, "join.html", state="done")
    found = await database.read(people.question, portal.id, token, clock.now())
    return _over(request, "used" if found == "used" else "over")


def _token(request: Request) -> str:
    found: str = request.path_params["token"][:200]
    return found


def _over(request: Request, state: str) -> Response:
    return complete_page(request, "join.html", 410, state=state)
