"""Adyen, simulated: the Checkout API v72, its webhooks, Hosted Checkout and payment links, behind one address.

Written from Adyen's documents and OpenAPI files. Adyen keeps no subscriptions, so the merchant's billing engine stands
in here too: it charges stored payment methods on its days and is told nothing by the portal. Amounts are in Adyen's
minor units. Where the documents are silent: an unknown stored method is refused with 803, and of a shopper without any
the list is empty and says whose it is.
"""

import base64
import hashlib
import hmac
import html
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from seeds.simulators.harness import Delivery, Forgery, Harness, Sample, Situation, Standing, page

AMSTERDAM = timezone(timedelta(hours=1))
PERIOD, RETRY, TRIES = timedelta(days=30), timedelta(days=3), 3  # of the billing engine
SESSION_LASTS, LINK_LASTS = timedelta(hours=1), timedelta(hours=24)
ROLES = ("checkout", "recurring", "webhooks")
TESTABLE = (
    *("AUTHORISATION", "CHARGEBACK_REVERSED", "ORDER_CLOSED", "ORDER_OPENED", "PAIDOUT_REVERSED"),
    *("PAYOUT_THIRDPARTY", "REFUNDED_REVERSED", "REFUND_WITH_DATA", "REPORT_AVAILABLE"),
)
ALL_MODELS = ("CardOnFile", "Subscription", "UnscheduledCardOnFile")
# What can be stored, by the word for the sort: (type, brand, last four, month, year, what a webhook calls it).
CARDS = [
    ("scheme", "mc", "4444", "03", "30", "Mastercard"),
    ("scheme", "visa", "1142", "08", "29", "Visa"),
    ("scheme", "amex", "8431", "11", "28", "American Express"),
]
STORED = {
    "card": ("scheme", "visa", "1111", "03", "30", "Visa"),
    "bank_debit": ("sepadirectdebit", "", "4321", "", "", "SEPA"),
    "wallet": ("paypal", "", "", "", "", "PayPal"),
}
EXPONENTS = {"CLP": 2, "CVE": 0, "IDR": 0, "ISK": 2, "JPY": 0, "KRW": 0, "VND": 0, "KWD": 3, "BHD": 3}

Details = tuple[str, str, str, str, str, str]


# What is kept


@dataclass(slots=True)
class Hook:
    """A standard webhook. `events` empty: all that Adyen sends by itself."""

    url: str
    user: str
    password: str
    hmac_key: str = ""
    active: bool = True
    events: list[str] = field(default_factory=list)
    details: dict[str, bool] = field(default_factory=dict)


@dataclass(slots=True)
class Account:
    """`hooks` are the standard webhooks, by their ids; that about tokens was set up in the Customer Area."""

    merchant: str
    api_key: str
    token_key: str
    live: bool
    hooks: dict[str, Hook]
    tokens_to: Hook
    roles: set[str] = field(default_factory=lambda: set(ROLES))
    quiet: bool = False  # what would be sent is kept in `past` instead
    past: list[Delivery] = field(default_factory=list)


@dataclass(slots=True)
class Token:
    id: str
    details: Details
    created_at: datetime
    first_psp: str

    @property
    def name(self) -> str:
        """What a webhook calls it: the brand of a card, else the type."""
        return self.details[1] or self.details[0]


@dataclass(slots=True)
class Shopper:
    merchant: str
    reference: str
    email: str
    tokens: list[Token] = field(default_factory=list)

    def token(self, token_id: str) -> Token | None:
        return next((one for one in self.tokens if one.id == token_id), None)


@dataclass(slots=True)
class Contract:
    """What the merchant's billing engine keeps of a subscription."""

    shopper: Shopper
    token: str
    amount: int
    currency: str
    next_at: datetime
    running: bool = True
    fails: bool = False
    refused: int = 0  # times in a row
    payments: int = 0


@dataclass(slots=True)
class Hosted:
    """A session (CS…) or a payment link (PL…)."""

    id: str
    merchant: str
    asked: dict[str, Any]
    status: str
    expires_at: datetime
    result: str = ""  # what proves a shopper's return


class Refusal(Exception):
    """An answer in Adyen's shape of errors."""

    def __init__(self, status: int, code: str, message: str, sort: str = "validation") -> None:
        super().__init__(message)
        self.answer = JSONResponse(
            {"status": status, "errorCode": code, "message": message, "errorType": sort}, status
        )


