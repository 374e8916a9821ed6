"""The queue: everything that is to happen later is a row, written in the transaction that wants it."""

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from portal import clock, models, sync
from portal.ids import new_id


def enqueue(db: Session, kind: str, payload: dict[str, Any], run_at: datetime, dedupe: str | None) -> None:
    """Put a job into the table; one with the same `dedupe` stands already."""
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
            "dedupe": dedupe,
        },
    )
