"""The PayFast simulator, met as a shop's server and a buyer's browser meet PayFast.

Signatures are worked out here once more, by hand from the documents' rules; two published samples hold both to them.
"""

import copy
import csv
import hashlib
import io
import json
import pickle
import re
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import httpx2 as httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.testclient import TestClient

from portal.gateways import facts
from portal.gateways.base import BadSignature
from portal.gateways.payfast import Adapter
from seeds.simulators import payfast
from seeds.simulators.harness import Forgery, Harness, Sample, Servers, Situation, simulator
from seeds.simulators.payfast import Merchant, Simulator, validator
from tests.conftest import SHARED

SPECS = SHARED / "specs" / "payfast"
LIVE = ("10012345", "k3y0f1ive0001", "Tea & Sugar ~ 2026")
SANDBOX = ("10000100", "46f0cd694581a", "jt7NOE43FZPn")
SHOP = "https://shop.example/itn"
NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)  # noon in South Africa

ITN_FIELDS = [
    *("m_payment_id", "pf_payment_id", "payment_status", "item_name", "item_description"),
    *("amount_gross", "amount_fee", "amount_net"),
    *("custom_str1", "custom_str2", "custom_str3", "custom_str4", "custom_str5"),
    *("custom_int1", "custom_int2", "custom_int3", "custom_int4", "custom_int5"),
    *("name_first", "name_last", "email_address", "merchant_id"),
]


class Clock:
    def __init__(self) -> None:
        self.at = NOW

    def __call__(self) -> datetime:
        return self.at


def php(text: str) -> str:
    """PHP's urlencode, byte by byte."""
    return "".join(
        chr(byte)
        if chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in "-_.")
        else "+"
        if byte == 0x20
        else f"%{byte:02X}"
        for byte in text.encode()
    )


def digest(pairs: list[tuple[str, str]]) -> str:
    return hashlib.md5("&".join(f"{name}={php(value)}" for name, value in pairs).encode()).hexdigest()


def sign_call(fields: Mapping[str, str], passphrase: str) -> str:
    return digest(sorted({**fields, "passphrase": passphrase}.items()))


class Shop:
    """A merchant's server: signs calls to the API."""

    def __init__(self, client: TestClient, credentials: tuple[str, str, str], sandbox: bool = False) -> None:
        self.client = client
        self.merchant_id, _, self.passphrase = credentials
        self.sandbox = sandbox
        self.timestamp = "2026-11-20T12:00:00"

    def headers(self, query: Mapping[str, str], body: Mapping[str, Any]) -> dict[str, str]:
        sent = {"merchant-id": self.merchant_id, "version": "v1", "timestamp": self.timestamp}
        plain = {name: str(int(v)) if isinstance(v, bool) else str(v) for name, v in body.items()}
        return {**sent, "signature": sign_call({**sent, **query, **plain}, self.passphrase)}

    def __call__(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        as_json: bool = False,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        query = query or {}
        signed = {**self.headers(query, body or {}), **(headers or {})}
        return self.client.request(
            method,
            path,
            params={**query, **({"testing": "true"} if self.sandbox else {})},
            headers={name: value for name, value in signed.items() if value},
            json=body if as_json else None,
            data=dict(body) if body and not as_json else None,
        )

    def fetch(self, token: str) -> dict[str, Any]:
        answer = self("GET", f"/subscriptions/{token}/fetch")
        assert answer.status_code == 200, answer.text
        response: dict[str, Any] = answer.json()["data"]["response"]
        return response


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sim(clock: Clock) -> Simulator:
    return Simulator(clock)


@pytest.fixture
def live(sim: Simulator) -> Merchant:
    return sim.add_account(*LIVE, notify_url=SHOP)


@pytest.fixture
def box(sim: Simulator) -> Merchant:
    return sim.add_account(*SANDBOX, notify_url=SHOP, sandbox=True)


@pytest.fixture
def client(sim: Simulator) -> Iterator[TestClient]:
    with TestClient(sim.app(), base_url="http://payfast.test", follow_redirects=False) as client:
        yield client


@pytest.fixture
def shop(client: TestClient, live: Merchant) -> Shop:
    return Shop(client, LIVE)


@pytest.fixture
def sandbox(client: TestClient, box: Merchant) -> Shop:
    return Shop(client, SANDBOX, sandbox=True)


def tea(account: Merchant, months: int = 3, **more: Any) -> str:
    """A monthly subscription that began on the 5th some months ago and is paid up."""
    year, month = divmod(2026 * 12 + 11 - 1 - months, 12)
    started = datetime(year, month + 1, 5, 8, 30, tzinfo=UTC)
    wanted = {"m_payment_id": "SO-7", "custom_str1": "2026-08-05", **more}
    return account.subscription("ada@example.org", "Ada", "Byron", 12_000, 3, "Tea club", started, **wanted)


def read(body: bytes) -> dict[str, str]:
    return dict(parse_qsl(body.decode(), keep_blank_values=True))


def itns(account: Merchant) -> list[dict[str, str]]:
    return [read(body) for body in account.itns]


# The rules of the signatures


def test_published_checkout_sample_is_signed_alike_by_rule_and_simulator() -> None:
    fields = {  # from the tests of PayFast's own PHP library, in another order than is signed
        "subscription_type": "1",
        "merchant_id": "10028084",
        "merchant_key": "4hjoenwbwnuso",
        "m_payment_id": "5",
        "amount": "5.00",
        "recurring_amount": "5",
        "billing_date": "2023-01-01",
        "frequency": "3",
        "cycles": "0",
        "custom_str1": "U29tZSBUZXN0IFN0cmluZw",
        "custom_int1": "1",
        "custom_int2": "1",
        "custom_str2": "QW5vdGhlciBUZXN0IFN0cmluZw",
        "item_name": "Test",
        "name_last": "Test",
        "name_first": "Test",
        "email_address": "test@test.com",
        "confirmation_address": "test@test.test",
        "email_confirmation": "1",
        "return_url": "https://test.com/billing/success",
        "cancel_url": "https://test.com/billing/cancel",
        "notify_url": "https://test.com/payfast/webhook",
    }
    expected = "3441682c5d8a65486f5b7cc8ce41d146"
    assert sign_checkout(fields, "payfastsandbox") == expected
    assert payfast.checkout_signature(fields, "payfastsandbox") == expected


def test_published_itn_sample_is_signed_with_its_blanks() -> None:
    given = {"m_payment_id": "1234", "pf_payment_id": "1221576", "payment_status": "COMPLETE"}
    given |= {"item_name": "Order#123", "amount_gross": "10.00", "amount_fee": "-0.23", "amount_net": "9.77"}
    given |= {"name_first": "First", "name_last": "Last", "email_address": "test@test.com"}
    given |= {"merchant_id": "10000100"}
    pairs = [(name, given.get(name, "")) for name in ITN_FIELDS]
    expected = "ac4c3e993d31b5b9d525dc0087051437"
    assert digest([*pairs, ("passphrase", SANDBOX[2])]) == expected
    assert payfast.itn_signature(pairs, SANDBOX[2]) == expected


def test_encoding_is_phps() -> None:
    assert php("a b~c/é*") == "a+b%7Ec%2F%C3%A9%2A"
    assert payfast.php_query([("x", "a b~c/é*")]) == "x=a+b%7Ec%2F%C3%A9%2A"


# Who may call


def test_ping_tells_live_from_sandbox_and_proves_no_passphrase(client: TestClient) -> None:
    assert client.get("/ping").json() == "Payfast API"
    assert client.get("/ping?testing=true").json() == "API V1"


def test_signed_call_is_answered_in_the_envelope(shop: Shop, live: Merchant) -> None:
    token = tea(live)
    answer = shop("GET", f"/subscriptions/{token}/fetch").json()
    assert answer["code"] == 200
    assert answer["status"] == "success"
    assert set(answer["data"]) == {"response", "message"}


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        ({"signature": ""}, 400, "Signature not present in headers"),
        ({"signature": "A" * 32}, 400, "Value for signature is not in the expected format"),
        ({"signature": "0" * 32}, 401, "Merchant authorisation failed"),
        ({"merchant-id": "10099999"}, 401, "Merchant not found"),
        ({"merchant-id": ""}, 400, "Required variables not present in request"),
        ({"timestamp": ""}, 400, "Required variables not present in request"),
        ({"version": "v2"}, 400, "API version is not valid"),
    ],
)
def test_wrong_headers_are_refused_in_payfasts_words(
    shop: Shop, headers: dict[str, str], status: int, message: str
) -> None:
    answer = shop("GET", "/transactions/history", headers=headers)
    assert answer.status_code == status
    assert answer.json() == {
        "code": status,
        "status": "failed",
        "data": {"response": False, "message": message},
    }


def test_wrong_passphrase_looks_like_a_wrong_signature(shop: Shop) -> None:
    shop.passphrase = LIVE[2].lower()
    answer = shop("GET", "/transactions/history")
    assert (answer.status_code, answer.json()["data"]["message"]) == (401, "Merchant authorisation failed")


def test_account_without_passphrase_has_no_api(client: TestClient, sim: Simulator) -> None:
    sim.add_account("10055555", "key", "")
    assert Shop(client, ("10055555", "key", ""))("GET", "/transactions/history").status_code == 401


def test_passphrase_is_sorted_in_its_place_and_not_put_last(shop: Shop) -> None:
    sent = {"merchant-id": LIVE[0], "version": "v1", "timestamp": shop.timestamp}
    last = digest([*sorted(sent.items()), ("passphrase", LIVE[2])])
    assert shop("GET", "/transactions/history", headers={"signature": last}).status_code == 401
    assert shop("GET", "/transactions/history").status_code == 200


def test_query_and_body_are_signed_and_testing_is_not(sandbox: Shop, box: Merchant, sim: Simulator) -> None:
    token = tea(box)
    assert (
        sandbox("GET", "/transactions/history", query={"from": "2026-11-01", "limit": "5"}).status_code == 200
    )
    assert sandbox("PUT", f"/subscriptions/{token}/pause", {"cycles": 2}).status_code == 200
    assert sandbox("PUT", f"/subscriptions/{token}/pause", {"cycles": 1}, as_json=True).status_code == 200
    unsigned = sandbox.headers({}, {})
    answer = sandbox.client.get("/transactions/history?testing=true&limit=5", headers=unsigned)
    assert answer.status_code == 401
    tampered = sandbox.client.put(
        f"/subscriptions/{token}/pause?testing=true", headers=unsigned, data={"cycles": "9"}
    )
    assert tampered.status_code == 401


