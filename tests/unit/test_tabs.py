"""The four tabs and the order page as a browser gets them: whole, as a piece, older, empty, and never a stranger's."""

import re
from datetime import UTC, date, datetime, timedelta
from html import unescape
from typing import Any

import brotli
import pytest
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from portal import clock, login, models
from portal.app import create_app
from portal.db import Database
from portal.ids import id_text, new_id
from portal.settings import Settings
from tests.unit.builders import (
    MASTER_KEY,
    NOW,
    make_account,
    make_customer,
    make_order,
    make_payment,
    make_portal,
    make_refund,
    make_subscription,
    save,
)

TABS = {
    "orders": "Orders",
    "subscriptions": "Subscriptions",
    "upcoming": "Upcoming payments",
    "payments": "Payment history",
}
PARTIAL = {"HX-Request": "true", "HX-Request-Type": "partial"}
KB = 1024


class Visit:
    """Somebody signed in at a portal, with the rows that a test makes for them."""

    def __init__(self, database: Database, slug: str = "acme", **fields: Any) -> None:
        self.database = database
        self.portal = make_portal(database, slug, **{"name": "Acme Coffee", **fields})
        self.account = make_account(database, self.portal, label="Shop account")
        self.customer = make_customer(database, self.portal)
        settings = Settings(scheme="http", base_domain="localhost", master_keys=MASTER_KEY)
        self.client = TestClient(create_app(settings, database), base_url=f"http://{slug}.localhost")
        self.client.cookies.set("portal", sign_in(database, self.customer))

    def get(
        self, path: str, partial: bool = False, status: int = 200, headers: dict[str, str] | None = None
    ) -> str:
        answer = self.client.get(
            f"/customers/{path}",
            headers={**(PARTIAL if partial else {}), **(headers or {})},
            follow_redirects=False,
        )
        assert answer.status_code == status, answer.text
        return answer.text

    def card(self, **fields: Any) -> str:
        """The card of a subscription with these fields, as text."""
        row = make_subscription(self.database, self.account, self.customer, **fields)
        html = self.get("subscriptions")
        found = re.search(rf'<section class="card stack" id="sub-{id_text(row.id)}".*?</section>', html, re.S)
        assert found
        return found[0]


def sign_in(database: Database, customer: models.Customer) -> str:
    now = clock.now()
    token = f"session-{customer.id}"
    save(
        database,
        models.SignIn(
            token_hash=login.digest(token),
            portal_id=customer.portal_id,
            customer_id=customer.id,
            user_agent="",
            created_at=now,
            last_seen_at=now,
            expires_at=now + timedelta(hours=24),
        ),
    )
    return token


@pytest.fixture
def visit(database: Database) -> Visit:
    clock.set_offset(NOW - datetime.now(UTC))
    return Visit(database)


def words(html: str) -> str:
    """What a reader reads."""
    running = re.sub(r"</?(?:time|bdi|b|a|span)\b[^>]*>", "", html)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", running)).replace("\u00a0", " ").split())


def facts_of(card: str) -> dict[str, str]:
    """The terms of a card and what stands beside them."""
    return {
        words(term): words(value)
        for term, value in re.findall(r"<dt>(.*?)</dt>\s*<dd[^>]*>(.*?)</dd>", card, re.S)
    }


def fill(visit: Visit, count: int = 30) -> None:
    """A month of life in every tab."""
    for number in range(count):
        placed = NOW - timedelta(days=number)
        order = make_order(
            visit.database, visit.account, visit.customer, number=str(2000 - number), placed_at=placed
        )
        paid = make_payment(
            visit.database, visit.account, visit.customer, order_remote=order.remote_id, placed_at=placed
        )
        if number % 3 == 0:
            make_refund(visit.database, visit.account, paid, amount_minor=500, placed_at=placed)
    for title in ("Monthly coffee box", "Filter papers", "Tea", "Decaf"):
        make_subscription(visit.database, visit.account, visit.customer, title=title)


# A tab and its piece


