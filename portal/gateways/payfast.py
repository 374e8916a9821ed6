"""PayFast (South Africa): signed calls without idempotency, notices called ITN, and a report of payments. Rand only.

Amounts are cents in the bodies of the API, rand with two decimals in ITNs and in the report. A subscription's token is
a bearer secret (whoever holds it can open its card page), so it stands in no hint and in no event id.
Sources: https://developers.payfast.co.za/api and https://developers.payfast.co.za/docs
"""

import csv
import hashlib
import hmac
import io
import json
import re
from calendar import monthrange
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, quote_plus
from zoneinfo import ZoneInfo

import httpx2 as httpx

from portal import clock
from portal.gateways import base
from portal.gateways.base import (
    BadSignature,
    Declined,
    Event,
    Failure,
    Gone,
    Health,
    Interval,
    Leave,
    Method,
    NextPayment,
    OrderRecord,
    Page,
    PaymentRecord,
    Ref,
    RefundRecord,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.http import Http
from portal.money import Money, from_major

API, LIVE, SANDBOX = "api.payfast.co.za", "www.payfast.co.za", "sandbox.payfast.co.za"
SAST = ZoneInfo("Africa/Johannesburg")
INTERVALS = {
    1: Interval("day"),
    2: Interval("week"),
    3: Interval("month"),
    4: Interval("month", 3),
    5: Interval("month", 6),
    6: Interval("year"),
}
FREQUENCIES = {interval: number for number, interval in INTERVALS.items()}
PAYMENTS: dict[str, base.PaymentStatus] = {"COMPLETE": "paid", "PENDING": "pending", "FAILED": "failed"}
AGREEMENTS = ("agreement", "sandbox_agreement")
GRACE = timedelta(days=1)
RATE_LIMIT_REST_S = 300.0  # the refusal speaks of a few minutes
REPORT_ROWS, REPORT_MONTHS, EMPTY_MONTHS = 1000, 36, 12
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
NOT_DONE, NO_ANSWER = "PayFast did not accept this.", "PayFast does not answer at the moment."


class KeysRefused(Unavailable):
    """A 401: merchant unknown, signature wrong, or our address not on the account's allow-list."""


class Adapter(base.Gateway):
    """One PayFast account. Credentials: merchant_id, merchant_key, passphrase, sandbox ("yes" or "no")."""

    def __init__(self, credentials: Mapping[str, str], **more: Any) -> None:
        super().__init__(credentials, **more)
        self._http = Http(self, "payfast")
        self._merchant = credentials["merchant_id"].strip()
        self._passphrase = credentials.get("passphrase", "").strip()
        self._sandbox = credentials.get("sandbox") == "yes"

    async def aclose(self) -> None:
        await self._http.aclose()

    async def check(self) -> Health:
        """Ping proves no passphrase, so a signed question for today's report follows."""
        wrong = None if self._passphrase else "Set a passphrase at PayFast (Settings > Security passphrase)."
        try:
            await self._api("GET", "/ping")
            await self._report(_today(), _today(), 0)
        except (KeysRefused, Declined, Gone) as refused:
            wrong = wrong or refused.hint
        return Health(ok=wrong is None, live=not self._sandbox, account=self._merchant, hint=wrong)

    async def backfill(self, cursor: str | None = None) -> AsyncIterator[Page]:
        """The report of payments, month by month backwards, to three years ago or past the first empty year.

        It has neither e-mail nor token, so no record here speaks of either; no call lists subscriptions.
        """
        walk: dict[str, Any] = {"start": str(_today()), "month": 0, "offset": 0, "empty": 0, "refunded": {}}
        walk |= json.loads(cursor) if cursor else {}
        while walk["month"] <= REPORT_MONTHS and walk["empty"] < EMPTY_MONTHS:
            as_of = clock.now()
            first, last = _month(date.fromisoformat(walk["start"]), walk["month"])
            rows = await self._report(first, last, walk["offset"])
            walk["empty"] = 0 if rows or walk["offset"] else walk["empty"] + 1
            full = len(rows) >= REPORT_ROWS
            walk["offset"] = walk["offset"] + len(rows) if full else 0
            walk["month"] += 0 if full else 1
            more = walk["month"] <= REPORT_MONTHS and walk["empty"] < EMPTY_MONTHS
            snapshot = _reported(rows, walk["refunded"], as_of)
            yield Page(snapshot, json.dumps(walk) if more else None)

    async def _report(self, first: date, last: date, offset: int) -> list[dict[str, str]]:
        query = {"from": str(first), "to": str(last), "limit": str(REPORT_ROWS), "offset": str(offset)}
        return _rows(await self._api("GET", "/transactions/history", query=query))

    @staticmethod
    def read_tokens_csv(text: str) -> Snapshot:
        """The merchant's own list of e-mails, orders and tokens; see the function of this name below."""
        return read_tokens_csv(text)

    async def fetch(self, ref: Ref) -> Snapshot:
        """A subscription by its token or a payment by its pf_payment_id; nothing else can be asked for."""
        as_of = clock.now()
        if ref.kind == "subscription":
            return Snapshot(as_of=as_of, subscriptions=(await self._subscription(ref.id),))
        if ref.kind == "payment":
            payment, refunds = await self._payment(ref.id)
            return Snapshot(as_of=as_of, payments=(payment,), refunds=refunds)
        raise Unsupported("PayFast can't be asked about this.", f"It has no look-up for a {ref.kind}.")

    async def _subscription(self, token: str, free_start: bool = False) -> SubscriptionRecord:
        said = _object(await self._api("GET", f"/subscriptions/{_safe(token)}/fetch"))
        return _subscription(token, said, self._sandbox, free_start)

    async def _payment(self, payment: str) -> tuple[PaymentRecord, tuple[RefundRecord, ...]]:
        said = _object(await self._api("GET", f"/process/query/{_safe(payment)}"))
        refunds = await self._refunds(payment)
        total = sum(refund.amount.minor for refund in refunds or () if refund.amount)
        record = _queried(payment, said)
        return record if refunds is None else _refunded(record, total), refunds or ()

    async def _refunds(self, payment: str) -> tuple[RefundRecord, ...] | None:
        if self._sandbox:  # the sandbox has no refunds
            return None
        try:
            said = _object(await self._api("GET", f"/refunds/{_safe(payment)}"))
        except (Declined, Gone):
            return None
        lines = [line for line in said.get("transactions") or [] if "refund" in str(line.get("type")).lower()]
        found = [(_moment(line.get("date")), abs(_int(line.get("amount")) or 0)) for line in lines]
        return _refund_records(payment, found)

    def verify(
        self, headers: list[tuple[str, str]], body: bytes, now: datetime, certificate: bytes | None = None
    ) -> list[Event]:
        """The one event of an ITN or of a notice about a subscription; PayFast stamps no time on either.

        The event keeps the pairs in their order, for the question back to the server in `refetch`.
        """
        pairs = self._proved(body)
        said = dict(pairs)
        kept = {"pairs": [list(pair) for pair in pairs], "received_at": now.isoformat()}
        if "payment_status" not in said:
            kind, token = said.get("type") or "unknown", said.get("token")
            subject = Ref("subscription", token) if token else None
            return [Event(f"{kind}:{_digest(_form(pairs))}", kind, subject, None, kept)]
        if not hmac.compare_digest(said.get("merchant_id", "").encode(), self._merchant.encode()):
            raise BadSignature("The ITN is for another merchant id.")
        return [Event(_event_id(said), said["payment_status"], _subject(said), None, kept)]

    def _proved(self, body: bytes) -> list[tuple[str, str]]:
        if not self._passphrase:
            raise BadSignature("Without a passphrase anybody could sign an ITN.")
        try:
            pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=100)
        except ValueError:
            raise BadSignature("The body is not a form.") from None
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names) or names[-1:] != ["signature"]:
            raise BadSignature("Every field comes once, and the signature last.")
        signature = pairs.pop()[1]
        expected = _md5(f"{_form(pairs)}&passphrase={php_urlencode(self._passphrase)}")
        if not hmac.compare_digest(signature.encode(), expected.encode()):
            raise BadSignature(
                "The signature is wrong, or the passphrase here is not the one set at PayFast."
            )
        return pairs

    async def refetch(self, event: Event) -> Snapshot | None:
        """PayFast's own word: its server confirms the ITN, and the subscription is fetched by its token.

        CANCELLED books no payment and a notice books nothing: they only make us look. Raises BadSignature where the
        server does not know the ITN.
        """
        if event.subject is None:
            return None
        said: dict[str, str] = dict(event.body["pairs"])
        status, token, as_of = said.get("payment_status"), said.get("token", ""), clock.now()
        if status is None:
            record = await self._subscription(token, free_start=_int(said.get("initial_amount")) == 0)
            return Snapshot(as_of=as_of, subscriptions=(record,))
        await self._confirm(event.body["pairs"])
        subscriptions = (await self._told_subscription(token, said),) if token else ()
        if status == "CANCELLED":
            return Snapshot(as_of=as_of, subscriptions=subscriptions)
        received = datetime.fromisoformat(event.body["received_at"])
        payment = await self._told_payment(said)
        order = _told_order(said)
        return Snapshot(as_of=received, orders=(order,), subscriptions=subscriptions, payments=(payment,))

    async def _confirm(self, pairs: Sequence[Sequence[str]]) -> None:
        """MD5 alone is too weak, so PayFast is asked whether it sent this; that may take a minute."""
        host = SANDBOX if self._sandbox else LIVE
        content = _form(pairs).encode()
        answer = await self._http.call("POST", host, "/eng/query/validate", headers=FORM, content=content)
        if answer.status_code != 200:
            rest = RATE_LIMIT_REST_S if answer.status_code == 429 else None
            raise Unavailable(NO_ANSWER, f"Confirming an ITN was answered {answer.status_code}.", rest)
        if not answer.text.startswith("VALID"):
            raise BadSignature("PayFast does not confirm that it sent this ITN.")

    async def _told_subscription(self, token: str, said: Mapping[str, str]) -> SubscriptionRecord:
        free = said["payment_status"] == "COMPLETE" and _rand(said.get("amount_gross")) == Money(0, "ZAR")
        told = _speak(SubscriptionRecord, token, email=said.get("email_address"), title=said.get("item_name"))
        try:
            record = await self._subscription(token, free)
        except Gone:
            return told
        knows = (record.knows or frozenset()) | (told.knows or frozenset())
        return replace(record, email=told.email, title=told.title, knows=knows)

    async def _told_payment(self, said: Mapping[str, str]) -> PaymentRecord:
        payment = _told_payment(said)
        if payment.status == "paid":
            return payment
        try:  # ITNs come in any order, so what may have changed since is asked for
            current, _ = await self._payment(payment.remote_id)
        except (Declined, Gone):
            return payment
        if current.status is None:
            return payment
        now = {name: getattr(current, name) for name in ("status", "raw_status", "failure")}
        return replace(payment, **now, knows=(payment.knows or frozenset()) | set(now))

    async def cancel_now(self, ref: Ref, key: str) -> Snapshot:
        """Final at PayFast: a cancelled token never comes back. A second cancel is answered 400 and is no failure."""
        before = await self.fetch(ref)
        if before.subscriptions[0].status == "cancelled":
            return before
        return await self._change(ref, "PUT", "cancel", lambda now: now.status == "cancelled")

    async def pause(self, ref: Ref, key: str) -> Snapshot:
        """A gap of one cycle. On a locked subscription the same call starts charging again: only ACTIVE is paused."""
        before = await self.fetch(ref)
        was = before.subscriptions[0]
        if was.status == "paused":
            return before
        if was.status != "active" or was.object in AGREEMENTS:
            raise Unsupported("This can only be paused while its payments are up to date.")
        after = await self._change(ref, "PUT", "pause", lambda now: now.status == "paused", {"cycles": 1})
        return replace(after, subscriptions=(_paused_by_us(was, after.subscriptions[0]),))

    async def resume(self, ref: Ref, key: str) -> Snapshot:
        before = await self.fetch(ref)
        if before.subscriptions[0].status == "active":
            return before
        if before.subscriptions[0].status != "paused":
            raise Unsupported("Only a paused subscription can be resumed.")
        return await self._change(ref, "PUT", "unpause", lambda now: now.status == "active")

    async def change_plan(
        self, ref: Ref, change: Mapping[str, Any], return_url: str, key: str
    ) -> Snapshot | Leave:
        """Another amount (Money in ZAR) or interval (one of six) from the next charge on; nothing is prorated."""
        wish = _wish(change)
        before = await self.fetch(ref)
        was = before.subscriptions[0]
        if was.status not in ("active", "trialing") or was.object in AGREEMENTS:
            raise Unsupported("This can only be changed while it is active.")
        fields = {name: wish[name] for name in _unlike(was, wish)}
        if not fields:
            return before
        after = await self._change(ref, "PATCH", "update", lambda now: not _unlike(now, wish), fields)
        if missed := _unlike(after.subscriptions[0], wish):  # PayFast is known to leave out fields
            hint = f"Accepted, but not applied so far: {', '.join(missed)}."
            raise Unavailable("PayFast took the change, but does not show all of it yet.", hint, sent=True)
        return after

    async def start_method_update(self, ref: Ref, return_url: str, key: str) -> Leave:
        """https://developers.payfast.co.za/docs#recurring_card_update: live only, and the return tells nothing."""
        if self._sandbox:
            raise Unsupported("PayFast's sandbox has no page for another card.")
        before = await self.fetch(ref)
        if before.subscriptions[0].status in ("cancelled", "expired"):
            raise Unsupported("This subscription has ended.")
        page = f"{self.base(LIVE)}/eng/recurring/update/{_safe(ref.id)}"
        return Leave(f"{page}?return={quote(return_url, safe='')}")

    async def finish_method_update(
        self, ref: Ref, state: Mapping[str, str], query: Mapping[str, str]
    ) -> Snapshot:
        """Nothing comes back about the card: the next charge shows it."""
        return await self.fetch(ref)

    async def _change(
        self,
        ref: Ref,
        method: str,
        what: str,
        done: Callable[[SubscriptionRecord], bool],
        body: Mapping[str, int] | None = None,
    ) -> Snapshot:
        """Call, then read: without idempotency only what PayFast says afterwards counts, a refusal included."""
        try:
            said = await self._api(method, f"/subscriptions/{_safe(ref.id)}/{what}", body=body)
            if not (isinstance(said, dict) or str(said).lower() == "true"):
                raise Declined(NOT_DONE, f"PayFast answered {_masked(said)}.", reason=_masked(said))
        except Declined:
            after = await self._read_back(ref)
            if not done(after.subscriptions[0]):
                raise
            return after
        return await self._read_back(ref)

    async def _read_back(self, ref: Ref) -> Snapshot:
        try:
            return await self.fetch(ref)
        except Unavailable as error:
            raise Unavailable(error.customer, error.hint, error.retry_after, sent=True) from error

    async def _api(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, int] | None = None,
    ) -> Any:
        """The `response` of the envelope, or the text where there is none; `testing` is never signed."""
        query, fields = query or {}, {name: str(value) for name, value in (body or {}).items()}
        timestamp = clock.now().astimezone(SAST).isoformat(timespec="seconds")
        headers = {"merchant-id": self._merchant, "version": "v1", "timestamp": timestamp}
        headers["signature"] = api_signature({**headers, **query, **fields}, self._passphrase)
        if method != "GET":  # an empty PUT without a length is answered 411
            headers |= FORM if fields else {"Content-Length": "0"}
        params = {**query, "testing": "true"} if self._sandbox else query
        content = _form(list(fields.items())).encode() if fields else None
        answer = await self._http.call(method, API, path, headers=headers, params=params, content=content)
        return _response(answer, write=method != "GET")


