"""Real processes, killed in the middle of their work, under clocks that differ, and while the database is away: what
was acknowledged is never lost, and nothing happens twice. The full sizes are `python -m bench.crash`, `python -m
bench.clicks` for the clicks, and `python -m bench.outage`."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from bench import clicks, crash, outage
from bench.processes import Nursery
from tests.postgres import programs

KINDS = ("sqlite", "postgresql")
TEN_MINUTES = 600.0

Stories = dict[tuple[str, str], "Future[dict[str, Any]]"]


@pytest.fixture(scope="module")
def stories() -> Iterator[Stories]:
    """All of them side by side: most of their time they wait, for leases of the dead and for the database."""
    nursery = Nursery()
    with ThreadPoolExecutor() as pool:
        running: Stories = {}
        for kind in KINDS if programs() else KINDS[:1]:
            skew = TEN_MINUTES if kind == "postgresql" else 0.0  # SQLite has one machine, and one clock
            running["crash", kind] = pool.submit(crash.run, kind, 1000, 10, 7, nursery, skew)
            running["clicks", kind] = pool.submit(clicks.run, kind, 10, 10, nursery)
            away = 12.0 if kind == "sqlite" else 3.0  # for ten seconds, a lock is waited for
            running["outage", kind] = pool.submit(outage.run, kind, away, 40, nursery)
        yield running
    nursery.close()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "postgresql" and programs() is None:
        pytest.skip("for PostgreSQL, install the package postgresql")
    return str(request.param)


def test_killed_under_load_nothing_is_lost_and_nothing_done_twice(kind: str, stories: Stories) -> None:
    found = stories["crash", kind].result()
    assert crash.is_sound(found), found
    assert found["kills"] == 10
    assert found["events"] >= 1000
    assert found["mails"] >= found["cancels"]


def test_many_clicks_at_two_processes_make_one_call(kind: str, stories: Stories) -> None:
    found = stories["clicks", kind].result()
    assert found["calls"] == {"1": 10}
    assert found["confirmed"] == 10
    # All are told how the one wish stands, none that nothing was done.
    assert (found["answers"]["4xx"], found["answers"]["5xx"]) == (0, 0)


def test_while_the_database_is_away_it_is_said_and_nothing_is_lost(kind: str, stories: Stories) -> None:
    found = stories["outage", kind].result()
    assert outage.is_sound(found), found
    assert found["events"] >= 40
