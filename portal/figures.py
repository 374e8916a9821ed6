"""The numbers of a portal's overview, each counted by the database over one portal; days are the portal's own.

Coming charges follow `portal.upcoming`: those of subscriptions that are charged on the day the processor names, nearly
all, are added up by the database. The others are worked out one by one.

What is added up over all subscriptions takes longer the more there are: where they are many it is kept for some
minutes, and the page says of when it is."""

from calendar import monthrange
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

from sqlalchemy import (
    Date,
    Table,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    or_,
    select,
)
from sqlalchemy.orm import Session

from portal import models, tally, upcoming
from portal.db import dialect_of
from portal.intervals import add_months, coming
from portal.upcoming import Plan

Period = Literal["30d", "90d", "12m"]
PERIODS: tuple[Period, ...] = ("30d", "90d", "12m")
AHEAD = 30  # days of coming charges, today's included
PAGE = 25
REASONS = 6  # of cancelling, that are shown each for itself
CANCELS = ("cancel_now", "cancel_at_period_end")
LIVE = ("active", "trialing", "past_due", "paused", "cancels_at_period_end", "incomplete")
MAILS = ("mail", "login_mail")
_STATES = ("active", "trialing", "past_due", "paused")  # in which charges may come
MANY = 1_000  # subscriptions of a portal; adding up as many takes some 10 ms
KEPT = timedelta(minutes=10)


def _table(model: type[Any]) -> Table:
    table: Table = model.__table__
    return table


_subscription = _table(models.Subscription)
_payment = _table(models.Payment)
_customer = _table(models.Customer)
_account = _table(models.Account)
_action = _table(models.Action)
_request = _table(models.Request)
_job = _table(models.Job)
_totals = _table(models.Totals)


@dataclass(frozen=True, slots=True)
class Span:
    """Some days, the first and the last included: what one bar stands for."""

    first: date
    last: date


@dataclass(frozen=True, slots=True)
class State:
    """How many subscriptions are in a state, by our word for it."""

    state: str
    count: int


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is expected to come in, in one currency. `unknown` of the charges have no amount yet and add nothing."""

    currency: str
    minor: int
    charges: int
    unknown: int
    estimated: bool
    days: tuple[tuple[date, int], ...]  # every day, also those on which nothing comes


@dataclass(frozen=True, slots=True)
class Failed:
    """A subscription whose payment failed, and may still be had."""

    id: int
    title: str | None
    customer_id: int | None
    email: str | None
    account: str
    minor: int | None
    currency: str | None
    failed_at: datetime | None
    reason: str | None
    retries_on: date | None
    stopped: bool  # the processor does not try again by itself


@dataclass(frozen=True, slots=True)
class Sum:
    """What things in one currency come to, and how many they are; without a currency, how many alone."""

    currency: str | None
    minor: int
    count: int


@dataclass(frozen=True, slots=True)
class Rescue:
    """Failed payments, a page of them. `older`: what the next page begins after."""

    rows: tuple[Failed, ...]
    older: int | None


@dataclass(frozen=True, slots=True)
class Series:
    """Numbers under one name, one for each span. Without a name: none was given. `rest`: all other names together."""

    name: str | None
    counts: tuple[int, ...]
    rest: bool = False

    @property
    def total(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Requests that wait for the merchant."""

    open: int
    overdue: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What is added up over all of a portal's subscriptions. `failed`: what those owe whose payment failed."""

    today: date
    counted_at: datetime
    states: tuple[State, ...]
    ended: int
    outlooks: tuple[Outlook, ...]
    failed: tuple[Sum, ...]

    @property
    def live(self) -> int:
        return sum(one.count for one in self.states)

    @property
    def many(self) -> bool:
        """Whether they are worth keeping for the next who asks."""
        return self.live + self.ended > MANY


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything on the page."""

    period: Period
    today: date
    spans: tuple[Span, ...]
    totals: Totals
    rescue: Rescue
    cancellations: tuple[Series, ...]
    taken_back: int
    sign_ins: Series
    mails_sent: Series
    mails_refused: Series
    mails_waiting: int
    requests: Waiting

    @property
    def failed(self) -> int:
        return sum(one.count for one in self.totals.failed)

    @property
    def cancelled(self) -> int:
        return sum(series.total for series in self.cancellations)


def overview(
    db: Session,
    portal_id: int,
    zone: ZoneInfo,
    period: Period,
    now: datetime,
    after: int | None = None,
    *,
    anew: bool = True,
) -> Overview:
    """A portal's numbers; failed payments from the one after `after` on. Unless `anew`, totals may be kept ones."""
    today = now.astimezone(zone).date()
    found = spans(period, today)
    begins = edges(found, zone)
    names = (tally.SIGN_IN, tally.MAIL_SENT, tally.MAIL_REFUSED)
    counted = tally.days(db, portal_id, names, found[0].first, found[-1].last)
    return Overview(
        period=period,
        today=today,
        spans=found,
        totals=(None if anew else kept(db, portal_id, today, now)) or totals(db, portal_id, zone, now),
        rescue=rescue(db, portal_id, after),
        cancellations=cancellations(db, portal_id, begins),
        taken_back=taken_back(db, portal_id, begins),
        sign_ins=_over(found, counted[tally.SIGN_IN], tally.SIGN_IN),
        mails_sent=_over(found, counted[tally.MAIL_SENT], tally.MAIL_SENT),
        mails_refused=_over(found, counted[tally.MAIL_REFUSED], tally.MAIL_REFUSED),
        mails_waiting=db.execute(MAILS_WAITING, {"portal": portal_id}).scalar_one(),
        requests=waiting(db, portal_id, now),
    )


