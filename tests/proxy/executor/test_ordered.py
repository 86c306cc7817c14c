"""Comparators against Postgres's ORDER BY; the merge against sorting everything in one place."""

from __future__ import annotations

import random
import struct
from collections import deque
from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.executor import ordered
from proxy.executor.failure import CombineFailure
from proxy.executor.merging import Merge
from proxy.executor.ordered import cut, cutter, key_reader
from proxy.wire import backend
from router.plan import SortKey

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 77

SAMPLES: dict[str, tuple[int, list[str]]] = {
    "bool": (16, ["true", "false"]),
    "bytea": (17, ["", r"\x00", r"\xff", r"\x00ff", r"\x6162"]),
    "name": (19, ["a", "B", "b", "ab", "é", "_"]),
    "int8": (20, ["0", "-1", "9223372036854775807", "-9223372036854775808", "7"]),
    "int2": (21, ["0", "-1", "32767", "-32768"]),
    "int4": (23, ["0", "-1", "2147483647", "-2147483648", "12"]),
    'text COLLATE "C"': (25, ["", "a", "B", "b", "ab", "a b", "é", "z", "\uff5a", "🙂", "10", "9"]),
    "oid": (26, ["0", "4294967295", "5"]),
    "float4": (700, ["0", "-0", "NaN", "Infinity", "-Infinity", "1.5", "-1.5", "1e-40"]),
    "float8": (701, ["0", "-0", "NaN", "Infinity", "-Infinity", "1.5", "-1.5", "1e-310", "1e308"]),
    'bpchar COLLATE "C"': (1042, ["", "a", "a  ", "ab", "B", " a"]),
    'varchar COLLATE "C"': (1043, ["", "a", "B", "ab"]),
    "date": (1082, ["infinity", "-infinity", "2000-01-01", "1999-12-31", "4713-01-01 BC", "2026-11-22"]),
    "time": (1083, ["00:00", "24:00", "12:34:56.789"]),
    "timestamp": (1114, ["infinity", "-infinity", "2000-01-01", "1999-12-31 23:59:59.999999"]),
    "timestamptz": (1184, ["infinity", "-infinity", "2000-01-01 00:00+02", "1999-12-31 22:00+00", "2026-01-01"]),
    "interval": (1186, ["1 mon", "30 days", "720:00", "-1 day", "infinity", "-infinity", "1 year -3 days", "0"]),
    "timetz": (1266, ["00:00+00", "02:00+02", "01:00+01", "24:00-12", "12:00+00:30"]),
    "numeric": (1700, ["0", "0.00", "NaN", "Infinity", "-Infinity", "1.10", "1.1", "-5", "1e100", "1e-100", "12345.6"]),
    "uuid": (2950, ["00000000-0000-0000-0000-000000000000", "ffffffff-0000-0000-0000-000000000000",
                    "0fffffff-ffff-ffff-ffff-ffffffffffff"]),
    "pg_lsn": (3220, ["0/0", "FFFFFFFF/FFFFFFFF", "1/0"]),
    "xid8": (5069, ["0", "18446744073709551615", "9"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def postgres(module_databases: list[str]) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(module_databases[0], autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("visible", [0, 1, 2])
def test_keys_at_the_end_of_a_row_are_cut_as_any_other(visible: int, descending: bool) -> None:  # noqa: FBT001
    """Integers, which are compared as numbers, in the order of all others: NULL, and what looks like it, among them."""
    dice = random.Random(SEED)
    for oid, code in ordered._INTEGERS.items():
        for nulls_first in (False, True):
            keys = [SortKey(visible, oid, descending, nulls_first)]
            read, key = cutter(keys, visible), key_reader(keys)
            size = struct.calcsize(f">{code}")
            values = [None, bytes(size), b"\xff" * size, b"\0" * (size - 1) + b"\xff", b"\x7f" + b"\xff" * (size - 1)]
            values += [dice.randbytes(size) for _ in range(20)]
            shown = [[dice.choice([None, b"", b"\xff\xff\xff\xff", b"abc"]) for _ in range(visible)] for _ in values]
            messages = [backend.data_row([*row, value]) for row, value in zip(shown, values, strict=True)]
            rows, numbers, stop = read(b"".join(messages), 0, 1 << 30)
            assert rows == [backend.data_row(row) for row in shown]
            assert stop == sum(map(len, messages))
            assert read(b"".join(messages), len(messages[0]), 2) == (
                rows[1:3],
                numbers[1:3],
                sum(map(len, messages[:3])),
            )
            tuples = [key([value]) for value in values]
            for one in range(len(values)):
                for other in range(len(values)):
                    assert (numbers[one] < numbers[other]) == (tuples[one] < tuples[other])


def test_every_comparable_type_is_sampled() -> None:
    assert {oid for oid, _ in SAMPLES.values()} | {ordered.CHAR} == set(ordered.COMPARABLE)


@pytest.mark.parametrize("type_name", SAMPLES)
@pytest.mark.parametrize("direction", ["ASC NULLS LAST", "ASC NULLS FIRST", "DESC NULLS FIRST", "DESC NULLS LAST"])
def test_keys_sort_as_postgres_sorts(
    postgres: psycopg.Connection[tuple[object, ...]], type_name: str, direction: str
) -> None:
    oid, texts = SAMPLES[type_name]
    base, _, collation = type_name.partition(" ")
    source = random.Random(SEED)
    sample: list[str | None] = [*texts, *source.choices(texts, k=10), None, None]
    source.shuffle(sample)
    # Rank by Postgres: equal values share a rank, so that its order of equals does not matter.
    with postgres.cursor(binary=True) as cursor:
        rows = cursor.execute(
            f"SELECT x::{base}, dense_rank() OVER (ORDER BY (x::{base}) {collation} {direction}) "
            "FROM unnest(%s::text[]) x",
            [sample],
        )
        result = rows.pgresult
        assert result is not None
        pairs = [
            (result.get_value(row, 0), int.from_bytes(result.get_value(row, 1) or b"")) for row in range(len(sample))
        ]
    first, last = direction.startswith("DESC"), direction.endswith("FIRST")
    read = key_reader([SortKey(0, oid, descending=first, nulls_first=last)])
    for one, one_rank in pairs:
        for other, other_rank in pairs:
            assert (read([one]) < read([other])) == (one_rank < other_rank), (one, other)
            assert (read([one]) == read([other])) == (one_rank == other_rank), (one, other)


def test_other_types_are_refused() -> None:
    with pytest.raises(CombineFailure) as raised:
        key_reader([SortKey(0, 3802, descending=False, nulls_first=False)])
    assert raised.value.sqlstate == "0A000"


class Trickle:
    """A source that delivers rows only when it is fed."""

    def __init__(self, rows: list[bytes]) -> None:
        self.coming = deque(rows)
        self.here: deque[bytes] = deque()
        self.dice = random.Random(SEED)

    @property
    def has_rows(self) -> bool:
        return bool(self.here)

    @property
    def exhausted(self) -> bool:
        return not self.here and not self.coming

    def take(self, max_rows: int, /) -> tuple[bytes, int]:
        assert not max_rows
        rows = [self.here.popleft() for _ in range(self.dice.randrange(len(self.here)) + 1)]
        return b"".join(rows), 0

    def deliver(self, rows: int) -> None:
        for _ in range(min(rows, len(self.coming))):
            self.here.append(self.coming.popleft())


def packed(number: int | None) -> bytes | None:
    return None if number is None else number.to_bytes(4, signed=True)


def row_of(a: int | None, b: int | None, mark: int) -> bytes:
    return backend.data_row([b"%d" % mark, packed(a), packed(b)])


Value = st.none() | st.integers(-3, 3)


@given(
    shards=st.lists(st.lists(st.tuples(Value, Value), max_size=12), min_size=1, max_size=4),
    descending=st.tuples(st.booleans(), st.booleans()),
    nulls_first=st.tuples(st.booleans(), st.booleans()),
    limit=st.none() | st.integers(0, 8),
    offset=st.integers(0, 6),
    source=st.randoms(use_true_random=False),
)
def test_merge_is_a_stable_sort(  # noqa: PLR0913, PLR0917 - what hypothesis varies
    shards: list[list[tuple[int | None, int | None]]],
    descending: tuple[bool, bool],
    nulls_first: tuple[bool, bool],
    limit: int | None,
    offset: int,
    source: random.Random,
) -> None:
    keys = [
        SortKey(column + 1, ordered.INT4, descending=descending[column], nulls_first=nulls_first[column])
        for column in range(2)
    ]
    read = key_reader(keys)

    def order(pair: tuple[int | None, int | None]) -> tuple[object, ...]:
        return read([packed(pair[0]), packed(pair[1])])

    marks = iter(range(1000))
    expected: list[tuple[tuple[object, ...], int]] = []
    sources = []
    for rows in shards:
        marked = [(pair, next(marks)) for pair in sorted(rows, key=order)]
        expected += [(order(pair), mark) for pair, mark in marked]
        sources.append(Trickle([row_of(*pair, mark) for pair, mark in marked]))
    expected.sort(key=lambda item: item[0])
    wanted = [mark for _, mark in expected][offset : None if limit is None else offset + limit]
    merge = Merge(sources, keys, 1, limit=limit, offset=offset)
    got: list[bytes] = []
    while not merge.finished:
        while rows := merge.take(source.randrange(1, 4)):
            got += rows
        if merge.finished:
            break
        assert merge.blocked
        source.choice(sources).deliver(source.randrange(1, 4))
    assert got == [backend.data_row([b"%d" % mark]) for mark in wanted]


@given(st.lists(st.none() | st.binary(max_size=5), min_size=1, max_size=6), st.integers(0, 6))
def test_cut(values: list[bytes | None], visible: int) -> None:
    visible = min(visible, len(values))
    columns = list(range(visible, len(values)))
    row, keys = cut(backend.data_row(values), visible, columns)
    assert row == backend.data_row(values[:visible])
    assert keys == values[visible:]
