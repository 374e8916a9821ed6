"""The merchant's side in a browser: from the first start to a live portal; logo, preview, roles, passkeys."""

import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, expect

from portal.demo import Mailbox
from portal.vault import new_key
from tests.e2e.conftest import ROOT, Demo, free_port, plain
from tests.e2e.pages.settings import Settings, sign_in_merchant, walk_in_merchant
from tests.e2e.pages.signing_in import SigningIn

WAYS = [(1200, True), (375, True), (1200, False), (375, False)]


@pytest.fixture
def logo(tmp_path: Path) -> Path:
    """A wide mark on a transparent ground."""
    picture = Image.new("RGBA", (600, 200), (0, 0, 0, 0))
    ImageDraw.Draw(picture).rounded_rectangle((0, 0, 599, 199), 40, fill="#b3261e")
    path = tmp_path / "logo.png"
    picture.save(path)
    return path


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0]}-{'script' if way[1] else 'no script'}")
def visitor(
    request: pytest.FixtureRequest, browser: Browser, browser_context_args: dict[str, Any]
) -> Iterator[Page]:
    """A browser at the width of a desktop and of a phone, with and without JavaScript."""
    width, script = request.param
    context = browser.new_context(
        **{
            **browser_context_args,
            "viewport": {"width": width, "height": 900},
            "java_script_enabled": script,
        }
    )
    page = context.new_page()
    page.set_default_timeout(30_000)
    yield page
    context.close()


# First start


@dataclass
class Installation:
    """A portal on its first day: nobody in it, its terminal, its mails."""

    origin: str
    port: int
    link: str
    mailbox: Mailbox


@pytest.fixture(scope="module")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `portal migrate` makes where there is nothing."""
    folder = tmp_path_factory.mktemp("new")
    subprocess.run(
        [sys.executable, "-m", "portal", "migrate"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PORTAL_DATABASE_URL": f"sqlite:///{folder}/portal.db"},
        check=True,
        capture_output=True,
        cwd=folder,
    )
    return folder / "portal.db"


@pytest.fixture
def installation(tmp_path: Path, running_demo: Demo, new_database: Path) -> Iterator[Installation]:
    """`portal serve` on an empty database, on a terminal; the demo's simulators stand in for the processors."""
    port = free_port()
    with Mailbox() as mailbox:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PORTAL_DATABASE_URL": f"sqlite:///{tmp_path}/portal.db",
            "PORTAL_MASTER_KEYS": new_key(),
            "PORTAL_SECRET_KEY": "a secret for the first day",
            "PORTAL_SCHEME": "http",
            "PORTAL_PUBLIC_PORT": str(port),
            "PORTAL_BASE_DOMAIN": "localhost",
            "PORTAL_SMTP_PORT": str(mailbox.port),
            "PORTAL_SMTP_TLS": "none",
            "PORTAL_DEMO": "true",
            "PORTAL_SIMULATORS": json.dumps(running_demo.simulators),
        }
        shutil.copy(new_database, tmp_path)
        ours, theirs = pty.openpty()
        log = (tmp_path / "log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "portal", "serve", "--port", str(port)],
            env=environment,
            stdout=theirs,
            stderr=log,
            cwd=tmp_path,
            close_fds=True,
        )
        os.close(theirs)
        try:
            link = _link_on(ours, tmp_path / "log")
            assert link not in (tmp_path / "log").read_text()  # the log keeps what it gets
            yield Installation(f"http://admin.localhost:{port}", port, link, mailbox)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            os.close(ours)
            log.close()
    assert "Traceback" not in (tmp_path / "log").read_text()


def _link_on(terminal: int, log: Path) -> str:
    """The one-time link that the terminal shows."""
    seen, deadline = b"", time.monotonic() + 90
    while time.monotonic() < deadline:
        ready, _, _ = select.select([terminal], [], [], 0.5)
        if ready:
            try:
                seen += os.read(terminal, 4096)
            except OSError:
                break  # the server has ended
        found = re.search(rb"http://\S+/setup/\S+", seen)
        if found and b"\n" in seen[found.end() :]:
            return found[0].decode()
    raise AssertionError(f"no link on the terminal: {seen!r}; {log.read_text()[-2000:]}")


