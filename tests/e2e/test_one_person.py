"""One person: a further address is added, and an order is found without the address it was bought with."""

import re

from playwright.sync_api import Page, expect

from tests.e2e.conftest import Demo
from tests.e2e.pages.portal import Portal
from tests.e2e.pages.signing_in import sign_in

ANA, CHI, BEN = "ana@example.com", "chi@example.com", "ben@example.com"


def test_a_further_address_is_added_by_its_code_and_removed_again(page: Page, demo: Demo) -> None:
    sign_in(page, demo, CHI)
    page.get_by_role("link", name="Your addresses").click()
    page.get_by_label("E-mail address").fill(BEN)
    page.get_by_role("button", name="E-mail a link to it").click()
    expect(page.get_by_role("region", name="Check the mail of that address")).to_contain_text(BEN)
    page.get_by_label("Code").fill(demo.mail(BEN, "Add this address")["code"])
    page.get_by_role("button", name="Add this address").click()
    expect(page.get_by_role("status").filter(has_text="The address is added")).to_be_visible()
    rows = page.get_by_test_id("address")
    expect(rows).to_have_count(2)
    demo.mail(CHI, "A further address")
    demo.mail(BEN, "A further address")
    Portal(page, demo.acme).open("Payment history")
    expect(page.get_by_role("table")).to_be_visible()
    page.goto(f"{demo.acme}/customers/addresses")
    page.get_by_role("link", name=f"Remove {BEN}").click()
    page.get_by_role("button", name=f"Remove {BEN}").click()
    expect(rows).to_have_count(1)
    demo.mail(CHI, "An address is removed")


def test_an_order_is_found_by_what_its_receipt_says_without_javascript(
    page: Page, no_script: Page, demo: Demo
) -> None:
    number, amount, currency, last4 = _a_receipt(page, demo)
    no_script.goto(f"{demo.acme}/customers")
    no_script.get_by_role("link", name="Find your order").click()

    def fill(digits: str) -> None:
        no_script.get_by_label("Order number").fill(number)
        no_script.get_by_label("Last four digits").fill(digits)
        no_script.get_by_label("Amount").fill(amount)
        no_script.get_by_label("Currency").fill(currency)
        no_script.get_by_role("button", name="Find the order").click()
        expect(no_script.get_by_role("heading", level=1)).to_have_text("We are looking for it")

    fill("0000")
    first = no_script.content()
    no_script.get_by_role("link", name="Try once more").click()
    fill(last4)
    assert no_script.content() == first
    mail = demo.mail(ANA, "The order you looked for")
    assert len([one for one in demo.mails(ANA) if "looked for" in one["subject"]]) == 1
    no_script.goto(next(link for link in mail["links"] if "/customers/login/" in link))
    no_script.get_by_role("button", name="Sign in").click()
    expect(no_script.get_by_text(ANA).first).to_be_visible()


def _a_receipt(page: Page, demo: Demo) -> tuple[str, str, str, str]:
    """Number, amount, currency and digits of a payment by card, as they stand in its document and the history."""
    sign_in(page, demo, ANA)
    Portal(page, demo.acme).open("Payment history")
    for row in page.get_by_role("row").all():
        text = row.inner_text()
        digits, price = re.search(r"ending (\d{4})", text), re.search(r"\$([\d.,]+)\s*USD", text)
        links = row.get_by_role("link", name=re.compile("Download"))
        if digits is None or price is None or not links.count():
            continue
        answer = demo.fetch(page, demo.acme + str(links.first.get_attribute("href")))
        named = re.search(r'filename="\w+ ([^"]+)\.pdf"', answer.headers["content-disposition"])
        assert named, answer.headers["content-disposition"]
        return named[1], price[1], "USD", digits[1]
    raise AssertionError("no payment by card is shown")
