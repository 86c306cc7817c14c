"""Planning long texts beside the event loop, so that nobody else waits for it.

Decides which texts and plans are long, and where the work is done: in one thread, whose turns with the interpreter are
short (``SWITCH_SECONDS``), never more than one, since each would take its turns from the loop. The router is pure, so
nothing is shared with it but the planner, which does not change; who uses the outcome looks at the catalog's version,
as after any wait.
"""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from router.plan import SplitInsert
from router.planned import Missing
from router.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.session.session import Session
    from router.plan import Executable, Plan, Statement
    from router.resolve import KeyParameter

LONG_CHARACTERS: Final = 1024  # what is shorter takes a millisecond or two where the machine is not busy, but:
LEARNED_CHARACTERS: Final = 256  # to learn a template is to plan three times
_SLOW: Final = "merge"  # a MERGE may become several statements
LONG_ROWS: Final = 512  # of which each costs a few microseconds to find the shard of
SWITCH_SECONDS: Final = 0.0005  # how long the loop waits for the thread when it has something to do

Given = ParamSpec("Given")
Outcome = TypeVar("Outcome")

_THREAD: Final = ThreadPoolExecutor(1, "planner")


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


def is_long(text: str, *, learns: bool = False) -> bool:
    """Whether a text that is not known is to be planned beside the loop; ``learns``: its template is learned as well.

    Both cost others nothing when they guess too high, but the one who asked a few turns of the loop.
    """
    size = len(text)
    return size > LONG_CHARACTERS or (learns and size > LEARNED_CHARACTERS) or _SLOW in text.lower()


async def plan(session: Session, text: str, parameter_oids: tuple[int, ...] = ()) -> tuple[Statement, ...]:
    """Plan a message, as Session.plan does. The catalog may be another when it is done."""
    if session.hiding:
        return session.plan(text, parameter_oids)
    path, database, inside = session.search_path, session.database, session.planner_in_block
    if inside is not None:
        if is_long(text):
            return await beside(inside.plan, text, path, parameter_oids)
        return inside.plan(text, path, parameter_oids)
    version, planner = database.catalog_version, database.planner  # raises where nothing is to be planned now
    found = database.planned.find(text, path, parameter_oids)
    if not isinstance(found, Missing):
        return found

    def from_scratch(one: str) -> tuple[Statement, ...]:
        return planner.plan(one, path, parameter_oids)

    long = is_long(text, learns=found.learns)
    made = await beside(found.make, from_scratch) if long else found.make(from_scratch)
    if version == database.catalog_version:
        database.planned.keep(found, made)
    return made.plans


async def resolved(session: Session, found: Plan, parameters: Sequence[KeyParameter] = ()) -> Executable:
    """Find the shards of a plan; raises UnresolvedKey."""
    if isinstance(found, SplitInsert) and len(found.rows) > LONG_ROWS:
        return await beside(resolve, found, session.database.logical, parameters, session.recode)
    return resolve(found, session.database.logical, parameters, session.recode)
