"""The tab *Orders*, and one order."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import queries, render
from portal.login import signed_in
from portal.texts import gettext as _
from portal.views.paging import asked


@signed_in
async def index(request: Request) -> Response:
    where = asked(request, "after")
    page = await request.app.state.database.read(
        queries.orders, request.state.portal.id, request.state.customer.id, where.cursor
    )
    return render.tab(request, "orders", page, where=where)


@signed_in
async def show(request: Request) -> Response:
    page = await request.app.state.database.read(
        queries.order,
        request.state.portal.id,
        request.state.customer.id,
        request.path_params["order_id"],
    )
    if page is None:
        raise HTTPException(404)
    title = _("Order {number}").format(number=page.number) if page.number else page.title or _("Order")
    return render.tab(request, "orders", page, body="partials/order.html", title=title)
