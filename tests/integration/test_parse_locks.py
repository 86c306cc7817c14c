"""What a Parse locks stays locked until its transaction ends, Bind or no Bind: over one shard, as in Postgres.

In all of it another client wants to alter a table, and has to wait.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.wire.frontend import Query
from waiting import eventually
from wire_client import FLUSH, SYNC, Twins, bind, describe, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Town

    from wire_client import WireClient

    Connect = Callable[..., WireClient]

TEXT = "select * from notes order by k"
ALTER = Query(b"alter table notes add column later int")
BACK = Query(b"alter table notes drop column if exists later")
WAITS = "select count(*) from pg_locks where not granted and relation = 'notes'::regclass"
BEGIN, PREPARE, NAMED = Query(b"begin"), Query(f"prepare s as {TEXT}".encode()), Query(b"execute s")
RUN = (bind(statement="s"), execute(), SYNC)
BRIEF_S = 0.5  # longer than the timeouts here


def waiting(town: Town, dsn: str) -> bool:
    with psycopg.connect(town.one if dsn == town.one else town.shards[0], autocommit=True) as direct:
        return direct.execute(WAITS).fetchone() == (1,)


def say(client: WireClient, parts: list[Any]) -> list[Any]:
    """Send what is in a list in one piece, the rest one by one; read what must come before it goes on."""
    trace = []
    for part in parts:
        if isinstance(part, str):
            trace += client.read(part)
        else:
            client.send(*(part if isinstance(part, list) else [part]))
    return trace


def altered(town: Town, dsn: str, connect: Connect, opening: list[Any], ending: list[Any]) -> list[Any]:
    """What a client hears between which's messages another one wants to alter the table; and what that one hears."""
    client, ddl = connect(dsn), connect(dsn)
    ddl.query("insert into notes values (1, 'v', 0)")
    heard = say(client, opening)
    ddl.send(ALTER)
    eventually(lambda: waiting(town, dsn), "nobody holds a lock")
    heard += [say(client, ending), ddl.read(), client.ask(*RUN), client.query("rollback")]
    ddl.ask(BACK)
    return heard


@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
@pytest.mark.parametrize(
    ("opening", "ending"),
    [
        ([[parse(TEXT, "s"), describe("S", "s"), FLUSH], "T"], [[*RUN], "Z"]),
        ([[parse(TEXT, "s"), FLUSH], "1"], [[*RUN], "Z"]),
        ([parse(TEXT, "s"), describe("S", "s"), FLUSH, "T"], [[*RUN], "Z"]),
        ([[parse(TEXT, "s"), SYNC], "Z", [describe("S", "s"), FLUSH], "T"], [[*RUN], "Z"]),
        ([[parse("select 1"), parse(TEXT, "s"), FLUSH], "1", "1"], [[SYNC], "Z"]),
        ([[parse(TEXT, "s"), FLUSH], "1"], [Query(b"select 1"), "Z"]),
        ([[parse(TEXT, "s"), FLUSH], "1"], [[parse("vacuum notes"), bind(), execute(), SYNC], "Z"]),
        ([[parse(TEXT, "s"), FLUSH], "1"], [[parse("select 1 / 0"), bind(), execute(), SYNC], "Z"]),
        ([BEGIN, "Z", [parse(TEXT, "s"), SYNC], "Z"], [[*RUN], "Z", Query(b"commit"), "Z"]),
        ([BEGIN, "Z", [parse(TEXT, "s"), FLUSH], "1"], [[*RUN], "Z", Query(b"commit"), "Z"]),
        ([BEGIN, "Z", PREPARE, "Z"], [NAMED, "Z", Query(b"commit"), "Z"]),
        (
            [Query(b"begin isolation level serializable"), "Z", [parse(TEXT, "s"), SYNC], "Z"],
            [[*RUN], "Z", Query(b"commit"), "Z"],
        ),
        ([[parse("insert into notes values ($1)", "s"), FLUSH], "1"], [[bind(b"7", statement="s"), SYNC], "Z"]),
        ([[parse(f"explain (costs off) {TEXT}", "s"), FLUSH], "1"], [[bind(statement="s"), SYNC], "Z"]),
        ([[parse(f"declare c cursor for {TEXT}", "s"), FLUSH], "1"], [[*RUN], "Z"]),
    ],
)
def test_nobody_alters_what_is_parsed(
    town_of_1: Town, connect: Connect, opening: list[Any], ending: list[Any], *, known: bool
) -> None:
    if known:
        connect(town_of_1.dsn).ask(parse(TEXT), describe("S"), SYNC)
    expected, got = (altered(town_of_1, dsn, connect, opening, ending) for dsn in (town_of_1.one, town_of_1.dsn))
    assert got == expected


