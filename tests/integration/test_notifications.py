"""LISTEN and NOTIFY between clients, whatever shards their transactions touch: heard if and only if committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.wire.frontend import Query
from wire_client import SYNC, Twins, bind, execute, parse, sqlstates

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Town

    from wire_client import WireClient

    Connect = Callable[..., WireClient]


def heard(listener: WireClient, last: str) -> list[str]:
    """Return what a listener hears up to and with the payload ``last``."""
    found: list[str] = []
    while not found or found[-1] != last:
        found.append(listener.read("A")[-1][1][4:].split(b"\0")[1].decode())
    return found


def test_a_distributed_transaction_is_heard_when_it_commits(town: Town, connect: Connect) -> None:
    listener, speaker = connect(town.dsn), connect(town.dsn)
    a, b, c = town.spread
    listener.query("listen news")
    speaker.query("begin")
    speaker.query(f"insert into notes values ({b}, 'x')")
    speaker.query("notify news, 'taken back'")
    speaker.query(f"insert into notes values ({c}, 'x')")
    speaker.query("rollback")
    speaker.query("begin")
    speaker.query(f"insert into notes values ({b}, 'x')")
    speaker.query("savepoint s; notify news, 'of a savepoint'; rollback to s")
    speaker.query("select pg_notify('news', 'committed')")
    speaker.query(f"insert into notes values ({a}, 'x'), ({c}, 'x')")
    assert speaker.query("commit")[0] == ("tag", "COMMIT")
    assert heard(listener, "committed") == ["committed"]
    assert len(town.stored()) == 3


def test_a_transaction_that_fails_at_commit_is_not_heard(town: Town, connect: Connect) -> None:
    """The constraint that fails is deferred, and another shard's."""
    listener, speaker = connect(town.dsn), connect(town.dsn)
    a, b, c = town.spread
    listener.query("listen news")
    for key in (b, c):
        speaker.query("begin")
        speaker.query(f"insert into notes values ({a}, 'x')")
        speaker.query(f"insert into children values ({key}, 1)")
        speaker.query("notify news, 'never'")
        assert sqlstates(speaker.query("commit")) == ["23503"]
    speaker.query("notify news, 'last'")
    assert heard(listener, "last") == ["last"]
    assert town.stored() == []


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_listening_begins_with_the_commit_of_a_distributed_transaction(town: Town, connect: Connect, end: str) -> None:
    listener, speaker = connect(town.dsn), connect(town.dsn)
    _, b, c = town.spread
    listener.query("begin")
    listener.query(f"insert into notes values ({b}, 'x'), ({c}, 'x')")
    listener.query("listen news")
    speaker.query("notify news, 'too early'")
    assert listener.query(end)[0] == ("tag", end.upper())
    listener.query("listen other")
    speaker.query("notify news, 'in time'")
    speaker.query("notify other, 'last'")
    assert heard(listener, "last") == (["in time", "last"] if end == "commit" else ["last"])


def test_what_one_client_listens_to_no_other_hears(narrow_town: Town, connect: Connect) -> None:
    """One link to each shard: who comes next would have the listening one."""
    for leave in ("unlisten *", "discard all", ""):
        listener = connect(narrow_town.dsn)
        listener.query("listen news")
        if leave:
            listener.query(leave)
        listener.close()
        other = connect(narrow_town.dsn)
        other.query("notify news, 'for nobody'")
        assert [entry[0] for entry in other.query("select 1")] == ["columns", "row", "tag", "ready"]
        other.close()


def test_a_trigger_may_not_notify_on_another_shard_than_home(town: Town, connect: Connect) -> None:
    """It would be heard by nobody: refused."""
    client = connect(town.dsn)
    client.query(
        "create function tells() returns trigger language plpgsql as $$ begin perform pg_notify('news', 'x');"
        " return new; end $$"
    )
    try:
        made = client.query("create trigger tells after insert on notes for each row execute function tells()")
        if not sqlstates(made):
            assert sqlstates(client.query(f"insert into notes values ({town.spread[1]}, 'x')")) == ["0A000"]
    finally:
        client.query("drop trigger if exists tells on notes")
        client.query("drop function tells()")


