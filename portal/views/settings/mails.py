"""Mails: which go out to customers, from whom, and in whose words, with a preview and a real test."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlmodel import col
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import clock, letters, mail, mailtexts, merchants, models, render, saving, tenancy, work
from portal.gateways import processors
from portal.ids import id_text
from portal.jobs import enqueue
from portal.mailtexts import KINDS, Kind, Words
from portal.policy_form import ADDRESS
from portal.saving import Late
from portal.texts import gettext as _
from portal.views.settings.policy import done, late_problems, version_of

TEST_EVERY_S = 10  # a second press within it asks for the same mail


@merchants.in_portal("viewer")
async def index(request: Request) -> Response:
    return await _index(request, said=done(request))


async def _index(
    request: Request,
    typed: dict[str, str] | None = None,
    problems: dict[str, str] | None = None,
    said: str | None = None,
    version: int | None = None,
) -> Response:
    site = request.state.site
    found = await request.app.state.database.read(mailtexts.all_words, site.id)
    return render.settings(
        request,
        "settings/mails.html",
        _("Mails"),
        "mails",
        422 if problems else 200,
        rows=[
            (kind.name, _(kind.title), _(kind.when), found.get(kind.name, Words()), kind)
            for kind in KINDS.values()
        ],
        values=typed or {"sender_name": site.sender_name or "", "support_email": site.support_email},
        mail_from=request.app.state.settings.mail_from,
        problems=problems or {},
        said=said,
        version=site.version if version is None else version,
    )


@merchants.in_portal("editor")
async def change_sender(request: Request) -> Response:
    """The name before the address, and where answers go."""
    fields = await request.form(max_files=0, max_fields=10)
    typed = {name: str(fields.get(name, "")).strip()[:254] for name in ("sender_name", "support_email")}
    problems = {}
    if len(typed["sender_name"]) > 80 or not typed["sender_name"].isprintable():
        problems["sender_name"] = _("At most 80 characters, on one line.")
    if not ADDRESS.fullmatch(typed["support_email"]):
        problems["support_email"] = _("Enter an address such as help@example.com.")
    if problems:
        return await _index(request, typed, problems, version=version_of(fields))
    late = await request.app.state.database.write(
        _save_sender, request.state.person, request.state.site.id, version_of(fields), typed
    )
    if late is not None:
        problems = late_problems(request, late, lambda name, value: (name, str(value or "")))
        return await _index(request, typed, problems, version=late.version)
    return render.see_other(request, f"{_base(request)}?done=saved")


def _save_sender(
    db: Session, person: merchants.Person, portal_id: int, version: int, typed: Mapping[str, str]
) -> Late | None:
    row = saving.portal_of(db, person, portal_id)
    columns = {"sender_name": typed["sender_name"] or None, "support_email": typed["support_email"]}
    return saving.save(db, person, row, version, columns, "mail.sender", row.name)


def _base(request: Request) -> str:
    return f"/settings/portals/{id_text(request.state.site.id)}/mails"


# One mail


@merchants.in_portal("viewer")
async def show(request: Request) -> Response:
    kind = _kind(request)
    found = await request.app.state.database.read(mailtexts.words, request.state.site.id, kind.name)
    return await _show(request, kind, found, said=done(request))


@merchants.in_portal("editor")
async def change(request: Request) -> Response:
    """Save, look at it, or send a test of it: one form, so that what is typed is what is shown and sent."""
    kind = _kind(request)
    fields = await request.form(max_files=0, max_fields=10)
    typed = _typed(request, kind, fields)
    wish = str(fields.get("do", "save"))
    problems = mailtexts.problems(kind, typed.subject or "", typed.body or "")
    if problems or wish == "preview":
        return await _show(request, kind, typed, problems)
    if wish == "test":
        return await _send_test(request, kind, typed)
    late = await request.app.state.database.write(
        mailtexts.save,
        request.state.person,
        request.state.site.id,
        kind,
        typed.version,
        typed,
        clock.now(),
    )
    if late is not None:
        problems = late_problems(request, late, _there)
        again = Words(typed.enabled, typed.subject, typed.body, late.version)
        return await _show(request, kind, again, problems)
    return render.see_other(request, f"{_base(request)}/{kind.name}?done=saved")


@merchants.in_portal("editor")
async def ours(request: Request) -> Response:
    """Back to our words; whether it goes out stays as it is."""
    kind = _kind(request)
    fields = await request.form(max_files=0, max_fields=5)
    database, site = request.app.state.database, request.state.site
    found = await database.read(mailtexts.words, site.id, kind.name)
    late = await database.write(
        mailtexts.save,
        request.state.person,
        site.id,
        kind,
        version_of(fields),
        Words(found.enabled),
        clock.now(),
    )
    if late is not None:
        now_there = await database.read(mailtexts.words, site.id, kind.name)
        problems = {"form": late_problems(request, late, _there)["form"]}
        return await _show(request, kind, now_there, problems)
    return render.see_other(request, f"{_base(request)}/{kind.name}?done=saved")


@merchants.in_portal("viewer")
async def preview(request: Request) -> Response:
    """The mail as typed; nothing is saved."""
    kind = _kind(request)
    typed = _typed(request, kind, await request.form(max_files=0, max_fields=10))
    problems = mailtexts.problems(kind, typed.subject or "", typed.body or "")
    return render.page(
        request,
        "partials/settings/mail_shown.html",
        shown=await _drawn(request, kind, typed, problems),
        wrong=bool(problems),
    )


def _kind(request: Request) -> Kind:
    found = KINDS.get(request.path_params["kind"])
    if found is None:
        raise HTTPException(404)
    return found


def _ours(request: Request, text: str) -> str:
    """Our words in the language of the portal's mails, not in that of this page."""
    return render.translations(request.state.site.locale).gettext(text) if text else ""


