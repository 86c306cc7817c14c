"""A pytest plugin: writes each test's outcome to the file that SUITE_OUTCOMES names, one JSON line each, at once.

Line by line, so that a suite that is stopped has told what it had found. Loaded by name into a foreign suite
(`-p recorder`); it changes nothing there, but that SUITE_PART, "2/5", leaves a part of its classes: whole classes,
because their tests share tables, the same ones whatever else is run; and SUITE_TESTS, where it names any, only these.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_RANK = {"passed": 0, "skipped": 1, "failed": 2}
_worst: dict[str, str] = {}
_seconds: dict[str, float] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the part that is asked for; told by name, so that all processes agree."""
    part, _, parts = os.environ.get("SUITE_PART", "1/1").partition("/")
    named = frozenset(filter(None, os.environ.get("SUITE_TESTS", "").split("\n")))
    chosen = [
        item for item in items if _number(item) % int(parts) == int(part) - 1 and (not named or item.nodeid in named)
    ]
    if len(chosen) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen


def _number(item: pytest.Item) -> int:
    return zlib.crc32(item.nodeid.rpartition("::")[0].encode())


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the worst of set-up, call and tear-down; an expected failure counts as skipped."""
    before = _worst.get(report.nodeid, "passed")
    _worst[report.nodeid] = max(before, report.outcome, key=_RANK.__getitem__)
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration
    if report.when == "teardown":
        seconds = round(_seconds.pop(report.nodeid), 3)
        line = {"test": report.nodeid, "outcome": _worst.pop(report.nodeid), "seconds": seconds}
        with Path(os.environ["SUITE_OUTCOMES"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
