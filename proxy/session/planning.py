"""Planning long texts beside the event loop, so that nobody else waits for it.

Decides which texts and plans are long, and where the work is done: in one thread, whose turns with the interpreter are
short (``SWITCH_SECONDS``), never more than one, since each would take its turns from the loop. The router is pure, so
nothing is shared with it but the planner, which does not change; who uses the outcome looks at the catalog's version,
as after any wait.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from router.plan import SplitInsert
from router.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.session.session import Session
    from router.plan import Executable, Plan, Statement
    from router.resolve import KeyParameter

LONG_CHARACTERS: Final = 4096  # up to here texts have templates (router.lifting), and take a few milliseconds at most
LONG_ROWS: Final = 512  # of which each costs a few microseconds to find the shard of
SWITCH_SECONDS: Final = 0.0005  # how long the loop waits for the thread when it has something to do

Given = ParamSpec("Given")
Outcome = TypeVar("Outcome")

_THREAD: Final = ThreadPoolExecutor(1, "planner")


async def beside(function: Callable[Given, Outcome], *given: Given.args, **named: Given.kwargs) -> Outcome:
    """Return what a pure function gives, computed beside the loop."""
    return await asyncio.get_running_loop().run_in_executor(_THREAD, lambda: function(*given, **named))


async def plan(session: Session, text: str, parameter_oids: tuple[int, ...] = ()) -> tuple[Statement, ...]:
    """Plan a message, as Session.plan does. The catalog may be another when it is done."""
    if len(text) <= LONG_CHARACTERS or session.hiding:
        return session.plan(text, parameter_oids)
    path, database = session.search_path, session.database
    inside = session.planner_in_block
    if inside is not None:
        return await beside(inside.plan, text, path, parameter_oids)
    known = database.known_plans(text, path, parameter_oids)
    if known is not None:
        return known
    version, planner = database.catalog_version, database.planner
    plans = await beside(planner.plan, text, path, parameter_oids)
    if version == database.catalog_version:
        database.keep_plans(text, path, parameter_oids, plans)
    return plans


async def resolved(session: Session, found: Plan, parameters: Sequence[KeyParameter] = ()) -> Executable:
    """Find the shards of a plan; raises UnresolvedKey."""
    if isinstance(found, SplitInsert) and len(found.rows) > LONG_ROWS:
        return await beside(resolve, found, session.database.logical, parameters, session.recode)
    return resolve(found, session.database.logical, parameters, session.recode)
