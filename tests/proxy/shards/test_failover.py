"""Looking at the hosts of a shard again and again, whatever a look comes to."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from proxy.shards.errors import ShardError
from proxy.shards.failover import watch_hosts
from proxy.wire.fields import ErrorFields

if TYPE_CHECKING:
    import pytest


async def test_no_error_ends_the_looking(caplog: pytest.LogCaptureFixture) -> None:
    down = ShardError(ErrorFields.make("ERROR", "08001", "nobody answers"), 0, lost=True)
    looks: list[BaseException] = [ValueError("a bug"), down]
    over = asyncio.Event()
    failed: list[tuple[int, ShardError]] = []

    async def find() -> None:
        if looks:
            raise looks.pop(0)
        over.set()

    finder: Any = SimpleNamespace(find=find, endpoint=SimpleNamespace(name="s0"))
    control: Any = type("Control", (), {"__len__": lambda _: 1, "finder": lambda _, _shard: finder})()
    health: Any = SimpleNamespace(failed=lambda shard, error: failed.append((shard, error)))
    (task,) = watch_hosts(control, health, 0.0)
    try:
        await asyncio.wait_for(over.wait(), 5)
    finally:
        task.cancel()
    assert failed == [(0, down)]
    assert "looking at the hosts of shard s0 failed" in caplog.text
