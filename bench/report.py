"""Samples to figures (median, lowest and highest over the rounds), and those to a Markdown table and a JSON file.

Pure but for ``write``. A sample with a complaint is counted as a failed run and gives no figures.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING

from bench.model import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from bench.matrix import Options
    from bench.model import Contender, Sample

NONE = "–"  # noqa: RUF001 - a dash for "there is no such figure", as in any printed table
# More than this share of the machine's CPU spent on others makes a run doubtful.
DISTURBED = 0.05
REFERENCE_PROXY = "pgbouncer"
DIRECT = "direct"

ONE_MACHINE = (
    "pgbench, the proxies and the Postgres servers (here {}) share this one machine and its cores: whatever one uses, "
    "the others lack. More servers do not mean more hardware here, so over several shards this shows what the work "
    "costs, not how it scales."
)
STRONGER = (
    "Direct and PgBouncer use one server, where every COMMIT is an ordinary one. Through pgchorus over several shards "
    "a transaction that wrote several servers is committed atomically by two-phase commit, which flushes the WAL more "
    "often and sends more messages: a stronger thing beside a weaker one, not two ways to the same."
)
CPU = (
    "CPU is that of the proxy's process and its children, from /proc, over the whole pgbench run, connecting included, "
    "divided by the transactions that pgbench counted. The servers' CPU likewise, all servers that the contender uses. "
    "Statements per transaction, BEGIN and END counted: {}."
)
LATENCIES = (
    "Latencies are nearest-rank percentiles of pgbench's per-transaction log (sampled above about a million lines). "
    "Figures are medians over the rounds. Contenders alternate within each round."
)
DURABLE = "fsync on"
VOLATILE = "fsync OFF (figures of writing scripts are not those of a durable server)"
ONE_ROUND = "One round only: nothing is known about how much the figures vary. Not for publication."
TIDY = ", autovacuum off; before each writing run its database is vacuumed and a checkpoint done."

Cell = tuple[str, str, int, str]


@dataclass(frozen=True, slots=True)
class Figure:
    """A median over the rounds with the extremes beside it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure | None:
        """Return the figure of the values that are numbers; None when there are none."""
        numbers = [value for value in values if not math.isnan(value)]
        return cls(median(numbers), min(numbers), max(numbers)) if numbers else None


@dataclass(frozen=True, slots=True)
class Row:
    """One cell over all rounds. CPU in microseconds per transaction; the proxy's is None where there is no proxy."""

    scenario: str
    mode: str
    clients: int
    contender: str
    title: str
    rounds: int
    broken: int
    transactions: int
    failed: int
    tps: Figure | None
    p50_ms: Figure | None
    p95_ms: Figure | None
    p99_ms: Figure | None
    proxy_us: Figure | None
    proxy_user_us: Figure | None
    proxy_system_us: Figure | None
    servers_us: Figure | None
    other_cpu: float

    @property
    def cell(self) -> Cell:
        """Return what identifies the row."""
        return self.scenario, self.mode, self.clients, self.contender


def rows_of(samples: Sequence[Sample], contenders: Sequence[Contender]) -> list[Row]:
    """Group the samples by cell, in the order in which the cells first ran, contenders in their own order."""
    order = {contender.name: position for position, contender in enumerate(contenders)}
    by_name = {contender.name: contender for contender in contenders}
    cells: dict[Cell, list[Sample]] = {}
    first: dict[tuple[str, str, int], int] = {}
    for sample in samples:
        cells.setdefault(sample.cell, []).append(sample)
        first.setdefault(sample.cell[:3], len(first))
    ordered = sorted(cells.values(), key=lambda group: (first[group[0].cell[:3]], order[group[0].contender]))
    return [row_of(group, by_name[group[0].contender]) for group in ordered]


