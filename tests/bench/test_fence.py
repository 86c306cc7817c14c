"""The figures of the fence's cost: medians, ratios, and who is on the page."""

from __future__ import annotations

from bench.fence import KINDS, Figures, arguments, middle, page

CELLS = ["commits alone", *(f"{what}, {how}" for what in ("reads alone", "reads beside commits") for how in KINDS)]
CELLS += [f"commits beside reads, {how}" for how in KINDS]


def one(tps: float) -> dict[str, Figures]:
    return {cell: Figures(tps * (2 if cell.endswith("shard") else 1), 1.0, 2.0, 1, 3.0, 4.0) for cell in CELLS}


def test_rounds_are_put_together() -> None:
    found = middle([one(100), one(400), one(200)])
    assert found["commits alone"] == Figures(200, 1.0, 2.0, 3, 3.0, 4.0)


def test_the_page() -> None:
    given = arguments(["--shards", "2,4", "--rate", "10"])
    assert given.counts == [2, 4]
    text = page({count: one(100.0 * count) for count in given.counts}, given, {"load": "none"}, "today")
    assert "Written by `python -m bench.fence --shards 2,4 --rate 10`, today." in text
    assert "| 2 | 1.0 / 2.0 ms | 1.0 / 2.0 ms | 1.0 / 2.0 ms | 1.0 / 2.0 ms |" in text
    assert "| 4 | 400/s, 1.0 / 2.0 ms | 800/s, 1.0 / 2.0 ms | 400/s, 1.0 / 2.0 ms | 0.50 |" in text
    assert "| 4 | 3.0 ms | 3.0 ms | 4.0 ms | 4.0 ms | 3.0 ms | 4.0 ms |" in text
    assert f"Failed transactions: {len(CELLS) * 2}." in text
