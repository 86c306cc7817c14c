"""A cancel finds what runs, whatever that is at the moment; what follows is not touched."""

from __future__ import annotations

import select
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.wire.frames import frame
from proxy.wire.frontend import Query
from waiting import eventually
from wire_client import FLUSH, SYNC, bind, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Town

    from wire_client import WireClient

    Connect = Callable[..., WireClient]

CANCELLED = ["57014"]
SLEEPING = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
WAITING = """
    SELECT FROM pg_locks WHERE NOT granted AND relation = 'pgchorus.fence'::regclass
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def errors(trace: list[tuple[Any, ...]]) -> list[str]:
    return [entry[1]["C"] for entry in trace if entry[0] == "error"]


def sleeps(town: Town, *, direct: bool) -> bool:
    if not direct:
        return any(town.everywhere(SLEEPING))
    with psycopg.connect(town.one) as one:
        return bool(one.execute(SLEEPING.encode()).fetchall())


def answers(client: WireClient) -> bool:
    return bool(select.select([client.socket], [], [], 0)[0])


@pytest.mark.parametrize("block", [False, True])
def test_in_the_middle_of_copy_in(any_town: Town, connect: Connect, *, block: bool) -> None:
    """As on one server, the shard looks up when more rows come."""
    for dsn in (any_town.one, any_town.dsn):
        client = connect(dsn)
        if block:
            client.query("begin")
        client.send(Query(b"copy notes (k, v) from stdin"))
        client.read("G")
        client.cancel()
        keys = iter(range(1, 1_000_000))

        def more(client: WireClient = client, keys: Any = keys) -> bool:
            client.send(*(frame(b"d", b"%d\tx\n" % next(keys)) for _ in range(10)))
            return answers(client)

        eventually(more)
        trace = client.read()
        assert errors(trace) == CANCELLED
        assert trace[-1] == ("ready", "E" if block else "I")
        client.query("rollback")
        assert client.rows("select count(*) from notes") == [("0",)]


def test_in_the_middle_of_copy_out(any_town: Town, connect: Connect) -> None:
    values = ", ".join(f"({key}, 'x')" for key in range(1, 30))
    for dsn in (any_town.one, any_town.dsn):
        client = connect(dsn)
        client.query("insert into notes values " + values)
        client.send(Query(b"copy (select k, repeat(v, 1000) from notes, generate_series(1, 1000000) g) to stdout"))
        client.read("d")
        client.cancel()
        trace = client.read()
        assert errors(trace) == CANCELLED
        assert trace[-1] == ("ready", "I")
        assert client.rows("select count(*) from notes") == [("29",)]
        client.query("delete from notes")


def test_in_the_middle_of_a_pipeline(any_town: Town, connect: Connect) -> None:
    """What stands before the next Sync is skipped; what comes behind it runs."""
    for dsn in (any_town.one, any_town.dsn):
        client = connect(dsn)
        insert = "insert into notes values ({}, 'x')"
        client.send(
            *(parse(insert.format(1)), bind(), execute()),
            *(parse("select pg_sleep(60)"), bind(), execute()),
            *(parse(insert.format(2)), bind(), execute(), SYNC),
            *(parse(insert.format(3)), bind(), execute(), SYNC),
        )
        eventually(partial(sleeps, any_town, direct=dsn == any_town.one))
        client.cancel()
        assert errors(client.read()) == CANCELLED
        assert errors(client.read()) == []
        assert client.rows("select k from notes") == [("3",)]
        client.query("delete from notes")


@pytest.mark.parametrize("begin", ["", "begin isolation level repeatable read"])
def test_while_the_fence_is_waited_for(town: Town, connect: Connect, begin: str) -> None:
    client = connect(town.dsn)
    client.query(begin)
    with psycopg.connect(town.shards[1]) as holder:
        holder.execute("lock table pgchorus.fence in row exclusive mode")
        client.send(Query(b"select count(*) from notes"))
        eventually(lambda: any(town.everywhere(WAITING)))
        client.cancel()
        assert errors(client.read()) == CANCELLED
        holder.rollback()
    client.query("rollback")
    assert client.rows("select count(*) from notes") == [("0",)]
    client.send(FLUSH, SYNC)
    assert client.read() == [("ready", "I")]


@pytest.mark.parametrize("messages", ["simple", "extended"])
@pytest.mark.parametrize("more", ["", "select v from notes where k = {other}", "show pgchorus.transaction_id"])
def test_while_commit_waits_for_a_constraint(any_town: Town, connect: Connect, messages: str, more: str) -> None:
    """With one writer it is Postgres's own COMMIT, which a cancel ends there: it has rolled back."""
    key, other = any_town.keys(1)[0], any_town.keys(2)[0]
    waits = """SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"""
    for dsn in (any_town.one, any_town.dsn):
        if dsn == any_town.one and "show" in more:
            continue
        client, holder = connect(dsn), connect(dsn)
        client.query(f"insert into parents values ({key}, 'p')")
        client.query(f"begin; insert into children values ({key}, 1)")
        if more:
            client.query(more.format(other=other))
        holder.query(f"begin; delete from parents where id = {key}")
        if messages == "simple":
            client.send(Query(b"commit"))
        else:
            client.send(parse("commit"), bind(), execute(), SYNC)
        eventually(lambda: any(any_town.direct_rows(waits)), "COMMIT does not wait")
        client.cancel()
        trace = client.read()
        assert errors(trace) == CANCELLED
        assert trace[-1] == ("ready", "I")
        holder.query("rollback")
        assert client.rows("select count(*) from children") == [("0",)]
        assert len(client.rows(f"select * from parents where id = {key}")) == 1


