"""Plan nodes of statements that take more than one step: a part of :mod:`router.plan`, whose rules hold here too."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from router.cluster import TableName  # noqa: TC001 - read at run time by tools that look at the fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from router.plan import (
        Ddl,
        Executable,
        Execution,
        KeyTerm,
        Load,
        Single,
        SortKey,
        SplitInsert,
        Statement,
        Target,
    )
    from router.plan_control import PreparedControl


@dataclass(frozen=True, slots=True)
class Computed:
    """A value that the home shard computes when the statement runs: ``text`` is an expression without columns.

    ``key``: the key type that it is assigned to, if it is a sharding key; Postgres may turn a number into a text there.
    """

    text: str
    key: str = ""


class Moment(Enum):
    """A value of the clock: one for all shards, by the proxy's clock."""

    TRANSACTION = "transaction"  # when the client's transaction began: now()
    STATEMENT = "statement"


#: Calls of pg_catalog's that are a moment.
CLOCK_CALLS: Final[Mapping[str, Moment]] = {
    "now": Moment.TRANSACTION,
    "transaction_timestamp": Moment.TRANSACTION,
    "statement_timestamp": Moment.STATEMENT,
}


class Shape(Enum):
    """What a subquery is taken for."""

    VALUE = "value"  # of its only row, NULL without one
    ROW = "row"  # the columns of its only row: a parameter for each
    LIST = "list"  # of all its rows, as an array
    EXISTS = "exists"  # whether it has a row
    ROWS = "rows"  # all its rows: an array for each column
    TABLES = "tables"  # rows of several tables: an array for each column of each


@dataclass(frozen=True, slots=True)
class Asked:
    """A subquery that is asked before the statement runs. Its parameters are those of the statement around it.

    ``locks``: it locks its rows, so that both must be in one transaction. ``columns``: what ROWS are called, each of
    which becomes a parameter. TABLES are those of a ReadTables, in its order. ``unsure``: columns ('': the only one)
    whose texts may have a collation that nobody knows, and a parameter would not have: no text may be among them.
    ``texts``: columns that become lists of texts, from which the statement makes their values.
    ``seen``: the same rows without their locks: all that it finds must be locked, or they are locked again.
    ``certain``: Postgres computes it whatever the values are, so that its errors are the statement's.
    """

    read: Statement
    shape: Shape
    locks: bool = False
    columns: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    seen: Statement | None = None
    certain: bool = False


@dataclass(frozen=True, slots=True)
class ReadTables:
    """Rows of several tables, each from its own shards: one SELECT on each shard, all behind one snapshot.

    Requires that every load has the ``types`` of its columns. The answer is what :mod:`router.gathered` says.
    """

    loads: tuple[Load, ...]


@dataclass(frozen=True, slots=True)
class SessionRows:
    """What the session has, as JSON: the rows of a view of pg_catalog that would show what a link has."""

    view: str


Value = Computed | Moment | Asked | SessionRows


@dataclass(frozen=True, slots=True)
class Filled:
    """A statement with values that are known only when it runs: from sequences, defaults, the clock.

    ``inner`` is the statement with these values as parameters behind the client's own, in the order of ``values``:
    those of one row together, so that ``nextval`` gives rows their numbers in order. Parameters of ``inner`` have the
    types that the values turn out to have. ``alone``: the original statement's plan, exact where one shard runs it
    outside any block (None: never).
    """

    inner: Statement
    values: tuple[tuple[Value, ...], ...]
    alone: Single | SplitInsert | None = None


@dataclass(frozen=True, slots=True)
class LockRows:
    """A SELECT that locks the rows it returns, and returns some of many shards' rows only: LIMIT with FOR UPDATE.

    ``text`` without its LIMIT, with the sort keys appended to its ``visible`` columns; ``text + LIMIT n`` locks a
    shard's first ``n``. ``read`` is the same without the locks ('': not needed). No ``keys``: any rows will do.
    ``skips``: rows that are locked already are passed over. ``about``: the tables, for statements that must not run
    side by side. Requires what Ordered requires of the keys.
    """

    target: Target
    text: str
    read: str
    keys: tuple[SortKey, ...]
    visible: int
    limit: KeyTerm | None
    offset: KeyTerm | None
    skips: bool
    about: str


@dataclass(frozen=True, slots=True)
class OwnRows:
    """A write on the target's shards, where each takes only those rows of a source for new that belong to it.

    ``pieces`` are those of the text; between them a shard has the condition that a key is its own: ``keys[i]`` (the
    key's type, and its SQL) between ``pieces[i]`` and the next. Tags are added up, RETURNING rows concatenated. A
    target of one shard gets the original text: requires that it is one only where every row of the source belongs to
    it.
    """

    target: Target
    pieces: tuple[str, ...]
    keys: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class MoveRows:
    """Rows are read first, all of them, and then inserted where they belong.

    ``read`` gives the rows: one column for each of the first columns of ``into``, of types that Postgres assigns to
    them. ``extra``: values for the columns behind these, computed anew for each row. ``into + VALUES (rows) + tail`` is
    the text for a shard. ``key_column`` places a row (of ``key_type``, and with ``key_modifier``); None: every row goes
    to all of ``target``.
    ``at_once``: a shard's rows must not be parted over several statements (ON CONFLICT DO UPDATE). ``verb``: what the
    tag calls it, as an UPDATE that moves rows is done by a DELETE as ``read``.
    """

    read: Statement
    into: str
    tail: str
    target: Target
    key_type: str = ""
    key_column: int | None = None
    key_modifier: int = -1
    extra: tuple[Value, ...] = ()
    at_once: bool = False
    verb: str = ""


