"""Subqueries in FROM, USING and WITH of a write, whose rows are asked first and come back as arrays, one per column.

Decides which of them can be: those that read tables, stand in a text that is plain enough to be spliced, and whose
columns have names that can be told. A column of a table keeps its collation and its domain, by a cast. The new text
is parsed again and compared. A subquery that reads a name of WITH stays where it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from router.asked_types import TEXTS
from router.errors import Refused, SyntaxFailure
from router.planner.names import star_columns
from router.planner.scope import Scope
from router.planner.typed import is_domain, may_have_domain, shows_types
from router.printer import quoted
from router.rewrite import group_end
from router.statement import parse
from router.tree import same, strings, unwrap, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from router.plan_steps import Asked
    from router.planner.context import Context
    from router.relation import Column
    from router.statement import Parsed
    from router.tree import Node


@dataclass(frozen=True, slots=True)
class Rows:
    """A subquery in its text: its characters, and its node."""

    start: int
    end: int
    node: Node


def ctes(node: Node) -> frozenset[str] | None:
    """Return the names that WITH makes; None where one of its queries writes or is recursive."""
    clause = node.get("withClause", {})
    if clause.get("recursive"):
        return None
    found = [entry["CommonTableExpr"] for entry in clause.get("ctes", ())]
    if any(unwrap(body["ctequery"])[0] != "SelectStmt" for body in found):
        return None
    return frozenset(body["ctename"] for body in found)


def mentions(value: Any, names: frozenset[str]) -> bool:
    """Whether a table of one of these names stands anywhere below."""
    return any(kind == "RangeVar" and body.get("relname") in names for kind, body in walk(value))


def tables(context: Context, names: frozenset[str]) -> Iterator[Node]:
    """Yield the subqueries of WITH, FROM and USING that read tables and none of these names."""
    node = context.body
    found = [entry["CommonTableExpr"]["ctequery"]["SelectStmt"] for entry in node.get("withClause", {}).get("ctes", ())]
    for item in (*node.get("fromClause", ()), *node.get("usingClause", ()), node.get("sourceRelation", {})):
        found += _subselects(item)
    for query in found:
        reads = any(kind == "RangeVar" for kind, _ in walk({"SelectStmt": query}))
        if reads and not mentions({"SelectStmt": query}, names):
            yield query


def _subselects(item: Node) -> list[Node]:
    """Return the subqueries of a FROM item."""
    kind, body = unwrap(item)
    if kind == "JoinExpr":
        return _subselects(body["larg"]) + _subselects(body["rarg"])
    return [body["subquery"]["SelectStmt"]] if kind == "RangeSubselect" and not body.get("lateral") else []


def placed(parsed: Parsed, query: Node) -> Rows | None:
    """Find a subquery: from the SELECT before the first place in it to the parenthesis that closes it."""
    if "withClause" in query or query.get("op", "SETOP_NONE") != "SETOP_NONE" or "targetList" not in query:
        return None
    places = [at for _, body in walk({"SelectStmt": query}) if isinstance(at := body.get("location"), int) and at >= 0]
    if not places:
        return None
    tokens = parsed.tokens
    at = parsed.token_at(parsed.place(min(places)))
    while at and tokens[at].name != "SELECT":
        at -= 1
    end = group_end(tokens, at - 1) if at and tokens[at - 1].name == "ASCII_40" else None
    return None if end is None else Rows(tokens[at].start, tokens[end].start, query)


def asked(context: Context, read: Asked, rows: Rows, number: int) -> tuple[Asked, tuple[int, int, str]] | None:
    """Return the subquery with its columns' names, and what goes in its place; None where that is not sure."""
    found = _named(context, context.parsed.text[rows.start : rows.end])
    columns = tuple(name for name, _ in found or ())
    if not columns or len(set(columns)) < len(columns):
        return None
    arrays = ", ".join(f"pg_catalog.unnest(${at})" for at in range(number, number + len(columns)))
    if domain_lost(context, context.parsed.text[rows.start : rows.end], [known for _, known in found or ()]):
        return None
    texts = tuple(name for name, known in found or () if known is not None and goes_as_text(context, known))
    own = {
        name: known.definition
        for name, known in found or ()
        if known is not None and (has_own_type(known) or name in texts)
    }
    shown = ", ".join(
        f"{quoted(name)}::{own[name]} AS {quoted(name)}" if own.get(name) else quoted(name) for name in columns
    )
    names = ", ".join(map(quoted, columns))
    text = f'SELECT {shown if own else "*"} FROM ROWS FROM ({arrays}) AS "pgchorus" ({names})'  # noqa: S608 - quoted
    if not _verified(context.parsed, rows, text):
        return None
    unsure = tuple(name for name, known in found or () if known is None or (collated(known) and not known.definition))
    found_rows = replace(read, columns=columns, unsure=unsure if read.unsure else (), texts=texts)
    return found_rows, (rows.start, rows.end, text)


