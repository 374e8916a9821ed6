"""Whose a record is where no processor says it, and further addresses of one person. Nobody is ever matched by name: a
record goes to whom the merchant says, an address to who proves by a mail that it is theirs."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import BigInteger, Select, and_, bindparam, delete, func, null, or_, select, tuple_, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, merchants, models, sync
from portal.db import beside
from portal.gateways import facts
from portal.ids import new_id
from portal.jobs import enqueue
from portal.login import digest
from portal.mail import one_address
from portal.merchants import Person, Refused
from portal.queries import Cursor
from portal.texts import gettext as _

PAGE = 25
PROOF_LIFE = timedelta(hours=24)
ASKS_A_DAY = 3  # mails to one address
SETTLED_AFTER = timedelta(minutes=2)  # whoever wrote a row by what stood before has come to an end by then
BATCH = 500


# Records of nobody


@dataclass(frozen=True, slots=True)
class Record:
    """A record as the merchant's lists show it."""

    kind: str
    id: int
    account_id: int
    account: str
    label: str  # of the processor
    remote_id: str
    placed_at: datetime
    status: str | None
    number: str | None
    title: str | None
    name: str | None
    minor: int | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class RecordsPage:
    rows: tuple[Record, ...]
    older: str | None


_SHOWN = ("status", "number", "title", "name", "amount_minor", "currency")


def _columns(kind: str) -> list[Any]:
    table: Any = sync.KINDS[kind].__table__  # type: ignore[attr-defined]
    more = [table.c[name] if name in table.c else null().label(name) for name in _SHOWN]
    return [table.c.id, table.c.account_id, table.c.remote_id, table.c.placed_at, *more]


def _of_nobody(kind: str) -> tuple[Select[Any], Select[Any]]:
    """The first page of a kind, and the pages after a cursor."""
    table: Any = sync.KINDS[kind].__table__  # type: ignore[attr-defined]
    wanted = [table.c.portal_id == bindparam("portal"), _is_nobodys(table)]
    if kind == "invoice":  # what hangs on something else is shown with it
        links = (table.c.payment_remote, table.c.subscription_remote, table.c.order_remote)
        wanted += [link.is_(None) for link in links]
    newest_first = (table.c.placed_at.desc(), table.c.id.desc())
    listed = select(*_columns(kind)).where(*wanted).order_by(*newest_first).limit(PAGE + 1)
    last = tuple_(bindparam("placed_at", type_=models.Moment()), bindparam("id", type_=BigInteger()))
    return listed, listed.where(tuple_(table.c.placed_at, table.c.id) < last)


def _is_nobodys(table: Any) -> Any:
    """As the index has it."""
    return func.coalesce(table.c.customer_id, table.c.said_id).is_(None)


OF_NOBODY = {kind: _of_nobody(kind) for kind in sync.KINDS}


def of_nobody(
    db: Session, portal_id: int, kind: str | None = None, after: Cursor | None = None
) -> RecordsPage:
    """Records of which nobody has said yet whose they are, newest first; of one kind or of all."""
    values: dict[str, Any] = {"portal": portal_id}
    if after is not None:
        values |= {"placed_at": after.placed_at, "id": after.id}
    found: list[tuple[str, Any]] = []
    for one in (kind,) if kind else sync.KINDS:
        found += [(one, row) for row in db.execute(OF_NOBODY[one][after is not None], values)]
    found.sort(key=lambda pair: (pair[1].placed_at, pair[1].id), reverse=True)
    more = len(found) > PAGE
    shown = found[:PAGE]
    rows = _records(db, portal_id, shown)
    return RecordsPage(rows, str(Cursor(shown[-1][1].placed_at, shown[-1][1].id)) if more else None)


