"""The link in the mail to a further address: one question, one button, and what came of it."""

from starlette.requests import Request
from starlette.responses import Response

from portal import addresses, clock, login, people, work
from portal.people import Question
from portal.views.login import complete_page


async def link(request: Request) -> Response:
    """Machines open links too, so this changes nothing."""
    token = _token(request)
    found = await request.app.state.database.read(
        people.question, request.state.portal.id, token, clock.now()
    )
    if found is None:
        return await _own(request, token)
    if not isinstance(found, Question):
        return _over(request, "used" if found == "used" else "over")
    return complete_page(
        request,
        "join.html",
        state="asks",
        own=False,
        token=token,
        address=login.masked(found.address),
        other=login.masked(found.other),
        asked_at=found.asked_at,
    )


async def _own(request: Request, token: str) -> Response:
    """The same for a mail that somebody asked for who is signed in under another address."""
    found = await request.app.state.database.read(
        addresses.question, request.state.portal.id, token, clock.now()
    )
    if not isinstance(found, addresses.Question):
        return _over(request, "used" if found == "used" else "over")
    return complete_page(
        request,
        "join.html",
        state="asks",
        own=True,
        token=token,
        address=login.masked(found.address),
        other=login.masked(found.other),
        asked_at=found.asked_at,
    )


async def prove(request: Request) -> Response:
    """Whoever reads mail there says that both addresses are theirs."""
    portal, token, database = request.state.portal, _token(request), request.app.state.database
    own = await database.write(addresses.prove_by_link, portal.id, token, clock.now())
    if isinstance(own, login.Spent):
        work.nudge()
        return complete_page(request, "join.html", state="done")
    if isinstance(own, addresses.NotJoined):
        return complete_page(request, "join.html", 409, state="not", why=own.why)
    if own == "used":
        return _over(request, "used")
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
