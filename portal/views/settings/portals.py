"""Settings > Customer Portal: the list, create (name, domain, logo), edit with a preview beside it, the logo, the
switch, and looking at it as a customer does."""

from typing import Any

from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import brand, clock, domains, merchants, render, sites, tenancy, uploads, viewing, walls
from portal.ids import id_text
from portal.merchants import Person
from portal.multipart import Upload, read_form
from portal.texts import gettext as _

MOST_BYTES = 1_048_576


@merchants.may("viewer")
async def index(request: Request) -> Response:
    """The merchant's portals; who has none yet is led to make one."""
    person: Person = request.state.person
    rows = await request.app.state.database.read(merchants.portals, person.merchant_id)
    settings = request.app.state.settings
    return render.settings(
        request,
        "settings/portals.html",
        _("Customer Portal"),
        "portals",
        rows=rows,
        address=lambda row: (
            settings.origin(row.domain or f"{row.slug}.{settings.base_domain}") + "/customers"
        ),
    )


@merchants.may("editor")
async def new(request: Request) -> Response:
    return _new(request, {}, {})


def _new(request: Request, typed: dict[str, str], problems: dict[str, str]) -> Response:
    values = {"name": typed.get("name", ""), "domain": typed.get("domain", "")}
    return render.settings(
        request,
        "settings/portal_new.html",
        _("Create Customer Portal"),
        "portals",
        422 if problems else 200,
        typed=values,
        problems=problems,
        kept=typed.get("kept", ""),
        base_domain=request.app.state.settings.base_domain,
    )


@merchants.may("editor")
async def create(request: Request) -> Response:
    """A portal of exactly three things: name, domain (which is to be proved afterwards), logo."""
    form = await read_form(request, MOST_BYTES)
    person: Person = request.state.person
    settings, database = request.app.state.settings, request.app.state.database
    typed = {"name": form.text("name", 80), "domain": form.text("domain", 300)}
    problems: dict[str, str] = {}
    if sentence := sites.problems_of_name(typed["name"]):
        problems["name"] = sentence
    name = None
    if typed["domain"]:
        if not person.may("owner"):
            problems["domain"] = _("A domain is set by an owner. Leave it empty; it can be added afterwards.")
        else:
            try:
                name = domains.normalized(typed["domain"], settings)
            except domains.BadName as error:
                problems["domain"] = str(error)
    logo = None
    try:
        logo = await _drawn(form.file("logo"))
    except uploads.BadPicture as error:
        problems["logo"] = str(error)
    if problems:
        return _new(request, typed, problems)
    made = await database.write(_create, person, typed["name"], name, logo, settings)
    return render.see_other(request, f"/settings/portals/{id_text(made)}?done=created")


async def _drawn(upload: Upload | None) -> uploads.Logo | None:
    """Our own drawing of a picture that was sent; None where none was."""
    if upload is None:
        return None
    return await uploads.redraw_logo(upload.content)


def _create(db: Session, person: Person, name: str, domain: str | None, logo: Any, settings: Any) -> int:
    with walls.wide("new portal"):
        row = sites.create(db, person, name, settings.base_domain, settings.admin_host)
        db.flush()
    walls.narrow(row.id, also=(walls.INSTALLATION, person.merchant_id))
    if domain is not None:
        domains.claim(db, row.id, domain, clock.now())
        merchants.audit(db, person, "domain.claimed", subject=domain, portal_id=row.id)
    if logo is not None:
        sites.set_logo(db, person, row.id, logo, clock.now())
    return row.id


_DONE = {
    "created": lambda: _(
        "The portal is there. Connect a processor next, so that customers find their orders."
    ),
    "saved": lambda: _("Saved."),
    "logo": lambda: _("The logo is up."),
    "logo_removed": lambda: _("The logo is gone."),
    "off": lambda: _("The portal is switched off. Customers see a page that says so."),
    "on": lambda: _("The portal is open again."),
}


@merchants.in_portal("viewer")
async def show(request: Request) -> Response:
    said = _DONE.get(request.query_params.get("done", ""))
    return await _show(request, said=said() if said else None)


async def _show(
    request: Request,
    typed: dict[str, str] | None = None,
    problems: dict[str, str] | None = None,
    said: str | None = None,
    late: sites.Late | None = None,
    notes: tuple[str, ...] = (),
) -> Response:
    site, settings = request.state.site, request.app.state.settings
    values = typed or {name: getattr(site, name) or "" for name in sites.FIELDS}
    pictures = await request.app.state.database.read(sites.logos, site)
    host = (await request.app.state.database.read(tenancy.portal_by_id, site.id, settings.base_domain)).host
    return render.settings(
        request,
        "settings/portal.html",
        _("Customer Portal"),
        "portal",
        422 if problems else 200,
        values=values,
        problems=problems or {},
        said=said,
        late=late,
        version=late.version if late else site.version,
        logo=pictures[0],
        logo_dark=pictures[1],
        notes=notes,
        locales=[(name, sites.language(name)) for name in sites.LOCALES],
        address=settings.origin(host) + "/customers",
        preview=_preview_of(values, pictures),
    )


