"""Crowds of clients over few rows, for a given time: are deadlocks found, and is nothing else taken for one?

python tests/faults/deadlocks.py --seconds 3600
python tests/faults/deadlocks.py --seconds 3600 --result docs/soak.md

By turns, for ten seconds each, clients of two proxies

- lock rows in one order (nobody may be ended), and in any order (who is ended is told 40P01, and the crowd goes on);
- stand in lines over all shards, which come loose from the end (nobody may be ended), and in rings (exactly one is);
- lock in one order while commits are held up with their parts prepared, and rows are held by prepared transactions;
- lock in one order, many more of them than the pools have links.

Ends with status 0 if all of that held. Deadlocks are looked for after ``--timeout`` seconds of waiting, which is far
less than the waits that have no deadlock, so that every one of those is looked at.
"""

# ruff: noqa: T201, E402 - a command that speaks to a person and finds the modules of the tests

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from crowd import LIMITS, TABLES, Crowd, fill
from lock_chains import Chain, PreparedBlockers, Seen
from pages import write_section
from proxy.demo.embedded import EmbeddedServer, free_port, start_all, stop_all
from proxy_process import ProxyProcess, write_config

if TYPE_CHECKING:
    from collections.abc import Sequence

TURN_SECONDS = 10.0
STAND_SECONDS = 0.7  # how long a line, or what is prepared, stands
SHARDS = 3
KINDS = ("one order", "any order", "lines and rings", "prepared blockers", "used-up pools")
HEADING = "## Deadlocks"


@dataclass(slots=True)
class Total:
    """What has come of one kind of turns."""

    turns: int = 0
    commits: int = 0
    due: int = 0  # ended, as they had to be
    wrong: int = 0  # ended for no reason
    waits: int = 0  # that were seen in samples
    behind_prepared: int = 0
    for_links: int = 0
    longest_s: float = 0.0


