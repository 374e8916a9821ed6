"""A stand-in for PayPal's REST APIs: tokens, subscriptions, orders, transaction search, invoices, webhooks, pages.

Written from PayPal's documents. Several apps (an app is one pair of client ID and secret) live side by side, each with
its own objects: another app's are not found. Webhooks are signed by a certificate of an authority made for the run.
"""

import base64
import hashlib
import html
import json
import re
import zlib
from calendar import monthrange
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlencode

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from seeds.simulators.harness import Delivery, Forgery, Harness, Sample, Situation, Standing, page

WHOLE = {"JPY", "HUF", "TWD"}  # no decimals at PayPal
ISO_EXPONENT = {"JPY": 0}
TOKEN_LASTS_S = 32_400
RETRY = timedelta(days=5)
THRESHOLD = 3  # failed payments until PayPal suspends
REPORT_DAYS, REPORT_REACH, REPORT_LIMIT = 31, timedelta(days=3 * 365), 10_000
LETTERS = "ABCDEFGHJKLMNPRSTUVWXY0123456789"
PAYER_LETTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
SIGNERS = ("messageverificationcerts.paypal.com", "messageverificationcerts.sandbox.paypal.com")
CERTIFICATES = ("CERT-360caa42-fca2a594-1f47b7a9", "CERT-360caa42-fca2a594-5edc0ebc")  # live, sandbox
SCOPES = {
    "subscriptions": "https://uri.paypal.com/services/subscriptions",
    "reporting": "https://uri.paypal.com/services/reporting/search/read",
    "invoicing": "https://uri.paypal.com/services/invoicing",
    "webhooks": "https://uri.paypal.com/services/applications/webhooks",
}
WEBHOOKS_AT_MOST, EVENTS_KEPT = 10, 100
SIMULATED = "WEBHOOK_ID"  # what simulated events are signed for, whoever they go to
SORTS = ("plans", "subscriptions", "payments", "refunds", "invoices")
Json = dict[str, Any]
Lines = list[tuple[str, int, int]]  # what, how many, for how much each


class Refusal(Exception):
    """An answer outside the 2xx: status, name, message, and the issue of its one detail."""

    def __init__(self, status: int, name: str, message: str, issue: str = "", description: str = "") -> None:
        self.status, self.name, self.message = status, name, message
        self.details = [{"issue": issue, "description": description}] if issue else []

    def answer(self, number: str) -> Response:
        body: Json = {"name": self.name, "message": self.message, "debug_id": number, "links": []}
        return JSONResponse(body | ({"details": self.details} if self.details else {}), self.status)


def not_found() -> Refusal:
    said = "Specified resource ID does not exist. Please check the resource ID and try again."
    name, message = "RESOURCE_NOT_FOUND", "The specified resource does not exist."
    return Refusal(404, name, message, "INVALID_RESOURCE_ID", said)


def unprocessable(issue: str, said: str) -> Refusal:
    message = (
        "The requested action could not be performed, semantically incorrect, or failed business validation."
    )
    return Refusal(422, "UNPROCESSABLE_ENTITY", message, issue, said)


def invalid(issue: str, said: str) -> Refusal:
    message = "Request is not well-formed, syntactically incorrect, or violates schema."
    return Refusal(400, "INVALID_REQUEST", message, issue, said)


def not_allowed() -> Refusal:
    message, issue = "Authorization failed due to insufficient permissions.", "PERMISSION_DENIED"
    said = "You do not have permission to access or perform operations on this resource."
    return Refusal(403, "NOT_AUTHORIZED", message, issue, said)


