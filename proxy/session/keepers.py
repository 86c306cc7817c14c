"""The end of a link that kept something of a session: a LISTEN, a temporary table, an advisory lock.

One Postgres ends the session with it, and so a client that waits for notifications, or believes that it holds a lock,
learns that it does not. It may never send anything by which it could be told. So the session is ended here as well: at
once where it is idle, behind the answer where something runs. Links that keep nothing come and go unseen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.errors import CONNECTION_FAILURE
from proxy.session.clocks import is_of_a_clock, told_by
from proxy.shards.errors import ShardError
from proxy.wire import backend
from proxy.wire.fields import ErrorFields

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.session.session import Session
    from proxy.shards.link import ShardLink


def link_ended(sessions: Iterable[Session], link: ShardLink, error: ShardError) -> None:
    """A link has ended that was lent: while nobody waited for it to say anything, perhaps."""
    if link.on_notification is None and not is_of_a_clock(error):
        return  # it keeps nothing, and whoever uses it hears of it by what that ends with
    for session in tuple(sessions):
        transaction = session.transaction
        kept = transaction.pinned.get(link.shard) is link
        if kept or transaction.links.get(link.shard) is link:
            if not session.in_query and not told_by(session, error) and kept:
                _end(session, link, error)
            return


def look(session: Session) -> None:
    """End a session whose message has been answered, if a link that kept something has ended meanwhile."""
    for link in session.transaction.pinned.values():
        if link.closed:
            _end(session, link, link.lost_error)
            return


def tells(session: Session, error: Exception) -> bool:
    """Whether an error is the last word of a server to a link that kept something: the session ends with it."""
    if not (isinstance(error, ShardError) and error.lost):
        return False
    look(session)
    return session.killed


def _end(session: Session, link: ShardLink, error: ShardError | None) -> None:
    if error is not None and error.raw is not None and error.fields.severity in ("FATAL", "PANIC"):
        session.kill(error.raw)  # the server's own words, as one Postgres says them
        return
    message = f'the connection to shard "{link.name}", which held session state, was lost'
    session.kill(backend.error_response(ErrorFields.make("FATAL", CONNECTION_FAILURE, message)))