def php_urlencode(text: str) -> str:
    """As PHP's urlencode: a space becomes +, hex in capitals, and the tilde is encoded too."""
    return quote_plus(text).replace("~", "%7E")


def api_signature(values: Mapping[str, str], passphrase: str) -> str:
    """Of a call: everything sent and the passphrase, sorted by name, blanks left out. ITNs have another rule."""
    everything = {**values, "passphrase": passphrase}
    return _md5(_form(sorted((name, value) for name, value in everything.items() if value)))


def _form(pairs: Sequence[Sequence[str]]) -> str:
    return "&".join(f"{php_urlencode(name)}={php_urlencode(value)}" for name, value in pairs)


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _response(answer: httpx.Response, *, write: bool) -> Any:
    """Failures may come with HTTP 200, so code and status of the envelope are read as well."""
    try:
        told = answer.json()
    except ValueError:
        told = answer.text
    envelope = told if isinstance(told, dict) else {}
    data = envelope.get("data")
    inner = data if isinstance(data, dict) else {"response": envelope.get("response", data)}
    code = answer.status_code
    if code == 200:
        code = _int(envelope.get("code")) or 200
    if code != 200 or envelope.get("status", "success") != "success":
        raise _refusal(code, inner, write)
    if write and not envelope:
        raise Unavailable(NO_ANSWER, "The answer was no envelope.", sent=True)
    return inner.get("response") if envelope else told


