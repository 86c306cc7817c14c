"""Isolation levels over several shards: one moment for a REPEATABLE READ block, wherever its level comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from decided import IDLE_RECOVERY, DecidedButNotApplied, keys_of_both_shards
from wire_client import SYNC, bind, execute, parse, sqlstates

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import MakeDatabases, StartProxy

    from tests.integration.conftest import Town
    from wire_client import Twins, WireClient

REPEATABLE = "begin isolation level repeatable read"
LEVELS = {
    "begin": (REPEATABLE,),
    "start": ("start transaction isolation level repeatable read, read only",),
    "set transaction": ("begin", "set local work_mem = '5MB'", "set transaction isolation level repeatable read"),
    "set": ("begin", "set transaction_isolation = 'repeatable read'"),
    "default": ("set default_transaction_isolation = 'repeatable read'", "begin"),
    "characteristics": ("set session characteristics as transaction isolation level repeatable read", "begin"),
    "set_config": ("select set_config('default_transaction_isolation', 'repeatable read', false)", "begin"),
    "chain": (REPEATABLE, "commit and chain"),
}


def fill(town: Town) -> None:
    with psycopg.connect(town.dsn, autocommit=True) as proxy, psycopg.connect(town.one, autocommit=True) as one:
        for client in (proxy, one):
            for key in town.spread:
                client.execute("INSERT INTO notes VALUES (%s, 'old', 0)", (key,))


def change(town: Town, sql: str) -> None:
    """Commit something in both places, past the clients under test."""
    for dsn in (town.one, town.dsn):
        with psycopg.connect(dsn, autocommit=True) as client:
            client.execute(sql.encode())


@pytest.mark.parametrize("how", LEVELS)
def test_a_block_keeps_what_it_saw_first_on_shards_that_it_has_not_used(twins: Twins, any_town: Town, how: str) -> None:
    fill(any_town)
    for text in LEVELS[how]:
        twins.query(text)
    a, b, c = any_town.spread
    twins.query(f"select v from notes where k = {a}")
    change(any_town, "UPDATE notes SET v = 'new'")
    assert twins.query(f"select v from notes where k = {b}")[1] == ("row", [b"old"])
    twins.query("select v, count(*) from notes group by v")
    twins.query("select k, v from notes order by k")
    twins.query("show transaction_isolation")
    twins.query("savepoint s")
    twins.query(f"select v from notes where k = {c}")
    twins.query("commit")
    twins.query(f"select v from notes where k = {b}")


def test_the_extended_protocol_keeps_it_as_well(twins: Twins, any_town: Town) -> None:
    fill(any_town)
    a, b, _ = any_town.spread
    twins.query(REPEATABLE)

    def read(key: int) -> list[tuple[Any, ...]]:
        return twins.same(parse("select v from notes where k = $1"), bind(str(key).encode()), execute(), SYNC)

    read(a)
    change(any_town, "UPDATE notes SET v = 'new'")
    assert ("row", [b"old"]) in read(b)
    trace = twins.same(parse("select k, v from notes order by k"), bind(), execute(), SYNC)
    assert [entry[1][1] for entry in trace if entry[0] == "row"] == [b"old"] * 3
    twins.query("commit")


def test_what_others_changed_since_cannot_be_changed(twins: Twins, any_town: Town) -> None:
    fill(any_town)
    a, b, c = any_town.spread
    for statement in (
        f"update notes set n = 1 where k = {b}",
        "update notes set n = 1",
        f"delete from notes where k = {b}",
    ):
        twins.query(REPEATABLE)
        twins.query(f"update notes set v = 'mine' where k = {a}")
        change(any_town, f"UPDATE notes SET n = n + 1 WHERE k = {b}")
        assert sqlstates(twins.query(statement)) == ["40001"]
        twins.query("commit")
    twins.query(REPEATABLE)
    for key in (a, b, c):
        twins.query(f"update notes set v = 'mine' where k = {key}")
    twins.query("commit")
    assert {v for _, v in any_town.stored()} == {"mine"}


def test_rows_of_its_own_are_seen(twins: Twins, any_town: Town) -> None:
    a, b, c = any_town.spread
    twins.query(REPEATABLE)
    twins.query(f"insert into notes values ({a}, 'a')")
    twins.query("savepoint s")
    twins.query(f"insert into notes values ({b}, 'b')")
    twins.query("select k, v from notes order by k")
    twins.query("rollback to s")
    twins.query("select k, v from notes order by k")
    twins.query(f"insert into notes values ({c}, 'c')")
    twins.query("commit and chain")
    twins.query("show transaction_isolation")
    twins.query("rollback")
    assert any_town.stored() == sorted([(a, "a"), (c, "c")])


def test_a_lock_comes_before_the_snapshot(twins: Twins, any_town: Town) -> None:
    fill(any_town)
    a, _, c = any_town.spread
    twins.query(REPEATABLE)
    twins.query("show work_mem; set local work_mem = '5MB'; savepoint s")
    twins.query("lock table plain in share mode")
    twins.same(parse("lock table notes in access share mode"), bind(), execute(), SYNC)
    change(any_town, "UPDATE notes SET v = 'new'")
    assert twins.query(f"select v from notes where k = {c}")[1] == ("row", [b"new"])
    change(any_town, "UPDATE notes SET v = 'newer'")
    assert twins.query(f"select v from notes where k = {a}")[1] == ("row", [b"new"])
    twins.query("rollback")


def test_the_level_cannot_change_after_a_query(twins: Twins, any_town: Town) -> None:
    a, _, _ = any_town.spread
    level = "set transaction isolation level"
    for text in (f"{level} repeatable read", "set transaction_isolation = 'serializable'"):
        twins.query("begin")
        twins.query(f"select v from notes where k = {a}")
        twins.query(f"{level} read committed")
        assert sqlstates(twins.query(text)) == ["25001"]
        twins.query("rollback")
    twins.query("begin; savepoint s")
    assert sqlstates(twins.query(f"{level} repeatable read")) == ["25001"]
    twins.query("rollback")
    twins.query(f"select v from notes where k = {a}; begin isolation level repeatable read; select 1")
    twins.query("rollback")
    twins.query("begin; set default_transaction_isolation = 'repeatable read'; show transaction_isolation; rollback")
    twins.query("begin; show transaction_isolation; commit")


def test_serializable_stays_on_one_shard(town: Town, connect: Callable[..., WireClient]) -> None:
    fill(town)
    client = connect(town.dsn)
    a, b, c = town.spread
    for key in (a, b, c):
        client.query("begin isolation level serializable")
        client.send(parse("select v from notes where k = $1"), bind(str(key).encode()), execute(), SYNC)
        assert ("row", [b"old"]) in client.read("Z")
        assert sqlstates(client.query(f"update notes set v = 'x' where k = {key}")) == []
        other = next(one for one in town.spread if one != key)
        assert sqlstates(client.query(f"select v from notes where k = {other}")) == ["0A000"]
        client.query("rollback")
    client.query("set default_transaction_isolation = serializable")
    assert sqlstates(client.query("select count(*) from notes")) == ["0A000"]
    assert sqlstates(client.query("update notes set v = 'x'")) == ["0A000"]
    assert client.rows(f"select v from notes where k = {b}") == [("old",)]
    client.query("reset all")
    assert client.rows("select count(*) from notes") == [("3",)]


def test_a_level_from_the_start_or_from_the_role(town: Town, connect: Callable[..., WireClient]) -> None:
    fill(town)
    _, b, _ = town.spread
    client = connect(town.dsn, options="-c default_transaction_isolation=repeatable\\ read")
    assert client.rows("select count(*), min(v) from notes") == [("3", "old")]
    client.query("begin; select 1")
    change(town, "UPDATE notes SET v = 'new'")
    assert client.rows(f"select v from notes where k = {b}") == [("old",)]
    client.query("rollback")
    client.query("begin; set default_transaction_isolation = serializable; rollback")
    assert client.rows("select min(v) from notes") == [("new",)]
    client.query("set default_transaction_isolation = 'read committed'; discard all")
    client.query("begin; select 1")
    change(town, "UPDATE notes SET v = 'newer'")
    assert client.rows(f"select v from notes where k = {b}") == [("new",)], "back to what it began with"
    client.query("rollback")


def test_at_shard_consistency_each_shard_has_a_snapshot_of_its_own(
    town: Town, connect: Callable[..., WireClient]
) -> None:
    fill(town)
    a, b, _ = town.spread
    client = connect(town.dsn)
    client.query("set pgchorus.read_consistency = shard")
    client.query(REPEATABLE)
    client.query(f"select v from notes where k = {a}")
    change(town, "UPDATE notes SET v = 'new'")
    assert client.rows(f"select v from notes where k = {b}") == [("new",)]
    assert client.rows(f"select v from notes where k = {a}") == [("old",)]
    client.query("rollback")


def test_what_is_decided_is_seen_by_a_snapshot_of_all(make_databases: MakeDatabases, start_proxy: StartProxy) -> None:
    shards = make_databases(2)
    proxy = start_proxy(shards, {"pairs": {"key": "k"}}, limits=IDLE_RECOVERY)
    keys = keys_of_both_shards()
    with psycopg.connect(proxy.dsn(shards[0].rpartition("/")[2]), autocommit=True) as client:
        client.execute("CREATE TABLE pairs (k int PRIMARY KEY, v int NOT NULL)")
        client.execute(f"INSERT INTO pairs VALUES ({keys[0]}, 0), ({keys[1]}, 0)".encode())
        DecidedButNotApplied(shards, keys, serial=1)
        client.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        assert client.execute(f"SELECT v FROM pairs WHERE k = {keys[1]}".encode()).fetchone() == (100,)
        assert client.execute(f"SELECT v FROM pairs WHERE k = {keys[0]}".encode()).fetchone() == (100,)
        client.execute("COMMIT")
