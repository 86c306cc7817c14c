"""Measure operations of the hot path and of the router: ``python -m bench.micro [--save]``.

For each: calls of functions, Python's and built-in ones (exact, the same on every machine with the same Python), and
nanoseconds (the best of several rounds; only comparable on one machine). Compares with the stored baseline; the exit
status is 1 when an operation makes over a tenth more calls than there. ``--save`` stores what was measured instead.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from bench.micro.operations import operations

if TYPE_CHECKING:
    from collections.abc import Callable

BASELINE = Path(__file__).parent / "baseline.json"
WARM_UP = 50  # caches are filled, templates learned, the next statement predicted
COUNTED = 200
ROUNDS = 15
ROUND_SECONDS = 0.02
WORSE = 1.1


def count_calls(operation: Callable[[], object]) -> float:
    """Return how many functions are called for one operation."""
    for _ in range(WARM_UP):
        operation()
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        if event in {"call", "c_call"}:
            calls += 1

    sys.setprofile(count)
    try:
        for _ in range(COUNTED):
            operation()
    finally:
        sys.setprofile(None)
    return round(calls / COUNTED, 1)


def best_ns(operation: Callable[[], object]) -> int:
    """Return the nanoseconds of one operation in the best of several rounds."""
    repeat = 1
    while True:
        begun = time.perf_counter_ns()
        for _ in range(repeat):
            operation()
        if time.perf_counter_ns() - begun > ROUND_SECONDS * 1e9:
            break
        repeat *= 2
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.perf_counter_ns()
        for _ in range(repeat):
            operation()
        best = min(best, (time.perf_counter_ns() - begun) / repeat)
    return round(best)


async def measure() -> dict[str, dict[str, float]]:
    """Measure everything."""
    found = await operations()
    return {name: {"calls": count_calls(operation), "best_ns": best_ns(operation)} for name, operation in found.items()}


def main() -> int:
    """Measure, and compare or store."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro", description=__doc__)
    parser.add_argument("--save", action="store_true", help="store the figures as the baseline")
    options = parser.parse_args()
    measured = uvloop.run(measure())
    if options.save:
        stored = {"python": platform.python_version(), "operations": measured}
        BASELINE.write_text(json.dumps(stored, indent=2) + "\n")
    baseline: dict[str, Any] = json.loads(BASELINE.read_text())
    print(f"{'operation':<52} {'calls':>8} {'baseline':>9} {'ns':>9} {'baseline':>9}")
    worse = False
    for name, figures in measured.items():
        before = baseline["operations"].get(name, figures)
        worse = worse or figures["calls"] > before["calls"] * WORSE
        print(
            f"{name:<52} {figures['calls']:>8} {before['calls']:>9} {figures['best_ns']:>9} {before['best_ns']:>9}"
            + ("  MORE CALLS" if figures["calls"] > before["calls"] * WORSE else "")
        )
    print(f"baseline: Python {baseline['python']}; here: {platform.python_version()}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
