"""Deliveries of processors: stored as raw bytes, once, with the job that handles them."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import models, sync
from portal.gateways import adapter
from portal.gateways.base import Event, Ref
from portal.ids import new_id
from portal.jobs import enqueue


def account_by_token(db: Session, token: str) -> models.Account | None:
    """The account of a webhook address."""
    return db.execute(select(models.Account).where(col(models.Account.token) == token)).scalar_one_or_none()


def store(
    db: Session,
    account: models.Account,
    events: Sequence[Event],
    headers: list[tuple[str, str]],
    body: bytes,
    now: datetime,
) -> int:
    """Keep each event once, with the job that handles it; how many were new."""
    new = 0
    for event in events:
        row_id = new_id()
        fresh = sync.insert_once(
            db,
            models.Event.__table__,  # type: ignore[attr-defined]
            {
                "id": row_id,
                "portal_id": account.portal_id,
                "account_id": account.id,
                "event_id": event.id[:255],
                "type": event.type[:255],
                "headers": [[name, value] for name, value in headers if name.lower() in _KEPT],
                "body": body,
                "received_at": now,
            },
        )
        if fresh:
            new += 1
            payload = {"event": row_id, **_packed(event)}
            enqueue(db, "event", payload, now, f"event:{row_id}", account.id, _about(account, event))
        else:
            _note_repeat(db, account.id, event.id, now)
    return new


def keep(db: Session, account: models.Account, events: Sequence[Event], now: datetime) -> list[Event]:
    """Store what a processor has kept as if it had been delivered, each once; those that never came."""
    row = models.Event
    ids = [event.id[:255] for event in events]
    came = select(col(row.event_id)).where(col(row.account_id) == account.id, col(row.event_id).in_(ids))
    stored = set(db.execute(came).scalars())
    new = []
    for event in events:
        row_id, packed = new_id(), _packed(event)
        if event.id[:255] in stored:
            continue
        values = {
            "id": row_id,
            "portal_id": account.portal_id,
            "account_id": account.id,
            "event_id": event.id[:255],
            "type": event.type[:255],
            "headers": [],
            "body": json.dumps(packed).encode(),
            "received_at": now,
            "asked_at": now,
        }
        if sync.insert_once(db, row.__table__, values):  # type: ignore[attr-defined]
            new.append(event)
            payload = {"event": row_id, **packed}
            enqueue(db, "event", payload, now, f"event:{row_id}", account.id, _about(account, event))
    return new


def _note_repeat(db: Session, account_id: int, event_id: str, now: datetime) -> None:
    """That an event came once more: it is not kept again, and shows all the same that deliveries arrive."""
    row, name = models.Setting, repeat_name(account_id)
    told = db.execute(
        update(row).where(col(row.name) == name).values(value=event_id, at=now).returning(col(row.name))
    ).first()
    if told is None:
        values = {"name": name, "value": event_id, "at": now}
        sync.insert_once(db, models.Setting.__table__, values)  # type: ignore[attr-defined]


def repeat_name(account_id: int) -> str:
    return f"repeated:{account_id}"


_KEPT = {"content-type", "user-agent", "date"}  # never a signature or a cookie


def _about(account: models.Account, event: Event) -> str | None:
    """One look answers all events of an object, where the adapter looks at nothing but the object."""
    if event.subject is None or not adapter(account.processor).looks_at_subject_alone:
        return None
    return f"{account.id}:{event.subject.kind}:{event.subject.id}"


def _packed(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "type": event.type,
        "subject": {"kind": event.subject.kind, "id": event.subject.id} if event.subject else None,
        "occurred_at": event.occurred_at.isoformat() if event.occurred_at else None,
        "body": dict(event.body),
    }


def unpacked(payload: dict[str, Any]) -> Event:
    """The event of a job's payload."""
    subject = payload["subject"]
    occurred = payload["occurred_at"]
    return Event(
        id=payload["id"],
        type=payload["type"],
        subject=Ref(**subject) if subject else None,
        occurred_at=datetime.fromisoformat(occurred) if occurred else None,
        body=payload["body"],
    )
