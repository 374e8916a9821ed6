"""What a shop offers beside the cancel button: set up by the merchant, met by the customer, never in the way."""

import re
from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

from tests.e2e.conftest import Demo
from tests.e2e.pages.portal import Portal
from tests.e2e.pages.settings import sign_in_merchant
from tests.e2e.pages.signing_in import sign_in

STEP = re.compile("^Cancel Monthly coffee box")
FINAL = re.compile("^Cancel subscription")


def offer(page: Page, demo: Demo) -> None:
    """The merchant offers a pause to who has too much, and a better price to who finds it too expensive."""
    settings = sign_in_merchant(page, demo)
    settings.open(f"{settings.first_portal()}/policy")
    settings.heading("Cancelling")
    first, second = page.get_by_test_id("reason").nth(0), page.get_by_test_id("reason").nth(1)
    expect(first.get_by_label("Reason", exact=True)).to_have_value("It is too expensive")
    first.get_by_label("Offered instead").select_option("Something in your words")
    first.get_by_label("Said beside it").fill("Half price for the next three boxes.")
    second.get_by_label("Offered instead").select_option("A pause")
    page.get_by_role("button", name="Save policy").last.click()
    expect(page.get_by_text("Saved.")).to_be_visible()


def step_of(page: Page, demo: Demo) -> Locator:
    sign_in(page, demo)
    portal = Portal(page, demo.acme)
    portal.go("Subscriptions")
    portal.press(portal.card("Monthly coffee box"), "Cancel subscription")
    return page.get_by_role("region", name=STEP)


def place(button: Locator) -> tuple[float, ...]:
    box = button.bounding_box()
    assert box is not None
    return box["x"], box["y"], box["width"], box["height"]


def test_picking_a_reason_shows_its_offer_and_moves_no_button(
    page: Page, demo: Demo, other_browser: Callable[[], Page]
) -> None:
    offer(other_browser(), demo)
    step = step_of(page, demo)
    final = step.get_by_role("button", name=FINAL)
    expect(step.get_by_text("Half price for the next three boxes.")).to_be_visible()
    before = place(final)
    with Portal(page, demo.acme).loads() as loads:
        step.get_by_label("Why? (optional)").select_option("I have too much of it")
        expect(step.get_by_text("Half price for the next three boxes.")).to_have_count(0)
        expect(step.get_by_role("link", name=re.compile("Pause subscription"))).to_be_visible()
        expect(final).to_be_enabled()
        assert place(final) == before
        step.get_by_label("Why? (optional)").select_option("Another reason")
        expect(step.get_by_role("link", name=re.compile("Pause subscription"))).to_have_count(0)
        assert place(final) == before
        step.get_by_label("Why? (optional)").select_option("It is too expensive")
        expect(step.get_by_text("Half price for the next three boxes.")).to_be_visible()
        assert place(final) == before
        expect(step.get_by_label("Why? (optional)")).to_have_value("It is too expensive")
        final.click()  # one press, with an offer in sight
        card = Portal(page, demo.acme).card("Monthly coffee box")
        expect(card.locator("[data-proof=confirmed]")).to_be_visible(timeout=60_000)
    assert loads.count == 0


def test_a_pause_instead_is_one_step_of_its_own(
    page: Page, demo: Demo, other_browser: Callable[[], Page]
) -> None:
    offer(other_browser(), demo)
    step = step_of(page, demo)
    step.get_by_label("Why? (optional)").select_option("I have too much of it")
    step.get_by_role("link", name=re.compile("Pause subscription")).click()
    expect(page.get_by_role("heading", name="Pause Monthly coffee box?")).to_be_visible()
    page.get_by_role("main").get_by_role("button", name=re.compile("^Pause subscription")).click()
    card = Portal(page, demo.acme).card("Monthly coffee box")
    expect(card.locator("[data-proof=confirmed]")).to_be_visible(timeout=60_000)
    expect(card).to_contain_text("Paused")


def test_the_shop_is_asked_for_what_it_offers(
    page: Page, demo: Demo, other_browser: Callable[[], Page]
) -> None:
    offer(other_browser(), demo)
    step = step_of(page, demo)
    step.get_by_role("button", name=re.compile("^Ask Acme Coffee for this")).click()
    card = Portal(page, demo.acme).card("Monthly coffee box")
    expect(card).to_contain_text("You asked Acme Coffee for what they offer.")
    expect(card).to_contain_text("Active")
    mail = demo.mail("help@acme.example", "asks for what is offered")
    assert "Half price for the next three boxes." in mail["text"]


def test_without_javascript_every_offer_stands_below_the_button(
    no_script: Page, demo: Demo, other_browser: Callable[[], Page]
) -> None:
    offer(other_browser(), demo)
    step = step_of(no_script, demo)
    final = step.get_by_role("button", name=FINAL)
    offers = step.get_by_test_id("instead")
    expect(offers).to_contain_text("It is too expensive")
    expect(offers).to_contain_text("I have too much of it")
    below, button = offers.bounding_box(), final.bounding_box()
    assert below is not None
    assert button is not None
    assert below["y"] >= button["y"] + button["height"]
    step.get_by_label("Why? (optional)").select_option("It is too expensive")
    final.click()
    card = Portal(no_script, demo.acme).card("Monthly coffee box")
    expect(card).to_contain_text(re.compile("Cancels|Ends|cancel", re.I))


def test_on_a_phone_nothing_runs_over(phone: Page, demo: Demo, other_browser: Callable[[], Page]) -> None:
    offer(other_browser(), demo)
    step = step_of(phone, demo)
    expect(step.get_by_test_id("instead")).to_be_visible()
    assert phone.evaluate("document.documentElement.scrollWidth") <= 375
