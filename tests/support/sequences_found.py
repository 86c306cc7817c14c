"""Sequences that random comparison (pipelines.py) has found: each was once answered otherwise by the proxy."""

from __future__ import annotations

from struct import pack
from typing import Any

from proxy.wire.frames import frame
from sequences_again import run
from transcripts import PLAIN, q
from wire_client import SYNC, bind, describe, execute, parse

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
    "a portal of the session's own is closed": (
        parse("reset geqo", "s"),
        bind(statement="s", portal="c"),
        *run("close c"),
        execute("c"),
        SYNC,
    ),
}

#: For one shard alone: over several FunctionCall is refused, and so is an isolation level behind LOCK TABLE.
FOUND_OVER_ONE: dict[str, tuple[Any, ...]] = {
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
}
