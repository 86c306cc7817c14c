"""What a simple query leaves of the unnamed statement and portal.

It does away with the unnamed statement at once, and with the portal where its first statement gets one of its own: when
that has been planned. So a query whose first statement cannot be planned leaves the portal as it was, one whose second
cannot leaves none, and one that fails while it runs leaves its own. In a block that has failed they can still be told
apart. Decided here: who knows which of these it was. That is the link, over one shard, where it was a shard that said
no: it has seen the same messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.session.executing import drop_portals
from proxy.session.left import of_failed
from proxy.session.outcome import Fate

if TYPE_CHECKING:
    from proxy.session.prepared import Portal
    from proxy.session.session import Session


class Unnamed:
    """Of one session. ``on_link``: what is left, if anything is, is on the link of the only shard."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._portal: Portal | None = None  # of before the Query under way
        self._had_failed = False
        self.on_link = False

    def query_begins(self, *, outside: bool) -> None:
        """A Query is about to run: it does away with the unnamed statement, and with the portal if all goes well.

        ``outside``: no block of Postgres's is open.
        """
        session = self._session
        session.statements.pop(b"", None)
        self._portal = session.portals.pop(b"", None)
        self._had_failed = session.transaction.failed
        session.fate = Fate(outside=outside)
        if session.transaction.links:
            queried = session.transaction.modes.queried
            session.transaction.finish_statement()  # of what was asked for a Parse: its link has had no BEGIN
            session.transaction.modes.queried = queried  # but no Sync has ended its transaction

    async def query_is_over(self) -> None:
        """It has run, or has failed."""
        session = self._session
        portal, self._portal = self._portal, None
        if not session.transaction.failed:
            self.on_link = False
            if portal is not None:
                await portal.close()
            if not session.transaction.in_block:
                await drop_portals(session)
            return
        if portal is not None and (self._had_failed or not (session.fate.unplanned and session.fate.number)):
            session.portals[b""] = portal
        if self._had_failed:
            return
        failed = session.fate.control
        if failed is not None and not session.fate.reported:
            session.portals[b""] = of_failed(session, failed)
        own = portal is not None and portal.shard is None and not session.fate.number  # no link has heard of it
        self.on_link = session.fate.reported and not own and session.transaction.shard_count == 1

    def is_on_link(self, name: bytes) -> bool:
        """Whether a message about a portal is for the link to answer."""
        if not self.on_link or name:
            return False
        self.on_link = self._session.transaction.failed
        return self.on_link

    def is_bound(self, name: bytes) -> None:
        """A Bind has made one, or a Close has done away with it."""
        if not name:
            self.on_link = False