def _refusal(code: int, inner: Mapping[str, Any], write: bool) -> Exception:
    said = f"PayFast says: {_masked(inner.get('message') or inner.get('response') or f'error {code}')}"
    if code == 401:
        return KeysRefused(
            "PayFast does not accept this shop's keys at the moment. Nothing was changed.",
            f"{said}. Compare merchant id and passphrase with PayFast's settings (one set on one side only looks like "
            "a wrong signature), and see that this server's address is on the account's allow-list.",
        )
    if code == 429:
        return Unavailable("PayFast is busy. Nothing was changed.", said, RATE_LIMIT_REST_S)
    if code == 404:
        return Gone("PayFast does not know this any more.", said)
    if code >= 500 or 200 < code < 400:
        return Unavailable(NO_ANSWER, said, sent=write)
    return Declined(NOT_DONE, said, reason=_masked(inner.get("response") or code))


def _object(said: Any) -> Mapping[str, Any]:
    if not isinstance(said, dict):
        raise Unavailable(NO_ANSWER, "The answer holds no object.")
    return said


_Sort = TypeVar("_Sort", bound=base.Record)


def _speak(sort: type[_Sort], remote_id: str, blank: Sequence[str] = (), **fields: Any) -> _Sort:
    """A record that speaks of the fields with a value, and of those in `blank` as None."""
    known = {name: value for name, value in fields.items() if value not in (None, "")}
    return sort(remote_id=remote_id, knows=frozenset({*known, *blank}), **known)


