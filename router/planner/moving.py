"""Writes in two steps: INSERT ... SELECT whose rows are not where they belong, and UPDATE of a sharding key.

Decides what is read, as a statement of its own, and how its rows are inserted: with parameters of the types that the
query gave, so that Postgres assigns them to the columns as it does in one statement. How the query is read is left to
its own planner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from router.cluster import Home, Reference, Sharded
from router.effect import Runs
from router.keys import Facts
from router.plan import EveryShard, HomeShard, Statement
from router.plan_steps import CLOCK_CALLS, Computed, Moment, MoveRows
from router.planner import dml
from router.planner.filling_rows import nextval
from router.planner.names import Level, Names, star_columns
from router.planner.scope import Scope
from router.rewrite import at_top, group_end, outside_brackets, spliced
from router.tree import constant, items, strings, walk

if TYPE_CHECKING:
    from router.cluster import Placement
    from router.plan_steps import Value
    from router.planner.context import Context
    from router.relation import Column, Relation
    from router.statement import Parsed, Token
    from router.tree import Node

_CLOSED: Final = frozenset({"SubLink", "SelectStmt"})
_OF_ROWS: Final = frozenset({("ctid",), ("xmin",), ("cmin",), ("cmax",), ("tableoid",)})


def insert_select(context: Context) -> Statement | None:
    """Plan INSERT ... SELECT in two steps; None when it is no such statement, or cannot be done so."""
    from router.planner import reference, select  # noqa: PLC0415 - SELECT's planner knows of INSERT in WITH

    node = context.body
    query = node.get("selectStmt", {}).get("SelectStmt")
    relation = context.relation(node["relation"])
    if query is None or relation is None or not relation.is_table or not context.many:
        return None
    pieces = cut(context.parsed, node)
    if "SetToDefault" in context.parsed.kinds and "onConflictClause" not in node:
        return None
    if pieces is None or any("indirection" in entry["ResTarget"] for entry in node.get("cols", ())):
        return None
    columns = targets(context, relation, node, query)
    if columns is None:
        return None
    placement = context.placement(relation)
    if (isinstance(placement, Reference) and "onConflictClause" in node) or relation.hidden:
        return None
    _check_tail(context, node)
    extra = _extra(context, relation, columns, placement)
    check_conflict(context, relation, placement)
    names = [column.name for column in columns]
    given = {column.name for column, _ in extra}
    defaults = [c.name for c in relation.columns if c.name not in names and c.name not in given]
    defaults += [name for name, _ in dml.set_to_default(node)]
    at = node["relation"].get("location")
    context.check_access(relation, write=True, defaults=defaults, at=at)
    if isinstance(placement, Reference):
        reference.check_triggers(context, relation, at)
        reference.check_column_defaults(context, relation, defaults, at)
    reading = select.plan(context.rewritten(pieces.read(columns, query)))
    everything = [*columns, *(column for column, _ in extra)]
    key_type, key_column, modifier = _key(placement, relation, everything)
    overriding = pieces.overriding
    if not overriding and any(column.identity == "a" for column in everything):
        overriding = "OVERRIDING SYSTEM VALUE "
    plan = MoveRows(
        reading,
        f"{pieces.into}({', '.join(quoted(column.name) for column in everything)}) {overriding}",
        pieces.tail,
        HomeShard() if isinstance(placement, Home) else EveryShard(),
        key_type,
        key_column,
        modifier,
        tuple(value for _, value in extra),
        at_once=node.get("onConflictClause", {}).get("action") == "ONCONFLICT_UPDATE",
    )
    return context.statement(plan, "INSERT", returns_rows="returningClause" in node)


def _key(placement: Placement, relation: Relation, columns: list[Column]) -> tuple[str, int | None, int]:
    key = relation.column(placement.key) if isinstance(placement, Sharded) else None
    return ("", None, -1) if key is None else (key.type_name, columns.index(key), key.type_modifier)


def check_conflict(context: Context, relation: Relation, placement: Placement) -> None:
    """See that ON CONFLICT finds its conflicts on one shard, and keeps the key."""
    from router.planner.insert import check_arbiter  # noqa: PLC0415 - INSERT's planner tries this one

    if not isinstance(placement, Sharded):
        return
    check_arbiter(context, relation, placement.key)
    for target in items(context.body.get("onConflictClause", {}).get("targetList")):
        value = strings(target["ResTarget"].get("val", {}).get("ColumnRef", {}).get("fields"))
        if target["ResTarget"].get("name") == placement.key and value != ("excluded", placement.key):
            raise context.refuse("key-update", target["ResTarget"].get("location"), key=placement.key)


def _check_tail(context: Context, node: Node) -> None:
    """RETURNING and ON CONFLICT run on the shards: nothing in them may look elsewhere."""
    for part in (node.get("returningClause"), node.get("onConflictClause")):
        if any(kind in _CLOSED for kind, _ in walk(part)) or context.effect(part).runs is not Runs.ANYWHERE:
            raise context.refuse("insert-select", node["relation"].get("location"))
        for kind, body in walk(part):
            name = strings(body.get("fields"))[-1:] if kind == "ColumnRef" else ()
            if name in _OF_ROWS:  # (xmax = 0) tells what was inserted from what was there, on its shard
                raise context.refuse("system-columns", body.get("location"), name=name[0])


def targets(context: Context, relation: Relation, node: Node, query: Node) -> list[Column] | None:
    """Return the columns that get what the query says; None where they are not certain."""
    override = node.get("override", "OVERRIDING_NOT_SET")
    found = None if override == "OVERRIDING_USER_VALUE" else named_targets(context, relation, node, query)
    if found is None or (override == "OVERRIDING_NOT_SET" and any(column.identity == "a" for column in found)):
        return None
    return found


def named_targets(context: Context, relation: Relation, node: Node, query: Node) -> list[Column] | None:
    """Return the columns that the query's columns stand for, by their names or in order; None where not certain."""
    names = dml.columns_of(relation, node) or []
    if "cols" not in node:
        width = _width(context, node, query)
        if width is None or width > len(names):
            return None
        names = names[:width]
    found = [column for name in names if (column := relation.column(name)) is not None]
    if len(found) != len(names) or any(column.generated for column in found):
        return None
    return found


