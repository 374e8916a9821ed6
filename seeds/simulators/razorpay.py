"""A stand-in for Razorpay: its API (v1), webhooks, Checkout for another card, hosted pages, and time.

Written from Razorpay's documents and from what others saw in its test mode. Objects are kept as Razorpay shows them;
names that begin with an underscore are never shown. Cycles turn at midnight in India. Where the documents are silent,
the choice stands beside the code that makes it.
"""

import base64
import hashlib
import hmac
import html
import json
import re
import threading
from calendar import monthrange
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from seeds.simulators.harness import Delivery, Harness, Sample, Situation, Standing, page

Json = dict[str, Any]
INDIA = timezone(timedelta(hours=5, minutes=30))
DAY = 86_400
PREFIXES = {
    "customers": "cust",
    "plans": "plan",
    "subscriptions": "sub",
    "payments": "pay",
    "orders": "order",
    "invoices": "inv",
    "refunds": "rfnd",
}
FILTERS = {
    "subscriptions": ("plan_id",),
    "payments": ("customer_id",),
    "orders": ("receipt",),
    "invoices": ("subscription_id", "customer_id", "payment_id", "receipt"),
}
EXPANSIONS = {"payments": ("card",), "orders": ("payments",)}
ENDED = ("cancelled", "completed", "expired")
ATTEMPTS = 4  # on the day and on the three days after it
AUTHORISATION = 500  # five rupees, paid back at once
CARDS = {
    "card": {"last4": "4366", "network": "Visa", "type": "credit", "international": False},
    "foreign_card": {"last4": "1111", "network": "Visa", "type": "credit", "international": True},
    "new": {"last4": "5449", "network": "MasterCard", "type": "debit", "international": False},
}
CHECKOUT_JS = """(function () {
  var here = new URL(document.currentScript.src).origin;
  window.Razorpay = function (options) {
    this.on = function () {};
    this.open = function () {
      var query = new URLSearchParams({
        key_id: options.key,
        subscription_id: options.subscription_id,
        card_change: options.subscription_card_change ? "1" : "0",
        callback_url: options.redirect ? options.callback_url : ""
      });
      window.location.assign(here + "/checkout/card?" + query);
    };
  };
})();
"""
LABEL = "Razorpay"


class Refusal(Exception):
    """An answer that is an error, in Razorpay's shape."""

    def __init__(self, description: str, status: int = 400, field: str | None = None) -> None:
        self.status = status
        told = {"code": "BAD_REQUEST_ERROR", "description": description, "source": "NA", "step": "NA"}
        more = {"field": field} if field else {}
        self.body: Json = {"error": {**told, "reason": "NA", "metadata": {}, **more}}


