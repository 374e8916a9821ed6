"""Every read behind a screen: just the columns shown, through the portal and the customer, 25 rows at a time."""

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, Table, and_, bindparam, case, or_, select, tuple_
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import clock, models, offers, requests
from portal.gateways import facts
from portal.upcoming import Plan

PAGE = 25
SHOWN_FOR = timedelta(hours=24)  # how long a finished action is told on its card
ENDED = ("cancelled", "expired")
DOCUMENTED = frozenset({"paid", "partially_refunded", "refunded", "disputed"})

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# Where a page begins


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row of the page before, by which the next one is found."""

    placed_at: datetime
    id: int

    def __str__(self) -> str:
        micros = (self.placed_at - _EPOCH) // timedelta(microseconds=1)
        return urlsafe_b64encode(struct.pack(">qq", micros, self.id)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "Cursor | None":
        """The cursor for its text in an address; None where the text is none of ours."""
        try:
            micros, row_id = struct.unpack(">qq", urlsafe_b64decode(f"{text}=="))
            found = cls(_EPOCH + timedelta(microseconds=micros), row_id)
        except (ValueError, OverflowError, struct.error):
            return None
        return found if row_id >= 0 and str(found) == text else None


def _table(model: type[Any]) -> Table:
    table: Table = model.__table__
    return table


_order = _table(models.Order)
_payment = _table(models.Payment)
_refund = _table(models.Refund)
_invoice = _table(models.Invoice)
_subscription = _table(models.Subscription)
_account = _table(models.Account)


def _of_customer(table: Table) -> ColumnElement[bool]:
    return and_(table.c.portal_id == bindparam("portal"), table.c.customer_id == bindparam("customer"))


def _before(table: Table) -> ColumnElement[bool]:
    """Rows that come after the cursor where the newest come first; one search in the index."""
    last = tuple_(bindparam("placed_at", type_=models.Moment()), bindparam("id", type_=BigInteger()))
    return tuple_(table.c.placed_at, table.c.id) < last


def _newest_first(statement: Select[Any], table: Table) -> tuple[Select[Any], Select[Any]]:
    """A list's statement for its first page and for the pages after a cursor."""
    listed = (
        statement.where(_of_customer(table))
        .order_by(table.c.placed_at.desc(), table.c.id.desc())
        .limit(PAGE + 1)
    )
    return listed, listed.where(_before(table))


def _page(
    db: Session,
    statements: tuple[Select[Any], Select[Any]],
    portal_id: int,
    customer_id: int,
    after: Cursor | None,
) -> Sequence[Any]:
    values: dict[str, Any] = {"portal": portal_id, "customer": customer_id}
    if after is None:
        return db.execute(statements[0], values).all()
    return db.execute(statements[1], {**values, "placed_at": after.placed_at, "id": after.id}).all()


# Orders


@dataclass(frozen=True, slots=True)
class OrderRow:
    id: int
    status: str
    number: str | None
    title: str | None
    placed_at: datetime
    amount_minor: int | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class OrdersPage:
    """Rows, newest first. `older` is the cursor of the page after this one; `mixed`: more than one currency."""

    rows: tuple[OrderRow, ...]
    older: str | None
    mixed: bool


_ORDER_COLUMNS = (
    _order.c.id,
    _order.c.status,
    _order.c.number,
    _order.c.title,
    _order.c.placed_at,
    _order.c.amount_minor,
    _order.c.currency,
)
ORDERS = _newest_first(select(*_ORDER_COLUMNS), _order)


def orders(db: Session, portal_id: int, customer_id: int, after: Cursor | None = None) -> OrdersPage:
    """One page of a customer's orders."""
    found = _page(db, ORDERS, portal_id, customer_id, after)
    rows = tuple([OrderRow(*row) for row in found[:PAGE]])
    return OrdersPage(rows, _older(found), _mixed(rows))


def _older(found: Sequence[Any]) -> str | None:
    if len(found) <= PAGE:
        return None
    last = found[PAGE - 1]
    return str(Cursor(last.placed_at, last.id))


def _mixed(rows: Iterable[Any]) -> bool:
    return len({row.currency for row in rows if row.currency}) > 1


# One order


