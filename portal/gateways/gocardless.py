"""GoCardless: bank debits on mandates, amounts in whole minor units, days without a zone.

A subscription names its mandate alone; customer and bank account are found through that. GoCardless goes on calling
one active whose payment failed, so what is past due is worked out from its payments. These are made days before they
are charged, and are collected even after a pause or a cancel: a cancel calls those off that no bank has seen yet.
Sources: https://developer.gocardless.com/api-reference/ and the pages that the facts name.
"""

import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from itertools import pairwise
from typing import Any, Literal

from portal import clock
from portal.gateways import base, wire
from portal.gateways.base import Declined, Gone, Record, Ref, Snapshot, Unavailable, Unreadable, Unsupported
from portal.gateways.http import Http
from portal.gateways.wire import Json, day, moment, part, text

LIVE, SANDBOX, VERSION = "api.gocardless.com", "api-sandbox.gocardless.com", "2015-07-06"
NO_ANSWER = "GoCardless does not answer at the moment."
LISTS = ("customers", "customer_bank_accounts", "mandates", "subscriptions", "payments", "refunds")
NAMES = {"order": "payments"} | {name[:-1]: name for name in LISTS}
SUBSCRIPTIONS = {"pending_customer_approval": "incomplete", "active": "active", "paused": "paused"}
ENDED = {"customer_approval_denied": "cancelled", "cancelled": "cancelled", "finished": "expired"}
PAYMENTS = {"confirmed": "paid", "paid_out": "paid", "failed": "failed", "charged_back": "disputed"}
SETTLED, WAITING = tuple(PAYMENTS), ("pending_customer_approval", "pending_submission", "submitted")
PAYMENTS |= dict.fromkeys(WAITING, "pending")
PAYMENTS |= {"cancelled": "cancelled", "customer_approval_denied": "cancelled"}
ORDERS = {"pending": "open", "disputed": "paid"}  # where it differs from the payment's
REFUNDS = dict.fromkeys(("created", "pending_submission", "submitted"), "pending") | {"paid": "sent"}
REFUNDS |= {"cancelled": "cancelled", "bounced": "failed", "funds_returned": "failed"}
DEAD = ("suspended_by_payer", "failed", "cancelled", "expired", "consumed", "blocked")  # of mandates
UNITS: dict[str, base.Unit] = {"weekly": "week", "monthly": "month", "yearly": "year"}
_Seen = dict[str, Json]  # what other objects name, by its id
_Whose = tuple[str | None, base.Method | None]  # the customer of a mandate, and its bank account
UNKNOWN: _Whose = (None, base.Method("bank_debit"))


