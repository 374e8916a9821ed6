"""The merchant's side: the way in, Settings > Customer Portal, processors."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import Page, expect

from tests.e2e.pages.signing_in import next_code, sign_in_at_door

if TYPE_CHECKING:
    from tests.e2e.conftest import Demo


class Settings:
    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.origin = origin

    def open(self, path: str = "/settings") -> None:
        self.page.goto(self.origin + path)

    def heading(self, text: str) -> None:
        expect(self.page.get_by_role("heading", level=1)).to_have_text(text)

    def first_portal(self) -> str:
        """The address of the merchant's first portal in the settings."""
        self.open()
        link = self.page.get_by_test_id("portal").first.get_by_role("heading").get_by_role("link")
        return str(link.get_attribute("href")).removesuffix("/overview")

    def create(self, name: str, domain: str = "", logo: Path | None = None) -> None:
        """Create Customer Portal, with its three fields."""
        self.page.get_by_role("link", name="Create Customer Portal").click()
        self.heading("Create Customer Portal")
        self.page.get_by_label("Name").fill(name)
        if domain:
            self.page.get_by_label("Custom domain").fill(domain)
        if logo:
            self.page.get_by_label("Logo").set_input_files(logo)
        self.page.get_by_role("button", name="Create Customer Portal").click()

    def connect(self, processor: str, label: str, fields: dict[str, str], mode: str = "Test") -> None:
        """Connect a processor by the form that its facts make."""
        self.page.get_by_role("link", name="Processors", exact=True).first.click()
        self.page.get_by_role("link", name=f"Connect {processor}").click()
        self.page.get_by_label("Your name for it").fill(label)
        self.page.get_by_role("radio", name=re.compile(f"^{mode}")).check()
        for name, value in fields.items():
            box = self.page.locator(f"[name=key_{name}]")
            if box.evaluate("one => one.tagName") == "SELECT":
                box.select_option(value)
            else:
                box.fill(value)
        self.page.get_by_role("button", name="Check and connect").click()

    def tab(self, name: str) -> None:
        self.page.get_by_role("navigation", name="Portal").get_by_role("link", name=name, exact=True).click()
        expect(self.page.get_by_role("heading", level=1)).to_be_visible()


def sign_in_merchant(page: Page, demo: "Demo", email: str = "owner@acme.example") -> Settings:
    """Signed in on the merchant's side, with the requests that `walk_in_merchant` makes; ends on the portals."""
    sign_in_at_door(page, demo, email)
    settings = Settings(page, demo.admin)
    settings.open()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    return settings


def walk_in_merchant(page: Page, demo: "Demo", email: str = "owner@acme.example") -> Settings:
    """Sign in on the pages of the merchant's side, by the code of a mail; ends on the portals."""
    settings = Settings(page, demo.admin)

    def ask() -> None:
        settings.open("/sign-in")
        page.get_by_label("E-mail address").fill(email)
        page.get_by_role("button", name="E-mail me a sign-in link").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Check your mail")

    mail = next_code(demo, email, ask)
    page.get_by_label("Code").fill(mail["code"])
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(re.compile("/settings$"))
    return settings
