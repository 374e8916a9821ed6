"""A stand-in for Stripe, API version 2026-10-28.endive: its calls, pages, files, webhooks, and time.

Written from Stripe's documents. Several accounts live side by side, each found by its secret or restricted key:

    simulator = Simulator(clock)
    shop = simulator.add_account("sk_test_shop", webhook_url=…, webhook_secret="whsec_…")
    anna = shop.customer("anna@example.com", "Anna", at)
    shop.subscription(anna, shop.price(shop.product("Tea"), 1200, "EUR"), started_at, shop.card(anna))
"""

import base64
import binascii
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from seeds.simulators._stripe import billing, demo, pages
from seeds.simulators._stripe.books import DAY, Books, event_of, new_account, signature
from seeds.simulators._stripe.contract import Validator, validator
from seeds.simulators._stripe.crowd import Crowd, crowd
from seeds.simulators._stripe.endpoints import Endpoint, answer, endpoint_for
from seeds.simulators._stripe.shapes import webhook_endpoint
from seeds.simulators._stripe.wire import API_VERSION, Json, Refusal, decode
from seeds.simulators._stripe.world import Account
from seeds.simulators.harness import Delivery, Forgery, Harness, Sample, Situation, Standing

__all__ = ["API_VERSION", "Account", "Simulator", "event", "sign", "validator"]

KEYS_KEPT_S = DAY  # idempotency keys: at least 24 hours
PAGES = ("/c/pay/", "/p/session/", "/i/", "/receipts/")


