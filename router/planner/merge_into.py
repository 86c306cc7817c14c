"""MERGE over several shards: each shard merges its own rows.

Decides when the shards' MERGEs together are the one that was asked for. Two kinds of source are:

- One whose rows are spread like the target's, with the sharding keys joined in ON. A row of it then matches on its own
  shard or nowhere, and is inserted there if the inserted key is its own.
- One that every shard has whole (VALUES, reference tables). Rows of the target meet all of it where they are; a row
  of it that no shard's target matches must be inserted by one shard. ON has to join the sharding key with a column of
  the source, which is inserted as the key: then a row can only match on the shard that the column's value belongs to,
  and each shard inserts those rows that belong to it, by a condition of its own in the text (OwnRows).

- One of which it has been asked before what it matches on any shard (:mod:`router.planner.asking_merge`): what matches
  nothing is inserted by the shard that its key belongs to.

Everything else is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.errors import SyntaxFailure
from router.plan import ByKeys, EveryShard, Scatter, SumTags
from router.plan_steps import OwnRows
from router.planner import dml
from router.planner.clauses import Edit, apply
from router.planner.spread import Part, Spread, target_of
from router.printer import expression
from router.rewrite import outside_brackets
from router.statement import parse
from router.tree import same

if TYPE_CHECKING:
    from collections.abc import Iterator

    from router.plan import Plan, Target
    from router.planner.context import Context
    from router.planner.dml import Inserted, Written
    from router.planner.scope import Scope
    from router.relation import Column
    from router.statement import Parsed
    from router.tree import Node

_VARHDRSZ = 4  # a varchar's modifier is its length and this
_CHECK = "\0"  # stands for a shard's condition while the text is made; no SQL text can hold it


def plan(context: Context, scope: Scope, written: Written) -> Plan:
    """Plan a MERGE into a sharded table whose rows are on several shards."""
    level, key = written.level, written.source.key
    spread = Spread(scope)
    part = spread.rows(level)
    outside = Part((*part.keys, key) if key is not None else part.keys)
    for nested in level.nested:
        spread.nested(nested, outside)
    _check_inserts(context, scope, written)
    return _joined(context, scope, written, part) if part.keys else _with_copies(context, written)


def _clauses(written: Written) -> list[Node]:
    return [clause["MergeWhenClause"] for clause in written.level.node.get("mergeWhenClauses", ())]


def _by_source(written: Written) -> bool:
    return any(body.get("matchKind") == dml.BY_SOURCE for body in _clauses(written))


def _joins(written: Written, column: object) -> bool:
    """Whether ON says that a column of the source equals the target's key."""
    on, key = written.on, written.source.key
    return on is not None and key is not None and column in on.class_of(key)


def _check_inserts(context: Context, scope: Scope, written: Written) -> None:
    """Refuse defaults and assignments by which rows would differ from shard to shard, or from what was planned."""
    relation, at = written.relation, written.source.location
    if relation is None:
        return
    for body in _clauses(written):
        if body.get("commandType") != "CMD_INSERT":
            continue
        for column in dml.merge_defaulted(relation, body):
            if column.default and context.effect(dml.default_value(column)).clock:
                detail = f"Column {column.name} takes the time as its default: give it in the INSERT."
                raise context.refuse("merge-insert", at, detail=detail)
    key = relation.column(written.source.key.name) if written.source.key is not None else None
    if key is None or not all(_fits(scope, inserted, key) for inserted in written.inserted):
        # varchar(n) may cut blanks off what is inserted: it would belong elsewhere then.
        raise context.refuse("merge-insert", at, detail="The key's type is shorter than the source's.")


def _fits(scope: Scope, inserted: Inserted, key: Column) -> bool:
    """Whether a key belongs where its value in the source does: a varchar(n) would lose blanks beyond n."""
    if inserted.column is None and key.type_name == "varchar" and key.type_modifier >= 0:
        return scope.context.decided  # its key is cast to the column's type
    return inserted.column is None or dml.kept(scope, inserted.column, key)


def _joined(context: Context, scope: Scope, written: Written, part: Part) -> Plan:
    """The source is spread like the target."""
    level = written.level
    if not any(_joins(written, key) for key in part.keys):
        raise context.refuse("merge", written.source.location)
    # A key on the nullable side of an outer join is NULL in rows of every shard.
    present = [key for key in part.keys if scope.sources[key.source].facts is level.facts]
    for inserted in written.inserted:
        own = inserted.source.key
        if own is None or not any(inserted.source.facts.same(own, key) for key in present):
            raise context.refuse("merge-insert", written.source.location)
    target = EveryShard() if _by_source(written) else target_of(level, part, scope)
    return Scatter(target, SumTags(), writes=True)


def _with_copies(context: Context, written: Written) -> Plan:
    """Every shard has the whole source."""
    at = written.source.location
    if context.effect(written.level.node["sourceRelation"]).volatile:
        raise context.refuse("volatile-once", at)
    for inserted in written.inserted:
        if context.effect(inserted.value).volatile:
            raise context.refuse("merge-insert", at, detail="The inserted key is volatile.")
        if not context.decided and (inserted.column is None or not _joins(written, inserted.column)):
            raise context.refuse("merge-insert", at)
    target = EveryShard() if context.decided else _reached(written)
    if not written.inserted:
        return Scatter(target, SumTags(), writes=True)
    pieces = _pieces(context, written.inserted)
    return OwnRows(target, pieces, tuple(_key(context, inserted) for inserted in written.inserted))


