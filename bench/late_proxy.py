"""``python -m bench.late_proxy CONFIG HOST:PORT [--where]``: `pgchorus serve` whose loop says how long it stood still.

The loop ticks every millisecond. A tick that comes late by some milliseconds has had to wait for as long, which has
three readings: ``turn`` is what the loop's own thread has computed meanwhile; ``block`` adds what it has waited for
other threads of this process (neither the time in which it could have run and the machine gave it no core, nor more
than the process has computed); ``wall`` is all of it, with what others of the machine took. It connects to an address;
each byte from there is answered by a line of JSON with the longest of each since the byte before, in milliseconds. When
who asks is gone, it ends. ``where``: the lines of our code that were seen while it stood still, by a thread that needs
the interpreter itself, so what runs in C is seen when it is over.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop

from proxy import logs
from proxy.config import load
from proxy.server import serve

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

TICK_S: Final = 0.001
LATE_S: Final = 0.003
LINES: Final = 4  # of a stack, the innermost of ours


class Lateness:
    """The ticks of a loop, and the longest time between two; ``gone`` is called when who asks has hung up."""

    def __init__(self, asks: socket.socket, gone: Callable[[], None], *, where: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._asks = asks
        self._gone = gone
        self._loop.add_reader(asks.fileno(), self._asked)
        self._where = where
        self._seen: Counter[str] = Counter()
        self._scheduler = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self._wall, self._cpu, self._own, self._ready = self._readings()
        self._turn = self._block = self._late = 0.0
        self._tick()
        if where:
            self._main = threading.get_ident()
            threading.Thread(target=self._watch, daemon=True).start()

    def close(self) -> None:
        """Let go of what it reads."""
        os.close(self._scheduler)

    def _readings(self) -> tuple[float, float, float, float]:
        """Return the clock, and what the process and this thread have computed and this one has waited for a core."""
        ready = int(os.pread(self._scheduler, 64, 0).split()[1]) / 1e9
        return time.perf_counter(), time.process_time(), time.thread_time(), ready

    def _tick(self) -> None:
        wall, cpu, own, ready = self._readings()
        late = wall - self._wall - TICK_S
        self._late = max(self._late, late)
        self._turn = max(self._turn, min(late, own - self._own))
        self._block = max(self._block, min(late - (ready - self._ready), cpu - self._cpu))
        self._wall, self._cpu, self._own, self._ready = wall, cpu, own, ready
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def _asked(self) -> None:
        if not self._asks.recv(1):
            self._loop.remove_reader(self._asks.fileno())
            self._timer.cancel()
            self._gone()
            return
        self._loop.call_soon(self._tell)  # the tick that is due comes before it, or is counted in the next line

    def _tell(self) -> None:
        said = {
            "turn": round(self._turn * 1000, 2),
            "block": round(self._block * 1000, 2),
            "wall": round(self._late * 1000, 2),
            "where": self._seen.most_common(8),
        }
        self._turn = self._block = self._late = 0.0
        self._seen.clear()
        self._asks.sendall(json.dumps(said).encode() + b"\n")

    def _watch(self) -> None:
        while True:
            time.sleep(TICK_S)
            if time.perf_counter() - self._wall > LATE_S + TICK_S:
                for thread, frame in sys._current_frames().items():  # noqa: SLF001 - the module's documented name
                    if thread != threading.get_ident():
                        seen = stack_of(frame)
                        if seen:
                            self._seen[("loop: " if thread == self._main else "thread: ") + seen] += 1


def stack_of(frame: FrameType | None) -> str:
    """Return the innermost lines of ours in a stack."""
    lines: list[str] = []
    while frame is not None and len(lines) < LINES:
        name = frame.f_code.co_filename
        if "/proxy/" in name or "/router/" in name:
            lines.append(f"{'/'.join(Path(name).parts[-2:])}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(lines)


def main() -> None:
    """Serve."""
    config = load(Path(sys.argv[1]))
    logs.set_up("info")

    host, _, port = sys.argv[2].rpartition(":")
    asks = socket.create_connection((host, int(port)))

    def ready() -> None:
        Lateness(asks, lambda: os.kill(os.getpid(), signal.SIGTERM), where="--where" in sys.argv)
        sys.stdout.write(f"pgchorus: ready on {config.listen}\n")
        sys.stdout.flush()

    uvloop.run(serve(config, ready))


if __name__ == "__main__":
    main()
