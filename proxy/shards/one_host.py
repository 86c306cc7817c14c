"""Asking one of a shard's servers something, whatever it is: the doctor's way to standbys and old primaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.shards import lending
from proxy.shards.errors import FOREIGN_ERRORS, translate

if TYPE_CHECKING:
    from proxy.shards.endpoint import ShardEndpoint
    from proxy.shards.hosts import HostAddress


async def ask_host(
    endpoint: ShardEndpoint, address: HostAddress, query: str, *arguments: object, timeout_s: float
) -> str:
    """Return the one text that a query gives, on a connection made for it. Raises ShardError."""
    try:
        connection = await lending.connect_to(endpoint, address, connect_timeout_s=timeout_s)
        try:
            return str(await connection.fetchval(query, *arguments, timeout=timeout_s))
        finally:
            connection.terminate()
    except FOREIGN_ERRORS as error:
        raise translate(error, endpoint.index, endpoint.name, connecting=True) from error
