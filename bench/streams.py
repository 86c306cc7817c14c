"""``python -m bench.streams``: large results and COPY through the proxy beside the same on one server directly.

A table of a million rows of a hundred bytes is loaded by COPY, read by COPY and by SELECT: directly on one server,
through the proxy with that server as its only shard (the same rows), and through the proxy over four shards, where
SELECT with ORDER BY is merged. The ways take turns in each round. Then clients that do not read: how much the proxy's
memory grows while the answer of each kind waits for them.

The client is this process: it sends what was made before, and throws away what it reads.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.contenders import psql
from bench.model import BenchError, Target
from bench.process import add_up, snapshot
from bench.standing import facts_of, serve, standing, store
from proxy.demo.embedded import free_port
from proxy.wire.frontend import Query
from proxy.wire.startup import StartupMessage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack

    from proxy.demo.embedded import EmbeddedServer

SHARDS = 4
CHUNK_BYTES = 1 << 16
ANSWER_SECONDS = 300.0
FILLER = "x" * 92  # with the key and what stands between them about a hundred bytes
SCATTERED = 7919  # a prime: lengths that vary do so from row to row
TABLE = "CREATE TABLE wide (k int8 NOT NULL, filler text NOT NULL)"
READY = b"Z\x00\x00\x00\x05"
READY_BYTES = 6
ERROR = ord("E")
COPY_DONE = b"c\x00\x00\x00\x04"
SETTINGS = {"autovacuum": "off", "shared_buffers": "512MB", "max_wal_size": "8GB", "work_mem": "256MB"}
COPY_IN, COPY_OUT = "COPY wide FROM STDIN", "COPY wide TO STDOUT"
SELECT, ORDERED = "SELECT k, filler FROM wide", "SELECT k, filler FROM wide ORDER BY k"
WORK = {"COPY in": COPY_IN, "COPY out": COPY_OUT, "SELECT": SELECT, "SELECT ... ORDER BY": ORDERED}
GOAL_MIB = 64
PAGE = """\
# Large results and COPY

Written by `{command}`, {when}.

{rows:,} rows of about a hundred bytes ({lengths}), medians of {rounds} rounds in which the ways take turns;
one client, TCP on one machine, fsync off. *One shard* has the same rows of the same server as *direct*; over
{shards} shards ORDER BY is merged by the proxy. Everything shares {cores}, so over several shards
more servers work beside the proxy on the same cores, and where others have a part of these (the load below),
the CPU says more than the rate.

| | direct, MiB/s | one shard | to direct | {shards} shards | to direct | proxy CPU, one shard | {shards} shards |
|---|---:|---:|---:|---:|---:|---:|---:|
{table}

CPU is seconds for a million rows.

## Memory while a client does not read

Each of {slow} clients asks for all rows, reads the first {chunk_kib} KiB and then nothing for {pause:g} s. What the
proxy has more at most, from before the first of them asks until the last has read its answer, in MiB for each client
(goal: under {goal}):

| | one shard | {shards} shards |
|---|---:|---:|
{memory}

