"""PayFast: both signature rules, the envelope, the status table, the report, and what its oddities must never cause."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, TypeVar
from unittest.mock import patch
from urllib.parse import parse_qsl, quote_plus

import httpx2 as httpx
import pytest

from portal import clock
from portal.gateways._payfast import api_signature, php_urlencode, read_tokens_csv
from portal.gateways.base import (
    BadSignature,
    Declined,
    Event,
    Failure,
    Gone,
    Interval,
    Leave,
    Method,
    NextPayment,
    OrderRecord,
    Page,
    PaymentRecord,
    Record,
    Ref,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import Circumstances, disagreements, facts
from portal.gateways.payfast import Adapter
from portal.money import Money
from seeds.simulators.harness import Servers
from seeds.simulators.payfast import Merchant, Simulator, validator
from tests.conftest import SHARED

TOKEN = "2afa4575-5628-051a-d0ed-4e071b56a7b0"
OTHER_TOKEN = "a3b3ae55-ab8b-b388-df23-4e6882b86ce0"
KEYS = {
    "merchant_id": "10012345",
    "merchant_key": "q1w2e3r4t5y6u",
    "passphrase": "Rooibos & honey~7",
    "sandbox": "no",
}
NOW = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
SUBSCRIPTION = Ref("subscription", TOKEN)
Result = TypeVar("Result")


@pytest.fixture(autouse=True)
def _at_ten_in_johannesburg() -> None:
    clock.set_offset(NOW - datetime.now(UTC))


class Wire:
    """Stands in for the client of a gateway: answers in order, and keeps what was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    async def call(self, method: str, host: str, path: str, **more: Any) -> httpx.Response:
        self.asked.append({"method": method, "host": host, "path": path, **more})
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def lines(self) -> list[str]:
        return [f"{one['method']} {one['path']}" for one in self.asked]


def make_gateway(*answers: httpx.Response | Exception, **credentials: str) -> tuple[Adapter, Wire]:
    wire = Wire(*answers)
    with patch("portal.gateways.payfast.Http", lambda gateway, name: wire):
        return Adapter({**KEYS, **credentials}), wire


def envelope(response: Any, code: int = 200, http: int = 200, message: str | None = None) -> httpx.Response:
    data = {"response": response} | ({"message": message} if message else {})
    status = "success" if code == 200 else "failed"
    return httpx.Response(http, json={"code": code, "status": status, "data": data})


def make_subscription(**changes: Any) -> dict[str, Any]:
    return {
        "amount": 12000,
        "cycles": 0,
        "cycles_complete": 4,
        "frequency": 3,
        "run_date": "2026-12-01T00:00:00+02:00",
        "status": 1,
        "status_reason": "",
        "status_text": "ACTIVE",
        "token": TOKEN,
    } | changes


def fetched(**changes: Any) -> httpx.Response:
    return envelope(make_subscription(**changes))


def read(*answers: httpx.Response, **credentials: str) -> SubscriptionRecord:
    gateway, _ = make_gateway(*answers, **credentials)
    return asyncio.run(gateway.fetch(SUBSCRIPTION)).subscriptions[0]


def knows(record: Record) -> set[str]:
    """The fields that a record speaks of."""
    assert record.knows is not None
    return set(record.knows)


def make_itn(**changes: str) -> list[tuple[str, str]]:
    """The pairs of an ITN in PayFast's order, blanks included, without its signature."""
    fields = {
        "m_payment_id": "SO-7",
        "pf_payment_id": "1089250",
        "payment_status": "COMPLETE",
        "item_name": "Tea club",
        "item_description": "",
        "amount_gross": "120.00",
        "amount_fee": "-4.60",
        "amount_net": "115.40",
        **{f"custom_str{n}": "" for n in range(1, 6)},
        **{f"custom_int{n}": "" for n in range(1, 6)},
        "name_first": "Thandi",
        "name_last": "Nkosi",
        "email_address": "thandi@example.org",
        "merchant_id": KEYS["merchant_id"],
        "token": TOKEN,
        "billing_date": "2026-11-01",
    }
    return list((fields | changes).items())


def encoded(pairs: list[tuple[str, str]]) -> str:
    return "&".join(f"{name}={quote_plus(value).replace('~', '%7E')}" for name, value in pairs)


def signed(pairs: list[tuple[str, str]], passphrase: str = KEYS["passphrase"]) -> bytes:
    text = encoded(pairs)
    salt = quote_plus(passphrase).replace("~", "%7E")
    signature = hashlib.md5(f"{text}&passphrase={salt}".encode()).hexdigest()
    return f"{text}&signature={signature}".encode()


def verify(body: bytes, **credentials: str) -> Event:
    (event,) = make_gateway(**credentials)[0].verify([], body, NOW)
    return event


# The two signature rules


def test_urlencode_is_that_of_php() -> None:
    assert php_urlencode("Tea & honey~7/é") == "Tea+%26+honey%7E7%2F%C3%A9"


def test_call_signature_sorts_the_passphrase_among_the_fields_and_leaves_blanks_out() -> None:
    joined = "amount=12000&merchant-id=10012345&passphrase=a+b&timestamp=2026-11-22T10%3A00%3A00%2B02%3A00&version=v1"
    values = {
        "version": "v1",
        "merchant-id": "10012345",
        "timestamp": "2026-11-22T10:00:00+02:00",
        "note": "",
        "amount": "12000",
    }
    assert api_signature(values, "a b") == hashlib.md5(joined.encode()).hexdigest()


def test_itn_signature_keeps_the_order_and_the_blanks_and_puts_the_passphrase_last() -> None:
    body = b"pf_payment_id=7&payment_status=COMPLETE&item_name=&merchant_id=10012345"
    digest = hashlib.md5(body + b"&passphrase=Rooibos+%26+honey%7E7").hexdigest()
    assert verify(body + f"&signature={digest}".encode()).subject == Ref("payment", "7")


def test_itn_is_checked_by_its_values_encoded_again_and_not_by_its_raw_bytes() -> None:
    body = signed(make_itn(item_name="Tea~club (large) é")).decode()
    assert "Tea%7Eclub+%28large%29+%C3%A9" in body
    as_others_encode = body.replace("Tea%7Eclub+%28large%29+%C3%A9", "Tea~club%20(large)%20%c3%a9")
    assert verify(as_others_encode.encode()).type == "COMPLETE"


def test_a_blank_at_either_end_of_the_passphrase_is_no_part_of_it() -> None:
    assert verify(signed(make_itn()), passphrase=f" {KEYS['passphrase']} ").type == "COMPLETE"


# ITNs and notices


def test_itn_gives_one_event_about_the_payment_without_a_time() -> None:
    event = verify(signed(make_itn()))
    assert (event.id, event.type, event.subject) == (
        "1089250:COMPLETE",
        "COMPLETE",
        Ref("payment", "1089250"),
    )
    assert event.occurred_at is None
    assert [tuple(pair) for pair in event.body["pairs"]] == make_itn()


def test_event_survives_the_queue_as_json() -> None:
    event = verify(signed(make_itn()))
    assert json.loads(json.dumps(dict(event.body))) == dict(event.body)


def test_renewal_with_the_number_of_the_first_checkout_is_another_event() -> None:
    first, renewal = verify(signed(make_itn())), verify(signed(make_itn(pf_payment_id="1093377")))
    assert first.id != renewal.id


def test_pending_then_complete_are_two_events() -> None:
    assert (
        verify(signed(make_itn(payment_status="PENDING"))).id
        != verify(signed(make_itn(payment_status="COMPLETE"))).id
    )


def test_cancelled_is_about_the_subscription_and_its_id_tells_subscriptions_apart_without_the_token() -> None:
    one = verify(signed(make_itn(payment_status="CANCELLED")))
    other = verify(signed(make_itn(payment_status="CANCELLED", token=OTHER_TOKEN)))
    assert one.subject == SUBSCRIPTION
    assert one.id != other.id
    assert TOKEN not in one.id


def test_cancelled_without_a_token_is_of_no_interest() -> None:
    pairs = [pair for pair in make_itn(payment_status="CANCELLED") if pair[0] != "token"]
    assert verify(signed(pairs)).subject is None


def make_notice(**changes: str) -> list[tuple[str, str]]:
    fields = {
        "type": "subscription.free-trial",
        "token": TOKEN,
        "initial_amount": "0",
        "amount": "12000",
        "next_run": "2026-11-29",
        "frequency": "3",
        "item_name": "Tea club",
        "name_first": "Thandi",
        "email_address": "thandi@example.org",
    }
    return list((fields | changes).items())


def test_notice_that_is_no_itn_is_an_event_about_its_subscription() -> None:
    event = verify(signed(make_notice()))
    assert (event.type, event.subject) == ("subscription.free-trial", SUBSCRIPTION)
    assert TOKEN not in event.id


def test_notice_without_signature_is_refused() -> None:
    with pytest.raises(BadSignature):
        verify(encoded(make_notice()).encode())


def test_signed_form_that_is_neither_is_of_no_interest() -> None:
    event = verify(signed([("hello", "world")]))
    assert (event.type, event.subject) == ("unknown", None)


GOOD = signed(make_itn())
SIGNATURE = GOOD.rpartition(b"=")[2]
UNSIGNED = GOOD.rpartition(b"&signature=")[0]
PLAIN = encoded(make_itn())


def without(name: str) -> bytes:
    return encoded([pair for pair in make_itn() if pair[0] != name]).encode() + b"&signature=" + SIGNATURE


def md5(text: str) -> bytes:
    return hashlib.md5(text.encode()).hexdigest().encode()