def _width(context: Context, node: Node, query: Node) -> int | None:
    """Count the columns of an INSERT's query."""
    scope = Scope(context)
    environment = scope.with_clause(node, Level(node, Names([]), Facts()), {}, None, None)
    level: Level = scope.select(query, environment=environment)
    while level.arms:
        level = level.arms[0]
    if "valuesLists" in level.node:
        return len(items(level.node["valuesLists"][0]))
    count = 0
    for target in level.node.get("targetList", ()):
        fields = strings(target["ResTarget"].get("val", {}).get("ColumnRef", {}).get("fields"))
        if fields[-1:] == ("*",):
            starred = star_columns(level.names, fields)
            if starred is None:
                return None
            count += len(starred)
        else:
            count += 1
    return count


def _extra(
    context: Context, relation: Relation, columns: list[Column], placement: Placement
) -> list[tuple[Column, Value]]:
    """Return the columns that are left out and that are computed for each row: by home, or the time."""
    found: list[tuple[Column, Value]] = []
    for column in relation.columns:
        if column in columns or column.generated or isinstance(placement, Home):
            continue
        if column.identity and column.sequence is not None:
            found.append((column, Computed(nextval(column.sequence.schema, column.sequence.name))))
            continue
        value = dml.default_value(column)
        effect = context.effect(value)
        if value is None:
            continue
        key = isinstance(placement, Sharded) and column.name == placement.key
        moment = _moment(context, value)
        if moment is not None and not key:
            found.append((column, moment))
            continue
        if effect.clock:
            detail = f"Column {column.name} takes the time as its default: give it in the query."
            raise context.refuse("insert-select", context.body["relation"].get("location"), detail=detail)
        if effect.runs is Runs.HOME or key or (effect.volatile and isinstance(placement, Reference)):
            found.append((column, Computed(column.default)))
    key_name = placement.key if isinstance(placement, Sharded) else None
    if key_name is not None and key_name not in {c.name for c in columns} | {c.name for c, _ in found}:
        key_column = relation.column(key_name)
        if key_column is None:
            raise context.refuse("insert-select", context.body["relation"].get("location"))
        found.append((key_column, Computed("NULL::pg_catalog." + quoted(key_column.type_name))))
    return found


