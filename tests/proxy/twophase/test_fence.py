"""The fence: no fractured read under writers, and what happens at its edges."""

from __future__ import annotations

import asyncio
import random
from contextlib import nullcontext

import pytest

from proxy.errors import ProxyError
from proxy.shards.errors import ShardError
from proxy.twophase import record
from proxy.twophase.coordinator import Coordinator
from proxy.twophase.fence import Fence, FenceError, FenceLimits, FenceLostError, settle
from twophase_servers import CLUSTER, CommitCluster, make_gid

SEED = 20261122
SHARDS = 3
WRITERS = 4
READERS = 3
READS = 600


def fence_of(cluster: CommitCluster, limits: FenceLimits | None = None, epoch: int = 1) -> Fence:
    return Fence(cluster.control, cluster=CLUSTER, names=cluster.names, limits=limits, epoch=epoch)


class Load:
    """Writers that set one row to the same number on two shards, the commit point being any of three."""

    def __init__(self, cluster: CommitCluster, coordinator: Coordinator) -> None:
        self.cluster = cluster
        self.coordinator = coordinator
        self.commits = 0
        self.stop = False

    async def write(self, key: int) -> None:
        links = {shard: await self.cluster.link(shard) for shard in range(SHARDS)}
        value = 0
        while not self.stop:
            value += 1
            text = f"UPDATE public.t SET v = {value} WHERE k = {key}"
            await asyncio.gather(*(link.run(f"BEGIN; {text}") for link in links.values()))
            outcome = await self.coordinator.commit(links, set(links))
            assert outcome.committed, outcome
            assert not outcome.notices, outcome
            self.commits += 1

    async def read(self, fence: Fence | None, count: int, seed: int) -> int:
        """Read pairs of shards; return how many reads were fractured."""
        choice = random.Random(seed)
        links = {shard: await self.cluster.link(shard) for shard in range(SHARDS)}
        fractured = 0
        for _ in range(count):
            pair = choice.sample(range(SHARDS), 2)
            async with fence.hold(pair) if fence is not None else nullcontext() as held:
                # A snapshot at each shard, as a Bind would take it; the rows are looked at when the fence is gone.
                await asyncio.gather(
                    *(links[shard].run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1") for shard in pair)
                )
                if held is not None:
                    await held.release_confirmed()
            rows = [(await links[shard].run("SELECT k, v FROM public.t ORDER BY k; COMMIT")).rows for shard in pair]
            fractured += rows[0] != rows[1]
        return fractured


async def load(cluster: CommitCluster, *, fence: Fence | None, reads: int) -> tuple[int, int]:
    """Run writers and readers; return the number of commits and of fractured reads."""
    for shard in range(SHARDS):
        async with cluster.control.connection(shard) as connection:
            await connection.execute(f"INSERT INTO public.t SELECT k, 0 FROM generate_series(1, {WRITERS}) AS k")
    coordinator = Coordinator(cluster.control, cluster=CLUSTER, names=cluster.names)
    under_load = Load(cluster, coordinator)
    writers = [asyncio.create_task(under_load.write(key)) for key in range(1, WRITERS + 1)]
    fractured = await asyncio.gather(
        *(under_load.read(fence, reads // READERS, SEED + reader) for reader in range(READERS))
    )
    under_load.stop = True
    await asyncio.gather(*writers)
    return under_load.commits, sum(fractured)


async def test_no_read_behind_the_fence_is_fractured(cluster: CommitCluster) -> None:
    commits, fractured = await load(cluster, fence=fence_of(cluster), reads=READS)
    assert fractured == 0
    assert commits > READS // 20  # writers got their turn


async def test_without_the_fence_reads_are_fractured(cluster: CommitCluster) -> None:
    """The load bites: otherwise the test above would show nothing."""
    _, fractured = await load(cluster, fence=None, reads=300)
    assert fractured > 10


async def test_a_decision_waits_for_the_fence(cluster: CommitCluster) -> None:
    links = await cluster.begin("INSERT INTO public.t VALUES (1, 1)")
    async with fence_of(cluster).hold([0, 1]) as held:
        commit = asyncio.create_task(cluster.coordinator(2).commit(links, {0, 1, 2}))
        await cluster.until(2, f"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {links[2].pid}")
        assert await cluster.decisions(2) == []
        await held.release_confirmed()
    assert (await commit).committed


async def decided_and_left(cluster: CommitCluster, serial: int = 1) -> str:
    """Leave a transaction that is decided on s0 and still prepared on s1; return its name there."""
    links = await cluster.begin(f"INSERT INTO public.t VALUES ({serial}, {serial})")
    gid = make_gid("s0", serial, 1_790_000_000_000)
    answer = await links[1].run(f"SELECT pg_current_xact_id(); PREPARE TRANSACTION '{gid.at('s1')}'")
    xid = record.parse_xid(answer.rows[0][0])
    own_xid = record.parse_xid((await links[0].run("SELECT pg_current_xact_id()")).rows[0][0])
    async with cluster.control.connection(0) as connection:
        key = await connection.fetchval(record.READ_KEY)
    await links[0].run(record.decide_sql(gid, own_xid, [("s1", xid)], 1, key) + "; COMMIT")
    await links[2].run("ROLLBACK")
    return gid.at("s1")


async def test_what_is_decided_is_shown_behind_the_fence(cluster: CommitCluster) -> None:
    name = await decided_and_left(cluster)
    assert await cluster.prepared() == [name]
    async with fence_of(cluster).hold([0, 1]) as held:
        assert await cluster.prepared() == []
        await held.release_confirmed()
    assert (await cluster.values())[:2] == [[(1, 1)], [(1, 1)]]


async def test_a_shard_that_is_not_read_is_not_waited_for(cluster: CommitCluster) -> None:
    name = await decided_and_left(cluster)
    async with fence_of(cluster).hold([0, 2]) as held:
        await held.release_confirmed()
    assert await cluster.prepared() == [name]


async def test_settle_finishes_what_is_decided_and_nothing_else(cluster: CommitCluster) -> None:
    decided = await decided_and_left(cluster)
    link = await cluster.link(1)
    undecided = make_gid("s0", 77, 1_790_000_000_000).at("s1")
    await link.run(f"BEGIN; INSERT INTO public.t VALUES (7, 7); PREPARE TRANSACTION '{undecided}'")
    assert await cluster.prepared() == sorted([decided, undecided])
    assert await settle(cluster.control, CLUSTER, cluster.names, 1) == []
    assert await cluster.prepared() == [undecided]
    assert await settle(cluster.control, CLUSTER, cluster.names, 2) == []


async def kill_fences(cluster: CommitCluster, shard: int) -> None:
    killed = await cluster.ask(
        shard,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE relation = 'pgchorus.fence'::regclass "
        "AND mode = 'ShareLock' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    assert killed == [(True,)]


@pytest.mark.parametrize("shard", [0, 1, 2])
async def test_a_fence_that_vanished_is_noticed(cluster: CommitCluster, shard: int) -> None:
    fence = fence_of(cluster)
    async with fence.hold([0, 1]) as held:
        await kill_fences(cluster, shard)
        with pytest.raises(FenceLostError):
            await held.release_confirmed()
    async with fence.hold([0, 1]) as held:
        await held.release_confirmed()


async def test_a_reader_that_is_slow_to_bind_loses_the_fence(cluster: CommitCluster) -> None:
    async with fence_of(cluster, FenceLimits(bind_s=0.05)).hold([0, 1]) as held:
        await cluster.ask(0, "SELECT pg_sleep(0.3)")
        with pytest.raises(FenceLostError):
            await held.release_confirmed()


async def test_a_fence_behind_a_stuck_decider_gives_up(cluster: CommitCluster) -> None:
    async with cluster.control.connection(1) as connection:
        await connection.execute("BEGIN; LOCK TABLE pgchorus.fence IN ROW EXCLUSIVE MODE")
        fence = fence_of(cluster, FenceLimits(lock_ms=50, attempts=2))
        with pytest.raises(FenceError) as caught:
            async with fence.hold([0, 1]):
                pytest.fail("no fence can be had")
        assert caught.value.sqlstate == "55P03"
        await connection.execute("ROLLBACK")
    async with fence.hold([0, 1]) as held:
        await held.release_confirmed()


async def test_a_fence_by_a_proxy_with_an_old_placement_is_refused(cluster: CommitCluster) -> None:
    with pytest.raises(ShardError) as caught:
        async with fence_of(cluster, epoch=9).hold([0, 1]):
            pytest.fail("no fence can be had")
    assert caught.value.sqlstate == record.OTHER_EPOCH


async def test_readers_share_a_fence_that_is_being_taken(cluster: CommitCluster) -> None:
    fence = fence_of(cluster)
    at_once = 12  # more than there are control connections

    async def read() -> None:
        async with fence.hold([0, 1]) as held:
            await held.release_confirmed()

    await asyncio.gather(*(read() for _ in range(at_once)))
    assert fence.taken < at_once


async def test_nobody_joins_a_fence_that_is_held(cluster: CommitCluster) -> None:
    """Else its age would have no bound, and deciders no turn."""
    fence = fence_of(cluster)
    async with fence.hold([0, 1]) as first:
        assert fence.taken == 1
        async with fence.hold([0, 1]) as second:
            assert fence.taken == 2
            await first.release_confirmed()
            await second.release_confirmed()


async def test_a_fence_that_waits_holds_nothing_behind_the_shard_it_waits_for(cluster: CommitCluster) -> None:
    """In parallel, two readers and two deciders wait for each other in the fair queues of two shards."""
    fence = fence_of(cluster)
    first, *others = await fence.order()

    async def read() -> None:
        async with fence.hold([0, 1]) as held:
            await held.release_confirmed()

    async with cluster.control.connection(first) as decider:
        await decider.execute("BEGIN; LOCK TABLE pgchorus.fence IN ROW EXCLUSIVE MODE")
        reading = asyncio.create_task(read())
        locks = "FROM pg_locks WHERE relation = 'pgchorus.fence'::regclass"
        await cluster.until(first, f"SELECT EXISTS (SELECT {locks} AND NOT granted)")
        for shard in others:
            assert (await cluster.ask(shard, f"SELECT count(*) {locks}")) == [(0,)]
        await decider.execute("COMMIT")
    await reading


async def test_an_abandoned_fence_is_let_go(cluster: CommitCluster) -> None:
    fence = fence_of(cluster)
    with pytest.raises(ProxyError, match="changed my mind"):
        async with fence.hold([0, 1]):
            raise ProxyError("57014", "changed my mind")
    await cluster.until(0, "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE relation = 'pgchorus.fence'::regclass)")


async def test_every_proxy_takes_the_shards_in_the_same_order(cluster: CommitCluster) -> None:
    backwards = type(cluster)(
        [type(one)(one.name, 2 - one.index, one.dsn) for one in reversed(cluster.endpoints)], cluster.control
    )
    one = fence_of(cluster)
    other = Fence(_Reversed(cluster), cluster=CLUSTER, names=backwards.names)
    assert [one.names[shard] for shard in await one.order()] == [other.names[shard] for shard in await other.order()]


class _Reversed:
    """The same shards, in the opposite order of configuration."""

    def __init__(self, cluster: CommitCluster) -> None:
        self.connection = lambda shard: cluster.control.connection(SHARDS - 1 - shard)
