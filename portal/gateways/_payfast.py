"""What PayFast says, in our words: subscriptions, payments, ITNs, report, the merchant's list; and its signatures.

Pure, but for the day of today. Amounts are cents in the bodies of the API, rand with two decimals in ITNs and report.
"""

import csv
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote_plus
from zoneinfo import ZoneInfo

from portal import clock
from portal.gateways import base, wire
from portal.gateways.base import Interval, OrderRecord, PaymentRecord, RefundRecord, SubscriptionRecord
from portal.gateways.wire import Json, part, text, whole
from portal.intervals import add_months
from portal.money import Money

SAST = ZoneInfo("Africa/Johannesburg")  # what PayFast means where it names no zone
INTERVALS = {1: Interval("day"), 2: Interval("week"), 3: Interval("month"), 4: Interval("month", 3)}
INTERVALS |= {5: Interval("month", 6), 6: Interval("year")}
FREQUENCIES = {interval: number for number, interval in INTERVALS.items()}
PAYMENTS: dict[str, base.PaymentStatus] = {"COMPLETE": "paid", "PENDING": "pending", "FAILED": "failed"}
AGREEMENTS = ("agreement", "sandbox_agreement")
GRACE = timedelta(days=1)
ID = re.compile(r"[A-Za-z0-9-]{1,64}")
NO_ANSWER = "PayFast does not answer at the moment."
Pairs = Sequence[Sequence[str]]


def php_urlencode(value: str) -> str:
    """As PHP's urlencode: a space becomes +, hex in capitals, and the tilde is encoded too."""
    return quote_plus(value).replace("~", "%7E")


def form(pairs: Pairs) -> str:
    return "&".join(f"{php_urlencode(name)}={php_urlencode(value)}" for name, value in pairs)


def api_signature(values: Mapping[str, str], passphrase: str) -> str:
    """Of a call: everything sent and the passphrase, sorted by name, blanks left out. ITNs have another rule."""
    everything = {**values, "passphrase": passphrase}
    return _md5(form(sorted((name, value) for name, value in everything.items() if value)))


def _md5(value: str) -> str:
    return hashlib.md5(value.encode(), usedforsecurity=False).hexdigest()


def proved(body: bytes, passphrase: str) -> list[tuple[str, str]]:
    """The pairs of an ITN in their order, without the signature that proves them: blanks kept, passphrase last."""
    if not passphrase:
        raise base.BadSignature("Without a passphrase anybody could sign an ITN.")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise base.BadSignature("The body is not a form.") from None
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names) or names[-1:] != ["signature"]:
        raise base.BadSignature("Every field comes once, and the signature last.")
    signature = pairs.pop()[1]
    if not wire.same(signature, _md5(f"{form(pairs)}&passphrase={php_urlencode(passphrase)}")):
        raise base.BadSignature(
            "The signature is wrong, or the passphrase here is not the one set at PayFast."
        )
    return pairs


def subscription(
    token: str, said: Json, sandbox: bool = False, free_start: bool = False
) -> SubscriptionRecord:
    """What a fetch speaks of: not e-mail, name, title, start or card. An agreement has a status and no more.

    `free_start`: it is known to have begun without a payment, which the answer itself does not tell.
    """
    word = (text(said.get("status_text")) or "").upper()
    if not word:
        raise base.Unavailable(NO_ANSWER, "The answer is no subscription.")
    run_at, amount = wire.moment(said.get("run_date"), SAST), cents(said.get("amount"))
    interval, status = (
        INTERVALS.get(whole(said.get("frequency")) or 0),
        _status(said, word, run_at, free_start),
    )
    agreement = not {"amount", "frequency", "cycles", "run_date"} & set(said)
    sort = "sandbox_agreement" if sandbox else "agreement"
    charged = status in ("active", "trialing") and run_at is not None
    begun = status != "trialing" and interval and run_at and whole(said.get("cycles_complete"))
    return wire.spoken(
        SubscriptionRecord,
        token,
        also=() if agreement or not status else ("due", "next_payment"),
        status=status,
        raw_status=f"{text(said.get('status')) or ''} {text(said.get('status_text'))}".strip(),
        stopped=(status == "past_due" and "LOCK" in word) if status else None,
        object=sort if agreement else "sandbox" if sandbox else None,
        method=base.Method("card"),
        amount=amount,
        interval=interval,
        current_period_start=_earlier(run_at, interval) if begun and run_at and interval else None,
        current_period_end=run_at,
        trial_ends_at=run_at if status == "trialing" else None,
        next_payment=base.NextPayment(_day(run_at), amount, "fixed") if charged and run_at else None,
        due=amount if status == "past_due" else None,
    )


