"""The second factor of merchants' people: time-based codes (RFC 6238) by an authenticator app, and recovery codes."""

import hashlib
import hmac
import secrets
import struct
from base64 import b32decode, b32encode
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote, urlencode

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import models
from portal.login import digest
from portal.vault import Vault

STEP_S, DIGITS = 30, 6
DRIFT = 1  # steps before and after that are taken too
RECOVERY_CODES = 10
TRIES, TRIES_S = 5, 300  # wrong codes of a person, and for how long they are counted


@dataclass(frozen=True, slots=True)
class Factors:
    """What somebody has set up beside their mailbox."""

    app: bool
    passkeys: int
    recovery: int  # codes that are left

    @property
    def any(self) -> bool:
        return self.app or self.passkeys > 0


def factors(db: Session, user_id: int) -> Factors:
    user = db.get_one(models.User, user_id)
    keys = db.execute(select(func.count()).where(col(models.Passkey.user_id) == user_id)).scalar_one()
    return Factors(user.totp_confirmed_at is not None, keys, len(user.recovery_hashes or ()))


def begin(db: Session, vault: Vault, user_id: int) -> bytes:
    """A new secret of 20 bytes, kept sealed; it counts once a code of it was given."""
    secret = secrets.token_bytes(20)
    user = db.get_one(models.User, user_id)
    user.totp = vault.seal(0, user_id, {"totp": b32encode(secret).decode()})
    user.totp_confirmed_at = user.totp_step = None
    return secret


def pending(db: Session, vault: Vault, user_id: int) -> bytes | None:
    """The secret that waits for its first code."""
    user = db.get_one(models.User, user_id)
    return _secret(vault, user) if user.totp and user.totp_confirmed_at is None else None


def confirm(db: Session, vault: Vault, user_id: int, code: str, now: datetime) -> list[str] | None:
    """The first code proves that the app has the secret. Returns recovery codes, shown once; None: not the code."""
    user = db.get_one(models.User, user_id)
    if not user.totp or user.totp_confirmed_at is not None:
        return None
    step = _matching(_secret(vault, user), code, now)
    if step is None:
        return None
    user.totp_confirmed_at, user.totp_step = now, step
    return new_recovery(db, user_id)


def new_recovery(db: Session, user_id: int) -> list[str]:
    """Fresh recovery codes in place of the old ones; only their hashes are kept."""
    codes = ["-".join((secrets.token_hex(4), secrets.token_hex(4))) for _ in range(RECOVERY_CODES)]
    db.get_one(models.User, user_id).recovery_hashes = [digest(_plain(code)) for code in codes]
    return codes


def remove(db: Session, user_id: int) -> None:
    user = db.get_one(models.User, user_id)
    user.totp = user.totp_confirmed_at = user.totp_step = None
    if not db.execute(select(col(models.Passkey.id)).where(col(models.Passkey.user_id) == user_id)).first():
        user.recovery_hashes = None


def spend(db: Session, vault: Vault, user_id: int, code: str, now: datetime) -> bool:
    """Whether this code is right; each works once. After five wrong ones within five minutes none is, for as long."""
    user = db.execute(
        select(models.User).where(col(models.User.id) == user_id).with_for_update()
    ).scalar_one()
    if _over_limit(db, user_id, now):
        return False
    right = _spend_step(vault, user, code, now) or _spend_recovery(user, code)
    if not right:
        _count_try(db, user_id, now)
    return right


def _spend_step(vault: Vault, user: models.User, code: str, now: datetime) -> bool:
    if user.totp_confirmed_at is None or not user.totp:
        return False
    step = _matching(_secret(vault, user), code, now)
    if step is None or (user.totp_step is not None and step <= user.totp_step):
        return False
    user.totp_step = step
    return True


def _spend_recovery(user: models.User, code: str) -> bool:
    wanted = digest(_plain(code))
    left = list(user.recovery_hashes or ())
    if not any(hmac.compare_digest(wanted, kept) for kept in left):
        return False
    user.recovery_hashes = [kept for kept in left if kept != wanted]
    return True


def _plain(code: str) -> str:
    return "".join(c for c in code.lower() if c.isalnum())


def _over_limit(db: Session, user_id: int, now: datetime) -> bool:
    found = db.get(models.Setting, f"totp:{user_id}")
    return found is not None and (now - found.at).total_seconds() < TRIES_S and int(found.value) >= TRIES


def _count_try(db: Session, user_id: int, now: datetime) -> None:
    name = f"totp:{user_id}"
    found = db.get(models.Setting, name)
    if found is None:
        db.add(models.Setting(name=name, value="1", at=now))
    elif (now - found.at).total_seconds() >= TRIES_S:
        found.value, found.at = "1", now
    else:
        db.execute(
            update(models.Setting)
            .where(col(models.Setting.name) == name)
            .values(value=str(int(found.value) + 1))
        )


def _secret(vault: Vault, user: models.User) -> bytes:
    assert user.totp is not None
    return b32decode(vault.open(0, user.id, user.totp)["totp"])


def _matching(secret: bytes, code: str, now: datetime) -> int | None:
    """The time step whose code this is, near now."""
    typed = "".join(c for c in code if c.isdigit())
    current = int(now.timestamp()) // STEP_S
    for step in range(current - DRIFT, current + DRIFT + 1):
        if len(typed) == DIGITS and hmac.compare_digest(typed, code_at(secret, step)):
            return step
    return None


def code_at(secret: bytes, step: int) -> str:
    """The code of a time step (RFC 4226, with SHA-1 as every app has it)."""
    mac = hmac.new(secret, struct.pack(">Q", step), hashlib.sha1).digest()
    at = mac[-1] & 15
    number = struct.unpack(">I", mac[at : at + 4])[0] & 0x7FFFFFFF
    return f"{number % 10**DIGITS:0{DIGITS}}"


def grouped(secret: bytes) -> str:
    """The secret for typing into an app by hand, in groups of four."""
    text = b32encode(secret).decode()
    return " ".join(text[at : at + 4] for at in range(0, len(text), 4))


def address(secret: bytes, email: str, issuer: str) -> str:
    """The otpauth address for the app's scanner."""
    label = quote(f"{issuer}:{email}")
    return f"otpauth://totp/{label}?{urlencode({'secret': b32encode(secret).decode(), 'issuer': issuer})}"
