"""Stopping a real proxy at a named point: the test's side (the proxy's is ``proxy_with_points``)."""

from __future__ import annotations

import queue
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

from proxy_process import ProxyProcess

if TYPE_CHECKING:
    from proxy.twophase.points import Point

LAUNCHER = Path(__file__).with_name("proxy_with_points.py")
HOST = "127.0.0.1"
WAIT_SECONDS = 30.0


class Points:
    """A controller for one proxy at a time, over its restarts. A context manager."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0))
        self._reached: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()  # to arm; False: the proxy has gone
        self._armed: dict[str, int] = {}
        self._connection: socket.socket | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="points", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(WAIT_SECONDS)

    @property
    def address(self) -> str:
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def process(self, config: Path) -> ProxyProcess:
        """Return a proxy that obeys; it is not started."""
        return ProxyProcess(config, program=(str(LAUNCHER), self.address, str(config)))

    def arm(self, point: Point, times: int = 1) -> None:
        """Have the proxy that runs, or the next one, stand still when it passes a point for the n-th time from now."""
        with self._lock:
            heard = self._connection is not None and self._tell(f"arm|{point.value}|{times}")
        # A commit may be through before a line has been read: the proxy says that it has.
        if not heard or not self._answers.get(timeout=WAIT_SECONDS):
            with self._lock:
                self._armed[point.value] = times

    def disarm(self) -> None:
        with self._lock:
            self._armed.clear()
            if self._connection is not None:
                self._say("disarm")

    def wait(self, point: Point) -> None:
        """Wait until it stands still there."""
        try:
            reached = self._reached.get(timeout=WAIT_SECONDS)
        except queue.Empty:
            msg = f"the proxy never came to {point.value}"
            raise AssertionError(msg) from None
        assert reached == point.value

    def go(self) -> None:
        """Let it go on."""
        with self._lock:
            if self._connection is not None:
                self._say("go")

    def _tell(self, line: str) -> bool:
        """Say a line that is answered; False: the proxy has gone."""
        while not self._answers.empty():
            self._answers.get()
        try:
            self._say(line)
        except OSError:
            return False
        return True

    def _say(self, line: str) -> None:
        assert self._connection is not None
        self._connection.sendall(f"{line}\n".encode())

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("r") as lines:
                with self._lock:
                    self._connection = connection
                    for name, times in self._armed.items():
                        self._say(f"arm|{name}|{times}")
                    self._armed.clear()
                    self._say("serve")
                try:
                    for line in lines:
                        if line.strip() == "armed":
                            self._answers.put(True)  # noqa: FBT003 - whether it was heard
                        else:
                            self._reached.put(line.strip().partition("|")[2])
                except OSError:
                    pass  # it was killed
                with self._lock:
                    self._connection = None
                self._answers.put(False)  # noqa: FBT003 - nobody will answer what was said last
