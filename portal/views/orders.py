"""The tab *Orders*, and one order."""

from datetime import timedelta

from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import checks, clock, offers, queries, render, work
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
    check = await _check(request, page)
    here = f"/customers/orders/{render.id_text(page.id)}"
    return render.tab(
        request, "orders", page, body="partials/order.html", title=title, check=check, here=here
    )


async def _check(request: Request, page: queries.OrderPage) -> checks.Check | None:
    """How it stands with having it checked; None where nothing is open."""
    if page.status not in checks.OPEN["order_"] or page.missing:
        return None
    found: checks.Check = await request.app.state.database.read(
        checks.now_of, request.state.customer.id, page.id
    )
    return found


@signed_in
async def check(request: Request) -> Response:
    """The piece about checking by itself; on to the whole order once there is nothing open any more."""
    order_id = request.path_params["order_id"]
    page = await request.app.state.database.read(
        queries.order, request.state.portal.id, request.state.customer.id, order_id
    )
    if page is None:
        raise HTTPException(404)
    found, here = await _check(request, page), f"/customers/orders/{render.id_text(order_id)}"
    if found is None or not render.is_partial(request):
        return render.see_other(request, here)
    return render.page(request, "partials/check.html", check=found, here=here)


@signed_in
async def check_again(request: Request) -> Response:
    """Somebody has paid: have the processor asked."""
    state, order_id = request.app.state, request.path_params["order_id"]
    wanted = await state.database.write(
        checks.want, request.state.portal.id, request.state.customer.id, "order_", order_id, clock.now()
    )
    if wanted is None:
        raise HTTPException(404)
    work.nudge()
    return await check(request)


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
