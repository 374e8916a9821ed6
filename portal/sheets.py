"""Orders that no processor lists, from the merchant's own files and by the API: rows are taken in, checked, and written
by the same `sync` as everything else. A file's run goes part by part, each in one transaction with its place and its
counts, so that it goes on where it was cut off, and a second run changes nothing."""

import contextlib
import hashlib
import json
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from typing import IO, Any, Literal
from zoneinfo import ZoneInfo

from sqlalchemy import bindparam, delete, exists, func, insert, select, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, export, models, names, store, sync
from portal.db import Database
from portal.gateways import adapter, facts
from portal.gateways.base import (
    CustomerRecord,
    InvoiceRecord,
    OrderRecord,
    PaymentRecord,
    Record,
    RefundRecord,
    Snapshot,
    SubscriptionRecord,
)
from portal.ids import new_id
from portal.jobs import enqueue
from portal.sheetfile import MOST_ROWS, Cell, Unreadable, open_file, read_text
from portal.sheetrows import (
    COLUMNS,
    Records,
    Row,
    Rules,
    Understood,
    guess,
    made_up,
    problem_of_columns,
    records,
    shown,
    understand,
)
from portal.texts import gettext as _

SLICE = 200  # rows in a part, and so in a transaction
PART_BYTES = 256 * 1024  # of text; a part ends sooner where its rows are long
BATCH = 20  # parts written at a time while a file is taken in
PLACES = 500  # places of parts, likewise
AHEAD = 20  # parts that are fetched from the store in one go
FIRST = 8  # rows that are shown
MOST_OWN = 2 * 1024 * 1024  # of a list in a processor's form, which is read as a whole
MOST_KEPT = 20  # files of a portal at a time
MOST_PROBLEMS = 10_000  # that are kept of a run; all are counted
PROBLEMS_SHOWN = 50
SHEETS_SHOWN = 20
KEEP_ROWS = timedelta(days=14)
KEEP_PROBLEMS = timedelta(days=90)
PROBLEMS_AT_ONCE = 100  # files of which they go in one round
KEEP_TAKEN = timedelta(hours=2)  # of a file whose upload broke off
ASK_EVERY_S = 1  # how far apart the processor is asked about subscriptions that are new here

State = Literal["taken", "new", "checking", "checked", "importing", "done", "failed"]
Result = Literal["created", "changed", "unchanged", "refused"]
AT_WORK = ("checking", "importing")


class Refused(Exception):
    """It cannot be done; the sentence says why."""


# Rows into records


@dataclass(slots=True)
class Outcome:
    """What became of a row: what is wrong with it (column, sentence), or the rows it speaks of, by their kind."""

    result: Result = "unchanged"
    wrong: list[tuple[str, str]] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)
    is_asked: bool = False  # the processor will be asked about its subscription, which is new


_MODELS: dict[type[Record], type[models._Mirrored]] = {
    CustomerRecord: models.RemoteCustomer,
    OrderRecord: models.Order,
    SubscriptionRecord: models.Subscription,
    PaymentRecord: models.Payment,
    RefundRecord: models.Refund,
    InvoiceRecord: models.Invoice,
}
_NAMES: dict[type[Record], str] = {
    OrderRecord: "order",
    SubscriptionRecord: "subscription",
    PaymentRecord: "payment",
    InvoiceRecord: "invoice",
    CustomerRecord: "customer",
    RefundRecord: "refund",
}
_MAIN = (
    *(OrderRecord, PaymentRecord, SubscriptionRecord),
    *(InvoiceRecord, CustomerRecord, RefundRecord),
)  # what a row is about first of all
_Key = tuple[type[Record], str]


class Accounts:
    """The accounts of one portal, as rows name them."""

    def __init__(self, db: Session, portal_id: int, usual: int | None) -> None:
        row = models.Account
        found = db.execute(select(row).where(col(row.portal_id) == portal_id).order_by(col(row.id))).scalars()
        self.all = list(found)
        self.usual = next((one for one in self.all if one.id == usual), None)

    def named(self, text: str | None) -> models.Account:
        """The account a row means; Refused where there is none, or more than one."""
        if text is None:
            if self.usual is None:
                raise Refused(_("Nothing says which processor account this belongs to."))
            return self._connected(self.usual)
        wanted = text.casefold()
        found = [one for one in self.all if one.label.casefold() == wanted]
        if not found:
            found = [
                one
                for one in self.all
                if wanted in (one.processor.casefold(), facts(one.processor).label.casefold())
            ]
            found = [one for one in found if one.disconnected_at is None] or found
        there = ", ".join(f"“{one.label}”" for one in self.all if one.disconnected_at is None) or "–"
        if not found:
            raise Refused(
                _(
                    "This portal has no account “{name}”. Connect it first, or write one that is there: {accounts}."
                ).format(name=shown(text), accounts=there)
            )
        if len(found) > 1:
            raise Refused(
                _("“{name}” has several accounts here. Write the name of one: {accounts}.").format(
                    name=shown(text), accounts=there
                )
            )
        return self._connected(found[0])

    def _connected(self, account: models.Account) -> models.Account:
        if account.disconnected_at is not None:
            raise Refused(
                _("“{name}” is disconnected. Connect it again first.").format(name=shown(account.label))
            )
        return account


