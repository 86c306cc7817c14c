"""Sequence values that Postgres remembers for a connection: ``currval`` and ``lastval`` on pooled links.

Over one shard. Rules:

1. A link's values are one session's at a time. Before a statement that may call nextval, currval or lastval runs on a
link with another session's values, they are discarded there, in the same packet: nobody is told of somebody else's.
2. Most clients never ask (they use RETURNING), so nobody is kept from sharing links until he has asked once. A session
takes the link that has its values whenever that is free, and asks there.
3. Who has asked keeps the link from then on, and so does, from its first nextval, every session of the same role: an
application's connections are all alike.
4. Values that were discarded before their session asked for the first time are an error, never another answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.settings import UNKNOWN
from proxy.wire.frontend import Query
from router.errors import refusal
from router.plan import SequenceUse

if TYPE_CHECKING:
    from proxy.session.session import Session
    from proxy.shards.link import ShardLink
    from router.plan import Statement

_DISCARD = Query(b"DISCARD SEQUENCES").encode()


class SequenceValues:
    """One session's. ``link`` has the newest of them; ``lost``: there were some that no link has any more."""

    def __init__(self) -> None:
        self.link: ShardLink | None = None
        self.lost = False
        self.asked = False

    async def join(self, session: Session, statement: Statement, shard: int, *, writes: bool) -> ShardLink:
        """Join the shard for a statement that uses sequence values, on the link that has the session's if it can be."""
        transaction, database = session.transaction, session.database
        if statement.tag == "DISCARD SEQUENCES":
            self.forget()
        self._look()
        transaction.preferred = self.link
        try:
            link = (await transaction.join([shard], writes=writes))[shard]
        finally:
            transaction.preferred = None
        asks = statement.sequences is SequenceUse.ASKS
        if asks:
            self.asked = True
            database.roles_that_ask.add(session.role)
        if link.sequences is not self:
            self._move_to(link, asks=asks)
        if self.asked or session.role in database.roles_that_ask:
            transaction.pin("sequence values", [shard])
        return link

    def _look(self) -> None:
        """See whether the link still has what it had."""
        if self.link is not None and (self.link.closed or self.link.sequences is not self):
            self.link, self.lost = None, True

    def _move_to(self, link: ShardLink, *, asks: bool) -> None:
        self.lost = self.lost or self.link is not None
        if asks and self.lost:
            self.lost = False
            detail = "The server connection that had them was given to another client before they were asked for."
            raise refusal("sequence-forgotten", detail=detail)
        if link.sequences is not None:
            link.prefix(_DISCARD)
        link.sequences = self
        self.link = link

    def forget(self) -> None:
        """DISCARD, or the end of the session: from now on it has never called nextval."""
        if self.link is not None and self.link.sequences is self:
            self.link.sequences = UNKNOWN  # somebody's, whom nobody needs to know
        self.link, self.lost = None, False
