"""The merchant's desk: what customers have asked for, in the order in which it is to be answered; the answers, and the
daily mail about what is open."""

import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

from sqlalchemy import BigInteger, Select, and_, bindparam, func, select, tuple_
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import merchants, models, people, requests, saving
from portal.gateways import facts
from portal.ids import id_text
from portal.jobs import enqueue
from portal.merchants import Person
from portal.people import account_labels
from portal.queries import Cursor
from portal.saving import Late
from portal.texts import gettext as _

PAGE = 25
Which = Literal["open", "overdue", "answered"]


# The queue


@dataclass(frozen=True, slots=True)
class QueueRow:
    """`at` is the day by which it is to be answered, else when it was."""

    id: int
    reference: str
    kind: str
    what: str
    status: str
    customer_id: int | None
    email: str  # of who is not signed in, as they typed it
    account: str | None
    due_at: datetime
    closed_at: datetime | None
    is_late: bool


@dataclass(frozen=True, slots=True)
class Queue:
    rows: tuple[QueueRow, ...]
    older: str | None
    open: int
    overdue: int


_request: Any = models.Request.__table__  # type: ignore[attr-defined]
_customer: Any = models.Customer.__table__  # type: ignore[attr-defined]
_LISTED = (
    select(
        _request.c.id,
        _request.c.reference,
        _request.c.kind,
        _request.c.what,
        _request.c.status,
        _request.c.customer_id,
        func.coalesce(_customer.c.email, _request.c.contact).label("email"),
        _request.c.account_id,
        _request.c.due_at,
        _request.c.closed_at,
    )
    .join_from(
        _request,
        _customer,
        and_(_customer.c.id == _request.c.customer_id, _customer.c.portal_id == _request.c.portal_id),
        isouter=True,  # so that no planner begins with the customers
    )
    .where(_request.c.portal_id == bindparam("portal"))
    .limit(PAGE + 1)
)
_PLACE = tuple_(bindparam("at", type_=models.Moment()), bindparam("id", type_=BigInteger()))
# What is due first comes first, so what is overdue stands on top.
OPEN = _LISTED.where(_request.c.status == "open", tuple_(_request.c.due_at, _request.c.id) > _PLACE).order_by(
    _request.c.due_at, _request.c.id
)
OVERDUE = OPEN.where(_request.c.due_at < bindparam("now", type_=models.Moment()))
ANSWERED = _LISTED.where(
    _request.c.closed_at.is_not(None), tuple_(_request.c.closed_at, _request.c.id) < _PLACE
).order_by(_request.c.closed_at.desc(), _request.c.id.desc())
_FIRST = Cursor(datetime.fromisoformat("1970-01-01T00:00:00+00:00"), 0)
_LAST = Cursor(datetime.fromisoformat("9000-01-01T00:00:00+00:00"), 2**63 - 1)


def queue(db: Session, portal_id: int, which: Which, now: datetime, after: Cursor | None = None) -> Queue:
    """One page of what is open, what of it is overdue, or what is answered (the last answer first)."""
    place = after or (_LAST if which == "answered" else _FIRST)
    values: dict[str, Any] = {"portal": portal_id, "at": place.placed_at, "id": place.id}
    statement: Select[Any] = {"open": OPEN, "overdue": OVERDUE, "answered": ANSWERED}[which]
    if which == "overdue":
        values["now"] = now
    found = db.execute(statement, values).all()
    labels = account_labels(db, portal_id)
    rows = tuple(
        QueueRow(
            row.id,
            row.reference,
            row.kind,
            row.what,
            row.status,
            row.customer_id,
            row.email,
            labels[row.account_id][0] if row.account_id is not None else None,
            row.due_at,
            row.closed_at,
            row.status == "open" and row.due_at < now,
        )
        for row in found[:PAGE]
    )
    older = None
    if len(found) > PAGE:
        last = rows[-1]
        older = str(Cursor(last.closed_at or last.due_at, last.id))
    return Queue(rows, older, *counts(db, portal_id, now))


