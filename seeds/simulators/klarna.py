"""Klarna, simulated: orders, customer tokens, the hosted payment page, settlements, and webhooks of both generations.

Written from Klarna's documents (docs.klarna.com: order management, customer token, payments, hosted payment page,
settlements, webhooks of the Partner API). Klarna knows neither subscriptions nor a schedule: those are the shop's, and
the shop is simulated beside it (`sign_up`, `charge`, `tick`). Amounts are minor units, tax included.
"""

import base64
import hashlib
import hmac
import html
import json
import uuid
from calendar import monthrange
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from fnmatch import fnmatch
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from seeds.simulators.harness import Delivery, Forgery, Harness, Sample, Situation, Standing, page

Account = dict[str, Any]
Handler = Callable[[Request, Account], Awaitable[Response]]

KEY, HOOK = (f"krn:partner:global:notification:{sort}:" for sort in ("signing-key", "webhook"))
HOMES = {"eu": ("SE", "SEK"), "na": ("US", "USD"), "oc": ("AU", "AUD")}
STATES = {"active": "ACTIVE", "past_due": "SUSPENDED", "cancelled": "CANCELLED"}
METHODS: dict[str, dict[str, Any]] = {
    "card": {
        "payment_method_type": "CARD",
        "card": {"brand": "VISA", "masked_number": "**** 4242", "expiry_date": "09/2029"},
    },
    "bank_debit": {
        "payment_method_type": "DIRECT_DEBIT",
        "direct_debit": {"masked_number": "DE89 **** 3000"},
    },
    "pay_later": {"payment_method_type": "INVOICE"},
}
INITIAL = {
    "card": {"type": "CARD", "description": "Pay now by card"},
    "bank_debit": {"type": "DIRECT_DEBIT", "description": "Pay now by bank"},
    "pay_later": {"type": "INVOICE", "description": "Pay in 30 days"},
}
COFFEE = {"reference": "coffee-club", "name": "Coffee club", "interval": "MONTH", "count": 1, "amount": 24900}
TEA = {"reference": "tea-box", "name": "Tea box", "interval": "MONTH", "count": 3, "amount": 44700}
PAPER = {
    "reference": "weekend-paper",
    "name": "Weekend paper",
    "interval": "YEAR",
    "count": 1,
    "amount": 99900,
}
AUTHORISED_FOR = timedelta(days=28)
PAID_OUT_AFTER = timedelta(days=1)
APPROVAL_LASTS = timedelta(minutes=60)
REVIEW_TAKES = timedelta(hours=12)
TOTALS = (
    *("commission_amount", "repay_amount", "sale_amount", "holdback_amount", "settlement_amount"),
    *("reversal_amount", "release_amount", "return_amount", "fee_amount", "charge_amount", "credit_amount"),
    *("fee_refund_amount", "tax_refund_amount", "deposit_amount", "opening_debt_balance_amount"),
    "closing_debt_balance_amount",
)


