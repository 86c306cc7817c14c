"""One condition -> which columns have one of which values, and which operands are equal.

Decides what ``=``, IN, ANY, comparisons of rows, and ORs of these say about each column. Leaves to
:mod:`router.planner.scope` where a condition holds, and to :class:`router.keys.Reader` which operands are values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.tree import conjuncts, items, unwrap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from router.keys import ColumnId, Reader
    from router.plan import RoutingTerm
    from router.planner.names import Names
    from router.tree import Node

Values = dict["ColumnId", tuple["RoutingTerm", ...]]


def equalities(reader: Reader, node: Node) -> Iterator[tuple[Node, Node]]:
    """Yield the pairs of operands that are equal where a condition holds: of ``=``, rows taken apart."""
    kind, body = unwrap(node)
    if kind != "A_Expr" or body.get("kind") != "AEXPR_OP" or not reader.is_equality(body.get("name", [])):
        return
    left, right = body.get("lexpr", {}), body.get("rexpr", {})
    if "RowExpr" in left and "RowExpr" in right:
        pairs = zip(left["RowExpr"].get("args", ()), right["RowExpr"].get("args", ()), strict=False)
        for one, other in pairs:
            yield from equalities(reader, {"A_Expr": {**body, "lexpr": one, "rexpr": other}})
    else:
        yield left, right


def values_of(reader: Reader, node: Node, names: Names) -> Values:
    """Return the values that columns can have where a condition (no AND) holds; what is not said is not there."""
    kind, body = unwrap(node)
    if kind == "BoolExpr" and body.get("boolop") == "OR_EXPR":
        return _of_any([_of_all([values_of(reader, part, names) for part in conjuncts(arm)]) for arm in body["args"]])
    found: Values = {}
    for left, right in equalities(reader, node):
        column, value = names.column(left), right
        if column is None:
            column, value = names.column(right), left
        term = reader.term(value, column.family) if column is not None and column.family is not None and value else None
        if column is not None and term is not None:
            found.setdefault(column, (term,))
    if kind != "A_Expr" or not reader.is_equality(body.get("name", [])):
        return found
    left, right = body.get("lexpr", {}), body.get("rexpr", {})
    if body["kind"] == "AEXPR_IN" and "RowExpr" in left:
        return _of_rows(reader, left["RowExpr"].get("args", []), items(right), names)
    column = names.column(left)
    if column is not None and column.family is not None and body["kind"] in {"AEXPR_IN", "AEXPR_OP_ANY"}:
        by_list = body["kind"] == "AEXPR_IN"
        terms = reader.list_terms(items(right), column.family) if by_list else reader.terms(right, column.family)
        if terms is not None:
            found[column] = terms
    return found


def _of_rows(reader: Reader, columns: list[Node], rows: list[Node], names: Names) -> Values:
    """``(a, b) IN ((1, 2), (3, 4))``."""
    found: Values = {}
    values = [row.get("RowExpr", {}).get("args", []) for row in rows]
    if any(len(row) != len(columns) for row in values):
        return found
    for position, node in enumerate(columns):
        column = names.column(node)
        if column is None or column.family is None:
            continue
        terms = reader.list_terms([row[position] for row in values], column.family)
        if terms is not None:
            found[column] = terms
    return found


def _of_all(said: Iterable[Values]) -> Values:
    """Conditions that hold together: what the first of them says about a column."""
    found: Values = {}
    for values in said:
        for column, terms in values.items():
            found.setdefault(column, terms)
    return found


def _of_any(arms: list[Values]) -> Values:
    """Conditions of which one holds: the columns of which each says something."""
    return {
        column: tuple(dict.fromkeys(term for arm in arms for term in arm[column]))
        for column in arms[0]
        if all(column in arm for arm in arms)
    }
