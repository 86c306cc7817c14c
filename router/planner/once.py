"""Triggers that fire once for each statement, on a table whose rows are on several shards.

Decides which statements they concern: each shard that runs a part of one would fire them, with its own part of the rows
as transition tables. Such a statement must be run by exactly one shard, which is known when its shards are. Foreign
keys fire those of the tables that they change on the way, once for all rows as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from router.closure import CASCADING
from router.cluster import Sharded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from router.cluster import TableName
    from router.planner.context import Context
    from router.relation import ForeignKey, Relation

_CASCADE: Final = "c"  # of pg_constraint's letters: the others set columns


@dataclass(frozen=True, slots=True)
class _Write:
    """What is done to a table: ``events`` as triggers have them; ``columns`` are those that updates set."""

    events: frozenset[str]
    columns: frozenset[str] = frozenset()


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
    cascade = context.body.get("behavior") == "DROP_CASCADE"
    pending = list(_written(context))
    seen: set[tuple[TableName, _Write]] = set()
    while pending:
        name, write = pending.pop(0)
        relation = context.catalog.relation(name.schema, name.name)
        if relation is None or (name, write) in seen:
            continue
        seen.add((name, write))
        if isinstance(context.catalog.effective_placement(relation), Sharded):
            fired = (one.name for one in relation.triggers if not one.row and one.events & write.events)
            found = next(fired, "")
            if found:
                return found
        if "truncate" in write.events:  # which fires those of partitions and children as well; nothing else does
            pending += [(child, write) for child in relation.children]
        for table, key in relation.referenced_by:
            pending += [(table, follows) for follows in _followed(relation, key, write, cascade=cascade)]
    return ""


def _followed(relation: Relation, key: ForeignKey, write: _Write, *, cascade: bool) -> Iterator[_Write]:
    """Yield what a foreign key does to the table that has it, when its rows' targets are written so."""
    columns = frozenset(key.columns)
    if "delete" in write.events and key.on_delete in CASCADING:
        yield _Write(frozenset({"delete" if key.on_delete == _CASCADE else "update"}), columns)
    if "update" in write.events and key.on_update in CASCADING and _may_set(relation, write, key.referenced_columns):
        yield _Write(frozenset({"update"}), columns)
    if "truncate" in write.events and cascade:
        yield _Write(frozenset({"truncate"}))


def _may_set(relation: Relation, write: _Write, columns: tuple[str, ...]) -> bool:
    """Whether an update may change one of these: by itself, or by a trigger or an expression that follows it."""
    if not write.columns.isdisjoint(columns):
        return True
    if any(one.row and one.timing == "before" and "update" in one.events for one in relation.triggers):
        return True
    found = (relation.column(name) for name in columns)
    return any(column is not None and column.generated for column in found)


def _written(context: Context) -> Iterator[tuple[TableName, _Write]]:
    """Yield the tables that a statement names and writes, and how."""
    for kind, body in context.parsed.nodes:
        events = _EVENTS.get(kind)
        if events is None or (kind == "CopyStmt" and not body.get("is_from")):
            continue
        tables = [item["RangeVar"] for item in body["relations"]] if kind == "TruncateStmt" else [body.get("relation")]
        conflict = body.get("onConflictClause", {})
        if conflict.get("action") == "ONCONFLICT_UPDATE":
            events |= {"update"}
        clauses = (clause["MergeWhenClause"] for clause in body.get("mergeWhenClauses", ()))
        setting = body if kind == "UpdateStmt" else conflict
        targets = (target["ResTarget"] for one in (setting, *clauses) for target in one.get("targetList", ()))
        write = _Write(events, frozenset(target.get("name", "") for target in targets))
        for table in tables:
            relation = context.relation(table) if table is not None else None
            if relation is not None:
                yield relation.name, write
