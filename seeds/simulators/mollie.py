"""Mollie, simulated: API v2 with the key of a profile, hosted checkout, classic and next-gen webhooks, and time.

Written from Mollie's documents (docs.mollie.com). Objects are kept as the API shows them; names that begin with
a dot are shown to nobody. Days are those of Amsterdam, amounts are text with the decimals of their currency.
"""

import base64
import calendar
import hashlib
import hmac
import html
import json
import re
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, cast
from urllib.parse import parse_qs
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from seeds.simulators.harness import Delivery, Forgery, Harness, Sample, Situation, Standing, page

Json = dict[str, Any]
AMSTERDAM = ZoneInfo("Europe/Amsterdam")
NO_DECIMALS = ("JPY", "KRW", "VND", "CLP")
PREFIXES = {"customer": "cst", "mandate": "mdt", "subscription": "sub", "payment": "tr", "refund": "re"}
PREFIXES |= {"chargeback": "chb", "sales-invoice": "invoice"}
FREE_FIRST = ("creditcard", "paypal")
FIRST = ("creditcard", "paypal", "ideal", "bancontact", "belfius", "kbc", "eps")
LIVE = ("pending", "active", "suspended")
LIMITS = {"day": 365, "week": 52, "month": 12}
CARDS = {
    "visa": {"cardLabel": "Visa", "cardNumber": "4242"},
    "mastercard": {"cardLabel": "Mastercard", "cardNumber": "5454"},
}
COMMON = {"amount", "description", "method", "mandateId", "webhookUrl", "metadata", "profileId", "testmode"}
NEW_SUBSCRIPTION = COMMON | {"interval", "startDate", "times", "applicationFee"}
CHANGEABLE = NEW_SUBSCRIPTION - {"method", "applicationFee", "profileId"}
NEW_PAYMENT = COMMON | {
    "redirectUrl",
    "cancelUrl",
    "customerId",
    "sequenceType",
    "locale",
    "billingAddress",
    "lines",
}
SAMPLES = [
    Sample(
        "Mollie, next-gen webhooks",
        {
            "api_key": "test_Acme7XY7LxsDOtmnkVtjNVWXLSlXsM",
            "webhook_secret": "whs_AcmeSignedEvents000001",
            "organization_token": "access_AcmeOrganisation1234567890abcdef",
        },
    ),
    Sample(
        "Mollie, a stranger's",
        {
            "api_key": "test_Kora4Pq2RsTuVwXyZaBcDeFgHiJkLm",
            "webhook_secret": "whs_KoraSignedEvents000002",
            "organization_token": "access_KoraOrganisation1234567890abcdef",
        },
    ),
    Sample("Mollie, classic webhooks", {"api_key": "live_Fleur9MnOpQrStUvWxYzAbCdEfGhIj"}),
]
# What a webhook can be told of; not every account may have all of it.
TOLD = {
    *(f"payment.{one}" for one in ("paid", "authorized", "failed", "canceled", "expired", "pending")),
    *(f"refund.{one}" for one in ("queued", "pending", "processing", "refunded", "failed", "canceled")),
    *(
        "chargeback.received",
        "chargeback.reversed",
        "capture.succeeded",
        "capture.failed",
        "payment-link.paid",
    ),
    *(f"sales-invoice.{one}" for one in ("created", "issued", "canceled", "paid")),
}


class Refusal(Exception):
    """An answer outside the 2xx."""

    def __init__(self, status: int, detail: str, field: str | None = None) -> None:
        self.status, self.detail, self.field = status, detail, field