def counts(db: Session, portal_id: int, now: datetime) -> tuple[int, int]:
    """How many requests are open, and how many of them overdue."""
    row = _request.c
    found = db.execute(
        select(func.count(), func.count().filter(row.due_at < now)).where(
            row.portal_id == portal_id, row.status == "open"
        )
    ).one()
    return found[0], found[1]


# One request


@dataclass(frozen=True, slots=True)
class RequestPage:
    """A request with what decides the answer. `subject` is the subscription or the payment that it is about.

    Of an order that somebody looks for: no `customer`, but the `owner` of the address on it, where it was found.
    """

    row: models.Request
    customer: models.Customer | None
    account: str | None
    label: str | None  # of the processor
    subject: models.Subscription | models.Payment | None
    answered_by: str | None  # the person of the merchant
    owner: models.Customer | None = None
    found: bool = True  # whether there is a `subject`, or was one

    @property
    def email(self) -> str:
        return self.customer.email if self.customer else self.row.contact or ""


def request_page(db: Session, portal_id: int, request_id: int) -> RequestPage | None:
    found = db.execute(
        select(models.Request, models.Customer, models.Account)
        .join(models.Customer, col(models.Customer.id) == col(models.Request.customer_id), isouter=True)
        .join(models.Account, col(models.Account.id) == col(models.Request.account_id), isouter=True)
        .where(col(models.Request.id) == request_id, col(models.Request.portal_id) == portal_id)
    ).one_or_none()
    if found is None:
        return None
    row, customer, account = found
    model: Any = models.Payment if row.kind in ("refund", "find_order") else models.Subscription
    subject = db.execute(
        select(model).where(model.id == row.subject_id, model.portal_id == portal_id)
    ).scalar_one_or_none()
    by = row.history[-1].get("by") if row.history and row.closed_at else None
    if account is None:
        return RequestPage(row, customer, None, None, None, by, found=False)
    label, owner = facts(account.processor).label, None
    if customer is None and subject is not None and subject.customer_id is not None:
        owner = db.get(models.Customer, subject.customer_id)
    return RequestPage(row, customer, account.label, label, subject, by, owner)


def answer(
    db: Session,
    person: Person,
    portal_id: int,
    request_id: int,
    status: str,
    sentence: str,
    now: datetime,
    give: bool = False,
) -> models.Request:
    """Answer as a person of the merchant. LookupError, requests.NotOpen, ValueError.

    `give`: what somebody looked for belongs to the address they left, and is shown to who reads mail there.
    """
    reference = db.execute(
        select(col(models.Request.reference)).where(
            col(models.Request.id) == request_id, col(models.Request.portal_id) == portal_id
        )
    ).scalar_one_or_none()
    if reference is None:
        raise LookupError(request_id)
    row = requests.answer(db, portal_id, reference, status, sentence, "merchant", now, by=person.called)
    if give and status == "done" and row.kind == "find_order" and row.contact and row.account_id is not None:
        people.give(db, person, portal_id, row.subject_id, row.contact, now)
    merchants.audit(
        db,
        person,
        "request.answered",
        subject=reference,
        after={"status": status, "answer": row.answer},
        portal_id=portal_id,
    )
    return row


# Answers that are written once and used again

MOST_TEMPLATES = 30
TITLE_LENGTH, TEXT_LENGTH = 80, 2000
HOLES = ("customer", "what", "reference", "shop")


def filled(text: str, page: RequestPage, site: models.Portal) -> str:
    """A template with what it leaves open. Only the known names are filled; other braces stay as they are."""
    words = {
        "customer": (page.customer and page.customer.name) or page.email,
        "what": page.row.what or site.name,
        "reference": page.row.reference,
        "shop": site.name,
    }
    return re.sub(r"\{(" + "|".join(HOLES) + r")\}", lambda found: words[found[1]], text)