def test_from_the_first_start_to_a_live_portal(
    visitor: Page, installation: Installation, logo: Path, other_browser: Callable[[], Page]
) -> None:
    visitor.goto(installation.link)
    visitor.get_by_label("Name of your business").fill("Blue Bottle Ltd")
    visitor.get_by_label("E-mail address").fill("olga@blue.example")
    visitor.get_by_label("Your name").fill("Olga")
    visitor.get_by_role("button", name="Begin").click()
    settings = Settings(visitor, installation.origin)
    settings.create("Blue Bottle", logo=logo)
    settings.heading("Customer Portal")
    expect(visitor.get_by_test_id("logo-now")).to_be_visible()
    stripe = {"secret_key": "sk_test_AcmeCoffee000000000001", "webhook_secret": "whsec_AcmeCoffee0001"}
    settings.connect("Stripe", "Cards", stripe)
    expect(visitor.get_by_role("heading", level=1)).to_contain_text("Cards")
    payfast = {
        "merchant_id": "10000100",
        "merchant_key": "46f0cd694581a",
        "passphrase": "acme coffee beans",
        "sandbox": "no",
    }
    settings.connect("PayFast", "Debit orders", payfast, mode="Live")
    expect(visitor.get_by_role("heading", level=1)).to_contain_text("Debit orders")
    visitor.get_by_role("link", name="Processors", exact=True).first.click()
    expect(visitor.get_by_test_id("account")).to_have_count(2)

    # A customer who bought before the portal was there.
    customer = other_browser()
    shop = f"http://blue-bottle.localhost:{installation.port}"
    customer.goto(f"{shop}/customers")
    expect(customer.get_by_role("img", name="Blue Bottle")).to_be_visible()
    mail = _mail_for(installation, customer, shop, "ana@example.com")
    SigningIn(customer, shop).by_link(next(link for link in mail.links if "/customers/login/" in link))
    expect(customer.get_by_role("heading", level=1)).to_have_text("Orders")
    expect(customer.get_by_test_id("order").first).to_be_visible()