@dataclass(frozen=True, slots=True)
class OrderLine:
    name: str
    quantity: int
    minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class RefundRow:
    id: int
    status: str
    placed_at: datetime
    amount_minor: int | None
    currency: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class PaymentRow:
    """A payment with its refunds. `documented`: there is something to download; `has_file`: the processor has it."""

    id: int
    status: str
    title: str | None
    placed_at: datetime
    paid_at: datetime | None
    amount_minor: int | None
    currency: str | None
    refunded_minor: int | None
    method: dict[str, Any] | None
    failure_reason: str | None
    order_id: int | None
    order_number: str | None
    documented: bool
    has_file: bool
    refunds: tuple[RefundRow, ...]
    after_end: bool  # taken after its subscription had ended
    refund_asked: str | None  # the reference of the request for a refund


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a timeline: when, what (a word of ours), and what belongs to it."""

    at: datetime
    what: str
    minor: int | None = None
    currency: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class OrderPage:
    """An order with everything that belongs to it. Amounts of `totals` are in `currency`."""

    id: int
    status: str
    number: str | None
    title: str | None
    placed_at: datetime
    currency: str | None
    lines: tuple[OrderLine, ...]
    totals: tuple[tuple[str, int], ...]
    payments: tuple[PaymentRow, ...]
    timeline: tuple[Entry, ...]
    mixed: bool
    payable: bool  # there is a page of the processor on which what is open can be paid
    missing: bool  # the processor does not know it any more


ORDER = select(
    *_ORDER_COLUMNS,
    _order.c.account_id,
    _order.c.remote_id,
    _order.c.tax_minor,
    _order.c.discount_minor,
    _order.c.lines,
    _order.c.subscription_remote,
    _order.c.due_link,
    _order.c.missing_at,
).where(_of_customer(_order), _order.c.id == bindparam("id"))

# A payment may hang on an order that is another's: that one is not told.
_IS_THEIRS = and_(_order.c.portal_id == _payment.c.portal_id, _order.c.customer_id == _payment.c.customer_id)
_PAYMENT_COLUMNS = (
    _payment.c.id,
    _payment.c.status,
    _payment.c.title,
    _payment.c.placed_at,
    _payment.c.paid_at,
    _payment.c.amount_minor,
    _payment.c.currency,
    _payment.c.refunded_minor,
    _payment.c.method,
    _payment.c.failure_reason,
    _payment.c.after_end_at,
    _payment.c.account_id,
    _payment.c.remote_id,
    case((_IS_THEIRS, _order.c.id)).label("order_id"),
    case((_IS_THEIRS, _order.c.number)).label("order_number"),
)
_PAYMENTS = select(*_PAYMENT_COLUMNS).join_from(
    _payment,
    _order,
    # No more than its key: with the customer here too, PostgreSQL goes through all of their orders for each payment.
    and_(_order.c.account_id == _payment.c.account_id, _order.c.remote_id == _payment.c.order_remote),
    isouter=True,
)
PAYMENTS = _newest_first(_PAYMENTS, _payment)
# Without an order, so that no planner prefers the index that has it: they are few, and sorted here.
ORDER_PAYMENTS = _PAYMENTS.where(
    _of_customer(_payment),
    _payment.c.account_id == bindparam("account"),
    _payment.c.order_remote == bindparam("remote"),
).limit(100)


def _hanging_on(table: Table, *columns: ColumnElement[Any]) -> Select[Any]:
    """What hangs on payments that are known to be the customer's."""
    return (
        select(table.c.payment_remote, *columns)
        .where(
            table.c.portal_id == bindparam("portal"),
            table.c.account_id == bindparam("account"),
            table.c.payment_remote.in_(bindparam("remotes", expanding=True)),
        )
        .order_by(table.c.placed_at, table.c.id)
    )


REFUNDS = _hanging_on(
    _refund,
    _refund.c.id,
    _refund.c.status,
    _refund.c.placed_at,
    _refund.c.amount_minor,
    _refund.c.currency,
    _refund.c.reason,
)
INVOICES = _hanging_on(
    _invoice, _invoice.c.number, _invoice.c.status, _invoice.c.placed_at, _invoice.c.document
)


