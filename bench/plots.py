"""Three pictures of a run: throughput, latency percentiles, CPU of the proxy per transaction.

One panel per script and number of clients; within it one group per query mode and one colour per contender. Colours are
of the Okabe-Ito palette, told apart by colour-blind readers too, and every contender also has its own marker. Whiskers
span lowest to highest over the rounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from bench.model import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from bench.report import Figure, Row

GREY, BLUE, VERMILION, ORANGE, GREEN, PURPLE = "#7F7F7F", "#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7"
FIXED_COLOURS = {"direct": GREY, "pgbouncer": BLUE}
OTHER_COLOURS = (VERMILION, ORANGE, GREEN, PURPLE)
MARKERS = ("o", "s", "D", "^", "v", "P")
GROUP_WIDTH = 0.8
PANEL_WIDTH, PANEL_HEIGHT = 4.2, 3.1
DPI = 150
LATENCY_TITLE = "Latency of a transaction: p50 (filled), p95 (half), p99 (hollow)"
CPU_TITLE = "CPU of the proxy per transaction (hatched: in user mode)"


class Look(NamedTuple):
    """How a contender is drawn."""

    title: str
    colour: str
    marker: str
    place: int


def looks(rows: Sequence[Row]) -> dict[str, Look]:
    """Give each contender its colour, marker and place in a group, the same in every picture."""
    names = list(dict.fromkeys(row.contender for row in rows))
    others = [name for name in names if name not in FIXED_COLOURS]
    colours = FIXED_COLOURS | {name: OTHER_COLOURS[i % len(OTHER_COLOURS)] for i, name in enumerate(others)}
    # The plain title: what a mark says about one mode does not belong in the legend of all.
    titles = {row.contender: min((r.title for r in rows if r.contender == row.contender), key=len) for row in rows}
    return {name: Look(titles[name], colours[name], MARKERS[i % len(MARKERS)], i) for i, name in enumerate(names)}


def draw_all(rows: Sequence[Row], directory: Path, caption: str) -> list[str]:
    """Write the pictures that the rows have figures for and return the names of their files."""
    written = []
    with_proxy = [row for row in rows if row.proxy_us is not None]
    for name, title, unit, chosen, panel in (
        ("throughput.png", "Throughput", "transactions per second", rows, throughput_panel),
        ("latency.png", LATENCY_TITLE, "milliseconds, logarithmic", rows, latency_panel),
        ("cpu.png", CPU_TITLE, "microseconds", with_proxy, cpu_panel),
    ):
        if any(row.tps for row in chosen):
            draw(chosen, looks(rows), directory / name, (title, unit, caption), panel)
            written.append(name)
    return written


def draw(
    rows: Sequence[Row],
    styles: dict[str, Look],
    path: Path,
    words: tuple[str, str, str],
    panel: Callable[[Axes, Sequence[Row], dict[str, Look]], None],
) -> None:
    """Draw one picture: a grid of panels (scripts across, numbers of clients down), title, unit, legend and caption."""
    title, unit, caption = words
    scenarios = list(dict.fromkeys(row.scenario for row in rows))
    clients = sorted({row.clients for row in rows})
    size = (max(PANEL_WIDTH * len(scenarios), 6.5), PANEL_HEIGHT * len(clients) + 1.2)
    figure, grid = plt.subplots(len(clients), len(scenarios), figsize=size, squeeze=False, layout="constrained")
    present = {row.contender for row in rows}
    shown = {name: look for name, look in styles.items() if name in present}
    styles = {name: look._replace(place=place) for place, (name, look) in enumerate(shown.items())}
    for down, count in enumerate(clients):
        for across, scenario in enumerate(scenarios):
            axes = grid[down][across]
            own = [row for row in rows if row.scenario == scenario and row.clients == count]
            plural = "s" if count > 1 else ""
            axes.set_title(f"{SCENARIOS[scenario].title}, {count} client{plural}", fontsize=10)
            axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            modes = list(dict.fromkeys(row.mode for row in own))
            axes.set_xticks(range(len(modes)), [f"-M {mode}" for mode in modes], fontsize=9)
            axes.tick_params(axis="x", length=0)
            axes.set_xlim(-0.6, max(len(modes), 1) - 0.4)
            if across == 0:
                axes.set_ylabel(unit, fontsize=9)
            panel(axes, own, styles)
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle="", markersize=8, label=look.title)
        for look in styles.values()
    ]
    figure.suptitle(title, fontsize=13, fontweight="bold")
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False, fontsize=9)
    figure.text(0.995, 0.003, caption, fontsize=6.5, color="#666666", ha="right", va="bottom")
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(figure)


def place(row: Row, rows: Sequence[Row], styles: dict[str, Look]) -> tuple[float, float]:
    """Return where in its panel a row stands, and how wide."""
    modes = list(dict.fromkeys(r.mode for r in rows))
    width = GROUP_WIDTH / len(styles)
    offset = (styles[row.contender].place - (len(styles) - 1) / 2) * width
    return modes.index(row.mode) + offset, width


def whisker(figure: Figure) -> list[list[float]]:
    """Return the error bar from lowest to highest."""
    return [[figure.median - figure.low], [figure.high - figure.median]]


def label(value: float) -> str:
    """Return a number short enough to stand on a bar."""
    if value >= 10_000:  # noqa: PLR2004
        return f"{value / 1000:.0f}k"
    if value >= 1000:  # noqa: PLR2004
        return f"{value / 1000:.1f}k"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"  # noqa: PLR2004


def bar(axes: Axes, at: tuple[float, float], figure: Figure, look: Look) -> None:
    """Draw one bar with its whisker and its number above."""
    x, width = at
    axes.bar(x, figure.median, width * 0.92, color=look.colour)
    if figure.low != figure.high:
        axes.errorbar(x, figure.median, yerr=whisker(figure), color="#222222", linewidth=1, capsize=2)
    axes.annotate(
        label(figure.median), (x, figure.high), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7.5
    )


def throughput_panel(axes: Axes, rows: Sequence[Row], styles: dict[str, Look]) -> None:
    """Bars of transactions per second."""
    for row in rows:
        if row.tps:
            bar(axes, place(row, rows, styles), row.tps, styles[row.contender])
    axes.set_ylim(bottom=0, top=1.12 * max((row.tps.high for row in rows if row.tps), default=1))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def cpu_panel(axes: Axes, rows: Sequence[Row], styles: dict[str, Look]) -> None:
    """Bars of microseconds; the lower, hatched part is user time, where a proxy's own work is."""
    for row in rows:
        if row.proxy_us and row.proxy_user_us:
            at = place(row, rows, styles)
            bar(axes, at, row.proxy_us, styles[row.contender])
            axes.bar(
                at[0],
                row.proxy_user_us.median,
                at[1] * 0.92,
                color="none",
                edgecolor="white",
                hatch="////",
                linewidth=0,
            )
    axes.set_ylim(bottom=0, top=1.12 * max((row.proxy_us.high for row in rows if row.proxy_us), default=1))


def latency_panel(axes: Axes, rows: Sequence[Row], styles: dict[str, Look]) -> None:
    """Draw a line from p50 to p99 with a mark at each percentile: filled p50, half p95, hollow p99."""
    axes.set_yscale("log")
    for row in rows:
        figures = [figure for figure in (row.p50_ms, row.p95_ms, row.p99_ms) if figure]
        if not figures:
            continue
        look = styles[row.contender]
        x, _ = place(row, rows, styles)
        values = [figure.median for figure in figures]
        axes.plot([x, x], [values[0], values[-1]], color=look.colour, linewidth=2, alpha=0.45)
        for value, fill in zip(values, ("full", "left", "none"), strict=False):
            axes.plot(
                x, value, look.marker, color=look.colour, fillstyle=fill, markerfacecoloralt="white", markersize=6.5
            )
    values = [f.median for row in rows for f in (row.p50_ms, row.p99_ms) if f]
    if values:
        axes.set_ylim(min(values) / 1.4, max(values) * 1.4)
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