FORGED: dict[str, bytes] = {
    "empty body": b"",
    "no signature": UNSIGNED,
    "empty signature": UNSIGNED + b"&signature=",
    "signature without a value": UNSIGNED + b"&signature",
    "wrong signature": UNSIGNED + b"&signature=" + b"0" * 32,
    "truncated signature": GOOD[:-1],
    "longer signature": GOOD + b"0",
    "signature in capitals": UNSIGNED + b"&signature=" + SIGNATURE.upper(),
    "signature with blanks": UNSIGNED + b"&signature=+" + SIGNATURE,
    "signature twice": GOOD + b"&signature=" + SIGNATURE,
    "wrong then right signature": UNSIGNED + b"&signature=00&signature=" + SIGNATURE,
    "signature not last": b"signature=" + SIGNATURE + b"&" + UNSIGNED,
    "field added after the signature": GOOD + b"&amount_gross2=1",
    "field added before the signature": UNSIGNED + b"&extra=1&signature=" + SIGNATURE,
    "status twice": GOOD.replace(
        b"payment_status=COMPLETE", b"payment_status=FAILED&payment_status=COMPLETE"
    ),
    "field twice, signed so": signed([*make_itn(), ("payment_status", "FAILED")]),
    "amount changed": GOOD.replace(b"amount_gross=120.00", b"amount_gross=1.00"),
    "status changed": GOOD.replace(b"COMPLETE", b"CANCELLED"),
    "e-mail changed": GOOD.replace(b"thandi%40", b"mallory%40"),
    "token changed": GOOD.replace(TOKEN.encode(), OTHER_TOKEN.encode()),
    "payment id changed": GOOD.replace(b"1089250", b"1089251"),
    "merchant changed": GOOD.replace(b"10012345", b"10099999"),
    "two fields exchanged": encoded([make_itn()[1], make_itn()[0], *make_itn()[2:]]).encode()
    + b"&signature="
    + SIGNATURE,
    "sorted fields": encoded(sorted(make_itn())).encode() + b"&signature=" + SIGNATURE,
    "blanks dropped": encoded([pair for pair in make_itn() if pair[1]]).encode() + b"&signature=" + SIGNATURE,
    "field dropped": without("billing_date"),
    "token dropped": without("token"),
    "passphrase of another account": signed(make_itn(), "somebody else's"),
    "empty passphrase": signed(make_itn(), ""),
    "no passphrase at all": UNSIGNED + b"&signature=" + md5(PLAIN),
    "passphrase sorted into its place": UNSIGNED
    + b"&signature="
    + md5(encoded(sorted([*make_itn(), ("passphrase", KEYS["passphrase"])]))),
    "blanks left out of the signature": UNSIGNED
    + b"&signature="
    + signed([pair for pair in make_itn() if pair[1]]).rpartition(b"=")[2],
    "sha256": UNSIGNED + b"&signature=" + hashlib.sha256(PLAIN.encode()).hexdigest().encode(),
    "passphrase in the body": UNSIGNED + b"&passphrase=&signature=" + SIGNATURE,
    "signed for another merchant": signed(make_itn(merchant_id="10099999")),
    "signed without a merchant": signed([pair for pair in make_itn() if pair[0] != "merchant_id"]),
    "json": json.dumps(dict(parse_qsl(GOOD.decode(), keep_blank_values=True))).encode(),
    "not utf-8": b"\xff\xfe" + GOOD,
    "not utf-8 once decoded": b"a=%ff&" + GOOD,
    "hundreds of fields": b"&".join(b"a%d=1" % n for n in range(300)) + b"&" + GOOD,
    "field names as php arrays": GOOD.replace(b"payment_status=", b"payment_status[]="),
}


@pytest.mark.parametrize("body", FORGED.values(), ids=FORGED)
def test_forged_itn_is_refused(body: bytes) -> None:
    with pytest.raises(BadSignature):
        verify(body)


@pytest.mark.parametrize("body", [signed(make_itn(), ""), UNSIGNED + b"&signature=" + md5(PLAIN)])
def test_without_a_passphrase_of_ours_no_itn_is_believed(body: bytes) -> None:
    with pytest.raises(BadSignature, match="anybody"):
        verify(body, passphrase="")


# What a fetched subscription says


@pytest.mark.parametrize(
    ("changes", "status", "stopped"),
    [
        ({}, "active", False),
        ({"run_date": "2026-11-22T00:00:00+02:00"}, "active", False),
        ({"run_date": "2026-11-21T00:00:00+02:00"}, "active", False),
        ({"run_date": "2026-11-20T00:00:00+02:00"}, "past_due", False),
        ({"status": 9, "status_text": "LOCKED"}, "past_due", True),
        ({"status": 5, "status_text": "Paused"}, "paused", False),
        ({"status": 3, "status_text": "CANCELLED"}, "cancelled", False),
        ({"cycles": 12, "cycles_complete": 12}, "expired", False),
        ({"cycles": "12", "cycles_complete": "11"}, "active", False),
        ({"cycles": 12, "cycles_complete": 12, "status_text": "CANCELLED"}, "cancelled", False),
        ({"cycles_complete": 0}, "active", False),
    ],
)
def test_status_of_a_subscription(changes: dict[str, Any], status: str, stopped: bool) -> None:
    record = read(fetched(**changes))
    assert (record.status, record.stopped) == (status, stopped)


def test_day_of_grace_ends_at_midnight_in_johannesburg() -> None:
    late = datetime(2026, 12, 2, 21, 59, tzinfo=UTC)
    clock.set_offset(late - datetime.now(UTC))
    assert read(fetched()).status == "active"
    clock.set_offset(late + timedelta(minutes=2) - datetime.now(UTC))
    assert read(fetched()).status == "past_due"


def test_unknown_word_keeps_the_last_known_status_and_is_kept_raw() -> None:
    record = read(fetched(status=7, status_text="UNDER REVIEW"))
    assert record.raw_status == "7 UNDER REVIEW"
    assert not {"status", "stopped", "next_payment", "due"} & knows(record)


def test_fetch_speaks_only_of_what_payfast_says() -> None:
    record = read(fetched())
    assert knows(record) == {
        "status",
        "raw_status",
        "stopped",
        "method",
        "amount",
        "interval",
        "current_period_start",
        "current_period_end",
        "next_payment",
        "due",
    }
    assert record.raw_status == "1 ACTIVE"
    assert record.amount == Money(12000, "ZAR")
    assert record.next_payment == NextPayment(date(2026, 12, 1), Money(12000, "ZAR"), "fixed")
    assert record.current_period_end == datetime(2026, 11, 30, 22, tzinfo=UTC)
    assert record.current_period_start == datetime(2026, 10, 31, 22, tzinfo=UTC)
    assert record.method == Method("card")


def test_next_payment_is_the_day_in_johannesburg() -> None:
    record = read(fetched(run_date="2026-11-30T22:30:00Z"))
    assert record.next_payment is not None
    assert record.next_payment.on == date(2026, 12, 1)


def test_failed_charge_leaves_the_amount_due_and_names_no_next_payment() -> None:
    record = read(fetched(run_date="2026-11-10T00:00:00+02:00"))
    assert (record.due, record.next_payment) == (Money(12000, "ZAR"), None)
    assert "next_payment" in knows(record)


def test_cancelled_keeps_the_end_of_what_is_paid_where_payfast_names_none() -> None:
    record = read(fetched(status=3, status_text="CANCELLED", run_date=None))
    assert "current_period_end" not in knows(record)
    assert (record.next_payment, "next_payment" in knows(record)) == (None, True)


@pytest.mark.parametrize(
    ("frequency", "interval", "start"),
    [
        (1, Interval("day"), date(2027, 5, 30)),
        (2, Interval("week"), date(2027, 5, 24)),
        (3, Interval("month"), date(2027, 4, 30)),
        (4, Interval("month", 3), date(2027, 2, 28)),
        ("5", Interval("month", 6), date(2026, 11, 30)),
        (6, Interval("year"), date(2026, 5, 31)),
    ],
)
def test_frequency_and_the_start_counted_back_from_the_end(
    frequency: int | str, interval: Interval, start: date
) -> None:
    record = read(fetched(frequency=frequency, run_date="2027-05-31T00:00:00+02:00"))
    assert record.interval == interval
    assert record.current_period_start is not None
    assert (record.current_period_start + timedelta(hours=2)).date() == start


def test_tokenisation_agreement_is_a_saved_card_and_nothing_more() -> None:
    said = {"status": 1, "status_text": "ACTIVE", "status_reason": "", "token": TOKEN}
    record = read(envelope(said))
    assert (record.object, record.status) == ("agreement", "active")
    assert knows(record) == {"status", "raw_status", "stopped", "object", "method"}


@pytest.mark.parametrize(
    ("said", "sort"),
    [(make_subscription(), "sandbox"), ({"status": 1, "status_text": "ACTIVE"}, "sandbox_agreement")],
)
def test_sandbox_is_told_apart_because_its_card_page_is_missing(said: dict[str, Any], sort: str) -> None:
    record = read(envelope(said), sandbox="yes")
    assert record.object == sort
    shape = facts("payfast").capabilities["update_payment_method"].under(Circumstances(object=sort))
    assert shape.mode == "none"


# Payments and refunds

REFUNDED = {
    "available_balance": 6800,
    "transactions": [
        {"amount": 9800, "date": "2026-05-14 12:11:05", "type": "Funds Received"},
        {"amount": "-1000", "date": "2026-05-14 14:59:59", "type": "Funds Received (Refund)"},
        {"amount": "-1000", "date": "2026-05-14 15:10:00", "type": "Funds Received (Refund)"},
        {"amount": -1000, "date": "2026-05-15 00:30:00", "type": "Funds Received (Refund)"},
    ],
}


def test_payment_with_refunds_whose_amounts_mix_numbers_and_text() -> None:
    said = {"pf_payment_id": "1089250", "m_payment_id": "SO-7", "status": "COMPLETE", "amount": 9800}
    gateway, wire = make_gateway(envelope(said), envelope(REFUNDED))
    snapshot = asyncio.run(gateway.fetch(Ref("payment", "1089250")))
    (payment,) = snapshot.payments
    assert (payment.status, payment.amount, payment.refunded) == (
        "partially_refunded",
        Money(9800, "ZAR"),
        Money(3000, "ZAR"),
    )
    assert payment.order == "SO-7"
    assert knows(payment) == {"status", "raw_status", "amount", "order", "refunded"}
    assert [refund.remote_id for refund in snapshot.refunds] == [
        "1089250/2026-05-14/1000",
        "1089250/2026-05-14/1000+",
        "1089250/2026-05-15/1000",
    ]
    assert snapshot.refunds[2].created_at == datetime(2026, 5, 14, 22, 30, tzinfo=UTC)
    assert wire.lines == ["GET /process/query/1089250", "GET /refunds/1089250"]


def test_payment_that_went_back_whole_is_refunded() -> None:
    gateway, _ = make_gateway(envelope({"status": "COMPLETE", "amount": "3000"}), envelope(REFUNDED))
    assert asyncio.run(gateway.fetch(Ref("payment", "1"))).payments[0].status == "refunded"


def test_sandbox_is_not_asked_for_refunds() -> None:
    gateway, wire = make_gateway(envelope({"status": "COMPLETE", "amount": 9800}), sandbox="yes")
    (payment,) = asyncio.run(gateway.fetch(Ref("payment", "1"))).payments
    assert "refunded" not in knows(payment)
    assert wire.lines == ["GET /process/query/1"]