def _records(db: Session, portal_id: int, found: list[tuple[str, Any]]) -> tuple[Record, ...]:
    labels = account_labels(db, portal_id)
    return tuple(
        Record(
            kind,
            row.id,
            row.account_id,
            *labels[row.account_id],
            row.remote_id,
            row.placed_at,
            row.status,
            row.number,
            row.title,
            row.name,
            row.amount_minor,
            row.currency,
        )
        for kind, row in found
    )


def account_labels(db: Session, portal_id: int) -> dict[int, tuple[str, str]]:
    """What the merchant calls each account of a portal, and what its processor is called."""
    row = models.Account
    found = db.execute(
        select(col(row.id), col(row.label), col(row.processor)).where(col(row.portal_id) == portal_id)
    )
    return {one.id: (one.label, facts(one.processor).label) for one in found}


def record(db: Session, portal_id: int, kind: str, record_id: int) -> Record | None:
    """A record of nobody, or None."""
    table: Any = sync.KINDS[kind].__table__  # type: ignore[attr-defined]
    found = db.execute(
        select(*_columns(kind)).where(
            table.c.id == record_id,
            table.c.portal_id == portal_id,
            _is_nobodys(table),
        )
    ).one_or_none()
    return _records(db, portal_id, [(kind, found)])[0] if found else None


def whose(db: Session, portal_id: int, kind: str, record_id: int) -> tuple[int | None, bool] | None:
    """Of a record the customer, if it has one, and whether the merchant said so; None where there is no such record."""
    table: Any = sync.KINDS[kind].__table__  # type: ignore[attr-defined]
    found = db.execute(
        select(table.c.customer_id, table.c.said_id).where(
            table.c.id == record_id, table.c.portal_id == portal_id
        )
    ).one_or_none()
    return (found.customer_id, found.said_id is not None) if found else None


def assign(
    db: Session, person: Person, portal_id: int, kind: str, record_id: int, email: str, now: datetime
) -> int:
    """Say whose a record is, by an address; the customer, who is made where there is none.

    What hangs on it goes along. It stands until it is taken back, whatever the processor says later. Raises
    LookupError, or Refused.
    """
    row, account = _unsaid(db, portal_id, kind, record_id)
    address = _address(email)
    if facts(account.processor).is_placeholder(address):
        raise Refused(_("The processor puts this address wherever it knows none. It is nobody's."))
    customer = sync.customer(db, portal_id, address)
    _say(db, person, row, account, kind, customer.id, now)
    merchants.audit(
        db,
        person,
        "record.assigned",
        subject=_called(row, kind),
        after={"customer": address, "account": account.label, "remote_id": row.remote_id},
        portal_id=portal_id,
    )
    return customer.id


def _address(email: str) -> str:
    """What somebody typed, as an address that a mail can go to."""
    address = sync.normalized(email)
    try:
        return one_address(address or "").addr_spec
    except ValueError:
        raise Refused(_("Enter an address such as ana@example.com.")) from None


def ignore(db: Session, person: Person, portal_id: int, kind: str, record_id: int, now: datetime) -> None:
    """Say that a record is to be left alone: it is nobody's until that is taken back."""
    row, account = _unsaid(db, portal_id, kind, record_id)
    _say(db, person, row, account, kind, None, now)
    merchants.audit(
        db,
        person,
        "record.ignored",
        subject=_called(row, kind),
        after={"account": account.label, "remote_id": row.remote_id},
        portal_id=portal_id,
    )


def _unsaid(
    db: Session, portal_id: int, kind: str, record_id: int
) -> tuple[models._Mirrored, models.Account]:
    """A record with its account, locked, that is still nobody's."""
    model = sync.KINDS[kind]
    row = db.execute(
        select(model).where(col(model.id) == record_id, col(model.portal_id) == portal_id).with_for_update()
    ).scalar_one_or_none()
    if row is None:
        raise LookupError(record_id)
    if row.customer_id is not None:
        whose = db.get_one(models.Customer, row.customer_id).email
        raise Refused(_("This belongs to {email} by now.").format(email=whose))
    if row.said_id is not None:
        raise Refused(_("Somebody has said by now to leave this alone. Undo that first."))
    return row, db.get_one(models.Account, row.account_id)


