"""Reading everything in: page by page, resumable, stoppable, the same however often it runs."""

import asyncio
import multiprocessing
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from portal import clock, imports, models, walls, work
from portal.connect import Disconnected
from portal.db import Database
from portal.gateways.base import (
    CustomerRecord,
    Declined,
    Gateway,
    OrderRecord,
    Pace,
    Page,
    PaymentRecord,
    Snapshot,
    SubscriptionRecord,
    Unavailable,
)
from portal.jobs import enqueue
from portal.money import Money
from portal.settings import Settings
from portal.vault import Vault
from tests.unit.builders import MASTER_KEY, NOW, make_account, make_customer, make_portal, save

SIZE = 5


def page_of(number: int) -> Snapshot:
    """Five people, each with an order and its payment."""
    people = range(number * SIZE, number * SIZE + SIZE)
    return Snapshot(
        as_of=NOW,
        customers=tuple(CustomerRecord(remote_id=f"c{n}", email=f"p{n}@example.com") for n in people),
        orders=tuple(
            OrderRecord(remote_id=f"o{n}", status="paid", customer=f"c{n}", amount=Money(100 + n, "EUR"))
            for n in people
        ),
        payments=tuple(PaymentRecord(remote_id=f"p{n}", status="paid", order=f"o{n}") for n in people),
    )


class Shelf(Gateway):
    """A processor with a list of pages; `pages` may hold errors in their place, each raised once."""

    def __init__(self, pages: list[Any], asked: list[int]) -> None:
        super().__init__({"secret_key": "sk_test_very_secret"})
        self.pages = pages
        self.asked = asked

    async def backfill(self, cursor: str | None = None) -> AsyncIterator[Page]:
        number = int(cursor or 0)
        while number < len(self.pages):
            self.asked.append(number)
            told = self.pages[number]
            if isinstance(told, list):  # errors that come before the page
                if len(told) > 1:
                    raise told.pop(0)
                told = told[0]
            number += 1
            if isinstance(told, Page):
                yield told
                number = int(told.cursor or 0)
            else:
                yield Page(told, str(number) if number < len(self.pages) else None)


