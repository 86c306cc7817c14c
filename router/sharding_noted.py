"""The slots of small integer keys, noted: an array instead of thirty steps of arithmetic for keys that come again.

Decides which keys are noted: those below ``NOTED``, two bytes each. A key is noted when it has come, and the rest of
its block when many keys of that have: hashed together they are a seventh as dear (router.sharding_many), and where many
keys are read others will be. (Whole blocks at the first key were tried: keys at random pay for a block with almost
every statement of the first seconds.)
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from typing import Final

from router.sharding import integer_slot
from router.sharding_many import integer_slots

NOTED: Final = 1 << 20
_BLOCK_BITS: Final = 10
_BLOCK: Final = 1 << _BLOCK_BITS
_ENOUGH: Final = 64  # keys of a block: to hash them has taken half of what the rest takes


class NotedSlots:
    """For one number of slots. ``noted``: the slot of each key, 0 also where that is not known yet (``note``)."""

    __slots__ = ("_left", "_slots", "noted")

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self.noted = array("H", bytes(2 * NOTED))
        # Of each block, how many keys are still to come before the rest is noted.
        self._left = array("B", [_ENOUGH]) * (NOTED // _BLOCK)

    def note(self, key: int) -> int:
        """Return the slot of a key below ``NOTED``, which was 0."""
        slot = self.noted[key] = integer_slot(key, self._slots)
        block = key >> _BLOCK_BITS
        left = self._left[block]
        if left:  # else this key's slot is 0
            self._left[block] = left - 1
            if left == 1:
                first = block << _BLOCK_BITS
                self.noted[first : first + _BLOCK] = array(
                    "H", integer_slots(range(first, first + _BLOCK), self._slots)
                )
        return slot


@lru_cache(maxsize=4)
def noted_slots(slots: int) -> NotedSlots:
    """Return the one of a number of slots."""
    return NotedSlots(slots)
