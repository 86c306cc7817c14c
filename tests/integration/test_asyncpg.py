"""asyncpg programs, as in its tutorial and documentation."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from eventually import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import Town

    Connection = asyncpg.Connection[Any]


@pytest.fixture
async def connection(any_town: Town) -> AsyncIterator[Connection]:
    opened = await asyncpg.connect(any_town.dsn)
    try:
        yield opened
    finally:
        await opened.close()


async def fill(connection: Connection, count: int = 30) -> None:
    await connection.executemany(
        "INSERT INTO notes VALUES ($1, $2)", [(key, f"note {key}") for key in range(1, count + 1)]
    )


async def test_fetching(connection: Connection) -> None:
    await fill(connection)
    assert await connection.fetchval("SELECT count(*) FROM notes") == 30
    assert await connection.fetchrow("SELECT k, v FROM notes WHERE k = $1", 7) == (7, "note 7")
    assert await connection.fetchval("SELECT v FROM notes WHERE k = $1", 3000) is None
    rows = await connection.fetch("SELECT k, v FROM notes ORDER BY k DESC LIMIT 3")
    assert [row["k"] for row in rows] == [30, 29, 28]
    rows = await connection.fetch("SELECT k FROM notes WHERE k = ANY($1::int8[]) ORDER BY k", [3, 1, 20, 99])
    assert [row["k"] for row in rows] == [1, 3, 20]
    rows = await connection.fetch("SELECT k FROM notes WHERE k IN ($1, $2) AND v LIKE $3", 3, 4, "note%")
    assert sorted(row["k"] for row in rows) == [3, 4]
    assert await connection.execute("UPDATE notes SET n = $1 WHERE k > $2", 5, 10) == "UPDATE 20"
    assert await connection.fetchval("SELECT sum(n) FROM notes") == 100
    assert await connection.fetchval("INSERT INTO notes VALUES ($1, $2) RETURNING v || $3", 100, "x", "y") == "xy"


async def test_executemany_is_one_transaction(connection: Connection, any_town: Town) -> None:
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.executemany("INSERT INTO notes VALUES ($1, 'x')", [(key,) for key in [*range(1, 20), 5]])
    assert any_town.stored() == []
    rows = await connection.fetchmany(
        "INSERT INTO notes VALUES ($1, $2) RETURNING k", [(key, "x") for key in range(1, 10)]
    )
    assert sorted(row["k"] for row in rows) == list(range(1, 10))


async def test_prepared(connection: Connection) -> None:
    await fill(connection)
    statement = await connection.prepare("SELECT k, v FROM notes WHERE k = $1")
    assert [(one.name, one.type.name) for one in statement.get_attributes()] == [("k", "int8"), ("v", "text")]
    assert [one.name for one in statement.get_parameters()] == ["int8"]
    for key in range(1, 31):
        assert await statement.fetchval(key, column=1) == f"note {key}"
    async with connection.transaction():
        assert await statement.fetch(5) == [(5, "note 5")]
        assert statement.get_statusmsg() == "SELECT 1"
    everything = await connection.prepare("SELECT count(*) FROM notes WHERE n IS NOT DISTINCT FROM $1")
    assert await everything.fetchval(None) == 30
    with pytest.raises(asyncpg.DataError):
        await statement.fetchval("no number")


async def test_cursors(connection: Connection, any_town: Town) -> None:
    await fill(connection, 200)
    for query, expected in (
        ("SELECT k FROM notes ORDER BY k", list(range(1, 201))),
        ("SELECT generate_series(1, 300)", list(range(1, 301))),
    ):
        async with connection.transaction():
            assert [record[0] async for record in connection.cursor(query, prefetch=7)] == expected
        async with connection.transaction():
            cursor = await connection.cursor(query)
            assert (await cursor.fetchrow())[0] == 1
            assert [record[0] for record in await cursor.fetch(3)] == [2, 3, 4]
            assert len(await cursor.fetch(1000)) == len(expected) - 4
            assert await cursor.fetchrow() is None
    async with connection.transaction():
        cursor = await connection.cursor("SELECT generate_series(1, 300)")
        assert await cursor.forward(10) == 10
        assert (await cursor.fetchrow())[0] == 11
    async with connection.transaction():
        first = connection.cursor("SELECT k FROM notes ORDER BY k", prefetch=2)
        async for record in first:
            assert await connection.fetchval("SELECT v FROM notes WHERE k = $1", record["k"]) == f"note {record['k']}"
            if record["k"] == 5:
                break
        await connection.execute("UPDATE notes SET v = 'x'")
    assert {v for _, v in any_town.stored()} == {"x"}


async def test_transactions_in_transactions(connection: Connection, any_town: Town) -> None:
    a, b, c = any_town.spread
    async with connection.transaction():
        await connection.execute("INSERT INTO notes VALUES ($1, 'a')", a)
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - what is taken back is the point
            async with connection.transaction():
                await connection.execute("INSERT INTO notes VALUES ($1, 'b')", b)
                raise ZeroDivisionError
        with pytest.raises(asyncpg.CheckViolationError):
            async with connection.transaction():
                await connection.execute("INSERT INTO notes VALUES ($1, 'b', -1)", b)
        async with connection.transaction():
            await connection.execute("INSERT INTO notes VALUES ($1, 'c')", c)
        assert connection.is_in_transaction()
    assert any_town.stored() == sorted([(a, "a"), (c, "c")])
    with pytest.raises(asyncpg.CheckViolationError):  # noqa: PT012 - what is taken back is the point
        async with connection.transaction():
            await connection.execute("DELETE FROM notes")
            await connection.execute("INSERT INTO notes VALUES ($1, 'b', -1)", b)
    assert any_town.stored() == sorted([(a, "a"), (c, "c")])
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        async with connection.transaction(readonly=True):
            await connection.execute("DELETE FROM notes WHERE k = $1", a)


async def test_copying(connection: Connection, any_town: Town) -> None:
    records = [(key, f"note {key}", key) for key in range(1, 501)]
    assert await connection.copy_records_to_table("notes", records=records) == "COPY 500"
    out = io.BytesIO()
    assert await connection.copy_from_table("notes", output=out, format="csv") == "COPY 500"
    assert sorted(out.getvalue().decode().splitlines()) == sorted(f"{k},{v},{n}" for k, v, n in records)
    binary = io.BytesIO()
    assert await connection.copy_from_table("notes", output=binary, format="binary") == "COPY 500"
    await connection.execute("TRUNCATE notes")
    binary.seek(0)
    assert await connection.copy_to_table("notes", source=binary, format="binary") == "COPY 500"
    assert len(any_town.stored()) == 500
    out = io.BytesIO()
    assert await connection.copy_from_query("SELECT v FROM notes WHERE k = $1", 7, output=out) == "COPY 1"
    assert out.getvalue() == b"note 7\n"
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.copy_records_to_table("notes", records=[(1000, "new", 1), (7, "again", 1)])
    assert len(any_town.stored()) == 500
    with pytest.raises(asyncpg.UniqueViolationError):  # noqa: PT012 - what is taken back is the point
        async with connection.transaction():
            await connection.execute("DELETE FROM notes WHERE k < 100")
            await connection.copy_records_to_table("notes", records=[(7, "first", 1), (7, "again", 1)])
    assert len(any_town.stored()) == 500


async def test_a_copy_whose_source_fails(connection: Connection, any_town: Town) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"1\tone\t1\n"
        yield b"2\ttwo\t1\n3\tthree\t1\n"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await connection.copy_to_table("notes", source=source())
    assert any_town.stored() == []
    assert await connection.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("query", ["SELECT pg_sleep(30)", "SELECT v, pg_sleep(30) FROM notes"])
async def test_timeouts_and_cancels(connection: Connection, any_town: Town, query: str) -> None:
    await fill(connection)
    with pytest.raises(TimeoutError):
        await connection.fetch(query, timeout=0.3)
    assert await connection.fetchval("SELECT count(*) FROM notes") == 30
    task = asyncio.ensure_future(connection.fetch(query))
    sleeping = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    await eventually(lambda: any(any_town.everywhere(sleeping)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await connection.fetchval("SELECT count(*) FROM notes") == 30
    await connection.execute("SET statement_timeout = '50ms'")
    with pytest.raises(asyncpg.QueryCanceledError, match="statement timeout"):
        await connection.fetch(query)
    await connection.execute("RESET statement_timeout")


async def test_a_pool(any_town: Town) -> None:
    async with asyncpg.create_pool(any_town.dsn, min_size=2, max_size=5) as pool:

        async def work(key: int) -> None:
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute("SET work_mem = '7MB'")
                await connection.execute("INSERT INTO notes VALUES ($1, 'x'), ($2, 'y')", key, key + 500)

        await asyncio.gather(*(work(key) for key in range(1, 41)))
        assert await pool.fetchval("SELECT count(*) FROM notes") == 80
        assert await pool.fetchval("SHOW work_mem") == "4MB"
        async with pool.acquire() as connection:
            await connection.execute("SET application_name = 'mine'")
            await connection.execute("LISTEN news")
        async with pool.acquire() as connection:
            assert await connection.fetchval("SHOW application_name") == ""


async def test_reset(connection: Connection) -> None:
    await connection.execute("SET work_mem = '7MB'; SET search_path = nowhere")
    await connection.reset()
    assert await connection.fetchval("SHOW work_mem") == "4MB"
    assert await connection.fetchval("SELECT count(*) FROM notes") == 0


async def test_own_types(connection: Connection) -> None:
    await connection.execute("DROP TABLE IF EXISTS made; DROP TYPE IF EXISTS mood; DROP TYPE IF EXISTS spot")
    await connection.execute("CREATE TYPE mood AS ENUM ('sad', 'ok')")
    await connection.execute("CREATE TYPE spot AS (x int4, y text)")
    await connection.execute("CREATE TABLE made (k int8 PRIMARY KEY, m mood, s spot, tags text[], more int4[])")
    await connection.executemany(
        "INSERT INTO made VALUES ($1, $2, $3, $4, $5)",
        [(key, "ok", (key, "here"), ["a", None, "c"], [key, key]) for key in range(1, 10)],
    )
    row = await connection.fetchrow("SELECT * FROM made WHERE k = $1", 3)
    assert row is not None
    assert (row["m"], row["s"]["x"], row["s"]["y"], row["tags"], row["more"]) == (
        "ok",
        3,
        "here",
        ["a", None, "c"],
        [3, 3],
    )
    await connection.execute("DROP TABLE made; DROP TYPE mood; DROP TYPE spot")


async def test_notices_listeners_and_settings(connection: Connection, any_town: Town) -> None:
    heard: list[str] = []
    connection.add_log_listener(lambda _, message: heard.append(message.message))
    await connection.execute("DROP TABLE IF EXISTS nothing_of_that_name")
    assert heard == ['table "nothing_of_that_name" does not exist, skipping']
    notified: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    await connection.add_listener("news", lambda *arguments: notified.set_result(arguments[-1]))
    other = await asyncpg.connect(any_town.dsn)
    await other.execute("SELECT pg_notify('news', 'hello')")
    assert await asyncio.wait_for(notified, 10) == "hello"
    await other.close()
    assert connection.get_settings().client_encoding == "UTF8"
    assert connection.get_server_version().major == 18


async def test_schema_changes_are_noticed(connection: Connection) -> None:
    await connection.execute("DROP TABLE IF EXISTS made; CREATE TABLE made (k int8 PRIMARY KEY, v text)")
    await connection.execute("INSERT INTO made SELECT 1, 'one' WHERE true")
    query = "SELECT * FROM made WHERE k = $1"
    assert await connection.fetchrow(query, 1) == (1, "one")
    await connection.execute("ALTER TABLE made ADD COLUMN more int4 DEFAULT 5")
    assert await connection.fetchrow(query, 1) == (1, "one", 5)
    await connection.execute("ALTER TABLE made DROP COLUMN v")
    assert await connection.fetchrow(query, 1) == (1, 5)
    await connection.execute("DROP TABLE made")
