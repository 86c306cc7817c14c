"""Ordered merges and combined aggregates over three real shards, against one Postgres that holds all the rows.

The rewriting is done by hand here, as ``router.plan`` says a planner does it: sort keys appended, partial columns
listed, values that are compared and shown listed twice."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import psycopg
import pytest

from executor_kit import server_side
from proxy.errors import ProxyError
from proxy.executor.request import Limits, Request, send
from proxy.shards.errors import ShardError
from proxy.wire import backend
from router.plan import (
    Aggregate,
    AggregateColumn,
    AggregateKind,
    Execution,
    Ordered,
    SortKey,
    Task,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from executor_kit import Shards
    from router.plan import Combine

SEED = 99
COLUMNS = (
    "k int8, i2 int2, i4 int4, i8 int8, n numeric, n2 numeric(12, 2), f8 float8, b bool, "
    't text COLLATE "C", d date, ts timestamptz, u uuid, y bytea'
)
OIDS = {"k": 20, "i2": 21, "i4": 23, "i8": 20, "n": 1700, "n2": 1700, "f8": 701, "b": 16, "t": 25, "d": 1082,
        "ts": 1184, "u": 2950, "y": 17}  # fmt: skip


def random_row(source: random.Random, key: int) -> str:
    def some(*choices: str) -> str:
        return source.choice([*choices, "NULL"])

    def quoted(*choices: str) -> str:
        chosen = some(*choices)
        return chosen if chosen == "NULL" else f"'{chosen}'"

    values = [
        str(key),
        some(str(source.randrange(-99, 99))),
        some(str(source.randrange(-(1 << 31), 1 << 31)), "1"),
        some(str(source.randrange(-(1 << 63), 1 << 63)), "0"),
        quoted("0", "1.50", "1.5", "NaN", "Infinity", "1e-20", f"{source.random():.{source.randrange(25)}f}", "-7.000"),
        quoted(f"{source.random() * 1000:.2f}", "0.00"),
        quoted("0", "-0", "1.5", "2.25", "-1024"),
        some("true", "false"),
        quoted("", "a", "B", "é", "z z", "🙂"),
        quoted("2020-01-01", "infinity", "0001-01-01 BC", f"2026-11-{source.randrange(1, 30)}"),
        quoted("2020-01-01 00:00+01", "-infinity", "2026-11-22 12:34:56.7+00"),
        quoted(*(f"{source.randrange(4):08x}-0000-0000-0000-{source.randrange(3):012x}" for _ in range(3))),
        quoted(r"\x", r"\x00ff", r"\xff"),
    ]
    return f"({', '.join(values)})"


class Pair:
    """The same rows on three shards and in one table ``whole`` of shard 0."""

    def __init__(self, shards: Shards, dsn: str) -> None:
        self.shards = shards
        self.dsn = dsn

    async def fill(self, rows: int, source: random.Random) -> None:
        values = [random_row(source, key) for key in range(rows)]
        await self.shards.everywhere(f"CREATE TABLE part ({COLUMNS})")
        await self.shards.links[0].run(f"CREATE TABLE whole ({COLUMNS})")
        shares: list[list[str]] = [[], [], []]
        for value in values:
            shares[source.choice([0, 0, 1])].append(value)  # shard 2 stays empty
        for shard, share in enumerate(shares):
            if share:
                await self.shards.links[shard].run(f"INSERT INTO part VALUES {', '.join(share)}")
        if values:
            await self.shards.links[0].run(f"INSERT INTO whole VALUES {', '.join(values)}")

    def expected(self, query: str, formats: Sequence[int]) -> tuple[list[list[bytes | None]], list[tuple[int, int]]]:
        """Run a query on the whole, in Postgres alone: rows and (type, format) of the columns."""
        with psycopg.connect(self.dsn) as connection:
            connection.execute("SET timezone TO 'Asia/Tokyo'; SET datestyle TO 'German'")
            result = connection.pgconn.exec_params(query.encode(), None, result_format=formats[0] if formats else 0)
            assert not result.error_message, result.error_message
            rows = [
                [result.get_value(row, column) for column in range(result.nfields)] for row in range(result.ntuples)
            ]
            fields = [(result.ftype(column), result.fformat(column)) for column in range(result.nfields)]
        return rows, fields

    async def answer(
        self, text: str, combine: Combine, formats: Sequence[int], *, limit: int | None = None, offset: int = 0
    ) -> tuple[list[list[bytes | None]], list[tuple[int, int]]]:
        await self.shards.everywhere("SET timezone TO 'Asia/Tokyo'; SET datestyle TO 'German'")
        execution = Execution((Task(0), Task(1), Task(2)), combine, writes=False, limit=limit, offset=offset)
        client = await self.shards.answer(execution, Request(text, result_formats=tuple(formats)))
        assert client.tags() == [b"SELECT %d" % len(client.rows())]
        fields = backend.decode_row_description(client.frames()[0][1])
        return client.rows(), [(field.type_oid, field.format) for field in fields]


@pytest.fixture
def pair(shards: Shards, module_databases: list[str]) -> Pair:
    return Pair(shards, module_databases[0])


@pytest.mark.parametrize("wire_format", [0, 1])
async def test_order_by_anything(pair: Pair, wire_format: int) -> None:
    source = random.Random(SEED + wire_format)
    await pair.fill(120, source)
    for _ in range(25):
        columns = [*source.sample([name for name in OIDS if name != "k"], source.randrange(1, 3)), "k"]
        directions = [(source.random() < 0.5, source.random() < 0.5) for _ in columns]
        order = ", ".join(
            f"{name} {'DESC' if down else 'ASC'} NULLS {'FIRST' if first else 'LAST'}"
            for name, (down, first) in zip(columns, directions, strict=True)
        )
        limit = source.choice([None, 0, 1, 17, 500])
        offset = source.choice([0, 0, 3, 119, 400])
        rest = "" if limit is None else f" LIMIT {limit}"
        pushed = "" if limit is None else f" LIMIT {limit + offset}"
        visible = "ts, t, i4, n"
        keys = tuple(
            SortKey(4 + at, OIDS[name], descending=down, nulls_first=first)
            for at, (name, (down, first)) in enumerate(zip(columns, directions, strict=True))
        )
        got = await pair.answer(
            f"SELECT {visible}, {', '.join(columns)} FROM part ORDER BY {order}{pushed}",
            Ordered(keys, 4),
            (wire_format,),
            limit=limit,
            offset=offset,
        )
        expected = pair.expected(f"SELECT {visible} FROM whole ORDER BY {order}{rest} OFFSET {offset}", (wire_format,))
        assert got == expected, order


AGGREGATES: list[tuple[str, list[str], AggregateKind, int]] = [
    # what the client asked for, the partial columns, how they combine, the type of the result
    ("count(*)", ["count(*)"], AggregateKind.COUNT, 20),
    ("count(n)", ["count(n)"], AggregateKind.COUNT, 20),
    ("sum(i2)", ["sum(i2)"], AggregateKind.SUM, 20),
    ("sum(i4)", ["sum(i4)"], AggregateKind.SUM, 20),
    ("sum(i8)", ["sum(i8)"], AggregateKind.SUM, 1700),
    ("sum(n)", ["sum(n)"], AggregateKind.SUM, 1700),
    ("sum(n2)", ["sum(n2)"], AggregateKind.SUM, 1700),
    ("sum(f8)", ["sum(f8)"], AggregateKind.SUM, 701),
    ("avg(i2)", ["sum(i2)", "count(i2)"], AggregateKind.AVG, 1700),
    ("avg(i4)", ["sum(i4)", "count(i4)"], AggregateKind.AVG, 1700),
    ("avg(i8)", ["sum(i8)", "count(i8)"], AggregateKind.AVG, 1700),
    ("avg(n)", ["sum(n)", "count(n)"], AggregateKind.AVG, 1700),
    ("avg(n2)", ["sum(n2)", "count(n2)"], AggregateKind.AVG, 1700),
    ("avg(f8)", ["sum(f8)", "count(f8)"], AggregateKind.AVG, 701),
    ("bool_and(b)", ["bool_and(b)"], AggregateKind.BOOL_AND, 16),
    ("bool_or(b)", ["bool_or(b)"], AggregateKind.BOOL_OR, 16),
    *(
        (f"{kind.value}({name})", [f"{kind.value}({name})"] * 2, kind, oid)
        for kind in (AggregateKind.MIN, AggregateKind.MAX)
        for name, oid in OIDS.items()
        # No min(bool), no min(uuid) before 19; equal numerics of different scale and the two float zeros may be shown
        # either way.
        if name not in ("b", "u", "n", "f8")
    ),
]


@pytest.mark.parametrize("wire_format", [0, 1])
@pytest.mark.parametrize("rows", [0, 1, 150])
async def test_aggregates_without_groups(pair: Pair, rows: int, wire_format: int) -> None:
    await pair.fill(rows, random.Random(SEED + rows))
    partial: list[str] = []
    columns = []
    for _, inputs, kind, oid in AGGREGATES:
        columns.append(AggregateColumn(kind, tuple(range(len(partial), len(partial) + len(inputs))), oid))
        partial += inputs
    node = Aggregate(tuple(columns), (), len(columns))
    got = await pair.answer(f"SELECT {', '.join(partial)} FROM part", node, (wire_format,))
    expected = pair.expected(f"SELECT {', '.join(text for text, *_ in AGGREGATES)} FROM whole", (wire_format,))
    for (text, *_), *pairs in zip(AGGREGATES, got[0][0], expected[0][0], got[1], expected[1], strict=True):
        assert pairs[0] == pairs[1], text
        assert pairs[2] == pairs[3], text


@pytest.mark.parametrize("wire_format", [0, 1])
@pytest.mark.parametrize("group", ["t", "d", "ts", "u", "b", "i2"])
async def test_groups_with_order_and_limit(pair: Pair, group: str, wire_format: int) -> None:
    source = random.Random(f"{SEED} {group}")
    await pair.fill(150, source)
    oid = OIDS[group]
    columns = (
        AggregateColumn(AggregateKind.GROUP, (0, 1), oid),
        AggregateColumn(AggregateKind.AVG, (2, 3), 1700),
        AggregateColumn(AggregateKind.MAX, (4, 5), 1184),
        AggregateColumn(AggregateKind.COUNT, (6,), 20),
        AggregateColumn(AggregateKind.SUM, (7,), 1700),  # sorted by, not shown
    )
    text = f"SELECT {group}, {group}, sum(i4), count(i4), max(ts), max(ts), count(*), sum(n) FROM part GROUP BY 1"
    for order, keys in (
        (f"sum(n) DESC NULLS LAST, {group}", (SortKey(4, 1700, descending=True, nulls_first=False),)),
        (f"count(*), {group}", (SortKey(3, 20, descending=False, nulls_first=False),)),
    ):
        last = SortKey(0, oid, descending=False, nulls_first=False)
        for limit, offset in ((None, 0), (3, 1), (0, 0), (100, 2)):
            node = Aggregate(columns, (0,), 4, order=(*keys, last))
            got = await pair.answer(text, node, (wire_format,), limit=limit, offset=offset)
            rest = "" if limit is None else f"LIMIT {limit}"
            expected = pair.expected(
                f"SELECT {group}, avg(i4), max(ts), count(*) FROM whole GROUP BY 1"
                f" ORDER BY {order} {rest} OFFSET {offset}",
                (wire_format,),
            )
            assert got == expected


async def test_formats_of_single_columns(pair: Pair) -> None:
    """A format for each visible column: a mixture, and a number that does not fit."""
    await pair.fill(20, random.Random(SEED))
    columns = (
        AggregateColumn(AggregateKind.MAX, (0, 1), 1082),
        AggregateColumn(AggregateKind.SUM, (2,), 20),
        AggregateColumn(AggregateKind.MIN, (3, 4), 25),
    )
    node = Aggregate(columns, (), 3)
    text = "SELECT max(d), max(d), sum(i4), min(t), min(t) AS smallest FROM part"
    rows, fields = await pair.answer(text, node, (0, 1, 1))
    as_text, _ = pair.expected("SELECT max(d), sum(i4), min(t) FROM whole", (0,))
    as_binary, _ = pair.expected("SELECT max(d), sum(i4), min(t) FROM whole", (1,))
    assert rows == [[as_text[0][0], as_binary[0][1], as_binary[0][2]]]
    assert fields == [(1082, 0), (20, 1), (25, 1)]
    with pytest.raises(ProxyError) as raised:
        await pair.answer(text, node, (0, 1))
    assert raised.value.sqlstate == "08P01"
    assert raised.value.message == "bind message has 2 result formats but query has 3 columns"


async def test_names_come_from_the_last_input(pair: Pair) -> None:
    await pair.fill(5, random.Random(SEED))
    node = Aggregate(
        (AggregateColumn(AggregateKind.AVG, (0, 1), 1700), AggregateColumn(AggregateKind.GROUP, (2, 3), 25)), (2,), 2
    )
    execution = Execution((Task(0), Task(1), Task(2)), node, writes=False)
    client = await pair.shards.answer(
        execution, 'SELECT sum(i4), count(i4) AS avg, t, t AS "Word" FROM part GROUP BY t'
    )
    avg, word = backend.decode_row_description(client.frames()[0][1])
    assert (avg.name, avg.table_oid, avg.type_oid, avg.type_size) == (b"avg", 0, 1700, -1)
    assert (word.name, word.column, word.type_oid) == (b"Word", 9, 25)
    assert word.table_oid != 0


async def test_too_many_groups(pair: Pair) -> None:
    await pair.fill(100, random.Random(SEED))
    node = Aggregate((AggregateColumn(AggregateKind.GROUP, (0, 1), 20),), (0,), 1)
    execution = Execution((Task(0), Task(1), Task(2)), node, writes=False)
    with pytest.raises(ProxyError) as raised:
        await pair.shards.answer(execution, "SELECT k, k FROM part GROUP BY k", limits=Limits(max_rows=30))
    assert raised.value.sqlstate == "53400"
    assert "merge.max_rows" in raised.value.hint
    pair.shards.check_idle()


@pytest.mark.parametrize("kind", [AggregateKind.GROUP, AggregateKind.MAX])
async def test_groups_of_too_many_bytes(pair: Pair, kind: AggregateKind) -> None:
    await pair.fill(100, random.Random(SEED))
    node = Aggregate((AggregateColumn(kind, (1, 2), 25),), (0,), 1)
    execution = Execution((Task(0), Task(1), Task(2)), node, writes=False)
    query = "SELECT k, repeat('x', 1000) AS t, repeat('x', 1000) AS u FROM part GROUP BY k"
    with pytest.raises(ProxyError) as raised:
        await pair.shards.answer(execution, query, limits=Limits(max_bytes=100_000))
    assert raised.value.sqlstate == "53400"
    assert "merge.max_bytes" in raised.value.hint
    pair.shards.check_idle()
    await pair.shards.answer(execution, query, limits=Limits(max_bytes=250_000))


async def test_a_sum_that_overflows(pair: Pair) -> None:
    await pair.shards.everywhere("CREATE TABLE big (v int8); INSERT INTO big VALUES (9223372036854775807)")
    node = Aggregate((AggregateColumn(AggregateKind.SUM, (0,), 20),), (), 1)
    execution = Execution((Task(0), Task(1), Task(2)), node, writes=False)
    with pytest.raises(ProxyError) as raised:
        await pair.shards.answer(execution, "SELECT max(v) FROM big")
    assert (raised.value.sqlstate, raised.value.message) == ("22003", "bigint out of range")
    pair.shards.check_idle()


async def test_an_ordered_portal_read_in_steps(pair: Pair) -> None:
    await pair.fill(50, random.Random(SEED))
    node = Ordered((SortKey(1, 20, descending=False, nulls_first=False),), 1)
    execution = Execution((Task(0), Task(1), Task(2)), node, writes=False, limit=40, offset=5)
    shards = pair.shards
    result = await shards.start(execution, "SELECT k, k FROM part ORDER BY k")
    assert not await send(result, shards.client, max_rows=7)
    assert not await send(result, shards.client, max_rows=30)
    await result.park()
    shards.check_idle()
    assert await send(result, shards.client, max_rows=30)
    assert shards.client.rows() == [[b"%d" % key] for key in range(5, 45)]
    assert shards.client.kinds() == "DsDsDC"
    assert shards.client.tags() == [b"SELECT 3"]


async def test_one_slow_shard_does_not_fill_memory(pair: Pair) -> None:
    """The merge needs a row of every shard; the fast ones wait on their servers, not here."""
    shards = pair.shards
    await shards.everywhere(
        "CREATE FUNCTION late(k int, v text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN"
        " IF k = 5000 THEN PERFORM pg_advisory_xact_lock_shared(7); END IF; RETURN v; END $$;"
        "CREATE TABLE rows AS SELECT g AS k, repeat('x', 1000) AS filler FROM generate_series(1, 20000) g"
    )
    blocker = await shards.another_link(2)
    await blocker.run("SELECT pg_advisory_lock(7)")
    node = Ordered((SortKey(1, 23, descending=False, nulls_first=False),), 1)
    execution = Execution((Task(0), Task(1), Task(2)), node, writes=False)
    text = "SELECT late(k, filler), k FROM (SELECT * FROM rows ORDER BY k OFFSET 0) s ORDER BY k"
    high_water = 100_000
    result = await shards.start(execution, text, limits=Limits(max_buffer_bytes=high_water))
    sending = asyncio.ensure_future(send(result, shards.client))
    watcher = await shards.another_link(2)
    await server_side(watcher, "EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
    written = -1
    while len(shards.client.written) != written:  # until nothing moves any more
        written = len(shards.client.written)
        await watcher.run("SELECT pg_sleep(0.02)")
    assert written < 3 * 5000 * 1100
    waiting = [stream.queued_bytes for stream in result._scatter.streams]  # type: ignore[attr-defined]
    # One chunk of the socket more than the mark, on each of the fast shards.
    assert all(high_water / 2 < size < high_water + 300_000 for size in waiting[:2]), waiting
    await blocker.run("SELECT pg_advisory_unlock(7)")
    assert await sending
    assert shards.client.tags() == [b"SELECT 60000"]
    await blocker.close()
    await watcher.close()


async def test_an_error_in_the_middle_of_a_merge(pair: Pair) -> None:
    shards = pair.shards
    await shards.everywhere("CREATE TABLE m AS SELECT g AS k FROM generate_series(1, 20000) g")
    await shards.links[1].run("UPDATE m SET k = -1 WHERE k = 19000; ANALYZE m")
    node = Ordered((SortKey(1, 23, descending=False, nulls_first=False),), 1)
    execution = Execution((Task(0), Task(1), Task(2)), node, writes=False)
    with pytest.raises(ShardError) as raised:
        await shards.answer(
            execution,
            "SELECT 1 / (k - 15000), k FROM (SELECT abs(k) AS k FROM m ORDER BY 1 OFFSET 0) s ORDER BY k",
            limits=Limits(max_buffer_bytes=5000),
        )
    assert raised.value.sqlstate == "22012"
    shards.check_idle()
