"""A row of the merchant's own: its columns, what is understood of each cell, and the records that come of it. Files and
the API go through the same. What can be read in two ways is refused with a sentence, not guessed."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal
from zoneinfo import ZoneInfo

from babel.numbers import list_currencies

from portal.gateways.base import (
    Gateway,
    Interval,
    InvoiceRecord,
    Line,
    NextPayment,
    OrderRecord,
    PaymentRecord,
    Record,
    SubscriptionRecord,
    Unit,
)
from portal.gateways.wire import spoken
from portal.money import Money, exponent, from_major
from portal.sheetfile import Cell
from portal.sync import normalized
from portal.texts import gettext as _


def _N(text: str) -> str:
    return text


MOST_TEXT = 255
Dates = Literal["", "dmy", "mdy"]
Decimals = Literal["", ".", ","]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ours: what it is for, how it is called elsewhere, and an example."""

    name: str
    label: str
    help: str
    example: str = ""
    second: str = ""  # of the template's second row
    known_as: tuple[str, ...] = ()


_COLUMNS = (
    Column(
        "email", _N("E-mail address"), _N("The customer's. Every row needs one."), "ana@example.com", "ben@example.com",
        ("customer email", "buyer email", "from email address", "email address", "billing email", "e-mail", "mail",
         "customer e-mail", "shopper email", "payer email", "contact email", "kunden e-mail", "e-mail-adresse",
         "correo", "courriel", "customer_email_address"),
    ),
    Column(
        "processor", _N("Processor account"),
        _N("The name of one of the portal's accounts, or the processor's where it has one account here."),
        known_as=("account", "gateway", "payment gateway", "provider", "payment provider", "psp", "payment processor"),
    ),
    Column(
        "order", _N("Order number"), _N("Your number of the order. One row for each order."), "SO-1001", "",
        ("order number", "order id", "order no", "order reference", "merchant reference", "m_payment_id", "order_id",
         "custom number", "bestellnummer", "bestellung", "reference", "external id", "pedido", "commande"),
    ),
    Column(
        "product", _N("Product"), _N("What was bought, as the customer knows it."), "Ethiopia Guji, 2 bags",
        "Monthly coffee box",
        ("item", "item title", "item name", "product name", "lineitem name", "title", "plan", "plan name", "produkt",
         "artikel", "item_name", "products", "line items", "subject"),
    ),
    Column(
        "amount", _N("Amount"), _N("All that was paid for it, tax included, such as 24.00."), "24.00", "19.00",
        ("total", "gross", "gross amount", "amount gross", "order total", "grand total", "price", "betrag", "summe",
         "total amount", "paid amount", "value", "importe", "montant", "amount_gross", "captured amount"),
    ),
    Column(
        "currency", _N("Currency"), _N("Three letters, such as EUR."), "USD", "USD",
        ("currency code", "währung", "waehrung", "presentment currency", "ccy", "amount currency", "moneda", "devise"),
    ),
    Column(
        "paid_at", _N("Paid at"), _N("When it was paid: 2026-03-04, or 2026-03-04 14:02."), "2026-03-04", "",
        ("paid", "paid on", "payment date", "date paid", "captured at", "transaction date", "bezahlt am", "zahldatum",
         "date", "datum", "transaction time", "completed at", "settled at", "paid date"),
    ),
    Column(
        "subscription", _N("Subscription"), _N("The processor's id of the subscription."), "", "sub_8c1f",
        ("subscription id", "subscription_id", "recurring id", "agreement id", "mandate", "profile id", "abo",
         "abonnement", "billing agreement id", "reference txn id", "subscription code"),
    ),
    Column(
        "token", _N("Token"),
        _N("By which the processor charges the subscription, where it knows it by that alone."), "", "",
        ("recurring token", "customer token", "card token", "billing token", "subscription token", "payment token"),
    ),
    Column(
        "next_payment", _N("Next payment"), _N("The day of the next charge of the subscription."), "", "2026-12-04",
        ("next payment", "next billing date", "next charge", "next payment date", "renewal date", "next billing",
         "nächste zahlung", "current period end", "run_date", "next run", "renews at", "next renewal"),
    ),
    Column("name", _N("Name"), _N("The customer's."), "Ana Silva", "",
           ("customer name", "full name", "buyer name", "billing name", "kunde", "customer", "shopper name",
            "payer name")),
    Column(
        "status", _N("Status"),
        _N("Of the order or the payment, or of the subscription where the row is about nothing else. Left out: paid."),
        "paid", "",
        ("payment status", "state", "order status", "financial status", "transaction status", "zustand"),
    ),
    Column("subscription_status", _N("Subscription's status"),
           _N("active, trialing, past_due, paused, cancels_at_period_end, cancelled, expired."), "", "active",
           ("subscription state", "recurring status", "agreement status")),
    Column("interval", _N("Interval"), _N("How often the subscription is charged: month, 3 months, year."), "", "month",
           ("billing interval", "billing period", "frequency", "period", "billing cycle", "intervall", "cycle")),
    Column("started_at", _N("Subscribed since"), _N("When the subscription began."), "", "",
           ("start date", "subscription start", "started", "subscribed at", "start")),
    Column("ends_at", _N("Ends at"), _N("When a cancelled subscription ends, or has ended."), "", "",
           ("end date", "cancelled at", "canceled at", "ends on", "ended at", "expires at", "canceled at (utc)")),
    Column("ordered_at", _N("Ordered at"), _N("Where it is not the day of the payment."), "", "",
           ("created", "created at", "order date", "ordered on", "created (utc)", "created date (utc)", "created_at",
            "bestelldatum", "placed at", "creation date", "booked at")),
    Column("payment", _N("Payment"),
           _N("The processor's id of the payment: by it, the processor's own word and yours meet."), "", "",
           ("payment id", "transaction id", "charge id", "payment reference", "psp reference", "pf_payment_id",
            "paymentintent id", "transaction reference", "txn id", "payment_id", "id")),
    Column("invoice", _N("Invoice number"), _N("Of your own invoice, by which it can be searched."), "", "",
           ("invoice number", "invoice id", "invoice no", "rechnungsnummer", "rechnung")),
    Column("refunded", _N("Refunded"), _N("What was paid back of the amount."), "", "",
           ("amount refunded", "refunded amount", "refund", "refund amount", "erstattet")),
    Column("tax", _N("Tax"), _N("What of the amount is tax."), "", "",
           ("taxes", "vat", "tax amount", "sales tax", "mwst", "ust", "taxes total")),
    Column("quantity", _N("Quantity"), _N("How many, where it is more than one."), "2", "",
           ("qty", "lineitem quantity", "menge", "anzahl", "units", "quantities")),
    Column("description", _N("Description"), _N("Shown in place of the product, where it says more."), "", "",
           ("memo", "note", "details", "beschreibung", "statement descriptor", "narration")),
    Column("customer", _N("Customer at the processor"), _N("The processor's id of the customer."), "", "",
           ("customer id", "customer_id", "payer id", "shopper reference", "client id")),
)  # fmt: skip
COLUMNS: dict[str, Column] = {one.name: one for one in _COLUMNS}


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(sign for sign in letters if sign.isalnum())


