"""Settings > Import: files of orders that no processor lists. Taken in, their columns named, tried, imported."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import anyio
import anyio.to_thread
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from portal import clock, export, merchants, models, render, sheets, work
from portal.ids import id_text, parse_id
from portal.merchants import Person
from portal.multipart import Form, read_form
from portal.sheetfile import MOST_BYTES, MOST_COLUMNS, Unreadable
from portal.sheetrows import COLUMNS
from portal.sheets import Choice, Refused, Shown, Ways
from portal.store import StoreDown
from portal.texts import gettext as _
from portal.turns import Turns

AT_ONCE = 2  # files that a process takes in
_turns = Turns("sheets", AT_ONCE)


def _here(request: Request, path: str = "") -> str:
    return f"/settings/portals/{id_text(request.state.site.id)}/sheets{path}"


def states() -> dict[str, tuple[str, str]]:
    """The tone and the word of a file's state."""
    return {
        "new": ("info", _("Not imported yet")),
        "checking": ("info", _("Being tried")),
        "checked": ("info", _("Tried")),
        "importing": ("info", _("Being imported")),
        "done": ("ok", _("Imported")),
        "failed": ("bad", _("Not imported")),
    }


# The list, and a new file


@merchants.in_portal("viewer")
async def index(request: Request) -> Response:
    done = {"discarded": _("Discarded. Its rows are not kept any more.")}
    return await _index(request, said=done.get(request.query_params.get("done", "")))


async def _index(
    request: Request,
    problems: dict[str, str] | None = None,
    sort: str = "",
    said: str | None = None,
    status: int = 422,
) -> Response:
    read, site = request.app.state.database.read, request.state.site
    answer: Response = render.settings(
        request,
        "settings/sheets.html",
        _("Import orders from a file"),
        "sheets",
        status if problems else 200,
        rows=await read(sheets.sheets, site.id),
        ways=await read(sheets.ways, site.id),
        states=states(),
        here=_here(request),
        columns=[(one.name, _(one.label), _(one.help)) for one in COLUMNS.values()],
        problems=problems or {},
        chosen_sort=sort,
        most_bytes=MOST_BYTES,
        said=said,
    )
    if answer.status_code == 503:
        answer.headers["Retry-After"] = "60"
    return answer


@merchants.in_portal("editor")
async def upload(request: Request) -> Response:
    """Take a file in. It is read row by row, outside of the event loop."""
    form: Form | None = None
    try:
        form = await read_form(request, MOST_BYTES, on_disk=True)
        return await _take(request, form)
    except (Unreadable, Refused) as error:
        return await _index(request, {"file": str(error)}, form.text("sort") if form else "")
    except StoreDown:
        sentence = _("This file can't be kept right now. Nothing of it was taken in; try again in a minute.")
        return await _index(request, {"file": sentence}, form.text("sort") if form else "", status=503)
    except OSError:
        return await _index(request, {"file": _("There is no room for this file on the server right now.")})
    finally:
        if form is not None:
            form.close()


async def _take(request: Request, form: Form) -> Response:
    found, site = form.file("file"), request.state.site
    database, person = request.app.state.database, request.state.person
    if found is None or found.file is None:
        raise Unreadable(_("Choose a file first."))
    if found.too_large:
        raise Unreadable(
            _("A file may have up to {size} MB. Split it, or save it as CSV.").format(size=MOST_BYTES >> 20)
        )
    own = parse_id(form.text("sort"))
    ways: Ways = await database.read(sheets.ways, site.id)
    if own is not None and own not in {one.account_id for one in ways.own}:
        raise Refused(_("This portal has no such account."))
    take = partial(sheets.take, own_of=own, place=request.app.state.store)
    sheet_id = await anyio.to_thread.run_sync(
        take, database, site.id, found.file, found.filename, person.email, limiter=_turns.places()
    )
    await database.write(_note, person, site.id, "sheet.taken", found.filename)
    return render.see_other(request, _here(request, f"/{id_text(sheet_id)}"))


def _note(db: Session, person: Person, portal_id: int, what: str, subject: str) -> None:
    merchants.audit(db, person, what, subject=subject[:200], portal_id=portal_id)


@merchants.in_portal("viewer")
async def template(request: Request) -> Response:
    """The file to begin with."""
    headers = {"Content-Disposition": 'attachment; filename="orders-template.csv"'}
    return Response(sheets.template(), media_type="text/csv; charset=utf-8", headers=headers)


# One file


@dataclass(frozen=True, slots=True)
class SheetPage:
    """A file with what is chosen for it, how its first rows are understood, and what was wrong in its last run."""

    sheet: models.Sheet
    ways: Ways
    rows: list[Shown]
    problems: list[sheets.Problem]

    @property
    def is_at_work(self) -> bool:
        return self.sheet.state in sheets.AT_WORK

    @property
    def done(self) -> int:
        """Rows gone through."""
        one = self.sheet
        return one.created + one.changed + one.unchanged + one.refused


def page_of(db: Session, portal_id: int, sheet_id: int, choice: Choice | None) -> SheetPage | None:
    sheet = sheets.sheet_of(db, portal_id, sheet_id)
    if sheet is None:
        return None
    rows = [] if sheet.emptied_at else sheets.look(db, sheet, choice or sheets.choice_of(sheet), clock.now())
    wrong = sheets.problems(db, portal_id, sheet_id, 0, sheets.PROBLEMS_SHOWN)
    return SheetPage(sheet, sheets.ways(db, portal_id), rows, wrong)


