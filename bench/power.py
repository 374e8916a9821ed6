"""Whether what was acknowledged is still there after the power went: SQLite on a disk that forgets.

    python -m bench.power [--cuts 500] [--events 5000] [--seed 1] [--json]

The portal's own statements (a webhook and its job stored, claimed, finished; an ask to sign in) are noted as SQLAlchemy
sends them, and sent once more, with the pragmas of `portal.db`, to a SQLite whose files lie on a disk of ours. It keeps
for each file what was synced, and what was written since. At a cut it stops in the middle of whatever is going on; of
what was not synced, everything is lost, or some sectors of 512 bytes, at random and in any order, or nothing. Then the
file is opened anew and looked through: is it sound, is every transaction there that was acknowledged, is none there by
half.

As a control the same is done with `synchronous` at NORMAL and OFF: there something must get lost, or the check is none.
Ends with status 1 where FULL lost anything, or a control nothing.
"""

import argparse
import hashlib
import json
import random
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
from sqlalchemy import event

from portal import clock, login, models, webhooks, work
from portal.db import PRAGMAS, Database
from portal.gateways.base import Event
from portal.migrate import upgrade
from portal.vault import Vault, new_key

SECTOR = 512
POWERSAFE_OVERWRITE, SECTOR_SIZE = 0x1000, 4096  # as SQLite takes it of a disk on Unix
Statement = tuple[str, Any]


class PowerCut(apsw.IOError):
    """The lights are out."""


# The disk


@dataclass
class Kept:
    """A file: what is safe, what a running system sees, and the writes between the two."""

    synced: bytearray = field(default_factory=bytearray)
    live: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(
        default_factory=list
    )  # a place and bytes; or None: cut off there
    named: bool = False  # whether its name is safe too

    def write(self, at: int, data: bytes) -> None:
        _put(self.live, at, data)
        self.pending.append((at, data))

    def truncate(self, size: int) -> None:
        del self.live[size:]
        self.pending.append((size, None))

    def sync(self) -> None:
        for at, data in self.pending:
            _apply(self.synced, at, data)
        self.pending.clear()
        self.named = True

    def after_cut(self, chance: random.Random) -> None:
        """What the platter holds now."""
        pieces = [piece for at, data in self.pending for piece in _sectors(at, data)]
        how = chance.choice(("lost", "torn", "torn", "torn", "kept"))
        if how == "lost":
            pieces = []
        elif how == "torn":
            share = chance.random()
            pieces = [piece for piece in pieces if chance.random() < share]
            chance.shuffle(pieces)
        for at, data in pieces:
            _apply(self.synced, at, data)
        self.live = bytearray(self.synced)
        self.pending.clear()


def _put(image: bytearray, at: int, data: bytes) -> None:
    if len(image) < at:
        image.extend(bytes(at - len(image)))
    image[at : at + len(data)] = data


def _apply(image: bytearray, at: int, data: bytes | None) -> None:
    if data is None:
        del image[at:]
    else:
        _put(image, at, data)


def _sectors(at: int, data: bytes | None) -> Iterator[tuple[int, bytes | None]]:
    if data is None:
        yield at, None
        return
    begin = 0
    while begin < len(data):
        end = begin + SECTOR - (at + begin) % SECTOR
        yield at + begin, data[begin:end]
        begin = end


