"""Passkeys (WebAuthn) of merchants' people: a way in of its own, and the second step after a mail."""

import json
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import webauthn
from sqlalchemy import delete, select
from sqlalchemy.orm import Session
from sqlmodel import col
from webauthn.helpers import base64url_to_bytes, options_to_json
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    AuthenticatorTransport,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from portal import merchants, models, sync
from portal.ids import new_id
from portal.login import digest
from portal.merchants import Person
from portal.settings import Settings
from portal.vault import Seal

LIFE = timedelta(minutes=5)
MOST = 10  # of one person
_SPENT = "passkey:"


class Refused(Exception):
    """The answer of the authenticator proves nothing."""


def registration(
    db: Session, settings: Settings, seal: Seal, person: Person, now: datetime
) -> dict[str, Any]:
    """What the browser is to be given to make a passkey, and our sealed note of it."""
    challenge = secrets.token_bytes(32)
    options = webauthn.generate_registration_options(
        rp_id=settings.admin_host,
        rp_name="Customer Portal",
        user_id=str(person.user_id).encode(),
        user_name=person.email,
        user_display_name=person.called,
        challenge=challenge,
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.REQUIRED,
            user_verification=UserVerificationRequirement.REQUIRED,
        ),
        exclude_credentials=_descriptors(db, person.user_id),
    )
    return _with_note(seal, options_to_json(options), challenge, "register", person.user_id, now)


def register(
    db: Session,
    settings: Settings,
    seal: Seal,
    person: Person,
    note: str,
    credential: dict[str, Any],
    name: str,
    now: datetime,
) -> None:
    """Keep a new passkey. Refused where the authenticator's answer is not to what was asked."""
    challenge = _challenge(db, seal, note, "register", person.user_id, now)
    try:
        made = webauthn.verify_registration_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=settings.admin_host,
            expected_origin=settings.origin(settings.admin_host),
            require_user_verification=True,
        )
    except (WebAuthnException, ValueError, KeyError, TypeError) as error:
        raise Refused(type(error).__name__) from error
    if len(own(db, person.user_id)) >= MOST:
        raise Refused("too many")
    transports = (credential.get("response") or {}).get("transports") or []
    fresh = sync.insert_once(
        db,
        models.Passkey.__table__,  # type: ignore[attr-defined]
        {
            "id": new_id(),
            "user_id": person.user_id,
            "credential_id": made.credential_id,
            "public_key": made.credential_public_key,
            "sign_count": made.sign_count,
            "transports": [str(one)[:20] for one in transports][:8],
            "name": name.strip()[:60] or "Passkey",
            "created_at": now,
        },
    )
    if not fresh:
        raise Refused("known already")
    merchants.prove(db, person.session_id, now, second=True)
    merchants.audit(db, person, "factor.passkey_added", subject=name)


def authentication(
    db: Session, settings: Settings, seal: Seal, user_id: int | None, now: datetime
) -> dict[str, Any]:
    """What the browser is to be given to use a passkey; of this person only, where it is known who asks."""
    challenge = secrets.token_bytes(32)
    options = webauthn.generate_authentication_options(
        rp_id=settings.admin_host,
        challenge=challenge,
        allow_credentials=_descriptors(db, user_id) if user_id is not None else None,
        user_verification=UserVerificationRequirement.REQUIRED,
    )
    return _with_note(seal, options_to_json(options), challenge, "authenticate", user_id or 0, now)


def authenticate(
    db: Session,
    settings: Settings,
    seal: Seal,
    user_id: int | None,
    note: str,
    credential: dict[str, Any],
    now: datetime,
) -> int:
    """The user who has shown a passkey; Refused where it is none of theirs or the answer proves nothing."""
    challenge = _challenge(db, seal, note, "authenticate", user_id or 0, now)
    try:
        raw = base64url_to_bytes(str(credential.get("rawId") or credential.get("id") or ""))
    except ValueError as error:
        raise Refused("malformed") from error
    row = db.execute(
        select(models.Passkey).where(col(models.Passkey.credential_id) == raw).with_for_update()
    ).scalar_one_or_none()
    if row is None or (user_id is not None and row.user_id != user_id):
        raise Refused("unknown")
    try:
        shown = webauthn.verify_authentication_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=settings.admin_host,
            expected_origin=settings.origin(settings.admin_host),
            credential_public_key=row.public_key,
            credential_current_sign_count=row.sign_count,
            require_user_verification=True,
        )
    except (WebAuthnException, ValueError, KeyError, TypeError) as error:
        raise Refused(type(error).__name__) from error
    row.sign_count, row.last_used_at = shown.new_sign_count, now
    return row.user_id


@dataclass(frozen=True, slots=True)
class KeyRow:
    id: int
    name: str
    created_at: datetime
    last_used_at: datetime | None


def own(db: Session, user_id: int) -> list[KeyRow]:
    """Somebody's passkeys."""
    row = models.Passkey
    found = db.execute(
        select(row).where(col(row.user_id) == user_id).order_by(col(row.id)).limit(MOST)
    ).scalars()
    return [KeyRow(one.id, one.name, one.created_at, one.last_used_at) for one in found]


def remove(db: Session, person: Person, key_id: int) -> bool:
    row = models.Passkey
    gone = db.execute(
        delete(row).where(col(row.id) == key_id, col(row.user_id) == person.user_id).returning(col(row.name))
    ).one_or_none()
    if gone is not None:
        merchants.audit(db, person, "factor.passkey_removed", subject=gone.name)
    return gone is not None


def forget_old(db: Session, now: datetime) -> None:
    """Challenges that were spent need to be known only as long as they could be shown again."""
    row = models.Setting
    db.execute(delete(row).where(col(row.name).like(f"{_SPENT}%"), col(row.at) <= now - 2 * LIFE))


def _descriptors(db: Session, user_id: int) -> list[PublicKeyCredentialDescriptor]:
    rows = db.execute(select(models.Passkey).where(col(models.Passkey.user_id) == user_id)).scalars()
    known = {one.value: one for one in AuthenticatorTransport}
    return [
        PublicKeyCredentialDescriptor(
            id=row.credential_id, transports=[known[one] for one in row.transports or [] if one in known]
        )
        for row in rows
    ]


def _with_note(
    seal: Seal, options: str, challenge: bytes, what: str, user_id: int, now: datetime
) -> dict[str, Any]:
    note = {"challenge": challenge.hex(), "until": (now + LIFE).timestamp()}
    return {"options": json.loads(options), "note": seal.seal(note, f"passkey {what} {user_id}")}


def _challenge(db: Session, seal: Seal, note: str, what: str, user_id: int, now: datetime) -> bytes:
    """The challenge of a note of ours, good once."""
    opened = seal.open(note, f"passkey {what} {user_id}")
    if opened is None or opened["until"] < now.timestamp():
        raise Refused("too late")
    name = f"{_SPENT}{digest(opened['challenge'])}"
    values = {"name": name, "value": "spent", "at": now}
    if not sync.insert_once(db, models.Setting.__table__, values):  # type: ignore[attr-defined]
        raise Refused("shown before")
    return bytes.fromhex(opened["challenge"])