class Till:
    """An account and its shelf."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch, pages: int | list[Any]) -> None:
        self.database = database
        self.portal = make_portal(database)
        self.account = make_account(database, self.portal)
        self.shelves: dict[int, list[Any]] = {}
        self.asked: dict[int, list[int]] = {}
        self.fill(self.account, pages)
        monkeypatch.setattr(imports, "open_gateway", self._open)
        self.settings = Settings(master_keys=MASTER_KEY, scheme="http")

    def fill(self, account: models.Account, pages: int | list[Any]) -> None:
        self.shelves[account.id] = [page_of(n) for n in range(pages)] if isinstance(pages, int) else pages
        self.asked[account.id] = []

    def _open(self, _settings: Any, _vault: Any, account: models.Account, patient: bool = False) -> Gateway:
        if account.disconnected_at is not None:
            raise Disconnected
        return Shelf(self.shelves[account.id], self.asked[account.id])

    def importer(self, slice_s: float = 60.0) -> imports.Importer:
        return imports.Importer(self.settings, self.database, Vault(MASTER_KEY), work.after_page, slice_s)

    def start(self, **options: Any) -> models.ImportRun:
        return self.database.write_now(
            imports.start, self.account, clock.now(), "ana@acme.example", **options
        )

    def run(self, account: models.Account | None = None) -> models.ImportRun:
        found = self.database.read_now(imports.newest, (account or self.account).id)
        assert found is not None
        return found

    def turn(self, importer: imports.Importer, told: imports.Told | None = None) -> imports.Turn:
        async def once() -> imports.Turn:
            turn = await importer.turn(self.run().id, told)
            if turn.came != "more":
                await importer.aclose()
            return turn

        return asyncio.run(once())

    def rows(self, model: Any) -> list[Any]:
        return list(
            self.database.read_now(
                lambda db: db.execute(select(model).order_by(*model.__table__.primary_key)).scalars().all()
            )
        )

    def names(self, model: Any) -> list[str]:
        return sorted(row.remote_id for row in self.rows(model))

    def whole(self) -> dict[str, list[dict[str, Any]]]:
        """All that was read in, without what differs by chance."""
        leave = {"id", "customer_id", "as_of", "stamps"}
        return {
            model.__name__: sorted(
                (row.model_dump(exclude=leave) for row in self.rows(model)), key=lambda row: row["remote_id"]
            )
            for model in models.MIRRORED
        }


@pytest.fixture
def till(database: Database, monkeypatch: pytest.MonkeyPatch) -> Till:
    return Till(database, monkeypatch, 6)


@pytest.fixture
def sqlite_till(tmp_path: Path, empty_sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Till]:
    """On SQLite alone: where the database makes no difference."""
    path = tmp_path / "portal.db"
    path.write_bytes(empty_sqlite.read_bytes())
    database = Database(f"sqlite:///{path}", threads=4)
    yield Till(database, monkeypatch, 6)
    database.dispose()


# Once and twice


def test_everything_is_read_in_and_counted(till: Till) -> None:
    till.start()
    seen: list[tuple[int, int]] = []
    turn = till.turn(till.importer(), lambda run: seen.append((run.pages, run.objects)))
    assert turn.came == "done"
    assert seen == [(n, n * 3 * SIZE) for n in range(1, 7)]
    run = till.run()
    assert (run.state, run.cursor, run.skipped, run.holder, run.asked_by) == (
        "done",
        None,
        0,
        None,
        "ana@acme.example",
    )
    assert run.finished_at is not None
    assert till.names(models.Order) == sorted(f"o{n}" for n in range(30))
    people = {row.id: row.email for row in till.rows(models.Customer)}
    assert {people[row.customer_id] for row in till.rows(models.Payment)} == {
        f"p{n}@example.com" for n in range(30)
    }


def test_run_twice_equals_run_once(till: Till) -> None:
    till.start()
    till.turn(till.importer())
    once = till.whole()
    first = till.run()
    till.start()
    second = till.run()
    assert second.id != first.id
    assert second.total == first.objects  # as many as there were the last time
    assert till.turn(till.importer()).came == "done"
    assert till.whole() == once
    assert till.run().objects == first.objects
    assert len(till.rows(models.Customer)) == 30


def test_starting_what_is_under_way_starts_nothing_else(till: Till) -> None:
    first = till.start()
    assert till.start().id == first.id
    assert len(till.rows(models.ImportRun)) == 1


# Stopped, killed, two at once


def test_a_stopped_run_goes_on_where_it_was(till: Till) -> None:
    till.start()

    def told(run: models.ImportRun) -> None:
        if run.pages == 2:
            till.database.write_now(imports.stop, till.account.id, clock.now())

    assert till.turn(till.importer(), told).came == "stopped"
    run = till.run()
    assert (run.state, run.pages, run.cursor, run.stop_wanted) == ("stopped", 3, "3", False)
    assert till.names(models.Payment) == sorted(f"p{n}" for n in range(15))
    assert till.turn(till.importer()).came == "stopped"  # a job that was left does nothing
    till.start()
    assert till.turn(till.importer()).came == "done"
    assert till.asked[till.account.id] == [0, 1, 2, 3, 4, 5]
    assert till.run().id == run.id


def test_a_stopped_run_may_begin_anew(sqlite_till: Till) -> None:
    till = sqlite_till
    till.start()
    till.turn(till.importer(slice_s=0.0))
    assert till.run().cursor == "1"
    till.database.write_now(imports.stop, till.account.id, clock.now() + timedelta(minutes=5))
    assert till.run().state == "stopped"
    till.start(anew=True)
    assert till.turn(till.importer()).came == "done"
    assert till.asked[till.account.id] == [0, 0, 1, 2, 3, 4, 5]
    assert till.run().objects == 90


def test_a_turn_is_bounded_and_the_walk_stays_open(sqlite_till: Till) -> None:
    till = sqlite_till
    till.start()
    importer = till.importer(slice_s=0.0)

    async def all_turns() -> list[str]:
        found = []
        while (turn := await importer.turn(till.run().id)).came == "more":
            found.append(turn.came)
        return [*found, turn.came]

    assert asyncio.run(all_turns()) == ["more"] * 5 + ["done"]
    assert till.asked[till.account.id] == [0, 1, 2, 3, 4, 5]


def test_two_workers_do_not_read_one_account_at_once(till: Till) -> None:
    till.start()
    one, other = till.importer(), till.importer()
    came: list[str] = []

    async def both() -> None:
        def told(_: models.ImportRun) -> None:
            pass

        run = till.run().id
        assert await till.database.write(imports.take, run, one.holder, clock.now()) is not None
        came.append((await other.turn(run, told)).came)  # while one has it
        clock.set_offset(imports.LEASE + timedelta(seconds=1))  # one has died
        came.append((await other.turn(run, told)).came)
        page = Page(page_of(0), "1")
        with pytest.raises(imports.Taken):  # one was not dead, only slow: it writes nothing any more
            await till.database.write(
                imports.write_page, run, one.holder, page, [], 0.1, work.after_page, clock.now()
            )

    asyncio.run(both())
    assert came == ["busy", "done"]
    assert till.run().pages == 6


def test_the_same_worker_reads_a_run_once_at_a_time(sqlite_till: Till) -> None:
    till = sqlite_till
    till.start()
    importer = till.importer()

    async def both() -> list[str]:
        run = till.run().id
        turns = await asyncio.gather(importer.turn(run), importer.turn(run))
        return sorted(turn.came for turn in turns)

    assert asyncio.run(both()) == ["busy", "done"]
    assert till.asked[till.account.id] == [0, 1, 2, 3, 4, 5]


def _reads_until_it_is_killed(url: str, run_id: int, pipe: Connection) -> None:
    """In a process of its own: three pages, and then it waits."""
    database = Database(url, threads=2, outside=walls.EVERYTHING)
    settings = Settings(master_keys=MASTER_KEY, scheme="http")
    importer = imports.Importer(settings, database, Vault(MASTER_KEY), work.after_page)

    def told(run: models.ImportRun) -> None:
        if run.pages == 3:
            pipe.send(run.pages)
            pipe.recv()  # and here it is killed

    asyncio.run(importer.turn(run_id, told))


def test_resumes_after_kill_between_pages(till: Till) -> None:
    run = till.start()
    url = till.database.engine.url.render_as_string(hide_password=False)
    till.database.dispose()  # the other process inherits no connection
    here, there = multiprocessing.Pipe()
    # A fork: to load everything anew takes a hundred times as long as the test.
    process = multiprocessing.get_context("fork").Process(
        target=_reads_until_it_is_killed, args=(url, run.id, there)
    )
    process.start()
    try:
        assert here.poll(60)
        assert here.recv() == 3
    finally:
        process.kill()
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    till.asked[till.account.id].clear()
    left = till.run()
    assert (left.state, left.pages, left.cursor) == ("running", 3, "3")
    assert till.turn(till.importer()).came == "busy"  # its lease is not over
    clock.set_offset(imports.LEASE + timedelta(seconds=1))
    assert till.turn(till.importer()).came == "done"
    assert till.asked[till.account.id] == [3, 4, 5]
    assert till.names(models.Order) == sorted(f"o{n}" for n in range(30))
    assert till.run().objects == 90


def test_several_accounts_side_by_side(till: Till) -> None:
    other = make_account(till.database, till.portal, label="Second till")
    till.fill(other, 4)
    till.start()
    till.database.write_now(imports.start, other, clock.now(), None)
    worker = work.Worker(till.settings, till.database)
    worker.importer.slice_s = 0.0  # a page each, in turns
    asyncio.run(worker.drain())
    assert [till.run(one).state for one in (till.account, other)] == ["done", "done"]
    assert till.asked == {till.account.id: list(range(6)), other.id: list(range(4))}
    assert len(till.rows(models.Order)) == 50
    assert len(till.rows(models.Customer)) == 30  # the same people at both


def test_an_import_holds_up_no_other_job(sqlite_till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that takes its time is read beside the batch, and the batch is done meanwhile."""
    till = sqlite_till
    go_on = asyncio.Event()

    class Slow(Shelf):
        async def backfill(self, cursor: str | None = None) -> AsyncIterator[Page]:
            await go_on.wait()
            yield Page(page_of(0), None)

    monkeypatch.setattr(imports, "open_gateway", lambda *a, **k: Slow([], []))
    till.start()
    till.database.write_now(enqueue, "look_at_customer", {"customer": 1}, clock.now(), None)
    worker = work.Worker(till.settings, till.database)
    done: list[dict[str, Any]] = []

    async def handler(payload: dict[str, Any]) -> None:
        done.append(payload)

    worker._handlers["look_at_customer"] = handler

    async def both() -> None:
        await asyncio.wait_for(worker.once(), 60)
        assert done == [{"customer": 1}]
        assert till.run().state in ("waiting", "running")
        go_on.set()
        await worker.drain()

    asyncio.run(both())
    assert till.run().state == "done"