class Simulator(Harness):
    """Stripe's side of the wire, for any number of accounts."""

    name = "stripe"
    STATUS_FIELDS = ("status", "payment_status")

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(clock)
        self.validator: Validator | None = None
        self.lock = threading.RLock()  # builders may run while requests are answered
        self.quiet = False  # what happens now is told in events and sent to nobody
        self.state = {"counter": 0, "opened": 0, "accounts": {}, "keys": {}, "limited": 0}
        self.crowds: dict[str, Crowd] = {}

    # Accounts

    def add_account(
        self,
        secret_key: str,
        *,
        webhook_secret: str | None = None,
        webhook_url: str | None = None,
        permissions: set[str] | None = None,
        name: str = "Simulated Shop",
        country: str = "US",
        currency: str = "usd",
    ) -> Account:
        """A new account behind a key. `permissions` limits the key, in words such as "customer_read" or
        "subscription_write" (which reads too); None allows everything."""
        with self.lock:
            self.state["opened"] += 1
            account_id = f"acct_Sim{self.state['opened']:013d}"
            created = int(self.now().timestamp())
            self.state["accounts"][account_id] = new_account(name, account_id, country, currency, created)
            account = Account(self, account_id, secret_key, webhook_secret)
            self.add_key(account, secret_key, permissions)
            if webhook_url:
                self.add_endpoint(account, webhook_url, webhook_secret or f"whsec_{account_id}")
            return account

    def add_key(self, account: Account, secret_key: str, permissions: set[str] | None = None) -> Account:
        """One more key of an account, with a handle that carries it."""
        if not secret_key.startswith(("sk_", "rk_")):
            raise ValueError("a key begins with sk_ or rk_")
        allowed = None if permissions is None else sorted(one.removeprefix("rak_") for one in permissions)
        self.state["keys"][secret_key] = {"account": account.id, "permissions": allowed}
        return Account(self, account.id, secret_key, account.webhook_secret)

    def add_endpoint(self, account: Account, url: str, secret: str, events: tuple[str, ...] = ("*",)) -> str:
        """Send the account's events to an address from now on; the endpoint's id."""
        with self.lock:
            books = account.books
            one_id = books.new_id("webhook_endpoint")
            books.put(webhook_endpoint(one_id, books.now, url, list(events), API_VERSION, secret))
            return one_id

    def crowd(self, account: Account, people: int) -> Crowd:
        """Let the lists of an account, which is empty, show so many people and what they bought; nothing is kept."""
        with self.lock:
            self.crowds[account.id] = crowd(self, account, people)
            return self.crowds[account.id]

    def limit(self, calls: int) -> None:
        """Answer the next calls with 429."""
        self.state["limited"] = calls

    # What demo and tests ask of every simulator

    def samples(self) -> list[Sample]:
        return list(demo.SAMPLES)

    def open(self, sample: Sample, webhook_url: str) -> None:
        """An account without customers; its catalogue and the settings of its portal are there."""
        key = sample.credentials["secret_key"]
        with self.lock:
            if known := self.state["keys"].get(key):
                del self.state["accounts"][known["account"]]
                keys = self.state["keys"].items()
                self.state["keys"] = {name: one for name, one in keys if one["account"] != known["account"]}
            shop = self.add_account(
                key,
                webhook_secret=sample.credentials["webhook_secret"],
                webhook_url=webhook_url,
                permissions=demo.PERMISSIONS if key.startswith("rk_") else None,
                name=sample.label,
            )
            demo.furnish(shop)

    def account(self, sample: Sample) -> Account:
        """The handle of a sample's account; KeyError where it was not opened."""
        key = sample.credentials["secret_key"]
        return Account(self, self.state["keys"][key]["account"], key, sample.credentials["webhook_secret"])

    def registered(self, sample: Sample) -> list[str]:
        with self.lock:
            ones = self.account(sample).books.all("webhook_endpoint")
            return [str(one["url"]) for one in ones if one["status"] == "enabled"]

    def fill(self, sample: Sample) -> None:
        with self._quietly():
            demo.fill(self.account(sample), self.now())

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        with self.lock:
            self.quiet = True
            try:
                yield
            finally:
                self.quiet = False

    def plans(self, sample: Sample) -> list[dict[str, Any]]:
        return demo.plans(self.account(sample))

    def stage(self, sample: Sample, email: str, situation: Situation) -> str | None:
        with self.lock:
            return demo.stage(self.account(sample), email, situation, self.now())

    def standing(self, remote_id: str) -> Standing:
        with self.lock:
            return demo.standing(*self._subscription(remote_id))

    def charge(self, remote_id: str, succeeds: bool = True) -> None:
        with self.lock:
            demo.charge(*self._subscription(remote_id), succeeds)

    def _subscription(self, remote_id: str) -> tuple[Books, Json]:
        for account_id in self.state["accounts"]:
            books = Books(self, account_id)
            if books.objects.get(remote_id, {}).get("object") == "subscription":
                return books, books.objects[remote_id]
        raise KeyError(remote_id)

    def proof_of(self, delivery: Delivery) -> str | None:
        return delivery.headers.get(demo.HEADER)

    def with_proof(self, delivery: Delivery, proofs: list[str]) -> tuple[list[tuple[str, str]], bytes]:
        return demo.with_proof(delivery, proofs)

    def forgeries(self, sample: Sample, delivery: Delivery) -> list[Forgery]:
        return super().forgeries(sample, delivery) + demo.forgeries(sample, delivery, self.now())

    def changes(self, method: str, path: str) -> bool:
        """A preview is a POST without effect."""
        return method in ("POST", "DELETE") and path != "/v1/invoices/create_preview"

    # The harness

    def save(self) -> None:
        with self.lock:
            super().save()

    def reset(self) -> None:
        with self.lock:
            super().reset()

    def tick(self) -> None:
        """Let everything fall due that is due by now: renewals, ends, retries, resumptions, expiries."""
        with self.lock:
            for account_id in list(self.state["accounts"]):
                books = Books(self, account_id)
                for subscription in books.all("subscription"):
                    billing.advance(books, subscription, books.now)
                for session in books.all("checkout.session"):
                    if session["status"] == "open" and session["expires_at"] <= books.now:
                        books.change(
                            session, "checkout.session.expired", session["expires_at"], status="expired"
                        )

    def is_page(self, method: str, path: str) -> bool:
        return path.startswith(PAGES)

    def outage(self) -> Response:
        """503 while the switch says so, a single 500 otherwise; both in Stripe's shape."""
        status = 503 if self.mode == "down" else 500
        message = "An error occurred while processing your request. Nothing was done."
        body = {"error": {"message": message, "type": "api_error"}}
        return _json(status, body, {"Stripe-Should-Retry": "false"})

    def refused_keys(self) -> Response:
        return _json(401, Refusal(401, "Invalid API Key provided: sk_test_****0001").body(), {})

    def limited(self, retry_after: int | None) -> Response:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return _json(429, _too_many().body(), headers)

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/c/pay/{session}", self._checkout_page, methods=["GET", "POST"]),
            Route("/p/session/{secret}", self._portal_page, methods=["GET", "POST"]),
            Route("/i/{account}/{token}", self._invoice_page, methods=["GET", "POST"]),
            Route("/invoice/{account}/{token}/pdf", self._invoice_file, methods=["GET"]),
            Route("/credit_notes/{account}/{token}/pdf", self._credit_note_file, methods=["GET"]),
            Route("/receipts/{account}/{token}", self._receipt_page, methods=["GET"]),
            Route("/{path:path}", self._call, methods=["GET", "POST", "DELETE"]),
        ]

    # Calls

    async def _call(self, request: Request) -> Response:
        body = await request.body()
        with self.lock:
            request_id = f"req_Sim{len(self.calls):011d}"
            if self.crowds and (page := self._of_crowd(request)) is not None:
                return Response(page, headers={"Request-Id": request_id}, media_type="application/json")
            status, sent, headers = self._answer(request, body, request_id)
        return _json(
            status,
            sent,
            {"Request-Id": request_id, "Stripe-Version": API_VERSION} | headers,
        )

    def _of_crowd(self, request: Request) -> str | None:
        try:
            books, _ = self._authenticate(request)
        except Refusal:
            return None  # and is refused as always
        found = self.crowds.get(books.id)
        asked = request.method == "GET" and found is not None
        return found.page(request.url.path, _parameters(request, b"")) if asked and found else None

    def _answer(self, request: Request, body: bytes, request_id: str) -> tuple[int, Json, dict[str, str]]:
        path = request.url.path
        where = f"{request.method} {path}"
        try:
            books, permissions = self._authenticate(request)
            self._check_headers(request, where)
            endpoint, object_id = endpoint_for(request.method, path)
            _check_permission(books, endpoint, permissions)
            params = _parameters(request, body)
            if self.validator:
                self.problems += self.validator.request(request.method, path, params)
            key = request.headers.get("idempotency-key") if request.method == "POST" else None
            books.request = {"id": request_id, "idempotency_key": key}
            return self._once(books, key, f"{where}\n".encode() + body, where, endpoint, params, object_id)
        except Refusal as refusal:
            return refusal.status, refusal.body(), {}

    def _once(
        self,
        books: Books,
        key: str | None,
        asked: bytes,
        where: str,
        endpoint: Endpoint,
        params: Json,
        object_id: str,
    ) -> tuple[int, Json, dict[str, str]]:
        """Do a call, or give again what the same key got before."""
        if key is None:
            return 200, self._checked(where, answer(endpoint, books, params, object_id)), {}
        if not 0 < len(key) <= 255:
            raise Refusal(400, "Idempotency keys may be up to 255 characters long.")
        replays: Json = books.state["replays"]
        fingerprint = hashlib.sha256(asked).hexdigest()
        known = replays.get(key)
        if known and known["at"] > books.now - KEYS_KEPT_S:
            if known["fingerprint"] != fingerprint:
                raise Refusal(
                    400,
                    "Keys for idempotent requests can only be used with the same parameters they were first used "
                    f"with. Try using a key other than '{key}'.",
                    type="idempotency_error",
                )
            return known["status"], json.loads(known["body"]), {"Idempotent-Replayed": "true"}
        status = 200
        try:
            sent = self._checked(where, answer(endpoint, books, params, object_id))
        except Refusal as refusal:
            if refusal.status != 402:  # what is wrong before anything is done is not kept
                raise
            status, sent = refusal.status, refusal.body()
        replays[key] = {
            "at": books.now,
            "fingerprint": fingerprint,
            "status": status,
            "body": json.dumps(sent),
        }
        return status, sent, {"Idempotency-Key": key}

    def _checked(self, where: str, sent: Json) -> Json:
        if self.validator:
            self.problems += self.validator.answer(where, sent)
        return sent

    def _authenticate(self, request: Request) -> tuple[Books, list[str] | None]:
        key = _key_of(request.headers.get("authorization", ""))
        if not key:
            raise Refusal(401, "You did not provide an API key: send it as a Bearer token.")
        known = self.state["keys"].get(key)
        if known is None:
            raise Refusal(401, f"Invalid API Key provided: {_masked(key)}")
        if self.state["limited"] > 0:
            self.state["limited"] -= 1
            raise _too_many()
        return Books(self, known["account"]), known["permissions"]

    def _check_headers(self, request: Request, where: str) -> None:
        version = request.headers.get("stripe-version")
        if version is None:
            self.problems.append(f"{where}: sent without Stripe-Version")
        elif version != API_VERSION:
            raise Refusal(400, f"Invalid Stripe API version: {version}. This simulator speaks {API_VERSION}.")

    # Pages

    async def _checkout_page(self, request: Request) -> Response:
        form = await _form(request)
        with self.lock:
            found = self._session(request.path_params["session"])
            if not found:
                return HTMLResponse(pages.note("Page not found", "There is no such Checkout page."), 404)
            books, session = found
            if session["status"] == "open" and session["expires_at"] <= books.now:
                books.change(session, "checkout.session.expired", status="expired")
            if session["status"] != "open":
                words = "is complete" if session["status"] == "complete" else "has expired"
                return HTMLResponse(pages.note("Nothing to do here", f"This Checkout page {words}."), 410)
            if form.get("action") == "back" and session["cancel_url"]:
                return RedirectResponse(session["cancel_url"], 303)
            problem = ""
            if (card := pages.chosen(form)) is not None:
                problem = pages.try_card(books, card) or ""
                if not problem:
                    pages.complete_setup(books, session, card)
                    target = session["success_url"].replace("{CHECKOUT_SESSION_ID}", session["id"])
                    return RedirectResponse(target, 303)
                pages.refuse_setup(books, session, problem)
            back = "Back" if session["cancel_url"] else None
            intro = pages.checkout_intro(books, session)
            page = pages.card_form("Save a card", intro, "Save card", back, problem)
            return HTMLResponse(page, 402 if problem else 200)

    def _session(self, session_id: str) -> tuple[Books, Json] | None:
        for account_id in self.state["accounts"]:
            books = Books(self, account_id)
            session = books.objects.get(session_id)
            if session and session["object"] == "checkout.session" and session["mode"] == "setup":
                return books, session
        return None

    async def _portal_page(self, request: Request) -> Response:
        form = await _form(request)
        with self.lock:
            found = self._portal_session(request.path_params["secret"])
            if not found:
                return HTMLResponse(pages.note("Page not found", "There is no such portal page."), 404)
            books, session = found
            late = books.now - session["created"] > pages.PORTAL_LINK_LIVES_S
            if session.get("_used") or (request.method == "GET" and (session["_opened"] or late)):
                sentence = "This link was used or is too old. Go back and open the portal again."
                return HTMLResponse(pages.note("The link has expired", sentence), 410)
            session["_opened"] = True
            flow = session["flow"] or {}
            after = (flow.get("after_completion") or {}).get("redirect") or {}
            if form.get("action") == "back" and session["return_url"]:
                return RedirectResponse(session["return_url"], 303)
            problem = ""
            if (card := pages.chosen(form)) is not None:
                problem = pages.try_card(books, card) or ""
                if not problem:
                    pages.complete_portal(books, session, card)
                    target = after.get("return_url") or session["return_url"]
                    if target:
                        return RedirectResponse(target, 303)
                    return HTMLResponse(pages.note("Saved", "The payment method is saved."))
            back = "Back" if session["return_url"] else None
            intro = pages.portal_intro(books, session)
            page = pages.card_form("Update payment method", intro, "Save card", back, problem)
            return HTMLResponse(page, 402 if problem else 200)

    def _portal_session(self, secret: str) -> tuple[Books, Json] | None:
        for account_id in self.state["accounts"]:
            books = Books(self, account_id)
            session = books.objects.get(secret.replace("test_", "bps_", 1))
            if session and session["object"] == "billing_portal.session":
                return books, session
        return None

    async def _invoice_page(self, request: Request) -> Response:
        form = await _form(request)
        with self.lock:
            found = self._linked(request, "invoice")
            if isinstance(found, Response):
                return found
            books, invoice = found
            problem = ""
            card = pages.chosen(form)
            if card is not None and invoice["status"] == "open":
                problem = pages.pay_invoice(books, invoice, card) or ""
            title = f"Invoice from {books.account['business_profile']['name']}"
            intro = pages.invoice_intro(invoice)
            if invoice["status"] != "open":
                return HTMLResponse(pages.document(title, intro))
            page = pages.card_form(title, intro, "Pay", None, problem)
            return HTMLResponse(page, 402 if problem else 200)

    async def _invoice_file(self, request: Request) -> Response:
        with self.lock:
            found = self._linked(request, "invoice")
            if isinstance(found, Response):
                return found
            books, invoice = found
            return _file(pages.invoice_pdf(books, invoice), f"Invoice-{invoice['number']}.pdf")

    async def _credit_note_file(self, request: Request) -> Response:
        with self.lock:
            found = self._linked(request, "credit_note")
            if isinstance(found, Response):
                return found
            books, credit = found
            return _file(pages.credit_note_pdf(books, credit), f"Credit-note-{credit['number']}.pdf")

    async def _receipt_page(self, request: Request) -> Response:
        with self.lock:
            found = self._linked(request, "charge")
            return found if isinstance(found, Response) else HTMLResponse(pages.receipt(found[1]))

    def _linked(self, request: Request, kind: str) -> tuple[Books, Json] | Response:
        account_id = request.path_params["account"]
        if account_id in self.state["accounts"]:
            books = Books(self, account_id)
            found = books.linked(request.path_params["token"])
            if found and found["object"] == kind:
                return books, found
        return HTMLResponse(pages.note("The link has expired", "Ask the shop for a fresh link."), 404)


