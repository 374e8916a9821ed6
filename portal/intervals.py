"""Days that come again: every so many days, weeks, months or years, right at the ends of months."""

from calendar import monthrange
from collections.abc import Iterator
from datetime import date, timedelta


def add_months(day: date, months: int, day_of_month: int | None = None) -> date:
    """The day `months` later; where that month is too short, its last day.

    `day_of_month` is the day that is meant where `day` itself stands in a month that was too short for it.
    """
    total = day.year * 12 + day.month - 1 + months
    year, month = divmod(total, 12)
    last = monthrange(year, month + 1)[1]
    return date(year, month + 1, min(day_of_month or day.day, last))


def coming(
    first: date, unit: str | None, count: int | None, until: date, anchor: date | None = None
) -> Iterator[date]:
    """The days from `first` to `until`, both included; `first` alone where there is no interval.

    `anchor` is the day it all began: begun on the 31st, it is due on 28 Feb and on 31 Mar again.
    """
    step = max(1, count or 1)
    meant = _day_of_month(first, anchor)
    number = 0
    day = first
    while day <= until:
        yield day
        number += step
        if unit in ("month", "year"):
            day = add_months(first, number * (12 if unit == "year" else 1), meant)
        elif unit in ("day", "week"):
            day = first + timedelta(days=number * (7 if unit == "week" else 1))
        else:
            return


def _day_of_month(first: date, anchor: date | None) -> int:
    at_the_end = first.day == monthrange(first.year, first.month)[1]
    return anchor.day if anchor and at_the_end and anchor.day > first.day else first.day
