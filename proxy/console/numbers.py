"""SHOW of what has been done: PgBouncer's STATS in its columns and units, shards' answers, and statements.

Counts and times are since the start of the process, and rows of several processes can be added up. PgBouncer's
averages are of the last whole minute: counts by the second, ``avg_xact_time`` and ``avg_query_time`` by the transaction
and the query, all times in microseconds.

https://www.pgbouncer.org/usage.html#show-commands
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from proxy.console.table import Table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.console.world import World

    View = Callable[[World], Awaitable[Table]]

NAMES: Final = (
    "server_assignment_count",
    "xact_count",
    "query_count",
    "bytes_received",
    "bytes_sent",
    "xact_time",
    "query_time",
    "wait_time",
    "client_parse_count",
    "server_parse_count",
    "bind_count",
)
#: What SHOW STATS calls some of them.
TOTAL: Final = {name: f"total_{name.removeprefix('bytes_')}" for name in NAMES}
AVERAGE: Final = {name: f"avg_{'recv' if name == 'bytes_received' else name.removeprefix('bytes_')}" for name in NAMES}
#: Of SHOW STATEMENTS: a screen of top shows fewer, and texts are long.
MOST_STATEMENTS: Final = 200
_US: Final = 1e6


async def stats(world: World) -> Table:
    """PgBouncer's totals and averages by database."""
    columns = [*TOTAL.values(), *AVERAGE.values()]
    table = Table.of("database " + " ".join(f"{name}#" for name in columns))
    for name, database in world.databases().items():
        averages = world.periods.averages(name)
        cells: dict[str, int] = {TOTAL[one]: value for one, value in asdict(database.totals()).items()}
        cells |= {AVERAGE[one]: value for one, value in averages.items()}
        table.add(database=name, **cells)
    return table


async def stats_totals(world: World) -> Table:
    """PgBouncer's totals alone."""
    table = Table.of("database " + " ".join(f"{name}#" for name in NAMES))
    for name, database in world.databases().items():
        table.add(database=name, **asdict(database.totals()))
    return table


async def stats_averages(world: World) -> Table:
    """PgBouncer's averages alone, of the last whole minute."""
    table = Table.of("database " + " ".join(f"{name}#" for name in NAMES))
    for name in world.databases():
        table.add(database=name, **world.periods.averages(name))
    return table


async def stats_shards(world: World) -> Table:
    """How long each shard has taken to answer (microseconds), since the start."""
    table = Table.of("database shard exchanges# time# p50# p99# longest#")
    for name, database in world.databases().items():
        database.counts.settle()
        for endpoint, load in zip(database.pools.endpoints, database.pools.loads, strict=True):
            load.fold()
            durations = load.histogram
            table.add(
                database=name,
                shard=endpoint.name,
                exchanges=load.count,
                time=int(durations.seconds * _US),
                p50=int(durations.quantile(0.5) * _US),
                p99=int(durations.quantile(0.99) * _US),
                longest=int(durations.longest_s * _US),
            )
    return table


async def statements(world: World) -> Table:
    """Statements without their values, those that took the most time in all first (microseconds)."""
    table = Table.of("database tier calls# errors# rows# time# mean# p99# longest# shards# statement")
    for name, database in world.databases().items():
        ranked = sorted(database.counts.book, key=lambda tally: -tally.histogram.seconds)
        for tally in ranked[:MOST_STATEMENTS]:
            durations, calls = tally.histogram, tally.count
            table.add(
                database=name,
                tier=tally.tier,
                calls=calls,
                errors=tally.errors,
                rows=tally.rows,
                time=int(durations.seconds * _US),
                mean=int(durations.seconds * _US / calls) if calls else 0,
                p99=int(durations.quantile(0.99) * _US),
                longest=int(durations.longest_s * _US),
                shards=calls + tally.more_shards,
                statement=tally.text,
            )
    return table


VIEWS: Final[dict[str, View]] = {
    "STATEMENTS": statements,
    "STATS": stats,
    "STATS_AVERAGES": stats_averages,
    "STATS_SHARDS": stats_shards,
    "STATS_TOTALS": stats_totals,
}
