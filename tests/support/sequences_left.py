"""Sequences about what errors leave behind, and about what Postgres has begun before anything runs."""

from __future__ import annotations

from typing import Any

from transcripts import PLAIN, q
from wire_client import FLUSH, SYNC, bind, close, describe, execute, parse

_BROKEN = (q("prepare s as select * from plain order by id"), q("begin"), q("alter table plain add w int4"))

#: Over one shard alone. What a failed Query has left is described and not executed: PostgreSQL 18 has freed its memory.
LEFT: dict[str, tuple[Any, ...]] = {
    "show, executed": (
        *(parse("show timezone", "t"), parse("execute t"), bind(), execute(), SYNC),
        *(parse("execute t", "x"), bind(statement="x"), describe("P"), execute(), SYNC),
    ),
    "a bind whose plan has failed": (
        *(q("begin"), parse("select 1/0"), bind(), SYNC, describe("P"), SYNC, execute(), SYNC),
        *(close("P"), SYNC, execute(), SYNC, q("rollback")),
    ),
    "a named bind whose plan has failed": (
        *(q("begin"), parse("select 1/0"), bind(portal="p"), SYNC, execute("p"), SYNC, describe("P", "p"), SYNC),
        *(parse("rollback", "r"), bind(statement="r", portal="p"), SYNC, bind(statement="r"), execute(), SYNC),
    ),
    "a bind whose parameter has failed": (
        *(q("begin"), parse("select $1::int4"), bind(b"x", portal="p"), SYNC, execute("p"), SYNC, execute(), SYNC),
        q("rollback"),
    ),
    "a bind whose key has failed": (
        *(q("begin"), parse("select v from notes where k = $1"), bind(b"x", portal="p"), SYNC, execute("p"), SYNC),
        q("rollback"),
    ),
    "a bind whose formats have failed": (
        *(q("begin"), parse("select 1"), bind(results=(0, 1), portal="p"), SYNC, execute("p"), SYNC),
        *(describe("P", "p"), SYNC, q("rollback")),
    ),
    "a bind whose formats have failed, of a setting": (
        *(q("begin"), parse("show geqo"), bind(results=(0, 1), portal="p"), SYNC, execute("p"), SYNC),
        *(describe("P", "p"), SYNC, q("rollback")),
    ),
    "a bind that was skipped": (
        *(q("begin"), parse("select 1"), bind(portal="p"), SYNC, parse("select 1/0"), bind(), execute()),
        *(parse("select 2"), bind(portal="r"), SYNC, execute("r"), SYNC, execute("p"), SYNC, q("rollback")),
    ),
    "a bind that was skipped, behind what ran": (
        *(q("begin"), parse("select 10 / (5 - n) from notes order by k"), bind(), execute()),
        *(parse("set geqo = off"), bind(portal="r"), parse("select 2"), bind(), SYNC),
        *(execute("r"), SYNC, describe("P"), SYNC, q("rollback")),
    ),
    "a close that was skipped": (
        *(q("begin"), parse("set geqo = off"), bind(portal="p"), SYNC, parse("select 10 / (5 - n) from notes")),
        *(bind(), execute(), close("P", "p"), SYNC, describe("P", "p"), SYNC, execute("p"), SYNC, q("rollback")),
    ),
    "a bind whose statement is broken": (*_BROKEN, bind(statement="s"), SYNC, execute(), SYNC, q("rollback")),
    "a bind in a savepoint": (
        *(q("begin; savepoint a"), parse("select 1/0"), bind(portal="p"), SYNC, q("rollback to a"), execute("p")),
        *(SYNC, q("rollback")),
    ),
    "a bind whose plan has failed, flushed": (
        *(q("begin"), parse("select 1"), bind(portal="p"), FLUSH, parse("select 1/0"), bind(portal="r"), FLUSH, SYNC),
        *(execute("r"), SYNC, execute("p"), SYNC, q("rollback")),
    ),
    "an execute of nothing": (*(q("begin"), q("execute nosuch"), describe("P"), SYNC, q("rollback")),),
    "an execute of nothing, with a portal before it": (
        *(q("begin"), parse("select 1"), bind(), SYNC, q("execute nosuch"), describe("P"), SYNC),
        q("rollback"),
    ),
    "an execute with an argument too many": (
        *(q("prepare x(int4) as select $1"), q("begin"), q("execute x(1, 2)"), describe("P"), SYNC),
        q("rollback"),
    ),
    "a prepare that failed behind a write": (
        q("begin"),
        *(q("insert into plain values (7, 'x'); prepare w as select nosuch"), describe("P"), SYNC),
        *(q("rollback"), PLAIN),
    ),
    "a rollback to nothing": (*(q("begin"), q("rollback to nosuch"), describe("P"), SYNC, q("rollback")),),
    "a rollback to nothing behind another": (
        *(q("begin"), q("rollback to a; commit"), describe("P"), SYNC, q("rollback")),
    ),
    "a setting that does not exist": (*(q("begin"), q("set nosuch = 1"), describe("P"), SYNC, q("rollback")),),
    "a cursor's name for what must be alone": (
        q("declare p cursor with hold for select 1"),
        *(parse("vacuum plain"), bind(portal="p"), SYNC, q("close p")),
    ),
    "a query behind a bind alone: discard all": (parse("select 1", "s"), bind(statement="s"), q("discard all"), SYNC),
    "a query behind a bind alone: declare": (
        *(parse("select 1"), bind(), q("declare c cursor for select 1"), SYNC, q("begin"), parse("select 1"), bind()),
        *(q("declare c cursor for select 1"), q("fetch 1 from c"), q("rollback")),
    ),
    "a query behind a bind alone: lock table": (parse("select 1"), bind(), q("lock table plain"), SYNC),
    "a query behind a bind alone: vacuum": (parse("select 1"), bind(), q("vacuum plain"), SYNC),
    "a query behind a bind alone: fetch": (parse("values (1), (2)"), bind(portal="p"), q("fetch 1 from p"), SYNC),
    "an isolation level behind a parse": (
        *(parse("select 1", "s"), parse("begin isolation level repeatable read"), bind(), execute(), SYNC),
        *(parse("select 1", "t"), parse("set transaction isolation level serializable"), bind(), execute(), SYNC),
        *(parse("show geqo", "r"), parse("begin isolation level repeatable read"), bind(), execute(), SYNC),
        *(q("commit"), q("begin isolation level serializable"), q("rollback")),
    ),
    "an isolation level behind a parse in a block": (
        *(q("begin"), parse("select 1", "s"), SYNC, q("set transaction isolation level serializable"), q("rollback")),
        *(q("begin"), bind(statement="s"), SYNC, q("set transaction isolation level serializable"), q("rollback")),
        *(q("begin"), q("set transaction isolation level serializable"), q("rollback")),
    ),
    "an isolation level behind a parse and a query": (
        *(parse("select 1", "s"), q("begin isolation level serializable"), q("rollback")),
        *(q("begin isolation level serializable"), q("rollback")),
    ),
    "an isolation level behind prepare in a pipeline": (
        *(parse("prepare y as select 1"), bind(), execute()),
        *(parse("set transaction isolation level repeatable read"), bind(), execute(), SYNC),
        *(parse("set transaction isolation level repeatable read"), bind(), execute(), SYNC),
    ),
    "an isolation level behind prepare, deallocate and close": (
        q("prepare x as select 1; begin; deallocate x; set transaction isolation level serializable"),
        q("rollback; begin; prepare x as select 1; set transaction isolation level serializable"),
        q("rollback; begin; prepare x as select 1; set transaction isolation level read committed; commit"),
        q("begin"),
        q("close all"),
        q("set transaction isolation level serializable"),
        q("rollback"),
        q("begin isolation level serializable; show transaction_isolation; commit"),
    ),
    "settings of a transaction by execute": (
        *(parse("set transaction read only", "s"), q("execute s"), q("begin; execute s"), q("delete from plain")),
        *(q("rollback"), parse("execute s"), bind(), execute(), SYNC, parse("set local geqo = off", "t")),
        *(q("execute t"), q("show geqo"), parse("set constraints all deferred", "r"), q("execute r")),
    ),
    "a held cursor closed by the protocol": (
        *(
            q("declare c cursor with hold for select k from notes order by k"),
            close("P", "c"),
            describe("P", "c"),
            SYNC,
        ),
        *(parse("select 1"), bind(portal="c"), execute("c"), SYNC, q("select count(*) from pg_cursors")),
    ),
    "a fetch that was parsed before its cursor, bound behind DDL": (
        *(parse("fetch 2 from c", "s"), q("begin; create temp table made (a int4)")),
        *(q("declare c cursor for table notes order by k"), bind(statement="s"), describe("P"), execute(), SYNC),
        *(describe("S", "s"), SYNC, q("rollback")),
    ),
    "a fetch described in a failed block": (
        *(q("begin; declare c cursor for table notes order by k"), parse("fetch 2 from c", "s")),
        *(bind(statement="s", portal="p"), parse("move 1 in c"), bind(portal="r"), bind(statement="nosuch"), SYNC),
        *(describe("P", "p"), SYNC, describe("P", "r"), SYNC, q("rollback")),
    ),
    "a fetch described in a failed block, parsed before its cursor": (
        *(parse("fetch 2 from c", "s"), parse("close c", "t"), q("begin; declare c cursor for table notes order by k")),
        *(bind(statement="s", portal="p"), bind(statement="t", portal="r"), bind(statement="nosuch"), SYNC),
        *(describe("P", "p"), SYNC, describe("P", "r"), SYNC, q("rollback")),
    ),
    "arguments of what is broken": (
        *(parse("insert into plain values ($1, $2) returning *", "s"), q("alter table plain add w int4")),
        *(q("execute s"), q("execute s('x', 'y')"), q("execute s(nosuch, 'y')"), q("execute s(7, 'y')")),
        *(q("begin"), q("execute s('x', 'y')"), q("rollback"), q("begin"), q("execute s(7, 'y')"), q("rollback")),
        *(q("alter table plain drop w"), q("execute s(7, 'y')"), q("delete from plain where id = 7")),
    ),
    "arguments of what is broken in a block": (
        *(q("prepare x(int4) as select * from plain where id = $1"), q("begin"), q("alter table plain add w int4")),
        *(q("savepoint a"), q("execute x('z')"), q("rollback to a"), q("execute x(1)"), q("rollback to a")),
        *(q("execute x"), q("rollback to a"), q("alter table plain rename v to w2; savepoint b"), q("execute x('z')")),
        *(q("rollback"), q("execute x(1)")),
    ),
    "a local setting beside a custom one": (
        *(q("set local search_path = pg_catalog; set custom.one = 'x'"), q("show search_path")),
        *(q("begin; set local search_path = pg_catalog; set custom.two = 'x'"), q("commit"), q("show search_path")),
    ),
    "a query behind a bind alone: set local": (
        *(parse("listen a"), bind(), q("set local geqo = off"), parse("select 1"), bind()),
        *(q("set transaction read only"), parse("select 1"), bind(), q("set constraints all immediate"), SYNC),
        *(parse("select 1"), bind(), q("set local geqo = off; show geqo"), SYNC, q("show geqo")),
    ),
    "definitions in a pipeline, and their portal": (
        *(q("begin"), parse("alter table plain add w int4"), bind(), execute(), SYNC, describe("P"), execute(), SYNC),
        *(q("rollback"), parse("alter table plain add w int4"), bind(), execute(), describe("P"), execute(), SYNC),
        *(q("alter table plain drop w"), PLAIN),
    ),
    "an execute of what is broken, described": (
        *(q("create temp table made (a int4)"), parse("select * from made", "t"), parse("execute t", "x")),
        *(q("alter table made add b text"), parse("execute t"), describe("S"), SYNC, describe("S", "x"), SYNC),
        *(parse("execute t"), bind(), describe("P"), SYNC, parse("execute x"), describe("S"), SYNC),
        *(q("deallocate t"), describe("S", "x"), SYNC, bind(statement="x"), describe("P"), SYNC),
        *(q("begin"), parse("execute x"), bind(portal="p"), describe("P", "p"), SYNC, q("rollback")),
    ),
    "what must be alone by execute": (
        *(parse("vacuum plain", "s"), q("execute s"), parse("drop index concurrently nosuch", "t"), q("execute t")),
        *(q("begin"), q("execute s"), q("rollback"), parse("execute s"), bind(), execute(), SYNC),
    ),
    "a cursor by execute": (
        *(parse("declare c cursor for select 1", "s"), parse("execute s"), bind(), execute(), SYNC, q("execute s")),
        *(q("begin; execute s"), q("fetch 1 from c"), q("commit")),
    ),
    "warnings that nobody wants": (
        *(q("commit"), q("set client_min_messages = error"), q("commit"), q("rollback"), q("begin; begin; commit")),
        *(q("begin; commit; commit"), parse("set local geqo = off"), bind(), execute(), SYNC),
        *(q("set transaction read only"), q("reset client_min_messages"), q("rollback")),
        *(q("begin; set local client_min_messages = error"), q("begin"), q("commit"), q("commit")),
        *(q("select set_config('client_min_messages', 'error', false)"), q("commit")),
    ),
    "a bind of a cursor's name, and its close": (
        *(q("declare p cursor with hold for select k from notes order by k"), q("begin")),
        *(parse("select 1"), bind(portal="p"), SYNC, describe("P", "p"), SYNC, execute("p"), SYNC),
        *(close("P", "p"), SYNC, execute("p"), SYNC, q("rollback"), q("select count(*) from pg_cursors")),
    ),
    "a bind of a cursor's name, in a pipeline": (
        *(q("declare p cursor with hold for select k from notes order by k"), parse("select 1"), bind(portal="p")),
        *(execute("p"), SYNC, execute("p", 2), SYNC, describe("P", "p"), SYNC, q("fetch 2 from p")),
        *(q("begin"), parse("select 1"), bind(portal="p"), SYNC, q("rollback"), execute("p", 2), SYNC),
        *(q("begin; savepoint a"), parse("select 1"), bind(portal="p"), SYNC, q("rollback to a"), execute("p", 2)),
        *(SYNC, q("commit"), execute("p", 1), close("P", "p"), execute("p"), SYNC, q("fetch 1 from p")),
    ),
    "a bind of a cursor's name, of the transaction": (
        *(q("begin; declare p cursor for select k from notes order by k; savepoint a"), parse("select 1")),
        *(bind(portal="p"), SYNC, describe("P", "p"), SYNC, execute("p"), SYNC, q("rollback to a"), execute("p", 2)),
        *(SYNC, parse("select 1"), bind(portal="p"), SYNC, close("P", "p"), SYNC, execute("p"), SYNC, q("rollback")),
    ),
    "a bind of a cursor's name, of a function": (
        q("begin; do $$ declare p refcursor := 'p'; begin open p for select k from notes order by k; end $$"),
        *(q("savepoint a"), parse("select 1"), bind(portal="p"), SYNC, describe("P", "p"), SYNC, execute("p"), SYNC),
        *(q("rollback to a"), execute("p", 2), SYNC, parse("select 1"), bind(portal="p"), SYNC, close("P", "p")),
        *(SYNC, execute("p"), SYNC, q("rollback")),
    ),
    "a bind of a cursor's name that the session itself answers": (
        *(q("declare p cursor with hold for select k from notes order by k"), q("begin")),
        *(parse("set geqo = off"), bind(portal="p"), SYNC, execute("p"), SYNC, close("P", "p"), SYNC, execute("p")),
        *(SYNC, q("rollback"), q("select count(*) from pg_cursors")),
    ),
}
