"""Plan nodes: a statement's route as data.

Two families. A *plan* is made at Parse from the text and the catalog and may hold parameters that are not known yet. An
*Execution* is what :mod:`router.resolve` makes of it at Bind, when the key values are known: concrete shards and
texts, for :mod:`proxy.executor`. Nodes have no behaviour; each docstring says what the node requires of its input.

Shards are indexes into ``Database.shards``. Result columns count from 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from router.cluster import TableName  # noqa: TC001 - read at run time by tools that look at the fields
from router.plan_control import CursorControl, PreparedControl, SettingControl, TransactionControl
from router.plan_copy import CopyFormat, CopyIn, CopyInExecution, CopyOut, CopyOutExecution
from router.plan_steps import (
    ApplyRows,
    Bound,
    CreateFrom,
    CreateSchema,
    Filled,
    FillView,
    InSteps,
    LockCopies,
    LockRows,
    MoveRows,
    OwnRows,
    ReadTables,
)

KeyValue = int | str | bytes | None  # int2/4/8, text/varchar, uuid (16 bytes), NULL


# --- where -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Constant:
    """A key value read from the text, canonical already."""

    value: KeyValue


@dataclass(frozen=True, slots=True)
class Parameter:
    """``$number``, counted from 1: known at Bind.

    ``assigned``: the type modifier of the column that it is assigned to, where what is stored may be another value
    than what is sent (blanks are cut off); None: it is what it is.
    """

    number: int
    assigned: int | None = None


KeyTerm = Constant | Parameter


@dataclass(frozen=True, slots=True)
class Elements:
    """Each value in the array ``$number`` (``= ANY($1)``): known at Bind, none or many."""

    number: int


RoutingTerm = KeyTerm | Elements


@dataclass(frozen=True, slots=True)
class AnyShard:
    """No table, or reference tables only: every shard would give the same answer. Resolves to home."""


@dataclass(frozen=True, slots=True)
class HomeShard:
    """Home tables, catalogs, sequences."""


@dataclass(frozen=True, slots=True)
class EveryShard:
    """All shards of the database."""


@dataclass(frozen=True, slots=True)
class ByKeys:
    """The shards that hold these key values; ``key_type`` as in :mod:`router.sharding` (``int4``, ``text``...).

    No term at all means that no row can match (``k = 1 and k = 2``): one shard answers with no rows.
    """

    key_type: str
    terms: tuple[RoutingTerm, ...]


@dataclass(frozen=True, slots=True)
class AtShard:
    """The shard of this index, by the word of the client (a hint); the planner has seen that it can do no harm."""

    shard: int


@dataclass(frozen=True, slots=True)
class AtCursor:
    """The shard that has this cursor of the session's, which the session finds before it asks for shards."""

    name: str


Target = AnyShard | HomeShard | EveryShard | ByKeys | AtShard | AtCursor


# --- how answers become one --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Concat:
    """Rows of all shards in any order. Requires that no order, limit or grouping spans shards."""


@dataclass(frozen=True, slots=True)
class SortKey:
    """One ORDER BY item. ``column`` is the output column, appended by the rewrite, asked for in binary."""

    column: int
    type_oid: int
    descending: bool
    nulls_first: bool


@dataclass(frozen=True, slots=True)
class Ordered:
    """Merge of sorted streams.

    Requires that each shard sorts by the same keys, and returns limit + offset rows at most. The first ``visible``
    columns go to the client, the rest are sort keys in binary: every appended column is one, and every key is an
    appended one (``column >= visible``), for the client's format of a visible column may be text. No ``keys``: LIMIT
    without ORDER BY. Key types are those of ``proxy.executor.ordered.COMPARABLE``; text only in the C collation.
    """

    keys: tuple[SortKey, ...]
    visible: int
    limit: KeyTerm | None = None  # int values; NULL means no limit
    offset: KeyTerm | None = None


class AggregateKind(Enum):
    """How a partial value of each shard becomes the value of all."""

    GROUP = "group"  # a grouping column: bytes equal means value equal (equalimage types only)
    COUNT = "count"
    SUM = "sum"
    MIN = "min"
    MAX = "max"
    AVG = "avg"  # two inputs: sum and count; exact numeric division as Postgres does it
    BOOL_AND = "bool_and"
    BOOL_OR = "bool_or"


