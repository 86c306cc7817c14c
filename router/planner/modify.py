"""UPDATE, DELETE and MERGE: one shard by the key, all shards that the condition reaches, or every copy.

Decides where the rows are that a statement changes. Joins may not cross shards; a key is never changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.cluster import Home, Reference, Sharded
from router.errors import Refused
from router.plan import AtCursor, EveryShard, HomeShard, Plan, Scatter, Single, Statement, SumTags
from router.planner import dml, merge_into, moving_key, reference, table_names
from router.planner.placing import check_no_system_columns, check_reads, placed
from router.planner.scope import Scope
from router.planner.spread import Spread, check_no_home, one_shard, sharded, target_of

if TYPE_CHECKING:
    from router.cluster import Placement
    from router.planner.context import Context
    from router.planner.dml import Written

_TAGS = {"UpdateStmt": "UPDATE", "DeleteStmt": "DELETE", "MergeStmt": "MERGE"}


def plan(context: Context) -> Statement:
    """Plan an UPDATE, DELETE or MERGE; an UPDATE of a key is done in two steps where that is the same."""
    try:
        return _in_one_step(context)
    except Refused as refused:
        if refused.refusal != "key-update" or context.parsed.kind != "UpdateStmt":
            raise
        moved = moving_key.update_key(context)
        if moved is None:
            raise
        return moved


def _in_one_step(context: Context) -> Statement:
    scope = Scope(context)
    body = context.body
    written = dml.build(scope, context.parsed.kind, body, None)
    modifying = dml.modifying_levels(scope)
    scope.check_complete()
    check_reads(context, scope)
    flags = context.flags
    route = _route(context, scope, written, modifying=modifying)
    return context.statement(route, _TAGS[context.parsed.kind], returns_rows="returningClause" in body, **flags)


def _at_cursor(context: Context, placement: Placement | None, written: Written) -> Plan:
    """Plan WHERE CURRENT OF: the row is where the cursor is, which one shard has; nothing else may be read there."""
    body = context.body
    cursor = body.get("whereClause", {}).get("CurrentOfExpr", {}).get("cursor_name", "")
    alone = not {"fromClause", "usingClause", "withClause"} & body.keys() and "SubLink" not in context.parsed.kinds
    view = written.relation is not None and written.relation.stands_in  # Postgres has none through views either
    if not cursor or not alone or view or not isinstance(placement, Sharded | Home):
        raise context.refuse("where-current-of", written.source.location)
    placed(context, EveryShard(), many_rows=True)
    return Single(AtCursor(cursor) if isinstance(placement, Sharded) else HomeShard(), writes=True)


def _route(context: Context, scope: Scope, written: Written, *, modifying: bool) -> Plan:
    placement, at = context.placement(written.relation), written.source.location
    if context.many and "CurrentOfExpr" in context.parsed.kinds:
        return _at_cursor(context, placement, written)
    if isinstance(placement, Reference) and context.many:
        if modifying:
            raise context.refuse("reference-write", at, table=written.relation.name if written.relation else "")
        return reference.plan(context, scope, written)
    if not isinstance(placement, Sharded) and sharded(scope):
        check_no_home(scope)
    target = one_shard(scope)
    if target is not None:
        if not isinstance(placement, Sharded):
            target = HomeShard()
        return Single(placed(context, target), writes=True)
    if modifying:
        raise context.refuse("modifying-cte", at)
    check_no_home(scope)
    placed(context, EveryShard(), many_rows=True)
    if context.parsed.kind == "MergeStmt":
        check_no_system_columns(context)
        return merge_into.plan(context, scope, written)
    returned = context.body.get("returningClause", {}).get("exprs", [])
    check_no_system_columns(context, table_names.meant_alike(context, returned))
    part = Spread(scope).level(written.level)
    return Scatter(target_of(written.level, part, scope), SumTags(), writes=True)
