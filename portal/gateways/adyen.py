"""Adyen: payments are told by webhooks alone; only a shopper's stored payment methods can be asked for.

It has no subscriptions, orders, customers or invoices, and lists nothing. A subscription here is what is charged on one
shopperReference (its id) with one stored payment method (its `method.remote_id`); it knows no dates, for the schedule
lives in the merchant's billing engine. Amounts are minor units, with four exponents of Adyen's own. A standard webhook
signs eight fields only; of the others, whom it is about is believed where Basic authentication proves the sender.
Sources: https://docs.adyen.com/api-explorer/Checkout/72/overview and
https://docs.adyen.com/development-resources/webhooks/secure-webhooks/verify-hmac-signatures
"""

import base64
import hmac
import re
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

from portal import clock
from portal.gateways import _adyen as said_by
from portal.gateways import _adyen_report, base, wire
from portal.gateways import _adyen_webhooks as webhooks
from portal.gateways.base import (
    BadSignature,
    Declined,
    Event,
    GatewayError,
    Gone,
    Health,
    Leave,
    Page,
    Record,
    Ref,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.http import Http
from portal.gateways.wire import Json, part
from portal.money import Money

TEST, LIVE = "checkout-test.adyen.com", "{live_prefix}-checkout-live.adyenpayments.com"
MANAGEMENT = {False: "management-test.adyen.com", True: "management-live.adyen.com"}
PREFIX = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,46}[A-Za-z0-9])?")
ROLES = ("Checkout webservice role", "Merchant Recurring role")
NO_ANSWER = "Adyen does not answer at the moment."
REFUSED = "The new payment method was not accepted. The old one stays."
LEFT = "You left Adyen's page before a new payment method was saved. The old one stays."
UNPROVED = "Set user name and password of the webhook: without them no e-mail in it is believed."


class KeysRefused(Unavailable):
    """A 401 or 403: an unknown key, or one without a role (`code` 010) or without this merchant account (901)."""

    code, status = "", 401


class NothingStored(Gone):
    """Adyen's 800 (no contract with this shopper) or 803 (no such stored method); a mere 404 says neither."""


