"""The tab *Orders*, and one order."""

from datetime import timedelta

from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import clock, offers, queries, render, work
from portal.connect import simulator
from portal.gateways import facts
from portal.gateways.base import Leave
from portal.jobs import enqueue
from portal.login import signed_in
from portal.texts import gettext as _
from portal.views.actions import sealed_address
from portal.views.paging import asked

# When we ask whether an open order was paid, in minutes after somebody went to pay it.
LOOKS = (1, 3, 10, 30)


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


@signed_in
async def pay_now(request: Request) -> Response:
    """On to the processor's page for an open order; whether it was paid is asked for afterwards, not believed."""
    state, portal = request.app.state, request.state.portal
    found = await state.database.read(
        queries.payable_order, portal.id, request.state.customer.id, request.path_params["order_id"]
    )
    if found is None:
        raise HTTPException(404)
    order, account = found
    stand_in = simulator(state.settings, account.processor)
    addresses = {"simulator": stand_in} if stand_in else None
    if not offers.order_can_be_paid(order.status, order.due_link, account) or not facts(
        account.processor
    ).allows_link(order.due_link or "", addresses):
        return render.see_other(request, f"/customers/orders/{render.id_text(order.id)}")
    await state.database.write(_look_later, order.id)
    work.nudge()
    return render.leave(request, sealed_address(request, Leave(order.due_link or "")))


def _look_later(db: Session, order_id: int) -> None:
    now = clock.now()
    for minutes in LOOKS:
        at = now + timedelta(minutes=minutes)
        enqueue(db, "look_at_order", {"order": order_id}, at, f"look_at_order:{order_id}:{at:%Y%m%d%H%M}")
