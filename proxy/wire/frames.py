"""Framing: where one message ends and the next begins.

A message is a type byte, a big-endian int32 length that counts itself but not the type, and a body. This file finds the
boundaries, in both directions, and refuses lengths that cannot be; what is inside a body is for frontend.py and
backend.py. The untyped packets at the start of a connection are for startup.py.

https://www.postgresql.org/docs/18/protocol-message-formats.html
"""

from __future__ import annotations

from struct import Struct

from proxy.wire.errors import UnknownMessageType, desynchronized

HEADER = Struct(">BI")
HEADER_BYTES = 5
LENGTH_BYTES = 4  # the length field counts itself

# Postgres's PQ_SMALL_MESSAGE_LIMIT: messages that carry at most a name or two.
SMALL_MESSAGE_BYTES = 10_000
# Postgres's PG_MAX_AUTH_TOKEN_LENGTH.
AUTHENTICATION_BYTES = 65_535
# Postgres's MaxAllocSize bounds the body that either side can build; the length field counts four bytes more.
LARGEST_MESSAGE_BYTES = 0x3FFF_FFFF + LENGTH_BYTES

_SMALL = b"CDEHSXcf"
_LARGE = b"QPBFd"
_COMPACT_BYTES = 1 << 16

# Frames of one length in a row that make jumping over them pay, and how many are walked before it is tried again.
_WORTH_JUMPING = 16
_FIRST_PAUSE = 16
_LONGEST_PAUSE = 1024


def frame(type: bytes, body: bytes) -> bytes:  # noqa: A002 - the protocol's word
    """Build one message from its type byte and its body."""
    return HEADER.pack(type[0], len(body) + LENGTH_BYTES) + body


def frontend_limits(max_message_bytes: int) -> tuple[int, ...]:
    """Give the largest length field for each type byte; 0 where no client may send the type.

    ``max_message_bytes`` bounds the length field of the types that may be large: Query, Parse, Bind, FunctionCall,
    CopyData.
    """
    limits = [0] * 256
    for kind in _SMALL:
        limits[kind] = min(SMALL_MESSAGE_BYTES, max_message_bytes)
    for kind in _LARGE:
        limits[kind] = max_message_bytes
    limits[ord("p")] = min(AUTHENTICATION_BYTES, max_message_bytes)
    return tuple(limits)


