"""Each processor in a real browser: cancel, and a new payment method through the processor's own page, as the person
who has every state there."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from portal.gateways import facts, processors
from seeds import world
from tests.e2e.conftest import Demo
from tests.e2e.pages.portal import Portal
from tests.e2e.pages.signing_in import sign_in

AT_NOVA = [name for name in processors() if name not in world.BY_HAND]


def can(name: str, key: str, *modes: str) -> bool:
    return facts(name).capabilities[key].mode in modes  # type: ignore[index]


def arrive(page: Page, demo: Demo, name: str) -> Portal:
    sign_in(page, demo, f"{name}@example.com", demo.nova)
    portal = Portal(page, demo.nova)
    portal.go("Subscriptions")
    return portal


def card_with(page: Page, step: str, says: str, state: str = "Active") -> Locator:
    """The first active card whose button says so; by its own id, since its buttons change."""
    found = (
        page.get_by_test_id("subscription")
        .filter(has=page.locator(f'a[id^="{step}-"]', has_text=says))
        .filter(has=page.locator(".pill", has_text=state))
        .first
    )
    return page.locator(f"#sub-{found.get_attribute('data-ref')}")


@pytest.mark.parametrize("name", AT_NOVA)
def test_every_tab_has_what_was_bought_there(page: Page, demo: Demo, name: str) -> None:
    sign_in(page, demo, f"{name}@example.com", demo.nova)
    portal = Portal(page, demo.nova)
    expect(page.locator('[id^="order-"]').first).to_be_visible()
    for tab in ("Subscriptions", "Upcoming payments", "Payment history"):
        portal.go(tab)
    expect(page.get_by_test_id("payment").first).to_be_visible()


@pytest.mark.parametrize("name", [name for name in AT_NOVA if can(name, "cancel_now", "direct", "emulated")])
def test_a_subscription_is_cancelled_and_proven(page: Page, demo: Demo, name: str) -> None:
    arrive(page, demo, name)
    card = card_with(page, "cancel", "Cancel subscription")
    card.locator('a[id^="cancel-"]').click()
    page.get_by_role("main").get_by_role("button", name=re.compile("^Cancel subscription")).first.click()
    expect(card.locator("[data-proof=confirmed]")).to_be_visible(timeout=60_000)
    expect(card).to_contain_text(re.compile(r"Ending|Cancelled"))
    assert "cancelled" in demo.mail(f"{name}@example.com", "cancelled")["subject"]


@pytest.mark.parametrize("name", [name for name in AT_NOVA if can(name, "cancel_now", "request")])
def test_where_only_the_shop_can_cancel_it_is_asked(page: Page, demo: Demo, name: str) -> None:
    arrive(page, demo, name)
    card = card_with(page, "cancel", "Ask to cancel")
    card.locator('a[id^="cancel-"]').click()
    page.get_by_role("main").get_by_role("button", name=re.compile("^Ask Nova Market")).first.click()
    expect(card.locator('[data-request="open"]')).to_contain_text("You asked Nova Market to cancel this.")
    expect(card).to_contain_text("Active")
    assert name in demo.mail("support@nova.example", "asks to cancel")["text"]
    card.get_by_role("button", name=re.compile("^Take back")).click()
    expect(card.locator('[data-request="withdrawn"]')).to_be_visible()


@pytest.mark.parametrize("name", [name for name in AT_NOVA if can(name, "update_payment_method", "hosted")])
def test_a_new_payment_method_through_the_hosted_page(page: Page, demo: Demo, name: str) -> None:
    portal = arrive(page, demo, name)
    card = card_with(page, "update_payment_method", "Update payment method")
    ref = card.get_attribute("id")
    card.locator('a[id^="update_payment_method-"]').click()
    page.get_by_role("main").get_by_role("button", name=re.compile("^Go on")).click()
    there = page
    opener = page.get_by_role("link", name="Open the payment page")
    page.wait_for_function(
        "() => location.port !== '' && (document.querySelector('[data-test=accept]')"
        " || [...document.querySelectorAll('a')].some(a => a.textContent === 'Open the payment page'))"
    )
    if opener.count():
        with page.expect_popup() as popup:
            opener.click()
        there = popup.value
    there.locator("[data-test=accept]").first.click()
    if there is page:
        portal.expect_on("Subscriptions")
    else:
        page.get_by_role("button", name="I have done it, check again").click()
    card = page.locator(f"#{ref}")
    expect(
        card.locator("[data-proof=confirmed]")
        .or_(card.locator("[data-request=open]"))
        .or_(card.get_by_text("the next charge shows the new card"))
        .first
    ).to_be_visible(timeout=60_000)


@pytest.mark.parametrize("name", [name for name in AT_NOVA if can(name, "update_payment_method", "hosted")])
def test_without_script_the_way_there_is_a_link(no_script: Page, demo: Demo, name: str) -> None:
    arrive(no_script, demo, name)
    card = card_with(no_script, "update_payment_method", "Update payment method")
    card.locator('a[id^="update_payment_method-"]').click()
    no_script.get_by_role("main").get_by_role("button", name=re.compile("^Go on")).click()
    expect(no_script.locator('a[href^="/customers/leave/"]')).to_be_visible()


def test_what_can_be_done_is_public_and_names_its_sources(page: Page, demo: Demo) -> None:
    page.goto(f"{demo.nova}/customers/help/what-can-i-do")
    expect(page.get_by_role("heading", level=1)).to_have_text("What can I do here?")
    for name in AT_NOVA:
        table = page.locator(f'[data-testid="features"][data-processor="{name}"]')
        expect(table.locator("tbody tr")).to_have_count(12)
        row = table.locator('[data-capability="cancel_now"]')
        assert row.get_attribute("data-mode") == facts(name).capabilities["cancel_now"].mode
        expect(row.get_by_role("link")).to_have_attribute("href", re.compile("^https://"))
