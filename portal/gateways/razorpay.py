"""Razorpay: plans, subscriptions, payments, orders. Amounts are whole smallest units, times are seconds since 1970.

A subscription names neither its amount (the plan's, times the quantity) nor its card (a payment does). A cancel at
cycle end leaves no trace in it, so what our rows know of one goes before a plain "active". There is no idempotency key:
all is read before and after. An unknown id is answered 400, as refusals are. Cycles turn at midnight in India, so days
are Indian. How the objects are read stands in `portal.gateways._razorpay`.
Sources: https://razorpay.com/docs/api/ and https://razorpay.com/docs/payments/subscriptions/
"""

import base64
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from portal import clock
from portal.gateways import _razorpay as words
from portal.gateways import base, wire
from portal.gateways.base import (
    Declined,
    Gone,
    Health,
    Method,
    Ref,
    Snapshot,
    Unavailable,
    Unreadable,
    Unsupported,
)
from portal.gateways.http import Http
from portal.gateways.wire import Json, part, text, whole

API, CHECKOUT = "api.razorpay.com", "checkout.razorpay.com"
TALKS_TO = (API, CHECKOUT, "lumberjack.razorpay.com", "lumberjack-metrics.razorpay.com")
ENDED = ("cancelled", "expired")
# Payments name their payers, so customers find theirs while the rest is still being read.
LISTS = ("payments", "orders", "customers", "subscriptions", "invoices", "refunds")
EXPANDED = {"payment": {"expand[]": "card"}, "order": {"expand[]": "payments"}}
ROWS, WINDOW_DAYS, FIRST_DAY = 100, 30, 1_356_998_400  # Razorpay began in 2013
END_LAG = timedelta(hours=1)  # ends were seen to come up to six minutes late
NO_ANSWER = "Razorpay does not answer at the moment."
NO_CYCLE_END = "This can only be cancelled at once: no period of it is running, or its last one is."
NOT_NOW = "This can't be done here while it stands like this."
NOT_OURS = "This was paused in a UPI app or at the bank, and can only be resumed there."
# Closing the form leads back: without that, people would stay on the bare page.
START = """var options = JSON.parse(document.body.dataset.options);
options.modal = { ondismiss: function () { location.assign(options.callback_url); } };
new Razorpay(options).open();"""


class KeysRefused(Unavailable):
    """A 401 or 403: key id and secret are no pair (any more), or may not do this."""


