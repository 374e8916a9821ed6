"""What every processor is put through: refusals, outages, time-outs after the effect, limits, garbage, and webhooks
that come twice, late, out of order, forged, or proved with the secret of before."""

import asyncio
import json
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest

from portal import clock, models
from portal.gateways import facts, processors
from portal.gateways.base import GatewayError, Ref, Snapshot, Unavailable
from portal.vault import Vault
from seeds.simulators.harness import Situation
from tests.contract.house import House
from tests.unit.builders import MASTER_KEY

ENDED = ("cancelled", "expired")
GARBAGE = ("html", "empty", "truncated", "wrong_types", "missing_fields", "unknown_status")
ALL = pytest.mark.parametrize("processor", processors())


def cancelling(processor: str) -> bool:
    """Whether a cancel is a call of the adapter's here."""
    return facts(processor).capabilities["cancel_now"].mode in ("direct", "emulated")


CANCELLING = pytest.mark.parametrize("processor", [name for name in processors() if cancelling(name)])
SIGNED = pytest.mark.parametrize(
    "processor",
    [name for name in processors() if any(one.proves != "nothing" for one in facts(name).webhooks)],
)
UNSIGNED = pytest.mark.parametrize(
    "processor",
    [name for name in processors() if any(one.proves == "nothing" for one in facts(name).webhooks)],
)


def active(house: House) -> Any:
    row = house.stage(Situation())
    assert row is not None
    return row


def cancel(house: House, row: Any) -> models.Action:
    house.press(row, "cancel", "cancel_now")
    action = house.action(row)
    assert action is not None
    return action


def charges(house: House, row: Any) -> bool:
    return house.simulator.standing(row.remote_id).charges


# Looking


@ALL
def test_the_seeded_customer_signs_in_and_sees_every_tab(house: House, processor: str) -> None:
    one = house.simulator
    one.fill(house.sample)
    house.tell()
    pages = asyncio.run(_backfilled(house))
    house.database.write_now(_write_all, house.account, pages)
    for headers, body in one.past_deliveries(house.sample):
        assert house.deliver(headers, body).status_code == 200
    house.tell()
    house.sign_in("noor@example.com")
    orders = house.get("/customers/orders").text
    assert 'data-testid="order"' in orders or 'id="order-' in orders, "no order"
    has_subscriptions = facts(processor).capabilities["next_payment"].mode != "none"
    subscriptions = house.get("/customers/subscriptions").text
    assert ('data-testid="subscription"' in subscriptions) == has_subscriptions
    assert house.get("/customers/upcoming").status_code == 200
    assert 'data-testid="payment"' in house.get("/customers/payments").text
    house.sign_in(f"{processor}@example.com")
    for tab in ("orders", "subscriptions", "upcoming", "payments", "requests", "help/what-can-i-do"):
        assert house.get(f"/customers/{tab}").status_code == 200


async def _backfilled(house: House) -> list[Snapshot]:
    gateway = house.gateway()
    try:
        return [page.snapshot async for page in gateway.backfill()]
    finally:
        await gateway.aclose()


def _write_all(db: Any, account: models.Account, snapshots: list[Snapshot]) -> None:
    from portal import sync

    for snapshot in snapshots:
        sync.apply(db, account, snapshot)


@ALL
def test_a_second_backfill_changes_nothing(house: House, processor: str) -> None:
    house.simulator.fill(house.sample)
    house.database.write_now(_write_all, house.account, asyncio.run(_backfilled(house)))
    first = _plain(house)
    house.database.write_now(_write_all, house.account, asyncio.run(_backfilled(house)))
    assert _plain(house) == first


def _plain(house: House) -> dict[str, Any]:
    """The rows without the moments of looking."""
    return {
        table: sorted(
            (
                {name: value for name, value in row.items() if name not in ("as_of", "stamps", "placed_at")}
                for row in rows
            ),
            key=lambda row: str(row["id"]),
        )
        for table, rows in house.everything().items()
    }


# The processor refuses, fails, is slow


