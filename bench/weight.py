"""What a page weighs on the wire and how soon it shows, in a real browser that has nothing in its cache.

    .venv/bin/python -m bench.weight [--json] [--runs 3]

Starts a demo of its own, signs in, and loads each page over a slow 4G line (150 ms, 1.6 Mb/s) on a processor slowed
down four times. Bytes are those of headers and bodies of the answers, compressed as they came; 1 KB is 1,024. The
merchant's logo counts as a request, its bytes are left out. Ends with status 1 where a limit is passed.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
from playwright.sync_api import Browser, BrowserContext, CDPSession, Page, sync_playwright

ROOT = Path(__file__).parents[1]
TABS = ("orders", "subscriptions", "upcoming", "payments")
LINE = {
    "offline": False,
    "latency": 150,
    "downloadThroughput": 1_600_000 / 8,
    "uploadThroughput": 750_000 / 8,
}
SLOWER = 4
PHONE = {"width": 390, "height": 844}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
WATCH = """
window.__cls = 0;
new PerformanceObserver(list => {
  for (const shift of list.getEntries()) if (!shift.hadRecentInput) window.__cls += shift.value;
}).observe({type: "layout-shift", buffered: true});
"""


def main() -> int:
    options = argparse.ArgumentParser(prog="bench.weight", description=(__doc__ or "").splitlines()[0])
    options.add_argument("--json", action="store_true", help="last line: everything as one JSON object")
    options.add_argument("--runs", type=int, default=3, help="loads of each page; times are medians")
    chosen = options.parse_args()
    with demo() as addresses:
        found = measure(addresses, chosen.runs)
    limits = check(found)
    print_report(found, limits)
    if chosen.json:
        rest = {name: value for name, value in found.items() if name != "pages"}
        print(json.dumps({**found["pages"], **rest, "limits": [asdict(limit) for limit in limits]}))
    return 0 if all(limit.held for limit in limits) else 1


# --- The demo --------------------------------------------------------------------------------------------------------


@contextmanager
def demo() -> Iterator[dict[str, Any]]:
    """A demo in a folder of its own; what its first line says."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("wb") as log:
        (Path(folder) / "var").mkdir()
        process = subprocess.Popen(
            [sys.executable, "-m", "portal", "demo", "--port", str(_free_ports()), "--reset", "--json"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"The demo did not start:\n{(Path(folder) / 'log').read_text()[-3000:]}")
            yield json.loads(line)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _free_ports(count: int = 20) -> int:
    """The first of several free ports in a row: the demo and its simulators."""
    for first in range(31_000, 60_000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise SystemExit("No free ports.")


# --- Measuring -------------------------------------------------------------------------------------------------------


@dataclass
class Load:
    """One load of one page."""

    document_bytes: int = 0
    bytes_total: int = 0
    stylesheet_bytes: int = 0
    script_bytes: int = 0
    requests: int = 0
    third_party: int = 0
    cls: float = 0.0
    fcp_ms: float = 0.0


def measure(addresses: dict[str, Any], runs: int) -> dict[str, Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=FLAGS)
        try:
            start = addresses["portals"]["acme"]
            session = sign_in(browser, addresses)
            pages = {"sign_in": median_load(browser, start, None, runs)}
            for tab in TABS:
                pages[tab] = median_load(browser, f"{start}/{tab}", session, runs)
            steps = {tab: next_tab(browser, start, session, tab) for tab in TABS[1:]}
        finally:
            browser.close()
    return {"pages": {name: asdict(load) for name, load in pages.items()}, "next_tab_bytes": steps}


def _chromium() -> str | None:
    """Debian's browser; None for Playwright's own."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


def sign_in(browser: Browser, addresses: dict[str, Any]) -> Any:
    """Sign in as a customer does, by the link of the mail; what the browser then keeps."""
    email = addresses["people"][0]["email"]
    context = browser.new_context()
    page = context.new_page()
    page.goto(addresses["portals"]["acme"])
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("E-mail").press("Enter")
    page.goto(_link(addresses["mailbox"], email))
    page.get_by_role("main").get_by_role("button").click()
    page.wait_for_url("**/customers/orders")
    state = context.storage_state()
    context.close()
    return state


def _link(mailbox: str, email: str) -> str:
    for _ in range(200):
        mails = httpx.get(f"{mailbox}.json", params={"to": email}, trust_env=False).json()
        links = [link for mail in mails for link in mail["links"] if "/customers/login/" in link]
        if links:
            return str(links[0])
        time.sleep(0.1)
    raise SystemExit("No sign-in mail came.")


def median_load(browser: Browser, url: str, session: Any, runs: int) -> Load:
    """Sizes of the heaviest load, the worst shift, and the time in the middle."""
    loads = [one_load(browser, url, session) for _ in range(runs)]
    heaviest = max(loads, key=lambda load: load.bytes_total)
    heaviest.cls = round(max(load.cls for load in loads), 4)
    heaviest.fcp_ms = round(statistics.median(load.fcp_ms for load in loads), 1)
    return heaviest


def one_load(browser: Browser, url: str, session: Any) -> Load:
    context = browser.new_context(storage_state=session, viewport=PHONE)  # type: ignore[arg-type]
    try:
        page, wire = watched(context, url)
        wire.slow_down()
        page.goto(url, wait_until="networkidle")
        page.wait_for_timeout(300)
        if urlsplit(page.url).path != urlsplit(url).path:
            raise SystemExit(f"{url} led to {page.url}.")
        load = wire.load()
        load.cls = page.evaluate("window.__cls")
        load.fcp_ms = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        return load
    finally:
        context.close()


def next_tab(browser: Browser, start: str, session: Any, tab: str) -> int:
    """Bytes of going to a tab from the first one, by its link, with everything else there already."""
    context = browser.new_context(storage_state=session)
    try:
        page, wire = watched(context, start)
        page.goto(f"{start}/{TABS[0]}", wait_until="networkidle")
        wire.answers.clear()
        page.get_by_role("navigation").locator(f'a[href$="/customers/{tab}"]').click()
        page.wait_for_url(f"**/customers/{tab}")
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(300)
        return sum(answer.size for answer in wire.answers.values() if not answer.is_logo)
    finally:
        context.close()


@dataclass
class Answer:
    url: str
    kind: str
    size: int = 0

    @property
    def is_logo(self) -> bool:
        return self.kind == "Image" and "logo" in self.url


@dataclass
class Wire:
    """What the browser's own counters say of every answer."""

    devtools: CDPSession
    origin: str
    answers: dict[str, Answer] = field(default_factory=dict)

    def slow_down(self) -> None:
        self.devtools.send("Network.emulateNetworkConditions", LINE)
        self.devtools.send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})

    def began(self, event: dict[str, Any]) -> None:
        if not event["request"]["url"].startswith("data:"):
            self.answers[event["requestId"]] = Answer(event["request"]["url"], event.get("type", "Other"))

    def ended(self, event: dict[str, Any]) -> None:
        if event["requestId"] in self.answers:
            self.answers[event["requestId"]].size = int(event["encodedDataLength"])

    def load(self) -> Load:
        def size(kind: str) -> int:
            return sum(answer.size for answer in self.answers.values() if answer.kind == kind)

        return Load(
            document_bytes=size("Document"),
            bytes_total=sum(answer.size for answer in self.answers.values() if not answer.is_logo),
            stylesheet_bytes=size("Stylesheet"),
            script_bytes=size("Script"),
            requests=len(self.answers),
            third_party=sum(_origin(answer.url) != self.origin for answer in self.answers.values()),
        )


