"""A stand-in for Midtrans: subscriptions with retries, Snap's page, GoPay links, invoices, the report of BI-SNAP.

Written from Midtrans's documents. Several merchants live side by side, each found by its server key. Amounts are kept
in whole rupiah and told as text ("150000.00" in transactions, "150000" in subscriptions) or numbers (invoices), times
in Jakarta's without a zone. Where the documents are silent the choice stands in `HABITS`, so that a test can turn it.
"""

import base64
import binascii
import calendar
import copy
import hashlib
import hmac
import html
import json
import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode, urlsplit
from zoneinfo import ZoneInfo

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_private_key
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from seeds.simulators.harness import Delivery, Forgery, Harness, Sample, Situation, Standing, page

Json = dict[str, Any]
WIB = ZoneInfo("Asia/Jakarta")
RETRY_EVERY, RETRIES = timedelta(hours=1), 3  # what holds where a merchant chose nothing
UPDATED = {"status_message": "Subscription is updated."}
NO_SUCH = {"status_message": "Subscription doesn't exist."}
CARDS = {"4": "48111111", "5": "52111111"}

# UNVERIFIED in life: what enable does with the next date ("keep", "sooner": in an hour, "charge": at once), whether a
# page of Snap saves a card that can be charged later, whether PATCH minds names over 15 characters.
HABITS: Json = {"enable": "keep", "saves_card": True, "short_names": False}

# A key pair of nobody, for the report of the first account.
PRIVATE_KEY = (
    "MIIEvAIBADANBgkqhkiG9w0BAQEFAASCBKYwggSiAgEAAoIBAQC+xr2aUtWqIvrzeffaBPym4770UBRveE8k1f08OMbQ4IvW4IJn"
    "V2VNkb6JEAzX00AWb05Az3Et4M5kbPtM5k8W4eVrRF9KV2HdH37/GbKvyJGHbnJAH21g9wpVVv0rlF12X2/rHWAyu+BxUN4M+vpw"
    "Ws87QYrDqz7CB6fnSztxVP0Mi9J+9iiOqU6otagcGPR4nJ36llRsLLaZ30ptOqqNWy0crxRRSI/8epGrJHLRs7iZM7PG2Mv7gv3I"
    "g2LDEl9KHVy6wxG9X6O8uVjDBlgojBhktk7SSgWBBjgqdKHeclxpouyITpu5FaFWv9TH1k6b7c6AhUl0cySP8jly7J/ZAgMBAAEC"
    "ggEAHGgeamDENPHBeUijicCtWDJYSCu2Z0S8UClW7EUuAYM1/1htwnKGgI7flqwfpXFsvQp01fythx3OzbBWmQRAKZGYZikHoVuy"
    "lEjw0Y5jh34vgUGGXJrxX/tY/A0YZIlSg2JBmXpFzTgheu4GKluit+Els1aWkX0pup2GOFAA+WZi+QXhQv5ZddwbX4oG3P1HFN6X"
    "eHre50jXTXUBgv6hL2+LfMCDPLTwlHaSzWoT892WdBPKvs4BEPfZ6BQAr5V5v3MtGVHKzBR0kwl4qCXDEDAJAqV32mzm8CGmBrV+"
    "6JFq4jK7YrNZ4SdwcovhgHCZNuiQVzshhiqYiJ+4fc0laQKBgQDeYkdlZvjrMfMuWsFmb+Xj/vwFuV9Ruq0ujXwf6m82uoxXynjY"
    "Yy+xC7MS/pp/aD/wBb2JbyUqrUh1CaDN5Aza+8pSHZDPKw2uJTn6x2pINCylUpv74Sw6+e/IPGj1VHWUm8HQf+c/qbrqNGDY5+9W"
    "DjmSZPrlFBO5KeCi0TNbRQKBgQDbnVMsz84B5foGjW3F2ZRto8D792/tX+EUHVN+Cdq6j3yUfYKjuv1UzBnLq3QMn7PCPH2vmz8a"
    "pkif9tSa8SUKc/9rt7VLI+IpO5LyA/5NKKP+FzFUsG5OMWS9fjl83vm9GQ/G2rLe6alZBZWPvqKuU1cZZJNUvyAItym7vQ4xhQKB"
    "gD5YJRXrgVtGfJuBO/kA491ATd04890QzZ5gcezsp1Mbh17RV4GqhONImWJ42E1hp5MduN4/t5a4T7joAxnVljkKH9VXjpJVypcI"
    "vrFsmII3hlCu0SYTIXhDO5LSRMaKcBBCflp6kRUK+2jPWFtW4oUopcFB6Aiy0Ti24dAjgBdVAoGAJxpTFfaGMrZVF1eVRRYhpIf0"
    "s6hyCGz68Y7rL9TnWjJ0NyhF24tO0gtpSGdlyV2iLyKAKoVU7hTPd5QGdPQc6UiQIQjbwd5IxZiy6F6np+tlj7dndDHZ4hhPXKId"
    "8ErvYqkUsw57rM8j9RLWd3q1Ep8KMh5DUWKafJLIXoIiBdUCgYAslFb6nWZtcTxalSNRWT7FQ4FqA8MJf9Z5u/H4d497+XKdGxHa"
    "HsaBcG8Bip5sWyJWBM2UK5w8yG03mAtCJnVDFf3lcBpPVcipXzV/nMY0qn0dK/2DoKdWkITxO3yLTPZAPBBBAFOgxRlE5Gg+Xw5/"
    "6qkEwglmqrqpDfQhA0ssmw=="
)
PEM = f"-----BEGIN PRIVATE KEY-----\n{PRIVATE_KEY}\n-----END PRIVATE KEY-----"


class Refusal(Exception):
    def __init__(self, status: int, body: Json) -> None:
        super().__init__(str(body))
        self.status, self.body = status, body


