"""Settings > Requests: the queue, one request and its answer, and the answers that are used again and again."""

from typing import Any

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import clock, desk, merchants, render, requests, work
from portal.desk import RequestPage, Which
from portal.ids import id_text
from portal.merchants import Person
from portal.saving import Late
from portal.texts import gettext as _
from portal.views.paging import asked


def kinds() -> dict[str, str]:
    """What is asked for, in a few words."""
    return {
        "update_payment_method": _("Change the payment method"),
        "cancel_now": _("Cancel at once"),
        "cancel_at_period_end": _("Cancel at the end of the paid time"),
        "undo_cancel": _("Let it go on"),
        "pause": _("Pause"),
        "resume": _("Resume"),
        "skip_next_payment": _("Skip the next payment"),
        "change_plan": _("Change the plan"),
        "pay_now": _("Pay what is open"),
        "refund": _("Refund"),
        "offer": _("What you offer in place of cancelling"),
        "find_order": _("Find an order"),
    }


def states() -> dict[str, tuple[str, str]]:
    """The tone and the word of a request's state."""
    return {
        "open": ("info", _("Open")),
        "overdue": ("bad", _("Overdue")),
        "done": ("ok", _("Done")),
        "declined": ("warn", _("Declined")),
        "withdrawn": ("off", _("Taken back")),
    }


def _here(request: Request, path: str = "") -> str:
    return f"{desk.queue_path(request.state.site.id)}{path}"


@merchants.in_portal("viewer")
async def index(request: Request) -> Response:
    show = request.query_params.get("show", "open")
    which: Which = "overdue" if show == "overdue" else "answered" if show == "answered" else "open"
    where = asked(request, "after")
    page = await request.app.state.database.read(
        desk.queue, request.state.site.id, which, clock.now(), where.cursor
    )
    return render.settings(
        request,
        "settings/requests.html",
        _("Requests"),
        "requests",
        page=page,
        which=which,
        where=where,
        here=_here(request),
        kinds=kinds(),
        states=states(),
    )


# One request


@merchants.in_portal("viewer")
async def show(request: Request) -> Response:
    page = await _page(request)
    done = {"answered": _("Answered. The customer gets a mail.")}
    return _draw(request, page, said=done.get(request.query_params.get("done", "")))


async def _page(request: Request) -> RequestPage:
    found: RequestPage | None = await request.app.state.database.read(
        desk.request_page, request.state.site.id, request.path_params["request_id"]
    )
    if found is None:
        raise HTTPException(404)
    return found


def _draw(
    request: Request,
    page: RequestPage,
    sentence: str = "",
    template: str = "",
    problems: dict[str, str] | None = None,
    **context: Any,
) -> Response:
    return render.settings(
        request,
        "settings/request.html",
        _("Request {reference}").format(reference=page.row.reference),
        "requests",
        422 if problems else 200,
        page=page,
        here=_here(request),
        kinds=kinds(),
        states=states(),
        sentence=sentence,
        chosen=template,
        problems=problems or {},
        now=clock.now(),
        **context,
    )


@merchants.in_portal("editor")
async def answer(request: Request) -> Response:
    """Done, or declined; or one of the ready answers is put into the field, and nothing is sent yet."""
    form = await request.form(max_files=0, max_fields=8)
    sentence, template, do = (_text(form, name) for name in ("sentence", "template", "do"))
    page = await _page(request)
    if do == "fill":
        return _fill(request, page, sentence, template)
    if do not in requests.ANSWERS:
        return _draw(request, page, sentence, template, {"form": _("Choose what you answer.")})
    if do == "declined" and not sentence:
        why = _("Say why, in a sentence. The customer reads it.")
        return _draw(request, page, sentence, template, {"sentence": why})
    try:
        await request.app.state.database.write(
            desk.answer,
            request.state.person,
            request.state.site.id,
            page.row.id,
            do,
            sentence,
            clock.now(),
            give="give" in form,
        )
    except requests.NotOpen:
        return _late(request, await _page(request), sentence, template)
    except merchants.Refused as refused:
        return _draw(request, page, sentence, template, {"form": str(refused)})
    work.nudge()
    return render.see_other(request, _here(request, f"/{id_text(page.row.id)}?done=answered"))