@merchants.in_portal("editor")
async def change(request: Request) -> Response:
    fields = await request.form(max_files=0, max_fields=40)
    typed = sites.typed(fields)
    problems = sites.problems_of(typed)
    if problems:
        return await _show(request, typed, problems)
    version = str(fields.get("version", ""))
    found = await request.app.state.database.write(
        sites.change,
        request.state.person,
        request.state.site.id,
        int(version) if version.isdigit() else 0,
        typed,
    )
    if isinstance(found, sites.Late):
        return await _show(request, typed, _late_problems(request, found), late=found)
    return render.see_other(request, f"/settings/portals/{id_text(found.id)}?done=saved")


def _late_problems(request: Request, late: sites.Late) -> dict[str, str]:
    """What the later of two is told: who was first, and what now stands in each field that differs."""
    if late.who and late.at:
        time = render.formats(request.state.site.locale, request.state.site.time_zone).time(late.at)
        first = _("{who} has saved meanwhile, at {time}. Look at what differs, and save again to keep yours.")
        problems = {"form": first.format(who=late.who, time=time.striptags())}
    else:
        problems = {
            "form": _("This has changed meanwhile. Look at what differs, and save again to keep yours.")
        }
    for name, value in late.now_there.items():
        problems[name] = _("Saved meanwhile: “{value}”").format(value=value or "–")
    return problems


def _preview_of(values: dict[str, str], pictures: Any) -> dict[str, Any]:
    """What the preview is drawn from: the form as it is typed, saved or not."""
    try:
        derived = brand.derive(values["brand_colour"]) if values["brand_colour"] else None
    except ValueError:
        derived = None
    colour = brand.parse(values["brand_colour"])[1:] if derived else None
    return {
        "name": values["name"] or "…",
        "support": values["support_email"],
        "colour": colour,
        "notes": derived.notes if derived else (),
        "logo": pictures[0],
        "logo_dark": pictures[1] or pictures[0],
        "legal_name": values["legal_name"] or values["name"],
    }


@merchants.in_portal("viewer")
async def preview(request: Request) -> Response:
    """The preview for what is typed; nothing is saved."""
    fields = await request.form(max_files=0, max_fields=40)
    pictures = await request.app.state.database.read(sites.logos, request.state.site)
    return render.page(
        request,
        "partials/settings/preview.html",
        site=request.state.site,
        preview=_preview_of(sites.typed(fields), pictures),
    )


@merchants.may("viewer")
async def brand_css(request: Request) -> Response:
    """The colours derived from one, as a stylesheet for the preview: style attributes are not allowed here."""
    try:
        values = brand.derive(request.path_params["colour"]).values
    except ValueError:
        raise HTTPException(404) from None
    colour = request.path_params["colour"]
    pairs = ";".join(
        f"--{name}:light-dark({values[f'{name}-light']},{values[f'{name}-dark']})"
        for name in ("brand", "on-brand", "link", "brand-edge")
    )
    css = f"@layer helpers{{.brand-{colour}{{{pairs}}}}}"
    return Response(css, media_type="text/css", headers={"Cache-Control": "private, max-age=3600"})


# The logo


@merchants.in_portal("editor")
async def put_logo(request: Request) -> Response:
    return await _put_logo(request, dark=False)


@merchants.in_portal("editor")
async def put_dark_logo(request: Request) -> Response:
    return await _put_logo(request, dark=True)


async def _put_logo(request: Request, dark: bool) -> Response:
    """A new picture, drawn anew by us; or none any more."""
    form = await read_form(request, MOST_BYTES)
    person, site = request.state.person, request.state.site
    database = request.app.state.database
    field = "logo_dark" if dark else "logo"
    if "remove" in form.fields:
        await database.write(sites.set_logo, person, site.id, None, clock.now(), dark)
        return render.see_other(request, f"/settings/portals/{id_text(site.id)}?done=logo_removed")
    try:
        logo = await _drawn(form.file(field))
    except uploads.BadPicture as error:
        return await _show(request, problems={field: str(error)})
    if logo is None:
        return await _show(request, problems={field: _("Choose a picture first.")})
    await database.write(sites.set_logo, person, site.id, logo, clock.now(), dark)
    request.state.site = await database.read(merchants.portal_of, person.merchant_id, site.id)
    notes = list(logo.notes)
    if not dark and logo.vanishes_on_dark:
        notes.append(
            _("It can hardly be seen on dark pages: add a light version, or it stands on a white plate.")
        )
    return await _show(request, said=_("The logo is up."), notes=tuple(notes))


# The switch, and a customer's eyes


@merchants.in_portal("editor")
async def switch(request: Request) -> Response:
    fields = await request.form(max_files=0, max_fields=3)
    on = str(fields.get("enabled", "")) == "1"
    site = request.state.site
    await request.app.state.database.write(sites.set_enabled, request.state.person, site.id, on)
    return render.see_other(request, f"/settings/portals/{id_text(site.id)}?done={'on' if on else 'off'}")


@merchants.in_portal("viewer")
async def view_as(request: Request) -> Response:
    """Look at the portal as this customer does: read-only, marked, written down, in a session of its own."""
    site, settings = request.state.site, request.app.state.settings
    customer_id = request.path_params["customer_id"]
    token = await request.app.state.database.write(
        viewing.open_view, request.state.person, site.id, customer_id, clock.now()
    )
    if token is None:
        raise HTTPException(404)
    host = (await request.app.state.database.read(tenancy.portal_by_id, site.id, settings.base_domain)).host
    link = f"{settings.origin(host)}/customers/view/{token}"
    title = _("View as customer")
    return render.settings(request, "settings/view_as.html", title, "customers", link=link)