class Adapter(base.Gateway):
    """One merchant account. `verify` needs merchant_account and hmac_key, or token_hmac_key for notices on tokens."""

    def __init__(self, credentials: Mapping[str, str], **more: Any) -> None:
        super().__init__(credentials, **more)
        self._http = Http(self, "adyen")
        self._account = credentials.get("merchant_account", "").strip()
        self._prefix = credentials.get("live_prefix", "").strip()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def check(self) -> Health:
        """Two questions that change nothing, one for each role that the key needs."""
        missing, wrong = [], None
        for role in ROLES:
            try:
                if role == ROLES[0]:
                    await self._ask("POST", "/paymentMethods", json={"merchantAccount": self._account})
                else:
                    await self._stored("portal-check")
            except (KeysRefused, Declined, Gone) as refused:
                wrong = refused.hint
                if isinstance(refused, KeysRefused) and refused.code == "010":
                    missing.append(role)
        hint = wrong or (None if self.credentials.get("webhook_password") else UNPROVED)
        return Health(wrong is None, bool(self._prefix), self._account, tuple(missing), hint)

    async def backfill(self, cursor: str | None = None) -> AsyncIterator[Page]:
        """Nothing: Adyen lists neither payments nor orders nor shoppers."""
        for page in list[Page]():
            yield page

    @classmethod
    def read_file(cls, text: str) -> Snapshot:
        """A report "Settlement details", as CSV. Raises ValueError that names bad lines."""
        return _adyen_report.read(text)

    async def fetch(self, ref: Ref) -> Snapshot:
        """A subscription or customer by the shopperReference; Gone for a stranger without anything stored.

        Of a subscription that our rows know, only the end can be seen: when what was stored is stored no more. Whether
        its last charge went through, webhooks alone tell.
        """
        if ref.kind not in ("subscription", "customer"):
            raise Unsupported("Adyen can't be asked about this.", f"It has no look-up for a {ref.kind}.")
        snapshot, any_stored = await self._look(ref, seen=_token(ref) is not None)
        if not any_stored and ref.known is None:
            raise Gone("Adyen does not know this.", "Nothing is stored for this shopperReference.")
        return snapshot if ref.kind == "subscription" else replace(snapshot, subscriptions=())

    async def _look(self, ref: Ref, seen: bool) -> tuple[Snapshot, bool]:
        as_of, methods = clock.now(), await self._stored(ref.id)
        found = said_by.standing(ref.id, methods, _token(ref), seen)
        return said_by.seen(ref.id, methods, found, as_of), bool(methods)

    async def _stored(self, shopper: str) -> list[Json]:
        """The stored methods that can be charged. That there is none is believed only where it is said of whom."""
        try:
            said = wire.obj(await self._ask("GET", "/storedPaymentMethods", params=self._of(shopper)))
        except NothingStored:
            return []
        except Gone as gone:
            raise Unavailable(NO_ANSWER, gone.hint) from gone
        methods = said_by.methods_of(said)
        if said and not methods and said.get("shopperReference") != shopper:
            raise Unavailable(NO_ANSWER, "The list of stored payment methods does not say whose it is.")
        return methods

    def _of(self, shopper: str) -> dict[str, str]:
        return {"merchantAccount": self._account, "shopperReference": shopper}

    def verify(
        self, headers: list[tuple[str, str]], body: bytes, now: datetime, certificate: bytes | None = None
    ) -> list[Event]:
        """The events of a standard webhook (every item is proved, or none is believed) or of one about a token."""
        said = wire.proved_json(body)
        if str(said.get("type")).startswith("recurring.token."):
            _prove(wire.one_header(headers, "hmacsignature"), self._keys("token_hmac_key"), body)
            return [self._ours(said_by.token_event(said), part(said, "data").get("merchantAccount"))]
        items, keys = said_by.items(said), self._keys("hmac_key", "hmac_key_old")
        for item in items:
            _prove(part(item, "additionalData").get("hmacSignature"), keys, said_by.signed(item))
        origin, received = self._origin(headers), {"received_at": now.isoformat()}
        found = [(item, said_by.event(said_by.kept(item, origin))) for item in items]
        return [
            self._ours(replace(event, body={**event.body, **received}), item.get("merchantAccountCode"))
            for item, event in found
        ]

    def _keys(self, *names: str) -> list[bytes]:
        try:
            keys = [bytes.fromhex(self.credentials.get(name, "")) for name in names]
        except ValueError:
            raise BadSignature("The HMAC key is not hexadecimal.") from None
        if not keys[0]:
            raise BadSignature("No HMAC key is set for this kind of webhook, so nothing can be proved.")
        return [key for key in keys if key]

    def _origin(self, headers: Sequence[tuple[str, str]]) -> bool:
        """Whether Basic authentication proves what the signature leaves out; False where none is agreed on."""
        user, password = (self.credentials.get(f"webhook_{name}", "") for name in ("username", "password"))
        if not user and not password:
            return False
        expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        if not wire.same(wire.one_header(headers, "authorization"), expected):
            raise BadSignature("User name or password of the webhook are not those that are set here.")
        return True

    def _ours(self, event: Event, account: Any) -> Event:
        """What is authentic and of another merchant account is taken and means nothing: Adyen's queue waits behind
        what is refused."""
        ours = account == self._account or not self._account
        return event if ours else replace(event, subject=None, body={})

    async def refetch(self, event: Event) -> Snapshot | None:
        """What a proved item tells, as of its own date, which is never later than its arrival.

        About a subscription, Adyen is asked which methods the shopper has and what their address is. A notice about a
        stored method means a subscription only where our rows know one.
        """
        if event.subject is None:
            return None
        item, received = event.body, wire.moment(event.body.get("received_at")) or clock.now()
        shopper, as_of = said_by.shopper_of(item), min(event.occurred_at or received, received)
        if shopper and said_by.is_about_subscription(item):
            methods, over = (
                await self._stored(shopper),
                _known(event.subject).status in ("cancelled", "expired"),
            )
            found = said_by.seen(shopper, methods, said_by.charged(item, shopper, methods, over), as_of)
            told = said_by.told(item, as_of, self._captured_by_hand())
            return replace(told, customers=found.customers, subscriptions=found.subscriptions)
        if event.subject.kind == "subscription":
            with suppress(Gone):
                known = event.subject.known is not None
                return await self.fetch(event.subject if known else Ref("customer", event.subject.id))
            return None
        return said_by.told(item, as_of, self._captured_by_hand())

    def _captured_by_hand(self) -> tuple[str, ...]:
        chosen = self.credentials.get("manual_capture", "").lower().replace(" ", "") or "klarna"
        return {"all": ("",), "none": ()}.get(chosen, tuple(chosen.split(",")))

    async def register_webhook(self, url: str, key: str) -> base.Registration:
        """The standard webhook of this merchant account, with a key, a user name and a password."""
        return await webhooks.register(self._manage, url, self.credentials)

    async def unregister_webhook(self, remote_id: str) -> None:
        await webhooks.unregister(self._manage, remote_id)

    async def send_test_event(self, remote_id: str | None) -> str | None:
        if not remote_id:
            raise Unsupported("", "Adyen tests only a webhook that was registered here.")
        return await webhooks.test(self._manage, remote_id)

    async def cancel_now(self, ref: Ref, key: str) -> Snapshot:
        """Deletes, for good, every stored method that can be charged without the shopper: only then none is."""
        methods = await self._stored(ref.id)
        if not methods and ref.known is not None and not _token(ref):
            hint = f"Nothing is stored for the shopperReference {ref.id}: end it in your billing engine."
            raise Unsupported("This can't be cancelled here.", hint)
        begun = False
        try:
            for method in methods:
                with suppress(Gone):  # somebody was faster
                    path = f"/storedPaymentMethods/{wire.safe(method['id'])}"
                    await self._ask("DELETE", path, params=self._of(ref.id))
                begun = True
            snapshot, _ = await self._look(ref, seen=True)
        except (Unavailable, Declined) as error:
            if not begun:
                raise
            wait = getattr(error, "retry_after", None)
            raise Unavailable(error.customer, error.hint, wait, sent=True) from error
        tell = f"The customer with the shopperReference {ref.id} cancelled, and what was stored for them was deleted."
        return replace(snapshot, tell=f"{tell} End it in your billing engine too." if begun else "")

    async def pay_now(self, ref: Ref, return_url: str, key: str) -> Leave:
        """A payment link over what is due. Adyen's page has a button back once it is paid."""
        due = _known(ref).due
        if not due:
            raise Unsupported(
                "Nothing is open to pay here.", "No refused charge of this subscription is known."
            )
        link, url = await self._page("/paymentLinks", ref, due, return_url, key, {}, said_by.PAYING)
        return Leave(url, {"link": link})

    async def start_method_update(self, ref: Ref, return_url: str, key: str) -> Leave:
        """A hosted session over nothing that stores a method; what is stored before is kept to compare."""
        before, amount = await self._stored(ref.id), _known(ref).amount
        currency = amount.currency if amount else self.credentials.get("currency", "")
        if not re.fullmatch("[A-Z]{3}", currency):
            hint = "Set the currency for saving a card in the account's settings."
            raise Unsupported("The payment method can't be updated here.", hint)
        saving = {
            "mode": "hosted",
            "storePaymentMethodMode": "enabled",
            "recurringProcessingModel": "Subscription",
            "shopperInteraction": "Ecommerce",
        }
        nothing = Money(0, currency)
        session, url = await self._page("/sessions", ref, nothing, return_url, key, saving, said_by.SAVING)
        return Leave(url, {"session": session, "before": " ".join(method["id"] for method in before)})

    async def _page(
        self, path: str, ref: Ref, amount: Money, back: str, key: str, more: Mapping[str, str], begins: str
    ) -> tuple[str, str]:
        """A hosted page of Adyen's, by its id and address."""
        known = {"shopperEmail": _known(ref).email, "countryCode": self.credentials.get("country")}
        asked = {
            **self._of(ref.id),
            "reference": f"{begins}{key}"[:80],
            "amount": {"value": said_by.units(amount), "currency": amount.currency},
            "returnUrl": back,
            **more,
            **{name: value for name, value in known.items() if value},
        }
        said = wire.obj(await self._ask("POST", path, key, json=asked))
        page, url = said.get("id"), said.get("url")
        if not isinstance(page, str) or not isinstance(url, str):
            raise Unavailable(
                "Adyen's page can't be opened at the moment.", "No address came back.", sent=True
            )
        return page, url

    async def finish_method_update(
        self, ref: Ref, state: Mapping[str, str], query: Mapping[str, str]
    ) -> Snapshot:
        """A method that was not there before is what the merchant is asked to charge; the record keeps the one that
        is charged today. The same card again (alreadyExisting) is nothing new. Safe to repeat."""
        as_of, methods, before = clock.now(), await self._stored(ref.id), state.get("before", "").split()
        token = _token(ref) or (before[0] if len(before) == 1 else None)
        new = [method for method in methods if method["id"] not in before] if "before" in state else []
        old = [method for method in methods if method not in new] or (methods if before else [])
        record = said_by.standing(ref.id, old, token, seen=bool(before))
        snapshot = said_by.seen(ref.id, methods, record, as_of)
        if not new:
            await self._ended_there(state.get("session", ""), query)
            return snapshot
        ask = f"Charge the stored payment method {said_by.newest(new)['id']} of the shopperReference {ref.id} from"
        ask += f" now on, instead of {token or 'the one that you charge today'}: the customer has just added it at"
        return replace(snapshot, ask=f"{ask} Adyen. Delete the old one only after the new one was charged.")

    async def _ended_there(self, session: str, query: Mapping[str, str]) -> None:
        """Adyen's word on why a session has stored nothing. It can be asked only with what stands in the return
        address; where that is missing or spoiled, nothing is learned."""
        result, status = query.get("sessionResult", ""), None
        if not (session and result) or query.get("sessionId", session) != session:
            return
        with suppress(Declined, Gone):
            path = f"/sessions/{wire.safe(session)}"
            status = wire.obj(await self._ask("GET", path, params={"sessionResult": result})).get("status")
        if status in ("refused", "canceled", "expired"):
            raise Declined(REFUSED if status == "refused" else LEFT, f"The session is {status}.", status)

    async def _ask(self, method: str, path: str, key: str = "", **more: Any) -> Any:
        """The `key` becomes one that nobody can guess: who knows it can read the answer that is kept for it."""
        if self._prefix and not PREFIX.fullmatch(self._prefix):
            raise KeysRefused("Adyen can't be reached for this shop.", "The live URL prefix is none.")
        live = LIVE if LIVE in self.addresses else LIVE.replace("{live_prefix}", self._prefix)
        secret = self.credentials.get("api_key", "").strip()
        headers = {"X-API-Key": secret}
        if key:
            digest = hmac.digest(secret.encode(), key.encode(), "sha256")
            headers["Idempotency-Key"] = str(uuid.UUID(bytes=digest[:16], version=4))
        return await self._http.ask(
            method,
            live if self._prefix else TEST,
            f"/checkout/v72{path}" if self._prefix else f"/v72{path}",
            words=lambda said: (said["errorCode"], said["message"]),
            headers=headers,
            refused=_refused,
            **more,
        )

    async def _manage(self, method: str, path: str, **more: Any) -> Any:
        return await self._http.ask(
            method,
            MANAGEMENT[bool(self._prefix)],
            f"/v3/merchants/{wire.safe(self._account)}/webhooks{path}",
            words=lambda said: (said["errorCode"], said.get("detail") or said["title"]),
            headers={"X-API-Key": self.credentials.get("api_key", "").strip()},
            refused=_refused,
            **more,
        )

    @classmethod
    def read(cls, kind: base.Kind | Literal["event"], said: Any) -> Record | list[Event]:
        """An item of a standard webhook (bare or in its envelope), a shopper's stored methods or one of them, the
        answer to a payment or a refund, a payment link; as event, a whole webhook."""
        if kind == "invoice":
            raise Unsupported("", "Adyen has no invoices.")
        said = said if isinstance(said, dict) else {}
        if kind == "event" and str(said.get("type")).startswith("recurring.token."):
            return [said_by.token_event(said)]
        item = part(said, "NotificationRequestItem") or said
        try:
            items = (
                said_by.items(said) if "notificationItems" in said else [item] if "eventCode" in item else []
            )
            told = [said_by.kept(one, origin=True) for one in items]
            events = [said_by.event(one) for one in told]
            found = events if kind == "event" else said_by.record(kind, told[0] if told else said)
        except (BadSignature, Unavailable) as error:
            raise ValueError(f"{error.hint} So it is no {kind} of Adyen's.") from None
        if not found:
            raise ValueError(f"This is no {kind} of Adyen's.")
        return found


def _prove(given: Any, keys: Sequence[bytes], message: bytes) -> None:
    digests = [base64.b64encode(hmac.digest(key, message, "sha256")).decode() for key in keys]
    if not isinstance(given, str) or True not in [wire.same(given, digest) for digest in digests]:
        raise BadSignature("The signature is missing or wrong, or the HMAC key is that of another webhook.")


def _refused(status: int, code: str, message: str) -> GatewayError | None:
    hint = f"HTTP {status}: {code} {message}"
    if status in (401, 403):
        error = KeysRefused(
            "Adyen does not accept this shop's keys at the moment. Nothing was changed.", hint
        )
        error.code, error.status = (code if status == 403 else ""), status
        return error
    if code == "704":  # the first request with this key has not been answered yet
        return Unavailable("Adyen is still at it.", hint, retry_after=5.0, sent=True)
    return NothingStored("Adyen does not know this any more.", hint) if code in ("800", "803") else None


def _known(ref: Ref) -> SubscriptionRecord:
    return ref.known if isinstance(ref.known, SubscriptionRecord) else SubscriptionRecord(remote_id=ref.id)


def _token(ref: Ref) -> str | None:
    method = _known(ref).method
    return method.remote_id if method else None
