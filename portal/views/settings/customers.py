"""Settings > Customers: finding people, orders, payments and subscriptions; the page of a customer; records of nobody;
further addresses; and taking data out."""

from dataclasses import replace
from typing import Any

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from portal import clock, customers, export, merchants, people, queries, render, search, sync, tenancy, work
from portal.ids import id_text, parse_id
from portal.merchants import Refused
from portal.queries import Cursor, Subject
from portal.texts import gettext as _
from portal.views.paging import asked
from portal.views.settings.requests import kinds, states
from portal.views.subscriptions import Card, card


def _here(request: Request, path: str = "") -> str:
    return f"/settings/portals/{id_text(request.state.site.id)}/customers{path}"


def _text(form: FormData, name: str, most: int = 254) -> str:
    value = form.get(name, "")
    return value.strip()[:most] if isinstance(value, str) else ""


def record_kinds() -> dict[str, str]:
    return {
        "customer": _("Customer at the processor"),
        "order": _("Order"),
        "subscription": _("Subscription"),
        "payment": _("Payment"),
        "invoice": _("Invoice"),
    }


# Finding


@merchants.in_portal("viewer")
async def index(request: Request) -> Response:
    """The search; without a text the newest customers."""
    typed = search.read(request.query_params.get("q", ""))
    only = request.query_params.get("only")
    only = only if only in search.GROUPS else None
    after = request.query_params.get("after")
    groups = await request.app.state.database.read(search.search, request.state.site.id, typed, only, after)
    return render.settings(
        request,
        "settings/customers.html",
        _("Customers"),
        "customers",
        groups=groups,
        typed=typed,
        only=only,
        goes_on=after is not None,
        mixed=len(search.currencies_in(groups)) > 1,
        here=_here(request),
        sheets=list(export.SHEETS),
        states=states(),
    )


# One customer


@merchants.in_portal("viewer")
async def show(request: Request) -> Response:
    done = {
        "asked": _(
            "If that is a customer's address here, a mail has gone to it. They are joined when the link in it is used."
        ),
        "parted": _("Taken apart. Each address has its own again."),
        "assigned": _("Assigned."),
    }
    return await _show(request, said=done.get(request.query_params.get("done", "")))


async def _show(
    request: Request,
    problems: dict[str, str] | None = None,
    typed: str = "",
    said: str | None = None,
) -> Response:
    site, now, read = request.state.site, clock.now(), request.app.state.database.read
    page = await read(customers.customer_page, site.id, request.path_params["customer_id"], now)
    if page is None:
        raise HTTPException(404)
    paid = [one.id for one in page.payments.rows[: customers.FEW]]
    return render.settings(
        request,
        "settings/customer.html",
        page.row.email,
        "customers",
        422 if problems else 200,
        page=page,
        few=customers.FEW,
        **await _cards(request, page.subscriptions),
        remote=await read(customers.payment_ids, site.id, paid),
        problems=problems or {},
        typed=typed,
        said=said,
        here=_here(request),
        to_requests=f"/settings/portals/{id_text(site.id)}/requests",
        kinds=kinds(),
        states=states(),
        **_words(),
    )


async def _cards(request: Request, found: queries.SubscriptionsPage) -> dict[str, Any]:
    """Subscriptions as the customer's cards say them, and the processor's id of each."""
    settings, now = request.app.state.settings, clock.now()
    portal = await request.app.state.database.read(
        tenancy.portal_by_id, request.state.site.id, settings.base_domain
    )

    def drawn(one: Subject) -> tuple[Card, Subject]:
        whole = card(one, portal, now)
        # Here nothing is waited for: the page is looked at again when somebody wants to know.
        still = replace(whole.action, again_after_s=None) if whole.action else None
        return replace(whole, action=still), one

    both = (*found.live, *found.ended)
    return {
        "live": [drawn(one) for one in found.live],
        "ended": [drawn(one) for one in found.ended],
        "cards_mixed": len({one.row.currency for one in both if one.row.currency}) > 1,
    }