def _say(
    db: Session,
    person: Person,
    row: models._Mirrored,
    account: models.Account,
    kind: str,
    customer_id: int | None,
    now: datetime,
) -> None:
    word = models.Assignment(
        portal_id=row.portal_id,
        account_id=row.account_id,
        kind=kind,
        remote_id=row.remote_id,
        customer_id=customer_id,
        by=person.user_id,
        at=now,
    )
    db.add(word)
    db.flush()
    row.said_id = word.id
    db.flush()
    sync.settle(db, account, row)


def give(db: Session, person: Person, portal_id: int, payment_id: int, email: str, now: datetime) -> None:
    """A payment, with all that hangs together with it, is somebody else's than its address says: the merchant's word,
    which stands until it is taken back. The mailbox that had it is told. Raises LookupError, or Refused."""
    payment = db.execute(
        select(models.Payment)
        .where(col(models.Payment.id) == payment_id, col(models.Payment.portal_id) == portal_id)
        .with_for_update()
    ).scalar_one_or_none()
    if payment is None:
        raise LookupError(payment_id)
    account, address = db.get_one(models.Account, payment.account_id), _address(email)
    if facts(account.processor).is_placeholder(address):
        raise Refused(_("The processor puts this address wherever it knows none. It is nobody's."))
    before = db.get(models.Customer, payment.customer_id) if payment.customer_id else None
    customer = sync.customer(db, portal_id, address)
    if before is not None and sync.joined(db, portal_id, customer.id) == before.id:
        return
    together = _together(db, payment)
    for kind, row in together:
        said = db.get(models.Assignment, row.said_id) if row.said_id is not None else None
        if said is None:
            _say(db, person, row, account, kind, customer.id, now)
        else:
            said.customer_id, said.by, said.at = customer.id, person.user_id, now
            db.flush()
            sync.settle(db, account, row)
    db.flush()
    if before is not None:
        owner_id = sync.joined(db, portal_id, customer.id)
        _subjects_along(db, portal_id, owner_id, before.id)
        _documents_along(db, portal_id, owner_id, before.id, owner_id)
        title = payment.title or ""
        payload = {"template": "order_moved", "customer": before.id, "what": title, "to": address}
        enqueue(db, "mail", payload, now, f"order_moved:{payment.id}:{customer.id}")
    merchants.audit(
        db,
        person,
        "record.given",
        subject=_called(payment, "payment"),
        before={"customer": before.email if before else None},
        after={"customer": address, "account": account.label, "records": len(together)},
        portal_id=portal_id,
    )


def _together(db: Session, payment: models.Payment) -> list[tuple[str, models._Mirrored]]:
    """A payment with its order, its subscription, their other payments, and the invoices of these."""
    order, subscription = payment.order_remote, payment.subscription_remote
    found: list[tuple[str, models._Mirrored]] = []

    def take(kind: str, *wanted: Any) -> list[models._Mirrored]:
        model = sync.KINDS[kind]
        here = (col(model.account_id) == payment.account_id, col(model.portal_id) == payment.portal_id)
        rows = list(db.execute(select(model).where(*here, *wanted).with_for_update()).scalars())
        known = {(one, row.id) for one, row in found}
        found.extend((kind, row) for row in rows if (kind, row.id) not in known)
        return rows

    if subscription:
        take("subscription", col(models.Subscription.remote_id) == subscription)
        take("payment", col(models.Payment.subscription_remote) == subscription)
        take("invoice", col(models.Invoice.subscription_remote) == subscription)
    if order:
        take("order", col(models.Order.remote_id) == order)
        take("payment", col(models.Payment.order_remote) == order)
    take("payment", col(models.Payment.id) == payment.id)
    paid = [row.remote_id for kind, row in found if kind == "payment"]
    take("invoice", col(models.Invoice.payment_remote).in_(paid))
    return found


