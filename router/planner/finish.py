"""SELECT finished by Postgres: each shard groups or sorts its rows, and what it sends is combined on a scratch link.

Decides which queries are exact in two steps where the proxy itself cannot compare or compute: groups by any type and
expression, HAVING, expressions over aggregates, DISTINCT aggregates, orders under any collation, WITH TIES. A partial
aggregate of each shard's groups is combined by an aggregate over the partial ones; rows that a shard sorted and cut are
sorted and cut again. What is not sure (None) is gathered whole.

Requires what :mod:`router.planner.spread` found: no join crosses shards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from router.errors import Refused, SyntaxFailure
from router.plan import Gather, Load
from router.planner.clauses import Clauses, apply
from router.planner.outputs import Output, sort_outputs
from router.planner.pushed import known_parameters
from router.planner.types import FLOAT8, INTERVAL, SUMS
from router.printer import Printer, Unwritten, expression, quoted
from router.statement import parse
from router.tree import constant, same, strings, walk

if TYPE_CHECKING:
    from router.plan import Target
    from router.planner.merge import Query
    from router.tree import Node

_TABLE: Final = "pgchorus_1"
_ALIAS: Final = '"pgchorus"'
_LARGEST: Final = (1 << 63) - 1
_SAME: Final = frozenset({"min", "max", "bool_and", "bool_or", "every", "bit_and", "bit_or", "bit_xor", "any_value"})
"""Aggregates that combine their own partial values."""
_DISTINCT: Final = frozenset({"count", "sum", "avg", "string_agg", "array_agg", "json_agg", "jsonb_agg"})


class _Unsure(Exception):  # noqa: N818 - named for what it says
    """The query is not one of those that are sure."""


def plan(query: Query, target: Target, reason: str) -> Gather | None:
    """Plan a query in two steps; ``reason``: what the proxy has against doing it itself. None: it is not sure."""
    node = query.node
    if any(name in node for name in ("withClause", "lockingClause", "windowClause", "intoClause", "groupDistinct")):
        return None
    clauses = Clauses.of(query.context.parsed, node)
    if clauses is None or query.outputs is None or "from" not in clauses.starts or not _plain_types(query):
        return None
    try:
        made = _grouped(query, clauses) if _spans_shards(query) else _sorted(query, clauses)
        numbers = known_parameters(query.context, node)
        if numbers is None:
            return None
        parse(made.text)
    except (_Unsure, Unwritten, Refused, SyntaxFailure, KeyError):
        return None
    load = Load(target, _TABLE, tuple(made.columns), tuple(made.definitions), (), _ALIAS, made.source)
    return Gather((load,), made.text, reason, numbers)


def _loaded(name: str) -> str:
    """Return a loaded column, with its table: in ORDER BY a bare name would be an output column of the client's."""
    return f"{quoted(_TABLE)}.{quoted(name)}"


@dataclass(slots=True)
class _Made:
    """A load and the text over it, under construction."""

    columns: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    definitions: list[str] = field(default_factory=list)
    source: str = ""
    text: str = ""

    def add(self, text: str, definition: str) -> str:
        """Add a column by what a shard computes; the same text twice is one column."""
        if text in self.texts:
            return _loaded(self.columns[self.texts.index(text)])
        self.columns.append(f"c{len(self.columns) + 1}")
        self.texts.append(text)
        self.definitions.append(definition)
        return _loaded(self.columns[-1])


def _plain_types(query: Query) -> bool:
    """Whether every expression's type is built in and its collation the database's, whatever it is computed from.

    Then the type that a shard describes says all. (Columns as they are keep what the catalog knows of them.)
    """
    parsed = query.context.parsed
    if "CollateClause" in parsed.kinds:
        return False
    for source in query.scope.sources:
        for column in source.relation.columns if source.relation is not None else ():
            if " COLLATE " in column.definition or column.type_name == "name":
                return False
    return (
        not any(kind == "TypeName" and strings(body.get("names"))[:1] != ("pg_catalog",) for kind, body in parsed.nodes)
        or not query.context.catalog.types
    )


def _definition(query: Query, node: Node) -> str:
    """Return how a column for an expression is created: as the catalog has it, or '' for the type that is described."""
    found = query.scope.column(query.level.names.column(node))
    if found is not None and found.definition:
        return found.definition
    if constant(node) is not None:
        raise _Unsure  # of no type yet
    for kind, body in walk(node):
        if kind in {"SubLink", "RowExpr"} or (kind == "FuncCall" and query.context.call_effect(body).user_defined):
            raise _Unsure
        if kind == "ColumnRef":
            _check_built_in(query, {"ColumnRef": body})
    return ""


def _check_built_in(query: Query, node: Node) -> None:
    column = query.level.names.column(node)
    relation = query.scope.sources[column.source].relation if column is not None else None
    found = relation.column(column.name) if relation is not None and column is not None else None
    if found is None or found.type_schema != "pg_catalog":
        raise _Unsure


# --- groups ----------------------------------------------------------------------------------------------------------


def _spans_shards(query: Query) -> bool:
    try:
        return query.needs_merge()
    except Refused as refused:
        if refused.refusal == "distinct" and not any(query.node.get("distinctClause", ())):
            return True
        raise


