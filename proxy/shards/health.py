"""Which shards are up, and what must happen before one that came back is used.

A shard counts as down as soon as a link to it is lost or cannot be opened for a reason that may concern the whole
server. It is then probed, at once and with growing pauses, and counts as up again when a probe has succeeded *and*
everybody who asked to be called (``on_return``) has finished: recovery applies the decided transactions there before
anybody reads it.

Whoever needs a shard that is down waits for the attempt under way, or, where there is ``patience_s`` (a failover is
likely to end well), for as long as that.

Decided here: the pauses. Left to others: which errors mean "down" (proxy.errors), how to probe, what to do on return.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxy.errors import SHARD_DOWN
from proxy.shards.errors import ShardError, unreachable
from proxy.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

_log = logging.getLogger(__name__)

DEFAULT_READY_TIMEOUT_S: Final = 10.0
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 3.0


@dataclass(slots=True)
class _Watch:
    """A shard that is down: its probing task, why, and who waits for the attempt under way."""

    error: ShardError
    task: asyncio.Task[None] | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    waiters: list[asyncio.Future[None]] = field(default_factory=list)


class ShardHealth:
    """The state of each shard as this process sees it. All shards begin as up."""

    def __init__(
        self,
        names: Sequence[str],
        probe: Callable[[int], Awaitable[None]],
        ready_timeout_s: float = DEFAULT_READY_TIMEOUT_S,
        patience_s: Sequence[float] = (),
    ) -> None:
        """``probe(shard)`` connects and returns, or raises ShardError; it must be bounded in time.

        ``patience_s``: for each shard how long ``ready`` waits over attempts that fail; 0 (none given): not at all.
        """
        self._ready_timeout_s = ready_timeout_s
        self._patience_s = tuple(patience_s) or (0.0,) * len(names)
        self._names = tuple(names)
        self._probe = probe
        self._callbacks: list[Callable[[int], Awaitable[None]]] = []
        self._on_down: list[Callable[[int], None]] = []
        self._down: dict[int, _Watch] = {}
        #: The shards that are down, for those who look at each statement; always the same object.
        self.down: Mapping[int, object] = self._down
        self._doubts: dict[int, asyncio.Task[None]] = {}
        self._closed = False

    def add(self, name: str, patience_s: float) -> None:
        """Know another shard, the last one."""
        self._names += (name,)
        self._patience_s += (patience_s,)

    def on_return(self, callback: Callable[[int], Awaitable[None]]) -> None:
        """Have ``callback(shard)`` awaited when a shard has come back, before it is up. While it raises, it is down."""
        self._callbacks.append(callback)

    def on_down(self, callback: Callable[[int], None]) -> None:
        """Have ``callback(shard)`` called when a shard that was up is down."""
        self._on_down.append(callback)

    def patience_s(self, shard: int) -> float:
        """Return how long those who need a shard wait for it when it is down."""
        return self._patience_s[shard]

    def shard_is_up(self, shard: int) -> bool:
        """Tell whether a shard may be used."""
        return shard not in self._down

    def why_down(self, shard: int) -> ShardError | None:
        """Return what was last heard of a shard that is down, None for one that is up."""
        watch = self._down.get(shard)
        return watch.error if watch is not None else None

    def failed(self, shard: int, error: ShardError) -> None:
        """Hear of a link that was lost or could not be opened; what cannot concern the whole server changes nothing."""
        if self._closed or not _means_down(error):
            return
        watch = self._down.get(shard)
        if watch is not None:
            watch.error = error
            return
        _log.warning("shard %s is down: %s", self._names[shard], error)
        watch = self._down[shard] = _Watch(error)
        for callback in self._on_down:
            callback(shard)
        watch.task = spawn(self._watch(shard, watch), f"probe shard {self._names[shard]}")

    def doubted(self, shard: int) -> None:
        """Hear that somebody did not wait for an answer any longer: see whether the shard gives any."""
        if not self._closed and shard not in self._down and shard not in self._doubts:
            self._doubts[shard] = spawn(self._see(shard), f"see whether shard {self._names[shard]} answers")

    async def _see(self, shard: int) -> None:
        try:
            await self._probe(shard)
        except ShardError as error:
            self.failed(shard, error)
        finally:
            del self._doubts[shard]

    async def ready(self, shard: int, until: float | None = None) -> None:
        """Return when the shard is up; raise ShardError when the next probe fails, or, with patience, at its end.

        ``until``: that end, by the loop's clock, for somebody who has waited before. Hurries the probe on.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience_s[shard] if until is None else until
        while (watch := self._down.get(shard)) is not None:
            waiter = loop.create_future()
            watch.waiters.append(waiter)
            watch.wake.set()
            left = until - loop.time()
            try:
                async with asyncio.timeout(left if left > 0 else self._ready_timeout_s):
                    await waiter
            except TimeoutError:
                raise watch.error from None
            except ShardError:
                if loop.time() >= until or self._closed:
                    raise

    async def close(self) -> None:
        """Stop probing."""
        self._closed = True
        tasks = [watch.task for watch in self._down.values() if watch.task is not None]
        tasks += self._doubts.values()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # what one died of is in the log (proxy.tasks)

    async def _watch(self, shard: int, watch: _Watch) -> None:
        pause = 0.0
        try:
            while True:
                if pause:
                    await self._pause(watch, pause)
                waiters, watch.waiters = watch.waiters, []
                try:
                    await self._try(shard)
                except ShardError as error:
                    watch.error = error
                    _settle(waiters, error)
                    pause = min(pause * 2 or _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
                    continue
                del self._down[shard]
                _settle(waiters + watch.waiters, None)
                _log.warning("shard %s is up again", self._names[shard])
                return
        finally:
            if self._down.get(shard) is watch:
                # Only when this task is cancelled or broken: nobody probes any more, so nobody may wait.
                _settle(watch.waiters, unreachable(shard, self._names[shard]))

    async def _pause(self, watch: _Watch, pause: float) -> None:
        """Wait between probes; somebody who needs the shard shortens the wait, but never below the first pause."""
        await asyncio.sleep(_FIRST_PAUSE_S)
        if pause <= _FIRST_PAUSE_S:
            return
        watch.wake.clear()
        if watch.waiters:
            return
        try:
            async with asyncio.timeout(pause - _FIRST_PAUSE_S):
                await watch.wake.wait()
        except TimeoutError:
            return

    async def _try(self, shard: int) -> None:
        try:
            await self._probe(shard)
            for callback in self._callbacks:
                await callback(shard)
        except ShardError:
            raise
        except Exception as error:
            # A shard on which recovery did not finish must not be read, whatever stopped it.
            _log.exception("probing shard %s, or what must be done on its return, failed", self._names[shard])
            raise unreachable(shard, self._names[shard], error) from error


def _means_down(error: ShardError) -> bool:
    return error.sqlstate in SHARD_DOWN


def _settle(waiters: list[asyncio.Future[None]], error: ShardError | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
