"""Every page of the merchant's side: axe finds nothing, nothing sticks out sideways, no script is needed to read it."""

import re
from typing import Any

from playwright.sync_api import Page, expect

from tests.e2e.conftest import Demo
from tests.e2e.pages.looks import Look, clean_in
from tests.e2e.pages.settings import sign_in_merchant
from tests.e2e.pages.signing_in import sign_in

OF_PORTAL = (
    *(
        "",
        "/overview",
        "/requests",
        "/requests/answers",
        "/customers",
        "/customers?q=ana",
        "/customers/unassigned",
    ),
    *("/events", "/processors", "/processors/matrix", "/processors/new/paypal", "/processors/new/klarna"),
    *("/domain", "/domain/name", "/policy", "/plans", "/mails", "/mails/cancelled", "/privacy", "/sheets"),
    *("/developers", "/developers/keys/new", "/developers/endpoints/new"),
)
OF_MERCHANT = ("", "/people", "/security", "/audit", "/doctor", "/confirm", "/portals/new")


# On how many lines the letters of each stand.
LINES = """cells => cells.map(cell => {
    const place = document.createRange();
    const tops = [...cell.textContent].map((_, at) => {
        place.setStart(cell.firstChild, at);
        place.setEnd(cell.firstChild, at + 1);
        return place.getBoundingClientRect().top;
    });
    return new Set(tops).size;
})"""
LOOKS = (Look(320, "light"), Look(1200, "dark"))


def test_every_page_is_clean(page: Page, demo: Demo) -> None:
    page.goto(f"{demo.admin}/sign-in")
    clean_in(page, LOOKS)
    settings = sign_in_merchant(page, demo)
    site = settings.first_portal()
    for path in [f"/settings{one}" for one in OF_MERCHANT] + [f"{site}{one}" for one in OF_PORTAL]:
        answer = page.goto(demo.admin + path)
        assert answer is not None
        assert answer.status == 200, path
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        clean_in(page, LOOKS, stays_within=True)


def test_pages_behind_lists_are_clean(page: Page, demo: Demo) -> None:
    """A customer, an order, an account, an event, each by its link."""
    settings = sign_in_merchant(page, demo)
    site = settings.first_portal()
    for start, link in (
        ("/customers?q=ana@example.com", re.compile("ana@example.com")),
        ("/processors", re.compile("Acme cards")),
        ("/events", None),
    ):
        settings.open(site + start)
        rows = page.get_by_role("main").get_by_role("table").get_by_role("link")
        (rows.filter(has_text=link) if link else rows).first.click()
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        clean_in(page, LOOKS, stays_within=True)


def test_without_script_every_page_reads_the_same(no_script: Page, demo: Demo) -> None:
    settings = sign_in_merchant(no_script, demo)
    site = settings.first_portal()
    for path in OF_PORTAL:
        answer = no_script.goto(demo.admin + site + path)
        assert answer is not None
        assert answer.status == 200, path
        expect(no_script.get_by_role("heading", level=1)).to_have_count(1)


def test_view_as_customer_is_marked_and_changes_nothing(page: Page, demo: Demo) -> None:
    settings = sign_in_merchant(page, demo)
    site = settings.first_portal()
    settings.open(f"{site}/customers?q=ana@example.com")
    page.get_by_role("main").get_by_role("table").get_by_role("link", name="ana@example.com").click()
    page.get_by_role("button", name="View as customer").click()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open the portal as this customer").click()
    shop = opened.value
    shop.get_by_role("button", name="View as customer").click()
    expect(shop.get_by_role("heading", level=1)).to_have_text("Orders")
    expect(shop.get_by_test_id("viewing")).to_contain_text("ana@example.com")
    expect(shop.get_by_test_id("order").first).to_be_visible()
    shop.goto(f"{demo.acme}/customers/subscriptions")
    card = shop.get_by_role("region", name="Monthly coffee box")
    card.get_by_role("link", name=re.compile("^Pause")).click()
    shop.get_by_role("button", name=re.compile("^Pause")).last.click()
    expect(shop.get_by_role("alert").first).to_contain_text("Nothing can be changed from here")
    shop.get_by_role("button", name="Stop viewing").click()
    expect(shop).to_have_url(re.compile("/customers$"))


def test_a_request_is_answered_on_the_page(page: Page, other_browser: Any, demo: Demo) -> None:
    """What a customer asks for stands in the queue; the answer reaches their page and their mailbox."""
    customer = other_browser()
    sign_in(customer, demo, "adyen@example.com", demo.nova)
    customer.goto(f"{demo.nova}/customers/subscriptions")
    customer.get_by_role("link", name=re.compile("ask|Ask", re.I)).first.click()
    customer.get_by_role("main").get_by_role("button").first.click()
    expect(customer.locator("[data-request=open]").first).to_be_visible()
    settings = sign_in_merchant(page, demo, "owner@nova.example")
    settings.open(settings.first_portal() + "/requests")
    mine = page.get_by_test_id("request").filter(has_text="adyen@example.com")
    mine.get_by_role("link").click()
    page.get_by_role("main").get_by_role("textbox").first.fill("Done as you asked.")
    page.get_by_role("button", name=re.compile("done", re.I)).first.click()
    expect(page.get_by_role("main")).to_contain_text(re.compile("done", re.I))
    assert demo.mail("adyen@example.com", "did it")
    customer.reload()
    expect(customer.locator("[data-request=done]").first).to_contain_text("Done as you asked.")


def test_the_samples_have_what_waits_for_people(page: Page, other_browser: Any, demo: Demo) -> None:
    """A late request, an open one, one of somebody unknown, one answered; and a sale that no address came with."""
    settings = sign_in_merchant(page, demo, "owner@nova.example")
    settings.open(settings.first_portal() + "/requests")
    rows = page.get_by_test_id("request")
    expect(rows).to_have_count(3)
    expect(rows.filter(has_text="Overdue")).to_have_count(1)
    expect(rows.filter(has_text="Find an order")).to_contain_text("noor.h@example.org")
    page.get_by_role("link", name="Answered").click()
    expect(page.get_by_test_id("request")).to_have_count(1)
    other = other_browser()
    settings = sign_in_merchant(other, demo, "owner@kora.example")
    settings.open(settings.first_portal() + "/customers/unassigned")
    expect(other.get_by_test_id("record").filter(has_text="Drop-in class")).to_have_count(2)


def test_a_number_of_two_digits_stands_on_one_line(page: Page, demo: Demo) -> None:
    settings = sign_in_merchant(page, demo, "owner@nova.example")
    page.goto(f"{demo.admin}{settings.first_portal()}/overview")
    numbers = page.locator(".meters .num").filter(has_text=re.compile(r"\d\d"))
    for width in (375, 1200):
        page.set_viewport_size({"width": width, "height": 900})
        found = numbers.evaluate_all(LINES)
        assert found, width
        assert set(found) == {1}, width