def test_empty_values_are_left_out_of_the_signature(shop: Shop) -> None:
    signed = shop.headers({}, {})
    assert shop.client.get("/transactions/history?offset=", headers=signed).status_code == 400
    assert shop.client.get("/transactions/history?colour=", headers=signed).status_code == 200


def test_sandbox_account_is_unknown_to_live_and_the_other_way_round(shop: Shop, sandbox: Shop) -> None:
    shop.sandbox, sandbox.sandbox = True, False
    for one in (shop, sandbox):
        answer = one("GET", "/transactions/history")
        assert (answer.status_code, answer.json()["data"]["message"]) == (401, "Merchant not found")


@pytest.mark.parametrize(
    ("timestamp", "status"),
    [
        ("2026-11-20T12:00:00", 200),  # no offset: South African time
        ("2026-11-20T12:00:00+02:00", 200),
        ("2026-11-20T12:00:00+0200", 200),  # as PayFast's own PHP library sends it
        ("2026-11-20T10:20:00+00:00", 200),
        ("2026-11-20T10:00:00", 400),  # UTC without saying so is two hours off
        ("2026-11-20T12:45:00+02:00", 400),
        ("2026-11-20T12:00:00.123+02:00", 400),
        ("2026-11-31T12:00:00", 400),
        ("20 November 2026", 400),
    ],
)
def test_timestamp_is_iso_and_near(shop: Shop, timestamp: str, status: int) -> None:
    shop.timestamp = timestamp
    assert shop("GET", "/transactions/history").status_code == status


def test_origin_that_is_not_listed_is_refused(shop: Shop, live: Merchant) -> None:
    live.habits.refuses_origin = True
    answer = shop("GET", "/transactions/history")
    assert (answer.status_code, answer.json()["data"]["message"]) == (
        401,
        "Request origin could not be verified",
    )


def test_rate_limit_lasts_minutes(shop: Shop, live: Merchant, clock: Clock) -> None:
    live.limit()
    answer = shop("GET", "/transactions/history")
    assert answer.status_code == 429
    assert answer.json()["data"]["message"] == (
        "Signature rate limit reached, please try again in a few minute"
    )
    clock.at += timedelta(minutes=4)
    assert shop("GET", "/transactions/history").status_code == 429
    clock.at += timedelta(minutes=1)
    assert shop("GET", "/transactions/history").status_code == 200


@pytest.mark.parametrize("path", ["/ping", "/transactions/history"])
def test_one_shot_429_hits_one_call_and_keeps_the_next_fault(shop: Shop, sim: Simulator, path: str) -> None:
    sim.fail_next = ["429", "500"]
    shop.client.get("/eng/recurring/update/nobody")  # a page spends no fault
    assert [shop("GET", path).status_code for _ in range(3)] == [429, 500, 200]
    assert len(sim.calls) == 3


def test_validate_is_limited_too(client: TestClient, sim: Simulator) -> None:
    sim.fail_next = ["429"]
    assert client.post("/eng/query/validate", content=b"a=b").status_code == 429
    assert client.post("/eng/query/validate", content=b"a=b").text == "INVALID"


def test_outage_is_a_dead_front_or_a_failing_application(shop: Shop, sim: Simulator) -> None:
    sim.switch("down")
    answer = shop("GET", "/ping")
    assert answer.status_code == 503
    assert "html" in answer.headers["content-type"]
    sim.switch("ok")
    sim.fail_next = ["500"]
    answer = shop("GET", "/ping")
    assert (answer.status_code, answer.json()["data"]["message"]) == (500, "Application Error")


# Oddities of the paths


def test_slash_at_the_end_redirects_and_the_method_is_lost(shop: Shop, live: Merchant) -> None:
    token = tea(live)
    answer = shop("PUT", f"/subscriptions/{token}/cancel/", query={"limit": "1"})
    assert answer.status_code == 302
    assert answer.headers["location"] == f"/subscriptions/{token}/cancel?limit=1"
    followed = shop.client.put(f"/subscriptions/{token}/cancel/", follow_redirects=True)
    assert followed.status_code == 405
    assert followed.headers["allow"] == "PUT"
    assert live.get(token).state == "active"


def test_unknown_endpoint_and_foreign_token_are_not_found(shop: Shop, live: Merchant, sim: Simulator) -> None:
    other = tea(sim.add_account("10077777", "key", "other"))
    for path in ("/v1/ping", f"/subscriptions/{other}/fetch", "/subscriptions/nothing/fetch"):
        answer = shop("GET", path)
        assert answer.status_code == 404
        assert answer.json()["data"]["message"] == "Service / endpoint not found"
    with pytest.raises(KeyError):
        live.get(other)


def test_body_deeper_than_one_level_is_refused(shop: Shop, live: Merchant) -> None:
    token = tea(live)
    answer = shop.client.patch(
        f"/subscriptions/{token}/update", json={"amount": {"cents": 500}}, headers=shop.headers({}, {})
    )
    assert answer.status_code == 400


# Subscriptions


def test_fetch_shows_the_subscription_object_with_midnight_in_south_africa(
    shop: Shop, live: Merchant
) -> None:
    token = tea(live, months=3, cycles=12)
    assert shop.fetch(token) == {
        "amount": 12_000,
        "cycles": 12,
        "cycles_complete": 4,
        "frequency": 3,
        "run_date": "2026-12-05T00:00:00+02:00",
        "status": 1,
        "status_reason": "",
        "status_text": "ACTIVE",
        "token": token,
    }
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", token)


def test_agreement_shows_its_state_only(shop: Shop, live: Merchant) -> None:
    token = live.agreement("ada@example.org", "Ada", "Byron", "Saved card", NOW)
    assert shop.fetch(token) == {
        "status": 1,
        "status_reason": "",
        "status_text": "ACTIVE",
        "token": token,
    }


def test_true_is_text_in_live_and_a_boolean_in_the_sandbox(
    shop: Shop, sandbox: Shop, live: Merchant, box: Merchant
) -> None:
    for caller, account, expected in ((shop, live, "true"), (sandbox, box, True)):
        answer = caller("PUT", f"/subscriptions/{tea(account)}/cancel").json()
        assert answer == {
            "code": 200,
            "status": "success",
            "data": {"response": expected, "message": "Success"},
        }
    live.habits.text_booleans, box.habits.text_booleans = False, True
    for caller, account, expected in ((shop, live, True), (sandbox, box, "true")):
        answer = caller("PUT", f"/subscriptions/{tea(account)}/cancel").json()
        assert answer["data"]["response"] == expected
        assert type(answer["data"]["response"]) is type(expected)


def test_second_cancel_is_a_400_that_says_so(shop: Shop, live: Merchant) -> None:
    token = tea(live)
    assert shop("PUT", f"/subscriptions/{token}/cancel").status_code == 200
    assert shop.fetch(token)["status_text"] == "CANCELLED"
    again = shop("PUT", f"/subscriptions/{token}/cancel")
    assert again.status_code == 400
    assert again.json()["status"] == "failed"
    assert "already cancelled" in again.json()["data"]["message"]
    assert [one["payment_status"] for one in itns(live)].count("CANCELLED") == 1


def test_failures_may_come_with_http_200(shop: Shop, live: Merchant) -> None:
    live.habits.failures_with_200 = True
    token = tea(live)
    shop("PUT", f"/subscriptions/{token}/cancel")
    again = shop("PUT", f"/subscriptions/{token}/cancel")
    assert again.status_code == 200
    assert (again.json()["code"], again.json()["status"]) == (400, "failed")
    assert shop("GET", "/transactions/history", headers={"signature": "0" * 32}).status_code == 401


def test_account_that_refuses_changes_changes_nothing(shop: Shop, live: Merchant) -> None:
    token = tea(live)
    live.habits.refuses_changes = True
    before = copy.deepcopy(live.get(token))
    for method, action, body in (
        ("PUT", "cancel", None),
        ("PUT", "pause", {"cycles": 1}),
        ("PATCH", "update", {"amount": 700}),
    ):
        answer = shop(method, f"/subscriptions/{token}/{action}", body)
        assert (answer.status_code, answer.json()["data"]["response"]) == (400, 4)
    assert live.get(token) == before


def test_pause_moves_the_run_date_by_its_cycles_and_ends_by_itself(
    shop: Shop, live: Merchant, sim: Simulator, clock: Clock
) -> None:
    token = tea(live)
    paid = len(live.payments(token))
    assert shop("PUT", f"/subscriptions/{token}/pause", {"cycles": 2}).json()["data"]["response"] == "true"
    state = shop.fetch(token)
    assert state["run_date"] == "2027-02-05T00:00:00+02:00"
    assert state["status_text"] == "PAUSED"
    clock.at = datetime(2027, 2, 4, 12, tzinfo=UTC)
    sim.tick()
    assert len(live.payments(token)) == paid
    clock.at = datetime(2027, 2, 5, 12, tzinfo=UTC)
    sim.tick()
    assert len(live.payments(token)) == paid + 1
    assert live.get(token).state == "active"
    assert live.get(token).run_on == date(2027, 3, 5)


def test_pause_is_one_cycle_unless_told_and_is_not_idempotent(shop: Shop, live: Merchant) -> None:
    token = tea(live)
    shop("PUT", f"/subscriptions/{token}/pause")
    assert shop.fetch(token)["run_date"].startswith("2027-01-05")
    shop("PUT", f"/subscriptions/{token}/pause")
    assert shop.fetch(token)["run_date"].startswith("2027-02-05")
    assert shop("PUT", f"/subscriptions/{token}/pause", {"cycles": 0}).status_code == 400


def test_unpause_goes_back_to_the_old_schedule(shop: Shop, live: Merchant, clock: Clock) -> None:
    token = tea(live)
    assert shop("PUT", f"/subscriptions/{token}/unpause").status_code == 400
    shop("PUT", f"/subscriptions/{token}/pause", {"cycles": 6})
    shop("PUT", f"/subscriptions/{token}/unpause")
    assert shop.fetch(token)["run_date"].startswith("2026-12-05")
    assert shop.fetch(token)["status_text"] == "ACTIVE"
    shop("PUT", f"/subscriptions/{token}/pause", {"cycles": 6})
    clock.at = datetime(2027, 1, 10, 10, tzinfo=UTC)
    shop.timestamp = "2027-01-10T12:00:00"
    shop("PUT", f"/subscriptions/{token}/unpause")
    assert shop.fetch(token)["run_date"].startswith("2027-02-05")


