"""Adyen: the signature of eight fields and what it leaves out, states, amounts of its own, and a test for each trap."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx2 as httpx
import pytest

from portal import clock
from portal.gateways import _adyen
from portal.gateways import gateway as make_gateway
from portal.gateways.adyen import LIVE, MANAGEMENT, TEST, Adapter
from portal.gateways.base import (
    BadSignature,
    CustomerRecord,
    Declined,
    Event,
    Failure,
    Gone,
    Method,
    OrderRecord,
    PaymentRecord,
    Record,
    Ref,
    RefundRecord,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
    Unsupported,
)
from portal.gateways.capabilities import Circumstances, disagreements, facts
from portal.money import Money
from tests.conftest import SHARED

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
KEY, OLD_KEY, TOKEN_KEY = "44782DEF547AAA06C910C43932B1EB0C" * 2, "0b" * 32, "C1" * 32
CREDENTIALS = {
    "api_key": "AQEyhmfxLI3MaBFLw0m-0123456789",
    "merchant_account": "ShopNL",
    "hmac_key": KEY,
    "token_hmac_key": TOKEN_KEY,
    "webhook_username": "adyen",
    "webhook_password": "s3cret: & more",
    "currency": "EUR",
}
BASIC = "Basic " + base64.b64encode(b"adyen:s3cret: & more").decode()
PSP, PAYMENT = "QFQTPCQ8HXSKGK82", "9913140798220028"
METHOD = {
    "id": "M5N7TQ4TG5PFWR50",
    "type": "scheme",
    "brand": "visa",
    "lastFour": "1111",
    "expiryMonth": "03",
    "expiryYear": "30",
    "shopperEmail": "ana@example.com",
    "shopperReference": "c-7",
}


@pytest.fixture(scope="module")
def certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()


@pytest.fixture(autouse=True)
def _certificates_read_once(certificates: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading them is most of what a gateway costs."""
    client = partial(httpx.AsyncClient, verify=certificates)
    monkeypatch.setattr("portal.gateways.http.httpx.AsyncClient", client)


@pytest.fixture(autouse=True)
def _at_nine_in_amsterdam() -> None:
    clock.set_offset(NOW - datetime.now(UTC))


class Wire:
    """Stands in for the transport of a gateway: answers in order, and keeps what was asked."""

    def __init__(self, *answers: httpx.Response) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return self.answers.pop(0)


def make_adapter(*answers: httpx.Response, **credentials: str) -> tuple[Adapter, Wire]:
    wire = Wire(*answers)
    adapter = Adapter({**CREDENTIALS, **credentials})
    adapter._http._client = httpx.AsyncClient(transport=httpx.MockTransport(wire))
    return adapter, wire


def stored(*methods: Mapping[str, Any], shopper: str = "c-7") -> httpx.Response:
    said = {"merchantAccount": "ShopNL", "shopperReference": shopper, "storedPaymentMethods": [*methods]}
    return httpx.Response(200, json=said)


def refusal(status: int, code: str, message: str = "No") -> httpx.Response:
    return httpx.Response(status, json={"status": status, "errorCode": code, "message": message})


def make_item(**changes: Any) -> dict[str, Any]:
    """An item without its signature; `about` adds to its additional data."""
    about = changes.pop("about", {})
    return {
        "eventCode": "AUTHORISATION",
        "success": "true",
        "eventDate": "2026-11-24T08:30:00+01:00",
        "merchantAccountCode": "ShopNL",
        "merchantReference": "order-42",
        "pspReference": PSP,
        "amount": {"value": 1130, "currency": "EUR"},
        "paymentMethod": "visa",
        "reason": "076181:1111:03/2030",
        "additionalData": about,
    } | changes


def make_renewal(**changes: Any) -> dict[str, Any]:
    about = {
        "shopperReference": "c-7",
        "shopperEmail": "ana@example.com",
        "recurringProcessingModel": "Subscription",
        "shopperInteraction": "ContAuth",
        "tokenization.storedPaymentMethodId": METHOD["id"],
    } | changes.pop("about", {})
    return make_item(merchantReference="renewal-7", about=about, **changes)


def make_follow(code: str, **changes: Any) -> dict[str, Any]:
    return make_item(**{"eventCode": code, "originalReference": PAYMENT, "reason": ""} | changes)


def mac(message: bytes, key: str = KEY) -> str:
    return base64.b64encode(hmac.new(bytes.fromhex(key), message, hashlib.sha256).digest()).decode()


def joined(item: Mapping[str, Any]) -> bytes:
    names = ("pspReference", "originalReference", "merchantAccountCode", "merchantReference")
    amount = item["amount"]
    fields = [*(item.get(name, "") for name in names), str(amount["value"]), amount["currency"]]
    return ":".join([*fields, item["eventCode"], item["success"]]).encode()


def proved(item: dict[str, Any], key: str = KEY) -> dict[str, Any]:
    return {**item, "additionalData": {**item["additionalData"], "hmacSignature": mac(joined(item), key)}}


def body_of(*items: Mapping[str, Any]) -> bytes:
    listed = [{"NotificationRequestItem": item} for item in items]
    return json.dumps({"live": "false", "notificationItems": listed}).encode()