@CANCELLING
def test_a_decline_changes_nothing_and_says_so(house: House, processor: str) -> None:
    row = active(house)
    house.simulator.switch("decline")
    action = cancel(house, row)
    assert action.phase == "failed", action.phase
    assert action.error
    assert charges(house, row)
    assert house.row(row.id).status == "active"
    assert "Not cancelled" in _card(house, row)


@CANCELLING
def test_an_outage_is_waited_out_and_the_cancel_still_happens_once(house: House, processor: str) -> None:
    row = active(house)
    house.simulator.switch("down")
    action = cancel(house, row)
    assert action.phase == "checking"
    assert charges(house, row)
    assert "Checking with" in _card(house, row)
    house.simulator.switch("ok")
    house.until_ended(row, 8, seconds=40)
    assert house.row(row.id).status in ENDED
    assert not charges(house, row)
    closed = house.action(row)
    assert closed is not None
    assert closed.phase == "confirmed"


@CANCELLING
def test_a_time_out_after_the_effect_is_unknown_until_it_is_read_back(house: House, processor: str) -> None:
    row = active(house)
    house.simulator.fail_writes = ["timeout_after"]
    with house.impatient():
        action = cancel(house, row)
    assert action.phase in ("checking", "confirmed")
    house.until_ended(row, 6, seconds=40)
    assert house.row(row.id).status in ENDED
    assert not charges(house, row)


@CANCELLING
@pytest.mark.parametrize("fault", ["429", "429:7", "500", "drop"])
def test_a_busy_processor_is_asked_again_later(house: House, processor: str, fault: str) -> None:
    row = active(house)
    house.simulator.fail_writes = [fault]
    with house.impatient() if fault == "drop" else nullcontext():
        action = cancel(house, row)
    assert action.phase in ("checking", "confirmed"), action.phase
    if action.phase == "checking":
        assert action.lease_until is not None
        wait = (action.lease_until - clock.now()).total_seconds()
        assert wait > 0
    house.until_ended(row, 8, seconds=60)
    assert house.row(row.id).status in ENDED


@ALL
def test_taken_away_keys_are_told_to_the_merchant_and_change_nothing(house: House, processor: str) -> None:
    before = _plain(house)
    house.simulator.switch("refused_keys")

    async def ask() -> Any:
        gateway = house.gateway()
        try:
            return await gateway.check()
        finally:
            await gateway.aclose()

    health = asyncio.run(ask())
    assert not health.ok
    assert health.hint
    secrets = [field.name for field in facts(processor).credentials if field.secret]
    for name in secrets:
        assert house.sample.credentials.get(name, "-" * 99) not in health.hint
    assert _plain(house) == before


@CANCELLING
def test_good_keys_are_good(house: House, processor: str) -> None:
    async def ask() -> Any:
        gateway = house.gateway()
        try:
            return await gateway.check()
        finally:
            await gateway.aclose()

    assert asyncio.run(ask()).ok


@CANCELLING
@pytest.mark.parametrize("fault", GARBAGE)
def test_a_garbage_answer_to_a_question_changes_nothing(house: House, processor: str, fault: str) -> None:
    """Whichever of the answers behind one look is spoiled: one of the five errors, or a record that says less."""
    row = active(house)
    before = house.row(row.id)
    for place in range(5):
        house.simulator.fail_next = [*[""] * place, fault]
        outcome = asyncio.run(_looked(house, row))
        house.simulator.fail_next.clear()
        assert isinstance(outcome, Snapshot | GatewayError), outcome
        if isinstance(outcome, Snapshot):
            house.database.write_now(_write_all, house.account, [outcome])
            after = house.row(row.id)
            assert after.status == before.status, f"{fault} at {place}: {after.status}"
    assert house.get("/customers/subscriptions").status_code == 200


async def _looked(house: House, row: Any) -> Any:
    gateway = house.gateway()
    try:
        return await gateway.fetch(Ref("subscription", row.remote_id, _known(house, row)))
    except GatewayError as error:
        return error
    finally:
        await gateway.aclose()


