"""The database is gone for a while, under load: is it said, is anything lost, and does all go on by itself?

    python -m bench.outage --seconds 60 --database sqlite|postgresql [--form table]

A web process and a worker, both real. Signed webhooks come all the while, each sent again until it is acknowledged, and
somebody looks at their orders. Then PostgreSQL is stopped and started again; or another program holds the lock of the
SQLite file, in which pages can still be read.

Exits 1 where anything is lost or done twice, where what cannot be kept is answered other than with 503, or where it
does not all go on.
"""

import argparse
import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.crash import Storm
from bench.processes import Installation, Nursery, installation, show

LONGER_S = 120.0
SENTENCE = "Try again in a minute. Nothing was changed."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--events", type=int, default=600)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--form", choices=["lines", "table", "json"], default="lines")
    options = parser.parse_args()
    found = run(options.database, options.seconds, options.events)
    show(found, options.form)
    sys.exit(0 if is_sound(found) else 1)


def is_sound(found: dict[str, Any]) -> bool:
    """Nothing lost, nothing twice, nothing set aside; and whoever asked was told."""
    wrong = ("lost", "kept_twice", "unhandled", "parked")
    told = found["refused"] > 0 and set(found["webhooks"]) <= {"200", "503"}
    pages = {"200", "503"} if found["database"] == "sqlite" else {"503"}
    return not any(found[name] for name in wrong) and told and set(found["pages"]) <= pages and found["said"]


def run(database: str, seconds: float, events: int, nursery: Nursery | None = None) -> dict[str, Any]:
    with installation(database, "stripe", nursery=nursery) as house:
        return asyncio.run(_story(house, seconds, events))


async def _story(house: Installation, seconds: float, events: int) -> dict[str, Any]:
    storm = Storm(house, events, 0, 1)
    for name in ("web", "worker-1"):
        house.start(name)
    storm._buy()
    house.wait_for("web")
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        storm.client = client
        await storm._deliver_all(storm._take_posted())
        await storm._until_handled()
        headers = house.sign_in(storm.failing[0])
        orders = f"{house.url('web')}/customers/orders"
        before = await client.get(orders, headers=headers)
        if before.status_code != 200:
            raise RuntimeError(f"the page is not there: {before.status_code}")
        waiting = storm._make_events()
        storm.answers.clear()
        pages: Counter[str] = Counter()
        said = True
        with gone(house):
            sending = asyncio.create_task(storm._deliver_all(waiting))
            end = time.monotonic() + seconds
            # Until somebody was refused, too: how long SQLite waits for a lock is not what a clock says under load.
            while time.monotonic() < end or (not storm.answers[503] and time.monotonic() < end + LONGER_S):
                page = await client.get(orders, headers=headers)
                pages[str(page.status_code)] += 1
                said = said and (page.status_code == 200 or SENTENCE in page.text)
                await asyncio.sleep(0.25)
        back = time.monotonic()
        await sending
        await storm._until_handled()
        recovered = time.monotonic() - back
        while posted := storm._take_posted():
            await storm._deliver_all(posted)
            await storm._until_handled()
        after = await client.get(orders, headers=headers)
    found = storm._count()
    names = ("database", "events", "lost", "kept_twice", "unhandled", "parked")
    return {name: found[name] for name in names} | {
        "webhooks": {str(status): many for status, many in sorted(storm.answers.items())},
        "refused": storm.answers[503],
        "pages": dict(pages),
        "said": said and after.status_code == 200,
        "recovered_s": round(recovered, 1),
    }


@contextmanager
def gone(house: Installation) -> Iterator[None]:
    """The server is stopped; the file is held by somebody else."""
    if house.server is not None:
        house.server.stop()
        try:
            yield
        finally:
            house.server.go_on()
        return
    ready, over = threading.Event(), threading.Event()

    def hold() -> None:
        with house.database.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN EXCLUSIVE")
            ready.set()
            over.wait()
            connection.exec_driver_sql("ROLLBACK")

    holding = threading.Thread(target=hold)
    holding.start()
    ready.wait()
    try:
        yield
    finally:
        over.set()
        holding.join()


if __name__ == "__main__":
    main()
