"""SELECTs of one row that set a sequence by what several shards hold: Django's, Rails's and people's ``setval``.

``SELECT setval('s', max(id)) FROM t`` needs all shards, and the home shard for the sequence. Decides what is asked
first: the aggregates of a query without GROUP BY, and the subqueries of its expressions, all of them by one SELECT, so
that they see one moment::

    SELECT max(id) FROM t          ->  SELECT setval('s', (SELECT $1))

HAVING becomes the condition of what is left, which has no table any more and runs once, at home. Both texts are parsed
again and compared. Everything else that the query could be (groups, windows, an order, several rows) is not done here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from router.errors import SyntaxFailure
from router.plan_steps import Asked, Shape
from router.planner import asking_rows
from router.planner.clauses import Clauses, Edit, apply
from router.relation import RelationKind
from router.rewrite import group_end
from router.statement import parse
from router.tree import JSON_AGGREGATES, is_wrapped, same, unwrap, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from router.planner.context import Context
    from router.tree import Node

    Read = Callable[[Context, str, Shape], Asked | None]

_PLAIN: Final = frozenset(
    {"targetList", "fromClause", "whereClause", "havingClause", "withClause", "limitOption", "op"}
)
_SUBQUERIES: Final = {"EXPR_SUBLINK": "", "EXISTS_SUBLINK": "EXISTS", "ARRAY_SUBLINK": "ARRAY"}
# What computes all that stands in it, whatever the values are.
_COMPUTING: Final = frozenset(
    {"FuncCall", "TypeCast", "A_Expr", "NullTest", "BooleanTest", "MinMaxExpr", "RowExpr", "A_ArrayExpr",
     "CollateClause", "A_Indirection", "List", "NamedArgExpr"}
)  # fmt: skip


def rewritten(context: Context, read: Read) -> tuple[Context, tuple[Asked, ...]] | None:
    """Return the statement that is left, and what is asked before it; None where it is not done so."""
    body, parsed = context.body, context.parsed
    if parsed.kind != "SelectStmt" or not body.keys() <= _PLAIN or "LockingClause" in parsed.kinds:
        return None
    cut = _cut(context)
    if cut is None:
        return None
    grouped = "fromClause" in body
    first = max(parsed.parameters, len(context.reader.parameter_oids)) + 1
    condition = body.get("havingClause" if grouped else "whereClause")
    certain = condition is None and all(_is_computed(body["targetList"], item) for item in cut.items)
    texts, query, shape = (
        [f"(SELECT ${number})" for number in range(first, first + len(cut.items))],
        cut.query,
        Shape.ROW,
    )
    if "withClause" not in body and all(_is_value(item) for item in cut.items):
        inside = [parsed.text[start + 1 : end - 1] for start, end in cut.places]
        merged = _by_aggregates(context, inside, first) if certain or len(inside) > 1 else None
        if merged is not None:
            texts, query = merged
        elif len(inside) == 1:
            query, shape = inside[0], Shape.VALUE
    text = cut.left(texts)
    if text is None:
        return None
    asked = read(context, query, shape)
    if asked is None or context.rewritten(query).every_effect.advances_sequences:
        return None
    if asking_rows.domain_lost(context, query, asking_rows.column_types(context, query)):
        return None
    return context.rewritten(text), (replace(asked, certain=certain),)


@dataclass(frozen=True, slots=True)
class _Cut:
    """A query whose ``items`` are asked first by ``query``: their ``places`` are characters, from and to."""

    body: Node
    clauses: Clauses
    items: list[Node]
    places: list[tuple[int, int]]
    query: str

    def left(self, texts: list[str]) -> str | None:
        """Return what is left of the query with these texts for its items; None where it would be another one."""
        text = _left(self.clauses, self.places, texts, grouped="fromClause" in self.body)
        return text if _verified(self.body, self.items, texts, (text, self.query)) else None


def _cut(context: Context) -> _Cut | None:
    clauses = Clauses.of(context.parsed, context.body)
    found = None if clauses is None else _items(context)
    if clauses is None or not found:
        return None
    places = [_place(clauses, item) for item in found]
    sure = [place for place in places if place is not None]
    if len(sure) < len(places):
        return None
    query = _query(clauses, sure, grouped="fromClause" in context.body)
    return _Cut(context.body, clauses, found, sure, query)


def _by_aggregates(context: Context, texts: list[str], first: int) -> tuple[list[str], str] | None:
    """Return subqueries without their tables, and one SELECT for the aggregates of all; None for others.

    Each has one row by its aggregates, and all have the same FROM and WHERE. Aggregates alone are merged from the
    shards, where the rows of ``coalesce(max(id), 1)`` would be gathered.
    """
    left: list[str] = []
    shown: list[str] = []
    sources: list[Node] = []
    for text in texts:
        query = context.rewritten(text)
        plain = query.parsed.kind == "SelectStmt" and query.body.keys() <= _PLAIN - {"havingClause", "withClause"}
        cut = _cut(query) if plain and "fromClause" in query.body else None
        if cut is None or len(query.body["targetList"]) != 1 or not all(_is_aggregate(query, i) for i in cut.items):
            return None
        numbers = range(first + len(shown), first + len(shown) + len(cut.items))
        rest = cut.left([f"(SELECT ${number})" for number in numbers])
        if rest is None:
            return None
        left.append(f"({rest})")
        shown += [text[start:end] for start, end in cut.places]
        sources.append({key: part for key, part in query.body.items() if key in {"fromClause", "whereClause"}})
        source = text[cut.clauses.parsed.tokens[cut.clauses.starts["from"]].start :]
    if not all(same(one, sources[0]) for one in sources):
        return None
    return left, f"SELECT {', '.join(shown)} {source}"


def _is_aggregate(context: Context, item: Node) -> bool:
    return "FuncCall" in item and not context.call_effect(item["FuncCall"]).user_defined


def _items(context: Context) -> list[Node] | None:
    """Return what is asked: aggregates and subqueries, outermost first; None where something else is in the way."""
    body = context.body
    found: list[Node] = []
    grouped = "fromClause" in body
    for value in (body["targetList"], body.get("havingClause" if grouped else "whereClause")):
        for item in _outermost(context, value):
            kind, call = unwrap(item)
            if kind == "SubLink" and call.get("subLinkType", "EXISTS_SUBLINK") not in _SUBQUERIES:
                return None
            if kind in JSON_AGGREGATES or "over" in call or call.get("agg_within_group"):
                return None
            found.append(item)
    aggregates = any("FuncCall" in item for item in found)
    return None if aggregates is not grouped else found


def _outermost(context: Context, value: Any) -> Iterator[Node]:
    if isinstance(value, list):
        for part in value:
            yield from _outermost(context, part)
    elif isinstance(value, dict):
        if is_wrapped(value):
            kind, body = unwrap(value)
            aggregate = kind == "FuncCall" and (context.call_effect(body).aggregate or "over" in body)
            if aggregate or kind == "SubLink" or kind in JSON_AGGREGATES:
                if not _reads_sequences(context, value):
                    yield value
                return
        for part in value.values():
            yield from _outermost(context, part)


def _is_value(item: Node) -> bool:
    return "SubLink" in item and item["SubLink"].get("subLinkType") == "EXPR_SUBLINK"


def _reads_sequences(context: Context, value: Node) -> bool:
    """Whether a subquery reads sequences alone, as ``(SELECT last_value FROM s)``: home's, and of no moment."""
    tables = [context.relation(body) for kind, body in walk(value) if kind == "RangeVar"]
    return bool(tables) and all(one is not None and one.kind is RelationKind.SEQUENCE for one in tables)


