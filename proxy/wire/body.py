"""The fields inside a message body: integers, strings, bytes, each with Postgres's own complaint when it is not there.

Used where a message is decoded once in a while; frontend.py and backend.py unpack their hot messages themselves. The
texts are those of pqformat.c, because clients and tests look at them.
"""

from __future__ import annotations

from struct import Struct

from proxy.wire.errors import malformed

INVALID_FORMAT = "invalid message format"
INSUFFICIENT_DATA = "insufficient data left in message"
NO_DATA = "no data left in message"
INVALID_STRING = "invalid string in message"

NULL_LENGTH = -1

UINT16 = Struct(">H")
INT32 = Struct(">i")


class BodyReader:
    """Reads a body from left to right; every method raises ProtocolViolation when the body is too short for it."""

    __slots__ = ("_at", "_body", "_end")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0
        self._end = len(body)

    def _take(self, count: int) -> int:
        at = self._at
        if count < 0 or count > self._end - at:
            raise malformed(INSUFFICIENT_DATA)
        self._at = at + count
        return at

    def byte(self) -> int:
        """Read one byte as a number."""
        at = self._at
        if at >= self._end:
            raise malformed(NO_DATA)
        self._at = at + 1
        return self._body[at]

    def uint16(self) -> int:
        """Read an unsigned int16: all counts are, so that 65535 parameters fit."""
        value: int = UINT16.unpack_from(self._body, self._take(2))[0]
        return value

    def int32(self) -> int:
        """Read a signed int32."""
        value: int = INT32.unpack_from(self._body, self._take(4))[0]
        return value

    def int16s(self) -> tuple[int, ...]:
        """Read a count and that many signed int16."""
        count = self.uint16()
        return Struct(f">{count}h").unpack_from(self._body, self._take(2 * count))

    def uint32s(self) -> tuple[int, ...]:
        """Read a count and that many unsigned int32."""
        count = self.uint16()
        return Struct(f">{count}I").unpack_from(self._body, self._take(4 * count))

    def string(self) -> bytes:
        """Read a NUL-terminated string, without its NUL."""
        at = self._at
        stop = self._body.find(0, at)
        if stop < 0:
            raise malformed(INVALID_STRING)
        self._at = stop + 1
        return self._body[at:stop]

    def take(self, count: int) -> bytes:
        """Read exactly ``count`` bytes."""
        at = self._take(count)
        return self._body[at : at + count]

    def value(self) -> bytes | None:
        """Read an int32 length and that many bytes; length -1 is NULL, any other negative length a lie."""
        length = self.int32()
        return None if length == NULL_LENGTH else self.take(length)

    def more(self) -> bool:
        """Tell whether anything is left."""
        return self._at < self._end

    def rest(self) -> bytes:
        """Read all that is left."""
        at = self._at
        self._at = self._end
        return self._body[at:]

    def end(self) -> None:
        """See that nothing is left."""
        if self._at != self._end:
            raise malformed(INVALID_FORMAT)
