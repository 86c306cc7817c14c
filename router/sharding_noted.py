"""The slots of small integer keys, noted: an array instead of thirty steps of arithmetic for keys that come again.

Decides which keys are noted: those below ``NOTED``, two bytes each. (Whole blocks of keys at once were tried: 40 us for
each of them, which keys at random pay for almost every statement of the first seconds.)
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from typing import Final

from router.sharding import integer_slot

NOTED: Final = 1 << 20


class NotedSlots:
    """For one number of slots. ``noted``: the slot of each key, 0 also where that is not known yet (``note``)."""

    __slots__ = ("_slots", "noted")

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self.noted = array("H", bytes(2 * NOTED))

    def note(self, key: int) -> int:
        """Return the slot of a key below ``NOTED``, which was 0."""
        slot = self.noted[key] = integer_slot(key, self._slots)
        return slot


@lru_cache(maxsize=4)
def noted_slots(slots: int) -> NotedSlots:
    """Return the one of a number of slots."""
    return NotedSlots(slots)
