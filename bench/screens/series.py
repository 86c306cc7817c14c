"""Series scraped from /metrics, and the part of PromQL that the dashboard uses, over them.

As Prometheus answers, but for one thing: ``rate`` takes the first and the last sample in its window and extrapolates
nothing. Anything else in an expression is an error, so that no panel is drawn wrong.
"""

from __future__ import annotations

from math import inf, nan
from typing import TYPE_CHECKING, Any

import promql_parser
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterable

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]


class Samples:
    """What was scraped: for each series its moments and values, in order."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, Labels], list[tuple[float, float]]] = {}
        self.moments: list[float] = []

    def add(self, at: float, text: str) -> None:
        """Add one answer of the endpoint."""
        self.moments.append(at)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                self._series.setdefault(key, []).append((at, sample.value))

    def select(self, name: str, wanted: Iterable[tuple[str, str]], since: float, at: float) -> dict[Labels, list[Any]]:
        """Return the samples between two moments of the series with a name and some labels."""
        needed = set(wanted)
        return {
            labels: inside
            for (found, labels), samples in self._series.items()
            if found == name and needed <= labels and (inside := [one for one in samples if since < one[0] <= at])
        }


class Evaluation:
    """Evaluates expressions at one moment, with windows of ``window_s`` whatever they say."""

    def __init__(self, samples: Samples, at: float, window_s: float) -> None:
        self._samples = samples
        self._at = at
        self._window_s = window_s

    def vector(self, expression: Any) -> Vector:
        """Return the value of an expression by labels."""
        kind = type(expression).__name__
        if kind == "VectorSelector":
            found = self._select(expression)
            return {labels: samples[-1][1] for labels, samples in found.items()}
        if kind == "Call":
            return self._call(expression)
        if kind == "AggregateExpr":
            return self._aggregate(expression)
        if kind == "BinaryExpr" and str(expression.op) == "/":
            above, below = self.vector(expression.lhs), self.vector(expression.rhs)
            return {one: above[one] / below[one] for one in above if below.get(one)}
        msg = f"a {kind} is not understood here"
        raise ValueError(msg)

    def _select(self, selector: Any) -> dict[Labels, list[Any]]:
        matchers = [(one.name, one.value) for one in selector.matchers.matchers]
        return self._samples.select(selector.name, matchers, self._at - self._window_s, self._at)

    def _call(self, call: Any) -> Vector:
        name = call.func.name
        if name == "rate":
            found = self._select(call.args[0].vector_selector)
            return {labels: _rate(samples) for labels, samples in found.items() if len(samples) > 1}
        if name == "histogram_quantile":
            return _quantiles(call.args[0].val, self.vector(call.args[1]))
        msg = f"the function {name} is not understood here"
        raise ValueError(msg)

    def _aggregate(self, aggregate: Any) -> Vector:
        by = set(aggregate.modifier.labels) if aggregate.modifier is not None else set()
        groups: dict[Labels, list[float]] = {}
        for labels, value in self.vector(aggregate.expr).items():
            groups.setdefault(frozenset(one for one in labels if one[0] in by), []).append(value)
        if str(aggregate.op) not in {"sum", "max"}:
            msg = f"{aggregate.op} is not understood here"
            raise ValueError(msg)
        summed = str(aggregate.op) == "sum"
        return {labels: sum(values) if summed else max(values) for labels, values in groups.items()}


def _rate(samples: list[tuple[float, float]]) -> float:
    (begun, before), (ended, after) = samples[0], samples[-1]
    return max(after - before, 0.0) / (ended - begun)


def _quantiles(part: float, buckets: Vector) -> Vector:
    groups: dict[Labels, list[tuple[float, float]]] = {}
    for labels, value in buckets.items():
        bound = float(dict(labels)["le"].replace("+Inf", "inf"))
        groups.setdefault(frozenset(one for one in labels if one[0] != "le"), []).append((bound, value))
    return {labels: _quantile(part, sorted(group)) for labels, group in groups.items()}


def _quantile(part: float, cumulative: list[tuple[float, float]]) -> float:
    total = cumulative[-1][1]
    if not total:
        return nan
    low = below = 0.0
    for bound, count in cumulative:
        if count >= part * total:
            return low if bound == inf else low + (bound - low) * (part * total - below) / (count - below)
        low, below = bound, count
    return low


def evaluate(samples: Samples, expression: str, window_s: float) -> dict[Labels, list[tuple[float, float]]]:
    """Return an expression's series over all that was scraped."""
    parsed = promql_parser.parse(expression)
    found: dict[Labels, list[tuple[float, float]]] = {}
    for at in samples.moments:
        for labels, value in Evaluation(samples, at, window_s).vector(parsed).items():
            found.setdefault(labels, []).append((at, value))
    return found
