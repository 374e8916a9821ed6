"""Paystack (Nigeria, Ghana, South Africa, Kenya …): one host, a bearer key, no idempotency header, loose types.

Amounts are hundredths of every currency, XOF and RWF too; times are UTC (a subscription's `start` in seconds).
Charges do not name their subscription: they are joined by invoice, else by customer and plan. Nothing ends at once:
`disable` leaves "non-renewing" until the paid date, and forgets that date. Authorization codes can be spent and e-mail
tokens cancel: neither leaves the gateway.
Calls stand here; what is read out of the answers stands in `_paystack`.
Sources: https://paystack.com/docs/api and https://github.com/PaystackOSS/openapi
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

from portal import clock
from portal.gateways import _paystack as words
from portal.gateways import base, wire
from portal.gateways.base import Declined, Event, Gone, Ref, Snapshot, Unavailable, Unsupported
from portal.gateways.base import SubscriptionRecord as Subscription
from portal.gateways.http import Http
from portal.gateways.wire import Json, moment, part, text, whole

API = "api.paystack.co"
LISTS = ("customer", "subscription", "refund", "dispute", "transaction", "paymentrequest")
CLOSE = timedelta(hours=1)
REFUSED, TAKEN = "Paystack did not accept this.", "Paystack took this, but does not show it yet."
REFERENCE, EMAIL = r"[A-Za-z0-9_.=:-]{1,200}", r"[^\s/?#\\]{1,100}@[^\s/?#\\]{1,100}"


class KeysRefused(Unavailable):
    """The secret key is wrong or taken away, or our address is not on the merchant's allow-list."""


