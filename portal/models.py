"""The tables. Everything that belongs to a portal carries `portal_id`; what mirrors a processor carries `account_id`,
`remote_id` and the stamps by which the newest word wins, field by field."""

from collections.abc import Callable
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
    true,
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

    def bind_processor(self, dialect: Dialect) -> Callable[[datetime | None], Any] | None:
        """In SQLite a moment is text, written here at once: of a row that is read in there are up to a dozen."""
        if dialect.name != "sqlite":
            return super().bind_processor(dialect)

        def process(value: datetime | None) -> str | None:
            moment = self.process_bind_param(value, dialect)
            return None if moment is None else moment.isoformat(" ", "microseconds")

        return process

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


def _only(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index over those rows alone for which `where` holds."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


class Merchant(SQLModel, table=True):
    """A business with one or more portals; strictly apart from all others."""

    id: int = _id()
    name: str
    email: str


class Portal(SQLModel, table=True):
    """A merchant's site, found by its host: the wall between strangers."""

    __table_args__ = (Index("ix_portal_merchant", "merchant_id"),)
    id: int = _id()
    merchant_id: int = Field(foreign_key="merchant.id", sa_type=BigInteger)
    slug: str = Field(unique=True)
    name: str
    domain: str | None = Field(default=None, unique=True)  # proved; unproved claims are not kept here
    domain_until: datetime | None = _moment()  # its proof is missing: no more links, and then not served
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
    enabled: bool = Field(default=True, sa_column_kwargs={"server_default": true()})  # the off switch
    brand_colour: str | None = None  # as the merchant gave it; `brand` is derived from it
    logo_dark_id: int | None = _big()
    # "period_end", "now" or "both"; days of notice; per reason one offer that stands beside the cancel button
    cancel_policy: dict[str, Any] | None = _json()
    save_offers: dict[str, Any] | None = _json()
    privacy: dict[str, Any] | None = _json()  # retention and what is shown
    return_urls: list[str] | None = _json()  # where the merchant's own app may have customers sent back to
    answer_templates: list[dict[str, str]] | None = _json()  # for requests: title, text
    version: int = Field(
        default=1, sa_column_kwargs={"server_default": "1"}
    )  # of two who save at once, one is late

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
    width: int  # as shown, in CSS pixels
    height: int
    content: bytes = Field(sa_type=LargeBinary)
    # The same at twice the size, for dense screens.
    twice_sha256: str | None = None
    twice: bytes | None = Field(default=None, sa_type=LargeBinary)


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
    # What `check` said last: ok, live, account, missing, hint; and when.
    health: dict[str, Any] | None = _json()
    checked_at: datetime | None = _moment()
    webhook_remote: str | None = None  # the processor's id of the webhook that we registered there
    disconnected_at: datetime | None = _moment()  # history stays; nothing is called any more
    version: int = Field(default=1, sa_column_kwargs={"server_default": "1"})


class DomainClaim(SQLModel, table=True):
    """A name that a merchant says is theirs. It reserves nothing until its TXT record is seen; then it stands in
    `portal.domain`, and is looked at again daily."""

    __tablename__ = "domain_claim"
    __table_args__ = (
        UniqueConstraint("portal_id"),  # one name a portal; a new claim takes the place of the old one
        Index("ix_domain_claim_name", "name"),
        Index("ix_domain_claim_next", "next_check_at"),
    )
    id: int = _id()
    portal_id: int = Field(foreign_key="portal.id", sa_type=BigInteger)
    name: str  # lower case, IDNA A-labels
    token: str  # stands in the TXT record
    state: str = "pending"  # pending, proved (serving), lost (proof gone: no more links are mailed), released
    created_at: datetime = _moment(nullable=False)
    checked_at: datetime | None = _moment()
    next_check_at: datetime | None = _moment()
    proved_at: datetime | None = _moment()
    lost_at: datetime | None = _moment()  # since when the proof is missing; after 72 h the name is let go
    silent_since: datetime | None = _moment()  # since when no name server has answered
    problems: list[dict[str, str]] | None = _json()  # what the last look found: record, code, seen


# The merchant's side


class User(SQLModel, table=True):
    """A person on the merchant's side, by their address; may belong to several merchants."""

    __tablename__ = "merchant_user"
    id: int = _id()
    email: str = Field(unique=True)  # lower case
    name: str | None = None
    created_at: datetime = _moment(nullable=False)
    totp: bytes | None = Field(default=None, sa_type=LargeBinary)  # sealed; counts once confirmed
    totp_confirmed_at: datetime | None = _moment()
    totp_step: int | None = _big()  # the last step that was used: a code works once
    recovery_hashes: list[str] | None = _json()


class Member(SQLModel, table=True):
    """A user's part in a merchant: owner, editor or viewer."""

    __tablename__ = "merchant_member"
    __table_args__ = (
        UniqueConstraint("merchant_id", "user_id"),
        Index("ix_merchant_member_user", "user_id"),
    )
    id: int = _id()
    merchant_id: int = Field(foreign_key="merchant.id", sa_type=BigInteger)
    user_id: int = Field(foreign_key="merchant_user.id", sa_type=BigInteger)
    role: str  # owner, editor, viewer
    created_at: datetime = _moment(nullable=False)


class Invitation(SQLModel, table=True):
    """A one-time link into the merchant's side: to set up the installation, or to join a merchant."""

    __tablename__ = "merchant_invitation"
    __table_args__ = (Index("ix_merchant_invitation_merchant", "merchant_id"),)
    id: int = _id()
    token_hash: str = Field(unique=True)
    merchant_id: int | None = _big()  # None: whoever takes it begins a merchant of their own
    email: str | None = None  # None: whoever holds the link
    role: str = "owner"
    invited_by: int | None = _big()
    created_at: datetime = _moment(nullable=False)
    expires_at: datetime = _moment(nullable=False)
    used_at: datetime | None = _moment()


class MerchantSession(SQLModel, table=True):
    """A session on the merchant's side; only the hash of its id is kept. A purpose of its own: no customer's session
    opens anything there, and the other way round."""

    __tablename__ = "merchant_session"
    __table_args__ = (Index("ix_merchant_session_user", "user_id"), UniqueConstraint("id"))
    token_hash: str = Field(primary_key=True)
    id: int = Field(default_factory=new_id, sa_type=BigInteger)
    user_id: int = Field(foreign_key="merchant_user.id", sa_type=BigInteger)
    merchant_id: int = Field(foreign_key="merchant.id", sa_type=BigInteger)
    user_agent: str
    network: str
    second_factor: str = "none"  # none (no such thing is set up), wanted, given
    created_at: datetime = _moment(nullable=False)
    proved_at: datetime = _moment(
        nullable=False
    )  # when they last proved who they are; keys and domains ask for it
    last_seen_at: datetime = _moment(nullable=False)
    expires_at: datetime = _moment(nullable=False)


class Passkey(SQLModel, table=True):
    """A WebAuthn credential of a user."""

    __tablename__ = "passkey"
    __table_args__ = (Index("ix_passkey_user", "user_id"),)
    id: int = _id()
    user_id: int = Field(foreign_key="merchant_user.id", sa_type=BigInteger)
    credential_id: bytes = Field(sa_type=LargeBinary, unique=True)
    public_key: bytes = Field(sa_type=LargeBinary)
    sign_count: int = _big(nullable=False, default=0)
    transports: list[str] | None = _json()
    name: str
    created_at: datetime = _moment(nullable=False)
    last_used_at: datetime | None = _moment()


class Audit(SQLModel, table=True):
    """A change on the merchant's side: who, what, before and after, when, from where. Nothing secret stands in it."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_list", "merchant_id", "id"),)
    id: int = _id()
    merchant_id: int = Field(foreign_key="merchant.id", sa_type=BigInteger)
    portal_id: int | None = _big()
    user_id: int | None = _big()
    who: str  # their address then; "command line", "worker"
    what: str  # such as portal.changed, account.connected, viewed_as_customer
    subject: str | None = None  # what it was done to, in words
    before: dict[str, Any] | None = _json()
    after: dict[str, Any] | None = _json()
    network: str | None = None
    browser: str | None = None
    at: datetime = _moment(nullable=False)


class MailText(SQLModel, table=True):
    """The merchant's own words for one of the mails, and whether it goes out at all."""

    __tablename__ = "mail_text"
    __table_args__ = (UniqueConstraint("portal_id", "template"),)
    id: int = _id()
    portal_id: int = Field(foreign_key="portal.id", sa_type=BigInteger)
    template: str
    enabled: bool = True
    subject: str | None = None  # None: ours
    body: str | None = None
    version: int = 1
    changed_at: datetime = _moment(nullable=False)


class ApiKey(SQLModel, table=True):
    """A bearer key of the merchant's own app; only its hash is kept."""

    __tablename__ = "api_key"
    __table_args__ = (Index("ix_api_key_portal", "portal_id"),)
    id: int = _id()
    portal_id: int = Field(foreign_key="portal.id", sa_type=BigInteger)
    name: str
    prefix: str  # what is shown of it
    key_hash: str = Field(unique=True)
    scopes: list[str] = _json()
    created_at: datetime = _moment(nullable=False)
    created_by: int | None = _big()
    last_used_at: datetime | None = _moment()
    revoked_at: datetime | None = _moment()


class ApiUse(SQLModel, table=True):
    """How often a key was used in a minute: the rate limit, over all processes."""

    __tablename__ = "api_use"
    key_id: int = Field(foreign_key="api_key.id", sa_type=BigInteger, primary_key=True)
    minute: int = Field(sa_type=BigInteger, primary_key=True)
    count: int = 0


class Entry(SQLModel, table=True):
    """A single-use way into a customer's pages, by the merchant's app or for `view as customer`."""

    __tablename__ = "entry"
    __table_args__ = (
        ForeignKeyConstraint(["portal_id", "customer_id"], ["customer.portal_id", "customer.id"]),
        Index("ix_entry_expires", "expires_at"),
        Index("ix_entry_customer", "portal_id", "customer_id"),
    )
    token_hash: str = Field(primary_key=True)
    portal_id: int = _big(nullable=False)
    customer_id: int = _big(nullable=False)
    purpose: str  # app, view
    flow: str | None = None  # update_payment_method, cancel, invoices
    subscription_id: int | None = _big()
    return_url: str | None = None
    created_by: int | None = _big()  # of the API key, or of the user who looks
    created_at: datetime = _moment(nullable=False)
    expires_at: datetime = _moment(nullable=False)
    used_at: datetime | None = _moment()


class Endpoint(SQLModel, table=True):
    """Where the merchant's app takes the portal's own events (Standard Webhooks)."""

    __tablename__ = "endpoint"
    __table_args__ = (
        Index("ix_endpoint_portal", "portal_id"),
        UniqueConstraint("portal_id", "id"),
    )
    id: int = _id()
    portal_id: int = Field(foreign_key="portal.id", sa_type=BigInteger)
    url: str
    secret: bytes = Field(sa_type=LargeBinary)  # sealed by the vault
    previous_secret: bytes | None = Field(default=None, sa_type=LargeBinary)
    previous_until: datetime | None = _moment()
    events: list[str] = _json()  # kinds; empty: all
    created_at: datetime = _moment(nullable=False)
    failing_since: datetime | None = _moment()  # nothing has arrived since then
    disabled_at: datetime | None = _moment()
    problem: str | None = None


class OwnEvent(SQLModel, table=True):
    """Something of its own that the portal tells the merchant's app: kept for 30 days, to be fetched or delivered."""

    __tablename__ = "own_event"
    __table_args__ = (
        ForeignKeyConstraint(["portal_id", "customer_id"], ["customer.portal_id", "customer.id"]),
        UniqueConstraint("portal_id", "id"),
        Index("ix_own_event_customer", "portal_id", "customer_id"),
        Index("ix_own_event_at", "at"),
    )
    id: int = _id()
    portal_id: int = Field(foreign_key="portal.id", sa_type=BigInteger)
    customer_id: int | None = _big()
    type: str
    data: dict[str, Any] = _json()
    at: datetime = _moment(nullable=False)


class Delivery(SQLModel, table=True):
    """One of the portal's own events on its way to an endpoint."""

    __tablename__ = "delivery"
    __table_args__ = (
        ForeignKeyConstraint(["portal_id", "endpoint_id"], ["endpoint.portal_id", "endpoint.id"]),
        ForeignKeyConstraint(["portal_id", "event_id"], ["own_event.portal_id", "own_event.id"]),
        Index("ix_delivery_list", "portal_id", "endpoint_id", "id"),
        Index("ix_delivery_event", "portal_id", "event_id"),
    )
    id: int = _id()
    portal_id: int = _big(nullable=False)
    endpoint_id: int = _big(nullable=False)
    event_id: int = _big(nullable=False)
    created_at: datetime = _moment(nullable=False)
    attempts: int = 0
    last_at: datetime | None = _moment()
    last_status: int | None = None
    last_error: str | None = None
    delivered_at: datetime | None = _moment()
    failed_at: datetime | None = _moment()  # not tried any more


class Tally(SQLModel, table=True):
    """How often something happened on a day, where the rows themselves do not stay: sign-ins, mails sent or refused."""

    __tablename__ = "tally"
    portal_id: int = Field(foreign_key="portal.id", sa_type=BigInteger, primary_key=True)
    name: str = Field(primary_key=True)
    day: date = Field(sa_type=Date, primary_key=True)
    count: int = 0


class Totals(SQLModel, table=True):
    """What a portal's overview has last added up over many subscriptions; made anew when it is some minutes old."""

    __tablename__ = "totals"
    portal_id: int = Field(foreign_key="portal.id", sa_type=BigInteger, primary_key=True)
    day: date = Field(sa_type=Date)  # the portal's, on which the coming days begin
    counted_at: datetime = _moment(nullable=False)
    body: dict[str, Any] = _json()


class Assignment(SQLModel, table=True):
    """What the merchant said of a record without an e-mail: whose it is, or that it is to be left alone."""

    __tablename__ = "assignment"
    __table_args__ = (
        UniqueConstraint("account_id", "kind", "remote_id"),
        ForeignKeyConstraint(["portal_id", "account_id"], ["account.portal_id", "account.id"]),
        Index("ix_assignment_list", "portal_id", "id"),
        Index("ix_assignment_customer", "portal_id", "customer_id"),
    )
    id: int = _id()
    portal_id: int = _big(nullable=False)
    account_id: int = _big(nullable=False)
    kind: str  # customer, order, subscription, payment, invoice
    remote_id: str
    customer_id: int | None = _big()  # None: ignored
    by: int | None = _big()
    at: datetime = _moment(nullable=False)


class Join(SQLModel, table=True):
    """A further address of one person, proved by a mail to it; undone by setting `undone_at`."""

    __tablename__ = "address_join"
    __table_args__ = (
        ForeignKeyConstraint(["portal_id", "from_id"], ["customer.portal_id", "customer.id"]),
        ForeignKeyConstraint(["portal_id", "into_id"], ["customer.portal_id", "customer.id"]),
        Index("ix_address_join_from", "portal_id", "from_id"),
        Index("ix_address_join_into", "portal_id", "into_id"),
        # An address belongs to one other at most.
        _only("ux_address_join", "from_id", where="proved_at IS NOT NULL AND undone_at IS NULL", unique=True),
    )
    id: int = _id()
    portal_id: int = _big(nullable=False)
    from_id: int = _big(nullable=False)
    into_id: int = _big(nullable=False)
    token_hash: str | None = Field(default=None, unique=True)
    asked_by: int | None = _big()
    created_at: datetime = _moment(nullable=False)
    expires_at: datetime = _moment(nullable=False)
    proved_at: datetime | None = _moment()
    undone_at: datetime | None = _moment()
    undone_by: int | None = _big()


class Customer(SQLModel, table=True):
    """A person of one portal: an e-mail address, over all processors and records."""

    __table_args__ = (
        UniqueConstraint("portal_id", "email"),
        UniqueConstraint("portal_id", "id"),
        _only("ix_customer_unkeyed", "id", where="keyed IS NULL"),
    )
    id: int = _id()
    portal_id: int = Field(foreign_key="portal.id", sa_type=BigInteger)
    email: str  # lower case
    name: str | None = None
    created_at: datetime = _moment(nullable=False)
    seen_at: datetime | None = _moment()  # the last sign-in
    keyed: bool | None = None  # whether their keys are written; None: the worker does it


class CustomerKey(SQLModel, table=True):
    """What a customer is found by: their address, and their name from each of its words on. Bytes, because the order
    of texts is another one in each database and language."""

    __tablename__ = "customer_key"
    __table_args__ = (
        ForeignKeyConstraint(["portal_id", "customer_id"], ["customer.portal_id", "customer.id"]),
        Index("ix_customer_key_of", "customer_id", "portal_id", "key"),
    )
    portal_id: int = Field(sa_type=BigInteger, primary_key=True)
    key: bytes = Field(sa_type=LargeBinary, primary_key=True)
    customer_id: int = Field(sa_type=BigInteger, primary_key=True)


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
    said_id: int | None = _big()  # of the assignment: the merchant said whose it is, or to leave it alone
    missing_at: datetime | None = _moment()  # the processor does not know it any more; it stays here
    doubted_at: datetime | None = (
        _moment()
    )  # a list or a notice contradicts what had ended: to be asked about


# What may still change, or was contradicted: it is asked about again. An index over it, and the very same words in
# the reads that use the index.
IN_DOUBT = {
    "order_": "status = 'open' OR doubted_at IS NOT NULL",
    "payment": "status IN ('pending', 'authorized') OR doubted_at IS NOT NULL",
    "refund": "status = 'pending' OR doubted_at IS NOT NULL",
    "subscription": "status NOT IN ('cancelled', 'expired') OR doubted_at IS NOT NULL",
}


def _in_doubt(table: str) -> Index:
    return _only(f"ix_{table.rstrip('_')}_in_doubt", "account_id", "id", where=IN_DOUBT[table])


def _nobodys(table: str, more: str = "") -> Index:
    """Records of nobody, of which the merchant has not said anything yet."""
    # In one: for `customer_id IS NULL` alone a planner would take the index of customers' lists, ignored ones and all.
    where = f"coalesce(customer_id, said_id) IS NULL{more}"
    return _only(f"ix_{table}_nobodys", "portal_id", "placed_at", "id", where=where)


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
    __table_args__ = _mirror(
        Index("ix_remote_customer_customer", "portal_id", "customer_id"), _nobodys("remote_customer")
    )
    name: str | None = None
    deleted: bool = False


class Order(_Mirrored, table=True):
    __tablename__ = "order_"
    __table_args__ = _mirror(
        Index("ix_order_list", "portal_id", "customer_id", "placed_at", "id"),
        Index("ix_order_remote_customer", "account_id", "remote_customer"),
        Index("ix_order_number", "portal_id", "number", "placed_at", "id"),
        Index("ix_order_amount", "portal_id", "currency", "amount_minor", "placed_at", "id"),
        _nobodys("order"),
        _in_doubt("order_"),
        Index("ix_order_portal", "portal_id", "id"),
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
        Index("ix_subscription_amount", "portal_id", "currency", "amount_minor", "placed_at", "id"),
        Index("ix_subscription_figures", "portal_id", "status", "cancel_scheduled_at", "next_on"),
        _only("ix_subscription_past_due", "portal_id", "id", where="status = 'past_due'"),
        _only("ix_subscription_kept", "account_id", "access_until", where="access_until IS NOT NULL"),
        _nobodys("subscription"),
        _in_doubt("subscription"),
        _only("ix_subscription_doubted", "account_id", "id", where="doubted_at IS NOT NULL"),
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
        Index("ix_payment_amount", "portal_id", "currency", "amount_minor", "placed_at", "id"),
        _nobodys("payment"),
        _in_doubt("payment"),
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
    __table_args__ = _mirror(
        Index("ix_refund_payment", "account_id", "payment_remote"),
        Index("ix_refund_customer", "portal_id", "customer_id"),
        _in_doubt("refund"),
    )
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
        Index("ix_invoice_customer", "portal_id", "customer_id", "id"),
        Index("ix_invoice_number", "portal_id", "number"),
        _nobodys("invoice", " AND payment_remote IS NULL"),  # else it is shown with its payment
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
        Index("ix_action_customer", "portal_id", "customer_id", "id"),
        Index("ix_action_figures", "portal_id", "capability", "created_at"),
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
        _only("ix_request_open", "portal_id", "subject_id", where="closed_at IS NULL"),
        Index("ix_request_list", "portal_id", "customer_id", "created_at", "id"),
        Index("ix_request_of_customer", "portal_id", "customer_id", "id"),
        Index("ix_request_due", "portal_id", "status", "due_at", "id"),
        _only("ix_request_answered", "portal_id", "closed_at", "id", where="closed_at IS NOT NULL"),
        Index("ix_request_portal", "portal_id", "id"),
    )
    id: int = _id()
    portal_id: int = _big(nullable=False)
    account_id: int | None = _big()
    customer_id: int | None = _big()  # None: somebody who looks for an order and is not signed in
    contact: str | None = None  # their address, which nobody has proved
    # Of the subscription or the payment that it is about; where none was found, of the ask.
    subject_id: int = _big(nullable=False)
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
        Index("ix_event_list", "portal_id", "id"),
        Index("ix_event_of_account", "account_id", "received_at", "id"),
        Index(
            "ix_event_parked",
            "portal_id",
            "id",
            sqlite_where=text("parked_at IS NOT NULL"),
            postgresql_where=text("parked_at IS NOT NULL"),
        ),
        _only("ix_event_waiting", "portal_id", "id", where="handled_at IS NULL AND parked_at IS NULL"),
        _only("ix_event_body", "portal_id", "received_at", where="body IS NOT NULL"),
        _only("ix_event_refused", "portal_id", "id", where="handled_at IS NOT NULL AND error IS NOT NULL"),
    )
    id: int = _id()
    portal_id: int = _big(nullable=False)
    account_id: int = _big(nullable=False)
    event_id: str
    type: str
    headers: list[list[str]] = _json()
    body: bytes | None = Field(default=None, sa_type=LargeBinary)
    received_at: datetime = _moment(nullable=False)
    asked_at: datetime | None = _moment()  # it was never delivered: the processor had kept it
    handled_at: datetime | None = _moment()
    parked_at: datetime | None = _moment()
    error: str | None = None
    changed: list[dict[str, Any]] | None = _json()  # the rows it touched: table, id, status before and after


