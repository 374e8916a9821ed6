"""Deliveries: two signed forms and one that is not.

SHA-512 over a few texts exactly as they came, with the key behind them; neither status nor time is covered, so an event
only says what to ask for. Source: https://docs.midtrans.com/reference/receiving-notifications
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from portal.gateways import wire
from portal.gateways._midtrans import sales
from portal.gateways.base import BadSignature, Event
from portal.gateways.wire import Json, part, text

# What is covered, and how it must look so that no part can borrow a digit of the next.
CODE = r"[2-5][0-9]{2}"
PAYMENT = {"order_id": r".+", "status_code": CODE, "gross_amount": r"(0|[1-9][0-9]*)(\.[0-9]{1,2})?"}
ACCOUNT = {"account_id": r".+", "account_status": r"[A-Z]+", "status_code": CODE}
KEYS = ("server_key", "signature_key_secret")


def events(credentials: Mapping[str, str], body: bytes) -> list[Event]:
    """Proved where they are signed; a subscription's notices are not and only make us look. The dashboard's test button
    sends JSON within a text: of no interest."""
    if body.lstrip()[:1] == b'"':
        return []
    said = _read(body)
    whose = text(said.get("merchant_id") or part(said, "subscription").get("merchant_id"))
    ours = credentials.get("merchant_id")
    if whose and ours and whose != ours:
        raise BadSignature("The notification is for another merchant id.")
    if said.keys() & {"account_id", "account_status"}:
        _prove(credentials, said, ACCOUNT)
    elif said.keys() & {*PAYMENT, "signature_key", "transaction_id", "transaction_status"}:
        _prove(credentials, said, PAYMENT)
    try:
        return sales.events(said)
    except ValueError as error:
        raise BadSignature(str(error)) from None


def _read(body: bytes) -> Json:
    """The object of a delivery; a name that comes twice would leave it open which of its values was signed."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise BadSignature("A field comes twice.")
        return dict(pairs)

    said = wire.proved_json(body)
    json.loads(body, object_pairs_hook=once)
    return said


def _prove(credentials: Mapping[str, str], said: Json, shapes: Mapping[str, str]) -> None:
    given = [said.get(name) for name in (*shapes, "signature_key")]
    if not all(isinstance(one, str) for one in given) or not all(
        re.fullmatch(shape, said[name]) for name, shape in shapes.items()
    ):
        raise BadSignature("A field that the signature covers is missing or is none.")
    covered = "".join(said[name] for name in shapes)
    keys = [credentials[name] for name in KEYS if credentials.get(name)]
    expected = [hashlib.sha512(f"{covered}{key}".encode()).hexdigest() for key in keys]
    if not any(wire.same(said["signature_key"], one) for one in expected):
        raise BadSignature("The signature is wrong. Is the server key here the one of this account?")
