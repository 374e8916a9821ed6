"""What a customer has asked the merchant: the list, and asking for a refund of a payment taken after the end."""

import contextlib
from datetime import datetime

from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import clock, models, queries, render, requests, work
from portal.ids import parse_id
from portal.login import signed_in


@signed_in
async def index(request: Request) -> Response:
    before = parse_id(request.query_params.get("before", ""))
    page = await request.app.state.database.read(
        requests.of_customer, request.state.portal.id, request.state.customer.id, before
    )
    return render.page(request, "requests.html", page=page)


@signed_in
async def refund(request: Request) -> Response:
    """One click: the payment is known, and so is why."""
    portal, customer = request.state.portal, request.state.customer
    database = request.app.state.database
    payment = await database.read(
        queries.payment_after_end, portal.id, customer.id, request.path_params["payment_id"]
    )
    if payment is None:
        raise HTTPException(404)
    with contextlib.suppress(requests.AlreadyAsked):  # a second click, or a second window: it is asked
        await database.write(_ask, payment, clock.now())
    work.nudge()
    return render.see_other(request, "/customers/requests")


def _ask(db: Session, payment: models.Payment, now: datetime) -> None:
    assert payment.customer_id is not None
    requests.ask(
        db,
        payment.portal_id,
        payment.account_id,
        payment.customer_id,
        payment.id,
        "refund",
        payment.title or "",
        now,
        params={"payment": payment.remote_id, "minor": payment.amount_minor, "currency": payment.currency},
    )