def test_pause_on_a_locked_one_starts_charging_again(shop: Shop, live: Merchant, sim: Simulator) -> None:
    token = tea(live)
    live.lock(token)
    assert shop.fetch(token)["status_text"] == "LOCKED"
    assert live.get(token).run_on == date(2026, 11, 15)
    live.get(token).failing = False
    paid = len(live.itns)
    assert shop("PUT", f"/subscriptions/{token}/pause", {"cycles": 3}).status_code == 200
    sim.tick()
    assert len(live.itns) == paid + 1
    assert itns(live)[-1]["payment_status"] == "COMPLETE"
    assert live.get(token).run_on == date(2026, 12, 5)


def test_locked_one_can_be_cancelled_unless_the_account_refuses(shop: Shop, live: Merchant) -> None:
    token = tea(live)
    live.lock(token)
    live.habits.refuses_cancel_when_locked = True
    assert shop("PUT", f"/subscriptions/{token}/cancel").status_code == 400
    live.habits.refuses_cancel_when_locked = False
    assert shop("PUT", f"/subscriptions/{token}/cancel").status_code == 200


def test_update_sets_amount_frequency_cycles_and_date_for_the_next_charge(
    shop: Shop, live: Merchant, sim: Simulator, clock: Clock
) -> None:
    token = tea(live)
    change = {"amount": 15_050, "frequency": 4, "cycles": 8, "run_date": "2026-12-31"}
    assert shop("PATCH", f"/subscriptions/{token}/update", change, as_json=True).status_code == 200
    state = shop.fetch(token)
    assert (state["amount"], state["frequency"], state["cycles"]) == (15_050, 4, 8)
    assert state["run_date"] == "2026-12-31T00:00:00+02:00"
    clock.at = datetime(2026, 12, 31, 10, tzinfo=UTC)
    sim.tick()
    assert itns(live)[-1]["amount_gross"] == "150.50"
    assert live.get(token).run_on == date(2027, 3, 31)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"amount": 499},
        {"amount": "12.50"},
        {"frequency": 7},
        {"cycles": 2},  # four are complete
        {"run_date": "2026-11-19"},
        {"run_date": "31/12/2026"},
        {"amount": 600, "frequency": 9},
    ],
)
def test_update_that_cannot_be_is_refused_whole(shop: Shop, live: Merchant, change: dict[str, Any]) -> None:
    token = tea(live)
    before = shop.fetch(token)
    assert shop("PATCH", f"/subscriptions/{token}/update", change).status_code == 400
    assert shop.fetch(token) == before


def test_update_may_answer_the_object_or_leave_fields_unapplied(shop: Shop, live: Merchant) -> None:
    token = tea(live)
    live.habits.update_answers_object = True
    live.habits.update_ignores = ("frequency",)
    answer = shop("PATCH", f"/subscriptions/{token}/update", {"amount": 700, "frequency": 6})
    response = answer.json()["data"]["response"]
    assert (response["amount"], response["frequency"]) == (700, 3)


def test_sandbox_has_no_daily_or_weekly_frequency(
    sandbox: Shop, box: Merchant, shop: Shop, live: Merchant
) -> None:
    mine, theirs = tea(box), tea(live)
    assert sandbox("PATCH", f"/subscriptions/{mine}/update", {"frequency": 2}).status_code == 400
    assert sandbox("PATCH", f"/subscriptions/{mine}/update", {"frequency": 4}).status_code == 200
    assert shop("PATCH", f"/subscriptions/{theirs}/update", {"frequency": 2}).status_code == 200


def test_adhoc_charges_an_agreement_and_nothing_else(shop: Shop, live: Merchant, sim: Simulator) -> None:
    token = live.agreement("ada@example.org", "Ada", "Byron", "Saved card", NOW, custom_str2="kept")
    charge = {"amount": 2_550, "item_name": "Refill", "m_payment_id": "R-1"}
    answer = shop("POST", f"/subscriptions/{token}/adhoc", charge).json()
    assert answer["data"]["message"] == "Transaction was successful(00)"
    told = itns(live)[-1]
    assert told["pf_payment_id"] == answer["data"]["pf_payment_id"]
    assert (told["m_payment_id"], told["amount_gross"], told["custom_str2"]) == ("R-1", "25.50", "kept")
    assert told["token"] == token
    count = len(live.itns)
    assert shop("POST", f"/subscriptions/{token}/adhoc", {**charge, "itn": False}, True).status_code == 200
    assert len(live.itns) == count
    refused = shop("POST", f"/subscriptions/{tea(live)}/adhoc", charge)
    assert refused.status_code == 400
    assert refused.json()["data"] == {"response": 4, "message": "The subscription is not in a valid state."}
    sim.switch("decline")
    assert shop("POST", f"/subscriptions/{token}/adhoc", charge).status_code == 400
    assert live.payments(token)[-1].status == "FAILED"


# ITNs


def test_itn_has_all_fields_in_order_with_blanks_and_the_signature_last(live: Merchant) -> None:
    token = tea(live, months=0, custom_int3="42")
    pairs = parse_qsl(live.itns[0].decode(), keep_blank_values=True)
    assert [name for name, _ in pairs] == [*ITN_FIELDS, "token", "billing_date", "signature"]
    assert pairs[-1][1] == digest([*pairs[:-1], ("passphrase", LIVE[2])])
    told = dict(pairs)
    assert told["item_description"] == told["custom_str2"] == ""
    assert (told["custom_str1"], told["custom_int3"]) == ("2026-08-05", "42")
    assert (told["m_payment_id"], told["payment_status"], told["token"]) == ("SO-7", "COMPLETE", token)
    assert (told["amount_gross"], told["amount_fee"], told["amount_net"]) == ("120.00", "-7.68", "112.32")
    assert told["billing_date"] == "2026-11-05"
    assert told["email_address"] == "ada@example.org"


def test_one_off_itn_has_no_token(live: Merchant) -> None:
    number = live.payment("bob@example.org", "Bob van Dyk", 50_000, "Kettle ~ red", NOW, m_payment_id="K-1")
    told = itns(live)[0]
    assert list(told) == [*ITN_FIELDS, "signature"]
    assert (told["pf_payment_id"], told["name_first"], told["name_last"]) == (number, "Bob", "van Dyk")
    assert told["amount_fee"] == "-24.73"  # as in the documents' sample report
    assert b"Kettle+%7E+red" in live.itns[0]
    with pytest.raises(TypeError, match="colour"):
        live.payment("bob@example.org", "Bob", 50_000, "Kettle", NOW, colour="red")


def test_account_without_passphrase_signs_the_pairs_alone(sim: Simulator) -> None:
    plain = sim.add_account("10055555", "key", "", notify_url=SHOP)
    plain.payment("bob@example.org", "Bob", 50_000, "Kettle", NOW)
    pairs = parse_qsl(plain.itns[0].decode(), keep_blank_values=True)
    assert pairs[-1] == ("signature", digest(pairs[:-1]))


def test_renewals_repeat_the_checkouts_fields_under_a_new_payment_id(live: Merchant) -> None:
    token = tea(live, months=3)
    told = itns(live)
    assert [one["billing_date"] for one in told] == ["2026-08-05", "2026-09-05", "2026-10-05", "2026-11-05"]
    assert len({one["pf_payment_id"] for one in told}) == 4
    for name, value in (("m_payment_id", "SO-7"), ("custom_str1", "2026-08-05"), ("token", token)):
        assert {one[name] for one in told} == {value}


def test_cancelled_itn_follows_a_cancel_and_may_be_blank_or_missing(shop: Shop, live: Merchant) -> None:
    first = tea(live, months=0)
    shop("PUT", f"/subscriptions/{first}/cancel")
    told = itns(live)
    assert told[-1]["payment_status"] == "CANCELLED"
    assert (told[-1]["m_payment_id"], told[-1]["token"]) == ("SO-7", first)
    assert told[-1]["pf_payment_id"] != told[-2]["pf_payment_id"]
    assert told[-1]["amount_gross"] == "120.00"
    live.habits.blank_cancellations = True
    shop("PUT", f"/subscriptions/{tea(live, months=0)}/cancel")
    blank = itns(live)[-1]
    assert [blank[name] for name in ("pf_payment_id", "amount_gross", "amount_fee", "amount_net")] == [""] * 4
    assert blank["signature"] == digest([*list(blank.items())[:-1], ("passphrase", LIVE[2])])
    live.habits.notifies_cancellations = False
    count = len(live.itns)
    shop("PUT", f"/subscriptions/{tea(live, months=0, send=False)}/cancel")
    assert len(live.itns) == count


def test_cancel_leaves_no_payment_behind(shop: Shop, live: Merchant) -> None:
    token = tea(live, months=0)
    shop("PUT", f"/subscriptions/{token}/cancel")
    assert [one.status for one in live.payments(token)] == ["COMPLETE"]
    assert len(report(shop)) == 1


def test_buyer_cancels_at_payfast(shop: Shop, live: Merchant) -> None:
    token = tea(live)
    live.foreign_cancel(token)
    state = shop.fetch(token)
    assert (state["status_text"], state["status_reason"]) == ("CANCELLED", "Cancelled by the buyer")
    assert itns(live)[-1]["payment_status"] == "CANCELLED"
    count = len(live.itns)
    live.foreign_cancel(token)
    assert len(live.itns) == count


def test_trial_takes_nothing_at_first_and_charges_on_its_date(
    shop: Shop, live: Merchant, sim: Simulator, clock: Clock
) -> None:
    token = tea(live, months=0, billing_on=date(2026, 11, 30))
    state = shop.fetch(token)
    assert (state["cycles_complete"], state["run_date"][:10], state["amount"]) == (0, "2026-11-30", 12_000)
    assert itns(live)[0]["amount_gross"] == itns(live)[0]["amount_fee"] == "0.00"
    assert report(shop) == []
    clock.at = datetime(2026, 11, 30, 10, tzinfo=UTC)
    sim.tick()
    assert live.get(token).cycles_complete == 1
    assert itns(live)[-1]["amount_gross"] == "120.00"


@pytest.mark.parametrize("kind", ["form", "json"])
def test_trial_notice_comes_a_week_ahead_and_is_no_itn(
    client: TestClient, live: Merchant, sim: Simulator, clock: Clock, kind: Any
) -> None:
    live.habits.trial_notices = kind
    token = tea(live, months=0, billing_on=date(2026, 11, 30), initial_minor=0)
    clock.at = datetime(2026, 11, 22, 21, tzinfo=UTC)
    sim.tick()
    assert len(live.itns) == 1
    clock.at += timedelta(hours=2)
    sim.tick()
    sim.tick()
    assert len(live.itns) == 2
    notice = read(live.itns[1]) if kind == "form" else json.loads(live.itns[1])
    assert notice["type"] == "subscription.free-trial"
    assert notice["token"] == token
    assert (str(notice["initial_amount"]), str(notice["amount"])) == ("0", "12000")
    assert notice["next_run"] == "2026-11-30"
    assert "pf_payment_id" not in notice
    assert client.post("/eng/query/validate", content=live.itns[1]).text == "INVALID"


