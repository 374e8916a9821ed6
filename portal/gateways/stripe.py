"""Stripe, API version 2026-10-28.endive, through the official SDK: its synchronous client, in threads of its own.

Objects are read as plain JSON. Since 2025 the period stands on the subscription's item, and invoices and charges are
joined by `invoice_payment`; stored events and old accounts still have the old places, so each is read there second.
Sources: https://docs.stripe.com/api and https://github.com/stripe/openapi
"""

import asyncio
import hashlib
import hmac
import json
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import httpx2 as httpx

from portal import clock
from portal.gateways.base import (
    BadSignature,
    CustomerRecord,
    Declined,
    Document,
    Event,
    Failure,
    Gateway,
    GatewayError,
    Gone,
    Health,
    Interval,
    InvoiceRecord,
    InvoiceStatus,
    Leave,
    Line,
    Method,
    NextPayment,
    OrderRecord,
    OrderStatus,
    Page,
    PaymentRecord,
    PaymentStatus,
    PendingChange,
    Record,
    Ref,
    RefundRecord,
    RefundStatus,
    Snapshot,
    SubscriptionRecord,
    SubscriptionStatus,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import facts
from portal.gateways.http import CONNECT_S, PATIENT_S, READ_S, TOTAL_S, breaker
from portal.money import Money, from_units

if TYPE_CHECKING:
    import stripe

Json = dict[str, Any]

API, VERSION = "api.stripe.com", "2026-10-28.endive"
TOLERANCE_S = 300
RATE_LIMIT_REST_S, LOCK_REST_S = 2.0, 2.0
MAX_FILE = 20 * 1024 * 1024
NEXT_KEYS = ("", "-b", "-c", "-d")  # what follows a key whose answer Stripe keeps as a 500

SUBSCRIPTION_ENDS: dict[str, SubscriptionStatus] = {
    "canceled": "cancelled",
    "incomplete_expired": "expired",
    "incomplete": "incomplete",
    "paused": "paused",
}
REFUND_STATUSES: dict[str, RefundStatus] = {
    "pending": "pending",
    "requires_action": "pending",
    "succeeded": "sent",
    "failed": "failed",
    "canceled": "cancelled",
}
INVOICE_STATUSES: dict[str, InvoiceStatus] = {
    "draft": "draft",
    "open": "open",
    "paid": "paid",
    "void": "void",
    "uncollectible": "overdue",  # given up by the shop, still owed
}
ORDER_OF_PAYMENT: dict[PaymentStatus, OrderStatus] = {
    "pending": "open",
    "authorized": "open",
    "paid": "paid",
    "disputed": "paid",
    "partially_refunded": "partially_refunded",
    "refunded": "refunded",
    "failed": "failed",
    "cancelled": "cancelled",
    "expired": "expired",
}
BANK_DEBITS = {
    "sepa_debit",
    "us_bank_account",
    "bacs_debit",
    "au_becs_debit",
    "acss_debit",
    "nz_bank_account",
}
WALLETS = {"link", "paypal", "cashapp", "amazon_pay", "revolut_pay", "alipay", "wechat_pay", "mobilepay"}
WALLETS |= {
    "kakao_pay",
    "naver_pay",
    "samsung_pay",
    "payco",
    "grabpay",
    "paypay",
    "satispay",
    "swish",
    "twint",
}
BRANDS = {
    "amex": "American Express",
    "diners": "Diners Club",
    "jcb": "JCB",
    "unionpay": "UnionPay",
    "paypal": "PayPal",
    "cashapp": "Cash App",
    "sepa_debit": "SEPA",
}

# What `check` asks of a restricted key. The writes name objects that do not exist, so that nothing can happen.
READS = (
    "customers subscriptions invoices invoice_payments charges refunds payment_intents checkout/sessions products"
).split()
NOBODY = "portal_key_check"
WRITES: tuple[tuple[str, Json], ...] = (
    (f"subscriptions/{NOBODY}", {}),
    (f"customers/{NOBODY}", {}),
    ("invoices/create_preview", {"subscription": NOBODY}),
    (f"checkout/sessions/{NOBODY}/expire", {}),
    ("billing_portal/sessions", {"customer": NOBODY}),
)
STEPS = ("customer", "subscription", "invoice", "order", "payment")

# A thread of its own for every call, so that a slow Stripe holds up nobody else's threads.
_callers = ThreadPoolExecutor(16, thread_name_prefix="stripe")


@dataclass
class _Refusal(Exception):
    """What came instead of an object: Stripe's error, or no answer at all (status 0)."""

    status: int = 0
    error: Json = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    reached: bool = True

    @property
    def worth_another_try(self) -> bool:
        said = self.headers.get("stripe-should-retry")
        if said in ("true", "false"):
            return said == "true"
        return self.status in (0, 409) or self.status >= 500

    @property
    def replayed(self) -> bool:
        """A saved failure, given again. Without the header (its absence is UNVERIFIED) nothing is assumed."""
        return self.status >= 500 and self.headers.get("idempotent-replayed") == "true"


class Adapter(Gateway):
    """One Stripe account. Credentials: secret_key, webhook_secret; optional webhook_secret_old, portal_configuration."""

    def __init__(
        self,
        credentials: Mapping[str, str],
        *,
        variant: str | None = None,
        addresses: Mapping[str, str] | None = None,
        patient: bool = False,
    ) -> None:
        super().__init__(credentials, variant=variant, addresses=addresses, patient=patient)
        self._key = credentials["secret_key"].strip()
        self._live = "_live_" in self._key
        self._total = PATIENT_S if patient else TOTAL_S
        self._sdk: stripe.StripeClient | None = None
        self._wire: httpx.Client | None = None
        self._making = threading.Lock()
        self._names: dict[str, str | None] = {}

    async def aclose(self) -> None:
        if self._wire is not None:
            await asyncio.get_running_loop().run_in_executor(_callers, self._wire.close)

    # Are the keys good

    async def check(self) -> Health:
        """Ask for one of everything that is read; a restricted key also tries writes that can have no effect."""
        missing: list[str] = []
        try:
            for path in READS:
                await self._probe(missing, "get", path, {"limit": 1})
            if self._key.startswith("rk_"):
                for path, params in WRITES:
                    await self._probe(missing, "post", path, params)
            account = await self._account_name()
        except _Refusal as refusal:
            error = _error(refusal, writes=False)
            if refusal.status != 401:
                raise error from refusal
            return Health(ok=False, live=self._live, hint=error.hint)
        named = ", ".join(missing)
        hint = f"Give the restricted key these permissions in Stripe: {named}." if missing else None
        return Health(ok=not missing, live=self._live, account=account, missing=tuple(missing), hint=hint)

    async def _probe(self, missing: list[str], method: str, path: str, params: Json) -> None:
        try:
            await self._send(method, f"/v1/{path}", params)
        except _Refusal as refusal:
            if refusal.status == 403:
                permission = _permission(refusal) or path
                missing += [permission] if permission not in missing else []
            elif not (method == "post" and refusal.status in (400, 404)):
                raise

    async def _account_name(self) -> str | None:
        try:
            account = await self._send("get", "/v1/account", {})
        except _Refusal:
            return None  # a restricted key need not see it
        name = (account.get("business_profile") or {}).get("name")
        return name or account.get("id")

    # Reading

    async def backfill(self, cursor: str | None = None) -> AsyncIterator[Page]:
        """Customers, subscriptions, invoices, Checkout orders, charges; the cursor holds the list and the last id."""
        place: Json = json.loads(cursor) if cursor else {"step": STEPS[0], "after": None}
        while True:
            step, as_of = place["step"], clock.now()
            path, params, read = self._lists()[step]
            page = await self._read(path, limit=100, starting_after=place["after"], **params)
            rows = _rows(page)
            records = await read(rows)
            if page.get("has_more") and rows:
                place = {"step": step, "after": rows[-1]["id"]}
            elif step == STEPS[-1]:
                yield Page(_snapshot(as_of, records), None)
                return
            else:
                place = {"step": STEPS[STEPS.index(step) + 1], "after": None}
            yield Page(_snapshot(as_of, records), json.dumps(place))

    def _lists(
        self,
    ) -> dict[str, tuple[str, Json, Callable[[list[Json]], Coroutine[Any, Any, list[Record]]]]]:
        subscriptions = ["data.default_payment_method", "data.latest_invoice"]
        subscriptions.append("data.customer.invoice_settings.default_payment_method")
        sessions = ["data.line_items", "data.payment_intent.latest_charge"]
        return {
            "customer": ("/v1/customers", {}, self._listed_customers),
            "subscription": (
                "/v1/subscriptions",
                {"status": "all", "expand": subscriptions},
                self._listed_subscriptions,
            ),
            "invoice": ("/v1/invoices", {}, self._listed_invoices),
            "order": (
                "/v1/checkout/sessions",
                {"status": "complete", "expand": sessions},
                self._listed_orders,
            ),
            "payment": ("/v1/charges", {"expand": ["data.refunds"]}, self._listed_charges),
        }

    async def _listed_customers(self, rows: list[Json]) -> list[Record]:
        return [_customer(row) for row in rows]

    async def _listed_subscriptions(self, rows: list[Json]) -> list[Record]:
        return [await self._subscription_record(row, _dict(row.get("customer")), look=False) for row in rows]

    async def _listed_invoices(self, rows: list[Json]) -> list[Record]:
        """Which charge paid an invoice, and which order it is of, the charges tell later."""
        return [_without(_invoice(row, await self._lines(row)), "payment", "order") for row in rows]

    async def _listed_orders(self, rows: list[Json]) -> list[Record]:
        found: list[Record] = []
        for row in rows:
            if row.get("mode") == "payment":
                charge = _dict(_dict(row.get("payment_intent")).get("latest_charge"))
                found.append(_order(row, await self._session_lines(row), [charge] if charge else []))
        return found

    async def _listed_charges(self, rows: list[Json]) -> list[Record]:
        origins = await self._origins(rows)
        found: list[Record] = []
        for row in rows:
            invoice, session = origins.get(_id(row.get("payment_intent")) or "", ({}, {}))
            if not invoice and _id(row.get("invoice")):
                invoice = await self._read(f"/v1/invoices/{_id(row['invoice'])}")
            found += await self._charge_records(row, invoice, session, whole=False)
        return found

    async def _origins(self, charges: Sequence[Json]) -> dict[str, tuple[Json, Json]]:
        """Invoice and Checkout session behind the payment intents of a page of charges.

        Both are listed for the time the page covers; a charge that was retried later is looked up by itself.
        """
        wanted = {intent: charge for charge in charges if (intent := _id(charge.get("payment_intent")))}
        if not wanted:
            return {}
        times = [charge["created"] for charge in charges]
        window = {"gte": min(times) - 86_400, "lte": max(times)}  # a session lives a day at most
        found: dict[str, tuple[Json, Json]] = {}
        async for one in self._all("/v1/checkout/sessions", created=window, status="complete"):
            found[_id(one.get("payment_intent")) or ""] = ({}, one)
        async for one in self._all("/v1/invoice_payments", created=window, expand=["data.invoice"]):
            intent = _id((one.get("payment") or {}).get("payment_intent")) or ""
            found[intent] = (_dict(one.get("invoice")), found.get(intent, ({}, {}))[1])
        for intent, charge in wanted.items():
            if intent not in found and _id(charge.get("customer")):
                found[intent] = (await self._invoice_of(intent), {})
        return found

    async def find(self, email: str) -> list[Ref]:
        """Customers and guests' orders of an address, as it was typed and in lower case: Stripe minds the difference."""
        found: dict[Ref, None] = {}
        for address in dict.fromkeys((email, email.lower())):
            async for one in self._all("/v1/customers", email=address):
                found[Ref("customer", one["id"])] = None
            async for one in self._all("/v1/checkout/sessions", customer_details={"email": address}):
                if one.get("mode") == "payment" and one.get("status") == "complete":
                    found[Ref("order", one["id"])] = None
        return list(found)

    async def fetch(self, ref: Ref) -> Snapshot:
        """What Stripe says now of an object and of what hangs on it; raises Gone."""
        as_of = clock.now()
        readers = {
            "customer": self._customer,
            "subscription": self._subscription,
            "payment": self._payment,
            "refund": self._refund,
            "invoice": self._invoice,
            "order": self._order,
        }
        return _snapshot(as_of, await readers[ref.kind](_safe(ref.id)))

    async def _customer(self, customer_id: str) -> list[Record]:
        """A customer with all subscriptions: a new default method or a discount changes each of them."""
        one = await self._read(f"/v1/customers/{customer_id}")
        found: list[Record] = [_customer(one)]
        if not one.get("deleted"):
            expand = ["data.default_payment_method", "data.latest_invoice"]
            async for row in self._all("/v1/subscriptions", customer=one["id"], status="all", expand=expand):
                found.append(await self._subscription_record(row, one))
        return found

    async def _subscription(self, subscription_id: str) -> list[Record]:
        expand = ["customer", "default_payment_method", "latest_invoice"]
        one = await self._read(f"/v1/subscriptions/{subscription_id}", expand=expand)
        owner = _dict(one.get("customer"))
        return [
            *([_customer(owner)] if owner else []),
            await self._subscription_record(one, owner),
        ]

    async def _subscription_record(self, one: Json, owner: Json, look: bool = True) -> SubscriptionRecord:
        """`look` asks Stripe for the next invoice; without it the next amount is worked out."""
        now = clock.now()
        invoice = await self._open_invoice(one)
        record = _subscription(one, invoice, await self._title(_items(one)), now)
        record = replace(
            record,
            email=owner.get("email"),
            method=await self._method(one, owner),
            pending_change=await self._pending_change(one),
        )
        if record.current_period_end is None or not _will_be_billed(one, record, now):
            return record
        if not look:
            return replace(record, next_payment=_estimated(one, record))
        try:
            return replace(record, next_payment=await self._next_payment(one, record))
        except Unavailable:
            return _without(record, "next_payment")

    async def _open_invoice(self, one: Json) -> Json:
        """The invoice that is open to pay: the latest, or an older one where the latest waits as a draft."""
        latest = _dict(one.get("latest_invoice"))
        if not latest and one.get("latest_invoice"):
            latest = await self._read(f"/v1/invoices/{one['latest_invoice']}")
        if latest.get("status") == "open" and _remaining(latest) > 0:
            return latest
        if one.get("status") not in ("past_due", "unpaid"):
            return {}
        page = await self._read("/v1/invoices", subscription=one["id"], status="open", limit=1)
        return next((row for row in _rows(page) if _remaining(row) > 0), {})

    async def _title(self, items: Iterable[Json]) -> str | None:
        names = [await self._name(_price(item)) for item in items]
        return ", ".join(name for name in names if name)[:200] or None

    async def _name(self, price: Json) -> str | None:
        product = price.get("product")
        if isinstance(product, dict):
            return product.get("name") or price.get("nickname")
        if product and product not in self._names:
            try:
                self._names[product] = (await self._read(f"/v1/products/{product}")).get("name")
            except GatewayError:
                return price.get("nickname")  # a name is worth no failure
        return self._names.get(product or "") or price.get("nickname")

    async def _method(self, one: Json, owner: Json) -> Method | None:
        """The subscription's own method, else the customer's default; cards of before 2018 are sources."""
        settings = owner.get("invoice_settings") or {}
        chosen = (
            one.get("default_payment_method")
            or one.get("default_source")
            or settings.get("default_payment_method")
            or owner.get("default_source")
        )
        if isinstance(chosen, str):
            try:
                chosen = await self._read(f"/v1/payment_methods/{chosen}")
            except Gone:
                return None
        return _method(chosen, chosen["id"]) if chosen else None

    async def _pending_change(self, one: Json) -> PendingChange | None:
        waiting = one.get("pending_update")
        if not waiting:
            return None
        items = waiting.get("subscription_items") or []
        return PendingChange(None, _amount(items), await self._title(items), _quantity(items))

    async def _next_payment(self, one: Json, record: SubscriptionRecord) -> NextPayment | None:
        """Stripe refuses the preview where nothing will be billed. It is a POST without effect."""
        try:
            preview = await self._read("/v1/invoices/create_preview", "post", subscription=one["id"])
        except (Gone, Declined):
            return None
        amount = _money(preview.get("amount_due"), preview.get("currency"))
        ends = record.status == "cancels_at_period_end"
        if ends and not amount:
            return None
        on = (record.cancels_at if ends else None) or record.current_period_end
        assert on is not None
        metered = any(
            (_price(item).get("recurring") or {}).get("usage_type") == "metered" for item in _items(one)
        )
        return NextPayment(on.date(), amount, "estimated" if metered else "fixed")

    async def _payment(self, charge_id: str) -> list[Record]:
        charge = await self._read(f"/v1/charges/{charge_id}")
        intent = _id(charge.get("payment_intent"))
        invoice, session = {}, {}
        if intent:
            invoice, session = await self._invoice_of(intent), await self._session_of(intent)
        elif _id(charge.get("invoice")):
            invoice = await self._read(f"/v1/invoices/{_id(charge['invoice'])}")
        return await self._charge_records(charge, invoice, session)

    async def _invoice_of(self, intent: str) -> Json:
        asked = {"type": "payment_intent", "payment_intent": intent}
        payments = await self._first("/v1/invoice_payments", payment=asked, expand=["data.invoice"])
        return _dict(payments.get("invoice"))

    async def _session_of(self, intent: str) -> Json:
        return await self._first("/v1/checkout/sessions", payment_intent=intent, expand=["data.line_items"])

    async def _first(self, path: str, **params: Any) -> Json:
        try:
            rows = _rows(await self._read(path, limit=1, **params))
        except Gone:
            return {}
        return rows[0] if rows else {}

    async def _charge_records(
        self, charge: Json, invoice: Json, session: Json, whole: bool = True
    ) -> list[Record]:
        """A payment with its refunds, its invoice and its order; `whole` says all there is to say of these two."""
        refunds = await self._refunds(charge)
        subscription = _subscription_of(invoice)
        order = None
        if session.get("mode") == "payment":
            order = session["id"]
        elif not subscription and charge.get("status") != "failed":
            order = invoice.get("id") or charge["id"]
        lines = await self._lines(invoice)
        payment = _payment(charge, refunds, order, invoice, session, lines)
        found: list[Record] = [payment, *(_refund(one) for one in refunds)]
        if invoice:
            paid = payment.remote_id if charge.get("status") == "succeeded" else None
            record = replace(_invoice(invoice, lines), payment=paid, order=order)
            spoken = {"order", *(["payment"] if paid else [])}
            rest = _all_fields(record) if whole else frozenset()
            found.append(replace(record, knows=(rest - {"payment"}) | spoken))
        if order == session.get("id"):
            if whole and session:
                found.append(_order(session, await self._session_lines(session), [charge], refunds))
        elif order:
            found.append(_bare_order(order, payment, invoice, lines))
        return found

    async def _refunds(self, charge: Json) -> list[Json]:
        """Of a charge that was never captured there are none: what Stripe calls refunded was only let go."""
        if charge.get("captured") is False:
            return []
        known = charge.get("refunds")
        if isinstance(known, dict) and not known.get("has_more"):
            return _rows(known)
        return [one async for one in self._all("/v1/refunds", charge=charge["id"])]

    async def _refund(self, refund_id: str) -> list[Record]:
        one = await self._read(f"/v1/refunds/{refund_id}")
        charge = _id(one.get("charge"))
        return await self._payment(charge) if charge else [_refund(one)]

    async def _invoice(self, invoice_id: str) -> list[Record]:
        """An invoice with its payments, failed ones too, and its subscription."""
        one = await self._read(f"/v1/invoices/{invoice_id}")
        found: list[Record] = [replace(_invoice(one, await self._lines(one)))]
        charges = await self._charges_of(one)
        intents = dict.fromkeys(_id(charge.get("payment_intent")) for charge in charges)
        subscription = _subscription_of(one)
        session: Json = {}
        if not subscription and len(intents) == 1 and (intent := next(iter(intents))):
            session = await self._session_of(intent)
        if charges:
            found.clear()
        for charge in reversed(charges):  # oldest first, so that the last word is the newest one's
            found += await self._charge_records(charge, one, session)
        if subscription:
            found += await self._subscription(subscription)
        return found

    async def _charges_of(self, invoice: Json) -> list[Json]:
        if old := _id(invoice.get("charge")):
            return [await self._read(f"/v1/charges/{old}")]
        found: list[Json] = []
        try:
            async for one in self._all("/v1/invoice_payments", invoice=invoice["id"]):
                payment = one.get("payment") or {}
                if intent := _id(payment.get("payment_intent")):
                    found += [row async for row in self._all("/v1/charges", payment_intent=intent)]
                elif charge := _id(payment.get("charge")):
                    found.append(await self._read(f"/v1/charges/{charge}"))
        except Gone:
            return found
        return found

    async def _order(self, order_id: str) -> list[Record]:
        if order_id.startswith("in_"):
            return await self._invoice(order_id)
        if not order_id.startswith("cs_"):
            return await self._payment(order_id)
        session = await self._read(f"/v1/checkout/sessions/{order_id}", expand=["line_items"])
        if session.get("mode") != "payment":
            subscription = _of_session(session)
            return await self._subscription(subscription) if subscription else []
        charges: list[Json] = []
        if intent := _id(session.get("payment_intent")):
            charges = [row async for row in self._all("/v1/charges", payment_intent=intent)]
        invoice = {}
        if invoice_id := _id(session.get("invoice")):
            invoice = await self._read(f"/v1/invoices/{invoice_id}")
        found: list[Record] = []
        for charge in reversed(charges):
            found += await self._charge_records(charge, invoice, session)
        return found or [_order(session, await self._session_lines(session), [])]

    async def _lines(self, invoice: Json) -> tuple[Line, ...]:
        lines = invoice.get("lines") or {}
        rows = _rows(lines)
        if lines.get("has_more"):
            rows = [row async for row in self._all(f"/v1/invoices/{invoice['id']}/lines")]
        return _as_lines(rows, "amount")

    async def _session_lines(self, session: Json) -> tuple[Line, ...]:
        lines = session.get("line_items") or {}
        rows = _rows(lines)
        if not lines or lines.get("has_more"):
            rows = [row async for row in self._all(f"/v1/checkout/sessions/{session['id']}/line_items")]
        return _as_lines(rows, "amount_total")

    # Webhooks

    def verify(
        self,
        headers: list[tuple[str, str]],
        body: bytes,
        now: datetime,
        certificate: bytes | None = None,
    ) -> list[Event]:
        """The event of a delivery; none for the thin events of API v2 and for those of connected accounts."""
        self._prove(headers, body, now)
        try:
            said = json.loads(body)
        except ValueError:
            raise BadSignature("The body is not JSON.") from None
        if not isinstance(said, dict):
            raise BadSignature("The body is not an event.")
        if said.get("object") == "v2.core.event" or said.get("account"):
            return []
        found = (said.get("data") or {}).get("object") if isinstance(said.get("data"), dict) else None
        if (
            not isinstance(said.get("id"), str)
            or not isinstance(said.get("type"), str)
            or not isinstance(found, dict)
        ):
            raise BadSignature("The body is not an event.")
        if said.get("livemode") is not self._live:
            raise BadSignature(
                "The event is of the other mode: live and test have keys and secrets of their own."
            )
        kept = {"id": _id(found), "object": found.get("object"), "customer": _id(found.get("customer"))}
        previous = said["data"].get("previous_attributes")
        subject = _subject(said["type"], found, previous if isinstance(previous, dict) else {})
        return [Event(said["id"], said["type"], subject, _time(said.get("created")), kept)]

    def _prove(self, headers: list[tuple[str, str]], body: bytes, now: datetime) -> None:
        given = (self.credentials.get(name, "").strip() for name in ("webhook_secret", "webhook_secret_old"))
        secrets = [secret for secret in given if secret]
        if not secrets:
            raise BadSignature("Without a signing secret nothing can be proved.")
        sent = [value for name, value in headers if name.lower() == "stripe-signature"]
        if len(sent) != 1:
            raise BadSignature("One Stripe-Signature header is needed.")
        parts = [part.strip().partition("=") for part in sent[0].split(",")]
        times = [value for name, _, value in parts if name == "t"]
        if len(times) != 1 or not re.fullmatch(r"[0-9]{1,12}", times[0], re.ASCII):
            raise BadSignature("The signature has no time.")
        signatures = [value.encode() for name, _, value in parts if name == "v1"]
        signed = times[0].encode() + b"." + body
        good = False
        for secret in secrets:
            expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest().encode()
            for signature in signatures:
                good |= hmac.compare_digest(signature, expected)
        if not good:
            raise BadSignature("The signature is wrong: is the secret that of this endpoint?")
        if abs(now.timestamp() - int(times[0])) > TOLERANCE_S:
            raise BadSignature(
                "The signature is too old, or its time lies in the future: are both clocks right?"
            )

    async def refetch(self, event: Event) -> Snapshot | None:
        """Stripe's own word. Of what it has deleted since, the proved event is all there is to know."""
        if event.subject is None:
            return None
        try:
            return await self.fetch(event.subject)
        except Gone:
            ended = _last_word(event)
            if ended is None:
                raise
            return _snapshot(clock.now(), [ended])

    # What a customer may do

    async def cancel_now(self, ref: Ref, key: str) -> Snapshot:
        """Final. Deleting what is cancelled already gives 404, and so does a wrong account: only a fresh look decides."""
        one = await self._bare(ref)
        if _ended(one):
            return await self.fetch(ref)
        write = self._write("delete", f"/v1/subscriptions/{_safe(ref.id)}", key)
        return await self._settled(ref, write, lambda now: now.status in ("cancelled", "expired"))

    async def cancel_at_period_end(self, ref: Ref, key: str) -> Snapshot:
        one = await self._bare(ref)
        if _ended(one) or _ends(one, clock.now()):
            return await self.fetch(ref)
        await self._release(one, key)
        write = self._update(ref, key, cancel_at_period_end="true")
        ended = ("cancels_at_period_end", "cancelled", "expired")
        return await self._settled(ref, write, lambda now: now.status in ended)

    async def undo_cancel(self, ref: Ref, key: str) -> Snapshot:
        """One field per call: both in one are refused, and either may have been set by somebody else's portal."""
        one = await self._bare(ref)
        if _ended(one):
            raise Unsupported("This has ended already, so the cancellation can't be taken back.")
        if await self._release(one, key):
            one = await self._bare(ref)
        if one.get("cancel_at_period_end"):
            one = await self._update(ref, key, cancel_at_period_end="false")
        if one.get("cancel_at"):
            one = await self._update(ref, f"{key}-2", cancel_at="")
        if one.get("cancel_at_period_end"):
            await self._update(ref, f"{key}-3", cancel_at_period_end="false")
        return await self._read_back(ref)

    async def pause(self, ref: Ref, key: str) -> Snapshot:
        """Pauses collection and voids what falls into it: nothing is owed for that time, and it works in any version."""
        one = await self._bare(ref)
        _refuse_under_schedule(one)
        if one.get("pause_collection") or one.get("status") == "paused":
            return await self.fetch(ref)
        if one.get("status") not in ("active", "trialing"):
            raise Unsupported("This can only be paused while its payments are up to date.")
        write = self._update(ref, key, pause_collection={"behavior": "void"})
        return await self._settled(ref, write, lambda now: now.status == "paused")

    async def resume(self, ref: Ref, key: str) -> Snapshot:
        one = await self._bare(ref)
        _refuse_under_schedule(one)
        if _ended(one):
            raise Unsupported("This has ended already, so it can't go on.")
        if one.get("status") == "paused" and one.get("collection_method") != "charge_automatically":
            raise Unsupported("This is paid by invoice, so only the shop can let it go on.")
        if one.get("pause_collection"):
            one = await self._update(ref, key, pause_collection="")
        if one.get("status") == "paused":
            path = f"/v1/subscriptions/{_safe(ref.id)}/resume"
            await self._write("post", path, f"{key}-2", billing_cycle_anchor={"type": "unchanged"})
        return await self._read_back(ref)

    async def change_plan(
        self, ref: Ref, change: Mapping[str, Any], return_url: str, key: str
    ) -> Snapshot | Leave:
        """Another price (`plan`) or `quantity`; what must be paid first waits in `pending_update` until it is."""
        if not change or set(change) - {"plan", "quantity"}:
            raise Unsupported("Only the plan and the quantity can be changed here.")
        one = await self._bare(ref)
        items = _items(one)
        if len(items) != 1:
            raise Unsupported("This has several parts, so the shop has to change it.")
        if _ended(one):
            raise Unsupported("This has ended already, so it can't be changed.")
        item = items[0]
        plan = change.get("plan") or _price(item).get("id")
        quantity = change.get("quantity", item.get("quantity"))
        if (plan, quantity) == (_price(item).get("id"), item.get("quantity")):
            return await self.fetch(ref)
        await self._release(one, key)
        # Without the item's id Stripe would add a second item: https://docs.stripe.com/api/subscriptions/update
        await self._update(
            ref,
            key,
            items=[{"id": item["id"], "price": plan, "quantity": quantity}],
            proration_behavior="create_prorations",
            payment_behavior="pending_if_incomplete",
        )
        return await self._read_back(ref)

    async def pay_now(self, ref: Ref, return_url: str, key: str) -> Snapshot | Leave:
        """To the hosted page of the open invoice; it asks for 3-D Secure too and sends nobody back."""
        invoice = await self._open_invoice(await self._bare(ref))
        if invoice.get("hosted_invoice_url"):
            return Leave(invoice["hosted_invoice_url"], {"invoice": invoice["id"]})
        return await self.fetch(ref)

    async def start_method_update(self, ref: Ref, return_url: str, key: str) -> Leave:
        """Checkout in setup mode; with Managed Payments Stripe's own portal, the only one that may change it."""
        one = await self._bare(ref)
        if _ended(one):
            raise Unsupported("This has ended, so its payment method can't be changed.")
        if _managed(one):
            return await self._portal(one, return_url, key)
        noted = {"subscription_id": one["id"]}
        session = await self._write(
            "post",
            "/v1/checkout/sessions",
            key,
            mode="setup",
            currency=one.get("currency") or _price(_items(one)[0]).get("currency"),
            success_url=_with(return_url, "session_id={CHECKOUT_SESSION_ID}"),
            cancel_url=_with(return_url, "cancelled=1"),
            metadata=noted,
            setup_intent_data={"metadata": noted},
            **_owner(one),
        )
        return Leave(_address(session), {"session": session["id"]})

    async def _portal(self, one: Json, return_url: str, key: str) -> Leave:
        """Single use and short lived. `after_expiration` stays unset: it would let a dead link live again by e-mail."""
        chosen = self.credentials.get("portal_configuration", "").strip()
        flow = {
            "type": "payment_method_update",
            "after_completion": {"type": "redirect", "redirect": {"return_url": return_url}},
        }
        try:
            session = await self._write(
                "post",
                "/v1/billing_portal/sessions",
                key,
                return_url=_with(return_url, "cancelled=1"),
                flow_data=flow,
                configuration=chosen or None,
                **_owner(one),
            )
        except Declined as declined:
            raise Unsupported(
                "The payment method can't be changed online at the moment. Nothing was changed.",
                "Save the customer portal's settings in the Stripe Dashboard (Settings > Billing > Customer portal), "
                f"with updating payment methods allowed. Stripe says: {declined.hint}",
            ) from declined
        return Leave(_address(session), {"portal": session["id"]})

    async def finish_method_update(
        self, ref: Ref, state: Mapping[str, str], query: Mapping[str, str]
    ) -> Snapshot:
        """Move the subscription to what was saved in the session of `state`; safe to repeat. `query` is not looked at."""
        session_id = state.get("session")
        method = await self._saved_method(ref, session_id) if session_id else {}
        one = await self._bare(ref, expand=["customer", "default_payment_method"])
        if not session_id or not method or _ended(one) or _managed(one):
            return await self.fetch(ref)
        current = _dict(one.get("default_payment_method"))
        if current.get("created", 0) > method["created"]:  # a later visit has put a newer one there
            return await self.fetch(ref)
        key = f"portal-{session_id}"
        if current.get("id") != method["id"]:
            await self._update(ref, key, default_payment_method=method["id"])
        owner = _dict(one.get("customer"))
        if owner.get("id") and not (owner.get("invoice_settings") or {}).get("default_payment_method"):
            settings = {"default_payment_method": method["id"]}
            await self._write("post", f"/v1/customers/{owner['id']}", f"{key}-2", invoice_settings=settings)
        if one.get("status") in ("past_due", "unpaid"):
            await self._pay_open(one, method["id"], f"{key}-3")
        return await self._read_back(ref)

    async def _saved_method(self, ref: Ref, session_id: str) -> Json:
        """The method that a setup session saved for this subscription; nothing where it was left or is under way."""
        expand = ["setup_intent.payment_method"]
        session = await self._read(f"/v1/checkout/sessions/{_safe(session_id)}", expand=expand)
        intent = _dict(session.get("setup_intent"))
        saved = session.get("status") == "complete" and intent.get("status") == "succeeded"
        whose = (session.get("metadata") or {}).get("subscription_id")
        method = _dict(intent.get("payment_method"))
        return (
            method
            if saved and whose == ref.id and (method.get("customer") or method.get("customer_account"))
            else {}
        )

    async def _pay_open(self, one: Json, method: str, key: str) -> None:
        """The new method pays what is open. If it is declined the method stays, and the page goes on saying what is due."""
        invoice = await self._open_invoice(one)
        if invoice:
            try:
                path = f"/v1/invoices/{invoice['id']}/pay"
                await self._write("post", path, key, payment_method=method)
            except Declined:
                return

    async def invoice_document(self, ref: Ref) -> Document | None:
        """The PDF, by an address that is fresh at every call; None for a draft."""
        one = await self._read(f"/v1/invoices/{_safe(ref.id)}")
        if not one.get("invoice_pdf"):
            return None
        content = await self._file(one["invoice_pdf"])
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(one.get("number") or one["id"]))
        return Document("application/pdf", f"{name}.pdf", content)

    async def _file(self, url: str) -> bytes:
        timeout = httpx.Timeout(READ_S, connect=CONNECT_S)
        try:
            async with (
                asyncio.timeout(self._total),
                httpx.AsyncClient(timeout=timeout, trust_env=False, follow_redirects=False) as client,
            ):
                for _ in range(3):
                    if not facts("stripe").allows_link(url, self.addresses):
                        raise _no_file("its address leads away from Stripe's own hosts")
                    async with client.stream("GET", url) as answer:
                        if answer.is_redirect:
                            url = urljoin(url, answer.headers.get("location", ""))
                            continue
                        return await _pdf(answer)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise _no_file(type(error).__name__) from error
        raise _no_file("it is redirected again and again")

    # Steps that several of them share

    async def _bare(self, ref: Ref, expand: Sequence[str] = ()) -> Json:
        return await self._read(f"/v1/subscriptions/{_safe(ref.id)}", expand=list(expand))

    def _update(self, ref: Ref, key: str, **params: Any) -> Coroutine[Any, Any, Json]:
        return self._write("post", f"/v1/subscriptions/{_safe(ref.id)}", key, **params)

    async def _release(self, one: Json, key: str) -> bool:
        """A schedule governs what a subscription may be told; let go, it leaves everything as it stands."""
        schedule = _id(one.get("schedule"))
        if schedule:
            await self._write("post", f"/v1/subscription_schedules/{schedule}/release", f"{key}-release")
        return bool(schedule)

    async def _settled(
        self, ref: Ref, write: Coroutine[Any, Any, Json], done: Callable[[SubscriptionRecord], bool]
    ) -> Snapshot:
        """Write, and read back. What Stripe refuses may have come true in another way: then it is done all the same."""
        try:
            await write
        except (Declined, Gone) as refused:
            after = await self.fetch(ref)
            record = after.subscription(ref.id)
            if record is None or not done(record):
                raise refused
            return after
        return await self._read_back(ref)

    async def _read_back(self, ref: Ref) -> Snapshot:
        try:
            return await self.fetch(ref)
        except (Unavailable, Gone) as error:
            raise Unavailable(
                "Stripe took it, but does not say yet how it stands now.", error.hint, sent=True
            ) from error

    # The wire

    async def _all(self, path: str, **params: Any) -> AsyncIterator[Json]:
        """All rows of a list, newest first."""
        after: str | None = None
        while True:
            page = await self._read(path, limit=100, starting_after=after, **params)
            rows = _rows(page)
            for row in rows:
                yield row
            if not rows or not page.get("has_more"):
                return
            after = rows[-1]["id"]

    async def _read(self, path: str, method: str = "get", **params: Any) -> Json:
        """A call without effect: tried twice more where Stripe does not advise against it, in the time of one."""
        end = time.monotonic() + self._total
        for wait in (0.2, 0.4, 0.0):
            try:
                return await self._send(method, path, params, within=end - time.monotonic())
            except _Refusal as refusal:
                if not wait or not refusal.worth_another_try or time.monotonic() + wait >= end:
                    raise _error(refusal, writes=False) from refusal
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def _write(self, method: str, path: str, key: str, **params: Any) -> Json:
        """A call with an effect, sent once. A failure that Stripe only repeats from its memory counts for nothing:
        our look just before saw no effect of it, so the key after it is used."""
        for suffix in NEXT_KEYS:
            try:
                return await self._send(method, path, params, key + suffix)
            except _Refusal as refusal:
                if not refusal.replayed or suffix == NEXT_KEYS[-1]:
                    raise _error(refusal, writes=True) from refusal
        raise AssertionError("unreachable")

    async def _send(
        self, method: str, path: str, params: Json, key: str | None = None, within: float | None = None
    ) -> Json:
        guard = breaker("stripe", self.base(API))
        guard.guard()
        given = {name: value for name, value in params.items() if value is not None and value != []}
        if key:
            given["idempotency_key"] = key
        try:
            async with asyncio.timeout(self._total if within is None else within):
                answer = await asyncio.get_running_loop().run_in_executor(
                    _callers, self._in_thread, method, path, given
                )
        except TimeoutError:
            guard.record(False)
            raise _Refusal() from None
        except _Refusal as refusal:
            guard.record(0 < refusal.status < 500)
            raise
        guard.record(True)
        return answer

    def _in_thread(self, method: str, path: str, params: Json) -> Json:
        import stripe

        try:
            answer = self._client().raw_request(method, path, **params).data
        except stripe.StripeError as error:
            said = (error.json_body or {}).get("error") if isinstance(error.json_body, dict) else None
            reached = not isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout)
            raise _Refusal(
                error.http_status or 0, said if isinstance(said, dict) else {}, error.headers or {}, reached
            ) from error
        if not isinstance(answer, dict):
            raise _Refusal(502)
        return answer

    def _client(self) -> "stripe.StripeClient":
        """The SDK's client over our transport; importing the SDK takes a third of a second, so it is done here."""
        import stripe

        with self._making:
            if self._sdk is None:
                # Its lines hold whole addresses, and so e-mails.
                logging.getLogger("stripe").setLevel(logging.WARNING)
                read = self._total if self.patient else READ_S
                timeout = httpx.Timeout(read, connect=CONNECT_S)
                self._wire = httpx.Client(timeout=timeout, trust_env=False, follow_redirects=False)
                here = self.base(API)
                self._sdk = stripe.StripeClient(
                    self._key,
                    stripe_version=VERSION,
                    base_addresses={"api": here, "files": here, "connect": here, "meter_events": here},
                    max_network_retries=0,
                    http_client=_transport(self._wire, self._total),
                )
            return self._sdk


