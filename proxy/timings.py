"""Durations in histograms that cost the way of a statement next to nothing.

Whoever has a duration puts it into ``recent`` and counts it, with no call of a function:

    count = timings.count
    timings.recent[count & LAST] = seconds
    timings.count = count = count + 1
    if not count & LAST:
        timings.fold()

``fold`` sorts what has come together into buckets; whoever reads folds first. Nothing here knows a clock.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final, Protocol

#: Durations that wait to be folded: a power of two.
KEPT: Final = 64
LAST: Final = KEPT - 1
#: Upper bounds of the buckets in seconds; beyond the last one is one more.
BOUNDS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)


class Sums(Protocol):
    """What durations come to: how many, in each bucket and in all, and the longest."""

    number: int
    buckets: list[int]
    seconds: float
    longest_s: float


class Histogram:
    """Counts by bucket. Those of several can be added up: ``add``."""

    __slots__ = ("buckets", "longest_s", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        self.longest_s = 0.0

    @property
    def total(self) -> int:
        """How many durations there are in it."""
        return sum(self.buckets)

    def add(self, other: Histogram | Sums) -> None:
        """Add another's counts."""
        buckets = self.buckets
        for bucket, count in enumerate(other.buckets):
            if count:
                buckets[bucket] += count
        self.seconds += other.seconds
        self.longest_s = max(self.longest_s, other.longest_s)

    def put(self, ordered: list[float]) -> None:
        """Add durations, the shortest first."""
        for bucket, count in enumerate(buckets_of(ordered)):
            self.buckets[bucket] += count
        self.seconds += sum(ordered)
        self.longest_s = max(self.longest_s, ordered[-1])

    def clear(self) -> None:
        """Forget everything."""
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = self.longest_s = 0.0

    def quantile(self, part: float) -> float:
        """Return, in seconds, what ``part`` (0 to 1) of the durations do not exceed, as well as the buckets know."""
        return quantile(self.buckets, part, self.longest_s)

    def cumulative(self) -> list[tuple[str, int]]:
        """Return bounds as text and how many durations do not exceed each, as Prometheus has them."""
        found, below = [], 0
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), self.buckets, strict=True):
            below += count
            found.append((bound, below))
        return found


def buckets_of(ordered: list[float]) -> list[int]:
    """Count durations, the shortest first, by bucket."""
    found = [0] * (len(BOUNDS) + 1)
    begin, total = 0, len(ordered)
    for bucket, bound in enumerate(BOUNDS):
        end = bisect_right(ordered, bound, begin)
        found[bucket] = end - begin
        begin = end
        if begin == total:
            return found
    found[-1] = total - begin
    return found


def quantile(buckets: list[int], part: float, longest_s: float) -> float:
    """Return a quantile of counts by bucket: within its bucket a straight line, at most what was the longest."""
    wanted = part * sum(buckets)
    if not wanted:
        return 0.0
    below = 0.0
    low = 0.0
    for bound, count in zip((*BOUNDS, longest_s), buckets, strict=True):
        if count and below + count >= wanted:
            return min(low + (bound - low) * (wanted - below) / count, longest_s)
        below += count
        low = bound
    return longest_s


class Timings:
    """Durations of one kind, counted as the top of this file says; ``into`` gets all of them as well."""

    __slots__ = ("__weakref__", "_folded", "_into", "count", "histogram", "recent")

    def __init__(self, into: Histogram | None = None) -> None:
        self.recent = [0.0] * KEPT
        self.count = 0
        self.histogram = Histogram()
        self._into = into
        self._folded = 0

    def add(self, seconds: float) -> None:
        """Count one, where a call does not matter."""
        count = self.count
        self.recent[count & LAST] = seconds
        self.count = count = count + 1
        if not count & LAST:
            self.fold()

    def add_many(self, spent: Sums) -> None:
        """Count some at once."""
        self.fold()
        self.histogram.add(spent)
        if self._into is not None:
            self._into.add(spent)
        self.count = self._folded = self.count + spent.number

    def fold(self) -> None:
        """Sort what has come since the last time into the buckets."""
        begin, count = self._folded, self.count
        if begin == count:
            return
        self._folded = count
        ordered = sorted(self.recent[begin & LAST : ((count - 1) & LAST) + 1])
        self.histogram.put(ordered)
        if self._into is not None:
            self._into.put(ordered)

    def reset(self) -> None:
        """Begin anew; ``into`` keeps what it has."""
        self.fold()
        self.histogram.clear()
        self.count = self._folded = 0
