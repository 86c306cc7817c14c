"""Sequences of the extended query protocol: portals run again, and what a pipeline does before its Sync."""

from __future__ import annotations

from typing import Any

from transcripts import PLAIN, q
from wire_client import SYNC, bind, describe, execute, parse


def run(text: str) -> tuple[Any, ...]:
    """Return the messages that run a statement once, without a Sync."""
    return parse(text), bind(), execute()


def twice(text: str) -> tuple[Any, ...]:
    """Return those that run its portal once more, at its end."""
    return *run(text), execute()


AGAIN: dict[str, tuple[Any, ...]] = {
    "an execute repeated": (*twice("select 1"), SYNC),
    "an insert executed twice": (*twice("insert into plain values (5, 'x')"), SYNC, PLAIN),
    "returning executed twice": (*twice("insert into plain values (5, 'x'), (6, 'y') returning id"), SYNC, PLAIN),
    "an update executed twice in a block": (
        q("begin"),
        *twice("update notes set n = n + 1 where k > 3"),
        SYNC,
        q("rollback"),
    ),
    "show executed twice": (*twice("show geqo"), SYNC),
    "set executed twice": (*twice("set geqo = off"), SYNC, q("show geqo")),
    "explain executed twice": (*twice("explain (costs off) select 1"), SYNC),
    "an empty one executed twice": (*twice(""), SYNC),
    "a fetch executed twice": (
        q("begin"),
        q("declare c cursor for select k from notes order by k"),
        *twice("fetch 2 from c"),
        SYNC,
        q("fetch 1 from c"),
        q("rollback"),
    ),
    "execute executed twice": (q("prepare x as select k from notes order by k"), *twice("execute x"), SYNC),
    "execute of a write executed twice": (
        q("prepare x as insert into plain values (7, 'x')"),
        *twice("execute x"),
        SYNC,
        PLAIN,
    ),
    "execute of a returning executed twice": (
        q("prepare x as insert into plain values (7, 'x') returning id"),
        *twice("execute x"),
        SYNC,
        PLAIN,
    ),
    "set, and an error behind it": (*run("set geqo = off"), *run("select 1 / 0"), SYNC, q("show geqo")),
    "set local, seen before Sync": (*run("set local geqo = off"), *run("show geqo"), SYNC, q("show geqo")),
    "set_config, and an error behind it": (
        *run("select set_config('geqo', 'off', false)"),
        *run("select 1 / 0"),
        SYNC,
        q("show geqo"),
    ),
    "reset, and a statement behind it": (
        q("set geqo = off"),
        *run("reset geqo"),
        *run("select 1"),
        SYNC,
        q("show geqo"),
    ),
    "set session characteristics, and a statement behind it": (
        *run("set session characteristics as transaction read only"),
        *run("insert into plain values (5, 'x')"),
        SYNC,
        q("insert into plain values (6, 'x')"),
    ),
    "execute of a write, and an error behind it": (
        q("prepare x as insert into plain values (7, 'x')"),
        *run("execute x"),
        *run("select 1 / 0"),
        SYNC,
        PLAIN,
    ),
    "prepare, and an error behind it": (*run("prepare x as select 1"), *run("select 1 / 0"), SYNC, q("execute x")),
    "a cursor declared and fetched before Sync": (
        *run("declare c cursor for select k from notes order by k"),
        *run("fetch 2 from c"),
        SYNC,
    ),
    "a cursor declared behind a statement": (
        *run("select 1"),
        *run("declare c cursor for select k from notes order by k"),
        *run("fetch 2 from c"),
        SYNC,
    ),
    "set local behind a statement": (*run("select 1"), *run("set local geqo = off"), *run("show geqo"), SYNC),
    "set constraints, and a statement behind it": (*run("set constraints all deferred"), *run("select 1"), SYNC),
    "a cursor with hold declared before Sync": (
        *run("declare c cursor with hold for select k from plain order by k"),
        *run("select 1"),
        SYNC,
    ),
    "savepoint before Sync": (*run("select 1"), *run("savepoint a"), *run("select 2"), SYNC),
    "lock table before Sync": (*run("lock table plain"), *run("select 2"), SYNC),
    "discard all behind a statement": (*run("insert into plain values (7, 'x')"), *run("discard all"), SYNC, PLAIN),
    "vacuum behind a statement": (*run("insert into plain values (7, 'x')"), *run("vacuum plain"), SYNC, PLAIN),
    "suspended at its last row, then executed": (
        parse("select k from notes order by k"),
        bind(),
        execute("", 9),
        execute("", 9),
        execute(),
        SYNC,
    ),
    "begin executed twice": (*twice("begin"), SYNC, q("rollback")),
}


