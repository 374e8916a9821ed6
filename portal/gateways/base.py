"""What every gateway takes and gives: references, snapshots in our words, five errors, and the contract itself.

Gateways never see models, database or request. They take a reference and give a snapshot; `portal.sync` writes it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Literal

from portal.money import Money

SubscriptionStatus = Literal[
    "incomplete",
    "trialing",
    "active",
    "past_due",
    "paused",
    "cancels_at_period_end",
    "cancelled",
    "expired",
]
PaymentStatus = Literal[
    "pending",
    "authorized",
    "paid",
    "partially_refunded",
    "refunded",
    "disputed",
    "failed",
    "cancelled",
    "expired",
]
OrderStatus = Literal["open", "paid", "partially_refunded", "refunded", "failed", "cancelled", "expired"]
RefundStatus = Literal["pending", "sent", "failed", "cancelled"]
InvoiceStatus = Literal["draft", "open", "overdue", "paid", "void"]
Kind = Literal["customer", "order", "subscription", "payment", "refund", "invoice"]
Unit = Literal["day", "week", "month", "year"]
Certainty = Literal["fixed", "estimated", "merchant"]


@dataclass(frozen=True, slots=True)
class Ref:
    """One object at a processor: what it is and the id by which the processor finds it.

    `known` is what our rows know of it, in the form of a record, for calls that take more than the id: the processor's
    customer, the amount, and as `current_period_end` the moment until which it is paid, even after a cancel. It is
    absent where our rows are not asked (webhooks, look-ups).
    """

    kind: Kind
    id: str
    known: "Record | None" = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Interval:
    unit: Unit
    count: int = 1


@dataclass(frozen=True, slots=True)
class Method:
    """How someone pays. `kind` is a word of the fact tables: card, foreign_card, wallet, bank_debit, upi …"""

    kind: str
    brand: str | None = None  # "Visa", "PayPal"; None where the processor does not say
    last4: str | None = None
    expires: str | None = None  # "2027-09"
    remote_id: str | None = None


@dataclass(frozen=True, slots=True)
class NextPayment:
    on: date
    amount: Money | None
    certainty: Certainty


@dataclass(frozen=True, slots=True)
class PendingChange:
    """A change that is agreed and has not taken effect yet."""

    on: date | None
    amount: Money | None = None
    title: str | None = None
    quantity: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    code: str
    reason: str | None = None  # a sentence for people, where the processor gives one


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    quantity: int
    amount: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What all snapshots of one object share.

    `knows` names the fields this snapshot speaks of; None means all of them. A field it does not speak of keeps what
    was known before; a field it speaks of is written even when it is None.
    """

    remote_id: str
    email: str | None = None
    raw_status: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    knows: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerRecord(Record):
    name: str | None = None
    deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRecord(Record):
    status: OrderStatus | None = None
    customer: str | None = None  # remote ids here and below
    number: str | None = None
    title: str | None = None
    amount: Money | None = None
    tax: Money | None = None
    discount: Money | None = None
    lines: tuple[Line, ...] = ()
    subscription: str | None = None
    due_link: str | None = None  # the processor's page on which an open order can be paid


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionRecord(Record):
    status: SubscriptionStatus | None = None
    customer: str | None = None
    title: str | None = None
    amount: Money | None = None  # for one interval, quantity included
    interval: Interval | None = None
    quantity: int | None = None
    started_at: datetime | None = None
    trial_ends_at: datetime | None = None
    current_period_start: datetime | None = None
    current_period_end: datetime | None = None
    next_payment: NextPayment | None = None
    cancels_at: datetime | None = None
    ended_at: datetime | None = None
    resumes_at: datetime | None = None
    method: Method | None = None
    due: Money | None = None  # what is open to pay now
    due_link: str | None = None  # the processor's page for it
    pending_change: PendingChange | None = None
    object: str | None = None  # a sort that the facts name, such as "agreement"
    stopped: bool = False  # past_due, and the processor no longer tries
    retries_on: date | None = None  # past_due: when the processor tries again


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRecord(Record):
    status: PaymentStatus | None = None
    customer: str | None = None
    title: str | None = None
    amount: Money | None = None
    refunded: Money | None = None
    paid_at: datetime | None = None
    method: Method | None = None
    order: str | None = None
    subscription: str | None = None
    invoice: str | None = None
    failure: Failure | None = None
    object: str | None = None  # a sort that the facts name, such as "invoice_order"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRecord(Record):
    status: RefundStatus | None = None
    payment: str | None = None
    amount: Money | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceRecord(Record):
    status: InvoiceStatus | None = None
    customer: str | None = None
    number: str | None = None
    amount: Money | None = None
    due: Money | None = None
    payment: str | None = None
    subscription: str | None = None
    order: str | None = None
    document: bool = False  # the processor has a file: `invoice_document` gives it
    document_url: str | None = None  # where it says the file is; such addresses expire and are never kept
    page_url: str | None = None
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a processor says at one moment. `as_of` is taken before the question was sent.

    `ask` and `tell` are for the merchant, in English: what they must do before the wish is fulfilled (it becomes a
    tracked request), and what they should know of.
    """

    as_of: datetime
    ask: str = ""
    tell: str = ""
    customers: tuple[CustomerRecord, ...] = ()
    orders: tuple[OrderRecord, ...] = ()
    subscriptions: tuple[SubscriptionRecord, ...] = ()
    payments: tuple[PaymentRecord, ...] = ()
    refunds: tuple[RefundRecord, ...] = ()
    invoices: tuple[InvoiceRecord, ...] = ()

    def subscription(self, remote_id: str) -> SubscriptionRecord | None:
        return next((row for row in self.subscriptions if row.remote_id == remote_id), None)

    def records(self) -> "Iterator[Record]":
        yield from self.customers
        yield from self.orders
        yield from self.subscriptions
        yield from self.payments
        yield from self.refunds
        yield from self.invoices


@dataclass(frozen=True, slots=True)
class Page:
    """One step of a backfill: what was found and where to go on; cursor None means the end."""

    snapshot: Snapshot
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """One thing a webhook tells. `subject` is None where it is of no interest to us."""

    id: str
    type: str
    subject: Ref | None
    occurred_at: datetime | None
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Leave:
    """The customer goes on at the processor's page. `state` is what the adapter needs when they come back.

    `returns` is False where the processor sends nobody back: the page is opened in a new tab. `script` is for a
    processor that can only be entered by its own script, on a bare page of ours; `url` is then the way without one.
    """

    url: str
    state: Mapping[str, str] = field(default_factory=dict)
    returns: bool = True
    script: "Script | None" = None


@dataclass(frozen=True, slots=True)
class Script:
    """A processor's script (on a host of `hosts.scripts`) and how it is started.

    `start` is the adapter's own JavaScript, without a word of the customer's: it reads its values from
    `document.body.dataset.options`, which holds `options` as JSON.
    """

    src: str
    start: str
    options: Mapping[str, Any]
    connects: tuple[str, ...] = ()  # origins that the script talks to and frames: part of the page's policy


@dataclass(frozen=True, slots=True)
class Document:
    """A file of the processor: its type, a name for it, and its bytes."""

    content_type: str
    filename: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Registration:
    """A webhook that a processor keeps for us. `credentials` are the fields of the settings form that came out of it,
    to be merged into the account's; `note` tells the merchant what is left to do by hand."""

    remote_id: str
    credentials: Mapping[str, str] = field(repr=False)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the keys are good and for what. `missing` names permissions in the processor's own words."""

    ok: bool
    live: bool | None
    account: str | None = None
    missing: tuple[str, ...] = ()
    hint: str | None = None  # for the merchant: what to do


