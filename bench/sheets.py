"""How quickly a long file of orders is taken in, tried, imported, and imported once more, and what it weighs meanwhile.

    python -m bench.sheets [--json] [--lines 200000] [--db postgresql://…]

Each row becomes an order, a payment and a fifth of a person. `…_cpu_us_row` is CPU time of this process for a row,
`peak_mb` the most memory of its own that it held, `taken_mb` the most until the file was taken in, `base_mb` what it
held before the first row. A step is one transaction of 200 rows.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import IO, Any

from sqlalchemy.orm import Session

from portal import clock, models, sheets, walls
from portal.db import Database
from portal.migrate import upgrade


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--lines", type=int, default=200_000)
    parser.add_argument("--db", default="", help="an empty database; by default a SQLite file of its own")
    parser.add_argument("--parts", type=int, help="of 200 rows, of each run; by default all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = options.db or f"sqlite:///{folder}/portal.db"
        upgrade(url)
        database = Database(url, threads=2, outside=walls.EVERYTHING)
        try:
            with (Path(folder) / "orders.csv").open("w+b") as file:
                write(file, options.lines)
                found = measure(database, file, options.lines, options.parts)
        finally:
            database.dispose()
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:24}{value}")


def write(file: IO[bytes], lines: int) -> None:
    """A file of that many rows, line by line."""
    file.write(b"email,order,product,amount,currency,paid_at,name\n")
    for number in range(lines):
        day = f"2026-{number % 10 + 1:02d}-{number % 28 + 1:02d}"
        who = f"p{number // 5}@example.com"
        row = f"{who},SO-{number},Ethiopia Guji,{number % 90 + 10}.50,USD,{day},Person {number // 5}\n"
        file.write(row.encode())


def measure(database: Database, file: IO[bytes], lines: int, parts: int | None = None) -> dict[str, Any]:
    portal_id, account_id = database.write_now(_portal)
    base = peak = _memory_mb()
    found: dict[str, Any] = {"lines": lines, "file_mb": round(file.tell() / 1e6, 1), "base_mb": base}
    began = time.monotonic()
    sheet_id = sheets.take(database, portal_id, file, "orders.csv", "bench")
    peak = max(peak, _memory_mb())
    found["take_rows_s"] = round(lines / (time.monotonic() - began))
    taken, rows = peak, min(lines, (parts or lines) * sheets.SLICE)
    for name, what in (("check", "checking"), ("import", "importing"), ("again", "importing")):
        began, burnt, longest = time.monotonic(), time.process_time(), 0.0
        clock.set_offset(clock.offset() + timedelta(seconds=2))
        run = database.write_now(_begin, portal_id, sheet_id, account_id, what)
        for step in islice(_steps(database, sheet_id, run), parts):
            longest, peak = max(longest, step), max(peak, _memory_mb())
        found[f"{name}_rows_s"] = round(rows / (time.monotonic() - began))
        found[f"{name}_cpu_us_row"] = round((time.process_time() - burnt) / rows * 1e6)
        found[f"{name}_longest_step_ms"] = round(longest * 1000)
        sheet = database.read_now(lambda db: db.get_one(models.Sheet, sheet_id))
        found[name] = [sheet.created, sheet.changed, sheet.unchanged, sheet.refused]
        if sheet.state in sheets.AT_WORK:
            database.write_now(_leave, sheet_id)
    found["taken_mb"], found["peak_mb"] = taken, peak
    clock.set_offset(timedelta(0))
    return found


def _steps(database: Database, sheet_id: int, run: int) -> Iterator[float]:
    more = True
    while more:
        began = time.monotonic()
        more = database.write_now(sheets.step, sheet_id, run, clock.now())
        yield time.monotonic() - began


def _leave(db: Session, sheet_id: int) -> None:
    db.get_one(models.Sheet, sheet_id).state = "checked"


def _portal(db: Session) -> tuple[int, int]:
    now = clock.now()
    merchant = models.Merchant(name="Bench", email="owner@bench.example")
    db.add(merchant)
    db.flush()
    portal = models.Portal(
        merchant_id=merchant.id, slug="bench", name="Bench", support_email="help@bench.example", brand={},
        cancel_reasons=[],
    )  # fmt: skip
    db.add(portal)
    db.flush()
    account = models.Account(
        portal_id=portal.id, processor="adyen", label="Bench", token="bench", credentials=b"", options=[],
        switched_off=[], created_at=now,
    )  # fmt: skip
    db.add(account)
    db.flush()
    return portal.id, account.id


def _begin(db: Session, portal_id: int, sheet_id: int, account_id: int, what: Any) -> int:
    sheet = sheets.sheet_of(db, portal_id, sheet_id, lock=True)
    assert sheet is not None
    choice = sheets.Choice(tuple(sheet.mapping), account_id)
    return sheets.begin(db, sheet, choice, what, clock.now())


def _memory_mb() -> int:
    """What the process holds of its own. SQLite maps up to 256 MB of its file beside that, which the system may take
    back at any time."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) // 1024


if __name__ == "__main__":
    main()
