"""Stripe, API version 2026-10-28.endive, through the official SDK.

The wire, what is read, deliveries and words have files of their own in `_stripe`; here is what the portal asks for.
Sources: https://docs.stripe.com/api and https://github.com/stripe/openapi
"""

import json
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from portal import clock
from portal.gateways._stripe import events, keys, objects, shapes, webhooks
from portal.gateways._stripe.reader import STEPS, Reader
from portal.gateways._stripe.shapes import as_dict, id_of
from portal.gateways._stripe.wire import Json, Refusal, Wire, half_way
from portal.gateways.base import (
    Declined,
    Document,
    Event,
    Gateway,
    Gone,
    Health,
    Kind,
    Leave,
    Page,
    Record,
    Ref,
    Registration,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)


class Adapter(Gateway):
    """One Stripe account: secret_key, webhook_secret; perhaps webhook_secret_old and portal_configuration."""

    looks_at_subject_alone = True

    def __init__(self, credentials: Mapping[str, str], **more: Any) -> None:
        super().__init__(credentials, **more)
        key = self.credentials.get("secret_key", "").strip()
        self._restricted = key.startswith("rk_")
        self._live = "_live_" in key if key else None
        self._wire = Wire(self, key)
        self._reader = Reader(self._wire)

    async def aclose(self) -> None:
        await self._wire.aclose()

    async def check(self) -> Health:
        """Ask for one of everything that is read; for a restricted key also try writes that can have no effect."""
        if self._live is None:
            return Health(ok=False, live=None, hint="There is no secret key.")
        return await keys.check(self._wire, self._live, self._restricted)

    def backfill(self, cursor: str | None = None) -> AsyncIterator[Page]:
        """Subscriptions, Checkout orders, invoices, charges, customers; the cursor is the list and its last id."""
        return self._reader.backfill(cursor)

    def lists(self) -> list[str]:
        return [json.dumps({"step": step, "after": None}) for step in STEPS]

    def list_of(self, cursor: str) -> Any:
        return json.loads(cursor)["step"]

    async def kept_events(self, since: datetime) -> AsyncIterator[list[Event]]:
        """Newest first, of the kinds that the endpoint is registered for. A restricted key may be without the right."""
        after: str | None = None
        while True:
            begins = {"gte": int(since.timestamp())}
            try:
                page = await self._wire.read("/v1/events", limit=100, created=begins, starting_after=after)
            except Unavailable as error:
                if isinstance(error.__cause__, Refusal) and error.__cause__.status == 403:
                    raise Unsupported("", error.hint) from error
                raise
            rows = shapes.rows_of(page)
            kept = [one for row in rows if row.get("type") in webhooks.EVENTS for one in events.told(row)]
            yield kept
            if not rows or not page.get("has_more"):
                return
            after = rows[-1]["id"]

    async def find(self, email: str) -> list[Ref]:
        """Customers and Checkout orders of an address, as typed and in lower case: Stripe minds the difference."""
        return await self._reader.find(email)

    async def fetch(self, ref: Ref) -> Snapshot:
        """What Stripe says now of an object and of what hangs on it; raises Gone."""
        return await self._reader.fetch(ref)

    def verify(
        self,
        headers: list[tuple[str, str]],
        body: bytes,
        now: datetime,
        certificate: bytes | None = None,
    ) -> list[Event]:
        """The event of a delivery; none for the thin events of API v2 and for those of connected accounts."""
        names = ("webhook_secret", "webhook_secret_old")
        events.prove([self.credentials.get(name, "").strip() for name in names], headers, body, now)
        return events.read(body, self._live)

    async def refetch(self, event: Event) -> Snapshot | None:
        """Stripe's own word. Of what it has deleted since, the proved event is all there is to know."""
        if event.subject is None:
            return None
        try:
            return await self.fetch(event.subject)
        except Gone:
            record = events.last_word(event)
            if record is None:
                raise
            return shapes.snapshot(clock.now(), [record])

    async def register_webhook(self, url: str, key: str) -> Registration:
        """An endpoint of our version; replaced where the secret that we have is not shown to be its own."""
        return await webhooks.register(
            self._wire, url, key, self.credentials.get("webhook_secret", "").strip()
        )

    async def unregister_webhook(self, remote_id: str) -> None:
        await webhooks.unregister(self._wire, remote_id)

    async def cancel_now(self, ref: Ref, key: str) -> Snapshot:
        """Final. Deleting what is cancelled already gives 404, as a wrong account does: a fresh look decides."""
        one = await self._bare(ref)
        if shapes.ended(one):
            return await self.fetch(ref)
        write = self._wire.write("delete", f"/v1/subscriptions/{shapes.safe(ref.id)}", key)
        return await self._settled(ref, write, lambda now: now.status in ("cancelled", "expired"))

    async def cancel_at_period_end(self, ref: Ref, key: str) -> Snapshot:
        one = await self._bare(ref)
        if shapes.ended(one) or shapes.ends(one, clock.now()):
            return await self.fetch(ref)
        released = await self._release(one, key)
        write = self._update(ref, key, cancel_at_period_end="true")
        ended = ("cancels_at_period_end", "cancelled", "expired")
        with half_way(released):
            return await self._settled(ref, write, lambda now: now.status in ended)

    async def undo_cancel(self, ref: Ref, key: str) -> Snapshot:
        """One field per call: both in one are refused, and either may have been set by somebody else's portal."""
        one = await self._bare(ref)
        if shapes.ended(one):
            raise Unsupported("This has ended already, so the cancellation can't be taken back.")
        begun = await self._release(one, key)
        with half_way(begun):
            one = await self._bare(ref) if begun else one
            if one.get("cancel_at_period_end"):
                one = await self._update(ref, key, cancel_at_period_end="false")
                begun = True
        with half_way(begun):
            if one.get("cancel_at"):
                one = await self._update(ref, f"{key}-2", cancel_at="")
        with half_way(True):
            if one.get("cancel_at_period_end"):
                await self._update(ref, f"{key}-3", cancel_at_period_end="false")
            return await self._read_back(ref)

    async def pause(self, ref: Ref, key: str) -> Snapshot:
        """Pause collection and void what falls into it: nothing is owed for that time."""
        one = await self._bare(ref)
        shapes.refuse_under_schedule(one)
        if one.get("pause_collection") or one.get("status") == "paused":
            return await self.fetch(ref)
        if one.get("status") not in ("active", "trialing"):
            raise Unsupported("This can only be paused while its payments are up to date.")
        write = self._update(ref, key, pause_collection={"behavior": "void"})
        return await self._settled(ref, write, lambda now: now.status == "paused")

    async def resume(self, ref: Ref, key: str) -> Snapshot:
        one = await self._bare(ref)
        shapes.refuse_under_schedule(one)
        if shapes.ended(one):
            raise Unsupported("This has ended already, so it can't go on.")
        if one.get("status") == "paused" and one.get("collection_method") != "charge_automatically":
            raise Unsupported("This is paid by invoice, so only the shop can let it go on.")
        begun = bool(one.get("pause_collection"))
        if begun:
            one = await self._update(ref, key, pause_collection="")
        with half_way(begun):
            if one.get("status") == "paused":
                path = f"/v1/subscriptions/{shapes.safe(ref.id)}/resume"
                await self._wire.write("post", path, f"{key}-2", billing_cycle_anchor={"type": "unchanged"})
            return await self._read_back(ref)

    async def change_plan(
        self, ref: Ref, change: Mapping[str, Any], return_url: str, key: str
    ) -> Snapshot | Leave:
        """Another price (`plan`) or `quantity`; what must be paid first waits in `pending_update` until it is.

        Amount and interval are those of the price: they tell what was chosen, and change nothing by themselves.
        """
        if not change.get("plan") and change.get("quantity") is None:
            raise Unsupported("Only the plan and the quantity can be changed here.")
        one = await self._bare(ref)
        items = shapes.items_of(one)
        if len(items) != 1:
            raise Unsupported("This has several parts, so the shop has to change it.")
        if shapes.ended(one):
            raise Unsupported("This has ended already, so it can't be changed.")
        item = items[0]
        plan = change.get("plan") or shapes.price_of(item).get("id")
        quantity = change.get("quantity", item.get("quantity"))
        if (plan, quantity) == (shapes.price_of(item).get("id"), item.get("quantity")):
            return await self.fetch(ref)
        with half_way(await self._release(one, key)):
            # Without the item's id Stripe would add a second one: https://docs.stripe.com/api/subscriptions/update
            await self._update(
                ref,
                key,
                items=[{"id": item["id"], "price": plan, "quantity": quantity}],
                proration_behavior="create_prorations",
                payment_behavior="pending_if_incomplete",
            )
            return await self._read_back(ref)

    async def pay_now(self, ref: Ref, return_url: str, key: str) -> Snapshot | Leave:
        """To the hosted page of the open invoice; it asks for 3-D Secure too and sends nobody back."""
        invoice = await self._reader.open_invoice(await self._bare(ref))
        if invoice.get("hosted_invoice_url"):
            return Leave(invoice["hosted_invoice_url"], {"invoice": invoice["id"]}, returns=False)
        return await self.fetch(ref)

    async def start_method_update(self, ref: Ref, return_url: str, key: str) -> Leave:
        """Checkout in setup mode; with Managed Payments Stripe's own portal, the only one that may change it."""
        one = await self._bare(ref)
        if shapes.ended(one):
            raise Unsupported("This has ended, so its payment method can't be changed.")
        if shapes.managed(one):
            return await self._portal(one, return_url, key)
        noted = {"subscription_id": one["id"]}
        session = await self._wire.write(
            "post",
            "/v1/checkout/sessions",
            key,
            mode="setup",
            currency=one.get("currency") or shapes.price_of(shapes.items_of(one)[0]).get("currency"),
            success_url=shapes.with_query(return_url, "session_id={CHECKOUT_SESSION_ID}"),
            cancel_url=shapes.with_query(return_url, "cancelled=1"),
            metadata=noted,
            setup_intent_data={"metadata": noted},
            **shapes.owner_of(one),
        )
        return Leave(shapes.address_of(session), {"session": session["id"]})

    async def _portal(self, one: Json, return_url: str, key: str) -> Leave:
        """Single use and short lived. `after_expiration` stays unset: it would let a dead link live again by e-mail."""
        chosen = self.credentials.get("portal_configuration", "").strip()
        flow = {
            "type": "payment_method_update",
            "after_completion": {"type": "redirect", "redirect": {"return_url": return_url}},
        }
        try:
            session = await self._wire.write(
                "post",
                "/v1/billing_portal/sessions",
                key,
                return_url=shapes.with_query(return_url, "cancelled=1"),
                flow_data=flow,
                configuration=chosen or None,
                **shapes.owner_of(one),
            )
        except Declined as declined:
            raise Unsupported(
                "The payment method can't be changed online at the moment. Nothing was changed.",
                "Save the customer portal's settings in the Stripe Dashboard (Settings > Billing > Customer portal), "
                f"with updating payment methods allowed. Stripe says: {declined.hint}",
            ) from declined
        return Leave(shapes.address_of(session), {"portal": session["id"]})

    async def finish_method_update(
        self, ref: Ref, state: Mapping[str, str], query: Mapping[str, str]
    ) -> Snapshot:
        """Move the subscription to what was saved in the session of `state`. Safe to repeat; `query` is ignored."""
        session_id = state.get("session")
        method = await self._saved_method(ref, session_id) if session_id else {}
        one = await self._bare(ref, expand=["customer", "default_payment_method"])
        current = as_dict(one.get("default_payment_method"))
        times = [shapes.moment(each.get("created")) for each in (current, method)]
        newer = times[0] is not None and times[1] is not None and times[0] > times[1]  # of a later visit
        if not method or newer or shapes.ended(one) or shapes.managed(one):
            return await self.fetch(ref)
        return await self._adopt(ref, one, method["id"], f"portal-{session_id}")

    async def _saved_method(self, ref: Ref, session_id: str) -> Json:
        """The method that a setup session saved for this subscription; nothing where it was left or is under way."""
        expand = ["setup_intent.payment_method"]
        session = await self._wire.read(f"/v1/checkout/sessions/{shapes.safe(session_id)}", expand=expand)
        intent = as_dict(session.get("setup_intent"))
        method = as_dict(intent.get("payment_method"))
        saved = session.get("status") == "complete" and intent.get("status") == "succeeded"
        ours = shapes.subscription_of_session(session) == ref.id
        attached = method.get("customer") or method.get("customer_account")
        return method if saved and ours and attached else {}

    async def _adopt(self, ref: Ref, one: Json, method: str, key: str) -> Snapshot:
        """Subscription first; a customer without a default gets one; what is past due is paid with it."""
        begun = id_of(one.get("default_payment_method")) != method
        if begun:
            await self._update(ref, key, default_payment_method=method)
        owner = as_dict(one.get("customer"))
        with half_way(begun):
            if owner.get("id") and not as_dict(owner.get("invoice_settings")).get("default_payment_method"):
                settings = {"default_payment_method": method}
                path = f"/v1/customers/{owner['id']}"
                await self._wire.write("post", path, f"{key}-2", invoice_settings=settings)
            if one.get("status") in ("past_due", "unpaid"):
                await self._pay_open(one, method, f"{key}-3")
            return await self._read_back(ref)

    async def _pay_open(self, one: Json, method: str, key: str) -> None:
        """The new method pays what is open. Where it is declined it stays, and so does what is due."""
        invoice = await self._reader.open_invoice(one)
        if invoice:
            try:
                path = f"/v1/invoices/{invoice['id']}/pay"
                await self._wire.write("post", path, key, payment_method=method)
            except Declined:
                return

    async def invoice_document(self, ref: Ref) -> Document | None:
        """The PDF, by an address that is fresh at every call; None for a draft."""
        one = await self._wire.read(f"/v1/invoices/{shapes.safe(ref.id)}")
        if not one.get("invoice_pdf"):
            return None
        content = await self._wire.file(one["invoice_pdf"])
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(one.get("number") or one["id"]))
        return Document("application/pdf", f"{name}.pdf", content)

    @classmethod
    def read(cls, kind: Kind | Literal["event"], said: Any) -> Record | list[Event]:
        """A payment is read from a charge or a payment intent; an order from a Checkout session, or from the intent,
        the charge or the invoice that stands for it."""
        return events.told(said) if kind == "event" else objects.read(kind, said)

    async def _bare(self, ref: Ref, expand: Sequence[str] = ()) -> Json:
        return await self._wire.read(f"/v1/subscriptions/{shapes.safe(ref.id)}", expand=list(expand))

    def _update(self, ref: Ref, key: str, **params: Any) -> Coroutine[Any, Any, Json]:
        return self._wire.write("post", f"/v1/subscriptions/{shapes.safe(ref.id)}", key, **params)

    async def _release(self, one: Json, key: str) -> bool:
        """A schedule governs what a subscription may be told; let go, it leaves everything as it stands."""
        schedule = id_of(one.get("schedule"))
        if schedule:
            await self._wire.write("post", f"/v1/subscription_schedules/{schedule}/release", f"{key}-release")
        return bool(schedule)

    async def _settled(
        self, ref: Ref, write: Coroutine[Any, Any, Json], done: Callable[[SubscriptionRecord], bool]
    ) -> Snapshot:
        """Write, and read back. What Stripe refuses may have come true in another way: then it is done all the same."""
        try:
            await write
        except (Declined, Gone) as refused:
            after = await self.fetch(ref)
            record = after.subscription(ref.id)
            if record is None or not done(record):
                raise refused
            return after
        return await self._read_back(ref)

    async def _read_back(self, ref: Ref) -> Snapshot:
        try:
            return await self.fetch(ref)
        except (Unavailable, Gone) as error:
            raise Unavailable(
                "Stripe took it, but does not say yet how it stands now.", error.hint, sent=True
            ) from error
