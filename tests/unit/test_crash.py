"""Real processes, killed in the middle of their work: what was acknowledged is never lost, and nothing happens twice.
The full size is `python -m bench.crash`, and `python -m bench.clicks` for the clicks."""

from collections.abc import Iterator

import pytest

from bench import clicks, crash
from bench.processes import Nursery
from tests.postgres import programs


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    one = Nursery()
    yield one
    one.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "postgresql" and programs() is None:
        pytest.skip("no PostgreSQL here")
    return str(request.param)


def test_killed_under_load_nothing_is_lost_and_nothing_done_twice(kind: str, nursery: Nursery) -> None:
    found = crash.run(kind, events=300, kills=10, seed=7, nursery=nursery)
    assert crash.is_sound(found), found
    assert found["kills"] == 10
    assert found["events"] >= 300
    assert found["mails"] >= found["cancels"]


def test_many_clicks_at_two_processes_make_one_call(kind: str, nursery: Nursery) -> None:
    found = clicks.run(kind, subscriptions=10, clicks=10, nursery=nursery)
    assert found["calls"] == {"1": 10}
    assert found["confirmed"] == 10
    assert found["answers"]["5xx"] == 0