_KNOWN: dict[str, str] = {}
for _one in _COLUMNS:
    for _word in (_one.name, *_one.known_as):
        _KNOWN.setdefault(_plain(_word), _one.name)
for _name in COLUMNS:  # our own names before what others call theirs
    _KNOWN[_plain(_name)] = _name


def guess(header: Sequence[str]) -> list[str]:
    """What each column is likely to be, by its name; empty where it says nothing to us. Each of ours once, and an exact
    name before a similar one."""
    found = [""] * len(header)
    used: set[str] = set()
    for exact in (True, False):
        for number, name in enumerate(header):
            ours = _KNOWN.get(_plain(name), "")
            if ours and not found[number] and ours not in used and (_plain(name) == _plain(ours)) is exact:
                found[number] = ours
                used.add(ours)
    return found


def problem_of_columns(chosen: Sequence[str], header: Sequence[str], currency: str) -> str | None:
    """What is missing so that anything could be read at all, with the columns that there are; None where nothing is."""
    have = set(chosen)
    there = ", ".join(f"“{name}”" for name in header if name) or "–"
    twice = sorted({name for name in chosen if name and list(chosen).count(name) > 1})
    if twice:
        names = ", ".join(f"“{header[n]}”" for n, one in enumerate(chosen) if one == twice[0])
        return _("Two columns are said to be “{name}”: {columns}. Choose one.").format(
            name=_(COLUMNS[twice[0]].label), columns=names
        )
    if "email" not in have:
        return _("No column is the e-mail address (email). The file has: {columns}.").format(columns=there)
    if not have & {"order", "payment", "subscription", "token"}:
        return _(
            "No column says which order, payment or subscription a row is about (order, payment, subscription or "
            "token). The file has: {columns}."
        ).format(columns=there)
    if "amount" in have and "currency" not in have and not currency:
        return _(
            "No column is the currency (currency). Choose one for all rows, or the column. The file has: {columns}."
        ).format(columns=there)
    return None


