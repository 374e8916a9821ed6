"""Adyen's report "Settlement details" as merchants download it, and files that are something else or worse."""

import csv
import io
from datetime import UTC, datetime
from typing import Any

import pytest

from portal.gateways import _adyen_report
from portal.gateways.adyen import Adapter
from portal.gateways.base import OrderRecord, PaymentRecord, RefundRecord
from portal.money import Money

ALL = (
    *("Company Account", "Merchant Account", "Psp Reference", "Merchant Reference", "Payment Method"),
    *("Creation Date", "TimeZone", "Type", "Modification Reference", "Gross Currency", "Gross Debit (GC)"),
    *("Gross Credit (GC)", "Exchange Rate", "Net Currency", "Net Debit (NC)", "Net Credit (NC)"),
    *("Commission (NC)", "Markup (NC)", "Scheme Fees (NC)", "Interchange (NC)", "Payment Method Variant"),
    *("Modification Merchant Reference", "Batch Number", "Reserved4"),
)
PSP, LATER, CHANGE = "QFQTPCQ8HXSKGK82", "QFQTPCQ8HXSKGK83", "MODTPCQ8HXSKGK01"


def line(**cells: str) -> dict[str, str]:
    usual = {
        "Company Account": "Co",
        "Merchant Account": "ShopNL",
        "Psp Reference": PSP,
        "Payment Method": "visa",
        "Merchant Reference": "order-42",
        "Creation Date": "2026-07-26 19:58:55",
        "TimeZone": "CEST",
        "Type": "Settled",
        "Modification Reference": CHANGE,
        "Gross Currency": "EUR",
        "Gross Credit (GC)": "45.99",
        "Net Currency": "EUR",
        "Net Credit (NC)": "45.10",
        "Batch Number": "7",
    }
    names = {name.replace(" ", "_").replace("(", "").replace(")", "").lower(): name for name in ALL}
    return usual | {names[name]: value for name, value in cells.items()}


def report(*lines: dict[str, str], header: tuple[str, ...] = ALL) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, header, restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def refund(**cells: str) -> dict[str, str]:
    told = {"type": "Refunded", "gross_credit_gc": "", "gross_debit_gc": "5.00"}
    return line(**{"creation_date": "2026-07-28 08:00:00", **told, **cells})


def problems(text: str) -> list[str]:
    with pytest.raises(ValueError, match="line") as caught:
        Adapter.read_file(text)
    return str(caught.value).split("; ")


def test_a_payment_its_order_and_its_refund() -> None:
    found = Adapter.read_file("\ufeff" + report(line(), refund()))
    at = datetime(2026, 7, 26, 17, 58, 55, tzinfo=UTC)
    assert found.payments == (
        PaymentRecord(
            remote_id=PSP,
            status="paid",
            raw_status="Settled",
            amount=Money(4599, "EUR"),
            created_at=at,
            paid_at=at,
            order="order-42",
            knows=frozenset({"status", "raw_status", "amount", "created_at", "paid_at", "order"}),
        ),
    )
    assert found.orders == (
        OrderRecord(
            remote_id="order-42",
            status="paid",
            number="order-42",
            amount=Money(4599, "EUR"),
            created_at=at,
            knows=frozenset({"status", "number", "amount", "created_at"}),
        ),
    )
    assert found.refunds == (
        RefundRecord(
            remote_id=CHANGE,
            status="sent",
            raw_status="Refunded",
            payment=PSP,
            amount=Money(500, "EUR"),
            created_at=datetime(2026, 7, 28, 6, tzinfo=UTC),
            knows=frozenset({"status", "raw_status", "payment", "amount", "created_at"}),
        ),
    )
    # Of a card or an address it says nothing, so what webhooks told of them stays; and newer news do, too.
    assert found.as_of == found.refunds[0].created_at


def test_columns_may_stand_in_any_order_and_others_between_them() -> None:
    one = Adapter.read_file(report(line(), header=tuple(reversed(ALL))))
    assert one.payments == Adapter.read_file(report(line())).payments


def test_the_amount_of_a_payment_may_stand_in_either_column() -> None:
    (payment,) = Adapter.read_file(report(line(gross_debit_gc="45.99", gross_credit_gc="0.00"))).payments
    assert payment.amount == Money(4599, "EUR")


def test_fees_payouts_and_types_that_are_not_known_are_left_aside() -> None:
    nobodys = {
        "psp_reference": "",
        "merchant_reference": "",
        "gross_credit_gc": "",
        "modification_reference": "",
    }
    others = [line(type=kind, **nobodys) for kind in ("Fee", "MerchantPayout", "DepositCorrection")]
    found = Adapter.read_file(report(*others, line(type="ReserveAdjustment", gross_credit_gc="")))
    assert list(found.records()) == []


@pytest.mark.parametrize(
    ("types", "status"),
    [
        (["Settled", "Chargeback"], "disputed"),
        (["Settled", "Chargeback", "ChargebackReversed"], "paid"),
        (["Settled", "Chargeback", "ChargebackReversed", "SecondChargeback"], "disputed"),
    ],
)
def test_the_last_word_on_a_payment_counts_however_the_lines_stand(types: list[str], status: str) -> None:
    lines = [line(type=kind, creation_date=f"2026-07-{day + 10} 10:00:00") for day, kind in enumerate(types)]
    (payment,) = Adapter.read_file(report(*reversed(lines))).payments
    assert payment.status == status
    assert payment.amount == Money(4599, "EUR")


def test_a_chargeback_alone_says_nothing_of_the_amount() -> None:
    (payment,) = Adapter.read_file(report(line(type="Chargeback", gross_credit_gc="20.00"))).payments
    assert payment.knows == frozenset({"status", "raw_status", "order"})