@pytest.mark.parametrize("tab", TABS)
def test_a_tab_is_a_whole_page_and_its_piece_is_the_very_same_body(visit: Visit, tab: str) -> None:
    fill(visit, 3)
    whole, piece = visit.get(tab), visit.get(tab, partial=True)
    assert whole.startswith("<!doctype html>")
    assert "<html" not in piece
    assert main_of(whole) == main_of(piece)
    assert f"<title>{TABS[tab]} – Acme Coffee</title>" in whole
    assert f"<title>{TABS[tab]} – Acme Coffee</title>" in piece
    assert whole.count("<h1") == 1
    assert words(re.findall(r"<h1.*?</h1>", whole)[0]) == TABS[tab]


def main_of(html: str) -> str:
    found = re.search(r"<main.*</main>", html, re.S)
    assert found
    return found[0]


@pytest.mark.parametrize("tab", TABS)
def test_the_tabs_are_links_and_the_current_one_is_marked(visit: Visit, tab: str) -> None:
    html = visit.get(tab)
    links = re.findall(r'<a href="(/customers/\w+)" hx-get="(/customers/\w+)"[^>]*>([^<]+)</a></li>', html)
    assert [link[2] for link in links] == list(TABS.values())
    assert all(href == fetched for href, fetched, _ in links)
    assert re.findall(r'aria-current="page">([^<]+)<', html) == [TABS[tab]]


@pytest.mark.parametrize("tab", TABS)
def test_answers_are_kept_by_nobody_and_set_no_cookie(visit: Visit, tab: str) -> None:
    answer = visit.client.get(f"/customers/{tab}")
    assert answer.headers["Cache-Control"] == "private, no-store"
    assert "HX-Request-Type" in answer.headers["Vary"]
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("tab", [*TABS, "upcoming.ics"])
def test_who_is_not_signed_in_is_asked_to(visit: Visit, tab: str) -> None:
    visit.client.cookies.clear()
    answer = visit.client.get(f"/customers/{tab}", follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("/customers?next=")
    answer = visit.client.get(f"/customers/{tab}", headers=PARTIAL, follow_redirects=False)
    assert answer.headers["HX-Redirect"].startswith("/customers?next=")


@pytest.mark.parametrize("tab", TABS)
def test_a_tab_weighs_little(visit: Visit, tab: str) -> None:
    fill(visit)
    whole, piece = visit.get(tab), visit.get(tab, partial=True)
    assert len(brotli.compress(whole.encode(), quality=4)) <= 6 * KB
    assert len(brotli.compress(piece.encode(), quality=4)) <= 3 * KB


def test_every_row_can_be_found_by_a_stable_id(visit: Visit) -> None:
    fill(visit, 3)
    for tab, rows in {"orders": 3, "payments": 4, "subscriptions": 4}.items():
        html = visit.get(tab)
        refs = re.findall(r'id="([\w-]+)"[^>]* data-testid="\w+" data-ref="([\w-]+)"', html)
        assert len(refs) == rows
        assert all(ref in name for name, ref in refs)
        ids = re.findall(r'\sid="([^"]+)"', html)
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("tab", "sentence"),
    [
        ("orders", "No orders yet"),
        ("subscriptions", "No subscriptions yet"),
        ("upcoming", "No upcoming payments"),
        ("payments", "No payments yet"),
    ],
)
def test_an_empty_tab_says_who_is_signed_in_and_what_to_do(visit: Visit, tab: str, sentence: str) -> None:
    text = words(main_of(visit.get(tab)))
    assert sentence in text
    assert "signed in as ana@example.com" in text
    assert 'id="empty"' in visit.get(tab)
    assert main_of(visit.get(tab)).count("<a ") >= 1


def test_the_footer_says_whom_to_ask(database: Database) -> None:
    visit = Visit(
        database, terms_url="https://acme.example/terms", privacy_url="https://acme.example/privacy"
    )
    footer = visit.get("orders").partition("<footer>")[2]
    assert 'href="mailto:help@acme.example"' in footer
    assert "Signed in as ana@example.com" in words(footer)
    assert 'href="/customers/sessions"' in footer
    assert 'href="https://acme.example/terms"' in footer
    assert 'href="https://acme.example/privacy"' in footer


# Orders