def _subscription(token: str, said: Mapping[str, Any], sandbox: bool, free_start: bool) -> SubscriptionRecord:
    """What a fetch speaks of: not e-mail, name, title, start or card. An agreement has a status and no more."""
    run_at, interval = _moment(said.get("run_date")), INTERVALS.get(_int(said.get("frequency")) or 0)
    amount, text = _cents(said.get("amount")), str(said.get("status_text") or "").upper()
    status = _status(said, text, run_at, free_start)
    agreement = not {"amount", "frequency", "cycles", "run_date"} & set(said)
    sort = "sandbox_agreement" if sandbox else "agreement"
    charged = status in ("active", "trialing") and run_at is not None
    begun = status != "trialing" and interval and run_at and _int(said.get("cycles_complete"))
    return _speak(
        SubscriptionRecord,
        token,
        blank=() if agreement or not status else ("due", "next_payment"),
        status=status,
        raw_status=f"{said.get('status', '')} {said.get('status_text', '')}".strip(),
        stopped=(status == "past_due" and "LOCK" in text) if status else None,
        object=sort if agreement else "sandbox" if sandbox else None,
        method=Method("card"),
        amount=amount,
        interval=interval,
        current_period_start=_earlier(run_at, interval) if begun and run_at and interval else None,
        current_period_end=run_at,
        trial_ends_at=run_at if status == "trialing" else None,
        next_payment=NextPayment(_day(run_at), amount, "fixed") if charged and run_at else None,
        due=amount if status == "past_due" else None,
    )


