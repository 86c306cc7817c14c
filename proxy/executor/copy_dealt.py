"""Rows of a COPY FROM that have been dealt out to shards, and which of the client's lines each of them was.

Pure. Decides nothing about where a row goes: the splitters do.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_SHARDS = 0xFF  # a row's shard is kept as a byte


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


class Numbering:
    """Which line of the client's data a line of one shard's data was, for the CONTEXT of errors.

    Keeps one byte for each of the last ``window`` rows, so that memory stays flat; older rows are unknown, and so are
    all rows once ``lose()`` was called (a row of several lines).
    """

    __slots__ = ("_chunks", "_dropped", "_everywhere", "_headers", "_kept", "_lost", "_window")

    def __init__(self, shards: int, window: int = 4_000_000, *, everywhere: bool = False) -> None:
        self._everywhere = everywhere  # every shard gets every row
        self._chunks: deque[bytes] = deque()
        self._dropped = [0] * shards  # rows of each shard in chunks that were dropped
        self._kept = 0
        self._window = window
        self._headers = 0
        self._lost = shards > _MOST_SHARDS

    def header(self) -> None:
        """Count a line that every shard gets."""
        self._headers += 1

    def lose(self) -> None:
        """Give up: rows and lines are not the same any more."""
        self._lost = True
        self._chunks.clear()

    def note(self, owners: Sequence[int]) -> None:
        """Learn the shards of the next rows."""
        if self._lost:
            return
        self._chunks.append(bytes(owners))
        self._kept += len(owners)
        while self._kept - len(self._chunks[0]) >= self._window:
            gone = self._chunks.popleft()
            self._kept -= len(gone)
            for shard in range(len(self._dropped)):
                self._dropped[shard] += gone.count(shard)

    def original(self, shard: int, line: int) -> int | None:
        """Return the client's line for a line (from 1) of one shard's data, or None when it is not known."""
        if line <= self._headers or self._everywhere:
            return line
        left = line - self._headers - self._dropped[shard]
        if self._lost or left <= 0:
            return None
        before = self._headers + sum(self._dropped)
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
