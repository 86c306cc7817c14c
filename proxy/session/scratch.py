"""Scratch links: a session's settings on a link outside its transaction, for statements whose rows are gathered.

Decides what such a link is told before it is used: the session's settings as they were when the transaction began, then
BEGIN, then the settings made inside the block. It sees nothing that the client's transaction has written, so only what
was loaded onto it may be read there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.links import Replay, put_settings
from proxy.settings import NOTHING_APPLIED, UNKNOWN, can_become
from proxy.shards.errors import ShardError
from proxy.tasks import spawn
from proxy.transaction import IDLE

if TYPE_CHECKING:
    from proxy.session.session import Session
    from proxy.shards.link import ShardLink

# READ WRITE: a session may have chosen otherwise, and in a READ ONLY transaction there is no CREATE TABLE.
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE"


class LentScratch:
    """See ``proxy.executor.scratch.Scratch``."""

    def __init__(self, session: Session, link: ShardLink) -> None:
        self._session = session
        self._link = link
        self._released = False

    @property
    def link(self) -> ShardLink:
        """The link."""
        return self._link

    def check_cancelled(self) -> None:
        """Raise 57014 if the client has cancelled the statement while no shard was at work on it."""
        self._session.transaction.check_cancelled()

    def release(self) -> None:
        """Roll back and give the link back, in the background."""
        if not self._released:
            self._released = True
            self._session.scratches.discard(self._link)
            spawn(_end(self._session, self._link), name=f"end of a scratch link to {self._link.name}")


async def lend_scratch(session: Session) -> LentScratch:
    """Check a link out and bring it into a transaction with the session's settings; raises what they raise."""
    link = await _matching_link(session)
    session.scratches.add(link)
    scratch = LentScratch(session, link)
    transaction = session.transaction
    try:
        applied = transaction.starting_settings()
        if link.settings is not applied and (link.settings or NOTHING_APPLIED) != applied:
            link.settings = UNKNOWN
            put_settings(link, applied, gate=True)
        replays = [replay for replay in transaction.log if replay.savepoint is None and not replay.until_release]
        if all(replay.sql.isascii() for replay in replays):
            await link.run("; ".join([_BEGIN, *(replay.sql for replay in replays)]))
        else:
            for replay in (Replay(_BEGIN), *replays):  # each may change how the next is read
                link.codec = replay.codec
                await link.run(replay.sql)
        link.settings = applied
        link.codec = session.settings.encoding.codec
        transaction.check_cancelled()
    except BaseException:
        scratch.release()
        raise
    return scratch


async def _matching_link(session: Session) -> ShardLink:
    """Return a link that can have the session's settings; one that cannot be reset to them is closed."""
    applied = session.transaction.starting_settings()
    while True:
        link = await session.transaction.unless_cancelled(session.database.acquire_scratch(session.role))
        previous = link.settings
        if previous is UNKNOWN or not can_become(previous, applied):
            link.abort()
            session.database.release_scratch(link)
            continue
        return link


async def _end(session: Session, link: ShardLink) -> None:
    try:
        if not link.closed and not link.busy and link.status != ord(IDLE):
            await link.run("ROLLBACK")
    except ShardError:
        link.abort()
    finally:
        session.database.release_scratch(link)