class SyncState(SQLModel, table=True):
    """How an account is kept true: where the looks for what has changed are, and what they found."""

    __tablename__ = "sync_state"
    __table_args__ = (
        ForeignKeyConstraint(["portal_id", "account_id"], ["account.portal_id", "account.id"]),
        Index("ix_sync_state_next", "next_at"),
        Index("ix_sync_state_night", "night_at"),
        Index("ix_sync_state_portal", "portal_id"),
    )
    account_id: int = Field(sa_type=_Id, primary_key=True)
    portal_id: int = _big(nullable=False)
    since: datetime = _moment(nullable=False)  # what has changed before is seen
    walk: dict[str, Any] | None = _json()  # of the look that is under way: where it goes on
    known: list[Any] | None = _json()  # the row that was asked about last: table, id
    next_at: datetime = _moment(nullable=False)
    looked_at: datetime | None = _moment()  # the last whole look
    failures: int = 0  # in a row
    error: str | None = None
    missed: int = _big(nullable=False, default=0)  # events that were never delivered, ever
    missed_at: datetime | None = _moment()
    night_at: datetime = _moment(nullable=False)  # when the next round over everything begins
    night_until: datetime | None = _moment()  # by when the one that is under way should be through
    night: list[Any] | None = _json()  # where it is: table, id
    night_left: int = 0  # rows that it still has to ask about
    night_done_at: datetime | None = _moment()
    missing: int = _big(nullable=False, default=0)  # rows that the last whole round found gone
    differences: int | None = None  # of the last comparison
    compared_at: datetime | None = _moment()
    troubles: dict[str, str] | None = _json()  # what the merchant was told of, since when; until it is over


