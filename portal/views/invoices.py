"""`GET /customers/invoices/{payment}`: the document of a payment, as a file."""

from unicodedata import normalize
from urllib.parse import quote

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from portal import invoices, render
from portal.gateways.base import Document
from portal.login import signed_in
from portal.pdf import NotMade, press
from portal.store import Lost, StoreDown
from portal.texts import gettext as _

log = structlog.get_logger()


@signed_in
async def download(request: Request) -> Response:
    """The processor's document where it has one, else ours; with `?ours=1` ours in any case."""
    state, whose = request.app.state, (request.state.portal.id, request.state.customer.id)
    wanted = await state.database.read(invoices.asked, *whose, request.path_params["payment_id"])
    if wanted is None:
        raise HTTPException(404)
    if why := invoices.why_not(wanted, request.state.portal):
        return _none(request, why)
    if request.method == "HEAD":  # nothing is issued for a look
        return Response(media_type="application/pdf", headers=_HEADERS)
    if request.query_params.get("ours") != "1":
        theirs = await invoices.theirs(state.settings, state.vault, wanted)
        if isinstance(theirs, str):
            return RedirectResponse(theirs, 303, headers=_HEADERS)
        if theirs:
            return _file(theirs)
    return _file(await _ours(request, wanted))


def _none(request: Request, why: str) -> Response:
    template = "partials/error.html" if render.is_partial(request) else "error.html"
    heading = _("There is nothing to download")
    return render.page(request, template, status=404, heading=heading, sentence=why, request_id="")


async def _ours(request: Request, wanted: invoices.Asked) -> Document:
    try:
        state = request.app.state
        document = await invoices.ours(state.database, press(), wanted, state.store)
    except NotMade as error:
        log.error("a document was not made", payment=wanted.payment.id, why=str(error))
        sentence = (
            _("The invoice can't be made right now. Try again in a minute.")
            if wanted.kind == "invoice"
            else _("The receipt can't be made right now. Try again in a minute.")
        )
        raise HTTPException(503, sentence, headers={"Retry-After": "60"}) from None
    except StoreDown:
        sentence = _("The file can't be fetched right now. Nothing is lost; try again in a minute.")
        raise HTTPException(503, sentence, headers={"Retry-After": "60"}) from None
    except Lost:
        log.error("a document can't be read back as it was issued", payment=wanted.payment.id)
        shop = request.state.portal
        sentence = _(
            "This file can't be read back as it was issued. Write to {support}: {shop} can help."
        ).format(support=shop.support_email, shop=shop.name)
        raise HTTPException(500, sentence) from None
    if document is None:
        raise HTTPException(404)
    return document


_HEADERS = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}


def _file(document: Document) -> Response:
    """A download: whatever the processor calls it, a browser neither shows nor runs it on our pages."""
    is_pdf = document.content_type.split(";")[0].strip().lower() == "application/pdf"
    return Response(
        document.content,
        media_type="application/pdf" if is_pdf else "application/octet-stream",
        headers={**_HEADERS, "Content-Disposition": disposition(document.filename)},
    )


def disposition(filename: str) -> str:
    """`attachment` with the file's name by RFC 6266: plain letters for old readers, the whole name for the others."""
    whole = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in filename).strip(" .")
    whole = (whole[:-4][:120] + ".pdf" if whole.lower().endswith(".pdf") else whole[:120]) or "document"
    plain = (
        normalize("NFKD", whole).encode("ascii", "ignore").decode().replace("%", "_").strip() or "document"
    )
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(whole, safe='')}"
