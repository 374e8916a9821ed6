"""What a merchant decides about ending: how customers may cancel, with how much notice, why they are asked, and what
stands beside the cancel button. Read from what is kept with the portal; where that says nothing, customers may cancel
as their processor lets them, at any time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal

from portal.gateways.capabilities import Key
from portal.intervals import coming

When = Literal["both", "period_end", "now"]
OfferKind = Literal["pause", "plan", "ask"]
WHENS: tuple[When, ...] = ("both", "period_end", "now")
OFFER_KINDS: tuple[OfferKind, ...] = ("pause", "plan", "ask")
NOTICE_MOST = 90  # days
REASONS_MOST = 12
REASON_LENGTH, OFFER_LENGTH = 80, 200
CANCELS: dict[When, Key] = {"period_end": "cancel_at_period_end", "now": "cancel_now"}
FAR = timedelta(days=366 * 4)  # beyond this no end is named: who pays every five years is asked for by hand


@dataclass(frozen=True, slots=True)
class CancelPolicy:
    """When customers may have it end, and how many days before that they have to say so."""

    when: When = "both"
    notice_days: int = 0

    @classmethod
    def of(cls, kept: Mapping[str, Any] | None) -> "CancelPolicy":
        found = kept or {}
        when = found.get("when")
        days = found.get("notice_days")
        return cls(
            when if when in WHENS else "both",
            min(days, NOTICE_MOST) if isinstance(days, int) and days > 0 and when == "period_end" else 0,
        )

    def bars(self, key: Key) -> Key | None:
        """The wish that customers are to take instead of this one, where only the other is wanted."""
        if self.when == "both" or key not in CANCELS.values() or CANCELS[self.when] == key:
            return None
        return CANCELS[self.when]

    def kept(self) -> dict[str, Any]:
        return {"when": self.when, "notice_days": self.notice_days}


@dataclass(frozen=True, slots=True)
class SaveOffer:
    """What is offered to who names this reason: a pause, another plan, or something the shop is asked for."""

    reason: str
    kind: OfferKind
    plan: str | None = None  # its title in the list of plans
    text: str | None = None  # what is offered, in the merchant's words; only what is asked for needs them


def offers_of(kept: Mapping[str, Any] | None, reasons: Sequence[str]) -> tuple[SaveOffer, ...]:
    """The offers in the order of their reasons; one whose reason is gone is gone too."""
    found = []
    for reason in reasons:
        one = (kept or {}).get(reason)
        if isinstance(one, Mapping) and one.get("kind") in OFFER_KINDS:
            found.append(SaveOffer(reason, one["kind"], one.get("plan"), one.get("text")))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Notice:
    """A cancel that comes too late for the end of what is paid: when it ends, and what is taken until then."""

    days: int
    paid_until: date | None
    ends_on: date | None  # the first end of a period that is far enough away; None where nobody can tell
    charges: tuple[date, ...] = ()


def notice(
    policy: CancelPolicy,
    paid_until: date | None,
    unit: str | None,
    count: int | None,
    begun: date | None,
    today: date,
) -> Notice | None:
    """None where no notice is asked for, or where enough days are left."""
    days = policy.notice_days
    if not days or (paid_until is not None and (paid_until - today).days >= days):
        return None
    if paid_until is None or unit is None or paid_until < today:
        return Notice(days, paid_until, None)
    until = today + timedelta(days=days) + FAR
    charges: list[date] = []
    for day in coming(paid_until, unit, count, until, begun):
        if (day - today).days >= days:
            return Notice(days, paid_until, day, tuple(charges))
        charges.append(day)
    return Notice(days, paid_until, None)


def charged_until(
    scheduled: datetime | None, access_until: datetime | None, paid_until: datetime | None
) -> datetime | None:
    """Until when charges go on although it is cancelled: our job ends it after a notice, later than what is paid.

    None where nothing more is taken.
    """
    if scheduled is None or access_until is None or paid_until is None:
        return None
    return access_until if access_until - paid_until > timedelta(hours=12) else None


# What is kept of people


@dataclass(frozen=True, slots=True)
class Privacy:
    """How long things are kept; None: for ever."""

    bodies_days: int = 30  # of webhooks; 30 is also the most
    browsers_months: int | None = 13  # in which a customer has signed in
    customers_months: int | None = None  # who never bought anything here and never signs in

    @classmethod
    def of(cls, kept: Mapping[str, Any] | None) -> "Privacy":
        found = kept or {}
        usual = cls()
        bodies = found.get("bodies_days", usual.bodies_days)
        return cls(
            min(max(int(bodies), 1), 30),
            found.get("browsers_months", usual.browsers_months),
            found.get("customers_months", usual.customers_months),
        )

    def kept(self) -> dict[str, Any]:
        return {
            "bodies_days": self.bodies_days,
            "browsers_months": self.browsers_months,
            "customers_months": self.customers_months,
        }
