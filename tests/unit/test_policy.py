"""How customers may cancel: what a policy keeps from them, what a notice makes of a cancel, what stands beside it."""

import re
from collections.abc import Callable
from datetime import date, timedelta
from html import unescape
from typing import Any

import pytest
from starlette.testclient import TestClient

from portal import actions, clock, models, offers, policy, requests, tenancy
from portal.app import create_app
from portal.db import Database
from portal.gateways import facts, processors
from portal.ids import id_text
from portal.letters import sample
from portal.policy import CancelPolicy, SaveOffer, charged_until, notice, offers_of
from portal.settings import Settings
from tests.unit.builders import (
    MASTER_KEY,
    make_account,
    make_customer,
    make_portal,
    make_subscription,
)
from tests.unit.test_actions import FakeGateway, Scene
from tests.unit.test_actions import gateway as gateway
from tests.unit.test_actions import scene as scene
from tests.unit.test_tabs import PARTIAL, sign_in

# What is kept


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (None, CancelPolicy("both", 0)),
        ({}, CancelPolicy("both", 0)),
        ({"when": "period_end", "notice_days": 14}, CancelPolicy("period_end", 14)),
        ({"when": "now", "notice_days": 14}, CancelPolicy("now", 0)),  # notice goes with the end of a period
        ({"when": "never", "notice_days": -3}, CancelPolicy("both", 0)),
        ({"when": "period_end", "notice_days": 900}, CancelPolicy("period_end", 90)),
        ({"when": "period_end", "notice_days": "14"}, CancelPolicy("period_end", 0)),
    ],
)
def test_what_is_kept_is_read_so_that_customers_can_cancel(kept: Any, expected: CancelPolicy) -> None:
    assert CancelPolicy.of(kept) == expected


def test_offers_come_in_the_order_of_their_reasons_and_go_with_them() -> None:
    kept = {
        "Too dear": {"kind": "ask", "text": "Half price for three months."},
        "Too much": {"kind": "pause"},
        "Gone": {"kind": "pause"},
        "Odd": {"kind": "gift"},
    }
    assert offers_of(kept, ["Too much", "Odd", "Too dear"]) == (
        SaveOffer("Too much", "pause"),
        SaveOffer("Too dear", "ask", None, "Half price for three months."),
    )


# Notice


@pytest.mark.parametrize(
    ("days", "paid_until", "ends_on", "charges"),
    [
        (14, date(2026, 12, 12), None, None),  # exactly enough is enough
        (15, date(2026, 12, 12), date(2027, 1, 12), [date(2026, 12, 12)]),
        (45, date(2026, 12, 12), date(2027, 1, 12), [date(2026, 12, 12)]),
        (46, date(2026, 12, 12), date(2027, 2, 12), [date(2026, 12, 12), date(2027, 1, 12)]),
        (1, date(2026, 11, 28), date(2026, 12, 28), [date(2026, 11, 28)]),
        (10, date(2026, 11, 30), date(2026, 12, 31), [date(2026, 11, 30)]),  # begun on a 31st
    ],
)
def test_it_ends_with_the_first_period_whose_end_is_far_enough_away(
    days: int, paid_until: date, ends_on: date | None, charges: list[date] | None
) -> None:
    begun = date(2026, 8, 31) if paid_until.day == 30 else date(2026, 8, paid_until.day)
    found = notice(CancelPolicy("period_end", days), paid_until, "month", 1, begun, today=date(2026, 11, 28))
    if charges is None:
        assert found is None
    else:
        assert found is not None
        assert (found.ends_on, list(found.charges)) == (ends_on, charges)


@pytest.mark.parametrize(
    ("paid_until", "unit"), [(None, "month"), (date(2026, 12, 1), None), (date(2026, 11, 1), "month")]
)
def test_where_nobody_can_tell_the_end_none_is_named(paid_until: date | None, unit: str | None) -> None:
    found = notice(CancelPolicy("period_end", 30), paid_until, unit, 1, None, today=date(2026, 11, 28))
    assert found is not None
    assert (found.ends_on, found.charges) == (None, ())


