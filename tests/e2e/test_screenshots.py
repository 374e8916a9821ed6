"""The pictures of the documents; made only when asked for, by bin/screenshots."""

from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.e2e.conftest import Demo
from tests.e2e.pages.portal import Portal
from tests.e2e.pages.signing_in import sign_in

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"


@pytest.mark.parametrize(
    ("width", "tab", "name"), [(375, "Subscriptions", "subscriptions-375"), (1200, "Orders", "orders-1200")]
)
def test_take(
    page: Page, demo: Demo, request: pytest.FixtureRequest, width: int, tab: str, name: str
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    sign_in(page, demo)
    Portal(page, demo.acme).open(tab)
    picture = page.screenshot()
    assert picture.startswith(b"\x89PNG")
    if request.config.getoption("--screenshots"):
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{name}.png").write_bytes(picture)
