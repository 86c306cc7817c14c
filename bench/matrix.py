"""The run: every cell of the matrix once per round, contenders in alternation, each writing run checked.

The order inside a round turns with the round, so that no contender always comes first after the others have warmed or
filled something. Decides what is measured around one pgbench; what is compared later is ``report``'s.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

from bench import balances, pgbench, process
from bench.contenders import clean_environment, psql
from bench.model import SCENARIOS, BenchError, Contender, Sample, Scenario, Target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SETTLE_SECONDS = 20.0
POLL_SECONDS = 0.1
# Beyond the seconds that pgbench was told: connecting, and ending the last transactions.
PGBENCH_GRACE_SECONDS = 60
FIRST_GUESS_TPS = 30_000.0


class WrongSums(BenchError):  # noqa: N818 - named for what was found
    """A writing run left rows that its committed transactions cannot have left."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to run. Times in seconds; ``links`` is how many connections a proxy may open to one server."""

    scenarios: tuple[str, ...]
    modes: tuple[str, ...]
    clients: tuple[int, ...]
    seconds: int
    warmup: int
    rounds: int
    threads: int
    scale: int
    links: int

    def cells(self) -> Iterator[tuple[Scenario, str, int]]:
        """Yield scenario, mode and clients in the order in which they run."""
        for name in self.scenarios:
            for mode in self.modes:
                for clients in self.clients:
                    yield SCENARIOS[name], mode, clients

    def expected_seconds(self, contenders: int) -> float:
        """Return about how long the measured part takes."""
        cells = len(self.scenarios) * len(self.modes) * len(self.clients)
        return self.rounds * cells * contenders * (self.seconds + self.warmup + 1.0)


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of the clients."""

    pgbench: str
    psql: str


@dataclass(frozen=True, slots=True)
class Reading:
    """The CPU clocks at one moment."""

    at: float
    proxy: process.Usage
    servers: process.Usage
    pgbench_s: float
    own_s: float
    machine_s: float


def say(text: str) -> None:
    """Tell the person who waits."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Matrix:
    """Runs the matrix and keeps the samples; a caller that stops it half-way still has those."""

    def __init__(self, options: Options, contenders: Sequence[Contender], programs: Programs) -> None:
        self.options = options
        self.contenders = list(contenders)
        self.programs = programs
        self.samples: list[Sample] = []
        self.checks = 0
        self._tps: dict[tuple[str, str, int, str], float] = {}

    def run(self) -> None:
        """Run every round. ``WrongSums`` ends it; a run that pgbench itself broke off is noted and the rest goes on."""
        for number in range(1, self.options.rounds + 1):
            for position, (scenario, mode, clients) in enumerate(self.options.cells()):
                turn = (number - 1 + position) % len(self.contenders)
                for contender in self.contenders[turn:] + self.contenders[:turn]:
                    if mode in contender.targets:
                        sample = self.one(contender, scenario, mode, clients, number)
                        self.samples.append(sample)
                        say(progress(sample, self.options.rounds))

    def one(self, contender: Contender, scenario: Scenario, mode: str, clients: int, number: int) -> Sample:
        """Run one pgbench and what belongs before and after it."""
        target = contender.targets[mode]
        self._tidy(contender, scenario)
        if self.options.warmup:
            load = self._load(mode, clients, self.options.warmup, 0.001)
            with tempfile.TemporaryDirectory(prefix="pgchorus-bench-") as directory:
                self._pgbench(scenario, load, target, Path(directory))
        before = self._balances(contender, target) if scenario.writes else None
        sample = self._measure(contender, scenario, mode, clients, number)
        if before is not None:
            self._check(contender, scenario, sample, before, target)
        return sample

    def _measure(self, contender: Contender, scenario: Scenario, mode: str, clients: int, number: int) -> Sample:
        cell = (scenario.name, mode, clients, contender.name)
        seconds = self.options.seconds
        sampling = pgbench.sampling_for(self._tps.get(cell, FIRST_GUESS_TPS), seconds)
        load = self._load(mode, clients, seconds, sampling)
        with tempfile.TemporaryDirectory(prefix="pgchorus-bench-") as directory:
            start = self._read(contender)
            status, output = self._pgbench(scenario, load, contender.targets[mode], Path(directory))
            end = self._read(contender)
            latencies = pgbench.parse_log(log_lines(Path(directory)))
        complaint = "" if status == 0 else f"pgbench ended with status {status}: {last_lines(output)}"
        try:
            summary = pgbench.parse_summary(output)
        except BenchError as error:
            summary, complaint = pgbench.Summary(0, 0, nan, aborted=True), complaint or str(error)
        self._tps[cell] = summary.tps if summary.tps > 0 else FIRST_GUESS_TPS
        proxy = end.proxy.since(start.proxy)
        servers = end.servers.since(start.servers)
        client_s = end.pgbench_s - start.pgbench_s
        ours = proxy.cpu_s + servers.cpu_s + client_s + (end.own_s - start.own_s)
        elapsed = end.at - start.at
        other = max(0.0, end.machine_s - start.machine_s - ours) / (elapsed * (os.cpu_count() or 1))
        return Sample(
            contender=contender.name,
            scenario=scenario.name,
            mode=mode,
            clients=clients,
            round=number,
            transactions=summary.transactions,
            failed=summary.failed,
            seconds=elapsed,
            tps=summary.tps,
            p50_ms=latencies.percentile_ms(50),
            p95_ms=latencies.percentile_ms(95),
            p99_ms=latencies.percentile_ms(99),
            worst_ms=latencies.percentile_ms(100),
            logged=len(latencies.sorted_us),
            sampling=sampling,
            proxy_user_s=proxy.user_s,
            proxy_system_s=proxy.system_s,
            proxy_rss_mib=proxy.resident_bytes / 2**20,
            server_cpu_s=servers.cpu_s,
            pgbench_cpu_s=client_s,
            other_cpu=other,
            complaint=complaint,
        )

    def _read(self, contender: Contender) -> Reading:
        stats = process.snapshot()
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = resource.getrusage(resource.RUSAGE_SELF)
        return Reading(
            at=time.monotonic(),
            proxy=process.add_up(stats, [] if contender.pid is None else [contender.pid]),
            servers=process.add_up(stats, list(contender.server_pids)),
            pgbench_s=children.ru_utime + children.ru_stime,
            own_s=own.ru_utime + own.ru_stime,
            machine_s=process.machine_busy_s(),
        )

    def _load(self, mode: str, clients: int, seconds: int, sampling: float) -> pgbench.Load:
        return pgbench.Load(mode, clients, self.options.threads, seconds, self.options.scale, sampling)

    def _pgbench(self, scenario: Scenario, load: pgbench.Load, target: Target, directory: Path) -> tuple[int, str]:
        """Run pgbench in a directory of its own, where its log files go. Bounded in time."""
        try:
            done = subprocess.run(
                pgbench.command(self.programs.pgbench, scenario, load, target),
                check=False,
                cwd=directory,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=load.seconds + PGBENCH_GRACE_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            output = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else ""
            return -1, f"{output}\npgbench was killed: it had not ended {PGBENCH_GRACE_SECONDS} s after its time"
        return done.returncode, done.stdout

    def _tidy(self, contender: Contender, scenario: Scenario) -> None:
        """Give every writing run the same start: no dead rows, a checkpoint just done. On the servers directly."""
        if scenario.writes:
            for target in contender.backing:
                psql(
                    self.programs.psql,
                    target,
                    *(f"VACUUM pgbench_{table}" for table in ("branches", "tellers", "accounts", "history")),
                    "CHECKPOINT",
                )

    def _balances(self, contender: Contender, target: Target) -> balances.Balances:
        """Read the sums through the contender, and see that the servers behind it say the same in total."""
        through = balances.parse_balances(psql(self.programs.psql, target, *balances.QUERIES))
        behind = balances.total(
            balances.parse_balances(psql(self.programs.psql, shard, *balances.QUERIES)) for shard in contender.backing
        )
        if through != behind:
            raise WrongSums(f"{contender.title} answers {through}, the servers behind it hold {behind}")
        return through

    def _check(
        self, contender: Contender, scenario: Scenario, sample: Sample, before: balances.Balances, target: Target
    ) -> None:
        """Hold the sums after a run against those before it. Prepared transactions of ours must be gone first."""
        self._settle(contender)
        moved = self._balances(contender, target).since(before)
        if sample.complaint:
            return  # how many transactions committed is not known then; that the run failed is said anyway
        found = balances.complaints(scenario, moved, sample.transactions)
        if found:
            where = f"{contender.title}, {scenario.title}, -M {sample.mode}, {sample.clients} clients"
            raise WrongSums(f"{where}: {sample.transactions} transactions were counted, but {'; '.join(found)}")
        self.checks += 1

    def _settle(self, contender: Contender) -> None:
        give_up = time.monotonic() + SETTLE_SECONDS
        while True:
            left = {t.port: psql(self.programs.psql, t, balances.LEFT_OVERS)[0] for t in contender.backing}
            if set(left.values()) == {"0"}:
                return
            if time.monotonic() > give_up:
                raise WrongSums(f"{contender.title}: prepared transactions are left over, by port: {left}")
            time.sleep(POLL_SECONDS)


def log_lines(directory: Path) -> Iterator[str]:
    """Yield the lines of every thread's log."""
    for path in sorted(directory.glob("log.*")):
        with path.open() as lines:
            yield from lines


def last_lines(output: str, count: int = 4) -> str:
    """Return what a program said about its end: errors first, then simply the last lines."""
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or "fatal" in line.lower()]
    return " | ".join((errors or lines)[-count:])[:1000]


def progress(sample: Sample, rounds: int) -> str:
    """Return one line about a run."""
    cell = (
        f"round {sample.round}/{rounds}  {sample.scenario:14}{sample.mode:9}c={sample.clients:<4}{sample.contender:12}"
    )
    if sample.complaint:
        return f"{cell} FAILED: {sample.complaint}"
    cpu = (sample.proxy_user_s + sample.proxy_system_s) / max(sample.transactions, 1) * 1e6
    proxy = f"  proxy {cpu:6.1f} us/transaction" if cpu else ""
    return f"{cell}{sample.tps:10.0f} tps  p50 {sample.p50_ms:.3f} ms  p99 {sample.p99_ms:.3f} ms{proxy}"
