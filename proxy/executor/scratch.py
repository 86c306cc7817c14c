"""A scratch link: where gathered rows are put together, outside the client's transaction.

Decides what happens on it: tables of the transaction's own, filled one after another by binary COPY, then the statement
over them. The transaction is rolled back in the end, so that nothing is left for the next user. Who lends the link, and
what it has been told of the session's settings, is the session's (proxy.session.scratch).
"""

from __future__ import annotations

import asyncio
from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol

from proxy.executor.copy_binary import SIGNATURE, TRAILER
from proxy.executor.shard_stream import ShardStream
from proxy.wire import backend
from proxy.wire.frontend import CopyData, CopyDone, CopyFail, Query

if TYPE_CHECKING:
    from proxy.shards.link import ShardLink

_FLUSH_BYTES: Final = 1 << 16
_HEADER: Final = SIGNATURE + b"\0" * 8
_LENGTH: Final = Struct(">I")
_DATA_ROW_HEADER_BYTES: Final = 5


class Scratch(Protocol):
    """A scratch link that was lent to one statement."""

    @property
    def link(self) -> ShardLink:
        """The link, in a transaction with the session's settings."""

    def check_cancelled(self) -> None:
        """Raise if the client has cancelled the statement: between two steps the signal to the shard hits nothing."""

    def release(self) -> None:
        """Give it back, whatever state it is in; harmless when it was given back already."""


class _CopyReceiver(ShardStream):
    """The receiver of a COPY FROM: ``described`` once the server waits for data."""

    def _other(self, kind: int, message: bytes) -> None:
        if kind == backend.COPY_IN_RESPONSE:
            self.described = True
        else:
            super()._other(kind, message)


class Loading:
    """One table being filled. ``start``, then ``add`` rows and ``flush``, then ``finish``; ``abandon`` on failure."""

    def __init__(self, link: ShardLink, table: str) -> None:
        self._link = link
        self._table = table
        self._wake = asyncio.Event()
        self._stream = _CopyReceiver(link, self._wake, high_water_bytes=1 << 20, client=None)
        self._parts: list[bytes] = []
        self._bytes = 0

    async def start(self) -> None:
        """Begin the COPY; raises ShardError."""
        self._stream.over = False
        copy = f"COPY pg_temp.{self._table} FROM STDIN (FORMAT binary)"
        self._link.exchange(Query(copy.encode()).encode(), self._stream)
        await self._until_described()
        self._parts.append(_HEADER)

    async def _until_described(self) -> None:
        while not self._stream.described:
            self._wake.clear()
            await self._wake.wait()
        self._raise()

    def _raise(self) -> None:
        if self._stream.error is not None:
            raise self._stream.error

    def add(self, row: bytes) -> None:
        """Add a row: the body of a DataRow message in binary is a tuple of a binary COPY."""
        self._parts.append(row)
        self._bytes += len(row)

    async def flush(self) -> None:
        """Send what was added when it is enough for a message, and wait while the server lags behind."""
        if self._bytes >= _FLUSH_BYTES:
            await self._send()

    async def _send(self) -> None:
        self._raise()
        self._link.write(CopyData(b"".join(self._parts)).encode())
        self._parts.clear()
        self._bytes = 0
        await self._link.drain()

    async def finish(self) -> None:
        """End the COPY; raises ShardError."""
        self._parts.append(TRAILER)
        await self._send()
        self._link.write(CopyDone().encode())
        await self._until_over()
        self._raise()

    async def _until_over(self) -> None:
        while not self._stream.over:
            self._wake.clear()
            await self._wake.wait()

    async def abandon(self) -> None:
        """Bring the link out of the COPY."""
        if not self._stream.over:
            self._link.write(CopyFail(b"the rows could not be read").encode())
            await self._until_over()


def bodies(messages: bytes) -> list[bytes]:
    """Cut a run of DataRow messages into their bodies."""
    found = []
    at, end = 0, len(messages)
    while at < end:
        stop = at + 1 + _LENGTH.unpack_from(messages, at + 1)[0]
        found.append(messages[at + _DATA_ROW_HEADER_BYTES : stop])
        at = stop
    return found
