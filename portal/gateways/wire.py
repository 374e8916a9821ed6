"""What the adapters share in reading what processors say, and in proving that they said it."""

import hashlib
import hmac
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import quote

from portal.gateways.base import BadSignature, Gone, Record, Snapshot, Unavailable, Unreadable
from portal.money import Money, from_major, from_units

Json = Mapping[str, Any]
_Sort = TypeVar("_Sort", bound=Record)
_Row = TypeVar("_Row", bound=Json)
_Read = TypeVar("_Read")
NO_ANSWER = "The payment company does not answer at the moment."


def spoken(sort: type[_Sort], remote_id: str, also: Sequence[str] = (), **fields: Any) -> _Sort:
    """A record that speaks of the fields with a value, and of those named in `also` even when they have none."""
    told = {name: value for name, value in fields.items() if value is not None}
    return sort(remote_id=remote_id, knows=frozenset({*told, *also}), **told)


def obj(said: Any) -> Json:
    """An answer that must be an object; Unavailable where it is none."""
    if not isinstance(said, dict):
        raise Unreadable(NO_ANSWER, "The answer holds no object.")
    return said


def objects(said: Any) -> list[Json]:
    """An answer that must be a list of objects; Unavailable where it is none."""
    if not isinstance(said, list):
        raise Unreadable(NO_ANSWER, "The answer holds no list.")
    if all(isinstance(item, dict) for item in said):
        return said
    if not forgives():
        raise Unreadable(NO_ANSWER, "The answer holds no list.")
    return [item if isinstance(item, dict) else {} for item in said]  # which `sifted` refuses


# A list of which one row makes no sense


@dataclass(frozen=True, slots=True)
class Refused:
    """An object of a list that could not be read: of which list, its id as far as it is known, and why."""

    what: str
    id: str
    why: str


@dataclass(slots=True)
class _Sieve:
    refused: list[Refused]
    again: bool


_sieve: ContextVar[_Sieve | None] = ContextVar("_sieve", default=None)
SENSELESS = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError, Unreadable)
FEW = 5  # rows of a list that may all be bad and are still passed over, when it is read once more


@contextmanager
def forgiving(again: bool = False) -> Iterator[list[Refused]]:
    """Within it `sifted` passes over objects that make no sense and tells them here; outside the whole list fails.

    A list of which no row can be read fails all the same: then something is wrong with the answer. `again`: it was
    asked for before and was the same, so a few rows may all be bad.
    """
    sieve = _Sieve([], again)
    before = _sieve.set(sieve)
    try:
        yield sieve.refused
    finally:
        _sieve.reset(before)


def forgives() -> bool:
    """Whether an object that makes no sense may be left to `sifted`."""
    return _sieve.get() is not None


async def sifted(
    what: str, rows: Sequence[_Row], read: Callable[[list[_Row]], Awaitable[_Read]], id: str | None = "id"
) -> list[_Read]:
    """What `read` makes of the rows together; where one of them makes no sense, of each alone, without that one.

    Each row needs a value under `id`. `read` may be given rows that it was given before: it keeps no note of them.
    """
    sieve = _sieve.get()
    whole = [row for row in rows if _is_row(row, id)] if sieve else list(rows)
    refused = [Refused(what, "", "It has no id.")] * (len(rows) - len(whole))
    found, last = list[_Read](), Exception()
    try:
        found.append(await read(whole))
    except SENSELESS:
        if sieve is None:
            raise
        for row in whole:
            try:
                found.append(await read([row]))
            except SENSELESS as error:
                last = error
                refused.append(Refused(what, _named(row), why(error)))
    if sieve is not None and refused:
        if len(refused) == len(rows) and (len(rows) > FEW or not sieve.again):
            raise Unreadable(NO_ANSWER, why(last)) from last
        sieve.refused += refused
    return found


def _is_row(row: Any, id: str | None) -> bool:
    return isinstance(row, Mapping) and bool(row) and (id is None or bool(text(row.get(id))))


def _named(row: Any) -> str:
    """The id of a row, or what comes nearest to one."""
    for name in ("id", "code", "reference", "number", "order_id", "payment_id", "transaction_id"):
        found = text(row.get(name)) if isinstance(row, Mapping) else None
        if found:
            return found[:100]
    return ""


def why(error: Exception) -> str:
    """Why an object makes no sense, in a sentence without anything of the object itself."""
    if isinstance(error, Unavailable):
        return error.hint or error.customer
    if isinstance(error, KeyError):
        return f"“{str(error.args[0])[:60] if error.args else ''}” is missing."
    return f"A value is not what stands there usually ({type(error).__name__})."


def together(as_of: datetime, parts: Sequence[Snapshot]) -> Snapshot:
    """Several snapshots of one moment as one."""
    kinds = ("customers", "orders", "subscriptions", "payments", "refunds", "invoices")
    told: dict[str, Any] = {
        kind: tuple(record for one in parts for record in getattr(one, kind)) for kind in kinds
    }
    return Snapshot(as_of=as_of, **told)


