"""Which tables a query reads, what its names mean, and which equalities hold where.

A :class:`Level` is one SELECT (or the FROM part of an UPDATE, DELETE or MERGE) with its range table. Equalities are
collected as :class:`router.keys.Facts`: a condition holds below an inner join and in WHERE; the ON of an outer join
holds only for its nullable side, which inherits what holds outside; a FULL JOIN's ON holds for neither. WHERE's ``=``
is strict, so pushing it to a scan below any outer join changes nothing (Postgres itself reduces such joins).

Leaves to :mod:`router.planner.spread` what follows for shards. Names that cannot be resolved for certain mean nothing
here: the condition then does not route.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from router.cluster import Reference, Sharded
from router.keys import ColumnId, Facts, family, only
from router.planner.constants import constant_columns
from router.planner.names import (
    Cte,
    Item,
    Join,
    Leaf,
    Level,
    Merged,
    Names,
    Place,
    Source,
    Tree,
    derived_columns,
    function_columns,
    function_name,
    outputs,
    positions,
    relation_columns,
    renamed,
    using,
)
from router.planner.predicates import said
from router.tree import Node, conjuncts, is_wrapped, strings, unwrap, walk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from router.planner.constants import ConstantColumn
    from router.planner.context import Context
    from router.relation import Column

MAX_SOURCES = 400


class Scope:
    """Builds levels for one statement and keeps all its sources."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.sources: list[Source] = []
        self.modifying: list[Cte] = []
        self.written: dict[int, Any] = {}  # what router.planner.dml built of them, by the id of their node
        self.names_of: dict[int, Names] = {}  # what a query's names mean, by the id of its node
        self._seen: set[int] = set()

    # --- selects -----------------------------------------------------------------------------------------------------

    def select(
        self,
        node: Node,
        *,
        outer: Names | None = None,
        facts: Facts | None = None,
        environment: dict[str, Cte] | None = None,
        merge_into: Facts | None = None,
    ) -> Level:
        """Analyse a SelectStmt's body. ``merge_into``: it is part of its parent and adds to the parent's facts."""
        own = merge_into if merge_into is not None else Facts(facts)
        names = Names([], outer=outer)
        level = Level(node, names, own)
        self.names_of[id(node)] = names
        environment = self.with_clause(node, level, environment or {}, outer, facts)
        if node.get("op", "SETOP_NONE") != "SETOP_NONE":
            arms = [node["larg"], node["rarg"]]
            level.arms = tuple(self.select(arm, outer=outer, facts=facts, environment=environment) for arm in arms)
            level.outputs = positions(level.arms[0])
            return level
        self.from_clause(level, node.get("fromClause", ()), environment)
        self.where(level, node.get("whereClause"), environment)
        for key in ("targetList", "groupClause", "havingClause", "windowClause", "sortClause", "distinctClause",
                    "limitCount", "limitOffset", "valuesLists"):  # fmt: skip
            self.sublinks(level, node.get(key), environment, own)
        level.outputs = outputs(level)
        return level

    def with_clause(
        self,
        node: Node,
        level: Level,
        environment: dict[str, Cte],
        outer: Names | None,
        facts: Facts | None,
    ) -> dict[str, Cte]:
        """Read a WITH; returns the names that it makes visible. Queries that nobody reads become nested levels."""
        clause = node.get("withClause")
        if clause is None:
            return environment
        environment = dict(environment)
        for entry in clause.get("ctes", ()):
            body = entry["CommonTableExpr"]
            kind, query = unwrap(body["ctequery"])
            recursive = bool(clause.get("recursive")) and _mentions(query, body["ctename"])
            cte = Cte(
                body["ctename"], query, kind, strings(body.get("aliascolnames")), recursive, environment, outer, facts
            )
            environment = {**environment, cte.name: cte}
            if kind != "SelectStmt":
                self.modifying.append(cte)
            elif not _mentions({key: value for key, value in node.items() if key != "withClause"}, cte.name):
                level.nested.append(self._cte_level(cte))
        return environment

    def _cte_level(self, cte: Cte) -> Level:
        environment = cte.environment
        if cte.recursive:
            myself = Cte(cte.name, {}, "", (), recursive=True, environment={}, names=None, facts=None)
            environment = {**environment, cte.name: myself}
        return self.select(cte.node, outer=cte.names, facts=cte.facts, environment=environment)

    def check_complete(self) -> None:
        """Refuse when a table stands somewhere in the statement where this file did not look."""
        parsed = self.context.parsed
        found = parsed.nodes
        named = [
            item["RangeVar"] for kind, body in found if kind == "LockingClause" for item in body.get("lockedRels", ())
        ]
        self._seen.update(map(id, named))  # FOR UPDATE OF names aliases
        for kind, body in found:
            if kind == "RangeVar" and id(body) not in self._seen:
                raise self.context.refuse("unknown-node", body.get("location"), name=f"{body['relname']} in this place")

    # --- FROM --------------------------------------------------------------------------------------------------------

    def from_clause(self, level: Level, nodes: Any, environment: dict[str, Cte]) -> None:
        """Read a list of FROM items: a chain of inner joins."""
        for node in nodes:
            tree, found, merged = self._from(level, node, level.facts, environment)
            level.names.visible.extend(found)
            level.names.merged.update(merged)
            level.tree = tree if level.tree is None else Join("inner", level.tree, tree, level.facts)

    def where(self, level: Level, node: Node | None, environment: dict[str, Cte]) -> None:
        """Read a condition that holds for every row of a level."""
        if node is not None:
            self.condition(level, node, level.names, level.facts, environment, level.facts)

    def condition(  # noqa: PLR0913, PLR0917 - a condition stands in a level, among names, under facts
        self,
        level: Level,
        node: Node,
        names: Names,
        facts: Facts,
        environment: dict[str, Cte],
        sublink_facts: Facts | None,
    ) -> None:
        """Add what a condition says to ``facts``; its subqueries become nested levels."""
        for part in conjuncts(node):
            self._fact(part, names, facts)
            body = part.get("SubLink")
            if body is not None and body.get("subLinkType") == "ANY_SUBLINK" and "operName" not in body:
                self._semijoin(level, body, names, environment, sublink_facts)
            else:
                self.sublinks(level, part, environment, sublink_facts, names)

    def _semijoin(
        self, level: Level, body: Node, names: Names, environment: dict[str, Cte], facts: Facts | None
    ) -> None:
        """``x IN (SELECT y ...)`` as a conjunct: only rows with y = x matter, so they may be taken for equal inside."""
        child = self.select(body["subselect"]["SelectStmt"], outer=names, facts=facts, environment=environment)
        level.nested.append(child)
        self.sublinks(level, body.get("testexpr"), environment, facts, names)
        column = names.column(body["testexpr"])
        if child.arms or not mergeable(self.context, child.node) or column is None or child.outputs is None:
            return
        if not self.context.reader.plain_equality:
            return
        targets = list(child.outputs.values())
        if len(targets) == 1 and targets[0] is not None and targets[0].family == column.family is not None:
            child.facts.equal.append((targets[0], column))

    def _from(
        self, level: Level, node: Node, facts: Facts, environment: dict[str, Cte]
    ) -> tuple[Tree, list[Item], dict[str, ColumnId | None]]:
        kind, body = unwrap(node)
        if kind == "RangeVar":
            tree, item = self._range_var(level, body, facts, environment)
            return tree, [item], {}
        if kind == "JoinExpr":
            return self._join(level, body, facts, environment)
        if kind == "RangeSubselect":
            return self._subselect(level, body, facts, environment)
        if kind == "RangeTableSample":
            tree, found, merged = self._from(level, body["relation"], facts, environment)
            if isinstance(tree, Leaf):
                tree.source.sampled = True
            return tree, found, merged
        if kind in {"RangeFunction", "RangeTableFunc", "JsonTable"}:
            self.sublinks(level, body, environment, None)
            source = self.add(Place.FREE, facts, body.get("location"), once=called_once(self.context, body))
            alias = body.get("alias", {})
            return Leaf(source), [Item(alias.get("aliasname", function_name(body)), function_columns(body))], {}
        raise self.context.refuse("unknown-node", name=kind)

    def add(self, place: Place, facts: Facts, location: int | None, **known: Any) -> Source:
        """Register a source."""
        if len(self.sources) >= MAX_SOURCES:
            raise self.context.refuse("too-complex", location)
        source = Source(len(self.sources), place, facts, location, **known)
        self.sources.append(source)
        return source

    def _range_var(self, level: Level, body: Node, facts: Facts, environment: dict[str, Cte]) -> tuple[Tree, Item]:
        name = body["relname"]
        self._seen.add(id(body))
        alias = body.get("alias", {})
        cte = environment.get(name) if "schemaname" not in body else None
        if cte is not None:
            return self._cte_reference(level, cte, body, facts)
        source = self.table(body, facts)
        source.alias = alias.get("aliasname", name)
        columns = relation_columns(source)
        if columns is not None:
            columns = renamed(columns, strings(alias.get("colnames")))
        return Leaf(source), Item(alias.get("aliasname", name), columns, None if alias else source.relation)

    def table(self, body: Node, facts: Facts) -> Source:
        """Register the table that a RangeVar names."""
        self._seen.add(id(body))
        context, at = self.context, body.get("location")
        relation = context.relation(body)
        placement = context.placement(relation, at)
        if isinstance(placement, Sharded) and relation is not None:
            column = relation.column(placement.key)
            key_type = column.type_name if column is not None else ""
            source = self.add(Place.SHARDED, facts, at, relation=relation, key_type=key_type)
            source.key = ColumnId(source.index, placement.key, family(key_type))
            return source
        place = Place.REFERENCE if isinstance(placement, Reference) else Place.HOME
        return self.add(place, facts, at, relation=relation)

    def _cte_reference(self, level: Level, cte: Cte, body: Node, facts: Facts) -> tuple[Tree, Item]:
        alias = body.get("alias", {})
        label = alias.get("aliasname", cte.name)
        if cte.kind == "SelectStmt" and not cte.recursive and mergeable(self.context, cte.node):
            child = self.select(cte.node, outer=cte.names, environment=cte.environment, merge_into=facts)
            level.nested.extend(child.nested)
            columns = derived_columns(child, cte.aliases, strings(alias.get("colnames")))
            return Merged(child.tree), Item(label, columns)
        if cte.kind == "SelectStmt":
            return self._derived(self._cte_level(cte), label, (cte.aliases, strings(alias.get("colnames"))), facts)
        if not cte.kind:
            return Leaf(self.add(Place.RECURSIVE, facts, body.get("location"))), Item(label, None)
        return self._returned(cte, label, strings(alias.get("colnames")), facts, body.get("location"))

    def _returned(
        self, cte: Cte, label: str, aliases: tuple[str, ...], facts: Facts, at: int | None
    ) -> tuple[Tree, Item]:
        """A data-modifying CTE's RETURNING: columns with one known value tell it to the outside."""
        from router.planner import dml  # noqa: PLC0415 - dml builds levels by this file

        source = self.add(Place.DERIVED, facts, at)
        written = dml.built(self, cte)
        inner = dml.returned(written, cte.aliases, aliases)
        if inner is None:
            return Leaf(source), Item(label, None)
        columns: dict[str, ColumnId | None] = {}
        for name, column in inner.items():
            outside = None if column is None else ColumnId(source.index, name, column.family)
            columns[name] = outside
            if outside is None or column is None or column.family is None:
                continue
            term = only(written.source.facts.terms(column))
            if term is not None:
                facts.equal.append((outside, term))
        return Leaf(source), Item(label, columns)

    def _subselect(
        self, level: Level, body: Node, facts: Facts, environment: dict[str, Cte]
    ) -> tuple[Tree, list[Item], dict[str, ColumnId | None]]:
        node = body["subquery"]["SelectStmt"]
        alias = body.get("alias", {})
        label, aliases = alias.get("aliasname", ""), strings(alias.get("colnames"))
        outer = level.names if body.get("lateral") else level.names.outer
        if mergeable(self.context, node):
            child = self.select(node, outer=outer, environment=environment, merge_into=facts)
            level.nested.extend(child.nested)
            return Merged(child.tree), [Item(label, derived_columns(child, aliases))], {}
        child = self.select(node, outer=outer, facts=facts if body.get("lateral") else None, environment=environment)
        tree, item = self._derived(child, label, (aliases,), facts)
        return tree, [item], {}

    def _derived(
        self, child: Level, label: str, aliases: tuple[tuple[str, ...], ...], facts: Facts
    ) -> tuple[Tree, Item]:
        """Register a subquery that is not merged; columns with one known value tell it to the outside."""
        source = self.add(Place.DERIVED, facts, None, level=child)
        inner = derived_columns(child, *aliases)
        if inner is None:
            return Leaf(source), Item(label, None)
        columns: dict[str, ColumnId | None] = {}
        constants = constant_columns(self.context.reader, child.node) or []
        if len(constants) == len(inner):
            return Leaf(source), Item(label, _constants(source, inner, constants, facts))
        for name, column in inner.items():
            outside = None if column is None else ColumnId(source.index, name, column.family)
            columns[name] = outside
            if column is not None and outside is not None:
                source.columns.append((outside, column))
            if column is None or column.family is None or child.arms:
                continue
            term = only(child.facts.terms(column))
            if term is not None and outside is not None:
                facts.equal.append((outside, term))
        return Leaf(source), Item(label, columns)

    def _join(
        self, level: Level, body: Node, facts: Facts, environment: dict[str, Cte]
    ) -> tuple[Tree, list[Item], dict[str, ColumnId | None]]:
        kind = body.get("jointype", "JOIN_INNER")
        inner, full = kind == "JOIN_INNER", kind == "JOIN_FULL"
        left_facts = facts if kind in {"JOIN_INNER", "JOIN_LEFT"} else Facts(facts)
        right_facts = facts if kind in {"JOIN_INNER", "JOIN_RIGHT"} else Facts(facts)
        before = len(level.names.visible)
        left, left_items, left_merged = self._from(level, body["larg"], left_facts, environment)
        level.names.visible.extend(left_items)  # in sight of LATERAL on the right
        right, right_items, right_merged = self._from(level, body["rarg"], right_facts, environment)
        del level.names.visible[before:]
        on = Facts() if full else facts if inner else right_facts if kind == "JOIN_LEFT" else left_facts
        both = [*left_items, *right_items]
        merged = {**left_merged, **right_merged}
        names = Names(both, merged, level.names.outer)
        left_names, right_names = Names(left_items, left_merged), Names(right_items, right_merged)
        for name in using(body, left_items, right_items):
            one, other = left_names.lookup((name,)), right_names.lookup((name,))
            plain = self.context.reader.plain_equality
            if plain and one is not None and other is not None and one.family == other.family is not None:
                on.equal.append((one, other))
            merged[name] = None if full else self._merged(*((other, one) if kind == "JOIN_RIGHT" else (one, other)))
        if "quals" in body:
            self.condition(level, body["quals"], names, on, environment, facts if inner else None)
        if body.get("isNatural") and any(item.columns is None for item in both):
            for item in both:
                item.columns = None
        if "alias" in body:
            both, merged = [Item(body["alias"]["aliasname"], None)], {}
        if kind == "JOIN_RIGHT":
            return Join("left", right, left, on, body.get("location")), both, merged
        return Join("inner" if inner else "full" if full else "left", left, right, on), both, merged

    def _merged(self, kept: ColumnId | None, other: ColumnId | None) -> ColumnId | None:
        """Return what a name of USING means: one side's column, of the type that both have in common."""
        types = [
            None if column is None else (column.type_oid, column.type_modifier, column.collation)
            for column in (self.column(kept), self.column(other))
        ]
        return kept if kept is None or (types[0] is not None and types[0] == types[1]) else replace(kept, turned=True)

    def column(self, column: ColumnId | None) -> Column | None:
        """Return the column of a table that has this type as well; None for what is computed."""
        if column is None or column.turned:
            return None
        relation = self.sources[column.source].relation
        return None if relation is None else relation.column(column.name)

    # --- conditions --------------------------------------------------------------------------------------------------

    def _fact(self, node: Node, names: Names, facts: Facts) -> None:
        found = said(self.context.reader, node, names)
        for column, terms in found.values.items():
            facts.add(column, terms)
        facts.equal.extend(found.same)

    # --- subqueries in expressions -----------------------------------------------------------------------------------

    def sublinks(
        self,
        level: Level,
        value: Any,
        environment: dict[str, Cte],
        facts: Facts | None,
        names: Names | None = None,
    ) -> None:
        """Make nested levels of the subqueries in an expression."""
        if "SubLink" not in self.context.parsed.kinds:
            return
        for body in _sublinks(value):
            child = self.select(
                body["subselect"]["SelectStmt"], outer=names or level.names, facts=facts, environment=environment
            )
            level.nested.append(child)
            self.sublinks(level, body.get("testexpr"), environment, facts, names)


