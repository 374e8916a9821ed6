"""Mollie: amounts as text in major units, days without a zone, subscriptions that are only found below their customer.

Mollie goes on calling a subscription active when its payment failed, and knows neither a period's end nor a pause: what
is past due is worked out from its payments. A classic webhook is an unsigned id, next-gen ones are signed. A mandate is
never revoked here: that would cancel every subscription on it. Sources: https://docs.mollie.com/reference/overview and
the pages that the facts name.
"""

import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, time, timedelta
from functools import partial
from itertools import pairwise
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from portal import clock
from portal.gateways import _mollie, base, wire
from portal.gateways import _mollie_webhooks as webhooks
from portal.gateways._mollie import AMSTERDAM, CONTINUES, ENDED, HINT, ID, LIVE, NO_ANSWER, RECORDS
from portal.gateways.base import Declined, Gone, Record, Ref, Snapshot, Unavailable, Unsupported
from portal.gateways.http import Http
from portal.gateways.wire import Json, part, text
from portal.money import Money

API, WWW = "api.mollie.com", "www.mollie.com"
FREE_FIRST = ("creditcard", "paypal")  # all others are set up by a payment of at least one cent
BANK_FIRST = ["ideal", "bancontact", "belfius", "kbc", "eps"]  # these leave a mandate for direct debit
LISTS = ("customers", "subscriptions", "payments", "refunds", "sales-invoices")
_Part = tuple[list[Json], str | None]


class KeysRefused(Unavailable):
    """A 401: Mollie does not know this key."""


