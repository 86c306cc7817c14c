"""``python -m bench.workers``: what a second worker gives, and what it costs.

Proxies with ``workers: 1``, ``2`` and so on before the same shards and the same rows, in alternation: pgbench's SELECT
by key and TPC-B, whose sums are checked after each run. They share the machine with the servers and with pgbench: more
workers can use only the cores that these leave free. Where they leave none, the column that means something is the CPU
of the proxy for each transaction: it should stay as it was, since workers share nothing.

``--share 0.1`` gives each worker a tenth of a core and no more (bench/shares.py; for root alone), so that cores are
left free: throughput should grow as the number of workers does.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING

from bench.contenders import initialise, pgchorus_configuration, pids_of, psql
from bench.matrix import Matrix, Options, Programs
from bench.model import SCENARIOS, Contender, Target
from bench.process import snapshot
from bench.shares import limited
from bench.standing import facts_of, serve, standing, store
from proxy.demo.embedded import EmbeddedServer, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from bench.model import Sample

DATABASE = "bench_workers"
INTRODUCTION = """\
{clients} clients, {shards} shards, scale {scale}, protocol {mode}; medians of {rounds} runs of {seconds} s in
alternation. {cores} cores for everything: the servers, pgbench and the proxy. fsync is off, so that the work of the
proxy shows. *Others* is the share of the machine's CPU that went to processes that have nothing to do with this: where
it is large, the throughputs say little. After each writing run the sums agreed."""
SHARED = """
Each worker may use {share:g} of a core, which the kernel sees to (it stands still when they are used up, so latencies
say little): the rest of the machine is free for the servers, pgbench, and more workers."""


def start(
    workers: int, servers: Sequence[EmbeddedServer], given: argparse.Namespace, home: Path, stack: ExitStack
) -> Contender:
    """Start a proxy with so many workers before all servers."""
    shards = [Target(server.port, DATABASE) for server in servers]
    target = Target(free_port([server.port for server in servers]), "bench")
    # Links are divided between the workers and clients are not: enough for a worker that gets all of them.
    links = (given.clients + 4) * workers
    put = stack.enter_context(limited(given.share, str(workers))) if given.share else None
    process = serve(stack, pgchorus_configuration(target, shards, workers, links), home, str(workers))
    if put:
        put(workers_of(process.pid))
    title = f"{workers} worker{'s' if workers > 1 else ''}"
    return Contender(str(workers), title, {given.mode: target}, tuple(shards), pids_of(servers), process.pid)


def workers_of(pid: int) -> list[int]:
    """Return the processes that serve: what the supervisor started, or the proxy itself where it has none."""
    return [stat.pid for stat in snapshot() if stat.parent == pid] or [pid]


def page(samples: Sequence[Sample], contenders: Sequence[Contender], given: argparse.Namespace) -> list[str]:
    """Return the table."""
    lines = [
        "| | workers | transactions/s | to 1 worker | p50 ms | p99 ms | proxy CPU us | others |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for scenario in given.scenarios:
        base = 0.0
        for contender in contenders:
            group = [one for one in samples if (one.scenario, one.contender) == (scenario, contender.name)]
            tps = median(one.tps for one in group)
            base = base or tps
            cpu = median((one.proxy_user_s + one.proxy_system_s) / one.transactions * 1e6 for one in group)
            p50, p99 = (median(getattr(one, name) for one in group) for name in ("p50_ms", "p99_ms"))
            others = median(one.other_cpu for one in group)
            lines.append(
                f"| {SCENARIOS[scenario].title} | {contender.name} | {tps:,.0f} | {tps / base:.2f} | {p50:.2f} "
                f"| {p99:.2f} | {cpu:,.0f} | {others:.0%} |"
            )
    return lines


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description=__doc__, allow_abbrev=False)
    parser.add_argument("--name", default="workers", help="directory below bench/results (default: %(default)s)")
    parser.add_argument("--workers", default="1,2", help="numbers to compare (default: %(default)s)")
    parser.add_argument("--shards", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--clients", type=int, default=16, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=5, help="length of a run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--scale", type=int, default=16, help="of pgbench's tables (default: %(default)s)")
    parser.add_argument("--mode", default="prepared", help="pgbench's protocol (default: %(default)s)")
    parser.add_argument("--share", type=float, default=0.0, help="part of a core for each worker (for root alone)")
    given = parser.parse_args(argv)
    given.counts = [int(part) for part in given.workers.split(",")]
    given.scenarios = ("select", "tpcb")
    given.command = " ".join(["python -m bench.workers", *argv])
    return given


def main(argv: Sequence[str]) -> None:
    """Measure, and write the page."""
    given = arguments(argv)
    when = datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
    with standing("workers", given.shards) as (servers, home, stack):
        for server in servers:
            psql(server.program("psql"), Target(server.port, "postgres"), f"CREATE DATABASE {DATABASE}")
        contenders = [start(count, servers, given, home, stack) for count in given.counts]
        initialise(servers[0], contenders[0].targets[given.mode], given.scale)
        options = Options(
            scenarios=given.scenarios,
            modes=(given.mode,),
            clients=(given.clients,),
            seconds=given.seconds,
            warmup=1,
            rounds=given.rounds,
            threads=2,
            scale=given.scale,
            links=given.clients + 4,
        )
        matrix = Matrix(options, contenders, Programs(servers[0].program("pgbench"), servers[0].program("psql")))
        matrix.run()
        facts = facts_of(servers[0])
    introduction = INTRODUCTION.format(**vars(given), cores=len(os.sched_getaffinity(0)))
    introduction += SHARED.format(share=given.share) if given.share else ""
    known = [f"- {name}: {value}" for name, value in facts.items()]
    lines = ["# Workers", "", f"`{given.command}`, {when}", "", introduction, ""]
    text = "\n".join([*lines, *page(matrix.samples, contenders, given), "", *known, ""])
    store(given.name, text, [asdict(one) for one in matrix.samples])


if __name__ == "__main__":
    main(sys.argv[1:])
