"""Notifications: what a session's links hear for its client, until that may be told.

As in Postgres that is before ReadyForQuery, or while the client is idle, and in no block. Decided here: when a link
that has nothing under way is not read, so that the server keeps what it has to say: as long as the client does not
read, or has a block open (on other shards) and has been spoken to for longer than there is room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.wire.frames import frame

if TYPE_CHECKING:
    from proxy.session.session import Session
    from proxy.shards.link import ShardLink

_MOST_BYTES: Final = 1 << 20  # heard in a block


class Heard:
    """Of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._frames: list[bytes] = []
        self._bytes = 0
        self._held: list[ShardLink] = []  # that are not read

    def add(self, link: ShardLink, body: bytes) -> None:
        """Take what a link has heard; the client's own words come from the process that it knows."""
        session = self._session
        pid = int.from_bytes(body[:4], "big")
        self._frames.append(frame(b"A", (session.pid if pid == link.pid else pid).to_bytes(4, "big") + body[4:]))
        self._bytes += len(body)
        if not session.in_query:
            self.pass_on()
        if link.busy or link in self._held:
            return  # the end of what is under way makes a link read again
        if self._bytes > _MOST_BYTES or not session.connection.writable:
            link.pause_reading()
            self._held.append(link)
            if not session.connection.writable:
                session.connection.when_writable(self._read_on)

    def pass_on(self) -> None:
        """Tell the client, unless a block is open."""
        session = self._session
        if not (self._frames or self._held) or session.transaction.in_block:
            return
        if self._frames:
            session.write(b"".join(self._frames))
            self._frames.clear()
            self._bytes = 0
        if session.connection.writable:
            self._read_on()

    def _read_on(self) -> None:
        if self._bytes > _MOST_BYTES:
            return  # until the block ends
        held, self._held = self._held, []
        for link in held:
            if not (link.closed or link.busy):
                link.resume_reading()
