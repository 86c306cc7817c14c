"""Figures of two looks at the console: rates, and what is so now, as panels of rows.

Pure. Decides what is shown and how it is put in order; not how it looks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Cell = str | int | float | None
Row = dict[str, Cell]
#: What is asked for, in this order.
VIEWS: Final = (
    "STATS_TOTALS",
    "STATS_SHARDS",
    "SHARDS",
    "POOLS",
    "TRANSACTIONS",
    "IN_DOUBT",
    "STATEMENTS",
    "DATABASES",
)
_MS: Final = 1000.0


@dataclass(frozen=True, slots=True)
class Look:
    """The answers of one look; ``at`` in seconds of any clock that does not jump."""

    at: float
    views: Mapping[str, Sequence[Row]] = field(default_factory=dict)

    def rows(self, view: str) -> Sequence[Row]:
        """Return a view's rows."""
        return self.views.get(view, ())


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows under a title; ``sort`` is the column that comes first, descending where it is a number."""

    title: str
    columns: tuple[str, ...]
    sort: str
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """All databases of the proxy together."""

    clients: int = 0
    transactions_s: float = 0.0
    queries_s: float = 0.0
    query_ms: float = 0.0
    received_s: float = 0.0
    sent_s: float = 0.0
    states: tuple[tuple[str, int], ...] = ()  # open blocks by state
    in_doubt: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """What a screen shows."""

    summary: Summary
    panels: tuple[Panel, ...]


SHARDS: Final = Panel(
    "Shards", ("database", "shard", "state", "answers/s", "mean ms", "p99 ms", "in use", "idle", "waiting"), "answers/s"
)
STATEMENTS: Final = Panel(
    "Statements", ("share %", "calls/s", "mean ms", "p99 ms", "rows/s", "errors", "tier", "statement"), "share %"
)
TRANSACTIONS: Final = Panel(
    "Transactions", ("state", "client", "user", "shards", "written", "isolation", "gid"), "state"
)
IN_DOUBT: Final = Panel("In doubt", ("shard", "gid", "commit_point", "decision", "age s", "problem"), "age s")
POOLS: Final = Panel(
    "Pools", ("database", "shard", "user", "use", "cl_active", "cl_waiting", "sv_idle", "maxwait"), "cl_active"
)


def figures(before: Look | None, now: Look) -> Figures:
    """Return the figures between two looks; without the first, rates are those since the proxy's start: none."""
    seconds = max(now.at - before.at, 1e-3) if before is not None else 0.0
    earlier = before or now
    return Figures(
        _summary(earlier, now, seconds),
        (
            _filled(SHARDS, _shards(earlier, now, seconds)),
            _filled(POOLS, now.rows("POOLS")),
            _filled(TRANSACTIONS, [{**row, "client": str(row.get("client"))} for row in now.rows("TRANSACTIONS")]),
            _filled(IN_DOUBT, [{**row, "age s": _number(row.get("age_ms")) / _MS} for row in now.rows("IN_DOUBT")]),
            _filled(STATEMENTS, _statements(earlier, now, seconds)),
        ),
    )


def arranged(panel: Panel, sort: str, *, reverse: bool = False, wanted: str = "") -> list[Row]:
    """Return a panel's rows in order, those alone that have ``wanted`` in one of their cells."""
    needle = wanted.lower()
    rows = [row for row in panel.rows if needle in " ".join(str(row[name] or "") for name in panel.columns).lower()]
    numbers = any(isinstance(row[sort], int | float) for row in rows)
    if numbers:
        return sorted(rows, key=lambda row: -_number(row[sort]), reverse=reverse)
    return sorted(rows, key=lambda row: str(row[sort] or ""), reverse=reverse)


