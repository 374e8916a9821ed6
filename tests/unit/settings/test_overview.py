"""The overview as people of the merchant see it: numbers, charts, failed payments with their customers, the file."""

import csv
import io
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy.exc import OperationalError

from portal import clock, figures, models, tally
from portal.db import Database
from portal.ids import id_text
from tests.unit.builders import make_account, make_customer, make_payment, make_subscription
from tests.unit.settings.conftest import HTMX, Desk, address, sign_in
from tests.unit.test_figures import make_action

PATH = "/overview"


def fill(database: Database, site: models.Portal, **fields: Any) -> models.Subscription:
    """One box that goes on, one whose payment failed, one cancelled; mails and sign-ins of today."""
    now = clock.now()
    account = make_account(database, site)
    ana = make_customer(database, site)
    make_subscription(database, account, ana, next_on=now.date() + timedelta(days=3), **fields)
    owing = make_subscription(
        database,
        account,
        ana,
        status="past_due",
        title="Tea box",
        retries_on=now.date(),
        placed_at=now,
        next_on=None,
        current_period_end=None,
    )
    make_payment(
        database,
        account,
        ana,
        status="failed",
        subscription_remote=owing.remote_id,
        failure_reason="Insufficient funds",
        placed_at=now - timedelta(days=1),
    )
    over = make_subscription(database, account, ana, status="cancelled")
    make_action(database, over, created_at=now, params={"reason": "=Too expensive"})
    for name, count in ((tally.SIGN_IN, 41), (tally.MAIL_SENT, 52), (tally.MAIL_REFUSED, 3)):
        database.write_now(tally.count, site.id, name, now, count)
    return owing


def table(body: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(body.removeprefix("\ufeff"))))


def test_a_viewer_sees_the_numbers(client: Desk, database: Database, site: models.Portal) -> None:
    owing = fill(database, site)
    answer = sign_in(client, database, site, "viewer").get(address(site, PATH))
    assert answer.status_code == 200
    body = answer.text
    assert body.count("<h1") == 1
    for words in (
        "41",
        "52 taken by the mail server, 3 refused",
        "1 cancellation",
        "Insufficient funds",
        "Tea box",
    ):
        assert words in body
    ana = f"{address(site)}/customers/{id_text(owing.customer_id or 0)}"
    assert f'<a href="{ana}"><bdi>ana@example.com</bdi></a>' in body
    assert body.count('role="img"') == 5  # one currency, one reason, sign-ins, mails, refused mails