{facts}
"""


class Client:
    """A connection that sends and reads as fast as it can."""

    def __init__(self, target: Target) -> None:
        self._socket = socket.create_connection((target.host, target.port), ANSWER_SECONDS)
        self._buffer = memoryview(bytearray(CHUNK_BYTES))
        self._socket.sendall(StartupMessage(3, 0, {"user": target.user, "database": target.database}).encode())
        self.rest()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def ask(self, text: str) -> None:
        """Send a query."""
        self._socket.sendall(Query(text.encode()).encode())

    def some(self) -> int:
        """Read once; return how many bytes there were."""
        count = self._socket.recv_into(self._buffer)
        if not count:
            raise BenchError("a connection was closed")
        return count

    def rest(self) -> int:
        """Read up to ReadyForQuery, which is the last that comes; return how many bytes there were."""
        total, tail = 0, b""
        while True:
            count = self.some()
            if not total and self._buffer[0] == ERROR:
                raise BenchError(f"the answer is {bytes(self._buffer[:count])!r}")
            total += count
            tail = (tail + bytes(self._buffer[max(count - READY_BYTES, 0) : count]))[-READY_BYTES:]
            if tail.startswith(READY):
                return total

    def run(self, text: str, data: Sequence[bytes] = ()) -> tuple[float, int]:
        """Run a query, with rows for a COPY; return its seconds, and bytes, of the answer or of the rows."""
        begun = time.perf_counter()
        self.ask(text)
        for chunk in data:
            self._socket.sendall(chunk)
        if data:
            self._socket.sendall(COPY_DONE)
        read = self.rest()
        return time.perf_counter() - begun, sum(map(len, data)) or read


@dataclass(frozen=True, slots=True)
class Way:
    """Where a client connects, and the proxy that is there (0: none)."""

    name: str
    target: Target
    proxy: int


@dataclass(frozen=True, slots=True)
class Figures:
    """One run: MiB a second, and seconds of the proxy's CPU."""

    work: str
    way: str
    rate: float
    cpu_s: float


def rows_of(count: int, vary: int = 0) -> list[bytes]:
    """Return CopyData messages of so many rows, by ``vary`` bytes longer or shorter."""
    found, rows, size = [], [], 0
    for number in range(count):
        filler = (len(FILLER) - vary + number * SCATTERED % (2 * vary + 1)) * "x"
        row = f"{number}\t{filler}\n".encode()
        rows.append(row)
        size += len(row)
        if size >= CHUNK_BYTES or number == count - 1:
            found.append(b"d" + struct.pack(">i", size + 4) + b"".join(rows))
            rows, size = [], 0
    return found


def ways_of(servers: Sequence[EmbeddedServer], home: Path, stack: ExitStack) -> list[Way]:
    """Start the proxy before all servers; its database ``one`` is the one that ``direct`` uses."""
    program = servers[0].program("psql")
    for database in ("one", "four"):
        for server in servers[: 1 if database == "one" else SHARDS]:
            psql(program, Target(server.port, "postgres"), f"CREATE DATABASE {database}")
    port = free_port([server.port for server in servers])
    shards = {f"s{at}": server.port for at, server in enumerate(servers)}
    databases = {
        name: {
            "shards": {shard: f"postgres://postgres@127.0.0.1:{at}/{name}" for shard, at in used.items()},
            "home": "s0",
            "tables": {"wide": {"key": "k"}},
        }
        for name, used in (("one", {"s0": shards["s0"]}), ("four", shards))
    }
    configuration: dict[str, Any] = {
        "cluster": "bench",
        "listen": {"host": "127.0.0.1", "port": port},
        "auth": {"method": "trust"},
        "databases": databases,
    }
    process = serve(stack, json.dumps(configuration), home, "streams")
    found = [
        Way("direct", Target(servers[0].port, "one"), 0),
        Way("one", Target(port, "one"), process.pid),
        Way("four", Target(port, "four"), process.pid),
    ]
    for way in found[1:]:
        psql(program, way.target, TABLE)
    return found


def cpu_s(way: Way) -> float:
    """Return what the proxy has used so far."""
    return add_up(snapshot(), [way.proxy]).cpu_s if way.proxy else 0.0


def measure(ways: Sequence[Way], data: Sequence[bytes], rows: int, rounds: int) -> list[Figures]:
    """Do everything, in turns."""
    found = []
    for number in range(rounds):
        first = number % len(ways)
        for way in (*ways[first:], *ways[:first]):
            client = Client(way.target)
            client.run("TRUNCATE wide")
            for work, text in WORK.items():
                before = cpu_s(way)
                seconds, size = client.run(text, data if text == COPY_IN else ())
                found.append(Figures(work, way.name, size / seconds / (1 << 20), cpu_s(way) - before))
                if size < 0.99 * rows * len(FILLER):
                    raise BenchError(f"{way.name}: {work} has sent {size} bytes for {rows} rows")
                if text == COPY_IN:  # what reads first sets marks in the rows
                    client.run("SELECT count(*) FROM wide")
                    client.run("ANALYZE wide")
            client.close()
    return found


