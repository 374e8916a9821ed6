"""Adyen's report "Settlement details" as a file: what was paid, given back and charged back before the webhooks began.

Its columns stand in Adyen's documentation. A line's amount stands in one of two columns; by Adyen's documents that of a
payment is the credit, in its own sample it is the debit, so whichever is filled counts, and the type says what it is.
UNVERIFIED (2026-11-29): whether a payment that is captured in parts may be spread over several reports.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from portal import clock
from portal.gateways import base, wire
from portal.gateways._adyen import PAYING, SAVING
from portal.gateways.base import OrderRecord, PaymentRecord, RefundRecord, Snapshot
from portal.money import Money

COLUMNS = (
    *("Merchant Account", "Psp Reference", "Merchant Reference", "Creation Date", "TimeZone"),
    *("Type", "Modification Reference", "Gross Currency", "Gross Debit (GC)", "Gross Credit (GC)"),
)
PAYMENTS: dict[str, base.PaymentStatus] = {
    **dict.fromkeys(("Settled", "ChargebackReversed"), "paid"),
    **dict.fromkeys(("Chargeback", "SecondChargeback"), "disputed"),
}
REFUNDS: dict[str, base.RefundStatus] = {"Refunded": "sent", "RefundedReversed": "failed"}
# Hours from UTC of what stands in TimeZone. BST is British there; IST, CST and the like are several, so they are none.
ZONES: dict[str, float] = {
    **dict.fromkeys(("UTC", "GMT", "WET", "Z"), 0),
    **dict.fromkeys(("CET", "BST", "WEST", "MET"), 1),
    **dict.fromkeys(("CEST", "EET", "SAST", "MEST"), 2),
    **dict.fromkeys(("EEST", "MSK"), 3),
    "SGT": 8,
    "HKT": 8,
    "AWST": 8,
    "JST": 9,
    "KST": 9,
    "ACST": 9.5,
    "AEST": 10,
    "AEDT": 11,
    "NZST": 12,
    "NZDT": 13,
    "BRT": -3,
    "EDT": -4,
    "EST": -5,
    "CDT": -5,
    "MDT": -6,
    "MST": -7,
    "PDT": -7,
    "PST": -8,
}
MOST_WRONG = 50  # lines that are named
_PSP = re.compile(r"[A-Z0-9]{16}")
_AMOUNT = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?")
_WHEN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")
_REFERENCE = re.compile(r"[^\x00-\x1f\x7f]{1,80}")
OTHER = "this is no Settlement details report of Adyen: no column {}. Other reports can't be read"


class _Wrong(ValueError):
    """Of one line."""


@dataclass(frozen=True, slots=True)
class _Entry:
    sort: str
    psp: str
    reference: str
    at: datetime
    change: str
    amount: Money


def read(said: str) -> Snapshot:
    """Payments, their orders by the merchant's reference, and refunds. It tells nobody's e-mail: whose they are, the
    merchant's rows or later webhooks say. Raises ValueError that names bad lines by their number."""
    entries, wrong, accounts = list[_Entry](), list[str](), set[str]()
    for line, row in _rows(said):
        try:
            accounts.add(row["Merchant Account"])
            if len(accounts) > 1:
                raise _Wrong("this is another merchant account than before: make a report for each")
            if row["Psp Reference"] and row["Type"] in (*PAYMENTS, *REFUNDS):
                entries.append(_entry(row))
        except _Wrong as error:
            wrong.append(f"line {line}: {error}")
            if len(wrong) == MOST_WRONG:
                break
    if wrong:
        raise ValueError("; ".join(wrong))
    return _together(sorted(entries, key=lambda entry: entry.at))