@dataclass(slots=True)
class _Due:
    """A row that may be written: which one it is, its account and its records."""

    number: int
    records: tuple[Record, ...]


def write_rows(
    db: Session,
    accounts: Accounts,
    rows: Sequence[Understood],
    as_of: datetime,
    asks_from: int,
    now: datetime,
) -> list[Outcome]:
    """Write what is right of these rows, as their account's, as it was at `as_of`; what became of each.

    `asks_from` is how many subscriptions of the same run the processor is to be asked about already.
    """
    outcomes = [Outcome(wrong=list(one.wrong)) for one in rows]
    by_account: dict[int, list[int]] = {}
    known = {one.id: one for one in accounts.all}
    for number, one in enumerate(rows):
        if not one.wrong:
            try:
                account = accounts.named(one.row.processor)
                _is_somebodys(account, one.row)
            except Refused as error:
                outcomes[number].wrong.append((getattr(error, "column", "processor"), str(error)))
            else:
                by_account.setdefault(account.id, []).append(number)
    for account_id, numbers in by_account.items():
        account = known[account_id]
        told = _told(db, account, {number: rows[number].row for number in numbers})
        asks_from = _write(db, account, told, outcomes, as_of, asks_from, now)
        _name_people(db, account, [rows[number].row for number in numbers if not outcomes[number].wrong])
    for outcome in outcomes:
        if outcome.wrong:
            outcome.result = "refused"
    return outcomes


class _Nobodys(Refused):
    column = "email"


def _is_somebodys(account: models.Account, row: Row) -> None:
    if facts(account.processor).is_placeholder(row.email):
        raise _Nobodys(_("“{text}” is an address of nobody's.").format(text=shown(row.email)))


def _told(db: Session, account: models.Account, rows: Mapping[int, Row]) -> list[_Due]:
    """The records of an account's rows. A payment without an id of its own is the one we know of its order, if any."""
    sort = adapter(account.processor)
    matched = _matched(db, account, sort, rows)
    found = []
    for number, row in rows.items():
        payment = row.payment or matched.get(number) or made_up(row)
        said: Records = records(row, sort, payment)
        found.append(_Due(number, said.all()))
    return found


def _matched(db: Session, account: models.Account, sort: Any, rows: Mapping[int, Row]) -> dict[int, str]:
    """For rows without the id of their payment: what the processor has told of the same order, or of the same charge of
    the same subscription."""
    wanted = {number: name for number, row in rows.items() if (name := made_up(row)) is not None}
    if not wanted:
        return {}
    payment = models.Payment
    shown_columns = (payment.remote_id, payment.amount_minor, payment.currency, payment.paid_at)
    found: dict[int, str] = {}
    for link, of in (("order_remote", "order"), ("subscription_remote", "subscription")):
        named: dict[int, str] = {}
        for number in wanted:
            row = rows[number]
            its = row.order if of == "order" else sort.subscription_id(row.subscription, row.token)
            if its and (of == "order" or not row.order):
                named[number] = its
        if not named:
            continue
        there: dict[str, list[Any]] = {}
        for one in db.execute(
            select(col(getattr(payment, link)), *map(col, shown_columns)).where(
                col(payment.account_id) == account.id, col(getattr(payment, link)).in_(set(named.values()))
            )
        ):
            there.setdefault(one[0], []).append(one)
        for number, its in named.items():
            same = [
                one for one in there.get(its, ()) if _is_same_charge(one, rows[number], wanted[number], of)
            ]
            if len(same) == 1:
                found[number] = same[0].remote_id
    return found


def _is_same_charge(one: Any, row: Row, name: str, of: str) -> bool:
    if one.remote_id == name or row.amount is None:
        return False
    if (one.amount_minor, one.currency) != (row.amount.minor, row.amount.currency):
        return False
    if of == "order":
        return True
    return bool(one.paid_at and row.paid_at and abs(one.paid_at - row.paid_at) <= timedelta(hours=36))


def _write(
    db: Session,
    account: models.Account,
    told: Sequence[_Due],
    outcomes: Sequence[Outcome],
    as_of: datetime,
    asks_from: int,
    now: datetime,
) -> int:
    """Write the records of one account; how many subscriptions of the run the processor is now asked about."""
    wanted = {_key(record): record for due in told for record in due.records}
    before = _stored(db, account, wanted)
    _refuse_twice(told, before, as_of, outcomes)
    good = [due for due in told if not outcomes[due.number].wrong]
    every = [
        record
        for record in dict.fromkeys(record for due in good for record in due.records)
        if not _is_known(before.get(_key(record)), record, as_of)
    ]
    sync.apply(db, account, _snapshot(as_of, every), fetched=False)
    db.flush()
    after = before | _stored(db, account, {_key(record): record for record in every})
    new: set[_Key] = set()
    results: dict[_Key, Result] = dict.fromkeys(before, "unchanged")
    for record in every:
        key = _key(record)
        if key not in before:
            results[key] = "created"
            new.add(key)
        elif before[key] != after[key]:
            results[key] = "changed"
    for due in good:
        outcome = outcomes[due.number]
        keys = [_key(record) for record in due.records]
        main = results[min(keys, key=lambda key: _MAIN.index(key[0]))]
        if main == "created" or all(results[key] == "unchanged" for key in keys):
            outcome.result = main
        else:
            outcome.result = "changed"
        outcome.ids = {_NAMES[key[0]]: after[key].id for key in keys}
        results.update(dict.fromkeys(keys, "unchanged"))  # for a further row about the same
        for key in new.intersection(keys):
            if key[0] is SubscriptionRecord:
                outcome.is_asked = True
                at = now + timedelta(seconds=asks_from * ASK_EVERY_S)
                subscription_id = after[key].id
                dedupe = f"refresh:{subscription_id}:sheet"
                enqueue(db, "refresh", {"subscription": subscription_id}, at, dedupe)
                asks_from += 1
        new.difference_update(keys)
    return asks_from