def test_failed_payment_says_why() -> None:
    said = {"status": "FAILED", "amount": 9800, "cc_status": "51", "cc_message": "Insufficient funds"}
    gateway, _ = make_gateway(envelope(said), envelope(None, 400, message="No refunds"))
    (payment,) = asyncio.run(gateway.fetch(Ref("payment", "1"))).payments
    assert payment.failure is not None
    assert (payment.failure.code, payment.failure.reason) == ("51", "Insufficient funds")


def test_nothing_else_can_be_asked_for() -> None:
    gateway, wire = make_gateway()
    with pytest.raises(Unsupported):
        asyncio.run(gateway.fetch(Ref("order", "SO-7")))
    assert wire.asked == []


@pytest.mark.parametrize("token", ["", "../ping", "a/b", "a?b=c", "a" * 65, "a b", "a\n"])
def test_id_that_cannot_be_payfasts_never_reaches_an_address(token: str) -> None:
    gateway, wire = make_gateway()
    with pytest.raises(Gone):
        asyncio.run(gateway.fetch(Ref("subscription", token)))
    assert wire.asked == []


# How it asks, and how it reads refusals


def test_every_call_carries_its_headers_and_the_sandbox_flag_is_not_signed() -> None:
    gateway, wire = make_gateway(fetched(), sandbox="yes")
    asyncio.run(gateway.fetch(SUBSCRIPTION))
    (asked,) = wire.asked
    sent = dict(asked["headers"])
    signature = sent.pop("signature")
    assert sent == {"merchant-id": "10012345", "version": "v1", "timestamp": "2026-11-22T10:00:00+02:00"}
    assert asked["params"] == {"testing": "true"}
    assert signature == api_signature(sent, KEYS["passphrase"])


def test_live_call_does_not_say_testing() -> None:
    gateway, wire = make_gateway(fetched())
    asyncio.run(gateway.fetch(SUBSCRIPTION))
    assert not wire.asked[0]["params"]


def test_cancel_sends_no_body_but_its_length_and_pause_sends_its_cycles() -> None:
    gateway, wire = make_gateway(fetched(), envelope(True), fetched(status_text="CANCELLED"))
    asyncio.run(gateway.cancel_now(SUBSCRIPTION, "key"))
    assert wire.lines[1] == f"PUT /subscriptions/{TOKEN}/cancel"
    assert (wire.asked[1]["headers"]["Content-Length"], wire.asked[1]["content"]) == ("0", None)
    gateway, wire = make_gateway(fetched(), envelope("true"), fetched(status_text="PAUSED"))
    asyncio.run(gateway.pause(SUBSCRIPTION, "key"))
    sent = wire.asked[1]
    assert (sent["path"], sent["content"]) == (f"/subscriptions/{TOKEN}/pause", b"cycles=1")
    signed_fields = {
        name: value
        for name, value in sent["headers"].items()
        if name in ("merchant-id", "version", "timestamp")
    }
    assert sent["headers"]["signature"] == api_signature(signed_fields | {"cycles": "1"}, KEYS["passphrase"])


def refusal(answer: httpx.Response) -> Exception:
    gateway, wire = make_gateway(answer)
    with pytest.raises((Declined, Unavailable, Gone)) as caught:
        asyncio.run(gateway.fetch(SUBSCRIPTION))
    assert len(wire.asked) == 1  # nothing refused is asked again with the same signature
    return caught.value


@pytest.mark.parametrize("http", [200, 401])
def test_refused_keys_name_passphrase_and_allow_list(http: int) -> None:
    error = refusal(envelope(False, 401, http, "Merchant not authorised"))
    assert isinstance(error, Unavailable)
    assert not error.sent
    assert "passphrase" in error.hint
    assert "allow-list" in error.hint
    assert "Merchant not authorised" in error.hint


@pytest.mark.parametrize("http", [200, 429])
def test_rate_limit_rests_for_five_minutes(http: int) -> None:
    error = refusal(envelope(False, 429, http, "Signature rate limit reached"))
    assert isinstance(error, Unavailable)
    assert (error.retry_after, error.sent) == (300, False)


@pytest.mark.parametrize("http", [200, 400])
def test_business_refusal_is_declined_also_with_http_200(http: int) -> None:
    error = refusal(envelope(4, 400, http, "The subscription is not in a valid state."))
    assert isinstance(error, Declined)
    assert error.reason == "4"
    assert "valid state" in error.hint


def test_failed_status_with_code_200_is_a_refusal() -> None:
    body = {"code": 200, "status": "failed", "data": {"response": False, "message": "No"}}
    assert isinstance(refusal(httpx.Response(200, json=body)), Declined)


def test_unknown_token_is_gone() -> None:
    assert isinstance(refusal(envelope(False, 404, 404)), Gone)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500, text="oops"),
        httpx.Response(502, text="<html>bad gateway</html>"),
        httpx.Response(301, headers={"Location": "https://elsewhere.example"}),
        httpx.Response(200, text="<html>maintenance</html>"),
        httpx.Response(200, text=""),
        envelope(True),
    ],
)
def test_answer_that_says_nothing_is_unavailable(answer: httpx.Response) -> None:
    assert isinstance(refusal(answer), Unavailable)


# Writes: read, call, read again


@pytest.mark.parametrize("accepted", [True, "true"])
def test_cancel_is_read_back(accepted: object) -> None:
    gateway, wire = make_gateway(
        fetched(), envelope(accepted), fetched(status=3, status_text="CANCELLED", run_date=None)
    )
    snapshot = asyncio.run(gateway.cancel_now(SUBSCRIPTION, "key"))
    assert snapshot.subscriptions[0].status == "cancelled"
    assert [line.split()[0] for line in wire.lines] == ["GET", "PUT", "GET"]


def test_cancel_of_a_cancelled_one_calls_nothing() -> None:
    gateway, wire = make_gateway(fetched(status_text="CANCELLED"))
    asyncio.run(gateway.cancel_now(SUBSCRIPTION, "key"))
    assert wire.lines == [f"GET /subscriptions/{TOKEN}/fetch"]


@pytest.mark.parametrize("http", [200, 400])
def test_second_cancel_answered_400_is_success_once_the_fetch_says_cancelled(http: int) -> None:
    refused = envelope(False, 400, http, "The subscription status is already cancelled")
    gateway, _ = make_gateway(fetched(), refused, fetched(status_text="CANCELLED"))
    assert asyncio.run(gateway.cancel_now(SUBSCRIPTION, "key")).subscriptions[0].status == "cancelled"


@pytest.mark.parametrize("answer", [False, "false", 4, 1, None])
def test_answer_other_than_true_is_a_refusal_unless_the_fetch_shows_it_done(answer: object) -> None:
    gateway, _ = make_gateway(fetched(), envelope(answer), fetched())
    with pytest.raises(Declined):
        asyncio.run(gateway.cancel_now(SUBSCRIPTION, "key"))
    gateway, _ = make_gateway(fetched(), envelope(answer), fetched(status_text="CANCELLED"))
    assert asyncio.run(gateway.cancel_now(SUBSCRIPTION, "key")).subscriptions[0].status == "cancelled"


@pytest.mark.parametrize(
    "answer", [httpx.Response(500), httpx.Response(200, text="<html>"), httpx.Response(302)]
)
def test_write_without_a_clear_answer_may_have_had_its_effect(answer: httpx.Response) -> None:
    gateway, _ = make_gateway(fetched(), answer)
    with pytest.raises(Unavailable) as caught:
        asyncio.run(gateway.cancel_now(SUBSCRIPTION, "key"))
    assert caught.value.sent


def test_write_whose_read_back_fails_may_have_had_its_effect() -> None:
    gateway, _ = make_gateway(fetched(), envelope(True), Unavailable("down", retry_after=7))
    with pytest.raises(Unavailable) as caught:
        asyncio.run(gateway.cancel_now(SUBSCRIPTION, "key"))
    assert (caught.value.sent, caught.value.retry_after) == (True, 7)


@pytest.mark.parametrize(
    "before",
    [
        {"status": 9, "status_text": "LOCKED"},
        {"run_date": "2026-11-10T00:00:00+02:00"},
        {"status_text": "CANCELLED"},
        {"cycles": 3, "cycles_complete": 3},
        {"status_text": "SOMETHING NEW"},
    ],
)
def test_pause_is_refused_unless_a_fresh_fetch_says_active_since_it_would_charge_a_locked_one(
    before: dict[str, Any],
) -> None:
    gateway, wire = make_gateway(fetched(**before))
    with pytest.raises(Unsupported):
        asyncio.run(gateway.pause(SUBSCRIPTION, "key"))
    assert wire.lines == [f"GET /subscriptions/{TOKEN}/fetch"]


def test_pause_of_an_agreement_is_refused() -> None:
    gateway, wire = make_gateway(envelope({"status": 1, "status_text": "ACTIVE"}))
    with pytest.raises(Unsupported):
        asyncio.run(gateway.pause(SUBSCRIPTION, "key"))
    assert len(wire.asked) == 1


def test_pause_of_a_paused_one_is_not_sent_twice() -> None:
    gateway, wire = make_gateway(fetched(status_text="PAUSED"))
    asyncio.run(gateway.pause(SUBSCRIPTION, "key"))
    assert len(wire.asked) == 1


def test_pause_that_only_moves_the_next_charge_is_a_pause_too() -> None:
    gateway, _ = make_gateway(fetched(), envelope(True), fetched(run_date="2027-01-01T00:00:00+02:00"))
    assert asyncio.run(gateway.pause(SUBSCRIPTION, "key")).subscriptions[0].status == "paused"


def test_pause_that_changes_nothing_is_not_shown_as_one() -> None:
    gateway, _ = make_gateway(fetched(), envelope(True), fetched())
    assert asyncio.run(gateway.pause(SUBSCRIPTION, "key")).subscriptions[0].status == "active"


def test_resume_is_sent_to_a_paused_one_and_reads_the_new_date() -> None:
    moved = fetched(run_date="2027-01-01T00:00:00+02:00")
    gateway, wire = make_gateway(fetched(status_text="PAUSED"), envelope(True), moved)
    (after,) = asyncio.run(gateway.resume(SUBSCRIPTION, "key")).subscriptions
    assert after.next_payment is not None
    assert after.next_payment.on == date(2027, 1, 1)
    assert wire.lines[1] == f"PUT /subscriptions/{TOKEN}/unpause"


def test_resume_of_an_active_one_calls_nothing_and_of_a_locked_one_is_refused() -> None:
    gateway, wire = make_gateway(fetched())
    asyncio.run(gateway.resume(SUBSCRIPTION, "key"))
    assert len(wire.asked) == 1
    gateway, wire = make_gateway(fetched(status_text="LOCKED"))
    with pytest.raises(Unsupported):
        asyncio.run(gateway.resume(SUBSCRIPTION, "key"))
    assert len(wire.asked) == 1


