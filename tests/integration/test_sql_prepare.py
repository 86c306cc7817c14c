"""SQL's PREPARE and EXECUTE: arguments arrive as they would at one Postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.wire.frontend import Query
from wire_client import SYNC, bind, describe, execute, parse

if TYPE_CHECKING:
    from wire_client import Twins


@pytest.mark.parametrize(
    ("types", "arguments"),
    [
        ("char(5)", "'hello'"),
        ("bpchar", "'hello'"),
        ('"char"', "'h'"),
        ("bit(5)", "B'10101'"),
        ("varbit", "B'10101'"),
        ("varchar(2)", "'hello'"),
        ("numeric(3,1)", "12.34"),
        ("timestamp(0)", "'2026-01-02 03:04:05.678'"),
        ("interval second(0)", "'1.6 seconds'"),
        ("int4[]", "'{1,2}'"),
        ("char(3)[]", "'{abc,def}'"),
        ("int4", "3.7"),
    ],
)
def test_types_with_a_length(twins: Twins, types: str, arguments: str) -> None:
    twins.query(f"prepare p({types}) as select $1, pg_typeof($1), length($1::text)")
    twins.query(f"execute p({arguments})")
    twins.query("deallocate p")


def test_what_is_stored(twins: Twins) -> None:
    twins.query("create table made (k int8, a char(5), b bit(5))")
    try:
        twins.query("prepare p(int8, char(5), bit(5)) as insert into made values ($1, $2, $3)")
        twins.query("execute p(1, 'hello', B'10101')")
        twins.query("execute p(2, 'abcdexyz', B'10101')")
        twins.query("execute p(3, 'ab', B'101')")
        twins.query("select * from made order by k")
    finally:
        twins.query("drop table made")


@pytest.mark.parametrize(
    ("types", "arguments"),
    [
        ("int4", "'5'::text"),
        ("int4", "null::text"),
        ("bool", "1"),
        ("int4", "true"),
        ("inet", "'1.2.3.4'::text"),
        ("int4[]", "array['1', '2']"),
        ("int8", "(select 5)"),
        ("int4", "count(*)"),
        ("int4", "x"),
        ("int2", "70000"),
        ("int4", "1, 2"),
        ("date", "'2026-01-01'::timestamp"),
        ("text", "5"),
        ("name", "'x'::text"),
        ("numeric", "'1'::money"),
        ("json", "'{}'::jsonb"),
    ],
)
def test_arguments_are_assigned_and_not_cast(twins: Twins, types: str, arguments: str) -> None:
    execute = Query(f"execute p({arguments})".encode())
    twins.query(f"prepare p({types}) as select $1")
    twins.same(execute)
    twins.query("begin; savepoint s")
    for _ in range(2):
        twins.same(execute)
        twins.query("rollback to savepoint s")
    twins.query("rollback")
    twins.query("deallocate p")


def test_a_table_of_a_prepared_statement_and_of_parameters(twins: Twins) -> None:
    twins.query("insert into notes select g, 'v' || g, g % 5 from generate_series(1, 30) g")
    twins.query("prepare few(int8) as select k, v from notes where k < $1 -- and no more")
    twins.query("prepare no_rows as delete from notes where k = -1")
    twins.query("create temp table six as execute few(1 + 5)")
    twins.query("select * from six order by k")
    twins.query("create temp table mine as execute few(7) with no data")
    twins.query("create temp table none as execute no_rows")
    twins.query("create temp table none as execute nobody")
    text = "create temp table four as select k, v || $2 as v from notes where k < $1"
    twins.same(parse(text), bind(b"4", b"!"), describe("P"), execute(), SYNC)
    twins.query("select * from four order by k")