def test_no_notice_where_none_is_asked_for() -> None:
    assert notice(CancelPolicy(), date(2026, 11, 28), "month", 1, None, date(2026, 11, 28)) is None


def test_charges_go_on_only_where_it_ends_later_than_what_is_paid() -> None:
    now = clock.now()
    assert charged_until(now, now + timedelta(days=40), now + timedelta(days=10)) == now + timedelta(days=40)
    assert charged_until(now, now + timedelta(days=10), now + timedelta(days=10)) is None
    assert charged_until(None, now + timedelta(days=40), now + timedelta(days=10)) is None


# What customers are offered


def under(on: Scene, when: str, days: int = 0, **fields: Any) -> dict[Any, offers.Offer]:
    with_policy = tenancy.PortalView(
        **{
            name: getattr(on.portal, name)
            for name in tenancy.PortalView.__dataclass_fields__
            if name != "cancel_policy"
        },
        cancel_policy=CancelPolicy(when, days),  # type: ignore[arg-type]
    )
    on.portal = with_policy
    row = on.row()
    for name, value in fields.items():
        setattr(row, name, value)
    return offers.available(row, on.account, with_policy, clock.now())


@pytest.mark.parametrize(
    ("when", "barred", "stays"),
    [("period_end", "cancel_now", "cancel_at_period_end"), ("now", "cancel_at_period_end", "cancel_now")],
)
def test_what_the_shop_does_not_want_is_not_to_be_had_and_says_why(
    scene: Callable[..., Scene], when: str, barred: Any, stays: Any
) -> None:
    on = scene()
    found = under(on, when)
    assert not found[barred].ok
    assert "Acme Coffee" in (found[barred].why or "")
    assert found[stays].ok
    with pytest.raises(actions.Refused, match="Acme Coffee"):
        on.do(barred)
    assert on.gateway.calls == []
    assert on.do(stays).phase == "confirmed"


@pytest.mark.parametrize(
    ("with_options", "when", "stays"),
    [
        (False, "now", "cancel_now"),  # both are asked for: the one that is wanted
        (True, "period_end", "cancel_now"),  # direct, and not taken away for one that needs an answer
    ],
)
def test_one_way_that_needs_nobody_stays(
    scene: Callable[..., Scene], with_options: bool, when: str, stays: Any
) -> None:
    on = scene("adyen", options=list(facts("adyen").options) if with_options else [])
    assert under(on, when)[stays].ok


@pytest.mark.parametrize("when", policy.WHENS)
def test_no_policy_leaves_a_customer_without_a_way_that_the_processor_has(
    scene: Callable[..., Scene], when: str
) -> None:
    on = scene()
    for processor in processors():
        on.account.processor = processor
        for options in ([], list(facts(processor).options)):
            on.account.options = options
            for state in ("active", "trialing", "past_due", "paused"):
                free = under(on, "both", status=state)
                bound = under(on, when, 30 if when == "period_end" else 0, status=state)
                keys: list[Any] = ["cancel_at_period_end", "cancel_now"]
                had = any(free[key].ok for key in keys if key in free)
                assert had == any(bound[key].ok for key in keys if key in bound), (processor, state)


def test_what_is_switched_off_for_the_account_is_no_way_that_stays(scene: Callable[..., Scene]) -> None:
    on = scene()
    on.account.switched_off = ["cancel_at_period_end"]
    assert under(on, "period_end")["cancel_now"].ok


def test_what_ends_already_does_not_end_earlier_where_the_shop_does_not_want_it(
    scene: Callable[..., Scene],
) -> None:
    on = scene()
    found = under(on, "period_end", status="cancels_at_period_end")
    assert not found["cancel_now"].ok
    assert under(on, "both", status="cancels_at_period_end")["cancel_now"].ok


def test_a_cancel_in_time_is_as_ever(scene: Callable[..., Scene]) -> None:
    offer = under(scene(), "period_end", 20)["cancel_at_period_end"]
    assert (offer.mode, offer.notice) == ("direct", None)


def test_a_trial_and_a_pause_need_no_notice(scene: Callable[..., Scene]) -> None:
    on = scene()
    for status in ("trialing", "paused", "past_due"):
        found = under(on, "period_end", 60, status=status)["cancel_at_period_end"]
        assert (found.ok, found.mode, found.notice) == (True, "direct", None)


