"""The books of one account: its objects, how they are listed and shown, and the events that tell of them."""

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from seeds.simulators._stripe import shapes
from seeds.simulators._stripe.wire import API_VERSION, Json, Refusal, missing, whole
from seeds.simulators.harness import Delivery

if TYPE_CHECKING:
    from seeds.simulators.stripe import Simulator

DAY = 86_400
EVENTS_KEPT_S = 30 * DAY
LINK_LIVES_S = 30 * DAY
_TOKEN = re.compile(r"test_(?P<id>\w+)_(?P<issued>[0-9a-f]{1,12})_(?P<seal>[0-9a-f]{16})\Z")

# What an id of a kind looks like: prefix, and how many characters follow.
_IDS = {
    "customer": ("cus_", 14),
    "product": ("prod_", 14),
    "price": ("price_", 24),
    "payment_method": ("pm_", 24),
    "payment_intent": ("pi_", 24),
    "charge": ("ch_", 24),
    "refund": ("re_", 24),
    "dispute": ("dp_", 24),
    "subscription": ("sub_", 24),
    "subscription_item": ("si_", 14),
    "subscription_schedule": ("sub_sched_", 24),
    "invoice": ("in_", 24),
    "line_item": ("il_", 24),
    "invoice_payment": ("inpay_", 24),
    "setup_intent": ("seti_", 24),
    "checkout.session": ("cs_test_a1", 56),
    "item": ("li_", 24),
    "billing_portal.configuration": ("bpc_", 24),
    "billing_portal.session": ("bps_", 24),
    "credit_note": ("cn_", 24),
    "credit_note_line_item": ("cnli_", 24),
    "webhook_endpoint": ("we_", 24),
    "event": ("evt_", 24),
    "request": ("req_", 14),
}
# Fields that are sent only when they are asked for, and where they come from.
_ON_REQUEST = {
    ("charge", "refunds"): ("refund", "charge", "/v1/charges/{}/refunds"),
    ("invoice", "payments"): ("invoice_payment", "invoice", "/v1/invoice_payments"),
    ("customer", "subscriptions"): ("subscription", "customer", "/v1/customers/{}/subscriptions"),
}


