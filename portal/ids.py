"""Row ids: 63-bit integers that grow with time and say nothing about how many rows there are."""

import secrets
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case
_EPOCH_MS = 1_577_836_800_000  # 2020-01-01
_lock = threading.Lock()
_last = 0


def new_id() -> int:
    """A new id: milliseconds in the upper bits, random below, growing within this process."""
    global _last
    with _lock:
        fresh = ((time.time_ns() // 1_000_000 - _EPOCH_MS) << 20) | secrets.randbits(20)
        _last = fresh if fresh > _last else _last + 1 + secrets.randbits(8)
        return _last


def id_text(value: int) -> str:
    """The id as it stands in addresses: 13 characters of base 32."""
    return "".join(_ALPHABET[(value >> shift) & 31] for shift in range(60, -1, -5))


def parse_id(text: str) -> int | None:
    """The id for its text in an address; None where the text is none of ours."""
    if len(text) != 13:
        return None
    value = 0
    for character in text:
        digit = _ALPHABET.find(character)
        if digit < 0:
            return None
        value = value << 5 | digit
    return value if value < 1 << 63 else None


_REFERENCE = "23456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_reference() -> str:
    """A reference a person can read out on the phone, such as K7M-2QX."""
    letters = "".join(secrets.choice(_REFERENCE) for _ in range(6))
    return f"{letters[:3]}-{letters[3:]}"
