"""Wires one logical database together: shards, control links, schema, catalog, commits, recovery.

Decides the order in which a database becomes ready: its schema agrees with the configuration, then what an earlier
proxy left behind is finished, then the catalog is read; only then is it served.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from proxy.database import LogicalDatabase
from proxy.errors import ProxyError
from proxy.shards import schema
from proxy.shards.control import ControlLimits, ControlLinks
from proxy.shards.endpoint import ShardEndpoint
from proxy.shards.errors import ShardError, not_applied
from proxy.shards.failover import Failover, watch_hosts
from proxy.shards.health import ShardHealth
from proxy.shards.pool import PoolLimits
from proxy.shards.pool_set import PoolSet
from proxy.shards.replicas import Replicas
from proxy.shards.timelines import Timelines
from proxy.tasks import spawn
from proxy.twophase.coordinator import Coordinator
from proxy.twophase.events import Limits as CommitLimits
from proxy.twophase.fence import Fence, FenceLimits
from proxy.twophase.points import pass_by
from proxy.twophase.recovery import Recovery, RecoveryLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.admin.metrics import Metrics
    from proxy.config import Config
    from proxy.shards.timelines import Others
    from proxy.twophase.points import Checkpoint
    from router.cluster import Database

log = structlog.get_logger("pgchorus.runtime")

# How often other proxies' DDL is looked for; their clients wait for it (proxy.shards.versions).
CATALOG_POLL_S = 0.25
# How often this proxy shows that it is alive, and looks for ALTER ROLE and DATABASE ... SET.
VERSION_WRITE_S = 1.0


@asynccontextmanager
async def open_database(
    config: Config,
    database: Database,
    metrics: Metrics,
    checkpoint: Checkpoint = pass_by,
    others: Others | None = None,
) -> AsyncIterator[LogicalDatabase]:
    """Make one database ready, serve it, and close it. Raises PlacementMismatch or ShardError when it cannot."""
    limits = config.limits
    dsns = config.databases[database.name].dsns
    endpoints = [ShardEndpoint(name, index, dsns[index]) for index, name in enumerate(database.shards)]
    control = ControlLinks(endpoints, ControlLimits(**limits.group("control")))
    patience_s = [limits.failover_wait_s if one.has_several else limits.failover_one_host_wait_s for one in endpoints]
    health = ShardHealth(database.shards, control.probe, ready_timeout_s=limits.health_wait_s, patience_s=patience_s)
    control.on_failure(health.failed)
    control.on_doubt(health.doubted)
    health.on_down(control.doubt_place)
    pool_limits = PoolLimits(**limits.group("pool"))
    pools = PoolSet(endpoints, pool_limits, health)
    scratch_pools = PoolSet(endpoints, replace(pool_limits, size=limits.gather_links), health)
    replicas = Replicas(control, pool_limits, pools.types, **limits.group("replicas"))
    try:
        schemas = _Schemas(control, database, config.cluster.name)
        health.on_return(schemas.admit)
        control.on_move(Failover(health, (pools, scratch_pools, replicas), schemas.compare_again).moved)
        recovery = _recovery(config, database, control, health, checkpoint)
        timelines = Timelines(control, health, database.name, others)
        await timelines.recall()
        epoch = await schemas.open(health)
        await _recover(recovery, database, health)
        links = (pools, scratch_pools, replicas)
        served = _assemble(
            config,
            database,
            control,
            recovery,
            epoch,
            health=health,
            checkpoint=checkpoint,
            pools=links,
            metrics=metrics,
        )
        served.on_adopted.append(schemas.adopted)
        served.timelines = timelines
        health.on_return(served.shard_returned)
        if health.shard_is_up(database.home):
            await served.follow_catalog()
        tasks = [
            spawn(recovery.run_forever(), name=f"recovery of {database.name}"),
            spawn(served.deadlocks.run_forever(), name=f"deadlock detection of {database.name}"),
            spawn(_watch_catalog(served), name=f"catalog watch of {database.name}"),
            *watch_hosts(control, health, limits.failover_check_s),
            spawn(timelines.exchange_forever(limits.failover_check_s), name=f"timelines of {database.name}"),
        ]
        served.on_grown += [
            timelines.add,
            lambda added: tasks.extend(watch_hosts(control, health, limits.failover_check_s, since=added.index)),
        ]
        try:
            yield served
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # what one died of is in the log (proxy.tasks)
            await served.coordinator.drain()
            await served.versions.leave()
    finally:
        await health.close()
        await replicas.close()
        await scratch_pools.close()
        await pools.close()
        await control.close()


class _Schemas:
    """Which shards have been seen to be as the configuration says. No other one is served."""

    def __init__(self, control: ControlLinks, database: Database, cluster_name: str) -> None:
        self._control = control
        self._database = database
        self._cluster_name = cluster_name
        self._epoch: int | None = None
        self._unseen = set(range(len(database.shards)))

    async def open(self, health: ShardHealth) -> int:
        """Make or renew the schema everywhere; with a shard down, see that the others need nothing. Return the epoch.

        Raises PlacementMismatch, and ShardError for what is no outage of some shards.
        """
        database, cluster_name = self._database, self._cluster_name
        missing: dict[int, ShardError] = {}
        try:
            epoch = await schema.install(self._control, database, cluster_name)
        except ShardError as failure:
            epoch, missing = await schema.check_reachable(self._control, database, cluster_name)
            for shard, error in missing.items():
                health.failed(shard, error)
            if not missing or any(health.shard_is_up(shard) for shard in missing):
                raise failure from None
            names = ", ".join(database.shards[shard] for shard in missing)
            log.warning("starting without some shards", database=database.name, shards=names)
        self._unseen -= set(range(len(database.shards))) - missing.keys()
        await schema.ensure_slot_checks(
            self._control, database, sorted(set(range(len(database.shards))) - missing.keys())
        )
        self._epoch = epoch
        return epoch

    def adopted(self, database: Database, epoch: int) -> None:
        """Other placements are the right ones from now on."""
        self._database, self._epoch = database, epoch

    def compare_again(self, shard: int) -> None:
        """Another server is the shard now: it is looked at before it is served."""
        self._unseen.add(shard)

    async def admit(self, shard: int) -> None:
        """A shard has come back: if it was not there at the start, or is another server, it is looked at now."""
        if shard not in self._unseen:
            return
        if self._epoch is None:
            raise not_applied(shard, self._database.shards[shard])
        try:
            await schema.admit(self._control, self._database, self._cluster_name, shard, self._epoch)
        except ProxyError as error:
            log.critical("a shard is not served", shard=self._database.shards[shard], error=str(error))
            raise not_applied(shard, self._database.shards[shard]) from error
        self._unseen.discard(shard)


def _recovery(
    config: Config, database: Database, control: ControlLinks, health: ShardHealth, checkpoint: Checkpoint
) -> Recovery:
    """Make the recovery, and see that it has been at every shard that comes back."""
    limits = RecoveryLimits(**config.limits.group("recovery"), retention_s=config.limits.commit_retention_s)
    recovery = Recovery(
        control, cluster=config.cluster.name, names=database.shards, limits=limits, checkpoint=checkpoint
    )

    async def apply_decided(shard: int) -> None:
        # A shard that was away serves nobody before what was decided meanwhile is applied there.
        name = database.shards[shard]
        report = await recovery.run_once([shard])
        if report.committed or report.rolled_back:
            log.info(
                "finished before a shard is served",
                shard=name,
                committed=report.committed,
                rolled_back=report.rolled_back,
            )
        if report.late or name in report.unreachable:
            raise not_applied(shard, name)

    health.on_return(apply_decided)
    return recovery


async def _recover(recovery: Recovery, database: Database, health: ShardHealth) -> None:
    """Finish what earlier proxies left behind."""
    report = await recovery.run_once()
    if not report.quiet or report.committed or report.rolled_back:
        log.info("recovery at start", database=database.name, report=str(report))
    for shard in set(report.late.values()):
        health.failed(shard, not_applied(shard, database.shards[shard]))


def _assemble(  # noqa: PLR0913 - what it is made of
    config: Config,
    database: Database,
    control: ControlLinks,
    recovery: Recovery,
    epoch: int,
    *,
    health: ShardHealth,
    checkpoint: Checkpoint,
    pools: tuple[PoolSet, PoolSet, Replicas],
    metrics: Metrics,
) -> LogicalDatabase:
    limits = config.limits
    commit_limits = limits.group("commit")
    retention_s = commit_limits.pop("retention_s")
    cluster, names = config.cluster.name, database.shards
    coordinator = Coordinator(
        control,
        cluster=cluster,
        names=names,
        limits=CommitLimits(**commit_limits),
        retention_s=retention_s,
        epoch=epoch,
        leave=recovery.wake,
        checkpoint=checkpoint,
    )
    recovery.is_ours = coordinator.is_ours
    fence = Fence(
        control,
        cluster=cluster,
        names=names,
        epoch=epoch,
        limits=FenceLimits(**limits.group("fence")),
        checkpoint=checkpoint,
        ready=health.ready,
        patience_s=max(map(health.patience_s, range(len(names)))),
    )
    return LogicalDatabase(
        database,
        control=control,
        pools=pools[0],
        scratch_pools=pools[1],
        replicas=pools[2],
        read_from=config.databases[database.name].read_from,
        coordinator=coordinator,
        fence=fence,
        recovery=recovery,
        health=health,
        passwords=config.auth.passwords,
        limits=limits,
        metrics=metrics,
    )


async def _watch_catalog(served: LogicalDatabase) -> None:
    """Notice DDL that went through other proxies, whose clients wait for that."""
    loop = asyncio.get_running_loop()
    write_at = loop.time()
    while True:
        await asyncio.sleep(CATALOG_POLL_S)
        try:
            async with served.control.connection(served.logical.home) as connection:
                version = await schema.catalog_version(connection)
            if version == served.catalog.version and served.has_catalog and loop.time() < write_at:
                continue
            write_at = loop.time() + VERSION_WRITE_S
            if not await served.follow_catalog():
                await served.notice_defaults()
            elif served.misplaced and served.on_misplaced is not None:
                served.on_misplaced()
        except ShardError as error:
            log.info("the catalog's version could not be read", database=served.logical.name, error=str(error))
