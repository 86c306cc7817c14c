"""SELECT over several shards: parts, and how their rows become one answer.

Decides whether a query's groups stay on one shard (then rows are concatenated or merged in order) or are partial
(:mod:`router.planner.aggregate`). Requires what :mod:`router.planner.spread` found: no join crosses shards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.errors import Refused
from router.plan import Concat, Constant, EveryShard, Ordered, Parameter, Plan, Scatter, SortKey
from router.planner import aggregate, aggregated_outside, finish, locking, table_names
from router.planner.clauses import Clauses, apply, verified
from router.planner.outputs import Output, expand, plain_order, sort_outputs
from router.planner.placing import check_no_system_columns, placed
from router.planner.spread import Part, Spread, check_no_home, target_of
from router.planner.types import Types
from router.tree import JSON_AGGREGATES, Node, constant, strings

if TYPE_CHECKING:
    from router.keys import ColumnId
    from router.plan import KeyTerm, Target
    from router.planner.context import Context
    from router.planner.names import Level
    from router.planner.scope import Scope

_INT8_MAX = (1 << 63) - 1


def plan(context: Context, scope: Scope, level: Level, *, writes: bool) -> Plan:
    """Plan a SELECT whose rows are on several shards."""
    check_no_home(scope)
    placed(context, EveryShard(), many_rows=True)
    shown = level.node.get("targetList", []) if level.node is context.body else []
    alike = table_names.meant_alike(context, shown)
    check_no_system_columns(context, alike)
    _check_volatile(context)
    if level.arms:
        return _set_operation(context, scope, level, writes=writes)
    part = Spread(scope).level(level)
    target = target_of(level, part, scope)
    query = Query(context, scope, level, part)
    try:
        return _combined(query, target, writes=writes)
    except Refused as refused:
        found = None if writes else finish.plan(query, target, refused.refusal)
        if found is None or (alike and (any(alike.values()) or table_names.NAME in found.text.lower())):
            raise
        return found


def _combined(query: Query, target: Target, *, writes: bool) -> Plan:
    """Combine the rows in the proxy."""
    if query.needs_merge():
        combined, rewritten = aggregate.plan(query)
        return Scatter(target, combined, writes, rewritten)
    if "lockingClause" in query.node and not query.node.keys().isdisjoint(("limitCount", "limitOffset")):
        return locking.plan(query, target, *limits(query))
    combine, text = ordered(query)
    return Scatter(target, combine, writes, text)


def _check_volatile(context: Context) -> None:
    """A volatile user function that reads tables takes a snapshot of its own per call: not the statement's."""
    for kind, body in context.parsed.nodes:
        if kind == "FuncCall":
            effect = context.call_effect(body)
            if effect.user_defined and effect.volatile and effect.touches:
                raise context.refuse(
                    "gather-function", body.get("location"), name=".".join(strings(body.get("funcname")))
                )