def _moment(context: Context, value: Node) -> Moment | None:
    """Return the moment that a default is, if it is nothing else; Postgres assigns it to the column."""
    if value.get("SQLValueFunction", {}).get("op") == "SVFOP_CURRENT_TIMESTAMP":
        return Moment.TRANSACTION
    call: Node | None = value.get("FuncCall")
    if call is None or call.get("args") or context.call_effect(call).user_defined:
        return None
    return CLOCK_CALLS.get(strings(call.get("funcname"))[-1])


# --- cutting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cut:
    """INSERT ... SELECT in pieces. ``into``: INSERT INTO and the table; ``start`` and ``end``: the query's place."""

    parsed: Parsed
    prefix: str  # WITH of the INSERT
    into: str
    overriding: str
    start: int
    end: int
    tail: str

    def read(self, columns: list[Column], query: Node) -> str:
        """Return the query as a statement; constants without a type get that of their column."""
        splices = []
        rows = [items(row) for row in query.get("valuesLists", ())]
        if "larg" not in query and "targetList" in query:
            rows.append([target["ResTarget"].get("val", {}) for target in query["targetList"]])
        for row in rows:
            for value, column in zip(row, columns, strict=False):
                literal = constant(value)
                if literal is not None and literal[0] in {"string", "null"} and len(row) == len(columns):
                    at = self.parsed.token_at(self.parsed.place(value["A_Const"].get("location", 0)))
                    splices.append((self.parsed.tokens[at].end, f"::{sql_type(column)}"))
        casts = [(place - self.start, place - self.start, cast) for place, cast in splices]
        return self.prefix + spliced(self.parsed.text[self.start : self.end], casts)


def sql_type(column: Column) -> str:
    """Return a column's type as SQL, without its modifier."""
    return f"{quoted(column.type_schema)}.{quoted(column.type_name)}"


def cut(parsed: Parsed, node: Node) -> Cut | None:
    """Cut an INSERT ... SELECT into its pieces; None where that is not sure."""
    tokens, text = parsed.tokens, parsed.text
    insert = at_top(tokens, "INSERT")
    if insert is None or insert + 1 >= len(tokens):
        return None
    at = insert + 2  # behind INTO: the name, with dots
    while at + 1 < len(tokens) and tokens[at + 1].name == "ASCII_46":
        at += 2
    at += 1
    if at < len(tokens) and tokens[at].name == "AS":
        at += 2
    into_end = tokens[at - 1].end
    if "cols" in node:
        end = group_end(tokens, at)
        if end is None:
            return None
        at = end + 1
    overriding = ""
    if tokens[at].name == "OVERRIDING":
        overriding = text[tokens[at].start : tokens[at + 2].end] + " "
        at += 3
    stop = _tail_start(tokens, at)
    query_with = tokens[at].name == "WITH"
    prefix = text[tokens[0].start : tokens[insert].start] if insert else ""
    tail = text[tokens[stop].start : parsed.end] if stop < len(tokens) else ""
    if prefix and (query_with or not text[tokens[at].start :].lstrip()):
        return None
    end_of_query = tokens[stop - 1].end if stop < len(tokens) else parsed.end
    return Cut(
        parsed,
        prefix,
        text[tokens[insert].start : into_end] + " ",
        overriding,
        tokens[at].start,
        end_of_query,
        " " + tail if tail else "",
    )


def _tail_start(tokens: list[Token], start: int) -> int:
    """Return the token with which ON CONFLICT or RETURNING begins, or the number of tokens."""
    for at in outside_brackets(tokens, start):
        conflict = tokens[at].name == "ON" and at + 1 < len(tokens) and tokens[at + 1].name == "CONFLICT"
        if conflict or tokens[at].name == "RETURNING":
            return at
    return len(tokens)


def quoted(name: str) -> str:
    """Return an identifier as SQL."""
    return '"' + name.replace('"', '""') + '"'
