"""UPDATE, DELETE and MERGE with subqueries over several shards: these are asked first, and their answers filled in.

Decides which subqueries can be: those that give one value, a list for IN, or a yes or no, and that do not refer to the
row outside. The last cannot be seen for certain in the text; whoever asks finds it out, because such a query alone
means nothing (:mod:`proxy.session.filling`). Those of FROM, USING and WITH are in :mod:`router.planner.asking_rows`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from router.errors import Refused
from router.plan_steps import Asked, Shape
from router.planner import asking_rows
from router.planner.placing import locks
from router.rewrite import group_end
from router.tree import is_wrapped, strings, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from router.planner.context import Context
    from router.statement import Parsed
    from router.tree import Node

_WRITES: Final = frozenset({"UpdateStmt", "DeleteStmt", "MergeStmt"})
_WRITING: Final = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})


def rewritten(context: Context) -> tuple[str, tuple[Asked, ...]] | None:
    """Return the statement with parameters for its subqueries, and the subqueries; None where that cannot be."""
    node, parsed = context.body, context.parsed
    names = asking_rows.ctes(node)
    if parsed.kind not in _WRITES or names is None:
        return None
    number = max(parsed.parameters, len(context.reader.parameter_oids)) + 1
    asked, splices = [], []
    for table in asking_rows.tables(context, names):
        rows = asking_rows.placed(parsed, table)
        found = None if rows is None else _read(context, parsed.text[rows.start : rows.end], Shape.ROWS)
        query = None if found is None or rows is None else asking_rows.asked(context, found, rows, number)
        if query is None:
            return None
        asked.append(query[0])
        splices.append(query[1])
        number += len(query[0].columns)
    for link in _links([node.get("whereClause"), node.get("targetList")]):
        if asking_rows.mentions(link, names):
            continue
        place = None if _looks_outside(link["subselect"]) else _place(parsed, link)
        read = None if place is None else _read(context, parsed.text[place.opening : place.end - 1], place.shape)
        if place is None or read is None:
            return None
        asked.append(read)
        splices.append((place.start, place.end, place.text.format(f"${number}")))
        number += 1
    if not asked:
        return None
    changed = parsed.text[: parsed.end]
    for start, end, text in sorted(splices, reverse=True):
        changed = changed[:start] + text + changed[end:]
    return changed, tuple(asked)


def _read(context: Context, text: str, shape: Shape) -> Asked | None:
    """Plan the subquery as a statement; None when it cannot be, or writes. It may lock the rows that it returns."""
    from router.planner import select  # noqa: PLC0415 - SELECT's planner knows of UPDATE in WITH

    inside = context.rewritten(text)
    try:
        read = select.plan(inside)
    except Refused:
        return None
    writes = inside.whole_effect.writes or not _WRITING.isdisjoint(inside.parsed.kinds)
    return None if writes else Asked(read, shape, locks=locks(inside))


def _looks_outside(query: Node) -> bool:
    """Whether a qualified name in a subquery means a table that is not in it."""
    nodes = list(walk(query))
    inside = {body.get("relname", "") for kind, body in nodes if kind == "RangeVar"}
    inside |= {body.get("aliasname", "") for kind, body in nodes if kind == "Alias"}
    named = (strings(body.get("fields")) for kind, body in nodes if kind == "ColumnRef")
    return any(len(fields) > 1 and not inside & set(fields[:-1]) for fields in named)


def _links(value: object) -> Iterator[Node]:
    """Yield the outermost SubLinks."""
    if isinstance(value, list):
        for part in value:
            yield from _links(part)
    elif isinstance(value, dict):
        if is_wrapped(value) and "SubLink" in value:
            yield value["SubLink"]
            return
        for part in value.values():
            yield from _links(part)


@dataclass(frozen=True, slots=True)
class _Place:
    """A subquery in its text: where it begins and ends with its operator, where it opens, and what goes there."""

    start: int
    end: int
    opening: int
    shape: Shape
    text: str


def _place(parsed: Parsed, link: Node) -> _Place | None:
    """Find a subquery; None when it is of another kind."""
    tokens = parsed.tokens
    at = parsed.token_at(parsed.place(link.get("location", 0)))
    kind = link.get("subLinkType", "EXISTS_SUBLINK")
    names = [tokens[index].name for index in range(at, min(at + 3, len(tokens)))]
    if kind == "EXPR_SUBLINK" and names[:1] == ["ASCII_40"]:
        opening, shape, text = at, Shape.VALUE, "{}"
    elif kind == "EXISTS_SUBLINK" and names[:2] == ["EXISTS", "ASCII_40"]:
        opening, shape, text = at + 1, Shape.EXISTS, "{}"
    elif kind == "ANY_SUBLINK" and "operName" not in link and "RowExpr" not in link.get("testexpr", {}):
        negated = names[:1] != ["IN_P"]
        opening, shape, text = at + (2 if negated else 1), Shape.LIST, "<> ALL ({})" if negated else "= ANY ({})"
    else:
        return None
    end = group_end(tokens, opening) if tokens[opening].name == "ASCII_40" else None
    return None if end is None else _Place(tokens[at].start, tokens[end].end, tokens[opening].end, shape, text)
