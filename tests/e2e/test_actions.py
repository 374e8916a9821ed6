"""Cancel, take back, pause, resume, new card, pay: through the pages, at processors that answer like the real ones."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.conftest import Demo
from tests.e2e.pages.portal import Portal
from tests.e2e.pages.signing_in import sign_in, walk_in


def at_subscriptions(
    page: Page, demo: Demo, email: str = "ana@example.com", origin: str | None = None
) -> Portal:
    sign_in(page, demo, email, origin)
    portal = Portal(page, origin or demo.acme)
    portal.go("Subscriptions")
    return portal


def confirm(page: Page, verb: str) -> None:
    page.get_by_role("main").get_by_role("button", name=re.compile(f"^{verb}")).first.click()


def proven(card: Locator) -> None:
    expect(card.locator("[data-proof=confirmed]")).to_be_visible(timeout=60_000)


def test_cancel_at_period_end_is_proven_mailed_and_taken_back(page: Page, demo: Demo) -> None:
    portal = at_subscriptions(page, demo)
    card = portal.card("Monthly coffee box")
    with portal.loads() as loads:
        portal.press(card, "Cancel subscription")
        step = page.get_by_role("region", name=re.compile("^Cancel Monthly coffee box"))
        expect(step).to_contain_text("What stays")
        expect(step.get_by_role("link", name="Keep subscription")).to_be_visible()
        confirm(page, "Cancel subscription")
        proven(card)
    assert loads.count == 0
    expect(card).to_contain_text(re.compile("Ends"))
    expect(card).to_contain_text(re.compile(r"Stripe confirmed (it )?at \d\d:\d\d"))
    mail = demo.mail("ana@example.com", "cancel")
    assert re.search(r"[0-9A-Z]{3}-[0-9A-Z]{3}", mail["text"])
    portal.press(card, "Keep subscription")
    confirm(page, "Keep subscription")
    expect(card).to_contain_text("Active", timeout=30_000)
    demo.mail("ana@example.com", count=1)


def test_keep_it_changes_nothing(page: Page, demo: Demo) -> None:
    portal = at_subscriptions(page, demo)
    card = portal.card("Monthly coffee box")
    portal.press(card, "Cancel subscription")
    page.get_by_role("link", name="Keep subscription").click()
    expect(card).to_contain_text("Active")


def test_cancel_today(page: Page, demo: Demo) -> None:
    portal = at_subscriptions(page, demo)
    portal.press(portal.card("Monthly coffee box"), "Cancel subscription")
    page.get_by_label(re.compile("Today")).check()
    confirm(page, "Cancel subscription")
    card = portal.card("Monthly coffee box")
    expect(card).to_contain_text("Cancelled", timeout=30_000)


def test_double_click_makes_one_call(page: Page, demo: Demo) -> None:
    portal = at_subscriptions(page, demo)
    portal.press(portal.card("Monthly coffee box"), "Cancel subscription")
    page.get_by_role("main").get_by_role("button", name=re.compile("^Cancel subscription")).first.dblclick()
    proven(portal.card("Monthly coffee box"))
    demo.mail("ana@example.com", "cancel")
    assert len([mail for mail in demo.mails("ana@example.com") if "cancel" in mail["subject"].lower()]) == 1


def test_pause_and_resume(page: Page, demo: Demo) -> None:
    portal = at_subscriptions(page, demo)
    card = portal.card("Monthly coffee box")
    portal.press(card, "Pause subscription")
    confirm(page, "Pause subscription")
    proven(card)
    expect(card).to_contain_text("Paused")
    portal.press(card, "Resume subscription")
    confirm(page, "Resume subscription")
    expect(card).to_contain_text("Active", timeout=30_000)
    demo.mail("ana@example.com", "paused")
    demo.mail("ana@example.com", ["goes on", "resumed"][1])


def test_new_card_at_the_processors_page(page: Page, demo: Demo) -> None:
    portal = at_subscriptions(page, demo)
    portal.press(portal.card("Monthly coffee box"), "Update payment method")
    confirm(page, "Go on")
    expect(page).to_have_url(re.compile(re.escape(demo.simulators["stripe"])))
    page.get_by_label(re.compile("4444")).check()
    page.get_by_role("button", name=re.compile("Save")).click()
    portal.expect_on("Subscriptions")
    card = portal.card("Monthly coffee box")
    expect(card).to_contain_text("4444", timeout=60_000)
    proven(card)
    demo.mail("ana@example.com", "payment method")


def test_turning_back_at_the_processors_page_changes_nothing(page: Page, demo: Demo) -> None:
    portal = at_subscriptions(page, demo)
    portal.press(portal.card("Monthly coffee box"), "Update payment method")
    confirm(page, "Go on")
    page.get_by_role("button", name=re.compile("Back")).or_(
        page.get_by_role("link", name=re.compile("Back"))
    ).first.click()
    portal.expect_on("Subscriptions")
    expect(portal.card("Monthly coffee box")).to_contain_text("4242")


def test_failed_card_is_named_and_replaced(page: Page, demo: Demo) -> None:
    portal = at_subscriptions(page, demo, "ben@example.com")
    expect(page.get_by_role("main")).to_contain_text(re.compile("did not go through|failed", re.I))
    portal.press(portal.card("Monthly coffee box"), "Update payment method")
    confirm(page, "Go on")
    page.get_by_label(re.compile("4242")).check()
    page.get_by_role("button", name=re.compile("Save")).click()
    portal.expect_on("Subscriptions")
    expect(portal.card("Monthly coffee box")).to_contain_text("Active", timeout=60_000)


def test_payfast_keep_cancels_at_once_and_keeps_what_is_paid(page: Page, demo: Demo) -> None:
    portal = at_subscriptions(page, demo)
    card = portal.card("Rooibos club")
    portal.press(card, "Cancel subscription")
    confirm(page, "Cancel subscription")
    card = portal.card("Rooibos club")
    proven(card)
    expect(card).to_contain_text(re.compile("access until|keep access|until", re.I))
    demo.mail("ana@example.com", "Rooibos")


def test_payfast_schedule_can_be_taken_back_until_it_runs(page: Page, demo: Demo) -> None:
    portal = at_subscriptions(page, demo, origin=demo.kora)
    card = portal.card("Studio membership")
    portal.press(card, "Cancel subscription")
    confirm(page, "Cancel subscription")
    expect(card).to_contain_text("Ends", timeout=30_000)
    portal.press(card, "Keep subscription")
    confirm(page, "Keep subscription")
    expect(card).to_contain_text("Active", timeout=30_000)


def test_payfast_card_is_changed_at_payfast_and_says_what_is_known(page: Page, demo: Demo) -> None:
    portal = at_subscriptions(page, demo)
    portal.press(portal.card("Rooibos club"), "Update payment method")
    html = page.content()
    confirm(page, "Go on")
    expect(page).to_have_url(re.compile(re.escape(demo.simulators["payfast"])))
    token = re.search(r"/update/([^?]+)", page.url)
    assert token is not None
    assert token[1] not in html  # a bearer secret stands in no page of ours
    page.get_by_role("button", name=re.compile("Save")).click()
    portal.expect_on("Subscriptions")
    expect(portal.card("Rooibos club")).to_contain_text(re.compile(r"next (charge|payment)"))


def test_processor_down_says_what_was_not_changed(page: Page, demo: Demo) -> None:
    portal = at_subscriptions(page, demo)
    demo.switch("stripe", "down")
    portal.press(portal.card("Monthly coffee box"), "Pause subscription")
    confirm(page, "Pause subscription")
    expect(page.get_by_role("main")).to_contain_text(re.compile("answer|changed|check", re.I))
    demo.switch("stripe", "ok")


def test_cancel_gets_through_after_an_outage(page: Page, demo: Demo) -> None:
    portal = at_subscriptions(page, demo)
    demo.switch("stripe", "down")
    portal.press(portal.card("Monthly coffee box"), "Cancel subscription")
    confirm(page, "Cancel subscription")
    card = portal.card("Monthly coffee box")
    expect(card.locator("[data-proof=pending]")).to_be_visible(timeout=60_000)
    demo.switch("stripe", "ok")
    demo.advance(120)
    proven(card)


def test_lost_webhooks_do_not_matter(page: Page, demo: Demo) -> None:
    portal = at_subscriptions(page, demo)
    demo.switch("stripe", "lose_webhooks")
    portal.press(portal.card("Monthly coffee box"), "Cancel subscription")
    confirm(page, "Cancel subscription")
    proven(portal.card("Monthly coffee box"))


def test_the_clock_moves_and_everything_follows(page: Page, demo: Demo) -> None:
    portal = at_subscriptions(page, demo)
    portal.press(portal.card("Monthly coffee box"), "Cancel subscription")
    confirm(page, "Cancel subscription")
    proven(portal.card("Monthly coffee box"))
    demo.advance(32 * 24 * 3600)
    sign_in(page, demo)  # the session has run out meanwhile
    portal.go("Subscriptions")
    expect(portal.card("Monthly coffee box")).to_contain_text("Cancelled", timeout=30_000)


def test_strangers_step_and_post_are_not_found(page: Page, demo: Demo) -> None:
    portal = at_subscriptions(page, demo)
    card = portal.card("Monthly coffee box")
    href = card.get_by_role("link", name=re.compile("^Cancel subscription")).get_attribute("href")
    page.get_by_role("button", name="Sign out").click()
    sign_in(page, demo, "ben@example.com")
    assert demo.fetch(page, demo.acme + str(href)).status_code == 404
    post = demo.fetch(page, demo.acme + str(href), "POST", {"Origin": demo.acme}, {"wish": "cancel_now"})
    assert post.status_code == 404


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {}])
def test_posts_from_elsewhere_are_refused(page: Page, demo: Demo, headers: dict[str, str]) -> None:
    portal = at_subscriptions(page, demo)
    card = portal.card("Monthly coffee box")
    href = card.get_by_role("link", name=re.compile("^Cancel subscription")).get_attribute("href")
    answer = demo.fetch(page, demo.acme + str(href), "POST", headers, {"wish": "cancel_now"})
    assert answer.status_code == 403
    page.reload()
    expect(card).to_contain_text("Active")


def test_without_javascript(no_script: Page, demo: Demo) -> None:
    walk_in(no_script, demo)
    portal = Portal(no_script, demo.acme)
    portal.go("Subscriptions")
    portal.press(portal.card("Monthly coffee box"), "Cancel subscription")
    expect(no_script.get_by_role("heading", name=re.compile("^Cancel Monthly"))).to_be_visible()
    confirm(no_script, "Cancel subscription")
    portal.expect_on("Subscriptions")
    expect(portal.card("Monthly coffee box")).to_contain_text("Ends")
    portal.press(portal.card("Rooibos club"), "Update payment method")
    confirm(no_script, "Go on")
    no_script.get_by_role("link", name=re.compile("PayFast|Go on|Continue")).first.click()
    expect(no_script).to_have_url(re.compile(re.escape(demo.simulators["payfast"])))
    no_script.get_by_role("button", name=re.compile("Save")).click()
    portal.expect_on("Subscriptions")
