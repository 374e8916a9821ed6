"""Requests: what a customer asks the merchant to do because no call of the processor does it. Each has a reference, a
day by which it is answered, and a history that both sides see; nothing is shown as done before somebody says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import models, outgoing
from portal.ids import new_reference
from portal.jobs import enqueue

SHOWN_FOR = timedelta(days=30)  # how long an answer stays on the subscription's card
ANSWERS = ("done", "declined")


class AlreadyAsked(Exception):
    """The same thing is asked already, and the merchant has not answered yet."""


class NotOpen(Exception):
    """The request has been answered or withdrawn; the sentence says so."""


def ask(
    db: Session,
    portal_id: int,
    account_id: int | None,
    customer_id: int | None,
    subject_id: int,
    kind: str,
    what: str,
    now: datetime,
    words: str | None = None,
    params: dict[str, Any] | None = None,
    contact: str | None = None,
) -> models.Request:
    """Put a request into the merchant's queue, with the mail that tells them and the alarm for when it is late.

    `params` holds what must be known later to see that the processor shows it done. `contact` is the address of who
    asks without having signed in: nothing is mailed there before the merchant answers. Raises AlreadyAsked.
    """
    portal = db.get_one(models.Portal, portal_id)
    found = models.Request(
        portal_id=portal_id,
        account_id=account_id,
        customer_id=customer_id,
        contact=contact,
        subject_id=subject_id,
        kind=kind,
        reference=new_reference(),
        what=what,
        words=words or None,
        params=params or {},
        history=[_entry(now, "customer", "asked", words)],
        due_at=now + timedelta(days=portal.request_days),
        created_at=now,
    )
    try:
        with db.begin_nested():
            db.add(found)
    except IntegrityError as error:
        raise AlreadyAsked from error
    outgoing.of_request(db, "request.created", found, now)
    _mail(db, found, "request_new", now)
    if customer_id is not None:
        _mail(db, found, "request_received", now)
    enqueue(db, "request_late", {"request": found.id}, found.due_at, f"request_late:{found.id}")
    return found


def withdraw(db: Session, portal_id: int, customer_id: int, request_id: int, now: datetime) -> models.Request:
    """The customer takes a request back; LookupError where it is not theirs, NotOpen where it is answered."""
    found = db.execute(
        select(models.Request)
        .where(
            col(models.Request.id) == request_id,
            col(models.Request.portal_id) == portal_id,
            col(models.Request.customer_id) == customer_id,
        )
        .with_for_update()
    ).scalar_one_or_none()
    if found is None:
        raise LookupError(request_id)
    _close(db, found, "withdrawn", "customer", None, now)
    outgoing.of_request(db, "request.withdrawn", found, now)
    _mail(db, found, "request_withdrawn", now)
    return found


def answer(
    db: Session,
    portal_id: int,
    reference: str,
    status: str,
    sentence: str | None,
    who: str,
    now: datetime,
    by: str | None = None,
) -> models.Request:
    """The merchant answers: `done` or `declined`, the latter with a sentence. LookupError, NotOpen, ValueError.

    `by` is the person of the merchant who does; customers are not told.
    """
    if status not in ANSWERS:
        raise ValueError(f"a request is answered with {' or '.join(ANSWERS)}")
    if status == "declined" and not (sentence or "").strip():
        raise ValueError("to decline takes a sentence that the customer will read")
    found = by_reference(db, portal_id, reference, lock=True)
    _close(db, found, status, who, (sentence or "").strip() or None, now, by)
    outgoing.of_request(db, "request.answered", found, now)
    _mail(db, found, "request_answered", now)
    return found


def by_reference(db: Session, portal_id: int, reference: str, lock: bool = False) -> models.Request:
    """The request of a portal by its reference; LookupError where there is none."""
    statement = select(models.Request).where(
        col(models.Request.portal_id) == portal_id, col(models.Request.reference) == reference.upper()
    )
    found = db.execute(statement.with_for_update() if lock else statement).scalar_one_or_none()
    if found is None:
        raise LookupError(reference)
    return found


def shown_by_processor(db: Session, found: models.Request, label: str, now: datetime) -> None:
    """What was asked for is so at the processor, whoever did it."""
    _close(db, found, "done", label, None, now)
    outgoing.of_request(db, "request.answered", found, now)
    _mail(db, found, "request_answered", now)


def _close(
    db: Session,
    found: models.Request,
    status: str,
    who: str,
    sentence: str | None,
    now: datetime,
    by: str | None = None,
) -> None:
    if found.closed_at is not None:
        raise NotOpen(f"{found.reference} is {found.status} already")
    found.status, found.answer, found.closed_at = status, sentence, now
    found.history = [*found.history, _entry(now, who, status, sentence) | ({"by": by} if by else {})]
    db.flush()


def _entry(at: datetime, who: str, what: str, text: str | None) -> dict[str, Any]:
    return {"at": at.isoformat(), "who": who, "what": what, "text": text or None}


def _mail(db: Session, found: models.Request, template: str, now: datetime) -> None:
    enqueue(db, "mail", {"template": template, "request": found.id}, now, f"mail:{template}:{found.id}")


def late(db: Session, request_id: int, now: datetime) -> None:
    """The day has come and nobody has answered: the merchant is alarmed, and the customer's page says it is late."""
    found = db.get_one(models.Request, request_id)
    if found.closed_at is None and found.told_late_at is None:
        found.told_late_at = now
        found.history = [*found.history, _entry(now, "portal", "late", None)]
        outgoing.of_request(db, "request.late", found, now)
        _mail(db, found, "request_late", now)