class FrameReader:
    """Cuts a client's bytes into messages.

    Feed it what the socket gave, then call ``next()`` until it answers None. It raises ``ProtocolViolation`` (fatal) as
    soon as a type byte or a length is seen to be wrong, before the body arrives, and raises the same again when asked
    again: boundaries are lost. It holds at most one incomplete message plus what was fed last; the caller stops feeding
    while it lags behind.
    """

    __slots__ = ("_buffer", "_end", "_limits", "_start")

    def __init__(self, max_message_bytes: int) -> None:
        self._limits = frontend_limits(min(max_message_bytes, LARGEST_MESSAGE_BYTES))
        # bytes while one chunk holds all that is unread (no copy is made of it), a bytearray once chunks had to be
        # joined.
        self._buffer: bytes | bytearray = b""
        self._start = 0
        self._end = 0

    @property
    def buffered_bytes(self) -> int:
        """How many bytes were fed and not yet returned."""
        return self._end - self._start

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes. A ``bytes`` object is kept as it is; anything else is copied, so its owner may reuse it."""
        start = self._start
        if start == self._end:
            self._buffer = data if type(data) is bytes else bytes(data)
            self._start = 0
            self._end = len(self._buffer)
            return
        buffer = self._buffer
        if type(buffer) is bytearray:
            # Seldom, so that many small messages in one large buffer do not move its tail each time.
            if start > _COMPACT_BYTES and start * 2 > self._end:
                del buffer[:start]
                self._start = 0
        else:
            buffer = bytearray(memoryview(buffer)[start:])
            self._buffer = buffer
            self._start = 0
        buffer += data
        self._end = len(buffer)

    def next(self) -> tuple[int, bytes] | None:
        """Return the next whole message as (type byte, body), or None until more was fed."""
        start = self._start
        end = self._end
        if start == end:
            return None
        buffer = self._buffer
        if end - start < HEADER_BYTES:
            if not self._limits[buffer[start]]:
                raise UnknownMessageType(buffer[start])
            return None
        kind, length = HEADER.unpack_from(buffer, start)
        if not LENGTH_BYTES <= length <= self._limits[kind]:
            if not self._limits[kind]:
                raise UnknownMessageType(kind)
            raise desynchronized("invalid message length")
        stop = start + 1 + length
        if stop > end:
            return None
        self._start = stop
        if type(buffer) is bytes:
            return kind, buffer[start + HEADER_BYTES : stop]
        with memoryview(buffer) as view:  # one copy, not two
            return kind, bytes(view[start + HEADER_BYTES : stop])

    def rest(self) -> bytes:
        """Take away everything that was fed and not yet returned (a relay carries on from there)."""
        left = bytes(memoryview(self._buffer)[self._start : self._end])
        self._buffer = b""
        self._start = self._end = 0
        return left


def walk(
    buffer: bytes | bytearray | memoryview, start: int, end: int, max_message_bytes: int = LARGEST_MESSAGE_BYTES
) -> tuple[list[tuple[int, int, int]], int]:
    """Find the complete messages in ``buffer[start:end]`` without copying anything.

    Returns ``([(type byte, start, end), ...], rest)``: a message occupies ``buffer[start:end]``, header included, its
    body begins at ``start + 5``, and ``rest`` is where the first incomplete message begins (``end`` if there is none).
    ``start`` must be the beginning of a message. Any type byte is accepted. A length below 4 or above the limit is a
    fatal ProtocolViolation.
    """
    found: list[tuple[int, int, int]] = []
    add = found.append
    unpack = HEADER.unpack_from
    last_header = end - HEADER_BYTES
    while start <= last_header:
        kind, length = unpack(buffer, start)
        stop = start + 1 + length
        if stop > end or length < LENGTH_BYTES:
            if not LENGTH_BYTES <= length <= max_message_bytes:
                raise desynchronized("invalid message length")
            break
        add((kind, start, stop))
        start = stop
    return found, start


def run_end(data: bytes, start: int, end: int) -> int:
    """Return where the run of messages of one type ends that begins at ``start``, of those complete in ``data[:end]``.

    A large answer is nothing but such runs, a message for each row. Rows of fixed columns have one length, and then the
    headers stand at even distances: five slices with a stride show how far, at 10 ns for a row instead of 110. Where
    lengths vary, each look for that is in vain, so it is taken less and less often.

    Stops as well at a length that cannot be; ``start`` is the beginning of a complete message.
    """
    kind = data[start]
    unpack = HEADER.unpack_from
    last_header = end - HEADER_BYTES
    pause = _FIRST_PAUSE
    while start <= last_header:
        same, length = unpack(data, start)
        step = length + 1
        if same != kind or length < LENGTH_BYTES or start + step > end:
            break
        head = data[start : start + HEADER_BYTES]
        if data.startswith(head, start + step) and data.startswith(head, start + 2 * step):
            count = _alike(data, start, end, step)
            start += count * step
            if count > _WORTH_JUMPING:
                continue
        walked_to = start + pause * step
        if pause < _LONGEST_PAUSE:
            pause *= 2
        if walked_to > last_header:
            walked_to = last_header + 1
        while start < walked_to:
            same, length = unpack(data, start)
            stop = start + 1 + length
            if same != kind or stop > end or length < LENGTH_BYTES:
                return start
            start = stop
    return start


def _alike(data: bytes, start: int, end: int, step: int) -> int:
    """Count the messages that have the same header, each ``step`` bytes behind the one before."""
    count = (end - start) // step
    for first in range(start + LENGTH_BYTES, start - 1, -1):  # what differs first is the last byte of the length
        column = data[first : first + (count - 1) * step + 1 : step]
        byte = column[:1]
        if column.count(byte) != count:
            count = len(column) - len(column.lstrip(byte))
    return count