def _status(said: Json, word: str, run_at: datetime | None, free: bool) -> base.SubscriptionStatus | None:
    """None for a word we do not know. A failed charge leaves run_date in the past while the word stays ACTIVE."""
    cycles, complete = whole(said.get("cycles")) or 0, whole(said.get("cycles_complete")) or 0
    if word == "CANCELLED":
        return "cancelled"
    if 0 < cycles <= complete:
        return "expired"
    if "LOCK" in word:
        return "past_due"
    if "PAUSE" in word:
        return "paused"
    if word != "ACTIVE":
        return None
    if run_at and _day(run_at) < today() - GRACE:
        return "past_due"
    return "trialing" if free and not complete and run_at and _day(run_at) > today() else "active"


def _earlier(moment: datetime, interval: Interval) -> datetime:
    """One interval before, on the same day of the month where that month has it."""
    local = moment.astimezone(SAST)
    if interval.unit in ("day", "week"):
        return (local - timedelta(days=7 if interval.unit == "week" else 1)).astimezone(UTC)
    on = add_months(local.date(), -interval.count * (12 if interval.unit == "year" else 1))
    return datetime.combine(on, local.timetz()).astimezone(UTC)


def paused_by_us(was: SubscriptionRecord, now: SubscriptionRecord) -> SubscriptionRecord:
    """The word of a paused one is not documented: where it stays ACTIVE, the charge that moved away shows the pause."""
    moved = was.next_payment and now.next_payment and now.next_payment.on > was.next_payment.on
    return replace(now, status="paused") if now.status == "active" and moved else now


def wish_of(change: Mapping[str, Any]) -> dict[str, int]:
    """PayFast's fields for a change; it has neither plans nor quantities."""
    amount, interval = change.get("amount"), change.get("interval")
    if change.get("quantity") is not None or (amount is None and interval is None):
        raise base.Unsupported("At PayFast only the amount and the interval can be changed.")
    if amount is not None and (amount.currency != "ZAR" or amount.minor <= 0):
        raise base.Unsupported("PayFast charges in South African rand only.")
    if interval is not None and interval not in FREQUENCIES:
        raise base.Unsupported("PayFast does not charge at this interval.")
    wish = {"amount": amount.minor} if amount is not None else {}
    return wish | ({"frequency": FREQUENCIES[interval]} if interval is not None else {})


def unlike(record: SubscriptionRecord, wish: Mapping[str, int]) -> list[str]:
    """The wishes that a subscription does not show."""
    has = {
        "amount": record.amount.minor if record.amount else None,
        "frequency": FREQUENCIES[record.interval] if record.interval else None,
    }
    return [name for name, value in wish.items() if has[name] != value]


def queried(payment: str, said: Json) -> PaymentRecord:
    status = PAYMENTS.get((text(said.get("status")) or "").upper())
    code, message = text(said.get("cc_status")) or "FAILED", text(said.get("cc_message"))
    told: dict[str, Any] = {"status": status, "raw_status": text(said.get("status"))}
    told |= {"amount": cents(said.get("amount")), "order": text(said.get("m_payment_id"))}
    failure = base.Failure(code, message) if status == "failed" else None
    return wire.spoken(PaymentRecord, payment, failure=failure, **told)


def order_of(payment: PaymentRecord) -> OrderRecord:
    """The order that a payment is of, as far as a query of the payment tells it."""
    status = "open" if payment.status == "pending" else payment.status
    told: dict[str, Any] = {"status": status, "number": payment.order, "raw_status": payment.raw_status}
    return wire.spoken(OrderRecord, payment.order or payment.remote_id, amount=payment.amount, **told)


def refunds(payment: str, said: Json) -> tuple[RefundRecord, ...]:
    """What went back of a payment; amounts mix numbers and text."""
    lines = said.get("transactions")
    back = [part(line) for line in (lines if isinstance(lines, list) else [])]
    back = [line for line in back if "refund" in str(line.get("type")).lower()]
    found = [(wire.moment(line.get("date"), SAST), abs(whole(line.get("amount")) or 0)) for line in back]
    return _refund_records(payment, found)


def refunded(payment: PaymentRecord, minor: int) -> PaymentRecord:
    """The payment with what went back of it."""
    status = payment.status
    if status == "paid" and minor:
        is_all = payment.amount is not None and minor >= payment.amount.minor
        status = "refunded" if is_all else "partially_refunded"
    knows = (payment.knows or frozenset()) | {"refunded"}
    return replace(payment, status=status, refunded=Money(minor, "ZAR"), knows=knows)


