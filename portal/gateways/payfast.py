"""PayFast (South Africa): signed calls without idempotency, notices called ITN, and a report of payments. Rand only.

Amounts are cents in the bodies of the API, rand with two decimals in ITNs and in the report. A subscription's token is
a bearer secret (whoever holds it can open its card page), so it stands in no hint and in no event id.
Sources: https://developers.payfast.co.za/api and https://developers.payfast.co.za/docs
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from functools import partial
from typing import Any, Literal
from urllib.parse import quote

import httpx2 as httpx

from portal import clock
from portal.gateways import _payfast, base, wire
from portal.gateways._payfast import AGREEMENTS, NO_ANSWER, SAST, masked
from portal.gateways.base import (
    Declined,
    Gone,
    PaymentRecord,
    Ref,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.http import Http
from portal.gateways.wire import Json, part, text, whole
from portal.money import Money

API, LIVE, SANDBOX = "api.payfast.co.za", "www.payfast.co.za", "sandbox.payfast.co.za"
RATE_LIMIT_REST_S = 300.0  # the refusal speaks of a few minutes
REPORT_ROWS, REPORT_MONTHS, EMPTY_MONTHS = 1000, 36, 12
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
NOT_DONE = "PayFast did not accept this."
ID = r"[A-Za-z0-9-]{1,64}"


class KeysRefused(Unavailable):
    """A 401: merchant unknown, signature wrong, or our address not on the account's allow-list."""


