"""The modes beyond a direct call: guided, several calls, a pause until the cancel, a promise that cannot be read back,
an end that is ours, and the guard against charges after the end."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from portal import actions, clock, guard, letters, models, offers, sync, work
from portal.db import Database
from portal.gateways import base, capabilities
from portal.gateways.base import Leave, Method, Ref, Snapshot, SubscriptionRecord
from portal.money import Money
from tests.unit.test_actions import FakeGateway, Scene

Make = Callable[..., Scene]


class Pausing(FakeGateway):
    pauses_until_cancel = True


class Successor(FakeGateway):
    """Goes on after a cancel by starting a second subscription."""

    async def undo_cancel(self, ref: Ref, key: str) -> Snapshot:
        self.calls.append(("undo_cancel", key))
        assert isinstance(ref.known, SubscriptionRecord)
        self.paid_until = ref.known.current_period_end or clock.now()
        old = self.snapshot().subscriptions[0]
        new = SubscriptionRecord(remote_id="sub_2", status="active", email="ana@example.com")
        return Snapshot(as_of=clock.now(), subscriptions=(old, new))


@pytest.fixture
def scene(database: Database, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A scene at a processor whose facts are those of PayFast, with the given cells in place of its own."""

    def make(gateway: FakeGateway | None = None, cells: Mapping[str, Any] = {}, **fields: Any) -> Scene:
        used = gateway or FakeGateway()
        monkeypatch.setattr(actions, "open_gateway", lambda *a, **k: used)
        monkeypatch.setattr(work, "open_gateway", lambda *a, **k: used)
        monkeypatch.setattr(actions, "adapter", lambda name: type(used))
        table = capabilities.facts("payfast")
        changed = {
            key: table.capabilities[key].model_copy(update={"when": [], "how": None, "proof": None, **cell})  # type: ignore[index]
            for key, cell in cells.items()
        }
        facts = table.model_copy(update={"capabilities": {**table.capabilities, **changed}})
        for module in ("portal.offers", "portal.actions"):
            monkeypatch.setattr(f"{module}.facts", lambda name: facts)
        return Scene(database, used, "payfast", **fields)

    return make


GUIDED = {
    "mode": "guided",
    "steps": ["Sign in at PayFast.", "Choose a card."],
    "link": "https://www.payfast.co.za/me",
}


def test_guided_shows_steps_and_looks_when_it_is_said_to_be_done(scene: Make) -> None:
    on = scene(cells={"update_payment_method": GUIDED})
    offer = on.offers()["update_payment_method"]
    assert (offer.mode, offer.steps[0], offer.link) == ("guided", GUIDED["steps"][0], GUIDED["link"])
    done = on.do("update_payment_method")
    assert done.phase == "checking"
    assert on.gateway.calls == []
    on.gateway.method = Method("card", "Visa", "1881", "2030-01", "pm_new")
    asyncio.run(actions.read_back(on.database, on.settings, on.vault, done.action_id))
    assert on.action(done.action_id).phase == "confirmed"


def test_guided_without_a_change_ends_with_a_sentence(scene: Make) -> None:
    on = scene(cells={"update_payment_method": GUIDED})
    done = on.do("update_payment_method")
    clock.set_offset(timedelta(minutes=3))
    asyncio.run(actions.read_back(on.database, on.settings, on.vault, done.action_id))
    ended = on.action(done.action_id)
    assert ended.phase == "failed"
    assert "shows no new payment method" in (ended.error or "")


def test_guided_where_only_the_next_charge_shows_it(scene: Make) -> None:
    on = scene(cells={"update_payment_method": {**GUIDED, "proof": "next_charge"}})
    done = on.do("update_payment_method")
    assert done.phase == "visited"
    assert on.row().method_visited_at is not None


CALLS = {"mode": "emulated", "how": "calls"}


def test_an_end_by_calls_keeps_the_access_first_and_ends_by_our_job(scene: Make) -> None:
    on = scene(cells={"cancel_at_period_end": CALLS})
    on.gateway.effects["cancel_at_period_end"] = "paused"
    done = on.do("cancel_at_period_end")
    row = on.row()
    assert on.action(done.action_id).phase == "confirmed"
    assert row.access_until == row.current_period_end == row.cancel_scheduled_at
    assert offers.state_of(row) == "cancels_at_period_end"
    clock.set_offset(timedelta(days=21))
    asyncio.run(on.worker.drain())
    assert [name for name, _ in on.gateway.calls] == ["cancel_at_period_end", "cancel_now"]
    assert on.row().status == "cancelled"


