"""Cutting COPY FROM's data into rows and dealing them out, in binary format.

Pure and incremental. Every shard gets the header as it came and a trailer of its own; each tuple goes to the shard of
its key field. What is wrong in a tuple (the number of fields, a value) is for a server to say; what makes it impossible
to find the next tuple is said here, in Postgres's words.

https://www.postgresql.org/docs/18/sql-copy.html#SQL-COPY-BINARY-FORMAT
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from proxy.executor.copy_rows import BAD_FORMAT
from proxy.executor.failure import CombineFailure

if TYPE_CHECKING:
    from proxy.executor.copy_key import KeyPlacer
    from proxy.executor.copy_rows import Dealt

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
TRAILER = b"\xff\xff"
_FLAGS = Struct(">II")  # flags, length of the header's extension
_COUNT = Struct(">h")
_LENGTH = Struct(">i")
_BINARY = 1
_FIXED_HEADER_BYTES = len(SIGNATURE) + _FLAGS.size


class BinarySplitter:
    """Deals out tuples; the same interface as ``copy_rows.LineSplitter``."""

    def __init__(self, column: int, placer: KeyPlacer, dealt: Dealt) -> None:
        self.dealt = dealt
        self.ended = False
        self._column = column
        self._place = placer.place
        self._rest = b""
        self._pieces: list[bytes] = []
        self._missing = _FIXED_HEADER_BYTES  # bytes without which there is no use in looking
        self._header_read = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the data."""
        if self.ended:
            if data:
                raise CombineFailure(BAD_FORMAT, "received copy data after EOF marker")
            return
        self._pieces.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return
        data = b"".join(self._pieces)
        at = 0
        if not self._header_read:
            at = self._read_header(data)
        if self._header_read:
            at = self._tuples(data, at)
        self._pieces = [data[at:]]

    def finish(self) -> None:
        """Hear that the data is over, with or without a trailer."""
        rest = b"".join(self._pieces)
        if not self._header_read:
            if not rest.startswith(SIGNATURE):
                raise CombineFailure(BAD_FORMAT, "COPY file signature not recognized")
            missing = "flags" if len(rest) < len(SIGNATURE) + 4 else "length"
            what = "wrong length" if len(rest) >= _FIXED_HEADER_BYTES else f"missing {missing}"
            raise CombineFailure(BAD_FORMAT, f"invalid COPY file header ({what})")
        if rest and not self.ended:
            self.dealt.add(0, rest)  # an incomplete tuple: its server complains
        else:
            self.dealt.add_to_all(TRAILER)

    def _read_header(self, data: bytes) -> int:
        if not data.startswith(SIGNATURE):
            raise CombineFailure(BAD_FORMAT, "COPY file signature not recognized")
        end = header_bytes(data)
        if len(data) < end:
            self._missing = end - len(data)
            return 0
        self._header_read = True
        self.dealt.add_to_all(data[:end])
        return end

    def _tuples(self, data: bytes, at: int) -> int:
        """Deal out the whole tuples from ``at``; returns where the first incomplete one begins."""
        end = len(data)
        owners: list[int] = []
        while at + _COUNT.size <= end:
            count: int = _COUNT.unpack_from(data, at)[0]
            if count == -1:
                self.ended = True
                at += _COUNT.size
                if at < end:
                    raise CombineFailure(BAD_FORMAT, "received copy data after EOF marker")
                break
            stop, key = self._tuple(data, at + _COUNT.size, count)
            if stop < 0:
                break
            owner = self._place(key, _BINARY) if count > self._column else 0
            self.dealt.add(owner, data[at:stop])
            owners.append(owner)
            at = stop
        self.dealt.numbering.note(owners)
        return at

    def _tuple(self, data: bytes, at: int, count: int) -> tuple[int, bytes | None]:
        """Return where a tuple of ``count`` fields ends, and its key field; -1 when it is not whole."""
        end = len(data)
        unpack, column = _LENGTH.unpack_from, self._column
        key: bytes | None = None
        for number in range(count):
            start = at + 4
            if start > end:
                return -1, None
            length: int = unpack(data, at)[0]
            at = start
            if length >= 0:
                at += length
                if at > end:
                    # A long field comes in many pieces: they are not joined before it is whole.
                    self._missing = at - end
                    return -1, None
                if number == column:
                    key = data[start:at]
            elif length != -1:
                raise CombineFailure(BAD_FORMAT, "invalid field size")
        return at, key


def header_bytes(data: bytes) -> int:
    """Return how long the header at the start of a binary COPY stream is."""
    extension: int = _FLAGS.unpack_from(data, len(SIGNATURE))[1]
    return _FIXED_HEADER_BYTES + extension