class Simulator(Harness):
    """Mollie. `revives_at_once`: whether a valid mandate wakes a suspended subscription (not documented)."""

    name = "mollie"
    revives_at_once = True

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(clock)
        self._lock = threading.RLock()  # the clock is moved from another thread than the one that serves
        self.state: Json = {"accounts": {}, "objects": {}, "replies": {}, "count": 0}

    def routes(self) -> list[BaseRoute]:
        customer = "/v2/customers/{customer}"
        one = customer + "/subscriptions/{subscription}"
        table: list[tuple[str, str, Callable[..., tuple[int, Json | None]]]] = [
            ("GET", "/v2/profiles/me", self._profile),
            ("GET", customer, self._show("customer")),
            ("GET", customer + "/mandates", self._list("mandate", "customerId")),
            ("GET", customer + "/mandates/{mandate}", self._show("mandate")),
            ("DELETE", customer + "/mandates/{mandate}", self._revoke),
            ("GET", customer + "/subscriptions", self._list("subscription", "customerId")),
            ("POST", customer + "/subscriptions", self._create_subscription),
            ("GET", one, self._show("subscription")),
            ("PATCH", one, self._update_subscription),
            ("DELETE", one, self._cancel_subscription),
            ("GET", one + "/payments", self._list("payment", "subscriptionId")),
            ("POST", "/v2/payments", self._create_payment),
            ("GET", "/v2/payments/{payment}", self._show("payment")),
            ("GET", "/v2/payments/{payment}/refunds", self._list("refund", "paymentId")),
            ("GET", "/v2/sales-invoices/{invoice}", self._show("sales-invoice")),
            *(("GET", f"/v2/{kind}s", self._list(kind)) for kind in PREFIXES if kind != "mandate"),
        ]
        hooks: list[tuple[str, str, Callable[..., tuple[int, Json | None]]]] = [
            ("GET", "", self._list_hooks),
            ("POST", "", self._create_hook),
            ("GET", "/{hook}", lambda account, request, said: (200, self._hook(account, request))),
            ("PATCH", "/{hook}", self._update_hook),
            ("DELETE", "/{hook}", self._delete_hook),
            ("POST", "/{hook}/ping", self._ping),
        ]
        return [
            *(Route(path, self._api(handler), methods=[method]) for method, path, handler in table),
            *(
                Route(f"/v2/webhooks{path}", self._api(handler, whole=True), methods=[method])
                for method, path, handler in hooks
            ),
            Route("/checkout/pay/{payment}", self._checkout, methods=["GET", "POST"]),
            Route("/merchant/download/invoice/{invoice}/{token}", self._file, methods=["GET"]),
            Route("/{path:path}", self._api(self._nowhere), methods=["GET", "POST", "PATCH", "DELETE"]),
        ]

    def is_page(self, method: str, path: str) -> bool:
        return path.startswith("/checkout/")

    def refused_keys(self) -> Response:
        return error(401, "Missing authentication, or failed to authenticate")

    def limited(self, retry_after: int | None) -> Response:
        answer = error(429, "You have sent too many requests. Please slow down.")
        if retry_after is not None:
            answer.headers["Retry-After"] = str(retry_after)
        return answer

    def outage(self) -> Response:
        return error(503, "The service is temporarily unavailable.")

    # What every call goes through

    def _api(
        self, handler: Callable[..., tuple[int, Json | None]], whole: bool = False
    ) -> Callable[[Request], Any]:
        """`whole`: a call about the whole organisation, for which the key of a profile is not enough."""

        async def endpoint(request: Request) -> Response:
            raw = await request.body()
            with self._lock:
                try:
                    account = self._organisation(request) if whole else self._account(request)
                    said = self._body(request, raw, whole)
                    return self._once(request, account, raw, lambda: handler(account, request, said))
                except Refusal as refusal:
                    return error(refusal.status, refusal.detail, refusal.field)

        return endpoint

    def _account(self, request: Request) -> Json:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        account = self.state["accounts"].get(key) if scheme == "Bearer" else None
        if account is None:
            raise Refusal(401, "Missing authentication, or failed to authenticate")
        if "testmode" in request.query_params:
            raise Refusal(400, 'The "testmode" parameter is not for API keys: the key decides.')
        return cast(Json, account)

    def _organisation(self, request: Request) -> Json:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        accounts = self.state["accounts"]
        account = next((one for one in accounts.values() if token and one["token"] == token), None)
        if scheme != "Bearer" or (account is None and token not in accounts):
            raise Refusal(401, "Missing authentication, or failed to authenticate")
        needed = "webhooks.read" if request.method == "GET" else "webhooks.write"
        if account is None or needed not in account["scopes"]:
            raise Refusal(403, f"Access to this resource requires an access token with the scope {needed}")
        return cast(Json, account)

    def _body(self, request: Request, raw: bytes, whole: bool = False) -> Json:
        if not raw:
            return {}
        try:
            said = json.loads(raw)
        except ValueError:
            raise Refusal(400, "The request body contains invalid JSON") from None
        if not isinstance(said, dict):
            raise Refusal(400, "The request body is no object")
        if whole:
            return said
        if "testmode" in said:
            raise Refusal(422, 'Non-existent body parameter "testmode" for this API call', "testmode")
        return said

    def _once(
        self, request: Request, account: Json, raw: bytes, work: Callable[[], tuple[int, Json | None]]
    ) -> Response:
        """Only POST minds the idempotency key: the answer is given again, another request with it refused."""
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        mark = f"{account['key']} {key}"
        asked = f"{request.url.path} {hashlib.sha256(raw).hexdigest()}"
        if key and mark in self.state["replies"]:
            before, status, said = self.state["replies"][mark]
            if before != asked:
                raise Refusal(400, "This Idempotency-Key was used with another request")
            return hal(status, said, {"Idempotent-Replayed": "true"})
        if self.mode == "decline" and request.method != "GET":
            raise Refusal(422, "The amount is higher than the maximum", "amount")
        status, said = work()
        if key:
            self.state["replies"][mark] = (asked, status, said)
        return hal(status, said)

    def _nowhere(self, account: Json, request: Request, said: Json) -> tuple[int, Json | None]:
        raise Refusal(404, "The requested resource does not exist")

    # Reading

    def _profile(self, account: Json, request: Request, said: Json) -> tuple[int, Json]:
        fields = {"resource": "profile", "id": account["profile"], "mode": account["mode"]}
        return 200, {**fields, "name": account["name"], "status": account["status"], "_links": links()}

    def _show(self, kind: str) -> Callable[..., tuple[int, Json]]:
        def show(account: Json, request: Request, said: Json) -> tuple[int, Json]:
            found = self._found(account, kind, request)
            return 200, self._shown(found, embed=request.query_params.get("embed", ""))

        return show

    def _found(self, account: Json, kind: str, request: Request) -> Json:
        """The object of a path; below a customer it must be that customer's."""
        wanted = request.path_params["invoice" if kind == "sales-invoice" else kind]
        found = self.objects.get(wanted)
        mine = found is not None and found[".account"] == account["key"] and found["resource"] == kind
        customer = request.path_params.get("customer")
        if not found or not mine or (kind != "customer" and customer and found["customerId"] != customer):
            raise Refusal(404, f"No {kind} exists with token {wanted}.")
        if found.get(".gone"):
            raise Refusal(410, f"The {kind} {wanted} is no longer available")
        return found

    def _list(self, kind: str, by: str = "") -> Callable[..., tuple[int, Json]]:
        def list_all(account: Json, request: Request, said: Json) -> tuple[int, Json]:
            parents = {"customerId": "customer", "subscriptionId": "subscription", "paymentId": "payment"}
            parent = self._found(account, parents[by], request) if by else None
            rows = [
                one
                for one in self._all(kind, account["key"])
                if not one.get(".gone") and (parent is None or one.get(by) == parent["id"])
            ]
            return 200, self._listed(kind, rows, request)

        return list_all

    def _listed(self, kind: str, rows: list[Json], request: Request) -> Json:
        query = request.query_params
        limit = query.get("limit", "50")
        if not limit.isdigit() or not 1 <= int(limit) <= 250:
            raise Refusal(400, "The limit must be between 1 and 250", "limit")
        if query.get("sort") == "asc":
            rows = rows[::-1]
        ids = [one["id"] for one in rows]
        if (start := query.get("from")) and start not in ids:
            raise Refusal(400, "Invalid cursor value", "from")
        at = ids.index(start) if start else 0
        shown, rest = rows[at : at + int(limit)], rows[at + int(limit) :]
        path = f"{self.address or 'https://api.mollie.com'}{request.url.path}"
        begins = f"{path}?from={rest[0]['id']}&limit={limit}" if rest else ""
        following = {"href": begins, "type": "application/hal+json"}
        return {
            "count": len(shown),
            "_embedded": {f"{kind.replace('-', '_')}s": [self._shown(one) for one in shown]},
            "_links": links(previous=None, next=following if rest else None),
        }

    def _shown(self, one: Json, embed: str = "") -> Json:
        shown = {name: value for name, value in one.items() if not name.startswith(".")}
        more: Json = {}
        if one["resource"] == "payment":
            if one["status"] == "paid":
                back = sum((cents(refund) for refund in self._refunds_of(one)), 0)
                shown["amountRefunded"] = money(back, one)
                shown["amountRemaining"] = money(cents(one) - back, one)
            if taken := sum(cents(two) for two in self._all("chargeback") if two["paymentId"] == one["id"]):
                shown["amountChargedBack"] = money(taken, one)
            if one["status"] == "open":
                more["checkout"] = {"href": f"{self.address}/checkout/pay/{one['id']}", "type": "text/html"}
            if "refunds" in embed.split(","):
                found = [self._shown(two) for two in self._refunds_of(one, every=True)]
                shown["_embedded"] = {"refunds": found}
        if one["resource"] == "sales-invoice" and one["status"] != "draft":
            path = f"/merchant/download/invoice/{one['id']}/{one['.token']}"
            more["pdfLink"] = {"href": f"{self.address}{path}", "type": "application/pdf"}
        return {**shown, "_links": links(**more)}

    def _refunds_of(self, payment: Json, every: bool = False) -> list[Json]:
        return [
            one
            for one in self._all("refund")
            if one["paymentId"] == payment["id"] and (every or one["status"] not in ("failed", "canceled"))
        ]

    def _file(self, request: Request) -> Response:
        """The PDF behind the link of a sales invoice, which needs no key."""
        found = self.objects.get(request.path_params["invoice"])
        if not found or found.get(".token") != request.path_params["token"]:
            return page("Mollie", "Not found", "<p>There is no such document.</p>", 404)
        number = str(found["invoiceNumber"])
        body = f"%PDF-1.4\n% {number}\ntrailer<</Root 1 0 R>>\n%%EOF\n"
        return Response(body.encode(), media_type="application/pdf")

    # Changing

    def _create_subscription(self, account: Json, request: Request, said: Json) -> tuple[int, Json]:
        customer = self._found(account, "customer", request)
        unknown(said, NEW_SUBSCRIPTION)
        for field in ("amount", "interval", "description"):
            if not said.get(field):
                raise Refusal(422, f"The {field} is missing", field)
        self._check_terms(said)
        self._check_description(customer, said["description"])
        start = self._start(said.get("startDate"))
        mandate = self._usable(customer, said.get("mandateId"), said.get("method"))
        status = "active" if mandate["status"] == "valid" else "pending"
        fields = {name: said.get(name) for name in ("amount", "interval", "description", "times", "method")}
        fields |= {name: said[name] for name in ("mandateId", "webhookUrl", "metadata") if name in said}
        dates = {"startDate": str(start), "nextPaymentDate": str(start), "timesRemaining": said.get("times")}
        whose = {"status": status, "customerId": customer["id"]}
        made = self._new("subscription", account, {**fields, **dates, **whose})
        return 201, self._shown(made)

    def _update_subscription(self, account: Json, request: Request, said: Json) -> tuple[int, Json]:
        one = self._found(account, "subscription", request)
        if one["status"] not in LIVE:
            raise Refusal(422, "The subscription has been cancelled")
        unknown(said, CHANGEABLE)
        self._check_terms(said)
        if "startDate" in said:
            if self._payments_of(one):
                detail = "The start date can not be changed when the subscription is already charged"
                raise Refusal(422, detail, "startDate")
            said["nextPaymentDate"] = str(self._start(said["startDate"]))
        if said.get("description", one["description"]) != one["description"]:
            self._check_description(self.objects[one["customerId"]], said["description"])
        if "mandateId" in said:
            mandate = self._usable(self.objects[one["customerId"]], said["mandateId"], None)
            wakes = one["status"] in ("pending", "suspended") and mandate["status"] == "valid"
            one["status"] = "active" if wakes and self.revives_at_once else one["status"]
        if "times" in said:
            said["timesRemaining"] = said["times"]
        one |= said
        return 200, self._shown(one)

    def _cancel_subscription(self, account: Json, request: Request, said: Json) -> tuple[int, Json]:
        one = self._found(account, "subscription", request)
        if one["status"] not in LIVE:
            raise Refusal(422, "The subscription has been cancelled")
        self._end(one, "canceled")
        return 200, self._shown(one)

    def _end(self, one: Json, status: str) -> None:
        one["status"] = status
        one.pop("nextPaymentDate", None)
        if status == "canceled":
            one["canceledAt"] = iso(self.now())

    def _revoke(self, account: Json, request: Request, said: Json) -> tuple[int, None]:
        """Takes every subscription that is tied to the mandate along."""
        mandate = self._found(account, "mandate", request)
        mandate |= {"status": "invalid", ".gone": True}
        for one in self._all("subscription", account["key"]):
            if one.get("mandateId") == mandate["id"] and one["status"] in LIVE:
                self._end(one, "canceled")
        return 204, None

    def _create_payment(self, account: Json, request: Request, said: Json) -> tuple[int, Json]:
        unknown(said, NEW_PAYMENT)
        for field in ("amount", "description", "redirectUrl"):
            if not said.get(field):
                raise Refusal(422, f"The {field} is missing", field)
        minor, methods = amount_of(said["amount"]), said.get("method") or []
        methods = [methods] if isinstance(methods, str) else methods
        sequence, customer = said.get("sequenceType", "oneoff"), self.objects.get(said.get("customerId", ""))
        if sequence == "first" and (not customer or customer[".account"] != account["key"]):
            raise Refusal(422, "The customer id is invalid", "customerId")
        if wrong := [one for one in methods if sequence == "first" and one not in FIRST]:
            raise Refusal(422, f"The method {wrong[0]} can't be used for a first payment", "method")
        free = sequence == "first" and bool(methods) and all(one in FREE_FIRST for one in methods)
        if minor == 0 and not free:
            raise Refusal(422, "The amount is lower than the minimum", "amount")
        fields = {
            **said,
            "sequenceType": sequence,
            "status": "open",
            "method": methods[0] if len(methods) == 1 else None,
        }
        made = self._new("payment", account, {**fields, ".methods": methods, "details": None})
        return 201, self._shown(made)

    def _check_terms(self, said: Json) -> None:
        if "amount" in said and amount_of(said["amount"]) <= 0:
            raise Refusal(422, "The amount is lower than the minimum", "amount")
        found = re.fullmatch(r"([1-9]\d*) (day|week|month)s?", str(said.get("interval", "1 month")))
        if not found or int(found[1]) > LIMITS[found[2]]:
            raise Refusal(422, "The interval is invalid", "interval")

    def _check_description(self, customer: Json, description: str) -> None:
        theirs = [one for one in self._all("subscription") if one["customerId"] == customer["id"]]
        if any(one["description"] == description and one["status"] in LIVE for one in theirs):
            detail = "A subscription with the same description already exists for this customer"
            raise Refusal(422, detail, "description")

    def _start(self, given: Any) -> date:
        try:
            start = date.fromisoformat(given) if given else self.today()
        except (TypeError, ValueError):
            raise Refusal(422, "The start date is invalid", "startDate") from None
        if start < self.today():
            raise Refusal(422, "The start date is in the past", "startDate")
        return start

    def _usable(self, customer: Json, wanted: str | None, method: str | None) -> Json:
        theirs = [one for one in self._all("mandate") if one["customerId"] == customer["id"]]
        good = [
            one
            for one in theirs
            if one["status"] != "invalid" and one["method"] in (method or one["method"],)
        ]
        good = [one for one in good if one["id"] == wanted] if wanted else good
        if not good:
            raise Refusal(422, "The mandate is invalid", "mandateId")
        return next((one for one in good if one["status"] == "valid"), good[0])

    # The hosted page

    async def _checkout(self, request: Request) -> Response:
        form = {
            name: values[0]
            for name, values in parse_qs((await request.body()).decode(errors="replace")).items()
        }
        with self._lock:
            payment = self.objects.get(request.path_params["payment"])
            if payment is None or payment["status"] != "open":
                return page("Mollie", "This payment is over", "<p>You can close this window.</p>", 410)
            if request.method == "POST":
                self._decide(payment, form)
                return RedirectResponse(payment["redirectUrl"], 303)
            return page("Mollie", payment["description"], self._form(payment))

    def _form(self, payment: Json) -> str:
        methods = payment[".methods"] or FIRST
        options = [
            f'<option value="{html.escape(word)}">{html.escape(word)}</option>'
            for method in methods
            for word in (CARDS if method == "creditcard" else [method])
        ]
        amount = f"{payment['amount']['value']} {payment['amount']['currency']}"
        return f"""<p>{html.escape(amount)}</p><form method="post">
<label>Pay with <select name="with">{"".join(options)}</select></label>
<button name="do" value="accept" data-test="accept">Pay</button>
<button name="do" value="decline" data-test="decline">Let it fail</button>
<button name="do" value="back" data-test="back">Back to the shop</button></form>"""

    def _decide(self, payment: Json, form: Mapping[str, str]) -> None:
        """What the person did: a paid first payment leaves a mandate, and banks leave one for direct debit."""
        chosen = form.get("with") or (payment[".methods"] or ["visa"])[0]
        card = CARDS.get("mastercard" if chosen == "creditcard" else chosen)
        payment["method"] = "creditcard" if card else chosen
        if form.get("do") == "back":
            payment |= {"status": "canceled", "canceledAt": iso(self.now())}
        elif form.get("do") != "accept" or self.mode == "decline":
            why = {"failureReason": "card_declined", "failureMessage": "The card has been declined."}
            payment |= {"status": "failed", "failedAt": iso(self.now()), "details": {**(card or {}), **why}}
        else:
            kind = {"creditcard": "creditcard", "paypal": "paypal"}.get(payment["method"], "directdebit")
            details = {**card, "cardExpiryDate": "09/29"} if card else account_of(kind)
            payment |= {"status": "paid", "paidAt": iso(self.now()), "details": details}
            if payment["sequenceType"] == "first":
                owner, account = payment["customerId"], self.state["accounts"][payment[".account"]]
                payment["mandateId"] = self._mandate(account, owner, kind, card=card)["id"]
        self._tell(payment)

    # Books

    @property
    def objects(self) -> dict[str, Json]:
        return cast(dict[str, Json], self.state["objects"])

    def today(self) -> date:
        return self.now().astimezone(AMSTERDAM).date()

    def _all(self, kind: str, account: str | None = None) -> list[Json]:
        """All objects of a kind, newest first."""
        found = [
            one
            for one in self.objects.values()
            if one["resource"] == kind and account in (None, one[".account"])
        ]
        return sorted(found, key=lambda one: (one["createdAt"], one[".number"]), reverse=True)

    def _new(self, kind: str, account: Json, fields: Json, at: datetime | None = None) -> Json:
        self.state["count"] += 1
        number = int(self.state["count"])
        name = hashlib.sha256(f"{kind} {number}".encode()).hexdigest()[:10]
        head = {"resource": kind, "id": f"{PREFIXES[kind]}_{name}", "mode": account["mode"]}
        made = {**head, "createdAt": iso(at or self.now()), **fields}
        made |= {".account": account["key"], ".number": number}
        self.objects[made["id"]] = made
        return made

    def customer(self, account: Json, email: str | None, name: str, at: datetime | None = None) -> str:
        fields = {"name": name, "email": email, "locale": "en_US", "metadata": None}
        return str(self._new("customer", account, fields, at)["id"])

    def _mandate(
        self, account: Json, customer: str, kind: str, status: str = "valid", card: Json | None = None
    ) -> Json:
        scopes = ["customer-present", "customer-not-present"]
        details = account_of(kind)
        if kind == "creditcard":
            details = {**(card or CARDS["visa"]), "cardExpiryDate": "2029-09-30", "cardHolder": "T. Test"}
        fields = {"status": status, "method": kind, "customerId": customer, "details": details}
        return self._new("mandate", account, {**fields, "scopes": scopes})

    def subscribe(self, account: Json, customer: str, title: str, minor: int = 2400, **more: Any) -> Json:
        """A subscription with `months` of paid history, and `kind`, `currency`, `mandate` (its status), `interval`,
        `start`, `times`, `send` (whether its payments are told)."""
        kind, months = more.get("kind", "creditcard"), more.get("months", 3)
        mandate = self._mandate(account, customer, kind, "valid")
        start = more.get("start") or step(self.today(), "1 month", -months, None) + timedelta(days=8)
        interval, times = more.get("interval", "1 month"), more.get("times")
        fields = {
            "amount": money(minor, more.get("currency", "EUR")),
            "interval": interval,
            "description": title,
            "method": more.get("fixed"),
            "mandateId": mandate["id"],
            "customerId": customer,
            "status": "active",
            "times": times,
            "timesRemaining": times,
            "startDate": str(start),
            "nextPaymentDate": str(start),
            "webhookUrl": hook(account),
            "metadata": more.get("metadata", {"plan": "monthly"}),
        }
        one = self._new("subscription", account, fields, min(self.now(), midday(start)))
        while one["status"] == "active" and date.fromisoformat(one["nextPaymentDate"]) <= self.today():
            self._charge(one, midday(one["nextPaymentDate"]), True, more.get("send", False))
        mandate["status"] = more.get("mandate", "valid")
        return one

    def _charge(self, one: Json, at: datetime, succeeds: bool, send: bool = True) -> Json:
        """Takes a payment for a subscription, whatever its state; what is live moves on to its next day."""
        theirs = [two for two in self._all("mandate") if two["customerId"] == one["customerId"]]
        mandate = self.objects.get(one.get("mandateId") or "") or theirs[0]
        why = {
            "failureReason": "insufficient_funds",
            "failureMessage": "There is not enough money on the account.",
        }
        details = {**mandate["details"], **({} if succeeds else why)}
        if "cardExpiryDate" in details:
            details["cardExpiryDate"] = "09/29"
        fields: Json = {name: one[name] for name in ("amount", "description", "customerId", "webhookUrl")}
        fields |= {"subscriptionId": one["id"], "mandateId": mandate["id"], "method": mandate["method"]}
        outcome = (
            {"status": "paid", "paidAt": iso(at)} if succeeds else {"status": "failed", "failedAt": iso(at)}
        )
        fields |= {**outcome, "sequenceType": "recurring", "details": details}
        payment = self._new("payment", self.state["accounts"][one[".account"]], fields, min(at, self.now()))
        if one["status"] in LIVE:
            day = date.fromisoformat(one["startDate"]).day
            one["nextPaymentDate"] = str(
                step(date.fromisoformat(one["nextPaymentDate"]), one["interval"], 1, day)
            )
            if one["timesRemaining"] is not None:
                one["timesRemaining"] -= 1
                if one["timesRemaining"] <= 0:
                    self._end(one, "completed")
        if send:
            self._tell(payment)
        return payment

    def _payments_of(self, one: Json) -> list[Json]:
        return [two for two in self._all("payment") if two.get("subscriptionId") == one["id"]]

    def order(
        self, account: Json, title: str, minor: int, at: datetime, email: str | None = None, **more: Any
    ) -> Json:
        """A payment that no subscription made, paid by iDEAL; `currency`, and any field of the API."""
        ends = {"paid": "paidAt", "failed": "failedAt", "canceled": "canceledAt", "expired": "expiredAt"}
        amount, bank = money(minor, more.pop("currency", "EUR")), account_of("directdebit")
        fields: Json = {"amount": amount, "description": title, "method": "ideal", "details": bank}
        fields |= {"status": "paid", "sequenceType": "oneoff", "metadata": None, "webhookUrl": hook(account)}
        fields |= {"redirectUrl": "https://shop.example/thanks", ".methods": [], **more}
        fields |= {"billingAddress": {"givenName": "Test", "email": email}} if email else {}
        fields |= {ends[fields["status"]]: iso(at)} if fields["status"] in ends else {}
        return self._new("payment", account, fields, at)

    def refund(self, payment: Json, minor: int, status: str = "refunded", send: bool = False) -> Json:
        fields = {"amount": money(minor, payment), "status": status, "paymentId": payment["id"]}
        account = self.state["accounts"][payment[".account"]]
        made = self._new("refund", account, {**fields, "description": "Sent back"})
        if send:
            self._tell(payment, "refund.refunded", made)
        return made

    def chargeback(self, payment: Json, send: bool = False) -> Json:
        fields = {"amount": payment["amount"], "paymentId": payment["id"], "reason": {"code": "AC01"}}
        made = self._new("chargeback", self.state["accounts"][payment[".account"]], fields)
        if send:
            self._tell(payment, "chargeback.received", made)
        return made

    def sales_invoice(self, payment: Json, email: str, number: str, status: str = "paid") -> Json:
        account, recipient = self.state["accounts"][payment[".account"]], {"type": "consumer", "email": email}
        fields: Json = {"invoiceNumber": number, "status": status, "recipient": recipient}
        fields |= {"totalAmount": payment["amount"], "amountDue": money(0, payment)}
        fields["paymentDetails"] = [{"source": "payment", "sourceReference": payment["id"]}]
        fields[".token"] = hashlib.sha256(f"{payment['id']} file".encode()).hexdigest()[:32]
        return self._new("sales-invoice", account, fields)

    # Webhooks and time

    def _tell(self, payment: Json, kind: str = "", about: Json | None = None) -> None:
        """Classic to the address of the payment, or next-gen to the address of the account."""
        account, entity = self.state["accounts"][payment[".account"]], about or payment
        if account["classic"]:
            body = f"id={payment['id']}".encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded", "User-Agent": "Mollie"}
            self.deliver(Delivery(payment.get("webhookUrl") or "", headers, body))
            return
        below = f"/v2/payments/{payment['id']}" + (f"/{entity['resource']}s/{entity['id']}" if about else "")
        what = kind or f"payment.{payment['status']}"
        event = self._event(what, entity["id"], self._shown(entity), below)
        for hook in account["hooks"].values():
            if hook["status"] == "enabled" and {"*", what} & set(hook["eventTypes"]):
                self.deliver(signed(hook["url"], hook[".secret"], event))

    def _event(self, kind: str, about: str, entity: Json, path: str) -> bytes:
        self.state["count"] += 1
        name = hashlib.sha256(f"event {self.state['count']}".encode()).hexdigest()[:12]
        said = {
            "resource": "event",
            "id": f"event_{name}",
            "type": kind,
            "entityId": about,
            "createdAt": iso(self.now()),
            "_embedded": {"entity": entity},
            "_links": {"entity": {"href": f"https://api.mollie.com{path}", "type": "application/hal+json"}},
        }
        return json.dumps(said).encode()

    def _shown_hook(self, hook: Json) -> Json:
        return {name: value for name, value in hook.items() if not name.startswith(".")} | {"_links": links()}

    def _hook(self, account: Json, request: Request) -> Json:
        hook = account["hooks"].get(request.path_params["hook"])
        if hook is None:
            raise Refusal(404, "No webhook exists with this token")
        return self._shown_hook(hook)

    def _list_hooks(self, account: Json, request: Request, said: Json) -> tuple[int, Json]:
        """Only those of the mode that is asked for, newest first, from one of them on."""
        mode = "test" if request.query_params.get("testmode") == "true" else "live"
        rows = [self._shown_hook(one) for one in account["hooks"].values() if one["url"]][::-1]
        rows = [one for one in rows if one["mode"] == mode]
        start, limit = request.query_params.get("from"), int(request.query_params.get("limit", 50))
        if start:
            rows = rows[[one["id"] for one in rows].index(start) :]
        more: Json = {"next": None}
        if len(rows) > limit:
            href = f"https://api.mollie.com/v2/webhooks?from={rows[limit]['id']}&limit={limit}"
            more = {"next": {"href": href, "type": "application/hal+json"}}
        rows = rows[:limit]
        return 200, {"count": len(rows), "_embedded": {"webhooks": rows}, "_links": links(**more)}

    def _create_hook(self, account: Json, request: Request, said: Json) -> tuple[int, Json]:
        """The only answer that shows the secret."""
        unknown(said, {"name", "url", "eventTypes", "testmode"})
        if not said.get("name") or not str(said.get("url")).startswith(("https://", "http://")):
            raise Refusal(422, "A webhook needs a name and an address", "url")
        hook = self._new_hook(account, said["name"], said["url"], self._types(account, said), "")
        hook["mode"] = "test" if said.get("testmode") is True else "live"
        return 201, self._shown_hook(hook) | {"webhookSecret": hook[".secret"]}

    def _new_hook(self, account: Json, name: str, url: str, types: list[str], secret: str) -> Json:
        self.state["count"] += 1
        seed = f"{account['key']} hook {self.state['count']}"
        number = f"hook_{hashlib.sha256(seed.encode()).hexdigest()[:21]}"
        hook: Json = {"resource": "webhook", "id": number, "url": url, "profileId": None, "name": name}
        hook |= {"createdAt": iso(self.now()), "eventTypes": types, "status": "enabled"}
        hook |= {"mode": account["mode"], ".secret": secret or f"whs_{number[5:]}Secret"}
        account["hooks"][number] = hook
        return hook

    def _types(self, account: Json, said: Json) -> list[str]:
        given = said.get("eventTypes")
        types = given if isinstance(given, list) else [given]
        if not types or not set(types) <= (TOLD | {"*"}) - set(account["untold"]):
            raise Refusal(422, "The event types are invalid, or not enabled for this account", "eventTypes")
        return [str(one) for one in types]

    def _update_hook(self, account: Json, request: Request, said: Json) -> tuple[int, Json]:
        unknown(said, {"name", "url", "eventTypes", "testmode"})
        hook = account["hooks"][self._hook(account, request)["id"]]
        hook |= {name: said[name] for name in ("name", "url") if name in said}
        if "eventTypes" in said:
            hook["eventTypes"] = self._types(account, said)
        return 200, self._shown_hook(hook)

    def _delete_hook(self, account: Json, request: Request, said: Json) -> tuple[int, None]:
        del account["hooks"][self._hook(account, request)["id"]]
        return 204, None

    def _ping(self, account: Json, request: Request, said: Json) -> tuple[int, None]:
        hook = account["hooks"][self._hook(account, request)["id"]]
        shown, path = self._shown_hook(hook), f"/v2/webhooks/{hook['id']}"
        self.deliver(signed(hook["url"], hook[".secret"], self._event("hook.ping", hook["id"], shown, path)))
        return 202, None

    def proof_of(self, delivery: Delivery) -> str | None:
        return delivery.headers.get("X-Mollie-Signature")

    def with_proof(self, delivery: Delivery, proofs: list[str]) -> tuple[list[tuple[str, str]], bytes]:
        rest = [(name, value) for name, value in delivery.headers.items() if name != "X-Mollie-Signature"]
        return [*rest, *(("X-Mollie-Signature", proof) for proof in proofs)], delivery.body

    def forgeries(self, sample: Sample, delivery: Delivery) -> list[Forgery]:
        """While a secret changes Mollie sends two signatures, of which one is good: that is no forgery."""
        if self.proof_of(delivery) is None:
            return []
        allowed = ("two, the wrong one first", "two, the right one first", "with itself behind a comma")
        found = [one for one in super().forgeries(sample, delivery) if one.what not in allowed]
        secret = str(sample.credentials["webhook_secret"])
        digest = hmac.new(secret.encode(), delivery.body, "sha256").digest()
        more = {
            "two, both wrong": [f"sha256={'0' * 64}", f"sha256={'f' * 64}"],
            "of another secret": [signed("", f"{secret}x", delivery.body).headers["X-Mollie-Signature"]],
            "in Base64": [f"sha256={base64.b64encode(digest).decode()}"],
            "with SHA-512": [f"sha256={hmac.new(secret.encode(), delivery.body, 'sha512').hexdigest()}"],
            "a hash without a secret": [f"sha256={hashlib.sha256(delivery.body).hexdigest()}"],
        }
        return found + [Forgery(what, *self.with_proof(delivery, proofs)) for what, proofs in more.items()]

    def tick(self) -> None:
        """Takes what is due; a subscription whose mandate is gone is suspended. Checkouts expire."""
        with self._lock:
            for payment in self._all("payment"):
                old = datetime.fromisoformat(payment["createdAt"]) < self.now() - timedelta(minutes=15)
                if payment["status"] == "open" and old:
                    payment |= {"status": "expired", "expiredAt": iso(self.now())}
                    self._tell(payment)
            for one in self._all("subscription"):
                while (
                    one["status"] == "active" and date.fromisoformat(one["nextPaymentDate"]) <= self.today()
                ):
                    if not self._mandate_is_valid(one):
                        one["status"] = "suspended"
                        break
                    self._charge(one, midday(one["nextPaymentDate"]), self.mode != "decline")

    def _mandate_is_valid(self, one: Json) -> bool:
        theirs = [two for two in self._all("mandate") if two["customerId"] == one["customerId"]]
        return any(two["status"] == "valid" and one.get("mandateId") in (None, two["id"]) for two in theirs)

    # What demo and tests ask of every simulator

    def samples(self) -> list[Sample]:
        return list(SAMPLES)

    def open(self, sample: Sample, webhook_url: str) -> None:
        key = sample.credentials["api_key"]
        with self._lock:
            mine = [name for name, one in self.objects.items() if one[".account"] == key]
            for name in mine:
                del self.objects[name]
            for mark in [mark for mark in self.state["replies"] if mark.startswith(f"{key} ")]:
                del self.state["replies"][mark]
            profile = f"pfl_{hashlib.sha256(key.encode()).hexdigest()[:10]}"
            made: Json = {"key": key, "mode": key.partition("_")[0], "name": sample.label, "profile": profile}
            made |= {"status": "verified", "webhook_url": webhook_url, "hooks": {}, "untold": []}
            made |= {"token": sample.credentials.get("organization_token", "")}
            made |= {"scopes": ["webhooks.read", "webhooks.write", "payments.read"]}
            secret = sample.credentials.get("webhook_secret", "")
            self.state["accounts"][key] = {**made, "classic": not secret}
            if secret:
                self._new_hook(self.account(sample), "Dashboard", webhook_url, ["*"], secret)

    def account(self, sample: Sample) -> Json:
        return cast(Json, self.state["accounts"][sample.credentials["api_key"]])

    def registered(self, sample: Sample) -> list[str]:
        hooks = self.account(sample)["hooks"].values()
        return [str(one["url"]) for one in hooks if one["url"] and one["status"] == "enabled"]

    def fill(self, sample: Sample) -> None:
        with self._lock:
            account, now = self.account(sample), self.now()

            def ago(days: int) -> datetime:
                return now - timedelta(days=days)

            noor = self.customer(account, "noor@example.com", "Noor Haddad", ago(120))
            self.subscribe(account, noor, "Coffee club")
            self.order(account, "Order 1042: moka pot", 3450, ago(20), customerId=noor, method="creditcard")
            mine = self.customer(account, "mollie@example.com", "Mo Jansen", ago(500))
            self.subscribe(account, mine, "Tea box", 1800, kind="directdebit")
            weekly = {"interval": "1 week", "kind": "paypal", "start": ago(9).date()}
            self.subscribe(account, mine, "Bread every week", 950, **weekly)
            self.subscribe(account, mine, "Yearly magazine", 6000, interval="12 months", months=5)
            soon = self.today() + timedelta(days=12)
            self.subscribe(account, mine, "Flowers, first month free", 2250, start=soon)
            waiting = self.subscribe(account, mine, "Cheese of the month", 2990, mandate="pending", months=0)
            waiting["status"] = "pending"
            failed = self.subscribe(account, mine, "Wine club", 4500)
            self._charge(failed, ago(2), False, send=False)
            self.subscribe(account, mine, "Vegetable box", 2700, mandate="invalid")["status"] = "suspended"
            self._end(self.subscribe(account, mine, "Puzzle club", 1500), "canceled")
            self.subscribe(account, mine, "Three lessons", 7500, months=4, times=3)
            ours = {"customerId": mine}
            lines = [line("Espresso beans", 2, 1250, "EUR"), line("Shipping", 1, 450, "EUR")]
            paid = self.order(account, "Order 1001", 2950, ago(70), lines=lines, **ours)
            self.sales_invoice(paid, "mollie@example.com", "INV-2026-0007")
            self.refund(self.order(account, "Order 1002", 4000, ago(50), **ours), 1000)
            self.refund(self.order(account, "Order 1003", 1999, ago(45), **ours), 1999)
            self.order(account, "Order 1004", 2100, ago(40), status="failed", method="creditcard", **ours)
            self.order(account, "Order 1005", 800, ago(30), status="expired", **ours)
            self.chargeback(self.order(account, "Order 1006", 5200, ago(25), method="directdebit", **ours))
            self.order(account, "Kyoto tea bowl", 4200, ago(9), "mollie@example.com", currency="JPY")
            self.order(account, "Till sale", 350, ago(5))

    def plans(self, sample: Sample) -> list[Json]:
        plan = {"plan": None, "currency": "EUR", "count": 1}
        monthly = {**plan, "title": "Large, every month", "minor": 3600, "unit": "month"}
        return [monthly, {**plan, "title": "Every year", "minor": 24000, "unit": "year"}]

    def stage(self, sample: Sample, email: str, situation: Situation) -> str | None:
        kinds = {None: "creditcard", "card": "creditcard", "wallet": "paypal", "bank_debit": "directdebit"}
        states = ("incomplete", "trialing", "active", "past_due", "cancelled", "expired")
        impossible = situation.object or situation.due or situation.method not in kinds
        if impossible or situation.state not in states:
            return None
        no_token = situation.token is False
        if no_token and situation.state not in ("past_due", "cancelled", "incomplete"):
            return None
        with self._lock:
            account, state = self.account(sample), situation.state
            if state == "incomplete" and situation.token:
                return None
            theirs = [one for one in self._all("customer", account["key"]) if one["email"] == email]
            customer = (
                theirs[0]["id"] if theirs else self.customer(account, email, email.partition("@")[0].title())
            )
            title = f"Club {self.state['count'] + 1}"
            more: Json = {"kind": kinds[situation.method], "mandate": "invalid" if no_token else "valid"}
            if state == "trialing":
                more |= {"start": self.today() + timedelta(days=10)}
            if state == "expired":
                more |= {"months": 4, "times": 3}
            if state == "incomplete":
                more |= {"start": self.today() + timedelta(days=1), "mandate": "pending"}
            one = self.subscribe(account, customer, title, **more)
            if state == "incomplete":
                one["status"] = "pending"
            if state == "past_due" and no_token:
                one["status"] = "suspended"
            elif state == "past_due":
                self._charge(one, self.now() - timedelta(hours=1), False, send=False)
            if state == "cancelled":
                self._end(one, "canceled")
            paid = self._payments_of(one)
            self._tell(paid[0] if paid else self._first(account, one))
            return str(one["id"])

    def _first(self, account: Json, one: Json) -> Json:
        """The payment by which a method was set up before anything was charged."""
        fields: Json = {"amount": money(0, one), "status": "paid", "sequenceType": "first", "details": None}
        fields |= {name: one[name] for name in ("description", "customerId", "mandateId", "webhookUrl")}
        fields |= {"method": self.objects[one["mandateId"]]["method"], "paidAt": iso(self.now())}
        return self._new("payment", account, fields)

    def standing(self, remote_id: str) -> Standing:
        one = self.objects[remote_id]
        following = one.get("nextPaymentDate")
        return Standing(
            raw=one["status"],
            charges=one["status"] == "active" and self._mandate_is_valid(one),
            next_on=date.fromisoformat(following) if following and one["status"] == "active" else None,
            method=one.get("mandateId"),
            payments=len([two for two in self._payments_of(one) if two["status"] == "paid"]),
            amount=cents(one),
        )

    def charge(self, remote_id: str, succeeds: bool = True) -> None:
        with self._lock:
            self._charge(self.objects[remote_id], self.now(), succeeds)