def test_what_was_kept_for_calls_goes_when_they_fail(scene: Make) -> None:
    on = scene(cells={"cancel_at_period_end": CALLS})
    on.gateway.errors = [base.Declined("No.")]
    assert on.do("cancel_at_period_end").phase == "failed"
    row = on.row()
    assert (row.access_until, row.cancel_scheduled_at) == (None, None)


def test_a_scheduled_cancel_may_pause_until_then(scene: Make) -> None:
    on = scene(Pausing(), cells={"cancel_at_period_end": {"mode": "emulated", "how": "schedule"}})
    done = on.do("cancel_at_period_end")
    assert [name for name, _ in on.gateway.calls] == ["pause"]
    row = on.row()
    assert on.action(done.action_id).phase == "confirmed"
    assert offers.state_of(row) == "cancels_at_period_end"
    assert row.cancel_scheduled_at == row.current_period_end
    clock.set_offset(timedelta(days=21))
    asyncio.run(on.worker.drain())
    assert on.gateway.calls[-1][0] == "cancel_now"


def test_a_pause_until_the_cancel_is_taken_back_by_a_call(scene: Make) -> None:
    cells = {
        "cancel_at_period_end": {"mode": "emulated", "how": "schedule"},
        "undo_cancel": {"mode": "direct"},
    }
    on = scene(Pausing(), cells=cells)
    on.do("cancel_at_period_end")
    done = on.do("undo_cancel")
    assert on.action(done.action_id).phase == "confirmed"
    row = on.row()
    assert (row.status, row.access_until, row.cancel_scheduled_at) == ("active", None, None)
    clock.set_offset(timedelta(days=21))
    asyncio.run(on.worker.drain())
    assert [name for name, _ in on.gateway.calls] == ["pause", "undo_cancel"]


def test_going_on_by_calls_is_proved_by_the_one_that_takes_its_place(scene: Make) -> None:
    gateway = Successor()
    on = scene(
        gateway,
        cells={"undo_cancel": CALLS},
        status="cancelled",
        access_until=clock.now() + timedelta(days=9),
    )
    gateway.status = "cancelled"
    done = on.do("undo_cancel")
    assert on.action(done.action_id).phase == "confirmed"
    found = on.database.read_now(
        lambda db: db.execute(
            select(models.Subscription).where(models.Subscription.remote_id == "sub_2")  # type: ignore[arg-type]
        ).scalar_one()
    )
    assert (found.status, found.customer_id) == ("active", on.customer.id)
    assert on.row().access_until is None
    assert gateway.paid_until > clock.now()


def test_an_accepted_cancel_that_the_processor_does_not_show_is_remembered(scene: Make) -> None:
    on = scene(cells={"cancel_at_period_end": {"mode": "direct", "proof": "answer"}})
    on.gateway.effects["cancel_at_period_end"] = "active"
    done = on.do("cancel_at_period_end")
    assert on.action(done.action_id).phase == "confirmed"
    row = on.row()
    assert (row.status, row.promised_until) == ("cancels_at_period_end", row.current_period_end)
    record = SubscriptionRecord(remote_id="sub_1", status="active", knows=frozenset({"status"}))

    def told(db: Any, after: timedelta) -> None:
        sync.apply(db, on.account, Snapshot(as_of=clock.now() + after, subscriptions=(record,)))

    on.database.write_now(told, timedelta(seconds=5))
    assert on.row().status == "cancels_at_period_end"
    on.database.write_now(told, timedelta(days=30))
    assert on.row().status == "active"  # the promise was not kept, and the page says so


def test_a_promised_end_that_does_not_come_is_brought_about(scene: Make) -> None:
    on = scene(cells={"cancel_at_period_end": {"mode": "direct", "proof": "answer"}})
    on.gateway.effects["cancel_at_period_end"] = "active"
    on.do("cancel_at_period_end")
    clock.set_offset(timedelta(days=20, hours=2))
    asyncio.run(on.worker.drain())
    assert [name for name, _ in on.gateway.calls] == ["cancel_at_period_end", "cancel_now"]
    assert on.row().status == "cancelled"


