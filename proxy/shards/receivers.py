"""Ready-made receivers: an answer collected in memory, and an answer pulled batch by batch with back-pressure.

Decides how much of an answer may wait in memory (``high_water_bytes``). What the frames mean is for their readers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.shards.bound import forget
from proxy.shards.errors import ShardError
from proxy.wire import backend
from proxy.wire.frames import HEADER, HEADER_BYTES, frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.shards.link import ShardLink
    from proxy.shards.receiver import Chunk, Frame
    from proxy.shards.relay import Relay
    from proxy.wire.backend import Field
    from proxy.wire.fields import ErrorFields

DEFAULT_HIGH_WATER_BYTES: Final = 1 << 20

_READY: Final = backend.READY_FOR_QUERY
_COMPLETE: Final = backend.COMMAND_COMPLETE
_DATA_ROW: Final = backend.DATA_ROW
_DESCRIPTION: Final = backend.ROW_DESCRIPTION
COPY_FAIL: Final = frame(b"f", b"COPY FROM STDIN has no data here\0")
_FIRST_VALUE: Final = HEADER_BYTES + 2 + 4  # of a DataRow: behind the number of its columns and the value's length
_LONGEST_SHAPE: Final = 512
#: The last shape of each length, of all links.
_shapes: dict[int, Shape] = {}


@dataclass(slots=True)  # not frozen: there is one for each message of a commit (as in proxy.twophase.events)
class Answer:
    """What a simple query gave: all tags, and the rows and fields of its last statement that returned rows.

    Rows are in text format. ``status`` is the transaction status after it, as in ReadyForQuery.
    """

    tags: tuple[bytes, ...]
    rows: list[list[bytes | None]]
    fields: tuple[Field, ...]
    notices: tuple[ErrorFields, ...]
    status: int


class Collector:
    """Keeps (type byte, body) of every frame until ``cycles`` ReadyForQuery have come; ``done`` is set then."""

    __slots__ = ("_cycles", "_rejects_copy", "_relay", "collected", "done")

    def __init__(self, relay: Relay, cycles: int = 1, *, rejects_copy: bool = False) -> None:
        self._relay = relay
        self._cycles = cycles
        self._rejects_copy = rejects_copy
        self.collected: list[tuple[int, bytes]] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def frames(self, chunk: Chunk, index: list[Frame], /) -> bool:
        """Keep the bodies."""
        self.collected += [(kind, bytes(chunk[start + HEADER_BYTES : stop])) for kind, start, stop in index]
        for kind, _, _ in index:
            if kind == _READY:
                self._cycles -= 1
            elif kind == backend.COPY_IN_RESPONSE and self._rejects_copy:
                self._relay.write(COPY_FAIL)
        if self._cycles > 0:
            return False
        if not self.done.done():
            self.done.set_result(None)
        return True

    def lost(self, error: ShardError, /) -> None:
        """Pass the loss to whoever waits, with the tag that has come before it."""
        error.completed = next((body[:-1] for kind, body in reversed(self.collected) if kind == _COMPLETE), b"")
        if not self.done.done():
            self.done.set_exception(error)


class Shape:
    """An answer that was read: ``tail`` ends it, ``head`` is all before but the value that is first in its row.

    Whatever has the same length, head and tail is the same answer with another value there, from ``start`` to ``stop``.
    """

    __slots__ = ("answer", "head", "start", "stop", "tail")

    def __init__(self, data: bytes, answer: Answer, row_at: int) -> None:
        self.answer = answer
        start = stop = len(data)
        value = answer.rows[0][0] if answer.rows and answer.rows[0] else None
        if value is not None:
            start = row_at + _FIRST_VALUE
            stop = start + len(value)
        self.start = start
        self.stop = stop
        self.head = data[:start]
        self.tail = data[stop:]

    def read(self, data: bytes) -> Answer | None:
        """Return an answer of this shape; None for another."""
        if not data.startswith(self.head) or not data.endswith(self.tail):
            return None
        like = self.answer
        if self.start == self.stop:
            return like
        return Answer(like.tags, [[data[self.start : self.stop], *like.rows[0][1:]]], (), (), like.status)


class Told:
    """Hears one answer and passes it on in the same turn of the loop, to a function instead of a task that waits.

    A plain answer is read where it lies: its tags and its first row, which is all that step 1 to 3 of a commit have.
    These are the same for every commit but for transactions' ids, so an answer of a length that has come before is
    compared with that one, and read frame by frame only when it is another.
    """

    __slots__ = ("_answer", "_collected", "_link", "_told")

    def __init__(self, link: ShardLink, told: Callable[[Answer | Exception], None]) -> None:
        self._link = link
        self._told = told
        self._answer: Answer | None = None
        self._collected: list[tuple[int, bytes]] = []

    def recognises(self, data: bytes) -> bool:
        """Whether this is a whole plain answer of a shape that was read before; then ``whole`` is to be called."""
        shape = _shapes.get(len(data))
        if shape is None or self._collected:
            return False
        self._answer = shape.read(data)
        return self._answer is not None

    def whole(self, data: bytes, /) -> bool:  # noqa: C901 - one loop
        """Take an answer that has nothing but rows and tags in it, unless this is only the end of one."""
        if self._answer is not None:
            self._told(self._answer)
            return True
        if self._collected:
            return False
        tags: list[bytes] = []
        rows: list[list[bytes | None]] = []
        unpack = HEADER.unpack_from
        start = row_at = 0
        ended = False
        while True:
            kind, length = unpack(data, start)
            stop = start + 1 + length
            if kind == _COMPLETE:
                tags.append(data[start + HEADER_BYTES : stop - 1])
                ended = True
            elif kind == _DESCRIPTION:
                rows = []
            elif kind == _DATA_ROW:
                if ended:
                    rows, ended = [], False
                if not rows:
                    row_at = start
                    rows.append(backend.decode_data_row(data[start + HEADER_BYTES : stop]))
            elif kind == _READY:
                break
            start = stop
        answer = Answer(tuple(tags), rows, (), (), self._link.status)
        if len(data) <= _LONGEST_SHAPE:
            _shapes[len(data)] = Shape(data, answer, row_at)
        self._told(answer)
        return True

    def frames(self, chunk: Chunk, index: list[Frame], /) -> bool:
        """Keep the parts of any other answer until it is over."""
        self._collected += [(kind, bytes(chunk[start + HEADER_BYTES : stop])) for kind, start, stop in index]
        if any(kind == backend.COPY_IN_RESPONSE for kind, _, _ in index):
            self._link.write(COPY_FAIL)
        if index[-1][0] != _READY:
            return False
        answer: Answer | Exception
        try:
            answer = self._link.answer_of(self._collected)
        except ShardError as error:
            answer = error
            forget(self._link)
        self._told(answer)
        return True

    def lost(self, error: ShardError, /) -> None:
        """Nothing will come."""
        self._told(error)


class Remainder:
    """Swallows what is left of an exchange that nobody wants any more; ``over`` is set at its next ReadyForQuery."""

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = asyncio.Event()

    def frames(self, _chunk: Chunk, index: list[Frame], /) -> bool:
        """Drop them."""
        if index[-1][0] == _READY:
            self.over.set()
        return False

    def lost(self, _error: ShardError, /) -> None:
        """Nothing more will come: just as good."""
        self.over.set()


class FrameStream:
    """An answer that is pulled: ``next()`` gives what has come since, and the server is paused while too much waits."""

    __slots__ = ("_batches", "_cycles", "_error", "_high_water_bytes", "_relay", "_waiter", "over", "queued_bytes")

    def __init__(self, relay: Relay, cycles: int = 1, high_water_bytes: int = DEFAULT_HIGH_WATER_BYTES) -> None:
        self._relay = relay
        self._cycles = cycles
        self._high_water_bytes = high_water_bytes
        self._batches: deque[tuple[int, list[tuple[int, bytes]]]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: ShardError | None = None
        #: Whether the last ReadyForQuery has been given out by ``next()``.
        self.over = False
        self.queued_bytes = 0

    def frames(self, chunk: Chunk, index: list[Frame], /) -> bool:
        """Queue a batch."""
        batch = [(kind, bytes(chunk[start + HEADER_BYTES : stop])) for kind, start, stop in index]
        size = index[-1][2] - index[0][1]
        self._batches.append((size, batch))
        self.queued_bytes += size
        for kind, _, _ in index:
            if kind == _READY:
                self._cycles -= 1
        self._wake()
        if self._cycles <= 0:
            return True
        if self.queued_bytes > self._high_water_bytes:
            self._relay.pause_reading()
        return False

    def lost(self, error: ShardError, /) -> None:
        """Raise the loss from ``next()``, after what had come before it."""
        self._error = error
        self._wake()

    async def next(self) -> list[tuple[int, bytes]]:
        """Return the next frames, at least one: (type byte, body) each. The exchange's last frame is a ReadyForQuery.

        Raises ShardError when the link is lost or the prefix failed. Being cancelled loses nothing. After the last
        frame it raises RuntimeError.
        """
        while not self._batches:
            if self._error is not None:
                raise self._error
            if self.over:
                msg = "the exchange is over"
                raise RuntimeError(msg)
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        size, batch = self._batches.popleft()
        self.queued_bytes -= size
        if self._cycles <= 0:
            self.over = not self._batches
        elif self.queued_bytes <= self._high_water_bytes // 2:
            self._relay.resume_reading()
        return batch

    async def discard(self) -> None:
        """Read and drop the rest, so that the link can be used again."""
        while not self.over:
            await self.next()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
