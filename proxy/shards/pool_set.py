"""All pools of a process, by shard, database and role.

Decided here: which pools there are, and what is done to those of one shard or role together. Who gets which link is
each pool's own (proxy.shards.pool).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from proxy.shards.pool import LinkPool
from proxy.shards.types import ShardTypes
from proxy.timings import Timings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from proxy.shards.endpoint import ShardEndpoint
    from proxy.shards.errors import ShardError
    from proxy.shards.health import ShardHealth
    from proxy.shards.link import ShardLink
    from proxy.shards.pool import PoolLimits

# Beyond this, pools without links are dropped: under trust authentication clients may name any role.
_MANY_POOLS: Final = 256


class PoolSet:
    """All pools of a process, made when they are first asked for."""

    def __init__(
        self, endpoints: Sequence[ShardEndpoint], limits: PoolLimits, health: ShardHealth | None = None
    ) -> None:
        self.endpoints = tuple(endpoints)
        self._limits = limits
        self._health = health
        self._pools: dict[tuple[int, str | None, str], LinkPool] = {}
        self._paused: set[int] = set()
        #: How each shard calls user-defined types; shared by all links to it.
        self.types = [ShardTypes() for _ in endpoints]
        #: How long each shard takes to answer, likewise.
        self.loads = [Timings() for _ in endpoints]
        #: For the pools that are made from now on.
        self.on_lost: Callable[[ShardLink, ShardError], None] | None = None

    def add(self, endpoint: ShardEndpoint) -> None:
        """Have pools of another shard, the last one."""
        self.endpoints += (endpoint,)
        self.types.append(ShardTypes())
        self.loads.append(Timings())

    def pool(self, shard: int, database: str | None, role: str, password: str | None = None) -> LinkPool:
        """Return the pool of a shard for a database (None: the DSN's own) and a role.

        The password is that of the first call for a pool; ``forget`` makes room for a new one.
        """
        key = (shard, database, role)
        pool = self._pools.get(key)
        if pool is None:
            if len(self._pools) >= _MANY_POOLS:
                self._pools = {key: pool for key, pool in self._pools.items() if not pool.is_unused}
            pool = LinkPool(self.endpoints[shard], database, role, password, self._limits, self._health)
            pool.types = self.types[shard]
            pool.load = self.loads[shard]
            pool.on_lost = self.on_lost
            if shard in self._paused:
                pool.pause()
            self._pools[key] = pool
        return pool

    def use_limits(self, limits: PoolLimits) -> None:
        """Go by other limits from now on."""
        self._limits = limits
        for pool in self:
            pool.use_limits(limits)

    async def forget(self, role: str) -> None:
        """Close a role's pools, because its password has changed or it is gone; they are made anew when asked for."""
        keys = [key for key in self._pools if key[2] == role]
        await asyncio.gather(*(self._pools.pop(key).close() for key in keys))

    def pause(self, shard: int) -> None:
        """Pause the pools of a shard, those that are made later as well."""
        self._paused.add(shard)
        for pool in self:
            if pool.endpoint.index == shard:
                pool.pause()

    def resume(self, shard: int) -> None:
        """End a pause."""
        self._paused.discard(shard)
        for pool in self:
            if pool.endpoint.index == shard:
                pool.resume()

    def is_paused(self, shard: int) -> bool:
        """Whether a shard is paused."""
        return shard in self._paused

    def in_use(self, shard: int) -> int:
        """Return how many links to a shard are lent."""
        return sum(pool.stats.in_use for pool in self if pool.endpoint.index == shard)

    def use_passwords(self, passwords: Mapping[str, str]) -> None:
        """Open links with other passwords, by role, from now on; those that are open stay."""
        for (_, _, role), pool in self._pools.items():
            pool.password = passwords.get(role)

    def drop(self, shard: int) -> None:
        """Close all links to a shard now."""
        for pool in self:
            if pool.endpoint.index == shard:
                pool.drop()

    @property
    def roles(self) -> set[str]:
        """The roles that have links."""
        return {role for (_, _, role), pool in self._pools.items() if pool.size}

    def renew(self, roles: Collection[str] | None = None) -> None:
        """Renew the pools of these roles, or all."""
        for (_, _, role), pool in tuple(self._pools.items()):
            if roles is None or role in roles:
                pool.renew()

    def __iter__(self) -> Iterator[LinkPool]:
        return iter(tuple(self._pools.values()))

    async def close(self) -> None:
        """Close all pools."""
        await asyncio.gather(*(pool.close() for pool in self))
