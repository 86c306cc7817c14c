"""Subqueries that are nothing but constants: VALUES, SELECT without FROM, UNIONs of these.

Decides of which key's family each of their columns is, by the rules that Postgres finds its type by, and which values
it has. What it is not sure of has no family, and routes nothing.

https://www.postgresql.org/docs/18/typeconv-union-case.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from router.keys import INTEGER, TEXT, UUID
from router.plan import Constant
from router.tree import constant, items, strings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from router.keys import Reader
    from router.plan import KeyTerm
    from router.tree import Node

_UNKNOWN: Final = frozenset({"string", "null"})  # literals that take the type of the others, or text


@dataclass(frozen=True, slots=True)
class ConstantColumn:
    """A column of constants. ``terms``: its values; None where they cannot be read, or one is NULL."""

    family: str | None = None
    terms: tuple[KeyTerm, ...] | None = None


def constant_columns(reader: Reader, node: Node) -> list[ConstantColumn] | None:
    """Return the columns of a subquery that reads no table; None for any other."""
    rows = _rows(node)
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        return None
    return [_column(reader, column) for column in zip(*rows, strict=True)]


def _rows(node: Node) -> list[list[Node]] | None:
    if node.get("op", "SETOP_NONE") != "SETOP_NONE":
        left, right = _rows(node["larg"]), _rows(node["rarg"])
        return None if node["op"] != "SETOP_UNION" or left is None or right is None else left + right
    if "fromClause" in node:
        return None
    if "valuesLists" in node:
        return [items(row) for row in node["valuesLists"]]
    row = [target["ResTarget"].get("val", {}) for target in node.get("targetList", ())]
    starred = any(strings(value.get("ColumnRef", {}).get("fields"))[-1:] == ("*",) for value in row)
    return None if starred or not row else [row]


def _column(reader: Reader, values: Sequence[Node]) -> ConstantColumn:
    for family in (INTEGER, UUID, TEXT):
        terms = [term for value in values if (term := reader.term(value, family)) is not None]
        if len(terms) < len(values) or (family != TEXT and all(_untyped(reader, value) for value in values)):
            continue
        known = None if Constant(None) in terms else tuple(dict.fromkeys(terms))
        return ConstantColumn(family, known)
    return ConstantColumn()


def _untyped(reader: Reader, node: Node) -> bool:
    """Whether a value takes its type from the others in its column."""
    if "ParamRef" in node:
        number = node["ParamRef"].get("number", 0)
        return number > len(reader.parameter_oids) or reader.parameter_oids[number - 1] in {0, 705}
    literal = constant(node)
    return literal is not None and literal[0] in _UNKNOWN
