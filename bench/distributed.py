"""What a distributed transaction costs beside the same messages sent by hand: ``python -m bench.distributed``.

One client changes one row on each of several shards and commits. Three ways, in turn, transaction by transaction:

- **proxy**: BEGIN, one UPDATE for each shard, COMMIT, as simple queries through the proxy;
- **by hand**: one asyncpg connection to each shard, and the messages that the proxy sends: BEGIN and the look at what
  is prepared in the packet of an UPDATE; step 1 on all in parallel; the decision record and COMMIT; COMMIT PREPARED in
  parallel. (asyncpg gives no rows for a simple query, so the record is written without the transactions' ids; and it
  has no messages without a Sync, so BEGIN, the look and step 1 are texts, where the
  proxy binds what its links have prepared.)
- **bare**: the same without all that makes it safe: BEGIN and UPDATE, PREPARE TRANSACTION, COMMIT, COMMIT PREPARED.

Compared is the time from the first message to the last answer: each round of one transaction of every way gives a
ratio, and the figure is the median of these, since what else the machine does meets the ways of one round alike. The
goal is for the proxy to take at most 1.3 times as long as by hand, with servers that write to disk. With fsync off as
well, where our own part is larger, and so are the chances of a machine that does other things meanwhile.

CPU, which waits for nobody, stands beside it: what the client's process takes by hand, what it takes through the proxy,
and what the proxy's takes for each of its transactions, whatever that does each second included.
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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import uvloop

from bench import contenders, machine
from bench.__main__ import RESULTS, SERVER_SETTINGS, numbers, whole
from bench.beside import cpu_s
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
PROXYS = "proxy's process"
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
        await self.proxy.execute(f"INSERT INTO rows VALUES {values}")
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
        return [f"UPDATE rows SET v = v + 1 WHERE k = {keys[place]}" for keys in self.keys[:count]]

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
            self.shards[0].execute(str(ready_sql(plan))),
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

    async def times(self, count: int, transactions: int, pid: int) -> tuple[dict[str, list[float]], dict[str, float]]:
        """Run transactions over the first shards in turn; return seconds by way, CPU seconds for each by process."""
        ways: list[Callable[[Sequence[str]], Awaitable[None]]] = [self.through_the_proxy, self.by_hand, self.bare]
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        cpu: dict[str, list[float]] = {way: [] for way in WAYS}
        before = 0.0
        for number in range(WARM_UP + transactions):
            if number == WARM_UP:
                before = cpu_s(pid)
            for turn in range(len(ways)):
                which = (number + turn) % len(ways)
                updates = self.updates(count)
                begun, used = time.perf_counter(), time.process_time()
                await ways[which](updates)
                if number >= WARM_UP:
                    found[WAYS[which]].append(time.perf_counter() - begun)
                    cpu[WAYS[which]].append(time.process_time() - used)
        proxys = (cpu_s(pid) - before) / transactions
        return found, {PROXYS: proxys, **{way: statistics.median(each) for way, each in cpu.items()}}

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


@dataclass(frozen=True, slots=True)
class Found:
    """What one number of shards has taken: seconds by way, and CPU seconds for each transaction by process."""

    times: dict[str, list[float]]
    cpu: dict[str, float]

    @property
    def ratio(self) -> float:
        """The median of the rounds' own ratios of the proxy to by hand."""
        return self.to("by hand")

    def to(self, way: str) -> float:
        """The same, to any way."""
        return statistics.median(one / to for one, to in zip(self.times["proxy"], self.times[way], strict=True))


async def measure(
    listen: Target, shards: Sequence[Target], counts: Sequence[int], transactions: int, pid: int
) -> dict[str, Found]:
    """Return what was found, by "fsync, shards"; ``pid``: the proxy's."""
    stage = Stage([f"s{index}" for index in range(len(shards))])
    await stage.connect(listen, shards)
    found = {}
    changes = 0
    for fsync in ("on", "off"):
        for shard in stage.shards:
            await shard.execute(f"ALTER SYSTEM SET fsync = {fsync}")
            await shard.execute("SELECT pg_reload_conf()")
        for count in counts:
            found[f"fsync {fsync}, {count} shards"] = Found(*await stage.times(count, transactions, pid))
            changes += len(WAYS) * (WARM_UP + transactions) * count
            await stage.check(changes)
    await stage.close()
    return found


def table(found: dict[str, Found]) -> list[str]:
    """Return the lines of Markdown tables: times, and CPU."""
    lines = ["| | proxy | by hand | bare | proxy to by hand | to bare |", "|---|---:|---:|---:|---:|---:|"]
    for name, one in found.items():
        figures = " | ".join(f"{1000 * statistics.median(one.times[way]):.2f} ms" for way in WAYS)
        lines.append(f"| {name} | {figures} | {one.ratio:.2f} | {one.to('bare'):.2f} |")
    lines += [
        "",
        "| CPU for each | proxy's process | client of the proxy | by hand | bare |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, one in found.items():
        figures = " | ".join(f"{1e6 * one.cpu[process]:.0f} us" for process in (PROXYS, *WAYS))
        lines.append(f"| {name} | {figures} |")
    return lines


def run(counts: Sequence[int], transactions: int) -> tuple[dict[str, Found], dict[str, str]]:
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
            return uvloop.run(measure(listen, shards, counts, transactions, process.pid)), described


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
        head = f"`python -m bench.distributed`, {started}: {given.transactions} rounds, in turn, and their medians."
        text = "\n".join(["# A distributed transaction", "", head, "", *lines, "", *facts, ""])
        (directory / "README.md").write_text(text)
        rounded = {
            name: {way: [round(time, 6) for time in each] for way, each in one.times.items()}
            | {f"CPU of {process}": [round(seconds, 7)] for process, seconds in one.cpu.items()}
            for name, one in found.items()
        }
        (directory / "figures.json").write_text(json.dumps(rounded) + "\n")
    worst = max(one.ratio for name, one in found.items() if name.startswith("fsync on"))
    return 1 if worst > GOAL else 0


if __name__ == "__main__":
    sys.exit(main())