def row_of(group: Sequence[Sample], contender: Contender) -> Row:
    """Return the row of one cell's samples."""
    good = [sample for sample in group if not sample.complaint and sample.transactions]
    head = group[0]
    mark = contender.mark(head.mode)

    def each(value: Callable[[Sample], float]) -> Figure | None:
        return Figure.of(value(sample) for sample in good)

    def proxy(value: Callable[[Sample], float]) -> Figure | None:
        return None if contender.pid is None else each(lambda s: value(s) / s.transactions * 1e6)

    return Row(
        scenario=head.scenario,
        mode=head.mode,
        clients=head.clients,
        contender=head.contender,
        title=f"{contender.title} ({mark})" if mark else contender.title,
        rounds=len(group),
        broken=sum(1 for sample in group if sample.complaint),
        transactions=sum(sample.transactions for sample in good),
        failed=sum(sample.failed for sample in group),
        tps=each(lambda s: s.tps),
        p50_ms=each(lambda s: s.p50_ms),
        p95_ms=each(lambda s: s.p95_ms),
        p99_ms=each(lambda s: s.p99_ms),
        proxy_us=proxy(lambda s: s.proxy_user_s + s.proxy_system_s),
        proxy_user_us=proxy(lambda s: s.proxy_user_s),
        proxy_system_us=proxy(lambda s: s.proxy_system_s),
        servers_us=each(lambda s: s.server_cpu_s / s.transactions * 1e6),
        other_cpu=max(sample.other_cpu for sample in group),
    )


def number(value: float) -> str:
    """Return a number with about three significant digits, thousands apart."""
    if math.isnan(value):
        return NONE
    if value >= 100:  # noqa: PLR2004
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004


def shown(figure: Figure | None, *, spread: bool = False) -> str:
    """Return a figure for the table, with its extremes if asked for and if there are any."""
    if figure is None:
        return NONE
    text = number(figure.median)
    if spread and figure.low != figure.high:
        text += f" ({number(figure.low)}–{number(figure.high)})"  # noqa: RUF001 - a range
    return text


def ratio(figure: Figure | None, to: Figure | None) -> str:
    """Return one median as a multiple of another."""
    return f"{figure.median / to.median:.2f}" if figure and to and to.median else NONE


HEADER = (
    "mode",
    "clients",
    "through",
    "tps, median (min–max)",  # noqa: RUF001
    "to direct",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "proxy CPU us/transaction (user + system)",
    "to PgBouncer",
    "servers CPU us/transaction",
    "failed",
)


