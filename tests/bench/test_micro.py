"""The hot path stays as short as it was: function calls per operation against the stored baseline."""

from __future__ import annotations

import json

import uvloop

from bench.micro.__main__ import BASELINE, WORSE, count_calls
from bench.micro.operations import operations


def test_no_operation_makes_more_calls_than_the_baseline() -> None:
    async def count() -> dict[str, float]:
        return {name: count_calls(operation) for name, operation in (await operations()).items()}

    baseline = json.loads(BASELINE.read_text())["operations"]
    counted = uvloop.run(count())
    assert counted.keys() == baseline.keys()
    worse = {name: calls for name, calls in counted.items() if calls > baseline[name]["calls"] * WORSE}
    assert not worse, worse