class Adapter(base.Gateway):
    """One organisation. Credentials: access_token, whose prefix names the environment, and webhook_secret."""

    looks_at_subject_alone = True

    def __init__(self, credentials: Mapping[str, str], **more: Any) -> None:
        super().__init__(credentials, **more)
        self._http = Http(self, "gocardless")
        self._token = self.credentials.get("access_token", "").strip()
        self._host = SANDBOX if self._token.startswith("sandbox_") else LIVE

    async def aclose(self) -> None:
        await self._http.aclose()

    async def check(self) -> base.Health:
        """Whether the token reads. That it may not write is told only when something is to be changed."""
        live = self._host == LIVE
        try:
            found, _ = await self._list("creditors", limit="1")
        except (Unavailable, Unsupported) as refused:
            if not refused.hint.startswith(("HTTP 401", "HTTP 403")):
                raise
            return base.Health(ok=False, live=live, hint=refused.hint)
        return base.Health(ok=True, live=live, account=text(found[0].get("name")) if found else None)

    async def backfill(self, cursor: str | None = None) -> AsyncIterator[base.Page]:
        """All lists; bank accounts and mandates before what is read through them. The cursor is list and place."""
        name, after = json.loads(cursor) if cursor else (LISTS[0], None)
        seen: _Seen = {}
        while name:
            as_of, listed = clock.now(), name  # a live subscription takes a call more, so fewer make a page
            start = {"after": after} if after else {}
            found, after = await self._list(name, limit="50" if name == "subscriptions" else "500", **start)
            name = name if after else dict(pairwise(LISTS)).get(name)
            if listed in ("customer_bank_accounts", "mandates"):
                seen, found = seen | {one["id"]: one for one in found if text(one.get("id"))}, []
            parts = await wire.sifted(listed, found, partial(self._told, listed, seen=seen))
            snapshot = _snapshot(as_of, [record for part in parts for record in part])
            yield base.Page(snapshot, json.dumps([name, after]) if name else None)

    def lists(self) -> list[str]:
        return [json.dumps([name, None]) for name in LISTS]

    async def kept_events(self, since: datetime) -> AsyncIterator[list[base.Event]]:
        """Newest first, as they stand in deliveries."""
        after: str | None = None
        begins = {"created_at[gte]": since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")}
        while True:
            more = {"after": after} if after else {}
            found, after = await self._list("events", limit="500", **begins, **more)
            yield _events({"events": found})
            if not after:
                return

    async def _told(self, name: str, found: Iterable[Json], seen: _Seen, deep: bool = False) -> list[Record]:
        """Records; a live subscription (`deep`: any) with its newest payments, and `deep` why a payment failed."""
        records: list[Record] = []
        for one in found:
            if name in ("customers", "refunds"):
                records.append(_customer(one) if name == "customers" else _refund(one))
                continue
            mandate = await self._named("mandate", one, seen)
            bank = await self._named("customer_bank_account", mandate, seen)
            whose = (_link(mandate, "customer"), _method(mandate, bank))
            if name == "payments":
                records += _sale(one, whose, await self._failure(one) if deep else {})
                continue
            payments = await self._payments(one["id"]) if deep or one.get("status") not in ENDED else None
            records.append(_subscription(one, whose, payments))
            records += [row for payment in (payments or [])[:10] for row in _sale(payment, whose)]
        return records

    async def _named(self, what: str, by: Json, seen: _Seen) -> Json:
        """What another object names, asked for once; empty where there is none (any more)."""
        wanted = _link(by, what) or ""
        if wanted and wanted not in seen:
            try:
                seen[wanted] = await self._one(f"{what}s", wanted)
            except Gone:
                seen[wanted] = {}
        return seen.get(wanted, {})

    async def _payments(self, subscription: str) -> list[Json]:
        """Newest day first. The order of lists is not documented, so as many as there can be are asked for."""
        found, _ = await self._list("payments", subscription=subscription, limit="500")
        return sorted(found, key=lambda one: f"{_due(one)} {one.get('created_at')}", reverse=True)

    async def _failure(self, payment: Json) -> Json:
        """Why a payment failed, once or now: only its events tell."""
        if payment.get("status") not in ("failed", "pending_submission"):
            return {}
        found, _ = await self._list("events", payment=payment["id"], action="failed")
        return part(max(found, key=lambda one: str(one.get("created_at")), default={}), "details")

    async def fetch(self, ref: Ref) -> Snapshot:
        """With what it hangs on: a refund's payment, a payment's subscription, and whose they are."""
        as_of, seen, name = clock.now(), _Seen(), NAMES.get(ref.kind, "")
        if not name:
            raise Gone("GoCardless does not know this.", f"It has no {ref.kind} of its own.")
        one = await self._one(name, ref.id)
        records = await self._told(name, [one], seen, deep=True)
        if name == "refunds":
            one = await self._named("payment", one, seen)
            records += await self._told("payments", [one] if one else [], seen, deep=True)
        if name in ("refunds", "payments") and one:
            refunds, _ = await self._list("refunds", payment=one["id"])
            one = await self._named("subscription", one, seen)
            records += await self._told("refunds", refunds, seen)
            records += await self._told("subscriptions", [one] if one else [], seen, deep=True)
        for known in list(seen.values()):
            if customer := await self._named("customer", known, seen):
                records.append(_customer(customer))
        return _snapshot(as_of, records)

    async def _now(self, ref: Ref) -> Snapshot:
        """How one stands after a call, which a failure to look does not undo."""
        try:
            return await self.fetch(ref)
        except Unavailable as error:
            raise Unavailable(error.customer, error.hint, error.retry_after, sent=True) from error

    def verify(
        self, headers: list[tuple[str, str]], body: bytes, now: datetime, certificate: bytes | None = None
    ) -> list[base.Event]:
        """Up to 250 events under one signature over the raw body. There is no time in it."""
        secret = wire.secret_of(self.credentials, "webhook_secret", "webhook secret")
        given = wire.one_header(headers, "Webhook-Signature")
        if not wire.same(given, wire.hmac_hex(secret, body, "sha256")):
            raise base.BadSignature("The signature was not made with the webhook secret given here.")
        try:
            return _events(wire.proved_json(body))
        except (ValueError, Unavailable) as error:
            raise base.BadSignature(str(error)) from error

    async def cancel_now(self, ref: Ref, key: str) -> Snapshot:
        """Final; the mandate stays. First payments made ahead are called off, but none that has failed before: that
        is a debt. What a bank has already is collected, and the merchant is told."""
        for payment in await self._payments(ref.id):
            if payment.get("status") == "pending_submission" and not await self._failure(payment):
                with suppress(Declined):  # handed to the bank meanwhile
                    await self._act("payments", payment["id"], "cancel", key, "cancelled")
        if (await self._one("subscriptions", ref.id)).get("status") not in ENDED:
            await self._act("subscriptions", ref.id, "cancel", key, *ENDED)
        now = await self._now(ref)
        late = ", ".join(one.remote_id for one in now.payments if one.status == "pending")
        tell = f"{ref.id} was cancelled too late for {late}: refund that when it is collected, unless it is owed."
        return replace(now, tell=tell) if late else now

    async def pause(self, ref: Ref, key: str) -> Snapshot:
        """Until it is resumed; payments that are made already are still collected."""
        await self._act("subscriptions", ref.id, "pause", key, "paused")
        return await self._now(ref)

    async def resume(self, ref: Ref, key: str) -> Snapshot:
        await self._act("subscriptions", ref.id, "resume", key, "active")
        return await self._now(ref)

    async def skip_next_payment(self, ref: Ref, key: str) -> Snapshot:
        """A pause of one cycle. A second one is refused by GoCardless, so nothing is left out twice."""
        if _made(await self._payments(ref.id)):
            hint = "It is made already; only the dashboard can call it off."
            raise Unsupported("The next payment is on its way already and can't be left out.", hint)
        await self._act("subscriptions", ref.id, "pause", key, "paused", pause_cycles=1)
        return await self._now(ref)

    async def change_plan(
        self, ref: Ref, change: Mapping[str, Any], return_url: str, key: str
    ) -> Snapshot | base.Leave:
        """Another amount, ten times in all; payments that are made already keep the old one."""
        was, amount = _subscription(await self._one("subscriptions", ref.id)), change.get("amount")
        other = change.get("plan") or change.get("quantity") or was.status != "active"
        other = other or change.get("interval") not in (None, was.interval)
        if other or not amount or not was.amount or amount.currency != was.amount.currency:
            raise Unsupported("This can't be changed that way.", "Only the amount of an active one can.")
        if was.amount != amount:
            wish = {"subscriptions": {"amount": amount.minor}}
            await self._ask("PUT", f"/subscriptions/{wire.safe(ref.id)}", key, wish)
        return await self._now(ref)

    async def pay_now(self, ref: Ref, return_url: str, key: str) -> Snapshot | base.Leave:
        """The failed payment goes to the bank once more: the same payment, so it can't be collected twice."""
        unpaid = _unpaid(await self._payments(ref.id))
        if unpaid.get("status") == "failed":
            await self._act("payments", unpaid["id"], "retry", key, *WAITING, "confirmed", "paid_out")
        return await self._now(ref)

    @classmethod
    def read(cls, kind: base.Kind | Literal["event"], said: Any) -> Record | list[base.Event]:
        """An order is read from the payment that it is here."""
        readers: dict[str, Any] = {"customer": _customer, "subscription": _subscription, "refund": _refund}
        if kind == "invoice":
            return super().read(kind, said)
        try:
            if kind == "event":
                return _events(wire.obj(said))
            one = part(said, NAMES[kind]) or wire.obj(said)
            found = [readers[kind](one)] if kind in readers else _sale(one)
        except Unavailable as error:
            raise ValueError(error.hint) from error
        if kind == "order" and len(found) < 2:
            raise ValueError("This payment belongs to a subscription and is no order of its own.")
        return found[-1 if kind == "order" else 0]

    async def _one(self, name: str, wanted: str) -> Json:
        found = part(await self._ask("GET", f"/{name}/{wire.safe(wanted)}"), name)
        if found.get("id") != wanted:
            raise Unavailable(NO_ANSWER, f"The answer holds no {name} of this id.")
        return found

    async def _list(self, name: str, **params: str) -> tuple[list[Json], str | None]:
        """One page of a list, and the cursor of the next one."""
        said = wire.obj(await self._ask("GET", f"/{name}", params=params))
        found, cursors = wire.objects(said.get(name)), part(said, "meta", "cursors")
        named = wire.forgives() or all(isinstance(one.get("id"), str) for one in found)
        if "after" not in cursors or not named:
            raise Unreadable(NO_ANSWER, f"The list of {name} is not whole.")
        return found, text(cursors["after"])

    async def _act(self, name: str, one: str, what: str, key: str, *done: str, **data: Any) -> None:
        """An action, which takes its fields under "data". Refused because it was done before, it is done."""
        try:
            await self._ask(
                "POST", f"/{name}/{wire.safe(one)}/actions/{what}", f"{key}-{one}", {"data": data}
            )
        except Declined:
            if (await self._one(name, one)).get("status") not in done:
                raise

    async def _ask(self, method: str, path: str, key: str = "", body: Any = None, params: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self._token}".strip(), "GoCardless-Version": VERSION}
        headers |= {"Idempotency-Key": key} if key else {}
        more = {"headers": headers, "params": params, "json": body}
        return await self._http.ask(method, self._host, path, words=_words, refused=_refused, **more)


def _words(said: Any) -> tuple[str, str]:
    error = said["error"]
    first = part((error.get("errors") or [{}])[0])
    message = f"{first.get('field', '')} {first.get('message') or error['message']}"
    return first.get("reason") or error["type"], message.strip()


def _refused(status: int, code: str, message: str) -> base.GatewayError | None:
    hint = f"HTTP {status}: {code} {message}".strip()
    if status == 403:
        more = "The token needs read-write access, and what an app has made is changed by that app alone."
        return Unsupported("This can't be changed here; please ask the shop.", f"{hint}. {more}")
    return Unavailable("This is being worked on already.", hint, 2.0, sent=True) if status == 409 else None


def _snapshot(as_of: datetime, records: Iterable[Record]) -> Snapshot:
    """Records of all sorts in their places; of several of one object the first."""
    found: dict[str, Any] = {}
    for record in {(type(one), one.remote_id): one for one in reversed([*records])}.values():
        name = f"{type(record).__name__.removesuffix('Record').lower()}s"
        found[name] = (record, *found.get(name, ()))
    return Snapshot(as_of=as_of, **found)


def _events(said: Json) -> list[base.Event]:
    found = []
    for row in wire.objects(said.get("events", [said])):
        event, what = text(row.get("id")), text(row.get("resource_type"))
        if event is None or what is None:
            raise ValueError("This is no event of GoCardless's.")
        kind: Any = what.removesuffix("s")
        about, body = _link(row, kind), {"cause": text(part(row, "details").get("cause"))}
        subject = Ref(kind, about) if kind in ("payment", "refund", "subscription") and about else None
        told, at = f"{what}.{text(row.get('action'))}", moment(row.get("created_at"))
        found.append(base.Event(event, told, subject, at, {kind: about, **body}))
    return found


def _basics(said: Json, prefix: str) -> dict[str, Any]:
    """What most objects tell under one name."""
    found = text(said.get("id")) or ""
    if not re.fullmatch(f"{prefix}[A-Za-z0-9]{{1,60}}", found):
        raise Unreadable(NO_ANSWER, f"An object has no id that begins with {prefix}.")
    told = {"remote_id": found, "created_at": moment(said.get("created_at"))}
    return told | {"raw_status": text(said.get("status")), "amount": _amount(said)}


def _customer(said: Json) -> base.CustomerRecord:
    names = [text(said.get(name)) or "" for name in ("given_name", "family_name")]
    told = _basics(said, "CU") | {"name": " ".join(names).strip() or text(said.get("company_name"))}
    return wire.spoken(base.CustomerRecord, also=("email", "name"), email=text(said.get("email")), **told)


def _subscription(
    said: Json, whose: _Whose = UNKNOWN, payments: list[Json] | None = None
) -> base.SubscriptionRecord:
    """Paid until: the day of the next payment that no bank has yet, or of the one that failed."""
    told, raw = _basics(said, "SB"), text(said.get("status"))
    unpaid = _unpaid(payments or []) if raw == "active" else {}
    upcoming = sorted(filter(_due, wire.objects(said.get("upcoming_payments") or [])), key=_due)
    coming = sorted([*_made(payments or []), *upcoming], key=_due)
    free = next((one for one in coming if one.get("status") != "submitted"), {})
    told |= {"status": "past_due" if unpaid else (SUBSCRIPTIONS | ENDED).get(str(raw)), "customer": whose[0]}
    told |= {"title": text(said.get("name")), "started_at": _noon(said.get("start_date"))}
    unit, count = UNITS.get(str(said.get("interval_unit"))), wire.whole(said.get("interval")) or 0
    told["interval"] = base.Interval(unit, count) if unit and count > 0 else None
    also = ["next_payment", "resumes_at"] if told["status"] else []
    if raw in SUBSCRIPTIONS and coming:
        amount = _amount({"currency": said.get("currency"), **coming[0]})
        told["next_payment"] = base.NextPayment(date.fromisoformat(_due(coming[0])), amount, "fixed")
    told["current_period_end"] = _noon((unpaid or free).get("charge_date")) if raw == "active" else None
    told["resumes_at"] = _noon(_due(upcoming[0])) if raw == "paused" and upcoming else None
    if payments is not None:
        also, told["method"] = [*also, "due", "method"], whose[1]
        told["due"] = _amount(unpaid) if unpaid.get("status") == "failed" else None
    return wire.spoken(base.SubscriptionRecord, also=also, **told)


def _unpaid(payments: list[Json]) -> Json:
    """The newest payment whose fate is known, where it failed; empty where it did not."""
    newest = next((one for one in payments if one.get("status") in SETTLED), {})
    return newest if newest.get("status") in ("failed", "charged_back") else {}


def _made(payments: list[Json]) -> list[Json]:
    """Payments that are made already and still to come."""
    return [one for one in payments if one.get("status") in WAITING and _due(one) >= str(clock.now().date())]


def _sale(said: Json, whose: _Whose = UNKNOWN, failure: Json | None = None) -> list[Record]:
    """A payment, and the order that it is too unless a subscription made it."""
    told, subscription = _basics(said, "PM"), _link(said, "subscription")
    back, amount, raw = _amount(said, "amount_refunded"), told["amount"], told["raw_status"]
    status = PAYMENTS.get(str(raw))
    if status == "paid" and back:
        status = "refunded" if amount and back.minor >= amount.minor else "partially_refunded"
    told |= {"title": text(said.get("description")), "customer": whose[0], "status": status}
    more: dict[str, Any] = {"refunded": back, "method": whose[1], "subscription": subscription}
    more["order"] = None if subscription else told["remote_id"]
    more["paid_at"] = _noon(said.get("charge_date")) if raw in SETTLED and raw != "failed" else None
    if raw == "failed" and (cause := text(part(failure).get("cause"))):
        more["failure"] = base.Failure(cause, text(part(failure).get("description")))
    records: list[Record] = [wire.spoken(base.PaymentRecord, **told, **more)]
    if subscription is None:
        metadata, lines = part(said, "metadata"), (base.Line(told["title"] or "–", 1, amount),)
        told["number"] = text(metadata.get("order_number")) or text(metadata.get("order_id"))
        told |= {"status": ORDERS.get(str(status), status), "lines": lines if amount else None}
        records.append(wire.spoken(base.OrderRecord, **told))
    return records


def _refund(said: Json) -> base.RefundRecord:
    told = _basics(said, "RF") | {"payment": _link(said, "payment"), "reason": text(said.get("reference"))}
    return wire.spoken(base.RefundRecord, status=REFUNDS.get(str(told["raw_status"])), **told)


def _method(mandate: Json, bank: Json) -> base.Method:
    """The bank account of a mandate, of whose number GoCardless shows two digits, in New Zealand four."""
    digits, name = text(bank.get("account_number_ending")), text(bank.get("bank_name"))
    token = None if mandate.get("status") in DEAD else text(mandate.get("id"))
    return base.Method("bank_debit", name, digits, remote_id=token)


def _amount(said: Json, name: str = "amount") -> Any:
    return wire.minor(said.get(name), said.get("currency"))


def _link(said: Json, name: str) -> str | None:
    return text(part(said, "links").get(name))


def _due(said: Json) -> str:
    """The day of a payment as written; empty where there is none."""
    return str(day(said.get("charge_date")) or "")


def _noon(value: Any) -> datetime | None:
    """A day of which GoCardless names no zone: noon in UTC is in it nearly everywhere."""
    return moment(f"{value}T12:00Z")
