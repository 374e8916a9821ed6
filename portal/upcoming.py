"""The charges that will come: worked out from subscriptions, never promised beyond what is known."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any
from zoneinfo import ZoneInfo

from portal.ids import id_text
from portal.intervals import add_months, coming
from portal.policy import charged_until

MONTHS = 12
_REGULAR = frozenset({"active", "trialing", "past_due", "paused"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What of a subscription decides its coming charges."""

    id: int
    title: str | None
    label: str  # of the processor
    status: str
    amount_minor: int | None
    currency: str | None
    interval_unit: str | None
    interval_count: int | None
    started_at: datetime | None
    trial_ends_at: datetime | None
    current_period_end: datetime | None
    next_on: date | None
    next_minor: int | None
    next_certainty: str | None
    cancels_at: datetime | None
    resumes_at: datetime | None
    method: dict[str, Any] | None
    due_minor: int | None
    pending_change: dict[str, Any] | None
    stopped: bool
    retries_on: date | None
    access_until: datetime | None
    cancel_scheduled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Charge:
    """One coming charge. `certainty` is fixed, estimated or merchant; `minor` is None where nobody knows it yet."""

    on: date
    subscription_id: int
    title: str | None
    label: str
    minor: int | None
    currency: str | None
    certainty: str
    method: dict[str, Any] | None
    is_retry: bool = False

    @property
    def uid(self) -> str:
        """The same for the same charge, however often it is worked out."""
        return f"{id_text(self.subscription_id)}-{self.on:%Y%m%d}{'-retry' if self.is_retry else ''}"


@dataclass(frozen=True, slots=True)
class Total:
    """What one month or the whole year comes to in one currency. Currencies are never added together."""

    currency: str
    minor: int
    estimated: bool


@dataclass(frozen=True, slots=True)
class Month:
    first: date
    charges: tuple[Charge, ...]
    totals: tuple[Total, ...]


def charges(plans: Iterable[Plan], today: date, zone: ZoneInfo, until: date | None = None) -> list[Charge]:
    """Every charge from today on for twelve months, or `until` a day, by day."""
    until = until or add_months(today, MONTHS)
    found = [charge for plan in plans for charge in _of_plan(plan, today, until, zone)]
    return sorted(found, key=lambda charge: (charge.on, charge.title or "", charge.subscription_id))


def months(found: Iterable[Charge]) -> list[Month]:
    """Charges (by day) under their months, with what each month comes to."""
    groups = groupby(found, key=lambda charge: charge.on.replace(day=1))
    return [Month(first, rows := tuple(group), totals(rows)) for first, group in groups]


def totals(found: Iterable[Charge]) -> tuple[Total, ...]:
    """Sums by currency. Charges whose amount nobody knows are left out, and make the sum an estimate."""
    sums: dict[str, tuple[int, bool]] = {}
    for charge in found:
        if charge.currency is None:
            continue
        minor, estimated = sums.get(charge.currency, (0, False))
        unsure = charge.certainty != "fixed" or charge.minor is None
        sums[charge.currency] = minor + (charge.minor or 0), estimated or unsure
    return tuple(Total(currency, *sums[currency]) for currency in sorted(sums))


def _of_plan(plan: Plan, today: date, until: date, zone: ZoneInfo) -> Iterator[Charge]:
    paid_until = plan.current_period_end or plan.trial_ends_at
    owed_until = charged_until(plan.cancel_scheduled_at, plan.access_until, paid_until)
    cancelled = plan.cancel_scheduled_at or plan.access_until
    if plan.status not in _REGULAR or (cancelled and owed_until is None):
        return
    if plan.status == "past_due":
        if plan.stopped:
            return
        if plan.retries_on and plan.retries_on >= today:
            yield _retry(plan, plan.retries_on)
    first = _first(plan, today, zone)
    if first is None:
        return
    end = _day(owed_until or plan.cancels_at, zone)
    begun = plan.trial_ends_at or plan.started_at
    for day in coming(first, plan.interval_unit, plan.interval_count, until, _day(begun, zone)):
        if end and day >= end:
            return
        if day >= max(today, _earliest(plan, today, zone)):
            yield _regular(plan, day, is_next=day == plan.next_on)


