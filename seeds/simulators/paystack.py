"""A stand-in for Paystack, from its documents: lists, subscriptions, the manage page, signed webhooks, and time.

Amounts are hundredths, XOF and RWF included. `disable` is the only cancel: the date goes away, and on the old date the
subscription is cancelled. A failed charge is not tried again before the next date. Where the documents are silent: a
subscription that was never charged can't be enabled again, a second one to the same plan is refused (both seen on test
accounts), and `enable` brings the old date back without a charge.
"""

import base64
import hashlib
import hmac
import html
import json
import math
from calendar import monthrange
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from seeds.simulators.harness import Delivery, Forgery, Harness, Sample, Situation, Standing, page

Json = dict[str, Any]
LABEL, FILES = "Paystack", "https://files.paystack.co"
SIGNATURE = "x-paystack-signature"
MONTHS = {"monthly": 1, "quarterly": 3, "biannually": 6, "annually": 12}
DAYS = {"daily": 1, "weekly": 7}
PER_PAGE, MOST = 50, 100
LINK_LIVES = timedelta(hours=24)
CARDS = {  # what the manage page offers: brand, last four digits, whether a charge goes through
    "visa": ("visa", "4081", True),
    "mastercard": ("mastercard", "0043", True),
    "empty": ("verve", "6666", False),
}
# Fields that are there and empty.
CHARGE_UNSAID = (
    "receipt_number message helpdesk_link fees_split order_id connect pos_transaction_data fees_breakdown"
)
DISPUTE_UNSAID = "resolution dueAt resolvedAt evidence attachments note transaction_reference"
PLAN_UNSAID = "description hosted_page_url hosted_page_summary active_subscriptions_count"
PLAN_COUNTS = "invoice_limit pages_count subscribers_count subscriptions_count total_revenue"
PLAN_NOT = "hosted_page migrate is_deleted is_archived"
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"


class Refusal(Exception):
    """An answer outside the 2xx, in Paystack's shape."""

    def __init__(self, status: int, message: str, type: str = "api_error", code: str = "unknown") -> None:
        super().__init__(message)
        meta = {"nextStep": "Check the request and try again."}
        body = {"status": False, "message": message, "meta": meta, "type": type, "code": code}
        self.answer = JSONResponse(body, status)


