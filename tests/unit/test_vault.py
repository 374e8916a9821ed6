"""Sealed values open with the right key, in the right place, and nowhere else."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.vault import Credentials, Seal, Vault, VaultError, new_key
from tests.unit.builders import MASTER_KEY

KEYS = {"secret_key": "sk_test_51Hx", "webhook_secret": "whsec_abc"}


def test_what_was_sealed_opens() -> None:
    vault = Vault(MASTER_KEY)
    assert vault.open(1, 2, vault.seal(1, 2, KEYS)) == KEYS


@given(st.dictionaries(st.text(min_size=1), st.text(), max_size=5))
def test_any_words_come_back(values: dict[str, str]) -> None:
    vault = Vault(MASTER_KEY)
    assert vault.open(1, 2, vault.seal(1, 2, values)) == values


def test_nothing_of_a_secret_stands_in_the_sealed_bytes() -> None:
    sealed = Vault(MASTER_KEY).seal(1, 2, KEYS)
    everything = sealed + b"".join(base64.b64decode(value) for value in json.loads(sealed).values())
    assert b"sk_test" not in everything
    assert b"whsec" not in everything


def test_sealing_twice_gives_different_bytes() -> None:
    vault = Vault(MASTER_KEY)
    assert vault.seal(1, 2, KEYS) != vault.seal(1, 2, KEYS)


@pytest.mark.parametrize(("portal_id", "account_id"), [(9, 2), (1, 9), (2, 1)])
def test_values_moved_to_another_portal_or_account_do_not_open(portal_id: int, account_id: int) -> None:
    vault = Vault(MASTER_KEY)
    with pytest.raises(VaultError):
        vault.open(portal_id, account_id, vault.seal(1, 2, KEYS))


def test_values_swapped_between_fields_do_not_open() -> None:
    vault = Vault(MASTER_KEY)
    sealed = json.loads(vault.seal(1, 2, KEYS))
    sealed["secret_key"], sealed["webhook_secret"] = sealed["webhook_secret"], sealed["secret_key"]
    with pytest.raises(VaultError):
        vault.open(1, 2, json.dumps(sealed).encode())


@pytest.mark.parametrize("byte", [0, 11, 12, -1])
def test_a_changed_byte_does_not_open(byte: int) -> None:
    vault = Vault(MASTER_KEY)
    sealed = json.loads(vault.seal(1, 2, {"secret_key": "sk_test"}))
    raw = bytearray(base64.b64decode(sealed["secret_key"]))
    raw[byte] ^= 1
    sealed["secret_key"] = base64.b64encode(raw).decode()
    with pytest.raises(VaultError):
        vault.open(1, 2, json.dumps(sealed).encode())


def test_a_ring_opens_what_an_older_key_sealed_and_seals_with_the_first() -> None:
    old, new = new_key(), new_key()
    sealed_by_old = Vault(old).seal(1, 2, KEYS)
    ring = Vault(f"{new}, {old}")
    assert ring.open(1, 2, sealed_by_old) == KEYS
    assert Vault(new).open(1, 2, ring.seal(1, 2, KEYS)) == KEYS
    with pytest.raises(VaultError):
        Vault(old).open(1, 2, ring.seal(1, 2, KEYS))


def test_a_stranger_s_key_opens_nothing() -> None:
    with pytest.raises(VaultError, match="PORTAL_MASTER_KEYS"):
        Vault(new_key()).open(1, 2, Vault(new_key()).seal(1, 2, KEYS))


def test_opened_credentials_cannot_be_printed() -> None:
    opened = Vault(MASTER_KEY).open(1, 2, Vault(MASTER_KEY).seal(1, 2, KEYS))
    for words in (str(opened), repr(opened), f"{opened}", f"{[opened]}"):
        assert "sk_test" not in words
        assert "secret_key" in words
    assert isinstance(opened, Credentials)


@pytest.mark.parametrize(
    ("ring", "says"),
    [("", "is empty"), (" , ", "is empty"), (base64.b64encode(b"short").decode(), "32 bytes")],
)
def test_a_ring_that_is_no_ring_says_what_to_do(ring: str, says: str) -> None:
    with pytest.raises(VaultError, match=says):
        Vault(ring)


def test_keys_are_new_each_time_and_long_enough() -> None:
    keys = {new_key() for _ in range(50)}
    assert len(keys) == 50
    assert all(len(base64.b64decode(key)) == 32 for key in keys)


def test_a_sealed_value_opens_in_its_own_context_alone() -> None:
    seal = Seal("secret")
    text = seal.seal({"to": "https://pay.example/?a=b&c=d"}, "session 1")
    assert seal.open(text, "session 1") == {"to": "https://pay.example/?a=b&c=d"}
    assert seal.open(text, "session 2") is None
    assert Seal("another secret").open(text, "session 1") is None


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none(), max_size=4), st.text())
def test_sealed_values_stand_in_addresses_as_they_are(value: dict[str, object], context: str) -> None:
    text = Seal("secret").seal(value, context)
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert Seal("secret").open(text, context) == value


@pytest.mark.parametrize("text", ["", "a", "abcd", "é" * 30, "A" * 200, "====", "../../etc"])
def test_what_we_did_not_seal_is_nothing(text: str) -> None:
    assert Seal("secret").open(text, "session 1") is None