def order(db: Session, portal_id: int, customer_id: int, order_id: int) -> OrderPage | None:
    """One order of a customer, or None."""
    row = db.execute(ORDER, {"portal": portal_id, "customer": customer_id, "id": order_id}).one_or_none()
    if row is None:
        return None
    found = db.execute(
        ORDER_PAYMENTS,
        {"portal": portal_id, "customer": customer_id, "account": row.account_id, "remote": row.remote_id},
    ).all()
    found = sorted(found, key=lambda payment: (payment.placed_at, payment.id))
    payments, invoices = _with_what_hangs_on(db, portal_id, found)
    lines = tuple(_line(line) for line in row.lines or ())
    timeline = [
        Entry(row.placed_at, "placed", row.amount_minor, row.currency),
        *(entry for payment in payments for entry in entries_of(payment)),
        *(Entry(one.placed_at, "invoice", detail=one.number) for one in invoices if one.status != "draft"),
        *_documents(db, portal_id, [payment.id for payment in payments]),
        *_wishes(db, portal_id, customer_id, row.account_id, row.subscription_remote, row.placed_at),
    ]
    return OrderPage(
        id=row.id,
        status=row.status,
        number=row.number,
        title=row.title,
        placed_at=row.placed_at,
        currency=row.currency,
        lines=lines,
        totals=_totals(row, lines, payments),
        payments=payments,
        timeline=tuple(sorted(timeline, key=lambda entry: entry.at)),
        mixed=_mixed([row, *lines, *payments]),
        payable=bool(row.due_link)
        and offers.order_can_be_paid(row.status, row.due_link, db.get_one(models.Account, row.account_id)),
        missing=row.missing_at is not None,
    )


def _line(line: dict[str, Any]) -> OrderLine:
    return OrderLine(line["name"], line["quantity"], line["minor"], line["currency"])


def _totals(
    row: Any, lines: Sequence[OrderLine], payments: Sequence[PaymentRow]
) -> tuple[tuple[str, int], ...]:
    """The sums under the lines, each with its name; a tax that is in the lines already is named so."""
    total, discount, tax = row.amount_minor, row.discount_minor or 0, row.tax_minor or 0
    if total is None or row.currency is None:
        return ()
    sums: list[tuple[str, int]] = []
    subtotal = sum(line.minor for line in lines)
    rest = total - (subtotal - discount)
    tax_on_top = tax if rest else 0
    if lines and all(line.currency == row.currency for line in lines) and (discount or rest):
        sums.append(("subtotal", subtotal))
        parts = (("discount", -discount), ("other", rest - tax_on_top), ("tax", tax_on_top))
        sums += [(name, minor) for name, minor in parts if minor]
    sums.append(("total", total))
    if tax and ("tax", tax) not in sums:
        sums.append(("tax_included", tax))
    refunded = sum(payment.refunded_minor or 0 for payment in payments if payment.currency == row.currency)
    if refunded:
        sums.append(("refunded", -refunded))
    return tuple(sums)


def entries_of(payment: PaymentRow) -> list[Entry]:
    told = []
    if payment.status in DOCUMENTED:
        told.append(
            Entry(payment.paid_at or payment.placed_at, "paid", payment.amount_minor, payment.currency)
        )
    elif payment.status in ("pending", "authorized", "failed"):
        told.append(
            Entry(
                payment.placed_at,
                payment.status,
                payment.amount_minor,
                payment.currency,
                payment.failure_reason,
            )
        )
    for refund in payment.refunds:
        told.append(
            Entry(
                refund.placed_at,
                f"refund_{refund.status}",
                refund.amount_minor,
                refund.currency,
                refund.reason,
            )
        )
    return told


def _documents(db: Session, portal_id: int, payment_ids: list[int]) -> list[Entry]:
    issued = _table(models.IssuedDocument)
    found = db.execute(
        select(issued.c.issued_at, issued.c.kind, issued.c.number).where(
            issued.c.portal_id == portal_id, issued.c.payment_id.in_(payment_ids)
        )
    )
    return [Entry(row.issued_at, row.kind, detail=row.number) for row in found]