def test_older_orders_are_a_link_that_works_alone(visit: Visit) -> None:
    fill(visit, 60)
    html = visit.get("orders")
    seen = re.findall(r'data-testid="order" data-ref="(\w+)"', html)
    for size in (25, 10):
        link = re.search(r'href="/customers/(orders\?after=[\w-]+)" rel="next"[^>]*>Show older orders<', html)
        assert link
        html = visit.get(link[1])
        rows = re.findall(r'data-testid="order" data-ref="(\w+)"', html)
        assert len(rows) == size
        seen += rows
    assert "Show older orders" not in html
    assert len(set(seen)) == 60


def test_more_rows_come_alone_and_say_how_many(visit: Visit) -> None:
    fill(visit, 60)
    for tab, noun in (("orders", "orders"), ("payments", "payments")):
        link = re.search(rf'href="/customers/({tab}\?after=[\w-]+)"', visit.get(tab))
        assert link
        more = visit.get(link[1], partial=True, headers={"HX-Target": "p#more"})
        assert "<nav" not in more
        assert more.count("<hx-partial") == 3
        assert f"25 more {noun}" in words(more)
        assert more.count("data-focus") == 1


@pytest.mark.parametrize("cursor", ["", "x", "A" * 22, "%00", "🦆", "a" * 3000, "../..", "' OR 1=1"])
@pytest.mark.parametrize(
    "path", ["orders?after=", "payments?after=", "subscriptions?after=", "subscriptions?ended="]
)
def test_a_damaged_link_leads_to_the_newest_and_says_so(visit: Visit, path: str, cursor: str) -> None:
    fill(visit, 1)
    html = visit.get(path + cursor)
    assert 'id="lost"' in html or "Back to your newest" in html


@pytest.mark.parametrize("month", ["", "x", "2026-13", "1999-01", "🦆"])
def test_a_damaged_month_leads_to_all_payments_and_says_so(visit: Visit, month: str) -> None:
    fill(visit, 1)
    assert 'id="lost"' in visit.get(f"upcoming?from={month}")


def test_the_code_follows_amounts_as_soon_as_there_are_two_currencies(visit: Visit) -> None:
    make_order(visit.database, visit.account, visit.customer)
    assert "$24.00 USD" not in words(visit.get("orders"))
    make_order(visit.database, visit.account, visit.customer, currency="KWD", amount_minor=12_500)
    assert "$24.00 USD" in words(visit.get("orders"))
    assert "KWD 12.500" in words(visit.get("orders"))


def test_an_order_without_number_title_or_amount_still_has_a_name(visit: Visit) -> None:
    row = make_order(
        visit.database, visit.account, visit.customer, number=None, title=None, amount_minor=None, lines=[]
    )
    assert "Order" in words(visit.get("orders").partition(f'id="order-{id_text(row.id)}"')[2][:400])
    assert "<h1" in visit.get(f"orders/{id_text(row.id)}")


def test_names_from_a_processor_are_escaped(visit: Visit) -> None:
    evil = '<img src=x onerror=alert(1)>"'
    order = make_order(
        visit.database,
        visit.account,
        visit.customer,
        number=evil,
        title=evil,
        lines=[{"name": evil, "quantity": 1, "minor": 1, "currency": "USD"}],
    )
    make_payment(
        visit.database,
        visit.account,
        visit.customer,
        order_remote=order.remote_id,
        title=evil,
        status="failed",
        failure_reason=evil,
        method={"kind": evil, "brand": evil, "last4": evil},
    )
    make_subscription(
        visit.database,
        visit.account,
        visit.customer,
        title=evil,
        method={"kind": "card", "brand": evil, "last4": evil, "expires": "2020-01"},
        pending_change={"on": "2027-01-01", "minor": 1, "currency": "USD", "title": evil, "quantity": 2},
    )
    for path in (*TABS, f"orders/{id_text(order.id)}"):
        assert "<img src=x" not in visit.get(path)


def test_an_order_page(visit: Visit) -> None:
    order = make_order(visit.database, visit.account, visit.customer, number="2001", tax_minor=400)
    paid = make_payment(
        visit.database, visit.account, visit.customer, order_remote=order.remote_id, refunded_minor=500
    )
    make_refund(visit.database, visit.account, paid, amount_minor=500)
    html = visit.get(f"orders/{id_text(order.id)}")
    text = words(html)
    for sentence in (
        "Order 2001",
        "Ethiopia Guji",
        "Total $24.00",
        "Tax included $4.00",
        "Refunded −$5.00",
        "Visa ending 4242",
        "Refund sent",
        "What happened",
        "Order placed $24.00",
        "10:00 UTC",
    ):
        assert sentence in text
    assert f'href="/customers/invoices/{id_text(paid.id)}"' in html
    assert "<title>Order 2001 – Acme Coffee</title>" in html
    assert 'aria-current="true">Orders<' in html


