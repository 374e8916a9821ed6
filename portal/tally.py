"""How often something happened on a day, where no rows stay to be counted: sign-ins, mails. By the portal's days."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from zoneinfo import ZoneInfo

from sqlalchemy import Table, bindparam, select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import models
from portal.db import dialect_of

SIGN_IN = "sign_in"
MAIL_SENT, MAIL_REFUSED = "mail_sent", "mail_refused"

_tally: Table = models.Tally.__table__  # type: ignore[attr-defined]
DAYS = select(_tally.c.name, _tally.c.day, _tally.c.count).where(
    _tally.c.portal_id == bindparam("portal"),
    _tally.c.name.in_(bindparam("names", expanding=True)),
    _tally.c.day.between(bindparam("first"), bindparam("last")),
)


def count(db: Session, portal_id: int, name: str, now: datetime, n: int = 1) -> None:
    """Add to what is counted under a name for the portal's day. Last in a transaction: others wait for its row."""
    zone = db.execute(
        select(col(models.Portal.time_zone)).where(col(models.Portal.id) == portal_id)
    ).scalar_one_or_none()
    if zone is None or n <= 0:
        return
    day = now.astimezone(ZoneInfo(zone)).date()
    statement = dialect_of(db).insert(_tally).values(portal_id=portal_id, name=name, day=day, count=n)
    db.execute(
        statement.on_conflict_do_update(
            index_elements=list(_tally.primary_key.columns),
            set_={"count": _tally.c.count + statement.excluded.count},
        )
    )


def count_all(db: Session, counts: Mapping[tuple[int, str], int], now: datetime) -> None:
    """Several at once, always in the same order, so that two who count do not wait for each other in a circle."""
    for portal_id, name in sorted(counts):
        count(db, portal_id, name, now, counts[portal_id, name])


def days(
    db: Session, portal_id: int, names: Sequence[str], first: date, last: date
) -> dict[str, dict[date, int]]:
    """What was counted from one day to another, by name and day; days on which nothing was are not in it."""
    found: dict[str, dict[date, int]] = {name: {} for name in names}
    rows = db.execute(DAYS, {"portal": portal_id, "names": list(names), "first": first, "last": last})
    for name, day, number in rows:
        found[name][day] = number
    return found