def test_what_took_long_to_add_up_is_shown_for_some_minutes_with_its_time(
    client: Desk, database: Database, site: models.Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(path: str) -> tuple[str | None, int]:
        body = desk.get(address(site, path)).text
        said = re.search(r'data-testid="kept">.*?(\d\d:\d\d).*?<a href="([^"]+)"', body)
        assert said is None or said[2] == "?range=30d&amp;anew"
        live = re.search(r"Going on: (\d+)", body)
        assert live
        return said and said[1], int(live[1])

    def in_minutes(number: int) -> None:
        monkeypatch.setattr(clock, "now", lambda: start + timedelta(minutes=number))

    start = clock.now().replace(hour=12, minute=30)
    in_minutes(0)
    monkeypatch.setattr(figures, "MANY", 2)
    fill(database, site)
    desk = sign_in(client, database, site, "viewer")
    assert shown(PATH) == (None, 2)
    account = make_account(database, site, label="Second")
    make_subscription(database, account, None)
    in_minutes(5)
    at = start.astimezone(ZoneInfo(site.time_zone)).strftime("%H:%M")
    assert shown(PATH) == (at, 2)
    assert (
        table(desk.get(address(site, "/overview.csv")).text)[0]["count"] == "2"
    )  # active ones: a file is exact
    assert shown(f"{PATH}?anew") == (None, 3)
    in_minutes(6)
    assert shown(PATH)[1] == 3


def test_totals_that_cannot_be_kept_are_shown_all_the_same(
    client: Desk, database: Database, site: models.Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OperationalError("INSERT", {}, Exception("database or disk is full"))

    monkeypatch.setattr(figures, "MANY", 2)
    fill(database, site)
    make_subscription(database, make_account(database, site, label="Second"), None)
    desk = sign_in(client, database, site)
    monkeypatch.setattr(figures, "keep", full)
    answer = desk.get(address(site, PATH))
    assert answer.status_code == 200
    assert "Going on: 3" in answer.text
    assert database.read_now(lambda db: db.get(models.Totals, site.id)) is None


def test_few_are_added_up_for_each_page(client: Desk, database: Database, site: models.Portal) -> None:
    fill(database, site)
    desk = sign_in(client, database, site)
    for _ in range(2):
        assert 'data-testid="kept"' not in desk.get(address(site, PATH)).text
    assert database.read_now(lambda db: db.get(models.Totals, site.id)) is None


def test_nobody_else_sees_them(
    client: Desk, database: Database, site: models.Portal, stranger: models.Portal, other: Callable[..., Desk]
) -> None:
    fill(database, site)
    kora = sign_in(other(), database, stranger)
    for path in ("/overview", "/overview.csv"):
        assert client.get(address(site, path)).status_code == 303
        assert kora.get(address(site, path)).status_code == 404
        assert other("acme.localhost").get(address(site, path)).status_code == 404


def test_an_empty_portal_says_what_comes_there(client: Desk, database: Database, site: models.Portal) -> None:
    body = sign_in(client, database, site).get(address(site, PATH)).text
    for sentence in (
        "No subscription is known yet.",
        "No payment is expected in the next 30 days.",
        "None: every subscription that goes on is paid.",
        "Nobody cancelled during this time.",
        "Nobody signed in during this time.",
        "No mail was sent during this time.",
    ):
        assert sentence in body
    assert "<svg" not in body


@pytest.mark.parametrize(
    ("asked", "bars", "chosen"),
    [("30d", 30, "30 days"), ("90d", 13, "13 weeks"), ("12m", 12, "12 months"), ("'; --", 30, "30 days")],
)
def test_the_time_is_chosen_by_a_link(
    client: Desk, database: Database, site: models.Portal, asked: str, bars: int, chosen: str
) -> None:
    fill(database, site)
    body = sign_in(client, database, site).get(address(site, PATH), params={"range": asked}).text
    mails = body[body.index('id="mails-heading"') :]
    assert mails.count('<tr><th scope="row">') == bars
    assert re.findall(r'<a href="\?range=\w+#over-time" aria-current="page">([^<]+)</a>', body) == [chosen]
    assert "41" in body


def test_currencies_stand_apart_and_an_estimate_says_so(
    client: Desk, database: Database, site: models.Portal
) -> None:
    account = make_account(database, site)
    soon = clock.now().date() + timedelta(days=3)
    make_subscription(database, account, None, next_on=soon)
    make_subscription(database, account, None, next_on=soon, currency="CAD", next_certainty="estimated")
    body = sign_in(client, database, site).get(address(site, PATH)).text
    cad, usd = re.findall(r'data-testid="outlook" data-ref="(\w+)">\s*<p class="total">(.*?)<small>', body)
    assert (cad[0], usd[0]) == ("CAD", "USD")
    assert cad[1].startswith("about <bdi>CA$24.00")
    assert usd[1].strip() == "<bdi>$24.00\u00a0USD</bdi>"


def test_failed_payments_go_on_behind_a_link(client: Desk, database: Database, site: models.Portal) -> None:
    account = make_account(database, site)
    for number in range(27):
        make_subscription(database, account, None, status="past_due", email=f"no{number}@example.com")
    desk = sign_in(client, database, site)
    first = desk.get(address(site, PATH)).text
    assert first.count('data-testid="failed"') == 25
    more = re.search(r'href="\?range=30d&amp;after=(\w+)#rescue"', first)
    assert more is not None
    second = desk.get(address(site, PATH), params={"after": more[1]}).text
    assert second.count('data-testid="failed"') == 2
    assert "no0@example.com" in second
    assert "Show more" not in second


def test_the_file_holds_everything(client: Desk, database: Database, site: models.Portal) -> None:
    owing = fill(database, site)
    answer = sign_in(client, database, site, "viewer").get(address(site, "/overview.csv?range=12m"))
    today = clock.now().date()
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == (
        f'attachment; filename="overview-acme-12m-{today.isoformat()}.csv"'
    )
    rows = table(answer.text)
    by_figure: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_figure.setdefault(row["figure"], []).append(row)
    assert {row["name"]: row["count"] for row in by_figure["subscriptions"]} == {
        "Active": "1",
        "Payment failed": "1",
        "Ended": "1",
    }
    (coming,) = by_figure["coming"]
    assert (coming["count"], coming["amount"], coming["currency"]) == ("1", "24.00", "USD") or coming["note"]
    (failed,) = by_figure["failed payment"]
    assert failed["name"] == "Tea box"
    assert failed["note"].startswith("ana@example.com; Stripe; Insufficient funds")
    assert id_text(owing.id) in failed["note"]
    assert sum(int(row["count"]) for row in by_figure["sign-ins"]) == 41
    assert len(by_figure["sign-ins"]) == 12
    assert sum(int(row["count"]) for row in by_figure["mails sent"]) == 52
    assert sum(int(row["count"]) for row in by_figure["mails refused"]) == 3
    assert {row["name"] for row in by_figure["cancellations"]} == {"'=Too expensive"}


def test_no_cell_of_the_file_is_a_formula(client: Desk, database: Database, site: models.Portal) -> None:
    account = make_account(database, site, label="@SUM(A1)")
    for title in ("=cmd|' /C calc'!A0", "+1", "-2", "\t=1", 'Fine, "quoted"'):
        make_subscription(database, account, None, status="past_due", title=title, email=None)
    for row in table(sign_in(client, database, site).get(address(site, "/overview.csv")).text):
        for value in row.values():
            assert not value.lstrip().startswith(("=", "+", "-", "@"))


def test_nothing_of_the_page_needs_inline_style_or_script(
    client: Desk, database: Database, site: models.Portal
) -> None:
    fill(database, site)
    body = sign_in(client, database, site).get(address(site, PATH)).text
    assert "style=" not in body
    assert not re.search(r"<script(?![^>]* src=)", body)
    assert not re.search(r"\son\w+=", body)


def test_what_people_typed_is_escaped(client: Desk, database: Database, site: models.Portal) -> None:
    evil = "<img src=x onerror=alert(1)>"
    account = make_account(database, site, label=evil)
    ana = make_customer(database, site)
    row = make_subscription(database, account, ana, status="past_due", title=evil)
    make_payment(
        database, account, ana, status="failed", failure_reason=evil, subscription_remote=row.remote_id
    )
    make_action(database, row, created_at=clock.now(), params={"reason": evil})
    assert evil not in sign_in(client, database, site).get(address(site, PATH)).text


def test_htmx_gets_the_body_alone(client: Desk, database: Database, site: models.Portal) -> None:
    answer = sign_in(client, database, site).get(address(site, PATH), headers=HTMX)
    assert answer.text.lstrip().startswith('<div id="body"')
