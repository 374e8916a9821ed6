"""One object of a list that makes no sense is passed over, with its reason, at the processors' own lists; the rest is
read. A list of which nothing can be read is no list."""

import asyncio
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from starlette.responses import Response

from portal.gateways import gateway, wire
from portal.gateways.base import Gateway, Page, Record, Unavailable
from seeds.simulators.harness import Harness, Sample, Servers, simulator

# Of each, the part of its answers in which a list stands, and a list whose third object is spoiled.
LISTS = {
    "stripe": ("data", "/v1/charges"),
    "mollie": ("_embedded.payments", "/v2/payments"),
    "razorpay": ("items", "/v1/payments"),
    "paystack": ("data", "/transaction"),
    "gocardless": ("payments", "/payments"),
    "paypal": ("items", "/v2/invoicing/invoices"),
}


class House:
    """Simulators that are filled, and a way to spoil what they answer."""

    def __init__(self) -> None:
        self.simulators = {name: simulator(name) for name in LISTS}
        self.spoil: dict[str, Callable[[list[Any]], None]] = {}

    def sample(self, name: str) -> Sample:
        return self.simulators[name].samples()[0]

    def app_of(self, one: Harness) -> Any:
        inner, house = type(one).app(one), self

        async def app(scope: Any, receive: Any, send: Any) -> None:
            spoil = house.spoil.get(one.name)
            if scope["type"] != "http" or spoil is None or scope["path"] != LISTS[one.name][1]:
                await inner(scope, receive, send)
                return
            parts: list[Any] = []

            async def take(message: Any) -> None:
                parts.append(message)

            await inner(scope, receive, take)
            content = b"".join(part.get("body", b"") for part in parts)
            said = json.loads(content)
            rows = said
            for name in LISTS[one.name][0].split("."):
                rows = rows.get(name, [])
            if rows:
                spoil(rows)
            await Response(json.dumps(said), parts[0]["status"], media_type="application/json")(
                scope, receive, send
            )

        return app


def _same(app: Any) -> Any:
    return app


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    made = House()
    for one in made.simulators.values():
        one.app = partial(_same, made.app_of(one))  # type: ignore[method-assign]
        sample = one.samples()[0]
        one.open(sample, "")
        one.fill(sample)
    with Servers(list(made.simulators.values())):
        yield made


def read(
    house: House, name: str, again: bool = False, forgiving: bool = True
) -> tuple[list[Page], list[wire.Refused]]:
    async def go() -> tuple[list[Page], list[wire.Refused]]:
        found, refused = list[Page](), list[wire.Refused]()
        sample = house.sample(name)
        one: Gateway = gateway(
            name, sample.credentials, variant=sample.variant, simulator=house.simulators[name].address
        )
        pages = one.backfill()
        try:
            if not forgiving:
                return [page async for page in pages], []
            while True:
                with wire.forgiving(again) as told:
                    page = await anext(pages, None)
                refused += told
                if page is None or page.cursor is None:
                    return [*found, page] if page else found, refused
                found.append(page)
        finally:
            await one.aclose()

    return asyncio.run(go())


def records(pages: list[Page]) -> set[tuple[type[Record], str]]:
    return {(type(one), one.remote_id) for page in pages for one in page.snapshot.records()}


BAD: dict[str, Callable[[list[Any], int], None]] = {
    "no object at all": lambda rows, at: rows.__setitem__(at, "seven"),
    "nothing in it": lambda rows, at: rows.__setitem__(at, {}),
}


