"""What statements cost, by their text without values: calls, time, rows, shards, errors.

Bounded: when there are too many, those go that nobody has run since the last time, or that took the least time. What
has gone is still in the sums by tier. On the fast lane a statement's tally is found without a call, for the lane keeps
it; so a tally that has gone may be counted on, and comes back when that is seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from proxy.timings import Histogram, Timings
from router.normal import normalised

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_Key = tuple[str, str]

#: Longer texts are normalised each time: they are rarely the same.
_REMEMBERED_CHARACTERS: Final = 2_000


class Tally(Timings):
    """One statement, as it runs in one tier. ``more_shards``: beyond the first of each call, all together."""

    __slots__ = ("before", "errors", "more_shards", "rows", "text", "tier")

    def __init__(self, text: str, tier: str, into: Histogram) -> None:
        super().__init__(into)
        self.text = text
        self.tier = tier
        self.rows = 0
        self.more_shards = 0
        self.errors = 0
        self.before = 0  # calls and errors when it was last looked at for being used

    def __del__(self) -> None:
        # The lane's last statements of one that had gone: the sums must not lack them.
        self.fold()

    @property
    def used(self) -> int:
        """How often it was run."""
        return self.count + self.errors

    def reset(self) -> None:
        """Begin anew."""
        super().reset()
        self.rows = self.more_shards = self.errors = self.before = 0


class StatementBook:
    """The tallies of one database."""

    def __init__(self, entries: int, settle: Callable[[], None] = lambda: None) -> None:
        """``settle`` counts what has run and is counted nowhere yet."""
        self._entries = entries
        self._settle = settle
        self._tallies: dict[_Key, Tally] = {}
        self._gone: WeakValueDictionary[_Key, Tally] = WeakValueDictionary()
        self._by_text: dict[_Key, Tally] = {}
        #: How long statements of each tier took since the start.
        self.tiers: dict[str, Histogram] = {}

    def tally(self, text: str, tier: str) -> Tally:
        """Return the tally of a statement."""
        found = self._by_text.get((text, tier))
        if found is not None:
            return found
        key = (normalised(text), tier)
        found = self._tallies.get(key) or self._enter(key)
        if len(text) <= _REMEMBERED_CHARACTERS:
            if len(self._by_text) >= 4 * self._entries:
                self._by_text.clear()
            self._by_text[text, tier] = found
        return found

    def _enter(self, key: _Key) -> Tally:
        if len(self._tallies) >= self._entries:
            self._make_room()
        into = self.tiers.setdefault(key[1], Histogram())
        back = self._gone.get(key)
        if back is not None:
            del self._gone[key]
        tally = self._tallies[key] = back or Tally(*key, into)
        return tally

    def _make_room(self) -> None:
        """Let a tenth go: what was not run since the last time first, then what took the least time."""
        self._settle()
        for tally in self._tallies.values():
            tally.fold()
        ranked = sorted(
            self._tallies.items(), key=lambda item: (item[1].used > item[1].before, item[1].histogram.seconds)
        )
        for key, tally in ranked[: max(1, self._entries // 10)]:
            del self._tallies[key]
            self._gone[key] = tally
        self._by_text.clear()
        for tally in (*self._tallies.values(), *self._gone.values()):
            tally.before = tally.used

    def fold(self) -> None:
        """Bring all sums up to date, and back what has gone and is in use again."""
        self._settle()
        for key, tally in list(self._gone.items()):
            tally.fold()
            if tally.used > tally.before and len(self._tallies) < self._entries:
                self._tallies[key] = tally
                del self._gone[key]
        for tally in self._tallies.values():
            tally.fold()

    def reset(self) -> None:
        """Begin anew; the sums by tier stay."""
        self._settle()
        for tally in self._tallies.values():
            tally.reset()
        self._gone.update(self._tallies)
        self._tallies.clear()
        self._by_text.clear()

    def __iter__(self) -> Iterator[Tally]:
        self.fold()
        return iter([tally for tally in self._tallies.values() if tally.used])