def _known(house: House, row: Any) -> Any:
    from portal import sync

    return sync.ref_of(house.row(row.id)).known


@CANCELLING
@pytest.mark.parametrize("fault", GARBAGE)
def test_a_garbage_answer_to_a_cancel_is_read_back(house: House, processor: str, fault: str) -> None:
    row = active(house)
    house.simulator.fail_writes = [fault]
    action = cancel(house, row)
    assert action.phase in ("checking", "confirmed"), f"{action.phase}: {action.error}"
    house.until_ended(row, 6, seconds=40)
    assert house.row(row.id).status in ENDED
    assert not charges(house, row)


# Webhooks


def told(house: House, do: Callable[[], None]) -> list[Any]:
    """The deliveries that something leads to."""
    house.tell()
    house.posted.clear()
    do()
    return list(house.posted)


@CANCELLING
@pytest.mark.parametrize("mode", ["duplicate", "reorder", "lose_webhooks"])
def test_webhooks_may_come_twice_out_of_order_or_not_at_all(house: House, processor: str, mode: str) -> None:
    row = active(house)
    house.simulator.switch(mode)
    house.simulator.charge(row.remote_id)
    house.press(row, "cancel", "cancel_now")
    house.simulator.switch("ok")
    for _ in range(4):
        house.later(seconds=30)
    assert house.row(row.id).status in ENDED
    assert not charges(house, row)
    payments = [
        one
        for one in house.everything()["payment"]
        if one["subscription_remote"] == row.remote_id and one["status"] == "paid"
    ]
    assert len({one["remote_id"] for one in payments}) == len(payments)


@CANCELLING
def test_a_late_webhook_does_not_bring_back_what_was(house: House, processor: str) -> None:
    row = active(house)
    deliveries = told(house, lambda: house.simulator.charge(row.remote_id))
    house.posted.clear()
    cancel(house, row)
    for _ in range(3):
        house.later(seconds=30)
    assert house.row(row.id).status in ENDED
    for one in deliveries:
        house.deliver(one.headers.items(), one.body)
    house.tell()
    assert house.row(row.id).status in ENDED


@CANCELLING
def test_a_charge_after_the_end_is_flagged_and_can_be_asked_back(house: House, processor: str) -> None:
    row = active(house)
    cancel(house, row)
    for _ in range(3):
        house.later(seconds=30)
    assert house.row(row.id).status in ENDED
    house.later(days=2)
    house.simulator.charge(row.remote_id)
    for _ in range(3):
        house.later(seconds=5)
    flagged = [one for one in house.everything()["payment"] if one["after_end_at"]]
    if not any(one["subscription_remote"] == row.remote_id for one in house.everything()["payment"]):
        pytest.skip("nothing joins a payment to its subscription here")
    assert len(flagged) == 1
    house.sign_in(_email(house, row))
    page = house.get("/customers/payments").text
    assert "Taken after its subscription had ended." in page
    from portal.ids import id_text

    assert house.post(f"/customers/payments/{id_text(flagged[0]['id'])}/refund").status_code == 303
    assert "Refund" in house.get("/customers/requests").text


def _email(house: House, row: Any) -> str:
    customer: str = house.database.read_now(lambda db: db.get_one(models.Customer, row.customer_id).email)
    return customer


def some_delivery(house: House) -> Any:
    """A true delivery that is signed, of something that has happened; None where nothing is ever sent."""
    house.simulator.fill(house.sample)
    row = house.stage(Situation())
    if row is not None:
        house.simulator.charge(row.remote_id)
    waiting = [*house.past, *house.posted, *house.simulator.sent]
    own = [one for one in waiting if house.account.token in one.url]
    return next((one for one in own if house.simulator.proof_of(one) is not None), None)


