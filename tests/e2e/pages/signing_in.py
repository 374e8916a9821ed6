"""The way in: the form, the mail, the link's page, the code."""

import time
from typing import TYPE_CHECKING, Any

from playwright.sync_api import Page, expect

if TYPE_CHECKING:
    from tests.e2e.conftest import Demo


class SigningIn:
    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.origin = origin

    def ask(self, email: str, path: str = "/customers") -> None:
        """Open the portal (or one of its pages) and ask for a mail."""
        self.page.goto(self.origin + path)
        self.page.get_by_label("E-mail").fill(email)
        self.page.get_by_role("main").get_by_role("button").first.click()
        expect(self.page.get_by_role("heading", level=1)).to_contain_text("Check your mail")

    def by_link(self, link: str) -> None:
        """Open the mail's link and press its one button."""
        self.page.goto(link)
        self.page.get_by_role("button", name="Sign in").click()

    def by_code(self, code: str) -> None:
        self.page.get_by_label("Code").fill(code)
        self.page.get_by_role("main").get_by_role("button", name="Sign in").click()


def sign_in(page: Page, demo: "Demo", email: str = "ana@example.com", origin: str | None = None) -> SigningIn:
    """Sign in by mail, as a customer does; ends on the orders."""
    way = SigningIn(page, origin or demo.acme)
    before = len(_sign_in_mails(demo, email))
    way.ask(email)
    deadline = time.monotonic() + 15
    while len(mails := _sign_in_mails(demo, email)) <= before:
        assert time.monotonic() < deadline, f"no sign-in mail to {email}"
        time.sleep(0.1)
    mail = mails[0]
    way.by_link(next(link for link in mail["links"] if "/customers/login/" in link))
    expect(page.get_by_role("heading", level=1, name="Orders")).to_be_visible()
    return way


def _sign_in_mails(demo: "Demo", email: str) -> list[dict[str, Any]]:
    return [mail for mail in demo.mails(email) if mail["code"]]
