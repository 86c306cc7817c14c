"""Settle before read: a decision that one shard shows is visible on the next shard that the transaction reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from decided import IDLE_RECOVERY, DecidedButNotApplied, keys_of_both_shards

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDatabases, StartProxy


KEYS = keys_of_both_shards()


@pytest.fixture
def shards(make_databases: MakeDatabases) -> list[str]:
    return make_databases(2)


@pytest.fixture
def client(shards: list[str], start_proxy: StartProxy) -> Iterator[psycopg.Connection[Any]]:
    """A client of a proxy that recovers nothing, and a row on each shard."""
    proxy = start_proxy(shards, {"pairs": {"key": "k"}}, limits=IDLE_RECOVERY)
    with psycopg.connect(proxy.dsn(shards[0].rpartition("/")[2]), autocommit=True) as client:
        client.execute("CREATE TABLE pairs (k int PRIMARY KEY, v int NOT NULL)")
        client.execute(f"INSERT INTO pairs VALUES ({KEYS[0]}, 0), ({KEYS[1]}, 0)")
        yield client


@pytest.mark.parametrize("prepare", [False, True], ids=["simple", "extended"])
def test_a_read_on_the_next_shard_sees_what_the_first_one_showed(
    client: psycopg.Connection[Any], shards: list[str], *, prepare: bool
) -> None:
    def read(key: int) -> int:
        if prepare:
            row = client.execute("SELECT v FROM pairs WHERE k = %s", (key,), prepare=True).fetchone()
        else:
            row = client.execute(f"SELECT v FROM pairs WHERE k = {key}".encode()).fetchone()
        assert row is not None
        return int(row[0])

    DecidedButNotApplied(shards, KEYS, serial=1)
    client.execute("SET pgchorus.read_consistency = shard")
    with client.transaction():
        assert [read(KEYS[0]), read(KEYS[1])] == [100, 0], "the trap must be there to be avoided"
    client.execute("SET pgchorus.read_consistency = snapshot")
    with client.transaction():
        assert [read(KEYS[0]), read(KEYS[1])] == [100, 100]


def test_an_update_of_several_shards_finds_rows_that_a_decided_transaction_made(
    client: psycopg.Connection[Any], shards: list[str]
) -> None:
    DecidedButNotApplied(shards, KEYS, serial=2)
    assert client.execute("UPDATE pairs SET v = v + 1 WHERE v = 100").rowcount == len(shards)
    assert client.execute("SELECT v FROM pairs").fetchall() == [(101,), (101,)]
