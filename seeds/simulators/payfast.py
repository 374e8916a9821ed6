"""PayFast, simulated: its API, ITNs, checkout and card page, all behind one address.

Written from PayFast's documents (developers.payfast.co.za, support.payfast.help). Where they are silent, the choice
made here stands in `WORDS` or is a field of `Habits`, so that a test can turn it round. Amounts are South African
cents; on the wire they are cents in API bodies and rand with two decimals in checkout, ITN and report.
"""

import calendar
import csv
import hashlib
import html
import io
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import parse_qsl, quote_plus, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from seeds.simulators.harness import Delivery, Forgery, Harness, Sample, Situation, Standing

SAST = timezone(timedelta(hours=2))
CLOCK_MAY_DIFFER = timedelta(minutes=30)  # PayFast publishes no number; an offset read wrongly is two hours
ATTEMPTS = 5  # one a day, then the subscription is locked
MINIMUM = 500  # cents
TRIAL_NOTICE_AHEAD = timedelta(days=7)
FREQUENCIES = {1: "day", 2: "week", 3: "month", 4: "quarter", 5: "half year", 6: "year"}
MONTHS = {3: 1, 4: 3, 5: 6, 6: 12}

STRINGS = tuple(f"custom_str{number}" for number in range(1, 6))
INTEGERS = tuple(f"custom_int{number}" for number in range(1, 6))

# The documented order of the checkout's fields, which is the order of its signature.
CHECKOUT_FIELDS = (
    *("merchant_id", "merchant_key", "return_url", "cancel_url", "notify_url", "notify_method"),
    *("name_first", "name_last", "email_address", "cell_number"),
    *("m_payment_id", "amount", "item_name", "item_description"),
    *INTEGERS,
    *STRINGS,
    *("email_confirmation", "confirmation_address", "currency", "payment_method"),
    *("subscription_type", "billing_date", "recurring_amount", "frequency", "cycles"),
    *("subscription_notify_email", "subscription_notify_webhook", "subscription_notify_buyer"),
)

REPORT_COLUMNS = (
    *("Date", "Type", "Sign", "Party", "Name", "Description", "Currency", "Funding Type"),
    *("Gross", "Fee", "Net", "Balance", "M Payment ID", "PF Payment ID"),
    *("custom str1", "custom int1", "custom str2", "custom int2", "custom str3", "custom str4"),
    *("custom str5", "custom int3", "custom int4", "custom int5"),
)

State = Literal["active", "paused", "locked", "cancelled", "complete"]

# `status` and `status_text` of each state. Only (1, "ACTIVE") is documented: the others are UNVERIFIED.
WORDS: dict[State, tuple[int, str]] = {
    "active": (1, "ACTIVE"),
    "paused": (2, "PAUSED"),
    "cancelled": (3, "CANCELLED"),
    "complete": (4, "COMPLETE"),
    "locked": (6, "LOCKED"),
}

STAGED = ("trialing", "active", "past_due", "paused", "cancelled", "expired")

# Test cards: what the page says, and whether they can be saved and later charged.
CARDS: dict[str, tuple[str, bool, bool]] = {
    "visa": ("Visa ending in 4242", True, True),
    "mastercard": ("Mastercard ending in 5100", True, True),
    "empty": ("Visa ending in 0341, can be saved, later charges fail", True, False),
    "refused": ("Visa ending in 0002, is refused by the bank", False, False),
}

SAMPLES = [
    Sample(
        "PayFast",
        {
            "merchant_id": "10023456",
            "merchant_key": "m4r5u6l7a8b9c",
            "passphrase": "Marula & honey~7",
            "sandbox": "no",
        },
    ),
    Sample(
        "PayFast, a stranger's",
        {
            "merchant_id": "10034567",
            "merchant_key": "k0u1d2u3s4t5r",
            "passphrase": "kudu on the stoep",
            "sandbox": "no",
        },
    ),
    Sample(
        "PayFast, cancelling three days ahead",
        {
            "merchant_id": "10045678",
            "merchant_key": "b1l2t3o4n5g6x",
            "passphrase": "biltong at sunset",
            "sandbox": "no",
        },
        options=("schedule_cancel",),
    ),
    Sample(
        "PayFast sandbox",
        {
            "merchant_id": "10056789",
            "merchant_key": "s1a2n3d4b5o6x",
            "passphrase": "castles in the sand",
            "sandbox": "yes",
        },
    ),
]


# What is kept


@dataclass(slots=True)
class Habits:
    """How PayFast treats one account, where documents or sightings differ."""

    text_booleans: bool | None = None  # "true" for true; None: in live accounts only
    failures_with_200: bool = False
    history: Literal["csv", "json", "envelope"] = "csv"
    batch_ids: bool = False
    update_answers_object: bool = False
    update_ignores: tuple[str, ...] = ()  # fields that `update` takes and does not apply
    refuses_changes: bool = False  # every write is a business failure
    refuses_cancel_when_locked: bool = False
    refuses_origin: bool = False  # our address is not on the account's list
    limited_until: datetime | None = None
    notifies_cancellations: bool = True
    blank_cancellations: bool = False  # CANCELLED without payment id and amounts
    notifies_failures: bool = False  # FAILED for a renewal: announced on one page, seen by nobody
    trial_notices: Literal["form", "json"] | None = None


@dataclass(slots=True)
class Account:
    merchant_id: str
    merchant_key: str
    passphrase: str
    notify_url: str | None
    sandbox: bool
    habits: Habits = field(default_factory=Habits)

    def true(self) -> bool | str:
        """How this account is told true."""
        as_text = self.habits.text_booleans
        return "true" if as_text or (as_text is None and not self.sandbox) else True


@dataclass(frozen=True, slots=True)
class Order:
    """One checkout: the buyer, the item, and the merchant's own fields, repeated in every ITN that follows."""

    merchant_id: str
    email: str
    first: str
    last: str
    item: str
    description: str = ""
    m_payment_id: str = ""
    custom: Mapping[str, str] = field(default_factory=dict)
    notify_url: str | None = None


@dataclass(slots=True)
class Subscription:
    """A token: a subscription (kind 1) or a tokenisation agreement (kind 2).

    `run_on` is what `fetch` shows. `due_at` is when a charge is tried next: later than `run_on` after a failed
    one, None where nothing is tried.
    """

    token: str
    kind: int
    order: Order
    started_at: datetime
    amount: int = 0
    frequency: int = 3
    cycles: int = 0
    cycles_complete: int = 0
    run_on: date | None = None
    day: int = 1  # of the month, kept through short months
    due_at: datetime | None = None
    state: State = "active"
    reason: str = ""
    failing: bool = False
    attempts: int = 0
    paused_from: date | None = None
    notice_at: datetime | None = None
    initial: int = 0
    card: str = CARDS["visa"][0]

    def run(self, on: date) -> None:
        """Set the next charge, with a clean record."""
        self.run_on, self.due_at, self.attempts = on, midnight(on), 0

    def after(self, on: date, times: int = 1) -> date:
        return step(on, self.frequency, self.day, times)

    def end(self, state: State, reason: str) -> None:
        self.state, self.reason, self.due_at, self.notice_at = state, reason, None, None


@dataclass(slots=True)
class Refund:
    at: datetime
    minor: int
    reason: str


@dataclass(slots=True)
class Payment:
    pf_payment_id: str
    order: Order
    gross: int
    at: datetime
    token: str | None = None
    billing_on: date | None = None
    status: Literal["COMPLETE", "FAILED"] = "COMPLETE"
    funding: Literal["CC", "EF"] = "CC"
    refunds: list[Refund] = field(default_factory=list)

    @property
    def available(self) -> int:
        """What could still be paid back, in cents."""
        return self.gross - sum(refund.minor for refund in self.refunds) if self.status == "COMPLETE" else 0


@dataclass(slots=True)
class Notification:
    """An ITN, or a notice that is none (then `pairs` is empty)."""

    merchant_id: str
    url: str | None
    content_type: str
    body: bytes
    pairs: tuple[tuple[str, str], ...]  # without the signature
    sent: bool = False


# The simulator


