"""What SHOW answers: the running proxy's state as tables.

Each view is a function from the proxy (``World``) to a table. Most read what this process has in memory; IN_DOUBT and
LOCKS ask the shards, by the control links, and say of a shard that cannot be asked that it could not. Columns that
PgBouncer has carry its names and meanings; what is only ours stands behind them.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from proxy.config_values import DEFAULT_POSTGRES_PORT
from proxy.console import numbers
from proxy.console.hosts import hosts
from proxy.console.table import Table
from proxy.errors import ProxyError
from proxy.shards.errors import ShardError
from proxy.twophase.pending import list_pending, read_decisions
from router.cluster import Reference, Sharded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from proxy.console.world import World
    from proxy.database import LogicalDatabase
    from proxy.session.session import Session
    from proxy.shards.control import ControlLinks
    from proxy.shards.endpoint import ShardEndpoint
    from proxy.shards.pool import LinkPool
    from proxy.twophase.gid import GlobalId
    from proxy.twophase.participant import Row

    View = Callable[[World], Awaitable[Table]]

POOL_MODE: Final = "transaction"
_ASK_TIMEOUT_S: Final = 5.0
_LOCKS: Final = """
    SELECT w.pid, w.usename, coalesce(l.relation::regclass::text, '') AS relation, l.locktype, l.mode,
        (extract(epoch FROM clock_timestamp() - l.waitstart) * 1000)::int8 AS waited_ms,
        array_to_string(pg_blocking_pids(w.pid), ',') AS blocked_by, left(w.query, 200) AS query
    FROM pg_locks l JOIN pg_stat_activity w USING (pid)
    WHERE NOT l.granted AND w.datname = current_database()
    ORDER BY l.waitstart