@dataclass(frozen=True, slots=True)
class Rules:
    """How cells are to be read where they do not say it themselves."""

    zone: ZoneInfo
    now: datetime
    decimal: Decimals = ""
    dates: Dates = ""
    currency: str = ""


@dataclass(slots=True)
class Row:
    """What is understood of a row."""

    email: str = ""
    processor: str | None = None
    name: str | None = None
    customer: str | None = None
    order: str | None = None
    payment: str | None = None
    invoice: str | None = None
    subscription: str | None = None
    token: str | None = None
    product: str | None = None
    description: str | None = None
    quantity: int | None = None
    amount: Money | None = None
    refunded: Money | None = None
    tax: Money | None = None
    status: str | None = None  # of the payment
    subscription_status: str | None = None
    interval: Interval | None = None
    next_payment: date | None = None
    paid_at: datetime | None = None
    ordered_at: datetime | None = None
    started_at: datetime | None = None
    ends_at: datetime | None = None

    @property
    def is_bought(self) -> bool:
        """It is about something bought, and not about a subscription alone."""
        return bool(self.order or self.payment or self.paid_at)


@dataclass(slots=True)
class Understood:
    """A row, and what is wrong with it: column and sentence."""

    row: Row = field(default_factory=Row)
    wrong: list[tuple[str, str]] = field(default_factory=list)


class _Wrong(ValueError):
    pass


def understand(cells: Mapping[str, Cell], rules: Rules) -> Understood:
    """A row by its cells, under our columns' names. Empty cells say nothing."""
    given = {
        name: value
        for name, raw in cells.items()
        if name in COLUMNS and (value := raw.strip() if isinstance(raw, str) else raw) != ""
    }
    found = Understood()
    row = found.row

    def take(name: str, read: Any, *more: Any) -> None:
        if name in given:
            try:
                setattr(row, name, read(given[name], *more))
            except _Wrong as error:
                found.wrong.append((name, str(error)))

    take("email", _email)
    if "email" not in given:
        found.wrong.append(("email", _("There is no e-mail address.")))
    for name in (
        *("processor", "name", "customer", "order", "payment", "invoice", "subscription", "token", "product"),
        "description",
    ):
        take(name, _text)
    take("quantity", _quantity)
    for name in ("paid_at", "ordered_at", "started_at"):
        take(name, moment, rules, True)
    take("ends_at", moment, rules, False)
    take("next_payment", _day, rules)
    take("interval", _interval)
    _money(given, rules, found)
    _states(given, found)
    if not found.wrong:
        _whole(row, found)
    return found


