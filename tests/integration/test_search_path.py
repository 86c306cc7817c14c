"""A name may mean another table when the search_path changes: also to what was prepared before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from tests.conftest import MakeDatabases, StartProxy

ROWS = 60


def test_prepared_statements_follow_the_search_path(make_databases: MakeDatabases, start_proxy: StartProxy) -> None:
    shards = make_databases(3)
    proxy = start_proxy(shards, {"things": {"key": "k"}})
    with psycopg.connect(proxy.dsn(shards[0].rpartition("/")[2]), autocommit=True) as client:
        client.execute("CREATE TABLE things (k int8 PRIMARY KEY)")
        client.execute(f"INSERT INTO things VALUES {', '.join(f'({k})' for k in range(ROWS))}")
        client.execute("CREATE SCHEMA other")
        client.execute("CREATE TABLE other.things (k int8)")  # at home, and empty

        def prepared() -> int:
            row = client.execute("SELECT count(*) FROM things", prepare=True).fetchone()
            assert row is not None
            return int(row[0])

        def executed() -> int:
            row = client.execute("EXECUTE counted").fetchone()
            assert row is not None
            return int(row[0])

        client.execute("SET search_path = other")
        client.execute("PREPARE counted AS SELECT count(*) FROM things")
        assert [prepared(), prepared(), executed()] == [0, 0, 0]
        client.execute("SET search_path = public")
        assert [prepared(), executed()] == [ROWS, ROWS]
        client.execute("SET search_path = other")
        assert [prepared(), executed()] == [0, 0]


def test_a_function_that_sets_the_search_path(make_databases: MakeDatabases, start_proxy: StartProxy) -> None:
    shards = make_databases(3)
    proxy = start_proxy(shards, {"things": {"key": "k"}})
    with psycopg.connect(proxy.dsn(shards[0].rpartition("/")[2]), autocommit=True) as client:
        client.execute("CREATE TABLE things (k int8 PRIMARY KEY)")
        client.execute(f"INSERT INTO things VALUES {', '.join(f'({k})' for k in range(ROWS))}")
        client.execute("CREATE SCHEMA other")
        client.execute("CREATE TABLE other.things (k int8)")
        client.execute(
            "CREATE FUNCTION go() RETURNS int LANGUAGE plpgsql AS "
            "$$BEGIN PERFORM set_config('search_path', 'other', false); RETURN 1; END$$"
        )
        expected = ROWS
        try:
            client.execute("SELECT go()")
            expected = 0
        except psycopg.errors.FeatureNotSupported:
            pass  # refused: nothing has changed
        row = client.execute("SELECT count(*) FROM things").fetchone()
        assert row == (expected,)


def test_statements_of_one_message_follow_the_search_path(
    make_databases: MakeDatabases, start_proxy: StartProxy
) -> None:
    shards = make_databases(3)
    proxy = start_proxy(shards, {"things": {"key": "k"}})
    with psycopg.connect(proxy.dsn(shards[0].rpartition("/")[2]), autocommit=True) as client:
        client.execute("CREATE TABLE things (k int8 PRIMARY KEY)")
        client.execute(f"INSERT INTO things VALUES {', '.join(f'({k})' for k in range(ROWS))}")
        client.execute("CREATE SCHEMA other")
        client.execute("CREATE TABLE other.things (k int8)")
        client.execute("SET search_path = other")
        cursor = client.execute("SET search_path = public; SELECT count(*) FROM things")
        assert cursor.nextset()
        assert cursor.fetchone() == (ROWS,)


def test_what_a_trigger_sets_stays_with_its_session(make_databases: MakeDatabases, start_proxy: StartProxy) -> None:
    shards = make_databases(3)
    proxy = start_proxy(shards, {"things": {"key": "k"}})
    dsn = proxy.dsn(shards[0].rpartition("/")[2])
    with psycopg.connect(dsn, autocommit=True) as client:
        client.execute("CREATE TABLE things (k int8 PRIMARY KEY)")
        client.execute(f"INSERT INTO things VALUES {', '.join(f'({k})' for k in range(ROWS))}")
        client.execute("CREATE SCHEMA other")
        client.execute("CREATE TABLE other.things (k int8)")
        client.execute("CREATE TABLE plain (k int8)")
        client.execute(
            "CREATE FUNCTION go() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
            "PERFORM set_config('search_path', 'other', false), set_config('work_mem', '7MB', false); RETURN NEW; END$$"
        )
        client.execute("CREATE TRIGGER go BEFORE INSERT ON plain FOR EACH ROW EXECUTE FUNCTION go()")
        client.execute("INSERT INTO plain VALUES (1)")
    with psycopg.connect(dsn, autocommit=True) as client:
        assert client.execute("SELECT count(*) FROM things").fetchone() == (ROWS,)
        assert client.execute("SHOW work_mem").fetchone() == ("4MB",)


def test_temporary_views_do_not_hide_or_read_placed_tables(
    make_databases: MakeDatabases, start_proxy: StartProxy
) -> None:
    shards = make_databases(3)
    proxy = start_proxy(shards, {"things": {"key": "k"}})
    with psycopg.connect(proxy.dsn(shards[0].rpartition("/")[2]), autocommit=True) as client:
        client.execute("CREATE TABLE things (k int8 PRIMARY KEY)")
        client.execute("CREATE TEMP TABLE mine (k int8)")
        for sql in (
            "CREATE TEMP VIEW x AS SELECT * FROM things",
            "CREATE VIEW pg_temp.things AS SELECT 1::int8 AS k",
            "ALTER TABLE mine RENAME TO things",
            "SET search_path = pg_temp",
        ):
            try:
                client.execute(sql)
            except psycopg.errors.FeatureNotSupported:
                continue
            raise AssertionError(f"not refused: {sql}")