def _place(clauses: Clauses, item: Node) -> tuple[int, int] | None:
    """Return the characters of an item; None where they are not sure."""
    kind, body = unwrap(item)
    tokens, parsed = clauses.parsed.tokens, clauses.parsed
    if kind == "FuncCall":
        call = clauses.call(body["location"])
        return None if call is None else (tokens[call[0]].start, tokens[call[2] - 1].end)
    at = parsed.token_at(parsed.place(body.get("location", 0)))
    word = _SUBQUERIES[body.get("subLinkType", "EXISTS_SUBLINK")]
    opening = at + 1 if word else at
    named = not word or tokens[at].name == word
    end = group_end(tokens, opening) if named and tokens[opening].name == "ASCII_40" else None
    return None if end is None else (tokens[at].start, tokens[end].end)


def _left(clauses: Clauses, places: list[tuple[int, int]], texts: list[str], *, grouped: bool) -> str:
    """Return the text that is left, with other texts where something is asked.

    These are subqueries of their own: Postgres computes what is constant when it plans, also where nobody needs it.
    """
    parsed, tokens = clauses.parsed, clauses.parsed.tokens
    start, stop = tokens[clauses.select].start, tokens[clauses.stop - 1].end
    edits = [Edit(place[0], place[1], text) for place, text in zip(places, texts, strict=True)]
    edits += [Edit(0, start, ""), Edit(stop, len(parsed.text), "")]
    if grouped:
        gone = tokens[clauses.starts["from"]].start
        having = clauses.starts.get("having")
        if having is None:
            edits = [edit for edit in edits if edit.end < gone or edit.start >= stop]
            edits.append(Edit(gone, stop, ""))
        else:
            edits.append(Edit(gone, tokens[having].end, "WHERE"))
    return apply(parsed.text, edits)


