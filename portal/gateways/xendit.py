"""Xendit (South-East Asia): subscription plans made of cycles, payment sessions, v3 payments, and the invoices of old.

Amounts are JSON numbers in major units, times are UTC. Plans come in two generations (payment tokens; before that,
payment methods), told apart by their shape. Nothing lists plans: webhooks name them, or the merchant's own list does.
A payment's id here is Xendit's product id: py-…, or that of the older product that took it, such as an invoice.
Sources: https://docs.xendit.co/apidocs and the pages named in the facts.
"""

import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

from portal import clock
from portal.gateways import base, wire
from portal.gateways._xendit import shapes
from portal.gateways._xendit.reader import FOLLOWING, PEOPLE, PLAN, V3, KeyRefused, NotPermitted, Reader
from portal.gateways._xendit.shapes import NEW, Look
from portal.gateways.base import Declined, GatewayError, Gone, Ref, Snapshot, Unavailable, Unsupported
from portal.gateways.http import Http
from portal.gateways.wire import Json, part, text, whole

FORCED_ATTEMPTS = 5  # of one cycle
SKIP, CONTINUED = "portal_skip", "portal_continued_as"  # our marks in metadata
PROBES = {  # what each question proves that the key may read: made-up ids are answered 404 where it may
    "Transaction": "/transactions?limit=1",
    "Subscriptions": "/recurring/plans/repl_00000000-0000-0000-0000-000000000000",
    "Sessions": "/sessions/ps-000000000000000000000000",
    "Customers": "/customers?reference_id=portal-check",
    "Invoices": "/v2/invoices?limit=1",
    "Refunds": "/refunds?limit=1",
}