def verify(body: bytes, headers: list[tuple[str, str]] | None = None, **credentials: str) -> list[Event]:
    given = [("Authorization", BASIC)] if headers is None else headers
    return Adapter({**CREDENTIALS, **credentials}).verify(given, body, NOW)


def refetched(item: dict[str, Any], *answers: httpx.Response, **credentials: str) -> Snapshot:
    adapter, _ = make_adapter(*answers, **credentials)
    headers = [("Authorization", BASIC)] if adapter.credentials["webhook_password"] else []
    (event,) = adapter.verify(headers, body_of(proved(item)), NOW)
    found = asyncio.run(adapter.refetch(Event(**json.loads(json.dumps(_plain(event))) | _moments(event))))
    assert found is not None
    return found


def _plain(event: Event) -> dict[str, Any]:
    """As the queue keeps it."""
    return {"id": event.id, "type": event.type, "body": dict(event.body)}


def _moments(event: Event) -> dict[str, Any]:
    return {"subject": event.subject, "occurred_at": event.occurred_at}


def knows(record: Record) -> set[str]:
    return set(record.knows or ())


def payment(item: dict[str, Any]) -> PaymentRecord:
    found = Adapter.read("payment", item)
    assert isinstance(found, PaymentRecord)
    return found


# The facts


def test_facts_and_code_agree() -> None:
    assert disagreements("adyen", Adapter) == []


def test_every_cell_is_as_the_table_of_capabilities_has_it() -> None:
    table = facts("adyen").capabilities
    active, opted = Circumstances("active"), Circumstances("active", option=frozenset({"delete_token"}))
    modes = {key: capability.under(active).mode for key, capability in table.items()}
    assert modes == {
        "invoice": "direct",
        "update_payment_method": "hosted",
        "cancel_now": "request",
        "cancel_at_period_end": "request",
        "undo_cancel": "request",
        "pause": "request",
        "resume": "request",
        "skip_next_payment": "none",
        "change_plan": "request",
        "pay_now": "none",
        "next_payment": "emulated",
        "refunds": "direct",
    }
    assert table["cancel_now"].under(opted).mode == "direct"
    assert table["cancel_at_period_end"].under(opted).mode == "request"
    assert table["pay_now"].under(Circumstances("past_due", due=True)).mode == "hosted"
    assert table["next_payment"].certainty == "merchant"
    assert facts("adyen").backfill == []


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("merchant_account", "TestMerchant_NL", "Shop NL"),
        ("live_prefix", "1797a841fbb37ca7-AdyenDemo", "1797a841.evil.example/"),
        ("hmac_key", KEY, KEY[:-1]),
        ("token_hmac_key", TOKEN_KEY, "not hexadecimal"),
        ("currency", "EUR", "eur"),
        ("country", "NL", "Netherlands"),
        ("manual_capture", "klarna, visa", "klarna;visa"),
        ("webhook_username", "adyen", "ad:yen"),
        ("webhook_password", "a b:c", " blank first"),
    ],
)
def test_patterns_of_the_credentials_are_strict(name: str, good: str, bad: str) -> None:
    (pattern,) = [one.pattern for one in facts("adyen").credentials if one.name == name]
    assert re.fullmatch(pattern, good)
    assert not re.fullmatch(pattern, bad)


# The signature


def test_signature_is_over_eight_fields_in_their_order_with_nothing_escaped() -> None:
    item = make_item(merchantReference=r"a:b\c/d", originalReference="X1")
    text = rf"{PSP}:X1:ShopNL:a:b\c/d:1130:EUR:AUTHORISATION:true"
    assert _adyen.signed(item) == text.encode()
    item["additionalData"] = {"hmacSignature": mac(text.encode())}
    (event,) = verify(body_of(item))
    assert event.subject == Ref("payment", PSP)


def test_missing_fields_are_signed_as_nothing_and_text_as_utf_8() -> None:
    assert _adyen.signed({"merchantReference": "é"}) == b":::\xc3\xa9::::"


def test_the_key_is_decoded_from_hexadecimal_first() -> None:
    item = make_item()
    with_text = base64.b64encode(hmac.new(KEY.encode(), joined(item), hashlib.sha256).digest()).decode()
    item["additionalData"] = {"hmacSignature": with_text}
    with pytest.raises(BadSignature):
        verify(body_of(item))


def test_old_and_new_key_are_both_good_while_the_key_is_changed() -> None:
    body = body_of(proved(make_item(), OLD_KEY))
    assert verify(body, hmac_key_old=OLD_KEY)
    with pytest.raises(BadSignature):
        verify(body)


def test_every_item_of_a_delivery_is_proved_not_the_first_alone() -> None:
    one, other = proved(make_item()), proved(make_item(pspReference="ZZZZZZZZZZZZZZZZ"))
    assert [event.id for event in verify(body_of(one, other))] == [
        f"{PSP}:AUTHORISATION:true",
        "ZZZZZZZZZZZZZZZZ:AUTHORISATION:true",
    ]
    for bad in ({**other, "success": "false"}, {**other, "additionalData": None}, {}):
        with pytest.raises(BadSignature):
            verify(body_of(one, bad))


