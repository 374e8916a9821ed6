"""axe-core finds nothing on any page or step, light and dark, at phone and desktop width."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Demo
from tests.e2e.pages.looks import clean, clean_in
from tests.e2e.pages.portal import TABS, Portal
from tests.e2e.pages.signing_in import SigningIn, sign_in


def test_the_way_in(page: Page, demo: Demo) -> None:
    page.goto(f"{demo.acme}/customers")
    clean_in(page)
    way = SigningIn(page, demo.acme)
    way.ask("ana@example.com")
    clean_in(page)
    way.by_code("222222")
    clean_in(page)
    link = next(link for link in demo.mail("ana@example.com")["links"] if "/customers/login/" in link)
    page.goto(link)
    clean_in(page)
    page.goto(f"{demo.acme}/customers/login/nonsense")
    clean_in(page)
    for path in ("find-order", "find-order/sent"):
        page.goto(f"{demo.acme}/customers/{path}")
        clean_in(page)


@pytest.mark.parametrize("person", ["ana", "ben", "chi", "dana", "emil", "fay", "gus", "hana"])
def test_tabs_of_everybody(page: Page, demo: Demo, person: str) -> None:
    sign_in(page, demo, f"{person}@example.com")
    portal = Portal(page, demo.acme)
    for tab in TABS:
        portal.open(tab)
        clean(page)


def test_pages_and_steps(page: Page, demo: Demo) -> None:
    sign_in(page, demo)
    portal = Portal(page, demo.acme)
    for tab in TABS:
        portal.open(tab)
        clean_in(page)
    portal.open("Orders")
    page.locator("tbody [data-testid=order]").first.get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).not_to_have_text("Orders")
    clean_in(page)
    for path in ("sessions", "addresses"):
        page.goto(f"{demo.acme}/customers/{path}")
        clean_in(page)
    page.goto(f"{demo.acme}/customers/orders/0000000000000")
    clean_in(page)
    for verb in ("Cancel subscription", "Pause subscription", "Update payment method"):
        portal.open("Subscriptions")
        portal.press(portal.card("Monthly coffee box"), verb)
        expect(page.get_by_role("region", name=re.compile("Monthly coffee box")).first).to_be_visible()
        clean_in(page)


def test_processor_pages_and_mailbox(page: Page, demo: Demo) -> None:
    sign_in(page, demo)
    portal = Portal(page, demo.acme)
    portal.go("Subscriptions")
    portal.press(portal.card("Monthly coffee box"), "Update payment method")
    page.get_by_role("main").get_by_role("button", name=re.compile("^Go on")).click()
    expect(page).to_have_url(re.compile(re.escape(demo.simulators["stripe"])))
    clean(page)


def test_keyboard_alone_cancels(page: Page, demo: Demo) -> None:
    sign_in(page, demo)
    portal = Portal(page, demo.acme)
    portal.go("Subscriptions")
    card = portal.card("Monthly coffee box")
    link = card.get_by_role("link", name=re.compile("^Cancel subscription"))
    link.focus()
    page.keyboard.press("Enter")
    step = page.get_by_role("region", name=re.compile("^Cancel Monthly coffee box"))
    expect(step.get_by_role("heading")).to_be_focused()
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('button.danger')"):
            break
    page.keyboard.press("Enter")
    expect(card.locator("[data-proof=confirmed]")).to_be_visible(timeout=60_000)