def _words() -> dict[str, Any]:
    deeds = {
        "cancel_now": _("Cancel at once"),
        "cancel_at_period_end": _("Cancel at the end of the paid time"),
        "undo_cancel": _("Let it go on after all"),
        "pause": _("Pause"),
        "resume": _("Resume"),
        "update_payment_method": _("Update the payment method"),
        "pay_now": _("Pay what is open"),
        "change_plan": _("Change the plan"),
        "skip_next_payment": _("Skip the next payment"),
    }
    phases = {
        "claimed": ("info", _("Being sent")),
        "sent": ("info", _("Being sent")),
        "checking": ("info", _("Being checked")),
        "away": ("info", _("At the processor's page")),
        "left": ("off", _("Did something else")),
        "visited": ("off", _("Was at the processor's page")),
        "scheduled": ("warn", _("Booked")),
        "undone": ("off", _("Taken back")),
        "told": ("info", _("Shown how")),
        "confirmed": ("ok", _("Proven")),
        "failed": ("bad", _("Not done")),
    }
    mails = {
        "login": _("Sign-in mail"),
        "payment_failed": _("Payment failed"),
        "charged_after_end": _("Charged after the end"),
        "request_received": _("We have your request"),
        "request_answered": _("Answer to a request"),
        "cancelled": _("Cancelled"),
        "cancel_undone": _("Goes on after all"),
        "paused": _("Paused"),
        "resumed": _("Resumed"),
        "card_changed": _("Payment method changed"),
        "plan_changed": _("Plan changed"),
        "payment_skipped": _("Payment skipped"),
    }
    told = {
        "known": _("First seen here"),
        "placed": _("Order placed"),
        "paid": _("Paid"),
        "pending": _("Payment started"),
        "authorized": _("Amount reserved"),
        "refund_pending": _("Refund started"),
        "refund_sent": _("Refund sent"),
        "refund_failed": _("Refund failed"),
        "refund_cancelled": _("Refund cancelled"),
        "request_asked": _("Asked you"),
        "request_done": _("Request done"),
        "request_declined": _("Request declined"),
        "request_withdrawn": _("Request taken back"),
        "request_late": _("Request overdue; you were reminded"),
        "proven": _("Proven by the processor"),
        "not_done": _("Not done"),
        "signed_in": _("Signed in"),
        "mail_sent": _("Mail sent"),
        "mail_waits": _("Mail waits to be sent"),
        "mail_failed": _("Mail not delivered"),
    }
    # Last: a failed payment, not the phase.
    told["failed"] = _("Payment failed")
    told |= {f"did_{name}": _("Wanted: {what}").format(what=word) for name, word in deeds.items()}
    return {"deeds": deeds, "phases": phases, "mails": mails, "told": told}


@merchants.in_portal("viewer")
async def one_list(request: Request) -> Response:
    """One of the lists behind a customer's page, page by page."""
    name, customer_id = request.path_params["what"], request.path_params["customer_id"]
    if name not in customers.LISTS:
        raise HTTPException(404)
    site, now, read = request.state.site, clock.now(), request.app.state.database.read
    row = await read(customers.customer, site.id, customer_id)
    if row is None:
        raise HTTPException(404)
    context: dict[str, Any] = {}
    where = asked(request, "after")
    before = parse_id(request.query_params.get("before", ""))
    if name == "subscriptions":
        ended = asked(request, "ended")
        only_ended = ended.cursor is not None or request.query_params.get("ended") == "first"
        place: Cursor | None = ended.cursor if only_ended else where.cursor
        page: Any = await read(queries.subscriptions, site.id, customer_id, now, place, only_ended)
        context = await _cards(request, page)
    else:
        page = await read(customers.one_list, site.id, customer_id, name, where.cursor, before)
    if name == "payments":
        context["remote"] = await read(customers.payment_ids, site.id, [one.id for one in page.rows])
    titles = {
        "orders": _("Orders"),
        "payments": _("Payments"),
        "subscriptions": _("Subscriptions"),
        "requests": _("Requests"),
        "actions": _("Actions"),
    }
    return render.settings(
        request,
        "settings/customer_list.html",
        titles[name],
        "customers",
        row=row,
        name=name,
        page=page,
        here=_here(request),
        to_requests=f"/settings/portals/{id_text(site.id)}/requests",
        kinds=kinds(),
        states=states(),
        **{**_words(), **context},
    )


@merchants.in_portal("viewer")
async def order(request: Request) -> Response:
    site, customer_id = request.state.site, request.path_params["customer_id"]
    read = request.app.state.database.read
    row = await read(customers.customer, site.id, customer_id)
    found = await read(customers.order, site.id, customer_id, request.path_params["order_id"])
    if row is None or found is None:
        raise HTTPException(404)
    page, remote = found
    title = _("Order {number}").format(number=page.number) if page.number else page.title or _("Order")
    return render.settings(
        request,
        "settings/order.html",
        title,
        "customers",
        row=row,
        page=page,
        source=remote,
        remote=await read(customers.payment_ids, site.id, [one.id for one in page.payments]),
        here=_here(request),
        **_words(),
    )


# Further addresses


@merchants.in_portal("editor")
async def join(request: Request) -> Response:
    form = await request.form(max_files=0, max_fields=4)
    email = _text(form, "email")
    try:
        await request.app.state.database.write(
            people.ask_join,
            request.state.person,
            request.state.site.id,
            request.path_params["customer_id"],
            email,
            clock.now(),
        )
    except LookupError:
        raise HTTPException(404) from None
    except Refused as error:
        return await _show(request, {"email": str(error)}, email)
    work.nudge()
    return render.see_other(
        request, _here(request, f"/{id_text(request.path_params['customer_id'])}?done=asked")
    )


@merchants.in_portal("editor")
async def part(request: Request) -> Response:
    try:
        await request.app.state.database.write(
            people.undo_join,
            request.state.person,
            request.state.site.id,
            request.path_params["customer_id"],
            request.path_params["join_id"],
            clock.now(),
        )
    except LookupError:
        raise HTTPException(404) from None
    return render.see_other(
        request, _here(request, f"/{id_text(request.path_params['customer_id'])}?done=parted")
    )


