"""A COMMIT over several shards that waits at its commit point, for longer than recovery leaves orphans alone."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg

from proxy import commands
from proxy.config import load
from waiting import eventually

if TYPE_CHECKING:
    import pytest

    from tests.integration.conftest import Town

DRAWS = 40  # of the commit point, among two
# Seconds. Recovery waits for one (recovery.orphan_s).
OLD = 1.1
PREPARED = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
AGED = f"{PREPARED} AND prepared < clock_timestamp() - interval '{OLD} s'"
WAITING = """SELECT FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%SET CONSTRAINTS%'"""


def test_a_foreign_key_that_waits_at_the_commit_point_ends_no_commit(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    a, _, c = town.spread
    with psycopg.connect(town.dsn, autocommit=True) as client:
        client.execute("INSERT INTO parents VALUES (%s, 'p')", (c,))
        client.execute("INSERT INTO notes VALUES (%s, 'x', 0)", (a,))
    with psycopg.connect(town.dsn) as one, psycopg.connect(town.dsn) as other, ThreadPoolExecutor(1) as thread:
        for draw in range(DRAWS):
            one.execute("UPDATE notes SET n = n + 1 WHERE k = %s", (a,))
            one.execute("INSERT INTO children VALUES (%s, %s)", (c, draw))  # its foreign key is looked at in COMMIT
            other.execute("DELETE FROM parents WHERE id = %s", (c,))
            commit = thread.submit(one.commit)
            eventually(lambda: town.on_shard(2, WAITING), "the foreign key does not wait")
            # Is the first shard a participant, or the commit point? One is prepared, the other has done its step 1.
            eventually(lambda: town.on_shard(0, PREPARED) or ready(town), "nothing happens on the first shard")
            at_commit_point = bool(town.on_shard(0, PREPARED))
            if at_commit_point:
                eventually(lambda: town.on_shard(0, AGED), "it does not get older")
                assert asyncio.run(commands.recover(load(town.process.config))) == 1
                assert "undecided, left alone for now: pgchorus:test:s2:" in capsys.readouterr().out
            assert not commit.done()
            other.rollback()
            commit.result()
            if at_commit_point:
                assert town.stored("SELECT parent, id FROM children") == [(c, number) for number in range(draw + 1)]
                assert town.stored("SELECT k, n FROM notes") == [(a, draw + 1)]
                return
    raise AssertionError(f"the second shard was no commit point in {DRAWS} commits")


def ready(town: Town) -> bool:
    # Bound or as one text: the limit on its transaction is the last thing that step 1 does.
    return bool(
        town.on_shard(
            0,
            "SELECT FROM pg_stat_activity WHERE datname = current_database() "
            "AND state = 'idle in transaction' AND query LIKE '%transaction_timeout%'",
        )
    )
