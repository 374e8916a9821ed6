"""The way in: the form, the mail, the link's page, the code."""

import re
import time
from collections.abc import Callable
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
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


def walk_in(page: Page, demo: "Demo", email: str = "ana@example.com", origin: str | None = None) -> None:
    """Sign in by mail on the pages, as a customer does; ends on the orders."""
    way = SigningIn(page, origin or demo.acme)
    mail = next_code(demo, email, lambda: way.ask(email))
    way.by_link(_link(mail))
    _at_orders(page)


def sign_in(page: Page, demo: "Demo", email: str = "ana@example.com", origin: str | None = None) -> None:
    """Signed in by mail, with the requests that `walk_in` makes and without drawing its pages; ends on the orders."""
    origin = origin or demo.acme
    mail = next_code(
        demo, email, lambda: _sent(page, demo, origin, "/customers/login", {"email": email}, "/login/check")
    )
    _sent(page, demo, origin, _link(mail).removeprefix(origin), {}, "/customers/orders")
    page.goto(f"{origin}/customers/orders")
    _at_orders(page)


def sign_in_at_door(page: Page, demo: "Demo", email: str) -> None:
    """The same on the merchant's side, by the code."""
    mail = next_code(
        demo, email, lambda: _sent(page, demo, demo.admin, "/sign-in", {"email": email}, "/sign-in/check")
    )
    _sent(page, demo, demo.admin, "/sign-in/code", {"code": mail["code"]}, "/settings")


def next_code(demo: "Demo", email: str, ask: Callable[[], object]) -> dict[str, Any]:
    """The mail that comes after this is asked for; those that were there before count as old."""
    before = len(_with_code(demo, email))
    ask()
    deadline = time.monotonic() + 60
    while len(mails := _with_code(demo, email)) <= before:
        assert time.monotonic() < deadline, f"no sign-in mail to {email}"
        time.sleep(0.03)
    return mails[0]


def _with_code(demo: "Demo", email: str) -> list[dict[str, Any]]:
    return [mail for mail in demo.mails(email) if mail["code"]]


def _link(mail: dict[str, Any]) -> str:
    links: list[str] = mail["links"]
    return next(link for link in links if "/customers/login/" in link)


def _at_orders(page: Page) -> None:
    expect(page.get_by_role("heading", level=1, name="Orders")).to_be_visible()


def _sent(page: Page, demo: "Demo", origin: str, path: str, form: dict[str, str], then: str) -> None:
    """A form of ours, sent as this page's browser would, which keeps the cookies that come back."""
    headers = {"Origin": origin, "User-Agent": page.evaluate("navigator.userAgent")}
    answer = demo.fetch(page, origin + path, "POST", headers, form)
    assert answer.status_code == 303, f"{path}: {answer.status_code}"
    assert re.search(f"{then}$", answer.headers["location"]), answer.headers["location"]
    for line in answer.headers.get_list("set-cookie"):
        ((name, cookie),) = SimpleCookie(line).items()
        assert cookie["samesite"].lower() == "lax"
        page.context.add_cookies(
            [
                {
                    "name": name,
                    "value": cookie.value,
                    "domain": httpx.URL(origin).host,
                    "path": cookie["path"],
                    "expires": time.time() + int(cookie["max-age"]) if cookie["max-age"] else -1,
                    "httpOnly": bool(cookie["httponly"]),
                    "sameSite": "Lax",
                }
            ]
        )