class ImportRun(SQLModel, table=True):
    """One reading-in of everything that a processor lists, and where it goes on. Written with each page."""

    __tablename__ = "import_run"
    __table_args__ = (
        ForeignKeyConstraint(["portal_id", "account_id"], ["account.portal_id", "account.id"]),
        Index("ix_import_run_account", "account_id", "id"),
        _only("ux_import_run_open", "account_id", where="finished_at IS NULL", unique=True),
    )
    id: int = _id()
    portal_id: int = _big(nullable=False)
    account_id: int = _big(nullable=False)
    state: str = "waiting"  # waiting, running, stopped, done, failed; the last two are finished
    cursor: str | None = None  # of the next page, in the adapter's own words
    pages: int = 0
    objects: int = _big(nullable=False, default=0)
    skipped: int = 0  # objects that could not be read or written
    reasons: list[dict[str, str]] = _json()  # of the first of these: what, id, why
    total: int | None = _big()  # as far as it is known; processors err
    seconds: float = 0.0  # spent on pages
    failures: int = 0  # in a row, without a page
    trail: dict[str, Any] = _json()  # by which a list that leads in a circle is known
    stop_wanted: bool = False
    asked_by: str | None = None  # an address, or "command line"; None: it was wanted by connecting
    error: str | None = None  # a sentence
    retry_at: datetime | None = _moment()  # the processor asked to wait, or did not answer
    holder: str | None = None  # who reads now, until `lease_until`
    lease_until: datetime | None = _moment()
    created_at: datetime = _moment(nullable=False)
    started_at: datetime | None = _moment()
    updated_at: datetime = _moment(nullable=False)
    finished_at: datetime | None = _moment()