# What goes wrong


@pytest.mark.parametrize("circle", [1, 7, 20])
def test_a_list_that_leads_in_a_circle_ends_with_a_sentence(sqlite_till: Till, circle: int) -> None:
    till = sqlite_till
    orders = [OrderRecord(remote_id=f"o{n}", status="paid") for n in range(circle + 4)]
    pages: list[Any] = [Snapshot(as_of=NOW, orders=(one,)) for one in orders]
    pages[-1] = Page(pages[-1], "4")  # back to the fifth
    till.fill(till.account, pages)
    till.start()
    assert till.turn(till.importer()).came == "failed"
    run = till.run()
    assert run.error is not None
    assert "leads back to a page that was read before" in run.error
    assert run.finished_at is not None
    assert run.pages < 4 * (circle + 8)
    assert len(till.rows(models.Order)) == circle + 4  # nothing is lost
    assert run.cursor is None  # it would lead there again


def test_a_list_that_repeats_a_page_under_new_numbers_ends(sqlite_till: Till) -> None:
    till = sqlite_till
    till.fill(till.account, [page_of(0)] * 100)
    till.start()
    assert till.turn(till.importer()).came == "failed"
    assert "repeats the same objects" in str(till.run().error)
    assert till.run().pages <= imports.SAME_PAGES + 2