def _transport(client: httpx.Client, total: float) -> "stripe.HTTPClient":
    """The SDK's way to the network: fixed time-outs, no proxy of the environment, no redirects."""
    import stripe

    class Transport(stripe.HTTPClient):
        name = "portal"

        def request(
            self,
            method: str,
            url: str,
            headers: Mapping[str, str] | None,
            post_data: Any = None,
            *,
            _usage: list[str] | None = None,
        ) -> tuple[str, int, Mapping[str, str]]:
            end = time.monotonic() + total
            received = bytearray()
            try:
                with client.stream(
                    method, url, headers=dict(headers or {}), content=post_data or None
                ) as answer:
                    for chunk in answer.iter_bytes():
                        received += chunk
                        if time.monotonic() > end:
                            raise httpx.ReadTimeout("too slow as a whole")
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise stripe.APIConnectionError(type(error).__name__) from error
            return received.decode("utf-8", "replace"), answer.status_code, answer.headers

        def close(self) -> None:
            client.close()

    return Transport()


# Errors


def _error(refusal: _Refusal, writes: bool) -> GatewayError:
    """Stripe's answer as one of ours. Only where it surely had no effect does the sentence say so."""
    said = refusal.error
    code, status = str(said.get("code") or ""), refusal.status
    hint = _hint(refusal)
    if code == "lock_timeout" or status == 409:
        return Unavailable("Stripe is busy with this at the moment. Nothing was changed.", hint, LOCK_REST_S)
    if status == 429 or code == "rate_limit":
        rest = _seconds(refusal.headers.get("retry-after"))
        return Unavailable("Stripe is busy at the moment. Nothing was changed.", hint, rest)
    if said.get("type") == "idempotency_error":
        return Unavailable("It was sent to Stripe before; we are looking how it stands.", hint, sent=True)
    if status in (401, 403):
        return Unavailable("This shop's connection to Stripe needs attention. Nothing was changed.", hint)
    if status == 402:
        sentence = str(said.get("message") or "The payment was declined.")
        return Declined(sentence, hint, str(said.get("decline_code") or code or "card_declined"))
    if status == 404 or code == "resource_missing":
        return Gone("Stripe does not know this any more.", hint)
    if 400 <= status < 500:
        return Declined("Stripe did not accept this. Nothing was changed.", hint, code)
    sent = writes and refusal.reached
    rest_of_it = "We can't say yet whether this went through." if sent else "Nothing was changed."
    return Unavailable(f"Stripe does not answer at the moment. {rest_of_it}", hint, sent=sent)


