"""The merge of streams that Postgres has sorted.

Pure. Rows of several streams most often alternate, so a heap would be asked for each of them. Instead whole stretches
are cut and put in order by ``sorted``, which finds what is in order already and merges it in C: 0.7 us a row where a
heap took 1.8.

What may be put in order: of the streams that may deliver more, one ends first with what is at hand, by its last key and
then by its place. Rows before that one cannot be overtaken by any that is still to come. Of equal rows the one of the
earlier stream comes first, so those that are equal to it count as before it in streams up to its own, and as behind it
in the others.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Any, Protocol

from proxy.executor.ordered import cutter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from router.plan import SortKey

_CUT_ROWS = 2048  # at a time, of all streams together: a millisecond or two
_FEWEST_ROWS = 64


class Source(Protocol):
    """A sorted stream, as far as it has arrived."""

    @property
    def has_rows(self) -> bool:
        """Whether a row is at hand."""

    @property
    def exhausted(self) -> bool:
        """Whether no row is left and none will come."""

    def take(self, max_rows: int, /) -> tuple[bytes, int]:
        """Take a run of DataRow messages; ``max_rows`` 0: as long as it is."""


class _Ahead:
    """What was taken of a source: ``keys`` and ``rows`` are cut, from ``at`` on they are left; ``data`` is not cut."""

    __slots__ = ("at", "data", "keys", "rows", "source", "start")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.keys: list[Any] = []
        self.rows: list[bytes] = []
        self.at = 0
        self.data = b""
        self.start = 0

    @property
    def empty(self) -> bool:
        """Whether no row is left that was cut."""
        return self.at == len(self.keys)

    @property
    def missing(self) -> bool:
        """Whether nothing can be said before the source delivers, or ends."""
        source = self.source
        return self.empty and self.start == len(self.data) and not (source.has_rows or source.exhausted)

    @property
    def last(self) -> bool:
        """Whether the rows that are cut are the last ones."""
        return self.start == len(self.data) and self.source.exhausted


class Merge:
    """A merge that stops when a source has nothing at hand, and goes on when it has.

    ``limit`` None: all. Rows come out cut to ``visible`` columns.
    """

    def __init__(  # noqa: PLR0913 - as many as a merge has parts
        self,
        sources: Sequence[Source],
        keys: Sequence[SortKey],
        visible: int,
        *,
        limit: int | None,
        offset: int,
        encoding: str = "utf-8",
    ) -> None:
        self._ahead = [_Ahead(source) for source in sources]
        self._cut = cutter(keys, visible, encoding)
        self._most = max(_CUT_ROWS // len(sources), _FEWEST_ROWS)
        self._left = limit  # of the rows that are not in order yet
        self._skip = offset
        self._ready: list[bytes] = []  # rows in order
        self._given = 0  # of these

    @property
    def full(self) -> bool:
        """Whether the limit was reached."""
        return self._left == 0 and self._given == len(self._ready)

    @property
    def finished(self) -> bool:
        """Whether no row will come any more."""
        return self._given == len(self._ready) and (
            self._left == 0 or all(ahead.empty and ahead.last for ahead in self._ahead)
        )

    @property
    def blocked(self) -> bool:
        """Whether a source must deliver (or end) before the next row is known."""
        return self._given == len(self._ready) and self._left != 0 and any(ahead.missing for ahead in self._ahead)

    def take(self, most: int) -> list[bytes]:
        """Take rows that are known now; none only when :attr:`blocked` or :attr:`finished`."""
        while self._given == len(self._ready) and not self.blocked and not self.finished:
            self._put_in_order()
        start = self._given
        rows = self._ready[start : start + most]
        self._given = start + len(rows)
        return rows

    def _put_in_order(self) -> None:
        """Cut what is missing, and put in order what can be; every source has something at hand or has ended."""
        for ahead in self._ahead:
            if ahead.empty:
                if ahead.start == len(ahead.data) and ahead.source.has_rows:
                    ahead.data, ahead.start = ahead.source.take(0)[0], 0
                ahead.rows, ahead.keys, ahead.start = self._cut(ahead.data, ahead.start, self._most)
                ahead.at = 0
        keys: list[Any] = []
        rows: list[bytes] = []
        runs = 0
        bound, bounding = self._bound()
        for position, ahead in enumerate(self._ahead):
            start = ahead.at
            if bounding is None:
                stop = len(ahead.keys)
            elif position <= bounding:
                stop = bisect_right(ahead.keys, bound, start)
            else:
                stop = bisect_left(ahead.keys, bound, start)
            if stop > start:
                runs += 1
                keys += ahead.keys[start:stop]
                rows += ahead.rows[start:stop]
                ahead.at = stop
        if runs > 1:
            rows = [rows[at] for at in sorted(range(len(keys)), key=keys.__getitem__)]
        self._take_over(rows)

    def _bound(self) -> tuple[Any, int | None]:
        """Return the last key at hand of the source that ends first and may deliver more, and its place; see above."""
        bound: Any = None
        bounding: int | None = None
        for position, ahead in enumerate(self._ahead):
            if not ahead.last and (bounding is None or ahead.keys[-1] < bound):
                bound, bounding = ahead.keys[-1], position
        return bound, bounding

    def _take_over(self, rows: list[bytes]) -> None:
        """Make rows the ready ones, as far as offset and limit let them."""
        if self._skip:
            skipped = min(self._skip, len(rows))
            self._skip -= skipped
            rows = rows[skipped:]
        if self._left is not None:
            rows = rows[: self._left]
            self._left -= len(rows)
        self._ready, self._given = rows, 0
