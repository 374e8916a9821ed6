"""Taking data out: a portal's lists as CSV, streamed batch by batch so that no length of them weighs on memory, and all
that is kept of one person as JSON and CSV."""

import csv
import io
import json
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from sqlalchemy import Select, and_, bindparam, select
from sqlalchemy.orm import Session

from portal import merchants, models, people
from portal.db import Database, beside
from portal.ids import id_text, new_id
from portal.merchants import Person
from portal.money import Money
from portal.people import account_labels

BATCH = 500
CHUNK = 64 * 1024
IN_MEMORY = 2 * 1024 * 1024  # of one person's file; what is more goes to the disk meanwhile
BOM = "\ufeff".encode()  # by which spreadsheets know UTF-8
# What a spreadsheet takes for the beginning of a formula, also in the wide forms of East Asian keyboards.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")

Labels = dict[int, tuple[str, str]]


def _table(model: Any) -> Any:
    return model.__table__


_customer = _table(models.Customer)
_join = _table(models.Join)
_into = _customer.alias("into")


# The sheets


@dataclass(frozen=True, slots=True)
class Sheet:
    """A list as it is taken out: its columns' names, a batch of its rows after an id, and a row as cells."""

    name: str
    table: Any
    columns: tuple[str, ...]
    batch: Select[Any]
    cells: Callable[[Any, Labels], Sequence[Any]]


def _batch(table: Any, customer_id: int | None = None) -> Select[Any]:
    """Rows of a portal, or of one of its customers, after an id and up to another one, with whose they are."""
    place = table.c.id if customer_id is None else beside(table.c.id)
    whose = [] if customer_id is None else [table.c.customer_id == customer_id]
    return (
        select(table, _customer.c.email.label("customer_email"))
        .select_from(table)
        .join(
            _customer,
            and_(_customer.c.id == table.c.customer_id, _customer.c.portal_id == table.c.portal_id),
            isouter=True,
        )
        .where(
            table.c.portal_id == bindparam("portal"),
            place > bindparam("after"),
            place <= bindparam("until"),
            *whose,
        )
        .order_by(place)
        .limit(BATCH)
    )


CUSTOMERS = (
    select(_customer, _into.c.email.label("joined"))
    .select_from(_customer)
    .join(
        _join,
        and_(
            _join.c.from_id == _customer.c.id,
            _join.c.portal_id == _customer.c.portal_id,
            _join.c.proved_at.is_not(None),
            _join.c.undone_at.is_(None),
        ),
        isouter=True,
    )
    .join(_into, _into.c.id == _join.c.into_id, isouter=True)
    .where(
        _customer.c.portal_id == bindparam("portal"),
        _customer.c.id > bindparam("after"),
        _customer.c.id <= bindparam("until"),
    )
    .order_by(_customer.c.id)
    .limit(BATCH)
)


def amount_text(minor: int | None, currency: str | None) -> str | None:
    """An amount for machines and people alike: 24.00 USD."""
    return f"{Money(minor, currency).decimal} {currency}" if minor is not None and currency else None


def _customer_cells(row: Any, labels: Labels) -> Sequence[Any]:
    return id_text(row.id), row.email, row.name, row.created_at, row.joined


def _order_cells(row: Any, labels: Labels) -> Sequence[Any]:
    return (
        id_text(row.id),
        row.customer_email,
        row.number,
        row.title,
        row.status,
        row.placed_at,
        row.amount_minor,
        row.currency,
        amount_text(row.amount_minor, row.currency),
        row.tax_minor,
        row.discount_minor,
        *labels[row.account_id],
        row.remote_id,
        row.subscription_remote,
    )


def _subscription_cells(row: Any, labels: Labels) -> Sequence[Any]:
    return (
        id_text(row.id),
        row.customer_email,
        row.title,
        row.status,
        row.amount_minor,
        row.currency,
        amount_text(row.amount_minor, row.currency),
        row.interval_unit,
        row.interval_count,
        row.quantity,
        row.started_at,
        row.current_period_end,
        row.next_on,
        row.next_minor,
        row.cancels_at,
        row.ended_at,
        *labels[row.account_id],
        row.remote_id,
    )


def _payment_cells(row: Any, labels: Labels) -> Sequence[Any]:
    return (
        id_text(row.id),
        row.customer_email,
        row.title,
        row.status,
        row.placed_at,
        row.paid_at,
        row.amount_minor,
        row.currency,
        amount_text(row.amount_minor, row.currency),
        row.refunded_minor,
        amount_text(row.refunded_minor, row.currency),
        row.failure_reason,
        *labels[row.account_id],
        row.remote_id,
        row.order_remote,
        row.subscription_remote,
        row.invoice_remote,
    )


def _request_cells(row: Any, labels: Labels) -> Sequence[Any]:
    return (
        row.reference,
        row.customer_email or row.contact,
        row.kind,
        row.what,
        row.status,
        row.words,
        row.answer,
        row.created_at,
        row.due_at,
        row.closed_at,
        *(labels[row.account_id] if row.account_id is not None else (None, None)),
    )


