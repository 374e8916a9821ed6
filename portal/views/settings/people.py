"""The people of a merchant, their roles and invitations; and the record of changes."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import clock, merchants, render, work
from portal.ids import parse_id
from portal.merchants import Person
from portal.texts import gettext as _
from portal.views.login import looks_like_address


@merchants.may("viewer")
async def index(request: Request) -> Response:
    done = {
        "invited": _("The invitation is on its way."),
        "withdrawn": _("The invitation opens nothing any more."),
        "role": _("The role is changed."),
        "removed": _("They are out, and signed out."),
        "renamed": _("The name is changed."),
    }
    return await _index(request, said=done.get(request.query_params.get("done", "")))


async def _index(
    request: Request,
    problems: dict[str, str] | None = None,
    typed: dict[str, str] | None = None,
    said: str | None = None,
) -> Response:
    person, read = request.state.person, request.app.state.database.read
    values = {"email": "", "role": "editor", "merchant": person.merchant, **(typed or {})}
    return render.settings(
        request,
        "settings/people.html",
        _("People"),
        "people",
        422 if problems else 200,
        rows=await read(merchants.people, person),
        invitations=await read(merchants.open_invitations, person, clock.now()),
        problems=problems or {},
        typed=values,
        said=said,
        may_begin=request.app.state.settings.signup in ("invite", "open"),
    )


@merchants.may("owner", fresh=True)
async def invite(request: Request) -> Response:
    fields = await request.form(max_files=0, max_fields=5)
    email, role = str(fields.get("email", "")).strip()[:254], str(fields.get("role", ""))
    problems = {}
    own_merchant = role != "new"
    if not looks_like_address(email):
        problems["email"] = _("Enter an address such as name@example.com.")
    if role not in (*merchants.ROLES, "new") or (
        not own_merchant and request.app.state.settings.signup not in ("invite", "open")
    ):
        problems["role"] = _("Choose one of the roles.")
    if problems:
        return await _index(request, problems, {"email": email, "role": role})
    kept: merchants.Role = "owner" if role in ("owner", "new") else "editor" if role == "editor" else "viewer"
    try:
        await request.app.state.database.write(
            merchants.invite, request.state.person, email, kept, clock.now(), own_merchant
        )
    except merchants.Refused as error:
        return await _index(request, {"email": str(error)}, {"email": email, "role": role})
    work.nudge()
    return render.see_other(request, "/settings/people?done=invited")


@merchants.may("owner")
async def withdraw(request: Request) -> Response:
    found = await request.app.state.database.write(
        merchants.withdraw_invitation, request.state.person, request.path_params["invitation_id"], clock.now()
    )
    if not found:
        raise HTTPException(404)
    return render.see_other(request, "/settings/people?done=withdrawn")


@merchants.may("owner", fresh=True)
async def change(request: Request) -> Response:
    """Another role, or none any more."""
    fields = await request.form(max_files=0, max_fields=5)
    person: Person = request.state.person
    write, member = request.app.state.database.write, request.path_params["member_id"]
    try:
        if "remove" in fields:
            await write(merchants.remove, person, member)
            return render.see_other(request, "/settings/people?done=removed")
        role = str(fields.get("role", ""))
        if role not in merchants.ROLES:
            return await _index(request, {"form": _("Choose one of the roles.")})
        await write(merchants.change_role, person, member, role)
    except merchants.Refused as error:
        return await _index(request, {"form": str(error)})
    except LookupError:
        raise HTTPException(404) from None
    return render.see_other(request, "/settings/people?done=role")


@merchants.may("owner")
async def rename(request: Request) -> Response:
    fields = await request.form(max_files=0, max_fields=3)
    name = str(fields.get("merchant", "")).strip()[:120]
    if not name or not name.isprintable():
        return await _index(request, {"merchant": _("Enter the name of your business.")}, {"merchant": name})
    await request.app.state.database.write(merchants.rename_merchant, request.state.person, name)
    return render.see_other(request, "/settings/people?done=renamed")


@merchants.may("viewer")
async def audit(request: Request) -> Response:
    before = parse_id(request.query_params.get("before", ""))
    page = await request.app.state.database.read(merchants.audit_page, request.state.person, before)
    return render.settings(request, "settings/audit.html", _("Changes"), "audit", page=page)
