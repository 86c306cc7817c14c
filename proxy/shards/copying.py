"""A table's rows from one shard to another, by COPY between two control links, each in a transaction of its own.

Decides nothing about what may be copied. Memory is bounded: the reading link waits for the writing one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from proxy.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from proxy.shards.control import ControlConnection

_CHUNKS: Final = 16  # on their way at a time


async def copy_table(
    source: ControlConnection, target: ControlConnection, table: tuple[str, str], columns: Sequence[str]
) -> None:
    """Copy all rows of a table to the table of the same schema and name elsewhere. Raises ShardError."""
    chunks: asyncio.Queue[bytes | None] = asyncio.Queue(_CHUNKS)

    async def read() -> None:
        await source.copy_out(table, columns, chunks.put)
        await chunks.put(None)

    async def rows() -> AsyncIterator[bytes]:
        while (chunk := await chunks.get()) is not None:
            yield chunk

    tasks = [spawn(read(), "read a copy"), spawn(target.copy_in(table, columns, rows()), "write a copy")]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # the first error is on its way
