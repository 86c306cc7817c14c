"""What the catalog knows of one relation or one function: frozen facts, names resolved.

Decides nothing; :mod:`router.catalog` draws the conclusions. Every field has a default that means "nothing special", so
tests write only what matters: ``Relation(TableName("public", "t"), columns=(Column("k", "int8"), Column("v",
"text")))``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from router.cluster import TableName  # noqa: TC001 - read at run time by tools that look at the fields

PUBLIC = "public"
NO_TYPE_MODIFIER = -1


@dataclass(frozen=True, slots=True, order=True)
class FunctionName:
    """A function's schema and name; overloads share it."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class Uses:
    """What a piece of stored SQL (a body, a view, a default, a policy ...) names directly. Nothing is followed here.

    ``writes`` are relations that it changes (INSERT, UPDATE, DELETE, MERGE, COPY FROM, TRUNCATE, DDL), ``reads`` all
    others that it names. ``functions`` are user functions and built-in ones with an effect of their own
    (``pg_catalog.nextval``). ``unknown``: why it may do anything at all ('' = it may not). ``escapes``: it ends its
    transaction, or runs at the end of it, so that nobody could ask afterwards what it has touched. ``rows``: relations
    whose row type it names, and whose rows it need not read: it can be only where they are.
    """

    reads: frozenset[TableName] = frozenset()
    writes: frozenset[TableName] = frozenset()
    functions: frozenset[FunctionName] = frozenset()
    unknown: str = ""
    escapes: bool = False
    rows: frozenset[TableName] = frozenset()

    def __or__(self, other: Uses) -> Uses:
        if self == NOTHING:
            return other
        if other == NOTHING:
            return self
        return Uses(
            self.reads | other.reads,
            self.writes | other.writes,
            self.functions | other.functions,
            self.unknown or other.unknown,
            self.escapes or other.escapes,
            self.rows | other.rows,
        )


NOTHING = Uses()