class _Groups:
    """Writes the second step's expressions over the columns of the first."""

    def __init__(self, query: Query, made: _Made, groups: list[Node]) -> None:
        self._query = query
        self._made = made
        self._groups = [(node, made.add(_text(node), _definition(query, node))) for node in groups]
        self.printer = Printer(self._override)
        self.keys = [name for _, name in self._groups]
        self.distinct: list[str] = []  # texts by which the first step groups besides

    def write(self, node: Node) -> str:
        """Return the text of an expression of the select list, HAVING or ORDER BY."""
        _text(node)  # all of it is written faithfully, or not at all
        return self.printer.write(node)

    def _override(self, node: Node) -> str | None:
        for group, name in self._groups:
            if self._same(node, group):
                return name
        call = node.get("FuncCall")
        if call is not None and self._query.context.call_effect(call).aggregate:
            return self._combined(call)
        if "ColumnRef" in node or "SubLink" in node:
            raise _Unsure
        return None

    def _same(self, one: Node, other: Node) -> bool:
        names = self._query.level.names
        left, right = names.column(one), names.column(other)
        return left == right if left is not None and right is not None else same(one, other)

    def _combined(self, call: Node) -> str:
        query, made = self._query, self._made
        name = query.types.builtin(call)
        if any(key in call for key in ("over", "agg_order", "agg_within_group", "func_variadic")):
            raise _Unsure
        arguments = call.get("args", [])
        text = _text({"FuncCall": call})
        if call.get("agg_distinct") and name not in _SAME:
            return self._distinct(name, call)
        if name == "count":
            return f"COALESCE(pg_catalog.sum({made.add(text, 'pg_catalog.int8')}), 0)::pg_catalog.int8"
        if len(arguments) != 1:
            raise _Unsure
        if name in _SAME:
            return f"pg_catalog.{name}({made.add(text, self._extreme(name, arguments[0]))})"
        inner = query.types.of(arguments[0])
        if inner is None or name not in {"sum", "avg"} or (name == "avg" and inner.oid not in SUMS):
            raise _Unsure
        if inner.oid not in SUMS and inner.oid not in {FLOAT8, INTERVAL}:
            raise _Unsure
        if name == "avg":
            sums = made.add(_text({"FuncCall": {**call, "funcname": _pg_catalog("sum")}}), "")
            counts = made.add(_text({"FuncCall": {**call, "funcname": _pg_catalog("count")}}), "pg_catalog.int8")
            # As Postgres's own avg: the sum of all as numeric, divided by their number.
            return f"(pg_catalog.sum({sums})::pg_catalog.numeric / NULLIF(pg_catalog.sum({counts}), 0))"
        result = "::pg_catalog.int8" if SUMS.get(inner.oid) == 20 else ""  # noqa: PLR2004 - int8
        return f"pg_catalog.sum({made.add(text, '')}){result}"

    def _extreme(self, name: str, argument: Node) -> str:
        """Return the definition of a column of partial values of an aggregate that has its argument's type."""
        if name in {"min", "max"} and "ColumnRef" in argument:
            found = self._query.scope.column(self._query.level.names.column(argument))
            if found is not None and found.type_schema != "pg_catalog":
                return found.definition
        _definition(self._query, argument)
        return ""

    def _distinct(self, name: str, call: Node) -> str:
        """Count DISTINCT values: the first step groups by them too."""
        arguments = call.get("args", [])
        if name not in _DISTINCT or "agg_filter" in call or not arguments:
            raise _Unsure
        if any(constant(other) is None for other in arguments[1:]):
            raise _Unsure
        key = self._made.add(_text(arguments[0]), _definition(self._query, arguments[0]))
        self.distinct.append(_text(arguments[0]))
        rest = "".join(f", {_text(other)}" for other in arguments[1:])
        return f"pg_catalog.{name}(DISTINCT {key}{rest})"


def _pg_catalog(name: str) -> list[Node]:
    return [{"String": {"sval": "pg_catalog"}}, {"String": {"sval": name}}]


def _text(node: Node) -> str:
    text = expression(node)
    if text is None:
        raise _Unsure
    return text


def _grouped(query: Query, clauses: Clauses) -> _Made:
    node = query.node
    outputs = query.outputs or []
    made = _Made()
    distinct = node.get("distinctClause")
    groups = query.group_nodes()
    if any("GroupingSet" in group for group in groups) or any(output.text for output in outputs):
        raise _Unsure
    aggregated = bool(groups) or _aggregates(query)
    keys = groups if aggregated else [_node(output) for output in outputs]
    writer = _Groups(query, made, keys)
    shown = [f"{writer.write(_node(output))} AS {quoted(output.name)}" for output in outputs]
    having = f" HAVING {writer.write(node['havingClause'])}" if "havingClause" in node else ""
    order = _order(query, clauses, writer)
    first = "SELECT "
    if distinct is not None:
        chosen = [item for item in distinct if item]
        if chosen:
            raise _Unsure
        first += "DISTINCT "
    group = f" GROUP BY {', '.join(writer.keys)}" if groups else ""
    made.text = f"{first}{', '.join(shown)} FROM pg_temp.{_TABLE}{group}{having}{order}{_limit_text(query)}"
    by = [*map(_text, keys), *writer.distinct]
    grouping = f" GROUP BY {', '.join(dict.fromkeys(by))}" if by else ""
    columns = ", ".join(f"{text} AS {quoted(name)}" for text, name in zip(made.texts, made.columns, strict=True))
    if not columns:
        raise _Unsure
    made.source = f"(SELECT {columns} {_from_text(query, clauses)}{grouping}) AS {_ALIAS}"
    return made