class Adapter(base.Gateway):
    """One Xendit account. Credentials: secret_key, webhook_token, and for_user_id for a platform's sub-account."""

    def __init__(self, credentials: Mapping[str, str], **more: Any) -> None:
        super().__init__(credentials, **more)
        self._http = Http(self, "xendit")
        self._key = self.credentials.get("secret_key", "").strip()
        self._reader = Reader(self._http, self._key, self.credentials.get("for_user_id", "").strip())

    async def aclose(self) -> None:
        await self._http.aclose()

    async def check(self) -> base.Health:
        """One question for each product; only reading can be proved without changing anything."""
        live, account, missing = self._key.startswith("xnd_production_"), None, []
        for product, path in PROBES.items():
            try:
                rows = await self._reader.rows(path, PEOPLE if product == "Customers" else NEW)
                account = account or next((text(row.get("business_id")) for row in rows), None)
            except KeyRefused as refused:
                return base.Health(ok=False, live=live, hint=refused.hint)
            except NotPermitted:
                missing.append(product)
            except Gone:
                continue
        hint = f"Give the key these permissions: {', '.join(missing)}. Subscriptions and Sessions need write."
        return base.Health(not missing, live, account, tuple(missing), hint if missing else None)

    async def backfill(self, cursor: str | None = None) -> AsyncIterator[base.Page]:
        """Invoices, refunds, payments; refunds before payments, so that none is called paid that was given back."""
        walk: dict[str, Any] = {"list": "invoices", "after": None, "refunded": {}}
        walk |= json.loads(cursor) if cursor else {}
        while walk["list"]:
            as_of = clock.now()
            snapshot = shapes.snapshot(as_of, await self._reader.listed(walk))
            yield base.Page(snapshot, json.dumps(walk) if walk["list"] else None)

    def lists(self) -> list[str]:
        return [json.dumps({"list": name, "after": None}) for name in FOLLOWING]

    async def fetch(self, ref: Ref) -> Snapshot:
        """A plan (repl_…), payment, refund (rfd-…), customer (cust-…); an order is a session (ps-…) or an invoice."""
        as_of = clock.now()
        if ref.kind == "subscription":
            return await self._reader.told(ref, await self._reader.look(ref))
        return shapes.snapshot(as_of, await self._reader.records(ref))

    def verify(
        self, headers: list[tuple[str, str]], body: bytes, now: datetime, certificate: bytes | None = None
    ) -> list[base.Event]:
        """The token proves who sent it and nothing of the body, so all that is taken from it is where to look."""
        expected = wire.secret_of(self.credentials, "webhook_token", "verification token").decode()
        if not wire.same(wire.one_header(headers, "x-callback-token"), expected):
            raise base.BadSignature("The x-callback-token is not the verification token given here.")
        try:
            return shapes.events(wire.proved_json(body))
        except ValueError as error:
            raise base.BadSignature(str(error)) from error

    async def refetch(self, event: base.Event) -> Snapshot | None:
        """A session may be one of ours, that saved a payment method while its customer never came back."""
        ref = event.subject
        if ref and ref.kind == "subscription":
            return await self._reader.told(ref, await self._reader.look(ref), event.body.get("cycle"))
        if ref and ref.id.startswith("ps-"):
            said = await self._reader.session(ref.id)
            plan = text(said.get("recurring_plan_id") or part(said, "metadata").get("plan")) or ""
            if re.fullmatch(PLAN, plan):
                return await self._adopted(Ref("subscription", plan), ref.id, late=True)
            ref = ref if said.get("session_type") == "PAY" else None
        return await self.fetch(ref) if ref else None

    async def cancel_now(self, ref: Ref, key: str) -> Snapshot:
        """Final. No idempotency key: a second one is refused, and then the plan shows that it has ended."""
        look = await self._reader.look(ref)
        if look.ended:
            return await self._reader.told(ref, look)
        path = f"/recurring/plans/{ref.id}/deactivate"
        look, after = await self._change(ref, look, lambda now: now.ended, "POST", path)
        if not shapes.among(look.cycles, "RETRYING", "PENDING"):
            return after
        return replace(
            after, tell="Xendit may still take a payment of this ended plan; refund it if it does."
        )

    async def undo_cancel(self, ref: Ref, key: str) -> Snapshot:
        """No plan comes back: a new one like it begins when the paid time ends. Reference and idempotency key are made
        of the ended plan's id, and a mark in its metadata names the new one, so that there is never a second."""
        look = await self._reader.look(ref)
        if not look.ended:
            return await self._reader.told(ref, look)
        marks = part(look.plan, "metadata")
        new = text(marks.get(CONTINUED))
        if new is None:
            body = await self._like(ref, look)
            made = await self._reader.ask("POST", "/recurring/plans", NEW, body=body, key=f"again-{ref.id}")
            new = text(wire.obj(made).get("id")) or ""
            with suppress(
                GatewayError
            ):  # whether an ended plan takes it is not documented; the key still holds
                marked = {"metadata": {**marks, CONTINUED: new}}
                await self._reader.ask("PATCH", f"/recurring/plans/{ref.id}", look.version, body=marked)
        (_, one), (_, other) = await self._after(ref), await self._after(Ref("subscription", new))
        both = one.subscriptions + other.subscriptions
        return replace(one, subscriptions=both, payments=one.payments + other.payments)

    async def _like(self, ref: Ref, look: Look) -> dict[str, Any]:
        until = getattr(ref.known, "current_period_end", None)
        if until is None or until <= clock.now():
            hint = "Until when it is paid is not known here."
            raise Unsupported("The paid time is over; please order again.", hint)
        token = shapes.token(look.plan) if look.version == NEW else None
        said = await self._reader.get(f"/v3/payment_tokens/{wire.safe(token)}", V3) if token else {}
        if said.get("status") != "ACTIVE":
            hint = "There is no active payment token."
            raise Unsupported("The payment method is no longer valid; please order again.", hint)
        return shapes.like(ref.id, look.plan, look.cycles, until)

    async def skip_next_payment(self, ref: Ref, key: str) -> Snapshot:
        """Cancels one cycle. It is marked with the key before, so that another try never cancels the one after it."""
        look = await self._reader.look(ref)
        mine = [one for one in look.cycles if part(one, "metadata").get(SKIP) == key[:80]]
        if shapes.among(mine, "CANCELLED"):
            return await self._reader.told(ref, look)
        coming = shapes.among(mine, "SCHEDULED") or shapes.among(look.cycles, "SCHEDULED")
        if not coming or not look.live:
            raise Unsupported("There is no next payment that could be skipped.")
        path = _path(ref, coming[0])
        marks = {**part(coming[0], "metadata"), SKIP: key[:80]}
        await self._reader.ask("PATCH", path, look.version, body={"metadata": marks})

        def skipped(now: Look) -> bool:
            return any(_path(ref, one) == path for one in shapes.among(now.cycles, "CANCELLED"))

        return (await self._change(ref, look, skipped, "POST", f"{path}/cancel"))[1]

    async def change_plan(
        self, ref: Ref, change: Mapping[str, Any], return_url: str, key: str
    ) -> Snapshot | base.Leave:
        """Another amount, interval or quantity from the next payment on, which is repriced by a call of its own."""
        look = await self._reader.look(ref)
        if not look.live:
            raise Unsupported("This can only be changed while it is active.")
        wish = shapes.wish(look.plan, change)

        def done(now: Look) -> bool:
            return not shapes.unlike(now.plan, wish)

        if not done(look):
            look, _ = await self._change(ref, look, done, "PATCH", f"/recurring/plans/{ref.id}", wish)
        price = {"amount": wish.get("amount"), "currency": look.plan.get("currency")}
        for cycle in shapes.among(look.cycles, "SCHEDULED")[:1] if "amount" in wish else []:
            if shapes.unlike(cycle, price):
                await self._change(ref, look, lambda now: False, "PATCH", _path(ref, cycle), price)
        look, after = await self._after(ref)
        if missed := shapes.unlike(look.plan, wish):
            hint = f"Accepted, but not applied so far: {', '.join(missed)}."
            raise Unavailable("Xendit took the change, but does not show all of it yet.", hint, sent=True)
        return after

    async def pay_now(self, ref: Ref, return_url: str, key: str) -> Snapshot | base.Leave:
        """The page of the failed payment where there is one, else a forced attempt while Xendit is still retrying."""
        look = await self._reader.look(ref)
        amount, link = shapes.due(look.plan, look.cycles)
        if link:
            return base.Leave(link, returns=False)
        failed = shapes.among(look.cycles, "RETRYING")[-1:]
        if amount is None or not failed:
            return await self._reader.told(ref, look)
        if (whole(failed[0].get("forced_attempt_count")) or 0) >= FORCED_ATTEMPTS:
            raise Unsupported(
                "This was tried too often; it is tried again by itself.", "Five for each cycle."
            )
        path = _path(ref, failed[0])
        await self._reader.ask("POST", f"{path}/force_attempt", look.version, key=key)
        look, after = await self._after(ref)
        now = next((one for one in look.cycles if _path(ref, one) == path), {})
        last = shapes.objects(now.get("attempt_details"))[-1:]
        if now.get("status") in ("RETRYING", "FAILED") and last and last[0].get("status") == "FAILED":
            why = text(last[0].get("failure_code")) or ""
            raise Declined("The payment did not go through. Please use another payment method.", why, why)
        return after

    async def start_method_update(self, ref: Ref, return_url: str, key: str) -> base.Leave:
        """A session that saves another method for the same customer; a second one does no harm, so no key is sent."""
        body = shapes.saving(ref.id, await self._reader.look(ref), return_url, key)
        said = wire.obj(await self._reader.ask("POST", "/sessions", None, body=body))
        link, session = text(said.get("payment_link_url")), text(said.get("payment_session_id"))
        if not link or not session:
            hint = "The session that was made has no page."
            raise Unavailable("The payment company does not answer at the moment.", hint)
        return base.Leave(link, {"session": session})

    async def finish_method_update(
        self, ref: Ref, state: Mapping[str, str], query: Mapping[str, str]
    ) -> Snapshot:
        """The session says whether a method was saved; only then is it made the plan's."""
        return await self._adopted(ref, state["session"]) if state.get("session") else await self.fetch(ref)

    async def _adopted(self, ref: Ref, session: str, late: bool = False) -> Snapshot:
        """Make the method that a session saved the plan's only one; `late`: unless the plan has changed since."""
        said, look = await self._reader.session(session), await self._reader.look(ref)
        token, plan = text(said.get("payment_token_id")), look.plan
        saved, changed = wire.moment(said.get("updated")), wire.moment(plan.get("updated"))
        new = said.get("session_type") == "SAVE" and said.get("status") == "COMPLETED" and token
        if not new or new == shapes.token(plan) or (late and saved and changed and changed > saved):
            return await self._reader.told(ref, look)
        if said.get("customer_id") != plan.get("customer_id") or not look.live:
            hint = "The session is another customer's, or the plan is not active."
            raise Unsupported("This payment method can't be used here.", hint)
        body = {"payment_tokens": [{"payment_token_id": new, "rank": 1}]}
        path = f"/recurring/plans/{ref.id}"
        _, after = await self._change(
            ref, look, lambda now: shapes.token(now.plan) == new, "PATCH", path, body
        )
        return after

    async def _change(
        self, ref: Ref, look: Look, done: Callable[[Look], bool], method: str, path: str, body: Any = None
    ) -> tuple[Look, Snapshot]:
        """Call, then look: what Xendit says afterwards counts, after a refusal too."""
        try:
            await self._reader.ask(method, path, look.version, body=body)
        except Declined:
            after, told = await self._after(ref)
            if not done(after):
                raise
            return after, told
        return await self._after(ref)

    async def _after(self, ref: Ref) -> tuple[Look, Snapshot]:
        """How it stands after a call, which a failure to look does not undo."""
        try:
            look = await self._reader.look(ref)
            return look, await self._reader.told(ref, look)
        except (Unavailable, Gone) as error:  # a new plan may take a moment to be known
            retry_after = getattr(error, "retry_after", None)
            raise Unavailable(error.customer, error.hint, retry_after, sent=True) from error

    @classmethod
    def read(cls, kind: base.Kind | Literal["event"], said: Any) -> base.Record | list[base.Event]:
        """`payment`: a v3 payment, one of v2 or a transaction; `order`: a session or an invoice."""
        return shapes.read(kind, said)


def _path(ref: Ref, cycle: Json) -> str:
    return f"/recurring/plans/{ref.id}/cycles/{wire.safe(text(cycle.get('id')) or '')}"
