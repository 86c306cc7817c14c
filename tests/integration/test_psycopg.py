"""psycopg 3 programs, as in its documentation."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Town

Connection = psycopg.Connection[Any]


@pytest.fixture
def connection(any_town: Town) -> Iterator[Connection]:
    with closing(psycopg.connect(any_town.dsn)) as opened:
        yield opened


@pytest.fixture(params=[psycopg.Cursor, psycopg.ClientCursor, psycopg.RawCursor], ids=["server", "client", "raw"])
def cursor(request: pytest.FixtureRequest, connection: Connection) -> Any:
    """A cursor that binds on the server, in the client, or with $1."""
    return request.param(connection)


def place(cursor: Any, query: LiteralString) -> LiteralString:
    """Write a query's %s as this cursor wants them."""
    if not isinstance(cursor, psycopg.RawCursor):
        return query
    first, *rest = query.split("%s")
    return first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))  # type: ignore[return-value]


def fill(connection: Connection, count: int = 30) -> None:
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO notes VALUES (%s, %s)", [(key, f"note {key}") for key in range(1, count + 1)])
    connection.commit()


def test_reading_and_writing(cursor: Any, connection: Connection, any_town: Town) -> None:
    fill(connection)
    cursor.execute(place(cursor, "SELECT v FROM notes WHERE k = %s"), (7,))
    assert cursor.fetchone() == ("note 7",)
    cursor.execute(place(cursor, "SELECT k FROM notes WHERE k = ANY(%s) ORDER BY k"), ([3, 20, 99],))
    assert cursor.fetchall() == [(3,), (20,)]
    cursor.execute(place(cursor, "SELECT count(*), sum(k) FROM notes WHERE k > %s AND v <> %s"), (10, "it's \\ %"))
    assert cursor.fetchone() == (20, 410)
    cursor.execute(place(cursor, "UPDATE notes SET v = %s WHERE k IN (%s, %s)"), ("x", 1, 2))
    assert cursor.rowcount == 2
    cursor.execute(place(cursor, "INSERT INTO notes (k, v) VALUES (%s, %s), (%s, %s)"), (101, None, 102, ""))
    assert cursor.rowcount == 2
    connection.rollback()
    assert any_town.stored() == [(key, f"note {key}") for key in range(1, 31)]
    cursor.execute(place(cursor, "DELETE FROM notes WHERE k >= %s"), (5,))
    connection.commit()
    assert len(any_town.stored()) == 4


def test_key_types(cursor: Any, any_town: Town) -> None:
    for word in ("plain", "quo'te", "back\\slash", "é ü 😀", "", "12"):
        cursor.execute(place(cursor, "INSERT INTO words VALUES (%s, %s)"), (word, len(word)))
        cursor.execute(place(cursor, "SELECT n FROM words WHERE word = %s"), (word,))
        assert cursor.fetchone() == (len(word),)
    cursor.connection.commit()
    for key in (0, -1, 2**31, -(2**63), 2**63 - 1):
        cursor.execute(place(cursor, "INSERT INTO notes (k) VALUES (%s)"), (key,))
        cursor.execute(place(cursor, "SELECT k FROM notes WHERE k = %s"), (key,))
        assert cursor.fetchone() == (key,)
    cursor.connection.commit()
    for shard, rows in enumerate(any_town.everywhere("SELECT word FROM words")):
        assert all(any_town.shard_of(word) == shard for (word,) in rows)


def test_binary(connection: Connection) -> None:
    fill(connection)
    with connection.cursor(binary=True) as cursor:
        cursor.execute("SELECT k, v, k::numeric / 2, now() IS NOT NULL FROM notes WHERE k = %b", (7,))
        assert cursor.fetchone() is not None
        cursor.execute("SELECT k, n FROM notes ORDER BY k DESC LIMIT 2")
        assert cursor.fetchall() == [(30, None), (29, None)]
        cursor.execute("SELECT count(*), avg(k) FROM notes")
        count, average = cursor.fetchone() or (0, 0)
        assert (count, float(average)) == (30, 15.5)


