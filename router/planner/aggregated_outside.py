"""Aggregates that stand in a subquery and belong to the query around it.

``SELECT (SELECT count(*) FROM y WHERE y.id = max(x.id)) FROM x`` has one row: Postgres computes an aggregate where the
nearest of its columns comes from. Decides only whether a level has such calls below it; what is not seen to belong
to a subquery is taken for one. What becomes of the level is left to :mod:`router.planner.merge`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from router.tree import JSON_AGGREGATES, strings, walk

if TYPE_CHECKING:
    from router.planner.context import Context
    from router.planner.names import Level, Names
    from router.planner.scope import Scope
    from router.tree import Node

_CLAUSES = ("targetList", "havingClause", "sortClause", "windowClause", "distinctClause")
_CALLS = JSON_AGGREGATES | {"FuncCall"}


def found(context: Context, scope: Scope, level: Level) -> Node | None:
    """Return an aggregate in a subquery of this level that this level, or one around it, would compute."""
    if "SubLink" not in context.parsed.kinds:
        return None
    search = _Search(context, scope, level.names)
    return next((call for clause in _CLAUSES if (call := search.below(level.node.get(clause), level.names))), None)


@dataclass(slots=True)
class _Search:
    """Looks below a level whose names are ``outside``."""

    context: Context
    scope: Scope
    outside: Names

    def below(self, value: Any, names: Names) -> Node | None:
        """Return the first such aggregate below a node; ``names`` are those of the query that the node stands in."""
        if isinstance(value, list):
            return next((call for item in value if (call := self.below(item, names))), None)
        if not isinstance(value, dict):
            return None
        names = self.scope.names_of.get(id(value), names)
        for kind in _CALLS & value.keys() if names is not self.outside else ():
            call = value[kind]
            if isinstance(call, dict) and self._leaves(kind, call, names):
                return call
        return next((call for item in value.values() if (call := self.below(item, names))), None)

    def _leaves(self, kind: str, call: Node, names: Names) -> bool:
        if "over" in call.get("constructor", call):
            return False
        if kind == "FuncCall" and not self.context.call_effect(call).aggregate:
            return False
        columns = [strings(body.get("fields")) for of, body in walk({kind: call}) if of == "ColumnRef"]
        return bool(columns) and not any(self._stays(parts, names) for parts in columns)

    def _stays(self, parts: tuple[str, ...], names: Names) -> bool:
        """Whether a query between the level and the call has this column."""
        unsure = False
        inner: Names | None = names
        while inner is not None and inner is not self.outside:
            owns = inner.owns(parts)
            if owns:
                return True
            unsure = unsure or owns is None
            inner = inner.outer
        while unsure and inner is not None:
            if inner.owns(parts) is not False:
                return False
            inner = inner.outer
        return unsure