def change(gateway: Adapter, **wish: Any) -> Snapshot:
    snapshot = asyncio.run(gateway.change_plan(SUBSCRIPTION, wish, "https://portal.example/back", "key"))
    assert isinstance(snapshot, Snapshot)
    return snapshot


@pytest.mark.parametrize("answer", [True, "true", make_subscription(amount=15000)])
def test_change_sends_cents_and_only_what_differs(answer: object) -> None:
    gateway, wire = make_gateway(fetched(), envelope(answer), fetched(amount=15000))
    after = change(gateway, amount=Money(15000, "ZAR"), interval=Interval("month"))
    assert after.subscriptions[0].amount == Money(15000, "ZAR")
    assert (wire.lines[1], wire.asked[1]["content"]) == (
        f"PATCH /subscriptions/{TOKEN}/update",
        b"amount=15000",
    )


def test_change_of_the_interval_sends_its_frequency() -> None:
    gateway, wire = make_gateway(fetched(), envelope(True), fetched(frequency=6))
    change(gateway, interval=Interval("year"))
    assert wire.asked[1]["content"] == b"frequency=6"


def test_change_to_what_it_is_already_calls_nothing() -> None:
    gateway, wire = make_gateway(fetched())
    change(gateway, amount=Money(12000, "ZAR"))
    assert len(wire.asked) == 1


def test_change_that_payfast_accepts_and_applies_in_part_is_not_shown_as_done() -> None:
    gateway, _ = make_gateway(fetched(), envelope(True), fetched(amount=15000))
    with pytest.raises(Unavailable, match="frequency") as caught:
        change(gateway, amount=Money(15000, "ZAR"), interval=Interval("year"))
    assert caught.value.sent


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"plan": "gold"},
        {"quantity": 2},
        {"amount": Money(100, "USD")},
        {"amount": Money(0, "ZAR")},
        {"interval": Interval("month", 2)},
    ],
)
def test_change_that_payfast_cannot_do_is_refused_before_any_call(wish: dict[str, Any]) -> None:
    gateway, wire = make_gateway()
    with pytest.raises(Unsupported):
        change(gateway, **wish)
    assert wire.asked == []


@pytest.mark.parametrize("before", [fetched(status_text="LOCKED"), envelope({"status_text": "ACTIVE"})])
def test_change_needs_an_active_subscription(before: httpx.Response) -> None:
    gateway, wire = make_gateway(before)
    with pytest.raises(Unsupported):
        change(gateway, amount=Money(15000, "ZAR"))
    assert len(wire.asked) == 1


# Another card

BACK = "https://pay.tea.example/customers/return/abc?x=1&y=é"


def test_card_page_takes_the_return_address_encoded_as_a_whole() -> None:
    gateway, _ = make_gateway(fetched())
    leave = asyncio.run(gateway.start_method_update(SUBSCRIPTION, BACK, "key"))
    assert leave == Leave(
        f"https://www.payfast.co.za/eng/recurring/update/{TOKEN}"
        "?return=https%3A%2F%2Fpay.tea.example%2Fcustomers%2Freturn%2Fabc%3Fx%3D1%26y%3D%C3%A9"
    )
    assert facts("payfast").allows_link(leave.url)


def test_sandbox_has_no_card_page() -> None:
    gateway, wire = make_gateway(sandbox="yes")
    with pytest.raises(Unsupported):
        asyncio.run(gateway.start_method_update(SUBSCRIPTION, BACK, "key"))
    assert wire.asked == []


def test_ended_subscription_gets_no_card_page() -> None:
    gateway, _ = make_gateway(fetched(status_text="CANCELLED"))
    with pytest.raises(Unsupported):
        asyncio.run(gateway.start_method_update(SUBSCRIPTION, BACK, "key"))


def test_coming_back_shows_no_new_card_because_payfast_tells_none() -> None:
    gateway, _ = make_gateway(fetched())
    snapshot = asyncio.run(gateway.finish_method_update(SUBSCRIPTION, {}, {"status": "success"}))
    assert snapshot.subscriptions[0].method == Method("card")


# The server's own word on an ITN

VALID, INVALID = httpx.Response(200, text="VALID"), httpx.Response(200, text="INVALID")


def refetch(
    pairs: list[tuple[str, str]], *answers: httpx.Response | Exception, **keys: str
) -> tuple[Snapshot, Wire]:
    gateway, wire = make_gateway(*answers, **keys)
    (event,) = gateway.verify([], signed(pairs), NOW - timedelta(minutes=3))
    snapshot = asyncio.run(gateway.refetch(event))
    assert snapshot is not None
    return snapshot, wire


def test_itn_is_confirmed_by_the_server_with_its_pairs_in_order_and_neither_signature_nor_passphrase() -> (
    None
):
    _, wire = refetch(make_itn(), VALID, fetched())
    asked = wire.asked[0]
    assert (asked["method"], asked["host"], asked["path"]) == (
        "POST",
        "www.payfast.co.za",
        "/eng/query/validate",
    )
    assert parse_qsl(asked["content"].decode(), keep_blank_values=True) == make_itn()


def test_sandbox_itn_is_confirmed_by_the_sandbox() -> None:
    _, wire = refetch(make_itn(), VALID, fetched(), sandbox="yes")
    assert wire.asked[0]["host"] == "sandbox.payfast.co.za"


@pytest.mark.parametrize("text", ["INVALID", "", "<html>VALID</html>", " VALID", "valid", "VERIFIED"])
def test_itn_that_the_server_does_not_confirm_has_no_effect(text: str) -> None:
    with pytest.raises(BadSignature):
        refetch(make_itn(), httpx.Response(200, text=text))


@pytest.mark.parametrize("code", [302, 404, 429, 500])
def test_server_that_cannot_confirm_is_asked_again_later(code: int) -> None:
    with pytest.raises(Unavailable):
        refetch(make_itn(), httpx.Response(code, text="VALID"))


def test_itn_of_a_renewal_books_the_payment_in_rand_and_reads_the_subscription() -> None:
    snapshot, wire = refetch(make_itn(pf_payment_id="1093377"), VALID, fetched(cycles_complete=5))
    (payment,), (order,), (subscription,) = snapshot.payments, snapshot.orders, snapshot.subscriptions
    assert (payment.remote_id, payment.status, payment.amount) == ("1093377", "paid", Money(12000, "ZAR"))
    assert (payment.order, payment.subscription, payment.email) == ("SO-7", TOKEN, "thandi@example.org")
    assert (payment.created_at, snapshot.as_of) == (
        None,
        NOW - timedelta(minutes=3),
    )  # an ITN names no moment
    assert (order.remote_id, order.status, order.subscription) == ("SO-7", "paid", TOKEN)
    assert knows(order) == {"status", "number", "email", "title", "subscription"}
    assert (subscription.email, subscription.title) == ("thandi@example.org", "Tea club")
    assert subscription.status == "active"
    assert {"email", "title", "status", "next_payment"} <= knows(subscription)
    assert wire.lines == ["POST /eng/query/validate", f"GET /subscriptions/{TOKEN}/fetch"]


def one_off(**changes: str) -> list[tuple[str, str]]:
    return [pair for pair in make_itn(**changes) if pair[0] not in ("token", "billing_date")]


def test_itn_of_a_one_off_payment_knows_the_amount_of_the_order_and_no_card() -> None:
    snapshot, wire = refetch(one_off(), VALID)
    assert snapshot.subscriptions == ()
    assert snapshot.orders[0].amount == Money(12000, "ZAR")
    assert not {"method", "subscription"} & knows(snapshot.payments[0])
    assert len(wire.asked) == 1


def test_order_without_a_number_of_the_shop_goes_by_the_payment() -> None:
    snapshot, _ = refetch(one_off(m_payment_id=""), VALID)
    assert (snapshot.orders[0].remote_id, snapshot.payments[0].order) == ("1089250", "1089250")


def test_blank_e_mail_and_item_are_not_spoken_of() -> None:
    snapshot, _ = refetch(make_itn(email_address="", item_name=""), VALID, fetched())
    for record in (*snapshot.orders, *snapshot.payments, *snapshot.subscriptions):
        assert not {"email", "title"} & knows(record)


def test_cancelled_books_no_payment_and_believes_only_the_fetch() -> None:
    snapshot, wire = refetch(make_itn(payment_status="CANCELLED"), VALID, fetched())
    assert (snapshot.payments, snapshot.orders) == ((), ())
    assert snapshot.subscriptions[0].status == "active"  # a stale or replayed ITN cancels nothing
    assert wire.lines[-1] == f"GET /subscriptions/{TOKEN}/fetch"


def test_free_start_is_a_trial() -> None:
    free = make_itn(amount_gross="0.00", amount_fee="0.00", amount_net="0.00")
    (record,) = refetch(free, VALID, fetched(cycles_complete=0))[0].subscriptions
    assert (record.status, record.trial_ends_at) == ("trialing", datetime(2026, 11, 30, 22, tzinfo=UTC))
    assert "current_period_start" not in knows(record)


def test_trial_notice_books_nothing_and_reads_the_subscription() -> None:
    snapshot, wire = refetch(make_notice(), fetched(cycles_complete=0))
    assert (snapshot.payments, snapshot.orders) == ((), ())
    (record,) = snapshot.subscriptions
    assert record.status == "trialing"
    assert "email" not in knows(record)
    assert wire.lines == [f"GET /subscriptions/{TOKEN}/fetch"]


def test_notice_of_a_rising_amount_is_no_trial() -> None:
    pairs = make_notice(type="subscription.promo", initial_amount="5000")
    assert refetch(pairs, fetched(cycles_complete=0))[0].subscriptions[0].status == "active"


def test_pending_itn_that_comes_late_does_not_undo_the_payment() -> None:
    snapshot, wire = refetch(
        one_off(payment_status="PENDING"),
        VALID,
        envelope({"status": "COMPLETE", "amount": 12000}),
        envelope({"transactions": []}),
    )
    assert snapshot.payments[0].status == "paid"
    assert wire.lines[1] == "GET /process/query/1089250"


def test_failed_itn_stands_where_the_payment_cannot_be_asked_for() -> None:
    snapshot, _ = refetch(make_itn(payment_status="FAILED"), VALID, fetched(), envelope(False, 404, 404))
    assert snapshot.payments[0].status == "failed"
    assert "status" not in knows(
        snapshot.orders[0]
    )  # the checkout long since paid is not failed by a renewal


def test_unknown_payment_status_keeps_the_last_known() -> None:
    snapshot, _ = refetch(one_off(payment_status="REVERSED"), VALID, envelope(False, 404, 404))
    assert snapshot.payments[0].raw_status == "REVERSED"
    for record in (snapshot.payments[0], snapshot.orders[0]):
        assert "status" not in knows(record)