class Stress:
    """The turns, by two proxies over the shards at ``direct``; ``metrics`` are the proxies' ports for those."""

    def __init__(
        self, dsns: Sequence[str], direct: Sequence[str], metrics: Sequence[int], options: argparse.Namespace
    ) -> None:
        self.dsns = dsns
        self.direct = direct
        self.metrics = metrics
        self.options = options
        self.chain = Chain(dsns, direct, clients=options.clients, seed=options.seed)
        self.chain.fill()
        self.held_up = 0
        self.totals = {kind: Total() for kind in KINDS}
        self.details: list[str] = []

    def run(self) -> None:
        """Take turns until the time is up."""
        deadline = time.monotonic() + self.options.seconds
        turn = 0
        while time.monotonic() < deadline:
            kind = KINDS[turn % len(KINDS)]
            total = self.totals[kind]
            seen = Seen(self.direct, self.metrics)
            with seen.at_work():
                if kind == "lines and rings":
                    self._lines(total)
                else:
                    self._crowd(kind, total, self.options.seed + turn)
            total.turns += 1
            total.waits += seen.waits
            total.behind_prepared += seen.behind_prepared
            total.for_links += seen.for_links
            total.longest_s = max(total.longest_s, seen.longest_s)
            turn += 1
            print(f"{kind}: {total}", flush=True)

    def _crowd(self, kind: str, total: Total, seed: int) -> None:
        clients = self.options.clients * (2 if kind == "used-up pools" else 1)
        crowd = Crowd(
            self.dsns, clients=clients, seed=seed, ordered=kind != "any order", think_s=self.options.think_ms / 1000
        )
        with ExitStack() as stack:
            if kind == "prepared blockers":
                blockers = PreparedBlockers(self.direct, seed=seed, stand_s=STAND_SECONDS)
                stack.enter_context(blockers.at_work())
            stack.enter_context(crowd.at_work())
            time.sleep(TURN_SECONDS)
        if kind == "prepared blockers":
            self.held_up += blockers.times
        crowd.check_sum()
        if not any(crowd.committed):
            sys.exit(f"nobody has committed anything in {TURN_SECONDS:g} s")
        total.commits += sum(crowd.committed)
        total.wrong += len(crowd.wrong)
        total.due += len(crowd.errors) - len(crowd.wrong)
        self.details += [f"{kind}: {error}" for error in crowd.wrong]

    def _lines(self, total: Total) -> None:
        chain = self.chain
        chain.committed, chain.errors, chain.wrong = 0, [], []
        deadline = time.monotonic() + TURN_SECONDS
        while time.monotonic() < deadline:
            chain.run(ring=(chain.lines + chain.rings) % 2 == 1, stand_s=STAND_SECONDS)
        total.commits += chain.committed
        total.wrong += len(chain.wrong)
        total.due += len(chain.errors) - len(chain.wrong)
        self.details += [f"lines and rings: {error}" for error in chain.wrong]

    def missing(self) -> list[str]:
        """Return what a run has not met, and so has not shown."""
        totals = self.totals
        met = {
            "a line that stood": self.chain.lines,
            "a ring": self.chain.rings,
            "waits behind something prepared": totals["prepared blockers"].behind_prepared,
            "clients that waited for a link": totals["used-up pools"].for_links,
            "a deadlock": totals["any order"].due,
        }
        return [what for what, count in met.items() if not count]

    def words(self) -> list[str]:
        """Return the outcome, for the documentation."""
        options = self.options
        sum_of = {name: sum(getattr(one, name) for one in self.totals.values()) for name in ("commits", "due", "wrong")}
        lines = [
            (
                f"{options.seconds:g} s, seed {options.seed}; {SHARDS} shards, 2 proxies, {options.clients} clients"
                f" ({2 * options.clients} where pools are used up, {LIMITS['pool']['size']} links in each);"
                f" looked at after {options.timeout:g} s of waiting"
            ),
            (
                f"{sum_of['commits']} commits, {sum_of['due']} transactions ended with `40P01` as they had to be,"
                f" **{sum_of['wrong']} ended for no reason**"
            ),
            (
                f"{self.chain.lines} lines of {options.clients} transactions stood for {STAND_SECONDS:g} s,"
                f" nobody in them was ended; in each of {self.chain.rings} rings exactly one was"
            ),
            f"{self.held_up} times commits were held up while prepared, or rows by prepared transactions of others",
        ]
        table = [
            "| turns of ten seconds | | commits | ended, due | ended, for no reason | waits seen | longest |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for kind, one in self.totals.items():
            seen = f"{one.waits}"
            if kind == "prepared blockers":
                seen += f", {one.behind_prepared} of them behind a prepared transaction"
            if kind == "used-up pools":
                seen += f", and {one.for_links} for a link"
            cells = (kind, one.turns, one.commits, one.due, one.wrong, seen, f"{one.longest_s:.1f} s")
            table.append("| " + " | ".join(map(str, cells)) + " |")
        return [*(f"- {line}" for line in lines), "", *table]


def main() -> None:
    """Run it and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of load (%(default)g)")
    parser.add_argument("--clients", type=int, default=12, help="(%(default)s)")
    parser.add_argument("--think-ms", type=float, default=20.0, help="at most, between statements (%(default)g)")
    parser.add_argument("--timeout", type=float, default=0.05, help="deadlock.timeout_s (%(default)g)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="(a new one)")
    parser.add_argument("--result", type=Path, default=None, help="write a section into this file (Markdown)")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgchorus-deadlocks-")))
        directory.chmod(0o755)
        servers = [EmbeddedServer(directory / f"s{shard}", durable=False) for shard in range(SHARDS)]
        start_all(servers)
        stack.callback(stop_all, servers)
        direct = [one.dsn() for one in servers]
        tables = {**TABLES, "line": {"key": "k"}}
        limits = {**LIMITS, "deadlock": {"timeout_s": options.timeout}}
        dsns: list[str] = []
        ports: list[int] = []
        for number in range(2):
            ports.append(free_port([free_port()]))  # the proxy itself takes the first
            config = write_config(
                directory / f"proxy{number}.yaml",
                {"postgres": direct},
                tables,
                limits=limits,
                metrics={"port": ports[-1]},
            )
            proxy = ProxyProcess(config)
            stack.callback(proxy.close)
            proxy.start()
            dsns.append(proxy.dsn("postgres"))
            if number == 0:
                fill(dsns[0])
        stress = Stress(dsns, direct, ports, options)
        stress.run()
    report(stress, options)


def report(stress: Stress, options: argparse.Namespace) -> None:
    """Say what came of it; ends with an error if anything was wrong."""
    words = stress.words()
    print("\n".join(words))
    if options.result is not None:
        command = f"$ python tests/faults/deadlocks.py --seconds {options.seconds:g} --seed {options.seed}"
        text = ["Written by one run of", "", "```console", f"{command} --result docs/soak.md", "```", ""]
        text += [(__doc__ or "").split("\n\n", 2)[2].rpartition("Ends with")[0].strip(), "", *words]
        write_section(options.result, HEADING, "\n".join(text))
    if stress.details:
        print(*stress.details, sep="\n")
        sys.exit("somebody was ended for no reason")
    if missing := stress.missing():
        sys.exit(f"this run shows nothing about {', '.join(missing)}")
    print("all is well")


if __name__ == "__main__":
    main()
