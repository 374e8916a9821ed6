"""The tables. Everything that belongs to a portal carries `portal_id`; what mirrors a processor carries `account_id`,
`remote_id` and the stamps by which the newest word wins, field by field."""

from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Date,
    DateTime,
    Dialect,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel

from portal.ids import new_id

# A constraint without a name cannot be dropped by a later migration.
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Moment(TypeDecorator[datetime]):
    """An aware moment in UTC; naive ones are refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment needs its time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite keeps a table in the order of an INTEGER key; a BIGINT key would be an index beside it.
_Id = BigInteger().with_variant(Integer(), "sqlite")


def _id() -> Any:
    return Field(default_factory=new_id, sa_type=_Id, primary_key=True)


def _moment(nullable: bool = True) -> Any:
    return Field(default=None, sa_type=Moment, nullable=nullable)


def _big(nullable: bool = True, default: int | None = None) -> Any:
    return Field(default=default, sa_type=BigInteger, nullable=nullable)


def _json(default: Any = None) -> Any:
    return Field(default=default, sa_type=JSON(none_as_null=True))


class Merchant(SQLModel, table=True):
    id: int = _id()
    name: str
    email: str


class Portal(SQLModel, table=True):
    """A merchant's site, found by its host: the wall between strangers."""

    id: int = _id()
    merchant_id: int = Field(foreign_key="merchant.id", sa_type=BigInteger)
    slug: str = Field(unique=True)
    name: str
    domain: str | None = Field(default=None, unique=True)  # proved; unproved claims are not kept here
    support_email: str
    shop_url: str | None = None
    sender_name: str | None = None
    locale: str = "en"
    time_zone: str = "UTC"
    country: str | None = None
    brand: dict[str, str] = _json()
    logo_id: int | None = _big()
    legal_name: str | None = None
    legal_address: str | None = None
    tax_id: str | None = None
    invoice_prefix: str = "INV-"
    terms_url: str | None = None
    privacy_url: str | None = None
    cancel_reasons: list[str] = _json()
    request_days: int = Field(
        default=3, sa_column_kwargs={"server_default": "3"}
    )  # within which the merchant answers what is asked of them
    request_email: str | None = None  # who is asked; None: the support address

    @property
    def can_invoice(self) -> bool:
        """Whether the merchant has entered what an invoice needs; until then our documents are receipts."""
        return bool(self.legal_name and self.legal_address and self.country)


class Asset(SQLModel, table=True):
    """A picture of ours, named by the hash of its bytes."""

    __table_args__ = (UniqueConstraint("portal_id", "id"),)
    id: int = _id()
    portal_id: int = Field(foreign_key="portal.id", sa_type=BigInteger)
    sha256: str
    content_type: str
    width: int
    height: int
    content: bytes = Field(sa_type=LargeBinary)


class Account(SQLModel, table=True):
    """One connected processor account of a portal."""

    __table_args__ = (UniqueConstraint("portal_id", "id"),)
    id: int = _id()
    portal_id: int = Field(foreign_key="portal.id", sa_type=BigInteger)
    processor: str
    label: str
    variant: str | None = None
    live: bool = False
    token: str = Field(unique=True)  # the unguessable end of its webhook address
    credentials: bytes = Field(sa_type=LargeBinary)  # sealed by the vault
    options: list[str] = _json()
    switched_off: list[str] = _json()
    # Until the other side has changed over, deliveries proved with the credentials of before are taken too.
    previous_credentials: bytes | None = Field(default=None, sa_type=LargeBinary)
    previous_until: datetime | None = _moment()
    # What customers may switch to: title, plan (the processor's id), minor, currency, unit, count, quantity.
    plans: list[dict[str, Any]] | None = _json()
    created_at: datetime = _moment(nullable=False)


class Customer(SQLModel, table=True):
    """A person of one portal: an e-mail address, over all processors and records."""

    __table_args__ = (UniqueConstraint("portal_id", "email"), UniqueConstraint("portal_id", "id"))
    id: int = _id()
    portal_id: int = Field(foreign_key="portal.id", sa_type=BigInteger)
    email: str  # lower case
    name: str | None = None
    created_at: datetime = _moment(nullable=False)


class _Mirrored(SQLModel):
    """What all rows that mirror a processor's object share."""

    id: int = _id()
    portal_id: int = _big(nullable=False)
    account_id: int = _big(nullable=False)
    customer_id: int | None = _big()
    remote_id: str
    remote_customer: str | None = None
    email: str | None = None
    raw_status: str | None = None
    created_at: datetime | None = _moment()
    placed_at: datetime = _moment(nullable=False)  # created_at, else when we first heard of it
    as_of: datetime = _moment(nullable=False)
    stamps: dict[str, int] = _json()