def test_itn_of_a_token_that_is_gone_still_books_its_payment() -> None:
    snapshot, _ = refetch(make_itn(), VALID, envelope(False, 404, 404))
    assert snapshot.payments[0].status == "paid"
    assert knows(snapshot.subscriptions[0]) == {"email", "title"}


def test_word_that_is_unknown_in_an_itn_may_be_known_when_asked_for() -> None:
    answers = VALID, envelope({"status": "COMPLETE", "amount": 12000}), envelope({"transactions": []})
    (payment,) = refetch(one_off(payment_status="REVERSED"), *answers)[0].payments
    assert (payment.status, "status" in knows(payment)) == ("paid", True)


def test_event_of_no_interest_asks_nothing() -> None:
    gateway, wire = make_gateway()
    assert asyncio.run(gateway.refetch(verify(signed([("hello", "world")])))) is None
    assert wire.asked == []


# One object or one notice by itself

FETCHED = {"code": 200, "status": "success", "data": {"response": make_subscription(), "message": "Success"}}


@pytest.mark.parametrize("said", [FETCHED, {"response": make_subscription()}, make_subscription()])
def test_a_subscription_is_read_with_and_without_its_envelope_as_a_fetch_reads_it(
    said: dict[str, Any],
) -> None:
    record = Adapter.read("subscription", said)
    assert record == read(fetched())
    assert record.remote_id == TOKEN


def test_an_agreement_is_read() -> None:
    record = Adapter.read("subscription", {"status": 1, "status_text": "ACTIVE", "token": TOKEN})
    assert isinstance(record, SubscriptionRecord)
    assert (record.object, record.status) == ("agreement", "active")


QUERIED = {"pf_payment_id": 1089250, "m_payment_id": "SO-7", "status": "FAILED", "amount": 12000}
QUERIED |= {"cc_status": "51", "cc_message": "Not sufficient funds (51)"}


def test_a_payment_is_read_from_the_answer_of_a_query() -> None:
    record = Adapter.read("payment", json.loads(envelope(QUERIED).content))
    assert isinstance(record, PaymentRecord)
    assert (record.remote_id, record.status, record.raw_status) == ("1089250", "failed", "FAILED")
    assert (record.amount, record.order) == (Money(12000, "ZAR"), "SO-7")
    assert record.failure == Failure("51", "Not sufficient funds (51)")


def test_a_payment_is_read_from_an_itn_in_rand() -> None:
    record = Adapter.read("payment", dict(make_itn()) | {"signature": "0" * 32})
    assert isinstance(record, PaymentRecord)
    assert (record.remote_id, record.status, record.amount) == ("1089250", "paid", Money(12000, "ZAR"))
    assert (record.email, record.subscription, record.order) == ("thandi@example.org", TOKEN, "SO-7")


def test_an_order_is_read_from_an_itn_and_from_a_query() -> None:
    told, asked = Adapter.read("order", dict(one_off())), Adapter.read("order", QUERIED)
    assert isinstance(told, OrderRecord)
    assert isinstance(asked, OrderRecord)
    assert (told.remote_id, told.status, told.amount) == ("SO-7", "paid", Money(12000, "ZAR"))
    assert (asked.remote_id, asked.status, asked.amount) == ("SO-7", "failed", Money(12000, "ZAR"))


@pytest.mark.parametrize("pairs", [make_itn(), make_itn(payment_status="CANCELLED"), make_notice()])
def test_an_event_is_read_as_the_delivery_is(pairs: list[tuple[str, str]]) -> None:
    (event,) = Adapter.read("event", dict(pairs) | {"signature": "0" * 32})  # type: ignore[misc]
    proved = verify(signed(pairs))
    assert (event.id, event.type, event.subject) == (proved.id, proved.type, proved.subject)
    assert event.body["pairs"] == proved.body["pairs"]


@pytest.mark.parametrize("kind", ["customer", "refund", "invoice"])
def test_payfast_has_no_such_kind(kind: Any) -> None:
    with pytest.raises(Unsupported, match=kind):
        Adapter.read(kind, make_subscription())


NOTHING: list[Any] = [
    None,
    7,
    "text",
    [],
    {},
    {"nothing": "of the kind"},
    {"token": [1], "status_text": {}},
    {"data": {"response": True}},
    {"data": {"response": 4, "message": f"{TOKEN} is not in a valid state"}},
    {"response": "Date,Type"},
    {"pf_payment_id": None, "payment_status": "COMPLETE"},
    {"type": "", "payment_status": ""},
]


@pytest.mark.parametrize("kind", ["subscription", "payment", "order", "event"])
@pytest.mark.parametrize("said", NOTHING, ids=repr)
def test_what_is_no_object_of_payfasts_is_a_clear_value_error(kind: Any, said: Any) -> None:
    if kind == "event" and isinstance(said, dict) and said.get("payment_status"):
        assert Adapter.read(kind, said)[0].subject is None  # type: ignore[index]
        return
    with pytest.raises(ValueError, match=r"^[A-Z].*") as caught:
        Adapter.read(kind, said)
    assert TOKEN not in str(caught.value)


def test_the_end_of_a_subscription_is_no_payment() -> None:
    with pytest.raises(ValueError, match="books nothing"):
        Adapter.read("payment", dict(make_itn(payment_status="CANCELLED")))


@pytest.mark.parametrize("given", [{}, {"passphrase": KEYS["passphrase"]}, {"merchant_id": "10012345"}])
def test_any_subset_of_the_credentials_makes_an_adapter(given: dict[str, str]) -> None:
    gateway = Adapter(given)
    if "passphrase" in given:
        assert gateway.verify([], signed(make_itn()), NOW)[0].subject == Ref("payment", "1089250")
    else:
        with pytest.raises(BadSignature):
            gateway.verify([], signed(make_itn()), NOW)


def test_a_trial_that_our_rows_know_stays_one_until_its_day() -> None:
    known = Ref("subscription", TOKEN, SubscriptionRecord(remote_id=TOKEN, status="trialing"))
    for changes, status in (({"cycles_complete": 0}, "trialing"), ({"cycles_complete": 1}, "active")):
        gateway, _ = make_gateway(fetched(**changes))
        assert asyncio.run(gateway.fetch(known)).subscriptions[0].status == status


@pytest.mark.parametrize(
    "answer",
    [
        envelope({}),
        envelope({"status_text": 7.5, "run_date": [], "amount": "many", "frequency": {}}),
        httpx.Response(200, json={"code": "seven", "status": 7, "data": {"response": {}}}),
        httpx.Response(200, json={"code": 200, "status": "perhaps", "data": {"response": True}}),
    ],
)
def test_garbage_is_one_of_the_five_errors_or_a_record_that_says_less(answer: httpx.Response) -> None:
    gateway, _ = make_gateway(answer)
    try:
        (record,) = asyncio.run(gateway.fetch(SUBSCRIPTION)).subscriptions
    except Unavailable:
        return
    assert not {"status", "amount", "interval", "next_payment"} & knows(record)


def test_an_unknown_word_of_the_envelope_after_a_write_may_have_had_its_effect() -> None:
    odd = httpx.Response(200, json={"code": 200, "status": "perhaps", "data": {"response": True}})
    gateway, _ = make_gateway(fetched(), odd)
    with pytest.raises(Unavailable) as caught:
        asyncio.run(gateway.cancel_now(SUBSCRIPTION, "key"))
    assert caught.value.sent


@pytest.mark.parametrize("transactions", [None, 7, "text", [7], [{"type": "Refund"}], {}])
def test_refunds_that_make_no_sense_are_none(transactions: Any) -> None:
    gateway, _ = make_gateway(
        envelope({"status": "COMPLETE", "amount": 9800}), envelope({"transactions": transactions})
    )
    (payment,) = asyncio.run(gateway.fetch(Ref("payment", "1"))).payments
    assert (payment.status, payment.refunded) == ("paid", Money(0, "ZAR"))


# The report

HEADER = (
    '"Date","Type","Sign","Party","Name","Description","Currency","Funding Type",'
    '"Gross","Fee","Net","Balance","M Payment ID","PF Payment ID","custom str1"'
)


def make_row(
    day: str = "2026-11-02",
    payment: str = "1089250",
    kind: str = "FUNDS_RECEIVED",
    sign: str = "CREDIT",
    gross: str = "120.00",
    order: str = "SO-7",
    funding: str = "CC",
) -> str:
    return (
        f'"{day} 13:29:55",{kind},{sign},"Thandi Nkosi","Tea club",,ZAR,{funding},'
        f'"{gross}",-4.60,115.40,"22,574.02",{order},{payment},'
    )


def report(*rows: str) -> httpx.Response:
    return httpx.Response(200, text="\n".join((HEADER, *rows)) + "\n")


def pages(gateway: Adapter, cursor: str | None = None, most: int = 100) -> list[Page]:
    async def collect() -> list[Page]:
        found: list[Page] = []
        async for page in gateway.backfill(cursor):
            found.append(page)
            if len(found) == most:
                break
        return found

    return asyncio.run(collect())


def first_page(answer: httpx.Response) -> Snapshot:
    gateway, _ = make_gateway(answer)
    return pages(gateway, most=1)[0].snapshot


def test_report_row_becomes_a_payment_without_e_mail_in_south_african_time() -> None:
    (payment,) = first_page(report(make_row(gross="22,574.02"))).payments
    assert (payment.remote_id, payment.status, payment.amount) == ("1089250", "paid", Money(2257402, "ZAR"))
    assert payment.created_at == payment.paid_at == datetime(2026, 11, 2, 11, 29, 55, tzinfo=UTC)
    assert (payment.order, payment.title, payment.method) == ("SO-7", "Tea club", Method("card"))
    assert not {"email", "customer", "subscription"} & knows(payment)


def test_nobody_is_matched_by_the_name_of_the_party() -> None:
    snapshot = first_page(report(make_row()))
    assert "Thandi" not in repr(snapshot)
    assert snapshot.customers == ()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: httpx.Response(200, text=text),
        lambda text: httpx.Response(200, text="\ufeff" + text),
        lambda text: httpx.Response(200, json={"code": 200, "status": "success", "data": {"response": text}}),
        lambda text: httpx.Response(200, json={"response": text}),
        lambda text: httpx.Response(200, text=text.replace("\n", "\r\n")),
        lambda text: httpx.Response(200, text=text.replace('"Funding Type"', '"Funding Type","Batch ID"', 1)),
    ],
    ids=["csv", "bom", "envelope", "short envelope", "crlf", "without shifting columns"],
)
def test_report_comes_in_several_wrappings(wrap: Callable[[str], httpx.Response]) -> None:
    answer = wrap(report(make_row()).text)
    if "Batch ID" in answer.text:
        answer = httpx.Response(200, text=answer.text.replace(",CC,", ",CC,B7,"))
    (payment,) = first_page(answer).payments
    assert (payment.remote_id, payment.amount) == ("1089250", Money(12000, "ZAR"))


