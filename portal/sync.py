"""A snapshot becomes rows. Each field keeps the moment of the newest word on it, so the order of arrival is of no
matter: whatever comes late, twice or out of order, the rows end up the same."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Table, and_, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, models, names
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


@dataclass(frozen=True, slots=True)
class Change:
    """A row that a snapshot touched, with its status before (None: it is new) and after."""

    table: str
    id: int
    before: str | None
    after: str


_TABLES: dict[type[Record], type[models._Mirrored]] = {
    CustomerRecord: models.RemoteCustomer,
    OrderRecord: models.Order,
    SubscriptionRecord: models.Subscription,
    PaymentRecord: models.Payment,
    RefundRecord: models.Refund,
    InvoiceRecord: models.Invoice,
}
_OWNED = (models.Order, models.Subscription, models.Payment, models.Invoice)
_RENAMED = {
    "customer": "remote_customer",
    "order": "order_remote",
    "subscription": "subscription_remote",
    "invoice": "invoice_remote",
    "payment": "payment_remote",
}
_NOT_FIELDS = {"remote_id", "knows", "updated_at", "document_url"}


def apply(db: Session, account: models.Account, snapshot: Snapshot) -> list[Change]:
    """Write what a processor says into rows; returns what was touched. Newest wins, field by field."""
    changes = []
    touched: list[models._Mirrored] = []
    records: Iterable[Record] = (
        *snapshot.customers,
        *snapshot.subscriptions,
        *snapshot.orders,
        *snapshot.payments,
        *snapshot.refunds,
        *snapshot.invoices,
    )
    for record in records:
        row, before = _merge(db, account, record, snapshot.as_of)
        touched.append(row)
        changes.append(
            Change(type(row).__tablename__, row.id, before, getattr(row, "status", ""))  # type: ignore[arg-type]
        )
    db.flush()
    _sum_refunds(db, account, touched)
    for row in touched:
        settle(db, account, row)
    return changes


def _sum_refunds(db: Session, account: models.Account, touched: list[models._Mirrored]) -> None:
    """What was paid back of a payment, where the processor tells refunds alone and never their sum."""
    remotes = {row.payment_remote for row in touched if isinstance(row, models.Refund)}
    remotes |= {row.remote_id for row in touched if isinstance(row, models.Payment)}
    found = models.Payment
    for payment in db.execute(
        select(found).where(
            col(found.account_id) == account.id,
            col(found.remote_id).in_([remote for remote in remotes if remote]),
            col(found.status).in_(("paid", "partially_refunded", "refunded")),
        )
    ).scalars():
        if payment.stamps.get("refunded", payment.stamps.get("*", -1)) >= 0:
            continue  # the processor has told the sum
        refunds = db.execute(
            select(col(models.Refund.amount_minor)).where(
                col(models.Refund.account_id) == account.id,
                col(models.Refund.payment_remote) == payment.remote_id,
                col(models.Refund.status) == "sent",
            )
        ).scalars()
        total = sum(minor or 0 for minor in refunds)
        if total and payment.amount_minor:
            payment.refunded_minor = total
            payment.status = "refunded" if total >= payment.amount_minor else "partially_refunded"


def _merge(
    db: Session, account: models.Account, record: Record, as_of: datetime
) -> tuple[models._Mirrored, str | None]:
    model = _TABLES[type(record)]
    row, is_new = _row(db, account, model, record.remote_id, as_of)
    before = None if is_new else getattr(row, "status", None)
    stamp = _microseconds(as_of)
    names = [field.name for field in fields(record) if field.name not in _NOT_FIELDS]
    stamps = {name: row.stamps.get(name, row.stamps.get("*", -1)) for name in names}
    for name in names:
        if record.knows is not None and name not in record.knows:
            continue
        if name in ("cancels_at", "next_payment") and _is_promised(row, as_of):
            continue  # what it does not show it does not deny
        value = getattr(record, name)
        if name == "status":
            if value is None:
                continue
            value = _word(row, value, as_of)
        columns = _columns(name, value)
        last = stamps[name]
        if stamp < last or (stamp == last and _canonical(columns) <= _canonical_row(row, columns)):
            continue
        for column, content in columns.items():
            if column in type(row).model_fields:
                setattr(row, column, content)
        stamps[name] = stamp
        if name == "status" and isinstance(row, models.Subscription) and value in ("active", "trialing"):
            row.ended_here_at = None  # it was brought back at the processor
    row.stamps = _compact(stamps)
    row.as_of = max(row.as_of, as_of)
    row.placed_at = row.created_at or min(row.placed_at, as_of)
    return row, before


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
    usual = max(stamps.values(), key=list(stamps.values()).count)
    return {"*": usual} | {name: stamp for name, stamp in stamps.items() if stamp != usual}


def _row(
    db: Session, account: models.Account, model: type[models._Mirrored], remote_id: str, as_of: datetime
) -> tuple[models._Mirrored, bool]:
    fresh = insert_once(
        db,
        model.__table__,  # type: ignore[attr-defined]
        {
            "id": new_id(),
            "portal_id": account.portal_id,
            "account_id": account.id,
            "remote_id": remote_id,
            "placed_at": as_of,
            "as_of": as_of,
            "stamps": {},
            **_DEFAULTS.get(model, {}),
        },
    )
    found = select(model).where(col(model.account_id) == account.id, col(model.remote_id) == remote_id)
    return db.execute(found.with_for_update()).scalar_one(), fresh


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
    dialect = postgresql if db.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(values).on_conflict_do_nothing()
    # PostgreSQL's driver counts no rows here.
    return db.execute(statement.returning(*table.primary_key.columns)).first() is not None


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
        return {"method": asdict(value) if value else None}
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


def owner(db: Session, account: models.Account, row: models._Mirrored) -> int | None:
    """The person of a row: by the merchant's word, which stands until they take it back; else by the processor's record
    of its customer, else by its own address, else by its links."""
    if row.said_id is not None:
        customer_id = db.get_one(models.Assignment, row.said_id).customer_id
        return joined(db, account.portal_id, customer_id) if customer_id is not None else None
    if isinstance(row, models.RemoteCustomer):
        return _person(db, account, row.email, row.name)
    if row.remote_customer:
        known = _by_remote(db, account, models.RemoteCustomer, row.remote_customer)
        if known is not None:
            return known
    if row.email:
        person = _person(db, account, row.email, None)
        if person is not None:
            return person
    for model, name in ((models.Order, "order_remote"), (models.Subscription, "subscription_remote")):
        remote = getattr(row, name, None)
        if remote and (known := _by_remote(db, account, model, remote)) is not None:
            return known
    return None


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


def _by_remote(
    db: Session, account: models.Account, model: type[models._Mirrored], remote_id: str
) -> int | None:
    return db.execute(
        select(col(model.customer_id)).where(
            col(model.account_id) == account.id, col(model.remote_id) == remote_id
        )
    ).scalar_one_or_none()


def _person(db: Session, account: models.Account, email: str | None, name: str | None) -> int | None:
    """The person with this address in the portal, made where there is none. Placeholders are nobody."""
    address = normalized(email)
    if address is None or address in facts(account.processor).no_email:
        return None
    person = customer(db, account.portal_id, address)
    if name and not person.name:
        db.execute(update(models.Customer).where(col(models.Customer.id) == person.id).values(name=name))
        names.write(db, person.portal_id, person.id, person.email, name)
    return joined(db, account.portal_id, person.id)


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
