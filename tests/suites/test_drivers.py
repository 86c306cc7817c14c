"""asyncpg's and pg8000's own tests through the proxy with one shard: they pass, but for those that the page lists.

The tests come from the package index, as what is installed does; only where that does not answer are they left out.
Directly, over several shards, and of other projects: `make suites`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from catalogue import SUITES
from compare import Part, exceptions, through
from sources import UnreachableError, fetched


@pytest.mark.timeout(900)  # in all; each of its tests has a limit of its own
@pytest.mark.parametrize("name", ["asyncpg", "pg8000"])
def test_a_drivers_own_tests_pass(name: str, tmp_path: Path) -> None:
    suite = SUITES[name]
    try:
        source = fetched(suite)
    except UnreachableError:
        pytest.skip("the package index does not answer, and has the tests")
    only = " and ".join(f"not {test}" for test in suite.slow)
    found = through(Part(suite, source, only, "1/1", tmp_path / name, again=True), 1)
    listed = exceptions(name, 1)
    lost = [
        test
        for test, outcome in found.items()
        if outcome == "failed"
        and not any(pattern.search(test) for pattern in listed)
        and not any(word in test for word in suite.wanting)
    ]
    assert not lost
    assert list(found.values()).count("passed") >= suite.passing