@pytest.mark.parametrize(
    "row",
    [
        make_row(kind="PAYOUT", sign="DEBIT"),
        make_row(kind="FEE", sign="DEBIT"),
        make_row(sign="DEBIT"),
        make_row(payment=""),
    ],
)
def test_report_row_that_is_no_payment_is_left_out(row: str) -> None:
    snapshot = first_page(report(row))
    assert (snapshot.payments, snapshot.orders, snapshot.refunds) == ((), (), ())


def test_order_with_many_payments_is_the_oldest_row() -> None:
    rows = [
        make_row("2026-11-02", "3", gross="150.00"),
        make_row("2026-11-01", "2", gross="99.00"),
        make_row("2026-11-03", "4", gross="150.00"),
    ]
    snapshot = first_page(report(*rows))
    assert len(snapshot.payments) == 3
    (order,) = snapshot.orders
    assert order.created_at is not None
    assert (order.created_at.day, order.amount) == (1, Money(9900, "ZAR"))


def test_row_without_a_number_of_the_shop_is_an_order_of_its_own() -> None:
    snapshot = first_page(report(make_row(order="")))
    assert snapshot.orders[0].remote_id == snapshot.payments[0].order == "1089250"


def test_funding_other_than_a_card_is_not_called_one() -> None:
    (payment,) = first_page(report(make_row(funding="EFT"))).payments
    assert "method" not in knows(payment)


def test_refund_of_a_newer_month_is_known_to_the_payment_of_an_older_one_also_after_a_break() -> None:
    refund = make_row("2026-11-20", kind="FUNDS_RECEIVED_REFUND", sign="DEBIT", gross="-20.00")
    gateway, _ = make_gateway(report(refund))
    (newer,) = pages(gateway, most=1)
    (record,) = newer.snapshot.refunds
    assert (record.remote_id, record.payment, record.amount) == (
        "1089250/2026-11-20/2000",
        "1089250",
        Money(2000, "ZAR"),
    )
    gateway, _ = make_gateway(report(make_row("2026-10-31")))
    (older,) = pages(gateway, newer.cursor, most=1)
    assert older.snapshot.payments[0].status == "partially_refunded"
    assert older.snapshot.payments[0].refunded == Money(2000, "ZAR")


def test_unreadable_amount_stops_the_import_instead_of_a_wrong_one() -> None:
    with pytest.raises(Unavailable, match="Gross"):
        first_page(report(make_row(gross="12.345")))


def test_report_with_other_columns_is_not_read_as_empty() -> None:
    with pytest.raises(Unavailable, match="PF Payment ID"):
        first_page(httpx.Response(200, text="Something,Else\n1,2\n"))


def test_backfill_goes_back_month_by_month_and_stops_after_the_first_empty_year() -> None:
    gateway, wire = make_gateway(report(), report(make_row()), *[report() for _ in range(12)])
    found = pages(gateway)
    asked = [(one["params"]["from"], one["params"]["to"]) for one in wire.asked]
    assert asked[:3] == [
        ("2026-11-01", "2026-11-22"),
        ("2026-10-01", "2026-10-31"),
        ("2026-09-01", "2026-09-30"),
    ]
    assert asked[-1] == ("2025-10-01", "2025-10-31")
    assert len(found) == 14
    assert (found[-1].cursor, found[-2].cursor is None) == (None, False)


def test_backfill_reaches_three_years_back() -> None:
    gateway, wire = make_gateway(*[report(make_row(payment=str(n))) for n in range(37)])
    assert pages(gateway)[-1].cursor is None
    assert wire.asked[-1]["params"]["from"] == "2023-11-01"


def test_backfill_goes_on_where_it_was_and_pages_through_a_full_month() -> None:
    many = [make_row(payment=str(n)) for n in range(1000)]
    gateway, _ = make_gateway(report(*many))
    (page,) = pages(gateway, most=1)
    clock.set_offset(clock.offset() + timedelta(days=30))
    gateway, wire = make_gateway(report(make_row(payment="1000")), report())
    pages(gateway, page.cursor, most=2)
    assert [(one["params"]["from"], one["params"]["offset"]) for one in wire.asked] == [
        ("2026-11-01", "1000"),
        ("2026-10-01", "0"),
    ]


def test_backfill_signs_its_question() -> None:
    gateway, wire = make_gateway(report())
    pages(gateway, most=1)
    asked = wire.asked[0]
    sent = {name: value for name, value in asked["headers"].items() if name != "signature"}
    assert asked["headers"]["signature"] == api_signature({**sent, **asked["params"]}, KEYS["passphrase"])


# The merchant's own list of tokens


def test_list_of_tokens_gives_orders_and_subscriptions_an_e_mail_and_claims_no_more() -> None:
    text = f"\ufefftoken , Email,m_payment_id,note\n{TOKEN},thandi@example.org,SO-7,x\n,sipho@example.org,SO-8,\n\n"
    snapshot = Adapter.read_file(text)
    assert [(order.remote_id, order.email, order.subscription) for order in snapshot.orders] == [
        ("SO-7", "thandi@example.org", TOKEN),
        ("SO-8", "sipho@example.org", None),
    ]
    assert knows(snapshot.orders[0]) == {"email", "number", "subscription"}
    (subscription,) = snapshot.subscriptions
    assert (subscription.remote_id, knows(subscription)) == (TOKEN, {"email"})


def test_list_of_tokens_names_every_bad_line_and_no_token() -> None:
    text = (
        f"email,m_payment_id,token\nthandi@example.org,SO-7,{TOKEN}\nnobody,SO-8,\nsipho@example.org,,\n"
        f"sipho@example.org,SO-9,{TOKEN}\nsipho@example.org,SO-9,{TOKEN} x\n"
    )
    with pytest.raises(ValueError, match="line 3") as caught:
        read_tokens_csv(text)
    said = str(caught.value)
    assert [f"line {n}:" in said for n in (2, 3, 4, 5, 6)] == [False, True, True, True, True]
    assert "stands in line 2 with another e-mail" in said
    assert TOKEN not in said


@pytest.mark.parametrize("text", ["", "email;m_payment_id;token\n", "email,token\na@b.example,x\n"])
def test_list_without_its_columns_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="line 1: no column"):
        read_tokens_csv(text)


# Keys


def test_check_asks_for_a_signed_report_because_ping_proves_no_passphrase() -> None:
    gateway, wire = make_gateway(httpx.Response(200, json="Payfast API"), report())
    health = asyncio.run(gateway.check())
    assert (health.ok, health.live, health.account) == (True, True, "10012345")
    assert wire.lines == ["GET /ping", "GET /transactions/history"]
    assert wire.asked[1]["params"]["from"] == wire.asked[1]["params"]["to"] == "2026-11-22"


def test_check_names_the_passphrase_when_the_signature_is_refused() -> None:
    gateway, _ = make_gateway(
        httpx.Response(200, json="API V1"),
        envelope(False, 401, 401, "Generated signature does not match"),
        sandbox="yes",
    )
    health = asyncio.run(gateway.check())
    assert (health.ok, health.live) == (False, False)
    assert health.hint is not None
    assert "signature does not match" in health.hint
    assert "passphrase" in health.hint


def test_check_tells_of_an_account_without_the_report() -> None:
    gateway, _ = make_gateway(
        httpx.Response(200, json="Payfast API"), envelope(False, 404, 404, "No permission")
    )
    health = asyncio.run(gateway.check())
    assert (health.ok, "No permission" in (health.hint or "")) == (False, True)


def test_check_wants_a_passphrase_even_where_payfast_does_not() -> None:
    gateway, _ = make_gateway(httpx.Response(200, json="Payfast API"), report(), passphrase="")
    health = asyncio.run(gateway.check())
    assert not health.ok
    assert "passphrase" in (health.hint or "")


# The token is a bearer secret


def test_token_stands_in_no_error() -> None:
    said = f"Subscription {TOKEN} is unknown"
    for answer in (
        envelope(said, 400),
        envelope(False, 404, message=said),
        envelope(False, 401, message=said),
    ):
        error = refusal(answer)
        assert TOKEN not in f"{error!r} {error} {vars(error)}"
    gateway, _ = make_gateway(fetched(), envelope(said), fetched())
    with pytest.raises(Declined) as caught:
        asyncio.run(gateway.cancel_now(SUBSCRIPTION, "key"))
    assert TOKEN not in f"{caught.value!r} {vars(caught.value)}"


# Against the simulator, over a real connection


@pytest.fixture
def payfast() -> Iterator[Simulator]:
    """Served, with the contract over its shoulder where there is one; nothing asked of it may break that."""
    simulator = Simulator(clock.now)
    folder = SHARED / "specs" / "payfast"
    if folder.is_dir():
        simulator.validator = validator(folder)
    with Servers([simulator]):
        yield simulator
    assert simulator.problems == []


def make_merchant(payfast: Simulator, sandbox: bool = False) -> Merchant:
    keys = KEYS["merchant_id"], KEYS["merchant_key"], KEYS["passphrase"]
    return payfast.add_account(*keys, sandbox=sandbox)


def make_club(merchant: Merchant, **more: Any) -> Ref:
    """A monthly subscription over R120 that began on 1 August 2026."""
    start = datetime(2026, 8, 1, 8, tzinfo=UTC)
    fields = {"m_payment_id": "SO-7", "custom_str1": "from the shop", **more}
    token = merchant.subscription(
        "thandi@example.org", "Thandi", "Nkosi", 12000, 3, "Tea~club (é)", start, **fields
    )
    return Ref("subscription", token)


async def using(merchant: Merchant, do: Callable[[Adapter], Awaitable[Result]], **keys: str) -> Result:
    hosts = facts("payfast").hosts
    addresses = dict.fromkeys((*hosts.calls, *hosts.links), merchant.simulator.address)
    sandbox = "yes" if merchant.account.sandbox else "no"
    gateway = Adapter({**KEYS, "sandbox": sandbox, **keys}, addresses=addresses)
    try:
        return await do(gateway)
    finally:
        await gateway.aclose()


def ask(merchant: Merchant, do: Callable[[Adapter], Awaitable[Result]], **keys: str) -> Result:
    """What a gateway of this merchant comes back with."""
    return asyncio.run(using(merchant, do, **keys))


