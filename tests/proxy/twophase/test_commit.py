"""Commits over real shards: what is told, what is there afterwards, and what each kind of failure leaves."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from proxy.shards.errors import ShardError
from proxy.twophase import record
from proxy.twophase.coordinator import Coordinator
from proxy.twophase.events import Limits, Result
from proxy.twophase.recovery import RecoveryLimits
from proxy.wire.fields import ErrorFields
from twophase_servers import CommitCluster, TappedLink

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from proxy.shards.control import ControlConnection

T = ord("T")
INSERT = "INSERT INTO public.t VALUES (1, 1)"
EVERYWHERE = [[(1, 1)]] * 3
NOWHERE: list[list[object]] = [[], [], []]


@pytest.mark.parametrize("commit_point", [0, 1, 2])
async def test_three_shards_commit_together(cluster: CommitCluster, commit_point: int) -> None:
    links = await cluster.begin(INSERT)
    outcome = await cluster.coordinator(commit_point).commit(links, {0, 1, 2})
    assert (outcome.result, outcome.error, outcome.notices) == (Result.COMMITTED, None, ())
    assert await cluster.values() == EVERYWHERE
    assert await cluster.prepared() == []
    assert [await cluster.decisions(shard) for shard in range(3)] == [
        ["commit"] if shard == commit_point else [] for shard in range(3)
    ]
    assert [link.status for link in links.values()] == [ord("I")] * 3


async def test_two_writers_and_a_reader(cluster: CommitCluster) -> None:
    links = await cluster.begin([INSERT, "SELECT 1", INSERT])
    outcome = await cluster.coordinator(1).commit(links, {0, 2})
    assert outcome.committed
    assert await cluster.values() == [[(1, 1)], [], [(1, 1)]]
    assert links[1].sent == ["COMMIT"]
    assert await cluster.decisions(2) == ["commit"]


async def test_one_writer_commits_without_a_record(cluster: CommitCluster) -> None:
    links = await cluster.begin([INSERT, "SELECT 1", "SELECT 1"])
    outcome = await cluster.coordinator().commit(links, {0})
    assert outcome.committed
    assert await cluster.values() == [[(1, 1)], [], []]
    assert await cluster.decisions(0) == []
    assert links[0].sent[0].endswith("COMMIT")
    assert "fence_commit" in links[0].sent[0]


async def test_one_writer_alone_sends_nothing_but_commit(cluster: CommitCluster) -> None:
    links = await cluster.begin(INSERT)
    outcome = await cluster.coordinator().commit({0: links[0]}, {0})
    assert outcome.committed
    assert links[0].sent == ["COMMIT"]


async def test_one_writer_that_read_elsewhere_waits_for_a_fence(cluster: CommitCluster) -> None:
    links = await cluster.begin([INSERT, "SELECT 1", "SELECT 1"])
    async with cluster.control.connection(0) as fence:
        await fence.execute("BEGIN; LOCK TABLE pgchorus.fence IN SHARE MODE")
        commit = asyncio.create_task(cluster.coordinator().commit(links, {0}))
        await cluster.until(0, f"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {links[0].pid}")
        assert not commit.done()
        await fence.execute("COMMIT")
    assert (await commit).committed


async def test_nobody_wrote(cluster: CommitCluster) -> None:
    links = await cluster.begin("SELECT 1")
    assert (await cluster.coordinator().commit(links, set())).committed
    assert [link.sent for link in links.values()] == [["COMMIT"]] * 3


async def test_a_failed_transaction_answers_rollback(cluster: CommitCluster) -> None:
    links = await cluster.begin(INSERT)
    with pytest.raises(ShardError):
        await links[0].run("SELECT 1/0")
    outcome = await cluster.coordinator().commit({0: links[0]}, {0})
    assert (outcome.result, outcome.error) == (Result.ABORTED, None)


@pytest.mark.parametrize("victim", [0, 1, 2])
async def test_a_deferred_constraint_fails_the_whole_and_tells_the_shards_own_error(
    cluster: CommitCluster, victim: int
) -> None:
    first = await cluster.begin(INSERT)
    assert (await cluster.coordinator().commit(first, {0, 1, 2})).committed
    texts = ["INSERT INTO public.t VALUES (2, 2)"] * 3
    texts[victim] = "INSERT INTO public.t VALUES (1, 2)"
    links = await cluster.begin(texts)
    outcome = await cluster.coordinator().commit(links, {0, 1, 2})
    assert outcome.result is Result.ABORTED
    assert outcome.error is not None
    assert (outcome.error.sqlstate, outcome.error.get("n"), outcome.shard) == ("23505", "t_pkey", victim)
    assert outcome.raw is not None
    assert outcome.raw.startswith(b"E")
    assert outcome.tainted == {1, 2} - {victim}
    assert await cluster.values() == EVERYWHERE
    assert await cluster.prepared() == []
    assert [link.status for link in links.values()] == [ord("I")] * 3


async def test_a_prepare_that_prepares_nothing_is_not_believed(cluster: CommitCluster) -> None:
    links = await cluster.begin(INSERT)
    await links[1].run("ROLLBACK")
    links[1].lie = T  # a stale status: the link says that its transaction is open
    outcome = await cluster.coordinator().commit(links, {0, 1, 2})
    assert outcome.result is Result.ABORTED
    assert await cluster.values() == NOWHERE
    assert await cluster.prepared() == []


async def test_a_prepare_in_a_failed_transaction_is_not_believed(cluster: CommitCluster) -> None:
    links = await cluster.begin(INSERT)
    with pytest.raises(ShardError):
        await links[1].run("SELECT 1/0")

    async def only_prepare(sql: str) -> None:
        # Whatever comes before it would fail with 25P02; PREPARE TRANSACTION itself answers ROLLBACK.
        assert "PREPARE" in sql

    links[1].before = only_prepare
    answer = await links[1].run("PREPARE TRANSACTION 'x'")
    assert answer.tags == (b"ROLLBACK",)
    links[1].before = None
    links[1].lie = T
    outcome = await cluster.coordinator().commit(links, {0, 1, 2})
    assert outcome.result is Result.ABORTED
    assert await cluster.values() == NOWHERE


async def test_a_commit_point_without_a_transaction_decides_nothing(cluster: CommitCluster) -> None:
    links = await cluster.begin(INSERT)
    await links[0].run("ROLLBACK")
    links[0].lie = T
    outcome = await cluster.coordinator(0).commit(links, {0, 1, 2})
    assert outcome.result is Result.ABORTED
    assert await cluster.values() == NOWHERE
    assert await cluster.decisions(0) == []
    assert await cluster.prepared() == []


async def test_a_status_that_is_not_in_a_block_sends_nothing(cluster: CommitCluster) -> None:
    links = await cluster.begin(INSERT)
    with pytest.raises(ShardError):
        await links[2].run("SELECT 1/0")
    links[2].sent.clear()
    outcome = await cluster.coordinator().commit(links, {0, 1, 2})
    assert outcome.result is Result.ABORTED
    assert [link.sent for link in links.values()] == [["ROLLBACK"]] * 3


async def test_shards_that_cannot_be_prepared(cluster: CommitCluster) -> None:
    links = await cluster.begin(["NOTIFY a; " + INSERT, INSERT, INSERT])
    assert (await cluster.coordinator(2).commit(links, {0, 1, 2}, {0})).committed
    assert await cluster.decisions(0) == ["commit"]
    links = await cluster.begin("NOTIFY a; INSERT INTO public.t VALUES (2, 2)")
    outcome = await cluster.coordinator().commit(links, {0, 1, 2}, {0, 1})
    assert outcome.result is Result.ABORTED
    assert outcome.error is not None
    assert outcome.error.sqlstate == "0A000"
    assert not any("PREPARE" in sql for link in links.values() for sql in link.sent)
    assert await cluster.values() == EVERYWHERE


async def test_a_held_cursor_on_a_reading_shard_makes_it_the_commit_point(cluster: CommitCluster) -> None:
    held = "DECLARE c CURSOR WITH HOLD FOR SELECT 1/(v-1) FROM generate_series(1, 2) AS v"
    links = await cluster.begin([held, INSERT, "SELECT 1"])
    outcome = await cluster.coordinator().commit(links, {1}, {0})
    assert outcome.result is Result.ABORTED
    assert outcome.error is not None
    assert outcome.error.sqlstate == "22012"
    assert await cluster.values() == NOWHERE
    assert await cluster.prepared() == []


async def test_set_local_role_is_finished_as_its_owner(cluster: CommitCluster) -> None:
    for shard in range(3):
        async with cluster.control.connection(shard) as connection:
            await connection.execute(
                "DO $$ BEGIN CREATE ROLE twophase_owner; EXCEPTION WHEN duplicate_object THEN END $$;"
                "DO $$ BEGIN CREATE ROLE twophase_login LOGIN IN ROLE twophase_owner;"
                " EXCEPTION WHEN duplicate_object THEN END $$"
            )
    links = await cluster.begin("SET LOCAL ROLE twophase_owner; " + INSERT, role="twophase_login")
    outcome = await cluster.coordinator().commit(links, {0, 1, 2})
    assert (outcome.result, outcome.notices) == (Result.COMMITTED, ())
    assert links[1].sent[-1].startswith("COMMIT PREPARED")
    assert await cluster.values() == EVERYWHERE
    assert await cluster.prepared() == []


async def test_weak_durability_is_raised_and_step_three_is_done_elsewhere(cluster: CommitCluster) -> None:
    links = await cluster.begin("SET LOCAL synchronous_commit = off; " + INSERT)
    seen: list[bytes | None] = []

    async def look(sql: str) -> None:
        if "decide" in sql:
            seen.append((await links[0].link.run("SHOW synchronous_commit")).rows[0][0])

    links[0].before = look
    assert (await cluster.coordinator().commit(links, {0, 1, 2})).committed
    assert seen == [b"on"]
    assert not any("COMMIT PREPARED" in sql for link in links.values() for sql in link.sent)
    assert await cluster.values() == EVERYWHERE


async def test_the_clients_timeouts_do_not_reach_into_the_commit(cluster: CommitCluster) -> None:
    links = await cluster.begin(INSERT)
    waiting = f"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {links[0].pid}"

    async def tighten(sql: str) -> None:
        if "idle_in_transaction" in sql:
            await links[0].link.run(
                "SET LOCAL lock_timeout = '20ms'; SET LOCAL statement_timeout = '200ms'; "
                "SET LOCAL idle_in_transaction_session_timeout = '200ms'"
            )
        if "decide" in sql:
            await cluster.ask(0, "SELECT pg_sleep(0.3)")

    links[0].before = tighten
    async with cluster.control.connection(0) as fence:
        await fence.execute("BEGIN; LOCK TABLE pgchorus.fence IN SHARE MODE")
        commit = asyncio.create_task(cluster.coordinator(0).commit(links, {0, 1, 2}))
        await cluster.until(0, waiting)
        await cluster.ask(0, "SELECT pg_sleep(0.3)")
        assert await cluster.ask(0, waiting) == [(True,)]
        await fence.execute("COMMIT")
    assert (await commit).committed


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_other_isolation_and_odd_settings_commit(cluster: CommitCluster, isolation: str) -> None:
    links = await cluster.begin(
        f"SET TRANSACTION ISOLATION LEVEL {isolation}; SET LOCAL search_path = nowhere; "
        f"SET LOCAL row_security = off; {INSERT}; SAVEPOINT a; SAVEPOINT b"
    )
    assert (await cluster.coordinator().commit(links, {0, 1, 2})).committed
    assert await cluster.values() == EVERYWHERE


# Links that break


def lose(link: TappedLink, word: str, *, read: bool) -> None:
    """Break a link at the message that holds ``word``: before the server reads it, or when it has answered."""

    async def spoil(sql: str) -> None:
        if word in sql:
            link.abort()
            fields = ErrorFields.make("ERROR", "08006", "connection lost")
            raise ShardError(fields, link.shard, lost=True)

    if read:
        link.after = spoil
    else:
        link.before = spoil


@pytest.mark.parametrize("read", [False, True])
async def test_a_participant_lost_in_step_one_rolls_all_back(cluster: CommitCluster, read: bool) -> None:  # noqa: FBT001
    links = await cluster.begin(INSERT)
    lose(links[1], "PREPARE", read=read)
    coordinator = cluster.coordinator()
    outcome = await coordinator.commit(links, {0, 1, 2})
    assert outcome.result is Result.ABORTED
    await coordinator.drain()
    assert await cluster.prepared() == []
    assert await cluster.values() == NOWHERE


@pytest.mark.parametrize("read", [False, True])
async def test_a_commit_point_lost_in_step_two_is_settled(cluster: CommitCluster, read: bool) -> None:  # noqa: FBT001
    links = await cluster.begin(INSERT)
    lose(links[0], "decide", read=read)
    coordinator = cluster.coordinator(0)
    outcome = await coordinator.commit(links, {0, 1, 2})
    assert outcome.result is (Result.COMMITTED if read else Result.ABORTED)
    assert await cluster.decisions(0) == ["commit" if read else "abort"]
    assert await cluster.values() == (EVERYWHERE if read else NOWHERE)
    assert await cluster.prepared() == []


async def test_a_decider_killed_behind_a_fence_is_settled_as_aborted(cluster: CommitCluster) -> None:
    links = await cluster.begin(INSERT)
    async with cluster.control.connection(0) as fence:
        await fence.execute("BEGIN; LOCK TABLE pgchorus.fence IN SHARE MODE")
        commit = asyncio.create_task(cluster.coordinator(0).commit(links, {0, 1, 2}))
        await cluster.until(0, f"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {links[0].pid}")
        await fence.fetchval("SELECT pg_terminate_backend($1)", links[0].pid)
        outcome = await commit
        await fence.execute("COMMIT")
    assert outcome.result is Result.ABORTED
    assert await cluster.values() == NOWHERE
    assert await cluster.prepared() == []


@pytest.mark.parametrize("read", [False, True])
async def test_a_participant_lost_in_step_three_is_finished_elsewhere(cluster: CommitCluster, read: bool) -> None:  # noqa: FBT001
    links = await cluster.begin(INSERT)
    lose(links[2], "COMMIT PREPARED", read=read)
    outcome = await cluster.coordinator(0).commit(links, {0, 1, 2})
    assert (outcome.result, outcome.notices) == (Result.COMMITTED, ())
    assert await cluster.values() == EVERYWHERE
    assert await cluster.prepared() == []


class Unreachable:
    """Control connections of which one shard has none, from when a test says so."""

    def __init__(self, cluster: CommitCluster, shard: int) -> None:
        self.cluster = cluster
        self.shard = shard

    @asynccontextmanager
    async def connection(self, shard: int) -> AsyncGenerator[ControlConnection]:
        if shard == self.shard:
            raise ShardError(ErrorFields.make("ERROR", "08001", "unreachable"), shard, lost=True)
        async with self.cluster.control.connection(shard) as connection:
            yield connection


async def test_nobody_knows_while_the_commit_point_cannot_be_asked(cluster: CommitCluster) -> None:
    links = await cluster.begin(INSERT)
    left: list[frozenset[int]] = []
    warm = cluster.coordinator(0)
    coordinator = Coordinator(
        Unreachable(cluster, 0),
        cluster="test",
        names=cluster.names,
        limits=Limits(settle_timeout_s=0.2),
        random_bits=lambda bits: 0 if bits == 16 else 12345,
        leave=left.append,
    )
    coordinator._keys[0] = await warm._key(0)  # type: ignore[assignment]
    lose(links[0], "decide", read=True)
    outcome = await coordinator.commit(links, {0, 1, 2})
    assert outcome.result is Result.UNKNOWN
    assert outcome.error is not None
    assert outcome.error.sqlstate == "08007"
    assert outcome.gid is not None
    assert outcome.gid in outcome.error.message
    assert left == [frozenset({1, 2})]
    assert len(await cluster.prepared()) == 2
    report = await cluster.recovery().run_once()
    assert len(report.committed) == 2
    assert await cluster.values() == EVERYWHERE


async def test_a_late_participant_is_named_in_a_warning(cluster: CommitCluster) -> None:
    links = await cluster.begin(INSERT)
    left: list[frozenset[int]] = []
    coordinator = Coordinator(
        Unreachable(cluster, 2),
        cluster="test",
        names=cluster.names,
        limits=Limits(apply_timeout_s=0.2),
        random_bits=lambda bits: 0 if bits == 16 else 54321,
        leave=left.append,
    )
    lose(links[2], "COMMIT PREPARED", read=False)
    outcome = await coordinator.commit(links, {0, 1, 2})
    assert outcome.committed
    assert [notice.severity for notice in outcome.notices] == ["WARNING"]
    assert "s2" in outcome.notices[0].message
    assert outcome.gid is not None
    assert outcome.gid in outcome.notices[0].message
    assert left == [frozenset({2})]
    await coordinator.drain()
    assert len((await cluster.recovery().run_once()).committed) == 1
    assert await cluster.values() == EVERYWHERE


async def test_a_part_that_somebody_rolled_back_is_an_alarm(cluster: CommitCluster) -> None:
    links = await cluster.begin(INSERT)

    async def sabotage(sql: str) -> None:
        if sql.startswith("COMMIT PREPARED"):
            async with cluster.control.connection(1) as connection:
                await connection.execute(sql.replace("COMMIT PREPARED", "ROLLBACK PREPARED"))

    links[1].before = sabotage
    outcome = await cluster.coordinator(0).commit(links, {0, 1, 2})
    assert outcome.result is Result.TORN
    assert outcome.error is not None
    assert outcome.error.sqlstate == "XX001"
    assert "s1" in outcome.error.detail


async def test_a_part_that_somebody_else_committed_is_finished(cluster: CommitCluster) -> None:
    links = await cluster.begin(INSERT)

    async def help_out(sql: str) -> None:
        if sql.startswith("COMMIT PREPARED"):
            async with cluster.control.connection(1) as connection:
                await connection.execute(sql)

    links[1].before = help_out
    outcome = await cluster.coordinator(0).commit(links, {0, 1, 2})
    assert (outcome.result, outcome.notices) == (Result.COMMITTED, ())


async def test_recovery_that_was_faster_gives_a_retry(cluster: CommitCluster) -> None:
    links = await cluster.begin(INSERT)

    async def recover(sql: str) -> None:
        if "decide" in sql:
            report = await cluster.recovery().run_once()
            assert len(report.rolled_back) == 2

    links[0].before = recover
    outcome = await cluster.coordinator(0).commit(links, {0, 1, 2})
    assert outcome.result is Result.ABORTED
    assert outcome.error is not None
    assert outcome.error.sqlstate == "40001"
    assert await cluster.decisions(0) == ["abort"]
    assert await cluster.values() == NOWHERE


async def test_a_client_that_hangs_up_stops_nothing(cluster: CommitCluster) -> None:
    links = await cluster.begin(INSERT)
    coordinator = cluster.coordinator(0)
    held = links[0].hold("decide")
    commit = asyncio.create_task(coordinator.commit(links, {0, 1, 2}))
    await held.reached.wait()
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    held.go_on.set()
    await coordinator.drain()
    assert await cluster.values() == EVERYWHERE
    assert await cluster.prepared() == []


async def test_a_proxy_with_an_old_placement_cannot_commit(cluster: CommitCluster) -> None:
    links = await cluster.begin(INSERT)
    coordinator = cluster.coordinator()
    coordinator.epoch = 7
    outcome = await coordinator.commit(links, {0, 1, 2})
    assert outcome.result is Result.ABORTED
    assert outcome.error is not None
    assert outcome.error.sqlstate == record.OTHER_EPOCH
    assert await cluster.values() == NOWHERE
    assert await cluster.prepared() == []


async def test_shards_that_are_databases_of_one_server(make_databases: Callable[[int, str], list[str]]) -> None:
    first, second = make_databases(1, "same")[0], make_databases(1, "same")[0]
    assert first.rpartition("/")[0] == second.rpartition("/")[0]
    one_server = await CommitCluster.make([first, second])
    try:
        links = await one_server.begin(INSERT)
        assert (await one_server.coordinator().commit(links, {0, 1})).committed
        assert await one_server.values() == [[(1, 1)], [(1, 1)]]
    finally:
        await one_server.close()


# Standbys that do not answer


@asynccontextmanager
async def dead_standby(cluster: CommitCluster, shard: int) -> AsyncGenerator[None]:
    """Make every commit on a shard wait for a synchronous standby that is not there."""

    async def name_standby(name: str) -> None:
        async with cluster.control.connection(shard) as connection:
            await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
            await connection.execute("SELECT pg_reload_conf()")
        await cluster.until(shard, f"SELECT current_setting('synchronous_standby_names') = '{name}'")

    await name_standby("nobody")
    try:
        yield
    finally:
        await name_standby("")


async def cancel_its_wait(cluster: CommitCluster, shard: int, pid: int) -> None:
    await cluster.until(shard, f"SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = {pid}")
    await cluster.ask(shard, f"SELECT pg_cancel_backend({pid})")


async def test_a_prepare_that_no_standby_confirmed_is_no_vote(cluster: CommitCluster) -> None:
    links = await cluster.begin(INSERT)
    async with dead_standby(cluster, 1):
        commit = asyncio.create_task(cluster.coordinator(0, Limits(undo_timeout_s=0.5)).commit(links, {0, 1, 2}))
        await cancel_its_wait(cluster, 1, links[1].pid)
        outcome = await commit
    assert outcome.result is Result.ABORTED
    assert outcome.error is not None
    assert outcome.error.sqlstate == "40000"
    await cluster.recovery().run_once()
    assert await cluster.values() == NOWHERE
    assert await cluster.prepared() == []


async def test_a_decision_that_no_standby_confirmed_is_not_known(cluster: CommitCluster) -> None:
    links = await cluster.begin("SET LOCAL synchronous_commit = local; " + INSERT)
    async with dead_standby(cluster, 0):
        commit = asyncio.create_task(cluster.coordinator(0, Limits(settle_timeout_s=0.5)).commit(links, {0, 1, 2}))
        await cancel_its_wait(cluster, 0, links[0].pid)
        outcome = await commit
        assert outcome.result is Result.UNKNOWN
        assert outcome.error is not None
        assert outcome.error.sqlstate == "08007"
        assert await cluster.decisions(0) == ["commit"]
        assert len(await cluster.prepared()) == 2
        # Recovery reads the record too, and does not act on what a failover could still take back.
        cautious = RecoveryLimits(grace_s=0.0, orphan_s=0.0, shard_timeout_s=0.5)
        assert list((await cluster.recovery(cautious).run_once()).unreachable) == ["s0"]
        assert len(await cluster.prepared()) == 2
    assert len((await cluster.recovery().run_once()).committed) == 2
    assert await cluster.values() == EVERYWHERE
