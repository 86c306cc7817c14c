"""Sequences that random comparison (pipelines.py) has found: each was once answered otherwise by the proxy."""

from __future__ import annotations

from struct import pack
from typing import Any

from proxy.wire.frames import frame
from sequences_again import run
from transcripts import COPY_DONE, PLAIN, data, fail, q
from wire_client import FLUSH, SYNC, bind, close, describe, execute, parse

_ABS = frame(b"F", pack(">IHHI", 1397, 1, 1, 1) + pack(">Ii", 4, -5) + pack(">H", 0))

FOUND: dict[str, tuple[Any, ...]] = {
    "read only, in the middle of a message": (
        q("insert into plain values (7, 'x'); start transaction read only; insert into plain values (8, 'y')"),
        q("rollback"),
        q("table plain; begin read only; table plain"),
        q("insert into plain values (8, 'y')"),
        q("rollback"),
        PLAIN,
    ),
    "read only, in the middle of a pipeline": (
        *run("select 1"),
        *run("begin read only"),
        *run("insert into plain values (8, 'y')"),
        SYNC,
        q("rollback"),
        PLAIN,
    ),
    **{
        f"{text}, prepared by protocol and executed by sql": (
            parse(text, "s"),
            SYNC,
            q("execute s"),
            q("rollback"),
            q("begin"),
            q("execute s"),
            q("rollback"),
            q("reset all"),
        )
        for text in ("begin", "set geqo = off", "show geqo", "fetch 1 from c", "commit", "deallocate s", "")
    },
    "discard all, prepared by protocol and executed by sql": (
        parse("discard all", "s"),
        SYNC,
        q("execute s"),
        q("begin"),
        q("execute s"),
        q("rollback"),
    ),
    "an execute of an execute": (
        q("prepare x(int4) as select v from notes where k = $1"),
        parse("execute x(3)", "s"),
        parse("execute nothing", "t"),
        SYNC,
        q("execute s"),
        q("execute t"),
        *run("execute s"),
        SYNC,
        parse("execute s"),
        bind(results=[1]),
        execute("", 1),
        execute(),
        SYNC,
    ),
    "arguments for a statement that has no parameters": (
        q("prepare x as select v from notes where k = 3"),
        q("execute x(1)"),
        q("execute x(nosuch, 1/0)"),
        *run("execute x('a')"),
        SYNC,
        q("explain (costs off) execute x(nosuch)"),
    ),
    "the unnamed statement stays": (
        parse("select 5"),
        parse("deallocate all", "s"),
        bind(statement="s"),
        execute(),
        bind(),
        execute(),
        SYNC,
        parse("discard all"),
        bind(),
        execute(),
        describe("S"),
        bind(),
        execute(),
        SYNC,
    ),
    "a parse of close, and a message behind it without a sync": (
        parse("close p"),
        q("set datestyle = 'German'; insert into plain values (7, 'x'); set transaction read only; select 1 / 0"),
        SYNC,
        PLAIN,
    ),
    "a cursor of a message, and its name": (
        q("declare c cursor for select 1; select 2"),
        parse("savepoint a"),
        bind(portal="c"),
        SYNC,
        q("fetch 1 from c"),
    ),
    "a cursor in a pipeline, and its name": (
        q("begin"),
        *run("declare c cursor for select 1"),
        parse("execute nosuch"),
        bind(portal="c"),
        SYNC,
        q("rollback"),
    ),
    "a statement described again, whose rows have changed": (
        q("create table made (a int4)"),
        parse("select * from made", "s"),
        parse("select a from made where a = $1", "t"),
        describe("S", "s"),
        SYNC,
        q("alter table made add b text"),
        describe("S", "s"),
        SYNC,
        describe("S", "t"),
        bind(statement="s"),
        SYNC,
        q("alter table made drop a"),
        describe("S", "t"),
        SYNC,
        q("drop table made"),
        describe("S", "t"),
        describe("S", "s"),
        SYNC,
    ),
    "prepare and execute behind empty statements": (
        q("; prepare x(int4) as select v from notes where k = $1"),
        q(";; execute x(3)"),
        q(" ;execute x(nosuch)"),
        *run("; execute x(3)"),
        SYNC,
        q("; explain (costs off) execute x(3)"),
    ),
    "a portal of the session's own is closed": (
        parse("reset geqo", "s"),
        bind(statement="s", portal="c"),
        *run("close c"),
        execute("c"),
        SYNC,
    ),
}

