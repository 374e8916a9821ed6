"""*I have paid, check again*: the processor is asked once, a minute later once more, and ten times a day."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from portal import checks, clock, imports, models, work
from portal.db import Database
from portal.gateways.base import Gateway, Gone, OrderRecord, PaymentRecord, Ref, Snapshot, Unavailable
from portal.ids import id_text
from portal.settings import Settings
from tests.unit.builders import MASTER_KEY, NOW, make_customer, make_order, make_payment
from tests.unit.test_tabs import Visit, words

AGAIN = "I have paid, check again"
ORIGIN = {"Sec-Fetch-Site": "same-origin"}
PARTIAL = {"HX-Request": "true", "HX-Request-Type": "partial"}


def said(record: Any, remote_id: str, status: str) -> Any:
    return record(remote_id=remote_id, status=status, knows=frozenset({"status"}))


class Shop(Gateway):
    """Knows what is paid; or does not answer."""

    def __init__(self) -> None:
        super().__init__({})
        self.asked: list[str] = []
        self.says: dict[str, Any] = {}
        self.down = False

    async def fetch(self, ref: Ref) -> Snapshot:
        if self.down:
            raise Unavailable("", "It is down.", retry_after=600)
        self.asked.append(ref.id)
        found = self.says.get(ref.id)
        if found is None:
            raise Gone("")
        if isinstance(found, PaymentRecord):
            return Snapshot(as_of=clock.now(), payments=(found,))
        return Snapshot(as_of=clock.now(), orders=(found,))


class Case(Visit):
    """A customer with an open order and a payment of it that is on its way."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        clock.set_offset(NOW - datetime.now(UTC))
        super().__init__(database)
        self.shop = Shop()
        monkeypatch.setattr(checks, "open_gateway", lambda *_, **__: self.shop)
        monkeypatch.setattr(imports, "pace_of", lambda account: 10_000.0)
        self.order = make_order(
            database, self.account, self.customer, remote_id="o1", status="open", number="7"
        )
        self.payment = make_payment(
            database, self.account, self.customer, remote_id="p1", order_remote="o1", status="pending"
        )
        self.shop.says = {
            "o1": said(OrderRecord, "o1", "open"),
            "p1": said(PaymentRecord, "p1", "pending"),
        }
        self.here = f"orders/{id_text(self.order.id)}"

    def post(self, path: str, status: int = 303, headers: dict[str, str] | None = None) -> Any:
        answer = self.client.post(
            f"/customers/{path}", headers={**ORIGIN, **(headers or {})}, follow_redirects=False
        )
        assert answer.status_code == status, answer.text
        return answer

    def work(self) -> None:
        settings = Settings(master_keys=MASTER_KEY)
        asyncio.run(work.Worker(settings, self.database).drain())

    def minutes(self, number: int) -> None:
        clock.set_offset(clock.now() - datetime.now(UTC) + timedelta(minutes=number))

    def page(self) -> str:
        return words(self.get(self.here))


