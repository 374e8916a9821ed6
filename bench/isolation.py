"""One processor hangs: do the pages of the others stay quick? Serves the demo, lets customers click cancel at a hanging
processor all the time, and measures the tabs of customers of other processors, before and during.

    python -m bench.isolation [--json] [--seconds 15]

`vs_quiet` is the p95 while it hangs divided by the p95 without; at most 1.2 is the aim.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx

ROOT = Path(__file__).parents[1]
TABS = ("orders", "subscriptions", "upcoming", "payments")
HANGING, WHO = "stripe", "ana@example.com"
OTHERS = ("acme", "emil@example.com")  # PayFast alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        demo = _start(folder, port)
        try:
            found = asyncio.run(_measure(port, options.seconds))
        finally:
            demo.send_signal(signal.SIGTERM)
            demo.wait(30)
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:14}{value}")


def _start(folder: str, port: int) -> "subprocess.Popen[bytes]":
    (Path(folder) / "var").mkdir()
    demo = subprocess.Popen(
        [sys.executable, "-m", "portal", "demo", "--port", str(port), "--reset", "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert demo.stdout is not None
    demo.stdout.readline()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health/ready", trust_env=False).status_code == 200:
                return demo
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise RuntimeError("the demo did not become ready")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return min(int(probe.getsockname()[1]), 60_000)


async def _measure(port: int, seconds: float) -> dict[str, Any]:
    base = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=60) as client:
        other = await _sign_in(client, port, *OTHERS)
        await _load(client, other, 3.0)  # warm
        quiet = await _load(client, other, seconds)
        victims = await _subscriptions(client, port)
        await client.post(f"/__demo/simulators/{HANGING}/switch", json={"mode": "hang"})
        clicking = [asyncio.create_task(_click(client, *victim)) for victim in victims]
        await asyncio.sleep(0.5)
        during = await _load(client, other, seconds)
        hanging = sum(not task.done() for task in clicking)
        for task in clicking:
            task.cancel()
        await asyncio.gather(*clicking, return_exceptions=True)
    before, after = _p95(quiet), _p95(during)
    return {
        "p95_quiet_ms": round(before, 1),
        "p95_hang_ms": round(after, 1),
        "vs_quiet": round(after / before, 2),
        "requests": len(quiet) + len(during),
        "hanging": hanging,
    }


def _p95(times: list[float]) -> float:
    return statistics.quantiles(times, n=20)[-1] * 1000


async def _sign_in(client: httpx.AsyncClient, port: int, slug: str, email: str) -> dict[str, str]:
    """The headers of a signed-in browser."""
    host = f"{slug}.localhost:{port}"
    own = {"Host": host, "Sec-Fetch-Site": "same-origin"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as browser:
        await browser.post("/customers/login", headers=own, data={"email": email})
        for _ in range(100):
            mails = (await browser.get("/__demo/mailbox.json", params={"to": email})).json()
            if mails:
                break
            await asyncio.sleep(0.1)
        path = "/" + mails[0]["links"][0].split("/", 3)[3]
        answer = await browser.post(path, headers=own)
        cookies = "; ".join(part.split(";")[0] for part in answer.headers.get_list("set-cookie"))
    return {"Host": host, "Cookie": cookies, "Sec-Fetch-Site": "same-origin"}


async def _load(client: httpx.AsyncClient, headers: dict[str, str], seconds: float) -> list[float]:
    """Four customers who read tab after tab; seconds per page."""
    times: list[float] = []
    until = time.perf_counter() + seconds

    async def read() -> None:
        number = 0
        while time.perf_counter() < until:
            begun = time.perf_counter()
            answer = await client.get(f"/customers/{TABS[number % 4]}", headers=headers)
            assert answer.status_code == 200, answer.status_code
            times.append(time.perf_counter() - begun)
            number += 1

    await asyncio.gather(*(read() for _ in range(4)))
    return times


async def _subscriptions(client: httpx.AsyncClient, port: int) -> list[tuple[dict[str, str], str]]:
    """Subscriptions at the processor that will hang, with the headers of their owners."""
    import re

    found = []
    for email in (WHO, "gus@example.com", "dana@example.com", "fay@example.com"):
        headers = await _sign_in(client, port, "acme", email)
        page = (await client.get("/customers/subscriptions", headers=headers)).text
        found += [
            (headers, path) for path in re.findall(r'href="(/customers/subscriptions/\w+)/cancel"', page)
        ]
    return found


async def _click(client: httpx.AsyncClient, headers: dict[str, str], path: str) -> None:
    """Cancel, wait as long as it takes, and click again."""
    while True:
        await client.post(f"{path}/cancel", headers=headers, data={"wish": "cancel_now"})
        await asyncio.sleep(1.0)


if __name__ == "__main__":
    main()