def _mirror(*more: Any, own_customer: bool = True) -> tuple[Any, ...]:
    constraints: list[Any] = [
        UniqueConstraint("account_id", "remote_id"),
        ForeignKeyConstraint(["portal_id", "account_id"], ["account.portal_id", "account.id"]),
    ]
    if own_customer:
        constraints.append(
            ForeignKeyConstraint(["portal_id", "customer_id"], ["customer.portal_id", "customer.id"])
        )
    return (*constraints, *more)


class RemoteCustomer(_Mirrored, table=True):
    """A processor's record of a customer; several may belong to one person."""

    __tablename__ = "remote_customer"
    __table_args__ = _mirror(Index("ix_remote_customer_customer", "portal_id", "customer_id"))
    name: str | None = None
    deleted: bool = False


class Order(_Mirrored, table=True):
    __tablename__ = "order_"
    __table_args__ = _mirror(
        Index("ix_order_list", "portal_id", "customer_id", "placed_at", "id"),
        Index("ix_order_remote_customer", "account_id", "remote_customer"),
    )
    status: str = "open"
    number: str | None = None
    title: str | None = None
    amount_minor: int | None = _big()
    currency: str | None = Field(default=None, sa_type=String(3))
    tax_minor: int | None = _big()
    discount_minor: int | None = _big()
    lines: list[dict[str, Any]] = _json()
    subscription_remote: str | None = None
    due_link: str | None = None  # the processor's page on which an open order can be paid


class Subscription(_Mirrored, table=True):
    __table_args__ = _mirror(
        Index(
            "ix_subscription_list",
            "portal_id",
            "customer_id",
            "placed_at",
            "id",
        ),
        Index("ix_subscription_remote_customer", "account_id", "remote_customer"),
        UniqueConstraint("portal_id", "id"),
    )
    status: str = "incomplete"
    title: str | None = None
    amount_minor: int | None = _big()
    currency: str | None = Field(default=None, sa_type=String(3))
    interval_unit: str | None = None
    interval_count: int | None = None
    quantity: int | None = None
    started_at: datetime | None = _moment()
    trial_ends_at: datetime | None = _moment()
    current_period_start: datetime | None = _moment()
    current_period_end: datetime | None = _moment()
    next_on: date | None = Field(default=None, sa_type=Date)
    next_minor: int | None = _big()
    next_certainty: str | None = None
    cancels_at: datetime | None = _moment()
    ended_at: datetime | None = _moment()
    resumes_at: datetime | None = _moment()
    method: dict[str, Any] | None = _json()
    due_minor: int | None = _big()
    due_link: str | None = None
    pending_change: dict[str, Any] | None = _json()
    object: str | None = None
    stopped: bool = False
    retries_on: date | None = Field(default=None, sa_type=Date)
    # Ours; no snapshot writes these.
    access_until: datetime | None = _moment()  # cancelled there, but paid until then
    cancel_scheduled_at: datetime | None = _moment()  # our job cancels then; free to undo before
    method_visited_at: datetime | None = _moment()  # on the processor's page, which tells nothing back
    ended_here_at: datetime | None = _moment()  # ended for the customer, while the processor has it run out
    promised_until: datetime | None = _moment()  # a cancel it has accepted and does not show


class Payment(_Mirrored, table=True):
    __table_args__ = _mirror(
        Index("ix_payment_list", "portal_id", "customer_id", "placed_at", "id"),
        Index("ix_payment_order", "account_id", "order_remote"),
        Index("ix_payment_subscription", "account_id", "subscription_remote"),
        Index("ix_payment_remote_customer", "account_id", "remote_customer"),
        UniqueConstraint("portal_id", "id"),
    )
    status: str = "pending"
    title: str | None = None
    amount_minor: int | None = _big()
    currency: str | None = Field(default=None, sa_type=String(3))
    refunded_minor: int | None = _big()
    paid_at: datetime | None = _moment()
    method: dict[str, Any] | None = _json()
    order_remote: str | None = None
    subscription_remote: str | None = None
    invoice_remote: str | None = None
    failure_code: str | None = None
    failure_reason: str | None = None
    object: str | None = None
    # Ours: it was taken after its subscription had ended, and both sides were told.
    after_end_at: datetime | None = _moment()


class Refund(_Mirrored, table=True):
    __table_args__ = _mirror(Index("ix_refund_payment", "account_id", "payment_remote"))
    status: str = "pending"
    payment_remote: str | None = None
    amount_minor: int | None = _big()
    currency: str | None = Field(default=None, sa_type=String(3))
    reason: str | None = None


