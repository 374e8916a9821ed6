"""Policy, plans and privacy as a person of the merchant meets them: saved, refused, too late, not allowed."""

import re
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from portal import clock, models, plans
from portal.db import Database
from portal.gateways import facts, processors
from portal.ids import id_text
from portal.policy import CancelPolicy, SaveOffer, offers_of
from portal.policy_form import PolicyForm, Row
from tests.unit.builders import make_account, make_customer, make_request, make_subscription
from tests.unit.settings.conftest import HTMX, Desk, address, make_person, sign_in, sign_in_as

POLICY = {
    "when": "period_end",
    "notice_days": "14",
    "request_email": "desk@acme.example",
    "request_days": "5",
}
SMALL = {
    "title": "Small box",
    "plan": "price_small",
    "minor": 1200,
    "currency": "USD",
    "unit": "month",
    "count": 1,
    "quantity": None,
}
TYPED = {
    "title": "Small box",
    "plan": "price_small",
    "amount": "12.00",
    "currency": "usd",
    "count": "1",
    "unit": "month",
}


def words(html: str) -> str:
    text = re.sub(r"</?(?:time|bdi|b|a|span)\b[^>]*>", "", html)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split())


def of(database: Database, site: models.Portal) -> models.Portal:
    return database.read_now(lambda db: db.get_one(models.Portal, site.id))


def audits(database: Database) -> list[models.Audit]:
    def read(db: Any) -> list[models.Audit]:
        row = models.Audit
        statement = select(row).where(
            col(row.what).in_(("policy.changed", "privacy.changed", "account.plans"))
        )
        return list(db.execute(statement.order_by(col(row.id))).scalars())

    return database.read_now(read)


# Cancelling


def test_a_policy_is_saved_and_written_down(client: Desk, database: Database, site: models.Portal) -> None:
    sign_in(client, database, site, "editor")
    make_account(database, site, plans=[SMALL])
    answer = client.post(
        address(site, "/policy"),
        data={
            **POLICY,
            "version": "1",
            "reason_1": " Too much ",
            "offer_1": "pause",
            "text_1": "Rest for a while.",
            "reason_2": "Too dear",
            "offer_2": "plan:Small box",
            "reason_3": "Something else",
            "offer_3": "",
            "reason_5": "Found better",
            "offer_5": "ask",
            "text_5": "Half price for three months.",
        },
    )
    assert (answer.status_code, answer.headers["location"]) == (303, address(site, "/policy?done=saved"))
    row = of(database, site)
    assert CancelPolicy.of(row.cancel_policy) == CancelPolicy("period_end", 14)
    assert row.cancel_reasons == ["Too much", "Too dear", "Something else", "Found better"]
    assert offers_of(row.save_offers, row.cancel_reasons) == (
        SaveOffer("Too much", "pause", None, "Rest for a while."),
        SaveOffer("Too dear", "plan", "Small box", None),
        SaveOffer("Found better", "ask", None, "Half price for three months."),
    )
    assert (row.request_email, row.request_days, row.version) == ("desk@acme.example", 5, 2)
    (written,) = audits(database)
    assert written.what == "policy.changed"
    assert written.portal_id == site.id
    assert written.before is not None
    assert written.after is not None
    assert written.before["request_days"] == 3
    assert written.after["request_days"] == 5
    assert written.after["cancel_policy"] == {"when": "period_end", "notice_days": 14}
    page = client.get(address(site, "/policy?done=saved")).text
    assert "Saved." in page
    assert 'value="Too much"' in page
    assert '<option value="plan:Small box" selected>' in page