def _called(row: models._Mirrored, kind: str) -> str:
    name = getattr(row, "number", None) or getattr(row, "title", None) or getattr(row, "name", None)
    return f"{kind} {name or row.remote_id}"


# What was said


@dataclass(frozen=True, slots=True)
class Said:
    """What the merchant said of a record. `email` None: to leave it alone."""

    id: int
    kind: str
    account: str
    label: str
    remote_id: str
    name: str | None
    customer_id: int | None
    email: str | None
    by: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class SaidPage:
    rows: tuple[Said, ...]
    older: int | None


_said: Any = models.Assignment.__table__  # type: ignore[attr-defined]
_customer: Any = models.Customer.__table__  # type: ignore[attr-defined]
_user: Any = models.User.__table__  # type: ignore[attr-defined]
SAID = (
    select(_said, _customer.c.email, _user.c.email.label("said_by"))
    .join_from(
        _said,
        _customer,
        and_(_customer.c.id == _said.c.customer_id, _customer.c.portal_id == _said.c.portal_id),
        isouter=True,
    )
    .join(_user, _user.c.id == _said.c.by, isouter=True)
    .where(_said.c.portal_id == bindparam("portal"), _said.c.id < bindparam("before", type_=BigInteger()))
    .order_by(_said.c.id.desc())
    .limit(PAGE + 1)
)


def said(db: Session, portal_id: int, before: int | None = None) -> SaidPage:
    """What the merchant said of records, newest first."""
    found = db.execute(SAID, {"portal": portal_id, "before": 2**63 - 1 if before is None else before}).all()
    labels = account_labels(db, portal_id)
    rows = tuple(
        Said(
            one.id,
            one.kind,
            *labels[one.account_id],
            one.remote_id,
            _name_of(db, one),
            one.customer_id,
            one.email,
            one.said_by,
            one.at,
        )
        for one in found[:PAGE]
    )
    return SaidPage(rows, rows[-1].id if len(found) > PAGE else None)


def _name_of(db: Session, one: Any) -> str | None:
    row = _subject(db, one)
    names = ("number", "title", "name")
    return next((found for name in names if (found := getattr(row, name, None))), None)


def _subject(db: Session, one: Any) -> models._Mirrored | None:
    model = sync.KINDS[one.kind]
    return db.execute(
        select(model).where(col(model.account_id) == one.account_id, col(model.remote_id) == one.remote_id)
    ).scalar_one_or_none()


def take_back(db: Session, person: Person, portal_id: int, assignment_id: int) -> None:
    """What the merchant said of a record counts no longer: it is whose the processor says. LookupError."""
    one = db.execute(
        select(models.Assignment)
        .where(col(models.Assignment.id) == assignment_id, col(models.Assignment.portal_id) == portal_id)
        .with_for_update()
    ).scalar_one_or_none()
    if one is None:
        raise LookupError(assignment_id)
    whose = db.get(models.Customer, one.customer_id) if one.customer_id else None
    row = _subject(db, one)
    merchants.audit(
        db,
        person,
        "record.taken_back",
        subject=_called(row, one.kind) if row else f"{one.kind} {one.remote_id}",
        before={"customer": whose.email if whose else None},
        portal_id=portal_id,
    )
    db.delete(one)
    if row is not None:
        row.said_id = None
        db.flush()
        sync.settle(db, db.get_one(models.Account, row.account_id), row)


# Further addresses of one person


