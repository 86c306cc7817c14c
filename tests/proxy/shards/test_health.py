"""Down, probed, up again: with a probe under our control, and with a server that is really killed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from eventually import eventually
from proxy.shards import health as health_module
from proxy.shards.control import ControlLinks
from proxy.shards.endpoint import ShardEndpoint
from proxy.shards.errors import ShardError, lost_link, unreachable
from proxy.shards.health import ShardHealth
from proxy.shards.pool import LinkPool, PoolLimits
from proxy.wire.fields import ErrorFields

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from proxy.demo.embedded import EmbeddedServer

LOST = lost_link(1, "s1")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(health_module, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(health_module, "_LONGEST_PAUSE_S", 0.1)
    return iter(())


class Probe:
    """A probe that fails until told otherwise, and counts."""

    def __init__(self) -> None:
        self.works = False
        self.calls = 0

    async def __call__(self, shard: int) -> None:
        self.calls += 1
        await asyncio.sleep(0)
        if not self.works:
            raise unreachable(shard, f"s{shard}")


@pytest.fixture
async def probe() -> Probe:
    return Probe()


@pytest.fixture
async def health(probe: Probe) -> AsyncIterator[ShardHealth]:
    made = ShardHealth(["s0", "s1"], probe, ready_timeout_s=5)
    yield made
    await made.close()


async def test_all_shards_begin_as_up(health: ShardHealth, probe: Probe) -> None:
    assert health.shard_is_up(0)
    await health.ready(0)
    assert probe.calls == 0


async def test_a_shard_that_was_lost_is_down_until_a_probe_works(health: ShardHealth, probe: Probe) -> None:
    health.failed(1, LOST)
    health.failed(1, LOST)
    assert not health.shard_is_up(1)
    assert health.shard_is_up(0)
    with pytest.raises(ShardError, match="08001"):
        await health.ready(1)
    probe.works = True
    await health.ready(1)
    assert health.shard_is_up(1)


@pytest.mark.parametrize("sqlstate", ["28P01", "3D000", "53300", "25P03", "57P05", "08P01", "XX000", "40P01"])
async def test_what_concerns_one_link_says_nothing_of_the_shard(health: ShardHealth, sqlstate: str) -> None:
    health.failed(1, ShardError(ErrorFields.make("FATAL", sqlstate, "x"), 1, lost=True))
    assert health.shard_is_up(1)


@pytest.mark.parametrize("sqlstate", ["57P01", "57P02", "57P03", "08006", "08001"])
async def test_what_may_concern_the_server_makes_it_down(health: ShardHealth, sqlstate: str) -> None:
    health.failed(1, ShardError(ErrorFields.make("FATAL", sqlstate, "x"), 1, lost=True))
    assert not health.shard_is_up(1)


async def test_a_doubt_is_looked_into_before_the_shard_counts_as_down(health: ShardHealth, probe: Probe) -> None:
    probe.works = True
    health.doubted(1)
    health.doubted(1)
    assert health.shard_is_up(1)
    await eventually(lambda: probe.calls == 1)
    assert health.shard_is_up(1)
    probe.works = False

    def doubted_until_down() -> bool:
        health.doubted(1)
        return not health.shard_is_up(1)

    await eventually(doubted_until_down)


async def test_who_has_patience_waits_over_probes_that_fail(probe: Probe) -> None:
    health = ShardHealth(["s0", "s1"], probe, patience_s=[0, 5])
    seen: list[int] = []
    health.on_down(seen.append)
    health.failed(1, LOST)
    health.failed(1, LOST)
    assert seen == [1]
    waiting = asyncio.ensure_future(health.ready(1))
    await eventually(lambda: probe.calls > 3)
    assert not waiting.done()
    probe.works = True
    await waiting
    assert health.shard_is_up(1)
    await health.close()


async def test_patience_ends_with_what_was_heard_last(probe: Probe) -> None:
    health = ShardHealth(["s0", "s1"], probe, patience_s=[0, 0.2])
    health.failed(1, LOST)
    begin = asyncio.get_running_loop().time()
    with pytest.raises(ShardError, match="08001"):
        await health.ready(1)
    assert asyncio.get_running_loop().time() - begin >= 0.19
    # Somebody who has waited before does not begin anew.
    with pytest.raises(ShardError, match="08001"):
        await health.ready(1, until=begin)
    health.failed(0, LOST)
    with pytest.raises(ShardError, match="08001"):
        await health.ready(0)
    await health.close()


async def test_it_is_not_up_before_those_who_asked_have_finished(health: ShardHealth, probe: Probe) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()
    returned: list[int] = []

    async def recover(shard: int) -> None:
        entered.set()
        await leave.wait()
        returned.append(shard)

    health.on_return(recover)
    probe.works = True
    health.failed(1, LOST)
    waiting = asyncio.ensure_future(health.ready(1))
    await entered.wait()
    assert not health.shard_is_up(1)
    assert not waiting.done()
    leave.set()
    await waiting
    assert returned == [1]


@pytest.mark.parametrize("error", [LOST, ValueError("a mistake")], ids=["shard error", "bug"])
async def test_it_stays_down_while_recovery_fails(health: ShardHealth, probe: Probe, error: Exception) -> None:
    attempts = 0

    async def recover(_shard: int) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise error

    health.on_return(recover)
    probe.works = True
    health.failed(1, LOST)
    for _ in range(2):
        with pytest.raises(ShardError):
            await health.ready(1)
    await health.ready(1)
    assert attempts == 3


async def test_waiting_has_a_limit(probe: Probe) -> None:
    health = ShardHealth(["s0"], probe, ready_timeout_s=0.05)

    async def stuck(_shard: int) -> None:
        await asyncio.Event().wait()

    health.on_return(stuck)
    probe.works = True
    health.failed(0, LOST)
    with pytest.raises(ShardError, match="08006"):
        await health.ready(0)
    await health.close()


async def test_closing_lets_nobody_wait(health: ShardHealth) -> None:
    async def stuck(_shard: int) -> None:
        await asyncio.Event().wait()

    health.on_return(stuck)
    health._probe = stuck
    health.failed(1, LOST)
    waiting = asyncio.ensure_future(health.ready(1))
    await asyncio.sleep(0)
    await health.close()
    with pytest.raises(ShardError):
        await waiting


async def test_a_cancelled_waiter_disturbs_nobody(health: ShardHealth, probe: Probe) -> None:
    health.failed(1, LOST)
    waiting = asyncio.ensure_future(health.ready(1))
    await asyncio.sleep(0)
    waiting.cancel()
    probe.works = True
    await eventually(lambda: health.shard_is_up(1))


async def test_a_server_killed_and_started_again(servers: list[EmbeddedServer], shard_databases: list[str]) -> None:
    endpoint = ShardEndpoint("s3", 0, shard_databases[3])
    control = ControlLinks([endpoint])
    health = ShardHealth(["s3"], control.probe)
    control.on_failure(health.failed)
    recovered: list[str] = []

    async def recover(shard: int) -> None:
        async with control.connection(shard) as connection:
            recovered.append(await connection.fetchval("SELECT 'answers'"))

    health.on_return(recover)
    pool = LinkPool(endpoint, None, "postgres", None, PoolLimits(size=4), health)
    idle, busy = await pool.acquire(), await pool.acquire()
    pool.release(idle)
    running = asyncio.ensure_future(busy.run("SELECT pg_sleep(60)"))
    await asyncio.to_thread(servers[3].kill)
    with pytest.raises(ShardError) as caught:
        await running
    assert caught.value.lost
    pool.release(busy)
    await eventually(lambda: idle.closed)
    assert not health.shard_is_up(0)
    assert pool.take() is None
    assert pool.is_unused
    with pytest.raises(ShardError):
        await pool.acquire()
    assert recovered == []
    await asyncio.to_thread(servers[3].start)
    link = await pool.acquire()
    assert recovered == ["answers"]
    assert health.shard_is_up(0)
    assert (await link.run("SELECT 1")).rows == [[b"1"]]
    pool.release(link)
    await pool.close()
    await control.close()
    await health.close()