def sign(secret: str, body: bytes, at: datetime) -> str:
    """A Stripe-Signature header for a body, as it would be sent at a moment."""
    return signature(secret, body, int(at.timestamp()))


def event(type: str, obj: Json, *, event_id: str = "evt_Simforged", at: datetime | None = None) -> bytes:
    """The body of a webhook around an object, for tests that make up a delivery."""
    created = int((at or datetime.now(UTC)).timestamp())
    return json.dumps(event_of(type, obj, event_id, created), indent=2).encode()


def _too_many() -> Refusal:
    return Refusal(429, "Too many requests hit the API too quickly.", code="rate_limit")


def _parameters(request: Request, body: bytes) -> Json:
    pairs = list(request.query_params.multi_items())
    if body:
        content_type = request.headers.get("content-type", "").partition(";")[0].strip()
        if content_type != "application/x-www-form-urlencoded":
            raise Refusal(400, f"Invalid request: {content_type or 'no content type'} instead of a form.")
        pairs += parse_qsl(body.decode(errors="replace"), keep_blank_values=True)
    return decode(pairs)


def _key_of(header: str) -> str:
    scheme, _, rest = header.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _masked(key: str) -> str:
    return key[:8] + "*" * max(len(key) - 12, 4) + key[-4:]


def _check_permission(books: Books, endpoint: Endpoint, permissions: list[str] | None) -> None:
    if permissions is None:
        return
    needed = f"{endpoint.permission}_{'read' if endpoint.method == 'GET' else 'write'}"
    if needed in permissions or f"{endpoint.permission}_write" in permissions:
        return
    raise Refusal(
        403,
        "The provided key does not have the required permissions for this endpoint on account "
        f"'{books.id}'. Having the 'rak_{needed}' permission would allow this request to continue.",
    )


async def _form(request: Request) -> dict[str, str]:
    if request.method != "POST":
        return {}
    return dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))


def _json(status: int, body: Any, headers: dict[str, str]) -> Response:
    return Response(json.dumps(body, indent=2), status, headers, "application/json")


def _file(content: bytes, name: str) -> Response:
    safe = name.encode("ascii", "replace").decode()
    disposition = {"Content-Disposition": f'inline; filename="{safe}"'}
    return Response(content, headers=disposition, media_type="application/pdf")