class Simulator(Harness):
    """PayFast. `validator` holds requests and answers against a contract where one is given."""

    name = "payfast"
    STATUS_FIELDS = ("status_text",)

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(clock)
        self.validator: Contract | None = None
        self._lock = threading.RLock()  # the clock is moved from another thread than the one that serves
        self.state: dict[str, Any] = {
            "accounts": {},
            "subscriptions": {},
            "payments": {},
            "checkouts": {},
            "notifications": [],
            "words": dict(WORDS),
            "last_payment": 1_089_249,
            "tokens": 0,
        }

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/eng/process", self._page(open_checkout), methods=["POST"]),
            Route("/eng/process/payment/{checkout}", self._page(checkout_page), methods=["GET", "POST"]),
            Route("/eng/recurring/update/{token}", self._page(card_page), methods=["GET", "POST"]),
            Route("/eng/query/validate", self._validate, methods=["POST"]),
            Route("/{path:path}", self._api, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        ]

    def is_page(self, method: str, path: str) -> bool:
        return path.startswith(("/eng/process", "/eng/recurring/update/"))

    def outage(self) -> Response:
        """A failing application tells so in the envelope; one that is down is not reached behind its front."""
        if self.mode == "down":
            return HTMLResponse("<html><body><h1>503 Service Unavailable</h1></body></html>", 503)
        return JSONResponse(failure(500, "Application Error"), 500)

    def refused_keys(self) -> Response:
        return JSONResponse(failure(401, "Merchant authorisation failed"), 401)

    def limited(self, retry_after: int | None) -> Response:
        """PayFast names no time to wait; where a test does, it stands where others put it."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return JSONResponse(failure(429, LIMITED), 429, headers)

    def tick(self) -> None:
        """Charge what is due, try failed cards again, lock after the fifth time, end after the last cycle."""
        with self._lock:
            for one in list(self.subscriptions.values()):
                self.advance(one, self.now())

    # Accounts and what they hold

    def add_account(
        self,
        merchant_id: str,
        merchant_key: str,
        passphrase: str,
        notify_url: str | None = None,
        sandbox: bool = False,
    ) -> "Merchant":
        """A merchant's account and the handle to fill it with; a known id is replaced."""
        self.accounts[merchant_id] = Account(merchant_id, merchant_key, passphrase, notify_url, sandbox)
        return Merchant(self, merchant_id)

    def account(self, merchant_id: str) -> "Merchant":
        """The handle of an account that is there; KeyError otherwise."""
        return Merchant(self, self.accounts[merchant_id].merchant_id)

    @property
    def accounts(self) -> dict[str, Account]:
        return cast(dict[str, Account], self.state["accounts"])

    @property
    def subscriptions(self) -> dict[str, Subscription]:
        return cast(dict[str, Subscription], self.state["subscriptions"])

    @property
    def payments(self) -> dict[str, Payment]:
        return cast(dict[str, Payment], self.state["payments"])

    @property
    def checkouts(self) -> dict[str, dict[str, str]]:
        return cast(dict[str, dict[str, str]], self.state["checkouts"])

    @property
    def notifications(self) -> list[Notification]:
        return cast(list[Notification], self.state["notifications"])

    @property
    def words(self) -> dict[State, tuple[int, str]]:
        """`status` and `status_text` by state; a test may put others."""
        return cast(dict[State, tuple[int, str]], self.state["words"])

    @property
    def itns(self) -> list[bytes]:
        """The bodies of all ITNs and notices that were sent, oldest first."""
        return [one.body for one in self.notifications if one.sent]

    def get(self, token: str) -> Subscription:
        """A subscription or agreement; KeyError for an unknown token."""
        return self.subscriptions[token]

    def resend_all(self, merchant_id: str | None = None) -> int:
        """Send every ITN again, oldest first, also those held back by `send=False`; gives their number."""
        with self._lock:
            chosen = [one for one in self.notifications if merchant_id in (None, one.merchant_id)]
            for one in chosen:
                self._dispatch(one)
        return len(chosen)

    # What demo and tests ask of every simulator

    def samples(self) -> list[Sample]:
        return list(SAMPLES)

    def open(self, sample: Sample, webhook_url: str) -> None:
        keys = sample.credentials
        with self._lock:
            mine = keys["merchant_id"]
            for kept in (self.subscriptions, self.payments):
                for name in [name for name, one in kept.items() if one.order.merchant_id == mine]:
                    del kept[name]
            for name in [name for name, one in self.checkouts.items() if one["merchant_id"] == mine]:
                del self.checkouts[name]
            self.notifications[:] = [one for one in self.notifications if one.merchant_id != mine]
            self.add_account(
                mine, keys["merchant_key"], keys["passphrase"], webhook_url, keys["sandbox"] == "yes"
            )

    def fill(self, sample: Sample) -> None:
        """The history stands in the report, and in ITNs that `past_deliveries` gives: none is sent here."""
        shop = self.account(sample.credentials["merchant_id"])
        with self._lock:
            self._fill_noor(shop)
            mine = ("payfast@example.com", "Palesa", "Mokoena")
            today = self.now().astimezone(SAST).date()
            kept: dict[str, Any] = {"send": False}
            shop.subscription(*mine, 38000, 3, "Wine club", self._ago(75), m_payment_id="PF-1", **kept)
            shop.subscription(*mine, 180000, 4, "Gym quarter", self._ago(20), m_payment_id="PF-2", **kept)
            trial = today + timedelta(days=9)
            shop.subscription(
                *mine, 9900, 3, "Trial reads", self._ago(5), m_payment_id="PF-3", billing_on=trial, **kept
            )
            gap = shop.subscription(
                *mine, 25000, 3, "Espresso club", self._ago(50), m_payment_id="PF-4", **kept
            )
            shop.pause(gap, 2)
            shop.subscription(
                *mine,
                12000,
                3,
                "Biscuit box",
                self._month_before(2),
                m_payment_id="PF-5",
                failing=True,
                **kept,
            )
            locked = shop.subscription(
                *mine, 15000, 3, "Veldskoen club", self._ago(100), m_payment_id="PF-6", **kept
            )
            shop.lock(locked)
            over = shop.subscription(*mine, 7500, 3, "Braai box", self._ago(120), m_payment_id="PF-7", **kept)
            shop.foreign_cancel(over, send=False)
            shop.subscription(
                *mine, 42000, 3, "Three lessons", self._ago(130), m_payment_id="PF-8", cycles=3, **kept
            )
            shop.agreement(*mine, "Taxi app", self._ago(60), amount_minor=5000, m_payment_id="PF-9", **kept)
            name = "Palesa Mokoena"
            for number, (minor, item, days) in enumerate(
                [(129900, "Moka pot", 41), (24950, "Honey, 3 jars", 28), (89900, "Kudu leather belt", 15)]
            ):
                sold = shop.payment(
                    mine[0], name, minor, item, self._ago(days), m_payment_id=f"ZA-{number + 1}", **kept
                )
                if number and not shop.account.sandbox:
                    shop.refund(sold, minor if number == 1 else 20000, self._ago(days - 4), "Came back")
            shop.payment(
                mine[0], name, 6500, "Rusks", self._ago(3), m_payment_id="ZA-4", funding="EF", **kept
            )

    def _fill_noor(self, shop: "Merchant") -> None:
        shop.subscription(
            *("noor@example.com", "Noor", "Naidoo", 12000, 3, "Rooibos club", self._ago(47)),
            m_payment_id="RC-1",
            send=False,
        )
        shop.payment(
            *("noor@example.com", "Noor Naidoo", 34900, "Enamel teapot", self._ago(12)),
            m_payment_id="RC-2",
            send=False,
        )

    def _ago(self, days: int) -> datetime:
        return self.now() - timedelta(days=days)

    def _month_before(self, days: int) -> datetime:
        """When a monthly subscription began whose run date was so many days ago, or a little longer."""
        ran = self.now().astimezone(SAST).date() - timedelta(days=days)
        return midnight(step(ran, 3, ran.day, -1)) + timedelta(hours=10)

    def past_deliveries(self, sample: Sample) -> list[tuple[list[tuple[str, str]], bytes]]:
        return self.account(sample.credentials["merchant_id"]).deliveries()

    def plans(self, sample: Sample) -> list[dict[str, Any]]:
        plan = {"plan": None, "currency": "ZAR", "count": 1}
        monthly = {**plan, "title": "Large, every month", "minor": 18000, "unit": "month"}
        return [monthly, {**plan, "title": "Every year", "minor": 120000, "unit": "year"}]

    def stage(self, sample: Sample, email: str, situation: Situation) -> str | None:
        """No card is told apart here, nothing ends at the end of a period, and a checkout has no token before it."""
        shop = self.account(sample.credentials["merchant_id"])
        state = situation.state
        agreement = situation.object in ("agreement", "sandbox_agreement")
        sort = "sandbox" if shop.account.sandbox else None
        own = {sort, "sandbox_agreement" if sort else "agreement", None}
        possible = ("active", "cancelled") if agreement else STAGED
        due = situation.due in (None, state == "past_due")
        if situation.object not in own or state not in possible or not due:
            return None
        if situation.method not in (None, "card") or situation.token:
            return None
        with self._lock:
            number = f"ST-{self.state['tokens'] + 1}"
            who = (email, email.partition("@")[0].title(), "Tester")
            if agreement:
                token = shop.agreement(*who, "Saved card", self._ago(10), m_payment_id=number)
            else:
                token = self._stage_subscription(shop, who, state, number)
            if state == "cancelled":
                shop.foreign_cancel(token)
            return token

    def _stage_subscription(
        self, shop: "Merchant", who: tuple[str, str, str], state: str, number: str
    ) -> str:
        more: dict[str, Any] = {"m_payment_id": number}
        if state == "trialing":
            more["billing_on"] = self.now().astimezone(SAST).date() + timedelta(days=10)
        if state == "expired":
            more["cycles"] = 1
        if state == "past_due":
            more["failing"] = True
        began = self._month_before(2) if state == "past_due" else self._ago(10)
        token = shop.subscription(*who, 12000, 3, "Tea club", began, **more)
        if state == "paused":
            shop.pause(token)
        return token

    def standing(self, remote_id: str) -> Standing:
        """A gap counts as no charge, though PayFast goes on by itself when it is over."""
        one = self.subscriptions[remote_id]
        mine = [payment for payment in self.payments.values() if payment.token == remote_id]
        on = one.run_on if one.kind == 1 and one.state == "active" else None
        return Standing(
            raw=self.words[one.state][1],
            charges=one.state == "active",
            next_on=on,
            method=one.card,
            payments=len([payment for payment in mine if payment.status == "COMPLETE"]),
            amount=one.amount if one.kind == 1 else None,
        )

    def charge(self, remote_id: str, succeeds: bool = True) -> None:
        with self._lock:
            one = self.subscriptions[remote_id]
            at = self.now()
            if one.kind == 1 and one.run_on and one.state not in ("cancelled", "complete"):
                was, one.failing = one.failing, not succeeds
                self._charge(one, at, send=True)
                one.failing = was
                return
            status: Literal["COMPLETE", "FAILED"] = "COMPLETE" if succeeds else "FAILED"
            amount = one.amount or one.initial
            payment = self.book(one.order, amount, at, token=one.token, billing_on=one.run_on, status=status)
            if succeeds or self.accounts[one.order.merchant_id].habits.notifies_failures:
                self.notify(payment)

    def proof_of(self, delivery: Delivery) -> str | None:
        pairs = read_form(delivery.body)
        return pairs[-1][1] if pairs and pairs[-1][0] == "signature" else None

    def with_proof(self, delivery: Delivery, proofs: list[str]) -> tuple[list[tuple[str, str]], bytes]:
        pairs = [pair for pair in read_form(delivery.body) if pair[0] != "signature"]
        body = php_query([*pairs, *(("signature", proof) for proof in proofs)])
        return list(delivery.headers.items()), body.encode()

    def other_bodies(self, delivery: Delivery) -> list[Forgery]:
        """The true signature over other fields, and fields that were signed by another rule or for another shop."""
        headers = list(delivery.headers.items())
        *pairs, (_, proof) = read_form(delivery.body)
        told = dict(pairs)
        others = {
            "another amount": {"amount_gross": f"{told.get('amount_gross', '')}1"},
            "another status": {"payment_status": f"{told.get('payment_status', '')}D"},
            "another payment": {"pf_payment_id": f"{told.get('pf_payment_id', '')}1"},
            "another address": {"email_address": "mallory@example.com"},
            "another subscription": {
                "token": str(uuid.uuid5(uuid.NAMESPACE_URL, "https://payfast.example/x"))
            },
            "another merchant": {"merchant_id": "10099999"},
            "a field more": {"custom_str6": "1"},
        }
        bodies = {what: list({**told, **change}.items()) for what, change in others.items()}
        bodies["a field less"] = pairs[:-1]
        bodies["two fields exchanged"] = [pairs[1], pairs[0], *pairs[2:]]
        bodies["a field twice"] = [*pairs, pairs[0]]
        bodies["without its blanks"] = [pair for pair in pairs if pair[1]]
        found = [
            Forgery(what, headers, php_query([*fields, ("signature", proof)]).encode())
            for what, fields in bodies.items()
        ]
        signatures = {
            "signed without a passphrase": itn_signature(pairs, ""),
            "signed with another passphrase": itn_signature(pairs, "somebody else's"),
            "signed by the rule of checkouts": checkout_signature(told, "somebody else's"),
        }
        return [
            *super().other_bodies(delivery),
            *found,
            *(Forgery(what, *self.with_proof(delivery, [one])) for what, one in signatures.items()),
        ]

    # The life of a subscription

    def subscribe(self, one: Subscription, billing_on: date | None, send: bool = True) -> None:
        """Begin: the checkout's own payment is the first cycle unless a later billing date was given."""
        started_on = one.started_at.astimezone(SAST).date()
        later = billing_on is not None and billing_on > started_on
        first_on = billing_on if billing_on and later else started_on
        one.day = first_on.day
        self.subscriptions[one.token] = one
        payment = self.book(one.order, one.initial, one.started_at, token=one.token, billing_on=first_on)
        if later:
            one.run(first_on)
            if not one.initial:
                one.notice_at = max(midnight(first_on) - TRIAL_NOTICE_AHEAD, one.started_at)
        else:
            self._count_cycle(one, first_on)
        self.notify(payment, send=send)

    def advance(
        self, one: Subscription, until: datetime, *, last_fails: bool = False, send: bool = True
    ) -> None:
        """Let happen what is due; `last_fails` lets the card fail from the last run date before `until` on."""
        while True:
            if one.notice_at and one.notice_at <= until:
                self._give_notice(one, send)
            elif one.run_on and one.due_at and one.due_at <= until:
                if last_fails and midnight(one.after(one.run_on)) > until:
                    one.failing = True
                self._charge(one, one.due_at, send)
            else:
                return

    def _charge(self, one: Subscription, at: datetime, send: bool) -> None:
        assert one.run_on is not None
        one.state, one.paused_from = "active", None
        if one.failing or self.mode == "decline":
            self._fail(one, at, send)
            return
        payment = self.book(one.order, one.amount, at, token=one.token, billing_on=one.run_on)
        self._count_cycle(one, one.run_on)
        if one.due_at:  # a card that failed past the next run date catches up at once
            one.due_at = max(one.due_at, at)
        self.notify(payment, send=send)

    def _count_cycle(self, one: Subscription, paid_on: date) -> None:
        one.cycles_complete += 1
        one.run(one.after(paid_on))
        if one.cycles and one.cycles_complete >= one.cycles:
            one.end("complete", "All cycles are complete")

    def _fail(self, one: Subscription, at: datetime, send: bool) -> None:
        """A failed charge leaves `run_date` where it was; PayFast tries once a day, five times in all."""
        one.attempts += 1
        one.due_at = at + timedelta(days=1)
        payment = self.book(
            one.order, one.amount, at, token=one.token, billing_on=one.run_on, status="FAILED"
        )
        if self.accounts[one.order.merchant_id].habits.notifies_failures:
            self.notify(payment, send=send)
        if one.attempts >= ATTEMPTS:
            one.end("locked", "Payment failed too many times")

    def cancel(self, one: Subscription, reason: str, send: bool = True) -> None:
        """End it for good, and tell the merchant."""
        one.end("cancelled", reason)
        account = self.accounts[one.order.merchant_id]
        if account.habits.notifies_cancellations:
            blank = account.habits.blank_cancellations
            number = "" if blank else self._next_payment_id()
            payment = Payment(number, one.order, one.amount, self.now(), one.token, one.run_on)
            self.notify(payment, status="CANCELLED", blank=blank, send=send)

    def book(self, order: Order, gross: int, at: datetime, **more: Any) -> Payment:
        """A payment with a number of its own, kept."""
        payment = Payment(self._next_payment_id(), order, gross, at, **more)
        self.payments[payment.pf_payment_id] = payment
        return payment

    def _next_payment_id(self) -> str:
        self.state["last_payment"] += 1
        return str(self.state["last_payment"])

    def new_token(self) -> str:
        self.state["tokens"] += 1
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://payfast.example/{self.state['tokens']}"))

    # Telling the merchant

    def notify(
        self, payment: Payment, *, status: str | None = None, blank: bool = False, send: bool = True
    ) -> None:
        """Write the ITN of a payment, and send it unless told not to."""
        account = self.accounts[payment.order.merchant_id]
        pairs = itn_pairs(payment, status or payment.status, blank)
        signed = [*pairs, ("signature", itn_signature(pairs, account.passphrase))]
        self._put(
            Notification(
                account.merchant_id,
                payment.order.notify_url,
                "application/x-www-form-urlencoded",
                php_query(signed).encode(),
                tuple(pairs),
            ),
            send,
        )
        if self.validator:
            self.problems += self.validator.itn([name for name, _ in signed])

    def _give_notice(self, one: Subscription, send: bool) -> None:
        one.notice_at = None
        account = self.accounts[one.order.merchant_id]
        if not account.habits.trial_notices or not one.run_on:
            return
        notice = {
            "type": "subscription.free-trial",
            "token": one.token,
            "initial_amount": one.initial,
            "amount": one.amount,
            "next_run": one.run_on.isoformat(),
            "frequency": str(one.frequency),
            "item_name": one.order.item,
            "item_description": one.order.description,
            "name_first": one.order.first,
            "name_last": one.order.last,
            "email_address": one.order.email,
        }
        if account.habits.trial_notices == "json":
            body, kind = json.dumps(notice).encode(), "application/json"
        else:
            pairs = [(name, str(value)) for name, value in notice.items()]
            pairs.append(("signature", itn_signature(pairs, account.passphrase)))
            body, kind = php_query(pairs).encode(), "application/x-www-form-urlencoded"
        self._put(Notification(account.merchant_id, one.order.notify_url, kind, body, ()), send)

    def _put(self, one: Notification, send: bool) -> None:
        self.notifications.append(one)
        if send:
            self._dispatch(one)

    def _dispatch(self, one: Notification) -> None:
        url = one.url or self.accounts[one.merchant_id].notify_url
        if url:
            one.sent = True
            self.deliver(Delivery(url, {"content-type": one.content_type}, one.body))

    # Requests

    async def _api(self, request: Request) -> Response:
        body = await request.body()
        with self._lock:
            self.tick()
            return answer_api(self, request, body)

    async def _validate(self, request: Request) -> Response:
        body = await request.body()
        pairs = tuple(read_form(body))
        with self._lock:
            known = bool(pairs) and any(one.sent and one.pairs == pairs for one in self.notifications)
        return PlainTextResponse("VALID" if known else "INVALID")

    def _page(self, view: "View") -> Callable[[Request], Any]:
        async def page(request: Request) -> Response:
            form = {name: value.strip() for name, value in read_form(await request.body())}
            with self._lock:
                return view(self, request, form)

        return page


