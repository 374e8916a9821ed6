"""Settings > Developers: keys of the merchant's own app, where it may have customers sent back to, and the endpoints
that the portal's own events are delivered to, with their logs."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import api, clock, merchants, outgoing, render, saving, work
from portal.ids import id_text, parse_id
from portal.merchants import Person
from portal.saving import Late
from portal.texts import gettext as _
from portal.vault import Vault
from portal.views.settings.policy import late_problems, version_of

_DONE = {
    "revoked": lambda: _("The key opens nothing any more."),
    "saved": lambda: _("Saved."),
    "removed": lambda: _("The endpoint is removed."),
    "on": lambda: _("The endpoint is switched on."),
    "off": lambda: _("The endpoint is switched off. Nothing is delivered there."),
    "test": lambda: _("A test event is on its way. It stands in the log below."),
    "resent": lambda: _("It is being delivered once more."),
}


def _said(request: Request) -> str | None:
    """The sentence for a known word in the address; nothing of the address itself is ever shown."""
    said = _DONE.get(request.query_params.get("done", ""))
    return said() if said else None


def _here(request: Request, path: str = "") -> str:
    return f"/settings/portals/{id_text(request.state.site.id)}/developers{path}"


def _page(request: Request, body: str, title: str, status: int = 200, **context: Any) -> Response:
    return render.settings(
        request, f"settings/{body}.html", title, "developers", status, here=_here(request), **context
    )


# All of it


@dataclass(frozen=True, slots=True)
class Standing:
    tone: str
    word: str


def _standing(one: outgoing.EndpointView) -> Standing:
    if one.disabled_at is not None:
        return Standing("off", _("Off"))
    if one.failing_since is not None:
        return Standing("bad", _("Failing"))
    return Standing("ok", _("On"))


@merchants.in_portal("viewer")
async def index(request: Request) -> Response:
    return await _index(request, said=_said(request))


async def _index(
    request: Request,
    problems: dict[str, str] | None = None,
    typed: str | None = None,
    version: int | None = None,
    said: str | None = None,
) -> Response:
    site, read = request.state.site, request.app.state.database.read
    keys = await read(api.keys, site.id)
    endpoints = await read(outgoing.endpoints, site.id)
    return _page(
        request,
        "developers",
        _("Developers"),
        422 if problems else 200,
        keys=[one for one in keys if one.revoked_at is None],
        revoked=[one for one in keys if one.revoked_at is not None],
        endpoints=[(one, _standing(one)) for one in endpoints],
        kinds=len(outgoing.TYPES),
        return_urls="\n".join(site.return_urls or ()) if typed is None else typed,
        version=version or site.version,
        origin=request.app.state.settings.origin(request.app.state.settings.admin_host),
        problems=problems or {},
        said=said,
    )


# Where customers may be sent back to


@merchants.in_portal("owner", fresh=True)
async def change_return_urls(request: Request) -> Response:
    fields = await request.form(max_files=0, max_fields=5)
    typed = str(fields.get("return_urls", ""))[:20_000]
    local = request.app.state.settings.demo
    lines = [line.strip() for line in typed.splitlines() if line.strip()]
    kept: list[str] = []
    for line in lines:
        try:
            found = api.return_url(line, local)
        except api.Refused as error:
            problem = _("{line}: {problem}").format(line=line[:100], problem=error)
            return await _index(request, {"return_urls": problem}, typed)
        if found not in kept:
            kept.append(found)
    if len(kept) > api.MOST_RETURN_URLS:
        return await _index(request, {"return_urls": _("At most twenty addresses.")}, typed)
    late = await request.app.state.database.write(
        _save_return_urls, request.state.person, request.state.site.id, version_of(fields), kept
    )
    if late is not None:
        problems = late_problems(request, late, lambda _name, value: ("return_urls", ", ".join(value or ())))
        return await _index(request, problems, typed, late.version)
    return render.see_other(request, _here(request, "?done=saved"))


def _save_return_urls(
    db: Session, person: Person, portal_id: int, version: int, kept: list[str]
) -> Late | None:
    row = saving.portal_of(db, person, portal_id)
    columns = {"return_urls": kept or None}
    return saving.save(db, person, row, version, columns, "portal.return_urls", row.name)


# Keys


@merchants.in_portal("owner", fresh=True)
async def new_key(request: Request) -> Response:
    return _new_key(request)


def _new_key(
    request: Request, name: str = "", scopes: tuple[str, ...] = (), problems: dict[str, str] | None = None
) -> Response:
    return _page(
        request,
        "developers_key",
        _("New key"),
        422 if problems else 200,
        name=name,
        chosen=scopes,
        scopes=[(scope, _(words)) for scope, words in api.SCOPES.items()],
        problems=problems or {},
    )


@merchants.in_portal("owner", fresh=True)
async def make_key(request: Request) -> Response:
    """The answer shows the key, once: it stands nowhere else."""
    fields = await request.form(max_files=0, max_fields=30)
    name = str(fields.get("name", "")).strip()[:80]
    scopes = tuple(scope for scope in api.SCOPES if scope in fields.getlist("scope"))
    problems = {}
    if not name or not name.isprintable():
        problems["name"] = _("Say what the key is for, such as: our shop.")
    if not scopes:
        problems["scope"] = _("Choose at least one thing that the key may do.")
    if problems:
        return _new_key(request, name, scopes, problems)
    try:
        text = await request.app.state.database.write(
            _make_key, request.state.person, request.state.site.id, name, scopes
        )
    except api.Refused as error:
        return _new_key(request, name, scopes, {"form": str(error)})
    return _shown_once(request, _("Your new key"), text, name)


def _make_key(db: Session, person: Person, portal_id: int, name: str, scopes: tuple[str, ...]) -> str:
    row, text = api.new_key(db, portal_id, name, scopes, person.user_id, clock.now())
    merchants.audit(
        db,
        person,
        "key.made",
        subject=name,
        after={"key": f"{row.prefix}…", "scopes": list(scopes)},
        portal_id=portal_id,
    )
    return text


def _shown_once(request: Request, title: str, secret: str, subject: str) -> Response:
    return _page(request, "developers_once", title, secret=secret, subject=subject)


@merchants.in_portal("owner", fresh=True)
async def ask_revoke(request: Request) -> Response:
    key = await _key(request)
    return _page(
        request,
        "developers_sure",
        _("Revoke {name}").format(name=key.name),
        sentences=[
            _("Whatever uses the key {prefix}… is turned away from now on.").format(prefix=key.prefix),
            _("It was last used on {day}.").format(day=_day(request, key.last_used_at))
            if key.last_used_at
            else _("It was never used."),
            _("A revoked key can't be brought back; make a new one instead."),
        ],
        action=f"/keys/{id_text(key.id)}/revoke",
        back="",
        keep=_("Keep the key"),
        do=_("Revoke the key"),
    )


def _day(request: Request, at: Any) -> str:
    return render.formats(request.state.site.locale, request.state.site.time_zone).day_text(at)


async def _key(request: Request) -> api.KeyView:
    keys: list[api.KeyView] = await request.app.state.database.read(api.keys, request.state.site.id)
    for one in keys:
        if one.id == request.path_params["key_id"] and one.revoked_at is None:
            return one
    raise HTTPException(404)


@merchants.in_portal("owner", fresh=True)
async def revoke(request: Request) -> Response:
    key = await _key(request)
    await request.app.state.database.write(_revoke, request.state.person, request.state.site.id, key)
    return render.see_other(request, _here(request, "?done=revoked"))


def _revoke(db: Session, person: Person, portal_id: int, key: api.KeyView) -> None:
    api.revoke(db, portal_id, key.id, clock.now())
    merchants.audit(
        db, person, "key.revoked", subject=key.name, before={"key": f"{key.prefix}…"}, portal_id=portal_id
    )


# Endpoints


@dataclass(frozen=True, slots=True)
class EndpointForm:
    url: str = ""
    events: tuple[str, ...] = ()
    all: bool = True


def _typed(fields: Any) -> EndpointForm:
    events = tuple(kind for kind in outgoing.TYPES if kind in fields.getlist("event"))
    return EndpointForm(
        str(fields.get("url", "")).strip()[:600], events, str(fields.get("which", "all")) != "some"
    )


def _form_of(one: outgoing.EndpointView) -> EndpointForm:
    return EndpointForm(one.url, one.events, not one.events)


def _problem_of(form: EndpointForm) -> dict[str, str]:
    if not form.all and not form.events:
        return {"event": _("Choose at least one event, or all of them.")}
    return {}


def _kinds() -> list[tuple[str, str]]:
    return [(kind, _(words)) for kind, words in outgoing.TYPES.items()]


@merchants.in_portal("owner", fresh=True)
async def new_endpoint(request: Request) -> Response:
    return _new_endpoint(request, EndpointForm())


def _new_endpoint(request: Request, form: EndpointForm, problems: dict[str, str] | None = None) -> Response:
    title = _("New endpoint")
    status = 422 if problems else 200
    return _page(request, "developers_new", title, status, form=form, kinds=_kinds(), problems=problems or {})


@merchants.in_portal("owner", fresh=True)
async def add_endpoint(request: Request) -> Response:
    """The answer shows the secret, once."""
    form = _typed(await request.form(max_files=0, max_fields=50))
    if problems := _problem_of(form):
        return _new_endpoint(request, form, problems)
    state = request.app.state
    try:
        secret = await state.database.write(
            _add_endpoint,
            state.vault,
            request.state.person,
            request.state.site.id,
            form,
            outgoing.may_be_private(state.settings),
        )
    except outgoing.Refused as error:
        return _new_endpoint(request, form, {"url": str(error)})
    return _shown_once(request, _("The secret of your endpoint"), secret, form.url)


def _add_endpoint(
    db: Session, vault: Vault, person: Person, portal_id: int, form: EndpointForm, private: bool
) -> str:
    events = () if form.all else form.events
    row, secret = outgoing.add_endpoint(db, vault, portal_id, form.url, events, private, clock.now())
    merchants.audit(
        db,
        person,
        "endpoint.added",
        subject=row.url,
        after={"events": row.events or "all"},
        portal_id=portal_id,
    )
    return secret


@merchants.in_portal("viewer")
async def endpoint(request: Request) -> Response:
    return await _show(request, said=_said(request))


async def _show(
    request: Request,
    form: EndpointForm | None = None,
    problems: dict[str, str] | None = None,
    said: str | None = None,
) -> Response:
    one = await _endpoint(request)
    before = parse_id(request.query_params.get("before", ""))
    page = await request.app.state.database.read(outgoing.log, request.state.site.id, one.id, before)
    return _page(
        request,
        "developers_endpoint",
        _("Endpoint"),
        422 if problems else 200,
        one=one,
        standing=_standing(one),
        form=form or _form_of(one),
        kinds=_kinds(),
        page=page,
        first=before is None,
        waits=before is None and any(row.state == "waiting" and not row.attempts for row in page.rows),
        overlap=one.previous_until is not None and one.previous_until > clock.now(),
        problems=problems or {},
        said=said,
    )


@merchants.in_portal("viewer")
async def deliveries(request: Request) -> Response:
    """The log alone, which looks again by itself while something is on its way."""
    one = await _endpoint(request)
    page = await request.app.state.database.read(outgoing.log, request.state.site.id, one.id, None)
    waits = any(row.state == "waiting" and not row.attempts for row in page.rows)
    if not render.is_partial(request):
        return render.see_other(request, _here(request, f"/endpoints/{id_text(one.id)}"))
    return _page(request, "developers_log", _("Endpoint"), one=one, page=page, first=True, waits=waits)


async def _endpoint(request: Request) -> outgoing.EndpointView:
    found: outgoing.EndpointView | None = await request.app.state.database.read(
        outgoing.endpoint, request.state.site.id, request.path_params["endpoint_id"]
    )
    if found is None:
        raise HTTPException(404)
    return found


@merchants.in_portal("owner", fresh=True)
async def change_endpoint(request: Request) -> Response:
    one = await _endpoint(request)
    form = _typed(await request.form(max_files=0, max_fields=50))
    if problems := _problem_of(form):
        return await _show(request, form, problems)
    private = outgoing.may_be_private(request.app.state.settings)
    try:
        await request.app.state.database.write(
            _change_endpoint, request.state.person, request.state.site.id, one, form, private
        )
    except outgoing.Refused as error:
        return await _show(request, form, {"url": str(error)})
    return render.see_other(request, _here(request, f"/endpoints/{id_text(one.id)}?done=saved"))


def _change_endpoint(
    db: Session,
    person: Person,
    portal_id: int,
    one: outgoing.EndpointView,
    form: EndpointForm,
    private: bool,
) -> None:
    events = () if form.all else form.events
    row = outgoing.change_endpoint(db, portal_id, one.id, form.url, events, private)
    before = {"url": one.url, "events": list(one.events) or "all"}
    after = {"url": row.url, "events": row.events or "all"}
    if before != after:
        changed = [name for name in after if before[name] != after[name]]
        merchants.audit(
            db,
            person,
            "endpoint.changed",
            subject=row.url,
            before={name: before[name] for name in changed},
            after={name: after[name] for name in changed},
            portal_id=portal_id,
        )


@merchants.in_portal("owner", fresh=True)
async def rotate(request: Request) -> Response:
    one = await _endpoint(request)
    state = request.app.state
    secret = await state.database.write(
        _rotate, state.vault, request.state.person, request.state.site.id, one
    )
    return _shown_once(request, _("The new secret of your endpoint"), secret, one.url)


def _rotate(db: Session, vault: Vault, person: Person, portal_id: int, one: outgoing.EndpointView) -> str:
    secret = outgoing.rotate(db, vault, portal_id, one.id, clock.now())
    merchants.audit(db, person, "endpoint.secret_changed", subject=one.url, portal_id=portal_id)
    return secret


@merchants.in_portal("owner")
async def switch(request: Request) -> Response:
    one = await _endpoint(request)
    fields = await request.form(max_files=0, max_fields=3)
    on = str(fields.get("to", "")) == "on"
    await request.app.state.database.write(_switch, request.state.person, request.state.site.id, one, on)
    word = "on" if on else "off"
    return render.see_other(request, _here(request, f"/endpoints/{id_text(one.id)}?done={word}"))


def _switch(db: Session, person: Person, portal_id: int, one: outgoing.EndpointView, on: bool) -> None:
    outgoing.switch(db, portal_id, one.id, on, clock.now())
    if on != (one.disabled_at is None):
        what = "endpoint.switched_on" if on else "endpoint.switched_off"
        merchants.audit(db, person, what, subject=one.url, portal_id=portal_id)


@merchants.in_portal("editor")
async def send_test(request: Request) -> Response:
    one = await _endpoint(request)
    try:
        await request.app.state.database.write(outgoing.send_test, request.state.site.id, one.id, clock.now())
    except outgoing.Refused as error:
        return await _show(request, problems={"form": str(error)})
    work.nudge()
    return render.see_other(request, _here(request, f"/endpoints/{id_text(one.id)}?done=test"))


@merchants.in_portal("owner", fresh=True)
async def ask_remove(request: Request) -> Response:
    one = await _endpoint(request)
    return _page(
        request,
        "developers_sure",
        _("Remove the endpoint"),
        sentences=[
            one.url,
            _("Nothing is delivered there any more, and its log goes too."),
            _("Events can still be fetched by the API for thirty days."),
        ],
        action=f"/endpoints/{id_text(one.id)}/remove",
        back=f"/endpoints/{id_text(one.id)}",
        keep=_("Keep the endpoint"),
        do=_("Remove the endpoint"),
    )


@merchants.in_portal("owner", fresh=True)
async def remove(request: Request) -> Response:
    one = await _endpoint(request)
    await request.app.state.database.write(_remove, request.state.person, request.state.site.id, one)
    return render.see_other(request, _here(request, "?done=removed"))


def _remove(db: Session, person: Person, portal_id: int, one: outgoing.EndpointView) -> None:
    outgoing.remove(db, portal_id, one.id)
    merchants.audit(
        db, person, "endpoint.removed", subject=one.url, before={"url": one.url}, portal_id=portal_id
    )


@merchants.in_portal("viewer")
async def delivery(request: Request) -> Response:
    return await _delivery(request)


async def _delivery(request: Request, problems: dict[str, str] | None = None) -> Response:
    one = await _endpoint(request)
    found = await request.app.state.database.read(
        outgoing.delivery, request.state.site.id, one.id, request.path_params["delivery_id"]
    )
    if found is None:
        raise HTTPException(404)
    status = 422 if problems else 200
    return _page(
        request,
        "developers_delivery",
        found.line.type,
        status,
        one=one,
        line=found.line,
        sent=found.body,
        said=_said(request),
        problems=problems or {},
    )


@merchants.in_portal("editor")
async def resend(request: Request) -> Response:
    one = await _endpoint(request)
    wanted = request.path_params["delivery_id"]
    try:
        await request.app.state.database.write(
            outgoing.resend, request.state.site.id, one.id, wanted, clock.now()
        )
    except LookupError:
        raise HTTPException(404) from None
    except outgoing.Refused as error:
        return await _delivery(request, {"form": str(error)})
    work.nudge()
    path = f"/endpoints/{id_text(one.id)}/deliveries/{id_text(wanted)}?done=resent"
    return render.see_other(request, _here(request, path))
