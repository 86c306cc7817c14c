"""How what the socket gave is cut: a frame that it has cut is kept until the rest of it has come.

Decides what is copied: the beginning, and of a frame above ``JOIN_BYTES`` nothing else. How many bytes are missing is
known from the header, so that a row of 30 MB is not walked again for each piece of it. And who is given rows in runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.wire.errors import malformed
from proxy.wire.frames import HEADER, HEADER_BYTES, LARGEST_MESSAGE_BYTES, LENGTH_BYTES

if TYPE_CHECKING:
    from proxy.shards.receiver import Chunk, Receiver

#: Up to here a chunk whose first frame came in pieces is made one bytes object again; above, a view of what was
#: collected.
JOIN_BYTES: Final = 1 << 20


class CutFrame:
    """The beginning of a frame, at the end of a chunk. Raises ProtocolViolation if it cannot be one."""

    __slots__ = ("_kept", "_need")

    def __init__(self, chunk: Chunk, start: int, end: int) -> None:
        need = HEADER_BYTES
        if end - start >= HEADER_BYTES:
            kind, length = HEADER.unpack_from(chunk, start)
            if not LENGTH_BYTES <= length <= LARGEST_MESSAGE_BYTES:
                raise malformed(f"message of type {kind} and length {length}")
            need = length + 1
        self._need = need
        self._kept = bytearray(memoryview(chunk)[start:end])

    def join(self, data: bytes) -> Chunk | None:
        """Add a piece; None while the frame is not complete, else the chunk that begins with it (and it is done)."""
        kept = self._kept
        total = len(kept) + len(data)
        if total < self._need:
            kept += data
            return None
        if total <= JOIN_BYTES:
            return b"".join((kept, data))
        kept += data
        return memoryview(kept)


def may_have_runs(receiver: Receiver | None, chunk: Chunk) -> bool:
    """Whether rows of a chunk that stand together are one entry for a receiver (``receiver.RunReceiver``)."""
    return isinstance(chunk, bytes) and getattr(receiver, "takes_runs", False)
