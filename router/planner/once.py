"""Triggers that fire once for each statement, on a table whose rows are on several shards.

Decides which statements they concern: each shard that runs a part of one would fire them, with its own part of the rows
as transition tables. Such a statement must be run by exactly one shard, which is known when its shards are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.cluster import Sharded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from router.planner.context import Context
    from router.relation import Relation
    from router.tree import Node

_EVENTS: Final = {
    "InsertStmt": frozenset({"insert"}),
    "UpdateStmt": frozenset({"update"}),
    "DeleteStmt": frozenset({"delete"}),
    "MergeStmt": frozenset({"insert", "update", "delete"}),
    "TruncateStmt": frozenset({"truncate"}),
    "CopyStmt": frozenset({"insert"}),
}


def runs_once(context: Context) -> str:
    """Return the trigger of a sharded table that a statement fires once however many rows it writes; '' for none."""
    if not context.many or not context.catalog.fires_once or not context.parsed.kinds & _EVENTS.keys():
        return ""
    for body, events in _written(context):
        relation = context.relation(body)
        if relation is None or not isinstance(context.catalog.effective_placement(relation), Sharded):
            continue
        found = _fired(relation, events)
        if found:
            return found
    return ""


def _fired(relation: Relation, events: frozenset[str]) -> str:
    names = (trigger.name for trigger in relation.triggers if not trigger.row and trigger.events & events)
    return next(names, "")


def _written(context: Context) -> Iterator[tuple[Node, frozenset[str]]]:
    """Yield the tables that a statement writes, and how."""
    for kind, body in context.parsed.nodes:
        events = _EVENTS.get(kind)
        if events is None or (kind == "CopyStmt" and not body.get("is_from")):
            continue
        if kind == "TruncateStmt":
            yield from ((item["RangeVar"], events) for item in body["relations"])
        elif "relation" in body:
            conflict = body.get("onConflictClause", {}).get("action") == "ONCONFLICT_UPDATE"
            yield body["relation"], events | {"update"} if conflict else events
