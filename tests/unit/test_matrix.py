"""The matrix: what `available()` says, for every state and for the subscriptions there are, and what options change."""

from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from portal import clock, matrix, models, offers, policy, tenancy
from portal.db import Database
from portal.gateways import facts, processors
from portal.gateways.capabilities import KEYS
from portal.matrix import Cell, Line, Sheet
from portal.offers import SENSE
from tests.unit.builders import make_account, make_customer, make_portal, make_subscription
from tests.unit.plans import plan_of, uses, wholes

PLAN = {
    "title": "Big box",
    "plan": "price_big",
    "minor": 4800,
    "currency": "USD",
    "unit": "month",
    "count": 1,
}


def kinds(name: str) -> list[str | None]:
    return list(facts(name).variants or [None])  # type: ignore[list-item]


def sheet_of(database: Database, account: models.Account) -> Sheet:
    found = database.read_now(matrix.sheets, account.portal_id, "localhost", clock.now(), account.id)
    [sheet] = found
    return sheet


def cell(sheet: Sheet, key: str) -> Cell:
    return next(one for one in sheet.cells if one.key == key)


def line(sheet: Sheet, key: str, mode: str) -> Line:
    return next(one for one in cell(sheet, key).lines if one.answer.mode == mode)


@pytest.mark.parametrize("name", processors())
def test_every_wish_of_every_processor_has_an_answer_in_words_and_its_evidence(
    database: Database, name: str
) -> None:
    portal = make_portal(database)
    for variant in kinds(name):
        account = make_account(database, portal, name, variant=variant, plans=[PLAN])
        sheet = sheet_of(database, account)
        assert [one.key for one in sheet.cells] == list(KEYS)
        for one in sheet.cells:
            assert one.lines
            for told in one.lines:
                assert told.word
                assert told.answer.sentence
                assert "{" not in told.answer.sentence
                assert all(told.when)
                assert told.evidence.source.startswith("https://")
                assert told.evidence.confidence in ("high", "medium", "low", "unverified")
                assert told.evidence.document == f"docs/processors.md#{name}-{one.key.replace('_', '-')}"
                assert told.count == 0


@pytest.mark.parametrize("name", processors())
def test_the_matrix_says_what_available_says(database: Database, name: str) -> None:
    """For each state, asked past the matrix: the same mode, or the same sentence why not."""
    portal = make_portal(database)
    account = make_account(database, portal, name, variant=kinds(name)[0], plans=[PLAN])
    ana = make_customer(database, portal)
    view = database.read_now(tenancy.portal_by_id, portal.id, "localhost")
    made = [
        make_subscription(
            database, account, ana, status=status, method={"kind": None, "remote_id": "x"}, due_minor=due
        )
        for status in ("trialing", "active", "past_due", "paused", "cancels_at_period_end")
        for due in ((None, 2400) if status == "past_due" else (None,))
    ]
    wanted: dict[tuple[str, bool, str, str | None], int] = {}
    for row in made:
        for key, offer in offers.available(row, account, view, clock.now()).items():
            told = (key, offer.ok, offer.mode, None if offer.ok else offer.why)
            wanted[told] = wanted.get(told, 0) + 1
    sheet = sheet_of(database, account)
    found: dict[tuple[str, bool, str, str | None], int] = {}
    for one in sheet.cells:
        if one.key in SENSE:
            for each in one.lines:
                answer = each.answer
                if each.count:
                    told = (one.key, answer.ok, answer.mode, None if answer.ok else answer.sentence)
                    found[told] = found.get(told, 0) + each.count
    assert found == wanted
    assert sheet.total == len(made)


