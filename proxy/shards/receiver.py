"""Who gets what a shard link hears: the Protocols between a link's wire and its users.

Decides nothing; the rules of the wire are relay.py's, ready-made receivers are in receivers.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from proxy.shards.errors import ShardError

Chunk = bytes | memoryview
Frame = tuple[int, int, int]


class Receiver(Protocol):
    """Who gets the answer of an exchange. Both methods are called by the event loop and must not block."""

    def frames(self, chunk: Chunk, index: list[Frame], /) -> bool:
        """Take the complete frames of a chunk: (type byte, start, end) each; header at start, body at start + 5.

        True when the exchange is over: the last frame is then a ReadyForQuery (``index[-1][0] == 0x5A``), and the link
        may be used for the next exchange, or released, before this returns. ``chunk`` is not changed later and may be
        kept or written on. ``link.status`` is up to date. ParameterStatus, NoticeResponse and NotificationResponse that
        arrive meanwhile come along. An exception closes the link.
        """
        ...

    def lost(self, error: ShardError, /) -> None:
        """Hear, once, that nothing (more) will come: the link is gone (``error.lost``) or the exchange's prefix failed.

        After a failed prefix the link is at ReadyForQuery again and may be used, or released, before this returns.
        """
        ...


class RunReceiver(Receiver, Protocol):
    """A receiver that does not look at rows one by one.

    An entry of its index may be a run of DataRow or of CopyData messages: from the start of the first to the end of the
    last. An attribute that others lack, so that they need not say so.
    """

    takes_runs: bool


class WholeReceiver(Receiver, Protocol):
    """A receiver that would rather have a plain answer in one piece."""

    def whole(self, data: bytes, /) -> bool:
        """Take all of an answer that came in one piece and has nothing in it but rows and their like.

        ``data`` ends with a ReadyForQuery, whose status is ``link.status`` already; as after a last call of ``frames``
        the link may be used or released. False: nothing was done, ``frames`` is to be called.
        """
        ...
