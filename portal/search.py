"""The merchant's search: one box. The shape of what was typed says where to look, and each place has its index."""

import re
import struct
import unicodedata
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    LargeBinary,
    Select,
    String,
    and_,
    bindparam,
    exists,
    func,
    select,
    tuple_,
)
from sqlalchemy.orm import Session

from portal import models, names
from portal.money import exponent
from portal.people import account_labels
from portal.queries import Cursor

FEW, PAGE = 10, 25  # rows of each group on the page of all, and on the page of one
MOST_CURRENCIES = 40
GROUPS = ("people", "orders", "payments", "subscriptions", "requests")


# What was typed


@dataclass(frozen=True, slots=True)
class Typed:
    """What was typed, and what it may be. `amounts` are in major units; `currency` where one was named."""

    text: str
    beginning: bytes  # of an address or a name
    exact: str | None  # an order's number, an invoice's, or a processor's id
    reference: str | None  # of a request
    amounts: frozenset[Decimal]
    currency: str | None

    @property
    def is_address(self) -> bool:
        return "@" in self.text


def read(text: str) -> Typed:
    """What a text may be that somebody types or pastes."""
    plain = "".join(c if c.isprintable() else " " for c in text).strip()[:200]
    one_word = bool(plain) and not re.search(r"\s", plain)
    is_address = "@" in plain
    amounts, currency = (frozenset[Decimal](), None) if is_address else _amount(plain)
    reference = plain.upper() if _REFERENCE.fullmatch(plain.upper()) else None
    exact = plain.removeprefix("#") if one_word and not is_address else None
    return Typed(plain, names.folded(plain), exact or None, reference, amounts, currency)


_REFERENCE = re.compile(r"[2-9A-HJKMNP-TV-Z]{3}-[2-9A-HJKMNP-TV-Z]{3}")
_CODE = re.compile(r"(?P<before>[A-Z]{3})?(?P<digits>[0-9][0-9.,]*)(?P<after>[A-Z]{3})?", re.ASCII)


def _amount(text: str) -> tuple[frozenset[Decimal], str | None]:
    """What amounts a text may mean ("1,234" is one thing in Boston and another in Berlin), and of which currency."""
    bare = "".join(c for c in text.upper() if not c.isspace() and c not in "'\u2019" and not _is_sign(c))
    found = _CODE.fullmatch(bare)
    if found is None or (found["before"] and found["after"]):
        return frozenset(), None
    currency = found["before"] or found["after"]
    digits = found["digits"]
    if sum(c.isdigit() for c in digits) > 15:
        return frozenset(), None
    last = max(digits.rfind("."), digits.rfind(","))
    whole = re.sub(r"[.,]", "", digits)
    readings = set()
    decimals = len(digits) - last - 1 if last >= 0 else 0
    only_one = digits.count(digits[last]) == 1 if last >= 0 else True
    if decimals and only_one:
        readings.add(Decimal(whole).scaleb(-decimals))
    if last < 0 or decimals == 3:
        readings.add(Decimal(whole))
    return frozenset(readings), currency


def _is_sign(character: str) -> bool:
    return unicodedata.category(character) == "Sc"


# What is found


@dataclass(frozen=True, slots=True)
class PersonRow:
    id: int
    email: str
    name: str | None
    created_at: datetime
    joined: str | None = None  # the address of the person that this one belongs to


@dataclass(frozen=True, slots=True)
class Thing:
    """An order, a payment, a subscription or a request, and whose it is."""

    group: str
    id: int
    customer_id: int | None
    email: str | None
    name: str | None
    status: str
    placed_at: datetime
    minor: int | None
    currency: str | None
    account: str
    remote_id: str


@dataclass(frozen=True, slots=True)
class Group:
    """One sort of what was found; `older`: there is more, from that place on."""

    name: str
    people: tuple[PersonRow, ...] = ()
    things: tuple[Thing, ...] = ()
    older: str | None = None

    def __bool__(self) -> bool:
        return bool(self.people or self.things)


