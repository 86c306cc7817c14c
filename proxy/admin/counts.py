"""What one logical database has done: the numbers behind SHOW STATS and the metrics.

On the way of every statement they are increments of plain attributes; the rest is put together when somebody asks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from time import monotonic
from typing import TYPE_CHECKING, Final

from proxy.admin.statements import StatementBook
from proxy.fields import CountsFields
from proxy.ledger import Ledger
from proxy.timings import Timings
from router.shortcut import PARSED, QUERY, SHARED

if TYPE_CHECKING:
    from proxy.admin.statements import Tally
    from proxy.twophase.events import Result

#: As PgBouncer's stats_period: averages are of the last whole one.
PERIOD_S: Final = 60.0
#: Commits of more writers than this are counted together.
MOST_WRITERS: Final = 8
#: The tier of what was not planned.
UNPLANNED: Final = "none"


class Counts(CountsFields):
    """The counters of one database."""

    __slots__ = (
        "alone",
        "alone_seconds",
        "binds",
        "block_seconds",
        "blocks",
        "book",
        "client_parses",
        "commit_times",
        "commits",
        "failures",
        "fast",
        "ledger",
        "lent",
        "planning",
        "received",
        "sent",
        "server_parses",
    )

    def __init__(self, statements: int = 1000) -> None:
        super().__init__()
        self.fast = 0  # messages that went by the fast lane
        self.alone = 0  # statements outside any block, which are transactions, and how long they took
        self.alone_seconds = 0.0
        self.blocks = 0  # that have ended
        self.block_seconds = 0.0
        self.received = 0  # bytes, of sessions that have ended
        self.sent = 0
        self.client_parses = 0  # messages of clients
        self.server_parses = 0  # messages to shards
        self.binds = 0
        #: Statements of quick lanes that have ended and are not counted yet. ``settle`` counts them.
        self.ledger = Ledger()
        self.lent = 0  # links, to quick lanes
        self.book = StatementBook(statements, self.settle)
        #: From the arrival of a statement to where it begins to run, for those that do not take the lane.
        self.planning = Timings()
        #: Of commits of several writers.
        self.commit_times = Timings()
        self.commits: Counter[tuple[str, int]] = Counter()  # by outcome and number of writers
        self.failures: Counter[tuple[str, str]] = Counter()  # statements by tier, and whether refused or an error

    def settle(self) -> None:
        """Count what is in the ledger: whoever reads any of these numbers calls this first."""
        for spent in self.ledger.take():
            number = spent.number
            self.fast += number
            self.lent += number
            self.alone += number
            self.alone_seconds += spent.seconds
            if spent.kind != QUERY:
                self.binds += number
            if spent.kind in (PARSED, SHARED):
                self.client_parses += number
            if spent.kind == PARSED:
                self.server_parses += number
            spent.tally.add_many(spent)
            spent.tally.rows += number
            spent.load.add_many(spent)

    def commit(self, result: Result, writers: int) -> None:
        """Count a COMMIT."""
        self.commits[result.value, min(writers, MOST_WRITERS)] += 1

    def block_ended(self, begun: float) -> None:
        """Count the end of a block, which had begun then (by time.monotonic)."""
        self.blocks += 1
        self.block_seconds += monotonic() - begun

    def failed(self, tally: Tally | None, *, refused: bool) -> None:
        """Count a statement that ended with an error."""
        if tally is not None:
            tally.errors += 1
        self.failures[UNPLANNED if tally is None else tally.tier, "refused" if refused else "error"] += 1


@dataclass(frozen=True, slots=True)
class Totals:
    """PgBouncer's numbers since the start, in its units (bytes and microseconds) and its order."""

    server_assignment_count: int = 0
    xact_count: int = 0
    query_count: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    xact_time: int = 0
    query_time: int = 0
    wait_time: int = 0
    client_parse_count: int = 0
    server_parse_count: int = 0
    bind_count: int = 0

    def since(self, before: Totals) -> Totals:
        """Return what has come since."""
        return Totals(*(getattr(self, one.name) - getattr(before, one.name) for one in fields(self)))

    def averages(self, seconds: float) -> dict[str, int]:
        """Return what these, of so many seconds, come to: counts a second; time for each transaction and query."""
        found = {one.name: round(getattr(self, one.name) / seconds) for one in fields(self)}
        found["xact_time"] = self.xact_time // self.xact_count if self.xact_count else 0
        found["query_time"] = self.query_time // self.query_count if self.query_count else 0
        return found


class Periods:
    """The averages of the last whole period of each database."""

    def __init__(self, now: float) -> None:
        self._begun = now
        self._at_begin: dict[str, Totals] = {}
        self._averages: dict[str, dict[str, int]] = {}

    def due(self, now: float) -> bool:
        """Whether a period has ended."""
        return now >= self._begun + PERIOD_S

    def turn(self, now: float, totals: dict[str, Totals]) -> None:
        """End a period."""
        seconds = max(now - self._begun, 1e-6)
        self._averages = {
            name: one.since(self._at_begin.get(name, Totals())).averages(seconds) for name, one in totals.items()
        }
        self._begun, self._at_begin = now, totals

    def averages(self, name: str) -> dict[str, int]:
        """Return a database's; zeros in the first period."""
        return self._averages.get(name) or Totals().averages(1)
