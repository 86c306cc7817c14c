"""Merging streams that Postgres has sorted: keys that compare as Postgres compares, and a k-way merge.

Pure. Keys come in binary format (see ``router.plan.SortKey``); each type's bytes become a Python value whose ``<`` is
the order of the type's default btree operator class: NaN above every number and equal to itself, -0 equal to 0, text by
bytes (which is the C collation in UTF-8; nothing else may be sent here). Which types there are is ``COMPARABLE``.

https://www.postgresql.org/docs/18/queries-order.html
"""

from __future__ import annotations

import heapq
from struct import Struct
from typing import TYPE_CHECKING, Any, Protocol

from proxy.executor.failure import CombineFailure
from proxy.executor.numeric import decode_numeric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from decimal import Decimal

    from router.plan import SortKey

_INT16, _INT32, _INT64, _UINT32, _UINT64 = Struct(">h"), Struct(">i"), Struct(">q"), Struct(">I"), Struct(">Q")
_FLOAT4, _FLOAT8 = Struct(">f"), Struct(">d")
_TIMETZ = Struct(">qi")
_INTERVAL = Struct(">qii")

_UTF_8 = "utf-8"
_MICROSECONDS_PER_SECOND = 1_000_000
_MICROSECONDS_PER_DAY = 86_400 * _MICROSECONDS_PER_SECOND
_DAYS_PER_MONTH = 30  # in comparisons of intervals

BOOL, BYTEA, CHAR, NAME, INT8, INT2, INT4, TEXT, OID = 16, 17, 18, 19, 20, 21, 23, 25, 26
FLOAT4, FLOAT8, BPCHAR, VARCHAR, DATE, TIME, TIMESTAMP, TIMESTAMPTZ = 700, 701, 1042, 1043, 1082, 1083, 1114, 1184
INTERVAL, TIMETZ, NUMERIC, UUID, PG_LSN, XID8 = 1186, 1266, 1700, 2950, 3220, 5069


def _fixed(struct: Struct) -> Callable[[bytes], int]:
    unpack = struct.unpack

    def read(data: bytes) -> int:
        value: int = unpack(data)[0]
        return value

    return read


def _same(data: bytes) -> bytes:
    return data


def _float(struct: Struct) -> Callable[[bytes], tuple[int, float]]:
    def read(data: bytes) -> tuple[int, float]:
        (value,) = struct.unpack(data)
        return (0, value) if value == value else (1, 0.0)  # noqa: PLR0124 - NaN is what differs from itself

    return read


def _numeric(data: bytes) -> tuple[int, Decimal | int]:
    value = decode_numeric(data)
    return (1, 0) if value.is_nan() else (0, value)


def _timetz(data: bytes) -> tuple[int, int]:
    time, zone = _TIMETZ.unpack(data)
    return time + zone * _MICROSECONDS_PER_SECOND, zone


def _interval(data: bytes) -> int:
    time, days, months = _INTERVAL.unpack(data)
    span: int = (months * _DAYS_PER_MONTH + days) * _MICROSECONDS_PER_DAY + time
    return span


def _bpchar(data: bytes) -> bytes:
    return data.rstrip(b" ")


COMPARABLE: Mapping[int, Callable[[bytes], Any]] = {
    BOOL: _same,
    BYTEA: _same,
    CHAR: _same,
    NAME: _same,
    INT8: _fixed(_INT64),
    INT2: _fixed(_INT16),
    INT4: _fixed(_INT32),
    TEXT: _same,
    OID: _fixed(_UINT32),
    FLOAT4: _float(_FLOAT4),
    FLOAT8: _float(_FLOAT8),
    BPCHAR: _bpchar,
    VARCHAR: _same,
    DATE: _fixed(_INT32),
    TIME: _fixed(_INT64),
    TIMESTAMP: _fixed(_INT64),
    TIMESTAMPTZ: _fixed(_INT64),
    INTERVAL: _interval,
    TIMETZ: _timetz,
    NUMERIC: _numeric,
    UUID: _same,
    PG_LSN: _fixed(_UINT64),
    XID8: _fixed(_UINT64),
}