def _aggregates(query: Query) -> bool:
    return (
        any(
            kind == "FuncCall" and query.context.call_effect(body).aggregate
            for name in ("targetList", "sortClause", "havingClause")
            for kind, body in walk(query.node.get(name))
        )
        or "havingClause" in query.node
    )


def _node(output: Output) -> Node:
    if output.node is None:
        raise _Unsure
    return output.node


def _from_text(query: Query, clauses: Clauses) -> str:
    """Return FROM and WHERE as they were written."""
    parsed = query.context.parsed
    start = clauses.starts["from"]
    later = [at for name, at in clauses.starts.items() if name not in {"from", "where"} and at > start]
    stop = min(later, default=clauses.stop)
    return parsed.text[parsed.tokens[start].start : parsed.tokens[stop - 1].end]


def _order(query: Query, clauses: Clauses, writer: _Groups) -> str:
    if "sortClause" not in query.node:
        return ""
    parts = []
    for item in sort_outputs(query, clauses):
        text = str(item.output + 1) if item.output is not None else writer.write(item.node)
        parts.append(text + _direction(descending=item.descending, nulls_first=item.nulls_first))
    return f" ORDER BY {', '.join(parts)}"


def _direction(*, descending: bool, nulls_first: bool) -> str:
    return (" DESC" if descending else " ASC") + (" NULLS FIRST" if nulls_first else " NULLS LAST")


def _limit_text(query: Query) -> str:
    """Return LIMIT and OFFSET of the second step."""
    node = query.node
    offset = f" OFFSET ({_text(node['limitOffset'])})" if "limitOffset" in node else ""
    if "limitCount" not in node:
        return offset
    count = _text(node["limitCount"])
    if node.get("limitOption") == "LIMIT_OPTION_WITH_TIES":
        return f"{offset} FETCH FIRST ({count}) ROWS WITH TIES"
    return f" LIMIT ({count}){offset}"


# --- rows ------------------------------------------------------------------------------------------------------------


def _sorted(query: Query, clauses: Clauses) -> _Made:
    """Rows of whole groups, which each shard sorts and cuts, are sorted and cut again."""
    node, outputs = query.node, query.outputs or []
    made = _Made()
    if any(node.get("distinctClause", ())):
        raise _Unsure
    for number, output in enumerate(outputs):
        made.columns.append(f"c{number + 1}")
        made.definitions.append(_definition(query, _node(output)))
    order, appended = [], []
    for number, item in enumerate(sort_outputs(query, clauses) if "sortClause" in node else ()):
        if item.output is not None:
            name = _loaded(made.columns[item.output])
        else:
            made.columns.append(f"k{number + 1}")
            made.definitions.append(_definition(query, item.node))
            appended.append(item.text)
            name = _loaded(made.columns[-1])
        order.append(name + _direction(descending=item.descending, nulls_first=item.nulls_first))
    edits = [clauses.append_targets(appended)] if appended else []
    if "limit" in clauses.starts:
        edit = clauses.replace_limit(_pushed(query))
        if edit is None:
            raise _Unsure
        edits.append(edit)
    text = apply(query.context.parsed.text[: query.context.parsed.end], edits)
    names = ", ".join(map(quoted, made.columns))
    made.source = f"({text}) AS {_ALIAS} ({names})"
    shown = ", ".join(
        f"{quoted(made.columns[number])} AS {quoted(output.name)}" for number, output in enumerate(outputs)
    )
    by = f" ORDER BY {', '.join(order)}" if order else ""
    made.text = f"SELECT {shown} FROM pg_temp.{_TABLE}{by}{_limit_text(query)}"  # noqa: S608 - parsed again
    return made


def _pushed(query: Query) -> str:
    """Return what lets a shard send enough rows: limit + offset, ties included; '' for all of them.

    LEAST leaves NULL out: LIMIT NULL is no limit, and so is what would not fit into an int8.
    """
    node = query.node
    if "limitCount" not in node:
        return ""
    count = f"{_text(node['limitCount'])}::pg_catalog.numeric"
    if "limitOffset" in node:
        count += f" OPERATOR(pg_catalog.+) COALESCE({_text(node['limitOffset'])}::pg_catalog.numeric, 0)"
    both = f"LEAST({count}, {_LARGEST})::pg_catalog.int8"
    if node.get("limitOption") == "LIMIT_OPTION_WITH_TIES":
        return f"FETCH FIRST ({both}) ROWS WITH TIES"
    return f"LIMIT {both}"
