"""A stand-in for Flutterwave, from its documents: v3 with plans, subscriptions and the hosted checkout, and v4.

Amounts are major units. Lists have ten rows and no way to ask for more; a wrong id is answered 400; a transaction
tells its plan only when it is verified, and no subscription tells a date, a currency or a card. Webhooks of v3 carry
the secret hash as it is, those of v4 sign the body. A failed renewal is tried three more times, half an hour apart;
then the subscription is cancelled. In test mode e-mails get something put in front. Where the documents are silent the
harder way is taken: a cancelled subscription is told without its id, one refund is spelled otherwise than in the list
of all, and a subscription that was activated again goes on from its old day.
"""

import base64
import hashlib
import hmac
import html
import json
import math
from calendar import monthrange
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from seeds.simulators.harness import Delivery, Forgery, Harness, Sample, Situation, Standing, page

Json = dict[str, Any]
LABEL, LOGIN = "Flutterwave", "/realms/flutterwave/protocol/openid-connect/token"
PER_PAGE, RETRY, RETRIES = 10, timedelta(minutes=30), 3
TOKEN_LIVES = timedelta(minutes=10)
MONTHS = {"monthly": 1, "quarterly": 3, "bi-annually": 6, "yearly": 12}
DAYS = {"daily": 1, "weekly": 7}
CARDS = {  # what the checkout offers: brand, digits, whether a charge goes through
    "visa": ("VISA", "553188", "2950", True),
    "mastercard": ("MASTERCARD", "543889", "5043", True),
    "empty": ("VERVE", "506066", "6666", False),
}
PLANS = (  # name, price, interval, number of charges
    ("Coffee beans, monthly", 8500, "monthly", 0),
    ("Coffee beans, weekly", 2700, "weekly", 0),
    ("Readers' club, yearly", 48000, "yearly", 0),
    ("Sewing course in three parts", 15000, "monthly", 3),
    ("Gym, every 90 days", 60000.5, "every 90 days", 0),
    ("Ankara box, every half year", 99000, "bi-annually", 0),
)
NO_TRANSACTION = "No transaction was found for this id"


class Refusal(Exception):
    """An answer outside the 2xx: of v3 with a message alone, of v4 with a code."""

    def __init__(self, status: int, message: str, type_: str = "", code: str = "") -> None:
        super().__init__(message)
        body: Json = {"status": "error", "message": message, "data": None}
        if code:
            error = {"type": type_, "code": code, "message": message, "validation_errors": []}
            body = {"status": "failed", "error": error}
        self.answer = JSONResponse(body, status)


