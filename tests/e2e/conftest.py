"""The demo in a process of its own, a real Chromium, and page objects. Each test begins from the demo's first state."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from portal import clock
from portal.gateways import facts
from seeds.simulators.harness import names, simulator

ROOT = Path(__file__).parents[2]
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]

# One client for all, since making one takes longer than what it asks; it keeps no cookie and no connection.
plain = httpx.Client(
    trust_env=False,
    timeout=30,
    cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    limits=httpx.Limits(max_keepalive_connections=0),
)
expect.set_options(timeout=20_000)  # what is waited for comes at once, but not on a busy machine


@dataclass(frozen=True)
class Demo:
    """The running demo: where things are, and its switches."""

    acme: str  # origin of the portal, without /customers
    kora: str
    nova: str
    admin: str  # origin of the merchant's side
    base: str  # of the demo's own addresses
    simulators: dict[str, str]

    def mails(self, to: str) -> list[dict[str, Any]]:
        """What the mailbox holds for an address, newest first."""
        found: list[dict[str, Any]] = plain.get(f"{self.base}/__demo/mailbox.json", params={"to": to}).json()
        return found

    def mail(self, to: str, subject: str = "", count: int = 1) -> dict[str, Any]:
        """The newest mail to an address whose subject holds these words; waits until `count` such are there."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = [mail for mail in self.mails(to) if subject.lower() in mail["subject"].lower()]
            if len(found) >= count:
                return found[0]
            time.sleep(0.03)
        raise AssertionError(f"no mail to {to} about {subject!r}: {[m['subject'] for m in self.mails(to)]}")

    def fetch(
        self,
        page: Page,
        url: str,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        form: dict[str, str] | None = None,
    ) -> httpx.Response:
        """A request as this page's browser would send it, cookies included, without a browser's own headers."""
        wanted = httpx.URL(url)
        cookies = "; ".join(f"{c['name']}={c['value']}" for c in page.context.cookies(url))
        return plain.request(
            method,
            url.replace(f"//{wanted.host}", "//127.0.0.1", 1),
            headers={"Host": f"{wanted.host}:{wanted.port}", "Cookie": cookies, **(headers or {})},
            data=form,
        )

    def reset(self) -> None:
        self._post("reset", {})

    def advance(self, seconds: float) -> None:
        self._post("clock", {"advance": seconds})

    def switch(self, simulator: str, mode: str) -> None:
        self._post(f"simulators/{simulator}/switch", {"mode": mode})

    def _post(self, path: str, body: dict[str, Any]) -> None:
        answer = plain.post(f"{self.base}/__demo/{path}", json=body)
        assert answer.status_code == 200, answer.text


def free_port() -> int:
    """A port with a free one after it for each simulator; test processes look in places of their own."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    places = range(18_000 + 3_000 * worker, 30_000, 40)
    first = os.getpid() % 70  # another run side by side begins elsewhere
    base: int
    for base in (*places[first:], *places[:first]):
        try:
            for offset in range(1 + len(names())):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", base + offset))
        except OSError:
            continue
        return base
    raise RuntimeError("no free ports")


@pytest.fixture(scope="session")
def running_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    port = free_port()
    folder = tmp_path_factory.mktemp("demo")
    (folder / "var").mkdir()
    log = (folder / "demo.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "portal", "demo", "--port", str(port), "--reset", "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=log,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (folder / "demo.log").read_text()[-3000:]
        addresses = json.loads(line)
        demo = Demo(
            acme=addresses["portals"]["acme"].removesuffix("/customers"),
            kora=addresses["portals"]["kora"].removesuffix("/customers"),
            nova=addresses["portals"]["nova"].removesuffix("/customers"),
            admin=addresses["settings"].removesuffix("/settings"),
            base=f"http://127.0.0.1:{port}",
            simulators=addresses["simulators"],
        )
        _wait_ready(demo.base)
        yield demo
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        if process.stdout:
            process.stdout.close()
        log.close()
    problems = (folder / "demo.log").read_text()
    assert "Traceback" not in problems, problems[-5000:]
    assert _secrets_told(folder) == []


def _secrets_told(folder: Path) -> list[str]:
    """Keys of the sample accounts that stand openly in the log or the database, after all that the tests did."""
    told = []
    places = [folder / "demo.log", *(folder / "var" / "demo").glob("portal.db*")]
    for name in names():
        secret = {field.name for field in facts(name).credentials if field.secret}
        for sample in simulator(name, clock.now).samples():
            for field, value in sample.credentials.items():
                if field in secret and len(value) >= 12:
                    told += [
                        f"{name} {field} in {p.name}" for p in places if value.encode() in p.read_bytes()
                    ]
    return told


def _wait_ready(base: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if plain.get(f"{base}/health/ready").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise AssertionError("the demo did not become ready")


@pytest.fixture
def demo(running_demo: Demo) -> Demo:
    running_demo.reset()
    return running_demo


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """The shell, where there is one, draws a page with less than half the work of the whole browser."""
    names = ("chromium-headless-shell", "chromium", "google-chrome")
    chromium = os.environ.get("PORTAL_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    found = {"executable_path": chromium} if chromium else {}
    return {**browser_type_launch_args, **found, "args": CHROMIUM_FLAGS}


@pytest.fixture(scope="session")
def browser_context_args(browser_context_args: dict[str, Any]) -> dict[str, Any]:
    return {**browser_context_args, "reduced_motion": "reduce", "locale": "en-GB"}


@pytest.fixture
def page(page: Page) -> Iterator[Page]:
    """A page that tolerates nothing: no script error, no breach of the content policy, no stranger's host."""
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(f"script: {error}"))
    page.on(
        "console",
        lambda message: (
            complaints.append(f"console: {message.text}")
            if "Content Security Policy" in message.text or "Content-Security-Policy" in message.text
            else None
        ),
    )
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("data:", "blob:")) or _is_ours(request.url)
            else complaints.append(f"third party: {request.url}")
        ),
    )
    page.set_default_timeout(30_000)
    yield page
    assert complaints == []


def _is_ours(url: str) -> bool:
    host = httpx.URL(url).host
    return host in ("127.0.0.1", "localhost") or host.endswith(".localhost")


@pytest.fixture
def phone(browser: Browser, browser_context_args: dict[str, Any]) -> Iterator[Page]:
    context = browser.new_context(**{**browser_context_args, "viewport": {"width": 375, "height": 812}})
    page = context.new_page()
    page.set_default_timeout(30_000)
    yield page
    context.close()


@pytest.fixture
def no_script(browser: Browser, browser_context_args: dict[str, Any]) -> Iterator[Page]:
    """A browser with JavaScript off."""
    context = browser.new_context(**{**browser_context_args, "java_script_enabled": False})
    page = context.new_page()
    page.set_default_timeout(30_000)
    yield page
    context.close()


@pytest.fixture
def other_browser(browser: Browser, browser_context_args: dict[str, Any]) -> Iterator[Callable[[], Page]]:
    """Another browser altogether: nothing shared with the first one."""
    contexts: list[BrowserContext] = []

    def make() -> Page:
        context = browser.new_context(**browser_context_args)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        return page

    yield make
    for context in contexts:
        context.close()
