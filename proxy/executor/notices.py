"""Notices of a shard on their way to the client, who may not read them.

Decides when a link is paused for that: as with rows the server waits, not the proxy's memory. Who pauses a link for a
reason of its own (rows that wait here) asks ``held`` before it reads again, so that neither undoes what the other did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.executor.request import Frontend
    from proxy.shards.link import ShardLink


class Notices:
    """The notices of one link's exchange; ``held`` while the link is paused because the client does not read.

    ``freed`` is called when it reads again, to resume the link. ``tell`` takes the notices (default: the client).
    """

    __slots__ = ("_client", "_freed", "_link", "_tell", "held")

    def __init__(
        self,
        link: ShardLink,
        client: Frontend,
        freed: Callable[[], None],
        tell: Callable[[bytes], None] | None = None,
    ) -> None:
        self.held = False
        self._link = link
        self._client = client
        self._freed = freed
        self._tell = tell or client.write

    def hear(self, raw: bytes) -> None:
        """Take a whole NoticeResponse."""
        self._tell(raw)
        if not self.held and not self._client.writable:
            self.held = True
            self._link.pause_reading()
            self._client.when_writable(self._free)

    def over(self) -> None:
        """Hear that the exchange has ended, at which a link reads again by itself."""
        self.held = False

    def _free(self) -> None:
        if self.held:
            self.held = False
            self._freed()
