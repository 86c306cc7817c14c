"""Clients that are idle for too long, and transactions that last too long: ended at once, as one Postgres ends them."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.wire.frontend import Query
from waiting import eventually
from wire_client import FLUSH, SYNC, Twins, bind, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import Trace, WireClient

    Connect = Callable[..., WireClient]

IDLE = "set idle_in_transaction_session_timeout = '200ms'"
LONG = "set transaction_timeout = '200ms'"
AWAY = "set idle_session_timeout = '200ms'"
BUSY_S = 0.5  # longer than each of them
# For a block that is idle between statements before it is switched off: no pause of a busy machine may be so long.
SLOW_IDLE = "set idle_in_transaction_session_timeout = '1500ms'"
SLOWLY_BUSY_S = 2.0


def last_words(client: WireClient) -> Trace:
    """What the server says at last, of its own accord."""
    return client.read_to_end()


def end_alike(twins: Twins, sqlstate: str) -> None:
    """Both servers have ended the connection by themselves, with the same words."""
    expected, got = last_words(twins.one), last_words(twins.proxy)
    assert got == expected
    assert got[-1][0] == "error"
    assert (got[-1][1]["S"], got[-1][1]["C"]) == ("FATAL", sqlstate)


@pytest.mark.parametrize(
    ("sqlstate", "texts"),
    [
        ("25P03", [IDLE, "begin"]),
        ("25P03", [IDLE, "begin", "select 1 / 0"]),
        ("25P03", [IDLE, "begin", "insert into notes select k from generate_series(1, 30) k"]),
        ("25P03", ["begin", "set local idle_in_transaction_session_timeout = '200ms'", "select 1"]),
        ("25P03", ["begin", "savepoint a", IDLE, "savepoint b", "reset all", "rollback to b"]),
        ("25P03", ["begin", "select set_config('idle_in_transaction_session_timeout', '200', true)"]),
        (
            "25P03",
            [f"{IDLE}; set transaction_timeout = '1min'", "begin isolation level repeatable read", "table notes"],
        ),
        ("25P04", [LONG, "begin"]),
        ("25P04", [f"{LONG}; {IDLE}", "begin"]),
        ("25P04", ["begin", LONG, "set local transaction_timeout = '10s'"]),
        ("25P04", [LONG, "begin", "savepoint a", "select 1 / 0", "rollback to a", LONG]),
        ("25P04", [LONG, "begin", "commit and chain"]),
        ("57P05", [AWAY]),
        ("57P05", ["begin", AWAY, "insert into notes values (1), (2), (3)", "commit"]),
        ("57P05", ["select set_config('idle_session_timeout', '200ms', false)"]),
        ("57P05", [AWAY, "begin", "set local idle_session_timeout = 0", "rollback"]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_the_session_ends_at_once(twins: Twins, sqlstate: str, texts: list[str]) -> None:
    for text in texts:
        twins.query(text)
    end_alike(twins, sqlstate)


@pytest.mark.parametrize(
    "texts",
    [
        [IDLE],
        [IDLE, "begin", "set local idle_in_transaction_session_timeout = 0", "commit", "begin", "rollback"],
        [LONG, "begin", "select 1 / 0"],
        [LONG, "begin", "savepoint a", "select 1 / 0", "rollback to a"],
        [LONG, "begin", "rollback"],
        ["begin", "savepoint a", LONG, "rollback to a"],
        ["begin", LONG, "set transaction_timeout = 0"],
        ["begin", f"{LONG}; {IDLE}", "rollback", "begin"],
        [AWAY, "begin"],
        [AWAY, "reset idle_session_timeout"],
        [AWAY, "discard all"],
        [f"set transaction_timeout = '100ms'; {IDLE}", "begin", "select 1 / 0"],
    ],
    ids=", ".join,
)
def test_the_session_lives(twins: Twins, texts: list[str]) -> None:
    for text in texts:
        twins.query(text)
    time.sleep(BUSY_S)  # this is what is tested: nobody minds
    twins.query("select current_setting('idle_session_timeout'), current_setting('transaction_timeout')")


@pytest.mark.parametrize("lasts", ["true", "false"])
@pytest.mark.parametrize("before", [SLOW_IDLE, "select times('1500ms', false)", "begin; select times('1500ms', true)"])
def test_a_function_switches_it_off_in_a_block(twins: Twins, before: str, lasts: str) -> None:
    twins.query(
        "create function times(t text, l bool) returns text language plpgsql as"
        " $$ begin return set_config('idle_in_transaction_session_timeout', t, l); end $$"
    )
    for text in before.split("; "):
        twins.query(text)
    if not before.startswith("begin"):
        twins.query("begin")
    twins.query(f"select times('0', {lasts})")
    time.sleep(SLOWLY_BUSY_S)  # this is what is tested: nobody minds
    twins.query("select 1")
    twins.query("show idle_in_transaction_session_timeout")
    twins.query("commit")
    twins.query("show idle_in_transaction_session_timeout")
    twins.query("reset idle_in_transaction_session_timeout")
    twins.query("drop function times(text, bool)")


def test_a_pipeline_that_is_not_over_is_not_idle(twins: Twins) -> None:
    twins.query(f"{IDLE}; {AWAY}")
    twins.same(parse("select k from notes where k = $1"), bind(b"1"), execute(), FLUSH, until="C")
    time.sleep(BUSY_S)  # as above
    twins.same(SYNC)
    end_alike(twins, "57P05")


def test_a_statement_ends_with_its_transaction(twins: Twins) -> None:
    twins.query("insert into notes select k from generate_series(1, 30) k")
    twins.query(LONG)
    for client in (twins.one, twins.proxy):
        client.send(Query(b"select sum(k), max(pg_sleep(30)::text) from notes"))
    # Over several shards no row description has come: nothing is known of the answer before all have spoken.
    assert last_words(twins.proxy)[-1] == last_words(twins.one)[-1]


def test_who_works_on_one_shard_is_not_idle_on_the_others(town: Town, connect: Connect) -> None:
    """Each shard's own clock would say so, and end its part of the transaction."""
    first, second, _ = town.spread
    client = connect(town.dsn)
    client.query(IDLE)
    client.query("begin")
    client.query(f"insert into notes values ({first}, 'x')")
    for _ in range(4):
        client.query(f"insert into notes values ({second}, pg_sleep(0.1)::text) on conflict do nothing")
    assert client.rows("show idle_in_transaction_session_timeout") == [("200ms",)]
    assert client.query("commit")[0] == ("tag", "COMMIT")
    assert client.rows("show idle_in_transaction_session_timeout") == [("200ms",)]
    assert [row[0] for row in town.stored()] == sorted((first, second))