def part(said: Any, *names: str) -> Json:
    """An object inside an object, by its path; empty where it is absent or none."""
    for name in names:
        said = said.get(name) if isinstance(said, dict) else None
    return said if isinstance(said, dict) else {}


def text(value: Any) -> str | None:
    """Text or a number as text, without blanks around it; None for anything else and for nothing."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    return str(value).strip() or None


def whole(value: Any) -> int | None:
    """A whole number, given as a number or as digits; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    digits = str(value).strip()
    return int(digits) if re.fullmatch(r"-?[0-9]{1,18}", digits) else None


def moment(value: Any, zone: tzinfo = UTC) -> datetime | None:
    """A moment in UTC from ISO 8601 (a space for the T is allowed) or from seconds or milliseconds since 1970.

    `zone` is what the processor means where it names none; None for anything that is no moment.
    """
    seconds = whole(value)
    try:
        if seconds is not None and abs(seconds) > 9_999_999:
            return datetime.fromtimestamp(seconds / 1000 if abs(seconds) > 99_999_999_999 else seconds, UTC)
        found = datetime.fromisoformat(value.strip() if isinstance(value, str) else "")
    except (ValueError, OverflowError, OSError):
        return None
    return (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC)


def day(value: Any, zone: tzinfo = UTC) -> date | None:
    """A calendar day: as written where only a day is given, else the day of the moment in `zone`."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value.strip()):
        try:
            return date.fromisoformat(value.strip())
        except ValueError:
            return None
    found = moment(value, zone)
    return found.astimezone(zone).date() if found else None


def major(value: Any, currency: Any) -> Money | None:
    """Money from an amount in major units ("20.00"); None where amount or currency is absent or none."""
    code, amount = _currency(currency), text(value)
    try:
        return from_major(amount, code) if code and amount is not None else None
    except ValueError:
        return None


def minor(value: Any, currency: Any, exponents: Mapping[str, int] | None = None) -> Money | None:
    """Money from minor units; `exponents` where the processor's differ from ISO 4217. None where there is none."""
    code, amount = _currency(currency), whole(value)
    if code is None or amount is None:
        return None
    try:
        return from_units(amount, code, (exponents or {}).get(code))
    except ValueError:
        return None


def _currency(value: Any) -> str | None:
    code = text(value)
    return code.upper() if code and re.fullmatch(r"[A-Za-z]{3}", code) else None


def expiry(month: Any, year: Any) -> str | None:
    """ "2027-09" from month and year as processors write them (9, "09", 27, 2027); None where they make none."""
    m, y = whole(month), whole(year)
    if m is None or y is None or not 1 <= m <= 12 or y < 0:
        return None
    return f"{y + 2000 if y < 100 else y:04d}-{m:02d}"


def last4(value: Any) -> str | None:
    """The last four digits of a masked or whole number."""
    digits = re.sub(r"[^0-9]", "", str(value or "")[-6:])
    return digits[-4:] if len(digits) >= 4 else None


def safe(remote_id: str, pattern: str = r"[A-Za-z0-9_.:-]{1,200}") -> str:
    """An id that may stand in a path, quoted; Gone for one that the processor cannot know."""
    if not re.fullmatch(pattern, remote_id) or set(remote_id) <= {"."}:
        raise Gone("The payment company does not know this.", "The id has characters that no id there has.")
    return quote(remote_id, safe="")


def one_header(headers: Sequence[tuple[str, str]], name: str) -> str:
    """The value of a header that must come exactly once; BadSignature else."""
    found = [value for key, value in headers if key.lower() == name.lower()]
    if len(found) != 1 or not found[0].strip():
        raise BadSignature(f"The header {name} comes {len(found)} times or is empty; it must come once.")
    return found[0].strip()


def secret_of(credentials: Mapping[str, str], name: str, label: str) -> bytes:
    """A secret that proves deliveries; BadSignature where the merchant has given none, so that nobody else's is."""
    value = credentials.get(name, "").strip()
    if not value:
        raise BadSignature(f"No {label} is set, so nothing can be proved.")
    return value.encode()


def hmac_hex(key: bytes, message: bytes, algorithm: str) -> str:
    return hmac.new(key, message, algorithm).hexdigest()


def same(given: str, expected: str) -> bool:
    """Compare in constant time; text outside ASCII is never the same."""
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())


def digest(body: bytes | str) -> str:
    """A short name for content that has no id of its own."""
    return hashlib.sha256(body.encode() if isinstance(body, str) else body).hexdigest()[:24]


def proved_json(body: bytes) -> Json:
    """The JSON object of a delivery; BadSignature where it is none, since then nothing was proved of it."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        raise BadSignature("The body is not JSON.") from None
    if not isinstance(said, dict):
        raise BadSignature("The body is no JSON object.")
    return said
