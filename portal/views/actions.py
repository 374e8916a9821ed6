"""What a customer does with a subscription: the step that says what will happen, the doing, the leaving, the return."""

from dataclasses import dataclass
from datetime import timedelta

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import actions, clock, models, queries, render, work
from portal.gateways.capabilities import Key
from portal.login import signed_in
from portal.texts import gettext as _

# The steps that have an address, and the wishes that each can end in; the first that is to be had is proposed.
STEPS: dict[str, tuple[Key, ...]] = {
    "cancel": ("cancel_at_period_end", "cancel_now"),
    "undo_cancel": ("undo_cancel",),
    "update_payment_method": ("update_payment_method",),
    "pause": ("pause",),
    "resume": ("resume",),
    "pay_now": ("pay_now",),
}
LEAVE_FOR = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Step:
    """One step drawn before anything is done."""

    name: str
    subscription: models.Subscription
    label: str  # of the processor
    offers: list[actions.Offer]
    error: str | None = None
    reason: str = ""
    comment: str = ""
    chosen: str = ""


@signed_in
async def step(request: Request) -> Response:
    name = request.path_params["step"]
    found = await _step(request, name)
    if isinstance(found, str):
        return _closed(request, found, 200)
    return render.piece(request, f"partials/step_{_drawing(name)}.html", tab="subscriptions", step=found)


@signed_in
async def act(request: Request) -> Response:
    name = request.path_params["step"]
    if name not in STEPS:
        raise HTTPException(404)
    form = await request.form(max_files=0, max_fields=10)
    wish = str(form.get("wish", ""))
    keys = {key: key for key in STEPS[name]}
    if len(keys) == 1:
        wish = STEPS[name][0]
    if wish not in keys:
        found = await _step(request, name)
        if isinstance(found, str):
            return _closed(request, found, 409)
        error = _("Choose when it should end.")
        again = Step(name, found.subscription, found.label, found.offers, error=error)
        return render.piece(
            request, f"partials/step_{_drawing(name)}.html", status=422, tab="subscriptions", step=again
        )
    params = {
        "reason": str(form.get("reason", ""))[:200],
        "comment": str(form.get("comment", ""))[:1000],
    }
    state = request.app.state
    try:
        done = await actions.perform(
            state.database,
            state.settings,
            state.vault,
            request.state.portal,
            request.state.customer.id,
            request.path_params["subscription_id"],
            keys[wish],
            params,
        )
    except LookupError:
        raise HTTPException(404) from None
    except actions.Refused as refused:
        return _closed(request, str(refused), 409)
    finally:
        work.nudge()
    if done.leave is not None:
        sealed = state.seal.seal(
            {"url": done.leave, "until": (clock.now() + LEAVE_FOR).timestamp()},
            f"leave {request.state.customer.session_id}",
        )
        return render.leave(request, f"/customers/leave/{sealed}")
    return await _redrawn(request)


async def _redrawn(request: Request) -> Response:
    """After the doing: the card as it is now; without JavaScript, the tab at that card."""
    subscription_id = request.path_params["subscription_id"]
    if not render.is_partial(request):
        return render.see_other(request, f"/customers/subscriptions#sub-{render.id_text(subscription_id)}")
    return await card_piece(request, subscription_id)


@signed_in
async def card(request: Request) -> Response:
    """One card alone: what a pending card asks for again and again until it is proven."""
    return await card_piece(request, request.path_params["subscription_id"])


async def card_piece(request: Request, subscription_id: int) -> Response:
    from portal.views.subscriptions import one_card

    found = await one_card(request, subscription_id)
    if found is None:
        raise HTTPException(404)
    return render.piece(request, "partials/subscription.html", tab="subscriptions", card=found)


async def _step(request: Request, name: str) -> Step | str:
    """The step, or the sentence that says why there is none."""
    if name not in STEPS:
        raise HTTPException(404)
    state = request.app.state
    subject = await state.database.read(
        queries.subject,
        request.state.portal.id,
        request.state.customer.id,
        request.path_params["subscription_id"],
    )
    if subject is None:
        raise HTTPException(404)
    offers = actions.available(
        subject.row, subject.account, request.state.portal, clock.now(), busy=subject.busy
    )
    wished = [offers[key] for key in STEPS[name] if key in offers]
    if ok := [offer for offer in wished if offer.ok]:
        return Step(name, subject.row, subject.label, ok, chosen=ok[0].key)
    return next(
        (offer.why for offer in wished if offer.why),
        _("This isn't possible for this subscription as it is now."),
    )


def _drawing(name: str) -> str:
    return "cancel" if name == "cancel" else "simple"


def _closed(request: Request, why: str, status: int) -> Response:
    return render.piece(
        request,
        "partials/step_closed.html",
        status=status,
        tab="subscriptions",
        why=why,
        subscription_id=request.path_params["subscription_id"],
    )


@signed_in
async def leave(request: Request) -> Response:
    """On to the processor's page: its address is sealed, bound to the session, and good for five minutes."""
    opened = request.app.state.seal.open(
        request.path_params["sealed"], f"leave {request.state.customer.session_id}"
    )
    if opened is None or opened["until"] < clock.now().timestamp():
        return render.page(request, "leave_over.html", status=410)
    return render.see_other(request, opened["url"])


async def come_back(request: Request) -> Response:
    """A processor sends somebody back: the one-time state is spent, the look is queued, nothing is believed."""
    if request.method == "HEAD":
        return Response(status_code=200)
    state = actions.open_state(request.app.state.settings, request.path_params["state"])
    capability = None
    if state is not None:
        capability = await request.app.state.database.write(
            actions.spend_state, state, dict(request.query_params), clock.now()
        )
    work.nudge()
    target = "/customers/subscriptions"
    return render.see_other(request, target if capability else f"{target}?back=again")