class Disk(apsw.VFS):
    """A file system of SQLite's in memory, whose power can be cut after so many operations."""

    def __init__(self, seed: int) -> None:
        self.name = f"forgetful-{secrets.token_hex(4)}"
        super().__init__(self.name, base="unix")
        self.files: dict[str, Kept] = {}
        self.chance = random.Random(seed)
        self.left: int | None = None  # operations until the cut
        self.syncs = 0

    def tick(self) -> None:
        """One operation that changes the disk; none is done once the power is out."""
        if self.left is None:
            return
        if self.left <= 0:
            self.left = 0
            raise PowerCut("the power is out")
        self.left -= 1

    @property
    def out(self) -> bool:
        return self.left == 0

    def power_back(self) -> None:
        for name, kept in list(self.files.items()):
            kept.after_cut(self.chance)
            if not kept.named and self.chance.random() < 0.5:
                del self.files[name]  # the folder's entry never reached the disk
        self.left = None

    # As SQLite calls it

    def xFullPathname(self, name: str) -> str:
        return name

    def xAccess(self, name: str, flags: int) -> bool:
        return name in self.files

    def xDelete(self, name: str, sync: bool) -> None:
        self.tick()
        self.files.pop(name, None)

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        path = (name.filename() if isinstance(name, apsw.URIFilename) else name) or secrets.token_hex(8)
        flags[1] = flags[0]
        return Opened(self, self.files.setdefault(path, Kept()))


class Opened:
    """One open file. With one process there is nobody to lock out."""

    def __init__(self, disk: Disk, kept: Kept) -> None:
        self.disk, self.kept = disk, kept

    def xRead(self, amount: int, at: int) -> bytes:
        return bytes(self.kept.live[at : at + amount])

    def xWrite(self, data: bytes, at: int) -> None:
        self.disk.tick()
        self.kept.write(at, bytes(data))

    def xTruncate(self, size: int) -> None:
        self.disk.tick()
        self.kept.truncate(size)

    def xSync(self, flags: int) -> None:
        self.disk.tick()
        self.disk.syncs += 1
        self.kept.sync()

    def xFileSize(self) -> int:
        return len(self.kept.live)

    def xSectorSize(self) -> int:
        return SECTOR_SIZE

    def xDeviceCharacteristics(self) -> int:
        return POWERSAFE_OVERWRITE

    def xFileControl(self, op: int, pointer: int) -> bool:
        return False

    def xCheckReservedLock(self) -> bool:
        return False

    def xLock(self, level: int) -> None:
        pass

    def xUnlock(self, level: int) -> None:
        pass

    def xClose(self) -> None:
        pass


# What the portal does


class Portal:
    """A portal whose statements are noted, transaction by transaction."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        path = folder / "portal.db"
        upgrade(f"sqlite:///{path}")
        self.chance = chance
        self.database = Database(f"sqlite:///{path}", threads=1)
        event.listen(self.database.engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous = OFF"))
        self._noted: list[Statement] = []
        self.account = self.database.write_now(self._begin)
        with self.database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        self.image = path.read_bytes()
        event.listen(self.database.engine, "before_cursor_execute", self._note)
        self.count = 0

    @staticmethod
    def _begin(db: Any) -> models.Account:
        merchant = models.Merchant(name="Acme", email="owner@acme.example")
        db.add(merchant)
        db.flush()
        about: dict[str, Any] = {
            "slug": "acme",
            "name": "Acme",
            "support_email": "help@acme.example",
            "brand": {},
        }
        site = models.Portal(merchant_id=merchant.id, cancel_reasons=[], **about)
        db.add(site)
        db.flush()
        values: dict[str, Any] = {"token": secrets.token_urlsafe(16), "options": [], "switched_off": []}
        account = models.Account(
            portal_id=site.id, processor="stripe", label="Stripe", credentials=b"", **values
        )
        account.credentials = Vault(new_key()).seal(site.id, account.id, {"secret_key": "sk"})
        account.created_at = clock.now()
        db.add(account)
        return account

    def _note(self, _c: Any, _cur: Any, statement: str, parameters: Any, _ctx: Any, many: bool) -> None:
        for one in parameters if many else [parameters]:
            self._noted.append((statement, tuple(one or ())))

    def _transaction(self, fn: Callable[..., Any], *args: Any) -> tuple[list[Statement], Any]:
        self._noted.clear()
        found = self.database.write_now(fn, *args)
        return [*self._noted, ("COMMIT", ())], found

    def webhook(self) -> tuple[list[Statement], str, str]:
        """A delivery is stored with its job; gives the event's name and the sum of its body."""
        self.count += 1
        name, content = f"evt_{self.count}", self.chance.randbytes(self.chance.randint(200, 6000))
        one = Event(name, "invoice.paid", None, None, {"object": "invoice"})
        headers = [("Content-Type", "application/json")]
        statements, new = self._transaction(
            webhooks.store, self.account, [one], headers, content, clock.now()
        )
        assert new == 1
        return statements, name, hashlib.sha256(content).hexdigest()

    def worked(self) -> Iterator[tuple[list[Statement], int | None]]:
        """All that is due is claimed, then finished one after the other: the job that a transaction finishes."""
        statements, jobs = self._transaction(work.claim, clock.now(), 10_000)
        yield statements, None
        for job in jobs:
            statements, _ = self._transaction(work.finish, job, clock.now())
            yield statements, job.id

    def ask(self) -> tuple[list[Statement], int]:
        who = f"p{self.count}@example.com"
        args = (self.account.portal_id, who, "b" * 32, "Firefox", "192.0.2.7", login.HOME, clock.now())
        statements, request_id = self._transaction(login.ask, *args)
        return statements, request_id


