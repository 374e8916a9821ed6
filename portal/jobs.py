"""The queue: everything that is to happen later is a row, written in the transaction that wants it."""

from datetime import datetime
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, models, sync, walls
from portal.ids import new_id

_ASKS: dict[str, Any] = {
    "subscription": models.Subscription,
    "action": models.Action,
    "order": models.Order,
    "event": models.Event,
}
_ASKS_NOBODY = frozenset({"mail", "login_mail", "deliver"})  # of the processors


def enqueue(
    db: Session,
    kind: str,
    payload: dict[str, Any],
    run_at: datetime,
    dedupe: str | None,
    account_id: int | None = None,
    about: str | None = None,
) -> None:
    """Put a job into the table; one with the same `dedupe` stands already. Whose processor it will ask is found from
    the payload, where nobody says it; and in whose walls it will be carried out from where it is put in. One look
    answers all that are `about` the same."""
    account_id = account_id or _account_of(db, kind, payload)
    sync.insert_once(
        db,
        models.Job.__table__,  # type: ignore[attr-defined]
        {
            "id": new_id(),
            "kind": kind,
            "payload": payload,
            "run_at": run_at,
            "created_at": clock.now(),
            "attempts": 0,
            "account_id": account_id,
            "within": walls.home() or _portal_of(db, account_id, payload),
            "dedupe": dedupe,
            "about": about,
        },
    )


def once_more(db: Session, kind: str, payload: dict[str, Any], run_at: datetime, dedupe: str) -> None:
    """Put in a job that comes up again and again: one row, which is taken up anew once it is done."""
    row = models.Job
    done = or_(col(row.done_at).is_not(None), col(row.parked_at).is_not(None))
    fresh = dict.fromkeys(("done_at", "parked_at", "locked_until", "locked_by", "error"))
    db.execute(update(row).where(col(row.dedupe) == dedupe, done).values(run_at=run_at, attempts=0, **fresh))
    enqueue(db, kind, payload, run_at, dedupe)


def _account_of(db: Session, kind: str, payload: dict[str, Any]) -> int | None:
    if kind in _ASKS_NOBODY:
        return None
    if "account" in payload:
        return int(payload["account"])
    for name, model in _ASKS.items():
        if name in payload:
            return db.execute(select(model.account_id).where(model.id == payload[name])).scalar_one_or_none()
    return None


def _portal_of(db: Session, account_id: int | None, payload: dict[str, Any]) -> int | None:
    """For what is put in from outside of any portal: by a round over all of them, on the command line."""
    if "portal" in payload:
        return int(payload["portal"])
    if account_id is None:
        return None
    row = models.Account
    return db.execute(select(col(row.portal_id)).where(col(row.id) == account_id)).scalar_one_or_none()
