"""``python -m bench.late_proxy CONFIG HOST:PORT [--where]``: `pgchorus serve` whose loop says how long it stood still.

The loop ticks every millisecond. A tick that comes late by some milliseconds has had to wait for as long; of that only
counts what this process has computed meanwhile (all its threads), since else others have had the processor. It connects
to an address; each byte from there is answered by a line of JSON with the longest since the byte before, in
milliseconds: ``block``, and ``wall`` with what others took. ``where``: the lines of our code that were seen while it
stood still, by a thread that needs the interpreter itself, so what runs in C is seen when it is over.
"""

from __future__ import annotations

import asyncio
import json
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
    from types import FrameType

TICK_S: Final = 0.001
LATE_S: Final = 0.003
LINES: Final = 4  # of a stack, the innermost of ours


class Lateness:
    """The ticks of a loop, and the longest time between two."""

    def __init__(self, asks: socket.socket, *, where: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._asks = asks
        self._loop.add_reader(asks.fileno(), self._asked)
        self._where = where
        self._seen: Counter[str] = Counter()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self._block = self._late = 0.0
        self._tick()
        if where:
            self._main = threading.get_ident()
            threading.Thread(target=self._watch, daemon=True).start()

    def _tick(self) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        late = wall - self._wall - TICK_S
        self._late = max(self._late, late)
        self._block = max(self._block, min(late, cpu - self._cpu))
        self._wall, self._cpu = wall, cpu
        self._loop.call_later(TICK_S, self._tick)

    def _asked(self) -> None:
        if not self._asks.recv(1):
            self._loop.remove_reader(self._asks.fileno())
            return
        self._loop.call_soon(self._tell)  # the tick that is due comes before it, or is counted in the next line

    def _tell(self) -> None:
        said = {
            "block": round(self._block * 1000, 2),
            "wall": round(self._late * 1000, 2),
            "where": self._seen.most_common(8),
        }
        self._block = self._late = 0.0
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
        Lateness(asks, where="--where" in sys.argv)
        sys.stdout.write(f"pgchorus: ready on {config.listen}\n")
        sys.stdout.flush()

    uvloop.run(serve(config, ready))


if __name__ == "__main__":
    main()
