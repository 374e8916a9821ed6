"""The overview's numbers: right against counting by hand, by the portal's days, and one portal's alone."""

import secrets
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select
from sqlmodel import col

from portal import figures, letters, models, tally, upcoming
from portal.db import Database
from portal.figures import Span
from portal.ids import new_id
from portal.upcoming import Plan
from tests.unit.builders import (
    NOW,
    make_account,
    make_customer,
    make_payment,
    make_portal,
    make_subscription,
    save,
)
from tests.unit.plans import plan, uses, wholes

BERLIN = ZoneInfo("Europe/Berlin")
UTC_ZONE = ZoneInfo("UTC")
TODAY = NOW.date()


def make_action(database: Database, row: models.Subscription, **fields: Any) -> models.Action:
    values: dict[str, Any] = {
        "portal_id": row.portal_id,
        "account_id": row.account_id,
        "customer_id": row.customer_id,
        "subscription_id": row.id,
        "capability": "cancel_now",
        "reference": secrets.token_hex(4),
        "params": {"reason": "Too expensive", "comment": ""},
        "phase": "confirmed",
        "created_at": NOW,
        "confirmed_at": NOW,
        "closed_at": NOW,
        **fields,
    }
    return save(database, models.Action(**values))  # type: ignore[no-any-return]


def make_request(account: models.Account, **fields: Any) -> models.Request:
    values: dict[str, Any] = {
        "portal_id": account.portal_id,
        "account_id": account.id,
        "subject_id": 1,
        "kind": "pause",
        "reference": secrets.token_hex(4),
        "what": "Box",
        "params": {},
        "history": [],
        "due_at": NOW,
        "created_at": NOW,
        "closed_at": NOW,
        **fields,
    }
    return models.Request(**values)


# Time


def test_thirty_days_end_with_today() -> None:
    found = figures.spans("30d", TODAY)
    assert len(found) == 30
    assert found[0] == Span(date(2026, 10, 24), date(2026, 10, 24))
    assert found[-1] == Span(TODAY, TODAY)


def test_thirteen_weeks_end_with_today_and_have_no_gap() -> None:
    found = figures.spans("90d", TODAY)
    assert len(found) == 13
    assert found[-1] == Span(date(2026, 11, 16), TODAY)
    for one, other in pairwise(found):
        assert other.first - one.last == timedelta(days=1)


def test_twelve_months_are_whole_months() -> None:
    found = figures.spans("12m", date(2026, 3, 31))
    assert found[0] == Span(date(2025, 4, 1), date(2025, 4, 30))
    assert found[10] == Span(date(2026, 2, 1), date(2026, 2, 28))
    assert found[-1] == Span(date(2026, 3, 1), date(2026, 3, 31))


def test_days_begin_at_midnight_of_the_zone_also_when_the_clock_changes() -> None:
    found = figures.edges(
        [Span(date(2026, 10, 24), date(2026, 10, 24)), Span(date(2026, 10, 25), date(2026, 10, 25))], BERLIN
    )
    assert found == [
        datetime(2026, 10, 23, 22, tzinfo=UTC),
        datetime(2026, 10, 24, 22, tzinfo=UTC),
        datetime(2026, 10, 25, 23, tzinfo=UTC),  # that day had 25 hours
    ]


# Subscriptions


def test_subscriptions_are_counted_by_state(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal)
    for status in ("active", "active", "past_due", "paused", "cancelled", "expired", "expired"):
        make_subscription(database, account, None, status=status)
    make_subscription(database, account, None, cancel_scheduled_at=NOW + timedelta(days=3))
    make_subscription(database, account, None, status="cancelled", cancel_scheduled_at=NOW)
    other = make_account(database, make_portal(database, slug="other"))
    make_subscription(database, other, None)
    states, ended = database.read_now(figures.subscriptions, portal.id)
    assert [(one.state, one.count) for one in states] == [
        ("active", 2),
        ("past_due", 1),
        ("paused", 1),
        ("cancels_at_period_end", 1),
    ]
    assert ended == 4


# Coming charges