def test_what_a_client_says_to_itself(twins: Twins, any_town: Town, connect: Connect) -> None:
    """From the process that it knows, behind the answer, and not inside of a block."""

    def told(client: WireClient, *messages: Any) -> list[tuple[Any, ...]]:
        trace = client.ask(*messages)
        own = client.key[0].to_bytes(4, "big")
        return [(entry[0], entry[1].replace(own, b"own ")) if entry[0] == "notification" else entry for entry in trace]

    speaker = connect(any_town.one), connect(any_town.dsn)
    for text in (
        "listen ch; notify ch, '1'",
        "notify ch, '2'",
        "select pg_notify('ch', '3'), 5; set application_name = 'x'",
        "begin; notify ch, '4'",
        "notify ch, '5'; commit",
        "begin; notify ch; rollback",
    ):
        expected, got = (told(client, Query(text.encode())) for client in (twins.one, twins.proxy))
        assert got == expected
    expected, got = (
        told(client, parse("notify ch, '6'"), bind(), execute(), SYNC) for client in (twins.one, twins.proxy)
    )
    assert got == expected
    twins.query("begin; select 1")
    for client in speaker:
        client.query("notify ch, '7'")
    twins.query("select 2")
    traces = [[entry[0] for entry in client.query("commit")] for client in (twins.one, twins.proxy)]
    assert traces == [["tag", "notification", "ready"]] * 2


LISTENERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kept' AND state = 'idle'"


@pytest.mark.parametrize("keeps", ["listen news", "create temp table mine (v int)", "select pg_advisory_lock(7)"])
def test_who_waits_learns_that_its_link_is_gone(any_town: Town, connect: Connect, keeps: str) -> None:
    """As on one Postgres the session ends: it would be deaf for ever, or believe that it holds what it does not."""
    told = []
    for dsn, shards in ((any_town.one, [any_town.one]), (any_town.dsn, any_town.shards)):
        client = connect(dsn)
        client.query("set application_name = 'kept'")
        client.query(keeps)
        for shard in shards:
            with psycopg.connect(shard, autocommit=True) as direct:
                direct.execute(LISTENERS)
        fatal = client.frames(lambda kind: kind == ord("E"))[-1][1]
        assert client.socket.recv(1) == b""
        told.append(fatal)
    assert told[0] == told[1]


def test_a_link_that_is_lost_under_a_statement_ends_a_session_that_listens(any_town: Town, connect: Connect) -> None:
    told = []
    for dsn in (any_town.one, any_town.dsn):
        client = connect(dsn)
        client.query("listen news")
        client.send(Query(b"select pg_terminate_backend(pg_backend_pid())"))
        told.append(client.read_to_end())
    assert told[0] == told[1]
    assert sqlstates(told[1])[-1] == "57P01"


@pytest.mark.parametrize("how", ["a query", "behind others", "the protocol"])
@pytest.mark.parametrize("work", ["select 1", "insert into codes values (77, 'x')"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_notification_that_cannot_be_told_behind_the_end_of_a_block(
    any_town: Town, connect: Connect, how: str, work: str, end: str
) -> None:
    """The client's encoding lacks a character: it hears that the block has ended, and then that the session has."""
    made = "create table if not exists codes (id int4, v text); delete from codes"
    told = []
    for dsn, notified in ((any_town.one, any_town.one), (any_town.dsn, any_town.shards[0])):
        client = connect(dsn, client_encoding="LATIN1")
        for text in (made, "listen news", "begin", work):
            assert not sqlstates(client.query(text))
        with psycopg.connect(notified, autocommit=True) as direct:
            direct.execute("notify news, '\N{CJK UNIFIED IDEOGRAPH-65E5}'")
        messages = {
            "a query": [Query(end.encode())],
            "behind others": [Query(f"select 2; {end}".encode())],
            "the protocol": [parse(end), bind(), execute(), SYNC],
        }
        client.send(*messages[how])
        told.append(client.read_to_end())
    assert told[0] == told[1]
    assert ("tag", end.upper()) in told[1]
    assert [entry[1]["S"] for entry in told[1] if entry[0] == "error"] == ["FATAL"]


def test_what_stands_behind_such_a_commit_is_not_run(town: Town, connect: Connect) -> None:
    """One Postgres runs it; the client hears that the block is committed, and nothing else that is not so."""
    client = connect(town.dsn, client_encoding="LATIN1")
    for text in ("listen news", "begin", "select 1"):
        client.query(text)
    with psycopg.connect(town.shards[0], autocommit=True) as direct:
        direct.execute("notify news, '\N{CJK UNIFIED IDEOGRAPH-65E5}'")
    client.send(Query(b"commit; select 1"))
    told = client.read_to_end()
    assert told[0] == ("tag", "COMMIT")
    assert [(entry[1]["S"], entry[1]["C"]) for entry in told[1:]] == [("FATAL", "22P05")]
