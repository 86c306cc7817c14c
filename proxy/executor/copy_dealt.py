"""Rows of a COPY FROM that have been dealt out to shards, and which of the client's lines each of them was.

Pure. Decides nothing about where a row goes: the splitters do.
"""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_SHARDS = 0xFF  # a row's shard is kept as a byte
_MOST_FOLDED = 250_000  # rows of several lines that are kept: 8 MB
_FOLDED_PARTS = 4


class Dealt:
    """Rows dealt out so far: for each shard a list of byte strings that are sent one after another.

    ``numbering`` learns which row went where.
    """

    __slots__ = ("numbering", "parts", "sizes")

    def __init__(self, shards: int, numbering: Numbering) -> None:
        self.parts: list[list[bytes]] = [[] for _ in range(shards)]
        self.sizes = [0] * shards
        self.numbering = numbering

    def add(self, shard: int, data: bytes) -> None:
        """Add bytes for one shard."""
        self.parts[shard].append(data)
        self.sizes[shard] += len(data)

    def add_to_all(self, data: bytes) -> None:
        """Add bytes for every shard (a header)."""
        for shard in range(len(self.parts)):
            self.add(shard, data)

    def take(self, shard: int) -> bytes:
        """Take what is there for one shard."""
        data = b"".join(self.parts[shard])
        self.parts[shard].clear()
        self.sizes[shard] = 0
        return data


@dataclass(frozen=True, slots=True)
class Folded:
    r"""A row that has line ends inside, between quotes: which one it is of those that are noted with it.

    ``own`` and ``dealt`` count the ``\n`` and the ``\r`` in it, as the client wrote it and as a shard gets it (behind
    values that are filled in).
    """

    index: int
    own: tuple[int, int]
    dealt: tuple[int, int]


class Numbering:
    r"""Which line of the client's data a line of one shard's data was, for the CONTEXT of errors.

    Keeps one byte for each of the last ``window`` rows, so that memory stays flat; older rows are unknown. Rows that
    are folded over several lines are kept one by one, up to a number past which all is unknown. Postgres counts ``\n``
    in them where that ends rows, else ``\r``; in the first row it does not know that yet, and a shard has a first row
    of its own.
    """

    def __init__(self, shards: int, window: int = 4_000_000, *, everywhere: bool = False) -> None:
        self._everywhere = everywhere  # every shard gets every row
        self._chunks: deque[bytes] = deque()
        self._dropped = [0] * shards  # rows of each shard in chunks that were dropped
        self._kept = 0
        self._window = window
        self._headers = 0
        self._rows = 0
        self._folds = 0  # lines inside of rows
        self._counts = [0] * shards  # rows of each shard
        # Of each shard: the number there, the number here, the lines inside here and there; and so on.
        self._folded = [array("q") for _ in range(shards)]
        self._by_newline = True
        self._lost = shards > _MOST_SHARDS

    def header(self, carriage_returns: int = 0) -> None:
        """Count a line that every shard gets, and the lines inside of it."""
        self._headers += 1 + carriage_returns

    def lines(self) -> int:
        """Return how many lines there were."""
        return self._headers + self._rows + self._folds

    def inside(self, ends: tuple[int, int], *, by_newline: bool, first: bool | None = None) -> int:
        """Return how many of the line ends inside of a row Postgres counts."""
        first = self._rows == 0 if first is None else first
        return ends[0] if by_newline and (not first or self._headers) else ends[1]

    def note(self, owners: Sequence[int], folded: Sequence[Folded] = (), *, by_newline: bool = True) -> None:
        """Learn the shards of the next rows; ``by_newline``: these end with newlines."""
        before = self._rows
        self._by_newline = by_newline
        self._rows += len(owners)
        for row in folded:
            self._fold(row, before + row.index, owners, by_newline=by_newline)
        if self._lost or self._everywhere:
            return
        packed = bytes(owners)
        for shard in range(len(self._counts)):
            self._counts[shard] += packed.count(shard)
        self._chunks.append(packed)
        self._kept += len(owners)
        while self._kept - len(self._chunks[0]) >= self._window:
            gone = self._chunks.popleft()
            self._kept -= len(gone)
            for shard in range(len(self._dropped)):
                self._dropped[shard] += gone.count(shard)

    def _fold(self, row: Folded, number: int, owners: Sequence[int], *, by_newline: bool) -> None:
        own = self.inside(row.own, by_newline=by_newline, first=number == 0)
        self._folds += own
        if self._lost or self._everywhere:
            return
        shard = owners[row.index]
        there = self._counts[shard] + owners[: row.index].count(shard)
        lines = self.inside(row.dealt, by_newline=by_newline, first=there == 0)
        if own or lines:
            self._folded[shard].extend((there, number, own, lines))
        if sum(map(len, self._folded)) > _MOST_FOLDED * _FOLDED_PARTS:
            self._lost = True
            self._chunks.clear()
            self._folded = [array("q") for _ in self._folded]

    def original(self, shard: int, line: int, *, whole: bool = True) -> int | None:
        """Return the client's line for a line (from 1) of one shard's data, or None when it is not known.

        ``whole``: the row was read to its end. If not, the error may be in the row after it: behind a carriage return a
        server looks at the next byte.
        """
        if self._everywhere:
            return line
        if self._lost or not (whole or self._by_newline):
            return None
        if line <= self._headers:
            return line
        more = 0
        folded = self._folded[shard]
        for at in range(0, len(folded), _FOLDED_PARTS):
            there, number, own, lines = folded[at : at + _FOLDED_PARTS]
            first = self._headers + there + more + 1
            if line < first:
                break
            if line <= first + lines:
                # An error in the middle of a row is on a line that only a shard knows which counts as we do.
                if own != lines and not (whole and line == first + lines):
                    return None
                return self._headers + number + 1 + self._folds_before(number) + own - (first + lines - line)
            more += lines
        row = self._row(shard, line - self._headers - more)
        return None if row is None else self._headers + row + self._folds_before(row - 1)

    def _row(self, shard: int, number: int) -> int | None:
        """Return which of all rows (from 1) is one of a shard's (from 1)."""
        left = number - self._dropped[shard]
        if left <= 0:
            return None
        before = sum(self._dropped)
        for chunk in self._chunks:
            count = chunk.count(shard)
            if left <= count:
                at = -1
                for _ in range(left):
                    at = chunk.index(shard, at + 1)
                return before + at + 1
            left -= count
            before += len(chunk)
        return None

    def _folds_before(self, number: int) -> int:
        """Return how many lines are inside of the rows before one (from 0)."""
        return sum(
            folded[at + 2]
            for folded in self._folded
            for at in range(0, len(folded), _FOLDED_PARTS)
            if folded[at + 1] < number
        )
