"""Everything that the facts declare, done as a customer does it: the step is opened, its button pressed, the hosted
page gone through, and what is then true is asked of the simulator, not of ourselves."""

from dataclasses import dataclass
from typing import Any

import pytest

from portal.gateways import adapter, facts, processors
from portal.gateways.capabilities import KEYS, Capability, Key, When, disagreements
from portal.offers import SENSE, state_of
from portal.views.actions import STEPS
from seeds.simulators.harness import Situation, Standing
from tests.contract.house import House

STEP = {key: step for step, keys in STEPS.items() for key in keys}
ENDED = ("cancelled", "expired")
# In which of our states a wish is tried first; the facts' conditions may name another.
FIRST = {"undo_cancel": "cancels_at_period_end", "resume": "paused", "pay_now": "past_due"}


@dataclass(frozen=True)
class Case:
    """A capability in one of its shapes, and what must be so for it."""

    processor: str
    key: Key
    number: int  # 0: the base, then the entries of `when`
    shape: Capability
    situation: Situation
    options: tuple[str, ...] = ()
    variant: str | None = None
    country: str | None = None

    def __str__(self) -> str:
        when = f"-when{self.number}" if self.number else ""
        return f"{self.processor}-{self.key}-{self.shape.mode}{when}"


def cases() -> list[Case]:
    return [
        case
        for name in processors()
        for key in KEYS
        if key in SENSE
        for case in _of(name, key, facts(name).capabilities[key])
    ]


def _of(name: str, key: Key, capability: Capability) -> list[Case]:
    state = FIRST.get(key, "active")
    variants = facts(name).variants or [None]  # type: ignore[list-item]
    base = Case(name, key, 0, capability, Situation(state, due=key == "pay_now" or None), variant=variants[0])
    return [base, *(_under(base, number, entry) for number, entry in enumerate(capability.when, 1))]


def _under(base: Case, number: int, entry: When) -> Case:
    shape = facts(base.processor).capabilities[base.key].shapes()[number]
    sensible = [state for state in _all(entry.state) if state in SENSE[base.key]] or _all(entry.state)
    due = entry.due if entry.due is not None else base.situation.due
    state = sensible[0] if sensible else "past_due" if due else base.situation.state
    situation = Situation(
        state=state,
        method=_one(entry.method),
        object=_one(entry.object),
        due=due,
        token=entry.token,
    )
    return Case(
        base.processor,
        base.key,
        number,
        shape,
        situation,
        options=tuple(_all(entry.option)[:1]),
        variant=_one(entry.variant) or base.variant,
        country=_one(entry.country),
    )


def _all(value: str | list[str] | None) -> list[str]:
    return value if isinstance(value, list) else [value] if value else []


def _one(value: str | list[str] | None) -> str | None:
    return next(iter(_all(value)), None)


@pytest.mark.parametrize("name", processors())
def test_facts_and_code_agree(name: str) -> None:
    assert disagreements(name, adapter(name)) == []


@pytest.mark.parametrize("case", cases(), ids=str)
def test_every_declared_capability_keeps_its_word(house: House, case: Case) -> None:
    house.connect(case.options, case.country)
    row = _staged(house, case)
    offer = house.offer(row, case.key)
    if offer is None:
        assert case.situation.state not in SENSE[case.key] or (case.key == "pay_now" and not row.due_minor)
        pytest.skip("makes no sense in this state")
    wanted = facts(case.processor).capabilities[case.key]
    assert offer.mode in {shape.mode for shape in wanted.shapes()}
    if offer.mode != case.shape.mode or offer.how != case.shape.how:
        pytest.skip(f"an earlier entry holds here: {offer.mode} {offer.how or ''}")
    before = house.simulator.standing(row.remote_id)
    if not offer.ok:
        _refused(house, case, row, offer.why, before)
        return
    {
        "direct": _done_here,
        "emulated": _done_here,
        "hosted": _done_there,
        "guided": _guided,
        "request": _asked,
    }[offer.mode](house, case, row, before)


