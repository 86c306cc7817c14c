"""A moment without transactions: what sessions go by is exchanged then, and none of them is ended for it.

Theory of operation. Statements outside of blocks wait at the door (``Definitions.begins``), those in blocks go on, so
that the blocks end. When no session of this process has anything under way, nothing on the shards is ours but what
pins links to sessions (temporary tables, LISTEN), which goes by no placement. From then on until ``go_on`` nothing
begins. Who has been at the door goes by what there is then: every plan of before is made again.

What has been bound and not sent (a pipeline that waits for its Sync) is compared: where it would mean something else,
it is ended with 40001, as with DDL.

Decides when that moment is. Left to others: what is exchanged (proxy.database), and other processes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from proxy.errors import LOCK_NOT_AVAILABLE, ProxyError
from proxy.session.changing import Comparison

if TYPE_CHECKING:
    from proxy.database import LogicalDatabase
    from proxy.session.session import Session
    from router.planner import Planner

QUIET_S: Final = 5.0  # for the blocks that are open to end
_LOOK_S: Final = 0.01


async def hold(database: LogicalDatabase, within_s: float = QUIET_S) -> None:
    """Return when no transaction is open in this process, and none can begin until ``go_on``.

    Raises ProxyError when they have not ended in time; then all goes on.
    """
    database.definitions.hold()
    database.catalog_version += 1  # fast lanes must not begin anything either
    try:
        await _all_ended(database, within_s)
    except BaseException:
        go_on(database)
        raise
    database.definitions.seal()


async def _all_ended(database: LogicalDatabase, within_s: float) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    while busy := [session for session in database.sessions if is_busy(session)]:
        if loop.time() > until:
            raise ProxyError(
                LOCK_NOT_AVAILABLE,
                f"database {database.logical.name}: {_counted(busy)} not ended within {within_s:g} s",
                hint="Reload again when they have; SHOW CLIENTS and SHOW TRANSACTIONS have them.",
            )
        await asyncio.sleep(_LOOK_S)  # looking costs the way of every statement nothing; an event would


def go_on(database: LogicalDatabase) -> None:
    """Let statements begin again."""
    database.definitions.go_on()


def is_busy(session: Session) -> bool:
    """Whether a session has anything under way on a shard, or may have in a moment."""
    transaction = session.transaction
    return bool(
        transaction.in_block
        or transaction.links
        or transaction.committing
        or session.scratches
        or (session.in_query and not session.waits)
    )


def end_outdated(database: LogicalDatabase, before: Planner, after: Planner) -> None:
    """See to it that nothing which was bound by ``before`` is sent, if it would mean something else by ``after``."""
    differs = Comparison(before, after)
    for session in database.sessions:
        session.outdated = session.outdated or differs(session, session.planned_ahead())


def _counted(busy: list[Session]) -> str:
    pids = ", ".join(str(session.pid) for session in busy[:5])
    return f"{len(busy)} transactions (of clients {pids}{', ...' if len(busy) > 5 else ''}) have"  # noqa: PLR2004 - shown
