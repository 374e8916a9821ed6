"""axe-core finds nothing on any page or step, light and dark, at phone and desktop width."""

import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import Demo
from tests.e2e.pages.portal import TABS, Portal
from tests.e2e.pages.signing_in import SigningIn, sign_in

axe = Axe()


def clean(page: Page) -> None:
    results = axe.run(page)
    found = [
        f"{violation['id']}: {violation['nodes'][0]['html'][:200]}"
        for violation in results.response["violations"]
    ]
    assert found == [], f"{page.url}: {found}"


@pytest.fixture(params=[(375, "light"), (375, "dark"), (1200, "light"), (1200, "dark")], ids=str)
def looking(request: pytest.FixtureRequest, browser: Browser, browser_context_args: dict[str, Any]) -> Any:
    width, scheme = request.param
    context = browser.new_context(
        **{**browser_context_args, "viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    )
    page = context.new_page()
    page.set_default_timeout(10_000)
    yield page
    context.close()


def test_the_way_in(looking: Page, demo: Demo) -> None:
    looking.goto(f"{demo.acme}/customers")
    clean(looking)
    way = SigningIn(looking, demo.acme)
    way.ask("ana@example.com")
    clean(looking)
    way.by_code("222222")
    clean(looking)
    link = next(link for link in demo.mail("ana@example.com")["links"] if "/customers/login/" in link)
    looking.goto(link)
    clean(looking)
    looking.goto(f"{demo.acme}/customers/login/nonsense")
    clean(looking)
    for path in ("find-order", "find-order/sent"):
        looking.goto(f"{demo.acme}/customers/{path}")
        clean(looking)


@pytest.mark.parametrize("person", ["ana", "ben", "chi", "dana", "emil", "fay", "gus", "hana"])
def test_tabs_of_everybody(page: Page, demo: Demo, person: str) -> None:
    sign_in(page, demo, f"{person}@example.com")
    portal = Portal(page, demo.acme)
    for tab in TABS:
        portal.open(tab)
        clean(page)


def test_pages_and_steps(looking: Page, demo: Demo) -> None:
    sign_in(looking, demo)
    portal = Portal(looking, demo.acme)
    for tab in TABS:
        portal.open(tab)
        clean(looking)
    portal.open("Orders")
    looking.locator("tbody [data-testid=order]").first.get_by_role("link").first.click()
    expect(looking.get_by_role("heading", level=1)).not_to_have_text("Orders")
    clean(looking)
    for path in ("sessions", "addresses"):
        looking.goto(f"{demo.acme}/customers/{path}")
        clean(looking)
    looking.goto(f"{demo.acme}/customers/orders/0000000000000")
    clean(looking)
    for verb in ("Cancel subscription", "Pause subscription", "Update payment method"):
        portal.open("Subscriptions")
        portal.press(portal.card("Monthly coffee box"), verb)
        expect(looking.get_by_role("region", name=re.compile("Monthly coffee box")).first).to_be_visible()
        clean(looking)


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
    expect(card.locator("[data-proof=confirmed]")).to_be_visible(timeout=20_000)
