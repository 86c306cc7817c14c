"""Groups that span shards: partial aggregates on each shard, combined by the proxy.

Decides which queries can be combined exactly: output columns that are grouping columns or bare aggregates of a short
list, over types whose partial values combine without loss. The rewritten text keeps the visible items in their places
(so numbers in GROUP BY stay right) and appends what the proxy reads besides; ORDER BY and LIMIT are the proxy's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from router.plan import Aggregate, AggregateColumn, AggregateKind, SortKey
from router.planner.clauses import Clauses, Edit, apply, verified
from router.planner.outputs import sort_outputs
from router.planner.types import SUMS, Type, extreme
from router.tree import Node, same

if TYPE_CHECKING:
    from router.planner.merge import Query
    from router.planner.outputs import Output, SortItem

_BOOLEAN = {"bool_and": AggregateKind.BOOL_AND, "every": AggregateKind.BOOL_AND, "bool_or": AggregateKind.BOOL_OR}
_BOOL, _INT8, _NUMERIC = 16, 20, 1700


@dataclass(slots=True)
class _Partial:
    """The rewrite under construction. ``appended``: texts behind the visible items; ``edits``: of visible items."""

    query: Query
    clauses: Clauses
    width: int
    appended: list[str] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    changed: set[int] = field(default_factory=set)

    def append(self, text: str) -> int:
        """Append a partial column; returns its index."""
        self.appended.append(text)
        return self.width + len(self.appended) - 1


def plan(query: Query) -> tuple[Aggregate, str]:
    """Return the combination and the text for the shards."""
    from router.planner.merge import limits  # noqa: PLC0415 - merge chooses this planner

    node = query.node
    if node.get("havingClause"):
        raise query.refuse("having", node["havingClause"])
    if "lockingClause" in node or node.get("groupDistinct"):
        raise query.refuse("aggregate")
    clauses = Clauses.of(query.context.parsed, node)
    outputs = query.outputs
    if clauses is None or outputs is None:
        raise query.refuse("rewrite")
    limit, offset = limits(query)
    partial = _Partial(query, clauses, len(outputs))
    groups = query.group_nodes()
    if node.get("distinctClause") is not None:
        groups = [output.node for output in outputs if output.node is not None]
    if any("GroupingSet" in group for group in groups):
        raise query.refuse("grouping-sets")
    columns = [_output(partial, index, output, groups) for index, output in enumerate(outputs)]
    group_columns = _groups(partial, groups, outputs, columns)
    order = _order(partial, groups, columns) if node.get("sortClause") else ()
    text = _text(partial)
    return Aggregate(tuple(columns), group_columns, len(outputs), order, limit, offset), text


def _text(partial: _Partial) -> str:
    query, clauses = partial.query, partial.clauses
    edits = [*partial.edits]
    if partial.appended:
        edits.append(clauses.append_targets(partial.appended))
    cut = clauses.cut_from("order")
    if cut is not None:
        edits.append(cut)
    text = apply(query.context.parsed.text, edits)
    if not verified(query.context.parsed, text, len(partial.appended), frozenset(partial.changed)):
        raise query.refuse("rewrite")
    return text


# --- output columns --------------------------------------------------------------------------------------------------


def _output(partial: _Partial, index: int, output: Output, groups: list[Node]) -> AggregateColumn:
    query = partial.query
    node = output.node or {}
    if any(_same_expression(query, node, group) for group in groups):
        text = output.text or _item_text(partial, output)
        return AggregateColumn(AggregateKind.GROUP, (partial.append(text), index), _group_type(query, node).oid)
    if "FuncCall" not in node:
        raise query.refuse("aggregate", node)
    return _aggregate(partial, node["FuncCall"], index, output)


def _same_expression(query: Query, one: Node, other: Node) -> bool:
    names = query.level.names
    left, right = names.column(one), names.column(other)
    if left is not None and right is not None:
        return left == right
    return same(one, other)


def _item_text(partial: _Partial, output: Output) -> str:
    targets = partial.query.node["targetList"]
    return partial.clauses.expression(targets[output.target], partial.clauses.target_tokens(targets)[output.target])


def _group_type(query: Query, node: Node) -> Type:
    found = query.types.of(node)
    if found is None or not found.groupable:
        raise query.refuse("group-by", node)
    return found


def _aggregate(partial: _Partial, call: Node, index: int | None, output: Output | None) -> AggregateColumn:
    """Plan one aggregate; ``index`` None: it is not visible and is appended."""
    query, clauses = partial.query, partial.clauses
    node = {"FuncCall": call}
    name = query.types.builtin(call)
    place = clauses.call(call["location"])
    if place is None or any(key in call for key in ("over", "agg_order", "agg_within_group", "func_variadic")):
        raise query.refuse("aggregate", node)
    arguments = call.get("args", [])
    inner = query.types.of(arguments[0]) if len(arguments) == 1 else None
    matters = call.get("agg_distinct") and name not in {"min", "max", *_BOOLEAN}
    if matters and not (len(arguments) == 1 and query.is_key(arguments[0])):
        raise query.refuse("aggregate-distinct", node)
    text = clauses.renamed_call(place, _written_name(partial, place))
    if name in {"min", "max"}:
        result = None if inner is None else extreme(inner)
        if result is None:
            raise query.refuse("aggregate", node)
        first = partial.append(text)
        return AggregateColumn(AggregateKind(name), (first,) if index is None else (first, index), result.oid)
    if name == "avg" and inner is not None and inner.oid in SUMS:
        return _average(partial, place, index, output)
    plain = _plain(name, inner)
    if plain is None:
        raise query.refuse("aggregate", node)
    return AggregateColumn(plain[0], (partial.append(text) if index is None else index,), plain[1])


def _plain(name: str, inner: Type | None) -> tuple[AggregateKind, int] | None:
    """Return kind and result type of an aggregate whose partial values are of its own type."""
    if name == "count":
        return AggregateKind.COUNT, _INT8
    if name in _BOOLEAN:
        return _BOOLEAN[name], _BOOL
    if name == "sum" and inner is not None and inner.oid in SUMS:
        return AggregateKind.SUM, SUMS[inner.oid]
    return None


def _written_name(partial: _Partial, place: tuple[int, int, int]) -> str:
    tokens, text = partial.query.context.parsed.tokens, partial.query.context.parsed.text
    return text[tokens[place[0]].start : tokens[place[1] - 1].end]


def _average(
    partial: _Partial, place: tuple[int, int, int], index: int | None, output: Output | None
) -> AggregateColumn:
    """Exact numeric division of all sums by all counts; the count stands in the average's place and has its name."""
    clauses = partial.clauses
    sums = partial.append(clauses.renamed_call(place, "pg_catalog.sum"))
    counted = clauses.renamed_call(place, "pg_catalog.count")
    if index is None or output is None:
        return AggregateColumn(AggregateKind.AVG, (sums, partial.append(counted)), _NUMERIC)
    tokens = clauses.parsed.tokens
    target = partial.query.node["targetList"][output.target]
    alias = "" if "name" in target["ResTarget"] else ' AS "avg"'
    partial.edits.append(Edit(tokens[place[0]].start, tokens[place[2] - 1].end, counted + alias))
    partial.changed.add(output.target)
    return AggregateColumn(AggregateKind.AVG, (sums, index), _NUMERIC)