def test_context_managers(any_town: Town) -> None:
    a, b, c = any_town.spread
    with psycopg.connect(any_town.dsn) as connection:
        connection.execute("INSERT INTO notes VALUES (%s, 'a')", (a,))
        connection.execute("INSERT INTO notes VALUES (%s, 'b')", (b,))
    assert any_town.stored() == sorted([(a, "a"), (b, "b")])
    with pytest.raises(ZeroDivisionError), psycopg.connect(any_town.dsn) as connection:  # noqa: PT012 - as it is written
        connection.execute("INSERT INTO notes VALUES (%s, 'c')", (c,))
        raise ZeroDivisionError
    assert any_town.stored() == sorted([(a, "a"), (b, "b")])
    with psycopg.connect(any_town.dsn, autocommit=True) as connection, connection.transaction():
        connection.execute("INSERT INTO notes VALUES (%s, 'c')", (c,))
        with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction("inner"):  # noqa: PT012 - the same
            connection.execute("DELETE FROM notes WHERE k = %s", (a,))
            connection.execute("INSERT INTO notes VALUES (%s, 'again')", (b,))
        with connection.transaction() as inner:
            connection.execute("DELETE FROM notes")
            raise psycopg.Rollback(inner)
    assert any_town.stored() == sorted([(a, "a"), (b, "b"), (c, "c")])


def test_pipeline(connection: Connection, any_town: Town) -> None:
    fill(connection)
    with connection.pipeline():
        found = [connection.execute("SELECT v FROM notes WHERE k = %s", (key,)) for key in range(1, 31)]
        connection.execute("UPDATE notes SET v = 'x' WHERE k = 1")
        total = connection.execute("SELECT count(*) FROM notes")
        connection.execute("UPDATE notes SET v = 'y' WHERE k = 2")
        shown = connection.execute("SHOW TimeZone")
    assert [one.fetchone() for one in found] == [(f"note {key}",) for key in range(1, 31)]
    assert total.fetchone() == (30,)
    assert shown.fetchone() is not None
    connection.commit()
    assert any_town.stored()[:2] == [(1, "x"), (2, "y")]
    with pytest.raises(psycopg.errors.DivisionByZero), connection.pipeline():  # noqa: PT012 - as it is written
        connection.execute("UPDATE notes SET v = 'lost' WHERE k = 1")
        connection.execute("UPDATE notes SET v = 'lost' WHERE k = 2")
        connection.execute("SELECT 1 / 0")
        connection.execute("UPDATE notes SET v = 'lost' WHERE k = 3")
    connection.rollback()
    assert "lost" not in {v for _, v in any_town.stored()}
    connection.autocommit = True
    with connection.pipeline() as pipeline:
        connection.execute("UPDATE notes SET v = 'first' WHERE k = 1")
        connection.execute("UPDATE notes SET v = 'first' WHERE k = 2")
        pipeline.sync()
        connection.execute("UPDATE notes SET v = 'second' WHERE k = 3")
        bad = connection.execute("SELECT 1 / (k - 4) FROM notes WHERE k = 4")
        with pytest.raises(psycopg.errors.DivisionByZero):
            bad.fetchone()
        pipeline.sync()
        assert connection.execute("SELECT v FROM notes WHERE k = 3").fetchone() == ("note 3",)
    assert any_town.stored()[:3] == [(1, "first"), (2, "first"), (3, "note 3")]


def test_named_cursors(connection: Connection, any_town: Town) -> None:
    a = any_town.spread[0]
    connection.execute("INSERT INTO children SELECT %s, n FROM generate_series(1, 300) n", (a,))
    connection.execute("INSERT INTO parents VALUES (%s, 'a')", (a,))
    connection.commit()
    with connection.cursor("mine") as cursor:
        cursor.itersize = 17
        cursor.execute("SELECT id FROM children WHERE parent = %s ORDER BY id", (a,))
        assert [row[0] for row in cursor] == list(range(1, 301))
    with connection.cursor("other", scrollable=True) as cursor:
        cursor.execute("SELECT id FROM children WHERE parent = %s ORDER BY id", (a,))
        assert cursor.fetchone() == (1,)
        cursor.scroll(10)
        assert cursor.fetchmany(2) == [(12,), (13,)]
        cursor.scroll(0, mode="absolute")
        assert cursor.fetchone() == (1,)
    connection.commit()
    if len(any_town.shards) > 1:
        with connection.cursor("wide") as cursor:
            cursor.itersize = 17
            cursor.execute("SELECT id FROM children ORDER BY id")
            assert [row[0] for row in cursor] == list(range(1, 301))
        with connection.cursor("back", scrollable=True) as cursor, pytest.raises(psycopg.errors.FeatureNotSupported):
            cursor.execute("SELECT id FROM children")


