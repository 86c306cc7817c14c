"""SELECT: one shard if all keys agree, else parts of it on several shards (:mod:`router.planner.merge`).

Decides the tier. Leaves to others what the rows of several shards become.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.errors import Refused
from router.plan import AnyShard, HomeShard, Single, Statement
from router.planner import gather, locking_copies, merge, views
from router.planner.dml import modifying_levels
from router.planner.names import Place
from router.planner.placing import check_locks, check_reads, locks, placed
from router.planner.scope import Scope
from router.planner.spread import one_shard, sharded

if TYPE_CHECKING:
    from router.plan import Plan
    from router.planner.context import Context
    from router.relation import Relation


def plan(context: Context) -> Statement:
    """Plan a SELECT, VALUES or TABLE."""
    body = context.body
    if _into(body) is not None:
        from router.planner import creating  # noqa: PLC0415 - it plans a SELECT

        return creating.select_into(context)
    known = views.expanded(context)
    if known is not None:
        return _over_views(context, *known)
    return _plan(context)


def _over_views(context: Context, inner: Context, found: tuple[Relation, ...]) -> Statement:
    """Plan a statement by its text with views expanded; where that would be rewritten, its rows are gathered."""
    return (
        views.restored(context, _plan(inner), found)
        or views.restored(context, _plan(inner, combining=False), found)
        or _plan(context)
    )


def _plan(context: Context, *, combining: bool = True) -> Statement:
    body = context.body
    scope = Scope(context)
    level = scope.select(body)
    modifying = modifying_levels(scope)
    scope.check_complete()
    check_reads(context, scope)
    writes = context.whole_effect.writes or locks(context) or modifying
    mixed = bool(sharded(scope)) and any(source.place is Place.HOME for source in scope.sources)
    target = None if mixed else one_shard(scope)
    if not isinstance(target, AnyShard | HomeShard):
        check_locks(context, scope)
    copies = None
    if isinstance(target, AnyShard | HomeShard) and not modifying:
        copies = locking_copies.plan(context, scope)
    if copies is not None:
        return context.statement(copies, "SELECT", returns_rows=True, **context.flags)
    if target is not None:
        return context.statement(
            Single(placed(context, target, modifying=modifying), writes), "SELECT", returns_rows=True, **context.flags
        )
    if modifying:
        raise context.refuse("modifying-cte", scope.modifying[0].node.get("location"))
    try:
        if not combining:
            raise context.refuse("rewrite")
        found: Plan = merge.plan(context, scope, level, writes=writes)
    except Refused as refused:
        found = gather.plan(context, scope, refused.refusal)
    return context.statement(found, "SELECT", returns_rows=True, **context.flags)


def _into(body: dict[str, object]) -> object:
    """Return the INTO clause, which the grammar puts on the leftmost arm."""
    node = body
    while isinstance(node.get("larg"), dict):
        node = node["larg"]  # type: ignore[assignment]
    return node.get("intoClause")
