"""Defaults that read the clock, where an UPDATE, ON CONFLICT or MERGE sets a column to its DEFAULT or leaves it out.

Decides where their text goes, with the parameter that stands for the moment: it is one for all shards, and for all
copies of a reference table. Those of INSERT's rows are in :mod:`router.planner.filling_rows`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.planner import dml
from router.rewrite import at_top, group_end

if TYPE_CHECKING:
    from router.planner.context import Context
    from router.planner.filling import Values
    from router.planner.filling_rows import Rows
    from router.relation import Column, Relation
    from router.tree import Node


def fill(context: Context, filling: Values, rows: Rows) -> None:
    """Collect the splices."""
    relation, parsed = rows.relation, context.parsed
    if relation is None:
        return
    for name, place in dml.set_to_default(context.body):
        _replace(context, filling, _text(rows, relation, name), place)
    clauses = [clause["MergeWhenClause"] for clause in context.body.get("mergeWhenClauses", ())]
    for setting in (context.body, context.body.get("onConflictClause", {}), *clauses):
        for target in setting.get("targetList", ()):
            node = target["ResTarget"]
            if "indirection" not in node:
                _word(context, filling, relation.column(node.get("name", "")), node.get("val", {}))
    at = 0
    for clause in context.body.get("mergeWhenClauses", ()):
        body = clause["MergeWhenClause"]
        if body.get("commandType") == "CMD_INSERT":
            found = at_top(parsed.tokens, "INSERT", at)
            if found is None:
                return
            _insert(context, filling, rows, body, found)
            at = found + 1


def _word(context: Context, filling: Values, column: Column | None, value: Node) -> None:
    """Replace a word of the clock that a column is set to."""
    known = column is not None and column.type_schema == "pg_catalog"
    word = filling.word(value, column.type_name) if known and column is not None else None
    if word is not None and column is not None:
        place = value["A_Const"].get("location", 0)
        _replace(context, filling, f"{word}::pg_catalog.{column.type_name}", place)


def _text(rows: Rows, relation: Relation, name: str) -> str | None:
    column = relation.column(name)
    text = rows.default(column) if column is not None else None
    return f"({text})" if isinstance(text, str) else None


def _replace(context: Context, filling: Values, text: str | None, place: int) -> None:
    parsed = context.parsed
    if text is not None:
        token = parsed.tokens[parsed.token_at(parsed.place(place))]
        filling.splice(token.start, token.end, text)


def _insert(context: Context, filling: Values, rows: Rows, body: Node, at: int) -> None:
    """Fill in the INSERT of a MERGE, which begins at a token: DEFAULT, and the columns that it leaves out."""
    relation, tokens = rows.relation, context.parsed.tokens
    values = body.get("values", [])
    if relation is None or not values:
        return  # DEFAULT VALUES gives no key
    listed = [target["ResTarget"]["name"] for target in body.get("targetList", ())]
    names = listed or [column.name for column in relation.columns][: len(values)]
    for name, value in zip(names, values, strict=False):
        if "SetToDefault" in value:
            _replace(context, filling, _text(rows, relation, name), value["SetToDefault"]["location"])
    found = {c.name: text for c in relation.columns if c.name not in names and (text := _text(rows, relation, c.name))}
    word = at_top(tokens, "VALUES", at)
    end = None if word is None else group_end(tokens, word + 1)
    if not found or end is None:
        return
    added = "".join(f', "{name.replace(chr(34), chr(34) * 2)}"' for name in found)
    if listed:
        behind = group_end(tokens, at + 1) or at
        filling.splice(tokens[behind].start, tokens[behind].start, added)
    else:
        before = ", ".join(f'"{name.replace(chr(34), chr(34) * 2)}"' for name in names)
        filling.splice(tokens[at].end, tokens[at].end, f" ({before}{added})")
    filling.splice(tokens[end].start, tokens[end].start, "".join(f", {text}" for text in found.values()))