def table(rows: Sequence[Row]) -> str:
    """Return one scenario's rows as a Markdown table."""
    by_cell = {row.cell: row for row in rows}
    lines = ["| " + " | ".join(HEADER) + " |", "| --- | ---: | --- |" + " ---: |" * (len(HEADER) - 3)]
    for row in rows:
        reference = by_cell.get((*row.cell[:3], REFERENCE_PROXY))
        straight = by_cell.get((*row.cell[:3], DIRECT))
        split = f" ({shown(row.proxy_user_us)} + {shown(row.proxy_system_us)})" if row.proxy_us else ""
        broken = f"; {row.broken} of {row.rounds} runs broken off" if row.broken else ""
        fields = (
            row.mode,
            str(row.clients),
            row.title,
            shown(row.tps, spread=True),
            ratio(row.tps, straight.tps if straight else None),
            shown(row.p50_ms),
            shown(row.p95_ms),
            shown(row.p99_ms),
            shown(row.proxy_us) + split,
            ratio(row.proxy_us, reference.proxy_us if reference else None),
            shown(row.servers_us),
            f"{row.failed}{broken}",
        )
        lines.append("| " + " | ".join(fields) + " |")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a report says."""

    name: str
    started: str
    command: str
    options: Options
    machine: Mapping[str, str]
    durable: bool
    contenders: Sequence[Contender]
    samples: Sequence[Sample]
    checks: int
    verdict: str
    notices: Sequence[str]


def notes(run: Run, rows: Sequence[Row]) -> list[str]:
    """Return what a reader must know before believing a comparison."""
    servers = len({pid for contender in run.contenders for pid in contender.server_pids})
    shards = max((len(c.backing) for c in run.contenders), default=1)
    statements = ", ".join(f"{SCENARIOS[n].title} {SCENARIOS[n].statements}" for n in run.options.scenarios)
    found = [
        ONE_MACHINE.format(servers),
        *([STRONGER] if shards > 1 else []),
        CPU.format(statements),
        LATENCIES,
        "The servers run with " + (DURABLE if run.durable else VOLATILE) + TIDY,
    ]
    if shards > 1 and "tpcb" in run.options.scenarios:
        share = multi_writer_share(shards)
        found.append(
            f"Over {shards} shards account, teller and branch fall independently: "
            f"about {share:.0%} of TPC-B transactions write more than one shard."
        )
    if run.options.rounds == 1:
        found.append(ONE_ROUND)
    disturbed = [row for row in rows if row.other_cpu > DISTURBED]
    if disturbed:
        worst = max(row.other_cpu for row in disturbed)
        found.append(
            f"Disturbed: in {len(disturbed)} of {len(rows)} cells other processes of the machine used more than "
            f"{DISTURBED:.0%} of its CPU in some round (at most {worst:.0%})."
        )
    return [*found, *run.notices, *(notice for contender in run.contenders for notice in contender.notices)]


def multi_writer_share(shards: int) -> float:
    """Return the chance that three independent keys do not all fall on one of ``shards`` equal shards."""
    return 1 - 1 / shards**2


def settings(run: Run) -> str:
    """Return one sentence about when and how it ran."""
    options = run.options
    rounds = f"{options.rounds} round{'s' if options.rounds > 1 else ''}"
    how = f"scale {options.scale}, {options.seconds} s per run after {options.warmup} s of warming up, {rounds}"
    return f"{run.started}, by `{run.command}`: {how}, at most {options.threads} pgbench threads."


def markdown(run: Run, plots: Sequence[str]) -> str:
    """Return the whole report."""
    rows = rows_of(run.samples, run.contenders)
    options = run.options
    parts = [
        f"# pgbench side by side: {run.name}",
        settings(run),
        "\n".join(f"- {label}: {text}" for label, text in run.machine.items()),
        f"**{run.verdict}**",
    ]
    for name in options.scenarios:
        own = [row for row in rows if row.scenario == name]
        if own:
            scenario = SCENARIOS[name]
            parts += [f"## {scenario.title}", scenario.note[0].upper() + scenario.note[1:] + ".", table(own)]
    parts += [f"![{plot.removesuffix('.png')}]({plot})" for plot in plots]
    parts += ["## Read this first", "\n".join(f"- {note}" for note in notes(run, rows))]
    complaints = [
        f"- round {s.round}, {s.scenario}, -M {s.mode}, {s.clients} clients, {s.contender}: {s.complaint}"
        for s in run.samples
        if s.complaint
    ]
    if complaints:
        parts += ["## Runs that were broken off", "\n".join(complaints)]
    return "\n\n".join(parts) + "\n"


def raw(run: Run) -> str:
    """Return everything as JSON: the samples as they were read, and the rows made of them. NaN becomes null."""
    rows = rows_of(run.samples, run.contenders)
    return json.dumps(
        without_nan(
            {
                "name": run.name,
                "started": run.started,
                "command": run.command,
                "verdict": run.verdict,
                "checks": run.checks,
                "durable": run.durable,
                "options": asdict(run.options),
                "machine": dict(run.machine),
                "notes": notes(run, rows),
                "contenders": [
                    {"name": c.name, "title": c.title, "version": c.version, "shards": len(c.backing)}
                    for c in run.contenders
                ],
                "rows": [asdict(row) for row in rows],
                "samples": [asdict(sample) for sample in run.samples],
            }
        ),
        indent=1,
        allow_nan=False,
    )


def without_nan(value: object) -> object:
    """Replace NaN, which JSON does not have."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return value


def write(run: Run, directory: Path, plots: Sequence[str]) -> None:
    """Write the table and the raw figures into the directory of the results."""
    (directory / "README.md").write_text(markdown(run, plots))
    (directory / "figures.json").write_text(raw(run) + "\n")
