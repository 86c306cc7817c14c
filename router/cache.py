"""Bounded caches of plans.

Texts are kept exactly as they came. Lifting literals out of them, so that one plan serves many values, belongs here too when
it comes: the key of an entry becomes the template, its value the plan with holes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

    from router.plan import Statement

# A text that holds its values is rarely seen twice; long ones (a load by INSERT) must not fill the memory.
MAX_TEXT_CHARACTERS = 16_384


class PlanCache:
    """The most recently used ``entries`` plans; the key begins with the text."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._plans: OrderedDict[Hashable, tuple[Statement, ...]] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def get(self, key: tuple[str, Hashable, Hashable]) -> tuple[Statement, ...] | None:
        """Return the plans of a text, or None."""
        plans = self._plans.get(key)
        if plans is None:
            self.misses += 1
            return None
        self.hits += 1
        self._plans.move_to_end(key)
        return plans

    def put(self, key: tuple[str, Hashable, Hashable], plans: tuple[Statement, ...]) -> None:
        """Keep the plans of a text, unless it is very long."""
        if len(key[0]) > MAX_TEXT_CHARACTERS:
            return
        self._plans[key] = plans
        if len(self._plans) > self._entries:
            self._plans.popitem(last=False)

    def clear(self) -> None:
        """Forget everything: the catalog has changed."""
        self._plans.clear()

    def __len__(self) -> int:
        return len(self._plans)