class GatewayError(Exception):
    """Base of the five. `customer` is a sentence for the page, `hint` one for the merchant."""

    def __init__(self, customer: str, hint: str = "") -> None:
        super().__init__(hint or customer)
        self.customer = customer
        self.hint = hint


class Unsupported(GatewayError):
    """This cannot be done in this state; asking again will not help."""


class Declined(GatewayError):
    """The processor understood and said no. `reason` is its code."""

    def __init__(self, customer: str, hint: str = "", reason: str = "") -> None:
        super().__init__(customer, hint)
        self.reason = reason


class Unavailable(GatewayError):
    """Down, slow, limited, or the keys are refused. `sent`: it may have had its effect, so read back, never guess."""

    def __init__(
        self, customer: str, hint: str = "", retry_after: float | None = None, sent: bool = False
    ) -> None:
        super().__init__(customer, hint)
        self.retry_after = retry_after
        self.sent = sent


class Unreadable(Unavailable):
    """It answered, and what it says makes no sense: the object that was meant cannot be read from it."""


class BadSignature(GatewayError):
    """A delivery that is not proved to come from the processor."""

    def __init__(self, hint: str) -> None:
        super().__init__("", hint)


class Gone(GatewayError):
    """The processor does not have this object (any more)."""


class Pace:
    """Lets so many calls through in a second, the first ones at once; the others wait their turn."""

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self._burst = max(1.0, per_second)
        self._free = self._burst
        self._at: float | None = None

    async def turn(self) -> None:
        """Wait until one more call is due."""
        wait = self.claim(asyncio.get_running_loop().time())
        if wait > 0:
            await asyncio.sleep(wait)

    def claim(self, now: float) -> float:
        """Take one call; in how many seconds it is due."""
        if self._at is not None:
            self._free = min(self._burst, self._free + (now - self._at) * self.per_second)
        self._at = now
        self._free -= 1
        return max(0.0, -self._free / self.per_second)