class Merchant:
    """The handle of one account: builders for sample worlds and tests, and readers.

    It holds no state, so it stays good over save() and reset().
    """

    def __init__(self, simulator: Simulator, merchant_id: str) -> None:
        self.simulator = simulator
        self.merchant_id = merchant_id

    @property
    def account(self) -> Account:
        return self.simulator.accounts[self.merchant_id]

    @property
    def habits(self) -> Habits:
        return self.account.habits

    @property
    def notify_url(self) -> str | None:
        """Where ITNs go whose checkout named no address of its own."""
        return self.account.notify_url

    @notify_url.setter
    def notify_url(self, url: str | None) -> None:
        self.account.notify_url = url

    def payment(
        self,
        email: str,
        name: str,
        amount_minor: int,
        item: str,
        at: datetime,
        *,
        m_payment_id: str = "",
        description: str = "",
        funding: Literal["CC", "EF"] = "CC",
        send: bool = True,
        **custom: str,
    ) -> str:
        """A paid order without a subscription; gives its pf_payment_id. `custom` takes custom_str1 … custom_int5."""
        first, _, last = name.partition(" ")
        order = self._order(email, first, last, item, description, m_payment_id, custom)
        with self.simulator._lock:
            payment = self.simulator.book(order, amount_minor, at, funding=funding)
            self.simulator.notify(payment, send=send)
        return payment.pf_payment_id

    def subscription(
        self,
        email: str,
        first: str,
        last: str,
        amount_minor: int,
        frequency: int,
        item: str,
        started_at: datetime,
        *,
        cycles: int = 0,
        m_payment_id: str = "",
        description: str = "",
        billing_on: date | None = None,
        initial_minor: int | None = None,
        failing: bool = False,
        send: bool = True,
        **custom: str,
    ) -> str:
        """A subscription with all its payments from `started_at` until now; gives its token.

        `billing_on` after the start makes a trial: the checkout takes `initial_minor` (0 unless given) and charges
        begin on that day. `failing`: the card fails from the last run date before now on, and stays bad.
        """
        trial = billing_on is not None and billing_on > started_at.astimezone(SAST).date()
        order = self._order(email, first, last, item, description, m_payment_id, custom)
        with self.simulator._lock:
            one = Subscription(
                self.simulator.new_token(), 1, order, started_at, amount_minor, frequency, cycles
            )
            one.initial = initial_minor if initial_minor is not None else 0 if trial else amount_minor
            self.simulator.subscribe(one, billing_on, send)
            self.simulator.advance(one, self.simulator.now(), last_fails=failing, send=send)
            one.failing = failing
        return one.token

    def agreement(
        self,
        email: str,
        first: str,
        last: str,
        item: str,
        started_at: datetime,
        *,
        amount_minor: int = MINIMUM,
        m_payment_id: str = "",
        failing: bool = False,
        send: bool = True,
        **custom: str,
    ) -> str:
        """A tokenisation agreement, made with a first payment; gives its token."""
        order = self._order(email, first, last, item, "", m_payment_id, custom)
        with self.simulator._lock:
            one = Subscription(self.simulator.new_token(), 2, order, started_at, initial=amount_minor)
            one.failing = failing
            self.simulator.subscriptions[one.token] = one
            payment = self.simulator.book(order, amount_minor, started_at, token=one.token)
            self.simulator.notify(payment, send=send)
        return one.token

    def refund(self, pf_payment_id: str, minor: int, at: datetime | None = None, reason: str = "") -> None:
        """Pay back, as from the dashboard; ValueError where less is left."""
        payment = self.simulator.payments[pf_payment_id]
        if not 0 < minor <= payment.available:
            raise ValueError(f"{payment.available} cents of {pf_payment_id} can be refunded, not {minor}")
        payment.refunds.append(Refund(at or self.simulator.now(), minor, reason))

    def lock(self, token: str) -> None:
        """As if five charges had failed, the first of them five days ago or on an older run date."""
        one = self.get(token)
        first_failed = self.simulator.now().astimezone(SAST).date() - timedelta(days=ATTEMPTS)
        one.run_on = min(one.run_on or first_failed, first_failed)
        one.failing, one.attempts = True, ATTEMPTS
        one.end("locked", "Payment failed too many times")

    def foreign_cancel(self, token: str, send: bool = True) -> None:
        """The buyer cancels at PayFast; one that has ended stays as it is."""
        with self.simulator._lock:
            if (one := self.get(token)).state not in ("cancelled", "complete"):
                self.simulator.cancel(one, "Cancelled by the buyer", send)

    def pause(self, token: str, cycles: int = 1) -> None:
        """A gap of some cycles, as from the dashboard."""
        one = self.get(token)
        assert one.run_on is not None
        one.state, one.paused_from = "paused", one.paused_from or one.run_on
        one.run(one.after(one.run_on, cycles))

    def limit(self, lasting: timedelta = timedelta(minutes=5)) -> None:
        """Answer 429 to every call of this account for a while."""
        self.habits.limited_until = self.simulator.now() + lasting

    def get(self, token: str) -> Subscription:
        one = self.simulator.get(token)
        if one.order.merchant_id != self.merchant_id:
            raise KeyError(token)
        return one

    def payments(self, token: str | None = None) -> list[Payment]:
        """This account's payments, oldest first, failed attempts included; those of one token, where it is given."""
        found = [
            one
            for one in self.simulator.payments.values()
            if one.order.merchant_id == self.merchant_id and token in (None, one.token)
        ]
        return sorted(found, key=lambda one: (one.at, int(one.pf_payment_id)))

    @property
    def itns(self) -> list[bytes]:
        """The bodies of this account's ITNs and notices that were sent, oldest first."""
        return [
            one.body
            for one in self.simulator.notifications
            if one.sent and one.merchant_id == self.merchant_id
        ]

    def resend_all(self) -> int:
        """Send every ITN of this account again; gives their number."""
        return self.simulator.resend_all(self.merchant_id)

    def deliveries(self) -> list[tuple[list[tuple[str, str]], bytes]]:
        """Every ITN as headers and body, oldest first, to be handed over without a network; they count as sent."""
        chosen = [one for one in self.simulator.notifications if one.merchant_id == self.merchant_id]
        for one in chosen:
            one.sent = True
        return [([("content-type", one.content_type)], one.body) for one in chosen]

    def _order(
        self,
        email: str,
        first: str,
        last: str,
        item: str,
        description: str,
        m_payment_id: str,
        custom: Mapping[str, str],
    ) -> Order:
        if unknown := set(custom) - {*STRINGS, *INTEGERS}:
            raise TypeError(f"PayFast has no field {', '.join(sorted(unknown))}")
        return Order(self.merchant_id, email, first, last, item, description, m_payment_id, dict(custom))