def _mail_for(installation: Installation, page: Page, shop: str, email: str) -> Any:
    """Ask until there is a mail: the first import is on its way, and strangers get none."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        SigningIn(page, shop).ask(email)
        for _ in range(40):
            found = [mail for mail in installation.mailbox.mails if mail.to == email]
            if found:
                return found[-1]
            time.sleep(0.1)
    raise AssertionError(f"no mail to {email}")


# The logo, in a browser


def test_a_logo_goes_up_as_soon_as_it_is_chosen(page: Page, demo: Demo, logo: Path) -> None:
    settings = sign_in_merchant(page, demo)
    site = settings.first_portal()
    settings.open(site)
    before = page.get_by_test_id("logo-now").get_attribute("src")
    page.get_by_label("Logo", exact=True).set_input_files(logo)
    expect(page.get_by_test_id("logo-now")).not_to_have_attribute("src", str(before))
    expect(page.locator("#body > p[role=status]")).to_have_text("The logo is up.")
    expect(page.get_by_test_id("logo-notes")).to_contain_text("32 pixels high")
    now = str(page.get_by_test_id("logo-now").get_attribute("src"))
    # It is there at once: on the preview, the sign-in page, and as bytes of our own drawing.
    expect(page.get_by_test_id("preview-light").get_by_role("img")).to_have_attribute("src", now)
    name = now.rpartition("/")[2]
    front = page.context.new_page()
    front.goto(f"{demo.acme}/customers")
    expect(front.get_by_role("img", name="Acme Coffee")).to_have_attribute("src", f"/customers/logo/{name}")
    kept = demo.fetch(front, f"{demo.acme}/customers/logo/{name}").content
    drawn = Image.open(io.BytesIO(kept), formats=["PNG"])
    assert drawn.size == (96, 32)
    assert set(drawn.info) <= {"transparency"}  # no profile, no words


def test_a_logo_is_dropped_onto_the_field(page: Page, demo: Demo, logo: Path) -> None:
    settings = sign_in_merchant(page, demo)
    settings.open(settings.first_portal())
    before = str(page.get_by_test_id("logo-now").get_attribute("src"))
    transfer = page.evaluate_handle(
        """async (bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "logo.png", {type: "image/png"}));
            const field = document.querySelector("#logo");
            field.files = transfer.files;
            field.dispatchEvent(new Event("change", {bubbles: true}));
        }""",
        list(logo.read_bytes()),
    )
    assert transfer is not None
    expect(page.get_by_test_id("logo-now")).not_to_have_attribute("src", before)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("logo.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        ("logo.png", b"%PDF-1.7\n", "PDF"),
        ("logo.gif", b"GIF89a" + bytes(20), "GIF"),
    ],
)
def test_a_wrong_file_is_said_beside_the_field(
    page: Page, demo: Demo, tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    settings = sign_in_merchant(page, demo)
    settings.open(settings.first_portal())
    path = tmp_path / name
    path.write_bytes(content)
    page.get_by_label("Logo", exact=True).set_input_files(path)
    expect(page.locator("#logo-error")).to_contain_text(says)
    expect(page.get_by_test_id("logo-now")).to_be_visible()  # the old one stays


def test_fifty_megabytes_are_refused_before_they_are_sent_and_after(
    page: Page, no_script: Page, demo: Demo, tmp_path: Path
) -> None:
    path = tmp_path / "big.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50 * 1_048_576))
    settings = sign_in_merchant(page, demo)
    settings.open("/settings/portals/new")
    page.get_by_label("Name").fill("Blue Bottle")
    page.get_by_label("Logo").set_input_files(path)
    message = page.get_by_label("Logo").evaluate("field => field.validationMessage")
    assert "1 MB" in message
    # Without script it travels, and what was typed is still there.
    settings = sign_in_merchant(no_script, demo)
    settings.open("/settings/portals/new")
    no_script.get_by_label("Name").fill("Blue Bottle")
    no_script.get_by_label("Logo").set_input_files(path)
    no_script.get_by_role("button", name="Create Customer Portal").click()
    expect(no_script.locator("#logo-error")).to_contain_text("1 MB")
    expect(no_script.get_by_label("Name")).to_have_value("Blue Bottle")


# Edit and preview


def test_the_preview_follows_what_is_typed(page: Page, demo: Demo) -> None:
    settings = sign_in_merchant(page, demo)
    settings.open(settings.first_portal())
    page.get_by_label("Name", exact=True).fill("Typed Coffee")
    page.get_by_label("Brand colour").fill("#ffcc00")
    desktop = page.get_by_test_id("preview-light")
    expect(desktop).to_contain_text("Your Typed Coffee account")
    button = desktop.locator(".btn.primary")
    expect(button).to_have_css("background-color", "rgb(255, 204, 0)")
    expect(button).to_have_css("color", "rgb(0, 0, 0)")
    expect(page.locator("#preview .note")).to_contain_text("too light")
    page.get_by_role("button", name="Save settings").click()
    expect(page.locator("#body > p[role=status]")).to_have_text("Saved.")
    page.goto(f"{demo.acme}/customers")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Typed Coffee", timeout=30_000)


def test_without_script_everything_is_saved_too(no_script: Page, demo: Demo) -> None:
    settings = walk_in_merchant(no_script, demo)
    settings.open(settings.first_portal())
    no_script.get_by_label("Support address").fill("tea@acme.example")
    no_script.get_by_label("Time zone").fill("Mars/Olympus")
    no_script.get_by_role("button", name="Save settings").click()
    expect(no_script.get_by_role("alert")).to_contain_text("Enter a time zone such as")
    expect(no_script.get_by_label("Time zone")).to_have_value("Mars/Olympus")
    no_script.get_by_label("Time zone").fill("Europe/Paris")
    no_script.get_by_role("button", name="Save settings").click()
    expect(no_script.get_by_label("Support address")).to_have_value("tea@acme.example")
    expect(no_script.locator("p.note.ok")).to_have_text("Saved.")


def test_a_viewer_sees_and_changes_nothing(page: Page, demo: Demo) -> None:
    settings = sign_in_merchant(page, demo, "viewer@acme.example")
    expect(page.get_by_role("link", name="Create Customer Portal")).to_have_count(0)
    settings.open(settings.first_portal())
    expect(page.get_by_role("button", name="Save settings")).to_have_count(0)
    expect(page.locator("main input[type=file]")).to_have_count(0)


# Passkeys


def test_a_passkey_is_added_and_signs_in_by_itself(page: Page, demo: Demo) -> None:
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    session.send(
        "WebAuthn.addVirtualAuthenticator",
        {
            "options": {
                "protocol": "ctap2",
                "transport": "internal",
                "hasResidentKey": True,
                "hasUserVerification": True,
                "isUserVerified": True,
                "automaticPresenceSimulation": True,
            }
        },
    )
    settings = walk_in_merchant(page, demo)
    settings.open("/settings/security")
    page.get_by_role("button", name="Add a passkey").click()
    expect(page.get_by_test_id("passkey")).to_have_count(1)
    page.get_by_role("button", name="Sign out", exact=True).click()
    expect(page).to_have_url(re.compile("/sign-in$"))
    page.get_by_role("button", name="Sign in with a passkey").click()
    expect(page).to_have_url(re.compile("/settings$"))
    settings.open("/settings/security")
    expect(page.get_by_test_id("passkey")).to_have_count(1)


# Each side on its own host


def test_the_sides_share_nothing(page: Page, demo: Demo) -> None:
    walk_in_merchant(page, demo)
    for path in ("/settings", "/sign-in", "/settings/people"):
        answer = page.goto(f"{demo.acme}{path}")
        assert answer is not None
        assert answer.status == 404
    cookies = {cookie["name"]: cookie["domain"] for cookie in page.context.cookies()}
    assert cookies["portal-merchant"] == "admin.localhost"
    assert plain.get(f"{demo.base}/settings", headers={"Host": "evil.example"}).status_code == 421
