"""Settle before read: a decision that one shard shows is visible on the next shard that the transaction reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from decided import IDLE_RECOVERY, DecidedButNotApplied, keys_of_both_shards

if TYPE_CHECKING:
    from tests.conftest import MakeDatabases, StartProxy


@pytest.mark.parametrize("prepare", [False, True], ids=["simple", "extended"])
def test_a_read_on_the_next_shard_sees_what_the_first_one_showed(
    make_databases: MakeDatabases, start_proxy: StartProxy, *, prepare: bool
) -> None:
    shards = make_databases(2)
    proxy = start_proxy(shards, {"pairs": {"key": "k"}}, limits=IDLE_RECOVERY)
    dsn = proxy.dsn(shards[0].rpartition("/")[2])
    keys = keys_of_both_shards()
    with psycopg.connect(dsn, autocommit=True) as client:
        client.execute("CREATE TABLE pairs (k int PRIMARY KEY, v int NOT NULL)")
        client.execute(f"INSERT INTO pairs VALUES ({keys[0]}, 0), ({keys[1]}, 0)")

        def read(key: int) -> int:
            if prepare:
                row = client.execute("SELECT v FROM pairs WHERE k = %s", (key,), prepare=True).fetchone()
            else:
                row = client.execute(f"SELECT v FROM pairs WHERE k = {key}").fetchone()
            assert row is not None
            return int(row[0])

        DecidedButNotApplied(shards, keys, serial=1)
        client.execute("SET pgchorus.read_consistency = shard")
        with client.transaction():
            assert [read(keys[0]), read(keys[1])] == [100, 0], "the trap must be there to be avoided"
        client.execute("SET pgchorus.read_consistency = snapshot")
        with client.transaction():
            assert [read(keys[0]), read(keys[1])] == [100, 100]


def test_an_update_of_several_shards_finds_rows_that_a_decided_transaction_made(
    make_databases: MakeDatabases, start_proxy: StartProxy
) -> None:
    shards = make_databases(2)
    proxy = start_proxy(shards, {"pairs": {"key": "k"}}, limits=IDLE_RECOVERY)
    dsn = proxy.dsn(shards[0].rpartition("/")[2])
    keys = keys_of_both_shards()
    with psycopg.connect(dsn, autocommit=True) as client:
        client.execute("CREATE TABLE pairs (k int PRIMARY KEY, v int NOT NULL)")
        client.execute(f"INSERT INTO pairs VALUES ({keys[0]}, 0), ({keys[1]}, 0)")
        DecidedButNotApplied(shards, keys, serial=2)
        assert client.execute("UPDATE pairs SET v = v + 1 WHERE v = 100").rowcount == len(shards)
        assert client.execute("SELECT v FROM pairs").fetchall() == [(101,), (101,)]