class Sheet(SQLModel, table=True):
    """A file of the merchant's own rows, and its run. Its rows lie in parts, of which each is one slice of the work."""

    __table_args__ = (
        ForeignKeyConstraint(["portal_id", "account_id"], ["account.portal_id", "account.id"]),
        UniqueConstraint("portal_id", "id"),
        Index("ix_sheet_kept", "created_at"),
    )
    id: int = _id()
    portal_id: int = Field(foreign_key="portal.id", sa_type=BigInteger)
    account_id: int | None = _big()  # None: each row names its own
    name: str
    size: int = _big(nullable=False, default=0)
    kind: str  # csv, xlsx, own (a list in the form of the account's processor)
    encoding: str | None = None
    guessed: bool = False  # the encoding
    header: list[str] = _json()
    mapping: list[str] = _json()  # what each column is; empty: nothing of ours
    rules: dict[str, str] = _json()  # decimal, dates, currency, as_of (a day)
    first: list[list[Any]] = _json()  # rows to show: line, cells
    # taken (its bytes arrive), new, checking, checked, importing, done, failed
    state: str = "taken"
    run: int = 0
    parts: int = 0
    position: int = 0  # the next part
    rows: int = _big(nullable=False, default=0)
    created: int = _big(nullable=False, default=0)
    changed: int = _big(nullable=False, default=0)
    unchanged: int = _big(nullable=False, default=0)
    refused: int = _big(nullable=False, default=0)
    asked: int = 0  # about how many new subscriptions the processor is asked
    error: str | None = None  # a sentence
    as_of: datetime | None = _moment()  # what older words of the processor it stands above
    asked_by: str
    created_at: datetime = _moment(nullable=False)
    started_at: datetime | None = _moment()
    finished_at: datetime | None = _moment()
    emptied_at: datetime | None = _moment()  # its rows are not kept any more
    sha256: str | None = None  # of all its parts, where they are one object of the store