def only(snapshot: Snapshot | Leave) -> SubscriptionRecord:
    assert isinstance(snapshot, Snapshot)
    (record,) = snapshot.subscriptions
    return record


def writes(payfast: Simulator) -> list[str]:
    return [f"{call.method} {call.path.rpartition('/')[2]}" for call in payfast.calls if call.method != "GET"]


both = pytest.mark.parametrize("sandbox", [False, True], ids=["live", "sandbox"])


@both
def test_keys_are_good(payfast: Simulator, sandbox: bool) -> None:
    health = ask(make_merchant(payfast, sandbox), lambda gateway: gateway.check())
    assert (health.ok, health.live) == (True, not sandbox)


def test_wrong_passphrase_and_foreign_address_are_named(payfast: Simulator) -> None:
    merchant = make_merchant(payfast)
    wrong = ask(merchant, lambda gateway: gateway.check(), passphrase="something else")
    assert (wrong.ok, "passphrase" in (wrong.hint or "")) == (False, True)
    merchant.habits.refuses_origin = True
    foreign = ask(merchant, lambda gateway: gateway.check())
    assert (foreign.ok, "origin" in (foreign.hint or "")) == (False, True)


@both
def test_subscription_is_paused_resumed_changed_and_cancelled(payfast: Simulator, sandbox: bool) -> None:
    merchant = make_merchant(payfast, sandbox)
    merchant.habits.update_answers_object = sandbox
    club = make_club(merchant)

    async def trip(gateway: Adapter) -> None:
        before = only(await gateway.fetch(club))
        assert (before.status, before.raw_status) == ("active", "1 ACTIVE")
        assert before.next_payment == NextPayment(date(2026, 12, 1), Money(12000, "ZAR"), "fixed")
        assert only(await gateway.pause(club, "key")).status == "paused"
        assert merchant.get(club.id).run_on == date(2027, 1, 1)
        assert only(await gateway.pause(club, "key")).status == "paused"
        assert only(await gateway.resume(club, "key")).next_payment == before.next_payment
        wish = {"amount": Money(15000, "ZAR"), "interval": Interval("year")}
        after = only(await gateway.change_plan(club, wish, BACK, "key"))
        assert (after.amount, after.interval) == (Money(15000, "ZAR"), Interval("year"))
        assert only(await gateway.cancel_now(club, "key")).status == "cancelled"
        assert only(await gateway.cancel_now(club, "key")).next_payment is None

    ask(merchant, trip)
    assert writes(payfast) == ["PUT pause", "PUT unpause", "PATCH update", "PUT cancel"]


def test_two_cancels_at_once_both_see_it_cancelled(payfast: Simulator) -> None:
    merchant = make_merchant(payfast)
    club = make_club(merchant)

    async def race(gateway: Adapter) -> list[Snapshot]:
        return await asyncio.gather(*(gateway.cancel_now(club, "key") for _ in range(2)))

    assert [only(one).status for one in ask(merchant, race)] == ["cancelled", "cancelled"]
    assert writes(payfast) == ["PUT cancel", "PUT cancel"]


@pytest.mark.parametrize("with_200", [False, True])
def test_refused_change_is_declined_also_where_it_comes_with_http_200(
    payfast: Simulator, with_200: bool
) -> None:
    merchant = make_merchant(payfast)
    club = make_club(merchant)
    merchant.habits.refuses_changes, merchant.habits.failures_with_200 = True, with_200
    for do in (Adapter.cancel_now, Adapter.pause):
        with pytest.raises(Declined, match="valid state"):
            ask(merchant, lambda gateway, do=do: do(gateway, club, "key"))  # type: ignore[misc]
    with pytest.raises(Declined):
        ask(merchant, lambda gateway: gateway.change_plan(club, {"amount": Money(15000, "ZAR")}, BACK, "key"))


def test_locked_subscription_is_not_paused_because_that_would_charge_it(payfast: Simulator) -> None:
    merchant = make_merchant(payfast)
    club = make_club(merchant)
    merchant.lock(club.id)
    record = only(ask(merchant, lambda gateway: gateway.fetch(club)))
    assert (record.status, record.stopped, record.due) == ("past_due", True, Money(12000, "ZAR"))
    with pytest.raises(Unsupported):
        ask(merchant, lambda gateway: gateway.pause(club, "key"))
    assert writes(payfast) == []
    assert merchant.get(club.id).state == "locked"


def test_failed_charge_makes_it_past_due_and_it_is_not_paused(payfast: Simulator) -> None:
    clock.set_offset(clock.offset() - timedelta(days=18))  # 4 November, with one of five tries left
    merchant = make_merchant(payfast)
    club = make_club(merchant, failing=True)
    assert merchant.get(club.id).state == "active"
    record = only(ask(merchant, lambda gateway: gateway.fetch(club)))
    assert (record.status, record.stopped, record.next_payment) == ("past_due", False, None)
    with pytest.raises(Unsupported):
        ask(merchant, lambda gateway: gateway.pause(club, "key"))
    assert writes(payfast) == []


def test_cancel_of_a_locked_one_is_believed_only_when_read_back(payfast: Simulator) -> None:
    merchant = make_merchant(payfast)
    club = make_club(merchant)
    merchant.lock(club.id)
    merchant.habits.refuses_cancel_when_locked = True
    with pytest.raises(Declined):
        ask(merchant, lambda gateway: gateway.cancel_now(club, "key"))
    merchant.habits.refuses_cancel_when_locked = False
    assert only(ask(merchant, lambda gateway: gateway.cancel_now(club, "key"))).status == "cancelled"


def test_pause_is_seen_where_payfast_goes_on_saying_active(payfast: Simulator) -> None:
    merchant = make_merchant(payfast)
    club = make_club(merchant)
    payfast.words["paused"] = (1, "ACTIVE")
    record = only(ask(merchant, lambda gateway: gateway.pause(club, "key")))
    assert (record.status, record.raw_status) == ("paused", "1 ACTIVE")


def test_change_applied_in_part_is_unknown_and_names_the_field(payfast: Simulator) -> None:
    merchant = make_merchant(payfast)
    club = make_club(merchant)
    merchant.habits.update_ignores = ("frequency",)
    wish = {"amount": Money(15000, "ZAR"), "interval": Interval("year")}
    with pytest.raises(Unavailable, match="frequency") as caught:
        ask(merchant, lambda gateway: gateway.change_plan(club, wish, BACK, "key"))
    assert caught.value.sent


WISHES: dict[str, Callable[[Adapter, Ref], Awaitable[Snapshot | Leave]]] = {
    "cancel": lambda gateway, club: gateway.cancel_now(club, "key"),
    "pause": lambda gateway, club: gateway.pause(club, "key"),
    "update": lambda gateway, club: gateway.change_plan(club, {"amount": Money(15000, "ZAR")}, BACK, "key"),
}


@pytest.mark.parametrize(
    ("wish", "effect"),
    [
        ("cancel", ("cancelled", date(2026, 12, 1), 12000)),
        ("pause", ("paused", date(2027, 1, 1), 12000)),
        ("update", ("active", date(2026, 12, 1), 15000)),
    ],
)
def test_time_out_after_the_effect_is_unknown_and_the_next_try_reads_instead_of_repeating(
    payfast: Simulator, monkeypatch: pytest.MonkeyPatch, wish: str, effect: tuple[str, date, int]
) -> None:
    monkeypatch.setattr("portal.gateways.http.READ_S", 0.4)
    merchant = make_merchant(payfast)
    club = make_club(merchant)
    payfast.fail_next = ["", "timeout_after"]
    with pytest.raises(Unavailable) as caught:
        ask(merchant, lambda gateway: WISHES[wish](gateway, club))
    assert caught.value.sent
    assert club.id not in f"{caught.value!r} {caught.value.hint}"
    assert only(ask(merchant, lambda gateway: WISHES[wish](gateway, club))).status == effect[0]
    one = merchant.get(club.id)
    assert (one.state, one.run_on, one.amount) == effect
    assert len(writes(payfast)) == 1


@pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES)
def test_rate_limit_stops_a_write_once_and_for_five_minutes(
    payfast: Simulator, wish: Callable[[Adapter, Ref], Awaitable[Any]]
) -> None:
    merchant = make_merchant(payfast)
    club = make_club(merchant)
    payfast.fail_next = ["", "429"]
    with pytest.raises(Unavailable) as caught:
        ask(merchant, lambda gateway: wish(gateway, club))
    assert (caught.value.retry_after, caught.value.sent) == (300, False)
    assert len(writes(payfast)) == 1
    assert (merchant.get(club.id).state, merchant.get(club.id).amount) == ("active", 12000)


def test_limited_account_is_asked_once(payfast: Simulator) -> None:
    merchant = make_merchant(payfast)
    club = make_club(merchant)
    merchant.limit()
    with pytest.raises(Unavailable) as caught:
        ask(merchant, lambda gateway: gateway.cancel_now(club, "key"))
    assert caught.value.retry_after == 300
    assert len(payfast.calls) == 1


