"""A pytest plugin: writes each test's outcome to the file that SUITE_OUTCOMES names, one JSON line each, at once.

Line by line, so that a suite that is stopped has told what it had found. Loaded by name into a foreign suite
(`-p recorder`); it changes nothing there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_RANK = {"passed": 0, "skipped": 1, "failed": 2}
_worst: dict[str, str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the worst of set-up, call and tear-down; an expected failure counts as skipped."""
    before = _worst.get(report.nodeid, "passed")
    _worst[report.nodeid] = max(before, report.outcome, key=_RANK.__getitem__)
    if report.when == "teardown":
        line = {"test": report.nodeid, "outcome": _worst.pop(report.nodeid)}
        with Path(os.environ["SUITE_OUTCOMES"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
