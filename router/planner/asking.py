"""UPDATE, DELETE and MERGE over several shards: what a shard cannot see is asked first, and the answers filled in.

So are the subqueries of a SELECT that lock rows, and what one that sets a sequence sets it by
(:mod:`router.planner.asking_sequences`), and no others: its tables are read at one moment.

Decides which subqueries can be asked whole: those that give one value, a list for IN, or a yes or no, and that do not
refer to the row outside. The last cannot be seen for certain in the text; whoever asks finds it out, because such a
query alone means nothing (:mod:`proxy.session.filling`). Those of FROM, USING and WITH are in
:mod:`router.planner.asking_rows`; tables, wherever they are joined or looked at, in
:mod:`router.planner.asking_tables`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from router.cluster import Sharded
from router.errors import Refused
from router.plan_steps import Asked, Shape
from router.planner import asking_merge, asking_rows, asking_sequences, asking_tables
from router.planner.placing import locks
from router.planner.typed import is_domain
from router.rewrite import group_end
from router.tree import conjuncts, is_wrapped, name_parts, strings, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from router.planner.context import Context
    from router.statement import Parsed
    from router.tree import Node

_WRITES: Final = frozenset({"UpdateStmt", "DeleteStmt", "MergeStmt"})
_OF_A_TYPE: Final = frozenset({"EXPR_SUBLINK", "ARRAY_SUBLINK"})  # the others are compared, or yes and no
ROW: Final = "MULTIEXPR_SUBLINK"  # SET (a, b) = (SELECT ...), which gives several values; the parser has no name for it
_CHOOSING: Final = frozenset({"limitCount", "limitOffset", "lockingClause"})
# Postgres computes what is constant when it plans, also where no row comes: (SELECT $1) is found when a row needs it.
_FOUND_LATE: Final = "(SELECT {})"
_COMPARISONS: Final = frozenset((name,) for name in ("=", "<>", "<", ">", "<=", ">="))
_WRITING: Final = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})


def ways(context: Context) -> Iterator[tuple[Context, tuple[tuple[Asked, ...], ...]]]:
    """Yield the statement with parameters for what is asked first, and what that is, with the least asked first.

    First all its subqueries; then those that can be asked whole, and the tables that stand elsewhere, without and with
    those that are joined to the target on the sharding keys. Last a MERGE in steps. What is asked comes in rows: later
    ones may use the answers of earlier ones.
    """
    if _locks_inside(context):
        locking = _subqueries(context, every=True, wanted=_locking)
        if locking is not None:
            yield context.rewritten(locking[0]), (locking[1],)
    if context.parsed.kind == "SelectStmt" and context.every_effect.advances_sequences:
        yield from _for_sequences(context)
    if context.parsed.kind not in _WRITES:
        return
    found = _subqueries(context, every=True)
    if found is not None:
        yield context.rewritten(found[0]), (found[1],)
    text, asked = _subqueries(context, every=False) or ("", ())
    inside = context.rewritten(text) if asked else context
    for keeps in (True, False):
        try:
            tables = asking_tables.rewritten(inside, keeps=keeps)
        except Refused:
            break  # names that mean nothing here: the plan without lists says what is wrong
        if tables is not None:
            yield tables[0], ((*asked, tables[1]),)
    merged = asking_merge.rewritten(context, _read)
    if merged is not None:
        yield merged


def _for_sequences(context: Context) -> Iterator[tuple[Context, tuple[tuple[Asked, ...], ...]]]:
    """Yield how a SELECT that takes or sets a sequence's value asks first by what: all at one moment."""
    one_row = asking_sequences.rewritten(context, _read)
    if one_row is not None:
        yield one_row[0], (one_row[1],)
    found = _subqueries(context, every=True)
    if found is not None and [asked.shape for asked in found[1]] == [Shape.ROWS]:
        yield context.rewritten(found[0]), (found[1],)


def _locks_inside(context: Context) -> bool:
    """Whether a SELECT locks rows in subqueries all of whose rows are read: in Postgres LIMIT keeps it from that.

    One of WITH that nothing mentions is not run at all.
    """
    node, parsed = context.body, context.parsed
    limited = not node.keys().isdisjoint(("limitCount", "limitOffset"))
    if parsed.kind != "SelectStmt" or "LockingClause" not in parsed.kinds or limited:
        return False
    outside = {key: value for key, value in node.items() if key != "withClause"}
    found = [entry["CommonTableExpr"] for entry in node.get("withClause", {}).get("ctes", ())]
    return all(asking_rows.mentions(outside, frozenset({body["ctename"]})) for body in found if _locking(body))


def _locking(node: Node) -> bool:
    return any(kind == "LockingClause" for kind, _ in walk(node))


def _all(_: Node) -> bool:
    return True


