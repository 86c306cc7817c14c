"""Who waits for a link of a pool: a coroutine, or the fast lane of a session, which waits without one.

Both stand in one line, first come, first served. The pool calls ``handed`` with a link, or with None for a place in
which one may be opened; whoever answers False has no use for it, and the next is asked.

A lane is called in the turn of the loop, and in the call, that gave the link back. It may write to the link there, but
give nothing back itself: what it refuses, the pool gives to the next, so that a long line is no deep recursion.

With many clients most statements wait. So a place in the line is an object that knows who stands before and behind it,
which lasts as long as its session; a dictionary hashes, looks up by name and allocates for each of its steps. And the
two kinds are subclasses, whose methods compiled code finds by their place: a bound method that was stored is looked at
for how it is to be called (docs/hot-path.md, *More clients than links*).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.native import mypyc_attr

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from proxy.errors import ProxyError
    from proxy.shards.link import ShardLink


@mypyc_attr(allow_interpreted_subclasses=True)  # stand-ins of tests
class Waiter:
    """One place in the line of one pool."""

    __slots__ = ("ahead", "behind", "queued", "since", "waited_s")

    def __init__(self) -> None:
        self.since = 0.0  # when it came, by the loop's clock
        self.waited_s = 0.0  # how long it has waited, when it is handed something
        #: Whether it stands in a line, and its neighbours there: ``WaitingLine``'s.
        self.queued = False
        self.ahead: Waiter | None = None
        self.behind: Waiter | None = None

    @property
    def waits(self) -> bool:
        """Whether it does still: a coroutine may have been cancelled, and not had its turn since."""
        return True

    def handed(self, link: ShardLink | None) -> bool:
        """Take a link, or a place for one; False: it is for the next."""
        raise NotImplementedError

    def refused(self, error: ProxyError) -> None:
        """The pool is closed."""
        raise NotImplementedError

    def is_late(self, error: ProxyError) -> bool:
        """It has waited for as long as one may; False: it sees to that itself."""
        raise NotImplementedError


class WaitingCoroutine(Waiter):
    """A coroutine's place."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[ShardLink | None]) -> None:
        super().__init__()
        self._future = future

    @property
    def waits(self) -> bool:
        """Whether it does still."""
        return not self._future.done()

    def handed(self, link: ShardLink | None) -> bool:
        """Wake it with a link, or with a place for one."""
        if self._future.done():
            return False
        self._future.set_result(link)
        return True

    def refused(self, error: ProxyError) -> None:
        """The pool is closed."""
        if not self._future.done():
            self._future.set_exception(error)

    def is_late(self, error: ProxyError) -> bool:  # noqa: ARG002 - it makes its own
        """It has a timeout of its own."""
        return False


class WaitingLine:
    """Who waits, in the order of their coming. True while there is somebody."""

    __slots__ = ("_last", "first")

    def __init__(self) -> None:
        self.first: Waiter | None = None
        self._last: Waiter | None = None

    def __bool__(self) -> bool:
        return self.first is not None

    def __iter__(self) -> Iterator[Waiter]:
        waiter = self.first
        while waiter is not None:
            yield waiter
            waiter = waiter.behind

    def append(self, waiter: Waiter) -> None:
        """Have somebody stand at the end, who stands nowhere yet."""
        last = self._last
        waiter.ahead = last
        waiter.queued = True
        self._last = waiter
        if last is None:
            self.first = waiter
        else:
            last.behind = waiter

    def remove(self, waiter: Waiter) -> None:
        """Take somebody out who stands in it."""
        ahead, behind = waiter.ahead, waiter.behind
        if ahead is None:
            self.first = behind
        else:
            ahead.behind = behind
        if behind is None:
            self._last = ahead
        else:
            behind.ahead = ahead
        waiter.ahead = waiter.behind = None
        waiter.queued = False