# The API


NOBODY = Account("", "", "", None, sandbox=False)
LIMITED = "Signature rate limit reached, please try again in a few minute"


class Refusal(Exception):
    """An error answer. `business`: the request was in order and PayFast says no."""

    def __init__(self, code: int, message: str, response: bool | int = False, business: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.response = response
        self.business = business


@dataclass(slots=True)
class Ask:
    """A signed call: whose, about what, and its parameters."""

    account: Account
    subject: str
    body: Mapping[str, Any]
    query: Mapping[str, str]


def answer_api(simulator: Simulator, request: Request, body: bytes) -> Response:
    """What api.payfast.co.za says to a request."""
    method, path = request.method, request.scope["path"]
    if method != "GET" and not {"content-length", "transfer-encoding"} & set(request.headers):
        return PlainTextResponse("Length Required", 411)
    if path != "/" and path.endswith("/"):
        target = path.rstrip("/") + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(target, 302)  # which clients follow by GET: the method is lost
    found = [(operation, match) for operation in OPERATIONS if (match := operation.path.fullmatch(path))]
    if found and method not in (allowed := sorted({operation.method for operation, _ in found})):
        return PlainTextResponse("Method Not Allowed", 405, {"allow": ", ".join(allowed)})
    answer = _answer(simulator, request, body, found)
    if simulator.validator:
        simulator.problems += simulator.validator.answer(
            method, path, answer.status_code, bytes(answer.body).decode()
        )
    return answer


def _answer(
    simulator: Simulator, request: Request, body: bytes, found: "list[tuple[Operation, re.Match[str]]]"
) -> Response:
    habits = Habits()
    query = dict(parse_qsl(request.url.query, keep_blank_values=True))
    try:
        fields = read_body(request.headers.get("content-type", ""), body)
        if simulator.validator:
            simulator.problems += simulator.validator.request(
                request.method, request.scope["path"], request.headers, query, fields
            )
        if not found:
            raise Refusal(404, "Service / endpoint not found")
        operation, match = next(pair for pair in found if pair[0].method == request.method)
        account = authenticate(simulator, request, query, fields) if operation.signed else NOBODY
        habits = account.habits
        subject = match.groupdict().get("subject", "")
        return operation.answer(simulator, Ask(account, subject, fields, query))
    except Refusal as refusal:
        status = 200 if refusal.business and habits.failures_with_200 else refusal.code
        return JSONResponse(failure(refusal.code, refusal.message, refusal.response), status)


def failure(code: int, message: str, response: bool | int = False) -> dict[str, Any]:
    return {"code": code, "status": "failed", "data": {"response": response, "message": message}}


def success(response: Any, message: str = "Success", **more: Any) -> Response:
    return JSONResponse(
        {"code": 200, "status": "success", "data": {"response": response, "message": message, **more}}
    )


def read_body(content_type: str, body: bytes) -> dict[str, Any]:
    """The fields of a form or a JSON object one level deep; 400 for anything else."""
    if not body:
        return {}
    if "json" not in content_type:
        return dict(read_form(body))
    try:
        fields = json.loads(body)
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or any(isinstance(value, dict | list) for value in fields.values()):
        raise Refusal(400, "Required variables not present in request")
    return fields


def authenticate(
    simulator: Simulator, request: Request, query: Mapping[str, str], fields: Mapping[str, Any]
) -> Account:
    """The account that signed the call, or the refusal that PayFast documents."""
    headers = {name: request.headers.get(name, "") for name in ("merchant-id", "version", "timestamp")}
    signature = request.headers.get("signature", "")
    if not signature:
        raise Refusal(400, "Signature not present in headers")
    if not re.fullmatch(r"[0-9a-f]{32}", signature):
        raise Refusal(400, "Value for signature is not in the expected format")
    if not headers["merchant-id"] or not headers["timestamp"]:
        raise Refusal(400, "Required variables not present in request")
    if headers["version"] != "v1":
        raise Refusal(400, "API version is not valid")
    account = simulator.accounts.get(headers["merchant-id"])
    testing = query.get("testing", "").lower() in ("true", "1")
    if account is None or account.sandbox != testing:
        raise Refusal(401, "Merchant not found")
    until = account.habits.limited_until
    if until and simulator.now() < until:
        raise Refusal(429, LIMITED)
    if account.habits.refuses_origin:
        raise Refusal(401, "Request origin could not be verified")
    signed = {**headers, **query, **fields}
    signed.pop("testing", None)
    if not account.passphrase or signature != api_signature(signed, account.passphrase):
        raise Refusal(401, "Merchant authorisation failed")
    if abs(simulator.now() - moment(headers["timestamp"])) > CLOCK_MAY_DIFFER:
        raise Refusal(400, "Value for timestamp is too far from the present time")
    return account


def moment(text: str) -> datetime:
    """A timestamp header: no milliseconds, the offset with or without a colon, and without one South African time."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([+-]\d\d:?\d\d)?", text):
        raise Refusal(400, "Value for timestamp is not in the expected format")
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise Refusal(400, "Value for timestamp is not in the expected format") from None
    return read if read.tzinfo else read.replace(tzinfo=SAST)


# Subscriptions over the API


def ping(simulator: Simulator, ask: Ask) -> Response:
    """Whether the API is there; it does not look at who asks."""
    return JSONResponse("API V1" if "testing" in ask.query else "Payfast API")


def fetch(simulator: Simulator, ask: Ask) -> Response:
    return success(shown(simulator, _subscription(simulator, ask)))


def shown(simulator: Simulator, one: Subscription) -> dict[str, Any]:
    """A subscription or agreement on the wire."""
    status, text = simulator.words[one.state]
    state = {"status": status, "status_reason": one.reason, "status_text": text, "token": one.token}
    if one.kind == 2:
        return state
    return {
        "amount": one.amount,
        "cycles": one.cycles,
        "cycles_complete": one.cycles_complete,
        "frequency": one.frequency,
        "run_date": one.run_on and midnight(one.run_on).isoformat(),
        **state,
    }


def cancel(simulator: Simulator, ask: Ask) -> Response:
    one = _changeable(simulator, ask)
    if one.state == "cancelled":
        raise Refusal(400, "The subscription status is already cancelled", business=True)
    if one.state == "complete" or (one.state == "locked" and ask.account.habits.refuses_cancel_when_locked):
        raise _invalid_state()
    simulator.cancel(one, "Cancelled by the merchant")
    return success(ask.account.true())


def pause(simulator: Simulator, ask: Ask) -> Response:
    """A gap of some cycles; on a locked one it starts charging again instead."""
    one = _changeable(simulator, ask, kind=1)
    cycles = _whole(ask.body, "cycles", 1, lowest=1) or 1
    if one.state == "locked":
        one.state, one.reason, one.attempts, one.due_at = "active", "", 0, simulator.now()
    elif one.state in ("active", "paused") and one.run_on:
        one.paused_from = one.paused_from or one.run_on
        one.state = "paused"
        one.run(one.after(one.run_on, cycles))
    else:
        raise _invalid_state()
    return success(ask.account.true())


def unpause(simulator: Simulator, ask: Ask) -> Response:
    """Back to the first date of the old schedule that has not passed."""
    one = _changeable(simulator, ask, kind=1)
    if one.state != "paused" or not one.paused_from:
        raise _invalid_state()
    today, on = simulator.now().astimezone(SAST).date(), one.paused_from
    while on < today:
        on = one.after(on)
    one.state, one.paused_from = "active", None
    one.run(on)
    return success(ask.account.true())


def update(simulator: Simulator, ask: Ask) -> Response:
    """At least one of amount (cents), frequency, cycles, run_date; all or nothing."""
    one = _changeable(simulator, ask, kind=1)
    amount = _whole(ask.body, "amount", lowest=MINIMUM)
    frequency = _frequency(ask)
    cycles = _whole(ask.body, "cycles", lowest=0)
    run_on = _run_date(simulator, ask)
    if (amount, frequency, cycles, run_on) == (None, None, None, None):
        raise Refusal(400, "Required variables not present in request")
    if one.state not in ("active", "paused") or (cycles and cycles <= one.cycles_complete):
        raise _invalid_state()
    ignored = ask.account.habits.update_ignores
    if amount is not None and "amount" not in ignored:
        one.amount = amount
    if frequency is not None and "frequency" not in ignored:
        one.frequency = frequency
    if cycles is not None and "cycles" not in ignored:
        one.cycles = cycles
    if run_on is not None and "run_date" not in ignored:
        one.day = run_on.day
        one.run(run_on)
    return success(shown(simulator, one) if ask.account.habits.update_answers_object else ask.account.true())


def _frequency(ask: Ask) -> int | None:
    frequency = _whole(ask.body, "frequency")
    offered = [3, 4, 5, 6] if ask.account.sandbox else list(FREQUENCIES)
    if frequency is not None and frequency not in offered:
        raise Refusal(400, "Value for frequency is not in the expected format")
    return frequency


def _run_date(simulator: Simulator, ask: Ask) -> date | None:
    if "run_date" not in ask.body:
        return None
    on = _day(str(ask.body["run_date"]), "run_date")
    if on < simulator.now().astimezone(SAST).date():
        raise Refusal(400, "Value for run_date is in the past")
    return on


def adhoc(simulator: Simulator, ask: Ask) -> Response:
    """Charge an agreement at once."""
    one = _subscription(simulator, ask)
    amount = _whole(ask.body, "amount", lowest=MINIMUM)
    if amount is None or not ask.body.get("item_name"):
        raise Refusal(400, "Required variables not present in request")
    if ask.account.habits.refuses_changes or one.kind != 2 or one.state != "active":
        raise _invalid_state()
    order = replace(
        one.order,
        item=str(ask.body["item_name"]),
        description=str(ask.body.get("item_description") or ""),
        m_payment_id=str(ask.body.get("m_payment_id") or ""),
    )
    if one.failing or simulator.mode == "decline":
        simulator.book(order, amount, simulator.now(), token=one.token, status="FAILED")
        raise Refusal(400, "Transaction was unsuccessful(51)", business=True)
    payment = simulator.book(order, amount, simulator.now(), token=one.token)
    if as_text(ask.body.get("itn", True)) not in ("0", "false"):
        simulator.notify(payment)
    return success(ask.account.true(), "Transaction was successful(00)", pf_payment_id=payment.pf_payment_id)


def _subscription(simulator: Simulator, ask: Ask) -> Subscription:
    one = simulator.subscriptions.get(ask.subject)
    if one is None or one.order.merchant_id != ask.account.merchant_id:
        raise Refusal(404, "Service / endpoint not found")
    return one


def _changeable(simulator: Simulator, ask: Ask, kind: int | None = None) -> Subscription:
    one = _subscription(simulator, ask)
    if _refuses(simulator, ask) or (kind and one.kind != kind):
        raise _invalid_state()
    return one


def _refuses(simulator: Simulator, ask: Ask) -> bool:
    """Whether nothing may be changed at the moment, for a reason of PayFast's own."""
    return ask.account.habits.refuses_changes or simulator.mode == "decline"


def _invalid_state() -> Refusal:
    return Refusal(400, "The subscription is not in a valid state.", response=4, business=True)


def _whole(
    fields: Mapping[str, Any], name: str, default: int | None = None, lowest: int | None = None
) -> int | None:
    value = fields.get(name, default)
    if value is None:
        return None
    text = as_text(value)
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,9}", text) or (lowest and int(text) < lowest):
        raise Refusal(400, f"Value for {name} is not in the expected format")
    return int(text)


