"""Where in a list somebody wants to be, by the address they came with."""

from dataclasses import dataclass

from starlette.requests import Request

from portal.queries import Cursor


@dataclass(frozen=True, slots=True)
class Where:
    """`cursor` is None on the first page; `lost`: the address named a place that does not exist."""

    cursor: Cursor | None
    lost: bool = False


def asked(request: Request, name: str) -> Where:
    """The place that the parameter `name` asks for. A damaged one leads to the first page, which says so."""
    text = request.query_params.get(name)
    if text is None:
        return Where(None)
    cursor = Cursor.parse(text)
    return Where(cursor, lost=cursor is None)
