"""By which version of the catalog each proxy plans: DDL is over when all of them know what it has made.

Theory of operation. Every proxy writes to ``pgchorus.proxy_version`` on the home shard by which version it plans, once
a second and whenever that has changed; it looks for new versions more often. Who has committed DDL answers its client
when every proxy that has written within ``ALIVE_S`` has written that version, or a later one. So who hears of the end
of DDL can rely on it everywhere.

- The row is there before the catalog is read for the first time, so that DDL waits for a proxy that starts.
- A proxy that has not written for so long is not waited for: it is dead, cut off from home, or stopped.

What this leaves open: a statement that another proxy has under way when DDL commits may have been planned by the old
catalog, and so may the first ones, for as long as it takes to look, of a proxy that wakes after it was stopped for
longer than ``ALIVE_S``.

Decides when others know. Left to others: reading the catalog (proxy.database), and looking again and again (runtime).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, Final

from proxy.errors import ProxyError
from proxy.shards.errors import ShardError

if TYPE_CHECKING:
    from proxy.shards.control import ControlLinks

_log = logging.getLogger(__name__)

ALIVE_S: Final = 4.0
NO_VERSION: Final = -1  # of a proxy that has not read the catalog yet
_PAUSE_S: Final = 0.02
_WRITE: Final = """WITH gone AS (DELETE FROM pgchorus.proxy_version
            WHERE at < clock_timestamp() - interval '1 hour' AND proxy <> $1),
        put AS (INSERT INTO pgchorus.proxy_version (proxy, version) VALUES ($1, $2)
            ON CONFLICT (proxy) DO UPDATE SET version = excluded.version, at = clock_timestamp())
    SELECT count(*) FROM pgchorus.catalog_change"""
_READ: Final = "SELECT count(*) FROM pgchorus.catalog_change"
_LATE: Final = """SELECT count(*) FROM pgchorus.proxy_version
    WHERE proxy <> $1 AND version < $2 AND at > clock_timestamp() - make_interval(secs => $3::float8)"""
_GONE: Final = "DELETE FROM pgchorus.proxy_version WHERE proxy = $1"


class ProxyVersions:
    """What the proxies of one logical database know of the catalog, this one among them."""

    def __init__(self, control: ControlLinks, home: int) -> None:
        self._control = control
        self._home = home
        self._proxy = secrets.token_hex(8)

    async def write(self, version: int) -> int:
        """Write by which version this proxy plans, and return the one that there is. Raises ShardError."""
        async with self._control.connection(self._home) as connection:
            now: int = await connection.fetchval(_WRITE, self._proxy, version)
        return now

    async def read(self) -> int:
        """Return the version that there is. Raises ShardError."""
        async with self._control.connection(self._home) as connection:
            now: int = await connection.fetchval(_READ)
        return now

    async def until_others_know(self, version: int) -> None:
        """Return when nobody who is alive plans by an older version. DDL is committed: nothing is raised for it."""
        try:
            async with self._control.connection(self._home) as connection:
                late = (_LATE, self._proxy, version, ALIVE_S)
                while await connection.fetchval(*late):  # noqa: ASYNC110 - it happens in other processes
                    await asyncio.sleep(_PAUSE_S)
        except (ShardError, ProxyError) as error:
            _log.warning("other proxies may plan by an old catalog for a moment: %s", error)

    async def leave(self) -> None:
        """Let nobody wait for this proxy any more."""
        try:
            async with self._control.connection(self._home) as connection:
                await connection.fetchval(_GONE, self._proxy)
        except (ShardError, ProxyError) as error:
            _log.info("other proxies will wait for this one with their next DDL: %s", error)