def _status(
    said: Mapping[str, Any], text: str, run_at: datetime | None, free_start: bool
) -> base.SubscriptionStatus | None:
    """None for a word we do not know. A failed charge leaves run_date in the past while the word stays ACTIVE."""
    cycles, complete = _int(said.get("cycles")) or 0, _int(said.get("cycles_complete")) or 0
    if text == "CANCELLED":
        return "cancelled"
    if 0 < cycles <= complete:
        return "expired"
    if "LOCK" in text:
        return "past_due"
    if "PAUSE" in text:
        return "paused"
    if text != "ACTIVE":
        return None
    if run_at and _day(run_at) < _today() - GRACE:
        return "past_due"
    return "trialing" if free_start and not complete and run_at and _day(run_at) > _today() else "active"


def _earlier(moment: datetime, interval: Interval) -> datetime:
    local = moment.astimezone(SAST)
    if interval.unit in ("day", "week"):
        return (local - timedelta(days=7 if interval.unit == "week" else 1)).astimezone(UTC)
    months = local.year * 12 + local.month - 1 - interval.count * (12 if interval.unit == "year" else 1)
    year, month = months // 12, months % 12 + 1
    day = min(local.day, monthrange(year, month)[1])
    return local.replace(year=year, month=month, day=day).astimezone(UTC)