def _day(text: str, name: str) -> date:
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise Refusal(400, f"Value for {name} is not in the expected format")


# Payments, refunds and the report over the API


def query_payment(simulator: Simulator, ask: Ask) -> Response:
    """The state of a payment, or of the last one of a token."""
    mine = [
        one
        for one in simulator.account(ask.account.merchant_id).payments()
        if ask.subject in (one.pf_payment_id, one.token)
    ]
    if not mine:
        raise Refusal(404, "Service / endpoint not found")
    one = mine[-1]
    paid = one.status == "COMPLETE"
    return success(
        {
            "pf_payment_id": int(one.pf_payment_id),
            "m_payment_id": one.order.m_payment_id,
            "status": one.status,
            "amount": one.gross,
            "cc_status": "00" if paid else "51",
            "cc_message": "Approved or completed successfully (00)" if paid else "Not sufficient funds (51)",
        }
    )


def query_refund(simulator: Simulator, ask: Ask) -> Response:
    """Whether and how a payment can be paid back."""
    payment = _refundable(simulator, ask)
    bank = payment.funding == "EF"
    left = payment.available
    way = {"method": "NOT_AVAILABLE" if not left else "BANK_PAYOUT" if bank else "PAYMENT_SOURCE"}
    whole = left == payment.gross
    return success(
        {
            "token": str(
                uuid.uuid5(uuid.NAMESPACE_URL, f"https://payfast.example/p/{payment.pf_payment_id}")
            ),
            "funding_type": "EFT" if bank else "Credit Card",
            "amount_original": payment.gross,
            "amount_available_for_refund": left,
            "status": "REFUNDABLE" if left else "COMPLETED" if payment.refunds else "NOT_AVAILABLE",
            "errors": [] if left or payment.refunds else ["This payment can not be refunded"],
            "refund_full": way if whole else {"method": "NOT_AVAILABLE"},
            "refund_partial": way,
            "bank_names": [{"bank_name": "FNB", "label": "FNB"}] if bank else [],
        }
    )