def test_a_colon_moved_into_another_field_is_no_proof() -> None:
    """Both items have the same signed text; only one can be what Adyen signed."""
    true = proved(make_item(merchantReference="ShopNL:7", merchantAccountCode="Other"))
    moved = {
        **true,
        "pspReference": f"{PSP}:",
        "originalReference": "Other",
        "merchantAccountCode": "ShopNL",
        "merchantReference": "7",
    }
    assert joined(true) == joined(moved)
    with pytest.raises(BadSignature, match="colon"):
        verify(body_of(moved))


def test_an_authentic_item_of_another_account_is_taken_and_means_nothing() -> None:
    (event,) = verify(body_of(proved(make_item(merchantAccountCode="ShopDE"))))
    assert (event.subject, event.body) == (None, {})
    assert asyncio.run(Adapter(CREDENTIALS).refetch(event)) is None


@pytest.mark.parametrize("given", [[], [("authorization", "Basic eDp5")], [("Authorization", BASIC)] * 2])
def test_the_password_of_the_webhook_must_be_right_and_come_once(given: list[tuple[str, str]]) -> None:
    with pytest.raises(BadSignature):
        verify(body_of(proved(make_item())), given)


def test_without_a_password_nobody_is_believed_to_be_anybody() -> None:
    snapshot = refetched(make_renewal(), webhook_username="", webhook_password="")
    (paid,) = snapshot.payments
    assert (paid.status, paid.amount) == ("paid", Money(1130, "EUR"))
    assert not {"email", "customer", "subscription"} & knows(paid)
    assert (snapshot.subscriptions, snapshot.customers) == ((), ())


def test_verify_needs_only_the_key_of_its_own_webhook() -> None:
    body = body_of(proved(make_item()))
    assert Adapter({"hmac_key": KEY}).verify([], body, NOW)[0].subject == Ref("payment", PSP)
    for credentials in ({}, {"hmac_key": "no key"}, {"token_hmac_key": TOKEN_KEY}):
        with pytest.raises(BadSignature):
            Adapter(credentials).verify([], body, NOW)


def make_token_notice(kind: str = "created", **changes: Any) -> bytes:
    data = {"merchantAccount": "ShopNL", "shopperReference": "c-7", "storedPaymentMethodId": METHOD["id"]}
    said = {
        "createdAt": "2026-11-24T08:30:00+01:00",
        "eventId": "QBQQ9DLNRHHKGK38",
        "environment": "test",
        "data": data | {"type": "visa", "operation": kind},
        "type": f"recurring.token.{kind}",
    }
    return json.dumps(said | changes).encode()