class Simulator(Harness):
    """Midtrans's side of the wire, for any number of merchants."""

    name = "midtrans"
    STATUS_FIELDS = ("status", "transaction_status", "account_status")

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(clock)
        self.lock = threading.RLock()  # the clock is moved from another thread than the one that serves
        self.state = {"count": 0, "habits": dict(HABITS), "merchants": {}, "external": []} | {
            name: {} for name in ("subs", "sales", "pages", "links", "invoices", "bearers", "once")
        }

    def routes(self) -> list[BaseRoute]:
        def route(path: str, handler: Callable[..., Any], *methods: str) -> Route:
            return Route(path, self._call(handler), methods=list(methods))

        return [
            route("/v1/subscriptions/{id}", self._subscription, "GET", "PATCH"),
            route("/v1/subscriptions/{id}/{verb}", self._verb, "POST"),
            route("/v1/invoices/{id}", self._invoice, "GET"),
            route("/v2/pay/account", self._link, "POST"),
            route("/v2/pay/account/{id}", self._linked, "GET"),
            route("/v2/{id}/status", self._status, "GET"),
            route("/snap/v1/transactions", self._snap, "POST"),
            Route("/v1.0/access-token/b2b", self._access_token, methods=["POST"]),
            Route("/v1.0/transaction-history-list", self._history, methods=["POST"]),
            Route("/snap/v3/redirection/{token}", self._snap_page, methods=["GET", "POST"]),
            Route("/v2/gopay/redirect/{id}/link", self._gopay_page, methods=["GET", "POST"]),
            Route("/payment-links/{id}", self._invoice_page, methods=["GET", "POST"]),
            Route("/invoices/pdf/{id}", self._file, methods=["GET"]),
        ]

    def is_page(self, method: str, path: str) -> bool:
        return path.startswith(("/snap/v3/", "/v2/gopay/redirect/", "/payment-links/"))

    def changes(self, method: str, path: str) -> bool:
        return method != "GET" and not path.startswith("/v1.0/")  # the report is asked by POST

    def refused_keys(self) -> Response:
        return JSONResponse(_unauthorized(), 401)

    def limited(self, retry_after: int | None) -> Response:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return JSONResponse({"status_code": "429", "status_message": "API rate limit exceeded"}, 429, headers)

    def outage(self) -> Response:
        if self.mode == "down":
            return Response("<html><h1>503 Service Temporarily Unavailable</h1></html>", 503)
        return JSONResponse({"status_message": "Sorry, our system is recovering. Please retry."}, 500)

    # What demo and tests ask

    def samples(self) -> list[Sample]:
        report = {"bisnap_client_id": "G100200300-SNAP", "bisnap_partner_id": "G100200300"}
        report |= {"bisnap_client_secret": "sim0client0secret0of0the0report", "bisnap_channel_id": "12345"}
        more = {"environment": "sandbox", "signature_key_secret": "sim-signature-key-003"}
        third = _keys("SB-Mid-server-SimKelasDaring003", "M300400500") | more
        return [
            Sample(
                "Kopi", _keys("Mid-server-SimKopi001", "G100200300") | report | {"bisnap_private_key": PEM}
            ),
            Sample("Toko Tetangga", _keys("SB-Mid-server-SimTokoTetangga002", "G200300400")),
            Sample("Kelas Daring (customers may undo)", third, options=("undo_by_enable",)),
        ]

    def open(self, sample: Sample, webhook_url: str) -> None:
        keys = sample.credentials
        self.state["merchants"][keys["merchant_id"]] = {**keys, "url": webhook_url}

    def fill(self, sample: Sample) -> None:
        with self.lock:
            whose, at, mine = sample.credentials["merchant_id"], self.now(), f"{self.name}@example.com"
            days = timedelta(days=1)

            def sub(
                name: str, price: int, ago: float, wallet: bool = False, email: str = mine, **more: Any
            ) -> None:
                self._run(self._create(whose, email, name, price, at - ago * days, wallet, **more), at)

            sub("Kopi-Bulanan", 149_000, 75, email="noor@example.com")
            listed = (
                "bisnap_client_id" in sample.credentials
            )  # else the shop hands the address on by agreement

            def sell(number: str, price: int, ago: float, email: str = mine, **more: Any) -> Json:
                field = {} if listed else {"custom_field1": email}
                return self._sell(whose, number, price, at - ago * days, email=email, more=field, **more)

            sell("KN-1001", 325_000, 20, "noor@example.com")
            sub("Langganan-Teh", 99_000, 40)
            sub("Majalah-Digital", 59_000, 10, True, unit="week")
            sub("Kelas-Memasak", 250_000, -9)
            sub("Kotak-Sayur", 180_000, 29, unit="day", interval=7, most=3)
            for name, ago in (("Kotak-Buah", 0.02), ("Kotak-Ikan", 2)):  # still tried, and given up
                one = self._create(whose, mine, name, 210_000, at - ago * days)
                one["fails"] = True
                self._run(one, at)
            for name, ago in (("Jeda-Yoga", 12), ("Akhir-Gym", 100)):
                one = self._create(whose, mine, name, 300_000, at - ago * days)
                self._run(one, at - max(0, ago - 40) * days)
                one["status"] = "inactive"
            sold = [("KN-2001", "settlement", 60), ("KN-2002", "deny", 50), ("KN-2003", "expire", 45)]
            for number, word, ago in [*sold, ("KN-2004", "pending", 1), ("KN-2005", "capture", 30)]:
                sell(number, 120_000, ago, word=word)
            sell("KN-2006", 88_000, 8, kind="dana")
            self._refund(sell("KN-2007", 150_000, 15), 50_000, at - 14 * days)
            for number, word in (("INV-1", "paid"), ("INV-2", "published")):
                self._bill(whose, mine, number, word, at - 5 * days)

    def past_deliveries(self, sample: Sample) -> list[tuple[list[tuple[str, str]], bytes]]:
        whose = sample.credentials["merchant_id"]
        told: list[tuple[datetime, Json]] = []
        for one in self._of(whose, "subs"):
            told += [(one["created"], self._notice(one))]
            told += [(self.state["sales"][tid]["at"], self._charged(one, tid)) for tid in one["charges"]]
        told += [(sale["at"], self._signed(sale)) for sale in self._of(whose, "sales")]
        bodies = (body for _, body in sorted(told, key=lambda pair: pair[0]))
        return [(list(HEADERS.items()), json.dumps(body).encode()) for body in bodies]

    def stage(self, sample: Sample, email: str, situation: Situation) -> str | None:
        ages = {"trialing": -7, "active": 10, "past_due": 0, "paused": 10, "expired": 20, "cancelled": 100}
        state, late = situation.state, situation.state == "past_due"
        known = state in ages and situation.method in (
            None,
            "card",
            "gopay",
        )  # the others are known to us alone
        if not known or situation.object or situation.token is False or situation.due not in (None, late):
            return None
        with self.lock:
            whose, wallet, now = sample.credentials["merchant_id"], situation.method == "gopay", self.now()
            begin = now - timedelta(days=ages[state], minutes=5)
            begin = _later(begin, "month", -1) if late else begin
            most = 1 if state == "expired" else None
            one = self._create(whose, email, "Kopi-Harian", 149_000, begin, wallet, most=most)
            self._tell(whose, self._notice(one))
            self._run(one, begin + timedelta(hours=2) if late or state == "cancelled" else now, send=True)
            one["fails"] = late
            if late:
                self._run(one, now, send=True)
            if state in ("paused", "cancelled"):
                one["status"] = "inactive"
            return str(one["id"])

    def standing(self, remote_id: str) -> Standing:
        one = self.state["subs"][remote_id]
        goes_on = one["status"] == "active" or one["tried"] > 0
        return Standing(
            one["status"],
            goes_on,
            one["next"].astimezone(WIB).date() if goes_on else None,
            hashlib.sha256(f"{one['token']}{one['account_id']}".encode()).hexdigest()[:12],
            len(one["charges"]),
            one["amount"] * 100,
        )

    def charge(self, remote_id: str, succeeds: bool = True) -> None:
        with self.lock:
            one = self.state["subs"][remote_id]
            one["fails"], one["due"] = not succeeds, min(one["due"], self.now())
            self._attempt(one, self.now(), send=True)

    def tick(self) -> None:
        with self.lock:
            for one in list(self.state["subs"].values()):
                self._run(one, self.now(), send=True)

    def proof_of(self, delivery: Delivery) -> str | None:
        found = json.loads(delivery.body).get("signature_key")
        return str(found) if found is not None else None

    def with_proof(self, delivery: Delivery, proofs: list[str]) -> tuple[list[tuple[str, str]], bytes]:
        said = {name: value for name, value in json.loads(delivery.body).items() if name != "signature_key"}
        pairs = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in said.items()]
        pairs += [f'"signature_key": {json.dumps(proof)}' for proof in proofs]
        return list(delivery.headers.items()), f"{{{', '.join(pairs)}}}".encode()

    def other_bodies(self, delivery: Delivery) -> list[Forgery]:
        """Only three fields and the key are covered: each is changed, and digits are moved between neighbours."""
        said: Json = json.loads(delivery.body)
        headers, code, amount = list(delivery.headers.items()), said["status_code"], said["gross_amount"]

        def put(what: str, **fields: Any) -> Forgery:
            return Forgery(what, headers, json.dumps({**said, **fields}).encode())

        return [
            Forgery("an empty body", headers, b""),
            Forgery("a body cut short", headers, delivery.body[:-1]),
            Forgery("a list", headers, json.dumps([said]).encode()),
            put("another order", order_id=f"{said['order_id']}0"),
            put("another amount", gross_amount="1.00"),
            put("another code", status_code="201" if code == "200" else "200"),
            put("another merchant", merchant_id="G999999999"),
            put("an amount as number", gross_amount=float(amount)),
            put("a code as number", status_code=int(code)),
            put(
                "a digit of the code in the order", order_id=said["order_id"] + code[0], status_code=code[1:]
            ),
            put("a digit of the order in the code", order_id=said["order_id"][:-1], status_code=f"1{code}"),
            put("the code moved to the amount", status_code="", gross_amount=code + amount),
            put("proofs in a list", signature_key=[said["signature_key"]]),
        ]

    # What happens at Midtrans

    def _create(
        self,
        whose: str,
        email: str,
        name: str,
        price: int,
        begin: datetime,
        wallet: bool = False,
        **more: Any,
    ) -> Json:
        """A subscription that begins at a moment; `more` may hold unit, interval, most."""
        account = self._new_link(whose, "ENABLED")["account_id"] if wallet else None
        person = {"first_name": email.split("@")[0].title(), "last_name": "Putri", "email": email}
        one: Json = {"id": self._uuid("sub"), "merchant": whose, "name": name, "amount": price} | {
            "payment_type": "gopay" if wallet else "credit_card",
            "token": _wallet_token(account) if wallet else self._new_card(),
            "customer": person | {"phone": "+6281234567890"},
        }
        one |= {"account_id": account, "unit": "month", "interval": 1, "most": None, **more}
        one |= {"start": begin, "due": begin, "next": begin, "last": None, "created": min(begin, self.now())}
        one |= {"status": "active", "done": 0, "tried": 0, "fails": False, "charges": []}
        self.state["subs"][one["id"]] = one
        return one

    def _run(self, one: Json, until: datetime, send: bool = False) -> None:
        """Charge what falls due. A disabled one is still retried; a cancelled one is not."""
        while one["next"] <= until and (one["status"] == "active" or one["tried"] > 0):
            self._attempt(one, one["next"], send)

    def _attempt(self, one: Json, at: datetime, send: bool) -> None:
        whose = one["merchant"]
        if one["fails"] or self.mode == "decline":
            one["tried"] += 1
            if one["tried"] > RETRIES:
                one["status"], one["tried"], one["next"] = "inactive", 0, at
            else:
                one["next"] = at + RETRY_EVERY
            if send:
                failed = {
                    "status_code": "411",
                    "status_message": "Token id is missing, invalid, or timed out",
                }
                self._tell(whose, self._notice(one, failed))
            return
        number = f"SUBS-{one['name']}-{uuid.uuid5(uuid.NAMESPACE_OID, one['id'] + str(one['done'])).hex}"
        kind, word = ("credit_card", "capture") if one["account_id"] is None else ("gopay", "settlement")
        sale = self._sell(whose, number, one["amount"], at, kind=kind, word=word, token=one["token"])
        one["charges"].append(sale["id"])
        one["done"], one["tried"], one["last"] = one["done"] + 1, 0, one["due"]
        one["due"] = one["next"] = _later(one["due"], one["unit"], one["interval"])
        if one["most"] and one["done"] >= one["most"]:
            one["status"] = "inactive"
        if send:
            self._tell(whose, self._signed(sale))
            self._tell(whose, self._charged(one, sale["id"]))

    def _sell(self, whose: str, number: str, amount: int, at: datetime, **told: Any) -> Json:
        """A transaction; `told` may hold kind, word, email, token (a card's), and more for the answer."""
        sale: Json = {"id": self._uuid("sale"), "merchant": whose, "number": number} | {
            "amount": amount,
            "at": at,
        }
        sale |= {"kind": "credit_card", "word": "settlement", "email": None, "more": {}, "refunds": []} | told
        if sale["kind"] == "credit_card":
            sale.setdefault("token", self._new_card())
        self.state["sales"][sale["id"]] = sale
        return sale

    def _refund(self, sale: Json, amount: int, at: datetime) -> None:
        number = len(sale["refunds"]) + 1
        told: Json = {"refund_chargeback_id": number, "refund_key": f"refund-{number}"}
        told["refund_amount"] = f"{amount}.00"
        told |= {"created_at": _wib(at), "reason": "Rusak di jalan", "refund_method": "online"}
        sale["refunds"].append(told | {"bank_confirmed_at": _wib(at + timedelta(hours=20))})
        back = sum(int(one["refund_amount"][:-3]) for one in sale["refunds"])
        sale["word"] = "refund" if back >= sale["amount"] else "partial_refund"

    def _bill(self, whose: str, email: str, number: str, word: str, at: datetime) -> Json:
        bill: Json = {"id": self._uuid("bill").replace("-", "")[:24], "merchant": whose, "email": email}
        bill |= {"number": number, "order": f"order-{number}-{whose}", "word": word, "at": at}
        self.state["invoices"][bill["id"]] = bill
        if word == "paid":
            paid = at + timedelta(hours=3)
            self._sell(whose, bill["order"], 275_000, paid, kind="bank_transfer", email=email)
        return bill

    def _new_card(self, first: str = "4") -> str:
        """It begins and ends with the card's digits, and has letters between them."""
        letters = self._uuid("card").replace("-", "")[:15].translate(LETTERS)
        return f"{CARDS[first]}s{letters}V{self.state['count'] % 10_000:04d}"

    def _new_link(self, whose: str, word: str, **more: Any) -> Json:
        link = {"account_id": self._uuid("link"), "merchant": whose, "word": word, **more}
        self.state["links"][link["account_id"]] = link
        return link

    def _uuid(self, what: str) -> str:
        self.state["count"] += 1
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://midtrans.example/{what}/{self.state['count']}"))

    def _of(self, whose: str, what: str) -> list[Json]:
        return [one for one in self.state[what].values() if one["merchant"] == whose]

    # Telling the merchant

    def _tell(self, whose: str, body: Json) -> None:
        url = self.state["merchants"][whose]["url"]
        self.deliver(Delivery(url, dict(HEADERS), json.dumps(body).encode()))

    def _signed(self, sale: Json) -> Json:
        return self._transaction(sale) | {"status_message": "midtrans payment notification"}

    def _charged(self, one: Json, sale_id: str) -> Json:
        sale = self.state["sales"][sale_id]
        charged = {"transaction_status": sale["word"], "transaction_id": sale_id, "status_code": "200"}
        return self._notice(one, charged)

    def _notice(self, one: Json, charged: Json | None = None) -> Json:
        """A bare subscription on creation, and with a transaction after a charge; never signed."""
        shown, gone = self._shown(one), ("created_at", "transaction_ids", "schedule")
        plan = {name: shown["schedule"][name] for name in ("interval", "interval_unit", "current_interval")}
        plan |= {"start_time": _zulu(one["start"]), "next_execution_at": _zulu(one["next"])}
        told = {name: value for name, value in shown.items() if name not in gone}
        told |= {"schedule": plan, "merchant_id": one["merchant"]}
        if charged is None:
            return told
        return {"transaction": charged, "subscription": told, "event_name": "subscription.charge"}

    # What calls are answered

    def _call(self, handler: Callable[[Request, Json, str], tuple[int, Json]]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            raw = await request.body()
            with self.lock:
                try:
                    whose = self._whose(request.headers.get("authorization", ""))
                    changes = request.method != "GET"
                    said = json.loads(raw) if raw else {}
                    if changes and self.mode == "decline":
                        raise _declined(request.url.path)
                    status, body = handler(request, said, whose)
                except Refusal as refusal:
                    status, body = refusal.status, refusal.body
            return JSONResponse(body, status)

        return endpoint

    def _whose(self, header: str) -> str:
        try:
            user, _, password = (
                base64.b64decode(header.removeprefix("Basic "), validate=True).decode().partition(":")
            )
        except (binascii.Error, UnicodeDecodeError):
            user, password = "", ""
        for whose, keys in self.state["merchants"].items():
            if header.startswith("Basic ") and hmac.compare_digest(user, keys["server_key"]) and not password:
                return str(whose)
        raise Refusal(401, _unauthorized())

    def _find(self, what: str, one_id: str, whose: str, body: Json, status: int = 404) -> Json:
        found = self.state[what].get(one_id)
        if found is None or found["merchant"] != whose:
            raise Refusal(status, body)
        one: Json = found
        return one

    def _subscription(self, request: Request, said: Json, whose: str) -> tuple[int, Json]:
        one = self._find("subs", request.path_params["id"], whose, NO_SUCH)
        if request.method == "GET":
            return 200, self._shown(one)
        self._patch(one, said)
        return 200, UPDATED

    def _patch(self, one: Json, said: Json) -> None:
        needed = ("name", "amount", "currency", "token")
        wrong = [f"subscription.{name} is required" for name in needed if not said.get(name)]
        longest = 15 if self.state["habits"]["short_names"] else 40
        if len(str(said.get("name"))) > longest:
            wrong.append(f"subscription.name should not be more than {longest} characters")
        if not isinstance(said.get("amount"), str) or not said["amount"].isdigit():
            wrong.append("subscription.amount must be a text of digits")
        schedule = said.get("schedule") or {}
        if set(schedule) - {"interval", "next_execution_at"}:
            wrong.append("subscription.schedule: only interval and next_execution_at can be updated")
        next_at = schedule.get("next_execution_at")
        try:
            on = datetime.strptime(next_at, "%Y-%m-%d %H:%M:%S %z").astimezone(UTC) if next_at else None
        except ValueError:
            on, wrong = None, [*wrong, "subscription.schedule.next_execution_at has a wrong format"]
        if on and on <= self.now():
            wrong.append("subscription.schedule.next_execution_at must be in the future")
        if wrong:
            raise Refusal(400, {"status_message": "Invalid parameter.", "validation_messages": wrong})
        one["name"], one["amount"], one["token"] = said["name"], int(said["amount"]), said["token"]
        one["interval"] = int(schedule.get("interval") or one["interval"])
        one["account_id"] = (said.get("gopay") or {}).get("account_id", one["account_id"])
        if said["token"] in self._chargeable(one["merchant"]):
            one["fails"] = False
        if on:
            one["due"] = one["next"] = on
            one["status"], one["tried"] = "active", 0

    def _chargeable(self, whose: str) -> set[str]:
        linked = [one["account_id"] for one in self._of(whose, "links") if one["word"] == "ENABLED"]
        saved = {one["saved"] for one in self._of(whose, "pages") if one["saved"]}
        return saved | {_wallet_token(account) for account in linked}

    def _verb(self, request: Request, said: Json, whose: str) -> tuple[int, Json]:
        one = self._find("subs", request.path_params["id"], whose, NO_SUCH)
        verb, at = request.path_params["verb"], self.now()
        if verb == "disable":
            one["status"] = "inactive"
        elif verb == "cancel":
            one["status"], one["tried"] = "inactive", 0
        elif verb == "enable":
            one["status"] = "active"
            habit = self.state["habits"]["enable"]
            if one["next"] <= at or habit == "charge":
                one["due"] = at
                self._attempt(one, at, send=True)
            elif habit == "sooner":
                one["due"] = one["next"] = at + timedelta(hours=1)
        else:
            raise Refusal(404, {"status_message": "Not found"})
        return 200, UPDATED

    def _shown(self, one: Json) -> Json:
        schedule = {
            "interval": one["interval"],
            "interval_unit": one["unit"],
            "current_interval": one["done"],
        }
        names = {"start_time": "start", "previous_execution_at": "last", "next_execution_at": "next"}
        schedule |= {name: _wib(one[key]) if one[key] else None for name, key in names.items()}
        shown = {name: one[name] for name in ("id", "name", "status", "token", "payment_type")} | {
            "amount": str(one["amount"]),
            "currency": "IDR",
            "created_at": one["created"].astimezone(WIB).replace(tzinfo=None).isoformat(),
            "schedule": schedule | ({"max_interval": one["most"]} if one["most"] else {}),
            "transaction_ids": list(one["charges"]),
            "metadata": {"description": "Langganan"},
            "customer_details": dict(one["customer"]),
        }
        return shown | ({"gopay": {"account_id": one["account_id"]}} if one["account_id"] else {})

    def _status(self, request: Request, said: Json, whose: str) -> tuple[int, Json]:
        """HTTP 200 also where there is none: the body says so. DANA is found by its transaction's id alone."""
        wanted = request.path_params["id"]
        for sale in self._of(whose, "sales"):
            if wanted == sale["id"] or (wanted == sale["number"] and sale["kind"] != "dana"):
                shown = self._transaction(sale)
                if sale["kind"] == "dana":
                    shown |= {
                        "order_id": sale["id"],
                        "transaction_status": shown["transaction_status"].upper(),
                    }
                return 200, shown
        gone = {
            "status_code": "404",
            "status_message": "Transaction doesn't exist.",
            "id": self._uuid("call"),
        }
        return 200, gone

    def _transaction(self, sale: Json) -> Json:
        keys = self.state["merchants"][sale["merchant"]]
        code = {"pending": "201", "deny": "202", "expire": "407"}.get(sale["word"], "200")
        amount, card = f"{sale['amount']}.00", sale.get("token") if sale["kind"] == "credit_card" else None
        covered = f"{sale['number']}{code}{amount}{keys.get('signature_key_secret') or keys['server_key']}"
        said: Json = {"status_code": code, "status_message": "Success, transaction is found"} | {
            "transaction_id": sale["id"],
            "order_id": sale["number"],
            "merchant_id": sale["merchant"],
            "signature_key": hashlib.sha512(covered.encode()).hexdigest(),
        }
        said |= {"gross_amount": amount, "currency": "IDR", "payment_type": sale["kind"], **sale["more"]}
        said |= {"transaction_time": _wib(sale["at"]), "transaction_status": sale["word"]}
        if card:
            said |= {"masked_card": f"{card[:8]}-{card[-4:]}", "card_type": "credit", "bank": "bni"}
            refused = sale["word"] == "deny"
            said |= {"channel_response_code": "05" if refused else "00", "fraud_status": "accept"}
            said["channel_response_message"] = "Do not honour" if refused else "Approved"
        if sale["kind"] == "bank_transfer":
            said["va_numbers"] = [{"bank": "bca", "va_number": "12345678901"}]
        if sale["word"] in ("settlement", "refund", "partial_refund"):
            said["settlement_time"] = _wib(sale["at"] + timedelta(minutes=2))
        if sale["refunds"]:
            back = sum(int(one["refund_amount"][:-3]) for one in sale["refunds"])
            said |= {"refund_amount": f"{back}.00", "refunds": copy.deepcopy(sale["refunds"])}
        return said

    def _snap(self, request: Request, said: Json, whose: str) -> tuple[int, Json]:
        key = request.headers.get("idempotency-key", "")
        if len(key) > 46:
            raise Refusal(400, {"error_messages": ["Idempotency-Key is longer than 46 characters"]})
        if key and f"{whose}:{key}" in self.state["once"]:
            return 201, self.state["once"][f"{whose}:{key}"]
        details = said.get("transaction_details") or {}
        number, amount = details.get("order_id"), details.get("gross_amount")
        if (
            not isinstance(number, str)
            or not 0 < len(number) <= 50
            or not isinstance(amount, int)
            or amount < 1
        ):
            raise Refusal(400, {"error_messages": ["transaction_details.order_id is required"]})
        if any(sale["number"] == number for sale in self._of(whose, "sales")):
            taken = "transaction_details.order_id has already been taken"
            raise Refusal(400, {"error_messages": [taken]})
        token = self._uuid("snap")
        self.state["pages"][token] = {
            "merchant": whose,
            "asked": said,
            "at": self.now(),
            "saved": None,
            "over": False,
        }
        answer = {"token": token, "redirect_url": f"{self.address}/snap/v3/redirection/{token}"}
        if key:
            self.state["once"][f"{whose}:{key}"] = answer
        return 201, answer

    def _link(self, request: Request, said: Json, whose: str) -> tuple[int, Json]:
        partner = said.get("gopay_partner") or {}
        phone = str(partner.get("phone_number"))
        if said.get("payment_type") != "gopay" or not phone.isdigit() or phone.startswith(("0", "62")):
            bad = {
                "status_code": "400",
                "status_message": "One or more parameters in the payload is invalid.",
            }
            return 200, bad | {"validation_messages": ["gopay_partner.phone_number is invalid"]}
        link = self._new_link(whose, "PENDING", back=partner.get("redirect_url"))
        url = f"{self.address}/v2/gopay/redirect/{link['account_id']}/link"
        actions = [{"name": "activation-link-url", "method": "GET", "url": url}]
        told = {"status_code": "201", "payment_type": "gopay", "account_id": link["account_id"]}
        return 201, told | {"account_status": "PENDING", "actions": actions}

    def _linked(self, request: Request, said: Json, whose: str) -> tuple[int, Json]:
        gone = {"status_code": "404", "status_message": "Account doesn't exist."}
        link = self._find("links", request.path_params["id"], whose, gone, 200)
        code = {"ENABLED": "200", "PENDING": "201"}.get(link["word"], "204")
        told = {"status_code": code, "payment_type": "gopay", "account_id": link["account_id"]}
        told |= {"account_status": link["word"]}
        if link["word"] != "ENABLED":
            return 200, told
        balance = {"value": "1000000.00", "currency": "IDR"}
        wallet = {"name": "GOPAY_WALLET", "active": True, "balance": balance, "metadata": {}}
        later = {**wallet, "name": "PAY_LATER", "token": _wallet_token(f"later-{link['account_id']}")}
        options = [later, {**wallet, "token": _wallet_token(link["account_id"])}]
        return 200, told | {"metadata": {"payment_options": options}}

    def _invoice(self, request: Request, said: Json, whose: str) -> tuple[int, Json]:
        return 200, self._bill_shown(
            self._find("invoices", request.path_params["id"], whose, {"error_messages": ["Not Found"]})
        )

    def _bill_shown(self, bill: Json) -> Json:
        paid, file = bill["word"] == "paid", f"{self.address}/invoices/pdf/{bill['id']}"
        at = bill["at"].astimezone(WIB).strftime("%Y-%m-%d %H:%M:%S %z")
        item = {"item_id": "GULA", "description": "Gula aren", "quantity": 2, "price": 125_000}
        tax = {"name": "PPN", "type": "percentage", "value": 10, "calculated_amount": 25_000}
        told = {"id": bill["id"], "order_id": bill["order"], "invoice_number": bill["number"]}
        told |= {"status": bill["word"], "gross_amount": 275_000, "document_type": "invoice"}
        told |= {"published_date": at, "due_date": at, "invoice_date": at, "paid_date": at if paid else None}
        told |= {"pdf_url": file, "paid_pdf_url": f"{file}?paid=1" if paid else None}
        told |= {"payment_link_url": f"{self.address}/payment-links/{bill['id']}"}
        person = {"id": "c-1", "name": "Putri", "email": bill["email"], "phone": None}
        return told | {"item_details": [item], "taxes": [tax], "customer_details": person}

    # The report of BI-SNAP

    async def _access_token(self, request: Request) -> Response:
        client, stamp = request.headers.get("x-client-key", ""), request.headers.get("x-timestamp", "")
        key = load_der_private_key(base64.b64decode(PRIVATE_KEY), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        try:
            proof = base64.b64decode(request.headers.get("x-signature", ""), validate=True)
            key.public_key().verify(proof, f"{client}|{stamp}".encode(), padding.PKCS1v15(), SHA256())
        except (InvalidSignature, binascii.Error):
            return JSONResponse(_snap_refused("4017300"), 401)
        with self.lock:
            owner = next(
                (
                    one
                    for one, keys in self.state["merchants"].items()
                    if keys.get("bisnap_client_id") == client
                ),
                None,
            )
            if owner is None or json.loads(await request.body()) != {"grantType": "client_credentials"}:
                return JSONResponse(_snap_refused("4017300"), 401)
            token = self._uuid("bearer")
            self.state["bearers"][token] = {"merchant": owner, "until": self.now() + timedelta(minutes=15)}
        told = {"responseCode": "2007300", "responseMessage": "Successful", "accessToken": token}
        return JSONResponse(told | {"tokenType": "Bearer", "expiresIn": "900"})

    async def _history(self, request: Request) -> Response:
        body, headers = await request.body(), request.headers
        token = headers.get("authorization", "").removeprefix("Bearer ")
        with self.lock:
            bearer = self.state["bearers"].get(token)
            if bearer is None or bearer["until"] <= self.now():
                return JSONResponse(_snap_refused("4011201"), 401)
            keys = self.state["merchants"][bearer["merchant"]]
            stamp, number = headers.get("x-timestamp", ""), headers.get("x-external-id", "")
            covered = f"POST:{request.url.path}:{token}:{hashlib.sha256(body).hexdigest()}:{stamp}"
            expected = base64.b64encode(
                hmac.digest(keys["bisnap_client_secret"].encode(), covered.encode(), "sha512")
            )
            named = (headers.get("x-partner-id"), headers.get("channel-id"))
            right = (keys["bisnap_partner_id"], keys["bisnap_channel_id"])
            if headers.get("x-signature", "").encode() != expected or named != right or not number:
                return JSONResponse(_snap_refused("4011200"), 401)
            if number in self.state["external"]:
                return JSONResponse(_snap_refused("4091200"), 409)
            self.state["external"].append(number)
            return self._listed(bearer["merchant"], json.loads(body))

    def _listed(self, whose: str, asked: Json) -> Response:
        begin, end = (datetime.fromisoformat(asked[name]) for name in ("fromDateTime", "toDateTime"))
        if self.now() - begin > timedelta(days=215) or int(asked["pageSize"]) > 50:
            return JSONResponse(_snap_refused("4001201"), 400)
        newest = sorted(self._of(whose, "sales"), key=lambda sale: sale["at"], reverse=True)
        rows = [self._row(sale) for sale in newest if begin <= sale["at"] <= end]
        rows.insert(1, _payout(self.now()))
        size, number = int(asked["pageSize"]), int(asked["pageNumber"])
        found = rows[size * number : size * (number + 1)]
        return JSONResponse({"responseCode": "2001200", "responseMessage": "Success", "detailData": found})

    def _row(self, sale: Json) -> Json:
        words = {"capture": "SUCCESS", "deny": "DENIED", "expire": "EXPIRED", "partial_refund": "REFUND"}
        more = {
            "referenceNo": sale["id"],
            "partnerReferenceNo": sale["number"],
            "status": words.get(sale["word"], sale["word"].upper()),
            "type": "PAYMENT",
            "channel": sale["kind"],
            **({"customerEmail": sale["email"]} if sale["email"] else {}),
            "fee": {"value": "1000.00", "currency": "IDR"},
        }
        amount = {"value": f"{sale['amount']}.00", "currency": "IDR"}
        at = sale["at"].astimezone(WIB).isoformat(timespec="seconds")
        told = {"dateTime": at, "amount": amount, "status": "SUCCESS", "type": "PAYMENT"}
        return told | {"additionalInfo": more}

    # Pages

    async def _snap_page(self, request: Request) -> Response:
        form = await request.form() if request.method == "POST" else {}
        with self.lock:
            one = self.state["pages"].get(request.path_params["token"])
            if one is None or one["over"] or self.now() - one["at"] > timedelta(minutes=30):
                return page("Midtrans", "Transaction not found", "<p>This page has expired.</p>", 404)
            asked, details = one["asked"], one["asked"]["transaction_details"]
            back = (asked.get("callbacks") or {}).get("finish")
            sale = self._paid_on_snap(one) if form.get("action") == "pay" else None
            if sale and sale["word"] == "capture":
                query = {"order_id": sale["number"], "status_code": "200", "transaction_status": sale["word"]}
                return RedirectResponse(_with(back, query), 303) if back else page("Midtrans", "Paid", "")
            if form.get("action"):
                words = _back(back, "<p>Your bank declined this card.</p>")
                return page("Midtrans", "Transaction failed", words, 402)
            fields = _form(f"<p>{details['gross_amount']:,} rupiah, by Mastercard</p>", "Pay")
            return page("Midtrans", "Pay by card", _back(back, fields))

    def _paid_on_snap(self, one: Json) -> Json:
        asked, whose = one["asked"], one["merchant"]
        details, word = asked["transaction_details"], "deny" if self.mode == "decline" else "capture"
        card, more = self._new_card("5"), {}
        if asked.get("custom_field1"):
            more["custom_field1"] = asked["custom_field1"]
        if word == "capture":
            one["over"] = True
            if (asked.get("credit_card") or {}).get("save_card") and self.state["habits"]["saves_card"]:
                one["saved"] = more["saved_token_id"] = card
                more["saved_token_id_expired_at"] = _wib(self.now() + timedelta(days=900))
        number, amount = details["order_id"], details["gross_amount"]
        sale = self._sell(whose, number, amount, self.now(), word=word, token=card, more=more)
        self._tell(whose, self._signed(sale))
        return sale

    async def _gopay_page(self, request: Request) -> Response:
        form = await request.form() if request.method == "POST" else {}
        with self.lock:
            link = self.state["links"].get(request.path_params["id"])
            if link is None or link["word"] != "PENDING":
                return page("GoPay", "Nothing to do here", "<p>This link has expired.</p>", 404)
            if form.get("action") in ("pay", "decline"):
                linked = form["action"] == "pay" and self.mode != "decline"
                link["word"] = "ENABLED" if linked else "EXPIRED"
                self._tell_link(link)
                return (
                    RedirectResponse(link["back"], 303)
                    if link.get("back")
                    else page("GoPay", link["word"], "")
                )
            fields = _form("<p>Scan with the Gojek app and enter your PIN.</p>", "Link GoPay")
            return page("GoPay", "Link your account", _back(link.get("back"), fields))

    def _tell_link(self, link: Json) -> None:
        keys, code = self.state["merchants"][link["merchant"]], "200" if link["word"] == "ENABLED" else "204"
        key = keys.get("signature_key_secret") or keys["server_key"]
        covered = f"{link['account_id']}{link['word']}{code}{key}"
        told = {"account_id": link["account_id"], "merchant_id": link["merchant"], "payment_type": "gopay"}
        told |= {"status_code": code, "account_status": link["word"]}
        self._tell(link["merchant"], told | {"signature_key": hashlib.sha512(covered.encode()).hexdigest()})

    async def _invoice_page(self, request: Request) -> Response:
        form = await request.form() if request.method == "POST" else {}
        with self.lock:
            bill = self.state["invoices"].get(request.path_params["id"])
            if bill is None or bill["word"] != "published":
                return page("Midtrans", "Nothing to pay", "<p>This invoice is not open.</p>", 404)
            refused = form.get("action") == "decline" or (form.get("action") and self.mode == "decline")
            if form.get("action") == "pay" and not refused:
                bill["word"] = "paid"
                paid = self._sell(bill["merchant"], bill["order"], 275_000, self.now(), kind="qris")
                self._tell(bill["merchant"], self._signed(paid))
                return page("Midtrans", "Paid", "<p>Thank you. You can close this page.</p>")
            note = "<p>The payment was declined.</p>" if refused else "<p>275,000 rupiah</p>"
            fields = _form(note, "Pay")
            return page("Midtrans", f"Invoice {bill['number']}", fields)

    async def _file(self, request: Request) -> Response:
        bill = self.state["invoices"].get(request.path_params["id"])
        if bill is None:
            return Response("Not Found", 404)
        kind = "PAID" if request.query_params.get("paid") else "OPEN"
        text = f"%PDF-1.4\n% Invoice {bill['number']} {kind}\n%%EOF\n"
        return Response(text.encode(), media_type="application/pdf")


HEADERS = {"Content-Type": "application/json", "User-Agent": "Veritrans"}
LETTERS = str.maketrans("0123456789", "ghijkmnpqr")  # a card's token has digits at its two ends only


def _keys(server_key: str, merchant_id: str) -> dict[str, str]:
    return {"server_key": server_key, "merchant_id": merchant_id}


def _later(at: datetime, unit: str, count: int) -> datetime:
    if unit != "month":
        return at + timedelta(days=count * (7 if unit == "week" else 1))
    here = at.astimezone(WIB)
    year, month = divmod(here.year * 12 + here.month - 1 + count, 12)
    day = min(here.day, calendar.monthrange(year, month + 1)[1])
    return here.replace(year=year, month=month + 1, day=day).astimezone(UTC)


def _wib(at: datetime) -> str:
    return at.astimezone(WIB).strftime("%Y-%m-%d %H:%M:%S")


def _zulu(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000000Z")


def _wallet_token(account: str | None) -> str:
    return base64.b64encode(json.dumps({"type": "GOPAY_WALLET", "id": account}).encode()).decode()


def _unauthorized() -> Json:
    said = "Access denied due to unauthorized transaction, please check client key or server key"
    return {"status_code": "401", "status_message": said}


def _declined(path: str) -> Refusal:
    """A refusal for a business reason, in the form of the product that was asked."""
    if path.startswith("/snap/"):
        return Refusal(400, {"error_messages": ["payment channel is not activated"]})
    if path == "/v2/pay/account":
        told = {"status_code": "202", "payment_type": "gopay", "channel_response_code": "2903"}
        return Refusal(200, told | {"channel_response_message": "invalid scheme"})
    said = "Invalid parameter."
    return Refusal(400, {"status_message": said, "validation_messages": ["it can't be updated"]})


def _snap_refused(code: str) -> Json:
    words = {"4017300": "Unauthorized Signature", "4011200": "Unauthorized. Signature"} | {
        "4011201": "Invalid Token (B2B)",
        "4091200": "Conflict",
        "4001201": "Invalid Field Format",
    }
    return {"responseCode": code, "responseMessage": words[code]}


def _payout(at: datetime) -> Json:
    """Something in the list that is no payment of a customer."""
    more = {"referenceNo": "fRTsJ610pLDtagjrAX", "partnerReferenceNo": "payout-1", "status": "COMPLETED"}
    more |= {
        "type": "DISBURSEMENT",
        "channel": "PT. BANK CENTRAL ASIA TBK.",
        "customerEmail": "warung@example.com",
    }
    amount = {"value": "10000.00", "currency": "IDR"}
    told = {
        "dateTime": at.astimezone(WIB).isoformat(timespec="seconds"),
        "amount": amount,
        "status": "SUCCESS",
    }
    return told | {"type": "SEND_MONEY", "additionalInfo": more}


def _with(url: str, query: Mapping[str, str]) -> str:
    return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(query)}"


def _form(words: str, accept: str) -> str:
    return (
        f'{words}<form method="post">'
        f'<button name="action" value="pay" data-test="accept">{accept}</button>'
        '<button name="action" value="decline" data-test="decline">Have it declined</button></form>'
    )


def _back(url: str | None, fields: str) -> str:
    if not url:
        return fields
    return f'{fields}<a class="button" data-test="back" href="{html.escape(url)}">Back to the shop</a>'