def bound(text: str = "select 1") -> tuple[Any, ...]:
    """Return the messages that bind a statement and do not run it."""
    return parse(text), bind(portal="p")


INSERT = "insert into plain values (7, 'x')"

#: Postgres has a block from behind the first Execute of a pipeline, and not from its first Bind.
BEHIND_A_BIND: dict[str, tuple[Any, ...]] = {
    **{
        f"{text}, behind a bind": (*bound(), *run(text), SYNC)
        for text in (
            "discard all",
            "vacuum plain",
            "lock table plain",
            "declare c cursor for select 1",
            "set local geqo = off",
            "set constraints all immediate",
            "set transaction read only",
            "prepare transaction 'x'",
            "savepoint a",
        )
    },
    **{
        f"{text}, and what was bound before it": (*bound(), *run(text), execute("p"), SYNC)
        for text in ("discard all", "vacuum plain", "vacuum nosuch", "set local geqo = off")
    },
    **{
        f"{text}, behind an insert that waits": (*bound(INSERT), *run(text), execute("p"), SYNC, PLAIN)
        for text in ("discard all", "vacuum plain", "set local geqo = off")
    },
    **{
        f"{text}, behind an execute": (*run("select 1"), *run(text), SYNC)
        for text in (
            "set transaction read only",
            "set transaction isolation level serializable",
            "set constraints all deferred",
            "vacuum plain",
            "discard all",
        )
    },
    **{
        f"{one}, and {other} behind it": (*run(one), *run(other), SYNC)
        for one, other in (
            ("vacuum plain", "select 1"),
            ("vacuum plain", "vacuum plain"),
            ("vacuum plain", "set local geqo = off"),
            ("discard all", "vacuum plain"),
            ("discard all", "set local geqo = off"),
            ("", "set local geqo = off"),
            ("commit", "set local geqo = off"),
            ("deallocate all", "discard all"),
            ("set transaction read only", INSERT),
            ("set transaction isolation level repeatable read", "show transaction_isolation"),
        )
    },
    "vacuum, and its portal's name again": (
        parse("select 1", "s"),
        bind(statement="s", portal="p"),
        *run("vacuum plain"),
        bind(statement="s", portal="p"),
        execute("p"),
        SYNC,
    ),
    "an index made without a block, and dropped in one": (
        *run("create index concurrently plain_v on plain (v)"),
        *run("drop index concurrently plain_v"),
        SYNC,
        q("drop index plain_v"),
    ),
    "set transaction among statements": (
        q(f"set transaction read only; {INSERT}"),
        q(f"select 1; set transaction read only; {INSERT}"),
        q("set transaction read only"),
        q(f"begin; select 1; commit; set transaction read only; {INSERT}"),
        PLAIN,
    ),
    **{
        f"{words}, bound before a cursor of one shard": (
            q("begin"),
            parse(words, "s"),
            bind(statement="s", portal="p"),
            *run("declare d cursor for select id from plain order by id"),
            describe("P", "p"),
            execute("p"),
            execute("p"),
            SYNC,
            q("rollback"),
        )
        for words in ("fetch 1 from d", "move 1 in d", "close d")
    },
    "fetch, bound before a cursor of one shard, and what it leaves": (
        q("begin"),
        parse("fetch 1 from d", "s"),
        bind(statement="s", portal="p"),
        *run("declare d cursor for select id from plain order by id"),
        execute("p"),
        *run("fetch 1 from d"),
        SYNC,
        q("rollback"),
    ),
}
