"""Placements that change while proxies serve: what the start does for tables without rows, under locks.

Theory of operation. ``replace_placements`` holds, on every shard, the fence against deciders, home's list of DDL
against DDL that is under way, and each table whose placement changes against everybody. Only then are they looked at,
so what is seen stays so until the new placements are committed. The epoch goes up with them: whoever still goes by the
old ones cannot commit over several shards (``check_epoch``), and the row in ``catalog_change`` makes him read home's
placements, see that they are not his, and plan nothing (proxy.database).

What a crash means: the shards commit one after the other, home last. Some with the new epoch and some with the old one
let nobody commit over both kinds; the next reload or start stores what its configuration says everywhere.

A partition is placed as its parent. Its name may come into a configuration, so that it can be detached, or go from it
while it is attached.

Decides what may change and stores it. Left to others: what could never change (:mod:`router.change`), and that this
proxy has no transaction open meanwhile (:mod:`proxy.session.holding`).
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxy.errors import LOCK_NOT_AVAILABLE
from proxy.shards.errors import ShardError
from proxy.shards.joining import join, lock_copies
from proxy.shards.kin import placed_by_kin
from proxy.shards.schema import (
    INSTALL_LOCK,
    PlacementMismatch,
    differences,
    expected_meta,
    foreign,
    install_on,
    look_everywhere,
    store_sql,
    table_problems,
    unfit,
)
from router.cluster import Sharded
from router.own_schema import CATALOG_BUMP, guard_call, quote_table

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from proxy.shards.control import ControlConnection
    from proxy.shards.schema import Control
    from router.change import Replaced
    from router.cluster import Database, TableName

LOCK_WAIT_MS: Final = 2_000  # others wait behind who waits for a lock
JOIN_S: Final = 20.0  # less than clients wait (proxy.session.changing.HELD_S)
_EMPTY_HINT: Final = "Nothing has changed. Drop the table, reload, and make it again; or leave its placement as it was."
_JOIN_HINT: Final = "Nothing has changed. docs/operations.md says how a shard is made ready to join."
_BUSY_HINT: Final = "Nothing has changed. Reload again when the transactions that use these tables have ended."


async def replace_placements(
    control: Control,
    database: Database,
    cluster_name: str,
    replaced: Sequence[Replaced],
    joining: Sequence[int] = (),
) -> int:
    """Store the placements of ``database`` on all shards, and return the epoch; nothing is done where they are there.

    ``joining``: shards that this proxy does not serve yet; the others may know them, from another one.

    Raises PlacementMismatch when rows would be in the wrong place, or somebody uses what changes; and ShardError.
    """
    async with control.connection(database.home) as turn:
        await turn.execute(f"SELECT pg_advisory_lock({INSTALL_LOCK})")
        try:
            return await _replace(control, database, cluster_name, replaced, joining)
        finally:
            await turn.execute(f"SELECT pg_advisory_unlock({INSTALL_LOCK})")


async def _replace(
    control: Control,
    database: Database,
    cluster_name: str,
    replaced: Sequence[Replaced],
    joining: Sequence[int],
) -> int:
    looks = await look_everywhere(control, database)
    epoch = max(look.epoch or 0 for look in looks)
    problems = unfit(database, looks) + foreign(cluster_name, looks, database) + table_problems(database, looks)
    known = (looks[database.home].meta or {}).get("shards", ())  # home is told last
    joining = [shard for shard in joining if database.shards[shard] not in known]
    for shard in joining:  # what it says of itself counts for nothing
        meta = expected_meta(database, cluster_name, shard)
        looks[shard] = replace(looks[shard], meta=meta, placements=looks[database.home].placements)
    found, touched = differences(database, cluster_name, looks, rows_stay=bool(joining))
    if not found:
        return epoch
    if touched - {one.table for one in replaced} or any(look.meta is None for look in looks):
        problems += found  # the shards are not as the old configuration says, either
    if problems:
        raise PlacementMismatch(problems, _EMPTY_HINT)
    for shard in joining:
        await install_on(control, shard)
    order = sorted(range(len(database.shards)), key=lambda shard: (looks[shard].identity, database.shards[shard]))
    async with AsyncExitStack() as stack:
        # All connections first: nobody waits for one while holding others back.
        held = {shard: await stack.enter_async_context(control.connection(shard)) for shard in order}
        try:
            await _store(held, database, cluster_name, replaced, epoch + 1, joining)
        except (ShardError, PlacementMismatch):
            for connection in held.values():
                with suppress(ShardError):  # a link that is lost has rolled back
                    await connection.execute("ROLLBACK")
            raise
        for shard in (*(one for one in order if one != database.home), database.home):
            await held[shard].execute("COMMIT")
    return epoch + 1


async def _store(  # noqa: PLR0913, PLR0917 - what is stored, and where
    held: Mapping[int, ControlConnection],
    database: Database,
    cluster_name: str,
    replaced: Sequence[Replaced],
    epoch: int,
    joining: Sequence[int],
) -> None:
    """Lock, look and write, in an open transaction on each shard."""
    try:
        await _lock(held, database, replaced)
        if joining:
            for connection in held.values():
                await lock_copies(connection, database)
    except ShardError as error:
        if error.fields.sqlstate != LOCK_NOT_AVAILABLE:
            raise
        busy = f"on shard {database.shards[error.shard]} transactions are under way that use what would change"
        raise PlacementMismatch([busy], _BUSY_HINT) from error
    if joining:
        await _join(held, database, joining)
    for shard, connection in held.items():
        changed = [(one.table, one.after) for one in replaced]
        if shard in joining:
            changed = list(database.placements.items())
        for table, after in changed:
            if isinstance(after, Sharded) and await _is_there(connection, table):
                await connection.execute(guard_call(database, table, after.key, shard))
        await connection.execute("; ".join(store_sql(database, cluster_name, shard, epoch)))
    await held[database.home].execute(CATALOG_BUMP)


async def _join(held: Mapping[int, ControlConnection], database: Database, joining: Sequence[int]) -> None:
    """Compare and fill the shards that join, and take as long as clients may wait for it."""
    try:
        async with asyncio.timeout(JOIN_S):
            problems = await join(held, database, joining)
    except TimeoutError:
        problems = [f"copying and comparing reference tables takes longer than {JOIN_S:g} s"]
    if problems:
        raise PlacementMismatch(problems, _JOIN_HINT)


async def _lock(held: Mapping[int, ControlConnection], database: Database, replaced: Sequence[Replaced]) -> None:
    """Keep everybody from what changes, and see that it may."""
    for shard, connection in held.items():
        await connection.execute(
            f"BEGIN; SET LOCAL lock_timeout = {LOCK_WAIT_MS}; LOCK TABLE pgchorus.fence IN EXCLUSIVE MODE"
        )
        if shard == database.home:
            await connection.execute("LOCK TABLE pgchorus.catalog_change IN SHARE ROW EXCLUSIVE MODE")
    moved = {one.table for one in replaced}
    looks = [await _look(held[shard], database, shard, one, moved) for shard in held for one in replaced]
    problems = [problem for problem in looks if problem]
    if problems:
        raise PlacementMismatch(problems, _EMPTY_HINT)


async def _look(
    connection: ControlConnection, database: Database, shard: int, one: Replaced, moved: Container[TableName]
) -> str:
    """Keep everybody from a table, and return why it cannot be placed anew, '' if it can."""
    if not await _is_there(connection, one.table):
        return ""
    named = one.named
    quoted, name = quote_table(one.table), database.shards[shard]
    if named is not None or not one.only_if_absent:
        await connection.execute(f"LOCK TABLE {quoted} IN ACCESS EXCLUSIVE MODE")

    def placed_so(root: TableName) -> bool:
        return root not in moved and database.placement(root) == named

    if named is not None and await placed_by_kin(connection, one.table, is_so=placed_so):
        return ""  # a partition is placed as its parent, named or not
    if one.only_if_absent:
        return f"{one}, and is there on shard {name}"
    if await connection.fetchval(f"SELECT EXISTS (SELECT FROM {quoted})"):  # noqa: S608 - quoted
        return f"{one}, and has rows on shard {name}, which do not move by themselves"
    return ""


async def _is_there(connection: ControlConnection, table: TableName) -> bool:
    there: bool = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", quote_table(table))
    return there
