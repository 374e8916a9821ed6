"""What is asked of Stripe to know one object whole, with what hangs on it; and everything, list by list."""

import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any

from portal import clock
from portal.gateways._stripe import shapes
from portal.gateways._stripe.shapes import as_dict, id_of, rows_of
from portal.gateways._stripe.wire import Json, Wire, legible
from portal.gateways.base import (
    Declined,
    GatewayError,
    Gone,
    InvoiceRecord,
    Line,
    Method,
    NextPayment,
    Page,
    PendingChange,
    Record,
    Ref,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
)
from portal.gateways.wire import objects, sifted

# What has an address of its own comes first, so that customers find theirs while the rest is still being read.
STEPS = ("subscription", "order", "invoice", "payment", "customer")


class Reader:
    """Reads for one gateway; the names of products are asked for once."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._names: dict[str, str | None] = {}

    async def backfill(self, cursor: str | None = None) -> AsyncIterator[Page]:
        """Subscriptions, Checkout orders, invoices, charges, customers, newest first; the cursor holds the list and the
        last id."""
        place: Json = json.loads(cursor) if cursor else {"step": STEPS[0], "after": None}
        while True:
            step, as_of = place["step"], clock.now()
            path, params, read = self._lists()[step]
            page = await self._wire.read(path, limit=100, starting_after=place["after"], **params)
            rows = [dict(row) for row in objects(page.get("data"))]
            with legible():
                parts = await sifted(f"{step}s", rows, read)
            found = shapes.snapshot(as_of, [record for part in parts for record in part])
            last = next((one for row in reversed(rows) if (one := id_of(as_dict(row).get("id")))), None)
            if page.get("has_more") and last:
                place = {"step": step, "after": last}
            elif step == STEPS[-1]:
                yield Page(found, None)
                return
            else:
                place = {"step": STEPS[STEPS.index(step) + 1], "after": None}
            yield Page(found, json.dumps(place))

    def _lists(
        self,
    ) -> dict[str, tuple[str, Json, Callable[[list[Json]], Coroutine[Any, Any, list[Record]]]]]:
        subscriptions = ["data.customer", "data.default_payment_method", "data.latest_invoice"]
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
        return [shapes.customer_record(row) for row in rows]

    async def _listed_subscriptions(self, rows: list[Json]) -> list[Record]:
        return [
            await self._subscription_record(row, as_dict(row.get("customer")), look=False) for row in rows
        ]

    async def _listed_invoices(self, rows: list[Json]) -> list[Record]:
        """Which charge paid an invoice, and which order it is of, the charges tell."""
        return [
            shapes.without(shapes.invoice_record(row, await self._lines(row)), "payment", "order")
            for row in rows
        ]

    async def _listed_orders(self, rows: list[Json]) -> list[Record]:
        found: list[Record] = []
        for row in rows:
            if row.get("mode") == "payment":
                charge = as_dict(as_dict(row.get("payment_intent")).get("latest_charge"))
                found.append(
                    shapes.order_record(row, await self._session_lines(row), [charge] if charge else [])
                )
        return found

    async def _listed_charges(self, rows: list[Json]) -> list[Record]:
        origins = await self._origins(rows)
        found: list[Record] = []
        for row in rows:
            invoice, session = origins.get(id_of(row.get("payment_intent")) or "", ({}, {}))
            if not invoice and id_of(row.get("invoice")):
                invoice = await self._wire.read(f"/v1/invoices/{id_of(row['invoice'])}")
            found += await self._charge_records(row, invoice, session, whole=False)
        return found

    async def _origins(self, charges: Sequence[Json]) -> dict[str, tuple[Json, Json]]:
        """Invoice and Checkout session behind the payment intents of a page of charges.

        Both are listed for the time the page covers; a charge that was retried later is looked up by itself.
        """
        wanted = {intent: charge for charge in charges if (intent := id_of(charge.get("payment_intent")))}
        if not wanted:
            return {}
        times = [charge["created"] for charge in charges]
        window = {"gte": min(times) - 86_400, "lte": max(times)}  # a session lives a day at most
        found: dict[str, tuple[Json, Json]] = {}
        async for one in self._wire.all("/v1/checkout/sessions", created=window, status="complete"):
            found[id_of(one.get("payment_intent")) or ""] = ({}, one)
        async for one in self._wire.all("/v1/invoice_payments", created=window, expand=["data.invoice"]):
            intent = id_of((one.get("payment") or {}).get("payment_intent")) or ""
            found[intent] = (as_dict(one.get("invoice")), found.get(intent, ({}, {}))[1])
        for intent, charge in wanted.items():
            if intent not in found and id_of(charge.get("customer")):
                found[intent] = (await self._invoice_of(intent), {})
        return found

    async def find(self, email: str) -> list[Ref]:
        """Customers and Checkout orders of an address, as typed and in lower case: Stripe minds the difference."""
        found: dict[Ref, None] = {}
        for address in dict.fromkeys((email, email.lower())):
            async for one in self._wire.all("/v1/customers", email=address):
                found[Ref("customer", one["id"])] = None
            async for one in self._wire.all("/v1/checkout/sessions", customer_details={"email": address}):
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
        with legible():
            return shapes.snapshot(as_of, await readers[ref.kind](shapes.safe(ref.id)))

    async def _customer(self, customer_id: str) -> list[Record]:
        """A customer with all subscriptions: a new default method or a discount changes each of them."""
        one = await self._wire.read(f"/v1/customers/{customer_id}")
        found: list[Record] = [shapes.customer_record(one)]
        if not one.get("deleted"):
            expand = ["data.latest_invoice"]
            async for row in self._wire.all(
                "/v1/subscriptions", customer=one["id"], status="all", expand=expand
            ):
                found.append(await self._subscription_record(row, one))
        return found

    async def _subscription(self, subscription_id: str) -> list[Record]:
        expand = ["customer", "latest_invoice"]
        one = await self._wire.read(f"/v1/subscriptions/{subscription_id}", expand=expand)
        owner = as_dict(one.get("customer"))
        return [
            *([shapes.customer_record(owner)] if owner else []),
            await self._subscription_record(one, owner),
        ]

    async def _subscription_record(self, one: Json, owner: Json, look: bool = True) -> SubscriptionRecord:
        """`look` asks Stripe for the next invoice; without it the next amount is worked out."""
        now = clock.now()
        invoice = await self.open_invoice(one)
        record = shapes.subscription_record(one, invoice, await self._title(shapes.items_of(one)), now)
        record = replace(
            record,
            email=owner.get("email"),
            method=await self._method(one, owner),
            pending_change=await self._pending_change(one),
        )
        if record.current_period_end is None or not shapes.will_be_billed(one, record, now):
            return record
        if not look:
            return replace(record, next_payment=shapes.estimated(one, record))
        try:
            return replace(record, next_payment=await self._next_payment(one, record))
        except Unavailable:
            return shapes.without(record, "next_payment")

    async def open_invoice(self, one: Json) -> Json:
        """The invoice that is open to pay: the latest, or an older one where the latest waits as a draft."""
        latest = as_dict(one.get("latest_invoice"))
        if not latest and one.get("latest_invoice"):
            latest = await self._wire.read(f"/v1/invoices/{one['latest_invoice']}")
        if latest.get("status") == "open" and shapes.remaining(latest) > 0:
            return latest
        if one.get("status") not in ("past_due", "unpaid"):
            return {}
        page = await self._wire.read("/v1/invoices", subscription=one["id"], status="open", limit=1)
        return next((row for row in rows_of(page) if shapes.remaining(row) > 0), {})

    async def _title(self, items: Iterable[Json]) -> str | None:
        names = [await self._name(shapes.price_of(item)) for item in items]
        return ", ".join(name for name in names if name)[:200] or None

    async def _name(self, price: Json) -> str | None:
        product = price.get("product")
        if isinstance(product, dict):
            return product.get("name") or price.get("nickname")
        if product and product not in self._names:
            try:
                self._names[product] = (await self._wire.read(f"/v1/products/{product}")).get("name")
            except Gone:
                self._names[product] = None
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
                chosen = await self._wire.read(f"/v1/payment_methods/{chosen}")
            except Gone:
                return None
        return shapes.method_of(chosen, chosen["id"]) if chosen else None

    async def _pending_change(self, one: Json) -> PendingChange | None:
        waiting = one.get("pending_update")
        if not waiting:
            return None
        items = waiting.get("subscription_items") or []
        return PendingChange(
            None, shapes.amount_of(items), await self._title(items), shapes.quantity_of(items)
        )

    async def _next_payment(self, one: Json, record: SubscriptionRecord) -> NextPayment | None:
        """Stripe refuses the preview where nothing will be billed. It is a POST without effect."""
        try:
            preview = await self._wire.read("/v1/invoices/create_preview", "post", subscription=one["id"])
        except (Gone, Declined):
            return None
        amount = shapes.money_of(preview.get("amount_due"), preview.get("currency"))
        ends = record.status == "cancels_at_period_end"
        if ends and not amount:
            return None
        on = (record.cancels_at if ends else None) or record.current_period_end
        assert on is not None
        metered = any(
            (shapes.price_of(item).get("recurring") or {}).get("usage_type") == "metered"
            for item in shapes.items_of(one)
        )
        return NextPayment(on.date(), amount, "estimated" if metered else "fixed")

    async def _payment(self, charge_id: str) -> list[Record]:
        charge = await self._wire.read(f"/v1/charges/{charge_id}")
        intent = id_of(charge.get("payment_intent"))
        invoice, session = {}, {}
        if intent:
            invoice, session = await self._invoice_of(intent), await self._session_of(intent)
        elif id_of(charge.get("invoice")):
            invoice = await self._wire.read(f"/v1/invoices/{id_of(charge['invoice'])}")
        return await self._charge_records(charge, invoice, session)

    async def _invoice_of(self, intent: str) -> Json:
        asked = {"type": "payment_intent", "payment_intent": intent}
        payments = await self._first("/v1/invoice_payments", payment=asked, expand=["data.invoice"])
        return as_dict(payments.get("invoice"))

    async def _session_of(self, intent: str) -> Json:
        return await self._first("/v1/checkout/sessions", payment_intent=intent, expand=["data.line_items"])

    async def _first(self, path: str, **params: Any) -> Json:
        try:
            rows = rows_of(await self._wire.read(path, limit=1, **params))
        except Gone:
            return {}
        return rows[0] if rows else {}

    async def _charge_records(
        self, charge: Json, invoice: Json, session: Json, whole: bool = True
    ) -> list[Record]:
        """A payment with its refunds, its invoice and its order; `whole` says all there is to say of these two."""
        refunds = await self._refunds(charge)
        subscription = shapes.subscription_of(invoice)
        order = None
        if session.get("mode") == "payment":
            order = session["id"]
        elif not subscription and charge.get("status") != "failed":
            order = invoice.get("id") or charge["id"]
        lines = await self._lines(invoice)
        payment = shapes.payment_record(charge, refunds, order, invoice, session, lines)
        found: list[Record] = [payment, *(shapes.refund_record(one) for one in refunds)]
        if invoice:
            paid = payment.remote_id if charge.get("status") == "succeeded" else None
            record = shapes.invoice_record(invoice, lines)
            spoken = {"order", *(["payment"] if paid else [])}
            rest = shapes.all_fields(InvoiceRecord) if whole else frozenset()
            knows = (rest - {"payment"}) | spoken
            found.append(replace(record, payment=paid, order=order, knows=knows))
        if session and order == session["id"]:
            paid_since = charge.get("status") == "failed" and session.get("payment_status") == "paid"
            if whole and not paid_since:
                found.append(
                    shapes.order_record(session, await self._session_lines(session), [charge], refunds)
                )
        elif order:
            found.append(shapes.bare_order(order, payment, invoice, lines))
        return found

    async def _refunds(self, charge: Json) -> list[Json]:
        """Of a charge that was never captured there are none: what Stripe calls refunded was only let go."""
        if charge.get("captured") is False:
            return []
        known = charge.get("refunds")
        if isinstance(known, dict) and not known.get("has_more"):
            return rows_of(known)
        return [one async for one in self._wire.all("/v1/refunds", charge=charge["id"])]

    async def _refund(self, refund_id: str) -> list[Record]:
        one = await self._wire.read(f"/v1/refunds/{refund_id}")
        charge = id_of(one.get("charge"))
        return await self._payment(charge) if charge else [shapes.refund_record(one)]

    async def _invoice(self, invoice_id: str) -> list[Record]:
        """An invoice with its payments, failed ones too, and its subscription."""
        one = await self._wire.read(f"/v1/invoices/{invoice_id}")
        charges = await self._charges_of(one)
        intents = dict.fromkeys(id_of(charge.get("payment_intent")) for charge in charges)
        subscription = shapes.subscription_of(one)
        session: Json = {}
        if not subscription and len(intents) == 1 and (intent := next(iter(intents))):
            session = await self._session_of(intent)
        found: list[Record] = []
        if not charges:
            found.append(shapes.without(shapes.invoice_record(one, await self._lines(one)), "order"))
        for charge in reversed(charges):  # oldest first, so that the last word is the newest one's
            found += await self._charge_records(charge, one, session)
        if subscription:
            found += await self._subscription(subscription)
        return found

    async def _charges_of(self, invoice: Json) -> list[Json]:
        if old := id_of(invoice.get("charge")):
            return [await self._wire.read(f"/v1/charges/{old}")]
        found: list[Json] = []
        try:
            async for one in self._wire.all("/v1/invoice_payments", invoice=invoice["id"]):
                payment = one.get("payment") or {}
                if intent := id_of(payment.get("payment_intent")):
                    found += [row async for row in self._wire.all("/v1/charges", payment_intent=intent)]
                elif charge := id_of(payment.get("charge")):
                    found.append(await self._wire.read(f"/v1/charges/{charge}"))
        except Gone:
            return found
        return found

    async def _order(self, order_id: str) -> list[Record]:
        if order_id.startswith("in_"):
            return await self._invoice(order_id)
        if not order_id.startswith("cs_"):
            return await self._payment(order_id)
        session = await self._wire.read(f"/v1/checkout/sessions/{order_id}", expand=["line_items"])
        if session.get("mode") != "payment":
            subscription = shapes.subscription_of_session(session)
            return await self._subscription(subscription) if subscription else []
        charges: list[Json] = []
        if intent := id_of(session.get("payment_intent")):
            charges = [row async for row in self._wire.all("/v1/charges", payment_intent=intent)]
        invoice = {}
        if invoice_id := id_of(session.get("invoice")):
            invoice = await self._wire.read(f"/v1/invoices/{invoice_id}")
        found: list[Record] = []
        for charge in reversed(charges):
            found += await self._charge_records(charge, invoice, session)
        return found or [shapes.order_record(session, await self._session_lines(session), [])]

    async def _lines(self, invoice: Json) -> tuple[Line, ...]:
        lines = invoice.get("lines") or {}
        rows = rows_of(lines)
        if lines.get("has_more"):
            rows = [row async for row in self._wire.all(f"/v1/invoices/{invoice['id']}/lines")]
        return shapes.lines_of(rows, "amount")

    async def _session_lines(self, session: Json) -> tuple[Line, ...]:
        lines = session.get("line_items") or {}
        rows = rows_of(lines)
        if not lines or lines.get("has_more"):
            rows = [row async for row in self._wire.all(f"/v1/checkout/sessions/{session['id']}/line_items")]
        return shapes.lines_of(rows, "amount_total")