@pytest.mark.parametrize(
    ("changed", "field", "sentence"),
    [
        ({"when": "never"}, "when", "Choose when it may end."),
        ({"notice_days": "91"}, "notice_days", "from 0 to 90"),
        ({"notice_days": "-1"}, "notice_days", "from 0 to 90"),
        ({"notice_days": "soon"}, "notice_days", "from 0 to 90"),
        ({"when": "both"}, "notice_days", "Notice goes with"),
        ({"when": "now"}, "notice_days", "Notice goes with"),
        ({"request_email": "desk"}, "request_email", "Enter an address"),
        ({"request_email": "a@b.example, c@d.example"}, "request_email", "Enter an address"),
        ({"request_days": "0"}, "request_days", "from 1 to 30"),
        ({"request_days": "31"}, "request_days", "from 1 to 30"),
        ({"reason_2": "too MUCH"}, "reason_2", "stands above already"),
        ({"reason_2": "x" * 81}, "reason_2", "at most 80 characters"),
        ({"offer_2": "pause"}, "reason_2", "Name the reason"),
        ({"reason_2": "B", "offer_2": "gift"}, "offer_2", "Choose what is offered."),
        ({"reason_2": "B", "offer_2": "plan:Gone"}, "offer_2", "Choose one of your plans."),
        ({"reason_2": "B", "offer_2": "ask"}, "text_2", "Say what you offer"),
        ({"reason_2": "B", "offer_2": "ask", "text_2": "x" * 201}, "text_2", "At most 200"),
    ],
)
def test_what_is_wrong_is_said_beside_it_and_nothing_typed_is_lost(
    client: Desk, database: Database, site: models.Portal, changed: dict[str, str], field: str, sentence: str
) -> None:
    sign_in(client, database, site, "editor")
    data = {**POLICY, "version": "1", "reason_1": "Too much", "text_1": "Typed <by> hand", **changed}
    answer = client.post(address(site, "/policy"), data=data, headers=HTMX)
    assert answer.status_code == 422
    html = answer.text
    assert "There is a problem" in html
    assert f'href="#{field}"' in html
    assert f'id="{field}' in html
    assert sentence in words(html)
    assert f'id="{field}-error"' in html
    assert 'value="Typed &lt;by&gt; hand"' in html
    assert f'value="{data["request_email"]}"' in html
    assert of(database, site).version == 1
    assert audits(database) == []


def test_rows_go_up_down_and_away_and_nothing_is_saved_by_that(
    client: Desk, database: Database, site: models.Portal
) -> None:
    sign_in(client, database, site, "editor")
    data = {**POLICY, "version": "1", "reason_1": "A", "reason_2": "B", "reason_3": "C", "notice_days": "odd"}

    def order(wish: str) -> list[str]:
        answer = client.post(address(site, "/policy"), data={**data, "do": wish}, headers=HTMX)
        assert answer.status_code == 200
        assert "Not saved yet." in answer.text
        assert 'value="odd"' in answer.text
        return re.findall(r'name="reason_\d+"[^>]*value="(\w+)"', answer.text)

    assert order("up:2") == ["B", "A", "C"]
    assert order("down:2") == ["A", "C", "B"]
    assert order("remove:1") == ["B", "C"]
    assert order("up:1") == order("down:3") == order("up:99") == order("add") == ["A", "B", "C"]
    assert of(database, site).version == 1


def test_a_form_keeps_at_most_twelve_reasons() -> None:
    form = PolicyForm.typed({f"reason_{n}": f"R{n}" for n in range(1, 40)})
    assert [row.reason for row in form.rows] == [f"R{n}" for n in range(1, 13)]
    assert PolicyForm.typed({"reason_1": "", "offer_1": "", "text_1": ""}).rows == ()
    assert PolicyForm.typed({"reason_1": "A", "offer_1": "plan:B: C"}).rows == (Row("A", "plan", "B: C"),)


