"""What is counted per day: by the portal's days, added up by the database, apart for each portal."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from email.message import EmailMessage
from typing import Any

import pytest

from portal import clock, letters, login, tally
from portal.db import Database
from portal.mail import Outcome
from portal.settings import Settings
from tests.unit.builders import MASTER_KEY, NOW, make_customer, make_portal

DAY = date(2026, 11, 22)


def counted(database: Database, portal: Any, *names: str) -> dict[str, dict[date, int]]:
    return database.read_now(
        tally.days, portal.id, names or (tally.SIGN_IN,), date(2026, 11, 1), date(2026, 11, 30)
    )


def test_what_is_counted_adds_up_by_name_and_day(database: Database) -> None:
    portal = make_portal(database)
    database.write_now(tally.count, portal.id, tally.SIGN_IN, NOW)
    database.write_now(tally.count, portal.id, tally.SIGN_IN, NOW, 4)
    database.write_now(tally.count, portal.id, tally.MAIL_SENT, NOW, 2)
    database.write_now(tally.count, portal.id, tally.SIGN_IN, datetime(2026, 11, 23, 9, tzinfo=UTC))
    assert counted(database, portal, tally.SIGN_IN, tally.MAIL_SENT, tally.MAIL_REFUSED) == {
        "sign_in": {DAY: 5, date(2026, 11, 23): 1},
        "mail_sent": {DAY: 2},
        "mail_refused": {},
    }


def test_the_day_is_that_of_the_portal(database: Database) -> None:
    late = datetime(2026, 11, 22, 23, 30, tzinfo=UTC)
    berlin = make_portal(database, time_zone="Europe/Berlin")
    new_york = make_portal(database, slug="ny", time_zone="America/New_York")
    for portal in (berlin, new_york):
        database.write_now(tally.count, portal.id, tally.SIGN_IN, late)
    assert counted(database, berlin)["sign_in"] == {date(2026, 11, 23): 1}
    assert counted(database, new_york)["sign_in"] == {DAY: 1}


def test_each_portal_is_counted_apart(database: Database) -> None:
    acme, other = make_portal(database), make_portal(database, slug="other")
    database.write_now(tally.count_all, {(acme.id, "mail_sent"): 3, (other.id, "mail_sent"): 1}, NOW)
    assert counted(database, acme, "mail_sent")["mail_sent"] == {DAY: 3}
    assert counted(database, other, "mail_sent")["mail_sent"] == {DAY: 1}


def test_a_portal_that_is_gone_and_a_count_of_none_write_nothing(database: Database) -> None:
    portal = make_portal(database)
    database.write_now(tally.count, 0, tally.SIGN_IN, NOW)
    database.write_now(tally.count, portal.id, tally.SIGN_IN, NOW, 0)
    assert counted(database, portal)["sign_in"] == {}


def test_days_outside_of_what_is_asked_for_stay_out(database: Database) -> None:
    portal = make_portal(database)
    for day in (9, 10, 12, 13):
        database.write_now(tally.count, portal.id, tally.SIGN_IN, datetime(2026, 11, day, 12, tzinfo=UTC))
    found = database.read_now(tally.days, portal.id, ["sign_in"], date(2026, 11, 10), date(2026, 11, 12))
    assert list(found["sign_in"]) == [date(2026, 11, 10), date(2026, 11, 12)]


def test_none_is_lost_when_many_count_at_once(database: Database) -> None:
    portal = make_portal(database)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: database.write_now(tally.count, portal.id, "sign_in", NOW), range(40)))
    assert counted(database, portal)["sign_in"] == {DAY: 40}


def test_a_sign_in_is_counted_when_its_session_opens_and_only_then(database: Database) -> None:
    portal = make_portal(database)
    make_customer(database, portal)
    who = ("browser-of-ana-0001", "Firefox", "127.0.0.1", "/customers/orders")
    asked = database.write_now(login.ask, portal.id, "ana@example.com", *who, NOW)
    prepared = database.write_now(login.prepare_mail, asked, "secret", NOW)
    assert prepared is not None
    assert counted(database, portal)["sign_in"] == {}
    opening = (portal.id, prepared.token, "browser-of-ana-0001", "Firefox", None, NOW)
    assert isinstance(database.write_now(login.redeem_link, *opening), login.Redeemed)
    assert database.write_now(login.redeem_link, *opening) == "used"
    assert counted(database, portal)["sign_in"] == {DAY: 1}


@pytest.mark.parametrize(
    ("outcome", "last", "sent", "refused"),
    [
        (None, False, 1, 0),
        (Outcome("SMTPRecipientsRefused 550", permanent=True), False, 0, 1),
        (Outcome("SMTPConnectError", permanent=False), False, 0, 0),  # tried again
        (Outcome("SMTPConnectError", permanent=False), True, 0, 1),  # given up
    ],
)
def test_a_mail_is_counted_by_what_became_of_it(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    outcome: Outcome | None,
    last: bool,
    sent: int,
    refused: int,
) -> None:
    portal = make_portal(database)
    make_customer(database, portal)

    async def answer(
        settings: Settings, messages: Sequence[tuple[str, EmailMessage]], taken: object = None
    ) -> list[Outcome | None]:
        return [outcome] * len(messages)

    monkeypatch.setattr(letters, "send_batch", answer)
    now = clock.now()
    who = ("browser-of-ana-0001", "Firefox", "127.0.0.1", "/customers/orders")
    asked = database.write_now(login.ask, portal.id, "ana@example.com", *who, now)
    settings = Settings(master_keys=MASTER_KEY, scheme="http")
    job = ("login_mail", {"request": asked})
    assert asyncio.run(letters.send(database, settings, [job], {0} if last else ())) == [outcome]
    found = database.read_now(
        tally.days, portal.id, [tally.MAIL_SENT, tally.MAIL_REFUSED], now.date(), now.date()
    )
    assert sum(found["mail_sent"].values()) == sent
    assert sum(found["mail_refused"].values()) == refused


def test_what_the_installation_writes_itself_is_no_portals_mail(database: Database) -> None:
    portal = make_portal(database)
    database.write_now(tally.count_all, {(0, "mail_sent"): 1, (portal.id, "mail_sent"): 1}, NOW)
    assert counted(database, portal, "mail_sent")["mail_sent"] == {DAY: 1}
    assert database.read_now(tally.days, 0, ["mail_sent"], DAY, DAY)["mail_sent"] == {}
