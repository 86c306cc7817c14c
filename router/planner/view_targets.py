"""Views that are written, or whose rows are locked: a view of one table is planned as if it were a table of its own.

What Postgres calls automatically updatable it rewrites itself, with the owner's rights, WITH CHECK OPTION and
security_barrier; every shard has the view, so the text that names it goes out as it came. A router needs to know
where rows are. So this file makes a table that stands in for the view, in a catalog for this one statement: the
view's columns with what the table's columns are (type, default, sequence), its key under the view's name, the
table's triggers, policies, unique indexes and foreign keys. All planners then see a sharded or reference table; other
tables, views and statements keep the catalog that there is.

Decides which views these are:

1. No rules and no triggers of its own (INSTEAD OF), and none on views below it. Its query is one FROM item and WHERE.
2. Whether a row is in it, and its other columns, do not depend on the shard: no volatile functions, nothing of the
   home shard, subqueries over copies or on the same key only. Over copies: no subqueries and no clock.
3. It shows the sharding key once, or not at all: under two names a row's key could be set twice. What does not show it
   is written on all shards.
4. INSERT: no column that it leaves out takes its default from a sequence or another computation of the home shard, nor,
   on copies, one that they would make differently.

What reads the clock, in the view or in the default of a column that it does not show, is the shard's own, as in all
views: such statements stay on one shard. MERGE is left out.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from router.cluster import Reference, Sharded
from router.effect import Runs
from router.errors import Refused, SyntaxFailure
from router.plan import Single
from router.plan_steps import Filled
from router.planner import dml
from router.planner.context import Context
from router.planner.placing import check_no_system_columns, check_reads
from router.planner.scope import Scope
from router.planner.spread import Spread, check_no_home
from router.relation import ForeignKey, Relation, RelationKind, Uses
from router.statement import parse
from router.tree import name_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from router.catalog import Catalog
    from router.cluster import TableName
    from router.plan import Statement
    from router.relation import Column, Index
    from router.statement import Parsed

_STATEMENTS: Final = frozenset(
    {"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "ExplainStmt", "DeclareCursorStmt"}
)
_WRITES: Final = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt"})
_LOCKS: Final = frozenset({"LockingClause"})
_PLAIN: Final = frozenset({"targetList", "fromClause", "whereClause", "limitOption", "op"})
_DEEPEST: Final = 16  # views of views
_KEPT: Final = 32  # catalogs: one for each set of views that statements write


@dataclass(frozen=True, slots=True)
class StandIn:
    """The table that a view is planned as. ``hidden``: the columns of the table below that the view does not show.

    ``clock``: the view's query reads it. ``filled``: why no shard may fill in the hidden columns of a new row, '' for
    nothing; ``filled_by_clock``: it would read the clock for that.
    """

    table: Relation
    placement: Sharded | Reference
    hidden: tuple[Column, ...]
    clock: bool
    filled: str
    filled_by_clock: bool

    def inserted(self) -> Relation:
        """Return the table as INSERT needs it: with what the defaults of hidden columns use."""
        uses = self.table.write_uses
        for column in self.hidden:
            uses |= column.uses
        return replace(self.table, write_uses=uses)


class ViewTargets:
    """What stands in for the views of one catalog, as statements write them."""

    def __init__(self) -> None:
        self._known: dict[TableName, StandIn | str] = {}
        self._catalogs: OrderedDict[frozenset[tuple[TableName, bool]], Catalog] = OrderedDict()

    def context(self, context: Context) -> Context:
        """Return the context of a statement in which views that it writes or locks are tables; else the same."""
        parsed = context.parsed
        if not context.many or parsed.kind not in _STATEMENTS or parsed.kinds.isdisjoint(_WRITES | _LOCKS):
            return context
        if "MergeStmt" in parsed.kinds:
            return context
        wanted = frozenset(self._written(context))
        if not wanted:
            return context
        found = self._catalogs.get(wanted)
        if found is None:
            found = self._catalogs[wanted] = self._overlaid(context.catalog, wanted)
            while len(self._catalogs) > _KEPT:
                self._catalogs.popitem(last=False)
        self._catalogs.move_to_end(wanted)
        oids = tuple(context.reader.parameter_oids)
        return Context(found.database, found, parsed, context.search_path, oids)

    def check(self, context: Context, statement: Statement) -> None:
        """Refuse a plan over several shards of what reads the clock on each of them."""
        plan = statement.plan
        while isinstance(plan, Filled):
            plan = plan.inner.plan
        if isinstance(plan, Single) or context.parsed.kind == "ExplainStmt":
            return
        for relation, at, inserts in _targets(context):
            found = self._known.get(relation.name)
            if isinstance(found, StandIn) and (found.clock or (inserts and found.filled_by_clock)):
                raise context.refuse("view-target", at, detail=_CLOCK, view=relation.name)

    def _written(self, context: Context) -> Iterator[tuple[TableName, bool]]:
        """Yield the views that a statement writes and that a table can stand in for; true for INSERT."""
        locked = _named(context) if "LockingClause" in context.parsed.kinds else ()
        for relation, _, inserts in (*_targets(context), *locked):
            if not relation.is_view or relation.name.schema == "pg_temp":
                continue
            if relation.name not in self._known:
                self._known[relation.name] = stand_in(context.catalog, relation)
            found = self._known[relation.name]
            if isinstance(found, StandIn) and not (inserts and found.filled):
                yield relation.name, inserts

    def _overlaid(self, catalog: Catalog, wanted: frozenset[tuple[TableName, bool]]) -> Catalog:
        for name, inserts in sorted(wanted):  # one that INSERT needs comes last, and stays
            found = self._known[name]
            if isinstance(found, StandIn):
                catalog = _with(catalog, found.inserted() if inserts else found.table, found.placement)
        return catalog


_CLOCK: Final = "Its query, or the default of a column that it does not show, reads each shard's own clock."
_NOT_PLAIN: Final = "View {} is not a query of one table, without anything but columns and WHERE."


def _targets(context: Context) -> Iterator[tuple[Relation, int | None, bool]]:
    """Yield what a statement writes, where it says so, and whether it inserts."""
    parsed = context.parsed
    alone = parsed.kind in _WRITES and "CommonTableExpr" not in parsed.kinds  # long lists of rows are not walked
    for kind, body in [(parsed.kind, parsed.body)] if alone else parsed.nodes:
        if kind not in _WRITES:
            continue
        relation = context.catalog.resolve(name_parts(body["relation"]), context.search_path)
        if relation is not None:
            yield relation, body["relation"].get("location"), kind == "InsertStmt"


def _named(context: Context) -> Iterator[tuple[Relation, int | None, bool]]:
    """Yield what a statement names; rows are locked in some of it."""
    for kind, body in context.parsed.nodes:
        relation = context.catalog.resolve(name_parts(body), context.search_path) if kind == "RangeVar" else None
        if relation is not None:
            yield relation, body.get("location"), False


def problem(context: Context, view: Relation, kind: str) -> str:
    """Return why a view over a sharded table cannot be written, as a sentence; ``kind`` is the statement's."""
    found = stand_in(context.catalog, view)
    if isinstance(found, str):
        return found
    if kind == "InsertStmt" and found.filled:
        return found.filled
    return "INSERT, UPDATE and DELETE go through it, but no MERGE, none beside a MERGE, and none inside COPY."