@dataclass
class Promised:
    """What was acknowledged, and so must be there whatever happens."""

    events: dict[str, str] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)
    asks: set[int] = field(default_factory=set)


@dataclass
class Found:
    """Of one run."""

    synchronous: str
    cuts: int = 0
    events: int = 0  # acknowledged
    transactions: int = 0  # acknowledged
    syncs: int = 0
    lost_events: int = 0
    lost_others: int = 0
    halves: int = 0
    damaged: int = 0
    hurt_cuts: int = 0  # after which anything was not as it must be


class Run:
    """Writes, cuts, looks; again and again, on the same disk."""

    def __init__(self, portal: Portal, synchronous: str, seed: int) -> None:
        self.portal, self.found, self.promised = portal, Found(synchronous), Promised()
        self.disk = Disk(seed)
        self.chance = random.Random(seed + 1)
        self.disk.files["portal.db"] = Kept(bytearray(portal.image), bytearray(portal.image), named=True)

    @contextmanager
    def opened(self) -> Iterator[apsw.Connection]:
        connection = apsw.Connection("portal.db", vfs=self.disk.name)
        try:
            # The index of the journal is shared memory elsewhere; here it belongs to the one process.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            for pragma in PRAGMAS:
                name, _, value = pragma.partition(" = ")
                value = self.found.synchronous if name == "synchronous" else value
                connection.execute(f"PRAGMA {name} = {value}")
            yield connection
        finally:
            with suppress(apsw.Error):
                connection.close(True)

    def round(self, events: int) -> None:
        """So many events, and then the cut, somewhere in the next ones."""
        with suppress(PowerCut, apsw.IOError), self.opened() as connection:
            for _ in range(events):
                self._event(connection)
            if self.chance.random() < 0.2:
                self.disk.left = self.chance.randint(1, 60)
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # as where the last process ends
            self.disk.left = self.chance.randint(1, 60)
            while True:
                self._event(connection)
        self.found.cuts += 1
        self.disk.power_back()
        self._look()

    def _event(self, connection: apsw.Connection) -> None:
        statements, name, digest = self.portal.webhook()
        self._send(connection, statements)
        self.promised.events[name] = digest
        self.found.events += 1
        for statements, job in self.portal.worked():
            changed = self._send(connection, statements)
            if (
                job is not None and changed
            ):  # after a cut, a claim may be another one's here than where it was noted
                self.promised.finished.add(job)
        if self.chance.random() < 0.2:
            statements, ask = self.portal.ask()
            self._send(connection, statements)
            self.promised.asks.add(ask)

    def _send(self, connection: apsw.Connection, statements: list[Statement]) -> int:
        """One transaction, to its acknowledged end; how many rows its last statement changed."""
        changed = 0
        try:
            for statement, parameters in statements:
                connection.execute(statement, parameters).fetchall()
                if statement != "COMMIT":
                    changed = connection.changes()
        except apsw.Error:
            if self.disk.out:
                raise PowerCut("the power is out") from None
            raise
        self.found.transactions += 1
        return changed

    def _look(self) -> None:
        found, promised = self.found, self.promised
        before = (found.lost_events, found.lost_others, found.halves, found.damaged)
        try:
            with self.opened() as connection:
                sound = connection.execute("PRAGMA integrity_check(1)").fetchall() == [("ok",)]
                sound = sound and not connection.execute("PRAGMA foreign_key_check").fetchall()
                events = {
                    name: (row, hashlib.sha256(content).hexdigest())
                    for row, name, content in connection.execute("SELECT id, event_id, body FROM event")
                }
                jobs = list(connection.execute("SELECT id, dedupe, done_at IS NOT NULL FROM job"))
                asks = {row for (row,) in connection.execute("SELECT id FROM login_request")}
                if self.chance.random() < 0.8:
                    self.disk.left = (
                        0  # cut again, so that the journal goes on and is folded in when it is long
                    )
        except apsw.Error:
            sound, events, jobs, asks = False, {}, [], set()
        self.disk.power_back()
        found.damaged += not sound
        lost = {name for name, digest in promised.events.items() if events.get(name, (0, ""))[1] != digest}
        done = {job for job, _, is_done in jobs if is_done}
        found.lost_events += len(lost)
        found.lost_others += len(promised.finished - done) + len(promised.asks - asks)
        found.halves += len(
            {f"event:{row}" for row, _ in events.values()} - {dedupe for _, dedupe, _ in jobs}
        )
        # What is lost is counted once; and where nothing can be read any more, all begins anew.
        promised.events = {name: digest for name, digest in promised.events.items() if name not in lost}
        promised.finished &= done
        promised.asks &= asks
        found.hurt_cuts += before != (found.lost_events, found.lost_others, found.halves, found.damaged)
        if not sound:
            self.disk.files = {
                "portal.db": Kept(bytearray(self.portal.image), bytearray(self.portal.image), named=True)
            }
            self.promised = Promised()


