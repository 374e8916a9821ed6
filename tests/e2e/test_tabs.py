"""The tabs: pieces of the very same pages; Back, reload, bookmark, middle click, JavaScript off, phone, two portals."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Demo, plain
from tests.e2e.pages.portal import TABS, Portal
from tests.e2e.pages.signing_in import sign_in


def test_tabs_are_swapped_without_loading_the_page(page: Page, demo: Demo) -> None:
    sign_in(page, demo)
    portal = Portal(page, demo.acme)
    with portal.loads() as loads:
        for tab in ("Subscriptions", "Upcoming payments", "Payment history", "Orders"):
            portal.go(tab)
            assert page.url == demo.acme + TABS[tab]
            expect(page).to_have_title(re.compile(tab))
    assert loads.count == 0


def test_focus_goes_to_the_new_heading(page: Page, demo: Demo) -> None:
    sign_in(page, demo)
    Portal(page, demo.acme).go("Subscriptions")
    expect(page.get_by_role("heading", level=1)).to_be_focused()


def test_back_and_reload(page: Page, demo: Demo) -> None:
    sign_in(page, demo)
    portal = Portal(page, demo.acme)
    portal.go("Subscriptions")
    portal.go("Payment history")
    page.go_back()
    portal.expect_on("Subscriptions")
    page.reload()
    portal.expect_on("Subscriptions")
    page.go_forward()
    portal.expect_on("Payment history")


@pytest.mark.parametrize("tab", list(TABS))
def test_bookmark_and_fragment_show_the_same(page: Page, demo: Demo, tab: str) -> None:
    sign_in(page, demo)
    portal = Portal(page, demo.acme)
    start = "Orders" if tab != "Orders" else "Subscriptions"
    for _ in range(3):  # signing in makes the worker ask the processors, so the words may still change
        portal.open(start)
        portal.go(tab)
        swapped = page.get_by_role("main").inner_text()
        portal.open(tab)
        whole = page.get_by_role("main").inner_text()
        if whole == swapped:
            break
        page.wait_for_timeout(1000)
    assert whole == swapped


@pytest.mark.parametrize(
    "click", [{"button": "middle"}, {"modifiers": ["ControlOrMeta"]}], ids=["middle", "ctrl"]
)
def test_middle_click_opens_a_whole_page(page: Page, demo: Demo, click: dict[str, Any]) -> None:
    sign_in(page, demo)
    with page.context.expect_page() as opened:
        page.get_by_role("navigation").get_by_role("link", name="Subscriptions").click(**click)
    Portal(opened.value, demo.acme).expect_on("Subscriptions")


def test_older_orders_come_by_a_link(page: Page, demo: Demo) -> None:
    sign_in(page, demo)
    first = page.locator("tbody [data-testid=order]")
    expect(first).to_have_count(25)
    page.get_by_role("link", name="Show older orders").click()
    expect(page.get_by_role("link", name="Show older orders")).to_have_count(0)


def test_order_page_has_lines_totals_payments_and_timeline(page: Page, demo: Demo) -> None:
    sign_in(page, demo)
    page.locator("tbody [data-testid=order]").nth(0).get_by_role("link").first.click()
    main = page.get_by_role("main")
    expect(main).to_contain_text("Ethiopia Guji")
    expect(main).to_contain_text(re.compile("Total"))
    expect(main).to_contain_text(re.compile("Visa"))
    expect(main.get_by_role("link", name=re.compile("Download"))).to_be_visible()


def test_money_of_zero_and_three_decimals(page: Page, demo: Demo) -> None:
    sign_in(page, demo, "dana@example.com")
    Portal(page, demo.acme).go("Payment history")
    main = page.get_by_role("main")
    expect(main).to_contain_text("¥12,800")
    expect(main).to_contain_text(re.compile(r"KWD\s24\.750"))


def test_upcoming_totals_by_month_and_currency_and_a_calendar(page: Page, demo: Demo) -> None:
    sign_in(page, demo)
    Portal(page, demo.acme).go("Upcoming payments")
    main = page.get_by_role("main")
    expect(main).to_contain_text("Monthly coffee box")
    expect(main).to_contain_text("Rooibos club")
    answer = demo.fetch(page, f"{demo.acme}/customers/upcoming.ics")
    assert answer.headers["content-type"].startswith("text/calendar")
    assert answer.text.startswith("BEGIN:VCALENDAR\r\n")


def test_nothing_yet_names_the_address(page: Page, demo: Demo) -> None:
    sign_in(page, demo, "chi@example.com")
    expect(page.get_by_role("main")).to_contain_text("chi@example.com")


@pytest.mark.parametrize(
    "path",
    ["/customers/orders?after=x", "/customers/orders?after=" + "A" * 300, "/customers/payments?after=%00"],
)
def test_malformed_cursor_is_no_fault(page: Page, demo: Demo, path: str) -> None:
    sign_in(page, demo)
    answer = page.goto(demo.acme + path)
    assert answer is not None
    assert answer.status < 500


def test_without_javascript_all_tabs_work(no_script: Page, demo: Demo) -> None:
    sign_in(no_script, demo)
    portal = Portal(no_script, demo.acme)
    for tab in ("Subscriptions", "Upcoming payments", "Payment history", "Orders"):
        portal.go(tab)
    no_script.get_by_role("link", name="Show older orders").click()
    expect(no_script.locator("tbody [data-testid=order]").first).to_be_visible()


@pytest.mark.parametrize("width", [320, 375])
def test_phone_width_has_no_sideways_scroll(phone: Page, demo: Demo, width: int) -> None:
    phone.set_viewport_size({"width": width, "height": 800})
    sign_in(phone, demo)
    portal = Portal(phone, demo.acme)
    for tab in TABS:
        portal.open(tab)
        assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth"), tab


def test_two_portals_know_nothing_of_each_other(page: Page, demo: Demo) -> None:
    sign_in(page, demo)
    order = page.locator("tbody [data-testid=order]").first.get_by_role("link").first.get_attribute("href")
    page.goto(f"{demo.kora}/customers/orders")
    expect(page.get_by_label("E-mail")).to_be_visible()  # the session of one portal is none in the other
    sign_in(page, demo, origin=demo.kora)
    expect(page.get_by_role("main")).not_to_contain_text("Ethiopia Guji")
    answer = page.goto(f"{demo.kora}{order}")
    assert answer is not None
    assert answer.status == 404


def test_strange_host_is_misdirected(demo: Demo) -> None:
    for host in ("evil.example", "acme.localhost.evil.example", "127.0.0.1", "acme.localhost:x"):
        answer = plain.get(f"{demo.base}/customers", headers={"Host": host})
        assert answer.status_code == 421
