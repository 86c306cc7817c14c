"""Which shard owns a slot, where some shards have none."""

from __future__ import annotations

import pytest

from router.cluster import Database
from router.sharding import slot_check


@pytest.mark.parametrize("spread", [(), (0, 1), (2, 0), (3,), (3, 1, 0)])
@pytest.mark.parametrize("slots", [4, 64, 4096])
def test_each_slot_is_in_the_range_of_its_owner_alone(spread: tuple[int, ...], slots: int) -> None:
    database = Database("d", ("a", "b", "c", "d"), 0, slots=slots, spread=spread)
    ranges = [database.slot_range(shard) for shard in range(4)]
    for slot in range(slots):
        assert [shard for shard, (first, last) in enumerate(ranges) if first <= slot <= last] == [
            database.shard_of_slot(slot)
        ]
    assert database.holders == tuple("abcd"[shard] for shard in spread or range(4))
    without = [shard for shard in range(4) if spread and shard not in spread]
    assert all(ranges[shard] == (0, -1) for shard in without)


def test_the_check_of_no_slots_has_numbers_that_no_range_has() -> None:
    """By its numbers a CHECK is compared with the one that should be there."""
    none = slot_check("int8", "k", 4, 0, -1)
    numbers = {
        tuple(_numbers(slot_check("int8", "k", 4, first, last))) for first in range(4) for last in range(first, 4)
    }
    assert tuple(_numbers(none)) not in numbers


def _numbers(text: str) -> list[str]:
    return "".join(one if one.isdigit() else " " for one in text).split()
