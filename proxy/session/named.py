"""What a name of the extended protocol stands for: a prepared statement, a portal, a cursor.

Decides what is said of a name that stands for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.errors import ProxyError

if TYPE_CHECKING:
    from proxy.session.prepared import Portal, PreparedStatement
    from proxy.session.session import Session


def find_statement(session: Session, name: bytes) -> PreparedStatement:
    """Return a prepared statement; raises ProxyError when there is none."""
    prepared = session.statements.get(name)
    if prepared is None:
        if not name:
            raise ProxyError("26000", "unnamed prepared statement does not exist")
        raise ProxyError("26000", f'prepared statement "{name.decode(errors="replace")}" does not exist')
    return prepared


def find_portal(session: Session, name: bytes) -> Portal:
    """Return what a Bind has made; raises ProxyError when there is none."""
    portal = session.portals.get(name)
    if portal is None:
        raise ProxyError("34000", f'portal "{name.decode(errors="replace")}" does not exist')
    return portal


def cursor_shard(session: Session, name: bytes) -> int | None:
    """In Postgres a cursor of DECLARE is a portal like any other: where it is, None when it is no such cursor."""
    return session.cursors.get(name.decode("utf-8", "surrogateescape"))
