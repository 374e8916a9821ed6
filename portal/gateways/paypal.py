"""PayPal: subscriptions v1, orders and payments v2, transaction search, invoices, and RSA-signed webhooks.

There is no customer: `payer_id` stands for one, and the e-mail is that of the PayPal account. Payments of subscriptions
are told as an older "sale". PayPal names no next date of what is suspended or cancelled: the end of the paid time stays
as it was known. What is asked to be done has no idempotency of its own, so it is read before and afterwards.
Sources: https://developer.paypal.com/docs/api/subscriptions/v1/ and https://developer.paypal.com/api/webhooks
"""

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

from portal import clock
from portal.gateways import base, wire
from portal.gateways._paypal import proof, records, webhooks
from portal.gateways._paypal.api import NO_ANSWER, SENTENCES, Api, KeysRefused, NotAllowed
from portal.gateways._paypal.shapes import id_of, link
from portal.gateways._paypal.subscriptions import STATES, remembered, subscription
from portal.gateways.base import (
    BadSignature,
    Declined,
    Gone,
    Ref,
    Snapshot,
    Unavailable,
    Unreadable,
    Unsupported,
)
from portal.gateways.http import Http

LIVE, SANDBOX = "api-m.paypal.com", "api-m.sandbox.paypal.com"
SUBSCRIPTIONS, REPORT = "/v1/billing/subscriptions", "/v1/reporting/transactions"
CAPTURES, INVOICES = "/v2/payments/captures", "/v2/invoicing/invoices"
SEARCH, FOUND_PAGES = "/v2/invoicing/search-invoices", 10
REACH, WINDOW_DAYS, SMALLEST_DAYS = timedelta(days=1094), 31.0, 1 / 48  # older than three years is refused
REFUND_CODES, CHECKOUT_CODE = ("T1106", "T1107"), "T0006"  # of the report; T1106, a reversal, is not verified
# What is asked of a subscription: from which states, into which, and the reason that PayPal keeps.
ACTS = {
    "cancel": (("ACTIVE", "SUSPENDED"), ("CANCELLED", "EXPIRED"), "Cancelled by the customer"),
    "suspend": (("ACTIVE",), ("SUSPENDED",), "Paused by the customer"),
    "activate": (("SUSPENDED",), ("ACTIVE",), "Taken up again by the customer"),
}
_certificates: dict[str, bytes] = {}