@pytest.mark.parametrize("name", ["hmacsignature", "HmacSignature", "HMACSIGNATURE"])
def test_a_notice_about_a_token_is_proved_by_its_header_and_a_key_of_its_own(name: str) -> None:
    body = make_token_notice()
    (event,) = verify(body, [(name, mac(body, TOKEN_KEY)), ("protocol", "HmacSHA256")])
    assert (event.id, event.type) == (
        "QBQQ9DLNRHHKGK38:recurring.token.created",
        "recurring.token.created",
    )
    assert (event.subject, event.body) == (Ref("subscription", "c-7"), {})
    assert event.occurred_at == datetime(2026, 11, 24, 7, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("hmacsignature", mac(make_token_notice(), KEY))],
        [("hmacsignature", mac(make_token_notice(), TOKEN_KEY))] * 2,
        [("hmacsignature", mac(make_token_notice("disabled"), TOKEN_KEY))],
    ],
)
def test_a_notice_about_a_token_with_another_proof_is_refused(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(BadSignature):
        verify(make_token_notice(), headers)


def test_the_account_of_a_token_must_be_ours() -> None:
    body = make_token_notice(data={"merchantAccount": "ShopDE", "shopperReference": "c-7"})
    (event,) = verify(body, [("hmacsignature", mac(body, TOKEN_KEY))])
    assert event.subject is None


# Events


@pytest.mark.parametrize(
    ("item", "subject"),
    [
        (make_item(), Ref("payment", PSP)),
        (make_renewal(), Ref("payment", PSP)),
        (make_renewal(about={"tokenization.storedPaymentMethodId": None}), Ref("subscription", "c-7")),
        (make_follow("CAPTURE"), Ref("payment", PAYMENT)),
        (make_follow("CHARGEBACK"), Ref("payment", PAYMENT)),
        (make_follow("CHARGEBACK", originalReference=""), None),
        (make_follow("EXPIRE", originalReference=""), Ref("payment", PSP)),
        (make_follow("REFUND"), Ref("refund", PSP)),
        (make_follow("REFUND_FAILED"), Ref("refund", PSP)),
        (make_follow("CANCEL_OR_REFUND", about={"modification.action": "refund"}), Ref("refund", PSP)),
        (make_follow("CANCEL_OR_REFUND", about={"modification.action": "cancel"}), Ref("payment", PAYMENT)),
        (
            make_item(eventCode="RECURRING_CONTRACT", about={"shopperReference": "c-7"}),
            Ref("subscription", "c-7"),
        ),
        (make_item(amount={"value": 0, "currency": "EUR"}), None),
        (make_item(eventCode="REPORT_AVAILABLE", reason="https://ca-test.adyen.com/report.csv"), None),
        (make_item(eventCode="SOMETHING_OF_TOMORROW"), None),
    ],
)
def test_what_an_event_is_about(item: dict[str, Any], subject: Ref | None) -> None:
    (event,) = verify(body_of(proved(item)))
    assert event.subject == subject
    assert "hmac" not in json.dumps(dict(event.body))
    if subject is None:
        assert "adyen.com" not in json.dumps(dict(event.body))


def test_the_same_news_twice_is_one_event_and_another_outcome_another() -> None:
    first, second, other = (
        verify(body_of(proved(make_item(success=success, eventDate=f"2026-11-24T0{hour}:00:00+01:00"))))[0]
        for success, hour in (("true", 7), ("true", 8), ("false", 7))
    )
    assert first.id == second.id != other.id


def test_text_that_no_database_takes_is_cleaned() -> None:
    (event,) = verify(body_of(proved(make_item(reason="a\x00b\ud800", about={"shopperEmail": "x" * 900}))))
    assert event.body["reason"] == "ab?"
    assert len(event.body["shopperEmail"]) == 256


# Payments


@pytest.mark.parametrize(
    ("code", "success", "status"),
    [
        ("CAPTURE", "true", "paid"),
        ("CAPTURE", "false", None),
        ("CAPTURE_FAILED", "true", "failed"),
        ("CANCELLATION", "true", "cancelled"),
        ("CANCELLATION", "false", None),
        ("TECHNICAL_CANCEL", "true", "cancelled"),
        ("EXPIRE", "true", "expired"),
        ("NOTIFICATION_OF_CHARGEBACK", "true", "disputed"),
        ("CHARGEBACK", "true", "disputed"),
        ("SECOND_CHARGEBACK", "true", "disputed"),
        ("CHARGEBACK_REVERSED", "true", "paid"),
    ],
)
def test_what_later_events_make_of_a_payment(code: str, success: str, status: str | None) -> None:
    (found,) = refetched(make_follow(code, success=success)).payments
    assert (found.remote_id, found.status) == (PAYMENT, status)
    assert ("status" in knows(found)) == (status is not None)
    assert "amount" not in knows(found)


@pytest.mark.parametrize(
    ("code", "success", "status"),
    [
        ("REFUND", "true", "sent"),
        ("REFUND", "false", "failed"),
        ("REFUND_FAILED", "true", "failed"),
        ("REFUNDED_REVERSED", "true", "failed"),
        ("REFUND_WITH_DATA", "true", "sent"),
    ],
)
def test_a_refund_that_was_sent_can_still_fail(code: str, success: str, status: str) -> None:
    snapshot = refetched(make_follow(code, success=success))
    (found,) = snapshot.refunds
    assert (found.remote_id, found.payment, found.status) == (PSP, PAYMENT, status)
    assert found.amount == Money(1130, "EUR")
    assert snapshot.payments == ()


@pytest.mark.parametrize(
    ("chosen", "method", "status"),
    [
        ("", "visa", "paid"),
        ("", "klarna", "authorized"),
        ("", "klarna_account", "authorized"),
        ("none", "klarna", "paid"),
        ("all", "ideal", "authorized"),
        ("visa, mc", "mc", "authorized"),
        ("visa, mc", "klarna", "paid"),
    ],
)
def test_what_is_captured_by_hand_is_paid_only_by_its_capture(chosen: str, method: str, status: str) -> None:
    (found,) = refetched(make_item(paymentMethod=method), manual_capture=chosen).payments
    assert found.status == status
    assert ("paid_at" in knows(found)) == (status == "paid")


def test_an_authorised_payment_tells_all_it_has() -> None:
    about = {"shopperReference": "c-9", "shopperEmail": "ben@example.com", "shopperInteraction": "Ecommerce"}
    snapshot = refetched(make_item(about=about | {"cardSummary": "4242", "expiryDate": "9/2031"}))
    at = datetime(2026, 11, 24, 7, 30, tzinfo=UTC)
    (found,), (order,) = snapshot.payments, snapshot.orders
    assert (found.email, found.customer, found.order) == ("ben@example.com", "c-9", "order-42")
    assert (found.created_at, found.paid_at, snapshot.as_of) == (at, at, at)
    assert found.method == Method("card", "Visa", "4242", "2031-09")
    assert (order.status, order.number, order.amount) == ("paid", "order-42", Money(1130, "EUR"))
    assert (order.email, order.customer, order.created_at) == ("ben@example.com", "c-9", at)


def test_without_card_data_the_reason_tells_the_card() -> None:
    assert payment(make_item()).method == Method("card", "Visa", "1111", "2030-03")
    assert payment(make_item(reason="null")).method == Method("card", "Visa")


@pytest.mark.parametrize(
    ("name", "kind", "brand"),
    [
        ("mc", "card", "Mastercard"),
        ("visa_applepay", "wallet", "Apple Pay"),
        ("mc_paywithgoogle", "wallet", "Google Pay"),
        ("paypal", "wallet", "PayPal"),
        ("sepadirectdebit", "bank_debit", "SEPA"),
        ("directdebit_GB", "bank_debit", "Bacs"),
        ("facilypay_3x", "facilypay_3x", None),
    ],
)
def test_the_kind_of_a_method(name: str, kind: str, brand: str | None) -> None:
    method = payment(make_item(paymentMethod=name, reason="null")).method
    assert method == Method(kind, brand)


def test_a_refused_payment_has_failed_and_says_why_and_the_order_stays_as_it_is() -> None:
    about = {"refusalReasonRaw": "05 : Do not honor", "shopperEmail": "ben@example.com"}
    snapshot = refetched(make_item(success="false", reason="Refused", about=about))
    (found,), (order,) = snapshot.payments, snapshot.orders
    assert (found.status, found.failure) == ("failed", Failure("05 : Do not honor", "Refused"))
    assert "status" not in knows(order)


def test_a_later_success_wins_over_a_refusal_whatever_comes_first() -> None:
    refused = refetched(make_item(success="false", eventDate="2026-11-24T08:30:00+01:00"))
    authorised = refetched(make_item(eventDate="2026-11-24T08:30:01+01:00"))
    assert refused.payments[0].remote_id == authorised.payments[0].remote_id
    assert refused.as_of < authorised.as_of


def test_a_date_in_the_future_is_not_believed() -> None:
    assert refetched(make_item(eventDate="2031-01-01T00:00:00+01:00")).as_of == NOW


def test_a_missing_date_is_the_moment_of_arrival() -> None:
    snapshot = refetched(make_item(eventDate=None))
    assert snapshot.as_of == NOW
    assert "created_at" not in knows(snapshot.payments[0])


def test_a_check_over_nothing_is_no_payment_and_no_order() -> None:
    item = make_item(amount={"value": 0, "currency": "EUR"}, about={"shopperReference": "c-7"})
    snapshot = refetched(item, stored(METHOD))
    assert (snapshot.payments, snapshot.orders, snapshot.subscriptions) == ((), (), ())
    assert [one.email for one in snapshot.customers] == ["ana@example.com"]


# Amounts


@pytest.mark.parametrize(
    ("value", "currency", "minor"),
    [
        (1130, "EUR", 1130),
        (5000, "JPY", 5000),
        (12500, "KWD", 12500),
        (500000, "CLP", 5000),
        (15000, "ISK", 150),
        (20000, "IDR", 2000000),
        (300, "CVE", 30000),
    ],
)
def test_adyen_has_four_exponents_of_its_own(value: int, currency: str, minor: int) -> None:
    money = Money(minor, currency)
    assert payment(make_item(amount={"value": value, "currency": currency})).amount == money
    assert _adyen.units(money) == value


def test_an_amount_that_adyen_cannot_say_is_not_rounded() -> None:
    with pytest.raises(Unsupported):
        _adyen.units(Money(2000050, "IDR"))
    with pytest.raises(ValueError, match="no payment"):
        Adapter.read("payment", make_item(amount={"value": 15055, "currency": "ISK"}))


# Subscriptions


def test_a_renewal_makes_the_subscription_active_with_the_method_that_adyen_lists() -> None:
    snapshot = refetched(make_renewal(), stored(METHOD))
    (found,), (paid,), (person,) = snapshot.subscriptions, snapshot.payments, snapshot.customers
    assert (found.remote_id, found.status, found.due) == ("c-7", "active", None)
    assert "due" in knows(found)
    assert found.method == Method("card", "Visa", "1111", "2030-03", METHOD["id"])
    assert not {"next_payment", "interval", "current_period_end"} & knows(found)
    assert (paid.subscription, paid.customer) == ("c-7", "c-7")
    assert (person.remote_id, person.email) == ("c-7", "ana@example.com")
    assert snapshot.orders == ()


def test_a_refused_renewal_is_past_due_and_its_amount_is_open() -> None:
    (found,) = refetched(make_renewal(success="false", reason="Refused"), stored(METHOD)).subscriptions
    assert (found.status, found.due, found.amount) == (
        "past_due",
        Money(1130, "EUR"),
        Money(1130, "EUR"),
    )


def test_a_refused_first_checkout_is_no_subscription() -> None:
    item = make_renewal(success="false", about={"shopperInteraction": "Ecommerce"})
    assert refetched(item).subscriptions == ()


def test_a_charge_of_a_method_that_is_gone_has_ended() -> None:
    (found,) = refetched(make_renewal(), stored()).subscriptions
    assert (found.status, found.due) == ("cancelled", None)


def test_a_charge_with_the_schemes_own_reference_goes_on_without_a_stored_method() -> None:
    item = make_renewal(about={"tokenization.storedPaymentMethodId": None})
    (found,) = refetched(item, stored()).subscriptions
    assert found.status == "active"


def test_a_card_kept_for_one_click_makes_no_subscription() -> None:
    item = make_renewal(about={"recurringProcessingModel": "CardOnFile", "shopperInteraction": "Ecommerce"})
    snapshot = refetched(item)
    assert snapshot.subscriptions == ()
    assert "subscription" not in knows(snapshot.payments[0])


def fetched(ref: Ref, *answers: httpx.Response) -> SubscriptionRecord:
    adapter, _ = make_adapter(*answers)
    return asyncio.run(adapter.fetch(ref)).subscriptions[0]


def make_ref(token: str | None = METHOD["id"], **known: Any) -> Ref:
    method = Method("card", "Visa", "1111", "2030-03", token)
    record = SubscriptionRecord(remote_id="c-7", status="active", method=method, **known)
    return Ref("subscription", "c-7", record)


OTHER = METHOD | {"id": "ZZZZZZZZZZZZZZZZ", "brand": "mc", "createdAt": "2026-11-01T10:00:00+01:00"}
ONE_CLICK = METHOD | {"id": "CCCCCCCCCCCCCCCC", "supportedRecurringProcessingModels": ["CardOnFile"]}


@pytest.mark.parametrize(
    ("ref", "methods", "status", "token"),
    [
        (make_ref(), [METHOD, OTHER], None, METHOD["id"]),
        (make_ref(), [OTHER], None, OTHER["id"]),
        (make_ref(), [], "cancelled", None),
        (make_ref(), [ONE_CLICK], "cancelled", None),
        (make_ref(None), [], None, None),
        (Ref("subscription", "c-7"), [METHOD], None, METHOD["id"]),
        (Ref("subscription", "c-7"), [METHOD, OTHER], None, None),
    ],
)
def test_what_is_stored_tells_the_method_and_the_end_and_no_other_state(
    ref: Ref, methods: list[dict[str, Any]], status: str | None, token: str | None
) -> None:
    found = fetched(ref, stored(*methods))
    assert (found.status, found.method.remote_id if found.method else None) == (status, token)
    assert ("status" in knows(found)) == (status is not None)


def test_of_a_stranger_without_anything_stored_nothing_is_known() -> None:
    for kind in ("subscription", "customer"):
        adapter, _ = make_adapter(stored())
        with pytest.raises(Gone):
            asyncio.run(adapter.fetch(Ref(kind, "c-7")))


def test_a_list_that_says_nothing_at_all_is_empty_and_one_of_nobody_is_not_believed() -> None:
    assert fetched(make_ref(), httpx.Response(200, json={})).status == "cancelled"
    assert fetched(make_ref(), refusal(422, "800", "Contract not found")).status == "cancelled"
    nobodys: list[Any] = [
        *({"storedPaymentMethods": []}, {"shopperReference": "c-8", "storedPaymentMethods": []}, []),
    ]
    for said in nobodys:
        with pytest.raises(Unavailable):
            fetched(make_ref(), httpx.Response(200, json=said))


def test_the_shopper_is_asked_for_in_the_query_and_may_have_any_name() -> None:
    adapter, wire = make_adapter(stored(METHOD, shopper="a/b&c?d é"))
    asyncio.run(adapter.fetch(Ref("subscription", "a/b&c?d é")))
    assert dict(wire.asked[0].url.params) == {"merchantAccount": "ShopNL", "shopperReference": "a/b&c?d é"}
    assert wire.asked[0].url.path == "/v72/storedPaymentMethods"


@pytest.mark.parametrize("wrong", ["../../paymentLinks", "", 7, None])
def test_a_stored_method_without_a_readable_id_stands_in_no_path_and_is_not_gone(wrong: Any) -> None:
    adapter, wire = make_adapter(stored(METHOD, METHOD | {"id": wrong}))
    with pytest.raises(Unavailable) as caught:
        asyncio.run(adapter.cancel_now(make_ref(), "key"))
    assert not caught.value.sent
    assert [request.method for request in wire.asked] == ["GET"]


@pytest.mark.parametrize("status", [404, 410])
def test_an_address_that_is_not_there_is_no_sign_that_nothing_is_stored(status: int) -> None:
    with pytest.raises(Unavailable):
        fetched(make_ref(), refusal(status, "173"))


# Where it is asked


def test_a_test_account_is_asked_at_the_one_test_host() -> None:
    adapter, wire = make_adapter(stored(METHOD))
    asyncio.run(adapter.fetch(make_ref()))
    assert wire.asked[0].url.host == TEST
    assert wire.asked[0].headers["x-api-key"] == CREDENTIALS["api_key"]


def test_a_live_account_is_asked_at_the_host_of_its_prefix() -> None:
    adapter, wire = make_adapter(stored(METHOD), live_prefix="1797a841fbb37ca7-AdyenDemo")
    asyncio.run(adapter.fetch(make_ref()))
    assert wire.asked[0].url.host == "1797a841fbb37ca7-adyendemo-checkout-live.adyenpayments.com"
    assert wire.asked[0].url.path == "/checkout/v72/storedPaymentMethods"


@pytest.mark.parametrize("prefix", ["evil.example/", "a@b", "a#", "x" * 49, "-a", "a-", "a b", "a.b"])
def test_a_prefix_that_is_none_reaches_no_host(prefix: str) -> None:
    adapter, wire = make_adapter(stored(METHOD), live_prefix=prefix)
    with pytest.raises(Unavailable, match="prefix"):
        asyncio.run(adapter.fetch(make_ref()))
    assert wire.asked == []


def test_the_host_of_the_facts_is_what_a_stand_in_replaces() -> None:
    assert {TEST, LIVE, *MANAGEMENT.values()} == set(facts("adyen").hosts.calls)
    live = make_gateway("adyen", {**CREDENTIALS, "live_prefix": "a1-Shop"}, simulator="http://127.0.0.1:9")
    assert live.base(LIVE) == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://test.adyen.link/CS9BDC4A59E7DE0D25D", True),
        ("https://eu.adyen.link/PL61C53A8B97E6915A", True),
        ("https://adyen.link.evil.example/PL1", False),
        ("http://test.adyen.link/PL1", False),
    ],
)
def test_a_customer_is_sent_to_adyens_pages_alone(url: str, allowed: bool) -> None:
    assert facts("adyen").allows_link(url) == allowed