def ask_join(
    db: Session, person: Person, portal_id: int, customer_id: int, email: str, now: datetime
) -> None:
    """Ask whoever reads mail at a further address whether it is this customer's too.

    Where it is no customer's address nothing is mailed, and nothing says so. Raises LookupError, or Refused.
    """
    into = _customer_of(db, portal_id, customer_id)
    if into is None:
        raise LookupError(customer_id)
    address = _address(email)
    if address == into.email:
        raise Refused(_("This is the address they have already."))
    second = db.execute(
        select(models.Customer).where(
            col(models.Customer.portal_id) == portal_id, col(models.Customer.email) == address
        )
    ).scalar_one_or_none()
    merchants.audit(
        db,
        person,
        "address.asked",
        subject=into.email,
        after={"address": address},
        portal_id=portal_id,
    )
    if second is None:
        if _is_joined(db, portal_id, into.id):
            raise Refused(_("This address was joined with another one. Join the further one there."))
        return
    if why := _bar(db, portal_id, second, into):
        raise Refused(why)
    row = models.Join
    asked = db.execute(
        select(func.count()).where(
            col(row.portal_id) == portal_id,
            col(row.from_id) == second.id,
            col(row.created_at) > now - timedelta(days=1),
        )
    ).scalar_one()
    if asked >= ASKS_A_DAY:
        raise Refused(_("Three mails have gone to this address today. Try again tomorrow."))
    _withdraw(db, portal_id, second.id, now)
    found = row(
        portal_id=portal_id,
        from_id=second.id,
        into_id=into.id,
        asked_by=person.user_id,
        created_at=now,
        expires_at=now + PROOF_LIFE,
    )
    db.add(found)
    db.flush()
    enqueue(db, "mail", {"template": "join_asked", "join": found.id}, now, f"join_asked:{found.id}")


def _customer_of(db: Session, portal_id: int, customer_id: int) -> models.Customer | None:
    row = models.Customer
    return db.execute(
        select(row).where(col(row.id) == customer_id, col(row.portal_id) == portal_id)
    ).scalar_one_or_none()


def _withdraw(db: Session, portal_id: int, from_id: int, now: datetime) -> None:
    """Of several mails to an address only the link of the last one works."""
    row = models.Join
    db.execute(
        update(row)
        .where(
            col(row.portal_id) == portal_id,
            col(row.from_id) == from_id,
            col(row.proved_at).is_(None),
            col(row.undone_at).is_(None),
        )
        .values(undone_at=now)
    )


def _bar(db: Session, portal_id: int, second: models.Customer, into: models.Customer) -> str | None:
    """Why these two cannot be joined: there are no chains, and no address belongs to two."""
    if _is_joined(db, portal_id, into.id):
        return _("This address was joined with another one. Join the further one there.")
    if _is_joined(db, portal_id, second.id):
        return _("{email} is joined with somebody already. Undo that first.").format(email=second.email)
    row = models.Join
    has_others = db.execute(
        select(col(row.id)).where(*_active(portal_id), col(row.into_id) == second.id).limit(1)
    ).first()
    if has_others:
        return _("{email} has further addresses of its own. Undo those first.").format(email=second.email)
    return None


def _active(portal_id: int) -> tuple[Any, ...]:
    row = models.Join
    return (
        col(row.portal_id) == portal_id,
        col(row.proved_at).is_not(None),
        col(row.undone_at).is_(None),
    )


def _is_joined(db: Session, portal_id: int, customer_id: int) -> bool:
    return sync.joined(db, portal_id, customer_id) != customer_id


def new_link(db: Session, join_id: int, now: datetime) -> tuple[models.Join, str] | None:
    """For the worker, when it writes the mail: the ask with a fresh secret; None where it is over."""
    row = db.get(models.Join, join_id)
    if row is None or row.proved_at or row.undone_at or row.expires_at <= now:
        return None
    token = secrets.token_urlsafe(32)
    row.token_hash = digest(token)
    return row, token


@dataclass(frozen=True, slots=True)
class Question:
    """What the page of a link asks: whether the address it went to is that other person's too."""

    address: str
    other: str
    asked_at: datetime


