"""Whether a page can be used by everybody: axe-core, as the page stands and in other widths and colours."""

from typing import Literal, NamedTuple

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

_axe = Axe()
BY_LOOK = ["color-contrast", "link-in-text-block", "target-size", "scrollable-region-focusable"]


class Look(NamedTuple):
    width: int
    scheme: Literal["light", "dark"]
    rules: list[str] | None = None  # all of them


# Whatever is shown on a phone or on a desktop, and each colour, meets every rule once.
FOUR = (Look(1200, "dark"), Look(375, "light"), Look(375, "dark", BY_LOOK), Look(1200, "light", BY_LOOK))


def clean(page: Page, rules: list[str] | None = None) -> None:
    """axe finds nothing here."""
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(_axe.axe_script)
    options = {"resultTypes": ["violations"], **({"runOnly": rules} if rules else {})}
    found = page.evaluate(
        """options => axe.run(options).then(results =>
            results.violations.map(one => `${one.id}: ${one.nodes[0].html.slice(0, 200)}`))""",
        options,
    )
    assert found == [], f"{page.url}: {found}"


def clean_in(page: Page, looks: tuple[Look, ...] = FOUR, stays_within: bool = False) -> None:
    """axe finds nothing on this page in any of these looks; nor, where asked, does it scroll sideways."""
    for width, scheme, rules in looks:
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        clean(page, rules)
        if stays_within:
            within(page)


def within(page: Page) -> None:
    """Nothing makes the page scroll sideways."""
    wide, there = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= there, f"{page.url}: {wide} px wide on {there}"
