"""The short form of `make pipelines`: the same sequences each time."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from pipelines import difference_of, is_lost, made
from wire_client import difference

if TYPE_CHECKING:
    from tests.transcripts.conftest import Pair

SEED = 20_261_123
SEQUENCES = 60


@pytest.mark.parametrize("piecemeal", [False, True], ids=["at once", "one by one"])
def test_the_same_answers(kept_pair: Pair, *, piecemeal: bool) -> None:
    chance = random.Random(SEED + piecemeal)
    for _ in range(SEQUENCES):
        parts = made(chance)
        found = difference_of(kept_pair, parts, piecemeal=piecemeal)
        assert found is None or is_lost(*found), f"{parts}\n{difference(*found)}"