def question(
    db: Session, portal_id: int, token: str, now: datetime
) -> Question | Literal["used", "expired"] | None:
    """What a link asks, or why it does not; None where it is none of this portal's. Changes nothing."""
    row = models.Join
    found = db.execute(
        select(row).where(col(row.token_hash) == digest(token), col(row.portal_id) == portal_id)
    ).scalar_one_or_none()
    if found is None:
        return None
    if found.proved_at is not None:
        return "used"
    if found.undone_at is not None or found.expires_at <= now:
        return "expired"
    address = db.get_one(models.Customer, found.from_id).email
    return Question(address, db.get_one(models.Customer, found.into_id).email, found.created_at)


def prove(db: Session, portal_id: int, token: str, now: datetime) -> bool:
    """Whoever holds the link reads mail at the further address: from now on both are one person.

    Spent by one conditional UPDATE. False where it is no longer good.
    """
    row = models.Join
    hashed = digest(token)
    found = db.execute(
        select(col(row.from_id), col(row.into_id)).where(
            col(row.token_hash) == hashed, col(row.portal_id) == portal_id
        )
    ).one_or_none()
    if found is None:
        return False
    second, into = both_locked(db, found.from_id, found.into_id)
    if _bar(db, portal_id, second, into):
        return False
    spent = db.execute(
        update(row)
        .where(
            col(row.token_hash) == hashed,
            col(row.portal_id) == portal_id,
            col(row.proved_at).is_(None),
            col(row.undone_at).is_(None),
            col(row.expires_at) > now,
        )
        .values(proved_at=now)
        .returning(col(row.id))
    ).one_or_none()
    if spent is None:
        return False
    _joined(db, portal_id, spent.id, second, into, now)
    return True


def join(
    db: Session, portal_id: int, second: models.Customer, into: models.Customer, now: datetime
) -> str | None:
    """Both addresses were proved by their owner, who is `into`: one person from now on. The reason why not, or None.

    Both were locked by `both_locked`.
    """
    if why := _bar(db, portal_id, second, into):
        return why
    row = models.Join(
        portal_id=portal_id,
        from_id=second.id,
        into_id=into.id,
        created_at=now,
        expires_at=now + PROOF_LIFE,
        proved_at=now,
    )
    db.add(row)
    db.flush()
    _joined(db, portal_id, row.id, second, into, now)
    return None


def _joined(
    db: Session, portal_id: int, join_id: int, second: models.Customer, into: models.Customer, now: datetime
) -> None:
    """What follows from a proof: rows, sessions, mails to both addresses, and the merchant's record of it."""
    _move(db, portal_id, second.id, into.id)
    _later(db, join_id, "proved", now)
    _tell_both(db, "joined", join_id, now)
    merchant_id = db.get_one(models.Portal, portal_id).merchant_id
    for one, other in ((into, second), (second, into)):
        db.add(
            models.Audit(
                id=new_id(),
                merchant_id=merchant_id,
                portal_id=portal_id,
                who=second.email,
                what="address.joined",
                subject=one.email,
                after={"with": other.email},
                at=now,
            )
        )


def _tell_both(db: Session, template: str, join_id: int, now: datetime) -> None:
    """Both mailboxes learn of it: whoever did not want it is to notice."""
    for whose in ("further", "main"):
        payload = {"template": template, "join": join_id, "whose": whose}
        enqueue(db, "mail", payload, now, f"{template}:{join_id}:{whose}")


def both_locked(db: Session, *ids: int) -> tuple[models.Customer, models.Customer]:
    """Two customers, always locked in the same order, so that two proofs do not wait for each other in a circle."""
    locked = {
        one: db.execute(
            select(models.Customer).where(col(models.Customer.id) == one).with_for_update()
        ).scalar_one()
        for one in sorted(ids)
    }
    return locked[ids[0]], locked[ids[1]]


_MOVED: tuple[Any, ...] = (
    models.RemoteCustomer,
    models.Order,
    models.Subscription,
    models.Payment,
    models.Invoice,
    models.Action,
    models.Request,
)