_AMOUNT = ("amount_minor", "currency", "amount")
_WHERE = ("account", "processor")
SHEETS: dict[str, Sheet] = {
    sheet.name: sheet
    for sheet in (
        Sheet(
            "customers",
            _table(models.Customer),
            ("id", "email", "name", "created_at", "joined_with"),
            CUSTOMERS,
            _customer_cells,
        ),
        Sheet(
            "orders",
            _table(models.Order),
            (
                *("id", "customer", "number", "title", "status", "placed_at"),
                *_AMOUNT,
                *("tax_minor", "discount_minor"),
                *_WHERE,
                *("remote_id", "subscription_remote_id"),
            ),
            _batch(_table(models.Order)),
            _order_cells,
        ),
        Sheet(
            "subscriptions",
            _table(models.Subscription),
            (
                *("id", "customer", "title", "status"),
                *_AMOUNT,
                *("interval_unit", "interval_count", "quantity", "started_at", "current_period_end"),
                *("next_on", "next_minor", "cancels_at", "ended_at"),
                *_WHERE,
                "remote_id",
            ),
            _batch(_table(models.Subscription)),
            _subscription_cells,
        ),
        Sheet(
            "payments",
            _table(models.Payment),
            (
                *("id", "customer", "title", "status", "placed_at", "paid_at"),
                *_AMOUNT,
                *("refunded_minor", "refunded", "failure"),
                *_WHERE,
                *("remote_id", "order_remote_id", "subscription_remote_id", "invoice_remote_id"),
            ),
            _batch(_table(models.Payment)),
            _payment_cells,
        ),
        Sheet(
            "requests",
            _table(models.Request),
            (
                *("reference", "customer", "kind", "what", "status", "words", "answer"),
                *("created_at", "due_at", "closed_at"),
                *_WHERE,
            ),
            _batch(_table(models.Request)),
            _request_cells,
        ),
    )
}


# CSV