def test_not_while_a_commit_of_several_writers_waits(town: Town, connect: Connect) -> None:
    """A cancel could make a success of what no standby has prepared."""
    a, b, _ = town.spread
    client, holder = connect(town.dsn), connect(town.dsn)
    client.query(f"insert into parents values ({a}, 'p')")
    client.query(f"begin; insert into children values ({a}, 1); insert into notes values ({b}, 'x')")
    holder.query(f"begin; delete from parents where id = {a}")
    client.send(Query(b"commit"))
    waits = """SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"""
    eventually(lambda: any(town.everywhere(waits)), "COMMIT does not wait")
    client.cancel()
    assert not answers(client)
    holder.query("rollback")
    assert ("tag", "COMMIT") in client.read()
    assert client.rows("select count(*) from children") == [("1",)]


@pytest.mark.parametrize(
    "before", ["begin; select count(*) from notes", "create temp table tt (a int)", "listen x", ""]
)
def test_a_cancel_that_is_over_does_not_hit_what_follows(any_town: Town, connect: Connect, before: str) -> None:
    """As of Postgres: whoever waits until the connection of the cancel is closed may go on."""
    for dsn in (any_town.one, any_town.dsn):
        client = connect(dsn)
        in_block = before.startswith("begin")
        for turn in range(60):
            if in_block or not turn:
                client.query(before)
            client.send(Query(b"select sum(g) from generate_series(1, %d) g" % (3_000 * (1 + turn % 9))))
            client.cancel()
            if not errors(client.read()):
                for _ in range(3):
                    assert client.rows("select sum(g) from generate_series(1, 30000) g") == [("450015000",)]
            if in_block:
                client.query("rollback")
        client.close()


@pytest.mark.parametrize("before", ["create temp table tt (a int)", ""])
def test_a_cancel_behind_copy_fail_leaves_the_session_as_it_is(any_town: Town, connect: Connect, before: str) -> None:
    """As asyncpg gives up a COPY: CopyFail and a cancel, then the next statement."""
    for dsn in (any_town.one, any_town.dsn):
        client = connect(dsn)
        client.query(before)
        for _ in range(40):
            client.send(Query(b"copy notes (k, v) from stdin"))
            client.read("G")
            client.send(frame(b"d", b"1\t" + b"x" * 100_000 + b"\n"), frame(b"f", b"no more\0"))
            client.cancel()
            assert errors(client.read()) == CANCELLED
            assert client.rows("select count(*) from notes") == [("0",)]
            if before:
                assert client.rows("select count(*) from tt") == [("0",)]
        client.close()
