"""Keys of rows that Postgres has sorted, as values that compare as Postgres compares.

Pure. Keys come in binary format (see ``router.plan.SortKey``); each type's bytes become a Python value whose ``<`` is
the order of the type's default btree operator class: NaN above every number and equal to itself, -0 equal to 0, text by
bytes (which is the C collation in UTF-8; nothing else may be sent here). Which types there are is ``COMPARABLE``. The
merge itself is in merging.py.

https://www.postgresql.org/docs/18/queries-order.html
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Any

from proxy.executor.failure import CombineFailure
from proxy.executor.numeric import decode_numeric

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
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


_HEADER = Struct(">BIH")
_HEADER_BYTES = _HEADER.size
_LENGTH = Struct(">i")
_LENGTH_BYTES = 4
_DATA_ROW = ord("D")
#: Types whose values are integers as they stand, in as many bytes: how they are unpacked.
_INTEGERS = {INT8: "q", INT2: "h", INT4: "i", OID: "I", DATE: "i", TIME: "q", TIMESTAMP: "q", TIMESTAMPTZ: "q"}
_INFINITY = float("inf")

Cutter = Callable[[bytes, int, int], tuple[list[bytes], list[Any], int]]


def cutter(keys: Sequence[SortKey], visible: int, encoding: str = _UTF_8) -> Cutter:
    """Return what cuts DataRow messages to their first ``visible`` columns, and reads their keys, which compare.

    It takes a run of them, where in it the next one begins, and how many are wanted at most; it returns the rows, their
    keys, and where it has come to.
    """
    columns = [key.column for key in keys]
    if len(keys) == 1 and columns == [visible] and keys[0].type_oid in _INTEGERS:
        return _integer_cutter(keys[0], visible)
    read = key_reader(keys, encoding)

    def cut_rows(data: bytes, start: int, most: int) -> tuple[list[bytes], list[Any], int]:
        rows: list[bytes] = []
        found: list[Any] = []
        end = len(data)
        while start < end and len(rows) < most:
            stop = start + 1 + _LENGTH.unpack_from(data, start + 1)[0]
            row, values = cut(data[start:stop], visible, columns)
            rows.append(row)
            found.append(read(values))
            start = stop
        return rows, found, start

    return cut_rows


def _integer_cutter(key: SortKey, visible: int) -> Cutter:
    """Return a cutter for one key that is an integer at the end of each row, so that nothing need be walked.

    Such keys are compared as numbers, turned round if they descend, and NULL is infinite: a third of what tuples cost.
    """
    value = Struct(f">{_INTEGERS[key.type_oid]}")
    size = value.size
    behind = size + _LENGTH_BYTES
    ones = (1 << 8 * min(size, _LENGTH_BYTES)) - 1  # what NULL's length would be read as, of the value's last bytes
    null = -_INFINITY if key.nulls_first else _INFINITY
    sign = -1 if key.descending else 1
    columns = [key.column]

    def cut_rows(data: bytes, start: int, most: int) -> tuple[list[bytes], list[Any], int]:
        rows: list[bytes] = []
        found: list[Any] = []
        add_row, add_key = rows.append, found.append
        length_at, value_at, pack = _LENGTH.unpack_from, value.unpack_from, _HEADER.pack
        heads: dict[int, bytes] = {}
        end = len(data)
        while start < end and most:
            most -= 1
            length = length_at(data, start + 1)[0]
            stop = start + 1 + length
            number = value_at(data, stop - size)[0] if length > behind else -1
            if number & ones == ones:  # NULL, or such a number
                row, (raw,) = cut(data[start:stop], visible, columns)
                add_row(row)
                add_key(null if raw is None else sign * number)
            else:
                head = heads.get(length)
                if head is None:
                    head = heads[length] = pack(_DATA_ROW, length - behind, visible)
                add_row(head + data[start + _HEADER_BYTES : stop - behind])
                add_key(sign * number)
            start = stop
        return rows, found, start

    return cut_rows


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