def test_a_promised_end_that_came_needs_no_call(scene: Make) -> None:
    on = scene(cells={"cancel_at_period_end": {"mode": "direct", "proof": "answer"}})
    on.gateway.effects["cancel_at_period_end"] = "active"
    on.do("cancel_at_period_end")
    on.gateway.status = "cancelled"
    clock.set_offset(timedelta(days=20, hours=2))
    asyncio.run(on.worker.drain())
    assert [name for name, _ in on.gateway.calls] == ["cancel_at_period_end"]
    assert on.row().status == "cancelled"


def test_an_end_today_that_runs_out_at_the_processor_is_over_for_the_customer(scene: Make) -> None:
    on = scene(cells={"cancel_now": CALLS})
    on.gateway.effects["cancel_now"] = "cancels_at_period_end"
    done = on.do("cancel_now")
    assert on.action(done.action_id).phase == "confirmed"
    assert on.row().status == "cancelled"
    record = SubscriptionRecord(
        remote_id="sub_1", status="cancels_at_period_end", knows=frozenset({"status"})
    )

    def told(db: Any) -> None:
        later = clock.now() + timedelta(seconds=5)
        sync.apply(db, on.account, Snapshot(as_of=later, subscriptions=(record,)))

    on.database.write_now(told)
    assert on.row().status == "cancelled"


def test_the_adapter_can_ask_and_tell_the_merchant(scene: Make) -> None:
    on = scene(cells={"update_payment_method": {"mode": "hosted"}})

    async def finish(ref: Ref, state: Any, query: Any) -> Snapshot:
        return replace(on.gateway.snapshot(), ask="Adopt the new card.", tell="A card was stored.")

    on.gateway.leave_url = "https://www.payfast.co.za/eng/recurring/update/1"
    on.gateway.finish_method_update = finish  # type: ignore[method-assign]
    done = on.do("update_payment_method")
    state = on.database.read_now(lambda db: db.get_one(models.Action, done.action_id).phase)
    assert state == "away"
    on.database.write_now(
        actions.look_again,
        on.portal.id,
        on.customer.id,
        on.subscription.id,
        "update_payment_method",
        clock.now(),
    )
    asyncio.run(actions.finish_method(on.database, on.settings, on.vault, done.action_id))
    assert on.action(done.action_id).phase == "asked"
    asked = on.database.read_now(lambda db: db.execute(select(models.Request)).scalar_one())
    assert (asked.kind, asked.params["to_do"]) == ("update_payment_method", "Adopt the new card.")
    assert "merchant_notice" in [job.payload["template"] for job in on.jobs("mail")]


PLANS = [
    {"title": "Big box", "plan": None, "minor": 4800, "currency": "ZAR", "unit": "month", "count": 1},
    {"title": "The same", "plan": None, "minor": 2400, "currency": "ZAR", "unit": "month", "count": 1},
    {"title": "In dollars", "plan": None, "minor": 4800, "currency": "USD", "unit": "month", "count": 1},
]


def with_plans(scene: Make, gateway: FakeGateway | None = None) -> Scene:
    on = scene(
        gateway,
        cells={"change_plan": {"mode": "direct", "changes": ["amount"]}},
        amount_minor=2400,
        currency="ZAR",
        interval_unit="month",
        interval_count=1,
    )

    def listed(db: Any) -> None:
        db.get_one(models.Account, on.account.id).plans = PLANS

    on.database.write_now(listed)
    on.account.plans = PLANS
    return on


def test_only_plans_of_the_merchants_list_that_fit_are_offered(scene: Make) -> None:
    offer = with_plans(scene).offers()["change_plan"]
    assert offer.ok
    assert [plan["title"] for plan in offer.plans] == ["Big box"]


def test_without_a_list_no_other_plan_is_offered(scene: Make) -> None:
    on = scene(cells={"change_plan": {"mode": "direct", "changes": ["amount"]}})
    assert on.offers()["change_plan"].why == "Acme Coffee offers no other plan for this."


