"""The rows whose bytes lie in the store: what is there without a row goes, everything moves from one place to another,
and all of it can be read through."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from tempfile import TemporaryFile
from typing import Any, Literal

import structlog
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, invoices, models, sheets
from portal.db import Database
from portal.jobs import enqueue
from portal.store import Folder, Kind, Lost, Store, StoreDown, ask, key_of, named, proved, put_bytes, whole
from portal.sync import insert_once

log = structlog.get_logger()

# Of an object that no row names: its row may be on its way, or come back from a backup.
GRACE = timedelta(days=14)
PAGE = 500
NOTE = "store"  # the setting that says where this installation's objects lie

Became = Literal["moved", "there", "missing", "damaged"]


def place_of(place: Store | None) -> str | None:
    """Where objects lie, to be compared: two machines that each have a folder have two places. None: nothing is there
    yet."""
    if place is None:
        return "database"
    if isinstance(place, Folder):
        return f"{place.place}#{place.mark()}" if place.root.exists() else None
    return place.place


async def keep_house(database: Database, place: Store | None, now: datetime) -> None:
    """Note where objects lie, the first time; and once a day look for those without a row."""
    with suppress(StoreDown):
        where = await ask(place_of, place)
        if where is not None:
            await database.write(_house, where, place is not None, now)


def _house(db: Session, where: str, sweeps: bool, now: datetime) -> None:
    table = models.Setting.__table__  # type: ignore[attr-defined]
    insert_once(db, table, {"name": NOTE, "value": where, "at": now})
    if sweeps:
        enqueue(db, "sweep_store", {}, now, f"sweep_store:{now:%Y-%m-%d}")


def noted(db: Session) -> str | None:
    """Where the objects of this installation lie, as far as is known."""
    row = db.get(models.Setting, NOTE)
    return row.value if row else None


async def sweep(database: Database, place: Store, now: datetime) -> int:
    """Objects that no row names go, when they are old enough; how many."""
    count = 0
    keys = place.listed()
    while page := await ask(lambda: list(islice(keys, PAGE))):
        old = [key for key, since in page if now - since > GRACE]
        left = set(old) - (await database.read(with_rows, old) if old else set())
        for key in sorted(left):
            await ask(place.delete, key)
            log.info("an object without a row is gone", key=key)
        count += len(left)
    return count


def with_rows(db: Session, keys: Iterable[str]) -> set[str]:
    """Those of these keys that a row names."""
    wanted = [named(key) for key in keys]
    return {
        *_keys_in(db, "document", [row for _portal, kind, row, _sha in wanted if kind == "document"]),
        *_keys_in(db, "sheet", [row for _portal, kind, row, _sha in wanted if kind == "sheet"]),
    }


def _keys_in(db: Session, kind: Kind, ids: list[int]) -> Iterator[str]:
    row: Any = models.IssuedDocument if kind == "document" else models.Sheet
    found = db.execute(
        select(row.portal_id, row.id, row.sha256).where(row.id.in_(ids), row.sha256.is_not(None))
    )
    return (key_of(kind, *one) for one in found)


# From one place to another


def move(database: Database, place: Store | None, source: Store | None) -> Counter[Became]:
    """Bring all bytes to where they are to lie now, from the rows or from the store they lay in before: one at a time,
    each proved. May be cut off, and be run again. Blocks; StoreDown."""
    found: Counter[Became] = Counter()
    for document in _documents(database):
        found[_told(partial(_move_document, database, place, source, *document))] += 1
    for sheet in _sheets(database):
        found[_told(partial(_move_sheet, database, place, source, sheet))] += 1
    if not found["missing"] and not found["damaged"] and (where := place_of(place)):
        database.write_now(_note, where)
    return found


def _told(do: Callable[[], Became]) -> Became:
    try:
        return do()
    except Lost as error:
        return "missing" if str(error) == "missing" else "damaged"


def _note(db: Session, where: str) -> None:
    db.merge(models.Setting(name=NOTE, value=where, at=clock.now()))


def _documents(database: Database) -> Iterator[tuple[str, bool]]:
    """The key of every document that is made, and whether its bytes stand in its row."""
    after = 0
    while page := database.read_now(_document_page, after):
        for after, portal_id, sha256, is_here in page:
            yield key_of("document", portal_id, after, sha256), is_here


def _document_page(db: Session, after: int) -> list[Any]:
    row = models.IssuedDocument
    columns = (col(row.id), col(row.portal_id), col(row.sha256), col(row.content).is_not(None))
    statement = select(*columns).where(col(row.id) > after, col(row.sha256).is_not(None))
    return list(db.execute(statement.order_by(col(row.id)).limit(PAGE)))


def _move_document(
    database: Database, place: Store | None, source: Store | None, key: str, is_here: bool
) -> Became:
    portal_id, _kind, row_id, sha256 = named(key)
    if is_here == (place is None) and (place is None or place.size(key) is not None):
        return "there"
    read = partial(_content_now, database) if is_here else partial(whole, _given(source))
    content = read(key)
    if place is not None:
        put_bytes(place, key, content)
    database.write_now(invoices.set_content, portal_id, row_id, sha256, content if place is None else None)
    return "moved"


def _content_now(database: Database, key: str) -> bytes:
    _portal, _kind, row_id, sha256 = named(key)
    return proved(database.read_now(_content, row_id), sha256, key)


def _given(source: Store | None) -> Store:
    if source is None:
        raise Lost("missing")
    return source


def _content(db: Session, row_id: int) -> bytes:
    row = models.IssuedDocument
    found = db.execute(select(col(row.content)).where(col(row.id) == row_id)).scalar_one()
    return found or b""


def _sheets(database: Database) -> list[models.Sheet]:
    row = models.Sheet
    kept = select(row).where(col(row.emptied_at).is_(None), col(row.state) != "taken")
    return list(database.read_now(lambda db: db.execute(kept.order_by(col(row.id))).scalars().all()))


def _move_sheet(database: Database, place: Store | None, source: Store | None, sheet: models.Sheet) -> Became:
    parts = database.read_now(_parts, sheet.id)
    if sheet.sha256 is None:
        if place is None or not parts:
            return "there"
        with TemporaryFile() as spool:
            places, sha256 = sheets.bundle(
                (database.read_now(_part_content, sheet.id, part.number) for part in parts), spool
            )
            place.put(key_of("sheet", sheet.portal_id, sheet.id, sha256), spool)
        numbered = [(part.number, {**one, "content": None}) for part, one in zip(parts, places, strict=True)]
        database.write_now(_set_parts, sheet.id, sha256, numbered)
        return "moved"
    key = key_of("sheet", sheet.portal_id, sheet.id, sheet.sha256)
    if place is not None and place.size(key) is not None:
        return "there"
    content = whole(_given(source), key)
    if place is not None:
        put_bytes(place, key, content)
        return "moved"
    back = [
        (
            part.number,
            {"at": None, "size": None, "sha256": None}
            | {"content": content[part.at or 0 : (part.at or 0) + (part.size or 0)]},
        )
        for part in parts
    ]
    database.write_now(_set_parts, sheet.id, None, back)
    return "moved"


def _parts(db: Session, sheet_id: int) -> list[Any]:
    row = models.SheetPart
    statement = select(col(row.number), col(row.at), col(row.size)).where(col(row.sheet_id) == sheet_id)
    return list(db.execute(statement.order_by(col(row.number))))


def _part_content(db: Session, sheet_id: int, number: int) -> bytes:
    row = models.SheetPart
    here = (col(row.sheet_id) == sheet_id, col(row.number) == number)
    return db.execute(select(col(row.content)).where(*here)).scalar_one() or b""


def _set_parts(
    db: Session, sheet_id: int, sha256: str | None, parts: list[tuple[int, dict[str, Any]]]
) -> None:
    """All at once, or, where the file was let go meanwhile, nothing of it."""
    sheet = db.execute(
        select(models.Sheet).where(col(models.Sheet.id) == sheet_id).with_for_update()
    ).scalar_one_or_none()
    if sheet is None or sheet.emptied_at is not None:
        return
    row = models.SheetPart
    for number, values in parts:
        db.execute(
            update(row).where(col(row.sheet_id) == sheet_id, col(row.number) == number).values(**values)
        )
    sheet.sha256 = sha256


# Reading it through


def check(database: Database, place: Store | None) -> Counter[Became]:
    """Read every object and hold it against its hash. Blocks; StoreDown."""
    found: Counter[Became] = Counter()
    for document in _documents(database):
        found[_told(partial(_check_document, database, place, *document))] += 1
    for sheet in _sheets(database):
        if sheet.sha256 is not None:
            key = key_of("sheet", sheet.portal_id, sheet.id, sheet.sha256)
            found[_told(partial(_check_object, place, key))] += 1
    return found


def _check_document(database: Database, place: Store | None, key: str, is_here: bool) -> Became:
    if not is_here:
        return _check_object(place, key)
    _content_now(database, key)
    return "there"


def _check_object(place: Store | None, key: str) -> Became:
    whole(_given(place), key)
    return "there"
