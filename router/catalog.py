"""What one database holds, and what of it reaches sharded rows.

A frozen :class:`Catalog` is made from facts (:mod:`router.relation`), read from the home shard in one snapshot or written by
hand in a test. It decides where a relation effectively lives (a partition goes with its parent, a view over a sharded table
lives nowhere), what running a function may touch, and whether a statement that reads or writes a relation would set off
something that reaches rows elsewhere. It leaves to the planner what a statement itself names, and to
:mod:`proxy.shards.catalog` how the facts are read.

Where overloads, operators or casts cannot be told apart in a parse tree, the answer covers all that it might be.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from router import builtins
from router.closure import CASCADING, Closure, Reach
from router.cluster import Database, Home, Placement, Reference, Sharded, TableName
from router.effect import NO_EFFECT, EffectKind, FunctionEffect, Runs, builtin_effect, merge, run_together
from router.relation import (
    NOTHING,
    Cast,
    Column,
    ForeignKey,
    Function,
    FunctionName,
    Index,
    IndexColumn,
    Operator,
    Relation,
    RelationKind,
    Rule,
    Trigger,
    Uses,
    UserType,
)
from router.sharding import KEY_TYPES, hash_family

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

__all__ = [
    "NOTHING",
    "NO_EFFECT",
    "OWN_SCHEMA",
    "Cast",
    "Catalog",
    "Column",
    "EffectKind",
    "ForeignKey",
    "Function",
    "FunctionEffect",
    "FunctionName",
    "Index",
    "IndexColumn",
    "Operator",
    "Relation",
    "RelationKind",
    "Rule",
    "Runs",
    "Trigger",
    "Unplaceable",
    "UserType",
    "Uses",
]

SYSTEM_SCHEMAS = frozenset({"pg_catalog", "information_schema", "pg_toast"})
OWN_SCHEMA = "pgchorus"
_NOWHERE = Database("", ("s0",), 0)


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """A relation (or an access to it) that no single placement describes. ``reason`` is a clause for an error's DETAIL."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Maps:
    """Look-ups made once from the facts."""

    relations: dict[TableName, Relation] = field(default_factory=dict)
    functions: dict[FunctionName, tuple[Function, ...]] = field(default_factory=dict)
    operators: dict[str, tuple[Operator, ...]] = field(default_factory=dict)
    types: dict[TableName, UserType] = field(default_factory=dict)
    placements: dict[TableName, Placement | Unplaceable] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Catalog:
    """One database as of ``version`` (the catalog version that ``pgchorus.meta`` had, see :mod:`proxy.shards.schema`).

    ``database`` says what the configuration places and vouches for. ``builtin_functions``: names in pg_catalog by a server's word, and
    ``system_relations``: names of system relations (``pg_catalog.pg_class``); both empty: taken from lists (tests only).
    A search path is the effective one of the session, ``$user`` already replaced; pg_catalog comes first unless it is named.
    Temporary relations are the session's own and never in here: see :meth:`overlaid`.
    """

    database: Database = _NOWHERE
    relations: tuple[Relation, ...] = ()
    functions: tuple[Function, ...] = ()
    operators: tuple[Operator, ...] = ()
    casts: tuple[Cast, ...] = ()
    types: tuple[UserType, ...] = ()
    schemas: frozenset[str] = frozenset({"public"})
    builtin_functions: Mapping[str, builtins.Builtin] = field(default_factory=dict)
    system_relations: frozenset[TableName] = frozenset()
    version: int = 0
    server_version: int = 180000
    _maps: _Maps = field(default_factory=_Maps, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        maps = self._maps
        for relation in self.relations:
            maps.relations[relation.name] = relation
        for function in self.functions:
            maps.functions[function.name] = (*maps.functions.get(function.name, ()), function)
        for operator in self.operators:
            maps.operators[operator.symbol] = (*maps.operators.get(operator.symbol, ()), operator)
        for kind in self.types:
            maps.types[TableName(kind.schema, kind.name)] = kind

    @classmethod
    def empty(cls, database: Database = _NOWHERE) -> Catalog:
        """Return a catalog without any user object."""
        return cls(database)

    def overlaid(self, relations: Iterable[Relation]) -> Catalog:
        """Return this catalog with more relations (schema ``pg_temp``: found first), or others in place of its own."""
        added = {relation.name: relation for relation in relations}
        return replace(self, relations=(*(r for r in self.relations if r.name not in added), *added.values()))

    # --- names -------------------------------------------------------------------------------------------------------

    def relation(self, schema: str, name: str) -> Relation | None:
        """Return the relation of exactly this name."""
        table = TableName(schema, name)
        found = self._maps.relations.get(table)
        if found is None and self._is_system(table):
            found = Relation(table, RelationKind.VIEW)
        return found

    def resolve(self, parts: Sequence[str], search_path: Sequence[str]) -> Relation | None:
        """Return the relation that a name of one to three parts means, as Postgres would find it; None if there is none.

        System relations come back bare (no columns); three parts must name this database.
        """
        if len(parts) > 1:
            if len(parts) > 3 or (len(parts) == 3 and parts[0] != self.database.name):  # noqa: PLR2004 - database.schema.name
                return None
            return self.relation(parts[-2], parts[-1])
        temporary = () if "pg_temp" in search_path else ("pg_temp",)
        for schema in (*temporary, *effective_path(search_path)):
            found = self.relation(schema, parts[0])
            if found is not None:
                return found
        return None

    def _is_system(self, table: TableName) -> bool:
        if self.system_relations:
            return table in self.system_relations
        return table.schema == "information_schema" or (table.schema == "pg_catalog" and table.name.startswith("pg_"))

    # --- where relations live ----------------------------------------------------------------------------------------

    def effective_placement(self, relation: Relation | TableName) -> Placement | Unplaceable:
        """Return where a relation's rows are, closed over partitions, inheritance and views.

        A view is Home when nothing that it reaches is sharded (home has reference tables too); otherwise Unplaceable: expand
        it or refuse. Sequences, foreign tables and system relations are Home.
        """
        name = relation if isinstance(relation, TableName) else relation.name
        found = self._maps.placements.get(name)
        if found is None:
            found = self._place(name)
            self._maps.placements[name] = found
        return found

    def _place(self, name: TableName) -> Placement | Unplaceable:
        relation = self._maps.relations.get(name)
        configured = self.database.placements.get(name)
        if relation is None:
            return configured or Home()
        if relation.is_table:
            placement = self._place_table(relation, configured)
        elif configured is not None:
            return Unplaceable(f"the configuration places {name}, which is not a table")
        else:
            placement = Home()
        if isinstance(placement, Home) and relation.kind in {RelationKind.VIEW, RelationKind.MATERIALIZED}:
            reach = self._closure().follow(self._closure().direct(relation, write=False))
            return self._unless_sharded(relation, reach) or placement
        return placement

    def _place_table(self, relation: Relation, configured: Placement | None) -> Placement | Unplaceable:
        """Close a table's placement over its family: all of it lives in one way, or nobody can say how it is read."""
        roots = self._roots(relation)
        placements = {root: self.database.placement(root) for root in roots}
        chosen = placements[roots[0]]
        family = [relation.name, *roots, *(member for root in roots for member in self._descendants(root))]
        for member in family:
            declared = self.database.placements.get(member)
            if declared is not None and declared != chosen:
                return Unplaceable(f"{member} is placed otherwise than its relative {roots[0]}")
            if declared is None and member in placements and placements[member] != chosen:
                return Unplaceable(f"{member} is placed otherwise than its relative {roots[0]}")
        if configured is None and relation.name not in placements and isinstance(chosen, Home):
            return chosen
        if isinstance(chosen, Sharded):
            return self.key_problem(relation, chosen) or chosen
        return chosen

    def key_problem(self, relation: Relation, placement: Sharded) -> Unplaceable | None:
        """Return why a table cannot be sharded by this key, None if it can."""
        column = relation.column(placement.key)
        if column is None:
            return Unplaceable(f"{relation.name} has no column {placement.key!r}, its sharding key")
        if column.type_schema != "pg_catalog" or column.type_name not in KEY_TYPES:
            kinds = ", ".join(sorted(KEY_TYPES))
            return Unplaceable(
                f"the sharding key {relation.name}.{column.name} is of type {column.type_name}, not one of {kinds}"
            )
        if not column.deterministic:
            return Unplaceable(f"the sharding key {relation.name}.{column.name} has a nondeterministic collation")
        if column.generated:
            return Unplaceable(f"the sharding key {relation.name}.{column.name} is a generated column")
        return None

    def _roots(self, relation: Relation) -> list[TableName]:
        """Return the ancestors without parents (itself if it has none)."""
        roots: list[TableName] = []
        pending, seen = [relation.name], {relation.name}
        while pending:
            name = pending.pop()
            current = self._maps.relations.get(name)
            parents = current.parents if current is not None else ()
            if not parents and name not in roots:
                roots.append(name)
            for parent in parents:
                if parent not in seen:
                    seen.add(parent)
                    pending.append(parent)
        return sorted(roots)

    def _descendants(self, name: TableName) -> list[TableName]:
        found: list[TableName] = []
        pending, seen = [name], {name}
        while pending:
            current = self._maps.relations.get(pending.pop())
            for child in current.children if current is not None else ():
                if child not in seen:
                    seen.add(child)
                    found.append(child)
                    pending.append(child)
        return found

    def sharded_among(self, tables: Iterable[TableName]) -> frozenset[TableName]:
        """Return those of ``tables`` whose rows are spread over shards (or live in no single way)."""
        return frozenset(table for table in tables if isinstance(self._table_placement(table), Sharded | Unplaceable))

    def _table_placement(self, name: TableName) -> Placement | Unplaceable:
        """Return a table's placement without following views: what a walk has reached is followed already."""
        relation = self._maps.relations.get(name)
        if relation is None:
            return self.database.placement(name)
        return self._place_table(relation, self.database.placements.get(name)) if relation.is_table else Home()

    def _unless_sharded(self, relation: Relation, reach: Reach) -> Unplaceable | None:
        sharded = self.sharded_among(reach.tables)
        what = "view" if relation.is_view else "materialized view"
        if sharded:
            return Unplaceable(f"{what} {relation.name} reaches the sharded table {min(sharded)}")
        if reach.unknown:
            return Unplaceable(f"{what} {relation.name} calls something that may read sharded tables: {reach.unknown}")
        effect = self._effect_of(reach)
        if effect.runs is Runs.NOWHERE:
            return Unplaceable(f"{what} {relation.name}: {effect.reason}")
        return None

    # --- what statements set off -------------------------------------------------------------------------------------

    def access_problem(
        self, relation: Relation, *, write: bool, defaults: Collection[str] | None = None
    ) -> Unplaceable | None:
        """Return why reading (or writing) a relation where it lives would not be exact, None if it is.

        Covers policies, rules, triggers, checks, generated columns, index expressions, cascades, foreign keys, and the defaults
        of the columns ``defaults`` (None: of all columns). The planner has to place what the statement itself names.
        Says nothing about views that are expanded: ask for the tables below them as well.
        """
        placement = self.effective_placement(relation)
        if isinstance(placement, Unplaceable):
            return placement
        wanted = None if defaults is None else frozenset(defaults)
        closure = self._closure()
        pending, seen = [relation], {relation.name}
        while pending:
            current = pending.pop()
            if write and current is not relation:
                wanted = None
            problem = self._placed_problem(
                current, closure.follow(closure.direct(current, write=write, defaults=wanted)), placement
            )
            problem = problem or (self._foreign_key_problem(current, placement) if write else None)
            if problem is not None:
                return problem
            related = list(current.children)
            if write:
                related += [t for t, key in current.referenced_by if {key.on_delete, key.on_update} & CASCADING]
            for name in related:
                member = self._maps.relations.get(name)
                if member is not None and name not in seen:
                    seen.add(name)
                    pending.append(member)
        return self._open_cast()

    def _placed_problem(self, relation: Relation, reach: Reach, placement: Placement) -> Unplaceable | None:
        """Judge what a relation at ``placement`` sets off."""
        where = f"{relation.name} sets off"
        if reach.unknown:
            return Unplaceable(f"{where} something that may touch sharded tables: {reach.unknown}")
        sharded = self.sharded_among(reach.tables - {relation.name})
        if sharded:
            return Unplaceable(f"{where} an access to the sharded table {min(sharded)}")
        many = len(self.database.shards) > 1
        written_reference = [t for t in reach.writes if t != relation.name and self._is_reference(t)]
        if written_reference and many:
            return Unplaceable(f"{where} a write to one copy of the reference table {min(written_reference)}")
        if not isinstance(placement, Home) and many:
            at_home = [
                t for t in reach.tables if t != relation.name and not self._is_reference(t) and not self._is_system(t)
            ]
            if at_home:
                return Unplaceable(f"{where} an access to {min(at_home)}, which lives on the home shard only")
        effect = self._effect_of(reach)
        if effect.runs is Runs.NOWHERE or (effect.runs is Runs.HOME and not isinstance(placement, Home)):
            return Unplaceable(f"{where} a function that cannot run there: {effect.reason}")
        if effect.runs is Runs.LOCAL and isinstance(placement, Home):
            return Unplaceable(f"{where} a function that cannot run there: {effect.reason}")
        return None

    def _is_reference(self, table: TableName) -> bool:
        return isinstance(self._table_placement(table), Reference)

    def _foreign_key_problem(self, relation: Relation, placement: Placement) -> Unplaceable | None:
        for key in relation.foreign_keys:
            problem = self.foreign_key_problem(relation.name, placement, key)
            if problem is not None:
                return problem
        for table, key in relation.referenced_by:
            other = self._table_placement(table)
            problem = other if isinstance(other, Unplaceable) else self.foreign_key_problem(table, other, key)
            if problem is not None:
                return problem
        return None

    def foreign_key_problem(self, table: TableName, placement: Placement, key: ForeignKey) -> Unplaceable | None:
        """Return why no shard could enforce a foreign key of ``table`` (which lives at ``placement``), None if one can."""
        target = self._table_placement(key.table)
        if isinstance(target, Unplaceable):
            return target
        if len(self.database.shards) == 1:
            return None
        reason = f"foreign key {key.name} of {table} to {key.table}"
        if isinstance(placement, Home):
            return Unplaceable(f"{reason}: the rows are on other shards") if isinstance(target, Sharded) else None
        if isinstance(target, Home):
            return Unplaceable(f"{reason}: {key.table} lives on the home shard only")
        if isinstance(target, Reference):
            return None
        if isinstance(placement, Reference):
            return Unplaceable(f"{reason}: each shard has only a part of {key.table}")
        pairs = set(zip(key.columns, key.referenced_columns, strict=True))
        if (placement.key, target.key) not in pairs or not self._colocated(table, placement.key, key.table, target.key):
            return Unplaceable(
                f"{reason}: it does not join their sharding keys, so the rows may be on different shards"
            )
        return None

    def _colocated(self, one: TableName, key: str, other: TableName, other_key: str) -> bool:
        families = []
        for table, name in ((one, key), (other, other_key)):
            relation = self._maps.relations.get(table)
            column = None if relation is None else relation.column(name)
            families.append("" if column is None else hash_family(column.type_name))
        return families[0] == families[1] != ""

    def _open_cast(self) -> Unplaceable | None:
        """Return the problem of a user-defined implicit cast that may touch tables: no parse tree shows where it runs."""
        for cast in self.casts:
            if cast.context != "e" and cast.function is not None:
                effect = self._user_effect(cast.function)
                if effect.runs is not Runs.ANYWHERE:
                    return Unplaceable(f"the implicit cast from {cast.source} to {cast.target}: {effect.reason}")
        return None

    # --- functions, operators, types ---------------------------------------------------------------------------------

    def function_effect(
        self, parts: Sequence[str], search_path: Sequence[str], arguments: int | None = None
    ) -> FunctionEffect:
        """Return what calling a function of this name may do, whichever overload it is.

        ``arguments``: how many arguments the call has, where that can be counted. ``found`` is False for a name that is no
        function (Postgres may still read it as a cast: the effect of a type of that name is included).
        """
        name = parts[-1]
        schemas = effective_path(search_path) if len(parts) == 1 else (parts[-2],)
        effects: list[FunctionEffect] = []
        for schema in schemas:
            if schema == "pg_catalog":
                facts = self._builtin(name)
                if facts is not None:
                    effects.append(builtin_effect(name, facts, arguments))
            candidates = self._maps.functions.get(FunctionName(schema, name), ())
            if any(_accepts(candidate, arguments) for candidate in candidates):
                effects.append(self._user_effect(FunctionName(schema, name)))
        if not effects or all(effect.user_defined for effect in effects):
            effects += [replace(found, found=bool(effects)) for found in self._type_effects(parts, search_path)]
        return merge(effects)

    def _builtin(self, name: str) -> builtins.Builtin | None:
        if self.builtin_functions:
            return self.builtin_functions.get(name)
        return builtins.assumed(name)

    def _user_effect(self, name: FunctionName) -> FunctionEffect:
        overloads = self._maps.functions.get(name, ())
        reach = self._closure().follow(Uses(functions=frozenset({name})))
        opaque = bool(reach.unknown) or self._closure().vouch(name) is not None
        effect = self._effect_of(reach)
        volatile = any(f.volatile == "v" for f in overloads)
        unsure = opaque and volatile
        return replace(
            effect,
            volatile=effect.volatile or volatile,
            writes=effect.writes or unsure,
            sets=effect.sets or bool(reach.unknown),
            aggregate=any(f.kind == "a" for f in overloads),
            window=any(f.kind == "w" for f in overloads),
            returns_set=any(f.returns_set for f in overloads),
            user_defined=True,
        )

    def _effect_of(self, reach: Reach) -> FunctionEffect:
        """Turn what was reached into an effect: where may it run?"""
        effects = [
            builtin_effect(name, self._builtin(name) or builtins.assumed(name)) for name in sorted(reach.builtins)
        ]
        tables = frozenset(table for table in reach.tables if not self._is_system(table))
        sharded = self.sharded_among(tables)
        kind = EffectKind.UNKNOWN if reach.unknown else EffectKind.TOUCHES if tables else EffectKind.CLOSED
        runs, reason = Runs.ANYWHERE, ""
        if reach.unknown:
            runs, reason = Runs.NOWHERE, reach.unknown
        elif sharded:
            runs, reason = Runs.NOWHERE, f"it touches the sharded table {min(sharded)}"
        elif any(self._is_reference(table) for table in reach.writes):
            runs, reason = Runs.NOWHERE, "it writes one copy of a reference table"
        elif reach.home:
            runs, reason = Runs.HOME, reach.home
        elif any(not self._is_reference(table) for table in reach.tables):
            runs, reason = Runs.HOME, "it touches tables of the home shard"
        if reach.local and runs is not Runs.NOWHERE:
            runs = run_together(runs, Runs.LOCAL)
            reason = reason or reach.local
        own = FunctionEffect(
            kind=kind,
            runs=runs,
            writes=bool(reach.writes),
            touches=tables,
            reaches_sharded=sharded,
            reason=reason,
            sets=reach.sets,
        )
        return merge([own, *(replace(effect, aggregate=False, window=False, returns_set=False) for effect in effects)])

    def operator_shadowed(self, symbol: str, search_path: Sequence[str], *, schema: str | None = None) -> bool:
        """Whether a user-defined operator of this symbol could be meant: then it need not be pg_catalog's.

        ``schema``: of ``OPERATOR(schema.symbol)``. Its position in the search path does not matter: a better match in a later
        schema wins.
        """
        if schema is not None:
            return schema != "pg_catalog"
        operators = self._maps.operators.get(symbol)
        return operators is not None and any(operator.schema in search_path for operator in operators)

    def operator_effect(self, symbol: str, search_path: Sequence[str], *, schema: str | None = None) -> FunctionEffect:
        """Return what an operator of this symbol may do. Built-in operators do nothing but compute."""
        effects = [NO_EFFECT]
        for operator in self._maps.operators.get(symbol, ()):
            visible = operator.schema == schema if schema is not None else operator.schema in search_path
            if visible and operator.function is not None:
                effects.append(self._user_effect(operator.function))
        return merge(effects)

    def type_effect(self, parts: Sequence[str], search_path: Sequence[str]) -> FunctionEffect:
        """Return what a cast to a type of this name may do: a domain's checks, and user-defined casts from and to it."""
        return merge([NO_EFFECT, *self._type_effects(parts, search_path)])

    def _type_effects(self, parts: Sequence[str], search_path: Sequence[str]) -> list[FunctionEffect]:
        name = parts[-1]
        schemas = effective_path(search_path) if len(parts) == 1 else (parts[-2],)
        found: list[FunctionEffect] = []
        for schema in schemas:
            kind = self._maps.types.get(TableName(schema, name))
            if kind is not None:
                found.append(self._effect_of(self._closure().follow(kind.uses)))
        found += [
            self._user_effect(c.function) for c in self.casts if c.function is not None and name in {c.source, c.target}
        ]
        return found

    def _closure(self) -> Closure:
        return Closure(self._maps.relations, self._maps.functions, self.database.functions)


def effective_path(search_path: Sequence[str]) -> tuple[str, ...]:
    """Return the schemas in which an unqualified name is looked up: pg_catalog first unless it is named."""
    return tuple(search_path) if "pg_catalog" in search_path else ("pg_catalog", *search_path)


def _accepts(function: Function, arguments: int | None) -> bool:
    least, most = function.arguments
    return arguments is None or (arguments >= least and (most is None or arguments <= most))