_SIGNS = r"[^@\s,;<>\"'()\x00-\x1f\x7f]"
_ADDRESS = re.compile(rf"{_SIGNS}+@{_SIGNS}+\.[^@\s.,;<>\"'()\x00-\x1f\x7f]{{2,}}")


def _email(value: Cell) -> str:
    text = _text(value).removeprefix("mailto:")
    address = normalized(text)
    if address is None or not _ADDRESS.fullmatch(address):
        raise _Wrong(_("“{text}” is no e-mail address.").format(text=shown(text)))
    return address


def shown(value: Cell) -> str:
    """A cell as a sentence quotes it."""
    text = "".join(sign if sign.isprintable() else "·" for sign in str(value))
    return text if len(text) <= 60 else f"{text[:59]}…"


def _text(value: Cell) -> str:
    text = str(value)
    if len(text) > MOST_TEXT:
        raise _Wrong(_("This is longer than {most} characters.").format(most=MOST_TEXT))
    if _UNSHOWN.search(text):
        text = re.sub(r"[\t\r\n]+", " ", text)
        if _UNSHOWN.search(text):
            raise _Wrong(_("This has signs in it that can't be shown."))
    return text


_UNSHOWN = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def _quantity(value: Cell) -> int:
    text = str(value)
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text) or not text.isascii():
        raise _Wrong(_("“{text}” is no whole number from 1 on.").format(text=shown(value)))
    return int(text)


# Amounts

CURRENCIES = frozenset(list_currencies()) - {
    "XXX",
    "XTS",
    "XBA",
    "XBB",
    "XBC",
    "XBD",
    "XAU",
    "XAG",
    "XPT",
    "XPD",
}


def _money(given: Mapping[str, Cell], rules: Rules, found: Understood) -> None:
    wanted = [name for name in ("amount", "refunded", "tax") if name in given]
    code = str(given.get("currency", rules.currency)).upper()
    if not wanted and "currency" not in given:
        return
    if code not in CURRENCIES:
        sentence = (
            _("“{text}” is no currency; write its three letters, such as EUR.").format(text=shown(code))
            if code
            else _("An amount needs its currency.")
        )
        found.wrong.append(("currency", sentence))
        return
    for name in wanted:
        try:
            setattr(found.row, name, amount(given[name], code, rules.decimal))
        except _Wrong as error:
            found.wrong.append((name, str(error)))
    row = found.row
    if row.amount is None:
        if "amount" not in given:
            found.wrong.extend((name, _("This needs an amount beside it.")) for name in wanted)
        return
    for name in ("refunded", "tax"):
        part: Money | None = getattr(row, name)
        if part is not None and part.minor > row.amount.minor:
            found.wrong.append((name, _("This is more than the amount.")))


def amount(value: Cell, currency: str, decimal: Decimals = "") -> Money:
    """An amount as people write it. ValueError where it is none, or could be two."""
    if isinstance(value, int | float):
        number = Decimal(str(round(value, 6)))
        return _positive(number, value, currency)
    text = "".join(sign for sign in value if unicodedata.category(sign) != "Sc")
    text = re.sub(r"[\s\u00a0\u202f'’]", "", re.sub(rf"(?i)^{currency}|{currency}$", "", text.strip()))
    if not re.fullmatch(r"-?[0-9][0-9.,]*", text) or not text.isascii():
        raise _Wrong(_("“{text}” is no amount.").format(text=shown(value)))
    number = Decimal(_with_point(text, value, currency, decimal))
    return _positive(number, value, currency)


def _positive(number: Decimal, value: Cell, currency: str) -> Money:
    if number < 0:
        raise _Wrong(
            _("“{text}” is less than nothing. What was paid back stands in the column refunded.").format(
                text=shown(value)
            )
        )
    if number >= 10**12:
        raise _Wrong(_("“{text}” is no amount.").format(text=shown(value)))
    try:
        return from_major(number, currency)
    except ValueError:
        raise _Wrong(
            _("“{text}” has more decimals than {currency}.").format(text=shown(value), currency=currency)
        ) from None