def search(
    db: Session, portal_id: int, typed: Typed, only: str | None = None, after: str | None = None
) -> list[Group]:
    """What matches, by group; of one group (`only`) page by page. Groups without anything are left out.

    Where nothing was typed, the newest customers.
    """
    if not typed.beginning:
        return [newest(db, portal_id, after)]
    size = PAGE if only else FEW
    wanted = (only,) if only else ("people",) if typed.is_address else GROUPS
    found = [
        _people(db, portal_id, typed, size, after)
        if name == "people"
        else _things(db, portal_id, name, typed, size, after)
        for name in wanted
    ]
    return [group for group in found if group]


# People

_customer: Any = models.Customer.__table__  # type: ignore[attr-defined]
_key: Any = models.CustomerKey.__table__  # type: ignore[attr-defined]
_smaller: Any = _key.alias("smaller")
_PERSON = (_customer.c.id, _customer.c.email, _customer.c.name, _customer.c.created_at)

NEWEST = (
    select(*_PERSON)
    .where(
        _customer.c.portal_id == bindparam("portal"),
        _customer.c.id < bindparam("before", type_=BigInteger()),
    )
    .order_by(_customer.c.id.desc())
    .limit(bindparam("limit"))
)
_low, _high = bindparam("low", type_=LargeBinary()), bindparam("high", type_=LargeBinary())
# Somebody whose address and name both match is there once, for the first of their keys.
PEOPLE = (
    select(*_PERSON, _key.c.key)
    .join_from(_key, _customer, _customer.c.id == _key.c.customer_id)
    .where(
        _key.c.portal_id == bindparam("portal"),
        _key.c.key >= _low,
        _key.c.key < _high,
        ~exists().where(
            _smaller.c.customer_id == _key.c.customer_id,
            _smaller.c.portal_id == _key.c.portal_id,
            _smaller.c.key >= _low,
            _smaller.c.key < _key.c.key,
        ),
    )
    .order_by(_key.c.key, _key.c.customer_id)
    .limit(bindparam("limit"))
)
MORE_PEOPLE = PEOPLE.where(
    tuple_(_key.c.key, _key.c.customer_id)
    > tuple_(bindparam("key", type_=LargeBinary()), bindparam("id", type_=BigInteger()))
)


def newest(db: Session, portal_id: int, after: str | None = None) -> Group:
    """The customers who came last."""
    cursor = _Place.parse(after) if after else None
    before = cursor.id if cursor else 2**63 - 1
    found = db.execute(NEWEST, {"portal": portal_id, "before": before, "limit": PAGE + 1}).all()
    older = str(_Place(b"", found[PAGE - 1].id)) if len(found) > PAGE else None
    return Group("people", people=_with_joins(db, portal_id, found[:PAGE]), older=older)


def _people(db: Session, portal_id: int, typed: Typed, size: int, after: str | None) -> Group:
    cursor = _Place.parse(after) if after else None
    values: dict[str, Any] = {
        "portal": portal_id,
        "low": typed.beginning,
        "high": names.after(typed.beginning),
        "limit": size + 1,
    }
    if cursor is None:
        found = list(db.execute(PEOPLE, values))
        exactly = _exactly(db, portal_id, typed)
    else:
        found = list(db.execute(MORE_PEOPLE, {**values, "key": cursor.key, "id": cursor.id}))
        exactly = []
    older = str(_Place(found[size - 1].key, found[size - 1].id)) if len(found) > size else None
    known = {row.id for row in found}
    rows = [row for row in exactly if row.id not in known] + found[:size]
    return Group("people", people=_with_joins(db, portal_id, rows), older=older)


def _exactly(db: Session, portal_id: int, typed: Typed) -> list[Any]:
    """Whose address this is, letter by letter, or which the processor knows by this id."""
    here = _customer.c.portal_id == portal_id
    if typed.is_address:
        return list(db.execute(select(*_PERSON).where(here, _customer.c.email == typed.text.lower())))
    if typed.exact is None:
        return []
    remote: Any = models.RemoteCustomer.__table__  # type: ignore[attr-defined]
    ids = select(remote.c.customer_id).where(
        remote.c.account_id.in_(list(account_labels(db, portal_id))), remote.c.remote_id == typed.exact
    )
    return list(db.execute(select(*_PERSON).where(here, _customer.c.id.in_(ids)).limit(FEW)))