# Errors


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(401, "000"), Unavailable),
        (refusal(403, "010"), Unavailable),
        (refusal(404, "173"), Gone),
        (refusal(422, "803"), Gone),
        (refusal(422, "130"), Declined),
        (refusal(429, "999"), Unavailable),
        (refusal(500, "905"), Unavailable),
        (httpx.Response(302, headers={"location": "https://evil.example"}), Unavailable),
    ],
)
def test_every_refusal_is_one_of_the_five(answer: httpx.Response, error: type[Exception]) -> None:
    adapter, _ = make_adapter(answer)
    with pytest.raises(error) as caught:
        asyncio.run(adapter.pay_now(make_ref(due=Money(1130, "EUR")), "https://a.example/r", "key"))
    assert CREDENTIALS["api_key"] not in str(vars(caught.value))


@pytest.mark.parametrize("status", [409, 422])
def test_a_request_that_is_still_being_answered_is_asked_for_again(status: int) -> None:
    adapter, _ = make_adapter(refusal(status, "704", "request already processed or in progress"))
    with pytest.raises(Unavailable) as caught:
        asyncio.run(adapter.pay_now(make_ref(due=Money(1130, "EUR")), "https://a.example/r", "key"))
    assert (caught.value.sent, caught.value.retry_after) == (True, 5.0)