class Simulator(Harness):
    """Any number of accounts, each found by its secret key (v3) or its client (v4)."""

    name = "flutterwave"
    STATUS_FIELDS = ("status",)

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(clock)
        self.state = {"counter": 0, "accounts": {}, "ignored": []}

    def routes(self) -> list[BaseRoute]:
        def route(path: str, answer: Callable[..., Any], method: str = "GET", v4: bool = False) -> Route:
            return Route(path, self._endpoint(answer, v4), methods=[method])

        return [
            route("/v3/payment-plans", self._plans),
            route("/v3/payment-plans/{id}", self._one_plan),
            route("/v3/subscriptions", self._subscriptions),
            route("/v3/subscriptions/{id}/cancel", self._cancel, "PUT"),
            route("/v3/subscriptions/{id}/activate", self._activate, "PUT"),
            route("/v3/transactions", self._transactions),
            route("/v3/transactions/verify_by_reference", self._by_reference),
            route("/v3/transactions/{id}/verify", self._verify),
            route("/v3/refunds", self._refunds),
            route("/v3/refunds/{id}", self._one_refund),
            route("/v3/payments", self._checkout, "POST"),
            Route("/v3/hosted/pay/{slug}", self._page, methods=["GET", "POST"]),
            Route(LOGIN, self._login, methods=["POST"]),
            route("/customers", self._customers, v4=True),
            route("/customers/search", self._search, "POST", v4=True),
            route("/customers/{id}", _book("customers", "Customer"), v4=True),
            route("/charges", self._charges, v4=True),
            route("/charges/{id}", _book("charges", "Charge"), v4=True),
            route("/refunds", self._refunds4, v4=True),
            route("/refunds/{id}", _book("refunds", "Refund"), v4=True),
        ]

    def is_page(self, method: str, path: str) -> bool:
        return path.startswith("/v3/hosted/")

    def changes(self, method: str, path: str) -> bool:
        """A log-in and a search change nothing."""
        return method not in ("GET", "HEAD") and path not in (LOGIN, "/customers/search")

    def refused_keys(self) -> Response:
        return Refusal(401, "Invalid authorization key").answer

    def limited(self, retry_after: int | None) -> Response:
        answer = Refusal(429, "Too many requests, please slow down").answer
        if retry_after is not None:
            answer.headers["Retry-After"] = str(retry_after)
        return answer

    def outage(self) -> Response:
        return Refusal(503, "Service temporarily unavailable").answer

    def spoiled(self, fault: str, status: int, content: bytes) -> Response:
        """A word of tomorrow for the state of an object, not for that of the envelope."""
        answer = super().spoiled(fault, status, content)
        if fault == "unknown_status" and isinstance(said := json.loads(bytes(answer.body)), dict):
            return JSONResponse({**said, "status": json.loads(content).get("status")}, status)
        return answer

    def _endpoint(self, answer: Callable[..., Any], v4: bool) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            try:
                account = self._account4(request) if v4 else self._account3(request)
                sent = await _sent(request)
                if self.mode == "decline" and self.changes(request.method, request.url.path):
                    what = "This payment link is currently inactive"
                    raise Refusal(400, what if request.method == "POST" else "Request could not be completed")
                return JSONResponse({"status": "success", **answer(account, request, sent)})
            except Refusal as refusal:
                return refusal.answer

        return endpoint

    def _account3(self, request: Request) -> Json:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        account: Json | None = self.state["accounts"].get(key)
        if scheme != "Bearer" or account is None or account["v4"]:
            raise Refusal(401, "Invalid authorization key")
        return account

    def _account4(self, request: Request) -> Json:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        for account in self.state["accounts"].values():
            if account["v4"] and account["tokens"].get(token, self.now()) > self.now():
                found: Json = account
                return found
        raise Refusal(401, "Unauthorized request", "UNAUTHORIZED", "10401")

    # Calls of v3

    def _plans(self, account: Json, request: Request, sent: Json) -> Json:
        return self._listed(list(account["plans"].values()), request, "Payment plans fetched")

    def _one_plan(self, account: Json, request: Request, sent: Json) -> Json:
        found = account["plans"].get(request.path_params["id"])
        if found is None:
            raise Refusal(400, "Payment plan not found")
        return {"message": "Payment plan fetched", "data": found}

    def _subscriptions(self, account: Json, request: Request, sent: Json) -> Json:
        rows = [_subscription_json(one) for one in account["subscriptions"].values()]
        wanted = {"status": "status", "plan": "plan"}
        asked = request.query_params
        rows = [
            one
            for one in rows
            if all(str(one[mine]) == asked[name] for name, mine in wanted.items() if name in asked)
            and asked.get("email", one["customer"]["customer_email"]) == one["customer"]["customer_email"]
        ]
        return self._listed(rows, request, "Plan subscriptions fetched")

    def _cancel(self, account: Json, request: Request, sent: Json) -> Json:
        one = _found(account, request.path_params["id"])
        if one["status"] == "cancelled":
            raise Refusal(400, "Subscription is already cancelled")
        self._end(account, one)
        return {"message": "Subscription cancelled", "data": _subscription_json(one)}

    def _activate(self, account: Json, request: Request, sent: Json) -> Json:
        one = _found(account, request.path_params["id"])
        if account["plans"][str(one["plan"])]["status"] == "cancelled":
            raise Refusal(400, "Payment plan is not active")
        one |= {"status": "active", "tries": 0}
        while one["next"] <= self.now():
            one["next"] = self._after(account, one, one["next"])
        return {"message": "Subscription activated", "data": _subscription_json(one)}

    def _transactions(self, account: Json, request: Request, sent: Json) -> Json:
        asked, rows = request.query_params, list(account["transactions"].values())
        for name, field in (("customer_email", "email"), ("status", "status"), ("tx_ref", "tx_ref")):
            if name in asked and name not in self.state["ignored"]:
                rows = [one for one in rows if one[field] == asked[name]]
        rows = [one for one in rows if self._is_within(one["at"], request)]
        return self._listed([_row_json(one) for one in rows], request, "Transactions fetched")

    def _by_reference(self, account: Json, request: Request, sent: Json) -> Json:
        wanted = request.query_params.get("tx_ref")
        rows = [one for one in account["transactions"].values() if one["tx_ref"] == wanted]
        if not rows:
            raise Refusal(404, NO_TRANSACTION)
        return {"message": "Transaction fetched successfully", "data": _transaction_json(rows[-1])}

    def _verify(self, account: Json, request: Request, sent: Json) -> Json:
        one = account["transactions"].get(request.path_params["id"])
        if one is None:
            raise Refusal(400, NO_TRANSACTION)
        return {"message": "Transaction fetched successfully", "data": _transaction_json(one)}

    def _refunds(self, account: Json, request: Request, sent: Json) -> Json:
        rows = [one for one in account["refunds"].values() if self._is_within(one["at"], request)]
        return self._listed([_refund_json(one) for one in rows], request, "Refunds fetched")

    def _one_refund(self, account: Json, request: Request, sent: Json) -> Json:
        one = account["refunds"].get(request.path_params["id"])
        if one is None:
            raise Refusal(400, "Refund not found")
        said = {"id": one["id"], "TransactionId": one["charge"], "AmountRefunded": one["amount"]}
        more = {
            "status": one["status"],
            "meta": '{"source":"availablebalance"}',
            "created_at": _iso(one["at"]),
        }
        return {"message": "Refund fetched", "data": said | more}

    def _checkout(self, account: Json, request: Request, sent: Json) -> Json:
        email = (sent.get("customer") or {}).get("email") if isinstance(sent.get("customer"), dict) else None
        if not sent.get("tx_ref") or not email or not sent.get("redirect_url"):
            raise Refusal(400, "tx_ref, redirect_url and customer.email are required")
        plan = sent.get("payment_plan")
        if plan is not None and str(plan) not in account["plans"]:
            raise Refusal(400, "Payment plan not found")
        slug = _hash(f"{sent['tx_ref']} {self._number()}", 20)
        until = self.now() + timedelta(minutes=int(sent.get("session_duration", 1440)))
        account["links"][slug] = {**sent, "email": email, "until": until, "paid": False}
        return {"message": "Hosted Link", "data": {"link": f"{self.address}/v3/hosted/pay/{slug}"}}

    def _is_within(self, at: datetime, request: Request) -> bool:
        first, last = (
            request.query_params.get("from", "0001-01-01"),
            request.query_params.get("to", "9999-12-31"),
        )
        ignored = "from" in self.state["ignored"]
        return ignored or first <= at.strftime("%Y-%m-%d") <= last

    def _listed(self, rows: list[Json], request: Request, message: str, size: int = PER_PAGE) -> Json:
        """Newest first, by page number alone."""
        when = "created_datetime" if rows and "created_datetime" in rows[0] else "created_at"
        rows = sorted(rows, key=lambda one: (one[when], str(one["id"])), reverse=True)
        number = int(request.query_params.get("page", 1))
        info = {"total": len(rows), "current_page": number, "total_pages": math.ceil(len(rows) / size)}
        data = rows[(number - 1) * size : number * size]
        return {"message": message, "meta": {"page_info": info}, "data": data}

    # The checkout

    async def _page(self, request: Request) -> Response:
        slug = request.path_params["slug"]
        account = next((one for one in self.state["accounts"].values() if slug in one["links"]), None)
        link = account["links"][slug] if account else None
        if account is None or link is None or link["paid"] or link["until"] < self.now():
            return page(LABEL, "This session is over", "<p>Go back to the shop and start again.</p>", 410)
        left = _with(link["redirect_url"], status="cancelled", tx_ref=link["tx_ref"])
        form = parse_qs((await request.body()).decode()) if request.method == "POST" else {}
        action, card = form.get("action", [""])[0], form.get("card", ["visa"])[0]
        if action:
            good = action == "pay" and CARDS[card][3] and self.mode != "decline"
            charge = self._bought(account, link, card, good)
            if not good:
                return RedirectResponse(left, 303)
            number = str(charge["id"])
            ours = {"status": "successful", "tx_ref": link["tx_ref"], "transaction_id": number}
            return RedirectResponse(_with(link["redirect_url"], **ours), 303)
        choices = "".join(
            f'<option value="{key}">{brand} ending in {last4}</option>'
            for key, (brand, _, last4, _) in CARDS.items()
        )
        price = f"{html.escape(str(link.get('currency', 'NGN')))} {float(link['amount']):,.2f}"
        return page(
            LABEL,
            f"Pay {price}",
            f"""<p>{html.escape(link["email"])}</p>
<form method="post"><label>Card<select name="card">{choices}</select></label>
<button name="action" value="pay" data-test="accept">Pay {price}</button>
<button name="action" value="decline" data-test="decline">Use a card that is refused</button></form>
<a class="button" href="{html.escape(left)}" data-test="back">Cancel payment</a>""",
        )

    def _bought(self, account: Json, link: Json, card: str, good: bool) -> Json:
        """A payment on the page; with a plan it subscribes, unless it failed."""
        plan, mail = link.get("payment_plan"), self._mail(account, link["email"])
        charge = self._transact(account, mail, float(link["amount"]), self.now(), good, self._card(card))
        charge |= {"tx_ref": link["tx_ref"], "currency": link.get("currency", "NGN"), "plan": plan}
        charge["meta"] = link.get("meta")
        link["paid"] = good
        if good and plan is not None:
            one = self._subscribe(account, mail, str(plan), charge["card"], self.now())
            one |= {"payments": 1, "next": self._after(account, one, self.now())}
        self._tell(account, "charge.completed", _transaction_json(charge))
        return charge

    def _mail(self, account: Json, email: str) -> str:
        return email if account["live"] else f"ravesb_{_hash(account['secret'], 16)}_{email}"

    # Calls of v4

    async def _login(self, request: Request) -> Response:
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        account = self.state["accounts"].get(form.get("client_id", ""))
        is_right = account is not None and account["v4"] and account["secret"] == form.get("client_secret")
        if not is_right or form.get("grant_type") != "client_credentials":
            error = {"error": "invalid_client", "error_description": "Invalid client or client credentials"}
            return JSONResponse(error, 401)
        token = _hash(f"token {self._number()}", 40)
        account["tokens"][token] = self.now() + TOKEN_LIVES
        lives = {"expires_in": int(TOKEN_LIVES.total_seconds()), "refresh_expires_in": 0}
        more = {"token_type": "Bearer", "not-before-policy": 0, "scope": "profile email"}
        return JSONResponse({"access_token": token, **lives, **more})

    def _customers(self, account: Json, request: Request, sent: Json) -> Json:
        return self._listed(list(account["customers"].values()), request, "Customers fetched")

    def _search(self, account: Json, request: Request, sent: Json) -> Json:
        rows = [one for one in account["customers"].values() if one["email"] == sent.get("email")]
        return self._listed(rows, request, "Customers fetched")

    def _charges(self, account: Json, request: Request, sent: Json) -> Json:
        whose = request.query_params.get("customer_id")
        rows = [one for one in account["charges"].values() if whose in (None, one["customer_id"])]
        return self._listed(rows, request, "Charges fetched")

    def _refunds4(self, account: Json, request: Request, sent: Json) -> Json:
        return self._listed(list(account["refunds"].values()), request, "Refunds fetched")

    # Money and time

    def _take(self, account: Json, one: Json, at: datetime, succeeds: bool | None = None) -> None:
        """Charge once: a failure is tried again in half an hour, and after the third time it is over."""
        good = one["good"] if succeeds is None else succeeds
        charge = self._transact(account, one["email"], one["amount"], at, good, one["card"])
        charge |= {"plan": one["plan"], "currency": account["plans"][str(one["plan"])]["currency"]}
        if good:
            one["payments"] += 1
        if one["status"] == "active" and good:
            one |= {"tries": 0, "next": self._after(account, one, one["next"])}
        elif one["status"] == "active":
            one["tries"] += 1
            one["retry"] = at + RETRY
        self._tell(account, "charge.completed", _transaction_json(charge))
        duration = account["plans"][str(one["plan"])]["duration"]
        if one["status"] == "active" and duration and one["payments"] >= duration:
            one["status"] = "cancelled"  # no notice tells that all payments are made
        if one["status"] == "active" and one["tries"] > RETRIES:
            self._end(account, one)

    def _end(self, account: Json, one: Json) -> None:
        one["status"] = "cancelled"
        plan = account["plans"][str(one["plan"])]
        who = {"email": one["email"], "full_name": one["name"]}
        told = {"status": "deactivated", "currency": plan["currency"], "amount": one["amount"]}
        self._tell(account, "subscription.cancelled", {**told, "customer": who, "plan": plan})

    def _due(self, one: Json) -> datetime:
        at: datetime = one["retry"] if one["tries"] else one["next"]
        return at

    def tick(self) -> None:
        for account in self.state["accounts"].values():
            for one in list(account["subscriptions"].values()):
                while one["status"] == "active" and self._due(one) <= self.now():
                    self._take(account, one, self._due(one))

    def charge(self, remote_id: str, succeeds: bool = True) -> None:
        account, one = self._whose(remote_id)
        self._take(account, one, self.now().replace(microsecond=0), succeeds)

    def standing(self, remote_id: str) -> Standing:
        _, one = self._whose(remote_id)
        charges = one["status"] == "active"
        return Standing(
            raw=one["status"],
            charges=charges,
            next_on=self._due(one).date() if charges else None,
            method=one["card"]["token"],
            payments=one["payments"],
            amount=round(one["amount"] * 100),
        )

    def _whose(self, number: str) -> tuple[Json, Json]:
        for account in self.state["accounts"].values():
            if number in account["subscriptions"]:
                return account, account["subscriptions"][number]
        raise KeyError(number)

    def _after(self, account: Json, one: Json, at: datetime, times: int = 1) -> datetime:
        interval = account["plans"][str(one["plan"])]["interval"]
        if interval in MONTHS:
            total = at.year * 12 + at.month - 1 + times * MONTHS[interval]
            year, month = total // 12, total % 12 + 1
            return at.replace(year=year, month=month, day=min(one["day"], monthrange(year, month)[1]))
        days = DAYS[interval] if interval in DAYS else int(interval.split()[1])
        return at + times * timedelta(days=days)

    # Webhooks

    def _tell(self, account: Json, event: str, data: Json) -> None:
        if account["quiet"]:
            return
        told: Json = {"event": event, "data": data}
        if account["v4"]:
            number = f"wbk_{_hash(str(self._number()), 20)}"
            told = {"webhook_id": number, "timestamp": int(self.now().timestamp() * 1000), "type": event}
            told["data"] = data
        elif event == "charge.completed":
            told |= {"meta_data": data.get("meta") or {}, "event.type": "CARD_TRANSACTION"}
        body = json.dumps(told, separators=(",", ":")).encode()
        proof = {"verif-hash": account["hash"]}
        if account["v4"]:
            proof = {"flutterwave-signature": sign(account["hash"], body)}
        self.deliver(Delivery(account["webhook"], {"Content-Type": "application/json", **proof}, body))

    def proof_of(self, delivery: Delivery) -> str | None:
        return delivery.headers[_header(delivery)]

    def with_proof(self, delivery: Delivery, proofs: list[str]) -> tuple[list[tuple[str, str]], bytes]:
        named = _header(delivery)
        others = [(name, value) for name, value in delivery.headers.items() if name != named]
        return [*others, *((named, proof) for proof in proofs)], delivery.body

    def other_bodies(self, delivery: Delivery) -> list[Forgery]:
        """The secret hash says nothing of the body; what is no notice at all must be refused even so."""
        if _header(delivery) != "verif-hash":
            return super().other_bodies(delivery)
        headers = list(delivery.headers.items())
        bodies = {"empty": b"", "cut short": delivery.body[:-1], "a list": b"[]", "no notice": b"{}"}
        bodies["a notice of nothing"] = b'{"event":"charge.completed"}'
        wrong = [*headers, ("flutterwave-signature", sign("another secret hash", delivery.body))]
        beside = Forgery("a wrong signature beside the right hash", wrong, delivery.body)
        return [beside, *(Forgery(what, headers, body) for what, body in bodies.items())]

    # What demo and tests set up

    def samples(self) -> list[Sample]:
        def keys(name: str, test: str = "") -> Json:
            return {
                "secret_key": f"FLWSECK{test}-{_hash(name, 32)}-X",
                "secret_hash": _hash(f"{name} hash", 40),
            }

        def client(name: str, host: str) -> Json:
            secrets = {"client_secret": _hash(f"{name} client", 32), "secret_hash": _hash(f"{name} hash", 40)}
            return {"client_id": _hash(f"{name} id", 32), "api_host": f"{host}.flutterwave.com", **secrets}

        both = ("activate", "new_checkout")
        return [
            Sample("Lagos shop", keys("lagos"), "v3"),
            Sample("Accra shop", keys("accra"), "v3"),
            Sample("Card changes and second thoughts", keys("nairobi"), "v3", both),
            Sample("Shop in test mode", keys("kampala", "_TEST"), "v3"),
            Sample("Shop on v4", client("kigali", "f4bexperience"), "v4"),
            Sample("Sandbox on v4", client("lome", "developersandbox-api"), "v4"),
        ]

    def open(self, sample: Sample, webhook_url: str) -> None:
        fields, v4 = sample.credentials, sample.variant == "v4"
        books = (
            "plans",
            "subscriptions",
            "transactions",
            "refunds",
            "links",
            "tokens",
            "customers",
            "charges",
        )
        account: Json = {
            "v4": v4,
            "secret": fields["client_secret"] if v4 else fields["secret_key"],
            "hash": fields["secret_hash"],
            "live": "TEST" not in fields.get("secret_key", ""),
            "webhook": webhook_url,
            "quiet": False,
            **{name: {} for name in books},
        }
        self.state["accounts"][fields["client_id"] if v4 else fields["secret_key"]] = account
        for name, amount, interval, duration in () if v4 else PLANS:
            number = self._number()
            account["plans"][str(number)] = {
                "id": number,
                "name": name,
                "amount": amount,
                "interval": interval,
                "duration": duration,
                "status": "active",
                "currency": "NGN",
                "plan_token": f"rpp_{_hash(str(number), 20)}",
                "created_at": _iso(self.now() - timedelta(days=900)),
            }

    def fill(self, sample: Sample) -> None:
        account = self._opened(sample)
        account["quiet"] = True
        (self._history4 if account["v4"] else self._history)(account, self.now().replace(microsecond=0))
        account["quiet"] = False

    def _history(self, account: Json, now: datetime) -> None:
        noor, someone = (self._mail(account, f"{name}@example.com") for name in ("noor", self.name))
        self._running(account, noor, 0, 3, timedelta(days=11))
        bag = {"item": "Leather tote bag"}
        self._sale(account, noor, 24500, now - timedelta(days=40), meta=bag, charged=24843)
        for situation in (
            Situation("active"),
            Situation("past_due"),
            Situation("cancelled"),
            Situation("expired"),
        ):
            self._put(account, someone, situation)
        self._running(account, someone, 1, 2, timedelta(days=3))
        self._running(account, someone, 4, 2, timedelta(days=30))
        cup = self._sale(account, someone, 9000, now - timedelta(days=20), meta=[_field("product", "Cup")])
        self._give_back(account, cup["id"], 3000, "completed-bank-transfer", now - timedelta(days=15))
        kettle = self._sale(account, someone, 15000, now - timedelta(days=90), narration="Kettle")
        self._give_back(account, kettle["id"], 15000, "completed", now - timedelta(days=80))
        mug = self._sale(account, someone, 6500.5, now - timedelta(days=400), narration="Mug")
        self._give_back(account, mug["id"], 500.5, "disburse-failed", now - timedelta(days=390))
        self._sale(account, someone, 7000, now - timedelta(days=6), status="failed")
        self._sale(account, someone, 7000, now - timedelta(days=1), status="pending", sort="bank_transfer")

    def plans(self, sample: Sample) -> list[Json]:
        units = {"weekly": ("week", 1), "yearly": ("year", 1), "daily": ("day", 1)}
        found = []
        for code, one in self._opened(sample)["plans"].items():
            every = one["interval"]
            unit, count = units.get(every) or ("month", MONTHS.get(every, 0))
            if count:
                price = {"minor": round(one["amount"] * 100), "currency": one["currency"]}
                found.append({"title": one["name"], "plan": code, "unit": unit, "count": count, **price})
        return found

    def stage(self, sample: Sample, email: str, situation: Situation) -> str | None:
        account = self._opened(sample)
        if account["v4"]:
            return None
        one = self._put(account, self._mail(account, email), situation)
        if one is None:
            return None
        if situation.state == "cancelled":
            self._end(account, one)
        else:
            charge = list(account["transactions"].values())[-1]
            self._tell(account, "charge.completed", _transaction_json(charge))
        return str(one["id"])

    def refund(self, sample: Sample, charge: str, amount: float, status: str = "completed") -> str:
        """The merchant gives money back in the dashboard, of which no notice tells."""
        account = self._opened(sample)
        return str(self._give_back(account, int(charge), amount, status, self.now())["id"])

    def _put(self, account: Json, email: str, situation: Situation) -> Json | None:
        """A subscription in a situation, with the past that led there; None where Flutterwave has no such thing."""
        state = situation.state
        known = state in ("active", "past_due", "cancelled", "expired") and situation.object is None
        if not known or situation.method not in (None, "card") or situation.token is False:
            return None
        if situation.due not in (None, state == "past_due"):
            return None
        was, account["quiet"] = account["quiet"], True
        ahead = {"past_due": timedelta(minutes=-10), "cancelled": timedelta(days=9)}
        paid, plan = (3, 3) if state == "expired" else (2, 0)
        one = self._running(account, email, plan, paid, ahead.get(state, timedelta(days=12)))
        if state == "past_due":
            one["good"] = False
            self._take(account, one, one["next"])
        if state in ("cancelled", "expired"):
            one["status"] = "cancelled"
        account["quiet"] = was
        return one

    def _running(self, account: Json, email: str, plan: int, paid: int, ahead: timedelta) -> Json:
        """A subscription whose next charge is that far ahead, with so many charges behind it."""
        following = (self.now() + ahead).replace(microsecond=0)
        code = list(account["plans"])[plan]
        one = self._subscribe(account, email, code, self._card("mastercard"), following)
        begun = self._after(account, one, following, -paid)
        one |= {"at": begun + timedelta(seconds=40), "next": begun}
        for _ in range(paid):
            self._take(account, one, one["next"], succeeds=True)
        return one

    def _subscribe(self, account: Json, email: str, plan: str, card: Json, at: datetime) -> Json:
        number = self._number()
        name = email.partition("@")[0].rpartition("_")[2].title()
        one: Json = {
            "id": number,
            "plan": int(plan),
            "email": email,
            "name": name,
            "customer": self._number(),
        }
        one |= {"amount": account["plans"][plan]["amount"], "status": "active", "card": card, "at": at}
        one |= {"next": at, "retry": at, "day": at.day, "tries": 0, "payments": 0, "good": True}
        account["subscriptions"][str(number)] = one
        return one

    def _card(self, key: str) -> Json:
        brand, bin_, last4, _ = CARDS[key]
        token = f"flw-t1nf-{_hash(f'card {self._number()}', 32)}-m03k"
        more = {"issuer": "ACCESS BANK PLC DEBIT", "country": "NIGERIA NG", "expiry": "09/32"}
        return {"first_6digits": bin_, "last_4digits": last4, "type": brand, "token": token, **more}

    def _transact(
        self, account: Json, email: str, amount: float, at: datetime, good: bool, card: Json | None
    ) -> Json:
        number = 280_000_000 + self._number()
        one: Json = {"id": number, "tx_ref": f"order-{number}", "email": email, "amount": amount, "at": at}
        one |= {
            "charged": amount,
            "currency": "NGN",
            "status": "successful" if good else "failed",
            "card": card,
        }
        one |= {"sort": "card", "narration": "CARD Transaction ", "meta": None, "plan": None}
        account["transactions"][str(number)] = one
        return one

    def _sale(self, account: Json, email: str, amount: float, at: datetime, **more: Any) -> Json:
        one = self._transact(account, email, amount, at, True, self._card("visa"))
        one.update(more)
        return one

    def _give_back(self, account: Json, charge: int, amount: float, status: str, at: datetime) -> Json:
        number = self._number()
        one = {"id": number, "charge": charge, "amount": amount, "status": status, "at": at}
        account["refunds"][str(number)] = one
        return one

    def _history4(self, account: Json, now: datetime) -> None:
        noor, someone = (self._person4(account, f"{name}@example.com") for name in ("noor", self.name))
        self.sell4(account, noor, 24500, now - timedelta(days=40))
        cup = self.sell4(account, someone, 9000.5, now - timedelta(days=20))
        self._back4(account, cup, 3000, "succeeded", now - timedelta(days=15))
        kettle = self.sell4(account, someone, 15000, now - timedelta(days=90), sort="bank_transfer")
        self._back4(account, kettle, 15000, "completed", now - timedelta(days=80))
        for status in ("failed", "pending", "voided"):
            self.sell4(account, someone, 7000, now - timedelta(days=6), status)

    def _person4(self, account: Json, email: str) -> Json:
        number = f"cus_{_hash(email, 10)}"
        name = {"first": email.partition("@")[0].title(), "middle": None, "last": "Bello"}
        one = {"id": number, "address": None, "email": email, "name": name, "phone": None, "meta": {}}
        one["created_datetime"] = _iso(self.now() - timedelta(days=500))
        account["customers"][number] = one
        return one

    def sell4(
        self,
        account: Json,
        person: Json,
        amount: float,
        at: datetime,
        status: str = "succeeded",
        sort: str = "card",
    ) -> Json:
        """A charge of v4, told as in life: the notice holds the customer, the API only its id."""
        number = f"chg_{_hash(str(self._number()), 10)}"
        card = {"first6": "553188", "last4": "2950", "network": "MASTERCARD"}
        card |= {"expiry_month": "9", "expiry_year": "32"}
        method: Json = {"type": sort, sort: card if sort == "card" else {}, "id": f"pmd_{_hash(number, 10)}"}
        outcome = {"type": "approved" if status == "succeeded" else "do_not_honor", "code": "00"}
        one: Json = {"id": number, "amount": amount, "currency": "NGN", "customer_id": person["id"]}
        one |= {"reference": f"order{number[4:]}", "status": status, "processor_response": outcome}
        one |= {"fees": [{"type": "app", "amount": 0}], "meta": {"item": "Tea set"}, "settled": False}
        one |= {"payment_method_details": method, "created_datetime": _iso(at)}
        account["charges"][number] = one
        told = {
            name: value
            for name, value in one.items()
            if name not in ("customer_id", "payment_method_details")
        }
        self._tell(account, "charge.completed", {**told, "customer": person, "payment_method": method})
        return one

    def _back4(self, account: Json, charge: Json, amount: float, status: str, at: datetime) -> None:
        number = f"rfd_{_hash(str(self._number()), 10)}"
        one = {"id": number, "amount_refunded": amount, "meta": {}, "reason": "requested_by_customer"}
        one |= {"status": status, "charge_id": charge["id"], "created_datetime": _iso(at)}
        account["refunds"][number] = one
        self._tell(account, "refund.completed", one)

    def _opened(self, sample: Sample) -> Json:
        fields = sample.credentials
        account: Json = self.state["accounts"][fields.get("client_id") or fields["secret_key"]]
        return account

    def _number(self) -> int:
        self.state["counter"] += 1
        return 52_000 + int(self.state["counter"])