class Adapter(base.Gateway):
    """One Paystack integration in one mode. Credentials: secret_key; secret_key_old still proves webhooks."""

    def __init__(self, credentials: Mapping[str, str], **more: Any) -> None:
        super().__init__(credentials, **more)
        self._http = Http(self, "paystack")
        self._key = self.credentials.get("secret_key", "").strip()
        self._live = self._key.startswith("sk_live_")

    async def aclose(self) -> None:
        await self._http.aclose()

    async def check(self) -> base.Health:
        """A key may do everything or nothing, so one small list proves it."""
        try:
            items, _ = await self._page("customer", {}, perPage=1)
        except KeysRefused as refused:
            return base.Health(ok=False, live=self._live, hint=refused.hint)
        account = text(items[0].get("integration")) if items else None
        return base.Health(ok=True, live=self._live, account=account)

    async def backfill(self, cursor: str | None = None) -> AsyncIterator[base.Page]:
        """Six lists; those that join charges to subscriptions, refunds and disputes are read again after a resume."""
        walk: dict[str, Any] = json.loads(cursor) if cursor else {"list": 0, "at": {}}
        joins, behind = words.Joins(), cursor is not None
        while walk["list"] < len(LISTS):
            name, as_of = LISTS[walk["list"]], clock.now()
            if name == "transaction" and behind:
                await self._learn(joins)
                behind, as_of = False, clock.now()
            items, at = await self._page(name, walk["at"])
            walk = {"list": walk["list"] + (at is None), "at": at or {}}
            parts = await wire.sifted(name, items, partial(self._told, name, joins, as_of), None)
            more = walk["list"] < len(LISTS)
            yield base.Page(wire.together(as_of, parts), json.dumps(walk) if more else None)

    async def _told(self, name: str, joins: words.Joins, as_of: datetime, items: list[Json]) -> Snapshot:
        joins.learn(name, items)
        return words.listed(name, [one for one in items if one.get("status") != "abandoned"], joins, as_of)

    def lists(self) -> list[str]:
        return [json.dumps({"list": number, "at": {}}) for number in range(len(LISTS))]

    async def find(self, email: str) -> list[Ref]:
        """The lists inside a customer may be cut short: they are asked for by its number."""
        try:
            said = await self._get(f"/customer/{wire.safe(email.strip(), EMAIL)}")
        except Gone:
            return []
        found, number = [Ref("customer", words.id_of(said, "customer_code"))], words.id_of(said, "id")
        for one in await self._all("subscription", customer=number):
            found.append(Ref("subscription", words.id_of(one, "subscription_code")))
        for one in await self._all("transaction", customer=number):
            if one.get("status") != "abandoned":
                found.append(Ref("payment", words.id_of(one, "id")))
        return found

    async def fetch(self, ref: Ref) -> Snapshot:
        """One object by its id; a payment by its number or its reference."""
        as_of, one = clock.now(), wire.safe(ref.id, REFERENCE)
        if ref.kind in ("payment", "order"):
            return await self._payment(one if one.isdigit() else f"verify/{one}")
        if ref.kind == "subscription":
            return Snapshot(
                as_of=as_of, subscriptions=(await self._looked(await self._said(ref), _known(ref)),)
            )
        name = "paymentrequest" if ref.kind == "invoice" else ref.kind
        return words.listed(name, [await self._get(f"/{name}/{one}")], words.Joins(), as_of)

    async def _looked(self, said: Json, known: Subscription | None) -> Subscription:
        """A subscription; of an ending one also whether another plan takes its place."""
        record = words.read_subscription(said, known)
        if record.status != "cancels_at_period_end" or record.object:
            return record
        new = await self._waiting(said, None, record.cancels_at)
        return words.replaced_by(record, new) if new else record

    async def _payment(self, path: str, subscription: str | None = None) -> Snapshot:
        """A charge with its refunds and disputes, and its subscription."""
        as_of, joins, said = clock.now(), words.Joins(), await self._get(f"/transaction/{path}")
        customer, charge = text(part(said, "customer").get("id")), words.id_of(said, "id")
        if words.plan_of(said) and customer and not subscription:
            joins.learn("subscription", await self._all("subscription", customer=customer))
        if said.get("status") in ("success", "reversed"):
            await self._learn(joins, "refund", "dispute", transaction=charge)
        return words.listed("transaction", [said], joins, as_of, subscription)

    async def _learn(self, joins: words.Joins, *names: str, **asked: str) -> None:
        async def learn(items: list[Json]) -> None:
            joins.learn(name, items)

        for name in names or LISTS[1:4]:
            await wire.sifted(name, await self._all(name, **asked), learn, None)

    def verify(
        self, headers: list[tuple[str, str]], body: bytes, now: datetime, certificate: bytes | None = None
    ) -> list[Event]:
        """HMAC-SHA512 of the raw body with the secret key itself; no time is signed and no event has an id."""
        given = wire.one_header(headers, "x-paystack-signature")
        keys = [wire.secret_of(self.credentials, "secret_key", "secret key")]
        keys += filter(None, [self.credentials.get("secret_key_old", "").strip().encode()])
        if True not in [wire.same(given, wire.hmac_hex(key, body, "sha512")) for key in keys]:
            raise base.BadSignature("It is not signed with this account's secret key of this mode.")
        return words.read_events(wire.proved_json(body), wire.digest(body))

    async def refetch(self, event: Event) -> Snapshot | None:
        """An invoice names both its subscription and its charge, as nothing else does."""
        reference, subject = text(event.body.get("reference")), event.subject
        if subject is None or reference is None:
            return await super().refetch(event)
        path = f"verify/{wire.safe(reference, REFERENCE)}"
        if subject.kind == "payment":
            return await self._payment(path)
        told = await self.fetch(subject)
        try:
            charge = await self._payment(path, subject.id)
        except Gone:
            return told
        return replace(told, payments=charge.payments, refunds=charge.refunds)

    async def cancel_now(self, ref: Ref, key: str) -> Snapshot:
        """Charges stop for good, but Paystack lets it run out: that it is over for the customer is for us to keep."""
        return await self.cancel_at_period_end(ref, key)

    async def cancel_at_period_end(self, ref: Ref, key: str) -> Snapshot:
        """The date is read first: afterwards Paystack no longer says until when it is paid."""
        before = await self._said(ref)
        as_of, after = await self._switched("disable", before, words.is_ending)
        return Snapshot(as_of=as_of, subscriptions=(words.read_subscription(after, _paid(ref, before)),))

    async def undo_cancel(self, ref: Ref, key: str) -> Snapshot:
        """Only the return of the date proves it; another date, or a charge at once, is told to the merchant."""
        before, known, told = await self._said(ref), _known(ref), ""
        until = _until(known)
        if before.get("status") not in ("active", "non-renewing") or words.sort_of(before):
            raise Unsupported("Paystack can't take this cancellation back.", "It is not merely non-renewing.")
        if (await self._looked(before, known)).object == "replaced":
            raise Unsupported("This goes on as another plan, so it can't be brought back as well.")
        as_of, after = await self._switched("enable", before, words.goes_on)
        on = moment(after.get("next_payment_date"))
        if on and until and abs(on - until) > words.NEAR:
            told = f"{ref.id}: the next charge is now on {on.date()}; it was paid until {until.date()}. "
        if (whole(after.get("payments_count")) or 0) > (whole(before.get("payments_count")) or 0):
            told += f"{ref.id} was charged when its cancellation was taken back."
        return Snapshot(as_of=as_of, subscriptions=(words.read_subscription(after),), tell=told.strip())

    async def change_plan(
        self, ref: Ref, change: Mapping[str, Any], return_url: str, key: str
    ) -> Snapshot | base.Leave:
        """A new subscription from the paid date, then the old one disabled. A retry finds the new one and goes on."""
        before, plan = await self._said(ref), text(change.get("plan"))
        if plan in (None, words.plan_of(before)) or change.get("quantity") not in (None, 1):
            raise Unsupported("At Paystack only the plan can be changed, to another one.")
        on = moment(before.get("next_payment_date")) or _until(_known(ref))
        new = await self._waiting(before, plan, on) or await self._started(before, change, on)
        with _begun():
            try:
                as_of, after = await self._switched("disable", before, words.is_ending)
            except Unavailable:  # both would be charged, so it is tried once more from how it stands
                as_of, after = await self._switched("disable", await self._said(ref), words.is_ending)
            except Declined:
                await self._switched("disable", new, words.is_ending)
                raise
        old = words.replaced_by(words.read_subscription(after, _paid(ref, before)), new)
        return Snapshot(as_of=as_of, subscriptions=(old, words.read_subscription(new)))

    async def _started(self, before: Json, change: Mapping[str, Any], on: datetime | None) -> Json:
        """A subscription on the card of another. A refusal changes nothing, and may mean that it is there already."""
        plan = str(change["plan"])
        card, customer = part(before, "authorization"), part(before, "customer").get("customer_code")
        if before.get("status") != "active" or on is None or on < clock.now() + CLOSE:
            raise Unsupported(
                "The plan can only be changed while payments are up to date.", "And not in the last hour."
            )
        if not words.is_reusable(card):
            raise Unsupported("This card can't be used for another plan.", "It is not reusable.")
        agreed = words.price_of(await self._get(f"/plan/{wire.safe(plan)}"))
        if change.get("amount") not in (None, agreed):
            raise Unsupported(
                "This plan's price has changed.", f"At Paystack {plan} costs something else than here."
            )
        wish = {"customer": customer, "plan": plan, "authorization": card.get("authorization_code")}
        start = {"start_date": on.isoformat(timespec="seconds")}
        refused = await self._tried("POST", "/subscription", wish | start)
        with _begun():
            made = await self._waiting(before, plan, on)
        if made:
            return made
        raise refused or Unavailable(TAKEN, "The new subscription is not listed yet.", sent=True)

    async def _waiting(self, said: Json, plan: str | None, on: datetime | None) -> Json | None:
        """Another subscription of this customer, to this plan or any, that begins on that date."""
        customer = words.id_of(part(said, "customer"), "id")
        for one in await self._all("subscription", customer=customer):
            starts, other = moment(one.get("next_payment_date")), one.get("id") != said.get("id")
            fits = words.is_unpaid(one) if words.plan_of(one) == plan else not plan and words.not_begun(one)
            due = starts and (on is None or abs(starts - on) < words.NEAR)
            if other and fits and due and one.get("status") == "active":
                return one
        return None

    async def start_method_update(self, ref: Ref, return_url: str, key: str) -> base.Leave:
        """A fresh link at every click: it holds a token good for a day. Nobody is sent back from there."""
        if words.read_subscription(await self._said(ref), _known(ref)).status in words.ENDED:
            raise Unsupported("This subscription has ended.")
        try:
            said = await self._get(f"/subscription/{wire.safe(ref.id)}/manage/link")
        except (Declined, Gone) as error:
            raise Declined("Paystack offers no page for another card at the moment.", error.hint) from error
        return base.Leave(words.id_of(said, "link"), returns=False)

    async def finish_method_update(
        self, ref: Ref, state: Mapping[str, str], query: Mapping[str, str]
    ) -> Snapshot:
        return await self.fetch(ref)

    async def invoice_document(self, ref: Ref) -> base.Document | None:
        """The PDF of a payment request, where it lies on Paystack's own host; asked for without our key."""
        said = await self._get(f"/paymentrequest/{wire.safe(ref.id)}")
        parts = urlsplit(text(said.get("pdf_url")) or "")
        if (parts.scheme, parts.netloc) != ("https", words.FILES):
            return None
        answer = await self._http.call("GET", words.FILES, parts._replace(scheme="", netloc="").geturl())
        if answer.status_code != 200 or not answer.content.startswith(b"%PDF-"):
            return None
        return base.Document("application/pdf", f"{ref.id}.pdf", answer.content)

    @classmethod
    def read(cls, kind: base.Kind | Literal["event"], said: Any) -> base.Record | list[Event]:
        one = said.get("data") if isinstance(said, dict) and kind != "event" else None
        one = one if isinstance(one, dict) else said
        try:
            if kind == "event":
                words.id_of(wire.obj(said), "event")
                return words.read_events(said, wire.digest(json.dumps(said, sort_keys=True)))
            found: dict[str, Callable[[Json], base.Record]] = {
                "customer": words.read_customer,
                "order": words.read_order,
                "subscription": words.read_subscription,
                "payment": words.read_charge,
                "refund": words.read_refund,
                "invoice": words.read_invoice,
            }
            return found[kind](wire.obj(one))
        except Unavailable as error:
            raise ValueError(f"This is no {kind} of Paystack: {error.hint}") from None

    async def _said(self, ref: Ref) -> Json:
        return await self._get(f"/subscription/{wire.safe(ref.id)}")

    async def _switched(self, what: str, said: Json, done: Callable[[Json], bool]) -> tuple[datetime, Json]:
        """Enable or disable unless it is so; what Paystack says afterwards counts, whatever it answered."""
        code, refused = words.id_of(said, "subscription_code"), None
        if not done(said):
            wish = {"code": code, "token": said.get("email_token")}
            refused = await self._tried("POST", f"/subscription/{what}", wish)
        as_of = clock.now()
        with _begun():
            after = await self._get(f"/subscription/{wire.safe(code)}")
        if done(after):
            return as_of, after
        raise refused or Unavailable(TAKEN, f"After {what}, {code} reads {after.get('status')}.", sent=True)

    async def _tried(self, method: str, path: str, body: Json) -> Declined | None:
        """A write; its refusal is returned, for the caller to look what is true. Paystack refuses by 404 too."""
        try:
            await self._api(method, path, json=body)
        except (Declined, Gone) as error:
            return Declined(REFUSED, error.hint, getattr(error, "reason", ""))
        return None

    async def _all(self, name: str, **asked: str) -> list[Json]:
        """A whole list; a filter that is ignored would give everybody's, so a customer's is sifted."""
        found, at = await self._page(name, {}, **asked)
        while at:
            items, at = await self._page(name, at, **asked)
            found += items
        whose = asked.get("customer")
        return [one for one in found if whose in (None, text(part(one, "customer").get("id")))]

    async def _page(self, name: str, at: Json, **asked: Any) -> tuple[list[Json], Json | None]:
        """One page and where the next begins: by cursor where the answer has one, else by number."""
        cursor = {"use_cursor": "true"} if name in ("customer", "transaction") else {}
        said = await self._api("GET", f"/{name}", params={"perPage": 100, **cursor, **at, **asked})
        items, meta, page = wire.objects(said.get("data")), part(said, "meta"), whole(at.get("page")) or 1
        if "next" in meta:
            return items, {"next": meta["next"]} if text(meta["next"]) else None
        return items, {"page": page + 1} if items and page < (whole(meta.get("pageCount")) or 1) else None

    async def _get(self, path: str) -> Json:
        said = wire.obj((await self._api("GET", path)).get("data"))
        if said.get("domain") not in (None, "live" if self._live else "test"):
            raise Unavailable(words.BUSY, "This is an object of the other mode (live or test).")
        return said

    async def _api(self, method: str, path: str, **sent: Any) -> Json:
        """The envelope; its `status` tells only that the call worked."""
        bearer = {"Authorization": f"Bearer {self._key}"}
        ask = self._http.ask(method, API, path, words=_told, headers=bearer, refused=_refusal, **sent)
        said = await ask
        status = said.get("status") if isinstance(said, dict) else None
        if status is False:
            raise Declined(REFUSED, _told(said)[1], _told(said)[0])
        if status is not True:
            raise Unavailable(words.BUSY, "The answer is no envelope.", sent=method != "GET")
        return wire.obj(said)


