"""Prometheus metrics, served on a port of their own by prometheus_client's thread.

Names start with ``pgchorus_``. What is counted on the way of every statement is one increment of a counter whose labels
were resolved before; everything else (pools, clients) is read when the endpoint is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, Counter, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from threading import Thread
    from wsgiref.simple_server import WSGIServer

    from proxy.shards.pool import LinkPool
    from proxy.twophase.events import Result


class Sources(Protocol):
    """What is read when the endpoint is asked."""

    def client_count(self) -> int:
        """Return how many sessions there are."""

    def link_pools(self) -> Iterable[tuple[str, LinkPool]]:
        """Return (database, pool) pairs."""

    def plan_caches(self) -> Iterable[tuple[str, str, int, int]]:
        """Return (database, cache, hits, misses) of each plan cache."""


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

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Read clients, caches and pools (prometheus_client calls this)."""
        yield CounterMetricFamily(
            "pgchorus_fast_statements", "Statements sent without being planned.", value=self.fast_statements
        )
        looked_up = CounterMetricFamily(
            "pgchorus_plan_cache", "Look-ups in the plan caches.", labels=["database", "cache", "result"]
        )
        for database, cache, hits, misses in self._sources.plan_caches():
            looked_up.add_metric([database, cache, "hit"], hits)
            looked_up.add_metric([database, cache, "miss"], misses)
        yield looked_up
        yield GaugeMetricFamily("pgchorus_clients", "Sessions that are logged in.", value=self._sources.client_count())
        links = GaugeMetricFamily(
            "pgchorus_links", "Shard links by state.", labels=["database", "shard", "role", "state"]
        )
        for database, pool in self._sources.link_pools():
            stats = pool.stats
            for state, count in (("in_use", stats.in_use), ("idle", stats.idle), ("waited_for", stats.waiting)):
                links.add_metric([database, pool.endpoint.name, pool.role, state], count)
        yield links


def serve_metrics(metrics: Metrics, host: str, port: int) -> tuple[WSGIServer, Thread]:
    """Open the endpoint; raises OSError when the port is taken."""
    return start_http_server(port, addr=host, registry=metrics.registry)