def get_refunds(simulator: Simulator, ask: Ask) -> Response:
    """The payment and its refunds; amounts mix numbers and text, as PayFast's do."""
    payment = _refundable(simulator, ask)
    received = {"amount": payment.gross, "date": local(payment.at), "type": "Funds Received"}
    returned = [
        {"amount": str(-one.minor), "date": local(one.at), "type": "Funds Received (Refund)"}
        for one in payment.refunds
    ]
    return success({"available_balance": payment.available, "transactions": [received, *returned]}, "success")


def create_refund(simulator: Simulator, ask: Ask) -> Response:
    payment = _refundable(simulator, ask)
    amount = _whole(ask.body, "amount", lowest=1)
    reason = str(ask.body.get("reason") or "")
    needed = ["notify_buyer"]
    if payment.funding == "EF":
        needed += ["bank_name", "bank_branch_code", "bank_account_number", "bank_account_type"]
    if amount is None or not 3 <= len(reason) <= 255 or any(name not in ask.body for name in needed):
        raise Refusal(400, "Required variables not present in request")
    if _refuses(simulator, ask) or amount > payment.available:
        raise Refusal(400, "Failure", business=True)
    payment.refunds.append(Refund(simulator.now(), amount, reason))
    return success(ask.account.true())


def _refundable(simulator: Simulator, ask: Ask) -> Payment:
    """Refunds are not there in the sandbox."""
    payment = simulator.payments.get(ask.subject)
    if ask.account.sandbox or payment is None or payment.order.merchant_id != ask.account.merchant_id:
        raise Refusal(404, "Service / endpoint not found")
    return payment


def history(simulator: Simulator, ask: Ask) -> Response:
    """The report of money received and returned between two days, both included."""
    today = simulator.now().astimezone(SAST).date()
    first = _day(ask.query["from"], "from") if "from" in ask.query else today.replace(day=1)
    last = _day(ask.query["to"], "to") if "to" in ask.query else today
    return _report(simulator, ask, first, last)


def history_of(simulator: Simulator, ask: Ask) -> Response:
    """The report of the day, week or month that holds or begins on a date."""
    text = ask.query.get("date", simulator.now().astimezone(SAST).date().isoformat())
    if ask.subject == "monthly":
        first = _day(f"{text[:7]}-01", "date")
        return _report(simulator, ask, first, step(first, 3, 1) - timedelta(days=1))
    first = _day(text, "date")
    return _report(simulator, ask, first, first + timedelta(days=6 if ask.subject == "weekly" else 0))


def _report(simulator: Simulator, ask: Ask, first: date, last: date) -> Response:
    limit = _whole(ask.query, "limit", 1000)
    offset = _whole(ask.query, "offset", 0) or 0
    rows = [
        row for at, row in report_rows(simulator, ask.account) if first <= at.astimezone(SAST).date() <= last
    ]
    columns = list(REPORT_COLUMNS)
    if ask.account.habits.batch_ids:
        columns.insert(columns.index("Gross"), "Batch ID")
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows[offset : offset + (limit or 0)])
    if ask.account.habits.history == "csv":
        return Response(text.getvalue(), media_type="text/csv")
    if ask.account.habits.history == "json":
        return JSONResponse({"response": text.getvalue()})
    return success(text.getvalue())


def report_rows(simulator: Simulator, account: Account) -> list[tuple[datetime, dict[str, str]]]:
    """Every movement of money of an account with the balance after it, oldest first."""
    movements: list[tuple[datetime, Payment, int, int]] = []
    for payment in simulator.account(account.merchant_id).payments():
        if payment.status == "COMPLETE" and payment.gross:
            movements.append((payment.at, payment, payment.gross, fee(payment.gross)))
            movements += [(refund.at, payment, -refund.minor, 0) for refund in payment.refunds]
    balance, rows = 0, []
    for at, payment, gross, charged in sorted(movements, key=lambda one: one[0]):
        balance += gross - charged
        rows.append((at, _report_row(at, payment, gross, charged, balance)))
    return rows


def _report_row(at: datetime, payment: Payment, gross: int, charged: int, balance: int) -> dict[str, str]:
    order = payment.order
    return {
        "Date": local(at),
        "Type": "FUNDS_RECEIVED" if gross > 0 else "FUNDS_RECEIVED_REFUND",  # the second is UNVERIFIED
        "Sign": "CREDIT" if gross > 0 else "DEBIT",
        "Party": f"{order.first} {order.last}".strip(),
        "Name": order.item,
        "Description": order.description,
        "Currency": "ZAR",
        "Funding Type": payment.funding,
        "Batch ID": at.astimezone(SAST).strftime("%Y%m%d"),
        "Gross": rand(gross, ","),
        "Fee": rand(-charged, ","),
        "Net": rand(gross - charged, ","),
        "Balance": rand(balance, ","),
        "M Payment ID": order.m_payment_id,
        "PF Payment ID": payment.pf_payment_id,
        **{name.replace("_", " "): order.custom.get(name, "") for name in (*STRINGS, *INTEGERS)},
    }


@dataclass(frozen=True, slots=True)
class Operation:
    method: str
    path: re.Pattern[str]
    answer: Callable[[Simulator, Ask], Response]
    signed: bool = True


def _operation(
    method: str, path: str, answer: Callable[[Simulator, Ask], Response], signed: bool = True
) -> Operation:
    return Operation(method, re.compile(path.replace("{}", "(?P<subject>[^/]+)")), answer, signed)


OPERATIONS = (
    _operation("GET", "/ping", ping, signed=False),
    _operation("GET", "/subscriptions/{}/fetch", fetch),
    _operation("PUT", "/subscriptions/{}/cancel", cancel),
    _operation("PUT", "/subscriptions/{}/pause", pause),
    _operation("PUT", "/subscriptions/{}/unpause", unpause),
    _operation("PATCH", "/subscriptions/{}/update", update),
    _operation("POST", "/subscriptions/{}/adhoc", adhoc),
    _operation("GET", "/transactions/history", history),
    _operation("GET", "/transactions/history/(?P<subject>daily|weekly|monthly)", history_of),
    _operation("GET", "/process/query/{}", query_payment),
    _operation("GET", "/refunds/query/{}", query_refund),
    _operation("GET", "/refunds/{}", get_refunds),
    _operation("POST", "/refunds/{}", create_refund),
)


# ITNs


def itn_pairs(payment: Payment, status: str, blank: bool = False) -> list[tuple[str, str]]:
    """The fields of an ITN in PayFast's order, blank ones kept, without the signature."""
    order, charged = payment.order, fee(payment.gross)
    if status != "COMPLETE":
        charged = 0
    pairs = [
        ("m_payment_id", order.m_payment_id),
        ("pf_payment_id", payment.pf_payment_id),
        ("payment_status", status),
        ("item_name", order.item),
        ("item_description", order.description),
        ("amount_gross", "" if blank else rand(payment.gross)),
        ("amount_fee", "" if blank else rand(-charged)),
        ("amount_net", "" if blank else rand(payment.gross - charged)),
        *((name, order.custom.get(name, "")) for name in (*STRINGS, *INTEGERS)),
        ("name_first", order.first),
        ("name_last", order.last),
        ("email_address", order.email),
        ("merchant_id", order.merchant_id),
    ]
    if payment.token:
        pairs.append(("token", payment.token))
        if payment.billing_on:
            pairs.append(("billing_date", payment.billing_on.isoformat()))
    return pairs


def fee(gross: int) -> int:
    """What PayFast keeps of a card payment, in cents: 3.9 % and R2, with VAT, as in the documents' sample report."""
    exact = (Decimal(gross) * Decimal("0.039") + 200) * Decimal("1.15")
    return min(int(exact.quantize(Decimal(1), ROUND_HALF_UP)), gross) if gross else 0


# Signatures, texts and days


def api_signature(fields: Mapping[str, Any], passphrase: str) -> str:
    """All fields that are not empty and the passphrase, sorted together by name."""
    texts = {name: as_text(value) for name, value in {**fields, "passphrase": passphrase}.items()}
    return md5(php_query((name, text) for name, text in sorted(texts.items()) if text))


def itn_signature(pairs: Iterable[tuple[str, str]], passphrase: str) -> str:
    """All pairs as they stand, blanks kept, the passphrase last."""
    end = [("passphrase", passphrase)] if passphrase else []
    return md5(php_query([*pairs, *end]))


