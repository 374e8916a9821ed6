"""Comparing an account with its processor, row by row and field by field. Nothing is changed unless it is asked for.

What the processor says is written, by the very rules by which it is written here, into an empty database beside ours;
then the two are laid side by side. Lists may be rougher than single objects, so whatever differs is itself asked for
before it is called a difference.
"""

import json
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, models, sync
from portal.db import Database
from portal.gateways.base import Declined, Gateway, Gone, Ref, Snapshot, Unsupported

What = Literal["differs", "only_here", "only_there", "unknown"]
Take = Callable[[models.Account, Snapshot, bool], Awaitable[None]]

ROWS = 500  # that are compared at a time
KINDS: dict[str, tuple[type[models._Mirrored], str]] = {
    "remote_customer": (models.RemoteCustomer, "customer"),
    "subscription": (models.Subscription, "subscription"),
    "order_": (models.Order, "order"),
    "payment": (models.Payment, "payment"),
    "refund": (models.Refund, "refund"),
    "invoice": (models.Invoice, "invoice"),
}


_PASSING = {"page_url", "due_link"}  # addresses that may be new at each look


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which a row and the processor are not of one mind.

    `only_here`: the processor does not know it. `only_there`: there is no row of it. `unknown`: its lists do not show
    it and it cannot be asked for, so nothing can be said; this one is no fault.
    """

    what: What
    kind: str
    remote_id: str
    row: int | None = None
    field: str | None = None
    here: Any = None
    there: Any = None


# The comparison


def compare(
    kind: str, remote_id: str, here: Mapping[str, Any] | None, there: Mapping[str, Any] | None, known: bool
) -> list[Difference]:
    """What differs between a row (its id under "id") and what the processor says, of the fields that it speaks of.

    Of nothing there: `known` says that the processor was asked, and does not have it.
    """
    if here is None:
        return [] if there is None else [Difference("only_there", kind, remote_id)]
    if there is None:
        marked = here.get("missing_at") is not None
        if known and marked:
            return []  # that is known here, and shown
        return [Difference("only_here" if known else "unknown", kind, remote_id, here["id"])]
    return [
        Difference("differs", kind, remote_id, here["id"], name, _shown(here.get(name)), _shown(value))
        for name, value in sorted(there.items())
        if name not in _PASSING and _plain(here.get(name)) != _plain(value)
    ]


def _plain(value: Any) -> str:
    return json.dumps(_shown(value), sort_keys=True, default=str)


def _shown(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def _said(row: models._Mirrored | None, beside: models._Mirrored | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return sync.in_light_of(beside, sync.spoken(row), row.as_of) if beside is not None else sync.spoken(row)


# A whole account


@dataclass(frozen=True, slots=True)
class Result:
    differences: tuple[Difference, ...]
    compared: int
    fixed: int = 0

    @property
    def faults(self) -> list[Difference]:
        return [one for one in self.differences if one.what != "unknown"]


async def run(
    database: Database,
    gateway: Gateway,
    account: models.Account,
    take: Take | None = None,
) -> Result:
    """Compare an account. With `take`, what differs is written as the processor has it, and what it does not know is
    marked as missing."""
    with tempfile.TemporaryDirectory(prefix="portal-reconcile-") as folder:
        aside = _aside(Path(folder), await database.read(_around, account))
        try:
            return await _Comparison(database, aside, gateway, account, take).run()
        finally:
            aside.dispose()


def _aside(folder: Path, rows: Sequence[dict[str, Any]]) -> Database:
    """An empty database with the account in it."""
    aside = Database(f"sqlite:///{folder / 'aside.db'}", threads=1)
    around = (models.Customer, models.CustomerKey, models.Assignment, models.Join)
    wanted = [*(models.Merchant, models.Portal, models.Account), *around, *models.MIRRORED]

    def add(db: Session) -> None:
        models.metadata.create_all(db.connection(), [one.__table__ for one in wanted])  # type: ignore[attr-defined]
        for model, row in zip((models.Merchant, models.Portal, models.Account), rows, strict=True):
            db.execute(model.__table__.insert().values(row))  # type: ignore[attr-defined]

    aside.write_now(add)
    return aside


def _around(db: Session, account: models.Account) -> list[dict[str, Any]]:
    site = db.get_one(models.Portal, account.portal_id)
    merchant = db.get_one(models.Merchant, site.merchant_id)
    rows = [one.model_dump() for one in (merchant, site, account)]
    rows[2]["credentials"] = b""
    rows[2]["previous_credentials"] = None
    return rows


@dataclass(slots=True)
class _Comparison:
    database: Database
    aside: Database
    gateway: Gateway
    account: models.Account
    take: Take | None

    async def run(self) -> Result:
        async for page in self.gateway.backfill(None):
            await self.aside.write(sync.apply, self.account, page.snapshot, False)
        found: list[Difference] = []
        compared = fixed = 0
        for name in KINDS:
            async for group in self._groups(name):
                compared += len(group)
                for remote_id, here, there in group:
                    differences = await self._closely(name, remote_id, here, there)
                    found += differences
                    if differences and self.take is not None and differences[0].what != "unknown":
                        fixed += await self._fix(name, remote_id, here)
        return Result(tuple(found), compared, fixed)

    async def _groups(self, name: str) -> Any:
        """Rows of both sides by their remote ids."""
        after = ""
        while True:
            here = await self.database.read(_rows, name, self.account.id, after)
            there = await self.aside.read(_rows, name, self.account.id, after)
            last = min((rows[-1].remote_id for rows in (here, there) if len(rows) >= ROWS), default=None)
            sides: list[dict[str, models._Mirrored]] = [
                {row.remote_id: row for row in rows if last is None or row.remote_id <= last}
                for rows in (here, there)
            ]
            yield [(one, sides[0].get(one), sides[1].get(one)) for one in sorted({*sides[0], *sides[1]})]
            if last is None:
                return
            after = last

    async def _closely(
        self, name: str, remote_id: str, here: models._Mirrored | None, there: models._Mirrored | None
    ) -> list[Difference]:
        """Compare; and where something differs, ask for the object itself and compare again."""
        kind = KINDS[name][1]
        row = here.model_dump() if here is not None else None
        said = _said(there, here)
        found = compare(kind, remote_id, row, said, known=False)
        if not found or (here is not None and here.missing_at and said is None):
            return found if not found or found[0].what != "unknown" else []
        try:
            snapshot = await self.gateway.fetch(self._ref(name, remote_id, here or there))
        except Gone:
            return compare(kind, remote_id, row, None, known=True)
        except (Unsupported, Declined):
            return found
        await self.aside.write(sync.apply, self.account, snapshot)
        there = await self.aside.read(_row, name, self.account.id, remote_id)
        said = _said(there, here)
        return compare(kind, remote_id, row, said, known=False)

    def _ref(self, name: str, remote_id: str, row: models._Mirrored | None) -> Ref:
        if isinstance(row, models.Subscription | models.Payment):
            return sync.ref_of(row)
        kind: Any = KINDS[name][1]
        return Ref(kind, remote_id)

    async def _fix(self, name: str, remote_id: str, here: models._Mirrored | None) -> int:
        assert self.take is not None
        try:
            snapshot = await self.gateway.fetch(self._ref(name, remote_id, here))
        except Gone:
            if here is not None:
                await self.database.write(_mark, name, here.id, clock.now())
            return 1
        except (Unsupported, Declined):
            there = await self.aside.read(_row, name, self.account.id, remote_id)
            if there is None:
                return 0
            listed = await self._from_lists(remote_id)
            if listed is None:
                return 0
            await self.take(self.account, listed, False)
            return 1
        await self.take(self.account, snapshot, True)
        return 1

    async def _from_lists(self, remote_id: str) -> Snapshot | None:
        """What a list says of an object that cannot be asked for by itself."""
        async for page in self.gateway.backfill(None):
            if any(one.remote_id == remote_id for one in page.snapshot.records()):
                return page.snapshot
        return None


def _rows(db: Session, name: str, account_id: int, after: str) -> list[models._Mirrored]:
    model = KINDS[name][0]
    wanted = (
        select(model)
        .where(col(model.account_id) == account_id, col(model.remote_id) > after)
        .order_by(col(model.remote_id))
        .limit(ROWS)
    )
    return list(db.execute(wanted).scalars())


def _row(db: Session, name: str, account_id: int, remote_id: str) -> models._Mirrored | None:
    model = KINDS[name][0]
    wanted = select(model).where(col(model.account_id) == account_id, col(model.remote_id) == remote_id)
    return db.execute(wanted).scalar_one_or_none()


def _mark(db: Session, name: str, row_id: int, now: datetime) -> None:
    row = db.get_one(KINDS[name][0], row_id)
    row.missing_at = row.missing_at or now
    row.doubted_at = None


def note(db: Session, account: models.Account, result: Result, now: datetime) -> None:
    """Keep how many differences there are, for the doctor, the figures and the alarm."""
    row = db.get(models.SyncState, account.id)
    if row is not None:
        row.differences, row.compared_at = len(result.faults) - min(result.fixed, len(result.faults)), now


# In words


def as_json(result: Result) -> str:
    told = {
        "compared": result.compared,
        "fixed": result.fixed,
        "differences": [asdict(one) for one in result.differences],
    }
    return json.dumps(told, ensure_ascii=False, indent=2, default=str)


def as_text(result: Result) -> str:
    return "\n".join([*_lines(result.differences), _sum(result)])


def _lines(found: Iterable[Difference]) -> Iterator[str]:
    words = {
        "only_here": "here, and the processor does not know it",
        "only_there": "at the processor, and not here",
        "unknown": "here; no list shows it and it can't be asked for",
    }
    for one in found:
        about = f"{one.kind} {one.remote_id}" + (f" (row {one.row})" if one.row else "")
        if one.what == "differs":
            yield f"{about}: {one.field} is {one.here!r} here, {one.there!r} at the processor"
        else:
            yield f"{about}: {words[one.what]}"


def _sum(result: Result) -> str:
    fixed = f" {result.fixed} objects were brought up to date." if result.fixed else ""
    return f"{result.compared} objects compared, {len(result.faults)} differences.{fixed}"
