"""What becomes of an exchange whose prefix has failed: it is swallowed to its end, and its receiver told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.wire import backend
from proxy.wire.frames import frame, walk

if TYPE_CHECKING:
    from proxy.shards.errors import ShardError
    from proxy.shards.receiver import Chunk, Frame, Receiver
    from proxy.shards.relay import Relay

_READY: Final = backend.READY_FOR_QUERY
_COPY_IN: Final = backend.COPY_IN_RESPONSE
#: Frontend messages that ReadyForQuery answers: Query, Sync, FunctionCall.
_CYCLE_STARTS: Final = frozenset(b"QSF")
_SYNC: Final = frame(b"S", b"")


class Doomed:
    """Swallows an exchange whose prefix has failed, up to its last ReadyForQuery, and then tells its receiver."""

    __slots__ = ("_cycles", "_error", "_receiver", "_relay", "_syncs")

    def __init__(
        self, relay: Relay, receiver: Receiver, error: ShardError, sent: list[bytes], *, skipped: bool = False
    ) -> None:
        self._relay = relay
        self._receiver = receiver
        self._error = error
        kinds = [kind for part in sent for kind, _, _ in walk(part, 0, len(part))[0] if kind in _CYCLE_STARTS]
        if skipped:  # an open prefix has failed: what stands before a Sync is not answered
            kinds = kinds[kinds.index(_SYNC[0]) :] if _SYNC[0] in kinds else []
        self._cycles = len(kinds)
        self._syncs = bool(kinds) and kinds[-1] == _SYNC[0]
        if not self._cycles:
            # A pipeline that ends in Flush, or a Query: the server skips it to a Sync that is still to come.
            self._cycles = 1
            relay._transport.write(_SYNC)  # noqa: SLF001

    def frames(self, _chunk: Chunk, index: list[Frame], /) -> bool:
        """Swallow what comes, and end a copy that the exchange has begun."""
        for kind, _, _ in index:
            if kind == _READY:
                self._cycles -= 1
            elif kind == _COPY_IN:
                # The copy began in spite of the failed prefix. In the extended protocol it has swallowed the Sync.
                fail = frame(b"f", b"the statements before this one failed\0")
                self._relay._transport.write(fail + _SYNC if self._syncs else fail)  # noqa: SLF001
        if self._cycles > 0:
            return False
        self._relay._doomed = False  # noqa: SLF001
        self._receiver.lost(self._error)
        return True

    def lost(self, error: ShardError, /) -> None:
        """The link ended before the exchange did."""
        self._relay._doomed = False  # noqa: SLF001
        self._receiver.lost(error)
