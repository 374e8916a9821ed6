"""Settings > Events: what came in from the processors, what could not be carried out, and carrying it out once more."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import clock, inbox, merchants, render, work
from portal.ids import id_text, parse_id
from portal.inbox import State
from portal.merchants import Refused
from portal.policy import Privacy
from portal.texts import gettext as _
from portal.views.paging import asked

MOST_BATCHES = 20  # of a replay of all, in one click


def _here(request: Request, path: str = "") -> str:
    return f"/settings/portals/{id_text(request.state.site.id)}/events{path}"


def states() -> dict[str, tuple[str, str]]:
    return {
        "parked": ("bad", _("Set aside")),
        "waiting": ("info", _("Received")),
        "refused": ("warn", _("Refused")),
        "handled": ("ok", _("Handled")),
    }


def syncs() -> dict[str, str]:
    return {
        "refresh": _("Asking about a subscription"),
        "backfill": _("Reading everything in"),
        "read_back": _("Checking an action"),
        "finish_method": _("Checking a new payment method"),
        "scheduled_cancel": _("A booked cancellation"),
        "look_at_order": _("Asking about an order"),
        "check_account": _("Checking the keys"),
    }


@merchants.in_portal("viewer")
async def index(request: Request) -> Response:
    done = {
        "all": _("What was set aside of this account is being carried out again."),
        "rest": _("The first {n} are being carried out again. Press once more for the rest.").format(
            n=MOST_BATCHES * inbox.BATCH
        ),
        "none": _("There was nothing that could be carried out again."),
        "retried": _("It is being tried again."),
    }
    return await _index(request, said=done.get(request.query_params.get("done", "")))


async def _index(
    request: Request, problems: dict[str, str] | None = None, said: str | None = None
) -> Response:
    site, read = request.state.site, request.app.state.database.read
    state = next((one for one in inbox.STATES if one == request.query_params.get("state")), "all")
    known = await read(inbox.accounts, site.id)
    account = next((one for one in known if id_text(one.id) == request.query_params.get("account")), None)
    where = asked(request, "after")
    before = parse_id(request.query_params.get("before", ""))
    page = await read(inbox.events, site.id, _state(state), account.id if account else None, where.cursor)
    return render.settings(
        request,
        "settings/events.html",
        _("Events"),
        "events",
        422 if problems else 200,
        page=page,
        troubled=await read(inbox.syncs, site.id, before),
        state=state,
        account=account,
        accounts=known,
        where=where,
        here=_here(request),
        states=states(),
        syncs=syncs(),
        reason=inbox.reason,
        problems=problems or {},
        said=said,
    )


def _state(text: str) -> State:
    return next((one for one in inbox.STATES if one == text), "all")


@merchants.in_portal("viewer")
async def show(request: Request) -> Response:
    done = {"again": _("It is being carried out again. Load the page anew to see what came of it.")}
    return await _show(request, said=done.get(request.query_params.get("done", "")))


async def _show(
    request: Request, problems: dict[str, str] | None = None, said: str | None = None
) -> Response:
    page = await request.app.state.database.read(
        inbox.event_page, request.state.site.id, request.path_params["event_id"]
    )
    if page is None:
        raise HTTPException(404)
    return render.settings(
        request,
        "settings/event.html",
        page.row.type,
        "events",
        422 if problems else 200,
        page=page,
        here=_here(request),
        states=states(),
        reason=inbox.reason(page.last_error),
        kept_days=Privacy.of(request.state.site.privacy).bodies_days,
        problems=problems or {},
        said=said,
        to_customers=f"/settings/portals/{id_text(request.state.site.id)}/customers",
        touched_words={
            "order": _("Order"),
            "subscription": _("Subscription"),
            "payment": _("Payment"),
            "refund": _("Refund"),
            "invoice": _("Invoice"),
            "remote_customer": _("Customer at the processor"),
        },
    )


@merchants.in_portal("viewer")
async def body(request: Request) -> Response:
    """The bytes as they came, to be kept and never shown as a page."""
    row = await request.app.state.database.read(
        inbox.one_event, request.state.site.id, request.path_params["event_id"]
    )
    if row is None or row.body is None:
        raise HTTPException(404)
    name = f"event-{id_text(row.id)}.txt"
    return Response(
        row.body,
        media_type="application/octet-stream",
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "Content-Security-Policy": "default-src 'none'; sandbox",
        },
    )


@merchants.in_portal("editor")
async def replay(request: Request) -> Response:
    event_id = request.path_params["event_id"]
    try:
        await request.app.state.database.write(
            inbox.replay, request.state.person, request.state.site.id, event_id, clock.now()
        )
    except LookupError:
        raise HTTPException(404) from None
    except Refused as error:
        return await _show(request, {"form": str(error)})
    work.nudge()
    return render.see_other(request, _here(request, f"/{id_text(event_id)}?done=again"))


@merchants.in_portal("editor")
async def replay_all(request: Request) -> Response:
    """All that is set aside of one account, a batch and a transaction at a time."""
    form = await request.form(max_files=0, max_fields=3)
    account_id = parse_id(str(form.get("account", "")))
    if account_id is None:
        raise HTTPException(404)
    count, after = 0, 0
    more: int | None = 0
    try:
        for _batch in range(MOST_BATCHES):
            found, more = await request.app.state.database.write(
                inbox.replay_parked,
                request.state.person,
                request.state.site.id,
                account_id,
                clock.now(),
                after,
            )
            count += found
            if more is None:
                break
            after = more
    except LookupError:
        raise HTTPException(404) from None
    except Refused as error:
        return await _index(request, {"form": str(error)})
    work.nudge()
    done = "none" if not count else "all" if more is None else "rest"
    return render.see_other(request, _here(request, f"?done={done}"))


@merchants.in_portal("editor")
async def retry(request: Request) -> Response:
    try:
        await request.app.state.database.write(
            inbox.retry_sync,
            request.state.person,
            request.state.site.id,
            request.path_params["job_id"],
            clock.now(),
        )
    except LookupError:
        raise HTTPException(404) from None
    except Refused as error:
        return await _index(request, {"form": str(error)})
    work.nudge()
    return render.see_other(request, _here(request, "?done=retried"))