# Totals


def totals(db: Session, portal_id: int, zone: ZoneInfo, now: datetime) -> Totals:
    """Added up now."""
    today = now.astimezone(zone).date()
    states, ended = subscriptions(db, portal_id)
    return Totals(today, now, states, ended, outlooks(db, portal_id, zone, today), failed_sums(db, portal_id))


KEPT_TOTALS = select(_totals.c.counted_at, _totals.c.body).where(
    _totals.c.portal_id == bindparam("portal"),
    _totals.c.day == bindparam("day", type_=Date()),
    _totals.c.counted_at > bindparam("since", type_=models.Moment()),
)


def kept(db: Session, portal_id: int, today: date, now: datetime) -> Totals | None:
    """Those somebody else has just waited for, of the same day; None where there are none."""
    values = {"portal": portal_id, "day": today, "since": now - KEPT}
    row = db.execute(KEPT_TOTALS, values).one_or_none()
    if row is None:
        return None
    body = row.body
    days = [today + timedelta(days=number) for number in range(AHEAD)]
    return Totals(
        today,
        row.counted_at,
        tuple(State(*one) for one in body["states"]),
        body["ended"],
        tuple(
            Outlook(currency, minor, charges, unknown, estimated, tuple(zip(days, by_day, strict=True)))
            for currency, minor, charges, unknown, estimated, by_day in body["outlooks"]
        ),
        tuple(Sum(*one) for one in body["failed"]),
    )


def keep(db: Session, portal_id: int, found: Totals) -> None:
    """For those who ask in the next minutes. What was counted later stays."""
    body = {
        "states": [[one.state, one.count] for one in found.states],
        "ended": found.ended,
        "outlooks": [
            [
                one.currency,
                one.minor,
                one.charges,
                one.unknown,
                one.estimated,
                [minor for _, minor in one.days],
            ]
            for one in found.outlooks
        ],
        "failed": [[one.currency, one.minor, one.count] for one in found.failed],
    }
    statement = (
        dialect_of(db)
        .insert(_totals)
        .values(portal_id=portal_id, day=found.today, counted_at=found.counted_at, body=body)
    )
    db.execute(
        statement.on_conflict_do_update(
            index_elements=[_totals.c.portal_id],
            set_={name: statement.excluded[name] for name in ("day", "counted_at", "body")},
            where=_totals.c.counted_at < statement.excluded.counted_at,
        )
    )


# Time


def spans(period: Period, today: date) -> tuple[Span, ...]:
    """The bars of a chart: thirty days, thirteen weeks up to today, or the twelve months of which this is the last."""
    if period == "12m":
        firsts = [add_months(today.replace(day=1), number - 11) for number in range(12)]
        return tuple(Span(first, add_months(first, 1) - timedelta(days=1)) for first in firsts)
    length, count = (7, 13) if period == "90d" else (1, 30)
    begin = today - timedelta(days=length * count - 1)
    firsts = [begin + timedelta(days=length * number) for number in range(count)]
    return tuple(Span(first, first + timedelta(days=length - 1)) for first in firsts)


