"""pgbench: its command line, its summary and its per-transaction log, read.

Pure: running it and where its files lie are ``matrix``'s. Formats as in PostgreSQL's manual, page pgbench, from version
15 on (the log's third field is the latency in microseconds or a word).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.model import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.model import Scenario, Target

LOG_LINES_WANTED = 1_000_000
# What a transaction that failed or was never started has instead of a latency.
NO_LATENCY = frozenset({"failed", "skipped", "serialization", "deadlock"})

_PROCESSED = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)
_FAILED = re.compile(r"^number of failed transactions: (\d+)", re.MULTILINE)
_TPS = re.compile(r"^tps = ([0-9.]+) \(without initial connection time\)", re.MULTILINE)
_ABORTED = re.compile(r"^Run was aborted", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Summary:
    """What pgbench prints at its end. ``aborted``: a client gave up on an error, so the figures are not whole."""

    transactions: int
    failed: int
    tps: float
    aborted: bool


@dataclass(frozen=True, slots=True)
class Latencies:
    """Sorted latencies in microseconds, and how many logged transactions have none."""

    sorted_us: tuple[int, ...]
    without: int

    def percentile_ms(self, percent: float) -> float:
        """Return the nearest-rank percentile: the smallest latency that at least ``percent`` of all do not exceed."""
        return percentile(self.sorted_us, percent) / 1000


@dataclass(frozen=True, slots=True)
class Load:
    """How pgbench drives: query mode, connections, threads, seconds, the tables' scale, the share of what it logs."""

    mode: str
    clients: int
    threads: int
    seconds: int
    scale: int
    sampling: float = 1.0


def command(program: str, scenario: Scenario, load: Load, target: Target) -> list[str]:
    """Return pgbench's command line. The log goes to files that begin with ``log`` in the working directory."""
    return [
        program,
        *target.arguments(),
        *scenario.script,
        # A script of our own is not asked for the scale, pgbench's own are; giving it there is a warning.
        *([] if scenario.builtin else ["-s", str(load.scale)]),
        *[
            "-M",
            load.mode,
            "-c",
            str(load.clients),
            "-j",
            str(min(load.threads, load.clients)),
            "-T",
            str(load.seconds),
        ],
        "-n",
        *["-l", "--log-prefix", "log"],
        *([f"--sampling-rate={load.sampling:.6f}"] if load.sampling < 1 else []),
        target.database,
    ]


def parse_summary(text: str) -> Summary:
    """Read the summary. ``BenchError`` when the transactions or the rate are missing: it is then not a summary."""
    processed, tps = _PROCESSED.search(text), _TPS.search(text)
    if processed is None or tps is None:
        raise BenchError(f"not a summary of pgbench: {text.strip()[:500]!r}")
    failed = _FAILED.search(text)
    return Summary(
        transactions=int(processed[1]),
        failed=int(failed[1]) if failed else 0,
        tps=float(tps[1]),
        aborted=_ABORTED.search(text) is not None,
    )


def parse_log(lines: Iterable[str]) -> Latencies:
    """Read lines of per-transaction logs (of all threads, in any order)."""
    found: list[int] = []
    without = 0
    for line in lines:
        fields = line.split()
        if len(fields) < 6:  # noqa: PLR2004 - the log has six fields, more with -R or --max-tries
            raise BenchError(f"not a line of pgbench's log: {line!r}")
        if fields[2] in NO_LATENCY:
            without += 1
        else:
            found.append(int(fields[2]))
    found.sort()
    return Latencies(tuple(found), without)


def percentile(ordered: Sequence[int], percent: float) -> float:
    """Return the nearest-rank percentile of sorted values, NaN of none."""
    if not ordered:
        return math.nan
    rank = max(1, math.ceil(len(ordered) * percent / 100))
    return float(ordered[rank - 1])


def sampling_for(expected_tps: float, seconds: float, wanted: int = LOG_LINES_WANTED) -> float:
    """Return the share of transactions to log so that about ``wanted`` lines come out at most."""
    expected = expected_tps * seconds
    return 1.0 if expected <= wanted else wanted / expected