def hal(status: int, said: Json | None, headers: Mapping[str, str] | None = None) -> Response:
    if said is None:
        return Response(status_code=status, headers=dict(headers or {}))
    return Response(json.dumps(said), status, {**(headers or {})}, media_type="application/hal+json")


TITLES = {400: "Bad Request", 401: "Unauthorized Request", 403: "Forbidden", 404: "Not Found", 410: "Gone"}
TITLES |= {422: "Unprocessable Entity", 429: "Too Many Requests", 503: "Service Unavailable"}


def error(status: int, detail: str, field: str | None = None) -> Response:
    said = {
        "status": status,
        "title": TITLES[status],
        "detail": detail,
        **({"field": field} if field else {}),
    }
    return JSONResponse({**said, "_links": links()}, status, media_type="application/hal+json")


def links(**more: Any) -> Json:
    documentation = {"href": "https://docs.mollie.com/reference/overview", "type": "text/html"}
    return {"self": {"href": "…", "type": "application/hal+json"}, **more, "documentation": documentation}


def hook(account: Json) -> str:
    """Whom payments of this account call: the shop, unless it has them call the portal."""
    return str(account["webhook_url"]) if account["classic"] else "https://shop.example/mollie"


def signed(url: str, secret: str, body: bytes) -> Delivery:
    """A next-gen delivery with its signature."""
    signature = hmac.new(secret.encode(), body, "sha256").hexdigest()
    headers = {"Content-Type": "application/json", "X-Mollie-Signature": f"sha256={signature}"}
    return Delivery(url, headers, body)


