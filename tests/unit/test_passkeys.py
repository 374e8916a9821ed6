"""Passkeys, with an authenticator of our own: what it signs opens, and nothing else does."""

import hashlib
import json
import os
from base64 import urlsafe_b64encode
from datetime import timedelta
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from portal import clock, merchants, models, passkeys
from portal.db import Database
from portal.merchants import Person
from portal.settings import Settings
from portal.vault import Seal
from tests.unit.test_merchants import begin

SETTINGS = Settings(scheme="https", admin_host="admin.portal.example", base_domain="portal.example")
SEAL = Seal("the secret of these tests")
PRESENT, VERIFIED, WITH_KEY = 1, 4, 64


def b64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


class Authenticator:
    """A security key in software: one P-256 key."""

    def __init__(self, origin: str = "https://admin.portal.example", flags: int = PRESENT | VERIFIED) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.id = os.urandom(16)
        self.origin, self.flags, self.count = origin, flags, 0

    def client_data(self, kind: str, challenge: str) -> bytes:
        return json.dumps({"type": kind, "challenge": challenge, "origin": self.origin}).encode()

    def data(self, rp_id: str, more: bytes = b"", flags: int = 0) -> bytes:
        self.count += 1
        head = hashlib.sha256(rp_id.encode()).digest() + bytes([self.flags | flags])
        return head + self.count.to_bytes(4, "big") + more

    def make(self, asked: dict[str, Any]) -> dict[str, Any]:
        numbers = self.key.public_key().public_numbers()
        cose = {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")}
        attested = bytes(16) + len(self.id).to_bytes(2, "big") + self.id + cbor2.dumps(cose)
        data = self.data(asked["options"]["rp"]["id"], attested, WITH_KEY)
        return self._answer(
            clientDataJSON=b64(self.client_data("webauthn.create", asked["options"]["challenge"])),
            attestationObject=b64(cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})),
        )

    def show(self, asked: dict[str, Any]) -> dict[str, Any]:
        client = self.client_data("webauthn.get", asked["options"]["challenge"])
        data = self.data(asked["options"]["rpId"])
        signature = self.key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(SHA256()))
        return self._answer(clientDataJSON=b64(client), authenticatorData=b64(data), signature=b64(signature))

    def _answer(self, **response: str) -> dict[str, Any]:
        return {"id": b64(self.id), "rawId": b64(self.id), "type": "public-key", "response": response}


def register(database: Database, person: Person, device: Authenticator) -> None:
    asked = database.read_now(passkeys.registration, SETTINGS, SEAL, person, clock.now())
    database.write_now(
        passkeys.register, SETTINGS, SEAL, person, asked["note"], device.make(asked), "My key", clock.now()
    )


def ask(database: Database, user_id: int | None = None) -> dict[str, Any]:
    return database.read_now(passkeys.authentication, SETTINGS, SEAL, user_id, clock.now())


def show(database: Database, asked: dict[str, Any], shown: dict[str, Any], user_id: int | None = None) -> int:
    return database.write_now(
        passkeys.authenticate, SETTINGS, SEAL, user_id, asked["note"], shown, clock.now()
    )


def test_a_passkey_is_made_and_opens(database: Database) -> None:
    olga, device = begin(database), Authenticator()
    register(database, olga, device)
    (row,) = database.read_now(passkeys.own, olga.user_id)
    assert row.name == "My key"
    asked = ask(database)
    assert show(database, asked, device.show(asked)) == olga.user_id
    kept = database.read_now(lambda db: db.get_one(models.Passkey, row.id))
    assert (kept.sign_count, kept.last_used_at is not None) == (2, True)


def test_an_answer_is_good_once_and_for_five_minutes(database: Database) -> None:
    olga, device = begin(database), Authenticator()
    register(database, olga, device)
    asked = ask(database)
    shown = device.show(asked)
    show(database, asked, shown)
    with pytest.raises(passkeys.Refused, match="before"):
        show(database, asked, shown)
    asked = ask(database)
    clock.set_offset(timedelta(minutes=6))
    with pytest.raises(passkeys.Refused, match="late"):
        show(database, asked, device.show(asked))


