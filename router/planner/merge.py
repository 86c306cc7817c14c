"""Reads over several shards: placeholder that concatenates."""
from __future__ import annotations
from typing import TYPE_CHECKING
from router.plan import Concat, Plan, Scatter, EveryShard
from router.planner.spread import Spread, target_of, check_no_home
if TYPE_CHECKING:
    from router.planner.context import Context
    from router.planner.names import Level
    from router.planner.scope import Scope


def plan(context: Context, scope: Scope, level: Level, *, writes: bool) -> Plan:
    """Concatenate."""
    from router.planner.select import check_no_system_columns, placed
    placed(context, EveryShard(), many_rows=True)
    check_no_system_columns(context)
    check_no_home(scope)
    node = level.node
    if level.arms or any(k in node for k in ("sortClause", "limitCount", "limitOffset", "distinctClause", "groupClause", "havingClause", "windowClause")):
        raise context.refuse("cross-shard")
    effect = context.effect(node.get("targetList"))
    if effect.aggregate or effect.window:
        raise context.refuse("cross-shard")
    part = Spread(scope).level(level)
    return Scatter(target_of(level, part, scope), Concat(), writes)
