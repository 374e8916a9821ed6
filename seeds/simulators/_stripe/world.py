"""Builders for the demo and for tests: whole, consistent objects of one account, with the same ids every time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from seeds.simulators._stripe import billing, shapes
from seeds.simulators._stripe.books import Books
from seeds.simulators._stripe.wire import Json, acceptable, share

if TYPE_CHECKING:
    from seeds.simulators.stripe import Simulator

Line = tuple[str, int, int]  # name, quantity, amount of one in Stripe's minor units
Unit = Literal["day", "week", "month", "year"]


@dataclass(frozen=True, slots=True)
class Account:
    """A handle on one account. Builders return ids; amounts are in the units Stripe sends for the currency."""

    simulator: "Simulator"
    id: str
    secret_key: str
    webhook_secret: str | None = None

    @property
    def books(self) -> Books:
        return Books(self.simulator, self.id)

    def get(self, object_id: str) -> Json:
        """An object as the API would send it; KeyError where there is none."""
        books = self.books
        return books.shown(books.objects[object_id])

    def all(self, kind: str) -> list[Json]:
        """Every object of a kind ("subscription", "charge", "event" …), oldest first, as it would be sent."""
        books = self.books
        return [books.shown(one) for one in books.all(kind)]

    def charge_of(self, object_id: str) -> str:
        """The latest charge behind a checkout session, payment intent, invoice or subscription; KeyError if none."""
        books = self.books
        one = books.objects[object_id]
        if one["object"] == "subscription":
            one = books.objects[one["latest_invoice"]]
        if one["object"] == "invoice":
            payments = [each for each in books.all("invoice_payment") if each["invoice"] == one["id"]]
            if not payments:
                raise KeyError(f"nothing was charged for {object_id}")
            one = books.objects[payments[-1]["payment"]["payment_intent"]]
        if one["object"] == "checkout.session":
            one = books.objects[one["payment_intent"]]
        charge: str | None = one["latest_charge"]
        if charge is None:
            raise KeyError(f"nothing was charged for {object_id}")
        return charge

    # Customers and what they pay with

    def customer(self, email: str | None, name: str | None, at: datetime) -> str:
        with self._history() as books:
            object_id = books.new_id("customer")
            prefix = f"SIM{object_id[-5:]}"
            one = books.put(shapes.customer(object_id, _moment(at), email, name, prefix))
            books.emit("customer.created", one, at=one["created"])
            return object_id

    def card(
        self,
        customer: str,
        brand: str = "visa",
        last4: str = "4242",
        exp_month: int = 12,
        exp_year: int = 2034,
        declines: bool | str = False,
    ) -> str:
        """A saved card; the first becomes the customer's default. `declines` may be a decline code."""
        with self._history() as books:
            owner = books.objects[customer]
            code = "generic_decline" if declines is True else declines or None
            method = shapes.card_method(
                books.new_id("payment_method"),
                owner["created"],
                customer,
                {"brand": brand, "last4": last4, "exp_month": exp_month, "exp_year": exp_year},
                shapes.billing_details(owner["email"], owner["name"]),
                code,
            )
            books.put(method)
            books.emit("payment_method.attached", method, at=method["created"])
            if owner["invoice_settings"]["default_payment_method"] is None:
                owner["invoice_settings"] |= {"default_payment_method": method["id"]}
            return str(method["id"])

    # Orders

    def guest_order(
        self, email: str | None, lines: list[Line], at: datetime, currency: str, tax: int = 0
    ) -> str:
        """A paid Checkout order of somebody who is no customer, and may have left no address; the session's id."""
        with self._history() as books:
            return self._order(books, None, email, None, lines, _moment(at), currency, None, tax, True)

    def order(
        self,
        customer: str,
        lines: list[Line],
        at: datetime,
        currency: str,
        card: str | None = None,
        tax: int = 0,
        invoice: bool = False,
        captured: bool = True,
    ) -> str:
        """A Checkout order of a customer with its payment, and with an invoice where wanted; the session's id."""
        with self._history() as books:
            owner = books.objects[customer]
            chosen = card or owner["invoice_settings"]["default_payment_method"]
            moment = _moment(at)
            session_id = self._order(
                books, customer, owner["email"], owner["name"], lines, moment, currency, chosen, tax, captured
            )
            if invoice:
                self._order_invoice(books, session_id, moment, tax)
            return session_id

    def _order(
        self,
        books: Books,
        customer: str | None,
        email: str | None,
        name: str | None,
        lines: list[Line],
        at: int,
        currency: str,
        card: str | None,
        tax: int,
        captured: bool,
    ) -> str:
        currency = currency.lower()
        rows = _session_lines(books, lines, at, currency, tax)
        subtotal = sum(row["amount_subtotal"] for row in rows)
        intent = books.put(
            shapes.payment_intent(
                books.new_id("payment_intent"),
                at,
                subtotal + tax,
                currency,
                customer,
                ", ".join(n for n, _, _ in lines),
            )
        )
        method = books.objects[card] if card else _passing_card(books, email, name, at)
        charge = billing.charge_intent(books, intent, method, at, None, email)
        if not captured:
            charge |= {"captured": False, "amount_captured": 0, "balance_transaction": None}
            intent |= {
                "status": "requires_capture",
                "capture_method": "manual",
                "amount_capturable": intent["amount"],
                "amount_received": 0,
            }
        session = shapes.checkout_session(
            books.new_id("checkout.session"),
            at,
            "payment",
            amount_subtotal=subtotal,
            amount_total=subtotal + tax,
            cancel_url="https://shop.example/cart",
            currency=currency,
            customer=customer,
            customer_creation=None if customer else "if_required",
            customer_details=shapes.customer_details(email, name),
            invoice_creation={"enabled": False, "invoice_data": _no_invoice_data()},
            payment_intent=intent["id"],
            payment_status="paid" if captured else "unpaid",
            status="complete",
            success_url="https://shop.example/thanks",
            total_details={"amount_discount": 0, "amount_shipping": 0, "amount_tax": tax},
            _lines=rows,
        )
        books.put(session)
        books.emit("checkout.session.completed", session, at=at)
        return str(session["id"])

    def _order_invoice(self, books: Books, session_id: str, at: int, tax: int) -> None:
        session = books.objects[session_id]
        customer = books.objects[session["customer"]]
        lines = [
            shapes.line(
                books.new_id("line_item"),
                row["amount_subtotal"],
                row["description"],
                (at, at),
                row["price"],
                row["quantity"],
            )
            for row in session["_lines"]
        ]
        invoice = billing.compose(books, customer, lines, at, session["currency"], "manual", None, tax)
        books.put(invoice)
        billing.finalize(books, invoice, at)
        payment = shapes.invoice_payment(
            books.new_id("invoice_payment"), at, invoice, session["payment_intent"]
        )
        books.put(payment)
        invoice["_payments"] = [payment["id"]]
        invoice["attempt_count"] = 1
        billing.settle(books, invoice, payment, at)
        session["invoice"] = invoice["id"]
        session["invoice_creation"]["enabled"] = True

    def refund(
        self,
        charge: str,
        minor: int,
        at: datetime | None = None,
        status: Literal["succeeded", "pending", "failed", "canceled"] = "succeeded",
        reason: str | None = "requested_by_customer",
    ) -> str:
        """Give back a part of a charge, or all of it. Without `at` it happens now, and webhooks tell of it."""
        with self._at(at) as (books, moment):
            paid = books.objects[charge]
            _check(minor, paid["currency"])
            if minor > paid["amount_captured"] - paid["amount_refunded"]:
                raise ValueError(f"{minor} is more than what is left of {charge}")
            refund = books.put(shapes.refund(books.new_id("refund"), moment, paid, minor, reason, status))
            books.emit("refund.created", refund, at=moment)
            if status in ("succeeded", "pending"):
                total = paid["amount_refunded"] + minor
                books.change(
                    paid,
                    "charge.refunded",
                    moment,
                    amount_refunded=total,
                    refunded=total == paid["amount_captured"],
                )
            return str(refund["id"])

    def settle_refund(self, refund: str, status: Literal["succeeded", "failed", "canceled"]) -> None:
        """Let a pending refund arrive, or come to nothing; webhooks tell of it."""
        with self.simulator.lock:
            books = self.books
            one = books.objects[refund]
            if status != "succeeded":
                charge = books.objects[one["charge"]]
                charge |= {"amount_refunded": charge["amount_refunded"] - one["amount"], "refunded": False}
            books.change(one, "refund.failed" if status == "failed" else "refund.updated", status=status)

    def dispute(self, charge: str, at: datetime | None = None) -> str:
        """The customer's bank takes a charge back for now."""
        with self._at(at) as (books, moment):
            paid = books.objects[charge]
            dispute = books.put(shapes.dispute(books.new_id("dispute"), moment, paid))
            books.emit("charge.dispute.created", dispute, at=moment)
            books.change(paid, "charge.updated", moment, disputed=True)
            return str(dispute["id"])

    # Subscriptions

    def product(self, name: str, at: datetime | None = None) -> str:
        with self._history() as books:
            return str(
                books.put(shapes.product(books.new_id("product"), _moment(at) or books.now, name))["id"]
            )

    def price(self, product: str, minor: int, currency: str, interval: Unit = "month", count: int = 1) -> str:
        with self._history() as books:
            _check(minor, currency.lower())
            created = books.objects[product]["created"]
            price_id = books.new_id("price")
            one = shapes.price(price_id, created, product, minor, currency.lower(), (interval, count))
            return str(books.put(one)["id"])

    def subscription(
        self,
        customer: str,
        price: str,
        started_at: datetime,
        card: str | None = None,
        quantity: int = 1,
        trial_days: int = 0,
        cancel_at_period_end: bool = False,
        managed: bool = False,
        flexible: bool = False,
    ) -> str:
        """A subscription with an invoice and a charge for every period until now.

        A declining card declines from now on: what lies behind was paid.
        """
        with self._history() as books:
            moment, trial_end = _moment(started_at), None
            if trial_days:
                trial_end = billing.step(moment, "day", 1, trial_days)
            object_id = books.new_id("subscription")
            end = trial_end or billing.next_end(moment, books.objects[price]["recurring"], moment)
            item = shapes.subscription_item(
                books.new_id("subscription_item"),
                moment,
                object_id,
                books.objects[price],
                quantity,
                moment,
                end,
            )
            one = shapes.subscription(
                object_id, moment, customer, [item], card, trial_end, managed=managed, flexible=flexible
            )
            books.put(one)
            books.emit("customer.subscription.created", one, at=moment)
            self._first_invoice(books, one, moment)
            billing.advance(books, one, books.now)
            if cancel_at_period_end:
                self._cancel_at(books, one, billing.period_of(one)[1], at_period_end=True)
            return object_id

    def _first_invoice(self, books: Books, one: Json, at: int) -> None:
        line = billing.cycle_line(books, one["items"][0])
        if one["status"] == "trialing":
            line |= {"amount": 0, "subtotal": 0, "description": f"Trial period for {line['description']}"}
        invoice = billing.draft(books, one, [line], at, "subscription_create")
        billing.finalize(books, invoice, at)
        method = billing.method_for(books, one)
        if invoice["amount_remaining"] and method is None:
            one["status"] = "incomplete"
        billing.collect(books, invoice, method, at)

    def cancel_at(self, subscription: str, at: datetime) -> None:
        """What Stripe's own portal does in flexible mode: `cancel_at` alone, `cancel_at_period_end` stays false."""
        with self._history() as books:
            self._cancel_at(books, books.objects[subscription], _moment(at), at_period_end=False)

    def _cancel_at(self, books: Books, one: Json, moment: int, *, at_period_end: bool) -> None:
        books.change(
            one,
            "customer.subscription.updated",
            cancel_at=moment,
            cancel_at_period_end=at_period_end,
            canceled_at=books.now,
            cancellation_details=one["cancellation_details"] | {"reason": "cancellation_requested"},
        )

    def cancel(self, subscription: str, at: datetime | None = None) -> None:
        """End a subscription, as a merchant does in the Dashboard."""
        with self._at(at) as (books, moment):
            billing.end_now(books, books.objects[subscription], moment)

    def fail_renewal(self, subscription: str, decline_code: str = "insufficient_funds") -> str:
        """Let the subscription renew now with a card that declines: past_due, an open invoice, whose id is given."""
        with self.simulator.lock:
            books = self.books
            one = books.objects[subscription]
            if one["status"] != "active":
                raise ValueError(f"{subscription} is {one['status']}: only an active one renews")
            method = billing.method_for(books, one)
            if method is not None:
                method["_declines"] = decline_code
            billing.fall_due(books, one)
            return str(one["latest_invoice"])

    def pause_collection(
        self,
        subscription: str,
        behavior: Literal["void", "keep_as_draft", "mark_uncollectible"] = "void",
        resumes_at: datetime | None = None,
    ) -> None:
        with self.simulator.lock:
            pause = {"behavior": behavior, "resumes_at": _moment(resumes_at) or None}
            books = self.books
            books.change(books.objects[subscription], "customer.subscription.updated", pause_collection=pause)

    def schedule(self, subscription: str) -> str:
        """Put a subscription under a schedule."""
        with self.simulator.lock:
            books = self.books
            one = books.objects[subscription]
            schedule = books.put(shapes.schedule(books.new_id("subscription_schedule"), books.now, one))
            one["schedule"] = schedule["id"]
            books.emit("subscription_schedule.created", schedule)
            return str(schedule["id"])

    # The rest

    def credit_note(self, invoice: str, minor: int, at: datetime | None = None) -> str:
        with self._at(at) as (books, moment):
            of = books.objects[invoice]
            _check(minor, of["currency"])
            number = f"{of['number']}-CN-{len(books.all('credit_note')) + 1:02d}"
            line_id = books.new_id("credit_note_line_item")
            note = shapes.credit_note(books.new_id("credit_note"), moment, of, minor, number, line_id)
            books.put(note)
            which = "post_payment" if of["status"] == "paid" else "pre_payment"
            of[f"{which}_credit_notes_amount"] += minor
            books.emit("credit_note.created", note, at=moment)
            return str(note["id"])

    def portal_configuration(self, method_update: bool = True) -> str:
        """What a merchant does who saves the portal's settings in the Dashboard."""
        with self._history() as books:
            first = not books.all("billing_portal.configuration")
            one_id = books.new_id("billing_portal.configuration")
            return str(books.put(shapes.portal_configuration(one_id, books.now, method_update, first))["id"])

    @contextmanager
    def _history(self) -> Iterator[Books]:
        with self.simulator.lock:
            books = self.books
            books.looking_back = True
            yield books

    @contextmanager
    def _at(self, at: datetime | None) -> Iterator[tuple[Books, int]]:
        with self.simulator.lock:
            books = self.books
            books.looking_back = at is not None
            yield books, _moment(at) or books.now