def _move(db: Session, portal_id: int, from_id: int, into_id: int) -> None:
    """What the further address has is shown with the person, and who is signed in by it is that person."""
    for model in _MOVED:
        db.execute(
            update(model)
            .where(col(model.portal_id) == portal_id, col(model.customer_id) == from_id)
            .values(customer_id=into_id)
            .execution_options(synchronize_session=False)
        )
    _documents_along(db, portal_id, into_id, from_id, into_id)
    session = models.SignIn
    here = (col(session.portal_id) == portal_id, col(session.customer_id) == from_id)
    db.execute(delete(session).where(*here, col(session.purpose) != "customer"))
    db.execute(update(session).where(*here).values(customer_id=into_id, joined_id=from_id))


def _documents_along(db: Session, portal_id: int, owner_id: int, from_id: int, into_id: int) -> None:
    """Documents that were issued go with the payments they are of."""
    issued, payment = models.IssuedDocument, models.Payment
    paid = select(col(payment.id)).where(
        col(payment.portal_id) == portal_id, col(payment.customer_id) == owner_id
    )
    db.execute(
        update(issued)
        .where(
            col(issued.portal_id) == portal_id,
            col(issued.payment_id).in_(paid),
            col(issued.customer_id) == from_id,
        )
        .values(customer_id=into_id)
        .execution_options(synchronize_session=False)
    )


def _later(db: Session, join_id: int, what: str, now: datetime) -> None:
    """A snapshot that was being written meanwhile knew nothing of it: once more when that is over."""
    enqueue(db, "settle_join", {"join": join_id}, now + SETTLED_AFTER, f"settle_join:{join_id}:{what}")


def settle_join(db: Session, join_id: int) -> None:
    """Make the rows of a join what they are to be; safe to run again."""
    row = db.get_one(models.Join, join_id)
    if row.undone_at is None:
        _move(db, row.portal_id, row.from_id, row.into_id)
    elif not _is_joined(db, row.portal_id, row.from_id):
        _part(db, row.portal_id, row.from_id, row.into_id)


def undo_join(
    db: Session, person: Person, portal_id: int, customer_id: int, join_id: int, now: datetime
) -> None:
    """Two people again, of whom `customer_id` is one: each row goes to whom the processor, or the merchant, says.

    LookupError.
    """
    second, into = _undone(db, portal_id, customer_id, join_id, person.user_id, now)
    for one, other in ((into, second), (second, into)):
        merchants.audit(
            db,
            person,
            "address.parted",
            subject=one.email,
            before={"with": other.email},
            portal_id=portal_id,
        )


def part(db: Session, portal_id: int, customer_id: int, join_id: int, who: str, now: datetime) -> None:
    """The same, by the person themselves, who is signed in as `who`. LookupError."""
    second, into = _undone(db, portal_id, customer_id, join_id, None, now)
    merchant_id = db.get_one(models.Portal, portal_id).merchant_id
    for one, other in ((into, second), (second, into)):
        db.add(
            models.Audit(
                id=new_id(),
                merchant_id=merchant_id,
                portal_id=portal_id,
                who=who,
                what="address.parted",
                subject=one.email,
                before={"with": other.email},
                at=now,
            )
        )


def _undone(
    db: Session, portal_id: int, customer_id: int, join_id: int, by: int | None, now: datetime
) -> tuple[models.Customer, models.Customer]:
    row = models.Join
    is_theirs = or_(col(row.from_id) == customer_id, col(row.into_id) == customer_id)
    undone = db.execute(
        update(row)
        .where(col(row.id) == join_id, is_theirs, *_active(portal_id))
        .values(undone_at=now, undone_by=by)
        .returning(col(row.from_id), col(row.into_id))
    ).one_or_none()
    if undone is None:
        raise LookupError(join_id)
    second, into = both_locked(db, undone.from_id, undone.into_id)
    _part(db, portal_id, second.id, into.id)
    _later(db, join_id, "undone", now)
    _tell_both(db, "parted", join_id, now)
    return second, into


