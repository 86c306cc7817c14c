"""One condition -> which columns have one of which values, and which operands are equal.

Decides what ``=``, IN, ANY, comparisons of rows, and ORs of these say about each column. Leaves to
:mod:`router.planner.scope` where a condition holds, and to :class:`router.keys.Reader` which operands are values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from router.tree import conjuncts, items, unwrap

if TYPE_CHECKING:
    from collections.abc import Iterable

    from router.keys import ColumnId, Reader
    from router.plan import RoutingTerm
    from router.planner.names import Names
    from router.tree import Node

Values = dict["ColumnId", tuple["RoutingTerm", ...]]


@dataclass(slots=True)
class Said:
    """What a condition says: ``values`` that columns can have, and pairs of columns that are the ``same``."""

    values: Values = field(default_factory=dict)
    same: list[tuple[ColumnId, ColumnId]] = field(default_factory=list)


def said(reader: Reader, node: Node, names: Names) -> Said:
    """Return what holds where a condition (no AND) holds; what is not said for certain is not there."""
    found = Said()
    kind, body = unwrap(node)
    if kind == "BoolExpr" and body.get("boolop") == "OR_EXPR":
        arms = [_of_all(said(reader, part, names).values for part in conjuncts(arm)) for arm in body["args"]]
        found.values = _of_any(arms)
    elif kind == "A_Expr" and reader.is_equality(body.get("name", [])):
        left, right = body.get("lexpr", {}), body.get("rexpr", {})
        if body["kind"] == "AEXPR_OP":
            _equal(reader, left, right, names, found)
        elif body["kind"] == "AEXPR_IN" and "RowExpr" in left:
            found.values = _of_rows(reader, left["RowExpr"].get("args", []), items(right), names)
        elif body["kind"] in {"AEXPR_IN", "AEXPR_OP_ANY"}:
            column = names.column(left)
            if column is None or column.family is None:
                return found
            by_list = body["kind"] == "AEXPR_IN"
            terms = reader.list_terms(items(right), column.family) if by_list else reader.terms(right, column.family)
            if terms is not None:
                found.values[column] = terms
    return found


def _equal(reader: Reader, left: Node, right: Node, names: Names, found: Said) -> None:
    """``=``, rows taken apart."""
    if "RowExpr" in left and "RowExpr" in right:
        for one, other in zip(left["RowExpr"].get("args", ()), right["RowExpr"].get("args", ()), strict=False):
            _equal(reader, one, other, names, found)
        return
    column, other = names.column(left), names.column(right)
    if column is not None and other is not None:
        if column.family == other.family is not None:
            found.same.append((column, other))
        return
    column, value = (column, right) if column is not None else (other, left)
    if column is not None and column.family is not None and value:
        term = reader.term(value, column.family)
        if term is not None:
            found.values.setdefault(column, (term,))


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


def _of_all(conditions: Iterable[Values]) -> Values:
    """Conditions that hold together: what the first of them says about a column."""
    found: Values = {}
    for values in conditions:
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