def _refuse_twice(
    told: Sequence[_Due], before: "Mapping[_Key, _Stored]", as_of: datetime, outcomes: Sequence[Outcome]
) -> None:
    """A row that says something else of what an earlier one was about. Of one subscription there may be many charges:
    about it, `sync` decides."""
    taken: dict[_Key, Record] = {}
    for due in told:
        mine = {_key(one): one for one in due.records if not isinstance(one, SubscriptionRecord)}
        for key, record in mine.items():
            said = _was_said_otherwise(before.get(key), record, as_of)
            if said or taken.get(key, record) != record:
                outcomes[due.number].wrong.append((_NAMES[key[0]], _twice(record)))
                break
        else:
            taken |= mine


def _twice(record: Record) -> str:
    return _("“{id}” stands in an earlier row with other content.").format(id=shown(record.remote_id))


def _key(record: Record) -> _Key:
    return type(record), record.remote_id


def _columns(record: Record) -> dict[str, Any]:
    """The columns a record speaks of."""
    found: dict[str, Any] = {}
    for name in record.knows or ():
        found |= sync._columns(name, getattr(record, name))
    return found


@dataclass(frozen=True, slots=True)
class _Stored:
    """A row that is there: when the newest word on each field was, and the columns of which we speak."""

    id: int
    stamps: dict[str, int] = field(compare=False)
    values: dict[str, Any]

    def said_at(self, name: str) -> int:
        return self.stamps.get(name, self.stamps.get("*", -1))

    def has(self, record: Record, name: str) -> bool:
        """Whether it is as the record says."""
        said = sync._columns(name, getattr(record, name))
        there = {one: self.values[one] for one in said if one in self.values}
        if all(said[one] == value for one, value in there.items()):
            return True
        return sync._canonical({one: said[one] for one in there}) == sync._canonical(there)


def _stored(db: Session, account: models.Account, wanted: Mapping[_Key, Record]) -> dict[_Key, _Stored]:
    """The rows that are there for these records."""
    found: dict[_Key, _Stored] = {}
    for sort, model in _MODELS.items():
        remotes = [key[1] for key in wanted if key[0] is sort]
        if not remotes:
            continue
        table = model.__table__  # type: ignore[attr-defined]
        for row in db.execute(
            select(table).where(table.c.account_id == account.id, table.c.remote_id.in_(remotes))
        ).mappings():
            key = (sort, row["remote_id"])
            values = {name: row[name] for name in _columns(wanted[key]) if name in row}
            found[key] = _Stored(row["id"], row["stamps"], values)
    return found


SAID_LATELY = 24 * 3600 * 1_000_000  # microseconds


def _was_said_otherwise(stored: _Stored | None, record: Record, as_of: datetime) -> bool:
    """Whether an earlier part of the same run has said something else of it."""
    if stored is None:
        return False
    stamp = sync._microseconds(as_of)
    return any(stored.said_at(name) == stamp and not stored.has(record, name) for name in record.knows or ())


def _is_known(stored: _Stored | None, record: Record, as_of: datetime) -> bool:
    """Whether a record says nothing new: on each field there is newer news, or the same was said within a day."""
    if stored is None:
        return False
    stamp = sync._microseconds(as_of)
    return all(
        (last := stored.said_at(name)) > stamp or (last >= stamp - SAID_LATELY and stored.has(record, name))
        for name in record.knows or ()
    )


def _snapshot(as_of: datetime, every: Iterable[Record]) -> Snapshot:
    sorts: dict[type[Record], list[Any]] = {sort: [] for sort in _MODELS}
    for record in every:
        sorts[type(record)].append(record)
    return Snapshot(
        as_of=as_of,
        customers=tuple(sorts[CustomerRecord]),
        orders=tuple(sorts[OrderRecord]),
        subscriptions=tuple(sorts[SubscriptionRecord]),
        payments=tuple(sorts[PaymentRecord]),
        refunds=tuple(sorts[RefundRecord]),
        invoices=tuple(sorts[InvoiceRecord]),
    )


def _name_people(db: Session, account: models.Account, rows: Sequence[Row]) -> None:
    """A name that stands beside an address becomes that of a customer who has none."""
    said = {row.email: row.name for row in rows if row.name}
    if not said:
        return
    row = models.Customer
    nameless = db.execute(
        select(col(row.id), col(row.email)).where(
            col(row.portal_id) == account.portal_id, col(row.email).in_(said), col(row.name).is_(None)
        )
    ).all()
    if not nameless:
        return
    people = [(one.id, one.email, said[one.email]) for one in nameless]
    table = row.__table__  # type: ignore[attr-defined]
    statement = update(table).where(table.c.id == bindparam("person")).values(name=bindparam("called"))
    db.execute(statement, [{"person": person, "called": name} for person, _email, name in people])
    key = models.CustomerKey
    db.execute(delete(key).where(col(key.customer_id).in_([one.id for one in nameless])))
    names.write_new(db, account.portal_id, people)


