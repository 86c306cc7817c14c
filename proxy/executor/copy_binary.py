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
    from collections.abc import Sequence

    from proxy.executor.copy_dealt import Dealt
    from proxy.executor.copy_fill import Writer
    from proxy.executor.copy_key import KeyPlacer

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
TRAILER = b"\xff\xff"
_FLAGS = Struct(">II")  # flags, length of the header's extension
_COUNT = Struct(">h")
_LENGTH = Struct(">i")
_BINARY = 1
_MOST = 32_767
_FIXED_HEADER_BYTES = len(SIGNATURE) + _FLAGS.size


class BinarySplitter:
    """Deals out tuples; the same interface as ``copy_rows.LineSplitter``."""

    def __init__(self, column: int, placer: KeyPlacer | None, dealt: Dealt, writer: Writer | None = None) -> None:
        self.dealt = dealt
        self.ended = False
        self._column = column
        self._placer = placer
        self._writer = writer
        self._batch: list[bytes] = []  # tuples that wait for their values
        self._owners: list[int] = []  # of tuples that the numbering has not heard of
        self._end: tuple[bool, bytes] | None = None  # what follows them: whether for every shard, and what
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
        if not rest or self.ended:
            self._finish(TRAILER, everywhere=True)
        elif self._writer is not None and len(rest) >= _COUNT.size:
            self._finish(self._longer(rest, self._writer.nothing()), everywhere=False)
        else:
            self._finish(rest, everywhere=False)  # an incomplete tuple: its server complains

    def _finish(self, data: bytes, *, everywhere: bool) -> None:
        if self._batch:
            self._end = (everywhere, data)
        elif everywhere:
            self.dealt.add_to_all(data)
        else:
            self.dealt.add(0, data)
            self.dealt.numbering.note((0,))

    def line(self) -> None:
        """Return no line: where Postgres names one, it names a column as well."""

    @property
    def waiting(self) -> int:
        """How many rows wait for the values in front of them."""
        return len(self._batch)

    def fill(self, rows: Sequence[Sequence[bytes | None]]) -> None:
        """Deal out the rows that wait, each behind its values."""
        if self._writer is None:
            raise AssertionError("no row waits for values")
        batch, self._batch = self._batch, []
        for values, row in zip(rows, batch, strict=True):
            whole = self._longer(row, self._writer.prefix(values))
            count: int = _COUNT.unpack_from(whole)[0]
            self._deal(whole, count, self._tuple(whole, _COUNT.size, count)[1])
        self._note()
        if self._end is not None:
            everywhere, data = self._end
            self._finish(data, everywhere=everywhere)

    def _longer(self, row: bytes, prefix: bytes) -> bytes:
        """Return a tuple with more fields in front; the count of one that Postgres refuses stays."""
        columns = self._writer.columns if self._writer is not None else 0
        count: int = _COUNT.unpack_from(row)[0]
        return _COUNT.pack(min(count + columns, _MOST)) + prefix + row[_COUNT.size :] if count >= 0 else row

    def _deal(self, row: bytes, count: int, key: bytes | None) -> None:
        if self._placer is None:
            self.dealt.add_to_all(row)
            return
        owner = self._placer.place(key, _BINARY) if count > self._column else 0
        self.dealt.add(owner, row)
        self._owners.append(owner)

    def _note(self) -> None:
        self.dealt.numbering.note(self._owners)
        self._owners.clear()

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
            if self._writer is not None:
                self._batch.append(data[at:stop])
            else:
                self._deal(data[at:stop], count, key)
            at = stop
        self._note()
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
