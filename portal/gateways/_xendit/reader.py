"""What is asked of Xendit's API: plans with their cycles, payments with their refunds, orders, people, lists."""

from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from portal import clock
from portal.gateways import base, wire
from portal.gateways._xendit import shapes
from portal.gateways._xendit.shapes import NEW, OLD, Look
from portal.gateways.base import Declined, GatewayError, Gone, Record, Ref, Snapshot, Unavailable
from portal.gateways.http import Http
from portal.gateways.wire import Json, part, text

API, V3, PEOPLE = "api.xendit.co", "2024-11-11", "2020-10-31"
PLAN = r"repl_[A-Za-z0-9-]{1,80}"
PAGE = 25  # each payment of a page is asked for too, and test mode allows 60 questions a minute
FOLLOWING = {"invoices": "refunds", "refunds": "payments", "payments": None}


class KeyRefused(Unavailable):
    """A 401: this secret key is none (any more)."""


class NotPermitted(Unavailable):
    """A 403: the key lacks the permission for a product."""


class Reader:
    """Asks for one account, or for one sub-account of a platform."""

    def __init__(self, http: Http, key: str, user: str) -> None:
        self._http = http
        self._headers = {"Authorization": f"Basic {b64encode(f'{key}:'.encode()).decode()}"}
        self._headers |= {"for-user-id": user} if user else {}

    async def ask(
        self, method: str, path: str, version: str | None, params: Any = None, body: Any = None, key: str = ""
    ) -> Any:
        headers = self._headers | ({"api-version": version} if version else {})
        headers |= {"idempotency-key": key} if key else {}
        return await self._http.ask(
            method, API, path, headers=headers, params=params, json=body, words=_words, refused=_refused
        )

    async def get(self, path: str, version: str | None = None, params: Any = None) -> Json:
        """An answer that is an object."""
        return wire.obj(await self.ask("GET", path, version, params))

    async def rows(self, path: str, version: str | None = None, params: Any = None) -> list[Json]:
        """The objects of a list, bare or in `data`; none of an answer that holds no list."""
        said = await self.ask("GET", path, version, params)
        return shapes.objects(said.get("data") if isinstance(said, dict) else said)

    # Subscriptions

    async def look(self, ref: Ref) -> Look:
        """A plan is asked for in the generation that it should be of, then in the other."""
        as_of, path = clock.now(), f"/recurring/plans/{wire.safe(ref.id, PLAN)}"
        first, second = (OLD, NEW) if getattr(ref.known, "object", None) == "legacy_plan" else (NEW, OLD)
        try:
            version, plan = first, await self.get(path, first)
        except Gone:
            version, plan = second, await self.get(path, second)
        found, params = list[Json](), dict[str, Any](limit=100)
        for _ in range(20):
            said = await self.get(f"{path}/cycles", version, params)
            found += (rows := wire.objects(said.get("data")))
            # The order is not documented; where it is newest first, the first page holds all that matters.
            if said.get("has_more") is not True or not rows or shapes.at(rows[0]) > shapes.at(rows[-1]):
                break
            params["after_id"] = text(rows[-1].get("id"))
        cycles = sorted((one for one in found if shapes.at(one) > shapes.EPOCH), key=shapes.at)
        return Look(as_of, plan, OLD if "payment_methods" in plan else version, cycles)

    async def told(self, ref: Ref, look: Look, cycle: str | None = None) -> Snapshot:
        """A subscription with its person and payments. Cycles know of no refund, so the payments of one (the newest
        paid one, where none is named) are asked for; of the others only that is told which cycles do know."""
        people = await self.person(text(look.plan.get("customer_id")))
        record = shapes.subscription(ref.id, look.plan, look.cycles, await self._method(look))
        record = shapes.speaking(record, email=people[0].email) if people else record
        found: list[Record] = [*people, record, *shapes.attempts(record, look.cycles)]
        named = [one for one in look.cycles if one.get("id") == cycle] if cycle else []
        for one in shapes.attempts(record, named or shapes.among(look.cycles, "SUCCEEDED")[-1:]):
            if one.status is None:
                found += shapes.linked(record, await self.paid(one.remote_id))
        return shapes.snapshot(look.as_of, found)

    async def _method(self, look: Look) -> base.Method | None:
        if (number := shapes.token(look.plan)) is None:
            return None
        path = "/v2/payment_methods" if look.version == OLD else "/v3/payment_tokens"
        said: Json = {}
        with suppress(Gone, NotPermitted):
            said = await self.get(f"{path}/{wire.safe(number)}", V3)
        return replace(shapes.method(said) or base.Method("payment_method"), remote_id=number)

    # Payments, orders, people

    async def records(self, ref: Ref) -> list[Record]:
        """What there is of anything but a subscription."""
        if ref.kind == "payment":
            found = await self.paid(ref.id)
            return [*found, *await self.person(getattr(found[0], "customer", None))]
        if ref.kind == "refund":
            refund = await self.refund(ref.id)
            return [*(await self.paid(refund.payment) if refund.payment else []), refund]
        if ref.kind == "customer":
            return [
                shapes.customer({**await self.get(f"/customers/{wire.safe(ref.id)}", PEOPLE), "id": ref.id})
            ]
        return await (self._sale(ref.id) if ref.id.startswith("ps-") else self._bill(ref.id))

    async def session(self, number: str) -> Json:
        return await self.get(f"/sessions/{wire.safe(number)}")

    async def _sale(self, number: str) -> list[Record]:
        """A session in which somebody paid once is an order."""
        said = {**await self.session(number), "payment_session_id": number}
        order, paid = shapes.order(said), text(said.get("payment_id"))
        people = await self.person(order.customer)
        order = shapes.speaking(order, email=people[0].email) if people else order
        return [order, *people, *(shapes.linked(order, await self.paid(paid)) if paid else [])]

    async def _bill(self, number: str) -> list[Record]:
        """An invoice is an order and its document; its payment is found by its number among the transactions."""
        said = {**await self.get(f"/v2/invoices/{wire.safe(number)}"), "id": number}
        order, rows = shapes.order(said), list[Json]()
        if order.status == "paid" and order.number:
            with suppress(NotPermitted):
                rows = await self.rows("/transactions", params={"reference_id": order.number})
        found: list[Record] = [order, shapes.invoice(said)]
        for row in rows:
            product = text(row.get("product_id"))
            if product and row.get("type") == "PAYMENT" and shapes.payment(row).order == number:
                link = {"invoice": number, "object": "invoice_order"}
                found += shapes.linked(order, await self.paid(product), **link)
        return found

    async def paid(self, number: str) -> list[Record]:
        """A payment as it stands after its refunds, and these."""
        if number.startswith("py-"):
            said = await self.get(f"/v3/payments/{wire.safe(number)}", V3)
        else:
            found = await self.rows("/transactions", params={"product_id": number})
            found = [one for one in found if one.get("product_id") == number and one.get("type") != "REFUND"]
            if not found:
                raise Gone("The payment company does not know this payment.", "No transaction has this id.")
            said = found[0]
        said = {**said, "payment_id": number}
        payment, product = shapes.payment(said), part(said, "product_data")
        request = text(said.get("payment_request_id") or product.get("payment_request_id"))
        if not request and not payment.invoice:
            return [payment]
        asked = {"payment_request_id": request} if request else {"invoice_id": payment.invoice}
        try:
            rows = await self.rows("/refunds", params=asked)
        except (Gone, NotPermitted):
            return [payment]
        refunds = [shapes.speaking(shapes.refund(row), payment=number) for row in rows if text(row.get("id"))]
        return [shapes.payment(said, shapes.sent(refunds)), *refunds]

    async def refund(self, number: str) -> base.RefundRecord:
        return shapes.refund({**await self.get(f"/refunds/{wire.safe(number)}"), "id": number})

    async def person(self, number: str | None) -> list[base.CustomerRecord]:
        """A customer, where the key may ask and Xendit knows one."""
        if number is None:
            return []
        with suppress(Gone, NotPermitted):
            said = await self.get(f"/customers/{wire.safe(number)}", PEOPLE)
            return [shapes.customer({**said, "id": number})]
        return []

    # Lists

    async def listed(self, walk: dict[str, Any]) -> list[Record]:
        """The records of one page; moves `walk` on to the next."""
        name, after = walk["list"], walk["after"]
        if name == "invoices":
            params = {"limit": PAGE} | ({"last_invoice": after} if after else {})
            rows = wire.objects(await self.ask("GET", "/v2/invoices", None, params))
            more = len(rows) >= PAGE
        else:
            params = {"types": name[:-1].upper(), "limit": PAGE} | ({"after_id": after} if after else {})
            said = await self.get("/transactions", None, params)
            rows, more = wire.objects(said.get("data")), said.get("has_more") is True
        last = text(rows[-1].get("id")) if rows else None
        goes_on = more and last not in (None, after)
        walk |= {"after": last} if goes_on else {"list": FOLLOWING[name], "after": None}
        parts = await wire.sifted(name, rows, partial(self._of_list, name, walk))
        return [record for part in parts for record in part]

    async def _of_list(self, name: str, walk: dict[str, Any], rows: list[Json]) -> list[Record]:
        if name == "invoices":
            known = [row for row in rows if text(row.get("id"))]
            return [*map(shapes.order, known), *map(shapes.invoice, known)]
        products = [(number, row) for row in rows if (number := text(row.get("product_id")))]
        if name == "payments":
            return [
                one for number, row in products for one in await self._sold(number, row, walk["refunded"])
            ]
        refunds = [await self.refund(number) for number, _ in products if number.startswith("rfd-")]
        for one in refunds:
            if one.payment:
                walk["refunded"][one.payment] = walk["refunded"].get(one.payment, 0) + shapes.sent([one])
        return [*refunds]

    async def _sold(self, number: str, row: Json, refunded: Mapping[str, int]) -> list[Record]:
        """A transaction names nobody: a v3 payment names its customer, and an invoice's has its order."""
        if number.startswith("py-") and not shapes.payment(row).order:
            with suppress(Gone, NotPermitted):
                row = {**row, **await self.get(f"/v3/payments/{wire.safe(number)}", V3)}
        payment = shapes.payment({**row, "payment_id": number}, refunded.get(number, 0))
        return [payment, *await self.person(payment.customer)]


def _words(said: Any) -> tuple[str, str]:
    return said["error_code"], said["message"]


def _refused(status: int, code: str, message: str) -> GatewayError | None:
    """What only Xendit means by a status: 403 is a missing permission, or a cycle that it is too late for."""
    hint = f"HTTP {status}: {code} {message}"
    if status == 401:
        return KeyRefused("The payment company does not accept this shop's key at the moment.", hint)
    if status == 403 and code.startswith("INELIGIBLE"):
        return Declined("It is too late to change this payment.", hint, code)
    if status == 403:
        return NotPermitted("This shop may not ask the payment company for this. Nothing was changed.", hint)
    if status == 409:  # a key that was used before: what came of it has to be read
        return Unavailable("This was asked before and is being checked.", hint, sent=True)
    if code == "INVALID_PAYMENT_TOKEN_ID":
        return Declined("This payment method can't be charged again. Please choose another one.", hint, code)
    return None