def test_what_somebody_else_has_deleted_meanwhile_is_no_failure() -> None:
    adapter, wire = make_adapter(stored(METHOD, OTHER), refusal(422, "803"), httpx.Response(204), stored())
    snapshot = asyncio.run(adapter.cancel_now(make_ref(), "key"))
    assert snapshot.subscriptions[0].status == "cancelled"
    assert [request.method for request in wire.asked] == ["GET", "DELETE", "DELETE", "GET"]


@pytest.mark.parametrize("answer", [refusal(429, "999"), refusal(422, "905_1"), refusal(401, "000")])
def test_a_cancel_that_stops_half_way_may_have_had_its_effect(answer: httpx.Response) -> None:
    adapter, _ = make_adapter(stored(METHOD, OTHER), httpx.Response(204), answer)
    with pytest.raises(Unavailable) as caught:
        asyncio.run(adapter.cancel_now(make_ref(), "key"))
    assert caught.value.sent


def test_a_cancel_leaves_cards_that_only_the_shopper_can_use() -> None:
    adapter, wire = make_adapter(stored(METHOD, ONE_CLICK), httpx.Response(204), stored(ONE_CLICK))
    assert asyncio.run(adapter.cancel_now(make_ref(), "key")).subscriptions[0].status == "cancelled"
    assert wire.asked[1].url.path == f"/v72/storedPaymentMethods/{METHOD['id']}"


