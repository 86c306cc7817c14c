"""SHOW HOSTS: the servers of each shard, as they answered when the proxy last looked at all of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.console.table import Table

if TYPE_CHECKING:
    from proxy.console.world import World


async def hosts(world: World) -> Table:
    """One row for each server of the shards that have several: what it said, and how far a standby is."""
    table = Table.of("database shard host port# role timeline# lag_ms# served#")
    now = asyncio.get_running_loop().time()
    for name, database in world.databases().items():
        for shard, endpoint in enumerate(database.control.endpoints):
            finder = database.control.finder(shard)
            if finder is None:
                continue
            for address in endpoint.addresses:
                said = finder.said.get(address)
                moment = finder.progress.complete_at.get(address)
                kind = "silent" if said is None else "standby" if said.in_recovery else "primary"
                table.add(
                    database=name,
                    shard=endpoint.name,
                    host=address.host,
                    port=address.port,
                    role="read only" if said is not None and said.read_only else kind,
                    timeline=None if said is None else said.timeline,
                    lag_ms=None if moment is None else int((now - moment) * 1000),
                    served=address == endpoint.place.address,
                )
    return table