class SheetPart(SQLModel, table=True):
    """Some rows of a sheet, packed; they stand here, or at a place in the sheet's object."""

    __tablename__ = "sheet_part"
    __table_args__ = (ForeignKeyConstraint(["portal_id", "sheet_id"], ["sheet.portal_id", "sheet.id"]),)
    sheet_id: int = Field(sa_type=BigInteger, primary_key=True)
    number: int = Field(primary_key=True)
    portal_id: int = _big(nullable=False)
    content: bytes | None = Field(default=None, sa_type=LargeBinary)
    at: int | None = _big()
    size: int | None = None
    sha256: str | None = None


class SheetProblem(SQLModel, table=True):
    """What is wrong with a row of a sheet."""

    __tablename__ = "sheet_problem"
    __table_args__ = (
        ForeignKeyConstraint(["portal_id", "sheet_id"], ["sheet.portal_id", "sheet.id"]),
        Index("ix_sheet_problem_list", "portal_id", "sheet_id", "id"),
    )
    id: int = _id()
    portal_id: int = _big(nullable=False)
    sheet_id: int = _big(nullable=False)
    line: int
    column: str  # as the file calls it
    sentence: str


class Job(SQLModel, table=True):
    """Everything that is to happen later. Written in the transaction that wants it, claimed in batches."""

    __table_args__ = (
        Index(
            "ix_job_due",
            "run_at",
            sqlite_where=text("done_at IS NULL AND parked_at IS NULL"),
            postgresql_where=text("done_at IS NULL AND parked_at IS NULL"),
        ),
        _only("ix_job_trouble", "portal_id", "id", where="portal_id IS NOT NULL AND done_at IS NULL"),
        _only("ix_job_parked", "parked_at", where="parked_at IS NOT NULL"),
        _only("ix_job_about", "about", where="about IS NOT NULL AND done_at IS NULL AND parked_at IS NULL"),
    )
    id: int = _id()
    portal_id: int | None = _big()  # known once it failed: whose trouble it is
    kind: str
    payload: dict[str, Any] = _json()
    run_at: datetime = _moment(nullable=False)
    created_at: datetime = _moment(nullable=False)
    attempts: int = 0
    locked_until: datetime | None = _moment()
    locked_by: int | None = _big()  # the claim that holds it: who comes late with another one changes nothing
    deaths: int | None = _big()  # how many times in a row its worker died over it
    account_id: int | None = _big()  # whose processor it asks, so that one that hangs holds up only its own
    within: int | None = _big()  # the portal of which alone it may see and write rows; None: see `work`
    done_at: datetime | None = _moment()
    parked_at: datetime | None = _moment()
    error: str | None = None
    dedupe: str | None = Field(default=None, unique=True)
    about: str | None = None  # of what one look at the processor answers all of them that wait


