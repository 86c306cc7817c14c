"""Plan nodes of COPY: a part of :mod:`router.plan`, whose rules hold here too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router.plan import Target
    from router.plan_steps import Moment


@dataclass(frozen=True, slots=True)
class CopyFormat:
    """COPY options that say where a row ends and what its key is; characters are single bytes, as Postgres wants."""

    format: str = "text"  # text | csv | binary
    delimiter: str = "\t"
    null: str = "\\N"
    header: bool = False
    quote: str = '"'
    escape: str = '"'
    encoding: str = ""  # by the option ENCODING, whatever client_encoding is
    default: str | None = None  # what stands for a column's default
    key_quoted_null: bool = False  # FORCE_NULL of the key: what NULL looks like is NULL in quotes, too
    key_never_null: bool = False  # FORCE_NOT_NULL of the key


@dataclass(frozen=True, slots=True)
class FilledColumn:
    """A column that the client leaves out: ``value`` is an expression of its type, over the moments' parameters.

    ``each``: it is computed anew for each row.
    """

    name: str
    value: str
    each: bool


@dataclass(frozen=True, slots=True)
class CopyFill:
    """Columns that a COPY leaves out and that no shard may compute itself.

    In ``text``, which is for the shards, they stand before the client's own: what is missing in a row, or too much, is
    so found as if they were not there. ``moments`` are the parameters of their expressions.
    """

    text: str
    columns: tuple[FilledColumn, ...]
    moments: tuple[Moment, ...] = ()


@dataclass(frozen=True, slots=True)
class CopyIn:
    """COPY t FROM STDIN. ``table``: t as Postgres names it in the CONTEXT of errors.

    ``key_column``: position of the key among the copied columns, those that are filled in first; None: all rows to all
    of ``target``. ``key_modifier`` is the key column's type modifier (varchar(n) drops blanks beyond n), -1 for none.
    ``clocked``: positions of columns whose texts may be read off the clock (:mod:`router.clock_words`), by each shard
    for itself.
    """

    target: Target
    format: CopyFormat
    key_type: str | None
    key_column: int | None
    columns: int
    key_modifier: int = -1
    fill: CopyFill | None = None
    clocked: tuple[int, ...] = ()
    table: str = ""


@dataclass(frozen=True, slots=True)
class CopyOut:
    """COPY ... TO STDOUT: the streams of all shards one after another, one header, one trailer.

    ``query`` is what it copies, as a SELECT: who binds that takes the locks that COPY takes, and runs nothing.
    """

    target: Target
    format: CopyFormat
    query: str = ""


# --- executions (at Bind) ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CopyInExecution:
    """COPY FROM STDIN over ``shards``; split by key when ``plan.key_column`` is not None, else every row to all."""

    shards: tuple[int, ...]
    plan: CopyIn
    slot_owners: tuple[int, ...]  # slot -> shard


@dataclass(frozen=True, slots=True)
class CopyOutExecution:
    """COPY TO STDOUT from ``shards`` in turn."""

    shards: tuple[int, ...]
    plan: CopyOut
