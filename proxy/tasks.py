"""The one way to start a task: named, kept alive, and its death logged.

The event loop holds tasks weakly, so a task that nobody keeps may vanish in the middle; and the exception of a task
that nobody awaits is silent until its garbage is collected. Waiting for tasks, and what their failure means, is for the
callers.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

_log = logging.getLogger(__name__)
_alive: set[asyncio.Task[Any]] = set()


def spawn(coro: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Start ``coro`` as a task called ``name``; if it dies of an exception, the log says so."""
    task = asyncio.get_running_loop().create_task(coro, name=name)
    _alive.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[Any]) -> None:
    _alive.discard(task)
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        _log.error("task %s died: %s", task.get_name(), error, exc_info=error)