class Adapter(base.Gateway):
    """One website profile. Credentials: api_key, and webhook_secret where its next-gen webhooks come here; these are
    registered with organization_token."""

    looks_at_subject_alone = True

    def __init__(self, credentials: Mapping[str, str], **more: Any) -> None:
        super().__init__(credentials, **more)
        self._http = Http(self, "mollie")
        self._key = self._given("api_key")

    async def aclose(self) -> None:
        await self._http.aclose()

    async def check(self) -> base.Health:
        """A profile's own key may do everything that is done here, so it is good or it is not."""
        live = self._key.startswith("live_")
        try:
            profile = await self._get("/v2/profiles/me")
        except (KeysRefused, Unsupported) as refused:
            return base.Health(ok=False, live=live, hint=refused.hint)
        hint = "Mollie has blocked this profile." if profile.get("status") == "blocked" else None
        return base.Health(ok=hint is None, live=live, account=text(profile.get("name")), hint=hint)

    async def backfill(self, cursor: str | None = None) -> AsyncIterator[base.Page]:
        """All lists of the profile, newest first; the cursor is the list and the id from which on it is read."""
        name, start = json.loads(cursor) if cursor else (LISTS[0], None)
        while name:
            as_of, listed = clock.now(), name
            try:  # a live subscription takes two more calls, so fewer of them make a page
                found, start = await self._page(f"/v2/{name}", start, 25 if name == "subscriptions" else 250)
            except (Declined, Gone, Unsupported):
                if name != "sales-invoices":  # a product that not every account has
                    raise
                found, start = [], None
            if start is None:
                name = dict(pairwise(LISTS)).get(name)
            parts = await wire.sifted(listed, found, partial(self._told, listed))
            snapshot = _mollie.snapshot(as_of, [record for part in parts for record in part])
            yield base.Page(snapshot, json.dumps([name, start]) if name else None)

    def lists(self) -> list[str]:
        return [json.dumps([name, None]) for name in LISTS]

    async def _page(self, path: str, start: str | None = None, limit: int = 250) -> _Part:
        """One page of a list, and the id with which the next begins: its link is read, never followed."""
        said = await self._get(path, limit=str(limit), **({"from": start} if start else {}))
        found = wire.objects(part(said, "_embedded").get(path.rpartition("/")[2].replace("-", "_")))
        link = part(said, "_links").get("next", "")
        begins = parse_qs(urlsplit(text(part(link).get("href")) or "").query).get("from", [""])[0]
        if link is not None and (not ID.fullmatch(begins) or begins == start):
            raise Unavailable(NO_ANSWER, f"The list {path} does not say how it goes on.")
        return found, begins or None

    async def _told(self, name: str, found: Iterable[Json], closely: bool = False) -> list[Record]:
        """The records of a list; of live subscriptions (`closely`: of all) with mandate and newest payments."""
        records: list[Record] = []
        for one in found:
            if name == "subscriptions" and (closely or one.get("status") in LIVE):
                whose = f"/v2/customers/{wire.safe(text(one.get('customerId')) or '')}"
                payments, _ = await self._page(
                    f"{whose}/subscriptions/{_mollie.id_of(one, 'sub')}/payments", None, 5
                )
                mandates, _ = await self._page(f"{whose}/mandates")
                records += [
                    _mollie.subscription(one, payments, mandates),
                    *await self._told("payments", payments),
                ]
            else:
                records += RECORDS[name](one)
        return records

    async def fetch(self, ref: Ref) -> Snapshot:
        """What Mollie says now; a payment comes with its refunds, its customer and the subscription it is of."""
        as_of, payment = clock.now(), ref.id
        if ref.kind == "subscription":
            snapshot = await self._now(await self._path(ref))
            known = getattr(ref.known, "customer", None)
            whose = None if known else snapshot.subscriptions[0].customer
            customers = (
                (_mollie.customer(await self._get(f"/v2/customers/{wire.safe(whose)}")),) if whose else ()
            )
            return replace(snapshot, customers=customers)
        if ref.kind in ("customer", "invoice"):
            name = "customers" if ref.kind == "customer" else "sales-invoices"
            said = await self._get(f"/v2/{name}/{wire.safe(ref.id)}")
            return _mollie.snapshot(as_of, await self._told(name, [said]))
        if ref.kind == "refund":
            known = getattr(ref.known, "payment", None)
            payment = known or text((await self._search("refunds", ref.id)).get("paymentId")) or ""
        return _mollie.snapshot(as_of, await self._payment(payment))

    async def _payment(self, payment: str) -> list[Record]:
        said = await self._get(f"/v2/payments/{wire.safe(payment)}", embed="refunds")
        refunds = wire.objects(part(said, "_embedded").get("refunds") or [])
        found = [*_mollie.sale(said), *await self._told("refunds", refunds)]
        if not (customer := text(said.get("customerId"))):
            return found
        whose = f"/v2/customers/{wire.safe(customer)}"
        try:
            found.append(_mollie.customer(await self._get(whose)))
        except Gone:  # deleted there, and with them everything that could be asked for
            return found
        if said.get("sequenceType") == "oneoff":
            return found
        wanted = (
            None,
            text(said.get("subscriptionId")),
        )  # a first payment names none: any of theirs may be new
        theirs, _ = await self._page(f"{whose}/subscriptions")
        theirs = [one for one in theirs if wanted[1] is None or one.get("id") in wanted]
        return found + await self._told("subscriptions", theirs)

    async def _path(self, ref: Ref) -> str:
        """Where a subscription is found: below its customer, who is looked for in the list of all where unknown."""
        known = getattr(ref.known, "customer", None)
        customer = known or text((await self._search("subscriptions", ref.id)).get("customerId")) or ""
        return f"/v2/customers/{wire.safe(customer)}/subscriptions/{wire.safe(ref.id)}"

    async def _search(self, name: str, wanted: str) -> Json:
        found, start = await self._page(f"/v2/{name}")
        while not (hit := [one for one in found if one.get("id") == wanted]):
            if start is None:
                raise Gone("Mollie does not know this.", f"It is not in the list {name}.")
            found, start = await self._page(f"/v2/{name}", start)
        return hit[0]

    async def _now(self, *paths: str, sent: bool = False) -> Snapshot:
        """Subscriptions as they are now; `sent`: after a call, which a failure to look afterwards does not undo."""
        as_of = clock.now()
        try:
            found = [await self._get(path) for path in paths]
            return _mollie.snapshot(as_of, await self._told("subscriptions", found, closely=True))
        except Unavailable as error:
            raise Unavailable(error.customer, error.hint, error.retry_after, sent=sent) from error

    def verify(
        self, headers: list[tuple[str, str]], body: bytes, now: datetime, certificate: bytes | None = None
    ) -> list[base.Event]:
        """A next-gen event, proved by any of its signatures (two while the secret changes), or a classic unsigned id.

        The same id is told again for every change of a payment, so each hint is an event of its own.
        """
        given = [value for name, value in headers if name.lower() == "x-mollie-signature"]
        if not given and body.startswith(b"id="):
            hint = HINT.fullmatch(body)
            return [_mollie.hint(hint[1].decode(), now.isoformat())] if hint else []
        secret = wire.secret_of(self.credentials, "webhook_secret", "webhook secret")
        expected = wire.hmac_hex(secret, body, "sha256")
        signatures = [one.strip().removeprefix("sha256=") for value in given for one in value.split(",")]
        if not any(wire.same(one, expected) for one in signatures):
            raise base.BadSignature("No signature, or none that was made with the webhook secret given here.")
        try:
            return _mollie.events(wire.proved_json(body))
        except ValueError as error:
            raise base.BadSignature(str(error)) from error

    async def register_webhook(self, url: str, key: str) -> base.Registration:
        """A next-gen webhook; it tells of all profiles of the organisation, and another's payments are not found."""
        return await webhooks.register(self._organisation(), url, key, self._given("webhook_secret"))

    async def unregister_webhook(self, remote_id: str) -> None:
        await webhooks.unregister(self._organisation(), remote_id)

    async def send_test_event(self, remote_id: str | None) -> str | None:
        if not remote_id:
            raise Unsupported("", "Mollie tests only a webhook that was registered here.")
        return await webhooks.test(self._organisation(), remote_id)

    def _organisation(self) -> webhooks.Ask:
        """Asks below /v2/webhooks with the organisation's token, in the mode of the profile's key."""
        token = self._given("organization_token")
        if not token:
            raise Unsupported("", webhooks.BY_HAND)
        mode = {"testmode": True} if self._key.startswith("test_") else {}

        async def ask(method: str, path: str, key: str = "", body: Any = None, params: Any = None) -> Any:
            query = {**(params or {}), **dict.fromkeys(mode, "true")} if method == "GET" else None
            sent = {**(body or {}), **mode} if method != "GET" else None
            return await self._ask(method, f"/v2/webhooks{path}", key, sent or None, query, token)

        return ask

    def _given(self, name: str) -> str:
        return self.credentials.get(name, "").strip()

    async def cancel_now(self, ref: Ref, key: str) -> Snapshot:
        """Final; the mandate stays, and direct debits under way still run. A second cancel is refused: no failure."""
        path = await self._path(ref)
        if (await self._get(path)).get("status") not in ENDED:
            try:
                await self._ask("DELETE", path, key)
            except Declined:
                if (await self._get(path)).get("status") not in ENDED:
                    raise
        return await self._now(path, sent=True)

    async def undo_cancel(self, ref: Ref, key: str) -> Snapshot:
        """A cancelled one never comes back: one like it begins on the day until which was paid. Both are told."""
        path = await self._path(ref)
        siblings, old = path.rpartition("/")[0], await self._get(path)
        if old.get("status") != "canceled":
            return await self._now(path)
        new = await self._successor(siblings, old)
        if new is None:
            wish = await self._like(old, siblings, getattr(ref.known, "current_period_end", None))
            try:
                new = wire.obj(await self._ask("POST", siblings, key, wish))
            except Declined:  # a second one of this description: another try may have been faster
                new = await self._successor(siblings, old)
                if new is None:
                    raise
        return await self._now(path, f"{siblings}/{_mollie.id_of(new, 'sub')}", sent=True)

    async def _successor(self, siblings: str, old: Json) -> Json | None:
        """A live subscription of the same description; Mollie allows a customer one of each."""
        found, _ = await self._page(siblings)
        same = (one for one in found if one.get("description") == old.get("description"))
        return next((one for one in same if one.get("status") in LIVE), None)

    async def _like(self, old: Json, siblings: str, until: datetime | None) -> dict[str, Any]:
        if until is None or until <= clock.now():
            hint = "Until when it is paid is over, or not known here."
            raise Unsupported("The paid time is over; please order again.", hint)
        mandates, _ = await self._page(siblings.replace("/subscriptions", "/mandates"))
        if not any(
            _mollie.carries(one, old) and old.get("mandateId") in (None, one.get("id")) for one in mandates
        ):
            raise Unsupported(
                "The payment method is no longer valid; please order again.", "No valid mandate."
            )
        names = ("amount", "interval", "description", "mandateId", "method", "webhookUrl", "metadata")
        like = {name: old[name] for name in names if old.get(name) is not None}
        if isinstance(old.get("metadata") or {}, dict):
            like["metadata"] = {**(old.get("metadata") or {}), CONTINUES: old.get("id")}
        here = until.astimezone(AMSTERDAM)  # nothing is charged while it is paid for: a day begun is let pass
        like["startDate"] = str(here.date() + timedelta(days=here.time() > time()))
        return like | ({"times": old.get("timesRemaining")} if old.get("times") else {})

    async def change_plan(
        self, ref: Ref, change: Mapping[str, Any], return_url: str, key: str
    ) -> Snapshot | base.Leave:
        """Another amount (in its currency) or interval (a year at most) from the next payment on, nothing prorated."""
        path, amount, interval = await self._path(ref), change.get("amount"), change.get("interval")
        wish: dict[str, Any] = {"amount": _mollie.written(amount)} if amount else {}
        wish |= {"interval": _mollie.spelled(interval)} if interval else {}
        was = await self._get(path)
        foreign = amount and amount.currency != part(was, "amount").get("currency")
        if was.get("status") != "active" or foreign or change.get("plan") or not wish:
            raise Unsupported("This can't be changed that way.", "Amount or interval of an active one only.")
        if _mollie.unlike(was, wish):
            await self._ask(
                "PATCH", path, key, wish
            )  # never with startDate: refused once something was charged
            if missed := _mollie.unlike(await self._get(path), wish):
                hint = f"Accepted, but not applied so far: {', '.join(missed)}."
                raise Unavailable("Mollie took the change, but does not show it yet.", hint, sent=True)
        return await self._now(path, sent=True)

    async def start_method_update(self, ref: Ref, return_url: str, key: str) -> base.Leave:
        """A first payment on Mollie's page, of nothing for cards and PayPal, else of the smallest amount there is."""
        path = await self._path(ref)
        said, was = await self._get(path), (await self._now(path)).subscriptions[0]
        if said.get("status") in ENDED or was.amount is None:
            raise Unsupported("This has ended; its payment method can't be changed any more.")
        # A mandate of another type than the one that a subscription is fixed to is not known to work.
        method = text(said.get("method")) or (
            "creditcard" if was.method and was.method.kind == "card" else None
        )
        wish: dict[str, Any] = {
            "customerId": was.customer,
            "sequenceType": "first",
            "redirectUrl": return_url,
        }
        wish["amount"] = _mollie.written(Money(0 if method in FREE_FIRST else 1, was.amount.currency))
        wish["description"] = f"New payment method for {was.title or 'your subscription'}"[:255]
        wish["metadata"] = {"portal_action": "update_payment_method", "subscription": ref.id}
        wish |= {"method": BANK_FIRST if method == "directdebit" else method} if method else {}
        made = wire.obj(await self._ask("POST", "/v2/payments", key, wish))
        checkout = text(part(made, "_links", "checkout").get("href"))
        if checkout is None:
            raise Unavailable(NO_ANSWER, "The payment has no checkout link.", sent=True)
        return base.Leave(checkout, {"payment": _mollie.id_of(made, "tr")})

    async def finish_method_update(
        self, ref: Ref, state: Mapping[str, str], query: Mapping[str, str]
    ) -> Snapshot:
        """A paid first payment has left a mandate: the subscription is put on it, and the old one is left alone."""
        payment, path = (
            await self._get(f"/v2/payments/{wire.safe(state.get('payment', ''))}"),
            await self._path(ref),
        )
        if payment.get("status") in ("failed", "canceled", "expired"):
            why = text(part(payment, "details").get("failureReason")) or str(payment["status"])
            raise Declined("The new payment method was not set up. The old one stays.", f"It is {why}.", why)
        said, new = await self._get(path), text(payment.get("mandateId"))
        if payment.get("status") == "paid" and new and said.get("mandateId") != new:
            mandate = await self._get(f"{path.split('/subscriptions')[0]}/mandates/{wire.safe(new)}")
            if mandate.get("status") == "valid":  # pending is not enough
                if not _mollie.carries(mandate, said):
                    hint = "The mandate is of another type, or good only while the customer is present."
                    raise Declined("This method can't pay for a subscription. The old one stays.", hint)
                await self._ask("PATCH", path, new, {"mandateId": new})
        return await self._now(path, sent=True)

    async def invoice_document(self, ref: Ref) -> base.Document | None:
        """The PDF of a sales invoice, where Mollie has made one and names it on a host of its own."""
        url = _mollie.invoice(await self._get(f"/v2/sales-invoices/{wire.safe(ref.id)}")).document_url or ""
        host = next((host for host in (WWW, API) if url.startswith(f"{self.base(host)}/")), None)
        if host is None:
            return None
        headers = {"Authorization": f"Bearer {self._key}"} if host == API else {}
        answer = await self._http.call("GET", host, url.removeprefix(self.base(host)), headers=headers)
        is_file = answer.status_code == 200 and answer.content.startswith(b"%PDF-")
        return base.Document("application/pdf", f"{ref.id}.pdf", answer.content) if is_file else None

    @classmethod
    def read(cls, kind: base.Kind | Literal["event"], said: Any) -> Record | list[base.Event]:
        """An order is read from the payment that it is here; an event also from the one field of a classic webhook."""
        if not isinstance(said, dict):
            raise ValueError("This is no object of Mollie's API.")
        if kind == "event":
            return _mollie.events(said)
        name = {"order": "payments", "invoice": "sales-invoices"}.get(kind, f"{kind}s")
        try:
            found = [one for one in RECORDS[name](said) if type(one).__name__ == f"{kind.title()}Record"]
        except Unavailable as error:
            raise ValueError(error.hint) from error
        if not found:
            raise ValueError("This payment belongs to a subscription and is no order of its own.")
        return found[0]

    async def _get(self, path: str, **params: str) -> Json:
        return wire.obj(await self._ask("GET", path, params=params))

    async def _ask(
        self, method: str, path: str, key: str = "", body: Any = None, params: Any = None, token: str = ""
    ) -> Any:
        headers = {"Authorization": f"Bearer {token or self._key}".strip()}
        if key:  # Mollie wants a UUID of version 4
            digest = hashlib.sha256(f"{key} {method} {path}".encode()).digest()
            headers["Idempotency-Key"] = str(UUID(bytes=digest[:16], version=4))
        more = {"headers": headers, "params": params, "json": body}
        more["empty"] = (202, 204) if path.endswith("/ping") else (204,)
        return await self._http.ask(method, API, path, words=_words, refused=_refused, **more)


def _words(said: Any) -> tuple[str, str]:
    return said.get("field") or said["title"], said["detail"]


def _refused(status: int, code: str, message: str) -> base.GatewayError | None:
    hint = f"HTTP {status}: {code} {message}".strip()
    if status == 401:
        return KeysRefused("This shop's keys are not accepted at the moment. Nothing was changed.", hint)
    if status == 403:
        return Unsupported("This is not possible here.", hint)
    return Unavailable("This is being worked on already.", hint, 2.0, sent=True) if status == 409 else None
