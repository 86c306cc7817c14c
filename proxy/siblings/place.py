"""A worker's place among those of one proxy: its number, its part of the limits, how many clients there are in all.

Limits that are meant for the whole proxy are divided, so that ``workers`` does not change what the shards have to bear.
The number of clients is not divided, since nobody chooses which worker a client gets: it is counted over all.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.limits import Limits

_BYTES = 4


class Headcount:
    """How many clients each worker has, in memory that all of them see; each writes its own number only."""

    def __init__(self, workers: int) -> None:
        self._numbers = memoryview(mmap.mmap(-1, _BYTES * workers)).cast("I")

    def put(self, worker: int, clients: int) -> None:
        """Write one worker's number. Workers count from 1."""
        self._numbers[worker - 1] = clients

    def of(self, worker: int) -> int:
        """Return one worker's number."""
        return self._numbers[worker - 1]

    def total(self) -> int:
        """Return the sum."""
        return sum(self._numbers)


@dataclass(frozen=True, slots=True)
class Place:
    """Worker ``number`` of ``count``, from 1."""

    number: int = 1
    count: int = 1

    def part(self, total: int) -> int:
        """Return this worker's part of ``total``; together they are the total, or one each where it is less."""
        return max(1, total // self.count + (self.number <= total % self.count)) if total else 0

    def limits(self, whole: Limits) -> Limits:
        """Return the limits by which this worker goes."""
        return replace(
            whole,
            pool_size=self.part(whole.pool_size),
            pool_extra=self.part(whole.pool_extra),
            gather_links=self.part(whole.gather_links),
        )
