"""The webhook that Klarna's Partner API (v2) keeps for us, and the key that signs for it.

A key is shown once, when it is made; a webhook names the key that it is signed with. So a webhook whose key we have is
left as it is, and any other of our address is replaced. How one is changed is not documented well enough to be used.
Source: https://docs.klarna.com/api/kn/klarna-notifications-api/klarna-notifications-v2-r6
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from portal.gateways import _klarna as told
from portal.gateways import base, wire
from portal.gateways._klarna import KeysRefused
from portal.gateways.base import Declined, GatewayError, Gone, Registration, Unavailable, Unsupported
from portal.gateways.wire import Json, objects, text

Ask = Callable[..., Awaitable[Any]]  # method, path, and the rest as `Http.ask` has it

WEBHOOKS, KEYS = "/v2/notification/webhooks", "/v2/notification/signing-keys"
EVENTS, VERSION = ("payment.request.state-change.completed",), "v2"
TAKEN, DONE = "409", (200, 201, 202, 204)  # what comes with the latter is not documented, and not needed
BY_HAND = (
    "Classic accounts have no webhooks of their own: give our address as notification and push address with every "
    "order, or have your shop forward these calls."
)
PORTAL = "Klarna partner portal > Webhooks"


def only_v2(variant: str | None) -> None:
    if variant != "v2":
        raise Unsupported("", BY_HAND)


async def register(ask: Ask, url: str, credentials: Mapping[str, str]) -> Registration:
    ours = tuple(credentials.get(name, "").strip() for name in ("signing_key_id", "signing_key"))
    with _permitted():
        listed = objects(wire.obj(await ask("GET", WEBHOOKS)).get("webhooks") or [])
        found = [one for one in listed if one.get("url") == url]
        known = all(ours) and await _is_there(ask, ours[0])
        kept = next((one for one in found if known and _is_right(one, ours[0])), None)
        if kept is None:
            pair = ours if known else await _new_key(ask)
            kept = await _make(ask, url, pair[0], found)
        else:
            pair = ours
    fields = dict(zip(("signing_key_id", "signing_key"), pair, strict=True))
    if all(ours) and pair != ours:  # what is on its way is signed with the former key for twelve hours
        fields |= {"signing_key_id_old": ours[0], "signing_key_old": ours[1]}
    rest = [one for one in found if _id(one) != _id(kept)]
    return Registration(_id(kept), fields, await _remove(ask, rest))


def _is_right(one: Json, key_id: str) -> bool:
    said = (one.get("signing_key_id"), one.get("event_types"), one.get("event_version"), one.get("status"))
    return said == (key_id, list(EVENTS), VERSION, "ENABLED")


async def _is_there(ask: Ask, key_id: str) -> bool:
    listed = objects(wire.obj(await ask("GET", KEYS)).get("signing_keys") or [])
    return any(one.get("signing_key_id") == key_id for one in listed)


async def _new_key(ask: Ask) -> tuple[str, str]:
    made = wire.obj(await ask("POST", KEYS))
    key_id, key = text(made.get("signing_key_id")), text(made.get("signing_key"))
    if not key_id or not key:
        raise Unavailable("Klarna does not answer at the moment.", "The new key has no text.", sent=True)
    return key_id, key


async def _make(ask: Ask, url: str, key_id: str, former: Sequence[Json]) -> Json:
    """Klarna may refuse a second one of the same address and events: then the former goes first."""
    wish = {"url": url, "event_types": list(EVENTS), "event_version": VERSION, "signing_key_id": key_id}
    wish["status"] = "ENABLED"
    try:
        return wire.obj(await ask("POST", WEBHOOKS, json=wish, refused=_refused))
    except Declined as declined:
        if declined.reason != TAKEN or not former:
            raise
    for one in former:
        await _delete(ask, _id(one))
    return wire.obj(await ask("POST", WEBHOOKS, json=wish))


def _refused(status: int, code: str, message: str) -> base.GatewayError | None:
    if status == 409:
        return Declined("Klarna did not accept this.", f"Klarna says: HTTP 409 {code} {message}", TAKEN)
    return told.refused(status, code, message)


async def unregister(ask: Ask, remote_id: str) -> None:
    with _permitted():
        await _delete(ask, remote_id)


async def _delete(ask: Ask, remote_id: str) -> None:
    with suppress(Gone):
        await ask("DELETE", f"{WEBHOOKS}/{wire.safe(remote_id)}", empty=DONE)


async def test(ask: Ask, remote_id: str) -> str:
    with _permitted():
        wish = {"event_type": EVENTS[0], "event_version": VERSION}
        await ask("POST", f"{WEBHOOKS}/{wire.safe(remote_id)}/simulate", json=wish, empty=DONE)
    return EVENTS[0]


async def _remove(ask: Ask, former: Sequence[Json]) -> str:
    left = []
    for one in former:
        try:
            await _delete(ask, _id(one))
        except GatewayError:
            left.append(_id(one))
    return f"Remove the former webhook of this address in the {PORTAL}: {', '.join(left)}." if left else ""


def _id(said: Json) -> str:
    found = text(said.get("webhook_id"))
    if found is None:
        raise Unavailable("Klarna does not answer at the moment.", "A webhook has no id.", sent=True)
    return found


@contextmanager
def _permitted() -> Iterator[None]:
    try:
        yield
    except KeysRefused as refused:
        hint = f"The API key needs Klarna's Notification API; else register in the {PORTAL} by hand. {refused.hint}"
        raise KeysRefused(refused.customer, hint) from refused