def shown(cell: Cell) -> str:
    """Return a cell as text: three digits of a number are enough."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if cell >= 100 else f"{cell:.1f}" if cell >= 10 else f"{cell:.2f}"  # noqa: PLR2004 - digits
    return f"{cell:,}" if isinstance(cell, int) else cell


def _filled(panel: Panel, rows: Sequence[Row]) -> Panel:
    made = tuple({name: row.get(name) for name in panel.columns} for row in rows)
    return Panel(panel.title, panel.columns, panel.sort, made)


def _number(cell: Cell) -> float:
    return float(cell) if isinstance(cell, int | float) else 0.0


def _gained(before: Row | None, now: Row, name: str) -> float:
    """Return by how much a counter has grown; since its beginning, when it has begun anew."""
    gained = _number(now.get(name)) - (_number(before.get(name)) if before is not None else 0.0)
    return gained if gained >= 0 else _number(now.get(name))


def _by(rows: Sequence[Row], *names: str) -> dict[tuple[Cell, ...], Row]:
    return {tuple(row.get(name) for name in names): row for row in rows}


def _a_second(amount: float, seconds: float) -> float:
    return amount / seconds if seconds else 0.0


def _summary(before: Look, now: Look, seconds: float) -> Summary:
    earlier = _by(before.rows("STATS_TOTALS"), "database")
    gained: dict[str, float] = {}
    for row in now.rows("STATS_TOTALS"):
        for name in ("xact_count", "query_count", "query_time", "bytes_received", "bytes_sent"):
            gained[name] = gained.get(name, 0.0) + _gained(earlier.get((row.get("database"),)), row, name)
    queries = gained.get("query_count", 0.0)
    states: dict[str, int] = {}
    for row in now.rows("TRANSACTIONS"):
        states[str(row.get("state"))] = states.get(str(row.get("state")), 0) + 1
    clients = {row.get("name"): _number(row.get("current_client_connections")) for row in now.rows("DATABASES")}
    return Summary(
        clients=int(sum(clients.values())),
        transactions_s=_a_second(gained.get("xact_count", 0.0), seconds),
        queries_s=_a_second(queries, seconds),
        query_ms=gained.get("query_time", 0.0) / queries / _MS if queries else 0.0,
        received_s=_a_second(gained.get("bytes_received", 0.0), seconds),
        sent_s=_a_second(gained.get("bytes_sent", 0.0), seconds),
        states=tuple(sorted(states.items())),
        in_doubt=len(now.rows("IN_DOUBT")),
    )


def _shards(before: Look, now: Look, seconds: float) -> list[Row]:
    earlier = _by(before.rows("STATS_SHARDS"), "database", "shard")
    answers = _by(now.rows("STATS_SHARDS"), "database", "shard")
    found: list[Row] = []
    for row in now.rows("SHARDS"):
        key = (row.get("database"), row.get("shard"))
        now_row = answers.get(key, {})
        count = _gained(earlier.get(key), now_row, "exchanges")
        pools = [one for one in now.rows("POOLS") if (one.get("database"), one.get("shard")) == key]
        found.append(
            {
                "database": key[0],
                "shard": key[1],
                "state": row.get("state"),
                "answers/s": _a_second(count, seconds),
                "mean ms": _gained(earlier.get(key), now_row, "time") / count / _MS if count else 0.0,
                "p99 ms": _number(now_row.get("p99")) / _MS,
                "in use": int(sum(_number(one.get("sv_active")) for one in pools)),
                "idle": int(sum(_number(one.get("sv_idle")) for one in pools)),
                "waiting": int(sum(_number(one.get("cl_waiting")) for one in pools)),
            }
        )
    return found


def _statements(before: Look, now: Look, seconds: float) -> list[Row]:
    names = ("database", "tier", "statement")
    earlier = _by(before.rows("STATEMENTS"), *names)
    gained = {
        key: {name: _gained(earlier.get(key), row, name) for name in ("time", "calls", "rows")}
        for key, row in _by(now.rows("STATEMENTS"), *names).items()
    }
    whole = sum(one["time"] for one in gained.values())
    found: list[Row] = []
    for row in now.rows("STATEMENTS"):
        one = gained[tuple(row.get(name) for name in names)]
        calls = one["calls"]
        found.append(
            {
                "share %": 100.0 * one["time"] / whole if whole else 0.0,
                "calls/s": _a_second(calls, seconds),
                "mean ms": one["time"] / calls / _MS if calls else 0.0,
                "p99 ms": _number(row.get("p99")) / _MS,
                "rows/s": _a_second(one["rows"], seconds),
                "errors": row.get("errors"),
                "tier": row.get("tier"),
                "statement": row.get("statement"),
            }
        )
    return found
