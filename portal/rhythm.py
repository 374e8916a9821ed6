"""How often an account's webhooks come, and whether it has been quiet for longer than it uses to be."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import accounts, models

SAMPLE = 200  # events by which the rhythm of an account is known


def last_times(db: Session, account_id: int) -> list[datetime]:
    """When the last deliveries came, newest first; what had to be asked for is none."""
    row = models.Event
    return list(
        db.execute(
            select(col(row.received_at))
            .where(col(row.account_id) == account_id, col(row.asked_at).is_(None))
            .order_by(col(row.received_at).desc())
            .limit(SAMPLE)
        ).scalars()
    )


def longest_usual(times: Sequence[datetime]) -> timedelta | None:
    """How long an account uses to be quiet, by its last events: nine of ten pauses were no longer. Events within an
    hour count as one. None where there are too few to tell."""
    ordered = sorted(times)
    pauses = sorted(
        later - earlier for earlier, later in pairwise(ordered) if later - earlier >= timedelta(hours=1)
    )
    if len(pauses) < 4:
        return None
    return pauses[int((len(pauses) - 1) * 0.9)]


def patience(times: Sequence[datetime]) -> timedelta:
    """How long an account may be quiet before somebody should look."""
    usual = longest_usual(times)
    return max(timedelta(days=1), 3 * usual) if usual else timedelta(days=7)


def too_quiet(account: models.Account, times: Sequence[datetime], now: datetime) -> bool:
    """Whether webhooks should have come by now. Where none come by nature, or only for objects that were told to send
    them, it can't be said."""
    facts = accounts.webhook_facts(account.processor, account.variant)
    if not facts:
        return False
    if times:
        return now - times[0] > patience(times)
    return any(one.registration != "per_object" for one in facts) and now - account.created_at > timedelta(
        days=1
    )