def harmless(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: a text that begins like one gets an apostrophe before it."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def lines(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows([harmless(cell) for cell in row] for row in rows)
    return text.getvalue().encode()


async def csv_of(database: Database, portal_id: int, sheet: Sheet) -> AsyncIterator[bytes]:
    """A list of a portal as CSV, a batch and a read of its own at a time; what comes while it runs is left out."""
    yield BOM + lines([sheet.columns])
    after, until = 0, new_id()
    while True:
        last, cells = await database.read(_read, portal_id, sheet, after, until)
        if cells:
            yield lines(cells)
        if last is None:
            return
        after = last


def _read(
    db: Session, portal_id: int, sheet: Sheet, after: int, until: int
) -> tuple[int | None, list[Sequence[Any]]]:
    """A batch, and the id after which it goes on; None where it does not."""
    values = {"portal": portal_id, "after": after, "until": until}
    found = db.execute(sheet.batch, values).all()
    labels = account_labels(db, portal_id)
    return found[-1].id if len(found) == BATCH else None, [sheet.cells(row, labels) for row in found]


def note(db: Session, person: Person, portal_id: int, what: str, subject: str) -> None:
    """Write down that something is taken out, before it is."""
    merchants.audit(db, person, what, subject=subject, portal_id=portal_id)


# One person


_MIRRORED = ("email", "status", "raw_status", "created_at", "placed_at", "as_of")
# Column by column: what a table gets later is not given away unasked.
_KEPT: dict[str, tuple[Any, tuple[str, ...]]] = {
    "remote_customers": (
        models.RemoteCustomer,
        ("remote_id", "email", "name", "deleted", "created_at", "as_of"),
    ),
    "orders": (
        models.Order,
        (
            *("remote_id", "number", "title", *_MIRRORED),
            *("amount_minor", "currency", "tax_minor", "discount_minor", "lines", "subscription_remote"),
        ),
    ),
    "subscriptions": (
        models.Subscription,
        (
            *("remote_id", "title", *_MIRRORED),
            *("amount_minor", "currency", "interval_unit", "interval_count", "quantity", "method"),
            *("started_at", "trial_ends_at", "current_period_start", "current_period_end"),
            *("next_on", "next_minor", "cancels_at", "ended_at", "resumes_at", "access_until", "due_minor"),
        ),
    ),
    "payments": (
        models.Payment,
        (
            *("remote_id", "title", *_MIRRORED),
            *("amount_minor", "currency", "refunded_minor", "paid_at", "method", "failure_code"),
            *("failure_reason", "order_remote", "subscription_remote", "invoice_remote"),
        ),
    ),
    "invoices": (
        models.Invoice,
        (
            *("remote_id", "number", *_MIRRORED),
            *(
                "amount_minor",
                "currency",
                "due_minor",
                "payment_remote",
                "subscription_remote",
                "order_remote",
            ),
            "lines",
        ),
    ),
    "requests": (
        models.Request,
        (
            *("reference", "kind", "what", "words", "status", "answer"),
            *("created_at", "due_at", "closed_at"),
        ),
    ),
    "actions": (
        models.Action,
        (
            *("reference", "capability", "phase", "error", "created_at", "sent_at", "confirmed_at"),
            "closed_at",
        ),
    ),
    "documents": (models.IssuedDocument, ("kind", "number", "issued_at", "facts")),
    "sign_ins": (models.SignIn, ("purpose", "user_agent", "created_at", "last_seen_at", "expires_at")),
    "browsers": (models.Device, ("created_at", "seen_at")),
}
_REFUND = (
    "remote_id",
    "status",
    "payment_remote",
    "amount_minor",
    "currency",
    "reason",
    "created_at",
    "placed_at",
)
OF_PERSON = ("orders", "subscriptions", "payments", "requests")  # as CSV beside the JSON


async def person_file(
    database: Database, portal_id: int, customer_id: int, now: datetime
) -> IO[bytes] | None:
    """All that is kept of a customer: `data.json`, and the lists as CSV, in one ZIP. None where there is none.

    The caller closes it.
    """
    about = await database.read(_about, portal_id, customer_id, now)
    if about is None:
        return None
    file = SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 (handed over)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in OF_PERSON:
            with archive.open(f"{name}.csv", "w") as out:
                async for piece in _csv_of_person(database, portal_id, customer_id, SHEETS[name]):
                    out.write(piece)
        with archive.open("data.json", "w") as out:
            async for text in _json_of_person(database, portal_id, customer_id, about):
                out.write(text.encode())
    file.seek(0)
    return file


def chunks(file: IO[bytes]) -> Iterator[bytes]:
    """A file piece by piece, closed at its end."""
    with file:
        while piece := file.read(CHUNK):
            yield piece


def _about(db: Session, portal_id: int, customer_id: int, now: datetime) -> dict[str, Any] | None:
    row = db.execute(
        select(_customer).where(_customer.c.id == customer_id, _customer.c.portal_id == portal_id)
    ).one_or_none()
    if row is None:
        return None
    portal = db.get_one(models.Portal, portal_id)
    further = people.addresses(db, portal_id, customer_id).further
    return {
        "exported_at": now,
        "portal": portal.name,
        "customer": {
            "id": id_text(row.id),
            "email": row.email,
            "name": row.name,
            "created_at": row.created_at,
            "further_addresses": [one.email for one in further if one.proved_at],
        },
    }


async def _csv_of_person(
    database: Database, portal_id: int, customer_id: int, sheet: Sheet
) -> AsyncIterator[bytes]:
    yield BOM + lines([sheet.columns])
    after, until = 0, new_id()
    mine = replace(sheet, batch=_batch(sheet.table, customer_id))
    while True:
        last, cells = await database.read(_read, portal_id, mine, after, until)
        yield lines(cells)
        if last is None:
            return
        after = last


async def _json_of_person(
    database: Database, portal_id: int, customer_id: int, about: dict[str, Any]
) -> AsyncIterator[str]:
    yield json.dumps(about, default=_plain, ensure_ascii=False, indent=1).removesuffix("\n}")
    for name in _KEPT:
        yield f',\n "{name}": ['
        after: int | None = 0
        first = True
        while after is not None:
            after, rows = await database.read(_kept, portal_id, customer_id, name, after)
            for row in rows:
                yield f"{'' if first else ','}\n  {json.dumps(row, default=_plain, ensure_ascii=False)}"
                first = False
        yield "\n ]"
    yield "\n}\n"


def _kept(
    db: Session, portal_id: int, customer_id: int, name: str, after: int
) -> tuple[int | None, list[dict[str, Any]]]:
    model, columns = _KEPT[name]
    table = _table(model)
    place = beside(table.c.id)
    found = db.execute(
        select(table)
        .where(table.c.portal_id == portal_id, table.c.customer_id == customer_id, place > after)
        .order_by(place)
        .limit(BATCH)
    ).all()
    labels = account_labels(db, portal_id)
    rows = []
    for one in found:
        kept = {column: getattr(one, column) for column in columns if column in table.c}
        if "account_id" in table.c:
            kept["account"], kept["processor"] = labels[one.account_id]
        rows.append(kept)
    if name == "payments":
        _with_refunds(db, portal_id, found, rows)
    return found[-1].id if len(found) == BATCH else None, rows


def _with_refunds(db: Session, portal_id: int, found: Sequence[Any], rows: list[dict[str, Any]]) -> None:
    refund = _table(models.Refund)
    by_account: dict[int, list[str]] = {}
    for one in found:
        by_account.setdefault(one.account_id, []).append(one.remote_id)
    of: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for account_id, remotes in by_account.items():
        for one in db.execute(
            select(refund).where(
                beside(refund.c.portal_id) == portal_id,
                refund.c.account_id == account_id,
                refund.c.payment_remote.in_(remotes),
            )
        ):
            of.setdefault((account_id, one.payment_remote), []).append(
                {column: getattr(one, column) for column in _REFUND}
            )
    for one, row in zip(found, rows, strict=True):
        row["refunds"] = of.get((one.account_id, one.remote_id), [])


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime | date) else str(value)
