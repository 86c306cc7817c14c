"""Sequences about what a session has: views that show its prepared statements and cursors."""

from __future__ import annotations

from typing import Any

from sequences_again import run
from transcripts import q
from wire_client import FLUSH, SYNC, bind, close, describe, execute, parse

LISTED = "select name, statement, parameter_types, result_types, from_sql from pg_prepared_statements order by name"
COUNTED = q("select count(*) from pg_prepared_statements")
CURSORS = "select name, statement, is_holdable, is_binary from pg_cursors order by name"

OWN_VIEWS: dict[str, tuple[Any, ...]] = {
    "statements of both kinds": (
        parse("select id from plain where id = $1", "s"),
        SYNC,
        q("prepare x(int8) as select v from notes where k = $1"),
        q(LISTED),
        q("execute x(3)"),
        q(LISTED),
        q("deallocate x"),
        q("select count(*) from pg_catalog.pg_prepared_statements p where not p.from_sql"),
        close("S", "s"),
        SYNC,
        COUNTED,
    ),
    "statements, by the extended protocol": (
        parse("select id from plain where id = $1", "s"),
        parse(LISTED),
        describe("S", ""),
        bind(),
        describe("P", ""),
        execute(),
        SYNC,
    ),
    "a reader that is prepared itself": (
        parse("select name from pg_prepared_statements where name like $1 order by name", "r"),
        describe("S", "r"),
        bind(b"%", statement="r"),
        describe("P", ""),
        execute(),
        parse("select 1", "t"),
        bind(b"%", statement="r"),
        execute("", 1),
        execute("", 1),
        SYNC,
        close("S", "t"),
        bind(b"%", statement="r"),
        execute(),
        SYNC,
    ),
    "a reader by sql": (
        q("prepare r as select name, from_sql from pg_prepared_statements order by 1"),
        q("execute r"),
        q("prepare t as select 1"),
        q("execute r"),
        *run("execute r"),
        SYNC,
        q("deallocate all; execute r"),
    ),
    "names in every place": (
        q("prepare x as select 1"),
        q("table pg_prepared_statements limit 0"),
        q("select pg_prepared_statements.name from pg_prepared_statements"),
        q("select a, b from pg_prepared_statements as p(a, b)"),
        q("select pg_typeof(p) from pg_prepared_statements p"),
        q("select (select name from pg_prepared_statements), (select count(*) from pg_prepared_statements x)"),
        q("with pg_prepared_statements as (select 7 as name) select name from pg_prepared_statements"),
        q("with y as (select 7) select name from pg_prepared_statements, y"),
        q("select 'pg_prepared_statements'"),
        q("select nope from pg_prepared_statements"),
        q("select p.name, n.k from pg_prepared_statements p, notes n where n.k = 3"),
        q("insert into plain select 7, name from pg_prepared_statements"),
        q("select id, v from plain order by id"),
        q("delete from pg_prepared_statements where false"),
    ),
    "texts as they came": (
        q("  prepare \"a'b\" as /* c */ select 'é\"\\'; prepare b as select 2 ; select 3 "),
        *run("prepare c as select 4;"),
        SYNC,
        q(LISTED),
        q("select prepare_time <= now() + interval '1 minute', pg_typeof(prepare_time) from pg_prepared_statements"),
    ),
    "statements of every kind": (
        parse("", "a"),
        parse("begin", "b"),
        parse("show geqo", "c"),
        parse("insert into plain values ($1, $2)", "d"),
        parse("insert into plain values ($1, $2) returning *", "e"),
        parse("select $1::notes", "f"),
        SYNC,
        q(LISTED),
    ),
    "statements and rolled-back blocks": (
        q("begin; prepare x as select 1"),
        q("rollback"),
        COUNTED,
        q("begin; select 1/0"),
        COUNTED,
        q("rollback"),
        q("discard all"),
        COUNTED,
    ),
    "rows in binary": (
        parse("select 1", "s"),
        parse("select name, from_sql, parameter_types from pg_prepared_statements"),
        bind(results=(1,)),
        describe("P", ""),
        execute(),
        FLUSH,
        SYNC,
    ),
    "cursors of a block": (
        q("begin"),
        q("declare c cursor for select k from notes order by k"),
        q("declare d binary no scroll cursor for select id from plain order by id"),
        q(CURSORS),
        q("fetch 1 from c"),
        q("select count(*) from pg_cursors"),
        q("close c"),
        q(CURSORS),
        q("rollback"),
        q(CURSORS),
    ),
}