def test_a_cursor_with_hold(connection: Connection, any_town: Town) -> None:
    a = any_town.spread[0]
    connection.execute("INSERT INTO parents VALUES (%s, 'a')", (a,))
    connection.commit()
    cursor = connection.cursor("held", withhold=True)
    cursor.execute("SELECT name FROM parents WHERE id = %s", (a,))
    connection.commit()
    connection.execute("SELECT 1")
    assert cursor.fetchall() == [("a",)]
    cursor.close()
    connection.commit()


def test_prepared_after_the_threshold(connection: Connection, any_town: Town) -> None:
    fill(connection)
    connection.prepare_threshold = 2
    connection.prepared_max = 3
    for number in range(40):
        key = number % 30 + 1
        assert connection.execute("SELECT v FROM notes WHERE k = %s", (key,)).fetchone() == (f"note {key}",)
        connection.execute("UPDATE notes SET n = n WHERE k = %s", (key,))
        connection.execute("SELECT count(*) FROM notes")
        connection.execute("SELECT k FROM notes ORDER BY k LIMIT 1")
        connection.execute("SELECT %s", (key,))
        if number % 7 == 0:
            connection.commit()
    connection.rollback()
    assert any_town.stored() == [(key, f"note {key}") for key in range(1, 31)]


def test_copy(connection: Connection, any_town: Town) -> None:
    rows = [(key, f"note\t{key}", None if key % 2 else key) for key in range(1, 301)]
    with connection.cursor() as cursor:
        with cursor.copy("COPY notes (k, v, n) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        assert cursor.rowcount == 300
        with cursor.copy("COPY notes TO STDOUT") as copy:
            copy.set_types(["int8", "text", "int4"])
            assert sorted(copy.rows(), key=lambda row: row[0]) == rows
        with cursor.copy("COPY notes TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int8", "text", "int4"])
            assert sorted(copy.rows(), key=lambda row: row[0]) == rows
        connection.rollback()
        assert any_town.stored() == []
        with cursor.copy("COPY notes FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int8", "text", "int4"])
            for row in rows:
                copy.write_row(row)
        connection.commit()
        assert len(any_town.stored()) == 300
        with pytest.raises(psycopg.errors.BadCopyFileFormat), cursor.copy("COPY notes FROM STDIN") as copy:
            copy.write(b"1000\ttoo\tmany\tcolumns\n")
        connection.rollback()
        with pytest.raises(ZeroDivisionError), cursor.copy("COPY notes FROM STDIN") as copy:  # noqa: PT012 - the same
            copy.write(b"1000\tx\t1\n1001\tx\t1\n")
            raise ZeroDivisionError
        connection.rollback()
        assert len(any_town.stored()) == 300


def test_types(town_of_1: Town) -> None:
    with closing(psycopg.connect(town_of_1.dsn)) as connection:
        check_types(connection)


def check_types(connection: Connection) -> None:
    connection.execute("DROP TABLE IF EXISTS made; DROP TYPE IF EXISTS mood; DROP TYPE IF EXISTS spot")
    connection.execute("CREATE TYPE mood AS ENUM ('sad', 'ok')")
    connection.execute("CREATE TYPE spot AS (x int4, y text)")
    connection.execute("CREATE TABLE made (k int8 PRIMARY KEY, m mood, s spot, j jsonb, t text[])")
    connection.commit()
    mood, spot = EnumInfo.fetch(connection, "mood"), CompositeInfo.fetch(connection, "spot")
    assert mood is not None
    assert spot is not None
    register_enum(mood, connection)
    register_composite(spot, connection)
    for key in range(1, 10):
        connection.execute(
            "INSERT INTO made VALUES (%s, %s, %s, %s, %s)",
            (key, "ok", spot.python_type(key, "here"), Jsonb({"a": [key]}), ["x", 'quo"te', None]),
        )
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute("SELECT * FROM made WHERE k = 4").fetchone()
        assert row is not None
        assert (row["m"].name, row["s"].x, row["j"], row["t"]) == ("ok", 4, {"a": [4]}, ["x", 'quo"te', None])
    connection.execute("DROP TABLE made; DROP TYPE mood; DROP TYPE spot")
    connection.commit()


