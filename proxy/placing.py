"""Placements that change by a reload: what each process does, in steps that the supervisor takes with all of them.

1. ``hold``    no transaction is open and none begins (proxy.session.holding). Until here all can be called off.
2. ``change``  in one process: what is stored on the shards (proxy.shards.replacing).
3. ``adopt``   every process goes by it, and by its epoch.
4. ``known``   in one process: other proxies have noticed. They plan nothing before they have been told the same.
5. ``go_on``   whatever became of it.

So no two processes of a proxy plan by two rules at the same time, and no other proxy plans by the old one when the
first statement is planned by the new one.

What a crash means: a process that dies is started again with the configuration that its supervisor has. That is the new
one from the end of 2 on; where the process that takes 2 dies in it, it is the old one, whatever is on the shards by
then: the others plan nothing by what is not there, and another reload makes them agree. When the supervisor dies its
processes end; the shards have the old placements or the new.

Decides the order. Left to others: whose turn it is (proxy.reload, proxy.supervisor.asking).
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from proxy.errors import ProxyError
from proxy.growing import Further, added_endpoints
from proxy.session import holding
from proxy.shards.control import ControlLinks
from proxy.shards.errors import ShardError
from proxy.shards.replacing import replace_placements
from router.change import difference

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.config import Config, DatabaseConfig
    from proxy.database import LogicalDatabase


log = structlog.get_logger("pgchorus.placing")


def not_placed(reason: str, hint: str = "") -> ProxyError:
    """Return what is said of placements that cannot change."""
    return ProxyError("F0000", reason, hint=hint)


def placed_anew(before: Config, renewed: Config) -> str:
    """Return the name of the database whose placements are others in ``renewed``, '' for none.

    Raises ProxyError with the reasons why rows would be elsewhere.
    """
    changes = {
        name: change
        for name, database in before.cluster.databases.items()
        if (change := difference(database, renewed.cluster.databases[name]))
    }
    problems = [f"database {name}: {why}" for name, change in changes.items() for why in change.impossible]
    if problems:
        raise not_placed("; ".join(problems), "Rows do not move by a reload; docs/operations.md says what does it.")
    if len(changes) > 1:
        raise not_placed(
            f"placements of the databases {', '.join(changes)} would change", "Change those of one, reload, then go on."
        )
    return next(iter(changes), "")


class Placing:
    """One change of one database's placements, in this process."""

    def __init__(self, database: LogicalDatabase, wanted: DatabaseConfig, cluster_name: str) -> None:
        self._database = database
        self._wanted = wanted.logical
        self._dsns = wanted.dsns
        self._cluster_name = cluster_name
        self._held = False

    async def hold(self) -> None:
        """Let no transaction begin, and return when none is open. Raises ProxyError when some do not end."""
        self._held = True
        await holding.hold(self._database)

    async def change(self) -> int:
        """Store the new placements on the shards, and return their epoch. Raises ProxyError with the reason why not."""
        database = self._database
        replaced = difference(database.logical, self._wanted).replaced
        joining = range(len(database.logical.shards), len(self._wanted.shards))
        try:
            async with self._links() as control:
                return await replace_placements(control, self._wanted, self._cluster_name, replaced, joining)
        except ShardError as error:
            shard = self._wanted.shards[error.shard]
            raise not_placed(f"shard {shard}: {error}", "Reload again when all shards are up.") from error

    @asynccontextmanager
    async def _links(self) -> AsyncIterator[Further]:
        """Lend control links to all shards; those that join are not the database's yet."""
        known = self._database.control
        added = ControlLinks(added_endpoints(known, self._wanted.shards, self._dsns))
        try:
            yield Further(known, added)
        finally:
            await added.close()

    async def adopt(self, epoch: int) -> None:
        """Go by them."""
        database = self._database
        before = database.planner if database.plans else None
        added = added_endpoints(database.control, self._wanted.shards, self._dsns)
        try:
            await database.adopt(self._wanted, epoch, added)
            await database.follow_catalog()
        except (ShardError, ProxyError) as error:  # nothing is planned before home was asked (_watch_catalog)
            log.warning("the catalog could not be read", database=self._wanted.name, error=str(error))
        if before is not None and database.plans:
            holding.end_outdated(database, before, database.planner)
        log.info("placements changed", database=self._wanted.name, epoch=epoch)

    async def known(self) -> None:
        """Return when all other proxies know."""
        await self._database.others_know()

    async def go_on(self) -> None:
        """Let transactions begin again."""
        self.release()

    def release(self) -> None:
        """Do that."""
        if self._held:
            self._held = False
            holding.go_on(self._database)