def _subqueries(
    context: Context, *, every: bool, wanted: Callable[[Node], bool] = _all
) -> tuple[str, tuple[Asked, ...]] | None:
    """Return the text with parameters for those of its wanted subqueries, and these; None without any.

    ``every``: None as well where one of them cannot be asked; else that one stays.
    """
    node, parsed = context.body, context.parsed
    names = asking_rows.ctes(node)
    if names is None:
        return None
    number = max(parsed.parameters, len(context.reader.parameter_oids)) + 1
    # The parser repeats the source of SET (a, b) = ... for each column: once is enough.
    found_links = _links([node.get("whereClause"), node.get("targetList")])
    links = list({link.get("location"): link for link in found_links}.values())
    links = [link for link in links if wanted(link) and not asking_rows.mentions(link, names)]
    asked: list[Asked] = []
    splices: list[tuple[int, int, str]] = []
    for item in (*filter(wanted, asking_rows.tables(context, names)), *filter(_chooses_rows, links)):
        query = _row_list(context, item, number) if "subselect" in item else _table(context, item, number)
        if query is not None:
            asked.append(query[0])
            splices.append(query[1])
            number += len(query[0].columns)
        elif every:
            return None
    values = [_unconditional(context, link, _value(context, link)) for link in links if not _chooses_rows(link)]
    if every and None in values:
        return None
    for at, (place, read) in enumerate(filter(None, values), number):
        asked.append(read)
        splices.append((place.start, place.end, place.text.format(f"${at}")))
    if not asked:
        return None
    changed = parsed.text[: parsed.end]
    for start, end, text in sorted(splices, reverse=True):
        changed = changed[:start] + text + changed[end:]
    return changed, tuple(asked)


def _table(context: Context, table: Node, number: int) -> tuple[Asked, tuple[int, int, str]] | None:
    """Return a subquery of FROM, USING or WITH, and what goes in its place; None where it cannot be asked."""
    rows = asking_rows.placed(context.parsed, table)
    found = None if rows is None else _read(context, context.parsed.text[rows.start : rows.end], Shape.ROWS)
    return None if found is None or rows is None else asking_rows.asked(context, found, rows, number)


def _chooses_rows(link: Node) -> bool:
    """Whether it is ``(a, b) IN (SELECT ... LIMIT n)``: shards that see the same tables may choose other rows."""
    query = link["subselect"]["SelectStmt"]
    listed = link.get("subLinkType") == "ANY_SUBLINK" and "RowExpr" in link.get("testexpr", {})
    return listed and "operName" not in link and not _CHOOSING.isdisjoint(query)


def _row_list(context: Context, link: Node, number: int) -> tuple[Asked, tuple[int, int, str]] | None:
    """Return the rows that a row is looked for in, and what goes in their place; None where they cannot be asked."""
    query = link["subselect"]
    rows = None if _looks_outside(query) else asking_rows.placed(context.parsed, query["SelectStmt"])
    if rows is None or _names_outside(context, query):
        return None
    read = _read(context, context.parsed.text[rows.start : rows.end], Shape.ROWS)
    if read is not None and read.locks and not _surely_run(context.body, link):
        raise context.refuse("subquery-locks", link.get("location"))
    return None if read is None else asking_rows.asked(context, read, rows, number)


def _unconditional(context: Context, link: Node, value: tuple[_Place, Asked] | None) -> tuple[_Place, Asked] | None:
    """Return how a subquery is asked; refuses one that would lock rows where Postgres might not run it."""
    if value is not None and value[1].locks and not _surely_run(context.body, link):
        raise context.refuse("subquery-locks", link.get("location"))
    return value


def _surely_run(node: Node, link: Node) -> bool:
    """Whether Postgres runs a subquery whatever the rows are: a condition of its own, or a column of a single row.

    Behind a condition on no row at all it might not, nor in a CASE, an OR, or what is computed for rows that are found.
    """
    conditions = conjuncts(node.get("whereClause"))
    if not conditions:
        return "fromClause" not in node and any(
            _uncast(target["ResTarget"].get("val", {})).get("SubLink") is link for target in node.get("targetList", ())
        )
    holding = [condition for condition in conditions if any(body is link for _, body in walk(condition))]
    others = [condition for condition in conditions if condition not in holding]
    about_rows = all(any(kind in {"ColumnRef", "SubLink"} for kind, _ in walk(other)) for other in others)
    return about_rows and any(_compares(condition, link) for condition in holding)


def _compares(condition: Node, link: Node) -> bool:
    if condition.get("BoolExpr", {}).get("boolop") == "NOT_EXPR":
        condition = condition["BoolExpr"]["args"][0]
    body = condition.get("A_Expr", {})
    sides = [condition, body.get("lexpr", {}), body.get("rexpr", {})]
    return any(isinstance(side, dict) and _uncast(side).get("SubLink") is link for side in sides)


def _uncast(node: Node) -> Node:
    while "TypeCast" in node:
        node = node["TypeCast"]["arg"]
    return node