def _query(clauses: Clauses, places: list[tuple[int, int]], *, grouped: bool) -> str:
    """Return the text of the SELECT that asks."""
    text, tokens = clauses.parsed.text, clauses.parsed.tokens
    shown = ", ".join(text[start:end] for start, end in places)
    source = ""
    if grouped:
        end = clauses.starts.get("having", clauses.stop) - 1
        source = " " + text[tokens[clauses.starts["from"]].start : tokens[end].end]
    return f"{text[: tokens[clauses.select].start]}SELECT {shown}{source}"


def _verified(body: Node, found: list[Node], put: list[str], texts: tuple[str, str]) -> bool:
    """Parse both texts again, what is left and what asks: together they are the query, with ``put`` for ``found``."""
    try:
        (left,), (query,) = parse(texts[0]), parse(texts[1])
    except (SyntaxFailure, ValueError):
        return False
    grouped = "fromClause" in body
    new = {id(item): _expression(text) for item, text in zip(found, put, strict=True)}
    condition = body.get("havingClause" if grouped else "whereClause")
    wanted = {"targetList": body["targetList"], **({"whereClause": condition} if condition else {})}
    rest = {key: part for key, part in body.items() if key in {"limitOption", "op"}}
    asks = [{"ResTarget": {"val": item}} for item in found]
    source = {key: part for key, part in body.items() if key in {"fromClause", "withClause"}}
    if grouped and "whereClause" in body:
        source["whereClause"] = body["whereClause"]
    return (
        left.kind == query.kind == "SelectStmt"
        and same(left.body, {**rest, **_replaced(wanted, new)})
        and same(query.body, {**rest, **source, "targetList": asks})
    )


def _expression(text: str) -> Node:
    (probe,) = parse(f"SELECT {text}")
    value: Node = probe.body["targetList"][0]["ResTarget"]["val"]
    return value


def _replaced(value: Any, new: dict[int, Node]) -> Any:
    if id(value) in new:
        return new[id(value)]
    if isinstance(value, list):
        return [_replaced(item, new) for item in value]
    if isinstance(value, dict):
        return {key: _replaced(item, new) for key, item in value.items()}
    return value


def _is_computed(targets: list[Node], item: Node) -> bool:
    """Whether Postgres computes something whatever the values around it are."""
    pending: list[Any] = [target["ResTarget"]["val"] for target in targets]
    while pending:
        value = pending.pop()
        if value is item:
            return True
        kind, body = unwrap(value) if is_wrapped(value) else ("", {})
        if kind == "CoalesceExpr":
            pending.append(body["args"][0])
        elif kind == "CaseExpr":
            pending.append(body.get("arg", body["args"][0]["CaseWhen"]["expr"]))
        elif kind == "BoolExpr":
            pending.append(body["args"][0])
        elif kind in _COMPUTING:
            pending += [part for field in body.values() for part in (field if isinstance(field, list) else [field])]
    return False
