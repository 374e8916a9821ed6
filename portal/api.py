"""The merchant's own app at our door: its keys, what each may do and how often, and what it reads and writes.

A key decides which portal is meant; nothing of the request's host or cookies is looked at.
"""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import BigInteger, func, literal, select, tuple_, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import login, models, outgoing, requests, shapes, sheetrows, sheets, sync, tenancy
from portal.db import dialect_of
from portal.gateways.base import Line, OrderRecord, OrderStatus, Snapshot
from portal.ids import id_text, parse_id
from portal.money import Money
from portal.settings import Settings
from portal.texts import gettext as _


def _N(text: str) -> str:
    return text


SCOPES: dict[str, str] = {
    "sessions:write": _N("Send customers into the portal, signed in"),
    "customers:read": _N("Read customers"),
    "orders:read": _N("Read orders"),
    "orders:write": _N("Push orders"),
    "subscriptions:read": _N("Read subscriptions"),
    "payments:read": _N("Read payments"),
    "requests:read": _N("Read what customers ask for"),
    "requests:write": _N("Answer what customers ask for"),
    "events:read": _N("Read the portal's own events"),
}
PER_MINUTE = 300
MOST_KEYS = 50
MOST_RETURN_URLS = 20
KEY = re.compile(r"pk_[0-9a-z]{8}_[A-Za-z0-9_-]{43}")
_SIGNS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Refused(Exception):
    """It cannot be done; the sentence says why."""


# Problems

PROBLEMS: dict[str, tuple[int, str]] = {
    "malformed": (400, "This can't be read"),
    "unauthorized": (401, "No valid key"),
    "scope_missing": (403, "The key may not do this"),
    "not_found": (404, "There is no such thing here"),
    "method_not_allowed": (405, "This can't be done at this address"),
    "too_slow": (408, "That took too long"),
    "conflict": (409, "That goes against how things stand"),
    "too_large": (413, "That was too much at once"),
    "unsupported_media_type": (415, "Send JSON"),
    "invalid": (422, "Something is not as it should be"),
    "rate_limited": (429, "Too many calls"),
    "fault": (500, "Something went wrong on our side"),
    "unavailable": (503, "This can't be had right now"),
}


class Wrong(BaseModel):
    """One thing that is not as it should be, and where."""

    model_config = ConfigDict(extra="forbid")
    pointer: str = Field(description="A JSON pointer into the body, or ?name for a parameter.")
    detail: str