def _reached(written: Written) -> Target:
    """Return the shards where rows of the target match, or rows of the source belong, over copies of the source."""
    source = written.source
    if source.key is None or _by_source(written):
        return EveryShard()
    columns = [(inserted.source.facts, inserted.column) for inserted in written.inserted]
    found = [facts.terms(column) for facts, column in columns if column is not None]
    if not found:
        found = [source.facts.terms(source.key)]
    known = [terms for terms in found if terms is not None]
    if len(known) < len(found):
        return EveryShard()
    return ByKeys(source.key_type, tuple(dict.fromkeys(term for terms in known for term in terms)))


def _key(context: Context, inserted: Inserted) -> tuple[str, str]:
    """Return the family and the text of an inserted key."""
    text, column, key = expression(inserted.value), inserted.column, inserted.source.key
    if text is not None and context.decided and key is not None and key.family is not None:
        return key.family, f"({text})::pg_catalog.{_cast(inserted)}"
    if column is None or column.family is None or text is None:
        raise context.refuse("rewrite")
    return column.family, text


def _cast(inserted: Inserted) -> str:
    """Return the type that an inserted key is cast to where it is asked whose it is.

    Where the row is put in it is assigned to the key's own type. Of the family's types the largest is the same, and
    nothing overflows. A varchar(n) is cut to n here; the assignment cuts blanks only, and is an error for all else.
    """
    relation, key = inserted.source.relation, inserted.source.key
    column = relation.column(key.name) if relation is not None and key is not None else None
    if column is not None and column.type_name == "varchar" and column.type_modifier >= 0:
        return f"varchar({column.type_modifier - _VARHDRSZ})"
    return key.family or "" if key is not None else ""


# --- the text --------------------------------------------------------------------------------------------------------


def _pieces(context: Context, inserted: list[Inserted]) -> tuple[str, ...]:
    """Return the text in pieces between which the conditions of the inserting clauses go, and see that it is right."""
    parsed = context.parsed
    clauses = [clause["MergeWhenClause"] for clause in parsed.body["mergeWhenClauses"]]
    places = list(whens(parsed))
    edits: list[Edit] = []
    if len(places) == len(clauses):
        for body, (condition, then) in zip(clauses, places, strict=True):
            if body.get("commandType") == "CMD_INSERT":
                edits += _edits(parsed, condition, then, last=context.decided)
    pieces = tuple(apply(parsed.text[: parsed.end], edits).split(_CHECK))
    if len(pieces) != len(inserted) + 1 or not _verified(parsed, pieces):
        raise context.refuse("rewrite")
    return pieces


def _edits(parsed: Parsed, condition: int | None, then: int, *, last: bool) -> list[Edit]:
    """Put the condition into one clause. CASE keeps the client's own from being tried for rows of other shards.

    ``last``: it is tried behind the client's own, because the key may be an expression that not all rows can have.
    """
    tokens = parsed.tokens
    end = tokens[then].start
    if condition is None:
        return [Edit(end, end, f"AND {_CHECK} ")]
    start = tokens[condition].end
    if last:
        return [Edit(start, start, " CASE WHEN ("), Edit(end, end, f") THEN {_CHECK} ELSE false END ")]
    return [Edit(start, start, f" CASE WHEN {_CHECK} THEN ("), Edit(end, end, ") ELSE false END ")]


def whens(parsed: Parsed) -> Iterator[tuple[int | None, int]]:
    """Yield where each WHEN clause has its AND (None: it has none) and its THEN; CASE has words of its own."""
    tokens = parsed.tokens
    cases, condition, inside = 0, None, False
    for at in outside_brackets(tokens):
        name = tokens[at].name
        if at and tokens[at - 1].name in {"ASCII_46", "AS"}:
            continue  # a column of that name
        if name in {"CASE", "END_P"}:
            cases += 1 if name == "CASE" else -1
        elif cases:
            continue
        elif name == "WHEN":
            condition, inside = None, True
        elif name == "AND" and inside and condition is None:
            condition = at
        elif name == "THEN" and inside:
            yield condition, at
            inside = False


def _verified(parsed: Parsed, pieces: tuple[str, ...]) -> bool:
    """Parse the text again: all is as it was, but for the conditions of the clauses that insert."""
    try:
        found = parse("true".join(pieces))
    except SyntaxFailure:
        return False
    if len(found) != 1 or found[0].kind != parsed.kind:
        return False
    old, new = parsed.body, found[0].body
    before, after = old.get("mergeWhenClauses", []), new.get("mergeWhenClauses", [])
    if {**old, "mergeWhenClauses": ()}.keys() != {**new, "mergeWhenClauses": ()}.keys() or len(before) != len(after):
        return False
    if not all(same(value, new[field]) for field, value in old.items() if field != "mergeWhenClauses"):
        return False
    return all(
        _same_clause(one["MergeWhenClause"], other["MergeWhenClause"]) for one, other in zip(before, after, strict=True)
    )


def _same_clause(old: Node, new: Node) -> bool:
    condition = new.get("condition")
    if old.get("commandType") == "CMD_INSERT":
        if "condition" not in old:
            plain = condition is not None and "A_Const" in condition
            return plain and same(old, {key: value for key, value in new.items() if key != "condition"})
        whens = (condition or {}).get("CaseExpr", {}).get("args", [])
        parts = whens[0]["CaseWhen"] if len(whens) == 1 else {}
        return any(
            "A_Const" in parts.get(ours, {}) and same(old, {**new, "condition": parts.get(kept)})
            for ours, kept in (("expr", "result"), ("result", "expr"))
        )
    return same(old, {**new, "condition": condition} if condition is not None else new)