def checkout_signature(fields: Mapping[str, str], passphrase: str) -> str:
    """The known fields in their documented order, trimmed, blanks dropped, the passphrase last."""
    pairs = [(name, fields.get(name, "").strip()) for name in CHECKOUT_FIELDS]
    return itn_signature([pair for pair in pairs if pair[1]], passphrase.strip())


def php_query(pairs: Iterable[tuple[str, str]]) -> str:
    """Pairs as PHP's urlencode writes them: spaces as +, and ~ escaped too."""
    return "&".join(f"{name}={quote_plus(value).replace('~', '%7E')}" for name, value in pairs)


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def read_form(body: bytes) -> list[tuple[str, str]]:
    """The pairs of a form in their order, blanks kept."""
    return parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)


def as_text(value: Any) -> str:
    """A JSON value as PHP would put it into a query."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)


def rand(minor: int, thousands: Literal["", ","] = "") -> str:
    """Cents as rand with two decimals: "120.00", "-4.60", "22,574.02"."""
    units, cents = divmod(abs(minor), 100)
    return f"{'-' if minor < 0 else ''}{units:{thousands}}.{cents:02d}"


def local(at: datetime) -> str:
    return at.astimezone(SAST).strftime("%Y-%m-%d %H:%M:%S")


def midnight(on: date) -> datetime:
    """When a day begins in South Africa. The hour of charging is not documented; this is the earliest."""
    return datetime.combine(on, time(), SAST)


def step(on: date, frequency: int, day: int, times: int = 1) -> date:
    """The run date some cycles later, on the wanted day of the month where the month has it."""
    if frequency not in MONTHS:
        return on + timedelta(days=times * (7 if frequency == 2 else 1))
    months = on.month - 1 + MONTHS[frequency] * times
    year, month = on.year + months // 12, months % 12 + 1
    return date(year, month, min(day, calendar.monthrange(year, month)[1]))


# Pages with buttons


View = Callable[[Simulator, Request, Mapping[str, str]], Response]


def card_page(simulator: Simulator, request: Request, form: Mapping[str, str]) -> Response:
    """Where the buyer changes the card of a token. Whoever has the address may; nothing goes back with them."""
    one = simulator.subscriptions.get(request.path_params["token"])
    if one is None:
        return page("Page not found", say("This link is not known to PayFast."), 404)
    if simulator.accounts[one.order.merchant_id].sandbox:
        return page("Not in the sandbox", say("Cards can be changed in live accounts only."), 403)
    if one.state in ("cancelled", "complete"):
        return page("Subscription ended", say("There is nothing left to pay, so no card is needed."), 409)
    back = request.query_params.get("return", "")
    if back and not _is_web_address(back):
        return page("Address not valid", say("The address to return to is not valid."), 400)
    if request.method == "GET":
        return page("Update your card", _card_form(one, "", bool(back)))
    if form.get("do") == "back":
        return RedirectResponse(back, 303) if back else page("Nothing changed", say("Your card stays."))
    if problem := card_problem(simulator, chosen(form)):
        return page("Update your card", _card_form(one, problem, bool(back)), 422)
    one.card, _, good = CARDS[chosen(form)]
    one.failing = not good
    return RedirectResponse(back, 303) if back else page("Card saved", say("PayFast has your new card."))


def open_checkout(simulator: Simulator, request: Request, form: Mapping[str, str]) -> Response:
    """A shop's signed form; the buyer goes on at a page of their own."""
    if problem := checkout_problem(simulator, form):
        return page("Payment can't be started", say(problem), 400)
    number = str(uuid.uuid4())
    simulator.checkouts[number] = dict(form)
    return RedirectResponse(f"/eng/process/payment/{number}", 303)


def checkout_page(simulator: Simulator, request: Request, form: Mapping[str, str]) -> Response:
    """Pay or go back. The ITN leaves before the buyer does."""
    number = request.path_params["checkout"]
    fields = simulator.checkouts.get(number)
    if fields is None:
        return page("Page not found", say("This payment is not known, or it is finished."), 404)
    title = f"Pay {fields.get('item_name', '')}"
    if request.method == "GET":
        return page(title, _pay_form(fields, ""))
    if form.get("do") == "back":
        del simulator.checkouts[number]
        target = fields.get("cancel_url", "")
        return RedirectResponse(target, 303) if target else page("Not paid", say("Nothing was charged."))
    problem = card_problem(simulator, chosen(form))
    if not problem and fields.get("subscription_type") == "2" and not cents(fields["amount"]):
        problem = (
            "The bank's check of your card failed."  # seen in life: R0.00 never passes 3DS, and no ITN comes
        )
    if problem:
        return page(title, _pay_form(fields, problem), 422)
    complete_checkout(simulator, fields, chosen(form))
    del simulator.checkouts[number]
    target = fields.get("return_url", "")
    return RedirectResponse(target, 303) if target else page("Thank you", say("Your payment is complete."))


def complete_checkout(simulator: Simulator, fields: Mapping[str, str], card: str) -> None:
    """Take the payment of a checkout, and make its token where it asks for one."""
    order = Order(
        fields["merchant_id"],
        fields.get("email_address", ""),
        fields.get("name_first", ""),
        fields.get("name_last", ""),
        fields.get("item_name", ""),
        fields.get("item_description", ""),
        fields.get("m_payment_id", ""),
        {name: fields[name] for name in (*STRINGS, *INTEGERS) if name in fields},
        fields.get("notify_url") or None,
    )
    amount, kind = cents(fields["amount"]) or 0, fields.get("subscription_type")
    if not kind:
        simulator.notify(simulator.book(order, amount, simulator.now()))
        return
    one = Subscription(simulator.new_token(), int(kind), order, simulator.now(), initial=amount)
    one.card, one.failing = CARDS[card][0], not CARDS[card][2]
    if kind == "2":
        simulator.subscriptions[one.token] = one
        simulator.notify(simulator.book(order, amount, simulator.now(), token=one.token))
        return
    one.amount = cents(fields.get("recurring_amount", "")) or amount
    one.frequency, one.cycles = int(fields["frequency"]), int(fields["cycles"])
    first = fields.get("billing_date")
    simulator.subscribe(one, date.fromisoformat(first) if first else None)


def checkout_problem(simulator: Simulator, fields: Mapping[str, str]) -> str | None:
    """Why a checkout form is refused, as a sentence."""
    account = simulator.accounts.get(fields.get("merchant_id", ""))
    if account is None or fields.get("merchant_key") != account.merchant_key:
        return "The merchant is not known: check merchant_id and merchant_key."
    if fields.get("signature") != checkout_signature(fields, account.passphrase):
        return "The signature of the form does not match: check the passphrase and the order of the fields."
    kind = fields.get("subscription_type", "")
    amount = cents(fields.get("amount", ""))
    recurring = cents(fields.get("recurring_amount") or fields.get("amount", ""))
    if amount is None or (amount < MINIMUM and not (kind and amount == 0)):
        return f"amount must be at least {rand(MINIMUM)}."
    if not fields.get("item_name") and amount:
        return "item_name is missing."
    if fields.get("currency", "ZAR") != "ZAR":
        return "currency must be ZAR."
    if kind not in ("", "1", "2"):
        return "subscription_type must be 1 or 2."
    if kind and not account.passphrase:
        return "Subscriptions need a passphrase on the account."
    if kind == "1":
        return _subscription_problem(account, fields, recurring)
    return None


def _subscription_problem(account: Account, fields: Mapping[str, str], recurring: int | None) -> str | None:
    offered = "3456" if account.sandbox else "123456"
    if len(fields.get("frequency", "")) != 1 or fields["frequency"] not in offered:
        return f"frequency must be one of {', '.join(offered)}."
    if not re.fullmatch(r"\d{1,4}", fields.get("cycles", "")):
        return "cycles is missing or not a number."
    if recurring is None or recurring < MINIMUM:
        return f"recurring_amount must be at least {rand(MINIMUM)}."
    try:
        _day(fields.get("billing_date") or "2000-01-01", "billing_date")
    except Refusal:
        return "billing_date must be a day such as 2026-12-31."
    return None


def chosen(form: Mapping[str, str]) -> str:
    """The card of a form; one of the buttons lets the bank refuse, whichever card is chosen."""
    return "refused" if form.get("do") == "decline" else form.get("card", "")


def card_problem(simulator: Simulator, card: str) -> str | None:
    """Why a card is not taken, as a sentence; None where it is."""
    if card not in CARDS:
        return "Choose a card."
    if simulator.mode == "decline" or not CARDS[card][1]:
        return "The bank refused this card. Choose another one."
    return None


def cents(text: str) -> int | None:
    """Rand with at most two decimals, such as "120.00", in cents; None where it is no such amount."""
    try:
        value = Decimal(text) * 100
    except InvalidOperation:
        return None
    whole = value.is_finite() and 0 <= value < 10**9 and value == value.to_integral_value()
    return int(value) if whole else None


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _card_form(one: Subscription, problem: str, goes_back: bool) -> str:
    about = f"{say(f'Subscription: {one.order.item}')}{say(f'Card now: {one.card}')}"
    other = "Cancel and go back" if goes_back else "Cancel"
    first = next(key for key, (label, saved, good) in CARDS.items() if saved and good and label != one.card)
    return about + _form(problem, "Save card", other, first)


