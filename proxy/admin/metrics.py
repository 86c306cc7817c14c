"""What is counted, under names that start with ``pgchorus_``.

What is counted on the way of every statement is an increment of a plain number (proxy.admin.counts); everything else
(pools, clients, shards, recovery) is read when the endpoint is asked.
"""

from __future__ import annotations

from collections import Counter as Numbers
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from proxy.admin.hosts import host_metrics
from proxy.admin.totals import worker_metrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from proxy.admin.counts import Counts, Totals
    from proxy.shards.control import ControlLinks
    from proxy.shards.health import ShardHealth
    from proxy.shards.pool import LinkPool
    from proxy.shards.pool_set import PoolSet
    from proxy.shards.replicas import Replicas
    from proxy.timings import Histogram as Durations
    from proxy.timings import Timings
    from proxy.twophase.coordinator import Coordinator
    from proxy.twophase.deadlock import DeadlockDetector
    from proxy.twophase.fence import Fence
    from proxy.twophase.recovery import Recovery

_LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_KINDS = ("read", "single")  # commits by the number of their writers; more: distributed
_SECOND = 1e6  # in microseconds


class Source(Protocol):
    """One logical database, as far as it is measured."""

    counts: Counts
    control: ControlLinks
    pools: PoolSet
    scratch_pools: PoolSet
    replicas: Replicas
    health: ShardHealth
    recovery: Recovery
    deadlocks: DeadlockDetector
    coordinator: Coordinator
    fence: Fence

    def plan_cache_counts(self) -> dict[str, tuple[int, int]]:
        """Return (hits, misses) of the plan caches by name."""

    def totals(self) -> Totals:
        """Return PgBouncer's numbers."""


class Sources(Protocol):
    """What is read when the endpoint is asked."""

    def client_count(self) -> int:
        """Return how many sessions there are."""

    def databases(self) -> Mapping[str, Source]:
        """Return the logical databases by name."""


class Metrics:
    """The counters of one process."""

    def __init__(self, sources: Sources, *, alone: bool = True) -> None:
        self.registry = CollectorRegistry()
        self._alone = alone  # else the supervisor knows how many there are
        self._sources = sources
        self.errors: Numbers[str] = Numbers()  # sent to clients, by SQLSTATE
        self.refusals: Numbers[str] = Numbers()  # by the router, by the refusal's id
        self.loop_lag = Histogram(
            "pgchorus_event_loop_lag_seconds",
            "How much later than due the event loop came to a timer.",
            registry=self.registry,
            buckets=_LAG_BUCKETS,
        )
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Read everything (prometheus_client calls this)."""
        if self._alone:
            yield from worker_metrics(1, 1, 0)
        databases = self._sources.databases()
        for database in databases.values():
            database.counts.settle()
        fast = sum(one.counts.fast for one in databases.values())
        yield CounterMetricFamily("pgchorus_fast_statements", "Statements sent without being planned.", value=fast)
        yield GaugeMetricFamily("pgchorus_clients", "Sessions that are logged in.", value=self._sources.client_count())
        errors = CounterMetricFamily("pgchorus_errors", "Errors sent to clients.", labels=["sqlstate"])
        for sqlstate, count in self.errors.items():
            errors.add_metric([sqlstate], count)
        refusals = CounterMetricFamily("pgchorus_refusals", "Statements refused, by refusal.", labels=["refusal"])
        for refusal, count in self.refusals.items():
            refusals.add_metric([refusal], count)
        yield from (errors, refusals)
        yield from _statements(databases)
        yield from _traffic(databases)
        yield from _commits(databases)
        yield from _plan_caches(databases)
        yield from _links(databases)
        yield from _shards(databases)
        yield from host_metrics(databases)
        yield from _transactions(databases)
        yield from _fences(databases)


def _histogram(
    name: str, doc: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], Durations]]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, doc, labels=labels)
    for of, durations in rows:
        family.add_metric(of, durations.cumulative(), durations.seconds)
    return family


def _folded(timings: Timings) -> Durations:
    timings.fold()
    return timings.histogram


def _statements(databases: Mapping[str, Source]) -> Iterator[Metric]:
    """Queries by tier and outcome, and how long they took: to the client, in the proxy, on each shard."""
    queries = CounterMetricFamily(
        "pgchorus_queries", "Statements by tier and outcome.", labels=["database", "tier", "outcome"]
    )
    took: list[tuple[Sequence[str], Durations]] = []
    planned: list[tuple[Sequence[str], Durations]] = []
    answered: list[tuple[Sequence[str], Durations]] = []
    for name, database in databases.items():
        counts = database.counts
        counts.book.fold()
        for tier, durations in counts.book.tiers.items():
            queries.add_metric([name, tier, "ok"], durations.total)
            took.append(([name, tier], durations))
        for (tier, outcome), count in counts.failures.items():
            queries.add_metric([name, tier, outcome], count)
        planned.append(([name], _folded(counts.planning)))
        for endpoint, load in zip(database.pools.endpoints, database.pools.loads, strict=True):
            answered.append(([name, endpoint.name], _folded(load)))
    yield queries
    yield _histogram("pgchorus_query_seconds", "Time of statements, to their last answer.", ["database", "tier"], took)
    yield _histogram(
        "pgchorus_planning_seconds",
        "From a statement's arrival to where it begins to run, for those that do not take the fast lane.",
        ["database"],
        planned,
    )
    yield _histogram(
        "pgchorus_shard_seconds",
        "Time in which a shard has answered what clients' links asked it.",
        ["database", "shard"],
        answered,
    )


def _traffic(databases: Mapping[str, Source]) -> Iterator[Metric]:
    """PgBouncer's totals, as far as no other family has them."""
    labels = ["database"]
    received = CounterMetricFamily("pgchorus_received_bytes", "Bytes from clients.", labels=labels)
    sent = CounterMetricFamily("pgchorus_sent_bytes", "Bytes to clients.", labels=labels)
    transactions = CounterMetricFamily("pgchorus_transactions", "Transactions that have ended.", labels=labels)
    seconds = CounterMetricFamily("pgchorus_transaction_seconds", "Time in transactions.", labels=labels)
    for name, database in databases.items():
        totals = database.totals()
        received.add_metric([name], totals.bytes_received)
        sent.add_metric([name], totals.bytes_sent)
        transactions.add_metric([name], totals.xact_count)
        seconds.add_metric([name], totals.xact_time / _SECOND)
    yield from (received, sent, transactions, seconds)


