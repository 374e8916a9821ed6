"""What it costs to put and to get documents and files: in the store that is set, or in a folder made for it.

    .venv/bin/python -m bench.store [--sizes 100000,20000000] [--rounds 7] [--json]

PORTAL_STORE, PORTAL_STORE_KEY and PORTAL_STORE_SECRET name the store; without them it is a folder on this disk, which
goes again afterwards.
"""

import argparse
import hashlib
import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

from portal import store
from portal.settings import Settings


def measure(place: store.Store, size: int, rounds: int) -> dict[str, float]:
    """Milliseconds, medians."""
    took: dict[str, list[float]] = {"put_ms": [], "get_ms": [], "stat_ms": [], "delete_ms": []}
    for number in range(rounds):
        content = os.urandom(size)
        key = store.key_of("document", 0, number + 1, hashlib.sha256(content).hexdigest())
        for name, do in (
            ("put_ms", partial(store.put_bytes, place, key, content)),
            ("get_ms", partial(store.whole, place, key)),
            ("stat_ms", partial(place.size, key)),
            ("delete_ms", partial(place.delete, key)),
        ):
            began = time.perf_counter()
            do()
            took[name].append(1000 * (time.perf_counter() - began))
    return {name: round(median(times), 2) for name, times in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="100000,20000000")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        settings = Settings()
        place = store.open_store(settings) if settings.store else store.Folder(Path(folder) / "files")
        if place is None:
            parser.error("PORTAL_STORE is the database: there is nothing to measure")
        found = {int(size): measure(place, int(size), options.rounds) for size in options.sizes.split(",")}
    for size, one in found.items():
        print(f"{size} bytes: " + ", ".join(f"{name} {value}" for name, value in one.items()))
    if options.json:
        print(json.dumps({"place": place.place, "sizes": found}))


if __name__ == "__main__":
    main()
