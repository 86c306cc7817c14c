"""The pictures of the documentation: what is drawn is what Prometheus would have said."""

from __future__ import annotations

import json
from math import isnan
from pathlib import Path

import promql_parser
import pytest

from bench.screens.__main__ import without_fonts
from bench.screens.panels import draw, legend
from bench.screens.series import Evaluation, Samples, evaluate

DASHBOARD = Path(__file__).parents[2] / "conf" / "grafana" / "pgchorus.json"
PAGE = """# TYPE calls counter
calls_total{{shard="s0",ok="1"}} {0}
calls_total{{shard="s1",ok="1"}} {1}
calls_total{{shard="s1",ok="0"}} {0}
# TYPE took histogram
took_bucket{{le="0.1"}} {0}
took_bucket{{le="1.0"}} {1}
took_bucket{{le="+Inf"}} {1}
took_count {1}
took_sum 1
"""


@pytest.fixture
def samples() -> Samples:
    made = Samples()
    for at in range(5):
        made.add(float(at), PAGE.format(at * 10, at * 20))
    return made


def value(samples: Samples, expression: str, window_s: float = 10.0) -> dict[str, float]:
    found = Evaluation(samples, 4.0, window_s).vector(promql_parser.parse(expression))
    return {",".join(sorted(f"{name}={text}" for name, text in labels)): number for labels, number in found.items()}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("sum(rate(calls_total[5m]))", {"": 40.0}),
        ("sum by (shard) (rate(calls_total[5m]))", {"shard=s0": 10.0, "shard=s1": 30.0}),
        ("max by (shard) (calls_total)", {"shard=s0": 40.0, "shard=s1": 80.0}),
        (
            'sum by (shard) (calls_total{ok="1"}) / sum by (shard) (calls_total)',
            {"shard=s0": 1.0, "shard=s1": 80 / 120},
        ),
        ("histogram_quantile(0.5, sum by (le) (rate(took_bucket[5m])))", {"": 0.1}),
        ("histogram_quantile(0.75, sum by (le) (rate(took_bucket[5m])))", {"": 0.1 + 0.9 / 2}),
    ],
)
def test_expressions(samples: Samples, expression: str, expected: dict[str, float]) -> None:
    assert value(samples, expression) == pytest.approx(expected)


def test_a_window_is_no_longer_than_asked_for(samples: Samples) -> None:
    samples.add(5.0, PAGE.format(40, 80))  # nothing more
    assert value(samples, "sum(rate(calls_total[5m]))", 0.9) == {}  # one sample is no rate
    (found,) = evaluate(samples, "sum(rate(calls_total[5m]))", 1.5).values()
    assert found[-2:] == [(4.0, 40.0), (5.0, 0.0)]


def test_nothing_counted_has_no_quantile() -> None:
    made = Samples()
    for at in (0.0, 1.0):
        made.add(at, PAGE.format(0, 0))
    (found,) = evaluate(made, "histogram_quantile(0.5, sum by (le) (rate(took_bucket[5m])))", 10.0).values()
    assert isnan(found[-1][1])


@pytest.mark.parametrize("expression", ["avg(calls_total)", "irate(calls_total[5m])", "calls_total * 2"])
def test_what_is_not_understood_is_not_drawn(samples: Samples, expression: str) -> None:
    with pytest.raises(ValueError, match="not understood"):
        value(samples, expression)


def test_every_panel_can_be_drawn(samples: Samples, tmp_path: Path) -> None:
    draw(DASHBOARD, samples, 8.0, tmp_path / "panels.png", "a test")
    assert (tmp_path / "panels.png").stat().st_size > 10_000
    assert legend("{{shard}} is {{state}}", frozenset({("shard", "s0"), ("state", "idle")})) == "s0 is idle"
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len(panels) == len({panel["id"] for panel in panels})


def test_screens_fetch_nothing_from_elsewhere() -> None:
    svg = '<svg><!-- https://y --><style>@font-face { src: url("https://x") }</style></svg>'
    assert "https" not in without_fonts(svg)
    pictures = DASHBOARD.parents[2] / "docs" / "images"
    assert "https:" not in (pictures / "top.svg").read_text()