@SIGNED
def test_a_forged_webhook_is_refused_and_leaves_no_trace(house: House, processor: str) -> None:
    delivery = some_delivery(house)
    assert delivery is not None, "no signed delivery was sent"
    forgeries = house.simulator.forgeries(house.sample, delivery)
    assert len(forgeries) >= 25
    before, events = _plain(house), _events(house)
    for forgery in forgeries:
        answer = house.deliver(forgery.headers, forgery.body)
        assert answer.status_code == 400, f"{forgery.what}: {answer.status_code}"
    assert _events(house) == events
    house.posted.clear()
    assert _plain(house) == before
    assert house.deliver(delivery.headers.items(), delivery.body).status_code == 200


def _events(house: House) -> int:
    return house.database.read_now(
        lambda db: db.query(models.Event).filter_by(account_id=house.account.id).count()
    )


@SIGNED
def test_another_accounts_secret_proves_nothing_here(house: House, processor: str) -> None:
    delivery = some_delivery(house)
    assert delivery is not None
    answer = house.deliver(delivery.headers.items(), delivery.body, f"/webhooks/{house.stranger.token}")
    assert answer.status_code == 400


@SIGNED
def test_the_secret_of_before_is_good_until_its_day(house: House, processor: str) -> None:
    delivery = some_delivery(house)
    assert delivery is not None
    others = dict(house.simulator.samples()[1].credentials)

    def rotate(db: Any) -> None:
        row = db.get_one(models.Account, house.account.id)
        row.previous_credentials = row.credentials
        row.previous_until = clock.now() + timedelta(minutes=2)
        row.credentials = Vault(MASTER_KEY).seal(row.portal_id, row.id, others)

    house.database.write_now(rotate)
    assert house.deliver(delivery.headers.items(), delivery.body).status_code == 200

    def is_over(db: Any) -> None:
        db.get_one(models.Account, house.account.id).previous_until = clock.now() - timedelta(seconds=1)

    house.database.write_now(is_over)
    assert house.deliver(delivery.headers.items(), delivery.body).status_code == 400


@UNSIGNED
def test_an_unsigned_hint_that_is_made_up_has_no_effect(house: House, processor: str) -> None:
    row = house.stage(Situation())
    deliveries = [one for one in [*house.past, *house.simulator.sent] if house.account.token in one.url]
    unsigned = [one for one in deliveries if house.simulator.proof_of(one) is None]
    if not unsigned:
        pytest.skip("this account's deliveries are all signed")
    house.tell()
    before = _plain(house)
    for one in unsigned[:5]:
        for body in _made_up(one.body):
            assert house.deliver(one.headers.items(), body).status_code in (200, 400)
        house.tell()
    house.later(seconds=5)
    after = _plain(house)
    for table, rows in before.items():
        for old in rows:
            new = next(one for one in after[table] if one["id"] == old["id"])
            assert new.get("status") == old.get("status"), table
            assert new.get("amount_minor") == old.get("amount_minor"), table
    assert row is None or house.row(row.id).status == "active"


def _made_up(body: bytes) -> list[bytes]:
    """The body with another state, another amount, another id, and none of its fields."""
    changed = [body.replace(b'"active"', b'"cancelled"').replace(b"paid", b"refunded")]
    changed += [body.replace(b"1", b"9"), body[: len(body) // 2], b"{}", b"id=tr_nobody", b""]
    try:
        said = json.loads(body)
    except ValueError:
        return changed
    return [
        *changed,
        json.dumps({**said, "status": "cancelled"} if isinstance(said, dict) else said).encode(),
    ]


def _card(house: House, row: Any) -> str:
    from portal.ids import id_text

    return house.get(f"/customers/subscriptions/{id_text(row.id)}/card").text


@ALL
def test_an_address_that_makes_no_sense_is_never_called(house: House, processor: str) -> None:
    async def ask() -> Any:
        gateway = house.gateway()
        try:
            return await gateway.fetch(Ref("subscription", "../../x?y=#z"))
        except (GatewayError, Unavailable) as error:
            return error
        finally:
            await gateway.aclose()

    house.simulator.calls.clear()
    outcome = asyncio.run(ask())
    assert isinstance(outcome, GatewayError)
    assert not any("../" in call.path or "?y" in call.path for call in house.simulator.calls)
