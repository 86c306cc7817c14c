"""Starts the workers, restarts who dies, passes signals on, and ends when all have ended.

Rules:

- The first worker is started alone: what is wrong with the configuration or the shards is then said once, and ends all.
  The others follow when it is ready, and systemd hears of it when all are.
- Who dies later is started again, at once or, if it dies soon each time, after growing pauses. Only its own clients
  notice.
- Who stands still is found by ``beats``: another one accepts for it meanwhile.
- SIGTERM drains, SIGINT or a second signal ends at once, SIGHUP reloads. Workers hear of it by their channels, since
  signals reach some of them by other ways as well (a terminal, systemd), and a drain that is asked for twice is not
  more urgent.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import structlog

from proxy import systemd
from proxy.admin.plain_http import PlainEndpoint
from proxy.handover import Handover, Taken
from proxy.listening import LISTEN_BACKLOG, bound, sockets_for
from proxy.siblings.channel import Channel, ChannelGoneError
from proxy.siblings.place import Place
from proxy.supervisor.asking import Asking
from proxy.supervisor.beats import Beats
from proxy.tasks import spawn
from proxy.worker import work

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from proxy.config import Config
    from proxy.supervisor.slot import Slot

    Run = Callable[[Coroutine[Any, Any, None]], int]

log = structlog.get_logger("pgchorus.supervisor")

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_MARGIN_S: Final = 15.0  # beyond twice the time for draining, then workers are killed
_STANDARD: Final = frozenset((0, 1, 2))


def supervise(config: Config, on_ready: Callable[[], None], run: Run, taken: Taken) -> int:
    """Serve ``config`` with its workers and return the exit status.

    ``run`` runs a worker's coroutine and returns its status; ``taken`` are the sockets of the proxy before, if any.
    """
    return Supervisor(config, on_ready, run, taken).supervise()


class Supervisor:
    """The parent of all workers."""

    def __init__(self, config: Config, on_ready: Callable[[], None], run: Run, taken: Taken) -> None:
        self._taken = taken
        self._handover: Handover | None = None
        self._on_ready = on_ready
        self._run = run
        self._loop = asyncio.new_event_loop()
        self._family = Asking(config, lambda: self._stop(at_once=False))
        workers = config.workers
        self._sockets = taken.for_workers(workers) if taken.groups else sockets_for(config.listen, workers)
        self._endpoint = PlainEndpoint(self._family)
        self._news = asyncio.Event()
        self._family.on_placed = self._news.set
        self._due: list[Slot] = [self._family.slots[0]]  # to be started
        self._started: list[Slot] = []  # and not attended to yet
        self._stopping = False
        self._over = False
        self._status = 0

    def supervise(self) -> int:
        """Run until all have ended."""
        loop = self._loop
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        loop.add_signal_handler(signal.SIGTERM, self._told, signal.SIGTERM)
        loop.add_signal_handler(signal.SIGINT, self._told, signal.SIGINT)
        loop.add_signal_handler(signal.SIGHUP, lambda: spawn(self._family.reload(), name="reload"))
        beats = Beats(
            self._family.slots,
            lambda: self._family.config.limits.worker_hang_s,
            fell_silent=self._replace,
            came_back=self._restore,
        )
        loop.call_soon(lambda: spawn(beats.go_on(), name="beats of the workers"))
        try:
            while not self._over:
                for slot in loop.run_until_complete(self._until_due()):
                    self._fork(slot)
            loop.run_until_complete(self._end())
        finally:
            loop.close()
        return self._status

    async def _until_due(self) -> list[Slot]:
        """Return which workers are to be started now; none: all is over."""
        for slot in self._started:
            spawn(self._attend(slot), name=f"worker {slot.number}")
        self._started.clear()
        while (not self._due or self._family.placing) and not self._over:
            await self._news.wait()
            self._news.clear()
        due, self._due = self._due, []
        return due

    async def _end(self) -> None:
        self._endpoint.close()
        if self._handover is not None:
            self._handover.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)  # what one died of is in the log (proxy.tasks)

    # --- starting -------------------------------------------------------------------------------------------------

    def _fork(self, slot: Slot) -> None:
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal that came to the child before it has handlers of its own would be written into our loop.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid == 0:
            self._be(slot, theirs)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        theirs.close()
        slot.begin(pid, ours, self._family.generation)
        self._started.append(slot)

    def _be(self, slot: Slot, channel: socket.socket) -> NoReturn:
        """Be a worker, in the child. Nothing of the supervisor's is let go of there: it is the parent's as well."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            _close_all_but({channel.fileno(), *(one.fileno() for one in chain.from_iterable(self._sockets))})
            os.environ.pop("NOTIFY_SOCKET", None)  # systemd listens to the supervisor
            faulthandler.enable()  # of SIGABRT it says where it stands
            structlog.contextvars.bind_contextvars(worker=slot.number)
            family = self._family
            status = self._run(
                work(
                    family.config,
                    Place(slot.number, len(family.slots)),
                    headcount=family.headcount,
                    channel=channel,
                    sockets=self._sockets,
                    timelines=family.timelines,
                )
            )
        except BaseException:
            log.exception("a worker failed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    async def _attend(self, slot: Slot) -> None:
        """Answer a worker until it ends."""
        assert slot.end is not None  # noqa: S101 - narrows the type: it has been started
        slot.channel = channel = await Channel.over(slot.end, partial(self._answer, slot))
        if self._stopping:
            self._tell_to_stop(slot, at_once=True)
        await channel.run()

    async def _answer(self, slot: Slot, what: str, content: Any) -> Any:
        if what == "ready":
            return await self._ready(slot)
        if what == "leaving":
            slot.leaving = True
            return await self._stand_in_for(slot)
        return await self._family.answer(slot, what, content)

    async def _ready(self, slot: Slot) -> dict[str, Any]:
        """A worker can serve. Its sockets listen from here on, and it accepts in a moment."""
        welcome = await self._family.welcome(slot)
        for one in self._sockets[slot.number - 1]:
            if not self._stopping:
                one.listen(LISTEN_BACKLOG)
        self._restore(slot)
        slots = self._family.slots
        if self._family.up or self._stopping:
            return welcome
        if slot is slots[0] and len(slots) > 1:
            self._want(*slots[1:])
        elif all(one.serving for one in slots):
            await self._open()
        return welcome

    async def _open(self) -> None:
        """All serve: say so."""
        config = self._family.config
        measured = None
        if config.metrics is not None:
            measured = self._taken.metrics or bound(config.metrics, shared=False)[0]
            await self._endpoint.start(measured.dup())
        self._family.up = True
        self._on_ready()
        systemd.ready()
        spawn(systemd.say_alive_forever(), name="systemd's watchdog")
        self._taken.say_ready()
        if config.handover is not None:
            self._handover = Handover(config, self._sockets, measured, self._handed_on)
            self._handover.open(config.handover)

    def _handed_on(self) -> None:
        """Another proxy has the sockets and serves."""
        self._endpoint.close()
        self._stop(at_once=False, handed_on=True)

    def _want(self, *slots: Slot) -> None:
        """Have workers started, outside of the loop."""
        if not self._stopping:
            self._due.extend(slots)
            self._news.set()

    # --- ending ---------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        for slot in self._family.slots:
            if slot.pid:
                pid, status = os.waitpid(slot.pid, os.WNOHANG)
                if pid:
                    self._ended(slot, os.waitstatus_to_exitcode(status))

    def _ended(self, slot: Slot, status: int) -> None:
        """See whether a worker's end is the end of all, or another is to be started."""
        pid, pause_s = slot.pid, slot.died()
        self._family.headcount.put(slot.number, 0)
        if not self._stopping and not self._family.up:
            self._status = status if status > 0 else 1
            if status < 0:
                log.error("a worker died before it served", worker=slot.number, signal=signal.Signals(-status).name)
            self._stop(at_once=True)
        if self._stopping:
            if not any(one.pid for one in self._family.slots):
                self._over = True
                self._news.set()
            return
        how = {"signal": signal.Signals(-status).name} if status < 0 else {"status": status}
        log.error("a worker ended and is started again", worker=slot.number, pid=pid, pause_s=pause_s, **how)
        slot.restarts += 1
        self._loop.call_later(pause_s, self._want, slot)
        self._replace(slot)

    def _replace(self, slot: Slot) -> None:
        """Have others accept what would come to one that is away, and to those for whom it has stood in."""
        for one in self._family.slots:
            if one is slot or one.stand_in is slot:
                one.stand_in = None
                spawn(self._stand_in_for(one), name=f"standing in for worker {one.number}")

    def _restore(self, slot: Slot) -> None:
        """It is back, and accepts for itself."""
        if slot.stand_in is not None:
            spawn(self._relieve(slot.stand_in, slot), name=f"worker {slot.number} is back")
            slot.stand_in = None

    async def _stand_in_for(self, slot: Slot) -> None:
        """Let another worker accept what comes to the sockets of one that is away."""
        if slot.stand_in is not None or self._stopping or self._sockets[0] is self._sockets[-1]:
            return
        others = [one for one in self._family.serving() if one is not slot and not one.leaving and not one.silent]
        others.sort(key=lambda one: self._family.headcount.of(one.number))
        for one in others:
            slot.stand_in = one
            with suppress(ChannelGoneError):  # it has died as well: the next one is asked
                assert one.channel is not None  # noqa: S101 - narrows the type: it serves
                await one.channel.ask("adopt", slot.number)
                return
            slot.stand_in = None

    async def _relieve(self, stand_in: Slot, slot: Slot) -> None:
        if stand_in.channel is not None:
            with suppress(ChannelGoneError):  # it has died, and accepts nothing any more
                await stand_in.channel.ask("release", slot.number)

    # --- stopping -------------------------------------------------------------------------------------------------

    def _told(self, number: int) -> None:
        self._stop(at_once=self._stopping or number == signal.SIGINT)

    def _stop(self, *, at_once: bool, handed_on: bool = False) -> None:
        """End all: drain, or at once."""
        if not self._stopping:
            self._stopping = self._family.draining = True
            systemd.stopping()
            self._due.clear()
            for one in chain.from_iterable(self._sockets):
                one.close()
            limit_s = 2 * self._family.config.limits.drain_timeout_s + _MARGIN_S
            self._loop.call_later(limit_s, self._kill_all)
        for slot in self._family.slots:
            self._tell_to_stop(slot, at_once=at_once, handed_on=handed_on)
        if not any(slot.pid for slot in self._family.slots):
            self._over = True
            self._news.set()

    def _tell_to_stop(self, slot: Slot, *, at_once: bool, handed_on: bool = False) -> None:
        if slot.serving and slot.channel is not None:
            how = {"at_once": at_once, "handed_on": handed_on}
            spawn(_tell(slot.channel, how), name=f"stop of worker {slot.number}")
        elif slot.pid:
            os.kill(slot.pid, signal.SIGKILL)  # it has no clients yet

    def _kill_all(self) -> None:
        for slot in self._family.slots:
            if slot.pid:
                log.error("a worker did not end in time", worker=slot.number, pid=slot.pid)
                os.kill(slot.pid, signal.SIGKILL)


async def _tell(channel: Channel, how: dict[str, bool]) -> None:
    with suppress(ChannelGoneError):  # it has ended
        await channel.ask("stop", how)


def _close_all_but(kept: set[int]) -> None:
    """Close what was inherited, so that a worker keeps no socket or pipe open that is not its own."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        number = int(entry.name)
        if number not in kept and number not in _STANDARD:
            with suppress(OSError):  # the directory that was just read
                os.close(number)