_TEXTS = frozenset({NAME, TEXT, BPCHAR, VARCHAR})


def _recoded(data: bytes, encoding: str) -> bytes:
    try:
        return data.decode(encoding).encode(_UTF_8)
    except UnicodeDecodeError as error:
        raise CombineFailure(
            "0A000", f"a text in {encoding} cannot be compared across shards", hint="Use UTF8."
        ) from error


def comparable(type_oid: int, encoding: str = _UTF_8) -> Callable[[bytes], Any]:
    """Return what turns a binary value of the type into something whose ``<`` and ``==`` are Postgres's.

    ``encoding`` is the Python codec in which texts have come.
    """
    read = COMPARABLE.get(type_oid)
    if read is None:
        raise CombineFailure("0A000", f"values of the type with OID {type_oid} cannot be compared across shards")
    if type_oid in _TEXTS and encoding != _UTF_8:
        return lambda data: read(_recoded(data, encoding))
    return read


class Descending:
    """A value that sorts the other way round."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: Descending) -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Descending) and bool(other.value == self.value)

    def __hash__(self) -> int:
        return hash(self.value)


def item_reader(
    type_oid: int, *, descending: bool, nulls_first: bool, encoding: str = _UTF_8
) -> Callable[[bytes | None], Any]:
    """Return what makes one ORDER BY item's binary value (None: NULL) comparable."""
    read = comparable(type_oid, encoding)
    null = (0, 0) if nulls_first else (2, 0)

    def ascending(data: bytes | None) -> Any:
        return null if data is None else (1, read(data))

    def reverse(data: bytes | None) -> Any:
        return null if data is None else (1, Descending(read(data)))

    return reverse if descending else ascending


def key_reader(keys: Sequence[SortKey], encoding: str = _UTF_8) -> Callable[[Sequence[bytes | None]], tuple[Any, ...]]:
    """Return what makes the values of all keys (in the order of ``keys``) one comparable tuple."""
    readers = [
        item_reader(key.type_oid, descending=key.descending, nulls_first=key.nulls_first, encoding=encoding)
        for key in keys
    ]

    def read(values: Sequence[bytes | None]) -> tuple[Any, ...]:
        return tuple([reader(value) for reader, value in zip(readers, values, strict=True)])

    return read


class Source(Protocol):
    """A sorted stream, as far as it has arrived."""

    @property
    def has_rows(self) -> bool:
        """Whether a row is at hand."""

    @property
    def exhausted(self) -> bool:
        """Whether no row is left and none will come."""

    def take_row(self) -> bytes:
        """Take the next row: a whole DataRow message."""


class Merge:
    """A k-way merge that stops when a source has nothing at hand, and goes on when it has.

    Of equal rows the one of the earlier source comes first. ``limit`` None: all. Rows come out cut to ``visible``
    columns.
    """

    def __init__(  # noqa: PLR0913 - as many as a merge has parts
        self,
        sources: Sequence[Source],
        keys: Sequence[SortKey],
        visible: int,
        *,
        limit: int | None,
        offset: int,
        encoding: str = _UTF_8,
    ) -> None:
        self._sources = sources
        self._split = splitter(keys, visible, encoding)
        self._left = limit
        self._skip = offset
        self._heap: list[tuple[Any, int, bytes]] = []
        self._waiting = list(range(len(sources)))  # sources without a row in the heap

    @property
    def full(self) -> bool:
        """Whether the limit was reached."""
        return self._left == 0

    @property
    def finished(self) -> bool:
        """Whether no row will come any more."""
        return self.full or (not self._heap and not self._waiting)

    @property
    def blocked(self) -> bool:
        """Whether a source must deliver (or end) before the next row is known."""
        return not self.full and any(not self._ready(position) for position in self._waiting)

    def _ready(self, position: int) -> bool:
        source = self._sources[position]
        return source.has_rows or source.exhausted

    def rows(self) -> Iterator[bytes]:
        """Give the rows that are known now; ends when :attr:`blocked` or :attr:`finished`."""
        heap, sources, waiting, split = self._heap, self._sources, self._waiting, self._split
        while self._left != 0:
            for position in tuple(waiting):
                if not self._ready(position):
                    return
                waiting.remove(position)
                if sources[position].has_rows:
                    row, key = split(sources[position].take_row())
                    heapq.heappush(heap, (key, position, row))
            if not heap:
                return
            _, position, row = heap[0]
            source = sources[position]
            if source.has_rows:
                following, key = split(source.take_row())
                heapq.heapreplace(heap, (key, position, following))
            else:
                heapq.heappop(heap)
                waiting.append(position)
            if self._skip:
                self._skip -= 1
                continue
            if self._left is not None:
                self._left -= 1
            yield row