def _rows(said: str) -> Iterator[tuple[int, dict[str, str]]]:
    lines = csv.reader(io.StringIO(said.lstrip("\ufeff"), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(lines, [])]
        if missing := [name for name in COLUMNS if name not in header]:
            raise ValueError(f"line 1: {OTHER.format(', '.join(missing))}")
        if twice := [name for name, count in Counter(header).items() if count > 1 and name in COLUMNS]:
            raise ValueError(f"line 1: the column {twice[0]} stands there twice")
        for cells in lines:
            if any(cell.strip() for cell in cells):
                row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
                yield lines.line_num, {name: row.get(name, "") for name in COLUMNS}
    except csv.Error:
        raise ValueError(f"line {lines.line_num}: this is no line of a CSV file") from None


def _entry(row: dict[str, str]) -> _Entry:
    psp, change = row["Psp Reference"], row["Modification Reference"]
    if not _PSP.fullmatch(psp):
        raise _Wrong("Psp Reference is not of 16 capital letters and digits")
    if row["Type"] in REFUNDS and not _PSP.fullmatch(change):
        raise _Wrong("a refund without its Modification Reference")
    if row["Merchant Reference"] and not _REFERENCE.fullmatch(row["Merchant Reference"]):
        raise _Wrong("Merchant Reference is longer than 80 characters, or not of characters alone")
    at = _moment(row["Creation Date"], row["TimeZone"])
    amount = _amount(row)
    return _Entry(row["Type"], psp, row["Merchant Reference"], at, change, amount)


def _moment(said: str, zone: str) -> datetime:
    found = wire.moment(said, _zone(zone)) if _WHEN.fullmatch(said) else None
    if found is None:
        raise _Wrong("Creation Date is not like 2026-07-26 19:58:55, which table programs may rewrite")
    return found


def _zone(said: str) -> tzinfo:
    if (hours := ZONES.get(said.upper())) is not None:
        return timezone(timedelta(hours=hours))
    if re.fullmatch(r"[A-Z][A-Za-z_]{1,20}/[A-Z][A-Za-z_]{1,20}", said):
        try:
            return ZoneInfo(said)
        except (KeyError, ValueError, OSError):
            pass
    raise _Wrong("TimeZone is none that means one thing everywhere: have the report made in UTC or CET")


def _amount(row: dict[str, str]) -> Money:
    told = [row[name] for name in ("Gross Debit (GC)", "Gross Credit (GC)") if row[name].strip("0.")]
    if len(told) != 1 or not _AMOUNT.fullmatch(told[0]):
        raise _Wrong("there is not one amount like 45.99 in Gross Debit (GC) and Gross Credit (GC)")
    found = wire.major(told[0], row["Gross Currency"])
    if found is None:
        raise _Wrong("Gross Currency is no currency in which there is this amount")
    return found


def _together(entries: list[_Entry]) -> Snapshot:
    """By what they are about, in the order of their times."""
    payments, refunds = dict[str, PaymentRecord](), dict[str, RefundRecord]()
    orders = dict[str, OrderRecord]()
    settled: dict[str, Money] = {}
    first: dict[str, datetime] = {}
    for entry in entries:
        if entry.sort in REFUNDS:
            refunds[entry.change] = wire.spoken(
                RefundRecord,
                entry.change,
                payment=entry.psp,
                status=REFUNDS[entry.sort],
                raw_status=entry.sort,
                amount=entry.amount,
                created_at=entry.at,
            )
            continue
        if entry.sort == "Settled":
            before = settled.get(entry.psp)
            if before is not None and before.currency != entry.amount.currency:
                raise ValueError(f"the payment {entry.psp} was captured in two currencies")
            settled[entry.psp] = Money(
                entry.amount.minor + (before.minor if before else 0), entry.amount.currency
            )
            first.setdefault(entry.psp, entry.at)
        payments[entry.psp] = _payment(entry, settled.get(entry.psp), first.get(entry.psp))
        if entry.sort == "Settled" and _is_of_a_shop(entry.reference):
            orders.setdefault(entry.reference, _order(entry))
    return Snapshot(
        as_of=entries[-1].at if entries else clock.now(),  # what was told since is newer
        orders=tuple(orders.values()),
        payments=tuple(payments.values()),
        refunds=tuple(refunds.values()),
    )


def _payment(entry: _Entry, amount: Money | None, at: datetime | None) -> PaymentRecord:
    # Not with what it was paid: the report has no digits of a card, and a webhook may have told them.
    return wire.spoken(
        PaymentRecord,
        entry.psp,
        status=PAYMENTS[entry.sort],
        raw_status=entry.sort,
        amount=amount,
        created_at=at,
        paid_at=at,
        order=entry.reference if _is_of_a_shop(entry.reference) else None,
    )


def _order(entry: _Entry) -> OrderRecord:
    return wire.spoken(
        OrderRecord,
        entry.reference,
        status="paid",
        number=entry.reference,
        amount=entry.amount,
        created_at=entry.at,
    )


def _is_of_a_shop(reference: str) -> bool:
    return bool(reference) and not reference.startswith((PAYING, SAVING))
