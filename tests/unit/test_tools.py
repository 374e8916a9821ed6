"""`portal gateway verify` and `read`: without network and database, one shape for all, clear refusals."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from portal import tools
from portal.gateways.base import (
    CustomerRecord,
    Failure,
    Interval,
    InvoiceRecord,
    Line,
    Method,
    NextPayment,
    OrderRecord,
    PaymentRecord,
    Record,
    RefundRecord,
    SubscriptionRecord,
)
from portal.money import Money
from seeds.simulators import stripe

ROOT = Path(__file__).parents[2]
AT = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
SECRET = "whsec_AcmeCoffee0001"
BODY = stripe.event("customer.subscription.updated", {"id": "sub_1", "object": "subscription"}, at=AT)
COMMON = {"kind", "remote_id", "email", "status", "raw_status", "amount", "created_at", "updated_at"}


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "portal", "gateway", *arguments], cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    contents = {
        "credentials": json.dumps({"webhook_secret": SECRET}).encode(),
        "headers": json.dumps({"STRIPE-signature": stripe.sign(SECRET, BODY, AT)}).encode(),
        "body": BODY,
    }
    paths = {name: tmp_path / name for name in contents}
    for name, content in contents.items():
        paths[name].write_bytes(content)
    return paths


def verify(files: dict[str, Path], **more: Any) -> dict[str, Any]:
    return tools.verify(
        "stripe", files["credentials"], files["headers"], files["body"], **{"now": AT.isoformat(), **more}
    )


def test_a_true_delivery_is_told_in_our_words(files: dict[str, Path]) -> None:
    (event,) = verify(files)["events"]
    assert set(event) == {"id", "type", "subject", "occurred_at"}
    assert event["type"] == "customer.subscription.updated"
    assert event["subject"] == {"kind": "subscription", "id": "sub_1"}
    assert event["occurred_at"] == "2026-11-24T10:00:00Z"


def test_a_header_that_comes_twice_proves_nothing(files: dict[str, Path]) -> None:
    good = stripe.sign(SECRET, BODY, AT)
    files["headers"].write_text(json.dumps({"Stripe-Signature": [good, good.replace("1", "2")]}))
    with pytest.raises(tools.BadSignature):
        verify(files)


def test_the_moment_counts(files: dict[str, Path]) -> None:
    with pytest.raises(tools.BadSignature):
        verify(files, now="2026-11-24T12:00:00Z")


def test_the_command_prints_json_and_ends_with_0(files: dict[str, Path]) -> None:
    done = run(
        *("verify", "stripe", "--credentials", str(files["credentials"]), "--headers", str(files["headers"])),
        *("--now", "2026-11-24T10:01:00Z", str(files["body"])),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["events"][0]["subject"]["id"] == "sub_1"


def test_a_bad_signature_ends_with_3_and_one_line(files: dict[str, Path]) -> None:
    files["body"].write_bytes(BODY + b" ")
    done = run(
        *("verify", "stripe", "--credentials", str(files["credentials"]), "--headers", str(files["headers"])),
        *("--now", "2026-11-24T10:01:00Z", str(files["body"])),
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert len(done.stderr.strip().splitlines()) == 1
    assert SECRET not in done.stderr


@pytest.mark.parametrize("spoil", ["credentials", "headers", "body"])
def test_a_file_that_is_not_there_ends_with_2(files: dict[str, Path], spoil: str) -> None:
    files[spoil].unlink()
    done = run(
        *("verify", "stripe", "--credentials", str(files["credentials"]), "--headers", str(files["headers"])),
        str(files["body"]),
    )
    assert done.returncode == 2
    assert "can't be read" in done.stderr


def test_reading_what_it_cannot_be_ends_with_2_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "object.json"
    path.write_text('{"nothing": "of the kind"}')
    for arguments in (("stripe", "subscription"), ("stripe", "shoe"), ("nobody", "payment")):
        done = run("read", *arguments, str(path))
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    path.write_text("{")
    assert "not JSON" in run("read", "stripe", "payment", str(path)).stderr


RECORDS: list[tuple[str, Record, dict[str, Any]]] = [
    ("customer", CustomerRecord(remote_id="cus_1", email="ana@example.com"), {}),
    (
        "order",
        OrderRecord(remote_id="o_1", lines=(Line("Tea", 2, Money(500, "KWD")),)),
        {"lines": [{"name": "Tea", "quantity": 2, "amount": {"minor": 500, "currency": "KWD"}}]},
    ),
    (
        "subscription",
        SubscriptionRecord(
            remote_id="sub_1",
            interval=Interval("month", 3),
            next_payment=NextPayment(AT.date(), Money(0, "USD"), "fixed"),
            cancels_at=AT,
            method=Method("card", "Visa", "4242", "2028-09", "pm_1"),
        ),
        {
            "interval": {"unit": "month", "count": 3},
            "current_period_end": None,
            "next_payment": {
                "on": "2026-11-24",
                "amount": {"minor": 0, "currency": "USD"},
                "certainty": "fixed",
            },
            "cancels_at": "2026-11-24T10:00:00Z",
            "ended_at": None,
            "quantity": None,
            "method": {"kind": "card", "brand": "Visa", "last4": "4242", "expires": "2028-09"},
        },
    ),
    (
        "payment",
        PaymentRecord(remote_id="p_1", refunded=Money(0, "USD"), failure=Failure("card_declined")),
        {
            "paid_at": None,
            "method": None,
            "refunded": {"minor": 0, "currency": "USD"},
            "order": None,
            "subscription": None,
            "failure": {"code": "card_declined", "reason": None},
        },
    ),
    ("refund", RefundRecord(remote_id="re_1", payment="p_1"), {"payment": "p_1"}),
    (
        "invoice",
        InvoiceRecord(remote_id="in_1", number="A-1", document_url="https://files.example/1"),
        {"number": "A-1", "document_url": "https://files.example/1", "page_url": None, "payment": None},
    ),
]


@pytest.mark.parametrize(("kind", "record", "more"), RECORDS, ids=[kind for kind, _, _ in RECORDS])
def test_one_shape_for_all_with_nothing_left_out(kind: str, record: Record, more: dict[str, Any]) -> None:
    told = tools.as_json(kind, record)
    assert set(told) == COMMON | set(more)
    assert {name: told[name] for name in more} == more
    assert json.loads(json.dumps(told)) == told