class Query:
    """A level over several shards, with what the merging planners ask of it."""

    def __init__(self, context: Context, scope: Scope, level: Level, part: Part) -> None:
        self.context = context
        self.scope = scope
        self.level = level
        self.node = level.node
        self.part = part
        self.types = Types(context, scope, level.names)
        self.outputs = expand(level)
        # A key on the nullable side of an outer join is NULL in rows of every shard: it tells nothing of groups.
        self.keys = tuple(key for key in part.keys if scope.sources[key.source].facts is level.facts)

    def is_key(self, node: Node) -> bool:
        """Whether an expression is a sharding key: rows of one value are on one shard."""
        column = self.level.names.column(node)
        return column is not None and self.is_key_column(column)

    def is_key_column(self, column: ColumnId) -> bool:
        """Whether a column equals a sharding key in every row."""
        return any(self.level.facts.same(column, key) for key in self.keys)

    def group_nodes(self) -> list[Node]:
        """Return GROUP BY's expressions: a name is an input column first, a number is an output column."""
        found = []
        for node in self.node.get("groupClause", ()):
            literal = constant(node)
            output = None
            if literal is not None and literal[0] == "integer":
                output = self.output_at(literal[1])
            elif "ColumnRef" in node and self.level.names.column(node) is None:
                output = self.output_named(node)
            found.append(output.node if output is not None and output.node is not None else node)
        return found

    def output_at(self, position: int) -> Output | None:
        """Return the output column of a number in GROUP BY or ORDER BY."""
        if self.outputs is None or not 1 <= position <= len(self.outputs):
            return None
        return self.outputs[position - 1]

    def output_named(self, node: Node) -> Output | None:
        """Return the output column that an unqualified name means."""
        fields = node.get("ColumnRef", {}).get("fields", [])
        if len(fields) != 1 or self.outputs is None:
            return None
        name = fields[0].get("String", {}).get("sval")
        found = [output for output in self.outputs if output.name == name]
        return found[0] if found else None

    def refuse(self, refused: str, node: Node | None = None) -> Exception:
        """Make a refusal at a node's place."""
        body = next(iter(node.values())) if node else {}
        return self.context.refuse(refused, body.get("location") if isinstance(body, dict) else None)

    def _aggregates(self) -> bool:
        calls = [(kind, body) for kind, body in _calls(self.node) if "over" not in body]
        for kind, body in calls:
            if kind in JSON_AGGREGATES:
                raise self.refuse("aggregate", {kind: body})
        called = any(self.context.call_effect(body).aggregate for _, body in calls)
        return called or bool(self.node.get("havingClause"))

    def needs_merge(self) -> bool:
        """Whether groups may span shards; refuses what neither way can do."""
        self._check_windows()
        groups = self.group_nodes()
        grouped_by_key = any(self.is_key(node) for node in groups)
        aggregates = not grouped_by_key and self._aggregates()
        distinct = self.node.get("distinctClause")
        distinct_has_key = bool(distinct) and self._distinct_has_key(distinct or [])
        if not grouped_by_key:
            call = aggregated_outside.found(self.context, self.scope, self.level)
            if call is not None:
                raise self.refuse("aggregate", {"FuncCall": call})
        if groups or aggregates:
            if grouped_by_key:
                if distinct and not distinct_has_key:
                    raise self.refuse("distinct")
                return False
            if distinct:
                raise self.refuse("distinct")
            return True
        if distinct and not distinct_has_key:
            if any(distinct):
                raise self.refuse("distinct")
            return True
        return False

    def _distinct_has_key(self, distinct: list[Node]) -> bool:
        """DISTINCT keeps rows of one shard apart if the key is among what it compares."""
        if any(distinct):
            nodes = [node for node in distinct if node]
            named = [self.output_named(node) for node in nodes]
            literals = [constant(node) for node in nodes]
            numbered = [self.output_at(found[1]) if found and found[0] == "integer" else None for found in literals]
            outputs = [item for item in (*named, *numbered) if item is not None]
            if outputs:
                return any(self._output_is_key(output) for output in outputs)
            return any(self.is_key(node) for node in nodes)
        return any(self._output_is_key(output) for output in self.outputs or ())

    def _output_is_key(self, output: Output) -> bool:
        return output.column is not None and self.is_key_column(output.column)

    def _check_windows(self) -> None:
        """A window function sees its partition's rows: all of them must be on one shard."""
        named = {entry["WindowDef"]["name"]: entry["WindowDef"] for entry in self.node.get("windowClause", ())}
        for _, body in _calls(self.node):
            window = body.get("over")
            if window is None:
                continue
            partitions: list[Node] = []
            seen: set[str] = set()
            while window is not None:
                partitions.extend(window.get("partitionClause", ()))
                reference = window.get("refname") or (window.get("name") if not partitions else None)
                window = named.get(reference) if reference and reference not in seen else None
                seen.add(reference or "")
            if not any(self.is_key(node) for node in partitions):
                raise self.context.refuse("window", body.get("location"))


def _calls(node: Node) -> list[tuple[str, Node]]:
    """Return the calls of a level, not those of its subqueries."""
    found: list[tuple[str, Node]] = []
    pending: list[object] = [
        node.get(field) for field in ("targetList", "havingClause", "sortClause", "windowClause", "distinctClause")
    ]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            if "SelectStmt" in item:
                continue
            if "FuncCall" in item:
                found.append(("FuncCall", item["FuncCall"]))
            found += [(kind, item[kind].get("constructor", {})) for kind in JSON_AGGREGATES & item.keys()]
            pending.extend(item.values())
    return found


# --- LIMIT -----------------------------------------------------------------------------------------------------------


def limits(query: Query) -> tuple[KeyTerm | None, KeyTerm | None]:
    """Return LIMIT and OFFSET as terms."""
    node = query.node
    if node.get("limitOption") == "LIMIT_OPTION_WITH_TIES":
        raise query.refuse("limit", node.get("limitCount"))
    return _count(query, node.get("limitCount")), _count(query, node.get("limitOffset"))


