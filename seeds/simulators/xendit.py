"""A stand-in for Xendit: plans and their cycles, sessions with hosted pages, v3 payments, refunds, invoices of old.

Amounts are JSON numbers in major units, times ISO 8601 in UTC, keys HTTP Basic without a password, lists go on by
`after_id` (invoices by `last_invoice`), and webhooks prove their origin by one header that is always the same.
Written from https://docs.xendit.co/apidocs. Where these are silent the harder way is taken: a changed plan does not
reprice what is scheduled, an ended one takes metadata only, a used idempotency key is refused with 409, and either
generation of the API knows nothing of the other's plans.
"""

import base64
import binascii
import html
import json
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from seeds.simulators.harness import Delivery, Forgery, Harness, Sample, Situation, Standing, page

NEW, OLD = "2026-01-01", "2022-04-10"
Json = dict[str, Any]
DAY = timedelta(days=1)
WITHOUT_CENTS = ("VND", "JPY", "KRW")  # by ISO 4217; rupiah have two there, and Xendit writes them whole
COUNTRIES = {"ID": "IDR", "PH": "PHP", "VN": "VND", "TH": "THB", "SG": "SGD", "MY": "MYR"}
CHANNELS = {"card": "CARDS", "wallet": "GCASH", "bank_debit": "BPI_DIRECT_DEBIT"}
CATEGORIES = {"CARDS": "CARDS", "GCASH": "EWALLET", "BPI_DIRECT_DEBIT": "DIRECT_DEBIT"}
PLAN_FIELDS = {
    *("amount", "locale", "notification_channels", "description", "items", "metadata", "payment_tokens"),
    *("payment_methods", "schedule", "payment_link_for_failed_attempt"),
}
STAGES = ("incomplete", "trialing", "active", "past_due", "cancelled", "expired")