def _hint(refusal: _Refusal) -> str:
    """For the merchant, in Stripe's words; a key in them is cut out."""
    if refusal.status == 0:
        return "No answer from Stripe." if refusal.reached else "Stripe could not be reached."
    message = re.sub(r"\b([sr]k_(?:live|test)_)\S+", r"\1…", str(refusal.error.get("message") or ""))
    if refusal.status == 401:
        return f"Stripe refuses the key: {message}"
    if refusal.status == 403:
        missing = _permission(refusal)
        wanted = f"Give the restricted key the permission {missing}. " if missing else ""
        return f"{wanted}Stripe says: {message}"
    request = refusal.headers.get("request-id")
    return f"Stripe answered {refusal.status}: {message}" + (f" ({request})" if request else "")


def _permission(refusal: _Refusal) -> str | None:
    found = re.search(r"\brak_[a-z0-9_]+", str(refusal.error.get("message") or ""))
    return found[0] if found else None


def _seconds(text: str | None) -> float:
    return float(text) if text and re.fullmatch(r"[0-9]{1,4}", text) else RATE_LIMIT_REST_S


def _no_file(why: str) -> Unavailable:
    return Unavailable(
        "Stripe's document can't be had at the moment.", f"The invoice's file was not read: {why}."
    )


async def _pdf(answer: httpx.Response) -> bytes:
    if answer.status_code != 200:
        raise _no_file(f"it was answered {answer.status_code}")
    content = bytearray()
    async for chunk in answer.aiter_bytes():
        content += chunk
        if len(content) > MAX_FILE:
            raise _no_file("it is larger than 20 MB")
    if not content.startswith(b"%PDF-"):
        raise _no_file("it is no PDF")
    return bytes(content)