# What is on the wire


def sign(secret: str, body: bytes) -> str:
    """The header of a webhook of v4."""
    return base64.b64encode(hmac.digest(secret.encode(), body, hashlib.sha256)).decode()


def _header(delivery: Delivery) -> str:
    signed = "flutterwave-signature" in delivery.headers
    return "flutterwave-signature" if signed else "verif-hash"


def _book(book: str, what: str) -> Callable[..., Json]:
    """One object of v4 by its id."""

    def answer(account: Json, request: Request, sent: Json) -> Json:
        found = account[book].get(request.path_params["id"])
        if found is None:
            raise Refusal(404, f"{what} not found", "RESOURCE_NOT_FOUND", "10404")
        return {"message": f"{what} fetched", "data": found}

    return answer


def _found(account: Json, number: str) -> Json:
    one: Json | None = account["subscriptions"].get(number)
    if one is None:
        raise Refusal(400, "Subscription not found")
    return one


def _subscription_json(one: Json) -> Json:
    return {
        "id": one["id"],
        "amount": one["amount"],
        "customer": {"id": one["customer"], "customer_email": one["email"]},
        "plan": one["plan"],
        "status": one["status"],
        "created_at": _iso(one["at"]),
    }


def _shared_json(one: Json) -> Json:
    good = one["status"] == "successful"
    return {
        "id": one["id"],
        "tx_ref": one["tx_ref"],
        "flw_ref": f"FLW-MOCK-{_hash(str(one['id']), 32)}",
        "device_fingerprint": "N/A",
        "amount": one["amount"],
        "currency": one["currency"],
        "charged_amount": one["charged"],
        "app_fee": round(one["amount"] * 0.014, 2),
        "merchant_fee": 0,
        "processor_response": "Approved by Financial Institution" if good else "Insufficient Funds",
        "auth_model": "NOAUTH",
        "ip": "54.75.161.64",
        "narration": one["narration"],
        "status": one["status"],
        "payment_type": one["sort"],
        "created_at": _iso(one["at"]),
        "amount_settled": round(one["amount"] * 0.986, 2) if good else None,
    }


