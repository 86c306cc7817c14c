"""Planning long texts beside the event loop, so that nobody else waits for it.

Decides which texts and plans are long; the thread is that of proxy.turns. The router is pure, so nothing is shared with
it but the planner, which does not change; who uses the outcome looks at the catalog's version, as after any wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.turns import beside
from router.errors import SyntaxFailure
from router.normal import normalise_ahead
from router.plan import SplitInsert
from router.planned import Missing
from router.resolve import resolve
from router.statement import parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.session.session import Session
    from router.plan import Executable, Plan, Statement
    from router.planned import Made
    from router.resolve import KeyParameter

LONG_CHARACTERS: Final = 1024  # what is shorter takes a millisecond or two where the machine is not busy, but:
LEARNED_CHARACTERS: Final = 256  # to learn a template is to plan three times
_SLOW: Final = "merge"  # a MERGE may become several statements
LONG_ROWS: Final = 512  # of which each costs a few microseconds to find the shard of
LONG_PARAMETERS: Final = 2048  # of which each costs some microseconds in all that is done with a Bind


def is_long(text: str, *, learns: bool = False) -> bool:
    """Whether a text that is not known is to be planned beside the loop; ``learns``: its template is learned as well.

    Both cost others nothing when they guess too high, but the one who asked a few turns of the loop.
    """
    size = len(text)
    return size > LONG_CHARACTERS or (learns and size > LEARNED_CHARACTERS) or _SLOW in text.lower()


async def plan(session: Session, text: str, parameter_oids: tuple[int, ...] = ()) -> tuple[Statement, ...]:
    """Plan a message, as Session.plan does. The catalog may be another when it is done."""
    if session.database.misplaced and session.planner_in_block is None:
        return await _ends(session, text)
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

    def counted() -> Made:
        made = found.make(from_scratch)
        normalise_ahead([statement.text for statement in made.plans])  # under which they are counted when they have run
        return made

    long = is_long(text, learns=found.learns)
    made = await beside(counted) if long else found.make(from_scratch)
    if version == database.catalog_version:
        database.planned.keep(found, made)
    return made.plans


async def _ends(session: Session, text: str) -> tuple[Statement, ...]:
    """Plan what a block may end with while this proxy's placements are not those of the shards; raises F0000."""
    try:
        parsed = await beside(parse, text) if is_long(text) else parse(text)
    except SyntaxFailure:
        parsed = ()
    return session.database.plan_ends(parsed, session.search_path)


async def resolved(session: Session, found: Plan, parameters: Sequence[KeyParameter] = ()) -> Executable:
    """Find the shards of a plan; raises UnresolvedKey."""
    rows = len(found.rows) if isinstance(found, SplitInsert) else 0
    if rows > LONG_ROWS or len(parameters) > LONG_PARAMETERS:
        return await beside(resolve, found, session.database.logical, parameters, session.recode)
    return resolve(found, session.database.logical, parameters, session.recode)