class Simulator(Harness):
    name = "klarna"
    STATUS_FIELDS = ("status", "fraud_status")

    def __init__(self, *clock: Callable[[], datetime]) -> None:
        super().__init__(*clock)
        self.cancel_takes = 0  # how many looks at a token still say ACTIVE after its cancel was accepted
        self.state = {"accounts": {}, "made": 0}

    def routes(self) -> list[BaseRoute]:
        token = "/customer-token/v1/tokens/{token}"
        return [
            Route("/ordermanagement/v1/orders/{order_id}", self._known(self._get_order), methods=["GET"]),
            Route(token, self._known(self._get_token), methods=["GET"]),
            Route(f"{token}/status", self._known(self._patch_token), methods=["PATCH"]),
            Route("/payments/v1/sessions", self._known(self._post_session), methods=["POST"]),
            Route(
                "/payments/v1/authorizations/{approval}/customer-token",
                self._known(self._post_token),
                methods=["POST"],
            ),
            Route("/hpp/v1/sessions", self._known(self._post_visit), methods=["POST"]),
            Route("/hpp/v1/sessions/{visit}", self._known(self._get_visit), methods=["GET"]),
            Route("/settlements/v1/payouts", self._known(self._get_payouts), methods=["GET"]),
            Route("/settlements/v1/transactions", self._known(self._get_transactions), methods=["GET"]),
            *(
                Route(f"/v2/notification/{path}", self._known(self._partner(handler)), methods=[method])
                for method, path, handler in (
                    ("GET", "signing-keys", self._get_keys),
                    ("POST", "signing-keys", self._post_key),
                    ("DELETE", "signing-keys/{key}", self._delete_key),
                    ("GET", "webhooks", self._get_hooks),
                    ("POST", "webhooks", self._post_hook),
                    ("GET", "webhooks/{hook}", self._get_hook),
                    ("DELETE", "webhooks/{hook}", self._delete_hook),
                    ("POST", "webhooks/{hook}/simulate", self._simulate),
                )
            ),
            Route("/eu/hpp/payments/{visit}", self._page, methods=["GET"]),
            Route("/eu/hpp/payments/{visit}", self._press, methods=["POST"]),
        ]

    # Accounts

    def samples(self) -> list[Sample]:
        mine = {
            "region": "eu",
            "environment": "playground",
            "username": "4a1f8f5e-6b0f-4f3c-9c1e-2f6f5b6f0a11",
            "api_key": "klarna_test_api_Y29mZmVlLWFuZC10ZWEtb2YtTm9vcg",
            "merchant_id": "PK10001",
            "country": "SE",
            "signing_key_id": "krn:partner:global:notification:signing-key:0d5c1d5a",
            "signing_key": "c2lnbmluZy1rZXktb2YtdGhlLWZpcnN0LXNob3A=",
        }
        theirs = {
            **mine,
            "username": "9c0b7c52-51ad-4c0e-8e0e-6d0a2f1f7b22",
            "api_key": "klarna_test_api_c29tZWJvZHktZWxzZXMtc2hvcA",
            "merchant_id": "PK20002",
            "signing_key_id": "krn:partner:global:notification:signing-key:77e2ab10",
            "signing_key": "c2lnbmluZy1rZXktb2Ytc29tZWJvZHktZWxzZQ==",
        }
        classic = {
            "region": "na",
            "environment": "playground",
            "username": "PN30003_1f2e3d4c5b6a",
            "api_key": "fU8-old.password+2019",
            "merchant_id": "N30003",
        }
        opted = {
            **{name: value for name, value in mine.items() if name != "username"},
            "api_key": "klarna_test_api_a2V5LXRoYXQtZ29lcy1hbG9uZQ",
            "merchant_id": "PK40004",
            "signing_key_id": "krn:partner:global:notification:signing-key:5b1c9f33",
            "signing_key": "c2lnbmluZy1rZXktb2YtdGhlLWZvdXJ0aC1zaG9w",
        }
        return [
            Sample("Klarna, signed webhooks", mine, "v2"),
            Sample("Klarna, another shop", theirs, "v2"),
            Sample("Klarna classic", classic, "classic"),
            Sample("Klarna, with options", opted, "v2", ("schedule_cancel", "new_token")),
        ]

    def open(self, sample: Sample, webhook_url: str) -> None:
        given = sample.credentials
        pair = f"{given.get('username')}:{given['api_key']}"
        proof = base64.b64encode(pair.encode()).decode() if given.get("username") else given["api_key"]
        country, currency = HOMES[given["region"]]
        self.state["accounts"][given["api_key"]] = {
            "country": country,
            "currency": currency,
            "proof": f"Basic {proof}",
            "merchant_id": given.get("merchant_id", ""),
            "live": given["environment"] == "live",
            "signing": (given["signing_key_id"], given["signing_key"]) if sample.variant == "v2" else None,
            "webhook": webhook_url,  # of a classic account: what the shop gives with its orders
            "keys": {},
            "hooks": {},
            **{name: {} for name in ("orders", "tokens", "sessions", "visits", "approvals")},
            **{name: [] for name in ("payouts", "transactions", "past")},
        }

        account = self.account(sample)
        if account["signing"] is not None:
            key_id, key = account["signing"]
            account["keys"][key_id] = {"text": key, "made": "2026-01-05T09:00:00Z"}
            name = f"{HOOK}{account['merchant_id']}"
            account["hooks"][name] = {"url": webhook_url, "event_types": ["payment.*"], "event_version": "v2"}
            account["hooks"][name] |= {"signing_key_id": key_id, "status": "ENABLED"}

    def account(self, sample: Sample) -> Account:
        found: Account = self.state["accounts"][sample.credentials["api_key"]]
        return found

    def registered(self, sample: Sample) -> list[str]:
        hooks = self.account(sample)["hooks"].values()
        return [str(one["url"]) for one in hooks if one["url"] and one["status"] == "ENABLED"]

    def fill(self, sample: Sample) -> None:
        account, now = self.account(sample), self.now()
        noor, all_sorts = "noor@example.com", f"{self.name}@example.com"

        def member(email: str, plans: list[dict[str, Any]], ago: list[int], **more: Any) -> None:
            first = now - timedelta(days=ago[0])
            token = self.sign_up(account, email, plans, at=first, told=False, **more)
            for days in ago[1:]:
                self._renew(account, token, plans[0], now - timedelta(days=days), told=False)

        def bought(email: str, what: str, minor: int, days: int, **more: Any) -> str:
            line = {"reference": what.lower().replace(" ", "-"), "name": what, "amount": minor}
            made = self.order(account, email, [line], now - timedelta(days=days), told=False, **more)
            return str(made["order_id"])

        member(noor, [COFFEE], [70, 40, 10])
        bought(noor, "Enamel mug", 18900, 45, method="pay_later")
        member(all_sorts, [PAPER], [30], method="pay_later")
        member(all_sorts, [COFFEE], [50, 20], method="bank_debit", status="SUSPENDED")
        member(all_sorts, [TEA], [200, 110], status="CANCELLED")
        member(all_sorts, [COFFEE, TEA], [12])
        self.refund(account, bought(all_sorts, "Moka pot", 39900, 33), 10000, now - timedelta(days=20))
        self.refund(account, bought(all_sorts, "Grinder", 129900, 28), 129900, now - timedelta(days=21))
        bought(all_sorts, "Espresso cups", 29900, 0, captured=0, review="PENDING")
        bought(all_sorts, "Kettle", 59900, 5, captured=0, review="REJECTED")
        bought(all_sorts, "Tea set", 89900, 9, captured=40000)
        bought(all_sorts, "Tray", 15900, 40, captured=0, status="EXPIRED")
        bought(all_sorts, "Apron", 22900, 14, captured=0, status="CANCELLED")
        self._pay_out(account)

    def past_deliveries(self, sample: Sample) -> list[tuple[list[tuple[str, str]], bytes]]:
        past = sorted(self.account(sample)["past"], key=lambda notice: str(notice[0]))
        return [(list(delivery.headers.items()), delivery.body) for _, delivery in past]

    def stage(self, sample: Sample, email: str, situation: Situation) -> str | None:
        status, wants = STATES.get(situation.state), situation
        alone = not (wants.token is False or wants.object == "shared_token")
        if status is None or wants.due or wants.object not in (None, "shared_token"):
            return None
        if wants.method not in (None, *METHODS) or (wants.object and wants.token):
            return None
        account = self.account(sample)
        if account["signing"] is None:  # nothing tells a classic shop's tokens but the shop itself
            return None
        plans = [COFFEE] if alone else [COFFEE, TEA]
        token = self.sign_up(account, email, plans, method=wants.method or "card", status=status)
        return f"{token}/{COFFEE['reference']}"

    def standing(self, remote_id: str) -> Standing:
        _, token = self._token_of(remote_id)
        plan, shown = self._plan_of(token, remote_id), token["shown"]
        going = token["status"] == "ACTIVE" and token["ending"] is None
        by = shown.get("card") or shown.get("direct_debit") or {}
        return Standing(
            raw="CANCELLED" if token["ending"] is not None else token["status"],
            charges=going,
            next_on=plan["next_at"].date() if going else None,
            method=by.get("masked_number", shown["payment_method_type"]),
            payments=plan["payments"],
            amount=plan["amount"],
        )

    def charge(self, remote_id: str, succeeds: bool = True) -> None:
        account, token = self._token_of(remote_id)
        plan = self._plan_of(token, remote_id)
        if succeeds:
            self._renew(account, token["id"], plan, self.now())
            return
        if token["status"] == "ACTIVE":
            token["status"] = "SUSPENDED"
        self._notify(account, None, token["id"], "DECLINED", self.now())

    def _token_of(self, remote_id: str) -> tuple[Account, dict[str, Any]]:
        token = remote_id.partition("/")[0]
        for account in self.state["accounts"].values():
            if token in account["tokens"]:
                return account, account["tokens"][token]
        raise KeyError(remote_id)

    def _plan_of(self, token: dict[str, Any], remote_id: str) -> dict[str, Any]:
        named = remote_id.partition("/")[2]
        plan: dict[str, Any] = token["plans"][named or next(iter(token["plans"]), "")]
        return plan

    # The shop: what it sells, charges and pays back

    def sign_up(
        self,
        account: Account,
        email: str,
        plans: list[dict[str, Any]],
        method: str = "card",
        status: str = "ACTIVE",
        at: datetime | None = None,
        told: bool = True,
    ) -> str:
        """A customer agrees to be charged and pays for the first time; the customer token."""
        at = at or self.now()
        token = self._token(account, email, method, METHODS[method], status)
        account["tokens"][token]["plans"] = {
            plan["reference"]: {**plan, "next_at": _later(at, plan), "payments": 1} for plan in plans
        }
        self.order(account, email, plans, at, method=method, token=token, told=told)
        return token

    def _token(
        self, account: Account, email: str, method: str, shown: Mapping[str, Any], status: str = "ACTIVE"
    ) -> str:
        token = self._made()
        account["tokens"][token] = {
            "id": token,
            "email": email,
            "status": status,
            "shown": shown,
            "method": method,
            "ending": None,  # counts the looks that still say ACTIVE, once its cancel was accepted
            "plans": {},
        }
        return token

    def _renew(
        self, account: Account, token: str, plan: dict[str, Any], at: datetime, told: bool = True
    ) -> None:
        owner = account["tokens"][token]
        mine = owner["plans"][plan["reference"]]
        mine |= {"next_at": _later(at, mine), "payments": mine["payments"] + 1}
        self.order(account, owner["email"], [mine], at, method=owner["method"], token=token, told=told)

    def adopt(self, remote_id: str, newer: str) -> str:
        """The shop goes on with a new token and ends the former one; the new id of the subscription."""
        account, token = self._token_of(remote_id)
        plan = self._plan_of(token, remote_id)
        account["tokens"][newer] |= {"email": token["email"], "plans": {plan["reference"]: dict(plan)}}
        token["status"] = "CANCELLED"
        return f"{newer}/{plan['reference']}"

    def order(
        self,
        account: Account,
        email: str,
        items: list[dict[str, Any]],
        at: datetime,
        method: str = "card",
        captured: int | None = None,
        review: str = "ACCEPTED",
        status: str = "",
        token: str | None = None,
        told: bool = True,
    ) -> dict[str, Any]:
        """An order, captured whole unless told otherwise."""
        total = sum(item["amount"] for item in items)
        order_id = self._made()
        order: dict[str, Any] = {
            "order_id": order_id,
            "klarna_reference": f"K{self.state['made']:06d}",
            "merchant_reference1": f"SO-{self.state['made']}",
            "status": status or "AUTHORIZED",
            "fraud_status": review,
            "order_amount": total,
            "original_order_amount": total,
            "captured_amount": 0,
            "refunded_amount": 0,
            "remaining_authorized_amount": 0 if status else total,
            "purchase_currency": account["currency"],
            "purchase_country": account["country"],
            "locale": f"en-{account['country']}",
            "created_at": _stamp(at),
            "expires_at": _stamp(at + AUTHORISED_FOR),
            "order_lines": [_line(item) for item in items],
            "billing_address": {
                "given_name": email.partition("@")[0].capitalize(),
                "family_name": "Example",
                "email": email,
                "street_address": "Storgatan 1",
                "postal_code": "11122",
                "city": "Stockholm",
                "country": account["country"],
            },
            "customer": {},
            "initial_payment_method": INITIAL[method],
            "captures": [],
            "refunds": [],
        }
        account["orders"][order_id] = order
        minor = total if captured is None else captured
        if minor:
            self.capture(account, order_id, minor, at)
        self._notify(account, order_id, token, "COMPLETED", at, told)
        return order

    def capture(self, account: Account, order_id: str, minor: int, at: datetime) -> None:
        """The shop ships a part and takes the money for it; it stands in the next payout."""
        order = account["orders"][order_id]
        order["captured_amount"] += minor
        order["remaining_authorized_amount"] -= minor
        order["status"] = "PART_CAPTURED" if order["remaining_authorized_amount"] else "CAPTURED"
        capture = {
            "capture_id": self._made(),
            "klarna_reference": f"{order['klarna_reference']}-{len(order['captures']) + 1}",
            "captured_amount": minor,
            "captured_at": _stamp(at),
            "refunded_amount": 0,
            "description": "Shipped",
        }
        order["captures"].append(capture)
        for sort, amount in (("SALE", minor), ("FEE", -minor // 50)):
            row = {"type": sort, "amount": amount, "capture_id": capture["capture_id"]}
            account["transactions"].append(self._transaction(order, at, row))

    def refund(self, account: Account, order_id: str, minor: int, at: datetime | None = None) -> None:
        """The shop pays back; no webhook tells it."""
        at, order = at or self.now(), account["orders"][order_id]
        refund = {
            "refund_id": self._made(),
            "refunded_amount": minor,
            "refunded_at": _stamp(at),
            "description": "Returned goods",
        }
        order["refunds"].append(refund)
        order["refunded_amount"] += minor
        left = minor
        for capture in order["captures"]:
            part = min(left, capture["captured_amount"] - capture["refunded_amount"])
            capture["refunded_amount"] += part
            left -= part
        row = {"type": "RETURN", "amount": -minor, "refund_id": refund["refund_id"]}
        account["transactions"].append(self._transaction(order, at, row))

    def _transaction(self, order: Mapping[str, Any], at: datetime, row: dict[str, Any]) -> dict[str, Any]:
        return {
            **row,
            "order_id": order["order_id"],
            "merchant_reference1": order["merchant_reference1"],
            "sale_date": order["created_at"],
            "capture_date": _stamp(at),
            "currency_code": order["purchase_currency"],
            "purchase_country": order["purchase_country"],
            "payment_reference": "",
        }

    def _pay_out(self, account: Account) -> None:
        """One payout for each month of what has been waiting for a day."""
        due = [row for row in account["transactions"] if not row["payment_reference"]]
        months: dict[str, list[dict[str, Any]]] = {}
        for row in due:
            if datetime.fromisoformat(row["capture_date"]) <= self.now() - PAID_OUT_AFTER:
                months.setdefault(row["capture_date"][:7], []).append(row)
        for rows in months.values():
            reference = f"PAY{len(account['payouts']) + 1:05d}-{account['merchant_id']}"
            latest = max(datetime.fromisoformat(row["capture_date"]) for row in rows) + PAID_OUT_AFTER
            for row in rows:
                row["payment_reference"] = reference
            sums = dict.fromkeys(TOTALS, 0) | {"settlement_amount": sum(row["amount"] for row in rows)}
            account["payouts"].append(
                {
                    "payment_reference": reference,
                    "payout_date": _stamp(latest),
                    "currency_code": account["currency"],
                    "merchant_settlement_type": "NET",
                    "merchant_id": account["merchant_id"],
                    "totals": sums,
                }
            )

    def tick(self) -> None:
        now = self.now()
        for account in self.state["accounts"].values():
            for token in list(account["tokens"].values()):
                for plan in token["plans"].values():
                    while token["status"] == "ACTIVE" and token["ending"] is None and plan["next_at"] <= now:
                        self._renew(account, token["id"], plan, plan["next_at"])
            for order in account["orders"].values():
                self._age(account, order, now)
            self._pay_out(account)

    def _age(self, account: Account, order: dict[str, Any], now: datetime) -> None:
        if order["status"] == "AUTHORIZED" and datetime.fromisoformat(order["expires_at"]) <= now:
            order |= {"status": "EXPIRED", "remaining_authorized_amount": 0}
        reviewed = datetime.fromisoformat(order["created_at"]) + REVIEW_TAKES <= now
        if order["fraud_status"] == "PENDING" and reviewed:
            order["fraud_status"] = "ACCEPTED"
            self._notify(account, order["order_id"], None, "FRAUD_RISK_ACCEPTED", now)

    # Webhooks

    def _notify(
        self,
        account: Account,
        order_id: str | None,
        token: str | None,
        word: str,
        at: datetime,
        told: bool = True,
    ) -> None:
        """v2: a signed event about a payment request. Classic: an unsigned push, little more than the order's id."""
        if account["signing"] is not None:
            self._signed(account, self._event(account, order_id, token, word, at), at, told)
        elif order_id is not None:
            said: dict[str, Any] = {"order_id": order_id}
            if word.startswith("FRAUD"):
                said["event_type"] = word
            body, headers = json.dumps(said).encode(), {"Content-Type": "application/json"}
            self._tell(account, Delivery(account["webhook"], headers, body), at, told)

    def _signed(self, account: Account, event: dict[str, Any], at: datetime, told: bool = True) -> None:
        """An event to every webhook that wants it, each signed with the key that it names."""
        kind = event["metadata"]["event_type"]
        for name, hook in account["hooks"].items():
            wants = any(fnmatch(kind, wanted) for wanted in hook["event_types"])
            if wants and hook["status"] == "ENABLED":
                self._tell(account, self._delivery(account, name, event), at, told)

    def _delivery(self, account: Account, name: str, event: dict[str, Any]) -> Delivery:
        hook = account["hooks"][name]
        body = json.dumps({**event, "metadata": {**event["metadata"], "webhook_id": name}}).encode()
        headers = {
            "Content-Type": "application/json",
            "Klarna-Signing-Key-Id": hook["signing_key_id"],
            "Klarna-Signature": sign(account["keys"][hook["signing_key_id"]]["text"], body),
        }
        return Delivery(hook["url"], headers, body)

    def _tell(self, account: Account, delivery: Delivery, at: datetime, told: bool) -> None:
        if told:
            self.deliver(delivery)
        else:
            account["past"].append((_stamp(at), delivery))

    def _event(
        self, account: Account, order_id: str | None, token: str | None, word: str, at: datetime
    ) -> dict[str, Any]:
        state = word if word in ("COMPLETED", "DECLINED") else "COMPLETED"
        payload: dict[str, Any] = {
            "payment_request_id": f"krn:payment:eu1:request:{self._made()}",
            "payment_request_reference": f"checkout-{self.state['made']}",
            "state": state,
            "previous_state": "IN_PROGRESS",
        }
        if order_id:
            payload["payment_transaction_id"] = f"krn:payment:eu1:transaction:{order_id}"
        if token:
            payload["klarna_customer"] = {"customer_token": token}
        return {
            "metadata": {
                "event_id": self._made(),
                "event_type": f"payment.request.state-change.{state.lower()}",
                "event_version": "v2",
                "occurred_at": _stamp(at),
                "live": account["live"],
            },
            "payload": payload,
        }

    def proof_of(self, delivery: Delivery) -> str | None:
        return delivery.headers.get("Klarna-Signature")

    def with_proof(self, delivery: Delivery, proofs: list[str]) -> tuple[list[tuple[str, str]], bytes]:
        others = [pair for pair in delivery.headers.items() if pair[0] != "Klarna-Signature"]
        return [*others, *(("Klarna-Signature", proof) for proof in proofs)], delivery.body

    def forgeries(self, sample: Sample, delivery: Delivery) -> list[Forgery]:
        found = super().forgeries(sample, delivery)
        if not found:
            return []
        key_id, key = self.account(sample)["signing"]
        raw = hmac.digest(key.encode(), delivery.body, "sha256")
        decoded = base64.b64decode(key + "==")
        signed: dict[str, tuple[list[str], str]] = {
            "an unknown key id": (
                ["krn:partner:global:notification:signing-key:other"],
                sign(key, delivery.body),
            ),
            "no key id": ([], sign(key, delivery.body)),
            "two key ids": ([key_id, key_id], sign(key, delivery.body)),
            "another shop's key": ([key_id], sign("c2lnbmluZy1rZXktb2Ytc29tZWJvZHktZWxzZQ=", delivery.body)),
            "base64 for hex": ([key_id], base64.b64encode(raw).decode()),
            "the key decoded first": ([key_id], hmac.new(decoded, delivery.body, "sha256").hexdigest()),
            "SHA-1": ([key_id], hmac.new(key.encode(), delivery.body, "sha1").hexdigest()),
            "no key at all": ([key_id], hashlib.sha256(delivery.body).hexdigest()),
        }
        for what, (ids, signature) in signed.items():
            headers = [("Content-Type", "application/json"), ("Klarna-Signature", signature)]
            headers += [("Klarna-Signing-Key-Id", one) for one in ids]
            found.append(Forgery(what, headers, delivery.body))
        return found

    # The API

    def _known(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Finds the account of a call by its key, and nobody else's."""

        async def endpoint(request: Request) -> Response:
            given = request.headers.get("authorization", "")
            for account in self.state["accounts"].values():
                if hmac.compare_digest(given.encode(), account["proof"].encode()):
                    if self.mode == "decline" and request.method != "GET":
                        return _error(403, "NOT_ALLOWED", "The operation is not allowed")
                    return await handler(request, account)
            return self.refused_keys()

        return endpoint

    async def _get_order(self, request: Request, account: Account) -> Response:
        order_id = request.path_params["order_id"]
        try:
            uuid.UUID(order_id)
        except ValueError:
            return _error(400, "INVALID_ORDER_ID", "The order id is not valid")
        if order_id not in account["orders"]:
            return _error(404, "NO_SUCH_ORDER", f"Order not found: {order_id}")
        return JSONResponse(account["orders"][order_id])

    async def _get_token(self, request: Request, account: Account) -> Response:
        token = account["tokens"].get(request.path_params["token"])
        if token is None:
            return _error(404, "NOT_FOUND", "Invalid customer-token ID")
        if token["ending"] == 0:
            token["status"] = "CANCELLED"
        elif token["ending"] is not None:
            token["ending"] -= 1
        return JSONResponse({**token["shown"], "status": token["status"]})

    async def _patch_token(self, request: Request, account: Account) -> Response:
        token = account["tokens"].get(request.path_params["token"])
        if token is None:
            return _error(404, "NOT_FOUND", "Invalid token ID")
        if (await _json(request)).get("status") != "CANCELLED":
            return _error(400, "BAD_VALUE", "status: must be CANCELLED")
        if token["ending"] is None and token["status"] != "CANCELLED":
            token["ending"] = self.cancel_takes
        return PlainTextResponse("Token patch request has been accepted and is being processed.", 202)

    async def _post_session(self, request: Request, account: Account) -> Response:
        said = await _json(request)
        needed = ("purchase_country", "purchase_currency", "order_amount", "order_lines")
        if missing := [name for name in needed if name not in said]:
            return _error(400, "BAD_VALUE", f"{missing[0]}: must not be null")
        if said["order_amount"] != sum(line["total_amount"] for line in said["order_lines"]):
            return _error(400, "BAD_VALUE", "Bad value: order_amount")
        session = self._made()
        account["sessions"][session] = said
        return JSONResponse({"session_id": session, "client_token": f"eyJ.{session}"})

    async def _post_visit(self, request: Request, account: Account) -> Response:
        said = await _json(request)
        session = str(said.get("payment_session_url", "")).rpartition("/payments/v1/sessions/")[2]
        if session not in account["sessions"]:
            return _error(400, "BAD_VALUE", "payment_session_url: no such session")
        visit, now = self._made(), self.now()
        account["visits"][visit] = {
            "session": session,
            "status": "WAITING",
            "urls": said.get("merchant_urls") or {},
            "approval": None,
            "expires_at": _stamp(now + timedelta(hours=47)),
        }
        answer = {
            "session_id": visit,
            "session_url": f"{self.address}/hpp/v1/sessions/{visit}",
            "redirect_url": f"{self.address}/eu/hpp/payments/{visit}",
            "expires_at": _stamp(now + timedelta(hours=47)),
        }
        return JSONResponse(answer, 201)

    async def _get_visit(self, request: Request, account: Account) -> Response:
        visit = account["visits"].get(request.path_params["visit"])
        if visit is None:
            return _error(404, "NOT_FOUND", "Session not found")
        answer = {
            "session_id": request.path_params["visit"],
            "status": visit["status"],
            "expires_at": visit["expires_at"],
            "updated_at": _stamp(self.now()),
        }
        return JSONResponse(
            answer | ({"authorization_token": visit["approval"]} if visit["approval"] else {})
        )

    async def _post_token(self, request: Request, account: Account) -> Response:
        said, approval = await _json(request), account["approvals"].get(request.path_params["approval"])
        needed = ("purchase_country", "purchase_currency", "locale", "description", "intended_use")
        if missing := [name for name in needed if not said.get(name)]:
            return _error(400, "BAD_VALUE", f"{missing[0]}: must not be null")
        if approval is None or approval["spent"] or approval["until"] < self.now():
            return _error(404, "NOT_FOUND", "Invalid authorization token")
        approval["spent"] = True
        shown = {**METHODS[approval["method"]]}
        if "card" in shown:
            shown["card"] = {**shown["card"], "brand": "MASTERCARD", "masked_number": "**** 5100"}
        token = self._token(account, "", approval["method"], shown)
        return JSONResponse({"token_id": token, "redirect_url": f"{self.address}/eu/redirect/{token[:8]}"})

    async def _get_payouts(self, request: Request, account: Account) -> Response:
        query = request.query_params
        since, until = query.get("start_date", "0"), query.get("end_date", "9")
        found = [payout for payout in account["payouts"] if since <= payout["payout_date"] <= until]
        return self._paged(request, "payouts", found)

    async def _get_transactions(self, request: Request, account: Account) -> Response:
        rows = account["transactions"]
        for name in ("payment_reference", "order_id"):
            if wanted := request.query_params.get(name):
                rows = [row for row in rows if row[name] == wanted]
        return self._paged(request, "transactions", [row for row in rows if row["payment_reference"]])

    def _paged(self, request: Request, name: str, found: list[Any]) -> Response:
        try:
            size, offset = (
                int(request.query_params.get(one, usual)) for one, usual in (("size", 20), ("offset", 0))
            )
        except ValueError:
            return _error(400, "BAD_VALUE", "size and offset are numbers")
        if not 1 <= size <= 500 or offset < 0:
            return _error(400, "BAD_VALUE", "size: must be between 1 and 500")
        rows = found[offset : offset + size]
        pages = {"count": len(rows), "total": len(found), "offset": offset}
        return JSONResponse({name: rows, "pagination": pages})

    # The API for webhooks, for partners alone

    def _partner(self, handler: Handler) -> Handler:
        async def allowed(request: Request, account: Account) -> Response:
            if account["signing"] is None:
                return self._wrong(403, "ACCESS_ERROR", "PERMISSION_DENIED", "Not a partner account")
            return await handler(request, account)

        return allowed

    def _wrong(self, status: int, sort: str, code: str, message: str) -> Response:
        said = {"error_id": self._made(), "error_type": sort, "error_code": code}
        return JSONResponse({**said, "error_message": message, "doc_url": ""}, status)

    async def _get_keys(self, request: Request, account: Account) -> Response:
        keys = [{"signing_key_id": name, "created_at": key["made"]} for name, key in account["keys"].items()]
        return JSONResponse({"signing_keys": keys})

    async def _post_key(self, request: Request, account: Account) -> Response:
        """The only answer that shows a key."""
        if len(account["keys"]) >= 50:
            return self._wrong(400, "INPUT_ERROR", "LIMIT_REACHED", "No more than 50 signing keys")
        name, made = f"{KEY}{self._made()}", _stamp(self.now())
        text = base64.b64encode(f"signing key {name}".encode()).decode()
        account["keys"][name] = {"text": text, "made": made}
        return JSONResponse({"signing_key_id": name, "signing_key": text, "created_at": made}, 201)

    async def _delete_key(self, request: Request, account: Account) -> Response:
        name = request.path_params["key"]
        if name not in account["keys"]:
            return self._wrong(404, "RESOURCE_ERROR", "RESOURCE_NOT_FOUND", "No such signing key")
        if any(one["signing_key_id"] == name for one in account["hooks"].values()):
            return self._wrong(409, "RESOURCE_ERROR", "RESOURCE_CONFLICT", "The signing key is in use")
        del account["keys"][name]
        return Response(status_code=204)

    def _shown_hook(self, account: Account, name: str) -> dict[str, Any]:
        return {"webhook_id": name, **account["hooks"][name], "created_at": "2026-01-05T09:00:00Z"}

    async def _get_hooks(self, request: Request, account: Account) -> Response:
        names = [name for name, one in account["hooks"].items() if one["url"]]
        return JSONResponse({"webhooks": [self._shown_hook(account, name) for name in names]})

    async def _post_hook(self, request: Request, account: Account) -> Response:
        said = await _json(request)
        needed = ("url", "event_types", "event_version", "signing_key_id")
        if missing := [name for name in needed if not said.get(name)]:
            return self._wrong(400, "INPUT_ERROR", "INVALID_VALUE", f"{missing[0]} is missing")
        if said["signing_key_id"] not in account["keys"]:
            return self._wrong(404, "RESOURCE_ERROR", "RESOURCE_NOT_FOUND", "No such signing key")
        kept = {"status": "ENABLED"} | {name: said[name] for name in (*needed, "status") if name in said}
        same = ("url", "event_types", "event_version")
        if any(all(one[part] == kept[part] for part in same) for one in account["hooks"].values()):
            return self._wrong(
                409, "RESOURCE_ERROR", "RESOURCE_CONFLICT", "The webhook configuration already exists"
            )
        name = f"{HOOK}{self._made()}"
        account["hooks"][name] = kept
        return JSONResponse(self._shown_hook(account, name), 201)

    def _no_hook(self) -> Response:
        return self._wrong(404, "RESOURCE_ERROR", "RESOURCE_NOT_FOUND", "No such webhook")

    async def _get_hook(self, request: Request, account: Account) -> Response:
        name = request.path_params["hook"]
        return JSONResponse(self._shown_hook(account, name)) if name in account["hooks"] else self._no_hook()

    async def _delete_hook(self, request: Request, account: Account) -> Response:
        if account["hooks"].pop(request.path_params["hook"], None) is None:
            return self._no_hook()
        return Response(status_code=204)

    async def _simulate(self, request: Request, account: Account) -> Response:
        """An event about a payment that there is not."""
        name, said = request.path_params["hook"], await _json(request)
        if name not in account["hooks"]:
            return self._no_hook()
        word = str(said.get("event_type")).rpartition(".")[2].upper()
        event = self._event(account, str(uuid.uuid4()), None, word, self.now())
        self.deliver(self._delivery(account, name, event))
        return Response(status_code=202)

    # The hosted payment page

    def is_page(self, method: str, path: str) -> bool:
        return path.startswith("/eu/hpp/payments/")

    def _visit(self, request: Request) -> tuple[Account, dict[str, Any]] | None:
        for account in self.state["accounts"].values():
            if visit := account["visits"].get(request.path_params["visit"]):
                return account, visit
        return None

    async def _page(self, request: Request) -> Response:
        found = self._visit(request)
        if found is None:
            return page("Klarna", "This page is no longer there", "<p>Go back to the shop.</p>", 404)
        account, visit = found
        if visit["status"] not in ("WAITING", "IN_PROGRESS"):
            return page("Klarna", "This is done", "<p>Go back to the shop.</p>")
        visit["status"] = "IN_PROGRESS"
        name = html.escape(account["sessions"][visit["session"]]["order_lines"][0]["name"])
        body = f"""<p>{name}: the shop may charge you by Klarna from now on. Today you pay nothing.</p>
<form method="post"><label>Pay with <select name="method"><option value="card">Mastercard 5100</option>
<option value="bank_debit">Bank account 3000</option></select></label>
<button name="choice" value="accept" data-test="accept">Continue</button>
<button name="choice" value="decline" data-test="decline">Refuse</button>
<button name="choice" value="back" data-test="back">Back to the shop</button></form>"""
        return page("Klarna", "Save your payment method", body)

    async def _press(self, request: Request) -> Response:
        found, form = self._visit(request), await request.form()
        if found is None:
            return page("Klarna", "This page is no longer there", "<p>Go back to the shop.</p>", 404)
        account, visit = found
        choice, urls = form.get("choice"), visit["urls"]
        if choice == "accept" and self.mode != "decline":
            approval = self._made()
            method = str(form.get("method") or "card")
            account["approvals"][approval] = {
                "session": visit["session"],
                "spent": False,
                "until": self.now() + APPROVAL_LASTS,
                "method": method if method in METHODS else "card",
            }
            visit |= {"status": "COMPLETED", "approval": approval}
            return RedirectResponse(_filled(urls.get("success"), request), 303)
        visit["status"] = "BACK" if choice == "back" else "FAILED"
        return RedirectResponse(_filled(urls.get("back" if choice == "back" else "failure"), request), 303)

    # Answers that are the same everywhere

    def refused_keys(self) -> Response:
        return _error(401, "UNAUTHORIZED", "Unauthorized")

    def limited(self, retry_after: int | None) -> Response:
        answer = _error(429, "TOO_MANY_REQUESTS", "Rate limit reached")
        answer.headers["X-Ratelimit-Limit"] = "20"
        if retry_after is not None:
            answer.headers["Retry-After"] = str(retry_after)
        return answer

    def outage(self) -> Response:
        return _error(503, "TEMPORARILY_UNAVAILABLE", "Service temporarily unavailable")

    def _made(self) -> str:
        """The next id, the same in every run."""
        self.state["made"] += 1
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://klarna.example/{self.state['made']}"))


def sign(key: str, body: bytes) -> str:
    """Klarna-Signature: HMAC-SHA256 of the raw body in lower-case hex, keyed with the signing key as text."""
    return hmac.new(key.encode(), body, "sha256").hexdigest()


def _line(item: Mapping[str, Any]) -> dict[str, Any]:
    line = {
        "type": "physical",
        "reference": item["reference"],
        "name": item["name"],
        "quantity": 1,
        "unit_price": item["amount"],
        "tax_rate": 2500,
        "total_amount": item["amount"],
        "total_discount_amount": 0,
        "total_tax_amount": item["amount"] // 5,
    }
    if "interval" in item:
        plan = {"name": item["name"], "interval": item["interval"], "interval_count": item["count"]}
        line |= {"type": "digital", "subscription": plan}
    return line


def _later(at: datetime, plan: Mapping[str, Any]) -> datetime:
    """When the shop charges next."""
    if plan["interval"] in ("DAY", "WEEK"):
        return at + timedelta(days=plan["count"] * (7 if plan["interval"] == "WEEK" else 1))
    months = plan["count"] * (12 if plan["interval"] == "YEAR" else 1)
    year, month = divmod(at.year * 12 + at.month - 1 + months, 12)
    return at.replace(year=year, month=month + 1, day=min(at.day, monthrange(year, month + 1)[1]))


def _error(status: int, code: str, message: str) -> JSONResponse:
    said = {"error_code": code, "error_messages": [message], "correlation_id": str(uuid.uuid4())}
    return JSONResponse(said, status)


async def _json(request: Request) -> dict[str, Any]:
    try:
        said = await request.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _filled(url: str | None, request: Request) -> str:
    """A merchant's address with its placeholder filled in."""
    return (url or "about:blank").replace("{{session_id}}", request.path_params["visit"])


def _stamp(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}Z"