_VACUUM = (parse("vacuum plain"), bind(portal="p"), execute("p"))
_ASK = (describe("P"), SYNC, execute(), SYNC, execute(), SYNC)
_FIVE = (parse("select 5"), bind())

#: The unnamed portal, in a block that a Query has failed; and the portal of what has begun a transaction of its own.
_UNNAMED: dict[str, tuple[Any, ...]] = {
    "a portal of vacuum is executed again": (*_VACUUM, execute("p"), SYNC, execute("p"), SYNC),
    "a portal of vacuum, behind another": (*_VACUUM, *run("select 1"), execute("p"), SYNC),
    "a portal of vacuum is described and closed": (*_VACUUM, describe("P", "p"), close("P", "p"), execute("p"), SYNC),
    "the name of a portal of vacuum": (
        *_VACUUM,
        parse("select 1"),
        bind(portal="p"),
        SYNC,
        parse("select 1"),
        bind(portal="p"),
        SYNC,
    ),
    "close all, and an isolation level": (
        q("close all; set transaction isolation level serializable"),
        q("begin; close all; set transaction isolation level serializable"),
        q("rollback"),
    ),
    **{
        f"the unnamed portal, {what}": (q("begin"), *before, q(text), *_ASK)
        for what, before, text in (
            ("where the first cannot be planned", _FIVE, "select nosuch"),
            ("where the second cannot be planned", _FIVE, "select 1; select nosuch"),
            ("where the second cannot be planned, and none before", (), "select 1; select nosuch"),
            ("where the first cannot be planned, and none before", (), "select nosuch"),
            ("where the first fails", _FIVE, "select 1 / (n - n) from notes"),
            ("where the second fails", _FIVE, "select 1; select 1 / (n - n) from notes"),
            ("where an insert fails", (), "insert into plain values (1, 'x')"),
            ("where a second setting fails", _FIVE, "select 1; set nosuch = 1"),
            ("where the text is wrong", _FIVE, "select 1; selec"),
            ("where a function fails", (), "do $$ begin perform 1 / 0; end $$"),
            ("where a fetch fails", (), "fetch 1 from nosuch"),
            ("where a rollback was bound", (parse("rollback"), bind()), "select 1; select nosuch"),
        )
    },
    "the unnamed portal, closed and left": (
        q("begin; select 1 / (n - n) from notes"),
        q("select 1"),
        describe("P"),
        SYNC,
        close("P"),
        SYNC,
        *_ASK,
        q("rollback"),
        *_ASK,
    ),
}

