"""A shard of two servers: its primary dies or is replaced while clients work, and what they see of it.

The proxy has two workers. One shard pair for the module; each test leaves a primary and a standby that streams from it,
and every balance as it was, also when it fails.

Nothing here happens "soon enough": a replica is far behind only for a proxy that is started for that, and statements
are begun when all workers know that the primary is gone.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from psycopg.rows import dict_row

from calling import Caller
from collector import Collector, collecting
from decided import DecidedButNotApplied, keys_of_both_shards
from ledger import START, Ledger, eventually
from outages import LOST, READ, WRITE
from proxy.config import load
from proxy.console.views import VIEWS
from proxy.demo.binaries import find_installation
from proxy.demo.embedded import free_port
from proxy.doctor.finding import SHELL
from proxy.doctor.hosts import look_at_hosts
from proxy.doctor.kinds_outside import HOSTS
from proxy.doctor.look import Look as DoctorsLook
from proxy.doctor.look import Options, own_links
from proxy.doctor.servers import ask
from proxy.top.figures import VIEWS as TOP_VIEWS
from proxy.top.figures import Figures, Look, figures
from proxy.top.source import Console
from proxy_process import ProxyProcess
from standbys import ReplicatedShard, asked
from transfers import Transfers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import MakeDatabases, StartProxy

    from proxy.demo.embedded import EmbeddedServer
    from proxy.doctor.finding import Finding

pytestmark = pytest.mark.timeout(300)

TABLES: dict[str, Any] = {"acc": {"key": "id"}, "pairs": {"key": "k"}, "later": {"key": "k"}}
LIMITS: dict[str, Any] = {
    # What is decided and not applied is left for the shard's return.
    "recovery": {"interval_s": 3600, "orphan_s": 0.1, "grace_s": 1.0},
    "failover": {"wait_s": 60, "check_s": 0.1},
    "replicas": {"max_lag_s": 600, "wait_s": 1},
}
NEAR = {"max_lag_s": 1, "wait_s": 0.2}
WAITED = 60.0
RELOADED = "users, rules and certificate reloaded"
WORKERS = 2


class Replicated(Ledger):
    """A ledger over a plain shard and a replicated one."""

    shard: ReplicatedShard

    def until_all_workers_look_at(self, primary: EmbeddedServer) -> None:
        """Wait until every worker serves this server as s1's primary."""
        wanted = {("s1", primary.port, 1)}
        eventually(
            lambda: (
                {(row["shard"], row["port"], row["served"]) for row in self.show("hosts") if row["served"]} == wanted
                and all(row["state"] == "up" for row in self.show("shards"))
            ),
            "a worker looks elsewhere",
        )

    def until_no_worker_sees_a_primary(self) -> None:
        """Wait until statements that begin now wait: links that were lost are nobody's any more."""
        eventually(
            lambda: self.metric("pgchorus_shard_hosts", shard="s1", kind="primary") == 0, "somebody sees a primary"
        )

    def busy_on(self, shard: int) -> list[tuple[Any, ...]]:
        """Return the transactions that are open on one shard."""
        return [row for row in self.busy_backends() if row[0] == shard]

    def client_of(self, worker: int) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect to one of the workers."""
        while True:
            client = self.client(autocommit=True)
            if client.info.backend_pid % WORKERS + 1 == worker:
                return client
            client.close()

    def show(self, view: str) -> list[dict[str, Any]]:
        """Ask the console."""
        with psycopg.connect(
            self.process.dsn("pgchorus"), autocommit=True, cursor_factory=psycopg.ClientCursor, row_factory=dict_row
        ) as console:
            return console.execute(f"show {view}".encode()).fetchall()

    def command(self, text: str) -> str | None:
        with psycopg.connect(self.process.dsn("pgchorus"), autocommit=True) as console:
            return console.execute(text.encode(), prepare=False).statusmessage

    def metric(self, name: str, **labels: str) -> float:
        port = json.loads(self.process.config.read_text())["metrics"]["port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            families = text_string_to_metric_families(page.read().decode())
        return sum(
            one.value
            for family in families
            for one in family.samples
            if one.name == name and labels.items() <= one.labels.items()
        )

    def failed_over(self) -> None:
        """Look for s1 where it is now."""
        self.direct[1] = self.shard.primary.dsn(self.database)

    @contextmanager
    def with_limits(self, **sections: dict[str, float]) -> Iterator[None]:
        """Have the proxy run with other limits in some sections."""
        before = self.process.config.read_text()
        document = json.loads(before)
        document["limits"] |= sections
        self.process.config.write_text(json.dumps(document))
        self.process.restart()
        try:
            yield
        finally:
            self.process.config.write_text(before)
            self.process.restart()

    def put_back(self) -> None:
        """Have a primary and a standby that streams from it, all balances as at first, and no timeline made up."""
        self.shard.mend()
        self.failed_over()
        for dsn in self.direct:
            with psycopg.connect(dsn, autocommit=True, options="-c lock_timeout=20s") as connection:
                connection.execute("UPDATE acc SET balance = %s WHERE balance <> %s", (START, START))
        if self.on_shard(0, "DELETE FROM pgchorus.timeline WHERE timeline = 99 RETURNING 1"):
            self.process.restart()


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicatedShard]:
    made = ReplicatedShard(tmp_path_factory.mktemp("replicated"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as server:
        yield server


@pytest.fixture(scope="module")
def ledger(
    make_module_databases: MakeDatabases,
    shard: ReplicatedShard,
    start_module_proxy: StartProxy,
    collector: Collector,
) -> Replicated:
    (plain,) = make_module_databases(1, "failover")
    database = plain.rpartition("/")[2]
    with psycopg.connect(shard.primary.dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {database}".encode())
    ports = [free_port()]
    ports.append(free_port(ports))
    process = start_module_proxy(
        [plain, shard.dsn(database)],
        TABLES,
        limits=LIMITS,
        workers=WORKERS,
        console={"admins": "postgres"},
        listen={"host": "127.0.0.1", "port": ports[0]},
        metrics={"host": "127.0.0.1", "port": ports[1]},
        tracing={"endpoint": collector.endpoint, "sample": 1},
        handover="handover.sock",
    )
    made = Replicated(process, [plain, shard.primary.dsn(database)])
    made.shard = shard
    with made.client(autocommit=True) as client:
        client.execute("CREATE TABLE pairs (k int4 PRIMARY KEY, v int4 NOT NULL)")
    return made


@pytest.fixture(autouse=True)
def _put_back(ledger: Replicated) -> Iterator[None]:
    """Whatever a test has left, and wherever it has failed: the next one begins as the first did."""
    yield
    ledger.put_back()


READ_ONLY = "-c default_transaction_read_only=on"
FROM_REPLICAS = f"{READ_ONLY} -c pgchorus.read_from=prefer_replica"
ONLY_REPLICAS = f"{READ_ONLY} -c pgchorus.read_from=replica"
WHERE = "SELECT current_setting('in_hot_standby') = 'on', balance FROM acc WHERE id = %s"


def reader(ledger: Replicated, options: str, *, autocommit: bool = True) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(ledger.dsn, autocommit=autocommit, options=options)


def sqlstate_of(client: psycopg.Connection[Any], query: str, *values: object) -> str | None:
    with pytest.raises(psycopg.Error) as caught:
        client.execute(query.encode(), values or None)
    return caught.value.sqlstate


def reads(client: psycopg.Connection[Any], key: int, wanted: tuple[bool, int]) -> bool:
    """Whether this is read: from a standby or not, and the balance; not where no replica is near enough."""
    try:
        return client.execute(WHERE, (key,)).fetchone() == wanted
    except psycopg.errors.ObjectNotInPrerequisiteState:
        return False


def until_reads(client: psycopg.Connection[Any], key: int, wanted: tuple[bool, int]) -> None:
    """Wait until it is so; what a worker knows of standbys is from looks of its own."""
    eventually(lambda: reads(client, key, wanted), f"never read: {wanted}")


def refused(client: psycopg.Connection[Any], query: str, *values: object) -> bool:
    """Whether no replica was near enough."""
    try:
        client.execute(query.encode(), values or None)
    except psycopg.errors.ObjectNotInPrerequisiteState:
        return True
    return False


def sent_away(client: psycopg.Connection[Any], query: str, *values: object) -> bool:
    """Whether the connection has been ended by the proxy."""
    try:
        client.execute(query.encode(), values)
    except psycopg.OperationalError:
        return client.closed
    return False


@contextmanager
def paused(ledger: Replicated, *clients: psycopg.Connection[Any]) -> Iterator[None]:
    """The standby has everything and replays nothing more.

    Each client reads there once first: then its worker knows that the definitions are there.
    """
    key = ledger.keys[1][3]
    for client in clients:
        until_reads(client, key, (True, START))
    eventually(ledger.shard.caught_up, "the standby does not replay")
    asked(ledger.shard.standby, "SELECT pg_wal_replay_pause()")
    eventually(
        lambda: asked(ledger.shard.standby, "SELECT 1 WHERE pg_get_wal_replay_pause_state() = 'paused'"),
        "it is not paused",
    )
    try:
        yield
    finally:
        asked(ledger.shard.standby, "SELECT pg_wal_replay_resume()")
        eventually(ledger.shard.caught_up, "the standby does not replay")


def test_read_only_transactions_go_to_replicas_when_asked(ledger: Replicated) -> None:
    key = ledger.keys[1][3]
    eventually(ledger.shard.caught_up, "the standby does not replay")
    at_primary, at_replica = (False, START), (True, START)
    with reader(ledger, READ_ONLY) as client:
        assert client.execute(WHERE, (key,)).fetchone() == at_primary
        client.execute("SET pgchorus.read_from = replica")
        until_reads(client, key, at_replica)
        client.execute("RESET pgchorus.read_from")
        assert client.execute(WHERE, (key,)).fetchone() == at_primary
    with reader(ledger, "-c pgchorus.read_from=prefer_replica") as client:
        # It may write, so it reads where it would write.
        assert client.execute(WHERE, (key,)).fetchone() == at_primary
        client.execute("SET default_transaction_read_only = on")
        until_reads(client, key, at_replica)
        for prepare in (False, True, True):
            assert client.execute(WHERE, (key,), prepare=prepare).fetchone() == at_replica
        assert sqlstate_of(client, WRITE, 1, key) == "25006"
        assert client.execute("SHOW in_hot_standby").fetchone() == ("off",)
        # A block may come to a second shard, and would see another moment there.
        with client.transaction():
            assert client.execute(WHERE, (key,)).fetchone() == at_primary
        client.execute("SET pgchorus.read_consistency = shard")
        with client.transaction():
            assert client.execute(WHERE, (key,)).fetchone() == at_replica
            assert client.execute(WHERE, (ledger.keys[0][3],)).fetchone() == at_primary, "s0 has one host"
            client.execute("DECLARE c CURSOR FOR SELECT balance FROM acc WHERE id = %s" % key)  # noqa: UP031
            assert client.execute("FETCH c").fetchone() == (START,)
        # Nor is anything read there by a transaction that has written.
        with client.transaction():
            client.execute("SET TRANSACTION READ WRITE")
            client.execute(WRITE, (5, key))
            client.execute("SET TRANSACTION READ ONLY")
            assert client.execute(WHERE, (key,)).fetchone() == (False, START + 5)
            raise psycopg.Rollback


def test_whoever_wants_replicas_only_gets_no_primary(ledger: Replicated) -> None:
    key = ledger.keys[1][3]
    with reader(ledger, ONLY_REPLICAS) as client:
        until_reads(client, key, (True, START))
        assert sqlstate_of(client, WHERE, ledger.keys[0][3]) == "55000"
        # What nobody has described is described by the home shard, which has no replicas.
        assert described(client, key) == (True, START)
        assert sqlstate_of(client, "SELECT sum(balance) FROM acc") == "0A000"
        with pytest.raises(psycopg.errors.FeatureNotSupported), client.transaction():
            client.execute(WHERE, (key,))
        client.execute("SET default_transaction_isolation = serializable")
        assert sqlstate_of(client, WHERE, key) == "0A000"
        client.execute("SET default_transaction_isolation = 'read committed'")
        # What a session would keep there is refused, and nothing of it stays.
        assert sqlstate_of(client, f"SELECT pg_advisory_lock(7) FROM acc WHERE id = {key}") == "0A000"
        assert client.execute(WHERE, (key,)).fetchone() == (True, 1000)
        locks = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 7"
        eventually(lambda: not asked(ledger.shard.standby, locks), "the lock stays")
    with reader(ledger, FROM_REPLICAS) as client:
        assert client.execute("SELECT sum(balance) FROM acc").fetchone() == (ledger.total,)
    with pytest.raises(psycopg.OperationalError, match="invalid value for parameter"):
        reader(ledger, "-c pgchorus.read_from=elsewhere")


def described(client: psycopg.Connection[Any], key: int) -> tuple[bool, int]:
    """Read by a statement that is new to the proxy, described before it is bound."""
    text = WHERE.replace("%s", "$1").encode() + b" AND 'unheard of' <> ''"
    client.pgconn.prepare(b"unheard", text)
    answer = client.pgconn.describe_prepared(b"unheard")
    assert answer.status == psycopg.pq.ExecStatus.COMMAND_OK, answer.error_message
    rows = client.pgconn.exec_prepared(b"unheard", [str(key).encode()])
    assert rows.status == psycopg.pq.ExecStatus.TUPLES_OK, rows.error_message
    return rows.get_value(0, 0) == b"t", int(rows.get_value(0, 1) or b"0")


def test_a_session_reads_its_own_writes_if_it_asks_for_that(ledger: Replicated) -> None:
    key = ledger.keys[1][3]
    begin_write = "BEGIN READ WRITE"
    with (
        reader(ledger, FROM_REPLICAS) as careless,
        reader(ledger, f"{FROM_REPLICAS} -c pgchorus.read_your_writes=on") as careful,
        reader(ledger, f"{ONLY_REPLICAS} -c pgchorus.read_your_writes=on") as strict,
        paused(ledger, careless, careful, strict),
    ):
        for count, client in enumerate((careless, careful, strict), 1):
            client.execute(begin_write)
            client.execute(WRITE, (1, key))
            client.execute("COMMIT")
            if client is careless:
                assert client.execute(WHERE, (key,)).fetchone() == (True, START), "the trap must be there"
            elif client is careful:
                assert client.execute(WHERE, (key,)).fetchone() == (False, START + count)
        assert sqlstate_of(strict, WHERE, key) == "55000"
        asked(ledger.shard.standby, "SELECT pg_wal_replay_resume()")
        until_reads(strict, key, (True, START + 3))
        until_reads(careful, key, (True, START + 3))
        strict.execute(begin_write)
        strict.execute(WRITE, (-3, key))
        strict.execute("COMMIT")
        # Never what was there before.
        eventually(lambda: not refused(strict, WHERE, key), "it is never read again")
        assert strict.execute(WHERE, (key,)).fetchone() == (True, START)


def test_a_replica_that_is_behind_is_not_read(ledger: Replicated) -> None:
    key = ledger.keys[1][3]
    with (
        ledger.with_limits(replicas=NEAR),
        reader(ledger, FROM_REPLICAS) as client,
        reader(ledger, ONLY_REPLICAS) as strict,
    ):
        with paused(ledger, client, strict):
            with ledger.client(autocommit=True) as writer:
                writer.execute(WRITE, (1, key))
            until_reads(client, key, (False, START + 1))
            # The other worker looks at moments of its own.
            eventually(lambda: refused(strict, WHERE, key), "the other worker reads it for ever")
        until_reads(client, key, (True, START + 1))
        until_reads(strict, key, (True, START + 1))


def test_a_replica_without_the_definitions_is_not_read(ledger: Replicated) -> None:
    key = keys_of_both_shards()[1]
    # Without parameters: a shard describes those, and s0, which may be asked, has no replica.
    later = f"SELECT v FROM later WHERE k = {key}"
    with (
        ledger.client(autocommit=True) as writer,
        reader(ledger, ONLY_REPLICAS) as strict,
        paused(ledger, strict),
    ):
        writer.execute("CREATE TABLE later (k int4 PRIMARY KEY, v int4 NOT NULL)")
        assert sqlstate_of(strict, later) == "55000"
        asked(ledger.shard.standby, "SELECT pg_wal_replay_resume()")
        eventually(lambda: not refused(strict, later), "it is never read")


def test_a_primary_dies_under_transfers_and_its_standby_goes_on(ledger: Replicated) -> None:
    clients = 3
    ledger.shard.wait_for_standby()
    with Transfers(ledger, clients) as transfers:
        transfers.until_more(7)
        with ledger.client(autocommit=True) as reader, ThreadPoolExecutor(1) as thread:
            ledger.shard.primary.kill()
            ledger.until_no_worker_sees_a_primary()
            # Begun while there is no primary: it waits and is answered, not refused.
            answer = thread.submit(lambda: reader.execute(READ, (ledger.keys[1][3],)).fetchone())
            with pytest.raises(TimeoutError):
                answer.result(0.3)
            ledger.shard.promote()
            assert answer.result(WAITED) == (START,)
        transfers.until_more(7)
        transfers.end()
    ledger.failed_over()
    # Only what was under way: at most one transaction of each client, and one more that met the loss of its link.
    assert len(transfers.errors) <= 2 * clients, transfers.errors
    assert all(sqlstate[:2] in {*LOST, "40"} for sqlstate in transfers.errors), transfers.errors
    ledger.until_nothing_is_prepared()
    assert sum(ledger.stored().values()) == ledger.total
    moved = ledger.total // 2 - sum(value for key, value in ledger.stored().items() if key in ledger.keys[0])
    unknown = transfers.errors.count("08007")
    assert transfers.done <= moved <= transfers.done + unknown
    with ledger.client(autocommit=True) as client:
        assert client.execute("SELECT sum(balance) FROM acc").fetchone() == (ledger.total,)
    ledger.shard.follow()


ONLY_OLD = "only an old primary is there"


def test_an_old_primary_that_comes_back_is_not_served(ledger: Replicated) -> None:
    shard = ledger.shard
    key = ledger.keys[1][3]
    eventually(shard.caught_up, "the standby does not replay")
    shard.primary.kill()
    shard.promote()
    ledger.failed_over()
    ledger.until_all_workers_look_at(shard.primary)
    shard.standby.start()
    assert asked(shard.standby, "SELECT pg_is_in_recovery()") == [(False,)], "the trap must be there"
    with ledger.client(autocommit=True) as client:
        client.execute(WRITE, (1, key))
        assert ledger.on_shard(1, f"SELECT balance FROM acc WHERE id = {key}") == [(1001,)]
        complaints = ledger.process.log.read_text().count(ONLY_OLD)
        shard.primary.kill()
        eventually(lambda: ledger.process.log.read_text().count(ONLY_OLD) > complaints, "nobody says so")
        client.execute("SET statement_timeout = 0")
        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(lambda: client.execute(READ, (key,)).fetchone())
            with pytest.raises(TimeoutError):
                answer.result(1.0)
            shard.primary.start()
            assert answer.result(WAITED) == (1001,)
    shard.follow()


def test_a_standby_is_promoted_while_the_primary_lives(ledger: Replicated) -> None:
    """Split brain: links to the old primary are dropped as soon as the new one is seen."""
    key = ledger.keys[1][3]
    with ledger.client() as inside, ledger.client(autocommit=True) as client:
        inside.execute(WRITE, (5, key))
        old = [row[1] for row in ledger.busy_on(1) if row[3].startswith("UPDATE acc")]
        assert len(old) == 1
        eventually(ledger.shard.caught_up, "the standby does not replay")
        ledger.shard.promote()
        eventually(
            lambda: not asked(ledger.shard.standby, f"SELECT 1 FROM pg_stat_activity WHERE pid = {old[0]}"),
            "a link to the old primary stays",
        )
        ledger.until_all_workers_look_at(ledger.shard.primary)
        ledger.failed_over()
        with pytest.raises(psycopg.OperationalError) as caught:
            inside.execute(READ, (key,))
        assert caught.value.sqlstate == "08006"
        client.execute(WRITE, (1, key))
        assert client.execute(READ, (key,)).fetchone() == (1001,)
        assert ledger.on_shard(1, f"SELECT balance FROM acc WHERE id = {key}") == [(1001,)]
    ledger.shard.follow()


def test_what_is_decided_is_finished_on_the_new_primary_before_it_is_served(ledger: Replicated) -> None:
    keys = keys_of_both_shards()
    with ledger.client(autocommit=True) as client, ThreadPoolExecutor(1) as thread:
        client.execute("INSERT INTO pairs VALUES (%s, 0), (%s, 0)", keys)
        planted = DecidedButNotApplied(ledger.direct, keys, 1)
        eventually(ledger.shard.caught_up, "the standby does not replay")
        ledger.shard.primary.kill()
        ledger.until_no_worker_sees_a_primary()
        answer = thread.submit(lambda: client.execute("SELECT v FROM pairs WHERE k = %s", (keys[1],)).fetchone())
        # Nobody has finished it on the old one: it is there on the standby when that is promoted.
        name = planted.gid.at("s1")
        ledger.shard.promote()
        ledger.failed_over()
        assert answer.result(WAITED) == (100,)
        assert ledger.prepared() == []
    log = ledger.process.log.read_text()
    assert any("finished before a shard is served" in line and name in line for line in log.splitlines())
    ledger.shard.follow()


NOTED = "SELECT timeline FROM pgchorus.timeline WHERE shard = 's1'"


def test_an_old_primary_alone_is_not_served_by_a_proxy_that_has_just_started(ledger: Replicated) -> None:
    """Nor by a worker: who has not seen the new one hears of it from the other shards."""
    shard = ledger.shard
    key = ledger.keys[1][3]
    eventually(shard.caught_up, "the standby does not replay")
    before = max(ledger.on_shard(0, NOTED))
    shard.primary.kill()
    shard.promote()
    ledger.failed_over()
    eventually(lambda: max(ledger.on_shard(0, NOTED)) > before, "it is not noted on the other shard")
    shard.primary.kill()
    shard.standby.start()
    assert asked(shard.standby, "SELECT pg_is_in_recovery()") == [(False,)], "the trap must be there"
    ledger.process.restart()
    with ledger.client(autocommit=True) as client, ThreadPoolExecutor(1) as thread:
        answer = thread.submit(lambda: client.execute(READ, (key,)).fetchone())
        with pytest.raises(TimeoutError):
            answer.result(1.0)
        (said,) = [row for row in ledger.show("shards") if row["shard"] == "s1"]
        assert said["state"] == "down"
        assert ONLY_OLD in said["reason"]
        shard.primary.start()
        assert answer.result(WAITED) == (START,)
    ledger.until_all_workers_look_at(shard.primary)
    shard.follow()


def test_an_old_primary_is_left_when_another_proxy_has_seen_a_new_one(ledger: Replicated) -> None:
    key = ledger.keys[1][3]
    with ledger.client() as inside, ledger.client(autocommit=True) as client, ThreadPoolExecutor(1) as thread:
        inside.execute(WRITE, (5, key))
        moves = ledger.metric("pgchorus_shard_moves_total", shard="s1")
        # As a proxy would note it that reaches what this one does not.
        with psycopg.connect(ledger.direct[0], autocommit=True) as other:
            other.execute("UPDATE pgchorus.timeline SET timeline = 99 WHERE shard = 's1'")
        eventually(lambda: not ledger.busy_on(1), "a link to the old primary stays in a transaction")
        with pytest.raises(psycopg.OperationalError) as caught:
            inside.execute(READ, (key,))
        assert caught.value.sqlstate == "08006"
        inside.rollback()
        eventually(
            lambda: ledger.metric("pgchorus_shard_moves_total", shard="s1") == moves + WORKERS, "a worker stays there"
        )
        answer = thread.submit(lambda: client.execute(READ, (key,)).fetchone())
        with pytest.raises(TimeoutError):
            answer.result(1.0)
        # What the handbook says to do when a person knows better.
        ledger.on_shard(0, "DELETE FROM pgchorus.timeline WHERE shard = 's1' RETURNING 1")
        ledger.process.restart()
        with pytest.raises(psycopg.OperationalError):  # the proxy that was killed hung up
            answer.result(WAITED)
    with ledger.client(autocommit=True) as client:
        assert client.execute(READ, (key,)).fetchone() == (1000,)


def test_what_one_worker_has_seen_the_others_know_at_once(ledger: Replicated) -> None:
    """A standby is promoted while the primary lives, and only the worker whose link is cut has a reason to look."""
    with ledger.with_limits(failover={"wait_s": 60, "check_s": 3600}):
        with ledger.client() as inside:
            inside.execute(WRITE, (5, ledger.keys[1][3]))
            ((_, pid, *_),) = [row for row in ledger.busy_on(1) if row[3].startswith("UPDATE acc")]
            eventually(ledger.shard.caught_up, "the standby does not replay")
            ledger.shard.promote()
            assert ledger.on_shard(1, f"SELECT pg_terminate_backend({pid})") == [(True,)], "on the old primary"
            ledger.until_all_workers_look_at(ledger.shard.primary)
            ledger.failed_over()
            with pytest.raises(psycopg.OperationalError):
                inside.execute(READ, (ledger.keys[1][3],))
        # A worker that is made now, when only the old primary is there, knows before it looks, by nobody's notes.
        ledger.on_shard(0, "DELETE FROM pgchorus.timeline WHERE shard = 's1' RETURNING 1")
        ledger.shard.primary.kill()
        (killed,) = [row["pid"] for row in ledger.show("workers") if row["worker"] == WORKERS]
        os.kill(killed, signal.SIGKILL)
        eventually(
            lambda: [row["state"] for row in ledger.show("workers") if row["pid"] != killed] == ["serving", "serving"],
            "nobody takes its place",
        )
        with ledger.client_of(WORKERS) as client, ThreadPoolExecutor(1) as thread:
            answer = thread.submit(lambda: client.execute(READ, (ledger.keys[1][3],)).fetchone())
            with pytest.raises(TimeoutError):
                answer.result(1.0)
            ledger.shard.primary.start()
            assert answer.result(WAITED) == (START,)
    ledger.shard.follow()


class Doctor:
    """The doctor's look at the hosts of a ledger's shards, with a configured user."""

    def __init__(self, ledger: Replicated, directory: Path, user: str) -> None:
        document = json.loads(ledger.process.config.read_text())
        document["auth"] = {"method": "trust", "users": {user: "secret"}}
        file = directory / "pgchorus.yaml"
        file.write_text(json.dumps(document))
        self.config = load(file)
        self.database = self.config.cluster.databases[ledger.database]

    def finds(self) -> dict[str, Finding]:
        return asyncio.run(self._looks())

    async def _looks(self) -> dict[str, Finding]:
        async with own_links(self.config, self.database) as control:
            look = DoctorsLook(self.config, self.database, control, Options(rows=False), lambda _text: None)
            await ask(look)
            await look_at_hosts(look)
            return {one.kind.name: one for one in look.findings if one.kind in HOSTS.kinds}

    def is_content(self) -> bool:
        return not self.finds()

    def finds_and_mends(self, name: str) -> None:
        """Nothing but this is found, it is what its commands mend, and nothing is found any more."""
        found = self.finds()
        assert list(found) == [name]
        path = os.path.dirname(find_installation().program("psql")) + os.pathsep + os.environ["PATH"]  # noqa: PTH120
        for command in found[name].mend:
            assert command.on == SHELL
            subprocess.run(
                ["bash", "-c", command.text], env={**os.environ, "PATH": path}, check=True, stdout=subprocess.DEVNULL
            )
        eventually(self.is_content, f"it is not mended: {name}")


def test_the_doctor_looks_at_every_host(ledger: Replicated, tmp_path: Path) -> None:
    shard, user = ledger.shard, "failover_reads"
    for dsn in ledger.direct:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {user} LOGIN".encode())
    try:
        eventually(shard.caught_up, "the standby does not replay")
        doctor = Doctor(ledger, tmp_path, user)
        assert doctor.is_content()
        asked(shard.standby, "SELECT pg_wal_replay_pause()")
        doctor.finds_and_mends("host-behind")
        shard.wait_for_standby()
        doctor.finds_and_mends("host-would-not-wait")
        for server in shard.hosts:
            shard.configure(server, "ALTER SYSTEM RESET synchronous_standby_names")
        rules = shard.standby.directory / "pg_hba.conf"
        allowed = rules.read_text()
        try:
            rules.write_text(f"host all {user} 127.0.0.1/32 reject\n{allowed}")
            asked(shard.standby, "SELECT pg_reload_conf()")
            eventually(lambda: list(doctor.finds()) == ["host-login-fails"], "it may log in")
        finally:
            rules.write_text(allowed)
            asked(shard.standby, "SELECT pg_reload_conf()")
        shard.standby.stop()
        eventually(lambda: list(doctor.finds()) == ["host-unreachable"], "nobody misses it")
        shard.standby.start()
        eventually(doctor.is_content, "it has been started")
        shard.promote()
        ledger.failed_over()
        assert list(doctor.finds()) == ["host-takes-writes"]
        shard.follow()
        eventually(doctor.is_content, "it follows")
    finally:
        ledger.put_back()
        for dsn in ledger.direct:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(f"DROP ROLE {user}".encode())


def test_nobody_notices_what_an_operator_does(
    ledger: Replicated, collector: Collector, request: pytest.FixtureRequest
) -> None:
    """Console, top, metrics, reload, PAUSE, a worker renewed and a proxy that takes over, beside clients that work."""
    ledger.until_nothing_is_prepared()
    begun_after = ledger.process.log.read_text().count(RELOADED)
    before = sum(ledger.on_shard(0, "SELECT sum(balance) FROM acc")[0])
    with Transfers(ledger, 4) as transfers, Caller(ledger.dsn) as caller, reader(ledger, FROM_REPLICAS) as steady:
        transfers.until_more(3)
        # The console, by all workers: who is connected, and the sums of what they do.
        assert {row["worker"] for row in ledger.show("workers")} == {1, 2}
        for view in VIEWS:
            ledger.show(view)
        key = ledger.keys[1][3]
        eventually(lambda: (steady.execute(WHERE, (key,)).fetchone() or ())[0], "the replica is not read")
        hosts = [(row["role"], row["served"]) for row in ledger.show("hosts")]
        assert sorted(hosts) == [("primary", 1), ("standby", 0)]
        assert ledger.metric("pgchorus_shard_hosts", shard="s1", kind="standby") == 1
        assert 0 <= ledger.metric("pgchorus_replica_lag_seconds", shard="s1") < LIMITS["replicas"]["max_lag_s"]
        assert ledger.metric("pgchorus_replica_links_total", shard="s1", outcome="lent") > 0
        counted = ledger.metric("pgchorus_commits_total", kind="distributed", outcome="committed")
        transfers.until_more(3)
        grown = ledger.metric("pgchorus_commits_total", kind="distributed", outcome="committed") - counted
        assert grown >= 3 * transfers.clients, "the work of all workers is counted"
        looked = asyncio.run(look_at_top(ledger))
        assert looked.summary.transactions_s > 0
        assert {row["state"] for row in looked.panels[0].rows} == {"up"}
        # What a person does about it.
        ledger.command("reload")
        os.kill(ledger.process.pid, signal.SIGHUP)
        eventually(lambda: ledger.process.log.read_text().count(RELOADED) == begun_after + 2, "no reload")
        assert ledger.command("pause") == "PAUSE"
        assert ledger.command("resume") == "RESUME"
        transfers.until_more(3)
        assert transfers.errors == []
        assert transfers.sent_away == 0
        (leaving,) = [row["pid"] for row in ledger.show("workers") if row["worker"] == 2]
        os.kill(leaving, signal.SIGTERM)
        eventually(
            lambda: all(row["state"] == "serving" and row["pid"] != leaving for row in ledger.show("workers")),
            "nobody takes its place",
        )
        transfers.until_more(3)
        old = ledger.process
        ledger.process = follower_of(old, request)
        assert old.wait() == 0
        transfers.until_more(3)
        caller.more()
        steady.close()
    assert caller.errors == []
    assert transfers.errors == []
    assert transfers.sent_away <= 2 * transfers.clients, "once by a worker, once by the proxy"
    ledger.until_nothing_is_prepared()
    assert sum(ledger.on_shard(0, "SELECT sum(balance) FROM acc")[0]) == before - transfers.done
    assert sum(ledger.stored().values()) == ledger.total
    assert {"plan", "commit s0", "commit s1"} <= {span.name for span in collector.all_spans()}


def test_a_drain_lets_what_runs_end(ledger: Replicated) -> None:
    """The last of this module: the proxy is gone afterwards."""
    key = ledger.keys[0][3]
    with (
        Transfers(ledger, 3) as transfers,
        ledger.client() as busy,
        ledger.client(autocommit=True) as idle,
    ):
        busy.execute(WRITE, (-2, key))
        busy.execute(WRITE, (2, ledger.keys[1][3]))
        transfers.until_more(3)
        transfers.may_find_nobody = True
        os.kill(ledger.process.pid, signal.SIGTERM)
        eventually(lambda: sent_away(idle, READ, key), "who is idle is left alone")
        with pytest.raises(psycopg.OperationalError):
            ledger.client()
        busy.commit()
    assert ledger.process.wait() == 0
    assert transfers.errors == [], "what was begun has ended"
    assert transfers.sent_away <= transfers.clients
    ledger.until_nothing_is_prepared()
    assert sum(ledger.stored().values()) == ledger.total
    assert sum(ledger.on_shard(0, "SELECT sum(balance) FROM acc")[0]) == ledger.total // 2 - transfers.done - 2


async def look_at_top(ledger: Replicated) -> Figures:
    console = Console(ledger.process.dsn("pgchorus"))
    try:
        looks = [Look(float(at), {view: await console.show(view) for view in TOP_VIEWS}) for at in (1, 2)]
    finally:
        await console.close()
    return figures(*looks)


def follower_of(process: ProxyProcess, request: pytest.FixtureRequest) -> ProxyProcess:
    """Start a proxy that takes the sockets of the one that runs; it is there until the module ends."""
    file = process.config
    follower = ProxyProcess(file, ("-m", "proxy", "serve", "--takeover", "-c", str(file)))
    module = request.node.getparent(pytest.Module)
    assert module is not None
    module.addfinalizer(follower.close)
    follower.start()
    return follower