class Problem(Exception):
    """An answer that is none, as RFC 9457 has it: `code` is stable, `detail` is for people."""

    def __init__(
        self, code: str, detail: str, errors: Sequence[Wrong] = (), headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.code, self.detail, self.errors, self.headers = code, detail, tuple(errors), headers or {}
        self.status, self.title = PROBLEMS[code]


class ProblemShape(BaseModel):
    """What went wrong (RFC 9457). Decide by `code`; `detail` is for people."""

    model_config = ConfigDict(extra="forbid", title="Problem")
    type: str = Field(description="urn:portal:problem: and the code.")
    title: str
    status: int
    code: str = Field(json_schema_extra={"enum": list(PROBLEMS)})
    detail: str
    request_id: str = Field(description="Name it when you write to whoever runs the portal.")
    errors: list[Wrong]


# Keys


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as its page tells of it."""

    id: int
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


def keys(db: Session, portal_id: int) -> list[KeyView]:
    """A portal's keys, those that are good first."""
    row = models.ApiKey
    found = db.execute(
        select(row)
        .where(col(row.portal_id) == portal_id)
        .order_by(col(row.revoked_at).is_not(None), col(row.id).desc())
        .limit(2 * MOST_KEYS)
    ).scalars()
    return [
        KeyView(
            one.id,
            one.name,
            one.prefix,
            tuple(one.scopes),
            one.created_at,
            one.last_used_at,
            one.revoked_at,
        )
        for one in found
    ]


def new_key(
    db: Session, portal_id: int, name: str, scopes: Sequence[str], user_id: int | None, now: datetime
) -> tuple[models.ApiKey, str]:
    """A new key; its text is returned here and kept nowhere. Refused where there are too many."""
    row = models.ApiKey
    good = db.execute(
        select(func.count()).where(col(row.portal_id) == portal_id, col(row.revoked_at).is_(None))
    ).scalar_one()
    if good >= MOST_KEYS:
        raise Refused(_("There are fifty keys. Revoke one that is not used any more."))
    prefix = "".join(secrets.choice(_SIGNS) for _ in range(8))
    text = f"pk_{prefix}_{secrets.token_urlsafe(32)}"
    made = row(
        portal_id=portal_id,
        name=name,
        prefix=f"pk_{prefix}",
        key_hash=_hash(text),
        scopes=[scope for scope in SCOPES if scope in scopes],
        created_at=now,
        created_by=user_id,
    )
    db.add(made)
    db.flush()
    return made, text


def revoke(db: Session, portal_id: int, key_id: int, now: datetime) -> models.ApiKey:
    """From now on the key opens nothing. LookupError where there is no such key."""
    row = models.ApiKey
    found = db.execute(
        select(row).where(col(row.portal_id) == portal_id, col(row.id) == key_id).with_for_update()
    ).scalar_one_or_none()
    if found is None:
        raise LookupError(key_id)
    found.revoked_at = found.revoked_at or now
    return found


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: a key of a portal."""

    key_id: int
    portal_id: int
    name: str
    prefix: str
    scopes: frozenset[str]


def caller(db: Session, text: str) -> Caller | None:
    """Whose key this is; None where it is none of ours, or revoked."""
    row = models.ApiKey
    found = db.execute(
        select(row).where(col(row.key_hash) == _hash(text), col(row.revoked_at).is_(None))
    ).scalar_one_or_none()
    if found is None or not KEY.fullmatch(text):
        return None
    return Caller(found.id, found.portal_id, found.name, found.prefix, frozenset(found.scopes))


@dataclass(frozen=True, slots=True)
class Use:
    """How much of this minute a key has left, and for how many seconds it goes on."""

    left: int
    seconds: int


def count(db: Session, key_id: int, now: datetime) -> Use:
    """One more call with this key, over all processes; `left` is negative where it was too many."""
    second = int(now.timestamp())
    minute = second // 60
    table = models.ApiUse.__table__  # type: ignore[attr-defined]
    statement = dialect_of(db).insert(table).values(key_id=key_id, minute=minute, count=1)
    used = db.execute(
        statement.on_conflict_do_update(
            index_elements=["key_id", "minute"], set_={"count": table.c.count + 1}
        ).returning(table.c.count)
    ).scalar_one()
    if used == 1:
        row = models.ApiKey
        db.execute(update(row).where(col(row.id) == key_id).values(last_used_at=now))
    return Use(PER_MINUTE - used, 60 - second % 60)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# What is handed in


class Input(BaseModel):
    """A body: nothing that we do not know, and nothing read as what it is not."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _text(most: int, pattern: str = r"^[^\x00-\x1f\x7f]+$") -> Any:
    return StringConstraints(min_length=1, max_length=most, pattern=pattern)


def _within_reach(value: datetime) -> datetime:
    if not 1990 <= value.year <= 2100:
        raise ValueError("a moment between 1990 and 2100")
    return value.astimezone(UTC)


When = Annotated[AwareDatetime, AfterValidator(_within_reach)]
Name = Annotated[str, _text(255)]
Email = Annotated[str, _text(254, r"^[^\x00-\x20\x7f@]+@[^\x00-\x20\x7f@]+$")]
Minor = Annotated[int, Field(ge=0, le=10**15)]
Address = Annotated[str, _text(500, r"^https?://[!-~]+$")]


class AmountIn(Input):
    minor: Minor = Field(description="In the currency's smallest unit.")
    currency: str = Field(pattern="^[A-Z]{3}$", description="ISO 4217.")

    def money(self) -> Money:
        return Money(self.minor, self.currency)


class LineIn(Input):
    name: Name
    quantity: int = Field(ge=1, le=1_000_000)
    amount: AmountIn


class OrderIn(Input):
    """An order as it is now. What is left out of the optional fields stays as it was."""

    account: shapes.Id
    remote_id: Name = Field(
        description="Your own id of it, or the processor's. With the account, it is its key."
    )
    email: Email
    status: OrderStatus
    amount: AmountIn
    created_at: When
    updated_at: When | None = Field(
        default=None, description="When this was so; now, where it is left out. What is older never wins."
    )
    number: Name | None = None
    title: Name | None = None
    tax: AmountIn | None = None
    discount: AmountIn | None = None
    lines: list[LineIn] | None = Field(default=None, max_length=100)
    subscription: Name | None = Field(default=None, description="The remote id of its subscription.")


class OrdersIn(Input):
    orders: list[OrderIn] = Field(min_length=1, max_length=100)


Cell = Annotated[str, StringConstraints(max_length=300)]


class RowIn(Input):
    """An order, a payment or a subscription in the columns of a file (docs/import.md). What is left out or empty says
    nothing."""

    email: Cell
    processor: Cell | None = Field(default=None, description="An account's name, where `account` is not all.")
    name: Cell | None = None
    customer: Cell | None = Field(default=None, description="The processor's id of the customer.")
    order: Cell | None = Field(default=None, description="Your number of the order.")
    payment: Cell | None = Field(default=None, description="The processor's id of the payment.")
    invoice: Cell | None = None
    subscription: Cell | None = Field(default=None, description="The processor's id of the subscription.")
    token: Cell | None = None
    product: Cell | None = None
    description: Cell | None = None
    quantity: int | None = Field(default=None, ge=1, le=999_999)
    amount: Cell | None = Field(default=None, description="In whole units, with a point: 24.00.")
    currency: Cell | None = Field(default=None, description="ISO 4217.")
    refunded: Cell | None = None
    tax: Cell | None = None
    status: Cell | None = None
    paid_at: Cell | None = Field(default=None, description="ISO 8601; without a zone, in the portal's.")
    ordered_at: Cell | None = None
    subscription_status: Cell | None = None
    interval: Cell | None = Field(default=None, description="Such as month, 3 months, year.")
    started_at: Cell | None = None
    ends_at: Cell | None = None
    next_payment: Cell | None = Field(default=None, description="A day, such as 2026-12-24.")


class RowsIn(Input):
    account: shapes.Id | None = Field(default=None, description="Of all rows that name no processor.")
    as_of: When | None = Field(
        default=None, description="When all this was so; now, where it is left out. What is older never wins."
    )
    orders: list[RowIn] = Field(min_length=1, max_length=500)


class SessionIn(Input):
    """Who is to be sent into the portal, and where to. Name them by `email` or by `customer_id`."""

    email: Email | None = None
    customer_id: shapes.Id | None = None
    flow: Literal["update_payment_method", "cancel", "invoices"] | None = Field(
        default=None, description="The page they come to; without it, their orders."
    )
    subscription: shapes.Id | None = Field(default=None, description="For update_payment_method and cancel.")
    return_url: Address | None = Field(
        default=None, description="Where *Back to …* leads. It has to be on the portal's list."
    )


class AnswerIn(Input):
    say: Annotated[str, _text(2000, r"^[^\x00-\x08\x0b-\x1f\x7f]*$")] | None = Field(
        default=None, description="A sentence that the customer reads. To decline takes one."
    )


class Query(BaseModel):
    """The parameters of an address."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Paged(Query):
    after: shapes.Id | None = Field(default=None, description="`next` of the page before.")
    limit: int = Field(default=25, ge=1, le=100)


class OfCustomer(Paged):
    customer: shapes.Id | None = None


class CustomersQuery(Paged):
    email: Email | None = None


class RequestsQuery(OfCustomer):
    status: Literal["open", "done", "declined", "withdrawn"] | None = Field(
        default=None, description="With it, what is due first comes first."
    )


# What is handed out


class SessionOut(shapes.Shape):
    url: str = Field(description="Redirect the customer there. It works once.")
    expires_at: shapes.Moment


class Accounts(shapes.Shape):
    data: list[shapes.Account]


class Pushed(shapes.Shape):
    id: shapes.Id
    remote_id: str
    result: Literal["created", "updated", "unchanged"]


class PushedOrders(shapes.Shape):
    data: list[Pushed]


class Added(shapes.Shape):
    """What became of a row; the ids are those of what it speaks of."""

    result: Literal["created", "changed", "unchanged", "refused"]
    order: shapes.Id | None
    payment: shapes.Id | None
    subscription: shapes.Id | None
    errors: list[Wrong]


class AddedOrders(shapes.Shape):
    data: list[Added] = Field(description="In the order of what was sent.")


class Event(shapes.Shape):
    """Something the portal tells. Delivered to endpoints it has the same id, as `webhook-id`."""

    id: shapes.Id
    type: str
    timestamp: shapes.Moment
    data: dict[str, Any] = Field(
        description="What it is about, as it was then: customer, subscription, payment, action, request, in the "
        "shapes in which you read them."
    )


Next = Annotated[shapes.Id | None, Field(description="Give it as `after` for what follows; null at the end.")]


class Customers(shapes.Shape):
    data: list[shapes.Customer]
    next: Next


class Orders(shapes.Shape):
    data: list[shapes.Order]
    next: Next


class Subscriptions(shapes.Shape):
    data: list[shapes.Subscription]
    next: Next


class Payments(shapes.Shape):
    data: list[shapes.Payment]
    next: Next


class Requests(shapes.Shape):
    data: list[shapes.Request]
    next: Next


class Events(shapes.Shape):
    data: list[Event]
    next: Next


# Reading


def accounts(db: Session, portal_id: int) -> Accounts:
    row = models.Account
    found = db.execute(
        select(row).where(col(row.portal_id) == portal_id).order_by(col(row.id)).limit(200)
    ).scalars()
    return Accounts(data=[shapes.account(one) for one in found])


def customers(db: Session, portal_id: int, query: CustomersQuery) -> Customers:
    row = models.Customer
    if query.email is None:
        found, following = _newest(db, row, portal_id, query, [])
    else:
        found, following = _of_address(db, portal_id, query.email), None
    return Customers(data=[shapes.customer(one) for one in found], next=following)


def _of_address(db: Session, portal_id: int, email: str) -> list[models.Customer]:
    """The person who has an address; a further one leads to whom it was joined with."""
    row = models.Customer
    found = db.execute(
        select(row).where(col(row.portal_id) == portal_id, col(row.email) == (sync.normalized(email) or ""))
    ).scalar_one_or_none()
    return [db.get_one(row, sync.joined(db, portal_id, found.id))] if found is not None else []


def customer(db: Session, portal_id: int, customer_id: int) -> shapes.CustomerInFull:
    row = _one(db, models.Customer, portal_id, customer_id)
    counts = {
        name: _count(db, model, portal_id, customer_id)
        for name, model in (
            ("orders", models.Order),
            ("subscriptions", models.Subscription),
            ("payments", models.Payment),
        )
    }
    waiting = _count(db, models.Request, portal_id, customer_id, col(models.Request.closed_at).is_(None))
    return shapes.CustomerInFull(
        **shapes.customer(row).model_dump(), counts=shapes.Counts(**counts, open_requests=waiting)
    )


def _count(db: Session, model: type[Any], portal_id: int, customer_id: int, *more: Any) -> int:
    found: int = db.execute(
        select(func.count()).where(
            col(model.portal_id) == portal_id, col(model.customer_id) == customer_id, *more
        )
    ).scalar_one()
    return found


def orders(db: Session, portal_id: int, query: OfCustomer) -> Orders:
    found, following = _listed(db, models.Order, portal_id, query)
    return Orders(data=[shapes.order(one) for one in found], next=following)


def order(db: Session, portal_id: int, order_id: int) -> shapes.Order:
    return shapes.order(_one(db, models.Order, portal_id, order_id))


def subscriptions(db: Session, portal_id: int, query: OfCustomer) -> Subscriptions:
    found, following = _listed(db, models.Subscription, portal_id, query)
    return Subscriptions(data=[shapes.subscription(one) for one in found], next=following)


def payments(db: Session, portal_id: int, query: OfCustomer) -> Payments:
    found, following = _listed(db, models.Payment, portal_id, query)
    return Payments(data=[shapes.payment(one) for one in found], next=following)


def asked(db: Session, portal_id: int, query: RequestsQuery) -> Requests:
    """What customers ask for: newest first, or, of one status, what is due first."""
    row = models.Request
    if query.status is None:
        found, following = _listed(db, row, portal_id, query, by="created_at")
    elif query.customer is not None:
        status = [col(row.status) == query.status]
        found, following = _listed(db, row, portal_id, query, by="created_at", more=status)
    else:
        where = [col(row.portal_id) == portal_id, col(row.status) == query.status]
        if query.after is not None:
            last = _one_after(db, row, portal_id, query.after)
            where.append(tuple_(col(row.due_at), col(row.id)) > tuple_(_moment(last.due_at), _big(last.id)))
        statement = select(row).where(*where).order_by(col(row.due_at), col(row.id))
        found, following = _cut(db, statement, query)
    names = shapes.emails(db, portal_id, list({one.customer_id for one in found if one.customer_id}))

    def email(one: models.Request) -> str:
        return names[one.customer_id] if one.customer_id is not None else one.contact or ""

    return Requests(data=[shapes.request(one, email(one)) for one in found], next=following)


SETTLED = timedelta(seconds=5)  # what is younger may still be overtaken by what began before it


def events(db: Session, portal_id: int, query: Paged, now: datetime) -> Events:
    """The portal's own events, oldest first: `after` with the last one that was seen gives what is new."""
    row = models.OwnEvent
    where = [col(row.portal_id) == portal_id]
    if query.after is not None:
        where.append(col(row.id) > _id(query.after))
    statement = select(row).where(*where).order_by(col(row.id))
    found, following = _cut(db, statement, query)
    settled = list(takewhile(lambda one: one.at <= now - SETTLED, found))
    following = following if len(settled) == len(found) else None
    return Events(data=[_event(one) for one in settled], next=following)


def _event(row: models.OwnEvent) -> Event:
    told = outgoing.payload(row)
    return Event.model_validate({"id": id_text(row.id), **told})


def _listed(
    db: Session,
    model: type[Any],
    portal_id: int,
    query: OfCustomer,
    by: str = "placed_at",
    more: Sequence[Any] = (),
) -> tuple[list[Any], str | None]:
    """Newest first: of a whole portal by id, of one customer by the moment, as their pages have it."""
    if query.customer is None:
        return _newest(db, model, portal_id, query, more)
    at = col(getattr(model, by))
    where = [col(model.portal_id) == portal_id, col(model.customer_id) == _id(query.customer), *more]
    if query.after is not None:
        last = _one_after(db, model, portal_id, query.after)
        where.append(tuple_(at, col(model.id)) < tuple_(_moment(getattr(last, by)), _big(last.id)))
    return _cut(db, select(model).where(*where).order_by(at.desc(), col(model.id).desc()), query)


def _newest(
    db: Session, model: type[Any], portal_id: int, query: Paged, more: Sequence[Any]
) -> tuple[list[Any], str | None]:
    where = [col(model.portal_id) == portal_id, *more]
    if query.after is not None:
        where.append(col(model.id) < _id(query.after))
    return _cut(db, select(model).where(*where).order_by(col(model.id).desc()), query)


def _cut(db: Session, statement: Any, query: Paged) -> tuple[list[Any], str | None]:
    found = list(db.execute(statement.limit(query.limit + 1)).scalars())
    more = len(found) > query.limit
    return found[: query.limit], id_text(found[query.limit - 1].id) if more else None


def _one(db: Session, model: type[Any], portal_id: int, row_id: int) -> Any:
    found = db.execute(
        select(model).where(col(model.portal_id) == portal_id, col(model.id) == row_id)
    ).scalar_one_or_none()
    if found is None:
        raise Problem("not_found", "This portal has nothing with this id.")
    return found


def _one_after(db: Session, model: type[Any], portal_id: int, after: str) -> Any:
    try:
        return _one(db, model, portal_id, _id(after))
    except Problem as error:
        wrong = Wrong(pointer="?after", detail="There is nothing with this id; begin at the first page.")
        raise Problem("invalid", "A parameter is not as it should be.", [wrong]) from error


def _id(text: str) -> int:
    found = parse_id(text)
    return -1 if found is None else found  # its shape was looked at before


def _moment(value: datetime) -> Any:
    return literal(value, models.Moment())


def _big(value: int) -> Any:
    return literal(value, BigInteger())


# A way in


def open_session(
    db: Session, settings: Settings, caller: Caller, asked: SessionIn, now: datetime
) -> SessionOut:
    """A single-use link into a customer's pages."""
    portal = db.get_one(models.Portal, caller.portal_id)
    wrong = _wrong_with(portal, settings, asked)
    if wrong:
        raise Problem("invalid", wrong[0].detail, wrong)
    if not portal.enabled:
        raise Problem("conflict", "The portal is switched off.")
    person = _person(db, portal.id, asked)
    subscription_id = None
    if asked.subscription is not None:
        subscription_id = _id(asked.subscription)
        row = models.Subscription
        theirs = db.execute(
            select(col(row.id)).where(
                col(row.portal_id) == portal.id,
                col(row.customer_id) == sync.joined(db, portal.id, person.id),
                col(row.id) == subscription_id,
            )
        ).first()
        if theirs is None:
            raise Problem("not_found", "This customer has no such subscription.")
    token = login.new_entry(db, person, caller.key_id, now, asked.flow, subscription_id, asked.return_url)
    host = tenancy.view(db, portal, settings.base_domain).host
    return SessionOut(
        url=f"{settings.origin(host)}/customers/enter/{token}", expires_at=now + login.ENTRY_LIFE
    )


def _person(db: Session, portal_id: int, asked: SessionIn) -> models.Customer:
    row = models.Customer
    if asked.customer_id is not None:
        who = col(row.id) == _id(asked.customer_id)
    else:
        who = col(row.email) == (sync.normalized(asked.email) or "")
    found = db.execute(select(row).where(col(row.portal_id) == portal_id, who)).scalar_one_or_none()
    if found is None:
        raise Problem("not_found", "This portal has no such customer.")
    return found


def _wrong_with(portal: models.Portal, settings: Settings, asked: SessionIn) -> list[Wrong]:
    wrong = []
    if (asked.email is None) == (asked.customer_id is None):
        wrong.append(Wrong(pointer="/email", detail="Name the customer by email or by customer_id."))
    needs_one = asked.flow in ("update_payment_method", "cancel")
    if needs_one and asked.subscription is None:
        wrong.append(Wrong(pointer="/subscription", detail="This flow is about a subscription: name it."))
    if asked.subscription is not None and not needs_one:
        wrong.append(
            Wrong(pointer="/subscription", detail="Only the flows update_payment_method and cancel take it.")
        )
    if asked.return_url is not None and not may_return(
        portal.return_urls or (), asked.return_url, settings.demo
    ):
        wrong.append(
            Wrong(
                pointer="/return_url", detail="This address is not on the portal's list of return addresses."
            )
        )
    return wrong


# Where the merchant's app may have customers sent back to

_PLAIN = re.compile(r"[!-~]+")
_LOCAL = re.compile(r"localhost|127\.0\.0\.1|\[::1\]|([a-z0-9-]+\.)+localhost")


def return_url(text: str, local: bool) -> str:
    """An entry of the list as it is kept: scheme, host and path. Refused, with what is wrong about it."""
    found = _taken_apart(text, local)
    if found is None:
        raise Refused(_("Give an address such as https://app.example.com/account."))
    origin, path, rest = found
    if rest:
        raise Refused(_("Leave out what comes after ? or #."))
    return origin + path


def may_return(allowed: Sequence[str], url: str, local: bool) -> bool:
    """Whether an address is one of those, or lies below one of them."""
    found = _taken_apart(url, local)
    if found is None or "#" in url:
        return False
    origin, path, _rest = found
    for one in allowed:
        known = _taken_apart(one, True)
        if known is not None and known[0] == origin:
            below = known[1] if known[1].endswith("/") else known[1] + "/"
            if path == known[1] or path.startswith(below):
                return True
    return False


def _taken_apart(url: str, local: bool) -> tuple[str, str, str] | None:
    """Origin, path, and what comes after; None where it is no address we would send anybody to.

    A path with dots for steps, written out or in percents, would be walked up by the browser: it is none of ours.
    """
    if len(url) > 500 or not _PLAIN.fullmatch(url) or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    host = parts.netloc.rpartition("@")[2].lower()
    name = host.removesuffix(f":{port}") if port is not None else host.removesuffix(":")
    if "@" in parts.netloc or not name:
        return None
    if parts.scheme == "http":
        if not (local and _LOCAL.fullmatch(name)):
            return None
    elif parts.scheme != "https":
        return None
    if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)*|\[[0-9a-f:.]+\]", name):
        return None
    path = parts.path or "/"
    steps = path.lower().replace("%2e", ".").split("/")
    if "." in steps or ".." in steps or "%2f" in path.lower() or "%5c" in path.lower():
        return None
    usual = 443 if parts.scheme == "https" else 80
    origin = f"{parts.scheme}://{name}" + (f":{port}" if port not in (None, usual) else "")
    return origin, path, url.partition("?")[1] + url.partition("#")[1]


