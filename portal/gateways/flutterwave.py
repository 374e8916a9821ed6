"""Flutterwave (Nigeria, Ghana, Kenya, Uganda, South Africa …), v3; v4 accounts are read only, having no subscriptions.

Amounts are major units, as numbers or as text; times are UTC; ids are numbers in one answer and text in another. v3
has no look-up of one subscription: it is found in the lists of its e-mail, else in the list of all. It knows no
currency, no next date, no card: these come from its plan and from its last charge. A wrong id is answered 400, and
cancelling takes the subscription's id, never the plan's: that would end everybody's. There is no idempotency header:
every write reads before and after, and what the list says afterwards counts. The header of a webhook proves where it
comes from and nothing more, so everything is verified with our key.
Calls stand here; what is read out of the answers stands in `_flutterwave`.
Sources: https://developer.flutterwave.com/v3.0/docs and https://github.com/Flutterwave/Node-v3/tree/master/documentation
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

from portal import clock
from portal.gateways import base, wire
from portal.gateways._flutterwave import charges, fields, records
from portal.gateways._flutterwave.api import REFUSED, Api, KeysRefused, is_proved
from portal.gateways.base import Declined, Event, Gone, Record, Ref, Snapshot, Unavailable, Unsupported
from portal.gateways.http import Http
from portal.gateways.wire import Json, part, safe, text, whole

LISTS = {"v3": ("subscriptions", "transactions", "refunds"), "v4": ("customers", "charges", "refunds")}
PAGES = 5  # of one person's transactions, which may be everybody's: that filter was never tried
NUMBER, ID, EMAIL = r"[0-9]{1,18}", r"[A-Za-z0-9_-]{1,100}", r"[^\s/?#\\]{1,150}@[^\s/?#\\]{1,100}"
SETTLED = timedelta(minutes=15)  # after a paid checkout, the longest wait for the subscription that it makes
DAY = timedelta(days=1)
TAKEN = "Flutterwave took this, but does not show it yet."


class Adapter(base.Gateway):
    """One account. Credentials: secret_key (v3), or client_id, client_secret and api_host (v4); secret_hash proves
    webhooks."""

    def __init__(self, credentials: Mapping[str, str], **more: Any) -> None:
        super().__init__(credentials, **more)
        self._http = Http(self, "flutterwave")
        self._version: Literal["v3", "v4"] = "v4" if self.variant == "v4" else "v3"
        self._api = Api(self._http, self.credentials, self._version == "v4")
        self._plans: dict[str, Json] = {}
        self._people: dict[str | None, list[Json]] | None = None  # a backfill's subscriptions, by e-mail

    async def aclose(self) -> None:
        await self._http.aclose()

    async def check(self) -> base.Health:
        """A key may do everything or nothing, so one small list proves it."""
        try:
            await self._api.page("payment-plans" if self._version == "v3" else "charges", 1)
        except KeysRefused as refused:
            return base.Health(ok=False, live=self._api.live, hint=refused.hint)
        hint = "In test mode Flutterwave rewrites customers' e-mails: nobody finds their test data by signing in."
        return base.Health(ok=True, live=self._api.live, hint=None if self._api.live else hint)

    async def backfill(self, cursor: str | None = None) -> AsyncIterator[base.Page]:
        """All lists, those with dates by the month and backwards; what joins charges to subscriptions is read first."""
        names = LISTS[self._version]
        at: dict[str, Any] = json.loads(cursor) if cursor else {"list": 0, "page": 1, "to": None}
        if self._version == "v3":
            self._people = {}
            async for items in self._api.pages("subscriptions"):
                for one in items:
                    self._people.setdefault(fields.email_of(one), []).append(one)
        while at["list"] < len(names):
            name, as_of = names[at["list"]], clock.now()
            if at["to"] is None and self._version == "v3" and name != "subscriptions":
                at["to"] = str((as_of + DAY).date())
            items, page = await self._api.page(name, at["page"], **records.window(at))
            at = {**at, "page": page} if page else await self._before(name, at, items)
            parts = await wire.sifted(name, items, partial(self._each, name), None)
            snapshot = records.snapshot(as_of, [row for part in parts for row in part])
            yield base.Page(snapshot, json.dumps(at) if at["list"] < len(names) else None)

    def lists(self) -> list[str]:
        count = len(LISTS[self._version])
        return [json.dumps({"list": number, "page": 1, "to": None}) for number in range(count)]

    async def _before(self, name: str, at: Json, last: list[Json]) -> dict[str, Any]:
        """Where a walk goes on when a window is through: in the one before, or where the next older row is."""
        done = {"list": at["list"] + 1, "page": 1, "to": None}
        begins = wire.day(records.window(at).get("from"))
        oldest = min(filter(None, map(fields.created, last)), default=None)
        ignored = begins and oldest and oldest.date() < begins - DAY  # then that was everything
        if begins is None or ignored or begins <= records.FIRST:
            return done
        until = begins - DAY
        if not last:
            older, _ = await self._api.page(name, 1, **{"from": str(records.FIRST), "to": str(until)})
            if not older:
                return done
            newest = max(filter(None, map(fields.created, older)), default=None)
            until = newest.date() + DAY if newest else until
        return {"list": at["list"], "page": 1, "to": str(until)}

    async def _each(self, name: str, items: list[Json]) -> list[Record]:
        return [row for one in items for row in await self._told(name, one)]

    async def _told(self, name: str, one: Json) -> list[Record]:
        """The records of one row of a list."""
        match name:
            case "customers":
                return [records.read_customer(one)]
            case "subscriptions":
                return await self._looked(one)
            case "refunds":
                return await self._refund(one)
        theirs = await self._theirs(fields.email_of(one)) if self._version == "v3" else []
        if self._version == "v3" and fields.is_sale(one) and not fields.goods_of(one):
            one = await self._named(one, theirs, charges.whose(one, theirs, self._plans)[1])
        return records.read_sale(one, theirs, self._plans)

    async def _named(self, one: Json, theirs: list[Json], always: bool = False) -> Json:
        """A row with what lists leave out: plan, goods and card. Asked where it might be a charge off its day."""
        if always or (fields.is_sale(one) and charges.might_be(one, theirs, self._plans)):
            with suppress(Gone):
                return await self._charge(fields.id_of(one, "id"))
        return one

    async def find(self, email: str) -> list[Ref]:
        """Subscriptions by e-mail; transactions by a filter that was never tried, so they are sifted."""
        mail = email.strip().lower()
        if self._version == "v4":
            return await self._charges_by(email.strip())
        found = [Ref("subscription", fields.id_of(one, "id")) for one in await self._theirs(mail)]
        async for items in self._api.pages("transactions", customer_email=mail):
            own = [one for one in items if fields.email_of(one) == mail]
            found += [Ref("payment", fields.id_of(one, "id")) for one in own]
            if len(own) < len(items):
                break  # the filter is not heeded: the rest is everybody's
        return found

    async def _charges_by(self, email: str) -> list[Ref]:
        """Of v4: the charges of every customer with this e-mail."""
        said, found = await self._api.call("POST", "customers/search", json={"email": email}), []
        for person in map(records.read_customer, wire.objects(said.get("data"))):
            if person.email == email.lower():
                async for items in self._api.pages("charges", customer_id=person.remote_id):
                    found += [one for one in items if text(one.get("customer_id")) == person.remote_id]
        return [Ref("payment", fields.id_of(one, "id")) for one in found]

    async def fetch(self, ref: Ref) -> Snapshot:
        """One object by its id; a customer of v3 is an e-mail, and all its subscriptions."""
        as_of, one = clock.now(), safe(ref.id, EMAIL if "@" in ref.id else ID)
        if ref.kind == "subscription" and self._version == "v3":
            return records.snapshot(as_of, await self._looked(await self._found(ref)))
        if ref.kind == "customer" and self._version == "v3":
            theirs = await self._theirs(ref.id)
            return records.snapshot(as_of, [row for each in theirs for row in await self._looked(each)])
        if ref.kind == "customer":
            return records.snapshot(as_of, await self._buyer(one))
        if ref.kind == "refund":
            return records.snapshot(as_of, await self._refund(await self._api.one(f"refunds/{one}")))
        if ref.kind not in ("payment", "order"):
            raise Unsupported("This is not to be had.", f"Flutterwave {self._version} has no {ref.kind}.")
        return records.snapshot(as_of, await self._sale(await self._charge(ref.id)))

    async def _charge(self, number: str) -> Json:
        if self._version == "v4":
            return await self._api.one(f"charges/{safe(number, ID)}")
        return await self._api.one(f"transactions/{safe(number, NUMBER)}/verify")

    async def _refund(self, said: Json) -> list[Record]:
        """A refund tells no currency: its charge does, and comes with it."""
        try:
            charge = await self._charge(fields.charge_of(said) or "")
        except Gone:
            return [records.read_refund(said)]
        return [records.read_refund(said, charge), *await self._sale(charge)]

    async def _sale(self, said: Json) -> list[Record]:
        """A transaction with its order or its subscription; of v4, with its customer, who alone has the e-mail."""
        if self._version == "v4":
            return [*await self._buyer(text(said.get("customer_id"))), *records.read_sale(said)]
        theirs = await self._theirs(fields.email_of(said))
        one, _ = charges.whose(said, theirs, self._plans)
        sale = records.read_sale(said, theirs, self._plans)
        return [*(await self._looked(one) if one and self._people is None else []), *sale]

    async def _buyer(self, number: str | None) -> list[Record]:
        with suppress(Gone):
            return [records.read_customer(await self._api.one(f"customers/{safe(number or '', ID)}"))]
        return []

    async def _looked(self, one: Json) -> list[Record]:
        """A subscription with the charges that tell how it stands: until the last paid one, or all where they count."""
        plan, number = await self._plan(one), fields.id_of(one, "id")
        theirs = await self._theirs(fields.email_of(one)) or [one]
        limit, every, begun = whole(plan.get("duration")) or 0, fields.interval_of(plan), fields.created(one)
        if begun is None or not (fields.is_on(one) or (limit and fields.is_over(one))):
            return [records.read_subscription(one, plan)]
        tries, counted, as_of = list[Json](), False, clock.now()
        back = as_of - (fields.later(as_of, every, None) - as_of) * 2 if every and not limit else begun
        days = {"from": str(max(back, begun - DAY).date()), "to": str((as_of + DAY).date())}
        seen = 0
        async for items in self._api.pages("transactions", customer_email=fields.email_of(one), **days):
            named = [await self._named(each, theirs) for each in items]
            tries += [each for each in named if charges.is_charge(each, number, theirs, self._plans)]
            seen, counted = seen + 1, bool(limit)
            if seen == PAGES or (not limit and any(map(fields.is_paid, tries))):
                counted = False
                break
        tries.sort(key=lambda each: fields.created(each) or begun, reverse=True)
        while fields.is_on(one) and any(
            map(fields.is_paid, tries)
        ):  # only this call tells the card, and the plan
            last = next(at for at, each in enumerate(tries) if fields.is_paid(each))
            tries[last] = await self._named(tries[last], theirs, always=True)
            if charges.is_charge(tries[last], number, theirs, self._plans):
                break
            del tries[last]
        record = records.read_subscription(one, plan, tries, counted)
        return [record, *(records.read_payment(each, record) for each in tries)]

    async def _found(self, ref: Ref) -> Json:
        """One subscription, in the lists of its e-mail where that is known, else in those of everybody."""
        safe(ref.id, NUMBER)
        email = getattr(ref.known, "email", None)
        theirs = [{"email": email}, {"email": email, "status": "cancelled"}] if email else []
        for asked in (*theirs, {}, {"status": "cancelled"}):
            async for items in self._api.pages("subscriptions", **asked):
                for one in items:
                    if text(one.get("id")) == ref.id:
                        return one
        raise Gone("Flutterwave does not know this.", "No list of subscriptions has this id. Is it a plan's?")

    async def _theirs(self, email: str | None) -> list[Json]:
        """One person's subscriptions, with their plans at hand."""
        if email is None:
            return []
        if self._people is not None:
            found = self._people.get(email, [])
        else:
            pages = [items async for items in self._api.pages("subscriptions", email=email)]
            found = [one for items in pages for one in items if fields.email_of(one) == email.lower()]
        for one in found:
            await self._plan(one)
        return found

    async def _plan(self, one: Json) -> Json:
        number = fields.plan_of(one)
        if number and number not in self._plans:
            plan: Json = {}
            with suppress(Gone):
                plan = await self._api.one(f"payment-plans/{number}")
            self._plans[number] = plan
        return self._plans.get(number or "", {})

    def verify(
        self, headers: list[tuple[str, str]], body: bytes, now: datetime, certificate: bytes | None = None
    ) -> list[Event]:
        """Notices of v3 have no id and no time of their own; of v4 they have both."""
        secret = wire.secret_of(self.credentials, "secret_hash", "secret hash")
        if not is_proved(secret, headers, body, self._version == "v4"):
            raise base.BadSignature("It does not come with this account's secret hash.")
        try:
            return records.read_events(wire.proved_json(body), now.isoformat())
        except ValueError as error:
            raise base.BadSignature(str(error)) from error

    async def refetch(self, event: Event) -> Snapshot | None:
        """Whether the id of a cancelled subscription is told is not documented; its e-mail finds it too."""
        email, subject = text(event.body.get("email")), event.subject
        if subject is None or subject.kind != "subscription" or email is None:
            return await super().refetch(event)
        try:
            return await self.fetch(subject)
        except Gone:
            return await self.fetch(Ref("customer", email))

    async def cancel_now(self, ref: Ref, key: str) -> Snapshot:
        """Ends at once and for good, as far as Flutterwave goes. A second cancel is no failure."""
        return (await self._switched(ref, "cancel", fields.is_over))[0]

    async def undo_cancel(self, ref: Ref, key: str) -> Snapshot:
        """When it charges next is not documented: a charge at once is told to the merchant."""
        snapshot, changed = await self._switched(ref, "activate", fields.is_on)
        charged = [one.paid_at for one in snapshot.payments if one.paid_at]
        if changed and charged and max(charged) > snapshot.as_of - SETTLED:
            return replace(snapshot, tell=f"{ref.id} was charged when its cancellation was taken back.")
        return snapshot

    async def _switched(self, ref: Ref, what: str, done: Callable[[Json], bool]) -> tuple[Snapshot, bool]:
        """Cancel or activate unless it is so; the list says afterwards how it stands, whatever was answered."""
        one, refused = await self._found(ref), None
        changes = not done(one)
        if changes:
            try:
                await self._api.call("PUT", f"subscriptions/{fields.id_of(one, 'id')}/{what}")
            except (Declined, Gone) as error:
                refused = Declined(REFUSED, error.hint)
        with _begun(changes):
            as_of, one = clock.now(), await self._found(ref)
            if done(one):
                return records.snapshot(as_of, await self._looked(one)), changes
        raise refused or Unavailable(TAKEN, f"After {what}, {ref.id} reads {one.get('status')}.", sent=True)

    async def start_method_update(self, ref: Ref, return_url: str, key: str) -> base.Leave:
        """A checkout of the same plan by the same e-mail, which charges at once. The link itself charges nobody, so
        one whose answer is lost is no harm; without a return address nobody is there to use it."""
        one = await self._found(ref)
        plan, email = await self._plan(one), fields.email_of(one)
        price, number = fields.price_of(one, plan), fields.plan_of(one)
        is_closed = plan.get("status") == "cancelled"
        if price is None or email is None or number is None or is_closed or not return_url:
            raise Unsupported("This can't be paid anew.", "Its plan is closed, or its currency unknown.")
        before = [fields.id_of(each, "id") for each in await self._theirs(email)]
        reference = f"{key}-{wire.digest(return_url)[:12]}"
        asked = {"amount": fields.written(price), "currency": price.currency, "payment_plan": int(number)}
        wish = {**asked, "tx_ref": reference, "redirect_url": return_url, "customer": {"email": email}}
        wish |= {"payment_options": "card", "session_duration": 30}
        wish |= {"meta": {"portal_action": "update_payment_method", "subscription": ref.id}}
        try:
            link = text(part(await self._api.call("POST", "payments", json=wish), "data").get("link"))
        except Unavailable as error:
            raise Unavailable(error.customer, error.hint, error.retry_after) from error
        if link is None:
            raise Unavailable(fields.BUSY, "The checkout has no link.")
        told = {"tx_ref": reference, "amount": str(price.minor), "currency": price.currency}
        return base.Leave(link, told | {"email": email, "plan": number, "before": " ".join(before)})

    async def finish_method_update(
        self, ref: Ref, state: Mapping[str, str], query: Mapping[str, str]
    ) -> Snapshot:
        """The payment as Flutterwave tells it, then the subscription that it made, then the end of the old one. Every
        step finds out by itself whether it is done, so all of it may be repeated."""
        as_of, paid = clock.now(), await self._checkout(state, query)
        if paid is None or (paid.get("status") == "failed" and not query):
            return await self.fetch(ref)  # perhaps they are still there, trying another card
        if paid.get("status") == "failed":
            why = text(paid.get("processor_response")) or "failed"
            raise Declined("The payment did not go through. The old payment method stays.", why, why)
        is_young = (fields.created(paid) or as_of) > as_of - SETTLED
        if not fields.is_paid(paid):
            wait = 15.0 if is_young else 900.0
            raise Unavailable("The payment is still being processed.", "It is pending.", wait)
        wrong, new = records.differs(paid, state, self._api.live), await self._made(paid, state)
        what = f"Transaction {fields.id_of(paid, 'id')} was paid to replace subscription {ref.id}"
        if wrong or (new is None and not is_young):
            why = f"but {wrong} is another than asked for" if wrong else "and made no new one"
            ask = f"{what}, {why}. Give it back, or see that there is one subscription and not two."
            return records.snapshot(as_of, await self._sale(paid), ask=ask)
        if new is None:
            raise Unavailable(
                "The payment is in; the subscription is on its way.", f"{what}: none yet.", 20.0
            )
        try:
            old = await self.cancel_now(ref, "")
        except Declined:
            ask = f"{what} and made {new.get('id')}, but Flutterwave refuses to cancel {ref.id}: cancel it there."
            return replace(await self.fetch(ref), ask=ask)
        except Gone:
            old = Snapshot(as_of=as_of)
        taken = records.read_payment(paid, records.read_subscription(new, await self._plan(new)))
        return records.snapshot(as_of, [*old.payments, *await self._looked(new), taken, *old.subscriptions])

    async def _checkout(self, state: Mapping[str, str], query: Mapping[str, str]) -> Json | None:
        """The transaction of our reference; the id that came along on the return is only where to look first."""
        reference, number = state.get("tx_ref", ""), query.get("transaction_id", "")
        with suppress(Gone):
            if number.isdigit() and (one := await self._charge(number)).get("tx_ref") == reference:
                return one
        with suppress(Gone):
            return await self._api.one("transactions/verify_by_reference", tx_ref=reference)
        return None

    async def _made(self, paid: Json, state: Mapping[str, str]) -> Json | None:
        """The newest live subscription to the plan that was not there when the checkout began."""
        before, plan = state.get("before", "").split(), state.get("plan")
        theirs = await self._theirs(fields.email_of(paid))
        live = [one for one in theirs if fields.is_on(one) and fields.plan_of(one) == plan]
        new = [one for one in live if text(one.get("id")) not in before]
        return max(new, key=lambda one: whole(one.get("id")) or 0, default=None)

    @classmethod
    def read(cls, kind: base.Kind | Literal["event"], said: Any) -> Record | list[Event]:
        """An order is read from the transaction that it is here."""
        if kind == "invoice":
            raise Unsupported("", "Flutterwave has no invoices of its own.")
        one = said.get("data") if isinstance(said, dict) and kind != "event" else None
        try:
            return records.READERS[kind](wire.obj(one if isinstance(one, dict) else said))
        except Unavailable as error:
            raise ValueError(f"This is no {kind} of Flutterwave: {error.hint}") from None


@contextmanager
def _begun(sent: bool) -> Iterator[None]:
    """After a call that may have had its effect, a failure to look does not mean that nothing was changed."""
    try:
        yield
    except Unavailable as error:
        raise Unavailable(error.customer, error.hint, error.retry_after, sent=sent) from error