def test_a_return_without_what_was_stored_before_asks_the_merchant_for_nothing() -> None:
    adapter, _ = make_adapter(stored(METHOD, OTHER))
    snapshot = asyncio.run(adapter.finish_method_update(make_ref(), {"session": "CS1"}, {}))
    assert snapshot.ask == ""


def test_of_several_new_methods_the_newest_is_asked_for() -> None:
    newer = OTHER | {"id": "NNNNNNNNNNNNNNNN", "createdAt": "2026-11-24T08:59:00+01:00"}
    adapter, _ = make_adapter(stored(newer, METHOD, OTHER))
    state = {"session": "CS1", "before": METHOD["id"]}
    snapshot = asyncio.run(adapter.finish_method_update(Ref("subscription", "c-7"), state, {}))
    assert "NNNNNNNNNNNNNNNN" in snapshot.ask
    assert snapshot.subscriptions[0].method == Method("card", "Visa", "1111", "2030-03", METHOD["id"])


# Reading one object


PAYLOADS = SHARED / "payloads" / "adyen"
with_payloads = pytest.mark.skipif(not PAYLOADS.exists(), reason="Adyen's own samples are not here")


def sample(name: str) -> Any:
    return json.loads((PAYLOADS / f"{name}.json").read_text())


@with_payloads
@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("event_AUTHORISATION", "payment", ("QFQTPCQ8HXSKGK82", "paid", 1000)),
        ("event_CANCELLATION", "payment", ("9913140798220028", "cancelled", None)),
        ("event_AUTHORISATION", "order", ("YOUR_MERCHANT_REFERENCE", "paid", 1000)),
        ("event_REFUND", "refund", ("QFQTPCQ8HXSKGK82", "failed", 1000)),
        ("event_REFUND_FAILED", "refund", ("QFQTPCQ8HXSKGK82", "failed", 1000)),
        (
            "api_post-payments-paymentPspReference-refunds-refund-201",
            "refund",
            ("993617894906488A", "pending", 2500),
        ),
        ("api_get-paymentLinks-linkId-basic-200", "order", ("shopper-reference-ekvL83", "open", 8700)),
        ("api_patch-paymentLinks-linkId-basic-200", "order", ("shopper-reference-ekvL83", "expired", 8700)),
        ("sdkmock_checkout_paymentlinks-success", "order", ("YOUR_ORDER_NUMBER", "open", 1250)),
    ],
)
def test_adyens_own_samples_are_read(name: str, kind: Any, said: tuple[str, str, int | None]) -> None:
    record: Any = Adapter.read(kind, sample(name))
    assert (record.remote_id, record.status, record.amount.minor if record.amount else None) == said


