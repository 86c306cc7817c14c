"""The words of the benchmark as values: what is run, against whom, and what one run gave.

Decides nothing and measures nothing. One ``Sample`` is one pgbench run; a cell is (scenario, mode, clients, contender),
and every cell has one sample per round.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).parent / "scripts"
MODES = ("simple", "extended", "prepared")


class BenchError(RuntimeError):
    """The benchmark cannot go on; the text is for a person."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One pgbench script and what a committed transaction of it does to the four sums.

    ``moves`` names the sums that each transaction moves by one and the same amount; all others must stand still.
    ``history_rows`` is how many rows each transaction adds to ``pgbench_history`` (0: it writes nothing).
    """

    name: str
    title: str
    script: tuple[str, ...]
    statements: int
    moves: frozenset[str]
    history_rows: int
    note: str

    @property
    def writes(self) -> bool:
        """Whether the script changes rows, so that the sums are to be checked after it."""
        return self.history_rows > 0

    @property
    def builtin(self) -> bool:
        """Whether the script is one of pgbench's own, which find out the scale by themselves."""
        return self.script[0] == "-b"


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "tpcb",
            "TPC-B",
            ("-b", "tpcb-like"),
            7,
            frozenset({"accounts", "tellers", "branches", "history"}),
            1,
            "accounts, tellers, branches and history by different keys: most commits over shards are distributed",
        ),
        Scenario("select", "SELECT (-S)", ("-b", "select-only"), 1, frozenset(), 0, "one row by its key: one shard"),
        Scenario(
            "simple-update",
            "simple update (-N)",
            ("-b", "simple-update"),
            5,
            frozenset({"accounts", "history"}),
            1,
            "accounts and history by the same key: one shard, plain COMMIT",
        ),
        Scenario(
            "transfer",
            "transfer",
            ("-f", str(SCRIPTS / "transfer.sql")),
            6,
            frozenset(),
            2,
            "between two accounts: over several shards mostly two writers",
        ),
        Scenario(
            "scatter",
            "scatter read",
            ("-f", str(SCRIPTS / "scatter.sql")),
            1,
            frozenset(),
            0,
            "count and sum over all tellers: every shard, behind the fence",
        ),
    )
}
DEFAULT_SCENARIOS = ("tpcb", "select", "simple-update")


@dataclass(frozen=True, slots=True)
class Target:
    """Where psql and pgbench connect to."""

    port: int
    database: str
    user: str = "postgres"
    host: str = "127.0.0.1"

    def arguments(self) -> list[str]:
        """Return the connection as the options that psql and pgbench share, without the database."""
        return ["-h", self.host, "-p", str(self.port), "-U", self.user]


@dataclass(frozen=True, slots=True)
class Contender:
    """One way from pgbench to the rows.

    ``targets`` has where to connect in each query mode; a mode that is missing is skipped, and ``notices`` says why.
    ``backing`` are the databases behind it, asked directly for their own sums and left-overs. ``pid`` is the proxy's
    process (None: there is no proxy), ``server_pids`` the postmasters it uses.
    """

    name: str
    title: str
    targets: dict[str, Target]
    backing: tuple[Target, ...]
    server_pids: tuple[int, ...]
    pid: int | None = None
    notices: tuple[str, ...] = ()
    version: str = ""
    marks: dict[str, str] | None = None

    def mark(self, mode: str) -> str:
        """Return what must stand beside the title for this mode (a different pooling, say)."""
        return (self.marks or {}).get(mode, "")


@dataclass(frozen=True, slots=True)
class Sample:
    """What one pgbench run gave. Times of transactions in milliseconds, CPU in seconds over the whole run.

    ``logged`` is the number of transactions in the per-transaction log (all of them, unless ``sampling`` is below 1).
    ``other_cpu`` is the share of the machine's CPU that went to processes which are no part of this run. ``complaint``
    says what went wrong; then the figures mean nothing and are not used.
    """

    contender: str
    scenario: str
    mode: str
    clients: int
    round: int
    transactions: int
    failed: int
    seconds: float
    tps: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    worst_ms: float
    logged: int
    sampling: float
    proxy_user_s: float
    proxy_system_s: float
    proxy_rss_mib: float
    server_cpu_s: float
    pgbench_cpu_s: float
    other_cpu: float
    complaint: str = ""

    @property
    def cell(self) -> tuple[str, str, int, str]:
        """Return scenario, mode, clients and contender: what the rounds repeat."""
        return self.scenario, self.mode, self.clients, self.contender
