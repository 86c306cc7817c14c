"""Who waits for a link of a pool: a coroutine, or the fast lane of a session, which waits without one.

Both stand in one queue, first come, first served. The pool calls ``handed`` with a link, or with None for a place in
which one may be opened; whoever answers False has no use for it, and the next is asked.

A lane is called in the turn of the loop, and in the call, that gave the link back. It may write to the link there, but
give nothing back itself: what it refuses, the pool gives to the next, so that a long queue is no deep recursion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from proxy.errors import ProxyError
    from proxy.shards.link import ShardLink


class Waiter:
    """One place in the queue of one pool."""

    __slots__ = ("_future", "_on_end", "_on_link", "since", "waited_s")

    def __init__(
        self,
        future: asyncio.Future[ShardLink | None] | None,
        on_link: Callable[[ShardLink | None], bool] | None = None,
        on_end: Callable[[ProxyError | None], None] | None = None,
    ) -> None:
        """Either a future, or a lane's two functions.

        ``on_link`` is given what ``handed`` is; ``on_end`` hears that there will be no link: why, or None where
        ``acquire`` is to say it.
        """
        self.since = 0.0  # when it came, by the loop's clock
        self.waited_s = 0.0  # how long it has waited, when it is handed something
        self._future = future
        self._on_link = on_link
        self._on_end = on_end

    @property
    def waits(self) -> bool:
        """Whether it does still: a coroutine may have been cancelled, and not had its turn since."""
        return self._future is None or not self._future.done()

    def handed(self, link: ShardLink | None) -> bool:
        """Take a link, or a place for one; False: it is for the next."""
        future = self._future
        if future is not None:
            if future.done():
                return False
            future.set_result(link)
            return True
        return self._on_link is not None and self._on_link(link)

    def refused(self, error: ProxyError) -> None:
        """The pool is closed."""
        future = self._future
        if future is not None:
            if not future.done():
                future.set_exception(error)
        elif self._on_end is not None:
            self._on_end(None)

    def is_late(self, error: ProxyError) -> bool:
        """It has waited for as long as one may; False: a coroutine sees to that itself."""
        if self._on_end is None:
            return False
        self._on_end(error)
        return True
