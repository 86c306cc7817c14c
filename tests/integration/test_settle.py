"""Settle before read: a decision that one shard shows is visible on the next shard that the transaction reads."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.twophase import record
from proxy.twophase.gid import GlobalId, uuid7
from router.cluster import Database
from router.sharding import slot_of

if TYPE_CHECKING:
    from tests.conftest import MakeDatabases, StartProxy

NAMES = ("s0", "s1")
# Nothing but the statement under test may finish what is left prepared.
IDLE_RECOVERY = {"recovery": {"interval_s": 3600, "grace_s": 3600, "orphan_s": 3600}}


def keys_of_both_shards() -> tuple[int, int]:
    logical = Database("d", NAMES, 0)
    by_shard = {logical.shard_of_slot(slot_of("int4", key, logical.slots)): key for key in range(100)}
    return by_shard[0], by_shard[1]


class DecidedButNotApplied:
    """A transaction that set both rows to 100: committed on s0 with its record, prepared on s1."""

    def __init__(self, shards: list[str], keys: tuple[int, int], serial: int) -> None:
        self.gid = GlobalId("test", "s0", uuid7(time.time_ns() // 1_000_000, serial))
        with ExitStack() as stack:
            point, participant = (stack.enter_context(closing(psycopg.connect(dsn, autocommit=True))) for dsn in shards)
            for connection, key in ((point, keys[0]), (participant, keys[1])):
                connection.execute("BEGIN")
                connection.execute("UPDATE pairs SET v = v + 100 WHERE k = %s", (key,))
            xids = [int(one.execute("SELECT pg_current_xact_id()::text").fetchone()[0]) for one in (point, participant)]  # type: ignore[index]
            participant.execute(f"PREPARE TRANSACTION '{self.gid.at('s1')}'")
            key = point.execute(record.READ_KEY).fetchone()[0]  # type: ignore[index]
            epoch = point.execute(record.READ_EPOCH).fetchone()[0]  # type: ignore[index]
            point.execute(record.decide_sql(self.gid, xids[0], [("s1", xids[1])], epoch, bytes(key)))
            point.execute("COMMIT")


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
