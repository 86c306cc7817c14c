"""The slots of small integer keys, noted: an array instead of thirty steps of arithmetic for each statement.

Decides which keys are noted (those below ``NOTED``, two bytes each) and when: a block of them at once, when the first
is asked for (:mod:`router.sharding_many`, 40 us). The slots are those of :func:`router.sharding.integer_slot`.
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from typing import Final

from router.sharding_many import integer_slots

NOTED: Final = 1 << 20
_BLOCK_BITS: Final = 8
_BLOCK: Final = 1 << _BLOCK_BITS


class NotedSlots:
    """For one number of slots. ``noted``: the slot of each key, 0 also where that is not known yet (``note``)."""

    __slots__ = ("_done", "_slots", "noted")

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._done = bytearray(NOTED >> _BLOCK_BITS)
        self.noted = array("H", bytes(2 * NOTED))

    def note(self, key: int) -> int:
        """Return the slot of a key below ``NOTED``, which was 0."""
        block = key >> _BLOCK_BITS
        if not self._done[block]:
            self._done[block] = 1
            start = block << _BLOCK_BITS
            self.noted[start : start + _BLOCK] = array("H", integer_slots(range(start, start + _BLOCK), self._slots))
        return self.noted[key]


@lru_cache(maxsize=4)
def noted_slots(slots: int) -> NotedSlots:
    """Return the one of a number of slots."""
    return NotedSlots(slots)
