"""One shard's answer to one statement, read frame by frame and held until somebody wants its rows.

A ``ShardStream`` is installed on a link as the receiver of an exchange of the extended protocol. It decides when the
link is paused (more than ``high_water_bytes`` of rows wait here; or, by notices.py, the client does not read) and keeps
the first error. What the rows mean, and what happens when another shard fails, is for scatter.py.

Rows wait in blocks, as they came off the wire: a block is a run of whole DataRow messages, and only who needs single
rows cuts it, or counts them.
"""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, Protocol

from proxy.executor.notices import Notices
from proxy.shards.errors import ShardError
from proxy.wire import backend

if TYPE_CHECKING:
    import asyncio

    from proxy.executor.request import Frontend
    from proxy.shards.link import ShardLink
    from proxy.wire.backend import Field

_HEADER_BYTES = 5
_length = Struct(">I").unpack_from
# What tells that a shard has read the statement, and that it has said which columns there will be, if any.
_DESCRIBED = frozenset({backend.ROW_DESCRIPTION, backend.NO_DATA, backend.ERROR_RESPONSE, backend.READY_FOR_QUERY})
_PARSED = _DESCRIBED | {backend.PARSE_COMPLETE}
_SKIPPED = _PARSED | {backend.PARAMETER_STATUS, backend.NOTIFICATION_RESPONSE, backend.BIND_COMPLETE}


class Unexpected(Exception):  # noqa: N818 - named for what came
    """A shard sent a message that this exchange cannot have; the link is closed for it."""


class Wakes(Protocol):
    """What a stream calls whenever something arrived: an ``asyncio.Event``."""

    def set(self) -> None:
        """Wake the reader."""


class Block:
    """A run of whole DataRow messages; read from the front."""

    __slots__ = ("data", "start")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.start = 0  # where the next row begins

    @property
    def rows(self) -> int:
        """How many rows are left."""
        return self._pass_over(1 << 62)[0]

    def _pass_over(self, rows: int) -> tuple[int, int]:
        """Return how many rows there are, ``rows`` at most, and where they end."""
        data, at, count = self.data, self.start, 0
        end = len(data)
        while at < end and count < rows:
            at += 1 + _length(data, at + 1)[0]
            count += 1
        return count, at

    def take(self, rows: int) -> tuple[bytes, int]:
        """Take the next rows as one run of messages; 0: all of them, uncounted."""
        count, stop = self._pass_over(rows) if rows else (0, len(self.data))
        start, self.start = self.start, stop
        return self.data if start == 0 and stop == len(self.data) else self.data[start:stop], count


