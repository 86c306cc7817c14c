"""What quick lanes have done and nobody has counted yet.

Three places of a list for each statement: how long it took, which it was (router.shortcut.Expected), and what counts
how long its shard's answers take (proxy.timings). They are put there without a call, and sorted in together:

    entries, end = ledger.entries, ledger.end
    entries[end] = seconds
    entries[end + 1] = running
    entries[end + 2] = load
    ledger.end = end = end + 3
    if end == FULL:
        counts.settle()
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from proxy.timings import BOUNDS, buckets_of
from router.digits import NATIVE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from router.shortcut import Expected

#: Statements that fit in.
ROOM: Final = 500
FULL: Final = 3 * ROOM
_LAST_BUCKET: Final = len(BOUNDS)
_kind: Final = attrgetter("kind")
_tally: Final = attrgetter("tally")


class Spent:
    """What statements of one kind (router.shortcut) and tally have taken on one shard, in all.

    ``buckets``: how many of them, by BOUNDS of proxy.timings.
    """

    __slots__ = ("buckets", "kind", "load", "longest_s", "number", "seconds", "tally")

    def __init__(self, kind: int, tally: Any, load: Any) -> None:
        self.kind = kind
        self.tally = tally
        self.load = load
        self.number = 0
        self.seconds = 0.0
        self.longest_s = 0.0
        self.buckets: list[int] = [0] * (_LAST_BUCKET + 1)


class Ledger:
    """The ledger of one database."""

    __slots__ = ("end", "entries")

    def __init__(self) -> None:
        self.entries: list[Any] = [None] * FULL
        self.end = 0

    def take(self) -> Sequence[Spent]:
        """Return what is in it, and empty it."""
        end = self.end
        if not end:
            return ()
        entries = self.entries
        self.entries = [None] * FULL
        self.end = 0
        return _one_by_one(entries, end) if NATIVE else _together(entries[:end])


def _one_by_one(entries: list[Any], end: int) -> list[Spent]:
    """Sort them in as compiled code does it fastest."""
    found: list[Spent] = []
    bounds = list(BOUNDS)
    for at in range(0, end, 3):
        seconds: float = entries[at]
        running: Expected = entries[at + 1]
        kind, tally, load = running.kind, running.tally, entries[at + 2]
        for spent in found:
            if spent.tally is tally and spent.load is load and spent.kind == kind:
                break
        else:
            spent = Spent(kind, tally, load)
            found.append(spent)
        spent.number += 1
        spent.seconds += seconds
        if seconds > spent.longest_s:  # noqa: PLR1730 - max is a call that is looked up
            spent.longest_s = seconds
        bucket = 0
        while bucket < _LAST_BUCKET and seconds > bounds[bucket]:
            bucket += 1
        spent.buckets[bucket] += 1
    return found


def _together(entries: list[Any]) -> list[Spent]:
    """Sort them in as the interpreter does it fastest: by what goes over whole lists."""
    seconds, known, loads = entries[0::3], entries[1::3], entries[2::3]
    kinds, tallies = list(map(_kind, known)), list(map(_tally, known))
    kind, tally = kinds[0], tallies[0]
    found = []
    if kinds.count(kind) == tallies.count(tally) == len(known):
        for load, durations in _grouped(loads, seconds).items():
            found.append(_spent(kind, tally, load, durations))
    else:
        for (each, of, load), durations in _grouped(list(zip(kinds, tallies, loads, strict=True)), seconds).items():
            found.append(_spent(each, of, load, durations))
    return found


def _grouped(owners: list[Any], seconds: list[float]) -> dict[Any, list[float]]:
    found: dict[Any, list[float]] = {}
    for owner, one in zip(owners, seconds, strict=True):
        if owner in found:
            found[owner].append(one)
        else:
            found[owner] = [one]
    return found


def _spent(kind: int, tally: Any, load: Any, durations: list[float]) -> Spent:
    durations.sort()
    spent = Spent(kind, tally, load)
    spent.number, spent.seconds, spent.longest_s = len(durations), sum(durations), durations[-1]
    spent.buckets = buckets_of(durations)
    return spent