class LoginRequest(SQLModel, table=True):
    """Somebody typed an address. Whether it is anybody's is found out by the worker."""

    __tablename__ = "login_request"
    __table_args__ = (
        Index("ix_login_request_address", "portal_id", "email", "created_at"),
        Index("ix_login_request_network", "portal_id", "network", "created_at"),
        Index("ix_login_request_browser", "browser_hash", "created_at"),
        _only("ix_login_request_looked", "portal_id", "looked_at", where="looked_at IS NOT NULL"),
        _only("ix_login_request_customer", "customer_id", "created_at", where="customer_id IS NOT NULL"),
    )
    id: int = _id()
    portal_id: int | None = Field(
        default=None, foreign_key="portal.id", sa_type=BigInteger
    )  # None: merchant's side
    purpose: str = (
        "customer"  # or merchant, address (a further one of `customer_id`), rescue (of a lost order)
    )
    email: str
    customer_id: int | None = _big()  # who asked, where they were signed in
    looked_at: datetime | None = _moment()  # the processors were to be asked whether they know the address
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


class OrderAsk(SQLModel, table=True):
    """Somebody looks for an order of which no mail reaches them. Whether it is there is found out by the worker."""

    __tablename__ = "order_ask"
    __table_args__ = (
        Index("ix_order_ask_network", "portal_id", "network", "created_at"),
        Index("ix_order_ask_browser", "portal_id", "browser_hash", "created_at"),
        Index("ix_order_ask_reference", "portal_id", "reference", "created_at"),
        Index("ix_order_ask_portal", "portal_id", "created_at"),
        _only(
            "ix_order_ask_subject", "portal_id", "subject_id", "created_at", where="subject_id IS NOT NULL"
        ),
    )
    id: int = _id()
    portal_id: int = Field(foreign_key="portal.id", sa_type=BigInteger)
    reference: str  # as typed, in one form
    last4: str
    amount: str  # as typed: "1,234" is one thing in Boston and another in Berlin
    currency: str = Field(sa_type=String(3))
    placed_on: date | None = Field(default=None, sa_type=Date)
    contact: str | None = None  # where the shop may answer; None: the shop is not asked
    browser_hash: str
    user_agent: str
    network: str
    created_at: datetime = _moment(nullable=False)
    looked_at: datetime | None = _moment()  # by the worker
    subject_id: int | None = _big()  # of the payment that was found and mailed about, or the shop asked about


