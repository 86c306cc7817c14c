"""CREATE TABLE AS and SELECT INTO: a table made without rows where it belongs, and filled as by INSERT ... SELECT.

Decides what the statement is cut into, and where the new table lives. The home shard makes it from the query itself, so
that names, types, modifiers and collations are Postgres's own; the other shards make it like home's. Where home has all
that the query reads, and the new table is home's too, the statement goes there as it came. How the rows get there is
planned when the table exists, as INSERT ... SELECT.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from router.cluster import Home, Reference, Sharded, TableName
from router.effect import Unplaceable
from router.plan import Ddl, EveryShard, HomeShard, Statement
from router.plan_control import PreparedControl
from router.plan_steps import CreateFrom
from router.planner import control, dml, filling, select, stored, tables
from router.planner.context import Context
from router.planner.names import Place
from router.planner.passthrough import makes_temporary, may_be_temporary, tag_of
from router.planner.scope import Scope
from router.relation import NOTHING, RelationKind
from router.rewrite import at_top, group_end
from router.tree import name_parts, unwrap, walk

if TYPE_CHECKING:
    from router.relation import Relation
    from router.statement import Parsed, Token
    from router.tree import Node

_DOT: Final = "ASCII_46"
_WORDS: Final = frozenset({"LOCAL", "GLOBAL", "TEMP", "TEMPORARY", "UNLOGGED"})
_PLACES: Final = frozenset({Place.SHARDED, Place.REFERENCE, Place.HOME})
TEMPORARY: Final = "pg_temp"


@dataclass(frozen=True, slots=True)
class _Cut:
    """CREATE TABLE AS in pieces; see CreateFrom."""

    prefix: str
    guarded: str
    columns: str
    options: str
    query: str

    def without_rows(self, prefix: str) -> str:
        """Return what makes it without rows; '' for the prefix that it does not have."""
        return f"{prefix}{self.columns} {self.options}AS {self.query} WITH NO DATA" if prefix else ""


def create_as(context: Context) -> Statement:
    """CREATE TABLE AS, CREATE MATERIALIZED VIEW."""
    into, query = context.body["into"], context.body["query"]
    cut = _cut_create(context)
    if context.body.get("objtype") != "OBJECT_TABLE":
        return stored.create(context, into, cut.without_rows(cut.prefix), cut.without_rows(cut.guarded), cut.query)
    return _created(context, into, query, cut)


def select_into(context: Context) -> Statement:
    """SELECT ... INTO."""
    node = context.body
    while "larg" in node:
        node = node["larg"]
    return _created(context, node["intoClause"], {"SelectStmt": context.body}, _cut_select(context))


def reads(context: Context, query: Node) -> set[Place]:
    """Return the places of the tables that a query in a definition reads."""
    kind, body = unwrap(query)
    scope = Scope(context)
    if kind != "SelectStmt":
        raise context.refuse("unknown-statement", name="this form of CREATE")
    scope.select(body)
    if dml.modifying_levels(scope):
        raise context.refuse("modifying-cte")
    return {source.place for source in scope.sources if source.place in _PLACES}


def reads_with_views(context: Context, query: Node) -> set[Place]:
    """Return the places of what the definition of a view reads: a view over sharded tables is on all shards too."""
    from router.planner.ddl import where  # noqa: PLC0415 - ddl lists this planner

    found: set[Place] = set()
    copies: dict[TableName, Relation] = {}
    for kind, body in walk(query):
        relation = context.catalog.resolve(name_parts(body), context.search_path) if kind == "RangeVar" else None
        if relation is None or not relation.is_view or relation.name.schema == "pg_temp":
            continue
        everywhere = isinstance(where(context, relation), EveryShard)
        sharded = isinstance(context.catalog.effective_placement(relation), Unplaceable)
        if everywhere or sharded:
            found.add(Place.HOME if not everywhere else Place.SHARDED if sharded else Place.REFERENCE)
            copies[relation.name] = replace(relation, kind=RelationKind.TABLE, read_uses=NOTHING)
    if not copies:
        return reads(context, query)
    # In the places of these views, tables that stand on every shard: only names are looked at.
    placements = {**context.database.placements, **dict.fromkeys(copies, Reference())}
    database = replace(context.database, placements=placements)
    catalog = replace(context.catalog.overlaid(copies.values()), database=database)
    inside = Context(database, catalog, context.parsed, context.search_path, tuple(context.reader.parameter_oids))
    return found | reads(inside, query)


def executes_prepared(context: Context) -> bool:
    """Whether a CREATE TABLE AS takes its query from PREPARE: no shard knows that by its name."""
    return context.parsed.kind == "CreateTableAsStmt" and "ExecuteStmt" in context.body["query"]


def as_on_one_shard(context: Context) -> Statement:
    """CREATE TABLE AS EXECUTE over one shard."""
    temporary = may_be_temporary(context)
    plan = _plan(context, context.body["into"], _cut_create(context), Home())
    return context.statement(plan, tag_of(context.parsed), pins=temporary, must_commit=temporary)


def _created(context: Context, into: Node, query: Node, cut: _Cut) -> Statement:
    range_var = into["rel"]
    temporary = makes_temporary(context.parsed)
    if temporary:
        tables.check_temporary(context, range_var)
    name = TableName(*tables.creation_name(context, range_var))
    placement = Home() if temporary else context.database.placement(name)
    if "ExecuteStmt" not in query:
        places = reads_with_views(context, query)
        _ = context.whole_effect
        if isinstance(placement, Home) and Place.SHARDED not in places:
            return _at_home(context, range_var)
        filling.planned(context.rewritten(cut.query), select.plan)  # refuses what cannot be read
    plan = _plan(context, into, cut, placement)
    flags = {"pins": "temporary table", "must_commit": "temporary table"} if temporary else {}
    return context.statement(plan, tag_of(context.parsed), **flags)


def _at_home(context: Context, range_var: Node) -> Statement:
    """Return the plan of what home has everything for."""
    _ = context.whole_effect
    flags = {}
    if makes_temporary(context.parsed):
        tables.check_temporary(context, range_var)
        flags = {"pins": "temporary table", "must_commit": "temporary table"}
    elif not isinstance(context.database.placement(TableName(*tables.creation_name(context, range_var))), Home):
        raise context.refuse("placed-name", range_var.get("location"), table=range_var["relname"])
    return context.statement(Ddl(HomeShard()), tag_of(context.parsed), **flags)


def _plan(context: Context, into: Node, cut: _Cut, placement: object) -> CreateFrom:
    range_var = into["rel"]
    schema, name = tables.creation_name(context, range_var)
    if makes_temporary(context.parsed):
        schema = TEMPORARY
    prepared = None
    if executes_prepared(context):
        found = control.execute(context.rewritten(cut.query)).plan
        prepared = found if isinstance(found, PreparedControl) else None
    return CreateFrom(
        TableName(schema, name),
        HomeShard() if isinstance(placement, Home) else EveryShard(),
        cut.prefix,
        cut.columns,
        cut.options,
        cut.query,
        guarded=cut.guarded,
        key=placement.key if isinstance(placement, Sharded) else "",
        fills=not into.get("skipData"),
        prepared=prepared,
    )


# --- cutting ---------------------------------------------------------------------------------------------------------


def _cut_create(context: Context) -> _Cut:
    parsed = context.parsed
    tokens, text = parsed.tokens, parsed.text
    table, behind = (
        at_top(tokens, "TABLE" if context.body["objtype"] == "OBJECT_TABLE" else "VIEW"),
        at_top(tokens, "AS"),
    )
    if table is None or behind is None:
        raise context.refuse("unknown-statement", name="this form of CREATE")
    first = table + 1
    guarded = tokens[first].name == "IF_P"
    if guarded:
        first += 3
    named = _name_end(tokens, first)
    at = named + 1
    columns = ""
    if tokens[at].name == "ASCII_40":
        end = group_end(tokens, at)
        if end is None:
            raise context.refuse("unknown-statement", name="this form of CREATE")
        columns = text[tokens[at].start : tokens[end].end]
        at = end + 1
    start, last = tokens[0].start, tokens[table].end
    name = text[tokens[first].start : tokens[named].end]
    blanks = text[last : tokens[first].start] if not guarded else " " * (tokens[first].start - last)
    return _Cut(
        text[start:last] + blanks + name,
        text[start : tokens[named].end] if guarded else "",
        columns,
        text[tokens[at].start : tokens[behind].start],
        _query(parsed, behind + 1),
    )


def _query(parsed: Parsed, first: int) -> str:
    """Return the query without WITH DATA or WITH NO DATA."""
    tokens = [token for token in parsed.tokens if token.name != "ASCII_59"]
    names = [token.name for token in tokens]
    stop = len(tokens)
    if names[-3:] == ["WITH", "NO", "DATA_P"]:
        stop -= 3
    elif names[-2:] == ["WITH", "DATA_P"]:
        stop -= 2
    return parsed.text[tokens[first].start : tokens[stop - 1].end]


def _name_end(tokens: list[Token], at: int) -> int:
    while at + 2 < len(tokens) and tokens[at + 1].name == _DOT:
        at += 2
    return at


def _cut_select(context: Context) -> _Cut:
    parsed = context.parsed
    tokens, text = parsed.tokens, parsed.text
    into = at_top(tokens, "INTO")
    if into is None:
        raise context.refuse("unknown-statement", name="this form of SELECT INTO")
    at = into + 1
    words = []
    while tokens[at].name in _WORDS:
        words.append(text[tokens[at].start : tokens[at].end])
        at += 1
    if tokens[at].name == "TABLE":
        at += 1
    end = _name_end(tokens, at)
    first, last = tokens[into].start, tokens[end].end
    prefix = " ".join(["CREATE", *words, "TABLE", text[tokens[at].start : last]])
    query = text[tokens[0].start : first] + " " * (last - first) + text[last : parsed.end]
    return _Cut(prefix, "", "", "", query)