def test_a_list_that_changes_meanwhile_and_repeats_rows_reads_all(sqlite_till: Till) -> None:
    """Something new shifts the rows: the last ones of a page come once more on the next."""
    till = sqlite_till
    shifted = replace(page_of(1), orders=(*page_of(0).orders[2:], *page_of(1).orders))
    till.fill(till.account, [page_of(0), shifted, page_of(2)])
    till.start()
    assert till.turn(till.importer()).came == "done"
    assert till.names(models.Order) == sorted(f"o{n}" for n in range(15))


def test_a_total_that_lies_is_not_believed(sqlite_till: Till) -> None:
    till = sqlite_till
    till.fill(till.account, [Page(page_of(0), "1", total=45), Page(page_of(1), "2", total=3), page_of(2)])
    till.start()
    seen: list[tuple[int | None, int | None]] = []

    def told(run: models.ImportRun) -> None:
        found = imports.progress(run, clock.now())
        assert found is not None
        seen.append((found.total, found.percent))

    assert till.turn(till.importer(), told).came == "done"
    assert seen == [(45, 33), (None, None), (None, None)]


def test_objects_without_an_address_belong_to_nobody_yet(sqlite_till: Till) -> None:
    till = sqlite_till
    bare = OrderRecord(remote_id="o", status="paid", email="")
    till.fill(till.account, [Snapshot(as_of=NOW, orders=(bare,))])
    till.start()
    assert till.turn(till.importer()).came == "done"
    assert [row.customer_id for row in till.rows(models.Order)] == [None]
    assert till.rows(models.Customer) == []


def test_an_object_with_somebody_elses_address_is_its_customers(till: Till) -> None:
    """What the processor's customer bought is theirs, whatever address was typed; the other one's name stays."""
    victim = make_customer(till.database, till.portal, "victim@example.com", name="Vic")
    shop = make_portal(till.database, "other")
    stranger = make_customer(till.database, shop, "p1@example.com")
    told = page_of(0)
    orders = (replace(told.orders[0], email="victim@example.com"), *told.orders[1:])
    people = (*told.customers, CustomerRecord(remote_id="c9", email=" Victim@Example.com", name="Mallory"))
    till.fill(till.account, [replace(told, customers=people, orders=orders)])
    till.start()
    assert till.turn(till.importer()).came == "done"
    found = {row.id: row for row in till.rows(models.Customer)}
    whose = {row.remote_id: found[row.customer_id] for row in till.rows(models.Order)}
    assert whose["o0"].email == "p0@example.com"
    assert (whose["o1"].email, whose["o1"].portal_id) == ("p1@example.com", till.portal.id)
    assert whose["o1"].id != stranger.id
    assert found[victim.id].name == "Vic"
    assert {row.remote_id: row.customer_id for row in till.rows(models.RemoteCustomer)}["c9"] == victim.id