def test_a_late_cancel_is_asked_of_the_merchant_with_what_the_customer_was_told(
    scene: Callable[..., Scene],
) -> None:
    on = scene()
    offer = under(on, "period_end", 30)["cancel_at_period_end"]
    assert (offer.ok, offer.mode) == (True, "request")
    assert offer.notice is not None
    done = on.do("cancel_at_period_end", params={"reason": "Too much", "comment": "Sorry."})
    assert done.phase == "asked"
    assert on.gateway.calls == []
    asked = on.database.read_now(lambda db: db.get_one(models.Request, done.action_id))
    end = on.subscription.current_period_end
    assert end is not None
    kept = asked.params["notice"]
    assert kept["days"] == 30
    assert kept["charges"] == [end.date().isoformat()]
    assert date.fromisoformat(kept["ends_on"]) > end.date()
    assert (kept["minor"], kept["currency"]) == (2400, "USD")
    assert asked.params["reason"] == "Too much"
    assert asked.words == "Too much\nSorry."


def test_both_sides_read_in_their_mails_when_it_ends_and_what_is_taken(scene: Callable[..., Scene]) -> None:
    from portal import letters

    on = scene()
    under(on, "period_end", 30)
    done = on.do("cancel_at_period_end")
    for template in ("request_new", "request_received"):
        payload = {"template": template, "request": done.action_id}
        letter = on.database.write_now(letters._letter, payload, on.settings)
        assert letter is not None
        words = " ".join(letter.context["paragraphs"])
        assert "With 30 days of notice it ends on" in words
        assert "Until then one more payment of $24.00 is taken, on" in words


def test_our_own_job_waits_for_the_later_end_and_charges_go_on_until_then(
    scene: Callable[..., Scene],
) -> None:
    on = scene("payfast", options=["schedule_cancel"])
    offer = under(on, "period_end", 30)["cancel_at_period_end"]
    assert (offer.mode, offer.how) == ("emulated", "schedule")
    done = on.do("cancel_at_period_end")
    assert done.phase == "scheduled"
    assert on.gateway.calls == []
    row = on.row()
    end = on.subscription.current_period_end
    assert end is not None
    assert row.access_until is not None
    assert row.cancel_scheduled_at is not None
    assert timedelta(days=28) <= row.access_until - end <= timedelta(days=31)
    assert row.access_until - row.cancel_scheduled_at == actions.LEAD
    assert offers.state_of(row) == "cancels_at_period_end"
    assert offers.available(row, on.account, on.portal, clock.now())["undo_cancel"].ok
    assert [day.isoformat() for day in offer.notice.charges] == [end.date().isoformat()]  # type: ignore[union-attr]


def test_our_own_job_ends_it_before_the_charge_that_is_no_longer_owed(scene: Callable[..., Scene]) -> None:
    on = scene("payfast", options=["schedule_cancel"])
    under(on, "period_end", 30)
    on.do("cancel_at_period_end")
    until = on.row().access_until
    assert until is not None
    on.work_at(timedelta(days=40))
    assert on.gateway.calls == []
    on.work_at(until - clock.now() - timedelta(hours=71))
    assert [name for name, _key in on.gateway.calls] == ["cancel_now"]
    assert on.row().status == "cancelled"
    assert on.row().access_until == until


def test_a_late_cancel_at_our_job_can_be_taken_back(scene: Callable[..., Scene]) -> None:
    on = scene("payfast", options=["schedule_cancel"])
    under(on, "period_end", 30)
    on.do("cancel_at_period_end")
    assert on.do("undo_cancel").phase == "undone"
    row = on.row()
    assert (row.access_until, row.cancel_scheduled_at) == (None, None)


def test_where_our_job_would_stop_the_charges_at_once_the_merchant_is_asked(
    scene: Callable[..., Scene],
) -> None:
    on = scene("paypal", options=["suspend_to_cancel"])
    offer = under(on, "period_end", 30)["cancel_at_period_end"]
    assert offer.mode == "request"


# The page


