"""What ``init``, ``explain`` and ``recover`` do: control work on the shards of a configuration, serving nobody.

Each takes a configuration, prints for a person, and returns the exit status. Errors of shards are left to ``cli``.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from proxy.shards import schema
from proxy.shards.catalog import load_catalog
from proxy.shards.control import ControlLimits, ControlLinks
from proxy.shards.endpoint import ShardEndpoint
from proxy.twophase.recovery import Recovery, RecoveryLimits
from router.describe import describe
from router.planner import Planner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.config import Config, DatabaseConfig
    from router.cluster import Database

SEARCH_PATH = ("public",)


def endpoints(database: DatabaseConfig) -> list[ShardEndpoint]:
    """Return where the shards of a database are, in order."""
    names = database.logical.shards
    return [ShardEndpoint(name, index, database.dsns[index]) for index, name in enumerate(names)]


@asynccontextmanager
async def control_links(config: Config, database: Database) -> AsyncIterator[ControlLinks]:
    """Lend control links to the shards of one database."""
    limits = ControlLimits(**config.limits.group("control"))
    control = ControlLinks(endpoints(config.databases[database.name]), limits)
    try:
        yield control
    finally:
        await control.close()


async def init(config: Config) -> int:
    """Create or renew the pgchorus schema on every shard and store the placements there."""
    for database in config.cluster.databases.values():
        async with control_links(config, database) as control:
            epoch = await schema.install(control, database, config.cluster.name)
            await schema.ensure_slot_checks(control, database)
        placed = len(database.placements)
        print(f"{database.name}: {len(database.shards)} shards, {placed} tables placed, epoch {epoch}")
    return 0


async def explain(config: Config, name: str, text: str) -> int:
    """Print how a statement would be run: the plan as the router describes it, one JSON document for each statement."""
    database = config.cluster.databases[name]
    async with control_links(config, database) as control:
        catalog = await load_catalog(control, database)
    for statement in Planner(database, catalog).plan(text, SEARCH_PATH, ()):
        print(json.dumps(describe(statement), indent=2, ensure_ascii=False))
    return 0


async def recover(config: Config) -> int:
    """Look once for what was left behind, finish what is decided, and say what is left (then the status is 1)."""
    quiet = True
    limits = config.limits.group("recovery")
    for database in config.cluster.databases.values():
        async with control_links(config, database) as control:
            recovery = Recovery(
                control,
                cluster=config.cluster.name,
                names=database.shards,
                limits=RecoveryLimits(**limits, retention_s=config.limits.commit_retention_s),
            )
            report = await recovery.run_once()
        lines = [f"committed {gid}" for gid in report.committed] + [f"rolled back {gid}" for gid in report.rolled_back]
        lines += [f"undecided, left alone for now: {gid}" for gid in report.waiting]
        lines += [f"committed, and not yet shown by its shard: {gid}" for gid in report.late]
        lines += [f"for a person: {gid}: {problem}" for gid, problem in report.problems.items()]
        lines += [f"shard {shard} cannot be asked: {reason}" for shard, reason in report.unreachable.items()]
        for line in lines or ["nothing was left behind"]:
            print(f"{database.name}: {line}")
        quiet = quiet and report.quiet
    return 0 if quiet else 1
