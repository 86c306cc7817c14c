"""Partitions and heirs, which are placed as what they belong to, whether the configuration names them or not.

Decides whether a name in the configuration, or its absence, says nothing new of a table, so that no rows would move.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from router.cluster import TableName
from router.own_schema import quote_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.shards.control import ControlConnection

_ROOTS: Final = """
WITH RECURSIVE above(oid) AS (
    SELECT pg_catalog.to_regclass($1)::pg_catalog.oid
    UNION
    SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN above a ON i.inhrelid = a.oid AND NOT i.inhdetachpending
)
SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(n.nspname, c.relname)), '[]')::text
FROM above a JOIN pg_catalog.pg_class c ON c.oid = a.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE a.oid <> pg_catalog.to_regclass($1)
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = a.oid)"""


async def placed_by_kin(connection: ControlConnection, table: TableName, *, is_so: Callable[[TableName], bool]) -> bool:
    """Whether a table belongs to others on a shard, and of all that stand at the top of them something ``is_so``.

    Raises ShardError.
    """
    found = json.loads(await connection.fetchval(_ROOTS, quote_table(table)))
    return bool(found) and all(is_so(TableName(*names)) for names in found)
