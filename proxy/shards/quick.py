"""The receiver of a quick exchange: as a class, because compiled code calls the methods of one without looking them up.

The Protocols of all other receivers are receiver.py's, and what a quick exchange is, link.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.native import mypyc_attr

if TYPE_CHECKING:
    from proxy.errors import ProxyError
    from proxy.shards.errors import ShardError
    from proxy.shards.link import ShardLink
    from proxy.shards.receiver import Chunk, Frame


@mypyc_attr(allow_interpreted_subclasses=True)  # stand-ins of tests
class QuickReceiver:
    """A receiver that has sent its statement on a link by itself (proxy.session.lane_quick).

    What it has in common with all that take answers whole is in receiver.WholeReceiver.
    """

    __slots__ = ()

    def answered(self, link: ShardLink, data: bytes, /) -> bool:
        """Take what came first, if it is all of the answer that is expected, and give the link back; False: nothing."""
        raise NotImplementedError

    def slowed(self) -> None:
        """From here on the exchange is as any other."""
        raise NotImplementedError

    def whole(self, data: bytes, /) -> bool:
        """Take all of an answer."""
        raise NotImplementedError

    def frames(self, chunk: Chunk, index: list[Frame], /) -> bool:
        """Take a part of one."""
        raise NotImplementedError

    def lost(self, error: ShardError | ProxyError, /) -> None:
        """Hear that nothing will come."""
        raise NotImplementedError