# Pushing orders

AHEAD = timedelta(minutes=5)  # clocks differ; more than that would keep later news out


def push(db: Session, caller: Caller, batch: OrdersIn, now: datetime) -> PushedOrders:
    """Write orders that no processor tells us of: all of them, or none where one is not as it should be."""
    ids = {_id(one.account) for one in batch.orders}
    row = models.Account
    known = {
        one.id: one
        for one in db.execute(
            select(row).where(col(row.portal_id) == caller.portal_id, col(row.id).in_(ids))
        ).scalars()
    }
    wrong = [
        Wrong(pointer=f"/orders/{number}/{where}", detail=detail)
        for number, one in enumerate(batch.orders)
        for where, detail in _wrong_in(one, known, now)
    ]
    if wrong:
        raise Problem("invalid", "Nothing was written: see `errors`.", wrong)
    return PushedOrders(data=[_push(db, known[_id(one.account)], one, now) for one in batch.orders])


def _wrong_in(one: OrderIn, known: dict[int, models.Account], now: datetime) -> list[tuple[str, str]]:
    found = []
    if _id(one.account) not in known:
        found.append(("account", "This portal has no such account."))
    if sync.normalized(one.email) is None:
        found.append(("email", "This is no e-mail address."))
    if one.updated_at is not None and one.updated_at > now + AHEAD:
        found.append(("updated_at", "This lies in the future."))
    for name, amount in (("tax", one.tax), ("discount", one.discount)):
        if amount is not None and amount.currency != one.amount.currency:
            found.append((name, "It has to be in the currency of the order."))
    for number, line in enumerate(one.lines or ()):
        if line.amount.currency != one.amount.currency:
            found.append((f"lines/{number}/amount", "It has to be in the currency of the order."))
    return found