class ShardStream:
    """The receiver of one exchange; see the module.

    ``parsed``, ``described``, ``over`` tell how far it is; ``fields`` is the RowDescription (None: no rows, or not yet
    known), ``tag`` the command tag, ``error`` the first error. ``discarding`` throws rows away as they come.
    """

    row_kind = backend.DATA_ROW
    takes_runs = True  # proxy.shards.receiver.RunReceiver

    def __init__(
        self,
        link: ShardLink,
        wake: asyncio.Event | Wakes,
        *,
        high_water_bytes: int,
        client: Frontend | None,
    ) -> None:
        """``client`` hears the notices; None: nobody does."""
        self.link = link
        self.parsed = self.described = False
        self.over = True  # until an exchange begins
        self.fields: tuple[Field, ...] | None = None
        self.tag: bytes | None = None
        self.error: ShardError | None = None
        self.discarding = False
        self.high_water_bytes = high_water_bytes
        self._blocks: deque[Block] = deque()
        self._queued_bytes = 0
        self._paused = False
        self._wake = wake
        self._notices = None if client is None else Notices(link, client, self._free)

    # --- the receiver of the link -----------------------------------------------------------------------------

    def frames(self, chunk: memoryview | bytes, index: list[tuple[int, int, int]]) -> bool:
        """Take complete frames; True when the exchange is over."""
        run_start = run_end = -1
        row_kind = self.row_kind
        for kind, start, end in index:
            if kind == row_kind and start == run_end:
                run_end = end
                continue
            if run_start >= 0:
                self._queue(bytes(chunk[run_start:run_end]))
                run_start = run_end = -1
            if kind == row_kind:
                run_start, run_end = start, end
            else:
                self._message(kind, chunk, start, end)
        if run_start >= 0:
            self._queue(bytes(chunk[run_start:run_end]))
        self._wake.set()
        return self.over

    def lost(self, error: ShardError) -> None:
        """The link died, or what was put before the exchange failed: nothing more will come."""
        if self.error is None:
            self.error = error
        self.over = self.described = self.parsed = True
        self._is_over()
        self._wake.set()

    def bind_again(self) -> None:
        """Forget what the portal before this one was described as; one that failed or is gone stays so."""
        if not self.over and self.error is None:
            self.described = False
            self.fields = None

    def _message(self, kind: int, chunk: memoryview | bytes, start: int, end: int) -> None:
        if kind in _PARSED:
            self.parsed = True
            self.described = self.described or kind in _DESCRIBED
        if kind == backend.COMMAND_COMPLETE:
            self.tag = backend.decode_command_tag(bytes(chunk[start + _HEADER_BYTES : end]))
        elif kind == backend.READY_FOR_QUERY:
            self.over = True
            self._is_over()
        elif kind == backend.ROW_DESCRIPTION:
            self.fields = backend.decode_row_description(bytes(chunk[start + _HEADER_BYTES : end]))
        elif kind == backend.ERROR_RESPONSE:
            self._failed(bytes(chunk[start:end]))
        elif kind == backend.NOTICE_RESPONSE:
            if self._notices is not None:
                self._notices.hear(bytes(chunk[start:end]))
        elif kind not in _SKIPPED:
            self._other(kind, bytes(chunk[start:end]))

    def _is_over(self) -> None:
        self._paused = False  # the end of an exchange makes the link read again by itself
        if self._notices is not None:
            self._notices.over()

    def _failed(self, raw: bytes) -> None:
        if self.error is None:
            self.error = ShardError(backend.decode_error(raw[_HEADER_BYTES:]), shard=self.link.shard, raw=raw)

    def _other(self, kind: int, message: bytes) -> None:
        """Take a message that has no place in a statement of the extended protocol."""
        if kind == backend.EMPTY_QUERY_RESPONSE:
            self.tag = b""
            return
        raise Unexpected(f"message {chr(kind)!r} ({len(message)} bytes) from shard {self.link.name} in a statement")

    # --- rows -------------------------------------------------------------------------------------------------

    def _queue(self, data: bytes) -> None:
        if self.discarding:
            return
        self._blocks.append(Block(data))
        self._queued_bytes += len(data)
        if self._queued_bytes > self.high_water_bytes and not self._paused:
            self._paused = True
            self.link.pause_reading()

    @property
    def knows_columns(self) -> bool:
        """Whether the statement was described, and did not fail before that."""
        return self.described and (self.error is None or self.fields is not None)

    @property
    def has_rows(self) -> bool:
        """Whether a row is at hand."""
        return bool(self._blocks)

    @property
    def exhausted(self) -> bool:
        """Whether that was all: no row is left, and there was no error."""
        return self.over and not self._blocks and self.error is None

    def take(self, max_rows: int) -> tuple[bytes, int]:
        """Take the rows of one block: their bytes and their number.

        ``max_rows`` at most; 0 is no limit, and then they are not counted, their number is 0.
        """
        block = self._blocks[0]
        data, rows = block.take(max_rows)
        if block.start == len(block.data):
            self._blocks.popleft()
        self._shrink(len(data))
        return data, rows

    def take_row(self) -> bytes:
        """Take one row, header included. A merge does this a million times: no calls for the block's part."""
        block = self._blocks[0]
        data, start = block.data, block.start
        block.start = stop = start + 1 + _length(data, start + 1)[0]
        row = data[start:stop]
        if stop == len(data):
            self._blocks.popleft()
        self._queued_bytes -= len(row)
        if self._paused:
            self._shrink(0)
        return row

    def _shrink(self, taken_bytes: int) -> None:
        self._queued_bytes -= taken_bytes
        if self._paused and self._queued_bytes <= self.high_water_bytes // 2:
            self._resume()

    def _resume(self) -> None:
        self._paused = False
        if self._notices is None or not self._notices.held:
            self._read_on()

    def _free(self) -> None:
        if not self._paused:
            self._read_on()

    def _read_on(self) -> None:
        if not self.link.closed:
            self.link.resume_reading()

    def unbound(self) -> None:
        """Hold whatever comes, without pausing: the reader watches the total itself."""
        self.high_water_bytes = 1 << 62
        if self._paused:
            self._resume()

    @property
    def queued_bytes(self) -> int:
        """How many bytes of rows wait here."""
        return self._queued_bytes

    @property
    def queued_rows(self) -> int:
        """How many rows wait here."""
        return sum(block.rows for block in self._blocks)

    def discard(self) -> None:
        """Throw away what is here and what comes; the exchange still has to end."""
        self.discarding = True
        self._blocks.clear()
        self._queued_bytes = 0
        if self._paused:
            self._resume()
