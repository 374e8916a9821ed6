"""Midtrans (Indonesia): rupiah as text with two decimals, Jakarta's time without a zone, refusals under HTTP 200.

Subscriptions are active or inactive and nothing else, no call lists them, and what is cancelled looks like what is
disabled: our rows (`Ref.known`) tell the two apart. Calls, reading, proof and the report have files of their own in
`_midtrans`; here is what the portal asks for.
Sources: https://docs.midtrans.com/reference/subscriptions-api and the pages named in the facts.
"""

import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from portal import clock
from portal.gateways import base, wire
from portal.gateways._midtrans import proof, report, sales
from portal.gateways._midtrans.api import ID, NO_ANSWER, NOT_YET, Api, KeysRefused
from portal.gateways._midtrans.common import also, objects, rupiah, time_of
from portal.gateways._midtrans.subscriptions import (
    DAY,
    SLACK,
    Schedule,
    charges_of,
    is_over,
    later,
    snapshot,
    subscription,
)
from portal.gateways.base import Declined, Event, Gone, Leave, Page, Ref, Snapshot, Unavailable, Unsupported
from portal.gateways.wire import Json, part, text

FILES = "assets.midtrans.com"
TOKEN_COMES = timedelta(seconds=60)  # a saved card may be told a little after its payment
REVIVED = timedelta(minutes=10)
PERSON = ("first_name", "last_name", "email")