def _commits(databases: Mapping[str, Source]) -> Iterator[Metric]:
    commits = CounterMetricFamily(
        "pgchorus_commits",
        "COMMITs by outcome, kind and number of shards that were written (8: that many or more).",
        labels=["database", "outcome", "kind", "writers"],
    )
    rounds = CounterMetricFamily(
        "pgchorus_commit_rounds", "Rounds of messages for commits of several writers.", labels=["database"]
    )
    for name, database in databases.items():
        for (outcome, writers), count in database.counts.commits.items():
            kind = _KINDS[writers] if writers < len(_KINDS) else "distributed"
            commits.add_metric([name, outcome, kind, str(writers)], count)
        rounds.add_metric([name], database.coordinator.rounds)
    yield from (commits, rounds)
    yield _histogram(
        "pgchorus_commit_seconds",
        "Time of COMMITs of several writers.",
        ["database"],
        [([name], _folded(database.counts.commit_times)) for name, database in databases.items()],
    )


def _fences(databases: Mapping[str, Source]) -> Iterator[Metric]:
    taken = CounterMetricFamily("pgchorus_fences", "Fences taken; several readers may share one.", labels=["database"])
    for name, database in databases.items():
        taken.add_metric([name], database.fence.taken)
    yield taken
    yield _histogram(
        "pgchorus_fence_wait_seconds",
        "How long readers of several shards have waited for the fence.",
        ["database"],
        [([name], _folded(database.fence.waits)) for name, database in databases.items()],
    )


def _plan_caches(databases: Mapping[str, Source]) -> Iterator[Metric]:
    looked_up = CounterMetricFamily(
        "pgchorus_plan_cache", "Look-ups in the plan caches.", labels=["database", "cache", "result"]
    )
    for name, database in databases.items():
        for cache, (hits, misses) in database.plan_cache_counts().items():
            looked_up.add_metric([name, cache, "hit"], hits)
            looked_up.add_metric([name, cache, "miss"], misses)
    yield looked_up


def _links(databases: Mapping[str, Source]) -> Iterator[Metric]:
    labels = ["database", "shard", "role", "use"]
    links = GaugeMetricFamily("pgchorus_links", "Shard links by state.", labels=[*labels, "state"])
    opened = CounterMetricFamily("pgchorus_links_opened", "Shard links opened.", labels=labels)
    closed = CounterMetricFamily("pgchorus_links_closed", "Shard links that ended.", labels=labels)
    waits = CounterMetricFamily("pgchorus_pool_waits", "Waits for a link.", labels=labels)
    waited = CounterMetricFamily("pgchorus_pool_wait_seconds", "Time spent waiting for links.", labels=labels)
    for name, database in databases.items():
        for (shard, role, use), pools in _pools(database).items():
            stats = [pool.stats for pool in pools]
            of = [name, shard, role, use]
            links.add_metric([*of, "in_use"], sum(one.in_use for one in stats))
            links.add_metric([*of, "idle"], sum(one.idle for one in stats))
            links.add_metric([*of, "waited_for"], sum(one.waiting for one in stats))
            opened.add_metric(of, sum(one.opened for one in stats))
            closed.add_metric(of, sum(one.closed for one in stats))
            waits.add_metric(of, sum(one.waits for one in stats))
            waited.add_metric(of, sum(one.waited_s for one in stats))
    yield from (links, opened, closed, waits, waited)


def _pools(database: Source) -> dict[tuple[str, str, str], list[LinkPool]]:
    """Return the pools by shard, role and use: to replicas there may be several, one for each standby."""
    uses: dict[str, Iterable[LinkPool]] = {
        "clients": database.pools,
        "gather": database.scratch_pools,
        "replicas": database.replicas,
    }
    found: dict[tuple[str, str, str], list[LinkPool]] = {}
    for use, pools in uses.items():
        for pool in pools:
            found.setdefault((pool.endpoint.name, pool.role, use), []).append(pool)
    return found


def _shards(databases: Mapping[str, Source]) -> Iterator[Metric]:
    up = GaugeMetricFamily("pgchorus_shard_up", "1 while a shard is served.", labels=["database", "shard"])
    for name, database in databases.items():
        for shard, endpoint in enumerate(database.pools.endpoints):
            up.add_metric([name, endpoint.name], database.health.shard_is_up(shard))
    yield up


def _transactions(databases: Mapping[str, Source]) -> Iterator[Metric]:
    in_doubt = GaugeMetricFamily(
        "pgchorus_in_doubt", "Prepared parts that recovery's last look left, by why.", labels=["database", "state"]
    )
    oldest = GaugeMetricFamily(
        "pgchorus_in_doubt_oldest_seconds", "Age of the oldest prepared part that it left.", labels=["database"]
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
        oldest.add_metric([name], recovery.oldest_s)
        recovered.add_metric([name, "commit"], recovery.committed)
        recovered.add_metric([name, "rollback"], recovery.rolled_back)
        deadlocks.add_metric([name], database.deadlocks.ended)
    yield from (in_doubt, oldest, recovered, deadlocks)