# Taking a file in


def take(
    database: Database,
    portal_id: int,
    file: IO[bytes],
    name: str,
    asked_by: str,
    own_of: int | None = None,
    place: store.Store | None = None,
) -> int:
    """Take a file in, row by row; the id of its sheet. Blocks: call it in a thread. Unreadable or Refused where it is
    none, or there are too many; StoreDown. `own_of` is an account in whose processor's form the whole list is."""
    now = clock.now()
    if own_of is not None:
        text = read_text(file, MOST_OWN)
        sheet_id = database.write_now(_new, portal_id, name, len(text.encode()), "own", asked_by, now, own_of)
        pieces = [text[at : at + PART_BYTES] for at in range(0, len(text), PART_BYTES)]
        parts = (zlib.compress(piece.encode(), 1) for piece in pieces)
        with _dropped_on(store.StoreDown, database, sheet_id):
            kept = _keep_parts(database, place, portal_id, sheet_id, parts)
        database.write_now(_taken, sheet_id, kept)
        return sheet_id
    opened = open_file(file)
    size = file.seek(0, 2) if opened.kind == "xlsx" else None
    sheet_id = database.write_now(_new, portal_id, name, size or 0, opened.kind, asked_by, now, None)
    counted: dict[str, Any] = {"rows": 0, "first": []}
    with _dropped_on((Unreadable, store.StoreDown), database, sheet_id):
        kept = _keep_parts(database, place, portal_id, sheet_id, _parts_of(opened.rows, counted))
        if not counted["rows"]:
            raise Unreadable(_("There are no rows below the columns' names."))
    found = {
        "size": file.seek(0, 2),
        "encoding": opened.encoding,
        "guessed": opened.guessed,
        "header": list(opened.header),
        "mapping": guess(opened.header),
    }
    database.write_now(_taken, sheet_id, {**counted, **kept, **found})
    return sheet_id


@contextlib.contextmanager
def _dropped_on(
    errors: type[Exception] | tuple[type[Exception], ...], database: Database, sheet_id: int
) -> Iterator[None]:
    try:
        yield
    except errors:
        database.write_now(_drop, sheet_id, clock.now())
        raise


def _parts_of(rows: Iterator[tuple[int, list[Cell]]], counted: dict[str, Any]) -> Iterator[bytes]:
    """The rows, packed into parts; how many, and the first of them, stand in `counted` by then."""
    part: list[str] = []
    length = 0
    for line, cells in rows:
        counted["rows"] += 1
        if counted["rows"] > MOST_ROWS:
            raise Unreadable(
                _("A file may have up to {most} rows. Split it into several.").format(most=MOST_ROWS)
            )
        if counted["rows"] <= FIRST:
            short = [cell if not isinstance(cell, str) else cell[:300] for cell in cells]
            counted["first"].append([line, *short])
        text = json.dumps([line, *cells], ensure_ascii=False, separators=(",", ":"))
        part.append(text)
        length += len(text)
        if len(part) >= SLICE or length >= PART_BYTES:
            yield _packed(part)
            part, length = [], 0
    if part:
        yield _packed(part)


def _keep_parts(
    database: Database, place: store.Store | None, portal_id: int, sheet_id: int, parts: Iterator[bytes]
) -> dict[str, Any]:
    """Put the parts into rows as they come, or all of them into one object and into rows where each lies in it."""
    number = 0
    if place is None:
        while some := list(islice(parts, BATCH)):
            database.write_now(_add_parts, portal_id, sheet_id, number, [{"content": one} for one in some])
            number += len(some)
        return {"parts": number}
    with tempfile.TemporaryFile() as spool:
        places, sha256 = bundle(parts, spool)
        if not places:
            return {"parts": 0}
        place.put(store.key_of("sheet", portal_id, sheet_id, sha256), spool)
    for number in range(0, len(places), PLACES):
        database.write_now(_add_parts, portal_id, sheet_id, number, places[number : number + PLACES])
    return {"parts": len(places), "sha256": sha256}


def bundle(parts: Iterable[bytes], into: IO[bytes]) -> tuple[list[dict[str, Any]], str]:
    """One object of many parts: where each lies and what it is, and the hash of the whole."""
    places: list[dict[str, Any]] = []
    whole, at = hashlib.sha256(), 0
    for content in parts:
        into.write(content)
        whole.update(content)
        places.append({"at": at, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()})
        at += len(content)
    into.seek(0)
    return places, whole.hexdigest()


def _packed(part: Sequence[str]) -> bytes:
    return zlib.compress(f"[{','.join(part)}]".encode("utf-8", "surrogatepass"), 1)


def _new(
    db: Session,
    portal_id: int,
    name: str,
    size: int,
    kind: str,
    asked_by: str,
    now: datetime,
    account_id: int | None,
) -> int:
    row = models.Sheet
    kept = db.execute(
        select(func.count()).where(col(row.portal_id) == portal_id, col(row.emptied_at).is_(None))
    ).scalar_one()
    if kept >= MOST_KEPT:
        raise Refused(_("{most} files are kept at a time. Discard one first.").format(most=MOST_KEPT))
    if account_id is not None:
        Accounts(db, portal_id, account_id).named(None)
    made = row(
        portal_id=portal_id,
        account_id=account_id,
        name=" ".join(name.split())[:200] or _("File"),
        size=size,
        kind=kind,
        header=[],
        mapping=[],
        rules={},
        first=[],
        asked_by=asked_by,
        created_at=now,
    )
    db.add(made)
    db.flush()
    return made.id


