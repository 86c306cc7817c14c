"""``tableoid`` over several shards: the number is each server's own, the name that it stands for is not.

Decides where a statement uses it so that all shards mean the same: as a text (``tableoid::regclass::text``), beside the
name of a table (``tableoid = 'orders_2024'::regclass``), and as a column of the answer that nothing is ordered, grouped
or joined by (``SELECT tableoid::regclass, ...``), which is printed by name. Everywhere else it is refused, and wherever
rows are copied before they are answered: the copy has a number of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.cluster import Reference, Sharded
from router.functions import identifier
from router.tree import constant, strings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from router.planner.context import Context
    from router.tree import Node

NAME: Final = "tableoid"
_EQUALITIES: Final = frozenset({("=",), ("<>",)})


def meant_alike(context: Context, shown: list[Node]) -> dict[int, bool]:
    """Return the ColumnRefs (by id) that mean the same on all shards; true for those that are columns of the answer.

    ``shown``: the select list, or RETURNING's.
    """
    if not any(_is_tableoid({kind: body}) for kind, body in context.parsed.nodes):
        return {}
    found = dict.fromkeys(_named(context), False)
    if not _orders_by_it(context, shown):
        for target in shown:
            value = target["ResTarget"].get("val", {})
            column = _column(context, value) if "TypeCast" in value else None
            if column is not None:
                found[id(column)] = True
    return found


def _named(context: Context) -> Iterator[int]:
    """Yield those that are texts, or beside the name of a table."""
    for kind, body in context.parsed.nodes:
        if kind == "TypeCast" and _casts(context, body, "text"):
            inner = body["arg"].get("TypeCast", {})
            if inner and _casts(context, inner, "regclass") and _is_tableoid(inner["arg"]):
                yield id(inner["arg"]["ColumnRef"])
        elif kind == "A_Expr" and body.get("kind") == "AEXPR_OP" and strings(body.get("name")) in _EQUALITIES:
            sides = [body.get("lexpr", {}), body.get("rexpr", {})]
            for one, other in (sides, sides[::-1]):
                column = _column(context, one)
                if column is not None and _is_name(context, other):
                    yield id(column)


def _orders_by_it(context: Context, shown: list[Node]) -> bool:
    """Whether rows are ordered or told apart by what is in the answer."""
    node = context.body
    if "distinctClause" in node or "groupClause" in node or "larg" in node:
        return True
    own = {target["ResTarget"].get("name", NAME) for target in shown if NAME in str(target)}
    for item in node.get("sortClause", ()):
        fields = strings(item["SortBy"]["node"].get("ColumnRef", {}).get("fields"))
        if not fields or fields[-1] in own or fields[-1] == NAME:
            return True
    return False


def _column(context: Context, node: Node) -> Node | None:
    """Return the ColumnRef of ``tableoid`` or ``tableoid::regclass``."""
    if "TypeCast" in node and _casts(context, node["TypeCast"], "regclass"):
        node = node["TypeCast"]["arg"]
    return node["ColumnRef"] if _is_tableoid(node) else None


def _is_name(context: Context, node: Node) -> bool:
    cast = node.get("TypeCast", {})
    literal = constant(cast["arg"]) if cast and _casts(context, cast, "regclass") else None
    parts = identifier(str(literal[1])) if literal is not None and literal[0] == "string" else None
    found = context.catalog.resolve(parts, context.search_path) if parts else None
    if found is None:
        return False  # a number, or nothing: each shard would have its own word
    return isinstance(context.catalog.effective_placement(found), Sharded | Reference)


def _casts(context: Context, cast: Node, name: str) -> bool:
    kind = cast.get("typeName", {})
    names = strings(kind.get("names"))
    own = names[:-1] != ("pg_catalog",) and (len(names) != 1 or context.reader.types_hidden)
    return names[-1:] == (name,) and not own and "arrayBounds" not in kind


def _is_tableoid(node: Node) -> bool:
    return strings(node.get("ColumnRef", {}).get("fields"))[-1:] == (NAME,)
