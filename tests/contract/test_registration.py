"""Webhooks that the processor's API registers for the merchant: one for an address, proved with what came out of it,
whatever goes wrong on the way; and test events, which arrive, are proved, and change nothing."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import pytest

from portal import clock, models
from portal.gateways import facts, gateway, processors
from portal.gateways.base import BadSignature, Event, Gateway, Registration, Unavailable, Unsupported
from portal.vault import Vault
from seeds.simulators.harness import Delivery, Situation
from tests.contract.house import HOST, House
from tests.unit.builders import MASTER_KEY

Result = TypeVar("Result")


def registers(processor: str) -> bool:
    return any(fact.registration == "api" for fact in facts(processor).webhooks)


def sends_tests(processor: str) -> bool:
    return any(fact.test_event for fact in facts(processor).webhooks)


REGISTERING = pytest.mark.parametrize("processor", [name for name in processors() if registers(name)])
BY_HAND = pytest.mark.parametrize("processor", [name for name in processors() if not registers(name)])
TESTING = pytest.mark.parametrize("processor", [name for name in processors() if sends_tests(name)])
NOT_TESTING = pytest.mark.parametrize("processor", [name for name in processors() if not sends_tests(name)])


def use(house: House, do: Callable[[Gateway], Awaitable[Result]]) -> Result:
    async def go() -> Result:
        one = house.gateway()
        try:
            return await do(one)
        finally:
            await one.aclose()

    return asyncio.run(go())


def address(house: House) -> str:
    return f"http://{HOST}/webhooks/{house.account.token}"


def register(house: House, key: str = "wish-1") -> Registration:
    return use(house, lambda one: one.register_webhook(address(house), key))


def adopt(house: House, registration: Registration) -> None:
    """What came out of it stands in the account's settings from now on, as they are kept everywhere."""

    def merge(db: Any) -> None:
        row, vault = db.get_one(models.Account, house.account.id), Vault(MASTER_KEY)
        before = vault.open(row.portal_id, row.id, row.credentials)
        row.credentials = vault.seal(row.portal_id, row.id, {**before, **registration.credentials})

    house.database.write_now(merge)
    house.account = house.database.read_now(lambda db: db.get_one(models.Account, house.account.id))


def alone(house: House) -> None:
    """An account of which nobody is told anything yet."""
    house.simulator.open(house.sample, "")
    assert house.simulator.registered(house.sample) == []


def something_happens(house: House) -> list[Delivery]:
    """Signed deliveries to our address of something that has just happened."""
    house.tell()
    house.posted.clear()
    row = house.simulator.stage(house.sample, house.newcomer(), Situation())
    assert row is not None
    house.simulator.charge(row)
    found = [one for one in house.posted if house.simulator.proof_of(one) is not None]
    assert found, "nothing was sent"
    assert {one.url for one in found} == {address(house)}
    return found


def is_told(house: House) -> None:
    """What happens now arrives, is proved and is kept; what is proved otherwise is not."""
    deliveries, before = something_happens(house), events(house)
    for one in deliveries:
        headers, body = house.simulator.with_proof(one, [_another(str(house.simulator.proof_of(one)))])
        assert house.deliver(headers, body).status_code == 400
        strangers = f"/webhooks/{house.stranger.token}"
        assert house.deliver(one.headers.items(), one.body, strangers).status_code == 400
    assert events(house) == before
    for one in deliveries:
        assert house.deliver(one.headers.items(), one.body).status_code == 200
    assert len(events(house)) > len(before)
    house.posted.clear()


def _another(proof: str) -> str:
    return proof[:-3] + ("aaa" if proof[-3:] != "aaa" else "bbb")


def events(house: House) -> list[str]:
    def read(db: Any) -> list[str]:
        rows = db.query(models.Event).filter_by(account_id=house.account.id).order_by(models.Event.id)
        return [row.type for row in rows]

    return house.database.read_now(read)


# Registering


@REGISTERING
def test_what_comes_out_of_a_registration_proves_the_next_delivery(house: House, processor: str) -> None:
    alone(house)
    made = register(house)
    assert made.remote_id
    assert house.simulator.registered(house.sample) == [address(house)]
    adopt(house, made)
    is_told(house)


