"""What goes to a shard in front of an exchange, in its packet: kept until then, and swallowed when it is answered.

A prefix is of queries, each answered by a ReadyForQuery, or *open*: messages of the extended protocol without a Sync,
of which each Execute is answered by a CommandComplete. The server sends off what it has said with each ReadyForQuery:
so what an open prefix is answered comes in one packet with the exchange's answer. When one of its messages fails, the
server passes over all that follows up to a Sync, the exchange's own messages among it.

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
_COMPLETE: Final = backend.COMMAND_COMPLETE
_LEARNED: Final = frozenset(b"TDCZ123")
_LONGEST_LEARNED: Final = 1024
_MOST_LEARNED: Final = 4
#: How prefixes were answered, by what ends them, the latest first: texts differ, answers hardly do.
_learned: dict[int, tuple[bytes, ...]] = {}
_OPEN: Final = 1 << 16  # more ReadyForQuery than these no prefix has


class Prefix:
    """Messages that ``cycles`` ReadyForQuery answer; with ``gates`` they are answered before anything else is sent.

    ``executes``: it is open, and so many CommandComplete end its answer.
    """

    __slots__ = ("cycles", "executes", "frames", "gates")

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.cycles = 0
        self.executes = 0
        self.gates = False

    def add(self, frames: bytes, cycles: int, executes: int, gate: bool) -> None:  # noqa: FBT001 - a field, as the others
        """Put more behind what there is. Raises RuntimeError where open messages would not stand alone."""
        if self.executes or (executes and self.frames):
            msg = "an open prefix stands alone"
            raise RuntimeError(msg)
        self.frames.append(frames)
        self.executes = executes
        if not executes:
            self.cycles += cycles
            self.gates = self.gates or gate


class SentPrefix:
    """A prefix that is on its way, until all of it is answered.

    ``held``: what its gate holds back of the exchange, None without a gate. ``sent``: what was sent of the exchange
    behind it. ``failed_with``: its first ErrorResponse. ``executes``: it is open, and waits for so many more of these.
    """

    __slots__ = ("cycles", "executes", "failed_with", "held", "sent")

    def __init__(self, prefix: Prefix, sent: list[bytes], held: list[bytes] | None) -> None:
        self.cycles = prefix.cycles
        self.executes = prefix.executes
        self.sent = sent
        self.held = held
        self.failed_with: bytes | None = None

    def known(self, data: bytes) -> int:
        """Return how many bytes are all that is to come for the prefix, if another was answered by the same; else 0.

        What was learned has nothing in it that ``swallow`` would note, and one end: its last ReadyForQuery, or the last
        CommandComplete of an open prefix.
        """
        if self.failed_with is None:
            for answer in _learned.get(self._waits_for, ()):
                if data.startswith(answer):
                    return len(answer)
        return 0

    @property
    def _waits_for(self) -> int:
        return self.cycles + self.executes * _OPEN

    def swallow(self, chunk: Chunk, index: list[Frame], notify: Callable[[Chunk, int, int], None]) -> int:
        """Swallow answers; returns how many frames of the index they were when all have come, 0 while some have not.

        Raises ProtocolViolation for what no prefix may be answered with.
        """
        waits_for, succeeds = self._waits_for, self.failed_with is None
        for position, (kind, start, stop) in enumerate(index, 1):
            if kind == _READY or (kind == _COMPLETE and self.executes):
                if self.executes:
                    self.executes -= 1
                else:
                    self.cycles -= 1
                if not self.cycles and not self.executes:
                    if succeeds:
                        _learn(waits_for, chunk, index[:position])
                    return position
            elif kind == _ERROR and self.failed_with is None:
                self.failed_with = bytes(chunk[start:stop])
                if self.executes:
                    return position  # the server passes over the rest
            elif kind == _NOTIFICATION:
                notify(chunk, start, stop)
            elif kind == _COPY_IN:
                raise malformed("a prefix that copies in")
        return 0


def _learn(waits_for: int, chunk: Chunk, index: list[Frame]) -> None:
    """Remember what came for a prefix that has not failed."""
    start, stop = index[0][1], index[-1][2]
    if stop - start <= _LONGEST_LEARNED and all(frame[0] in _LEARNED for frame in index):
        answer = bytes(chunk[start:stop])
        others = [one for one in _learned.get(waits_for, ()) if one != answer]
        _learned[waits_for] = (answer, *others[: _MOST_LEARNED - 1])
