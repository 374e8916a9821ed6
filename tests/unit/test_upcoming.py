"""What will be charged: which subscriptions, when, how much, how surely; and the calendar file of it."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.upcoming import Charge, Entry, Plan, Total, calendar, charges, months, totals

TODAY = date(2026, 11, 22)
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
ZONE = ZoneInfo("UTC")


def make_plan(**fields: Any) -> Plan:
    values: dict[str, Any] = {
        "id": 1,
        "title": "Coffee box",
        "label": "Acme Pay",
        "status": "active",
        "amount_minor": 2400,
        "currency": "USD",
        "interval_unit": "month",
        "interval_count": 1,
        "started_at": NOON - timedelta(days=100),
        "trial_ends_at": None,
        "current_period_end": None,
        "next_on": date(2026, 12, 12),
        "next_minor": 2400,
        "next_certainty": "fixed",
        "cancels_at": None,
        "resumes_at": None,
        "method": {"kind": "card"},
        "due_minor": None,
        "pending_change": None,
        "stopped": False,
        "retries_on": None,
        "access_until": None,
        "cancel_scheduled_at": None,
        **fields,
    }
    return Plan(**values)


def of(**fields: Any) -> list[Charge]:
    return charges([make_plan(**fields)], TODAY, ZONE)


def test_a_monthly_one_is_charged_twelve_times_in_twelve_months() -> None:
    found = of()
    assert [charge.on.day for charge in found] == [12] * 12
    assert (found[0].on, found[-1].on) == (date(2026, 12, 12), date(2027, 11, 12))
    assert {(charge.minor, charge.certainty) for charge in found} == {(2400, "fixed")}


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "cancels_at_period_end"},
        {"status": "cancelled"},
        {"status": "expired"},
        {"status": "incomplete"},
        {"status": "paused"},
        {"access_until": NOON + timedelta(days=9)},
        {"cancel_scheduled_at": NOON + timedelta(days=9)},
        {"status": "past_due", "stopped": True, "retries_on": date(2026, 11, 25)},
        {"next_on": None, "current_period_end": None},
    ],
)
def test_what_is_ending_or_asleep_is_not_charged(fields: dict[str, Any]) -> None:
    assert of(**fields) == []


def test_a_paused_one_is_charged_from_the_day_it_resumes() -> None:
    assert of(status="paused", resumes_at=datetime(2027, 2, 1, tzinfo=UTC))[0].on == date(2027, 2, 12)
    without_next = of(status="paused", resumes_at=datetime(2027, 2, 1, tzinfo=UTC), next_on=None)
    assert (without_next[0].on, without_next[0].certainty) == (date(2027, 2, 1), "estimated")


def test_a_trial_is_charged_when_it_ends() -> None:
    found = of(status="trialing", next_on=None, trial_ends_at=datetime(2026, 12, 1, tzinfo=UTC))
    assert (found[0].on, found[0].certainty) == (date(2026, 12, 1), "estimated")


def test_a_failed_payment_is_tried_again_and_the_rest_goes_on() -> None:
    found = of(status="past_due", retries_on=date(2026, 11, 25), due_minor=1800)
    assert [(charge.on, charge.minor, charge.is_retry) for charge in found[:2]] == [
        (date(2026, 11, 25), 1800, True),
        (date(2026, 12, 12), 2400, False),
    ]


def test_the_day_of_a_retry_is_not_charged_twice() -> None:
    found = of(status="past_due", retries_on=date(2026, 12, 12))
    assert [charge.on for charge in found[:2]] == [date(2026, 12, 12), date(2027, 1, 12)]


def test_a_price_agreed_for_later_holds_from_its_day() -> None:
    change = {"on": "2027-02-01", "minor": 3000, "currency": "USD", "title": None, "quantity": None}
    assert [charge.minor for charge in of(pending_change=change)[:4]] == [2400, 2400, 3000, 3000]


def test_a_next_amount_that_differs_makes_the_later_ones_estimates() -> None:
    found = of(next_minor=1200)
    assert [(charge.minor, charge.certainty) for charge in found[:2]] == [
        (1200, "fixed"),
        (2400, "estimated"),
    ]


def test_a_fixed_term_ends() -> None:
    assert len(of(cancels_at=datetime(2027, 2, 12, tzinfo=UTC))) == 2


def test_begun_on_the_31st() -> None:
    found = of(next_on=date(2026, 11, 30), started_at=datetime(2026, 8, 31, tzinfo=UTC))
    assert [charge.on.isoformat()[5:] for charge in found[:5]] == [
        "11-30",
        "12-31",
        "01-31",
        "02-28",
        "03-31",
    ]


def test_what_is_past_is_left_out() -> None:
    assert of(next_on=date(2026, 11, 1))[0].on == date(2026, 12, 1)
    assert of(next_on=TODAY)[0].on == TODAY


def test_days_are_those_of_the_portals_zone() -> None:
    late = datetime(2026, 12, 1, 23, 30, tzinfo=UTC)
    plan = make_plan(status="trialing", next_on=None, trial_ends_at=late)
    assert charges([plan], TODAY, ZoneInfo("Europe/Berlin"))[0].on == date(2026, 12, 2)


def test_currencies_are_never_added_and_estimates_are_marked() -> None:
    found = charges(
        [
            make_plan(),
            make_plan(id=2, currency="JPY", amount_minor=1200, next_minor=1200, next_certainty="estimated"),
            make_plan(id=3, amount_minor=None, next_minor=None, currency=None),
        ],
        TODAY,
        ZONE,
    )
    first = months(found)[0]
    assert first.first == date(2026, 12, 1)
    assert len(first.charges) == 3
    assert first.totals == (Total("JPY", 1200, True), Total("USD", 2400, False))
    assert totals(found) == (Total("JPY", 14_400, True), Total("USD", 28_800, False))


@given(
    st.sampled_from(["day", "week", "month", "year"]),
    st.integers(1, 24),
    st.dates(date(2026, 1, 1), date(2028, 1, 1)),
)
def test_charges_lie_within_twelve_months_and_have_names_of_their_own(
    unit: str, count: int, first: date
) -> None:
    found = of(interval_unit=unit, interval_count=count, next_on=first)
    assert all(TODAY <= charge.on <= date(2027, 11, 22) for charge in found)
    assert len({charge.uid for charge in found}) == len(found)
    assert sum(len(month.charges) for month in months(found)) == len(found)


# The calendar file


def unfolded(content: bytes) -> list[str]:
    return content.decode().replace("\r\n ", "").removesuffix("\r\n").split("\r\n")


def make_entry(**fields: Any) -> Entry:
    values: dict[str, Any] = {
        "uid": "a-20261212@acme.example",
        "on": date(2026, 12, 12),
        "summary": "Coffee box",
        "description": "Paid with Visa",
        "url": "https://acme.example/customers/subscriptions",
        **fields,
    }
    return Entry(**values)


def test_a_calendar_says_what_rfc_5545_wants() -> None:
    content = calendar("Acme", [make_entry()], NOON)
    assert content.endswith(b"\r\n")
    assert unfolded(content) == [
        "BEGIN:VCALENDAR",
        "VERSION:2.0",
        "PRODID:-//Portal//Upcoming payments//EN",
        "CALSCALE:GREGORIAN",
        "METHOD:PUBLISH",
        "X-WR-CALNAME:Acme",
        "BEGIN:VEVENT",
        "UID:a-20261212@acme.example",
        "DTSTAMP:20261122T120000Z",
        "DTSTART;VALUE=DATE:20261212",
        "SUMMARY:Coffee box",
        "DESCRIPTION:Paid with Visa",
        "URL:https://acme.example/customers/subscriptions",
        "TRANSP:TRANSPARENT",
        "END:VEVENT",
        "END:VCALENDAR",
    ]


def test_signs_with_a_meaning_are_escaped() -> None:
    lines = unfolded(calendar("A", [make_entry(summary="a,b;c\\d\ne")], NOON))
    assert r"SUMMARY:a\,b\;c\\d\ne" in lines


@given(st.text(max_size=300))
def test_lines_are_folded_and_no_text_breaks_out(text: str) -> None:
    content = calendar(text, [make_entry(summary=text, description=text)], NOON)
    physical = content.removesuffix(b"\r\n").split(b"\r\n")
    assert all(len(line) <= 75 for line in physical)
    for line in physical:
        line.decode()  # no letter is cut in two
    names = [re.split("[:;]", line)[0] for line in unfolded(content)]
    assert names.count("BEGIN") == names.count("END") == 2
    assert len(names) == 16
