"""Runs every look at every database, in the order in which one finding explains another."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxy.doctor.configuration import look_at_configuration
from proxy.doctor.constraints import look_at_constraints
from proxy.doctor.copies import look_at_references, look_at_sequences
from proxy.doctor.drift import look_at_schemas
from proxy.doctor.hosts import look_at_hosts
from proxy.doctor.look import Look, own_links
from proxy.doctor.placements import look_at_placements
from proxy.doctor.rights import look_at_logins, look_at_roles
from proxy.doctor.rows import look_at_slots
from proxy.doctor.servers import ask, look_at_servers, look_at_settings
from proxy.doctor.transactions import look_at_decisions, look_at_prepared
from proxy.shards.catalog import load_catalog

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.config import Config
    from proxy.doctor.finding import Finding
    from proxy.doctor.look import Options
    from router.cluster import Database


async def _read_catalog(look: Look) -> None:
    if look.home in look.up:
        look.catalog = await load_catalog(look.control, look.database)


LOOKS: Final = (
    ("servers", look_at_servers),
    ("hosts", look_at_hosts),
    ("settings", look_at_settings),
    ("roles", look_at_roles),
    ("logins", look_at_logins),
    ("placements", look_at_placements),
    ("prepared transactions", look_at_prepared),
    ("decisions", look_at_decisions),
    ("catalog", _read_catalog),
    ("constraints", look_at_constraints),
    ("schemas", look_at_schemas),
    ("sequences", look_at_sequences),
    ("rows", look_at_slots),
    ("reference tables", look_at_references),
)


@dataclass(slots=True)
class Examined:
    """What an examination came to. ``seconds`` and ``rows`` tell what it cost."""

    databases: list[str] = field(default_factory=list)
    shards: int = 0
    rows: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)


async def examine(config: Config, options: Options, say: Callable[[str], None], only: str | None = None) -> Examined:
    """Look at the configuration and every database of it (or one), and return what was found, the worst first."""
    began = time.monotonic()
    done = Examined(findings=look_at_configuration(config))
    for database in config.cluster.databases.values():
        if only in (None, database.name):
            look = await _examine(config, database, options, say)
            done.databases.append(database.name)
            done.shards += len(database.shards)
            done.rows += look.rows_read
            done.findings += look.findings
    done.findings.sort(key=lambda one: one.kind.severity)
    done.seconds = time.monotonic() - began
    return done


async def _examine(config: Config, database: Database, options: Options, say: Callable[[str], None]) -> Look:
    async with own_links(config, database) as control:
        look = Look(config, database, control, options, say)
        await ask(look)
        for what, one in LOOKS:
            if look.up or one is look_at_hosts:  # a shard without a primary may have hosts that answer
                await look.run(what, one)
    return look