_HEADER = Struct(">BIH")
_HEADER_BYTES = _HEADER.size
_LENGTH = Struct(">i")
_LENGTH_BYTES = 4
_NULL = b"\xff\xff\xff\xff"  # a length, and nothing behind it
_DATA_ROW = ord("D")
# Bytes of values that all have as many, in binary.
_SIZES = {INT8: 8, INT2: 2, INT4: 4, OID: 4, FLOAT4: 4, FLOAT8: 8, DATE: 4, TIME: 8, TIMESTAMP: 8, TIMESTAMPTZ: 8,
          UUID: 16}  # fmt: skip


def splitter(keys: Sequence[SortKey], visible: int, encoding: str = _UTF_8) -> Callable[[bytes], tuple[bytes, Any]]:
    """Return what cuts a DataRow message to its first ``visible`` columns and reads its key, which compares."""
    columns = [key.column for key in keys]
    if len(keys) == 1 and columns == [visible] and keys[0].type_oid in _SIZES:
        return _fixed_splitter(keys[0], visible)
    key = key_reader(keys, encoding)

    def split(message: bytes) -> tuple[bytes, Any]:
        row, values = cut(message, visible, columns)
        return row, key(values)

    return split


def _fixed_splitter(key: SortKey, visible: int) -> Callable[[bytes], tuple[bytes, Any]]:
    """Return a splitter for one key that all rows have so many bytes of: it is at the end, nothing need be walked."""
    size = _SIZES[key.type_oid]
    behind = size + _LENGTH_BYTES
    read = item_reader(key.type_oid, descending=key.descending, nulls_first=key.nulls_first)
    pack, columns = _HEADER.pack, [key.column]

    def split(message: bytes) -> tuple[bytes, Any]:
        if message.endswith(_NULL):  # or the value does
            row, values = cut(message, visible, columns)
            return row, read(values[0])
        cut_row = pack(_DATA_ROW, len(message) - 1 - behind, visible) + message[_HEADER_BYTES:-behind]
        return cut_row, read(message[-size:])

    return split


def cut(message: bytes, visible: int, columns: Sequence[int]) -> tuple[bytes, list[bytes | None]]:
    """Cut a DataRow message to its first ``visible`` columns, and return the values of ``columns`` beside it."""
    _, _, count = _HEADER.unpack_from(message)
    if count == visible and not columns:
        return message, []
    unpack = _LENGTH.unpack_from
    at = _HEADER_BYTES
    for _ in range(visible):
        length: int = unpack(message, at)[0]
        at += length + 4 if length > 0 else 4
    row = _HEADER.pack(_DATA_ROW, at - 1, visible) + message[_HEADER_BYTES:at]
    values: list[bytes | None] = []
    for _ in range(count - visible):
        length = unpack(message, at)[0]
        at += 4
        if length < 0:
            values.append(None)
        else:
            values.append(message[at : at + length])
            at += length
    return row, [values[column - visible] for column in columns]
