"""UPDATE that changes a sharding key: the rows are deleted where they are, and inserted where they belong.

Decides where that is the same as an UPDATE: nothing may hang on the row (foreign keys to it, triggers, rules,
policies), and every new value must follow from the row itself. A concurrent UPDATE that waits for such a row finds it
gone, so sessions have to ask for this by ``pgchorus.allow_key_update``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.cluster import Sharded
from router.effect import Runs
from router.plan import EveryShard, Statement
from router.plan_steps import MoveRows
from router.planner.moving import quoted, sql_type
from router.rewrite import at_top, list_items
from router.tree import constant, strings, walk

if TYPE_CHECKING:
    from router.planner.context import Context
    from router.relation import Column, Relation
    from router.statement import Token
    from router.tree import Node


def update_key(context: Context) -> Statement | None:
    """Plan an UPDATE of a sharding key; None where it would not be the same as an UPDATE."""
    from router.planner import modify  # noqa: PLC0415 - UPDATE's planner tries this one

    node = context.body
    relation = context.relation(node["relation"])
    placement = context.placement(relation)
    if relation is None or not isinstance(placement, Sharded) or not _free(relation) or not _readable(context, node):
        return None
    values = _new_values(context, node, relation)
    if values is None:
        return None
    columns = [column for column in relation.columns if not column.generated]
    marks = {name: at_top(context.parsed.tokens, name) for name in ("SET", "FROM", "WHERE", "RETURNING")}
    tokens, text = context.parsed.tokens, context.parsed.text
    start = marks["SET"]
    if start is None or tokens[0].name != "UPDATE":
        return None
    target = text[tokens[0].end : tokens[start].start].strip()
    name = quoted(node["relation"].get("alias", {}).get("aliasname", node["relation"]["relname"]))
    stop = tokens[marks["RETURNING"]].start if marks["RETURNING"] is not None else context.parsed.end
    source, where = marks["FROM"], marks["WHERE"]
    middle = ""
    if source is not None:
        middle = " USING " + text[tokens[source].end : stop]
    elif where is not None:
        middle = " " + text[tokens[where].start : stop]
    found = ", ".join(values.get(column.name, f"{name}.{quoted(column.name)}") for column in columns)
    delete = f"DELETE FROM {target}{middle} RETURNING {found}"  # noqa: S608 - pieces of the client's own text
    read = modify.plan(context.rewritten(delete))
    key = relation.column(placement.key)
    if key is None:
        return None
    plan = MoveRows(
        read,
        f"INSERT INTO {target.removeprefix('ONLY ').removeprefix('only ')} "
        f"({', '.join(quoted(column.name) for column in columns)}) OVERRIDING SYSTEM VALUE ",
        " " + text[stop : context.parsed.end] if marks["RETURNING"] is not None else "",
        EveryShard(),
        key.type_name,
        columns.index(key),
        key.type_modifier,
        verb="UPDATE",
    )
    return context.statement(plan, "UPDATE", returns_rows="returningClause" in node)


def _free(relation: Relation) -> bool:
    """Whether nothing hangs on the rows of a table that tells a DELETE and an INSERT from an UPDATE."""
    hangs = relation.referenced_by or relation.triggers or relation.rules or relation.row_security or relation.parents
    inherited = relation.children and relation.kind.value != "p"
    return relation.is_table and not relation.stands_in and not hangs and not inherited


def _readable(context: Context, node: Node) -> bool:
    """Whether the statement is plain enough to be taken apart."""
    if "withClause" in node or {"SubLink", "CurrentOfExpr", "MultiAssignRef"} & context.parsed.kinds:
        return False
    returning = node.get("returningClause")
    if returning is None:
        return True
    first = {strings(body.get("fields"))[:1] for kind, body in walk(returning) if kind == "ColumnRef"}
    plain = context.effect(returning).runs is Runs.ANYWHERE and not returning.get("options")
    return plain and "fromClause" not in node and not first & {("old",), ("new",)}


def _new_values(context: Context, node: Node, relation: Relation) -> dict[str, str] | None:
    """Return the texts of the values that are set; constants without a type get that of their column."""
    tokens, text = context.parsed.tokens, context.parsed.text
    start = at_top(tokens, "SET")
    if start is None:
        return None
    ends = [at for name in ("FROM", "WHERE", "RETURNING") if (at := at_top(tokens, name)) is not None]
    stop = min(ends, default=len(tokens))
    spans = _values(tokens, start + 1, stop)
    targets = [target["ResTarget"] for target in node.get("targetList", ())]
    if len(spans) != len(targets):
        return None
    found = {}
    for target, (first, last) in zip(targets, spans, strict=True):
        column = relation.column(target["name"])
        value = target.get("val", {})
        if "indirection" in target or "SetToDefault" in value or column is None or column.generated:
            return None
        if context.effect(value).runs is not Runs.ANYWHERE:
            return None
        found[column.name] = f"({text[tokens[first].start : tokens[last].end]}){_cast(value, column)}"
    return found


def _cast(value: Node, column: Column) -> str:
    literal = constant(value)
    return f"::{sql_type(column)}" if literal is not None and literal[0] in {"string", "null"} else ""


def _values(tokens: list[Token], start: int, stop: int) -> list[tuple[int, int]]:
    """Return first and last token of each value in ``a = value, b = value``."""
    if stop and tokens[stop - 1].name == "ASCII_59":
        stop -= 1
    found = []
    for first, behind in list_items(tokens, start, stop):
        equals = at_top(tokens, "ASCII_61", first, behind)
        found.append((first if equals is None else equals + 1, behind - 1))
    return found
