"""Clients that connect, ask and leave without pause, while something happens to the proxy."""

from __future__ import annotations

import threading
from typing import Self

import psycopg

from waiting import eventually

CALLERS = 3


class Caller:
    """Connects, asks and leaves without pause, and notes every error, until the end of the block."""

    def __init__(self, dsn: str) -> None:
        self.errors: list[BaseException] = []
        self.calls = 0
        self._dsn = dsn
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]

    def _call(self) -> None:
        while not self._over.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True, connect_timeout=20) as client:
                    assert client.execute("select 1").fetchone() == (1,)
            except (psycopg.Error, AssertionError) as error:
                self.errors.append(error)
            self.calls += 1

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def more(self) -> None:
        """Return when a few more have called."""
        enough = self.calls + 6
        eventually(lambda: self.calls >= enough, "nobody gets through")

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
