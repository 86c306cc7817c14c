"""``python -m bench.fence``: what the fence costs, to readers of several shards and to those who commit meanwhile.

A read of every shard (``SELECT count(*), sum(v)``) at ``pgchorus.read_consistency`` = snapshot, which takes the fence,
and = shard, which does not; alone, and beside clients that commit on two shards. Those commit alone, and beside reads
of both kinds, so many a second. Everything else is the same: the rows, the servers, the proxy, the clients.

Every read sets its consistency in a statement of its own, answered by the proxy, whose time is in the figures of both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.contenders import clean_environment, pids_of, psql
from bench.model import BenchError, Target
from bench.pgbench import Latencies, Summary, parse_log, parse_summary
from bench.process import add_up, snapshot
from bench.standing import facts_of, serve, standing, store
from proxy.demo.embedded import EmbeddedServer, free_port
from router.cluster import Database
from router.sharding import slot_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ROWS = 1000  # on each shard
PAIRS = 64  # of rows that commits change; each pair is on two shards
READ = "SET pgchorus.read_consistency = {how};\nSELECT count(*), sum(v) FROM cell;\n"
COMMIT = "BEGIN;\nUPDATE cell SET v = v + 1 WHERE k = {one};\nUPDATE cell SET v = v - 1 WHERE k = {other};\nEND;\n"
KINDS = ("shard", "snapshot")
INTRODUCTION = """\
Reads: `SELECT count(*), sum(v)` of {rows} rows on each shard, {readers} clients; *shard* is without the fence,
*snapshot* with it. Commits: two rows on two shards, {committers} clients. Beside commits there are {rate} reads a
second, and their time counts from when each was due. fsync is off, so that the work of the proxy shows. Everything
shares this machine; where its load was high before anything had begun (below), trust the CPU and not the times.
Medians of {rounds} runs of {seconds} s."""
CHECKED = """\
Commits a second, and the time of one. Failed transactions: {failed}. After each round the sum over all shards was what
it has to be, and nothing was left prepared."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One pgbench run: transactions a second, milliseconds, and milliseconds of CPU for each transaction."""

    tps: float
    p50_ms: float
    p95_ms: float
    failed: int
    proxy_ms: float = 0.0
    servers_ms: float = 0.0