#: For one shard alone: over several FunctionCall is refused, and so is an isolation level behind LOCK TABLE.
FOUND_OVER_ONE: dict[str, tuple[Any, ...]] = {
    **_UNNAMED,
    **{
        f"{text}, syncs {what}, by {how}": (*begin, *messages, FLUSH, SYNC, q("select 1"), PLAIN)
        for text in ("copy plain from stdin", "copy wanting from stdin (freeze)")
        for how, begin in (("query", (q(text),)), ("protocol", (parse(text), bind(), execute())))
        for what, messages in (
            ("behind an error", (data("x\ty\n"), SYNC, COPY_DONE)),
            ("before and behind an error", (SYNC, data("5\tx\n"), SYNC, data("x\ty\n"), SYNC, SYNC, COPY_DONE, SYNC)),
            ("and no error", (SYNC, data("5\tx\n"), SYNC, COPY_DONE)),
            ("before an error at the end", (SYNC, data("1\tx\n"), SYNC, COPY_DONE)),
            ("and given up", (SYNC, data("5\tx\n"), SYNC, fail("enough"), SYNC)),
            ("behind an error that is given up", (data("x\ty\n"), SYNC, fail("enough"), SYNC)),
        )
    },
    "an isolation level, behind a lock": (
        q("lock table plain; begin isolation level repeatable read; show transaction_isolation"),
        q("rollback"),
        q("table plain; begin isolation level repeatable read"),
        q("begin; lock table plain; set transaction isolation level serializable; show transaction_isolation"),
        q("rollback"),
    ),
    **{
        f"execute, {what}": (
            q(f"select 'ö'; prepare x{prepared}"),
            q(f"select 'ü';\n  execute /* it */ x{arguments}; select 2"),
            *run(f"  execute x {arguments}"),
            SYNC,
            *run("select 1"),
            parse(f"execute x{arguments}"),
            bind(results=[1]),
            describe("P"),
            execute("", 1),
            execute("", 1),
            execute(),
            SYNC,
            q("begin"),
            q(f"execute x{arguments}"),
            q("rollback"),
            PLAIN,
        )
        for what, prepared, arguments in (
            ("and an error behind rows", " as select k, 10 / (5 - n) from notes order by k", ""),
            ("and an error of a value", "(int4) as select k, 10 / (5 - $1) from notes order by k", "(5)"),
            ("that goes well", "(int4) as select k, 10 / (5 - $1) from notes order by k", "(6)"),
            ("and an argument that cannot be read", "(int4, text) as select k, $1, $2 from notes", "('1', 2)"),
            ("and a number that is none", "(int4) as select $1", "('é')"),
            ("and a column as an argument", "(int4) as select $1", "(1 + nosuch)"),
            ("and an error in an argument", "(int4) as select $1", "(1 / 0)"),
            ("and an argument of another type", "(int4) as select $1", "('x'::text)"),
            ("and too many arguments", "(int4) as select $1", "(1, 2)"),
            ("and a subquery", "(int4) as select $1", "((select 1))"),
            ("of what writes", "(int4) as insert into plain values ($1, 'x') returning id, v", "(7)"),
            ("of what writes twice", "(int4) as insert into plain values ($1, 'x')", "(1)"),
            ("of what reads the clock", " as select 'now'::timestamptz > now() - interval '1 h', 'today'", ""),
        )
    },
    "explain execute by protocol": (
        q("select 1; prepare x(int4) as select v from notes where k = $1 and n > 0"),
        parse("explain (costs off) execute x(3)", "s"),
        describe("S", "s"),
        bind(statement="s", portal="p", results=[0]),
        describe("P", "p"),
        execute("p", 1),
        execute("p"),
        SYNC,
        *run("explain (costs off, analyze, timing off, summary off, buffers off) execute x(3)"),
        SYNC,
        *run("explain (costs off) execute x('a')"),
        SYNC,
        *run("explain (costs off) execute x(nosuch)"),
        SYNC,
        *run("explain execute nothing"),
        SYNC,
        parse("explain (format json) execute nothing"),
        describe("S"),
        bind(results=[1, 1]),
        SYNC,
    ),
    "a prepared statement whose column is gone": (
        q("create table made (a int4, b text)"),
        q("insert into made values (1, 'x')"),
        q("select 'ä'; prepare x(int4) as select a, b from made where a = $1"),
        q("execute x(1)"),
        q("alter table made drop b"),
        q("execute x(1)"),
        *run("execute x(1)"),
        SYNC,
        q("alter table made add b int4"),
        q("execute x(1)"),
        q("drop table made"),
        q("execute x(1)"),
    ),
    "a function call, and a vacuum behind it": (
        parse("select k from notes order by k"),
        bind(portal="p"),
        execute("p", 1),
        _ABS,
        *run("vacuum nowhere"),
        SYNC,
    ),
    "a function call ends what was bound": (
        parse("close all", "s"),
        bind(statement="s", portal="c"),
        bind(statement="s"),
        _ABS,
        execute("c"),
        SYNC,
        execute(),
        SYNC,
        q("begin"),
        bind(statement="s", portal="c"),
        _ABS,
        execute("c"),
        SYNC,
        q("rollback"),
    ),
    "a parse, and a query that fails in a block behind it": (
        parse("insert into plain values (1, 'x')"),
        q("begin read only; insert into plain values (8, 'y')"),
        SYNC,
        parse("select * from plain", "s"),
        q("select 1"),
        SYNC,
        q("rollback"),
    ),
    "an unnamed statement that is bound again while its rows are suspended": (
        parse("update notes set v = 'again' returning k"),
        bind(),
        execute("", 1),
        bind(portal="p"),
        execute("p", 1),
        SYNC,
        parse("update notes set v = v || 'x' returning k, v"),
        bind(),
        execute("", 1),
        parse("update notes set v = v || 'x' returning k, v"),
        bind(portal="p"),
        execute("p", 1),
        SYNC,
    ),
}