def test_a_button_is_counted_for_those_who_see_it(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "razorpay")
    ana = make_customer(database, portal)
    for kind in ("card", "upi", "upi"):
        make_subscription(database, account, ana, status="past_due", method={"kind": kind})
    make_subscription(database, account, ana, status="active", method={"kind": "card"})
    make_subscription(database, account, ana, status="cancelled")
    sheet = sheet_of(database, account)
    assert sheet.total == 4
    assert [(word, count) for _tone, word, count in sheet.states] == [("Active", 1), ("Payment failed", 3)]
    update = cell(sheet, "update_payment_method")
    assert update.of == 4
    assert sum(one.count for one in update.lines) == 4
    by_mode = {one.answer.mode: one.count for one in update.lines if one.count}
    hosted = sum(
        offers.available(row, account, _view(database, portal), clock.now())["update_payment_method"].mode
        == "hosted"
        for row in _subscriptions(database)
        if row.status != "cancelled"
    )
    assert by_mode.get("hosted", 0) == hosted > 0


def _view(database: Database, portal: models.Portal) -> tenancy.PortalView:
    return database.read_now(tenancy.portal_by_id, portal.id, "localhost")


def _subscriptions(database: Database) -> list[models.Subscription]:
    return database.read_now(lambda db: list(db.execute(select(models.Subscription)).scalars()))


def test_ended_here_but_paid_until_later_is_a_state_of_its_own(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "mollie")
    ana = make_customer(database, portal)
    later, over = clock.now() + timedelta(days=9), clock.now() - timedelta(days=9)
    make_subscription(
        database, account, ana, status="cancelled", access_until=later, method={"remote_id": "mdt_1"}
    )
    make_subscription(database, account, ana, status="cancelled", access_until=over)
    sheet = sheet_of(database, account)
    assert [(word, count) for _tone, word, count in sheet.states] == [("Cancelled, paid until later", 1)]
    undo = cell(sheet, "undo_cancel")
    assert (undo.of, undo.seen) == (1, 1)
    assert any("Cancelled, paid until later" in when for one in undo.lines for when in one.when)


def test_what_our_job_will_cancel_counts_as_ending(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "paypal", options=["suspend_to_cancel"])
    ana = make_customer(database, portal)
    until = clock.now() + timedelta(days=9)
    make_subscription(database, account, ana, status="paused", cancel_scheduled_at=until, access_until=until)
    sheet = sheet_of(database, account)
    assert [(word, count) for _tone, word, count in sheet.states] == [("Ending", 1)]
    assert cell(sheet, "undo_cancel").seen == 1


def test_switched_off_is_said_with_the_customers_sentence(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "stripe", switched_off=["pause", "invoice"])
    make_subscription(database, account, make_customer(database, portal))
    sheet = sheet_of(database, account)
    for key in ("pause", "invoice"):
        one = cell(sheet, key)
        assert one.switched_off
        assert {told.word for told in one.lines} == {"Switched off"}
        assert {told.answer.sentence for told in one.lines} == {
            "Acme Coffee has switched this off. Write to help@acme.example."
        }
    assert cell(sheet, "pause").seen == 0
    assert cell(sheet, "pause").of == 1


def test_the_policy_of_the_portal_is_in_it(database: Database) -> None:
    portal = make_portal(database, cancel_policy=policy.CancelPolicy("period_end", 30).kept())
    account = make_account(database, portal, "stripe")
    ana = make_customer(database, portal)
    now = clock.now()
    soon, far = now + timedelta(days=5), now + timedelta(days=60)
    for until in (soon, far):
        make_subscription(database, account, ana, current_period_end=until, interval_count=3)
    sheet = sheet_of(database, account)
    assert cell(sheet, "cancel_now").seen == 0
    at_end = cell(sheet, "cancel_at_period_end")
    counted = {one.answer.mode: one.count for one in at_end.lines if one.count}
    view = _view(database, portal)
    wanted: dict[str, int] = {}
    for row in _subscriptions(database):
        mode = offers.available(row, account, view, now)["cancel_at_period_end"].mode
        wanted[mode] = wanted.get(mode, 0) + 1
    assert counted == wanted
    assert len(wanted) == 2  # else the notice is not looked at


def test_plans_are_compared_one_by_one(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "stripe", plans=[PLAN])
    ana = make_customer(database, portal)
    make_subscription(database, account, ana)
    make_subscription(database, account, ana, amount_minor=4800)  # has that plan already
    make_subscription(database, account, ana, currency="EUR")
    change = cell(sheet_of(database, account), "change_plan")
    assert (change.seen, change.of) == (1, 3)


