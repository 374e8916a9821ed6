"""Klarna: orders and customer tokens; no subscription object, no schedule, and no list but that of payouts.

A subscription is what a shop charges by a customer token. Its id is the token and, behind a slash, the reference of the
order line with the plan, since one token may carry several; without a token nothing stands before the slash. The token
tells whether it may be charged and by what; plan, amount and period stand in the last order. A token that Klarna does
not know is no cancelled one: a mistyped id and a wrong region are answered alike. Captures are the payments: the first,
or the authorisation before it, bears the order's id; others, and refunds, have a second id behind a colon. Amounts are
minor units with tax. Webhooks of v2 are signed, classic ones are hints that make us look.
Sources: https://docs.klarna.com/api and the pages named in the facts.
"""

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

from portal import clock
from portal.gateways import _klarna as told
from portal.gateways import _klarna_webhooks as webhooks
from portal.gateways import base, wire
from portal.gateways._klarna import ACCEPTED, SHARED, UUID, KeysRefused
from portal.gateways.base import Declined, Gone, Ref, Snapshot, SubscriptionRecord, Unavailable, Unsupported
from portal.gateways.http import Http, refusal
from portal.gateways.wire import Json, objects, part, safe, spoken, text

REGIONS = {"eu": "", "na": "-na", "oc": "-oc"}
CURRENCIES = {  # of countries without the euro, for a new token where the amount is not known
    "AU": "AUD",
    "CA": "CAD",
    "CH": "CHF",
    "CZ": "CZK",
    "DK": "DKK",
    "GB": "GBP",
    "HU": "HUF",
    "MX": "MXN",
    "NO": "NOK",
    "NZ": "NZD",
    "PL": "PLN",
    "RO": "RON",
    "SE": "SEK",
    "US": "USD",
}
NOT_SAVED = ("BACK", "CANCELLED", "FAILED", "DISABLED", "ERROR")  # how a visit to the hosted page ends
NOBODY = "00000000-0000-4000-8000-000000000000"  # an order that is never there: only good keys are told so
WINDOW, WINDOWS, ROWS, PAYOUTS = timedelta(days=90), 13, 25, 500  # orders can be read for about three years
NO_ANSWER = "Klarna does not answer at the moment."