def _with_joins(db: Session, portal_id: int, found: Sequence[Any]) -> tuple[PersonRow, ...]:
    join: Any = models.Join.__table__  # type: ignore[attr-defined]
    of = {
        row.from_id: row.email
        for row in db.execute(
            select(join.c.from_id, _customer.c.email)
            .join(_customer, _customer.c.id == join.c.into_id)
            .where(
                join.c.portal_id == portal_id,
                join.c.from_id.in_([row.id for row in found]),
                join.c.proved_at.is_not(None),
                join.c.undone_at.is_(None),
            )
        )
    }
    return tuple(PersonRow(row.id, row.email, row.name, row.created_at, of.get(row.id)) for row in found)


@dataclass(frozen=True, slots=True)
class _Place:
    """The last person of the page before."""

    key: bytes
    id: int

    def __str__(self) -> str:
        return urlsafe_b64encode(struct.pack(">q", self.id) + self.key).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "_Place | None":
        try:
            raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
            (row_id,) = struct.unpack(">q", raw[:8])
        except (ValueError, struct.error):
            return None
        return cls(raw[8:], row_id)


# Orders, payments, subscriptions, requests

_TABLES: dict[str, Any] = {
    "orders": models.Order.__table__,  # type: ignore[attr-defined]
    "payments": models.Payment.__table__,  # type: ignore[attr-defined]
    "subscriptions": models.Subscription.__table__,  # type: ignore[attr-defined]
}


def _listed(table: Any) -> Select[Any]:
    name = func.coalesce(table.c.number, table.c.title) if "number" in table.c else table.c.title
    return (
        select(
            table.c.id,
            table.c.customer_id,
            _customer.c.email,
            name.label("name"),
            table.c.status,
            table.c.placed_at,
            table.c.amount_minor,
            table.c.currency,
            table.c.account_id,
            table.c.remote_id,
        )
        .join_from(
            table,
            _customer,
            and_(_customer.c.id == table.c.customer_id, _customer.c.portal_id == table.c.portal_id),
            isouter=True,
        )
        .where(
            table.c.portal_id == bindparam("portal"),
            tuple_(table.c.placed_at, table.c.id)
            < tuple_(bindparam("placed_at", type_=models.Moment()), bindparam("id", type_=BigInteger())),
        )
        .order_by(table.c.placed_at.desc(), table.c.id.desc())
        .limit(bindparam("limit"))
    )


LISTED = {name: _listed(table) for name, table in _TABLES.items()}
BY_AMOUNT = {
    name: LISTED[name].where(
        table.c.currency == bindparam("currency", type_=String(3)),
        table.c.amount_minor == bindparam("minor", type_=BigInteger()),
    )
    for name, table in _TABLES.items()
}
BY_NUMBER = LISTED["orders"].where(_TABLES["orders"].c.number == bindparam("number"))


def _by_remote(name: str) -> Select[Any]:
    table = _TABLES[name]
    return LISTED[name].where(
        table.c.account_id.in_(bindparam("accounts", expanding=True)),
        table.c.remote_id.in_(bindparam("remotes", expanding=True)),
    )


BY_REMOTE = {name: _by_remote(name) for name in _TABLES}
BY_DOCUMENT = LISTED["payments"].where(_TABLES["payments"].c.id.in_(bindparam("ids", expanding=True)))


