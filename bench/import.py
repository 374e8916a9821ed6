"""How fast everything of an account is read in, and in how little memory.

    .venv/bin/python -m bench.import [--objects 1000000] [--db sqlite|postgresql|both] [--json]

A simulated Stripe, in a process of its own, works out customers, subscriptions, invoices and charges from their
number. A run as the worker makes it reads them all: lists, pages, rows, whose each of them is. Said is how many of the
processor's objects went in a second, and the most memory that the reading process held of its own, and with what it
maps of SQLite's file (up to 256 MB a connection, which the system may take back at any time). What the simulator used
is said beside it. With --watch there is a line whenever the rows written have doubled.
"""

import argparse
import asyncio
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # so that `python bench/import.py` finds the tests' PostgreSQL too

from sqlalchemy import func, select  # noqa: E402

from portal import clock, imports, models, walls, work  # noqa: E402
from portal.db import Database  # noqa: E402
from portal.migrate import upgrade  # noqa: E402
from portal.settings import Settings  # noqa: E402
from portal.vault import Vault, new_key  # noqa: E402
from seeds.simulators._stripe.crowd import OBJECTS  # noqa: E402
from tests.postgres import Server as Postgres  # noqa: E402

KEY = "sk_test_bench"
MARK = 10_000  # objects between two looks at the memory


def main() -> None:
    options = argparse.ArgumentParser(prog="bench.import", description=(__doc__ or "").splitlines()[0])
    options.add_argument("--objects", type=int, default=1_000_000, help="of the processor's")
    options.add_argument("--db", choices=["sqlite", "postgresql", "both"], default="both")
    options.add_argument("--watch", action="store_true", help="say how it goes meanwhile")
    options.add_argument("--json", action="store_true", help="last line: everything as one JSON object")
    chosen = options.parse_args()
    found = {}
    for name in ["sqlite", "postgresql"] if chosen.db == "both" else [chosen.db]:
        # Each in a process of its own: the most memory that one had is never taken back.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found[name] = asdict(pool.submit(measure, name, chosen.objects, chosen.watch).result())
        said = found[name]
        print(
            f"{name:11} {said['objects']:>10,} objects in {said['seconds']:>8.1f} s: {said['rate']:>7,.0f} a second, "
            f"{said['calls']:,} calls, {said['cpu_us']:.0f} µs CPU each, own memory {said['own_mb']:.0f} MB at most "
            f"({said['begin_mb']:.0f} MB after the first {MARK:,}), with what is mapped {said['peak_mb']:.0f} MB; "
            f"the simulator {said['shop_cpu_us']:.0f} µs each, {said['shop_mb']:.0f} MB",
            flush=True,
        )
    if chosen.json:
        print(json.dumps(found))


@dataclass(frozen=True)
class Result:
    objects: int  # of the processor's
    rows: int  # of ours
    pages: int
    calls: int
    seconds: float
    rate: float
    cpu_us: float  # of the reading process, by object
    begin_mb: float  # that the reading process held of its own after the first pages
    own_mb: float  # the most that it held
    peak_mb: float  # the most with what it maps
    shop_cpu_us: float
    shop_mb: float


def measure(name: str, objects: int, watch: bool = False) -> Result:
    with tempfile.TemporaryDirectory(prefix="portal-bench-") as folder, ExitStack() as stack:
        if name == "sqlite":
            url = f"sqlite:///{folder}/portal.db"
        else:
            url = stack.enter_context(Postgres(shared_buffers="256MB", autovacuum="on")).create("portal")
        upgrade(url)
        return read_everything(url, objects, watch)