class RelationKind(Enum):
    """pg_class.relkind, those that a statement can name."""

    TABLE = "r"
    PARTITIONED = "p"
    VIEW = "v"
    MATERIALIZED = "m"
    FOREIGN = "f"
    SEQUENCE = "S"
    INDEX = "i"
    PARTITIONED_INDEX = "I"
    COMPOSITE = "c"
    TOAST = "t"


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is not dropped.

    ``type_name`` is pg_type.typname (``int8``, ``varchar``), ``type_schema`` its schema; a domain is its own type, with
    ``base_type_oid`` (equal to ``type_oid`` for all others). ``collation`` is the collation's name, '' where the type
    has none. ``collates_as_c``: order is the order of bytes. ``deterministic``: equal means equal bytes (true without
    collation). ``default``: the expression's text, '' for none; its domain's where it has none of its own; also a
    generated column's. ``uses``: of the default.
    ``sequence``: the sequence that feeds it (serial or identity), if any. ``definition``: type, modifier and collation
    as CREATE TABLE has them, with names that no search path changes but for pg_catalog's own; '' when nobody asked.
    ``bare_type``: the type alone (a domain's base type), in the same way.
    """

    name: str
    type_name: str = "text"
    number: int = 0
    type_oid: int = 0
    type_schema: str = "pg_catalog"
    base_type_oid: int = 0
    type_modifier: int = NO_TYPE_MODIFIER
    not_null: bool = False
    default: str = ""
    identity: str = ""  # '' | 'a' always | 'd' by default
    generated: str = ""  # '' | 's' stored | 'v' virtual
    collation: str = ""
    collates_as_c: bool = True
    deterministic: bool = True
    uses: Uses = NOTHING
    sequence: TableName | None = None
    definition: str = ""
    bare_type: str = ""


@dataclass(frozen=True, slots=True)
class IndexColumn:
    """One key column of an index. ``column`` is None for an expression.

    ``default_opclass``: the type's default operator class; ``own_collation``: the column's own one (or none).
    ``equality``: for exclusion constraints, whether the operator is ``=`` of pg_catalog.
    """

    column: str | None
    default_opclass: bool = True
    own_collation: bool = True
    equality: bool = True


@dataclass(frozen=True, slots=True)
class Index:
    """An index that makes something unique (or excludes). Plain indexes are of no interest to routing."""

    name: str
    columns: tuple[IndexColumn, ...]
    primary: bool = False
    exclusion: bool = False
    partial: bool = False
    deferrable: bool = False
    replica_identity: bool = False


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """FOREIGN KEY (columns) REFERENCES table (referenced_columns). Actions are pg_constraint's letters (a r c n d)."""

    name: str
    columns: tuple[str, ...]
    table: TableName
    referenced_columns: tuple[str, ...]
    on_update: str = "a"
    on_delete: str = "a"
    deferrable: bool = False


@dataclass(frozen=True, slots=True)
class Trigger:
    """A user trigger that is enabled. ``events``: any of insert, update, delete, truncate.

    ``uses``: its function and its WHEN. ``deferrable``: it may run when the transaction ends.
    """

    name: str
    events: frozenset[str]
    row: bool = True
    timing: str = "after"  # before | after | instead
    uses: Uses = NOTHING
    deferrable: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A rewrite rule other than a view's own SELECT rule. ``event``: select, insert, update or delete."""

    name: str
    event: str
    instead: bool = False
    uses: Uses = NOTHING


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation and everything that Postgres does on its own when a statement touches it.

    ``parents``/``children``: direct ones, by partitioning or inheritance. ``query``: a (materialized) view's
    definition. ``read_uses``: what reading it uses besides itself: a view's query (of a materialized
    one: what REFRESH uses), policies, virtual columns.
    ``write_uses``: what any write uses besides: policies, checks, stored generated columns, index expressions, domain
    checks. Defaults, triggers, rules and foreign keys are listed on their own, since a statement may leave them alone.
    ``owned_by``: a sequence's table. ``indexes``: the names of all its indexes. ``stands_in``: it is no table, but is
    planned as one: :mod:`router.planner.view_targets`. ``hidden``: columns that it has and no statement can name.
    """

    name: TableName
    kind: RelationKind = RelationKind.TABLE
    columns: tuple[Column, ...] = ()
    oid: int = 0
    primary_key: tuple[str, ...] = ()
    unique: tuple[Index, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    referenced_by: tuple[tuple[TableName, ForeignKey], ...] = ()
    triggers: tuple[Trigger, ...] = ()
    rules: tuple[Rule, ...] = ()
    row_security: bool = False
    parents: tuple[TableName, ...] = ()
    children: tuple[TableName, ...] = ()
    partition: bool = False
    owned_by: TableName | None = None
    query: str = ""
    read_uses: Uses = NOTHING
    write_uses: Uses = NOTHING
    checks: tuple[tuple[str, str], ...] = ()  # (name, definition) of CHECK constraints
    indexes: frozenset[str] = frozenset()
    stands_in: bool = False
    hidden: tuple[Column, ...] = ()
    _by_name: dict[str, Column] = field(default_factory=dict, init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        self._by_name.update((column.name, column) for column in (*self.columns, *self.hidden))

    def column(self, name: str) -> Column | None:
        """Return a column by its name, None if there is none (system columns are not listed)."""
        return self._by_name.get(name)

    @property
    def is_table(self) -> bool:
        """Whether it holds rows of its own (or of its partitions): what a placement can name."""
        return self.kind is RelationKind.TABLE or self.kind is RelationKind.PARTITIONED

    @property
    def is_view(self) -> bool:
        """Whether it is a plain view, which Postgres expands."""
        return self.kind is RelationKind.VIEW


@dataclass(frozen=True, slots=True)
class Function:
    """One user function, procedure or aggregate (one overload).

    ``arguments``: (least, most) number of arguments; most is None for VARIADIC. ``volatile`` as declared: i, s or v.
    ``kind``: f function, p procedure, a aggregate, w window. ``uses``: what its body names, or why nobody can tell.
    ``sets``: its body changes settings of the session. ``row_argument``: it takes one row, so ``t.f`` may call it.
    ``sets_custom``: it may set what no DISCARD removes. ``keeps``: it may leave something else in the server's process.
    ``sets_unnamed``: it sets something whose name it computes.
    ``assigns``: the columns of NEW that it gives other values, as a trigger.
    """

    name: FunctionName
    uses: Uses = NOTHING
    volatile: str = "v"
    kind: str = "f"
    language: str = "sql"
    arguments: tuple[int, int | None] = (0, None)
    returns_set: bool = False
    sets: bool = False
    row_argument: bool = False
    sets_custom: bool = False
    keeps: bool = False
    assigns: frozenset[str] = frozenset()
    sets_unnamed: bool = False


@dataclass(frozen=True, slots=True)
class Operator:
    """A user-defined operator: its symbol, and the function behind it (estimators are left out).

    ``operands``: names of those operand types that are user-defined (no domains), both if both are: a value of a
    built-in type only becomes one of them by a cast.
    """

    schema: str
    symbol: str
    binary: bool = True
    function: FunctionName | None = None
    operands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cast:
    """A user-defined cast, by type names; ``function`` None: binary or by input and output functions."""

    source: str
    target: str
    context: str = "e"  # e explicit, a assignment, i implicit
    function: FunctionName | None = None


@dataclass(frozen=True, slots=True)
class UserType:
    """A user-defined type. ``kind`` as pg_type.typtype: b base, c composite, d domain, e enum, r range, m multirange.

    ``base_type_oid`` is a domain's.
    """

    schema: str
    name: str
    oid: int
    kind: str
    base_type_oid: int = 0
    uses: Uses = NOTHING  # a domain's checks and default