def _wishes(
    db: Session, portal_id: int, customer_id: int, account_id: int, remote: str | None, since: datetime
) -> list[Entry]:
    """What the customer did with the subscription that an order belongs to, once it was proven."""
    if remote is None:
        return []
    action = _table(models.Action)
    found = db.execute(
        select(action.c.confirmed_at, action.c.capability, action.c.reference)
        .join_from(action, _subscription, _subscription.c.id == action.c.subscription_id)
        .where(
            _of_customer(action),
            _subscription.c.account_id == account_id,
            _subscription.c.remote_id == remote,
            action.c.confirmed_at >= since,
        )
        .order_by(action.c.created_at)
        .limit(100),
        {"portal": portal_id, "customer": customer_id},
    )
    return [Entry(row.confirmed_at, row.capability, detail=row.reference) for row in found]


# Payment history


@dataclass(frozen=True, slots=True)
class PaymentsPage:
    rows: tuple[PaymentRow, ...]
    older: str | None
    mixed: bool


def payments(db: Session, portal_id: int, customer_id: int, after: Cursor | None = None) -> PaymentsPage:
    """One page of a customer's payments, each with its refunds."""
    found = _page(db, PAYMENTS, portal_id, customer_id, after)
    rows, _ = _with_what_hangs_on(db, portal_id, found[:PAGE])
    return PaymentsPage(rows, _older(found), _mixed(rows))


def _with_what_hangs_on(
    db: Session, portal_id: int, found: Sequence[Any]
) -> tuple[tuple[PaymentRow, ...], list[Any]]:
    """Payments with their refunds, and the invoices that were written for them."""
    by_account: dict[int, list[str]] = defaultdict(list)
    for row in found:
        by_account[row.account_id].append(row.remote_id)
    refunds: dict[tuple[int, str], list[RefundRow]] = defaultdict(list)
    invoices: dict[tuple[int, str], list[Any]] = defaultdict(list)
    for account_id, remotes in by_account.items():
        values = {"portal": portal_id, "account": account_id, "remotes": remotes}
        for remote, *rest in db.execute(REFUNDS, values):
            refunds[account_id, remote].append(RefundRow(*rest))
        for invoice in db.execute(INVOICES, values):
            invoices[account_id, invoice.payment_remote].append(invoice)
    closed = _without_documents(db, portal_id) if found else frozenset()
    asked = _refunds_asked(db, portal_id, [row.id for row in found if row.after_end_at])
    rows = []
    for row in found:
        key = row.account_id, row.remote_id
        rows.append(
            PaymentRow(
                row.id,
                row.status,
                row.title,
                row.placed_at,
                row.paid_at,
                row.amount_minor,
                row.currency,
                row.refunded_minor,
                row.method,
                row.failure_reason,
                row.order_id,
                row.order_number,
                documented=row.status in DOCUMENTED and row.account_id not in closed,
                has_file=any(invoice.document for invoice in invoices[key]),
                refunds=tuple(refunds[key]),
                after_end=row.after_end_at is not None,
                refund_asked=asked.get(row.id),
            )
        )
    return tuple(rows), [invoice for row in found for invoice in invoices[row.account_id, row.remote_id]]


def _refunds_asked(db: Session, portal_id: int, payment_ids: list[int]) -> dict[int, str]:
    """The references of requests for refunds, open or done, by payment."""
    if not payment_ids:
        return {}
    row = models.Request
    found = db.execute(
        select(col(row.subject_id), col(row.reference)).where(
            col(row.portal_id) == portal_id,
            col(row.subject_id).in_(payment_ids),
            col(row.kind) == "refund",
            col(row.status).in_(("open", "done")),
        )
    )
    return {row.subject_id: row.reference for row in found}


def _without_documents(db: Session, portal_id: int) -> frozenset[int]:
    """The accounts for which the merchant has switched invoices off."""
    found = db.execute(
        select(_account.c.id, _account.c.switched_off).where(_account.c.portal_id == portal_id)
    )
    return frozenset(row.id for row in found if "invoice" in (row.switched_off or ()))


def payment_after_end(
    db: Session, portal_id: int, customer_id: int, payment_id: int
) -> models.Payment | None:
    """A payment of a customer that was taken after its subscription had ended; None where it was not."""
    return db.execute(
        select(models.Payment).where(
            col(models.Payment.id) == payment_id,
            col(models.Payment.portal_id) == portal_id,
            col(models.Payment.customer_id) == customer_id,
            col(models.Payment.after_end_at).is_not(None),
        )
    ).scalar_one_or_none()