def save_template(
    db: Session, person: Person, portal_id: int, version: int, index: int | None, title: str, text: str
) -> Late | None:
    """Write an answer of the list, or (`index` None) add one. LookupError where the place is none."""
    row = saving.portal_of(db, person, portal_id)
    found = list(row.answer_templates or ())
    one = {"title": title, "text": text}
    if index is None:
        found.append(one)
    elif 0 <= index < len(found):
        found[index] = one
    elif row.version == version:
        raise LookupError(index)
    return saving.save(db, person, row, version, {"answer_templates": found}, "portal.answers", subject=title)


def drop_template(db: Session, person: Person, portal_id: int, version: int, index: int) -> Late | None:
    row = saving.portal_of(db, person, portal_id)
    found = list(row.answer_templates or ())
    if not 0 <= index < len(found):
        if row.version == version:
            raise LookupError(index)
        title = ""
    else:
        title = found.pop(index)["title"]
    return saving.save(db, person, row, version, {"answer_templates": found}, "portal.answers", subject=title)


def problems_of_template(title: str, text: str, how_many: int) -> dict[str, str]:
    found = {}
    if not title or not title.isprintable():
        found["title"] = _("Enter a few words by which you know this answer again.")
    if not text:
        found["text"] = _("Enter what the customer is to read.")
    if how_many >= MOST_TEMPLATES:
        found["form"] = _("There are {n} answers already. Delete one first.").format(n=MOST_TEMPLATES)
    return found


# The daily mail

FROM, AT, UNTIL = time(6), time(8), time(11)  # of the portal's day


def want_digests(db: Session, now: datetime) -> int:
    """A mail for each portal in which something is open from before this morning; how many. Once a day each."""
    row, portal = models.Request, models.Portal
    ids = select(col(row.portal_id)).where(col(row.closed_at).is_(None)).distinct()
    found = db.execute(select(col(portal.id), col(portal.time_zone)).where(col(portal.id).in_(ids)))
    wanted = 0
    for portal_id, zone in found.all():
        local = now.astimezone(ZoneInfo(zone))
        if not FROM <= local.time() < UNTIL:
            continue
        morning = local.replace(hour=AT.hour, minute=0, second=0, microsecond=0)
        if _open_since(db, portal_id, morning) is None:
            continue  # what came after it was told when it came
        day = local.date().isoformat()
        payload = {"template": "request_digest", "portal": portal_id, "day": day}
        enqueue(db, "mail", payload, max(now, morning), f"request_digest:{portal_id}:{day}")
        wanted += 1
    return wanted


def _open_since(db: Session, portal_id: int, moment: datetime) -> int | None:
    row = models.Request
    return db.execute(
        select(col(row.id))
        .where(col(row.portal_id) == portal_id, col(row.status) == "open", col(row.created_at) < moment)
        .limit(1)
    ).scalar_one_or_none()


@dataclass(frozen=True, slots=True)
class Digest:
    """What the daily mail tells. `first`: the most urgent ones, each with its day."""

    open: int
    overdue: int
    today: int
    first: tuple[QueueRow, ...]


DIGEST_ROWS = 10


def digest(db: Session, portal_id: int, day: date, zone: str, now: datetime) -> Digest | None:
    """None where nothing is open any more."""
    found = queue(db, portal_id, "open", now)
    if not found.open:
        return None
    end = datetime.combine(day + timedelta(days=1), time(), ZoneInfo(zone))
    row = _request.c
    due_today = db.execute(
        select(func.count()).where(
            row.portal_id == portal_id, row.status == "open", row.due_at >= now, row.due_at < end
        )
    ).scalar_one()
    return Digest(found.open, found.overdue, due_today, found.rows[:DIGEST_ROWS])


def queue_path(portal_id: int) -> str:
    """Where the queue is on the merchant's side."""
    return f"/settings/portals/{id_text(portal_id)}/requests"