class Invoice(_Mirrored, table=True):
    __table_args__ = _mirror(
        Index("ix_invoice_payment", "account_id", "payment_remote"),
        Index("ix_invoice_subscription", "account_id", "subscription_remote"),
        Index("ix_invoice_remote_customer", "account_id", "remote_customer"),
    )
    status: str = "open"
    number: str | None = None
    amount_minor: int | None = _big()
    currency: str | None = Field(default=None, sa_type=String(3))
    due_minor: int | None = _big()
    payment_remote: str | None = None
    subscription_remote: str | None = None
    order_remote: str | None = None
    document: bool = False
    page_url: str | None = None
    lines: list[dict[str, Any]] = _json()


class Action(SQLModel, table=True):
    """Something a customer does. Its id is the idempotency key; the row is committed before any call."""

    __table_args__ = (
        ForeignKeyConstraint(["portal_id", "customer_id"], ["customer.portal_id", "customer.id"]),
        ForeignKeyConstraint(["portal_id", "subscription_id"], ["subscription.portal_id", "subscription.id"]),
        Index(
            "ux_action_claim",
            "subscription_id",
            unique=True,
            sqlite_where=text("closed_at IS NULL"),
            postgresql_where=text("closed_at IS NULL"),
        ),
        Index("ix_action_subscription", "subscription_id", "created_at"),
        Index("ix_action_state", "state_hash", unique=True),
    )
    id: int = _id()
    portal_id: int = _big(nullable=False)
    account_id: int = _big(nullable=False)
    customer_id: int = _big(nullable=False)
    subscription_id: int = _big(nullable=False)
    capability: str  # a key of the fact tables
    how: str | None = None
    reference: str
    params: dict[str, Any] = _json()
    # claimed -> sent -> checking -> confirmed | failed; away (on the processor's page); scheduled; undone; told
    phase: str = "claimed"
    error: str | None = None  # a sentence for the customer
    state_hash: str | None = None  # of the one-time state in a return address
    leave_state: dict[str, Any] | None = _json()
    created_at: datetime = _moment(nullable=False)
    sent_at: datetime | None = _moment()
    lease_until: datetime | None = _moment()
    confirmed_at: datetime | None = _moment()
    closed_at: datetime | None = _moment()
    told_late_at: datetime | None = _moment()


class Request(SQLModel, table=True):
    """Something a customer asked the merchant to do, because no processor's call does it."""

    __table_args__ = (
        ForeignKeyConstraint(["portal_id", "customer_id"], ["customer.portal_id", "customer.id"]),
        ForeignKeyConstraint(["portal_id", "account_id"], ["account.portal_id", "account.id"]),
        UniqueConstraint("portal_id", "reference"),
        Index(
            "ux_request_open",
            "subject_id",
            "kind",
            unique=True,
            sqlite_where=text("closed_at IS NULL"),
            postgresql_where=text("closed_at IS NULL"),
        ),
        Index("ix_request_list", "portal_id", "customer_id", "created_at", "id"),
        Index("ix_request_queue", "portal_id", "status", "due_at"),
    )
    id: int = _id()
    portal_id: int = _big(nullable=False)
    account_id: int = _big(nullable=False)
    customer_id: int = _big(nullable=False)
    subject_id: int = _big(nullable=False)  # of the subscription or the payment that it is about
    kind: str  # a key of the fact tables, or "refund"
    reference: str
    what: str  # as the page names it: the subscription's or the payment's title
    words: str | None = None  # of the customer
    params: dict[str, Any] = _json()
    status: str = "open"  # open, done, declined, withdrawn
    answer: str | None = None  # the merchant's sentence
    history: list[dict[str, Any]] = _json()  # at, who, what, text
    due_at: datetime = _moment(nullable=False)
    created_at: datetime = _moment(nullable=False)
    closed_at: datetime | None = _moment()
    told_late_at: datetime | None = _moment()


class Event(SQLModel, table=True):
    """A webhook as it came. Ids are kept for ever, bodies for a while."""

    __table_args__ = (
        UniqueConstraint("account_id", "event_id"),
        ForeignKeyConstraint(["portal_id", "account_id"], ["account.portal_id", "account.id"]),
        Index("ix_event_received", "portal_id", "received_at"),
    )
    id: int = _id()
    portal_id: int = _big(nullable=False)
    account_id: int = _big(nullable=False)
    event_id: str
    type: str
    headers: list[list[str]] = _json()
    body: bytes | None = Field(default=None, sa_type=LargeBinary)
    received_at: datetime = _moment(nullable=False)
    handled_at: datetime | None = _moment()
    parked_at: datetime | None = _moment()
    error: str | None = None