def test_notices_and_errors(connection: Connection, any_town: Town) -> None:
    heard: list[str] = []
    connection.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
    connection.execute("DROP TABLE IF EXISTS nothing_of_that_name")
    assert heard == ['table "nothing_of_that_name" does not exist, skipping']
    a = any_town.spread[0]
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        connection.execute("INSERT INTO notes VALUES (%s, 'x', -1)", (a,))
    diagnostic = caught.value.diag
    assert (diagnostic.constraint_name, diagnostic.table_name, diagnostic.schema_name) == (
        "notes_n_check",
        "notes",
        "public",
    )
    assert connection.info.transaction_status is psycopg.pq.TransactionStatus.INERROR
    connection.rollback()
    with pytest.raises(psycopg.errors.UndefinedColumn) as caught:
        connection.execute(sql.SQL("SELECT {} FROM notes WHERE k = %s").format(sql.Identifier("no one")), (a,))
    assert caught.value.diag.statement_position == "8"
    connection.rollback()


def test_two_phase_commit_is_refused_over_several_shards(town: Town) -> None:
    with closing(psycopg.connect(town.dsn)) as connection:
        connection.tpc_begin(connection.xid(1, "gtrid", "bqual"))
        connection.execute("INSERT INTO notes VALUES (1, 'x')")
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            connection.tpc_prepare()
    with psycopg.connect(town.dsn, autocommit=True) as connection:
        for query in ("COMMIT PREPARED 'x'", "ROLLBACK PREPARED 'x'"):
            with pytest.raises(psycopg.errors.FeatureNotSupported):
                connection.execute(query)


def test_two_phase_commit_over_one_shard(town_of_1: Town) -> None:
    with closing(psycopg.connect(town_of_1.dsn)) as connection:
        for number, end in enumerate((connection.tpc_commit, connection.tpc_rollback)):
            connection.tpc_begin(connection.xid(1, f"gtrid {number}", "bqual"))
            connection.execute("INSERT INTO notes VALUES (%s, 'x')", (number,))
            connection.tpc_prepare()
            assert connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
            assert town_of_1.stored() == [(0, "x")][:number]
            end()
        assert town_of_1.stored() == [(0, "x")]
        connection.execute("INSERT INTO notes VALUES (5, 'y')")
        connection.commit()
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / 0")
        connection.execute("PREPARE TRANSACTION 'failed'")
        assert connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
        assert town_of_1.stored() == [(0, "x"), (5, "y")]


def test_cancel_and_timeouts(connection: Connection, any_town: Town) -> None:
    fill(connection)
    connection.execute("SET statement_timeout = '100ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute("SELECT pg_sleep(30) FROM notes")
    connection.rollback()
    connection.autocommit = True
    connection.execute("RESET statement_timeout")
    began = time.monotonic()
    with psycopg.connect(any_town.dsn) as holder:
        holder.execute("UPDATE notes SET v = 'held' WHERE k = 3")
        connection.execute("SET lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            connection.execute("UPDATE notes SET v = 'wanted'")
    assert time.monotonic() - began < 10
    assert {v for _, v in any_town.stored() if v == "wanted"} == set()


async def test_asynchronous(any_town: Town) -> None:
    a, b, c = any_town.spread
    async with await psycopg.AsyncConnection.connect(any_town.dsn) as connection:
        async with connection.cursor() as cursor:
            await cursor.execute("INSERT INTO notes VALUES (%s, 'a'), (%s, 'b'), (%s, 'c')", (a, b, c))
            await cursor.execute("SELECT v FROM notes ORDER BY v")
            assert [row[0] async for row in cursor] == ["a", "b", "c"]
        async with connection.pipeline():
            rows = [await connection.execute("SELECT v FROM notes WHERE k = %s", (key,)) for key in (a, b, c)]
        assert [await one.fetchone() for one in rows] == [("a",), ("b",), ("c",)]
    assert len(any_town.stored()) == 3