# --- groups and order ------------------------------------------------------------------------------------------------


def _groups(
    partial: _Partial, groups: list[Node], outputs: list[Output], columns: list[AggregateColumn]
) -> tuple[int, ...]:
    """Return the partial columns that identify a group; those that are not visible are appended."""
    query, found = partial.query, []
    for group in groups:
        visible = [
            column.inputs[0]
            for output, column in zip(outputs, columns, strict=False)
            if column.kind is AggregateKind.GROUP and _same_expression(query, output.node or {}, group)
        ]
        if visible:
            found.append(visible[0])
            continue
        type_ = _group_type(query, group)
        if "ColumnRef" not in group:
            raise query.refuse("group-by", group)
        at = partial.append(_column_text(group))
        columns.append(AggregateColumn(AggregateKind.GROUP, (at,), type_.oid))
        found.append(at)
    return tuple(dict.fromkeys(found))


def _column_text(node: Node) -> str:
    parts = [part["String"]["sval"] for part in node["ColumnRef"]["fields"]]
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def _order(partial: _Partial, groups: list[Node], columns: list[AggregateColumn]) -> tuple[SortKey, ...]:
    query, found = partial.query, []
    for item in sort_outputs(query, partial.clauses):
        position = item.output if item.output is not None else _hidden(partial, item, groups, columns)
        if item.type is None or not item.type.sortable:
            raise query.refuse("order-by", item.node)
        found.append(SortKey(position, columns[position].type_oid, item.descending, item.nulls_first))
    return tuple(found)


def _hidden(partial: _Partial, item: SortItem, groups: list[Node], columns: list[AggregateColumn]) -> int:
    """Add an output column that is not visible, to sort by."""
    query = partial.query
    if any(_same_expression(query, item.node, group) for group in groups):
        at = partial.append(item.text)
        columns.append(AggregateColumn(AggregateKind.GROUP, (at,), _group_type(query, item.node).oid))
    elif "FuncCall" in item.node:
        columns.append(_aggregate(partial, item.node["FuncCall"], None, None))
    else:
        raise query.refuse("order-by", item.node)
    return len(columns) - 1