class Refusal(Exception):
    """An error in Xendit's shape."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = JSONResponse({"error_code": code, "message": message}, status)


class Simulator(Harness):
    """Accounts by their secret key; everything of one account stands in its own dictionaries."""

    name = "xendit"

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(clock)
        self.state = {"accounts": {}}
        self._past: list[tuple[list[tuple[str, str]], bytes]] | None = None  # while a history is made

    # What demo and contract tests ask for

    def samples(self) -> list[Sample]:
        def keys(letter: str, **more: str) -> dict[str, str]:
            return {
                "secret_key": f"xnd_development_{letter * 44}",
                "webhook_token": f"{letter}Tok3n" * 8,
            } | more

        return [
            Sample("Sari-sari box", keys("a")),
            Sample("Another shop", keys("b")),
            Sample("New plan after a cancel", keys("c"), options=("new_plan_after_cancel",)),
            Sample("Sub-account of a platform", keys("d", for_user_id="5f27a14a9bf05c73dd040bc8")),
        ]

    def open(self, sample: Sample, webhook_url: str) -> None:
        kinds = "customers plans cycles tokens payments refunds invoices sessions used"
        credentials = sample.credentials
        self.state["accounts"][credentials["secret_key"]] = {
            "token": credentials["webhook_token"],
            "user": credentials.get("for_user_id", ""),
            "business": uuid.uuid5(uuid.NAMESPACE_URL, credentials["secret_key"]).hex[:24],
            "url": webhook_url,
            "forbidden": [],  # beginnings of paths that the key may not ask
            "transactions": [],
            "past": [],
        } | {kind: {} for kind in kinds.split()}

    def fill(self, sample: Sample) -> None:
        account, now = self._account(sample), self.now()
        self._past = account["past"]
        try:
            self._history(account, now)
        finally:
            self._past = None

    def _history(self, account: Json, now: datetime) -> None:
        def ago(days: float) -> datetime:
            return (now - timedelta(days=days)).replace(microsecond=0)

        def plan(name: str, started: datetime, **more: Any) -> Json:
            return self._plan(account, f"{name}@example.com", started, **more)

        for one in (
            plan("noor", ago(75), title="Coffee box", amount=649),
            plan("ayu", ago(40), title="Kopi bulanan", amount=150000, country="ID", channel="wallet"),
            plan("budi", ago(5), title="Fruit box", amount=1200.5, begins=now + 9 * DAY),
            plan("citra", ago(33), title="Yoga studio", amount=990, failing_after=1, retries=10),
            plan("dewi", ago(33), title="Newspaper", amount=350, failing_after=1, link=False),
            plan("eko", ago(100), title="Tea box", amount=480, ends=ago(12)),
            plan("fitri", ago(95), title="Course in three parts", amount=1500, total=3),
            plan("gita", ago(1), title="Gym", amount=1100, status="REQUIRES_ACTION"),
            plan("hadi", ago(50), title="Water delivery", amount=275, legacy=True, channel="bank_debit"),
            plan("xendit", ago(64), title="Coffee box", amount=649),
            plan("xendit", ago(12), title="Kopi bulanan", amount=299, channel="wallet"),
            plan("xendit", ago(3), title="Fruit box", amount=1200.5, begins=now + 11 * DAY),
            plan("xendit", ago(34), title="Yoga studio", amount=990, failing_after=1, retries=10),
            plan("xendit", ago(110), title="Tea box", amount=480, ends=ago(20)),
        ):
            self._run(account, one, now)
            if one["_ends"] and one["status"] == "ACTIVE":
                self._deactivate(account, one, datetime.fromisoformat(one["_ends"]))
        self._invoice(account, "noor@example.com", "SO-1001", [("Mug", 2, 250)], "PAID", ago(20))
        mill = [("Coffee mill", 1, 2499.5)]
        paid = self._invoice(account, "joko@example.com", "SO-1002", mill, "SETTLED", ago(14))
        self._refund(account, paid["_payment"], 1000, ago(10))
        self._invoice(account, "kartika@example.com", "SO-1003", [("Filters", 3, 120)], "PENDING", ago(1))
        self._invoice(account, "kartika@example.com", "SO-1000", [("Kettle", 1, 1990)], "EXPIRED", ago(60))
        self._invoice(account, "xendit@example.com", "SO-1004", [("Kettle", 1, 1990)], "SETTLED", ago(25))
        self._invoice(account, "xendit@example.com", "SO-1005", [("Filters", 2, 120)], "PENDING", ago(2))
        sale = self._sale(account, "lina@example.com", "Gift card", 500, ago(8))
        self._refund(account, sale, 500, ago(6))

    def past_deliveries(self, sample: Sample) -> list[tuple[list[tuple[str, str]], bytes]]:
        return list(self._account(sample)["past"])

    def stage(self, sample: Sample, email: str, situation: Situation) -> str | None:
        sort = situation.object or "plan"
        past_due = situation.state == "past_due"
        channel = situation.method or "card"
        failed_for_good = past_due and situation.due is False
        if (
            situation.state not in STAGES
            or sort not in ("plan", "plan_without_link", "legacy_plan")
            or channel not in CHANNELS
            or (situation.due is True and not past_due)
            or (failed_for_good and situation.object == "plan")
        ):
            return None
        account, now = self._account(sample), self.now().replace(microsecond=0)
        expired = situation.state == "expired"
        begins = now + 20 * DAY if situation.state == "trialing" else None
        more: Json = {"begins": begins, "total": 3 if expired else None}
        more |= {"status": "REQUIRES_ACTION" if situation.state == "incomplete" else "ACTIVE"}
        more |= {"link": sort == "plan" and not failed_for_good, "tokens": situation.token is not False}
        more |= {"title": "Staged box", "amount": 649, "channel": channel, "legacy": sort == "legacy_plan"}
        plan = self._plan(account, email, now - (90 if expired else 20) * DAY, **more)
        self._run(account, plan, now)
        if past_due:
            cycle = self._open_cycle(account, plan)
            cycle["scheduled_timestamp"] = iso(now - timedelta(hours=1))
            plan["schedule"]["total_retry"] = None if failed_for_good else 5
            self._token(account, plan)["_good"] = False
            self._attempt(account, plan, cycle, "INITIAL", now)
            self._token(account, plan)["_good"] = situation.due is True  # there is money again
        if situation.state == "cancelled":
            self._deactivate(account, plan, now)
        number: str = plan["id"]
        return number

    def standing(self, remote_id: str) -> Standing:
        account, plan = self._found(remote_id)
        cycles = self._cycles(account, remote_id)
        coming = [(one["scheduled_timestamp"], one) for one in cycles if one["status"] == "SCHEDULED"]
        coming += [(one["_retry_at"], one) for one in cycles if one["status"] == "RETRYING"]
        first = min(coming, key=lambda one: one[0]) if coming and plan["status"] == "ACTIVE" else None
        saved = plan.get("payment_tokens") or plan.get("payment_methods") or []
        return Standing(
            raw=plan["status"],
            charges=first is not None and bool(saved),
            next_on=datetime.fromisoformat(first[0]).date() if first else None,
            method=(saved[0].get("payment_token_id") or saved[0].get("payment_method_id")) if saved else None,
            payments=sum(one["status"] == "SUCCEEDED" for one in cycles),
            amount=minor(first[1]["amount"], plan["currency"]) if first else None,
        )

    def charge(self, remote_id: str, succeeds: bool = True) -> None:
        account, plan = self._found(remote_id)
        now = self.now().replace(microsecond=0)
        cycle = self._open_cycle(account, plan) or self._new_cycle(account, plan, now, now)
        if cycle["status"] == "SCHEDULED":
            cycle["_planned"], cycle["scheduled_timestamp"] = cycle["scheduled_timestamp"], iso(now)
        kind = "RETRY" if cycle["status"] == "RETRYING" else "INITIAL"
        self._attempt(account, plan, cycle, kind, now, succeeds)

    def proof_of(self, delivery: Delivery) -> str | None:
        return delivery.headers.get("x-callback-token")

    def with_proof(self, delivery: Delivery, proofs: list[str]) -> tuple[list[tuple[str, str]], bytes]:
        others = [(name, value) for name, value in delivery.headers.items() if name != "x-callback-token"]
        return [*others, *(("x-callback-token", proof) for proof in proofs)], delivery.body

    def other_bodies(self, delivery: Delivery) -> list[Forgery]:
        """The token says nothing of the body; what is no notice at all must be refused even so."""
        headers = list(delivery.headers.items())
        bodies = {"empty": b"", "cut short": delivery.body[:-1], "a list": b"[]", "no notice": b"{}"}
        return [Forgery(what, headers, body) for what, body in bodies.items()]

    def tick(self) -> None:
        now = self.now()
        for account in self.state["accounts"].values():
            for plan in list(account["plans"].values()):
                self._run(account, plan, now)
            for session in account["sessions"].values():
                if session["status"] == "ACTIVE" and session["expires_at"] <= iso(now):
                    session |= {"status": "EXPIRED", "updated": session["expires_at"]}
                    self._hook(account, "payment_session.expired", session, now)
            for invoice in account["invoices"].values():
                if invoice["status"] == "PENDING" and invoice["expiry_date"] <= iso(now):
                    invoice |= {"status": "EXPIRED", "updated": invoice["expiry_date"]}
                    self._hook(account, "", invoice, now)

    def refused_keys(self) -> Response:
        return Refusal(401, "INVALID_API_KEY", "API key format is invalid.").answer

    def limited(self, retry_after: int | None) -> Response:
        answer = Refusal(429, "RATE_LIMIT_EXCEEDED", "Rate limit exceeded. Please try again later.").answer
        answer.headers["Rate-Limit-Remaining"] = "0"
        if retry_after is not None:
            answer.headers["Rate-Limit-Reset"] = answer.headers["Retry-After"] = str(retry_after)
        return answer

    def outage(self) -> Response:
        if self.mode == "down":
            return Refusal(503, "CHANNEL_UNAVAILABLE", "The payment channel is currently unavailable.").answer
        return Refusal(500, "SERVER_ERROR", "An unexpected error occurred.").answer

    def is_page(self, method: str, path: str) -> bool:
        return path.startswith(("/link/", "/web/"))

    def forbid(self, sample: Sample, *beginnings: str) -> None:
        """Take the permission for some paths from a key."""
        self._account(sample)["forbidden"] = list(beginnings)

    def refund(self, sample: Sample, payment_id: str, amount: float) -> None:
        """The merchant gives money back in the dashboard."""
        account = self._account(sample)
        self._refund(account, account["payments"][payment_id], amount, self.now())

    def _account(self, sample: Sample) -> Json:
        account: Json = self.state["accounts"][sample.credentials["secret_key"]]
        return account

    def _found(self, number: str, kind: str = "plans") -> tuple[Json, Json]:
        for account in self.state["accounts"].values():
            if number in account[kind]:
                return account, account[kind][number]
        raise KeyError(number)

    # Making things

    def _customer(self, account: Json, email: str, at: datetime) -> Json:
        for one in account["customers"].values():
            if one["email"] == email:
                return dict(one)
        name = email.partition("@")[0].capitalize()
        one = {"id": new("cust-"), "reference_id": f"ref-{uuid.uuid4().hex[:12]}", "type": "INDIVIDUAL"}
        one |= {"individual_detail": {"given_names": name, "surname": "Santos"}, "business_detail": None}
        one |= {"email": email, "mobile_number": None, "addresses": [], "metadata": None}
        account["customers"][one["id"]] = one | {"created": iso(at), "updated": iso(at)}
        return one

    def _method(
        self, account: Json, customer: str, channel: str, plan: Json, digits: str, at: datetime
    ) -> str:
        """A payment token, or a payment method of v2."""
        code, legacy = CHANNELS[channel], "payment_methods" in plan
        card = {"network": "VISA", "masked_card_number": f"4000XXXXXXXX{digits}", "type": "CREDIT"}
        card |= {"expiry_month": "12", "expiry_year": str(at.year + 3), "country": plan["country"]}
        one: Json = {"status": "ACTIVE", "customer_id": customer, "created": iso(at), "updated": iso(at)}
        one |= {"_good": True, "_channel": code, "_card": card if channel == "card" else {}}
        if not legacy:
            one |= {"payment_token_id": new("pt-"), "country": plan["country"], "currency": plan["currency"]}
            one |= {"channel_code": code, "business_id": account["business"]}
            one["channel_properties"] = {"card_details": card} if channel == "card" else {}
        else:
            sort = {"card": "CARD", "wallet": "EWALLET", "bank_debit": "DIRECT_DEBIT"}[channel]
            detail = {"card_information": card} if channel == "card" else {"channel_code": code}
            one |= {"id": new("pm-"), "type": sort, "reusability": "MULTIPLE_USE", sort.lower(): detail}
        number: str = one.get("payment_token_id") or one["id"]
        account["tokens"][number] = one
        return number

    def _plan(
        self, account: Json, email: str, at: datetime, *, title: str, amount: float, **more: Any
    ) -> Json:
        """`more`: country, channel, begins, total, status, legacy, link, retries, failing_after, ends, tokens."""
        country, status = more.get("country", "PH"), more.get("status", "ACTIVE")
        legacy = more.get("legacy", False)
        anchor = more.get("begins") or at
        anchor = anchor if anchor.day <= 28 else anchor.replace(day=28)
        customer, currency = self._customer(account, email, at), COUNTRIES[country]
        item = {"reference_id": "box", "type": "PHYSICAL_PRODUCT", "name": title, "category": "SUBSCRIPTION"}
        schedule = {"interval": "MONTH", "interval_count": 1, "total_recurrence": more.get("total")}
        schedule |= {"anchor_date": iso(anchor), "retry_interval": "DAY", "retry_interval_count": 1}
        schedule |= {"total_retry": more.get("retries", 3), "failed_attempt_notifications": []}
        plan: Json = {"id": new("repl_"), "reference_id": f"sub-{uuid.uuid4().hex[:10]}"}
        plan |= {"customer_id": customer["id"], "currency": currency, "amount": amount, "country": country}
        plan |= {"status": status, "recurring_cycle_count": 0}
        plan |= {"schedule": schedule | {"created": iso(at), "updated": iso(at)}}
        plan |= {"failed_cycle_action": "RESUME", "notification_channels": [], "locale": "en"}
        plan |= {"payment_link_for_failed_attempt": more.get("link", True), "metadata": None}
        plan |= {"description": title, "items": [item | {"net_unit_amount": amount, "quantity": 1}]}
        plan |= {"payment_session_id": None, "failure_code": None, "actions": [], "created": iso(at)}
        plan |= {"updated": iso(at)}
        ends = more.get("ends")
        plan |= {"_ends": iso(ends) if ends else None, "_failing_after": more.get("failing_after")}
        if status == "REQUIRES_ACTION":
            url = f"{self.address}/link/auth"
            plan["actions"] = [{"action": "AUTH", "url_type": "WEB", "url": url, "method": "GET"}]
        name = "payment_method" if legacy else "payment_token"
        key = f"{name}s"
        plan[key] = []
        plan |= {"recurring_action": "PAYMENT"} if legacy else {"immediate_payment": False}
        if more.get("tokens", True):
            saved = self._method(account, customer["id"], more.get("channel", "card"), plan, "1091", at)
            plan[key] = [{f"{name}_id": saved, "rank": 1}]
        account["plans"][plan["id"]] = plan
        if status == "ACTIVE":
            self._activate(account, plan, anchor, at)
        return plan

    def _activate(self, account: Json, plan: Json, first: datetime, at: datetime) -> None:
        plan |= {"status": "ACTIVE", "updated": iso(at)}
        self._hook(account, "recurring.plan.activated", plan, at)
        self._new_cycle(account, plan, first, at)

    def _new_cycle(self, account: Json, plan: Json, due: datetime, at: datetime) -> Json:
        plan["recurring_cycle_count"] += 1
        cycle: Json = {"id": new("recy_"), "type": "SCHEDULED", "reference_id": plan["reference_id"]}
        cycle |= {"plan_id": plan["id"], "customer_id": plan["customer_id"]}
        cycle |= {"cycle_number": plan["recurring_cycle_count"], "status": "SCHEDULED", "attempt_details": []}
        cycle |= {"attempt_count": 0, "forced_attempt_count": 0, "scheduled_timestamp": iso(due)}
        cycle |= {"currency": plan["currency"], "amount": plan["amount"], "metadata": None}
        cycle |= {"created": iso(at), "updated": iso(at), "_planned": iso(due)}
        account["cycles"][cycle["id"]] = cycle
        self._hook(account, "recurring.cycle.created", cycle, at)
        return cycle

    def _cycles(self, account: Json, plan: str) -> list[Json]:
        return [one for one in account["cycles"].values() if one["plan_id"] == plan]

    def _open_cycle(self, account: Json, plan: Json) -> Json:
        """The cycle that is charged next; empty where there is none."""
        cycles = self._cycles(account, plan["id"])
        found = [one for one in cycles if one["status"] in ("RETRYING", "SCHEDULED")]
        return min(found, key=lambda one: one["scheduled_timestamp"]) if found else {}

    def _token(self, account: Json, plan: Json) -> Json:
        saved = plan.get("payment_tokens") or plan.get("payment_methods") or []
        ranked = sorted(saved, key=lambda one: one["rank"])
        if not ranked:
            return {"_good": False, "_channel": "CARDS", "_card": {}}
        found: Json = account["tokens"][ranked[0].get("payment_token_id") or ranked[0]["payment_method_id"]]
        return found

    def _run(self, account: Json, plan: Json, now: datetime) -> None:
        """Let fall due what is due of a plan, each at its own moment."""
        while plan["status"] == "ACTIVE":
            due = [
                (one["_retry_at"] if one["status"] == "RETRYING" else one["scheduled_timestamp"], one)
                for one in self._cycles(account, plan["id"])
                if one["status"] in ("SCHEDULED", "RETRYING")
            ]
            when, cycle = min(due, key=lambda one: one[0]) if due else (iso(now), None)
            stop = plan["_ends"] and when > plan["_ends"]
            if cycle is None or datetime.fromisoformat(when) > now or stop:
                return
            if plan["_failing_after"] is not None and cycle["cycle_number"] > plan["_failing_after"]:
                self._token(account, plan)["_good"] = False
            kind = "RETRY" if cycle["status"] == "RETRYING" else "INITIAL"
            self._attempt(account, plan, cycle, kind, datetime.fromisoformat(when))

    def _attempt(
        self, account: Json, plan: Json, cycle: Json, kind: str, at: datetime, succeeds: bool | None = None
    ) -> None:
        """Try to take a cycle's payment, and tell what came of it."""
        token = self._token(account, plan)
        good = succeeds if succeeds is not None else (kind == "PAYMENT_LINK" or token["_good"])
        why = None if good else "INSUFFICIENT_BALANCE"
        payment = self._payment(account, cycle["amount"], plan, token, at, why)
        cycle["attempt_count"] += 1
        cycle["forced_attempt_count"] += kind == "FORCED"
        attempt: Json = {"attempt_number": cycle["attempt_count"], "action_number": 1, "type": kind}
        attempt |= {"created": iso(at), "payment_id": payment["payment_id"]}
        attempt |= {"payment_token_id": token.get("payment_token_id")}
        attempt |= {"status": "SUCCEEDED" if good else "FAILED", "failure_code": why}
        attempt |= {"next_retry_timestamp": None, "payment_session": None}
        cycle["attempt_details"].append(attempt)
        cycle["updated"] = iso(at)
        first = cycle["attempt_count"] == 1
        retries = sum(one["type"] in ("INITIAL", "RETRY") for one in cycle["attempt_details"]) - 1
        if good:
            cycle["status"], name = "SUCCEEDED", "succeeded"
        elif kind == "FORCED":
            attempt["next_retry_timestamp"], name = cycle.get("_retry_at"), "force_attempt_failed"
        elif retries < (plan["schedule"]["total_retry"] or 0):
            cycle["status"], name = "RETRYING", "retrying"
            attempt["next_retry_timestamp"] = cycle["_retry_at"] = iso(at + DAY)
        else:
            cycle["status"], name = "FAILED", "failed"
        if not good and plan["payment_link_for_failed_attempt"] and "payment_tokens" in plan:
            link = self._failed_link(account, plan, cycle, at)
            page_of = {"payment_link_url": link["payment_link_url"]}
            attempt["payment_session"] = {"session_id": link["payment_session_id"]} | page_of
        self._hook(account, f"recurring.cycle.{name}", cycle, at)
        if cycle["status"] == "FAILED" and plan["failed_cycle_action"] == "STOP":
            self._deactivate(account, plan, at)
        elif plan["status"] == "ACTIVE" and first:
            self._goes_on(account, plan, cycle, at)

    def _goes_on(self, account: Json, plan: Json, cycle: Json, at: datetime) -> None:
        total = plan["schedule"]["total_recurrence"]
        if total and plan["recurring_cycle_count"] >= total:
            if cycle["status"] == "SUCCEEDED":
                self._deactivate(account, plan, at)
            return
        planned = datetime.fromisoformat(cycle["_planned"])
        self._new_cycle(account, plan, step(planned, plan["schedule"]), at)

    def _failed_link(self, account: Json, plan: Json, cycle: Json, at: datetime) -> Json:
        session = self._session(account, at, "PAY", cycle["amount"], plan)
        session |= {"_cycle": cycle["id"], "expires_at": iso(at + 30 * DAY)}
        session |= {"description": plan["description"]}
        return session

    def _session(self, account: Json, at: datetime, sort: str, amount: float, of: Json) -> Json:
        number = f"ps-{uuid.uuid4().hex[:24]}"
        session: Json = {"payment_session_id": number, "created": iso(at), "updated": iso(at)}
        session |= {"reference_id": f"session-{uuid.uuid4().hex[:12]}", "customer_id": of["customer_id"]}
        session |= {"session_type": sort, "currency": of["currency"], "amount": amount}
        session |= {"country": of["country"], "mode": "PAYMENT_LINK", "channel_properties": {}}
        session |= {"allowed_payment_channels": [], "expires_at": iso(at + timedelta(minutes=30))}
        session |= {"locale": "en", "metadata": None, "description": None, "items": None}
        session |= {"success_return_url": None, "cancel_return_url": None, "status": "ACTIVE"}
        session |= {"payment_link_url": f"{self.address}/link/{number}", "payment_token_id": None}
        session |= {"payment_id": None, "payment_request_id": None, "business_id": account["business"]}
        account["sessions"][number] = session
        return session

    def _payment(
        self, account: Json, amount: float, of: Json, token: Json, at: datetime, why: str | None = None
    ) -> Json:
        """A v3 payment with its transaction and its notice."""
        payment: Json = {"payment_id": new("py-"), "business_id": account["business"]}
        payment |= {"reference_id": of.get("external_id") or new("pay-"), "payment_request_id": new("pr-")}
        payment |= {"payment_token_id": token.get("payment_token_id"), "customer_id": of["customer_id"]}
        payment |= {"type": "PAY", "country": of["country"], "currency": of["currency"]}
        payment |= {"request_amount": amount, "capture_method": "AUTOMATIC"}
        payment |= {"channel_code": token["_channel"]}
        payment |= {"channel_properties": {"card_details": token["_card"]} if token["_card"] else {}}
        payment |= {"captures": [], "status": "FAILED" if why else "SUCCEEDED", "payment_details": {}}
        payment |= {"failure_code": why, "metadata": None, "created": iso(at), "updated": iso(at)}
        if not why:
            capture = {"capture_id": new("cap-"), "capture_timestamp": iso(at), "capture_amount": amount}
            payment["captures"] = [capture]
        account["payments"][payment["payment_id"]] = payment
        data, number = of.get("_data", {}), payment["payment_id"]
        self._transaction(account, number, "PAYMENT", payment, amount, at, **data)
        self._hook(account, "payment.failure" if why else "payment.capture", payment, at)
        return payment

    def _transaction(
        self, account: Json, product: str, sort: str, payment: Json, amount: float, at: datetime, **data: Any
    ) -> None:
        channel = payment["channel_code"]
        digits = payment["channel_properties"].get("card_details", {}).get("masked_card_number")
        one: Json = {"id": new("txn_"), "product_id": product, "type": sort}
        one |= {"status": "FAILED" if payment["status"] == "FAILED" else "SUCCESS"}
        one |= {"channel_category": CATEGORIES[channel], "channel_code": channel}
        one |= {"reference_id": payment["reference_id"], "account_identifier": digits}
        one |= {"currency": payment["currency"], "amount": amount}
        one |= {"cashflow": "MONEY_IN" if sort == "PAYMENT" else "MONEY_OUT"}
        one |= {"business_id": account["business"], "created": iso(at), "updated": iso(at)}
        one |= {"product_data": data or {"payment_request_id": payment["payment_request_id"]}}
        account["transactions"].append(one)

    def _sale(self, account: Json, email: str, title: str, amount: float, at: datetime) -> Json:
        """Somebody bought something once in a session."""
        customer = self._customer(account, email, at)
        of = {"customer_id": customer["id"], "currency": "PHP", "country": "PH"}
        session = self._session(account, at, "PAY", amount, of)
        item = {"reference_id": "item", "type": "PHYSICAL_PRODUCT", "name": title, "category": "GOODS"}
        session["items"] = [item | {"net_unit_amount": amount, "quantity": 1, "currency": "PHP"}]
        paid = self._payment(account, amount, session, {"_channel": "GCASH", "_card": {}}, at)
        session |= {"status": "COMPLETED", "description": title, "payment_id": paid["payment_id"]}
        session["payment_request_id"] = paid["payment_request_id"]
        self._hook(account, "payment_session.completed", session, at)
        return paid

    def _refund(self, account: Json, payment: Json, amount: float, at: datetime) -> None:
        link = payment.get("_invoice")
        refund: Json = {"id": new("rfd-"), "payment_request_id": payment["payment_request_id"]}
        refund |= {"payment_id": payment["payment_id"], "invoice_id": link, "payment_method_type": "CARD"}
        refund |= {"channel_code": payment["channel_code"], "currency": payment["currency"], "amount": amount}
        refund |= {"status": "SUCCEEDED", "reason": "REQUESTED_BY_CUSTOMER"}
        refund |= {"reference_id": payment["reference_id"], "failure_code": None, "refund_fee_amount": None}
        refund |= {"metadata": None, "created": iso(at), "updated": iso(at)}
        account["refunds"][refund["id"]] = refund
        self._transaction(account, refund["id"], "REFUND", payment, amount, at)
        self._hook(account, "refund.succeeded", refund, at)

    def _invoice(
        self, account: Json, email: str, number: str, items: list[Any], status: str, at: datetime
    ) -> Json:
        found = uuid.uuid4().hex[:24]
        amount = float(sum(Decimal(str(price)) * quantity for _, quantity, price in items))
        invoice: Json = {"id": found, "external_id": number, "user_id": account["business"]}
        invoice |= {"payer_email": email, "description": f"Order {number}", "status": status}
        invoice |= {"merchant_name": "Sari-sari box"}
        invoice |= {"amount": int(amount) if amount.is_integer() else amount, "currency": "PHP"}
        invoice |= {"invoice_url": f"{self.address}/web/{found}", "expiry_date": iso(at + 30 * DAY)}
        invoice["items"] = [{"name": name, "quantity": n, "price": price} for name, n, price in items]
        invoice |= {"should_send_email": False, "created": iso(at), "updated": iso(at), "_payment": None}
        account["invoices"][found] = invoice
        if status in ("PAID", "SETTLED"):
            self._pay_invoice(account, invoice, at, status)
        elif status == "EXPIRED":
            self._hook(account, "", invoice, at)
        return invoice

    def _pay_invoice(
        self, account: Json, invoice: Json, at: datetime, status: str = "PAID", v3: bool = False
    ) -> None:
        """Through v3 the transaction names the invoice; of a channel of before it bears the invoice's own id."""
        card, link = {"masked_card_number": "5200XXXXXXXX1005"}, {"payment_link_id": invoice["id"]}
        payment: Json = {"payment_id": invoice["id"], "payment_request_id": None, "channel_code": "CARDS"}
        payment |= {"channel_properties": {"card_details": card}, "status": "SUCCEEDED"}
        payment |= {"_invoice": invoice["id"], "currency": invoice["currency"]}
        payment |= {"reference_id": invoice["external_id"]}
        invoice |= {"status": status, "paid_at": iso(at), "paid_amount": invoice["amount"]}
        invoice |= {"updated": iso(at), "payment_method": "CREDIT_CARD", "payment_channel": "CREDIT_CARD"}
        invoice |= {"_payment": payment}
        if v3:
            of = invoice | {"customer_id": None, "country": "PH", "_data": link}
            self._payment(account, invoice["amount"], of, {"_channel": "CARDS", "_card": card}, at)
        else:
            self._transaction(account, invoice["id"], "PAYMENT", payment, invoice["amount"], at, **link)
        self._hook(account, "", invoice, at)

    def _deactivate(self, account: Json, plan: Json, at: datetime) -> None:
        plan |= {"status": "INACTIVE", "updated": iso(at)}
        for cycle in self._cycles(account, plan["id"]):
            if cycle["status"] in ("SCHEDULED", "RETRYING"):
                cycle |= {"status": "CANCELLED", "updated": iso(at)}
        self._hook(account, "recurring.plan.inactivated", plan, at)

    def _hook(self, account: Json, event: str, data: Json, at: datetime) -> None:
        """A webhook; an invoice's callback of old is the invoice itself, without a name for what happened."""
        body: Json = shown(data)
        if event:
            body = {"event": event, "business_id": account["business"], "created": iso(at), "data": body}
            if event.startswith("recurring."):
                plan = account["plans"][data.get("plan_id") or data["id"]]
                body["api_version"] = OLD if "payment_methods" in plan else NEW
        content = json.dumps(body).encode()
        headers = {"content-type": "application/json", "x-callback-token": account["token"]}
        if self._past is not None:
            self._past.append((list(headers.items()), content))
            return
        self.deliver(Delivery(account["url"], headers, content))

    # The API

    def routes(self) -> list[BaseRoute]:
        plans, cycle = "/recurring/plans/{id}", "/recurring/plans/{id}/cycles/{cycle}"
        calls: list[tuple[str, str, Callable[[Json, Request, Json], Any]]] = [
            ("GET", "/transactions", self._list_transactions),
            ("GET", "/v2/invoices", self._list_invoices),
            ("GET", "/v2/invoices/{id}", one_of("invoices")),
            ("GET", "/customers", self._list_customers),
            ("GET", "/customers/{id}", one_of("customers")),
            ("GET", "/refunds", self._list_refunds),
            ("GET", "/refunds/{id}", one_of("refunds")),
            ("GET", "/v3/payments/{id}", one_of("payments")),
            ("GET", "/v3/payment_tokens/{id}", one_of("tokens")),
            ("GET", "/v2/payment_methods/{id}", one_of("tokens")),
            ("GET", "/sessions/{id}", one_of("sessions")),
            ("POST", "/sessions", self._create_session),
            ("POST", "/recurring/plans", self._create_plan),
            ("GET", plans, self._asked),
            ("PATCH", plans, self._update_plan),
            ("POST", f"{plans}/deactivate", self._end_plan),
            ("GET", f"{plans}/cycles", self._list_cycles),
            ("PATCH", cycle, self._update_cycle),
            ("POST", f"{cycle}/cancel", self._cancel_cycle),
            ("POST", f"{cycle}/force_attempt", self._force_attempt),
        ]
        drawn = {"/link/{id}": self._page("sessions", self._session_page)}
        drawn |= {"/web/{id}": self._page("invoices", self._invoice_page)}
        routes = [Route(path, self._call(call), methods=[method]) for method, path, call in calls]
        return [*(Route(path, draw, methods=["GET", "POST"]) for path, draw in drawn.items()), *routes]

    def _call(self, call: Callable[[Json, Request, Json], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            try:
                account = self._authenticated(request)
                tried = request.method == "GET" or request.url.path.endswith("attempt")
                if self.mode == "decline" and not tried:
                    raise Refusal(422, "UNPROCESSABLE_ENTITY_ERROR", "The request could not be processed.")
                body = json.loads(await request.body() or b"{}")
                said = call(account, request, body)
                if request.method != "GET":
                    self._once(account, request, keep=True)
                status = {"/recurring/plans": 202, "/sessions": 201}.get(request.url.path, 200)
                return JSONResponse(shown(said), status if request.method == "POST" else 200)
            except Refusal as refusal:
                return refusal.answer
            except ValueError:
                return invalid("The body is not JSON.").answer

        return endpoint

    def _authenticated(self, request: Request) -> Json:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        try:
            user, _, password = base64.b64decode(given, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            user, password = "", ""
        account = self.state["accounts"].get(user)
        if scheme.lower() != "basic" or account is None or password:
            raise Refusal(401, "INVALID_API_KEY", "API key format is invalid.")
        found: Json = account
        forbidden = request.url.path.startswith(tuple(found["forbidden"])) if found["forbidden"] else False
        if forbidden or request.headers.get("for-user-id", "") != found["user"]:
            raise Refusal(403, "REQUEST_FORBIDDEN_ERROR", "The request is forbidden.")
        self._once(found, request)
        return found

    def _once(self, account: Json, request: Request, keep: bool = False) -> None:
        key = request.headers.get("idempotency-key")
        if key and keep:
            account["used"][key] = request.url.path
        elif key in account["used"]:
            raise Refusal(409, "IDEMPOTENCY_ERROR", "Idempotency key has been used before.")

    def _list_transactions(self, account: Json, request: Request, _: Json) -> Json:
        query = request.query_params
        rows = sorted(account["transactions"], key=lambda one: one["created"], reverse=True)
        for name, wanted in (("type", query.getlist("types")), ("status", query.getlist("statuses"))):
            rows = [one for one in rows if not wanted or one[name] in wanted]
        for name in ("product_id", "reference_id"):
            rows = [one for one in rows if name not in query or one[name] == query[name]]
        return paged(rows, query, 10)

    def _list_invoices(self, account: Json, request: Request, _: Json) -> list[Json]:
        rows = sorted(account["invoices"].values(), key=lambda one: one["created"], reverse=True)
        ids, last = [one["id"] for one in rows], request.query_params.get("last_invoice")
        rows = rows[ids.index(last) + 1 :] if last in ids else rows
        return rows[: int(request.query_params.get("limit", 10))]

    def _list_customers(self, account: Json, request: Request, _: Json) -> Json:
        wanted = request.query_params.get("reference_id") or ""
        rows = [one for one in account["customers"].values() if one["reference_id"] == wanted]
        return {"data": rows, "has_more": False}

    def _list_refunds(self, account: Json, request: Request, _: Json) -> Json:
        query, rows = request.query_params, list(account["refunds"].values())
        for name in ("payment_request_id", "invoice_id"):
            rows = [one for one in rows if name not in query or one[name] == query[name]]
        return paged(rows, query, 10)

    def _asked(self, account: Json, request: Request, _: Any = None) -> Json:
        """The plan of a path, in the generation of the call."""
        plan: Json | None = account["plans"].get(request.path_params["id"])
        wanted = OLD if plan and "payment_methods" in plan else NEW
        if plan is None or request.headers.get("api-version") != wanted:
            raise unknown("Recurring plan_id not found.")
        return plan

    def _asked_cycle(self, account: Json, request: Request, *words: str) -> tuple[Json, Json]:
        plan, cycle = self._asked(account, request), account["cycles"].get(request.path_params["cycle"])
        if cycle is None or cycle["plan_id"] != plan["id"]:
            raise unknown("Recurring cycle_id not found.")
        if cycle["status"] not in words or plan["status"] != "ACTIVE":
            raise Refusal(403, "INELIGIBLE_CYCLE_REQUEST", "Requested changes to cycle cannot be processed.")
        return plan, cycle

    def _list_cycles(self, account: Json, request: Request, _: Json) -> Json:
        plan = self._asked(account, request)
        return paged(self._cycles(account, plan["id"])[::-1], request.query_params, 10)

    def _update_cycle(self, account: Json, request: Request, body: Json) -> Json:
        _, cycle = self._asked_cycle(account, request, "SCHEDULED")
        only(body, {"scheduled_timestamp", "amount", "currency", "metadata"})
        if body.get("currency", cycle["currency"]) != cycle["currency"]:
            raise invalid("currency must be that of the plan.")
        cycle |= body | {"updated": iso(self.now())}
        return cycle

    def _cancel_cycle(self, account: Json, request: Request, _: Json) -> Json:
        plan, cycle = self._asked_cycle(account, request, "SCHEDULED")
        cycle |= {"status": "CANCELLED", "updated": iso(self.now())}
        self._goes_on(account, plan, cycle, self.now())
        return cycle

    def _force_attempt(self, account: Json, request: Request, _: Json) -> Json:
        plan, cycle = self._asked_cycle(account, request, "RETRYING", "SCHEDULED")
        if cycle["forced_attempt_count"] >= 5:
            raise Refusal(403, "INELIGIBLE_CYCLE_REQUEST", "Requested changes to cycle cannot be processed.")
        refused = False if self.mode == "decline" else None
        self._attempt(account, plan, cycle, "FORCED", self.now(), refused)
        return cycle

    def _update_plan(self, account: Json, request: Request, body: Json) -> Json:
        plan = self._asked(account, request)
        only(body, PLAN_FIELDS if plan["status"] != "INACTIVE" else {"metadata"})
        if "amount" in body:
            price(body["amount"], plan["currency"])
        if "payment_tokens" in body:
            self._usable(account, body["payment_tokens"], plan["currency"], 1)
        if "schedule" in body:
            if {"interval", "interval_count"} - set(body["schedule"]):
                raise invalid("interval and interval_count are required.")
            body = body | {"schedule": plan["schedule"] | body["schedule"]}
        plan |= body | {"updated": iso(self.now())}
        return plan

    def _usable(self, account: Json, tokens: list[Json], currency: str, least: int) -> None:
        if not least <= len(tokens) <= 5:
            raise invalid("payment_tokens must have 1 to 5 entries.")
        for one in tokens:
            token = account["tokens"].get(one["payment_token_id"], {})
            if token.get("status") != "ACTIVE" or token.get("currency") != currency:
                message = 'The payment_token_id provided has a mismatched currency or it is not "ACTIVE".'
                raise Refusal(400, "INVALID_PAYMENT_TOKEN_ID", message)

    def _end_plan(self, account: Json, request: Request, _: Json) -> Json:
        plan = self._asked(account, request)
        if plan["status"] == "INACTIVE":
            raise invalid("The plan is inactive already.")
        self._deactivate(account, plan, self.now())
        return plan

    def _create_plan(self, account: Json, request: Request, body: Json) -> Json:
        needed = {"reference_id", "customer_id", "currency", "amount", "payment_tokens", "schedule"}
        if missing := sorted(needed - set(body)):
            raise invalid(f"{missing[0]} is required.")
        if body["customer_id"] not in account["customers"]:
            raise Refusal(404, "CUSTOMER_NOT_FOUND_ERROR", "customer_id is invalid or not found.")
        self._usable(account, body["payment_tokens"], body["currency"], 0)
        price(body["amount"], body["currency"])
        anchor = datetime.fromisoformat(body["schedule"]["anchor_date"])
        if anchor.day > 28:
            raise invalid("anchor_date must not be after the 28th.")
        now = self.now().replace(microsecond=0)
        empty = dict.fromkeys(("retry_interval", "retry_interval_count", "total_retry", "total_recurrence"))
        country = {currency: name for name, currency in COUNTRIES.items()}[body["currency"]]
        plan: Json = {"id": new("repl_"), "status": "PENDING", "country": country, "recurring_cycle_count": 0}
        plan |= {"failed_cycle_action": "RESUME", "payment_link_for_failed_attempt": False}
        plan |= {"immediate_payment": False, "items": None, "description": None, "metadata": None}
        plan |= {"actions": [], "failure_code": None}
        plan |= body | {"schedule": empty | {"failed_attempt_notifications": []} | body["schedule"]}
        plan |= {"created": iso(now), "updated": iso(now), "_ends": None, "_failing_after": None}
        account["plans"][plan["id"]] = plan
        self._activate(account, plan, anchor.astimezone(UTC), now)
        return plan | {"status": "PENDING"}  # the activation is told by webhook

    def _create_session(self, account: Json, request: Request, body: Json) -> Json:
        needed = {"reference_id", "session_type", "mode", "amount", "currency", "country"}
        if missing := sorted(needed - set(body)):
            raise invalid(f"{missing[0]} is required.")
        urls = [body.get("success_return_url", ""), body.get("cancel_return_url", "")]
        problems = {
            "reference_id must have 1 to 64 characters.": not 1 <= len(body["reference_id"]) <= 64,
            "amount must be 0 for SAVE.": body["session_type"] == "SAVE" and body["amount"] != 0,
            "country is not supported.": body["country"] not in COUNTRIES,
            "customer_id is invalid or not found.": body.get("customer_id") not in account["customers"],
            "The return addresses must be HTTPS.": not all(map(secure, urls)),
        }
        for message, wrong in problems.items():
            if wrong:
                raise invalid(message)
        session = self._session(account, self.now(), body["session_type"], body["amount"], body)
        session |= body
        return session

    # Pages

    def _page(self, kind: str, draw: Callable[[Json, Json, Json], Response]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
            try:
                return draw(*self._found(request.path_params["id"], kind), form)
            except KeyError:
                return page("Xendit", "Page not found", "<p>This link is not known.</p>", 404)

        return endpoint

    def _session_page(self, account: Json, session: Json, form: Json) -> Response:
        if session["status"] != "ACTIVE":
            return page("Xendit", "Nothing to do", "<p>This page was used or has expired.</p>", 410)
        save = session["session_type"] == "SAVE"
        if not form:
            return page("Xendit", "Save a payment method" if save else "Pay", self._form(session, ""))
        if form.get("do") != "accept" or self.mode == "decline":
            problem = "This was refused. Choose another way to pay."
            return page("Xendit", "Refused", self._form(session, problem), 402)
        now = self.now()
        session |= {"status": "COMPLETED", "updated": iso(now)}
        if save:
            channel, digits = form.get("channel", "card"), form.get("digits", "4242")
            token = self._method(account, session["customer_id"], channel, session, digits, now)
            session["payment_token_id"] = token
            self._hook(account, "payment_token.activation", account["tokens"][token], now)
        else:
            cycle = account["cycles"][session["_cycle"]]
            if cycle["status"] in ("RETRYING", "FAILED"):
                self._attempt(account, account["plans"][cycle["plan_id"]], cycle, "PAYMENT_LINK", now)
            session["payment_id"] = cycle["attempt_details"][-1]["payment_id"]
        self._hook(account, "payment_session.completed", session, now)
        if session["success_return_url"]:
            return RedirectResponse(session["success_return_url"], 303)
        return page("Xendit", "Thank you", "<p>Your payment went through. You can close this page.</p>")

    def _form(self, session: Json, problem: str) -> str:
        title = html.escape(session["description"] or "")
        fields = f"<p>{title} {session['amount']:,} {session['currency']}</p>"
        if session["session_type"] == "SAVE":
            fields = (
                '<label>Pay by <select name="channel"><option value="card">Card</option>'
                '<option value="wallet">GCash</option></select></label>'
                '<label>Last four digits <input name="digits" value="4242" pattern="[0-9]{4}"></label>'
            )
        back = session["cancel_return_url"]
        link = f'<a class="button" data-test="back" href="{html.escape(back)}">Go back</a>' if back else ""
        return (f'<p role="alert">{problem}</p>' if problem else "") + buttons(fields, link)

    def _invoice_page(self, account: Json, invoice: Json, form: Json) -> Response:
        title = f"Invoice {invoice['external_id']}"
        if form and invoice["status"] == "PENDING":
            if form.get("do") != "accept" or self.mode == "decline":
                return page("Xendit", title, "<p>The payment was refused.</p>", 402)
            self._pay_invoice(account, invoice, self.now(), v3=True)
        rows = "".join(f"<p>{one['quantity']} × {html.escape(one['name'])}</p>" for one in invoice["items"])
        body = f"{rows}<p>{invoice['amount']:,} {invoice['currency']}: {invoice['status'].lower()}</p>"
        if invoice["status"] == "PENDING":
            body += buttons("", "")
        return page("Xendit", title, body)


def buttons(fields: str, link: str) -> str:
    return (
        f'<form method="post">{fields}<button data-test="accept" name="do" value="accept">Confirm</button>'
        f'<button data-test="decline" name="do" value="decline">Let it be refused</button>{link}</form>'
    )


def invalid(message: str) -> Refusal:
    return Refusal(400, "API_VALIDATION_ERROR", message)


def unknown(message: str) -> Refusal:
    return Refusal(404, "DATA_NOT_FOUND", message)


def new(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4()}"


def iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def step(at: datetime, schedule: Mapping[str, Any]) -> datetime:
    """One interval later; no day is after the 28th."""
    count = schedule["interval_count"]
    if schedule["interval"] in ("DAY", "WEEK"):
        return at + timedelta(days=count * (7 if schedule["interval"] == "WEEK" else 1))
    months = at.month - 1 + count * (12 if schedule["interval"] == "YEAR" else 1)
    return at.replace(year=at.year + months // 12, month=months % 12 + 1)


def minor(amount: float, currency: str) -> int:
    return int(Decimal(str(amount)).scaleb(0 if currency in WITHOUT_CENTS else 2))


def price(amount: Any, currency: str) -> None:
    """Refuse what is no amount; rupiah and dong are whole."""
    good = isinstance(amount, int | float) and not isinstance(amount, bool) and amount >= 0
    if not good or (currency in ("IDR", "VND") and amount != int(amount)):
        raise invalid(f"amount is no amount in {currency}.")


def only(body: Mapping[str, Any], allowed: set[str]) -> None:
    if unknown := sorted(set(body) - allowed):
        raise invalid(f"{unknown[0]} is not allowed.")


def secure(url: str) -> bool:
    """HTTPS; loopback stands in for it, since nothing else is simulated there."""
    parts = urlsplit(url)
    local = parts.hostname in ("localhost", "127.0.0.1") or (parts.hostname or "").endswith(".localhost")
    return parts.scheme == "https" or (parts.scheme == "http" and local)


def one_of(kind: str) -> Callable[[Json, Request, Json], Json]:
    def get(account: Json, request: Request, _: Json) -> Json:
        found: Json | None = account[kind].get(request.path_params["id"])
        if found is None:
            raise unknown("ID specified in request cannot be found.")
        return found

    return get


def paged(rows: list[Json], query: Mapping[str, str], default: int) -> Json:
    ids, after, limit = [one["id"] for one in rows], query.get("after_id"), int(query.get("limit", default))
    if not 1 <= limit <= 100:
        raise invalid("limit must be 1 to 100.")
    rows = rows[ids.index(after) + 1 :] if after in ids else rows
    return {"data": rows[:limit], "has_more": len(rows) > limit, "links": []}


def shown(said: Any) -> Any:
    """Without what only the simulator knows."""
    if isinstance(said, dict):
        return {name: shown(value) for name, value in said.items() if not name.startswith("_")}
    return [shown(one) for one in said] if isinstance(said, list) else said