def test_coming_charges_are_added_up_by_currency_and_day(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal)
    for minor, currency, days in ((2400, "USD", 3), (1000, "USD", 3), (900, "EUR", 29), (5000, "EUR", 30)):
        make_subscription(
            database,
            account,
            None,
            amount_minor=minor,
            next_minor=minor,
            currency=currency,
            next_on=TODAY + timedelta(days=days),
        )
    eur, usd = database.read_now(figures.outlooks, portal.id, UTC_ZONE, TODAY)
    assert (usd.currency, usd.minor, usd.charges, usd.unknown, usd.estimated) == ("USD", 3400, 2, 0, False)
    assert (eur.currency, eur.minor, eur.charges) == ("EUR", 900, 1)
    assert [one for one in usd.days if one[1]] == [(TODAY + timedelta(days=3), 3400)]
    assert [day for day, _ in usd.days] == [TODAY + timedelta(days=number) for number in range(30)]


def test_a_weekly_box_comes_five_times_and_an_estimate_is_said_to_be_one(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal)
    make_subscription(
        database, account, None, interval_unit="week", next_on=TODAY + timedelta(days=1), next_minor=2000
    )
    (usd,) = database.read_now(figures.outlooks, portal.id, UTC_ZONE, TODAY)
    assert (usd.charges, usd.minor) == (5, 2000 + 4 * 2400)
    assert usd.estimated  # the next one differs from the price, so the later ones may too


def test_a_charge_whose_amount_nobody_knows_is_counted_and_adds_nothing(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal)
    soon = TODAY + timedelta(days=2)
    make_subscription(database, account, None, next_on=soon)
    make_subscription(database, account, None, next_on=soon, next_minor=None, amount_minor=None)
    (usd,) = database.read_now(figures.outlooks, portal.id, UTC_ZONE, TODAY)
    assert (usd.minor, usd.charges, usd.unknown, usd.estimated) == (2400, 2, 1, True)


def random_subscription(random: Random, account: models.Account) -> models.Subscription:
    """Any of the shapes that processors leave us with."""

    def maybe(value: Any, share: float = 0.5) -> Any:
        return value if random.random() < share else None

    def day(least: int, most: int) -> date:
        return TODAY + timedelta(days=random.randint(least, most))

    def moment(least: int, most: int) -> datetime:
        return NOW + timedelta(days=random.randint(least, most), hours=random.randint(-12, 12))

    currency = random.choice(["USD", "EUR", "JPY"])
    amount = maybe(random.randint(1, 9) * 500, 0.9)
    next_on = maybe(random.choice([day(-40, 45), date(2026, 11, 30), date(2026, 10, 31)]), 0.8)
    return models.Subscription(
        id=new_id(),
        portal_id=account.portal_id,
        account_id=account.id,
        remote_id=secrets.token_hex(8),
        placed_at=NOW,
        as_of=NOW,
        stamps={},
        title="Box",
        status=random.choice(
            ["active"] * 6
            + ["trialing", "past_due", "paused", "cancels_at_period_end", "cancelled", "incomplete"]
        ),
        amount_minor=amount,
        currency=currency,
        interval_unit=random.choice([None, "day", "week", "month", "month", "month", "year"]),
        interval_count=random.choice([None, 1, 2, 3]),
        started_at=maybe(moment(-400, -1)),
        trial_ends_at=maybe(moment(-30, 40)),
        current_period_end=maybe(moment(-40, 60), 0.8),
        next_on=next_on,
        next_minor=maybe(random.choice([amount, 700]), 0.7),
        next_certainty=random.choice([None, "fixed", "fixed", "fixed", "estimated", "merchant"]),
        cancels_at=maybe(moment(-5, 60), 0.15),
        resumes_at=maybe(moment(-5, 40), 0.3),
        due_minor=maybe(1200, 0.3),
        pending_change=maybe({"on": day(0, 40).isoformat(), "minor": 4200, "currency": currency}, 0.15),
        stopped=random.random() < 0.1,
        retries_on=maybe(day(-3, 10), 0.4),
        access_until=maybe(moment(1, 9), 0.1),
        cancel_scheduled_at=maybe(moment(1, 9), 0.1),
    )


