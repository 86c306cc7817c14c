"""The one way to start a task: named, kept alive, and its death logged.

The event loop holds tasks weakly, so a task that nobody keeps may vanish in the middle; and the exception of a task
that nobody awaits is silent until its garbage is collected. What their failure means is for the callers.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

T = TypeVar("T")

_log = logging.getLogger(__name__)
_alive: set[asyncio.Task[Any]] = set()


def spawn(coro: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Start ``coro`` as a task called ``name``; if it dies of an exception, the log says so."""
    task = asyncio.get_running_loop().create_task(coro, name=name)
    _alive.add(task)
    task.add_done_callback(_ended)
    return task


async def all_ended(awaitables: Iterable[Awaitable[object]]) -> None:
    """Wait until all have ended, and only then raise the first error."""
    for result in await asyncio.gather(*awaitables, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _ended(task: asyncio.Task[Any]) -> None:
    _alive.discard(task)
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        _log.error("task %s died: %s", task.get_name(), error, exc_info=error)


class InterruptedWait(Exception):  # noqa: N818 - what happened; nobody is to blame
    """Somebody has ended a wait."""


class Interruptible:
    """A wait that somebody else may end."""

    def __init__(self) -> None:
        self._waiting: asyncio.Future[Any] | None = None
        #: Told of each interruption as well: one who waits without a task.
        self.also: Callable[[], None] | None = None

    def interrupt(self) -> None:
        """End the wait, if there is one."""
        if self.also is not None:
            self.also()
        if self._waiting is not None:
            self._waiting.cancel()

    async def until_done(self, doing: Coroutine[Any, Any, T]) -> T:
        """Await something; raises InterruptedWait when that is cancelled by ``interrupt``."""
        waiting: asyncio.Future[T] = asyncio.ensure_future(doing)
        self._waiting = waiting
        task = asyncio.current_task()
        try:
            return await waiting
        except asyncio.CancelledError:
            if task is None or task.cancelling():  # it is we who are cancelled
                raise
            raise InterruptedWait from None
        finally:
            self._waiting = None