def _pay_form(fields: Mapping[str, str], problem: str) -> str:
    amount = f"R{rand(cents(fields['amount']) or 0)}"
    about = say(fields.get("item_description", "")) + say(f"Amount now: {amount}")
    if fields.get("subscription_type") == "1":
        later = rand(cents(fields.get("recurring_amount") or fields["amount"]) or 0)
        about += say(f"Then R{later} every {FREQUENCIES[int(fields['frequency'])]}")
    return about + _form(problem, f"Pay {amount}", "Cancel and go back", "visa")


def _form(problem: str, do: str, other: str, first: str) -> str:
    """The cards, of which `first` is chosen already, and what can be done."""
    cards = "".join(
        f'<p><input type="radio" name="card" id="card-{key}" value="{key}"{" checked" if key == first else ""}>'
        f' <label for="card-{key}">{html.escape(label)}</label></p>'
        for key, (label, _, _) in CARDS.items()
    )
    alert = f'<p role="alert" class="alert">{html.escape(problem)}</p>' if problem else ""
    return (
        f'{alert}<form method="post"><fieldset><legend>Test card</legend>{cards}</fieldset>'
        f'<p><button name="do" value="save" data-test="accept">{html.escape(do)}</button> '
        '<button name="do" value="decline" class="other" data-test="decline">Let the bank refuse</button> '
        f'<button name="do" value="back" class="other" data-test="back">{html.escape(other)}</button></p></form>'
    )


def say(text: str) -> str:
    return f"<p>{html.escape(text)}</p>" if text else ""


STYLE = """
body { font: 1.1rem/1.5 system-ui, sans-serif; color: #1c1c28; background: #f3f3f6; margin: 0; }
main { max-width: 30rem; margin: 2rem auto; padding: 1.5rem; background: #fff; border-radius: .5rem; }
header { font-size: .9rem; color: #55556a; }
fieldset { border: 1px solid #8a8a9c; border-radius: .25rem; }
button { font: inherit; padding: .6rem 1.2rem; min-height: 44px; border: 2px solid #a3001f; border-radius: .25rem;
  background: #a3001f; color: #fff; cursor: pointer; }
button.other { background: #fff; color: #a3001f; }
button:focus-visible, input:focus-visible { outline: 3px solid #1a56db; outline-offset: 2px; }
.alert { padding: .75rem; background: #fde8ea; color: #7a0017; }
"""


def page(title: str, body: str, status: int = 200) -> Response:
    """A whole document: one main heading, no script."""
    shown_title = html.escape(title)
    return HTMLResponse(
        f'<!doctype html><html lang="en-ZA"><head><meta charset="utf-8"><title>{shown_title} – PayFast test page'
        f'</title><meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main><header>PayFast test page: no money moves here</header><h1>{shown_title}</h1>{body}</main>"
        "</body></html>",
        status,
        {"cache-control": "no-store"},
    )


# The contract


def validator(spec_folder: Path) -> "Contract":
    """The contract in a folder, to be set as `simulator.validator`; FileNotFoundError where there is none."""
    return Contract(json.loads((spec_folder / "contract.json").read_text()))


AGREEMENT = {"status", "status_reason", "status_text", "token"}
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True, slots=True)
class Field:
    """One line of the contract, such as "amount:int cents" or "run_date:YYYY-MM-DD?"."""

    name: str
    kind: str
    needed: bool

    @classmethod
    def read(cls, line: str) -> "Field":
        name, _, kind = line.split(" only for ")[0].partition(":")
        default = re.fullmatch(r"[a-z]+=\S+", kind)
        needed = not (line.endswith("?") or "*" in name or default)
        return cls(re.split(r"[\[?]", name)[0], re.split(r"[ =?]", kind)[0], needed)

    def covers(self, name: str) -> bool:
        return name == self.name or (self.name.endswith("*") and name.startswith(self.name[:-1]))

    def fits(self, value: Any, wire: bool) -> bool:
        """Whether a value is of the kind; on the wire numbers and booleans may be text."""
        if self.kind == "int":
            return _is_int(value) or (wire and re.fullmatch(r"\d+", str(value)) is not None)
        if self.kind == "bool":
            return isinstance(value, bool) or (wire and str(value) in ("true", "false", "0", "1"))
        if self.kind == "str":
            return isinstance(value, str)
        if self.kind == "YYYY-MM-DD":
            return isinstance(value, str) and _DAY.fullmatch(value) is not None
        if self.kind == "ISO":
            return isinstance(value, str) and _DAY.match(value) is not None and "T" in value
        if bounds := re.fullmatch(r"(\d+)\.\.(\d+)", self.kind):
            return _is_int(value) and int(bounds[1]) <= value <= int(bounds[2])
        return "|" not in self.kind or value in self.kind.split("|")


class Contract:
    """Holds requests, answers and ITNs against the contract; problems come back as sentences."""

    def __init__(self, contract: Mapping[str, Any]) -> None:
        self._headers: list[str] = contract["headers"]
        self._statuses = {200, *(int(code) for code in contract["errors"])}
        self._itn_fields = [name for line in contract["itn_fields"] for name in _spread(line)]
        self._operations = [
            (one["method"], re.compile(re.sub(r"\{[^}]*\}", "[^/]+", one["path"])), one)
            for one in contract["operations"]
        ]

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        body: Mapping[str, Any],
    ) -> list[str]:
        """What is wrong with a request."""
        operation = self._find(method, path)
        if operation is None:
            return [f"{method} {path} is no operation of the contract."]
        where = operation["op"]
        missing = [
            f"{where}: the header {name} is missing." for name in self._headers if not headers.get(name)
        ]
        asked = {name: value for name, value in query.items() if name != "testing"}
        return [
            *missing,
            *_wrong(where, "query", operation.get("query", []), asked, all_needed=False),
            *_wrong(where, "body", operation.get("body", []), body, all_needed=True),
        ]

    def answer(self, method: str, path: str, status: int, text: str) -> list[str]:
        """What is wrong with an answer."""
        operation = self._find(method, path)
        where = operation["op"] if operation else f"{method} {path}"
        if status not in self._statuses:
            return [f"{where}: the status {status} is not in the contract."]
        shape = operation.get("response") if operation and status == 200 else None
        try:
            said = json.loads(text)
        except ValueError:
            is_report = isinstance(shape, str) and shape.startswith("CSV") and text.startswith("Date,")
            return [] if is_report else [f"{where}: the answer is neither JSON nor a report."]
        if shape == "JSON string":
            return [] if isinstance(said, str) else [f"{where}: the answer is not a JSON string."]
        if isinstance(shape, str) and isinstance(said, dict) and set(said) == {"response"}:
            return []
        return _wrong_envelope(where, said, shape if isinstance(shape, list) else [])

    def itn(self, names: list[str]) -> list[str]:
        """What is wrong with the fields of an ITN: unknown, missing, or out of order."""
        needed = [name for name in self._itn_fields if not name.endswith("?")]
        allowed = [name.rstrip("?") for name in self._itn_fields]
        in_order = [name for name in allowed if name in names]
        if names != in_order:
            return ["ITN: the fields are not those of the contract, in its order."]
        return [f"ITN: the field {name} is missing." for name in needed if name not in names]

    def _find(self, method: str, path: str) -> Mapping[str, Any] | None:
        return next(
            (one for verb, form, one in self._operations if verb == method and form.fullmatch(path)), None
        )


def _wrong(
    where: str, part: str, lines: list[str], given: Mapping[str, Any], *, all_needed: bool
) -> list[str]:
    fields = [Field.read(line) for line in lines]
    problems = []
    for name, value in given.items():
        known = next((one for one in fields if one.covers(name)), None)
        if known is None:
            problems.append(f"{where}: the {part} has an unknown field {name}.")
        elif value is None or value == "":
            problems.append(
                f"{where}: {name} in the {part} is empty; sources differ on whether that is signed."
            )
        elif not known.fits(value, wire=True):
            problems.append(f"{where}: {name} in the {part} is not {known.kind}.")
    if all_needed:
        missing = [one.name for one in fields if one.needed and one.name not in given]
        problems += [f"{where}: {name} is missing in the {part}." for name in missing]
    return problems


def _wrong_envelope(where: str, said: Any, lines: list[str]) -> list[str]:
    data = said.get("data") if isinstance(said, dict) else None
    if not isinstance(data, dict) or not _is_int(said.get("code")):
        return [f"{where}: the answer is not the envelope."]
    problems = []
    if said.get("status") not in ("success", "failed"):
        problems.append(f"{where}: the status in the envelope is neither success nor failed.")
    if unknown := set(data) - {"response", "message", "pf_payment_id"}:
        problems.append(f"{where}: data has unknown fields: {', '.join(sorted(unknown))}.")
    response = data.get("response")
    if not isinstance(response, dict | bool | int | str):
        problems.append(f"{where}: response is none of object, boolean, number and text.")
    if not isinstance(response, dict) or not lines or set(response) == AGREEMENT:
        return problems
    fields = {one.name: one for one in map(Field.read, lines)}
    problems += [f"{where}: {name} is not in the contract." for name in sorted(set(response) - set(fields))]
    problems += [f"{where}: {name} is missing in the answer." for name in sorted(set(fields) - set(response))]
    problems += [
        f"{where}: {name} in the answer is not {fields[name].kind}."
        for name, value in response.items()
        if name in fields and not fields[name].fits(value, wire=False)
    ]
    return problems


def _spread(line: str) -> list[str]:
    """ "custom_str1..5" as five names; any other as it is."""
    if found := re.fullmatch(r"(\w+?)(\d+)\.\.(\d+)", line):
        return [f"{found[1]}{number}" for number in range(int(found[2]), int(found[3]) + 1)]
    return [line]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