@pytest.mark.parametrize(
    ("seed", "today"), [(1, TODAY), (2, TODAY), (3, date(2026, 12, 1)), (4, date(2027, 2, 28))]
)
def test_the_sums_are_those_of_the_customers_own_pages(database: Database, seed: int, today: date) -> None:
    """Added up by the database here, one by one there."""
    random = Random(seed)
    portal = make_portal(database)
    account = make_account(database, portal)
    rows = [random_subscription(random, account) for _ in range(400)]
    database.write_now(lambda db: db.add_all(rows))
    plans = [
        Plan(label="", **{name: getattr(row, name) for name in Plan.__dataclass_fields__ if name != "label"})
        for row in rows
    ]
    until = today + timedelta(days=29)
    expected: dict[str, dict[date, int]] = defaultdict(lambda: defaultdict(int))
    numbers: dict[str, int] = defaultdict(int)
    unknown: dict[str, int] = defaultdict(int)
    unsure: set[str] = set()
    for charge in upcoming.charges(plans, today, BERLIN):
        if charge.on <= until and charge.currency:
            expected[charge.currency][charge.on] += charge.minor or 0
            numbers[charge.currency] += 1
            unknown[charge.currency] += charge.minor is None
            if charge.minor is None or charge.certainty != "fixed":
                unsure.add(charge.currency)
    found = database.read_now(figures.outlooks, portal.id, BERLIN, today)
    assert [one.currency for one in found] == sorted(expected)
    for one in found:
        assert {day: minor for day, minor in one.days if minor} == {
            day: minor for day, minor in expected[one.currency].items() if minor
        }
        assert (one.charges, one.unknown) == (numbers[one.currency], unknown[one.currency])
        assert one.minor == sum(expected[one.currency].values())
        assert one.estimated == (one.currency in unsure)


# Failed payments


def test_failed_payments_come_with_their_customer_and_the_last_reason(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, label="Stripe EU")
    ana = make_customer(database, portal)
    row = make_subscription(database, account, ana, status="past_due", due_minor=3000, retries_on=TODAY)
    for days, reason in ((9, "Card expired"), (2, "Insufficient funds")):
        make_payment(
            database,
            account,
            ana,
            status="failed",
            failure_reason=reason,
            subscription_remote=row.remote_id,
            placed_at=NOW - timedelta(days=days),
        )
    make_payment(database, account, ana, subscription_remote=row.remote_id, placed_at=NOW)
    make_subscription(database, account, ana)
    found = database.read_now(figures.rescue, portal.id)
    (failed,) = found.rows
    assert (failed.id, failed.customer_id, failed.email) == (row.id, ana.id, "ana@example.com")
    assert (failed.account, failed.minor, failed.currency) == ("Stripe EU", 3000, "USD")
    assert (failed.reason, failed.failed_at) == ("Insufficient funds", NOW - timedelta(days=2))
    assert (failed.retries_on, failed.stopped) == (TODAY, False)
    assert sum(one.count for one in database.read_now(figures.failed_sums, portal.id)) == 1


def test_failed_payments_are_paged_and_summed_by_currency_over_all_pages(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal)
    rows = [
        make_subscription(database, account, None, status="past_due", email="x@example.com")
        for _ in range(27)
    ]
    make_subscription(database, account, None, status="past_due", currency="EUR", amount_minor=500)
    make_subscription(database, account, None, status="past_due", currency=None, amount_minor=None)
    first = database.read_now(figures.rescue, portal.id)
    second = database.read_now(figures.rescue, portal.id, first.older)
    assert (len(first.rows), len(second.rows), second.older) == (25, 4, None)
    assert second.rows[-1].id == rows[0].id
    assert second.rows[-1].email == "x@example.com"
    sums = {one.currency: (one.minor, one.count) for one in database.read_now(figures.failed_sums, portal.id)}
    assert sums == {"EUR": (500, 1), "USD": (27 * 2400, 27), None: (0, 1)}
    everything = database.read_now(lambda db: list(figures.every_failed(db, portal.id)))
    assert everything == [*first.rows, *second.rows]


# Cancellations


def test_cancellations_stand_under_their_reason_and_day(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal)
    ana = make_customer(database, portal)
    row = make_subscription(database, account, ana)
    late = datetime(2026, 11, 21, 23, 30, tzinfo=UTC)  # the 22nd in Berlin
    make_action(database, row)
    make_action(database, row, created_at=late, capability="cancel_at_period_end")
    make_action(database, row, created_at=late, params={"reason": ""})
    make_action(database, row, created_at=late, params={})
    make_action(database, row, created_at=NOW - timedelta(days=1), params={"reason": "Wrong taste"})
    # These are none: refused, still open, carried out by our job for one above, another wish, before the time.
    make_action(database, row, phase="failed", confirmed_at=None)
    make_action(database, row, params={"scheduled": True, "title": "Box"})
    make_action(database, row, capability="pause")
    make_action(database, row, created_at=NOW - timedelta(days=60))
    make_action(database, row, capability="undo_cancel", phase="undone")
    begins = figures.edges(figures.spans("30d", TODAY), BERLIN)
    found = database.read_now(figures.cancellations, portal.id, begins)
    assert [(one.name, one.total, one.counts[-2:]) for one in found] == [
        (None, 2, (0, 2)),
        ("Too expensive", 2, (0, 2)),
        ("Wrong taste", 1, (1, 0)),
    ]
    assert database.read_now(figures.taken_back, portal.id, begins) == 1


