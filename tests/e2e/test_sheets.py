"""Orders from a file, as somebody at the merchant brings them in."""

import re

from playwright.sync_api import Page, expect

from tests.e2e.conftest import Demo
from tests.e2e.pages.looks import clean, within
from tests.e2e.pages.settings import sign_in_merchant

ROWS = """E-Mail;Bestellnummer;Produkt;Betrag;Währung;Datum
fileuser@example.com;FILE-1;Kaffee;24,00;EUR;04.03.2026
nobody;FILE-2;Tee;12,00;EUR;05.03.2026
"""


def test_a_file_is_given_tried_and_imported(page: Page, demo: Demo) -> None:
    page.set_viewport_size({"width": 320, "height": 900})
    settings = sign_in_merchant(page, demo)
    settings.open(f"{settings.first_portal()}/sheets")
    page.get_by_label("File", exact=True).set_input_files(
        {"name": "orders.csv", "mimeType": "text/csv", "buffer": ROWS.encode("cp1252")}
    )
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("orders.csv")
    expect(page.get_by_label("Betrag")).to_have_value("amount")
    expect(page.get_by_text("Windows-1252")).to_be_visible()
    page.get_by_label("Processor account").select_option(label="Acme cards")
    page.get_by_role("button", name="Show how they are read").click()
    expect(page.get_by_test_id("understood").first).to_contain_text("€24.00")
    expect(page.get_by_test_id("understood").last).to_contain_text("is no e-mail address")
    clean(page)
    within(page)
    page.get_by_role("button", name="Try all rows").click()
    expect(page.get_by_test_id("counts")).to_have_text(
        re.compile(r"New\s*1\s*Changed\s*0\s*Unchanged\s*0\s*Refused\s*1")
    )
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.get_by_text("This is what the import did:")).to_be_visible()
    clean(page)
    within(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download as CSV").click()
    assert "3,E-Mail,“nobody” is no e-mail address." in download.value.path().read_text("utf-8-sig")
    settings.open(f"{settings.first_portal()}/customers?q=FILE-1")
    expect(page.get_by_role("main")).to_contain_text("fileuser@example.com")
