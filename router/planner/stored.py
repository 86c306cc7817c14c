"""Materialized views: their rows are the home shard's, wherever the tables are that their queries read.

Decides whether home fills one by itself, as its query reads nothing but what home has, or the rows have to be read over
several shards. A query that cannot be read so is refused when the view is made, also WITH NO DATA: no REFRESH could
fill it. How one is filled is :mod:`proxy.session.refreshing`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.cluster import Home, TableName
from router.plan import AnyShard, Ddl, HomeShard, Single, Statement
from router.plan_steps import Asked, Filled, FillView
from router.planner import filling, select, tables
from router.planner.context import Context
from router.planner.passthrough import tag_of
from router.planner.placing import locks
from router.relation import Relation, RelationKind
from router.statement import parse

if TYPE_CHECKING:
    from router.catalog import Catalog
    from router.tree import Node

STAGED: Final = TableName("pg_temp", "pgchorus_rows")
"""The temporary table that has a view's new rows while it is filled."""
PATH: Final = ("pg_catalog", "pg_temp")
"""The search_path under which Postgres runs the query of a materialized view: all other names in it are qualified."""


def create(context: Context, into: Node, made: str, guarded: str, query: str) -> Statement:
    """CREATE MATERIALIZED VIEW; ``made`` is what makes it without rows, ``guarded`` the same with IF NOT EXISTS."""
    name = TableName(*tables.creation_name(context, into["rel"]))
    if not isinstance(context.database.placement(name), Home):
        raise context.refuse("placed-name", into["rel"].get("location"), table=name)
    text = context.parsed.text
    at_its_place = " " * text.rindex(query) + query  # for the positions of refusals
    if _filled_at_home(context.rewritten(at_its_place)) or into.get("skipData"):
        return context.statement(Ddl(HomeShard()), tag_of(context.parsed))
    return context.statement(FillView(name, made, guarded), tag_of(context.parsed))


def refresh(context: Context) -> Statement:
    """REFRESH MATERIALIZED VIEW."""
    relation = context.relation(context.body["relation"])
    at_home = context.statement(Ddl(HomeShard()), tag_of(context.parsed))
    if relation is None or relation.kind is not RelationKind.MATERIALIZED or context.body.get("skipData"):
        return at_home  # home says what is wrong, or forgets the rows
    (parsed,) = parse(relation.query)
    if _filled_at_home(Context(context.database, context.catalog, parsed, PATH, ())):
        return at_home
    concurrently = bool(context.body.get("concurrent"))
    return context.statement(FillView(relation.name, concurrently=concurrently), tag_of(context.parsed))


def _filled_at_home(query: Context) -> bool:
    """Whether home has all that the query reads; refuses what cannot be read over several shards."""
    plan = filling.planned(query, select.plan).plan
    asks = isinstance(plan, Filled) and any(isinstance(value, Asked) for row in plan.values for value in row)
    inner = plan.inner.plan if isinstance(plan, Filled) else plan
    if not asks and isinstance(inner, Single) and inner.target in {HomeShard(), AnyShard()}:
        return True
    if locks(query):
        raise query.refuse("gather-lock")
    return False


def with_staged(catalog: Catalog, view: Relation) -> Catalog:
    """Return the catalog with the table of a view's new rows."""
    return catalog.overlaid([Relation(STAGED, columns=view.columns)])