def _things(db: Session, portal_id: int, name: str, typed: Typed, size: int, after: str | None) -> Group:
    if name == "requests":
        return _requests(db, portal_id, typed)
    cursor = (Cursor.parse(after) if after else None) or _START
    values: dict[str, Any] = {
        "portal": portal_id,
        "placed_at": cursor.placed_at,
        "id": cursor.id,
        "limit": size + 1,
    }
    labels = account_labels(db, portal_id)
    found: dict[int, Any] = {}

    def take(statement: Select[Any], **more: Any) -> None:
        found.update({row.id: row for row in db.execute(statement, {**values, **more})})

    if typed.exact is not None:
        accounts = list(labels)
        take(BY_REMOTE[name], accounts=accounts, remotes=[typed.exact])
        if name == "orders":
            take(BY_NUMBER, number=typed.exact)
        if name == "payments":
            remotes, ids = _documented(db, portal_id, typed.exact)
            take(BY_REMOTE[name], accounts=accounts, remotes=remotes)
            take(BY_DOCUMENT, ids=ids)
    for currency, minor in _amounts(db, portal_id, name, typed):
        take(BY_AMOUNT[name], currency=currency, minor=minor)
    rows = sorted(found.values(), key=lambda row: (row.placed_at, row.id), reverse=True)
    older = None
    if len(rows) > size:
        older = str(Cursor(rows[size - 1].placed_at, rows[size - 1].id))
    things = tuple(
        Thing(
            name,
            row.id,
            row.customer_id,
            row.email,
            row.name,
            row.status,
            row.placed_at,
            row.amount_minor,
            row.currency,
            labels[row.account_id][0],
            row.remote_id,
        )
        for row in rows[:size]
    )
    return Group(name, things=things, older=older)


_START = Cursor(datetime.fromisoformat("9000-01-01T00:00:00+00:00"), 2**63 - 1)


def _amounts(db: Session, portal_id: int, name: str, typed: Typed) -> list[tuple[str, int]]:
    """The amounts in minor units of each currency that there is, for what was typed in major ones."""
    if not typed.amounts:
        return []
    currencies = [typed.currency] if typed.currency else _currencies(db, portal_id, _TABLES[name])
    found = []
    for currency in currencies:
        for value in typed.amounts:
            minor = value.scaleb(exponent(currency))
            if minor == minor.to_integral_value() and minor < 2**63:
                found.append((currency, int(minor)))
    return found


def _currencies(db: Session, portal_id: int, table: Any) -> list[str]:
    """The currencies of a portal's rows, one step of the index each."""
    found: list[str] = []
    while len(found) < MOST_CURRENCIES:
        following = db.execute(
            select(func.min(table.c.currency)).where(
                table.c.portal_id == portal_id, table.c.currency > (found[-1] if found else "")
            )
        ).scalar_one()
        if following is None:
            break
        found.append(following)
    return found


def _documented(db: Session, portal_id: int, number: str) -> tuple[list[str], list[int]]:
    """The payments that a document with this number is of: the processor's by its links, ours by its payment."""
    invoice: Any = models.Invoice.__table__  # type: ignore[attr-defined]
    issued: Any = models.IssuedDocument.__table__  # type: ignore[attr-defined]
    theirs = db.execute(
        select(invoice.c.payment_remote)
        .where(invoice.c.portal_id == portal_id, invoice.c.number == number)
        .limit(FEW)
    ).scalars()
    ours = db.execute(
        select(issued.c.payment_id)
        .where(issued.c.portal_id == portal_id, issued.c.number == number)
        .limit(FEW)
    ).scalars()
    return [remote for remote in theirs if remote], list(ours)


def _requests(db: Session, portal_id: int, typed: Typed) -> Group:
    if typed.reference is None:
        return Group("requests")
    row: Any = models.Request.__table__  # type: ignore[attr-defined]
    found = db.execute(
        select(row, func.coalesce(_customer.c.email, row.c.contact).label("email"))
        .join(_customer, _customer.c.id == row.c.customer_id, isouter=True)
        .where(row.c.portal_id == portal_id, row.c.reference == typed.reference)
    ).all()
    labels = account_labels(db, portal_id)
    return Group(
        "requests",
        things=tuple(
            Thing(
                "requests",
                one.id,
                one.customer_id,
                one.email,
                one.reference,
                one.status,
                one.created_at,
                None,
                None,
                labels[one.account_id][0] if one.account_id is not None else "",
                one.what,
            )
            for one in found
        ),
    )


def currencies_in(groups: Iterable[Group]) -> set[str]:
    """The currencies that stand on a page of results: with more than one, each amount says its own."""
    return {thing.currency for group in groups for thing in group.things if thing.currency}