# Subscriptions


@dataclass(frozen=True, slots=True)
class Subject:
    """A subscription with what decides about it: its account, the processor's label, and the newest action."""

    row: models.Subscription
    account: models.Account
    label: str
    action: models.Action | None
    requests: tuple[models.Request, ...] = ()

    @property
    def asked(self) -> frozenset[str]:
        """What the merchant is asked for and has not answered."""
        return frozenset(one.kind for one in self.requests if one.closed_at is None)

    @property
    def busy(self) -> bool:
        """Whether an action is open. Who went to a processor's page may come back and do something else instead."""
        return self.action is not None and self.action.closed_at is None and self.action.phase != "away"


@dataclass(frozen=True, slots=True)
class SubscriptionsPage:
    """Live ones, then ended ones. A page after a cursor holds only one sort; the cursors say which."""

    live: tuple[Subject, ...]
    ended: tuple[Subject, ...]
    older: str | None
    older_ended: str | None


def subscriptions(
    db: Session,
    portal_id: int,
    customer_id: int,
    now: datetime,
    after: Cursor | None = None,
    only_ended: bool = False,
) -> SubscriptionsPage:
    """A customer's subscriptions: those that go on, newest first, then those that are over."""
    live: Sequence[Any] = ()
    ended: Sequence[Any] = ()
    if not only_ended:
        live = _subscriptions(db, portal_id, customer_id, now, True, after, PAGE + 1)
    room = max(0, PAGE - len(live))
    if len(live) <= PAGE:
        ended = _subscriptions(
            db, portal_id, customer_id, now, False, after if only_ended else None, room + 1
        )
    ids = [row.id for row, _ in (*live, *ended)]
    told = _newest_actions(db, portal_id, customer_id, ids, now)
    asked = requests.about(db, portal_id, customer_id, ids, now)
    return SubscriptionsPage(
        live=tuple(_subject(row, account, told, asked) for row, account in live[:PAGE]),
        ended=tuple(_subject(row, account, told, asked) for row, account in ended[:room]),
        older=_cursor_of(live[PAGE - 1]) if len(live) > PAGE else None,
        older_ended=_rest_of(ended, room),
    )


def _rest_of(ended: Sequence[Any], room: int) -> str | None:
    """Where the ended ones go on that had no room; "first" where none had."""
    if len(ended) <= room:
        return None
    return _cursor_of(ended[room - 1]) if room else "first"


def _cursor_of(found: Any) -> str:
    return str(Cursor(found[0].placed_at, found[0].id))


def subject(
    db: Session, portal_id: int, customer_id: int, subscription_id: int, now: datetime | None = None
) -> Subject | None:
    """One subscription of a customer, or None."""
    found = db.execute(
        _SUBSCRIPTIONS.where(_subscription.c.id == subscription_id),
        {"portal": portal_id, "customer": customer_id},
    ).one_or_none()
    if found is None:
        return None
    row, account = found
    told = _newest_actions(db, portal_id, customer_id, [row.id], now)
    return _subject(
        row, account, told, requests.about(db, portal_id, customer_id, [row.id], now or clock.now())
    )


_SUBSCRIPTIONS = (
    select(models.Subscription, models.Account)
    .join(
        models.Account,
        and_(
            col(models.Account.id) == col(models.Subscription.account_id),
            col(models.Account.portal_id) == col(models.Subscription.portal_id),
        ),
    )
    .where(_of_customer(_subscription))
)


def _subscriptions(
    db: Session, portal_id: int, customer_id: int, now: datetime, live: bool, after: Cursor | None, limit: int
) -> Sequence[Any]:
    goes_on = or_(_subscription.c.status.not_in(ENDED), _subscription.c.access_until > now)
    is_over = and_(
        _subscription.c.status.in_(ENDED),
        or_(_subscription.c.access_until.is_(None), _subscription.c.access_until <= now),
    )
    statement = (
        _SUBSCRIPTIONS.where(goes_on if live else is_over)
        .order_by(_subscription.c.placed_at.desc(), _subscription.c.id.desc())
        .limit(limit)
    )
    values: dict[str, Any] = {"portal": portal_id, "customer": customer_id}
    if after is not None:
        statement = statement.where(_before(_subscription))
        values |= {"placed_at": after.placed_at, "id": after.id}
    return db.execute(statement, values).all()


