"""`portal import`: which account is meant, what the terminal shows, and Ctrl-C."""

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from portal import clock, imports, models, terminal
from portal.__main__ import app
from portal.connect import Disconnected
from portal.db import Database
from portal.gateways.base import Gateway, Page, Unavailable
from portal.ids import id_text
from portal.imports import Progress
from portal.settings import Settings
from tests.unit.builders import MASTER_KEY, make_account, make_portal
from tests.unit.test_imports import Shelf, page_of


class Terminal(io.StringIO):
    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


class Pressed(Gateway):
    """A list in the middle of which somebody presses Ctrl-C, so many times."""

    def __init__(self, times: int) -> None:
        super().__init__({})
        self.times = times

    async def backfill(self, cursor: str | None = None) -> AsyncIterator[Page]:
        for number in range(int(cursor or 0), 6):
            if number == 2:
                for _ in range(self.times):
                    os.kill(os.getpid(), signal.SIGINT)
                    await asyncio.sleep(0.05)
            yield Page(page_of(number), str(number + 1) if number < 5 else None)


class Shop:
    def __init__(self, tmp_path: Path, empty: Path) -> None:
        path = tmp_path / "portal.db"
        path.write_bytes(empty.read_bytes())
        self.settings = Settings(database_url=f"sqlite:///{path}", master_keys=MASTER_KEY)
        self.database = Database(self.settings.database_url, threads=2)
        self.portal = make_portal(self.database)
        self.account = make_account(self.database, self.portal, label="Main till")

    def read_in(self, out: Terminal, wanted: str = "main till", **options: Any) -> int:
        return asyncio.run(terminal.read_in(self.settings, wanted, out=out, **options))

    def run(self) -> models.ImportRun:
        run = self.database.read_now(imports.newest, self.account.id)
        assert run is not None
        return run


@pytest.fixture
def shop(tmp_path: Path, empty_sqlite: Path) -> Any:
    made = Shop(tmp_path, empty_sqlite)
    yield made
    made.database.dispose()


def shelf(monkeypatch: pytest.MonkeyPatch, gateway: Callable[[], Gateway]) -> None:
    def opened(_s: Any, _v: Any, account: models.Account, patient: bool = False) -> Gateway:
        if account.disconnected_at is not None:
            raise Disconnected
        return gateway()

    monkeypatch.setattr(imports, "open_gateway", opened)