# Events


def _subject(kind: str, one: Json, previous: Json) -> Ref | None:
    """What to look at again after an event; None where nothing of ours can have changed."""
    if kind.startswith("customer.subscription."):
        return _ref("subscription", one.get("id"))
    if kind in ("customer.created", "customer.updated", "customer.deleted"):
        return _ref("customer", one.get("id"))
    if kind.startswith(("customer.", "payment_method.")):
        return _ref("customer", one.get("customer") or previous.get("customer"))
    if kind.startswith(("invoice_payment.", "credit_note.")):
        return _ref("invoice", one.get("invoice"))
    if kind.startswith("invoice."):
        upcoming = kind in ("invoice.upcoming", "invoice.will_be_due") or not one.get("id")
        return _ref("subscription", _subscription_of(one)) if upcoming else _ref("invoice", one["id"])
    if kind.startswith(("charge.dispute.", "charge.refund.", "refund.")):
        return _ref("payment", one.get("charge")) or (
            _ref("refund", one.get("id")) if one.get("object") == "refund" else None
        )
    if kind.startswith("charge."):
        return _ref("payment", one.get("id"))
    if kind.startswith("checkout.session."):
        session = _ref("order", one.get("id")) if one.get("mode") == "payment" else None
        return session or _ref("subscription", _of_session(one))
    if kind.startswith("setup_intent."):
        noted = _ref("subscription", (one.get("metadata") or {}).get("subscription_id"))
        return noted or _ref("customer", one.get("customer"))
    if kind.startswith("subscription_schedule."):
        return _ref("subscription", one.get("subscription") or one.get("released_subscription"))
    return None