def edges(found: Sequence[Span], zone: ZoneInfo) -> list[datetime]:
    """The moments at which the spans begin, and the one at which the last has ended."""
    days = [*(span.first for span in found), found[-1].last + timedelta(days=1)]
    return [datetime.combine(day, time(), zone).astimezone(UTC) for day in days]


def _over(found: Sequence[Span], days: Mapping[date, int], name: str) -> Series:
    counts = (sum(count for day, count in days.items() if span.first <= day <= span.last) for span in found)
    return Series(name, tuple(counts))


# Subscriptions


_ours = _subscription.c.cancel_scheduled_at.is_not(None)
SUBSCRIPTIONS = (
    select(_subscription.c.status, _ours.label("ours"), func.count())
    .where(_subscription.c.portal_id == bindparam("portal"))
    .group_by(_subscription.c.status, _ours)
)


def subscriptions(db: Session, portal_id: int) -> tuple[tuple[State, ...], int]:
    """Those that go on, by state; and how many have ended. Our own scheduled cancels count as ending."""
    counts: dict[str, int] = defaultdict(int)
    for status, ours, number in db.execute(SUBSCRIPTIONS, {"portal": portal_id}):
        counts["cancels_at_period_end" if ours and status in _STATES else status] += number
    ended = sum(number for state, number in counts.items() if state not in LIVE)
    return tuple(State(state, counts[state]) for state in LIVE if counts[state]), ended


# Coming charges


_s = _subscription.c
_goes_on = and_(
    _s.portal_id == bindparam("portal"),
    _s.cancel_scheduled_at.is_(None),
    _s.access_until.is_(None),
)
_plain = and_(
    _s.status.in_(("active", "trialing")),
    _s.next_on <= bindparam("until"),
    _s.pending_change.is_(None),
    _s.cancels_at.is_(None),
    or_(
        _s.interval_unit.is_(None),
        _s.interval_unit.in_(("day", "week")),
        _s.next_on.not_in(bindparam("month_ends", expanding=True, type_=Date())),
    ),
)
_next_minor = func.coalesce(_s.next_minor, _s.amount_minor)
PLAIN = (
    select(
        _s.next_on,
        _s.interval_unit,
        _s.interval_count,
        _s.currency,
        _s.next_certainty,
        func.count().label("charges"),
        func.sum(_next_minor).label("next_minor"),
        func.count(_next_minor).label("next_known"),
        func.sum(_s.amount_minor).label("later_minor"),
        func.count(_s.amount_minor).label("later_known"),
        func.count(case((_s.next_minor == _s.amount_minor, 1))).label("even"),
    )
    .where(_goes_on, _plain)
    .group_by(_s.next_on, _s.interval_unit, _s.interval_count, _s.currency, _s.next_certainty)
)
ODD = select(*[_s[name] for name in Plan.__dataclass_fields__ if name != "label"]).where(
    _goes_on,
    _s.status.in_(_STATES),
    or_(
        _s.status == "past_due",
        _s.next_on <= bindparam("until"),
        and_(
            _s.next_on.is_(None),
            or_(
                _s.current_period_end < bindparam("end", type_=models.Moment()),
                _s.trial_ends_at < bindparam("end", type_=models.Moment()),
                _s.resumes_at < bindparam("end", type_=models.Moment()),
            ),
        ),
    ),
    case((_plain, 1), else_=0) == 0,  # where something is unknown it is not plain either
)


def outlooks(db: Session, portal_id: int, zone: ZoneInfo, today: date) -> tuple[Outlook, ...]:
    """What is expected in the days ahead, for each currency apart."""
    until = today + timedelta(days=AHEAD - 1)
    (_begin, end) = edges([Span(today, until)], zone)
    values = {"portal": portal_id, "until": until, "month_ends": _month_ends(today, until), "end": end}
    sums: dict[str, _Coming] = defaultdict(_Coming)
    for row in db.execute(PLAIN, values):
        _add_plain(sums, row, today, until)
    odd = (Plan(label="", **row) for row in db.execute(ODD, values).mappings())
    for charge in upcoming.charges(odd, today, zone, until):
        if charge.currency:
            known = charge.minor is not None
            sums[charge.currency].add(
                charge.on, charge.minor or 0, 1, int(known), charge.certainty == "fixed"
            )
    days = [today + timedelta(days=number) for number in range(AHEAD)]
    return tuple(sums[currency].outlook(currency, days) for currency in sorted(sums))