@pytest.fixture(autouse=True)
def _nothing_spoiled(house: House) -> Iterator[None]:
    yield
    house.spoil.clear()


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("name", LISTS)
def test_one_bad_object_is_passed_over_with_its_reason(house: House, name: str, what: str) -> None:
    whole, none = read(house, name)
    assert none == []
    house.spoil[name] = lambda rows: BAD[what](rows, len(rows) // 2)
    rest, refused = read(house, name, again=True)
    assert len(refused) >= 1
    assert all(one.why for one in refused)
    assert len(rest) == len(whole)
    assert records(rest) <= records(whole)
    lost = records(whole) - records(rest)
    assert len(lost) <= 4 * len(refused)  # the payment, its order, its refund or its invoice
    assert len(records(rest)) > len(records(whole)) / 2


@pytest.mark.parametrize("name", LISTS)
def test_who_asks_for_one_thing_is_not_told_a_part(house: House, name: str) -> None:
    """Without a place for what is passed over the page fails, as it always did."""
    house.spoil[name] = lambda rows: rows.__setitem__(0, "seven")
    with pytest.raises(Unavailable):
        read(house, name, forgiving=False)


def test_amounts_as_text_are_read(house: House) -> None:
    """Razorpay's whole numbers in quotes."""
    whole, _ = read(house, "razorpay")

    def quoted(rows: list[Any]) -> None:
        for row in rows:
            row["amount"] = str(row["amount"])

    house.spoil["razorpay"] = quoted
    rest, refused = read(house, "razorpay")
    assert refused == []
    assert records(rest) == records(whole)
    amounts = {one.remote_id: one.amount for page in whole for one in page.snapshot.payments if one.amount}
    again = {one.remote_id: one.amount for page in rest for one in page.snapshot.payments if one.amount}
    assert again == amounts


def test_stripes_amounts_as_text_are_no_amounts_and_are_told(house: House) -> None:
    def quoted(rows: list[Any]) -> None:
        next(row for row in rows if row["paid"] and row["captured"]).update(
            amount="12,00", amount_captured="12,00"
        )

    house.spoil["stripe"] = quoted
    rest, refused = read(house, "stripe")
    assert [one.what for one in refused] == ["payments"]
    assert refused[0].id.startswith("ch_")
    assert "usually" in refused[0].why
    assert records(rest)


def test_a_list_of_which_nothing_makes_sense_fails(house: House) -> None:
    def all_bad(rows: list[Any]) -> None:
        rows[:] = ["seven"] * len(rows)

    for name in ("stripe", "mollie", "razorpay"):
        house.spoil[name] = all_bad
        with pytest.raises(Unavailable):
            read(house, name)
        with pytest.raises(Unavailable):
            read(house, name, again=True)


# The sieve itself


def sift(rows: list[Any], again: bool, id: str | None = "id") -> tuple[list[Any], list[wire.Refused]]:
    async def reads(some: list[Any]) -> list[int]:
        return [10 // row["n"] for row in some if row["n"] != "x" or row["missing"]]

    async def go() -> tuple[list[Any], list[wire.Refused]]:
        with wire.forgiving(again) as refused:
            parts = await wire.sifted("things", rows, reads, id)
        return [one for part in parts for one in part], refused

    return asyncio.run(go())


def test_rows_are_read_together_or_one_by_one() -> None:
    good = [{"id": str(n), "n": n} for n in range(1, 4)]
    assert sift(good, False) == ([10, 5, 3], [])
    bad = {"id": "x", "n": "x"}
    assert sift([*good, bad], False) == ([10, 5, 3], [wire.Refused("things", "x", "“missing” is missing.")])
    assert sift([{"n": 1}, *good], False) == ([10, 5, 3], [wire.Refused("things", "", "It has no id.")])


def test_a_lone_bad_row_is_asked_for_once_more_and_then_passed_over() -> None:
    bad = {"id": "x", "n": "x"}
    with pytest.raises(Unavailable):
        sift([bad], False)
    assert sift([bad], True) == ([], [wire.Refused("things", "x", "“missing” is missing.")])
    with pytest.raises(Unavailable):
        sift([bad] * (wire.FEW + 1), True)


def test_forgiving_ends_where_it_ends() -> None:
    with wire.forgiving():
        assert wire.forgives()
    assert not wire.forgives()
