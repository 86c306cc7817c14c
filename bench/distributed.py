"""What a distributed transaction costs beside the same messages sent by hand: ``python -m bench.distributed``.

One client changes one row on each of several shards and commits. Three ways, in turn, transaction by transaction:

- **proxy**: BEGIN, one UPDATE for each shard, COMMIT, as simple queries through the proxy;
- **by hand**: one asyncpg connection to each shard, and the messages that the proxy sends: BEGIN and the look at what
  is prepared in the packet of an UPDATE; step 1 on all in parallel; the decision record and COMMIT; COMMIT PREPARED in
  parallel. (asyncpg gives no rows for a simple query, so the record is written without the transactions' ids.)
- **bare**: the same without all that makes it safe: BEGIN and UPDATE, PREPARE TRANSACTION, COMMIT, COMMIT PREPARED.

Compared is the time from the first message to the last answer. The goal is for the proxy's median to be at most 1.3
times the one by hand, with servers that write to disk. With fsync off as well, where our own part is larger, and so are
the chances of a machine that does other things meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import uvloop

from bench import contenders, machine
from bench.__main__ import RESULTS, SERVER_SETTINGS, numbers, whole
from bench.model import BenchError, Target
from proxy.demo.embedded import EmbeddedServer, free_port, start_all, stop_all
from proxy.twophase.events import Limits, Plan
from proxy.twophase.gid import GlobalId, uuid7
from proxy.twophase.messages import prepare_sql, ready_sql
from router.cluster import Database
from router.sharding import integer_slot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

DATABASE = "bench_distributed"
ROWS = 200  # on each shard
WARM_UP = 40  # transactions: plans are learned, links are open
GOAL = 1.3
WAYS = ("proxy", "by hand", "bare")
PREPARE_LOOK = (
    "PREPARE look (text[]) AS SELECT 1 / (CASE WHEN EXISTS (SELECT gid FROM pg_prepared_xacts"
    " WHERE database = current_database() AND starts_with(gid, 'pgchorus:bench:') AND gid <> ALL ($1))"
    " THEN 0 ELSE 1 END)"
)
RECORD = "INSERT INTO pgchorus.decision (gid, outcome)"
LOOK = "SAVEPOINT look; EXECUTE look ('{}'); RELEASE SAVEPOINT look; "


class Stage:
    """A connection to the proxy and one to each shard, and keys of rows by shard."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = dict(enumerate(names))
        layout = Database(DATABASE, tuple(names), 0)
        self.keys: list[list[int]] = [[] for _ in names]
        key = 0
        while min(map(len, self.keys)) < ROWS:
            key += 1
            self.keys[layout.shard_of_slot(integer_slot(key, layout.slots))].append(key)
        self.serial = 0
        self.proxy: Any = None
        self.shards: list[Any] = []

    async def connect(self, proxy: Target, shards: Sequence[Target]) -> None:
        """Open the connections and make the rows."""
        self.proxy, *self.shards = [
            await asyncpg.connect(host=one.host, port=one.port, user=one.user, database=one.database)
            for one in (proxy, *shards)
        ]
        await self.proxy.execute("CREATE TABLE IF NOT EXISTS rows (k int8 PRIMARY KEY, v int8 NOT NULL)")
        values = ", ".join(f"({key}, 0)" for keys in self.keys for key in keys[:ROWS])
        await self.proxy.execute(f"INSERT INTO rows VALUES {values}")  # noqa: S608 - numbers
        for shard in self.shards:
            await shard.execute(PREPARE_LOOK)

    async def close(self) -> None:
        """Close them."""
        for one in (self.proxy, *self.shards):
            await one.close()

    def updates(self, count: int) -> list[str]:
        """Return an UPDATE for each of the first shards."""
        self.serial += 1
        place = self.serial % ROWS
        return [f"UPDATE rows SET v = v + 1 WHERE k = {keys[place]}" for keys in self.keys[:count]]  # noqa: S608 - ours

    async def through_the_proxy(self, updates: Sequence[str]) -> None:
        """Run one transaction as a client of the proxy does."""
        execute = self.proxy.execute
        await execute("BEGIN")
        for update in updates:
            await execute(update)
        await execute("COMMIT")

    async def by_hand(self, updates: Sequence[str]) -> None:
        """Run one with the messages that the proxy sends."""
        names, parts = self.names, tuple(range(1, len(updates)))
        gid = GlobalId("bench", names[0], uuid7(time.time_ns() // 1_000_000, self.serial))
        plan = Plan(gid, 0, parts, (), names, {}, b"", 1, Limits())
        for shard, update in enumerate(updates):
            await self.shards[shard].execute(f"BEGIN; {LOOK if shard else ''}{update}")
        await asyncio.gather(
            self.shards[0].execute(ready_sql(plan)),
            *(self.shards[shard].execute(prepare_sql(plan, shard)) for shard in parts),
        )
        await self.shards[0].execute(
            f"LOCK TABLE pgchorus.fence IN ROW EXCLUSIVE MODE; {RECORD} VALUES ('{gid}', 'commit'); COMMIT"
        )
        await asyncio.gather(
            *(self.shards[shard].execute(f"COMMIT PREPARED '{gid.at(names[shard])}'") for shard in parts)
        )

    async def bare(self, updates: Sequence[str]) -> None:
        """Run one with nothing but PREPARE TRANSACTION, COMMIT and COMMIT PREPARED."""
        gid = f"bare{self.serial}"
        for shard, update in enumerate(updates):
            await self.shards[shard].execute(f"BEGIN; {update}")
        others = self.shards[1 : len(updates)]
        await asyncio.gather(*(one.execute(f"PREPARE TRANSACTION '{gid}'") for one in others))
        await self.shards[0].execute("COMMIT")
        await asyncio.gather(*(one.execute(f"COMMIT PREPARED '{gid}'") for one in others))

    async def times(self, count: int, transactions: int) -> dict[str, list[float]]:
        """Run transactions over the first shards in turn; return seconds by way."""
        ways: list[Callable[[Sequence[str]], Awaitable[None]]] = [self.through_the_proxy, self.by_hand, self.bare]
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(WARM_UP + transactions):
            for turn in range(len(ways)):
                which = (number + turn) % len(ways)
                updates = self.updates(count)
                begun = time.perf_counter()
                await ways[which](updates)
                if number >= WARM_UP:
                    found[WAYS[which]].append(time.perf_counter() - begun)
        return found

    async def check(self, transactions: int) -> None:
        """See that every transaction is there on every shard that it touched, and nothing is left behind."""
        total = await self.proxy.fetchval("SELECT sum(v) FROM rows")
        left = [await shard.fetchval("SELECT count(*) FROM pg_prepared_xacts") for shard in self.shards]
        if total != transactions or any(left):
            raise BenchError(f"{total} changes are there, not {transactions}; left prepared: {left}")


def configuration(listen: Target, shards: Sequence[Target]) -> str:
    """Return the proxy's YAML."""
    dsns = "".join(
        f"      s{index}: postgres://{one.user}@{one.host}:{one.port}/{one.database}\n"
        for index, one in enumerate(shards)
    )
    return (
        f"cluster: bench\nlisten: {{host: {listen.host}, port: {listen.port}}}\nauth: {{method: trust}}\n"
        f"databases:\n  {listen.database}:\n    shards:\n{dsns}    home: s0\n    tables:\n      rows: {{key: k}}\n"
    )


async def measure(
    listen: Target, shards: Sequence[Target], counts: Sequence[int], transactions: int
) -> dict[str, dict[str, list[float]]]:
    """Return seconds by way, by "fsync, shards"."""
    stage = Stage([f"s{index}" for index in range(len(shards))])
    await stage.connect(listen, shards)
    found = {}
    changes = 0
    for fsync in ("on", "off"):
        for shard in stage.shards:
            await shard.execute(f"ALTER SYSTEM SET fsync = {fsync}")
            await shard.execute("SELECT pg_reload_conf()")
        for count in counts:
            found[f"fsync {fsync}, {count} shards"] = await stage.times(count, transactions)
            changes += len(WAYS) * (WARM_UP + transactions) * count
            await stage.check(changes)
    await stage.close()
    return found


def table(found: dict[str, dict[str, list[float]]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = ["| | proxy | by hand | bare | proxy to by hand | to bare |", "|---|---:|---:|---:|---:|---:|"]
    for name, times in found.items():
        proxy, hand, bare = (statistics.median(times[way]) for way in WAYS)
        figures = " | ".join(f"{1000 * one:.2f} ms" for one in (proxy, hand, bare))
        lines.append(f"| {name} | {figures} | {proxy / hand:.2f} | {proxy / bare:.2f} |")
    return lines


def run(counts: Sequence[int], transactions: int) -> tuple[dict[str, dict[str, list[float]]], dict[str, str]]:
    """Start servers and the proxy, measure, stop them."""
    with tempfile.TemporaryDirectory(prefix="pgchorus-bench-") as temporary, ExitStack() as stack:
        home = Path(temporary)
        servers = [EmbeddedServer(home / f"server{i}", settings=SERVER_SETTINGS) for i in range(max(counts))]
        for server in servers:
            server.settings.pop("fsync", None)
        stack.callback(stop_all, servers)
        start_all(servers)
        psql = servers[0].program("psql")
        for server in servers:
            contenders.psql(psql, Target(server.port, "postgres"), f"CREATE DATABASE {DATABASE}")
        shards = [Target(server.port, DATABASE) for server in servers]
        listen = Target(free_port([server.port for server in servers]), DATABASE)
        path = home / "pgchorus.yaml"
        path.write_text(configuration(listen, shards))
        command = [sys.executable, "-m", "proxy"]
        contenders.run_once([*command, "init", "-c", str(path)], home)
        log = home / "log"
        with contenders.child([*command, "serve", "-c", str(path)], home, log) as process:
            contenders.wait_for_line(process, log, contenders.READY)
            described = machine.describe(
                {"PostgreSQL": [servers[0].program("postgres"), "--version"]},
                {"pgchorus": machine.pgchorus_version()},
            )
            return uvloop.run(measure(listen, shards, counts, transactions)), described


def main() -> int:
    """Measure, print, and with --name store; 1 when a ratio is above the goal with servers that write to disk."""
    parser = argparse.ArgumentParser(prog="python -m bench.distributed", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--transactions", type=whole, default=300, help="of each way (default: %(default)s)")
    parser.add_argument("--shards", type=numbers, default=(2, 4), help="default: 2,4")
    parser.add_argument("--name", help="directory below bench/results to store the figures in")
    given = parser.parse_args()
    found, described = run(given.shards, given.transactions)
    lines = table(found)
    sys.stdout.write("\n".join([*lines, ""]))
    if given.name:
        directory = RESULTS / given.name
        directory.mkdir(parents=True, exist_ok=True)
        started = datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
        facts = [f"- {label}: {text}" for label, text in described.items()]
        head = f"`python -m bench.distributed`, {started}: medians of {given.transactions} transactions each, in turn."
        text = "\n".join(["# A distributed transaction", "", head, "", *lines, "", *facts, ""])
        (directory / "README.md").write_text(text)
        rounded = {
            name: {way: [round(one, 6) for one in each] for way, each in times.items()} for name, times in found.items()
        }
        (directory / "figures.json").write_text(json.dumps(rounded) + "\n")
    durable = [times for name, times in found.items() if name.startswith("fsync on")]
    worst = max(statistics.median(times["proxy"]) / statistics.median(times["by hand"]) for times in durable)
    return 1 if worst > GOAL else 0


if __name__ == "__main__":
    sys.exit(main())
