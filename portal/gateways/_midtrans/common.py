"""What all that Midtrans says has in common: rupiah, Jakarta's time, ways to pay."""

import re
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from portal.gateways.base import Record
from portal.gateways.wire import Json, major, moment, part, text
from portal.money import Money

_Sort = TypeVar("_Sort", bound=Record)

WIB = ZoneInfo("Asia/Jakarta")  # of all times that name no zone
KINDS = {"credit_card": "card", "gopay": "gopay", "cstore": "cash"} | {
    **dict.fromkeys(("shopeepay", "dana", "ovo", "qris"), "wallet"),
    **dict.fromkeys(("bank_transfer", "echannel", "permata"), "bank_transfer"),
    **dict.fromkeys(("akulaku", "kredivo"), "pay_later"),
}
BRANDS = {"gopay": "GoPay", "shopeepay": "ShopeePay", "dana": "DANA", "ovo": "OVO", "qris": "QRIS"} | {
    "akulaku": "Akulaku",
    "kredivo": "Kredivo",
    "echannel": "Mandiri",
    "permata": "Permata",
}
# By the first digits, since no network is named.
NETWORKS = {
    "4": "Visa",
    "5[1-5]|2[2-7]": "Mastercard",
    "3[47]": "American Express",
    "35": "JCB",
    "62": "UnionPay",
}


def also(record: _Sort, **told: Any) -> _Sort:
    """The record with more fields of which it speaks."""
    return replace(record, **told, knows=(record.knows or frozenset()) | set(told))


def rupiah(said: Json, name: str = "amount") -> Money | None:
    """Amounts are text ("10000.00") or whole numbers; there is only one currency, and not everything names it."""
    told = text(said.get(name)) or ""
    plain = re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,2})?", told)
    return major(told, said.get("currency") or "IDR") if plain else None


def objects(said: object) -> list[Json]:
    """The objects of a list, where it is one."""
    return [one for one in said if isinstance(one, dict)] if isinstance(said, list) else []


def time_of(value: object) -> datetime | None:
    return moment(value, WIB)


def email_of(said: Json) -> str | None:
    """Payments rarely tell it; by agreement a shop puts it into one of the custom fields."""
    told = [part(said, "customer_details").get("email"), *(said.get(f"custom_field{n}") for n in (1, 2, 3))]
    found = (text(one) for one in told)
    return next((one for one in found if one and re.fullmatch(r"[^@\s]+@[^@\s]+", one)), None)


def network(digits: str) -> str | None:
    return next((name for begins, name in NETWORKS.items() if re.match(begins, digits)), None)