def _of_session(session: Json) -> str | None:
    """The subscription that a session made, or that it saves a method for."""
    noted = (session.get("metadata") or {}).get("subscription_id") if session.get("mode") == "setup" else None
    return _id(session.get("subscription")) or noted


def _ref(kind: Any, value: Any) -> Ref | None:
    found = _id(value)
    return Ref(kind, found) if found and re.fullmatch(r"[A-Za-z0-9_-]{1,255}", found) else None


def _last_word(event: Event) -> Record | None:
    if event.subject is None:
        return None
    which = event.subject.id
    if event.type == "customer.subscription.deleted":
        spoken = frozenset({"status", "raw_status", "ended_at", "next_payment"})
        return SubscriptionRecord(
            remote_id=which,
            status="cancelled",
            raw_status="canceled",
            ended_at=event.occurred_at,
            knows=spoken,
        )
    if event.type == "customer.deleted":
        return CustomerRecord(remote_id=which, deleted=True, knows=frozenset({"deleted"}))
    if event.type == "invoice.deleted":
        return InvoiceRecord(remote_id=which, status="void", knows=frozenset({"status"}))
    return None


# Stripe's objects in our words


def _customer(one: Json) -> CustomerRecord:
    if one.get("deleted"):
        return CustomerRecord(remote_id=one["id"], deleted=True, knows=frozenset({"deleted"}))
    return CustomerRecord(
        remote_id=one["id"],
        email=one.get("email"),
        name=one.get("name") or one.get("individual_name") or one.get("business_name"),
        created_at=_time(one.get("created")),
    )


