"""SQL's PREPARE and EXECUTE: arguments arrive as they would at one Postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.wire.frontend import Query
from wire_client import SYNC, Twins, bind, describe, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Town

    from wire_client import WireClient

    Connect = Callable[..., WireClient]


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


# What Postgres reads when it parses a literal: a statement, and what changes the reading between Parse and Execute.
READ_AT_PARSE = [
    ("select '01/02/2020'::date", "set datestyle = 'iso, dmy'"),
    ("select '2020-01-01 10:00'::timestamptz at time zone 'UTC'", "set timezone = 'Asia/Tokyo'"),
    ("select '2020-01-01 10:00 EST'::timestamptz at time zone 'UTC'", "set timezone_abbreviations = 'Australia'"),
    ("select '10:00'::timetz at time zone 'UTC'", "set timezone = 'Asia/Tokyo'"),
    ("select extract(epoch from interval '-1 2:03')", "set intervalstyle = 'sql_standard'"),
    ("select '<a/><b/>'::xml is document", "set xmloption = document"),
    ("select n.k from notes n where n.k = 1 and date '2020-02-01' = '01/02/2020'", "set datestyle = 'iso, dmy'"),
    ("select 'plain'::text", "set datestyle = 'iso, dmy'"),
    ("select to_char(date '2020-02-03', 'DD'), 'a b'::tsvector", "set default_text_search_config = 'simple'"),
]


@pytest.mark.parametrize(("text", "change"), READ_AT_PARSE)
def test_literals_mean_what_they_meant_when_they_were_parsed(twins: Twins, text: str, change: str) -> None:
    twins.query(f"prepare p as {text}")
    twins.same(parse(text, "s"), SYNC)
    twins.query("execute p")
    twins.query(change)
    for _ in range(2):
        twins.query("execute p")
        twins.same(bind(statement="s"), describe("P"), execute(), SYNC)
    twins.query("begin")
    twins.query("execute p")
    twins.same(bind(statement="s"), execute(), bind(statement="s"), execute(), SYNC)
    twins.query("savepoint a; rollback to a; commit")
    twins.query("deallocate p")
    twins.query(f"prepare p as {text}")
    twins.query("execute p")
    twins.query(text)
    twins.query("reset all")
    twins.query("execute p")
    twins.same(bind(statement="s"), execute(), SYNC)


@pytest.mark.parametrize("local", ["", "local "])
@pytest.mark.parametrize("end", ["rollback", "commit", "rollback to a"])
def test_literals_that_a_block_has_parsed(twins: Twins, local: str, end: str) -> None:
    text = "select '01/02/2020'::date"
    twins.query("begin")
    twins.query("savepoint a")
    twins.query(f"set {local}datestyle = 'iso, dmy'")
    twins.query(f"prepare p as {text}")
    twins.same(parse(text, "s"), bind(statement="s"), execute(), SYNC)
    twins.query("execute p")
    twins.query(end)
    for _ in range(2):
        twins.query("execute p")
        twins.same(bind(statement="s"), execute(), SYNC)
    twins.query("rollback")
    twins.query("execute p")
    twins.query("show datestyle")
    twins.query("reset datestyle")
    twins.query("execute p")


def test_the_unnamed_statement_and_one_pipeline_keep_their_reading(twins: Twins) -> None:
    text, change = "select '01/02/2020'::date", "set datestyle = 'iso, dmy'"
    twins.same(parse(text), parse(change, "c"), bind(statement="c"), execute(), bind(), execute(), SYNC)
    twins.query("show datestyle")


def test_what_is_prepared_again_is_read_again(twins: Twins) -> None:
    twins.query("insert into notes (k, v) values (1, 'a')")
    for change in ("truncate notes", "analyze notes"):  # Postgres parses statements over it anew
        twins.query("prepare p as select v, '01/02/2020'::date from notes where k = $1")
        twins.query("set datestyle = 'iso, dmy'")
        for begin in ("begin isolation level repeatable read", "begin read only"):
            twins.query(begin)
            twins.query("execute p(1)")
            twins.query("execute p(1)")
            twins.query("commit")
        twins.query("reset datestyle")
        twins.query("deallocate p")
        twins.query(change)
        twins.query("insert into notes (k, v) values (1, 'a') on conflict do nothing")


def test_reset_in_a_block(twins: Twins) -> None:
    twins.query("set datestyle = 'iso, dmy'")
    twins.query("begin")
    twins.query("reset all")
    twins.query("prepare p as select '01/02/2020'::date")
    twins.query("execute p")
    twins.query("rollback")
    twins.query("execute p")
    twins.query("begin")
    twins.query("savepoint a")
    twins.query("reset datestyle")
    twins.query("execute p")
    twins.query("rollback to a")
    twins.query("execute p")
    twins.query("commit")


def test_several_shards_do_not_read_what_was_prepared_by_other_settings(town: Town, connect: Connect) -> None:
    twins = Twins(connect(town.one), connect(town.dsn))
    twins.query("insert into notes (k, v) values " + ", ".join(f"({k}, 'v{k}')" for k in range(1, 10)))
    dated = "select count(*) from notes where '2020-02-01' = date '01/02/2020'"
    plain = "select count(*) from notes where v <> 'open' and k < 5"
    keyed = "update notes set v = '01/02/2020'::date where k = $1 returning v"
    for name, text in (("d", dated), ("p", plain), ("k", keyed)):
        twins.query(f"prepare {name} as {text}")
        twins.same(parse(text, name * 2), SYNC)
    twins.query("execute d")
    twins.query("execute k(1)")
    twins.query("set datestyle = 'iso, dmy'")
    twins.query("execute p")
    twins.query("execute k(2)")
    for _ in range(3):  # a statement of the fast lane
        twins.same(bind(b"3", statement="kk"), describe("P"), execute(), SYNC)
    for message in ([Query(b"execute d")], [bind(statement="dd"), execute(), SYNC]):
        twins.proxy.send(*message)
        ((kind, error), *_) = twins.proxy.read("Z")
        assert (kind, error["C"]) == ("error", "0A000")
        assert "prepared when other settings" in error["M"]
    twins.query("reset datestyle")
    twins.query("execute d")
    twins.same(bind(statement="dd"), execute(), SYNC)
    for name in "set datestyle = 'iso, dmy'", "deallocate d", f"prepare d as {dated}", "execute d":
        twins.query(name)
    twins.query("select k, v from notes order by k")