def test_rare_reasons_are_counted_together(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal)
    row = make_subscription(database, account, make_customer(database, portal))
    for number in range(8):
        for _ in range(8 - number):
            make_action(database, row, params={"reason": f"Reason {number}"})
    begins = figures.edges(figures.spans("12m", TODAY), UTC_ZONE)
    found = database.read_now(figures.cancellations, portal.id, begins)
    assert [one.total for one in found] == [8, 7, 6, 5, 4, 3 + 2 + 1]
    assert [one.rest for one in found] == [False] * 5 + [True]
    assert found[-1].counts == (*[0] * 11, 6)


# The page


def test_the_overview_is_of_one_portal_alone(database: Database) -> None:
    portal, other = make_portal(database), make_portal(database, slug="other")
    fill(database, other)
    found = database.read_now(figures.overview, portal.id, UTC_ZONE, "30d", NOW)
    added = found.totals
    assert (added.live, added.ended, added.outlooks, added.failed, found.rescue.rows) == (0, 0, (), (), ())
    assert (found.cancelled, found.taken_back, found.sign_ins.total) == (0, 0, 0)
    assert (found.mails_sent.total, found.mails_refused.total, found.mails_waiting) == (0, 0, 0)
    assert (found.requests.open, found.requests.overdue) == (0, 0)


@pytest.mark.parametrize("period", figures.PERIODS)
def test_the_overview_has_it_all(database: Database, period: figures.Period) -> None:
    portal = make_portal(database)
    fill(database, portal)
    found = database.read_now(figures.overview, portal.id, UTC_ZONE, period, NOW)
    assert (found.totals.live, found.failed, found.cancelled) == (2, 1, 1)
    assert (found.sign_ins.counts[-1], found.mails_sent.total, found.mails_refused.total) == (7, 5, 1)
    assert (found.requests.open, found.requests.overdue) == (2, 1)
    assert found.mails_waiting == 1
    assert len(found.sign_ins.counts) == len(found.spans)


def fill(database: Database, portal: models.Portal) -> None:
    account = make_account(database, portal)
    ana = make_customer(database, portal)
    row = make_subscription(database, account, ana)
    owing = make_subscription(database, account, ana, status="past_due")
    make_payment(database, account, ana, status="failed", subscription_remote=owing.remote_id)
    make_action(database, row)
    for name, count in ((tally.SIGN_IN, 7), (tally.MAIL_SENT, 5), (tally.MAIL_REFUSED, 1)):
        database.write_now(tally.count, portal.id, name, NOW, count)
    for number, days in enumerate((-1, 2)):
        save(
            database,
            make_request(
                account,
                customer_id=ana.id,
                kind=("pause", "resume")[number],
                due_at=NOW + timedelta(days=days),
                closed_at=None,
            ),
        )
    for kind, parked, done in (
        ("mail", None, None),
        ("mail", NOW, None),
        ("mail", None, NOW),
        ("event", None, None),
    ):
        save(
            database,
            models.Job(
                portal_id=portal.id,
                kind=kind,
                payload={},
                run_at=NOW,
                created_at=NOW,
                parked_at=parked,
                done_at=done,
            ),
        )


# Totals that are kept


def read(database: Database, portal: models.Portal, now: datetime, anew: bool = False) -> figures.Totals:
    return database.read_now(figures.overview, portal.id, BERLIN, "30d", now, anew=anew).totals


def test_totals_are_kept_as_they_were_counted_and_for_ten_minutes(database: Database) -> None:
    portal, other = make_portal(database), make_portal(database, slug="other")
    account, random = make_account(database, portal), Random(11)
    database.write_now(lambda db: db.add_all([random_subscription(random, account) for _ in range(400)]))
    counted = database.read_now(figures.totals, portal.id, BERLIN, NOW)
    assert min(len(counted.outlooks), len(counted.states), len(counted.failed)) > 1
    database.write_now(figures.keep, portal.id, counted)
    make_subscription(database, account, None, status="active")
    later = NOW + timedelta(minutes=9, seconds=59)
    assert read(database, portal, later) == counted
    assert read(database, portal, later, anew=True).live == counted.live + 1
    assert read(database, portal, NOW + timedelta(minutes=10)).live == counted.live + 1
    assert read(database, other, later).live == 0


