"""The dashboard's panels, drawn with the dashboard's own titles, expressions and legends."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from bench.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION
from bench.screens.series import evaluate

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from bench.screens.series import Labels, Samples

COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, GREY)
COLUMNS = 3
WIDTH, HEIGHT = 4.4, 2.5
DPI = 90
MOST_SERIES = 9  # in a legend
UNITS = {"ops": "a second", "s": "seconds", "Bps": "bytes a second", "percentunit": "share", "none": ""}
_NAME = re.compile(r"\{\{(\w+)\}\}")


def draw(dashboard: Path, samples: Samples, window_s: float, to: Path, caption: str) -> None:
    """Draw all panels into one picture."""
    panels: list[dict[str, Any]] = json.loads(dashboard.read_text(encoding="utf-8"))["panels"]
    rows = -(-len(panels) // COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(COLUMNS * WIDTH, rows * HEIGHT), squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _panel(axes, panel, samples, window_s)
    for axes in list(grid.flat)[len(panels) :]:
        axes.axis("off")
    figure.text(0.01, 0.004, caption, fontsize=8, color=GREY)
    figure.tight_layout(rect=(0, 0.015, 1, 1))
    figure.savefig(to, dpi=DPI)
    plt.close(figure)


def _panel(axes: Axes, panel: dict[str, Any], samples: Samples, window_s: float) -> None:
    begun = samples.moments[0]
    drawn = 0
    for target in panel["targets"]:
        for labels, points in sorted(evaluate(samples, target["expr"], window_s).items(), key=str):
            moments, values = zip(*points, strict=True)
            name = legend(target.get("legendFormat", ""), labels)
            style = "-" if drawn < len(COLOURS) else "--"
            colour = COLOURS[drawn % len(COLOURS)]
            axes.plot([at - begun for at in moments], values, style, color=colour, label=name, lw=1.3)
            drawn += 1
    axes.set_title(panel["title"], fontsize=9, loc="left")
    axes.set_ylabel(UNITS[panel["fieldConfig"]["defaults"]["unit"]], fontsize=7)
    axes.tick_params(labelsize=7)
    axes.set_xlim(0, samples.moments[-1] - begun)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25, lw=0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if 0 < drawn <= MOST_SERIES:
        axes.legend(fontsize=6, frameon=False, loc="best")
    if not drawn:
        axes.text(0.5, 0.5, "nothing happened", transform=axes.transAxes, ha="center", fontsize=8, color=GREY)


def legend(form: str, labels: Labels) -> str:
    """Return a series' name by the dashboard's form, or by all its labels."""
    known = dict(labels)
    if form:
        return _NAME.sub(lambda match: known.get(match[1], ""), form)
    return ", ".join(known.values())