def test_what_another_device_or_page_signs_opens_nothing(database: Database) -> None:
    olga, device = begin(database), Authenticator()
    register(database, olga, device)
    stolen = Authenticator()
    stolen.id = device.id  # says it is the same, and has another key
    asked = ask(database)
    with pytest.raises(passkeys.Refused):
        show(database, asked, stolen.show(asked))
    for change in ({"origin": "https://evil.example"}, {"flags": PRESENT}, {"flags": VERIFIED}):
        before = device.origin, device.flags
        for name, value in change.items():
            setattr(device, name, value)
        asked = ask(database)
        with pytest.raises(passkeys.Refused):
            show(database, asked, device.show(asked))
        device.origin, device.flags = before
    for broken in ({}, {"id": "!", "rawId": "!"}, {"rawId": b64(device.id), "response": "x"}):
        asked = ask(database)
        with pytest.raises(passkeys.Refused):
            show(database, asked, broken)


def test_a_copied_key_is_noticed_by_its_count(database: Database) -> None:
    olga, device = begin(database), Authenticator()
    register(database, olga, device)
    device.count = 10
    asked = ask(database)
    show(database, asked, device.show(asked))
    device.count = 3
    asked = ask(database)
    with pytest.raises(passkeys.Refused):
        show(database, asked, device.show(asked))


def test_it_proves_its_own_person_only(database: Database) -> None:
    olga, device = begin(database), Authenticator()
    kurt, other = begin(database, "kurt@kora.example", "Kora"), Authenticator()
    register(database, olga, device)
    register(database, kurt, other)
    asked = ask(database, olga.user_id)
    assert [one["id"] for one in asked["options"]["allowCredentials"]] == [b64(device.id)]
    with pytest.raises(passkeys.Refused, match="unknown"):
        show(database, asked, other.show(asked), olga.user_id)
    # What was asked of nobody in particular is no answer to what was asked of her.
    asked = ask(database)
    with pytest.raises(passkeys.Refused, match="late"):
        show(database, asked, device.show(asked), olga.user_id)
    assert not database.write_now(passkeys.remove, kurt, database.read_now(passkeys.own, olga.user_id)[0].id)


def test_a_note_for_one_person_registers_nothing_for_another(database: Database) -> None:
    olga, kurt, device = begin(database), begin(database, "kurt@kora.example", "Kora"), Authenticator()
    asked = database.read_now(passkeys.registration, SETTINGS, SEAL, olga, clock.now())
    with pytest.raises(passkeys.Refused):
        database.write_now(
            passkeys.register, SETTINGS, SEAL, kurt, asked["note"], device.make(asked), "x", clock.now()
        )
    assert database.read_now(passkeys.own, kurt.user_id) == []


def test_with_a_passkey_the_mail_alone_is_half_the_way(database: Database) -> None:
    olga, device = begin(database), Authenticator()
    register(database, olga, device)
    session = database.write_now(merchants.open_session, olga.user_id, olga.merchant_id, "", "", clock.now())
    found = database.read_now(merchants.load_session, session, clock.now())
    assert found is not None
    assert found.second_factor == "wanted"
    database.write_now(merchants.prove, found.person.session_id, clock.now(), second=True)
    again = database.read_now(merchants.load_session, session, clock.now())
    assert again is not None
    assert again.second_factor == "given"


def test_spent_challenges_are_forgotten(database: Database) -> None:
    olga, device = begin(database), Authenticator()
    register(database, olga, device)
    clock.set_offset(timedelta(minutes=11))
    database.write_now(passkeys.forget_old, clock.now())
    kept = database.read_now(lambda db: db.query(models.Setting).count())
    assert kept == 0
