"""The four sums of pgbench, which tell whether a run lost, doubled or tore a transaction.

Every TPC-B transaction adds one amount to an account, a teller and a branch and writes it into the history; so the four
sums move together, and the history grows by one row per transaction that pgbench counted. Other scripts move fewer of
them (pgbench's -N leaves tellers and branches alone), so what is compared is the movement between two readings.

Pure: reading them over a connection is ``matrix``'s.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from bench.model import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.model import Scenario

QUERIES = (
    "SELECT sum(abalance) FROM pgbench_accounts",
    "SELECT sum(tbalance) FROM pgbench_tellers",
    "SELECT sum(bbalance) FROM pgbench_branches",
    "SELECT sum(delta) FROM pgbench_history",
    "SELECT count(*) FROM pgbench_history",
)
LEFT_OVERS = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database() AND gid LIKE 'pgchorus:%'"


@dataclass(frozen=True, slots=True)
class Balances:
    """The four sums, and the number of rows in the history."""

    accounts: int
    tellers: int
    branches: int
    history: int
    history_rows: int

    def since(self, earlier: Balances) -> Balances:
        """Return how far each has moved."""
        return Balances(*(getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)))


def parse_balances(lines: Sequence[str]) -> Balances:
    """Read psql's unaligned answers to ``QUERIES``; the sum of no rows is NULL, an empty line."""
    if len(lines) != len(QUERIES):
        raise BenchError(f"{len(QUERIES)} queries for the sums gave {len(lines)} answers: {list(lines)}")
    return Balances(*(int(line or 0) for line in lines))


def total(parts: Iterable[Balances]) -> Balances:
    """Add up what several shards answered for themselves."""
    rows = [[getattr(part, f.name) for f in fields(Balances)] for part in parts]
    return Balances(*(sum(column) for column in zip(*rows, strict=True)))


def complaints(scenario: Scenario, moved: Balances, transactions: int) -> list[str]:
    """Say what in a movement cannot be the work of that many committed transactions of the scenario."""
    found = []
    sums = {name: getattr(moved, name) for name in ("accounts", "tellers", "branches", "history")}
    together = {name: value for name, value in sums.items() if name in scenario.moves}
    if len(set(together.values())) > 1:
        found.append("the sums moved by different amounts: " + listed(together))
    still = {name: value for name, value in sums.items() if name not in scenario.moves and value != 0}
    if still:
        found.append("sums that should have stood still moved: " + listed(still))
    expected = scenario.history_rows * transactions
    if moved.history_rows != expected:
        found.append(f"the history grew by {moved.history_rows} rows, not {expected}")
    return found


def listed(sums: dict[str, int]) -> str:
    """Return sums for a sentence."""
    return ", ".join(f"{name} {value:+d}" for name, value in sums.items())
