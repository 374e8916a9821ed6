"""Processor keys at rest: AES-256-GCM under a key per portal, derived from a master key that is not in the
database. Bound to portal, account and field, so a sealed value is worthless elsewhere."""

import base64
import json
import os
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class VaultError(Exception):
    """A sealed value that no key of the ring opens."""


class Credentials(dict[str, str]):
    """Opened credentials. They cannot be printed."""

    def __repr__(self) -> str:
        return f"<credentials: {', '.join(self)}>"

    __str__ = __repr__


class Vault:
    """Seals and opens credentials. `ring` is base64 keys of 32 bytes, separated by commas; the first one seals."""

    def __init__(self, ring: str) -> None:
        self._keys = [base64.b64decode(part) for part in ring.split(",") if part.strip()]
        if not self._keys:
            raise VaultError(
                "PORTAL_MASTER_KEYS is empty. Make a key with `portal keys new` and keep it outside the database."
            )
        if any(len(key) != 32 for key in self._keys):
            raise VaultError("PORTAL_MASTER_KEYS: each key is 32 bytes in base64.")

    def seal(self, portal_id: int, account_id: int, credentials: Mapping[str, str]) -> bytes:
        sealed = {
            field: _seal(
                _derive(self._keys[0], portal_id), value.encode(), _bound(portal_id, account_id, field)
            )
            for field, value in credentials.items()
        }
        return json.dumps(sealed).encode()

    def open(self, portal_id: int, account_id: int, blob: bytes) -> Credentials:
        """The credentials of an account; VaultError where no key of the ring fits or a value was moved."""
        return Credentials(
            {
                field: self._open(portal_id, value, _bound(portal_id, account_id, field)).decode()
                for field, value in json.loads(blob).items()
            }
        )

    def _open(self, portal_id: int, value: str, bound: bytes) -> bytes:
        raw = base64.b64decode(value)
        for key in self._keys:
            try:
                return AESGCM(_derive(key, portal_id)).decrypt(raw[:12], raw[12:], bound)
            except InvalidTag:
                continue
        raise VaultError("No key of PORTAL_MASTER_KEYS opens these credentials.")


class Seal:
    """Seals short-lived values that a browser carries for us, bound to a context such as its session."""

    def __init__(self, secret: str) -> None:
        self._key = HKDF(SHA256(), 32, None, b"portal seal").derive(secret.encode())

    def seal(self, value: Mapping[str, Any], context: str) -> str:
        raw = _seal(self._key, json.dumps(value).encode(), context.encode())
        return raw.replace("+", "-").replace("/", "_").rstrip("=")

    def open(self, text: str, context: str) -> dict[str, Any] | None:
        """The value; None where the text was not sealed by us for this context."""
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            opened = AESGCM(self._key).decrypt(raw[:12], raw[12:], context.encode())
        except (InvalidTag, ValueError):
            return None
        value: dict[str, Any] = json.loads(opened)
        return value

    def word(self, context: str) -> str:
        """An unguessable word of 32 characters, always the same for one context."""
        raw = HKDF(SHA256(), 24, None, f"portal word {context}".encode()).derive(self._key)
        return base64.urlsafe_b64encode(raw).decode()


def new_key() -> str:
    """A fresh master key for the ring."""
    return base64.b64encode(os.urandom(32)).decode()


def _derive(master: bytes, portal_id: int) -> bytes:
    return HKDF(SHA256(), 32, None, f"portal {portal_id}".encode()).derive(master)


def _seal(key: bytes, value: bytes, bound: bytes) -> str:
    nonce = os.urandom(12)
    return base64.b64encode(nonce + AESGCM(key).encrypt(nonce, value, bound)).decode()


def _bound(portal_id: int, account_id: int, field: str) -> bytes:
    return f"{portal_id}/{account_id}/{field}".encode()