def _text(form: FormData, name: str) -> str:
    value = form.get(name, "")
    return value.strip()[: desk.TEXT_LENGTH] if isinstance(value, str) else ""


def _fill(request: Request, page: RequestPage, sentence: str, template: str) -> Response:
    """The ready answer after what was typed, so that nothing typed is lost."""
    ready = request.state.site.answer_templates or []
    if not (template.isdecimal() and int(template) < len(ready)):
        return _draw(request, page, sentence, "", {"template": _("Choose one of the answers.")})
    words = desk.filled(ready[int(template)]["text"], page, request.state.site)
    whole = f"{sentence}\n\n{words}" if sentence and words not in sentence else sentence or words
    return _draw(request, page, whole[: desk.TEXT_LENGTH], template)


def _late(request: Request, page: RequestPage, sentence: str, template: str) -> Response:
    """Somebody else was first: who, when and what; and what was typed here stays to be copied."""
    row, zone = page.row, render.formats(request.state.site.locale, request.state.site.time_zone)
    words = {
        "who": page.answered_by or (row.history[-1]["who"] if row.history else ""),
        "what": states()[row.status][1].lower(),
        "day": zone.day_text(row.closed_at) if row.closed_at else "",
        "time": zone.time(row.closed_at).striptags() if row.closed_at else "",
    }
    if row.status == "withdrawn":
        why = _("The customer has taken this back meanwhile. There is nothing to answer.")
    else:
        why = _("{who} has answered this on {day} at {time}: {what}. Your answer was not sent.").format(
            **words
        )
    return _draw(request, page, sentence, template, {"form": why})


# Answers to be used again


@merchants.in_portal("viewer")
async def answers(request: Request) -> Response:
    done = {"saved": _("Saved."), "deleted": _("Deleted.")}
    return _draw_answers(request, said=done.get(request.query_params.get("done", "")))


def _draw_answers(
    request: Request,
    typed: dict[str, str] | None = None,
    problems: dict[str, str] | None = None,
    late: Late | None = None,
    said: str | None = None,
) -> Response:
    """`typed` is what somebody sent: the place ("" for a new one), title and text."""
    site = request.state.site
    return render.settings(
        request,
        "settings/request_answers.html",
        _("Ready answers"),
        "requests",
        422 if problems else 200,
        ready=site.answer_templates or [],
        typed=typed or {},
        problems=problems or {},
        version=late.version if late else site.version,
        here=_here(request),
        holes=desk.HOLES,
        said=said,
    )


@merchants.in_portal("editor")
async def save_answer(request: Request) -> Response:
    form = await request.form(max_files=0, max_fields=8)
    person: Person = request.state.person
    site, write = request.state.site, request.app.state.database.write
    typed = {
        "index": _text(form, "index"),
        "title": _text(form, "title")[: desk.TITLE_LENGTH],
        "text": _text(form, "text"),
    }
    version = _text(form, "version")
    index = int(typed["index"]) if typed["index"].isdecimal() else None
    how_many = len(site.answer_templates or ()) if index is None else 0
    number = int(version) if version.isdecimal() else 0
    try:
        if "delete" in form and index is not None:
            late = await write(desk.drop_template, person, site.id, number, index)
            done = "deleted"
        else:
            if problems := desk.problems_of_template(typed["title"], typed["text"], how_many):
                return _draw_answers(request, typed, problems)
            late = await write(
                desk.save_template, person, site.id, number, index, typed["title"], typed["text"]
            )
            done = "saved"
    except LookupError:
        raise HTTPException(404) from None
    if late is not None:
        request.state.site = await request.app.state.database.read(
            merchants.portal_of, person.merchant_id, site.id
        )
        return _draw_answers(request, {**typed, "index": ""}, {"form": _who_was_first(late)}, late)
    return render.see_other(request, _here(request, f"/answers?done={done}"))


def _who_was_first(late: Late) -> str:
    who = late.who or _("Somebody")
    return _(
        "{who} has changed the settings of this portal meanwhile. What you typed stands below, not saved yet: "
        "look at the list, and save again."
    ).format(who=who)