def unknown(said: Json, allowed: set[str]) -> None:
    for field in said.keys() - allowed:
        raise Refusal(422, f'Non-existent body parameter "{field}" for this API call', field)


def decimals(currency: str) -> int:
    return 0 if currency in NO_DECIMALS else 2


def money(minor: int, like: str | Json) -> Json:
    """An amount in a currency, or in that of an object."""
    currency = like if isinstance(like, str) else like["amount"]["currency"]
    return {"currency": currency, "value": f"{Decimal(minor).scaleb(-decimals(currency)):f}"}


def amount_of(said: Any) -> int:
    """Minor units; the value must have exactly the decimals of its currency."""
    currency = str(said.get("currency")) if isinstance(said, dict) else ""
    value = said.get("value") if isinstance(said, dict) else None
    pattern = r"\d+" if decimals(currency) == 0 else r"\d+\.\d{2}"
    if (
        not re.fullmatch(r"[A-Z]{3}", currency)
        or not isinstance(value, str)
        or not re.fullmatch(pattern, value)
    ):
        raise Refusal(422, "The amount contains an invalid value", "amount")
    return int(Decimal(value).scaleb(decimals(currency)))


def cents(one: Json) -> int:
    return amount_of(one["amount"])


def line(name: str, quantity: int, minor: int, currency: str) -> Json:
    """A line of a payment at a price for each."""
    fields = {"description": name, "quantity": quantity, "unitPrice": money(minor, currency)}
    return {"type": "physical", **fields, "totalAmount": money(minor * quantity, currency)}


def account_of(kind: str) -> Json:
    """What a payment or a mandate tells of a bank account or of PayPal."""
    if kind == "paypal":
        return {"consumerName": "T. Test", "consumerAccount": "buyer@paypal.example"}
    return {"consumerName": "T. Test", "consumerAccount": "NL55INGB0000004217", "consumerBic": "INGBNL2A"}


def step(on: date, interval: str, times: int, day: int | None) -> date:
    """So many intervals later; months keep to their day where they are long enough."""
    found = re.fullmatch(r"(\d+) (day|week|month)s?", interval)
    assert found
    count = int(found[1]) * times
    if found[2] != "month":
        return on + timedelta(days=count * (7 if found[2] == "week" else 1))
    months = on.year * 12 + on.month - 1 + count
    year, month = months // 12, months % 12 + 1
    return date(year, month, min(day or on.day, calendar.monthrange(year, month)[1]))


def midday(on: date | str) -> datetime:
    """When a payment of that day is taken here."""
    on = date.fromisoformat(on) if isinstance(on, str) else on
    return datetime.combine(on, time(9), AMSTERDAM).astimezone(UTC)


def iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S+00:00")