def _subscription(one: Json, invoice: Json, title: str | None, now: datetime) -> SubscriptionRecord:
    items = _items(one)
    status = _subscription_status(one, now)
    start, end = _period(one)
    past_due = status == "past_due"
    again = _time(invoice.get("next_payment_attempt")) if past_due else None
    charged = one.get("collection_method", "charge_automatically") == "charge_automatically"
    ended = _ended(one)
    return SubscriptionRecord(
        remote_id=one["id"],
        raw_status=one.get("status"),
        created_at=_time(one.get("created")),
        status=status,
        customer=_id(one.get("customer")) or _id(one.get("customer_account")),
        title=title,
        amount=_amount(items),
        interval=_interval(items),
        quantity=_quantity(items),
        started_at=_time(one.get("start_date") or one.get("start") or one.get("created")),
        trial_ends_at=_time(one.get("trial_end")),
        current_period_start=start,
        current_period_end=end,
        cancels_at=_time(one.get("cancel_at")) or end if status == "cancels_at_period_end" else None,
        ended_at=_time(one.get("ended_at")) or _time(one.get("canceled_at")) if ended else None,
        resumes_at=_time((one.get("pause_collection") or {}).get("resumes_at")),
        due=_money(_remaining(invoice), invoice.get("currency")) if invoice else None,
        due_link=invoice.get("hosted_invoice_url"),
        object="managed_payments" if _managed(one) else "schedule" if one.get("schedule") else None,
        stopped=past_due and (one.get("status") == "unpaid" or (charged and bool(invoice) and again is None)),
        retries_on=again.date() if again else None,
    )