def _add_parts(
    db: Session, portal_id: int, sheet_id: int, number: int, parts: Sequence[Mapping[str, Any]]
) -> None:
    db.execute(
        insert(models.SheetPart),
        [
            {"portal_id": portal_id, "sheet_id": sheet_id, "number": number + more, **part}
            for more, part in enumerate(parts)
        ],
    )


def _taken(db: Session, sheet_id: int, values: Mapping[str, Any]) -> None:
    row = models.Sheet
    db.execute(update(row).where(col(row.id) == sheet_id).values(**values, state="new"))


def _drop(db: Session, sheet_id: int, now: datetime) -> None:
    if sheet := db.get(models.Sheet, sheet_id):
        _let_go(db, sheet, now)
        db.expunge(sheet)
        _forget_problems(db, sheet.portal_id, sheet_id)
    db.execute(delete(models.SheetPart).where(col(models.SheetPart.sheet_id) == sheet_id))
    db.execute(delete(models.Sheet).where(col(models.Sheet.id) == sheet_id))


def _forget_problems(db: Session, portal_id: int, sheet_id: int) -> None:
    row = models.SheetProblem
    db.execute(delete(row).where(col(row.portal_id) == portal_id, col(row.sheet_id) == sheet_id))


# What the columns are


@dataclass(frozen=True, slots=True)
class Choice:
    """What somebody says of a file: what each column is, how its cells are to be read, whose it is, and how old."""

    mapping: tuple[str, ...]
    account_id: int | None
    decimal: str = ""
    dates: str = ""
    currency: str = ""
    as_of: str = ""  # a day; empty: the day of the import

    @property
    def rules(self) -> dict[str, str]:
        return {
            "decimal": self.decimal, "dates": self.dates, "currency": self.currency, "as_of": self.as_of
        }  # fmt: skip


def choice_of(sheet: models.Sheet) -> Choice:
    return Choice(tuple(sheet.mapping), sheet.account_id, **sheet.rules)


def wrong_with(db: Session, sheet: models.Sheet, choice: Choice, now: datetime) -> dict[str, str]:
    """What is wrong with a choice, by field; empty where the rows can be read by it."""
    found: dict[str, str] = {}
    zone = _zone(db, sheet.portal_id)
    if choice.as_of:
        try:
            day = date.fromisoformat(choice.as_of)
        except ValueError:
            found["as_of"] = _("Write the day as 2026-03-04.")
        else:
            if day > now.astimezone(zone).date():
                found["as_of"] = _("This day has not come yet.")
            elif day.year < 1990:
                found["as_of"] = _("This lies too far away to be meant.")
    if choice.currency and not re.fullmatch("[A-Za-z]{3}", choice.currency):
        found["currency"] = _("Write the currency's three letters, such as EUR.")
    accounts = Accounts(db, sheet.portal_id, choice.account_id)
    if choice.account_id is not None:
        try:
            accounts.named(None)
        except Refused as error:
            found["account"] = str(error)
    if sheet.kind == "own":
        return found
    if choice.account_id is None and "processor" not in choice.mapping:
        found["account"] = _("Choose the account these orders belong to, or the column that names it.")
    if sentence := problem_of_columns(choice.mapping, sheet.header, choice.currency):
        found["columns"] = sentence
    return found


def _zone(db: Session, portal_id: int) -> ZoneInfo:
    return ZoneInfo(
        db.execute(
            select(col(models.Portal.time_zone)).where(col(models.Portal.id) == portal_id)
        ).scalar_one()
    )


def rules_of(db: Session, portal_id: int, rules: Mapping[str, str], now: datetime) -> Rules:
    """How cells are read at a portal."""
    return _rules(_zone(db, portal_id), rules, now)


def _rules(zone: ZoneInfo, rules: Mapping[str, str], now: datetime) -> Rules:
    decimal: Any = rules.get("decimal", "")
    dates: Any = rules.get("dates", "")
    return Rules(zone, now, decimal, dates, rules.get("currency", "").upper())


def cells_of(mapping: Sequence[str], cells: Sequence[Cell]) -> dict[str, Cell]:
    return {name: cell for name, cell in zip(mapping, cells, strict=False) if name}


@dataclass(frozen=True, slots=True)
class Shown:
    """A row as it would be understood: its account, what is read, or what is wrong."""

    line: int
    row: Row
    account: str
    wrong: tuple[str, ...]


def look(db: Session, sheet: models.Sheet, choice: Choice, now: datetime) -> list[Shown]:
    """The first rows as this choice has them."""
    if sheet.kind == "own":
        return []
    accounts = Accounts(db, sheet.portal_id, choice.account_id)
    rules = rules_of(db, sheet.portal_id, choice.rules, now)
    found = []
    for line, *cells in sheet.first:
        one = understand(cells_of(choice.mapping, cells), rules)
        wrong = [sentence for _column, sentence in one.wrong]
        label = ""
        try:
            label = accounts.named(one.row.processor).label
        except Refused as error:
            wrong.append(str(error))
        found.append(Shown(line, one.row, label, tuple(wrong)))
    return found