def test_amounts_as_text_are_not_written(till: Till) -> None:
    told = page_of(0)
    text: Any = "12.00"
    bad = (replace(told.payments[0], amount=text), replace(told.payments[1], refunded=text))
    till.fill(till.account, [replace(told, payments=(*bad, *told.payments[2:])), page_of(1)])
    till.start()
    assert till.turn(till.importer()).came == "done"
    assert till.names(models.Payment) == sorted(f"p{n}" for n in range(2, 10))
    assert [(one["what"], one["id"]) for one in till.run().reasons] == [
        ("payments", "p0"),
        ("payments", "p1"),
    ]
    assert len(till.rows(models.Order)) == 10


def test_a_list_with_the_ids_of_another_account_touches_nothing_there(till: Till) -> None:
    """Two merchants' accounts may use the same ids, and one of them may lie."""
    shop = make_portal(till.database, "other")
    theirs = make_account(till.database, shop)
    till.fill(theirs, 1)
    till.database.write_now(imports.start, theirs, clock.now(), None)
    till.fill(till.account, [replace(page_of(0), as_of=NOW + timedelta(days=1), orders=_cancelled())])
    till.start()

    async def both() -> list[str]:
        found = list[str]()
        for account in (theirs, till.account):
            importer = till.importer()
            found.append((await importer.turn(till.run(account).id)).came)
            await importer.aclose()
        return found

    assert asyncio.run(both()) == ["done", "done"]
    statuses = {(row.account_id, row.portal_id, row.status) for row in till.rows(models.Order)}
    assert statuses == {
        (theirs.id, shop.id, "paid"),
        (till.account.id, till.portal.id, "cancelled"),
    }
    portals = {row.id: row.portal_id for row in till.rows(models.Customer)}
    assert all(portals[row.customer_id] == row.portal_id for row in till.rows(models.Order))


def _cancelled() -> tuple[OrderRecord, ...]:
    return tuple(replace(one, status="cancelled") for one in page_of(0).orders)


def test_a_list_that_shrinks_meanwhile_keeps_what_was_read(sqlite_till: Till) -> None:
    """What the processor has deleted between two pages is no reason to stop, nor is a page without anything."""
    till = sqlite_till
    till.fill(till.account, [page_of(0), Snapshot(as_of=NOW), Snapshot(as_of=NOW), page_of(2)])
    till.start()
    assert till.turn(till.importer()).came == "done"
    assert till.names(models.Order) == sorted(f"o{n}" for n in (*range(5), *range(10, 15)))


def test_a_bad_object_is_skipped_with_its_reason_and_nothing_is_half_written(till: Till) -> None:
    """One that the database refuses: an amount beyond all bounds, on both databases."""
    good = page_of(0)
    bad = OrderRecord(remote_id="bad", status="paid", email="new@example.com", amount=Money(10**30, "EUR"))
    till.fill(till.account, [replace(good, orders=(*good.orders[:2], bad, *good.orders[2:])), page_of(1)])
    till.start()
    assert till.turn(till.importer()).came == "done"
    run = till.run()
    assert (run.skipped, run.objects) == (1, 30)
    assert run.reasons == [{"what": "orders", "id": "bad", "why": "The database refuses one of its values."}]
    assert till.names(models.Order) == sorted(f"o{n}" for n in range(10))
    assert "new@example.com" not in {row.email for row in till.rows(models.Customer)}


def test_a_record_without_an_id_is_skipped(sqlite_till: Till) -> None:
    till = sqlite_till
    bare = OrderRecord(remote_id="", status="paid")
    till.fill(till.account, [replace(page_of(0), orders=(bare, *page_of(0).orders))])
    till.start()
    assert till.turn(till.importer()).came == "done"
    assert till.run().reasons == [{"what": "orders", "id": "", "why": "It has no id."}]
    assert len(till.rows(models.Order)) == SIZE


def test_reasons_are_few_however_many_are_skipped(sqlite_till: Till) -> None:
    till = sqlite_till
    bad = [OrderRecord(remote_id=f"bad{n}", status="paid", amount=Money(10**30, "EUR")) for n in range(50)]
    till.fill(till.account, [Snapshot(as_of=NOW, orders=tuple(bad))])
    till.start()
    assert till.turn(till.importer()).came == "done"
    assert (till.run().skipped, len(till.run().reasons)) == (50, imports.REASONS)


def busy(seconds: float | None = 7.0) -> Unavailable:
    return Unavailable("Busy.", "HTTP 429: slow down, sk_test_very_secret", retry_after=seconds)


