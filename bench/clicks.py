"""Fifty clicks at once on each of two hundred subscriptions, over two web processes: is exactly one call made for each?

    python -m bench.clicks --subscriptions 200 --clicks 50 --database sqlite|postgresql|pgbouncer [--form table]

Each customer is signed in, opens the step, and presses its button so many times at once, half of the times at each
process. The simulated processor counts.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2 as httpx
from sqlalchemy import text

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.processes import Installation, Nursery, installation, show
from portal import models, sync
from portal.connect import open_gateway
from portal.gateways.base import Ref, Snapshot
from portal.ids import id_text
from portal.vault import Vault
from seeds.simulators.harness import Situation

WEBS = ("web-1", "web-2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--subscriptions", type=int, default=200)
    parser.add_argument("--clicks", type=int, default=50)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "pgbouncer"], default="sqlite")
    parser.add_argument("--form", choices=["lines", "table", "json"], default="lines")
    options = parser.parse_args()
    found = run(options.database, options.subscriptions, options.clicks)
    show(found, options.form)
    once = found["calls"] == {"1": options.subscriptions}
    sys.exit(0 if once and found["confirmed"] == options.subscriptions else 1)


def run(database: str, subscriptions: int, clicks: int, nursery: Nursery | None = None) -> dict[str, Any]:
    """All the clicks; then how many calls were made for how many subscriptions."""
    with installation(database, "stripe", nursery=nursery) as house:
        for name in WEBS:
            house.start(name)
        people = asyncio.run(_known(house, subscriptions))
        for name in WEBS:
            house.wait_for(name)
        house.simulator.calls.clear()
        begun = time.monotonic()
        answers = asyncio.run(_all(house, people, clicks))
        took = time.monotonic() - begun
        calls = Counter(call.path for call in house.simulator.calls if call.method == "DELETE")
        ended = "SELECT count(*) FROM subscription WHERE status = 'cancelled'"
        return {
            "database": database,
            "clicks": sum(answers.values()),
            "answers": {f"{kind}xx": answers[kind] for kind in (2, 3, 4, 5)},
            "calls": {str(many): count for many, count in Counter(calls.values()).items()},
            "actions": house.count("SELECT count(*) FROM action"),
            "confirmed": house.count("SELECT count(*) FROM action WHERE phase = 'confirmed'"),
            "cancelled": house.count(ended),
            "seconds": round(took, 1),
        }


async def _known(house: Installation, subscriptions: int) -> list[tuple[dict[str, str], str]]:
    """People with a subscription each that the portal knows: the headers of their browsers, and the page."""
    people = []
    for number in range(subscriptions):
        email = f"person{number}@example.com"
        remote = house.simulator.stage(house.sample, email, Situation())
        assert remote is not None
        people.append((house.sign_in(email), remote))
    gateway = open_gateway(
        house.settings, Vault(house.settings.master_keys.get_secret_value()), house.account, patient=True
    )
    try:
        for _headers, remote in people:
            await house.database.write(
                _learn, house.account, await gateway.fetch(Ref("subscription", remote))
            )
    finally:
        await gateway.aclose()
    ids: dict[str, int] = await house.database.read(
        lambda db: dict(db.execute(text("SELECT remote_id, id FROM subscription")).all())
    )
    return [
        (headers, f"/customers/subscriptions/{id_text(ids[remote])}/cancel") for headers, remote in people
    ]


def _learn(db: Any, account: models.Account, snapshot: Snapshot) -> None:
    sync.apply(db, account, snapshot)


async def _all(house: Installation, people: list[tuple[dict[str, str], str]], clicks: int) -> Counter[int]:
    """By the first digit of their status, what the clicks were answered."""
    answers: Counter[int] = Counter()
    # None is kept: a server ends those at rest, and one that is used just then fails by no fault of what is measured.
    limits = httpx.Limits(max_connections=clicks, max_keepalive_connections=0)
    async with httpx.AsyncClient(trust_env=False, timeout=120, limits=limits) as client:

        async def click(url: str, headers: dict[str, str]) -> int:
            answer = await client.post(url, headers=headers, data={"wish": "cancel_now"})
            return answer.status_code // 100

        for headers, path in people:
            drawn = await client.get(house.url(WEBS[0]) + path, headers=headers)
            if drawn.status_code != 200 or 'name="wish"' not in drawn.text:
                raise RuntimeError(f"the step is not there: {drawn.status_code}")
            urls = [house.url(WEBS[number % 2]) + path for number in range(clicks)]
            answers.update(await asyncio.gather(*(click(url, headers) for url in urls)))
    return answers


if __name__ == "__main__":
    main()
