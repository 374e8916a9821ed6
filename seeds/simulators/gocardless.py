"""GoCardless, simulated: API of 2015-07-06 with an access token, webhooks, and time.

Written from GoCardless's documents (developer.gocardless.com, support.gocardless.com) and the official client
libraries. Objects are kept as the API shows them; names that begin with a dot are shown to nobody. There are no hosted
pages: mandates are there from the beginning.
"""

import base64
import calendar
import hashlib
import hmac
import json
import operator
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from seeds.simulators.harness import Delivery, Forgery, Harness, Sample, Situation, Standing

Json = dict[str, Any]
AHEAD = 4  # days before its day on which a payment of a subscription is made
NOTICE = 5  # days that a scheme wants before a charge after a resume
PREFIXES = {"creditors": "CR", "customers": "CU", "customer_bank_accounts": "BA", "mandates": "MD"}
PREFIXES |= {"subscriptions": "SB", "payments": "PM", "refunds": "RF", "events": "EV"}
ENDED = ("customer_approval_denied", "cancelled", "finished")
WAITING = ("pending_customer_approval", "pending_submission", "submitted")
TAKEN = ("confirmed", "paid_out")
CHARGEABLE = ("pending_customer_approval", "pending_submission", "submitted", "active")
FILTERS = ("subscription", "mandate", "customer", "payment", "creditor")
CREATED = {
    f"created_at[{name}]": compare
    for name, compare in {
        "gt": operator.gt,
        "gte": operator.ge,
        "lt": operator.lt,
        "lte": operator.le,
    }.items()
}
CHANGEABLE = {"amount", "name", "metadata", "payment_reference", "retry_if_possible", "app_fee"}
SCHEMES = {"GBP": "bacs", "EUR": "sepa_core", "SEK": "autogiro", "DKK": "betalingsservice", "AUD": "becs"}
SCHEMES |= {"NZD": "becs_nz", "CAD": "pad", "USD": "ach"}
DECLINED = {
    "cancel": "cancellation_failed",
    "pause": "subscription_cannot_be_paused",
    "retry": "retry_failed",
}
DECLINED |= {"resume": "subscription_not_paused"}
SAMPLES = [
    Sample(
        "GoCardless",
        {
            "access_token": "sandbox_-acmeJ5p9x2Qe7Lr4Tn8Vw1Zb6Yc3Hd0Gf5KaMs",
            "webhook_secret": "acme-webhook-endpoint-0001",
        },
    ),
    Sample(
        "GoCardless, a stranger's",
        {
            "access_token": "sandbox_koraM3n8b5V2c9X4z7L1k6J0h-gF_dSaQwErTyUi",
            "webhook_secret": "kora-webhook-endpoint-0002",
        },
    ),
    Sample("GoCardless without webhooks", {"access_token": "live_fleurP0o9I8u7Y6t5R4e3W2q1AsDfGhJkLzXcVb"}),
]


class Refusal(Exception):
    """An answer outside the 2xx. `fields` are what validation has to say."""

    def __init__(
        self, status: int, reason: str, message: str = "", fields: dict[str, str] | None = None
    ) -> None:
        self.status, self.reason, self.fields = status, reason, fields or {}
        self.message = message or reason.replace("_", " ").capitalize()


