"""Many clients that add one to the same few rows, in one order, in which nobody can deadlock, or in any."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROWS = 6
TABLES: dict[str, Any] = {"few": {"key": "k"}}
# Deadlocks are looked for all the time, and the pools are smaller than the crowd.
LIMITS: dict[str, Any] = {"deadlock": {"timeout_s": 0.05}, "pool": {"size": 4, "wait_timeout_s": 20}}


def fill(dsn: str) -> None:
    """Make the table through a proxy."""
    with psycopg.connect(dsn, autocommit=True) as client:
        client.execute("CREATE TABLE few (k int PRIMARY KEY, n int NOT NULL)")
        client.execute(("INSERT INTO few VALUES " + ", ".join(f"({k}, 0)" for k in range(ROWS))).encode())


class Crowd:
    """Clients of one or several proxies. ``errors`` are the SQLSTATEs of transactions that failed.

    They think between statements, holding their locks, for up to ``think_s``: long waits without a busy machine.
    """

    def __init__(self, dsns: Sequence[str], *, clients: int, seed: int, ordered: bool, think_s: float = 0.0) -> None:
        self.dsns = dsns
        self.ordered = ordered
        self.seed = seed
        self.think_s = think_s
        self.committed = [0] * clients
        self.errors: list[str | None] = []
        self._end = threading.Event()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Have them work for as long as the block lasts."""
        with ThreadPoolExecutor(len(self.committed)) as threads:
            running = [threads.submit(self._run, number) for number in range(len(self.committed))]
            try:
                yield
            finally:
                self._end.set()
            for one in running:
                one.result()

    def _run(self, number: int) -> None:
        choice = random.Random(f"{self.seed} {number}")
        with psycopg.connect(self.dsns[number % len(self.dsns)]) as client:
            while not self._end.is_set():
                keys = choice.sample(range(ROWS), 3)
                try:
                    for key in sorted(keys) if self.ordered else keys:
                        client.execute("UPDATE few SET n = n + 1 WHERE k = %s", (key,))
                        if self.think_s:
                            time.sleep(self.think_s * choice.random())
                    client.commit()
                    self.committed[number] += 1
                except psycopg.Error as error:
                    self.errors.append(error.sqlstate)
                    client.rollback()

    @property
    def wrong(self) -> list[str | None]:
        """Errors of those who were ended for no reason: anything in one order, anything but 40P01 in any."""
        return [error for error in self.errors if self.ordered or error != "40P01"]

    def check(self) -> None:
        """Nobody was ended who could not deadlock, all others by 40P01, and what was told COMMIT is there."""
        wrong = self.wrong
        assert not wrong, f"{len(wrong)} transactions were ended for no reason: {sorted(set(map(str, wrong)))}"
        self.check_sum()

    def check_sum(self) -> None:
        """What was told COMMIT is there, and nothing else."""
        with psycopg.connect(self.dsns[0], autocommit=True) as client:
            assert client.execute("SELECT sum(n) FROM few").fetchone() == (3 * sum(self.committed),)
            client.execute("UPDATE few SET n = 0")
