"""SELECT ... LIMIT with FOR UPDATE or its like over several shards.

Postgres locks the rows that such a statement returns (and those that OFFSET passes over) and no others; a shard that
is asked for its first rows would lock some that the limit over all shards then drops. So the rows are locked in steps
(:mod:`proxy.session.locking`). Decides what these need: the text without LIMIT, with its sort keys, and without its
locks where it must be known first which rows are to be locked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.plan import SortKey
from router.plan_steps import LockRows
from router.planner.clauses import Clauses, apply, verified
from router.planner.outputs import sort_outputs
from router.planner.spread import sharded

if TYPE_CHECKING:
    from router.plan import KeyTerm, Target
    from router.planner.merge import Query


def plan(query: Query, target: Target, limit: KeyTerm | None, offset: KeyTerm | None) -> LockRows:
    """Plan a SELECT with LIMIT or OFFSET whose rows are locked on several shards."""
    node, parsed = query.node, query.context.parsed
    clauses = Clauses.of(parsed, node)
    if clauses is None or query.outputs is None:
        raise query.refuse("gather-lock")
    visible = len(query.outputs)
    keys: list[SortKey] = []
    texts: list[str] = []
    for item in sort_outputs(query, clauses) if node.get("sortClause") else ():
        if item.type is None or not item.type.sortable:
            raise query.refuse("gather-lock", item.node)
        keys.append(SortKey(visible + len(texts), item.type.oid, item.descending, item.nulls_first))
        texts.append(item.text)
    policies = {clause["LockingClause"].get("waitPolicy", "LockWaitBlock") for clause in node["lockingClause"]}
    skips = policies == {"LockWaitSkip"}
    if keys and ("LockWaitSkip" in policies) != skips:
        raise query.refuse("gather-lock")
    if keys and query.context.effect(node.get("targetList")).volatile:
        raise query.refuse("gather-lock")  # rows are compared with what was read before
    edits = [clauses.append_targets(texts)] if texts else []
    limits, locks = clauses.cut("limit"), clauses.cut("lock")
    if limits is None or locks is None:
        raise query.refuse("gather-lock")
    text = apply(parsed.text[: parsed.end], [*edits, limits])
    read = apply(parsed.text[: parsed.end], [*edits, limits, locks]) if keys and not skips else ""
    sure = verified(parsed, text, len(texts))
    if not sure or (read and not verified(parsed, read, len(texts), gone="lockingClause")):
        raise query.refuse("gather-lock")
    tables = {str(source.relation.name) for source in sharded(query.scope) if source.relation is not None}
    about = ", ".join(sorted(tables))
    return LockRows(target, text.rstrip(), read.rstrip(), tuple(keys), visible, limit, offset, skips, about)