class Simulator(Harness):
    """Paystack's side of the wire, for any number of integrations, each found by its secret key."""

    name = "paystack"
    STATUS_FIELDS = ("status",)

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(clock)
        self.state = {"counter": 0, "accounts": {}}

    def routes(self) -> list[BaseRoute]:
        def route(path: str, answer: Callable[..., Any], *methods: str) -> Route:
            return Route(path, self._endpoint(answer), methods=list(methods or ("GET",)))

        return [
            route("/customer", _book("customers", _customer_json)),
            route("/customer/{code}", self._customer),
            route("/plan/{code}", self._one_plan),
            route("/subscription", _book("subscriptions", _in_list, customer="customer")),
            route("/subscription", self._create, "POST"),
            route("/subscription/disable", self._disable, "POST"),
            route("/subscription/enable", self._enable, "POST"),
            route("/subscription/{code}", self._subscription),
            route("/subscription/{code}/manage/link", self._manage_link),
            route("/transaction", _book("transactions", _transaction_json, customer="customer")),
            route("/transaction/verify/{reference}", self._verify),
            route("/transaction/{id}", _page_of("transactions", _transaction_json)),
            route("/refund", _book("refunds", _refund_json, transaction="charge")),
            route("/refund/{id}", _page_of("refunds", _refund_json)),
            route("/dispute", _book("disputes", _dispute_json, transaction="charge")),
            route("/paymentrequest", _book("requests", _request_json)),
            route("/paymentrequest/{id}", _page_of("requests", _request_json)),
            Route("/manage/subscriptions/{slug}", self._manage_page, methods=["GET", "POST"]),
            Route("/invoices/{file}", self._file, methods=["GET"]),
        ]

    def is_page(self, method: str, path: str) -> bool:
        return path.startswith(("/manage/", "/invoices/"))

    def refused_keys(self) -> Response:
        return Refusal(401, "Invalid key", "validation_error", "invalid_Key").answer

    def limited(self, retry_after: int | None) -> Response:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return JSONResponse({"status": False, "message": "Too many requests"}, 429, headers)

    def outage(self) -> Response:
        return JSONResponse({"status": False, "message": "An error occurred"}, 503)

    def _endpoint(self, answer: Callable[..., Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            try:
                account = self._account(request)
                sent = await _sent(request)
                if request.method != "GET" and self.mode == "decline":
                    raise Refusal(400, "This request could not be completed.")
                return JSONResponse({"status": True, **answer(account, request, sent)})
            except Refusal as refusal:
                return refusal.answer

        return endpoint

    def _account(self, request: Request) -> Json:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        account: Json | None = self.state["accounts"].get(key)
        if scheme != "Bearer" or account is None:
            raise Refusal(401, "Invalid key", "validation_error", "invalid_Key")
        return account

    # Calls

    def _customer(self, account: Json, request: Request, sent: Json) -> Json:
        code = request.path_params["code"]
        found = next(
            (one for one in account["customers"].values() if code in (one["code"], one["email"])), None
        )
        if found is None:
            raise Refusal(404, "Customer not found", "validation_error", "customer_not_found")
        mine = [one for one in account["subscriptions"].values() if one["customer"] == found["id"]]
        cards = {one["card"]["authorization_code"]: one["card"] for one in mine}
        more = {
            "transactions": [],
            "subscriptions": [_subscription_json(account, one) for one in mine[:1]],
            "authorizations": list(cards.values()),
            "total_transactions": len(mine),
            "total_transaction_value": [],
            "dedicated_account": None,
            "dedicated_accounts": [],
            "identified": False,
            "identifications": None,
            "created_at": _iso(found["at"]),
            "updated_at": _iso(found["at"]),
        }
        return {"message": "Customer retrieved", "data": {**_customer_json(account, found), **more}}

    def _one_plan(self, account: Json, request: Request, sent: Json) -> Json:
        found = account["plans"].get(request.path_params["code"])
        if found is None:
            raise Refusal(404, "Plan not found", "validation_error", "plan_not_found")
        more = dict.fromkeys(PLAN_UNSAID.split()) | dict.fromkeys(PLAN_COUNTS.split(), 0)
        lists: Json = {"subscriptions": [], "pages": [], "subscribers": []}
        return {
            "message": "Plan retrieved",
            "data": {**found, **more, **dict.fromkeys(PLAN_NOT.split(), False), **lists},
        }

    def _create(self, account: Json, request: Request, sent: Json) -> Json:
        customers = account["customers"].values()
        customer = next(
            (one for one in customers if sent.get("customer") in (one["code"], one["email"])), None
        )
        plan = account["plans"].get(sent.get("plan"))
        if customer is None or plan is None:
            what = "Plan" if customer else "Customer"
            raise Refusal(
                404, f"{what} with the specified code was not found", "validation_error", "not_found"
            )
        mine = [one for one in account["subscriptions"].values() if one["customer"] == customer["id"]]
        if any(one["plan"] == plan["plan_code"] and one["status"] in ("active", "attention") for one in mine):
            raise Refusal(400, "This subscription is already in place.", code="duplicate_subscription")
        wanted = sent.get("authorization")
        cards = [one["card"] for one in mine if wanted in (None, one["card"]["authorization_code"])]
        if not cards or not cards[-1]["reusable"]:
            raise Refusal(404, "The customer specified has no saved authorizations")
        try:
            start = datetime.fromisoformat(sent["start_date"]) if "start_date" in sent else self.now()
        except ValueError:
            raise Refusal(400, "start_date is not ISO 8601", "validation_error", "invalid_params") from None
        one = self._subscribe(account, customer, plan["plan_code"], cards[-1], self.now())
        one["start"] = one["next"] = start.astimezone(UTC)
        one["day"] = min(one["next"].day, 28)
        self._tell(account, "subscription.create", _subscription_json(account, one))
        if start <= self.now():
            self._take(account, one)
        said = _subscription_json(account, one)
        numbers = {"customer": customer["id"], "plan": plan["id"], "authorization": one["id"] + 7}
        more = {"updatedAt": said["createdAt"], "easy_cron_id": None, "start": int(one["start"].timestamp())}
        return {
            "message": "Subscription successfully created",
            "data": {**said, **numbers, **more, "quantity": 1},
        }

    def _subscription(self, account: Json, request: Request, sent: Json) -> Json:
        found = _found(account, request.path_params["code"])
        return {"message": "Subscription retrieved successfully", "data": _subscription_json(account, found)}

    def _disable(self, account: Json, request: Request, sent: Json) -> Json:
        one = _found(account, sent.get("code"))
        if sent.get("token") != one["token"] or one["status"] not in ("active", "attention"):
            raise Refusal(404, "Subscription with code not found or already inactive")
        self._stop(account, one)
        return {"message": "Subscription disabled successfully"}

    def _enable(self, account: Json, request: Request, sent: Json) -> Json:
        one = _found(account, sent.get("code"))
        if sent.get("token") != one["token"]:
            raise Refusal(404, "Subscription with code not found")
        if one["status"] != "non-renewing" or not one["payments"]:
            raise Refusal(400, "Subscription has been cancelled, and cannot be reactivated")
        one |= {"status": "active", "next": one["ends"], "ends": None}
        return {"message": "Subscription enabled successfully"}

    def _manage_link(self, account: Json, request: Request, sent: Json) -> Json:
        one = _found(account, request.path_params["code"])
        if self.mode == "decline" or one["status"] in ("cancelled", "completed"):
            raise Refusal(400, "A link can't be made for this subscription.")
        claims = {
            "subscription_code": one["code"],
            "integration": account["integration"],
            "n": self._number(),
        }
        body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        token = f"eyJhbGciOiJIUzI1NiJ9.{body}.{_hash(body)}"
        account["links"][token] = {"code": one["code"], "until": self.now() + LINK_LIVES}
        slug = one["code"].removeprefix("SUB_")
        link = f"{self.address}/manage/subscriptions/{slug}?subscription_token={token}"
        return {"message": "Link generated", "data": {"link": link}}

    def _verify(self, account: Json, request: Request, sent: Json) -> Json:
        reference = request.path_params["reference"]
        found = next((one for one in account["transactions"].values() if one["reference"] == reference), None)
        if found is None:
            raise Refusal(
                404, "Transaction reference not found.", "validation_error", "transaction_not_found"
            )
        said = _transaction_json(account, found)
        more = {"plan": found["plan"], "plan_object": said["plan"], "transaction_date": said["created_at"]}
        return {"message": "Verification successful", "data": {**said, **more}}

    # Pages

    async def _manage_page(self, request: Request) -> Response:
        """Another card, or cancel; nobody is sent back from here."""
        token = request.query_params.get("subscription_token", "")
        account = next((one for one in self.state["accounts"].values() if token in one["links"]), None)
        link = account["links"][token] if account else None
        if account is None or link is None or link["until"] < self.now():
            return page(LABEL, "This link has expired", "<p>Ask the shop for a fresh link.</p>", 410)
        one = account["subscriptions"][link["code"]]
        form = parse_qs((await request.body()).decode()) if request.method == "POST" else {}
        action, card = form.get("action", [""])[0], form.get("card", ["visa"])[0]
        if action == "cancel" and one["status"] in ("active", "attention"):
            self._stop(account, one)
            return page(LABEL, "Subscription cancelled", "<p>You will not be charged again.</p>")
        if action == "decline" or (action and (self.mode == "decline" or card not in CARDS)):
            return page(LABEL, "Declined", "<p>Your bank declined this card. Nothing was changed.</p>", 402)
        if action == "save":
            brand, last4, good = CARDS[card]
            one |= {"card": self._card(brand, last4), "fails": not good}
            return page(LABEL, "Card updated", "<p>You can close this page and go back to the shop.</p>")
        plan = _plan(account, one)
        choices = "".join(
            f'<option value="{key}">{brand.title()} ending in {last4}</option>'
            for key, (brand, last4, _) in CARDS.items()
        )
        return page(
            LABEL,
            "Manage your subscription",
            f"""<p>{html.escape(plan["name"])}, {plan["currency"]} {plan["amount"] / 100:.2f} {plan["interval"]}</p>
<form method="post"><label>New card<select name="card">{choices}</select></label>
<button name="action" value="save" data-test="accept">Save card</button>
<button name="action" value="decline" data-test="decline">Use a card that is refused</button>
<button name="action" value="cancel" data-test="cancel">Cancel subscription</button></form>""",
        )

    async def _file(self, request: Request) -> Response:
        name = request.path_params["file"].removesuffix(".pdf")
        known = any(name in account["requests"] for account in self.state["accounts"].values())
        return (
            Response(PDF, media_type="application/pdf") if known else PlainTextResponse("No such file", 404)
        )

    # Money and time

    def _stop(self, account: Json, one: Json) -> None:
        one |= {"status": "non-renewing", "ends": one["next"], "next": None}
        self._tell(account, "subscription.not_renew", _subscription_json(account, one))

    def _take(self, account: Json, one: Json, succeeds: bool | None = None) -> None:
        """Charge once. A failed charge leaves the date to move on; nothing is tried in between."""
        good = not one["fails"] if succeeds is None else succeeds
        due = one["next"] or one["ends"] or self.now()
        following = _after(due, _plan(account, one)["interval"], one["day"])
        charge = self._transact(account, one["customer"], one["card"], due, one["amount"], good, one["plan"])
        invoice = self._invoice(one, charge, due, following, good)
        going = one["status"] in ("active", "attention")
        if good:
            one["payments"] += 1
        if going:
            one |= {"next": following, "status": "active" if good else "attention"}
        if good:
            self._tell(account, "charge.success", _transaction_json(account, charge))
        told = {**invoice, "subscription": _subscription_json(account, one), "transaction": {}}
        told["customer"] = _buyer(account, one)
        if good:
            told["transaction"] = {
                name: charge[name] for name in ("reference", "status", "amount", "currency")
            }
        self._tell(account, "invoice.update" if good else "invoice.payment_failed", told)
        if going and good and one["limit"] and one["payments"] >= one["limit"]:
            one |= {"status": "non-renewing", "ends": following, "next": None}

    def _invoice(self, one: Json, charge: Json, due: datetime, following: datetime, good: bool) -> Json:
        number = self._number()
        one["invoice"] = {
            "subscription": one["id"],
            "invoice_code": f"INV_{_hash(str(number))}",
            "customer": charge["customer"],
            "transaction": charge["id"],
            "amount": one["amount"],
            "period_start": _iso(due),
            "period_end": _iso(following - timedelta(seconds=1)),
            "status": "success" if good else "failed",
            "paid": 1 if good else 0,
            "paid_at": _iso(due) if good else None,
            "description": None if good else "Insufficient Funds",
            "id": number,
            "created_at": _iso(due),
        }
        invoice: Json = one["invoice"]
        return invoice

    def tick(self) -> None:
        for account in self.state["accounts"].values():
            for one in list(account["subscriptions"].values()):
                while one["status"] in ("active", "attention") and one["next"] and one["next"] <= self.now():
                    self._take(account, one)
                if one["status"] == "non-renewing" and one["ends"] and one["ends"] <= self.now():
                    full = one["limit"] and one["payments"] >= one["limit"]
                    one |= {"status": "completed" if full else "cancelled", "cancelled_at": one["ends"]}
                    self._tell(account, "subscription.disable", _subscription_json(account, one))

    def charge(self, remote_id: str, succeeds: bool = True) -> None:
        account, one = self._whose(remote_id)
        self._take(account, one, succeeds)

    def standing(self, remote_id: str) -> Standing:
        account, one = self._whose(remote_id)
        charges, currency = one["status"] in ("active", "attention"), _plan(account, one)["currency"]
        return Standing(
            raw=one["status"],
            charges=charges,
            next_on=one["next"].date() if one["next"] else None,
            method=one["card"]["authorization_code"],
            payments=one["payments"],
            amount=one["amount"] // (100 if currency in ("XOF", "RWF") else 1),
        )

    def _whose(self, code: str) -> tuple[Json, Json]:
        for account in self.state["accounts"].values():
            if code in account["subscriptions"]:
                return account, account["subscriptions"][code]
        raise KeyError(code)

    # Webhooks

    def _tell(self, account: Json, event: str, data: Json) -> None:
        if account["quiet"]:
            return
        body = json.dumps({"event": event, "data": data}, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json", SIGNATURE: sign(account["secret"], body)}
        self.deliver(Delivery(account["webhook"], headers, body))

    def proof_of(self, delivery: Delivery) -> str | None:
        return delivery.headers[SIGNATURE]

    def with_proof(self, delivery: Delivery, proofs: list[str]) -> tuple[list[tuple[str, str]], bytes]:
        others = [(name, value) for name, value in delivery.headers.items() if name != SIGNATURE]
        return [*others, *((SIGNATURE, proof) for proof in proofs)], delivery.body

    def forgeries(self, sample: Sample, delivery: Delivery) -> list[Forgery]:
        """And two that have fooled shops: the hash of re-serialised JSON, and the shorter SHA-256."""
        key, spaced = sample.credentials["secret_key"], json.dumps(json.loads(delivery.body)).encode()
        short = hmac.new(key.encode(), delivery.body, hashlib.sha256).hexdigest()
        return [
            *super().forgeries(sample, delivery),
            Forgery(
                "signed over the same JSON with other blanks", *self.with_proof(delivery, [sign(key, spaced)])
            ),
            Forgery("signed with SHA-256", *self.with_proof(delivery, [short])),
            Forgery("signed with nothing", *self.with_proof(delivery, [sign("", delivery.body)])),
        ]

    # What demo and tests set up

    def samples(self) -> list[Sample]:
        return [
            Sample("Lagos shop", {"secret_key": f"sk_test_{_hash('lagos', 40)}"}),
            Sample("Accra shop", {"secret_key": f"sk_test_{_hash('accra', 40)}"}),
        ]

    def open(self, sample: Sample, webhook_url: str) -> None:
        key = sample.credentials["secret_key"]
        books = (
            "customers",
            "plans",
            "subscriptions",
            "transactions",
            "refunds",
            "disputes",
            "requests",
            "links",
        )
        self.state["accounts"][key] = {
            "secret": key,
            "webhook": webhook_url,
            "domain": "live" if key.startswith("sk_live_") else "test",
            "integration": 100000 + self._number(),
            "quiet": False,
            **{name: {} for name in books},
        }
        account = self.state["accounts"][key]
        for code, name, amount, interval in (
            ("PLN_coffeemonthly01", "Coffee beans, monthly", 850_000, "monthly"),
            ("PLN_coffeeweekly001", "Coffee beans, weekly", 270_000, "weekly"),
            ("PLN_readersannual01", "Readers' club, yearly", 4_800_000, "annually"),
            ("PLN_gymquarterly001", "Gym, quarterly", 6_000_000, "quarterly"),
            ("PLN_boxhalfyearly01", "Ankara box, every half year", 9_900_000, "biannually"),
        ):
            account["plans"][code] = {
                "id": self._number(),
                "plan_code": code,
                "name": name,
                "amount": amount,
                "currency": "NGN",
                "interval": interval,
                "description": None,
                **{key: account[key] for key in ("domain", "integration")},
                **dict.fromkeys(("send_invoices", "send_sms"), True),
                **dict.fromkeys(("createdAt", "updatedAt"), _iso(self.now() - timedelta(days=700))),
            }

    def fill(self, sample: Sample) -> None:
        account, now = self._opened(sample), self.now()
        account["quiet"] = True
        noor = self._person(account, "noor@example.com", "Noor", "Bello")
        self._running(account, noor, "PLN_coffeemonthly01", paid=2, ahead=timedelta(days=11))
        bag = {"custom_fields": [_field("Item", "item_name", "Leather tote bag")]}
        self._sale(account, noor, 2_450_000, now - timedelta(days=40), bag)
        someone = self._person(account, f"{self.name}@example.com", "Chidi", "Okafor")
        for situation in (
            Situation("active"),
            Situation("trialing"),
            Situation("past_due"),
            Situation("cancels_at_period_end"),
            Situation("cancels_at_period_end", object="last_cycle"),
            Situation("cancelled"),
            Situation("expired"),
            Situation("active", method="bank_debit"),
        ):
            self._put(account, someone, situation)
        cup = self._sale(account, someone, 900_000, now - timedelta(days=20), {"item": "Cup"})
        self._give_back(account, cup, 300_000, "processed", now - timedelta(days=15))
        kettle = self._sale(account, someone, 1_500_000, now - timedelta(days=90), "")
        self._give_back(account, kettle, 1_500_000, "processed", now - timedelta(days=80))
        self._sale(account, someone, 700_000, now - timedelta(days=6), None, status="failed")
        self._sale(account, someone, 700_000, now - timedelta(days=6, hours=1), None, status="abandoned")
        mug = self._sale(account, someone, 650_000, now - timedelta(days=30), None)
        number = self._number()
        account["disputes"][str(number)] = {"id": number, "charge": mug["id"], "status": "pending", "at": now}
        for days, paid, file in ((50, True, True), (10, False, False)):
            number = self._number()
            code = f"PRQ_{_hash(str(number))}"
            account["requests"][code] = {
                "id": number,
                "code": code,
                "customer": someone["id"],
                "number": number % 1000,
                "at": now - timedelta(days=days),
                "paid": paid,
                "file": file,
                "items": [{"name": "Catering, per guest", "amount": 250_000, "quantity": 4}],
            }
        account["quiet"] = False

    def plans(self, sample: Sample) -> list[Json]:
        found = []
        for code, one in self._opened(sample)["plans"].items():
            unit, count = {"weekly": ("week", 1), "annually": ("year", 1)}.get(one["interval"], ("month", 0))
            price = {"minor": one["amount"], "currency": one["currency"]}
            found.append(
                {
                    "title": one["name"],
                    "plan": code,
                    "unit": unit,
                    "count": count or MONTHS[one["interval"]],
                    **price,
                }
            )
        return found

    def stage(self, sample: Sample, email: str, situation: Situation) -> str | None:
        account = self._opened(sample)
        one = self._put(account, self._person(account, email, "Ada", "Eze"), situation)
        if one is None:
            return None
        names = {"cancels_at_period_end": "not_renew", "cancelled": "disable", "expired": "disable"}
        event = f"subscription.{names.get(situation.state, 'create')}"
        self._tell(account, event, _subscription_json(account, one))
        if situation.state == "past_due":
            told = {**one["invoice"], "subscription": _subscription_json(account, one), "transaction": {}}
            self._tell(account, "invoice.payment_failed", told)
        return str(one["code"])

    def _put(self, account: Json, customer: Json, situation: Situation) -> Json | None:
        """A subscription in a situation, with the past that led there; None where Paystack has no such thing."""
        state, sort = situation.state, situation.object
        sorts = ("last_cycle", "never_charged", "closed", "replaced")
        known = state in ("trialing", "active", "past_due", "cancels_at_period_end", "cancelled", "expired")
        if not known or situation.method not in (None, "card", "bank_debit"):
            return None
        if sort and (sort not in sorts or state != "cancels_at_period_end"):
            return None
        if situation.due not in (None, state == "past_due"):
            return None
        plan = self._free_plan(account, customer)
        begun = 0 if state == "trialing" or sort == "never_charged" else 2
        channel = "direct_debit" if situation.method == "bank_debit" else "card"
        ended = state in ("cancelled", "expired")
        ahead = timedelta(days=-3) if ended else timedelta(days=12)
        was, account["quiet"] = account["quiet"], True
        one = self._running(account, customer, plan, begun, ahead, self._card("visa", "4081", channel))
        one["card"]["reusable"] = situation.token is not False
        if state == "past_due":
            one["next"] = one["invoice_due"]
            self._take(account, one, succeeds=False)
            one["fails"] = True
        if state == "trialing":
            one["start"] = one["next"]
        if state in ("cancels_at_period_end", "cancelled", "expired"):
            one |= {"status": "non-renewing", "ends": one["next"], "next": None}
        if sort == "last_cycle" or state == "expired":
            one["limit"] = one["payments"]
        if sort == "closed":
            one |= {"status": "cancelled", "cancelled_at": self.now()}
        if sort == "replaced":
            other = self._running(
                account, customer, self._free_plan(account, customer), 0, ahead, one["card"]
            )
            other["start"] = other["next"] = one["ends"]
        if ended:
            full = "completed" if state == "expired" else "cancelled"
            one |= {"status": full, "cancelled_at": one["ends"]}
        account["quiet"] = was
        return one

    def _running(
        self, account: Json, customer: Json, plan: str, paid: int, ahead: timedelta, card: Json | None = None
    ) -> Json:
        """A subscription whose next date is that far ahead, with so many charges behind it."""
        following = (self.now() + ahead).replace(microsecond=0)
        interval = account["plans"][plan]["interval"]
        dates = [following]
        for _ in range(max(paid, 1)):
            dates.insert(0, _before(dates[0], interval))
        began = dates[0] if paid else self.now() - timedelta(days=1)
        one = self._subscribe(account, customer, plan, card or self._card("visa", "4081"), began)
        one["invoice_due"] = dates[-2]
        for due in dates[:-1] if paid else []:
            one["next"] = due
            self._take(account, one, succeeds=True)
        one |= {"next": following, "day": min(following.day, 28)}
        return one

    def _subscribe(self, account: Json, customer: Json, plan: str, card: Json, at: datetime) -> Json:
        number = self._number()
        one = {
            "id": number,
            "code": f"SUB_{_hash(f'subscription {number}')}",
            "token": _hash(f"token {number}"),
            "status": "active",
            "plan": plan,
            "customer": customer["id"],
            "card": card,
            "amount": account["plans"][plan]["amount"],
            "at": at,
            "start": at,
            "next": at,
            "day": min(at.day, 28),
            **dict.fromkeys(("ends", "cancelled_at", "invoice", "invoice_due")),
            **dict.fromkeys(("payments", "limit", "fails"), 0),
        }
        account["subscriptions"][one["code"]] = one
        return one

    def _free_plan(self, account: Json, customer: Json) -> str:
        """A plan that this person has not subscribed to; one more is made where they have them all."""
        taken = {
            one["plan"] for one in account["subscriptions"].values() if one["customer"] == customer["id"]
        }
        free: list[str] = [code for code in account["plans"] if code not in taken]
        if not free:
            number = self._number()
            code = f"PLN_{_hash(f'plan {number}')}"
            first = next(iter(account["plans"].values()))
            name = f"Coffee beans, blend {number}"
            account["plans"][code] = {**first, "id": number, "plan_code": code, "name": name}
            free = [code]
        return free[0]

    def _person(self, account: Json, email: str, first: str, last: str) -> Json:
        for one in account["customers"].values():
            if one["email"] == email:
                known: Json = one
                return known
        number = self._number()
        one = {"id": number, "code": f"CUS_{_hash(email)}", "email": email, "first": first, "last": last}
        one["at"] = self.now() - timedelta(days=600)
        account["customers"][number] = one
        return one

    def _card(self, brand: str, last4: str, channel: str = "card") -> Json:
        number = self._number()
        return {
            "authorization_code": f"AUTH_{_hash(f'card {number}', 10)}",
            "bin": "408408",
            "last4": last4,
            "exp_month": "12",
            "exp_year": "2030",
            "channel": channel,
            "card_type": f"{brand} ",
            "bank": "TEST BANK",
            "country_code": "NG",
            "brand": brand,
            "reusable": True,
            "signature": f"SIG_{_hash(f'{brand} {last4}', 20)}",
            "account_name": None,
        }

    def _transact(
        self,
        account: Json,
        customer: int,
        card: Json,
        at: datetime,
        amount: int,
        good: bool,
        plan: str | None,
    ) -> Json:
        number = 4_000_000_000 + self._number()
        one = {
            "id": number,
            "domain": account["domain"],
            "reference": _hash(f"charge {number}", 10),
            "status": "success" if good else "failed",
            "amount": amount,
            "currency": "NGN",
            "customer": customer,
            "card": card,
            "plan": plan,
            "at": at,
            "metadata": None,
        }
        account["transactions"][str(number)] = one
        return one

    def _sale(
        self, account: Json, customer: Json, amount: int, at: datetime, metadata: Any, status: str = "success"
    ) -> Json:
        card = self._card("mastercard", "0043")
        one = self._transact(account, customer["id"], card, at, amount, status == "success", None)
        one |= {"metadata": metadata, "status": status}
        return one

    def _give_back(self, account: Json, charge: Json, amount: int, status: str, at: datetime) -> None:
        number = self._number()
        one = {"id": number, "charge": charge["id"], "amount": amount, "status": status, "at": at}
        account["refunds"][str(number)] = one

    def _opened(self, sample: Sample) -> Json:
        account: Json = self.state["accounts"][sample.credentials["secret_key"]]
        return account

    def _number(self) -> int:
        self.state["counter"] += 1
        return 90_000 + int(self.state["counter"])


# What is on the wire


def sign(secret: str, body: bytes) -> str:
    """The header of a webhook."""
    return hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()


def _book(book: str, build: Callable[[Json, Json], Json], **filters: str) -> Callable[..., Json]:
    """A list, newest first; `filters` name the field of ours behind each filter of the query."""

    def answer(account: Json, request: Request, sent: Json) -> Json:
        wanted = {mine: value for name, mine in filters.items() if (value := request.query_params.get(name))}
        newest = sorted(account[book].values(), key=lambda one: (one["at"], one["id"]), reverse=True)
        fits = [one for one in newest if all(str(one[mine]) == value for mine, value in wanted.items())]
        return _listed([build(account, one) for one in fits], request, f"{book.capitalize()} retrieved")

    return answer


def _page_of(book: str, build: Callable[[Json, Json], Json]) -> Callable[..., Json]:
    def answer(account: Json, request: Request, sent: Json) -> Json:
        found = account[book].get(request.path_params["id"])
        if found is None:
            raise Refusal(404, f"{book.capitalize()[:-1]} not found", "validation_error", "not_found")
        return {"message": f"{book.capitalize()[:-1]} retrieved", "data": build(account, found)}

    return answer


def _listed(rows: list[Json], request: Request, message: str) -> Json:
    query: Mapping[str, str] = request.query_params
    size = min(int(query.get("perPage", PER_PAGE)), MOST)
    if query.get("use_cursor") == "true":
        start = int(base64.b64decode(query["next"])) if "next" in query else 0
        after = start + size
        cursor = base64.b64encode(str(after).encode()).decode() if after < len(rows) else None
        return {
            "message": message,
            "data": rows[start:after],
            "meta": {"next": cursor, "previous": None, "perPage": size},
        }
    number = int(query.get("page", 1))
    skipped = (number - 1) * size
    meta = {"total": len(rows), "skipped": skipped, "perPage": size, "page": number}
    pages = math.ceil(len(rows) / size)
    return {"message": message, "data": rows[skipped : skipped + size], "meta": {**meta, "pageCount": pages}}


def _found(account: Json, code: Any) -> Json:
    one: Json | None = account["subscriptions"].get(code)
    if one is None:
        raise Refusal(404, "Subscription not found", "validation_error", "not_found")
    return one


def _plan(account: Json, one: Json) -> Json:
    plan: Json = account["plans"][one["plan"]]
    return plan


def _buyer(account: Json, one: Json) -> Json:
    return _customer_json(account, account["customers"][one["customer"]])


def _customer_json(account: Json, one: Json) -> Json:
    return {
        "id": one["id"],
        "integration": account["integration"],
        "domain": account["domain"],
        "first_name": one["first"],
        "last_name": one["last"],
        "email": one["email"],
        "customer_code": one["code"],
        "phone": "",
        "metadata": {},
        "risk_action": "default",
        "international_format_phone": "",
        "createdAt": _iso(one["at"]),
        "updatedAt": _iso(one["at"]),
    }


def _in_list(account: Json, one: Json) -> Json:
    """In lists a customer's metadata is text and `reusable` a number."""
    customer, card = {**_buyer(account, one), "metadata": ""}, one["card"]
    card = {**card, "reusable": int(card["reusable"])}
    return {**_subscription_json(account, one), "customer": customer, "authorization": card}


def _subscription_json(account: Json, one: Json) -> Json:
    return {
        **dict.fromkeys(("open_invoice", "split_code")),
        "id": one["id"],
        "domain": account["domain"],
        "status": one["status"],
        "start": int(one["start"].timestamp()),
        "quantity": 1,
        "subscription_code": one["code"],
        "email_token": one["token"],
        "amount": one["amount"],
        "cron_expression": f"0 0 {one['day']} * *",
        "next_payment_date": _iso(one["next"]) if one["next"] else None,
        "createdAt": _iso(one["at"]),
        "cancelledAt": _iso(one["cancelled_at"]) if one["cancelled_at"] else None,
        "integration": account["integration"],
        "plan": _plan(account, one),
        "authorization": one["card"],
        "customer": _buyer(account, one),
        "invoices": [],
        "invoices_history": [],
        "invoice_limit": one["limit"],
        "payments_count": one["payments"],
        "most_recent_invoice": one["invoice"],
        "metadata": {},
    }


def _transaction_json(account: Json, one: Json) -> Json:
    paid = _iso(one["at"]) if one["status"] == "success" else None
    reasons = {"success": "Successful", "failed": "Insufficient Funds"}
    names = ("id", "domain", "status", "reference", "amount", "currency", "metadata")
    log = {"start_time": int(one["at"].timestamp()), "time_spent": 4, "attempts": 1, "errors": 0}
    return {
        **dict.fromkeys(CHARGE_UNSAID.split()),
        **{name: one[name] for name in names},
        "metadata": {} if one["metadata"] is None else one["metadata"],
        "gateway_response": reasons.get(one["status"], "The transaction was not completed"),
        "paid_at": paid,
        "created_at": _iso(one["at"]),
        "channel": one["card"]["channel"],
        "ip_address": "197.210.54.33",
        "log": {**log, "success": bool(paid), "mobile": False, "input": [], "history": []},
        "fees": one["amount"] // 100,
        "customer": _buyer(account, one),
        "authorization": {**one["card"], "receiver_bank_account_number": None, "receiver_bank": None},
        "plan": account["plans"][one["plan"]] if one["plan"] else {},
        "split": {},
        "subaccount": {},
        "paidAt": paid,
        "createdAt": _iso(one["at"]),
        "requested_amount": one["amount"],
        "source": {"source": "merchant_api", "type": "api", "identifier": None, "entry_point": "charge"},
    }


def _refund_json(account: Json, one: Json) -> Json:
    charge = account["transactions"][str(one["charge"])]
    return {
        **dict.fromkeys(("dispute", "settlement", "bank_reference", "session_id")),
        "integration": account["integration"],
        "transaction": one["charge"],
        "id": one["id"],
        "domain": account["domain"],
        "currency": charge["currency"],
        "amount": one["amount"],
        "status": one["status"],
        "refunded_at": _iso(one["at"]),
        "refunded_by": "shop@example.com",
        "customer_note": "Sorry for the trouble",
        "merchant_note": "Damaged in transit",
        "deducted_amount": one["amount"],
        "fully_deducted": 1,
        "createdAt": _iso(one["at"]),
        "transaction_reference": charge["reference"],
        "reason": "OTHER",
        "customer": {**_buyer(account, charge), "metadata": ""},
        "refund_type": "partial" if one["amount"] < charge["amount"] else "full",
        "transaction_amount": charge["amount"],
        "initiated_by": "shop@example.com",
        "refund_channel": "api",
        "collect_account_number": False,
    }


def _dispute_json(account: Json, one: Json) -> Json:
    charge = account["transactions"][str(one["charge"])]
    return {
        **dict.fromkeys(DISPUTE_UNSAID.split()),
        "id": one["id"],
        "refund_amount": charge["amount"],
        "currency": charge["currency"],
        "status": one["status"],
        "domain": account["domain"],
        "transaction": {**_transaction_json(account, charge), "metadata": {"custom_fields": []}},
        "category": "general",
        "customer": {**_buyer(account, charge), "metadata": ""},
        "bin": charge["card"]["bin"],
        "last4": charge["card"]["last4"],
        "history": [],
        "messages": [],
        "createdAt": _iso(one["at"]),
        "updatedAt": _iso(one["at"]),
    }


def _request_json(account: Json, one: Json) -> Json:
    return {
        **dict.fromkeys(("metadata", "discount", "split_code")),
        "id": one["id"],
        "integration": account["integration"],
        "domain": account["domain"],
        "amount": sum(item["amount"] * item["quantity"] for item in one["items"]),
        "currency": "NGN",
        "due_date": _iso(one["at"] + timedelta(days=7)),
        "has_invoice": True,
        "invoice_number": one["number"],
        "description": "Catering",
        "pdf_url": f"{FILES}/invoices/{one['code']}.pdf" if one["file"] else None,
        "line_items": one["items"],
        "tax": [],
        "request_code": one["code"],
        "status": "success" if one["paid"] else "pending",
        "paid": one["paid"],
        "paid_at": _iso(one["at"]) if one["paid"] else None,
        "notifications": [],
        "offline_reference": str(one["id"]),
        "customer": _buyer(account, one),
        "created_at": _iso(one["at"]),
    }


async def _sent(request: Request) -> Json:
    body = await request.body()
    try:
        said = json.loads(body) if body else {}
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise Refusal(400, "Invalid JSON", "validation_error", "invalid_params")
    return said


def _field(shown: str, name: str, value: str) -> Json:
    return {"display_name": shown, "variable_name": name, "value": value}


def _hash(text: str, length: int = 15) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _after(at: datetime, interval: str, day: int, times: int = 1) -> datetime:
    if interval in DAYS:
        return at + times * timedelta(days=DAYS[interval])
    months = at.year * 12 + at.month - 1 + times * MONTHS[interval]
    year, month = months // 12, months % 12 + 1
    return at.replace(year=year, month=month, day=min(day, monthrange(year, month)[1]))


def _before(at: datetime, interval: str) -> datetime:
    return _after(at, interval, min(at.day, 28), -1)
