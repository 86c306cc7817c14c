"""Many clients of two proxies over few rows: where nobody can deadlock nobody is ended, else all go on.

Deadlocks are looked for all the time here, among chains of waits, prepared blockers and pools that are used up.
"""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from waiting import eventually

if TYPE_CHECKING:
    from tests.conftest import MakeDatabases, StartProxy

SEED = 20261122
CLIENTS = 12
SECONDS = 3.0
LIMITS = {"deadlock": {"timeout_s": 0.05}, "pool": {"size": 4, "wait_timeout_s": 20}}
ROWS = 6


class Crowd:
    """Clients that add one to some rows in each transaction, in order or in any."""

    def __init__(self, dsns: list[str], *, ordered: bool) -> None:
        self.dsns = dsns
        self.ordered = ordered
        self.committed = [0] * CLIENTS
        self.errors: list[str | None] = []
        self.end = threading.Event()

    def run(self, number: int) -> None:
        choice = random.Random(f"{SEED} {number}")
        with psycopg.connect(self.dsns[number % len(self.dsns)]) as client:
            while not self.end.is_set():
                keys = choice.sample(range(ROWS), 3)
                try:
                    for key in sorted(keys) if self.ordered else keys:
                        client.execute("UPDATE few SET n = n + 1 WHERE k = %s", (key,))
                    client.commit()
                    self.committed[number] += 1
                except psycopg.Error as error:
                    self.errors.append(error.sqlstate)
                    client.rollback()


def start(make_databases: MakeDatabases, start_proxy: StartProxy) -> list[str]:
    """Start two proxies before a table that the second one finds there."""
    shards = make_databases(3)
    limits: dict[str, Any] = dict(LIMITS)
    dsns: list[str] = []
    for _ in range(2):
        dsns.append(start_proxy(shards, {"few": {"key": "k"}}, limits=limits).dsn(shards[0].rpartition("/")[2]))
        if len(dsns) == 1:
            with psycopg.connect(dsns[0], autocommit=True) as client:
                client.execute("CREATE TABLE few (k int PRIMARY KEY, n int NOT NULL)")
                client.execute(("INSERT INTO few VALUES " + ", ".join(f"({k}, 0)" for k in range(ROWS))).encode())
    return dsns


@pytest.mark.parametrize("ordered", [True, False], ids=["in one order", "in any order"])
def test_who_is_ended(make_databases: MakeDatabases, start_proxy: StartProxy, *, ordered: bool) -> None:
    print(f"seed {SEED}")  # noqa: T201 - pytest shows it when the test fails
    dsns = start(make_databases, start_proxy)
    with psycopg.connect(dsns[0], autocommit=True) as client:
        crowd = Crowd(dsns, ordered=ordered)
        with ThreadPoolExecutor(CLIENTS) as threads:
            running = [threads.submit(crowd.run, number) for number in range(CLIENTS)]
            time.sleep(SECONDS)  # the load's length, not a synchronisation
            before = list(crowd.committed)
            eventually(lambda: sum(crowd.committed) > sum(before) + CLIENTS, "the crowd stands still")
            crowd.end.set()
            for one in running:
                one.result()
        print(f"{sum(crowd.committed)} commits, {len(crowd.errors)} ended")  # noqa: T201 - figures for whoever looks
        if ordered:
            assert crowd.errors == []
        else:
            assert set(crowd.errors) == {"40P01"}
        assert client.execute("SELECT sum(n) FROM few").fetchone() == (3 * sum(crowd.committed),)