@contextmanager
def _begun() -> Iterator[None]:
    """Once a part has had its effect, nobody may say any more that nothing was changed."""
    try:
        yield
    except Unavailable as error:
        sentence = "A part of this is done at Paystack; we are looking how it stands."
        raise Unavailable(sentence, error.hint, error.retry_after, sent=True) from error


def _told(said: Any) -> tuple[str, str]:
    return str(said.get("code") or said.get("type") or ""), str(said.get("message") or "")


def _refusal(status: int, code: str, message: str) -> base.GatewayError | None:
    sentence = "Paystack does not accept this shop's keys at the moment. Nothing was changed."
    todo = (
        "Compare the key with Settings > API Keys & Webhooks; an IP allow-list there must name this server."
    )
    if status not in (401, 403):
        return None
    return KeysRefused(sentence, f"Paystack says: {message or status}. {todo}")


def _known(ref: Ref) -> Subscription | None:
    return ref.known if isinstance(ref.known, Subscription) else None


def _until(known: Subscription | None) -> datetime | None:
    return known.current_period_end if known else None


def _paid(ref: Ref, before: Json) -> Subscription:
    """What was known, with the date until which it is paid, read before the date goes away."""
    known = _known(ref) or Subscription(remote_id=ref.id)
    until = moment(before.get("next_payment_date")) or known.current_period_end
    return replace(known, current_period_end=until)
