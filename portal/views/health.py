"""For the machines that watch us: alive, and ready to serve."""

from datetime import datetime, timedelta

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from portal import clock, models, walls, work
from portal.migrate import serves

SILENT = timedelta(seconds=60)


async def live(request: Request) -> Response:
    """This process answers."""
    return JSONResponse({"status": "ok"})


async def ready(request: Request) -> Response:
    """The database is there and migrated, and a worker has drawn breath; 503 with the reasons where not."""
    database = request.app.state.database
    try:
        with walls.wide("health"):
            beat, waiting, seconds = await database.read(_state)
        serving = serves(database)
    except DBAPIError:
        return JSONResponse({"status": "no", "problems": ["the database does not answer"]}, 503)
    problems = []
    if not serving:
        problems.append("the database needs `portal migrate`")
    if beat is None or clock.now() - beat > SILENT:
        problems.append("no worker has been at work in the last minute: start `portal worker`")
    body = {
        "status": "no" if problems else "ok",
        "problems": problems,
        "jobs_due": waiting,
        "oldest_job_s": round(seconds, 1),
    }
    return JSONResponse(body, 503 if problems else 200)


def _state(db: Session) -> tuple[datetime | None, int, float]:
    found = db.get(models.Setting, "worker")
    return found.at if found else None, *work.lag(db, clock.now())
