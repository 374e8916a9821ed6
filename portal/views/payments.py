"""The tab *Payment history*."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import checks, clock, queries, render, work
from portal.login import signed_in
from portal.views.paging import asked


@signed_in
async def index(request: Request) -> Response:
    where = asked(request, "after")
    page = await request.app.state.database.read(
        queries.payments, request.state.portal.id, request.state.customer.id, where.cursor
    )
    open_ = [row.id for row in page.rows if row.status in checks.OPEN["payment"]]
    found = {}
    if open_:
        found = await request.app.state.database.read(
            checks.of_rows, request.state.customer.id, open_, clock.now()
        )
    return render.tab(request, "payments", page, where=where, checks=found)


@signed_in
async def check_again(request: Request) -> Response:
    """Somebody has paid: have the processor asked."""
    state, payment_id = request.app.state, request.path_params["payment_id"]
    wanted = await state.database.write(
        checks.want, request.state.portal.id, request.state.customer.id, "payment", payment_id, clock.now()
    )
    if wanted is None:
        raise HTTPException(404)
    work.nudge()
    return render.see_other(request, f"/customers/payments#payment-{render.id_text(payment_id)}")