@pytest.mark.parametrize(
    ("legal", "label"),
    [
        ({}, "Download receipt"),
        ({"legal_name": "Acme Ltd", "legal_address": "1 Road", "country": "GB"}, "Download invoice"),
    ],
)
def test_a_document_is_called_what_it_is(database: Database, legal: dict[str, str], label: str) -> None:
    visit = Visit(database, **legal)
    make_payment(database, visit.account, visit.customer)
    assert label in words(visit.get("payments"))


def test_strangers_and_other_customers_get_404(visit: Visit) -> None:
    order = make_order(visit.database, visit.account, visit.customer)
    row = make_subscription(visit.database, visit.account, visit.customer)
    make_payment(visit.database, visit.account, visit.customer)
    stranger = Visit(visit.database, "kora")
    ben = make_customer(visit.database, visit.portal, "ben@example.com")
    for client in (stranger, visit):
        if client is visit:
            visit.client.cookies.clear()
            visit.client.cookies.set("portal", sign_in(visit.database, ben))
        client.get(f"orders/{id_text(order.id)}", status=404)
        client.get(f"subscriptions/{id_text(row.id)}/card", status=404)
        for tab in TABS:
            assert 'id="empty"' in client.get(tab)
        assert "VEVENT" not in client.get("upcoming.ics")


@pytest.mark.parametrize("text", ["0", "zzzzzzzzzzzzz", "0" * 13, "7zzzzzzzzzzzz", "x" * 500, "%00", "-1"])
def test_what_is_no_order_is_404(visit: Visit, text: str) -> None:
    visit.get(f"orders/{text}", status=404)


# Payment history


def test_refunds_stand_under_their_payment_with_minus_and_word(visit: Visit) -> None:
    paid = make_payment(visit.database, visit.account, visit.customer)
    make_refund(visit.database, visit.account, paid, amount_minor=500, reason="Damaged")
    make_payment(visit.database, visit.account, visit.customer, status="failed", failure_reason="No funds.")
    html = visit.get("payments")
    group = html[html.index(f'id="payment-{id_text(paid.id)}"') :].partition("</tbody>")[0]
    assert "Refunded Damaged" in words(group)
    assert "−$5.00" in words(group)
    assert words(html).count("Download receipt") == 1
    assert "Payment failed" in words(html)
    assert "No funds." in words(html)


# Subscriptions


SOON = NOW + timedelta(days=20)
DAY = "12 Dec 2026"


@pytest.mark.parametrize(
    ("fields", "pill", "term", "value"),
    [
        ({}, "Active", "Renews", DAY),
        ({"status": "trialing", "trial_ends_at": SOON}, "Trial", "Trial ends", DAY),
        ({"status": "cancels_at_period_end", "cancels_at": SOON}, "Ending", "Ends", DAY),
        ({"cancel_scheduled_at": NOW, "access_until": SOON}, "Ending", "Ends", DAY),
        ({"cancels_at": SOON}, "Active", "Ends", DAY),
        ({"status": "paused", "resumes_at": SOON}, "Paused", "Resumes", DAY),
        ({"status": "past_due", "retries_on": SOON.date()}, "Payment failed", "Next try", DAY),
        ({"status": "cancelled", "access_until": SOON}, "Cancelled", "Access until", DAY),
        ({"status": "cancelled", "ended_at": NOW}, "Cancelled", "Ended", "22 Nov 2026"),
        ({"status": "paused"}, "Paused", None, None),
        ({"status": "incomplete"}, "Not started", None, None),
    ],
)
def test_a_card_has_exactly_the_one_date_of_its_state(
    visit: Visit, fields: dict[str, Any], pill: str, term: str | None, value: str | None
) -> None:
    card = visit.card(**fields)
    dates = {"Renews", "Trial ends", "Ends", "Ended", "Resumes", "Next try", "Access until"}
    found = {name: text for name, text in facts_of(card).items() if name in dates}
    assert found == ({term: value} if term else {})
    assert re.findall(r'<span class="pill \w+">([^<]+)<', card) == [pill]