def test_the_later_of_two_is_told_who_was_first_and_both_values(
    client: Desk, database: Database, site: models.Portal, other: Callable[..., Desk]
) -> None:
    sign_in(client, database, site, "editor")
    ana = make_person(database, site.merchant_id, "owner", "ana@merchant.example")
    first = sign_in_as(other(), database, ana, site.merchant_id)
    assert (
        first.post(address(site, "/policy"), data={**POLICY, "version": "1", "reason_1": "Hers"}).status_code
        == 303
    )
    mine = {**POLICY, "version": "1", "reason_1": "Mine", "request_days": "9"}
    answer = client.post(address(site, "/policy"), data=mine, headers=HTMX)
    assert answer.status_code == 422
    text = words(answer.text)
    assert "ana@merchant.example has saved meanwhile, at" in text
    assert "Saved meanwhile: “Hers”" in text
    assert "Saved meanwhile: “5”" in text
    assert 'value="Mine"' in answer.text
    assert 'name="version" value="2"' in answer.text
    assert client.post(address(site, "/policy"), data={**mine, "version": "2"}).status_code == 303
    assert of(database, site).cancel_reasons == ["Mine"]


def test_a_viewer_looks_and_changes_nothing(client: Desk, database: Database, site: models.Portal) -> None:
    account = make_account(database, site, plans=[SMALL])
    sign_in(client, database, site, "viewer")
    pages = ("/policy", "/plans", f"/plans/{id_text(account.id)}", "/privacy")
    for path in pages:
        page = client.get(address(site, path))
        assert page.status_code == 200
        ids = re.findall(r' id="([^"]+)"', page.text)
        assert len(ids) == len(set(ids))
        assert "btn primary" not in page.text
        assert "Remove" not in page.text
    for path in (*pages[:1], pages[2], f"{pages[2]}/move", pages[3]):
        assert client.post(address(site, path), data={"version": "1"}).status_code == 403
    assert of(database, site).version == 1


def test_a_stranger_finds_nothing(
    client: Desk, database: Database, site: models.Portal, stranger: models.Portal
) -> None:
    theirs = make_account(database, stranger, plans=[SMALL])
    sign_in(client, database, site)
    for path in ("/policy", "/plans", "/privacy", f"/plans/{id_text(theirs.id)}"):
        assert client.get(address(stranger, path)).status_code == 404
        assert client.post(address(stranger, path), data={"version": "1"}).status_code in (404, 405)
    # Their account under our portal is as unknown.
    assert client.get(address(site, f"/plans/{id_text(theirs.id)}")).status_code == 404
    assert client.post(address(site, f"/plans/{id_text(theirs.id)}"), data=TYPED).status_code == 404
    assert (
        client.post(address(site, f"/plans/{id_text(theirs.id)}/move"), data={"do": "remove:1"}).status_code
        == 404
    )


def test_the_page_says_what_the_policy_comes_to_at_each_account(
    client: Desk, database: Database, site: models.Portal
) -> None:
    def bind(db: Any) -> None:
        db.get_one(models.Portal, site.id).cancel_policy = {"when": "period_end", "notice_days": 0}

    database.write_now(bind)
    make_account(database, site, "stripe", label="Cards")
    make_account(database, site, "adyen", label="Terminal")
    make_account(database, site, "payfast", label="Off", switched_off=["cancel_at_period_end"])
    make_account(database, site, "stripe", label="Old", disconnected_at=clock.now())
    sign_in(client, database, site)
    html = client.get(address(site, "/policy")).text
    text = words(html[html.index('data-testid="effects"') :])
    assert "Stripe Cards At the end of what is paid: done here At once: not offered" in text
    assert "Adyen Terminal At the end of what is paid: customers ask you At once: not offered" in text
    assert "PayFast Off At the end of what is paid: switched off under Processors At once: done here" in text
    assert "Old" not in text.split("As saved")[0]


def test_a_plan_that_is_off_the_list_is_said_to_be(
    client: Desk, database: Database, site: models.Portal
) -> None:
    def bind(db: Any) -> None:
        row = db.get_one(models.Portal, site.id)
        row.cancel_reasons, row.save_offers = ["A"], {"A": {"kind": "plan", "plan": "Old box", "text": None}}

    database.write_now(bind)
    sign_in(client, database, site)
    assert "Old box (no longer listed)" in words(client.get(address(site, "/policy")).text)


