"""Another proxy has changed placements: our own file may have them as well, and is read again until it could be.

Theory of operation. Until this proxy has what the others have it plans nothing (``LogicalDatabase.misplaced``), so the
blocks that are open end, and no other begins. A reading fails as long as one is open, in any worker; so it is tried
again every second, without a word of the log's after the first. A file that was read and says something else is not
read again by itself: that is RELOAD's.

Decides when it is tried. Left to others: what a reload does (proxy.reload, proxy.supervisor.asking).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from proxy.errors import ProxyError
from proxy.tasks import spawn

if TYPE_CHECKING:
    from proxy.database import LogicalDatabase

log = structlog.get_logger("pgchorus.placing")

AGAIN_S: Final = 1.0
_LOOK_S: Final = 0.05


class Reload(Protocol):
    """What reads the configuration again; raises ProxyError when all stays as it was."""

    async def __call__(self, *, again: bool) -> None:
        """``again``: the log has been told already why it could not be done."""


class Rereading:
    """The readings of one database's placements."""

    def __init__(self, database: LogicalDatabase, reload: Reload) -> None:
        self._database = database
        self._reload = reload
        self._task: asyncio.Task[None] | None = None
        self._wanted = False

    def begin(self) -> None:
        """The placements on the shards are not ours: read the file, unless that is being tried."""
        self._wanted = True
        if self._task is None or self._task.done():
            self._task = spawn(self._until_read(), name="placements of others")

    def end(self) -> None:
        """Try it no more."""
        if self._task is not None:
            self._task.cancel()

    async def _until_read(self) -> None:
        database, name, again = self._database, self._database.logical.name, False
        while self._wanted and database.misplaced:
            if database.definitions.changing:  # by a reload that is under way it may be over
                await asyncio.sleep(_LOOK_S)
                continue
            self._wanted = False
            try:
                await self._reload(again=again)
            except ProxyError as error:
                if not again:
                    log.info(
                        "placements could not be read again; tried every second", database=name, error=error.message
                    )
                self._wanted = again = True
                await asyncio.sleep(AGAIN_S)
        if again and not database.misplaced:
            log.info("placements have been read again", database=name)