class Books:
    """One account's part of the simulator's state; made anew for every use, so that a reset is seen at once."""

    def __init__(self, simulator: "Simulator", account_id: str) -> None:
        self.simulator = simulator
        self.id = account_id
        self.state: Json = simulator.state["accounts"][account_id]
        self.objects: dict[str, Json] = self.state["objects"]
        self.request: Json = {"id": None, "idempotency_key": None}
        self.looking_back = False  # while history is written: told in events, not sent to anybody

    @property
    def now(self) -> int:
        return int(self.simulator.now().timestamp())

    @property
    def account(self) -> Json:
        return self.objects[self.id]

    # Objects

    def new_id(self, kind: str) -> str:
        """The next id of a kind, out of one counter for all accounts."""
        self.simulator.state["counter"] += 1
        number = self.simulator.state["counter"]
        prefix, width = _IDS[kind]
        if kind in (
            "checkout.session",
            "billing_portal.session",
        ):  # what stands in an address is not guessable
            seed = hashlib.sha256(f"{kind} {number}".encode()).hexdigest()
            return prefix + seed[: width - 8] + f"{number:08d}"
        return f"{prefix}Sim{number:0{width - 3}d}"

    def put(self, one: Json) -> Json:
        """Keep an object, as the newest of its kind."""
        self.state["placed"] += 1
        one["_place"] = self.state["placed"]
        self.objects[one["id"]] = one
        self.state["kinds"].setdefault(one["object"], []).append(one["id"])
        return one

    def all(self, kind: str) -> list[Json]:
        """Every object of a kind, in the order they were kept."""
        return [self.objects[one] for one in list(self.state["kinds"].get(kind, ()))]

    def find(self, kind: str, object_id: Any, param: str = "id", status: int = 404) -> Json:
        """An object by id; refused as Stripe does where this account has none of that id and kind."""
        one = self.objects.get(object_id) if isinstance(object_id, str) else None
        if one is None or one["object"] != kind:
            raise missing(
                kind.replace("_", " ").replace("payment method", "PaymentMethod"), object_id, param, status
            )
        return one

    # Listing

    def listing(
        self, kind: str, params: Json, url: str, keep: Callable[[Json], bool] = lambda _: True
    ) -> Json:
        """A page of a list, newest first, by `limit`, `starting_after`, `ending_before` and `created`."""
        inside = moments(params, "created")
        rows = [one for one in self.all(kind) if inside(one["created"]) and keep(one)]
        rows.sort(key=_age, reverse=True)
        rows, more = self._cut(kind, rows, params)
        return {"object": "list", "data": [self.shown(one) for one in rows], "has_more": more, "url": url}

    def _cut(self, kind: str, rows: list[Json], params: Json) -> tuple[list[Json], bool]:
        limit = whole(params, "limit", 10) or 0
        if not 1 <= limit <= 100:
            raise Refusal(
                400, "This value must be between 1 and 100.", code="parameter_invalid_integer", param="limit"
            )
        after, before = params.get("starting_after"), params.get("ending_before")
        if after and before:
            raise Refusal(400, "You may specify only one of these parameters: starting_after, ending_before.")
        if before:
            edge = _age(self.find(kind, before, "ending_before", 400))
            newer = [one for one in rows if _age(one) > edge]
            return newer[-limit:], len(newer) > limit
        if after:
            edge = _age(self.find(kind, after, "starting_after", 400))
            rows = [one for one in rows if _age(one) < edge]
        return rows[:limit], len(rows) > limit

    # Showing

    def shown(self, one: Json) -> Json:
        """An object as it is sent: a copy without our own notes, with its lists and addresses."""
        sent: Json = _public(one)
        finish = _FINISH.get(one["object"])
        if finish:
            finish(self, one, sent)
        return sent

    def expand(self, sent: Json, paths: Iterable[Any]) -> Json:
        """Put whole objects where an answer has their ids, along paths such as `data.customer`."""
        for path in paths:
            steps = str(path).split(".")
            if len(steps) > 4:
                raise Refusal(
                    400, f"You cannot expand more than 4 levels of a property: {path}", param="expand"
                )
            self._expand(sent, steps, str(path))
        return sent

    def _expand(self, node: Any, steps: list[str], path: str) -> None:
        if isinstance(node, list):
            for one in node:
                self._expand(one, steps, path)
            return
        if not isinstance(node, dict) or not steps:
            return
        step, rest = steps[0], steps[1:]
        if step not in node and not self._add_on_request(node, step):
            raise Refusal(400, f"This property cannot be expanded ({path}).", param="expand")
        value = node[step]
        if isinstance(value, list) and value and isinstance(value[0], str):
            node[step] = [self._whole(one, path) for one in value]
        elif isinstance(value, str):
            node[step] = self._whole(value, path)
        self._expand(node[step], rest, path)

    def _add_on_request(self, node: Json, step: str) -> bool:
        kind = node.get("object", "")
        if (kind, step) == ("checkout.session", "line_items"):
            url = f"/v1/checkout/sessions/{node['id']}/line_items"
            node[step] = of_list(_public(self.objects[node["id"]]["_lines"]), url)
            return True
        if (kind, step) == ("customer", "tax_ids"):
            node[step] = of_list([], f"/v1/customers/{node['id']}/tax_ids")
            return True
        if (kind, step) not in _ON_REQUEST:
            return False
        other, field, url = _ON_REQUEST[kind, step]
        rows = [one for one in self.all(other) if one[field] == node["id"]]
        if other == "subscription":
            rows = [one for one in rows if one["status"] != "canceled"]
        rows.sort(key=_age, reverse=True)
        node[step] = of_list([self.shown(one) for one in rows], url.format(node["id"]))
        return True

    def _whole(self, object_id: str, path: str) -> Json:
        if object_id not in self.objects:
            raise Refusal(400, f"This property cannot be expanded ({path}).", param="expand")
        return self.shown(self.objects[object_id])

    # Links that live for a while

    def link_token(self, object_id: str) -> str:
        """A token for a page or file of an object, counted from today; the same all day long."""
        issued = self.now // DAY * DAY
        return f"test_{object_id}_{issued:x}_{self._seal(object_id, issued)}"

    def linked(self, token: str) -> Json | None:
        """The object behind a token; None where it is forged or older than a link lives."""
        found = _TOKEN.match(token)
        if not found or found["id"] not in self.objects:
            return None
        issued = int(found["issued"], 16)
        if not hmac.compare_digest(found["seal"], self._seal(found["id"], issued)):
            return None
        return self.objects[found["id"]] if self.now - issued < LINK_LIVES_S else None

    def _seal(self, object_id: str, issued: int) -> str:
        return hmac.new(self.id.encode(), f"{object_id} {issued}".encode(), "sha256").hexdigest()[:16]

    def address(self, path: str) -> str:
        return f"{self.simulator.address}{path}"

    # Events

    def emit(self, kind: str, one: Json, before: Json | None = None, at: int | None = None) -> None:
        """Write an event of an object as it is now, and send it to the endpoints that want it."""
        created = at or self.now
        if self.looking_back and created < self.now - EVENTS_KEPT_S:
            return
        wanted_by = [
            endpoint
            for endpoint in self.all("webhook_endpoint")
            if endpoint["status"] == "enabled" and {"*", kind} & set(endpoint["enabled_events"])
        ]
        event = event_of(kind, self.shown(one), self.new_id("event"), created, before, self.request)
        event["pending_webhooks"] = len(wanted_by)
        past = self.looking_back or self.simulator.quiet
        event["_delivered"] = past or self.simulator.mode != "lose_webhooks"
        self.put(event)
        if past:
            return
        body = json.dumps(_public(event), indent=2).encode()
        for endpoint in wanted_by:
            self.simulator.deliver(signed(endpoint["url"], endpoint["_secret"], body, self.now))

    def change(self, one: Json, kind: str, at: int | None = None, **fields: Any) -> None:
        """Set fields of an object and emit the event with what they were; nothing where nothing changes."""
        before = {name: one.get(name) for name in fields if one.get(name) != fields[name]}
        if before:
            one.update(fields)
            self.emit(kind, one, _public(before), at)


