"""Those who wait until a server has taken what was written to it.

Decides nothing: the transport says when it lags behind, the link (relay.py) when it is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from proxy.shards.errors import ShardError


class Drain:
    """Of one link."""

    __slots__ = ("_loop", "_waiting", "is_open")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.is_open = True
        self._waiting: list[asyncio.Future[None]] = []

    def shut(self) -> None:
        """The server lags behind."""
        self.is_open = False

    def clear(self) -> None:
        """It has caught up."""
        self.is_open = True
        self._end(None)

    def fail(self, error: ShardError) -> None:
        """Nothing will be taken any more: whoever waits gets the error."""
        self._end(error)

    async def wait(self) -> None:
        """Wait until what was written is mostly on its way. Raises ShardError when the link gets lost."""
        if not self.is_open:
            waiter = self._loop.create_future()
            self._waiting.append(waiter)
            await waiter

    def _end(self, error: ShardError | None) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                if error is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(error)