def peak_mib(pid: int) -> float:
    """Return the most memory that a process has had since it was told to forget."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise BenchError("the kernel does not tell how much memory a process has had")


def slow_clients(way: Way, text: str, count: int, pause_s: float) -> float:
    """Return how many MiB more the proxy has had at most for each client that did not read."""
    Path(f"/proc/{way.proxy}/clear_refs").write_text("5")
    before = peak_mib(way.proxy)
    clients = [Client(way.target) for _ in range(count)]
    for client in clients:
        client.ask(text)
        client.some()
    time.sleep(pause_s)
    for client in clients:
        client.rest()
        client.close()
    return (peak_mib(way.proxy) - before) / count


def table_of(found: Sequence[Figures], rows: int) -> str:
    """Return the lines of the table of rates."""
    lines = []
    for work in WORK:
        rates, cpus = (
            {way: median(getattr(one, what) for one in found if (one.work, one.way) == (work, way)) for way in WAYS}
            for what in ("rate", "cpu_s")
        )
        cells = [f"{rates['direct']:.0f}"]
        for way in WAYS[1:]:
            cells += [f"{rates[way]:.0f}", f"{rates[way] / rates['direct']:.2f}"]
        cells += [f"{cpus[way] * 1_000_000 / rows:.2f}" for way in WAYS[1:]]
        lines.append(f"| {work} | {' | '.join(cells)} |")
    return "\n".join(lines)


WAYS = ("direct", "one", "four")


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.streams", description=__doc__, allow_abbrev=False)
    parser.add_argument("--name", default="streams", help="directory below bench/results (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="(default: %(default)s)")
    parser.add_argument("--vary", type=int, default=0, help="by how many bytes rows are longer or shorter, at most 92")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--slow", type=int, default=4, help="clients that do not read (default: %(default)s)")
    parser.add_argument("--pause", type=float, default=3.0, help="seconds that they do not (default: %(default)s)")
    given = parser.parse_args(argv)
    given.command = " ".join(["python -m bench.streams", *argv])
    return given


def main(argv: Sequence[str]) -> None:
    """Measure, and write the page."""
    given = arguments(argv)
    when = datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
    with standing("streams", SHARDS, SETTINGS) as (servers, home, stack):
        facts = facts_of(servers[0])
        ways = ways_of(servers, home, stack)
        data = rows_of(given.rows, given.vary)
        found = measure(ways, data, given.rows, given.rounds)
        memory = {
            work: [slow_clients(way, text, given.slow, given.pause) for way in ways[1:]]
            for work, text in WORK.items()
            if text != COPY_IN
        }
    text = PAGE.format(
        when=when,
        shards=SHARDS,
        lengths=f"up to {given.vary} more or fewer" if given.vary else "nearly all of one length",
        cores=facts["processor"].rpartition(", ")[2],
        table=table_of(found, given.rows),
        memory="\n".join(f"| {work} | {' | '.join(f'{mib:.1f}' for mib in cells)} |" for work, cells in memory.items()),
        facts="\n".join(f"- {label}: {fact}" for label, fact in facts.items()),
        chunk_kib=CHUNK_BYTES >> 10,
        goal=GOAL_MIB,
        **vars(given),
    )
    raw = [[one.work, one.way, round(one.rate, 2), round(one.cpu_s, 2)] for one in found]
    store(given.name, text, {"work, way, MiB/s, proxy CPU s": raw, "MiB for each slow client": memory})


if __name__ == "__main__":
    main(sys.argv[1:])
