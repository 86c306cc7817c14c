"""A name may mean another table when the search_path changes: also to what was prepared before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    Connection = psycopg.Connection[tuple[Any, ...]]
    Open = Callable[[], Connection]

ROWS = 60


@pytest.fixture
def searched(town: Town) -> Iterator[Open]:
    """Rows in notes, which is on all shards; other.notes is at home, and empty. Gives more clients."""
    clients: list[Connection] = []

    def connect() -> Connection:
        clients.append(psycopg.connect(town.dsn, autocommit=True))
        return clients[-1]

    first = connect()
    first.execute(f"INSERT INTO notes VALUES {', '.join(f'({k})' for k in range(ROWS))}".encode())
    first.execute("CREATE SCHEMA other")
    first.execute("CREATE TABLE other.notes (k int8)")
    yield connect
    for client in clients:
        client.close()
    with psycopg.connect(town.dsn, autocommit=True) as last:
        last.execute("DROP TRIGGER IF EXISTS go ON plain")
        last.execute("DROP FUNCTION IF EXISTS go()")
        last.execute("DROP SCHEMA other CASCADE")


@pytest.fixture
def client(searched: Open) -> Connection:
    return searched()


def number(client: Connection, query: str = "SELECT count(*) FROM notes", *, prepare: bool = False) -> int:
    row = client.execute(query.encode(), prepare=prepare).fetchone()
    assert row is not None
    return int(row[0])


def test_prepared_statements_follow_the_search_path(client: Connection) -> None:
    client.execute("SET search_path = other")
    client.execute("PREPARE counted AS SELECT count(*) FROM notes")
    assert [number(client, prepare=True) for _ in range(2)] == [0, 0]
    assert number(client, "EXECUTE counted") == 0
    client.execute("SET search_path = public")
    assert [number(client, prepare=True), number(client, "EXECUTE counted")] == [ROWS, ROWS]
    client.execute("SET search_path = other")
    assert [number(client, prepare=True), number(client, "EXECUTE counted")] == [0, 0]


def test_a_function_that_sets_the_search_path(client: Connection) -> None:
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
    assert number(client) == expected


def test_statements_of_one_message_follow_the_search_path(client: Connection) -> None:
    client.execute("SET search_path = other")
    cursor = client.execute("SET search_path = public; SELECT count(*) FROM notes")
    assert cursor.nextset()
    assert cursor.fetchone() == (ROWS,)


def test_what_a_trigger_sets_stays_with_its_session(searched: Open, client: Connection) -> None:
    client.execute(
        "CREATE FUNCTION go() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
        "PERFORM set_config('search_path', 'other', false), set_config('work_mem', '7MB', false); RETURN NEW; END$$"
    )
    client.execute("CREATE TRIGGER go BEFORE INSERT ON plain FOR EACH ROW EXECUTE FUNCTION go()")
    client.execute("INSERT INTO plain VALUES (1)")
    other = searched()
    assert number(other) == ROWS
    assert other.execute("SHOW work_mem").fetchone() == ("4MB",)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TEMP VIEW x AS SELECT * FROM notes",
        "CREATE VIEW pg_temp.notes AS SELECT 1::int8 AS k",
        "ALTER TABLE mine RENAME TO notes",
        "SET search_path = pg_temp",
    ],
)
def test_temporary_relations_do_not_hide_or_read_placed_tables(client: Connection, sql: str) -> None:
    client.execute("CREATE TEMP TABLE mine (k int8)")
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        client.execute(sql.encode())