class Simulator(Harness):
    """PayPal's side of the wire, for any number of apps."""

    name = "paypal"
    STATUS_FIELDS = ("status", "transaction_status", "state")

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(clock)
        self.state = {"counter": 0, "apps": {}, "tokens": {}, "signing": None}
        self.state |= {sort: {} for sort in SORTS}

    def routes(self) -> list[BaseRoute]:
        one, both = "/v1/billing/subscriptions/{id}", ["GET", "POST"]
        calls: dict[str, Callable[[Request, Json], Any]] = {
            "GET /v1/billing/plans": self._plans,
            "GET /v1/billing/subscriptions": self._subscriptions,
            f"GET {one}": self._subscription,
            f"GET {one}/transactions": self._transactions,
            **{f"POST {one}/{verb}": self._act for verb in ("cancel", "suspend", "activate")},
            f"POST {one}/revise": self._revise,
            "GET /v1/reporting/transactions": self._report,
            "GET /v2/checkout/orders/{id}": self._order,
            "GET /v2/payments/captures/{id}": self._capture,
            "GET /v2/payments/refunds/{id}": self._refund,
            "GET /v2/invoicing/invoices": self._invoices,
            "POST /v2/invoicing/search-invoices": self._found_invoices,
            "GET /v2/invoicing/invoices/{id}": self._invoice,
            "GET /v1/notifications/webhooks": self._webhooks,
            "POST /v1/notifications/webhooks": self._add_webhook,
            "GET /v1/notifications/webhooks/{id}": self._webhook,
            "PATCH /v1/notifications/webhooks/{id}": self._change_webhook,
            "DELETE /v1/notifications/webhooks/{id}": self._remove_webhook,
            "GET /v1/notifications/webhooks-events": self._past_events,
            "POST /v1/notifications/webhooks-events/{id}/resend": self._resend,
            "POST /v1/notifications/simulate-event": self._simulate,
        }
        return [
            Route("/v1/oauth2/token", self._grant, methods=["POST"]),
            Route("/v1/notifications/certs/{name}", self._certificate, methods=["GET"]),
            Route("/webapps/billing/subscriptions", self._approval_page, methods=both),
            Route("/webapps/billing/subscriptions/update", self._revision_page, methods=both),
            Route("/invoice/p/{id}", self._invoice_page, methods=["GET"]),
            *(
                Route(call.split()[1], self._call(view), methods=[call.split()[0]])
                for call, view in calls.items()
            ),
        ]

    # What demo and tests ask

    def samples(self) -> list[Sample]:
        return [
            _sample("Green Tea Club", "live"),
            _sample("Northern Yarn", "live"),
            _sample("Daily Sourdough (sandbox)", "sandbox", options=("suspend_to_cancel",)),
        ]

    def open(self, sample: Sample, webhook_url: str) -> None:
        """The third sample is an older app: it may not list its subscriptions."""
        keys, app = sample.credentials, sample.credentials["client_id"]
        may = [*SCOPES] + ["list"] * (keys["environment"] == "live")
        hooks = {keys["webhook_id"]: {"url": webhook_url, "events": ["*"]}}
        self.state["apps"][app] = {
            **keys,
            "may": may,
            "report_limit": REPORT_LIMIT,
            "hooks": hooks,
            "told": [],
        }
        self.state["signing"] = self.state["signing"] or _signing()
        for sort in SORTS:
            self.state[sort] = {name: one for name, one in self.state[sort].items() if one["app"] != app}

    def registered(self, sample: Sample) -> list[str]:
        hooks = self.state["apps"][sample.credentials["client_id"]]["hooks"].values()
        return [one["url"] for one in hooks if one["url"]]

    def fill(self, sample: Sample) -> None:
        app, now = sample.credentials["client_id"], self.now()
        club = self.plan(app, "Tea of the month", 1200, tax="7")
        yearly = self.plan(app, "Tea of the year", 9900, unit="YEAR", quantity=False)
        trial = self.plan(app, "Tea with a free fortnight", 1200, trial_days=14)

        def back(days: int) -> datetime:
            return now - timedelta(days=days)

        self.subscribe(app, "noor@example.com", club, back(75))
        self.subscribe(app, "paypal@example.com", trial, back(5))
        self.subscribe(app, "paypal@example.com", club, back(40), card="4242", quantity=2)
        owing = self.subscribe(app, "paypal@example.com", club, back(63), until=back(20))
        self._fail(owing, owing["next"])
        stuck = self.subscribe(app, "paypal@example.com", club, back(100), until=back(41))
        for days in (40, 35, 30):
            self._fail(stuck, back(days))
        self._become(self.subscribe(app, "paypal@example.com", club, back(50)), "SUSPENDED", back(3))
        self._become(self.subscribe(app, "paypal@example.com", yearly, back(200)), "CANCELLED", back(20))
        self.subscribe(app, "paypal@example.com", club, back(130), total=2)
        self.subscribe(app, "paypal@example.com", yearly, back(1), status="APPROVAL_PENDING")
        self.buy(app, "noor@example.com", [("Cast-iron teapot", 1, 6400)], back(30))
        self.buy(app, "paypal@example.com", [("Gyokuro 100 g", 2, 2850), ("Tin", 1, 450)], back(90))
        self.give_back(self.buy(app, "paypal@example.com", [("Whisk", 1, 2400)], back(45)), 2400, back(40))
        self.give_back(self.buy(app, "paypal@example.com", [("Bowls", 2, 1900)], back(25)), 1900, back(24))
        self.buy(app, "paypal@example.com", [("Sencha 50 g", 1, 980)], back(12), status="DECLINED")
        self.buy(app, "paypal@example.com", [("Matcha 30 g", 1, 3200)], back(400), classic=True)
        self.buy(app, "paypal@example.com", [("Tokyo tasting", 1, 5000)], back(15), currency="JPY")
        self.bill(app, "paypal@example.com", "Tea for the office", 18_000, back(60), paid=True)
        self.bill(app, "paypal@example.com", "Workshop", 7500, back(10), paid=False)

    def stage(self, sample: Sample, email: str, situation: Situation) -> str | None:
        """Nothing here ends at the end of a period, and no token is ever told."""
        app, state, due = sample.credentials["client_id"], situation.state, situation.due
        known = ("incomplete", "trialing", "active", "past_due", "paused", "cancelled", "expired")
        if state not in known or situation.method not in (None, "wallet", "card") or situation.token:
            return None
        if situation.object not in (None, "fixed_quantity") or (due and state != "past_due"):
            return None
        trial, free = 14 * (state == "trialing"), situation.object is None
        plan = self.plan(app, "Tea of the month", 1200, quantity=free, trial_days=trial)
        card = "4242" if situation.method == "card" else None
        status = "APPROVAL_PENDING" if state == "incomplete" else "ACTIVE"
        start = self.now() - timedelta(days=4 if state == "trialing" else 10)
        one = self.subscribe(app, email, plan, start, card=card, status=status)
        self._tell(one, "CREATED" if state == "incomplete" else "ACTIVATED")
        for payment in self._of(one):
            self._tell_sale(payment, "COMPLETED")
        if state == "past_due":
            for _ in range(1 if due is False else THRESHOLD):
                self._fail(one, self.now(), tell=True)
        words = {"paused": "SUSPENDED", "cancelled": "CANCELLED", "expired": "EXPIRED"}
        if state in words:
            self._become(one, words[state], self.now())
            self._tell(one, words[state])
        return str(one["id"])

    def standing(self, remote_id: str) -> Standing:
        one = self.state["subscriptions"][remote_id]
        charges = one["status"] == "ACTIVE" and one["next"] is not None
        return Standing(
            raw=one["status"],
            charges=charges,
            next_on=one["next"].date() if charges else None,
            method=one["funding"],
            payments=sum(payment["status"] != "DECLINED" for payment in self._of(one)),
            amount=self._iso(self._price(one) + one["owed"], one["currency"]) if charges else None,
        )

    def charge(self, remote_id: str, succeeds: bool = True) -> None:
        one = self.state["subscriptions"][remote_id]
        if succeeds:
            self._pay(one, self.now(), tell=True)
        else:
            self._fail(one, self.now(), tell=True)

    def tick(self) -> None:
        now = self.now()
        for one in list(self.state["subscriptions"].values()):
            while one["status"] == "ACTIVE" and one["next"] and one["next"] <= now:
                self._pay(one, one["next"], tell=True)
            retry = (one["failed"] or {}).get("retry")
            if one["status"] == "ACTIVE" and retry and retry <= now:
                self._collect(one, retry)

    def proof_of(self, delivery: Delivery) -> str | None:
        return delivery.headers["PAYPAL-TRANSMISSION-SIG"]

    def with_proof(self, delivery: Delivery, proofs: list[str]) -> tuple[list[tuple[str, str]], bytes]:
        kept = [(k, v) for k, v in delivery.headers.items() if k != "PAYPAL-TRANSMISSION-SIG"]
        return [*kept, *(("PAYPAL-TRANSMISSION-SIG", proof) for proof in proofs)], delivery.body

    def forgeries(self, sample: Sample, delivery: Delivery) -> list[Forgery]:
        """Beside a spoiled signature: every header that is signed, and every certificate that is not PayPal's."""
        true, found = delivery.headers, super().forgeries(sample, delivery)

        def add(what: str, name: str, value: str) -> None:
            found.append(Forgery(what, list({**true, f"PAYPAL-{name}": value}.items()), delivery.body))

        add("another transmission id", "TRANSMISSION-ID", true["PAYPAL-TRANSMISSION-ID"] + "0")
        add("another time", "TRANSMISSION-TIME", "2026-01-01T00:00:00Z")
        add("no time", "TRANSMISSION-TIME", "yesterday")
        add("a weaker algorithm", "AUTH-ALGO", "SHA1withRSA")
        cert = true["PAYPAL-CERT-URL"]
        path = cert.removeprefix("https://").partition("/")[2]
        for what, url in {
            "a certificate of somebody else": f"https://attacker.example/{path}",
            "a host that begins alike": f"https://api.paypal.com.attacker.example/{path}",
            "a host that ends alike": f"https://notapi.paypal.com/{path}",
            "a page of PayPal's": f"https://www.paypal.com/{path}",
            "a user in the address": f"https://api.paypal.com@attacker.example/{path}",
            "a port": f"https://api.paypal.com:444/{path}",
            "no https": cert.replace("https://", "http://"),
            "another path": cert.replace("/v1/notifications/certs/", "/v1/anything/"),
            "a path that climbs": "https://api.paypal.com/v1/notifications/certs/../../me/CERT-1",
        }.items():
            add(what, "CERT-URL", url)
        own = sample.credentials["client_id"]
        other = next((one for name, one in self.state["apps"].items() if name != own), None)
        ids = {"of PayPal's webhook simulator": "WEBHOOK_ID"}
        ids |= {"for another webhook": other["webhook_id"]} if other else {}
        for what, webhook in ids.items():
            name, at = true["PAYPAL-TRANSMISSION-ID"], true["PAYPAL-TRANSMISSION-TIME"]
            add(what, "TRANSMISSION-SIG", self.signature(name, at, webhook, delivery.body))
        return found

    def changes(self, method: str, path: str) -> bool:
        """A token is asked for by POST and changes nothing."""
        return method != "GET" and path != "/v1/oauth2/token"

    def is_page(self, method: str, path: str) -> bool:
        return path.startswith(("/webapps/", "/invoice/", "/v1/notifications/certs/"))

    def refused_keys(self) -> Response:
        message = "Authentication failed due to invalid authentication credentials or a missing Authorization header."
        return Refusal(401, "AUTHENTICATION_FAILURE", message).answer(self._next("debug"))

    def limited(self, retry_after: int | None) -> Response:
        message = "Too many requests. Blocked due to rate limiting."
        answer = Refusal(429, "RATE_LIMIT_REACHED", message).answer(self._next("debug"))
        if retry_after is not None:
            answer.headers["Retry-After"] = str(retry_after)
        return answer

    def outage(self) -> Response:
        message = "Service Unavailable."
        return Refusal(503, "SERVICE_UNAVAILABLE", message).answer(self._next("debug"))

    # The shop's side: things that are made elsewhere

    def plan(self, app: str, name: str, price: int, **more: Any) -> str:
        """A plan: `unit` MONTH or YEAR, `trial_days` free, `tax` in percent on top, `quantity` allowed, `product`."""
        number = f"P-{self._next('plan', 24)}"
        usual = {"unit": "MONTH", "trial_days": 0, "tax": None, "quantity": True, "currency": "EUR"}
        told = {"app": app, "id": number, "name": name, "price": price, "at": self.now()}
        self.state["plans"][number] = usual | {"product": "PROD-TEA0000000000001"} | told | more
        return number

    def subscribe(
        self, app: str, email: str, plan: str, start: datetime, until: datetime | None = None, **more: Any
    ) -> Json:
        """A subscription since `start`, paid up to a moment or now, without a word to anybody. `total` months only,
        paid by `card`, of a `quantity`, in another `status`."""
        number, currency = f"I-{self._next('subscription', 12)}", self.state["plans"][plan]["currency"]
        one: Json = {"app": app, "id": number, "plan": plan, "start": start, "email": email}
        one |= {"payer": self._payer(email), "currency": currency, "status": "ACTIVE", "quantity": 1}
        one |= {"card": None, "status_at": start, "updated": start, "note": None, "trial": 0, "regular": 0}
        one |= {"total": 0, "owed": 0, "failures": 0, "failed": None, "last": None, "next": None}
        one |= {"token": f"BA-{self._next('token', 17)}", "revision": None, "paid_until": None, **more}
        one["funding"] = f"card-{one['card']}" if one["card"] else "balance"
        self.state["subscriptions"][number] = one
        if one["status"] == "ACTIVE":
            self._begin(one, start)
            while one["next"] and one["next"] <= (until or self.now()):
                self._pay(one, one["next"])
        return one

    def buy(
        self, app: str, email: str, lines: Lines, at: datetime, classic: bool = False, **more: Any
    ) -> str:
        """A checkout of things with their quantity and price; `classic` is one that no order of the API stands for."""
        total, code = sum(count * price for _, count, price in lines), "T0000" if classic else "T0006"
        order = None if classic else self._next("order", 17)
        return self._paid(app, email, total, at, order=order, lines=lines, code=code, **more)

    def _paid(self, app: str, email: str, amount: int, at: datetime, **more: Any) -> str:
        number = self._next("payment", 17)
        one: Json = {"app": app, "id": number, "email": email, "payer": self._payer(email)}
        one |= {"amount": amount, "at": at}
        one |= {"currency": "EUR", "status": "COMPLETED", "order": None, "lines": [], "refunded": 0}
        self.state["payments"][number] = one | {"subscription": None, "invoice": None, "code": "T0000"} | more
        return number

    def give_back(self, payment: str, amount: int, at: datetime, tell: bool = False) -> str:
        """A refund by the merchant."""
        paid, number = self.state["payments"][payment], self._next("refund", 17)
        paid["refunded"] += amount
        paid["status"] = "REFUNDED" if paid["refunded"] >= paid["amount"] else "PARTIALLY_REFUNDED"
        back = {"app": paid["app"], "id": number, "payment": payment, "amount": amount, "at": at}
        self.state["refunds"][number] = back | {"currency": paid["currency"]}
        if tell and paid["subscription"]:
            self._tell_sale(self.state["refunds"][number], "REFUNDED")
        elif tell:
            shown = self._shown_refund(self.state["refunds"][number])
            self.notify(paid["app"], "PAYMENT.CAPTURE.REFUNDED", "refund", shown)
        return number

    def bill(self, app: str, email: str, what: str, amount: int, at: datetime, paid: bool) -> str:
        """An invoice that the merchant sent through PayPal."""
        number, payment = f"INV2-{self._next('invoice', 16, '-')}", None
        if paid:
            payment = self.buy(app, email, [(what, 1, amount)], at + timedelta(days=2), classic=True)
            self.state["payments"][payment] |= {"invoice": number, "code": "T0007"}
        self.state["invoices"][number] = (
            {"app": app, "id": number, "email": email, "what": what, "amount": amount, "at": at}
            | {"payment": payment, "currency": "EUR"}
            | {"number": f"{len(self.state['invoices']) + 1:04d}"}
        )
        return number

    def notify(self, app: str, kind: str, sort: str, resource: Json) -> None:
        """Sign an event for each of the app's webhooks that wants it, and send it."""
        shop, body = self.state["apps"][app], self._event(kind, sort, resource)
        shop["told"] = [*shop["told"], body][-EVENTS_KEPT:]
        for number, hook in shop["hooks"].items():
            if {"*", kind} & set(hook["events"]):
                self._deliver(shop, hook["url"], number, body)

    def _event(self, kind: str, sort: str, resource: Json) -> Json:
        number = f"WH-{self._next('event', 17)}-{self._next('event', 17)}"
        version = "1.0" if kind.startswith("PAYMENT.SALE.") else "2.0"
        return (
            {"id": number, "event_version": "1.0", "create_time": _time(self.now()), "resource_type": sort}
            | {"resource_version": version, "event_type": kind, "summary": f"{kind} happened."}
            | {"resource": resource, "links": []}
        )

    def _deliver(self, shop: Json, url: str, webhook: str, body: Json) -> None:
        content = json.dumps(body, separators=(",", ":")).encode()
        self.deliver(Delivery(url, self.signed(shop, webhook, content, self.now()), content))

    def signed(self, shop: Json, webhook: str, content: bytes, at: datetime) -> dict[str, str]:
        name, time = hashlib.md5(content + self._next("transmission").encode()).hexdigest(), _time(at)
        sandbox = shop["environment"] == "sandbox"
        host = "api.sandbox.paypal.com" if sandbox else "api.paypal.com"
        told = {
            "TRANSMISSION-ID": name,
            "TRANSMISSION-TIME": time,
            "TRANSMISSION-SIG": self.signature(name, time, webhook, content),
            "CERT-URL": f"https://{host}/v1/notifications/certs/{CERTIFICATES[sandbox]}",
            "AUTH-ALGO": "SHA256withRSA",
            "AUTH-VERSION": "v2",
        }
        return {"Content-Type": "application/json"} | {f"PAYPAL-{key}": value for key, value in told.items()}

    def signature(self, name: str, time: str, webhook: str, content: bytes) -> str:
        key = _loaded(self.state["signing"]["key"])
        message = f"{name}|{time}|{webhook}|{zlib.crc32(content)}".encode()
        return base64.b64encode(key.sign(message, padding.PKCS1v15(), hashes.SHA256())).decode()

    # How a subscription lives

    def _begin(self, one: Json, at: datetime) -> None:
        terms = self.state["plans"][one["plan"]]
        one |= {"status": "ACTIVE", "status_at": at, "updated": at}
        if terms["trial_days"]:
            one |= {"trial": 1, "next": at + timedelta(days=terms["trial_days"])}
        else:
            self._pay(one, at)

    def _pay(self, one: Json, at: datetime, tell: bool = False) -> None:
        terms, amount = self.state["plans"][one["plan"]], self._price(one) + one["owed"]
        more = {"currency": one["currency"], "subscription": one["id"], "code": "T0002"}
        number = self._paid(one["app"], one["email"], amount, at, **more)
        one |= {"regular": one["regular"] + 1, "owed": 0, "failures": 0, "failed": None, "updated": at}
        one["last"] = {"amount": amount, "at": at}
        over = one["total"] and one["regular"] >= one["total"]
        if one["status"] == "ACTIVE":
            one["next"] = None if over else _later(at, terms["unit"], one["start"].day)
        if tell:
            self._tell_sale(self.state["payments"][number], "COMPLETED")
        if over and one["status"] == "ACTIVE":
            self._become(one, "EXPIRED", at)
            if tell:
                self._tell(one, "EXPIRED")

    def _fail(self, one: Json, at: datetime, tell: bool = False) -> None:
        terms, price = self.state["plans"][one["plan"]], self._price(one)
        more = {"currency": one["currency"], "subscription": one["id"], "code": "T0002", "status": "DECLINED"}
        self._paid(one["app"], one["email"], price, at, **more)
        one |= {"failures": one["failures"] + 1, "updated": at}
        one["owed"] = one["owed"] or price
        one["failed"] = {"amount": price, "at": at, "retry": at + RETRY}
        if one["next"] and one["next"] <= max(at, self.now()):
            one["next"] = _later(one["next"], terms["unit"], one["start"].day)
        if tell:
            self._tell(one, "PAYMENT.FAILED")
        if one["failures"] >= THRESHOLD:
            one["failed"]["retry"] = None
            self._become(one, "SUSPENDED", at)
            if tell:
                self._tell(one, "SUSPENDED")

    def _collect(self, one: Json, at: datetime) -> None:
        """A retry goes through: only what is open, not the next cycle."""
        until = one["next"]
        one["owed"] -= self._price(one)
        self._pay(one, at, tell=True)
        one["next"] = until

    def _become(self, one: Json, status: str, at: datetime, note: str | None = None) -> None:
        """What is not active shows no next date."""
        one |= {"paid_until": one["next"] or one["paid_until"], "next": None}
        one |= {"status": status, "status_at": at, "updated": at, "note": note}

    def _price(self, one: Json) -> int:
        terms = self.state["plans"][one["plan"]]
        price: int = terms["price"] * one["quantity"]
        return price + (price * int(terms["tax"]) + 50) // 100 if terms["tax"] else price

    def _of(self, one: Json) -> list[Json]:
        return [paid for paid in self.state["payments"].values() if paid["subscription"] == one["id"]]

    def _iso(self, amount: int, currency: str) -> int:
        """From PayPal's smallest unit to that of ISO 4217."""
        return amount * 100 if currency in WHOLE and currency not in ISO_EXPONENT else amount

    def _tell(self, one: Json, what: str) -> None:
        self.notify(one["app"], f"BILLING.SUBSCRIPTION.{what}", "subscription", self._shown(one))

    def _tell_sale(self, one: Json, what: str) -> None:
        """Payments of subscriptions are told in the words of the first version."""
        sign = "-" if what == "REFUNDED" else ""
        value = _value(one["amount"], one["currency"])
        shown = {"id": one["id"], "state": "completed", **_times(one["at"])}
        shown |= {"amount": {"total": f"{sign}{value}", "currency": one["currency"]}}
        if what == "REFUNDED":
            shown |= {"sale_id": one["payment"], "parent_payment": None}
            self.notify(one["app"], "PAYMENT.SALE.REFUNDED", "refund", shown)
            return
        shown |= {"billing_agreement_id": one["subscription"], "payment_mode": "INSTANT_TRANSFER"}
        self.notify(one["app"], f"PAYMENT.SALE.{what}", "sale", shown)

    # Calls

    async def _grant(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        try:
            client, _, secret = base64.b64decode(given).decode().partition(":")
        except ValueError:
            client, secret = "", ""
        app = self.state["apps"].get(client)
        if scheme != "Basic" or app is None or app["client_secret"] != secret:
            said = {"error": "invalid_client", "error_description": "Client Authentication failed"}
            return JSONResponse(said, 401)
        if form.get("grant_type") != "client_credentials":
            said = {"error": "unsupported_grant_type", "error_description": "Grant type is NULL"}
            return JSONResponse(said, 400)
        token = f"A21AA{self._next('token', 60)}"
        self.state["tokens"][token] = {"app": client, "until": self.now() + timedelta(seconds=TOKEN_LASTS_S)}
        scope = " ".join(SCOPES[name] for name in app["may"] if name in SCOPES)
        return JSONResponse(
            {"scope": scope, "access_token": token, "token_type": "Bearer"}
            | {"app_id": "APP-80W284485P519543T", "expires_in": TOKEN_LASTS_S}
            | {"nonce": f"{_time(self.now())}{self._next('nonce')}"}
        )

    def _call(self, view: Callable[[Request, Json], Any]) -> Callable[[Request], Any]:
        async def call(request: Request) -> Response:
            try:
                app = self._app(request)
                request.state.body = json.loads(await request.body() or b"{}")
                said = view(request, app)
            except Refusal as refusal:
                return refusal.answer(self._next("debug"))
            except ValueError:
                return invalid("MALFORMED_REQUEST_JSON", "The body is not JSON.").answer(self._next("debug"))
            if isinstance(said, Response):
                return said
            return Response(status_code=204) if said is None else JSONResponse(said)

        return call

    def _app(self, request: Request) -> Json:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        known = self.state["tokens"].get(token)
        if scheme != "Bearer" or known is None or known["until"] <= self.now():
            raise Refusal(401, "AUTHENTICATION_FAILURE", "Authentication failed due to invalid credentials.")
        app: Json = self.state["apps"][known["app"]]
        return app

    def _mine(self, sort: str, request: Request, app: Json) -> Json:
        one: Json | None = self.state[sort].get(request.path_params["id"])
        if one is None or one["app"] != app["client_id"]:
            raise not_found()
        return one

    def _all(self, sort: str, app: Json) -> list[Json]:
        return [one for one in self.state[sort].values() if one["app"] == app["client_id"]]

    def _need(self, app: Json, feature: str) -> None:
        if feature not in app["may"]:
            raise not_allowed()

    def _plans(self, request: Request, app: Json) -> Json:
        self._need(app, "subscriptions")
        size, _ = _paging(request, 20)
        shown = [self._shown_plan(one) for one in self._all("plans", app)[:size]]
        return {"plans": shown, "links": [self._link("/v1/billing/plans", "self")]}

    def _subscriptions(self, request: Request, app: Json) -> Json:
        self._need(app, "list")
        size, number = _paging(request, 20)
        rows = self._all("subscriptions", app)[::-1]
        shown = [self._shown(one) for one in rows[(number - 1) * size : number * size]]
        links = [self._link(f"{request.url.path}?page={number}&page_size={size}", "self")]
        if number * size < len(rows):
            links.append(self._link(f"{request.url.path}?page={number + 1}&page_size={size}", "next"))
        return {"subscriptions": shown, "links": links}

    def _subscription(self, request: Request, app: Json) -> Json:
        self._need(app, "subscriptions")
        one = self._mine("subscriptions", request, app)
        return self._shown(one, "plan" in request.query_params.get("fields", "").split(","))

    def _transactions(self, request: Request, app: Json) -> Json:
        one = self._mine("subscriptions", request, app)
        since, until = _moments(request, "start_time", "end_time")
        found = [paid for paid in self._of(one) if since <= paid["at"] <= until]
        shown = [
            {"id": paid["id"], "status": paid["status"], "time": _time(paid["at"])}
            | {"amount_with_breakdown": {"gross_amount": _money(paid["amount"], paid["currency"])}}
            | {"payer_email": paid["email"]}
            for paid in found[::-1]
        ]
        return {"transactions": shown, "links": [self._link(request.url.path, "self")]}

    def _act(self, request: Request, app: Json) -> None:
        one, verb = self._mine("subscriptions", request, app), request.url.path.rpartition("/")[2]
        reason = request.state.body.get("reason")
        if not isinstance(reason, str) or not 1 <= len(reason) <= 128:
            raise invalid("MISSING_REQUIRED_PARAMETER", "A required field is missing.")
        self._may_change()
        allowed, words = {
            "cancel": (("ACTIVE", "SUSPENDED"), "active or suspended"),
            "suspend": (("ACTIVE",), "active"),
            "activate": (("SUSPENDED",), "suspended"),
        }[verb]
        if one["status"] not in allowed:
            said = f"Invalid subscription status for {verb} action; subscription status should be {words}."
            raise unprocessable("SUBSCRIPTION_STATUS_INVALID", said)
        now = self.now()
        if verb == "activate":
            if one["failures"] >= THRESHOLD:
                said = "Subscription cannot be activated after payment failure threshold has reached."
                raise unprocessable("SUBSCRIPTION_CANNOT_BE_ACTIVATED", said)
            self._go_on(one, now, reason)
            return
        status = {"cancel": "CANCELLED", "suspend": "SUSPENDED"}[verb]
        self._become(one, status, now, reason)
        self._tell(one, status)

    def _go_on(self, one: Json, now: datetime, note: str | None) -> None:
        """Goes on at the old date while it is to come, else at once."""
        kept = one["paid_until"]
        self._become(one, "ACTIVE", now, note)
        one["next"] = kept if kept and kept > now else now
        self._tell(one, "ACTIVATED")

    def _may_change(self) -> None:
        if self.mode == "decline":
            raise unprocessable("USER_ACCOUNT_CLOSED", "User account locked or closed.")

    def _revise(self, request: Request, app: Json) -> Json:
        one, wish = self._mine("subscriptions", request, app), request.state.body
        self._may_change()
        if one["status"] not in ("ACTIVE", "SUSPENDED"):
            raise unprocessable(
                "SUBSCRIPTION_STATUS_INVALID", "Invalid subscription status for revise action."
            )
        context = wish.get("application_context") or {}
        if not all(isinstance(context.get(name), str) for name in ("return_url", "cancel_url")):
            raise invalid("MISSING_REQUIRED_PARAMETER", "A required field is missing.")
        plan, quantity = wish.get("plan_id", one["plan"]), wish.get("quantity", str(one["quantity"]))
        terms, now = self.state["plans"].get(plan), self.state["plans"][one["plan"]]
        if terms is None or terms["app"] != app["client_id"]:
            raise not_found()
        if terms["product"] != now["product"]:
            said = "The old and the new plans should be for the same product."
            raise unprocessable("PLAN_PRODUCT_NOT_COMPATIBLE", said)
        if not re.fullmatch(r"[1-9][0-9]{0,3}", quantity) or (quantity != "1" and not terms["quantity"]):
            raise unprocessable("SUBSCRIPTION_CANNOT_HAVE_QUANTITY", "Subscription can not have quantity.")
        token = f"BA-{self._next('token', 17)}"
        one["revision"] = {"token": token, "plan": plan, "quantity": int(quantity), **context}
        page_url = f"{self._pages()}/webapps/billing/subscriptions/update?ba_token={token}"
        links = [{"href": page_url, "rel": "approve", "method": "GET"}, self._link(f"{_path(one)}", "self")]
        return {"plan_id": plan, "plan_overridden": False, "quantity": quantity, "links": links}

    def _report(self, request: Request, app: Json) -> Json:
        self._need(app, "reporting")
        size, number = _paging(request, 500)
        since, until = _moments(request, "start_date", "end_date")
        if until - since > timedelta(days=REPORT_DAYS):
            raise invalid("INVALID_PARAMETER_VALUE", "Date range is greater than 31 days")
        if since < self.now() - REPORT_REACH:
            raise invalid("INVALID_PARAMETER_VALUE", "Start date is more than three years ago")
        rows = self._lines(app, since, until)
        if len(rows) > app["report_limit"]:
            message = "Result set size is greater than the maximum limit. Change the filter criteria."
            raise Refusal(400, "RESULTSET_TOO_LARGE", message)
        counted = {"page": number, "total_items": len(rows), "total_pages": -(-len(rows) // size)}
        asked = {"account_number": "RXTASC6FPVKTQ", "start_date": _time(since), "end_date": _time(until)}
        shown = rows[(number - 1) * size : number * size]
        links = {"links": [self._link(request.url.path, "self")]}
        return ({"transaction_details": shown} if shown else {}) | asked | counted | links

    def _lines(self, app: Json, since: datetime, until: datetime) -> list[Json]:
        """What moved money, oldest first; denied payments move none. A payout to the bank is among them."""
        moved = [one for one in self._all("payments", app) if one["status"] != "DECLINED"]
        shown = [(one, self._line) for one in moved] + [
            (one, self._refund_line) for one in self._all("refunds", app)
        ]
        if moved:
            at = min(one["at"] for one in moved) + timedelta(days=1)
            shown.append(
                ({"id": f"0P{app['webhook_id'][:15]}", "at": at, "currency": "EUR"}, self._payout_line)
            )
        found = sorted(
            ((one, show) for one, show in shown if since <= one["at"] < until), key=lambda line: line[0]["at"]
        )
        return [show(one) for one, show in found]

    def _payout_line(self, one: Json) -> Json:
        return {"transaction_info": self._info(one, {"payer": "BANK"}, "T0400", -5000)}

    def _line(self, one: Json) -> Json:
        info = self._info(one, one, one["code"], one["amount"])
        if one["subscription"]:
            info |= {"paypal_reference_id": one["subscription"], "paypal_reference_id_type": "SUB"}
        lines = [
            {
                "item_name": name,
                "item_quantity": str(count),
                "item_amount": _money(count * price, one["currency"]),
            }
            for name, count, price in one["lines"]
        ]
        cart: Json = {"item_details": lines} if lines else {}
        cart |= {"paypal_invoice_id": one["invoice"]} if one["invoice"] else {}
        return {"transaction_info": info, "payer_info": self._payer_info(one), "cart_info": cart}

    def _refund_line(self, one: Json) -> Json:
        paid = self.state["payments"][one["payment"]]
        info = self._info(one, paid, "T1107", -one["amount"])
        info |= {"paypal_reference_id": paid["id"], "paypal_reference_id_type": "TXN"}
        return {"transaction_info": info, "payer_info": self._payer_info(paid), "cart_info": {}}

    def _info(self, one: Json, paid: Json, code: str, amount: int) -> Json:
        at = _time(one["at"])
        info = {"paypal_account_id": paid["payer"], "transaction_id": one["id"]}
        info |= {"transaction_initiation_date": at, "transaction_updated_date": at}
        info |= {"transaction_event_code": code}
        return {**info, "transaction_amount": _money(amount, one["currency"]), "transaction_status": "S"}

    def _payer_info(self, one: Json) -> Json:
        name = _name(one["email"]) | {"alternate_full_name": " ".join(_name(one["email"]).values())}
        return {"account_id": one["payer"], "email_address": one["email"], "payer_name": name}

    def _order(self, request: Request, app: Json) -> Json:
        found = (one for one in self._all("payments", app) if one["order"] == request.path_params["id"])
        paid = next(found, None)
        if paid is None:
            raise not_found()
        account = {"email_address": paid["email"], "account_id": paid["payer"], "name": _name(paid["email"])}
        payer = {"email_address": paid["email"], "payer_id": paid["payer"], "name": _name(paid["email"])}
        refunds = [back for back in self._all("refunds", app) if back["payment"] == paid["id"]]
        payments: Json = {"captures": [self._shown_capture(paid)]}
        payments |= {"refunds": [self._shown_refund(back) for back in refunds]} if refunds else {}
        unit: Json = {"reference_id": "default", "payments": payments} | {
            "amount": _money(paid["amount"], paid["currency"]),
            "items": [
                {"name": name, "quantity": str(count), "unit_amount": _money(price, paid["currency"])}
                for name, count, price in paid["lines"]
            ],
        }
        return (
            {"id": paid["order"], "intent": "CAPTURE", "status": "COMPLETED", "payer": payer}
            | {"payment_source": {"paypal": account}, "purchase_units": [unit]}
            | _times(paid["at"])
            | {"links": [self._link(f"/v2/checkout/orders/{paid['order']}", "self")]}
        )

    def _capture(self, request: Request, app: Json) -> Json:
        """Sales of subscriptions, and payments outside the API, are no captures."""
        one = self._mine("payments", request, app)
        if not one["order"]:
            raise not_found()
        return self._shown_capture(one)

    def _shown_capture(self, one: Json) -> Json:
        return (
            {"id": one["id"], "status": one["status"]}
            | {"amount": _money(one["amount"], one["currency"]), "final_capture": True}
            | _times(one["at"])
            | {"supplementary_data": {"related_ids": {"order_id": one["order"]}}}
            | {"links": [self._link(f"/v2/payments/captures/{one['id']}", "self")]}
        )

    def _refund(self, request: Request, app: Json) -> Json:
        one = self._mine("refunds", request, app)
        if not self.state["payments"][one["payment"]]["order"]:
            raise not_found()
        return self._shown_refund(one)

    def _shown_refund(self, one: Json) -> Json:
        links = [self._link(f"/v2/payments/refunds/{one['id']}", "self")]
        links.append(self._link(f"/v2/payments/captures/{one['payment']}", "up"))
        shown = {"id": one["id"], "status": "COMPLETED", "amount": _money(one["amount"], one["currency"])}
        return {**shown, **_times(one["at"]), "links": links}

    def _invoices(self, request: Request, app: Json) -> Json:
        self._need(app, "invoicing")
        size, number = _paging(request, 100)
        rows = self._all("invoices", app)[::-1]
        shown = [self._shown_invoice(one) for one in rows[(number - 1) * size : number * size]]
        pages = {"total_items": len(rows), "total_pages": -(-len(rows) // size)}
        counted = pages if request.query_params.get("total_required") == "true" else {}
        return {**counted, "items": shown, "links": [self._link(request.url.path, "self")]}

    def _found_invoices(self, request: Request, app: Json) -> Json:
        """By a part of the recipient's address, as a search does it."""
        self._need(app, "invoicing")
        size, number = _paging(request, 100)
        wanted = str(request.state.body.get("recipient_email", "")).lower()
        rows = [one for one in self._all("invoices", app)[::-1] if wanted in one["email"].lower()]
        shown = [self._shown_invoice(one) for one in rows[(number - 1) * size : number * size]]
        pages = {"total_items": len(rows), "total_pages": -(-len(rows) // size)}
        counted = pages if request.query_params.get("total_required") == "true" else {}
        return {**counted, "items": shown, "links": [self._link(request.url.path, "self")]}

    def _invoice(self, request: Request, app: Json) -> Json:
        self._need(app, "invoicing")
        return self._shown_invoice(self._mine("invoices", request, app))

    def _shown_invoice(self, one: Json) -> Json:
        amount, paid = _money(one["amount"], one["currency"]), one["payment"]
        status = self.state["payments"][paid]["status"] if paid else ""
        words = {"": "SENT", "COMPLETED": "PAID"}
        payment = {"type": "PAYPAL", "payment_id": paid, "method": "PAYPAL", "amount": amount}
        when = (one["at"] + timedelta(days=2)).date().isoformat()
        metadata = {"create_time": _time(one["at"])}
        metadata |= {"recipient_view_url": f"{self._pages()}/invoice/p/{one['id']}"}
        detail = {"invoice_number": one["number"], "currency_code": one["currency"], "metadata": metadata}
        to = {"email_address": one["email"], "name": _name(one["email"])}
        shown = {
            "id": one["id"],
            "status": words.get(status, status),
            "amount": amount,
            "detail": detail | {"invoice_date": one["at"].date().isoformat()},
            "primary_recipients": [{"billing_info": to}],
            "items": [{"name": one["what"], "quantity": "1", "unit_amount": amount}],
            "due_amount": _money(0 if paid else one["amount"], one["currency"]),
            "links": [self._link(f"/v2/invoicing/invoices/{one['id']}", "self")],
        }
        if paid:
            shown["payments"] = {"paid_amount": amount, "transactions": [payment | {"payment_date": when}]}
        return shown

    # Webhooks

    def _hook(self, request: Request, app: Json) -> str:
        self._need(app, "webhooks")
        number: str = request.path_params["id"]
        if number not in app["hooks"]:
            raise not_found()
        return number

    def _shown_hook(self, number: str, hook: Json) -> Json:
        path = f"/v1/notifications/webhooks/{number}"
        events = [{"name": name, "description": f"{name}."} for name in hook["events"]]
        return {"id": number, "url": hook["url"], "event_types": events, "links": [self._link(path, "self")]}

    def _webhooks(self, request: Request, app: Json) -> Json:
        self._need(app, "webhooks")
        found = [self._shown_hook(*one) for one in app["hooks"].items() if one[1]["url"]]
        return {"webhooks": found}

    def _webhook(self, request: Request, app: Json) -> Json:
        number = self._hook(request, app)
        return self._shown_hook(number, app["hooks"][number])

    def _add_webhook(self, request: Request, app: Json) -> Response:
        self._need(app, "webhooks")
        url, events = request.state.body.get("url"), _names(request.state.body.get("event_types"))
        if not str(url).startswith(("https://", "http://")) or not events:
            message = "Invalid data provided"
            raise Refusal(400, "VALIDATION_ERROR", message, "INVALID_PARAMETER_VALUE", "Not a valid webhook")
        if any(one["url"] == url for one in app["hooks"].values()):
            raise Refusal(400, "WEBHOOK_URL_ALREADY_EXISTS", "Webhook URL already exists")
        if len(app["hooks"]) >= WEBHOOKS_AT_MOST:
            raise Refusal(400, "WEBHOOK_NUMBER_LIMIT_EXCEEDED", "Number of webhooks exceeds the limit")
        number = self._next("webhook", 17)
        app["hooks"][number] = {"url": url, "events": events}
        return JSONResponse(self._shown_hook(number, app["hooks"][number]), 201)

    def _change_webhook(self, request: Request, app: Json) -> Json:
        """Only `replace` of /url or /event_types; a change that changes nothing is refused."""
        number = self._hook(request, app)
        hook = app["hooks"][number]
        before = dict(hook)
        for one in request.state.body:
            path, value = one.get("path"), one.get("value")
            if one.get("op") != "replace" or path not in ("/url", "/event_types"):
                raise Refusal(400, "VALIDATION_ERROR", "Invalid patch provided")
            hook |= {"url": value} if path == "/url" else {"events": _names(value)}
        if hook == before:
            raise Refusal(400, "WEBHOOK_PATCH_REQUEST_NO_CHANGE", "Patch has no change")
        return self._shown_hook(number, hook)

    def _remove_webhook(self, request: Request, app: Json) -> None:
        del app["hooks"][self._hook(request, app)]

    def _past_events(self, request: Request, app: Json) -> Json:
        self._need(app, "webhooks")
        asked = request.query_params
        since, until = asked.get("start_time", ""), asked.get("end_time", "9")
        found = [one for one in app["told"] if since <= one["create_time"] <= until]
        rows = found[::-1][: int(asked.get("page_size", 10))]
        return {"events": rows, "count": len(rows), "links": []}

    def _resend(self, request: Request, app: Json) -> Response:
        self._need(app, "webhooks")
        event = next((one for one in app["told"] if one["id"] == request.path_params["id"]), None)
        wanted = request.state.body.get("webhook_ids", list(app["hooks"]))
        if event is None or not set(wanted) <= set(app["hooks"]):
            raise not_found()
        for number in wanted:
            self._deliver(app, app["hooks"][number]["url"], number, event)
        return JSONResponse(event, 202)

    def _simulate(self, request: Request, app: Json) -> Response:
        """Signed for nobody's webhook, and sent to any address that is given."""
        self._need(app, "webhooks")
        asked = request.state.body
        hook = app["hooks"].get(asked.get("webhook_id"), {"url": asked.get("url")})
        if not hook["url"] or not asked.get("event_type"):
            raise Refusal(400, "VALIDATION_ERROR", "Invalid data provided")
        event = self._event(asked["event_type"], "sale", {"id": "SIMULATED0000001"})
        self._deliver(app, hook["url"], SIMULATED, event)
        return JSONResponse(event, 202)

    async def _certificate(self, request: Request) -> Response:
        found = (self.state["signing"] or {}).get(request.path_params["name"])
        return PlainTextResponse(found or "Not Found", 200 if found else 404)

    # What calls show

    def _shown(self, one: Json, with_plan: bool = False) -> Json:
        number, currency, terms = one["id"], one["currency"], self.state["plans"][one["plan"]]
        links = [self._link(_path(one), "self"), self._link(_path(one), "edit", "PATCH")]
        if one["status"] == "APPROVAL_PENDING" or (one["status"] == "SUSPENDED" and one["failures"]):
            approve = f"{self._pages()}/webapps/billing/subscriptions?ba_token={one['token']}"
            links.insert(0, {"href": approve, "rel": "approve", "method": "GET"})
        subscriber: Json = {"email_address": one["email"], "payer_id": one["payer"]}
        subscriber |= {"name": _name(one["email"])}
        if one["card"]:
            card = {"brand": "VISA", "last_digits": one["card"], "expiry": "2029-08"}
            subscriber |= {"payment_source": {"card": card}}
        shown = (
            {"id": number, "status": one["status"], "status_update_time": _time(one["status_at"])}
            | {"plan_id": one["plan"], "plan_overridden": False, "start_time": _time(one["start"])}
            | {"quantity": str(one["quantity"]), "shipping_amount": _money(0, currency)}
            | {"subscriber": subscriber, "links": links}
            | _times(one["start"], one["updated"])
        )
        shown |= {"status_change_note": one["note"]} if one["note"] else {}
        shown |= {"plan": self._shown_plan(terms)} if with_plan else {}
        began = one["status"] != "APPROVAL_PENDING"
        return shown | ({"billing_info": self._billing(one, terms)} if began else {})

    def _billing(self, one: Json, terms: Json) -> Json:
        currency, failed, last = one["currency"], one["failed"], one["last"]
        cycles: list[Json] = []
        if terms["trial_days"]:
            done = one["trial"]
            trial = {"cycles_completed": done, "cycles_remaining": 1 - done, "total_cycles": 1}
            cycles.append({"tenure_type": "TRIAL", "sequence": 1, **trial})
        left = max(0, one["total"] - one["regular"])
        regular = {"cycles_completed": one["regular"], "cycles_remaining": left, "total_cycles": one["total"]}
        cycles.append({"tenure_type": "REGULAR", "sequence": len(cycles) + 1, **regular})
        found: Json = {"outstanding_balance": _money(one["owed"], currency), "cycle_executions": cycles}
        found |= {"failed_payments_count": one["failures"]}
        if last:
            found["last_payment"] = {"amount": _money(last["amount"], currency), "time": _time(last["at"])}
        found |= {"next_billing_time": _time(one["next"])} if one["next"] else {}
        if failed:
            told = {"amount": _money(failed["amount"], currency), "time": _time(failed["at"])}
            told |= {"reason_code": "PAYER_CANNOT_PAY"}
            told |= {"next_payment_retry_time": _time(failed["retry"])} if failed["retry"] else {}
            found |= {"last_failed_payment": told}
        return found

    def _shown_plan(self, terms: Json) -> Json:
        cycles: list[Json] = []
        if terms["trial_days"]:
            frequency = {"interval_unit": "DAY", "interval_count": terms["trial_days"]}
            cycles.append({"frequency": frequency, "tenure_type": "TRIAL", "sequence": 1, "total_cycles": 1})
        scheme = {"version": 1, "fixed_price": _money(terms["price"], terms["currency"])}
        often = {"interval_unit": terms["unit"], "interval_count": 1}
        regular = {"frequency": often, "tenure_type": "REGULAR"}
        cycles.append({**regular, "sequence": len(cycles) + 1, "total_cycles": 0, "pricing_scheme": scheme})
        return (
            {"id": terms["id"], "product_id": terms["product"], "name": terms["name"], "status": "ACTIVE"}
            | {"billing_cycles": cycles, "quantity_supported": terms["quantity"]}
            | {"payment_preferences": {"auto_bill_outstanding": True, "payment_failure_threshold": THRESHOLD}}
            | ({"taxes": {"percentage": terms["tax"], "inclusive": False}} if terms["tax"] else {})
            | _times(terms["at"])
            | {"links": [self._link(f"/v1/billing/plans/{terms['id']}", "self")]}
        )

    def _link(self, path: str, rel: str, method: str = "GET") -> Json:
        return {"href": f"https://api.paypal.com{path}", "rel": rel, "method": method}

    def _pages(self) -> str:
        return self.address or "https://www.paypal.com"

    # Pages

    async def _approval_page(self, request: Request) -> Response:
        """Agreeing to a new subscription, or paying what is open of a suspended one. It leads nowhere afterwards."""
        one = self._by_token(request, lambda one: one["token"])
        if one is None or one["status"] not in ("APPROVAL_PENDING", "SUSPENDED"):
            return page("PayPal", "This page has expired", "<p>There is nothing to do here.</p>", 404)
        new = one["status"] == "APPROVAL_PENDING"
        title = "Agree to the subscription" if new else "Fix your payment"
        form = await _form(request)
        if form.get("do") != "accept":
            if form.get("do") == "decline":
                return page("PayPal", title, '<p data-test="declined">Your bank declined this.</p>', 402)
            amount = _value(self._price(one) if new else one["owed"], one["currency"])
            return page("PayPal", title, _funding_form(f"{amount} {one['currency']}", one["email"]))
        if self.mode == "decline":
            return page("PayPal", title, '<p data-test="declined">We can\'t process this payment.</p>', 402)
        now, funding = self.now(), form.get("funding", "bank")
        if new:
            self._begin(one, now)
        else:
            one["owed"] -= self._price(one)
            one |= {"status": "ACTIVE", "status_at": now}
            self._pay(one, now)
        one["funding"] = funding
        self._tell(one, "ACTIVATED")
        if one["last"]:
            self._tell_sale(self._of(one)[-1], "COMPLETED")
        return page("PayPal", "All set", '<p data-test="done">You can close this page.</p>')

    async def _revision_page(self, request: Request) -> Response:
        one = self._by_token(request, lambda one: (one["revision"] or {}).get("token"))
        if one is None:
            return page("PayPal", "This page has expired", "<p>There is nothing to do here.</p>", 404)
        wish, form = one["revision"], await _form(request)
        query = urlencode({"subscription_id": one["id"], "ba_token": wish["token"]})
        if form.get("do") in ("back", "decline"):
            return RedirectResponse(_with(wish["cancel_url"], query), 303)
        if form.get("do") == "accept":
            if self.mode == "decline":
                said = '<p data-test="declined">We can\'t change this subscription.</p>'
                return page("PayPal", "Agree to the change", said, 402)
            one |= {"plan": wish["plan"], "quantity": wish["quantity"]}
            one |= {"revision": None, "updated": self.now()}
            self._tell(one, "UPDATED")
            return RedirectResponse(_with(wish["return_url"], query), 303)
        terms = self.state["plans"][wish["plan"]]
        price = _value(terms["price"] * wish["quantity"], terms["currency"])
        said = f"<p>{html.escape(terms['name'])}: {price} {terms['currency']} from the next payment on.</p>"
        return page("PayPal", "Agree to the change", f'{said}<form method="post">{_BUTTONS}{_BACK}</form>')

    def _by_token(self, request: Request, token: Callable[[Json], Any]) -> Json | None:
        wanted = request.query_params.get("ba_token", "")
        found = (one for one in self.state["subscriptions"].values() if wanted and token(one) == wanted)
        return next(found, None)

    async def _invoice_page(self, request: Request) -> Response:
        one = self.state["invoices"].get(request.path_params["id"])
        if one is None:
            return page("PayPal", "No such invoice", "<p>Ask the shop for its link.</p>", 404)
        amount = f"{_value(one['amount'], one['currency'])} {one['currency']}"
        said = f"<p>{html.escape(one['what'])}: {amount}</p>"
        return page("PayPal", f"Invoice {one['number']}", said)

    # Numbers

    def _next(self, sort: str, length: int = 13, dash: str = "") -> str:
        self.state["counter"] += 1
        digest = hashlib.sha256(f"{sort}{self.state['counter']}".encode()).digest() * 3
        found = "".join(LETTERS[byte % 32] for byte in digest[:length])
        return dash.join(found[at : at + 4] for at in range(0, length, 4)) if dash else found

    def _payer(self, email: str) -> str:
        digest = hashlib.sha256(email.encode()).digest()
        return "".join(PAYER_LETTERS[byte % 32] for byte in digest[:13])


_BUTTONS = (
    '<button name="do" value="accept" data-test="accept">Agree</button>'
    '<button name="do" value="decline" data-test="decline">Decline</button>'
)
_BACK = '<button name="do" value="back" data-test="back">Back to the shop</button>'


def _funding_form(amount: str, email: str) -> str:
    return (
        f"<p>{html.escape(email)}, {amount} is due now.</p>"
        '<form method="post"><label>Pay with <select name="funding"><option value="bank">Bank account</option>'
        f'<option value="card-1881">Visa 1881</option></select></label>{_BUTTONS}</form>'
    )


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode())) if request.method == "POST" else {}


def _with(url: str, query: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{query}"


def _path(one: Json) -> str:
    return f"/v1/billing/subscriptions/{one['id']}"


def _sample(label: str, environment: str, options: tuple[str, ...] = ()) -> Sample:
    def made(what: str, length: int) -> str:
        return hashlib.shake_256(f"{label} {what}".encode()).hexdigest(length)[:length]

    keys = {"client_id": f"A{made('client', 79)}", "client_secret": f"E{made('secret', 79)}"}
    keys |= {"environment": environment, "webhook_id": made("webhook", 17).upper()}
    return Sample(label, keys, options=options)


def _names(said: Any) -> list[str]:
    """The names of a list of events."""
    return [str(one["name"]) for one in said] if isinstance(said, list) else []


def _name(email: str) -> Json:
    return {"given_name": email.partition("@")[0].title(), "surname": "Example"}


def _times(at: datetime, changed: datetime | None = None) -> Json:
    return {"create_time": _time(at), "update_time": _time(changed or at)}


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _value(amount: int, currency: str) -> str:
    """Amounts here are in PayPal's smallest unit; it shows 60.00 as 60.0 at times."""
    if currency in WHOLE:
        return str(amount)
    sign, amount = "-" if amount < 0 else "", abs(amount)
    return f"{sign}{amount // 100}.{amount % 100:02d}".removesuffix("0")


def _money(amount: int, currency: str) -> Json:
    return {"currency_code": currency, "value": _value(amount, currency)}


def _paging(request: Request, most: int) -> tuple[int, int]:
    try:
        size = int(request.query_params.get("page_size", "10"))
        number = int(request.query_params.get("page", "1"))
    except ValueError:
        raise invalid("INVALID_PARAMETER_SYNTAX", "The value of a field does not conform.") from None
    if not 1 <= size <= most or number < 1:
        raise invalid("INVALID_INTEGER_MAX_VALUE", "The integer value of a field is too large or too small.")
    return size, number


def _moments(request: Request, *names: str) -> list[datetime]:
    found = []
    for name in names:
        given = request.query_params.get(name, "")
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)", given):
            raise invalid("INVALID_PARAMETER_SYNTAX", f"{name} does not conform to the expected format.")
        found.append(datetime.fromisoformat(given))
    return found


def _later(at: datetime, unit: str, day: int) -> datetime:
    """One cycle on, on the day of the month on which it began."""
    year, month = (at.year + 1, at.month) if unit == "YEAR" else (at.year + at.month // 12, at.month % 12 + 1)
    return at.replace(year=year, month=month, day=min(day, monthrange(year, month)[1]))


@cache
def _signing() -> dict[str, str]:
    """The key of the signatures, and its certificates below an authority of our own, once for the process."""
    authority, key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    root = _certified("Simulated Authority", authority, "Simulated Authority", authority, True)
    plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    chains = {
        name: _certified(signer, key, "Simulated Authority", authority, False) + root
        for name, signer in zip(CERTIFICATES, SIGNERS, strict=True)
    }
    return {"key": key.private_bytes(*plain).decode(), **chains}


@cache
def _loaded(pem: str) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def _certified(
    name: str, key: rsa.RSAPrivateKey, issuer: str, issuer_key: rsa.RSAPrivateKey, authority: bool
) -> str:
    named, above = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, one)]) for one in (name, issuer))
    made = (
        x509.CertificateBuilder()
        .subject_name(named)
        .issuer_name(above)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2049, 12, 31, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()