def _typed(request: Request, kind: Kind, fields: Mapping[str, Any]) -> Words:
    """What the form says. Words that are just ours are not kept as the merchant's: ours go on being mended."""
    subject = str(fields.get("subject", "")).strip()[:500]
    body = mailtexts.tidy(str(fields.get("words", ""))[:6000])
    return Words(
        "enabled" in fields or kind.always is not None,
        subject if subject and subject != _ours(request, kind.subject) else None,
        body if body and body != _ours(request, kind.body) else None,
        version_of(fields),
    )


def _there(name: str, value: Any) -> tuple[str, str]:
    if name == "enabled":
        return name, _("goes out") if value else _("does not go out")
    field = "words" if name == "body" else name
    return field, str(value) if value else _("our words")


async def _show(
    request: Request,
    kind: Kind,
    words: Words,
    problems: dict[str, str] | None = None,
    said: str | None = None,
    test: Any = None,
) -> Response:
    holes = [
        (name, _(kind.date) if name == "date" else _(mailtexts.MEANINGS[name])) for name in kind.placeholders
    ]
    return render.settings(
        request,
        "settings/mail.html",
        _(kind.title),
        "mails",
        422 if problems else 200,
        kind=kind,
        when=_(kind.when),
        always=_(kind.always) if kind.always else None,
        keep=_(kind.keep) if kind.keep else None,
        holes=holes,
        enabled=words.enabled,
        subject=words.subject if words.subject is not None else _ours(request, kind.subject),
        words=words.body if words.body is not None else _ours(request, kind.body),
        own=words.subject is not None or words.body is not None,
        version=words.version,
        shown=await _drawn(request, kind, words, problems or {}),
        wrong=bool(problems),
        problems=problems or {},
        said=said,
        test=test,
        most=mailtexts.BODY_LENGTH,
        most_subject=mailtexts.SUBJECT_LENGTH,
    )


async def _drawn(request: Request, kind: Kind, words: Words, problems: Mapping[str, str]) -> dict[str, Any]:
    """The sample mail: the same words and blocks as the real one, in a layout of ours, and its text part."""
    settings, site = request.app.state.settings, request.state.site
    view, processor = await request.app.state.database.read(_view, site.id, settings.base_domain)
    letter = letters.sample(view, kind.name, processor, settings.origin(view.host), clock.now())
    if "subject" not in problems and "words" not in problems:
        letter = letters.in_words(letter, words.subject, words.body)
    text, html = mail.written(
        settings,
        view,
        letter.template,
        letter.to,
        letter.subject,
        letter.context,
        "partials/settings/mail_layout.html",
        "partials/settings/mail_parts.html",
    )
    return {
        "sender": view.sender_name or view.name,
        "address": settings.mail_from,
        "reply_to": view.support_email,
        "subject": letter.subject,
        "text": text,
        "html": Markup(html),  # noqa: S704 (drawn by our templates, in which everything is escaped)
    }


def _view(db: Session, portal_id: int, base_domain: str) -> tuple[tenancy.PortalView, str]:
    """The portal, and a processor to speak of: one of its own, if it has any."""
    row = models.Account
    found = db.execute(
        select(col(row.processor))
        .where(col(row.portal_id) == portal_id, col(row.disconnected_at).is_(None))
        .order_by(col(row.id))
        .limit(1)
    ).scalar_one_or_none()
    return tenancy.portal_by_id(db, portal_id, base_domain), found or processors()[0]


# A test


async def _send_test(request: Request, kind: Kind, words: Words) -> Response:
    """Really send it, as typed, to the person who asks."""
    database, site, person = request.app.state.database, request.state.site, request.state.person
    _ignored, processor = await database.read(_view, site.id, request.app.state.settings.base_domain)
    payload = {
        "template": "test_mail",
        "portal": site.id,
        "user": person.user_id,
        "kind": kind.name,
        "processor": processor,
        "subject": words.subject,
        "body": words.body,
    }
    job_id = await database.write(_queue_test, payload)
    work.nudge()
    return await _show(
        request, kind, words, test=await database.read(_test_of, site.id, person.user_id, job_id)
    )


def _queue_test(db: Session, payload: dict[str, Any]) -> int:
    now = clock.now()
    step = int(now.timestamp()) // TEST_EVERY_S
    name = f"test_mail:{payload['portal']}:{payload['user']}:{payload['kind']}:{step}"
    enqueue(db, "mail", payload, now, name)
    db.flush()
    return db.execute(select(col(models.Job.id)).where(col(models.Job.dedupe) == name)).scalar_one()


def _test_of(db: Session, portal_id: int, user_id: int, job_id: int) -> models.Job | None:
    """A test of this portal that this person asked for; None for any other job."""
    job = db.get(models.Job, job_id)
    if job is None or job.kind != "mail" or job.payload.get("template") != "test_mail":
        return None
    mine = job.payload.get("portal") == portal_id and job.payload.get("user") == user_id
    return job if mine else None


@merchants.in_portal("editor")
async def test(request: Request) -> Response:
    """What became of a test; looks again by itself until that is known."""
    kind = _kind(request)
    found = await request.app.state.database.read(
        _test_of, request.state.site.id, request.state.person.user_id, request.path_params["job_id"]
    )
    if found is None:
        raise HTTPException(404)
    if render.is_partial(request):
        return render.page(
            request,
            "partials/settings/mail_test.html",
            site=request.state.site,
            person=request.state.person,
            kind=kind,
            test=found,
        )
    words = await request.app.state.database.read(mailtexts.words, request.state.site.id, kind.name)
    return await _show(request, kind, words, test=found)
