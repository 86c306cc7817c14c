"""One worker's place, whoever fills it now; what stays when a worker dies and the next one takes its place."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from proxy.admin.totals import added_up, that_only_grow

if TYPE_CHECKING:
    import asyncio
    import socket

    from proxy.siblings.channel import Channel

SILENT_BEATS: Final = 5  # of proxy.supervisor.beats
STEADY_S: Final = 10.0  # who has lived for so long did not die of its start
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 30.0


@dataclass(slots=True, eq=False)
class Slot:
    """A worker by its number, which is that of its sockets, its part of the limits and its clients' cancel keys."""

    number: int
    pid: int = 0  # 0: there is no process
    end: socket.socket | None = None  # of the channel, ours
    channel: Channel | None = None
    serving: bool = False  # it has said that it is ready
    leaving: bool = False  # it drains although nobody here has told it to
    since: float = 0.0  # Unix time
    generation: int = 0  # of the configuration that it began with
    restarts: int = 0
    owed: int = 0  # beats since it was asked whether it answers
    condemned: bool = False  # it has stood still for too long
    stand_in: Slot | None = None  # who accepts what comes to its sockets meanwhile
    metrics: list[Any] = field(default_factory=list)  # as last seen
    departed: list[Any] = field(default_factory=list)  # what those before it have counted
    waits: set[asyncio.Timeout] = field(default_factory=set)  # of those who wait for an answer of its
    _born: float = 0.0
    _quick_deaths: int = 0

    @property
    def state(self) -> str:
        """A word for people."""
        if not self.pid:
            return "down"
        if not self.serving:
            return "starting"
        if self.silent:
            return "silent"
        return "draining" if self.leaving else "serving"

    @property
    def silent(self) -> bool:
        """Whether it has not answered for so long that nobody waits for it."""
        return self.owed > SILENT_BEATS

    def let_nobody_wait(self) -> None:
        """End all waits for its answers."""
        for wait in self.waits:
            if not wait.expired():
                wait.reschedule(0)

    def begin(self, pid: int, end: socket.socket, generation: int) -> None:
        """A process has been started."""
        self.pid, self.end, self.generation = pid, end, generation
        self.since, self._born = time.time(), time.monotonic()

    def died(self) -> float:
        """It has ended; return how long to wait before the next, longer each time that it dies soon."""
        self.pid, self.end, self.channel = 0, None, None
        self.serving = self.leaving = self.condemned = False
        self.owed = 0
        self.departed = added_up([self.departed, that_only_grow(self.metrics)])
        self.metrics = []
        if time.monotonic() - self._born >= STEADY_S:
            self._quick_deaths = 0
            return 0.0
        self._quick_deaths += 1
        return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(self._quick_deaths - 1, 20))