class Adapter(base.Gateway):
    """One PayFast account. Credentials: merchant_id, merchant_key, passphrase, sandbox ("yes" or "no")."""

    def __init__(self, credentials: Mapping[str, str], **more: Any) -> None:
        super().__init__(credentials, **more)
        self._http = Http(self, "payfast")
        self._merchant = self.credentials.get("merchant_id", "").strip()
        self._passphrase = self.credentials.get("passphrase", "").strip()
        self._sandbox = self.credentials.get("sandbox") == "yes"

    async def aclose(self) -> None:
        await self._http.aclose()

    async def check(self) -> base.Health:
        """Ping proves no passphrase, so a signed question for today's report follows."""
        wrong = None if self._passphrase else "Set a passphrase at PayFast (Settings > Security passphrase)."
        try:
            await self._api("GET", "/ping")
            await self._report(_payfast.today(), _payfast.today(), 0)
        except (KeysRefused, Declined, Gone) as refused:
            wrong = wrong or refused.hint
        account = self._merchant or None
        return base.Health(ok=wrong is None, live=not self._sandbox, account=account, hint=wrong)

    async def backfill(self, cursor: str | None = None) -> AsyncIterator[base.Page]:
        """The report of payments, month by month backwards, to three years ago or past the first empty year.

        It has neither e-mail nor token, so no record here speaks of either; no call lists subscriptions.
        """
        walk: dict[str, Any] = {"start": str(_payfast.today()), "month": 0, "offset": 0, "empty": 0}
        walk |= {"refunded": {}, **(json.loads(cursor) if cursor else {})}
        while walk["month"] <= REPORT_MONTHS and walk["empty"] < EMPTY_MONTHS:
            as_of = clock.now()
            first, last = _payfast.month(date.fromisoformat(walk["start"]), walk["month"])
            rows = await self._report(first, last, walk["offset"])
            walk["empty"] = 0 if rows or walk["offset"] else walk["empty"] + 1
            full = len(rows) >= REPORT_ROWS
            walk["offset"] = walk["offset"] + len(rows) if full else 0
            walk["month"] += 0 if full else 1
            more = walk["month"] <= REPORT_MONTHS and walk["empty"] < EMPTY_MONTHS
            parts = await wire.sifted("payments", rows, partial(self._reported, walk, as_of), None)
            yield base.Page(wire.together(as_of, parts), json.dumps(walk) if more else None)

    async def _reported(self, walk: dict[str, Any], as_of: datetime, rows: list[wire.Json]) -> Snapshot:
        """Lines of the report; what they leave for older months stays only where all can be read."""
        refunded = dict(walk["refunded"])
        found = _payfast.reported(rows, refunded, as_of)
        walk["refunded"] = refunded
        return found

    async def _report(self, first: date, last: date, offset: int) -> list[dict[str, str]]:
        query = {"from": str(first), "to": str(last), "limit": str(REPORT_ROWS), "offset": str(offset)}
        return _payfast.rows(await self._api("GET", "/transactions/history", query=query))

    @classmethod
    def read_file(cls, text: str) -> Snapshot:
        """The merchant's own list: columns email, m_payment_id, token. Raises ValueError that names every bad line."""
        return _payfast.read_tokens_csv(text)

    @classmethod
    def subscription_id(cls, subscription: str | None, token: str | None) -> str | None:
        """It is known by its token alone."""
        return token or subscription

    async def fetch(self, ref: Ref) -> Snapshot:
        """A subscription by its token or a payment by its pf_payment_id; nothing else can be asked for."""
        as_of = clock.now()
        if ref.kind == "subscription":
            trial = getattr(ref.known, "status", None) == "trialing"  # told once, by the first ITN
            return Snapshot(as_of=as_of, subscriptions=(await self._subscription(ref.id, trial),))
        if ref.kind == "payment":
            payment, refunds = await self._payment(ref.id)
            return Snapshot(as_of=as_of, payments=(payment,), refunds=refunds)
        raise Unsupported("PayFast can't be asked about this.", f"It has no look-up for a {ref.kind}.")

    async def _subscription(self, token: str, free_start: bool = False) -> SubscriptionRecord:
        said = wire.obj(await self._api("GET", f"/subscriptions/{wire.safe(token, ID)}/fetch"))
        return _payfast.subscription(token, said, self._sandbox, free_start)

    async def _payment(self, payment: str) -> tuple[PaymentRecord, tuple[base.RefundRecord, ...]]:
        record = _payfast.queried(
            payment, wire.obj(await self._api("GET", f"/process/query/{wire.safe(payment, ID)}"))
        )
        if self._sandbox:  # the sandbox has no refunds
            return record, ()
        try:
            said = wire.obj(await self._api("GET", f"/refunds/{wire.safe(payment, ID)}"))
        except (Declined, Gone):
            return record, ()
        refunds = _payfast.refunds(payment, said)
        total = sum(refund.amount.minor for refund in refunds if refund.amount)
        return _payfast.refunded(record, total), refunds

    def verify(
        self, headers: list[tuple[str, str]], body: bytes, now: datetime, certificate: bytes | None = None
    ) -> list[base.Event]:
        """The one event of an ITN or of a notice about a subscription; PayFast stamps no time on either."""
        pairs = _payfast.proved(body, self._passphrase)
        said = dict(pairs)
        foreign = self._merchant and not wire.same(said.get("merchant_id", ""), self._merchant)
        if "payment_status" in said and foreign:
            raise base.BadSignature("The ITN is for another merchant id.")
        return [_payfast.event(pairs, now)]

    async def refetch(self, event: base.Event) -> Snapshot | None:
        """PayFast's own word: its server confirms the ITN, and the subscription is fetched by its token.

        CANCELLED books no payment and a notice books nothing: they only make us look. Raises BadSignature where the
        server does not know the ITN.
        """
        if event.subject is None:
            return None
        said: dict[str, str] = dict(event.body["pairs"])
        status, token, as_of = said.get("payment_status"), said.get("token", ""), clock.now()
        if status is None:
            record = await self._subscription(token, free_start=whole(said.get("initial_amount")) == 0)
            return Snapshot(as_of=as_of, subscriptions=(record,))
        await self._confirm(event.body["pairs"])
        subscriptions = (await self._told_subscription(token, said),) if token else ()
        if status == "CANCELLED":
            return Snapshot(as_of=as_of, subscriptions=subscriptions)
        received = datetime.fromisoformat(event.body["received_at"])
        payment = await self._told_payment(said)
        order = _payfast.told_order(said)
        return Snapshot(as_of=received, orders=(order,), subscriptions=subscriptions, payments=(payment,))

    async def _confirm(self, pairs: Sequence[Sequence[str]]) -> None:
        """MD5 alone is too weak, so PayFast is asked whether it sent this; that may take a minute."""
        host = SANDBOX if self._sandbox else LIVE
        content = _payfast.form(pairs).encode()
        answer = await self._http.call("POST", host, "/eng/query/validate", headers=FORM, content=content)
        if answer.status_code != 200:
            rest = RATE_LIMIT_REST_S if answer.status_code == 429 else None
            raise Unavailable(NO_ANSWER, f"Confirming an ITN was answered {answer.status_code}.", rest)
        if not answer.text.startswith("VALID"):
            raise base.BadSignature("PayFast does not confirm that it sent this ITN.")

    async def _told_subscription(self, token: str, said: Mapping[str, str]) -> SubscriptionRecord:
        gross, paid = _payfast.rand(said.get("amount_gross")), said["payment_status"] == "COMPLETE"
        who: dict[str, Any] = {
            "email": text(said.get("email_address")),
            "title": text(said.get("item_name")),
        }
        told = wire.spoken(SubscriptionRecord, token, **who)
        try:
            record = await self._subscription(token, free_start=paid and gross == Money(0, "ZAR"))
        except Gone:
            return told
        knows = (record.knows or frozenset()) | (told.knows or frozenset())
        return replace(record, email=told.email, title=told.title, knows=knows)

    async def _told_payment(self, said: Mapping[str, str]) -> PaymentRecord:
        payment = _payfast.told_payment(said)
        if payment.status == "paid":
            return payment
        try:  # ITNs come in any order, so what may have changed since is asked for
            current, _ = await self._payment(payment.remote_id)
        except (Declined, Gone):
            return payment
        if current.status is None:
            return payment
        now = {name: getattr(current, name) for name in ("status", "raw_status", "failure")}
        return replace(payment, **now, knows=(payment.knows or frozenset()) | set(now))

    async def cancel_now(self, ref: Ref, key: str) -> Snapshot:
        """Final at PayFast: a cancelled token never comes back. A second cancel is answered 400 and is no failure."""
        before = await self.fetch(ref)
        if before.subscriptions[0].status == "cancelled":
            return before
        return await self._change(ref, "PUT", "cancel", lambda now: now.status == "cancelled")

    async def pause(self, ref: Ref, key: str) -> Snapshot:
        """A gap of one cycle. On a locked subscription the same call starts charging again: only ACTIVE is paused."""
        before = await self.fetch(ref)
        was = before.subscriptions[0]
        if was.status == "paused":
            return before
        if was.status != "active" or was.object in AGREEMENTS:
            raise Unsupported("This can only be paused while its payments are up to date.")
        after = await self._change(ref, "PUT", "pause", lambda now: now.status == "paused", {"cycles": 1})
        return replace(after, subscriptions=(_payfast.paused_by_us(was, after.subscriptions[0]),))

    async def resume(self, ref: Ref, key: str) -> Snapshot:
        before = await self.fetch(ref)
        if before.subscriptions[0].status == "active":
            return before
        if before.subscriptions[0].status != "paused":
            raise Unsupported("Only a paused subscription can be resumed.")
        return await self._change(ref, "PUT", "unpause", lambda now: now.status == "active")

    async def change_plan(
        self, ref: Ref, change: Mapping[str, Any], return_url: str, key: str
    ) -> Snapshot | base.Leave:
        """Another amount (Money in ZAR) or interval (one of six) from the next charge on; nothing is prorated."""
        wish = _payfast.wish_of(change)
        before = await self.fetch(ref)
        was = before.subscriptions[0]
        if was.status not in ("active", "trialing") or was.object in AGREEMENTS:
            raise Unsupported("This can only be changed while it is active.")
        fields = {name: wish[name] for name in _payfast.unlike(was, wish)}
        if not fields:
            return before
        after = await self._change(ref, "PATCH", "update", lambda now: not _payfast.unlike(now, wish), fields)
        if missed := _payfast.unlike(after.subscriptions[0], wish):  # PayFast is known to leave out fields
            hint = f"Accepted, but not applied so far: {', '.join(missed)}."
            raise Unavailable("PayFast took the change, but does not show all of it yet.", hint, sent=True)
        return after

    async def start_method_update(self, ref: Ref, return_url: str, key: str) -> base.Leave:
        """https://developers.payfast.co.za/docs#recurring_card_update: live only, and the return tells nothing."""
        if self._sandbox:
            raise Unsupported("PayFast's sandbox has no page for another card.")
        before = await self.fetch(ref)
        if before.subscriptions[0].status in ("cancelled", "expired"):
            raise Unsupported("This subscription has ended.")
        page = f"{self.base(LIVE)}/eng/recurring/update/{wire.safe(ref.id, ID)}"
        return base.Leave(f"{page}?return={quote(return_url, safe='')}")

    async def finish_method_update(
        self, ref: Ref, state: Mapping[str, str], query: Mapping[str, str]
    ) -> Snapshot:
        """Nothing comes back about the card: the next charge shows it."""
        return await self.fetch(ref)

    @classmethod
    def read(cls, kind: base.Kind | Literal["event"], said: Any) -> base.Record | list[base.Event]:
        """A subscription as `fetch` answers, a payment as `process/query` does, bare or in the envelope; a payment, an
        order and an event from the fields of an ITN, as an object."""
        if kind in ("customer", "refund", "invoice"):
            raise Unsupported("", f"PayFast has no {kind} with an id of its own.")
        one = _opened(said)
        if kind == "subscription":
            return _payfast.subscription(_id(one, "token", "status_text"), one)
        fields = {name: text(value) or "" for name, value in one.items() if name != "signature"}
        if kind == "event":
            if not fields.get("payment_status") and not fields.get("type"):
                raise ValueError("These are the fields of no ITN.")
            return [_payfast.event(list(fields.items()), clock.now())]
        if fields.get("payment_status") == "CANCELLED":
            raise ValueError("This ITN tells the end of a subscription and books nothing.")
        if not fields.get("payment_status"):
            record = _payfast.queried(_id(one, "pf_payment_id", "status"), one)
            return record if kind == "payment" else _payfast.order_of(record)
        _id(one, "pf_payment_id")
        return _payfast.told_payment(fields) if kind == "payment" else _payfast.told_order(fields)

    async def _change(
        self,
        ref: Ref,
        method: str,
        what: str,
        done: Callable[[SubscriptionRecord], bool],
        body: Mapping[str, int] | None = None,
    ) -> Snapshot:
        """Call, then read: without idempotency only what PayFast says afterwards counts, a refusal included."""
        try:
            said = await self._api(method, f"/subscriptions/{wire.safe(ref.id, ID)}/{what}", body=body)
            if not (isinstance(said, dict) or str(said).lower() == "true"):
                raise Declined(NOT_DONE, f"PayFast answered {masked(said)}.", reason=masked(said))
        except Declined:
            after = await self._read_back(ref)
            if not done(after.subscriptions[0]):
                raise
            return after
        return await self._read_back(ref)

    async def _read_back(self, ref: Ref) -> Snapshot:
        try:
            return await self.fetch(ref)
        except Unavailable as error:
            raise Unavailable(error.customer, error.hint, error.retry_after, sent=True) from error

    async def _api(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, int] | None = None,
    ) -> Any:
        """The `response` of the envelope, or the text where there is none; `testing` is never signed."""
        query, fields = query or {}, {name: str(value) for name, value in (body or {}).items()}
        timestamp = clock.now().astimezone(SAST).isoformat(timespec="seconds")
        headers = {"merchant-id": self._merchant, "version": "v1", "timestamp": timestamp}
        headers["signature"] = _payfast.api_signature({**headers, **query, **fields}, self._passphrase)
        if method != "GET":  # an empty PUT without a length is answered 411
            headers |= FORM if fields else {"Content-Length": "0"}
        params = {**query, "testing": "true"} if self._sandbox else query
        content = _payfast.form(list(fields.items())).encode() if fields else None
        answer = await self._http.call(method, API, path, headers=headers, params=params, content=content)
        return _response(answer, write=method != "GET")