def _with_point(text: str, value: Cell, currency: str, decimal: Decimals) -> str:
    """The digits with a point before the decimals and no other sign."""
    sign = decimal or _decimal_of(text, value, currency)
    other = "," if sign == "." else "."
    whole, found, decimals = text.rpartition(sign) if sign in text else (text, "", "")
    if sign in whole or other in decimals or (found and not decimals.isdigit()):
        raise _Wrong(_("“{text}” is no amount.").format(text=shown(value)))
    if other in whole and not re.fullmatch(
        rf"-?[0-9]{{1,3}}(\{other}[0-9]{{3}})+|-?[0-9]{{1,2}}(\{other}[0-9]{{2}})*\{other}[0-9]{{3}}", whole
    ):
        raise _Wrong(_("“{text}” is no amount.").format(text=shown(value)))
    return whole.replace(other, "") + (f".{decimals}" if found else "")


def _decimal_of(text: str, value: Cell, currency: str) -> Decimals:
    """Which of the two signs stands before the decimals, where only the text itself can say it."""
    points, commas = text.count("."), text.count(",")
    if points and commas:
        return "." if text.rfind(".") > text.rfind(",") else ","
    if points + commas == 0:
        return "."
    sign: Decimals = "." if points else ","
    other: Decimals = "," if points else "."
    if points + commas > 1:
        return other  # several of one kind part thousands
    before, _found, after = text.partition(sign)
    if len(after) != 3 or before.lstrip("-") == "0":
        return sign
    if exponent(currency) == 0:
        return other
    raise _Wrong(
        _(
            "“{text}” can be read in two ways. Choose which sign stands before the decimals, or write two decimals."
        ).format(text=shown(value))
    )


# Dates

_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[T ]([0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?) ?(Z|UTC|[+-][0-9]{2}:?[0-9]{2})?)?"
)
_NUMBERS = re.compile(r"([0-9]{1,2})([/.-])([0-9]{1,2})\2([0-9]{4})")
_NAMED = re.compile(r"(?:([0-9]{1,2})[. ]+)?([A-Za-z]{3,9})\.?(?: ([0-9]{1,2}))?,? ([0-9]{4})")
_YEAR_FIRST = re.compile(r"([0-9]{4})[/.]([0-9]{1,2})[/.]([0-9]{1,2})")
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?(?: ?([AaPp])\.?[Mm]\.?)?")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def moment(value: Cell, rules: Rules, past: bool) -> datetime:
    """A moment; where no zone is written, in that of the portal. `past`: it can't lie ahead."""
    text = " ".join(str(value).split())
    found = _iso(text, rules) if _ISO.fullmatch(text) else _written(text, value, rules)
    if not 1990 <= found.year <= 2100:
        raise _Wrong(_("“{text}” lies too far away to be meant.").format(text=shown(value)))
    if past and found > rules.now + timedelta(days=1):
        raise _Wrong(_("“{text}” lies in the future.").format(text=shown(value)))
    return found


