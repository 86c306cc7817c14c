"""MERGE with INSERT, joined by anything: which rows of the source match is asked of all shards before any is put in.

Decides how a MERGE runs whose source's rows may match on any shard. In three steps:

1. The source is asked, whole, by a SELECT of its own: its rows become lists, and have numbers by their places in them.
2. Every shard is asked which of these rows its target's rows match. Where a clause changes what matches, these rows are
   locked, so that they still match, in the same way, when they are changed; others' changes are waited for, and tried
   again by Postgres, as MERGE itself would. A row whose key somebody has changed meanwhile is gone then from where it
   was, and stands where no lock looked for it: so all shards are asked again, without locks and at one moment, until
   that finds nothing but what is locked. The numbers of all shards together say what is matched.
3. Every shard merges. A row of the source that matched nowhere is ``pgchorus_new``: it is put in by the shard that its
   key belongs to, and by no other. Rows that have come to the target since step 2 and would match such a row are let
   alone: the snapshot in which it matched nothing does not have them.

What MERGE does with rows of the target that match nothing (NOT MATCHED BY SOURCE) each shard sees by itself.

Left out: a target with row-level security (a row that may not be locked would seem to match nothing), sources of more
than one name (JOIN: it can be put into a subquery), subqueries in ON, and RETURNING of all the source's columns, of
which there are more now.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from router.cluster import Sharded
from router.errors import Refused, SyntaxFailure
from router.plan_steps import Asked, Shape
from router.planner import asking_rows, merge_into
from router.planner.clauses import Edit, apply
from router.planner.names import star_columns
from router.planner.scope import Scope
from router.planner.typed import may_have_domain, shows_types
from router.planner.wanted import Wanted
from router.printer import quoted
from router.rewrite import at_top, outside_brackets
from router.statement import parse
from router.tree import same, strings, walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from router.keys import ColumnId
    from router.planner.context import Context
    from router.relation import Column, Relation
    from router.statement import Parsed
    from router.tree import Node

    Read = Callable[[Context, str, Shape], Asked | None]

NEW: Final = '"pgchorus_new"'
_NUMBER: Final = '"pgchorus_n"'
_MATCHED: Final = "MERGE_WHEN_MATCHED"


@dataclass(frozen=True, slots=True)
class _Pieces:
    """A MERGE in pieces: texts, and token indexes of USING, ON and the first WHEN."""

    before: str
    target: str
    source: str
    condition: str
    using: int
    on: int
    when: int


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the source: its name, and its type as a table defines it ('': nobody knows).

    ``text``: a list of its values is one of texts.
    """

    name: str
    definition: str
    text: bool


def rewritten(context: Context, read: Read) -> tuple[Context, tuple[tuple[Asked, ...], ...]] | None:
    """Return the MERGE over lists, and what is asked before it, the later by the answers of the earlier."""
    pieces = _pieces(context)
    if pieces is None:
        return None
    label = _label(context.body["sourceRelation"])
    columns = _columns(context, pieces, label)
    if not columns or len({column.name for column in columns}) < len(columns):
        return None
    shown = ", ".join(f"{quoted(label)}.{quoted(column.name)}" for column in columns)
    query = f"{pieces.before}SELECT {shown} FROM {pieces.source}"  # noqa: S608 - the client's own text
    source = read(context, query, Shape.ROWS)
    if source is None or _domain_lost(context, columns, query):
        return None
    number = max(context.parsed.parameters, len(context.reader.parameter_oids)) + 1
    rows = _rows(columns, number)
    lists = f"(SELECT {_shown(columns)}, {_NUMBER} FROM {rows}) AS {quoted(label)}"  # noqa: S608 - quoted
    text = f"SELECT {quoted(label)}.{_NUMBER} FROM {pieces.target}, {lists} WHERE ({pieces.condition})"  # noqa: S608 - the client's own text
    lock = _lock(context)
    found = read(context, text + lock, Shape.LIST)
    seen = read(context, text, Shape.LIST) if lock else None
    if found is None or (lock and seen is None):
        return None
    found = replace(found, seen=seen.read if seen is not None else None)
    new = f"{_NUMBER} <> ALL (${number + len(columns)}) AS {NEW}"
    merged = _text(context, pieces, label, f"(SELECT {_shown(columns)}, {new} FROM {rows}) AS {quoted(label)}")  # noqa: S608 - quoted
    if merged is None:
        return None
    inside = context.rewritten(merged)
    inside.decided = True
    unsure = tuple(column.name for column in columns if not column.definition) if source.unsure else ()
    texts = tuple(column.name for column in columns if column.text)
    source = replace(source, columns=tuple(column.name for column in columns), unsure=unsure, texts=texts)
    return inside, ((source,), (found,))


