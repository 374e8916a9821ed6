"""The next-gen webhook that Mollie keeps for us, of the whole organisation.

Its secret is told once, when it is made. A digest of it is left in the webhook's name, so that a later look knows one
whose secret we have.
Source: https://docs.mollie.com/reference/create-webhook
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from portal.gateways import wire
from portal.gateways.base import Declined, GatewayError, Gone, Registration, Unavailable, Unsupported
from portal.gateways.wire import Json, objects, part, text

Ask = Callable[..., Awaitable[Any]]  # method, path below /v2/webhooks, idempotency key, body

NAME = "Customer portal"
PAYMENTS = tuple(
    f"payment.{one}" for one in ("paid", "authorized", "failed", "canceled", "expired", "pending")
)
REFUNDS = tuple(
    f"refund.{one}" for one in ("queued", "pending", "processing", "refunded", "failed", "canceled")
)
EVENTS = (
    *PAYMENTS,
    *REFUNDS,
    *("chargeback.received", "chargeback.reversed"),
    *(f"sales-invoice.{one}" for one in ("created", "issued", "canceled", "paid")),
)
PING = "hook.ping"
SCOPES = "webhooks.read, webhooks.write, payments.read and sales-invoices.read"
BY_HAND = (
    "Mollie registers a webhook only for an organisation access token (access_…) with the permissions "
    f"{SCOPES}. Without one, add it in the Dashboard under Developers > Webhooks, with the address shown here, and "
    "copy its signing secret; or leave it out, and what is new is found by looking regularly."
)


async def register(ask: Ask, url: str, key: str, secret: str) -> Registration:
    with _permitted():
        found = [
            one for one in await _listed(ask) if one.get("url") == url and one.get("status") != "deleted"
        ]
        ours = next((one for one in found if _is_ours(one, secret)), None)
        if ours is None:
            return await _replace(ask, url, key, found)
        if set(ours.get("eventTypes") or []) != set(EVENTS):
            with suppress(Declined):  # what this account may not have told it
                await ask("PATCH", f"/{_id(ours)}", "", {"eventTypes": list(EVENTS)})
        note = await _remove(ask, [one for one in found if one is not ours])
        return Registration(_id(ours), {"webhook_secret": secret}, note)


def _is_ours(one: Json, secret: str) -> bool:
    """One that Mollie has blocked can be switched on again by nobody but Mollie."""
    return bool(secret) and one.get("name") == _named(secret) and one.get("status") == "enabled"


def _named(secret: str) -> str:
    return f"{NAME} {wire.digest(secret)[:10]}"


async def _listed(ask: Ask) -> list[Json]:
    found, start = list[Json](), ""
    while True:
        said = wire.obj(
            await ask("GET", "", "", None, {"limit": "250", **({"from": start} if start else {})})
        )
        page = objects(part(said, "_embedded").get("webhooks") or [])
        found += page if not start else page[1:]  # the list goes on with the one that it is asked from
        if part(said, "_links", "next").get("href") is None or len(page) < 2:
            return found
        start = _id(page[-1])


async def _replace(ask: Ask, url: str, key: str, former: Sequence[Json]) -> Registration:
    """Once the secret is told nothing may fail any more: what goes wrong after it is a note."""
    number, secret, note = await _make(ask, url, key)
    try:
        await ask("PATCH", f"/{number}", "", {"name": _named(secret)})
    except Gone:  # the answer of an earlier try was given again, and somebody has removed what it made
        number, secret, note = await _make(ask, url, f"{key}-again")
        with suppress(GatewayError):
            await ask("PATCH", f"/{number}", "", {"name": _named(secret)})
    except GatewayError:
        pass
    notes = (note, await _remove(ask, [one for one in former if _id(one) != number]))
    return Registration(number, {"webhook_secret": secret}, " ".join(filter(None, notes)))


async def _make(ask: Ask, url: str, key: str) -> tuple[str, str, str]:
    """Its id, its secret, and what the merchant should know of it."""
    note, wish = "", {"name": NAME, "url": url, "eventTypes": list(EVENTS)}
    try:
        made = wire.obj(await ask("POST", "", key, wish))
    except Declined as declined:
        if declined.reason != "eventTypes":
            raise
        made = wire.obj(await ask("POST", "", f"{key}-less", {**wish, "eventTypes": [*PAYMENTS, *REFUNDS]}))
        note = "Mollie does not tell this account of chargebacks and sales invoices: they are found daily."
    number, secret = _id(made), text(made.get("webhookSecret"))
    if secret is None:
        raise Unavailable("Mollie does not answer at the moment.", "The webhook has no secret.", sent=True)
    return number, secret, note


async def unregister(ask: Ask, remote_id: str) -> None:
    with _permitted(), suppress(Gone):
        await ask("DELETE", f"/{wire.safe(remote_id)}")


async def test(ask: Ask, remote_id: str) -> str:
    with _permitted():
        await ask("POST", f"/{wire.safe(remote_id)}/ping")
    return PING


async def _remove(ask: Ask, former: Sequence[Json]) -> str:
    left = []
    for one in former:
        try:
            await ask("DELETE", f"/{_id(one)}")
        except Gone:
            continue
        except GatewayError:
            left.append(_id(one))
    told = "Remove the former webhook of this address in the Dashboard under Developers > Webhooks:"
    return f"{told} {', '.join(left)}." if left else ""


def _id(said: Json) -> str:
    found = text(said.get("id"))
    if found is None:
        raise Unavailable("Mollie does not answer at the moment.", "A webhook has no id.", sent=True)
    return wire.safe(found)


@contextmanager
def _permitted() -> Iterator[None]:
    """A 403 is Unsupported elsewhere; here it is about the token."""
    try:
        yield
    except Unsupported as error:
        hint = f"Give the organisation access token the permissions {SCOPES}. {error.hint}"
        raise Unavailable("Mollie does not accept this shop's keys at the moment.", hint) from error
