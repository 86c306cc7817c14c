"""What one database holds, and what of it reaches sharded rows.

A frozen :class:`Catalog` is made from facts (:mod:`router.relation`), read from the home shard in one snapshot or
written by hand in a test. It decides where a relation effectively lives (a partition goes with its parent, a view over
a sharded table lives nowhere), what running a function may touch, and whether a statement that reads or writes a
relation would set off something that reaches rows elsewhere. It leaves to the planner what a statement itself names,
and to :mod:`proxy.shards.catalog` how the facts are read.

Where overloads, operators or casts cannot be told apart in a parse tree, the answer covers all that it might be.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Final

from router import access, builtins
from router.closure import Closure, Reach
from router.cluster import Database, Home, Placement, Reference, Sharded, TableName
from router.effect import NO_EFFECT, EffectKind, FunctionEffect, Runs, Unplaceable, builtin_effect, merge, run_together
from router.named_types import ANY_TYPE
from router.operators import takes_built_in_types
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
    UserType,
    Uses,
)
from router.server_values import holds_object
from router.sharding import KEY_TYPES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from router.rights import SchemaRights

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

OWN_SCHEMA = "pgchorus"
_NOWHERE = Database("", ("s0",), 0)

_SETTERS: Final = frozenset(FunctionName("pg_catalog", name) for name in builtins.SETTINGS)


@dataclass(frozen=True, slots=True)
class _Maps:
    """Look-ups made from the facts: the first six at once, the rest when first asked for."""

    relations: dict[TableName, Relation] = field(default_factory=dict)
    named: dict[tuple[str, str], Relation] = field(
        default_factory=dict
    )  # the same, for those who have no TableName yet
    functions: dict[FunctionName, tuple[Function, ...]] = field(default_factory=dict)
    fields: dict[str, tuple[FunctionName, ...]] = field(default_factory=dict)
    operators: dict[str, tuple[Operator, ...]] = field(default_factory=dict)
    types: dict[TableName, UserType] = field(default_factory=dict)
    own_types: set[str] = field(default_factory=set)  # their names, without domains and enums
    objects: set[TableName] = field(default_factory=set)  # relations with columns that hold objects of a server
    placements: dict[TableName, Placement | Unplaceable] = field(default_factory=dict)
    effects: dict[FunctionName, FunctionEffect] = field(default_factory=dict)
    access: dict[tuple[TableName, bool, frozenset[str] | None, bool], Unplaceable | None] = field(default_factory=dict)
    custom: set[FunctionName] = field(default_factory=set)
    keeping: set[str] = field(default_factory=set)
    once: set[TableName] = field(default_factory=set)
    setting: set[FunctionName] = field(default_factory=set)
    unknown: set[FunctionName] = field(default_factory=set)
    set_off: dict[tuple[TableName, bool], FunctionEffect] = field(default_factory=dict)

    def add_function(self, function: Function) -> None:
        """Note what is asked of functions by name."""
        self.functions[function.name] = (*self.functions.get(function.name, ()), function)
        if function.sets_custom or function.keeps:
            self.custom.add(function.name)
        if function.sets or function.uses.unknown or not _SETTERS.isdisjoint(function.uses.functions):
            self.setting.add(function.name)
        if function.uses.unknown:
            self.unknown.add(function.name)
        if function.keeps:
            self.keeping.add(function.name.name)
        if function.row_argument:
            self.fields[function.name.name] = (*self.fields.get(function.name.name, ()), function.name)


@dataclass(frozen=True, slots=True)
class Catalog:
    """One database as of ``version`` (the catalog version that ``pgchorus.meta`` had, see :mod:`proxy.shards.schema`).

    ``database`` says what the configuration places and vouches for. ``builtin_functions``: names in pg_catalog by a
    server's word, and ``system_relations``: names of system relations (``pg_catalog.pg_class``); both empty: taken from
    lists (tests only). A search path is the effective one of the session, ``$user`` already replaced; pg_catalog comes
    first unless it is named. Temporary relations are the session's own and never in here: see :meth:`overlaid`.
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
    custom_settings: frozenset[str] = frozenset()  # settings with a dot in their name that functions name
    rights: SchemaRights | None = None  # None: every role may use every schema (one shard, tests)
    #: Effective search paths by (its text, role), kept by proxy.session.names.
    paths: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _maps: _Maps = field(default_factory=_Maps, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        maps = self._maps
        for relation in self.relations:
            maps.relations[relation.name] = relation
            maps.named[relation.name.schema, relation.name.name] = relation
            if not all(trigger.row for trigger in relation.triggers):
                maps.once.add(relation.name)
            if any(map(holds_object, relation.columns)):
                maps.objects.add(relation.name)
        for function in self.functions:
            maps.add_function(function)
        for operator in self.operators:
            maps.operators[operator.symbol] = (*maps.operators.get(operator.symbol, ()), operator)
        for kind in self.types:
            maps.types[TableName(kind.schema, kind.name)] = kind
            if kind.kind not in {"d", "e"}:
                maps.own_types.add(kind.name)

    @property
    def holds_objects(self) -> bool:
        """Whether any relation has a column of type regclass or its like."""
        return bool(self._maps.objects)

    @property
    def fires_once(self) -> bool:
        """Whether any table has a trigger FOR EACH STATEMENT."""
        return bool(self._maps.once)

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
        found = self._maps.named.get((schema, name))
        if found is None and self.is_system(table := TableName(schema, name)):
            found = Relation(table, RelationKind.VIEW)
        return found

    def resolve(self, parts: Sequence[str], search_path: Sequence[str]) -> Relation | None:
        """Return the relation that a name of one to three parts means, as Postgres would find it; None: no such.

        System relations come back bare (no columns); three parts must name this database.
        """
        if len(parts) > 1:
            if tuple(parts[:-2]) not in {(), (self.database.name,)}:
                return None
            return self.relation(parts[-2], parts[-1])
        temporary = () if "pg_temp" in search_path else ("pg_temp",)
        for schema in (*temporary, *effective_path(search_path)):
            found = self.relation(schema, parts[0])
            if found is not None:
                return found
        return None

    def hidden_by(self, name: str) -> TableName | None:
        """Return a lasting relation, of any schema, whose bare name a temporary relation of this name takes away.

        Also one of the home shard: statements over several shards are planned without knowing of temporary relations.
        """
        configured = (table for table in self.database.placements if table.name == name)
        known = (one.name for one in self.relations if one.name.name == name and one.name.schema != "pg_temp")
        system = TableName("pg_catalog", name)
        return next(configured, None) or next(known, None) or (system if self.is_system(system) else None)

    def is_system(self, table: TableName) -> bool:
        """Whether this is a relation of Postgres's own."""
        if self.system_relations:
            return table in self.system_relations
        return table.schema == "information_schema" or (table.schema == "pg_catalog" and table.name.startswith("pg_"))

    # --- where relations live ----------------------------------------------------------------------------------------

    def effective_placement(self, relation: Relation | TableName) -> Placement | Unplaceable:
        """Return where a relation's rows are, closed over partitions, inheritance and views.

        A view is Home when nothing that it reaches is sharded (home has reference tables too); otherwise Unplaceable:
        expand it or refuse. Materialized views (the rows that they have), sequences, foreign tables and system
        relations are Home.
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
            placement = self._place_table(relation)
        elif configured is not None:
            return Unplaceable(f"the configuration places {name}, which is not a table")
        else:
            placement = Home()
        if len(self.database.shards) == 1:
            return placement
        if isinstance(placement, Home) and relation.kind is RelationKind.VIEW:
            reach = self.closure.follow(self.closure.direct(relation, write=False))
            return self._unless_sharded(relation, reach) or placement
        return placement

    def _place_table(self, relation: Relation) -> Placement | Unplaceable:
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
        return frozenset(table for table in tables if isinstance(self.table_placement(table), Sharded | Unplaceable))

    def table_placement(self, name: TableName) -> Placement | Unplaceable:
        """Return a table's placement; Home for a view: what lies below it has been reached where this is asked."""
        relation = self._maps.relations.get(name)
        if relation is not None and not relation.is_table:
            return Home()
        return self.effective_placement(name)

    def is_reference(self, table: TableName) -> bool:
        """Whether every shard has a full copy of it."""
        return isinstance(self.table_placement(table), Reference)

    def is_alone(self, name: TableName) -> bool:
        """Whether the home shard alone has a table, a materialized view, or a view that needs one of these."""
        relation = self._maps.relations.get(name)
        if relation is None or relation.kind is RelationKind.SEQUENCE or len(self.database.shards) == 1:
            return False
        if not relation.is_view:
            return isinstance(self.effective_placement(relation), Home)
        reach = self.closure.follow(relation.read_uses)
        return any(self.is_alone(table) for table in (reach.tables | reach.rows) - {name})

    def _unless_sharded(self, relation: Relation, reach: Reach) -> Unplaceable | None:
        sharded = self.sharded_among(reach.tables)
        if sharded:
            return Unplaceable(f"view {relation.name} reaches the sharded table {min(sharded)}")
        if reach.unknown:
            return Unplaceable(f"view {relation.name} calls something that may read sharded tables: {reach.unknown}")
        effect = self.effect_of(reach)
        if effect.runs is Runs.NOWHERE:
            return Unplaceable(f"view {relation.name}: {effect.reason}")
        return None

    # --- what statements set off -------------------------------------------------------------------------------------

    def access_problem(
        self, relation: Relation, *, write: bool, defaults: Collection[str] | None = None, audited: bool = False
    ) -> Unplaceable | None:
        """Return why reading (or writing) a relation where it lives would not be exact, None if it is.

        ``audited``: what nobody can tell is no reason, at home, as the shard is asked afterwards what was touched.

        Covers policies, rules, triggers, checks, generated columns, index expressions, cascades, foreign keys, and the
        defaults of the columns ``defaults`` (None: of all columns). The planner has to place what the statement itself
        names. Says nothing about views that are expanded: ask for the tables below them as well.
        """
        key = (relation.name, write, None if defaults is None else frozenset(defaults), audited)
        known = self._maps.access
        try:
            return known[key]
        except KeyError:
            found = known[key] = access.access_problem(self, relation, write=write, defaults=key[2], audited=audited)
            return found

    def sets_off(self, relation: TableName, *, write: bool) -> FunctionEffect:
        """Return what reading (or writing) a relation may do, with all that follows from it."""
        known = self._maps.set_off
        key = (relation, write)
        if key not in known:
            names = frozenset({relation})
            uses = Uses(writes=names) if write else Uses(reads=names)
            known[key] = self.effect_of(self.closure.follow(uses))
        return known[key]

    def foreign_key_problem(self, table: TableName, placement: Placement, key: ForeignKey) -> Unplaceable | None:
        """Return why no shard could enforce a foreign key of ``table`` (at ``placement``), None if one can."""
        return access.foreign_key_problem(self, table, placement, key)

    def unique_problem(self, index: Index, placement: Placement) -> Unplaceable | None:
        """Return why shards could not enforce a unique or exclusion constraint each on its own, None if they can."""
        return access.unique_problem(self, index, placement)

    # --- functions, operators, types ---------------------------------------------------------------------------------

    def function_effect(
        self, parts: Sequence[str], search_path: Sequence[str], arguments: int | None = None
    ) -> FunctionEffect:
        """Return what calling a function of this name may do, whichever overload it is.

        ``arguments``: how many arguments the call has, where that can be counted. A name of a type is a cast, also in
        the form of a call. ``found`` is False where there is neither: the home shard has the word (and the error), for
        this catalog may not have the function because the client's own transaction made it.
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
                effects.append(self.user_effect(FunctionName(schema, name)))
        effects += self._type_effects(parts, search_path, rows=False)
        return merge(effects) if effects else _not_found(".".join(parts))

    def _builtin(self, name: str) -> builtins.Builtin | None:
        if self.builtin_functions:
            return self.builtin_functions.get(name)
        return builtins.assumed(name)

    @property
    def has_unknown(self) -> bool:
        """Whether there is a function of which nobody can tell what it touches."""
        return bool(self._maps.unknown)

    @property
    def sets_settings(self) -> bool:
        """Whether some function may make settings."""
        return bool(self._maps.setting)

    @property
    def has_custom_settings(self) -> bool:
        """Whether some function may set what no DISCARD removes."""
        return bool(self._maps.custom)

    @property
    def keeping(self) -> frozenset[str]:
        """Names of functions that may leave something in the server's process, other than a setting."""
        return frozenset(self._maps.keeping)

    def user_effect(self, name: FunctionName) -> FunctionEffect:
        """Return what a user function of exactly this name may do, all its overloads together."""
        known = self._maps.effects.get(name)
        if known is not None:
            return known
        overloads = self._maps.functions.get(name, ())
        reach = self.closure.follow(Uses(functions=frozenset({name})))
        opaque = bool(reach.unknown) or self.closure.vouch(name) is not None
        effect = self.effect_of(reach)
        volatile = any(f.volatile == "v" for f in overloads)
        known = self._maps.effects[name] = replace(
            effect,
            volatile=effect.volatile or volatile,
            writes=effect.writes or (opaque and volatile),
            sets=effect.sets or bool(reach.unknown),
            aggregate=any(f.kind == "a" for f in overloads),
            window=any(f.kind == "w" for f in overloads),
            returns_set=any(f.returns_set for f in overloads),
            user_defined=True,
        )
        return known

    def effect_of(self, reach: Reach) -> FunctionEffect:
        """Turn what was reached into an effect."""
        effects = [
            builtin_effect(name, self._builtin(name) or builtins.assumed(name)) for name in sorted(reach.builtins)
        ]
        tables = frozenset(table for table in reach.tables if not self.is_system(table))
        sharded = self.sharded_among(tables)
        kind = EffectKind.UNKNOWN if reach.unknown else EffectKind.TOUCHES if tables else EffectKind.CLOSED
        runs, reason = Runs.ANYWHERE, ""
        if sharded:
            runs, reason = Runs.NOWHERE, f"it touches the sharded table {min(sharded)}"
        elif any(self.is_reference(table) for table in reach.writes):
            runs, reason = Runs.NOWHERE, "it writes one copy of a reference table"
        elif reach.home:
            runs, reason = Runs.HOME, reach.home
        elif any(not self.is_reference(table) for table in reach.tables):
            runs, reason = Runs.HOME, "it touches tables of the home shard"
        elif any(self.is_alone(table) for table in reach.rows):
            runs, reason = Runs.HOME, "it uses rows of tables that only the home shard has"
        if reach.local and runs is not Runs.NOWHERE:
            runs = run_together(runs, Runs.LOCAL)
            reason = reason or reach.local
        if_audited = runs
        if reach.unknown:
            runs, reason = Runs.NOWHERE, reach.unknown
            if_audited = Runs.NOWHERE if reach.escapes else if_audited
        own = FunctionEffect(
            kind=kind,
            runs=runs,
            if_audited=if_audited,
            writes=bool(reach.writes),
            touches=tables,
            reaches_sharded=sharded,
            reason=reason,
            sets=reach.sets,
            sets_custom=reach.sets_custom,
            sets_unnamed=reach.sets_unnamed,
            pins=reach.keeps,
        )
        return merge([own, *(replace(effect, aggregate=False, window=False, returns_set=False) for effect in effects)])

    def field_effect(self, name: str) -> FunctionEffect:
        """Return what ``row.name`` may do: where the row has no such column, it calls a function of that name."""
        return merge([NO_EFFECT, *(self.user_effect(function) for function in self._maps.fields.get(name, ()))])

    def operator_shadowed(self, symbol: str, search_path: Sequence[str], *, schema: str | None = None) -> bool:
        """Whether a user-defined operator could be meant between built-in types: then it need not be pg_catalog's.

        ``schema``: of ``OPERATOR(schema.symbol)``. Its position in the search path does not matter: a better match in a
        later schema wins. An operator of user-defined types (citext, vector) is never meant, unless values are cast to
        these types implicitly, and then only beside a better match than pg_catalog's (router.operators).
        """
        if schema is not None:
            return schema != "pg_catalog"
        return any(
            operator.schema in search_path and takes_built_in_types(operator, self.casts, self._maps.own_types)
            for operator in self._maps.operators.get(symbol, ())
        )

    def operator_effect(self, symbol: str, search_path: Sequence[str], *, schema: str | None = None) -> FunctionEffect:
        """Return what an operator of this symbol may do. Built-in operators do nothing but compute."""
        effects = [NO_EFFECT]
        for operator in self._maps.operators.get(symbol, ()):
            visible = operator.schema == schema if schema is not None else operator.schema in search_path
            if visible and operator.function is not None:
                effects.append(self.user_effect(operator.function))
        return merge(effects)

    def type_effect(self, parts: Sequence[str], search_path: Sequence[str]) -> FunctionEffect:
        """Return what a cast to a type of this name may do: a domain's checks, user-defined casts from and to it."""
        return merge([NO_EFFECT, *self._type_effects(parts, search_path, rows=True)])

    def _type_effects(self, parts: Sequence[str], search_path: Sequence[str], *, rows: bool) -> list[FunctionEffect]:
        name = parts[-1]
        schemas = effective_path(search_path) if len(parts) == 1 else (parts[-2],)
        found: list[FunctionEffect] = []
        if parts == ANY_TYPE:
            all_uses = (replace(kind.uses, rows=frozenset()) for kind in self.types if kind.uses != NOTHING)
            return [self.effect_of(self.closure.follow(uses)) for uses in all_uses]
        named = {name, name.lstrip("_")}  # _t: an array of t
        for schema, one in product(schemas, sorted(named)):
            kind = self._maps.types.get(table := TableName(schema, one))
            uses = kind.uses if kind is not None else NOTHING
            if rows and self.is_alone(table):
                uses |= Uses(rows=frozenset({table}))
            if uses != NOTHING:
                found.append(self.effect_of(self.closure.follow(uses)))
        found += [
            self.user_effect(c.function) for c in self.casts if c.function is not None and name in {c.source, c.target}
        ]
        return found

    def checks_by_parts(self) -> bool:
        """Whether the check of some domain reads what no shard has whole."""
        effects = (self.effect_of(self.closure.follow(kind.uses)) for kind in self.types if kind.uses != NOTHING)
        return any(effect.runs is Runs.NOWHERE for effect in effects)

    @property
    def closure(self) -> Closure:
        """A walker over this catalog's facts."""
        return Closure(self._maps.relations, self._maps.functions, self.database.functions)


def _not_found(name: str) -> FunctionEffect:
    return replace(
        NO_EFFECT,
        found=False,
        runs=Runs.HOME,
        if_audited=Runs.HOME,
        reason=f"there is no function {name} that is known here",
    )


def effective_path(search_path: Sequence[str]) -> tuple[str, ...]:
    """Return the schemas in which an unqualified name is looked up: pg_catalog first unless it is named."""
    return tuple(search_path) if "pg_catalog" in search_path else ("pg_catalog", *search_path)


def _accepts(function: Function, arguments: int | None) -> bool:
    least, most = function.arguments
    return arguments is None or (arguments >= least and (most is None or arguments <= most))
