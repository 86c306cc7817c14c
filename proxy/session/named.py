"""What a name of the extended protocol stands for: a prepared statement, a portal, a cursor.

Decides what is said of a name that stands for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.errors import ProxyError
from router.plan_control import Prepared, PreparedControl

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


def own_portal(session: Session, name: str) -> Portal | None:
    """Return a portal that no link has; None if there is none of this name."""
    portal = session.portals.get(name.encode("utf-8", "surrogateescape"))
    own = portal is not None and portal.executable is None and (portal.shard is None or portal.deferred)
    return portal if own else None


def gives_rows(portal: Portal | None) -> bool:
    """Whether this is an EXECUTE of a statement with rows, which has not run."""
    if portal is None or portal.ended is not None or portal.prepared.description.fields is None:
        return False
    plan = portal.prepared.statement.plan
    return isinstance(plan, PreparedControl) and plan.prepared is Prepared.EXECUTE