class Job(SQLModel, table=True):
    """Everything that is to happen later. Written in the transaction that wants it, claimed in batches."""

    __table_args__ = (
        Index(
            "ix_job_due",
            "run_at",
            sqlite_where=text("done_at IS NULL AND parked_at IS NULL"),
            postgresql_where=text("done_at IS NULL AND parked_at IS NULL"),
        ),
    )
    id: int = _id()
    kind: str
    payload: dict[str, Any] = _json()
    run_at: datetime = _moment(nullable=False)
    created_at: datetime = _moment(nullable=False)
    attempts: int = 0
    locked_until: datetime | None = _moment()
    done_at: datetime | None = _moment()
    parked_at: datetime | None = _moment()
    error: str | None = None
    dedupe: str | None = Field(default=None, unique=True)


class LoginRequest(SQLModel, table=True):
    """Somebody typed an address. Whether it is anybody's is found out by the worker."""

    __tablename__ = "login_request"
    __table_args__ = (
        Index("ix_login_request_address", "portal_id", "email", "created_at"),
        Index("ix_login_request_network", "portal_id", "network", "created_at"),
        Index("ix_login_request_browser", "browser_hash", "created_at"),
    )
    id: int = _id()
    portal_id: int = Field(foreign_key="portal.id", sa_type=BigInteger)
    purpose: str = "customer"
    email: str
    browser_hash: str
    user_agent: str
    network: str
    next_path: str
    typed: bool = True  # in this browser; else it was taken from an old link, and is not shown whole
    created_at: datetime = _moment(nullable=False)
    expires_at: datetime = _moment(nullable=False)
    code_hash: str | None = None
    tries: int = 0
    code_used_at: datetime | None = _moment()
    mailed_at: datetime | None = _moment()


class LoginToken(SQLModel, table=True):
    """The link of a sign-in mail: only the SHA-256 of its 32 random bytes is kept."""

    __tablename__ = "login_token"
    token_hash: str = Field(primary_key=True)
    request_id: int = Field(foreign_key="login_request.id", sa_type=BigInteger, index=True)
    portal_id: int = _big(nullable=False)
    purpose: str = "customer"
    email: str
    expires_at: datetime = _moment(nullable=False)
    used_at: datetime | None = _moment()


class SignIn(SQLModel, table=True):
    """A session. Only the hash of its id is kept."""

    __tablename__ = "session"
    __table_args__ = (
        ForeignKeyConstraint(["portal_id", "customer_id"], ["customer.portal_id", "customer.id"]),
        Index("ix_session_customer", "portal_id", "customer_id"),
        UniqueConstraint("id"),
    )
    token_hash: str = Field(primary_key=True)
    id: int = Field(default_factory=new_id, sa_type=BigInteger)
    portal_id: int = _big(nullable=False)
    customer_id: int = _big(nullable=False)
    purpose: str = "customer"
    user_agent: str
    created_at: datetime = _moment(nullable=False)
    last_seen_at: datetime = _moment(nullable=False)
    expires_at: datetime = _moment(nullable=False)


class Device(SQLModel, table=True):
    """A browser in which a customer has signed in before."""

    __table_args__ = (
        ForeignKeyConstraint(["portal_id", "customer_id"], ["customer.portal_id", "customer.id"]),
        UniqueConstraint("customer_id", "browser_hash"),
    )
    id: int = _id()
    portal_id: int = _big(nullable=False)
    customer_id: int = _big(nullable=False)
    browser_hash: str
    created_at: datetime = _moment(nullable=False)


class Counter(SQLModel, table=True):
    """The next number of a gapless series of a portal."""

    portal_id: int = Field(foreign_key="portal.id", sa_type=BigInteger, primary_key=True)
    name: str = Field(primary_key=True)
    next: int = 1


class IssuedDocument(SQLModel, table=True):
    """A document of ours: its words are frozen with its number, its bytes are kept once made."""

    __tablename__ = "issued_document"
    __table_args__ = (
        UniqueConstraint("portal_id", "payment_id", "kind"),
        UniqueConstraint("portal_id", "kind", "sequence"),
        ForeignKeyConstraint(["portal_id", "payment_id"], ["payment.portal_id", "payment.id"]),
    )
    id: int = _id()
    portal_id: int = _big(nullable=False)
    customer_id: int = _big(nullable=False)
    payment_id: int = _big(nullable=False)
    kind: str  # invoice or receipt
    sequence: int
    number: str
    facts: dict[str, Any] = _json()
    issued_at: datetime = _moment(nullable=False)
    content: bytes | None = Field(default=None, sa_type=LargeBinary)
    sha256: str | None = None


class Setting(SQLModel, table=True):
    """Small facts of the installation, such as when the worker last drew breath."""

    name: str = Field(primary_key=True)
    value: str
    at: datetime = _moment(nullable=False)


MIRRORED: tuple[type[_Mirrored], ...] = (
    RemoteCustomer,
    Order,
    Subscription,
    Payment,
    Refund,
    Invoice,
)
metadata = SQLModel.metadata
