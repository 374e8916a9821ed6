"""What a customer does with a subscription: the step that says what will happen, the doing, the leaving, the return."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import actions, clock, models, offers, queries, render, requests, work
from portal.gateways.base import Leave
from portal.gateways.capabilities import Key
from portal.login import signed_in
from portal.tenancy import PortalView
from portal.texts import gettext as _

# The steps that have an address, and the wishes that each can end in; the first that is to be had is proposed.
STEPS: dict[str, tuple[Key, ...]] = {
    "cancel": ("cancel_at_period_end", "cancel_now"),
    "undo_cancel": ("undo_cancel",),
    "update_payment_method": ("update_payment_method",),
    "pause": ("pause",),
    "resume": ("resume",),
    "pay_now": ("pay_now",),
    "change_plan": ("change_plan",),
    "skip_next_payment": ("skip_next_payment",),
}
LEAVE_FOR = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Instead:
    """What is offered to who names this reason, as it can be taken now; `step` is where it is taken."""

    reason: str
    kind: str  # pause, plan, ask
    step: str
    asks: bool  # the shop is asked
    text: str | None
    plan: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One step drawn before anything is done."""

    name: str
    subscription: models.Subscription
    label: str  # of the processor
    offers: list[offers.Offer]
    answered_by: datetime  # if it is asked of the merchant today
    way_back: str | None = None  # after a cancel: the mode in which it could be taken back
    barred: str | None = None  # why the other way to cancel is not to be had
    instead: tuple[Instead, ...] = ()
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
        again = replace(found, error=error)
        return render.piece(
            request, f"partials/step_{_drawing(name)}.html", status=422, tab="subscriptions", step=again
        )
    params = {
        "reason": _reason(request, form.get("reason")),
        "comment": str(form.get("comment", ""))[:1000],
        "plan": str(form.get("plan", ""))[:200],
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
        return _leave(request, done.leave)
    try:
        return await _redrawn(request)
    except DBAPIError:
        said = _(
            "It is written down and goes on, but can't be shown now. Open your subscriptions again in a minute."
        )
        raise HTTPException(503, said, {"Retry-After": "10"}) from None


def _leave(request: Request, leave: Leave) -> Response:
    """On to the processor; where it sends nobody back, with a link that opens a tab of its own."""
    address = sealed_address(request, leave)
    if leave.returns:
        return render.leave(request, address)
    return render.piece(
        request,
        "partials/step_away.html",
        tab="subscriptions",
        address=address,
        name=request.path_params["step"],
        subscription_id=request.path_params["subscription_id"],
    )


def sealed_address(request: Request, leave: Leave) -> str:
    """Our own address that leads on to a processor's page: sealed, bound to the session, good for five minutes."""
    sealed = request.app.state.seal.seal(
        {
            "url": leave.url,
            "script": asdict(leave.script) if leave.script else None,
            "until": (clock.now() + LEAVE_FOR).timestamp(),
        },
        f"leave {request.state.customer.session_id}",
    )
    return f"/customers/leave/{sealed}"


@signed_in
async def look_again(request: Request) -> Response:
    """The customer says that they are done at a page that sends nobody back."""
    name = request.path_params["step"]
    if name not in STEPS:
        raise HTTPException(404)
    await request.app.state.database.write(
        actions.look_again,
        request.state.portal.id,
        request.state.customer.id,
        request.path_params["subscription_id"],
        STEPS[name][0],
        clock.now(),
    )
    work.nudge()
    return await _redrawn(request)


@signed_in
async def withdraw(request: Request) -> Response:
    """Take back what was asked of the merchant."""
    try:
        await request.app.state.database.write(
            requests.withdraw,
            request.state.portal.id,
            request.state.customer.id,
            request.path_params["request_id"],
            clock.now(),
        )
    except LookupError:
        raise HTTPException(404) from None
    except requests.NotOpen:
        pass  # answered meanwhile: the card or the list says how
    work.nudge()
    if "subscription_id" in request.path_params:
        return await _redrawn(request)
    return render.see_other(request, "/customers/requests")


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
    portal, now = request.state.portal, clock.now()
    answers = offers.available(subject.row, subject.account, portal, now, subject.busy, subject.asked)
    wished = [answers[key] for key in STEPS[name] if key in answers]
    if ok := [offer for offer in wished if offer.ok]:
        answered_by = now + timedelta(days=portal.request_days)
        found = Step(name, subject.row, subject.label, ok, answered_by, chosen=ok[0].key)
        if name == "cancel":
            return replace(
                found,
                way_back=offers.way_back(subject.row, subject.account, portal, ok[0]),
                barred=_barred(wished, portal),
                instead=_instead(answers, portal, subject.asked),
            )
        # Who comes from an offer beside the cancel button brings the reason along, and the plan that was offered.
        plan = request.query_params.get("plan", "")
        chosen = plan if any(one["title"] == plan for one in ok[0].plans) else ok[0].key
        return replace(found, reason=_reason(request, request.query_params.get("reason")), chosen=chosen)
    return next(
        (offer.why for offer in wished if offer.why),
        _("This isn't possible for this subscription as it is now."),
    )


def _barred(wished: list[offers.Offer], portal: PortalView) -> str | None:
    """Why customers of this shop do not have the other way to cancel, where its policy keeps it from them."""
    return next(
        (offer.why for offer in wished if not offer.ok and portal.cancel_policy.bars(offer.key)), None
    )


def _instead(
    answers: Mapping[Key, offers.Offer], portal: PortalView, asked: frozenset[str]
) -> tuple[Instead, ...]:
    """What the shop offers beside the cancel button, as far as it can be taken now."""
    found = []
    for offer in portal.save_offers:
        key: Key = "pause" if offer.kind == "pause" else "change_plan"
        answer = answers.get(key)
        if offer.kind == "ask" and "offer" not in asked:
            found.append(Instead(offer.reason, "ask", "offer", True, offer.text))
        elif offer.kind == "pause" and answer is not None and answer.ok:
            found.append(Instead(offer.reason, "pause", key, answer.mode == "request", offer.text))
        elif offer.kind == "plan" and answer is not None and answer.ok:
            plan = next((one for one in answer.plans if one["title"] == offer.plan), None)
            if plan is not None:
                found.append(Instead(offer.reason, "plan", key, False, offer.text, plan))
    return tuple(found)


def _reason(request: Request, text: object) -> str:
    """One of the reasons that the shop lists; anything else is none."""
    return text if isinstance(text, str) and text in request.state.portal.cancel_reasons else ""


@signed_in
async def instead(request: Request) -> Response:
    """The offers beside the cancel button, for one reason or for all; without JavaScript, the step with all of them."""
    found = await _step(request, "cancel")
    if isinstance(found, str):
        return _closed(request, found, 200)
    if not render.is_partial(request):
        return render.piece(request, "partials/step_cancel.html", tab="subscriptions", step=found)
    if reason := _reason(request, request.query_params.get("reason")):
        only = tuple(offer for offer in found.instead if offer.reason == reason)
        found = replace(found, instead=only, reason=reason)
    return render.piece(request, "partials/step_instead.html", tab="subscriptions", step=found)


@signed_in
async def take_offer(request: Request) -> Response:
    """The customer wants what is offered, and nothing here can give it: the shop is asked."""
    form = await request.form(max_files=0, max_fields=5)
    try:
        await request.app.state.database.write(
            actions.ask_for_offer,
            request.state.portal,
            request.state.customer.id,
            request.path_params["subscription_id"],
            str(form.get("reason", "")),
            clock.now(),
        )
    except LookupError:
        raise HTTPException(404) from None
    except actions.Refused as refused:
        return _closed(request, str(refused), 409)
    finally:
        work.nudge()
    return await _redrawn(request)


def _drawing(name: str) -> str:
    return name if name in ("cancel", "change_plan") else "simple"


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
    opened = _opened(request)
    if opened is None:
        return render.page(request, "leave_over.html", status=410)
    if opened.get("script"):
        return _by_script(request, opened["script"], opened["url"])
    return render.see_other(request, opened["url"])


def _by_script(request: Request, script: dict[str, Any], url: str) -> Response:
    """The bare page of a processor that can only be entered by its script: nothing of the customer's stands on it,
    and its policy allows that script, our few lines that start it, and the places it talks to."""
    answer = render.page(request, "leave_script.html", script=script, url=url, here=request.url.path)
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(script["src"]))
    places = " ".join([origin, *script["connects"]])
    answer.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self' {origin}; connect-src {places}; frame-src {places}; "
        f"img-src {places} data:; style-src {places} 'unsafe-inline'; form-action 'self' {places}; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
    answer.headers["Cross-Origin-Opener-Policy"] = "unsafe-none"  # banks open windows of their own
    return answer


