"""The standard webhook that Adyen keeps for us, by its Management API.

Its key can be made anew at any time and is shown only then, so one that is there already gets a new one. The webhook
about stored payment methods cannot be made by a call.
Source: https://docs.adyen.com/api-explorer/Management/3/post/merchants/(merchantId)/webhooks
"""

import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from portal.gateways import wire
from portal.gateways._adyen import FOLLOWED, REFUNDS
from portal.gateways.base import Declined, GatewayError, Gone, Registration, Unavailable
from portal.gateways.wire import Json, text

# Asks the Management API below the webhooks of this merchant account: method, path, and the rest as `Http.ask` has it.
Ask = Callable[..., Awaitable[Any]]

ROLE = "Management API—Webhooks read and write"
EVENTS = sorted({*FOLLOWED, *REFUNDS, "AUTHORISATION", "CANCEL_OR_REFUND", "RECURRING_CONTRACT"})
# What the signature leaves out and a payment is found by: whose it is, and whether they were there.
DETAILS = ("includeShopperDetail", "includeShopperInteraction", "addRawAcquirerResult")
TEST = (
    "REPORT_AVAILABLE"  # the one event that Adyen can send as a test and that makes no payment or refund here
)
PAGES = 20
NO_ANSWER = "Adyen does not answer at the moment."
BY_HAND = (
    "Two things stay to be done by hand in the Customer Area: add a webhook of the kind Recurring tokens life cycle "
    "events with the same address and put its HMAC key here; and under Developers > Additional data switch on card "
    "summary, expiry date and recurring details."
)


async def register(ask: Ask, url: str, credentials: Mapping[str, str]) -> Registration:
    user = credentials.get("webhook_username") or "portal"
    password = credentials.get("webhook_password") or secrets.token_urlsafe(32)
    wish = {
        "url": url,
        "active": True,
        "communicationFormat": "json",
        "description": "Customer portal",
        "username": user,
        "password": password,
        "additionalSettings": {"includeEventCodes": EVENTS, "properties": dict.fromkeys(DETAILS, True)},
    }
    with _permitted():
        found = [one for one in await _listed(ask) if (one.get("url"), one.get("type")) == (url, "standard")]
        if found:
            kept = found[0]
            await ask("PATCH", f"/{wire.safe(_id(kept))}", json=wish)
        else:
            kept = wire.obj(await ask("POST", "", json={"type": "standard", **wish}))
        made = wire.obj(await ask("POST", f"/{wire.safe(_id(kept))}/generateHmac"))
    key, former = text(made.get("hmacKey")), credentials.get("hmac_key", "")
    if key is None:
        raise Unavailable(NO_ANSWER, "The new HMAC key is missing in the answer.", sent=True)
    fields = {"hmac_key": key, "webhook_username": user, "webhook_password": password}
    fields |= (
        {"hmac_key_old": former} if former else {}
    )  # a new key takes its time to reach all of Adyen's senders
    notes = [await _remove(ask, found[1:]), "" if credentials.get("token_hmac_key") else BY_HAND]
    return Registration(_id(kept), fields, " ".join(filter(None, notes)))


async def unregister(ask: Ask, remote_id: str) -> None:
    with _permitted(), suppress(Gone):
        await ask("DELETE", f"/{wire.safe(remote_id)}")


async def test(ask: Ask, remote_id: str) -> str | None:
    """Adyen sends at once and says what became of it."""
    with _permitted():
        said = wire.obj(await ask("POST", f"/{wire.safe(remote_id)}/test", json={"types": [TEST]}))
    tried = wire.objects(said.get("data") or [])
    if tried and not any(one.get("status") == "success" for one in tried):
        told = " ".join(filter(None, (text(tried[0].get(name)) for name in ("responseCode", "output"))))
        raise Declined("", f"Adyen tried and could not deliver it: {told or 'no reason was given'}.")
    return TEST if tried else None


async def _listed(ask: Ask) -> list[Json]:
    found: list[Json] = []
    for number in range(1, PAGES + 1):
        said = wire.obj(await ask("GET", "", params={"pageNumber": number, "pageSize": 100}) or {})
        found += wire.objects(said.get("data") or [])
        if number >= (wire.whole(said.get("pagesTotal")) or 1):
            break
    return found


async def _remove(ask: Ask, extra: Sequence[Json]) -> str:
    """Two tries at once may have made two."""
    left = []
    for one in extra:
        try:
            await unregister(ask, _id(one))
        except GatewayError:
            left.append(_id(one))
    told = "Remove the other webhooks with this address in the Customer Area:"
    return f"{told} {', '.join(left)}." if left else ""


def _id(said: Json) -> str:
    found = text(said.get("id"))
    if found is None:
        raise Unavailable(NO_ANSWER, "A webhook has no id.", sent=True)
    return found


@contextmanager
def _permitted() -> Iterator[None]:
    try:
        yield
    except Unavailable as error:
        if getattr(error, "status", None) != 403:
            raise
        hint = f"Give the API credential the role {ROLE}, or add the webhook by hand. {error.hint}"
        raise Unavailable(error.customer, hint) from error