class Adapter(base.Gateway):
    """One merchant id in one region. Credentials: region, environment, username (none where the key goes alone),
    api_key, country, merchant_id; for v2 signing_key_id and signing_key, during a change with the `_old` ones."""

    def __init__(self, credentials: Mapping[str, str], **more: Any) -> None:
        super().__init__(credentials, **more)
        self._http = Http(self, "klarna")
        user, key = (self.credentials.get(name, "").strip() for name in ("username", "api_key"))
        proof = b64encode(f"{user}:{key}".encode()).decode() if user else key
        self._headers = {"Authorization": f"Basic {proof}"}
        self._live = self.credentials.get("environment") == "live"
        host = f"api{REGIONS.get(self.credentials.get('region', ''), '')}"
        self._host = f"{host}.klarna.com" if self._live else f"{host}.playground.klarna.com"
        self._network = "api-global.klarna.com" if self._live else "api-global.test.klarna.com"

    async def aclose(self) -> None:
        await self._http.aclose()

    async def check(self) -> base.Health:
        """Asks for an order that is nobody's, for the newest payouts, and for v2 whether our signing key is known."""
        account = self.credentials.get("merchant_id") or None
        try:
            await self._order(NOBODY)
        except KeysRefused as refused:
            return base.Health(ok=False, live=self._live, account=account, hint=refused.hint)
        except (Gone, Declined):
            pass
        missing, hint = [], None
        try:
            await self._payouts(clock.now())
        except (KeysRefused, Gone, Declined) as refused:
            missing.append("Settlements API")
            hint = f"Without the Settlements API past orders are not found. {refused.hint}"
        if self.variant == "v2":
            try:
                hint = await self._unknown_key() or hint
            except (KeysRefused, Gone, Declined) as refused:
                missing.append("Notification API v2")
                hint = hint or refused.hint
        return base.Health(ok=True, live=self._live, account=account, missing=tuple(missing), hint=hint)

    async def _unknown_key(self) -> str | None:
        listed = await self._ask("GET", "/v2/notification/signing-keys")
        if self.credentials.get("signing_key_id", "") in json.dumps(listed):
            return None
        return "Klarna does not list this signing key id, so its webhooks can't be proved."

    async def backfill(self, cursor: str | None = None) -> AsyncIterator[base.Page]:
        """Payouts, 90 days at a time and backwards: their transactions name the orders, which are read one by one.

        What was never paid out, and every token, is told by webhooks or by the merchant's own list alone.
        """
        walk: dict[str, Any] = {"until": clock.now().isoformat(), "window": 0, "payout": 0, "offset": 0}
        walk |= json.loads(cursor) if cursor else {}
        while walk["window"] < WINDOWS:
            as_of, orders = clock.now(), list[Json]()
            payouts = await self._payouts(datetime.fromisoformat(walk["until"]) - walk["window"] * WINDOW)
            if walk["payout"] < len(payouts):
                query = {"payment_reference": payouts[walk["payout"]], "size": ROWS, "offset": walk["offset"]}
                said = wire.obj(await self._ask("GET", "/settlements/v1/transactions", params=query))
                rows = objects(said.get("transactions"))
                orders = await self._orders(text(row.get("order_id")) or "" for row in rows)
                full = len(rows) >= ROWS
                walk |= {
                    "payout": walk["payout"] + (not full),
                    "offset": walk["offset"] + ROWS if full else 0,
                }
            if walk["payout"] >= len(payouts):
                walk |= {"window": walk["window"] + 1, "payout": 0, "offset": 0}
            more = walk["window"] < WINDOWS
            parts = await wire.sifted("orders", orders, partial(_read, as_of), "order_id")
            yield base.Page(wire.together(as_of, parts), json.dumps(walk) if more else None)

    async def _payouts(self, end: datetime) -> list[str]:
        """The references of the payouts of 90 days, newest first. Whole moments: a bare day would mean its start."""
        dates = {"start_date": end - WINDOW, "end_date": end - timedelta(seconds=1)}
        query = {name: f"{at:%Y-%m-%dT%H:%M:%SZ}" for name, at in dates.items()} | {"size": str(PAYOUTS)}
        found = list[Json]()
        while len(found) % PAYOUTS == 0:
            said = await self._ask("GET", "/settlements/v1/payouts", params={**query, "offset": len(found)})
            page = objects(wire.obj(said).get("payouts"))
            found += page
            if not page:
                break
        found.sort(key=lambda payout: text(payout.get("payout_date")) or "", reverse=True)
        return [name for payout in found if (name := text(payout.get("payment_reference")))]

    async def _orders(self, named: Iterable[str]) -> list[Json]:
        """Orders by their ids, once each, without those that are too old to be read."""
        found = []
        for order_id in dict.fromkeys(filter(UUID.fullmatch, named)):
            try:
                found.append(await self._order(order_id))
            except Gone:
                continue
        return found

    @classmethod
    def read_file(cls, text: str) -> Snapshot:
        """The merchant's own list of e-mails, tokens and plans; see `read_tokens_csv` in `_klarna`."""
        return told.read_tokens_csv(text)

    @classmethod
    def subscription_id(cls, subscription: str | None, token: str | None) -> str | None:
        """One token may be charged for several plans, so the plan's reference belongs to the id."""
        return told.token_and_plan(token, subscription)

    async def fetch(self, ref: Ref) -> Snapshot:
        """A subscription by its token; an order, payment or refund by the order, with all that belongs to it."""
        as_of = clock.now()
        if ref.kind == "subscription":
            return Snapshot(as_of=as_of, subscriptions=await self._subscriptions(ref))
        if ref.kind in ("order", "payment", "refund"):
            return told.snapshot(as_of, [await self._order(ref.id.partition(":")[0])])
        raise Unsupported("Klarna can't be asked about this.", f"It has no look-up for a {ref.kind}.")

    async def _subscriptions(self, ref: Ref) -> tuple[SubscriptionRecord, ...]:
        """One record; two where the shop has ended the former token and so goes on with the new one."""
        tokens, accepted = told.tokens(ref), told.known(ref).raw_status == ACCEPTED
        if not tokens:  # it stands in the merchant's own list alone
            return (spoken(SubscriptionRecord, ref.id),)
        try:
            said = await self._token(tokens[0])
        except Gone:  # cancelled only where we read it active before and our own cancel was accepted
            if not accepted:
                raise
            return (spoken(SubscriptionRecord, ref.id, status="cancelled", raw_status="CANCELLED"),)
        former = await self._former(tokens[1]) if len(tokens) > 1 else None
        if said.get("status") == "CANCELLED" and former in ("ACTIVE", "SUSPENDED"):
            return (told.subscription(ref, {**said, "status": former}, tokens[0]),)
        if said.get("status") == "ACTIVE" and former == "CANCELLED" and not accepted:
            return told.moved(ref, said, tokens[0])
        return (told.subscription(ref, said, tokens[0]),)

    async def _former(self, token: str) -> str | None:
        try:
            return text((await self._token(token)).get("status"))
        except Gone:
            return None

    def verify(
        self, headers: list[tuple[str, str]], body: bytes, now: datetime, certificate: bytes | None = None
    ) -> list[base.Event]:
        """v2: HMAC-SHA256 of the raw body in lower-case hex, by the key that a second header names; no time is signed.

        Classic: nothing is signed, so nothing but the id of an order is taken, and that order is looked up.
        """
        keys = {self.credentials.get(f"signing_key_id{age}", "").strip(): age for age in ("_old", "")}
        signs = self.variant == "v2" or any(keys) or "signing_key" in self.credentials
        if self.variant == "classic" or not signs:
            return [told.hint(wire.proved_json(body), now)]
        name = wire.one_header(headers, "Klarna-Signing-Key-Id")
        if name not in keys:
            raise base.BadSignature("Klarna signed with a key that is not set here.")
        key = wire.secret_of(self.credentials, f"signing_key{keys[name]}", "signing key")
        if not wire.same(wire.one_header(headers, "Klarna-Signature"), wire.hmac_hex(key, body, "sha256")):
            raise base.BadSignature("The signature is wrong, or the key here is not the one of this id.")
        said = wire.proved_json(body)
        live = part(said, "metadata").get("live")
        if isinstance(live, bool) and "environment" in self.credentials and live is not self._live:
            raise base.BadSignature("The event is not of this environment.")
        return [told.event(said)]

    async def refetch(self, event: base.Event) -> Snapshot | None:
        """Klarna's own word on order and token. That they belong together is in the signed event alone."""
        token, order_id = text(event.body.get("token")), text(event.body.get("order"))
        if not token or not order_id:
            return await super().refetch(event)
        as_of, order = clock.now(), await self._order(order_id)
        try:
            said = await self._token(token)
        except Gone:  # a token of the Partner API, or of another merchant id
            return told.snapshot(as_of, [order])
        signed_up = told.signed_up(token, said, order)
        only = signed_up[0].remote_id if len(signed_up) == 1 else None
        return replace(told.snapshot(as_of, [order], only), subscriptions=signed_up)

    async def register_webhook(self, url: str, key: str) -> base.Registration:
        """For v2. A retry finds the webhook, not the key of a lost answer: then both are made anew."""
        webhooks.only_v2(self.variant)
        return await webhooks.register(self._ask, url, self.credentials)

    async def unregister_webhook(self, remote_id: str) -> None:
        webhooks.only_v2(self.variant)
        await webhooks.unregister(self._ask, remote_id)

    async def send_test_event(self, remote_id: str | None) -> str | None:
        """For v2: an event about a payment that there is not, so it leads to nothing."""
        webhooks.only_v2(self.variant)
        if not remote_id:
            raise Unsupported("", "Klarna simulates events only for a webhook that was registered here.")
        return await webhooks.test(self._ask, remote_id)

    async def cancel_now(self, ref: Ref, key: str) -> Snapshot:
        """Ends the token, for good. Klarna says 202 and does it in its own time; the shop's schedule goes on."""
        tokens, was, sent = told.tokens(ref), told.known(ref), False
        if not tokens or was.object == SHARED:
            raise Unsupported(
                "Only the shop can cancel this.", "No token is known that carries nothing else."
            )
        for token in tokens:  # a former one may still be charged by the shop
            try:
                if (await self._token(token)).get("status") != "CANCELLED":
                    await self._end(token)
                    sent = True
            except Gone:
                if token == tokens[0]:
                    raise
        if not sent:
            return await self.fetch(ref)
        try:
            after = await self.fetch(replace(ref, known=replace(was, raw_status=ACCEPTED)))
        except Unavailable as error:
            raise Unavailable(error.customer, error.hint, error.retry_after, sent=True) from error
        return replace(after, tell=self.foretold("cancel_now", ref))

    def foretold(self, wish: str, ref: Ref) -> str:
        """The shop's own billing goes on."""
        if wish != "cancel_now":
            return ""
        return f"{told.called(ref)} was cancelled and its Klarna token ended: end it in your own billing as well."

    async def _end(self, token: str) -> None:
        """The answer is a 202 with a sentence in place of JSON."""
        path, wish = f"/customer-token/v1/tokens/{safe(token)}/status", {"status": "CANCELLED"}
        answer = await self._http.call("PATCH", self._host, path, headers=self._headers, json=wish)
        if answer.status_code == 202:
            return
        try:
            code, message = told.words(answer.json())
        except (AttributeError, TypeError, ValueError):
            code, message = "", ""
        said = f"{code} {message}".strip()
        raise told.refused(answer.status_code, code, message) or refusal(answer, said, code, write=True)

    async def start_method_update(self, ref: Ref, return_url: str, key: str) -> base.Leave:
        """A session to tokenize, worth nothing, on Klarna's hosted page. No address in it carries a right to charge."""
        was, country = told.known(ref), self.credentials.get("country", "").strip()
        if not country:
            raise Unsupported(
                "This can't be changed here at the moment.", "Set the country in Klarna's settings."
            )
        currency = was.amount.currency if was.amount else CURRENCIES.get(country, "EUR")
        where = {"purchase_country": country, "purchase_currency": currency, "locale": f"en-{country}"}
        name, every = (was.title or "Subscription")[:255], was.interval or base.Interval("month")
        plan = {"name": name, "interval": every.unit.upper(), "interval_count": every.count}
        line = {"name": name, "quantity": 1, "unit_price": 0, "total_amount": 0, "subscription": plan}
        wish = {**where, "intent": "tokenize", "order_amount": 0, "order_lines": [line]}
        session = text(
            wire.obj(await self._ask("POST", "/payments/v1/sessions", json=wish)).get("session_id")
        )
        visit = {
            "payment_session_url": f"{self.base(self._host)}/payments/v1/sessions/{safe(session or '')}",
            "merchant_urls": dict.fromkeys(("success", "cancel", "back", "failure", "error"), return_url),
            "options": {"purchase_type": "SUBSCRIBE", "place_order_mode": "NONE"},
        }
        page = wire.obj(await self._ask("POST", "/hpp/v1/sessions", json=visit))
        url, opened = text(page.get("redirect_url")) or "", text(page.get("session_id"))
        if "://" not in url or not opened:
            raise Unavailable(NO_ANSWER, "The hosted page has no address.")
        return base.Leave(url, {**where, "description": name, "session": opened})

    async def finish_method_update(
        self, ref: Ref, state: Mapping[str, str], query: Mapping[str, str]
    ) -> Snapshot:
        """The session tells whether the customer agreed; the authorisation in it, good for an hour, makes the token."""
        as_of, visit = clock.now(), f"/hpp/v1/sessions/{safe(state.get('session', ''))}"
        said = wire.obj(await self._ask("GET", visit))
        word, approval = text(said.get("status")), text(said.get("authorization_token"))
        if word in NOT_SAVED:
            raise Declined("Klarna saved no new payment method. The old one stays.", reason=str(word))
        if word != "COMPLETED" or not approval:
            return await self.fetch(ref)
        token = await self._new_token(
            approval, {name: value for name, value in state.items() if name != "session"}
        )
        try:
            method = told.method(await self._token(token), token)
        except base.GatewayError:  # the token is there; what it charges is read another time
            method = None
        method = method or base.Method("pay_later", "Klarna", remote_id=token)
        record = spoken(SubscriptionRecord, ref.id, method=method)
        ask = f"Charge {told.called(ref)} by the new Klarna customer token {token}, then cancel the former token."
        return Snapshot(as_of=as_of, subscriptions=(record,), ask=ask)

    async def _new_token(self, approval: str, where: Mapping[str, str]) -> str:
        path, wish = f"/payments/v1/authorizations/{safe(approval)}/customer-token", {**where}
        try:
            made = wire.obj(await self._ask("POST", path, json={**wish, "intended_use": "SUBSCRIPTION"}))
        except Gone as error:
            raise Declined("That took too long, and nothing was changed. Start again.", error.hint) from error
        if not (token := text(made.get("token_id"))):
            raise Unavailable(NO_ANSWER, "The new token has no id.", sent=True)
        return token

    async def _order(self, order_id: str) -> Json:
        said = wire.obj(await self._ask("GET", f"/ordermanagement/v1/orders/{safe(order_id)}"))
        if text(said.get("order_id")) != order_id:
            raise Unavailable(NO_ANSWER, "The answer is about another order, or about none.")
        return said

    async def _token(self, token: str) -> Json:
        return wire.obj(await self._ask("GET", f"/customer-token/v1/tokens/{safe(token)}"))

    async def _ask(self, method: str, path: str, **more: Any) -> Any:
        host = self._network if path.startswith("/v2/") else self._host
        usual: dict[str, Any] = {"headers": self._headers, "words": told.words, "refused": told.refused}
        return await self._http.ask(method, host, path, **usual | more)

    @classmethod
    def read(cls, kind: base.Kind | Literal["event"], said: Any) -> base.Record | list[base.Event]:
        """An order, a payment or refund out of an order, or a customer token with its `token_id` among its fields."""
        if kind in ("customer", "invoice"):
            raise Unsupported("", f"Klarna has no {kind} of its own.")
        needed = {"subscription": "status", "event": ""}.get(kind, "order_id")
        if not isinstance(said, dict) or (needed and not text(said.get(needed))):
            raise ValueError(f"This is no {kind} of Klarna's: it has no {needed or 'fields'}.")
        if kind == "event":
            return [told.event(said) if "metadata" in said else told.hint(said, clock.now())]
        if kind == "subscription":
            token = text(said.get("token_id")) or ""
            return told.subscription(Ref("subscription", token), said, token or None)
        snapshot = told.snapshot(clock.now(), [said])
        found: tuple[base.Record, ...] = getattr(snapshot, f"{kind}s")
        if not found:
            raise ValueError(f"This order of Klarna's has no {kind}.")
        return found[0]


async def _read(as_of: datetime, orders: list[Json]) -> Snapshot:
    return told.snapshot(as_of, orders)
