"""``python -m bench.beside``: the proxy's CPU per query as a multiple of PgBouncer's, fit for a loud machine.

SELECT by one key through PgBouncer (before one server) and through one or more builds of pgchorus (before all of them),
in short rounds that turn around, so that whatever else the machine does meets all of them alike. The CPU is what the
kernel has counted for the process, in nanoseconds (/proc/PID/task/*/schedstat): runs may be as short as half a second.
Each round gives a ratio of its own; the median of these is the figure.

``--builds compiled=.compiled,plain=.`` names the directories that hold the packages: of the checkout, of what a
compiled wheel was unpacked to, of an older commit.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench import contenders, pgbench
from bench.contenders import child, clean_environment, initialise, pgchorus_configuration, psql, wait_for_line
from bench.model import MODES, SCENARIOS, BenchError, Target
from proxy.demo.embedded import EmbeddedServer, free_port, start_all, stop_all

if TYPE_CHECKING:
    from collections.abc import Sequence

DATABASE = "bench_beside"
NANOSECONDS = 1e9
BASE = "PgBouncer"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the rows: a process and where it listens, by pgbench's protocol."""

    name: str
    pid: int
    targets: dict[str, Target]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run has cost: CPU microseconds and turns of the process per transaction, and transactions a second."""

    cpu_us: float
    switches: float
    tps: float


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that the living threads of a process have used."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / NANOSECONDS


def switches(pid: int) -> int:
    """Return how often a process has gone to sleep by itself: one for each turn of its loop that found nothing."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def measure(program: str, way: Way, scenario: str, load: pgbench.Load) -> Cost:
    """Run pgbench once."""
    pid, target = way.pid, way.targets[load.mode]
    with tempfile.TemporaryDirectory(prefix="pgchorus-beside-") as directory:
        command = pgbench.command(program, SCENARIOS[scenario], load, target)
        before, turns = cpu_s(pid), switches(pid)
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=directory, env=clean_environment()
        )
        used, turned = cpu_s(pid) - before, switches(pid) - turns
    if done.returncode:
        raise BenchError(f"pgbench through {way.name}: {done.stderr.strip()[-2000:]}")
    summary = pgbench.parse_summary(done.stdout)
    return Cost(used / summary.transactions * 1e6, turned / summary.transactions, summary.tps)


def start_pgchorus(
    name: str, shards: Sequence[Target], ports: list[int], given: argparse.Namespace, stack: ExitStack
) -> Way:
    """Start a build before all shards."""
    home, packages = given.home, given.builds[name]
    target = Target(free_port(ports), "bench")
    ports.append(target.port)
    configuration, log = home / f"{name}.yaml", home / f"{name}.log"
    configuration.write_text(pgchorus_configuration(target, shards, given.workers, given.links))
    command = [sys.executable, "-c", _MAIN.format(packages=str(packages)), "serve", "-c", str(configuration)]
    process = stack.enter_context(child(command, home, log))
    wait_for_line(process, log, "pgchorus: ready")
    return Way(name, process.pid, dict.fromkeys(MODES, target))


# The children's PYTHONPATH is ours; a build that is named comes before it.
_MAIN = "import sys; sys.path.insert(0, {packages!r}); from proxy.cli import main; sys.exit(main(sys.argv[1:]))"


def start(given: argparse.Namespace, stack: ExitStack) -> tuple[str, list[Way]]:
    """Start servers, PgBouncer and the builds; returns pgbench's path and the ways."""
    servers = [EmbeddedServer(given.home / f"s{at}", durable=False) for at in range(given.shards)]
    stack.callback(stop_all, servers)
    start_all(servers)
    first = servers[0]
    for server in servers:
        psql(server.program("psql"), Target(server.port, "postgres"), f"CREATE DATABASE {DATABASE}")
    shards = [Target(server.port, DATABASE) for server in servers]
    ports = [server.port for server in servers]
    ways = []
    bouncer = contenders.find_pgbouncer()
    if bouncer is not None:
        stack.enter_context(contenders.direct(first, given.scale))
        contender = stack.enter_context(contenders.pgbouncer(bouncer, first, given.links))
        ports += [target.port for target in contender.targets.values()]
        ways.append(Way(BASE, contender.pid or 0, contender.targets))
    for name in given.builds:
        ways.append(start_pgchorus(name, shards, ports, given, stack))
        if len(ways) == (bouncer is not None) + 1:
            initialise(first, ways[-1].targets["simple"], given.scale)
    return first.program("pgbench"), ways


def table(costs: dict[str, list[Cost]], base: str) -> list[str]:
    """Return a line for each way: medians, and the median of the rounds' ratios to ``base``."""
    lines = []
    for name, of_way in costs.items():
        ratio = median(cost.cpu_us / to.cpu_us for cost, to in zip(of_way, costs[base], strict=True))
        rate = median(cost.tps / to.tps for cost, to in zip(of_way, costs[base], strict=True))
        cpu, turns = median(cost.cpu_us for cost in of_way), median(cost.switches for cost in of_way)
        lowest = min(cost.cpu_us for cost in of_way)
        times = f"{cpu:7.1f} us  (least {lowest:6.1f})  {ratio:5.2f}"
        lines.append(f"  {name:<12} {times}  {turns:5.2f} sleeps  {rate:5.2f}")
    return lines


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.beside", description=__doc__, allow_abbrev=False)
    parser.add_argument("--builds", default=f"this={contenders.PACKAGES}", help="name=directory, by commas")
    parser.add_argument("--shards", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--scenario", default="select", choices=list(SCENARIOS), help="(default: %(default)s)")
    parser.add_argument("--modes", default=",".join(MODES), help="pgbench's protocols (default: %(default)s)")
    parser.add_argument("--clients", default="8", help="numbers, by commas (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=1, help="length of a run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--scale", type=int, default=4, help="of pgbench's tables (default: %(default)s)")
    given = parser.parse_args(argv)
    named = (part.partition("=") for part in given.builds.split(","))
    given.builds = {name: Path(directory).resolve() for name, _, directory in named}
    given.clients = [int(part) for part in given.clients.split(",")]
    given.links = min(max(given.clients), 20) + 4
    return given


def main(argv: Sequence[str]) -> None:
    """Measure, and print."""
    given = arguments(argv)
    with tempfile.TemporaryDirectory(prefix="pgchorus-beside-") as temporary, ExitStack() as stack:
        given.home = Path(temporary)
        given.home.chmod(0o755)
        program, ways = start(given, stack)
        for clients in given.clients:
            for mode in given.modes.split(","):
                compare(program, ways, mode, clients, given)


def compare(program: str, ways: list[Way], mode: str, clients: int, given: argparse.Namespace) -> None:
    """Measure one protocol with so many clients, and print."""
    load = pgbench.Load(mode, clients, 2, given.seconds, given.scale, 0.001)
    costs: dict[str, list[Cost]] = {way.name: [] for way in ways}
    for number in range(given.rounds + 1):  # the first is not counted: it opens links and fills caches
        turn = number % len(ways)
        for way in ways[turn:] + ways[:turn]:
            cost = measure(program, way, given.scenario, load)
            if number:
                costs[way.name].append(cost)
    title = f"{given.scenario}, {mode}, {clients} clients, {given.rounds} rounds of {given.seconds} s"
    lines = [f"{title} (CPU, to {ways[0].name}, throughput)", *table(costs, ways[0].name)]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
