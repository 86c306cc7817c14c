"""Checks that every planner of data makes: that its functions may run, and its tables be read, where its rows are.

Decides nothing about routes; takes a target and refuses it, or moves what could run anywhere to the home shard.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from router.effect import Runs
from router.plan import AnyShard, HomeShard, Target
from router.planner.names import Place
from router.tree import strings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from router.planner.context import Context
    from router.planner.scope import Scope


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


_READ = frozenset({Place.SHARDED, Place.REFERENCE, Place.HOME})


def check_reads(context: Context, scope: Scope) -> None:
    """Refuse tables whose policies or rules reach rows elsewhere."""
    for source in scope.sources:
        if source.place in _READ:
            context.check_access(source.relation, write=False, at=source.location)


NOTHING_ALIKE: Final[Mapping[int, bool]] = MappingProxyType({})
_SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})


def check_no_system_columns(context: Context, alike: Mapping[int, bool] = NOTHING_ALIKE) -> None:
    """Refuse columns whose values mean something on one shard only; not those that are ``alike`` (by id)."""
    for kind, body in context.parsed.nodes:
        name = strings(body.get("fields"))[-1:] if kind == "ColumnRef" else ()
        if name and name[0] in _SYSTEM_COLUMNS and id(body) not in alike:
            raise context.refuse("system-columns", body.get("location"), name=name[0])


def locks(context: Context) -> bool:
    """Whether there is a FOR UPDATE or its like anywhere."""
    return "LockingClause" in context.parsed.kinds


EXCLUSIVE = frozenset({"LCS_FORUPDATE", "LCS_FORNOKEYUPDATE"})


def check_locks(context: Context, scope: Scope) -> None:
    """Refuse an exclusive row lock on one copy of a reference table: a locker of another copy would not wait for it.

    Shared locks are right on any copy, because a writer changes all of them.
    """
    for kind, body in context.parsed.nodes:
        if kind != "LockingClause" or body.get("strength") not in EXCLUSIVE:
            continue
        named = {item["RangeVar"]["relname"] for item in body.get("lockedRels", ())}
        for source in scope.sources:
            if source.place is Place.REFERENCE and (not named or source.alias in named):
                name = source.relation.name if source.relation is not None else ""
                raise context.refuse("reference-lock", source.location, table=name)
