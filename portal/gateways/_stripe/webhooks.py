"""The endpoint that Stripe keeps for us.

Stripe tells an endpoint's secret once, when it is made, and never which version of the API it can be moved to. So a
digest of the secret is left in the endpoint's metadata: by it a later look knows an endpoint whose secret we have.
Source: https://docs.stripe.com/api/webhook_endpoints
"""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from portal.gateways._stripe.shapes import as_dict, id_of, safe
from portal.gateways._stripe.wire import VERSION, Json, Wire, legible
from portal.gateways.base import Declined, GatewayError, Gone, Registration, Unavailable
from portal.gateways.wire import digest

PATH = "/v1/webhook_endpoints"
MARK = "portal_secret"
EVENTS = (
    *(f"checkout.session.{one}" for one in ("completed", "async_payment_succeeded", "async_payment_failed")),
    *(f"customer.{one}" for one in ("created", "updated", "deleted")),
    *(f"customer.subscription.{one}" for one in ("created", "updated", "deleted", "paused", "resumed")),
    *("customer.subscription.trial_will_end", "customer.subscription.pending_update_applied"),
    "customer.subscription.pending_update_expired",
    *(f"invoice.{one}" for one in ("created", "finalized", "finalization_failed", "paid", "payment_failed")),
    *(f"invoice.{one}" for one in ("payment_action_required", "updated", "voided", "marked_uncollectible")),
    *(
        "invoice.overdue",
        "invoice.deleted",
        "invoice.upcoming",
        "invoice.will_be_due",
        "invoice_payment.paid",
    ),
    *(f"charge.{one}" for one in ("succeeded", "pending", "failed", "captured", "expired", "updated")),
    *("charge.refunded", "charge.dispute.created", "charge.dispute.updated", "charge.dispute.closed"),
    *("charge.dispute.funds_withdrawn", "charge.dispute.funds_reinstated"),
    *("refund.created", "refund.updated", "refund.failed", "credit_note.created", "credit_note.voided"),
    *(f"payment_method.{one}" for one in ("attached", "detached", "updated", "automatically_updated")),
    "setup_intent.succeeded",
    *(f"subscription_schedule.{one}" for one in ("created", "updated", "released", "canceled", "completed")),
    *("subscription_schedule.aborted", "subscription_schedule.expiring"),
)


async def register(wire: Wire, url: str, key: str, secret: str) -> Registration:
    with _permitted(), legible():
        found = [one async for one in wire.all(PATH) if one.get("url") == url]
        ours = next((one for one in found if _is_ours(one, secret)), None)
        if ours is None:
            return await _replace(wire, url, key, found)
        if ours.get("status") != "enabled" or set(ours.get("enabled_events") or []) != set(EVENTS):
            await _change(wire, ours["id"], enabled_events=list(EVENTS), disabled="false")
        note = await _remove(wire, key, [one for one in found if one is not ours])
        return Registration(ours["id"], {"webhook_secret": secret}, note)


async def unregister(wire: Wire, remote_id: str) -> None:
    with _permitted(), suppress(Gone):
        await wire.write("delete", f"{PATH}/{safe(remote_id)}", f"remove-{remote_id}")


def _is_ours(one: Json, secret: str) -> bool:
    marked = as_dict(one.get("metadata")).get(MARK) == digest(secret)
    return bool(secret) and marked and one.get("api_version") == VERSION


async def _replace(wire: Wire, url: str, key: str, former: Sequence[Json]) -> Registration:
    """Once the secret is told nothing may fail any more: what goes wrong after it is a note."""
    remote_id, secret = await _make(wire, url, key)
    try:
        await _change(wire, remote_id, metadata={MARK: digest(secret)})
    except Gone:  # the answer of an earlier try was given again, and somebody has removed what it made
        remote_id, secret = await _make(wire, url, f"{key}-again")
        with suppress(GatewayError):
            await _change(wire, remote_id, metadata={MARK: digest(secret)})
    except GatewayError:
        pass
    note = await _remove(wire, key, [one for one in former if id_of(one) != remote_id])
    return Registration(remote_id, {"webhook_secret": secret}, note)


async def _make(wire: Wire, url: str, key: str) -> tuple[str, str]:
    wish: Json = {"url": url, "enabled_events": list(EVENTS), "api_version": VERSION}
    try:
        made = await wire.write("post", PATH, key, **wish, description="Customer portal")
    except Declined as declined:
        hint = f"{declined.hint} Stripe keeps 16 endpoints at most, and calls only addresses that begin with https."
        raise Declined(declined.customer, hint, declined.reason) from declined
    remote_id, secret = id_of(made), made.get("secret")
    if not remote_id or not isinstance(secret, str):
        raise Unavailable("Stripe does not answer at the moment.", "The endpoint has no secret.", sent=True)
    return remote_id, secret


async def _change(wire: Wire, remote_id: str, **fields: Any) -> None:
    """Under a key of its own each time: it may be done twice, and an old answer would hide what is true now."""
    await wire.write("post", f"{PATH}/{safe(remote_id)}", secrets.token_hex(16), **fields)


async def _remove(wire: Wire, key: str, former: Sequence[Json]) -> str:
    left = []
    for one in former:
        number = str(id_of(one))
        try:
            await wire.write("delete", f"{PATH}/{safe(number)}", f"{key}-{number}")
        except Gone:
            continue
        except GatewayError:
            left.append(number)
    told = "Remove the former endpoint of this address in the Stripe Dashboard (Developers > Webhooks): "
    return f"{told}{', '.join(left)}." if left else ""


@contextmanager
def _permitted() -> Iterator[None]:
    try:
        yield
    except Unavailable as error:
        if "rak_webhook_" not in error.hint:
            raise
        hint = (
            "Give the restricted key the permission to write Webhook Endpoints (rak_webhook_write) in Stripe, or add "
            f"the endpoint by hand and copy its signing secret. {error.hint}"
        )
        raise Unavailable(error.customer, hint, error.retry_after, error.sent) from error