# The run


def begin(
    db: Session, sheet: models.Sheet, choice: Choice, what: Literal["checking", "importing"], now: datetime
) -> int:
    """From here on the worker goes through the rows, as this choice has them; the number of this run. `sheet` is locked
    by the caller."""
    if sheet.emptied_at is not None:
        raise Refused(_("The rows of this file are not kept any more. Give it once more."))
    if sheet.state in AT_WORK:
        raise Refused(_("This file is being gone through already."))
    wrong = wrong_with(db, sheet, choice, now)
    if wrong:
        raise Refused(" ".join(wrong.values()))
    choose(sheet, choice)
    _forget_problems(db, sheet.portal_id, sheet.id)
    sheet.state, sheet.run = what, sheet.run + 1
    sheet.position = sheet.asked = sheet.created = sheet.changed = sheet.unchanged = sheet.refused = 0
    sheet.error, sheet.started_at, sheet.finished_at = None, now, None
    sheet.as_of = _as_of(choice.as_of, _zone(db, sheet.portal_id), now)
    return sheet.run


def _as_of(day: str, zone: ZoneInfo, now: datetime) -> datetime:
    """The beginning of a day: what the processor has said on it or later stays. The second in which a run begins counts
    as a microsecond, so that a later run of the same day stands above an earlier one."""
    local = now.astimezone(zone)
    wanted = date.fromisoformat(day) if day else local.date()
    second = local.hour * 3600 + local.minute * 60 + local.second
    return datetime.combine(wanted, time(0, 0, 0, second), zone).astimezone(UTC)


def choose(sheet: models.Sheet, choice: Choice) -> None:
    """Keep what somebody says of a file."""
    sheet.mapping, sheet.account_id, sheet.rules = list(choice.mapping), choice.account_id, choice.rules


def want(db: Session, sheet: models.Sheet, run: int, now: datetime) -> None:
    """Have the worker do it."""
    enqueue(db, "sheet", {"sheet": sheet.id, "run": run}, now, f"sheet:{sheet.id}:{run}")


Fetched = Mapping[int, bytes]  # parts by their number
NOTHING: Fetched = {}


class NotFetched(Exception):
    """A part lies in the store and was not fetched before: `fetched` does it."""


def fetched(database: Database, place: store.Store | None, sheet_id: int, run: int) -> Fetched:
    """The next parts of a run, as far as they lie in the store. Blocks; StoreDown, Lost."""
    return read_parts(place, *database.read_now(next_parts, sheet_id, run))


def next_parts(db: Session, sheet_id: int, run: int) -> tuple[str, list[models.SheetPart]]:
    """The key of a file's object and where in it the next parts lie: none where they stand in rows."""
    sheet = db.get(models.Sheet, sheet_id)
    if sheet is None or sheet.sha256 is None or sheet.run != run or sheet.state not in AT_WORK:
        return "", []
    row = models.SheetPart
    statement = (
        select(row).where(col(row.sheet_id) == sheet_id, col(row.content).is_(None)).order_by(col(row.number))
    )
    if sheet.kind != "own":  # which is read as a whole
        statement = statement.where(
            col(row.number) >= sheet.position, col(row.number) < sheet.position + AHEAD
        )
    key = store.key_of("sheet", sheet.portal_id, sheet.id, sheet.sha256)
    return key, list(db.execute(statement).scalars())


def read_parts(place: store.Store | None, key: str, parts: Sequence[models.SheetPart]) -> Fetched:
    """Parts that lie one behind the other in an object, in one go; each is held against its hash."""
    if not parts:
        return NOTHING
    if place is None:
        raise store.Lost("no store is set")
    begin_at, end = parts[0].at or 0, (parts[-1].at or 0) + (parts[-1].size or 0)
    content = place.get(key, begin_at, end - begin_at)
    found = {}
    for part in parts:
        at = (part.at or 0) - begin_at
        found[part.number] = store.proved(content[at : at + (part.size or 0)], part.sha256 or "", key)
    return found


def _at_work(db: Session, sheet_id: int, run: int) -> models.Sheet | None:
    """A sheet that is in this run still, locked."""
    row = models.Sheet
    sheet = db.execute(select(row).where(col(row.id) == sheet_id).with_for_update()).scalar_one_or_none()
    return sheet if sheet is not None and sheet.run == run and sheet.state in AT_WORK else None


def give_up(db: Session, sheet_id: int, run: int, now: datetime) -> None:
    """Its rows can't be read back as they were taken in; what of them is written stays."""
    if sheet := _at_work(db, sheet_id, run):
        _end(
            sheet,
            now,
            _("The rows of this file can't be read back as they were taken in. Give it once more."),
        )


def step(db: Session, sheet_id: int, run: int, now: datetime, parts: Fetched = NOTHING) -> bool:
    """Go through one part, and say whether there is more. Its rows, its counts and its place are written together, or
    not at all. `parts` are those that lie in the store; NotFetched where the one to go through is not among them."""
    sheet = _at_work(db, sheet_id, run)
    if sheet is None:
        return False
    assert sheet.as_of is not None
    accounts = Accounts(db, sheet.portal_id, sheet.account_id)
    if sheet.account_id is not None:
        try:
            accounts.named(None)
        except Refused as error:
            return _end(sheet, now, str(error))
    go: Callable[..., bool] = _step_own if sheet.kind == "own" else _step_rows
    return go(db, sheet, accounts, now, parts)