@pytest.mark.parametrize("how", ["leaves", "vanishes", "is terminated"])
def test_who_is_gone_holds_nothing(pair_town: Town, connect: Connect, how: str) -> None:
    client, ddl = connect(pair_town.dsn), connect(pair_town.dsn)
    say(client, [[parse(TEXT, "s"), describe("S", "s"), FLUSH], "T"])
    ddl.send(ALTER)
    eventually(lambda: waiting(pair_town, pair_town.dsn), "nobody holds a lock")
    if how == "leaves":
        client.close()
    elif how == "vanishes":
        client.vanish()
    else:
        pair_town.direct(
            "select pg_terminate_backend(l.pid) from pg_locks l where relation = 'notes'::regclass "
            "and granted and mode = 'AccessShareLock' and pid <> pg_backend_pid()"
        )
    assert ddl.read()[-2:] == [("tag", "ALTER TABLE"), ("ready", "I")]
    assert ddl.ask(BACK)[-1] == ("ready", "I")


def test_it_is_no_idle_transaction(town_of_1: Town, connect: Connect) -> None:
    """Postgres's clocks for idle clients start with ReadyForQuery; and a cancel finds nothing that runs."""
    twins = Twins(connect(town_of_1.one), connect(town_of_1.dsn))
    twins.query("set idle_in_transaction_session_timeout = '200ms'; set idle_session_timeout = '200ms'")
    for client in (twins.one, twins.proxy):
        say(client, [[parse(TEXT, "s"), describe("S", "s"), FLUSH], "T"])
        client.cancel()
    time.sleep(BRIEF_S)
    twins.same(*RUN)
    twins.same(Query(b"set idle_session_timeout = 0"))


def test_columns_are_those_of_the_lock(town_of_1: Town, connect: Connect) -> None:
    """Somebody alters the table behind the proxy: Parse waits for that, and tells what there is then."""
    connect(town_of_1.dsn).ask(parse(TEXT), describe("S"), SYNC)
    client = connect(town_of_1.dsn)
    with psycopg.connect(town_of_1.shards[0]) as direct:
        direct.execute("alter table notes add column later int")
        client.send(parse(TEXT, "s"), describe("S", "s"), FLUSH)
        eventually(lambda: waiting(town_of_1, town_of_1.dsn), "Parse waits for no lock")
        direct.commit()
    columns = client.read("T")[-1]
    assert [column[0] for column in columns[1:]] == ["k", "v", "n", "later"]
    assert client.ask(*RUN) == [("bound",), ("tag", "SELECT 0"), ("ready", "I")]
    assert client.ask(BACK)[-1] == ("ready", "I")


@pytest.mark.parametrize("name", ["", "s"], ids=["unnamed", "named"])
@pytest.mark.parametrize("described", [(), (describe("P"),)], ids=["bound", "described"])
def test_who_parses_and_binds_at_once_is_told_of_the_new_columns(
    town_of_1: Town, connect: Connect, described: tuple[Any, ...], name: str
) -> None:
    """The Parse waits for DDL under way; nobody was told of columns that are gone."""

    def heard(dsn: str) -> list[Any]:
        client, ddl = connect(dsn), connect(dsn)
        client.ask(parse(TEXT), describe("S"), SYNC)
        ddl.query("begin")
        ddl.send(ALTER)
        ddl.read()
        client.send(parse(TEXT, name), bind(statement=name), *described, execute(), SYNC)
        eventually(lambda: waiting(town_of_1, dsn), "nobody waits")
        trace = [*ddl.query("commit"), *client.read()]
        trace += client.ask(describe("S", name), bind(statement=name), describe("P"), execute(), SYNC)
        ddl.ask(BACK)
        # The number of a column tells how many were dropped before.
        return [("columns", *(column[:2] for column in one[1:])) if one[0] == "columns" else one for one in trace]

    assert heard(town_of_1.dsn) == heard(town_of_1.one)
