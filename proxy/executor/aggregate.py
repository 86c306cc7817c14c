"""Partial aggregates of several shards become the aggregate of all of them.

Pure. Each shard has grouped and aggregated its own rows; here rows of equal groups are found (by the bytes of their
grouping columns, which the planner allows only where equal bytes mean equal values), combined column by column as
``router.plan.AggregateColumn`` says, sorted, and encoded in the client's formats. Values that come from the rows
themselves (GROUP, MIN, MAX) are passed on in the bytes that a shard sent; sums, counts and averages are made here,
exactly as Postgres would have made them over all rows.

https://www.postgresql.org/docs/18/functions-aggregate.html
"""

from __future__ import annotations

import heapq
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

from proxy.executor import values
from proxy.executor.failure import CombineFailure
from proxy.executor.formats import BINARY, PAIRED
from proxy.executor.ordered import comparable, key_reader
from proxy.wire import backend
from router.plan import AggregateKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from proxy.wire.backend import Field
    from router.plan import Aggregate, AggregateColumn

_HEADER_BYTES = 5
_SORTED_AT_ONCE = 1024
_FIRST: Callable[[tuple[Any, Any]], Any] = itemgetter(0)
Cells = list[bytes | None]


def _size(cells: Iterable[bytes | None]) -> int:
    return sum([len(cell) for cell in cells if cell is not None])


class State(Protocol):
    """One output column of one group, while rows come in."""

    def add(self, row: Cells) -> int:
        """Take one shard's partial row; returns how many bytes of values more are held."""

    def binary(self) -> bytes | None:
        """Return the value in binary."""

    def output(self) -> bytes | None:
        """Return the value in the format that goes out."""


class _Group:
    """A grouping column: any row's value, all being equal."""

    __slots__ = ("_cells", "_inputs")

    def __init__(self, inputs: tuple[int, ...]) -> None:
        self._inputs = inputs
        self._cells: Cells = []

    def add(self, row: Cells) -> int:
        if self._cells:
            return 0
        self._cells = [row[column] for column in self._inputs]
        return _size(self._cells)

    def binary(self) -> bytes | None:
        return self._cells[0]

    def output(self) -> bytes | None:
        return self._cells[-1]


class _Extreme:
    """MIN or MAX: the smallest or largest value, in each format that it has come in; NULLs do not count."""

    __slots__ = ("_best", "_cells", "_inputs", "_largest", "_read")

    def __init__(self, inputs: tuple[int, ...], read: Callable[[bytes], Any], *, largest: bool) -> None:
        self._inputs = inputs
        self._read = read
        self._largest = largest
        self._best: Any = None
        self._cells: Cells = []

    def add(self, row: Cells) -> int:
        data = row[self._inputs[0]]
        if data is None:
            return 0
        value = self._read(data)
        if self._cells and not (self._best < value if self._largest else value < self._best):
            return 0
        before = _size(self._cells)
        self._best, self._cells = value, [row[column] for column in self._inputs]
        return _size(self._cells) - before

    def binary(self) -> bytes | None:
        return self._cells[0] if self._cells else None

    def output(self) -> bytes | None:
        return self._cells[-1] if self._cells else None


class _Total:
    """COUNT, SUM, BOOL_AND, BOOL_OR: a running value. NULLs do not count.

    Nothing but NULLs is ``start`` (0 for COUNT).
    """

    __slots__ = ("_codec", "_combine", "_input", "format", "value")

    def __init__(
        self,
        column: int,
        codec: values.Codec,
        combine: Callable[[Any, Any], Any],
        *,
        wire_format: int,
        start: Any = None,
    ) -> None:
        self._input = column
        self._codec = codec
        self._combine = combine
        self.format = wire_format
        self.value: Any = start

    def add(self, row: Cells) -> int:
        data = row[self._input]
        if data is not None:
            value = self._codec.decode(data)
            self.value = value if self.value is None else self._combine(self.value, value)
        return 0

    def binary(self) -> bytes | None:
        return None if self.value is None else self._codec.encode(self.value)

    def output(self) -> bytes | None:
        if self.value is None or self.format == BINARY:
            return self.binary()
        return self._codec.text(self.value)


class _Average:
    """AVG: the sum of sums by the sum of counts; no row at all is NULL."""

    __slots__ = ("_average", "_count", "_sum")

    def __init__(self, total: _Total, count: _Total, average: values.Average) -> None:
        self._sum = total
        self._count = count
        self._average = average

    def add(self, row: Cells) -> int:
        return self._sum.add(row) + self._count.add(row)

    def _value(self) -> Any:
        total, count = self._sum.value, self._count.value
        return None if not count or total is None else self._average.divide(total, count)

    def binary(self) -> bytes | None:
        value = self._value()
        return None if value is None else self._average.codec.encode(value)

    def output(self) -> bytes | None:
        if self._sum.format == BINARY:
            return self.binary()
        value = self._value()
        return None if value is None else self._average.codec.text(value)


