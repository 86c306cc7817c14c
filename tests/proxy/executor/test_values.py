"""Sums, averages and texts against Postgres itself: thousands of random values, one query for each batch."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from proxy.executor import numeric, values
from proxy.executor.failure import CombineFailure

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 20261122
CASES = 3000


@pytest.fixture(scope="module")
def postgres(module_databases: list[str]) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(module_databases[0], autocommit=True) as connection:
        yield connection


def random_numeric(source: random.Random) -> str:
    """Write a number of random size and scale, now and then a special one."""
    kind = source.random()
    if kind < 0.03:
        return source.choice(["NaN", "Infinity", "-Infinity"])
    whole = source.choice([0, 0, 1, 2, 3, 4, 5, 8, 9, 12, 40, 300])
    scale = source.choice([0, 0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 20, 37, 120, 1100 if kind < 0.1 else 6])
    digits = "".join(source.choice("0000123456789" if kind < 0.5 else "09") for _ in range(whole)) or "0"
    fraction = "".join(source.choice("0000000000123456789" if kind < 0.5 else "0000005") for _ in range(scale))
    return f"{source.choice(['', '-'])}{digits}{'.' + fraction if scale else ''}"


def fetch(postgres: psycopg.Connection[tuple[object, ...]], query: str, *arrays: list[str]) -> list[tuple[bytes, ...]]:
    """Run a query over arrays with raw text results."""
    with postgres.cursor() as cursor:
        cursor.execute(query, arrays)
        result = cursor.pgresult
        assert result is not None
        return [
            tuple(result.get_value(row, column) or b"<null>" for column in range(result.nfields))
            for row in range(result.ntuples)
        ]


def test_numeric_binary_and_text(postgres: psycopg.Connection[tuple[object, ...]]) -> None:
    source = random.Random(SEED)
    written = [random_numeric(source) for _ in range(CASES)]
    rows = fetch(postgres, "SELECT x::text, encode(numeric_send(x::numeric), 'hex') FROM unnest(%s::text[]) x", written)
    texts = fetch(postgres, "SELECT x::numeric FROM unnest(%s::text[]) x", written)
    for (_, wire), (text,) in zip(rows, texts, strict=True):
        value = numeric.decode_numeric(bytes.fromhex(wire.decode()))
        assert numeric.numeric_text(value) == text
        assert numeric.encode_numeric(value).hex() == wire.decode()


def test_numeric_sum(postgres: psycopg.Connection[tuple[object, ...]]) -> None:
    source = random.Random(SEED + 1)
    one = [random_numeric(source) for _ in range(CASES)]
    other = [random_numeric(source) if source.random() < 0.8 else value.lstrip("-") for value in one]
    expected = fetch(
        postgres,
        "SELECT (SELECT sum(v) FROM (VALUES (a::numeric), (b::numeric)) t(v))"
        " FROM unnest(%s::text[], %s::text[]) u(a, b)",
        one,
        other,
    )
    for a, b, (text,) in zip(one, other, expected, strict=True):
        assert numeric.numeric_text(numeric.add(plain(a), plain(b))) == text, (a, b)


def plain(text: str) -> Decimal:
    """Read a number without an exponent, as the wire gives it (no negative zero)."""
    value = Decimal(text)
    return value if value.is_nan() or value else value.copy_abs()


def test_average_is_postgress_own_division(postgres: psycopg.Connection[tuple[object, ...]]) -> None:
    source = random.Random(SEED + 2)
    totals = [random_numeric(source) for _ in range(CASES)]
    counts = [source.choice([1, 2, 3, 7, 9999, 10_000, 10_001, source.randrange(1, 1 << 62)]) for _ in totals]
    expected = fetch(
        postgres,
        "SELECT a::numeric / b::numeric FROM unnest(%s::text[], %s::text[]) u(a, b)",
        totals,
        [str(count) for count in counts],
    )
    for total, count, (text,) in zip(totals, counts, expected, strict=True):
        assert numeric.numeric_text(numeric.divide(plain(total), count)) == text, (total, count)


@pytest.mark.parametrize("type_name", ["int2", "int4", "int8", "numeric"])
def test_average_of_parts_is_the_average_of_all(
    postgres: psycopg.Connection[tuple[object, ...]], type_name: str
) -> None:
    source = random.Random(f"{SEED} {type_name}")
    size = {"int2": 15, "int4": 31, "int8": 63, "numeric": 80}[type_name]
    for _ in range(60):
        parts = [
            [
                str(source.randrange(-(1 << size), 1 << size) >> source.randrange(size))
                + (f".{source.randrange(1000)}" if type_name == "numeric" and source.random() < 0.5 else "")
                for _ in range(source.randrange(6))
            ]
            for _ in range(3)
        ]
        query = (
            f"SELECT encode({{}}(sum(x::{type_name})), 'hex'), count(x), avg(x::{type_name}) FROM unnest(%s::text[]) x"
        ).format("numeric_send" if type_name in ("int8", "numeric") else "int8send")
        partial = [fetch(postgres, query, part)[0] for part in parts]
        ((_, _, expected),) = fetch(postgres, query, [value for part in parts for value in part])
        sum_oid = values.NUMERIC if type_name in ("int8", "numeric") else values.INT8
        codec, average = values.codec(sum_oid), values.average(sum_oid)
        assert codec.add is not None
        total = None
        count = 0
        for wire, number, _ in partial:
            count += int(number)
            if wire != b"<null>":
                value = codec.decode(bytes.fromhex(wire.decode()))
                total = value if total is None else codec.add(total, value)
        text = b"<null>" if total is None else average.codec.text(average.divide(total, count))
        assert text == expected, parts


@pytest.mark.parametrize(("name", "oid"), [("float8", values.FLOAT8), ("float4", values.FLOAT4)])
@pytest.mark.parametrize("digits", [1, 0, -3])
def test_float_text(postgres: psycopg.Connection[tuple[object, ...]], name: str, oid: int, digits: int) -> None:
    source = random.Random(SEED + 3)
    size = 8 if name == "float8" else 4
    patterns = [source.randbytes(size).hex() for _ in range(CASES)]
    texts = ["0", "-0", "1e15", "1e14", "123456789012345678", "1e6", "100000", "999999", "1e-4", "1e-5", "0.1", "1.5"]
    texts += [f"{source.randrange(10**6)}e{source.randrange(-20, 20)}" for _ in range(CASES)]
    postgres.execute(sql.SQL("SET extra_float_digits TO {}").format(digits))
    try:
        rows = fetch(
            postgres, f"SELECT x::{name}, encode({name}send(x::{name}), 'hex') FROM unnest(%s::text[]) x", texts
        )
    finally:
        postgres.execute("RESET extra_float_digits")
    codec = values.codec(oid, extra_float_digits=digits)
    for text, wire in rows:
        assert codec.text(codec.decode(bytes.fromhex(wire.decode()))) == text, wire
    # Any bits at all: what is written reads back as the same number, as Postgres sees it.
    if digits > 0:
        finite = [codec.text(codec.decode(bytes.fromhex(pattern))).decode() for pattern in patterns]
        again = fetch(postgres, f"SELECT x::{name} FROM unnest(%s::text[]) x", finite)
        assert [text.decode() for (text,) in again] == finite


def test_sums_out_of_range_are_postgress_errors() -> None:
    codec = values.codec(values.INT8)
    assert codec.add is not None
    assert codec.add((1 << 63) - 2, 1) == (1 << 63) - 1
    for one, other in (((1 << 63) - 1, 1), (-(1 << 63), -1)):
        with pytest.raises(CombineFailure, match="bigint out of range") as raised:
            codec.add(one, other)
        assert raised.value.sqlstate == "22003"
    for oid, large in ((values.FLOAT8, 1.7e308), (values.FLOAT4, 3.4e38)):
        codec = values.codec(oid)
        assert codec.add is not None
        assert codec.add(float("inf"), 1.0) == float("inf")
        with pytest.raises(CombineFailure, match="value out of range: overflow"):
            codec.add(large, large)
    with pytest.raises(CombineFailure, match="value overflows numeric format"):
        numeric.add(Decimal("9e131071"), Decimal("9e131071"))