class Adapter(base.Gateway):
    """One REST app. Credentials: client_id, client_secret, environment ("live" or "sandbox"), webhook_id."""

    pauses_until_cancel = True

    def __init__(self, credentials: Mapping[str, str], **more: Any) -> None:
        super().__init__(credentials, **more)
        self._http = Http(self, "paypal")
        self._host = SANDBOX if self.credentials.get("environment") == "sandbox" else LIVE
        self._webhook = self.credentials.get("webhook_id", "").strip()
        self._api = Api(self._http, self._host, self.credentials)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def check(self) -> base.Health:
        """A token proves the keys; one look each proves the features, and that the webhook is this app's."""
        live, now, missing, hint = self._host == LIVE, clock.now(), list[str](), None
        day: dict[str, Any] = {
            "start_date": _stamp(now - timedelta(days=1)),
            "end_date": _stamp(now),
            "page_size": 1,
        }
        probes = {
            "Subscriptions": ("/v1/billing/plans", {"page_size": 1}),
            "Transaction Search": (REPORT, day),
        }
        try:
            for feature, (path, params) in probes.items():
                try:
                    await self._api.ask("GET", path, params=params)
                except NotAllowed:
                    missing.append(feature)
            if self._webhook:  # there is none before it is registered
                await self._api.ask("GET", f"{webhooks.PATH}/{wire.safe(self._webhook)}")
        except KeysRefused as refused:
            return base.Health(ok=False, live=live, hint=refused.hint)
        except (NotAllowed, Gone, Declined):
            hint = "The webhook ID is none of this app: copy it from the app that the client ID belongs to."
        if missing:
            hint = f"Tick {', '.join(missing)} in the app's features; PayPal may need nine hours to grant it."
        return base.Health(ok=hint is None, live=live, missing=tuple(missing), hint=hint)

    async def backfill(self, cursor: str | None = None) -> AsyncIterator[base.Page]:
        """Subscriptions with their payments, then three years of transactions backwards, then invoices.

        Where the app may not list subscriptions (`named`), those that the transactions name are read one by one.
        """
        walk: dict[str, Any] = {"stage": "list", "page": 1, "from": clock.now().isoformat(), "named": None}
        walk |= {"until": walk["from"], "days": WINDOW_DAYS, "refunded": {}} | (
            json.loads(cursor) if cursor else {}
        )
        steps = {"list": self._listed, "report": self._reported, "invoices": self._invoiced}
        while walk["stage"]:
            as_of = clock.now()
            found = await steps[walk["stage"]](walk)
            yield base.Page(replace(found, as_of=as_of), json.dumps(walk) if walk["stage"] else None)

    overlap = timedelta(hours=4)  # the report is three hours late

    def lists(self) -> list[str]:
        """The report, which names the subscriptions that were paid, and the invoices; subscriptions have no order."""
        now = clock.now().isoformat()
        start = {"page": 0, "from": now, "named": [], "until": now, "days": WINDOW_DAYS, "refunded": {}}
        return [
            json.dumps({"stage": "report", **start}),
            json.dumps({"stage": "invoices", **start, "page": 1}),
        ]

    def list_of(self, cursor: str) -> Any:
        return json.loads(cursor)["stage"]

    async def recent(self, since: datetime, cursor: str | None = None) -> AsyncIterator[base.Page]:
        async for page in super().recent(since, cursor or self.lists()[0]):
            yield page

    async def kept_events(self, since: datetime) -> AsyncIterator[list[base.Event]]:
        """Newest first; each step asks for what is no newer than the oldest of the step before."""
        until, seen = clock.now() + timedelta(seconds=1), set[str]()
        while True:
            asked = {"page_size": 100, "start_time": _stamp(since), "end_time": _stamp(until)}
            try:
                said = wire.obj(await self._api.ask("GET", webhooks.PAST, params=asked))
            except NotAllowed as refused:
                raise Unsupported("", refused.hint) from refused
            rows = [row for row in wire.objects(said.get("events", [])) if id_of(row) not in seen]
            if not rows:
                return
            seen |= {id_of(row) for row in rows}
            yield [records.event(row) for row in rows if row.get("event_type") in webhooks.EVENTS]
            times = [at for row in rows if (at := wire.moment(row.get("create_time")))]
            if len(rows) < 10 or not times:  # fewer than the smallest page
                return
            until = min(times) + timedelta(seconds=1)

    async def _listed(self, walk: dict[str, Any]) -> Snapshot:
        params = {"page": walk["page"], "page_size": 20}
        try:
            said = wire.obj(await self._api.ask("GET", SUBSCRIPTIONS, params=params))
        except (NotAllowed, Gone):  # not open to every app
            walk |= {"stage": "report", "page": 0, "named": []}
            return records.told()
        rows = wire.objects(said.get("subscriptions", []))
        parts = await wire.sifted("subscriptions", rows, self._these)
        found = records.told(*parts)
        more = rows and link(said, "next")
        walk |= {"page": walk["page"] + 1} if more else {"stage": "report", "page": 0}
        return found

    async def _these(self, rows: list[wire.Json]) -> Snapshot:
        return await self._each(_whole_ids(rows))

    async def _each(self, ids: Iterable[str]) -> Snapshot:
        found = []
        for one in ids:
            try:
                found.append(await self._history(Ref("subscription", one)))
            except (Gone, NotAllowed):  # another app's
                continue
        return records.told(*found)

    async def _reported(self, walk: dict[str, Any]) -> Snapshot:
        """One page of a window; from the last page to the first, so that a refund is met before its payment."""
        until, oldest = datetime.fromisoformat(walk["until"]), datetime.fromisoformat(walk["from"]) - REACH
        since = max(until - timedelta(days=walk["days"]), oldest)
        params = {"start_date": _stamp(since), "end_date": _stamp(until), "fields": "all", "page_size": 500}
        try:
            said = wire.obj(await self._api.ask("GET", REPORT, params={**params, "page": walk["page"] or 1}))
        except NotAllowed:
            walk |= {"stage": "invoices", "page": 1}
            return records.told()
        except Declined as refused:
            if refused.reason != "RESULTSET_TOO_LARGE" or walk["days"] <= SMALLEST_DAYS:
                raise
            walk |= {"days": walk["days"] / 2, "page": 0}
            return records.told()
        if not walk["page"] and (last := wire.whole(said.get("total_pages")) or 1) > 1:
            walk["page"] = last
            return records.told()
        if wire.whole(said.get("total_items")) is None:  # a window that is passed over never comes again
            raise Unavailable(NO_ANSWER, "The answer is no report.")
        rows = sorted(wire.objects(said.get("transaction_details", [])), key=_is_no_refund)
        found = records.told(*await wire.sifted("transactions", rows, partial(self._line, walk), None))
        if walk["page"] > 1:
            walk["page"] -= 1
        else:
            walk |= {"page": 0, "until": since.isoformat(), "days": min(WINDOW_DAYS, walk["days"] * 2)}
            walk |= {"stage": "invoices", "page": 1} if since <= oldest else {}
        return found

    async def _line(self, walk: dict[str, Any], rows: list[wire.Json]) -> Snapshot:
        """Lines of the report; what they were to leave in `walk` is taken back where they cannot be read."""
        refunded, named = dict(walk["refunded"]), list(walk["named"] or ())
        try:
            return await self._transactions(rows, walk)
        except wire.SENSELESS:
            walk["refunded"] = refunded
            walk["named"] = named if walk["named"] is not None else None
            raise

    async def _transactions(self, rows: list[wire.Json], walk: dict[str, Any]) -> Snapshot:
        refunds = [records.refund(row) for row in rows if records.code_of(row) in REFUND_CODES]
        for number, back in records.sums(refunds).items():
            walk["refunded"][number] = walk["refunded"].get(number, 0) + back
        found = [records.told(refunds=refunds)]
        for row in rows:
            one = records.payment(row)
            if not records.code_of(row).startswith("T00") or one.amount is None or one.amount.minor < 0:
                continue
            one = records.less(one, walk["refunded"].pop(one.remote_id, 0))
            if one.subscription is None:
                found.append(await self._bought(row, one))
                continue
            found.append(records.told(payments=(one,), customers=records.customers(row)))
            if walk["named"] is not None and one.subscription not in walk["named"]:
                walk["named"].append(one.subscription)
                found.append(await self._each([one.subscription]))
        return records.told(*found)

    async def _bought(self, row: wire.Json, one: base.PaymentRecord) -> Snapshot:
        """The report names no order of a checkout; its capture does, and knows more."""
        if records.code_of(row) == CHECKOUT_CODE:
            try:
                return await self._paid(Ref("payment", one.remote_id))
            except (Gone, NotAllowed):
                pass
        return records.of_report(row, one)

    async def _invoiced(self, walk: dict[str, Any]) -> Snapshot:
        params = {"page": walk["page"], "page_size": 100, "total_required": "true"}
        try:
            said = wire.obj(await self._api.ask("GET", INVOICES, params=params))
        except NotAllowed:
            said = {"total_pages": 0}
        pages, rows = wire.whole(said.get("total_pages")), wire.objects(said.get("items", []))
        if pages is None:
            raise Unavailable(NO_ANSWER, "The answer is no list of invoices.")
        parts = await wire.sifted("invoices", rows, _read_invoices)
        walk |= {"page": walk["page"] + 1} if walk["page"] < min(pages, 1000) else {"stage": ""}
        return records.told(*parts)

    async def find(self, email: str) -> list[Ref]:
        """Invoices alone are found by an address; each tells the payment that it was paid with."""
        mail, found = email.strip().lower(), []
        for page in range(1, FOUND_PAGES + 1):
            params = {"page": page, "page_size": 100, "total_required": "true"}
            try:
                said = wire.obj(
                    await self._api.ask("POST", SEARCH, params=params, body={"recipient_email": mail})
                )
            except NotAllowed:
                return []  # the app may not see invoices
            rows = wire.objects(said.get("items", []))
            # The search is by words: what went to somebody else is left out.
            found += [one for one in rows if records.invoice(one).email == mail]
            if page >= (wire.whole(said.get("total_pages")) or 0):
                break
        return [Ref("invoice", number) for number in _whole_ids(found)]

    async def fetch(self, ref: Ref) -> Snapshot:
        """A subscription or an order with its payments, a capture with its order, a refund, or an invoice."""
        as_of = clock.now()
        match ref.kind:
            case "subscription":
                found = await self._history(ref)
            case "order":
                found = records.of_order(await self._api.get("/v2/checkout/orders", ref.id))
            case "payment":
                found = await self._paid(ref)
            case "refund":
                one = records.refund(await self._api.get("/v2/payments/refunds", ref.id))
                paid = await self._paid(Ref("payment", one.payment)) if one.payment else records.told()
                found = records.told(records.told(refunds=(one,)), paid)
            case "invoice":
                found = records.of_invoice(await self._api.get(INVOICES, ref.id))
            case _:
                raise Unsupported("PayPal can't be asked about this.", f"It has no look-up for a {ref.kind}.")
        return replace(found, as_of=as_of)

    async def _history(self, ref: Ref) -> Snapshot:
        """A subscription and all its payments."""
        found = await self._look(ref)
        one = found.subscriptions[0]
        since = min(filter(None, (one.created_at, one.started_at)), default=None)
        if since is None or one.status == "incomplete":
            return found
        params = {
            "start_time": _stamp(since - timedelta(days=1)),
            "end_time": _stamp(clock.now() + timedelta(seconds=1)),
        }
        path = f"{SUBSCRIPTIONS}/{wire.safe(ref.id)}/transactions"
        said = wire.obj(await self._api.ask("GET", path, params=params))
        return records.told(
            found, payments=records.of_subscription(wire.objects(said.get("transactions", [])), one)
        )

    async def _look(self, ref: Ref) -> Snapshot:
        as_of = clock.now()
        said = await self._api.get(SUBSCRIPTIONS, ref.id, fields="last_failed_payment,plan")
        people = records.customers(wire.part(said, "subscriber"))
        return replace(records.told(subscriptions=(subscription(said),), customers=people), as_of=as_of)

    async def _paid(self, ref: Ref) -> Snapshot:
        """A payment of a subscription is found there, any other by its capture, with the order that has the e-mail."""
        known = ref.known
        if isinstance(known, base.PaymentRecord) and known.subscription:
            found = await self._history(Ref("subscription", known.subscription))
            if any(one.remote_id == ref.id for one in found.payments):
                return found
        said = await self._api.get(CAPTURES, ref.id)
        alone = records.told(payments=(records.payment(said),))
        if order := records.order_of(said):
            try:
                return records.told(
                    records.of_order(await self._api.get("/v2/checkout/orders", order)), alone
                )
            except (Gone, NotAllowed):
                pass
        return alone

    async def certificate(self, headers: Mapping[str, str]) -> bytes | None:
        """The certificate that a delivery names, from PayPal's own hosts alone, kept by its address."""
        told = next((value for name, value in headers.items() if name.lower() == "paypal-cert-url"), "")
        host, path = proof.certificate_address(told)
        kept = self.base(host) + path
        if kept not in _certificates:
            answer = await self._http.call("GET", host, path)
            if 400 <= answer.status_code < 500 and answer.status_code != 429:
                raise BadSignature("PayPal has no such certificate.")
            if answer.status_code != 200 or b"-----BEGIN CERTIFICATE-----" not in answer.content[:65_536]:
                raise Unavailable(NO_ANSWER, f"The certificate was answered {answer.status_code}.")
            if len(_certificates) >= 32:
                _certificates.clear()
            _certificates[kept] = answer.content
        return _certificates[kept]

    def verify(
        self, headers: list[tuple[str, str]], body: bytes, now: datetime, certificate: bytes | None = None
    ) -> list[base.Event]:
        """The event of a delivery that is proved to be PayPal's own, for our webhook; its age says nothing."""
        webhook = wire.secret_of(self.credentials, "webhook_id", "webhook ID").decode()
        proof.prove(headers, body, webhook, certificate or b"")
        return [records.event(wire.proved_json(body))]

    async def refetch(self, event: base.Event) -> Snapshot | None:
        """Sales have no call of their own: what the signed notice tells of one stands beside what is fetched."""
        sale = event.body.get("sale")
        if event.subject is None or not isinstance(sale, dict):
            return await super().refetch(event)
        told = replace(records.of_sale(sale), as_of=event.occurred_at or clock.now())
        try:
            found = await self.fetch(event.subject)
        except Gone:
            return told
        return replace(records.told(found, told), as_of=found.as_of)

    async def register_webhook(self, url: str, key: str) -> base.Registration:
        """PayPal keeps one for an address, so the key is not needed; its id is all that comes out of it."""
        return await webhooks.register(self._api, url)

    async def unregister_webhook(self, remote_id: str) -> None:
        await webhooks.unregister(self._api, remote_id)

    async def send_test_event(self, remote_id: str | None) -> str | None:
        """A true event of before, sent again; None where nothing has happened in this app yet."""
        return await webhooks.send_again(self._api, remote_id or self._webhook)

    async def cancel_now(self, ref: Ref, key: str) -> Snapshot:
        """Final. Cancelled at PayPal's own site before is success."""
        return await self._act(ref, "cancel", key)

    async def undo_cancel(self, ref: Ref, key: str) -> Snapshot:
        """While it is only suspended: one that is cancelled never comes back."""
        until = ref.known.current_period_end if isinstance(ref.known, base.SubscriptionRecord) else None
        if until and until <= clock.now():
            raise Unsupported("The paid time is over; please order again.", "PayPal might charge at once.")
        return await self._act(ref, "activate", key)

    async def pause(self, ref: Ref, key: str) -> Snapshot:
        return await self._act(ref, "suspend", key)

    async def resume(self, ref: Ref, key: str) -> Snapshot:
        return await self._act(ref, "activate", key)

    async def change_plan(
        self, ref: Ref, change: Mapping[str, Any], return_url: str, key: str
    ) -> Snapshot | base.Leave:
        """Another plan of the same product, or quantity; the customer agrees at PayPal, and nothing changes before."""
        plan, quantity = change.get("plan"), change.get("quantity")
        if not (plan or quantity):
            raise Unsupported("PayPal can't change this here.", "Give a plan of PayPal's, or a quantity.")
        before = await self._look(ref)
        if before.subscriptions[0].raw_status not in ("ACTIVE", "SUSPENDED"):
            raise Unsupported(SENTENCES["SUBSCRIPTION_STATUS_INVALID"], "Only a running one can be revised.")
        wish: dict[str, Any] = {"application_context": {"return_url": return_url, "cancel_url": return_url}}
        wish |= ({"plan_id": plan} if plan else {}) | ({"quantity": str(quantity)} if quantity else {})
        path = f"{SUBSCRIPTIONS}/{wire.safe(ref.id)}/revise"
        said = wire.obj(await self._api.ask("POST", path, body=wish, key=f"{key}-revise"))
        page = link(said, "approve")
        return base.Leave(page) if page else await self._look(ref)

    async def pay_now(self, ref: Ref, return_url: str, key: str) -> Snapshot | base.Leave:
        return await self._page_of_debt(ref)

    async def start_method_update(self, ref: Ref, return_url: str, key: str) -> base.Leave:
        """PayPal's page for a failed payment collects what is open by another way of paying, and goes on."""
        return await self._page_of_debt(ref)

    async def finish_method_update(
        self, ref: Ref, state: Mapping[str, str], query: Mapping[str, str]
    ) -> Snapshot:
        return await self.fetch(ref)

    async def _page_of_debt(self, ref: Ref) -> base.Leave:
        page = (await self._look(ref)).subscriptions[0].due_link
        if page is None:
            raise Unsupported(
                "PayPal has no page for this at the moment. The automatic payments in the PayPal account are the way.",
                "PayPal shows a link for it only on some subscriptions that it suspended after a failed payment.",
            )
        return base.Leave(page, returns=False)  # no way back is documented

    async def _act(self, ref: Ref, verb: str, key: str) -> Snapshot:
        """Read, call, read again: what PayPal says afterwards counts, a refusal included."""
        before, path = await self._look(ref), f"{SUBSCRIPTIONS}/{wire.safe(ref.id)}/{verb}"
        states, done, reason = ACTS[verb]
        was = before.subscriptions[0]
        if was.raw_status in done:
            return before
        if was.raw_status in STATES and was.raw_status not in states:
            raise Unsupported(SENTENCES["SUBSCRIPTION_STATUS_INVALID"], f"It is {was.raw_status} at PayPal.")
        try:
            await self._api.ask("POST", path, body={"reason": reason}, key=f"{key}-{verb}")
        except Declined:
            after = await self._read_back(ref)
            if after.subscriptions[0].raw_status not in done:
                raise
        else:
            after = await self._read_back(ref)
        return remembered(after, was, ref.known)

    async def _read_back(self, ref: Ref) -> Snapshot:
        try:
            return await self._look(ref)
        except Unavailable as error:
            raise Unavailable(error.customer, error.hint, error.retry_after, sent=True) from error

    @classmethod
    def read(cls, kind: base.Kind | Literal["event"], said: Any) -> base.Record | list[base.Event]:
        found: base.Record | list[base.Event] = records.read(kind, said)
        return found


async def _read_invoices(rows: list[wire.Json]) -> Snapshot:
    _whole_ids(rows)
    return records.told(*map(records.of_invoice, rows))


def _is_no_refund(row: wire.Json) -> bool:
    return records.code_of(row) not in REFUND_CODES


def _whole_ids(rows: list[wire.Json]) -> list[str]:
    if not all(map(id_of, rows)):
        raise Unreadable(NO_ANSWER, "A list holds something without an id.")
    return [id_of(one) for one in rows]


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