def _subscription_status(one: Json, now: datetime) -> SubscriptionStatus | None:
    """The first line that fits; a word that is not known here leaves what was known."""
    status = one.get("status") or ""
    if status in SUBSCRIPTION_ENDS:
        return SUBSCRIPTION_ENDS[status]
    if status not in ("active", "trialing", "past_due", "unpaid"):
        return None
    if _ends(one, now):
        return "cancels_at_period_end"
    if status in ("past_due", "unpaid"):
        return "past_due"  # also while paused: invoices from before the pause are still retried
    if one.get("pause_collection"):
        return "paused"
    return "trialing" if status == "trialing" else "active"


def _ended(one: Json) -> bool:
    return one.get("status") in ("canceled", "incomplete_expired")


def _ends(one: Json, now: datetime) -> bool:
    return bool(one.get("cancel_at_period_end")) or (one.get("cancel_at") or 0) > now.timestamp()


def _managed(one: Json) -> bool:
    return bool((one.get("managed_payments") or {}).get("enabled"))


def _refuse_under_schedule(one: Json) -> None:
    if one.get("schedule"):
        raise Unsupported(
            "The shop has planned changes for this, so it can't be paused or resumed here.",
            "A subscription schedule governs it. Release the schedule in Stripe first.",
        )


def _will_be_billed(one: Json, record: SubscriptionRecord, now: datetime) -> bool:
    if one.get("pause_collection") or record.current_period_end is None or record.current_period_end <= now:
        return False
    return record.status in ("active", "trialing", "past_due", "cancels_at_period_end") and not record.stopped


def _estimated(one: Json, record: SubscriptionRecord) -> NextPayment | None:
    if record.status == "cancels_at_period_end" or record.current_period_end is None:
        return None
    discounted = one.get("discounts") or one.get("discount")
    return NextPayment(record.current_period_end.date(), None if discounted else record.amount, "estimated")


def _period(one: Json) -> tuple[datetime | None, datetime | None]:
    """On the items since 2025-03-31, on the subscription before."""
    found = []
    for name in ("current_period_start", "current_period_end"):
        times = [item[name] for item in _items(one) if item.get(name)]
        found.append(_time(min(times) if times else one.get(name)))
    return found[0], found[1]


def _items(one: Json) -> list[Json]:
    items = _rows(one.get("items"))
    if not items and one.get("plan"):
        return [{"plan": one["plan"], "quantity": one.get("quantity")}]
    return items


def _price(item: Json) -> Json:
    """What a price is, where the item has one; else the plan of before 2020."""
    return _dict(item.get("price")) or _dict(item.get("plan"))


def _amount(items: Sequence[Json]) -> Money | None:
    """For one interval, quantities included; None where it depends on use, or is no whole amount."""
    total: Money | None = None
    for item in items:
        price, quantity = _price(item), item.get("quantity")
        minor = price.get("unit_amount", price.get("amount"))
        one = (
            _money(minor * (1 if quantity is None else quantity), price.get("currency"))
            if minor is not None
            else None
        )
        if one is None or (total is not None and total.currency != one.currency):
            return None
        total = one if total is None else total + one
    return total


def _interval(items: Sequence[Json]) -> Interval | None:
    for item in items:
        price = _price(item)
        rhythm = price.get("recurring") or price
        if rhythm.get("interval") in ("day", "week", "month", "year"):
            return Interval(rhythm["interval"], rhythm.get("interval_count") or 1)
    return None


def _quantity(items: Sequence[Json]) -> int | None:
    return items[0].get("quantity") if len(items) == 1 else None


def _payment(
    charge: Json,
    refunds: Sequence[Json],
    order: str | None,
    invoice: Json,
    session: Json,
    lines: Sequence[Line],
) -> PaymentRecord:
    status = _payment_status(charge, refunds)
    currency = charge.get("currency")
    captured = _captured(charge)
    failure = None
    if status == "failed":
        failure = Failure(str(charge.get("failure_code") or "failed"), charge.get("failure_message"))
    details = charge.get("payment_method_details") or charge.get("source")
    billing = charge.get("billing_details") or {}
    return PaymentRecord(
        remote_id=charge["id"],
        email=billing.get("email")
        or charge.get("receipt_email")
        or invoice.get("customer_email")
        or _buyer(session),
        raw_status=charge.get("status"),
        created_at=_time(charge.get("created")),
        status=status,
        customer=_id(charge.get("customer")),
        title=_joined(lines) or charge.get("description"),
        amount=_money(captured or charge.get("amount"), currency),
        refunded=_money(sum(_live(refunds)), currency),
        paid_at=_time(charge.get("created")) if captured else None,
        method=_method(details, charge.get("payment_method")) if details else None,
        order=order,
        subscription=_subscription_of(invoice),
        invoice=invoice.get("id"),
        failure=failure,
    )


def _payment_status(charge: Json, refunds: Sequence[Json]) -> PaymentStatus | None:
    status = charge.get("status")
    if status == "failed":
        return "failed"
    if status == "pending":
        return "pending"
    if status not in ("succeeded", "paid"):
        return None
    if charge.get("captured") is False:
        return "cancelled" if charge.get("refunded") else "authorized"
    if charge.get("disputed") or charge.get("dispute"):
        return "disputed"
    given, captured = sum(_live(refunds)), _captured(charge)
    if given and given >= captured:
        return "refunded"
    return "partially_refunded" if given else "paid"


def _captured(charge: Json) -> int:
    """What was taken: a partial capture takes less than was authorised."""
    if charge.get("status") not in ("succeeded", "paid") or charge.get("captured") is False:
        return 0
    taken = charge.get("amount_captured")
    return int(charge.get("amount") or 0) if taken is None else int(taken)