def _moment(at: datetime | None) -> int:
    if at is None:
        return 0
    if at.tzinfo is None:
        raise ValueError("a moment needs a time zone")
    return int(at.timestamp())


def _check(minor: int, currency: str) -> None:
    if not acceptable(minor, currency):
        raise ValueError(f"Stripe does not take {minor} of {currency}")


def _session_lines(books: Books, lines: list[Line], at: int, currency: str, tax: int) -> list[Json]:
    subtotal = sum(quantity * unit for _, quantity, unit in lines)
    rows, left = [], tax
    for place, (name, quantity, unit) in enumerate(lines, 1):
        _check(unit, currency)
        part = left if place == len(lines) else share(tax, quantity * unit, subtotal, currency)
        left -= part
        product = books.put(shapes.product(books.new_id("product"), at, name))
        price = books.put(shapes.price(books.new_id("price"), at, product["id"], unit, currency, None))
        rows.append(shapes.session_line(books.new_id("item"), name, quantity, price, part))
    _check(tax, currency)
    return rows


def _passing_card(books: Books, email: str | None, name: str | None, at: int) -> Json:
    """A card that is used once and attached to nobody."""
    card = {"brand": "visa", "last4": "4242", "exp_month": 12, "exp_year": 2034}
    billing_ = shapes.billing_details(email, name)
    return books.put(shapes.card_method(books.new_id("payment_method"), at, None, card, billing_, None))


def _no_invoice_data() -> Json:
    names = ("account_tax_ids", "custom_fields", "description", "footer", "issuer", "rendering_options")
    return dict.fromkeys(names) | {"metadata": {}}