def _response(answer: httpx.Response, *, write: bool) -> Any:
    """Failures may come with HTTP 200, so code and status of the envelope are read as well."""
    try:
        told = answer.json()
    except ValueError:
        told = answer.text
    envelope = told if isinstance(told, dict) else {}
    data = envelope.get("data")
    inner = data if isinstance(data, dict) else {"response": envelope.get("response", data)}
    code, word = answer.status_code, envelope.get("status", "success")
    if code == 200:
        code = whole(envelope.get("code")) or 200
    if code != 200 or word == "failed":
        raise _refusal(code, inner, write)
    if word != "success" or (write and not envelope):
        raise Unavailable(NO_ANSWER, "The answer was no envelope.", sent=write)
    return inner.get("response") if envelope else told


def _refusal(code: int, inner: Json, write: bool) -> Exception:
    said = f"PayFast says: {masked(inner.get('message') or inner.get('response') or f'error {code}')}"
    if code == 401:
        return KeysRefused(
            "PayFast does not accept this shop's keys at the moment. Nothing was changed.",
            f"{said}. Compare merchant id and passphrase with PayFast's settings (one set on one side only looks like "
            "a wrong signature), and see that this server's address is on the account's allow-list.",
        )
    if code == 429:
        return Unavailable("PayFast is busy. Nothing was changed.", said, RATE_LIMIT_REST_S)
    if code == 404:
        return Gone("PayFast does not know this any more.", said)
    if code >= 500 or 200 < code < 400:
        return Unavailable(NO_ANSWER, said, sent=write)
    return Declined(NOT_DONE, said, reason=masked(inner.get("response") or code))


def _opened(said: Any) -> Json:
    """An object out of the envelope of an answer; ValueError with PayFast's words where that is a refusal."""
    if not isinstance(said, dict):
        raise ValueError("This is no object of PayFast's API.")
    inner = part(said, "data") or said
    if "response" not in inner:
        return said
    if not isinstance(inner["response"], dict):
        raise ValueError(f"This answer holds no object: {masked(inner.get('message') or inner['response'])}")
    return part(inner, "response")


def _id(one: Json, name: str, *more: str) -> str:
    """The id of an object that has these fields."""
    if missing := [field for field in (name, *more) if text(one.get(field)) is None]:
        raise ValueError(f"PayFast's objects of this kind have a field {missing[0]}.")
    return str(text(one[name]))
