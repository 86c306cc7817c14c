"""What is counted, under names that start with ``pgchorus_``.

What is counted on the way of every statement is one increment of a plain number, or of a counter whose labels were
resolved before; everything else (pools, clients, shards, recovery) is read when the endpoint is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from proxy.shards.health import ShardHealth
    from proxy.shards.pool import PoolSet
    from proxy.twophase.deadlock import DeadlockDetector
    from proxy.twophase.events import Result
    from proxy.twophase.recovery import Recovery

    Family = GaugeMetricFamily | CounterMetricFamily

_COMMIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Source(Protocol):
    """One logical database, as far as it is measured."""

    pools: PoolSet
    scratch_pools: PoolSet
    health: ShardHealth
    recovery: Recovery
    deadlocks: DeadlockDetector

    def plan_cache_counts(self) -> dict[str, tuple[int, int]]:
        """Return (hits, misses) of the plan caches by name."""


class Sources(Protocol):
    """What is read when the endpoint is asked."""

    def client_count(self) -> int:
        """Return how many sessions there are."""

    def databases(self) -> Mapping[str, Source]:
        """Return the logical databases by name."""


class Metrics:
    """The counters of one process."""

    def __init__(self, sources: Sources) -> None:
        self.registry = CollectorRegistry()
        self._sources = sources
        self.errors = Counter("pgchorus_errors", "Errors sent to clients.", ["sqlstate"], registry=self.registry)
        self.refusals = Counter(
            "pgchorus_refusals", "Statements refused by the router, by refusal.", ["refusal"], registry=self.registry
        )
        self.commits = Counter(
            "pgchorus_commits", "COMMITs by outcome and kind.", ["outcome", "kind"], registry=self.registry
        )
        self.commit_seconds = Histogram(
            "pgchorus_commit_seconds",
            "Time of COMMITs of several writers.",
            registry=self.registry,
            buckets=_COMMIT_BUCKETS,
        )
        self.loop_lag = Histogram(
            "pgchorus_event_loop_lag_seconds",
            "How much later than due the event loop came to a timer.",
            registry=self.registry,
            buckets=_LAG_BUCKETS,
        )
        #: Statements that went by a session's fast lane; a plain number, counted on the shortest way there is.
        self.fast_statements = 0
        self.registry.register(self)

    def error(self, sqlstate: str) -> None:
        """Count an ErrorResponse."""
        self.errors.labels(sqlstate).inc()

    def refusal(self, refusal: str) -> None:
        """Count a refusal."""
        self.refusals.labels(refusal).inc()

    def commit(self, result: Result, writers: int) -> None:
        """Count a COMMIT; one with several writers was a distributed one."""
        kind = "distributed" if writers > 1 else "single" if writers else "read"
        self.commits.labels(result.value, kind).inc()

    def collect(self) -> Iterator[Family]:
        """Read everything that is only looked at (prometheus_client calls this)."""
        yield CounterMetricFamily(
            "pgchorus_fast_statements", "Statements sent without being planned.", value=self.fast_statements
        )
        yield GaugeMetricFamily("pgchorus_clients", "Sessions that are logged in.", value=self._sources.client_count())
        databases = self._sources.databases()
        yield from _plan_caches(databases)
        yield from _links(databases)
        yield from _shards(databases)
        yield from _transactions(databases)


def _plan_caches(databases: Mapping[str, Source]) -> Iterator[Family]:
    looked_up = CounterMetricFamily(
        "pgchorus_plan_cache", "Look-ups in the plan caches.", labels=["database", "cache", "result"]
    )
    for name, database in databases.items():
        for cache, (hits, misses) in database.plan_cache_counts().items():
            looked_up.add_metric([name, cache, "hit"], hits)
            looked_up.add_metric([name, cache, "miss"], misses)
    yield looked_up


def _links(databases: Mapping[str, Source]) -> Iterator[Family]:
    labels = ["database", "shard", "role", "use"]
    links = GaugeMetricFamily("pgchorus_links", "Shard links by state.", labels=[*labels, "state"])
    opened = CounterMetricFamily("pgchorus_links_opened", "Shard links opened.", labels=labels)
    closed = CounterMetricFamily("pgchorus_links_closed", "Shard links that ended.", labels=labels)
    waits = CounterMetricFamily("pgchorus_pool_waits", "Waits for a link.", labels=labels)
    waited = CounterMetricFamily("pgchorus_pool_wait_seconds", "Time spent waiting for links.", labels=labels)
    for name, database in databases.items():
        for use, pools in (("clients", database.pools), ("gather", database.scratch_pools)):
            for pool in pools:
                stats = pool.stats
                of = [name, pool.endpoint.name, pool.role, use]
                for state, count in (("in_use", stats.in_use), ("idle", stats.idle), ("waited_for", stats.waiting)):
                    links.add_metric([*of, state], count)
                opened.add_metric(of, stats.opened)
                closed.add_metric(of, stats.closed)
                waits.add_metric(of, stats.waits)
                waited.add_metric(of, stats.waited_s)
    yield from (links, opened, closed, waits, waited)


def _shards(databases: Mapping[str, Source]) -> Iterator[Family]:
    up = GaugeMetricFamily("pgchorus_shard_up", "1 while a shard is served.", labels=["database", "shard"])
    for name, database in databases.items():
        for shard, endpoint in enumerate(database.pools.endpoints):
            up.add_metric([name, endpoint.name], database.health.shard_is_up(shard))
    yield up


def _transactions(databases: Mapping[str, Source]) -> Iterator[Family]:
    in_doubt = GaugeMetricFamily(
        "pgchorus_in_doubt", "Prepared parts that recovery's last look left, by why.", labels=["database", "state"]
    )
    recovered = CounterMetricFamily(
        "pgchorus_recovered", "Prepared parts that recovery has finished.", labels=["database", "outcome"]
    )
    deadlocks = CounterMetricFamily(
        "pgchorus_deadlocks", "Deadlocks over several shards that were ended.", labels=["database"]
    )
    for name, database in databases.items():
        recovery = database.recovery
        for state, count in recovery.left.items():
            in_doubt.add_metric([name, state], count)
        recovered.add_metric([name, "commit"], recovery.committed)
        recovered.add_metric([name, "rollback"], recovery.rolled_back)
        deadlocks.add_metric([name], database.deadlocks.ended)
    yield from (in_doubt, recovered, deadlocks)