def test_nothing_is_left_behind(twins: Twins, any_town: Town) -> None:
    """What an idle transaction had written is gone on every shard, and its locks are."""
    twins.query(IDLE)
    twins.query("begin")
    twins.query("insert into notes select k from generate_series(1, 30) k")
    end_alike(twins, "25P03")
    eventually(lambda: not any_town.busy())
    assert not any_town.stored()


@contextmanager
def default(dsns: list[str], setting: str) -> Iterator[None]:
    """ALTER DATABASE ... SET on every server."""
    changed = []
    for dsn in dsns:
        with psycopg.connect(dsn, autocommit=True) as direct:
            direct.execute(f"alter database {dsn.rpartition('/')[2]} set {setting}".encode())
            changed.append(dsn)
    try:
        yield
    finally:
        for dsn in changed:
            with psycopg.connect(dsn, autocommit=True) as direct:
                direct.execute(f"alter database {dsn.rpartition('/')[2]} reset all".encode())


def test_a_default_of_the_database(town: Town, connect: Connect) -> None:
    def ends() -> bool:
        client = connect(town.dsn)
        client.query("begin")
        client.socket.settimeout(2 * BUSY_S)
        try:
            return last_words(client)[-1][1]["C"] == "25P03"
        except TimeoutError:
            return False

    with default([town.one, *reversed(town.shards)], "idle_in_transaction_session_timeout = '200ms'"):
        eventually(ends)
        twins = Twins(connect(town.one), connect(town.dsn))
        twins.query("begin")
        end_alike(twins, "25P03")
        twins = Twins(connect(town.one), connect(town.dsn, options="-c idle_in_transaction_session_timeout=0"))
        twins.proxy.query("begin")
        time.sleep(BUSY_S)  # as above
        assert twins.proxy.query("commit")[0] == ("tag", "COMMIT")
    eventually(lambda: not ends())