@with_payloads
def test_adyens_list_of_stored_methods_is_read() -> None:
    listed = sample("api_get-storedPaymentMethods-success-200")
    subscription, customer = Adapter.read("subscription", listed), Adapter.read("customer", listed)
    assert isinstance(subscription, SubscriptionRecord)
    assert subscription.remote_id == "YOUR_SHOPPER_REFERENCE"
    assert subscription.method == Method("card", "Visa", "1111", "2030-10", "7219687191761347")
    assert isinstance(customer, CustomerRecord)
    assert customer.email == "john.smith@example.com"
    one = Adapter.read("subscription", sample("api_post-storedPaymentMethods-encrypted-card-details-201"))
    assert isinstance(one, SubscriptionRecord)
    assert one.method == Method(
        "scheme", None, "1111", "2030-03", "KHQC5N7G84BLNK43"
    ) or one.method == Method("card", None, "1111", "2030-03", "KHQC5N7G84BLNK43")


@with_payloads
@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("event_AUTHORISATION", Ref("payment", "QFQTPCQ8HXSKGK82")),
        ("event_CANCELLATION", Ref("payment", "9913140798220028")),
        ("event_RECURRING_CONTRACT", Ref("subscription", "YOUR_SHOPPER_REFERENCE")),
        ("event_REFUND", Ref("refund", "QFQTPCQ8HXSKGK82")),
        ("event_REPORT_AVAILABLE", None),
        ("event_recurring.token.created", Ref("subscription", "YOUR_SHOPPER_REFERENCE")),
    ],
)
def test_adyens_own_webhooks_are_read(name: str, subject: Ref | None) -> None:
    said = sample(name)
    events = Adapter.read("event", said)
    assert isinstance(events, list)
    assert [event.subject for event in events] == [subject]
    assert events[0].type in (said.get("type"), name.removeprefix("event_"))
    assert events[0].occurred_at is not None


def test_an_item_is_read_bare_and_in_both_of_its_envelopes() -> None:
    item = make_renewal()
    wrapped = {"NotificationRequestItem": item}
    for said in (item, wrapped, {"live": "true", "notificationItems": [wrapped]}):
        found = Adapter.read("payment", said)
        assert isinstance(found, PaymentRecord)
        assert (found.email, found.subscription) == ("ana@example.com", "c-7")
        whole = Adapter.read("subscription", said)
        assert isinstance(whole, SubscriptionRecord)
        assert (whole.status, whole.email, whole.customer) == ("active", "ana@example.com", "c-7")


@pytest.mark.parametrize(
    ("result", "status"),
    [
        ("Authorised", "paid"),
        ("Refused", "failed"),
        ("Error", "failed"),
        ("Cancelled", "cancelled"),
        ("Pending", "pending"),
        ("Received", "pending"),
        ("RedirectShopper", "pending"),
        ("ChallengeShopper", "pending"),
        ("ANewWord", None),
    ],
)
def test_the_answer_to_a_payment_is_read(result: str, status: str | None) -> None:
    said = {
        "pspReference": PSP,
        "resultCode": result,
        "amount": {"value": 1000, "currency": "EUR"},
        "merchantReference": "order-42",
        "paymentMethod": {"type": "scheme", "brand": "visa"},
    }
    found = payment(said)
    assert (found.status, found.raw_status, found.amount) == (status, result, Money(1000, "EUR"))
    assert (found.method, found.order) == (Method("card", "Visa"), "order-42")


@pytest.mark.parametrize("kind", ["customer", "order", "subscription", "payment", "refund", "event"])
@pytest.mark.parametrize("said", [None, [], "text", 7, {}, {"notificationItems": []}, {"id": "x"}])
def test_what_is_no_such_object_is_said_so(kind: Any, said: Any) -> None:
    with pytest.raises(ValueError, match=r"Adyen|webhook"):
        Adapter.read(kind, said)


def test_there_are_no_invoices() -> None:
    with pytest.raises(Unsupported):
        Adapter.read("invoice", make_item())


def test_records_have_the_sorts_of_their_kinds() -> None:
    assert isinstance(Adapter.read("order", make_item()), OrderRecord)
    assert isinstance(Adapter.read("refund", make_follow("REFUND")), RefundRecord)
