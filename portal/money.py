"""Amounts of money: whole minor units with their currency, and the only place that turns them into text."""

from copy import copy
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache

from babel import Locale
from babel.numbers import NumberPattern, get_currency_symbol, parse_pattern

# ISO 4217 minor units where they are not 2. Never taken from CLDR, which says 0 for currencies that have 2 or 3.
_EXPONENTS = {
    **dict.fromkeys(
        [
            "BIF",
            "CLP",
            "DJF",
            "GNF",
            "ISK",
            "JPY",
            "KMF",
            "KRW",
            "PYG",
            "RWF",
            "UGX",
            "UYI",
            "VND",
            "VUV",
            "XAF",
            "XOF",
            "XPF",
        ],
        0,
    ),
    **dict.fromkeys(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"], 3),
    **dict.fromkeys(["CLF", "UYW"], 4),
}


@dataclass(frozen=True, slots=True, order=False)
class Money:
    """An amount in minor units of an ISO 4217 currency, such as Money(2400, "USD") for 24 dollars."""

    minor: int
    currency: str

    def __post_init__(self) -> None:
        if len(self.currency) != 3 or not self.currency.isascii() or not self.currency.isupper():
            raise ValueError(f"{self.currency!r} is not an ISO 4217 code in capitals")

    def __add__(self, other: "Money") -> "Money":
        return Money(self.minor + self._same(other), self.currency)

    def __sub__(self, other: "Money") -> "Money":
        return Money(self.minor - self._same(other), self.currency)

    def __neg__(self) -> "Money":
        return Money(-self.minor, self.currency)

    def __mul__(self, times: int) -> "Money":
        return Money(self.minor * times, self.currency)

    def __bool__(self) -> bool:
        return self.minor != 0

    def _same(self, other: "Money") -> int:
        if other.currency != self.currency:
            raise ValueError(f"{other.currency} is never added to {self.currency}")
        return other.minor

    @property
    def decimal(self) -> Decimal:
        """The amount in major units, with as many decimals as the currency has."""
        return Decimal(self.minor).scaleb(-exponent(self.currency))


def exponent(currency: str) -> int:
    """How many decimals the currency has by ISO 4217."""
    return _EXPONENTS.get(currency, 2)


def from_major(text: str | int | Decimal, currency: str) -> Money:
    """Money from an amount in major units such as "22,574.02"; ValueError where it has too many decimals or is none."""
    try:
        value = Decimal(str(text).replace(",", "").strip())
    except InvalidOperation:
        raise ValueError(f"{text!r} is not an amount") from None
    minor = value.scaleb(exponent(currency))
    if not value.is_finite() or minor != minor.to_integral_value():
        raise ValueError(f"{text!r} is not an amount in {currency}")
    return Money(int(minor), currency)


def from_units(minor: int, currency: str, processor_exponent: int | None) -> Money:
    """Money from a processor's minor units, where its exponent for the currency may differ from ISO 4217.

    An amount that does not come out whole (5.55 ISK) is refused with ValueError: a wrong amount is worse than none.
    """
    shift = exponent(currency) - (exponent(currency) if processor_exponent is None else processor_exponent)
    if shift >= 0:
        return Money(minor * 10**shift, currency)
    whole, rest = divmod(minor, 10**-shift)
    if rest:
        raise ValueError(f"{minor} is not a whole amount of {currency}")
    return Money(whole, currency)


@lru_cache(maxsize=65_536)
def money_text(minor: int, currency: str, locale: str = "en", with_code: bool = False) -> str:
    """The amount for people: "$24.00", "¥1,200", "KWD 12.500"; with_code appends the code where the symbol hides it."""
    pattern, symbol = _pattern(currency, locale)
    digits = exponent(currency)
    text: str = pattern.apply(
        Decimal(abs(minor)).scaleb(-digits),
        Locale.parse(locale, sep="-"),
        currency=currency,
        currency_digits=False,
    ).replace(" ", "\u00a0")
    if symbol[-1:].isalpha() and text.startswith(symbol):  # "KWD 12.500", but "R24.00" where R is the symbol
        space = "" if len(symbol) == 1 else "\u00a0"
        text = symbol + space + text.removeprefix(symbol).lstrip("\u00a0")
    if minor < 0:
        text = f"\u2212{text}"
    if with_code and currency != symbol:
        text = f"{text}\u00a0{currency}"
    return text


@lru_cache(maxsize=1024)
def _pattern(currency: str, locale: str) -> tuple[NumberPattern, str]:
    parsed = Locale.parse(locale, sep="-")
    standard = copy(parse_pattern(parsed.currency_formats["standard"]))  # the locale's own stays as it is
    standard.frac_prec = (exponent(currency), exponent(currency))
    return standard, get_currency_symbol(currency, locale=parsed)