def test_kept_totals_do_not_last_beyond_the_portals_day(database: Database) -> None:
    portal = make_portal(database)
    night = datetime(2026, 11, 28, 22, 58, tzinfo=UTC)  # two minutes to midnight in Berlin
    counted = database.read_now(figures.totals, portal.id, BERLIN, night)
    database.write_now(figures.keep, portal.id, counted)
    assert read(database, portal, night + timedelta(minutes=1)).counted_at == night
    assert read(database, portal, night + timedelta(minutes=3)).today == date(2026, 11, 29)


def test_of_two_who_count_the_later_count_is_kept(database: Database) -> None:
    portal = make_portal(database)
    for minutes in (2, 1, 3):
        counted = database.read_now(figures.totals, portal.id, BERLIN, NOW + timedelta(minutes=minutes))
        database.write_now(figures.keep, portal.id, counted)
        assert read(database, portal, NOW + timedelta(minutes=4)).counted_at == NOW + timedelta(
            minutes=max(2, minutes)
        )


# How they are read

BEGINS = figures.edges(figures.spans("30d", TODAY), UTC_ZONE)
READS: list[tuple[str, Any, str]] = [
    ("states", figures.SUBSCRIPTIONS, "ix_subscription_figures"),
    ("charges", figures.PLAIN, "ix_subscription_figures"),
    ("odd charges", figures.ODD, "ix_subscription_figures"),
    ("failed payments", figures.RESCUE[0], "ix_subscription_past_due"),
    ("more failed payments", figures.RESCUE[1], "ix_subscription_past_due"),
    ("what failed", figures.RESCUE[0], "ix_payment_subscription"),
    ("sums of failed payments", figures.RESCUE_SUMS, "ix_subscription_past_due or ix_subscription_figures"),
    ("cancellations", figures.cancellations_by_reason(BEGINS), "ix_action_figures"),
    ("taken back", figures.TAKEN_BACK, "ix_action_figures"),
    ("waiting mails", figures.MAILS_WAITING, "ix_job_trouble"),
    ("requests", figures.REQUESTS, "ix_request_due"),
    ("tally", tally.DAYS, "tally"),
    ("kept totals", figures.KEPT_TOTALS, "totals"),
]


def test_every_number_is_read_by_its_index(database: Database) -> None:
    portal, other = make_portal(database), make_portal(database, slug="other")
    fill(database, portal)
    account = database.read_now(lambda db: db.execute(select(models.Account)).scalars().first())
    assert account is not None
    random = Random(7)
    many = [random_subscription(random, account) for _ in range(300)]
    elsewhere = make_account(database, other)
    many += [random_subscription(random, elsewhere) for _ in range(300)]
    ana = database.read_now(lambda db: db.execute(select(col(models.Customer.id))).scalars().first())
    asked = [make_request(account, customer_id=ana, status="done") for _ in range(300)]
    database.write_now(lambda db: db.add_all([*many, *asked]))
    for name, statement, index in READS:
        lines = plan(database, statement, values_of(portal.id), counted=not database.is_sqlite)
        names = index.split(" or ")
        if not database.is_sqlite:  # which on few rows may find another index of the same table as good
            table = index.removeprefix("ix_").split("_")[0]
            names = [rf"Index.* Scan.* using \S+ on {table}"]
        assert uses(lines, *names), (name, lines)
        allowed = ("anon", "placed", "account", "(subquery")
        assert [line for line in wholes(lines) if not any(word in line for word in allowed)] == [], name


def values_of(portal_id: int) -> dict[str, Any]:
    return {
        "portal": portal_id,
        "until": TODAY,
        "month_ends": [TODAY],
        "begin": NOW - timedelta(days=30),
        "end": NOW,
        "after": 2**62,
        "now": NOW,
        "names": ["sign_in"],
        "first": TODAY,
        "last": TODAY,
        "day": TODAY,
        "since": NOW,
    }


def test_mails_are_all_the_kinds_of_jobs_that_write_one() -> None:
    assert set(figures.MAILS) == letters.KINDS
