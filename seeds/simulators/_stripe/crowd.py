"""A shop of any size: customers, subscriptions, invoices and charges worked out from their number, never kept.

Each of `people` has one subscription, four invoices and the four charges that paid them, spread over three years. Only
what a reader of everything asks for is answered; for anything else the account is empty.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from seeds.simulators._stripe.books import DAY, Books
from seeds.simulators._stripe.wire import Json

if TYPE_CHECKING:
    from seeds.simulators.stripe import Simulator

SPAN_S = 3 * 365 * DAY
EACH = 4  # charges of a person
OBJECTS = 2 + 2 * EACH  # of a person, payments of invoices not counted
ASKED = {"limit", "starting_after", "expand", "status", "created"}
_EXPANDED = {
    "/v1/customers": [],
    "/v1/subscriptions": ["data.customer", "data.default_payment_method", "data.latest_invoice"],
    "/v1/invoices": [],
    "/v1/charges": ["data.refunds"],
    "/v1/invoice_payments": ["data.invoice"],
}
_PREFIX = {
    "/v1/customers": "cus_Crowd",
    "/v1/subscriptions": "sub_Crowd",
    "/v1/invoices": "in_Crowd",
    "/v1/charges": "ch_Crowd",
    "/v1/invoice_payments": "inpay_Crowd",
}


@dataclass(frozen=True)
class Crowd:
    """The lists of one account, as text."""

    people: int
    now: int
    samples: Mapping[str, Sequence[str]]  # by path: one object in pieces, of which some are places

    def count(self, path: str) -> int:
        return self.people * (1 if path in ("/v1/customers", "/v1/subscriptions") else EACH)

    def page(self, path: str, params: Json) -> str | None:
        """A page of a list, newest first; None for what is not made here."""
        if path == "/v1/checkout/sessions" and set(params) <= ASKED:
            return _list(path, [], False)
        if path not in self.samples or not set(params) <= ASKED:
            return None
        after, limit, total = params.get("starting_after"), int(params.get("limit", "10")), self.count(path)
        first, last = 0, total
        if (window := params.get("created")) is not None:
            first, last = self._within(path, window)
        if after:
            first = int(after.removeprefix(_PREFIX[path])) + 1
        rows = range(first, min(last, first + limit))
        return _list(path, [self._object(path, number) for number in rows], rows.stop < last)

    def _within(self, path: str, window: Mapping[str, str]) -> tuple[int, int]:
        """The numbers of what was made in a time: number nought is the newest."""
        total = self.count(path)
        low, high = int(window.get("gte", "0")), int(window.get("lte", str(self.now)))
        first = max(0, -((high - self.now) * total // SPAN_S))
        last = (self.now - low) * total // SPAN_S + 1
        while first > 0 and self._made(path, first - 1) <= high:
            first -= 1
        return first, max(first, min(total, last))

    def _made(self, path: str, number: int) -> int:
        return self.now - number * SPAN_S // self.count(path)

    def _object(self, path: str, number: int) -> str:
        filled = {
            "@N@": f"{number:019d}",
            "@P@": f"{number % self.people:011d}",
            '"@T@"': str(self._made(path, number)),
        }
        return "".join([filled.get(piece, piece) for piece in self.samples[path]])


def _list(path: str, rows: list[str], more: bool) -> str:
    said = json.dumps({"object": "list", "has_more": more, "url": path})
    return f'{said[:-1]}, "data": [{", ".join(rows)}]}}'


def crowd(simulator: "Simulator", account: Any, people: int) -> Crowd:
    """A crowd that looks like what the builders of this account make."""
    from seeds.simulators._stripe.endpoints import answer, endpoint_for

    now = simulator.now()
    one = account.customer("person@example.com", "Person", now - timedelta(days=20))
    price = account.price(account.product("Tea"), 1200, "EUR")
    account.subscription(one, price, now - timedelta(days=20), account.card(one))
    books = Books(simulator, account.id)
    samples = {}
    for path, expand in _EXPANDED.items():
        endpoint, object_id = endpoint_for("GET", path)
        asked = {"limit": "1", "expand": expand} | ({"status": "all"} if "subscriptions" in path else {})
        (made,) = answer(endpoint, books, asked, object_id)["data"]
        made["created"] = "@T@"
        samples[path] = re.split('(@N@|@P@|"@T@")', _placed(json.dumps(made), books))
    for kind in ("customer", "subscription", "invoice", "charge", "invoice_payment", "payment_intent"):
        for gone in books.all(kind):
            del books.objects[gone["id"]]
        books.state["kinds"].pop(kind, None)
    return Crowd(people, int(now.timestamp()) - 3600, samples)


def _placed(said: str, books: Books) -> str:
    """The text of a sample with places in it where numbers stood."""
    own = {
        "customer": "cus_Crowd@P@",
        "payment_method": "pm_Crowd@P@",
        "subscription": "sub_Crowd@P@",
        "invoice": "in_Crowd@N@",
        "charge": "ch_Crowd@N@",
        "invoice_payment": "inpay_Crowd@N@",
        "payment_intent": "pi_Crowd@N@",
    }
    for kind, text in own.items():
        for one in books.all(kind):
            said = said.replace(one["id"], text)
    return said.replace("person@example.com", "person@P@@example.com").replace('"Person"', '"Person @P@"')