def _paused_by_us(was: SubscriptionRecord, now: SubscriptionRecord) -> SubscriptionRecord:
    """The word of a paused one is not documented: where it stays ACTIVE, the charge that moved away shows the pause."""
    moved = was.next_payment and now.next_payment and now.next_payment.on > was.next_payment.on
    return replace(now, status="paused") if now.status == "active" and moved else now


def _wish(change: Mapping[str, Any]) -> dict[str, int]:
    """PayFast's fields for a change; it has neither plans nor quantities."""
    amount, interval = change.get("amount"), change.get("interval")
    if change.get("quantity") is not None or (amount is None and interval is None):
        raise Unsupported("At PayFast only the amount and the interval can be changed.")
    if amount is not None and (amount.currency != "ZAR" or amount.minor <= 0):
        raise Unsupported("PayFast charges in South African rand only.")
    if interval is not None and interval not in FREQUENCIES:
        raise Unsupported("PayFast does not charge at this interval.")
    wish = {"amount": amount.minor} if amount is not None else {}
    return wish | ({"frequency": FREQUENCIES[interval]} if interval is not None else {})


def _unlike(record: SubscriptionRecord, wish: Mapping[str, int]) -> list[str]:
    has = {
        "amount": record.amount.minor if record.amount else None,
        "frequency": FREQUENCIES[record.interval] if record.interval else None,
    }
    return [name for name, value in wish.items() if has[name] != value]


def _queried(payment: str, said: Mapping[str, Any]) -> PaymentRecord:
    status = PAYMENTS.get(str(said.get("status")).upper())
    return _speak(
        PaymentRecord,
        payment,
        status=status,
        raw_status=said.get("status"),
        amount=_cents(said.get("amount")),
        order=said.get("m_payment_id"),
        failure=Failure(str(said.get("cc_status") or "FAILED"), said.get("cc_message") or None)
        if status == "failed"
        else None,
    )


def _refunded(payment: PaymentRecord, minor: int) -> PaymentRecord:
    """The payment with what went back of it."""
    status = payment.status
    if status == "paid" and minor:
        whole = payment.amount is not None and minor >= payment.amount.minor
        status = "refunded" if whole else "partially_refunded"
    knows = (payment.knows or frozenset()) | {"refunded"}
    return replace(payment, status=status, refunded=Money(minor, "ZAR"), knows=knows)