@pytest.mark.parametrize("fault", ["500", "drop"])
def test_write_that_fails_in_the_middle_may_have_had_its_effect(
    payfast: Simulator, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr("portal.gateways.http.READ_S", 0.4)
    merchant = make_merchant(payfast)
    club = make_club(merchant)
    payfast.fail_next = ["", fault]
    with pytest.raises(Unavailable) as caught:
        ask(merchant, lambda gateway: gateway.cancel_now(club, "key"))
    assert caught.value.sent
    assert len(writes(payfast)) == 1


def test_payfast_that_is_down_gets_no_write(payfast: Simulator) -> None:
    merchant = make_merchant(payfast)
    club = make_club(merchant)
    payfast.switch("down")
    with pytest.raises(Unavailable) as caught:
        ask(merchant, lambda gateway: gateway.cancel_now(club, "key"))
    assert not caught.value.sent
    assert writes(payfast) == []


def test_subscription_of_another_account_is_gone(payfast: Simulator) -> None:
    other = payfast.add_account("10099999", "z1x2c3v4b5n6m", "another one")
    foreign = make_club(other)
    with pytest.raises(Gone):
        ask(make_merchant(payfast), lambda gateway: gateway.cancel_now(foreign, "key"))
    assert other.get(foreign.id).state == "active"


def test_agreement_can_be_cancelled_and_nothing_else(payfast: Simulator) -> None:
    merchant = make_merchant(payfast)
    token = merchant.agreement("sipho@example.org", "Sipho", "Dube", "Taxi app", NOW)
    saved = Ref("subscription", token)
    record = only(ask(merchant, lambda gateway: gateway.fetch(saved)))
    assert (record.object, record.status) == ("agreement", "active")
    with pytest.raises(Unsupported):
        ask(merchant, lambda gateway: gateway.pause(saved, "key"))
    assert only(ask(merchant, lambda gateway: gateway.cancel_now(saved, "key"))).status == "cancelled"


def test_card_page_opens_and_comes_back_to_the_very_address(payfast: Simulator) -> None:
    merchant = make_merchant(payfast)
    club = make_club(merchant)
    back = "https://pay.tea.example/customers/return/abc?x=1&y=2"

    async def trip(gateway: Adapter) -> tuple[int, str]:
        leave = await gateway.start_method_update(club, back, "key")
        assert facts("payfast").allows_link(leave.url, gateway.addresses)
        async with httpx.AsyncClient(trust_env=False) as browser:
            shown = await browser.get(leave.url)
            saved = await browser.post(leave.url, data={"do": "save", "card": "mastercard"})
        after = only(await gateway.finish_method_update(club, leave.state, {}))
        assert after.method == Method("card")
        return shown.status_code, saved.headers["location"]

    assert ask(merchant, trip) == (200, back)
    assert "5100" in merchant.get(club.id).card


def read_deliveries(merchant: Merchant) -> list[Snapshot]:
    """Every ITN so far, verified and read again as the worker does it."""
    deliveries = merchant.deliveries()

    async def work(gateway: Adapter) -> list[Snapshot]:
        found = []
        for headers, body in deliveries:
            for event in gateway.verify(headers, body, clock.now()):
                snapshot = await gateway.refetch(event)
                assert snapshot is not None
                found.append(snapshot)
        return found

    return ask(merchant, work)


@both
def test_checkout_and_renewals_are_one_order_with_many_payments(payfast: Simulator, sandbox: bool) -> None:
    merchant = make_merchant(payfast, sandbox)
    club = make_club(merchant)
    snapshots = read_deliveries(merchant)
    payments = [payment for snapshot in snapshots for payment in snapshot.payments]
    assert [payment.remote_id for payment in payments] == [
        one.pf_payment_id for one in merchant.payments(club.id)
    ]
    assert {(payment.order, payment.subscription, payment.amount) for payment in payments} == {
        ("SO-7", club.id, Money(12000, "ZAR"))
    }
    assert {order.remote_id for snapshot in snapshots for order in snapshot.orders} == {"SO-7"}
    assert len(payments) == 4
    record = only(snapshots[-1])
    assert (record.email, record.title, record.status) == ("thandi@example.org", "Tea~club (é)", "active")


@pytest.mark.parametrize("blank", [False, True])
def test_cancellation_at_payfast_books_nothing_and_is_seen(payfast: Simulator, blank: bool) -> None:
    merchant = make_merchant(payfast)
    club = make_club(merchant)
    merchant.habits.blank_cancellations = blank
    merchant.foreign_cancel(club.id)
    last = read_deliveries(merchant)[-1]
    assert (last.payments, last.orders, only(last).status) == ((), (), "cancelled")


def test_itn_signed_with_our_passphrase_that_payfast_never_sent_is_refused(payfast: Simulator) -> None:
    merchant = make_merchant(payfast)
    club = make_club(merchant)
    body = signed(make_itn(token=club.id, pf_payment_id="9999999"))

    async def work(gateway: Adapter) -> Snapshot | None:
        (event,) = gateway.verify([], body, NOW)
        return await gateway.refetch(event)

    with pytest.raises(BadSignature, match="confirm"):
        ask(merchant, work)


def test_failed_renewal_fails_its_payment_and_not_the_order(payfast: Simulator) -> None:
    merchant = make_merchant(payfast)
    merchant.habits.notifies_failures = True
    make_club(merchant, failing=True)
    last = read_deliveries(merchant)[-1]
    (payment,), (order,) = last.payments, last.orders
    assert (payment.status, payment.failure is not None) == ("failed", True)
    assert "status" not in knows(order)


def test_free_trial_is_one_from_its_first_itn_and_from_its_notice(payfast: Simulator) -> None:
    merchant = make_merchant(payfast)
    merchant.habits.trial_notices = "form"
    make_club(merchant, billing_on=date(2026, 11, 28))
    snapshots = read_deliveries(merchant)
    assert [len(snapshot.payments) for snapshot in snapshots] == [1, 0]
    for snapshot in snapshots:
        assert (only(snapshot).status, only(snapshot).trial_ends_at) == (
            "trialing",
            datetime(2026, 11, 27, 22, tzinfo=UTC),
        )


def test_trial_notice_in_json_without_a_signature_is_refused(payfast: Simulator) -> None:
    merchant = make_merchant(payfast)
    merchant.habits.trial_notices = "json"
    make_club(merchant, billing_on=date(2026, 11, 28))
    with pytest.raises(BadSignature):
        verify(merchant.deliveries()[-1][1])


@both
def test_payment_shows_its_refunds_where_there_are_any(payfast: Simulator, sandbox: bool) -> None:
    merchant = make_merchant(payfast, sandbox)
    at = datetime(2026, 10, 5, 9, tzinfo=UTC)
    number = merchant.payment("sipho@example.org", "Sipho Dube", 30000, "Rooibos", at, m_payment_id="SO-8")
    merchant.refund(number, 10000, at + timedelta(days=1))
    snapshot = ask(merchant, lambda gateway: gateway.fetch(Ref("payment", number)))
    (payment,) = snapshot.payments
    assert payment.status == ("paid" if sandbox else "partially_refunded")
    assert payment.refunded == (None if sandbox else Money(10000, "ZAR"))
    assert [refund.remote_id for refund in snapshot.refunds] == (
        [] if sandbox else [f"{number}/2026-10-06/10000"]
    )


@pytest.mark.parametrize("wrapping", ["csv", "json", "envelope"])
@pytest.mark.parametrize("batch_ids", [False, True])
def test_report_gives_every_payment_and_its_refunds(
    payfast: Simulator, wrapping: Literal["csv", "json", "envelope"], batch_ids: bool
) -> None:
    merchant = make_merchant(payfast)
    merchant.habits.history, merchant.habits.batch_ids = wrapping, batch_ids
    make_club(merchant)
    at = datetime(2026, 10, 5, 9, tzinfo=UTC)
    number = merchant.payment("sipho@example.org", "Sipho Dube", 2257402, "Rooibos", at, funding="EF")
    merchant.refund(number, 2257402, at + timedelta(days=30))

    async def collect(gateway: Adapter) -> list[Snapshot]:
        return [page.snapshot async for page in gateway.backfill()]

    snapshots = ask(merchant, collect)
    payments = {payment.remote_id: payment for one in snapshots for payment in one.payments}
    assert payments.keys() == {one.pf_payment_id for one in merchant.payments()}
    assert payments[number].status == "refunded"
    assert payments[number].amount == payments[number].refunded == Money(2257402, "ZAR")
    assert payments[number].created_at == at
    assert {payment.email for payment in payments.values()} == {None}
    (refund,) = (refund for one in snapshots for refund in one.refunds)
    from_query = ask(merchant, lambda gateway: gateway.fetch(Ref("payment", number)))
    assert from_query.refunds[0].remote_id == refund.remote_id


def test_list_of_tokens_and_a_fetch_give_live_subscriptions(payfast: Simulator) -> None:
    merchant = make_merchant(payfast)
    club = make_club(merchant)
    listed = read_tokens_csv(f"email,m_payment_id,token\nthandi@example.org,SO-7,{club.id}\n")
    found = Ref("subscription", only(listed).remote_id)
    assert only(ask(merchant, lambda gateway: gateway.fetch(found))).status == "active"


def test_empty_put_arrives_with_its_length(payfast: Simulator) -> None:
    merchant = make_merchant(payfast)
    club = make_club(merchant)
    ask(merchant, lambda gateway: gateway.cancel_now(club, "key"))
    (put,) = (call for call in payfast.calls if call.method == "PUT")
    assert (put.headers["content-length"], put.body) == ("0", b"")


def test_token_stands_in_no_log(payfast: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    merchant = make_merchant(payfast)
    club = make_club(merchant)
    with caplog.at_level(logging.DEBUG):
        ask(merchant, lambda gateway: gateway.cancel_now(club, "key"))
        read_deliveries(merchant)
    assert caplog.records
    assert club.id not in caplog.text


# Facts


def test_facts_and_code_agree() -> None:
    assert disagreements("payfast", Adapter) == []


@pytest.mark.parametrize(
    ("key", "circumstances", "mode", "how"),
    [
        ("cancel_now", Circumstances(state="active"), "direct", None),
        ("cancel_at_period_end", Circumstances(state="active"), "emulated", "keep"),
        (
            "cancel_at_period_end",
            Circumstances(state="active", option=frozenset({"schedule_cancel"})),
            "emulated",
            "schedule",
        ),
        (
            "cancel_at_period_end",
            Circumstances(state="past_due", option=frozenset({"schedule_cancel"})),
            "emulated",
            "keep",
        ),
        ("cancel_at_period_end", Circumstances(state="active", object="agreement"), "none", None),
        ("undo_cancel", Circumstances(state="cancels_at_period_end"), "request", None),
        (
            "undo_cancel",
            Circumstances(state="cancels_at_period_end", option=frozenset({"schedule_cancel"})),
            "emulated",
            "schedule",
        ),
        ("pause", Circumstances(state="active"), "direct", None),
        ("pause", Circumstances(state="active", object="sandbox"), "direct", None),
        ("pause", Circumstances(state="past_due"), "none", None),
        ("pause", Circumstances(state="trialing"), "none", None),
        ("pause", Circumstances(state="active", object="agreement"), "none", None),
        ("resume", Circumstances(state="paused"), "direct", None),
        ("change_plan", Circumstances(state="active"), "direct", None),
        ("change_plan", Circumstances(state="active", object="agreement"), "request", None),
        ("update_payment_method", Circumstances(state="past_due"), "hosted", None),
        ("update_payment_method", Circumstances(state="active", object="agreement"), "hosted", None),
        ("next_payment", Circumstances(state="active"), "direct", None),
        ("next_payment", Circumstances(state="active", object="agreement"), "emulated", None),
        ("pay_now", Circumstances(state="past_due", due=True), "none", None),
        ("skip_next_payment", Circumstances(state="active"), "none", None),
        ("invoice", Circumstances(), "direct", None),
        ("refunds", Circumstances(), "direct", None),
    ],
)
def test_mode_of_each_wish(key: Any, circumstances: Circumstances, mode: str, how: str | None) -> None:
    shape = facts("payfast").capabilities[key].under(circumstances)
    assert (shape.mode, shape.how) == (mode, how)


def test_test_buyer_of_every_sandbox_is_nobody() -> None:
    assert "sbtu01@payfast.io" in facts("payfast").no_email