def test_the_merchant_reads_on_a_request_what_the_customer_was_told_of_the_notice(
    client: Desk, database: Database, site: models.Portal
) -> None:
    account = make_account(database, site)
    row = make_subscription(database, account, make_customer(database, site))
    told = {"days": 14, "ends_on": "2027-01-12", "charges": ["2026-12-12"], "minor": 2400, "currency": "USD"}
    asked = make_request(database, row, kind="cancel_at_period_end", params={"notice": told})
    unknown = {**told, "ends_on": None, "charges": []}
    other = make_subscription(database, account, make_customer(database, site, "ben@example.com"))
    vague = make_request(database, other, kind="cancel_at_period_end", params={"notice": unknown})
    sign_in(client, database, site)
    text = words(client.get(address(site, f"/requests/{id_text(asked.id)}")).text)
    assert "14 days of notice The customer was told that it ends on 12 Jan 2027" in text
    assert "Until then one more payment of $24.00 is taken, on 12 Dec 2026" in text
    assert "for you to say" in words(client.get(address(site, f"/requests/{id_text(vague.id)}")).text)


# Plans


def of_account(database: Database, account: models.Account) -> models.Account:
    return database.read_now(lambda db: db.get_one(models.Account, account.id))


def test_plans_are_added_changed_put_in_order_and_taken_off(
    client: Desk, database: Database, site: models.Portal
) -> None:
    sign_in(client, database, site, "editor")
    account = make_account(database, site)
    here = address(site, f"/plans/{id_text(account.id)}")
    assert client.post(here, data={**TYPED, "version": "1"}).headers["location"] == f"{here}?done=added"
    yen = {
        **TYPED,
        "title": "Yen box",
        "plan": "price_yen",
        "amount": "2,400",
        "currency": "JPY",
        "quantity": "2",
    }
    client.post(here, data={**yen, "version": "2"})
    assert of_account(database, account).plans == [
        SMALL,
        {**SMALL, "title": "Yen box", "plan": "price_yen", "minor": 2400, "currency": "JPY", "quantity": 2},
    ]
    form = client.get(f"{here}?edit=2").text
    assert 'name="amount"' in form
    assert 'value="2400"' in form
    assert 'name="at" value="2"' in form
    changed = {**yen, "at": "2", "version": "3", "amount": "2400", "title": "Big box", "count": "3"}
    assert client.post(here, data=changed).headers["location"] == f"{here}?done=saved"
    client.post(f"{here}/move", data={"do": "up:2", "version": "4"})
    assert [one["title"] for one in of_account(database, account).plans or ()] == ["Big box", "Small box"]
    client.post(f"{here}/move", data={"do": "remove:1", "version": "5"})
    assert of_account(database, account).plans == [SMALL]
    client.post(f"{here}/move", data={"do": "remove:1", "version": "6"})
    assert of_account(database, account).plans is None
    assert {one.what for one in audits(database)} == {"account.plans"}
    assert len(audits(database)) == 6
    assert "price_small" not in client.get(here).text