def _push(db: Session, account: models.Account, one: OrderIn, now: datetime) -> Pushed:
    row = models.Order
    mine = select(row).where(col(row.account_id) == account.id, col(row.remote_id) == one.remote_id)
    before = db.execute(mine).scalar_one_or_none()
    was = shapes.order(before).model_dump(exclude={"as_of"}) if before is not None else None
    given = one.model_fields_set - {"account", "updated_at"}
    record = OrderRecord(
        remote_id=one.remote_id,
        email=one.email,
        status=one.status,
        raw_status=one.status,
        created_at=one.created_at,
        number=one.number,
        title=one.title,
        amount=one.amount.money(),
        tax=one.tax.money() if one.tax else None,
        discount=one.discount.money() if one.discount else None,
        lines=tuple(Line(line.name, line.quantity, line.amount.money()) for line in one.lines or ()),
        subscription=one.subscription,
        knows=frozenset(given | {"raw_status"}),
    )
    sync.apply(db, account, Snapshot(as_of=one.updated_at or now, orders=(record,)))
    db.flush()
    after = db.execute(mine).scalar_one()
    if was is None:
        result: Literal["created", "updated", "unchanged"] = "created"
    else:
        same = was == shapes.order(after).model_dump(exclude={"as_of"})
        result = "unchanged" if same else "updated"
    return Pushed(id=id_text(after.id), remote_id=after.remote_id, result=result)


