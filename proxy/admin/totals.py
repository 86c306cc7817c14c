"""The metrics of several workers as those of one proxy.

Counters and histograms are added up, those of workers that have died as they were last seen: a sum must not fall, or
Prometheus would take it for a restart and count everything anew. Gauges are added up as well, but for those that every
worker reads from the same place: a shard is up when all workers serve it, what is in doubt is not there twice, and of
what they see of a shard's servers the worst counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client import CollectorRegistry

_JOIN: Final[dict[str, Callable[[float, float], float]]] = {
    "pgchorus_shard_up": min,
    "pgchorus_in_doubt": max,
    "pgchorus_in_doubt_oldest_seconds": max,
    "pgchorus_shard_hosts": max,
    "pgchorus_replica_lag_seconds": max,
}
_ONLY_GROW: Final = ("counter", "histogram")


def read_metrics(registry: CollectorRegistry) -> list[Any]:
    """Return all metrics as plain lists: name, type, documentation, samples (name, labels, value)."""
    return [
        [one.name, one.type, one.documentation, [[s.name, s.labels, s.value] for s in one.samples]]
        for one in registry.collect()
    ]


def added_up(parts: Iterable[Sequence[Any]]) -> list[Any]:
    """Return the metrics of several as one, in the same form."""
    families: dict[str, tuple[str, str, dict[Any, list[Any]]]] = {}
    for part in parts:
        for name, kind, documentation, samples in part:
            _, _, found = families.setdefault(name, (kind, documentation, {}))
            join = _JOIN.get(name)
            for sample, labels, value in samples:
                key = (sample, *sorted(labels.items()))
                before = found.get(key)
                if before is None:
                    found[key] = [sample, labels, value]
                elif sample.endswith("_created"):
                    before[2] = min(before[2], value)
                else:
                    before[2] = before[2] + value if join is None else join(before[2], value)
    return [[name, kind, text, list(found.values())] for name, (kind, text, found) in families.items()]


def that_only_grow(metrics: Iterable[Any]) -> list[Any]:
    """Return counters and histograms: what stays of a worker that has died."""
    return [one for one in metrics if one[1] in _ONLY_GROW]


class Totals:
    """Metrics in the form that prometheus_client writes, with what the supervisor itself knows."""

    def __init__(self, metrics: Iterable[Any], serving: int, workers: int, restarts: int) -> None:
        self._metrics = metrics
        self._serving = serving
        self._workers = workers
        self._restarts = restarts

    def collect(self) -> Iterator[Metric]:
        """Yield all families (prometheus_client calls this)."""
        for name, kind, documentation, samples in self._metrics:
            family = Metric(name, documentation, kind)
            for sample, labels, value in samples:
                family.add_sample(sample, labels, value)
            yield family
        yield from worker_metrics(self._serving, self._workers, self._restarts)


def worker_metrics(serving: int, configured: int, restarts: int) -> Iterator[Metric]:
    """Yield what is known of the processes themselves."""
    yield GaugeMetricFamily("pgchorus_workers", "Processes that serve clients.", value=serving)
    yield GaugeMetricFamily("pgchorus_workers_configured", "How many there should be.", value=configured)
    yield CounterMetricFamily(
        "pgchorus_worker_restarts", "Workers that were started again after they had ended.", value=restarts
    )