def break_off(db: Session, sheet_id: int, run: int, now: datetime) -> None:
    """It was tried again and again: the run ends, and may be started anew."""
    if sheet := _at_work(db, sheet_id, run):
        _end(
            sheet,
            now,
            _("The import broke off because of a fault of ours. Start it again; no row comes in twice."),
        )


def _end(sheet: models.Sheet, now: datetime, error: str | None = None) -> bool:
    sheet.state = "failed" if error else "done" if sheet.state == "importing" else "checked"
    sheet.error, sheet.finished_at = error, now
    return False


def _bytes_of(part: models.SheetPart, parts: Fetched) -> bytes:
    if part.content is not None:
        return part.content
    if part.number not in parts:
        raise NotFetched
    return parts[part.number]


def _step_rows(db: Session, sheet: models.Sheet, accounts: Accounts, now: datetime, parts: Fetched) -> bool:
    part = db.get(models.SheetPart, (sheet.id, sheet.position))
    if part is None:
        return _end(sheet, now)
    rules = rules_of(db, sheet.portal_id, sheet.rules, now)
    lines: list[list[Any]] = json.loads(zlib.decompress(_bytes_of(part, parts)))
    db.expunge(part)
    rows = [understand(cells_of(sheet.mapping, cells), rules) for _line, *cells in lines]
    as_of, asks_from, only_checks = sheet.as_of, sheet.asked, sheet.state == "checking"
    assert as_of is not None
    with _Tried(db, only_checks):
        outcomes = write_rows(db, accounts, rows, as_of, asks_from, now)
    _count(sheet, outcomes)
    names_of = {name: title for name, title in zip(sheet.mapping, sheet.header, strict=False) if name}
    _note(
        db,
        sheet,
        (
            (line[0], names_of.get(column, column), sentence)
            for line, outcome in zip(lines, outcomes, strict=True)
            for column, sentence in outcome.wrong
        ),
    )
    sheet.position += 1
    return sheet.position < sheet.parts or _end(sheet, now)


class _Tried:
    """What is written inside is written for good, or, where it is only tried, taken back at the end."""

    def __init__(self, db: Session, only: bool) -> None:
        self._db = db
        self._nested = db.begin_nested() if only else None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        if self._nested is not None and self._nested.is_active:
            self._nested.rollback()