@signed_in
async def start(request: Request) -> Response:
    """The lines that start a processor's script, for the bare page alone."""
    opened = _opened(request)
    if opened is None or not opened.get("script"):
        raise HTTPException(404)
    return Response(opened["script"]["start"], media_type="text/javascript")


def _opened(request: Request) -> dict[str, Any] | None:
    sealed = request.path_params["sealed"]
    opened: dict[str, Any] | None = request.app.state.seal.open(
        sealed, f"leave {request.state.customer.session_id}"
    )
    return opened if opened is not None and opened["until"] >= clock.now().timestamp() else None


async def come_back(request: Request) -> Response:
    """A processor sends somebody back: the one-time state is spent, the look is queued, nothing is believed."""
    if request.method == "HEAD":
        return Response(status_code=200)
    state = actions.open_state(request.app.state.settings, request.path_params["state"])
    capability = None
    if state is not None:
        told = dict(request.query_params)
        if (
            request.method == "POST"
        ):  # some processors send people back with a form, across sites and so without cookie
            form = await request.form(max_files=0, max_fields=30)
            told |= {name: value[:500] for name, value in form.items() if isinstance(value, str)}
        capability = await request.app.state.database.write(actions.spend_state, state, told, clock.now())
    work.nudge()
    target = "/customers/subscriptions"
    return render.see_other(request, target if capability else f"{target}?back=again")
