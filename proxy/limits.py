"""Every limit of the proxy: its name, its unit, its default, what it bounds.

In the configuration the first word of a name is a section: ``pool_size`` is ``limits: {pool: {size: ...}}``. The rooms
that keep the limits have dataclasses of their own, which ``group`` fills; a test compares names and defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20


def _limit(default: float, doc: str, *, minimum: float = 0) -> Any:
    """Make a field that knows what it is for and its least value; an int default means that only integers will do."""
    return field(default=default, metadata={"doc": doc, "minimum": minimum})


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes count in what their last word says, times in seconds (``_s``) or milliseconds (``_ms``)."""

    clients_max: int = _limit(1000, "sessions at a time; one more is refused with 53300", minimum=1)

    login_timeout_s: float = _limit(60.0, "from the first byte to the first ReadyForQuery", minimum=0.1)

    message_max_bytes: int = _limit(
        256 * MIB, "one message of a client; a longer one ends its connection", minimum=1024
    )

    drain_timeout_s: float = _limit(30.0, "for transactions in flight to end after SIGTERM")

    worker_hang_s: float = _limit(
        120.0, "a worker whose loop has stood still for so long is ended, and another started; 0: never"
    )

    pool_size: int = _limit(20, "links to each shard for each database and role", minimum=1)
    pool_extra: int = _limit(20, "more of them, for transactions that already hold a link to another shard")
    pool_wait_timeout_s: float = _limit(10.0, "for a free link, then 53300")
    pool_connect_timeout_s: float = _limit(10.0, "to open a link")
    pool_idle_lifetime_s: float = _limit(300.0, "a link that nobody has wanted for so long is closed")
    pool_idle_check_s: float = _limit(30.0, "a link that has been idle for so long is tried before it is lent")
    pool_wash_timeout_s: float = _limit(5.0, "to try a link or to bring it back to a known state")

    health_wait_s: float = _limit(2.0, "for a shard that is down to answer a probe, then statements for it fail")

    failover_wait_s: float = _limit(
        10.0, "statements wait for a new primary, where a shard has several hosts, if nothing of them has been sent"
    )
    failover_one_host_wait_s: float = _limit(0.0, "the same where it has one, behind which the server may change")
    failover_check_s: float = _limit(1.0, "between two looks at the hosts of a shard", minimum=0.05)

    replicas_max_lag_s: float = _limit(10.0, "a replica that is further behind its primary is not read from")
    replicas_wait_s: float = _limit(
        2.0, "for a replica that is near enough, or has what the session has written; then 55000, or the primary"
    )

    control_per_shard: int = _limit(
        4, "links to each shard for the proxy's own work: catalog, commits, recovery", minimum=2
    )
    control_wait_timeout_s: float = _limit(10.0, "for a free one of them")
    control_connect_timeout_s: float = _limit(5.0, "to open one")
    control_idle_lifetime_s: float = _limit(60.0, "until an unused one is closed")
    control_lock_timeout_ms: int = _limit(5000, "for a lock that the proxy's own work needs", minimum=1)

    statements_per_link: int = _limit(
        200, "prepared statements kept on one link, the least recently used out first", minimum=1
    )
    statements_unnamed: int = _limit(
        1,
        "unnamed statements, and over several shards simple queries, that find one row by its key are run as prepared"
        " statements of their link; 0: none",
    )
    statements_tracked: int = _limit(
        1000, "statements of each database, by text without values, for SHOW STATEMENTS", minimum=10
    )

    plan_cache_entries: int = _limit(5000, "plans kept for each database", minimum=1)

    merge_max_rows: int = _limit(1_000_000, "groups of an aggregate held at a time; beyond: 53400", minimum=1)
    merge_max_bytes: int = _limit(256 * MIB, "values of such groups held at a time; beyond: 53400", minimum=1024)
    merge_max_buffer_bytes: int = _limit(MIB, "answers read ahead from one link before it is paused", minimum=1024)
    merge_max_parked_bytes: int = _limit(
        64 * MIB, "rows of suspended portals that are kept so that their links are free"
    )

    gather_max_bytes: int = _limit(
        256 * MIB, "rows loaded into one place for one statement; beyond: 53400", minimum=1024
    )
    gather_links: int = _limit(8, "links to the home shard for each role on which such statements run", minimum=1)

    commit_prepare_timeout_s: float = _limit(20.0, "for all shards to prepare, then the transaction is rolled back")
    commit_undo_timeout_s: float = _limit(5.0, "to take back what was prepared; what is left over is for recovery")
    commit_decide_timeout_s: float = _limit(30.0, "for the commit point's COMMIT, then its outcome is asked for")
    commit_settle_timeout_s: float = _limit(
        10.0, "to find out an outcome that is not known, then the client is told 08007"
    )
    commit_apply_timeout_s: float = _limit(10.0, "for all shards to show a commit, then COMMIT comes with a WARNING")
    commit_commit_point_idle_ms: int = _limit(
        60_000, "until a commit point ends a transaction whose proxy is silent", minimum=1
    )
    commit_retention_s: float = _limit(
        86_400.0, "decision records are kept; longer than any outage of a shard", minimum=600
    )

    recovery_interval_s: float = _limit(5.0, "between two searches for transactions that were left behind", minimum=0.1)
    recovery_grace_s: float = _limit(60.0, "an undecided transaction is left alone while its coordinator may be alive")
    recovery_orphan_s: float = _limit(1.0, "the same when no backend is left that could decide about it")
    recovery_shard_timeout_s: float = _limit(15.0, "for one shard to answer a search")
    recovery_finish_timeout_s: float = _limit(2.0, "to finish one transaction")
    recovery_purge_interval_s: float = _limit(600.0, "between two deletions of records older than commit.retention_s")
    recovery_purge_rows: int = _limit(20_000, "records deleted in one go", minimum=1)

    fence_lock_ms: int = _limit(2000, "for the fence's lock on one shard", minimum=1)
    fence_hold_ms: int = _limit(3000, "the whole fence is held at most; commits wait meanwhile", minimum=1)
    fence_patience_ms: int = _limit(50, "a reader's snapshots may wait for locks behind the fence, at first", minimum=1)
    fence_settle_s: float = _limit(1.0, "for commits that are decided to show on the shards to be read")
    fence_bind_s: float = _limit(1.0, "for all shards to take their snapshot")
    fence_concurrent: int = _limit(2, "fences held by this proxy at a time", minimum=1)
    fence_attempts: int = _limit(5, "until a read of several shards gives up with 40001", minimum=1)

    deadlock_timeout_s: float = _limit(
        1.0, "a statement has waited in a transaction over several shards until deadlocks are looked for", minimum=0.05
    )

    def listed(self) -> Iterator[tuple[str, str, str]]:
        """Yield each limit's key in the configuration, its value and its default."""
        for item in fields(self):
            section = next(name for name in SECTIONS if item.name.startswith(f"{name}_"))
            key = f"limits.{section}.{item.name.removeprefix(f'{section}_')}"
            yield key, str(getattr(self, item.name)), str(item.default)

    def group(self, section: str) -> dict[str, Any]:
        """Return one section as keyword arguments: ``PoolLimits(**limits.group("pool"))``."""
        prefix = f"{section}_"
        return {
            item.name.removeprefix(prefix): getattr(self, item.name)
            for item in fields(self)
            if item.name.startswith(prefix)
        }


SECTIONS = (
    "clients",
    "login",
    "message",
    "drain",
    "worker",
    "pool",
    "health",
    "failover",
    "replicas",
    "control",
    "statements",
    "plan_cache",
    "merge",
    "gather",
    "commit",
    "recovery",
    "fence",
    "deadlock",
)
