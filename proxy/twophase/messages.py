"""The texts of step 1, and how a server says that it did not wait for its standbys.

What the machine does with the answers is the machine's; the decision's own text is ``record``'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.twophase.valued import Ready

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.twophase.events import Limits, Plan
    from proxy.twophase.gid import GlobalId
    from proxy.wire.fields import ErrorFields

# The setting is read before it is raised: a link whose session chose less commits its prepared part elsewhere (step 3).
# No operators: the client's search_path may hold some.
_XID_AND_DURABILITY = (
    "pg_catalog.pg_current_xact_id(), "
    "pg_catalog.current_setting('synchronous_commit'), "
    "CASE WHEN pg_catalog.starts_with(pg_catalog.current_setting('synchronous_commit'), 'remote_apply') "
    "THEN NULL ELSE pg_catalog.set_config('synchronous_commit', 'on', true) END"
)
# A backend that waits for a lock notices that its client is gone only if it is told to look (since Postgres 14, and not
# on every platform: where it cannot, setting it is an error).
_LOOK_FOR_THE_PROXY = (
    "CASE WHEN pg_catalog.current_setting('client_connection_check_interval', true) IS NOT NULL "
    "AND pg_catalog.textlike(pg_catalog.version(), '%linux%') "
    "THEN pg_catalog.set_config('client_connection_check_interval', '1s', true) END"
)
_SILENT = "idle_in_transaction_session_timeout"
#: What a participant runs in step 1 before PREPARE TRANSACTION, the same in every commit: links bind it
#: (proxy.shards.bound).
PREPARING = (
    f"SELECT pg_catalog.set_config('statement_timeout', '0', true), {_LOOK_FOR_THE_PROXY}",
    "SET CONSTRAINTS ALL IMMEDIATE",
    f"SELECT {_XID_AND_DURABILITY}",
)
PREPARING_TEXT = "; ".join(PREPARING) + "; "
#: What a commit point runs in step 1, with parameters: the limit for a silent proxy and the lock's key, nothing, the
#: limit. What ``ready_sql`` returns does the same.
READY = (
    (
        "SELECT pg_catalog.set_config('statement_timeout', '0', true), "
        f"pg_catalog.set_config('{_SILENT}', $1, true), "
        f"pg_catalog.pg_try_advisory_xact_lock_shared($2), {_LOOK_FOR_THE_PROXY}"
    ),
    "SET CONSTRAINTS ALL IMMEDIATE",
    (
        f"SELECT {_XID_AND_DURABILITY}, "
        "CASE WHEN pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL "
        "THEN pg_catalog.set_config('transaction_timeout', $1, true) END"
    ),
)
_SYNC_WAIT_CANCELED = "canceling wait for synchronous replication"
_SYNC_WAIT_ENDED = "terminating connection due to administrator command"


def alive_sql(gid: GlobalId) -> str:
    """Return what takes the lock by which recovery sees that a transaction is alive, until its (sub)transaction ends.

    To be run at its commit point. It is tried, and nobody has to read whether that succeeded.
    """
    return f"SELECT pg_catalog.pg_try_advisory_xact_lock_shared({gid.lock_key})"


def prepare_sql(plan: Plan, shard: int) -> str:
    """Return step 1 for a participant.

    A client's statement_timeout does not cover COMMIT in Postgres, so it does not here either. Its constraints may
    wait, and before it is prepared nobody but its proxy can end it: so it looks whether that is still there.
    """
    return f"{PREPARING_TEXT}PREPARE TRANSACTION '{plan.gid.at(plan.names[shard])}'"


def commit_prepared_sql(plan: Plan, shard: int) -> str:
    """Return step 3 for a participant."""
    return f"COMMIT PREPARED '{plan.gid.at(plan.names[shard])}'"


def ready_sql(plan: Plan) -> Ready:
    """Return step 1 for the commit point: what could fail or wait does so now, and its backend can be known by a lock.

    The limit on an open transaction is ours and not the client's: a proxy that is cut off in silence must not leave
    the commit point's locks behind for ever.

    The lock comes before the constraints, which may wait for as long as somebody else's transaction is open: all the
    while others have prepared parts, and recovery must see that these are no orphans. Nothing before it can wait. It is
    tried, and nobody reads whether that succeeded: it fails only while a stranger has the same lock (recovery takes
    none), which then speaks for the commit as well; and a commit that is taken for dead is rolled back, never torn.
    A lock that waits must not outlive its proxy for long, so the backend looks whether that is still there.
    """
    return ready_commit_point_sql(plan.gid, plan.limits)


def ready_commit_point_sql(gid: GlobalId, limits: Limits) -> Ready:
    """Return the same for a commit without participants."""
    limit = limits.commit_point_idle_ms
    text = (
        f"SET LOCAL statement_timeout = 0; SET LOCAL {_SILENT} = {limit}; "
        f"{alive_sql(gid)}, {_LOOK_FOR_THE_PROXY}; "
        "SET CONSTRAINTS ALL IMMEDIATE; "
        f"SELECT {_XID_AND_DURABILITY}, "
        "CASE WHEN pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL "
        f"THEN pg_catalog.set_config('transaction_timeout', '{limit}', true) END"
    )
    return Ready(text, (str(limit), str(gid.lock_key)))


def unconfirmed(notices: Iterable[ErrorFields]) -> bool:
    """Say whether a commit or prepare was cut off while it waited for its synchronous standbys."""
    return any(
        notice.message.startswith((_SYNC_WAIT_CANCELED, _SYNC_WAIT_ENDED))
        or _SYNC_WAIT_CANCELED in notice.message
        or (notice.severity == "WARNING" and notice.sqlstate == "57P01")
        for notice in notices
    )