def _refund_records(payment: str, found: Sequence[tuple[datetime | None, int]]) -> tuple[RefundRecord, ...]:
    """PayFast gives refunds no id: day and amount make one, the same from the report and from a query."""
    records: dict[str, RefundRecord] = {}
    for moment, minor in found:
        name = f"{payment}/{_day(moment) if moment else 'undated'}/{minor}"
        while name in records:
            name += "+"
        told: dict[str, Any] = {"status": "sent", "payment": payment, "created_at": moment}
        records[name] = wire.spoken(RefundRecord, name, amount=Money(minor, "ZAR"), **told)
    return tuple(records.values())


def event(pairs: Pairs, now: datetime) -> base.Event:
    """The event of an ITN or of a notice about a subscription; PayFast stamps no time on either.

    It keeps the pairs in their order, for the question back to the server. CANCELLED announces the end of a
    subscription; its amounts are none to book. No id holds the token.
    """
    said = {str(name): str(value) for name, value in pairs}
    kept = {"pairs": [list(pair) for pair in pairs], "received_at": now.isoformat()}
    status, token = said.get("payment_status"), said.get("token")
    if status is None:
        kind = said.get("type") or "unknown"
        subject = base.Ref("subscription", token) if token else None
        return base.Event(f"{kind}:{wire.digest(form(pairs))}", kind, subject, None, kept)
    ends, payment = status == "CANCELLED", said.get("pf_payment_id")
    name = f"{payment or ''}:{status}" + (f":{wire.digest(token or '')}" if ends else "")
    remote_id = token if ends else payment
    about = base.Ref("subscription" if ends else "payment", remote_id) if remote_id else None
    return base.Event(name, status, about, None, kept)


def told_payment(said: Mapping[str, str]) -> PaymentRecord:
    """An ITN names no moment: the report does, and until then a payment stands where we first heard of it."""
    status, told = PAYMENTS.get(said["payment_status"]), _told(said)
    told |= {"raw_status": text(said["payment_status"]), "amount": rand(said.get("amount_gross"))}
    told["method"] = base.Method("card") if told["subscription"] else None  # only cards are charged again
    failure = base.Failure("FAILED") if status == "failed" else None
    order = _order_id(said)
    return wire.spoken(
        PaymentRecord, said["pf_payment_id"], status=status, order=order, failure=failure, **told
    )


def told_order(said: Mapping[str, str]) -> OrderRecord:
    """A renewal repeats the number of the first checkout, so amount and failure are the order's only without token."""
    once, number, told = not said.get("token"), _order_id(said), _told(said)
    words = {"COMPLETE": "paid", "PENDING": "open" if once else None, "FAILED": "failed" if once else None}
    told |= {"status": words.get(said["payment_status"]), "number": number}
    told["amount"] = rand(said.get("amount_gross")) if once else None
    return wire.spoken(OrderRecord, number, **told)


def _told(said: Mapping[str, str]) -> dict[str, Any]:
    names = {"email": "email_address", "title": "item_name", "subscription": "token"}
    return {ours: text(said.get(theirs)) for ours, theirs in names.items()}


def _order_id(said: Mapping[str, str]) -> str:
    return said.get("m_payment_id") or said["pf_payment_id"]


# The report, and the merchant's list


def rows(said: Any) -> list[dict[str, str]]:
    """The report by the names of its columns: which there are differs."""
    table = str(said or "").lstrip("\ufeff \r\n")
    if table and "pf payment id" not in table.splitlines()[0].lower():
        raise base.Unavailable(NO_ANSWER, "The report has no column PF Payment ID.")
    return [
        {name.strip().lower(): (value or "").strip() for name, value in row.items() if name}
        for row in csv.DictReader(io.StringIO(table))
    ]


def reported(table: Sequence[Mapping[str, str]], sent_back: dict[str, int], as_of: datetime) -> base.Snapshot:
    """`sent_back` takes what newer months sent back along to the older month with the payment."""
    sales, returned = [], dict[str, list[tuple[datetime | None, int]]]()
    for row in table:
        kind, payment = row.get("type", "").upper(), row.get("pf payment id", "")
        if payment and "REFUND" in kind:
            at = wire.moment(row.get("date"), SAST)
            returned.setdefault(payment, []).append((at, abs(_gross(row).minor)))
        elif payment and kind == "FUNDS_RECEIVED" and row.get("sign", "CREDIT").upper() == "CREDIT":
            sales.append(row)
    for payment, found in returned.items():
        sent_back[payment] = sent_back.get(payment, 0) + sum(minor for _, minor in found)
    newest_first = sorted(sales, key=lambda row: row.get("date", ""), reverse=True)
    orders = {order.remote_id: order for order in map(_reported_order, newest_first)}  # the oldest row stays
    return base.Snapshot(
        as_of=as_of,
        orders=tuple(orders.values()),
        payments=tuple(_reported_payment(row, sent_back) for row in sales),
        refunds=tuple(one for payment, found in returned.items() for one in _refund_records(payment, found)),
    )


