"""`pgchorus serve` whose points a test can stop at: started by ``crash_points``, with the controller's address first.

The controller's lines: ``arm NAME N`` (stop when this point is passed for the N-th time from now), ``disarm``,
``serve`` (go on starting), ``go``. Ours: ``armed``, ``at NAME``. While it waits for ``go``, the process stands still.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import uvloop

from proxy import logs
from proxy.config import load
from proxy.server import serve
from proxy.twophase.points import Point


class Stops:
    """The process's side of the controller's connection."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._lines = self._socket.makefile("r")
        self._armed: dict[Point, int] = {}
        self._may_go = threading.Event()
        while self._take(self._lines.readline()) != "serve":
            pass
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            for line in self._lines:
                if self._take(line) == "arm":
                    self._socket.sendall(b"armed\n")
        finally:
            # The test has died. Who stands still at a point does not hear SIGTERM.
            os._exit(1)

    def _take(self, line: str) -> str:
        verb, *words = line.strip().split("|")
        if verb == "arm":
            self._armed[Point(words[0])] = int(words[1])
        elif verb == "disarm":
            self._armed.clear()
        elif verb == "go":
            self._may_go.set()
        assert verb, "the controller has gone"
        return verb

    def reach(self, point: Point) -> None:
        """Be called at every point."""
        left = self._armed.get(point)
        if left is None:
            return
        if left > 1:
            self._armed[point] = left - 1
            return
        del self._armed[point]
        self._may_go.clear()
        self._socket.sendall(f"at|{point.value}\n".encode())
        self._may_go.wait()


def main() -> None:
    """Serve."""
    stops = Stops(sys.argv[1])
    config = load(Path(sys.argv[2]))
    logs.set_up("info")
    uvloop.run(serve(config, lambda: print(f"pgchorus: ready on {config.listen}", flush=True), stops.reach))  # noqa: T201 - as the command does


if __name__ == "__main__":
    main()
