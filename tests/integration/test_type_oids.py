"""Types that have another OID on each shard: to a client they are the home shard's, whatever it sends or reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.integration.conftest import Lane, Town
    from wire_client import Twins

    Connection = asyncpg.Connection[asyncpg.Record]

MAKE = (
    "CREATE TYPE mood AS ENUM ('sad', 'ok')",
    "CREATE DOMAIN grade AS numeric(5, 2) CHECK (value < 100)",
    "CREATE TYPE spot AS (x int4, m mood)",
    "CREATE TYPE moods AS RANGE (subtype = mood)",
    """CREATE TABLE made (k int8 PRIMARY KEY, m mood, many mood[], g grade, s spot, spots spot[], r moods)""",
)
DROP = (
    "DROP TABLE IF EXISTS made",
    "DROP TYPE IF EXISTS moods",
    "DROP TYPE IF EXISTS spot",
    "DROP DOMAIN IF EXISTS grade",
    "DROP TYPE IF EXISTS mood",
)
INSERT = "INSERT INTO made (k, m, many, g, s, spots) VALUES ($1, $2, $3, $4, $5, $6)"
NAMES = ("mood", "_mood", "grade", "spot", "_spot")
SELECT = "SELECT k, m, many, g, s, spots FROM made WHERE k = $1"


def row(key: int) -> tuple[Any, ...]:
    return key, "ok", ["sad", None, "ok"], key, (key, "sad"), [(1, "ok"), None, (key, None)]


def oid_of(town: Town, name: str) -> list[int]:
    """Return the OIDs of a type on the shards that have it (a regtype constant stays what it was when prepared)."""
    answers = town.everywhere(f"SELECT oid FROM pg_type WHERE typname = '{name}'")
    return [answer[0][0] for answer in answers if answer]


def told_apart(town: Town) -> None:
    """Make types, and see that no shard calls them as another does; counters of two servers may have met by chance."""
    for _ in range(4):
        make_types(town)
        if all(len(set(oid_of(town, name))) == len(town.shards) for name in NAMES):
            return
    pytest.fail("the shards' counters of OIDs stay together")


def make_types(town: Town) -> None:
    for number, dsn in enumerate(town.shards):
        with psycopg.connect(dsn, autocommit=True) as admin:
            for _ in range(7 * number):  # types are more than one apart, or an OID would mean another type elsewhere
                admin.execute("CREATE TYPE spare AS ENUM ('x')")
                admin.execute("DROP TYPE spare")
    with psycopg.connect(town.dsn, autocommit=True) as connection:
        for statement in (*DROP, *MAKE):
            connection.execute(statement.encode())


@pytest.fixture
def apart(lane: Lane) -> Iterator[Town]:
    town = lane.town
    told_apart(town)
    yield town
    with psycopg.connect(town.dsn, autocommit=True) as connection:
        for statement in DROP:
            connection.execute(statement.encode())


@pytest.fixture
async def connection(apart: Town) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(apart.dsn, timeout=30)
    yield connection
    await connection.close()


def plain(record: asyncpg.Record | None) -> tuple[Any, ...]:
    assert record is not None
    key, mood, many, grade, spot, spots = record
    return (
        key, mood, many, int(grade), tuple(spot), [None if one is None else tuple(one) for one in spots]
    )  # fmt: skip


async def test_asyncpg_sends_and_reads_them_in_binary(connection: Connection, apart: Town) -> None:
    for key in apart.spread:
        await connection.execute(INSERT, *row(key))
        assert plain(await connection.fetchrow(SELECT, key)) == row(key)
        assert (
            await connection.fetchval("SELECT m FROM made WHERE k = $1 AND m = $2 AND g = $3", key, "ok", key) == "ok"
        )
        assert await connection.fetchval("SELECT k FROM made WHERE k = $1 AND m = ANY ($2::mood[])", key, ["ok"]) == key
        # A row of the table's own type, and one of no type.
        whole = await connection.fetchval("SELECT made FROM made WHERE k = $1", key)
        assert (whole["m"], tuple(whole["s"])) == ("ok", (key, "sad"))
        assert await connection.fetchval("SELECT (k, m, many) FROM made WHERE k = $1", key) == row(key)[:3]
        assert apart.on_shard(apart.shard_of(key), "SELECT s FROM made WHERE k = %s", key) == [(f"({key},sad)",)]
    # Of several shards at once, in binary.
    assert [plain(one) for one in await connection.fetch("SELECT k, m, many, g, s, spots FROM made ORDER BY k")] == [
        row(key) for key in sorted(apart.spread)
    ]


async def test_asyncpg_in_blocks_and_pipelines(connection: Connection, apart: Town) -> None:
    async with connection.transaction():
        await connection.executemany(INSERT, [row(key) for key in range(1, 30)])
        assert plain(await connection.fetchrow(SELECT, 7)) == row(7)
        rows = [plain(one) async for one in connection.cursor(SELECT, apart.spread[2], prefetch=1)]
        assert rows == [row(apart.spread[2])]
    assert await connection.fetchval("SELECT count(*) FROM made WHERE m = $1", "ok") == 29


async def test_a_statement_from_before_the_types_were_made_anew(connection: Connection, apart: Town) -> None:
    for key in apart.spread:
        await connection.execute(INSERT, *row(key))
    await connection.execute("ALTER TABLE made ADD COLUMN more int4")  # prepared statements are planned anew
    for key in apart.spread:
        assert plain(await connection.fetchrow(SELECT, key)) == row(key)
        await connection.execute("DELETE FROM made WHERE k = $1", key)
        await connection.execute(INSERT, *row(key))


async def test_types_that_the_transaction_itself_has_made(connection: Connection, apart: Town) -> None:
    key = apart.spread[2]
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("CREATE TYPE fresh AS ENUM ('new')")
    await connection.execute("ALTER TABLE made ADD COLUMN f fresh, ADD COLUMN fs fresh[]")
    await connection.execute("INSERT INTO made (k, f, fs) VALUES ($1, $2, $3)", key, "new", ["new"])
    found = await connection.fetchrow("SELECT f, fs FROM made WHERE k = $1 AND f = $2", key, "new")
    assert found == ("new", ["new"])
    await transaction.rollback()
    assert await connection.fetchval("SELECT count(*) FROM made") == 0
    await connection.execute(INSERT, *row(key))
    assert plain(await connection.fetchrow(SELECT, key)) == row(key)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("prepare", [False, True])
def test_psycopg_by_oids_that_it_declares(apart: Town, *, binary: bool, prepare: bool) -> None:
    with psycopg.connect(apart.dsn, autocommit=True) as connection:
        found = EnumInfo.fetch(connection, "mood")
        assert found is not None
        register_enum(found, connection)
        spot = CompositeInfo.fetch(connection, "spot")
        assert spot is not None
        register_composite(spot, connection)
        mood, make = found.enum, spot.python_type
        assert mood is not None
        assert make is not None
        insert = "INSERT INTO made (k, m, many, s) VALUES (%s, %s, %s, %s)"
        insert = insert.replace("%s", "%b") if binary else insert
        for key in apart.spread:
            values = (key, mood["ok"], [mood["sad"], mood["ok"]], make(key, mood["sad"]))
            connection.execute(insert.encode(), values, prepare=prepare)
            read = "SELECT k, m, many, s FROM made WHERE k = %s AND m = %s"
            cursor = connection.execute(read.encode(), (key, mood["ok"]), binary=binary, prepare=prepare)
            assert cursor.fetchall() == [values]
            assert cursor.description is not None
            assert cursor.description[1].type_code == found.oid
            simple = psycopg.ClientCursor(connection).execute(f"SELECT m, many, s FROM made WHERE k = {key}")
            assert simple.fetchall() == [values[1:]]


async def test_pipelines_in_the_fast_lane(connection: Connection, apart: Town, lane: Lane) -> None:
    # A range comes with functions, and where there are any the lane is closed to most statements.
    await connection.execute("ALTER TABLE made DROP COLUMN r; DROP TYPE moods")
    for key in apart.spread:
        await connection.execute(INSERT, *row(key))
    before = lane.count()
    for _ in range(10):
        for key in apart.spread:
            assert [plain(one) for one in await connection.fetch(SELECT, key)] == [row(key)]
    assert lane.count() - before >= 15  # not the first of each on a link
    with psycopg.connect(apart.dsn, autocommit=True) as client:
        before = lane.count()
        for _ in range(10):
            for key in apart.spread:
                found = client.execute(b"SELECT m, s FROM made WHERE k = %s", (key,), binary=True)
                assert found.description is not None
                assert found.description[0].type_code == oid_of(apart, "mood")[0]
                simple = psycopg.ClientCursor(client).execute(f"SELECT m FROM made WHERE k = {key}")
                assert simple.description is not None
                assert simple.description[0].type_code == found.description[0].type_code
        assert lane.count() - before >= 30


async def test_a_type_that_a_shard_lacks_is_refused(connection: Connection, apart: Town) -> None:
    await connection.execute("SELECT 1")
    with psycopg.connect(apart.shards[0], autocommit=True) as admin:  # behind the proxy's back, on home alone
        admin.execute("CREATE TYPE lonely AS ENUM ('x')")
    try:
        await connection.execute("CREATE TYPE spare AS ENUM ('x'); DROP TYPE spare")  # the catalog is read again
        oid = oid_of(apart, "lonely")[0]
        with psycopg.connect(apart.dsn, autocommit=True) as client:
            for key in apart.spread[1:]:
                result = client.pgconn.exec_params(
                    b"SELECT k, $2 FROM made WHERE k = $1", [str(key).encode(), b"x"], [20, oid]
                )
                assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"0A000", result.error_message
                assert b"does not have the type" in result.error_message
                assert client.execute("SELECT 1").fetchone() == (1,)
    finally:
        with psycopg.connect(apart.shards[0], autocommit=True) as admin:
            admin.execute("DROP TYPE lonely")


def test_tables_are_told_by_their_names(twins: Twins) -> None:
    """A table's number is each server's own; as a name it is the same on all."""
    twins.query("create table made (k int8, n int4) partition by range (n)")
    twins.query("create table made_low partition of made for values from (0) to (10)")
    twins.query("create table made_high partition of made for values from (10) to (100)")
    try:
        twins.query("insert into made select g, g from generate_series(1, 25) g")
        for text in (
            "select tableoid::regclass, k from made order by k",
            "select m.tableoid::regclass as part, k from made m order by k desc limit 4",
            "select k from made where tableoid = 'made_low'::regclass order by k",
            "select k from made where 'made_low'::regclass <> tableoid::regclass order by k",
            "select k from made where tableoid::regclass::text like '%high' order by k",
            """select k from made a where exists (select 1 from made b where tableoid = 'made_low'::regclass
               and b.k = a.k) order by k""",
            "delete from made where tableoid = 'made_high'::regclass and k > 15",
            "select count(*) from made",
        ):
            twins.query(text)
        for text in (
            "select tableoid::regclass::text, count(*) from made group by 1",
            "select distinct tableoid::regclass::text from made",
            "update made set n = n where k < 12 returning tableoid::regclass, k",
        ):
            answers = [client.rows(text) for client in (twins.one, twins.proxy)]
            assert sorted(map(str, answers[1])) == sorted(map(str, answers[0]))
    finally:
        twins.query("drop table made")