def _newest_actions(
    db: Session, portal_id: int, customer_id: int, subscription_ids: list[int], now: datetime | None
) -> dict[int, models.Action]:
    """Per subscription the open action, else the last one, as long as it is told."""
    action = models.Action
    wanted = [
        col(action.portal_id) == portal_id,
        col(action.customer_id) == customer_id,
        col(action.subscription_id).in_(subscription_ids),
    ]
    if now is not None:
        wanted.append(or_(col(action.closed_at).is_(None), col(action.closed_at) > now - SHOWN_FOR))
    found = db.execute(select(action).where(*wanted).order_by(col(action.created_at), col(action.id)))
    newest: dict[int, models.Action] = {}
    for row in found.scalars():
        known = newest.get(row.subscription_id)
        if known is None or known.closed_at is not None:
            newest[row.subscription_id] = row
    return newest


def _subject(
    row: models.Subscription,
    account: models.Account,
    told: dict[int, models.Action],
    asked: dict[int, list[models.Request]],
) -> Subject:
    label = facts(account.processor).label
    return Subject(row, account, label, told.get(row.id), tuple(asked.get(row.id, ())))


# Upcoming payments


_PLAN_COLUMNS = [_subscription.c[name] for name in Plan.__dataclass_fields__ if name not in ("label",)]
PLANS = (
    select(*_PLAN_COLUMNS, _account.c.processor)
    .join_from(
        _subscription,
        _account,
        and_(_account.c.id == _subscription.c.account_id, _account.c.portal_id == _subscription.c.portal_id),
    )
    .where(
        _of_customer(_subscription),
        _subscription.c.status.not_in(("incomplete", *ENDED)),
        _account.c.disconnected_at.is_(None),  # nobody tells us any more what will be charged there
    )
    .order_by(_subscription.c.placed_at.desc(), _subscription.c.id.desc())
    .limit(500)
)


def plans(db: Session, portal_id: int, customer_id: int) -> list[Plan]:
    """What decides a customer's coming charges: their subscriptions that go on, across all processors."""
    found = db.execute(PLANS, {"portal": portal_id, "customer": customer_id}).mappings()
    return [
        Plan(
            label=facts(row["processor"]).label,
            **{name: row[name] for name in Plan.__dataclass_fields__ if name != "label"},
        )
        for row in found
    ]


def accounts(db: Session, portal_id: int) -> list[tuple[str, str | None, tuple[str, ...]]]:
    """Processor, kind and switched-on options of each connected account, in order."""
    found = db.execute(
        select(_account.c.processor, _account.c.variant, _account.c.options)
        .where(_account.c.portal_id == portal_id, _account.c.disconnected_at.is_(None))
        .order_by(_account.c.processor, _account.c.id)
    )
    return [(row.processor, row.variant, tuple(row.options or ())) for row in found]


def payable_order(
    db: Session, portal_id: int, customer_id: int, order_id: int
) -> tuple[models.Order, models.Account] | None:
    """An order of a customer with its account, or None."""
    found = db.execute(
        select(models.Order, models.Account)
        .join(models.Account, col(models.Account.id) == col(models.Order.account_id))
        .where(
            col(models.Order.id) == order_id,
            col(models.Order.portal_id) == portal_id,
            col(models.Order.customer_id) == customer_id,
        )
    ).one_or_none()
    return (found[0], found[1]) if found else None


# The logo


def logo(db: Session, portal_id: int, sha256: str) -> bytes | None:
    """The bytes of a picture of a portal, by the hash in its name; None where it is no picture of theirs."""
    asset = _table(models.Asset)
    for name, content in ((asset.c.sha256, asset.c.content), (asset.c.twice_sha256, asset.c.twice)):
        found: bytes | None = db.execute(
            select(content).where(asset.c.portal_id == portal_id, name == sha256).limit(1)
        ).scalar_one_or_none()
        if found is not None:
            return found
    return None