def _part(db: Session, portal_id: int, from_id: int, into_id: int) -> None:
    accounts = {
        one.id: one
        for one in db.execute(
            select(models.Account).where(col(models.Account.portal_id) == portal_id)
        ).scalars()
    }
    # In this order, because the later ones may hang on the earlier ones.
    for model in (
        models.RemoteCustomer,
        models.Subscription,
        models.Order,
        models.Payment,
        models.Invoice,
    ):
        for rows in _batches(db, model, portal_id, into_id):
            for row in rows:
                found = sync.owner(db, accounts[row.account_id], row)
                if found is not None and found != row.customer_id:
                    row.customer_id = found
            db.flush()
    _subjects_along(db, portal_id, from_id, into_id)
    _documents_along(db, portal_id, from_id, into_id, from_id)
    session = models.SignIn
    db.execute(
        delete(session).where(
            col(session.portal_id) == portal_id,
            col(session.customer_id) == into_id,
            or_(col(session.joined_id) == from_id, col(session.purpose) != "customer"),
        )
    )


def _batches(
    db: Session, model: type[models._Mirrored], portal_id: int, customer_id: int
) -> Iterator[list[models._Mirrored]]:
    last, place = 0, beside(col(model.id))
    while True:
        rows = list(
            db.execute(
                select(model)
                .where(
                    col(model.portal_id) == portal_id,
                    col(model.customer_id) == customer_id,
                    place > last,
                )
                .order_by(place)
                .limit(BATCH)
            ).scalars()
        )
        if not rows:
            return
        last = rows[-1].id
        yield rows


def _subjects_along(db: Session, portal_id: int, from_id: int, into_id: int) -> None:
    """What was done and asked goes with the subscription or the payment that it is about."""

    def of_second(model: Any) -> Any:
        return select(col(model.id)).where(
            col(model.portal_id) == portal_id, col(model.customer_id) == from_id
        )

    subscriptions, payments = of_second(models.Subscription), of_second(models.Payment)
    action, request = models.Action, models.Request
    for model, about in (
        (action, col(action.subscription_id).in_(subscriptions)),
        (request, or_(col(request.subject_id).in_(subscriptions), col(request.subject_id).in_(payments))),
    ):
        db.execute(
            update(model)
            .where(col(model.portal_id) == portal_id, col(model.customer_id) == into_id, about)
            .values(customer_id=from_id)
            .execution_options(synchronize_session=False)
        )


# What the page of a customer says


@dataclass(frozen=True, slots=True)
class Address:
    """A further address of a person; `proved_at` None: the mail is on its way, good until `until`."""

    join_id: int
    customer_id: int
    email: str
    asked_at: datetime
    proved_at: datetime | None
    until: datetime


@dataclass(frozen=True, slots=True)
class Addresses:
    """`of`: the person that this address was joined with; `further`: those that were joined with this one."""

    of: Address | None
    further: tuple[Address, ...]


def addresses(db: Session, portal_id: int, customer_id: int) -> Addresses:
    row, now = models.Join, clock.now()
    open_or_active = and_(
        col(row.undone_at).is_(None), or_(col(row.proved_at).is_not(None), col(row.expires_at) > now)
    )

    def look(mine: Any, others: Any) -> list[Address]:
        found = db.execute(
            select(row, col(models.Customer.email))
            .join(models.Customer, col(models.Customer.id) == col(others))
            .where(col(row.portal_id) == portal_id, col(mine) == customer_id, open_or_active)
            .order_by(col(row.id))
            .limit(50)
        ).all()
        return [
            Address(one.id, getattr(one, others.key), email, one.created_at, one.proved_at, one.expires_at)
            for one, email in found
        ]

    into = [one for one in look(row.from_id, row.into_id) if one.proved_at]
    return Addresses(into[0] if into else None, tuple(look(row.into_id, row.from_id)))