def _month_ends(today: date, until: date) -> list[date]:
    """Days at the end of a month from which a charge may come again before `until`: whether on the 28th or on the 31st
    depends on the day it began, which is not the same for all."""
    found = []
    first = add_months(today.replace(day=1), -12)
    while first <= until:
        last = first.replace(day=monthrange(first.year, first.month)[1])
        if add_months(last, 1) <= until + timedelta(days=3):
            found.append(last)
        first = add_months(first, 1)
    return found


@dataclass(slots=True)
class _Coming:
    """What is added up for one currency."""

    by_day: dict[date, int] | None = None
    charges: int = 0
    known: int = 0
    all_fixed: bool = True

    def add(self, day: date, minor: int, charges: int, known: int, fixed: bool) -> None:
        self.by_day = self.by_day or {}
        self.by_day[day] = self.by_day.get(day, 0) + minor
        self.charges += charges
        self.known += known
        self.all_fixed = self.all_fixed and fixed and known == charges

    def outlook(self, currency: str, days: Sequence[date]) -> Outlook:
        by_day = self.by_day or {}
        return Outlook(
            currency,
            sum(by_day.values()),
            self.charges,
            self.charges - self.known,
            not self.all_fixed,
            tuple((day, by_day.get(day, 0)) for day in days),
        )


def _add_plain(sums: dict[str, _Coming], row: Any, today: date, until: date) -> None:
    """The charges of subscriptions that have the same next day, interval and currency."""
    if row.currency is None:
        return
    fixed = row.next_certainty == "fixed"
    for day in coming(row.next_on, row.interval_unit, row.interval_count, until):
        if day < today:
            continue
        if day == row.next_on:
            sums[row.currency].add(day, int(row.next_minor or 0), row.charges, row.next_known, fixed)
        else:
            even = fixed and row.even == row.charges
            sums[row.currency].add(day, int(row.later_minor or 0), row.charges, row.later_known, even)


# Failed payments


_failed = _payment.alias("failed")


def _of_last_failed(column: Any) -> Any:
    """Of the newest failed payment of a subscription. Not a join by `id = (SELECT …)`: behind row-level security
    PostgreSQL looks for such an id only among all rows that the policy lets through."""
    return (
        select(column)
        .where(
            _failed.c.account_id == _s.account_id,
            _failed.c.subscription_remote == _s.remote_id,
            _failed.c.status == "failed",
        )
        .order_by(_failed.c.placed_at.desc())
        .limit(1)
        .correlate(_subscription)
        .scalar_subquery()
    )


_past_due = and_(
    _s.portal_id == bindparam("portal"),
    _s.status == literal_column("'past_due'"),  # written out, as the index over these rows alone asks for
)
_owed = func.coalesce(_s.due_minor, _s.amount_minor)
_RESCUE = (
    select(
        _s.id,
        _s.title,
        _s.customer_id,
        func.coalesce(_customer.c.email, _s.email).label("email"),
        _account.c.label.label("account"),
        _owed.label("minor"),
        _s.currency,
        _of_last_failed(_failed.c.placed_at).label("failed_at"),
        _of_last_failed(_failed.c.failure_reason).label("reason"),
        _s.retries_on,
        _s.stopped,
    )
    .select_from(_subscription)
    .join(_account, and_(_account.c.id == _s.account_id, _account.c.portal_id == _s.portal_id))
    .join(
        _customer,
        and_(_customer.c.id == _s.customer_id, _customer.c.portal_id == _s.portal_id),
        isouter=True,
    )
    .where(_past_due)
    .order_by(_s.id.desc())
    .limit(PAGE + 1)
)
RESCUE = (_RESCUE, _RESCUE.where(_s.id < bindparam("after")))
_in_currency = func.coalesce(
    _s.currency, ""
)  # no bare column: SQLite would take the index that has it, and all rows
RESCUE_SUMS = (
    select(_in_currency, func.coalesce(func.sum(_owed), 0), func.count())
    .where(_past_due)
    .group_by(literal_column("1"))
)