def test_no_trial_notice_unless_the_account_wants_it(live: Merchant, sim: Simulator, clock: Clock) -> None:
    tea(live, months=0, billing_on=date(2026, 11, 30))
    clock.at = datetime(2026, 11, 29, 10, tzinfo=UTC)
    sim.tick()
    assert len(live.itns) == 1


def test_validate_confirms_what_was_sent_and_nothing_else(client: TestClient, live: Merchant) -> None:
    tea(live, months=0)
    pairs = parse_qsl(live.itns[0].decode(), keep_blank_values=True)

    def ask(asked: list[tuple[str, str]]) -> str:
        answer = client.post(
            "/eng/query/validate",
            content=urlencode(asked).encode(),
            headers={"content-type": "application/x-www-form-urlencoded"},
        )
        assert answer.status_code == 200
        return str(answer.text)

    assert ask(pairs[:-1]) == "VALID"
    assert ask(pairs) == "INVALID"  # the signature stays at home
    assert ask([*pairs[:-1], ("passphrase", LIVE[2])]) == "INVALID"
    assert ask([pair for pair in pairs[:-1] if pair[1]]) == "INVALID"  # blanks are part of it
    forged = [(name, "1.00" if name == "amount_gross" else value) for name, value in pairs[:-1]]
    assert ask(forged) == "INVALID"
    assert ask([]) == "INVALID"


def test_held_back_itn_is_valid_only_once_it_was_sent(client: TestClient, live: Merchant) -> None:
    live.payment("bob@example.org", "Bob", 50_000, "Kettle", NOW, send=False)
    assert live.itns == []
    body = live.simulator.notifications[0].body
    asked = body.rsplit(b"&signature=", 1)[0]
    assert client.post("/eng/query/validate", content=asked).text == "INVALID"
    assert live.resend_all() == 1
    assert client.post("/eng/query/validate", content=asked).text == "VALID"


def test_itns_written_before_there_was_an_address_go_out_later(client: TestClient, sim: Simulator) -> None:
    quiet = sim.add_account("10066666", "key", "secret")
    tea(quiet, months=1)
    other = sim.add_account("10077777", "key", "other", notify_url=SHOP)
    tea(other, months=0)
    assert quiet.itns == []
    assert len(sim.itns) == 1
    quiet.notify_url = SHOP
    assert quiet.resend_all() == 2
    assert len(quiet.itns) == 2
    assert sim.resend_all() == 3


def test_deliveries_hand_over_headers_and_bodies_and_count_as_sent(
    client: TestClient, sim: Simulator
) -> None:
    quiet = sim.add_account("10066666", "key", "secret")
    tea(quiet, months=1)
    given = quiet.deliveries()
    assert [read(body)["billing_date"] for _, body in given] == ["2026-10-05", "2026-11-05"]
    assert dict(given[0][0])["content-type"] == "application/x-www-form-urlencoded"
    asked = given[0][1].rsplit(b"&signature=", 1)[0]
    assert client.post("/eng/query/validate", content=asked).text == "VALID"


# The clock


def test_tick_charges_every_cycle_that_came_due(
    shop: Shop, live: Merchant, sim: Simulator, clock: Clock
) -> None:
    token = tea(live, months=0)
    clock.at = datetime(2026, 12, 4, 21, 59, tzinfo=UTC)
    sim.tick()
    assert len(live.itns) == 1
    clock.at = datetime(2026, 12, 4, 22, 0, tzinfo=UTC)  # midnight in South Africa
    sim.tick()
    sim.tick()
    assert len(live.itns) == 2
    clock.at = datetime(2027, 2, 20, tzinfo=UTC)
    sim.tick()
    assert [one["billing_date"] for one in itns(live)[2:]] == ["2027-01-05", "2027-02-05"]
    assert live.get(token).cycles_complete == 4
    assert live.get(token).run_on == date(2027, 3, 5)


def test_api_call_lets_fall_due_what_is_due(shop: Shop, live: Merchant, clock: Clock) -> None:
    token = tea(live, months=0)
    clock.at = datetime(2026, 12, 6, 10, tzinfo=UTC)
    shop.timestamp = "2026-12-06T12:00:00"
    assert shop.fetch(token)["cycles_complete"] == 2


@pytest.mark.parametrize(
    ("frequency", "following"),
    [
        (1, ["2026-02-01", "2026-02-02"]),
        (2, ["2026-02-07", "2026-02-14"]),
        (3, ["2026-02-28", "2026-03-31"]),
        (4, ["2026-04-30", "2026-07-31"]),
        (5, ["2026-07-31", "2027-01-31"]),
        (6, ["2027-01-31", "2028-01-31"]),
    ],
)
def test_run_dates_keep_the_day_of_the_month(
    live: Merchant, sim: Simulator, clock: Clock, frequency: int, following: list[str]
) -> None:
    clock.at = datetime(2026, 1, 31, 10, tzinfo=UTC)
    live.subscription("ada@example.org", "Ada", "Byron", 600, frequency, "Tea", clock.at)
    clock.at = datetime.fromisoformat(f"{following[1]}T12:00:00+02:00")
    sim.tick()
    assert [one["billing_date"] for one in itns(live)[1:]] == following


def test_failing_card_is_tried_five_days_and_then_locked(
    shop: Shop, live: Merchant, sim: Simulator, clock: Clock
) -> None:
    token = tea(live, months=0, failing=True)
    paid = len(live.itns)
    for day in range(5):
        clock.at = datetime(2026, 12, 5 + day, 10, tzinfo=UTC)
        shop.timestamp = f"2026-12-{5 + day:02d}T12:00:00"
        sim.tick()
        state = shop.fetch(token)
        assert state["run_date"][:10] == "2026-12-05"
        assert state["status_text"] == ("ACTIVE" if day < 4 else "LOCKED")
        assert len([one for one in live.payments(token) if one.status == "FAILED"]) == day + 1
    clock.at += timedelta(days=30)
    sim.tick()
    assert len([one for one in live.payments(token) if one.status == "FAILED"]) == 5
    assert len(live.itns) == paid
    assert live.get(token).cycles_complete == 1


def test_failure_itn_only_where_the_account_gets_them(live: Merchant, sim: Simulator, clock: Clock) -> None:
    live.habits.notifies_failures = True
    tea(live, months=0, failing=True)
    clock.at = datetime(2026, 12, 5, 10, tzinfo=UTC)
    sim.tick()
    assert itns(live)[-1]["payment_status"] == "FAILED"


def test_decline_mode_fails_renewals(live: Merchant, sim: Simulator, clock: Clock) -> None:
    token = tea(live, months=0)
    sim.switch("decline")
    clock.at = datetime(2026, 12, 5, 10, tzinfo=UTC)
    sim.tick()
    assert live.payments(token)[-1].status == "FAILED"
    sim.switch("ok")
    clock.at += timedelta(days=1)
    sim.tick()
    assert live.payments(token)[-1].status == "COMPLETE"
    assert live.get(token).run_on == date(2027, 1, 5)


def test_builder_makes_a_card_that_failed_on_the_last_run_date(shop: Shop, live: Merchant) -> None:
    started = datetime(2026, 8, 18, 8, tzinfo=UTC)
    token = live.subscription("ada@example.org", "Ada", "Byron", 900, 3, "Tea", started, failing=True)
    state = shop.fetch(token)
    assert (state["status_text"], state["run_date"][:10]) == ("ACTIVE", "2026-11-18")
    assert state["cycles_complete"] == 3
    assert [one.status for one in live.payments(token)] == ["COMPLETE"] * 3 + ["FAILED"] * 3


def test_builder_locks_a_card_that_failed_long_ago(shop: Shop, live: Merchant) -> None:
    token = tea(live, months=2, failing=True)
    assert shop.fetch(token)["status_text"] == "LOCKED"


def test_subscription_ends_after_its_cycles(shop: Shop, live: Merchant, sim: Simulator, clock: Clock) -> None:
    token = tea(live, months=0, cycles=2)
    clock.at = datetime(2027, 3, 1, 10, tzinfo=UTC)
    sim.tick()
    shop.timestamp = "2027-03-01T12:00:00"
    state = shop.fetch(token)
    assert (state["cycles"], state["cycles_complete"]) == (2, 2)
    assert len(live.payments(token)) == 2
    assert shop("PUT", f"/subscriptions/{token}/cancel").status_code == 400


def test_words_for_states_can_be_others(shop: Shop, live: Merchant, sim: Simulator) -> None:
    sim.words["paused"] = (7, "Suspended")
    token = tea(live)
    shop("PUT", f"/subscriptions/{token}/pause")
    assert (shop.fetch(token)["status"], shop.fetch(token)["status_text"]) == (7, "Suspended")


# Payments, refunds, report


def test_process_query_knows_payments_and_tokens(shop: Shop, live: Merchant) -> None:
    number = live.payment("bob@example.org", "Bob", 3_600, "Kettle", NOW, m_payment_id="K-1")
    token = tea(live, months=0)
    assert shop("GET", f"/process/query/{number}").json()["data"]["response"] == {
        "pf_payment_id": int(number),
        "m_payment_id": "K-1",
        "status": "COMPLETE",
        "amount": 3_600,
        "cc_status": "00",
        "cc_message": "Approved or completed successfully (00)",
    }
    response = shop("GET", f"/process/query/{token}").json()["data"]["response"]
    assert response["amount"] == 12_000
    assert shop("GET", "/process/query/1").status_code == 404