class Place:
    """The proxy over so many servers, and the scripts."""

    def __init__(self, servers: Sequence[EmbeddedServer], directory: Path, stack: ExitStack) -> None:
        self.count = len(servers)
        self.directory = directory
        self.program = servers[0].program("pgbench")
        self._psql = servers[0].program("psql")
        database = f"fence_{self.count}"
        for server in servers:
            psql(self._psql, Target(server.port, "postgres"), f"CREATE DATABASE {database}")
        self.shards = [Target(server.port, database) for server in servers]
        self.target = Target(free_port([server.port for server in servers]), "fence")
        process = serve(stack, json.dumps(self._configuration()), directory, f"fence{self.count}")
        self._roots = ([process.pid], list(pids_of(servers)))
        self.keys = self._keys()
        self._fill()
        self.reads = {how: [self._script(f"read_{how}", READ.format(how=how))] for how in KINDS}
        self.commits = [
            self._script(f"commit{number}", COMMIT.format(one=one, other=other))
            for number, (one, other) in enumerate(self._pairs())
        ]

    def cpu_s(self) -> tuple[float, float]:
        """Return the CPU seconds that the proxy and the servers have used so far."""
        stats = snapshot()
        proxy, servers = (add_up(stats, roots).cpu_s for roots in self._roots)
        return proxy, servers

    def _configuration(self) -> dict[str, Any]:
        shards = {f"s{at}": f"postgres://{s.user}@{s.host}:{s.port}/{s.database}" for at, s in enumerate(self.shards)}
        return {
            "cluster": "bench",
            "listen": {"host": self.target.host, "port": self.target.port},
            "auth": {"method": "trust"},
            "databases": {"fence": {"shards": shards, "home": "s0", "tables": {"cell": {"key": "k"}}}},
        }

    def _keys(self) -> list[list[int]]:
        """Return keys by shard, ``ROWS`` for each."""
        logical = Database("fence", tuple(f"s{at}" for at in range(self.count)), 0)
        by_shard: list[list[int]] = [[] for _ in range(self.count)]
        key = 0
        while any(len(keys) < ROWS for keys in by_shard):
            key += 1
            keys = by_shard[logical.shard_of_slot(slot_of("int4", key, logical.slots))]
            if len(keys) < ROWS:
                keys.append(key)
        return by_shard

    def _fill(self) -> None:
        rows = ", ".join(f"({key}, 0)" for keys in self.keys for key in keys)
        psql(self._psql, self.target, "CREATE TABLE cell (k int4 PRIMARY KEY, v int8 NOT NULL)")
        psql(self._psql, self.target, f"INSERT INTO cell VALUES {rows}")
        for shard in self.shards:
            psql(self._psql, shard, "VACUUM ANALYZE cell")

    def _pairs(self) -> list[tuple[int, int]]:
        """Return pairs of rows on two shards, in one order of keys, so that nobody can deadlock."""
        found = []
        for number in range(PAIRS):
            one, other = number % self.count, (number + 1 + number // self.count) % self.count
            other = (one + 1) % self.count if one == other else other
            low, high = sorted((self.keys[one][number], self.keys[other][ROWS - 1 - number]))
            found.append((low, high))
        return found

    def _script(self, name: str, text: str) -> Path:
        path = self.directory / f"{name}_{self.count}.sql"
        path.write_text(text)
        return path

    def check(self) -> None:
        """See that every commit was on both shards or on none, and that nothing is left."""
        sums = [int(psql(self._psql, shard, "SELECT sum(v) FROM cell")[0]) for shard in self.shards]
        left = [int(psql(self._psql, shard, "SELECT count(*) FROM pg_prepared_xacts")[0]) for shard in self.shards]
        if sum(sums) or any(left):
            raise BenchError(f"over {self.count} shards: the sum is {sum(sums)} and not 0, prepared: {left}")


class Load:
    """A running pgbench."""

    def __init__(  # noqa: PLR0913 - what a run is made of
        self, place: Place, name: str, scripts: Sequence[Path], *, clients: int, seconds: int, rate: int = 0
    ) -> None:
        self._directory = place.directory / f"run_{place.count}_{name}"
        self._directory.mkdir(exist_ok=True)
        for old in self._directory.iterdir():
            old.unlink()
        target = place.target
        command = [place.program, *target.arguments(), *(part for one in scripts for part in ("-f", str(one)))]
        command += ["-n", "-M", "simple", "-c", str(clients), "-j", "1", "-T", str(seconds), "-l", "--log-prefix=log"]
        command += [f"--rate={rate}"] if rate else []
        self._seconds = seconds
        self._place = place
        self._before = place.cpu_s()
        self._process = subprocess.Popen(
            [*command, target.database],
            cwd=self._directory,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def figures(self) -> Figures:
        """Wait for its end; raises BenchError when it was broken off."""
        output, errors = self._process.communicate(timeout=self._seconds + 60)
        if self._process.returncode != 0:
            raise BenchError(f"pgbench ended with {self._process.returncode}: {errors.strip()[-1000:]}")
        proxy_s, servers_s = (now - then for now, then in zip(self._place.cpu_s(), self._before, strict=True))
        summary: Summary = parse_summary(output)
        each = 1000 / max(summary.transactions, 1)
        lines = [line for log in self._directory.iterdir() for line in log.read_text().splitlines()]
        latencies: Latencies = parse_log(lines)
        return Figures(
            summary.tps,
            latencies.percentile_ms(50),
            latencies.percentile_ms(95),
            summary.failed + latencies.without,
            proxy_s * each,
            servers_s * each,
        )


def measure(place: Place, given: argparse.Namespace) -> dict[str, Figures]:
    """Run every cell once."""
    found: dict[str, Figures] = {}
    seconds = given.seconds

    def reading(how: str, rate: int = 0) -> Load:
        return Load(place, "read", place.reads[how], clients=given.readers, seconds=seconds, rate=rate)

    def committing() -> Load:
        return Load(place, "commit", place.commits, clients=given.committers, seconds=seconds)

    for how in KINDS:
        found[f"reads alone, {how}"] = reading(how).figures()
    found["commits alone"] = committing().figures()
    for how in KINDS:
        commits, reads = committing(), reading(how, given.rate)
        found[f"reads beside commits, {how}"] = reads.figures()
        found[f"commits beside reads, {how}"] = commits.figures()
    place.check()
    return found


def middle(rounds: Sequence[dict[str, Figures]]) -> dict[str, Figures]:
    """Return the medians of the rounds."""
    return {
        cell: Figures(
            median(one[cell].tps for one in rounds),
            median(one[cell].p50_ms for one in rounds),
            median(one[cell].p95_ms for one in rounds),
            sum(one[cell].failed for one in rounds),
            median(one[cell].proxy_ms for one in rounds),
            median(one[cell].servers_ms for one in rounds),
        )
        for cell in rounds[0]
    }


def page(found: dict[int, dict[str, Figures]], given: argparse.Namespace, facts: dict[str, str], when: str) -> str:
    """Return the results as Markdown."""
    lines = [
        "# What the fence costs",
        "",
        f"Written by `{given.command}`, {when}.",
        "",
        INTRODUCTION.format(rows=ROWS, **vars(given)),
        "",
        "| shards | reads alone: shard | snapshot | beside commits: shard | snapshot |",
        "|---:|---:|---:|---:|---:|",
    ]
    for count, cells in found.items():
        reads = [cells[f"reads {where}, {how}"] for where in ("alone", "beside commits") for how in KINDS]
        lines.append(f"| {count} | " + " | ".join(f"{one.p50_ms:.1f} / {one.p95_ms:.1f} ms" for one in reads) + " |")
    lines += [
        "",
        "Time of a read, median / 95th percentile.",
        "",
        "| shards | CPU of a read, proxy: shard | snapshot | servers: shard | snapshot | a commit: proxy | servers |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for count, cells in found.items():
        reads = [cells[f"reads alone, {how}"] for how in KINDS]
        spent = [*(one.proxy_ms for one in reads), *(one.servers_ms for one in reads)]
        spent += [cells["commits alone"].proxy_ms, cells["commits alone"].servers_ms]
        lines.append(f"| {count} | " + " | ".join(f"{ms:.1f} ms" for ms in spent) + " |")
    lines += [
        "",
        f"| shards | commits alone | beside {given.rate} reads/s: shard | snapshot | snapshot to shard |",
        "|---:|---:|---:|---:|---:|",
    ]
    for count, cells in found.items():
        alone, shard, snapshot = (
            cells[cell] for cell in ("commits alone", *(f"commits beside reads, {how}" for how in KINDS))
        )
        texts = [f"{one.tps:.0f}/s, {one.p50_ms:.1f} / {one.p95_ms:.1f} ms" for one in (alone, shard, snapshot)]
        lines.append(f"| {count} | " + " | ".join([*texts, f"{snapshot.tps / shard.tps:.2f}"]) + " |")
    failed = sum(one.failed for cells in found.values() for one in cells.values())
    lines += [
        "",
        CHECKED.format(failed=failed),
        "",
        *(f"- {label}: {text}" for label, text in facts.items()),
        "",
    ]
    return "\n".join(lines)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.fence", description=__doc__, allow_abbrev=False)
    parser.add_argument("--name", default="fence", help="directory below bench/results (default: %(default)s)")
    parser.add_argument("--shards", default="2,4,8", help="numbers of shards (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=4, help="length of a run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--readers", type=int, default=2, help="clients that read (default: %(default)s)")
    parser.add_argument("--committers", type=int, default=4, help="clients that commit (default: %(default)s)")
    parser.add_argument("--rate", type=int, default=10, help="reads a second beside commits (default: %(default)s)")
    given = parser.parse_args(argv)
    given.counts = [int(part) for part in given.shards.split(",")]
    given.command = " ".join(["python -m bench.fence", *argv])
    return given


def main(argv: Sequence[str]) -> None:
    """Measure, and write the page."""
    given = arguments(argv)
    when = datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
    with standing("fence", max(given.counts)) as (servers, home, _):
        facts = facts_of(servers[0])
        found: dict[int, dict[str, Figures]] = {}
        for count in given.counts:
            with ExitStack() as inside:
                place = Place(servers[:count], home, inside)
                found[count] = middle([measure(place, given) for _ in range(given.rounds)])
    raw = {count: {cell: asdict(one) for cell, one in cells.items()} for count, cells in found.items()}
    store(given.name, page(found, given, facts, when), raw)


if __name__ == "__main__":
    main(sys.argv[1:])