def run(cuts: int, events: int, synchronous: str = "FULL", seed: int = 1) -> Found:
    """So many cuts over at least so many events that were acknowledged before one."""
    with tempfile.TemporaryDirectory() as folder:
        portal = Portal(Path(folder), random.Random(seed))
        try:
            running = Run(portal, synchronous, seed)
            for number in range(cuts):
                running.round(events * (number + 1) // cuts - events * number // cuts)
            running.found.syncs = running.disk.syncs
        finally:
            portal.database.dispose()
        running.disk.unregister()
    return running.found


def is_as_it_must_be(found: Found) -> bool:
    return not (found.lost_events or found.lost_others or found.halves or found.damaged)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.power", description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=500)
    parser.add_argument("--events", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    controls = max(20, given.cuts // 10)
    runs = [run(given.cuts, given.events, "FULL", given.seed)]
    runs += [run(controls, controls * 10, how, given.seed) for how in ("NORMAL", "OFF")]
    good = is_as_it_must_be(runs[0]) and runs[0].events >= given.events
    good = good and all(found.lost_events for found in runs[1:])
    if given.json:
        told = {
            found.synchronous.lower(): {k: v for k, v in vars(found).items() if k != "synchronous"}
            for found in runs
        }
        print(json.dumps({"sqlite": apsw.sqlite_lib_version(), "good": good, **told}))
    else:
        print(f"SQLite {apsw.sqlite_lib_version()}, WAL, torn at {SECTOR} bytes, seed {given.seed}")
        for found in runs:
            print(
                f"synchronous={found.synchronous:7} {found.cuts} cuts, {found.events} events and "
                f"{found.transactions} transactions acknowledged: {found.lost_events} events and {found.lost_others} "
                f"other commits lost, {found.halves} by half, {found.damaged} times damaged"
            )
    if not good:
        sys.exit(1)


if __name__ == "__main__":
    main()