def test_a_limit_is_waited_for_and_the_run_goes_on(till: Till) -> None:
    till.fill(till.account, [page_of(0), [busy(), page_of(1)], page_of(2)])
    till.start()
    turn = till.turn(till.importer())
    assert turn.came == "wait"
    assert 5 < turn.seconds <= 7
    run = till.run()
    assert (run.state, run.pages, run.cursor, run.failures, run.holder) == ("running", 1, "1", 1, None)
    found = imports.progress(run, clock.now())
    assert found is not None
    assert (found.word, found.tone) == ("Waiting", "warn")
    assert "sk_test_very_secret" not in found.sentence
    assert till.turn(till.importer()).came == "done"
    assert till.asked[till.account.id] == [0, 1, 1, 2]
    assert (till.run().failures, till.run().error) == (0, None)


def test_a_run_that_gets_no_answer_ends_and_tells_the_merchant(sqlite_till: Till) -> None:
    till = sqlite_till
    till.fill(till.account, [page_of(0), [*[busy(None)] * 20, page_of(1)]])
    till.start()
    came = [till.turn(till.importer()).came for _ in range(imports.MOST_FAILURES)]
    assert came == ["wait"] * (imports.MOST_FAILURES - 1) + ["failed"]
    run = till.run()
    assert (run.state, run.cursor) == ("failed", "1")
    mails = [job for job in till.rows(models.Job) if job.kind == "mail"]
    assert [job.payload["template"] for job in mails] == ["merchant_notice"]
    assert "slow down" in mails[0].payload["text"]
    till.shelves[till.account.id][1] = page_of(1)
    till.start()
    assert till.run().id == run.id
    assert till.turn(till.importer()).came == "done"


def test_a_refusal_is_not_asked_for_as_often(sqlite_till: Till) -> None:
    till = sqlite_till
    till.fill(till.account, [[*[Declined("No.", "HTTP 400: no such list")] * 20, page_of(0)]])
    till.start()
    came = [till.turn(till.importer()).came for _ in range(imports.MOST_REFUSALS)]
    assert came[-1] == "failed"
    assert till.run().error == "HTTP 400: no such list"


def test_the_worker_waits_as_long_as_it_is_asked_to(sqlite_till: Till) -> None:
    till = sqlite_till
    till.fill(till.account, [[busy(600), page_of(0)]])
    till.start()
    worker = work.Worker(till.settings, till.database)
    asyncio.run(worker.drain())
    (job,) = till.rows(models.Job)
    assert job.done_at is None
    assert timedelta(seconds=590) < job.run_at - clock.now() <= timedelta(seconds=600)
    clock.set_offset(timedelta(seconds=601))
    asyncio.run(worker.drain())
    assert till.run().state == "done"


def test_a_disconnected_account_is_not_read_any_more(sqlite_till: Till) -> None:
    till = sqlite_till
    till.start()

    def gone(db: Any) -> None:
        db.get_one(models.Account, till.account.id).disconnected_at = clock.now()

    def told(run: models.ImportRun) -> None:
        if run.pages == 2:
            till.database.write_now(gone)

    with pytest.raises(Disconnected):
        till.turn(till.importer(), told)
    assert (till.run().state, till.run().pages) == ("failed", 2)
    assert len(till.rows(models.Order)) == 10


def test_a_job_of_before_goes_on_where_its_cursor_was(sqlite_till: Till) -> None:
    till = sqlite_till
    save(till.database, models.Setting(name=f"backfill:{till.account.id}", value="4", at=NOW))
    payload = {"account": till.account.id}
    run = till.database.write_now(imports.of_job, payload, clock.now())
    assert till.run().id == run
    assert till.turn(till.importer()).came == "done"
    assert till.asked[till.account.id] == [4, 5]
    assert till.rows(models.Setting) == []