@REGISTERING
def test_it_fills_fields_of_the_form_in_their_own_pattern_and_shows_them_to_no_log(
    house: House, processor: str
) -> None:
    alone(house)
    made = register(house)
    fields = {field.name: field for field in facts(processor).credentials if field.from_webhook}
    assert made.credentials
    assert set(made.credentials) <= set(fields)
    for name, value in made.credentials.items():
        assert re.fullmatch(fields[name].pattern, value), name
        assert value not in made.note
        assert value not in repr(made) or not fields[name].secret


@REGISTERING
def test_a_webhook_that_is_there_is_taken_over_and_stays_the_only_one(house: House, processor: str) -> None:
    assert house.simulator.registered(house.sample) == [address(house)]
    adopt(house, register(house))
    assert house.simulator.registered(house.sample) == [address(house)]
    is_told(house)


@REGISTERING
def test_registering_twice_keeps_the_same_one(house: House, processor: str) -> None:
    alone(house)
    first = register(house)
    adopt(house, first)
    second = register(house, "wish-2")
    assert second.remote_id == first.remote_id
    assert house.simulator.registered(house.sample) == [address(house)]
    adopt(house, second)
    is_told(house)


@REGISTERING
def test_what_came_out_and_was_lost_comes_out_again(house: House, processor: str) -> None:
    alone(house)
    register(house)
    adopt(house, register(house, "wish-2"))
    assert house.simulator.registered(house.sample) == [address(house)]
    is_told(house)


@REGISTERING
def test_one_that_somebody_removed_is_made_anew_even_for_the_same_wish(house: House, processor: str) -> None:
    """A processor that gives an answer again under the same key gives one about what is gone."""
    alone(house)
    first = register(house)
    use(house, lambda one: one.unregister_webhook(first.remote_id))
    adopt(house, register(house))
    assert house.simulator.registered(house.sample) == [address(house)]
    is_told(house)


@REGISTERING
def test_webhooks_of_other_addresses_are_left_alone(house: House, processor: str) -> None:
    house.simulator.open(house.sample, "https://shop.example/hooks")
    adopt(house, register(house))
    assert sorted(house.simulator.registered(house.sample)) == [address(house), "https://shop.example/hooks"]


@REGISTERING
@pytest.mark.parametrize(("place", "key"), [(0, "wish-1"), (0, "wish-2"), (1, "wish-1"), (2, "wish-1")])
def test_after_a_lost_answer_there_is_one_webhook_and_it_proves(
    house: House, processor: str, place: int, key: str
) -> None:
    """Whichever of the calls it is, and whether it is the same wish again or another."""
    alone(house)
    house.simulator.fail_writes = [*[""] * place, "timeout_after"]
    failed = None
    try:
        with house.impatient():
            register(house)
    except Unavailable as error:
        failed = error
    if place == 0:
        assert failed is not None
        assert failed.sent
        assert not house.simulator.fail_writes
    house.simulator.fail_writes.clear()
    adopt(house, register(house, key))
    assert house.simulator.registered(house.sample) == [address(house)]
    is_told(house)


@REGISTERING
@pytest.mark.parametrize("mode", ["refused_keys", "down"])
def test_refused_keys_and_an_outage_say_what_to_do_and_change_nothing(
    house: House, processor: str, mode: str
) -> None:
    alone(house)
    house.simulator.switch(mode)
    with pytest.raises(Unavailable) as caught:
        register(house)
    assert caught.value.hint
    for name, value in house.sample.credentials.items():
        assert value not in caught.value.hint, name
    assert house.simulator.registered(house.sample) == []


@REGISTERING
def test_garbage_for_an_answer_is_one_of_the_five_errors_and_heals(house: House, processor: str) -> None:
    for fault in ("html", "empty", "truncated", "wrong_types", "missing_fields"):
        alone(house)
        for place in range(4):
            house.simulator.fail_next = [*[""] * place, fault]
            with suppress(Unavailable):
                register(house, f"{fault}-{place}")
            house.simulator.fail_next.clear()
        adopt(house, register(house, fault))
        assert house.simulator.registered(house.sample) == [address(house)], fault
    is_told(house)