def _staged(house: House, case: Case) -> Any:
    """A subscription in the case's situation; an ending one is made by its own cancel where that is ours to make."""
    row = house.stage(case.situation)
    if row is None and case.situation.state in ("cancels_at_period_end", "cancelled"):
        row = _cancelled_by_us(house, case)
    if row is None:
        assert _is_beyond(house.processor, case), f"{case} can't be staged"
        pytest.skip("this processor knows no such subscription")
    kept = state_of(row) == "cancelled" and row.access_until is not None and case.key == "undo_cancel"
    assert state_of(row) == case.situation.state or kept, f"{state_of(row)} ({row.raw_status})"
    return row


def _cancelled_by_us(house: House, case: Case) -> Any:
    row = house.stage(
        Situation("active", case.situation.method, case.situation.object, token=case.situation.token)
    )
    if row is None:
        return None
    offer = house.offer(row, "cancel_at_period_end")
    if offer is None or not offer.ok or offer.mode not in ("direct", "emulated"):
        return None
    house.press(row, "cancel", "cancel_at_period_end")
    house.tell()
    row = house.row(row.id)
    is_base = case.number == 0 and case.key == "undo_cancel"  # kept here, or by a flag of the processor's
    return row if state_of(row) == case.situation.state or is_base else None


def _is_beyond(processor: str, case: Case) -> bool:
    """Whether a situation need not exist: conditions that meet no subscription, and processors without any."""
    nothing = all(facts(processor).capabilities[key].mode == "none" for key in ("cancel_now", "resume"))
    return nothing or case.number > 0 or case.situation.state != "active"


def _refused(house: House, case: Case, row: Any, why: str | None, before: Standing) -> None:
    """No button, a reason in its place, and no way around it."""
    assert why
    step = STEP[case.key]
    alone = [key for key in STEPS[step] if (found := house.offer(row, key)) and found.ok]
    calls = _writes(house)
    answer = house.post(f"/customers/subscriptions/{_text(row)}/{step}", {"wish": case.key})
    if not alone:
        assert answer.status_code == 409
        assert why.split(".")[0][:40] in _words(house, row)
    assert answer.status_code in (409, 422, 200, 303)
    if case.key not in alone:
        assert _writes(house) == calls
        assert house.simulator.standing(row.remote_id) == before


def _done_here(house: House, case: Case, row: Any, before: Standing) -> None:
    form = _plan(house, row) if case.key == "change_plan" else {}
    answer = house.press(row, STEP[case.key], case.key, **form)
    if (
        answer.status_code == 200 and "/customers/leave/" in answer.text
    ):  # several calls, the first of them a checkout
        assert house.go(answer.text) is not None
    else:
        assert answer.status_code == 303, answer.text
    _settle(house, row)
    action = house.action(row)
    assert action is not None
    assert action.phase in ("confirmed", "scheduled", "undone"), f"{action.phase}: {action.error}"
    assert 'id="proof-' in _words(house, row)
    _is_true(house, case, row, before)


def _plan(house: House, row: Any) -> dict[str, str]:
    offer = house.offer(row, "change_plan")
    assert offer is not None
    return {"plan": offer.plans[0]["title"]}


def _settle(house: House, row: Any) -> None:
    """Let everything come in that is on its way, and the looks that are due in the next quarter of an hour."""
    house.tell()
    for _ in range(6):
        action = house.action(row)
        if action is None or action.phase in (
            "confirmed",
            "scheduled",
            "undone",
            "visited",
            "asked",
            "failed",
        ):
            return
        house.later(seconds=30)


