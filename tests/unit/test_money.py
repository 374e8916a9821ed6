"""Amounts, their text, and the arithmetic of months."""

from calendar import monthrange
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.intervals import add_months, coming
from portal.money import Money, exponent, from_major, from_units, money_text

CURRENCIES = [
    "USD",
    "EUR",
    "GBP",
    "JPY",
    "ISK",
    "KRW",
    "IQD",
    "KWD",
    "BHD",
    "UGX",
    "CLF",
    "ZAR",
    "NGN",
    "INR",
]
currencies = st.sampled_from(CURRENCIES)
minors = st.integers(-(10**12), 10**12)


@given(minors, currencies)
def test_major_units_make_the_round_trip(minor: int, currency: str) -> None:
    money = Money(minor, currency)
    assert from_major(money.decimal, currency) == money
    assert from_major(f"{money.decimal:,}", currency) == money


@given(minors, currencies, st.integers(0, 3))
def test_a_processors_units_come_out_whole_or_not_at_all(minor: int, currency: str, theirs: int) -> None:
    try:
        money = from_units(minor, currency, theirs)
    except ValueError:
        assert minor % 10 ** (theirs - exponent(currency)) != 0
    else:
        assert money.decimal == Decimal(minor).scaleb(-theirs)


@given(minors, minors, currencies)
def test_sums_and_differences_are_exact(one: int, other: int, currency: str) -> None:
    a, b = Money(one, currency), Money(other, currency)
    assert a + b - b == a
    assert (a - b).minor == -(b - a).minor
    assert bool(a - a) is False
    assert a * 3 == a + a + a


def test_currencies_are_never_mixed() -> None:
    with pytest.raises(ValueError, match="never added"):
        Money(1, "USD") + Money(1, "EUR")


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (2400, "USD", "$24.00"),
        (124050, "USD", "$1,240.50"),
        (-2400, "USD", "−$24.00"),
        (1200, "JPY", "¥1,200"),
        (555, "ISK", "ISK\u00a0555"),
        (12500, "KWD", "KWD\u00a012.500"),
        (1500, "IQD", "IQD\u00a01.500"),
        (0, "EUR", "€0.00"),
        (1, "USD", "$0.01"),
        (2400, "ZAR", "R24,00"),
    ],
)
def test_text_has_the_decimals_of_the_currency(minor: int, currency: str, text: str) -> None:
    locale = "en-ZA" if currency == "ZAR" else "en"
    assert money_text(minor, currency, locale) == text


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (2400, "USD", "$24.00\u00a0USD"),
        (1200, "JPY", "¥1,200\u00a0JPY"),
        (12500, "KWD", "KWD\u00a012.500"),  # the code stands there already
    ],
)
def test_the_code_follows_where_the_symbol_hides_it(minor: int, currency: str, text: str) -> None:
    assert money_text(minor, currency, "en", True) == text


@given(minors, currencies, st.sampled_from(["en", "en-ZA", "de", "fr", "ar", "hi", "ja", "pt-BR"]))
def test_text_never_breaks_and_keeps_every_digit(minor: int, currency: str, locale: str) -> None:
    text = money_text(minor, currency, locale)
    assert " " not in text
    digits = "".join(str(int(letter)) for letter in text if letter.isdigit())
    assert int(digits) == abs(minor)
    assert ("−" in text) == (minor < 0)


@pytest.mark.parametrize("text", ["", "abc", "1.234", "NaN", "Infinity", "1e400x"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an amount"):
        from_major(text, "USD")


@pytest.mark.parametrize("code", ["usd", "US", "USDT", "ÜSD", ""])
def test_what_is_no_currency_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match="ISO 4217"):
        Money(1, code)


days = st.dates(date(2000, 1, 1), date(2100, 1, 1))


@given(days, st.integers(-600, 600))
def test_months_later_is_the_same_day_or_the_last_one(day: date, months: int) -> None:
    later = add_months(day, months)
    assert (later.year - day.year) * 12 + later.month - day.month == months
    assert later.day == min(day.day, monthrange(later.year, later.month)[1])


@given(days, st.integers(0, 60))
def test_the_day_that_is_meant_comes_back_after_a_short_month(day: date, months: int) -> None:
    assert add_months(add_months(day, months), -months, day.day) == day


def test_the_31st_is_due_on_the_last_day_and_on_the_31st_again() -> None:
    found = list(coming(date(2027, 2, 28), "month", 1, date(2027, 5, 31), anchor=date(2026, 12, 31)))
    assert found == [date(2027, 2, 28), date(2027, 3, 31), date(2027, 4, 30), date(2027, 5, 31)]


def test_29_february_comes_again_in_leap_years() -> None:
    found = list(coming(date(2028, 2, 29), "year", 1, date(2032, 12, 31)))
    assert [day.isoformat() for day in found] == [
        "2028-02-29",
        "2029-02-28",
        "2030-02-28",
        "2031-02-28",
        "2032-02-29",
    ]


@pytest.mark.parametrize(
    ("unit", "count", "second"),
    [
        ("day", 10, date(2027, 1, 20)),
        ("week", 2, date(2027, 1, 24)),
        ("month", 3, date(2027, 4, 10)),
        ("year", 1, date(2028, 1, 10)),
    ],
)
def test_intervals_of_every_unit(unit: str, count: int, second: date) -> None:
    found = coming(date(2027, 1, 10), unit, count, date(2029, 1, 1))
    assert [next(found), next(found)] == [date(2027, 1, 10), second]


def test_without_an_interval_there_is_one_day() -> None:
    assert list(coming(date(2027, 1, 10), None, None, date(2029, 1, 1))) == [date(2027, 1, 10)]


@given(days, st.sampled_from(["day", "week", "month", "year"]), st.integers(1, 24))
def test_coming_days_grow_and_end_in_time(first: date, unit: str, count: int) -> None:
    until = add_months(first, 12)
    found = list(coming(first, unit, count, until))
    assert found[0] == first
    assert found == sorted(set(found))
    assert found[-1] <= until
