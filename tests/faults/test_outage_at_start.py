"""A proxy that starts while a shard is down: it serves what is there, and the rest when it is fit to be served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from decided import IDLE_RECOVERY, DecidedButNotApplied, keys_of_both_shards
from ledger import QUICK, Ledger
from outages import READ, WRITE, crashed, refused
from proxy_process import write_config
from waiting import eventually

if TYPE_CHECKING:
    from conftest import MakeDatabases, StartProxy

    from proxy.demo.embedded import EmbeddedServer

TABLES: dict[str, Any] = {"acc": {"key": "id"}}


@pytest.fixture
def direct_ledger(make_databases: MakeDatabases, start_proxy: StartProxy) -> Ledger:
    """A ledger without faulty wires, whose proxy may be stopped and started."""
    shards = make_databases(3)
    return Ledger(start_proxy(shards, TABLES, limits=dict(QUICK)), shards)


def test_what_does_not_need_the_dead_shard_works(direct_ledger: Ledger, servers: list[EmbeddedServer]) -> None:
    ledger = direct_ledger
    before = ledger.stored()
    first, second, third = (keys[0] for keys in ledger.keys)
    ledger.process.stop()
    with crashed(servers[2]):
        ledger.process.start()
        with ledger.client(autocommit=True) as client:
            assert client.execute(READ, (first,)).fetchone() == (before[first],)
            with client.transaction():
                for key, by in ((first, 5), (second, -5)):
                    client.execute(WRITE, (by, key))
            refused(client, READ, third)
            refused(client, WRITE, 1, third)
            error = refused(client, "SELECT sum(balance) FROM acc WHERE id IN (%s, %s)", first, second)
            assert "every shard" in (error.diag.message_detail or "")
            assert "read_consistency" in (error.diag.message_hint or "")
            client.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            refused(client, READ, first)
            client.execute("ROLLBACK")
            client.execute("SET pgchorus.read_consistency = shard")
            both = "SELECT sum(balance) FROM acc WHERE id IN (%s, %s)"
            assert client.execute(both, (first, second)).fetchone() == (before[first] + before[second],)
    ledger.until_served()
    assert ledger.changed(before) == {first: 5, second: -5}


def test_without_home_it_waits_for_home(direct_ledger: Ledger, servers: list[EmbeddedServer]) -> None:
    ledger = direct_ledger
    before = ledger.stored()
    ledger.process.stop()
    with crashed(servers[0]):
        ledger.process.start()
        with pytest.raises(psycopg.OperationalError):
            ledger.client()
    ledger.until_served()
    assert ledger.changed(before) == {}


def test_what_was_decided_is_applied_before_the_shard_is_served(
    make_databases: MakeDatabases, start_proxy: StartProxy, servers: list[EmbeddedServer]
) -> None:
    shards = make_databases(2)
    proxy = start_proxy(shards, {"pairs": {"key": "k"}}, limits=dict(IDLE_RECOVERY))
    keys = keys_of_both_shards()
    dsn = proxy.dsn(shards[0].rpartition("/")[2])
    with psycopg.connect(dsn, autocommit=True) as client:
        client.execute("CREATE TABLE pairs (k int PRIMARY KEY, v int NOT NULL)")
        client.execute(f"INSERT INTO pairs VALUES ({keys[0]}, 0), ({keys[1]}, 0)".encode())
    proxy.stop()
    DecidedButNotApplied(shards, keys, serial=7)
    seen: list[Any] = []

    def reads() -> bool:
        try:
            seen.append(client.execute(f"SELECT v FROM pairs WHERE k = {keys[1]}".encode()).fetchone())
        except psycopg.OperationalError:
            return False
        return True

    with crashed(servers[1]):
        proxy.start()
        client = psycopg.connect(dsn, autocommit=True)
        assert not reads()
    with client:
        eventually(reads, "the shard is not served")
        assert seen == [(100,)]
    client.close()


def test_a_shard_that_comes_back_as_somebody_elses_is_not_served(
    direct_ledger: Ledger, servers: list[EmbeddedServer]
) -> None:
    ledger = direct_ledger
    third = ledger.keys[2][0]
    ledger.process.stop()
    with psycopg.connect(ledger.direct[2], autocommit=True) as shard:
        shard.execute("UPDATE pgchorus.meta SET cluster = 'another'")
    with crashed(servers[2]):
        ledger.process.start()
        with ledger.client(autocommit=True) as client:
            refused(client, READ, third)
    with ledger.client(autocommit=True) as client:
        eventually(lambda: "belongs to cluster another" in ledger.process.log.read_text(), "nobody has looked")
        refused(client, READ, third)
        with psycopg.connect(ledger.direct[2], autocommit=True) as shard:
            shard.execute("UPDATE pgchorus.meta SET cluster = 'test'")
        ledger.until_served()


def test_nothing_is_installed_while_a_shard_is_down(
    make_databases: MakeDatabases, servers: list[EmbeddedServer], tmp_path: Any
) -> None:
    from proxy_process import ProxyProcess  # noqa: PLC0415 - for this test alone: its proxy must not start

    shards = make_databases(2)
    process = ProxyProcess(write_config(tmp_path / "pgchorus.yaml", {"d": shards}, TABLES))
    with crashed(servers[1]), pytest.raises(AssertionError, match="status 1"):
        process.start()
    assert "All shards have to be up" in process.log.read_text()
    with psycopg.connect(shards[0], autocommit=True) as shard:
        assert shard.execute("SELECT to_regnamespace('pgchorus')").fetchone() == (None,)
