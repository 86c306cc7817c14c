"""Links to replicas: the standbys among a shard's servers, for those who asked to read there.

A replica is lent only if what it has replayed (hosts.Progress, from looks at all servers) holds

- everything that was committed ``max_lag_s`` ago,
- the definitions by which the caller plans: what is not there yet, or has moved since, would be read wrongly,
- what the caller has written itself, if he asked for that.

A standby that was restarted may be further back than it was for a while, and a link lives no longer than its server.
So a link that is opened asks for its position once, and what was known of the replica holds for it from then on.

Decided here: which replica. Left to others: who may read there (proxy.replica_reads).
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxy.shards.errors import ShardError, unreachable
from proxy.shards.hosts import Place
from proxy.shards.link import open_link
from proxy.shards.pool import LinkPool
from proxy.twophase.record import CONFIRM_DURABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from proxy.shards.control import ControlLinks
    from proxy.shards.finder import Finder
    from proxy.shards.hosts import HostAddress, Progress
    from proxy.shards.link import ShardLink
    from proxy.shards.pool import PoolLimits
    from proxy.shards.types import ShardTypes

_PAUSE_S: Final = 0.02
_POSITION: Final = "SELECT (pg_catalog.pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::int8"
# What is committed need not be durable (synchronous_commit off), so it is the end of all that is written.
_WRITTEN: Final = """SELECT (pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::int8,
    pg_catalog.pg_current_wal_flush_lsn() < pg_catalog.pg_current_wal_insert_lsn()"""


class NoReplicaError(Exception):
    """No replica of a shard can be read from; the text says why."""


class ReplicaPool(LinkPool):
    """The links of one role to one standby."""

    progress: Progress
    address: HostAddress

    async def _log_in(self) -> ShardLink:
        endpoint = self.endpoint
        link = await open_link(
            endpoint,
            role=self.role,
            password=self.password,
            database=self.database,
            connect_timeout_s=self.limits.connect_timeout_s,
            replica=True,
        )
        try:
            (row,) = (await link.run(_POSITION)).rows
        except BaseException:
            link.abort()
            raise
        known = self.progress.replayed.get(self.address)
        if row[0] is None or known is None or int(row[0]) < known:
            link.abort()
            raise unreachable(endpoint.index, endpoint.name)
        return link


class Replicas:
    """The replicas of all shards of one database."""

    def __init__(
        self,
        control: ControlLinks,
        limits: PoolLimits,
        types: Sequence[ShardTypes],
        *,
        max_lag_s: float,
        wait_s: float,
    ) -> None:
        self._control = control
        self._limits = limits
        self._types = types
        self._max_lag_s = max_lag_s
        self._wait_s = wait_s
        self._pools: dict[tuple[int, HostAddress, str], ReplicaPool] = {}
        self._turn = itertools.count()
        #: By shard: since which position the definitions of a catalog's version are there, on which primary.
        self._definitions: dict[int, tuple[int, int, int]] = {}
        self._refused: Counter[int] = Counter()  # by shard: nobody was near enough
        self._troubles: dict[HostAddress, str] = {}  # why no link to a replica could be had when it was last wanted

    async def written(self, shard: int) -> tuple[int, int]:
        """Return how often the primary has changed, and the position of all that it has committed so far.

        Raises ShardError, and ProxyError when there is no free control link.
        """
        async with self._control.connection(shard) as connection:
            moves = self._control.endpoints[shard].place.moves
            ((position, pending),) = await connection.fetch(_WRITTEN)
            if pending:
                # Nobody may be about to flush it, and no standby gets it before.
                await connection.fetchval(CONFIRM_DURABLE)
        return moves, position

    def moves(self, shard: int) -> int:
        """Return how often the primary has changed: positions of another one mean nothing."""
        return self._control.endpoints[shard].place.moves

    async def acquire(  # noqa: PLR0913 - as many as a login has parts, and what is wanted
        self,
        shard: int,
        role: str,
        password: str | None,
        *,
        catalog_version: int,
        after: int,
        patient: bool,
        further: bool,
    ) -> ShardLink:
        """Lend a link to a replica that has what was written up to ``after``; ``patient``: wait for one.

        Raises NoReplicaError; ShardError when the primary cannot be asked for its position.
        """
        finder = self._control.finder(shard)
        if finder is None:
            raise NoReplicaError("it has one host only")
        loop = asyncio.get_running_loop()
        needed = max(after, await self._defined_at(shard, catalog_version))
        until = loop.time() + self._wait_s
        looked = False
        while True:
            for address in self._fit(finder, needed):
                try:
                    link = await self._lend(shard, address, role, password, further=further)
                except ShardError as error:
                    self._troubles[address] = error.message  # the next one may do; if none does, all this is told
                else:
                    self._troubles.pop(address, None)
                    return link
            if looked and (not patient or loop.time() >= until):
                self._refused[shard] += 1
                raise NoReplicaError(self._why(finder, needed))
            if looked:
                # No server tells when it has replayed up to a position: it has to be asked again.
                await asyncio.sleep(_PAUSE_S)
            looked = True
            with suppress(ShardError):  # there is no primary now: replicas are read until they are too old
                await finder.find()

    async def _lend(
        self, shard: int, address: HostAddress, role: str, password: str | None, *, further: bool
    ) -> ShardLink:
        key = (shard, address, role)
        pool = self._pools.get(key)
        if pool is None:
            there = replace(self._control.endpoints[shard], place=Place(address=address, last=address))
            pool = ReplicaPool(there, None, role, password, self._limits)
            finder = self._control.finder(shard)
            assert finder is not None  # noqa: S101 - the address is from there
            pool.progress, pool.address = finder.progress, address
            pool.types = self._types[shard]
            self._pools[key] = pool
        return pool.take() or await pool.acquire(further=further)

    async def _defined_at(self, shard: int, catalog_version: int) -> int:
        """Return the position from which on the definitions of this version are there."""
        known = self._definitions.get(shard)
        if known is None or known[:2] != (catalog_version, self.moves(shard)):
            moves, position = await self.written(shard)
            known = self._definitions[shard] = (catalog_version, moves, position)
        return known[2]

    def _fit(self, finder: Finder, needed: int) -> list[HostAddress]:
        """Return the replicas that may be read, each in its turn first."""
        progress = finder.progress
        oldest = asyncio.get_running_loop().time() - self._max_lag_s
        fit = [
            address
            for address, moment in progress.complete_at.items()
            if moment >= oldest and progress.replayed.get(address, 0) >= needed
        ]
        turn = next(self._turn) % len(fit) if fit else 0
        return fit[turn:] + fit[:turn]

    def _why(self, finder: Finder, needed: int) -> str:
        progress = finder.progress
        if not progress.complete_at:
            return "no standby that follows the primary answers"
        now = asyncio.get_running_loop().time()
        return "; ".join(
            f"{address} is {now - moment:.1f} s behind"
            + (", and lacks what is needed" if progress.replayed.get(address, 0) < needed else "")
            + (f", and gave no link: {self._troubles[address]}" if address in self._troubles else "")
            for address, moment in progress.complete_at.items()
        )

    # --- all pools ----------------------------------------------------------------------------------------------

    def asked(self, shard: int) -> tuple[int, int]:
        """Return how often a link to a replica of a shard was lent, and how often there was none."""
        return sum(pool.stats.lent for pool in self if pool.endpoint.index == shard), self._refused[shard]

    def __iter__(self) -> Iterator[ReplicaPool]:
        return iter(tuple(self._pools.values()))

    def drop(self, shard: int) -> None:
        """Another server is the primary: no link leads to what is known to be a replica."""
        for pool in self:
            if pool.endpoint.index == shard:
                pool.drop()

    def renew(self, roles: Collection[str] | None = None) -> None:
        """Lend no link of these roles, or of any, again that was opened before now."""
        for pool in self:
            if roles is None or pool.role in roles:
                pool.renew()

    def use_limits(self, limits: PoolLimits) -> None:
        """Go by other limits from now on."""
        self._limits = limits
        for pool in self:
            pool.use_limits(limits)

    def use_passwords(self, password_of: Callable[[str], str | None]) -> None:
        """Open links with other passwords from now on."""
        for pool in self:
            pool.password = password_of(pool.role)

    async def close(self) -> None:
        """Close all pools."""
        await asyncio.gather(*(pool.close() for pool in self))
