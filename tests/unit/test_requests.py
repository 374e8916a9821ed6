"""Requests to the merchant: asked once, seen by both sides, answered, withdrawn, late, or shown by the processor."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from portal import actions, clock, models, requests, sync, work
from portal.db import Database
from portal.gateways import capabilities
from portal.gateways.base import Snapshot, SubscriptionRecord
from tests.unit.plans import reads_little
from tests.unit.test_actions import FakeGateway, Scene


@pytest.fixture
def scene(database: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scene]:
    def make(processor: str = "payfast", **fields: Any) -> Scene:
        gateway = FakeGateway()
        monkeypatch.setattr(actions, "open_gateway", lambda *a, **k: gateway)
        monkeypatch.setattr(work, "open_gateway", lambda *a, **k: gateway)
        return Scene(database, gateway, processor, **fields)

    return make


def kept(on: Callable[..., Scene]) -> Scene:
    """A cancelled subscription whose access runs on: going on after all is for the merchant to do, at PayFast."""
    return on(status="cancelled", access_until=clock.now() + timedelta(days=9))


def mails(on: Scene) -> list[str]:
    return [job.payload["template"] for job in on.jobs("mail")]


def the_request(on: Scene) -> models.Request:
    return on.database.read_now(lambda db: db.execute(select(models.Request)).scalar_one())


def test_what_no_call_does_is_asked_of_the_merchant(scene: Callable[..., Scene]) -> None:
    on = kept(scene)
    assert on.offers()["undo_cancel"].mode == "request"
    done = on.do("undo_cancel")
    assert done.phase == "asked"
    asked = the_request(on)
    assert (asked.kind, asked.status) == ("undo_cancel", "open")
    assert asked.due_at - asked.created_at == timedelta(days=3)
    assert [entry["what"] for entry in asked.history] == ["asked"]
    assert mails(on) == ["request_new", "request_received"]
    assert on.gateway.calls == []
    assert on.row().status == "cancelled"


@pytest.mark.usefixtures("sqlite_only")
def test_requests_of_a_card_are_found_without_the_portals_others(scene: Callable[..., Scene]) -> None:
    on = kept(scene)
    on.do("undo_cancel")
    ids = (on.portal.id, on.customer.id)
    row = on.row()
    with reads_little(on.database) as plans:
        assert on.database.read_now(requests.about, *ids, [row.id], clock.now())
        assert on.database.read_now(requests.of_customer, *ids).rows
        on.database.read_now(requests.of_customer, *ids, 2**62)
        on.database.write_now(actions._settle_requests, row, clock.now())
    assert any("ix_request_of_customer " in line for line in plans)
    assert any("ix_request_open " in line for line in plans)


def test_the_same_is_not_asked_twice(scene: Callable[..., Scene]) -> None:
    on = kept(scene)
    on.do("undo_cancel")
    with pytest.raises(actions.Refused, match="You have asked Acme Coffee for this"):
        on.do("undo_cancel")
    assert mails(on) == ["request_new", "request_received"]


def test_a_withdrawn_request_can_be_asked_again(scene: Callable[..., Scene]) -> None:
    on = kept(scene)
    on.do("undo_cancel")
    first = the_request(on)
    on.database.write_now(requests.withdraw, on.portal.id, on.customer.id, first.id, clock.now())
    assert the_request(on).status == "withdrawn"
    with pytest.raises(requests.NotOpen):
        on.database.write_now(requests.withdraw, on.portal.id, on.customer.id, first.id, clock.now())
    assert on.do("undo_cancel").phase == "asked"
    assert mails(on).count("request_new") == 2


def test_a_strangers_request_is_not_there(scene: Callable[..., Scene]) -> None:
    on = kept(scene)
    on.do("undo_cancel")
    with pytest.raises(LookupError):
        on.database.write_now(
            requests.withdraw, on.portal.id, on.customer.id + 1, the_request(on).id, clock.now()
        )


@pytest.mark.parametrize(("status", "sentence"), [("done", None), ("declined", "We no longer roast it.")])
def test_the_merchant_answers_once(scene: Callable[..., Scene], status: str, sentence: str | None) -> None:
    on = kept(scene)
    on.do("undo_cancel")
    reference = the_request(on).reference.lower()
    on.database.write_now(requests.answer, on.portal.id, reference, status, sentence, "merchant", clock.now())
    answered = the_request(on)
    assert (answered.status, answered.answer) == (status, sentence)
    assert [entry["who"] for entry in answered.history] == ["customer", "merchant"]
    assert mails(on)[-1] == "request_answered"
    with pytest.raises(requests.NotOpen):
        on.database.write_now(
            requests.answer, on.portal.id, reference, status, sentence, "merchant", clock.now()
        )


def test_declining_takes_a_sentence(scene: Callable[..., Scene]) -> None:
    on = kept(scene)
    on.do("undo_cancel")
    with pytest.raises(ValueError, match="takes a sentence"):
        on.database.write_now(
            requests.answer, on.portal.id, the_request(on).reference, "declined", " ", "merchant", clock.now()
        )
    assert the_request(on).status == "open"


def test_a_late_one_alarms_once(scene: Callable[..., Scene]) -> None:
    on = kept(scene)
    on.do("undo_cancel")
    assert [job.run_at for job in on.jobs("request_late")] == [the_request(on).due_at]
    for _ in range(2):
        on.database.write_now(requests.late, the_request(on).id, clock.now())
    assert mails(on).count("request_late") == 1
    assert the_request(on).told_late_at is not None


def test_what_is_answered_is_never_late(scene: Callable[..., Scene]) -> None:
    on = kept(scene)
    on.do("undo_cancel")
    on.database.write_now(
        requests.answer, on.portal.id, the_request(on).reference, "done", None, "merchant", clock.now()
    )
    on.database.write_now(requests.late, the_request(on).id, clock.now())
    assert "request_late" not in mails(on)


def test_the_processor_can_show_that_it_is_done(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = capabilities.facts("payfast")
    asks = table.capabilities["cancel_now"].model_copy(update={"mode": "request", "when": []})
    changed = table.model_copy(update={"capabilities": {**table.capabilities, "cancel_now": asks}})
    monkeypatch.setattr("portal.offers.facts", lambda name: changed)
    on = scene()
    assert on.do("cancel_now").phase == "asked"
    record = SubscriptionRecord(remote_id="sub_1", status="cancelled", knows=frozenset({"status"}))

    def told(db: Any) -> None:
        sync.apply(db, on.account, Snapshot(as_of=clock.now(), subscriptions=(record,)))
        actions.settle(db, on.subscription.id, clock.now())

    on.database.write_now(told)
    done = the_request(on)
    assert done.status == "done"
    assert done.history[-1]["who"] == "PayFast"


def test_the_list_goes_on_by_its_cursor(scene: Callable[..., Scene]) -> None:
    on = kept(scene)

    def fill(db: Any) -> None:
        for number in range(30):
            requests.ask(
                db,
                on.portal.id,
                on.account.id,
                on.customer.id,
                number,
                "refund",
                f"No. {number}",
                clock.now(),
            )

    on.database.write_now(fill)
    first = on.database.read_now(requests.of_customer, on.portal.id, on.customer.id)
    assert [row.what for row in first.rows[:2]] == ["No. 29", "No. 28"]
    rest = on.database.read_now(requests.of_customer, on.portal.id, on.customer.id, first.older)
    assert [row.what for row in rest.rows] == [f"No. {n}" for n in range(4, -1, -1)]
    assert rest.older is None
    assert on.database.read_now(requests.of_customer, on.portal.id, on.customer.id + 1).rows == ()
