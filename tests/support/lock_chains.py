"""What makes waiting longer and stranger than a crowd does alone: chains, rings, and blockers that are prepared.

Each says afterwards how often it was really there, so that a run that met none of it cannot pass for one that did.
"""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import psycopg

from router.cluster import Database
from router.sharding import slot_of
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

LOOK = """SELECT count(*), count(*) FILTER (WHERE 0 = ANY (pg_blocking_pids(l.pid))),
        coalesce(max(extract(epoch FROM clock_timestamp() - l.waitstart)), 0)::float8
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid AND a.datname = current_database()
    WHERE NOT l.granted AND l.waitstart IS NOT NULL"""
WAITING = """SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE NOT l.granted AND a.datname = current_database()"""


class Chain:
    """A line of transactions over all shards, each waiting on another shard for the next one.

    An open line comes loose from its end, and nobody may be ended. Closed to a ring exactly one must be.
    """

    def __init__(self, dsns: Sequence[str], direct: Sequence[str], *, clients: int, seed: int) -> None:
        self.dsns = dsns
        self.direct = direct
        self.random = random.Random(seed)
        self.keys = _keys_in_turn(len(direct), clients)
        self.committed = 0
        self.lines = self.rings = 0
        self.longest = 0
        self.errors: list[str | None] = []
        self.wrong: list[str | None] = []

    def fill(self) -> None:
        """Make the table."""
        with psycopg.connect(self.dsns[0], autocommit=True) as client:
            client.execute("CREATE TABLE line (k int PRIMARY KEY, n int NOT NULL)")
            client.execute(("INSERT INTO line VALUES " + ", ".join(f"({k}, 0)" for k in self.keys)).encode())

    def run(self, *, ring: bool, stand_s: float) -> None:
        """Build one, let it stand, and see it end."""
        with ExitStack() as stack:
            threads = stack.enter_context(ThreadPoolExecutor(len(self.keys)))
            clients = []
            for number in range(len(self.keys)):
                client = stack.enter_context(closing(psycopg.connect(self.dsns[number % len(self.dsns)])))
                client.prepare_threshold = None
                clients.append(client)
            shards = [stack.enter_context(closing(psycopg.connect(dsn, autocommit=True))) for dsn in self.direct]
            for number in self.random.sample(range(len(clients)), len(clients)):
                clients[number].execute("UPDATE line SET n = n + 1 WHERE k = %s", (self.keys[number],))
            links = len(clients) if ring else len(clients) - 1
            order = self.random.sample(range(len(clients) - 1), len(clients) - 1)
            going = [threads.submit(self._wait_and_commit, clients[number], number + 1) for number in order]
            eventually(lambda: _total(shards, WAITING) >= len(clients) - 1, "the line was not built")
            if ring:
                going.append(threads.submit(self._wait_and_commit, clients[-1], 0))
            else:
                threading.Event().wait(stand_s)
                assert not any(one.done() for one in going), "somebody did not wait for the end of the line"
                clients[-1].commit()
                self.committed += 1
            self.longest = max(self.longest, links)
            self._see(going, ring=ring)

    def _see(self, going: Sequence[Future[str | None]], *, ring: bool) -> None:
        ended = [error for one in going if (error := one.result()) != ""]
        self.errors += ended
        self.committed += len(going) - len(ended)
        self.rings += ring
        self.lines += not ring
        due = ["40P01"] if ring else []
        if ended != due:
            self.wrong += ended[len(due) :] or [None]

    def _wait_and_commit(self, client: psycopg.Connection[Any], onto: int) -> str | None:
        try:
            client.execute("UPDATE line SET n = n + 1 WHERE k = %s", (self.keys[onto],))
            client.commit()
        except psycopg.Error as error:
            client.rollback()
            return error.sqlstate
        return ""