@pytest.fixture
def case(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(sqlite, monkeypatch)


def test_an_open_order_can_be_checked_and_says_what_came_of_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(database, monkeypatch)
    assert AGAIN in case.page()
    answer = case.post(f"{case.here}/check")
    assert answer.headers["location"] == f"/customers/{case.here}"
    assert "We are checking with the payment company." in case.page()
    assert AGAIN not in case.page()
    case.work()
    assert case.shop.asked == ["o1", "p1"]
    assert "We asked at 10:00" in case.page()
    assert "You can have it checked again in a minute." in case.page()
    case.minutes(2)
    case.shop.says["o1"] = said(OrderRecord, "o1", "paid")
    case.shop.says["p1"] = said(PaymentRecord, "p1", "paid")
    case.post(f"{case.here}/check")
    case.work()
    assert AGAIN not in case.page()
    assert "We asked at" not in case.page()
    assert database.read_now(lambda db: db.execute(select(col(models.Payment.status))).scalar_one()) == "paid"


def test_within_a_minute_nothing_is_asked_twice(case: Case) -> None:
    for _ in range(3):
        case.post(f"{case.here}/check")
    case.work()
    case.post(f"{case.here}/check")
    case.work()
    assert case.shop.asked == ["o1", "p1"]


def test_ten_times_a_day_and_then_it_says_so(case: Case) -> None:
    for _ in range(12):
        case.post(f"{case.here}/check")
        case.work()
        case.minutes(2)
    assert case.shop.asked.count("o1") == checks.A_DAY
    assert "That was the last check for today. Acme Coffee can tell you more." in case.page()
    case.minutes(24 * 60)
    assert case.database.read_now(checks.now_of, case.customer.id, case.order.id).again


def test_the_ten_are_a_customers_own(case: Case) -> None:
    other = make_order(case.database, case.account, case.customer, remote_id="o2", status="open")
    for _ in range(checks.A_DAY):
        case.post(f"{case.here}/check")
        case.work()
        case.minutes(2)
    case.post(f"orders/{id_text(other.id)}/check")
    case.work()
    assert "o2" not in case.shop.asked


def test_a_processor_that_does_not_answer_is_asked_on(case: Case) -> None:
    case.shop.down = True
    case.post(f"{case.here}/check")
    case.work()
    assert "The payment company does not answer at the moment. We go on asking" in case.page()
    assert AGAIN not in case.page()
    case.shop.down = False
    case.minutes(11)
    case.work()
    assert "We asked at 10:11" in case.page()


def test_what_the_processor_does_not_know_any_more_is_said(case: Case) -> None:
    del case.shop.says["o1"]
    case.post(f"{case.here}/check")
    case.work()
    page = case.page()
    assert "The payment company does not know this order any more. Acme Coffee can tell you more." in page
    assert AGAIN not in page
    assert "Pay now" not in page


def test_the_piece_comes_alone_and_sends_on_when_all_is_paid(case: Case) -> None:
    answer = case.post(f"{case.here}/check", 200, PARTIAL)
    assert answer.text.strip().startswith('<div class="note stack" id="check" aria-busy="true"')
    assert 'hx-trigger="every 2s"' in answer.text
    case.shop.says["o1"] = said(OrderRecord, "o1", "paid")
    case.work()
    gone = case.client.get(f"/customers/{case.here}/check", headers=PARTIAL)
    assert gone.headers["HX-Redirect"] == f"/customers/{case.here}"


def test_a_payment_that_is_on_its_way_can_be_checked(case: Case) -> None:
    assert AGAIN in words(case.get("payments"))
    answer = case.post(f"payments/{id_text(case.payment.id)}/check")
    assert answer.headers["location"] == f"/customers/payments#payment-{id_text(case.payment.id)}"
    assert "We are checking with the payment company." in words(case.get("payments"))
    case.work()
    assert case.shop.asked == ["p1"]
    assert "Not arrived there yet. We asked at 10:00" in words(case.get("payments"))


def test_nothing_of_anothers_and_nothing_that_is_closed_is_asked_about(case: Case) -> None:
    stranger = make_customer(case.database, case.portal, "ben@example.com")
    order = make_order(case.database, case.account, stranger, status="open")
    payment = make_payment(case.database, case.account, stranger, status="pending")
    case.post(f"orders/{id_text(order.id)}/check", 404)
    case.post(f"payments/{id_text(payment.id)}/check", 404)
    assert case.client.get(f"/customers/orders/{id_text(order.id)}/check").status_code == 404
    closed = make_order(case.database, case.account, case.customer, status="paid")
    case.post(f"orders/{id_text(closed.id)}/check")
    case.work()
    assert case.shop.asked == []


def test_a_post_from_elsewhere_is_refused(case: Case) -> None:
    answer = case.client.post(f"/customers/{case.here}/check", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
