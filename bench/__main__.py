"""``python -m bench``: start the servers and the ways to them, run the matrix, write the results."""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bench import contenders, machine, plots, report
from bench.matrix import Matrix, Options, Programs, say
from bench.model import DEFAULT_SCENARIOS, MODES, SCENARIOS, BenchError, Contender
from bench.others import start_others
from bench.standing import end_on_signals
from proxy.demo.embedded import EmbeddedServer, start_all, stop_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESULTS = Path(__file__).parent / "results"
SERVER_SETTINGS = {"autovacuum": "off", "max_connections": "1000", "max_wal_size": "4GB", "shared_buffers": "256MB"}
LINKS_SPARE = 4
LONGEST_MINUTES = 60.0


def whole(text: str) -> int:
    """Read a positive whole number."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def numbers(text: str) -> tuple[int, ...]:
    """Read positive whole numbers with commas between."""
    return tuple(whole(part) for part in text.split(","))


def words_of(allowed: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Return a reader of allowed words with commas between."""

    def read(text: str) -> tuple[str, ...]:
        wrong = [word for word in text.split(",") if word not in allowed]
        if wrong:
            raise argparse.ArgumentTypeError(f"{', '.join(wrong)}: not one of {', '.join(allowed)}")
        return tuple(text.split(","))

    return read


WAYS = ("direct", "pgbouncer", "others", "pgchorus")


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line. ``--quick`` changes defaults only: what is given beside it counts."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--quick", action="store_true", help="one short round: shows that all works, gives no figures to publish")
    add("--name", default="latest", help="directory below bench/results (default: %(default)s)")
    add("--scenarios", type=words_of(list(SCENARIOS)), default=DEFAULT_SCENARIOS, help=f"of {', '.join(SCENARIOS)}")
    add("--modes", type=words_of(MODES), default=MODES, help=f"of {', '.join(MODES)} (pgbench's -M)")
    add("--through", type=words_of(WAYS), default=WAYS, help=f"of {', '.join(WAYS)}")
    add("--clients", type=numbers, default=(8,), help="numbers of clients, as 1,8 (default: 8)")
    add("--shards", type=numbers, default=(3,), help="numbers of shards behind pgchorus, as 1,3 (default: 3)")
    add("--seconds", type=whole, help="length of a run (default: 10; quick 2)")
    add("--warmup", type=int, help="seconds of warming up before each run, 0 for none (default: 1; quick 0)")
    add("--rounds", type=whole, help="how often the matrix runs (default: 3; quick 1)")
    add("--scale", type=whole, help="pgbench's scale, 100,000 accounts each (default: 10; quick 2)")
    add("--threads", type=whole, default=2, help="pgbench's threads (default: %(default)s)")
    add("--workers", type=whole, default=1, help="processes of pgchorus (default: %(default)s)")
    add("--volatile", action="store_true", help="fsync off on all servers")
    add("--longest", type=float, default=LONGEST_MINUTES, help="minutes that the run may be expected to take")
    given = parser.parse_args(argv)
    for key, value, quick in (("seconds", 10, 2), ("warmup", 1, 0), ("rounds", 3, 1), ("scale", 10, 2)):
        if getattr(given, key) is None:
            setattr(given, key, quick if given.quick else value)
    if not given.name.replace("-", "").replace("_", "").isalnum():
        parser.error("--name: letters, digits, - and _ only")
    return given


def options_of(given: argparse.Namespace) -> Options:
    """Return the matrix's options."""
    return Options(
        scenarios=given.scenarios,
        modes=given.modes,
        clients=given.clients,
        seconds=given.seconds,
        warmup=given.warmup,
        rounds=given.rounds,
        threads=given.threads,
        scale=given.scale,
        links=max(given.clients) + LINKS_SPARE,
    )


