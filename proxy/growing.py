"""A shard more for a database that is served: everything that knows the shards by number learns of another one.

The new one comes last, so no other number changes. No transaction is open meanwhile (proxy.session.holding), and what
the shards say of themselves says so already (proxy.shards.replacing). Decides who has to know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.shards.endpoint import ShardEndpoint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from proxy.database import LogicalDatabase
    from proxy.shards.control import ControlConnection, ControlLinks


class Further:
    """Control links to the shards of a database, and to those that join: these are not known to it yet."""

    def __init__(self, known: ControlLinks, added: ControlLinks) -> None:
        self._known = known
        self._added = added

    def connection(self, shard: int) -> AbstractAsyncContextManager[ControlConnection]:
        """Lend a connection."""
        before = len(self._known)
        return self._known.connection(shard) if shard < before else self._added.connection(shard - before)


def added_endpoints(known: ControlLinks, names: Sequence[str], dsns: Sequence[str]) -> list[ShardEndpoint]:
    """Return those shards that are not known yet."""
    return [ShardEndpoint(names[number], number, dsns[number]) for number in range(len(known), len(names))]


def grow(database: LogicalDatabase, endpoint: ShardEndpoint) -> None:
    """Give a database another shard."""
    limits = database.limits
    name = endpoint.name
    database.health.add(name, limits.failover_wait_s if endpoint.has_several else limits.failover_one_host_wait_s)
    database.control.add(endpoint)
    database.pools.add(endpoint)
    database.scratch_pools.add(endpoint)
    for knows in (database.recovery, database.coordinator, database.fence, database.deadlocks, database.settler):
        knows.add(name)
    for told in database.on_grown:
        told(endpoint)
    for session in database.sessions:
        session.transaction.shard_count += 1
