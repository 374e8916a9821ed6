"""What the portal tells the merchant's own app, by its API and in its events: one shape for each thing, for all
processors. Amounts are whole minor units with their currency, moments are UTC, and what is not known is null."""

from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from sqlmodel import col, select

from portal import models, offers
from portal.db import beside
from portal.gateways.base import OrderStatus, PaymentStatus, SubscriptionStatus, Unit
from portal.ids import id_text

Moment = Annotated[datetime, AfterValidator(lambda value: value.astimezone(UTC))]
Id = Annotated[
    str,
    Field(
        pattern="^[0-7][0-9a-hjkmnp-tv-z]{12}$",
        description="An id of the portal: 13 characters that grow with time.",
        examples=["06gv4c0r3m9k2"],
    ),
]


class Shape(BaseModel):
    """A piece of an answer: every field is always there."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Amount(Shape):
    minor: int = Field(description="In the currency's smallest unit: 2400 for 24 dollars, 2400 for 2400 yen.")
    currency: str = Field(pattern="^[A-Z]{3}$", description="ISO 4217.", examples=["USD"])


class Every(Shape):
    unit: Unit
    count: int


class Method(Shape):
    kind: str = Field(description="Such as card, wallet, bank_debit, upi.")
    brand: str | None
    last4: str | None
    expires: str | None = Field(
        description="The month after which it is no longer good.", examples=["2028-09"]
    )


class Next(Shape):
    on: date
    amount: Amount | None
    certainty: str | None = Field(description="fixed, estimated, or merchant (by your own data).")


class Failure(Shape):
    code: str
    reason: str | None


class Line(Shape):
    name: str
    quantity: int
    amount: Amount


class Account(Shape):
    """A connected processor account. Its id says where an order that you push belongs."""

    kind: Literal["account"]
    id: Id
    processor: str
    label: str
    live: bool
    created_at: Moment
    disconnected_at: Moment | None


class Customer(Shape):
    """A person of the portal: an e-mail address, over all processors."""

    kind: Literal["customer"]
    id: Id
    email: str
    name: str | None
    created_at: Moment


class Counts(Shape):
    orders: int
    subscriptions: int
    payments: int
    open_requests: int


class CustomerInFull(Customer):
    """A person, and how much of theirs there is."""

    counts: Counts


class _Mirrored(Shape):
    id: Id
    account: Id
    customer: Id | None = Field(description="Whose it is; null where it came without an e-mail.")
    remote_id: str = Field(description="The id by which the processor knows it.")
    email: str | None
    raw_status: str | None = Field(description="The processor's own word.")
    amount: Amount | None
    created_at: Moment | None
    as_of: Moment = Field(description="When the newest word on it was asked for.")
    title: str | None


class Order(_Mirrored):
    kind: Literal["order"]
    status: OrderStatus
    number: str | None
    tax: Amount | None
    discount: Amount | None
    lines: list[Line]
    subscription: str | None = Field(description="The remote id of its subscription.")


class Subscription(_Mirrored):
    kind: Literal["subscription"]
    status: SubscriptionStatus
    interval: Every | None
    quantity: int | None
    current_period_end: Moment | None
    next_payment: Next | None
    cancels_at: Moment | None
    ended_at: Moment | None
    access_until: Moment | None = Field(
        description="Cancelled at the processor already, and paid until then: keep the access until then."
    )
    due: Amount | None
    method: Method | None


class Payment(_Mirrored):
    kind: Literal["payment"]
    status: PaymentStatus
    paid_at: Moment | None
    refunded: Amount | None
    method: Method | None
    order: str | None = Field(description="The remote id of its order.")
    subscription: str | None = Field(description="The remote id of its subscription.")
    failure: Failure | None
    after_end: bool = Field(description="It was taken after its subscription had ended.")


class Told(Shape):
    """A line of a request's history."""

    at: Moment
    who: str
    what: str
    text: str | None


class Request(Shape):
    """Something a customer asked you to do, because no call of the processor does it."""

    kind: Literal["request"]
    reference: str = Field(examples=["K7M-2QX"])
    wish: str = Field(description="What is asked for: cancel_now, pause, update_payment_method, refund …")
    status: Literal["open", "done", "declined", "withdrawn"]
    account: Id | None = Field(description="None: the order that somebody looks for was not found.")
    customer: Id | None = Field(
        description="None: who asks has not signed in, and nobody has proved `email`."
    )
    email: str
    subject: Id = Field(description="The subscription or the payment that it is about.")
    what: str = Field(description="The title of that.")
    words: str | None = Field(description="Of the customer.")
    answer: str | None
    due_at: Moment
    late: bool
    created_at: Moment
    closed_at: Moment | None
    history: list[Told]


class Action(Shape):
    """Something a customer did in the portal, and how far it has come."""

    reference: str
    capability: str = Field(description="cancel_now, cancel_at_period_end, pause, change_plan …")
    phase: str
    reason: str | None = Field(description="Why, if they said so.")
    comment: str | None
    created_at: Moment
    confirmed_at: Moment | None


