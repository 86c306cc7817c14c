"""Pools of shard links: one for each shard, database and role.

Rules:

1. The link that came back last is lent first, so that links which are not needed grow old and are closed.
2. At most ``size`` links are in use, those being opened, washed or closed among them. Whoever finds none waits, first
   come, first served, at most ``wait_timeout_s``; then 53300. A transaction that holds a link to another shard may have
   one of ``extra`` more: those who have all the links here may be waiting for its locks, and no shard sees that circle.
   Where these are all in use too, it is the first to get what comes back.
   In a paused pool whoever begins waits until it is resumed, without limit; who is in the queue already is served.
3. A failure to connect is raised to the one whose connection it was, and its place goes to the next in the queue. If
   the shard is down by it and may come back elsewhere (``ShardHealth.patience_s``), he tries again when it has.
4. Only an idle link (status I, nothing under way) is lent again. A dirty one is washed first, in the background.
5. Whoever is cancelled while waiting takes nothing along: what was handed to it goes to the next.
6. A fast lane may wait in the queue as well (``enter``), and is called with the link that came back. It opens none,
   tries none and waits for no pause: with a place instead of a link it goes to ``acquire``, as the lanes behind it do.

Decided here: who gets which link, and which links live. What runs on them is for the callers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from proxy.errors import ADMIN_SHUTDOWN, TOO_MANY_CONNECTIONS, ProxyError
from proxy.native import mypyc_attr
from proxy.shards.errors import ShardError, unreachable
from proxy.shards.link import ShardLink, open_link
from proxy.shards.relay import IDLE
from proxy.shards.types import AS_AT_HOME
from proxy.shards.waiters import WaitingCoroutine, WaitingLine
from proxy.tasks import spawn
from proxy.timings import Timings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.shards.endpoint import ShardEndpoint
    from proxy.shards.health import ShardHealth
    from proxy.shards.waiters import Waiter

_log = logging.getLogger(__name__)

_MIN_SWEEP_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How many links a pool has, and how long things may take (seconds)."""

    size: int = 20
    extra: int = 20
    wait_timeout_s: float = 10.0
    connect_timeout_s: float = 10.0
    #: A link that nobody has wanted for so long is closed.
    idle_lifetime_s: float = 300.0
    #: A link that has been idle for so long is tried before it is lent.
    idle_check_s: float = 30.0
    #: How long trying or washing a link may take before it is closed instead.
    wash_timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Numbers for the metrics: of now the first three; the others have counted since the start."""

    in_use: int
    idle: int
    waiting: int
    opened: int
    closed: int
    waits: int
    waited_s: float
    lent: int  # how often a link was


@mypyc_attr(allow_interpreted_subclasses=True)  # those of replicas
class LinkPool:
    """The links to one shard's database as one role. Of one event loop; nothing here blocks it."""

    def __init__(  # noqa: PLR0913, PLR0917 - as many as a login has parts
        self,
        endpoint: ShardEndpoint,
        database: str | None,
        role: str,
        password: str | None,
        limits: PoolLimits,
        health: ShardHealth | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.database = database
        self.role = role
        self.limits = limits
        self.password = password  # for links that are opened from now on
        self._health = health
        self.down: Mapping[int, object] = {} if health is None else health.down
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._idle_check_s = limits.idle_check_s
        self.size = 0
        #: Whether an idle link may be lent whatever else is: no place is taken by one of ``extra``, and none is paused.
        self.is_spare = True
        #: In the order of their coming back. A quick lane takes the last one from here, and puts it back, by itself
        #: (proxy.session.lane_quick), if ``is_spare`` and the link's ``fit`` allow it.
        self.idle: list[ShardLink] = []
        self._all: set[ShardLink] = set()  # idle or lent
        # How many may be in use, without and with ``extra``.
        self._places, self._all_places = limits.size, limits.size + limits.extra
        self.waiters = WaitingLine()
        self._further: OrderedDict[Waiter, None] = OrderedDict()  # those of them who hold a link to another shard
        self._late_timer: asyncio.TimerHandle | None = None  # for the lanes among them
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._closing = False
        self.lendable = limits.size  # 0 while it is paused
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._opened = 0
        self._closed = 0
        self._waits = 0
        self._waited_s = 0.0
        self._generation = 0
        self.types = AS_AT_HOME
        self.load = Timings()
        self.lent = 0  # how often a link was
        #: Called when a server, or the network, has ended a link that is lent.
        self.on_lost: Callable[[ShardLink, ShardError], None] | None = None

    @property
    def _lent(self) -> set[ShardLink]:
        return self._all.difference(self.idle)

    @property
    def _used(self) -> int:
        """How many places are taken by links that are not idle: lent, being opened, washed or closed."""
        return self.size - len(self.idle)

    def take(self, preferred: ShardLink | None = None) -> ShardLink | None:
        """Lend an idle link at once if there is a good one: the way of the hot path. None means: acquire().

        ``preferred``: the one to lend if it is idle.
        """
        idle = self.idle
        if not idle or self.size - len(idle) >= self.lendable or (self.down and self.endpoint.index in self.down):
            return None
        if preferred is not None and preferred in idle:
            link = preferred
            idle.remove(link)
        else:
            link = idle.pop()
        idle_s = self._time() - link.idle_since
        if idle_s > self._idle_check_s or idle_s > link.trusted_s:
            idle.append(link)
            return None
        self.lent += 1
        return link

    async def acquire(self, *, further: bool = False) -> ShardLink:
        """Lend a link, opening one if need be. Raises ShardError (cannot connect) or ProxyError (53300, 57P01).

        ``further``: for somebody who holds a link to another shard.
        """
        health, shard = self._health, self.endpoint.index
        if health is None:
            return await self._acquire(further=further)
        until = self._loop.time() + health.patience_s(shard)
        while True:
            if not health.shard_is_up(shard):
                await health.ready(shard, until)
            try:
                return await self._acquire(further=further)
            except ShardError:
                # Nothing was sent. A link that was opened before recovery has been there is not lent (_open).
                if health.shard_is_up(shard) or self._loop.time() >= until:
                    raise

    async def _acquire(self, *, further: bool) -> ShardLink:
        if not further and not self._resumed.is_set():
            await self._resumed.wait()
        if self._closing:
            raise _closing()
        limit = self.limits.size + (self.limits.extra if further else 0)
        while self.idle and self._used < limit:
            link = self.idle.pop()
            self._all.remove(link)
            if await self._is_alive(link):
                self._all.add(link)
                self.lent += 1
                return link
        if self._used < limit:
            self.size += 1
            self.is_spare = self.size <= self.lendable
            return await self._open()
        handed = await self._wait(further=further)
        return await self._open() if handed is None else handed

    def release(self, link: ShardLink) -> None:
        """Take a link back: one that is not idle is closed, a dirty one washed. A receiver's ``frames`` may call it."""
        if link not in self._all or link in self.idle:
            msg = f"{link!r} was not lent by this pool"
            raise ValueError(msg)
        self._all.remove(link)
        if link.closed:
            self._free_slot()
        elif self._closing or link.busy or link.status != IDLE or not link.resettable:
            spawn(self._retire(link), f"retire {link!r}")
        elif link.dirty or link.cancelled or link.late or link.has_prefix:
            spawn(self._wash(link), f"wash {link!r}")
        else:
            self._give(link)

    def take_back(self, link: ShardLink) -> None:
        """Take a link back that has just answered plainly outside any block: the way of the hot path."""
        if self._closing or link.dirty or link.cancelled or link.late or not link.resettable or link.closed:
            self.release(link)
            return
        if self.waiters and self._handed(link):
            self.lent += 1
            return
        self._rest(link)

    @property
    def stats(self) -> PoolStats:
        """Return the numbers of this moment."""
        waiting = sum(waiter.waits for waiter in self.waiters)
        return PoolStats(
            len(self._all) - len(self.idle),
            len(self.idle),
            waiting,
            self._opened,
            self._closed,
            self._waits,
            self._waited_s,
            self.lent,
        )

    @property
    def longest_wait_s(self) -> float:
        """Return for how long the first in the queue has been waiting; 0 when nobody is."""
        now = self._loop.time()
        return max((now - waiter.since for waiter in self.waiters if waiter.waits), default=0.0)

    def links(self) -> list[tuple[ShardLink, bool]]:
        """Return all links, and whether each is lent."""
        return [(link, True) for link in self._lent] + [(link, False) for link in self.idle]

    @property
    def is_unused(self) -> bool:
        """Whether there is no link and nobody who waits for one."""
        return not self.size and not self.waiters

    def pause(self) -> None:
        """Lend nothing to transactions that begin; those that hold a link to another shard get theirs, and so end."""
        self.lendable = 0
        self.is_spare = False
        self._resumed.clear()

    def resume(self) -> None:
        """Lend again; those who have waited meanwhile go on."""
        self.lendable = self.limits.size
        self.is_spare = self.size <= self.lendable
        self._resumed.set()

    def use_limits(self, limits: PoolLimits) -> None:
        """Go by other limits from now on: those who wait get the places that are new, idle links beyond all places go.

        Links that are lent beyond a smaller size stay until they come back; nobody gets their places.
        """
        self.limits = limits
        self._places, self._all_places = limits.size, limits.size + limits.extra
        if self.lendable:
            self.lendable = limits.size
        # Those that are being closed go anyway.
        surplus = max(0, len(self._all) - limits.size - limits.extra)
        for link in self.idle[:surplus]:
            self.idle.remove(link)
            self._all.remove(link)
            spawn(self._retire(link), f"retire {link!r}")
        while self._used < limits.size and self.waiters:
            self.size += 1
            if not self._handed(None):
                self.size -= 1
        self.is_spare = self.size <= self.lendable
        self._look_at_late()

    def renew(self) -> None:
        """Lend no link again that was opened before now: what a role begins with has changed."""
        self._generation += 1
        for link in self._lent:
            link.resettable = False
            link.fit = None
        idle, self.idle = self.idle, []
        self._all.difference_update(idle)
        for link in idle:
            spawn(self._retire(link), f"retire {link!r}")

    def drop(self) -> None:
        """Close all links now, those that are lent as well: they lead to a server that is not the primary any more."""
        self._generation += 1
        for link in list(self._all):
            link.abort()

    async def close(self) -> None:
        """Refuse those who wait (57P01), close what is idle; links that are lent are closed when they come back."""
        self._closing = True
        self._resumed.set()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        if self._late_timer is not None:
            self._late_timer.cancel()
            self._late_timer = None
        while (waiter := self.waiters.first) is not None:
            self._calls(waiter)
            waiter.refused(_closing())
        idle, self.idle = self.idle, []
        self._all.difference_update(idle)
        for link in self._all:
            link.fit = None
        await asyncio.gather(*(self._retire(link) for link in idle))

    # ---- opening ----------------------------------------------------------------------------------------------------

    async def _open(self) -> ShardLink:
        """Open a link for the place that the caller holds."""
        generation = self._generation
        try:
            link = await self._log_in()
        except BaseException as error:
            self._free_slot()
            if self._health is not None and isinstance(error, ShardError):
                self._health.failed(self.endpoint.index, error)
            raise
        if generation != self._generation:
            link.resettable = False
        self._opened += 1
        link.lender = self
        link.types = self.types
        link.load = self.load
        link.on_lost = lambda error: self._lost(link, error)
        self._all.add(link)
        self.lent += 1
        return link

    async def _log_in(self) -> ShardLink:
        """Open a link to the server that is the primary, before and after. Raises ShardError."""
        endpoint = self.endpoint
        place, moves = endpoint.place, endpoint.place.moves
        if place.address is None and endpoint.has_several:
            raise unreachable(endpoint.index, endpoint.name)
        link = await open_link(
            endpoint,
            role=self.role,
            password=self.password,
            database=self.database,
            connect_timeout_s=self.limits.connect_timeout_s,
        )
        if moves != place.moves:
            link.abort()
            raise unreachable(endpoint.index, endpoint.name)
        return link

    async def _wait(self, *, further: bool) -> ShardLink | None:
        """Wait for a link, or for a place to open one (None)."""
        handed: asyncio.Future[ShardLink | None] = self._loop.create_future()
        waiter = WaitingCoroutine(handed)
        self._queue(waiter)
        if further:
            self._further[waiter] = None
        try:
            async with asyncio.timeout(self.limits.wait_timeout_s):
                return await handed
        except BaseException as error:
            if handed.done() and not handed.cancelled() and handed.exception() is None:
                self._hand_on(handed.result())
            else:
                self.leave(waiter)
            if isinstance(error, TimeoutError):
                raise self._exhausted() from None
            raise

    def _hand_on(self, handed: ShardLink | None) -> None:
        """Give what a waiter got and cannot use to the next one."""
        if handed is None:
            self._free_slot()
        else:
            self.release(handed)

    # ---- lanes in the queue -----------------------------------------------------------------------------------------

    def enter(self, waiter: Waiter) -> bool:
        """Put a lane in the queue; False: ``acquire`` has something to do that lanes do not."""
        if not 0 < self.lendable <= self._used or self._closing or (self.down and self.endpoint.index in self.down):
            return False
        self._queue(waiter)
        if self._late_timer is None:
            self._late_timer = self._loop.call_later(self.limits.wait_timeout_s, self._look_at_late)
        return True

    def leave(self, waiter: Waiter) -> None:
        """Take somebody out of the queue who does not wait any more."""
        if waiter.queued:
            self.waiters.remove(waiter)
            if self._further:
                self._further.pop(waiter, None)
            self._waited_s += self._time() - waiter.since

    def _queue(self, waiter: Waiter) -> None:
        waiter.since = self._time()
        self.waiters.append(waiter)
        self._waits += 1

    def _look_at_late(self) -> None:
        """Tell lanes that have waited for too long. One timer does for all: they stand in the order of their coming."""
        if self._late_timer is not None:
            self._late_timer.cancel()
            self._late_timer = None
        limit_s, now = self.limits.wait_timeout_s, self._time()
        for waiter in list(takewhile(lambda one: one.since + limit_s <= now, self.waiters)):
            if waiter.is_late(self._exhausted()):
                self.leave(waiter)
        first = self.waiters.first
        if first is not None:
            wait_s = first.since + limit_s - now
            self._late_timer = self._loop.call_later(max(wait_s, _MIN_SWEEP_S), self._look_at_late)

    # ---- coming back ------------------------------------------------------------------------------------------------

    def _give(self, link: ShardLink) -> None:
        """Hand an idle and clean link to the first in the queue, or keep it."""
        self._all.add(link)
        if self.waiters and self._handed(link):
            self.lent += 1
            return
        self._rest(link)

    def _rest(self, link: ShardLink) -> None:
        """Keep a link until somebody wants it."""
        link.rests(self._time(), self._idle_check_s)
        self.idle.append(link)
        if self._sweep_timer is None:
            self._sweep_timer = self._loop.call_later(self.limits.idle_lifetime_s, self._sweep)

    def _free_slot(self) -> None:
        """Give the place of a link that is gone to the first in the queue."""
        if not (self.waiters and self._handed(None)):
            self.size -= 1
            self.is_spare = self.size <= self.lendable

    def _handed(self, link: ShardLink | None) -> bool:
        """Hand what is in use to the first in the queue who may have it, and has a use for it; False: there is nobody.

        That is a link, or a place for one.
        """
        used = self.size - len(self.idle)
        if used > self._places:
            return used <= self._all_places and self._handed_further(link)
        while (waiter := self.waiters.first) is not None:
            self._calls(waiter)
            if waiter.handed(link):
                return True
        return False

    def _handed_further(self, link: ShardLink | None) -> bool:
        """Hand it to the first of those who may have more than others."""
        while self._further:
            waiter = next(iter(self._further))
            self._calls(waiter)
            if waiter.handed(link):
                return True
        return False

    def _calls(self, waiter: Waiter) -> None:
        """Take somebody out of the queue whose turn it is."""
        self.waiters.remove(waiter)
        if self._further:
            self._further.pop(waiter, None)
        waiter.waited_s = waited_s = self._time() - waiter.since
        self._waited_s += waited_s

    async def _wash(self, link: ShardLink) -> None:
        """Bring a link back to a known state, or close it."""
        generation = self._generation
        try:
            async with asyncio.timeout(self.limits.wash_timeout_s):
                await link.wash()
        except (ShardError, TimeoutError) as error:
            _log.warning("%r could not be reset and is closed: %s", link, error)
            await self._retire(link)
            return
        except BaseException:
            link.abort()
            self._free_slot()
            raise
        if link.closed or self._closing or generation != self._generation:
            await self._retire(link)
        else:
            self._give(link)

    async def _is_alive(self, link: ShardLink) -> bool:
        """Try a link that has been idle for long."""
        if self._loop.time() - link.idle_since <= min(self.limits.idle_check_s, link.trusted_s):
            return True
        try:
            async with asyncio.timeout(self.limits.wash_timeout_s):
                await link.run("")
        except (ShardError, TimeoutError):
            link.abort()
            self._free_slot()
            return False
        except BaseException:
            link.abort()
            self._free_slot()
            raise
        return True

    async def _retire(self, link: ShardLink) -> None:
        """Close a link and give its place away when the server has let go of it, or soon after.

        A statement under way is stopped first.
        """
        try:
            await link.interrupt(self.limits.wash_timeout_s)
            await link.close(self.limits.wash_timeout_s)
        finally:
            link.abort()
            self._free_slot()

    def _lost(self, link: ShardLink, error: ShardError) -> None:
        """Hear that a link has ended: drop it if it was idle; others hear of it where they use it."""
        self._closed += 1
        if link in self.idle:
            self.idle.remove(link)
            self._all.remove(link)
            self._free_slot()
        elif self.on_lost is not None and not link.left:
            self.on_lost(link, error)
        if self._health is not None and not link.left:
            self._health.failed(self.endpoint.index, error)

    def _sweep(self) -> None:
        """Close what has been idle for too long."""
        self._sweep_timer = None
        now = self._loop.time()
        while self.idle:
            link = self.idle[0]
            wait = link.idle_since + self.limits.idle_lifetime_s - now
            if wait > 0:
                self._sweep_timer = self._loop.call_later(max(wait, _MIN_SWEEP_S), self._sweep)
                return
            del self.idle[0]
            self._all.remove(link)
            spawn(self._retire(link), f"retire {link!r}")
        if self._all and not self._closing:  # a lane puts back without a look at the timer what it has taken
            self._sweep_timer = self._loop.call_later(self.limits.idle_lifetime_s, self._sweep)

    def _exhausted(self) -> ProxyError:
        return ProxyError(
            TOO_MANY_CONNECTIONS,
            f'no free connection to shard "{self.endpoint.name}"',
            detail=f"All {self.limits.size} links of this role were in use for {self.limits.wait_timeout_s:g} s.",
        )


def _closing() -> ProxyError:
    return ProxyError(ADMIN_SHUTDOWN, "the proxy is shutting down", severity="FATAL")
