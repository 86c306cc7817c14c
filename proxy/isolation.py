"""The characteristics of a client's transaction, and what its isolation level asks of several shards.

READ COMMITTED: every statement has a snapshot of its own (the fence sees to it that it is one of all its shards). At
REPEATABLE READ the first statement fixes the snapshots of the whole block, on every shard, behind one fence: which
shards the block will use is not known then. SERIALIZABLE stays on one shard: no shard sees dependencies that lead over
another one.

Decides when a block needs that. Left to others: taking the fence (proxy.twophase.fence), sending (proxy.transaction).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.errors import ACTIVE_SQL_TRANSACTION, ProxyError
from router.errors import refusal
from router.plan_control import CursorControl, PreparedControl

if TYPE_CHECKING:
    from router.plan import Statement

READ_COMMITTED = "read committed"
SERIALIZABLE = "serializable"
_EACH_STATEMENT = frozenset({READ_COMMITTED, "read uncommitted"})
# Settings that change the isolation level of later transactions.
DEFAULT_SETTINGS = frozenset({"default_transaction_isolation", "session characteristics"})
SHOW_DEFAULT = "SHOW default_transaction_isolation"
# What Postgres runs without a snapshot (PlannedStmtRequiresSnapshot): LOCK TABLE first is how a REPEATABLE READ
# transaction makes sure that its snapshot is newer than its locks.
WITHOUT_SNAPSHOT = frozenset(
    {
        "LOCK TABLE",
        "SET",
        "RESET",
        "SHOW",
        "SET CONSTRAINTS",
        "LISTEN",
        "UNLISTEN",
        "NOTIFY",
        "FETCH",
        "MOVE",
        "CLOSE CURSOR",
        "CLOSE CURSOR ALL",
    }
)
# What Postgres takes a snapshot to parse (analyze_requires_snapshot).
_PARSED_WITH_SNAPSHOT = frozenset(
    {
        "SELECT",
        "INSERT",
        "UPDATE",
        "DELETE",
        "MERGE",
        "DECLARE CURSOR",
        "EXPLAIN",
        "CREATE TABLE AS",
        "CREATE MATERIALIZED VIEW",
        "SELECT INTO",
        "CALL",
    }
)


@dataclass(slots=True)
class Modes:
    """The characteristics of the block that BEGIN and SET TRANSACTION chose; '' and None: the session's default."""

    isolation: str | None = None
    read_only: bool | None = None
    deferrable: bool | None = None
    queried: bool = False  # Postgres has taken a snapshot by now, whatever the links have seen of that

    def sql(self) -> str:
        """Return the mode list that follows BEGIN."""
        modes = []
        if self.isolation:
            modes.append("ISOLATION LEVEL " + self.isolation.upper())
        if self.read_only is not None:
            modes.append("READ ONLY" if self.read_only else "READ WRITE")
        if self.deferrable is not None:
            modes.append("DEFERRABLE" if self.deferrable else "NOT DEFERRABLE")
        return " " + ", ".join(modes) if modes else ""

    def merge(self, other: Modes) -> None:
        """Later choices win."""
        self.isolation = other.isolation or self.isolation
        self.read_only = self.read_only if other.read_only is None else other.read_only
        self.deferrable = self.deferrable if other.deferrable is None else other.deferrable


def keeps_snapshot(isolation: str) -> bool:
    """Whether all statements of a transaction see the snapshot of its first one."""
    return isolation not in _EACH_STATEMENT


def parses_with_snapshot(statement: Statement) -> bool:
    """Whether an isolation level comes too late behind the Parse of a statement."""
    return statement.tag in _PARSED_WITH_SNAPSHOT


def runs_with_snapshot(statement: Statement) -> bool:
    """Whether an isolation level comes too late behind a statement about the session itself."""
    plan = statement.plan
    return isinstance(plan, PreparedControl) or (isinstance(plan, CursorControl) and plan.closes)


def check_shards(isolation: str, count: int) -> None:
    """Refuse what an isolation level cannot do over so many shards."""
    if isolation == SERIALIZABLE and count > 1:
        raise refusal("serializable")


def check_change(modes: Modes, *, isolation: str, read_only: bool, queried: bool, subtransaction: bool) -> None:
    """Raise what Postgres says to a change of characteristics that comes too late.

    ``isolation`` and ``read_only`` are what they are now, ``queried``: the block has taken a snapshot. It is for us to
    say: shards that have joined may not have seen a query, or none may have joined.

    https://www.postgresql.org/docs/18/sql-set-transaction.html
    """
    if modes.isolation is not None and modes.isolation != isolation:
        if queried:
            raise _too_late("SET TRANSACTION ISOLATION LEVEL must be called before any query")
        if subtransaction:
            raise _too_late("SET TRANSACTION ISOLATION LEVEL must not be called in a subtransaction")
    if modes.read_only is False and read_only:
        if subtransaction:
            raise _too_late("cannot set transaction read-write mode inside a read-only transaction")
        if queried:
            raise _too_late("transaction read-write mode must be set before any query")
    if modes.deferrable is not None:
        if subtransaction:
            raise _too_late("SET TRANSACTION [NOT] DEFERRABLE cannot be called within a subtransaction")
        if queried:
            raise _too_late("SET TRANSACTION [NOT] DEFERRABLE must be called before any query")


def _too_late(message: str) -> ProxyError:
    return ProxyError(ACTIVE_SQL_TRANSACTION, message)