def _refund_records(payment: str, found: Sequence[tuple[datetime | None, int]]) -> tuple[RefundRecord, ...]:
    """PayFast gives refunds no id: day and amount make one, the same from the report and from a query."""
    records: dict[str, RefundRecord] = {}
    for moment, minor in found:
        name = f"{payment}/{_day(moment) if moment else 'undated'}/{minor}"
        while name in records:
            name += "+"
        amount = Money(minor, "ZAR")
        records[name] = _speak(
            RefundRecord, name, status="sent", payment=payment, amount=amount, created_at=moment
        )
    return tuple(records.values())


def _event_id(said: Mapping[str, str]) -> str:
    name = f"{said.get('pf_payment_id', '')}:{said['payment_status']}"
    return f"{name}:{_digest(said.get('token', ''))}" if said["payment_status"] == "CANCELLED" else name


def _subject(said: Mapping[str, str]) -> Ref | None:
    """CANCELLED announces the end of a subscription; its amounts are none to book."""
    ended = said["payment_status"] == "CANCELLED"
    remote_id = said.get("token" if ended else "pf_payment_id")
    return Ref("subscription" if ended else "payment", remote_id) if remote_id else None


def _told_payment(said: Mapping[str, str]) -> PaymentRecord:
    """An ITN names no moment: the report does, and until then a payment stands where we first heard of it."""
    status, token = PAYMENTS.get(said["payment_status"]), said.get("token")
    return _speak(
        PaymentRecord,
        said["pf_payment_id"],
        status=status,
        raw_status=said["payment_status"],
        email=said.get("email_address"),
        title=said.get("item_name"),
        amount=_rand(said.get("amount_gross")),
        order=_order_id(said),
        subscription=token,
        method=Method("card") if token else None,  # nothing but cards is charged again and again
        failure=Failure("FAILED") if status == "failed" else None,
    )


def _told_order(said: Mapping[str, str]) -> OrderRecord:
    """A renewal repeats the number of the first checkout, so amount and failure are the order's only without token."""
    once = not said.get("token")
    status = {"COMPLETE": "paid", "PENDING": "open" if once else None, "FAILED": "failed" if once else None}
    return _speak(
        OrderRecord,
        _order_id(said),
        status=status.get(said["payment_status"]),
        number=_order_id(said),
        email=said.get("email_address"),
        title=said.get("item_name"),
        amount=_rand(said.get("amount_gross")) if once else None,
        subscription=said.get("token"),
    )


def _order_id(said: Mapping[str, str]) -> str:
    return said.get("m_payment_id") or said["pf_payment_id"]


def _rows(said: Any) -> list[dict[str, str]]:
    """The report by the names of its columns: which there are differs."""
    text = str(said or "").lstrip("\ufeff \r\n")
    if text and "pf payment id" not in text.splitlines()[0].lower():
        raise Unavailable(NO_ANSWER, "The report has no column PF Payment ID.")
    return [
        {name.strip().lower(): (value or "").strip() for name, value in row.items() if name}
        for row in csv.DictReader(io.StringIO(text))
    ]


def _reported(rows: Sequence[Mapping[str, str]], refunded: dict[str, int], as_of: datetime) -> Snapshot:
    """`refunded` takes what newer months sent back along to the older month with the payment."""
    sales, returned = [], dict[str, list[tuple[datetime | None, int]]]()
    for row in rows:
        kind, payment = row.get("type", "").upper(), row.get("pf payment id", "")
        if payment and "REFUND" in kind:
            returned.setdefault(payment, []).append((_moment(row.get("date")), abs(_gross(row).minor)))
        elif payment and kind == "FUNDS_RECEIVED" and row.get("sign", "CREDIT").upper() == "CREDIT":
            sales.append(row)
    for payment, found in returned.items():
        refunded[payment] = refunded.get(payment, 0) + sum(minor for _, minor in found)
    newest_first = sorted(sales, key=lambda row: row.get("date", ""), reverse=True)
    orders = {order.remote_id: order for order in map(_reported_order, newest_first)}  # the oldest row stays
    return Snapshot(
        as_of=as_of,
        orders=tuple(orders.values()),
        payments=tuple(_reported_payment(row, refunded) for row in sales),
        refunds=tuple(one for payment, found in returned.items() for one in _refund_records(payment, found)),
    )


