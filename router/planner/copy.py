"""COPY: rows split by key on the way in, one stream after another on the way out.

Decides where rows go and how a row is read; :mod:`proxy.executor` reads them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from router.clock_words import reads_words
from router.cluster import Home, Reference, Sharded
from router.effect import Runs
from router.errors import Refused
from router.plan import EveryShard, Gather, HomeShard, Plan, Single, Statement
from router.plan_copy import CopyFormat, CopyIn, CopyOut
from router.plan_steps import Filled
from router.planner import copy_filling, dml, gather, placing, views
from router.planner.names import Place
from router.planner.passthrough import option_is_on
from router.planner.reference import check_column_defaults, check_triggers
from router.planner.scope import Scope
from router.planner.spread import Spread, check_no_home, one_shard, sharded, target_of
from router.printer import quoted
from router.rewrite import OPEN, group_end
from router.tree import constant, strings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from router.cluster import Placement
    from router.planner.context import Context
    from router.planner.names import Level
    from router.relation import Relation
    from router.tree import Node


def plan(context: Context) -> Statement:
    """Plan a COPY."""
    body = context.body
    if "filename" in body or body.get("is_program"):
        raise context.refuse("copy-file")
    if "query" in body:
        return context.statement(_query(context), "COPY")
    relation = context.relation(body["relation"])
    at = body["relation"].get("location")
    writes = bool(body.get("is_from"))
    if relation is not None and relation.is_view and not writes:
        return context.statement(Single(HomeShard(), writes=False), "COPY")  # to be told so
    placement = context.placement(relation, at)
    if not isinstance(placement, Sharded | Reference) or relation is None:
        context.check_access(relation, write=writes, defaults=_omitted(relation, body), at=at)
        single = Single(HomeShard(), writes)
        there = context.statement(single, "COPY", **context.flags)
        return _at_home(context, there, single, relation) if writes and relation is not None else there
    if not writes:
        context.check_access(relation, write=False, at=at)
        return context.statement(_out(context, relation), "COPY")
    return context.statement(_in(context, relation), "COPY")


def _at_home(context: Context, there: Statement, single: Single, relation: Relation) -> Statement:
    """Return how home takes the rows: in a block with the time of the transaction in columns that are left out."""
    listed = list(strings(context.body.get("attlist")))
    try:
        _check_options(context, context.body["relation"].get("location"))
        fill = copy_filling.left_out(context, relation, listed, Home())
    except Refused:
        return there
    if fill is None or not relation.is_table:
        return there
    width = len(fill.columns) + len(listed)
    rows = CopyIn(HomeShard(), copy_format(context), None, None, width, fill=fill, table=relation.name.name)
    return context.like(there, Filled(context.like(there, rows), (), single))


def _omitted(relation: Relation | None, body: Node) -> list[str] | None:
    if relation is None:
        return None
    named = strings(body.get("attlist"))
    return [column.name for column in relation.columns if named and column.name not in named]


def _out(context: Context, relation: Relation) -> Plan:
    if isinstance(context.placement(relation), Reference):
        return Single(HomeShard(), writes=False)
    names = ", ".join(map(quoted, strings(context.body.get("attlist")))) or "*"
    query = f"SELECT {names} FROM ONLY {quoted(relation.name.schema, relation.name.name)}"  # noqa: S608 - names of the catalog
    return CopyOut(EveryShard(), copy_format(context), query)


def _in(context: Context, relation: Relation) -> Plan:
    body, at = context.body, context.body["relation"].get("location")
    format_ = copy_format(context)
    listed = list(strings(body.get("attlist"))) or [c.name for c in relation.columns if not c.generated]
    placement = context.placement(relation)
    _check_options(context, at)
    fill = copy_filling.left_out(context, relation, listed, placement)
    columns = [*(column.name for column in fill.columns), *listed] if fill is not None else listed
    for column in relation.columns:
        if column.name not in columns and (column.identity or column.sequence is not None):
            raise context.refuse("sequence-default", at, column=column.name, table=relation.name)
    clocked = () if format_.format == "binary" else _clocked(context, relation, columns)
    defaults = [name for name in _omitted(relation, body) or () if name not in columns]
    context.check_access(relation, write=True, defaults=defaults, at=at)
    placing.placed(context, EveryShard(), many_rows=True)
    if isinstance(placement, Reference):
        check_triggers(context, relation, at)
        check_column_defaults(context, relation, [c.name for c in relation.columns if c.name not in columns], at)
        effect = context.effect(body.get("whereClause"))
        if effect.volatile or effect.clock or effect.touches or effect.runs is not Runs.ANYWHERE:
            raise context.refuse("reference-write", at, table=relation.name)
        _check_default_marker(context, relation, listed, placement)
        return CopyIn(
            EveryShard(), format_, None, None, len(columns), fill=fill, clocked=clocked, table=relation.name.name
        )
    if not isinstance(placement, Sharded) or placement.key not in columns:
        missing = placement.key if isinstance(placement, Sharded) else ""
        raise context.refuse("insert-no-key", at, table=relation.name, key=missing)
    key = next(column for column in relation.columns if column.name == placement.key)
    _check_default_marker(context, relation, listed, placement)
    format_ = replace(
        format_,
        key_quoted_null=_forced(context, "force_null", key.name),
        key_never_null=_forced(context, "force_not_null", key.name),
    )
    position = columns.index(placement.key)
    return CopyIn(
        EveryShard(),
        format_,
        key.type_name,
        position,
        len(columns),
        key.type_modifier,
        fill,
        clocked,
        relation.name.name,
    )


def _clocked(context: Context, relation: Relation, columns: Sequence[str]) -> tuple[int, ...]:
    """Return the positions of columns that read words of the clock."""
    types = {kind.oid: kind for kind in context.catalog.types}
    found = [column for name in columns if (column := relation.column(name)) is not None]
    return tuple(columns.index(column.name) for column in found if reads_words(column, types))


_TEXTS = {
    "format": "format",
    "delimiter": "delimiter",
    "null": "null",
    "quote": "quote",
    "escape": "escape",
    "default": "default",
    "encoding": "encoding",
}


def copy_format(context: Context) -> CopyFormat:
    """Read the options that say where a row ends; defaults depend on the format."""
    found: dict[str, str] = {}
    header = False
    for option in context.body.get("options", ()):
        element = option["DefElem"]
        name, argument = element["defname"], element.get("arg")
        if name in _TEXTS and argument is not None:
            found[name] = _text(argument)
        elif name == "header":
            header = option_is_on(argument)
    kind = found.get("format", "text").lower()
    csv = kind == "csv"
    quote = found.get("quote", '"')
    return CopyFormat(
        kind,
        found.get("delimiter", "," if csv else "\t"),
        found.get("null", "" if csv else "\\N"),
        header,
        quote,
        found.get("escape", quote),
        found.get("encoding", ""),
        found.get("default"),
    )


def _text(argument: Node) -> str:
    literal = constant(argument)
    if literal is not None:
        return str(literal[1])
    return str(argument.get("String", {}).get("sval", ""))


_PLAIN_OPTIONS = frozenset({*_TEXTS, "header", "freeze", "force_not_null", "force_null", "on_error", "log_verbosity"})


def _check_options(context: Context, at: int | None) -> None:
    """Refuse options that change which rows there are, or how bytes are read, in ways the splitter does not know."""
    for option in context.body.get("options", ()):
        element = option["DefElem"]
        name = element["defname"]
        if name == "on_error" and _text(element.get("arg", {})).lower() not in {"stop", "ignore"}:
            raise context.refuse("copy-option", at, name="ON_ERROR")
        if name not in _PLAIN_OPTIONS:
            raise context.refuse("copy-option", at, name=name.upper())


def _forced(context: Context, option: str, key: str) -> bool:
    """Whether FORCE_NULL or FORCE_NOT_NULL is meant for the key."""
    for entry in context.body.get("options", ()):
        element = entry["DefElem"]
        argument = element.get("arg", {})
        named = "A_Star" in argument or key in strings(argument.get("List", {}).get("items"))
        if element["defname"] == option and named:
            return True
    return False


def _check_default_marker(context: Context, relation: Relation, listed: list[str], placement: Placement) -> None:
    """Refuse DEFAULT 'marker' where it may stand for a value that no shard may compute itself, or for the key."""
    if copy_format(context).default is None:
        return
    at = context.body["relation"].get("location")
    for name in listed:
        column = relation.column(name)
        if column is None:
            continue
        is_key = isinstance(placement, Sharded) and name == placement.key
        has_default = bool(column.default or column.identity)
        if has_default and (is_key or copy_filling.needs_filling(context, column, placement)):
            raise context.refuse("copy-option", at, name=f"DEFAULT for the column {name}")


_NOT_PLAIN = (
    "sortClause",
    "limitCount",
    "limitOffset",
    "distinctClause",
    "groupClause",
    "havingClause",
    "lockingClause",
    "windowClause",
)


def _query(context: Context) -> Plan:
    """COPY (query) TO STDOUT, with its views expanded where they can be."""
    known = views.expanded(context)
    for combining in (True, False) if known is not None else ():
        inner, found = known or (context, ())
        planned = inner.statement(_query_of_tables(inner, combining=combining), "COPY")
        restored = views.restored(context, planned, found) if not isinstance(planned.plan, CopyOut) else None
        if restored is not None:
            plan = restored.plan
            return replace(plan, copies=copy_format(context)) if isinstance(plan, Gather) else plan
    return _query_of_tables(context)


def _query_of_tables(context: Context, *, combining: bool = True) -> Plan:
    """COPY (query): one shard, rows in any order, or what is gathered."""
    query = context.body["query"]
    kind, node = next(iter(query.items()))
    scope = Scope(context)
    if kind != "SelectStmt":
        written = dml.build(scope, kind, node, None)
        dml.modifying_levels(scope)
        scope.check_complete()
        target = one_shard(scope)
        if target is None or (written.source.place is Place.REFERENCE):
            raise context.refuse("copy-query")
        return Single(placing.placed(context, target, modifying=True), writes=True)
    level = scope.select(node)
    modifying = dml.modifying_levels(scope)
    scope.check_complete()
    placing.check_reads(context, scope)
    mixed = bool(sharded(scope)) and any(source.place is Place.HOME for source in scope.sources)
    target = None if mixed else one_shard(scope)
    writes = context.whole_effect.writes or modifying
    if target is not None:
        return Single(placing.placed(context, target, modifying=modifying), writes)
    if modifying:
        raise context.refuse("copy-query")
    try:
        if not combining:
            raise context.refuse("rewrite")
        return _rows(context, scope, level)
    except Refused as refused:
        return replace(gather.plan(context, scope, refused.refusal), copies=copy_format(context))


def _rows(context: Context, scope: Scope, level: Level) -> CopyOut:
    """Copy rows in any order from all shards."""
    check_no_home(scope)
    node = level.node
    ordered = any(field in node for field in _NOT_PLAIN)
    effect = context.effect(node.get("targetList"))
    if ordered or effect.aggregate or effect.window or effect.volatile:
        raise context.refuse("copy-query")
    placing.placed(context, EveryShard(), many_rows=True)
    placing.check_no_system_columns(context)
    part = Spread(scope).level(level)
    return CopyOut(target_of(level, part, scope), copy_format(context), _inner(context))


def _inner(context: Context) -> str:
    """Return the text of the query in COPY (query)."""
    tokens = context.parsed.tokens
    opening = next(index for index, token in enumerate(tokens) if token.name in OPEN)
    end = group_end(tokens, opening)
    return context.parsed.text[tokens[opening].end : tokens[end].start] if end is not None else ""