@merchants.in_portal("viewer")
async def show(request: Request) -> Response:
    return await _show(request)


@merchants.in_portal("viewer")
async def state(request: Request) -> Response:
    """How far it is, to be drawn again and again."""
    page = await _page(request, None)
    if not page.is_at_work and render.is_partial(request):
        return render.see_other(request, _here(request, f"/{id_text(page.sheet.id)}"))
    return render.page(
        request, "partials/settings/sheet_state.html", **_context(request, page, sheets.choice_of(page.sheet))
    )


async def _page(request: Request, choice: Choice | None) -> SheetPage:
    found: SheetPage | None = await request.app.state.database.read(
        page_of, request.state.site.id, request.path_params["sheet_id"], choice
    )
    if found is None:
        raise HTTPException(404)
    return found


def _context(request: Request, page: SheetPage, choice: Choice) -> dict[str, Any]:
    accounts = [(id_text(number), label) for number, label in page.ways.accounts]
    return {
        "page": page,
        "sheet": page.sheet,
        "choice": choice,
        "account": id_text(choice.account_id) if choice.account_id else "",
        "accounts": [("", _("As each row says")), *accounts],
        "columns": [("", _("Not used")), *((one.name, _(one.label)) for one in COLUMNS.values())],
        "states": states(),
        "here": _here(request, f"/{id_text(page.sheet.id)}"),
        "list": _here(request),
    }


async def _show(
    request: Request, choice: Choice | None = None, problems: dict[str, str] | None = None
) -> Response:
    page = await _page(request, choice)
    shown = choice or sheets.choice_of(page.sheet)
    if choice is None and shown.account_id is None and len(page.ways.accounts) == 1:
        shown = Choice(shown.mapping, page.ways.accounts[0][0], **shown.rules)
        page = await _page(request, shown)
    return render.settings(
        request,
        "settings/sheet.html",
        page.sheet.name,
        "sheets",
        422 if problems else 200,
        problems=problems or {},
        **_context(request, page, shown),
    )


@merchants.in_portal("editor")
async def go(request: Request) -> Response:
    """Look at it, try it, import it, or let it go."""
    form = await request.form(max_files=0, max_fields=MOST_COLUMNS + 12)
    do = str(form.get("do", ""))
    database, site = request.app.state.database, request.state.site
    here = _here(request, f"/{id_text(request.path_params['sheet_id'])}")
    if do == "discard":
        await database.write(_discard, request.state.person, site.id, request.path_params["sheet_id"])
        return render.see_other(request, _here(request, "?done=discarded"))
    page = await _page(request, None)
    choice = _chosen(form, page.sheet)
    wrong: dict[str, str] = await database.read(_wrong, site.id, page.sheet.id, choice)
    if wrong or do == "look":
        return await _show(request, choice, wrong)
    try:
        await database.write(_begin, request.state.person, site.id, page.sheet.id, choice, do == "import")
    except Refused as error:
        return await _show(request, choice, {"form": str(error)})
    work.nudge()
    return render.see_other(request, here)


def _chosen(form: Any, sheet: models.Sheet) -> Choice:
    def text(name: str, most: int = 40) -> str:
        value = form.get(name, "")
        return value.strip()[:most] if isinstance(value, str) else ""

    mapping = tuple(
        name if (name := text(f"column-{number}")) in COLUMNS else "" for number in range(len(sheet.header))
    )
    decimal, dates = text("decimal"), text("dates")
    account = sheet.account_id if sheet.kind == "own" else parse_id(text("account"))
    return Choice(
        mapping,
        account,
        decimal if decimal in (".", ",") else "",
        dates if dates in ("dmy", "mdy") else "",
        text("currency", 3).upper(),
        text("as_of", 10),
    )


def _wrong(db: Session, portal_id: int, sheet_id: int, choice: Choice) -> dict[str, str]:
    sheet = sheets.sheet_of(db, portal_id, sheet_id)
    return sheets.wrong_with(db, sheet, choice, clock.now()) if sheet else {}


def _begin(db: Session, person: Person, portal_id: int, sheet_id: int, choice: Choice, wanted: bool) -> None:
    """Import what was tried just like this; anything else is tried first."""
    sheet = sheets.sheet_of(db, portal_id, sheet_id, lock=True)
    if sheet is None:
        raise HTTPException(404)
    was_tried = sheet.state in ("checked", "done") and sheets.choice_of(sheet) == choice
    what: Literal["checking", "importing"] = "importing" if wanted and was_tried else "checking"
    now = clock.now()
    run = sheets.begin(db, sheet, choice, what, now)
    sheets.want(db, sheet, run, now)
    if what == "importing":
        merchants.audit(db, person, "sheet.imported", subject=sheet.name, portal_id=portal_id)


def _discard(db: Session, person: Person, portal_id: int, sheet_id: int) -> None:
    sheet = sheets.sheet_of(db, portal_id, sheet_id, lock=True)
    if sheet is None:
        raise HTTPException(404)
    sheets.empty(db, sheet, clock.now())
    merchants.audit(db, person, "sheet.discarded", subject=sheet.name, portal_id=portal_id)


@merchants.in_portal("editor")
async def download(request: Request) -> Response:
    """What is wrong, row by row, as CSV."""
    page = await _page(request, None)
    database, site = request.app.state.database, request.state.site
    await database.write(export.note, request.state.person, site.id, "data.exported", page.sheet.name)
    return StreamingResponse(
        sheets.problems_csv(database, site.id, page.sheet.id),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{site.slug}-problems.csv"'},
    )