def _value(context: Context, link: Node) -> tuple[_Place, Asked] | None:
    """Return where a subquery in an expression stands, and how it is asked; None where it cannot be."""
    query = link["subselect"]
    if link.get("subLinkType") == "EXPR_SUBLINK" and len(query["SelectStmt"].get("targetList", ())) > 1:
        return None  # compared with a row
    place = None if _looks_outside(query) or _names_outside(context, query) else _place(context.parsed, link)
    if place is None:
        return None
    text = context.parsed.text[place.opening : place.end - 1]
    read = _read(context, text, place.shape)
    if place.shape is Shape.VALUE and _is_computed_with(context, link):
        place = replace(place, text=_FOUND_LATE.format(place.text))
    if read is None or link.get("subLinkType") not in _OF_A_TYPE:
        return None if read is None else (place, read)
    known = asking_rows.column_types(context, text)
    if asking_rows.domain_lost(context, text, known):
        return None
    if len(known) == 1 and known[0] is not None and is_domain(known[0]) and known[0].definition:
        cast = known[0].definition.replace("{", "{{").replace("}", "}}")
        place = replace(place, text=f"{place.text}::{cast}{'[]' if place.shape is Shape.LIST else ''}")
    return place, read


def _is_computed_with(context: Context, link: Node) -> bool:
    """Whether a subquery is a part of what columns are set to, or of a condition that computes with it.

    What a column is compared with, and what the sharding key is set to, is the router's to see.
    """
    if context.parsed.kind not in {"UpdateStmt", "DeleteStmt"} or "CurrentOfExpr" in context.parsed.kinds:
        return False
    relation = context.catalog.resolve(name_parts(context.body["relation"]), context.search_path)
    placement = None if relation is None else context.catalog.effective_placement(relation)
    if not isinstance(placement, Sharded):
        return False  # a copy's rows are home's, or refused
    values = [entry["ResTarget"] for entry in context.body.get("targetList", ())]
    others = [value.get("val", {}) for value in values if value.get("name") != placement.key]
    if any(body is link for value in others for _, body in walk(value)):
        return True
    conditions = list(walk(context.body.get("whereClause")))
    compared = [body for kind, body in conditions if kind == "A_Expr" and strings(body.get("name")) in _COMPARISONS]
    sides = [body.get(side) for body in compared for side in ("lexpr", "rexpr")]
    plain = any(isinstance(side, dict) and side.get("SubLink") is link for side in sides)
    return not plain and any(body is link for _, body in conditions)


def _read(context: Context, text: str, shape: Shape) -> Asked | None:
    """Plan the subquery as a statement; None when it cannot be, or writes. It may lock the rows that it returns."""
    from router.planner import select  # noqa: PLC0415 - SELECT's planner knows of UPDATE in WITH

    inside = context.rewritten(text)
    try:
        read = select.plan(inside)
    except Refused:
        return None
    writes = inside.whole_effect.writes or not _WRITING.isdisjoint(inside.parsed.kinds)
    unsure = ("",) if asking_rows.may_collate(inside) else ()
    return None if writes else Asked(read, shape, locks=locks(inside), unsure=unsure)


def _looks_outside(query: Node) -> bool:
    """Whether a qualified name in a subquery means a table that is not in it."""
    nodes = list(walk(query))
    inside = {body.get("relname", "") for kind, body in nodes if kind == "RangeVar" and "alias" not in body}
    inside |= {body.get("aliasname", "") for kind, body in nodes if kind == "Alias"}
    named = (strings(body.get("fields")) for kind, body in nodes if kind == "ColumnRef")
    return any(len(fields) > 1 and not inside & set(fields[:-1]) for fields in named)


def _names_outside(context: Context, query: Node) -> bool:
    """Whether a name without a table in a subquery means a column of a table that is not in it, for certain."""
    nodes = list(walk({"SelectStmt": query}))
    inside = asking_tables.names_inside(context, nodes)
    named = (strings(body.get("fields")) for kind, body in nodes if kind == "ColumnRef")
    return inside is not None and any(len(fields) == 1 and fields[0] not in inside | {"*"} for fields in named)


def _links(value: object) -> Iterator[Node]:
    """Yield the outermost SubLinks."""
    if isinstance(value, list):
        for part in value:
            yield from _links(part)
    elif isinstance(value, dict):
        if is_wrapped(value) and "SubLink" in value:
            yield value["SubLink"]
            return
        if is_wrapped(value) and "SubLink" in value.get("MultiAssignRef", {}).get("source", {}):
            yield {**value["MultiAssignRef"]["source"]["SubLink"], "subLinkType": ROW}
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
    elif kind == "ARRAY_SUBLINK" and names[:2] == ["ARRAY", "ASCII_40"]:
        opening, shape, text = at + 1, Shape.LIST, "{}"
    elif kind == "ANY_SUBLINK" and "operName" not in link and "RowExpr" not in link.get("testexpr", {}):
        negated = names[:1] != ["IN_P"]
        opening, shape, text = at + (2 if negated else 1), Shape.LIST, "<> ALL ({})" if negated else "= ANY ({})"
    else:
        return None
    end = group_end(tokens, opening) if tokens[opening].name == "ASCII_40" else None
    return None if end is None else _Place(tokens[at].start, tokens[end].end, tokens[opening].end, shape, text)
