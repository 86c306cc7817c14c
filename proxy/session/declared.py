"""Names of cursors that are taken: with several shards the one that opens a cursor need not know the others.

Decides what is checked here besides what the shard itself says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.errors import ProxyError

if TYPE_CHECKING:
    from proxy.session.prepared import Portal
    from proxy.session.session import Session
    from router.plan import Statement


def check_declared(session: Session, statement: Statement, shard: int) -> None:
    """Raise what Postgres says when a cursor has the name of one of which its shard knows nothing."""
    name = statement.declares
    if not name:
        return
    session.spread_cursors.check(name)
    portal = session.portals.get(name.encode())
    if session.cursors.get(name, shard) != shard or (portal is not None and portal.shard != shard):
        raise taken(name)


def check_taken(session: Session, portal: Portal) -> None:
    """Raise what Postgres says when a Bind has the name of a cursor of which the portal's shard hears nothing now."""
    name = portal.name.decode(errors="replace")
    shard = None if portal.deferred else portal.shard
    if session.cursors.get(name, shard) != shard:
        session.portals.pop(portal.name, None)  # nothing was made: the name is the cursor's still
        raise taken(name)


def taken(name: str) -> ProxyError:
    """Return what is told to whoever opens a cursor or a portal under the name of another."""
    return ProxyError("42P03", f'cursor "{name}" already exists')