def start_contenders(
    given: argparse.Namespace, options: Options, servers: Sequence[EmbeddedServer], stack: ExitStack, home: Path
) -> tuple[list[Contender], list[str]]:
    """Start what was asked for, in order; return it with the notices about what is missing."""
    found: list[Contender] = []
    notices: list[str] = []
    if {"direct", "pgbouncer", "others"} & set(given.through):
        one = stack.enter_context(contenders.direct(servers[0], options.scale))
        if "direct" in given.through:
            found.append(one)
    if "pgbouncer" in given.through:
        program = contenders.find_pgbouncer()
        if program is None:
            notices.append("PgBouncer is not installed here, so nothing is compared with it.")
        else:
            found.append(stack.enter_context(contenders.pgbouncer(program, servers[0], options.links)))
    if "others" in given.through:
        more, missing = start_others(servers[0], options.links, stack)
        found += more
        notices += missing
    if "pgchorus" in given.through:
        for count in given.shards:
            way = contenders.pgchorus(servers[:count], options.scale, given.workers, options.links, home)
            found.append(stack.enter_context(way))
    return found, notices


def verdict_of(matrix: Matrix, failure: str) -> str:
    """Return the sentence that stands above the tables."""
    broken = sum(1 for sample in matrix.samples if sample.complaint)
    failed = sum(sample.failed for sample in matrix.samples)
    if failure:
        return f"FAILED: {failure}"
    checks = f"After each of {matrix.checks} writing runs the sums agreed and the history had each counted transaction."
    checks = checks if matrix.checks else "No writing run was checked."
    trouble = f" {broken} runs were broken off." if broken else ""
    return f"{checks}{trouble} Failed transactions: {failed}."


def bench(given: argparse.Namespace, command: str) -> int:
    """Run it all; return the exit status: 0, or 1 when sums were wrong or a run was broken off."""
    options = options_of(given)
    started = datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
    with tempfile.TemporaryDirectory(prefix="pgchorus-bench-") as temporary, ExitStack() as stack:
        home = Path(temporary)
        count = max(given.shards) if "pgchorus" in given.through else 1
        servers = [
            EmbeddedServer(home / f"server{i}", durable=not given.volatile, settings=SERVER_SETTINGS)
            for i in range(count)
        ]
        stack.callback(stop_all, servers)
        say(f"starting {count} servers and loading scale {options.scale}")
        start_all(servers)
        found, notices = start_contenders(given, options, servers, stack, home)
        for notice in (*notices, *(notice for contender in found for notice in contender.notices)):
            say(f"note: {notice}")
        minutes = options.expected_seconds(len(found)) / 60
        if minutes > given.longest:
            raise BenchError(f"this would take about {minutes:.0f} minutes; --longest allows {given.longest:.0f}")
        say(f"about {minutes:.0f} minutes: {', '.join(contender.title for contender in found)}")
        programs = Programs(servers[0].program("pgbench"), servers[0].program("psql"))
        versions = {
            "PostgreSQL": [servers[0].program("postgres"), "--version"],
            "pgbench": [programs.pgbench, "--version"],
        }
        described = machine.describe(versions, {c.title: c.version for c in found if c.version})
        matrix = Matrix(options, found, programs)
        failure = ""
        try:
            matrix.run()
        except BenchError as error:
            failure = str(error)
        run = report.Run(
            name=given.name,
            started=started,
            command=command,
            options=options,
            machine=described,
            durable=not given.volatile,
            contenders=found,
            samples=matrix.samples,
            checks=matrix.checks,
            verdict=verdict_of(matrix, failure),
            notices=notices,
        )
        publish(run)
    broken = any(sample.complaint for sample in matrix.samples)
    return 1 if failure or broken else 0


def publish(run: report.Run) -> None:
    """Write pictures, table and raw figures, and say how it went."""
    directory = RESULTS / run.name
    directory.mkdir(parents=True, exist_ok=True)
    rows = report.rows_of(run.samples, run.contenders)
    caption = f"{run.started}; {run.machine['processor']}; all processes on this machine"
    report.write(run, directory, plots.draw_all(rows, directory, caption))
    say(f"{run.verdict}\nresults: bench/results/{run.name}/README.md")


def main() -> None:
    """Run as a program. A signal to stop unwinds everything that was started."""
    end_on_signals()
    given = arguments(sys.argv[1:])
    try:
        status = bench(given, " ".join(["python -m bench", *sys.argv[1:]]))
    except BenchError as error:
        sys.stderr.write(f"bench: {error}\n")
        status = 1
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