def _row_json(one: Json) -> Json:
    """In the list: ids as text, the customer flat, neither card nor plan."""
    who = {"customer_name": "Chidi Okafor", "customer_email": one["email"], "account_id": "73362"}
    return {**_shared_json(one), "id": str(one["id"]), **who}


def _transaction_json(one: Json) -> Json:
    """Verified, and in notices."""
    who = {"id": one["id"] + 7, "name": "Chidi Okafor", "phone_number": "N/A", "email": one["email"]}
    who["created_at"] = _iso(one["at"])
    card = {"card": one["card"]} if one["sort"] == "card" else {}
    plan = {"plan": one["plan"]} if one["plan"] is not None else {}
    return {**_shared_json(one), "account_id": 73362, **card, **plan, "meta": one["meta"], "customer": who}


def _refund_json(one: Json) -> Json:
    return {
        "id": one["id"],
        "account_id": 73362,
        "tx_id": one["charge"],
        "flw_ref": f"URF_{one['charge']}",
        "wallet_id": 74639,
        "amount_refunded": one["amount"],
        "status": one["status"],
        "destination": "payment_source",
        "meta": {"source": "availablebalance"},
        "created_at": _iso(one["at"]),
    }


async def _sent(request: Request) -> Json:
    body = await request.body()
    try:
        said = json.loads(body) if body else {}
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise Refusal(400, "Invalid JSON")
    return said


def _with(url: str, **query: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"


def _field(name: str, value: str) -> Json:
    return {"metaname": name, "metavalue": value}


def _hash(text: str, length: int = 20) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