def test_a_card_says_what_it_costs_and_what_will_pay_the_next_time(visit: Visit) -> None:
    card = visit.card(interval_count=3, quantity=2)
    assert facts_of(card)["Price"] == "$24.00 every 3 months, 2 pieces"
    assert facts_of(card)["Next payment"] == f"$24.00 on {DAY}, with Visa ending 4242, expires 09/2028"
    assert 'aria-labelledby="sub-' in card


def test_an_estimate_says_about_and_why(visit: Visit) -> None:
    assert "about $20.00" in facts_of(visit.card(next_minor=2000, next_certainty="estimated"))["Next payment"]
    assert "Planned by Acme Coffee" in words(visit.card(next_certainty="merchant"))


def test_a_pending_change_shows_old_and_new_and_from_when(visit: Visit) -> None:
    change = {"on": "2027-01-12", "minor": 3000, "currency": "USD", "title": "Large box", "quantity": None}
    text = words(visit.card(pending_change=change))
    assert "From 12 Jan 2027:" in text
    assert "Changes to Large box." in text
    assert "$24.00 becomes $30.00" in text


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"status": "cancelled", "access_until": SOON}, f"Cancelled. You keep access until {DAY}."),
        ({"method_visited_at": NOW}, "page at 10:00 UTC; the next charge shows the new card."),
        ({"method_visited_at": NOW - timedelta(days=2)}, "page on 20 Nov 2026 at 10:00 UTC;"),
        ({"status": "past_due", "stopped": True}, "does not try again by itself."),
        ({"status": "past_due", "retries_on": SOON.date()}, f"tries again on {DAY}."),
        ({"due_minor": 1200}, "Open now $12.00"),
        ({"status": "paused"}, "Paused. No payments are taken until you resume it."),
    ],
)
def test_what_a_card_says_besides(visit: Visit, fields: dict[str, Any], sentence: str) -> None:
    assert sentence in words(visit.card(**fields))


def test_buttons_are_links_named_with_the_object(visit: Visit) -> None:
    card = visit.card(title="Coffee box")
    buttons = re.findall(
        r'<a class="btn[^"]*" id="(\w+)-\w+" href="([^"]+)" hx-get="([^"]+)".*?>(.*?)</a>', card
    )
    assert {"cancel", "update_payment_method"} <= {name for name, *_ in buttons}
    for name, href, fetched, label in buttons:
        assert href == fetched
        assert href.endswith(f"/{name}")
        assert words(label).endswith("Coffee box")
    assert "Cancel subscription…" in words(card)
    assert "Update payment method" in words(card)


def test_where_the_merchant_switched_it_off_the_sentence_stands_in_place_of_the_button(
    database: Database,
) -> None:
    visit = Visit(database)
    off = ["cancel_now", "cancel_at_period_end"]
    visit.account = make_account(database, visit.portal, switched_off=off)
    card = visit.card()
    assert "Acme Coffee has switched this off. Write to help@acme.example." in words(card)
    assert "/cancel" not in card


@pytest.mark.parametrize(
    ("fields", "title"),
    [
        ({"status": "past_due"}, "The last payment for Coffee box failed"),
        (
            {"method": {"kind": "card", "brand": "Visa", "last4": "1", "expires": "2026-11"}},
            "The card for Coffee box expires before the next payment",
        ),
    ],
)
def test_what_needs_the_customer_stands_first(visit: Visit, fields: dict[str, Any], title: str) -> None:
    visit.card(title="Fine")
    visit.card(title="Coffee box", **fields)
    html = visit.get("subscriptions")
    assert title in words(html)
    assert html.index('id="urgent"') < html.index('data-testid="subscription"')
    assert html.count('id="urgent"') == 1


@pytest.mark.parametrize("fields", [{}, {"method": {"kind": "card", "last4": "1", "expires": "2026-12"}}])
def test_otherwise_nothing_stands_first(visit: Visit, fields: dict[str, Any]) -> None:
    visit.card(**fields)
    assert 'id="urgent"' not in visit.get("subscriptions")


