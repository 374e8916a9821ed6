"""The webhook that PayPal keeps for us, one for an address in an app, and old events sent again to it as a test.

Nothing about it is secret: its id is what deliveries are signed for.
Source: https://developer.paypal.com/api/webhooks/v1
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from portal import clock
from portal.gateways import wire
from portal.gateways._paypal.api import NO_ANSWER, Api, NotAllowed
from portal.gateways._paypal.shapes import id_of, items
from portal.gateways.base import Declined, Gone, Registration, Unavailable, Unsupported

PATH, PAST = "/v1/notifications/webhooks", "/v1/notifications/webhooks-events"
SCOPE = "https://uri.paypal.com/services/applications/webhooks"
EVENTS = (
    *(f"BILLING.SUBSCRIPTION.{one}" for one in ("CREATED", "ACTIVATED", "UPDATED", "EXPIRED", "CANCELLED")),
    *("BILLING.SUBSCRIPTION.SUSPENDED", "BILLING.SUBSCRIPTION.PAYMENT.FAILED"),
    *(f"PAYMENT.SALE.{one}" for one in ("COMPLETED", "REFUNDED", "REVERSED")),
    *(f"PAYMENT.CAPTURE.{one}" for one in ("COMPLETED", "PENDING", "DECLINED", "DENIED", "REFUNDED")),
    *("PAYMENT.CAPTURE.REVERSED", "CHECKOUT.ORDER.APPROVED", "CHECKOUT.ORDER.COMPLETED"),
    *(f"CUSTOMER.DISPUTE.{one}" for one in ("CREATED", "UPDATED", "RESOLVED")),
    *(f"INVOICING.INVOICE.{one}" for one in ("CREATED", "SCHEDULED", "UPDATED", "PAID", "CANCELLED")),
    "INVOICING.INVOICE.REFUNDED",
)
KEPT_DAYS = 29


async def register(api: Api, url: str) -> Registration:
    """PayPal refuses a second webhook of an address, so a try whose answer was lost is found again."""
    wanted = [{"name": name} for name in EVENTS]
    with _permitted():
        kept = await _of(api, url)
        if kept is None:
            try:
                kept = wire.obj(await api.ask("POST", PATH, body={"url": url, "event_types": wanted}))
            except Declined as refused:
                kept = await _of(api, url) if refused.reason == "WEBHOOK_URL_ALREADY_EXISTS" else None
                if kept is None:
                    hint = f"{refused.hint} PayPal calls only https addresses on port 443, and an app has ten at most."
                    raise Declined(refused.customer, hint, refused.reason) from refused
        number = id_of(kept)
        if not number:
            raise Unavailable(NO_ANSWER, "The webhook has no id.", sent=True)
        if {one.get("name") for one in items(kept.get("event_types"))} != set(EVENTS):
            change = [{"op": "replace", "path": "/event_types", "value": wanted}]
            await api.ask("PATCH", f"{PATH}/{wire.safe(number)}", body=change)
    return Registration(number, {"webhook_id": number})


async def _of(api: Api, url: str) -> wire.Json | None:
    listed = wire.objects(wire.obj(await api.ask("GET", PATH)).get("webhooks"))
    return next((one for one in listed if one.get("url") == url), None)


async def unregister(api: Api, remote_id: str) -> None:
    with _permitted(), suppress(Gone):
        await api.ask("DELETE", f"{PATH}/{wire.safe(remote_id)}")


async def send_again(api: Api, webhook: str) -> str | None:
    """The newest event that the webhook wants, sent to it once more.

    What PayPal simulates is signed for no webhook, so that everybody can have it sent to everybody: it would prove
    nothing. An event that has come before is known by its id and comes to nothing new.
    """
    if not webhook:
        raise Unsupported("", "Register the webhook first: then PayPal can send an event to it.")
    now = clock.now()
    since, until = (f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (now - timedelta(days=KEPT_DAYS), now))
    asked: dict[str, Any] = {"page_size": 100, "start_time": since, "end_time": until}
    with _permitted():
        listed = wire.objects(wire.obj(await api.ask("GET", PAST, params=asked)).get("events", []))
        wanted = [one for one in listed if one.get("event_type") in EVENTS and id_of(one)]
        if not wanted:
            return None
        newest = max(wanted, key=lambda one: str(one.get("create_time")))
        path = f"{PAST}/{wire.safe(id_of(newest))}/resend"
        await api.ask("POST", path, body={"webhook_ids": [webhook]})
    return str(newest["event_type"])


@contextmanager
def _permitted() -> Iterator[None]:
    try:
        yield
    except NotAllowed as refused:
        hint = f"{refused.hint} The app's token needs the scope {SCOPE}; else add the webhook by hand, in the app."
        raise NotAllowed(refused.customer, hint) from refused
