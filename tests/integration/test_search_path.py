"""A name may mean another table when the search_path changes: also to what was prepared before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.wire.frontend import Sync
from wire_client import Twins, bind, describe, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import WireClient

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


BOTH = ("bobx", "annx")


@pytest.fixture
def homes(town: Town, connect: Callable[..., WireClient]) -> Iterator[Twins]:
    """Two roles; bobx has a schema with a table notes, and secretx has one that neither may use."""
    for role in BOTH:
        town.direct(f"DO $$ BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    twins = Twins(connect(town.one), connect(town.dsn))
    try:
        for text in (
            "INSERT INTO notes VALUES " + ", ".join(f"({key}, 'public')" for key in town.spread),
            "GRANT ALL ON notes TO PUBLIC",
            "CREATE SCHEMA bobx AUTHORIZATION bobx",
            "CREATE TABLE bobx.notes AS SELECT 1::int8 AS k, 'bobx'::text AS v",
            "GRANT ALL ON bobx.notes TO PUBLIC",
            "CREATE SCHEMA secretx",
            "CREATE TABLE secretx.notes AS SELECT 1::int8 AS k, 'secretx'::text AS v",
            "GRANT ALL ON secretx.notes TO PUBLIC",
        ):
            twins.query(text)
        yield twins
    finally:
        twins.close()
        with psycopg.connect(town.dsn, autocommit=True) as last:
            last.execute("REVOKE ALL ON notes FROM PUBLIC")
            last.execute("DROP SCHEMA IF EXISTS bobx, secretx CASCADE")
        town.direct("DROP SCHEMA IF EXISTS bobx, secretx CASCADE")


VALUES = "SELECT v FROM notes ORDER BY k"
NUMBER = "SELECT count(*), min(v) FROM notes"


def looked_up(twins: Twins, *texts: str) -> None:
    """Run statements, and after each look by simple query and by an unnamed statement what notes is."""
    for text in texts:
        twins.query(text)
        twins.query(VALUES)
        twins.same(parse(NUMBER), bind(), execute(), Sync())


ROLES = (
    "SET ROLE bobx",
    "RESET ROLE",
    "SET SESSION AUTHORIZATION bobx",
    "SET ROLE NONE",
    "SET SESSION AUTHORIZATION DEFAULT",
    "SELECT set_config('role', 'bobx', false)",
    "SELECT set_config('role', 'none', false)",
    "SET ROLE annx",
    "SET role TO 'bobx'",
    "DISCARD ALL",
)


def test_user_in_the_search_path_is_the_role_that_was_set(homes: Twins) -> None:
    homes.same(parse(NUMBER, "kept"), Sync())
    for text in ROLES:
        looked_up(homes, text)
        if text != "DISCARD ALL":
            homes.same(bind(statement="kept"), execute(), Sync())


def test_a_role_of_a_block_ends_with_it(homes: Twins) -> None:
    looked_up(homes, "BEGIN", "SET LOCAL ROLE bobx", "COMMIT", "BEGIN", "SET ROLE bobx", "ROLLBACK")
    looked_up(homes, "BEGIN", "SAVEPOINT a", "SET ROLE bobx", "ROLLBACK TO a", "SET LOCAL ROLE annx", "SET ROLE bobx")
    looked_up(homes, "COMMIT", "BEGIN", "SET LOCAL ROLE annx", "SELECT set_config('role', 'bobx', true)", "COMMIT")
    homes.query("RESET ROLE; SET ROLE bobx; SELECT v FROM notes; RESET ROLE; SELECT count(*) FROM notes")
    homes.query("SET ROLE bobx; SELECT 1/0")
    looked_up(homes, "SELECT current_user")


def test_schemas_that_the_role_may_not_use_are_passed_over(homes: Twins) -> None:
    looked_up(homes, "SET search_path = secretx, public", "SET ROLE bobx", "RESET ROLE")
    looked_up(homes, "GRANT USAGE ON SCHEMA secretx TO bobx", "SET ROLE bobx", "SET ROLE annx", "RESET ROLE")
    looked_up(homes, "REVOKE USAGE ON SCHEMA secretx FROM bobx", "SET ROLE bobx", "RESET ROLE")
    looked_up(homes, "ALTER SCHEMA secretx OWNER TO annx", "SET ROLE annx", "SET ROLE bobx", "RESET ROLE")
    looked_up(homes, "BEGIN", "GRANT USAGE ON SCHEMA secretx TO PUBLIC", "SET LOCAL ROLE bobx", "ROLLBACK")
    looked_up(homes, "SET ROLE bobx", "BEGIN", "SELECT 1", "COMMIT")


def test_other_sessions_hear_of_rights_on_schemas(homes: Twins, town: Town, connect: Callable[..., WireClient]) -> None:
    other = Twins(connect(town.one), connect(town.dsn))
    looked_up(other, "SET search_path = secretx, public", "SET ROLE bobx")
    other.same(parse(NUMBER, "kept"), bind(statement="kept"), execute(), Sync())
    for text in ("GRANT USAGE ON SCHEMA secretx TO bobx", "REVOKE USAGE ON SCHEMA secretx FROM bobx"):
        before = town.on_shard(0, "SELECT count(*) FROM pgchorus.catalog_change")
        homes.query(text)
        looked_up(other, "SELECT 1")
        other.same(bind(statement="kept"), execute(), Sync())
        assert town.on_shard(0, "SELECT count(*) FROM pgchorus.catalog_change") > before  # other proxies hear of it


def test_rights_that_a_role_inherits(homes: Twins, town: Town) -> None:
    looked_up(homes, "SET search_path = secretx, public", "ALTER SCHEMA secretx OWNER TO annx", "SET ROLE bobx")
    town.direct("GRANT annx TO bobx")
    try:
        homes.query("RESET ROLE")
        homes.query("CREATE SCHEMA IF NOT EXISTS secretx")  # the catalog is read again: what it has is known now
        homes.query("COMMENT ON SCHEMA secretx IS 'read'")
        looked_up(homes, "SET ROLE bobx", "RESET ROLE")
    finally:
        town.direct("REVOKE annx FROM bobx")


# --- what is set for a block alone ------------------------------------------------------------------------------------


def test_what_a_block_has_described_by_its_own_search_path_is_not_told_to_others(
    town: Town, connect: Callable[..., WireClient]
) -> None:
    one, other = connect(town.dsn), connect(town.dsn)
    one.rows("create table shown (b text); create schema elsewhere; create table elsewhere.shown (a int4)")
    ask = (parse("select * from shown"), describe("S"), Sync())
    try:
        one.rows("begin")
        one.rows("set local search_path = elsewhere")
        assert columns(one.ask(*ask)) == ["a"]
        assert columns(other.ask(*ask)) == ["b"]
        assert columns(one.ask(*ask)) == ["a"]
        one.rows("rollback")
        assert columns(one.ask(*ask)) == ["b"]
    finally:
        one.query("rollback; drop schema elsewhere cascade; drop table shown")


def columns(trace: list[Any]) -> list[str]:
    (found,) = (entry[1:] for entry in trace if entry[0] == "columns")
    return [name for name, *_ in found]


def test_literals_that_a_block_reads_by_settings_of_its_own_stay_with_it(
    town: Town, connect: Callable[..., WireClient]
) -> None:
    """One link serves both, and statements are prepared there once for all who prepare them."""
    key = town.spread[1]
    one, other = connect(town.dsn), connect(town.dsn)
    one.rows(f"insert into notes values ({key}, 'x')")
    text = f"select to_char(date '01/02/2020', 'YYYY-MM-DD') from notes where k = {key}"
    january, february = [("row", [b"2020-01-02"])], [("row", [b"2020-02-01"])]

    def prepared(client: WireClient, name: str) -> list[Any]:
        trace = client.ask(parse(text, name), bind(statement=name), execute(), Sync())
        return [entry for entry in trace if entry[0] in {"row", "error"}]

    one.rows("begin")
    one.rows("set local datestyle = 'SQL, DMY'")
    assert prepared(one, "before") == february
    one.rows("rollback")
    assert prepared(other, "s") == january
    for _ in range(3):
        assert prepared(other, "") == january
    other.rows("begin")
    assert prepared(other, "") == january
    other.rows("set local datestyle = 'SQL, DMY'")
    for name in ("", "", "t"):
        assert prepared(other, name) == february
    other.rows("rollback")
    assert prepared(other, "u") == january