class Simulator(Harness):
    """Razorpay's side of the wire, for any number of accounts, each found by its key id."""

    name = "razorpay"

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(clock)
        self.lock = threading.RLock()
        self.state = {"counter": 0, "accounts": {}, "objects": {}, "sessions": {}}

    # The harness

    def samples(self) -> list[Sample]:
        def keys(mode: str, tail: str) -> dict[str, str]:
            pair = {"key_id": f"rzp_{mode}_Sim{tail:0>11}", "key_secret": f"SimSecret{tail:0>15}"}
            return {**pair, "webhook_secret": f"chai and samosa {tail}"}

        first = Sample("Razorpay", keys("test", "1"))
        second = Sample("Razorpay, a stranger's", keys("test", "2"))
        label, options = "Razorpay, cards may change while active", ("card_change_when_active",)
        return [first, second, Sample(label, keys("live", "3"), options=options)]

    def open(self, sample: Sample, webhook_url: str) -> None:
        keys = sample.credentials
        with self.lock:
            self.state["accounts"][keys["key_id"]] = {
                "secret": keys["key_secret"],
                "webhook_url": webhook_url,
                "webhook_secret": keys["webhook_secret"],
                "id": self._id("acc"),
                "active_card_change": True,  # whether Checkout takes another card while active is not documented
                "lean": False,  # older accounts: without the newer fields of subscriptions
                "forgets_cancels": False,  # the end that was promised never comes
                "quiet": False,
            }
            for one in self.plans(sample):
                self.plan(sample, one["title"], one["minor"], f"{one['unit']}ly")

    def plans(self, sample: Sample) -> list[Json]:
        """From the ids of the account's plans, where it is open."""
        offered = (("Chai club, large", 79_900, "month"), ("Chai club for a year", 499_000, "year"))
        ids = {one["item"]["name"]: one["id"] for one in self._all("plans", sample.credentials["key_id"])}
        return [
            {
                "title": title,
                "plan": ids.get(title),
                "minor": minor,
                "currency": "INR",
                "unit": unit,
                "count": 1,
            }
            for title, minor, unit in offered
        ]

    def account(self, sample: Sample) -> Any:
        return self.state["accounts"][sample.credentials["key_id"]]

    def fill(self, sample: Sample) -> None:
        with self.lock:
            account = self.account(sample)
            account["quiet"] = True
            noor, other = "noor@example.com", f"{self.name}@example.com"
            chai = self.plan(sample, "Chai club", 49_900)
            box = self.plan(sample, "Spice box", 129_900, "quarterly")
            daily = self.plan(sample, "Tiffin week", 89_900, "weekly")
            self.subscribe(sample, noor, chai, cycles=3, quantity=2)
            self.sale(sample, noor, 74_900, "SO-1001", "Brass tea strainer", days=20)
            self.subscribe(sample, other, chai, cycles=5)
            self.subscribe(sample, other, box, cycles=2, method="foreign_card")
            self.subscribe(sample, other, box, status="authenticated")
            self.subscribe(sample, other, chai, status="created")
            for status, method in (("pending", "card"), ("halted", "upi"), ("paused", "emandate")):
                self.subscribe(sample, other, daily, status=status, method=method, cycles=2)
            for status in ("cancelled", "completed", "expired"):
                self.subscribe(sample, other, chai, status=status, cycles=0 if status == "expired" else 2)
            self.subscribe(sample, other, chai, cycles=2, total=2)  # its last cycle
            sold = self.sale(sample, other, 239_900, "SO-1002", "Copper kettle", days=40, good="-+")
            self.refund(sold["id"], 100_000, days=30)
            self.sale(sample, other, 12_900, "SO-1003", "Cardamom, 100 g", days=12, good="-")
            self.sale(sample, "void@razorpay.com", 5_900, "SO-1004", "Matchbox poster", days=3)
            account["quiet"] = False

    def stage(self, sample: Sample, email: str, situation: Situation) -> str | None:
        states = {"incomplete": "created", "trialing": "authenticated", "past_due": "pending"}
        states |= {"expired": "completed", **{same: same for same in ("active", "paused", "cancelled")}}
        status, wanted = states.get(situation.state), situation.object
        overdue, begun = situation.state == "past_due", situation.state not in ("incomplete", "trialing")
        sorts = {"last_cycle": "active", "paused_elsewhere": "paused"}
        if status is None or (wanted is not None and sorts.get(wanted) != situation.state):
            return None  # an end that is promised cannot be seen here
        if situation.due not in (None, overdue) or situation.token not in (None, begun):
            return None
        method = situation.method or ("upi" if wanted == "paused_elsewhere" else "card")
        if method not in ("card", "foreign_card", "upi", "emandate", "wallet"):
            return None
        with self.lock:
            plan = self.plan(sample, "Chai club", 49_900)
            total = 2 if wanted == "last_cycle" else 24
            one = self.subscribe(sample, email, plan, status=status, method=method, cycles=2, total=total)
            if wanted == "paused_elsewhere":
                one["pause_initiated_by"] = "customer"  # the word is not documented
            if status != "created":
                word = "charged" if status == "active" else status
                self.tell(one, f"subscription.{word}", with_payment=status == "active")
            return str(one["id"])

    def standing(self, remote_id: str) -> Standing:
        with self.lock:
            one = self.state["objects"][remote_id]
            going = one["status"] in ("authenticated", "active", "pending") and one["remaining_count"] > 0
            charges = going and not (one["_ends"] and not self._account_of(one)["forgets_cancels"])
            at = one["charge_at"] if charges else None
            on = datetime.fromtimestamp(at, INDIA).date() if at else None
            amount = self._price(one, next_time=True) if charges else None
            return Standing(one["status"], charges, on, one["_used"]["token_id"], one["paid_count"], amount)

    def charge(self, remote_id: str, succeeds: bool = True) -> None:
        with self.lock:
            self._charge(self.state["objects"][remote_id], self._now(), succeeds)

    def proof_of(self, delivery: Delivery) -> str | None:
        return delivery.headers.get("X-Razorpay-Signature")

    def with_proof(self, delivery: Delivery, proofs: list[str]) -> tuple[list[tuple[str, str]], bytes]:
        rest = [(name, value) for name, value in delivery.headers.items() if name != "X-Razorpay-Signature"]
        return [*rest, *(("X-Razorpay-Signature", proof) for proof in proofs)], delivery.body

    def opened_by_script(self, options: str) -> str:
        """As `CHECKOUT_JS` does it."""
        given = json.loads(options)
        query = {"key_id": given["key"], "subscription_id": given["subscription_id"]}
        query["card_change"] = "1" if given.get("subscription_card_change") else "0"
        query["callback_url"] = given["callback_url"] if given.get("redirect") else ""
        return f"{self.address}/checkout/card?{urlencode(query)}"

    def tick(self) -> None:
        """Charges, retries, promised ends, completions, and subscriptions that nobody authorised in time."""
        with self.lock:
            for one in self._all("subscriptions"):
                for _ in range(400):
                    if not self._fall_due(one):
                        break

    def refused_keys(self) -> Response:
        return JSONResponse(Refusal("Authentication failed").body, 401)

    def limited(self, retry_after: int | None) -> Response:
        """Razorpay documents neither a body nor Retry-After; where one is asked for, it is given."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return JSONResponse(Refusal("Request failed. Please try after sometime.").body, 429, headers)

    def outage(self) -> Response:
        body = Refusal("We are facing some trouble completing your request at the moment.").body
        return JSONResponse({"error": body["error"] | {"code": "SERVER_ERROR"}}, 503)

    def is_page(self, method: str, path: str) -> bool:
        return not path.startswith("/v1/") or path == "/v1/checkout.js"

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/checkout.js", self._script, methods=["GET"]),
            Route("/checkout/card", self._card_page, methods=["GET"]),
            Route("/checkout/card/{session}", self._card_given, methods=["POST"]),
            Route("/i/{code}", self._hosted, methods=["GET", "POST"]),
            Route("/v1/{path:path}", self._api, methods=["GET", "POST", "PATCH"]),
        ]

    # Builders

    def plan(self, sample: Sample, name: str, amount: int, period: str = "monthly", every: int = 1) -> str:
        """A plan in rupees; the same one again where it is there."""
        key = sample.credentials["key_id"]
        for one in self._all("plans", key):
            if (one["item"]["name"], one["period"], one["interval"]) == (name, period, every):
                return str(one["id"])
        item = {"id": self._id("item"), "active": True, "name": name, "description": None, "type": "plan"}
        item |= {"amount": amount, "unit_amount": amount, "currency": "INR"}
        at = self._now() - 400 * DAY
        told = {"interval": every, "period": period, "item": item, "notes": []}
        return str(self._put("plans", key, at, told)["id"])

    def person(self, sample: Sample, email: str) -> Json:
        """The customer behind an address, made where there is none."""
        key = sample.credentials["key_id"]
        for one in self._all("customers", key):
            if one["email"] == email:
                return one
        name = email.split("@")[0].capitalize()
        told: Json = {"name": name, "email": email, "contact": "+919876543210", "gstin": None, "notes": []}
        return self._put("customers", key, self._now() - 390 * DAY, told)

    def subscribe(
        self,
        sample: Sample,
        email: str,
        plan: str,
        status: str = "active",
        method: str = "card",
        cycles: int = 2,
        total: int = 24,
        quantity: int = 1,
    ) -> Json:
        """A subscription with so many paid cycles behind it, the last of which runs now, and then in that state."""
        key, now = sample.credentials["key_id"], self._now()
        begun = status not in ("created", "authenticated", "expired")
        start = _midnight(now) - 10 * DAY if begun else now + 14 * DAY
        unpaid = status in ("pending", "halted")
        if unpaid:  # the cycle that could not be charged begins today
            start = _midnight(now)
        for _ in range(cycles - (not unpaid) if begun else 0):
            start = _later(start, self.state["objects"][plan], -1)
        one = self._put(
            "subscriptions",
            key,
            start - 600 if begun else now - 2 * DAY,
            {"plan_id": plan, "customer_id": None, "status": "created", "quantity": quantity},
            {"current_start": None, "current_end": None, "ended_at": None, "charge_at": start},
            {"start_at": start, "end_at": None, "total_count": total, "paid_count": 0, "auth_attempts": 0},
            {"remaining_count": total, "customer_notify": True, "expire_by": None, "offer_id": None},
            {"has_scheduled_changes": False, "change_scheduled_at": None, "source": "api", "notes": []},
            {"payment_method": None, "customer_email": None, "customer_contact": None, "paused_at": None},
            {"halted_at": None, "pause_initiated_by": None, "cancel_initiated_by": None},
            {"_ends": False, "_then": None, "_email": email},
            {"_used": self._means(method), "_code": self._id("")},
        )
        if status not in ("created", "expired"):
            person = self.person(sample, email)
            sort = "card" if method == "foreign_card" else method
            one |= {"customer_id": person["id"], "customer_email": email, "payment_method": sort}
            one |= {"customer_contact": person["contact"], "status": "authenticated"}
        account = self.account(sample)
        quiet, account["quiet"] = account["quiet"], True
        for _ in range(cycles if begun else 0):
            self._charge(one, one["charge_at"] or now)
        self._into(one, status, now)
        account["quiet"] = quiet
        return one

    def _into(self, one: Json, status: str, now: int) -> None:
        if status == "pending":
            self._charge(one, now, succeeds=False)
        elif status == "halted":
            for back in range(ATTEMPTS - 1, -1, -1):
                self._charge(one, now - back * 60, succeeds=False)
        elif status == "paused":
            one |= {"status": "paused", "paused_at": now, "pause_initiated_by": "self", "charge_at": None}
        elif status in ("cancelled", "completed"):
            one |= {"status": status, "ended_at": now - DAY, "charge_at": None, "cancel_initiated_by": "self"}
            one["remaining_count"] = one["remaining_count"] if status == "cancelled" else 0
        elif status == "expired":
            one |= {"status": "expired", "ended_at": None, "expire_by": now - DAY, "charge_at": None}

    def sale(
        self, sample: Sample, email: str, amount: int, receipt: str, what: str, days: int = 0, good: str = "+"
    ) -> Json:
        """A one-off order so many days ago and its last payment by card. `good` has a sign for every attempt: "-+" is
        one in vain and one that went through."""
        key, at = sample.credentials["key_id"], self._now() - days * DAY - 60
        order, card, payment = self._order(key, at, amount, receipt), self._means("card"), Json()
        for number, sign in enumerate(good):
            payment = self._pay(key, at + 20 * number, amount, email, card, what, sign == "-", order=order)
        return payment

    def refund(self, payment_id: str, amount: int, days: int = 0) -> Json:
        """Pay back a part or all of a payment, so many days ago, with its webhooks."""
        payment = self.state["objects"][payment_id]
        payment["amount_refunded"] += amount
        whole = payment["amount_refunded"] >= payment["amount"]
        payment["refund_status"] = "full" if whole else "partial"
        payment["status"] = "refunded" if whole else payment["status"]
        told = {"payment_id": payment_id, "amount": amount, "currency": payment["currency"], "notes": []}
        told |= {"receipt": None, "status": "processed", "speed_processed": "normal"}
        made = self._put("refunds", payment["_key"], self._now() - days * DAY, told)
        for word in ("created", "processed"):
            self._notify(payment["_key"], f"refund.{word}", {"refund": made, "payment": payment})
        return made

    def _order(self, key: str, at: int, amount: int, receipt: str | None) -> Json:
        told = {"amount": amount, "amount_paid": 0, "amount_due": amount, "currency": "INR", "notes": []}
        return self._put("orders", key, at, told, {"receipt": receipt, "status": "created", "attempts": 0})

    def _pay(
        self,
        key: str,
        at: int,
        amount: int,
        email: str,
        means: Json,
        what: str,
        fails: bool = False,
        **of: Any,
    ) -> Json:
        """One attempt. `of` says whose it is: order, customer and invoice (ids), and its own payment_id."""
        order: Json | None = of.get("order")
        nothing: Json = dict.fromkeys(("bank", "wallet", "vpa", "card_id", "token_id"))
        bad: Json = dict.fromkeys(("code", "description", "source", "step", "reason"))
        if fails:
            bad = {"code": "BAD_REQUEST_ERROR", "description": "Your payment was declined by the bank."}
            bad |= {"source": "bank", "step": "payment_authorization", "reason": "payment_failed"}
        payment = self._put(
            "payments",
            key,
            at,
            {"amount": amount, "currency": "INR", "status": "failed" if fails else "captured"},
            {"order_id": order["id"] if order else None, "invoice_id": of.get("invoice")},
            {"customer_id": of.get("customer")},
            {"international": means["card"]["international"] if means.get("card") else False},
            {"method": means["method"], "amount_refunded": 0, "refund_status": None, "captured": not fails},
            {"description": what, **nothing, "email": email, "contact": "+919876543210", "notes": []},
            {name: means[name] for name in nothing if name in means},
            {"fee": None if fails else amount // 50, "tax": None if fails else 0},
            {f"error_{name}": value for name, value in bad.items()},
            {"_card": means.get("card")},
            one_id=of.get("payment_id"),
        )
        if order:
            order["attempts"] += 1
            paid = order["amount_paid"] + (0 if fails else amount)
            status = "paid" if paid >= order["amount"] else "attempted"
            order |= {"amount_paid": paid, "amount_due": order["amount"] - paid, "status": status}
        if fails:
            self._notify(key, "payment.failed", {"payment": payment})
            return payment
        for word in ("authorized", "captured"):
            self._notify(key, f"payment.{word}", {"payment": payment})
        if order:
            self._notify(key, "order.paid", {"order": order, "payment": payment})
        return payment

    def _means(self, method: str) -> Json:
        """A way to pay, with ids of its own."""
        sort = "card" if method in CARDS else method
        means: Json = {"method": sort, "token_id": self._id("token")}
        if sort == "card":
            card_id = self._id("card")
            card = {"id": card_id, "entity": "card", "name": "", "issuer": "HDFC", "emi": False}
            card |= CARDS[method] | {"expiry_month": 11, "expiry_year": 2029, "sub_type": "consumer"}
            return {**means, "card_id": card_id, "card": card}
        named = {"upi": {"vpa": "customer@okhdfcbank"}, "wallet": {"wallet": "touchngo"}}
        return means | named.get(sort, {"bank": "HDFC"})

    # Billing

    def _charge(self, one: Json, at: int, succeeds: bool = True) -> None:
        """One attempt for the cycle that is due."""
        key, plan = one["_key"], self.state["objects"][one["plan_id"]]
        if one["_then"]:
            one |= one["_then"]
            one |= {"_then": None, "has_scheduled_changes": False, "change_scheduled_at": None}
            plan = self.state["objects"][one["plan_id"]]
        starts = one["current_end"] or one["start_at"]
        ends = _later(starts, plan, 1)
        invoice = self._open_invoice(one) or self._invoice(one, plan, at, starts, ends)
        order = self.state["objects"][invoice["order_id"]]
        of: Json = {"order": order, "customer": one["customer_id"], "invoice": invoice["id"]}
        what, amount = "Recurring Payment via Subscription", invoice["amount"]
        payment = self._pay(key, at, amount, one["_email"], one["_used"], what, not succeeds, **of)
        if not succeeds:
            self._fail(one, at)
            return
        self._settle(one, invoice, payment, at)

    def _fail(self, one: Json, at: int) -> None:
        tries = one["auth_attempts"] + 1
        if one["status"] in ENDED:
            return
        if tries >= ATTEMPTS:
            one |= {"status": "halted", "halted_at": at, "auth_attempts": 0}
        else:
            one |= {"status": "pending", "auth_attempts": tries, "charge_at": at + DAY}
        self.tell(one, f"subscription.{one['status']}", with_payment=True)

    def _invoice(self, one: Json, plan: Json, at: int, starts: int, ends: int) -> Json:
        amount, person = self._price(one), self.state["objects"][one["customer_id"]]
        order = self._order(one["_key"], at, amount, None)
        who = {name: person[name] for name in ("id", "name", "email", "contact")}
        line = {"id": self._id("li"), "name": plan["item"]["name"], "description": None, "type": "plan"}
        line |= dict.fromkeys(("amount", "gross_amount", "net_amount", "taxable_amount"), amount)
        line |= {"unit_amount": plan["item"]["amount"], "tax_amount": 0, "quantity": one["quantity"]}
        return self._put(
            "invoices",
            one["_key"],
            at,
            {"receipt": None, "invoice_number": None, "customer_id": person["id"], "payment_id": None},
            {"customer_details": who, "order_id": order["id"], "subscription_id": one["id"]},
            {"line_items": [{**line, "currency": "INR"}], "status": "issued", "type": "invoice"},
            {"issued_at": at, "paid_at": None, "cancelled_at": None, "expired_at": None, "expire_by": None},
            {"amount": amount, "amount_paid": 0, "amount_due": amount, "currency": "INR", "notes": []},
            {"billing_start": starts, "billing_end": ends, "_code": self._id("")},
        )

    def _settle(self, one: Json, invoice: Json, payment: Json, at: int) -> None:
        """A cycle is paid: its invoice is settled, and the subscription goes on into it."""
        was, left, ends = one["status"], max(0, one["remaining_count"] - 1), invoice["billing_end"]
        invoice |= {"status": "paid", "paid_at": at, "payment_id": payment["id"]}
        invoice |= {"amount_paid": invoice["amount"], "amount_due": 0}
        self._notify(payment["_key"], "invoice.paid", {"payment": payment, "invoice": invoice})
        one |= {"paid_count": one["paid_count"] + 1, "remaining_count": left}
        if was not in ENDED:  # one that has ended was charged by mistake, and stays ended
            one |= {"current_start": invoice["billing_start"], "current_end": ends, "end_at": ends}
            one |= {"charge_at": ends if left else None, "status": "active"}
            one |= {"auth_attempts": 0, "halted_at": None}
        if was not in ("active", *ENDED):
            self.tell(one, "subscription.activated", with_payment=True)
        self.tell(one, "subscription.charged", with_payment=True)

    def _open_invoice(self, one: Json) -> Json | None:
        mine = [row for row in self._all("invoices") if row["subscription_id"] == one["id"]]
        return next((row for row in reversed(mine) if row["status"] == "issued"), None)

    def _price(self, one: Json, next_time: bool = False) -> int:
        one = {**one, **((next_time and one["_then"]) or {})}
        return int(self.state["objects"][one["plan_id"]]["item"]["amount"]) * int(one["quantity"])

    def _fall_due(self, one: Json) -> bool:
        """Do the next thing whose time has come; False when there is none."""
        now, status, at = self._now(), one["status"], one["charge_at"]
        if status == "created" and one["start_at"] <= now:
            one |= {"status": "expired", "charge_at": None}
        elif status == "active" and (one["current_end"] or now + 1) <= now and self._ends(one):
            word = "cancelled" if one["_ends"] else "completed"
            one |= {"status": word, "ended_at": one["current_end"], "charge_at": None}
            self.tell(one, f"subscription.{word}")
        elif status in ("active", "authenticated", "pending") and at is not None and at <= now:
            self._charge(one, at, succeeds=not one["_used"].get("declines"))
        else:
            return False
        return True

    def _ends(self, one: Json) -> bool:
        promised = one["_ends"] and not self._account_of(one)["forgets_cancels"]
        return bool(promised or one["remaining_count"] == 0)

    # Webhooks

    def tell(self, one: Json, word: str, with_payment: bool = False) -> None:
        """A webhook about a subscription."""
        contains = {"subscription": one}
        if with_payment and (paid := self._newest_payment(one)):
            contains["payment"] = paid
        self._notify(one["_key"], word, contains)

    def _newest_payment(self, one: Json) -> Json | None:
        mine = {row["id"] for row in self._all("invoices") if row["subscription_id"] == one["id"]}
        found = [row for row in self._all("payments") if row["invoice_id"] in mine]
        return found[-1] if found else None

    def _notify(self, key: str, word: str, contains: Mapping[str, Json]) -> None:
        account = self.state["accounts"][key]
        if account["quiet"]:
            return
        payload = {name: {"entity": self._told(one)} for name, one in contains.items()}
        said = {"entity": "event", "account_id": account["id"], "event": word, "contains": list(contains)}
        body = json.dumps({**said, "payload": payload, "created_at": self._now()}).encode()
        proof = hmac.new(account["webhook_secret"].encode(), body, hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", "X-Razorpay-Signature": proof}
        headers["x-razorpay-event-id"] = self._id("")
        self.deliver(Delivery(account["webhook_url"], headers, body))

    def _told(self, one: Json) -> Json:
        """As webhooks show it: some numbers are text there, and hosted pages are not named."""
        shown = self._shown(one)
        if one["entity"] == "payment":
            shown["captured"] = "1" if one["captured"] else "0"
        if one["entity"] == "subscription":
            shown |= {"remaining_count": str(one["remaining_count"]), "short_url": None, "type": 1}
        return shown

    # The API

    async def _api(self, request: Request) -> Response:
        body = await request.body()
        with self.lock:
            try:
                return JSONResponse(self._answer(request, body))
            except Refusal as refusal:
                return JSONResponse(refusal.body, refusal.status)

    def _answer(self, request: Request, body: bytes) -> Json:
        parts = request.path_params["path"].strip("/").split("/")
        kind, rest = parts[0], parts[1:]
        if kind not in PREFIXES or (rest and not re.fullmatch(rf"{PREFIXES[kind]}_\w{{14}}", rest[0])):
            raise _not_routed()
        key = self._authenticated(request)
        query = parse_qsl(request.url.query, keep_blank_values=True)
        if not rest:
            return self._listed(kind, key, query, request.method)
        one = self.state["objects"].get(rest[0])
        if one is None or one["_key"] != key:
            raise Refusal("The id provided does not exist")
        if len(rest) == 1 and request.method == "GET":
            return self._expanded(kind, one, [value for name, value in query if name == "expand[]"])
        if rest[1:] == ["refunds"] and kind == "payments" and request.method == "GET":
            mine = [row for row in self._all("refunds", key) if row["payment_id"] == one["id"]]
            return _collection([self._shown(row) for row in reversed(mine)])
        if kind != "subscriptions":
            raise _not_routed()
        return self._subscription_call(request.method, rest[1:], one, body)

    def _authenticated(self, request: Request) -> str:
        given = request.headers.get("authorization", "")
        try:
            if not given.startswith("Basic "):  # spelled exactly so
                raise ValueError(given)
            key, _, secret = base64.b64decode(given[6:], validate=True).decode().partition(":")
        except ValueError:
            raise Refusal("Please provide your api key for authentication purposes.", 401) from None
        account = self.state["accounts"].get(key)
        if account is None or not hmac.compare_digest(account["secret"].encode(), secret.encode()):
            raise Refusal("Authentication failed", 401)
        return key

    def _listed(self, kind: str, key: str, query: list[tuple[str, str]], method: str) -> Json:
        if method != "GET":
            raise Refusal("The requested URL was not found on the server.")
        allowed = {"count", "skip", "from", "to", "expand[]", *FILTERS.get(kind, ())}
        allowed -= {"from", "to"} if kind == "customers" else set()
        if unknown := [name for name, _ in query if name not in allowed]:
            raise Refusal(f"{', '.join(unknown)} is/are not required and should not be sent")
        numbers = {"count": 10, "skip": 0, "from": 0, "to": 9_999_999_999}
        for name, value in query:
            if name in numbers and not value.isdigit():
                raise Refusal(f"The {name} must be an integer.", field=name)
            numbers |= {name: int(value)} if name in numbers else {}
        if not 1 <= numbers["count"] <= 100:
            raise Refusal("The count may not be greater than 100.", field="count")
        wanted = {name: value for name, value in query if name in FILTERS.get(kind, ())}
        rows = [one for one in self._all(kind, key) if all(one[name] == it for name, it in wanted.items())]
        rows = [one for one in rows if numbers["from"] <= one["created_at"] <= numbers["to"]]
        rows.reverse()  # newest first, also of those made in one second
        rows.sort(key=lambda one: one["created_at"], reverse=True)
        expand = [value for name, value in query if name == "expand[]"]
        chosen = rows[numbers["skip"] : numbers["skip"] + numbers["count"]]
        shown = [self._expanded(kind, one, expand) for one in chosen]
        if kind == "subscriptions":  # in lists the number is text
            shown = [{**one, "remaining_count": str(one["remaining_count"])} for one in shown]
        return _collection(shown)

    def _expanded(self, kind: str, one: Json, expand: Iterable[str]) -> Json:
        shown = self._shown(one)
        for name in expand:
            if name not in EXPANSIONS.get(kind, ()):
                raise Refusal(f"The expand.0 field is invalid: {name}")
            if name == "card" and one["_card"]:
                shown["card"] = dict(one["_card"])
            if name == "payments":
                mine = [row for row in self._all("payments", one["_key"]) if row["order_id"] == one["id"]]
                shown["payments"] = _collection([self._shown(row) for row in reversed(mine)])
        return shown

    def _shown(self, one: Json) -> Json:
        shown = {name: value for name, value in one.items() if not name.startswith("_")}
        if one["entity"] in ("subscription", "invoice"):
            shown["short_url"] = f"{self.address or 'https://rzp.io'}/i/{one['_code']}"
        if one["entity"] == "subscription" and self._account_of(one)["lean"]:
            for name in ("payment_method", "customer_email", "customer_contact", "pause_initiated_by"):
                del shown[name]
        return shown

    # What can be done to a subscription

    def _subscription_call(self, method: str, rest: list[str], one: Json, body: bytes) -> Json:
        given = _json(body)
        if method == "GET" and rest == ["retrieve_scheduled_changes"]:
            if not one["_then"]:
                raise Refusal("No Pending update for this subscription")
            return {**self._shown(one), **one["_then"]}
        calls = {"POST/cancel": self._cancel, "POST/pause": self._pause, "POST/resume": self._resume}
        call = {**calls, "PATCH": self._update}.get("/".join([method, *rest]))
        if call is None:
            raise _not_routed()
        if self.mode == "decline":
            raise Refusal("The subscription could not be changed. Please contact the business.")
        call(one, given)
        return self._shown(one)

    def _cancel(self, one: Json, given: Json) -> None:
        """https://razorpay.com/docs/api/payments/subscriptions/cancel-subscription/"""
        at_end, status = given.get("cancel_at_cycle_end", False), one["status"]
        if status in ENDED:
            raise Refusal(f"Subscription is not cancellable in {status} status.", field="status")
        if at_end not in (True, False, 1, 0):
            raise Refusal("The selected cancel at cycle end is invalid.", field="cancel_at_cycle_end")
        if not at_end:
            now = self._now()
            one |= {"status": "cancelled", "ended_at": now, "charge_at": None, "cancel_initiated_by": "self"}
            self.tell(one, "subscription.cancelled")
        elif status in ("created", "authenticated"):
            raise Refusal("Subscription cannot be cancelled since no billing cycle is going on")
        elif status == "active" and one["remaining_count"] == 0:
            raise Refusal("The subscription is in its final cycle and cannot be cancelled now.")
        elif status == "active":
            one["_ends"] = True  # nothing shows it, and no webhook tells it

    def _pause(self, one: Json, given: Json) -> None:
        if given.get("pause_at", "now") != "now":
            raise Refusal("The selected pause at is invalid.", field="pause_at")
        now = self._now()
        if one["status"] == "authenticated":  # documented: it cancels one that has not begun
            one |= {"status": "cancelled", "ended_at": now, "charge_at": None}
            self.tell(one, "subscription.cancelled")
            return
        if one["status"] != "active":
            raise Refusal(f"subscription can't be paused as subscription is in {one['status']} state")
        one |= {"status": "paused", "paused_at": now, "pause_initiated_by": "self", "charge_at": None}
        self.tell(one, "subscription.paused")

    def _resume(self, one: Json, given: Json) -> None:
        if given.get("resume_at", "now") != "now":
            raise Refusal("The selected resume at is invalid.", field="resume_at")
        if one["status"] != "paused":
            raise Refusal(f"subscription can't be resumed as subscription is in {one['status']} state")
        if one["pause_initiated_by"] != "self":
            raise Refusal("Subscription paused by the customer can be resumed by the customer only.")
        charge_at = max(one["current_end"], self._now() + DAY) if one["remaining_count"] else None
        one |= {"status": "active", "paused_at": None, "pause_initiated_by": None, "charge_at": charge_at}
        self.tell(one, "subscription.resumed")

    def _update(self, one: Json, given: Json) -> None:
        """https://razorpay.com/docs/api/payments/subscriptions/update-subscription/"""
        at, wish = given.pop("schedule_change_at", "now"), given
        if unknown := set(wish) - {"plan_id", "quantity", "remaining_count", "start_at", "customer_notify"}:
            raise Refusal(f"{', '.join(sorted(unknown))} is/are not required and should not be sent")
        if not wish:
            raise Refusal("Parameters to update can't be empty")
        if one["status"] not in ("authenticated", "active"):
            text = "Can't update subscription when subscription is not in Authenticated or Active state"
            raise Refusal(text, field="status")
        if one["payment_method"] in ("upi", "emandate"):
            raise Refusal(f"subscriptions cannot be updated when payment mode is {one['payment_method']}")
        card = one["_used"].get("card")
        if not (card and card["international"]):
            now = "Can't update subscription immediately when card mandate is applicable"
            later = "Only offers can be updated for subscriptions when payment mode is domestic card."
            raise Refusal(now if at == "now" else later, field=None if at == "now" else "offer_id")
        plan = self.state["objects"].get(wish.get("plan_id", one["plan_id"]))
        if plan is None or plan["_key"] != one["_key"] or plan["entity"] != "plan":
            raise Refusal("The id provided does not exist", field="plan_id")
        quantity = wish.get("quantity", one["quantity"])
        if type(quantity) is not int or quantity < 1:
            raise Refusal("The quantity must be at least 1.", field="quantity")
        if at == "cycle_end":
            one["_then"] = {"plan_id": plan["id"], "quantity": quantity}
            one |= {"has_scheduled_changes": True, "change_scheduled_at": one["current_end"]}
            return
        one |= {"plan_id": plan["id"], "quantity": quantity}
        self.tell(one, "subscription.updated")

    # Checkout and hosted pages

    async def _script(self, request: Request) -> Response:
        return Response(CHECKOUT_JS, media_type="application/javascript")

    async def _card_page(self, request: Request) -> Response:
        query = request.query_params
        with self.lock:
            one = self.state["objects"].get(query.get("subscription_id", ""))
            known = one is not None and one["_key"] == query.get("key_id")
            if one is None or not known or query.get("card_change") != "1" or not query.get("callback_url"):
                return page(LABEL, "Something went wrong", "<p>The id provided does not exist.</p>", 400)
            session, callback = self._id("session"), query["callback_url"]
            kept = {"subscription": one["id"], "payment": self._id("pay"), "callback": callback}
            self.state["sessions"][session] = kept
        target = f"/checkout/card/{session}"
        forms = _form(target, "back", "Cancel", {"do": "back"})
        if self._takes_card(one):
            forms = _form(target, "decline", "Let the bank refuse", {"do": "decline"}) + forms
            forms = _form(target, "accept", "Save MasterCard ending in 5449", {"do": "accept"}) + forms
        else:
            forms = f"<p>This subscription takes no other card now.</p>{forms}"
        return page(LABEL, "Change the card", f"<p>{html.escape(one['id'])}</p>{forms}")

    async def _card_given(self, request: Request) -> Response:
        """On to the shop with a form that a script sends off, as a POST from another site."""
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        with self.lock:
            session = self.state["sessions"].pop(request.path_params["session"], None)
            if session is None:
                return page(LABEL, "Something went wrong", "<p>This page is over.</p>", 400)
            one, do = self.state["objects"][session["subscription"]], form.get("do", "back")
            fields = _errors("payment_cancelled" if do == "back" else "payment_failed")
            if do == "accept" and self.mode != "decline" and self._takes_card(one):
                self._change_card(one, session["payment"])
                secret = self.state["accounts"][one["_key"]]["secret"].encode()
                text = f"{session['payment']}|{one['id']}".encode()
                fields = {"razorpay_payment_id": session["payment"], "razorpay_subscription_id": one["id"]}
                fields["razorpay_signature"] = hmac.new(secret, text, hashlib.sha256).hexdigest()
        sent_off = "<script>document.forms[0].submit()</script>"
        body = _form(session["callback"], do, "Continue", fields) + sent_off
        return page(LABEL, "Going back to the shop", body)

    def _takes_card(self, one: Json) -> bool:
        """Documented for failed payments; whether it is taken while active differs here by account."""
        active = one["status"] == "active" and self._account_of(one)["active_card_change"]
        return one["status"] in ("pending", "halted") or active

    def _change_card(self, one: Json, payment_id: str | None = None) -> None:
        """From pending the open invoice is charged with it; else a small amount is, and is paid back."""
        key, now, was = one["_key"], self._now(), one["status"]
        one |= {"_used": self._means("new"), "payment_method": "card"}
        told: Json = {"customer": one["customer_id"], "payment_id": payment_id}
        invoice = self._open_invoice(one) if was == "pending" else None
        if invoice:
            order, what = self.state["objects"][invoice["order_id"]], "Retry of a failed payment"
            told |= {"order": order, "invoice": invoice["id"]}
            paid = self._pay(key, now, invoice["amount"], one["_email"], one["_used"], what, **told)
            self._settle(one, invoice, paid, now)
            return
        what = "Authorisation of a card"
        paid = self._pay(key, now, AUTHORISATION, one["_email"], one["_used"], what, **told)
        self.refund(paid["id"], AUTHORISATION)
        if was == "halted":
            next_at = _later(one["current_end"], self.state["objects"][one["plan_id"]], 1)
            one |= {"status": "active", "auth_attempts": 0, "halted_at": None, "charge_at": next_at}
            self.tell(one, "subscription.activated")

    async def _hosted(self, request: Request) -> Response:
        """The page of an invoice, or of a subscription, which can give it another card and sends nobody back."""
        with self.lock:
            code = request.path_params["code"]
            rows = [*self._all("subscriptions"), *self._all("invoices")]
            one = next((row for row in rows if row["_code"] == code), None)
            if one is None:
                return page(LABEL, "Page not found", "<p>There is no such page.</p>", 404)
            if one["entity"] == "invoice":
                what, amount = html.escape(one["line_items"][0]["name"]), one["amount"] / 100
                return page(LABEL, one["id"], f"<p>{what}: INR {amount:.2f}, {one['status']}</p>")
            if request.method == "POST" and self._takes_card(one):
                given = dict(parse_qsl((await request.body()).decode()))
                if self.mode == "decline" or given.get("do") != "accept":
                    return page(LABEL, "Payment failed", "<p>Your bank declined this card.</p>", 402)
                self._change_card(one)
                return page(LABEL, "Done", "<p>The new card is saved. You may close this page.</p>")
            if not self._takes_card(one):
                return page(LABEL, one["id"], f"<p>This subscription is {html.escape(one['status'])}.</p>")
            forms = _form(request.url.path, "accept", "Save MasterCard ending in 5449", {"do": "accept"})
            forms += _form(request.url.path, "decline", "Let the bank refuse", {"do": "decline"})
            return page(LABEL, "Update payment method", forms)

    # Rows

    def _put(self, kind: str, key: str, at: int, *told: Json, one_id: str | None = None) -> Json:
        one_id = one_id or self._id(PREFIXES[kind])
        one: Json = {"id": one_id, "entity": kind[:-1]}
        for some in told:
            one |= some
        one |= {"created_at": at, "_key": key}
        self.state["objects"][one_id] = one
        return one

    def _all(self, kind: str, key: str | None = None) -> list[Json]:
        rows: Iterable[Json] = self.state["objects"].values()
        return [row for row in rows if row["entity"] == kind[:-1] and key in (None, row["_key"])]

    def _account_of(self, one: Json) -> Any:
        return self.state["accounts"][one["_key"]]

    def _id(self, prefix: str) -> str:
        self.state["counter"] += 1
        return f"{prefix}_Sim{self.state['counter']:011d}".lstrip("_")

    def _now(self) -> int:
        return int(self.now().timestamp())


