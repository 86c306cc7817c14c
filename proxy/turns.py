"""How long work shares a process with everybody else: by turns of a few milliseconds, or in a thread beside the loop.

The thread is one, and its turns with the interpreter are short (``SWITCH_SECONDS``): a second one would take its turns
from the loop. What is given to it shares nothing that the loop changes meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

SWITCH_SECONDS: Final = 0.0005  # how long the loop waits for the thread when it has something to do
TURN_SECONDS: Final = 0.002  # what one works on the loop before others get a turn

Given = ParamSpec("Given")
Outcome = TypeVar("Outcome")

_THREAD: Final = ThreadPoolExecutor(1, "planner")


class Turn:
    """One's turn with the loop. Who works long asks now and then whether it is over."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = perf_counter() + TURN_SECONDS

    async def give_way(self) -> bool:
        """Let others go on if the turn is over; returns whether it was."""
        if perf_counter() < self._until:
            return False
        await asyncio.sleep(0)
        self._until = perf_counter() + TURN_SECONDS
        return True


async def beside(function: Callable[Given, Outcome], *given: Given.args, **named: Given.kwargs) -> Outcome:
    """Return what a pure function gives, computed beside the loop."""
    return await asyncio.get_running_loop().run_in_executor(_THREAD, lambda: _uncollected(function, *given, **named))


def _uncollected(function: Callable[Given, Outcome], *given: Given.args, **named: Given.kwargs) -> Outcome:
    """Call a function while nobody looks for garbage in cycles.

    A look at a tree of a million nodes stops all threads for a tenth of a second, and a tree that grows is looked at
    again and again, in vain: trees have no cycles, and are freed as soon as they are read.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return function(*given, **named)
    finally:
        if collecting:
            gc.enable()