def _constants(
    source: Source, names: Iterable[str], columns: list[ConstantColumn], facts: Facts
) -> dict[str, ColumnId | None]:
    """Return the columns of a subquery of constants, and add what values they have to the facts."""
    found: dict[str, ColumnId | None] = {}
    for name, column in zip(names, columns, strict=True):
        outside = ColumnId(source.index, name, column.family) if column.family is not None else None
        found[name] = outside
        if outside is not None and column.terms is not None:
            facts.add(outside, column.terms)
    return found


# --- reading single nodes --------------------------------------------------------------------------------------------


def _sublinks(value: Any) -> Iterator[Node]:
    """Yield the SubLinks of an expression, not those inside them."""
    if isinstance(value, list):
        for part in value:
            yield from _sublinks(part)
    elif isinstance(value, dict):
        if is_wrapped(value) and "SubLink" in value:
            yield value["SubLink"]
            return
        for part in value.values():
            yield from _sublinks(part)


def _mentions(value: Any, name: str) -> bool:
    """Whether an unqualified RangeVar of this name stands anywhere below."""
    if isinstance(value, list):
        return any(_mentions(part, name) for part in value)
    if isinstance(value, dict):
        if value.get("relname") == name and "schemaname" not in value:
            return True
        return any(_mentions(part, name) for part in value.values())
    return False


_NOT_MERGEABLE = (
    "distinctClause",
    "groupClause",
    "havingClause",
    "windowClause",
    "limitCount",
    "limitOffset",
    "lockingClause",
    "withClause",
    "valuesLists",
    "intoClause",
)


def called_once(context: Context, node: Any) -> bool:
    """Whether volatile functions below are called once for all rows: nothing here refers to a row."""
    return context.effect(node).volatile and not any(kind == "ColumnRef" for kind, _ in walk(node))


def mergeable(context: Context, node: Node) -> bool:
    """Whether a subquery is nothing but FROM, WHERE and computed columns, so that its rows are its parent's rows."""
    if any(key in node for key in _NOT_MERGEABLE):
        return False
    if node.get("op", "SETOP_NONE") != "SETOP_NONE" or not node.get("fromClause"):
        return False
    effect = context.effect([target["ResTarget"].get("val") for target in node.get("targetList", ())])
    return not (effect.aggregate or effect.window or effect.returns_set or effect.volatile)
