"""`GET /metrics`, for a monitor: on this machine, or with the token. For anybody else there is no such page."""

import secrets

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import clock, metrics, walls
from portal.views.internal import is_this_machine


async def show(request: Request) -> Response:
    if not _may_read(request):
        raise HTTPException(404)
    with walls.wide("metrics"):
        told = await request.app.state.database.read(metrics.exposition, clock.now())
    return Response(told, headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"})


def _may_read(request: Request) -> bool:
    token = request.app.state.settings.metrics_token.get_secret_value()
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return bool(token) and secrets.compare_digest(given.strip().encode(), token.encode())
    return is_this_machine(request)