"""


async def version_view(_world: World) -> Table:
    """Which program this is."""
    table = Table.of("version")
    table.add(version=f"pgchorus {version('pgchorus')}")
    return table


async def databases(world: World) -> Table:
    """One row for each shard of each database."""
    table = Table.of(
        "name host port# database pool_size# pool_mode current_connections# current_client_connections# "
        "paused# disabled# shard home#"
    )
    for name, database in world.databases().items():
        clients = sum(session.database is database for session in world.sessions())
        for shard, endpoint in enumerate(database.pools.endpoints):
            host, port = _address(endpoint)
            used = [pool.stats for pool in _pools(database) if pool.endpoint.index == shard]
            table.add(
                name=name,
                host=host,
                port=port,
                database=endpoint.database,
                pool_size=world.config.limits.pool_size,
                pool_mode=POOL_MODE,
                current_connections=sum(stats.in_use + stats.idle for stats in used),
                current_client_connections=clients,
                paused=database.pools.is_paused(shard),
                disabled=False,
                shard=endpoint.name,
                home=shard == database.logical.home,
            )
    return table


async def shards(world: World) -> Table:
    """Whether each shard is up, as this proxy sees it."""
    table = Table.of("database shard host port# home# state first_slot# last_slot# reason")
    for name, database in world.databases().items():
        for shard, endpoint in enumerate(database.pools.endpoints):
            host, port = _address(endpoint)
            first, last = database.logical.slot_range(shard)
            reason = database.health.why_down(shard)
            table.add(
                database=name,
                shard=endpoint.name,
                host=host,
                port=port,
                home=shard == database.logical.home,
                state="up" if reason is None else "down",
                first_slot=first if first <= last else None,
                last_slot=last if first <= last else None,
                reason=None if reason is None else ". ".join(filter(None, (str(reason), reason.fields.detail))),
            )
    return table


async def tables(world: World) -> Table:
    """Where the rows of each table that the configuration names are."""
    table = Table.of("database schema name placement key")
    for name, database in world.databases().items():
        for one, placement in sorted(database.logical.placements.items(), key=lambda item: str(item[0])):
            key = placement.key if isinstance(placement, Sharded) else None
            kind = "sharded" if key is not None else "reference" if isinstance(placement, Reference) else "home"
            table.add(database=name, schema=one.schema, name=one.name, placement=kind, key=key)
    return table


async def pools(world: World) -> Table:
    """The links to each shard, by role."""
    table = Table.of(
        "database user cl_active# cl_waiting# sv_active# sv_idle# maxwait# pool_mode shard use opened# closed#"
    )
    for name, database in world.databases().items():
        uses: dict[str, Iterable[LinkPool]] = {
            "clients": database.pools,
            "gather": database.scratch_pools,
            "replicas": database.replicas,
        }
        for use, pool_set in uses.items():
            for pool in pool_set:
                stats = pool.stats
                table.add(
                    database=name,
                    user=pool.role,
                    cl_active=stats.in_use,
                    cl_waiting=stats.waiting,
                    sv_active=stats.in_use,
                    sv_idle=stats.idle,
                    maxwait=int(pool.longest_wait_s),
                    pool_mode=POOL_MODE,
                    shard=pool.endpoint.name,
                    use=use,
                    opened=stats.opened,
                    closed=stats.closed,
                )
    return table


async def clients(world: World) -> Table:
    """The sessions."""
    table = Table.of(
        "type user database state addr port# connect_time tls application_name prepared_statements# id# shards worker#"
    )
    for session in sorted(world.sessions(), key=lambda one: one.connection.connected_at):
        connection = session.connection
        host, _, port = connection.peer.rpartition(":")
        table.add(
            type="C",
            user=session.role,
            database=session.database.logical.name,
            state=_state(session),
            addr=host or connection.peer,
            port=int(port) if port.isdigit() else 0,
            connect_time=_moment(connection.connected_at),
            tls=connection.tls.version if connection.tls is not None else "",
            application_name=session.parameters.get("application_name", ""),
            prepared_statements=len(session.statements),
            id=session.pid,
            shards=_shards(session),
            worker=world.number,
        )
    return table


async def servers(world: World) -> Table:
    """The links, one by one."""
    table = Table.of("type user database state addr port# remote_pid# prepared_statements# shard client# worker#")
    users = {link: session.pid for session in world.sessions() for link in session.transaction.links.values()}
    for name, database in world.databases().items():
        for pool in _pools(database):
            host, port = _address(pool.endpoint)
            for link, lent in pool.links():
                table.add(
                    type="S",
                    user=pool.role,
                    database=name,
                    state="active" if lent else "idle",
                    addr=host,
                    port=port,
                    remote_pid=link.pid,
                    prepared_statements=len(link.statements),
                    shard=pool.endpoint.name,
                    client=users.get(link),
                    worker=world.number,
                )
    return table


async def transactions(world: World) -> Table:
    """The blocks that are open."""
    table = Table.of("database client# user state isolation shards written gid worker#")
    for session in world.sessions():
        transaction = session.transaction
        if not transaction.in_block:
            continue
        names = session.database.logical.shards
        table.add(
            database=session.database.logical.name,
            client=session.pid,
            user=session.role,
            state="committing" if transaction.committing else "failed" if transaction.failed else _state(session),
            isolation=transaction.isolation,
            shards=_shards(session),
            written=",".join(names[shard] for shard in sorted(transaction.writers)),
            gid=str(transaction.gid) if transaction.gid is not None else None,
            worker=world.number,
        )
    return table


async def in_doubt(world: World) -> Table:
    """What is prepared on the shards by this cluster's proxies, and what was decided of it."""
    table = Table.of("database shard gid commit_point decision age_ms# problem")
    for name, database in world.databases().items():
        names, cluster = database.logical.shards, world.config.cluster.name
        for shard, shard_name in enumerate(names):
            try:
                async with asyncio.timeout(_ASK_TIMEOUT_S), database.control.connection(shard) as connection:
                    pending = await list_pending(connection, shard, names, cluster)
            except (ShardError, ProxyError, TimeoutError) as error:
                table.add(database=name, shard=shard_name, problem=f"cannot be asked: {error}")
                continue
            for one in pending:
                decision = await _decision(database, one.gid)
                table.add(
                    database=name,
                    shard=shard_name,
                    gid=str(one.gid),
                    commit_point=one.gid.commit_point,
                    decision=decision,
                    age_ms=int(one.age_s * 1000),
                )
    return table


async def locks(world: World) -> Table:
    """Who waits for a lock on the shards, and for whom."""
    table = Table.of("database shard pid# user client# locktype mode relation waited_ms# blocked_by query problem")
    for name, database in world.databases().items():
        for shard, shard_name in enumerate(database.logical.shards):
            ours = {
                link.pid: session.pid
                for session in world.sessions()
                if session.database is database and (link := session.transaction.links.get(shard)) is not None
            }
            try:
                async with asyncio.timeout(_ASK_TIMEOUT_S):
                    rows = await _fetch(database.control, shard, _LOCKS)
            except (ShardError, ProxyError, TimeoutError) as error:
                table.add(database=name, shard=shard_name, problem=f"cannot be asked: {error}")
                continue
            for row in rows:
                table.add(
                    database=name,
                    shard=shard_name,
                    pid=row["pid"],
                    user=row["usename"],
                    client=ours.get(row["pid"]),
                    locktype=row["locktype"],
                    mode=row["mode"],
                    relation=row["relation"],
                    waited_ms=row["waited_ms"],
                    blocked_by=row["blocked_by"],
                    query=row["query"],
                )
    return table