class _Unfit(Exception):  # noqa: N818 - said of a view, and told as a sentence
    """Nothing can stand in for a view."""


def stand_in(catalog: Catalog, view: Relation) -> StandIn | str:
    """Return what stands in for a view that is written; a sentence that says why not, where nothing can."""
    try:
        return _made(catalog, view, 0)
    except _Unfit as unfit:
        return str(unfit)


def _made(catalog: Catalog, view: Relation, depth: int) -> StandIn:
    if view.rules or view.triggers:
        raise _Unfit(f"View {view.name} has triggers or rules of its own.")
    if catalog.is_alone(view.name) or view.name.schema == "pg_temp":
        raise _Unfit(f"View {view.name} is on the home shard only.")
    query = _query(view)
    below = catalog.resolve(name_parts(query.body["fromClause"][0]["RangeVar"]), ("pg_catalog",))
    inner = None
    if below is not None and below.is_view and depth < _DEEPEST:
        inner = _made(catalog, below, depth + 1)
        below, catalog = inner.table, _with(catalog, inner.table, inner.placement)
    placement = catalog.effective_placement(below) if below is not None and below.is_table else None
    if below is None or not isinstance(placement, Sharded | Reference):
        raise _Unfit(f"View {view.name} is not a view of a sharded or reference table.")
    context = Context(catalog.database, catalog, query, ("pg_catalog",), ())
    try:
        names = _names(context, view)
    except Refused as refused:
        raise _Unfit(refused.detail or f"View {view.name}: {refused.message}.") from None
    if isinstance(placement, Sharded):
        placement = Sharded(_key(view, below, placement.key, names))
    elif context.whole_effect.clock or "SubLink" in query.kinds:
        raise _Unfit(f"View {view.name} may have other rows on each copy of {below.name}, for a moment.")
    shown = {column: name for name, column in names.items() if column is not None}
    hidden = tuple(column for column in below.columns if column.name not in shown)
    filled, clock = _filling(context, view, hidden)
    if isinstance(placement, Reference) and any(_differs(context, column) for column in hidden):
        filled = f"View {view.name} does not show a column whose default may be another one on each copy."
    return StandIn(
        _table(catalog, view, below, names, placement),
        placement,
        (*hidden, *(inner.hidden if inner is not None else ())),
        context.whole_effect.clock or (inner is not None and inner.clock),
        filled or (inner.filled if inner is not None else ""),
        clock or (inner is not None and inner.filled_by_clock),
    )