def watched(context: BrowserContext, url: str) -> tuple[Page, Wire]:
    context.add_init_script(WATCH)
    page = context.new_page()
    wire = Wire(context.new_cdp_session(page), _origin(url))
    wire.devtools.send("Network.enable")
    wire.devtools.on("Network.requestWillBeSent", wire.began)
    wire.devtools.on("Network.loadingFinished", wire.ended)
    return page, wire


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


# --- The limits ------------------------------------------------------------------------------------------------------


@dataclass
class Limit:
    what: str
    found: float
    most: float
    unit: str = "bytes"

    held: bool = field(init=False)

    def __post_init__(self) -> None:
        self.held = self.found <= self.most


def check(found: dict[str, Any]) -> list[Limit]:
    pages = found["pages"]
    tabs = [pages[tab] for tab in TABS]

    def heaviest(name: str, among: list[dict[str, float]]) -> float:
        return max(page[name] for page in among)

    everywhere = list(pages.values())
    return [
        Limit("sign-in page, complete", pages["sign_in"]["bytes_total"], 5 * 1024),
        Limit("sign-in page, with the logo", pages["sign_in"]["requests"], 2, "requests"),
        Limit("document of a tab", heaviest("document_bytes", tabs), 6 * 1024),
        Limit("stylesheet", heaviest("stylesheet_bytes", tabs), 4 * 1024),
        Limit("script", heaviest("script_bytes", tabs), 16 * 1024),
        Limit("first visit", heaviest("bytes_total", tabs), 20 * 1024),
        Limit("first visit, with the logo", heaviest("requests", tabs), 4, "requests"),
        Limit("next tab", max(found["next_tab_bytes"].values()), 3 * 1024),
        Limit("third parties", heaviest("third_party", everywhere), 0, "requests"),
        Limit("layout shift", heaviest("cls", everywhere), 0, "cls"),
        Limit("first paint on slow 4G", heaviest("fcp_ms", everywhere), 1000, "ms"),
    ]


def print_report(found: dict[str, Any], limits: list[Limit]) -> None:
    columns = ("document_bytes", "bytes_total", "requests", "third_party", "cls", "fcp_ms")
    print(_row("page", columns))
    for name, page in found["pages"].items():
        print(_row(name, [page[column] for column in columns]))
    print()
    for limit in limits:
        held = "pass" if limit.held else "FAIL"
        print(f"{held}  {limit.what:32}{limit.found:>10g} of at most {limit.most:g} {limit.unit}")


def _row(name: str, cells: Sequence[object]) -> str:
    return f"{name:16}" + "".join(f"{cell!s:>16}" for cell in cells)


if __name__ == "__main__":
    sys.exit(main())
