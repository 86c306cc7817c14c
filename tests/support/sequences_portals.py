"""Sequences about portals of statements that are about the session itself, over one shard."""

from __future__ import annotations

from typing import Any

from transcripts import PLAIN, q
from wire_client import SYNC, bind, close, describe, execute, parse

BEGIN, ROLLBACK = q("begin"), q("rollback")
FETCH, MOVE = q("fetch 1 from p"), q("move all in p")
CURRENT_OF = q("delete from plain where current of p")
ASKS = (FETCH, MOVE, CURRENT_OF)
RUN = ("set geqo = off", "savepoint a", "begin", "show geqo")
OWN = (
    "begin", "commit", "set geqo = off", "reset all", "show geqo", "savepoint a", "prepare x as select 1",
    "deallocate all", "", "-- nothing", "listen l", "vacuum plain",
)  # fmt: skip
PREPARED = q("prepare x(int4) as select id + $1 from plain order by id")
OF_EXECUTE = (PREPARED, BEGIN, parse("execute x(4)"), bind(portal="p"))
END = (ROLLBACK, q("deallocate all"))


def _of(own: str, asks: Any, *then: Any) -> tuple[Any, ...]:
    return BEGIN, parse(own), bind(portal="p"), *then, SYNC, asks, ROLLBACK


NAMED: dict[str, tuple[Any, ...]] = {
    **{f"{asks.text.decode()}, bound to {own or 'nothing'}": _of(own, asks) for own in OWN for asks in ASKS},
    **{f"{asks.text.decode()}, has run {own}": _of(own, asks, execute("p")) for own in RUN for asks in ASKS},
    "fetch behind a Bind alone": (parse("begin"), bind(portal="p"), FETCH, SYNC),
    "fetch by the protocol": (
        BEGIN, parse("set geqo = off"), bind(portal="p"), parse("fetch 1 from p"), describe("S"), bind(), describe("P"),
        execute(), SYNC, ROLLBACK,
    ),
    "current of, by the protocol": (
        BEGIN, parse("set geqo = off"), bind(portal="p"), parse("delete from notes where current of p returning k"),
        describe("S"), bind(), describe("P"), execute(), SYNC, ROLLBACK,
    ),
    "current of, in no row's reach": (
        BEGIN, parse("set geqo = off"), bind(portal="p"), SYNC,
        q("delete from plain where current of p and 1 = 0"), ROLLBACK,
    ),
    "one that a fetch has broken": (
        BEGIN, parse("set geqo = off"), bind(portal="p"), SYNC, q("savepoint a"), FETCH, q("rollback to a"),
        execute("p"), SYNC, ROLLBACK,
    ),
    "fetch by a function": (
        BEGIN, parse("set geqo = off"), bind(portal="p"), SYNC,
        q("do $$ declare r refcursor = 'p'; x int; begin fetch r into x; end $$"), ROLLBACK,
    ),
    "fetch from EXECUTE": (*OF_EXECUTE, SYNC, FETCH, FETCH, q("fetch all from p"), MOVE, execute("p"), SYNC, *END),
    "move in EXECUTE": (*OF_EXECUTE, SYNC, q("move 1 in p"), FETCH, q("close p"), FETCH, *END),
    "close of EXECUTE, fetched from": (*OF_EXECUTE, SYNC, FETCH, close("P", "p"), SYNC, FETCH, *END),
    "current of EXECUTE": (*OF_EXECUTE, SYNC, CURRENT_OF, *END),
    "fetch from EXECUTE that has run": (*OF_EXECUTE, execute("p"), SYNC, FETCH, q("fetch backward 1 from p"), *END),
    "fetch from EXECUTE in one pipeline": (
        PREPARED, parse("execute x(4)"), bind(portal="p"), parse("fetch 1 from p"), describe("S"), bind(),
        describe("P"), execute(), SYNC, PLAIN, *END,
    ),
    "fetch from EXECUTE, in binary": (
        PREPARED, BEGIN, parse("execute x(4)"), bind(portal="p", results=(1,)), parse("fetch 1 from p"), bind(),
        execute(), SYNC, *END,
    ),
    "fetch from EXECUTE behind its Bind": (PREPARED, parse("execute x(4)"), bind(portal="p"), FETCH, PLAIN, SYNC, *END),
    "fetch from EXECUTE of what is gone": (*OF_EXECUTE, SYNC, q("deallocate x"), FETCH, *END),
    "fetch from EXECUTE with a wrong argument": (
        PREPARED, BEGIN, parse("execute x(1/0)"), bind(portal="p"), SYNC, FETCH, *END,
    ),
    "fetch from EXECUTE that writes": (
        q("prepare x as insert into plain values (9, 'nine') returning id"), BEGIN, parse("execute x"),
        bind(portal="p"), SYNC, FETCH, FETCH, q("commit"), PLAIN, *END,
    ),
    "fetch from EXECUTE without rows": (
        q("prepare x as insert into plain values (9, 'nine')"), BEGIN, parse("execute x"), bind(portal="p"), SYNC,
        FETCH, q("commit"), PLAIN, *END,
    ),
}  # fmt: skip
