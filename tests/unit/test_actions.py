"""Actions: what is offered, one call a wish, proof by reading back, and what becomes of failures."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from portal import actions, clock, models, offers, tenancy, work
from portal.db import Database
from portal.gateways.base import (
    Declined,
    Gateway,
    GatewayError,
    Leave,
    Method,
    Ref,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
)
from portal.settings import Settings
from portal.vault import Vault
from tests.unit import builders
from tests.unit.builders import MASTER_KEY, make_account, make_customer, make_portal, make_subscription


class FakeGateway(Gateway):
    """A processor in a few lines: what it holds, what it was asked, and how it behaves next."""

    def __init__(self) -> None:
        super().__init__({})
        self.status: Any = "active"
        self.method = Method("card", "Visa", "4242", "2028-09", "pm_old")
        self.calls: list[tuple[str, str]] = []
        self.errors: list[GatewayError] = []
        self.effect_despite_error = False
        self.leave_url = "https://checkout.stripe.com/c/pay/1"
        self.slow = 0.0
        self.effects: dict[str, str] = {}  # what a call leads to, where that is not the usual

    async def _do(self, name: str, key: str, status: str) -> Snapshot:
        self.calls.append((name, key))
        status = self.effects.get(name, status)
        await asyncio.sleep(self.slow)
        if self.errors:
            error = self.errors.pop(0)
            if self.effect_despite_error:
                self.status = status
            raise error
        self.status = status
        return self.snapshot()

    def snapshot(self) -> Snapshot:
        known = frozenset({"status", "method", "due"})
        record = SubscriptionRecord(remote_id="sub_1", status=self.status, method=self.method, knows=known)
        return Snapshot(as_of=clock.now(), subscriptions=(record,))

    async def fetch(self, ref: Ref) -> Snapshot:
        return self.snapshot()

    async def cancel_now(self, ref: Ref, key: str) -> Snapshot:
        return await self._do("cancel_now", key, "cancelled")

    async def cancel_at_period_end(self, ref: Ref, key: str) -> Snapshot:
        return await self._do("cancel_at_period_end", key, "cancels_at_period_end")

    async def undo_cancel(self, ref: Ref, key: str) -> Snapshot:
        return await self._do("undo_cancel", key, "active")

    async def pause(self, ref: Ref, key: str) -> Snapshot:
        return await self._do("pause", key, "paused")

    async def resume(self, ref: Ref, key: str) -> Snapshot:
        return await self._do("resume", key, "active")

    async def start_method_update(self, ref: Ref, return_url: str, key: str) -> Leave:
        self.calls.append(("start_method_update", return_url))
        return Leave(self.leave_url, {"session": "cs_1"})

    async def finish_method_update(self, ref: Ref, state: Any, query: Any) -> Snapshot:
        self.calls.append(("finish_method_update", state["session"]))
        return self.snapshot()


class Scene:
    """A customer with one subscription at a processor, and ways to act and look."""

    def __init__(self, database: Database, gateway: FakeGateway, processor: str, **fields: Any) -> None:
        self.database = database
        self.gateway = gateway
        self.settings = Settings(master_keys=MASTER_KEY, scheme="http")
        self.vault = Vault(MASTER_KEY)
        portal = make_portal(database)
        self.account = make_account(database, portal, processor, options=fields.pop("options", []))
        self.customer = make_customer(database, portal)
        now = clock.now()
        values: dict[str, Any] = {
            "remote_id": "sub_1",
            "as_of": now - timedelta(days=1),
            "method": {"kind": "card", "brand": "Visa", "last4": "4242", "remote_id": "pm_old"},
            "current_period_end": now + timedelta(days=20),
            "next_on": (now + timedelta(days=20)).date(),
            **fields,
        }
        self.subscription = make_subscription(database, self.account, self.customer, **values)
        gateway.status = values.get("status", "active")
        view = database.read_now(tenancy.portal_by_host, "acme.localhost", "localhost")
        assert view is not None
        self.portal = view
        self.worker = work.Worker(self.settings, database)

    def do(self, key: Any, customer_id: int | None = None, params: Any = None) -> actions.Done:
        return asyncio.run(self.doing(key, customer_id, params))

    async def doing(self, key: Any, customer_id: int | None = None, params: Any = None) -> actions.Done:
        return await actions.perform(
            self.database,
            self.settings,
            self.vault,
            self.portal,
            customer_id or self.customer.id,
            self.subscription.id,
            key,
            params,
        )

    def offers(self) -> dict[Any, offers.Offer]:
        return offers.available(self.row(), self.account, self.portal, clock.now())

    def row(self) -> models.Subscription:
        return self.database.read_now(lambda db: db.get_one(models.Subscription, self.subscription.id))

    def action(self, action_id: int) -> models.Action:
        return self.database.read_now(lambda db: db.get_one(models.Action, action_id))

    def jobs(self, kind: str) -> list[models.Job]:
        found = select(models.Job).where(models.Job.kind == kind)  # type: ignore[arg-type]
        return list(self.database.read_now(lambda db: db.execute(found).scalars().all()))

    def mails(self) -> list[str]:
        return sorted(job.payload["template"] for job in self.jobs("mail"))

    def state_of(self, return_url: str) -> str:
        signed = return_url.rsplit("/", 1)[1]
        state = actions.open_state(self.settings, signed)
        assert state is not None
        assert actions.open_state(self.settings, signed + "x") is None
        assert actions.open_state(self.settings, state) is None
        return state

    def work_at(self, after: timedelta) -> None:
        """Let so much time pass and the worker do what is due then (mails apart)."""
        clock.set_offset(clock.offset() + after)

        async def others() -> None:
            batch = await self.database.write(work.claim, clock.now(), 50)
            for job in batch:
                if job.kind in ("mail", "login_mail"):
                    await self.database.write(work.postpone, job, clock.now() + timedelta(days=9999))
                else:
                    await self.worker._each([job])

        asyncio.run(others())


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
def scene(database: Database, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scene]:
    for module in (actions, work):
        monkeypatch.setattr(module, "open_gateway", lambda *_args, **_kwargs: gateway)

    def make(processor: str = "stripe", **fields: Any) -> Scene:
        return Scene(database, gateway, processor, **fields)

    return make


def test_cancel_is_confirmed_by_what_the_processor_says(scene: Callable[..., Scene]) -> None:
    on = scene()
    done = on.do("cancel_at_period_end")
    action = on.action(done.action_id)
    assert (done.phase, on.row().status) == ("confirmed", "cancels_at_period_end")
    assert action.confirmed_at is not None
    assert on.mails() == ["cancelled"]
    assert on.gateway.calls == [("cancel_at_period_end", f"portal-{done.action_id}")]


def test_fifty_clicks_at_once_make_exactly_one_call(scene: Callable[..., Scene]) -> None:
    on = scene()
    on.gateway.slow = 0.2

    async def storm() -> list[actions.Done]:
        return await asyncio.gather(*(on.doing("cancel_now") for _ in range(50)))

    outcomes = asyncio.run(storm())
    assert len({done.action_id for done in outcomes}) == 1
    assert {done.phase for done in outcomes} <= {"checking", "sent", "confirmed"}
    assert len(on.gateway.calls) == 1


def test_a_second_click_is_told_how_the_wish_stands_and_another_wish_is_not_taken_for_it(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    on = scene()
    first = on.do("cancel_at_period_end", params={"reason": "Too dear"})
    again = on.do("cancel_at_period_end")
    assert (again.action_id, again.phase) == (first.action_id, "confirmed")
    with pytest.raises(actions.Refused):
        on.do("resume")
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + actions.TWICE)
    with pytest.raises(actions.Refused, match="has changed meanwhile"):
        on.do("cancel_at_period_end")
    assert on.do("undo_cancel").phase == "confirmed"
    assert on.do("cancel_at_period_end").action_id != first.action_id  # another wish after another one
    assert len(on.gateway.calls) == 3


def test_time_out_with_effect_is_found_by_reading_back_and_never_called_again(
    scene: Callable[..., Scene],
) -> None:
    on = scene()
    on.gateway.errors = [Unavailable("It does not answer.", sent=True)]
    on.gateway.effect_despite_error = True
    done = on.do("cancel_now")
    assert done.phase == "checking"
    assert on.row().status == "active"  # nothing is shown as done because we asked for it
    on.work_at(timedelta(seconds=10))
    assert on.action(done.action_id).phase == "confirmed"
    assert [name for name, _ in on.gateway.calls] == ["cancel_now"]


def test_time_out_without_effect_is_sent_again_under_the_same_key(scene: Callable[..., Scene]) -> None:
    on = scene()
    on.gateway.errors = [Unavailable("It does not answer.", sent=True)]
    done = on.do("cancel_now")
    on.work_at(timedelta(seconds=10))
    assert on.action(done.action_id).phase == "confirmed"
    assert {key for _, key in on.gateway.calls} == {f"portal-{done.action_id}"}
    assert len(on.gateway.calls) == 2


def test_a_pause_that_left_no_trace_is_given_back_and_not_sent_again(scene: Callable[..., Scene]) -> None:
    on = scene()
    on.gateway.errors = [Unavailable("It does not answer.", sent=True)]
    done = on.do("pause")
    assert done.phase == "checking"
    on.work_at(timedelta(seconds=10))
    on.work_at(timedelta(minutes=5))
    assert on.action(done.action_id).phase == "failed"
    assert [name for name, _ in on.gateway.calls] == ["pause"]


def test_declined_says_so_and_leaves_the_way_open(scene: Callable[..., Scene]) -> None:
    on = scene()
    on.gateway.errors = [Declined("The bank said no. Nothing was changed.", reason="x")]
    done = on.do("pause")
    action = on.action(done.action_id)
    assert (action.phase, action.error) == ("failed", "The bank said no. Nothing was changed.")
    assert on.do("pause").phase == "confirmed"


def test_a_dead_processor_is_asked_again_by_us_until_the_cancel_is_through(
    scene: Callable[..., Scene],
) -> None:
    on = scene()
    on.gateway.errors = [Unavailable("Down.", sent=False), Unavailable("Down.", sent=False)]
    done = on.do("cancel_at_period_end")
    assert done.phase == "checking"
    for _ in range(4):
        on.work_at(timedelta(minutes=2))
    assert on.action(done.action_id).phase == "confirmed"


def test_unproven_after_fifteen_minutes_alarms_the_merchant_once(scene: Callable[..., Scene]) -> None:
    on = scene()

    async def stubborn(ref: Ref, key: str) -> Snapshot:
        on.gateway.calls.append(("pause", key))
        return on.gateway.snapshot()

    on.gateway.pause = stubborn  # type: ignore[method-assign]
    done = on.do("pause")
    assert done.phase == "checking"
    for _ in range(6):
        on.work_at(timedelta(minutes=16))
    assert on.mails().count("merchant_alarm") == 1
    assert on.action(done.action_id).phase == "checking"


def test_a_crash_between_claim_and_call_is_finished_by_the_worker(scene: Callable[..., Scene]) -> None:
    on = scene()
    claimed = on.database.write_now(
        actions.claim, on.portal, on.customer.id, on.subscription.id, "cancel_now", {}, clock.now()
    )
    on.work_at(timedelta(minutes=2))  # sees that nothing has happened
    on.work_at(timedelta(minutes=2))
    assert on.action(claimed.action_id).phase == "confirmed"
    assert len(on.gateway.calls) == 1


@pytest.mark.parametrize("ends", ["answer", "time-out"])
def test_a_webhook_that_is_faster_than_the_answer_has_the_last_word(
    scene: Callable[..., Scene], ends: str
) -> None:
    on = scene()

    async def overtaken(ref: Ref, key: str) -> Snapshot:
        on.gateway.status = "cancels_at_period_end"
        snapshot = on.gateway.snapshot()
        await on.database.write(on.worker._write, on.account, snapshot)
        if ends == "time-out":
            raise Unavailable("It does not answer.", sent=True)
        return snapshot

    on.gateway.cancel_at_period_end = overtaken  # type: ignore[method-assign]
    done = on.do("cancel_at_period_end")
    action = on.action(done.action_id)
    assert (done.phase, action.phase) == ("confirmed", "confirmed")
    assert action.closed_at is not None
    assert on.mails() == ["cancelled"]


def test_stranger_gets_nothing(scene: Callable[..., Scene]) -> None:
    on = scene()
    stranger = make_customer(on.database, make_portal(on.database, "kora"), "eve@example.com")
    with pytest.raises(LookupError):
        on.do("cancel_now", customer_id=stranger.id)
    assert on.gateway.calls == []


def test_keep_holds_the_access_before_the_call(scene: Callable[..., Scene]) -> None:
    on = scene("payfast")
    seen: list[datetime | None] = []
    original = on.gateway.cancel_now

    async def looking(ref: Ref, key: str) -> Snapshot:
        seen.append(on.row().access_until)
        return await original(ref, key)

    on.gateway.cancel_now = looking  # type: ignore[method-assign]
    done = on.do("cancel_at_period_end")
    assert done.phase == "confirmed"
    assert seen == [on.subscription.current_period_end]
    assert on.row().status == "cancelled"
    assert on.row().access_until == on.subscription.current_period_end


def test_keep_that_fails_takes_the_access_note_back(scene: Callable[..., Scene]) -> None:
    on = scene("payfast")
    on.gateway.errors = [Declined("No.")]
    on.do("cancel_at_period_end")
    assert on.row().access_until is None


def test_schedule_waits_can_be_undone_and_calls_nobody_till_then(scene: Callable[..., Scene]) -> None:
    on = scene("payfast", options=["schedule_cancel"])
    done = on.do("cancel_at_period_end")
    row = on.row()
    assert done.phase == "scheduled"
    assert row.cancel_scheduled_at is not None
    assert on.subscription.current_period_end is not None
    assert on.subscription.current_period_end - row.cancel_scheduled_at >= timedelta(hours=24)
    assert on.gateway.calls == []
    assert on.offers()["undo_cancel"].ok
    assert on.do("undo_cancel").phase == "undone"
    assert on.row().cancel_scheduled_at is None
    on.work_at(timedelta(days=19))
    assert on.gateway.calls == []
    assert on.mails() == ["cancel_undone", "cancelled"]


def test_schedule_runs_in_time(scene: Callable[..., Scene]) -> None:
    on = scene("payfast", options=["schedule_cancel"])
    on.do("cancel_at_period_end")
    on.work_at(timedelta(days=16))
    assert on.gateway.calls == []
    on.work_at(timedelta(days=1, hours=1))
    assert [name for name, _ in on.gateway.calls] == ["cancel_now"]
    row = on.row()
    assert (row.status, row.cancel_scheduled_at) == ("cancelled", None)
    assert row.access_until == on.subscription.current_period_end
    assert on.mails() == ["cancelled"]


@pytest.mark.parametrize(
    "fields",
    [
        {"current_period_end": builders.NOW},
        {"status": "past_due"},
    ],
    ids=["less than a day left", "past due"],
)
def test_schedule_is_not_risked_when_the_next_charge_is_near(
    scene: Callable[..., Scene], fields: dict[str, Any]
) -> None:
    if "current_period_end" in fields:
        fields = {"current_period_end": clock.now() + timedelta(hours=20)}
    on = scene("payfast", options=["schedule_cancel"], **fields)
    assert on.do("cancel_at_period_end").phase == "confirmed"
    assert [name for name, _ in on.gateway.calls] == ["cancel_now"]


def test_new_card_is_checked_until_the_processor_shows_it(scene: Callable[..., Scene]) -> None:
    on = scene()
    done = on.do("update_payment_method")
    assert done.leave is not None
    assert done.leave.url == "https://checkout.stripe.com/c/pay/1"
    return_url = dict(on.gateway.calls)["start_method_update"]
    state = on.state_of(return_url)
    spent = on.database.write_now(actions.spend_state, state, {"session_id": "forged"}, clock.now())
    assert spent == "update_payment_method"
    assert on.action(done.action_id).phase == "checking"
    assert on.database.write_now(actions.spend_state, state, {}, clock.now()) is None  # once
    on.gateway.method = replace(on.gateway.method, last4="4444", remote_id="pm_new")
    on.work_at(timedelta(seconds=1))
    assert on.action(done.action_id).phase == "confirmed"
    assert (on.row().method or {})["last4"] == "4444"
    assert on.mails() == ["card_changed"]


def test_coming_back_without_a_new_card_ends_in_a_plain_sentence(scene: Callable[..., Scene]) -> None:
    on = scene()
    done = on.do("update_payment_method")
    state = on.state_of(dict(on.gateway.calls)["start_method_update"])
    on.database.write_now(actions.spend_state, state, {}, clock.now())
    on.work_at(timedelta(seconds=1))
    assert on.action(done.action_id).phase == "checking"
    on.work_at(timedelta(minutes=3))
    action = on.action(done.action_id)
    assert action.phase == "failed"
    assert "The old one stays" in (action.error or "")


def test_payfast_tells_nothing_back_and_the_row_says_when_they_were_there(
    scene: Callable[..., Scene],
) -> None:
    on = scene("payfast")
    on.gateway.leave_url = "https://www.payfast.co.za/eng/recurring/update/x"
    done = on.do("update_payment_method")
    state = on.state_of(dict(on.gateway.calls)["start_method_update"])
    on.database.write_now(actions.spend_state, state, {}, clock.now())
    assert on.action(done.action_id).phase == "visited"
    assert on.row().method_visited_at is not None


def test_nobody_is_sent_to_a_strange_host(scene: Callable[..., Scene]) -> None:
    on = scene()
    on.gateway.leave_url = "https://evil.example/c/pay/1"
    done = on.do("update_payment_method")
    assert done.leave is None
    assert done.phase == "failed"


def test_who_went_away_may_cancel_instead(scene: Callable[..., Scene]) -> None:
    on = scene()
    away = on.do("update_payment_method")
    assert on.do("cancel_at_period_end").phase == "confirmed"
    assert on.action(away.action_id).phase == "left"


@pytest.mark.parametrize(
    ("processor", "status", "has", "has_not"),
    [
        (
            "stripe",
            "active",
            {"cancel_at_period_end", "cancel_now", "pause", "update_payment_method"},
            {"undo_cancel", "resume"},
        ),
        ("stripe", "cancels_at_period_end", {"undo_cancel", "cancel_now"}, {"pause", "cancel_at_period_end"}),
        ("stripe", "paused", {"resume"}, {"pause"}),
        ("stripe", "cancelled", set(), {"cancel_now", "undo_cancel", "update_payment_method", "pause"}),
        ("payfast", "active", {"cancel_at_period_end", "cancel_now", "pause"}, {"undo_cancel"}),
        ("payfast", "past_due", {"cancel_now"}, {"pause", "resume"}),
        ("payfast", "expired", set(), {"cancel_now", "cancel_at_period_end"}),
    ],
)
def test_what_is_offered_by_state(
    scene: Callable[..., Scene], processor: str, status: str, has: set[str], has_not: set[str]
) -> None:
    offers = scene(processor, status=status).offers()
    ok = {key for key, offer in offers.items() if offer.ok}
    assert has <= ok
    assert not has_not & ok


def test_what_cannot_be_had_says_why(scene: Callable[..., Scene]) -> None:
    on = scene("payfast", status="active")
    offer = on.offers()["skip_next_payment"]
    assert not offer.ok
    assert offer.why == "PayFast can't leave out a single payment."


def test_what_the_merchant_switched_off_is_refused_with_the_reason(scene: Callable[..., Scene]) -> None:
    on = scene()
    on.account.switched_off = ["pause"]

    def switch_off(db: Any) -> None:
        db.get_one(models.Account, on.account.id).switched_off = ["pause"]

    on.database.write_now(switch_off)
    assert not on.offers()["pause"].ok
    with pytest.raises(actions.Refused, match="switched this off"):
        on.do("pause")
    assert on.gateway.calls == []