def _is_true(house: House, case: Case, old: Any, before: Standing) -> None:
    """What the simulator holds after it."""
    row = house.row(old.id)
    now = house.simulator.standing(row.remote_id)
    successor = _successor(house, row)
    match case.key:
        case "cancel_now":
            assert not now.charges
            assert row.status in ENDED
        case "cancel_at_period_end":
            assert state_of(row) in ("cancels_at_period_end", *ENDED)
            if row.status in ENDED:
                assert row.access_until is not None
            if case.shape.how != "schedule":
                assert not now.charges
            else:
                house.later(days=400)
                assert not house.simulator.standing(row.remote_id).charges
        case "undo_cancel":
            goes_on = house.simulator.standing(successor.remote_id) if successor else now
            assert goes_on.charges
            assert (successor or row).status in ("active", "trialing", "past_due")
        case "pause":
            assert not now.charges
            assert row.status == "paused"
        case "resume":
            assert now.charges
            assert row.status in ("active", "trialing", "past_due")
        case "skip_next_payment":
            assert now.next_on is None or before.next_on is None or now.next_on > before.next_on
        case "change_plan":
            if successor:
                assert house.simulator.standing(successor.remote_id).amount != before.amount
            else:
                assert now.amount != before.amount
        case "update_payment_method":
            goes_on = house.simulator.standing(successor.remote_id) if successor else now
            assert goes_on.method != before.method
        case "pay_now":
            assert now.payments > before.payments
            assert not row.due_minor


def _successor(house: House, row: Any) -> Any:
    """The subscription that has taken the place of this one, where there is one."""
    others = house.everything()["subscription"]
    mine = [one for one in others if one["customer_id"] == row.customer_id and one["id"] != row.id]
    live = [one for one in mine if one["status"] in ("active", "trialing", "past_due")]
    return house.row(live[0]["id"]) if live and row.status in (*ENDED, "cancels_at_period_end") else None


def _done_there(house: House, case: Case, row: Any, before: Standing) -> None:
    form = _plan(house, row) if case.key == "change_plan" else {}
    answer = house.press(row, STEP[case.key], case.key, **form)
    assert answer.status_code == 200, f"{answer.status_code} {house.action(row)}"
    assert house.row(row.id).status == row.status
    back = house.go(answer.text)
    if back is None:  # nobody is sent back: the customer says when they are done
        house.post(f"/customers/subscriptions/{_text(row)}/{STEP[case.key]}/check")
    _settle(house, row)
    action = house.action(row)
    assert action is not None
    proof = case.shape.proof or "read_back"
    assert action.phase in (("visited", "confirmed") if proof == "next_charge" else ("confirmed", "asked")), (
        f"{action.phase}: {action.error}"
    )
    if action.phase == "asked":
        assert [one.kind for one in house.requests(row)] == [case.key]
    else:
        _is_true(house, case, row, before)


def _guided(house: House, case: Case, row: Any, before: Standing) -> None:
    step = house.get(f"/customers/subscriptions/{_text(row)}/{STEP[case.key]}").text
    assert case.shape.link
    assert f'href="{case.shape.link}"' in step
    calls = _writes(house)
    assert house.press(row, STEP[case.key], case.key).status_code == 303
    house.tell()
    house.later(minutes=3)
    action = house.action(row)
    assert action is not None
    assert action.phase in ("failed", "visited", "confirmed")
    assert _writes(house) == calls
    assert house.simulator.standing(row.remote_id) == before


def _asked(house: House, case: Case, row: Any, before: Standing) -> None:
    calls = _writes(house)
    answer = house.press(row, STEP[case.key], case.key, comment="Please.")
    assert answer.status_code == 303, answer.text
    house.tell()
    (request,) = house.requests(row)
    assert (request.kind, request.status, request.words) == (case.key, "open", "Please.")
    assert request.reference in _words(house, row)
    assert _writes(house) == calls
    assert house.simulator.standing(row.remote_id) == before
    assert state_of(house.row(row.id)) == state_of(row)


def _writes(house: House) -> int:
    one = house.simulator
    return sum(one.changes(call.method, call.path) for call in one.calls)


def _words(house: House, row: Any) -> str:
    """The text of the row's card."""
    page = house.get(f"/customers/subscriptions/{_text(row)}/card").text
    return page.replace("&#39;", "'")


def _text(row: Any) -> str:
    from portal.ids import id_text

    return id_text(row.id)
