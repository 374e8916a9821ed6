"""The charge-after-cancel guard: a payment that is taken after its subscription has ended is told to both sides, and a
refund is one click away."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import and_, bindparam, or_, select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import models, outgoing
from portal.jobs import enqueue

TAKEN = frozenset({"paid", "authorized", "pending"})
GRACE = timedelta(hours=1)  # a charge may be under way while its subscription is cancelled
CANCELS = ("cancel_now", "cancel_at_period_end")


def look_at_many(db: Session, payment_ids: Sequence[int], now: datetime) -> None:
    """`look` for many payments of one account: most are of subscriptions that have not ended, or of none."""
    if payment_ids:
        for payment_id in db.execute(_doubtful(), {"payments": payment_ids}).scalars().all():
            look(db, payment_id, now)


@cache
def _doubtful() -> Any:
    row, payment = models.Subscription, models.Payment
    return (
        select(col(payment.id))
        .join(
            row,
            and_(
                col(row.account_id) == col(payment.account_id),
                col(row.remote_id) == col(payment.subscription_remote),
            ),
        )
        .where(
            col(payment.id).in_(bindparam("payments", expanding=True)),
            col(payment.after_end_at).is_(None),
            col(payment.status).in_(TAKEN),
            or_(
                col(row.status).in_(("cancels_at_period_end", "cancelled", "expired")),
                col(row.ended_here_at).is_not(None),
                col(row.promised_until).is_not(None),
            ),
        )
    )


def look(db: Session, payment_id: int, now: datetime) -> None:
    """Flag a payment that came after the end, once."""
    payment = db.get_one(models.Payment, payment_id)
    if payment.after_end_at is not None or payment.status not in TAKEN or not payment.subscription_remote:
        return
    row = db.execute(
        select(models.Subscription).where(
            col(models.Subscription.account_id) == payment.account_id,
            col(models.Subscription.remote_id) == payment.subscription_remote,
        )
    ).scalar_one_or_none()
    end = ended_at(db, row) if row is not None else None
    if end is None or (payment.paid_at or payment.placed_at) <= end + GRACE:
        return
    payment.after_end_at = now
    outgoing.of_payment(db, "payment.charged_after_end", payment, now)
    for template in ("charged_after_end", "merchant_charged_after_end"):
        payload = {"template": template, "payment": payment.id}
        enqueue(db, "mail", payload, now, f"{template}:{payment.id}")


def ended_at(db: Session, row: models.Subscription) -> datetime | None:
    """From when on no payment is owed: what the processor says, what we keep beside it, or the proof of a cancel."""
    if row.ended_here_at is not None:
        return row.ended_here_at
    if row.promised_until is not None:
        return row.promised_until
    if row.status == "cancels_at_period_end":
        return row.cancels_at
    if row.status not in ("cancelled", "expired"):
        return None
    proof = db.execute(
        select(col(models.Action.confirmed_at))
        .where(
            col(models.Action.subscription_id) == row.id,
            col(models.Action.capability).in_(CANCELS),
            col(models.Action.confirmed_at).is_not(None),
        )
        .order_by(col(models.Action.created_at).desc())
        .limit(1)
    ).scalar_one_or_none()
    return row.ended_at or proof