def _collection(items: list[Json]) -> Json:
    return {"entity": "collection", "count": len(items), "items": items}


def _not_routed() -> Refusal:
    """A path or an id of the wrong form never reaches the API."""
    refusal = Refusal("", 404)
    refusal.body = {"message": "no Route matched with those values"}
    return refusal


def _json(body: bytes) -> Json:
    try:
        said = json.loads(body or b"{}")
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise Refusal("The request body is not valid JSON.")
    return said


def _errors(reason: str) -> dict[str, str]:
    words = {"payment_failed": "Your payment was declined by the bank. Try another card."}
    told = {"code": "BAD_REQUEST_ERROR", "description": words.get(reason, "You cancelled the payment.")}
    told |= {"source": "customer", "step": "payment_authentication", "reason": reason}
    return {f"error[{name}]": value for name, value in told.items()}


def _form(target: str, test: str, words: str, fields: Mapping[str, str]) -> str:
    hidden = "".join(
        f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
        for name, value in fields.items()
    )
    button = f'<button data-test="{test}">{html.escape(words)}</button>'
    return f'<form method="post" action="{html.escape(target)}">{hidden}{button}</form>'


def _midnight(at: int) -> int:
    """The midnight in India before this moment."""
    local = datetime.fromtimestamp(at, INDIA).replace(hour=0, minute=0, second=0, microsecond=0)
    return int(local.timestamp())


def _later(at: int, plan: Json, times: int) -> int:
    """So many of a plan's periods later (or earlier); every period ends at midnight in India."""
    local = datetime.fromtimestamp(_midnight(at), INDIA)
    count = times * int(plan["interval"])
    if plan["period"] in ("daily", "weekly"):
        return int((local + timedelta(days=count * (7 if plan["period"] == "weekly" else 1))).timestamp())
    months = {"monthly": 1, "quarterly": 3, "yearly": 12}[plan["period"]] * count
    year, month = divmod(local.year * 12 + local.month - 1 + months, 12)
    day = min(local.day, monthrange(year, month + 1)[1])
    return int(local.replace(year=year, month=month + 1, day=day).timestamp())