def _reported_payment(row: Mapping[str, str], sent_back: dict[str, int]) -> PaymentRecord:
    payment, is_card = row["pf payment id"], row.get("funding type", "").upper() in ("CC", "DC")
    told = _bought(row)
    told |= {"raw_status": row["type"], "paid_at": told["created_at"], "order": told.pop("number")}
    record = wire.spoken(PaymentRecord, payment, method=base.Method("card") if is_card else None, **told)
    return refunded(record, sent_back.pop(payment)) if payment in sent_back else record


def _reported_order(row: Mapping[str, str]) -> OrderRecord:
    """One order, many payments; the walk goes backwards, so the checkout has the last word."""
    told = _bought(row)
    return wire.spoken(OrderRecord, told["number"], **told)


def _bought(row: Mapping[str, str]) -> dict[str, Any]:
    number = row.get("m payment id") or row["pf payment id"]
    told = {"status": "paid", "number": number, "title": row.get("name") or None, "amount": _gross(row)}
    return told | {"created_at": wire.moment(row.get("date"), SAST)}


def _gross(row: Mapping[str, str]) -> Money:
    amount = rand(row.get("gross"))
    if amount is None:
        raise base.Unavailable(NO_ANSWER, "A row of the report has no readable Gross.")
    return amount


def read_tokens_csv(said: str) -> base.Snapshot:
    """The merchant's own list, since no call lists subscriptions: columns `email, m_payment_id, token`, in any order.

    A row needs an e-mail and one of the other two. Raises ValueError that names every bad line, and no token.
    """
    lines = csv.reader(io.StringIO(said.lstrip("\ufeff")))
    header = [name.strip().lower() for name in next(lines, [])]
    if missing := {"email", "m_payment_id", "token"} - set(header):
        raise ValueError(f"line 1: no column {', '.join(sorted(missing))}")
    owners: dict[tuple[str, str], tuple[str, int]] = {}
    orders, subscriptions, wrong = dict[str, OrderRecord](), dict[str, SubscriptionRecord](), []
    for cells in lines:
        row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
        email, number, token = (row.get(name, "") for name in ("email", "m_payment_id", "token"))
        if not (email or number or token):
            continue
        if complaint := _complaint(email, number, token, owners, lines.line_num):
            wrong.append(f"line {lines.line_num}: {complaint}")
        if number:
            more: dict[str, Any] = {"number": number, "subscription": token or None}
            orders[number] = wire.spoken(OrderRecord, number, email=email or None, **more)
        if token:
            subscriptions[token] = wire.spoken(SubscriptionRecord, token, email=email or None)
    if wrong:
        raise ValueError("; ".join(wrong))
    told, theirs = tuple(orders.values()), tuple(subscriptions.values())
    return base.Snapshot(as_of=clock.now(), orders=told, subscriptions=theirs)


def _complaint(
    email: str, number: str, token: str, owners: dict[tuple[str, str], tuple[str, int]], line: int
) -> str | None:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", email):
        return "this is no e-mail address"
    if token and not ID.fullmatch(token):
        return "this is no token of PayFast"
    if not (number or token):
        return "neither m_payment_id nor token"
    for name in (("m_payment_id", number), ("token", token)):
        owner, first = owners.setdefault(name, (email.lower(), line)) if name[1] else (email.lower(), line)
        if owner != email.lower():
            return f"this {name[0]} stands in line {first} with another e-mail"
    return None


def masked(said: object) -> str:
    """PayFast's words without what looks like a token."""
    return re.sub(r"\b[0-9A-Fa-f]{8}-[0-9A-Fa-f-]{4,}\b", "…", str(said))[:300]


def month(last_day: date, back: int) -> tuple[date, date]:
    """First and last day of the month so many months back; the newest ends on the last day of all."""
    first = add_months(last_day.replace(day=1), -back)
    return first, min(last_day, add_months(first, 1) - timedelta(days=1))


def today() -> date:
    return _day(clock.now())


def _day(moment: datetime) -> date:
    return moment.astimezone(SAST).date()


def cents(value: Any) -> Money | None:
    return wire.minor(value, "ZAR")


def rand(value: Any) -> Money | None:
    return wire.major(value, "ZAR")
