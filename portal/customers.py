"""The page of one customer on the merchant's side: what the customer sees, and what happened, in one order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, bindparam, select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import login, models, people, queries, requests
from portal.people import Addresses, account_labels
from portal.queries import Cursor, OrdersPage, PaymentsPage, SubscriptionsPage
from portal.requests import RequestsPage

PAGE = 25
FEW = 5  # of each list, on the first page
LINES = 25  # of the timeline
MOST_RECORDS = 50


@dataclass(frozen=True, slots=True)
class Remote:
    """What a processor knows them as."""

    account: str
    label: str
    remote_id: str
    name: str | None
    deleted: bool


@dataclass(frozen=True, slots=True)
class Deed:
    """Something they did, and how far it has come: its phase, and when it was proven."""

    id: int
    capability: str
    reference: str
    phase: str
    subscription_id: int
    title: str | None
    label: str
    created_at: datetime
    sent_at: datetime | None
    confirmed_at: datetime | None
    closed_at: datetime | None
    told_late_at: datetime | None
    error: str | None


@dataclass(frozen=True, slots=True)
class DeedsPage:
    rows: tuple[Deed, ...]
    older: int | None


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the timeline: when, what (a word of ours), and what belongs to it."""

    at: datetime
    what: str
    minor: int | None = None
    currency: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A browser in which they are signed in."""

    browser: str
    created_at: datetime
    last_seen_at: datetime


@dataclass(frozen=True, slots=True)
class CustomerPage:
    row: models.Customer
    addresses: Addresses
    remotes: tuple[Remote, ...]
    subscriptions: SubscriptionsPage
    orders: OrdersPage
    payments: PaymentsPage
    requests: RequestsPage
    deeds: DeedsPage
    sessions: tuple[Seen, ...]
    lines: tuple[Line, ...]
    more_lines: bool  # what is older stands in the lists alone


def customer(db: Session, portal_id: int, customer_id: int) -> models.Customer | None:
    row = models.Customer
    return db.execute(
        select(row).where(col(row.id) == customer_id, col(row.portal_id) == portal_id)
    ).scalar_one_or_none()


def customer_page(db: Session, portal_id: int, customer_id: int, now: datetime) -> CustomerPage | None:
    row = customer(db, portal_id, customer_id)
    if row is None:
        return None
    orders = queries.orders(db, portal_id, customer_id)
    payments = queries.payments(db, portal_id, customer_id)
    asked = requests.of_customer(db, portal_id, customer_id)
    done = deeds(db, portal_id, customer_id)
    sessions = _sessions(db, portal_id, customer_id, now)
    lines, more = _timeline(db, row, orders, payments, asked, done, sessions)
    return CustomerPage(
        row=row,
        addresses=people.addresses(db, portal_id, customer_id),
        remotes=_remotes(db, portal_id, customer_id),
        subscriptions=queries.subscriptions(db, portal_id, customer_id, now),
        orders=orders,
        payments=payments,
        requests=asked,
        deeds=done,
        sessions=tuple(
            Seen(login.browser_words(one.user_agent), one.created_at, one.last_seen_at) for one in sessions
        ),
        lines=lines,
        more_lines=more,
    )


def _remotes(db: Session, portal_id: int, customer_id: int) -> tuple[Remote, ...]:
    row = models.RemoteCustomer
    labels = account_labels(db, portal_id)
    found = db.execute(
        select(row)
        .where(col(row.portal_id) == portal_id, col(row.customer_id) == customer_id)
        .limit(MOST_RECORDS)
    ).scalars()
    return tuple(Remote(*labels[one.account_id], one.remote_id, one.name, one.deleted) for one in found)


_action: Any = models.Action.__table__  # type: ignore[attr-defined]
_subscription: Any = models.Subscription.__table__  # type: ignore[attr-defined]
DEEDS = (
    select(
        _action.c.id,
        _action.c.capability,
        _action.c.reference,
        _action.c.phase,
        _action.c.subscription_id,
        _subscription.c.title,
        _action.c.account_id,
        _action.c.created_at,
        _action.c.sent_at,
        _action.c.confirmed_at,
        _action.c.closed_at,
        _action.c.told_late_at,
        _action.c.error,
    )
    .join_from(_action, _subscription, _subscription.c.id == _action.c.subscription_id)
    .where(
        _action.c.portal_id == bindparam("portal"),
        _action.c.customer_id == bindparam("customer"),
        _action.c.id < bindparam("before", type_=BigInteger()),
    )
    .order_by(_action.c.id.desc())
    .limit(PAGE + 1)
)


def deeds(db: Session, portal_id: int, customer_id: int, before: int | None = None) -> DeedsPage:
    """What a customer did, newest first."""
    values = {"portal": portal_id, "customer": customer_id, "before": before or 2**63 - 1}
    found = db.execute(DEEDS, values).all()
    labels = account_labels(db, portal_id)
    rows = tuple(
        Deed(
            one.id,
            one.capability,
            one.reference,
            one.phase,
            one.subscription_id,
            one.title,
            labels[one.account_id][1],
            one.created_at,
            one.sent_at,
            one.confirmed_at,
            one.closed_at,
            one.told_late_at,
            one.error,
        )
        for one in found[:PAGE]
    )
    return DeedsPage(rows, rows[-1].id if len(found) > PAGE else None)


def _sessions(db: Session, portal_id: int, customer_id: int, now: datetime) -> list[models.SignIn]:
    row = models.SignIn
    return list(
        db.execute(
            select(row)
            .where(
                col(row.portal_id) == portal_id,
                col(row.customer_id) == customer_id,
                col(row.purpose) == "customer",
                col(row.expires_at) > now,
            )
            .order_by(col(row.created_at).desc())
            .limit(MOST_RECORDS)
        ).scalars()
    )


# What happened


def _timeline(
    db: Session,
    row: models.Customer,
    orders: OrdersPage,
    payments: PaymentsPage,
    asked: RequestsPage,
    done: DeedsPage,
    sessions: Sequence[models.SignIn],
) -> tuple[tuple[Line, ...], bool]:
    """The newest things from all lists in one order; no further back than every list goes."""
    lines: list[Line] = [Line(row.created_at, "known")]
    lines += [
        Line(one.placed_at, "placed", one.amount_minor, one.currency, one.number or one.title)
        for one in orders.rows
    ]
    lines += [
        Line(told.at, told.what, told.minor, told.currency, told.detail or one.title)
        for one in payments.rows
        for told in queries.entries_of(one)
    ]
    lines += [
        Line(datetime.fromisoformat(told["at"]), f"request_{told['what']}", detail=one.reference)
        for one in asked.rows
        for told in one.history or ()
    ]
    for deed in done.rows:
        lines.append(Line(deed.created_at, f"did_{deed.capability}", detail=deed.reference))
        if deed.confirmed_at:
            lines.append(Line(deed.confirmed_at, "proven", detail=f"{deed.label}, {deed.reference}"))
        elif deed.closed_at and deed.phase == "failed":
            lines.append(Line(deed.closed_at, "not_done", detail=deed.reference))
    lines += [
        Line(one.created_at, "signed_in", detail=login.browser_words(one.user_agent)) for one in sessions
    ]
    lines += _mails(db, row, payments, asked, done)
    lines += _links(db, row)
    # A list that goes on has things between its last row and what is older in the others.
    ends = (
        (orders.older, [one.placed_at for one in orders.rows]),
        (payments.older, [one.placed_at for one in payments.rows]),
        (asked.older, [one.created_at for one in asked.rows]),
        (done.older, [one.created_at for one in done.rows]),
    )
    since = max((min(moments) for older, moments in ends if older is not None), default=None)
    told = sorted(
        (one for one in lines if since is None or one.at >= since), key=lambda one: one.at, reverse=True
    )
    return tuple(told[:LINES]), since is not None or len(told) > LINES


_OF_PAYMENTS = ("payment_failed", "charged_after_end")
_OF_REQUESTS = ("request_received", "request_answered")
_OF_DEEDS = (
    "cancelled",
    "cancel_undone",
    "paused",
    "resumed",
    "card_changed",
    "plan_changed",
    "payment_skipped",
)


def _mails(
    db: Session,
    row: models.Customer,
    payments: PaymentsPage,
    asked: RequestsPage,
    done: DeedsPage,
) -> Iterable[Line]:
    """The mails about these, as far as their jobs are still there: two weeks."""
    wanted = [
        *(f"{template}:{one.id}" for one in payments.rows for template in _OF_PAYMENTS),
        *(f"mail:{template}:{one.id}" for one in asked.rows for template in _OF_REQUESTS),
        *(f"{template}:{one.id}" for one in done.rows for template in _OF_DEEDS),
    ]
    job = models.Job
    found = db.execute(
        select(
            col(job.payload), col(job.created_at), col(job.done_at), col(job.parked_at), col(job.error)
        ).where(col(job.dedupe).in_(wanted), col(job.kind) == "mail")
    ).all()
    for one in found:
        what = "mail_sent" if one.done_at else "mail_failed" if one.parked_at else "mail_waits"
        yield Line(one.done_at or one.parked_at or one.created_at, what, detail=one.payload["template"])


def _links(db: Session, row: models.Customer) -> Iterable[Line]:
    """The sign-in mails of the last two days."""
    asked = models.LoginRequest
    found = db.execute(
        select(col(asked.mailed_at), col(asked.user_agent))
        .where(
            col(asked.portal_id) == row.portal_id,
            col(asked.email) == row.email,
            col(asked.mailed_at).is_not(None),
        )
        .order_by(col(asked.created_at).desc())
        .limit(MOST_RECORDS)
    ).all()
    for one in found:
        yield Line(one.mailed_at, "mail_sent", detail="login")


# The lists behind it


def order(
    db: Session, portal_id: int, customer_id: int, order_id: int
) -> tuple[queries.OrderPage, Remote] | None:
    """An order as the customer sees it, and what the processor knows it as."""
    found = queries.order(db, portal_id, customer_id, order_id)
    if found is None:
        return None
    row = db.get_one(models.Order, order_id)
    labels = account_labels(db, portal_id)
    return found, Remote(*labels[row.account_id], row.remote_id, None, False)


def payment_ids(db: Session, portal_id: int, ids: Sequence[int]) -> dict[int, tuple[str, str]]:
    """Of payments the account's name and the processor's id."""
    row = models.Payment
    labels = account_labels(db, portal_id)
    found = db.execute(
        select(col(row.id), col(row.account_id), col(row.remote_id)).where(
            col(row.portal_id) == portal_id, col(row.id).in_(list(ids))
        )
    )
    return {one.id: (labels[one.account_id][0], one.remote_id) for one in found}


LISTS = ("orders", "payments", "subscriptions", "requests", "actions")


def one_list(
    db: Session, portal_id: int, customer_id: int, name: str, after: Cursor | None, before: int | None
) -> Any:
    """One page of one list of a customer."""
    match name:
        case "orders":
            return queries.orders(db, portal_id, customer_id, after)
        case "payments":
            return queries.payments(db, portal_id, customer_id, after)
        case "requests":
            return requests.of_customer(db, portal_id, customer_id, before)
        case _:
            return deeds(db, portal_id, customer_id, before)