class Simulator(Harness):
    """Adyen. The first account has no option; the third is a live one, with the option to delete tokens."""

    name = "adyen"
    STATUS_FIELDS = ("status", "resultCode")

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(clock)
        self._lock = threading.RLock()  # the clock is moved, and things are staged, from another thread
        self.state: dict[str, Any] = {
            "accounts": {},
            "shoppers": {},
            "contracts": {},
            "hosted": {},
            "answers": {},
            "count": 0,
        }

    def routes(self) -> list[BaseRoute]:
        found: list[BaseRoute] = []
        for root in ("/v72", "/checkout/v72"):
            found += [
                Route(f"{root}/paymentMethods", self._api("checkout", self._methods), methods=["POST"]),
                Route(f"{root}/sessions", self._api("checkout", self._session, True), methods=["POST"]),
                Route(f"{root}/sessions/{{id}}", self._api("checkout", self._result), methods=["GET"]),
                Route(f"{root}/paymentLinks", self._api("checkout", self._link, True), methods=["POST"]),
                Route(f"{root}/paymentLinks/{{id}}", self._api("checkout", self._shown), methods=["GET"]),
                Route(f"{root}/storedPaymentMethods", self._api("recurring", self._stored), methods=["GET"]),
                Route(
                    f"{root}/storedPaymentMethods/{{id}}",
                    self._api("recurring", self._delete, True),
                    methods=["DELETE"],
                ),
            ]
        hooks = "/v3/merchants/{merchant}/webhooks"
        managed: list[tuple[str, str, Callable[[Account, Request, dict[str, Any]], Response]]] = [
            ("GET", hooks, self._hooks),
            ("POST", hooks, self._add_hook),
            ("GET", f"{hooks}/{{hook}}", self._show_hook),
            ("PATCH", f"{hooks}/{{hook}}", self._change_hook),
            ("DELETE", f"{hooks}/{{hook}}", self._remove_hook),
            ("POST", f"{hooks}/{{hook}}/generateHmac", self._new_key),
            ("POST", f"{hooks}/{{hook}}/test", self._test_hook),
        ]
        found += [Route(path, self._management(answer), methods=[method]) for method, path, answer in managed]
        return [*found, Route("/{id}", self._page, methods=["GET", "POST"])]

    def is_page(self, method: str, path: str) -> bool:
        return re.fullmatch(r"/(CS|PL)[0-9A-F]{16}", path) is not None

    def changes(self, method: str, path: str) -> bool:
        return method in ("POST", "PATCH", "DELETE") and not path.endswith("/paymentMethods")

    def refused_keys(self) -> Response:
        return Refusal(401, "000", "HTTP Status Response - Unauthorized", "security").answer

    def limited(self, retry_after: int | None) -> Response:
        answer = Refusal(429, "999", "Too many requests", "rate-limit").answer
        if retry_after is not None:
            answer.headers["Retry-After"] = str(retry_after)
        return answer

    def outage(self) -> Response:
        return Refusal(500, "905", "Internal error", "internal").answer

    # Accounts and what is in them

    def samples(self) -> list[Sample]:
        third = {"live_prefix": "7f3c2a91d0b84e65-LumenStreaming", "manual_capture": "klarna, mc"}
        return [
            Sample("Cedar Books", _credentials("CedarBooksECOM", "a1")),
            Sample("Harbour Prints", _credentials("HarbourPrintsECOM", "b2")),
            Sample(
                "Lumen Streaming, live",
                {**_credentials("LumenStreamingECOM", "c3"), **third},
                options=("delete_token",),
            ),
        ]

    def open(self, sample: Sample, webhook_url: str) -> None:
        given = sample.credentials
        login = (webhook_url, given["webhook_username"], given["webhook_password"])
        self.state["accounts"][given["merchant_account"]] = Account(
            merchant=given["merchant_account"],
            api_key=given["api_key"],
            token_key=given["token_hmac_key"],
            live="live_prefix" in given,
            hooks={_hook_id(given["merchant_account"], 0): Hook(*login, given["hmac_key"])},
            tokens_to=Hook(*login),
        )

    def account(self, sample: Sample) -> Account:
        found: Account = self.state["accounts"][sample.credentials["merchant_account"]]
        return found

    def registered(self, sample: Sample) -> list[str]:
        return [one.url for one in self.account(sample).hooks.values() if one.url and one.active]

    def contract_of(self, remote_id: str) -> Contract:
        """What the billing engine keeps for a shopperReference; KeyError for an unknown one."""
        found: Contract = self.state["contracts"][remote_id]
        return found

    def fill(self, sample: Sample) -> None:
        account, now, name = self.account(sample), self.now(), "adyen@example.com"
        account.quiet = True
        self._subscribe(account, "noor@example.com", 1290, now - timedelta(days=70))
        self._order(account, "noor@example.com", "CB-1001", 3495, now - timedelta(days=12))
        self._subscribe(account, name, 1290, now - timedelta(days=100))
        self._subscribe(account, name, 2400, now - timedelta(days=40), STORED["bank_debit"])
        self._subscribe(account, name, 990, now - timedelta(days=20), STORED["wallet"])
        late = self._subscribe(account, name, 1890, now - timedelta(days=31), renewed=False)
        late.fails = True
        self._renew(late, late.next_at)
        ended = self._subscribe(account, name, 790, now - timedelta(days=50))
        self._remove(account, ended.shopper, ended.token, now - timedelta(days=9))
        ended.running = False
        self._order(account, name, "CB-1002", 5900, now - timedelta(days=90), refunds=[2900, 3000])
        self._order(account, name, "CB-1003", 1250, now - timedelta(days=60), refunds=[1250], fails=True)
        self._order(account, name, "CB-1004", 7995, now - timedelta(days=8), method="klarna", captured=True)
        self._order(account, name, "CB-1005", 4400, now - timedelta(days=1), method="klarna")
        self._order(account, name, "CB-1006", 8800, now - timedelta(days=5), ok=False)
        self._order(account, name, "CB-1007", 2100, now - timedelta(days=45), disputed=True)
        account.quiet = False

    def past_deliveries(self, sample: Sample) -> list[tuple[list[tuple[str, str]], bytes]]:
        past = sorted(self.account(sample).past, key=_told_at)
        return [(list(delivery.headers.items()), delivery.body) for delivery in past]

    def stage(self, sample: Sample, email: str, situation: Situation) -> str | None:
        """Active, past due and cancelled are all that can be; what happened, happened a day ago or more."""
        late, kind = situation.state == "past_due", situation.method or "card"
        if situation.state not in ("active", "past_due", "cancelled") or kind not in STORED:
            return None
        if situation.object or situation.token is False or situation.due not in (None, late):
            return None
        with self._lock:
            account, now = self.account(sample), self.now()
            started = now - (PERIOD + timedelta(days=1) if late else timedelta(days=10))
            made = self._subscribe(account, email, 1290, started, STORED[kind], renewed=False)
            if late:
                made.fails = True
                self._renew(made, made.next_at)
            if situation.state == "cancelled":
                made.running = False
                self._remove(account, made.shopper, made.token, now)
            return made.shopper.reference

    def standing(self, remote_id: str) -> Standing:
        one = self.contract_of(remote_id)
        stored = one.shopper.token(one.token) is not None
        charges = one.running and stored
        return Standing(
            raw="stored" if stored else "deleted",
            charges=charges,
            next_on=one.next_at.date() if charges else None,
            method=one.token,
            payments=one.payments,
            amount=one.amount,
        )

    def charge(self, remote_id: str, succeeds: bool = True) -> None:
        with self._lock:
            one = self.contract_of(remote_id)
            one.fails = not succeeds
            self._renew(one, self.now())

    def adopt(self, remote_id: str) -> None:
        """The merchant has done what they were asked: the newest stored method is charged from now on."""
        one = self.contract_of(remote_id)
        one.token, one.fails = one.shopper.tokens[-1].id, False

    def tick(self) -> None:
        with self._lock:
            for one in list(self.state["contracts"].values()):
                while one.running and one.next_at <= self.now() and one.shopper.token(one.token):
                    self._renew(one, one.next_at)

    # The billing engine, the shop, and Adyen's answer to them

    def _subscribe(
        self,
        account: Account,
        email: str,
        amount: int,
        at: datetime,
        details: Details = STORED["card"],
        renewed: bool = True,
    ) -> Contract:
        """A checkout that stores its method, and the renewals since."""
        shopper = Shopper(account.merchant, f"shopper-{self._number():05d}", email)
        self.state["shoppers"][account.merchant, shopper.reference] = shopper
        psp = self._psp()
        token = self._store(account, shopper, details, at, psp)
        made = Contract(shopper, token.id, amount, "EUR", at + PERIOD, payments=1)
        self.state["contracts"][shopper.reference] = made
        about = _about(shopper, token) | {"recurringProcessingModel": "Subscription"}
        about |= {"shopperInteraction": "Ecommerce", "tokenization.store.operationType": "created"}
        reference = f"CB-{self._number():05d}"
        self._tell(account, self._authorisation(psp, reference, amount, "EUR", at, token.name, about))
        while renewed and made.next_at <= self.now():
            self._renew(made, made.next_at)
        return made

    def _renew(self, one: Contract, at: datetime) -> None:
        """One charge by the billing engine. Where the token is gone it charges all the same, as engines do that keep
        the scheme's reference of the first payment."""
        account: Account = self.state["accounts"][one.shopper.merchant]
        token = one.shopper.token(one.token)
        about = _about(one.shopper, token) | {
            "recurringProcessingModel": "Subscription",
            "shopperInteraction": "ContAuth",
        }
        name = token.name if token else "visa"
        reference = f"renewal-{self._number():05d}"
        ok = not one.fails
        said = self._authorisation(self._psp(), reference, one.amount, one.currency, at, name, about, ok)
        one.refused = 0 if ok else one.refused + 1
        one.payments += ok
        one.next_at = at + (PERIOD if ok else RETRY)
        one.running = one.running and one.refused <= TRIES
        self._tell(account, said)

    def _order(
        self,
        account: Account,
        email: str,
        reference: str,
        amount: int,
        at: datetime,
        method: str = "visa",
        ok: bool = True,
        captured: bool = False,
        refunds: list[int] | None = None,
        fails: bool = False,
        disputed: bool = False,
    ) -> None:
        """A guest's order and what became of it."""
        psp, about = self._psp(), {"shopperEmail": email, "shopperInteraction": "Ecommerce"}
        if method == "visa":
            about |= {"cardSummary": "1111", "expiryDate": "3/2030"}
        self._tell(account, self._authorisation(psp, reference, amount, "EUR", at, method, about, ok))
        later = at + timedelta(hours=20)
        if captured:
            self._tell(account, self._follow(psp, "CAPTURE", reference, amount, later, method))
        for number, part in enumerate(refunds or []):
            sent = self._follow(psp, "REFUND", reference, part, later + timedelta(days=number), method)
            self._tell(account, sent)
            if fails:
                back = self._follow(psp, "REFUND_FAILED", reference, part, later + timedelta(days=3), method)
                self._tell(account, back | {"pspReference": sent["pspReference"]})
        if disputed:
            at = at + timedelta(days=20)
            self._tell(
                account, self._follow(psp, "NOTIFICATION_OF_CHARGEBACK", reference, amount, at, method)
            )
            at = at + timedelta(days=1)
            self._tell(account, self._follow(psp, "CHARGEBACK", reference, amount, at, method))

    def _store(self, account: Account, shopper: Shopper, details: Details, at: datetime, psp: str) -> Token:
        """The token of a method: a new one, or that which is there for the same."""
        token = next((one for one in shopper.tokens if one.details == details), None)
        operation = "alreadyExisting" if token else "created"
        if token is None:
            token = Token(self._psp(), details, at, psp)
            shopper.tokens.append(token)
        self._tell_token(account, operation, shopper, token, at)
        return token

    def _remove(self, account: Account, shopper: Shopper, token_id: str, at: datetime) -> None:
        token = shopper.token(token_id)
        if token is None:
            raise Refusal(422, "803", "PaymentDetail not found")
        shopper.tokens.remove(token)
        self._tell_token(account, "disabled", shopper, token, at)

    def _number(self) -> int:
        self.state["count"] += 1
        return int(self.state["count"])

    def _psp(self) -> str:
        return hashlib.sha256(f"adyen {self._number()}".encode()).hexdigest()[:16].upper()

    # Webhooks

    def _authorisation(
        self,
        psp: str,
        reference: str,
        amount: int,
        currency: str,
        at: datetime,
        method: str,
        about: Mapping[str, str],
        ok: bool = True,
    ) -> dict[str, Any]:
        card = about.get("cardSummary")
        code = f"{int(psp[:5], 16) % 1_000_000:06d}"
        approved = f"{code}:{card}:{about.get('expiryDate', '')}" if card else "null"
        return {
            "additionalData": dict(about) | {"paymentMethodVariant": method},
            "amount": {"currency": currency, "value": amount},
            "eventCode": "AUTHORISATION",
            "eventDate": _stamp(at),
            "merchantReference": reference,
            "operations": ["CANCEL", "CAPTURE", "REFUND"],
            "paymentMethod": method,
            "pspReference": psp,
            "reason": approved if ok else "Refused",
            "success": "true" if ok else "false",
        }

    def _follow(
        self, original: str, code: str, reference: str, amount: int, at: datetime, method: str
    ) -> dict[str, Any]:
        return {
            "additionalData": {"paymentMethodVariant": method},
            "amount": {"currency": "EUR", "value": amount},
            "eventCode": code,
            "eventDate": _stamp(at),
            "merchantReference": reference,
            "originalReference": original,
            "paymentMethod": method,
            "pspReference": self._psp(),
            "reason": "Refund Failed" if code == "REFUND_FAILED" else "",
            "success": "true",
        }

    def standard(self, account: Account, hook: Hook, *items: Mapping[str, Any]) -> Delivery:
        """A standard webhook with these items, signed, that is not sent yet."""
        told = [dict(item) | {"merchantAccountCode": account.merchant} for item in items]
        for item in told:
            proof = {"hmacSignature": signature(item, hook.hmac_key)} if hook.hmac_key else {}
            item["additionalData"] = {**item["additionalData"], **proof}
        body = {
            "live": "true" if account.live else "false",
            "notificationItems": [{"NotificationRequestItem": item} for item in told],
        }
        return Delivery(hook.url, _headers(hook), json.dumps(body).encode())

    def _tell(self, account: Account, *items: Mapping[str, Any]) -> None:
        for hook in account.hooks.values():
            wanted = [item for item in items if not hook.events or item["eventCode"] in hook.events]
            if wanted and hook.active:
                self._send_or_keep(account, self.standard(account, hook, *wanted))

    def _tell_token(self, account: Account, what: str, shopper: Shopper, token: Token, at: datetime) -> None:
        data = {
            "merchantAccount": account.merchant,
            "shopperReference": shopper.reference,
            "storedPaymentMethodId": token.id,
            "type": token.name,
        }
        if what != "disabled":
            data["operation"] = what
        told = {
            "createdAt": _stamp(at),
            "eventId": self._psp(),
            "environment": "live" if account.live else "test",
            "data": data,
            "type": f"recurring.token.{what}",
        }
        body = json.dumps(told).encode()
        proof = _hmac(account.token_key, body)
        headers = {**_headers(account.tokens_to), "hmacsignature": proof, "protocol": "HmacSHA256"}
        self._send_or_keep(account, Delivery(account.tokens_to.url, headers, body))

    def _send_or_keep(self, account: Account, delivery: Delivery) -> None:
        if account.quiet:
            account.past.append(delivery)
        else:
            self.deliver(delivery)

    def proof_of(self, delivery: Delivery) -> str | None:
        if "hmacsignature" in delivery.headers:
            return delivery.headers["hmacsignature"]
        return str(_first(json.loads(delivery.body))["additionalData"]["hmacSignature"])

    def with_proof(self, delivery: Delivery, proofs: list[str]) -> tuple[list[tuple[str, str]], bytes]:
        """Several proofs of a token's notice are headers side by side; those of an item are a list."""
        headers = [(name, value) for name, value in delivery.headers.items() if name != "hmacsignature"]
        if "hmacsignature" in delivery.headers:
            return [*headers, *(("hmacsignature", proof) for proof in proofs)], delivery.body
        said = json.loads(delivery.body)
        details = _first(said)["additionalData"]
        del details["hmacSignature"]
        if proofs:
            details["hmacSignature"] = proofs[0] if len(proofs) == 1 else proofs
        return headers, json.dumps(said).encode()

    def other_bodies(self, delivery: Delivery) -> list[Forgery]:
        """The eight fields of an item are covered, so each is changed; so is what Basic authentication proves."""
        if "hmacsignature" in delivery.headers:
            return super().other_bodies(delivery)
        headers = list(delivery.headers.items())
        true = _first(json.loads(delivery.body))
        changed: dict[str, dict[str, Any]] = {
            f"another {name}": {name: f"{true.get(name, '')}1"}
            for name in ("pspReference", "originalReference", "merchantReference", "merchantAccountCode")
        }
        changed |= {
            "another event": {"eventCode": "REFUND"},
            "the outcome turned round": {"success": "false" if true["success"] == "true" else "true"},
            "another amount": {"amount": {**true["amount"], "value": true["amount"]["value"] + 1}},
            "another currency": {"amount": {**true["amount"], "currency": "USD"}},
            "no amount": {"amount": None},
            "an amount with decimals": {"amount": {**true["amount"], "value": true["amount"]["value"] + 0.5}},
            "a list for an id": {"pspReference": [true["pspReference"]]},
        }
        found = [Forgery(what, headers, _body({**true, **change})) for what, change in changed.items()]
        unproved = {**true, "pspReference": "0" * 16, "additionalData": {}}
        bare = [(name, value) for name, value in headers if name != "Authorization"]
        wrong = "Basic " + base64.b64encode(b"adyen:wrong").decode()
        return [
            *found,
            Forgery("a second item without proof", headers, _body(true, unproved)),
            Forgery(
                "a second item with the first's", headers, _body(true, {**true, "pspReference": "0" * 16})
            ),
            Forgery("no items", headers, b'{"live": "false", "notificationItems": []}'),
            Forgery("an item that is none", headers, b'{"notificationItems": [null]}'),
            Forgery("an empty body", headers, b""),
            Forgery("a body cut short", headers, delivery.body[:-1]),
            Forgery("no password", bare, delivery.body),
            Forgery("a wrong password", [*bare, ("Authorization", wrong)], delivery.body),
            Forgery("two passwords", [*headers, ("Authorization", wrong)], delivery.body),
        ]

    # The API

    def _api(
        self, role: str, answer: Callable[[Account, Request, dict[str, Any]], Response], changes: bool = False
    ) -> Callable[[Request], Any]:
        async def respond(request: Request) -> Response:
            raw = await request.body()
            with self._lock:
                try:
                    return self._answer(role, answer, changes, request, raw)
                except Refusal as refusal:
                    return refusal.answer

        return respond

    def _answer(
        self,
        role: str,
        answer: Callable[[Account, Request, dict[str, Any]], Response],
        changes: bool,
        request: Request,
        raw: bytes,
    ) -> Response:
        account = self._known(request)
        asked = _asked(raw) if request.method == "POST" else dict(request.query_params)
        if account.merchant != asked.get("merchantAccount", None if changes else account.merchant):
            raise Refusal(403, "901", "Invalid Merchant Account", "security")
        if role not in account.roles:
            raise Refusal(403, "010", "Not allowed", "security")
        number = (account.merchant, request.url.path, request.headers.get("idempotency-key", ""))
        if request.method == "POST" and number[2] in self.state["answers"].get(number[:2], {}):
            status, said = self.state["answers"][number[:2]][number[2]]
            return JSONResponse(said, status)
        if changes and self.mode == "decline":
            raise Refusal(422, "905_1", "Could not find an acquirer account for the request", "configuration")
        found = answer(account, request, asked)
        if request.method == "POST" and number[2]:
            kept = self.state["answers"].setdefault(number[:2], {})
            kept[number[2]] = (found.status_code, json.loads(bytes(found.body)))
        return found

    def _known(self, request: Request) -> Account:
        key, live = request.headers.get("x-api-key"), request.url.path.startswith("/checkout/")
        for account in self.state["accounts"].values():
            if account.api_key == key and account.live == live:
                return account  # type: ignore[no-any-return]
        raise Refusal(401, "000", "HTTP Status Response - Unauthorized", "security")

    # The Management API, for the webhooks of a merchant account

    def _management(
        self, answer: Callable[[Account, Request, dict[str, Any]], Response]
    ) -> Callable[[Request], Any]:
        async def respond(request: Request) -> Response:
            raw = await request.body()
            with self._lock:
                key = request.headers.get("x-api-key")
                account = next((one for one in self.state["accounts"].values() if one.api_key == key), None)
                if account is None:
                    return _managed(401, "00_401", "Unauthorized", "Invalid credentials provided.")
                if account.merchant != request.path_params["merchant"] or "webhooks" not in account.roles:
                    return _managed(
                        403, "00_403", "Forbidden", "The API credential does not have the required role."
                    )
                if request.path_params.get("hook", next(iter(account.hooks), "")) not in account.hooks:
                    return _managed(404, "30_011", "Not found", "The webhook does not exist.")
                if self.mode == "decline" and request.method != "GET":
                    return _managed(422, "30_010", "Unprocessable Entity", "The webhook can't be set up.")
                return answer(account, request, json.loads(raw) if raw else {})

        return respond

    def _shown_hook(self, account: Account, number: str) -> dict[str, Any]:
        hook, root = account.hooks[number], "https://management-test.adyen.com/v3"
        here = f"{root}/merchants/{account.merchant}/webhooks/{number}"
        links = {"self": here, "generateHmac": f"{here}/generateHmac", "testWebhook": f"{here}/test"}
        links["merchant"] = f"{root}/merchants/{account.merchant}"
        shown: dict[str, Any] = {"id": number, "type": "standard", "url": hook.url, "username": hook.user}
        shown |= {"hasPassword": bool(hook.password), "active": hook.active, "hasError": False}
        shown |= {"communicationFormat": "json", "description": f"Webhook for {account.merchant}"}
        shown |= dict.fromkeys(
            ("acceptsExpiredCertificate", "acceptsSelfSignedCertificate", "acceptsUntrustedRootCertificate"),
            False,
        )
        if hook.hmac_key:
            shown["hmacKeyCheckValue"] = hashlib.sha256(hook.hmac_key.encode()).hexdigest()[:6].upper()
        settings: dict[str, Any] = {"properties": hook.details}
        shown["additionalSettings"] = settings | ({"includeEventCodes": hook.events} if hook.events else {})
        return shown | {"_links": {name: {"href": href} for name, href in links.items()}}

    def _hooks(self, account: Account, request: Request, asked: dict[str, Any]) -> Response:
        query = request.query_params
        page_, size = int(query.get("pageNumber", 1)), int(query.get("pageSize", 10))
        if not 1 <= size <= 100:
            return _managed(422, "30_001", "Unprocessable Entity", "pageSize is at most 100.")
        shown = [self._shown_hook(account, number) for number, one in account.hooks.items() if one.url]
        rows = shown[(page_ - 1) * size : page_ * size]
        counted = {"itemsTotal": len(shown), "pagesTotal": max(1, -(-len(shown) // size))}
        return JSONResponse({"accountReference": account.merchant, "data": rows, **counted})

    def _add_hook(self, account: Account, request: Request, asked: dict[str, Any]) -> Response:
        if missing := {"url", "active", "communicationFormat", "type"} - set(asked):
            return _managed(422, "30_001", "Unprocessable Entity", f"{sorted(missing)[0]} is missing.")
        number = _hook_id(account.merchant, self._number())
        account.hooks[number] = Hook(asked["url"], asked.get("username", ""), asked.get("password", ""))
        return self._set(account, number, asked)

    def _change_hook(self, account: Account, request: Request, asked: dict[str, Any]) -> Response:
        return self._set(account, request.path_params["hook"], asked)

    def _set(self, account: Account, number: str, asked: dict[str, Any]) -> Response:
        hook, settings = account.hooks[number], asked.get("additionalSettings", {})
        hook.url, hook.active = asked.get("url", hook.url), asked.get("active", hook.active)
        hook.user, hook.password = asked.get("username", hook.user), asked.get("password", hook.password)
        hook.events = settings.get("includeEventCodes", hook.events)
        hook.details = hook.details | settings.get("properties", {})
        return JSONResponse(self._shown_hook(account, number))

    def _show_hook(self, account: Account, request: Request, asked: dict[str, Any]) -> Response:
        return JSONResponse(self._shown_hook(account, request.path_params["hook"]))

    def _remove_hook(self, account: Account, request: Request, asked: dict[str, Any]) -> Response:
        del account.hooks[request.path_params["hook"]]
        return Response(status_code=204)

    def _new_key(self, account: Account, request: Request, asked: dict[str, Any]) -> Response:
        """The only answer that shows the key. The former one signs no more."""
        number = request.path_params["hook"]
        made = hashlib.sha256(f"{account.api_key} {number} {self._number()}".encode()).hexdigest().upper()
        account.hooks[number].hmac_key = made
        return JSONResponse({"hmacKey": made})

    def _test_hook(self, account: Account, request: Request, asked: dict[str, Any]) -> Response:
        """Four notices for each event, sent at once. What became of them is told as the switch has it: nobody is waited
        for here."""
        hook, results = account.hooks[request.path_params["hook"]], []
        for code in asked.get("types", []):
            if code not in TESTABLE:
                return _managed(422, "30_001", "Unprocessable Entity", f"{code} can't be tested.")
            for currency, success in (("EUR", True), ("EUR", False), ("GBP", True), ("GBP", False)):
                item = {
                    "additionalData": {},
                    "amount": {"currency": currency, "value": 1000},
                    "eventCode": code,
                    "eventDate": _stamp(self.now()),
                    "merchantReference": f"testMerchantRef{self._number()}",
                    "pspReference": self._psp(),
                    "reason": "",
                    "success": "true" if success else "false",
                }
                sent = self.standard(account, hook, item)
                self.deliver(sent)
                lost = self.mode == "lose_webhooks"
                results.append(
                    {
                        "merchantId": account.merchant,
                        "output": "No answer" if lost else "",
                        "requestSent": sent.body.decode(),
                        "responseCode": "504" if lost else "200",
                        "responseTime": "40 ms",
                        "status": "failed" if lost else "success",
                    }
                )
        return JSONResponse({"data": results})

    def _methods(self, account: Account, request: Request, asked: dict[str, Any]) -> Response:
        return JSONResponse({"paymentMethods": [{"name": "Cards", "type": "scheme"}]})

    def _stored(self, account: Account, request: Request, asked: dict[str, Any]) -> Response:
        reference = asked.get("shopperReference", "")
        _needs_shopper(reference)
        shopper = self.state["shoppers"].get((account.merchant, reference))
        return JSONResponse(
            {
                "merchantAccount": account.merchant,
                "shopperReference": reference,
                "storedPaymentMethods": [_shown(shopper, token) for token in shopper.tokens]
                if shopper
                else [],
            }
        )

    def _delete(self, account: Account, request: Request, asked: dict[str, Any]) -> Response:
        shopper = self.state["shoppers"].get((account.merchant, asked.get("shopperReference", "")))
        if shopper is None:
            raise Refusal(422, "800", "Contract not found")
        self._remove(account, shopper, request.path_params["id"], self.now())
        return Response(status_code=204)

    def _session(self, account: Account, request: Request, asked: dict[str, Any]) -> Response:
        _needs(asked, "amount", "reference", "returnUrl")
        if len(asked["returnUrl"]) > 1024:
            raise Refusal(422, "14_006", "The returnUrl is too long")
        one = self._open("CS", account, asked, SESSION_LASTS)
        said = asked | {
            "id": one.id,
            "expiresAt": _stamp(one.expires_at),
            "sessionData": "Ab02b4c0!" + one.result,
        }
        return JSONResponse(
            said | ({"url": f"{self.address}/{one.id}"} if asked.get("mode") == "hosted" else {}), 201
        )

    def _result(self, account: Account, request: Request, asked: dict[str, Any]) -> Response:
        one = self._hosted(account, request)
        if asked.get("sessionResult") != one.result:
            raise Refusal(422, "14_0408", "The sessionResult is invalid")
        return JSONResponse({"id": one.id, "reference": one.asked["reference"], "status": one.status})

    def _link(self, account: Account, request: Request, asked: dict[str, Any]) -> Response:
        _needs(asked, "amount", "reference")
        if asked["amount"]["value"] <= 0:
            raise Refusal(422, "137", "Invalid amount specified")
        return JSONResponse(self._told(self._open("PL", account, asked, LINK_LASTS)), 201)

    def _shown(self, account: Account, request: Request, asked: dict[str, Any]) -> Response:
        return JSONResponse(self._told(self._hosted(account, request)))

    def _told(self, one: Hosted) -> dict[str, Any]:
        more = {"id": one.id, "status": one.status, "expiresAt": _stamp(one.expires_at)}
        return {**one.asked, **more, "reusable": False, "url": f"{self.address}/{one.id}"}

    def _open(self, sort: str, account: Account, asked: dict[str, Any], lasts: timedelta) -> Hosted:
        if "shopperReference" in asked:
            _needs_shopper(asked["shopperReference"])
        expires = self.now() + lasts
        one = Hosted(
            sort + self._psp(), account.merchant, asked, "active", expires, self._psp() + self._psp()
        )
        self.state["hosted"][one.id] = one
        return one

    def _hosted(self, account: Account, request: Request) -> Hosted:
        one: Hosted | None = self.state["hosted"].get(request.path_params["id"])
        if one is None or one.merchant != account.merchant:
            raise Refusal(404, "173", "Not found")
        return one

    # The hosted pages

    async def _page(self, request: Request) -> Response:
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        with self._lock:
            one: Hosted | None = self.state["hosted"].get(request.path_params["id"])
            if one is None:
                return page("Adyen", "Page not found", "<p>This link does not exist.</p>", 404)
            if one.status == "active" and one.expires_at <= self.now():
                one.status = "expired"
            if one.id.startswith("CS"):
                return self._session_page(one, form)
            return self._link_page(one, form)

    def _session_page(self, one: Hosted, form: Mapping[str, str]) -> Response:
        account: Account = self.state["accounts"][one.merchant]
        shopper = self._shopper(one)
        if one.status != "active":
            return page("Adyen", "This page is no longer open", _continue(_returning(one)))
        if not form:
            return page("Adyen", "Save your payment details", _card_form(shopper))
        accepted = form.get("do") == "accept" and self.mode != "decline"
        one.status = {True: "completed", False: "canceled" if form.get("do") == "back" else "refused"}[
            accepted
        ]
        if one.status != "canceled":
            details = (STORED["card"], *CARDS)[int(form.get("card", "1"))]
            self._checked(account, one, shopper, details, accepted)
        return RedirectResponse(_returning(one), 303)

    def _checked(
        self, account: Account, one: Hosted, shopper: Shopper, details: Details, accepted: bool
    ) -> None:
        """A card is checked with the session's amount and stored."""
        now, psp, asked = self.now(), self._psp(), one.asked
        token = self._store(account, shopper, details, now, psp) if accepted else None
        about = _about(shopper, token) | {"checkoutSessionId": one.id}
        about |= {
            name: asked[name] for name in ("recurringProcessingModel", "shopperInteraction") if name in asked
        }
        amount, reference = asked["amount"], asked["reference"]
        said = (psp, reference, amount["value"], amount["currency"], now, details[1] or details[0], about)
        self._tell(account, self._authorisation(*said, ok=accepted))

    def _link_page(self, one: Hosted, form: Mapping[str, str]) -> Response:
        account: Account = self.state["accounts"][one.merchant]
        back = _continue(one.asked["returnUrl"]) if "returnUrl" in one.asked else ""
        if one.status == "completed":
            return page("Adyen", "Payment successful", back)
        if one.status != "active":
            return page("Adyen", "This payment link has expired", "<p>Ask the shop for a new one.</p>")
        amount, problem = one.asked["amount"], ""
        if form:
            ok = form.get("do") == "accept" and self.mode != "decline"
            shopper = self._shopper(one)
            about = _about(shopper, None) | {"shopperInteraction": "Ecommerce", "paymentLinkId": one.id}
            about |= {"cardSummary": "1142", "expiryDate": "8/2029"}
            said = (
                self._psp(),
                one.asked["reference"],
                amount["value"],
                amount["currency"],
                self.now(),
                "visa",
            )
            self._tell(account, self._authorisation(*said, about, ok))
            if ok:
                one.status = "completed"
                self._settled(shopper)
                return page("Adyen", "Payment successful", back)
            problem = '<p role="alert">The payment was refused. Try again.</p>'
        shown = html.escape(f"{_major(amount)} {amount['currency']}")
        return page("Adyen", f"Pay {shown}", problem + _form(_buttons(f"Pay {shown}")))

    def _settled(self, shopper: Shopper) -> None:
        """The merchant counts the payment for the renewal that was refused."""
        one = self.state["contracts"].get(shopper.reference)
        if one is not None:
            one.refused, one.fails, one.next_at = 0, False, self.now() + PERIOD
            one.payments += 1

    def _shopper(self, one: Hosted) -> Shopper:
        reference = one.asked.get("shopperReference", one.id)
        fresh = Shopper(one.merchant, reference, one.asked.get("shopperEmail", ""))
        found: Shopper = self.state["shoppers"].setdefault((one.merchant, reference), fresh)
        return found


def _managed(status: int, code: str, title: str, detail: str) -> Response:
    """An error of the Management API has a shape of its own."""
    said = {"type": "https://docs.adyen.com/errors/general", "errorCode": code, "title": title}
    return JSONResponse({**said, "detail": detail, "status": status}, status)


def _credentials(merchant: str, seed: str) -> dict[str, str]:
    def secret(what: str) -> str:
        return hashlib.sha256(f"{merchant} {seed} {what}".encode()).hexdigest()

    return {
        "api_key": f"AQE{secret('api')}-{secret('more')}=-<x&{seed}",
        "merchant_account": merchant,
        "hmac_key": secret("hmac").upper(),
        "token_hmac_key": secret("tokens").upper(),
        "webhook_username": "adyen",
        "webhook_password": f"Sea: salt & {secret('password')[:12]}",
        "currency": "EUR",
        "country": "NL",
    }


def _hook_id(merchant: str, number: int) -> str:
    return f"S2-{hashlib.sha256(f'{merchant} webhook {number}'.encode()).hexdigest()[:12].upper()}"


def signature(item: Mapping[str, Any], key: str) -> str:
    """The signature of an item, over its eight fields."""
    amount = item["amount"]
    names = ("pspReference", "originalReference", "merchantAccountCode", "merchantReference")
    fields = [item.get(name, "") for name in names]
    fields += [str(amount["value"]), amount["currency"], item["eventCode"], item["success"]]
    return _hmac(key, ":".join(fields).encode())


def _hmac(key: str, message: bytes) -> str:
    return base64.b64encode(hmac.new(bytes.fromhex(key), message, hashlib.sha256).digest()).decode()


def _headers(hook: Hook) -> dict[str, str]:
    login = base64.b64encode(f"{hook.user}:{hook.password}".encode()).decode()
    return {"Content-Type": "application/json", "Authorization": f"Basic {login}"}


def _about(shopper: Shopper, token: Token | None) -> dict[str, str]:
    """What an account with all additional settings is told of the shopper and the method."""
    about = {"shopperReference": shopper.reference, "shopperEmail": shopper.email}
    if token is None:
        return about
    about |= {
        "tokenization.shopperReference": shopper.reference,
        "tokenization.storedPaymentMethodId": token.id,
    }
    if token.details[0] == "scheme":
        about |= {
            "cardSummary": token.details[2],
            "expiryDate": f"{int(token.details[3])}/20{token.details[4]}",
        }
    return about


def _shown(shopper: Shopper, token: Token) -> dict[str, Any]:
    """A stored method as the list shows it; the year has two digits."""
    sort, brand, last4, month, year, label = token.details
    said: dict[str, Any] = {
        "id": token.id,
        "type": sort,
        "name": label,
        "shopperReference": shopper.reference,
        "shopperEmail": shopper.email,
        "supportedRecurringProcessingModels": list(ALL_MODELS),
        "createdAt": _stamp(token.created_at),
        "firstPspReference": token.first_psp,
    }
    if sort == "scheme":
        said |= {"brand": brand, "lastFour": last4, "expiryMonth": month, "expiryYear": year}
    elif last4:
        said |= {"iban": f"NL13TEST012345{last4}", "ownerName": "A. Shopper"}
    return said


def _asked(raw: bytes) -> dict[str, Any]:
    try:
        said = json.loads(raw)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise Refusal(400, "702", "Structure of the request is invalid")
    return said


def _needs(asked: Mapping[str, Any], *names: str) -> None:
    codes = {"amount": "100", "reference": "130", "returnUrl": "14_004"}
    for name in names:
        if not asked.get(name):
            raise Refusal(422, codes[name], f"Required field '{name}' is not provided.")


def _needs_shopper(reference: str) -> None:
    if not 3 <= len(reference) <= 256:
        raise Refusal(422, "172", "Shopper reference must have 3 to 256 characters")


def _stamp(at: datetime) -> str:
    return at.astimezone(AMSTERDAM).isoformat(timespec="seconds")


def _told_at(delivery: Delivery) -> str:
    said = json.loads(delivery.body)
    return str(said["createdAt"] if "createdAt" in said else _first(said)["eventDate"])


def _first(said: Any) -> dict[str, Any]:
    found: dict[str, Any] = said["notificationItems"][0]["NotificationRequestItem"]
    return found


def _body(*items: Mapping[str, Any]) -> bytes:
    listed = [{"NotificationRequestItem": item} for item in items]
    return json.dumps({"live": "false", "notificationItems": listed}).encode()


def _major(amount: Mapping[str, Any]) -> str:
    decimals = EXPONENTS.get(amount["currency"], 2)
    return f"{amount['value'] / 10**decimals:.{decimals}f}"


def _returning(one: Hosted) -> str:
    """The shop's address with what Adyen adds to it."""
    url = str(one.asked["returnUrl"])
    glue = "&" if urlsplit(url).query else "?"
    return url + glue + urlencode({"sessionId": one.id, "sessionResult": one.result})


def _continue(url: str) -> str:
    return f'<p><a class="button" data-test="back" href="{html.escape(url)}">Continue</a></p>'


def _card_form(shopper: Shopper) -> str:
    """All cards there are, the first that is not stored yet chosen."""
    stored = [token.details for token in shopper.tokens]
    cards = (STORED["card"], *CARDS)
    fresh = next((number for number, card in enumerate(cards) if number and card not in stored), 0)
    choices = "".join(
        f'<label><input type="radio" name="card" value="{number}"{" checked" if number == fresh else ""}>'
        f" {html.escape(card[5])} ending {card[2]}</label>"
        for number, card in enumerate(cards)
    )
    back = '<button name="do" value="back" data-test="back">Cancel and go back</button>'
    return _form(choices + _buttons("Save") + back)


def _form(fields: str) -> str:
    return f'<form method="post">{fields}</form>'


def _buttons(label: str) -> str:
    return (
        f'<button name="do" value="accept" data-test="accept">{label}</button>'
        '<button name="do" value="decline" data-test="decline">Have it refused</button>'
    )