class Adapter(base.Gateway):
    """One Razorpay account in one mode. Credentials: key_id, key_secret, webhook_secret, webhook_secret_old."""

    looks_at_subject_alone = True

    def __init__(self, credentials: Mapping[str, str], **more: Any) -> None:
        super().__init__(credentials, **more)
        self._http = Http(self, "razorpay")
        self._key, self._secret = (credentials.get(name, "").strip() for name in ("key_id", "key_secret"))
        self._plans: dict[str | None, Json] = {}  # plans never change

    async def aclose(self) -> None:
        await self._http.aclose()

    async def check(self) -> Health:
        """Whether the keys are a pair, and whether the account has Subscriptions."""
        told: dict[str, Any] = {"live": self._key.startswith("rzp_live_"), "account": self._key}
        try:
            await self._list("/payments", {"count": 1})
        except KeysRefused as refused:
            return Health(ok=False, hint=refused.hint, **told)
        try:
            await self._list("/subscriptions", {"count": 1})
        except (Declined, Gone, KeysRefused) as refused:
            return Health(ok=True, missing=("Subscriptions",), hint=refused.hint, **told)
        return Health(ok=True, **told)

    async def backfill(self, cursor: str | None = None) -> AsyncIterator[base.Page]:
        """Every list, back from now in windows of creation time, which new rows cannot shift; empty ones widen."""
        now = int(clock.now().timestamp())
        walk = {"list": 0, "start": now, "to": now, "days": WINDOW_DAYS, "skip": 0}
        walk |= json.loads(cursor) if cursor else {}
        while walk["list"] < len(LISTS):
            as_of, name = clock.now(), LISTS[walk["list"]]
            since = max(FIRST_DAY, walk["to"] - walk["days"] * 86_400 + 1)
            window = {} if name == "customers" else {"from": since, "to": walk["to"]}
            page = {"count": ROWS, "skip": walk["skip"], **window, **EXPANDED.get(name[:-1], {})}
            items = await self._list(f"/{name}", page)
            days = walk["days"] * 2 if not items and not walk["skip"] else WINDOW_DAYS
            if len(items) == ROWS:
                walk["skip"] += ROWS
            elif window and since > FIRST_DAY:
                walk |= {"to": since - 1, "days": days, "skip": 0}
            else:
                walk |= {"list": walk["list"] + 1, "to": walk["start"], "days": WINDOW_DAYS, "skip": 0}
            parts = await wire.sifted(name, items, partial(self._listed, name, as_of))
            yield base.Page(
                wire.together(as_of, parts), json.dumps(walk) if walk["list"] < len(LISTS) else None
            )

    def lists(self) -> list[str]:
        now = int(clock.now().timestamp())
        begin = {"start": now, "to": now, "days": WINDOW_DAYS, "skip": 0}
        return [json.dumps({"list": number, **begin}) for number in range(len(LISTS))]

    async def _listed(self, name: str, as_of: datetime, items: list[Json]) -> Snapshot:
        if name == "subscriptions":  # silent on the method, or it would wipe the card that a fetch has found
            return Snapshot(as_of=as_of, subscriptions=tuple([await self._record(one) for one in items]))
        if name == "orders":  # one that nobody tried to pay has no owner
            items = [one for one in items if words.tries_of(one)]
        records: dict[str, Any] = {name: tuple(map(words.READERS[name[:-1]][1], items))}
        if name == "invoices":  # they alone join payments to subscriptions
            records["payments"] = tuple(map(words.linked, filter(words.payment_of, items)))
        return Snapshot(as_of=as_of, **records)

    async def fetch(self, ref: Ref) -> Snapshot:
        """A subscription comes with its invoices and newest payment, a payment with its invoice and refunds."""
        if ref.kind == "subscription":
            return _remembered(await self._look(ref), ref.known)
        as_of, said = clock.now(), await self._one(ref.kind, ref.id)
        payments: tuple[base.PaymentRecord, ...] = ()
        if ref.kind == "payment":
            invoice = await self._if_there("invoice", said.get("invoice_id"))
            refunded = await self._list(f"/payments/{ref.id}/refunds", {"count": ROWS})
            refunds = tuple(map(words.refund, refunded))
            payments = (words.payment(said, text(invoice.get("subscription_id"))),)
            invoices = (words.invoice(invoice),) if invoice else ()
            return Snapshot(as_of=as_of, payments=payments, refunds=refunds, invoices=invoices)
        if ref.kind == "order":  # which shows no cards
            payments = tuple(_with(words.payment(one), {"method"}) for one in words.tries_of(said))
        if ref.kind == "invoice" and (paid := await self._if_there("payment", words.payment_of(said))):
            payments = (words.payment(paid, text(said.get("subscription_id"))),)
        records: dict[str, Any] = {f"{ref.kind}s": (words.READERS[ref.kind][1](said),), "payments": payments}
        return Snapshot(as_of=as_of, **records)

    async def _look(self, ref: Ref) -> Snapshot:
        """A subscription as Razorpay shows it, with its invoices and the card of its newest payment."""
        as_of, said = clock.now(), await self._one("subscription", ref.id)
        record, sort = await self._record(said), words.sort_of(said)
        listed = await self._list("/invoices", {"subscription_id": ref.id, "count": ROWS})
        listed = [
            one for one in listed if one.get("subscription_id") == ref.id
        ]  # nobody else's, come what may
        invoices = tuple(map(words.invoice, listed))
        paid = max(filter(words.payment_of, listed), key=words.paid_at, default=words.NOTHING)
        payment = await self._if_there("payment", words.payment_of(paid))
        email = next((one.email for one in (record, *invoices) if one.email), None)
        customer = {} if email else await self._if_there("customer", said.get("customer_id"))
        told: dict[str, Any] = {"email": email or words.email(customer.get("email"))}
        if not _card_stands(ref.known, record, sort):
            told["method"] = words.method(payment) or sort
        if record.status == "past_due":
            told["due"] = next((one.due for one in invoices if one.status == "open" and one.due), None)
        payments = (words.payment(payment, ref.id),) if payment else ()
        customers = (words.customer(customer),) if customer else ()
        rows: dict[str, Any] = {"payments": payments, "invoices": invoices, "customers": customers}
        return Snapshot(as_of=as_of, subscriptions=(_with(record, **told),), **rows)

    async def _record(self, said: Json) -> base.SubscriptionRecord:
        pending = await self._pending(said)
        for plan in {text(one.get("plan_id")) for one in (said, pending)} - set(self._plans):
            self._plans[plan] = await self._if_there("plan", plan)
        plans = [self._plans[text(one.get("plan_id"))] for one in (said, pending)]
        return words.subscription(said, plans[0], pending, plans[1])

    async def _pending(self, said: Json) -> Json:
        """The subscription as it will be from the next cycle on; empty where no change is scheduled."""
        scheduled = said["id"] if said.get("has_scheduled_changes") is True else None
        return await self._if_there("subscription", scheduled, "/retrieve_scheduled_changes")

    def verify(
        self, headers: list[tuple[str, str]], body: bytes, now: datetime, certificate: bytes | None = None
    ) -> list[base.Event]:
        """The raw body under the webhook's secret or the one before, without a time. The id of the event stands in a
        header outside the signature: it keeps repeats apart and proves nothing."""
        given = wire.one_header(headers, "X-Razorpay-Signature")
        secrets = [wire.secret_of(self.credentials, "webhook_secret", "webhook secret")]
        if old := self.credentials.get("webhook_secret_old", "").strip():
            secrets.append(old.encode())
        if not any(wire.same(given, wire.hmac_hex(secret, body, "sha256")) for secret in secrets):
            raise base.BadSignature("The signature is wrong, or the secret here is not the webhook's own.")
        ids = [value for name, value in headers if name.lower() == "x-razorpay-event-id"]
        named = len(ids) == 1 and re.fullmatch(r"[A-Za-z0-9_-]{1,100}", ids[0])
        return [words.event(wire.proved_json(body), ids[0] if named else wire.digest(body))]

    async def cancel_now(self, ref: Ref, key: str) -> Snapshot:
        """Final. What has ended already counts as done; Razorpay would refuse a repeat."""
        return await self._step(ref, "cancel", {"cancel_at_cycle_end": False}, ENDED)

    async def cancel_at_period_end(self, ref: Ref, key: str) -> Snapshot:
        """Only from active with a cycle to come: with an open payment or paused, Razorpay answers 200 without effect.
        It shows nothing afterwards where it did take it: its answer is all the proof there is."""
        was = words.subscription(await self._one("subscription", ref.id))
        end, known = was.current_period_end, ref.known
        if was.status in ENDED:
            return await self.fetch(ref)
        if was.status != "active" or was.object == "last_cycle" or end is None:
            raise Unsupported(NO_CYCLE_END)
        if isinstance(known, base.SubscriptionRecord):  # so that the read-back tells what Razorpay says
            known = replace(known, status="active")
        body = {"cancel_at_cycle_end": True}
        after = await self._change(Ref("subscription", ref.id, known), "/cancel", body, ENDED)
        now = after.subscriptions[0]
        if now.status in ENDED:
            return replace(after, tell=f"Razorpay ended {ref.id} at once, though asked for the cycle's end.")
        if now.status != "active":
            raise Declined("This changed at Razorpay meanwhile, so it was not cancelled. Please look again.")
        kept = _with(now, status="cancels_at_period_end", cancels_at=end)
        return replace(after, subscriptions=(replace(kept, next_payment=None),))

    async def pause(self, ref: Ref, key: str) -> Snapshot:
        """Only from active: on one that has not begun, the same call cancels."""
        return await self._step(ref, "pause", {"pause_at": "now"}, ("paused",), "active")

    async def resume(self, ref: Ref, key: str) -> Snapshot:
        return await self._step(ref, "resume", {"resume_at": "now"}, ("active",), "paused")

    async def change_plan(
        self, ref: Ref, change: Mapping[str, Any], return_url: str, key: str
    ) -> Snapshot | base.Leave:
        """From the next cycle on, so that nothing is charged or paid back unasked; at once where none has begun. An
        amount and an interval in `change` must be the plan's own, times the quantity."""
        wish = {"plan_id": change.get("plan"), "quantity": change.get("quantity")}
        wish = {name: value for name, value in wish.items() if value is not None}
        said = await self._one("subscription", ref.id)
        if said.get("status") not in ("active", "authenticated"):
            raise Unsupported(NOT_NOW)
        will = {**said, **wish}
        told = words.subscription(will, await self._if_there("plan", will.get("plan_id")))
        if not wish or any(
            change.get(name) not in (None, getattr(told, name)) for name in ("amount", "interval")
        ):
            hint = f"Razorpay would charge {told.amount} every {told.interval}. Compare the plan with your list here."
            raise Unsupported("This is not what Razorpay would charge, so nothing was changed.", hint)
        then = {**said, **await self._pending(said)}
        if all(then.get(name) == value for name, value in wish.items()):
            return await self.fetch(ref)
        at = "cycle_end" if said["status"] == "active" else "now"
        return await self._change(ref, "", {**wish, "schedule_change_at": at})

    async def start_method_update(self, ref: Ref, return_url: str, key: str) -> base.Leave:
        """Razorpay's form, which comes back with a POST; without script its page of the subscription, which does not.
        https://razorpay.com/docs/payments/subscriptions/payment-retries/"""
        said = await self._one("subscription", ref.id)
        if said.get("status") not in ("active", "pending", "halted"):
            raise Unsupported(NOT_NOW)
        options = {"key": self._key, "subscription_id": ref.id, "subscription_card_change": True}
        options |= {"callback_url": return_url, "redirect": True}
        connects = tuple(dict.fromkeys(map(self.base, TALKS_TO)))
        script = base.Script(f"{self.base(CHECKOUT)}/v1/checkout.js", START, options, connects)
        return base.Leave(text(said.get("short_url")) or "", script=script)

    async def finish_method_update(
        self, ref: Ref, state: Mapping[str, str], query: Mapping[str, str]
    ) -> Snapshot:
        """The return proves itself over payment|subscription (orders have it the other way round) with our own id of
        the subscription; then the payment is read for the new card. What is not proved only makes us look."""
        payment_id, given = query.get("razorpay_payment_id", ""), query.get("razorpay_signature", "")
        expected = wire.hmac_hex(self._secret.encode(), f"{payment_id}|{ref.id}".encode(), "sha256")
        after = await self.fetch(ref)
        if self._secret and payment_id and wire.same(given, expected):
            payment = await self._one("payment", payment_id)
            if words.payment(payment).status in ("authorized", *words.GOOD):
                told = _with(after.subscriptions[0], method=words.method(payment))
                return replace(after, subscriptions=(told,))
        elif code := query.get("error[code]", "")[:100]:
            hint = f"Razorpay's form says {code} {query.get('error[reason]', '')[:100]}".strip()
            raise Declined("Razorpay did not accept the new payment method. The old one stays.", hint, code)
        return after

    @classmethod
    def read(cls, kind: Any, said: Any) -> Any:
        """Bare objects, those in a webhook's payload ({"entity": {…}}), and whole webhooks as `event`."""
        one = part(said, "entity") or said
        if kind == "event":
            if not isinstance(one, dict) or not isinstance(one.get("payload"), dict):
                raise ValueError("This is no webhook of Razorpay: it has no payload.")
            return [words.event(one, wire.digest(json.dumps(one, sort_keys=True)))]
        if kind not in words.READERS:
            raise Unsupported("", f"Razorpay has no {kind} of its own.")
        prefix, reader = words.READERS[kind]
        if not isinstance(one, dict) or not str(one.get("id")).startswith(prefix):
            raise ValueError(f"This is no {kind} of Razorpay: its id does not begin with {prefix}.")
        return _with(reader(one), method=words.sort_of(one)) if kind == "subscription" else reader(one)

    async def _step(self, ref: Ref, what: str, body: Json, goal: Sequence[str], start: str = "") -> Snapshot:
        was = words.subscription(await self._one("subscription", ref.id))
        if was.status in goal:
            return await self.fetch(ref)
        if start and was.status != start:
            raise Unsupported(NOT_NOW)
        if start and was.object == "paused_elsewhere":
            raise Unsupported(NOT_OURS)
        return await self._change(ref, f"/{what}", body, goal)

    async def _change(self, ref: Ref, path: str, body: Json, goal: Sequence[str] = ()) -> Snapshot:
        """Call, then read: what Razorpay shows afterwards counts, after a refusal too."""
        refusal = None
        try:
            await self._ask("POST" if path else "PATCH", f"/subscriptions/{ref.id}{path}", body=body)
        except Declined as error:
            refusal = error
        try:
            after = await self.fetch(ref)
        except Unavailable as error:
            raise Unavailable(error.customer, error.hint, error.retry_after, sent=True) from error
        if refusal and after.subscriptions[0].status not in goal:
            raise refusal
        return after

    async def _one(self, kind: str, remote_id: str, under: str = "") -> Json:
        path = f"/{kind}s/{wire.safe(remote_id)}{under}"
        said = wire.obj(await self._ask("GET", path, EXPANDED.get(kind)))
        if said.get("id") != remote_id:
            raise Unavailable(NO_ANSWER, f"The answer is not the {kind} asked for.")
        return said

    async def _if_there(self, kind: str, remote_id: Any, under: str = "") -> Json:
        """An object on the side; empty where none is named, or none is known any more."""
        try:
            return await self._one(kind, remote_id, under) if text(remote_id) else {}
        except (Gone, Declined):
            return {}

    async def _list(self, path: str, query: Json) -> list[Json]:
        said = wire.obj(await self._ask("GET", path, query))
        items, count = wire.objects(said.get("items")), whole(said.get("count"))
        named = wire.forgives() or all(isinstance(one.get("id"), str) for one in items)
        if count is None or bool(count) != bool(items) or not named:
            raise Unreadable(NO_ANSWER, "A list is not whole, or holds something without an id.")
        return items

    async def _ask(self, method: str, path: str, query: Json | None = None, body: Json | None = None) -> Any:
        pair = base64.b64encode(f"{self._key}:{self._secret}".encode()).decode()
        more: dict[str, Any] = {"params": query, "json": body, "refused": _refused}
        more |= {"words": lambda said: (said["error"]["code"], said["error"]["description"])}
        headers = {"Authorization": f"Basic {pair}"}
        return await self._http.ask(method, API, f"/v1{path}", headers=headers, **more)


