"""Who gets which link, and what a pool keeps."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from eventually import eventually, until_gone
from proxy.errors import ProxyError
from proxy.shards import pool_set as pool_set_module
from proxy.shards.endpoint import ShardEndpoint
from proxy.shards.errors import ShardError
from proxy.shards.pool import LinkPool, PoolLimits
from proxy.shards.pool_set import PoolSet
from proxy.shards.relay import IDLE
from proxy.shards.replicas import ReplicaPool
from proxy.shards.waiters import Waiter
from proxy.wire.frames import frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.shards.link import ShardLink
    from proxy.shards.receiver import Chunk, Frame


class Pools:
    """Makes pools and closes them."""

    def __init__(self, endpoint: ShardEndpoint) -> None:
        self.endpoint = endpoint
        self.made: list[LinkPool] = []

    def __call__(self, **limits: Any) -> LinkPool:
        made = LinkPool(self.endpoint, None, "postgres", None, PoolLimits(**limits))
        self.made.append(made)
        return made


@pytest.fixture
async def make_pool(endpoint: ShardEndpoint) -> AsyncIterator[Pools]:
    pools = Pools(endpoint)
    yield pools
    for pool in pools.made:
        await pool.close()
        for link in list(pool._lent):
            pool.release(link)
        await eventually(lambda pool=pool: pool.is_unused)


@pytest.fixture
async def admin(endpoint: ShardEndpoint) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(endpoint.dsn)
    yield connection
    await connection.close()


async def waiting(pool: LinkPool, count: int) -> list[asyncio.Task[ShardLink]]:
    """Start acquirers that queue in order."""
    tasks = []
    for _ in range(count):
        tasks.append(asyncio.ensure_future(pool.acquire()))
        await asyncio.sleep(0)
    assert pool.stats.waiting == count
    return tasks


async def test_the_link_that_came_back_last_is_lent_first(make_pool: Pools) -> None:
    pool = make_pool(size=3)
    first, second, third = [await pool.acquire() for _ in range(3)]
    for link in (second, third, first):
        pool.release(link)
    assert pool.stats.idle == 3
    assert pool.take() is first
    assert await pool.acquire() is third
    assert await pool.acquire() is second
    assert pool.take() is None
    assert pool.stats.opened == 3


async def test_waiters_are_served_in_order(make_pool: Pools) -> None:
    pool = make_pool(size=1)
    link = await pool.acquire()
    served: list[int] = []

    async def work(number: int) -> None:
        taken = await pool.acquire()
        served.append(number)
        await taken.run("SELECT 1")
        pool.release(taken)

    tasks = []
    for number in range(20):
        tasks.append(asyncio.ensure_future(work(number)))
        await asyncio.sleep(0)
    pool.release(link)
    await asyncio.gather(*tasks)
    assert served == list(range(20))
    assert pool.stats.opened == 1


async def test_an_exhausted_pool_says_53300_in_time(make_pool: Pools) -> None:
    pool = make_pool(size=1, wait_timeout_s=0.05)
    link = await pool.acquire()
    with pytest.raises(ProxyError) as caught:
        await pool.acquire()
    assert caught.value.sqlstate == "53300"
    assert '"s0"' in caught.value.message
    assert pool.stats.waiting == 0
    pool.release(link)
    assert await pool.acquire() is link


async def test_who_holds_a_link_elsewhere_does_not_wait_for_those_who_may_wait_for_him(make_pool: Pools) -> None:
    pool = make_pool(size=1, extra=2, wait_timeout_s=5)
    first = await pool.acquire()
    (queued,) = await waiting(pool, 1)
    further = [await pool.acquire(further=True) for _ in range(2)]
    assert pool.stats.in_use == 3
    assert not queued.done()
    last = asyncio.ensure_future(pool.acquire(further=True))
    await asyncio.sleep(0)
    assert pool.stats.waiting == 2, "even that has an end"
    last.cancel()
    # While more than `size` are in use nobody else gets one.
    pool.release(further.pop())
    pool.release(further.pop())
    await asyncio.sleep(0)
    assert not queued.done()
    assert pool.take() is None
    pool.release(first)
    pool.release(await queued)
    assert pool.stats.idle == 3
    lent = pool.take()
    assert lent is not None
    assert pool.take() is None, "the others are there, but for those who hold one elsewhere"
    pool.release(await pool.acquire(further=True))
    pool.release(lent)


async def test_who_holds_a_link_elsewhere_and_must_wait_is_the_first_to_get_what_comes_back(make_pool: Pools) -> None:
    """Even beyond ``size``: those who have the others may be waiting for what it has locked, until it is told 53300."""
    pool = make_pool(size=1, extra=1, wait_timeout_s=5)
    first = await pool.acquire()
    (queued,) = await waiting(pool, 1)
    second = await pool.acquire(further=True)
    third = asyncio.ensure_future(pool.acquire(further=True))
    fourth = asyncio.ensure_future(pool.acquire(further=True))
    await asyncio.sleep(0)
    pool.release(first)
    assert await third is first
    pool.take_back(first)
    assert await fourth is first
    assert not queued.done()
    pool.release(second)
    await asyncio.sleep(0)
    assert not queued.done(), "one is lent still, and that is all for those who hold nothing"
    pool.release(first)
    pool.release(await queued)
    assert pool.stats.idle == 2
    assert pool.stats.opened == 2


async def test_places_that_are_new_go_to_those_who_wait_and_fewer_are_kept(make_pool: Pools) -> None:
    pool = make_pool(size=1, extra=0)
    held = [await pool.acquire()]
    tasks = await waiting(pool, 3)
    pool.use_limits(replace(pool.limits, size=3))
    held += await asyncio.gather(*tasks[:2])
    assert len({link.pid for link in held}) == 3
    assert not tasks[2].done()
    pool.use_limits(replace(pool.limits, size=1))
    pool.release(held.pop())
    pool.release(held.pop())
    assert not tasks[2].done(), "one is lent still, and more than one is not"
    pool.release(held.pop())
    last = await tasks[2]
    pool.use_limits(replace(pool.limits, size=1))
    await eventually(lambda: pool.stats.closed == 2 and pool._used == 1)  # their places are free a moment later
    pool.release(last)
    pool.pause()
    pool.use_limits(replace(pool.limits, size=2))
    assert pool.take() is None, "a pause is a pause"
    pool.resume()
    assert await pool.acquire() is last
    pool.release(last)


async def test_cancelling_those_who_wait_takes_nothing_along(make_pool: Pools) -> None:
    pool = make_pool(size=1)
    link = await pool.acquire()
    first, second, third = await waiting(pool, 3)
    second.cancel()
    pool.release(link)  # handed to the first, which is cancelled before it hears of it
    first.cancel()
    assert await third is link
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    pool.release(link)
    stats = pool.stats
    assert (stats.in_use, stats.idle, stats.waiting, stats.opened, stats.closed, stats.waits) == (0, 1, 0, 1, 0, 3)


async def test_cancelling_one_who_was_given_a_place_to_open_hands_the_place_on(make_pool: Pools) -> None:
    pool = make_pool(size=1)
    link = await pool.acquire()
    first, second = await waiting(pool, 2)
    link.abort()
    pool.release(link)
    first.cancel()
    opened = await second
    assert opened is not link
    with pytest.raises(asyncio.CancelledError):
        await first
    pool.release(opened)
    assert await pool.acquire() is opened


async def test_cancelling_while_connecting_frees_the_place(make_pool: Pools) -> None:
    pool = make_pool(size=1)
    for delay in range(30):
        task = asyncio.ensure_future(pool.acquire())
        for _ in range(delay):
            await asyncio.sleep(0.0005)
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(result, BaseException):
            result.abort()
            pool.release(result)
    link = await pool.acquire()
    pool.release(link)
    assert pool.stats.in_use == 0


async def test_a_storm_of_cancellations_leaks_nothing(make_pool: Pools) -> None:
    pool = make_pool(size=3)

    async def work(number: int) -> None:
        link = await pool.acquire()
        try:
            await link.run("SELECT 1")
            if number % 5 == 0:
                link.dirty = True
        finally:
            pool.release(link)

    for _ in range(10):
        tasks = [asyncio.ensure_future(work(number)) for number in range(30)]
        for number, task in enumerate(tasks):
            if number % 3 == 0:
                task.cancel()
            await asyncio.sleep(0.001 if number % 7 == 0 else 0)
        for task in tasks[1::4]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    links = [await pool.acquire() for _ in range(3)]
    assert pool.stats.in_use == 3
    assert pool.stats.waiting == 0
    for link in links:
        assert link.status == IDLE
        pool.release(link)


async def test_a_failure_to_connect_is_raised_and_frees_the_place(endpoint: ShardEndpoint) -> None:
    pool = LinkPool(endpoint, None, "nobody", None, PoolLimits(size=1))
    tasks = [asyncio.ensure_future(pool.acquire()) for _ in range(3)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [getattr(result, "sqlstate", None) for result in results] == ["28000"] * 3
    assert pool.is_unused
    await pool.close()


async def test_a_link_that_its_server_closed_while_idle_is_dropped_at_once(
    make_pool: Pools, admin: asyncpg.Connection
) -> None:
    pool = make_pool(size=2)
    link, other = await pool.acquire(), await pool.acquire()
    pool.release(link)
    pool.release(other)
    await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", link.pid)
    await eventually(lambda: pool.stats.idle == 1)
    assert pool.stats.closed == 1
    assert await pool.acquire() is other
    assert not (await pool.acquire()).closed


async def test_links_that_are_not_idle_are_closed(make_pool: Pools, admin: asyncpg.Connection) -> None:
    pool = make_pool(size=4)
    begun, failed, busy, stubborn = [await pool.acquire() for _ in range(4)]
    await begun.run("BEGIN")
    with pytest.raises(ShardError):
        await failed.run("BEGIN; SELECT 1/0")
    stream = busy.stream(frame(b"Q", b"SELECT pg_sleep(60)\0"))
    stubborn.resettable = False
    pids = [link.pid for link in (begun, failed, busy, stubborn)]
    for link in (begun, failed, busy, stubborn):
        pool.release(link)
    await eventually(lambda: pool.is_unused)
    assert all(link.closed for link in (begun, failed, busy, stubborn))
    with pytest.raises(ShardError, match="08006"):
        await stream.next()
    # The statement was cancelled, however soon after it was sent: its backend does not sleep on for a minute.
    await until_gone(admin, *pids)


async def test_a_dirty_link_is_washed_before_the_next_one_has_it(make_pool: Pools) -> None:
    pool = make_pool(size=1)
    link = await pool.acquire()
    await link.run("SET work_mem = '9MB'; PREPARE p AS SELECT 1")
    link.settings = "mine"
    link.dirty = True
    pool.release(link)
    assert pool.stats.idle == 0
    again = await pool.acquire()
    assert again is link
    assert again.settings is None
    answer = await again.run("SELECT current_setting('work_mem') = '9MB', count(*) FROM pg_prepared_statements")
    assert answer.rows == [[b"f", b"0"]]


async def test_a_prefix_that_never_went_out_does_not_reach_the_next_one(make_pool: Pools) -> None:
    pool = make_pool(size=1)
    link = await pool.acquire()
    link.prefix(frame(b"Q", b"BEGIN\0"))
    pool.release(link)
    again = await pool.acquire()
    assert again is link
    assert (await again.run("SELECT 1")).status == IDLE


async def test_a_cancelled_link_is_rinsed(make_pool: Pools) -> None:
    pool = make_pool(size=1)
    for _ in range(20):
        link = await pool.acquire()
        await asyncio.gather(link.run("SELECT 1"), link.cancel(), return_exceptions=True)
        pool.release(link)
        again = await pool.acquire()
        assert (await again.run("SELECT 2")).rows == [[b"2"]]
        pool.release(again)


async def test_a_cancel_under_way_when_the_link_comes_back_is_waited_for(
    make_pool: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(size=1)
    link = await pool.acquire()
    loan, gate = link._loan, asyncio.Event()

    class Slow:
        async def cancel(self) -> None:
            await gate.wait()
            await loan.cancel()

    monkeypatch.setattr(link, "_loan", Slow())
    cancelling = asyncio.ensure_future(link.cancel())
    pool.release(link)  # before the task above has begun
    waiter = (await waiting(pool, 1))[0]
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiter.done()
    gate.set()
    assert await waiter is link
    assert cancelling.done()
    assert (await link.run("SELECT 1")).rows == [[b"1"]]


async def test_a_link_that_cannot_be_washed_is_replaced(
    make_pool: Pools, admin: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """DISCARD ALL waits for a lock that it cannot get: dropping its temporary table."""
    pool = make_pool(size=1, wash_timeout_s=0.1)
    link = await pool.acquire()
    await link.run("CREATE TEMP TABLE t (a int)")
    schema = (await link.run("SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()")).rows[0][0]
    assert schema is not None
    await admin.execute(f"BEGIN; LOCK TABLE {schema.decode()}.t")
    link.dirty = True
    pool.release(link)
    other = await pool.acquire()
    assert other is not link
    assert link.closed
    assert "could not be reset" in caplog.text
    await admin.execute("ROLLBACK")


async def test_a_link_idle_for_long_is_tried_before_it_is_lent(make_pool: Pools) -> None:
    pool = make_pool(size=2, idle_check_s=-1.0, wash_timeout_s=0.1)
    good, dead = await pool.acquire(), await pool.acquire()
    pool.release(good)
    pool.release(dead)
    assert pool.take() is None
    dead._transport.pause_reading()  # a network that swallows everything
    assert await pool.acquire() is good
    assert dead.closed


async def test_links_that_nobody_wants_are_closed(make_pool: Pools) -> None:
    pool = make_pool(size=2, idle_lifetime_s=0.05)
    links = [await pool.acquire(), await pool.acquire()]
    for link in links:
        pool.release(link)
    await eventually(lambda: pool.is_unused)
    assert all(link.closed and link.left for link in links)
    assert pool.stats.closed == 2


async def test_releasing_twice_is_a_mistake(make_pool: Pools) -> None:
    pool = make_pool(size=2)
    link = await pool.acquire()
    pool.release(link)
    with pytest.raises(ValueError, match="not lent"):
        pool.release(link)


async def test_a_receiver_may_release_the_link_in_its_last_call(make_pool: Pools) -> None:
    """The way of the hot path: no task, no coroutine between one client's end and the next one's beginning."""
    pool = make_pool(size=1)
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class Hot:
        rounds = 3

        def __init__(self, link: ShardLink) -> None:
            self.link = link

        def frames(self, _chunk: Chunk, index: list[Frame], /) -> bool:
            if index[-1][0] != ord("Z"):
                return False
            pool.release(self.link)
            Hot.rounds -= 1
            taken = pool.take()
            assert taken is self.link
            if Hot.rounds:
                taken.exchange(frame(b"Q", b"SELECT 1\0"), Hot(taken))
            else:
                pool.release(taken)
                done.set_result(None)
            return True

        def lost(self, error: ShardError, /) -> None:
            done.set_exception(error)

    link = await pool.acquire()
    link.exchange(frame(b"Q", b"SELECT 1\0"), Hot(link))
    await done
    assert pool.stats.idle == 1
    assert not link.closed


async def test_closing_refuses_those_who_wait_and_waits_for_those_who_work(make_pool: Pools) -> None:
    pool = make_pool(size=1)
    link = await pool.acquire()
    (waiter,) = await waiting(pool, 1)
    await pool.close()
    with pytest.raises(ProxyError, match="shutting down"):
        await waiter
    with pytest.raises(ProxyError, match="shutting down"):
        await pool.acquire()
    assert (await link.run("SELECT 1")).rows == [[b"1"]]
    pool.release(link)
    await eventually(lambda: pool.is_unused)
    assert link.closed


async def test_a_set_has_one_pool_for_each_shard_database_and_role(shard_databases: list[str]) -> None:
    pools = PoolSet([ShardEndpoint(f"s{at}", at, dsn) for at, dsn in enumerate(shard_databases)], PoolLimits())
    first = pools.pool(0, None, "postgres")
    assert pools.pool(0, None, "postgres") is first
    assert len({pools.pool(1, None, "postgres"), pools.pool(0, "postgres", "postgres"), first}) == 3
    link = await first.acquire()
    assert (await link.run("SELECT current_database()")).rows == [[shard_databases[0].rpartition("/")[2].encode()]]
    first.release(link)
    await pools.forget("postgres")
    assert list(pools) == []
    assert link.closed
    assert pools.pool(0, None, "postgres") is not first
    await pools.close()


async def test_a_set_does_not_keep_pools_for_names_that_clients_make_up(endpoint: ShardEndpoint) -> None:
    pools = PoolSet([endpoint], PoolLimits())
    real = pools.pool(0, None, "postgres")
    link = await real.acquire()
    for number in range(2000):
        pools.pool(0, None, f"role {number}")
    assert len(list(pools)) <= pool_set_module._MANY_POOLS
    assert pools.pool(0, None, "postgres") is real
    real.release(link)
    await pools.close()


class LaneInQueue(Waiter):
    """A fast lane that waits: what it was told, in order."""

    def __init__(self, pool: LinkPool, *, takes: bool = True) -> None:
        super().__init__()
        self.takes = takes
        self.told: list[object] = []
        self.entered = pool.enter(self)

    def handed(self, link: ShardLink | None) -> bool:
        self.told.append(link)
        return self.takes and link is not None

    def refused(self, error: ProxyError) -> None:  # noqa: ARG002 - the long road says it
        self.told.append(None)

    def is_late(self, error: ProxyError) -> bool:
        self.told.append(error)
        return True


async def test_lanes_and_coroutines_stand_in_one_queue(make_pool: Pools) -> None:
    pool = make_pool(size=1)
    link = await pool.acquire()
    first = LaneInQueue(pool)
    (second,) = await waiting_behind(pool, 1)
    third = LaneInQueue(pool)
    assert pool.stats.waiting == 3
    await asyncio.sleep(0.01)  # longer than a tick of the loop's clock
    pool.take_back(link)
    assert first.told == [link], "in the same turn"
    pool.release(link)
    await asyncio.sleep(0)
    assert second.done()
    assert not third.told
    pool.release(await second)
    assert third.told == [link]
    stats = pool.stats
    assert (stats.in_use, stats.waiting, stats.waits, stats.lent) == (1, 0, 3, 4)
    assert stats.waited_s > 0


async def waiting_behind(pool: LinkPool, count: int) -> list[asyncio.Task[ShardLink]]:
    """Start acquirers that queue behind those who wait."""
    before = pool.stats.waiting
    tasks = [asyncio.ensure_future(pool.acquire()) for _ in range(count)]
    await asyncio.sleep(0)
    assert pool.stats.waiting == before + count
    return tasks


async def test_what_a_lane_has_no_use_for_goes_to_the_next(make_pool: Pools) -> None:
    """However many they are: that is no recursion."""
    pool = make_pool(size=1)
    link = await pool.acquire()
    useless = [LaneInQueue(pool, takes=False) for _ in range(2000)]
    (task,) = await waiting_behind(pool, 1)
    pool.take_back(link)
    assert [lane.told for lane in useless] == [[link]] * 2000
    assert await task is link
    alone = LaneInQueue(pool, takes=False)
    pool.release(link)
    assert alone.told == [link]
    assert (pool.stats.in_use, pool.stats.idle, pool.stats.waiting) == (0, 1, 0)
    assert pool.take() is link


async def test_a_place_instead_of_a_link_is_nothing_for_a_lane(make_pool: Pools) -> None:
    pool = make_pool(size=1)
    link = await pool.acquire()
    lanes = [LaneInQueue(pool), LaneInQueue(pool)]
    link.abort()
    pool.release(link)
    assert [lane.told for lane in lanes] == [[None], [None]]
    assert not LaneInQueue(pool).entered, "acquire() has a link to open"
    assert pool.stats.waiting == 0
    another = await pool.acquire()
    grown = LaneInQueue(pool)
    pool.use_limits(replace(pool.limits, size=2))
    assert grown.told == [None]
    assert await pool.acquire() is not another
    assert pool.stats.in_use == 2


async def test_a_lane_does_not_enter_where_a_coroutine_would_not_queue(make_pool: Pools) -> None:
    pool = make_pool(size=1)
    assert not LaneInQueue(pool).entered
    link = await pool.acquire()
    early = LaneInQueue(pool)
    pool.pause()
    assert not LaneInQueue(pool).entered
    pool.release(link)
    assert early.told == [link], "who is in the queue already is served"
    pool.resume()
    last = LaneInQueue(pool)
    assert last.entered
    await pool.close()
    assert last.told == [None]
    assert not LaneInQueue(pool).entered


async def test_a_lane_that_leaves_is_passed_over(make_pool: Pools) -> None:
    pool = make_pool(size=1)
    link = await pool.acquire()
    gone, staying = LaneInQueue(pool), LaneInQueue(pool)
    pool.leave(gone)
    pool.leave(gone)
    pool.take_back(link)
    assert (gone.told, staying.told) == ([], [link])


async def test_lanes_that_have_waited_too_long_are_told_in_time(make_pool: Pools) -> None:
    pool = make_pool(size=1, wait_timeout_s=30)
    await pool.acquire()
    first = LaneInQueue(pool)
    (task,) = await waiting_behind(pool, 1)
    second = LaneInQueue(pool)
    pool.use_limits(replace(pool.limits, wait_timeout_s=0.05))
    await eventually(lambda: len(second.told) == 1)
    for lane in (first, second):
        (error,) = lane.told
        assert isinstance(error, ProxyError)
        assert error.sqlstate == "53300"
    assert pool.stats.waiting == 1, "a coroutine has a clock of its own"
    task.cancel()


def test_a_pool_of_replicas_can_be_made_in_any_build() -> None:
    """A compiled class has no interpreted subclasses, unless it says so: that is found when one is made, not before."""
    assert isinstance(ReplicaPool.__new__(ReplicaPool), LinkPool)