class LoginToken(SQLModel, table=True):
    """The link of a sign-in mail: only the SHA-256 of its 32 random bytes is kept."""

    __tablename__ = "login_token"
    token_hash: str = Field(primary_key=True)
    request_id: int = Field(foreign_key="login_request.id", sa_type=BigInteger, index=True)
    portal_id: int | None = _big()
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
    purpose: str = "customer"  # or view: a person of the merchant looks, and can do nothing
    viewer_id: int | None = _big()  # who looks
    joined_id: int | None = _big()  # the further address by which they came in
    return_url: str | None = None  # of the merchant's app, where it sent the customer
    user_agent: str
    created_at: datetime = _moment(nullable=False)
    last_seen_at: datetime = _moment(nullable=False)
    expires_at: datetime = _moment(nullable=False)


class Device(SQLModel, table=True):
    """A browser in which a customer has signed in before."""

    __table_args__ = (
        ForeignKeyConstraint(["portal_id", "customer_id"], ["customer.portal_id", "customer.id"]),
        UniqueConstraint("customer_id", "browser_hash"),
        Index("ix_device_seen", "portal_id", "seen_at"),
        Index("ix_device_customer", "portal_id", "customer_id"),
    )
    id: int = _id()
    portal_id: int = _big(nullable=False)
    customer_id: int = _big(nullable=False)
    browser_hash: str
    created_at: datetime = _moment(nullable=False)
    seen_at: datetime | None = _moment()  # the last sign-in there


class Counter(SQLModel, table=True):
    """The next number of a gapless series of a portal."""

    portal_id: int = Field(foreign_key="portal.id", sa_type=BigInteger, primary_key=True)
    name: str = Field(primary_key=True)
    next: int = 1


class IssuedDocument(SQLModel, table=True):
    """A document of ours: its words are frozen with its number, its bytes are kept once made. Those with a hash and
    without bytes are in the store."""

    __tablename__ = "issued_document"
    __table_args__ = (
        UniqueConstraint("portal_id", "payment_id", "kind"),
        UniqueConstraint("portal_id", "kind", "sequence"),
        Index("ix_issued_document_number", "portal_id", "number"),
        Index("ix_issued_document_customer", "portal_id", "customer_id"),
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