ROWS_AT_ONCE = 100  # in a transaction


def may_add(db: Session, portal_id: int, batch: RowsIn, now: datetime) -> None:
    """Whether all of a batch can be looked at; Problem where it can't."""
    if batch.as_of is not None and batch.as_of > now + AHEAD:
        raise Problem(
            "invalid", "Nothing was written.", [Wrong(pointer="/as_of", detail="This lies in the future.")]
        )
    if batch.account is not None:
        try:
            sheets.Accounts(db, portal_id, _id(batch.account)).named(None)
        except sheets.Refused:
            wrong = Wrong(pointer="/account", detail="This portal has no such account that is connected.")
            raise Problem("invalid", "Nothing was written.", [wrong]) from None


def add(
    db: Session, caller: Caller, batch: RowsIn, begin: int, as_of: datetime, now: datetime
) -> list[Added]:
    """Write some rows of a batch, each by itself: what is right of them."""
    rules = sheets.rules_of(db, caller.portal_id, {"decimal": "."}, now)
    rows = [
        sheetrows.understand(one.model_dump(exclude_none=True), rules)
        for one in batch.orders[begin : begin + ROWS_AT_ONCE]
    ]
    usual = _id(batch.account) if batch.account is not None else None
    accounts = sheets.Accounts(db, caller.portal_id, usual)
    outcomes = sheets.write_rows(db, accounts, rows, as_of, begin, now)
    return [_added(f"/orders/{number}", one) for number, one in enumerate(outcomes, begin)]


