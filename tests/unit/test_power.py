"""Acknowledged is kept, whatever becomes of the power; and the check would notice if it were not."""

import random

import pytest

from bench import power


def test_nothing_that_was_acknowledged_is_lost() -> None:
    found = power.run(cuts=40, events=60, seed=7)
    assert (found.cuts, found.events >= 60) == (40, True)
    assert found.transactions > 3 * found.events
    assert found.syncs > found.transactions
    assert (found.lost_events, found.lost_others, found.halves, found.damaged) == (0, 0, 0, 0)


@pytest.mark.parametrize("how", ["NORMAL", "OFF"])
def test_with_less_care_the_check_finds_what_is_lost(how: str) -> None:
    found = power.run(cuts=6, events=30, synchronous=how, seed=7)
    assert found.lost_events > 0
    assert not power.is_as_it_must_be(found)


def test_the_disk_forgets_sectors_of_what_was_not_synced() -> None:
    states = set()
    for seed in range(200):
        kept = power.Kept()
        kept.write(0, b"a" * 1024)
        kept.sync()
        kept.write(100, b"b" * 900)
        kept.truncate(1000)
        assert bytes(kept.live) == b"a" * 100 + b"b" * 900
        kept.after_cut(random.Random(seed))
        assert kept.live == kept.synced
        assert bytes(kept.synced[:100]) == b"a" * 100  # what was synced and not written to
        states.add((len(kept.synced), bytes(kept.synced[100:512]), bytes(kept.synced[512:1000])))
    assert len(states) == 8  # each sector by itself, and the new end by itself
    assert all(len(set(first)) == 1 and len(set(second)) == 1 for _, first, second in states)


def test_once_the_power_is_out_nothing_is_written() -> None:
    disk = power.Disk(1)
    disk.left = 1
    file = disk.xOpen("a", [0, 0])
    file.xWrite(b"one", 0)
    with pytest.raises(power.PowerCut):
        file.xWrite(b"two", 0)
    with pytest.raises(power.PowerCut):
        file.xSync(0)
    with pytest.raises(power.PowerCut):
        file.xTruncate(0)
    assert bytes(disk.files["a"].live) == b"one"
    disk.unregister()