def test_refunds_are_seen_and_made_in_live_only(
    shop: Shop, sandbox: Shop, live: Merchant, box: Merchant
) -> None:
    number = live.payment("bob@example.org", "Bob", 9_800, "Kettle", NOW - timedelta(days=2))
    live.refund(number, 1_000, NOW - timedelta(days=1))
    assert shop("GET", f"/refunds/{number}").json()["data"]["response"] == {
        "available_balance": 8_800,
        "transactions": [
            {"amount": 9_800, "date": "2026-11-18 12:00:00", "type": "Funds Received"},
            {"amount": "-1000", "date": "2026-11-19 12:00:00", "type": "Funds Received (Refund)"},
        ],
    }
    asked = shop("GET", f"/refunds/query/{number}").json()["data"]["response"]
    assert (asked["status"], asked["amount_original"], asked["amount_available_for_refund"]) == (
        "REFUNDABLE",
        9_800,
        8_800,
    )
    assert asked["refund_full"] == {"method": "NOT_AVAILABLE"}
    assert asked["refund_partial"] == {"method": "PAYMENT_SOURCE"}
    refund = {"amount": 8_800, "reason": "Out of stock", "notify_buyer": 1}
    assert shop("POST", f"/refunds/{number}", refund).status_code == 200
    assert shop("POST", f"/refunds/{number}", refund).status_code == 400
    assert shop("GET", f"/refunds/query/{number}").json()["data"]["response"]["status"] == "COMPLETED"
    with pytest.raises(ValueError, match="0 cents"):
        live.refund(number, 1)
    theirs = box.payment("bob@example.org", "Bob", 9_800, "Kettle", NOW)
    for path in (f"/refunds/{theirs}", f"/refunds/query/{theirs}"):
        assert sandbox("GET", path).status_code == 404
        assert shop("GET", path).status_code == 404


def test_refund_of_a_bank_payment_needs_a_bank(shop: Shop, live: Merchant) -> None:
    number = live.payment("bob@example.org", "Bob", 9_800, "Kettle", NOW, funding="EF")
    asked = shop("GET", f"/refunds/query/{number}").json()["data"]["response"]
    assert asked["refund_full"] == {"method": "BANK_PAYOUT"}
    refund: dict[str, Any] = {"amount": 800, "reason": "Out of stock", "notify_buyer": 1}
    assert shop("POST", f"/refunds/{number}", refund).status_code == 400
    refund |= {"bank_name": "FNB", "bank_branch_code": 111111}
    refund |= {"bank_account_number": 62000000000, "bank_account_type": "current"}
    assert shop("POST", f"/refunds/{number}", refund, True).status_code == 200