def with_action(visit: Visit, phase: str, capability: str = "cancel_now", **fields: Any) -> str:
    row = make_subscription(visit.database, visit.account, visit.customer, **fields.pop("row", {}))
    values = {
        "portal_id": visit.portal.id,
        "account_id": visit.account.id,
        "customer_id": visit.customer.id,
        "subscription_id": row.id,
        "capability": capability,
        "reference": "K7M-2QX",
        "params": {},
        "phase": phase,
        "created_at": NOW,
        **fields,
    }
    save(visit.database, models.Action(**values))
    return visit.get(f"subscriptions/{id_text(row.id)}/card", partial=True)


@pytest.mark.parametrize("phase", ["claimed", "sent", "checking"])
def test_an_action_under_way_is_being_checked_and_looks_again_by_itself(visit: Visit, phase: str) -> None:
    card = with_action(visit, phase)
    assert 'data-proof="pending"' in card
    assert 'aria-busy="true"' in card
    assert 'hx-trigger="every 3s"' in card
    assert "Checking with Stripe …" in words(card)
    assert "Reference K7M-2QX" in words(card)
    assert 'class="btn' not in card  # nothing else can be done meanwhile


def test_an_action_that_takes_long_says_so_and_looks_seldom(visit: Visit) -> None:
    told: dict[str, Any] = {
        "told_late_at": NOW,
        "created_at": NOW - timedelta(minutes=16),
        "error": "It was slow.",
    }
    card = with_action(visit, "checking", **told)
    assert "takes longer than usual" in words(card)
    assert "It was slow." in words(card)
    assert 'hx-trigger="every 20s"' in card
    assert "hx-trigger" not in with_action(visit, "checking", created_at=NOW - timedelta(hours=1))


def test_what_is_proven_names_who_confirmed_it_and_when(visit: Visit) -> None:
    done: dict[str, Any] = {"confirmed_at": NOW, "closed_at": NOW, "row": {"status": "cancelled"}}
    card = with_action(visit, "confirmed", **done)
    assert 'data-proof="confirmed"' in card
    assert "Cancelled. Stripe confirmed at 10:00 UTC. Reference K7M-2QX." in words(card)
    assert "hx-trigger" not in card
    yesterday = NOW - timedelta(hours=20)
    card = with_action(visit, "confirmed", confirmed_at=yesterday, closed_at=yesterday)
    assert "confirmed on 21 Nov 2026 at 14:00 UTC" in words(card)


@pytest.mark.parametrize(
    ("capability", "sentence"),
    [
        ("cancel_at_period_end", "Not cancelled; the subscription goes on."),
        ("update_payment_method", "The payment method was not changed."),
        ("pay_now", "Nothing was paid."),
        ("pause", "Not paused; payments go on."),
        ("resume", "Not resumed; the subscription is still paused."),
        ("undo_cancel", "Not kept; the subscription still ends."),
        ("change_plan", "The plan was not changed."),
        ("skip_next_payment", "The next payment was not skipped."),
    ],
)
def test_what_failed_says_what_was_not_done(visit: Visit, capability: str, sentence: str) -> None:
    card = with_action(visit, "failed", capability, closed_at=NOW, error="The bank said no.")
    assert f"{sentence} The bank said no." in words(card)
    assert 'data-proof="failed"' in card


def test_a_booked_cancellation_says_when_it_ends(visit: Visit) -> None:
    row = {"cancel_scheduled_at": NOW, "access_until": SOON}
    card = with_action(visit, "scheduled", "cancel_at_period_end", closed_at=NOW, confirmed_at=NOW, row=row)
    assert f"Cancelled. It ends on {DAY}, and no more payments are taken. Reference K7M-2QX." in words(card)


def test_who_went_to_the_processors_page_is_told_that_nothing_has_changed(visit: Visit) -> None:
    text = words(with_action(visit, "away", "update_payment_method"))
    assert "You went to Stripe's page at 10:00 UTC. Nothing has changed yet." in text
    assert "Cancel subscription" in text


def test_ended_ones_come_last_under_their_heading(visit: Visit) -> None:
    visit.card(title="Gone", status="cancelled", placed_at=NOW)
    visit.card(title="Live", placed_at=NOW - timedelta(days=300))
    text = words(visit.get("subscriptions"))
    assert text.index("Live") < text.index("Ended subscriptions") < text.index("Gone")