class About(Shape):
    """What an event is about; which of these are there depends on its type."""

    customer: Customer | None = None
    subscription: Subscription | None = None
    payment: Payment | None = None
    action: Action | None = None
    request: Request | None = None


# From rows


def amount(minor: int | None, currency: str | None) -> Amount | None:
    return Amount(minor=minor, currency=currency) if minor is not None and currency else None


def account(row: models.Account) -> Account:
    return Account(
        kind="account",
        id=id_text(row.id),
        processor=row.processor,
        label=row.label,
        live=row.live,
        created_at=row.created_at,
        disconnected_at=row.disconnected_at,
    )


def customer(row: models.Customer) -> Customer:
    return Customer(
        kind="customer", id=id_text(row.id), email=row.email, name=row.name, created_at=row.created_at
    )


def order(row: models.Order) -> Order:
    status: Any = row.status
    return Order(
        kind="order",
        status=status,
        **_mirrored(row),
        number=row.number,
        tax=amount(row.tax_minor, row.currency),
        discount=amount(row.discount_minor, row.currency),
        lines=[
            Line(
                name=line["name"],
                quantity=line["quantity"],
                amount=Amount(minor=line["minor"], currency=line["currency"]),
            )
            for line in row.lines or ()
        ],
        subscription=row.subscription_remote,
    )


def subscription(row: models.Subscription) -> Subscription:
    status: Any = offers.state_of(row)
    unit: Any = row.interval_unit
    following = None
    if row.next_on is not None:
        following = Next(
            on=row.next_on,
            amount=amount(row.next_minor, row.currency),
            certainty=row.next_certainty,
        )
    return Subscription(
        kind="subscription",
        status=status,
        **_mirrored(row),
        interval=Every(unit=unit, count=row.interval_count or 1) if unit else None,
        quantity=row.quantity,
        current_period_end=row.current_period_end,
        next_payment=following,
        cancels_at=row.cancels_at or row.cancel_scheduled_at,
        ended_at=row.ended_at or row.ended_here_at,
        access_until=row.access_until,
        due=amount(row.due_minor, row.currency),
        method=_method(row.method),
    )


def payment(row: models.Payment) -> Payment:
    status: Any = row.status
    return Payment(
        kind="payment",
        status=status,
        **_mirrored(row),
        paid_at=row.paid_at,
        refunded=amount(row.refunded_minor, row.currency),
        method=_method(row.method),
        order=row.order_remote,
        subscription=row.subscription_remote,
        failure=Failure(code=row.failure_code, reason=row.failure_reason) if row.failure_code else None,
        after_end=row.after_end_at is not None,
    )


def request(row: models.Request, email: str) -> Request:
    status: Any = row.status
    return Request(
        kind="request",
        reference=row.reference,
        wish=row.kind,
        status=status,
        account=id_text(row.account_id) if row.account_id is not None else None,
        customer=id_text(row.customer_id) if row.customer_id is not None else None,
        email=email,
        subject=id_text(row.subject_id),
        what=row.what,
        words=row.words,
        answer=row.answer,
        due_at=row.due_at,
        late=row.told_late_at is not None,
        created_at=row.created_at,
        closed_at=row.closed_at,
        history=[
            Told(
                at=datetime.fromisoformat(one["at"]),
                who=one["who"],
                what=one["what"],
                text=one.get("text"),
            )
            for one in row.history or ()
        ],
    )


def action(row: models.Action) -> Action:
    return Action(
        reference=row.reference,
        capability=row.capability,
        phase=row.phase,
        reason=row.params.get("reason") or None,
        comment=row.params.get("comment") or None,
        created_at=row.created_at,
        confirmed_at=row.confirmed_at,
    )


def emails(db: Session, portal_id: int, customer_ids: list[int]) -> dict[int, str]:
    """The addresses of some customers of a portal."""
    row = models.Customer
    found = db.execute(
        select(col(row.id), col(row.email)).where(
            beside(col(row.portal_id)) == portal_id, col(row.id).in_(customer_ids)
        )
    )
    return {one.id: one.email for one in found}


def _mirrored(row: models.Order | models.Subscription | models.Payment) -> dict[str, Any]:
    return {
        "id": id_text(row.id),
        "account": id_text(row.account_id),
        "customer": id_text(row.customer_id) if row.customer_id is not None else None,
        "remote_id": row.remote_id,
        "email": row.email,
        "raw_status": row.raw_status,
        "amount": amount(row.amount_minor, row.currency),
        "created_at": row.created_at,
        "as_of": row.as_of,
        "title": row.title,
    }


def _method(method: dict[str, Any] | None) -> Method | None:
    if method is None:
        return None
    return Method(
        kind=method["kind"],
        brand=method.get("brand"),
        last4=method.get("last4"),
        expires=method.get("expires"),
    )
