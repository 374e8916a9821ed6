"""Stylesheet, script and logo: public, named by their content, kept for ever."""

from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from portal import assets, merchants, queries

_FOR_EVER = "public, max-age=31536000, immutable"


async def file(request: Request) -> Response:
    """A file of ours. A name of another release gets today's content, which is not kept under that name."""
    name = request.path_params["name"]
    made = _FILES.get((name.partition(".")[0], name.rpartition(".")[2]))
    if made is None:
        raise HTTPException(404)
    asset = made(request)
    body, encoding = _encoded(asset, request.headers.get("Accept-Encoding", ""))
    headers = {
        "Content-Type": asset.content_type,
        "Cache-Control": _FOR_EVER if name == asset.name else "no-store",
    }
    if encoding:
        headers["Content-Encoding"] = encoding
    return Response(body, headers=headers)


@merchants.in_portal("viewer")
async def logo_of_site(request: Request) -> Response:
    """A portal's picture for its merchant's pages, found through their portal."""
    content = await request.app.state.database.read(
        queries.logo, request.state.site.id, request.path_params["sha"]
    )
    if content is None:
        raise HTTPException(404)
    return Response(content, media_type="image/png", headers={"Cache-Control": _FOR_EVER})


async def logo(request: Request) -> Response:
    """A portal's picture. A stranger's is not found."""
    content = await request.app.state.database.read(
        queries.logo, request.state.portal.id, request.path_params["sha"]
    )
    if content is None:
        raise HTTPException(404)
    return Response(content, media_type="image/png", headers={"Cache-Control": _FOR_EVER})


def _brand(request: Request) -> tuple[tuple[str, str], ...]:
    return request.state.portal.brand if request.state.portal else ()


_FILES: dict[tuple[str, str], Callable[[Request], assets.Asset]] = {
    ("portal", "js"): lambda request: assets.script(),
    ("portal", "css"): lambda request: assets.stylesheet(_brand(request)),
    ("passkey", "js"): lambda request: assets.passkey_script(),
    ("admin", "css"): lambda request: assets.admin_stylesheet(),
}


def _encoded(asset: assets.Asset, accepted: str) -> tuple[bytes, str | None]:
    wanted = {
        name.strip().lower()
        for name, _, q in (part.partition(";") for part in accepted.split(","))
        if q.strip() != "q=0"
    }
    if "br" in wanted:
        return asset.brotli, "br"
    if "gzip" in wanted:
        return asset.gzip, "gzip"
    return asset.raw, None