# Reading


@dataclass(frozen=True, slots=True)
class RequestsPage:
    rows: tuple[models.Request, ...]
    older: int | None  # the id after which older ones begin


PAGE = 25


def of_customer(db: Session, portal_id: int, customer_id: int, before: int | None = None) -> RequestsPage:
    """A customer's requests, newest first, 25 at a time; `before` is the id of the last one shown."""
    row = models.Request
    statement = select(row).where(col(row.portal_id) == portal_id, col(row.customer_id) == customer_id)
    if before is not None:
        statement = statement.where(col(row.id) < before)
    found = db.execute(statement.order_by(col(row.id).desc()).limit(PAGE + 1)).scalars().all()
    return RequestsPage(tuple(found[:PAGE]), found[PAGE - 1].id if len(found) > PAGE else None)


def about(
    db: Session, portal_id: int, customer_id: int, subject_ids: Sequence[int], now: datetime
) -> dict[int, list[models.Request]]:
    """Per subscription or payment the requests that its card tells: open ones, and answers of the last 30 days."""
    row = models.Request
    found = db.execute(
        select(row)
        .where(
            col(row.portal_id) == portal_id,
            col(row.customer_id) == customer_id,
            col(row.subject_id).in_(subject_ids),
            (col(row.closed_at).is_(None)) | (col(row.closed_at) > now - SHOWN_FOR),
        )
        .order_by(col(row.id))
    ).scalars()
    by_subject: dict[int, list[models.Request]] = {}
    for one in found:
        by_subject.setdefault(one.subject_id, []).append(one)
    return by_subject


def queue(
    db: Session, portal_id: int | None, everything: bool = False, limit: int = 200
) -> list[models.Request]:
    """The merchant's queue, what is due first on top; `everything` also shows what is answered."""
    row = models.Request
    statement = select(row).order_by(col(row.status) != "open", col(row.due_at), col(row.id)).limit(limit)
    if portal_id is not None:
        statement = statement.where(col(row.portal_id) == portal_id)
    if not everything:
        statement = statement.where(col(row.status) == "open")
    return list(db.execute(statement).scalars())


def merchants_address(portal: models.Portal) -> str:
    """Who is asked."""
    return portal.request_email or portal.support_email