class Changing(FakeGateway):
    amount = 2400

    def snapshot(self) -> Snapshot:
        record = replace(
            super().snapshot().subscriptions[0],
            amount=Money(self.amount, "ZAR"),
            knows=frozenset({"status", "method", "due", "amount"}),
        )
        return Snapshot(as_of=clock.now(), subscriptions=(record,))

    async def change_plan(self, ref: Ref, change: Any, return_url: str, key: str) -> Snapshot | Leave:
        self.calls.append(("change_plan", str(change["amount"].minor)))
        self.amount = change["amount"].minor
        return self.snapshot()


def test_a_plan_is_changed_to_what_the_list_says_and_proved(scene: Make) -> None:
    on = with_plans(scene, Changing())
    with pytest.raises(actions.Refused, match="Choose one"):
        on.do("change_plan", params={"plan": "The same"})
    done = on.do("change_plan", params={"plan": "Big box"})
    assert on.gateway.calls == [("change_plan", "4800")]
    assert on.action(done.action_id).phase == "confirmed"
    assert on.row().amount_minor == 4800


def test_a_second_click_is_the_same_plan_and_a_second_plan_is_no_second_click(scene: Make) -> None:
    on = with_plans(scene, Changing())
    first = on.do("change_plan", params={"plan": "Big box"})
    assert on.do("change_plan", params={"plan": "Big box"}).action_id == first.action_id
    assert on.do("change_plan", params={"plan": "The same"}).action_id != first.action_id
    assert on.gateway.calls == [("change_plan", "4800"), ("change_plan", "2400")]


# The guard


def paid(on: Scene, at_days: float, **fields: Any) -> models.Payment:
    """A payment of the scene's subscription, so many days from now, as a webhook would bring it."""
    record = base.PaymentRecord(
        remote_id=f"pay_{at_days}",
        status="paid",
        subscription="sub_1",
        email="ana@example.com",
        amount=Money(2400, "ZAR"),
        paid_at=clock.now() + timedelta(days=at_days),
        **fields,
    )

    def told(db: Any) -> models.Payment:
        changes = sync.apply(db, on.account, Snapshot(as_of=clock.now(), payments=(record,)))
        work._follow(db, on.account, changes, clock.now())
        found: models.Payment = db.get_one(models.Payment, changes[0].id)
        return found

    return on.database.write_now(told)


def test_a_charge_after_the_end_is_told_to_both_sides_once(scene: Make) -> None:
    on = scene()
    on.do("cancel_now")
    assert paid(on, 30).after_end_at is not None
    paid(on, 30)
    told = [job.payload["template"] for job in on.jobs("mail")]
    assert told.count("charged_after_end") == 1
    assert told.count("merchant_charged_after_end") == 1


@pytest.mark.parametrize("state", ["active", "past_due", "paused"])
def test_a_charge_while_it_goes_on_is_none(scene: Make, state: str) -> None:
    assert paid(scene(status=state), 1).after_end_at is None


def test_a_charge_that_was_under_way_is_none(scene: Make) -> None:
    on = scene()
    on.do("cancel_now")
    assert paid(on, 0.01).after_end_at is None


def test_a_promise_that_is_not_kept_is_seen(scene: Make) -> None:
    on = scene(status="cancels_at_period_end", promised_until=clock.now() + timedelta(days=5))
    assert paid(on, 4).after_end_at is None
    assert paid(on, 6).after_end_at is not None


def test_the_mails_of_the_guard_say_what_was_taken(scene: Make) -> None:
    on = scene()
    on.do("cancel_now")
    payment = paid(on, 30, title="Coffee box")
    payload = {"template": "charged_after_end", "payment": payment.id}
    letter = on.database.read_now(letters._charged_after_end, payload, on.settings)
    assert letter is not None
    assert letter.to == "ana@example.com"
    assert "ZAR" in letter.context["paragraphs"][0] or "R" in letter.context["paragraphs"][0]
    assert letter.subject == "Charged after it had ended: Coffee box"
    other = on.database.read_now(
        letters._charged_after_end, {**payload, "template": "merchant_charged_after_end"}, on.settings
    )
    assert other is not None
    assert other.to == "help@acme.example"


def test_the_guard_reads_the_end_that_is_known(scene: Make) -> None:
    on = scene(status="cancelled", ended_at=clock.now() - timedelta(days=3))
    assert on.database.read_now(lambda db: guard.ended_at(db, on.row())) == on.row().ended_at