def _reported_payment(row: Mapping[str, str], refunded: dict[str, int]) -> PaymentRecord:
    moment = _moment(row.get("date"))
    record = _speak(
        PaymentRecord,
        row["pf payment id"],
        status="paid",
        raw_status=row["type"],
        created_at=moment,
        paid_at=moment,
        title=row.get("name"),
        amount=_gross(row),
        order=row.get("m payment id") or row["pf payment id"],
        method=Method("card") if row.get("funding type", "").upper() in ("CC", "DC") else None,
    )
    return _refunded(record, refunded.pop(record.remote_id)) if record.remote_id in refunded else record


def _reported_order(row: Mapping[str, str]) -> OrderRecord:
    """One order, many payments; the walk goes backwards, so the checkout has the last word."""
    number = row.get("m payment id") or row["pf payment id"]
    return _speak(
        OrderRecord,
        number,
        status="paid",
        number=number,
        created_at=_moment(row.get("date")),
        title=row.get("name"),
        amount=_gross(row),
    )


def _gross(row: Mapping[str, str]) -> Money:
    amount = _rand(row.get("gross"))
    if amount is None:
        raise Unavailable(NO_ANSWER, "A row of the report has no readable Gross.")
    return amount


def read_tokens_csv(text: str) -> Snapshot:
    """The merchant's own list, since no call lists subscriptions: columns `email, m_payment_id, token`, in any order.

    A row needs an e-mail and one of the other two. Raises ValueError that names every bad line, and no token.
    """
    lines = csv.reader(io.StringIO(text.lstrip("\ufeff")))
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
            orders[number] = _speak(OrderRecord, number, email=email, number=number, subscription=token)
        if token:
            subscriptions[token] = _speak(SubscriptionRecord, token, email=email)
    if wrong:
        raise ValueError("; ".join(wrong))
    now = clock.now()
    return Snapshot(as_of=now, orders=tuple(orders.values()), subscriptions=tuple(subscriptions.values()))


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


ID = re.compile(r"[A-Za-z0-9-]{1,64}")


def _safe(remote_id: str) -> str:
    """An id that may stand in a path; anything else PayFast cannot know."""
    if not ID.fullmatch(remote_id):
        raise Gone("PayFast does not know this.", "The id has characters that no id of PayFast has.")
    return remote_id


def _masked(text: object) -> str:
    """PayFast's words without what looks like a token."""
    return re.sub(r"\b[0-9A-Fa-f]{8}-[0-9A-Fa-f-]{4,}\b", "…", str(text))[:300]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _month(last_day: date, back: int) -> tuple[date, date]:
    """First and last day of the month so many months back; the newest ends on the last day of all."""
    months = last_day.year * 12 + last_day.month - 1 - back
    first = date(months // 12, months % 12 + 1, 1)
    return first, min(last_day, first.replace(day=monthrange(first.year, first.month)[1]))


def _today() -> date:
    return _day(clock.now())


def _day(moment: datetime) -> date:
    return moment.astimezone(SAST).date()


def _moment(value: object) -> datetime | None:
    """A moment in UTC; PayFast means South African time where it names no zone."""
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=SAST)).astimezone(UTC)


def _int(value: object) -> int | None:
    """Numbers come as numbers or as text."""
    text = "" if isinstance(value, bool) else str(value)
    return int(text) if re.fullmatch(r"-?[0-9]{1,15}", text) else None


def _cents(value: object) -> Money | None:
    cents = _int(value)
    return None if cents is None else Money(cents, "ZAR")


def _rand(value: str | None) -> Money | None:
    try:
        return from_major(value or "", "ZAR")
    except ValueError:
        return None
