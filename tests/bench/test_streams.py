"""The figures of large results: what is sent, and what is on the page."""

from __future__ import annotations

import pytest

from bench.streams import COPY_IN, WAYS, WORK, Figures, rows_of, table_of
from proxy.wire.frames import walk


@pytest.mark.parametrize(("vary", "lengths"), [(0, 4), (50, 103)])
def test_rows_are_whole_messages(vary: int, lengths: int) -> None:
    data = b"".join(rows_of(2000, vary))
    index, rest = walk(data, 0, len(data))
    assert rest == len(data)
    assert {kind for kind, _, _ in index} == {ord("d")}
    lines = b"".join(data[start + 5 : end] for _, start, end in index).splitlines()
    assert [int(line.partition(b"\t")[0]) for line in lines] == list(range(2000))
    assert 95 <= len(data) / 2000 <= 105
    assert len({len(line) for line in lines}) == lengths


def test_the_table_has_medians_and_their_ratios() -> None:
    rates = {"direct": 200.0, "one": 180.0, "four": 50.0}
    found = [
        Figures(work, way, rates[way] * factor, 0.5 if way != "direct" else 0.0)
        for work in WORK
        for way in WAYS
        for factor in (0.5, 1.0, 3.0)
    ]
    lines = table_of(found, 500_000).splitlines()
    assert len(lines) == len(WORK)
    assert lines[0] == "| COPY in | 200 | 180 | 0.90 | 50 | 0.25 | 1.00 | 1.00 |"
    assert WORK["COPY in"] == COPY_IN