def _refused(status: int, code: str, message: str) -> base.GatewayError | None:
    """All refusals are 400 with one code, for an unknown id too: of two kinds only the words tell."""
    said = f"HTTP {status}: {code} {message}".strip()
    if status in (401, 403):
        hint = f"{said}. Compare key id and secret with the dashboard: test and live have a pair each."
        return KeysRefused("Razorpay does not accept this shop's keys now. Nothing was changed.", hint)
    if status == 400 and re.search(r"does not exist|could not be found|not a valid id", message):
        return Gone("Razorpay does not know this any more.", said)
    if status == 400 and "operation is in progress" in message:
        return Unavailable("Razorpay is busy with another change of this. Nothing was changed.", said, 10.0)
    return None


def _remembered(found: Snapshot, known: Any) -> Snapshot:
    """Plain "active" says nothing against a cancel that we know of, until its day has come and gone."""
    now, ours = found.subscriptions[0], isinstance(known, base.SubscriptionRecord)
    end = (known.cancels_at or known.current_period_end) if ours else None
    if end is None or known.status != "cancels_at_period_end" or now.status != "active":
        return found
    if found.as_of >= end + END_LAG or (now.current_period_end or end) > end:
        day = end.astimezone(words.INDIA).date()
        return replace(found, tell=f"Razorpay took a cancel of {now.remote_id} for {day}, but it still runs.")
    quiet = _with(now, {"status", "cancels_at", "next_payment"})
    invoices = tuple(one for one in found.invoices if one.status != "open")  # of a cycle that will not come
    return replace(found, subscriptions=(quiet,), invoices=invoices)


def _card_stands(known: Any, now: base.SubscriptionRecord, sort: Method | None) -> bool:
    """A changed card is in no payment before another period is paid: until then, what is known of it stands."""
    card = known.method if isinstance(known, base.SubscriptionRecord) else None
    if not (card and card.remote_id) or (sort and not card.kind.endswith(sort.kind)):
        return False
    return now.current_period_start in (None, known.current_period_start)


def _with(record: Any, without: Set[str] = frozenset(), **told: Any) -> Any:
    """The record, no longer speaking of some fields, and speaking of these too where they have a value."""
    told = {name: value for name, value in told.items() if value is not None}
    return replace(record, knows=((record.knows or frozenset()) | set(told)) - without, **told)