class Simulator(Harness):
    """GoCardless. `shows_made`: whether upcoming_payments still shows a payment that is made (not documented)."""

    name = "gocardless"
    shows_made = False

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(clock)
        self._lock = threading.RLock()  # the clock is moved from another thread than the one that serves
        self.state: Json = {"accounts": {}, "objects": {}, "count": 0}

    def routes(self) -> list[BaseRoute]:
        table: list[tuple[str, str, Callable[..., Json]]] = [
            *(("GET", f"/{name}", self._list(name)) for name in PREFIXES),
            *(("GET", f"/{name}/{{id}}", self._show(name)) for name in PREFIXES),
            ("PUT", "/subscriptions/{id}", self._update),
            ("POST", "/subscriptions/{id}/actions/cancel", self._action("subscriptions", self._cancel)),
            ("POST", "/subscriptions/{id}/actions/pause", self._action("subscriptions", self._pause)),
            ("POST", "/subscriptions/{id}/actions/resume", self._action("subscriptions", self._resume)),
            ("POST", "/payments/{id}/actions/cancel", self._action("payments", self._cancel_payment)),
            ("POST", "/payments/{id}/actions/retry", self._action("payments", self._retry)),
            ("POST", "/mandates/{id}/actions/cancel", self._action("mandates", self._cancel_mandate)),
        ]
        return [
            *(Route(path, self._api(handler), methods=[method]) for method, path, handler in table),
            Route("/{path:path}", self._api(self._nowhere), methods=["GET", "POST", "PUT", "DELETE"]),
        ]

    def refused_keys(self) -> Response:
        return error(Refusal(401, "unauthorized"))

    def limited(self, retry_after: int | None) -> Response:
        answer = error(Refusal(429, "rate_limit_exceeded"))
        answer.headers["RateLimit-Limit"], answer.headers["RateLimit-Remaining"] = "1000", "0"
        if retry_after is not None:
            answer.headers["Retry-After"] = str(retry_after)
        return answer

    def outage(self) -> Response:
        return error(Refusal(500, "internal_server_error"))

    # What every call goes through

    def _api(self, handler: Callable[..., Json]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            raw = await request.body()
            with self._lock:
                try:
                    account = self._account(request)
                    said = self._body(request, raw)
                    if self.mode == "decline" and request.method != "GET":
                        what = request.url.path.rpartition("/")[2]
                        raise Refusal(422, DECLINED.get(what, "number_of_subscription_amendments_exceeded"))
                    return JSONResponse(handler(account, request, said))
                except Refusal as refusal:
                    return error(refusal)

        return endpoint

    def _account(self, request: Request) -> Json:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        account = self.state["accounts"].get(token) if scheme == "Bearer" else None
        if account is None:
            raise Refusal(401, "unauthorized")
        if request.headers.get("gocardless-version") != "2015-07-06":
            raise Refusal(400, "version_not_found")
        if account["read_only"] and request.method != "GET":
            raise Refusal(403, "insufficient_permissions")
        return cast(Json, account)

    def _body(self, request: Request, raw: bytes) -> Json:
        if request.method == "GET":
            return {}
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise Refusal(415, "invalid_content_type")
        try:
            said = json.loads(raw or b"{}")
        except ValueError:
            raise Refusal(400, "invalid_document_structure") from None
        if not isinstance(said, dict | None):
            raise Refusal(400, "invalid_document_structure")
        return said or {}

    def _nowhere(self, account: Json, request: Request, said: Json) -> Json:
        raise Refusal(404, "resource_not_found")

    # Reading

    def _found(self, account: Json, name: str, request: Request) -> Json:
        found = self.objects.get(request.path_params["id"])
        if found is None or found[".account"] != account["token"] or found[".kind"] != name:
            raise Refusal(404, "resource_not_found")
        return found

    def _show(self, name: str) -> Callable[..., Json]:
        return lambda account, request, said: {name: self._shown(self._found(account, name, request))}

    def _list(self, name: str) -> Callable[..., Json]:
        def listed(account: Json, request: Request, said: Json) -> Json:
            query, rows = request.query_params, self._all(name, account["token"])
            limit = query.get("limit", "50")
            if not limit.isdigit() or not 1 <= int(limit) <= 500:
                raise Refusal(422, "validation_failed", fields={"limit": "must be between 1 and 500"})
            for given in query.keys() - {"limit", "after", "before"}:
                if given in FILTERS:
                    rows = [one for one in rows if self._is_of(one, given, query[given])]
                elif given in CREATED:
                    rows = [one for one in rows if CREATED[given](one["created_at"], query[given])]
                elif given in ("status", "action", "resource_type"):
                    rows = [one for one in rows if one.get(given) == query[given]]
                else:
                    raise Refusal(422, "validation_failed", fields={given: "is not a valid parameter"})
            ids = [one["id"] for one in rows]
            if "after" in query and query["after"] not in ids:
                raise Refusal(422, "validation_failed", fields={"after": "is not a valid cursor"})
            at = ids.index(query["after"]) + 1 if "after" in query else 0
            shown, rest = rows[at : at + int(limit)], rows[at + int(limit) :]
            cursors = {"before": ids[at] if at else None, "after": shown[-1]["id"] if rest else None}
            meta = {"cursors": cursors, "limit": int(limit)}
            return {name: [self._shown(one) for one in shown], "meta": meta}

        return listed

    def _is_of(self, one: Json, what: str, wanted: str) -> bool:
        """Whether an object is linked to another, through its mandate too."""
        links = one["links"]
        mandate = self.objects.get(links.get("mandate", ""), {"links": {}})
        return wanted in (links.get(what), mandate["links"].get(what))

    def _shown(self, one: Json) -> Json:
        shown = {name: value for name, value in one.items() if not name.startswith(".")}
        if one[".kind"] == "payments":
            back = [row for row in self._all("refunds") if row["links"]["payment"] == one["id"]]
            bad = ("cancelled", "bounced", "funds_returned")
            shown["amount_refunded"] = sum(row["amount"] for row in back if row["status"] not in bad)
        if one[".kind"] == "subscriptions":
            days = self._days(one) if one["status"] in ("active", "pending_customer_approval") else []
            if one["status"] == "paused":
                days = self._days(one) if one[".cycles"] else []
                shown["earliest_charge_date_after_resume"] = str(self._soonest(one))
            made = [two["charge_date"] for two in self._payments_of(one) if two["status"] in WAITING]
            days = [*(made if self.shows_made else []), *map(str, days)][:10]
            shown["upcoming_payments"] = [{"charge_date": on, "amount": one["amount"]} for on in days]
        return shown

    def _days(self, one: Json) -> list[date]:
        """The days of the payments that are not made yet."""
        left = one["count"] - one[".made"] if one["count"] else 10
        return [self._day(one, one[".at"] + number) for number in range(max(0, min(10, left)))]

    def _day(self, one: Json, number: int) -> date:
        return working_day(step(date.fromisoformat(one["start_date"]), one, number))

    def _soonest(self, one: Json) -> date:
        number = one[".at"]
        while self._day(one, number) < self.today() + timedelta(days=NOTICE):
            number += 1
        return self._day(one, number)

    # Changing

    def _guarded(self, one: Json) -> None:
        if one.get(".app"):
            raise Refusal(403, "forbidden", "You do not have permission to do this: it was made by an app")

    def _update(self, account: Json, request: Request, said: Json) -> Json:
        one = self._found(account, "subscriptions", request)
        wish = said.get("subscriptions")
        if not isinstance(wish, dict) or not wish or wish.keys() - CHANGEABLE:
            raise Refusal(422, "validation_failed", fields={"subscriptions": "has an unknown parameter"})
        if one["status"] == "finished":
            raise Refusal(422, "subscription_already_ended")
        if one["status"] != "active":
            raise Refusal(422, "subscription_not_active")
        if "amount" in wish:
            self._guarded(one)
            if isinstance(wish["amount"], bool) or not isinstance(wish["amount"], int) or wish["amount"] < 0:
                raise Refusal(422, "validation_failed", fields={"amount": "must be a positive number"})
            if one[".amended"] >= 10:
                raise Refusal(422, "number_of_subscription_amendments_exceeded")
            one[".amended"] += 1
        one |= wish
        self._tell(account, self._event(one, "amended", "subscription_amended"))
        return {"subscriptions": self._shown(one)}

    def _action(self, name: str, act: Callable[[Json, Json, Json], None]) -> Callable[..., Json]:
        """An action: its fields stand under "data", and it has no idempotency."""

        def acted(account: Json, request: Request, said: Json) -> Json:
            one = self._found(account, name, request)
            data = said.get("data") or {}
            if not isinstance(data, dict) or data.keys() - {"metadata", "pause_cycles"}:
                raise Refusal(422, "validation_failed", fields={"data": "has an unknown parameter"})
            act(account, one, data)
            return {name: self._shown(one)}

        return acted

    def _cancel(self, account: Json, one: Json, data: Json) -> None:
        """No more payments are made; those that are made already are still collected."""
        if one["status"] in ENDED:
            raise Refusal(422, "cancellation_failed", "Subscription cannot be cancelled")
        self._guarded(one)
        one["status"] = "cancelled"
        self._tell(account, self._event(one, "cancelled", "subscription_cancelled"))

    def _pause(self, account: Json, one: Json, data: Json) -> None:
        cycles = data.get("pause_cycles")
        self._guarded(one)
        if one["status"] == "finished":
            raise Refusal(422, "subscription_already_ended")
        if one["status"] == "paused" and cycles is not None:
            raise Refusal(422, "subscription_paused_cannot_update_cycles")
        again = one["status"] == "paused" and one[".cycles"]
        if (one["status"] != "active" and not again) or (one["end_date"] and not one["count"]):
            raise Refusal(422, "subscription_cannot_be_paused")
        if cycles is not None:
            if not isinstance(cycles, int) or cycles < 1:
                raise Refusal(422, "validation_failed", fields={"pause_cycles": "must be greater than 0"})
            least = {"AUD": 3, "NZD": 2}.get(one["currency"], 1) if one["interval_unit"] == "weekly" else 1
            if cycles < least:
                raise Refusal(422, "pause_cycles_must_be_greater_than_or_equal_to")
            one[".at"] += cycles
        one |= {"status": "paused", ".cycles": cycles or 0}
        self._tell(account, self._event(one, "paused", "subscription_paused"))

    def _resume(self, account: Json, one: Json, data: Json) -> None:
        self._guarded(one)
        if one["status"] != "paused":
            raise Refusal(422, "subscription_not_paused")
        if not one[".cycles"]:
            while self._day(one, one[".at"]) < self.today() + timedelta(days=NOTICE):
                one[".at"] += 1
        one |= {"status": "active", ".cycles": 0}
        self._tell(account, self._event(one, "resumed", "subscription_resumed"))

    def _cancel_payment(self, account: Json, one: Json, data: Json) -> None:
        if one["status"] != "pending_submission":
            raise Refusal(422, "cancellation_failed", "Payment cannot be cancelled")
        one["status"] = "cancelled"
        self._tell(account, self._event(one, "cancelled", "payment_cancelled"))

    def _retry(self, account: Json, one: Json, data: Json) -> None:
        mandate = self.objects[one["links"]["mandate"]]
        if one["status"] != "failed" or one[".retries"] >= 3 or mandate["status"] != "active":
            raise Refusal(422, "retry_failed", "Payment cannot be retried")
        one[".retries"] += 1
        one |= {"status": "pending_submission", "charge_date": str(self._later())}
        self._tell(account, self._event(one, "resubmission_requested", "payment_retried"))

    def _later(self) -> date:
        return working_day(self.today() + timedelta(days=AHEAD))

    def _cancel_mandate(self, account: Json, one: Json, data: Json) -> None:
        """Takes its subscriptions and the payments that no bank has yet along."""
        if one["status"] not in CHARGEABLE:
            raise Refusal(422, "cancellation_failed", "Mandate cannot be cancelled")
        one["status"] = "cancelled"
        events = [self._event(one, "cancelled", "mandate_cancelled")]
        for row in [*self._all("subscriptions"), *self._all("payments")]:
            if row["links"]["mandate"] == one["id"] and row["status"] in (
                "active",
                "paused",
                "pending_submission",
            ):
                row["status"] = "cancelled"
                events.append(self._event(row, "cancelled", "mandate_cancelled"))
        self._tell(account, *events)

    # Books

    @property
    def objects(self) -> dict[str, Json]:
        return cast(dict[str, Json], self.state["objects"])

    def today(self) -> date:
        return self.now().date()

    def account(self, sample: Sample) -> Json:
        return cast(Json, self.state["accounts"][sample.credentials["access_token"]])

    def _all(self, name: str, account: str | None = None) -> list[Json]:
        """All objects of a kind, newest first."""
        found = [
            one
            for one in self.objects.values()
            if one[".kind"] == name and account in (None, one[".account"])
        ]
        return sorted(found, key=lambda one: (one["created_at"], one[".number"]), reverse=True)

    def _new(self, name: str, account: Json, fields: Json, at: datetime | None = None) -> Json:
        self.state["count"] += 1
        number = int(self.state["count"])
        code = hashlib.sha256(f"{name} {number}".encode()).hexdigest()[:9].upper()
        made = {
            "id": f"{PREFIXES[name]}000{code}",
            "created_at": iso(at or self.now()),
            "metadata": {},
            **fields,
        }
        made |= {".kind": name, ".account": account["token"], ".number": number}
        self.objects[made["id"]] = made
        return made

    def customer(self, account: Json, email: str | None, name: str, at: datetime | None = None) -> Json:
        given, _, family = name.partition(" ")
        fields: Json = {
            "email": email,
            "given_name": given or None,
            "family_name": family or None,
            "links": {},
        }
        return self._new("customers", account, {**fields, "company_name": None, "language": "en"}, at)

    def mandate(self, customer: Json, currency: str = "GBP", status: str = "active") -> Json:
        account = self.state["accounts"][customer[".account"]]
        bank: Json = {"account_number_ending": "1142" if currency == "NZD" else "11", "currency": currency}
        bank |= {"bank_name": "BARCLAYS BANK PLC", "enabled": True, "account_holder_name": "A TEST"}
        links = {"customer": customer["id"]}
        held = self._new("customer_bank_accounts", account, {**bank, "links": links})
        links |= {"customer_bank_account": held["id"], "creditor": account["creditor"]}
        fields: Json = {
            "status": status,
            "scheme": SCHEMES[currency],
            "links": links,
            "reference": "TEST-1142",
        }
        fields |= {"next_possible_charge_date": str(self._later()), "payments_require_approval": False}
        return self._new("mandates", account, fields)

    def subscribe(self, customer: Json, name: str, amount: int = 2400, **more: Any) -> Json:
        """A subscription with `months` of paid history whose next day is in `days`; `currency`, `unit`, `count`,
        `mandate` (its status), `status`, and `app` where a partner's app made it."""
        currency, months = more.get("currency", "GBP"), more.get("months", 3)
        mandate = self.mandate(customer, currency)
        account, unit = self.state["accounts"][customer[".account"]], more.get("unit", "monthly")
        first = self.today() + timedelta(days=more.get("days", 12))
        start = step(first, {"interval_unit": "monthly", "interval": 1}, -months)
        if unit != "monthly":
            start = step(first, {"interval_unit": unit, "interval": 1}, -1)
        fields: Json = {
            "amount": amount,
            "currency": currency,
            "status": "active",
            "name": name,
            "count": None,
        }
        fields |= {"start_date": str(start), "end_date": None, "interval": 1, "interval_unit": unit}
        fields |= {"day_of_month": None, "month": None, "payment_reference": None, "app_fee": None}
        fields |= {
            "retry_if_possible": False,
            "links": {"mandate": mandate["id"]},
            "count": more.get("count"),
        }
        fields |= {".at": 0, ".made": 0, ".cycles": 0, ".amended": 0, ".app": more.get("app", False)}
        one = self._new("subscriptions", account, fields, noon(start) - timedelta(days=6))
        while one["status"] == "active" and self._day(one, one[".at"]) <= self.today():
            made = self._make(one, self._day(one, one[".at"]))
            self._collect(made, True)
            made["status"] = "paid_out"
        if more.get("status"):
            one["status"] = more["status"]
        mandate["status"] = more.get("mandate", "active")
        return one

    def _payments_of(self, one: Json) -> list[Json]:
        return [two for two in self._all("payments") if two["links"].get("subscription") == one["id"]]

    def payment(self, mandate: Json, amount: int, title: str | None, on: date, **more: Any) -> Json:
        account = self.state["accounts"][mandate[".account"]]
        currency = next(key for key, scheme in SCHEMES.items() if scheme == mandate["scheme"])
        links = {"mandate": mandate["id"], "creditor": account["creditor"], **more.pop("links", {})}
        fields = {"amount": amount, "currency": currency, "charge_date": str(on), "description": title}
        fields |= {"status": "pending_submission", "scheme": mandate["scheme"], "reference": None}
        fields |= {"retry_if_possible": False, "links": links, ".retries": 0, **more}
        return self._new("payments", account, fields, min(self.now(), noon(on) - timedelta(days=AHEAD)))

    def _make(self, one: Json, on: date) -> Json:
        """The next payment of a subscription, some days before its day."""
        mandate = self.objects[one["links"]["mandate"]]
        made = self.payment(mandate, one["amount"], one["name"], on, links={"subscription": one["id"]})
        if one["status"] == "active":
            one[".at"], one[".made"] = one[".at"] + 1, one[".made"] + 1
            if one["count"] and one[".made"] >= one["count"]:
                one["status"] = "finished"
        return made

    def _collect(self, payment: Json, succeeds: bool) -> Json:
        """How a payment ends, with the event of it."""
        payment["status"] = "confirmed" if succeeds else "failed"
        cause = "payment_confirmed" if succeeds else "refer_to_payer"
        why = (
            "Enough cleared funds" if succeeds else "The customer's bank wasn't able to pay the Direct Debit."
        )
        return self._event(payment, payment["status"], cause, why, "gocardless" if succeeds else "bank")

    def refund(self, payment: Json, amount: int, status: str = "paid", send: bool = False) -> Json:
        account = self.state["accounts"][payment[".account"]]
        links = {"payment": payment["id"], "mandate": payment["links"]["mandate"]}
        fields = {"amount": amount, "currency": payment["currency"], "status": status, "links": links}
        made = self._new("refunds", account, {**fields, "reference": "Sent back"})
        event = self._event(made, "paid", "payment_refunded")
        if send:
            self._tell(account, event)
        return made

    # Webhooks and time

    def _event(self, one: Json, action: str, cause: str, why: str = "", origin: str = "api") -> Json:
        kind = one[".kind"]
        details: Json = {
            "origin": origin,
            "cause": cause,
            "description": why or cause.replace("_", " ").capitalize(),
        }
        if action == "failed":
            details |= {"scheme": one["scheme"], "reason_code": "ARUDD-0", "will_attempt_retry": False}
        links = {kind.removesuffix("s"): one["id"]}
        fields = {"resource_type": kind, "action": action, "details": details, "links": links}
        return self._new("events", self.state["accounts"][one[".account"]], fields)

    def _tell(self, account: Json, *events: Json) -> None:
        """All events of a moment in one delivery."""
        self.state["count"] += 1
        said = {
            "events": [self._shown(one) for one in events],
            "meta": {"webhook_id": f"WB{self.state['count']}"},
        }
        if account["secret"]:
            self.deliver(signed(account["webhook_url"], account["secret"], json.dumps(said).encode()))

    def proof_of(self, delivery: Delivery) -> str | None:
        return delivery.headers.get("Webhook-Signature")

    def with_proof(self, delivery: Delivery, proofs: list[str]) -> tuple[list[tuple[str, str]], bytes]:
        rest = [(name, value) for name, value in delivery.headers.items() if name != "Webhook-Signature"]
        return [*rest, *(("Webhook-Signature", proof) for proof in proofs)], delivery.body

    def forgeries(self, sample: Sample, delivery: Delivery) -> list[Forgery]:
        secret = str(sample.credentials["webhook_secret"]).encode()
        digest = hmac.new(secret, delivery.body, "sha256").digest()
        more = {
            "of another secret": signed("", "another-secret-0003", delivery.body).headers[
                "Webhook-Signature"
            ],
            "in Base64": base64.b64encode(digest).decode(),
            "with SHA-1": hmac.new(secret, delivery.body, "sha1").hexdigest(),
            "with SHA-512": hmac.new(secret, delivery.body, "sha512").hexdigest(),
            "a hash without a secret": hashlib.sha256(delivery.body).hexdigest(),
            "over its events alone": hmac.new(secret, delivery.body[11:], "sha256").hexdigest(),
        }
        found = [Forgery(what, *self.with_proof(delivery, [proof])) for what, proof in more.items()]
        return super().forgeries(sample, delivery) + found

    def tick(self) -> None:
        """Payments are made ahead, go to the banks a day before their day and come back a day after it; those of a
        pause of some cycles begin again."""
        with self._lock:
            for one in self._all("subscriptions"):
                while one["status"] == "active" or (one["status"] == "paused" and one[".cycles"]):
                    on = self._day(one, one[".at"])
                    if on > self.today() + timedelta(days=AHEAD):
                        break
                    account, events = self.state["accounts"][one[".account"]], []
                    if one["status"] == "paused":
                        one |= {"status": "active", ".cycles": 0}
                        events.append(
                            self._event(one, "resumed", "subscription_resumed", origin="gocardless")
                        )
                    made = self._make(one, on)
                    events.append(self._event(made, "created", "payment_created", origin="gocardless"))
                    event = self._event(one, "payment_created", "payment_created", origin="gocardless")
                    event["links"]["payment"] = made["id"]
                    self._tell(account, *events, event)
            for payment in self._all("payments"):
                self._move_on(payment)

    def _move_on(self, payment: Json) -> None:
        on, account = date.fromisoformat(payment["charge_date"]), self.state["accounts"][payment[".account"]]
        if payment["status"] == "pending_submission" and self.today() >= on - timedelta(days=1):
            payment["status"] = "submitted"
            self._tell(account, self._event(payment, "submitted", "payment_submitted", origin="gocardless"))
        if payment["status"] == "submitted" and self.today() > on:
            self._tell(account, self._collect(payment, self.mode != "decline"))
        if payment["status"] == "confirmed" and self.today() > on + timedelta(days=2):
            payment["status"] = "paid_out"
            self._tell(account, self._event(payment, "paid_out", "payment_paid_out", origin="gocardless"))

    # What demo and tests ask of every simulator

    def samples(self) -> list[Sample]:
        return list(SAMPLES)

    def open(self, sample: Sample, webhook_url: str) -> None:
        token = sample.credentials["access_token"]
        with self._lock:
            for name in [name for name, one in self.objects.items() if one[".account"] == token]:
                del self.objects[name]
            secret = sample.credentials.get("webhook_secret", "")
            account: Json = {"token": token, "webhook_url": webhook_url, "secret": secret, "read_only": False}
            self.state["accounts"][token] = account
            made = self._new(
                "creditors", account, {"name": sample.label, "verification_status": "successful"}
            )
            account["creditor"] = made["id"]
            made["links"] = {}

    def fill(self, sample: Sample) -> None:
        with self._lock:
            account, today = self.account(sample), self.today()
            noor = self.customer(account, "noor@example.com", "Noor Haddad", self.now() - timedelta(days=120))
            self.subscribe(noor, "Coffee club")
            self._order(noor, "Order 1042: moka pot", 3450, 20)
            mine = self.customer(account, "gocardless@example.com", "Gil Osborne")
            self.subscribe(mine, "Tea box", 1800)
            self.subscribe(mine, "Bread every week", 950, unit="weekly", days=6)
            self.subscribe(mine, "Yearly magazine", 6000, unit="yearly", days=200)
            self._make(soon := self.subscribe(mine, "Flowers", 2250, days=3), self._day(soon, soon[".at"]))
            waits = self.subscribe(mine, "Cheese of the month", 2990, months=0)
            waits["status"] = self.objects[waits["links"]["mandate"]]["status"] = "pending_customer_approval"
            self._fail(self.subscribe(mine, "Wine club", 4500))
            self._payments_of(self.subscribe(mine, "Vegetable box", 2700))[0]["status"] = "charged_back"
            self.subscribe(mine, "Fish on Fridays", 3100, status="paused")
            skipped = self.subscribe(mine, "Herbs", 900, status="paused")
            skipped[".at"], skipped[".cycles"] = skipped[".at"] + 1, 1
            self.subscribe(mine, "Puzzle club", 1500, status="cancelled")
            self.subscribe(mine, "Three lessons", 7500, months=4, count=3)
            self._order(mine, "Order 1001", 2950, 70, metadata={"order_number": "A-1001"})
            self.refund(self._order(mine, "Order 1002", 4000, 50), 1000)
            self.refund(self._order(mine, "Order 1003", 1999, 45), 1999, "submitted")
            self._collect(self._order(mine, "Order 1004", 2100, 40), False)
            self._order(mine, "Order 1005", 800, 30)["status"] = "cancelled"
            self._order(mine, "Order 1006", 5200, 25)["status"] = "charged_back"
            bank = self.objects[self._all("mandates", account["token"])[0]["id"]]
            self.payment(bank, 1250, "Order 1007", working_day(today + timedelta(days=5)))

    def _order(self, customer: Json, title: str, amount: int, days: int, **more: Any) -> Json:
        """A paid payment that no subscription made."""
        on = working_day(self.today() - timedelta(days=days))
        return self.payment(self.mandate(customer), amount, title, on, status="paid_out", **more)

    def _fail(self, one: Json) -> Json:
        """The newest payment of a subscription has failed."""
        return self._collect(self._payments_of(one)[0], False)

    def plans(self, sample: Sample) -> list[Json]:
        plan = {"plan": None, "currency": "GBP", "unit": "month", "count": 1}
        return [{**plan, "title": "Large", "minor": 3600}, {**plan, "title": "Small", "minor": 1200}]

    def stage(self, sample: Sample, email: str, situation: Situation) -> str | None:
        state, dead = situation.state, situation.token is False
        possible = ("incomplete", "active", "past_due", "paused", "cancelled", "expired")
        if situation.object or situation.method not in (None, "bank_debit") or state not in possible:
            return None
        if (dead and state != "cancelled") or (situation.due and state != "past_due"):
            return None
        with self._lock:
            account = self.account(sample)
            theirs = [one for one in self._all("customers", account["token"]) if one["email"] == email]
            customer = theirs[0] if theirs else self.customer(account, email, email.partition("@")[0].title())
            more: Json = {"mandate": "cancelled" if dead else "active"}
            if state in ("paused", "cancelled"):
                more["status"] = state
            if state == "expired":
                more |= {"months": 4, "count": 3}
            one = self.subscribe(customer, f"Club {self.state['count'] + 1}", **more)
            event = self._event(one, "created", "subscription_created")
            if state == "incomplete":
                one["status"] = "pending_customer_approval"
            if state == "past_due":
                event = self._fail(one)
                if situation.due is False:
                    self._payments_of(one)[0]["status"] = "charged_back"
            self._tell(account, event)
            return str(one["id"])

    def standing(self, remote_id: str) -> Standing:
        one = self.objects[remote_id]
        theirs, mandate = self._payments_of(one), self.objects[one["links"]["mandate"]]
        waiting = [two["charge_date"] for two in theirs if two["status"] in WAITING]
        goes_on = one["status"] == "active" or (one["status"] == "paused" and bool(one[".cycles"]))
        days = [*waiting, *(map(str, self._days(one)) if goes_on else [])]
        return Standing(
            raw=one["status"],
            charges=bool(days) and mandate["status"] in CHARGEABLE,
            next_on=date.fromisoformat(min(days)) if days else None,
            method=mandate["id"],
            payments=len([two for two in theirs if two["status"] in (*WAITING, *TAKEN)]),  # or on their way
            amount=one["amount"],
        )

    def charge(self, remote_id: str, succeeds: bool = True) -> None:
        with self._lock:
            one = self.objects[remote_id]
            account = self.state["accounts"][one[".account"]]
            made = self._make(one, self.today())
            made["created_at"] = iso(self.now())
            events = [self._event(made, "created", "payment_created", origin="gocardless")]
            self._tell(account, *events, self._collect(made, succeeds))


TYPES = {
    401: "invalid_api_usage",
    403: "invalid_api_usage",
    404: "invalid_api_usage",
    400: "invalid_api_usage",
}
TYPES |= {415: "invalid_api_usage", 429: "invalid_api_usage", 422: "invalid_state", 500: "gocardless"}


def error(refusal: Refusal) -> Response:
    kind = "validation_failed" if refusal.fields else TYPES[refusal.status]
    found: list[Json] = [
        {"field": field, "message": message, "request_pointer": f"/{field}"}
        for field, message in refusal.fields.items()
    ]
    said = {
        "message": "Validation failed" if refusal.fields else refusal.message,
        "documentation_url": f"https://developer.gocardless.com/api-reference#{refusal.reason}",
        "type": kind,
        "code": refusal.status,
        "request_id": "bd271b37-a2f5-47c8-b461-040dfe0e9cb1",
        "errors": found or [{"reason": refusal.reason, "message": refusal.message}],
    }
    return JSONResponse({"error": said}, refusal.status)


def signed(url: str, secret: str, body: bytes) -> Delivery:
    """A delivery with its signature."""
    headers = {"Content-Type": "application/json", "User-Agent": "gocardless-webhook-service/1.1"}
    headers["Webhook-Signature"] = hmac.new(secret.encode(), body, "sha256").hexdigest()
    return Delivery(url, headers, body)


def step(on: date, like: Json, times: int) -> date:
    """So many intervals later; months keep to their day where they are long enough."""
    count = like["interval"] * times
    if like["interval_unit"] == "weekly":
        return on + timedelta(weeks=count)
    months = on.year * 12 + on.month - 1 + count * (12 if like["interval_unit"] == "yearly" else 1)
    year, month = months // 12, months % 12 + 1
    return date(year, month, min(on.day, calendar.monthrange(year, month)[1]))


def working_day(on: date) -> date:
    """Rolled forwards where it is none; bank holidays are not minded here."""
    return on + timedelta(days=max(0, 7 - on.weekday()) if on.weekday() > 4 else 0)


def noon(on: date) -> datetime:
    return datetime.combine(on, time(12), UTC)


def iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"