class Combiner:
    """Takes the partial rows of all shards, then gives the combined ones.

    ``fields`` describes the partial columns, ``formats`` are the client's for the visible output columns. At most
    ``max_groups`` groups and ``max_bytes`` of their values are held (CombineFailure 53400). ``encoding`` is the Python
    codec in which texts have come.
    """

    def __init__(  # noqa: PLR0913 - what a combination goes by
        self,
        node: Aggregate,
        fields: Sequence[Field],
        formats: Sequence[int],
        *,
        max_groups: int,
        max_bytes: int,
        extra_float_digits: int = 1,
        encoding: str = "utf-8",
    ) -> None:
        self._node = node
        self._encoding = encoding
        self._max_groups = max_groups
        self._max_bytes = self._left = max_bytes
        self._makers: list[Callable[[], State]] = [
            _maker(column, fields, formats[number] if number < node.visible else BINARY, extra_float_digits, encoding)
            for number, column in enumerate(node.columns)
        ]
        self._groups: dict[tuple[bytes | None, ...], list[State]] = {}
        self.row_description = tuple(
            _described(column, fields, chosen)
            for column, chosen in zip(node.columns[: node.visible], formats, strict=True)
        )
        if not node.group:
            self._groups[()] = self._new_group()

    def _new_group(self) -> list[State]:
        return [make() for make in self._makers]

    def add(self, message: bytes) -> None:
        """Take one DataRow message."""
        row = backend.decode_data_row(message[_HEADER_BYTES:])
        key = tuple([row[column] for column in self._node.group])
        states = self._groups.get(key)
        if states is None:
            if len(self._groups) >= self._max_groups:
                raise CombineFailure(
                    "53400",
                    f"more than {self._max_groups} groups would have to be combined",
                    hint="Group by the sharding key, restrict the rows, or raise merge.max_rows.",
                )
            states = self._groups[key] = self._new_group()
            self._left -= _size(key)
        for state in states:
            self._left -= state.add(row)
        if self._left < 0:
            raise CombineFailure(
                "53400",
                f"more than {self._max_bytes} bytes of groups would have to be combined",
                hint="Group by the sharding key, restrict the rows, or raise merge.max_bytes.",
            )

    def rows(self, *, limit: int | None, offset: int) -> tuple[int, Iterator[bytes]]:
        """Return how many combined rows there are, sorted and cut as the node says, and each as a DataRow message."""
        node = self._node
        groups = list(self._groups.values())
        if node.order:
            read = key_reader(node.order, self._encoding)

            def key_of(states: list[State]) -> Any:
                return read([states[key.column].binary() for key in node.order])

            # A sort is one piece of work, which nothing interrupts: so pieces are sorted, and merged.
            keyed = [(key_of(states), states) for states in groups]
            pieces = [keyed[at : at + _SORTED_AT_ONCE] for at in range(0, len(keyed), _SORTED_AT_ONCE)]
            for piece in pieces:
                piece.sort(key=_FIRST)
            groups = [states for _, states in heapq.merge(*pieces, key=_FIRST)]
        stop = None if limit is None else offset + limit
        groups = groups[offset:stop]
        return len(groups), (
            backend.data_row([state.output() for state in states[: node.visible]]) for states in groups
        )

    @property
    def sorts(self) -> bool:
        """Whether ``rows`` puts the groups in order, which takes longer than the rest of it."""
        return bool(self._node.order)

    @property
    def groups(self) -> int:
        """How many there are."""
        return len(self._groups)


def _maker(
    column: AggregateColumn, fields: Sequence[Field], wire_format: int, extra_float_digits: int, encoding: str
) -> Callable[[], State]:
    kind, inputs = column.kind, column.inputs
    if kind is AggregateKind.GROUP:
        return lambda: _Group(inputs)
    if kind in (AggregateKind.MIN, AggregateKind.MAX):
        read = comparable(column.type_oid, encoding)
        return lambda: _Extreme(inputs, read, largest=kind is AggregateKind.MAX)
    codec = values.codec(fields[inputs[0]].type_oid, extra_float_digits=extra_float_digits)
    if kind is AggregateKind.AVG:
        average = values.average(fields[inputs[0]].type_oid, extra_float_digits=extra_float_digits)
        count = values.codec(values.INT8)
        return lambda: _Average(
            _Total(inputs[0], codec, _addition(codec), wire_format=wire_format),
            _Total(inputs[1], count, _addition(count), wire_format=BINARY, start=0),
            average,
        )
    if kind in (AggregateKind.BOOL_AND, AggregateKind.BOOL_OR):
        combine = _both if kind is AggregateKind.BOOL_AND else _either
        return lambda: _Total(inputs[0], codec, combine, wire_format=wire_format)
    start = 0 if kind is AggregateKind.COUNT else None
    return lambda: _Total(inputs[0], codec, _addition(codec), wire_format=wire_format, start=start)


def _addition(codec: values.Codec) -> Callable[[Any, Any], Any]:
    if codec.add is None:
        raise CombineFailure("XX000", "a sum over a type that has none")
    return codec.add


def _both(one: bool, other: bool) -> bool:  # noqa: FBT001 - values, not options
    return one and other


def _either(one: bool, other: bool) -> bool:  # noqa: FBT001 - values, not options
    return one or other


def _described(column: AggregateColumn, fields: Sequence[Field], wire_format: int) -> Field:
    """Describe an output column: the last input has its name, and for values passed on everything else as well."""
    field = fields[column.inputs[-1]]
    if column.kind in PAIRED:
        return field
    size = values.SIZES.get(column.type_oid, -1)
    return backend.Field(name=field.name, type_oid=column.type_oid, type_size=size, format=wire_format)