def _key(view: Relation, below: Relation, key: str, names: dict[str, str | None]) -> str:
    """Return what a view calls the sharding key; a name that no statement can write, where it does not show it."""
    keys = [name for name, column in names.items() if column == key]
    if len(keys) > 1:
        raise _Unfit(f"View {view.name} shows the sharding key {key} of {below.name} more than once.")
    return keys[0] if keys else _hidden(key)


def _hidden(name: str) -> str:
    """Return what a column that a view does not show is called: no statement can write that."""
    return f"\0{name}"


def _differs(context: Context, column: Column) -> bool:
    """Whether the default of a column may be another value on each copy."""
    effect = context.effect(dml.default_value(column))
    return not column.generated and (effect.clock or effect.volatile or bool(effect.touches))


def _query(view: Relation) -> Parsed:
    """Return a view's query, which has but one FROM item, a table or view, and conditions."""
    try:
        (parsed,) = parse(view.query)
    except (SyntaxFailure, ValueError):
        raise _Unfit(f"The query of view {view.name} cannot be read.") from None
    body = parsed.body
    sources = body.get("fromClause", ())
    plain = parsed.kind == "SelectStmt" and not body.keys() - _PLAIN and body.get("op", "SETOP_NONE") == "SETOP_NONE"
    if not plain or len(sources) != 1 or not sources[0].get("RangeVar", {}).get("inh"):
        raise _Unfit(_NOT_PLAIN.format(view.name))
    return parsed


def _names(context: Context, view: Relation) -> dict[str, str | None]:
    """Return the table's column that each column of a view is, None for what is computed.

    Raises Refused, or _Unfit, for what depends on the shard.
    """
    scope = Scope(context)
    level = scope.select(context.body)
    scope.check_complete()
    check_no_home(scope)
    check_reads(context, scope)
    check_no_system_columns(context)
    Spread(scope).level(level)
    effect = context.whole_effect
    if effect.volatile or effect.session_state or effect.runs is not Runs.ANYWHERE:
        raise _Unfit(f"View {view.name} calls functions that may give another value on each shard.")
    if effect.aggregate or effect.window or effect.returns_set:
        raise _Unfit(_NOT_PLAIN.format(view.name))
    outputs = level.outputs or {}
    if list(outputs) != [column.name for column in view.columns]:
        raise _Unfit(f"The columns of view {view.name} cannot be told.")
    return {name: None if column is None else column.name for name, column in outputs.items()}


