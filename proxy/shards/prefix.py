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
_LEARNED: Final = frozenset(b"TDCZ")
_LONGEST_LEARNED: Final = 1024
_MOST_LEARNED: Final = 4
#: How prefixes were answered, by the ReadyForQuery in it, the latest first: texts differ, answers hardly do.
_learned: dict[int, tuple[bytes, ...]] = {}


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

    def known(self, data: bytes) -> int:
        """Return how many bytes are all that is to come for the prefix, if another was answered by the same; else 0.

        What was learned has nothing in it that ``swallow`` would note, and one end: its last ReadyForQuery.
        """
        if self.failed_with is None:
            for answer in _learned.get(self.cycles, ()):
                if data.startswith(answer):
                    return len(answer)
        return 0

    def swallow(self, chunk: Chunk, index: list[Frame], notify: Callable[[Chunk, int, int], None]) -> int:
        """Swallow answers; returns how many frames of the index they were when all have come, 0 while some have not.

        Raises ProtocolViolation for what no prefix may be answered with.
        """
        cycles, succeeds = self.cycles, self.failed_with is None
        for position, (kind, start, stop) in enumerate(index, 1):
            if kind == _READY:
                self.cycles -= 1
                if not self.cycles:
                    if succeeds:
                        _learn(cycles, chunk, index[:position])
                    return position
            elif kind == _ERROR and self.failed_with is None:
                self.failed_with = bytes(chunk[start:stop])
            elif kind == _NOTIFICATION:
                notify(chunk, start, stop)
            elif kind == _COPY_IN:
                raise malformed("a prefix that copies in")
        return 0


def _learn(cycles: int, chunk: Chunk, index: list[Frame]) -> None:
    """Remember what came for a prefix that has not failed."""
    start, stop = index[0][1], index[-1][2]
    if stop - start <= _LONGEST_LEARNED and all(frame[0] in _LEARNED for frame in index):
        answer = bytes(chunk[start:stop])
        others = [one for one in _learned.get(cycles, ()) if one != answer]
        _learned[cycles] = (answer, *others[: _MOST_LEARNED - 1])
