"""Asks, links, codes and sessions, as the functions that the views and the worker call."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import event, func, select
from sqlmodel import col

from portal import login, models, texts
from portal.db import Database
from portal.login import ALPHABET, HOME, Redeemed, WrongCode
from tests.unit.builders import NOW, make_customer, make_portal, save
from tests.unit.plans import plan_of, wholes

SECRET = "a secret of the installation"
BROWSER = "browser-of-the-one-who-asked"
FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0"
MINUTE = timedelta(minutes=1)


def ask(
    database: Database,
    portal: models.Portal,
    email: str = "ana@example.com",
    browser: str = BROWSER,
    network: str = "192.0.2.1",
    at: timedelta = timedelta(0),
    next_path: str = "",
) -> int:
    return database.write_now(
        login.ask, portal.id, email, browser, FIREFOX, network, next_path or HOME, NOW + at
    )


def mail(database: Database, request_id: int, at: timedelta = timedelta(0)) -> login.Prepared | None:
    return database.write_now(login.prepare_mail, request_id, SECRET, NOW + at)


def mailed(database: Database, portal: models.Portal, **asked: Any) -> login.Prepared:
    found = mail(database, ask(database, portal, **asked), asked.get("at", timedelta(0)))
    assert found is not None
    return found


def by_link(
    database: Database,
    portal: models.Portal,
    token: str,
    at: timedelta = timedelta(0),
    browser: str = BROWSER,
    old: str | None = None,
) -> Redeemed | login.Trouble:
    return database.write_now(login.redeem_link, portal.id, token, browser, FIREFOX, old, NOW + at)


def by_code(
    database: Database,
    portal: models.Portal,
    code: str,
    at: timedelta = timedelta(0),
    browser: str | None = BROWSER,
) -> Redeemed | WrongCode:
    return database.write_now(login.redeem_code, portal.id, code, browser, SECRET, FIREFOX, None, NOW + at)


def signed_in(database: Database, portal: models.Portal, **asked: Any) -> Redeemed:
    found = by_link(
        database, portal, mailed(database, portal, **asked).token, browser=asked.get("browser", BROWSER)
    )
    assert isinstance(found, Redeemed)
    return found


def who(database: Database, portal: models.Portal, token: str, at: timedelta = timedelta(0)) -> Any:
    return database.read_now(login.load_session, portal.id, token, NOW + at)


def count(database: Database, model: Any, *where: Any) -> int:
    return database.read_now(
        lambda db: db.execute(select(func.count()).select_from(model).where(*where)).scalar_one()
    )


@pytest.fixture
def portal(database: Database) -> models.Portal:
    return make_portal(database)


@pytest.fixture
def ana(database: Database, portal: models.Portal) -> models.Customer:
    return make_customer(database, portal)


# Asking


def test_an_ask_runs_the_same_statements_for_a_customer_and_for_nobody(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    known = _statements(database, lambda: ask(database, portal, "ana@example.com"))
    unknown = _statements(database, lambda: ask(database, portal, "nobody@example.com"))
    assert known == unknown
    asked = [statement.replace("'customer'", "").replace("customer_id", "") for statement in known]
    assert not any("customer" in statement for statement in asked)


def test_a_wrong_code_runs_the_same_statements_for_a_customer_and_for_nobody(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    mail(database, ask(database, portal, browser="the-known-one-asked"))
    mail(database, ask(database, portal, "nobody@example.com", browser="the-unknown-asked"))
    known = _statements(database, lambda: by_code(database, portal, "XXXXXX", browser="the-known-one-asked"))
    unknown = _statements(database, lambda: by_code(database, portal, "XXXXXX", browser="the-unknown-asked"))
    assert known == unknown


def _statements(database: Database, run: Callable[[], Any]) -> list[str]:
    seen: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        run()
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    return seen


def test_an_ask_is_written_with_its_job(database: Database, portal: models.Portal) -> None:
    request_id = ask(database, portal, "  Ana@Example.COM ")
    row = database.read_now(lambda db: db.get_one(models.LoginRequest, request_id))
    job = database.read_now(lambda db: db.execute(select(models.Job)).scalar_one())
    assert (row.email, row.expires_at) == ("ana@example.com", NOW + timedelta(minutes=10))
    assert (job.kind, job.payload) == ("login_mail", {"request": request_id})
    assert BROWSER not in row.browser_hash


def test_nobody_gets_no_mail(database: Database, portal: models.Portal) -> None:
    assert mail(database, ask(database, portal, "nobody@example.com")) is None
    assert count(database, models.LoginToken) == 0


def test_a_customer_of_another_portal_gets_no_mail(database: Database, portal: models.Portal) -> None:
    make_customer(database, make_portal(database, "kora"), "kim@example.com")
    assert mail(database, ask(database, portal, "kim@example.com")) is None


def test_the_mail_goes_to_the_stored_address(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    assert mailed(database, portal, email="ANA@example.com").to == ana.email


def test_only_hashes_are_kept(database: Database, portal: models.Portal, ana: models.Customer) -> None:
    sent = mailed(database, portal)
    token = database.read_now(lambda db: db.execute(select(models.LoginToken)).scalar_one())
    request = database.read_now(lambda db: db.execute(select(models.LoginRequest)).scalar_one())
    kept = repr((token.model_dump(), request.model_dump()))
    assert sent.token not in kept
    assert sent.code not in kept
    assert len(sent.token) == 43  # 32 bytes
    assert len(sent.code) == 6
    assert set(sent.code) <= set(ALPHABET)


def test_the_alphabet_has_32_signs_and_no_look_alikes() -> None:
    assert len(set(ALPHABET)) == 32
    assert not set("OIL") & set(ALPHABET)


def test_an_ask_that_waited_too_long_gets_no_mail(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    assert mail(database, ask(database, portal), 10 * MINUTE) is None


# Limits


def test_three_mails_in_a_quarter_of_an_hour_and_then_silence(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    sent = [mail(database, ask(database, portal, at=n * MINUTE), n * MINUTE) for n in range(6)]
    assert [found is not None for found in sent] == [True, True, True, False, False, False]
    later = 16 * MINUTE
    assert mail(database, ask(database, portal, at=later), later) is not None


def test_ten_mails_a_day(database: Database, portal: models.Portal, ana: models.Customer) -> None:
    at = [n * timedelta(minutes=30) for n in range(14)]
    sent = [mail(database, ask(database, portal, at=moment), moment) for moment in at]
    assert sum(found is not None for found in sent) == 10
    tomorrow = timedelta(hours=25)
    assert mail(database, ask(database, portal, at=tomorrow), tomorrow) is not None


def test_a_limit_is_of_one_portal_and_one_address(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    kora = make_portal(database, "kora")
    make_customer(database, kora)
    make_customer(database, portal, "ben@example.com")
    for _ in range(4):
        mail(database, ask(database, portal))
    assert mail(database, ask(database, portal, "ben@example.com")) is not None
    assert mail(database, ask(database, kora)) is not None


def test_twenty_asks_of_one_network(database: Database, portal: models.Portal) -> None:
    people = [make_customer(database, portal, f"p{n}@example.com").email for n in range(22)]
    sent = [mail(database, ask(database, portal, email, network="198.51.100.7")) for email in people]
    assert [found is not None for found in sent] == [True] * 20 + [False] * 2
    assert mail(database, ask(database, portal, people[21], network="203.0.113.9")) is not None


def test_asks_for_strangers_count_for_the_network_too(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    for number in range(20):
        ask(database, portal, f"nobody{number}@example.com")
    assert mail(database, ask(database, portal)) is None


def test_two_workers_at_once_do_not_send_a_fourth_mail(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    asked = [ask(database, portal) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(lambda request_id: mail(database, request_id), asked))
    assert sum(found is not None for found in sent) == 3


# The link


def test_a_link_signs_in_once(database: Database, portal: models.Portal, ana: models.Customer) -> None:
    token = mailed(database, portal, next_path="/customers/payments").token
    first = by_link(database, portal, token)
    assert isinstance(first, Redeemed)
    assert first.next_path == "/customers/payments"
    assert who(database, portal, first.token).customer.email == "ana@example.com"
    assert by_link(database, portal, token) == "used"


def test_looking_at_a_link_changes_nothing(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    token = mailed(database, portal).token
    for _ in range(40):
        database.read_now(login.look_at_link, portal.id, token, None, NOW)  # a read that writes would raise
    assert isinstance(by_link(database, portal, token), Redeemed)


def test_a_link_says_whose_it_is_and_where_it_was_asked_for(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    token = mailed(database, portal).token
    here = database.read_now(login.look_at_link, portal.id, token, BROWSER, NOW)
    there = database.read_now(login.look_at_link, portal.id, token, "another-browser-altogether", NOW)
    assert isinstance(here, login.LinkView)
    assert isinstance(there, login.LinkView)
    assert (here.masked, here.asked_at, here.same_browser) == ("a•••@example.com", NOW, True)
    assert login.browser_words(here.user_agent) == "Firefox on Windows"
    assert not there.same_browser


def test_a_link_works_in_another_browser(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    token = mailed(database, portal).token
    assert isinstance(by_link(database, portal, token, browser="the-phone-in-the-pocket"), Redeemed)


@pytest.mark.parametrize(("minutes", "seconds", "works"), [(9, 59, True), (10, 0, False), (10, 1, False)])
def test_a_link_is_good_for_ten_minutes(
    database: Database, portal: models.Portal, ana: models.Customer, minutes: int, seconds: int, works: bool
) -> None:
    token = mailed(database, portal).token
    at = timedelta(minutes=minutes, seconds=seconds)
    looked = database.read_now(login.look_at_link, portal.id, token, None, NOW + at)
    found = by_link(database, portal, token, at)
    assert isinstance(looked, login.LinkView) == works
    assert isinstance(found, Redeemed) == works
    assert works or (looked, found) == ("expired", "expired")


def test_a_link_of_another_portal_opens_nothing(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    kora = make_portal(database, "kora")
    make_customer(database, kora)
    token = mailed(database, portal).token
    assert by_link(database, kora, token) == "foreign"
    assert count(database, models.SignIn) == 0
    assert isinstance(by_link(database, portal, token), Redeemed)


def test_a_link_made_for_another_purpose_opens_nothing(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    request_id = ask(database, portal)
    token = "A" * 43
    save(
        database,
        models.LoginToken(
            token_hash=login.digest(token),
            request_id=request_id,
            portal_id=portal.id,
            purpose="merchant",
            email=ana.email,
            expires_at=NOW + timedelta(hours=1),
        ),
    )
    assert by_link(database, portal, token) == "foreign"


@pytest.mark.parametrize(
    "token", ["", "x", "A" * 42, "A" * 44, "A" * 42 + "=", "ä" * 43, "../../etc/passwd", "\0"]
)
def test_a_malformed_link(database: Database, portal: models.Portal, token: str) -> None:
    assert by_link(database, portal, token) == "malformed"


def test_a_link_nobody_made(database: Database, portal: models.Portal) -> None:
    assert by_link(database, portal, "A" * 43) == "unknown"


def test_three_links_are_good_side_by_side(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    tokens = [mailed(database, portal, at=n * MINUTE).token for n in range(3)]
    assert all(isinstance(by_link(database, portal, token, 4 * MINUTE), Redeemed) for token in tokens)


def test_fifty_at_once_open_one_session(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    token = mailed(database, portal).token
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: by_link(database, portal, token), range(50)))
    assert sum(isinstance(one, Redeemed) for one in found) == 1
    assert found.count("used") == 49
    assert count(database, models.SignIn) == 1


def test_a_new_link_can_be_had_for_an_old_one(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    kora = make_portal(database, "kora")
    token = mailed(database, portal, next_path="/customers/payments").token
    other = "another-browser-altogether"

    def again(where: models.Portal, link: str) -> int | None:
        return database.write_now(
            login.ask_again, where.id, link, other, FIREFOX, "192.0.2.9", NOW + 20 * MINUTE
        )

    assert again(kora, token) is None
    assert again(portal, "A" * 43) is None
    request_id = again(portal, token)
    assert request_id is not None
    assert mail(database, request_id, 20 * MINUTE) is not None
    asked = database.read_now(login.newest_ask, portal.id, other, NOW + 21 * MINUTE)
    assert asked is not None
    assert asked.address == "a•••@example.com"  # who holds an old link learns no address by it
    assert asked.next_path == "/customers/payments"


def test_send_again_repeats_the_last_ask(database: Database, portal: models.Portal) -> None:
    ask(database, portal, "ben@example.com")
    ask(database, portal, "ana@example.com", at=MINUTE)
    again = database.write_now(login.resend, portal.id, BROWSER, FIREFOX, "192.0.2.1", NOW + 30 * MINUTE)
    asked = database.read_now(lambda db: db.get_one(models.LoginRequest, again))
    assert (asked.email, asked.typed) == ("ana@example.com", True)
    stranger = database.write_now(login.resend, portal.id, "never-asked-before", FIREFOX, "192.0.2.1", NOW)
    assert stranger is None


# The code


def test_a_code_signs_in_where_it_was_asked_for_and_once(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    code = mailed(database, portal, next_path="/customers/upcoming").code
    found = by_code(database, portal, code)
    assert isinstance(found, Redeemed)
    assert found.next_path == "/customers/upcoming"
    assert isinstance(by_code(database, portal, code), WrongCode)


def test_how_a_code_is_typed_does_not_matter() -> None:
    assert login.normalized_code(" k7m-2qx ") == "K7M2QX"
    assert login.normalized_code("K7 M2 QX") == "K7M2QX"
    assert login.normalized_code("oil-abc") == "011ABC"
    assert login.normalized_code("o" * 100) == "0" * 12


def test_a_code_in_lower_case_with_spaces(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    code = mailed(database, portal).code
    assert isinstance(by_code(database, portal, f" {code[:3].lower()} - {code[3:].lower()} "), Redeemed)


@pytest.mark.parametrize("browser", ["another-browser-altogether", None])
def test_a_code_is_worthless_elsewhere(
    database: Database, portal: models.Portal, ana: models.Customer, browser: str | None
) -> None:
    code = mailed(database, portal).code
    assert by_code(database, portal, code, browser=browser) == WrongCode(0)
    assert isinstance(by_code(database, portal, code), Redeemed)


def test_a_code_is_worthless_in_another_portal(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    kora = make_portal(database, "kora")
    make_customer(database, kora)
    code = mailed(database, portal).code
    assert isinstance(by_code(database, kora, code), WrongCode)


def test_five_tries_in_all(database: Database, portal: models.Portal, ana: models.Customer) -> None:
    code = mailed(database, portal).code
    left = [by_code(database, portal, "WRONGX") for _ in range(5)]
    assert left == [WrongCode(n) for n in (4, 3, 2, 1, 0)]
    assert by_code(database, portal, code) == WrongCode(0)


def test_tries_are_counted_alike_for_nobody(database: Database, portal: models.Portal) -> None:
    mail(database, ask(database, portal, "nobody@example.com"))
    assert [by_code(database, portal, "WRONGX") for _ in range(6)] == [
        WrongCode(n) for n in (4, 3, 2, 1, 0, 0)
    ]


def test_many_tries_at_once_are_five(database: Database, portal: models.Portal, ana: models.Customer) -> None:
    mailed(database, portal)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: by_code(database, portal, "WRONGX"), range(30)))
    tries = database.read_now(lambda db: db.execute(select(col(models.LoginRequest.tries))).scalar_one())
    assert tries == 5


def test_the_right_code_many_times_at_once_opens_one_session(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    code = mailed(database, portal).code
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: by_code(database, portal, code), range(20)))
    assert sum(isinstance(one, Redeemed) for one in found) == 1


def test_a_code_goes_on_working_when_a_scanner_has_spent_the_link(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    sent = mailed(database, portal)
    assert isinstance(by_link(database, portal, sent.token, browser="the-scanner-of-the-firm"), Redeemed)
    assert isinstance(by_code(database, portal, sent.code), Redeemed)


def test_the_code_of_an_earlier_mail_still_works_when_the_later_ask_was_too_many(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    codes = [mailed(database, portal, at=n * MINUTE).code for n in range(3)]
    assert mail(database, ask(database, portal, at=3 * MINUTE), 3 * MINUTE) is None
    assert isinstance(by_code(database, portal, codes[0], 4 * MINUTE), Redeemed)


def test_the_code_for_another_address_than_the_newest_does_not_work(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    code = mailed(database, portal).code
    ask(database, portal, "ben@example.com", at=MINUTE)
    assert isinstance(by_code(database, portal, code, MINUTE), WrongCode)


def test_a_code_is_good_for_ten_minutes(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    code = mailed(database, portal).code
    assert by_code(database, portal, code, 10 * MINUTE) == WrongCode(0)
    assert isinstance(by_code(database, portal, code, timedelta(minutes=9, seconds=59)), Redeemed)


def test_without_the_secret_a_code_cannot_be_found_out_from_the_table(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    code = mailed(database, portal).code
    found = database.write_now(
        login.redeem_code, portal.id, code, BROWSER, "another secret", FIREFOX, None, NOW
    )
    assert isinstance(found, WrongCode)


# Sessions


def test_a_session_ends_after_an_hour_of_rest(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    token = signed_in(database, portal).token
    assert who(database, portal, token, timedelta(minutes=59)) is not None
    assert who(database, portal, token, timedelta(minutes=60)) is None


def test_a_session_ends_after_a_day_however_busy(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    token = signed_in(database, portal).token
    session_id = who(database, portal, token).customer.session_id
    for half_hours in range(1, 48):
        at = half_hours * timedelta(minutes=30)
        assert who(database, portal, token, at) is not None
        database.write_now(login.touch, session_id, NOW + at)
    assert who(database, portal, token, timedelta(hours=24)) is None


def test_a_session_is_of_one_portal(database: Database, portal: models.Portal, ana: models.Customer) -> None:
    kora = make_portal(database, "kora")
    make_customer(database, kora)
    token = signed_in(database, portal).token
    assert who(database, kora, token) is None


def test_signing_in_makes_a_new_session_and_ends_the_one_of_this_browser(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    first = signed_in(database, portal)
    second = by_link(database, portal, mailed(database, portal).token, old=first.token)
    assert isinstance(second, Redeemed)
    assert second.token != first.token
    assert who(database, portal, first.token) is None
    assert who(database, portal, second.token) is not None


def test_only_the_hash_of_a_session_is_kept(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    token = signed_in(database, portal).token
    row = database.read_now(lambda db: db.execute(select(models.SignIn)).scalar_one())
    assert token not in repr(row.model_dump())


def test_own_sessions_and_nobody_elses(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    make_customer(database, portal, "ben@example.com")
    here = signed_in(database, portal)
    signed_in(database, portal, browser="another-browser-altogether")
    signed_in(database, portal, email="ben@example.com")
    customer = who(database, portal, here.token).customer
    rows = database.read_now(login.own_sessions, portal.id, customer, NOW)
    assert [row.current for row in rows].count(True) == 1
    assert len(rows) == 2


def test_one_session_is_ended_and_only_ones_own(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    make_customer(database, portal, "ben@example.com")
    here, there = (
        signed_in(database, portal),
        signed_in(database, portal, browser="another-browser-altogether"),
    )
    bens = signed_in(database, portal, email="ben@example.com")
    customer = who(database, portal, here.token).customer
    others = who(database, portal, there.token).customer.session_id
    foreign = who(database, portal, bens.token).customer.session_id
    assert database.write_now(login.end_session, portal.id, customer, others)
    assert not database.write_now(login.end_session, portal.id, customer, foreign)
    assert who(database, portal, there.token) is None
    assert who(database, portal, bens.token) is not None
    assert database.write_now(login.end_session, portal.id, customer)
    assert who(database, portal, here.token) is None


def test_everywhere_means_every_session_of_this_customer_in_this_portal(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    kora = make_portal(database, "kora")
    make_customer(database, kora)
    tokens = [signed_in(database, portal, browser=f"browser-number-{n:04}").token for n in range(3)]
    elsewhere = signed_in(database, kora).token
    database.write_now(login.end_all, portal.id, ana.id)
    assert [who(database, portal, token) for token in tokens] == [None] * 3
    assert who(database, kora, elsewhere) is not None


def test_loading_a_session_is_one_search_in_an_index(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    tokens = [signed_in(database, portal).token for _ in range(3)]
    lines = plan_of(
        database,
        lambda db: login.load_session(db, portal.id, tokens[0], NOW),
        counted=not database.is_sqlite,
    )
    assert not wholes(lines), lines


def test_one_statement_loads_a_session(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    token = signed_in(database, portal).token
    assert len(_statements(database, lambda: who(database, portal, token))) == 1


def test_what_is_old_is_forgotten(database: Database, portal: models.Portal, ana: models.Customer) -> None:
    signed_in(database, portal)
    database.write_now(login.forget_old, NOW + timedelta(hours=23))
    assert count(database, models.SignIn) == count(database, models.LoginToken) == 1
    database.write_now(login.forget_old, NOW + timedelta(days=3))
    assert count(database, models.SignIn) == 0
    assert count(database, models.LoginToken) == 0
    assert count(database, models.LoginRequest) == 0


# Browsers


def test_the_first_browser_is_no_news_and_a_further_one_is_told_once(
    database: Database, portal: models.Portal, ana: models.Customer
) -> None:
    told = (col(models.Job.kind) == "mail",)
    signed_in(database, portal)
    assert count(database, models.Job, *told) == 0
    for _ in range(2):
        signed_in(database, portal, browser="the-phone-in-the-pocket")
    assert count(database, models.Job, *told) == 1
    job = database.read_now(lambda db: db.execute(select(models.Job).where(*told)).scalar_one())
    assert job.payload == {
        "template": "new_device",
        "customer": ana.id,
        "at": NOW.isoformat(),
        "browser": "Firefox on Windows",
    }


@pytest.mark.parametrize(
    ("user_agent", "words"),
    [
        (FIREFOX, "Firefox on Windows"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Safari/604.1", "Safari on iPhone"),
        ("Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 Chrome/140.0 Mobile Safari/537.36", "Chrome on Android"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0", "Edge on Windows"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15) Version/18.0 Safari/605.1.15", "Safari on Mac"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        ("curl/8.0", ""),
        ("", ""),
        ("<script>alert(1)</script> Windows", "Windows"),
    ],
)  # fmt: skip
def test_a_browser_in_words(user_agent: str, words: str) -> None:
    texts.locale.set("en")
    assert login.browser_words(user_agent) == words


@pytest.mark.parametrize(
    ("email", "shown"),
    [("ana@example.com", "a•••@example.com"), ("a@b.example", "a•••@b.example")],
)
def test_a_masked_address(email: str, shown: str) -> None:
    assert login.masked(email) == shown


# Where to go on

GOOD = [
    "/customers/orders",
    "/customers/orders/01abcdefghjkm",
    "/customers/subscriptions?ended=1",
    "/customers/upcoming.ics",
    "/customers/payments?before=AAAB_-x",
    "/customers/subscriptions/01abcdefghjkm/cancel",
    "/customers/sessions",
]
NASTY = [
    "", "/", "//", "customers/orders", "/customers", "/customers/", "/customers//evil.example",
    "//evil.example", "///evil.example", "////evil.example/customers/orders", "/\\evil.example",
    "\\\\evil.example", "\\/evil.example", "/customers/\\evil.example", "/customers\\orders",
    "https://evil.example/customers/orders", "http:/customers/orders", "http:customers/orders",
    "javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "vbscript:x", "mailto:a@b",
    "//evil.example/customers/orders", "/customers/..", "/customers/../admin", "/customers/orders/..",
    "/customers/./orders", "/customers/orders/../../admin", "/customers/%2e%2e/admin",
    "/customers/%2E%2E%2fadmin", "/customers/%252e%252e/admin", "/customers/..%2fadmin",
    "/customers/%2f%2fevil.example", "/customers/%5cevil.example", "/customers/orders%00",
    "/customers/orders\0", "/customers/orders\r\nSet-Cookie: a=b", "/customers/orders%0d%0aSet-Cookie:x",
    "/customers/orders\n", "/customers/orders\t", "\t/customers/orders", " /customers/orders",
    "/customers/orders ", "/customers/or ders", "/customers/orders#x", "/customers/orders#//evil.example",
    "/customers/orders?x=<script>", "/customers/orders?x=\"onload",
    "/customers/orders?u=https://evil.example", "/customers/orders?x=y#z", "/customers/orders?x y",
    "/customers/orders?ä", "/customers/ördérs", "/customers/orders/", "/customers/orders//x",
    "/customers/@evil.example", "/customers/orders@evil", "@evil.example/customers/orders",
    "user:pass@/customers/orders", "/customersorders", "/customers.evil.example/orders",
    "/customers;/orders", "/customers/orders;x=1", "/Customers/orders", "/CUSTOMERS/orders",
    "/admin/customers/orders", "/customers/login", "/customers/login/" + "A" * 43, "/customers/login/check",
    "/customers/logout", "/customers/return/x", "/customers/leave/x", "/customers/static/portal.js",
    "/customers/logo/x.png", "/customers/login?x=1", "/webhooks/x", "/__demo/reset",
    "/customers/" + "a" * 500, "/customers/.hidden", "/customers/orders/.", "/customers/orders/..;/x",
    "/customers/\u2028orders", "/customers/\uff0e\uff0e/admin", "/customers/orders\u202e",
    "\u2044\u2044evil.example", "/customers/{orders}", "/customers/orders?a=b&c=//evil.example",
    "/customers/orders|x", "/customers/`id`", "/customers/$(id)",
]  # fmt: skip


@pytest.mark.parametrize("path", GOOD)
def test_a_page_of_ours_is_gone_back_to(path: str) -> None:
    assert login.safe_next(path) == path


@pytest.mark.parametrize("path", NASTY)
def test_anything_else_leads_to_the_orders(path: str) -> None:
    assert login.safe_next(path) == HOME


def test_at_least_eighty_nasty_forms_are_tried() -> None:
    assert len(set(NASTY)) >= 80


def test_only_a_clean_way_on_is_written_down(database: Database, portal: models.Portal) -> None:
    request_id = ask(database, portal, next_path="https://evil.example/")
    row = database.read_now(lambda db: db.get_one(models.LoginRequest, request_id))
    assert row.next_path == HOME


def test_cookies_bear_the_host_prefix_on_https_only() -> None:
    secure: Any = SimpleNamespace(secure=True)
    plain: Any = SimpleNamespace(secure=False)
    assert (login.cookie_name(secure), login.browser_cookie_name(secure)) == (
        "__Host-portal",
        "__Host-portal-browser",
    )
    assert (login.cookie_name(plain), login.browser_cookie_name(plain)) == ("portal", "portal-browser")