async def prepared(world: World) -> Table:
    """The prepared statements of the clients."""
    table = Table.of("database client# user name query worker#")
    for session in world.sessions():
        for name, statement in session.statements.items():
            table.add(
                database=session.database.logical.name,
                client=session.pid,
                user=session.role,
                name=name.decode("utf-8", "replace"),
                query=statement.query.decode("utf-8", "replace"),
                worker=world.number,
            )
    return table


async def plans(world: World) -> Table:
    """How often plans were found made."""
    table = Table.of("database cache entries# hits# misses#")
    for name, database in world.databases().items():
        for cache, (hits, misses) in database.plan_cache_counts().items():
            table.add(
                database=name, cache=cache, hits=hits, misses=misses, entries=world.config.limits.plan_cache_entries
            )
    return table


async def config_view(world: World) -> Table:
    """The limits that hold, and where this was read."""
    table = Table.of("key value default")
    config = world.config
    table.add(key="file", value=config.file)
    table.add(key="cluster", value=config.cluster.name)
    table.add(key="listen", value=str(config.listen))
    table.add(key="metrics", value=str(config.metrics) if config.metrics is not None else None)
    table.add(key="workers", value=config.workers, default="1")
    table.add(key="auth.method", value=config.auth.method)
    for key, value, default in config.limits.listed():
        table.add(key=key, value=value, default=default)
    return table


async def workers(world: World) -> Table:
    """The processes that serve."""
    table = Table.of("worker# pid# state clients# since uptime_s# restarts#")
    for one in await world.workers():
        since = one["since"]
        table.add(
            worker=one["worker"],
            pid=one["pid"],
            state=one["state"],
            clients=one["clients"],
            since=_moment(since),
            uptime_s=int(time.time() - since),
            restarts=one["restarts"],
        )
    return table


VIEWS: dict[str, View] = {
    "CLIENTS": clients,
    "CONFIG": config_view,
    "DATABASES": databases,
    "HOSTS": hosts,
    "IN_DOUBT": in_doubt,
    "LOCKS": locks,
    "PLANS": plans,
    "POOLS": pools,
    "PREPARED": prepared,
    "SERVERS": servers,
    "SHARDS": shards,
    "TABLES": tables,
    "TRANSACTIONS": transactions,
    "VERSION": version_view,
    "WORKERS": workers,
    **numbers.VIEWS,
}


async def _fetch(control: ControlLinks, shard: int, sql: str) -> list[Row]:
    async with control.connection(shard) as connection:
        return list(await connection.fetch(sql))


async def _decision(database: LogicalDatabase, gid: GlobalId) -> str:
    """Return what stands at the commit point: ``commit``, ``abort`` or ``none``; ``unknown`` if it cannot be asked."""
    names = database.logical.shards
    if gid.commit_point not in names:
        return "unknown"
    try:
        async with (
            asyncio.timeout(_ASK_TIMEOUT_S),
            database.control.connection(names.index(gid.commit_point)) as connection,
        ):
            decision = (await read_decisions(connection, [gid])).get(gid)
    except (ShardError, ProxyError, TimeoutError):
        return "unknown"
    if decision is None:
        return "none"
    return "commit" if decision.committed else "abort"


def _address(endpoint: ShardEndpoint) -> tuple[str, int]:
    """Return where a shard is, or was seen last; the first host of its DSN if it was not."""
    if endpoint.place.last is not None:
        return endpoint.place.last
    hosts = urlsplit(endpoint.dsn).netloc.rpartition("@")[2].split(",")[0]
    host, _, port = hosts.rpartition(":") if not hosts.endswith("]") else (hosts, "", "")
    return (host or hosts, int(port)) if port.isdigit() else (hosts, DEFAULT_POSTGRES_PORT)


def _pools(database: LogicalDatabase) -> Iterator[LinkPool]:
    yield from database.pools
    yield from database.scratch_pools
    yield from database.replicas


def _state(session: Session) -> str:
    if session.in_query or (session.connection.lane is not None and session.connection.lane.busy):
        return "active"
    return "idle in transaction" if session.transaction.in_block else "idle"


def _shards(session: Session) -> str:
    names = session.database.logical.shards
    return ",".join(names[shard] for shard in sorted(session.transaction.links))


def _moment(unix: float) -> str:
    return datetime.fromtimestamp(unix, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
