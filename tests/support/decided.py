"""A transaction over two shards that is decided and not yet applied on one of them, made without a proxy."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing

import psycopg

from proxy.twophase import record
from proxy.twophase.gid import GlobalId, uuid7
from router.cluster import Database
from router.sharding import slot_of

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