def _count(query: Query, node: Node | None) -> KeyTerm | None:
    if node is None:
        return None
    if "ParamRef" in node:
        return Parameter(node["ParamRef"].get("number", 0))
    literal = constant(node)
    if literal is None or literal[0] not in {"integer", "null", "float"}:
        raise query.refuse("limit", node)
    if literal[0] == "null":
        return None
    if literal[0] == "float" and not str(literal[1]).isdigit():
        raise query.refuse("limit", node)
    value = int(literal[1])
    if value > _INT8_MAX:
        raise query.refuse("limit", node)
    return Constant(value)


def pushed_limit(limit: KeyTerm | None, offset: KeyTerm | None) -> str:
    """Return the clause that lets a shard send enough rows: limit + offset."""
    if limit is None:
        return ""
    if isinstance(limit, Constant) and isinstance(offset, Constant | None):
        count = int(limit.value or 0) + int(offset.value or 0 if offset is not None else 0)
        return f"LIMIT {count}" if count <= _INT8_MAX else ""
    if offset is None:
        return f"LIMIT ({_limit_word(limit)})"
    # The sum of two int8 may be none; a limit that is NULL (none at all) becomes the largest there is.
    words = f"{_limit_word(limit)}::pg_catalog.numeric OPERATOR(pg_catalog.+) coalesce({_limit_word(offset)}, 0)"
    return f"LIMIT (least({words}, {_INT8_MAX})::pg_catalog.int8)"


def _limit_word(term: KeyTerm) -> str:
    if isinstance(term, Parameter):
        return f"${term.number}::pg_catalog.int8"
    return f"{term.value!r}::pg_catalog.int8"


# --- concatenation and ordered merge ---------------------------------------------------------------------------------


def ordered(query: Query) -> tuple[Concat | Ordered, str | None]:
    """Rows of whole groups: concatenated, or merged by ORDER BY, then cut by LIMIT."""
    limit, offset = limits(query)
    node = query.node
    sorts = node.get("sortClause", [])
    if not sorts and limit is None and offset is None:
        return Concat(), None
    clauses = Clauses.of(query.context.parsed, node)
    if clauses is None or query.outputs is None:
        raise query.refuse("rewrite")
    visible = len(query.outputs)
    keys: list[SortKey] = []
    texts: list[str] = []
    for item in sort_outputs(query, clauses) if sorts else ():
        if item.type is None or not item.type.sortable:
            raise query.refuse("order-by", item.node)
        keys.append(SortKey(visible + len(texts), item.type.oid, item.descending, item.nulls_first))
        texts.append(item.text)
    edits = [clauses.append_targets(texts)] if texts else []
    if "limit" in clauses.starts:
        edit = clauses.replace_limit(pushed_limit(limit, offset))
        if edit is None:
            raise query.refuse("rewrite")
        edits.append(edit)
    text = apply(query.context.parsed.text, edits)
    if not verified(query.context.parsed, text, len(texts)):
        raise query.refuse("rewrite")
    return Ordered(tuple(keys), visible, limit, offset), text


# --- set operations --------------------------------------------------------------------------------------------------


def _set_operation(context: Context, scope: Scope, level: Level, *, writes: bool) -> Plan:
    """UNION ALL of parts is the union of parts' UNION ALL; the others need the key among what they compare."""
    node = level.node
    if any(field in node for field in ("sortClause", "limitCount", "limitOffset", "lockingClause")):
        raise context.refuse("set-operation")
    _check_arms(context, scope, level)
    return Scatter(EveryShard(), Concat(), writes)


def _check_arms(context: Context, scope: Scope, level: Level) -> set[int]:
    """Check a tree of set operations; returns the output positions that are keys in all arms."""
    if not level.arms:
        part = Spread(scope).level(level)
        if not part.keys:
            raise context.refuse("set-operation")
        query = Query(context, scope, level, part)
        limited = any(field in level.node for field in ("limitCount", "limitOffset"))
        if limited or query.outputs is None or query.needs_merge() or plain_order(level.node):
            raise context.refuse("set-operation")
        return {
            index
            for index, output in enumerate(query.outputs)
            if output.column is not None and query.is_key_column(output.column)
        }
    for nested in level.nested:
        Spread(scope).nested(nested, Part())
    if any(field in level.node for field in ("sortClause", "limitCount", "limitOffset")):
        raise context.refuse("set-operation")
    left, right = (_check_arms(context, scope, arm) for arm in level.arms)
    common = left & right
    whole = level.node.get("op") == "SETOP_UNION" and level.node.get("all")
    if not whole and not common:
        raise context.refuse("set-operation")
    return common