# --- what it is made of ----------------------------------------------------------------------------------------------


def _label(source: Node) -> str:
    body: Node = next(iter(source.values()))
    name: str = body.get("alias", {}).get("aliasname", body.get("relname", ""))
    return name


def _pieces(context: Context) -> _Pieces | None:
    """Cut the text; None for a MERGE that is not done so."""
    body, parsed = context.body, context.parsed
    source = body.get("sourceRelation", {})
    relation = context.relation(body["relation"]) if parsed.kind == "MergeStmt" else None
    if relation is None or not isinstance(context.placement(relation), Sharded) or relation.row_security:
        return None
    if not _single(source) or not _inserts(body) or _shows_all(body, _label(source)):
        return None
    ctes = {entry["CommonTableExpr"]["ctename"] for entry in body.get("withClause", {}).get("ctes", ())}
    rest = {name: part for name, part in body.items() if name not in {"withClause", "sourceRelation"}}
    nodes = list(walk({"Statement": rest}))
    if any(kind == "RangeVar" and part.get("relname") in ctes for kind, part in nodes):
        return None  # WITH is asked with the source, and gone then
    if any(kind == "SubLink" for kind, _ in walk(body["joinCondition"])) or "LockingClause" in parsed.kinds:
        return None
    return _cut(parsed)


def _single(source: Node) -> bool:
    if "RangeVar" in source:
        return True
    body = source.get("RangeSubselect", {})
    return "alias" in body and not body.get("lateral")


def _inserts(body: Node) -> bool:
    clauses = [clause["MergeWhenClause"] for clause in body.get("mergeWhenClauses", ())]
    return any(clause.get("commandType") == "CMD_INSERT" for clause in clauses)


def _shows_all(body: Node, label: str) -> bool:
    """Whether the source's row, or all its columns, are named."""
    for kind, node in walk({key: part for key, part in body.items() if key != "sourceRelation"}):
        fields = strings(node.get("fields")) if kind == "ColumnRef" else ()
        if fields in {("*",), (label, "*"), (label,)}:
            return True
    return False


def _cut(parsed: Parsed) -> _Pieces | None:
    tokens, text = parsed.tokens, parsed.text
    start = at_top(tokens, "MERGE")
    using = None if start is None else at_top(tokens, "USING", start)
    on = None if using is None else at_top(tokens, "ON", using)
    when = None if on is None else _first_when(parsed, on)
    if start is None or using is None or on is None or when is None or tokens[start + 1].name != "INTO":
        return None

    def between(first: int, last: int) -> str:
        return text[tokens[first].end : tokens[last].start].strip()

    before = text[: tokens[start].start]
    return _Pieces(before, between(start + 1, using), between(using, on), between(on, when), using, on, when)


def _first_when(parsed: Parsed, start: int) -> int | None:
    """Return the first WHEN behind a token that is not CASE's."""
    cases = 0
    for at in outside_brackets(parsed.tokens, start):
        name = parsed.tokens[at].name
        if name in {"CASE", "END_P"}:
            cases += 1 if name == "CASE" else -1
        elif name == "WHEN" and not cases:
            return at
    return None


def _columns(context: Context, pieces: _Pieces, label: str) -> list[_Column] | None:
    """Return the columns of the source that count; None where they are not certain."""
    body = context.body["sourceRelation"].get("RangeVar", {})
    relation = context.relation(body) if body and not pieces.before else None
    if relation is not None and "colnames" not in body.get("alias", {}):
        if _is_row_of(context, label, relation):
            return None
        wanted = Wanted(context.parsed.nodes, {label}).columns(body, relation)
        counted = wanted or (relation.columns[0].name,)  # rows are counted by a column
        return [_known(context, column) for column in relation.columns if column.name in counted]
    inside = context.rewritten(f"{pieces.before}SELECT * FROM {pieces.source}")  # noqa: S608 - the client's own text
    scope = Scope(inside)
    try:
        found = star_columns(scope.select(inside.body).names, ("*",))
    except Refused:
        return None
    return None if found is None else [_column(context, scope, name, column) for name, column in found]


def _is_row_of(context: Context, label: str, relation: Relation) -> bool:
    """Whether a statement calls a function of the source's whole row, as ``label.f``."""
    named = (strings(body["fields"]) for kind, body in context.parsed.nodes if kind == "ColumnRef")
    return any(
        fields[-2:-1] == (label,) and fields[-1] != "*" and relation.column(fields[-1]) is None for fields in named
    )


