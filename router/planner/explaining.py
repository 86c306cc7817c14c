"""EXPLAIN: of one shard's statement, of several shards' parts, and of the route alone.

Decides what is asked of whom. ``EXPLAIN (ROUTE)`` asks nobody: the plan is the answer. Left to others: what a route
looks like (:mod:`router.route`), and the asking of shards.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from router.cluster import Reference, Sharded
from router.errors import Refused
from router.plan import Ddl, ExplainRoute, ExplainShards, HomeShard, Single, Statement
from router.plan_steps import CreateFrom, Filled, FillView
from router.planner import auditing, creating, filling, hints, insert, modify, select
from router.planner.passthrough import analyzes, option_is_on
from router.printer import quoted
from router.rewrite import group_end
from router.route import FORMATS, JSON_OID, TEXT_OID, refused_route, rendered, route_of, text_lines
from router.statement import parse
from router.tree import constant, name_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from router.planner.context import Context
    from router.tree import Node

_DATA: Final = {
    "SelectStmt": select.plan,
    "InsertStmt": insert.plan,
    "UpdateStmt": modify.plan,
    "DeleteStmt": modify.plan,
    "MergeStmt": modify.plan,
    "CreateTableAsStmt": creating.create_as,
}
_WORDS: Final = frozenset({"EXPLAIN", "ANALYZE", "ANALYSE", "VERBOSE"})


def asks_for_route(body: Node) -> bool:
    """Whether an EXPLAIN has the option ROUTE."""
    return any(name == "route" and option_is_on(value) for name, value in _options(body))


def _options(body: Node) -> Iterator[tuple[str, Node | None]]:
    for item in body.get("options", ()):
        element = item["DefElem"]
        yield element["defname"], element.get("arg")


def explain(context: Context) -> Statement:
    """EXPLAIN in any form."""
    body = context.body
    if asks_for_route(body):
        return _route(context)
    found = _planned(context)
    alone = found.plan.alone if isinstance(found.plan, Filled) else found.plan
    if isinstance(alone, Single) and analyzes(body) and alone.writes and isinstance(found.plan, Filled):
        raise context.refuse("explain-analyze")  # its defaults would be the shard's own
    if isinstance(alone, Single):
        writes = alone.writes and analyzes(body)
        return context.statement(Single(alone.target, writes), "EXPLAIN", returns_rows=True, **context.flags)
    if isinstance(found.plan, Ddl) and not analyzes(body):  # CREATE TABLE AS of the home shard
        return context.statement(Single(found.plan.target, writes=False), "EXPLAIN", returns_rows=True)
    if isinstance(found.plan, CreateFrom | FillView):
        raise context.refuse("unknown-statement", name="EXPLAIN, but for (ROUTE), of a statement in several steps")
    if analyzes(body):
        raise context.refuse("explain-analyze")
    if context.parsed.parameters:
        raise context.refuse("explain-parameters")
    form = _format(context)
    route = route_of(found, context.database, _tables(context))
    header = tuple(text_lines(route)) if form == "text" else rendered(route, form)
    inner = replace(found, text=found.text.strip())
    plan = ExplainShards(inner, _passed_on(body), form, header)
    return context.statement(plan, "EXPLAIN", returns_rows=True)


def _route(context: Context) -> Statement:
    form = _format(context)
    try:
        route = route_of(_planned(context, audited=True), context.database, _tables(context))
    except Refused as refused:
        route = refused_route(refused)
    plan = ExplainRoute(rendered(route, form), JSON_OID if form == "json" else TEXT_OID)
    return context.statement(plan, "EXPLAIN", returns_rows=True)


def _planned(context: Context, *, audited: bool = False) -> Statement:
    """Plan the statement that is explained, as if it had come alone: at its place in the text.

    ``audited``: also one that would be audited; Postgres may run parts of it to explain it, of which no audit tells.
    """
    parsed = context.parsed
    start = _start(context)
    (alone,) = parse(" " * start + parsed.text[start : parsed.end])
    inner = context.inside(alone)
    shard = hints.hinted(context) if context.many else None
    if shard is not None:
        return hints.plan(inner, shard)
    if not context.many:
        return inner.statement(Single(HomeShard(), writes=alone.kind != "SelectStmt"), _tag(alone.kind))
    planner = _DATA.get(alone.kind)
    if planner is None:
        raise context.refuse("unknown-statement", name=f"{_tag(alone.kind)} here")
    if alone.kind == "CreateTableAsStmt":
        return planner(inner)
    return filling.planned(inner, auditing.first(planner) if audited else planner)


def _tag(kind: str) -> str:
    return kind.removesuffix("Stmt").upper()


def _start(context: Context) -> int:
    """Return where the statement begins that is explained: behind EXPLAIN and its options."""
    tokens = context.parsed.tokens
    number = 1
    if context.body.get("options") and tokens[1].name == "ASCII_40":
        return tokens[(group_end(tokens, 1) or 1) + 1].start
    while tokens[number].name.upper() in _WORDS:
        number += 1
    return tokens[number].start


def _format(context: Context) -> str:
    for name, value in _options(context.body):
        if name == "format":
            literal = constant(value) if value is not None else None
            wanted = str(literal[1] if literal is not None else (value or {}).get("String", {}).get("sval", "")).lower()
            if wanted not in FORMATS:
                raise context.refuse("explain-format", name=wanted or "''")
            return wanted
    return "text"


def _passed_on(body: Node) -> str:
    """Return the options for the shards' own EXPLAIN."""
    found = []
    for name, value in _options(body):
        if name in {"route", "analyze"}:
            continue
        literal = constant(value) if value is not None else None
        inner: Node = next(iter(value.values())) if value else {}
        text = str(literal[1]) if literal is not None else str(inner.get("sval", inner.get("ival", "")))
        found.append(f"{quoted(name)} " + ("'" + text.replace("'", "''") + "'" if text else ""))
    return ", ".join(found)


def _tables(context: Context) -> list[str]:
    """Return the tables that are named, each with its key or kind."""
    found: dict[str, None] = {}
    for kind, node in context.parsed.nodes:
        relation = context.catalog.resolve(name_parts(node), context.search_path) if kind == "RangeVar" else None
        if relation is None:
            continue
        placement = context.catalog.effective_placement(relation)
        if isinstance(placement, Sharded):
            shown = not any(column.name == placement.key for column in relation.hidden)
            found[f"{relation.name} ({f'key {placement.key}' if shown else 'its key is not shown'})"] = None
        else:
            found[f"{relation.name} ({'reference' if isinstance(placement, Reference) else 'home'})"] = None
    return list(found)
