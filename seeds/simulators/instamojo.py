"""A stand-in for Instamojo: payment requests with their hosted page, payments, refunds; nothing recurs.

Both generations of the API tell the same data: v1.1 by two keys and with an envelope, v2 by a token (client
credentials) and with addresses in place of objects. Amounts are text in rupees, times ISO 8601 in UTC with
microseconds, and a notice is a form with an HMAC-SHA1 over its values, sent for payments that went through alone.
Written from https://docs.instamojo.com and the public SDKs. Where these are silent the harder way is taken: a page past
the end is answered 404, lists of requests leave the payments out, and the status of an expired request stays Pending.
"""

import hashlib
import hmac
import html
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from seeds.simulators.harness import Delivery, Forgery, Harness, Sample, Situation, page

Json = dict[str, Any]
Handler = Callable[[Json, Request], Awaitable[Response]]
OLD, NEW = "/api/1.1", "/v2"
SCOPES = ["payment-requests:read", "payments:read", "refunds:read", "cases:read"]
KINDS = ("RFD", "TNR", "QFL", "QNR", "EWN", "TAN", "PTH")
BILLED = {
    "UPI": "UPI",
    "CARD": "Domestic Regular Debit Card (Visa/Mastercard)",
    "NETBANKING": "Domestic Netbanking Regular",
    "WALLET": "Wallet",
    "EMI": "Domestic Credit Card EMI",
}
PAID = {"Credit": True, "Failed": False, "Initiated": None}  # v1.1 has no word for one that was only begun
LEAST, MOST = Decimal(9), Decimal(200_000)


class Refusal(Exception):
    """An error as v1.1 shapes it, and v2 most of the time."""

    def __init__(self, status: int, message: Any) -> None:
        super().__init__(str(message))
        self.answer = JSONResponse({"success": False, "message": message}, status)


