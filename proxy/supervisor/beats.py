"""Whether each worker's loop turns: all are asked every second, and who can answers at once.

Rules, each with what it prevents:

- A worker that owes its answer for ``slot.SILENT_BEATS`` is silent. It is shown as that, whoever waits for an answer of
  its to something else is told so (a reload, a PAUSE), and another worker accepts what comes to its sockets.
- One that owes it for ``limits.worker.hang_s`` is ended, and started again as one that has died. SIGABRT first, of
  which Python writes where every thread stands; then SIGKILL, since a process that is stopped takes no other signal.
- Beats of ours are counted, not time: with the whole machine stopped for a while nobody could have answered.

Decided here: who is silent, and when it is too long. Left to others: what happens then (the callbacks), and who watches
the supervisor (systemd's watchdog: proxy.systemd).
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from math import ceil
from typing import TYPE_CHECKING, Final

import structlog

from proxy.errors import ProxyError
from proxy.siblings.channel import ChannelGoneError
from proxy.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.siblings.channel import Channel
    from proxy.supervisor.slot import Slot

log = structlog.get_logger("pgchorus.supervisor")

BEAT_S: Final = 1.0
LAST_WORDS_S: Final = 2.0  # between SIGABRT and SIGKILL


class Beats:
    """Asks the workers, and counts what they owe."""

    def __init__(
        self,
        slots: Sequence[Slot],
        hang_s: Callable[[], float],
        *,
        fell_silent: Callable[[Slot], None],
        came_back: Callable[[Slot], None],
    ) -> None:
        """``hang_s``: what the configuration says now; 0: nobody is ended for being silent."""
        self._slots = slots
        self._hang_s = hang_s
        self._fell_silent = fell_silent
        self._came_back = came_back

    async def go_on(self) -> None:
        """Ask again and again; until cancelled."""
        while True:
            await asyncio.sleep(BEAT_S)
            for slot in self._slots:
                if slot.serving and slot.channel is not None and not slot.channel.gone:
                    self._beat(slot, slot.channel)

    def _beat(self, slot: Slot, channel: Channel) -> None:
        was_silent = slot.silent
        slot.owed += 1
        if slot.owed == 1:
            spawn(self._ask(slot, channel), name=f"beat of worker {slot.number}")
        elif slot.silent and not was_silent:
            log.error("a worker does not answer", worker=slot.number, pid=slot.pid)
            slot.let_nobody_wait()
            self._fell_silent(slot)
        hang_s = self._hang_s()
        # Not again at each beat: it may take its time to write what it has to say.
        if hang_s and slot.pid and slot.owed >= ceil(hang_s / BEAT_S) + 1 and not slot.condemned:
            slot.condemned = True
            self._end(slot, hang_s)

    async def _ask(self, slot: Slot, channel: Channel) -> None:
        with suppress(ChannelGoneError, ProxyError):  # it has ended; what it says is no matter
            await channel.ask("beat")
        if slot.channel is not channel:
            return  # another one is in its place
        was_silent, slot.owed = slot.silent, 0
        if was_silent and not channel.gone:
            log.warning("a worker answers again", worker=slot.number, pid=slot.pid)
            self._came_back(slot)

    def _end(self, slot: Slot, hang_s: float) -> None:
        log.critical(
            "a worker stands still: it is ended and started again", worker=slot.number, pid=slot.pid, hang_s=hang_s
        )
        os.kill(slot.pid, signal.SIGABRT)
        asyncio.get_running_loop().call_later(LAST_WORDS_S, _kill, slot, slot.pid)


def _kill(slot: Slot, pid: int) -> None:
    if slot.pid == pid:  # not reaped, so the number is still its own
        os.kill(pid, signal.SIGKILL)