def report(shop: Shop, path: str = "", query: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    ever = {"from": "2020-01-01", "to": "2027-12-31"}
    answer = shop(
        "GET", f"/transactions/history{path}", query={**(ever if not path else {}), **(query or {})}
    )
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_report_has_the_columns_and_neither_address_nor_token(shop: Shop, live: Merchant) -> None:
    token = tea(live, months=0)
    number = live.payment("bob@example.org", "Bob Dyk", 2_500_000, "Sofa, red", NOW, description='3" legs')
    live.refund(number, 150_000, NOW + timedelta(minutes=1))
    answer = shop("GET", "/transactions/history", query={"from": "2026-11-01"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.text.splitlines()[0] == (
        "Date,Type,Sign,Party,Name,Description,Currency,Funding Type,Gross,Fee,Net,Balance,M Payment ID,"
        "PF Payment ID,custom str1,custom int1,custom str2,custom int2,custom str3,custom str4,custom str5,"
        "custom int3,custom int4,custom int5"
    )
    assert "@" not in answer.text
    assert token not in answer.text
    club, sofa, back = list(csv.DictReader(io.StringIO(answer.text)))
    assert (club["Date"], club["M Payment ID"], club["custom str1"]) == (
        "2026-11-05 10:30:00",
        "SO-7",
        "2026-08-05",
    )
    assert (sofa["Party"], sofa["Name"], sofa["Description"]) == ("Bob Dyk", "Sofa, red", '3" legs')
    assert (sofa["Gross"], sofa["Fee"], sofa["Net"]) == ("25,000.00", "-1,123.55", "23,876.45")
    assert sofa["Balance"] == "23,988.77"
    assert (back["Sign"], back["Gross"], back["Balance"]) == ("DEBIT", "-1,500.00", "22,488.77")
    assert '"25,000.00"' in answer.text


def test_report_is_cut_by_days_in_south_africa_and_by_limit_and_offset(shop: Shop, live: Merchant) -> None:
    late = datetime(2026, 10, 31, 22, 30, tzinfo=UTC)  # already November there
    live.payment("bob@example.org", "Bob", 600, "One", late - timedelta(hours=1))
    live.payment("bob@example.org", "Bob", 600, "Two", late)
    live.payment("bob@example.org", "Bob", 600, "Three", NOW)
    names = [row["Name"] for row in report(shop, query={"from": "2026-11-01", "to": "2026-11-30"})]
    assert names == ["Two", "Three"]
    assert [row["Name"] for row in report(shop, query={"limit": "1", "offset": "1"})] == ["Two"]
    assert [row["Name"] for row in report(shop, query={"limit": "5", "offset": "3"})] == []
    this_month = shop("GET", "/transactions/history")
    assert [row["Name"] for row in csv.DictReader(io.StringIO(this_month.text))] == ["Two", "Three"]
    assert [row["Name"] for row in report(shop, "/daily", {"date": "2026-10-31"})] == ["One"]
    assert [row["Name"] for row in report(shop, "/weekly", {"date": "2026-10-31"})] == [
        "One",
        "Two",
    ]
    assert [row["Name"] for row in report(shop, "/monthly", {"date": "2026-11"})] == [
        "Two",
        "Three",
    ]
    assert shop("GET", "/transactions/history", query={"from": "01/11/2026"}).status_code == 400


def test_report_may_come_inside_json_and_with_batches(shop: Shop, live: Merchant) -> None:
    tea(live, months=0)
    plain = shop("GET", "/transactions/history").text
    live.habits.history = "json"
    assert shop("GET", "/transactions/history").json() == {"response": plain}
    live.habits.history = "envelope"
    assert shop("GET", "/transactions/history").json()["data"]["response"] == plain
    live.habits.history, live.habits.batch_ids = "csv", True
    assert report(shop)[0]["Batch ID"] == "20261105"


def test_report_holds_the_accounts_own_rows_only(shop: Shop, live: Merchant, sim: Simulator) -> None:
    tea(sim.add_account("10077777", "key", "other"))
    tea(live, months=0, failing=True)
    assert len(report(shop)) == 1


# Pages


class Page(HTMLParser):
    """A document as a buyer and a screen reader find it."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(answer.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        self._open.remove(tag)

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def assert_accessible(self) -> None:
        assert self.all("html")[0]["lang"]
        assert self.texts["title"][0].strip()
        assert len(self.all("h1")) == 1
        assert len(self.all("main")) == 1
        assert self.texts["h1"][0].strip()
        labelled = {label["for"] for label in self.all("label")}
        assert labelled == {field["id"] for field in self.all("input")}
        assert not self.all("script")
        assert all(text.strip() for text in self.texts.get("button", []))


BACK = "https://portal.example/customers/return/abc?x=1&y=2"


def card_address(token: str, back: str = BACK) -> str:
    return f"/eng/recurring/update/{token}?return={quote(back, safe='')}"


def test_card_page_is_a_form_that_works_without_javascript(client: TestClient, live: Merchant) -> None:
    token = tea(live)
    answer = client.get(card_address(token))
    assert answer.status_code == 200
    found = Page(answer)
    found.assert_accessible()
    assert found.texts["button"] == ["Save card", "Let the bank refuse", "Cancel and go back"]
    assert {field["value"] for field in found.all("input")} == set(payfast.CARDS)
    assert found.texts["legend"] == ["Test card"]
    assert token not in answer.text
    assert "ada@example.org" not in answer.text


def test_saved_card_goes_back_without_any_result(client: TestClient, live: Merchant) -> None:
    token = tea(live)
    count = len(live.itns)
    answer = client.post(card_address(token), data={"card": "mastercard", "do": "save"})
    assert (answer.status_code, answer.headers["location"]) == (303, BACK)
    assert live.get(token).card == "Mastercard ending in 5100"
    assert len(live.itns) == count


def test_cancelling_on_the_card_page_goes_back_and_changes_nothing(
    client: TestClient, live: Merchant
) -> None:
    token = tea(live)
    answer = client.post(card_address(token), data={"card": "mastercard", "do": "back"})
    assert (answer.status_code, answer.headers["location"]) == (303, BACK)
    assert live.get(token).card == "Visa ending in 4242"


def test_new_card_lets_the_next_attempt_succeed(
    client: TestClient, live: Merchant, sim: Simulator, clock: Clock
) -> None:
    started = datetime(2026, 10, 19, 8, tzinfo=UTC)
    token = live.subscription("ada@example.org", "Ada", "Byron", 900, 3, "Tea", started, failing=True)
    client.post(card_address(token), data={"card": "visa", "do": "save"})
    clock.at += timedelta(days=1)
    sim.tick()
    assert live.payments(token)[-1].status == "COMPLETE"
    assert live.get(token).run_on == date(2026, 12, 19)


def test_daily_card_that_works_again_catches_up_at_once(
    client: TestClient, live: Merchant, sim: Simulator, clock: Clock
) -> None:
    token = live.subscription(
        "a@example.org", "A", "B", 600, 1, "Bread", NOW - timedelta(days=1), failing=True
    )
    clock.at += timedelta(days=2)
    sim.tick()
    client.post(card_address(token), data={"card": "visa", "do": "save"})
    clock.at += timedelta(days=1)
    sim.tick()
    last = live.payments(token)[-4:]
    assert [one.status for one in last] == ["COMPLETE"] * 4
    assert {one.at for one in last} == {datetime(2026, 11, 22, 22, tzinfo=UTC)}
    assert live.get(token).run_on == date(2026, 11, 24)


def test_card_that_is_saved_may_fail_later(client: TestClient, live: Merchant) -> None:
    token = tea(live)
    client.post(card_address(token), data={"card": "empty", "do": "save"})
    assert live.get(token).failing


@pytest.mark.parametrize(("card", "mode"), [("refused", "ok"), ("visa", "decline"), ("", "ok")])
def test_refused_card_stays_on_the_page_with_a_reason(
    client: TestClient, live: Merchant, sim: Simulator, card: str, mode: str
) -> None:
    token = tea(live)
    sim.switch(mode)
    answer = client.post(card_address(token), data={"card": card, "do": "save"})
    assert answer.status_code == 422
    found = Page(answer)
    found.assert_accessible()
    assert any(one.get("role") == "alert" for one in found.all("p"))
    assert found.texts["button"] == ["Save card", "Let the bank refuse", "Cancel and go back"]
    assert live.get(token).card == "Visa ending in 4242"


def test_card_page_without_return_address_ends_there(client: TestClient, live: Merchant) -> None:
    token = tea(live)
    assert Page(client.get(f"/eng/recurring/update/{token}")).texts["button"] == [
        "Save card",
        "Let the bank refuse",
        "Cancel",
    ]
    saved = client.post(f"/eng/recurring/update/{token}", data={"card": "visa", "do": "save"})
    assert saved.status_code == 200
    Page(saved).assert_accessible()


@pytest.mark.parametrize("back", ["javascript:alert(1)", "//evil.example/", "nowhere", "http://["])
def test_card_page_returns_to_web_addresses_only(client: TestClient, live: Merchant, back: str) -> None:
    token = tea(live)
    answer = client.post(card_address(token, back), data={"card": "visa", "do": "save"})
    assert answer.status_code == 400
    assert "location" not in answer.headers


def test_card_page_explains_where_there_is_none(client: TestClient, live: Merchant, box: Merchant) -> None:
    ended = tea(live)
    live.foreign_cancel(ended)
    for token, status in (("no-such-token", 404), (tea(box), 403), (ended, 409)):
        answer = client.get(card_address(token))
        assert answer.status_code == status
        Page(answer).assert_accessible()
        assert client.post(card_address(token), data={"card": "visa", "do": "save"}).status_code == status


def test_pages_are_spared_by_outages(client: TestClient, live: Merchant, sim: Simulator) -> None:
    token = tea(live)
    sim.switch("down")
    assert client.get(card_address(token)).status_code == 200
    assert sim.calls == []


def test_pages_escape_what_the_shop_wrote(client: TestClient, live: Merchant) -> None:
    token = live.subscription("a@example.org", "A", "B", 900, 3, "<b>Tea</b>", NOW)
    answer = client.get(card_address(token))
    assert "<b>" not in answer.text
    assert "&lt;b&gt;Tea" in answer.text


# Checkout


def sign_checkout(fields: Mapping[str, str], passphrase: str) -> str:
    numbers = range(1, 6)
    order = ["merchant_id", "merchant_key", "return_url", "cancel_url", "notify_url", "notify_method"]
    order += ["name_first", "name_last", "email_address", "cell_number"]
    order += ["m_payment_id", "amount", "item_name", "item_description"]
    order += [f"custom_int{n}" for n in numbers] + [f"custom_str{n}" for n in numbers]
    order += ["email_confirmation", "confirmation_address", "currency", "payment_method"]
    order += ["subscription_type", "billing_date", "recurring_amount", "frequency", "cycles"]
    order += [f"subscription_notify_{who}" for who in ("email", "webhook", "buyer")]
    pairs = [(name, fields[name].strip()) for name in order if fields.get(name, "").strip()]
    return digest([*pairs, ("passphrase", passphrase)])


def checkout(credentials: tuple[str, str, str] = LIVE, /, **more: str) -> dict[str, str]:
    merchant_id, merchant_key, passphrase = credentials
    fields = {
        "item_name": "Tea club ",
        "amount": "120.00",
        "merchant_key": merchant_key,
        "merchant_id": merchant_id,
        "return_url": "https://shop.example/thanks",
        "cancel_url": "https://shop.example/basket",
        "notify_url": "https://shop.example/own-itn",
        "name_first": "Ada",
        "name_last": "",
        "email_address": "ada@example.org",
        "m_payment_id": "SO-9",
        "custom_str1": "first",
        "custom_int1": "7",
        **more,
    }
    return {**fields, "signature": sign_checkout(fields, passphrase)}


def open_checkout(client: TestClient, fields: Mapping[str, str]) -> str:
    answer = client.post("/eng/process", data=dict(fields))
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


def test_checkout_takes_a_payment_tells_the_shop_and_goes_back(client: TestClient, live: Merchant) -> None:
    place = open_checkout(client, checkout())
    found = Page(client.get(place))
    found.assert_accessible()
    assert found.texts["button"] == ["Pay R120.00", "Let the bank refuse", "Cancel and go back"]
    answer = client.post(place, data={"card": "visa", "do": "save"})
    assert (answer.status_code, answer.headers["location"]) == (303, "https://shop.example/thanks")
    told = itns(live)[-1]
    assert (told["m_payment_id"], told["item_name"], told["amount_gross"]) == ("SO-9", "Tea club", "120.00")
    assert (told["custom_str1"], told["custom_int1"]) == ("first", "7")
    assert "token" not in told
    assert live.simulator.notifications[-1].url == "https://shop.example/own-itn"
    assert client.post(place, data={"card": "visa", "do": "save"}).status_code == 404
    assert len(live.payments()) == 1


def test_subscription_checkout_gives_a_token(shop: Shop, live: Merchant, client: TestClient) -> None:
    wanted = {"subscription_type": "1", "frequency": "3", "cycles": "12", "recurring_amount": "99.50"}
    place = open_checkout(client, checkout(**wanted))
    assert "Then R99.50 every month" in client.get(place).text
    client.post(place, data={"card": "visa", "do": "save"})
    told = itns(live)[-1]
    state = shop.fetch(told["token"])
    assert (state["amount"], state["frequency"], state["cycles"], state["cycles_complete"]) == (
        9_950,
        3,
        12,
        1,
    )
    assert state["run_date"][:10] == "2026-12-20"
    assert (told["amount_gross"], told["billing_date"]) == ("120.00", "2026-11-20")


def test_free_trial_checkout(shop: Shop, live: Merchant, client: TestClient) -> None:
    wanted = {"subscription_type": "1", "frequency": "6", "cycles": "0", "recurring_amount": "99.50"}
    place = open_checkout(client, checkout(**wanted, amount="0.00", billing_date="2026-12-20", item_name=""))
    client.post(place, data={"card": "empty", "do": "save"})
    told = itns(live)[-1]
    assert (told["amount_gross"], told["item_name"]) == ("0.00", "")
    assert shop.fetch(told["token"])["run_date"][:10] == "2026-12-20"
    assert live.get(told["token"]).failing


def test_agreement_checkout_works_with_an_amount_and_never_with_none(
    shop: Shop, live: Merchant, client: TestClient
) -> None:
    place = open_checkout(client, checkout(subscription_type="2", amount="5.00"))
    client.post(place, data={"card": "visa", "do": "save"})
    token = itns(live)[-1]["token"]
    assert "amount" not in shop.fetch(token)
    place = open_checkout(client, checkout(subscription_type="2", amount="0.00"))
    assert client.post(place, data={"card": "visa", "do": "save"}).status_code == 422
    assert len(live.itns) == 1


def test_checkout_can_be_left_or_refused(client: TestClient, live: Merchant, sim: Simulator) -> None:
    place = open_checkout(client, checkout())
    sim.switch("decline")
    refused = client.post(place, data={"card": "visa", "do": "save"})
    assert refused.status_code == 422
    Page(refused).assert_accessible()
    left = client.post(place, data={"do": "back"})
    assert (left.status_code, left.headers["location"]) == (303, "https://shop.example/basket")
    assert client.get(place).status_code == 404
    assert live.payments() == []


@pytest.mark.parametrize(
    "change",
    [
        {"merchant_id": "10099999"},
        {"merchant_key": "wrong"},
        {"amount": "4.99"},
        {"amount": "0.00"},
        {"amount": "12.345"},
        {"amount": "much"},
        {"item_name": ""},
        {"currency": "USD"},
        {"subscription_type": "3"},
        {"subscription_type": "1"},
        {"subscription_type": "1", "frequency": "7", "cycles": "0"},
        {"subscription_type": "1", "frequency": "3"},
        {"subscription_type": "1", "frequency": "3", "cycles": "0", "recurring_amount": "1.00"},
        {"subscription_type": "1", "frequency": "3", "cycles": "0", "billing_date": "soon"},
    ],
)
def test_checkout_form_with_a_fault_is_refused(
    client: TestClient, live: Merchant, change: dict[str, str]
) -> None:
    answer = client.post("/eng/process", data=checkout(**change))
    assert answer.status_code == 400
    Page(answer).assert_accessible()


def test_checkout_signature_follows_the_documented_order_and_drops_blanks(
    client: TestClient, live: Merchant
) -> None:
    fields = checkout()
    unsigned = {name: value for name, value in fields.items() if name != "signature"}
    alphabetical = digest(sorted({**unsigned, "passphrase": LIVE[2]}.items()))
    as_sent = digest([*unsigned.items(), ("passphrase", LIVE[2])])
    for signature in (alphabetical, as_sent, sign_checkout(unsigned, "wrong"), ""):
        assert client.post("/eng/process", data={**fields, "signature": signature}).status_code == 400
    open_checkout(client, fields)


def test_sandbox_checkout_has_no_weekly_subscription(client: TestClient, box: Merchant) -> None:
    weekly = checkout(SANDBOX, subscription_type="1", frequency="2", cycles="0")
    assert client.post("/eng/process", data=weekly).status_code == 400
    open_checkout(client, checkout(SANDBOX, subscription_type="1", frequency="3", cycles="0"))


# State


def test_state_is_remembered_put_back_and_pickled(shop: Shop, live: Merchant, sim: Simulator) -> None:
    token = tea(live)
    sim.save()
    shop("PUT", f"/subscriptions/{token}/cancel")
    live.habits.history = "json"
    live.notify_url = None
    live.payment("bob@example.org", "Bob", 50_000, "Kettle", NOW)
    sim.reset()
    assert live.get(token).state == "active"
    assert live.account.notify_url == SHOP
    assert report(shop)
    assert len(live.payments()) == len(live.itns) == 4
    sim.state = pickle.loads(pickle.dumps(sim.state))
    assert shop.fetch(token)["status_text"] == "ACTIVE"
    assert sim.account(LIVE[0]).get(token).token == token
    with pytest.raises(KeyError):
        sim.account("10099999")


def test_simulator_is_found_by_name() -> None:
    assert isinstance(simulator("payfast"), Simulator)


# Over the wire


class ShopServer(Harness):
    """A shop's ITN address on loopback."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived: list[tuple[str, bytes]] = []

    def routes(self) -> list[BaseRoute]:
        return [Route("/itn", self._take, methods=["POST"])]

    async def _take(self, request: Request) -> Response:
        self.arrived.append((request.headers["content-type"], await request.body()))
        return Response()

    def wait(self, count: int) -> list[bytes]:
        until = time.monotonic() + 10
        while len(self.arrived) < count and time.monotonic() < until:
            time.sleep(0.01)
        assert len(self.arrived) == count
        return [body for _, body in self.arrived]


@pytest.fixture
def served(sim: Simulator) -> Iterator[ShopServer]:
    server = ShopServer()
    with Servers([sim, server]):
        yield server


def test_itns_arrive_as_forms_in_their_order(sim: Simulator, served: ShopServer) -> None:
    account = sim.add_account(*LIVE, notify_url=f"{served.address}/itn")
    tea(account, months=2)
    assert served.wait(3) == account.itns
    assert {kind for kind, _ in served.arrived} == {"application/x-www-form-urlencoded"}


def test_duplicate_lost_and_reordered_itns(sim: Simulator, served: ShopServer) -> None:
    account = sim.add_account(*LIVE, notify_url=f"{served.address}/itn")
    sim.switch("lose_webhooks")
    tea(account, months=0)
    sim.switch("duplicate")
    account.payment("bob@example.org", "Bob", 600, "Twice", NOW)
    assert [read(body)["item_name"] for body in served.wait(2)] == ["Twice", "Twice"]
    sim.switch("reorder")
    for name in ("One", "Two", "Three"):
        account.payment("bob@example.org", "Bob", 600, name, NOW)
    assert [read(body)["item_name"] for body in served.wait(5)][2:] == ["Three", "Two", "One"]
    sim.switch("ok")
    account.resend_all()
    assert len(served.wait(10)) == 10


def test_call_without_length_is_refused_with_411(sim: Simulator, served: ShopServer) -> None:
    account = sim.add_account(*LIVE)
    token = tea(account, months=0)
    sent = {"merchant-id": LIVE[0], "version": "v1", "timestamp": "2026-11-20T12:00:00"}
    headers = {**sent, "signature": sign_call(sent, LIVE[2]), "host": "payfast.test", "connection": "close"}

    def put(extra: dict[str, str]) -> bytes:
        lines = [f"PUT /subscriptions/{token}/cancel HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in {**headers, **extra}.items()]
        port = int(sim.address.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), 10) as line:
            line.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
            return b"".join(iter(lambda: line.recv(4096), b"")).split(b"\r\n")[0]

    assert b" 411 " in put({})
    assert account.get(token).state == "active"
    assert b" 200 " in put({"content-length": "0"})
    assert account.get(token).state == "cancelled"


# The contract


CONTRACT = {  # the form of the project's own compilation, small
    "headers": ["merchant-id", "version", "timestamp", "signature"],
    "errors": {"400": "", "401": "", "404": "", "429": "", "500": ""},
    "itn_fields": [
        *("m_payment_id", "pf_payment_id", "payment_status", "item_name", "item_description"),
        *("amount_gross", "amount_fee", "amount_net", "custom_str1..5", "custom_int1..5"),
        *("name_first", "name_last", "email_address", "merchant_id", "token?", "billing_date?", "signature"),
    ],
    "operations": [
        {"op": "ping", "method": "GET", "path": "/ping", "response": "JSON string"},
        {
            "op": "subscription.fetch",
            "method": "GET",
            "path": "/subscriptions/{token}/fetch",
            "response": [
                *("amount:int cents", "cycles:int 0=endless", "cycles_complete:int", "frequency:1..6"),
                *(
                    "run_date:ISO date-time",
                    "status:int",
                    "status_reason:str",
                    "status_text:str",
                    "token:str",
                ),
            ],
        },
        {
            "op": "subscription.update",
            "method": "PATCH",
            "path": "/subscriptions/{token}/update",
            "body": ["cycles:int?", "frequency:int?", "run_date:YYYY-MM-DD?", "amount:int cents?"],
        },
        {
            "op": "history",
            "method": "GET",
            "path": "/transactions/history",
            "query": ["from:YYYY-MM-DD", "to:YYYY-MM-DD", "limit:int=1000", "offset:int"],
            "response": "CSV",
        },
        {
            "op": "refund.create",
            "method": "POST",
            "path": "/refunds/{pf_payment_id}",
            "body": ["amount:int cents", "reason", "notify_buyer", "bank_* only for BANK_PAYOUT"],
        },
    ],
}


@pytest.fixture
def checked(sim: Simulator, tmp_path: Path) -> Simulator:
    (tmp_path / "contract.json").write_text(json.dumps(CONTRACT))
    sim.validator = validator(tmp_path)
    return sim


def test_good_calls_raise_no_problem(checked: Simulator, shop: Shop, live: Merchant) -> None:
    token = tea(live)
    agreement = live.agreement("ada@example.org", "Ada", "Byron", "Saved card", NOW)
    number = live.payment("bob@example.org", "Bob", 9_800, "Kettle", NOW)
    shop("GET", "/ping")
    shop.fetch(token)
    shop.fetch(agreement)
    shop("PATCH", f"/subscriptions/{token}/update", {"amount": 700, "run_date": "2026-12-01"}, True)
    shop("GET", "/transactions/history", query={"from": "2026-01-01", "to": "2026-11-20", "offset": "0"})
    live.habits.history = "json"
    shop("GET", "/transactions/history")
    shop("POST", f"/refunds/{number}", {"amount": 800, "reason": "Broken", "notify_buyer": 1})
    shop("GET", "/transactions/history", headers={"signature": "0" * 32})
    assert checked.problems == []


@pytest.mark.parametrize(
    ("method", "path", "body", "query", "problem"),
    [
        ("GET", "/v1/ping", {}, {}, "GET /v1/ping is no operation of the contract."),
        ("PUT", "/subscriptions/T/archive", {}, {}, "PUT /subscriptions/T/archive is no operation"),
        ("GET", "/transactions/history", {}, {"page": "2"}, "history: the query has an unknown field page."),
        (
            "GET",
            "/transactions/history",
            {},
            {"from": "1 May"},
            "history: from in the query is not YYYY-MM-DD.",
        ),
        ("GET", "/transactions/history", {}, {"limit": "all"}, "history: limit in the query is not int."),
        ("PATCH", "/subscriptions/T/update", {"price": 5}, {}, "the body has an unknown field price."),
        ("PATCH", "/subscriptions/T/update", {"amount": "5.00"}, {}, "amount in the body is not int."),
        ("PATCH", "/subscriptions/T/update", {"amount": ""}, {}, "amount in the body is empty"),
        ("POST", "/refunds/1", {"amount": 5, "reason": "x"}, {}, "notify_buyer is missing in the body."),
    ],
)
def test_bad_request_is_told_as_a_sentence(
    checked: Simulator,
    shop: Shop,
    method: str,
    path: str,
    body: dict[str, Any],
    query: dict[str, str],
    problem: str,
) -> None:
    shop(method, path, body, query=query)
    assert any(problem in one for one in checked.problems), checked.problems


def test_missing_header_is_told(checked: Simulator, client: TestClient) -> None:
    client.get("/ping")
    assert "ping: the header signature is missing." in checked.problems


@pytest.mark.parametrize(
    ("path", "status", "said", "problem"),
    [
        ("/ping", 200, '{"ok": true}', "the answer is not a JSON string"),
        ("/ping", 418, '"Payfast API"', "the status 418 is not in the contract"),
        ("/transactions/history", 200, "Some;text", "neither JSON nor a report"),
        ("/subscriptions/T/fetch", 200, "[]", "the answer is not the envelope"),
        (
            "/subscriptions/T/fetch",
            200,
            '{"code": 200, "status": "fine", "data": {"response": null, "extra": 1}}',
            "data has unknown fields: extra",
        ),
        (
            "/subscriptions/T/fetch",
            200,
            '{"code": 200, "status": "success", "data": {"response": {"amount": "12.00", "plan": 1}}}',
            "plan is not in the contract",
        ),
    ],
)
def test_bad_answer_is_told_as_a_sentence(
    checked: Simulator, path: str, status: int, said: str, problem: str
) -> None:
    assert checked.validator is not None
    problems = checked.validator.answer("GET", path, status, said)
    assert any(problem in one for one in problems), problems


def test_answer_of_the_wrong_type_or_with_a_gap_is_told(checked: Simulator) -> None:
    assert checked.validator is not None
    said = '{"code": 200, "status": "success", "data": {"response": {"amount": "12.00", "frequency": 9}}}'
    problems = checked.validator.answer("GET", "/subscriptions/T/fetch", 200, said)
    assert "subscription.fetch: amount in the answer is not int." in problems
    assert "subscription.fetch: frequency in the answer is not 1..6." in problems
    assert "subscription.fetch: token is missing in the answer." in problems


def test_itn_out_of_order_or_with_a_gap_is_told(checked: Simulator) -> None:
    assert checked.validator is not None
    whole = [*ITN_FIELDS, "signature"]
    assert checked.validator.itn(whole) == []
    assert checked.validator.itn(whole[1:]) == ["ITN: the field m_payment_id is missing."]
    assert checked.validator.itn(whole[::-1]) == [
        "ITN: the fields are not those of the contract, in its order."
    ]


def test_folder_without_a_contract_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        validator(tmp_path)


@pytest.mark.skipif(not SPECS.is_dir(), reason="the processors' contracts are not here")
def test_every_operation_keeps_to_the_whole_contract(
    sim: Simulator, shop: Shop, sandbox: Shop, live: Merchant, box: Merchant
) -> None:
    sim.validator = validator(SPECS)
    for caller, account in ((shop, live), (sandbox, box)):
        token = tea(account)
        agreement = account.agreement("ada@example.org", "Ada", "Byron", "Saved card", NOW)
        number = account.payment("bob@example.org", "Bob", 9_800, "Kettle", NOW)
        caller("GET", "/ping")
        caller.fetch(token)
        caller.fetch(agreement)
        for path in ("", "/daily", "/weekly", "/monthly"):
            for form in ("csv", "json", "envelope"):
                account.habits.history = form
                caller("GET", f"/transactions/history{path}")
        caller("GET", f"/process/query/{number}")
        caller("GET", f"/refunds/query/{number}")
        caller("GET", f"/refunds/{number}")
        caller("POST", f"/refunds/{number}", {"amount": 800, "reason": "Broken", "notify_buyer": 1})
        caller("POST", f"/subscriptions/{agreement}/adhoc", {"amount": 800, "item_name": "Refill"})
        caller("PUT", f"/subscriptions/{token}/pause", {"cycles": 1})
        caller("PUT", f"/subscriptions/{token}/unpause")
        caller("PATCH", f"/subscriptions/{token}/update", {"amount": 900, "frequency": 4})
        caller("PUT", f"/subscriptions/{token}/cancel")
        caller("PUT", f"/subscriptions/{token}/cancel")
    assert sim.problems == []


# What demo and contract suite ask of it

DEMO, STRANGER, SCHEDULED, TRYOUT = payfast.SAMPLES
HOOK = "https://acme.example/webhooks/1"


@pytest.fixture
def opened(sim: Simulator) -> Simulator:
    for sample in sim.samples():
        sim.open(sample, HOOK)
    return sim


def adapter(sample: Sample) -> Adapter:
    return Adapter(sample.credentials)


@pytest.mark.parametrize("sample", payfast.SAMPLES, ids=lambda sample: sample.label)
def test_samples_are_what_the_settings_form_takes(sample: Sample) -> None:
    fields = {field.name: field for field in facts("payfast").credentials}
    assert {name for name, field in fields.items() if field.required} <= set(sample.credentials)
    for name, value in sample.credentials.items():
        assert re.fullmatch(fields[name].pattern, value), name
    assert set(sample.options) <= set(facts("payfast").options)


def test_samples_have_ids_and_passphrases_of_their_own() -> None:
    for name in ("merchant_id", "passphrase"):
        assert len({sample.credentials[name] for sample in payfast.SAMPLES}) == len(payfast.SAMPLES)


def test_opening_an_account_again_empties_it_and_no_other(opened: Simulator) -> None:
    opened.fill(DEMO)
    theirs = opened.stage(STRANGER, "sipho@example.com", Situation())
    opened.open(DEMO, HOOK)
    mine = opened.account(DEMO.credentials["merchant_id"])
    assert (mine.payments(), opened.past_deliveries(DEMO)) == ([], [])
    assert list(opened.subscriptions) == [theirs]


def test_filling_sends_nothing_and_tells_it_all_by_past_deliveries(opened: Simulator) -> None:
    opened.fill(DEMO)
    assert opened.sent == []
    told = opened.past_deliveries(DEMO)
    assert len(told) == len(opened.notifications) > 20
    gateway = adapter(DEMO)
    kinds = {event.type for headers, body in told for event in gateway.verify(headers, body, NOW)}
    assert kinds == {"COMPLETE", "CANCELLED"}


def test_noor_has_an_active_subscription_and_a_paid_order(opened: Simulator) -> None:
    opened.fill(DEMO)
    (hers,) = [one for one in opened.subscriptions.values() if one.order.email == "noor@example.com"]
    assert hers.state == "active"
    orders = [one for one in opened.payments.values() if one.order.email == "noor@example.com"]
    assert [one.token for one in orders].count(None) == 1


@pytest.mark.parametrize("sample", [DEMO, TRYOUT], ids=["live", "sandbox"])
def test_the_processors_own_customer_has_a_subscription_of_every_state(
    opened: Simulator, sample: Sample
) -> None:
    opened.fill(sample)
    mine = [one for one in opened.subscriptions.values() if one.order.email == "payfast@example.com"]
    assert {one.state for one in mine} == {"active", "paused", "locked", "cancelled", "complete"}
    assert {one.kind for one in mine} == {1, 2}
    assert any(one.failing and one.state == "active" for one in mine)
    assert any(one.cycles_complete == 0 and one.kind == 1 for one in mine)
    payments = [one for one in opened.payments.values() if one.order.email == "payfast@example.com"]
    assert {"COMPLETE", "FAILED"} == {one.status for one in payments}
    assert any(one.refunds for one in payments) is (sample is DEMO)


STATES = {
    "active": "active",
    "trialing": "active",
    "past_due": "active",
    "paused": "paused",
    "cancelled": "cancelled",
    "expired": "complete",
}


@pytest.mark.parametrize("state", STATES)
def test_a_staged_subscription_is_so_and_is_told(opened: Simulator, state: str) -> None:
    token = opened.stage(DEMO, "thandi@example.com", Situation(state))
    assert token is not None
    one = opened.get(token)
    assert (one.state, one.kind, one.order.email) == (STATES[state], 1, "thandi@example.com")
    assert (one.attempts > 0) is (state == "past_due")
    standing = opened.standing(token)
    assert standing.charges is (state in ("active", "trialing", "past_due"))
    assert standing.amount == 12000
    assert {delivery.url for delivery in opened.sent} == {HOOK}
    for delivery in opened.sent:
        (event,) = adapter(DEMO).verify(list(delivery.headers.items()), delivery.body, NOW)
        assert dict(event.body["pairs"])["token"] == token


@pytest.mark.parametrize(
    ("sample", "situation"),
    [
        (DEMO, Situation("active", object="agreement")),
        (DEMO, Situation("cancelled", object="agreement")),
        (DEMO, Situation("past_due", due=True)),
        (DEMO, Situation("active", method="card", token=False)),
        (TRYOUT, Situation("active", object="sandbox")),
        (TRYOUT, Situation("active", object="sandbox_agreement")),
    ],
)
def test_sorts_and_methods_of_the_facts_can_be_staged(
    opened: Simulator, sample: Sample, situation: Situation
) -> None:
    token = opened.stage(sample, "thandi@example.com", situation)
    assert token is not None
    assert opened.get(token).kind == (2 if "agreement" in (situation.object or "") else 1)


@pytest.mark.parametrize(
    "situation",
    [
        Situation("incomplete"),
        Situation("cancels_at_period_end"),
        Situation("active", due=True),
        Situation("past_due", due=False),
        Situation("active", method="wallet"),
        Situation("active", token=True),
        Situation("active", object="sandbox"),
        Situation("paused", object="agreement"),
    ],
)
def test_what_payfast_cannot_have_is_not_staged(opened: Simulator, situation: Situation) -> None:
    assert opened.stage(DEMO, "thandi@example.com", situation) is None
    assert opened.sent == []


def test_nobody_knows_an_unknown_token(opened: Simulator) -> None:
    with pytest.raises(KeyError):
        opened.standing("nobody")


@pytest.mark.parametrize("state", ["active", "cancelled", "expired"])
def test_a_charge_is_one_payment_more_and_one_itn(opened: Simulator, state: str) -> None:
    token = opened.stage(DEMO, "thandi@example.com", Situation(state))
    assert token is not None
    before, told = opened.standing(token), len(opened.sent)
    opened.charge(token)
    after = opened.standing(token)
    assert (after.payments, len(opened.sent)) == (before.payments + 1, told + 1)
    assert after.charges == before.charges
    assert b"payment_status=COMPLETE" in opened.sent[-1].body


def test_a_charge_that_fails_is_tried_again_the_next_day(opened: Simulator, clock: Clock) -> None:
    token = opened.stage(DEMO, "thandi@example.com", Situation())
    assert token is not None
    before = opened.standing(token)
    opened.charge(token, succeeds=False)
    assert opened.standing(token) == before
    assert opened.get(token).attempts == 1
    clock.at += timedelta(days=1, hours=1)
    opened.tick()
    assert opened.standing(token).payments == before.payments + 1


def test_an_agreement_is_charged_by_the_shop(opened: Simulator) -> None:
    token = opened.stage(DEMO, "thandi@example.com", Situation(object="agreement"))
    assert token is not None
    opened.charge(token)
    assert opened.standing(token).payments == 2


def test_plans_differ_from_what_is_staged(opened: Simulator) -> None:
    for plan in opened.plans(DEMO):
        assert (plan["minor"], plan["unit"]) != (12000, "month")
        assert (plan["plan"], plan["currency"]) == (None, "ZAR")


def is_believed(gateway: Adapter, forgery: Forgery) -> bool:
    try:
        gateway.verify(forgery.headers, forgery.body, NOW)
    except BadSignature:
        return False
    return True


@pytest.mark.parametrize("state", ["active", "cancelled"])
def test_every_forgery_of_a_true_itn_is_refused_and_the_itn_is_not(opened: Simulator, state: str) -> None:
    opened.stage(DEMO, "thandi@example.com", Situation(state))
    delivery = opened.sent[-1]
    gateway = adapter(DEMO)
    assert gateway.verify(list(delivery.headers.items()), delivery.body, NOW)
    forgeries = opened.forgeries(DEMO, delivery)
    assert len(forgeries) >= 25
    assert len({one.what for one in forgeries}) == len(forgeries)
    assert [one.what for one in forgeries if is_believed(gateway, one)] == []


def test_what_is_not_signed_has_no_proof_to_spoil(opened: Simulator) -> None:
    shop = opened.account(DEMO.credentials["merchant_id"])
    shop.habits.trial_notices = "json"
    opened.stage(DEMO, "thandi@example.com", Situation("trialing"))
    shop.simulator.advance(next(iter(opened.subscriptions.values())), NOW + timedelta(days=5))
    notice = opened.sent[-1]
    assert notice.headers["content-type"] == "application/json"
    assert (opened.proof_of(notice), opened.forgeries(DEMO, notice)) == (None, [])


def test_refused_keys_and_limits_are_told_in_the_envelope(shop: Shop, live: Merchant, sim: Simulator) -> None:
    sim.switch("refused_keys")
    answer = shop("GET", "/transactions/history")
    assert (answer.status_code, answer.json()["code"], answer.json()["status"]) == (401, 401, "failed")
    sim.switch("ok")
    sim.fail_next = ["429:7"]
    answer = shop("GET", "/transactions/history")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.json()["data"]["message"].startswith("Signature rate limit reached")


@pytest.mark.parametrize(
    ("method", "what", "body"),
    [("PUT", "cancel", None), ("PUT", "pause", {"cycles": 1}), ("PATCH", "update", {"amount": 15000})],
)
def test_decline_mode_refuses_changes_for_a_business_reason(
    shop: Shop, live: Merchant, sim: Simulator, method: str, what: str, body: dict[str, Any] | None
) -> None:
    token = tea(live)
    before = copy.deepcopy(live.get(token))
    sim.switch("decline")
    headers = {} if body else {"content-length": "0"}
    answer = shop(method, f"/subscriptions/{token}/{what}", body, headers=headers)
    assert (answer.status_code, answer.json()["data"]["response"]) == (400, 4)
    assert live.get(token) == before


def test_only_states_are_spoiled_by_an_unknown_word(shop: Shop, live: Merchant, sim: Simulator) -> None:
    token = tea(live)
    sim.fail_next = ["unknown_status"]
    answer = shop("GET", f"/subscriptions/{token}/fetch").json()
    assert (answer["status"], answer["data"]["response"]["status_text"]) == ("success", "a_word_of_tomorrow")


def test_buttons_of_hosted_pages_can_be_found_and_another_card_is_chosen_already(
    client: TestClient, live: Merchant
) -> None:
    token = tea(live)
    shown = client.get(card_address(token)).text
    assert re.findall(r'data-test="([a-z]+)"', shown) == ["accept", "decline", "back"]
    assert re.findall(r'value="([a-z]+)" checked', shown) == ["mastercard"]
    refused = client.post(card_address(token), data={"card": "mastercard", "do": "decline"})
    assert refused.status_code == 422
    assert live.get(token).card == "Visa ending in 4242"
    client.post(card_address(token), data={"card": "mastercard", "do": "save"})
    assert re.findall(r'value="([a-z]+)" checked', client.get(card_address(token)).text) == ["visa"]
