"""One view of the console, as several workers answer it, put together.

What is one worker's (a client, a link, a transaction) says whose it is, in the column ``worker``. What all of them have
(a pool, a database) is one row with the sums, as readers of PgBouncer's console expect. What they read from the shards
is there once. Quantiles are the slowest worker's: of the times of all, nobody has more than its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from proxy.console.numbers import AVERAGE, MOST_STATEMENTS, NAMES, TOTAL
from proxy.console.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from proxy.console.table import Cell


@dataclass(frozen=True, slots=True)
class Joined:
    """How rows with the same ``key`` become one: by column, how two values do. Other columns are the first row's.

    ``means`` are columns with averages, and the columns of how many. Rows stand by the column ``rank``, largest first.
    """

    key: Sequence[str]
    how: Mapping[str, Callable[[Any, Any], Any]] = field(default_factory=dict)
    means: Mapping[str, str] = field(default_factory=dict)
    rank: str = ""


def _sum(one: int, other: int) -> int:
    return one + other


def _known(one: Cell, other: Cell) -> Cell:
    return other if one is None else one


def _later(one: Cell, other: Cell) -> Cell:
    """The larger number; unknown to one is unknown."""
    return None if one is None or other is None else max(int(one), int(other))


def _worse(one: str, other: str) -> str:
    return "down" if "down" in (one, other) else one


def _sums(names: Iterable[str]) -> dict[str, Callable[[Any, Any], Any]]:
    return dict.fromkeys(names, _sum)


_POOL_SUMS: Final = _sums(("cl_active", "cl_waiting", "sv_active", "sv_idle", "opened", "closed"))
_SLOWEST: Final = dict.fromkeys(("p50", "p99", "longest"), max)
_TIMES: Final = {"xact_time": "xact_count", "query_time": "query_count"}  # averages: of a transaction, of a query
HOW: Final[dict[str, Joined]] = {
    "DATABASES": Joined(
        ("name", "shard"),
        {"current_connections": _sum, "current_client_connections": _sum, "paused": max},
    ),
    "HOSTS": Joined(("database", "shard", "host", "port"), {"lag_ms": _later, "served": min}),
    "LOCKS": Joined(
        ("database", "shard", "pid", "locktype", "mode", "relation", "problem"),
        {"client": _known, "waited_ms": max},
    ),
    "PLANS": Joined(("database", "cache"), {"hits": _sum, "misses": _sum}),
    "POOLS": Joined(("database", "user", "shard", "use"), {**_POOL_SUMS, "maxwait": max}),
    "SHARDS": Joined(("database", "shard"), {"state": _worse, "reason": _known}),
    "STATEMENTS": Joined(
        ("database", "tier", "statement"),
        {**_sums(("calls", "errors", "rows", "time", "shards")), **_SLOWEST},
        {"mean": "calls"},
        rank="time",
    ),
    "STATS": Joined(
        ("database",),
        _sums((*TOTAL.values(), *AVERAGE.values())),
        {AVERAGE[time]: AVERAGE[count] for time, count in _TIMES.items()},
    ),
    "STATS_AVERAGES": Joined(("database",), _sums(NAMES), _TIMES),
    "STATS_SHARDS": Joined(("database", "shard"), {**_sums(("exchanges", "time")), **_SLOWEST}),
    "STATS_TOTALS": Joined(("database",), _sums(NAMES)),
}
#: Of one worker each row.
EACH: Final = frozenset({"CLIENTS", "PREPARED", "SERVERS", "TRANSACTIONS"})


def is_merged(view: str) -> bool:
    """Whether a view needs all workers; any one can answer the others."""
    return view in HOW or view in EACH


def merged(view: str, answers: Sequence[Mapping[str, Any]]) -> Table:
    """Return what workers have answered, at least one (``columns``, ``numbers``, ``rows``), as one table."""
    table = Table(answers[0]["columns"], frozenset(answers[0]["numbers"]))
    if view in EACH:
        table.rows = [row for answer in answers for row in answer["rows"]]
        return table
    joined = HOW[view]
    place = {name: number for number, name in enumerate(table.columns)}
    rows: dict[tuple[Cell, ...], list[Any]] = {}
    for answer in answers:
        for row in answer["rows"]:
            key = tuple(row[place[name]] for name in joined.key)
            first = rows.get(key)
            if first is None:
                rows[key] = list(row)
                continue
            _join(first, row, joined, place)
    joint = list(rows.values())
    if joined.rank:
        joint = sorted(joint, key=lambda row: -row[place[joined.rank]])[:MOST_STATEMENTS]
    table.rows = [*joint]
    return table


def _join(first: list[Any], row: Sequence[Any], joined: Joined, place: Mapping[str, int]) -> None:
    """Add a row to another of the same key."""
    before = list(first)
    for name, how in joined.how.items():
        if name in place:
            first[place[name]] = how(before[place[name]], row[place[name]])
    for name, count in joined.means.items():
        one, other = before[place[count]], row[place[count]]
        mean = before[place[name]] * one + row[place[name]] * other
        first[place[name]] = mean // (one + other) if one + other else 0
