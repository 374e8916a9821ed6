"""Signing in by mail: link and code, scanners, other browsers, bad links."""

import re
from collections.abc import Callable

import httpx2 as httpx
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Demo, plain
from tests.e2e.pages.portal import Portal
from tests.e2e.pages.signing_in import SigningIn, walk_in


def _link(demo: Demo, email: str) -> str:
    links: list[str] = demo.mail(email)["links"]
    return next(link for link in links if "/customers/login/" in link)


def test_by_link(page: Page, demo: Demo) -> None:
    walk_in(page, demo)
    expect(page.get_by_text("ana@example.com").first).to_be_visible()


def test_by_code(page: Page, demo: Demo) -> None:
    way = SigningIn(page, demo.acme)
    way.ask("ana@example.com")
    way.by_code(demo.mail("ana@example.com")["code"].lower())
    Portal(page, demo.acme).expect_on("Orders")


def test_scanner_opens_the_link_many_times_and_the_person_still_gets_in(page: Page, demo: Demo) -> None:
    way = SigningIn(page, demo.acme)
    way.ask("ana@example.com")
    link = _link(demo, "ana@example.com")
    host = httpx.URL(link)
    for number in range(20):
        method = "HEAD" if number % 2 else "GET"
        answer = plain.request(
            method,
            link.replace(host.host, "127.0.0.1"),
            headers={"Host": f"{host.host}:{host.port}"},
        )
        assert answer.status_code == 200
    way.by_link(link)
    Portal(page, demo.acme).expect_on("Orders")


def test_scanner_presses_the_button_and_the_code_still_works(
    page: Page, demo: Demo, other_browser: Callable[[], Page]
) -> None:
    way = SigningIn(page, demo.acme)
    way.ask("ana@example.com")
    mail = demo.mail("ana@example.com")
    scanner = other_browser()
    SigningIn(scanner, demo.acme).by_link(_link(demo, "ana@example.com"))
    expect(scanner.get_by_role("heading", level=1, name="Orders")).to_be_visible()
    way.by_code(mail["code"])
    Portal(page, demo.acme).expect_on("Orders")


def test_link_names_the_masked_address_and_works_in_another_browser(
    page: Page, demo: Demo, other_browser: Callable[[], Page]
) -> None:
    SigningIn(page, demo.acme).ask("ana@example.com")
    phone = other_browser()
    phone.goto(_link(demo, "ana@example.com"))
    main = phone.get_by_role("main")
    expect(main).to_contain_text("@example.com")
    expect(main).not_to_contain_text("ana@example.com")
    phone.get_by_role("button", name="Sign in").click()
    Portal(phone, demo.acme).expect_on("Orders")


def test_code_is_worthless_in_another_browser(
    page: Page, demo: Demo, other_browser: Callable[[], Page]
) -> None:
    SigningIn(page, demo.acme).ask("ana@example.com")
    code = demo.mail("ana@example.com")["code"]
    stranger = other_browser()
    way = SigningIn(stranger, demo.acme)
    way.ask("chi@example.com")
    way.by_code(code)
    expect(stranger.get_by_role("main")).to_contain_text("code")
    assert "/customers/orders" not in stranger.url


def test_used_link_says_so_and_offers_a_new_one(page: Page, demo: Demo) -> None:
    walk_in(page, demo)
    link = _link(demo, "ana@example.com")
    page.get_by_role("button", name="Sign out").click()
    page.goto(link)
    expect(page.get_by_role("main")).to_contain_text(re.compile("used", re.I))
    before = len(demo.mails("ana@example.com"))
    page.get_by_role("main").get_by_role("button").first.click()
    demo.mail("ana@example.com", count=1)
    for _ in range(50):
        if len(demo.mails("ana@example.com")) > before:
            break
        page.wait_for_timeout(100)
    assert len(demo.mails("ana@example.com")) > before


def test_expired_link_says_so(page: Page, demo: Demo) -> None:
    SigningIn(page, demo.acme).ask("ana@example.com")
    link = _link(demo, "ana@example.com")
    demo.advance(11 * 60)
    page.goto(link)
    expect(page.get_by_role("main")).to_contain_text(re.compile("expired|run out|10 minutes", re.I))
    expect(page.get_by_role("main").get_by_role("button").first).to_be_visible()


@pytest.mark.parametrize("token", ["x", "A" * 43, "%00", "..%2f..", "A" * 500])
def test_malformed_link_is_a_page_not_a_fault(page: Page, demo: Demo, token: str) -> None:
    answer = page.goto(f"{demo.acme}/customers/login/{token}")
    assert answer is not None
    assert answer.status < 500
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_link_of_one_portal_opens_nothing_in_another(page: Page, demo: Demo) -> None:
    SigningIn(page, demo.acme).ask("ana@example.com")
    page.goto(_link(demo, "ana@example.com").replace(demo.acme, demo.kora))
    expect(page.get_by_role("button", name="Sign in", exact=True)).to_have_count(0)


def test_unknown_address_gets_the_same_page_and_no_mail(page: Page, demo: Demo) -> None:
    SigningIn(page, demo.acme).ask("nobody@example.com")
    page.wait_for_timeout(1500)
    assert demo.mails("nobody@example.com") == []


def test_returns_to_the_page_that_was_asked_for(page: Page, demo: Demo) -> None:
    way = SigningIn(page, demo.acme)
    way.ask("ana@example.com", "/customers/payments")
    way.by_link(_link(demo, "ana@example.com"))
    Portal(page, demo.acme).expect_on("Payment history")


def test_sign_out_and_back_shows_nothing(page: Page, demo: Demo) -> None:
    walk_in(page, demo)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("E-mail")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="Orders", level=1)).to_have_count(0)


def test_sign_out_everywhere_ends_the_other_browser(
    page: Page, demo: Demo, other_browser: Callable[[], Page]
) -> None:
    walk_in(page, demo)
    second = other_browser()
    walk_in(second, demo)
    demo.mail("ana@example.com", "new")  # signed in from a new browser
    second.goto(f"{demo.acme}/customers/sessions")
    second.get_by_role("button", name=re.compile("everywhere", re.I)).click()
    page.goto(f"{demo.acme}/customers/orders")
    expect(page.get_by_label("E-mail")).to_be_visible()


def test_without_javascript(no_script: Page, demo: Demo) -> None:
    way = SigningIn(no_script, demo.acme)
    way.ask("ana@example.com")
    way.by_code(demo.mail("ana@example.com")["code"])
    Portal(no_script, demo.acme).expect_on("Orders")
