"""The tab *Payment history*."""

from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import checks, clock, queries, render, work
from portal.login import signed_in
from portal.views.paging import asked


@signed_in
async def index(request: Request) -> Response:
    where = asked(request, "after")
    page, found = await request.app.state.database.read(
        _page, request.state.portal.id, request.state.customer.id, where.cursor
    )
    return render.tab(request, "payments", page, where=where, checks=found)


def _page(
    db: Session, portal_id: int, customer_id: int, after: queries.Cursor | None
) -> tuple[queries.PaymentsPage, dict[int, checks.Check]]:
    """One page, and how it stands with having checked what is open on it."""
    page = queries.payments(db, portal_id, customer_id, after)
    open_ = [row.id for row in page.rows if row.status in checks.OPEN["payment"]]
    return page, checks.of_rows(db, customer_id, open_, clock.now()) if open_ else {}


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
