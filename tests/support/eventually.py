"""Waiting for what happens in another process or in tasks that a test does not hold; its timeout is the limit."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

PAUSE_SECONDS = 0.005


async def eventually(condition: Callable[[], Awaitable[Any] | Any]) -> None:
    """Return once ``condition()``, or what it gives when awaited, is true."""
    while True:
        met = condition()
        if inspect.isawaitable(met):
            met = await met
        if met:
            return
        await asyncio.sleep(PAUSE_SECONDS)


async def until_waiting(connection: asyncpg.Connection[Any], pid: int, event: str = "PgSleep") -> None:
    """Return once a backend waits for ``event`` (an event's name or the name of its type)."""
    query = "SELECT $2 IN (wait_event, wait_event_type) FROM pg_stat_activity WHERE pid = $1"
    await eventually(lambda: connection.fetchval(query, pid, event))


async def until_gone(connection: asyncpg.Connection[Any], *pids: int) -> None:
    """Return once none of these backends exists."""
    query = "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = ANY($1)"
    await eventually(lambda: connection.fetchval(query, pids))