class Beside:
    """Something that is done on the shards again and again, in a thread of its own, while a block lasts."""

    def __init__(self, direct: Sequence[str], *, every_s: float) -> None:
        self.direct = direct
        self.every_s = every_s

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Do it for as long as the block lasts."""
        end = threading.Event()
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(self._run, end)
            try:
                yield
            finally:
                end.set()
            running.result()

    def _run(self, end: threading.Event) -> None:
        with ExitStack() as stack:
            shards = [stack.enter_context(closing(psycopg.connect(dsn, autocommit=True))) for dsn in self.direct]
            while not end.wait(self.every_s):
                self.turn(shards, end)

    def turn(self, shards: Sequence[psycopg.Connection[Any]], end: threading.Event) -> None:
        """Do it once; ``end`` is set when the block has ended."""
        raise NotImplementedError


class PreparedBlockers(Beside):
    """Keeps commits standing with their parts prepared, and rows locked by prepared transactions of somebody else's.

    A lock on one shard's fence holds decisions back there while the other shards are prepared; ``times`` counts both.
    """

    def __init__(self, direct: Sequence[str], *, seed: int, stand_s: float) -> None:
        super().__init__(direct, every_s=stand_s / 2)
        self.random = random.Random(seed)
        self.stand_s = stand_s
        self.times = 0
        self._foreign = f"of another application {self.random.randrange(1 << 32)}"

    def turn(self, shards: Sequence[psycopg.Connection[Any]], end: threading.Event) -> None:
        shard = self.random.choice(shards)
        shard.execute("BEGIN")
        if self.random.random() < 0.5:
            shard.execute("LOCK TABLE pgchorus.fence IN SHARE MODE")
            end.wait(self.stand_s)
            shard.execute("COMMIT")
        else:
            # One row: with more, this would be somebody who locks in an order of his own.
            shard.execute("SELECT FROM few WHERE k = (SELECT min(k) FROM few) FOR UPDATE")
            shard.execute(f"PREPARE TRANSACTION '{self._foreign}'".encode())
            end.wait(self.stand_s)
            shard.execute(f"COMMIT PREPARED '{self._foreign}'".encode())
        self.times += 1


class Seen(Beside):
    """Samples of what waits on the shards, and for links of the proxies: what a run has really met."""

    def __init__(self, direct: Sequence[str], metrics: Sequence[int], *, every_s: float = 0.5) -> None:
        super().__init__(direct, every_s=every_s)
        self.metrics = metrics  # ports
        self.waits = self.behind_prepared = self.for_links = 0
        self.longest_s = 0.0

    def turn(self, shards: Sequence[psycopg.Connection[Any]], end: threading.Event) -> None:  # noqa: ARG002 - it waits for nothing
        for shard in shards:
            row = shard.execute(LOOK.encode()).fetchone()
            assert row is not None
            self.waits += row[0]
            self.behind_prepared += row[1]
            self.longest_s = max(self.longest_s, row[2])
        self.for_links += sum(map(_waiting_for_links, self.metrics))


def _waiting_for_links(port: int) -> int:
    with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as http:
        http.request("GET", "/metrics")
        lines = http.getresponse().read().decode().splitlines()
    found = [line for line in lines if line.startswith("pgchorus_links{")]
    return sum(int(float(line.split()[-1])) for line in found if 'state="waited_for"' in line)


def _total(shards: Sequence[psycopg.Connection[Any]], sql: str) -> int:
    return sum(row[0] for shard in shards for row in shard.execute(sql.encode()))


def _keys_in_turn(shards: int, count: int) -> list[int]:
    """Return keys that lie on the shards by turns."""
    logical = Database("d", tuple(f"s{shard}" for shard in range(shards)), 0)
    by_shard: dict[int, list[int]] = {}
    for key in range(100 * count):
        by_shard.setdefault(logical.shard_of_slot(slot_of("int4", key, logical.slots)), []).append(key)
    return [by_shard[number % shards][number // shards] for number in range(count)]
