"""SELECT: one shard if all keys agree, else parts of it on several shards (:mod:`router.planner.merge`).

Decides the tier. Leaves to others what the rows of several shards become.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.effect import Runs
from router.plan import AnyShard, HomeShard, Single, Statement, Target
from router.planner import merge
from router.planner.dml import modifying_levels
from router.planner.names import Place
from router.planner.scope import Scope
from router.planner.spread import one_shard
from router.tree import strings, walk

if TYPE_CHECKING:
    from router.planner.context import Context


def plan(context: Context) -> Statement:
    """Plan a SELECT, VALUES or TABLE."""
    body = context.body
    if _into(body) is not None:
        from router.planner import ddl  # noqa: PLC0415 - SELECT INTO is CREATE TABLE AS

        return ddl.select_into(context)
    scope = Scope(context)
    level = scope.select(body)
    modifying = modifying_levels(scope)
    scope.check_complete()
    check_reads(context, scope)
    writes = context.whole_effect.writes or locks(context) or modifying
    target = one_shard(scope)
    if target is not None:
        return context.statement(
            Single(placed(context, target, modifying=modifying), writes), "SELECT", returns_rows=True, **context.flags
        )
    if modifying:
        raise context.refuse("modifying-cte", scope.modifying[0].node.get("location"))
    return context.statement(merge.plan(context, scope, level, writes=writes), "SELECT", returns_rows=True, **context.flags)


def placed(context: Context, target: Target, *, modifying: bool = False, many_rows: bool = False) -> Target:
    """Take the home shard where functions or writes need it; refuse functions that cannot run where the rows are.

    ``many_rows``: over several shards, where a function that is vouched for as local would see parts of its tables.
    """
    runs = context.whole_effect.runs
    if isinstance(target, AnyShard):
        if runs is Runs.LOCAL:
            raise context.refuse("function-local", detail=context.whole_effect.reason)
        if runs is Runs.ANYWHERE and not modifying and not locks(context):
            return target
        return HomeShard()
    if isinstance(target, HomeShard) or not context.many:
        return target
    if runs is Runs.LOCAL and many_rows:
        raise context.refuse("function-local", detail=context.whole_effect.reason)
    if runs is Runs.HOME:
        raise context.refuse("function-home", detail=context.whole_effect.reason)
    return target


def check_reads(context: Context, scope: Scope) -> None:
    """Refuse tables whose policies or rules reach rows elsewhere."""
    for source in scope.sources:
        if source.place in {Place.SHARDED, Place.REFERENCE, Place.HOME}:
            context.check_access(source.relation, write=False, at=source.location)


_SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})


def check_no_system_columns(context: Context) -> None:
    """Refuse columns whose values mean something on one shard only."""
    for kind, body in walk({context.parsed.kind: context.body}):
        name = strings(body.get("fields"))[-1:] if kind == "ColumnRef" else ()
        if name and name[0] in _SYSTEM_COLUMNS:
            raise context.refuse("system-columns", body.get("location"), name=name[0])


def locks(context: Context) -> bool:
    """Whether there is a FOR UPDATE or its like anywhere."""
    return any(kind == "LockingClause" for kind, _ in walk({context.parsed.kind: context.body}))


def _into(body: dict[str, object]) -> object:
    """Return the INTO clause, which the grammar puts on the leftmost arm."""
    node = body
    while isinstance(node.get("larg"), dict):
        node = node["larg"]  # type: ignore[assignment]
    return node.get("intoClause")