class Shop:
    """A shop with a policy, and a customer of it in a browser."""

    def __init__(
        self, database: Database, processor: str = "stripe", options: list[str] | None = None, **fields: Any
    ) -> None:
        self.database = database
        plans = fields.pop("plans", None)
        row = fields.pop("row", {})
        self.portal = make_portal(database, **fields)
        self.account = make_account(database, self.portal, processor, options=options or [], plans=plans)
        self.customer = make_customer(database, self.portal)
        now = clock.now()
        end = now + timedelta(days=9)
        values = {"current_period_end": end, "next_on": end.date(), "placed_at": now, **row}
        self.row = make_subscription(database, self.account, self.customer, **values)
        settings = Settings(scheme="http", base_domain="localhost", master_keys=MASTER_KEY)
        self.client = TestClient(
            create_app(settings, database),
            base_url="http://acme.localhost",
            headers={"Sec-Fetch-Site": "same-origin"},
            follow_redirects=False,
        )
        self.client.cookies.set("portal", sign_in(database, self.customer))

    @property
    def here(self) -> str:
        return f"/customers/subscriptions/{id_text(self.row.id)}"

    def get(self, path: str, status: int = 200, partial: bool = True) -> str:
        answer = self.client.get(f"{self.here}{path}", headers=PARTIAL if partial else {})
        assert answer.status_code == status, answer.text
        return answer.text

    def post(self, path: str, status: int = 200, **fields: str) -> str:
        answer = self.client.post(f"{self.here}{path}", data=fields, headers=PARTIAL)
        assert answer.status_code == status, answer.text
        return answer.text

    def requests(self) -> list[models.Request]:
        return list(self.database.read_now(requests.of_customer, self.portal.id, self.customer.id).rows)


def words(html: str) -> str:
    """What is read of a page; what stands in a line stays in it."""
    text = re.sub(r"</?(?:time|bdi|b|a|span)\b[^>]*>", "", html)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split())


REASONS = ["Too much", "Too dear", "Other"]
OFFERS = {
    "Too much": {"kind": "pause"},
    "Too dear": {"kind": "ask", "text": "Half price for three months."},
}


def test_offers_stand_after_the_cancel_button_and_take_no_step_of_their_own(database: Database) -> None:
    shop = Shop(database, cancel_reasons=REASONS, save_offers=OFFERS)
    html = shop.get("/cancel")
    assert html.count("btn danger") == 1
    final, first_offer = html.index("btn danger"), html.index("What Acme Coffee offers instead")
    assert html.index("Keep subscription") < final < first_offer
    form = html[html.index("<form") : html.index("</form>")]
    assert "btn danger" in form  # it is the form's own button: nothing of an offer has to be answered
    assert "disabled" not in html
    assert "required" not in form
    assert "Half price for three months." in html
    assert f"{shop.here}/pause?reason=Too%20much" in html


def test_the_cancel_button_stands_where_it_stood_with_and_without_offers(database: Database) -> None:
    shop = Shop(database, cancel_reasons=REASONS, save_offers=OFFERS)
    with_offers = shop.get("/cancel")
    with_offers = re.sub(r' hx-get="[^"]+/cancel/instead"[^>]*', "", with_offers)

    def drop(db: Any) -> None:
        db.get_one(models.Portal, shop.portal.id).save_offers = None

    database.write_now(drop)
    shop = _again(shop)
    without = shop.get("/cancel")
    end = with_offers.index("btn danger")
    assert with_offers[:end] == without[: without.index("btn danger")]
    assert "instead" not in without


def _again(shop: Shop) -> Shop:
    """The same shop, with nothing remembered of its portal."""
    settings = Settings(scheme="http", base_domain="localhost", master_keys=MASTER_KEY)
    token = shop.client.cookies["portal"]
    shop.client = TestClient(
        create_app(settings, shop.database),
        base_url="http://acme.localhost",
        headers={"Sec-Fetch-Site": "same-origin"},
        follow_redirects=False,
    )
    shop.client.cookies.set("portal", token)
    return shop


