"""Copies that must be alike: reference tables on all shards; and sequences, of which only home's may give numbers.

A reference table is compared at one moment of all shards: snapshots are taken behind the fence, as a read of several
shards does, and the rows are then hashed in batches, each row as a text with its columns in home's order. Sums of two
64-bit hashes do not depend on the order of rows, and tell tables apart that differ in any row.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.doctor import scripts
from proxy.doctor.finding import HAND, PSQL, Command
from proxy.doctor.look import literal, words
from proxy.doctor.rows import batches, placed
from proxy.errors import ProxyError
from proxy.shards.errors import ShardError
from proxy.twophase.fence import Fence, FenceLimits, FenceLostError
from router.cluster import Reference, Sharded
from router.own_schema import quote_identifier, quote_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.doctor.look import Look
    from proxy.shards.control import ControlConnection
    from router.catalog import Catalog, Column
    from router.cluster import TableName
    from router.relation import Relation

ATTEMPTS: Final = 3
# Sequences that are there, whether they are at their end, and what takes them to it.
COPIES: Final = """SELECT coalesce(json_agg(json_build_array(format('%I.%I', schemaname, sequencename),
        CASE WHEN increment_by > 0 THEN max_value ELSE min_value END) ORDER BY 1::text), '[]')::text
    FROM pg_sequences WHERE schemaname !~ '^pg_' AND schemaname NOT IN ('information_schema', 'pgchorus')
        AND (cycle OR last_value IS DISTINCT FROM CASE WHEN increment_by > 0 THEN max_value ELSE min_value END)"""


DESCENDING: Final = "SELECT (seqincrement < 0)::text FROM pg_sequence WHERE seqrelid = to_regclass($1)"


class _Content(NamedTuple):
    """What a table holds: how many rows, and the sums of two hashes."""

    rows: int
    first: int
    second: int


async def look_at_references(look: Look) -> None:
    """Compare every reference table's copies."""
    catalog = look.catalog
    if catalog is None or not look.many or not look.options.rows or not look.whole:
        return
    if look.epoch is None:
        return  # there is no fence: said with the placements
    limits = FenceLimits(**look.config.limits.group("fence"))
    names = look.database.shards
    fence = Fence(look.control, cluster=look.config.cluster.name, names=names, epoch=look.epoch, limits=limits)
    drifted = {finding.thing for finding in look.findings if finding.kind.name in {"drift-column", "table-missing"}}
    for table, placement in sorted(look.database.placements.items()):
        relation = catalog.relation(table.schema, table.name)
        if not isinstance(placement, Reference) or relation is None or {str(table), quote_table(table)} & drifted:
            continue
        look.say(f"{look.database.name}: the copies of {table}")
        try:
            await _compare(look, fence, relation)
        except (ShardError, ProxyError) as error:
            look.add("look-incomplete", (), table, words(error), Command(HAND, "mend what it says, then look again"))


async def _compare(look: Look, fence: Fence, relation: Relation) -> None:
    columns = [column.name for column in relation.columns if not column.generated]
    for attempt in range(1, ATTEMPTS + 1):
        async with AsyncExitStack() as stack:
            links = {shard: await stack.enter_async_context(look.link(shard)) for shard in look.up}
            try:
                async with fence.hold(look.up) as held:
                    await asyncio.gather(*(_snapshot(link) for link in links.values()))
                    await held.release_confirmed()
                contents = await asyncio.gather(*(_content(look, link, relation, columns) for link in links.values()))
            except FenceLostError:
                if attempt == ATTEMPTS:
                    raise
                continue
            finally:
                await asyncio.gather(*(link.execute("ROLLBACK") for link in links.values() if not link.usable))
        _differences(look, relation, columns, dict(zip(links, contents, strict=True)))
        return


async def _snapshot(link: ControlConnection) -> None:
    await link.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1")


async def _content(look: Look, link: ControlConnection, relation: Relation, columns: list[str]) -> _Content:
    row = ", ".join(quote_identifier(column) for column in columns)
    query = (
        "SELECT json_build_array(count(*), coalesce(sum(hashtextextended(r, 0)), 0)::text,"  # noqa: S608 - quoted
        " coalesce(sum(hashtextextended(r, 1)), 0)::text)::text"
        f" FROM (SELECT ROW({row})::text AS r FROM {{leaf}}) q"
    )
    total = _Content(0, 0, 0)
    here = await placed(link, relation.name, columns[0] if columns else "")
    for leaf in here.leaves if here is not None else ():
        async for rows, first, second in batches(look, link, leaf, query):
            total = _Content(total.rows + rows, total.first + int(first), total.second + int(second))
    look.rows_read += total.rows
    return total


def _differences(look: Look, relation: Relation, columns: list[str], contents: Mapping[int, _Content]) -> None:
    home = contents[look.home]
    for shard, content in contents.items():
        if content == home:
            continue
        detail = (
            f"{content.rows} rows, at home {home.rows}"
            if content.rows != home.rows
            else f"of {home.rows} rows some are others"
        )
        text = scripts.copy_table(look, relation.name, columns, shard, relation.referenced_by)
        look.add("reference-differs", shard, relation.name, detail, Command(PSQL, text))


# --- sequences -------------------------------------------------------------------------------------------------------


async def look_at_sequences(look: Look) -> None:
    """Compare sequences with their columns, and see that the copies away from home are spent."""
    catalog = look.catalog
    if catalog is None:
        return
    for shard, rows in (await look.ask_all(COPIES)).items() if look.many else ():
        for name, end in rows if shard != look.home else ():
            spend = look.sql(shard, f"ALTER SEQUENCE {name} NO CYCLE; SELECT setval({literal(name)}, {end})")
            look.add("sequence-copy-alive", shard, name, "gives numbers", spend)
    if not look.options.rows:
        return
    for relation in catalog.relations:
        for column in relation.columns:
            if relation.is_table and column.sequence is not None and not relation.partition:
                await _behind(look, catalog, relation, column, column.sequence)


async def _behind(look: Look, catalog: Catalog, relation: Relation, column: Column, sequence: TableName) -> None:
    spread = isinstance(catalog.table_placement(relation.name), Sharded)
    table, name = quote_table(relation.name), quote_table(sequence)
    # The greatest number first: what comes meanwhile, the sequence has given before it is asked.
    query = f"SELECT max({quote_identifier(column.name)})::bigint FROM {table}"  # noqa: S608 - quoted
    if await look.ask(look.home, DESCENDING, name):
        return  # a descending one: nobody's default
    greatest = None
    for shard in look.up if spread else [look.home]:
        async with look.link(shard) as connection:
            here = await connection.fetchval(query)
        if here is not None and (greatest is None or here > greatest):
            greatest = here
    async with look.link(look.home) as connection:
        step = f"(SELECT seqincrement FROM pg_sequence WHERE seqrelid = {literal(name)}::regclass)"  # noqa: S608 - quoted
        following = await connection.fetchval(
            f"SELECT last_value + CASE WHEN is_called THEN {step} ELSE 0 END FROM {name}"  # noqa: S608 - quoted
        )
    if greatest is not None and following is not None and following <= greatest:
        detail = f"its next number is {following}, and {relation.name}.{column.name} has {greatest} already"
        look.add(
            "sequence-behind",
            look.home,
            sequence,
            detail,
            look.sql(look.home, f"SELECT setval({literal(name)}, {greatest})"),
        )
