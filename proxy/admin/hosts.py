"""What is counted of the servers behind each shard: primaries and standbys, how far these are, who reads from them.

All of it is from the last look at the servers (proxy.shards.finder), so nobody is asked when the endpoint is. Shards of
one server have none of these series.
"""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from proxy.shards.control import ControlLinks
    from proxy.shards.finder import Finder
    from proxy.shards.hosts import HostAddress
    from proxy.shards.replicas import Replicas

KINDS = ("primary", "standby", "read only", "silent")


class Replicated(Protocol):
    """One logical database, as far as it is measured here."""

    control: ControlLinks
    replicas: Replicas


def host_metrics(databases: Mapping[str, Replicated]) -> Iterator[Metric]:
    """Yield the series of the shards that have several servers."""
    hosts = GaugeMetricFamily(
        "pgchorus_shard_hosts", "Servers of a shard, by what they said last.", labels=["database", "shard", "kind"]
    )
    moves = CounterMetricFamily(
        "pgchorus_shard_moves", "How often a shard's primary has become another one.", labels=["database", "shard"]
    )
    lag = GaugeMetricFamily(
        "pgchorus_replica_lag_seconds",
        "How old what a standby has is at most; infinite while it does not follow the primary.",
        labels=["database", "shard", "host"],
    )
    reads = CounterMetricFamily(
        "pgchorus_replica_links",
        "Links asked for that lead to a replica: lent, or none was near enough.",
        labels=["database", "shard", "outcome"],
    )
    now = time.monotonic()  # the loop's clock
    for name, database in databases.items():
        for shard, endpoint in enumerate(database.control.endpoints):
            finder = database.control.finder(shard)
            if finder is None:
                continue
            for kind, count in _kinds(finder).items():
                hosts.add_metric([name, endpoint.name, kind], count)
            moves.add_metric([name, endpoint.name], endpoint.place.moves)
            for address, moment in _complete_at(finder).items():
                lag.add_metric([name, endpoint.name, str(address)], max(0.0, now - moment))
            lent, refused = database.replicas.asked(shard)
            reads.add_metric([name, endpoint.name, "lent"], lent)
            reads.add_metric([name, endpoint.name, "none"], refused)
    yield from (hosts, moves, lag, reads)


def _complete_at(finder: Finder) -> dict[HostAddress, float]:
    """Return the moment of which each standby has everything."""
    standbys = {address: -inf for address, one in finder.said.items() if one.in_recovery}
    return standbys | finder.progress.complete_at


def _kinds(finder: Finder) -> dict[str, int]:
    counts = dict.fromkeys(KINDS, 0)
    for one in finder.said.values():
        counts["standby" if one.in_recovery else "read only" if one.read_only else "primary"] += 1
    counts["silent"] = len(finder.endpoint.addresses) - len(finder.said)
    return counts
