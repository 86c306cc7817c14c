"""Temporary relations of a session whose names others have given to lasting ones since.

Decides which links stay with the session, and when its own link is asked for what it has: no statement may be planned
by a catalog whose names have not been compared with these. Making a temporary relation whose name is taken is refused
by the router; what this file sees came later. What may still be named is decided in :mod:`router.planner.hiding`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.planner import hiding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.session.session import Session
    from router.statement import Parsed

NAMES: Final = """SELECT c.relname FROM pg_catalog.pg_class c
WHERE c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()
 AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f,S}'::pg_catalog."char"[])"""


PINNED: Final = "temporary table"


def keep_temporary(session: Session) -> None:
    """A definition of this block may have made something temporary though its text does not say so (search_path).

    Its link stays with the session then, as it does for what the planner knows to be temporary.
    """
    transaction, planner, home = session.transaction, session.planner_in_block, session.database.logical.home
    if planner is not None and any(relation.name.schema == "pg_temp" for relation in planner.catalog.relations):
        transaction.pin(PINNED, [home])
        transaction.must_commit[home] = PINNED


async def compare_names(session: Session) -> None:
    """Before a statement is planned: find out which temporary relations hide lasting ones, if the catalog has changed.

    While there are any it is asked each time, as it is the session itself that can drop them.
    """
    transaction, database = session.transaction, session.database
    if not transaction.pinned or transaction.shard_count == 1 or transaction.failed:
        return
    version = database.catalog_version
    if session.names_compared == version and not session.hiding:
        return
    link = transaction.pinned.get(database.logical.home)
    session.hiding = frozenset()
    session.names_compared = version
    if link is None or link.closed:
        return
    names = [session.encoding.heard(name or b"") for (name,) in (await link.run(NAMES)).rows]
    session.hiding = frozenset(name for name in names if database.catalog.hidden_by(name) is not None)


def check_names(session: Session, statements: Iterable[Parsed]) -> None:
    """Refuse statements that name what two relations are called."""
    planner = session.planner_in_block or session.database.planner
    for parsed in statements:
        hiding.check(planner, parsed, session.search_path, session.hiding)
