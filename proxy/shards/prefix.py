"""What goes to a shard in front of an exchange, in its packet: kept until then, and swallowed when it is answered.

Decides which frames are the prefix's answers and which of them is its error. What becomes of the exchange if there is
one is the link's (relay.py, doomed.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.wire import backend
from proxy.wire.errors import malformed

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.shards.receiver import Chunk, Frame

_READY: Final = backend.READY_FOR_QUERY
_ERROR: Final = backend.ERROR_RESPONSE
_NOTIFICATION: Final = backend.NOTIFICATION_RESPONSE
_COPY_IN: Final = backend.COPY_IN_RESPONSE


class Prefix:
    """Messages that ``cycles`` ReadyForQuery answer; with ``gates`` they are answered before anything else is sent."""

    __slots__ = ("cycles", "frames", "gates")

    def __init__(self, frames: bytes, cycles: int, gates: bool) -> None:  # noqa: FBT001 - a field, as the others
        self.frames = [frames]
        self.cycles = cycles
        self.gates = gates


class SentPrefix:
    """A prefix that is on its way, until all of it is answered.

    ``held``: what its gate holds back of the exchange, None without a gate. ``sent``: what was sent of the exchange
    behind it. ``failed_with``: its first ErrorResponse.
    """

    __slots__ = ("cycles", "failed_with", "held", "sent")

    def __init__(self, cycles: int, sent: list[bytes], held: list[bytes] | None) -> None:
        self.cycles = cycles
        self.sent = sent
        self.held = held
        self.failed_with: bytes | None = None

    def swallow(self, chunk: Chunk, index: list[Frame], notify: Callable[[Chunk, int, int], None]) -> int:
        """Swallow answers; returns how many frames of the index they were when all have come, 0 while some have not.

        Raises ProtocolViolation for what no prefix may be answered with.
        """
        for position, (kind, start, stop) in enumerate(index, 1):
            if kind == _READY:
                self.cycles -= 1
                if not self.cycles:
                    return position
            elif kind == _ERROR and self.failed_with is None:
                self.failed_with = bytes(chunk[start:stop])
            elif kind == _NOTIFICATION:
                notify(chunk, start, stop)
            elif kind == _COPY_IN:
                raise malformed("a prefix that copies in")
        return 0
