"""Sequences about portals of statements that are about the session itself, over one shard."""

from __future__ import annotations

from typing import Any

from proxy.wire.frontend import Bind, Close, Describe, Execute, Parse
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

_NO_NAME = b"\xff"
#: Names that are none in the client's encoding.
UNREADABLE: dict[str, tuple[Any, ...]] = {
    "of a Parse": (Parse(_NO_NAME, b"select 1", ()), SYNC, PLAIN),
    "of a Parse with a wrong text": (Parse(_NO_NAME, b"selec \xfe", ()), SYNC, parse("selec", "s"), SYNC),
    "behind others": (parse("select 1"), bind(), execute(), Parse(_NO_NAME, b"select 1", ()), bind(), SYNC, PLAIN),
    "of a Bind": (parse("select 1"), Bind(b"", _NO_NAME, (), (), ()), execute(), SYNC),
    "of a Bind's portal": (parse("select 1"), Bind(b"\xfe", _NO_NAME, (), (), ()), execute(), SYNC),
    "of a Describe": (Describe(b"S", _NO_NAME), SYNC, Describe(b"P", _NO_NAME), SYNC),
    "of an Execute": (Execute(_NO_NAME, 0), SYNC),
    "of a Close": (q("begin"), Close(b"S", _NO_NAME), SYNC, Close(b"P", _NO_NAME), SYNC, q("rollback")),
    "in pieces": tuple(
        message
        for name in (b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3", b"a\xe2\x82", b"a\xc0\x80")
        for message in (Parse(name, b"select 1", ()), SYNC)
    ),
    "in WIN1252": (q("set client_encoding = win1252"), Parse(b"\x81", b"select 1", ()), SYNC),
    "in EUC_KR": (q("set client_encoding = euc_kr"), Parse(b"\xa1", b"select 1", ()), SYNC),
    "in SQL_ASCII": (q("set client_encoding = sql_ascii"), Parse(_NO_NAME, b"select 1", ()), SYNC),
    "no such thing": (Parse("ä".encode(), b"select 1", ()), Bind("ö".encode(), "ä".encode(), (), (), ()),
                      Execute("ö".encode(), 0), Close(b"P", "ö".encode()), SYNC, Execute("ö".encode(), 0), SYNC),
}  # fmt: skip
