"""The tab *Payment history*."""

from starlette.requests import Request
from starlette.responses import Response

from portal import queries, render
from portal.login import signed_in
from portal.views.paging import asked


@signed_in
async def index(request: Request) -> Response:
    where = asked(request, "after")
    page = await request.app.state.database.read(
        queries.payments, request.state.portal.id, request.state.customer.id, where.cursor
    )
    return render.tab(request, "payments", page, where=where)