def rescue(db: Session, portal_id: int, after: int | None = None) -> Rescue:
    """Subscriptions whose payment failed, the newest first."""
    if after is None:
        found = db.execute(RESCUE[0], {"portal": portal_id}).all()
    else:
        found = db.execute(RESCUE[1], {"portal": portal_id, "after": after}).all()
    return Rescue(
        rows=tuple(Failed(*row) for row in found[:PAGE]),
        older=found[PAGE - 1].id if len(found) > PAGE else None,
    )


def failed_sums(db: Session, portal_id: int) -> tuple[Sum, ...]:
    """What is owed where a payment failed, in each currency."""
    sums = db.execute(RESCUE_SUMS, {"portal": portal_id})
    return tuple(Sum(currency or None, int(minor), number) for currency, minor, number in sorted(sums))


# Cancellations


_a = _action.c
_reason = _a.params["reason"].as_string()
_customers_own = (
    _a.params["scheduled"].as_string().is_(None)
)  # else our job carried out what was counted before


def _actions(*capabilities: str) -> Any:
    return and_(
        _a.portal_id == bindparam("portal"),
        _a.capability.in_(capabilities),
        _a.created_at >= bindparam("begin", type_=models.Moment()),
        _a.created_at < bindparam("end", type_=models.Moment()),
        _a.confirmed_at.is_not(None),
        _customers_own,
    )


TAKEN_BACK = select(func.count()).where(_actions("undo_cancel"))


def cancellations(db: Session, portal_id: int, begins: Sequence[datetime]) -> tuple[Series, ...]:
    """Confirmed cancellations by the reason given, over the spans between `begins`; the frequent ones first."""
    values = {"portal": portal_id, "begin": begins[0], "end": begins[-1]}
    counts: dict[str | None, list[int]] = defaultdict(lambda: [0] * (len(begins) - 1))
    for place, reason, number in db.execute(cancellations_by_reason(begins), values):
        counts[reason or None][place] += number
    ordered = sorted(counts.items(), key=lambda item: (-sum(item[1]), item[0] or ""))
    shown = [Series(name, tuple(numbers)) for name, numbers in ordered]
    if len(shown) <= REASONS:
        return tuple(shown)
    rest = zip(*(series.counts for series in shown[REASONS - 1 :]), strict=True)
    return (*shown[: REASONS - 1], Series(None, tuple(map(sum, rest)), rest=True))


def cancellations_by_reason(begins: Sequence[datetime]) -> Any:
    """The statement: each action is put into its span first, then they are counted."""
    place = case(*((_a.created_at < edge, number) for number, edge in enumerate(begins[1:])))
    placed = select(place.label("place"), _reason.label("reason")).where(_actions(*CANCELS)).subquery()
    return select(placed.c.place, placed.c.reason, func.count()).group_by(placed.c.place, placed.c.reason)


def taken_back(db: Session, portal_id: int, begins: Sequence[datetime]) -> int:
    values = {"portal": portal_id, "begin": begins[0], "end": begins[-1]}
    return db.execute(TAKEN_BACK, values).scalar_one()


# What waits


# Mails that were not taken at first and are tried again. Those that are only just due are not counted.
MAILS_WAITING = select(func.count()).where(
    _job.c.portal_id == bindparam("portal"),
    _job.c.done_at.is_(None),
    _job.c.parked_at.is_(None),
    _job.c.kind.in_(MAILS),
)
_late = _request.c.due_at <= bindparam("now", type_=models.Moment())
REQUESTS = select(func.count(), func.count(case((_late, 1)))).where(
    _request.c.portal_id == bindparam("portal"), _request.c.status == "open"
)


def waiting(db: Session, portal_id: int, now: datetime) -> Waiting:
    return Waiting(*db.execute(REQUESTS, {"portal": portal_id, "now": now}).one())


def every_failed(db: Session, portal_id: int) -> Iterator[Failed]:
    """All failed payments, page by page."""
    after: int | None = None
    while True:
        page = rescue(db, portal_id, after)
        yield from page.rows
        if page.older is None:
            return
        after = page.older
