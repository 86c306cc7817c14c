"""The same bytes to Postgres and to the proxy over two shards: the same answers, or a refusal that is listed here.

Rows that come in no order are compared in any. The rest is compared message by message, up to a refusal.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import pytest

import sequences
from transcripts import Sequence, play
from wire_client import difference

if TYPE_CHECKING:
    from tests.transcripts.conftest import Pair
    from wire_client import Trace

#: What is refused over several shards; everything else of these sequences is answered.
REFUSED = frozenset(
    {"simple: two_phase", "simple: prepare transaction outside"}
    | {"own: prepared out of sight", "own: a cursor out of sight"}
    | {f"{state}: FunctionCall" for state in ("idle", "in a block", "in a pipeline")}
)


def in_any_order(trace: Trace) -> Trace:
    """Sort rows that follow each other."""
    settled: Trace = []
    for is_row, entries in groupby(trace, key=lambda entry: entry[0] == "row"):
        run = list(entries)
        settled += sorted(run, key=repr) if is_row else run
    return settled


def refused_at(trace: Trace) -> int | None:
    """Return where the proxy refuses for the first time."""
    places = (place for place, entry in enumerate(trace) if entry[0] == "error" and entry[1]["C"] == "0A000")
    return next(places, None)


@pytest.mark.parametrize("sequence", sequences.ALL, ids=str)
def test_the_same_answers(spread: Pair, sequence: Sequence) -> None:
    expected = in_any_order(play(spread.direct, sequence))
    spread.fill()
    got = in_any_order(play(spread.through, sequence))
    for kind, fields in (entry for entry in got if entry[0] == "error"):
        if fields.get("D", "").startswith("Shard "):  # which shard it was that failed is ours to say
            assert kind == "error"
            del fields["D"]
    end = refused_at(got) if refused_at(expected) is None else None
    assert (end is not None) == (sequence.name in REFUSED), difference(expected, got)
    assert got[:end] == expected[:end], difference(expected, got)