def _iso(text: str, rules: Rules) -> datetime:
    parts = _ISO.fullmatch(text)
    assert parts is not None
    year, month, day, clock, zone = parts.groups()
    offset = (zone or "").replace("UTC", "Z")
    if re.fullmatch(r"[+-][0-9]{4}", offset):
        offset = f"{offset[:3]}:{offset[3:]}"
    clock = (clock or "00:00").replace(",", ".")
    if clock[1] == ":":
        clock = f"0{clock}"
    clock = re.sub(r"(\.[0-9]{6})[0-9]+$", r"\1", clock)
    try:
        found = datetime.fromisoformat(f"{year}-{month}-{day}T{clock}{offset}")
        return (found if found.tzinfo else found.replace(tzinfo=rules.zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise _Wrong(_("There is no such day as “{text}”.").format(text=shown(text))) from None


def _written(text: str, value: Cell, rules: Rules) -> datetime:
    clock = time(0)
    if hour := _CLOCK.search(text):
        rest = (text[: hour.start()] + text[hour.end() :]).strip(" ,")
        clock = _clock(hour, value)
    else:
        rest = text
    day = _day_of(rest, value, rules)
    try:
        return datetime.combine(day, clock, rules.zone).astimezone(UTC)
    except OverflowError:
        raise _Wrong(_("“{text}” lies too far away to be meant.").format(text=shown(value))) from None


def _clock(parts: re.Match[str], value: Cell) -> time:
    hour, minute, second = int(parts[1]), int(parts[2]), int(parts[3] or 0)
    if parts[4]:
        hour = hour % 12 + (12 if parts[4] in "pP" else 0) if 1 <= hour <= 12 else 99
    try:
        return time(hour, minute, second)
    except ValueError:
        raise _Wrong(_("There is no such time as in “{text}”.").format(text=shown(value))) from None


def _day_of(text: str, value: Cell, rules: Rules) -> date:
    try:
        if parts := _NUMBERS.fullmatch(text):
            return _of_numbers(parts, value, rules)
        if parts := _YEAR_FIRST.fullmatch(text):
            return date(int(parts[1]), int(parts[2]), int(parts[3]))
        if (parts := _NAMED.fullmatch(text)) and (parts[1] is None) != (parts[3] is None):
            name = parts[2][:3].lower()
            if name in _MONTHS:
                return date(int(parts[4]), _MONTHS.index(name) + 1, int(parts[1] or parts[3]))
    except _Wrong:
        raise
    except ValueError:
        raise _Wrong(_("There is no such day as “{text}”.").format(text=shown(value))) from None
    raise _Wrong(_("“{text}” is no date; write it as 2026-03-04.").format(text=shown(value)))


def _of_numbers(parts: re.Match[str], value: Cell, rules: Rules) -> date:
    first, second, year = int(parts[1]), int(parts[3]), int(parts[4])
    order = rules.dates
    if not order:
        if parts[2] == "." or first > 12 or first == second:
            order = "dmy"
        elif second > 12:
            order = "mdy"
        else:
            raise _Wrong(
                _(
                    "“{text}” can be read in two ways. Choose whether the day or the month stands first."
                ).format(text=shown(value))
            )
    return date(year, second, first) if order == "dmy" else date(year, first, second)


def _day(value: Cell, rules: Rules) -> date:
    """A calendar day: as written where only a day is given, else the day of the moment at the portal."""
    return moment(value, rules, False).astimezone(rules.zone).date()


# Words

_INTERVALS = {
    "daily": Interval("day"), "weekly": Interval("week"), "biweekly": Interval("week", 2),
    "fortnightly": Interval("week", 2), "monthly": Interval("month"), "bimonthly": Interval("month", 2),
    "quarterly": Interval("month", 3), "quarter": Interval("month", 3), "biannually": Interval("month", 6),
    "semiannually": Interval("month", 6), "halfyearly": Interval("month", 6), "yearly": Interval("year"),
    "annually": Interval("year"), "annual": Interval("year"),
}  # fmt: skip


def _interval(value: Cell) -> Interval:
    text = " ".join(str(value).lower().split())
    if known := _INTERVALS.get(text.replace("-", "").replace(" ", "")):
        return known
    parts = re.fullmatch(r"(?:every |per )?(?:([1-9][0-9]{0,2}) )?(day|week|month|year)s?", text)
    if parts is None:
        raise _Wrong(
            _("“{text}” is no interval; write month, 3 months, week or year.").format(text=shown(value))
        )
    unit: Unit = parts[2]  # type: ignore[assignment]
    return Interval(unit, int(parts[1] or 1))


_PAYMENT = {
    "paid": "paid", "succeeded": "paid", "success": "paid", "successful": "paid", "complete": "paid",
    "completed": "paid", "captured": "paid", "settled": "paid", "settlement": "paid", "fulfilled": "paid",
    "paidout": "paid", "bezahlt": "paid", "open": "pending", "pending": "pending", "unpaid": "pending",
    "processing": "pending", "onhold": "pending", "authorized": "authorized", "authorised": "authorized",
    "partiallyrefunded": "partially_refunded", "partialrefund": "partially_refunded", "refunded": "refunded",
    "reversed": "refunded", "disputed": "disputed", "chargeback": "disputed", "chargedback": "disputed",
    "failed": "failed", "declined": "failed", "denied": "failed", "refused": "failed", "cancelled": "cancelled",
    "canceled": "cancelled", "void": "cancelled", "voided": "cancelled", "expired": "expired",
}  # fmt: skip
_SUBSCRIPTION = {
    "active": "active", "aktiv": "active", "live": "active", "trialing": "trialing", "trial": "trialing",
    "intrial": "trialing", "pastdue": "past_due", "overdue": "past_due", "unpaid": "past_due", "paused": "paused",
    "suspended": "paused", "onhold": "paused", "cancelsatperiodend": "cancels_at_period_end",
    "nonrenewing": "cancels_at_period_end", "pendingcancel": "cancels_at_period_end",
    "pendingcancellation": "cancels_at_period_end", "cancelled": "cancelled", "canceled": "cancelled",
    "expired": "expired", "ended": "expired", "completed": "expired", "incomplete": "incomplete",
}  # fmt: skip
_ORDER = {"pending": "open", "authorized": "open", "disputed": "paid"}  # else the payment's


def _states(given: Mapping[str, Cell], found: Understood) -> None:
    row = found.row
    if "subscription_status" in given:
        row.subscription_status = _SUBSCRIPTION.get(_plain(str(given["subscription_status"])))
        if row.subscription_status is None:
            sentence = _("“{text}” is no status of a subscription; there are: {words}.")
            words = ", ".join(dict.fromkeys(_SUBSCRIPTION.values()))
            found.wrong.append(
                (
                    "subscription_status",
                    sentence.format(text=shown(given["subscription_status"]), words=words),
                )
            )
    if "status" not in given:
        return
    word = _plain(str(given["status"]))
    bought = any(name in given for name in ("order", "payment", "paid_at"))
    if not bought and "subscription_status" not in given:
        row.subscription_status = _SUBSCRIPTION.get(word)
        if row.subscription_status is not None:
            return
    row.status = _PAYMENT.get(word)
    if row.status is None:
        if word in _SUBSCRIPTION:
            sentence = _(
                "“{text}” is a subscription's status: it belongs into the column subscription_status."
            )
            found.wrong.append(("status", sentence.format(text=shown(given["status"]))))
            return
        sentence = _("“{text}” is no status that we know; there are: {words}.")
        words = ", ".join(dict.fromkeys((_PAYMENT if bought else _SUBSCRIPTION).values()))
        found.wrong.append(("status", sentence.format(text=shown(given["status"]), words=words)))


def _whole(row: Row, found: Understood) -> None:
    """What the cells of a row have to have in common."""
    if not (row.order or row.payment or row.subscription or row.token):
        found.wrong.append(
            (
                "order",
                _(
                    "There is neither an order nor a payment, a subscription or a token, so it is about nothing."
                ),
            )
        )
        return
    if not row.is_bought:
        if row.refunded or row.invoice:
            found.wrong.append(
                ("order", _("An invoice or a refund needs the order or the payment it belongs to."))
            )
        return
    if row.amount is None:
        found.wrong.append(("amount", _("The amount is missing.")))
    if row.paid_at is None and row.ordered_at is None:
        found.wrong.append(("paid_at", _("The day is missing: paid_at, or ordered_at.")))
    if row.status is None and row.paid_at is None:
        found.wrong.append(("paid_at", _("Nothing says whether this is paid: give paid_at or status.")))
    if row.amount is not None and row.refunded:
        whole = row.refunded.minor == row.amount.minor
        if row.status in (None, "paid", "refunded", "partially_refunded"):
            row.status = "refunded" if whole else "partially_refunded"
    elif row.status == "refunded" and row.amount is not None and row.refunded is None:
        row.refunded = row.amount
    elif row.status == "partially_refunded":
        found.wrong.append(("refunded", _("The refunded amount is missing.")))
    if row.status is None:
        row.status = "paid"


# Records

SOLD = frozenset({"paid", "partially_refunded", "refunded", "disputed"})


@dataclass(slots=True)
class Records:
    """What a row says, in the words of a snapshot."""

    order: OrderRecord | None = None
    payment: PaymentRecord | None = None
    subscription: SubscriptionRecord | None = None
    invoice: InvoiceRecord | None = None

    def all(self) -> tuple[Record, ...]:
        return tuple(one for one in (self.subscription, self.order, self.payment, self.invoice) if one)


def made_up(row: Row) -> str | None:
    """The id of a payment whose own is not given: by its order, else by its subscription and its day. None where the
    row tells of no payment."""
    if row.payment or row.status not in SOLD:
        return None
    if row.order:
        return f"order:{row.order}"
    named = row.subscription or row.token
    return f"{named}:{row.paid_at:%Y-%m-%d}" if named and row.paid_at else None


def records(row: Row, adapter: type[Gateway], payment: str | None) -> Records:
    """What a row says. `payment` is the id that its payment goes by; None: it tells of none."""
    of = adapter.subscription_id(row.subscription, row.token)
    title = row.description or row.product
    who: dict[str, Any] = {"email": row.email, "customer": row.customer}
    found = Records()
    if row.order:
        lines: tuple[Line, ...] = ()
        if row.product and row.amount:
            lines = (Line(row.product, row.quantity or 1, row.amount),)
        status: Any = _ORDER.get(row.status or "", row.status)
        found.order = spoken(
            OrderRecord, row.order, **who, status=status, raw_status=row.status, number=row.order, title=title,
            amount=row.amount, tax=row.tax, lines=lines or None, subscription=of,
            created_at=row.ordered_at or row.paid_at,
        )  # fmt: skip
    if payment is not None:
        found.payment = spoken(
            PaymentRecord, payment, **who, status=row.status, raw_status=row.status, title=title, amount=row.amount,
            refunded=row.refunded, paid_at=row.paid_at, order=row.order, subscription=of, invoice=row.invoice,
            created_at=row.paid_at or row.ordered_at,
        )  # fmt: skip
    if of is not None:
        found.subscription = _subscription(row, of, title, who)
    if row.invoice:
        found.invoice = spoken(
            InvoiceRecord, row.invoice, **who, status="paid" if row.status in SOLD else "open", number=row.invoice,
            amount=row.amount, payment=payment, order=row.order, subscription=of,
            created_at=row.paid_at or row.ordered_at,
        )  # fmt: skip
    return found


def _subscription(row: Row, of: str, title: str | None, who: Mapping[str, Any]) -> SubscriptionRecord:
    status: Any = row.subscription_status
    if status is None and row.next_payment is not None:
        status = "active"
    ended = status in ("cancelled", "expired")
    terms: dict[str, Any] = {}
    if not row.is_bought or row.interval or row.next_payment:
        # Of a payment alone nobody knows whether it is what the next one will be.
        terms = {"title": title, "amount": row.amount, "quantity": row.quantity}
    if row.next_payment is not None and not ended:
        terms["next_payment"] = NextPayment(row.next_payment, row.amount, "merchant")
        terms["current_period_end"] = datetime.combine(row.next_payment, time(0), UTC)
    return spoken(
        SubscriptionRecord, of, **who, status=status, raw_status=status, interval=row.interval,
        started_at=row.started_at, created_at=row.started_at,
        cancels_at=row.ends_at if status == "cancels_at_period_end" else None,
        ended_at=row.ends_at if ended else None, **terms,
    )  # fmt: skip