def test_special_cases_stand_below_the_usual_one_with_their_condition(database: Database) -> None:
    account = make_account(database, make_portal(database), "paypal")
    told = cell(sheet_of(database, account), "update_payment_method").lines
    assert told[0].answer.mode == "guided"
    assert "Active" in told[0].when[0]
    by_card = next(one for one in told if one.answer.mode == "request")
    assert by_card.when == ("By card",)


def test_strangers_and_disconnected_accounts_are_not_in_it(database: Database) -> None:
    portal, other = make_portal(database), make_portal(database, "kora")
    account = make_account(database, portal, "stripe")
    make_account(database, portal, "mollie", disconnected_at=clock.now())
    theirs = make_account(database, other, "stripe")
    make_subscription(database, theirs, make_customer(database, other))
    found = database.read_now(matrix.sheets, portal.id, "localhost", clock.now())
    assert [(one.account_id, one.total) for one in found] == [(account.id, 0)]
    assert database.read_now(matrix.sheets, portal.id, "localhost", clock.now(), theirs.id) == []
    with pytest.raises(LookupError):
        database.read_now(matrix.preview, portal.id, "localhost", theirs.id, "suspend_to_cancel", clock.now())


def preview(database: Database, account: models.Account, option: str) -> list[matrix.Difference]:
    return database.read_now(matrix.preview, account.portal_id, "localhost", account.id, option, clock.now())


def test_what_an_option_changes_is_seen_before_it_is_switched_on(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "paypal")
    ana = make_customer(database, portal)
    make_subscription(database, account, ana)
    make_subscription(database, account, ana, status="past_due")
    found = preview(database, account, "suspend_to_cancel")
    at_end = next(one for one in found if one.name == "Cancel at the end of what is paid")
    assert at_end.before is not None
    assert at_end.after is not None
    assert (at_end.before.how, at_end.after.how) == ("keep", "schedule")
    assert "Active" in at_end.when[0]
    assert at_end.count >= 1
    # Nothing is changed by looking.
    assert database.read_now(lambda db: db.get_one(models.Account, account.id)).options == []
    # The other way round
    on = make_account(database, portal, "paypal", options=["suspend_to_cancel"])
    back = next(one for one in preview(database, on, "suspend_to_cancel") if one.name == at_end.name)
    assert back.before is not None
    assert back.before.how == "schedule"


@pytest.mark.parametrize("name", processors())
def test_every_option_changes_something(database: Database, name: str) -> None:
    account = make_account(database, make_portal(database), name, variant=kinds(name)[0])
    for option in facts(name).options:
        assert preview(database, account, option), option
    with pytest.raises(LookupError):
        preview(database, account, "no_such_option")


def test_the_subscriptions_are_read_by_their_indexes(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "stripe", plans=[PLAN])
    view = _view(database, portal)
    lines = plan_of(database, lambda db: matrix._groups(db, account, view, clock.now()))
    assert not [line for line in wholes(lines) if "subscription" in line], lines
    if database.is_sqlite:
        assert uses(lines, "ix_subscription_figures"), lines
        assert uses(lines, "ix_subscription_kept"), lines
    else:  # which takes one of several that fit
        assert uses(lines, r"Index.* Scan.* using ix_\w+ on subscription"), lines


def test_more_than_can_be_counted_is_said(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "stripe")
    ana = make_customer(database, portal)
    for _ in range(3):
        make_subscription(database, account, ana)
    assert not sheet_of(database, account).about
    monkeypatch.setattr(matrix, "MOST", 2)
    assert sheet_of(database, account).about
    assert sheet_of(database, account).total == 2


def test_a_country_of_the_portal_counts(database: Database) -> None:
    portal = make_portal(database)
    account = make_account(database, portal, "xendit")
    before = cell(sheet_of(database, account), "update_payment_method").lines[0].answer.mode

    def move(db: Session) -> None:
        db.get_one(models.Portal, portal.id).country = "HK"

    database.write_now(move)
    after = cell(sheet_of(database, account), "update_payment_method").lines[0].answer.mode
    assert (before, after) == ("hosted", "request")