# Records of nobody


@merchants.in_portal("viewer")
async def unassigned(request: Request) -> Response:
    kind = request.query_params.get("kind")
    kind = kind if kind in sync.KINDS else None
    where = asked(request, "after")
    page = await request.app.state.database.read(people.of_nobody, request.state.site.id, kind, where.cursor)
    done = {
        "assigned": _("Assigned, with what hangs on it."),
        "ignored": _("Left alone. You find it under what you said."),
    }
    return render.settings(
        request,
        "settings/unassigned.html",
        _("Unassigned"),
        "customers",
        page=page,
        kind=kind,
        where=where,
        here=_here(request),
        kinds=record_kinds(),
        mixed=len({row.currency for row in page.rows if row.currency}) > 1,
        said=done.get(request.query_params.get("done", "")),
    )


@merchants.in_portal("viewer")
async def record(request: Request) -> Response:
    return await _record(request)


async def _record(request: Request, problems: dict[str, str] | None = None, typed: str = "") -> Response:
    kind = request.path_params["kind"]
    if kind not in sync.KINDS:
        raise HTTPException(404)
    read, site, record_id = (
        request.app.state.database.read,
        request.state.site,
        request.path_params["record_id"],
    )
    found = await read(people.record, site.id, kind, record_id)
    if found is None and not problems:
        settled = await read(people.whose, site.id, kind, record_id)
        if settled is None:
            raise HTTPException(404)
        customer_id, _said = settled
        return render.see_other(
            request, _here(request, f"/{id_text(customer_id)}" if customer_id else "/assigned")
        )
    return render.settings(
        request,
        "settings/unassigned_record.html",
        _("Whose is this?"),
        "customers",
        422 if problems else 200,
        row=found,
        here=_here(request),
        kinds=record_kinds(),
        problems=problems or {},
        typed=typed,
    )


@merchants.in_portal("editor")
async def say(request: Request) -> Response:
    """Whose a record is, or that it is to be left alone."""
    kind, record_id = request.path_params["kind"], request.path_params["record_id"]
    if kind not in sync.KINDS:
        raise HTTPException(404)
    form = await request.form(max_files=0, max_fields=4)
    email, site, write = _text(form, "email"), request.state.site, request.app.state.database.write
    try:
        if "ignore" in form:
            await write(people.ignore, request.state.person, site.id, kind, record_id, clock.now())
            done = "ignored"
        else:
            await write(people.assign, request.state.person, site.id, kind, record_id, email, clock.now())
            done = "assigned"
    except LookupError:
        raise HTTPException(404) from None
    except Refused as error:
        return await _record(request, {"email": str(error)}, email)
    return render.see_other(request, _here(request, f"/unassigned?done={done}"))


@merchants.in_portal("viewer")
async def said(request: Request) -> Response:
    """What was said of records, each to be taken back."""
    before = parse_id(request.query_params.get("before", ""))
    page = await request.app.state.database.read(people.said, request.state.site.id, before)
    done = {"back": _("Taken back.")}
    return render.settings(
        request,
        "settings/unassigned_said.html",
        _("What you said"),
        "customers",
        page=page,
        here=_here(request),
        kinds=record_kinds(),
        said=done.get(request.query_params.get("done", "")),
    )


@merchants.in_portal("editor")
async def take_back(request: Request) -> Response:
    try:
        await request.app.state.database.write(
            people.take_back,
            request.state.person,
            request.state.site.id,
            request.path_params["assignment_id"],
        )
    except LookupError:
        raise HTTPException(404) from None
    return render.see_other(request, _here(request, "/assigned?done=back"))


# Taking out


@merchants.in_portal("editor")
async def take_out(request: Request) -> Response:
    """A list as CSV, streamed."""
    form = await request.form(max_files=0, max_fields=4)
    site, database = request.state.site, request.app.state.database
    sheet = export.SHEETS.get(_text(form, "what"))
    if sheet is None:
        raise HTTPException(404)
    await database.write(export.note, request.state.person, site.id, "data.exported", sheet.name)
    name = f"{site.slug}-{sheet.name}-{clock.now():%Y-%m-%d}.csv"
    return StreamingResponse(
        export.csv_of(database, site.id, sheet),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@merchants.in_portal("editor")
async def take_out_person(request: Request) -> Response:
    site, database = request.state.site, request.app.state.database
    customer_id = request.path_params["customer_id"]
    row = await database.read(customers.customer, site.id, customer_id)
    if row is None:
        raise HTTPException(404)
    await database.write(export.note, request.state.person, site.id, "customer.exported", row.email)
    file = await export.person_file(database, site.id, customer_id, clock.now())
    if file is None:
        raise HTTPException(404)
    name = f"{site.slug}-customer-{id_text(customer_id)}.zip"
    return StreamingResponse(
        export.chunks(file),
        media_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
