"""The same bytes to Postgres and to the proxy with one shard: the same answers, message by message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import sequences
from transcripts import Sequence, play
from wire_client import difference

if TYPE_CHECKING:
    from tests.transcripts.conftest import Pair


@pytest.mark.parametrize("sequence", [*sequences.ALL, *sequences.OVER_ONE], ids=str)
def test_the_same_answers(pair: Pair, sequence: Sequence) -> None:
    expected = play(pair.direct, sequence)
    pair.fill()
    got = play(pair.through, sequence)
    assert got == expected, difference(expected, got)


@pytest.mark.parametrize("sequence", [one for one in sequences.ALL if one.name.startswith("extended")], ids=str)
def test_the_same_answers_when_messages_arrive_one_by_one(pair: Pair, sequence: Sequence) -> None:
    expected = play(pair.direct, sequence, piecemeal=True)
    pair.fill()
    got = play(pair.through, sequence, piecemeal=True)
    assert got == expected, difference(expected, got)
