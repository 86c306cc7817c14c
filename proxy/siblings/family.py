"""What a worker asks of the others, by way of the supervisor: cancels, the console's questions, and the end of all."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import structlog

from proxy.errors import ProxyError
from proxy.siblings.channel import ChannelGoneError
from proxy.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proxy.siblings.channel import Channel
    from proxy.siblings.place import Headcount, Place

#: A timeline of a shard's servers: database, shard, system identifier, timeline.
Seen = tuple[str, str, int, int]

log = structlog.get_logger("pgchorus.family")

_CANCEL_S: Final = 5.0  # for another worker to hear of a cancel; the client that asks waits for that


class Family:
    """The other workers, as one of them sees them."""

    def __init__(self, place: Place, headcount: Headcount, channel: Channel, timelines: Sequence[Seen] = ()) -> None:
        """``timelines``: what the others have seen before this worker was made."""
        self.place = place
        self._headcount = headcount
        self._channel = channel
        self._timelines = timelines

    def count_clients(self, here: int) -> int:
        """Tell the others how many clients are here, and return how many there are everywhere."""
        self._headcount.put(self.place.number, here)
        return self._headcount.total()

    async def cancel(self, worker: int, pid: int, secret: bytes) -> None:
        """Let another worker cancel what a key means, and return when it has been told.

        A client that waits for its cancel to be over must not find its next statement cancelled.
        """
        try:
            async with asyncio.timeout(_CANCEL_S):
                await self._channel.ask("cancel", {"worker": worker, "pid": pid, "secret": secret.hex()})
        except (ChannelGoneError, ProxyError, TimeoutError) as error:
            log.info("a cancel was not delivered", to=worker, error=str(error))

    async def show(self, view: str) -> list[dict[str, Any]]:
        """Return the tables of all workers that serve: columns, numbers, rows."""
        shown: list[dict[str, Any]] = await self._ask("show", view)
        return shown

    async def act(self, name: str, words: Sequence[str]) -> str:
        """Let all workers do what an administrator wants, and return its tag when they have."""
        return str(await self._ask("act", {"name": name, "words": list(words)}))

    async def workers(self) -> list[dict[str, Any]]:
        """Return what the supervisor knows of each."""
        known: list[dict[str, Any]] = await self._ask("workers")
        return known

    async def reload(self, *, again: bool) -> None:
        """Have all of them read the configuration again; raises ProxyError when all stays as it was.

        ``again``: the log has been told already why it could not be done.
        """
        await self._ask("reload", again)

    def timelines(self, database: str) -> Iterable[tuple[str, int, int]]:
        """Return what others have seen of a database's shards (proxy.shards.timelines.Others)."""
        return [(shard, system, timeline) for of, shard, system, timeline in self._timelines if of == database]

    def tell_timeline(self, database: str, shard: str, system: int, timeline: int) -> None:
        """Tell the others, without waiting for it."""
        spawn(self._tell_timeline((database, shard, system, timeline)), name=f"telling of timeline {timeline}")

    async def _tell_timeline(self, seen: Seen) -> None:
        with suppress(ProxyError):  # nobody is left to be told
            await self._ask("timeline", seen)

    def tell(self, what: str) -> None:
        """Have the supervisor do something to all, without waiting for it."""
        spawn(self._ask(what), name=what)

    async def _ask(self, what: str, content: object = None) -> Any:
        try:
            return await self._channel.ask(what, content)
        except ChannelGoneError as error:
            raise ProxyError("57P01", "the proxy is shutting down") from error