def test_a_page_that_could_not_be_written_is_read_again(
    sqlite_till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    till = sqlite_till
    till.start()
    whole, tries = imports.write_page, list[int]()

    def broken(*given: Any) -> models.ImportRun:
        tries.append(1)
        if len(tries) == 3:
            raise OperationalError("INSERT", {}, Exception("the disk is full"))
        return whole(*given)

    monkeypatch.setattr(imports, "write_page", broken)
    importer = till.importer()

    async def twice() -> str:
        with pytest.raises(OperationalError):
            await importer.turn(till.run().id)
        return (await importer.turn(till.run().id)).came

    assert asyncio.run(twice()) == "done"
    assert till.asked[till.account.id] == [0, 1, 2, 2, 3, 4, 5]
    assert len(till.rows(models.Order)) == 30


def test_a_run_without_an_end_is_begun_anew(sqlite_till: Till) -> None:
    till = sqlite_till
    till.fill(till.account, [page_of(0), Page(page_of(1), "0")])
    till.start()
    assert till.turn(till.importer()).came == "failed"
    first = till.run()
    found = imports.progress(first, clock.now())
    assert found is not None
    assert not found.goes_on
    till.start()
    assert (till.run().id != first.id, till.run().objects) == (True, 0)


def test_a_charge_after_the_end_is_still_seen(sqlite_till: Till) -> None:
    till = sqlite_till
    ended = SubscriptionRecord(remote_id="s", status="cancelled", ended_at=NOW - timedelta(days=9))
    late = PaymentRecord(remote_id="late", status="paid", subscription="s", paid_at=NOW)
    fine = PaymentRecord(remote_id="fine", status="paid", subscription="s", paid_at=NOW - timedelta(days=40))
    till.fill(till.account, [Snapshot(as_of=NOW, subscriptions=(ended,), payments=(late, fine))])
    till.start()
    assert till.turn(till.importer()).came == "done"
    flagged = {row.remote_id: row.after_end_at is not None for row in till.rows(models.Payment)}
    assert flagged == {"late": True, "fine": False}


# How fast


def test_reading_in_takes_half_of_the_limit_at_most() -> None:
    paces = {
        ("stripe", True): 12.5,
        ("stripe", False): 12.5,
        ("xendit", True): 5.0,
        ("xendit", False): 0.5,
        ("mollie", True): imports.OURS,
    }
    for (processor, live), calls in paces.items():
        account = models.Account(processor=processor, live=live, created_at=NOW)  # type: ignore[call-arg]
        assert imports.pace_of(account) == calls


def test_a_pace_lets_a_burst_through_and_then_so_many_a_second() -> None:
    pace = Pace(2.0)
    waits = [pace.claim(100.0) for _ in range(6)]
    assert waits == [0.0, 0.0, 0.5, 1.0, 1.5, 2.0]
    assert pace.claim(103.0) == pytest.approx(0.0)


# In words


def words(till: Till, **fields: Any) -> imports.Progress:
    run = models.ImportRun(
        portal_id=till.portal.id,
        account_id=till.account.id,
        created_at=NOW,
        updated_at=NOW,
        reasons=[],
        **fields,
    )
    found = imports.progress(run, NOW)
    assert found is not None
    return found


def test_progress_in_words(sqlite_till: Till) -> None:
    half = words(sqlite_till, state="running", pages=10, objects=1000, seconds=10.0, total=2000)
    assert (half.word, half.percent, half.rate, half.left_s) == ("Under way", 50, 100.0, 10.0)
    assert words(sqlite_till, state="running", objects=3000, total=2000).total is None
    assert words(sqlite_till, state="done", objects=3).tone == "ok"
    assert words(sqlite_till, state="stopped", cursor="3", pages=1).goes_on
    assert not words(sqlite_till, state="done", pages=1).goes_on
    assert words(sqlite_till, state="failed", error="It has no end.").sentence == "It has no end."
    dead = words(sqlite_till, state="running", lease_until=NOW - timedelta(seconds=1), holder="x")
    assert dead.word == "Interrupted"
    assert [imports.duration(one) for one in (3, 61, 600, 9000)] == [
        "about 5 seconds",
        "about 60 seconds",
        "about 10 minutes",
        "about 2 hours",
    ]


def test_what_the_lists_give_is_said(sqlite_till: Till) -> None:
    lists, missing = imports.given("paypal", None)
    assert {one.kind: one.reach for one in lists}["Payments"] == "the last 3 years"
    assert "Orders" in missing
    lists, missing = imports.given("midtrans", None)
    assert {one.kind: one.reach for one in lists}["Orders"] == "the last 6 months"
    assert "Subscriptions" in missing
    lists, missing = imports.given("adyen", None)
    assert lists == []
    assert len(missing) == 5
    lists, _missing = imports.given("flutterwave", "v4")
    assert "Subscriptions" not in {one.kind for one in lists}