def goes_as_text(context: Context, column: Column) -> bool:
    """Whether values of a column have no list of their own, and are read from texts by a cast."""
    base = column.base_type_oid or column.type_oid
    return bool(column.definition) and (base in TEXTS or is_enum(context, column))


def is_enum(context: Context, column: Column) -> bool:
    """Whether a column's type, or its domain's, is an enum."""
    base = column.base_type_oid or column.type_oid
    return any(kind.oid == base and kind.kind == "e" for kind in context.catalog.types)


def collated(column: Column) -> bool:
    """Whether a column has a collation of its own, which a list of its values does not tell."""
    return column.collation not in {"", "default"}


def has_own_type(column: Column) -> bool:
    """Whether a column has more than the type that a list of its values has: a collation, a domain."""
    return collated(column) or is_domain(column)


def domain_lost(context: Context, text: str, known: list[Column | None]) -> bool:
    """Whether a statement might notice that what it is told of a query are base types; ``known``: columns of tables."""
    sure = all(column is not None and (column.definition or not is_domain(column)) for column in known)
    return not sure and shows_types(context) and may_have_domain(context.rewritten(text))


def column_types(context: Context, text: str) -> list[Column | None]:
    """Return the columns of tables that a query's columns are; None for what is computed, or not certain."""
    found = _named(context, text)
    return [None] if found is None else [known for _, known in found]


def may_collate(context: Context) -> bool:
    """Whether a query's texts may have another collation than the database's: COLLATE, or a column that has one."""
    nodes = context.parsed.nodes
    if "CollateClause" in context.parsed.kinds:
        return True
    named = {strings(body["fields"])[-1] for kind, body in nodes if kind == "ColumnRef"}
    relations = [context.relation(body) for kind, body in nodes if kind == "RangeVar"]
    columns = [column for relation in relations if relation is not None for column in relation.columns]
    return any(collated(column) and (column.name in named or "*" in named) for column in columns)


def _verified(parsed: Parsed, rows: Rows, text: str) -> bool:
    changed = parsed.text[: rows.start] + text + parsed.text[rows.end : parsed.end]
    try:
        (whole,), (part,) = parse(changed), parse(text)
    except (SyntaxFailure, ValueError):
        return False
    return whole.kind == parsed.kind and same(whole.body, _replaced(parsed.body, rows.node, part.body))


def _replaced(value: Any, old: Node, new: Node) -> Any:
    """Return a copy of a tree with one node replaced."""
    if value is old:
        return new
    if isinstance(value, list):
        return [_replaced(item, old, new) for item in value]
    if isinstance(value, dict):
        return {key: _replaced(item, old, new) for key, item in value.items()}
    return value


def _named(context: Context, text: str) -> list[tuple[str, Column | None]] | None:
    """Return a query's columns by name, and those of a table that they are; None where the names are not certain.

    Whoever asks compares them.
    """
    inside = context.rewritten(text)
    if "targetList" not in inside.body:  # VALUES, and operations of sets
        return None
    scope = Scope(inside)
    try:
        level = scope.select(inside.body)
    except Refused:
        return None
    found: list[tuple[str, Column | None]] = []
    for target in inside.body["targetList"]:
        body = target["ResTarget"]
        value = body.get("val", {})
        fields = strings(value.get("ColumnRef", {}).get("fields"))
        known = scope.column(level.names.column(value))
        if fields[-1:] == ("*",):
            starred = star_columns(level.names, fields)
            if starred is None:
                return None
            found += [(name, scope.column(column)) for name, column in starred]
        elif "name" in body:
            found.append((body["name"], known))
        elif fields or "FuncCall" in value:
            found.append(((fields or strings(value["FuncCall"].get("funcname")))[-1], known))
        else:
            return None
    return found
