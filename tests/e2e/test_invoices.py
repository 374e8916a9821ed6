"""Documents: the processor's own file, ours, the same bytes each time, and nobody else's."""

import re

from playwright.sync_api import Page, expect

from tests.e2e.conftest import Demo
from tests.e2e.pages.portal import Portal
from tests.e2e.pages.signing_in import sign_in


def first_document(page: Page) -> str:
    link = page.get_by_role("main").get_by_role("link", name=re.compile("^Download")).first
    href = link.get_attribute("href")
    assert href is not None
    return href


def test_processors_file_comes_through_our_address(page: Page, demo: Demo) -> None:
    sign_in(page, demo)
    portal = Portal(page, demo.acme)
    portal.go("Payment history")
    row = page.locator("[data-testid=payment]").filter(has_text="Monthly coffee box").first
    with page.expect_download() as download:
        row.get_by_role("link", name=re.compile("^Download")).click()
    content = download.value.path().read_bytes()
    assert content.startswith(b"%PDF")
    assert download.value.suggested_filename.endswith(".pdf")


def test_our_own_invoice_is_the_same_bytes_for_ever(page: Page, demo: Demo) -> None:
    sign_in(page, demo, "emil@example.com")
    Portal(page, demo.acme).go("Payment history")
    href = first_document(page)
    first = demo.fetch(page, demo.acme + href)
    assert first.status_code == 200
    assert first.headers["content-type"] == "application/pdf"
    body = first.content
    assert body.startswith(b"%PDF")
    assert demo.fetch(page, demo.acme + href).content == body


def test_strangers_invoice_is_not_found(page: Page, demo: Demo) -> None:
    sign_in(page, demo)
    Portal(page, demo.acme).go("Payment history")
    href = first_document(page)
    page.get_by_role("button", name="Sign out").click()
    sign_in(page, demo, "ben@example.com")
    assert demo.fetch(page, demo.acme + href).status_code == 404
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("E-mail")).to_be_visible()
    answer = demo.fetch(page, demo.acme + href)
    assert answer.status_code == 303