def test_a_pooled_link_does_not_end_others(narrow_town: Town, connect: Connect) -> None:
    """The server closes the link that an idle client's settings are on: whoever has it next does not notice."""
    client, other = connect(narrow_town.dsn), connect(narrow_town.dsn)
    for _ in range(3):
        client.query("set idle_session_timeout = '100ms'")
        client.rows("select 1")
        client.query("set idle_session_timeout = 0")
        client.query("set idle_session_timeout = '100ms'; select 1")
        eventually(lambda: not narrow_town.on_shard(0, PRESENT), "the link is still there")
        assert other.rows("select 1") == [("1",)]
        client = connect(narrow_town.dsn)


PRESENT = """
    SELECT FROM pg_stat_activity WHERE datname = current_database() AND usename = 'postgres'
    AND query LIKE '%idle_session_timeout%100ms%' AND pid <> pg_backend_pid()
"""


def test_the_lane_is_no_way_around(lane: object, connect: Connect) -> None:
    town: Town = lane.town  # type: ignore[attr-defined]
    first, second, _ = town.spread
    client = connect(town.dsn)
    client.query(f"{IDLE}; {AWAY}")
    for _ in range(3):
        for text in (
            "begin",
            f"update notes set n = 1 where k = {first}",
            f"update notes set n = 1 where k = {second}",
        ):
            client.query(text)
        client.query("commit")
        client.query(f"select * from notes where k = {first}")
    assert last_words(client)[-1][1]["C"] == "57P05"
    client = connect(town.dsn)
    client.query(IDLE)
    for _ in range(3):
        client.query("begin")
        client.query("commit")
    client.query("begin")
    assert last_words(client)[-1][1]["C"] == "25P03"


@pytest.mark.parametrize("name", ["idle_in_transaction_session_timeout", "transaction_timeout", "idle_session_timeout"])
@pytest.mark.parametrize("how", ["start", "set", "local"])
@pytest.mark.parametrize(
    "hidden", ["do $$ begin raise notice 'n' ; end $$", "do $$ begin set work_mem = '5MB'; end $$"]
)
def test_code_that_nobody_looks_through_runs_beside_them(
    pair_town: Town, connect: Connect, name: str, how: str, hidden: str
) -> None:
    """Over one shard the link is asked afterwards what is set, and goes back: once."""
    for _ in range(3):  # there are two links
        started = {name: "20s"} if how == "start" else {}
        twins = Twins(connect(pair_town.one, **started), connect(pair_town.dsn, **started))
        other = connect(pair_town.dsn)
        if how == "set":
            twins.query(f"set {name} = '20s'")
        texts = [hidden, f"show {name}", "show work_mem", hidden]
        if how == "local":
            texts = ["begin", f"set local {name} = '20s'", hidden, f"show {name}", "commit", f"show {name}"]
        for text in (*texts, "select 1", "begin", "select 2", "commit", "listen x", hidden, "select 3", "unlisten *"):
            twins.query(text)
            assert other.rows("select 7") == [("7",)]
        for client in (twins, other):
            client.close()
