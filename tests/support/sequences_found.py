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