def test_reads_everything_in_with_plain_lines_for_a_log(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf(monkeypatch, lambda: Shelf([page_of(n) for n in range(4)], []))
    out = Terminal(False)
    assert shop.read_in(out, plain_s=0.0) == 0
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("Main till: 15 records, 1 pages")
    assert "a second" in lines[0]
    assert lines[-2].startswith("Main till: 60 records, 4 pages")
    assert lines[-1] == "Done: everything that the processor lists has been read in."
    assert "\r" not in out.getvalue()
    assert shop.run().asked_by == "command line"


def test_a_terminal_has_one_line_that_changes(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "EVERY_S", 0.0)
    shelf(monkeypatch, lambda: Shelf([page_of(n) for n in range(4)], []))
    out = Terminal(True)
    assert shop.read_in(out) == 0
    first, _, rest = out.getvalue().partition("\n")
    assert first.count("\rMain till: ") >= 4
    assert first.count("\x1b[K") == first.count("\r")
    assert rest.strip() == "Done: everything that the processor lists has been read in."


def test_ctrl_c_stops_after_the_page_and_says_how_to_go_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf(monkeypatch, lambda: Pressed(1))
    out = Terminal(False)
    assert shop.read_in(out) == 130
    assert f"To go on from there: portal import {id_text(shop.account.id)}" in out.getvalue()
    assert (shop.run().state, shop.run().holder) == ("stopped", None)
    assert 3 <= shop.run().pages < 6
    shelf(monkeypatch, lambda: Shelf([page_of(n) for n in range(6)], []))
    assert shop.read_in(Terminal(False), id_text(shop.account.id)) == 0
    assert (shop.run().state, shop.run().pages) == ("done", 6)


def test_ctrl_c_twice_leaves_at_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf(monkeypatch, lambda: Pressed(2))
    out = Terminal(False)
    assert shop.read_in(out) == 130
    assert "Left at once." in out.getvalue()


def test_what_broke_off_is_said(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "MOST_FAILURES", 2)
    errors = [Unavailable("", "HTTP 503", retry_after=0.0) for _ in range(5)]
    gateway = Shelf([page_of(0), [*errors, page_of(1)]], [])
    shelf(monkeypatch, lambda: gateway)
    clock_moves(monkeypatch)
    out = Terminal(False)
    assert shop.read_in(out, plain_s=0.0) == 1
    assert "Broken off: HTTP 503 What was read in stays." in out.getvalue()
    assert "Waiting until the processor may be asked again. HTTP 503" in out.getvalue()


def clock_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits in a test."""
    monkeypatch.setattr(imports, "failed", lambda *a: _soon(_failed(*a)))


_failed = imports.failed


def _soon(run: models.ImportRun) -> models.ImportRun:
    if run.retry_at is not None:
        run.retry_at = clock.now() + timedelta(seconds=0.2)
    return run


def test_where_somebody_else_reads_it_is_only_looked_at(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease of another process; it is done when that one is."""
    monkeypatch.setattr(terminal, "LOOK_S", 0.05)
    gateway = Shelf([page_of(0)], [])
    shelf(monkeypatch, lambda: gateway)
    shop.database.write_now(imports.start, shop.account, clock.now(), None)
    run = shop.run().id
    shop.database.write_now(imports.take, run, "another", clock.now())

    async def both() -> int:
        out = Terminal(False)
        here = asyncio.create_task(terminal.read_in(shop.settings, "Main till", out=out))
        await asyncio.sleep(0.3)
        assert gateway.asked == []
        await shop.database.write(imports.release, run, "another")
        return await here

    assert asyncio.run(both()) == 0
    assert gateway.asked == [0]


def test_an_account_is_found_by_label_id_or_token(shop: Shop) -> None:
    one = shop.account
    for wanted in ("Main till", " main TILL ", id_text(one.id), str(one.id), one.token):
        assert shop.database.read_now(terminal.find, wanted).id == one.id


def test_a_label_that_two_have_is_answered_with_the_list(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = make_account(shop.database, shop.portal, "paypal", label="Main Till", live=True)
    monkeypatch.setenv("PORTAL_DATABASE_URL", shop.settings.database_url)
    monkeypatch.setenv("PORTAL_MASTER_KEYS", MASTER_KEY)
    answer = CliRunner().invoke(app, ["import", "main till"])
    assert answer.exit_code == 1
    assert "Several accounts are called so: main till." in answer.output
    assert f"{id_text(shop.account.id)}  acme: Main till (Stripe, test)" in answer.output
    assert f"{id_text(twin.id)}  acme: Main Till (PayPal, live)" in answer.output


@pytest.mark.parametrize("wanted", ["nobody", "", "1"])
def test_an_account_that_is_none_is_answered_with_the_list(shop: Shop, wanted: str) -> None:
    with pytest.raises(RuntimeError, match=r"No connected account has this label(.|\n)*Main till"):
        shop.database.read_now(terminal.find, wanted)


def test_where_nothing_is_listed_it_is_said(shop: Shop) -> None:
    make_account(shop.database, shop.portal, "adyen", label="Cards")
    with pytest.raises(RuntimeError, match="Adyen lists nothing of the past"):
        shop.database.read_now(terminal.find, "cards")


def test_the_line_names_what_is_known() -> None:
    def line(**fields: Any) -> str:
        values: dict[str, Any] = {
            "state": "running",
            "tone": "info",
            "word": "Under way",
            "sentence": "",
            "pages": 123,
            "objects": 12_300,
            "skipped": 0,
            "reasons": (),
            "total": None,
            "percent": None,
            "rate": None,
            "left_s": None,
            "at": None,
            "goes_on": False,
            "under_way": True,
            **fields,
        }
        return terminal.Teller("Till", Terminal(False)).line(Progress(**values))

    assert line() == "Till: 12,300 records, 123 pages"
    assert line(skipped=2, rate=410.4) == "Till: 12,300 records, 123 pages, 2 left out, 410 a second"
    assert line(total=24_600, rate=100.0, left_s=123.0) == (
        "Till: 12,300 records of about 24,600, 123 pages, 100 a second, about 2 minutes to go"
    )