class Simulator(Harness):
    """Accounts by their keys; everything of one account stands in its own dictionaries."""

    name = "instamojo"
    STATUS_FIELDS = ("status", "resolution_status")

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(clock)
        self.state = {"accounts": {}}

    def routes(self) -> list[BaseRoute]:
        old, new = self._by_keys, self._by_token
        return [
            Route("/oauth2/token/", self._token, methods=["POST"]),
            Route(f"{OLD}/payment-requests/", old(self._old_requests), methods=["GET"]),
            Route(f"{OLD}/payment-requests/", old(self._create), methods=["POST"]),
            Route(f"{OLD}/payment-requests/{{id}}/", old(self._old_request), methods=["GET"]),
            Route(f"{OLD}/payment-requests/{{id}}/{{paid}}/", old(self._old_request), methods=["GET"]),
            Route(f"{OLD}/payments/", old(self._old_payments), methods=["GET"]),
            Route(f"{OLD}/payments/{{id}}/", old(self._old_payment), methods=["GET"]),
            Route(f"{OLD}/refunds/", old(self._old_refunds), methods=["GET"]),
            Route(f"{OLD}/refunds/", old(self._give_back), methods=["POST"]),
            Route(f"{OLD}/refunds/{{id}}/", old(self._old_refund), methods=["GET"]),
            Route(f"{NEW}/payment_requests/", new(SCOPES[0], self._new_requests), methods=["GET"]),
            Route(f"{NEW}/payment_requests/{{id}}/", new(SCOPES[0], self._new_request), methods=["GET"]),
            Route(f"{NEW}/gateway/orders/", new(SCOPES[0], self._new_orders), methods=["GET"]),
            Route(f"{NEW}/gateway/orders/{{id}}/", new(SCOPES[0], self._new_order), methods=["GET"]),
            Route(f"{NEW}/payments/{{id}}/", new(SCOPES[1], self._new_payment), methods=["GET"]),
            Route(f"{NEW}/resolutioncenter/cases/{{id}}/", new(SCOPES[3], self._new_case), methods=["GET"]),
            Route("/@{shop}/{id}", self._page, methods=["GET"]),
            Route("/@{shop}/{id}", self._press, methods=["POST"]),
        ]

    # What demo and contract tests ask for

    def samples(self) -> list[Sample]:
        def old(letter: str) -> dict[str, str]:
            return {
                "test": "yes",
                "api_key": f"test_{letter * 27}",
                "auth_token": f"test_{letter}0{letter * 25}",
                "salt": f"{letter}5" * 16,
            }

        new = {"test": "yes", "client_id": f"test_{'c' * 35}", "client_secret": "cS" * 64, "salt": "c5" * 16}
        return [
            Sample("Tea shop", old("a"), "v1.1"),
            Sample("Another shop", old("b"), "v1.1"),
            Sample("Tea shop with REST keys", new, "v2"),
            Sample("Memberships by link", old("d"), "v1.1", ("memberships",)),
        ]

    def open(self, sample: Sample, webhook_url: str) -> None:
        kinds = "requests orders payments refunds tokens"
        self.state["accounts"][_key(sample.credentials)] = {
            "auth_token": "",
            "client_secret": "",
            **sample.credentials,
            "shop": f"shop{len(self.state['accounts'])}",
            "url": webhook_url,
            "scopes": list(SCOPES),
            "tells_failures": False,  # only after a word to support
        } | {kind: {} for kind in kinds.split()}

    def fill(self, sample: Sample) -> None:
        account, now = self._account(sample), self.now()

        def ago(days: float) -> datetime:
            return now - timedelta(days=days)

        def bought(email: str, purpose: str, amount: str, days: float, instrument: str = "UPI") -> Json:
            request = self._request(account, email, purpose, amount, ago(days))
            return self._paid(account, request, email, instrument, ago(days - 0.01))

        noor, me = "noor@example.com", "instamojo@example.com"
        bought(noor, "Assam tea, 500 g", "649.00", 40)
        bought(noor, "Clay cups, set of six", "480.00", 12, "NETBANKING")
        self._request(account, noor, "Tea tasting, one seat", "1250.00", ago(2))
        bought(me, "Darjeeling first flush", "1199.50", 30, "CARD")
        back = bought(me, "Teapot", "2500", 25, "EMI")
        self._give(back, account, "2500.00", "QFL", ago(20))
        partly = bought(me, "Gift box", "1800.00", 18, "WALLET")
        self._give(partly, account, "300.00", "QNR", ago(15))
        declined = self._request(account, me, "Nilgiri tea, 1 kg", "899.00", ago(6))
        self._failed(account, declined, me, "CARD", ago(5.9))
        self._request(account, me, "Tea chest", "3499.00", ago(9), ends=ago(8))
        club = self._request(account, "", "Tea club, one month", "399.00", ago(70), repeated=True)
        for days, email in ((65, me), (35, noor), (34, me), (4, me)):
            self._paid(account, club, email, "UPI", ago(days))
        bought("", "Sample box", "99.00", 3)  # the buyer left the e-mail blank
        self._paid(account, None, "priya@example.com", "UPI", ago(16), "Smart link", "250.00")
        self._order(account, me, "SHOP-1042", "Iced tea kit", "720.00", ago(11), paid=True)
        self._order(account, me, "SHOP-1043", "Iced tea kit", "720.00", ago(10), paid=False)

    def stage(self, sample: Sample, email: str, situation: Situation) -> str | None:
        """There is no subscription to put into any situation: the person pays once, as those do who get a link each
        month, and that is told as in life."""
        account = self._account(sample)
        request = self._request(account, email, "Tea club, one month", "399.00", self.now())
        self._paid(account, request, email, "UPI", self.now(), tell=True)
        return None

    def proof_of(self, delivery: Delivery) -> str | None:
        return dict(parse_qsl(delivery.body.decode(), keep_blank_values=True)).get("mac")

    def with_proof(self, delivery: Delivery, proofs: list[str]) -> tuple[list[tuple[str, str]], bytes]:
        pairs = _without_mac(delivery) + [("mac", proof) for proof in proofs]
        return list(delivery.headers.items()), urlencode(pairs).encode()

    def other_bodies(self, delivery: Delivery) -> list[Forgery]:
        """The true code over other values, and codes that are made in another way."""
        pairs, proof = _without_mac(delivery), self.proof_of(delivery) or ""
        said, salt = dict(pairs), self._salt_of(delivery)
        values = [value for _, value in sorted(pairs)]

        def forged(what: str, changed: list[tuple[str, str]], mac: str = proof) -> Forgery:
            return Forgery(what, list(delivery.headers.items()), urlencode([*changed, ("mac", mac)]).encode())

        def other(**changes: str) -> list[tuple[str, str]]:
            return list({**said, **changes}.items())

        text = "|".join(values).encode()
        return [
            *super().other_bodies(delivery),
            forged("another amount", other(amount="1.00")),
            forged("another buyer", other(buyer="mallory@example.com")),
            forged("another payment", other(payment_id="MOJO0000000000000001")),
            forged("another state", other(status="Failed")),
            forged("a blank behind a value", other(purpose=said["purpose"] + " ")),
            forged("a field more", other(zeal="yes")),
            forged("a field less", [pair for pair in pairs if pair[0] != "shorturl"]),
            forged("a field twice", [*pairs, ("amount", said["amount"])]),
            forged("an MD5", pairs, hmac.new(salt, text, hashlib.md5).hexdigest()),
            forged("a SHA-256", pairs, hmac.new(salt, text, hashlib.sha256).hexdigest()),
            forged("an empty salt", pairs, hmac.new(b"", text, hashlib.sha1).hexdigest()),
            forged("no key at all", pairs, hashlib.sha1(text).hexdigest()),
            forged("joined by &", pairs, hmac.new(salt, "&".join(values).encode(), hashlib.sha1).hexdigest()),
            forged(
                "in the order of the form",
                sorted(pairs, reverse=True),
                hmac.new(salt, "|".join(values[::-1]).encode(), hashlib.sha1).hexdigest(),
            ),
        ]

    def changes(self, method: str, path: str) -> bool:
        return method == "POST" and path != "/oauth2/token/"

    def is_page(self, method: str, path: str) -> bool:
        return path.startswith("/@")

    def refused_keys(self) -> Response:
        return Refusal(401, "Authentication credentials were not provided.").answer

    def limited(self, retry_after: int | None) -> Response:
        answer = Refusal(429, "Too many requests.").answer
        if retry_after is not None:
            answer.headers["Retry-After"] = str(retry_after)
        return answer

    # What the shop does, for tests

    def ask_for(self, sample: Sample, email: str, purpose: str, amount: str, **more: Any) -> Json:
        """A payment request, as the shop makes one; `more`: repeated, ends, redirect_url."""
        return self._request(self._account(sample), email, purpose, amount, self.now(), **more)

    def pay(self, sample: Sample, request: Json | None, email: str, **more: Any) -> Json:
        """A payment that goes through, with its notice; `more`: instrument, and without a request title and amount."""
        account, instrument = self._account(sample), more.pop("instrument", "UPI")
        return self._paid(account, request, email, instrument, self.now(), tell=True, **more)

    def refund(self, sample: Sample, payment_id: str, amount: str, kind: str = "RFD") -> Json:
        """The shop gives money back in the dashboard."""
        account = self._account(sample)
        return self._give(account["payments"][payment_id], account, amount, kind, self.now())

    def _account(self, sample: Sample) -> Json:
        account: Json = self.state["accounts"][_key(sample.credentials)]
        return account

    def _salt_of(self, delivery: Delivery) -> bytes:
        said = dict(_without_mac(delivery))
        accounts = self.state["accounts"].values()
        return next(str(one["salt"]).encode() for one in accounts if said["payment_id"] in one["payments"])

    # Making things

    def _request(
        self, account: Json, email: str, purpose: str, amount: str, at: datetime, **more: Any
    ) -> Json:
        number = uuid.uuid4().hex
        ends = more.get("ends")
        request = {
            "id": number,
            "phone": "+919900000000" if email else None,
            "email": email,
            "buyer_name": _name(email),
            "amount": f"{Decimal(amount):.2f}",
            "purpose": purpose[:30],
            "expires_at": iso(ends) if ends else None,
            "status": "Pending",
            "send_sms": False,
            "send_email": False,
            "sms_status": None,
            "email_status": None,
            "shorturl": None,
            "longurl": f"{self.address}/@{account['shop']}/{number}",
            "redirect_url": more.get("redirect_url", ""),
            "webhook": more.get("webhook", account["url"]),
            "_payments": [],
            "allow_repeated_payments": more.get("repeated", False),
            "customer_id": None,
            "created_at": iso(at),
            "modified_at": iso(at),
        }
        account["requests"][number] = request
        return request

    def _payment(
        self, account: Json, request: Json | None, email: str, instrument: str, at: datetime, **more: Any
    ) -> Json:
        amount = request["amount"] if request else more["amount"]
        payment: Json = {
            "payment_id": f"MOJO{uuid.uuid4().hex[:16].upper()}",
            "status": more.get("status", "Credit"),
            "currency": "INR",
            "amount": amount,
            "buyer_name": _name(email),
            "buyer_phone": "+919900000000",
            "buyer_email": email,
            **dict.fromkeys(f"shipping_{part}" for part in ("address", "city", "state", "zip", "country")),
            "quantity": 1,
            "unit_price": amount,
            "fees": f"{Decimal(amount) * Decimal('0.02'):.2f}",
            "variants": [],
            "custom_fields": {},
            "affiliate_commission": "0",
            "instrument_type": instrument,
            "billing_instrument": BILLED[instrument],
            "tax_invoice_id": "",
            "failure": None,
            "payout": None,
            "created_at": iso(at),
            "_request": request["id"] if request else None,
            "_title": request["purpose"] if request else more["title"],
            "_cases": [],
        }
        account["payments"][payment["payment_id"]] = payment
        if request:
            request["_payments"].append(payment["payment_id"])
            request["modified_at"] = iso(at)
        return payment

    def _paid(
        self,
        account: Json,
        request: Json | None,
        email: str,
        instrument: str,
        at: datetime,
        title: str = "",
        amount: str = "",
        tell: bool = False,
    ) -> Json:
        payment = self._payment(account, request, email, instrument, at, title=title, amount=amount)
        if request:
            request["status"] = "Completed"
        if tell:
            self._notify(account, request, payment)
        return payment

    def _failed(
        self, account: Json, request: Json, email: str, instrument: str, at: datetime, tell: bool = False
    ) -> Json:
        payment = self._payment(account, request, email, instrument, at, status="Failed")
        failure = {"reason": "AUTHORIZATION_FAILED", "message": "Transaction was declined by the bank"}
        payment |= {"failure": failure, "fees": None}
        if tell and account["tells_failures"]:
            self._notify(account, request, payment)
        return payment

    def _order(
        self, account: Json, email: str, transaction: str, title: str, amount: str, at: datetime, paid: bool
    ) -> None:
        """An order of v2's checkout, which has no page that one could come back to."""
        number = str(uuid.uuid4())
        order = {
            "id": number,
            "transaction_id": transaction,
            "status": "completed" if paid else "pending",
            "currency": "INR",
            "amount": amount,
            "name": _name(email),
            "email": email,
            "phone": "+919900000000",
            "description": title,
            "redirect_url": "https://shop.example/thanks",
            "webhook_url": account["url"],
            "created_at": iso(at),
            "_payments": [],
        }
        account["orders"][number] = order
        if paid:
            payment = self._paid(account, None, email, "UPI", at + timedelta(minutes=2), title, amount)
            order["_payments"].append(payment["payment_id"])

    def _give(self, payment: Json, account: Json, amount: str, kind: str, at: datetime) -> Json:
        refund = {
            "id": f"C{uuid.uuid4().hex[:10]}",
            "payment_id": payment["payment_id"],
            "status": "Refunded",
            "type": kind,
            "body": "Agreed by phone",
            "refund_amount": f"{Decimal(amount):.2f}",
            "total_amount": payment["amount"],
            "created_at": iso(at),
            "_outcome": "FINI_CONC",
        }
        account["refunds"][refund["id"]] = refund
        payment["_cases"].append(refund["id"])
        return refund

    def _notify(self, account: Json, request: Json | None, payment: Json) -> None:
        about = request or {"id": "", "longurl": "", "webhook": account["url"]}
        said = {
            "payment_id": payment["payment_id"],
            "status": payment["status"],
            "shorturl": "",
            "longurl": about["longurl"],
            "purpose": payment["_title"],
            "amount": payment["amount"],
            "fees": payment["fees"] or "",
            "currency": "INR",
            "buyer": payment["buyer_email"],
            "buyer_name": payment["buyer_name"],
            "buyer_phone": payment["buyer_phone"],
            "payment_request_id": about["id"],
        }
        said["mac"] = sign(said, account["salt"])
        headers = {"content-type": "application/x-www-form-urlencoded"}
        self.deliver(Delivery(about["webhook"], headers, urlencode(said).encode()))

    # The API: who asks

    def _by_keys(self, work: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                account = self.state["accounts"].get(request.headers.get("x-api-key", ""))
                token = request.headers.get("x-auth-token", "")
                if account is None or not token or account["auth_token"] != token:
                    raise Refusal(401, "Invalid api key or auth token.")
                return await work(account, request)
            except Refusal as refusal:
                return refusal.answer

        return answer

    def _by_token(self, scope: str, work: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                kind, _, token = request.headers.get("authorization", "").partition(" ")
                account = next(
                    (one for one in self.state["accounts"].values() if token in one["tokens"]), None
                )
                if kind != "Bearer" or account is None or account["tokens"][token] <= iso(self.now()):
                    raise Refusal(401, "Authentication credentials were not provided.")
                if scope not in account["scopes"]:
                    return JSONResponse({"error": "insufficient_scope"}, 403)
                return await work(account, request)
            except Refusal as refusal:
                return refusal.answer

        return answer

    async def _token(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        if form.get("grant_type") != "client_credentials":
            return JSONResponse({"error": "unsupported_grant_type"}, 400)
        account = self.state["accounts"].get(form.get("client_id", ""))
        if (
            account is None
            or not form.get("client_secret")
            or account["client_secret"] != form["client_secret"]
        ):
            return JSONResponse({"error": "invalid_client"}, 401)
        token = uuid.uuid4().hex
        account["tokens"][token] = iso(self.now() + timedelta(seconds=36_000))
        scope = " ".join(account["scopes"])
        return JSONResponse(
            {"access_token": token, "expires_in": 36_000, "token_type": "Bearer", "scope": scope}
        )

    # v1.1

    async def _old_requests(self, account: Json, request: Request) -> Response:
        rows = _newest(account["requests"])
        for field in ("created_at", "modified_at"):
            least, most = (request.query_params.get(f"{end}_{field}", "") for end in ("min", "max"))
            rows = [row for row in rows if row[field] >= least and (not most or row[field] <= most)]
        return _done("payment_requests", [shown(row) for row in _part(rows, request)])

    async def _old_request(self, account: Json, request: Request) -> Response:
        found = _found(account["requests"], request)
        one = shown(found) | {"payments": [self._old(account, paid) for paid in found["_payments"]]}
        if paid := request.path_params.get("paid"):
            if paid not in found["_payments"]:
                raise Refusal(404, "Not found.")
            del one["payments"]
            one["payment"] = self._old(account, paid)
        return _done("payment_request", one)

    async def _create(self, account: Json, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        wrong = {
            name: ["This field is required."]
            for name in ("purpose", "amount")
            if not form.get(name, "").strip()
        }
        if not wrong and not LEAST <= _decimal(form["amount"]) <= MOST:
            wrong = {"amount": ["The amount is not between 9 and 200000."]}
        if wrong or self.mode == "decline":
            raise Refusal(400, wrong or {"amount": ["This account can't take payments at the moment."]})
        made = self._request(
            account,
            form.get("email", ""),
            form["purpose"],
            form["amount"],
            self.now(),
            redirect_url=form.get("redirect_url", ""),
            webhook=form.get("webhook", ""),
            repeated=form.get("allow_repeated_payments", "true").lower() == "true",
        )
        return _done("payment_request", shown(made), 201)

    async def _old_payments(self, account: Json, request: Request) -> Response:
        rows = [row for row in _newest(account["payments"]) if row["status"] != "Initiated"]
        return _done("payments", [self._old(account, row["payment_id"]) for row in _part(rows, request)])

    async def _old_payment(self, account: Json, request: Request) -> Response:
        return _done("payment", self._old(account, _found(account["payments"], request)["payment_id"]))

    async def _old_refunds(self, account: Json, request: Request) -> Response:
        return _done("refunds", [shown(row) for row in _part(_newest(account["refunds"]), request)])

    async def _old_refund(self, account: Json, request: Request) -> Response:
        return _done("refund", shown(_found(account["refunds"], request)))

    async def _give_back(self, account: Json, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        payment = account["payments"].get(form.get("payment_id", ""))
        if payment is None or payment["status"] != "Credit" or form.get("type") not in KINDS:
            raise Refusal(400, {"payment_id": ["Payment not found."]})
        if self.mode == "decline" or (payment["_cases"] and not form.get("transaction_id")):
            raise Refusal(400, {"transaction_id": ["This field is required."]})
        amount = form.get("refund_amount") or payment["amount"]
        return _done("refund", shown(self._give(payment, account, amount, form["type"], self.now())), 201)

    def _old(self, account: Json, number: str) -> Json:
        payment = account["payments"][number]
        of = payment["_request"]
        uri = f"{self.address}{OLD}/payment-requests/{of}/" if of else None
        return shown(payment) | {"payment_request": uri}

    # v2

    async def _new_requests(self, account: Json, request: Request) -> Response:
        rows = _newest(account["requests"])
        found = [self._new(one, "payment_requests", one["id"]) for one in _part(rows, request)]
        return self._results(request, found, len(rows))

    async def _new_request(self, account: Json, request: Request) -> Response:
        one = _found(account["requests"], request)
        return JSONResponse(self._new(one, "payment_requests", one["id"]))

    async def _new_orders(self, account: Json, request: Request) -> Response:
        rows = _newest(account["orders"])
        found = [self._new_of_order(account, one) for one in _part(rows, request)]
        return self._results(request, found, len(rows))

    async def _new_order(self, account: Json, request: Request) -> Response:
        by, _, number = request.path_params["id"].partition(":")
        field = {"id": "id", "transaction_id": "transaction_id"}.get(by)
        one = next((one for one in account["orders"].values() if field and one[field] == number), None)
        if one is None:
            raise Refusal(404, "Not found.")
        return JSONResponse(self._new_of_order(account, one))

    def _new_of_order(self, account: Json, one: Json) -> Json:
        paid = [account["payments"][number] for number in one["_payments"]]
        listed = [{"id": row["payment_id"], "status": "successful"} for row in paid]
        return self._new(one, "gateway/orders", f"id:{one['id']}") | {"payments": listed}

    async def _new_payment(self, account: Json, request: Request) -> Response:
        one = _found(account["payments"], request)
        of, order_info = one["_request"], ("quantity", "unit_price", "variants", "custom_fields")
        said = {
            "id": one["payment_id"],
            "title": one["_title"],
            "payment_type": "api_rap" if of else "gateway",
            "payment_request": f"{self.address}{NEW}/payment_requests/{of}/" if of else None,
            "status": PAID[one["status"]],
            "name": one["buyer_name"],
            "email": one["buyer_email"],
            "phone": one["buyer_phone"],
            "cases": [f"{self.address}{NEW}/resolutioncenter/cases/{case}/" for case in one["_cases"]],
            "order_info": {name: one[name] for name in order_info},
            "updated_at": one["created_at"],
            "resource_uri": f"{self.address}{NEW}/payments/{one['payment_id']}/",
        }
        same = ("currency", "amount", "fees", "payout", "instrument_type", "billing_instrument", "failure")
        return JSONResponse(said | {name: one[name] for name in (*same, "created_at", "tax_invoice_id")})

    async def _new_case(self, account: Json, request: Request) -> Response:
        one = _found(account["refunds"], request)
        outcome = one["_outcome"]
        said = {
            "id": one["id"],
            "created_by": None,
            "payment": f"{self.address}{NEW}/payments/{one['payment_id']}/",
            "status": "FINI" if outcome else "INIT",
            "resolution_status": outcome,
            "status_text": "Refunded" if outcome == "FINI_CONC" else "Open",
            "references": [],
            "refunds": [],
            "transaction_id": None,
            "updated_at": one["created_at"],
            "resource_uri": f"{self.address}{NEW}/resolutioncenter/cases/{one['id']}/",
        }
        same = ("type", "body", "refund_amount", "created_at")
        return JSONResponse(said | {name: one[name] for name in same})

    def _new(self, one: Json, path: str, number: str) -> Json:
        paid = [f"{self.address}{NEW}/payments/{payment}/" for payment in one["_payments"]]
        return shown(one) | {"payments": paid, "resource_uri": f"{self.address}{NEW}/{path}/{number}/"}

    def _results(self, request: Request, rows: list[Json], total: int) -> Response:
        number, limit = _paging(request)
        url = f"{self.address}{request.url.path}?limit={limit}&page="
        said = {
            "count": total,
            "next": f"{url}{number + 1}" if number * limit < total else None,
            "previous": f"{url}{number - 1}" if number > 1 else None,
            "results": rows,
        }
        return JSONResponse(said)

    # The hosted page

    def _linked(self, request: Request) -> tuple[Json, Json] | None:
        number = request.path_params["id"]
        return next(
            (
                (one, one["requests"][number])
                for one in self.state["accounts"].values()
                if number in one["requests"]
            ),
            None,
        )

    def _closed(self, about: Json) -> str | None:
        if about["expires_at"] and about["expires_at"] <= iso(self.now()):
            return "This link has expired"
        if about["status"] == "Completed" and not about["allow_repeated_payments"]:
            return "This has been paid"
        return None

    async def _page(self, request: Request) -> Response:
        found = self._linked(request)
        if found is None:
            return page("Instamojo", "No such link", "<p>Ask the shop for another one.</p>", 404)
        about = found[1]
        if closed := self._closed(about):
            return page("Instamojo", closed, f"<p>{html.escape(about['purpose'])}</p>", 410)
        fields = (("name", "Name", about["buyer_name"] or "Asha"), ("email", "Email", about["email"]))
        inputs = "".join(
            f'<label>{label}<input name="{name}" value="{html.escape(value)}"></label>'
            for name, label, value in fields
        )
        options = "".join(f'<option value="{one}">{one.title()}</option>' for one in BILLED)
        return page(
            "Instamojo",
            about["purpose"],
            f'<p>₹{about["amount"]}</p><form method="post">{inputs}'
            f'<label>Pay by<select name="instrument">{options}</select></label>'
            '<button data-test="accept" name="answer" value="pay">Pay</button>'
            '<button data-test="decline" name="answer" value="fail">Let it fail</button></form>',
        )

    async def _press(self, request: Request) -> Response:
        found = self._linked(request)
        if found is None or self._closed(found[1]):
            return await self._page(request)
        account, about = found
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        email, instrument = form.get("email", "").strip(), form.get("instrument", "UPI")
        good = form.get("answer") == "pay" and self.mode != "decline"
        work = self._paid if good else self._failed
        payment = work(
            account, about, email, instrument if instrument in BILLED else "UPI", self.now(), tell=True
        )
        if about["redirect_url"]:
            back = {
                "payment_id": payment["payment_id"],
                "payment_status": payment["status"],
                "payment_request_id": about["id"],
            }
            glue = "&" if "?" in about["redirect_url"] else "?"
            return RedirectResponse(about["redirect_url"] + glue + urlencode(back), 302)
        if not good:
            again = '<p>Your bank declined it. Nothing was taken.</p><p><a href="">Try again</a></p>'
            return page("Instamojo", "Payment failed", again, 402)
        return page("Instamojo", "Payment successful", f"<p>Payment ID: {payment['payment_id']}</p>")


def sign(said: Mapping[str, str], salt: str) -> str:
    """The code of a notice: the values in the order of their names, whatever their case, joined by a bar."""
    values = "|".join(said[name] for name in sorted(said, key=str.lower) if name != "mac")
    return hmac.new(salt.encode(), values.encode(), hashlib.sha1).hexdigest()


def iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def shown(one: Json) -> Json:
    """An object without what only the simulator knows of it."""
    return {name: value for name, value in one.items() if not name.startswith("_")}


def _key(credentials: Mapping[str, str]) -> str:
    return credentials.get("api_key") or credentials["client_id"]


def _name(email: str) -> str:
    return email.partition("@")[0].capitalize()


def _decimal(amount: str) -> Decimal:
    try:
        return Decimal(amount)
    except InvalidOperation:
        return Decimal(0)


def _without_mac(delivery: Delivery) -> list[tuple[str, str]]:
    pairs = parse_qsl(delivery.body.decode(), keep_blank_values=True)
    return [pair for pair in pairs if pair[0] != "mac"]


def _newest(rows: Mapping[str, Json]) -> list[Json]:
    return sorted(rows.values(), key=lambda row: row["created_at"], reverse=True)


def _paging(request: Request) -> tuple[int, int]:
    try:
        number, limit = (
            int(request.query_params.get(name, usual)) for name, usual in (("page", 1), ("limit", 50))
        )
    except ValueError:
        raise Refusal(400, "Invalid page.") from None
    if number < 1 or not 1 <= limit <= 500:
        raise Refusal(400, "Invalid page.")
    return number, limit


def _part(rows: list[Json], request: Request) -> list[Json]:
    number, limit = _paging(request)
    if number > 1 and (number - 1) * limit >= len(rows):
        raise Refusal(404, "Invalid page.")
    return rows[(number - 1) * limit : number * limit]


def _found(rows: Mapping[str, Json], request: Request) -> Json:
    one = rows.get(request.path_params["id"])
    if one is None:
        raise Refusal(404, "Not found.")
    return one


def _done(name: str, said: Any, status: int = 200) -> Response:
    return JSONResponse({name: said, "success": True}, status)