def _count(sheet: models.Sheet, outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        setattr(sheet, outcome.result, getattr(sheet, outcome.result) + 1)
        sheet.asked += outcome.is_asked


def _note(db: Session, sheet: models.Sheet, found: Iterable[tuple[int, str, str]]) -> None:
    """Keep what is wrong; beyond a number of them only counts go on."""
    row = models.SheetProblem
    wrong = [
        {"id": new_id(), "portal_id": sheet.portal_id, "sheet_id": sheet.id}
        | {"line": line, "column": column[:100], "sentence": sentence[:500]}
        for line, column, sentence in found
    ]
    if not wrong:
        return
    kept = db.execute(
        select(func.count()).where(col(row.sheet_id) == sheet.id, col(row.portal_id) == sheet.portal_id)
    )
    room = MOST_PROBLEMS - kept.scalar_one()
    if room > 0:
        db.execute(insert(row), wrong[:room])


# A list in the form of a processor


def _step_own(db: Session, sheet: models.Sheet, accounts: Accounts, now: datetime, parts: Fetched) -> bool:
    account = accounts.named(None)
    part = models.SheetPart
    pieces = db.execute(
        select(part).where(col(part.sheet_id) == sheet.id).order_by(col(part.number))
    ).scalars()
    text = "".join(zlib.decompress(_bytes_of(piece, parts)).decode() for piece in pieces)
    try:
        snapshot = adapter(account.processor).read_file(text)
    except ValueError as error:
        _note(db, sheet, _lines_of(str(error)))
        sheet.refused = len(str(error).split("; "))
        return _end(sheet, now, _("Nothing of this list is taken as long as a line of it can't be read."))
    every = [
        *(*snapshot.customers, *snapshot.subscriptions, *snapshot.orders),
        *(*snapshot.payments, *snapshot.refunds, *snapshot.invoices),
    ]
    sheet.rows = len(every)
    some = every[sheet.position * SLICE : (sheet.position + 1) * SLICE]
    outcomes = [Outcome() for _record in some]
    asks_from, only_checks = sheet.asked, sheet.state == "checking"
    assert sheet.as_of is not None
    as_of = min(sheet.as_of, snapshot.as_of)  # a list may tell how old it is
    told = [_Due(number, (record,)) for number, record in enumerate(some)]
    with _Tried(db, only_checks):
        _write(db, account, told, outcomes, as_of, asks_from, now)
    _count(sheet, outcomes)
    sheet.position += 1
    return sheet.position * SLICE < len(every) or _end(sheet, now)


def _lines_of(text: str) -> Iterator[tuple[int, str, str]]:
    for one in text.split("; "):
        found = re.fullmatch(r"line ([0-9]+): (.*)", one, re.DOTALL)
        yield (int(found[1]), "", found[2]) if found else (0, "", one)


# For the screens


def sheet_of(db: Session, portal_id: int, sheet_id: int, lock: bool = False) -> models.Sheet | None:
    """A file of this portal."""
    row = models.Sheet
    statement = select(row).where(
        col(row.portal_id) == portal_id, col(row.id) == sheet_id, col(row.state) != "taken"
    )
    return db.execute(statement.with_for_update() if lock else statement).scalar_one_or_none()


@dataclass(frozen=True, slots=True)
class SheetRow:
    """A file in the list of them."""

    id: int
    name: str
    state: str
    rows: int
    created: int
    changed: int
    unchanged: int
    refused: int
    created_at: datetime
    asked_by: str


def sheets(db: Session, portal_id: int) -> list[SheetRow]:
    """The newest files of a portal."""
    row = models.Sheet
    columns = [col(getattr(row, name)) for name in SheetRow.__dataclass_fields__]
    found = db.execute(
        select(*columns)
        .where(col(row.portal_id) == portal_id, col(row.state) != "taken")
        .order_by(col(row.id).desc())
        .limit(SHEETS_SHOWN)
    )
    return [SheetRow(*one) for one in found]


@dataclass(frozen=True, slots=True)
class Problem:
    id: int
    line: int
    column: str
    sentence: str


def problems(db: Session, portal_id: int, sheet_id: int, after: int, limit: int) -> list[Problem]:
    """What is wrong with a file's rows, in their order, after an id."""
    row = models.SheetProblem
    found = db.execute(
        select(col(row.id), col(row.line), col(row.column), col(row.sentence))
        .where(col(row.portal_id) == portal_id, col(row.sheet_id) == sheet_id, col(row.id) > after)
        .order_by(col(row.id))
        .limit(limit)
    )
    return [Problem(*one) for one in found]


PROBLEMS_HEAD = export.BOM + export.lines([("line", "column", "problem")])


def problem_lines(found: Sequence[Problem]) -> bytes:
    """Problems as lines of CSV, in which nothing is taken for a formula."""
    return export.lines([(one.line, one.column, one.sentence) for one in found])


async def problems_csv(database: Database, portal_id: int, sheet_id: int) -> Any:
    yield PROBLEMS_HEAD
    after = 0
    while found := await database.read(problems, portal_id, sheet_id, after, 500):
        yield problem_lines(found)
        after = found[-1].id


def template() -> bytes:
    """The file to begin with: all our columns, and two rows."""
    names_ = list(COLUMNS)
    rows = [[one.example for one in COLUMNS.values()], [one.second for one in COLUMNS.values()]]
    return export.BOM + export.lines([names_, *rows])


@dataclass(frozen=True, slots=True)
class Own:
    """A list that the processor of an account has a form of its own for."""

    account_id: int
    account: str
    label: str
    help: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ways:
    """Where a portal's files may go: its connected accounts, and the forms of their processors."""

    accounts: tuple[tuple[int, str], ...]
    own: tuple[Own, ...]


def ways(db: Session, portal_id: int) -> Ways:
    there = [one for one in Accounts(db, portal_id, None).all if one.disconnected_at is None]
    own = [
        Own(one.id, one.label, _(file.label), _(file.help), tuple(file.columns))
        for one in there
        for file in facts(one.processor).files
    ]
    return Ways(tuple((one.id, one.label) for one in there), tuple(own))


# Cleaning up


def empty(db: Session, sheet: models.Sheet, now: datetime) -> None:
    """Let the rows of a file go; what became of them stays written down."""
    db.execute(delete(models.SheetPart).where(col(models.SheetPart.sheet_id) == sheet.id))
    _let_go(db, sheet, now)
    sheet.first, sheet.emptied_at, sheet.sha256 = [], now, None
    if sheet.state in ("new", "checked"):
        sheet.state, sheet.finished_at = "failed", now
        sheet.error = _("Discarded before it was imported.")


def _let_go(db: Session, sheet: models.Sheet, now: datetime) -> None:
    """Its object goes after its rows have."""
    if sheet.sha256 is not None:
        key = store.key_of("sheet", sheet.portal_id, sheet.id, sheet.sha256)
        enqueue(db, "unstore", {"key": key}, now + store.STAYS, f"unstore:{key}")


def forget_old(db: Session, now: datetime) -> None:
    """Rows go after two weeks, what was wrong with them after three months, uploads that broke off soon."""
    row = models.Sheet
    broken = select(col(row.id)).where(col(row.created_at) < now - KEEP_TAKEN, col(row.state) == "taken")
    for sheet_id in db.execute(broken.limit(10)).scalars().all():
        _drop(db, sheet_id, now)
    old = (
        select(row)
        .where(
            col(row.created_at) < now - KEEP_ROWS,
            col(row.emptied_at).is_(None),
            col(row.state).not_in(AT_WORK),
        )
        .limit(10)
    )
    for sheet in db.execute(old).scalars().all():
        empty(db, sheet, now)
    problem = models.SheetProblem
    has = exists().where(col(problem.portal_id) == col(row.portal_id), col(problem.sheet_id) == col(row.id))
    gone = select(col(row.portal_id), col(row.id)).where(col(row.created_at) < now - KEEP_PROBLEMS, has)
    for portal_id, sheet_id in db.execute(gone.limit(PROBLEMS_AT_ONCE)).all():
        _forget_problems(db, portal_id, sheet_id)
