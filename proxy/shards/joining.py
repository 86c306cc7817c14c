"""A shard that joins the others: what has to be there before it may, and what is done to it.

A shard that joins has no slots, so no row of a sharded table moves. It has to have what every shard has: the schema,
which who adds it brings (docs/operations.md), and the copies of reference tables, which are filled here where they are
empty. Both are compared, not trusted, while nobody can write (the copies are locked on every shard) or commit DDL.

Decides what is compared: the definitions with those of another shard that is not home (home has more than others),
object by object as ``pgchorus doctor`` reads them, and the rows of each reference table, by two sums of hashes that do
not depend on their order. Left to others: when (:mod:`proxy.shards.replacing`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from proxy.shards.copying import copy_table
from proxy.shards.drift_sql import OBJECTS
from router.cluster import Reference, Sharded
from router.own_schema import quote_identifier, quote_table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from proxy.shards.control import ControlConnection
    from router.cluster import Database, TableName

_SHOWN: Final = 5
_TABLES: Final = """SELECT coalesce(json_agg(format('%I.%I', n.nspname, c.relname)), '[]')::text
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgchorus')"""
_VERSION: Final = "SELECT current_setting('server_version_num')::int / 10000"
_PREPARED: Final = """SELECT count(*) FROM pg_prepared_xacts
    WHERE database = current_database() AND starts_with(gid, 'pgchorus:')"""
_COLUMNS: Final = """SELECT json_agg(attname ORDER BY attname)::text FROM pg_attribute
    WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"""
# The copies of home's sequences give no numbers: who asks one by mistake hears of it.
_SPEND: Final = """DO $$ DECLARE s record; BEGIN
    FOR s IN SELECT schemaname, sequencename,
            CASE WHEN increment_by > 0 THEN max_value ELSE min_value END AS last
        FROM pg_catalog.pg_sequences
        WHERE schemaname !~ '^pg_' AND schemaname NOT IN ('information_schema', 'pgchorus')
    LOOP
        EXECUTE format('ALTER SEQUENCE %I.%I NO CYCLE', s.schemaname, s.sequencename);
        PERFORM pg_catalog.setval(format('%I.%I', s.schemaname, s.sequencename)::regclass, s.last);
    END LOOP;
END $$"""


def reference_tables(database: Database) -> list[TableName]:
    """Return the tables of which every shard has a copy."""
    return sorted(table for table, one in database.placements.items() if isinstance(one, Reference))


async def lock_copies(connection: ControlConnection, database: Database) -> None:
    """Let nobody write what is compared, until the open transaction ends."""
    for table in await _there(connection, reference_tables(database)):
        await connection.execute(f"LOCK TABLE {quote_table(table)} IN SHARE MODE")


async def join(held: Mapping[int, ControlConnection], database: Database, joining: Sequence[int]) -> list[str]:
    """Compare the shards that join with the others, in transactions that hold the locks, and fill empty copies there.

    Returns what is wrong: then nothing of it may be committed.
    """
    old = [shard for shard in held if shard not in joining]
    model = held[min(shard for shard in old if shard != database.home)]
    objects, version = await _objects(model), await model.fetchval(_VERSION)
    problems = []
    for shard in joining:
        connection, name = held[shard], database.shards[shard]
        if await connection.fetchval(_VERSION) != version:
            problems.append(f"shard {name} has another major version than shard {model.name}")
        elif await connection.fetchval(_PREPARED):
            problems.append(f"shard {name} has prepared transactions of pgchorus")
        elif differs := objects ^ await _objects(connection):
            problems.append(f"shard {name} has not the schema of shard {model.name}: they differ in {_listed(differs)}")
        else:
            problems += [problem async for problem in _rows(model, connection, database)]
            await connection.execute(_SPEND)
    return problems


def _listed(differs: set[tuple[Any, ...]]) -> str:
    named = sorted({" ".join(filter(None, (kind, thing, owner and "of", owner))) for kind, owner, thing, *_ in differs})
    return ", ".join(named[:_SHOWN]) + (f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else "")


async def _rows(model: ControlConnection, joins: ControlConnection, database: Database) -> AsyncIterator[str]:
    """Fill the copies of reference tables, and yield what is wrong with rows that are there."""
    await joins.execute("SET LOCAL session_replication_role = replica")  # rows come as they are
    for table in await _there(model, reference_tables(database)):
        columns = json.loads(await model.fetchval(_COLUMNS, quote_table(table)) or "[]")
        if not await _has_rows(joins, table):
            await copy_table(model, joins, (table.schema, table.name), columns)
        if await _content(joins, table, columns) != await _content(model, table, columns):
            yield f"shard {joins.name} has other rows in the reference table {table} than shard {model.name}"
    await joins.execute("SET LOCAL session_replication_role = DEFAULT")
    sharded = [table for table, one in database.placements.items() if isinstance(one, Sharded)]
    for table in await _there(joins, sorted(sharded)):
        if await _has_rows(joins, table):
            yield f"shard {joins.name} has rows in {table}, and no slots"


async def _has_rows(connection: ControlConnection, table: TableName) -> bool:
    found: bool = await connection.fetchval(f"SELECT EXISTS (SELECT FROM {quote_table(table)})")  # noqa: S608 - quoted
    return found


async def _there(connection: ControlConnection, tables: Sequence[TableName]) -> list[TableName]:
    return [
        table for table in tables if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", quote_table(table))
    ]


async def _objects(connection: ControlConnection) -> set[tuple[Any, ...]]:
    """Return what there is, without what would mend it."""
    tables = json.loads(await connection.fetchval(_TABLES))
    found = json.loads(await connection.fetchval(OBJECTS, tables) or "[]")
    return {(kind, owner, name, shape, definition) for kind, owner, name, shape, definition, *_ in found} | {
        ("table", "", name, "", "") for name in tables
    }


async def _content(connection: ControlConnection, table: TableName, columns: Sequence[str]) -> tuple[object, ...]:
    """Return how many rows a table has, and the sums of two hashes."""
    row = ", ".join(map(quote_identifier, columns))
    (content,) = await connection.fetch(
        "SELECT count(*), sum(hashtextextended(r, 0))::text, sum(hashtextextended(r, 1))::text"  # noqa: S608 - quoted
        f" FROM (SELECT ROW({row})::text AS r FROM {quote_table(table)}) q"
    )
    return tuple(content)