def _filling(context: Context, view: Relation, hidden: tuple[Column, ...]) -> tuple[str, bool]:
    """Return why no shard may fill in these columns of a new row, and whether it would read the clock for that."""
    clock = False
    for column in hidden:
        if column.generated:
            continue
        effect = context.effect(dml.default_value(column))
        if column.identity or column.sequence is not None or effect.runs is not Runs.ANYWHERE:
            return f"View {view.name} does not show column {column.name}, whose default only home may compute.", False
        clock = clock or effect.clock
    return "", clock


def _table(
    catalog: Catalog,
    view: Relation,
    below: Relation,
    names: dict[str, str | None],
    placement: Sharded | Reference,
) -> Relation:
    shown = {column: name for name, column in names.items() if column is not None}
    hidden = [column for column in below.columns if column.name not in shown]

    def named(name: str) -> str:
        return shown.get(name, _hidden(name))

    def renamed(index: Index) -> Index:
        columns = (one if one.column is None else replace(one, column=named(one.column)) for one in index.columns)
        return replace(index, columns=tuple(columns))

    def referred(key: ForeignKey) -> ForeignKey:
        return replace(key, table=view.name, referenced_columns=tuple(map(named, key.referenced_columns)))

    read = view.read_uses
    others = read.reads - {below.name}
    uses = replace(
        read, reads=frozenset(name for name in others if isinstance(catalog.effective_placement(name), Reference))
    )
    generated = Uses()
    for column in hidden:
        generated |= column.uses if column.generated else Uses()
    key = tuple(map(named, below.primary_key))
    unseen = tuple(
        replace(column, name=_hidden(column.name))
        for column in (*below.columns, *below.hidden)
        if isinstance(placement, Sharded) and _hidden(column.name) == placement.key
    )
    return replace(
        below,
        name=view.name,
        kind=RelationKind.TABLE,
        columns=tuple(_column(column, below, names[column.name]) for column in view.columns),
        oid=view.oid,
        # GROUP BY it means nothing of a view; rows of copies are told apart by it.
        primary_key=key if isinstance(placement, Reference) and shown.keys() >= set(below.primary_key) else (),
        unique=tuple(map(renamed, below.unique)),
        foreign_keys=tuple(replace(key, columns=tuple(map(named, key.columns))) for key in below.foreign_keys),
        referenced_by=tuple((table, referred(key)) for table, key in below.referenced_by),
        parents=(),
        partition=False,
        owned_by=None,
        read_uses=below.read_uses | uses,
        write_uses=below.write_uses | uses | generated,
        checks=(),
        indexes=frozenset(),
        stands_in=True,
        hidden=() if not isinstance(placement, Sharded) or placement.key in names else unseen,
    )


def _column(own: Column, below: Relation, name: str | None) -> Column:
    """Return a view's column with what the table's column is; a default of the view's own goes before the table's."""
    base = below.column(name) if name is not None else None
    if base is None:
        return own
    found = replace(base, name=own.name, number=own.number)
    if own.default and not base.generated:
        found = replace(found, default=own.default, uses=own.uses, identity="", sequence=None)
    return found


def _with(catalog: Catalog, table: Relation, placement: Sharded | Reference) -> Catalog:
    """Return a catalog in which a table stands in for the view of its name."""
    placements = {**catalog.database.placements, table.name: placement}
    kept = (relation for relation in catalog.relations if relation.name != table.name)
    return replace(catalog, database=replace(catalog.database, placements=placements), relations=(*kept, table))