def moments(params: Json, name: str) -> Callable[[int], bool]:
    """The filter of a `created`-like parameter: a moment, or any of gt, gte, lt, lte."""
    bounds = params.get(name)
    if bounds is None:
        return lambda _: True
    if not isinstance(bounds, dict):
        exact = whole(params, name)
        return lambda moment: moment == exact
    tests: list[Callable[[int], bool]] = []
    for key in bounds:
        limit = whole(bounds, key) or 0
        if key not in _COMPARE:
            raise Refusal(400, f"Received unknown parameter: {name}[{key}]", code="parameter_unknown")
        tests.append(lambda moment, compare=_COMPARE[key], limit=limit: compare(moment, limit))  # type: ignore[misc]
    return lambda moment: all(test(moment) for test in tests)


_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
}


def event_of(
    kind: str,
    shown: Json,
    event_id: str,
    created: int,
    before: Json | None = None,
    request: Json | None = None,
) -> Json:
    """An event object around an object as it is sent."""
    data: Json = {"object": shown}
    if before is not None:
        data["previous_attributes"] = before
    return {
        "id": event_id,
        "object": "event",
        "api_version": API_VERSION,
        "created": created,
        "data": data,
        "livemode": False,
        "pending_webhooks": 1,
        "request": dict(request or {"id": None, "idempotency_key": None}),
        "type": kind,
    }


def signature(secret: str, body: bytes, at: int) -> str:
    """The Stripe-Signature header: HMAC-SHA256 of time, dot and body, keyed with the whole secret as text."""
    seal = hmac.new(secret.encode(), f"{at}.".encode() + body, "sha256").hexdigest()
    return f"t={at},v1={seal}"


def signed(url: str, secret: str, body: bytes, at: int) -> Delivery:
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "Stripe-Signature": signature(secret, body, at),
        "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
    }
    return Delivery(url, headers, body)


def of_list(data: list[Json], url: str, total: int | None = None) -> Json:
    """A list inside an object: the first ten."""
    count = len(data) if total is None else total
    return {"object": "list", "data": data[:10], "has_more": count > 10, "url": url}


def _age(one: Json) -> tuple[int, int]:
    return one["created"], one["_place"]


def _public(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _public(value) for name, value in node.items() if name[:1] != "_"}
    return [_public(one) for one in node] if isinstance(node, list) else node


def _finish_subscription(books: Books, one: Json, sent: Json) -> None:
    sent["items"] = of_list(sent["items"], f"/v1/subscription_items?subscription={one['id']}")


def _finish_invoice(books: Books, one: Json, sent: Json) -> None:
    sent["lines"] = of_list(sent["lines"], f"/v1/invoices/{one['id']}/lines")
    sent["account_name"] = books.account["business_profile"]["name"]
    sent["hosted_invoice_url"] = sent["invoice_pdf"] = None
    if one["status"] != "draft" and one["id"] in books.objects:
        token = books.link_token(one["id"])
        sent["hosted_invoice_url"] = books.address(f"/i/{books.id}/{token}?s=ap")
        sent["invoice_pdf"] = books.address(f"/invoice/{books.id}/{token}/pdf?s=ap")


def _finish_charge(books: Books, one: Json, sent: Json) -> None:
    paid = one["status"] == "succeeded"
    path = f"/receipts/{books.id}/{books.link_token(one['id'])}"
    sent["receipt_url"] = books.address(path) if paid else None


def _finish_session(books: Books, one: Json, sent: Json) -> None:
    sent["url"] = books.address(f"/c/pay/{one['id']}") if one["status"] == "open" else None


def _finish_portal_session(books: Books, one: Json, sent: Json) -> None:
    sent["url"] = books.address(f"/p/session/{one['id'].replace('bps_', 'test_')}")


def _finish_credit_note(books: Books, one: Json, sent: Json) -> None:
    sent["lines"] = of_list(sent["lines"], f"/v1/credit_notes/{one['id']}/lines")
    sent["pdf"] = books.address(f"/credit_notes/{books.id}/{books.link_token(one['id'])}/pdf?s=ap")


_FINISH: dict[str, Callable[[Books, Json, Json], None]] = {
    "subscription": _finish_subscription,
    "invoice": _finish_invoice,
    "charge": _finish_charge,
    "checkout.session": _finish_session,
    "billing_portal.session": _finish_portal_session,
    "credit_note": _finish_credit_note,
}


def new_account(name: str, account_id: str, country: str, currency: str, created: int) -> Json:
    """The state of an account that has nothing but itself."""
    return {
        "objects": {account_id: shapes.account(account_id, name, country, currency, created)},
        "placed": 0,
        "kinds": {},
        "replays": {},
    }