def test_picking_a_reason_shows_its_offer_alone(database: Database) -> None:
    shop = Shop(database, cancel_reasons=REASONS, save_offers=OFFERS)
    piece = shop.get("/cancel/instead?reason=Too%20dear")
    assert piece.count("data-reason") == 1
    assert "Half price" in piece
    assert "btn danger" not in piece  # the button is not even redrawn
    assert shop.get("/cancel/instead?reason=Other").count("data-reason") == 0
    assert shop.get("/cancel/instead?reason=").count("data-reason") == 2
    assert shop.get("/cancel/instead?reason=<b>").count("data-reason") == 2
    whole = shop.get("/cancel/instead?reason=Too%20dear", partial=False)  # without JavaScript: the step
    assert "<html" in whole
    assert "btn danger" in whole


def test_an_offer_that_can_not_be_taken_now_is_not_drawn(database: Database) -> None:
    shop = Shop(
        database,
        cancel_reasons=REASONS,
        save_offers={"Too much": {"kind": "pause"}},
        row={"status": "past_due"},
    )
    assert "offers instead" not in shop.get("/cancel")


def test_a_plan_is_offered_where_the_subscription_can_change_to_it(database: Database) -> None:
    small = {
        "title": "Small box",
        "plan": "price_small",
        "minor": 1200,
        "currency": "USD",
        "unit": "month",
        "count": 1,
    }
    yen = {**small, "title": "Yen box", "currency": "JPY"}
    shop = Shop(
        database,
        plans=[small, {**small, "title": "Big box", "minor": 4800, "plan": "price_big"}, yen],
        cancel_reasons=["Too much", "Too dear", "Other"],
        save_offers={
            "Too much": {"kind": "plan", "plan": "Small box", "text": "Half the beans."},
            "Too dear": {"kind": "plan", "plan": "Yen box"},
            "Other": {"kind": "plan", "plan": "No longer there"},
        },
    )
    html = shop.get("/cancel")
    assert html.count("data-reason") == 1
    assert "Small box: $12.00 every month. Half the beans." in words(html)
    step = shop.get("/change_plan?reason=Too%20much&plan=Small%20box")
    assert 'value="Small box" required checked' in step
    assert 'value="Big box" required>' in step
    assert '<input type="hidden" name="reason" value="Too much">' in step


def test_what_the_shop_is_asked_for_is_a_request_of_its_own(database: Database) -> None:
    shop = Shop(database, cancel_reasons=REASONS, save_offers=OFFERS)
    card = shop.post("/cancel/offer", reason="Too dear")
    assert "You asked Acme Coffee for what they offer." in words(card)
    assert "Cancel subscription" in words(card)  # it can still be cancelled
    (asked,) = shop.requests()
    assert (asked.kind, asked.status, asked.words) == ("offer", "open", "Half price for three months.")
    assert asked.params["reason"] == "Too dear"
    assert "Half price" not in shop.get("/cancel")  # asked for already
    assert "You have asked Acme Coffee for this." in words(shop.post("/cancel/offer", 409, reason="Too dear"))
    assert len(shop.requests()) == 1
    assert "What the shop offers" in words(shop.client.get("/customers/requests").text)


@pytest.mark.parametrize("reason", ["Too much", "Other", "No such", ""])
def test_nothing_can_be_asked_for_that_is_not_offered(database: Database, reason: str) -> None:
    shop = Shop(database, cancel_reasons=REASONS, save_offers=OFFERS)
    shop.post("/cancel/offer", 404, reason=reason)
    assert shop.requests() == []


def test_a_stranger_is_offered_nothing(database: Database) -> None:
    shop = Shop(database, cancel_reasons=REASONS, save_offers=OFFERS)
    shop.client.cookies.set(
        "portal", sign_in(database, make_customer(database, shop.portal, "eve@example.com"))
    )
    shop.get("/cancel/instead", 404)
    shop.post("/cancel/offer", 404, reason="Too dear")


def test_a_reason_that_is_not_on_the_list_is_not_kept(
    database: Database, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "open_gateway", lambda *_args, **_kwargs: gateway)
    shop = Shop(database, cancel_reasons=REASONS, row={"remote_id": "sub_1"})
    shop.post("/cancel", wish="cancel_now", reason="<script>")

    def kept(db: Any) -> list[str]:
        return [one.params["reason"] for one in db.query(models.Action).all()]

    assert database.read_now(kept) == [""]


