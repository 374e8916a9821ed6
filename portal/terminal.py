"""`portal import`: reading everything of an account in, with its progress in the terminal."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from sqlalchemy.orm import Session

from portal import clock, imports, models, upkeep, walls, work
from portal.db import Database
from portal.gateways import facts
from portal.ids import id_text
from portal.imports import Importer, Progress
from portal.settings import Settings
from portal.vault import Vault

EVERY_S = 0.2  # a terminal's line
PLAIN_S = 10.0  # a line of a log
LOOK_S = 1.0  # at what another process does


async def read_in(
    settings: Settings, wanted: str, anew: bool = False, out: TextIO | None = None, plain_s: float = PLAIN_S
) -> int:
    """Read an account in, or look on where a worker does; the status to exit with. Raises RuntimeError with a sentence
    where it is not clear which account is meant, or it lists nothing."""
    database = Database(settings.database_url, threads=4, outside=walls.EVERYTHING)
    importer = Importer(
        settings, database, Vault(settings.master_keys.get_secret_value()), work.after_page, slice_s=5.0
    )
    try:
        account = await database.read(find, wanted)
        run = await database.write(imports.start, account, clock.now(), "command line", anew)
        teller = Teller(account.label, out or sys.stdout, plain_s)
        return await _Session(database, importer, account, run.id, teller).go()
    finally:
        await importer.aclose()
        database.dispose()


def find(db: Session, wanted: str) -> models.Account:
    """The account that is meant; RuntimeError also where it lists nothing."""
    account = upkeep.find_account(db, wanted)
    if not any(one.variant in (None, account.variant) for one in facts(account.processor).backfill):
        raise RuntimeError(
            f"{facts(account.processor).label} lists nothing of the past: there is nothing to read in."
        )
    return account


class Teller:
    """Tells how far a run is: one line that changes on a terminal, plain lines elsewhere."""

    def __init__(self, label: str, out: TextIO, plain_s: float = PLAIN_S) -> None:
        self._label = label
        self._out = out
        self._terminal = out.isatty()
        self._pause = EVERY_S if self._terminal else plain_s
        self._last = float("-inf")
        self._wrote = ""

    def show(self, progress: Progress, always: bool = False) -> None:
        now = time.monotonic()
        line = self.line(progress)
        if line == self._wrote or (not always and now - self._last < self._pause):
            return
        self._last, self._wrote = now, line
        self._out.write(f"\r{line}\x1b[K" if self._terminal else f"{line}\n")
        self._out.flush()

    def say(self, sentence: str) -> None:
        """A sentence on a line of its own."""
        self._out.write(("\n" if self._terminal and self._wrote else "") + sentence + "\n")
        self._out.flush()
        self._wrote = ""

    def line(self, progress: Progress) -> str:
        parts = [f"{progress.objects:,} records"]
        if progress.total:
            parts[0] += f" of about {progress.total:,}"
        parts.append(f"{progress.pages:,} pages")
        if progress.skipped:
            parts.append(f"{progress.skipped:,} left out")
        if progress.rate and progress.under_way:
            parts.append(f"{progress.rate:,.0f} a second")
        if progress.left_s and progress.under_way:
            parts.append(f"{imports.duration(progress.left_s)} to go")
        if progress.word != "Under way" and progress.under_way:
            parts.append(progress.sentence)
        return f"{self._label}: {', '.join(parts)}"


class _Session:
    """One `portal import`, from its start to its end or until somebody presses Ctrl-C."""

    def __init__(
        self, database: Database, importer: Importer, account: models.Account, run_id: int, teller: Teller
    ) -> None:
        self._database = database
        self._importer = importer
        self._account = account
        self._run_id = run_id
        self._teller = teller
        self._stop = asyncio.Event()

    async def go(self) -> int:
        work = asyncio.current_task()
        assert work is not None
        with _interrupted(lambda: work.cancel() if self._stop.is_set() else self._stop.set()):
            stopping = asyncio.create_task(self._stopped())
            try:
                return await self._turns()
            except asyncio.CancelledError:
                self._teller.say(f"Left at once. {self._how()}")
                return 130
            finally:
                stopping.cancel()

    async def _turns(self) -> int:
        while True:
            turn = await self._importer.turn(self._run_id, self._tell)
            run = await self._database.read(imports.get, self._run_id)
            self._tell(run, turn.came not in ("more", "busy"))
            if turn.came == "done":
                left = f" {run.skipped:,} were left out: see Settings." if run.skipped else ""
                self._teller.say(f"Done: everything that the processor lists has been read in.{left}")
                return 0
            if turn.came == "stopped":
                self._teller.say(f"Stopped. {self._how()}")
                return 130
            if turn.came == "failed":
                self._teller.say(f"Broken off: {run.error} {self._how()}")
                return 1
            if turn.came in ("busy", "wait"):  # somebody else reads, or the processor wants a rest
                with contextlib.suppress(TimeoutError):
                    pause = LOOK_S if turn.came == "busy" or self._stop.is_set() else turn.seconds
                    await asyncio.wait_for(self._stop.wait(), max(0.1, pause))
                if self._stop.is_set():
                    await asyncio.sleep(0.2)

    def _tell(self, run: models.ImportRun, always: bool = False) -> None:
        found = imports.progress(run, clock.now())
        assert found is not None
        self._teller.show(found, always)

    async def _stopped(self) -> None:
        await self._stop.wait()
        self._teller.say("Stopping after the page in hand. Once more to leave at once.")
        await self._database.write(imports.stop, self._account.id, clock.now())

    def _how(self) -> str:
        return f"What was read in stays. To go on from there: portal import {id_text(self._account.id)}"


@contextlib.contextmanager
def _interrupted(do: Callable[[], object]) -> Iterator[None]:
    """Ctrl-C does this instead of ending the program."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, do)
    loop.add_signal_handler(signal.SIGTERM, do)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        loop.remove_signal_handler(signal.SIGTERM)