def _domain_lost(context: Context, columns: list[_Column], query: str) -> bool:
    unsure = any(not column.definition for column in columns)
    return unsure and shows_types(context) and may_have_domain(context.rewritten(query))


def _known(context: Context, column: Column) -> _Column:
    return _Column(column.name, column.definition, asking_rows.goes_as_text(context, column))


def _column(context: Context, scope: Scope, name: str, column: ColumnId | None) -> _Column:
    known = scope.column(column)
    return _Column(name, "", text=False) if known is None else replace(_known(context, known), name=name)


# --- texts -----------------------------------------------------------------------------------------------------------


def _rows(columns: list[_Column], number: int) -> str:
    lists = ", ".join(f"pg_catalog.unnest(${number + at})" for at in range(len(columns)))
    names = ", ".join(quoted(column.name) for column in columns)
    return f'ROWS FROM ({lists}) WITH ORDINALITY AS "pgchorus" ({names}, {_NUMBER})'


def _shown(columns: list[_Column]) -> str:
    return ", ".join(
        f"{quoted(column.name)}::{column.definition} AS {quoted(column.name)}"
        if column.definition
        else quoted(column.name)
        for column in columns
    )


def _lock(context: Context) -> str:
    """Return the lock that clauses need on what matches."""
    commands = {
        body.get("commandType")
        for clause in context.body["mergeWhenClauses"]
        if (body := clause["MergeWhenClause"]).get("matchKind", _MATCHED) == _MATCHED
    }
    target = context.body["relation"]
    label = quoted(target.get("alias", {}).get("aliasname", target["relname"]))
    if "CMD_DELETE" in commands:
        return f" FOR UPDATE OF {label}"
    return f" FOR NO KEY UPDATE OF {label}" if "CMD_UPDATE" in commands else ""


def _text(context: Context, pieces: _Pieces, label: str, source: str) -> str | None:
    """Return the MERGE over lists, whose clauses ask whether the source's row is new; parsed again and compared."""
    parsed = context.parsed
    tokens = parsed.tokens
    clauses = [clause["MergeWhenClause"] for clause in context.body["mergeWhenClauses"]]
    places = list(merge_into.whens(parsed))
    if len(places) != len(clauses):
        return None
    edits = [
        Edit(0, len(pieces.before), ""),
        Edit(tokens[pieces.using].end, tokens[pieces.on].start, f" {source} "),
    ]
    new = f"{quoted(label)}.{NEW}"
    for body, (condition, then) in zip(clauses, places, strict=True):
        gate = _gate(body, new)
        end = tokens[then].start
        if gate and condition is None:
            edits.append(Edit(end, end, f"AND {gate} "))
        elif gate and condition is not None:
            start = tokens[condition].end
            edits += [Edit(start, start, f" CASE WHEN {gate} THEN ("), Edit(end, end, ") ELSE false END ")]
    text = apply(parsed.text[: parsed.end], edits)
    return text if _verified(context.body, text, new) else None


def _gate(body: Node, new: str) -> str:
    if body.get("commandType") == "CMD_INSERT":
        return new
    changes = body.get("commandType") in {"CMD_UPDATE", "CMD_DELETE"}
    return f"NOT {new}" if changes and body.get("matchKind", _MATCHED) == _MATCHED else ""


def _verified(old: Node, text: str, new: str) -> bool:
    try:
        (found,) = parse(text)
    except (SyntaxFailure, ValueError):
        return False
    after = found.body
    kept = {key: part for key, part in old.items() if key not in {"withClause", "sourceRelation", "mergeWhenClauses"}}
    if found.kind != "MergeStmt" or not all(same(part, after.get(key)) for key, part in kept.items()):
        return False
    before, now = old["mergeWhenClauses"], after["mergeWhenClauses"]
    return len(before) == len(now) and all(
        _same_clause(one["MergeWhenClause"], two["MergeWhenClause"], new) for one, two in zip(before, now, strict=True)
    )


def _same_clause(old: Node, new: Node, name: str) -> bool:
    gate = _gate(old, name)
    if not gate:
        return same(old, new)
    (probe,) = parse(f"SELECT {gate}")
    wanted: Any = probe.body["targetList"][0]["ResTarget"]["val"]
    condition = new.get("condition", {})
    if "condition" in old:
        whens = condition.get("CaseExpr", {}).get("args", [])
        if len(whens) != 1 or not same(whens[0]["CaseWhen"].get("expr"), wanted):
            return False
        return same(old, {**new, "condition": whens[0]["CaseWhen"].get("result")})
    rest = {key: part for key, part in new.items() if key != "condition"}
    return same(condition, wanted) and same(old, rest)