def _live(refunds: Sequence[Json]) -> list[int]:
    return [one["amount"] for one in refunds if one.get("status", "succeeded") not in ("failed", "canceled")]


def _refund(one: Json) -> RefundRecord:
    return RefundRecord(
        remote_id=one["id"],
        raw_status=one.get("status"),
        created_at=_time(one.get("created")),
        status=REFUND_STATUSES.get(one.get("status") or "succeeded"),
        payment=_id(one.get("charge")),
        amount=_money(one.get("amount"), one.get("currency")),
        reason=one.get("reason"),
    )


def _invoice(one: Json, lines: tuple[Line, ...]) -> InvoiceRecord:
    currency = one.get("currency")
    status = INVOICE_STATUSES.get(one.get("status") or "")
    due_at = _time(one.get("due_date"))
    if status == "open" and due_at and due_at < clock.now():
        status = "overdue"
    return InvoiceRecord(
        remote_id=one["id"],
        email=one.get("customer_email"),
        raw_status=one.get("status"),
        created_at=_time(one.get("created")),
        status=status,
        customer=_id(one.get("customer")),
        number=one.get("number"),
        amount=_money(one.get("total"), currency),
        due=_money(_remaining(one), currency) if status in ("open", "overdue") else None,
        subscription=_subscription_of(one),
        document=bool(one.get("invoice_pdf")),
        page_url=one.get("hosted_invoice_url"),
        lines=lines,
    )


def _remaining(invoice: Json) -> int:
    left = invoice.get("amount_remaining")
    if left is None:
        left = (invoice.get("amount_due") or 0) - (invoice.get("amount_paid") or 0)
    return int(left)


def _subscription_of(invoice: Json) -> str | None:
    parent = (invoice.get("parent") or {}).get("subscription_details") or {}
    return _id(parent.get("subscription")) or _id(invoice.get("subscription"))


def _order(
    session: Json, lines: tuple[Line, ...], charges: Sequence[Json], refunds: Sequence[Json] | None = None
) -> OrderRecord:
    currency = session.get("currency")
    totals = session.get("total_details") or {}
    return OrderRecord(
        remote_id=session["id"],
        email=_buyer(session),
        raw_status=f"{session.get('status')}/{session.get('payment_status')}",
        created_at=_time(session.get("created")),
        status=_order_status(session, charges, refunds),
        customer=_id(session.get("customer")),
        number=session.get("client_reference_id"),
        title=_joined(lines),
        amount=_money(session.get("amount_total"), currency),
        tax=_money(totals.get("amount_tax"), currency),
        discount=_money(totals.get("amount_discount"), currency),
        lines=lines,
    )


def _order_status(
    session: Json, charges: Sequence[Json], refunds: Sequence[Json] | None
) -> OrderStatus | None:
    """The session says whether it was paid; what became of the money since, its charge says."""
    status = session.get("status")
    if status == "open":
        return "open"
    if status == "expired":
        return "expired"
    if status != "complete":
        return None
    for charge in charges:
        known = refunds
        if known is None:  # a list gives sums only
            known = [{"amount": charge["amount_refunded"]}] if charge.get("amount_refunded") else []
        payment = _payment_status(charge, known)
        if payment:
            return ORDER_OF_PAYMENT[payment]
    return "open" if session.get("payment_status") == "unpaid" else "paid"


def _bare_order(order: str, payment: PaymentRecord, invoice: Json, lines: tuple[Line, ...]) -> OrderRecord:
    """Something bought once without Checkout: by an invoice of its own, or a charge that nothing else explains."""
    return OrderRecord(
        remote_id=order,
        email=payment.email,
        raw_status=payment.raw_status,
        created_at=payment.created_at,
        status=ORDER_OF_PAYMENT[payment.status] if payment.status else None,
        customer=payment.customer,
        number=invoice.get("number"),
        title=payment.title,
        amount=_money(invoice.get("total"), invoice.get("currency")) or payment.amount,
        lines=lines,
    )


def _buyer(session: Json) -> str | None:
    return (session.get("customer_details") or {}).get("email") or session.get("customer_email")


def _as_lines(rows: Iterable[Json], amount: str) -> tuple[Line, ...]:
    found = []
    for row in rows:
        money = _money(row.get(amount), row.get("currency"))
        if money is not None:
            name = row.get("description") or _price(row).get("nickname") or ""
            found.append(Line(name, row.get("quantity") or 1, money))
    return tuple(found)


def _joined(lines: Sequence[Line]) -> str | None:
    return ", ".join(line.name for line in lines if line.name)[:200] or None


def _method(one: Json, remote_id: Any) -> Method:
    """A payment method, the details of a charge, or a card of the old kind."""
    kind = one.get("type") or one.get("object") or "other"
    inner = one if one.get("object") == "card" else one.get(kind) or {}
    brand = inner.get("display_brand") or inner.get("brand") or inner.get("bank_name")
    if brand is None and kind != "card":
        brand = kind
    expires = None
    if inner.get("exp_year") and inner.get("exp_month"):
        expires = f"{inner['exp_year']:04d}-{inner['exp_month']:02d}"
    word = "bank_debit" if kind in BANK_DEBITS else "wallet" if kind in WALLETS else kind
    return Method(word, _brand(brand), inner.get("last4") or None, expires, _id(remote_id))


def _brand(word: str | None) -> str | None:
    if not word or word.lower() == "unknown":
        return None
    known = BRANDS.get(word.lower())
    return known or (word.replace("_", " ").title() if word.islower() else word)


# Small things


def _snapshot(as_of: datetime, records: Iterable[Record]) -> Snapshot:
    """Records of one object are told once, the last word of each."""
    found: dict[tuple[type[Record], str], Any] = {}
    for record in records:
        found[type(record), record.remote_id] = record

    def of(kind: type[Record]) -> tuple[Any, ...]:
        return tuple(record for (sort, _), record in found.items() if sort is kind)

    return Snapshot(
        as_of=as_of,
        customers=of(CustomerRecord),
        orders=of(OrderRecord),
        subscriptions=of(SubscriptionRecord),
        payments=of(PaymentRecord),
        refunds=of(RefundRecord),
        invoices=of(InvoiceRecord),
    )


def _without[R: Record](record: R, *names: str) -> R:
    return replace(record, knows=_all_fields(record) - set(names))


def _all_fields(record: Record) -> frozenset[str]:
    return frozenset(one.name for one in fields(record)) - {"remote_id", "knows"}


def _money(minor: Any, currency: Any) -> Money | None:
    """An amount; None for none, and for one that does not come out whole: a wrong amount is worse than none."""
    if not isinstance(minor, int) or isinstance(minor, bool) or not isinstance(currency, str):
        return None
    code = currency.upper()
    try:
        return from_units(minor, code, facts("stripe").exponents.get(code))
    except ValueError:
        return None


def _time(value: Any) -> datetime | None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 253_402_300_800:
        return None
    return datetime.fromtimestamp(value, UTC)


def _rows(value: Any) -> list[Json]:
    rows = value.get("data") if isinstance(value, dict) else value
    return rows if isinstance(rows, list) else []


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _id(value: Any) -> str | None:
    """The id of what may be an id or the object itself."""
    found = value.get("id") if isinstance(value, dict) else value
    return found if isinstance(found, str) and found else None


def _safe(remote_id: str) -> str:
    """An id that can stand in a path; nothing else is ever asked for."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", remote_id):
        raise Gone("Stripe does not know this.", "That is no id of Stripe's.")
    return remote_id


def _owner(one: Json) -> Json:
    customer = _id(one.get("customer"))
    return {"customer": customer} if customer else {"customer_account": _id(one.get("customer_account"))}


def _with(url: str, pair: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{pair}"


def _address(session: Json) -> str:
    url = session.get("url")
    if not isinstance(url, str):
        raise Unavailable(
            "Stripe's page can't be opened at the moment. Nothing was changed.", "No address given."
        )
    return url