@pytest.mark.parametrize(
    ("changed", "field", "sentence"),
    [
        ({"title": ""}, "title", "Enter a name"),
        ({"title": "SMALL BOX"}, "title", "has this name"),
        ({"plan": ""}, "plan", "plans of its own only"),
        ({"plan": "price small"}, "plan", "no spaces"),
        ({"amount": ""}, "amount", "such as 24.00"),
        ({"amount": "24,00"}, "amount", "such as 24.00"),
        ({"amount": "1,20"}, "amount", "such as 24.00"),
        ({"amount": "$24"}, "amount", "such as 24.00"),
        ({"amount": "-24"}, "amount", "such as 24.00"),
        ({"amount": "1e3"}, "amount", "such as 24.00"),
        ({"amount": "24.001"}, "amount", "USD has 2 decimals"),
        ({"amount": "0"}, "amount", "above zero"),
        ({"amount": "24.50", "currency": "JPY"}, "amount", "JPY has no decimals"),
        ({"amount": "12,500", "currency": "KWD"}, "amount", "such as 24.000"),
        ({"currency": "XXQ"}, "currency", "three letters"),
        ({"count": "0"}, "count", "from 1 to 60"),
        ({"unit": "fortnight"}, "unit", "Choose days"),
        ({"quantity": "0"}, "quantity", "from 1 to 9999"),
    ],
)
def test_a_plan_that_can_not_be_is_refused_beside_its_field(
    client: Desk, database: Database, site: models.Portal, changed: dict[str, str], field: str, sentence: str
) -> None:
    sign_in(client, database, site, "editor")
    account = make_account(database, site, plans=[SMALL])
    data = {**TYPED, "title": "Other <box>", "version": "1", **changed}
    answer = client.post(address(site, f"/plans/{id_text(account.id)}"), data=data, headers=HTMX)
    assert answer.status_code == 422
    assert f'id="{field}-error"' in answer.text
    assert sentence in words(answer.text)
    if "title" not in changed:
        assert 'value="Other &lt;box&gt;"' in answer.text
    assert of_account(database, account).plans == [SMALL]


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        ("24.00", "USD", 2400),
        ("24", "USD", 2400),
        ("24.5", "EUR", 2450),
        ("1,200.50", "USD", 120050),
        ("2400", "JPY", 2400),
        ("2,400", "JPY", 2400),
        ("12.500", "KWD", 12500),
        ("0.01", "USD", 1),
    ],
)
def test_an_amount_is_read_by_its_currency(text: str, currency: str, minor: int) -> None:
    assert plans.minor_of(text, currency) == minor
    kept = {**SMALL, "minor": minor, "currency": currency}
    again = plans.PlanForm.of(kept)
    assert plans.minor_of(again.amount, currency) == minor
    assert again.kept() == kept


@pytest.mark.parametrize("processor", processors())
def test_the_list_follows_what_the_processor_can_change(
    client: Desk, database: Database, site: models.Portal, processor: str
) -> None:
    there = plans.reach(processor)
    account = make_account(database, site, processor)
    sign_in(client, database, site)
    page = client.get(address(site, "/plans")).text
    assert facts(processor).label in page
    assert there.by_itself == (f"/plans/{id_text(account.id)}" in page)


def test_the_later_of_two_plans_is_told(client: Desk, database: Database, site: models.Portal) -> None:
    sign_in(client, database, site, "editor")
    account = make_account(database, site)
    here = address(site, f"/plans/{id_text(account.id)}")
    assert client.post(here, data={**TYPED, "version": "1"}).status_code == 303
    answer = client.post(here, data={**TYPED, "title": "Mine", "version": "1"}, headers=HTMX)
    assert answer.status_code == 422
    assert "has saved meanwhile" in words(answer.text)
    assert 'value="Mine"' in answer.text
    assert "Small box" in answer.text  # the list as it stands now
    assert 'name="version" value="2"' in answer.text
    assert len(of_account(database, account).plans or ()) == 1


# Privacy


def test_privacy_is_saved_refused_and_told_when_late(
    client: Desk, database: Database, site: models.Portal
) -> None:
    sign_in(client, database, site, "editor")
    here = address(site, "/privacy")
    page = client.get(here).text
    assert 'value="30"' in page
    assert "What is not deleted here" in page
    wrong = client.post(
        here, data={"version": "1", "bodies_days": "99", "browsers_months": "7"}, headers=HTMX
    )
    assert wrong.status_code == 422
    assert 'value="99"' in wrong.text
    assert 'value="7"' in wrong.text
    typed = {"bodies_days": "7", "browsers_months": "", "customers_months": "24"}
    assert client.post(here, data={**typed, "version": "1"}).headers["location"] == f"{here}?done=saved"
    assert of(database, site).privacy == {"bodies_days": 7, "browsers_months": None, "customers_months": 24}
    (written,) = audits(database)
    assert written.what == "privacy.changed"
    late = client.post(here, data={**typed, "bodies_days": "9", "version": "1"}, headers=HTMX)
    assert late.status_code == 422
    assert "Saved meanwhile: “7”" in words(late.text)
    assert 'value="9"' in late.text
