"""The signed-in portal: tabs, cards, steps."""

from typing import Any

from playwright.sync_api import Locator, Page, expect

TABS = {
    "Orders": "/customers/orders",
    "Subscriptions": "/customers/subscriptions",
    "Upcoming payments": "/customers/upcoming",
    "Payment history": "/customers/payments",
}


class Portal:
    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.origin = origin

    def open(self, tab: str) -> None:
        self.page.goto(self.origin + TABS[tab])
        self.expect_on(tab)

    def go(self, tab: str) -> None:
        """Click a tab, as a customer does."""
        self.page.get_by_role("navigation").get_by_role("link", name=tab, exact=True).click()
        self.expect_on(tab)

    def expect_on(self, tab: str) -> None:
        expect(self.page.get_by_role("heading", level=1)).to_have_text(tab)
        current = self.page.get_by_role("navigation").locator("[aria-current=page]")
        expect(current).to_have_text(tab)

    def card(self, title: str) -> Locator:
        """The card of a subscription, by its heading."""
        return self.page.get_by_role("region", name=title)

    def press(self, card: Locator, verb: str) -> None:
        """Press a button or link of a card; its name begins with the verb."""
        card.locator("a, button").filter(has_text=verb).first.click()

    def loads(self) -> "LoadCounter":
        return LoadCounter(self.page)


class LoadCounter:
    """Counts whole page loads, to prove that a fragment was a fragment."""

    def __init__(self, page: Page) -> None:
        self.count = 0
        self._page = page

    def __enter__(self) -> "LoadCounter":
        self._page.wait_for_load_state("load")  # of the page that is there already, and with it its script
        self._page.on("load", self._add)
        return self

    def __exit__(self, *_: object) -> None:
        self._page.remove_listener("load", self._add)

    def _add(self, *_: Any) -> None:
        self.count += 1
