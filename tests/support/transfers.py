"""Clients that move money between two shards without pause, while something happens to the proxy or to a shard."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

import psycopg

from ledger import eventually
from outages import WRITE

if TYPE_CHECKING:
    from ledger import Ledger


class Transfers:
    """They go on until they are told to stop; one whose connection is ended between two transactions connects again.

    As a context manager they stop at its end, also when what is done meanwhile fails.
    """

    def __init__(self, ledger: Ledger, clients: int) -> None:
        self.ledger = ledger
        self.clients = clients
        self.done = 0
        #: SQLSTATEs of what failed.
        self.errors: list[str] = []
        #: How often a client was told that its connection ends: a proxy that leaves says so (57P01), nothing is lost.
        self.sent_away = 0
        #: Who finds nobody to connect to stops, without an error: the proxy is told to end.
        self.may_find_nobody = False
        self._begun = [0] * clients
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(clients)
        self._running = [self._threads.submit(self._run, number) for number in range(clients)]

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            try:
                client = self.ledger.client()
            except psycopg.OperationalError:
                if self.may_find_nobody:
                    return
                raise
            with client:
                self._work(client, number)

    def _work(self, client: psycopg.Connection[tuple[object, ...]], number: int) -> None:
        # What comes right behind the answer to a COMMIT is a notice to libpq, whatever it says.
        noticed: list[str | None] = []
        client.add_notice_handler(lambda notice: noticed.append(notice.sqlstate))
        while not self._stop.is_set() and not client.closed:
            self._begun[number] += 1
            statements = 0
            try:
                with client.transaction():
                    client.execute(WRITE, (-1, self.ledger.keys[0][number]))
                    statements += 1
                    client.execute(WRITE, (1, self.ledger.keys[1][number]))
                    statements += 1
            except psycopg.Error as error:
                with self._lock:
                    if client.closed and not statements and "57P01" in (error.sqlstate, *noticed):
                        self.sent_away += 1
                    else:
                        self.errors.append(error.sqlstate or "the proxy hung up")
            else:
                with self._lock:
                    self.done += 1

    def until_more(self, each: int) -> None:
        """Return when every client has begun and ended some more."""
        enough = [begun + each + 1 for begun in self._begun]
        eventually(
            lambda: all(begun >= wanted for begun, wanted in zip(self._begun, enough, strict=True)),
            "transfers stand still",
        )

    def end(self) -> None:
        self._stop.set()
        for one in self._running:
            one.result()
        self._threads.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        if failed is None:
            self.end()