def _added(pointer: str, one: sheets.Outcome) -> Added:
    return Added(
        result=one.result,
        order=_text_of(one.ids.get("order")),
        payment=_text_of(one.ids.get("payment")),
        subscription=_text_of(one.ids.get("subscription")),
        errors=[Wrong(pointer=f"{pointer}/{column}", detail=sentence) for column, sentence in one.wrong],
    )


def _text_of(row_id: int | None) -> str | None:
    return id_text(row_id) if row_id is not None else None


# Answering requests


def answer(
    db: Session,
    caller: Caller,
    reference: str,
    status: Literal["done", "declined"],
    say: str | None,
    now: datetime,
) -> shapes.Request:
    """Answer a request. The same answer once more changes nothing and is no error."""
    try:
        found = requests.by_reference(db, caller.portal_id, reference, lock=True)
        if found.status != status:
            requests.answer(db, caller.portal_id, reference, status, say, "merchant", now)
            _audit(db, caller, f"request.{status}", found.reference, {"answer": found.answer}, now)
    except LookupError as error:
        raise Problem("not_found", "This portal has no such request.") from error
    except requests.NotOpen as error:
        raise Problem("conflict", f"{error}.") from error
    except ValueError as error:
        wrong = Wrong(pointer="/say", detail=f"{str(error).capitalize()}.")
        raise Problem("invalid", wrong.detail, [wrong]) from error
    if found.customer_id is None:
        return shapes.request(found, found.contact or "")
    return shapes.request(found, db.get_one(models.Customer, found.customer_id).email)


def _audit(
    db: Session, caller: Caller, what: str, subject: str, after: dict[str, Any], now: datetime
) -> None:
    """What a key changed stands in the record of changes, as what a person changed does."""
    portal = db.get_one(models.Portal, caller.portal_id)
    db.add(
        models.Audit(
            merchant_id=portal.merchant_id,
            portal_id=portal.id,
            who=f"{caller.name} ({caller.prefix}…)",
            what=what,
            subject=subject,
            after=after,
            at=now,
        )
    )
