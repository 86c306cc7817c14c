"""What all proxies have seen of shards' timelines, for those that have not seen it themselves.

An old primary that runs again, alone, cannot be told from the right one by looking at it. Who has seen its successor
can tell; so every proxy notes on the other shards, in ``pgchorus.timeline``, the highest timeline that it sees of each
shard of several servers, and asks them: all at the start, before any shard is served, and one every
``failover.check_s`` afterwards. So neither a proxy that is started while the new primary is away, nor another worker,
nor a proxy that never reached it, takes the old one for writable.

The other workers of the same proxy do not wait for that: what one sees, or finds noted, all of them are told, and look
at the shard's servers at once. One that is started knows from its beginning what the others have seen.

A shard's own servers are not asked for this: the old primary is one of them. A database of one shard has nobody else to
ask, and knows what the workers of its proxy have seen.

Rows go by the system identifier: a shard that was made anew has a new one. One that was restored to an earlier moment
by hand, on a timeline that was there before, is refused until a person deletes its rows (docs/operations.md).

Decided here: what is noted, and whom to ask. Left to others: what follows from it (hosts.py, finder.py).
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from proxy.errors import ProxyError
from proxy.shards.errors import ShardError
from proxy.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proxy.shards.control import ControlConnection, ControlLinks
    from proxy.shards.endpoint import ShardEndpoint
    from proxy.shards.health import ShardHealth

_log = logging.getLogger(__name__)

_THERE: Final = "SELECT pg_catalog.to_regclass('pgchorus.timeline') IS NOT NULL"
_NOTED: Final = "SELECT shard, system, timeline FROM pgchorus.timeline"
# Not waiting for a synchronous standby: one that is away must not keep a look at the servers from ending, and a note
# that is lost with its server is made again.
_NOTE: Final = """
    BEGIN;
    SET LOCAL synchronous_commit = local;
    INSERT INTO pgchorus.timeline AS t (shard, system, timeline) VALUES ('{shard}', {system}, {timeline})
        ON CONFLICT (shard, system) DO UPDATE SET timeline = excluded.timeline, at = excluded.at
        WHERE t.timeline < excluded.timeline;
    COMMIT"""


class Others(Protocol):
    """The other workers of this proxy."""

    def timelines(self, database: str) -> Iterable[tuple[str, int, int]]:
        """Return what they have seen before this one began: shard, system identifier, timeline."""

    def tell_timeline(self, database: str, shard: str, system: int, timeline: int) -> None:
        """Tell them what is new, without waiting for it."""


class Timelines:
    """The notes of one database."""

    def __init__(
        self, control: ControlLinks, health: ShardHealth, database: str = "", others: Others | None = None
    ) -> None:
        self._control = control
        self._health = health
        self._database = database
        self._others = others
        self._names = {endpoint.name: endpoint for endpoint in control.endpoints if endpoint.has_several}
        #: By (where it is noted, whose it is): system identifier and timeline.
        self._noted: dict[tuple[int, int], tuple[int, int]] = {}
        for endpoint in self._names.values():
            finder = control.finder(endpoint.index)
            if finder is not None:
                finder.on_timeline = partial(self._tell, endpoint)
        for shard, system, timeline in () if others is None else others.timelines(database):
            self._take(shard, system, timeline)

    def hear(self, shard: str, system: int, timeline: int) -> None:
        """Another worker has seen it: look at once, and leave an old primary."""
        endpoint = self._take(shard, system, timeline)
        if endpoint is not None and endpoint.place.timeline < timeline:
            spawn(self._look(endpoint), name=f"look at the hosts of {shard}: another worker has seen more")

    async def _look(self, endpoint: ShardEndpoint) -> None:
        finder = self._control.finder(endpoint.index)
        assert finder is not None  # noqa: S101 - it has several hosts
        try:
            await finder.find()
        except ShardError as error:
            self._health.failed(endpoint.index, error)

    def _take(self, shard: str, system: int, timeline: int) -> ShardEndpoint | None:
        """Remember what is noted somewhere; return whose it is, if that is new."""
        endpoint = self._names.get(shard)
        if endpoint is None or endpoint.place.noted.get(system, 0) >= timeline:
            return None
        endpoint.place.noted[system] = timeline
        return endpoint

    def _tell(self, endpoint: ShardEndpoint, system: int, timeline: int) -> None:
        if self._others is not None:
            self._others.tell_timeline(self._database, endpoint.name, system, timeline)

    def add(self, endpoint: ShardEndpoint) -> None:
        """Note another shard's, if it has several servers."""
        if endpoint.has_several:
            self._names[endpoint.name] = endpoint

    async def recall(self) -> None:
        """Ask all shards, at the start. Those that do not answer know nothing."""
        if not self._names:
            return
        await asyncio.gather(*(self._recall_from(shard) for shard in range(len(self._control))))
        for endpoint in self._names.values():
            place, finder = endpoint.place, self._control.finder(endpoint.index)
            # To ask a shard of several servers, one of them was chosen before it was known what the others have noted.
            if finder is not None and 0 < place.timeline < place.noted.get(place.system, 0):
                try:
                    await finder.find()
                except ShardError as error:
                    _log.warning("at the start: %s", error)

    async def exchange_forever(self, every_s: float) -> None:
        """Tell the other shards what is new, and ask one of them; until cancelled.

        A task of its own: a shard that is silent must not keep anybody from looking at the servers of another one.
        """
        while True:
            await asyncio.sleep(every_s)
            for endpoint in tuple(self._names.values()):
                try:
                    await self._exchange(endpoint.index)
                except Exception:  # noqa: BLE001 - a bug must not end all exchange: old primaries would be taken again
                    _log.exception("exchanging what is noted of shard %s failed", endpoint.name)

    async def _exchange(self, of: int) -> None:
        others = [shard for shard in range(len(self._control)) if shard != of and self._health.shard_is_up(shard)]
        for shard in others:
            await self._note(of, shard)
        for shard in others[:1]:
            await self._recall_from(shard)

    async def _note(self, of: int, on: int) -> None:
        endpoint = self._control.endpoints[of]
        place = endpoint.place
        new = (place.system, place.timeline)
        if not all(new) or self._noted.get((on, of)) == new:
            return
        shard = endpoint.name.replace("'", "''")
        try:
            async with self._control.connection(on) as connection:
                await connection.execute(_NOTE.format(shard=shard, system=place.system, timeline=place.timeline))
        except (ShardError, ProxyError) as error:
            _log.warning("the timeline of shard %s was not noted on shard %s: %s", endpoint.name, on, error)
            return
        self._noted[on, of] = new

    async def _recall_from(self, shard: int) -> None:
        try:
            async with self._control.connection(shard) as connection:
                rows = await _noted(connection)
        except (ShardError, ProxyError) as error:
            _log.info("what is noted of timelines was not read from shard %s: %s", shard, error)
            return
        for name, system, timeline in rows:
            endpoint = self._names.get(name)
            if endpoint is not None and endpoint.index != shard and self._take(name, system, timeline):
                self._tell(endpoint, system, timeline)


async def _noted(connection: ControlConnection) -> Sequence[tuple[str, int, int]]:
    if not await connection.fetchval(_THERE):
        return []  # made by the installation that follows
    return [(row[0], row[1], row[2]) for row in await connection.fetch(_NOTED)]