# Upcoming payments


def test_coming_charges_by_month_with_sums_by_currency(visit: Visit) -> None:
    make_subscription(visit.database, visit.account, visit.customer, title="Box")
    make_subscription(
        visit.database,
        visit.account,
        visit.customer,
        title="Tea",
        currency="JPY",
        amount_minor=1200,
        next_minor=1200,
        interval_unit="year",
        next_certainty="estimated",
    )
    text = words(visit.get("upcoming"))
    assert "December 2026 Total about ¥1,200 JPY · $24.00 USD" in text
    assert "Box Visa ending 4242 12 Dec 2026 Fixed $24.00 USD" in text
    assert "Tea Visa ending 4242 12 Dec 2026 Estimated about ¥1,200 JPY" in text
    assert "USD $288.00 USD" in text


def test_many_charges_are_paged_by_whole_months(visit: Visit) -> None:
    make_subscription(
        visit.database, visit.account, visit.customer, interval_unit="day", next_on=date(2026, 11, 23)
    )
    html = visit.get("upcoming")
    seen = re.findall(r'data-testid="charge" data-ref="([\w-]+)"', html)
    pages = 1
    while link := re.search(r'href="/customers/(upcoming\?from=[\d-]+)" rel="next"', html):
        html = visit.get(link[1])
        seen += re.findall(r'data-testid="charge" data-ref="([\w-]+)"', html)
        pages += 1
    assert len(seen) == len(set(seen)) == 365
    assert pages == 12


def test_the_calendar_file(visit: Visit) -> None:
    row = make_subscription(visit.database, visit.account, visit.customer, title="Box, large")
    answer = visit.client.get("/customers/upcoming.ics")
    assert answer.headers["Content-Type"].startswith("text/calendar")
    text = answer.text.replace("\r\n ", "")
    assert text.count("BEGIN:VEVENT") == 12
    assert f"UID:{id_text(row.id)}-20261212@acme.localhost" in text
    assert "SUMMARY:Box\\, large: $24.00" in text
    assert f"URL:http://acme.localhost/customers/subscriptions#sub-{id_text(row.id)}" in text
    again = visit.client.get("/customers/upcoming.ics").text
    assert re.findall("UID:.*", again) == re.findall("UID:.*", answer.text)


# Static files and the logo


def test_static_files_are_compressed_named_by_content_and_kept_for_ever(visit: Visit) -> None:
    html = visit.get("orders")
    for path in re.findall(r'/customers/(static/portal\.\w+\.\w+)"', html):
        for accepted, encoding in (
            ("br, gzip", "br"),
            ("gzip", "gzip"),
            ("identity", None),
            ("br;q=0", None),
        ):
            answer = visit.client.get(f"/customers/{path}", headers={"Accept-Encoding": accepted})
            assert answer.headers.get("Content-Encoding") == encoding
            assert "immutable" in answer.headers["Cache-Control"]
            assert answer.headers["Vary"] == "Accept-Encoding"
            assert "set-cookie" not in answer.headers
    assert (
        "no-store" in visit.client.get("/customers/static/portal.0123456789ab.css").headers["Cache-Control"]
    )
    for name in ("portal.py", "../portal.css", "htmx.js", "x", "portal.css.map"):
        visit.get(f"static/{name}", status=404)


def test_a_logo_is_served_in_its_own_portal(visit: Visit) -> None:
    sha = "ab" * 32
    asset = save(
        visit.database,
        models.Asset(
            id=new_id(),
            portal_id=visit.portal.id,
            sha256=sha,
            content_type="image/png",
            width=160,
            height=32,
            content=b"\x89PNG",
        ),
    )

    def use(db: Session) -> None:
        db.get_one(models.Portal, visit.portal.id).logo_id = asset.id

    visit.database.write_now(use)
    assert f'src="/customers/logo/{sha}.png" width="160" height="32" alt="Acme Coffee"' in visit.get("orders")
    answer = visit.client.get(f"/customers/logo/{sha}.png")
    assert (answer.content, answer.headers["Content-Type"]) == (b"\x89PNG", "image/png")
    Visit(visit.database, "kora").get(f"logo/{sha}.png", status=404)
    visit.get("logo/nothing.png", status=404)
