"""The benchmarks run, and measure what they say."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import scale, tabs, weight
from tests.postgres import programs

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("db", ["sqlite", "postgresql"])
def test_tabs_runs_small(db: str) -> None:
    if db == "postgresql" and programs() is None:
        pytest.skip("no PostgreSQL here")
    command = "-m bench.tabs --rows 1000 --rounds 1 --requests 30 --without-django --json --db"
    done = subprocess.run(
        [sys.executable, *command.split(), db], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {db}
    measured = found[db]
    assert measured["rows"] == 1000
    assert measured["bare_cpu_us"] > 0
    assert measured["tab_cpu_us"] > 0
    assert measured["vs_bare"] == pytest.approx(measured["tab_cpu_us"] / measured["bare_cpu_us"], abs=0.02)
    assert 0 < measured["p50_ms"] <= measured["p99_ms"]


def test_cpu_time_of_children_is_counted() -> None:
    burn = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass\nprint(flush=True)\n"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn + 'time.sleep(60)'!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        served = tabs.Served("burner", 0, process, [])
        assert process.stdout is not None
        process.stdout.readline()
        children = [pid for pid in tabs._family(process.pid) if pid != process.pid]
        spent = served.cpu_us()
        process.kill()
        for pid in children:
            subprocess.run(["kill", str(pid)], check=True)
    assert len(children) == 1
    assert spent > 350_000


def test_an_answer_that_is_no_page_stops_the_measuring() -> None:
    async def story() -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 303 See Other\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        async with server:
            connection = tabs.Connection(server.sockets[0].getsockname()[1])
            try:
                await connection.ask(b"GET / HTTP/1.1\r\n\r\n")
            finally:
                connection.close()

    with pytest.raises(RuntimeError, match="303"):
        asyncio.run(story())


def test_words_of_a_page_are_compared_without_its_tags() -> None:
    one = b'<h1 id="a">Your  orders</h1>\n<p>Tea &amp; more</p>'
    other = b"<h1>Your orders</h1><p>Tea &#38; more</p>"
    assert tabs.visible_text(one) == tabs.visible_text(other) == "Your orders Tea & more"


LIGHT = {
    "document_bytes": 5000,
    "bytes_total": 20_000,
    "stylesheet_bytes": 4000,
    "script_bytes": 15_000,
    "requests": 4,
    "third_party": 0,
    "cls": 0.0,
    "fcp_ms": 800.0,
}
SIGN_IN = {**LIGHT, "bytes_total": 5000, "requests": 2}


def weighed(**heavier: float) -> dict[str, object]:
    pages = {"sign_in": SIGN_IN, **{tab: dict(LIGHT) for tab in weight.TABS}}
    pages["payments"] = {**LIGHT, **heavier}
    return {"pages": pages, "next_tab_bytes": {"subscriptions": 2000, "upcoming": 1500, "payments": 3000}}


def test_pages_within_the_limits_pass() -> None:
    assert [limit.what for limit in weight.check(weighed()) if not limit.held] == []


@pytest.mark.parametrize(
    ("figure", "value", "broken"),
    [
        ("document_bytes", 6145, "document of a tab"),
        ("bytes_total", 20_481, "first visit"),
        ("stylesheet_bytes", 4097, "stylesheet"),
        ("script_bytes", 16_385, "script"),
        ("requests", 5, "first visit, with the logo"),
        ("third_party", 1, "third parties"),
        ("cls", 0.01, "layout shift"),
        ("fcp_ms", 1001, "first paint on slow 4G"),
    ],
)
def test_one_page_past_a_limit_is_enough_to_fail(figure: str, value: float, broken: str) -> None:
    assert [limit.what for limit in weight.check(weighed(**{figure: value})) if not limit.held] == [broken]


@pytest.mark.parametrize("db", ["sqlite", "postgresql"])
def test_every_screen_is_measured_and_a_missing_index_is_found(db: str) -> None:
    if db == "postgresql" and programs() is None:
        pytest.skip("no PostgreSQL here")
    with scale.Home() as home:
        (built,) = home.build_all(db, [2_000])
        found = asyncio.run(scale.measure([built], rounds=1, requests=2))
        assert home.build_all(db, [2_000]) == [built]  # it is there already
        with scale.connected(home._url(db, 2_000)) as connection:
            connection.execute("DROP INDEX ix_order_list")
        shop = scale.Shop(built, visits=1)
        worse = asyncio.run(scale.look_at_plans(shop, ["orders of many", "asked"]))
        shop.close()
    one = found["sizes"]["2000"]
    assert one["rows"]["order_"] == 2_000
    assert one["rows"]["payment"] == 4_000
    assert one["bytes_per_order"] > 1_000
    assert set(one["screens"]) == set(scale.SCREENS)
    bad_ones = {name for name, screen in one["screens"].items() if not screen["plan_ok"]}
    assert bad_ones == set(), scale.wrong(db, found)
    for screen in one["screens"].values():
        assert 0 < screen["p50_ms"] <= screen["p99_ms"]
        assert min(screen["cpu_us"], screen["bytes"], screen["statements"], screen["work"]) > 0
    (bad,) = worse["orders of many"].bad
    assert "sorts" in bad["why"]
    assert "FROM order_" in bad["statement"]
    assert worse["asked"].bad == []


def test_a_screen_that_slows_down_and_a_bad_plan_make_it_fail() -> None:
    bad = {"why": "reads all of payment", "statement": "SELECT 1 FROM payment", "plan": ["SCAN payment"]}
    screens = {"orders": {"bad": []}, "payments": {"bad": [bad]}}
    found = {"sizes": {"2000": {"screens": screens}}, "ratios": {"orders": 1.21, "payments": 1.2}}
    assert scale.wrong("sqlite", found) == [
        "sqlite, 2000 orders, payments: reads all of payment: SELECT 1 FROM payment",
        "sqlite, orders: takes 1.21 times as long at the largest size",
    ]


def test_what_does_not_fit_on_the_disk_is_refused_before_it_is_begun(tmp_path: Path) -> None:
    scale.refuse_without_room(4_000, 1_000_000, 6_000_000_000, tmp_path)
    with pytest.raises(SystemExit, match=r"1,000,000 orders take 5.6 GB .* 5.0 GB free: give --keep"):
        scale.refuse_without_room(4_000, 1_000_000, 5_000_000_000, tmp_path)