def test_a_payment_that_was_captured_in_parts_is_their_sum() -> None:
    found = Adapter.read_file(report(line(gross_credit_gc="40"), line(gross_credit_gc="5.99")))
    assert [payment.amount for payment in found.payments] == [Money(4599, "EUR")]


def test_a_refund_that_came_back_has_failed() -> None:
    again = refund(
        type="RefundedReversed",
        creation_date="2026-08-02 08:00:00",
        gross_credit_gc="5.00",
        gross_debit_gc="",
    )
    assert [one.status for one in Adapter.read_file(report(refund(), again)).refunds] == ["failed"]


def test_payments_of_our_own_pages_make_no_order() -> None:
    found = Adapter.read_file(
        report(line(merchant_reference="portal-pay-1"), line(psp_reference=LATER, merchant_reference=""))
    )
    assert found.orders == ()
    assert [payment.order for payment in found.payments] == [None, None]


@pytest.mark.parametrize(
    ("currency", "said", "minor"),
    [("JPY", "100", 100), ("JPY", "100.00", 100), ("KWD", "1.234", 1234), ("ISK", "10", 10)],
)
def test_amounts_are_in_whole_units_of_the_currency(currency: str, said: str, minor: int) -> None:
    (payment,) = Adapter.read_file(report(line(gross_currency=currency, gross_credit_gc=said))).payments
    assert payment.amount == Money(minor, currency)


@pytest.mark.parametrize(
    ("zone", "hour"), [("UTC", 19), ("BST", 18), ("EST", 0), ("Europe/Amsterdam", 17), ("cet", 18)]
)
def test_zones(zone: str, hour: int) -> None:
    (payment,) = Adapter.read_file(report(line(timezone=zone))).payments
    assert payment.paid_at is not None
    assert payment.paid_at.hour == hour


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"timezone": "IST"}, "TimeZone is none that means one thing"),
        ({"timezone": "../../etc/passwd"}, "TimeZone"),
        ({"timezone": "Europe/Nowhere"}, "TimeZone"),
        ({"timezone": ""}, "TimeZone"),
        ({"creation_date": "26/07/2026 19:58"}, "which table programs may rewrite"),
        ({"creation_date": "2026-02-31 10:00:00"}, "Creation Date"),
        ({"psp_reference": "8,8153E+15"}, "Psp Reference is not of 16"),
        ({"psp_reference": "=cmd|' /C calc'!A0"}, "Psp Reference is not of 16"),
        ({"gross_credit_gc": "45,99"}, "not one amount"),
        ({"gross_credit_gc": "-45.99"}, "not one amount"),
        ({"gross_credit_gc": "1e9"}, "not one amount"),
        ({"gross_credit_gc": "NaN"}, "not one amount"),
        ({"gross_credit_gc": ""}, "not one amount"),
        ({"gross_debit_gc": "1.00"}, "not one amount"),
        ({"gross_credit_gc": "9" * 400}, "not one amount"),
        ({"gross_currency": "EURO"}, "Gross Currency"),
        ({"gross_currency": "JPY"}, "Gross Currency is no currency in which there is this amount"),
        ({"merchant_reference": "x" * 81}, "Merchant Reference"),
        ({"merchant_reference": "a\x00b"}, "Merchant Reference"),
        ({"type": "Refunded", "modification_reference": ""}, "a refund without its Modification Reference"),
    ],
)
def test_a_line_that_is_not_as_it_should_be_is_named(cells: dict[str, str], said: str) -> None:
    (found,) = problems(report(line(psp_reference=LATER), line(**cells)))
    assert found.startswith("line 3: ")
    assert said in found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\ufeff",
        "email,token\na@b.example,x\n",
        report(line()).replace(",", ";"),
        report(line(), header=tuple(name for name in ALL if name != "Gross Debit (GC)")),
        "Company Account,Merchant Account,Psp Reference,Merchant Reference,Payment Method,Booking Date,TimeZone,"
        "Main Currency,Main Amount,Record Type\n",
        "PK\x03\x04\x14\x00\x06",
        "%PDF-1.7\n",
    ],
)
def test_another_file_is_refused_with_a_sentence(text: str) -> None:
    (found,) = problems(text)
    assert found.startswith("line 1: this is no Settlement details report of Adyen: no column ")
    assert found.endswith("Other reports can't be read")


def test_a_column_that_stands_there_twice_is_refused() -> None:
    assert problems(report(line(), header=(*ALL, "Type"))) == ["line 1: the column Type stands there twice"]


def test_a_file_of_two_merchant_accounts_is_refused() -> None:
    (found,) = problems(report(line(), line(psp_reference=LATER, merchant_account="ShopBE")))
    assert found == "line 3: this is another merchant account than before: make a report for each"


def test_a_payment_captured_in_two_currencies_is_refused() -> None:
    text = report(line(), line(gross_currency="USD"))
    with pytest.raises(ValueError, match=f"the payment {PSP} was captured in two currencies"):
        Adapter.read_file(text)


@pytest.mark.parametrize("broken", ['"never closed', "x" * 200_000, '"a"b,c'])
def test_what_is_no_csv_is_said_to_be_none(broken: str) -> None:
    (found,) = problems(report(line()) + broken)
    assert found.startswith("line ")


def test_of_many_bad_lines_the_first_are_named() -> None:
    assert len(problems(report(*(line(timezone="XXX") for _ in range(300))))) == _adyen_report.MOST_WRONG


def test_many_lines_are_many_payments() -> None:
    many: list[dict[str, Any]] = [
        line(psp_reference=f"{n:016}", merchant_reference=f"o{n}") for n in range(5000)
    ]
    found = Adapter.read_file(report(*many))
    assert len(found.payments) == len(found.orders) == 5000