def _first(plan: Plan, today: date, zone: ZoneInfo) -> date | None:
    """The day to count from: the processor's own next day, else the end of what is paid."""
    if plan.status == "paused" and plan.resumes_at is None:
        return None
    if plan.next_on:
        return plan.next_on
    if plan.status == "trialing":
        return _day(plan.trial_ends_at, zone)
    if plan.status == "paused":
        return _day(plan.resumes_at, zone)
    return _day(plan.current_period_end, zone) if plan.status == "active" else None


def _earliest(plan: Plan, today: date, zone: ZoneInfo) -> date:
    if plan.status == "past_due" and plan.retries_on:
        return plan.retries_on + timedelta(days=1)
    return (_day(plan.resumes_at, zone) if plan.status == "paused" else None) or today


def _regular(plan: Plan, day: date, is_next: bool) -> Charge:
    minor, currency, changed = _price_on(plan, day)
    certainty = plan.next_certainty or "estimated"
    if is_next and plan.next_minor is not None:
        minor, currency = plan.next_minor, plan.currency
    elif not is_next and certainty == "fixed" and not changed and plan.next_minor != plan.amount_minor:
        certainty = "estimated"  # the next one differs from the price, so the later ones may too
    if not is_next and plan.next_on is None and certainty == "fixed":
        certainty = "estimated"
    return Charge(day, plan.id, plan.title, plan.label, minor, currency, certainty, plan.method)


def _retry(plan: Plan, day: date) -> Charge:
    minor = plan.amount_minor if plan.due_minor is None else plan.due_minor
    return Charge(
        day, plan.id, plan.title, plan.label, minor, plan.currency, "estimated", plan.method, is_retry=True
    )


def _price_on(plan: Plan, day: date) -> tuple[int | None, str | None, bool]:
    change = plan.pending_change
    if change and change.get("on") and change.get("minor") is not None and day.isoformat() >= change["on"]:
        return change["minor"], change["currency"], True
    return plan.amount_minor, plan.currency, False


def _day(moment: datetime | None, zone: ZoneInfo) -> date | None:
    return moment.astimezone(zone).date() if moment else None


# The calendar file


@dataclass(frozen=True, slots=True)
class Entry:
    """A charge as a calendar shows it."""

    uid: str
    on: date
    summary: str
    description: str
    url: str


def calendar(name: str, entries: Iterable[Entry], stamp: datetime) -> bytes:
    """An iCalendar file (RFC 5545): a whole-day event per charge."""
    lines = [
        "BEGIN:VCALENDAR",
        "VERSION:2.0",
        "PRODID:-//Portal//Upcoming payments//EN",
        "CALSCALE:GREGORIAN",
        "METHOD:PUBLISH",
        f"X-WR-CALNAME:{_escaped(name)}",
    ]
    for entry in entries:
        lines += _event(entry, stamp)
    lines.append("END:VCALENDAR")
    return b"".join(_folded(line) for line in lines)


def _event(entry: Entry, stamp: datetime) -> list[str]:
    return [
        "BEGIN:VEVENT",
        f"UID:{entry.uid}",
        f"DTSTAMP:{stamp.astimezone(UTC):%Y%m%dT%H%M%SZ}",
        f"DTSTART;VALUE=DATE:{entry.on:%Y%m%d}",
        f"SUMMARY:{_escaped(entry.summary)}",
        f"DESCRIPTION:{_escaped(entry.description)}",
        f"URL:{entry.url}",
        "TRANSP:TRANSPARENT",
        "END:VEVENT",
    ]


def _escaped(text: str) -> str:
    for sign, instead in (("\\", "\\\\"), (";", "\\;"), (",", "\\,"), ("\r\n", "\\n"), ("\n", "\\n")):
        text = text.replace(sign, instead)
    return "".join(letter for letter in text if letter == "\t" or letter.isprintable() or letter == "\u00a0")


def _folded(line: str) -> bytes:
    """At most 75 bytes a line; the rest goes on below behind a blank, and no letter is cut in two."""
    parts, rest, room = [], line, 75
    while len(rest.encode()) > room:
        cut = len(rest.encode()[:room].decode(errors="ignore"))
        parts.append(rest[:cut])
        rest, room = rest[cut:], 74
    return "\r\n ".join([*parts, rest]).encode() + b"\r\n"
