"""Names of cursors that are taken: with several shards the one that opens a cursor need not know the others.

Decides what is checked here besides what the shard itself says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.errors import ProxyError

if TYPE_CHECKING:
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


def taken(name: str) -> ProxyError:
    """Return what is told to whoever opens a cursor or a portal under the name of another."""
    return ProxyError("42P03", f'cursor "{name}" already exists')