class Adapter(base.Gateway):
    """One merchant account: server_key, merchant_id; perhaps environment, signature_key_secret and bisnap_…"""

    def __init__(self, credentials: Mapping[str, str], **more: Any) -> None:
        super().__init__({name: value.strip() for name, value in credentials.items()}, **more)
        self._api = Api(self)
        self._report = report.Report(self.credentials, self._api.ask_report)

    async def aclose(self) -> None:
        await self._api.aclose()

    async def check(self) -> base.Health:
        """An order that nobody has: 404 proves the key. The keys of the report are proved by a token."""
        account, missing = self.credentials.get("merchant_id"), self._report.missing
        try:
            await self._api.ask("GET", "/v2/portal-key-check/status")
        except (KeysRefused, Declined) as refused:
            return base.Health(False, self._api.live, account, hint=refused.hint)
        except Gone:
            pass
        if missing:
            hint = f"Past payments can't be listed without the keys of BI-SNAP: {', '.join(missing)}."
            return base.Health(True, self._api.live, account, missing, hint)
        try:
            await self._report.token()
        except (KeysRefused, Declined) as refused:
            return base.Health(False, self._api.live, account, ("BI-SNAP",), f"BI-SNAP: {refused.hint}")
        return base.Health(True, self._api.live, account)

    async def backfill(self, cursor: str | None = None) -> AsyncIterator[Page]:
        """The report of payments, newest first; nothing without the keys of BI-SNAP. Nothing lists subscriptions."""
        begin = {"to": report.stamp(clock.now()), "page": 0}
        walk: dict[str, Any] | None = json.loads(cursor) if cursor else begin
        while walk and not self._report.missing:
            as_of, rows = clock.now(), await self._report.page(walk["to"], walk["page"])
            walk = {**walk, "page": walk["page"] + 1} if len(rows) >= report.ROWS else None
            parts = await wire.sifted("transactions", rows, partial(_reported, as_of), None)
            yield Page(wire.together(as_of, parts), json.dumps(walk) if walk else None)

    async def fetch(self, ref: Ref) -> Snapshot:
        """A subscription with its charges (all where our rows know nothing yet, else the newest), an order or payment
        with its refunds, or an invoice of the Invoicing API with its order and payment."""
        as_of = clock.now()
        if ref.kind == "subscription":
            said = await self._api.subscription(ref)
            ids = charges_of(said) if ref.known is None else charges_of(said)[-2:]
            return snapshot(as_of, said, ref.known, await self._api.transactions(ids))
        if ref.kind in ("order", "payment", "refund"):
            said = await self._api.transaction(ref.id.partition(":")[0])
            return sales.sale(as_of, said, ref.id if ref.kind == "order" else None)
        if ref.kind != "invoice":
            raise Unsupported("Midtrans can't be asked about this.", f"It keeps no {ref.kind}.")
        bill, order = await self._api.invoice(ref)
        paid_by = await self._api.transactions([order.remote_id])
        sold = [sales.sale(as_of, one, order.remote_id) for one in paid_by]
        named = {"object": "invoice", "invoice": ref.id, "order": order.remote_id, "email": bill.email}
        paid = tuple(also(one, **named) for sale in sold for one in sale.payments)
        bill = also(bill, payment=paid[0].remote_id) if paid else bill
        refunds = tuple(one for sale in sold for one in sale.refunds)
        return Snapshot(as_of=as_of, orders=(order,), payments=paid, refunds=refunds, invoices=(bill,))

    def verify(
        self, headers: list[tuple[str, str]], body: bytes, now: datetime, certificate: bytes | None = None
    ) -> list[Event]:
        """Payments and GoPay links are signed, over a few fields; a subscription's notices are not and only make us
        look. The dashboard's test button sends JSON within a text: of no interest."""
        return proof.events(self.credentials, body)

    async def refetch(self, event: Event) -> Snapshot | None:
        """What GET says. A card paid for on a page of ours is adopted here too while Midtrans still tries the old one:
        not everybody comes back. What is inactive may be cancelled, so that is left to the return."""
        if event.subject is None:
            return None
        as_of, ref = clock.now(), event.subject
        if ref.kind == "subscription":
            said = await self._api.subscription(ref)
            charged = [one for one in charges_of(said) if one == event.body.get("transaction")]
            return snapshot(as_of, said, ref.known, await self._api.transactions(charged))
        said = await self._api.transaction(ref.id)
        same, tell = text(said.get("gross_amount")) == event.body.get("amount"), ""
        if sales.of_ours(said) and sales.payment(said).status == "paid":
            paid_for = Ref("subscription", str(said["custom_field1"]))
            try:
                now = await self._api.subscription(paid_for)
                if now.get("status") == "active":
                    return await self._adopt_card(paid_for, now, said)
                tell = "Paid on Snap's page for what is inactive: see that it goes on, or pay it back."
            except (Declined, Gone) as error:
                tell = f"Paid on Snap's page, but the subscription can't be moved on. {error.hint}"
        return replace(sales.sale(as_of, said, event.body.get("order") if same else None), tell=tell)

    async def cancel_now(self, ref: Ref, key: str) -> Snapshot:
        """Stops retries too. Inactive is no proof of it, since disabled looks alike: then it is sent all the same."""
        before, tell = await self._api.subscription(ref), ""
        if is_over(ref.known, before):
            return snapshot(clock.now(), before, ref.known)
        try:
            await self._api.post(ref, "cancel")
        except Declined as declined:
            if before.get("status") != "inactive":
                raise
            tell = f"Midtrans won't cancel what is inactive; a retry may still run. {declined.hint}"
        after, now = await self._api.read_back(ref, "inactive"), clock.now()
        ended: dict[str, Any] = {"status": "cancelled", "ended_at": now, "due": None, "stopped": False}
        return replace(snapshot(now, after, ref.known, **ended), tell=tell)

    async def cancel_at_period_end(self, ref: Ref, key: str) -> Snapshot:
        """Disabled now, so that nothing is charged; a job of ours cancels when the paid time is over."""
        said = await self._disabled(ref)
        until = getattr(ref.known, "current_period_end", None) or Schedule.of(said).next
        return _shown(ref, said, status="cancels_at_period_end", cancels_at=until)

    async def undo_cancel(self, ref: Ref, key: str) -> Snapshot:
        return await self._enabled(ref)

    async def pause(self, ref: Ref, key: str) -> Snapshot:
        return _shown(ref, await self._disabled(ref), status="paused")

    async def resume(self, ref: Ref, key: str) -> Snapshot:
        return await self._enabled(ref)

    async def _disabled(self, ref: Ref) -> Json:
        said = await self._api.subscription(ref)
        if said.get("status") == "inactive":
            return said
        if Schedule.of(said).owed(clock.now()):
            hint = "Midtrans still runs pending retries after disable: cancel it now instead."
            raise Unsupported("A payment is open, so this can only be cancelled at once.", hint)
        await self._api.post(ref, "disable")
        return await self._api.read_back(ref, "inactive")

    async def _enabled(self, ref: Ref) -> Snapshot:
        """The next charge is put back to the paid day where it came nearer; what was taken at once is told."""
        before = await self._api.subscription(ref)
        was = Schedule.of(before)
        if is_over(ref.known, before):
            raise Unsupported("This has ended, so it can't go on.", "Enable after cancel is not documented.")
        until = getattr(ref.known, "current_period_end", None) or was.next
        if before.get("status") != "active":
            await self._api.post(ref, "enable")
        after, tell = await self._api.read_back(ref, "active"), ""
        if Schedule.of(after).done > was.done:
            tell = "Midtrans charged the customer at once when the subscription was enabled."
        elif _too_soon(after, until):
            after = await self._api.patch(ref, after, next_at=until)
            if _too_soon(after, until):
                tell = "Midtrans charges before the paid time is over: move the date."
        return replace(snapshot(clock.now(), after, ref.known), tell=tell)

    async def change_plan(
        self, ref: Ref, change: Mapping[str, Any], return_url: str, key: str
    ) -> Snapshot | Leave:
        """Another amount (Money, whole rupiah) or number of the same unit, from the next charge on."""
        said = await self._api.subscription(ref)
        schedule, price = Schedule.of(said), rupiah(said)
        every = schedule.every
        wish, interval = change.get("amount", price), change.get("interval", every)
        same_unit = interval is not None and every is not None and interval.unit == every.unit
        if not same_unit or set(change) - {"amount", "interval"}:
            raise Unsupported("Only the amount and the number of intervals can be changed here.")
        if wish is None or wish.currency != "IDR" or wish.minor % 100 or wish.minor <= 0:
            raise Unsupported("This price can't be charged by Midtrans.", "It takes whole rupiah only.")
        if said.get("status") != "active" or schedule.owed(clock.now()):
            raise Unsupported("This can only be changed while its payments are up to date.")
        if (wish, interval) != (price, every):
            said = await self._api.patch(ref, said, amount=wish, count=interval.count)
            if rupiah(said) != wish:
                raise Unavailable(NOT_YET, "The amount is not the one that was sent.", sent=True)
        return snapshot(clock.now(), said, ref.known)

    async def pay_now(self, ref: Ref, return_url: str, key: str) -> Snapshot | Leave:
        """To the payment link of an invoice, or of an order whose link our rows hold; it sends nobody back."""
        link = getattr(ref.known, "due_link", None) if ref.kind == "order" else None
        if ref.kind == "invoice":
            told = await self.fetch(ref)
            link = told.orders[0].due_link
            if link is None:
                return told
        if not link:
            raise Unsupported("There is nothing here that could be paid.", "Midtrans names no page for this.")
        return Leave(link, returns=False)

    async def start_method_update(self, ref: Ref, return_url: str, key: str) -> Leave:
        """Snap saves a card only with a payment, so what is open is paid on its page; GoPay is linked anew."""
        said = await self._api.subscription(ref)
        person, price, order = part(said, "customer_details"), rupiah(said), sales.OURS + wire.digest(key)
        if said.get("payment_type") == "gopay":
            return await self._link_gopay(text(person.get("phone")) or "", return_url)
        if price is None or not Schedule.of(said).owed(clock.now()):
            raise Unsupported("There is nothing to pay now, and Midtrans saves a card only with a payment.")
        body = {
            "transaction_details": {"order_id": order, "gross_amount": price.minor // 100},
            "credit_card": {"secure": True, "save_card": True},
            "enabled_payments": ["credit_card"],
            "user_id": wire.digest(f"portal:{ref.id}"),
            "customer_details": {name: person[name] for name in PERSON if text(person.get(name))},
            "callbacks": {"finish": return_url},
            "page_expiry": {"duration": 30, "unit": "minutes"},
            "custom_field1": ref.id,
        }
        once = {"Idempotency-Key": order}
        page = await self._api.ask("POST", "/snap/v1/transactions", body, self._api.snap, once)
        if not isinstance(url := page.get("redirect_url"), str):
            raise Unavailable(NO_ANSWER, "Snap named no page.")
        return Leave(url, {"order": order})

    async def _link_gopay(self, phone: str, return_url: str) -> Leave:
        number = re.sub(r"^(62|0)", "", re.sub(r"[^0-9]", "", phone))
        if not re.fullmatch(r"8[0-9]{7,11}", number):
            hint = "The subscription's customer_details hold no Indonesian mobile number."
            raise Unsupported("Midtrans does not know your GoPay number.", hint)
        partner = {"phone_number": number, "country_code": "62", "redirect_url": return_url}
        body = {"payment_type": "gopay", "gopay_partner": partner}
        said = await self._api.ask("POST", "/v2/pay/account", body)
        links = {one.get("name"): text(one.get("url")) for one in objects(said.get("actions"))}
        url, account = links.get("activation-link-url"), text(said.get("account_id"))
        if not url or not account:
            code = text(said.get("channel_response_code")) or ""
            hint = f"{code} {text(said.get('channel_response_message')) or ''}".strip()
            raise Declined("GoPay did not accept this.", hint, code)
        return Leave(re.sub(r"^http://(?=api\.)", "https://", url), {"account": account})

    async def finish_method_update(
        self, ref: Ref, state: Mapping[str, str], query: Mapping[str, str]
    ) -> Snapshot:
        """Read back from GET: on Snap the payment and its saved card, on GoPay the link. Safe to repeat."""
        if state.get("account"):
            return await self._adopt_gopay(ref, state["account"])
        found = await self._api.transactions([state.get("order", "")])
        if not found or found[0].get("custom_field1") != ref.id or sales.payment(found[0]).status != "paid":
            return await self.fetch(ref)
        return await self._adopt_card(ref, await self._api.subscription(ref), found[0])

    async def _adopt_card(self, ref: Ref, said: Json, paid: Json) -> Snapshot:
        """The saved card from now on, and the next charge behind what was just paid; a payment older than what is open
        moves nothing."""
        now, at = clock.now(), time_of(paid.get("transaction_time"))
        schedule, token, tell = Schedule.of(said), text(paid.get("saved_token_id")), ""
        owed = schedule.owed(now)
        if is_over(ref.known, said):
            tell = "Paid on Snap's page after the subscription had ended: pay it back."
        elif owed and at and at >= owed and (token or now - at > TOKEN_COMES):
            following = later(owed, schedule.every)
            while following and following <= now:
                following = later(following, schedule.every)
            said = await self._api.patch(ref, said, token=token, next_at=following)
            tell = "" if token else "Snap saved no card with the payment: has Midtrans enabled recurring?"
        elif not owed and token and token != said.get("token") and at and now - at < DAY:
            said = await self._api.patch(ref, said, token=token)
            tell = "A retry went through while the customer paid on Snap's page: refund one of the two."
        return replace(snapshot(clock.now(), said, ref.known, [paid]), tell=tell)

    async def _adopt_gopay(self, ref: Ref, account: str) -> Snapshot:
        """Where Midtrans had given up, it charges again in ten minutes; else no date moves."""
        said = await self._api.subscription(ref)
        linked = await self._api.ask("GET", f"/v2/pay/account/{wire.safe(account, ID)}")
        options = objects(part(linked, "metadata").get("payment_options"))
        token = next((text(one.get("token")) for one in options if one.get("name") == "GOPAY_WALLET"), None)
        changed = (token, account) != (said.get("token"), part(said, "gopay").get("account_id"))
        if linked.get("account_status") == "ENABLED" and token and changed:
            given_up = said.get("status") == "inactive" and Schedule.of(said).owed(clock.now())
            again = clock.now() + REVIVED if given_up and not is_over(ref.known, said) else None
            said = await self._api.patch(ref, said, token=token, account=account, next_at=again)
        return snapshot(clock.now(), said, ref.known)

    async def invoice_document(self, ref: Ref) -> base.Document | None:
        """The paid file where there is one. Its address needs no login, so it is streamed and never shown."""
        bill, _ = await self._api.invoice(ref)
        url, root = bill.document_url or "", f"{self.base(FILES)}/"
        if not bill.document or not url.startswith(root):
            return None
        answer = await self._api.http.call("GET", FILES, f"/{url.removeprefix(root)}")
        if answer.status_code != 200 or not answer.content.startswith(b"%PDF-"):
            raise Unavailable(NO_ANSWER, f"The file of the invoice was answered {answer.status_code}.")
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", bill.number or ref.id)
        return base.Document("application/pdf", f"{name}.pdf", answer.content)

    @classmethod
    def read(cls, kind: Any, said: Any) -> base.Record | list[Event]:
        if not isinstance(said, dict):
            raise ValueError("This is no JSON object.")
        if kind == "event":
            return sales.events(said)
        if kind == "subscription":
            return subscription(part(said, "subscription") or said, None, clock.now())
        if kind == "refund" or kind == "invoice":
            return sales.newest_refund(said) if kind == "refund" else sales.billed(said)[0]
        if kind not in ("order", "payment"):
            return super().read(kind, said)
        return sales.read_sale(kind, part(said, "transaction") or said)


def _shown(ref: Ref, said: Json, **told: Any) -> Snapshot:
    """As it is after our call; what had ended before stays ended."""
    return snapshot(clock.now(), said, ref.known, **({} if is_over(ref.known, said) else told))


def _too_soon(said: Json, until: datetime | None) -> bool:
    on = Schedule.of(said).next
    return until is not None and until > clock.now() and on is not None and on < until - SLACK


async def _reported(as_of: datetime, rows: list[Json]) -> Snapshot:
    orders, payments = sales.reported(rows)
    return Snapshot(as_of=as_of, orders=orders, payments=payments)
