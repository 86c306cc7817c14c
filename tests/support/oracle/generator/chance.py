"""Chance from a seed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Chance:
    """Everything that is drawn comes from here, so that a seed repeats a run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self._serial = 0

    def pick(self, *choices: Any) -> Any:
        """Return one of the choices."""
        return choices[int(self.chance.random() * len(choices))]

    def made(self, *makers: Callable[[], str]) -> str:
        """Return what one of the makers makes; the others make nothing (and so number no parameters)."""
        return makers[int(self.chance.random() * len(makers))]()

    def odds(self, share: float) -> bool:
        """Return True in this share of cases."""
        return self.chance.random() < share

    def below(self, limit: int) -> int:
        """Return a number from 0."""
        return int(self.chance.random() * limit)

    def alias(self) -> str:
        """Return a name that nothing in the statement has."""
        self._serial += 1
        return f"x{self._serial}"
