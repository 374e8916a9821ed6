"""What customers are found by: the beginnings of their address and of the words of their name, whatever the accents and
capitals. Written when somebody comes to be or is renamed; what was missed, the worker writes."""

import unicodedata
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import models
from portal.db import Database

LONGEST = 120  # bytes of a key
WORDS = 6  # of a name, from which on it is found
BATCH = 500

_key: Any = models.CustomerKey.__table__  # type: ignore[attr-defined]


def folded(text: str) -> bytes:
    """A text as it is compared: without accents, capitals and further spaces, in bytes."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(plain.casefold().replace("\x00", " ").split()).encode()[:LONGEST]


def after(beginning: bytes) -> bytes:
    """The first bytes that come after everything with this beginning."""
    return beginning[:-1] + bytes([beginning[-1] + 1])  # no byte of UTF-8 is 255


def keys_of(email: str, name: str | None) -> set[bytes]:
    words = folded(name or "").split(b" ")
    return {folded(email), *(b" ".join(words[at:]) for at in range(min(len(words), WORDS)))} - {b""}


def write(db: Session, portal_id: int, customer_id: int, email: str, name: str | None) -> None:
    """Make a customer found by their address and name as they are now."""
    db.execute(delete(models.CustomerKey).where(col(models.CustomerKey.customer_id) == customer_id))
    rows = [{"portal_id": portal_id, "key": key, "customer_id": customer_id} for key in keys_of(email, name)]
    db.execute(insert(_key), rows)


def write_new(db: Session, portal_id: int, people: Sequence[tuple[int, str, str | None]]) -> None:
    """The same for customers who have just come to be, all at once: id, address, name."""
    rows = [
        {"portal_id": portal_id, "key": key, "customer_id": customer_id}
        for customer_id, email, name in people
        for key in sorted(keys_of(email, name))
    ]
    if rows:
        db.execute(insert(_key), rows)


def rename(db: Session, portal_id: int, people: Sequence[tuple[int, str, str]]) -> None:
    """Give customers their names, and make them found by these: id, address, name."""
    table: Any = models.Customer.__table__  # type: ignore[attr-defined]
    change = update(table).where(table.c.id == bindparam("who")).values(name=bindparam("called"))
    ordered = sorted(people)
    db.execute(change, [{"who": customer_id, "called": name} for customer_id, _, name in ordered])
    ids = [customer_id for customer_id, _, _ in ordered]
    db.execute(delete(models.CustomerKey).where(col(models.CustomerKey.customer_id).in_(ids)))
    write_new(db, portal_id, ordered)


async def sweep(database: Database) -> None:
    """Write the keys of all who have none: of everybody once, where there were none before."""
    while await database.write(write_missing) == BATCH:
        pass


def write_missing(db: Session) -> int:
    """Write the keys of customers that have none yet; how many it was, a batch at most."""
    row = models.Customer
    found = db.execute(
        select(col(row.id), col(row.portal_id), col(row.email), col(row.name))
        .where(col(row.keyed).is_(None))
        .order_by(col(row.id))
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    ).all()
    for one in found:
        write(db, one.portal_id, one.id, one.email, one.name)
    ids = [one.id for one in found]
    db.execute(update(row).where(col(row.id).in_(ids)).values(keyed=True))
    return len(found)
