"""A snapshot becomes rows. Each field keeps the moment of the newest word on it, so the order of arrival is of no
matter: whatever comes late, twice or out of order, the rows end up the same."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import Table, and_, bindparam, or_, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import Session, make_transient_to_detached
from sqlalchemy.orm.attributes import instance_state, manager_of_class, set_attribute
from sqlmodel import col

from portal import clock, models, names
from portal.db import dialect_of
from portal.gateways import facts
from portal.gateways.base import (
    CustomerRecord,
    Interval,
    InvoiceRecord,
    Line,
    Method,
    NextPayment,
    OrderRecord,
    PaymentRecord,
    Record,
    Ref,
    RefundRecord,
    Snapshot,
    SubscriptionRecord,
)
from portal.ids import new_id
from portal.money import Money

FEW = 10  # rows


@dataclass(frozen=True, slots=True)
class Change:
    """A row that a snapshot touched, with its status before (None: it is new) and after."""

    table: str
    id: int
    before: str | None
    after: str


_OWNED = (models.Order, models.Subscription, models.Payment, models.Invoice)
_RENAMED = {
    "customer": "remote_customer",
    "order": "order_remote",
    "subscription": "subscription_remote",
    "invoice": "invoice_remote",
    "payment": "payment_remote",
}
_METHOD = tuple(field.name for field in fields(Method))
_NOT_FIELDS = {"remote_id", "knows", "updated_at", "document_url"}


def apply(db: Session, account: models.Account, snapshot: Snapshot, fetched: bool = True) -> list[Change]:
    """Write what a processor says into rows; returns what was touched. Newest wins, field by field.

    `fetched`: it was asked about just these objects. A list or a notice (False) brings nothing back that has ended: it
    only has us ask.
    """
    changes: list[Change] = []
    touched: list[_Touched] = []
    for model, records in (
        (models.RemoteCustomer, snapshot.customers),
        (models.Subscription, snapshot.subscriptions),
        (models.Order, snapshot.orders),
        (models.Payment, snapshot.payments),
        (models.Refund, snapshot.refunds),
        (models.Invoice, snapshot.invoices),
    ):
        if records:
            changes += _write(db, account, model, records, snapshot.as_of, fetched, touched)
    db.flush()
    _sum_refunds(db, account, [one.row for one in touched])
    _pass_on(db, account, touched)
    # A session forgets what nobody holds, and who follows a change would load its row once more.
    db.info.setdefault("touched", []).extend(one.row for one in touched if one.row in db)
    return changes


@dataclass(frozen=True, slots=True)
class _Touched:
    """A row of which a snapshot spoke, and whose it was before."""

    row: models._Mirrored
    owner: int | None


def _write(
    db: Session,
    account: models.Account,
    model: type[models._Mirrored],
    records: Sequence[Record],
    as_of: datetime,
    fetched: bool,
    touched: list[_Touched],
) -> list[Change]:
    """Records of one table: those that are known under their locks, the others in one insert, whole."""
    ids = sorted({record.remote_id for record in records})
    known = _locked(db, account, model, ids)
    fresh = {one: _blank(account, model, one, as_of) for one in ids if one not in known}
    rows = known | fresh
    whose = {one: row.customer_id for one, row in rows.items()}
    new, told = set(fresh), dict[int, tuple[str | None, str]]()
    for number, record in enumerate(records):
        if record.remote_id in new:
            told[number] = _begin(rows[record.remote_id], record, as_of)
            new.discard(record.remote_id)
        else:
            told[number] = _merge(rows[record.remote_id], record, as_of, fetched)
    _give_owners(db, account, list(rows.values()))
    late = _insert(db, model, fresh)
    if late:  # somebody else has inserted these meanwhile
        theirs = _locked(db, account, model, late)
        rows |= theirs
        whose |= {one: row.customer_id for one, row in theirs.items()}
        for number, record in enumerate(records):
            if record.remote_id in theirs:
                told[number] = _merge(rows[record.remote_id], record, as_of, fetched)
        _give_owners(db, account, list(theirs.values()))
    touched += [_Touched(rows[one], whose[one]) for one in ids]
    return [
        Change(model.__tablename__, rows[record.remote_id].id, *told[number])  # type: ignore[arg-type]
        for number, record in enumerate(records)
    ]


def _locked(
    db: Session, account: models.Account, model: type[models._Mirrored], remote_ids: Sequence[str]
) -> dict[str, models._Mirrored]:
    """The rows that there are, locked in an order that is always the same."""
    asked = {"account": account.id, "remotes": remote_ids}
    return {row.remote_id: row for row in db.execute(_lock(model), asked).scalars()}


@cache
def _lock(model: type[models._Mirrored]) -> Any:
    """Built once, as are the others that every page asks: to put a statement together costs as much as to run it."""
    return (
        select(model)
        .where(col(model.account_id) == bindparam("account"), _in(model.remote_id, "remotes"))
        .order_by(col(model.remote_id))
        .with_for_update()
    )


def _in(column: Any, name: str) -> Any:
    return col(column).in_(bindparam(name, expanding=True))


def _blank(
    account: models.Account, model: type[models._Mirrored], remote_id: str, as_of: datetime
) -> models._Mirrored:
    """A row that is in no session yet; made as the mapper makes one that it loads, which takes a tenth of the time."""
    row: models._Mirrored = manager_of_class(model).new_instance()
    row.__dict__.update(
        _defaults(model),
        id=new_id(),
        portal_id=account.portal_id,
        account_id=account.id,
        remote_id=remote_id,
        placed_at=as_of,
        as_of=as_of,
        stamps={},
    )
    return row


@cache
def _defaults(model: type[models._Mirrored]) -> dict[str, Any]:
    """What stands in a row of which nothing is known. No list in it is ever changed in its place."""
    found = {
        name: None if field.is_required() else field.default for name, field in model.model_fields.items()
    }
    return {**found, **_DEFAULTS.get(model, {})}


def _put(row: models._Mirrored, name: str, value: Any) -> None:
    """Set a field, past the checks of the model class: the values are our own."""
    there = row.__dict__
    if (there[name] if name in there else getattr(row, name)) == value:
        return
    if instance_state(row).key is None:
        there[name] = value
    else:
        set_attribute(row, name, value)


def _insert(db: Session, model: type[models._Mirrored], fresh: Mapping[str, models._Mirrored]) -> list[str]:
    """Insert what is not there yet; the ids of those that are there by now all the same. The rows of a list's page stay
    outside of the session, since few of them are touched again; who asked for one thing goes on with it."""
    if not fresh:
        return []
    table: Table = model.__table__  # type: ignore[attr-defined]
    names = _names_of(model)
    rows = [fresh[one].__dict__ for one in sorted(fresh)]
    values = [{name: row[name] for name in names} for row in rows]
    mine = _inserted(db, table, values, table.c.id)
    if len(rows) <= FEW:
        for row in fresh.values():
            if row.__dict__["id"] in mine:
                _take_in(db, row)
    return sorted(one for one, row in fresh.items() if row.__dict__["id"] not in mine)


@cache
def _names_of(model: type[models._Mirrored]) -> tuple[str, ...]:
    return tuple(column.key for column in model.__table__.columns)  # type: ignore[attr-defined]


def _inserted(db: Session, table: Table, values: Sequence[Mapping[str, Any]], key: Any) -> set[int]:
    """Insert rows, passing over those that stand there already; the ids of the others."""
    statement = dialect_of(db).insert(table).on_conflict_do_nothing()
    ids = {row[key.key] for row in values}
    if dialect_of(db) is not sqlite:
        return set(db.execute(statement.returning(key), values).scalars())
    # One row after the other is the quickest way there, and nobody else writes meanwhile.
    made: Any = db.connection().execute(statement, values)
    if made.rowcount == len(values):
        return ids
    return set(db.execute(select(key).where(key.in_(ids))).scalars())


def _take_in(db: Session, row: models._Mirrored) -> None:
    """From here on the session writes what is changed in a row that was just inserted."""
    if instance_state(row).key is None:
        make_transient_to_detached(row)
        db.add(row)


def _sum_refunds(db: Session, account: models.Account, touched: list[models._Mirrored]) -> None:
    """What was paid back of a payment, where the processor tells refunds alone and never their sum."""
    mine = {row.remote_id: row for row in touched if isinstance(row, models.Payment)}
    others = {row.payment_remote for row in touched if isinstance(row, models.Refund)} - {None, *mine}
    found = models.Payment
    payments = list(mine.values())
    if others:
        payments += db.execute(
            select(found).where(col(found.account_id) == account.id, col(found.remote_id).in_(others))
        ).scalars()
    wanted = [
        one
        for one in payments
        if one.status in ("paid", "partially_refunded", "refunded")
        and one.stamps.get("refunded", one.stamps.get("*", -1)) < 0  # else the processor has told the sum
    ]
    if not wanted:
        return
    refund = models.Refund
    sums: dict[str | None, int] = {}
    for remote, minor in db.execute(
        select(col(refund.payment_remote), col(refund.amount_minor)).where(
            col(refund.account_id) == account.id,
            col(refund.payment_remote).in_([one.remote_id for one in wanted]),
            col(refund.status) == "sent",
        )
    ):
        sums[remote] = sums.get(remote, 0) + (minor or 0)
    for payment in wanted:
        _take_in(db, payment)
        total = sums.get(payment.remote_id, 0)
        if total and payment.amount_minor:
            payment.refunded_minor = total
            payment.status = "refunded" if total >= payment.amount_minor else "partially_refunded"


def _begin(row: models._Mirrored, record: Record, as_of: datetime) -> tuple[None, str]:
    """`_merge` for a row of which nothing is known yet: every word is the newest."""
    stamp, values, knows = _microseconds(as_of), row.__dict__, record.knows
    stamps: dict[str, int] = {}
    is_whole = True
    for name, column in _written_as(type(record), type(row)):
        value = getattr(record, name)
        if (knows is not None and name not in knows) or (name == "status" and value is None):
            stamps[name], is_whole = -1, False
            continue
        stamps[name] = stamp
        if column is not None:
            values[column] = value
            continue
        for one, content in _columns(name, value).items():
            if one in values:
                values[one] = content
    values["stamps"] = {"*": stamp} if is_whole else _compact(stamps)
    values["placed_at"] = values["created_at"] or as_of
    return None, values.get("status", "")


_written: dict[tuple[type[Record], type[models._Mirrored]], tuple[tuple[str, str | None], ...]] = {}


def _written_as(sort: type[Record], model: type[models._Mirrored]) -> tuple[tuple[str, str | None], ...]:
    """The fields of a record, and for those that are written as they are, their column; found once."""
    if (sort, model) not in _written:
        known = _defaults(model)
        plain = {name: _RENAMED.get(name, name) for name in _told_by(sort) if name not in _COMPOUND}
        _written[sort, model] = tuple(
            (name, one if (one := plain.get(name)) in known else None) for name in _told_by(sort)
        )
    return _written[sort, model]


def _merge(
    row: models._Mirrored, record: Record, as_of: datetime, fetched: bool = True
) -> tuple[str | None, str]:
    """Put what a record says into its row; the status before and after."""
    before = getattr(row, "status", None)
    known = _defaults(type(row))
    stamp = _microseconds(as_of)
    names = _told_by(type(record))
    said_at = row.stamps
    usual = said_at.get("*", -1)
    stamps = {name: said_at.get(name, usual) for name in names}
    doubtful = _brings_back(row, record, stamp) and not fetched
    _note(row, record, as_of, fetched, doubtful)
    for name in names:
        if record.knows is not None and name not in record.knows:
            continue
        if doubtful and name in ("status", "raw_status", "ended_at"):
            continue
        if name in ("cancels_at", "next_payment") and _is_promised(row, as_of):
            continue  # what it does not show it does not deny
        value = getattr(record, name)
        if name == "created_at" and not fetched and row.created_at and (value or as_of) > row.created_at:
            continue  # a list that was read in part: what it is made of began earlier
        if name == "status":
            if value is None:
                continue
            value = _word(row, value, as_of)
        columns = _columns(name, value)
        last = stamps[name]
        if stamp < last or (stamp == last and _canonical(columns) <= _canonical_row(row, columns)):
            continue
        for column, content in columns.items():
            if column in known:
                _put(row, column, content)
        stamps[name] = stamp
        if name == "status" and isinstance(row, models.Subscription) and value in ("active", "trialing"):
            row.ended_here_at = None  # it was brought back at the processor
    _put(row, "stamps", _compact(stamps))
    _put(row, "as_of", max(row.as_of, as_of))
    _put(row, "placed_at", row.created_at or min(row.placed_at, as_of))
    return before, getattr(row, "status", "")


# What has ended stays so, unless the processor says otherwise when it is asked about just that.
ENDED: dict[type[models._Mirrored], frozenset[str]] = {
    models.Order: frozenset({"refunded", "cancelled", "expired"}),
    models.Subscription: frozenset({"cancelled", "expired"}),
    models.Payment: frozenset({"refunded", "cancelled", "expired"}),
    models.Refund: frozenset({"failed", "cancelled"}),
    models.Invoice: frozenset({"void"}),
}


def _brings_back(row: models._Mirrored, record: Record, stamp: int) -> bool:
    """Whether a record says, later than what we know, that something goes on which has ended."""
    ended, status = ENDED.get(type(row), frozenset()), getattr(record, "status", None)
    if not status or status in ended or getattr(row, "status", None) not in ended:
        return False
    if record.knows is not None and "status" not in record.knows:
        return False
    if isinstance(row, models.Payment) and row.stamps.get("refunded", row.stamps.get("*", -1)) < 0:
        return False  # the sum is our own, and is made again
    return stamp >= row.stamps.get("status", row.stamps.get("*", -1))


def _note(row: models._Mirrored, record: Record, as_of: datetime, fetched: bool, doubtful: bool) -> None:
    """Whether a row is to be asked about, and whether the processor knows it."""
    tells = getattr(record, "status", None) and (record.knows is None or "status" in record.knows)
    if doubtful:
        row.doubted_at = row.doubted_at or as_of
    elif row.doubted_at and fetched and tells and as_of >= row.doubted_at:
        row.doubted_at = None
    if row.missing_at and as_of > row.missing_at:
        row.missing_at = None


_told: dict[type[Record], tuple[str, ...]] = {}


def _told_by(sort: type[Record]) -> tuple[str, ...]:
    """The fields of a record that are kept, found once."""
    if sort not in _told:
        _told[sort] = tuple(field.name for field in fields(sort) if field.name not in _NOT_FIELDS)
    return _told[sort]


def _word(row: models._Mirrored, status: str, as_of: datetime) -> str:
    """The processor's state in the light of what we keep beside it: what has ended for the customer runs out there,
    and what it has promised to end goes on there until that day."""
    if isinstance(row, models.Subscription):
        if status == "cancels_at_period_end" and row.ended_here_at:
            return "cancelled"
        if status == "active" and _is_promised(row, as_of):
            return "cancels_at_period_end"
    return status


def _is_promised(row: models._Mirrored, as_of: datetime) -> bool:
    """Whether the processor has accepted to end a subscription, and the day has not come yet."""
    if not isinstance(row, models.Subscription) or row.promised_until is None:
        return False
    return as_of < row.promised_until


def spoken(row: models._Mirrored) -> dict[str, Any]:
    """What the processor has said of an object, by column; nothing of the fields that it never spoke of."""
    silent = {name for name, stamp in row.stamps.items() if stamp < 0}
    named = [field.name for field in fields(_RECORDS[type(row)]) if field.name not in _NOT_FIELDS]
    told = [name for name in named if name not in silent and (name in row.stamps or "*" not in silent)]
    columns = [column for name in told for column in _columns(name, () if name == "lines" else None)]
    return {column: getattr(row, column) for column in columns if column in type(row).model_fields}


def in_light_of(row: models._Mirrored, said: Mapping[str, Any], as_of: datetime) -> dict[str, Any]:
    """What a processor says, as it would be written into a row, by what we keep there beside it."""
    found = dict(said)
    if "status" in found:
        found["status"] = _word(row, found["status"], as_of)
    if _is_promised(row, as_of):
        for name in ("cancels_at", *_columns("next_payment", None)):
            found.pop(name, None)
    return found


_RECORDS: dict[type[models._Mirrored], type[Record]] = {
    models.RemoteCustomer: CustomerRecord,
    models.Order: OrderRecord,
    models.Subscription: SubscriptionRecord,
    models.Payment: PaymentRecord,
    models.Refund: RefundRecord,
    models.Invoice: InvoiceRecord,
}


def ref_of(row: models.Subscription | models.Payment) -> Ref:
    """A subscription's or a payment's reference with what our rows know of it."""
    if isinstance(row, models.Payment):
        payment = PaymentRecord(
            remote_id=row.remote_id,
            email=row.email,
            customer=row.remote_customer,
            order=row.order_remote,
            subscription=row.subscription_remote,
            invoice=row.invoice_remote,
            object=row.object,
        )
        return Ref("payment", row.remote_id, payment)
    amount = Money(row.amount_minor, row.currency) if row.amount_minor is not None and row.currency else None
    following = Money(row.next_minor, row.currency) if row.next_minor is not None and row.currency else None
    unit: Any = row.interval_unit
    certainty: Any = row.next_certainty or "estimated"
    status: Any = row.status
    known = SubscriptionRecord(
        remote_id=row.remote_id,
        email=row.email,
        raw_status=row.raw_status,
        created_at=row.created_at,
        status=status,
        customer=row.remote_customer,
        title=row.title,
        amount=amount,
        interval=Interval(unit, row.interval_count or 1) if unit else None,
        quantity=row.quantity,
        started_at=row.started_at,
        trial_ends_at=row.trial_ends_at,
        current_period_start=row.current_period_start,
        current_period_end=row.access_until or row.current_period_end,
        next_payment=NextPayment(row.next_on, following, certainty) if row.next_on else None,
        cancels_at=row.cancels_at,
        ended_at=row.ended_at,
        method=Method(**row.method) if row.method else None,
        due=Money(row.due_minor, row.currency) if row.due_minor and row.currency else None,
        due_link=row.due_link,
        object=row.object,
        stopped=row.stopped,
        retries_on=row.retries_on,
    )
    return Ref("subscription", row.remote_id, known)


def _compact(stamps: dict[str, int]) -> dict[str, int]:
    """Most fields share one moment: that one stands under "*"."""
    values = list(stamps.values())
    if values.count(values[0]) == len(values):
        return {"*": values[0]}
    usual = max(values, key=values.count)
    return {"*": usual} | {name: stamp for name, stamp in stamps.items() if stamp != usual}


_DEFAULTS: dict[type[models._Mirrored], dict[str, Any]] = {
    models.RemoteCustomer: {"deleted": False},
    models.Order: {"status": "open", "lines": []},
    models.Subscription: {"status": "incomplete", "stopped": False},
    models.Payment: {"status": "pending"},
    models.Refund: {"status": "pending"},
    models.Invoice: {"status": "open", "document": False, "lines": []},
}


def insert_once(db: Session, table: Table, values: dict[str, Any]) -> bool:
    """Insert a row unless one with the same unique key stands already; True where it was inserted."""
    statement = dialect_of(db).insert(table).values(values).on_conflict_do_nothing()
    # PostgreSQL's driver counts no rows here.
    return db.execute(statement.returning(*table.primary_key.columns)).first() is not None


# Fields of records that are more than one column, or are written in another way than they are said.
_COMPOUND = frozenset(
    {"amount", "tax", "discount", "refunded", "due", "interval", "next_payment", "failure", "method"}
    | {"pending_change", "lines", "email"}
)


def _columns(name: str, value: Any) -> dict[str, Any]:
    """A field of a record as the columns that hold it."""
    if name in ("amount", "tax", "discount", "refunded", "due"):
        columns: dict[str, Any] = {f"{name}_minor": value.minor if value else None}
        if name == "amount":
            columns["currency"] = value.currency if value else None
        return columns
    if name == "interval":
        return {
            "interval_unit": value.unit if value else None,
            "interval_count": value.count if value else None,
        }
    if name == "next_payment":
        return {
            "next_on": value.on if value else None,
            "next_minor": value.amount.minor if value and value.amount else None,
            "next_certainty": value.certainty if value else None,
        }
    if name == "failure":
        return {
            "failure_code": value.code if value else None,
            "failure_reason": value.reason if value else None,
        }
    if name == "method":
        return {"method": {one: getattr(value, one) for one in _METHOD} if value else None}
    if name == "pending_change":
        return {"pending_change": _plain(asdict(value)) if value else None}
    if name == "lines":
        return {"lines": [_line(line) for line in value]}
    if name == "email":
        return {"email": normalized(value)}
    return {_RENAMED.get(name, name): value}


def _line(line: Line) -> dict[str, Any]:
    return {
        "name": line.name,
        "quantity": line.quantity,
        "minor": line.amount.minor,
        "currency": line.amount.currency,
    }


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    out = dict(value)
    amount = out.pop("amount", None)
    if amount is not None:
        money = amount if isinstance(amount, Money) else Money(**amount)
        out |= {"minor": money.minor, "currency": money.currency}
    out["on"] = out["on"].isoformat() if out.get("on") else None
    return out


def normalized(email: str | None) -> str | None:
    """An address as we compare it; None for what is none."""
    text = (email or "").strip().lower()
    return text if "@" in text and len(text) <= 254 and " " not in text else None


def _canonical(columns: dict[str, Any]) -> str:
    return json.dumps(columns, sort_keys=True, default=str)


def _canonical_row(row: models._Mirrored, columns: dict[str, Any]) -> str:
    return _canonical({name: getattr(row, name, None) for name in columns})


def _microseconds(moment: datetime) -> int:
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def settle(db: Session, account: models.Account, row: models._Mirrored) -> None:
    """Find out whose a row is, and pass that on to the rows that hang on it."""
    if isinstance(row, models.RemoteCustomer):
        row.customer_id = owner(db, account, row)
        for model in _OWNED:
            for owned in db.execute(
                select(model).where(
                    col(model.account_id) == account.id, col(model.remote_customer) == row.remote_id
                )
            ).scalars():
                settle(db, account, owned)
        return
    before = row.customer_id
    if isinstance(row, _OWNED):
        row.customer_id = owner(db, account, row)
    if isinstance(row, models.Order | models.Subscription):
        payment = models.Payment
        link = payment.order_remote if isinstance(row, models.Order) else payment.subscription_remote
        wanted = [col(payment.account_id) == account.id, col(link) == row.remote_id]
        if row.customer_id == before:  # then only those that are told whose they are by nothing else
            nameless = and_(col(payment.email).is_(None), col(payment.remote_customer).is_(None))
            wanted.append(or_(col(payment.customer_id).is_(None), nameless))
        db.flush()
        for one in db.execute(select(payment).where(*wanted)).scalars():
            one.customer_id = owner(db, account, one)


def _pass_on(db: Session, account: models.Account, touched: Sequence[_Touched]) -> None:
    """`settle` for all rows of a snapshot: what hangs on them is theirs too. Their own owners they have already."""
    customers = [one.row.remote_id for one in touched if isinstance(one.row, models.RemoteCustomer)]
    hanging = [
        _Touched(row, row.customer_id)
        for model in _OWNED
        for row in _hanging(db, account, model, models.RemoteCustomer, customers)
    ]
    _give_owners(db, account, [one.row for one in hanging])
    db.flush()
    for source in (models.Subscription, models.Order):
        mine = [one for one in (*touched, *hanging) if isinstance(one.row, source)]
        moved = [one.row.remote_id for one in mine if one.row.customer_id != one.owner]
        names = [one.row.remote_id for one in mine]
        _give_owners(db, account, list(_hanging(db, account, models.Payment, source, names, moved)))


def _hanging(
    db: Session,
    account: models.Account,
    model: type[models._Mirrored],
    source: type[models._Mirrored],
    remote_ids: Sequence[str],
    moved: Sequence[str] = (),
) -> Sequence[models._Mirrored]:
    """Rows that name one of these and are not of the same person as that one. Those that are told whose they are by
    something else follow an order or a subscription only where that one has `moved`."""
    if not remote_ids:
        return []
    asked = {"account": account.id, "remotes": remote_ids}
    if source is not models.RemoteCustomer:
        asked["moved"] = moved
    # In their order here: asked for in it, SQLite reads all of an account's rows, by the index that has it.
    return sorted(db.execute(_not_theirs(model, source), asked).scalars(), key=lambda row: row.remote_id)


_LINKS: dict[type[models._Mirrored], str] = {
    models.RemoteCustomer: "remote_customer",
    models.Subscription: "subscription_remote",
    models.Order: "order_remote",
}


@cache
def _not_theirs(model: type[models._Mirrored], source: type[models._Mirrored]) -> Any:
    link = col(getattr(model, _LINKS[source]))
    found = (
        select(model)
        .join(source, and_(col(source.account_id) == col(model.account_id), col(source.remote_id) == link))
        .where(
            col(model.account_id) == bindparam("account"),
            _in(link, "remotes"),
            col(model.customer_id).is_distinct_from(col(source.customer_id)),
        )
    )
    if source is models.RemoteCustomer:
        return found
    nameless = and_(col(model.email).is_(None), col(model.remote_customer).is_(None))
    return found.where(or_(col(model.customer_id).is_(None), nameless, _in(source.remote_id, "moved")))


def _give_owners(db: Session, account: models.Account, rows: Sequence[models._Mirrored]) -> None:
    """Say of each row whose it is."""
    owned = [row for row in rows if not isinstance(row, models.Refund)]
    whose = _owners(db, account, owned)
    for row in owned:
        _put(row, "customer_id", whose.get(row.id))


def _owners(db: Session, account: models.Account, rows: Sequence[models._Mirrored]) -> dict[int, int]:
    """The person of each row that has one, with a few questions for all of them: by the merchant's word, which stands
    until they take it back; else by the processor's record of its customer, else by its own address, else by its
    links."""
    left = []
    whose: dict[int, int] = {}
    for row in rows:
        if row.said_id is None:
            left.append(row)
        elif (said := db.get_one(models.Assignment, row.said_id).customer_id) is not None:
            whose[row.id] = joined(db, account.portal_id, said)
    named = {row.remote_customer for row in left if row.remote_customer}
    by_customer = _owners_of(db, account, models.RemoteCustomer, named)
    for row in left:
        if (known := by_customer.get(row.remote_customer or "")) is not None:
            whose[row.id] = known
    names: dict[str, str | None] = {}
    for row in left:
        if row.id not in whose and (address := normalized(row.email)) is not None:
            name = row.name if isinstance(row, models.RemoteCustomer) else None
            names[address] = names.get(address) or name
    people = _people(db, account, names)
    for row in left:
        if row.id not in whose and (known := people.get(normalized(row.email) or "")) is not None:
            whose[row.id] = known
    for model, name in ((models.Order, "order_remote"), (models.Subscription, "subscription_remote")):
        links = {row.id: getattr(row, name, None) for row in left if row.id not in whose}
        by_link = _owners_of(db, account, model, {link for link in links.values() if link})
        whose |= {row_id: by_link[link] for row_id, link in links.items() if link in by_link}
    return whose


def _owners_of(
    db: Session, account: models.Account, model: type[models._Mirrored], remote_ids: Collection[str]
) -> dict[str, int]:
    if not remote_ids:
        return {}
    asked = {"account": account.id, "remotes": list(remote_ids)}
    return {one.remote_id: one.customer_id for one in db.execute(_owned(model), asked)}


@cache
def _owned(model: type[models._Mirrored]) -> Any:
    return select(col(model.remote_id), col(model.customer_id)).where(
        col(model.account_id) == bindparam("account"),
        _in(model.remote_id, "remotes"),
        col(model.customer_id).is_not(None),
    )


def _people(db: Session, account: models.Account, wanted: Mapping[str, str | None]) -> dict[str, int]:
    """The people with these addresses, which are `normalized`, made where there are none, with names where these are
    known. Placeholders are nobody."""
    table = facts(account.processor)
    names_of = {one: name for one, name in wanted.items() if not table.is_placeholder(one)}
    if not names_of:
        return {}
    found = {one.email: one for one in db.execute(_known(), _asked(account, names_of))}
    if missing := sorted(set(names_of) - set(found)):
        customers(db, account.portal_id, {one: names_of[one] for one in missing})
        found |= {one.email: one for one in db.execute(_known(), _asked(account, missing))}
    named = [
        (one.id, address, name)
        for address, one in found.items()
        if (name := names_of[address]) and not one.name
    ]
    if named:
        names.rename(db, account.portal_id, named)
    ids = {address: one.id for address, one in found.items()}
    joins = db.execute(_joins(), {"portal": account.portal_id, "people": list(ids.values())})
    into = {one.from_id: one.into_id for one in joins}
    return {address: into.get(one, one) for address, one in ids.items()}


def _asked(account: models.Account, addresses: Collection[str]) -> dict[str, Any]:
    return {"portal": account.portal_id, "addresses": sorted(addresses)}


@cache
def _known() -> Any:
    row = models.Customer
    return select(col(row.email), col(row.id), col(row.name)).where(
        col(row.portal_id) == bindparam("portal"), _in(row.email, "addresses")
    )


@cache
def _joins() -> Any:
    row = models.Join
    return select(col(row.from_id), col(row.into_id)).where(
        col(row.portal_id) == bindparam("portal"),
        _in(row.from_id, "people"),
        col(row.proved_at).is_not(None),
        col(row.undone_at).is_(None),
    )


def owner(db: Session, account: models.Account, row: models._Mirrored) -> int | None:
    """The person of one row."""
    return _owners(db, account, [row]).get(row.id)


KINDS: dict[str, type[models._Mirrored]] = {
    "customer": models.RemoteCustomer,
    "order": models.Order,
    "subscription": models.Subscription,
    "payment": models.Payment,
    "invoice": models.Invoice,
}


def joined(db: Session, portal_id: int, customer_id: int) -> int:
    """The person that an address belongs to: another one where it was proved to be theirs too."""
    row = models.Join
    into = db.execute(
        select(col(row.into_id)).where(
            col(row.portal_id) == portal_id,
            col(row.from_id) == customer_id,
            col(row.proved_at).is_not(None),
            col(row.undone_at).is_(None),
        )
    ).scalar_one_or_none()
    return customer_id if into is None else into


def customers(db: Session, portal_id: int, wanted: Mapping[str, str | None]) -> None:
    """The customers with these addresses, which are `normalized`, with their names; made where there are none."""
    table: Table = models.Customer.__table__  # type: ignore[attr-defined]
    ids = {one: new_id() for one in sorted(wanted)}
    more = {"portal_id": portal_id, "created_at": clock.now(), "keyed": True}
    rows = [{"id": ids[one], "email": one, "name": wanted[one], **more} for one in ids]
    made = _inserted(db, table, rows, table.c.id)
    names.write_new(db, portal_id, [(ids[one], one, wanted[one]) for one in ids if ids[one] in made])


def customer(db: Session, portal_id: int, address: str) -> models.Customer:
    """The customer with this address, which is `normalized`; made where there is none."""
    new = {"id": new_id(), "email": address, "name": None, "created_at": clock.now(), "keyed": True}
    table: Table = models.Customer.__table__  # type: ignore[attr-defined]
    if insert_once(db, table, {**new, "portal_id": portal_id}):
        names.write(db, portal_id, new["id"], address, None)  # type: ignore[arg-type]
    return db.execute(
        select(models.Customer).where(
            col(models.Customer.portal_id) == portal_id, col(models.Customer.email) == address
        )
    ).scalar_one()