def read_everything(
    url: str,
    objects: int,
    watch: bool = False,
    also: imports.Told | None = None,
    start: Literal["spawn", "fork"] = "spawn",
) -> Result:
    """One run over so many objects, into a database that is migrated and empty. `also` is told of each page. To fork
    the simulator is quicker than to spawn it, and its memory is then not its own."""
    people = max(1, objects // OBJECTS)
    with simulated(people, start) as shop:
        settings = Settings(
            database_url=url, master_keys=new_key(), demo=True, simulators={"stripe": shop.address}
        )
        database = Database(url, threads=4, outside=walls.EVERYTHING)
        try:
            account = _connected(database, settings)
            started, cpu = time.monotonic(), _cpu()
            run, held = asyncio.run(_read(settings, database, account, watch, also))
            seconds, cpu = time.monotonic() - started, _cpu() - cpu
            rows = database.read_now(_rows)
        finally:
            database.dispose()
        calls, shop_cpu, shop_mb = shop.used()
    if run.state != "done" or run.skipped:
        raise RuntimeError(f"the run is {run.state}, {run.skipped} were left out: {run.error} {run.reasons}")
    made = people * OBJECTS
    return Result(
        objects=made,
        rows=rows,
        pages=run.pages,
        calls=calls,
        seconds=seconds,
        rate=made / seconds,
        cpu_us=cpu / made * 1e6,
        begin_mb=held.begin,
        own_mb=held.most,
        peak_mb=_peak_mb(),
        shop_cpu_us=shop_cpu / made * 1e6,
        shop_mb=shop_mb,
    )


@dataclass
class Held:
    """Memory of this process's own, looked at after each page."""

    begin: float = 0.0
    most: float = 0.0


async def _read(
    settings: Settings,
    database: Database,
    account: models.Account,
    watch: bool,
    also: imports.Told | None,
) -> tuple[Any, Held]:
    importer = imports.Importer(
        settings, database, Vault(settings.master_keys.get_secret_value()), work.after_page
    )
    run = await database.write(imports.start, account, clock.now(), "bench")
    held, mark, started, cpu = Held(), MARK, time.monotonic(), _cpu()

    def told(run: models.ImportRun) -> None:
        nonlocal mark
        if also is not None:
            also(run)
        now = _own_mb()
        held.most = max(held.most, now)
        if run.objects < mark:
            return
        held.begin = held.begin or held.most
        mark *= 2
        if watch:
            passed, burnt = time.monotonic() - started, _cpu() - cpu
            print(
                f"{run.objects:>10,} written after {passed:>7.1f} s and {burnt:>7.1f} s of CPU: own memory "
                f"{now:.0f} MB, {held.most:.0f} MB at most, with what is mapped {_peak_mb():.0f} MB",
                flush=True,
            )

    try:
        while (await importer.turn(run.id, told)).came == "more":
            pass
    finally:
        await importer.aclose()
    held.begin = held.begin or held.most
    return await database.read(imports.get, run.id), held


def _connected(database: Database, settings: Settings) -> models.Account:
    def make(db: Any) -> models.Account:
        merchant = models.Merchant(name="Acme", email="owner@acme.example")
        db.add(merchant)
        db.flush()
        portal = models.Portal(
            merchant_id=merchant.id,
            slug="acme",
            name="Acme",
            support_email="help@acme.example",
            brand={},
            cancel_reasons=[],
        )
        db.add(portal)
        db.flush()
        account = models.Account(
            portal_id=portal.id,
            processor="stripe",
            label="Bench",
            token="bench",
            credentials=b"",
            options=[],
            switched_off=[],
            created_at=clock.now(),
        )
        vault = Vault(settings.master_keys.get_secret_value())
        account.credentials = vault.seal(portal.id, account.id, {"secret_key": KEY})
        db.add(account)
        db.flush()
        return account

    return database.write_now(make)


def _rows(db: Any) -> int:
    return sum(db.execute(select(func.count()).select_from(model)).scalar_one() for model in models.MIRRORED)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _own_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- The simulator, in a process of its own --------------------------------------------------------------------------


@dataclass
class Shop:
    address: str
    pipe: Connection

    def used(self) -> tuple[int, float, float]:
        """Calls that came, seconds of CPU that they took, the most memory."""
        self.pipe.send("used")
        found: tuple[int, float, float] = self.pipe.recv()
        return found


@contextmanager
def simulated(people: int, start: Literal["spawn", "fork"] = "spawn") -> Iterator[Shop]:
    here, there = multiprocessing.Pipe()
    process: Any = multiprocessing.get_context(start).Process(target=_serve, args=(people, there))  # type: ignore[attr-defined]
    process.start()
    try:
        yield Shop(here.recv(), here)
    finally:
        here.send("end")
        process.join(20)
        process.kill()


def _serve(people: int, pipe: Connection) -> None:
    from seeds.simulators.harness import Call, Servers
    from seeds.simulators.stripe import Simulator

    class Counted(list[Call]):
        """Counts calls and keeps none: a million of them would fill the memory."""

        made = 0

        def append(self, _call: Call) -> None:
            self.made += 1

    simulator = Simulator()
    simulator.calls = calls = Counted()
    with Servers([simulator]):
        simulator.crowd(simulator.add_account(KEY), people)
        begun = _cpu()
        pipe.send(simulator.address)
        while pipe.recv() != "end":
            pipe.send((calls.made, _cpu() - begun, _peak_mb()))


if __name__ == "__main__":
    main()
