"""Subscriptions in our words. Midtrans knows only active and inactive, so the state is worked out.

What inactive means our own rows know (`known`); without them it is a guess, dated so far back that it overwrites
nothing newer. Sources: https://docs.midtrans.com/reference/get-subscription and /subscription-schedule-object
"""

import re
from calendar import monthrange
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from portal.gateways import base
from portal.gateways._midtrans.common import BRANDS, KINDS, WIB, also, email_of, network, rupiah, time_of
from portal.gateways._midtrans.sales import payment, refunds
from portal.gateways.base import Interval, Method, Record, Snapshot, SubscriptionRecord
from portal.gateways.wire import Json, digest, part, spoken, text, whole

OVER = ("cancelled", "expired")
KEPT = (*OVER, "paused", "cancels_at_period_end")  # what we did ourselves looks like any other inactive
SLACK, RETRIES, DAY = timedelta(seconds=30), timedelta(days=9), timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a subscription is charged. `last` is the last charge that succeeded, `next` may be a retry."""

    every: Interval | None
    done: int
    ended: bool
    start: datetime | None
    last: datetime | None
    next: datetime | None

    @classmethod
    def of(cls, said: Json) -> "Schedule":
        told = part(said, "schedule")
        unit, count = told.get("interval_unit"), whole(told.get("interval")) or 0
        done, most = whole(told.get("current_interval")) or 0, whole(told.get("max_interval")) or 0
        return cls(
            every=Interval(unit, count) if unit in ("day", "week", "month") and count > 0 else None,
            done=done,
            ended=said.get("status") == "inactive" and 0 < most <= done,
            start=time_of(told.get("start_time")),
            last=time_of(told.get("previous_execution_at")),
            next=time_of(told.get("next_execution_at")),
        )

    def owed(self, now: datetime) -> datetime | None:
        """Since when a charge is open. A failed one is tried up to three times more, and then the next try lies a
        little behind a regular day; what the merchant moved lies further off or on such a day."""
        due = later(self.last or self.start, self.every) if self.done else self.start
        if due is None or self.next is None or self.start is None or now < due:
            return None
        regular = {due, later(due, self.every), later(self.start, self.every, self.done)}
        if any(one and abs(self.next - one) <= SLACK for one in regular):
            return None
        again = later(due, self.every)
        return due if due < self.next < min(again or due, due + RETRIES) else None


def later(at: datetime | None, every: Interval | None, times: int = 1) -> datetime | None:
    """So many intervals later; a month that is too short ends early, by Jakarta's calendar."""
    if at is None or every is None:
        return None
    if every.unit != "month":
        return at + timedelta(days=every.count * times * (7 if every.unit == "week" else 1))
    here = at.astimezone(WIB)
    months = here.year * 12 + here.month - 1 + every.count * times
    year, month = months // 12, months % 12 + 1
    last_day = monthrange(year, month)[1]
    return here.replace(year=year, month=month, day=min(here.day, last_day)).astimezone(at.tzinfo)


def snapshot(
    as_of: datetime, said: Json, known: Record | None, charges: Iterable[Json] = (), **told: Any
) -> Snapshot:
    """A subscription with its charges; `told` is what we know better, because we did it just now."""
    record, schedule = subscription(said, known, as_of), Schedule.of(said)
    if said.get("status") == "inactive" and known is None and not told and not schedule.ended:
        as_of = min(as_of, record.created_at or schedule.start or as_of)  # a guess beats no word of later
    named = {"subscription": record.remote_id, "title": record.title}
    sales = [(payment(one), refunds(one)) for one in charges]
    return Snapshot(
        as_of=as_of,
        subscriptions=(also(record, **told),),
        payments=tuple(also(paid, **named) for paid, _ in sales),
        refunds=tuple(refund for _, back in sales for refund in back),
    )


def subscription(said: Json, known: Record | None, now: datetime) -> SubscriptionRecord:
    schedule, word, price = Schedule.of(said), text(said.get("status")), rupiah(said)
    if not isinstance(said.get("id"), str) or not part(said, "schedule"):
        raise ValueError("A subscription has an id and a schedule.")
    status, owed = _status(schedule, word, known, now), schedule.owed(now)
    on = schedule.next.astimezone(WIB).date() if word == "active" and schedule.next else None
    cleared = ("next_payment", "due", "retries_on") if word in ("active", "inactive") else ()
    return spoken(
        SubscriptionRecord,
        said["id"],
        (*cleared, *(("cancels_at", "ended_at") if word == "active" else ())),
        status=status,
        raw_status=word,
        email=email_of(said),
        created_at=time_of(said.get("created_at")),
        title=text(said.get("name")),
        amount=price,
        interval=schedule.every,
        started_at=schedule.start,
        trial_ends_at=schedule.start if status == "trialing" else None,
        current_period_start=schedule.last,
        current_period_end=owed or schedule.next,
        next_payment=base.NextPayment(on, price, "fixed") if on else None,
        method=_saved(said),
        due=price if status == "past_due" else None,
        stopped=(status == "past_due" and word == "inactive") if cleared else None,
        retries_on=on if owed else None,
    )


def _status(
    schedule: Schedule, word: str | None, known: Record | None, now: datetime
) -> base.SubscriptionStatus | None:
    """None keeps what our rows know. Inactive, paid for and none of our doing: somebody disabled or cancelled it."""
    if word == "active":
        waits = not schedule.done and schedule.start is not None and schedule.start > now
        return "past_due" if schedule.owed(now) else "trialing" if waits else "active"
    if word != "inactive":
        return None
    if schedule.ended:
        return "expired"
    if _status_in(known) in KEPT:
        return None
    if schedule.owed(now):
        return "past_due"
    return "paused" if schedule.next and schedule.next > now - DAY else "cancelled"


def is_over(known: Record | None, said: Json) -> bool:
    """Ended by all that is known: our row says so and nothing has made it active again, or no charge is left."""
    return said.get("status") == "inactive" and (_status_in(known) in OVER or Schedule.of(said).ended)


def _status_in(known: Record | None) -> str | None:
    return getattr(known, "status", None)


def _saved(said: Json) -> Method | None:
    """What is charged. The token of a card begins and ends with its digits; it can be charged, so it is not kept."""
    token, account = text(said.get("token")), text(part(said, "gopay").get("account_id"))
    kind = KINDS.get(str(said.get("payment_type")))
    if token is None or kind is None:
        return None
    digits = re.fullmatch(r"([0-9]{6,8})[^0-9].*?([0-9]{4})", token) if kind == "card" else None
    brand = network(digits[1]) if digits else BRANDS.get(str(said.get("payment_type")))
    return Method(kind, brand, digits[2] if digits else None, remote_id=digest(f"{token}:{account or ''}"))


def charges_of(said: Json) -> list[str]:
    """The transactions that went through, by their ids."""
    ids = said.get("transaction_ids")
    return [one for one in ids if isinstance(one, str)] if isinstance(ids, list) else []
