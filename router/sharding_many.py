"""The slots of many integer keys at once: COPY has thousands of them in its hand.

Decides nothing: the slots are those of :func:`router.sharding.integer_slot`, whose steps are done here for all keys
together, in one Python integer that holds each key in 64 bits of its own. An operation on it costs 2 ns for a key
instead of 30: 0.15 us a key in all, where the steps one by one take a microsecond.

How a step stays in its 64 bits: values have 32; what they are subtracted from is raised by a multiple of 2^32 first, so
that nothing is borrowed; after a shift to the right the bits that came from the neighbour are cut off.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from router.sharding import COMBINED_LOW, INT_A, INT_B, INT_C1, INT_R1, MASK, folded, integer_slot

if TYPE_CHECKING:
    from collections.abc import Sequence

_LANES: Final = 64  # sizes are multiples of this, so that there are few
_MOST_LANES: Final = 1024
_FEW: Final = 16  # up to here keys are hashed one by one
_LANE_BYTES: Final = 8
_LARGEST_UNFOLDED: Final = 0x7FFFFFFF


class _Constants(NamedTuple):
    """What the steps need, in every lane."""

    ones: int
    a: int
    c1: int
    less_r1: int
    b: int
    mask: int
    raised: int
    combined: int
    low_24: int
    rotated: tuple[int, int, int, int]  # the bits that a rotation to the left brings round: 25, 16, 4 and 14


@lru_cache(maxsize=_MOST_LANES // _LANES)
def _constants(lanes: int) -> _Constants:
    ones = int.from_bytes(struct.pack("<Q", 1) * lanes, "little")
    raised = 1 << 60
    return _Constants(
        ones=ones,
        a=ones * INT_A,
        c1=ones * INT_C1,
        less_r1=ones * ((1 << 32) - INT_R1),
        b=ones * INT_B,
        mask=ones * MASK,
        raised=ones * raised,
        combined=ones * (COMBINED_LOW + (1 << 32)),
        low_24=ones * ((1 << 24) - 1),
        rotated=(ones * ((1 << 25) - 1), ones * ((1 << 16) - 1), ones * ((1 << 4) - 1), ones * ((1 << 14) - 1)),
    )


def integer_slots(values: Sequence[int], slots: int) -> list[int]:
    """Return the slot of each int2, int4 or int8."""
    if len(values) <= _FEW:
        return [integer_slot(value, slots) for value in values]
    if min(values) < 0 or max(values) > _LARGEST_UNFOLDED:
        values = [value if 0 <= value <= _LARGEST_UNFOLDED else folded(value) for value in values]
    found: list[int] = []
    for start in range(0, len(values), _MOST_LANES):
        found += _together(values[start : start + _MOST_LANES], slots)
    return found


def _together(values: Sequence[int], slots: int) -> tuple[int, ...]:
    """Hash at most ``_MOST_LANES`` keys of 32 bits."""
    count = len(values)
    lanes = -(-count // _LANES) * _LANES
    by = _constants(lanes)
    mask, raised = by.mask, by.raised
    bits_25, bits_16, bits_4, bits_14 = by.rotated
    low = int.from_bytes(struct.pack(f"<{count}Q", *values), "little")
    a = (((by.a + low) ^ by.c1) + by.less_r1) & mask
    b = ((by.b ^ a) + raised - ((a << 25) | ((a >> 7) & bits_25))) & mask
    c = ((by.c1 ^ b) + raised - ((b << 16) | ((b >> 16) & bits_16))) & mask
    a = ((a ^ c) + raised - ((c << 4) | ((c >> 28) & bits_4))) & mask
    b = ((b ^ a) + raised - ((a << 14) | ((a >> 18) & bits_14))) & mask
    last = ((c ^ b) + by.combined - ((b >> 8) & by.low_24)) & (by.ones * (slots - 1))
    return struct.unpack_from(f"<{count}Q", last.to_bytes(lanes * _LANE_BYTES, "little"))
