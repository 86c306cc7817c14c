"""Types that a list of values does not tell: what is asked first comes back as base types, and a domain is more.

Decides which columns of a subquery have a domain, what casts bring it back, and whether a statement could notice that
one is missing: by ``pg_typeof``, or by functions and operators of users, which may be others for a domain. What
collations are lost is seen in :mod:`router.planner.asking_rows`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.tree import strings

if TYPE_CHECKING:
    from router.planner.context import Context
    from router.relation import Column


def is_domain(column: Column) -> bool:
    """Whether a column's type is a domain."""
    return column.base_type_oid not in {0, column.type_oid}


def shows_types(context: Context) -> bool:
    """Whether a statement may mean something else where a value has a domain's base type."""
    calls = (body for kind, body in context.parsed.nodes if kind == "FuncCall")
    return context.whole_effect.user_defined or any(strings(call.get("funcname"))[-1] == "pg_typeof" for call in calls)


def may_have_domain(context: Context) -> bool:
    """Whether what a query computes may be of a domain: it names a column of one, casts to one, or calls somebody's."""
    nodes = context.parsed.nodes
    if not any(kind.kind == "d" for kind in context.catalog.types):
        return False
    if context.whole_effect.user_defined:
        return True
    if any(kind == "TypeName" and strings(body.get("names"))[:1] != ("pg_catalog",) for kind, body in nodes):
        return True
    named = {strings(body["fields"])[-1] for kind, body in nodes if kind == "ColumnRef"}
    relations = [context.relation(body) for kind, body in nodes if kind == "RangeVar"]
    columns = [column for relation in relations if relation is not None for column in relation.columns]
    return any(is_domain(column) and not named.isdisjoint((column.name, "*")) for column in columns)