class Gateway:
    """One per account and use; holds credentials and the client.

    A method that the processor has no call for is left out by the adapter: the base raises Unsupported, and the
    facts say the same (`portal.gateways.capabilities` compares both ways).
    """

    # A cancel that our job carries out at the end pauses at once, so that nothing is charged meanwhile.
    pauses_until_cancel = False
    # What `refetch` finds depends on the event's subject and on nothing else that the event says: several events of one
    # object are then answered by one look.
    looks_at_subject_alone = False
    pace: "Pace | None" = None  # who reads everything leaves room for what customers do meanwhile
    # What has happened may show in lists and kept events this much later.
    overlap = timedelta(hours=1)

    def __init__(
        self,
        credentials: Mapping[str, str],
        *,
        variant: str | None = None,
        addresses: Mapping[str, str] | None = None,
        patient: bool = False,
    ) -> None:
        """`addresses` puts other base addresses (a simulator's) in place of the hosts in the facts, host by host;
        `patient` allows the long time-outs that only the worker may wait for."""
        self.credentials = dict(credentials)
        self.variant = variant
        self.addresses = dict(addresses or {})
        self.patient = patient

    def base(self, host: str) -> str:
        """The base address of a host of the facts, without a slash at the end."""
        return self.addresses.get(host, f"https://{host}")

    def foretold(self, wish: str, ref: Ref) -> str:
        """What the merchant should know of a call (by its method's name), as in `Snapshot.tell`, where that is known
        before. It is kept first, so that it is told too where the answer is lost and the effect is found by looking."""
        return ""

    async def aclose(self) -> None:
        """Let go of connections."""

    async def check(self) -> Health:
        raise NotImplementedError

    def backfill(self, cursor: str | None = None) -> AsyncIterator[Page]:
        """Everything the processor lists, page by page, from `cursor` on."""
        raise NotImplementedError

    def lists(self) -> Sequence[str]:
        """The cursors at which the lists of `backfill` begin, newest first each; empty where it is one walk."""
        return ()

    def list_of(self, cursor: str) -> Any:
        """In which list a walk is at a cursor."""
        said = json.loads(cursor)
        return said[0] if isinstance(said, list) else said.get("list")

    async def recent(self, since: datetime, cursor: str | None = None) -> AsyncIterator[Page]:
        """What was made or changed since then, as far as lists show it, page by page from `cursor` on.

        `backfill` from the start; a list is left where a whole page of it is older than asked for. What changes about
        something older is found by fetching it.
        """
        until, starts = since - self.overlap, list(self.lists())
        names = [self.list_of(start) for start in starts]
        while True:
            jump = False
            walk = self.backfill(cursor)
            try:
                async for page in walk:
                    here = self.list_of(cursor) if cursor and starts else names[0] if names else None
                    cursor = page.cursor
                    if cursor and _is_older(page.snapshot, until):
                        if not starts:
                            cursor = None
                        elif self.list_of(cursor) == here:
                            following = names.index(here) + 1
                            jump = following < len(starts)
                            cursor = _onward(cursor, starts[following]) if jump else None
                    yield Page(page.snapshot, cursor)
                    if cursor is None:
                        return
                    if jump:
                        break
            finally:
                if close := getattr(walk, "aclose", None):
                    await close()
            if not jump:
                return

    def kept_events(self, since: datetime) -> AsyncIterator[list[Event]]:
        """The events since then that the processor keeps, delivered or not, of the kinds that a delivery may have; with
        the ids of deliveries. Raises Unsupported where it keeps none, or these keys may not ask."""
        raise Unsupported("", "This processor keeps no events that can be asked for.")

    async def find(self, email: str) -> list[Ref]:
        """The processor's objects of one address; empty where it has no such look-up."""
        return []

    async def fetch(self, ref: Ref) -> Snapshot:
        """What the processor says now; raises Gone where it does not know the object."""
        raise NotImplementedError

    async def certificate(self, headers: Mapping[str, str]) -> bytes | None:
        return None

    def verify(
        self,
        headers: list[tuple[str, str]],
        body: bytes,
        now: datetime,
        certificate: bytes | None = None,
    ) -> list[Event]:
        """The events of a delivery, proved; pure, no network. Raises BadSignature."""
        raise NotImplementedError

    async def refetch(self, event: Event) -> Snapshot | None:
        """The processor's own word on what an event tells; None where there is nothing for us in it."""
        if event.subject is None:
            return None
        return await self.fetch(event.subject)

    async def register_webhook(self, url: str, key: str) -> Registration:
        """Have the processor tell this address all that the adapter handles, and nothing else.

        One webhook for an address, however often it is asked: one that is there is brought up to date. Where its secret
        was shown once and is not in the credentials, it is replaced: the new one first, then the old one goes.
        """
        raise Unsupported(
            "", "Webhooks are set up in the processor's own dashboard, with the address shown here."
        )

    async def unregister_webhook(self, remote_id: str) -> None:
        """Remove a webhook that was registered; one that is gone already is fine."""
        raise Unsupported("", "Webhooks are removed in the processor's own dashboard.")

    async def send_test_event(self, remote_id: str | None) -> str | None:
        """Ask for a delivery that changes nothing: the type of the event that comes; None where none can be sent."""
        raise Unsupported("", "This processor sends no test event on request: the next real one shows it.")

    @classmethod
    def read(cls, kind: Kind | Literal["event"], said: Any) -> "Record | list[Event]":
        """Our record of one object as the processor's API shows it (bare or in its usual envelope), or the events of
        one notice; pure, without proof of where it comes from.

        Raises Unsupported where the processor has no such kind, ValueError where `said` is no such object.
        """
        raise Unsupported("", f"This processor has no {kind} of its own.")

    @classmethod
    def read_file(cls, text: str) -> Snapshot:
        """A list that merchants of this processor keep themselves, of what no call lists; the facts' `files` say how it
        looks. Raises ValueError that names every bad line, and nothing secret."""
        raise Unsupported("", "This processor has no list of its own to read.")

    @classmethod
    def subscription_id(cls, subscription: str | None, token: str | None) -> str | None:
        """The id by which this processor is asked for a subscription of which the merchant's own rows name an id, a
        token, or both."""
        return subscription or token

    # The capabilities. Names are the keys of the fact tables. `key` is the idempotency key: the same on every retry.

    async def cancel_now(self, ref: Ref, key: str) -> Snapshot:
        raise Unsupported("This can't be cancelled here.")

    async def cancel_at_period_end(self, ref: Ref, key: str) -> Snapshot:
        raise Unsupported("This can't be cancelled for the end of the period.")

    async def undo_cancel(self, ref: Ref, key: str) -> Snapshot:
        raise Unsupported("This cancellation can't be undone here.")

    async def pause(self, ref: Ref, key: str) -> Snapshot:
        raise Unsupported("This can't be paused here.")

    async def resume(self, ref: Ref, key: str) -> Snapshot:
        raise Unsupported("This can't be resumed here.")

    async def skip_next_payment(self, ref: Ref, key: str) -> Snapshot:
        raise Unsupported("The next payment can't be skipped here.")

    async def change_plan(
        self, ref: Ref, change: Mapping[str, Any], return_url: str, key: str
    ) -> Snapshot | Leave:
        """`change` may hold plan (remote id), amount (Money), interval (Interval), quantity (int)."""
        raise Unsupported("The plan can't be changed here.")

    async def pay_now(self, ref: Ref, return_url: str, key: str) -> Snapshot | Leave:
        raise Unsupported("There is nothing that could be paid here.")

    async def start_method_update(self, ref: Ref, return_url: str, key: str) -> Leave:
        """`return_url` is our own one-time address, whole; the adapter passes it on as it is."""
        raise Unsupported("The payment method can't be updated here.")

    async def finish_method_update(
        self, ref: Ref, state: Mapping[str, str], query: Mapping[str, str]
    ) -> Snapshot:
        """After the return: `state` of the Leave, `query` of the return address (never believed)."""
        raise Unsupported("The payment method can't be updated here.")

    async def invoice_document(self, ref: Ref) -> Document | None:
        """The processor's own file of an invoice, fresh at every call; None where it has none."""
        raise Unsupported("The processor has no document for this.")


def _onward(cursor: str, start: str) -> str:
    """The beginning of a list, with what a walk carries along."""
    carried, begin = json.loads(cursor), json.loads(start)
    return json.dumps({**carried, **begin}) if isinstance(begin, dict) else start


def _is_older(snapshot: Snapshot, until: datetime) -> bool:
    """Whether everything on a page that has a date is from before."""
    times = [at for one in snapshot.records() for at in (one.created_at, one.updated_at) if at]
    return bool(times) and max(times) < until