@dataclass(frozen=True, slots=True)
class ApplyRows:
    """A write to a reference table by row: ``home`` changes the home shard's copy, and its rows are applied elsewhere.

    ``home`` returns the columns of the client's own RETURNING, then the primary key of the old row (``keys`` columns,
    NULL where a row is new), then that of the new row (NULL where it is gone), then the new row's values for
    ``columns``. ``insert``, ``update`` and ``delete`` are the texts for other shards, each ``before + VALUES (rows) +
    after``.
    ``types``: SQL names of the types of the key columns and of ``columns``. ``updated``: positions in ``columns`` that
    an UPDATE sets.
    """

    home: Statement
    keys: int
    types: tuple[str, ...]
    insert: tuple[str, str]
    update: tuple[str, str]
    delete: tuple[str, str]
    updated: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CreateFrom:
    """CREATE TABLE AS and SELECT INTO: ``table`` is made without rows on the shards of ``target``, and then filled.

    ``prefix`` ends with the name; ``columns`` is the list behind it ('' for none), ``options`` what stands between that
    and AS. ``guarded`` is the prefix with IF NOT EXISTS, where the statement has that. ``key``: the sharding key, ''
    for a table that has none. ``fills``: it is not WITH NO DATA. ``prepared``: what EXECUTE names is the query.
    Requires that the home shard has all that the query names; over one shard the pieces are put together again.
    """

    table: TableName
    target: Target
    prefix: str
    columns: str
    options: str
    query: str
    guarded: str = ""
    key: str = ""
    fills: bool = True
    prepared: PreparedControl | None = None


@dataclass(frozen=True, slots=True)
class FillView:
    """CREATE and REFRESH MATERIALIZED VIEW, where the query reads other shards: its rows are brought home.

    Home keeps the view as the client defined it. Its rows are read as by INSERT ... SELECT, over the definition that
    home has, and Postgres refreshes it with them (:mod:`proxy.shards.view_sql`). ``create`` makes it without rows ('':
    this is a REFRESH), ``guarded`` is the same with IF NOT EXISTS.
    """

    view: TableName
    create: str = ""
    guarded: str = ""
    concurrently: bool = False


@dataclass(frozen=True, slots=True)
class CreateSchema:
    """CREATE SCHEMA with elements: ``head`` without them, then each of ``elements``, in one transaction.

    They are planned in turn, with ``schema`` before the search_path, and run as ``role`` ('': as who is).
    """

    target: Target
    head: str
    schema: str
    role: str
    elements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CopyLock:
    """How rows of one reference table are locked on a copy: ``before + VALUES (number, key ...) + after``.

    Returns the numbers of those that were. ``types``: SQL names of the key's types.
    """

    types: tuple[str, ...]
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class LockCopies:
    """A SELECT that locks rows of reference tables exclusively: home's first, then the same rows of all other copies.

    ``home`` returns the client's columns, and behind them the primary keys of the rows of ``tables``. ``skips``: rows
    that others have locked are passed over.
    """

    home: Statement
    tables: tuple[CopyLock, ...]
    skips: bool = False


@dataclass(frozen=True, slots=True)
class Bound:
    """Parameters of one task's own, in the place of the client's. ``oids``: 0 where the shard infers the type."""

    parameters: tuple[bytes | None, ...]
    formats: tuple[int, ...]
    oids: tuple[int, ...]


# --- executions (at Bind) ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MoveExecution:
    """MoveRows with its reading resolved; ``shards`` are those that rows may come to."""

    plan: MoveRows
    read: Executable
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CreateExecution:
    """CreateFrom on ``shards``, home first."""

    plan: CreateFrom
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FillExecution:
    """FillView; ``shards``: the home shard. What is read has executions of its own."""

    plan: FillView
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SchemaExecution:
    """CreateSchema on ``shards``."""

    plan: CreateSchema
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FoundExecution:
    """Ddl on ``shards``, home first; one that says ``plan.absent`` lacks the object, and is left as it is."""

    shards: tuple[int, ...]
    plan: Ddl


@dataclass(frozen=True, slots=True)
class ApplyExecution:
    """ApplyRows: the home shard first, then the others."""

    plan: ApplyRows
    home: Execution
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LockCopiesExecution:
    """LockCopies: the home shard first, then the others."""

    plan: LockCopies
    home: Execution
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LockExecution:
    """LockRows over ``shards``; ``limit`` None: all rows."""

    plan: LockRows
    shards: tuple[int, ...]
    limit: int | None
    offset: int


#: What runs as several statements, one after the other: each step comes back to where statements are started.
InSteps = (
    MoveExecution
    | ApplyExecution
    | LockExecution
    | LockCopiesExecution
    | CreateExecution
    | FillExecution
    | FoundExecution
    | SchemaExecution
)