@REGISTERING
def test_unregistering_removes_it_and_twice_is_fine(house: House, processor: str) -> None:
    alone(house)
    made = register(house)
    for _ in range(2):
        use(house, lambda one: one.unregister_webhook(made.remote_id))
        assert house.simulator.registered(house.sample) == []


@REGISTERING
def test_an_address_or_id_that_makes_no_sense_is_never_called(house: House, processor: str) -> None:
    use(house, lambda one: one.unregister_webhook("../../x?y=#z"))
    assert not any("../" in call.path or "?y" in call.path for call in house.simulator.calls)


@BY_HAND
def test_elsewhere_the_merchant_is_told_to_do_it_by_hand(house: House, processor: str) -> None:
    with pytest.raises(Unsupported) as caught:
        register(house)
    assert "dashboard" in caught.value.hint
    with pytest.raises(Unsupported):
        use(house, lambda one: one.unregister_webhook("any"))


# Test events


@TESTING
def test_a_test_event_arrives_is_proved_and_changes_nothing(house: House, processor: str) -> None:
    alone(house)
    row = house.stage(Situation())  # of which our address is told nothing
    assert row is not None
    made = register(house)
    adopt(house, made)
    before, told = rows(house), events(house)
    house.posted.clear()
    kind = use(house, lambda one: one.send_test_event(made.remote_id))
    assert kind is not None
    assert house.posted
    for one in list(house.posted):
        headers, body = house.simulator.with_proof(one, [_another(str(house.simulator.proof_of(one)))])
        assert house.deliver(headers, body).status_code == 400
    house.tell()
    assert set(events(house)[len(told) :]) == {kind}
    assert rows(house) == before


def rows(house: House) -> dict[str, dict[str, Any]]:
    """Ids and states of all that is mirrored."""
    return {
        table: {one["remote_id"]: one.get("status") for one in found}
        for table, found in house.everything().items()
    }


@TESTING
def test_a_test_event_that_is_refused_says_so(house: House, processor: str) -> None:
    alone(house)
    made = register(house)
    house.simulator.switch("refused_keys")
    with pytest.raises(Unavailable) as caught:
        use(house, lambda one: one.send_test_event(made.remote_id))
    assert caught.value.hint


@TESTING
def test_without_a_webhook_there_is_nothing_to_test(house: House, processor: str) -> None:
    """Only where its id is known from the settings can it be done all the same."""
    filled = {field.name for field in facts(processor).credentials if field.from_webhook}
    credentials = {name: value for name, value in house.sample.credentials.items() if name not in filled}

    async def ask() -> str | None:
        one = open_it(house, credentials)
        try:
            return await one.send_test_event(None)
        finally:
            await one.aclose()

    with pytest.raises(Unsupported) as caught:
        asyncio.run(ask())
    assert caught.value.hint


@NOT_TESTING
def test_elsewhere_there_are_no_test_events(house: House, processor: str) -> None:
    with pytest.raises(Unsupported) as caught:
        use(house, lambda one: one.send_test_event(None))
    assert caught.value.hint


@REGISTERING
def test_nothing_that_is_empty_or_made_up_proves_a_delivery(house: House, processor: str) -> None:
    alone(house)
    made = register(house)
    delivery = something_happens(house)[0]
    fields = [field.name for field in facts(processor).credentials if field.from_webhook]

    async def verify(**changed: str) -> list[Event]:
        one = open_it(house, {**house.sample.credentials, **changed})
        try:
            certificate = await one.certificate(delivery.headers)
            return one.verify(list(delivery.headers.items()), delivery.body, clock.now(), certificate)
        finally:
            await one.aclose()

    assert asyncio.run(verify(**made.credentials))
    for wrong in ("", "0" * 64):
        with pytest.raises(BadSignature):
            asyncio.run(verify(**dict.fromkeys(fields, wrong)))


def open_it(house: House, credentials: Mapping[str, str]) -> Gateway:
    """A gateway of the house's processor with other credentials than the account's."""
    return gateway(
        house.processor, credentials, variant=house.sample.variant, simulator=house.simulator.address
    )