def test_the_reason_is_kept_with_a_cancel_and_with_what_was_taken_instead(
    database: Database, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "open_gateway", lambda *_args, **_kwargs: gateway)
    shop = Shop(database, cancel_reasons=REASONS, save_offers=OFFERS, row={"remote_id": "sub_1"})
    step = shop.get("/pause?reason=Too%20much")
    assert '<input type="hidden" name="reason" value="Too much">' in step
    shop.post("/pause", reason="Too much")
    shop.post("/resume")
    shop.post("/cancel", wish="cancel_now", reason="Other")

    def kept(db: Any) -> list[tuple[str, str]]:
        rows = db.query(models.Action).order_by(models.Action.id).all()
        return [(one.capability, one.params["reason"]) for one in rows]

    assert database.read_now(kept) == [("pause", "Too much"), ("resume", ""), ("cancel_now", "Other")]


def test_the_step_says_what_a_notice_means_before_anything_is_done(database: Database) -> None:
    shop = Shop(database, cancel_policy={"when": "period_end", "notice_days": 14})
    text = words(shop.get("/cancel"))
    end = clock.now() + timedelta(days=9)
    day = f"{end.day} {end:%b %Y}"
    assert f"Acme Coffee asks to be told 14 days before. It is paid until {day}, which is sooner" in text
    assert f"One more payment of $24.00, on {day}. After that no further payment is taken for it." in text
    assert "Ask Acme Coffee to cancel" in text
    assert "Nothing. " not in text
    card = words(shop.get("/card"))
    assert "Ask to cancel" in card


def test_the_step_says_so_where_the_end_is_not_known(database: Database) -> None:
    row = {"interval_unit": None, "interval_count": None}
    shop = Shop(database, row=row, cancel_policy={"when": "period_end", "notice_days": 14})
    text = words(shop.get("/cancel"))
    assert "we can't tell on which day that lets it end" in text
    assert "What Acme Coffee is owed until it ends." in text
    assert "As Acme Coffee answers" in text


def test_after_a_late_cancel_the_card_names_the_end_and_the_payment_until_then(database: Database) -> None:
    shop = Shop(
        database, "payfast", ["schedule_cancel"], cancel_policy={"when": "period_end", "notice_days": 14}
    )
    card = words(shop.post("/cancel", wish="cancel_at_period_end"))
    assert "until then payments go on" in card
    assert "Next payment $24.00 on" in card
    assert "Keep subscription" in card
    end = clock.now() + timedelta(days=9)
    coming = words(shop.client.get("/customers/upcoming").text)
    assert coming.count("Monthly coffee box") == 1  # the one that is still owed, and none after it
    assert f"{end.day} {end:%b %Y}" in coming


def test_only_one_way_and_the_sentence_for_the_other(database: Database) -> None:
    shop = Shop(database, cancel_policy={"when": "period_end", "notice_days": 0})
    html = shop.get("/cancel")
    assert "At Acme Coffee it ends at the end of what is paid, not earlier." in html
    assert 'type="radio"' not in html
    shop.post("/cancel", 409, wish="cancel_now")


def test_the_mail_of_a_late_cancel_names_what_is_still_taken(scene: Callable[..., Scene]) -> None:
    from portal import letters, mail

    on = scene("payfast", options=["schedule_cancel"])
    under(on, "period_end", 30)
    done = on.do("cancel_at_period_end")
    letter = on.database.write_now(
        letters._letter, {"template": "cancelled", "action": done.action_id}, on.settings
    )
    assert letter is not None
    parts = mail.written(
        on.settings, letter.portal, letter.template, letter.to, letter.subject, letter.context
    )
    for part in parts:
        text = words(part).replace("\u00a0", " ")
        assert "Until then one more payment of $24.00 is taken, on" in text
        assert "No further payment is taken." not in text


def test_a_sample_is_there_for_every_mail(database: Database) -> None:
    from portal.mailtexts import KINDS

    portal = database.read_now(tenancy.portal_by_id, make_portal(database).id, "localhost")
    for kind in KINDS:
        letter = sample(portal, kind, "stripe", "http://acme.localhost", clock.now())
        assert letter.kind == kind
