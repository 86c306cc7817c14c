"""Output columns and ORDER BY items of a level: what they are and how to write them once more.

Decides how a name or a number in ORDER BY is read: an output column's name comes first, then input columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from router.planner.names import Level, Names, star_columns
from router.tree import Node, constant, same, strings

if TYPE_CHECKING:
    from router.keys import ColumnId
    from router.planner.clauses import Clauses
    from router.planner.merge import Query
    from router.planner.types import Type


@dataclass(frozen=True, slots=True)
class Output:
    """One output column. ``target``: index of its item in the target list; ``text``: only for those that ``*`` made."""

    name: str
    target: int
    node: Node | None
    column: ColumnId | None
    text: str = ""


@dataclass(frozen=True, slots=True)
class SortItem:
    """One ORDER BY item, as an expression for the target list. ``output``: its output column, if it is one."""

    node: Node
    text: str
    type: Type | None
    descending: bool
    nulls_first: bool
    output: int | None = None


def expand(level: Level) -> list[Output] | None:
    """Return the output columns with ``*`` expanded, None when not all columns are known."""
    found: list[Output] = []
    for index, target in enumerate(level.node.get("targetList", ())):
        body = target["ResTarget"]
        value = body.get("val", {})
        fields = strings(value.get("ColumnRef", {}).get("fields"))
        if "A_Indirection" in value and any("A_Star" in part for part in value["A_Indirection"].get("indirection", ())):
            return None
        if fields[-1:] == ("*",):
            starred = _star(level.names, fields, index)
            if starred is None:
                return None
            found.extend(starred)
            continue
        name = body.get("name") or (fields[-1] if fields else _implicit_name(value))
        found.append(Output(name, index, value, level.names.column(value)))
    return found


def _star(names: Names, fields: tuple[str, ...], index: int) -> list[Output] | None:
    columns = star_columns(names, fields)
    if columns is None or (len(fields) == 1 and len({name for name, _ in columns}) != len(columns)):
        return _ambiguous_star(names, fields, index)
    prefix = f"{_quoted(fields[-2])}." if len(fields) > 1 else ""
    return [
        Output(name, index, _reference(*fields[:-1], name), column, prefix + _quoted(name)) for name, column in columns
    ]


def _ambiguous_star(names: Names, fields: tuple[str, ...], index: int) -> list[Output] | None:
    """``*`` over tables that share column names: each column is written with its table's name."""
    if len(fields) != 1 or names.merged or any(item.columns is None or not item.alias for item in names.visible):
        return None
    return [
        Output(name, index, _reference(item.alias, name), column, f"{_quoted(item.alias)}.{_quoted(name)}")
        for item in names.visible
        for name, column in (item.columns or {}).items()
    ]


def _reference(*parts: str) -> Node:
    return {"ColumnRef": {"fields": [{"String": {"sval": part}} for part in parts]}}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _implicit_name(value: Node) -> str:
    """Return the name that Postgres gives an expression, as far as ORDER BY could mean it."""
    if "FuncCall" in value:
        return strings(value["FuncCall"].get("funcname"))[-1]
    if "TypeCast" in value:
        inner = value["TypeCast"]["arg"]
        fields = strings(inner.get("ColumnRef", {}).get("fields"))
        return fields[-1] if fields else strings(value["TypeCast"]["typeName"].get("names"))[-1]
    if "CoalesceExpr" in value:
        return "coalesce"
    if "CaseExpr" in value:
        return "case"
    return "?column?"


def plain_order(node: Node) -> bool:
    """Whether there is an ORDER BY (without LIMIT it means nothing inside a set operation)."""
    return bool(node.get("sortClause"))


def sort_outputs(query: Query, clauses: Clauses) -> list[SortItem]:
    """Read ORDER BY."""
    texts = clauses.sort_texts()
    sorts = query.node.get("sortClause", [])
    if len(texts) != len(sorts):
        raise query.refuse("rewrite")
    return [_sort_item(query, clauses, entry["SortBy"], text) for entry, text in zip(sorts, texts, strict=True)]


def _sort_item(query: Query, clauses: Clauses, body: Node, text: str) -> SortItem:
    node = body["node"]
    direction, nulls = body.get("sortby_dir", "SORTBY_DEFAULT"), body.get("sortby_nulls", "SORTBY_NULLS_DEFAULT")
    if direction == "SORTBY_USING":
        raise query.refuse("order-by", node)
    descending = direction == "SORTBY_DESC"
    nulls_first = descending if nulls == "SORTBY_NULLS_DEFAULT" else nulls == "SORTBY_NULLS_FIRST"
    output = _output_of(query, node)
    if output is not None and output.node is not None:
        node, text = output.node, output.text or _target_text(query, clauses, output)
    position = (query.outputs or []).index(output) if output is not None else _same_output(query, node)
    return SortItem(node, text, query.types.of(node), descending, nulls_first, position)


def _output_of(query: Query, node: Node) -> Output | None:
    literal = constant(node)
    if literal is not None:
        if literal[0] != "integer":
            raise query.refuse("order-by", node)
        found = query.output_at(literal[1])
        if found is None:
            raise query.refuse("order-by", node)
        return found
    return query.output_named(node) if "ColumnRef" in node else None


def _same_output(query: Query, node: Node) -> int | None:
    for index, output in enumerate(query.outputs or ()):
        if output.node is not None and same(output.node, node):
            return index
    return None


def _target_text(query: Query, clauses: Clauses, output: Output) -> str:
    targets = query.node["targetList"]
    return clauses.expression(targets[output.target], clauses.target_tokens(targets)[output.target])
