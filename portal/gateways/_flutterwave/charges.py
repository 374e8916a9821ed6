"""Which subscription a transaction of v3 is a charge of: none tells it.

E-mail and plan join them where the plan is told (the call that verifies one tells it, lists do not), else e-mail,
amount, currency and day. Where that fits more than one, nothing is joined.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

from portal.gateways._flutterwave.fields import (
    amount_of,
    created,
    email_of,
    interval_of,
    is_on,
    plan_of,
    price_of,
)
from portal.gateways.wire import Json, text
from portal.intervals import add_months

NEAR, SLACK = timedelta(hours=1), timedelta(days=2)  # a first charge before its subscription; a late renewal


def whose(said: Json, theirs: Iterable[Json], plans: Mapping[str, Json]) -> tuple[Json | None, bool]:
    """The subscription that a transaction is a charge of, among one person's; and whether it is of none at all."""
    fits = [one for one in theirs if _may_be_of(said, one, plans)]
    if len(fits) > 1:
        fits = [one for one in fits if _on_its_day(said, one, plans)] or fits
    if len(fits) > 1:
        fits = [one for one in fits if is_on(one)] or fits
    return (fits[0] if len(fits) == 1 else None), not fits


def is_charge(said: Json, number: str, theirs: Iterable[Json], plans: Mapping[str, Json]) -> bool:
    found, _ = whose(said, theirs, plans)
    return found is not None and text(found.get("id")) == number


def might_be(said: Json, theirs: Sequence[Json], plans: Mapping[str, Json]) -> bool:
    """Whether person and price are those of a subscription that it fits in nothing else."""
    for one in theirs:
        price = price_of(one, plans.get(plan_of(one) or "", {}))
        if price is not None and price == amount_of(said) and email_of(one) == email_of(said):
            return whose(said, theirs, plans) == (None, True)
    return False


def _may_be_of(said: Json, one: Json, plans: Mapping[str, Json]) -> bool:
    at, begun, plan = created(said), created(one), plan_of(said)
    if not at or not begun or at < begun - NEAR or email_of(said) != email_of(one):
        return False
    if plan:
        return plan == plan_of(one)
    price = price_of(one, plans.get(plan_of(one) or "", {}))  # only cards are charged again
    is_same = price is not None and amount_of(said) == price and said.get("payment_type") == "card"
    return is_same and _on_its_day(said, one, plans)


def _on_its_day(said: Json, one: Json, plans: Mapping[str, Json]) -> bool:
    """Whether a charge came a whole number of intervals after the first, give or take two days."""
    at, begun = created(said), created(one)
    every = interval_of(plans.get(plan_of(one) or "", {}))
    if at is None or begun is None or every is None:
        return False
    if every.unit in ("day", "week"):
        step = timedelta(days=every.count * (7 if every.unit == "week" else 1))
        over = (at - begun) % step
        return min(over, step - over) <= SLACK
    step_months = every.count * (12 if every.unit == "year" else 1)
    past = (at.year - begun.year) * 12 + at.month - begun.month
    days = [add_months(begun.date(), past + by) for by in (-1, 0, 1) if (past + by) % step_months == 0]
    return any(abs(at.date() - day) <= SLACK for day in days)