@dataclass(frozen=True, slots=True)
class AggregateColumn:
    """One output column, of type ``type_oid``, made of the partial columns ``inputs`` of the rewritten text.

    - COUNT (int8), SUM (sum's own result type), BOOL_AND, BOOL_OR: ``(value,)``.
    - AVG: ``(sum(x), count(x))``, in this order.
    - GROUP, MIN, MAX: ``(value, value again)``. The rewritten text lists the expression twice: the first is asked for
    in
      binary and compared; the second is asked for in the client's own format and passed on unchanged, so that its
      text is Postgres's own under any DateStyle or TimeZone. An output column that is not visible needs only
      ``(value,)``.

    An input that is somebody's second must not be used for anything else. Everything else is asked for in binary.
    The *last* input carries the output column's name (alias it as the original names it), so count(x) beside avg's sum.
    Types: SUM is exact for int8 (from int2, int4) and numeric (from int8, numeric), and adds float4 and float8; AVG for
    numeric results (a sum of type int8 or numeric) and float8 (a sum of float8). MIN and MAX compare the types of
    ``proxy.executor.ordered.COMPARABLE``.
    """

    kind: AggregateKind
    inputs: tuple[int, ...]
    type_oid: int


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Combine partial aggregates by their GROUP columns, which need not be visible.

    ``group`` are partial columns that identify a group. Without it there is exactly one group, also over no rows.
    ``order`` sorts the combined rows by *output* columns of ``columns`` (which may be invisible); then offset and
    limit apply.
    """

    columns: tuple[AggregateColumn, ...]
    group: tuple[int, ...]
    visible: int
    order: tuple[SortKey, ...] = ()
    limit: KeyTerm | None = None
    offset: KeyTerm | None = None


@dataclass(frozen=True, slots=True)
class SumTags:
    """DML on several shards: command tags are added up, RETURNING rows concatenated."""


@dataclass(frozen=True, slots=True)
class InOrder:
    """INSERT of rows split over shards: tags are added up, RETURNING rows come in the order of the rows.

    ``rows[i]`` is the position of the task that inserts row ``i``; each task has its rows in order. (Drivers take the
    keys that a statement returns for those of its rows, one after another, as one Postgres gives them.) Where a shard
    returns fewer rows than it was given (ON CONFLICT), the order is any.
    """

    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Same:
    """Every shard does the same (DDL, reference writes); the answers must agree and the first is passed on.

    ``home_first``: run on the home shard, then in parallel on the others (one lock order for reference tables).
    ``lock``: a statement that keeps others from writing, run on the home shard before all else.
    ``moment``: in the tasks' texts every ``MOMENT`` stands for the time of the transaction, a timestamptz.
    ``defines``: it is a definition, which may need what the home shard alone has.
    """

    home_first: bool = False
    lock: str = ""
    moment: bool = False
    defines: bool = False


WITH_HOLD = "WITH HOLD cursor"  # why such a cursor pins its link
MOMENT = "\0"  # no statement has one


Combine = Concat | Ordered | Aggregate | SumTags | InOrder | Same


# --- plans (at Parse) --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Single:
    """Tier 1. The original text on one shard. Requires that ``target`` can only resolve to one shard."""

    target: Target
    writes: bool


@dataclass(frozen=True, slots=True)
class Scatter:
    """The same text on the target's shards, combined.

    ``text`` is the rewritten text (None: the original). When the target resolves to a single shard the original text
    goes there and nothing is combined, but for Same. ``elsewhere``: what shards other than home get (None: the same).
    """

    target: Target
    combine: Combine
    writes: bool
    text: str | None = None
    elsewhere: str | None = None


@dataclass(frozen=True, slots=True)
class SplitInsert:
    """INSERT ... VALUES with rows for several shards.

    ``head + join(", ", rows of the shard) + tail`` is the text for a shard; ``keys[i]`` places ``rows[i]``.
    Parameters keep their numbers, so Parse on a shard names all parameter types.
    """

    key_type: str
    head: str
    rows: tuple[str, ...]
    tail: str
    keys: tuple[KeyTerm, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """The rows of one table that a gathered statement may need.

    ``table`` is the temporary table that gets them, ``columns`` its columns, ``definitions`` their types as CREATE
    TABLE has them ('': the built-in type that the shards describe), ``key`` its primary key. ``types`` are those of the
    columns where other loads come with them, as every shard knows them. ``source`` is what follows FROM on a shard, its
    conditions included, where ``alias`` names the relation.
    """

    target: Target
    table: str
    columns: tuple[str, ...]
    definitions: tuple[str, ...]
    types: tuple[str, ...]
    alias: str
    source: str
    key: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gather:
    """Rows of several shards are loaded into temporary tables on a scratch link, where ``text`` is run.

    Either the rows of all tables (then ``text`` is the original with its tables replaced), or one load of what each
    shard makes of its rows (then ``text`` finishes it). ``parameters``: those that ``loads`` use; they are of built-in
    types. ``reason``: the id of what a cheaper tier had against the statement.
    When all loads turn out to be on one shard, the original text goes there instead.
    """

    loads: tuple[Load, ...]
    text: str
    reason: str
    parameters: tuple[int, ...] = ()
    copies: CopyFormat | None = None


@dataclass(frozen=True, slots=True)
class Ddl:
    """The original text on every shard of ``target`` in one distributed transaction.

    ``after``: texts run on the shard of that index right after (slot CHECKs, placement rows); empty when there are
    none.
    ``before``: texts run right before. ``texts``: what a shard gets in the place of the original text (None: the
    original), where a copy of an object is brought in line in another way; the tag must be the same.
    ``catalog_changes``: the catalog is read again before the client hears of success. ``absent``: the errors (SQLSTATE,
    or the name of Postgres's routine) by which a shard other than home says that it lacks the object, as it may.
    ``alike``: all these shards must have it, or none. ``lacking``: runs on one that said so ('' for nothing).
    ``home_first`` and ``moment`` as in Same.
    """

    target: Target
    after: tuple[tuple[str, ...], ...] = ()
    catalog_changes: bool = True
    before: tuple[tuple[str, ...], ...] = ()
    texts: tuple[str | None, ...] = ()
    absent: tuple[str, ...] = ()
    alike: bool = False
    lacking: str = ""
    home_first: bool = False
    moment: bool = False


@dataclass(frozen=True, slots=True)
class ShardByShard:
    """What Postgres refuses in a transaction block (VACUUM, CREATE INDEX CONCURRENTLY): each shard in turn.

    ``texts`` as in Ddl.
    """

    target: Target
    catalog_changes: bool = False
    texts: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True)
class ExplainRoute:
    """EXPLAIN (ROUTE): the answer is here already, one row for each of ``lines``; no shard is asked.

    ``type_oid``: text, or json where FORMAT JSON was asked for.
    """

    lines: tuple[str, ...]
    type_oid: int


@dataclass(frozen=True, slots=True)
class ExplainShards:
    """EXPLAIN of what several shards run: the route as ``header``, then what each shard says of its part of ``inner``.

    ``options`` are those of the EXPLAIN for the shards, '' for none. Requires that no parameter is open.
    """

    inner: Statement
    options: str
    format: str  # text | json | yaml
    header: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeclareSpread:
    """DECLARE of a forward cursor over several shards: ``query`` is the plan of ``text``, the query alone.

    ``no_scroll``: it says NO SCROLL, so that not even the row it stands on may be fetched again.
    """

    name: str
    query: Plan
    text: str
    binary: bool = False
    no_scroll: bool = False


class SequenceUse(Enum):
    """What a statement may do with the sequence values that its link remembers (over one shard)."""

    NONE = "none"
    ADVANCES = "advances"  # nextval, setval, or what nobody can see through
    ASKS = "asks"  # currval, lastval


@dataclass(frozen=True, slots=True)
class Empty:
    """No statement at all (only white space and comments): EmptyQueryResponse."""


Plan = (
    Single
    | Scatter
    | SplitInsert
    | Filled
    | Gather
    | MoveRows
    | OwnRows
    | LockRows
    | ApplyRows
    | LockCopies
    | ReadTables
    | CopyIn
    | CopyOut
    | Ddl
    | CreateFrom
    | CreateSchema
    | FillView
    | ShardByShard
    | ExplainRoute
    | ExplainShards
    | TransactionControl
    | SettingControl
    | PreparedControl
    | CursorControl
    | DeclareSpread
    | Empty
)


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement of a message: its own text (cut from the message), and its plan.

    ``offset`` is where the text starts in the message, in characters. ``returns_rows``: the shard answers with rows.
    ``pins``: why the link must stay with the session after the transaction ('' = it need not), e.g. 'temporary table'.
    ``dirties``: functions ran that may change settings without a message: the link is reset before reuse.
    ``leaves_custom``: functions or triggers ran that may leave a custom setting, which no reset removes.
    ``must_commit``: Postgres refuses to PREPARE after this ('' = it does not): that shard must be the commit point.
    ``set_config``: constant (name, value, is_local) calls to follow in the session.
    ``audit``: the shard is asked afterwards which relations but these it has touched (None: it need not be).
    ``watched``: of several shards, those that ran it are asked what it has set, which the others get as well.
    ``sets_unnamed``: of that, nobody knows all the names.
    ``transaction_block``: False when Postgres refuses the statement inside a transaction block.
    ``once``: the trigger that fires once for the statement, which one shard alone may run then ('' = there is none).
    """

    text: str
    plan: Plan
    tag: str
    offset: int = 0
    returns_rows: bool = False
    pins: str = ""
    dirties: bool = False
    leaves_custom: bool = False
    must_commit: str = ""
    set_config: tuple[tuple[str, str | None, bool], ...] = ()
    transaction_block: bool = True
    parameters: int = 0  # highest $n in the text
    sequences: SequenceUse = SequenceUse.NONE
    declares: str = ""  # the cursor that DECLARE makes on the statement's shard
    audit: frozenset[TableName] | None = None
    watched: bool = False
    sets_unnamed: bool = False
    once: str = ""


# --- executions (at Bind) ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Task:
    """One shard's share. ``text`` None: the statement's original text.

    ``before`` and ``after`` run around it in the same transaction.
    """

    shard: int
    text: str | None = None
    after: tuple[str, ...] = ()
    bound: Bound | None = None
    before: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Execution:
    """Concrete shards and texts. One task and no rewriting is relayed; several are combined."""

    tasks: tuple[Task, ...]
    combine: Combine
    writes: bool
    limit: int | None = None  # of the combine node, parameters resolved
    offset: int = 0


@dataclass(frozen=True, slots=True)
class GatherExecution:
    """A gathered statement: ``tasks`` read each shard's part of the loads (:mod:`router.gathered` says how)."""

    tasks: tuple[Task, ...]
    plan: Gather
    home: int


Executable = Execution | GatherExecution | CopyInExecution | CopyOutExecution | InSteps
